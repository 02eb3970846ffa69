// SPDX-License-Identifier: GPL-2.0
/*
 * The folios of a guest_memfd file.
 *
 * A folio is allocated, cleared and charged before the file has it, inserted
 * under the invalidate lock, and stays uptodate until it is removed: there is no
 * storage behind it.
 *
 * An allocator that reserves memory is asked for the folio of an index once, and
 * for no more folios than it has promised. Tasks that need the same folio
 * therefore wait for the one that allocates it, see kvm_gmem_lock_index(). Where
 * nothing is reserved they all allocate one; the first insertion wins.
 */
#include <linux/fs.h>
#include <linux/falloc.h>
#include <linux/highmem.h>
#include <linux/kvm_host.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/statfs.h>

#include "guest_memfd.h"

#define CREATE_TRACE_POINTS
#include <trace/events/guest_memfd.h>

/**
 * guest_memfd_clear - clear a folio that is in no page cache yet
 * @folio: the folio; uptodate on success
 *
 * For the allocate() hook of an allocator.
 *
 * Context: process context, may sleep.
 * Return: 0, or -EINTR if a fatal signal arrived.  Other signals do not stop
 *         it: a task that is interrupted more often than it takes to clear a
 *         folio would not get anywhere.
 */
int guest_memfd_clear(struct folio *folio)
{
	long i, n, nr = folio_nr_pages(folio);

	for (i = 0; i < nr; i += n) {
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();

		n = min_t(long, nr - i, PROCESS_PAGES_NON_PREEMPT_BATCH);
		clear_user_highpages(folio_page(folio, i), 0, n);
	}

	__folio_mark_uptodate(folio);
	return 0;
}
EXPORT_SYMBOL_GPL(guest_memfd_clear);

static bool kvm_gmem_trylock_index(struct gmem_inode *gi, struct gmem_index *lock)
{
	struct gmem_index *other;

	guard(spinlock)(&gi->index_lock);

	list_for_each_entry(other, &gi->locked_indices, entry)
		if (other->index == lock->index)
			return false;

	list_add(&lock->entry, &gi->locked_indices);
	return true;
}

/**
 * kvm_gmem_lock_index - have the folio at an index to oneself
 * @gi: the inode
 * @lock: on the caller's stack, until kvm_gmem_unlock_index()
 * @index: any page of the folio
 * @state: TASK_KILLABLE or TASK_INTERRUPTIBLE
 *
 * For tasks that allocate the folio or change what it is: one at a time for each
 * index.  This takes long where a huge page is cleared, so that neither tasks
 * that need other indices wait for it, nor truncation.
 *
 * Context: process context, sleeps.  The invalidate lock and folio locks are
 *          taken inside.
 * Return: 0, or -EINTR if a signal arrived that interrupts @state.
 */
int kvm_gmem_lock_index(struct gmem_inode *gi, struct gmem_index *lock,
			pgoff_t index, unsigned int state)
{
	lock->index = round_down(index, 1UL << gi->order);

	if (wait_event_state(gi->index_wait, kvm_gmem_trylock_index(gi, lock),
			     state))
		return -EINTR;
	return 0;
}

/**
 * kvm_gmem_unlock_index - let others have the folio at an index
 * @gi: the inode
 * @lock: what kvm_gmem_lock_index() has locked
 *
 * Context: any that may take a spinlock.
 */
void kvm_gmem_unlock_index(struct gmem_inode *gi, struct gmem_index *lock)
{
	scoped_guard(spinlock, &gi->index_lock)
		list_del(&lock->entry);

	/* Pairs with the barrier of the waiter, before it looks at the list. */
	if (wq_has_sleeper(&gi->index_wait))
		wake_up_all(&gi->index_wait);
}

/*
 * Is there a folio at @index already?  To be sure that one which was there has
 * gone back to the allocator, wait for a hole that is being punched.
 */
static int kvm_gmem_has_folio(struct inode *inode, pgoff_t index)
{
	bool found;

	if (down_read_killable(&inode->i_mapping->invalidate_lock))
		return -EINTR;
	found = xa_load(&inode->i_mapping->i_pages, index);
	filemap_invalidate_unlock_shared(inode->i_mapping);

	return found;
}

