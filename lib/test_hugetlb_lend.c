// SPDX-License-Identifier: GPL-2.0
/*
 * A device for tests that borrows pages of the HugeTLB pools.
 *
 * What a test tells it to do with lent pages is in test_hugetlb_lend_uapi.h.  Its
 * files are what guest_memfd would be without guests: an inode of their own, with
 * a page cache that is preaccounted and unevictable, and single pages in it that
 * can be mapped if they are exposed.
 *
 * Which lock is taken in which order:
 *
 *   lend_file.walk_rwsem, in ioctls: for writing by a walk, whose model is wrong
 *   as soon as another task splits or merges; for reading by all others
 *     lend_file.split_lock: one split at a time, as its borrower has to see to
 *       mm->mmap_lock, in faults, be they of the walk
 *         mapping->invalidate_lock, in faults for reading
 *           folio lock, lend_file.hold_lock
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/anon_inodes.h>
#include <linux/bitmap.h>
#include <linux/cleanup.h>
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/file.h>
#include <linux/folio_batch.h>
#include <linux/fs.h>
#include <linux/hugetlb_lend.h>
#include <linux/hugetlb_reservation.h>
#include <linux/irq_work.h>
#include <linux/list.h>
#include <linux/lockdep.h>
#include <linux/log2.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pagemap.h>
#include <linux/prandom.h>
#include <linux/rwsem.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/timer.h>
#include <linux/timex.h>
#include <linux/uaccess.h>
#include <linux/xarray.h>

#include "test_hugetlb_lend_uapi.h"

#define MAX_HOLDS		1000000
#define MAX_PUT_COST		1000000

/* References that are put by one interrupt */
#define PUTS_PER_INTERRUPT	1024

/* How often a split or merge is tried before the user hears of a reference */
#define TRIES			16

/*
 * How long other tasks may keep what they found by pfn, and a delayed merge may
 * take, in jiffies.  It is there for what hangs, on a machine that is loaded.
 */
#define PATIENCE		(600 * HZ)

/**
 * struct lend_file - a file with lent pages
 * @resv: where its pages are from
 * @mapping: its page cache
 * @order: of its huge pages
 * @granule_order: the smallest order of a folio, but for single pages
 * @nr_huge: number of huge pages
 * @walk_rwsem: see above
 * @split_lock: see above
 * @nr_merged: number of calls of lend_merged(); mapping->invalidate_lock, as are
 *             those below up to @told
 * @merged_index: of the folio that the last one was called with
 * @merged_order: its order
 * @told: bitmaps of orders, one for each granule of the file, of the folios that
 *        lend_merged() was called with; NULL without a walk
 * @hold_lock: protects the fields below
 * @holds: references of TEST_LEND_HOLD, struct lend_hold
 * @nr_holds: number of them
 */
struct lend_file {
	struct hugetlb_reservation *resv;
	struct address_space *mapping;
	unsigned int order;
	unsigned int granule_order;
	unsigned long nr_huge;

	struct rw_semaphore walk_rwsem;
	struct mutex split_lock;	/* see above */

	unsigned long nr_merged;
	pgoff_t merged_index;
	unsigned int merged_order;
	u32 *told;

	struct mutex hold_lock;		/* protects those below */
	struct list_head holds;
	unsigned long nr_holds;
};

struct lend_hold {
	struct list_head entry;
	struct folio *folio;
	pgoff_t index;
};

static unsigned long lend_nr_pages(const struct lend_file *lf)
{
	return lf->nr_huge << lf->order;
}

static bool range_ok(u64 index, u64 nr, u64 size)
{
	return nr && index < size && nr <= size - index;
}

/*
 * The page cache
 */

static void lend_free_folio(const struct address_space *mapping,
			    struct folio *folio)
{
	if (hugetlb_lent_exposed(folio))
		hugetlb_lent_hide(folio);
}

static const struct address_space_operations lend_aops = {
	.dirty_folio	= noop_dirty_folio,
	.free_folio	= lend_free_folio,
};

/*
 * A delayed merge is done, of the block that was wanted or only of parts of it.  A
 * folio of the file is locked, which need not be this one.
 */
static void lend_merged(struct folio *folio)
{
	struct address_space *mapping = folio->mapping;
	struct lend_file *lf = mapping->host->i_private;
	const unsigned int order = folio_order(folio);

	lockdep_assert_held_write(&mapping->invalidate_lock);
	WARN_ON_ONCE(!rwsem_is_locked(&mapping->invalidate_lock));
	WARN_ON_ONCE(order < lf->granule_order || order > lf->order);

	lf->nr_merged++;
	lf->merged_index = folio->index;
	lf->merged_order = order;
	if (lf->told)
		lf->told[folio->index >> lf->granule_order] |= BIT(order);
}

static struct folio *lend_lock_folio(struct lend_file *lf, u64 index)
{
	if (index >= lend_nr_pages(lf))
		return ERR_PTR(-EINVAL);
	return filemap_lock_folio(lf->mapping, index);
}

static void lend_unlock_folio(struct folio *folio)
{
	folio_unlock(folio);
	folio_put(folio);
}

static vm_fault_t lend_fault(struct vm_fault *vmf)
{
	struct lend_file *lf = vmf->vma->vm_file->private_data;
	struct folio *folio;

	filemap_invalidate_lock_shared(lf->mapping);
	folio = lend_lock_folio(lf, vmf->pgoff);
	filemap_invalidate_unlock_shared(lf->mapping);
	if (IS_ERR(folio))
		return VM_FAULT_SIGBUS;

	if (!hugetlb_lent_exposed(folio)) {
		lend_unlock_folio(folio);
		return VM_FAULT_SIGBUS;
	}

	vmf->page = folio_page(folio, 0);
	return VM_FAULT_LOCKED;
}

static const struct vm_operations_struct lend_vm_ops = {
	.fault	= lend_fault,
};

static int lend_mmap_prepare(struct vm_area_desc *desc)
{
	if (!vma_desc_test(desc, VMA_SHARED_BIT))
		return -EINVAL;

	desc->vm_ops = &lend_vm_ops;
	return 0;
}

/*
 * Operations on a file.  The mapping's invalidate lock is held: for writing, but
 * by those that do not change which folio has which page.
 */

static unsigned long nr_vmemmap(struct folio *folio)
{
	struct hugetlb_lent_stats stats;

	hugetlb_lent_stats(folio, &stats);
	return stats.nr_vmemmap;
}

/* Tell what the operation has made of the huge page; @nr_vmemmap is from before. */
static void op_result(struct folio *folio, struct test_lend_op *op,
		      unsigned long nr_vmemmap)
{
	struct hugetlb_lent_stats stats;

	hugetlb_lent_stats(folio, &stats);
	if (stats.merge_wanted)
		op->state |= TEST_LEND_MERGE_WANTED;
	op->vmemmap_pages = (long)(stats.nr_vmemmap - nr_vmemmap);
}

static int populate_one(struct lend_file *lf, pgoff_t index)
{
	struct folio *folio;
	int r;

	if (xa_load(&lf->mapping->i_pages, index))
		return 0;

	folio = hugetlb_reservation_alloc_folio(lf->resv, NULL, 0);
	if (IS_ERR(folio))
		return PTR_ERR(folio);

	/* For mincore(), and to be inherited by the parts. */
	__folio_mark_uptodate(folio);
	r = filemap_add_folio(lf->mapping, folio, index, GFP_KERNEL);
	if (!r)
		folio_unlock(folio);
	folio_put(folio);
	return r;
}

static long lend_populate(struct lend_file *lf, struct test_lend_op *op)
{
	cycles_t start = get_cycles();
	unsigned long i;
	long r;

	if (!range_ok(op->index, op->nr, lf->nr_huge))
		return -EINVAL;

	for (i = 0; i < op->nr; i++) {
		if (signal_pending(current))
			return -EINTR;
		r = populate_one(lf, (op->index + i) << lf->order);
		if (r)
			return r;
	}

	op->commit_cycles = get_cycles() - start;
	return 0;
}

/*
 * A task that finds a folio by pfn has a reference for a moment; one that waits for
 * the lock of the folio has one until it gets that.  Let both go on.
 */
static void let_others_go_on(struct folio *folio)
{
	folio_unlock(folio);
	fsleep(50);
	folio_lock(folio);
}

/* No lock of the file is needed: the reference keeps the folio as it is. */
static struct hugetlb_lent_split *split_prepare(struct lend_file *lf,
						struct test_lend_op *op,
						struct folio **foliop)
{
	struct hugetlb_lent_split *split;
	struct folio *folio;
	cycles_t start;

	if (op->index >= lend_nr_pages(lf))
		return ERR_PTR(-EINVAL);
	folio = filemap_get_folio(lf->mapping, op->index);
	if (IS_ERR(folio))
		return ERR_CAST(folio);

	start = get_cycles();
	split = hugetlb_lent_split_prepare(folio, op->index - folio->index, op->nr);
	op->prepare_cycles = get_cycles() - start;
	if (IS_ERR(split)) {
		folio_put(folio);
		return split;
	}

	if (!split)
		op->state |= TEST_LEND_NOTHING_TO_DO;
	*foliop = folio;
	return split;
}

