/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Allocators of guest_memfd memory, for modules that bring one.
 *
 * guest_memfd owns the file: its inode, page cache, faults, bindings to
 * memslots.  Where the pages come from, how large they are and what is promised
 * about them is the business of an allocator, chosen by a flag when the file is
 * created and the same for the file's whole life.
 *
 * The life of a file, as its allocator sees it:
 *
 *	order()		which size the file's folios have
 *	reserve()	once, before the file exists
 *	allocate()	for each index at which the file has no folio
 *	split_*()	when the host needs single pages of a large folio
 *	expose()	before the host maps a single page
 *	hide()		before the guest has it for itself again
 *	merge_later()	when pages may be a large folio again
 *	free()		for each folio that leaves the file
 *	flush()		after some have left it
 *	unreserve()	once, when the file has no folio any more
 *
 * allocate() returns a folio with one reference.  Without a free() hook
 * guest_memfd drops it as soon as the page cache has its own, and the last
 * folio_put(), whichever task calls it, gives the folio back: right for folios
 * whose type has its own way home, as those of the page allocator and of HugeTLB.
 * With a free() hook guest_memfd keeps the reference while the file has the
 * folio, and hands it to free(): right for memory that the last folio_put()
 * must not get hold of.  Others may still have references then; once the
 * allocator has the only one, the folio is its own again.
 */
#ifndef _LINUX_GUEST_MEMFD_H
#define _LINUX_GUEST_MEMFD_H

#include <linux/bits.h>
#include <linux/mmzone.h>
#include <linux/types.h>

struct folio;
struct mempolicy;
struct module;

/**
 * struct guest_memfd_stats - what an allocator has set aside for a file
 * @reserved: folios promised to the file and not allocated
 * @allocated: folios of the file that are allocated.  If that is more than the
 *             file has, some are being cleared, or have left the file and are
 *             still in use.
 */
struct guest_memfd_stats {
	unsigned long reserved;
	unsigned long allocated;
};

/**
 * struct guest_memfd_folio_stats - what has become of the large folios of a file
 * @nr_folios: number of folios by order
 * @nr_vmemmap: number of pages of the vmemmap that describe nothing but these
 * @nr_merges: number of pages of the file's size of which a part is to be merged
 */
struct guest_memfd_folio_stats {
	unsigned long nr_folios[MAX_FOLIO_ORDER + 1];
	unsigned long nr_vmemmap;
	unsigned long nr_merges;
};

/*
 * Flags of KVM_CREATE_GUEST_MEMFD for allocators that are not KVM's own; UAPI
 * has no other meaning for these.
 */
#define GUEST_MEMFD_FLAGS_MODULE	GENMASK_ULL(63, 60)