/* Returns 0 if there is a folio now. */
static int kvm_gmem_alloc_folio(struct inode *inode, pgoff_t index)
{
	struct address_space *mapping = inode->i_mapping;
	struct gmem_inode *gi = GMEM_I(inode);
	struct mempolicy *policy;
	struct folio *folio;
	int r;

	policy = mpol_shared_policy_lookup(&gi->policy, index);
	folio = gi->ops->allocate(gi->handle, index, policy,
				  inode->i_ino + (index >> gi->order));
	mpol_cond_put(policy);

	trace_guest_memfd_allocate(inode->i_ino, index, gi->order, folio);
	if (IS_ERR(folio))
		return PTR_ERR(folio);

	r = filemap_add_folio_invalidate(mapping, folio, index,
					 mapping_gfp_mask(mapping));
	if (!r)
		folio_unlock(folio);
	if (!gi->ops->free)
		folio_put(folio);
	else if (r)
		gi->ops->free(gi->handle, folio);
	if (!r)
		return 0;

	if (gi->ops->flush)
		gi->ops->flush(gi->handle);
	/* Another task was faster. */
	return r == -EEXIST ? 0 : r;
}

static int kvm_gmem_try_add_folio(struct inode *inode, pgoff_t index,
				  unsigned int state)
{
	struct gmem_inode *gi = GMEM_I(inode);
	const bool once = gi->ops->reserve;
	struct gmem_index lock;
	int r = 0;

	if (once) {
		r = kvm_gmem_lock_index(gi, &lock, index, state);
		if (r)
			return r;
		r = kvm_gmem_has_folio(inode, index);
	}

	if (!r)
		r = kvm_gmem_alloc_folio(inode, index);

	if (once)
		kvm_gmem_unlock_index(gi, &lock);

	return min(r, 0);
}

/*
 * With all that the allocator has in the file, and a hole in it, a page that was
 * promised has failed, and there is no other one.
 */
static bool kvm_gmem_lost_folio(struct inode *inode, pgoff_t index)
{
	struct gmem_inode *gi = GMEM_I(inode);
	struct guest_memfd_stats stats;

	if (!gi->ops->stats)
		return false;

	/* First: a page that is being punched out is allocated for longer. */
	gi->ops->stats(gi->handle, &stats);
	return !stats.reserved &&
	       stats.allocated <= READ_ONCE(inode->i_mapping->nrpages) >> gi->order &&
	       !xa_load(&inode->i_mapping->i_pages, index);
}

/**
 * kvm_gmem_add_folio - make sure that the page cache has a folio at an index
 * @inode: the inode
 * @index: any page of the folio
 * @state: TASK_KILLABLE, or TASK_INTERRUPTIBLE if the caller looks for signals
 * @patience: how long to wait for a page that is still in use, in jiffies from
 *            when it is found to be
 *
 * The folio may be gone again on return.
 *
 * Context: process context, sleeps.  The caller holds neither the invalidate
 *          lock nor a folio lock; best no lock at all, as clearing takes long.
 * Return: 0; -ENOMEM as the allocator says; -EINTR if a signal arrived that
 *         interrupts @state, or a fatal one; -EAGAIN if the page that the
 *         allocator takes is still in use after @patience; -EHWPOISON if that page
 *         has had a memory error, and the allocator has got no other one.
 */
int kvm_gmem_add_folio(struct inode *inode, pgoff_t index, unsigned int state,
		       long patience)
{
	bool awaited = false;
	unsigned long end;
	int r;

	index = round_down(index, 1UL << GMEM_I(inode)->order);

	for (;;) {
		r = kvm_gmem_try_add_folio(inode, index, state);
		if (r != -EAGAIN)
			return r;
		if (kvm_gmem_lost_folio(inode, index))
			return -EHWPOISON;

		/* Waiting for another task to clear the page does not count. */
		if (!awaited) {
			end = jiffies + patience;
			awaited = true;
			/*
			 * What the host had mlocked may be in the batch of a CPU,
			 * and stays there for as long as the machine is quiet.  A
			 * caller that must not wait may have a lock: draining waits
			 * for a kworker on each CPU.
			 */
			if (patience)
				lru_add_drain_all();
			continue;
		}

		/* Most pages are in use for a moment only. */
		set_current_state(state);
		schedule_timeout(1);
		if (signal_pending_state(state, current))
			return -EINTR;
		if (time_after_eq(jiffies, end))
			return -EAGAIN;
	}
}

/**
 * kvm_gmem_add_folio_wait - the same for a system call, however long it takes
 * @inode: the inode
 * @index: any page of the folio
 *
 * Context: process context, sleeps; no lock that a fault needs is held.
 * Return: 0, -ENOMEM, -EHWPOISON, or -EINTR if any signal is pending.
 */