static long split_commit(struct lend_file *lf, struct test_lend_op *op,
			 struct folio *folio, struct hugetlb_lent_split *split)
{
	const unsigned long before = nr_vmemmap(folio);
	cycles_t start;
	long r;

	folio_lock(folio);
	/* Its page was punched: nothing of the file is left to be split. */
	r = folio->mapping == lf->mapping ? 0 : -ENOENT;

	if (r || op->flags & TEST_LEND_PREPARE_ONLY) {
		start = get_cycles();
		hugetlb_lent_split_cancel(split);
		op->commit_cycles = get_cycles() - start;
	} else {
		for (;;) {
			start = get_cycles();
			r = hugetlb_lent_split_commit(split);
			op->commit_cycles = get_cycles() - start;
			if (r != -EAGAIN || ++op->tries == TRIES)
				break;
			let_others_go_on(folio);
		}
		if (r)
			hugetlb_lent_split_cancel(split);
		else
			op->tries++;
	}

	op_result(folio, op, before);
	lend_unlock_folio(folio);
	return r;
}

static long lend_split(struct lend_file *lf, struct test_lend_op *op)
{
	struct hugetlb_lent_split *split;
	struct folio *folio;
	long r;

	if (mutex_lock_killable(&lf->split_lock))
		return -EINTR;

	split = split_prepare(lf, op, &folio);
	r = PTR_ERR_OR_ZERO(split);
	if (!r) {
		filemap_invalidate_lock_shared(lf->mapping);
		r = split_commit(lf, op, folio, split);
		filemap_invalidate_unlock_shared(lf->mapping);
	}

	mutex_unlock(&lf->split_lock);
	return r;
}

/* The folio at the start of the block, or the larger one that has the block */
static struct folio *lock_block(struct lend_file *lf, const struct test_lend_op *op)
{
	if (op->order >= BITS_PER_LONG || !IS_ALIGNED(op->index, 1UL << op->order))
		return ERR_PTR(-EINVAL);
	return lend_lock_folio(lf, op->index);
}

static long lend_merge(struct lend_file *lf, struct test_lend_op *op)
{
	unsigned long before;
	struct folio *folio;
	cycles_t start;
	long r;

	folio = lock_block(lf, op);
	if (IS_ERR(folio))
		return PTR_ERR(folio);
	before = nr_vmemmap(folio);
	if (folio_order(folio) && folio_order(folio) >= op->order)
		op->state |= TEST_LEND_NOTHING_TO_DO;

	for (;;) {
		/*
		 * A fault that has come past the invalidate lock already, to another
		 * page than the first, may map it after this.  It holds a reference.
		 */
		if (op->order <= lf->order)
			unmap_mapping_pages(lf->mapping, op->index,
					    1UL << op->order, false);

		start = get_cycles();
		r = hugetlb_lent_merge(folio, op->order);
		op->commit_cycles = get_cycles() - start;
		if (++op->tries == TRIES || r != -EAGAIN)
			break;
		let_others_go_on(folio);
	}

	op_result(folio, op, before);
	lend_unlock_folio(folio);
	return r;
}

static long lend_merge_later(struct lend_file *lf, struct test_lend_op *op)
{
	struct folio *folio;
	long r;

	folio = lock_block(lf, op);
	if (IS_ERR(folio))
		return PTR_ERR(folio);

	r = hugetlb_lent_merge_later(folio, op->order);
	op_result(folio, op, nr_vmemmap(folio));

	lend_unlock_folio(folio);
	return r;
}

static void expose_folio(struct lend_file *lf, struct folio *folio)
{
	if (!hugetlb_lent_exposed(folio))
		hugetlb_lent_expose(folio);
}

static void hide_folio(struct lend_file *lf, struct folio *folio)
{
	if (!hugetlb_lent_exposed(folio))
		return;

	/* With the lock of the folio no fault is about to map it. */
	unmap_mapping_pages(lf->mapping, folio->index, 1, false);
	hugetlb_lent_hide(folio);
}

static long do_singles(struct lend_file *lf, struct test_lend_op *op,
		       void (*fn)(struct lend_file *lf, struct folio *folio))
{
	cycles_t start = get_cycles();
	struct folio *folio;
	unsigned long i;

	if (!range_ok(op->index, op->nr, lend_nr_pages(lf)))
		return -EINVAL;

	for (i = 0; i < op->nr; i++) {
		if (signal_pending(current))
			return -EINTR;

		folio = lend_lock_folio(lf, op->index + i);
		if (IS_ERR(folio))
			return PTR_ERR(folio);
		if (folio_test_large(folio)) {
			lend_unlock_folio(folio);
			return -EINVAL;
		}

		fn(lf, folio);
		lend_unlock_folio(folio);
		cond_resched();
	}

	op->commit_cycles = get_cycles() - start;
	return 0;
}

static long lend_expose(struct lend_file *lf, struct test_lend_op *op)
{
	return do_singles(lf, op, expose_folio);
}

static long lend_hide(struct lend_file *lf, struct test_lend_op *op)
{
	return do_singles(lf, op, hide_folio);
}

static long lend_punch(struct lend_file *lf, struct test_lend_op *op)
{
	cycles_t start = get_cycles();
	pgoff_t index, nr;

	if (!range_ok(op->index, op->nr, lf->nr_huge))
		return -EINVAL;

	index = op->index << lf->order;
	nr = op->nr << lf->order;
	unmap_mapping_pages(lf->mapping, index, nr, false);
	truncate_inode_pages_range(lf->mapping, (loff_t)index << PAGE_SHIFT,
				   ((loff_t)(index + nr) << PAGE_SHIFT) - 1);
	hugetlb_reservation_flush(lf->resv);

	op->commit_cycles = get_cycles() - start;
	return 0;
}

/*
 * References
 */

static long hold_one(struct lend_file *lf, pgoff_t index)
{
	struct lend_hold *hold;
	struct folio *folio;

	if (lf->nr_holds >= MAX_HOLDS)
		return -ENOSPC;

	hold = kmalloc_obj(*hold, GFP_KERNEL_ACCOUNT);
	if (!hold)
		return -ENOMEM;

	folio = filemap_get_folio(lf->mapping, index);
	if (IS_ERR(folio)) {
		kfree(hold);
		return PTR_ERR(folio);
	}

	hold->folio = folio;
	hold->index = index;
	list_add_tail(&hold->entry, &lf->holds);
	lf->nr_holds++;
	return 0;
}

static long lend_hold(struct lend_file *lf, struct test_lend_op *op)
{
	unsigned long i;
	long r = 0;

	if (!range_ok(op->index, op->nr, lend_nr_pages(lf)))
		return -EINVAL;

	guard(mutex)(&lf->hold_lock);

	for (i = 0; !r && i < op->nr; i++) {
		if (signal_pending(current))
			return -EINTR;
		r = hold_one(lf, op->index + i);
		cond_resched();
	}

	return r;
}

/* Some holds whose references are to be put, and the interrupt that does it. */
struct lend_put {
	struct list_head holds;
	struct completion done;
	struct timer_list timer;
	struct irq_work irq_work;
};

static void put_holds(struct lend_put *put)
{
	struct lend_hold *hold;

	list_for_each_entry(hold, &put->holds, entry)
		folio_put(hold->folio);
}

static void put_timer(struct timer_list *timer)
{
	struct lend_put *put = timer_container_of(put, timer, timer);

	put_holds(put);
	complete(&put->done);
}

static void put_irq_work(struct irq_work *irq_work)
{
	put_holds(container_of(irq_work, struct lend_put, irq_work));
}

static void put_in_softirq(struct lend_put *put)
{
	init_completion(&put->done);
	timer_setup_on_stack(&put->timer, put_timer, 0);
	mod_timer(&put->timer, jiffies);
	wait_for_completion(&put->done);
	timer_delete_sync(&put->timer);
	timer_destroy_on_stack(&put->timer);
}

static void put_in_hardirq(struct lend_put *put)
{
	put->irq_work = IRQ_WORK_INIT_HARD(put_irq_work);
	irq_work_queue(&put->irq_work);
	irq_work_sync(&put->irq_work);
}

static void put_under_spinlock(struct lend_put *put)
{
	static DEFINE_SPINLOCK(lock);

	guard(spinlock_irqsave)(&lock);
	put_holds(put);
}

static void put_in_batch(struct lend_put *put)
{
	struct lend_hold *hold;
	struct folio_batch fbatch;

	folio_batch_init(&fbatch);
	list_for_each_entry(hold, &put->holds, entry)
		if (!folio_batch_add(&fbatch, hold->folio))
			folios_put(&fbatch);
	folios_put(&fbatch);
}

static void put_some(struct lend_put *put, enum test_lend_context context)
{
	struct lend_hold *hold, *next;

	switch (context) {
	case TEST_LEND_SPINLOCK:
		put_under_spinlock(put);
		break;
	case TEST_LEND_SOFTIRQ:
		put_in_softirq(put);
		break;
	case TEST_LEND_HARDIRQ:
		put_in_hardirq(put);
		break;
	case TEST_LEND_BATCH:
		put_in_batch(put);
		break;
	default:
		put_holds(put);
		break;
	}

	list_for_each_entry_safe(hold, next, &put->holds, entry)
		kfree(hold);
}

/* The folio of each is put exactly once, in portions that interrupts can take. */
static unsigned long put_all(struct list_head *holds,
			     enum test_lend_context context)
{
	struct lend_hold *hold, *next;
	unsigned long nr = 0;
	struct lend_put put;

