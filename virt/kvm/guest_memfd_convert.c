// SPDX-License-Identifier: GPL-2.0-only
/*
 * Conversion of guest_memfd memory in place, between private and shared.
 *
 * A conversion changes the attributes of files and the mappings of guests.  It
 * allocates, splits and moves no memory.  Three rules make it safe:
 *
 *  - No mapping of a guest spans pages of both states.  Where a mapping is made,
 *    the attributes bound its order, and each change of them runs within an
 *    invalidation of the huge pages around it.
 *  - The host maps single pages, which it has found shared under the invalidate
 *    lock.
 *  - A page becomes private only when it is not mapped by the host, and nothing
 *    but the page cache has a reference to it.  Folios that were never exposed to
 *    the host, large ones above all, cannot have another reference.
 *
 * A conversion covers any number of ranges, of one file or of several.  All that
 * may fail is done first, for all of them, by kvm_gmem_convert_prepare(): nothing
 * has changed if it does, but that the host has to fault pages in again.  From
 * there to the end of kvm_gmem_convert_commit() all files are locked.
 *
 * Ranges are worked off in chunks, none of which a mapping of a guest straddles.
 * Concurrent invalidations are merged to one that spans them all: one for the
 * whole of a large range could stop other faults for minutes.
 */
#include <linux/fs.h>
#include <linux/kvm_host.h>
#include <linux/list.h>
#include <linux/maple_tree.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/swap.h>
#include <linux/uaccess.h>

#include "guest_memfd.h"
#include "kvm_mm.h"

#include <trace/events/guest_memfd.h>

/*
 * A prepared store may hold as many nodes as fill 8 kB.  This bounds what a task
 * can make the kernel set aside.
 */
#define KVM_GMEM_CONVERT_MAX_FILES	64

/* How often to look at a page of which another task may have a short reference */
#define UNUSED_TRIES			4

/* The batches of this CPU may be drained for one page, those of all for another. */
#define MAX_ATTEMPTS			3

/**
 * struct gmem_convert_file - a file of a conversion
 * @entry: in gmem_conversion::files
 * @file: the file, with a reference
 * @gi: its inode
 * @mas: the store for the first chunk of its first range
 * @prepared: that is prepared
 * @locked: the invalidate lock is held for writing
 */
struct gmem_convert_file {
	struct list_head entry;
	struct file *file;
	struct gmem_inode *gi;
	struct ma_state mas;
	bool prepared;
	bool locked;
};

/**
 * struct gmem_range - pages of a file that are to be converted
 * @entry: in gmem_conversion::ranges
 * @cf: the file
 * @start: first page; not in the wanted state
 * @end: page after the last one, which is not in the wanted state
 */
struct gmem_range {
	struct list_head entry;
	struct gmem_convert_file *cf;
	pgoff_t start;
	pgoff_t end;
};

/* Go from chunk to chunk of a range; see the top of this file. */
#define for_each_chunk(range, first, next)				\
	for (first = (range)->start;					\
	     first < (range)->end && (next = chunk_end(range, first));	\
	     first = next)

static pgoff_t chunk_end(const struct gmem_range *range, pgoff_t first)
{
	const pgoff_t nr = max(1UL << range->cf->gi->order, SZ_1G >> PAGE_SHIFT);
	const pgoff_t end = min(round_down(first, nr) + nr, range->end);
	struct gmem_file *f = range->cf->file->private_data;
	unsigned long bound = first;
	pgoff_t run, last;

	if (!xa_find(&f->bindings, &bound, range->end - 1, XA_PRESENT))
		bound = range->end;
	if (bound <= end)
		return end;

	/*
	 * A file may be so large that even its chunks are too many to look at.  Where
	 * no guest maps it, go on to the next change of state.  No further: one RCU
	 * callback frees all that a store removes, see kvm_gmem_attrs_destroy().
	 */
	kvm_gmem_run(range->cf->gi, end - 1, &run, &last);
	return min(bound - 1, last) + 1;
}

/**
 * kvm_gmem_convert_init - begin a conversion
 * @conv: the conversion
 * @kvm: the VM of all files
 * @private: the state that pages are to have
 *
 * Context: any.  kvm_gmem_convert_release() ends it, with success or not.
 */