int kvm_gmem_add_folio_wait(struct inode *inode, pgoff_t index)
{
	int r;

	do {
		r = kvm_gmem_add_folio(inode, index, TASK_INTERRUPTIBLE, HZ);
	} while (r == -EAGAIN);

	return r;
}

/* How long a vCPU waits before userspace decides what to do, in jiffies */
#define VCPU_PATIENCE	HZ

/**
 * kvm_gmem_add_folio_vcpu - the same for a vCPU that needs the page
 * @kvm: the VM
 * @inode: the inode
 * @index: any page of the folio
 *
 * Context: process context, sleeps; best outside of kvm->srcu.
 * Return: as kvm_gmem_add_folio(); -EINTR if any signal is pending, -EAGAIN after
 *         a second, which a statistic of the VM counts.
 */
int kvm_gmem_add_folio_vcpu(struct kvm *kvm, struct inode *inode, pgoff_t index)
{
	int r = kvm_gmem_add_folio(inode, index, TASK_INTERRUPTIBLE, VCPU_PATIENCE);

	if (r == -EAGAIN)
		++kvm->stat.generic.gmem_awaited;
	return r;
}

/* How often to try a commit that a short reference of another task stops */
#define SPLIT_TRIES	3

/* With the folio at hand, and a reference to it; see kvm_gmem_split(). */
static int kvm_gmem_commit_split(struct gmem_inode *gi, struct folio *folio,
				 pgoff_t index, void *split)
{
	struct address_space *mapping = gi->vfs_inode.i_mapping;
	int tries, r = -EAGAIN;

	for (tries = 0; r == -EAGAIN && tries < SPLIT_TRIES; tries++) {
		if (down_read_killable(&mapping->invalidate_lock))
			return -EINTR;
		folio_lock(folio);

		/* It was punched out, or the page is private by now: look again. */
		if (folio->mapping != mapping || kvm_gmem_is_private(gi, index))
			r = -ENOENT;
		else
			r = gi->ops->split_commit(split);

		folio_unlock(folio);
		filemap_invalidate_unlock_shared(mapping);
		cond_resched();
	}

	return r;
}

/**
 * kvm_gmem_split - make a single page of a page in a large folio
 * @inode: the inode, whose allocator can split
 * @index: the page, which the host touches
 * @state: TASK_KILLABLE or TASK_INTERRUPTIBLE
 *
 * The shared pages next to it, of the same block of PMD_ORDER, become single pages
 * with it: the host is likely to touch them, too.
 *
 * Nothing is done if the page is private, or if there is no large folio (any more).
 * The caller looks again.
 *
 * Context: process context, sleeps.  The caller holds neither the invalidate lock
 *          nor a folio lock.
 * Return: 0; -ENOMEM; -EINTR if a signal arrived that interrupts @state; -EAGAIN if
 *         another task has a reference to the folio for longer than a moment; what
 *         the allocator returns.
 */
int kvm_gmem_split(struct inode *inode, pgoff_t index, unsigned int state)
{
	struct gmem_inode *gi = GMEM_I(inode);
	pgoff_t first, last, block;
	struct gmem_index lock;
	struct folio *folio;
	void *split;
	int r;

	/*
	 * Tasks wait here without a reference, which would stop the split that
	 * they wait for.
	 */
	r = kvm_gmem_lock_index(gi, &lock, index, state);
	if (r)
		return r;

	folio = filemap_get_folio(inode->i_mapping, index);
	if (IS_ERR(folio))
		goto unlock;

	/* The reference keeps it from being merged, the lock from being split. */
	if (!folio_test_large(folio) || kvm_gmem_run(gi, index, &first, &last))
		goto put;

	block = round_down(index, 1UL << PMD_ORDER);
	first = max3(first, block, folio->index);
	last = min3(last, block + (1UL << PMD_ORDER) - 1,
		    folio_next_index(folio) - 1);

	split = gi->ops->split_prepare(folio, first - folio->index,
				       last - first + 1);
	r = PTR_ERR_OR_ZERO(split);
	if (!IS_ERR_OR_NULL(split)) {
		r = kvm_gmem_commit_split(gi, folio, index, split);
		if (r)
			gi->ops->split_cancel(split);
	}
	trace_guest_memfd_split(inode->i_ino, index, first, last - first + 1, r);
	if (r == -ENOENT)
		r = 0;
put:
	folio_put(folio);
unlock:
	kvm_gmem_unlock_index(gi, &lock);

	/* The page may have been punched out meanwhile, and go home by that put. */
	if (gi->ops->flush)
		gi->ops->flush(gi->handle);
	return r;
}