/**
 * struct guest_memfd_allocator_ops - a source of memory for guest_memfd files
 * @owner: the module that the hooks are in, THIS_MODULE.  It cannot be unloaded
 *         from before order() until a file is gone, unreserve() included.
 * @name: unique, for humans; shown in fdinfo and by tracepoints
 * @flag: the flag of KVM_CREATE_GUEST_MEMFD that selects this allocator, one
 *        bit, of GUEST_MEMFD_FLAGS_MODULE unless it's KVM's own; 0 for the one
 *        that serves files without such a flag
 * @flag_args: further flag bits that mean something together with @flag; other
 *             allocators may have the same
 * @can_mmap: the host may touch the pages, by mmap() and all that follows.
 *            Matters for single pages: the host maps no larger ones.  They
 *            must be ones that FOLL_LONGTERM can pin, i.e. not be from
 *            ZONE_MOVABLE or a CMA area.
 * @accounted: allocate() has charged the folios to the cgroups and counts them
 *             somewhere; they add nothing to NR_FILE_PAGES and are not on an LRU
 *             list.  Otherwise they are charged and counted as page cache.
 * @orders: the page sizes on offer on this host, a bitmap with bit n for order
 *          n.  May change as long as the host boots.
 * @order: the page order of a file that is created with these flags, or an error
 *         to return to userspace: -ENODEV if this host has no pages of that
 *         size.  KVM maps folios of PMD_ORDER and PUD_ORDER whole, those of
 *         another order by the next smaller of the two or by single pages.
 * @reserve: promise @nr_folios folios of @order, all or none, to a new file with
 *           these flags.  Returns what the other hooks get as @handle, not
 *           NULL, or an ERR_PTR, most likely -ENOMEM, to return to userspace.
 *           Optional; without it, the handle is NULL and allocate() may fail at
 *           any time.
 * @unreserve: the file is gone, and no hook will be called for @handle again.
 *             Folios that free() was called for may still be in use.  Nothing
 *             pins the module for their sake: what cannot be left to the last
 *             folio_put() has to be waited for before the module goes.  Cannot
 *             fail.  With @reserve, not without.
 * @allocate: the folio for @index, which is in pages, of the file's order, with
 *            one reference, not in any page cache, cleared and uptodate;
 *            guest_memfd_clear() helps.  The folio is physically contiguous and
 *            naturally aligned, and stays where it is, whatever it is split to.
 *            @mpol is the policy that
 *            mbind() set, or NULL where the policy of the current task decides;
 *            @ilx is its index for interleaving, in units of the file's page
 *            size.  May take long.  With @reserve, called for one index of a
 *            file at a time, and never for more folios than are reserved: one
 *            that has left the file counts no more once free() has returned or,
 *            without free(), guest_memfd has put it.
 *            Returns an ERR_PTR on failure, with nothing changed:
 *            -ENOMEM, there is no memory.  With a reservation only for what that
 *            does not cover: the nodes that the policy and the task's cpuset
 *            allow, or a cgroup, have no more; the host's access is SIGBUS then.
 *            -EAGAIN, the page that it takes has left this file but is still in
 *            use: guest_memfd asks again in a moment.
 *            -EINTR, a fatal signal is pending.
 * @free: @folio has left the file, or did not get into it; the caller's
 *        reference is the allocator's now.  Cannot fail.  The mapping's
 *        invalidate lock may be held, for writing.  A page of it may have
 *        failed (folio_contain_hwpoisoned_page()) and must not be used again.
 *        Optional, see above.
 * @flush: folios have left the file; if they could go back to their source, and
 *         that has been left for later, do it now.  May sleep, cannot fail.  Not
 *         always called before unreserve().  Optional.
 * @stats: fill in what @handle stands for.  Optional.
 * @folio_stats: add to @stats what has become of the page of the file's size that
 *               starts with @folio, which the invalidate lock keeps in the file.
 *               Optional; without it, no folio has another size.
 * @can_split: can the folios of files with these page sizes be split on this
 *             host?  A file of large folios that converts in place needs that, and
 *             the hooks below.  Without @can_split there are no such files.
 * @split_prepare: allocate what it takes to make single pages of @nr pages of
 *                 @folio from @first on, and change nothing.  More pages may
 *                 become single ones; the others stay in folios as large as may
 *                 be.  guest_memfd has a reference, and splits no other part of
 *                 the same huge page before the split is committed or
 *                 cancelled.  Returns what to pass on, NULL if @folio is a single
 *                 page, or an ERR_PTR, most likely -ENOMEM.
 * @split_commit: split.  @folio is locked and in the page cache, guest_memfd has one
 *                more reference, and holds the invalidate lock, for reading at
 *                least.  No task has mapped it; a guest may have.  Lock and reference
 *                are those of the first page's folio afterwards.  Returns 0; or
 *                -EAGAIN if there is another reference, with nothing changed and
 *                @split still to be committed or cancelled.
 * @split_cancel: do not split.
 * @merge_later: the naturally aligned block of @order that starts with @folio may be
 *               one folio again.  Until a part of it is split, the allocator may
 *               merge it, after a delay it sees fit; then it calls
 *               guest_memfd_merged().  The invalidate lock is held for writing.
 *               Cannot fail.
 * @expose: a single page is about to be mapped by the host.  The folio is locked;
 *          this may be called again.  Optional.
 * @exposed: was a single page exposed, and not hidden since?  Optional; without it,
 *           all are.
 * @hide: a single page becomes private: it is not mapped, and has no reference but
 *        the page cache's and guest_memfd's.  Or it is about to leave the file, and
 *        others may have references.  The folio is locked.  Optional.
 *
 * Hooks are called in process context, may sleep and allocate, and may be called
 * for several files, and for several indices of one file, at a time.
 */
struct guest_memfd_allocator_ops {
	struct module *owner;
	const char *name;
	u64 flag;
	u64 flag_args;
	bool can_mmap;
	bool accounted;

	unsigned long (*orders)(void);
	int (*order)(u64 flags);

	void *(*reserve)(u64 flags, unsigned int order, unsigned long nr_folios);
	void (*unreserve)(void *handle);
	struct folio *(*allocate)(void *handle, pgoff_t index,
				  struct mempolicy *mpol, pgoff_t ilx);
	void (*free)(void *handle, struct folio *folio);
	void (*flush)(void *handle);
	void (*stats)(void *handle, struct guest_memfd_stats *stats);
	void (*folio_stats)(const struct folio *folio,
			    struct guest_memfd_folio_stats *stats);

	bool (*can_split)(void);
	void *(*split_prepare)(struct folio *folio, unsigned long first,
			       unsigned long nr);
	int (*split_commit)(void *split);
	void (*split_cancel)(void *split);
	void (*merge_later)(struct folio *folio, unsigned int order);
	void (*expose)(struct folio *folio);
	bool (*exposed)(const struct folio *folio);
	void (*hide)(struct folio *folio);
};

int guest_memfd_register_allocator(const struct guest_memfd_allocator_ops *ops);
void guest_memfd_unregister_allocator(const struct guest_memfd_allocator_ops *ops);

int guest_memfd_clear(struct folio *folio);
void guest_memfd_merged(struct folio *folio);

#endif /* _LINUX_GUEST_MEMFD_H */