void kvm_gmem_convert_init(struct gmem_conversion *conv, struct kvm *kvm,
			   bool private)
{
	*conv = (struct gmem_conversion) {
		.kvm = kvm,
		.private = private,
		.files = LIST_HEAD_INIT(conv->files),
		.ranges = LIST_HEAD_INIT(conv->ranges),
		.edges = LIST_HEAD_INIT(conv->edges),
	};
}

static struct gmem_convert_file *convert_add_file(struct gmem_conversion *conv,
						  struct file *file)
{
	struct gmem_convert_file *cf;

	list_for_each_entry(cf, &conv->files, entry)
		if (cf->file == file)
			return cf;

	if (conv->nr_files == KVM_GMEM_CONVERT_MAX_FILES)
		return ERR_PTR(-E2BIG);

	cf = kzalloc_obj(*cf, GFP_KERNEL_ACCOUNT);
	if (!cf)
		return ERR_PTR(-ENOMEM);

	cf->file = get_file(file);
	cf->gi = GMEM_I(file_inode(file));
	list_add_tail(&cf->entry, &conv->files);
	conv->nr_files++;
	return cf;
}

/**
 * kvm_gmem_convert_add - add a range of a file to a conversion
 * @conv: the conversion
 * @file: a file of the VM that converts in place; the conversion gets a reference
 *        of its own
 * @start: first page of the range
 * @end: page after the range, not beyond the end of the file
 *
 * Nothing is added if all of the range is in the wanted state.
 *
 * Context: process context, may sleep.  slots_lock is held until the conversion is
 *          released: it keeps the attributes of the VM's files.
 * Return: 0; -ENOMEM; or -E2BIG if there are too many files.
 */
int kvm_gmem_convert_add(struct gmem_conversion *conv, struct file *file,
			 pgoff_t start, pgoff_t end)
{
	struct gmem_convert_file *cf;
	struct gmem_range *range;

	lockdep_assert_held(&conv->kvm->slots_lock);

	if (!kvm_gmem_trim(GMEM_I(file_inode(file)), &start, &end, conv->private))
		return 0;

	cf = convert_add_file(conv, file);
	if (IS_ERR(cf))
		return PTR_ERR(cf);

	range = kzalloc_obj(*range, GFP_KERNEL_ACCOUNT);
	if (!range)
		return -ENOMEM;

	range->cf = cf;
	range->start = start;
	range->end = end;
	list_add_tail(&range->entry, &conv->ranges);
	return 0;
}

/**
 * kvm_gmem_convert_add_gfns - add what backs a range of gfns to a conversion
 * @conv: the conversion
 * @start: first gfn of the range
 * @end: gfn after the range
 *
 * Adds a range for each memslot whose file converts in place.
 *
 * Context: as kvm_gmem_convert_add().
 * Return: as kvm_gmem_convert_add().
 */
int kvm_gmem_convert_add_gfns(struct gmem_conversion *conv, gfn_t start, gfn_t end)
{
	struct kvm_memslot_iter iter;
	int r;

	lockdep_assert_held(&conv->kvm->slots_lock);

	if (!conv->kvm->has_in_place)
		return 0;

	kvm_for_each_memslot_in_gfn_range(&iter, kvm_memslots(conv->kvm), start, end) {
		struct kvm_memory_slot *slot = iter.slot;
		const gfn_t offset = slot->gmem.pgoff - slot->base_gfn;
		struct file *file;

		if (!kvm_slot_in_place(slot))
			continue;

		/*
		 * A file that is being closed has the state of its memslots until
		 * kvm_gmem_release() gets slots_lock.
		 */
		file = get_file_active(&slot->gmem.file);
		if (!file)
			return -EAGAIN;

		r = kvm_gmem_convert_add(conv, file,
					 max(start, slot->base_gfn) + offset,
					 min(end, slot->base_gfn + slot->npages) +
					 offset);
		fput(file);
		if (r)
			return r;
		cond_resched();
	}

	return 0;
}

/* The first store of each file.  The others extend what it has stored. */
static int convert_prepare_attrs(struct gmem_conversion *conv)
{
	struct gmem_range *range;
	int r;

	list_for_each_entry(range, &conv->ranges, entry) {
		struct gmem_convert_file *cf = range->cf;

		if (cf->prepared)
			continue;

		r = kvm_gmem_attrs_prepare(cf->gi, &cf->mas, range->start,
					   chunk_end(range, range->start),
					   conv->private, GFP_KERNEL);
		if (r)
			return r;
		cf->prepared = true;
	}

	return 0;
}