	INIT_LIST_HEAD(&put.holds);
	list_for_each_entry_safe(hold, next, holds, entry) {
		list_move_tail(&hold->entry, &put.holds);
		if (++nr % PUTS_PER_INTERRUPT && !list_empty(holds))
			continue;
		put_some(&put, context);
		INIT_LIST_HEAD(&put.holds);
		cond_resched();
	}

	return nr;
}

static long lend_release_holds(struct lend_file *lf, struct test_lend_op *op)
{
	struct lend_hold *hold, *next;
	LIST_HEAD(holds);

	if (op->context >= TEST_LEND_NR_CONTEXTS)
		return -EINVAL;
	if (op->flags & TEST_LEND_ALL) {
		if (op->index)
			return -EINVAL;
		op->nr = lend_nr_pages(lf);
	}
	if (!range_ok(op->index, op->nr, lend_nr_pages(lf)))
		return -EINVAL;

	scoped_guard(mutex, &lf->hold_lock) {
		list_for_each_entry_safe(hold, next, &lf->holds, entry) {
			if (hold->index - op->index >= op->nr)
				continue;
			list_move_tail(&hold->entry, &holds);
			lf->nr_holds--;
		}
	}

	op->nr = put_all(&holds, op->context);
	hugetlb_reservation_flush(lf->resv);
	return op->nr ? 0 : -ENOENT;
}

/*
 * What has become of a page
 */

/* As deep as an XArray is high */
static unsigned long count_nodes(const struct xarray *xa, void *entry)
{
	unsigned long nr = 1;
	struct xa_node *node;
	unsigned int i;

	if (!xa_is_node(entry))
		return 0;

	node = xa_to_node(entry);
	for (i = 0; node->shift && i < XA_CHUNK_SIZE; i++)
		nr += count_nodes(xa, rcu_dereference(node->slots[i]));
	return nr;
}

static struct folio *find_held(struct lend_file *lf, pgoff_t index)
{
	struct lend_hold *hold;

	list_for_each_entry(hold, &lf->holds, entry)
		if (hold->index == index)
			return hold->folio;
	return NULL;
}

static void folio_stats(struct folio *folio, struct test_lend_stats *stats)
{
	struct hugetlb_lent_stats loan;
	unsigned int order;

	hugetlb_lent_stats(folio, &loan);
	stats->huge_order = loan.order;
	stats->merge_wanted = loan.merge_wanted;
	for (order = 0; order <= loan.order; order++)
		stats->nr_folios[order] = loan.nr_folios[order];
	stats->nr_vmemmap = loan.nr_vmemmap;
	stats->nr_returned = loan.nr_returned;

	stats->order = folio_order(folio);
	stats->head_pfn = folio_pfn(folio);
	stats->pfn = stats->head_pfn + (stats->index & (folio_nr_pages(folio) - 1));
	stats->refcount = folio_ref_count(folio);
	if (folio_test_lent(folio))
		stats->flags |= TEST_LEND_LENT;
	else if (folio_mapped(folio))
		stats->flags |= TEST_LEND_MAPPED;
}

static long lend_stats(struct lend_file *lf, struct test_lend_stats *stats)
{
	const u64 index = stats->index;
	unsigned long reserved, allocated;
	struct folio *folio, *held;

	if (index >= lend_nr_pages(lf))
		return -EINVAL;

	*stats = (struct test_lend_stats) { .index = index };
	hugetlb_reservation_stats(lf->resv, &reserved, &allocated);
	stats->reserved = reserved;
	stats->allocated = allocated;
	stats->granule_order = lf->granule_order;
	stats->nr_merged = lf->nr_merged;
	stats->merged_order = lf->merged_order;
	stats->merged_index = lf->merged_index;
	stats->nr_pages = lf->mapping->nrpages;
	scoped_guard(rcu)
		stats->nr_nodes = count_nodes(&lf->mapping->i_pages,
					      xa_head(&lf->mapping->i_pages));

	/* A page that is held is not going home. */
	guard(mutex)(&lf->hold_lock);

	held = find_held(lf, index);
	if (held)
		stats->flags |= TEST_LEND_HELD;

	folio = filemap_get_folio(lf->mapping, index);
	if (!IS_ERR(folio)) {
		stats->flags |= TEST_LEND_PRESENT;
		folio_stats(folio, stats);
		stats->refcount--;
		folio_put(folio);
		return 0;
	}
	if (!held)
		return -ENOENT;

	folio_stats(held, stats);
	return 0;
}

/*
 * A walk.  The model says of each granule of a huge page of which order the folio
 * is that has it, of each page whether it is exposed and mapped, and of each block
 * whether it is to be merged later.  The invalidate lock is held from before a step
 * until its outcome is checked.  Between steps the only thing that may happen is
 * that a merge that was left for later is done.  The model is then brought up to
 * date, if the merge was wanted, and the borrower told of it.
 *
 * What else the kernel does may have references to the pages for a moment.  A split
 * or merge that fails by such a reference has to change nothing; the step is
 * repeated.
 */

/**
 * struct walk_huge - the model of a huge page
 * @there: it is in the file, else nothing below counts
 * @hvo: it was lent with HVO
 * @order: of the folio that has it, for each granule
 * @wanted: bitmap of the orders of blocks to be merged later, for each granule that
 *          such a block begins with
 * @told: the part of lend_file.told for this page
 * @suspect: bitmap of the granules to check page by page after this step
 * @exposed: bitmap of its pages
 * @mapped: bitmap of its pages
 * @pfn: of its first page
 */
struct walk_huge {
	bool there;
	bool hvo;
	u8 *order;
	u32 *wanted;
	u32 *told;
	unsigned long *suspect;
	unsigned long *exposed;
	unsigned long *mapped;
	unsigned long pfn;
};

struct lend_walk {
	struct lend_file *lf;
	struct test_lend_walk *args;
	struct rnd_state rnd;
	struct test_lend_op op;		/* for messages: the last one */
	const char *step;
	unsigned int nr_waits;		/* for merges, so far */
	unsigned long nr_granules;	/* per huge page */
	unsigned long nr_pages;		/* per huge page */
	struct walk_huge *huge;
};

static __printf(2, 3) int walk_violated(struct lend_walk *w, const char *fmt, ...)
{
	struct va_format vaf = { .fmt = fmt };
	va_list args;

	va_start(args, fmt);
	vaf.va = &args;
	pr_err("seed %llu, step %llu, %s at %llx nr %llx order %u: %pV\n",
	       w->args->seed, w->args->nr_steps, w->step, w->op.index, w->op.nr,
	       w->op.order, &vaf);
	va_end(args);

	return -EUCLEAN;
}

static u32 walk_random(struct lend_walk *w, u32 below)
{
	return prandom_u32_state(&w->rnd) % below;
}

static struct walk_huge *walk_huge(struct lend_walk *w, pgoff_t index)
{
	return &w->huge[index >> w->lf->order];
}

static pgoff_t walk_start(struct lend_walk *w, struct walk_huge *h)
{
	return (pgoff_t)(h - w->huge) << w->lf->order;
}

static unsigned long walk_granule(struct lend_walk *w, pgoff_t index)
{
	return (index & (w->nr_pages - 1)) >> w->lf->granule_order;
}

static pgoff_t walk_granule_index(struct lend_walk *w, struct walk_huge *h,
				  unsigned long granule)
{
	return walk_start(w, h) + (granule << w->lf->granule_order);
}

/* In granules, of a block or folio; single pages make up a granule, too */
static unsigned long walk_nr_granules(struct lend_walk *w, unsigned int order)
{
	return order ? 1UL << (order - w->lf->granule_order) : 1;
}

/* The order of the folio that has the page */
static unsigned int walk_order(struct lend_walk *w, pgoff_t index)
{
	return walk_huge(w, index)->order[walk_granule(w, index)];
}

/* References of the walk to pages that are in the file, but for those of mappings */
static unsigned long walk_nr_holds(struct lend_walk *w, pgoff_t index,
				   unsigned int order)
{
	struct lend_file *lf = w->lf;
	struct lend_hold *hold;
	unsigned long nr = 0;

	list_for_each_entry(hold, &lf->holds, entry)
		nr += hold->folio->mapping == lf->mapping &&
		      hold->index >> order == index >> order;
	return nr;
}

static unsigned long walk_nr_mapped(struct lend_walk *w, pgoff_t index,
				    unsigned int order)
{
	struct walk_huge *h = walk_huge(w, index);
	unsigned long first, nr = 0, i;

	first = round_down(index - walk_start(w, h), 1UL << order);
	i = first;
	for_each_set_bit_from(i, h->mapped, first + (1UL << order))
		nr++;
	return nr;
}

static unsigned long walk_nr_refs(struct lend_walk *w, pgoff_t index,
				  unsigned int order)
{
	return walk_nr_holds(w, index, order) + walk_nr_mapped(w, index, order);
}

/* A block has become a folio. */
static void walk_make_folio(struct lend_walk *w, struct walk_huge *h,
			    unsigned long granule, unsigned int order)
{
	const unsigned long nr = walk_nr_granules(w, order);

	memset(h->order + granule, order, nr);
	bitmap_set(h->suspect, granule, nr);
	bitmap_clear(h->exposed, granule << w->lf->granule_order, 1UL << order);
	bitmap_clear(h->mapped, granule << w->lf->granule_order, 1UL << order);
}