/**
 * kvm_gmem_truncate - remove the folios of a range from a file
 * @inode: the inode
 * @offset: of the first folio, in bytes
 * @end: of the last folio's end, in bytes
 *
 * Context: process context, sleeps.  The caller holds the invalidate lock for
 *          writing, so that no other task adds, removes or merges folios.
 */
void kvm_gmem_truncate(struct inode *inode, loff_t offset, loff_t end)
{
	struct address_space *mapping = inode->i_mapping;
	struct gmem_inode *gi = GMEM_I(inode);
	pgoff_t index = offset >> PAGE_SHIFT;
	pgoff_t last = (end - 1) >> PAGE_SHIFT;
	struct folio_batch fbatch;
	struct folio *folio;

	if (!READ_ONCE(mapping->nrpages))
		return;

	trace_guest_memfd_truncate(inode->i_ino, index, last + 1);

	if (!gi->ops->free) {
		truncate_inode_pages_range(mapping, offset, end - 1);
		goto unmap;
	}

	folio_batch_init(&fbatch);
	while (filemap_get_folios(mapping, &index, last, &fbatch)) {
		while ((folio = folio_batch_next(&fbatch))) {
			loff_t pos = folio_pos(folio);

			truncate_inode_pages_range(mapping, pos,
						   pos + folio_size(folio) - 1);
			/* The look-up's; the file still has its own. */
			folio_put(folio);
			gi->ops->free(gi->handle, folio);
		}
		folio_batch_reinit(&fbatch);
		cond_resched();
	}

unmap:
	/*
	 * What the host has of a failed page in its page tables counts for no mapping
	 * of the folio, and would be taken for a failure of the next page there.  Only
	 * now no other page of these fails.
	 */
	index = offset >> PAGE_SHIFT;
	if (unlikely(READ_ONCE(gi->has_failed)))
		unmap_mapping_pages(mapping, index, last - index + 1, true);
}

static int kvm_gmem_punch_range(struct inode *inode, loff_t offset, loff_t end)
{
	pgoff_t start_index = offset >> PAGE_SHIFT;
	pgoff_t end_index = end >> PAGE_SHIFT;
	struct gmem_inode *gi = GMEM_I(inode);

	if (down_write_killable(&inode->i_mapping->invalidate_lock))
		return -EINTR;

	/*
	 * Bindings must be stable across invalidation to ensure the start+end
	 * are balanced.
	 */
	down_read(&gi->bind_lock);

	kvm_gmem_invalidate_start(inode, start_index, end_index);

	kvm_gmem_truncate(inode, offset, end);

	kvm_gmem_invalidate_end(inode, start_index, end_index);

	up_read(&gi->bind_lock);

	filemap_invalidate_unlock(inode->i_mapping);

	if (gi->ops->flush)
		gi->ops->flush(gi->handle);
	return 0;
}

static long kvm_gmem_punch_hole(struct inode *inode, loff_t offset, loff_t len)
{
	const u64 page_size = PAGE_SIZE << GMEM_I(inode)->order;
	const u64 chunk = max_t(u64, page_size, SZ_32M);
	loff_t end = min(offset + len, i_size_read(inode));
	unsigned long index;
	loff_t next;
	int r;

	/*
	 * Faults that allocate wait for the invalidate lock wherever in the
	 * file they are.  Don't make them wait for all of a large hole.  Go
	 * from folio to folio: the guest has mappings of nothing else.
	 */
	for (; offset < end; offset = next) {
		index = offset >> PAGE_SHIFT;
		if (!xa_find(&inode->i_mapping->i_pages, &index,
			     (end - 1) >> PAGE_SHIFT, XA_PRESENT))
			break;
		if (fatal_signal_pending(current))
			return -EINTR;

		offset = max_t(loff_t, offset,
			       round_down((u64)index << PAGE_SHIFT, page_size));
		next = min_t(u64, end, round_down(offset + chunk, chunk));
		r = kvm_gmem_punch_range(inode, offset, next);
		if (r)
			return r;
		cond_resched();
	}

	return 0;
}