/*
 * What the guest keeps mapped next to the range, it does not have to fault in
 * again.  Without the memory for that it has to: no reason to fail.
 */
static void convert_prepare_edges(struct gmem_conversion *conv)
{
	struct kvm_memory_slot *slot, *last = NULL;
	struct gmem_range *range;
	unsigned long index;

	list_for_each_entry(range, &conv->ranges, entry) {
		struct gmem_file *f = range->cf->file->private_data;

		xa_for_each_range(&f->bindings, index, slot, range->start,
				  range->end - 1) {
			struct kvm_gfn_range gfns =
				kvm_gmem_gfn_range(slot, range->start, range->end);

			/* A binding may be several entries. */
			if (slot == last)
				continue;
			last = slot;

			if (kvm_arch_gmem_prepare_edges(conv->kvm, slot, gfns.start,
							gfns.end, &conv->edges))
				return;
		}
	}
}

/*
 * Is the folio, a single page that is locked, used by nothing but the page cache?
 * The caller and, with a free() hook, guest_memfd have a reference as well.
 */
static bool convert_unused(const struct gmem_inode *gi, struct folio *folio)
{
	const int refs = 2 + !!gi->ops->free;
	int tries, nr;
	/*
	 * Memory failure marks a page that it has, or is about to have, a
	 * reference to.  No task gets such a page in either state.  It needs none
	 * to one that has an owner, which hides and exposes it.  Read the mark
	 * once: with a pin the two would add up.
	 */
	const bool poisoned = !gi->ops->hide && folio_test_hwpoison(folio);

	for (tries = 0; tries < UNUSED_TRIES; tries++) {
		/*
		 * GUP-fast takes a reference, and then looks at the page table
		 * again.  It finds that the page was unmapped, or its reference is
		 * found here.
		 */
		smp_mb();
		nr = folio_ref_count(folio);
		if (nr == refs || (poisoned && nr == refs + 1))
			return true;

		/* A fault or merge of another task may be about to put it. */
		cond_resched();
	}

	return false;
}

/* Take a single page away from the host.  Returns false if it is in use. */
static bool convert_hide_folio(struct gmem_inode *gi, struct folio *folio)
{
	const struct guest_memfd_allocator_ops *ops = gi->ops;
	bool unused;

	/*
	 * A fault that has found the page shared keeps the folio lock until the
	 * page is mapped; later ones wait for the invalidate lock.
	 */
	folio_lock(folio);
	if (folio_mapped(folio))
		unmap_mapping_pages(gi->vfs_inode.i_mapping, folio->index, 1, false);

	unused = !folio_mapped(folio) && convert_unused(gi, folio);
	if (unused && ops->hide)
		ops->hide(folio);

	folio_unlock(folio);
	return unused;
}

/*
 * Take pages away from the host, in ascending order.  Large folios, and pages that
 * the host has not touched since they became shared, were never within its reach.
 */
static int convert_hide_run(struct gmem_conversion *conv, struct gmem_inode *gi,
			    pgoff_t index, pgoff_t last)
{
	struct address_space *mapping = gi->vfs_inode.i_mapping;
	struct folio_batch fbatch;
	struct folio *folio;
	int r = 0;

	folio_batch_init(&fbatch);
	while (!r && filemap_get_folios(mapping, &index, last, &fbatch)) {
		while ((folio = folio_batch_next(&fbatch))) {
			if (folio_test_large(folio) ||
			    (gi->ops->exposed && !gi->ops->exposed(folio)))
				continue;
			if (convert_hide_folio(gi, folio))
				continue;

			folio_get(folio);
			conv->busy = folio;
			conv->bad = folio->index;
			r = -EAGAIN;
			break;
		}
		/* folio_batch_release() would drain the batches of this CPU. */
		folios_put(&fbatch);

		if (!r && fatal_signal_pending(current))
			r = -EINTR;
		cond_resched();
	}

	return r;
}

static int convert_hide_range(struct gmem_conversion *conv,
			      struct gmem_range *range)
{
	struct gmem_inode *gi = range->cf->gi;
	pgoff_t first, next, start, last;
	int r;