/* A folio has become single pages from granule @first to @last, and buddies. */
static void walk_split_folio(struct lend_walk *w, struct walk_huge *h,
			     unsigned long first, unsigned long last)
{
	const unsigned int granule_order = w->lf->granule_order;
	const unsigned int order = h->order[first];
	const unsigned long nr = walk_nr_granules(w, order);
	unsigned long g = round_down(first, nr);
	const unsigned long end = g + nr;
	unsigned int k;

	bitmap_set(h->suspect, g, nr);
	for (; g < end; g += 1UL << k) {
		k = 0;
		if (g >= first && g <= last) {
			h->order[g] = 0;
			continue;
		}
		while (k + granule_order < order && IS_ALIGNED(g, 2UL << k) &&
		       (g > last || g + (2UL << k) <= first))
			k++;
		memset(h->order + g, granule_order + k, 1UL << k);
	}

	/* A block of which a part is split is not wanted any more. */
	for (k = 0; k + granule_order <= w->lf->order; k++)
		for (g = round_down(first, 1UL << k); g <= last; g += 1UL << k)
			h->wanted[g] &= ~BIT(k + granule_order);
}

static unsigned int cached_order(struct lend_walk *w, pgoff_t index)
{
	struct folio *folio = xa_load(&w->lf->mapping->i_pages, index);

	return folio ? folio_order(folio) : 0;
}

/* See whether the kernel has made a block a folio; if so the model follows. */
static int walk_adopt_block(struct lend_walk *w, struct walk_huge *h,
			    unsigned long granule, unsigned int order)
{
	const pgoff_t index = walk_granule_index(w, h, granule);

	if (h->order[granule] >= order || cached_order(w, index) < order)
		return 0;
	if (walk_nr_refs(w, index, order))
		return walk_violated(w, "merged at %lx order %u in spite of a reference",
				     index, order);

	walk_make_folio(w, h, granule, order);
	return 0;
}

/* Of a merge that fails, or is not yet done, parts from PMD_ORDER on may be done. */
static int walk_adopt_parts(struct lend_walk *w, struct walk_huge *h,
			    unsigned long granule, unsigned int order)
{
	const unsigned long end = granule + walk_nr_granules(w, order);
	unsigned int part;
	int r;

	if (order <= PMD_ORDER)
		return 0;

	while (granule < end) {
		part = cached_order(w, walk_granule_index(w, h, granule));
		if (part >= order || !IS_ALIGNED(granule, walk_nr_granules(w, part)))
			return walk_violated(w, "order is %u at %lx", part,
					     walk_granule_index(w, h, granule));
		if (part >= PMD_ORDER) {
			r = walk_adopt_block(w, h, granule, part);
			if (r)
				return r;
		}
		part = max_t(unsigned int, h->order[granule], PMD_ORDER);
		granule += walk_nr_granules(w, part);
	}

	return 0;
}

static int walk_adopt_wanted(struct lend_walk *w, struct walk_huge *h,
			     unsigned long granule, unsigned int order)
{
	const pgoff_t index = walk_granule_index(w, h, granule);
	int r;

	if (h->order[granule] >= order)
		return 0;

	r = walk_adopt_block(w, h, granule, order);
	if (r)
		return r;
	if (h->order[granule] < order)
		return walk_adopt_parts(w, h, granule, order);

	if (!(h->told[granule] & BIT(order)))
		return walk_violated(w, "merged at %lx order %u without a word",
				     index, order);
	w->args->nr_later++;
	return 0;
}

/* See whether what may be merged at any time has been. */
static int walk_adopt(struct lend_walk *w, struct walk_huge *h)
{
	unsigned int order = w->lf->order;
	unsigned long g;
	int r = 0;

	if (!h->there)
		return 0;

	/* The largest first, as the merge of a small one is not told then. */
	for (; !r && order && order >= w->lf->granule_order; order--)
		for (g = 0; !r && g < w->nr_granules; g += walk_nr_granules(w, order))
			if (h->wanted[g] & BIT(order))
				r = walk_adopt_wanted(w, h, g, order);

	for (g = 0; !r && g < w->nr_granules; g++) {
		if (h->told[g] && __fls(h->told[g]) > h->order[g])
			r = walk_violated(w, "told of orders %x at %lx, which has %u",
					  h->told[g], walk_granule_index(w, h, g),
					  h->order[g]);
		h->told[g] = 0;
	}

	return r;
}

static int walk_check_pages(struct lend_walk *w, struct folio *folio, pgoff_t index,
			    unsigned long nr, bool all)
{
	/* Between two entries of that many pages the page cache has no other. */
	const unsigned long entries = nr > 1UL << PMD_ORDER ?
				      1UL << w->lf->granule_order : 1;
	struct xarray *xa = &w->lf->mapping->i_pages;
	struct page *page = folio_page(folio, 0);
	unsigned long i;

	for (i = 0; i < nr; i++) {
		if (page_folio(page + i) != folio || PageTail(page + i) != !!i)
			return walk_violated(w, "page %lx is not in the folio at %lx",
					     index + i, index);
		if ((!all || i % entries == 0 || i + 1 == nr) &&
		    xa_load(xa, index + i) != folio)
			return walk_violated(w, "the file has another folio at %lx",
					     index + i);
		/* The ends, and a few others */
		if (!all && i + 1 < nr)
			i = min(i + walk_random(w, nr), nr - 2);
	}

	return 0;
}

static int walk_check_folio(struct lend_walk *w, struct walk_huge *h,
			    pgoff_t index, unsigned int order, bool all)
{
	const unsigned long nr = 1UL << order, offset = index - walk_start(w, h);
	const unsigned long refs = nr + walk_nr_refs(w, index, order);
	const bool exposed = !order && test_bit(offset, h->exposed);
	const bool mapped = !order && test_bit(offset, h->mapped);
	struct xarray *xa = &w->lf->mapping->i_pages;
	struct page *page = pfn_to_page(h->pfn + offset);
	struct folio *folio = xa_load(xa, index);

	if (folio != (struct folio *)page || xa_is_value(folio))
		return walk_violated(w, "the file has another page at %lx", index);
	if (folio_order(folio) != order || xa_get_order(xa, index) != order)
		return walk_violated(w, "order is %u, in the file %d, not %u, at %lx",
				     folio_order(folio), xa_get_order(xa, index),
				     order, index);
	if (folio->mapping != w->lf->mapping || folio->index != index)
		return walk_violated(w, "index is %lx, not %lx", folio->index, index);
	if (!folio_test_uptodate(folio))
		return walk_violated(w, "not up to date at %lx", index);
	if (folio_test_lent(folio) == exposed || hugetlb_lent_exposed(folio) != exposed)
		return walk_violated(w, "the type is wrong at %lx", index);
	if (exposed && folio_mapped(folio) != mapped)
		return walk_violated(w, "%smapped at %lx", mapped ? "not " : "", index);
	if (folio_ref_count(folio) < refs)
		return walk_violated(w, "%d references, not %lu, at %lx",
				     folio_ref_count(folio), refs, index);
	if (refs > nr && hugetlb_lent_unused(folio, 0))
		return walk_violated(w, "unused in spite of references at %lx", index);

	return walk_check_pages(w, folio, index, nr, all);
}

static bool walk_wanted_is_done(struct lend_walk *w, struct walk_huge *h)
{
	unsigned long g;

	for (g = 0; g < w->nr_granules; g++)
		if (h->wanted[g] && __fls(h->wanted[g]) > h->order[g])
			return false;
	return true;
}

static int walk_check_stats(struct lend_walk *w, struct walk_huge *h)
{
	unsigned int nr_folios[MAX_FOLIO_ORDER + 1] = {}, order;
	unsigned long nr_vmemmap = 0, g;
	struct hugetlb_lent_stats stats;
	bool wanted = false;

	for (g = 0; g < w->nr_granules; g += walk_nr_granules(w, order)) {
		order = h->order[g];
		nr_folios[order] += order ? 1 : 1U << w->lf->granule_order;
		nr_vmemmap++;
	}
	if (!h->hvo)
		nr_vmemmap = w->nr_pages * sizeof(struct page) / PAGE_SIZE;
	for (g = 0; g < w->nr_granules; g++)
		wanted |= h->wanted[g];

	hugetlb_lent_stats((struct folio *)pfn_to_page(h->pfn), &stats);
	if (stats.order != w->lf->order || stats.nr_returned)
		return walk_violated(w, "order is %u, %lu pages returned", stats.order,
				     stats.nr_returned);
	for (order = 0; order <= MAX_FOLIO_ORDER; order++)
		if (stats.nr_folios[order] != nr_folios[order])
			return walk_violated(w, "%u folios of order %u, not %u",
					     stats.nr_folios[order], order,
					     nr_folios[order]);
	if (stats.nr_vmemmap != nr_vmemmap)
		return walk_violated(w, "%lu pages of vmemmap, not %lu",
				     stats.nr_vmemmap, nr_vmemmap);
	if (stats.merge_wanted && !wanted)
		return walk_violated(w, "a merge is wanted that was not asked for");
	if (!stats.merge_wanted) {
		if (!walk_wanted_is_done(w, h))
			return walk_violated(w, "a merge is not wanted any more");
		memset32(h->wanted, 0, w->nr_granules);
	}

	return 0;
}

