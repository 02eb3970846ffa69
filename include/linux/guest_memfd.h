/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Allocators of guest_memfd memory.
 *
 * guest_memfd owns the file: its inode, page cache, faults, bindings to
 * memslots.  Where the pages come from, how large they are and what is promised
 * about them is the business of an allocator, chosen by a flag when the file is
 * created and the same for the file's whole life.
 */
#ifndef _LINUX_GUEST_MEMFD_H
#define _LINUX_GUEST_MEMFD_H

#include <linux/types.h>

struct folio;
struct mempolicy;

/**
 * struct guest_memfd_allocator_ops - a source of memory for guest_memfd files
 * @name: for humans
 * @flag: the flag of KVM_CREATE_GUEST_MEMFD that selects this allocator, 0 for
 *        the one that serves files without such a flag
 * @flag_args: further flag bits that mean something to this allocator only
 * @can_mmap: the host may touch the pages, by mmap() and all that follows
 * @accounted: allocate() has charged the folios to whatever they are charged
 *             to; the page cache is to leave charging and the LRU alone
 * @orders: the page sizes on offer on this host, a bitmap with bit n for order
 *          n.  May change as long as the host boots.
 * @order: the page order of a file that is created with these flags, or -ENODEV
 *         if this host has no pages of that size.
 * @reserve: promise @nr_folios folios of @order, all or none, to a new file.
 *           Returns what the other hooks get as @handle, or an ERR_PTR:
 *           -ENOMEM if the promise cannot be made.  Optional.  Process context,
 *           no locks held.
 * @unreserve: the file is gone and its folios have been put, though somebody
 *             may still hold references to some.  Cannot fail.  With @reserve.
 *             Process context, no locks held.
 * @allocate: one folio of the file's order.  It has one reference, is not in
 *            the page cache, and is cleared and uptodate; guest_memfd_clear()
 *            helps.  The last folio_put() gives it back, whoever calls it.
 *            @mpol is NULL where the policy of the current task decides; @ilx
 *            is its index for interleaving, in units of the file's page size.
 *            Within a reservation it fails only for what a reservation does not
 *            cover, with counters untouched:
 *            -ENOMEM, the nodes that policy and cpuset allow, or a cgroup, have
 *            no page left; -EAGAIN, a page of the file has left it, but not yet
 *            arrived here: ask again; -EINTR, a fatal signal is pending.
 *            Process context, one call at a time for an index of a file, and
 *            without the mapping's invalidate lock.
 */
struct guest_memfd_allocator_ops {
	const char *name;
	u64 flag;
	u64 flag_args;
	bool can_mmap;
	bool accounted;

	unsigned long (*orders)(void);
	int (*order)(u64 flags);

	void *(*reserve)(unsigned int order, unsigned long nr_folios);
	void (*unreserve)(void *handle);
	struct folio *(*allocate)(void *handle, struct mempolicy *mpol,
				  pgoff_t ilx);
};

int guest_memfd_clear(struct folio *folio);

#endif /* _LINUX_GUEST_MEMFD_H */