	for_each_chunk(range, first, next) {
		if (fatal_signal_pending(current))
			return -EINTR;

		/* All at once, which is cheaper than page by page */
		unmap_mapping_pages(gi->vfs_inode.i_mapping, first, next - first,
				    false);

		for (start = first;
		     kvm_gmem_next_run(gi, &start, next, true, &last);
		     start = last + 1) {
			r = convert_hide_run(conv, gi, start, last);
			if (r)
				return r;
			/* Not only where there are pages: there may be many runs. */
			if (fatal_signal_pending(current))
				return -EINTR;
			cond_resched();
		}
	}

	return 0;
}

#ifdef CONFIG_HAVE_KVM_ARCH_GMEM_CONVERT
/* Prepare to take, or take, from the guest what the file has of private pages. */
static int convert_share_run(struct gmem_conversion *conv, struct gmem_inode *gi,
			     pgoff_t index, pgoff_t last, bool commit)
{
	struct kvm *kvm = conv->kvm;
	pgoff_t first = index, end;
	struct folio_batch fbatch;
	struct folio *folio;
	kvm_pfn_t pfn;
	int r = 0;

	folio_batch_init(&fbatch);
	while (!r && filemap_get_folios(gi->vfs_inode.i_mapping, &index, last,
					&fbatch)) {
		while (!r && (folio = folio_batch_next(&fbatch))) {
			first = max(first, folio->index);
			end = min(last + 1, folio_next_index(folio));
			pfn = folio_pfn(folio) + (first - folio->index);

			if (!commit) {
				r = kvm_arch_gmem_prepare_shared(pfn, end - first);
				continue;
			}
			kvm_arch_gmem_make_shared(kvm, pfn, end - first);
			if (kvm->vm_bugged)
				r = -EIO;
		}
		folios_put(&fbatch);
		cond_resched();
	}

	return r;
}

static int convert_share_chunk(struct gmem_conversion *conv,
			       struct gmem_range *range, pgoff_t first, pgoff_t next,
			       bool commit)
{
	struct gmem_inode *gi = range->cf->gi;
	pgoff_t start, last;
	int r = 0;

	for (start = first;
	     !r && kvm_gmem_next_run(gi, &start, next, false, &last);
	     start = last + 1) {
		r = convert_share_run(conv, gi, start, last, commit);
		if (!r && !commit && fatal_signal_pending(current))
			r = -EINTR;
		cond_resched();
	}

	return r;
}

static int convert_prepare_shared(struct gmem_conversion *conv)
{
	struct gmem_range *range;
	pgoff_t first, next;
	int r;

	list_for_each_entry(range, &conv->ranges, entry) {
		for_each_chunk(range, first, next) {
			if (fatal_signal_pending(current))
				return -EINTR;

			r = convert_share_chunk(conv, range, first, next, false);
			if (r)
				return r;
		}
	}

	return 0;
}

/* If this fails, the VM is bugged. */
static void convert_make_shared(struct gmem_conversion *conv,
				struct gmem_range *range, pgoff_t first, pgoff_t next)
{
	convert_share_chunk(conv, range, first, next, true);
}
#else
static int convert_prepare_shared(struct gmem_conversion *conv)
{
	return 0;
}

static void convert_make_shared(struct gmem_conversion *conv,
				struct gmem_range *range, pgoff_t first, pgoff_t next)
{
}
#endif

/**
 * kvm_gmem_convert_prepare - do of a conversion all that may fail
 * @conv: the conversion, with all of its ranges
 *
 * If this fails, contents, attributes and mappings of guests are as they were.
 * Mappings of the host are gone, and come back by faults.
 *
 * Context: process context, sleeps; slots_lock is held.  Takes the invalidate lock
 *          of each file, until kvm_gmem_convert_release().
 * Return: 0; -ENOMEM; -EINTR on a fatal signal; -EAGAIN if the host uses a page
 *         that is to become private: conv->bad is its index in the file, and
 *         conv->busy its folio.
 */