static int walk_check_granule(struct lend_walk *w, struct walk_huge *h,
			      unsigned long granule, bool all)
{
	const pgoff_t index = walk_granule_index(w, h, granule);
	const unsigned long nr = 1UL << w->lf->granule_order;
	unsigned long i;
	int r = 0;

	/* Of single pages that nothing was done to, a few will do. */
	if (!all && walk_random(w, 16))
		return 0;
	if (!all)
		return walk_check_folio(w, h, index + walk_random(w, nr), 0, true);

	for (i = 0; !r && i < nr; i++)
		r = walk_check_folio(w, h, index + i, 0, true);
	return r;
}

static int walk_check(struct lend_walk *w, struct walk_huge *h, bool all)
{
	pgoff_t index = walk_start(w, h);
	unsigned long g, nr;
	unsigned int order;
	bool full;
	int r = 0;

	if (!h->there) {
		if (xa_find(&w->lf->mapping->i_pages, &index, index + w->nr_pages - 1,
			    XA_PRESENT))
			return walk_violated(w, "there is a page at %lx", index);
		return 0;
	}

	for (g = 0; !r && g < w->nr_granules; g += nr) {
		order = h->order[g];
		nr = walk_nr_granules(w, order);
		full = all || find_next_bit(h->suspect, g + nr, g) < g + nr;
		index = walk_granule_index(w, h, g);
		r = order ? walk_check_folio(w, h, index, order, full) :
			    walk_check_granule(w, h, g, full);
		cond_resched();
	}
	if (r)
		return r;

	bitmap_zero(h->suspect, w->nr_granules);
	return walk_check_stats(w, h);
}

/* Other tasks use the page for a moment; let them end that. */
static int walk_wait(struct lend_walk *w, unsigned long timeout)
{
	if (fatal_signal_pending(current))
		return -EINTR;
	if (time_after(jiffies, timeout))
		return -ETIME;

	filemap_invalidate_unlock(w->lf->mapping);
	fsleep(1000);
	filemap_invalidate_lock(w->lf->mapping);
	return 0;
}

static int walk_do_split(struct lend_walk *w, struct test_lend_op *op)
{
	struct hugetlb_lent_split *split;
	struct folio *folio;

	split = split_prepare(w->lf, op, &folio);
	if (IS_ERR(split))
		return PTR_ERR(split);
	return split_commit(w->lf, op, folio, split);
}

static void walk_choose_range(struct lend_walk *w, pgoff_t index, unsigned int order)
{
	const pgoff_t end = round_down(index, 1UL << order) + (1UL << order);
	struct test_lend_op *op = &w->op;
	unsigned int block;

	switch (walk_random(w, 8)) {
	case 0:
		/* A block, be it the folio; to split 1G is a lot of work to check. */
		block = walk_random(w, order + 1);
		if (block > PMD_ORDER && walk_random(w, 8))
			block = PMD_ORDER;
		op->nr = 1UL << block;
		op->index = round_down(index, op->nr);
		break;
	case 1:
		op->nr = 1 + walk_random(w, min(end - index, 2UL << PMD_ORDER));
		break;
	case 2:
		op->nr = min(end - index, 1UL << walk_random(w, PMD_ORDER + 1));
		op->index = end - op->nr;
		break;
	default:
		op->nr = 1;
		break;
	}
}

/* What w->op says, of the folio that has the page at @index */
static int walk_split_range(struct lend_walk *w, pgoff_t index)
{
	const unsigned int order = walk_order(w, index);
	struct walk_huge *h = walk_huge(w, index);
	struct test_lend_op *op = &w->op;
	bool held, nothing;
	int r;

	held = order && walk_nr_refs(w, index, order);
	r = walk_do_split(w, op);
	nothing = op->state & TEST_LEND_NOTHING_TO_DO;
	if (r == -ENOMEM) {
		w->args->nr_failed++;
		return 0;
	}
	if (r == -EAGAIN && !(op->flags & TEST_LEND_PREPARE_ONLY) && order) {
		w->args->nr_refused += held;
		return held ? 0 : r;
	}
	if (r || nothing != !order)
		return walk_violated(w, "split says %d, state %x", r, op->state);
	if (op->flags & TEST_LEND_PREPARE_ONLY || !order)
		return 0;
	if (held)
		return walk_violated(w, "split in spite of a reference");

	walk_split_folio(w, h, walk_granule(w, op->index),
			 walk_granule(w, op->index + op->nr - 1));
	w->args->nr_splits++;
	w->args->nr_uniform += op->nr == 1UL << order;
	return 0;
}

static int walk_split(struct lend_walk *w, pgoff_t index)
{
	const unsigned int order = walk_order(w, index);
	struct test_lend_op *op = &w->op;
	int r;

	walk_choose_range(w, index, order);
	if (order && !walk_random(w, 64)) {
		/* One page too many */
		op->index = index;
		op->nr = (1UL << order) - (index & ((1UL << order) - 1)) + 1;
		r = walk_do_split(w, op);
		return r == -EINVAL ? 0 : walk_violated(w, "split says %d", r);
	}
	if (!walk_random(w, 8))
		op->flags = TEST_LEND_PREPARE_ONLY;
	return walk_split_range(w, index);
}

static int walk_split_all(struct lend_walk *w, pgoff_t index)
{
	w->op.nr = 1UL << walk_order(w, index);
	w->op.index = round_down(index, w->op.nr);
	return walk_split_range(w, index);
}

/* Returns false if the order is one that cannot be merged to. */
static bool walk_choose_block(struct lend_walk *w, pgoff_t index)
{
	const unsigned int granule_order = w->lf->granule_order;
	struct test_lend_op *op = &w->op;
	bool good = true;

	switch (walk_random(w, 32)) {
	case 0:
		op->order = walk_random(w, granule_order);
		good = false;
		break;
	case 1:
		op->order = w->lf->order + 1;
		good = false;
		break;
	case 2 ... 5:
		op->order = w->lf->order;
		break;
	case 6 ... 15:
		op->order = min(w->lf->order, PMD_ORDER);
		break;
	default:
		op->order = granule_order +
			    walk_random(w, w->lf->order - granule_order + 1);
		break;
	}

	op->index = round_down(index, 1UL << op->order);
	return good;
}

static int walk_merge(struct lend_walk *w, pgoff_t index)
{
	struct walk_huge *h = walk_huge(w, index);
	struct test_lend_op *op = &w->op;
	unsigned long g;
	bool held;
	int r;

	if (!walk_choose_block(w, index)) {
		/* The file may have no page there. */
		if (!walk_huge(w, op->index)->there)
			return 0;
		/* The device unmaps a small block before it hears that. */
		if (op->order < w->lf->granule_order)
			bitmap_clear(h->mapped, op->index - walk_start(w, h),
				     1UL << op->order);
		r = lend_merge(w->lf, op);
		return r == -EINVAL ? 0 : walk_violated(w, "merge says %d", r);
	}

	g = walk_granule(w, op->index);
	if (h->order[g] >= op->order) {
		r = lend_merge(w->lf, op);
		return !r && op->state & TEST_LEND_NOTHING_TO_DO ? 0 :
		       walk_violated(w, "merge says %d, state %x", r, op->state);
	}

	/* What is mapped is unmapped first. */
	bitmap_clear(h->mapped, op->index - walk_start(w, h), 1UL << op->order);
	held = walk_nr_holds(w, op->index, op->order);
	r = lend_merge(w->lf, op);
	if (r == -ENOMEM || r == -EAGAIN) {
		w->args->nr_failed += r == -ENOMEM;
		w->args->nr_refused += r == -EAGAIN && held;
		return walk_adopt_parts(w, h, g, op->order) ?:
		       (r == -EAGAIN && !held ? r : 0);
	}
	if (r || op->state & TEST_LEND_NOTHING_TO_DO)
		return walk_violated(w, "merge says %d, state %x", r, op->state);
	if (held)
		return walk_violated(w, "merged in spite of a reference");

	walk_make_folio(w, h, g, op->order);
	w->args->nr_merges++;
	return 0;
}

static int walk_merge_later(struct lend_walk *w, pgoff_t index)
{
	struct walk_huge *h = walk_huge(w, index);
	struct test_lend_op *op = &w->op;
	bool good;
	int r;

	good = walk_choose_block(w, index);
	if (!walk_huge(w, op->index)->there)
		return 0;
	r = lend_merge_later(w->lf, op);
	if (r != (good ? 0 : -EINVAL))
		return walk_violated(w, "merge later says %d", r);
	if (good)
		h->wanted[walk_granule(w, op->index)] |= BIT(op->order);
	return 0;
}

/* A single page, if there are any, not far from that which chance has chosen */
static bool walk_find_single(struct lend_walk *w, pgoff_t *index)
{
	struct walk_huge *h = walk_huge(w, *index);
	unsigned long start = walk_granule(w, *index), i, g;

	for (i = 0; i < w->nr_granules; i++) {
		g = (start + i) & (w->nr_granules - 1);
		if (h->order[g])
			continue;
		*index = walk_granule_index(w, h, g) +
			 (*index & ((1UL << w->lf->granule_order) - 1));
		return true;
	}

	return false;
}