static long kvm_gmem_allocate(struct inode *inode, loff_t offset, loff_t len)
{
	const unsigned long nr_pages = 1UL << GMEM_I(inode)->order;
	pgoff_t index = offset >> PAGE_SHIFT;
	pgoff_t end = (offset + len) >> PAGE_SHIFT;
	int r;

	/* Dedicated guest is immutable by default. */
	if (offset + len > i_size_read(inode))
		return -EINVAL;

	for (; index < end; index += nr_pages) {
		cond_resched();

		/*
		 * A task that signals keep interrupting gets on nevertheless:
		 * they don't matter where there is nothing to do, and later
		 * only once there was something done.
		 */
		if (xa_load(&inode->i_mapping->i_pages, index)) {
			if (fatal_signal_pending(current))
				return -EINTR;
			continue;
		}

		r = kvm_gmem_add_folio_wait(inode, index);
		if (r)
			return r;
		if (signal_pending(current) && index + nr_pages < end)
			return -EINTR;
	}

	return 0;
}

/**
 * kvm_gmem_fallocate - allocate the memory of a range, or give it back
 * @file: the file
 * @mode: FALLOC_FL_KEEP_SIZE, with or without FALLOC_FL_PUNCH_HOLE
 * @offset: of the range, in bytes; a multiple of the file's page size
 * @len: of the range, in bytes; a multiple of the file's page size
 *
 * Context: process context, sleeps.
 * Return: 0; -EOPNOTSUPP for another mode; -EINVAL for a range that is not
 *         aligned, or goes beyond the end when allocating; -ENOMEM; -EINTR after
 *         the page at which a signal arrived, when punching only for a fatal
 *         one.  What was done stays.
 */
long kvm_gmem_fallocate(struct file *file, int mode, loff_t offset, loff_t len)
{
	u64 page_size = PAGE_SIZE << GMEM_I(file_inode(file))->order;
	int ret;

	if (!(mode & FALLOC_FL_KEEP_SIZE))
		return -EOPNOTSUPP;

	if (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE))
		return -EOPNOTSUPP;

	if (!IS_ALIGNED(offset, page_size) || !IS_ALIGNED(len, page_size))
		return -EINVAL;

	if (mode & FALLOC_FL_PUNCH_HOLE)
		ret = kvm_gmem_punch_hole(file_inode(file), offset, len);
	else
		ret = kvm_gmem_allocate(file_inode(file), offset, len);

	if (!ret)
		file_modified(file);
	return ret;
}

/**
 * kvm_gmem_max_order - how large a guest mapping of a folio can be
 * @slot: the memslot
 * @gfn: the page of the guest, in @slot
 * @index: the page of the file that backs it
 * @order: of the folio at @index
 *
 * The block must lie in the slot, and the same block of the file must back it.
 *
 * Context: any.
 * Return: the largest order of those that page tables have levels for, one of 0,
 *         PMD_ORDER and PUD_ORDER.
 */
int kvm_gmem_max_order(const struct kvm_memory_slot *slot, gfn_t gfn,
		       pgoff_t index, unsigned int order)
{
	static const unsigned int orders[] = { PUD_ORDER, PMD_ORDER };
	gfn_t start, nr_pages;
	int i;

	for (i = 0; i < ARRAY_SIZE(orders); i++) {
		if (order < orders[i])
			continue;

		nr_pages = 1ULL << orders[i];
		if ((gfn ^ index) & (nr_pages - 1))
			continue;

		start = round_down(gfn, nr_pages);
		if (start >= slot->base_gfn &&
		    start + nr_pages <= slot->base_gfn + slot->npages)
			return orders[i];
	}

	return 0;
}

/**
 * kvm_gmem_statfs - fill in what statfs() returns
 * @dentry: of the file
 * @buf: to fill in
 *
 * All files share one superblock, their page sizes differ.
 *
 * Context: process context.
 * Return: 0, or the error of simple_statfs().
 */
int kvm_gmem_statfs(struct dentry *dentry, struct kstatfs *buf)
{
	int r = simple_statfs(dentry, buf);

	if (!r)
		buf->f_bsize = PAGE_SIZE << GMEM_I(d_inode(dentry))->order;
	return r;
}

/**
 * kvm_gmem_getattr - fill in what stat() returns
 * @idmap: of the mount
 * @path: of the file
 * @stat: to fill in
 * @request_mask: what is asked for
 * @query_flags: of statx()
 *
 * Context: process context.
 * Return: 0.
 */