int kvm_gmem_convert_prepare(struct gmem_conversion *conv)
{
	struct gmem_convert_file *cf;
	struct gmem_range *range;
	int r;

	lockdep_assert_held(&conv->kvm->slots_lock);

	list_for_each_entry(cf, &conv->files, entry) {
		struct address_space *mapping = cf->file->f_mapping;

		/* Two tasks cannot lock files of one VM in different orders. */
		down_write_nest_lock(&mapping->invalidate_lock,
				     &conv->kvm->slots_lock);
		cf->locked = true;
	}

	r = convert_prepare_attrs(conv);
	if (!r)
		convert_prepare_edges(conv);
	if (!r && !conv->private)
		r = convert_prepare_shared(conv);
	if (r || !conv->private)
		return r;

	list_for_each_entry(range, &conv->ranges, entry) {
		r = convert_hide_range(conv, range);
		if (r)
			return r;
	}

	return 0;
}

/*
 * Zap what guests have mapped of the chunk, and keep them from mapping anything of
 * the huge pages around it.
 */
static void convert_zap(struct gmem_conversion *conv, struct gmem_range *range,
			pgoff_t first, pgoff_t next)
{
	struct gmem_file *f = range->cf->file->private_data;
	const gfn_t nr = 1ULL << range->cf->gi->order;
	struct kvm_memory_slot *slot, *last = NULL;
	struct kvm *kvm = conv->kvm;
	unsigned long index;
	bool flush = false;

	KVM_MMU_LOCK(kvm);
	kvm_mmu_invalidate_start(kvm);

	xa_for_each_range(&f->bindings, index, slot, first, next - 1) {
		struct kvm_gfn_range gfns = kvm_gmem_gfn_range(slot, first, next);

		if (slot == last)
			continue;
		last = slot;

		gfns.attr_filter = conv->private ? KVM_FILTER_SHARED :
						   KVM_FILTER_PRIVATE;

		/* It could have found one state in all of a huge page. */
		kvm_gmem_invalidate_around(kvm, nr, &gfns);

		flush |= kvm_arch_gmem_split_edges(kvm, slot, gfns.start, gfns.end,
						   &conv->edges);
		/*
		 * One zap for all of the chunk, whatever changes of it: zapping
		 * page by page would not let other tasks have mmu_lock.
		 */
		flush |= kvm_unmap_gfn_range(kvm, &gfns);
#ifdef CONFIG_HAVE_KVM_ARCH_GMEM_INVALIDATE
		kvm_arch_gmem_invalidate_range(kvm, &gfns);
#endif
	}

	if (flush)
		kvm_flush_remote_tlbs(kvm);
	KVM_MMU_UNLOCK(kvm);
}

static void convert_end_zap(struct gmem_conversion *conv)
{
	KVM_MMU_LOCK(conv->kvm);
	kvm_mmu_invalidate_end(conv->kvm);
	KVM_MMU_UNLOCK(conv->kvm);
}

/*
 * The nodes that it takes to extend what the chunk before has stored.  It is too
 * late to fail, and they are few.
 */
static void convert_prepare_chunk(struct gmem_conversion *conv,
				  struct gmem_convert_file *cf,
				  pgoff_t first, pgoff_t next)
{
	if (cf->prepared)
		return;

	while (kvm_gmem_attrs_prepare(cf->gi, &cf->mas, first, next, conv->private,
				      GFP_KERNEL | __GFP_NOFAIL))
		cond_resched();
	cf->prepared = true;
}

static int convert_chunk(struct gmem_conversion *conv, struct gmem_range *range,
			 pgoff_t first, pgoff_t next)
{
	struct gmem_convert_file *cf = range->cf;
	struct gmem_file *f = cf->file->private_data;
	struct kvm *kvm = conv->kvm;
	unsigned long index = first;
	bool bound;
	int r = 0;

	convert_prepare_chunk(conv, cf, first, next);

	/* An invalidation has to have a range. */
	bound = xa_find(&f->bindings, &index, next - 1, XA_PRESENT);
	if (bound)
		convert_zap(conv, range, first, next);
	if (!conv->private && !kvm->vm_bugged)
		convert_make_shared(conv, range, first, next);

	/*
	 * If taking pages from the guest has failed, which bugs the VM, they are
	 * still the guest's: the host must not get at them.
	 */
	if (kvm->vm_bugged && !conv->private) {
		kvm_gmem_attrs_cancel(&cf->mas);
		r = -EIO;
	} else {
		kvm_gmem_attrs_store(cf->gi, &cf->mas, first, next, conv->private);
	}
	cf->prepared = false;

	if (bound)
		convert_end_zap(conv);
	return kvm->vm_bugged ? -EIO : r;
}