/* The same of those of which the bit is set */
static bool walk_find_bit(struct lend_walk *w, const unsigned long *bits,
			  pgoff_t *index)
{
	struct walk_huge *h = walk_huge(w, *index);
	unsigned long bit;

	bit = find_next_bit_wrap(bits, w->nr_pages, *index - walk_start(w, h));
	if (bit >= w->nr_pages)
		return false;

	*index = walk_start(w, h) + bit;
	return true;
}

static int walk_expose(struct lend_walk *w, pgoff_t index)
{
	struct walk_huge *h = walk_huge(w, index);
	int r;

	if (!walk_find_single(w, &index)) {
		r = lend_expose(w->lf, &w->op);
		return r == -EINVAL ? 0 : walk_violated(w, "expose says %d", r);
	}

	w->op.index = index;
	w->args->nr_exposed++;
	__set_bit(index - walk_start(w, h), h->exposed);
	__set_bit(walk_granule(w, index), h->suspect);
	return lend_expose(w->lf, &w->op);
}

static int walk_hide(struct lend_walk *w, pgoff_t index)
{
	struct walk_huge *h = walk_huge(w, index);

	/* Mostly one that is exposed */
	if (!walk_find_single(w, &index) ||
	    (walk_random(w, 4) && !walk_find_bit(w, h->exposed, &index)))
		return 0;

	__clear_bit(index - walk_start(w, h), h->exposed);
	__clear_bit(index - walk_start(w, h), h->mapped);
	__set_bit(walk_granule(w, index), h->suspect);
	w->op.index = index;
	return lend_hide(w->lf, &w->op);
}

/* Touch a page, as the user would: that takes the locks of a fault. */
static int walk_map(struct lend_walk *w, pgoff_t index)
{
	struct walk_huge *h = walk_huge(w, index);
	const char __user *address;
	bool exposed, before;
	int r;

	if (!w->args->map)
		return 0;
	if (walk_random(w, 4))
		walk_find_bit(w, h->exposed, &index);
	w->op.index = index;
	before = test_bit(index - walk_start(w, h), h->exposed);
	address = u64_to_user_ptr(w->args->map + ((u64)index << PAGE_SHIFT));

	filemap_invalidate_unlock(w->lf->mapping);
	r = fault_in_readable(address, 1) ? -EFAULT : 0;
	filemap_invalidate_lock(w->lf->mapping);
	if (r && fatal_signal_pending(current))
		return -EINTR;

	/* A merge may have come first; if not, the mapping keeps it off. */
	if (!r) {
		__set_bit(index - walk_start(w, h), h->mapped);
		w->args->nr_mapped++;
	}
	r = r ? walk_adopt(w, h) : walk_adopt(w, h) ?: 1;
	if (r < 0)
		return r;
	exposed = test_bit(index - walk_start(w, h), h->exposed);
	__set_bit(walk_granule(w, index), h->suspect);
	if (exposed != r)
		return walk_violated(w, "%s be touched, %sexposed before",
				     r ? "can" : "cannot", before ? "" : "not ");
	return 0;
}

static int walk_hold(struct lend_walk *w, pgoff_t index)
{
	int r;

	if (w->lf->nr_holds >= 8)
		return 0;

	if (walk_random(w, 2) && walk_find_single(w, &index))
		w->op.index = index;
	r = lend_hold(w->lf, &w->op);
	if (r == -ENOMEM)
		w->args->nr_failed++;
	else if (!r)
		w->args->nr_holds++;
	return r == -ENOMEM ? 0 : r;
}

/* Of a page that was punched nothing that is held has returned. */
static int walk_check_held(struct lend_walk *w)
{
	struct hugetlb_lent_stats stats;
	struct lend_hold *hold;

	list_for_each_entry(hold, &w->lf->holds, entry) {
		if (hold->folio->mapping)
			continue;
		hugetlb_lent_stats(hold->folio, &stats);
		if (stats.order != w->lf->order ||
		    stats.nr_returned + folio_nr_pages(hold->folio) > w->nr_pages)
			return walk_violated(w, "%lu pages returned, %lu held",
					     stats.nr_returned,
					     folio_nr_pages(hold->folio));
	}

	return 0;
}

static int walk_release(struct lend_walk *w, pgoff_t index)
{
	struct test_lend_op *op = &w->op;
	struct lend_hold *hold;
	int r;

	if (!w->lf->nr_holds)
		return 0;

	op->context = walk_random(w, TEST_LEND_NR_CONTEXTS);
	if (walk_random(w, 3)) {
		hold = list_first_entry(&w->lf->holds, struct lend_hold, entry);
		op->index = hold->index;
	} else {
		op->index = 0;
		op->flags = TEST_LEND_ALL;
	}

	r = lend_release_holds(w->lf, op);
	if (r)
		return walk_violated(w, "release says %d", r);
	return walk_check_held(w);
}

static int walk_punch(struct lend_walk *w, pgoff_t index)
{
	struct walk_huge *h = walk_huge(w, index);
	int r;

	w->op.index = index >> w->lf->order;
	w->args->nr_punched++;
	h->there = false;
	r = lend_punch(w->lf, &w->op);
	return r ?: walk_check_held(w);
}

static bool walk_has_orphans(struct lend_walk *w)
{
	struct lend_hold *hold;

	list_for_each_entry(hold, &w->lf->holds, entry)
		if (!hold->folio->mapping)
			return true;
	return false;
}

static int walk_populate(struct lend_walk *w, pgoff_t index)
{
	struct walk_huge *h = walk_huge(w, index);
	struct hugetlb_lent_stats stats;
	struct folio *folio;
	int r;

	w->op.index = index >> w->lf->order;
	r = lend_populate(w->lf, &w->op);
	if (r == -EAGAIN && walk_has_orphans(w))
		return 0;
	if (r == -ENOMEM) {
		w->args->nr_failed++;
		return 0;
	}
	if (r)
		return r;

	folio = xa_load(&w->lf->mapping->i_pages, walk_start(w, h));
	if (!folio)
		return walk_violated(w, "populating has no effect");

	h->there = true;
	h->pfn = folio_pfn(folio);
	memset32(h->wanted, 0, w->nr_granules);
	memset32(h->told, 0, w->nr_granules);
	walk_make_folio(w, h, 0, w->lf->order);

	hugetlb_lent_stats(folio, &stats);
	h->hvo = stats.nr_vmemmap == 1;
	return 0;
}

/*
 * Leave the page alone until something of it is merged, or for three seconds: what
 * is mapped may keep it from that.
 */
static int walk_let_merge(struct lend_walk *w, pgoff_t index)
{
	const unsigned long nr_merged = w->lf->nr_merged;
	struct walk_huge *h = walk_huge(w, index);
	unsigned long end = jiffies + 3 * HZ;
	int r = 0;

	if (walk_wanted_is_done(w, h) || w->nr_waits++ >= 8)
		return 0;
	w->op = (struct test_lend_op) { .flags = TEST_LEND_ALL };
	lend_release_holds(w->lf, &w->op);
	while (!r && w->lf->nr_merged == nr_merged && time_before(jiffies, end))
		r = walk_wait(w, end + PATIENCE);
	return r ?: walk_adopt(w, h);
}

struct walk_step {
	const char *name;
	unsigned int weight;
	int (*fn)(struct lend_walk *w, pgoff_t index);
};

static const struct walk_step walk_steps[] = {
	{ "split",	24,	walk_split },
	{ "merge",	15,	walk_merge },
	{ "merge later", 5,	walk_merge_later },
	{ "let merge",	4,	walk_let_merge },
	{ "expose",	15,	walk_expose },
	{ "hide",	6,	walk_hide },
	{ "map",	12,	walk_map },
	{ "hold",	8,	walk_hold },
	{ "release",	9,	walk_release },
	{ "punch",	2,	walk_punch },
};

static const struct walk_step walk_populate_step = { "populate", 0, walk_populate };

static const struct walk_step *walk_choose(struct lend_walk *w)
{
	unsigned int i, sum = 0;

	for (i = 0; i < ARRAY_SIZE(walk_steps); i++)
		sum += walk_steps[i].weight;
	sum = walk_random(w, sum);
	for (i = 0; sum >= walk_steps[i].weight; i++)
		sum -= walk_steps[i].weight;
	return &walk_steps[i];
}

static int walk_step_at(struct lend_walk *w, const struct walk_step *step,
			pgoff_t index)
{
	const unsigned long timeout = jiffies + PATIENCE;
	struct walk_huge *h = walk_huge(w, index);
	const struct rnd_state rnd = w->rnd;
	int r;

	for (;;) {
		w->step = step->name;
		w->op = (struct test_lend_op) { .index = index, .nr = 1 };
		r = walk_adopt(w, h);
		if (r)
			return r;

		r = step->fn(w, index);
		/* Anything that the walk does not expect */
		if (r && r != -EAGAIN && r != -EUCLEAN && r != -EINTR && r != -ETIME)
			r = walk_violated(w, "error %d", r);
		if (r && r != -EAGAIN)
			return r;

		/* Of another task's reference: nothing has changed. */
		if (!r || h->there) {
			const int checked = walk_check(w, h, false);

			if (checked || !r)
				return checked;
		}

		w->args->nr_retried++;
		r = walk_wait(w, timeout);
		if (r)
			return r;
		w->rnd = rnd;
	}
}