int kvm_gmem_getattr(struct mnt_idmap *idmap, const struct path *path,
		     struct kstat *stat, u32 request_mask,
		     unsigned int query_flags)
{
	struct inode *inode = d_inode(path->dentry);

	generic_fillattr(idmap, request_mask, inode, stat);
	stat->blksize = PAGE_SIZE << GMEM_I(inode)->order;
	stat->blocks = (u64)READ_ONCE(inode->i_mapping->nrpages) <<
		       (PAGE_SHIFT - SECTOR_SHIFT);
	return 0;
}

/* So many huge pages are looked at with the invalidate lock held */
#define STATS_BATCH	512

/* Returns -EINTR on a fatal signal. */
static int kvm_gmem_folio_stats(struct inode *inode,
				struct guest_memfd_folio_stats *stats)
{
	struct address_space *mapping = inode->i_mapping;
	struct gmem_inode *gi = GMEM_I(inode);
	unsigned long index = 0;
	struct folio *folio;
	unsigned int i;

	do {
		/* A conversion may hold it for long. */
		if (down_read_killable(&mapping->invalidate_lock))
			return -EINTR;

		for (i = 0; i < STATS_BATCH; i++) {
			folio = xa_find(&mapping->i_pages, &index, ULONG_MAX,
					XA_PRESENT);
			if (!folio)
				break;
			gi->ops->folio_stats(folio, stats);
			index = round_down(index, 1UL << gi->order) +
				(1UL << gi->order);
		}

		filemap_invalidate_unlock_shared(mapping);
		cond_resched();
	} while (folio);

	return 0;
}

static void kvm_gmem_show_folios(struct seq_file *m, struct inode *inode,
				 unsigned long nr_folios)
{
	struct gmem_inode *gi = GMEM_I(inode);
	struct guest_memfd_folio_stats *stats __free(kfree) = NULL;
	int order;

	if (gi->ops->folio_stats) {
		stats = kzalloc_obj(*stats);
		if (!stats || kvm_gmem_folio_stats(inode, stats))
			return;
		nr_folios = stats->nr_folios[gi->order];
	}

	for (order = gi->order; order >= 0; order--) {
		if (order != gi->order) {
			nr_folios = stats ? stats->nr_folios[order] : 0;
			if (!nr_folios)
				continue;
		}
		seq_printf(m, "gmem-folios-%lukB:\t%lu\n",
			   1UL << (PAGE_SHIFT - 10 + order), nr_folios);
	}

	if (!stats)
		return;

	seq_printf(m, "gmem-vmemmap:\t%lu kB\n",
		   stats->nr_vmemmap << (PAGE_SHIFT - 10));
	seq_printf(m, "gmem-merges-pending:\t%lu\n", stats->nr_merges);
}

/**
 * kvm_gmem_show_fdinfo - show how the memory of a file is used
 * @m: where to
 * @file: the file
 *
 * In kB, as smaps has it.  The figures are not a snapshot: each is right at some
 * moment of the reading.
 *
 * Context: process context, sleeps.
 */
void kvm_gmem_show_fdinfo(struct seq_file *m, struct file *file)
{
	struct inode *inode = file_inode(file);
	struct gmem_inode *gi = GMEM_I(inode);
	const u64 size = i_size_read(inode) >> 10;
	const unsigned int shift = PAGE_SHIFT - 10;
	const unsigned long nr_pages = READ_ONCE(inode->i_mapping->nrpages);
	const unsigned long nr_folios = nr_pages >> gi->order;
	const u64 other = (u64)READ_ONCE(gi->nr_other) << shift;
	const bool private = kvm_gmem_initially_private(gi);
	struct guest_memfd_stats stats = {};

	seq_printf(m, "gmem-allocator:\t%s\n", gi->ops->name);
	seq_printf(m, "gmem-page-size:\t%lu kB\n", 1UL << (shift + gi->order));
	seq_printf(m, "gmem-size:\t%llu kB\n", size);
	seq_printf(m, "gmem-private:\t%llu kB\n", private ? size - other : other);
	seq_printf(m, "gmem-shared:\t%llu kB\n", private ? other : size - other);
	seq_printf(m, "gmem-allocated:\t%lu kB\n", nr_pages << shift);
	kvm_gmem_show_folios(m, inode, nr_folios);

	if (!gi->ops->stats)
		return;

	gi->ops->stats(gi->handle, &stats);
	seq_printf(m, "gmem-reserved:\t%lu kB\n",
		   stats.reserved << (shift + gi->order));
	seq_printf(m, "gmem-awaited:\t%lu kB\n",
		   stats.allocated > nr_folios ?
		   (stats.allocated - nr_folios) << (shift + gi->order) : 0);
}