/*
 * Ask for one folio of each block of private pages that the range has a part of, and
 * that is in parts.
 */
static void convert_merge_huge_page(struct gmem_inode *gi, struct gmem_range *range,
				    pgoff_t huge)
{
	struct xarray *pages = &gi->vfs_inode.i_mapping->i_pages;
	const pgoff_t nr = 1UL << gi->order;
	pgoff_t first, last, index, start;
	unsigned int order;
	struct folio *folio;

	folio = xa_load(pages, huge);
	if (!folio || folio_order(folio) >= gi->order)
		return;

	start = max(range->start, huge);
	/* The range is private by now, so there is one such run. */
	if (!kvm_gmem_run(gi, start, &first, &last))
		return;
	first = max(first, huge);
	last = min(last, huge + nr - 1);

	for (index = first; index <= last; index += 1UL << order) {
		order = min_t(unsigned int, gi->order, ilog2(last - index + 1));
		if (index)
			order = min_t(unsigned int, order, __ffs(index));

		if (index + (1UL << order) <= range->start || index >= range->end)
			continue;

		folio = xa_load(pages, index);
		if (folio && folio->index == index && folio_order(folio) < order)
			gi->ops->merge_later(folio, order);
	}
}

static void convert_merge(struct gmem_range *range)
{
	struct gmem_inode *gi = range->cf->gi;
	struct xarray *pages = &gi->vfs_inode.i_mapping->i_pages;
	const pgoff_t nr = 1UL << gi->order;
	unsigned long index = range->start;
	pgoff_t huge;

	if (!gi->order || !gi->ops->merge_later)
		return;

	while (xa_find(pages, &index, range->end - 1, XA_PRESENT)) {
		huge = round_down(index, nr);
		convert_merge_huge_page(gi, range, huge);
		index = huge + nr;
		if (index >= range->end)
			break;
		cond_resched();
	}
}

/**
 * kvm_gmem_convert_commit - do a conversion that is prepared
 * @conv: the conversion
 *
 * Context: process context, sleeps; slots_lock and the invalidate locks are held.
 * Return: 0, or -EIO if the VM is bugged.  Then a part of the ranges may be
 *         converted; what could not be taken from the guest is private.
 */
int kvm_gmem_convert_commit(struct gmem_conversion *conv)
{
	struct gmem_range *range;
	pgoff_t first, next;
	int r;

	list_for_each_entry(range, &conv->ranges, entry) {
		for_each_chunk(range, first, next) {
			r = convert_chunk(conv, range, first, next);
			if (r)
				return r;
			cond_resched();
		}
	}

	/* After the last store: what is asked for is not to be split again. */
	if (conv->private)
		list_for_each_entry(range, &conv->ranges, entry)
			convert_merge(range);

	return 0;
}

/**
 * kvm_gmem_convert_release - end a conversion
 * @conv: the conversion; more ranges can be added afterwards
 * @error: why it was not committed, or 0
 *
 * Drops the locks of the files, and what was prepared and is not needed.
 * conv->busy stays, with its reference.
 *
 * Context: process context, may sleep; slots_lock is still held.
 */
void kvm_gmem_convert_release(struct gmem_conversion *conv, int error)
{
	struct gmem_convert_file *cf, *next_cf;
	struct gmem_range *range, *next_range;

	list_for_each_entry_safe(range, next_range, &conv->ranges, entry) {
		trace_guest_memfd_convert(range->cf->gi->vfs_inode.i_ino,
					  range->start, range->end,
					  conv->private, error);
		kfree(range);
	}

	list_for_each_entry_safe(cf, next_cf, &conv->files, entry) {
		if (cf->prepared)
			kvm_gmem_attrs_cancel(&cf->mas);
		if (cf->locked)
			filemap_invalidate_unlock(cf->file->f_mapping);
		/* If it's the last reference, release() comes later. */
		fput(cf->file);
		kfree(cf);
	}

	kvm_arch_gmem_free_edges(&conv->edges);
	INIT_LIST_HEAD(&conv->ranges);
	INIT_LIST_HEAD(&conv->files);
	conv->nr_files = 0;
}