static int walk_random_step(struct lend_walk *w)
{
	pgoff_t index = walk_random(w, w->lf->nr_huge);
	const struct walk_step *step = walk_choose(w);
	struct walk_huge *h = &w->huge[index];

	/* Mostly in a few blocks, so that something happens to these again. */
	index <<= w->lf->order;
	index += walk_random(w, 1U << min(w->lf->order, PMD_ORDER +
					  (walk_random(w, 8) ? 2 : 32)));
	if (!h->there && step->fn != walk_release)
		step = &walk_populate_step;

	return walk_step_at(w, step, index);
}

/* Single pages all over, which are not used, get merged, and the borrower is told. */
static int walk_end_later(struct lend_walk *w, struct walk_huge *h)
{
	const unsigned long timeout = jiffies + PATIENCE;
	const pgoff_t start = walk_start(w, h);
	int r;

	/* Anew, as a page that was merged before waits the longer. */
	r = walk_step_at(w, &(struct walk_step){ "punch", 0, walk_punch }, start);
	while (!r && !h->there)
		r = walk_step_at(w, &walk_populate_step, start) ?:
		    walk_wait(w, timeout);
	while (!r && h->order[0] == w->lf->order)
		r = walk_step_at(w, &(struct walk_step){ "split all", 0, walk_split_all },
				 start) ?:
		    walk_wait(w, timeout);
	if (r)
		return r;

	w->step = "end, merge later";
	w->op = (struct test_lend_op) { .index = start, .order = w->lf->order };
	r = lend_merge_later(w->lf, &w->op);
	if (r)
		return walk_violated(w, "merge later says %d", r);
	h->wanted[0] |= BIT(w->lf->order);
	r = walk_check(w, h, false);
	while (!r && h->order[0] < w->lf->order)
		r = walk_wait(w, timeout) ?: walk_adopt(w, h);
	return r ?: walk_check(w, h, true);
}

static int walk_end_merge(struct lend_walk *w, struct walk_huge *h)
{
	const unsigned long timeout = jiffies + PATIENCE;
	int r;

	w->step = "end, merge";
	for (;;) {
		w->op = (struct test_lend_op) {
			.index = walk_start(w, h),
			.order = w->lf->order,
		};
		bitmap_zero(h->mapped, w->nr_pages);
		r = lend_merge(w->lf, &w->op);
		if (!r)
			break;
		if (r != -ENOMEM && r != -EAGAIN)
			return walk_violated(w, "merge says %d", r);
		r = walk_adopt_parts(w, h, 0, w->lf->order) ?: walk_check(w, h, false);
		r = r ?: walk_wait(w, timeout) ?: walk_adopt(w, h);
		if (r)
			return r;
	}

	if (h->order[0] < w->lf->order)
		walk_make_folio(w, h, 0, w->lf->order);
	return walk_check(w, h, true);
}

static int walk_end_huge(struct lend_walk *w, struct walk_huge *h)
{
	int r;

	if (h == w->huge)
		return walk_end_later(w, h);

	w->step = "end";
	if (h->there && walk_random(w, 2))
		return walk_end_merge(w, h);
	if (h->there) {
		w->op = (struct test_lend_op) { .nr = 1 };
		r = walk_punch(w, walk_start(w, h));
		if (r)
			return r;
	}
	return walk_check(w, h, true);
}

/* All has returned that is not in the file. */
static int walk_check_reservation(struct lend_walk *w)
{
	unsigned long timeout = jiffies + PATIENCE;
	unsigned long reserved, allocated, nr = 0, i;
	int r;

	for (i = 0; i < w->lf->nr_huge; i++)
		nr += w->huge[i].there;

	w->step = "end";
	for (;;) {
		hugetlb_reservation_flush(w->lf->resv);
		hugetlb_reservation_stats(w->lf->resv, &reserved, &allocated);
		if (reserved + allocated != w->lf->nr_huge || allocated < nr)
			return walk_violated(w, "%lu reserved, %lu allocated",
					     reserved, allocated);
		if (allocated == nr)
			return 0;
		r = walk_wait(w, timeout);
		if (r)
			return r;
	}
}

static int walk_check_all(struct lend_walk *w)
{
	unsigned long i;
	int r = 0;

	for (i = 0; !r && i < w->lf->nr_huge; i++) {
		r = walk_adopt(w, &w->huge[i]);
		if (!r)
			r = walk_check(w, &w->huge[i], true);
	}

	return r;
}

static int walk_all_steps(struct lend_walk *w)
{
	struct address_space *mapping = w->lf->mapping;
	unsigned long i;
	int r;

	w->step = "begin";
	filemap_invalidate_lock(mapping);
	w->op = (struct test_lend_op) { .nr = w->lf->nr_huge };
	r = lend_punch(w->lf, &w->op);
	w->lf->told = w->huge[0].told;
	filemap_invalidate_unlock(mapping);

	while (!r && w->args->nr_steps < w->args->rounds) {
		if (signal_pending(current))
			r = -EINTR;

		filemap_invalidate_lock(mapping);
		if (!r)
			r = walk_random_step(w);
		w->args->nr_steps++;
		if (!r && !(w->args->nr_steps % 64))
			r = walk_check_all(w);
		filemap_invalidate_unlock(mapping);
		cond_resched();
	}

	filemap_invalidate_lock(mapping);
	w->op = (struct test_lend_op) { .flags = TEST_LEND_ALL };
	lend_release_holds(w->lf, &w->op);
	for (i = 0; !r && i < w->lf->nr_huge; i++) {
		r = walk_adopt(w, &w->huge[i]);
		if (!r)
			r = walk_end_huge(w, &w->huge[i]);
	}
	if (!r)
		r = walk_check_reservation(w);
	w->lf->told = NULL;
	filemap_invalidate_unlock(mapping);

	return r;
}

static void walk_free(struct lend_walk *w)
{
	struct walk_huge *h;

	if (!w->huge)
		return;

	kvfree(w->huge[0].told);
	for (h = w->huge; h < w->huge + w->lf->nr_huge; h++) {
		kvfree(h->order);
		kvfree(h->wanted);
		kvfree(h->suspect);
		kvfree(h->exposed);
		kvfree(h->mapped);
	}
	kvfree(w->huge);
}

static unsigned long *walk_bitmap(unsigned long nr)
{
	return kvcalloc(BITS_TO_LONGS(nr), sizeof(long), GFP_KERNEL_ACCOUNT);
}

static int walk_alloc(struct lend_walk *w)
{
	struct lend_file *lf = w->lf;
	struct walk_huge *h;
	u32 *told;

	BUILD_BUG_ON(MAX_FOLIO_ORDER >= 32);
	w->nr_pages = 1UL << lf->order;
	w->nr_granules = 1UL << (lf->order - lf->granule_order);
	w->huge = kvcalloc(lf->nr_huge, sizeof(*w->huge), GFP_KERNEL_ACCOUNT);
	told = kvcalloc(lf->nr_huge * w->nr_granules, sizeof(*told), GFP_KERNEL_ACCOUNT);
	if (!w->huge || !told) {
		kvfree(w->huge);
		w->huge = NULL;
		kvfree(told);
		return -ENOMEM;
	}

	for (h = w->huge; h < w->huge + lf->nr_huge; h++) {
		h->told = told + (h - w->huge) * w->nr_granules;
		h->order = kvzalloc(w->nr_granules, GFP_KERNEL_ACCOUNT);
		h->wanted = kvcalloc(w->nr_granules, sizeof(u32), GFP_KERNEL_ACCOUNT);
		h->suspect = walk_bitmap(w->nr_granules);
		h->exposed = walk_bitmap(w->nr_pages);
		h->mapped = walk_bitmap(w->nr_pages);
		if (!h->order || !h->wanted || !h->suspect || !h->exposed || !h->mapped)
			return -ENOMEM;
	}

	return 0;
}

static long lend_walk(struct lend_file *lf, struct test_lend_walk *args)
{
	struct lend_walk w = { .lf = lf, .args = args };
	int r;

	*args = (struct test_lend_walk) {
		.seed = args->seed,
		.rounds = args->rounds,
		.map = args->map,
	};
	prandom_seed_state(&w.rnd, args->seed);

	if (down_write_killable(&lf->walk_rwsem))
		return -EINTR;

	r = lf->nr_holds ? -EBUSY : walk_alloc(&w);
	if (!r)
		r = walk_all_steps(&w);
	walk_free(&w);
	if (r == -ETIME)
		pr_err("seed %llu, step %llu, %s: a task does not stop to use a page\n",
		       args->seed, args->nr_steps, w.step);

	up_write(&lf->walk_rwsem);
	return r;
}

/*
 * Files
 */

enum lend_lock { UNLOCKED, SHARED, EXCLUSIVE };

struct lend_ioctl {
	unsigned int cmd;
	unsigned int flags;	/* of struct test_lend_op, that it takes */
	enum lend_lock lock;	/* the invalidate lock, around it */
	long (*fn)(struct lend_file *lf, struct test_lend_op *op);
};