/**
 * kvm_gmem_convert_again - is it worthwhile to try a conversion again?
 * @conv: the conversion, after kvm_gmem_convert_release(); it has no ranges
 *
 * LRU and mlock batches of the CPUs have references to pages.  If such a batch may
 * be why a page was in use, drain those of this CPU, and those of all if that was not
 * enough.
 *
 * Context: process context, sleeps.  No lock is held: draining waits for a kworker
 *          on each CPU, which a task of higher priority may keep from running.
 * Return: true to try again; false also if the conversion did not fail with -EAGAIN.
 */
bool kvm_gmem_convert_again(struct gmem_conversion *conv)
{
	struct folio *busy = conv->busy;
	bool again;

	if (!busy)
		return false;

	conv->busy = NULL;
	again = ++conv->attempts < MAX_ATTEMPTS &&
		conv->drained != LRU_CACHE_DRAINED_ALL;
	if (again)
		lru_cache_drain_for_folio(busy, 1, &conv->drained);
	folio_put(busy);

	return again;
}

static int convert_file_once(struct gmem_conversion *conv, struct file *file,
			     pgoff_t start, pgoff_t end)
{
	struct kvm *kvm = conv->kvm;
	int r;

	if (mutex_lock_killable(&kvm->slots_lock))
		return -EINTR;

	if (kvm->vm_dead) {
		r = -EIO;
	} else {
		r = kvm_gmem_convert_add(conv, file, start, end);
		if (!r)
			r = kvm_gmem_convert_prepare(conv);
		if (!r)
			r = kvm_gmem_convert_commit(conv);
		kvm_gmem_convert_release(conv, r);
	}

	mutex_unlock(&kvm->slots_lock);
	return r;
}

static int convert_file(struct file *file, pgoff_t start, pgoff_t end, bool private,
			pgoff_t *bad)
{
	struct gmem_file *f = file->private_data;
	struct gmem_conversion conv;
	int r;

	kvm_gmem_convert_init(&conv, f->kvm, private);
	do {
		r = convert_file_once(&conv, file, start, end);
	} while (kvm_gmem_convert_again(&conv));

	*bad = conv.bad;
	return r;
}

/**
 * kvm_gmem_set_memory_attributes - KVM_SET_MEMORY_ATTRIBUTES2 on a file
 * @file: the file
 * @argp: struct kvm_memory_attributes2 of userspace
 *
 * Context: process context, sleeps.
 * Return: see Documentation/virt/kvm/api.rst.
 */
long kvm_gmem_set_memory_attributes(struct file *file, void __user *argp)
{
	struct gmem_inode *gi = GMEM_I(file_inode(file));
	struct gmem_file *f = file->private_data;
	struct kvm_memory_attributes2 attrs;
	pgoff_t start, end, bad;
	bool has_private;
	int r;

	BUILD_BUG_ON(sizeof(attrs) != 128);

	has_private = kvm_arch_has_private_mem(f->kvm);
	if (has_private && !gi->in_place)
		return -ENOTTY;

	if (copy_from_user(&attrs, argp, sizeof(attrs)))
		return -EFAULT;

	if (attrs.flags || memchr_inv(attrs.reserved, 0, sizeof(attrs.reserved)))
		return -EINVAL;
	if (!has_private || (attrs.attributes & ~KVM_MEMORY_ATTRIBUTE_PRIVATE))
		return -EINVAL;
	if (!attrs.size || attrs.offset + attrs.size < attrs.offset)
		return -EINVAL;
	if (!PAGE_ALIGNED(attrs.offset) || !PAGE_ALIGNED(attrs.size))
		return -EINVAL;
	if (attrs.offset + attrs.size > i_size_read(file_inode(file)))
		return -EINVAL;

	start = attrs.offset >> PAGE_SHIFT;
	end = (attrs.offset + attrs.size) >> PAGE_SHIFT;
	r = convert_file(file, start, end,
			 attrs.attributes & KVM_MEMORY_ATTRIBUTE_PRIVATE, &bad);
	if (r != -ENOMEM && r != -EAGAIN)
		return r;

	attrs.error_offset = r == -EAGAIN ? (u64)bad << PAGE_SHIFT : attrs.offset;
	if (copy_to_user(argp, &attrs, sizeof(attrs)))
		return -EFAULT;
	return r;
}