static const struct lend_ioctl lend_ioctls[] = {
	{ TEST_LEND_POPULATE, 0, EXCLUSIVE, lend_populate },
	{ TEST_LEND_SPLIT, TEST_LEND_PREPARE_ONLY, UNLOCKED, lend_split },
	{ TEST_LEND_MERGE, 0, EXCLUSIVE, lend_merge },
	{ TEST_LEND_MERGE_LATER, 0, SHARED, lend_merge_later },
	{ TEST_LEND_EXPOSE, 0, SHARED, lend_expose },
	{ TEST_LEND_HIDE, 0, EXCLUSIVE, lend_hide },
	{ TEST_LEND_PUNCH, 0, EXCLUSIVE, lend_punch },
	{ TEST_LEND_HOLD, 0, SHARED, lend_hold },
	{ TEST_LEND_RELEASE, TEST_LEND_ALL, SHARED, lend_release_holds },
};

static long lend_do_op(struct lend_file *lf, const struct lend_ioctl *ioctl,
		       struct test_lend_op *op)
{
	long r;

	if (op->flags & ~ioctl->flags)
		return -EINVAL;
	op->state = 0;
	op->tries = 0;
	op->prepare_cycles = 0;
	op->commit_cycles = 0;
	op->vmemmap_pages = 0;

	if (down_read_killable(&lf->walk_rwsem))
		return -EINTR;

	if (ioctl->lock == EXCLUSIVE)
		filemap_invalidate_lock(lf->mapping);
	else if (ioctl->lock == SHARED)
		filemap_invalidate_lock_shared(lf->mapping);

	r = ioctl->fn(lf, op);

	if (ioctl->lock == EXCLUSIVE)
		filemap_invalidate_unlock(lf->mapping);
	else if (ioctl->lock == SHARED)
		filemap_invalidate_unlock_shared(lf->mapping);

	up_read(&lf->walk_rwsem);
	return r;
}

static long lend_ioctl_op(struct lend_file *lf, unsigned int cmd, void __user *argp)
{
	struct test_lend_op op;
	unsigned int i;
	long r;

	for (i = 0; i < ARRAY_SIZE(lend_ioctls); i++) {
		if (lend_ioctls[i].cmd != cmd)
			continue;
		if (copy_from_user(&op, argp, sizeof(op)))
			return -EFAULT;
		r = lend_do_op(lf, &lend_ioctls[i], &op);
		if (copy_to_user(argp, &op, sizeof(op)))
			return -EFAULT;
		return r;
	}

	return -ENOTTY;
}

static long lend_ioctl_stats(struct lend_file *lf, void __user *argp)
{
	struct test_lend_stats stats;
	long r;

	if (copy_from_user(&stats, argp, sizeof(stats)))
		return -EFAULT;

	if (down_read_killable(&lf->walk_rwsem))
		return -EINTR;
	filemap_invalidate_lock_shared(lf->mapping);
	r = lend_stats(lf, &stats);
	filemap_invalidate_unlock_shared(lf->mapping);
	up_read(&lf->walk_rwsem);

	if (copy_to_user(argp, &stats, sizeof(stats)))
		return -EFAULT;
	return r;
}

static long lend_ioctl_walk(struct lend_file *lf, void __user *argp)
{
	struct test_lend_walk args;
	long r;

	if (copy_from_user(&args, argp, sizeof(args)))
		return -EFAULT;
	r = lend_walk(lf, &args);
	if (copy_to_user(argp, &args, sizeof(args)))
		return -EFAULT;
	return r;
}

static long lend_file_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct lend_file *lf = file->private_data;
	void __user *argp = (void __user *)arg;

	switch (cmd) {
	case TEST_LEND_STATS:
		return lend_ioctl_stats(lf, argp);
	case TEST_LEND_WALK:
		return lend_ioctl_walk(lf, argp);
	default:
		return lend_ioctl_op(lf, cmd, argp);
	}
}

static int lend_file_release(struct inode *inode, struct file *file)
{
	struct lend_file *lf = file->private_data;

	put_all(&lf->holds, TEST_LEND_TASK);
	truncate_inode_pages(lf->mapping, 0);

	/* An open path keeps the inode for longer than this module may be there. */
	lf->mapping->a_ops = &empty_aops;

	hugetlb_reservation_destroy(lf->resv);
	kfree(lf);
	return 0;
}

static const struct file_operations lend_file_fops = {
	.owner		= THIS_MODULE,
	.mmap_prepare	= lend_mmap_prepare,
	.release	= lend_file_release,
	.unlocked_ioctl	= lend_file_ioctl,
	.compat_ioctl	= compat_ptr_ioctl,
};

static struct file *lend_file_open(struct lend_file *lf)
{
	struct file *file;
	struct inode *inode;

	file = anon_inode_create_getfile("[test_hugetlb_lend]", &lend_file_fops, lf,
					 O_RDWR | O_CLOEXEC, NULL);
	if (IS_ERR(file))
		return file;

	file->f_flags |= O_LARGEFILE;
	inode = file_inode(file);
	inode->i_private = lf;
	i_size_write(inode, (loff_t)lend_nr_pages(lf) << PAGE_SHIFT);

	lf->mapping = inode->i_mapping;
	lf->mapping->a_ops = &lend_aops;
	mapping_set_gfp_mask(lf->mapping, GFP_HIGHUSER);
	mapping_set_large_folios(lf->mapping);
	mapping_set_unevictable(lf->mapping);
	mapping_set_inaccessible(lf->mapping);
	mapping_set_preaccounted(lf->mapping);

	return file;
}

/*
 * The device
 */

static struct lend_file *lend_file_alloc(const struct test_lend_create *args)
{
	struct lend_file *lf;

	if (args->pad || !args->nr_huge)
		return ERR_PTR(-EINVAL);
	if (args->order >= BITS_PER_LONG - PAGE_SHIFT)
		return ERR_PTR(-ENODEV);
	/* The size in bytes is a loff_t. */
	if (args->nr_huge > (u64)LLONG_MAX >> (args->order + PAGE_SHIFT))
		return ERR_PTR(-ENOMEM);

	lf = kzalloc_obj(*lf, GFP_KERNEL_ACCOUNT);
	if (!lf)
		return ERR_PTR(-ENOMEM);

	lf->order = args->order;
	lf->granule_order = min_t(unsigned int, lf->order,
				  ilog2(PAGE_SIZE / sizeof(struct page)));
	lf->nr_huge = args->nr_huge;
	init_rwsem(&lf->walk_rwsem);
	mutex_init(&lf->split_lock);
	mutex_init(&lf->hold_lock);
	INIT_LIST_HEAD(&lf->holds);

	lf->resv = hugetlb_reservation_create(lf->order, lf->nr_huge, lend_merged);
	if (IS_ERR(lf->resv)) {
		long r = PTR_ERR(lf->resv);

		kfree(lf);
		return ERR_PTR(r);
	}

	return lf;
}

static long lend_create(const struct test_lend_create __user *argp)
{
	struct test_lend_create args;
	struct lend_file *lf;
	struct file *file;
	int fd;

	if (copy_from_user(&args, argp, sizeof(args)))
		return -EFAULT;

	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0)
		return fd;

	lf = lend_file_alloc(&args);
	if (IS_ERR(lf)) {
		put_unused_fd(fd);
		return PTR_ERR(lf);
	}

	file = lend_file_open(lf);
	if (IS_ERR(file)) {
		put_unused_fd(fd);
		hugetlb_reservation_destroy(lf->resv);
		kfree(lf);
		return PTR_ERR(file);
	}

	fd_install(fd, file);
	return fd;
}

static long lend_put_cost(struct test_lend_put_cost __user *argp)
{
	struct test_lend_put_cost args;
	struct folio *folio;
	cycles_t start;
	u64 i;

	if (copy_from_user(&args, argp, sizeof(args)))
		return -EFAULT;
	if (!args.nr || args.nr > MAX_PUT_COST)
		return -EINVAL;

	folio = folio_alloc(GFP_KERNEL, 0);
	if (!folio)
		return -ENOMEM;

	start = get_cycles();
	for (i = 0; i < args.nr; i++) {
		folio_get(folio);
		folio_put(folio);
	}
	args.get_put_cycles = get_cycles() - start;
	folio_put(folio);

	start = get_cycles();
	for (i = 0; i < args.nr; i++) {
		folio = folio_alloc(GFP_KERNEL, 0);
		if (!folio)
			return -ENOMEM;
		folio_put(folio);
	}
	args.alloc_put_cycles = get_cycles() - start;

	return copy_to_user(argp, &args, sizeof(args)) ? -EFAULT : 0;
}

static long lend_device_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	void __user *argp = (void __user *)arg;

	switch (cmd) {
	case TEST_LEND_CREATE:
		return lend_create(argp);
	case TEST_LEND_PUT_COST:
		return lend_put_cost(argp);
	default:
		return -ENOTTY;
	}
}

static const struct file_operations lend_device_fops = {
	.owner		= THIS_MODULE,
	.unlocked_ioctl	= lend_device_ioctl,
	.compat_ioctl	= compat_ptr_ioctl,
};

static struct miscdevice lend_device = {
	.minor	= MISC_DYNAMIC_MINOR,
	.name	= "test_hugetlb_lend",
	.fops	= &lend_device_fops,
	.mode	= 0600,
};

module_misc_device(lend_device);
MODULE_DESCRIPTION("Test device for lent HugeTLB pages");
MODULE_LICENSE("GPL");
