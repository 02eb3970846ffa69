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
 *   mm->mmap_lock, in faults
 *   lend_file.walk_rwsem, in ioctls: for writing by a walk, whose model is wrong
 *   as soon as somebody else splits or merges; for reading by all others
 *     mapping->invalidate_lock, in faults for reading
 *       folio lock, lend_file.hold_lock
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
#include <linux/hugetlb_alloc.h>
#include <linux/hugetlb_lend.h>
#include <linux/irq_work.h>
#include <linux/list.h>
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

/* How long others may keep what they found by pfn, in jiffies */
#define PATIENCE		(10 * HZ)

/**
 * struct lend_file - a file with lent pages
 * @resv: where its pages are from
 * @mapping: its page cache
 * @order: of its huge pages
 * @nr_huge: number of these
 * @walk_rwsem: see above
 * @hold_lock: protects the fields below
 * @holds: references of TEST_LEND_HOLD, struct lend_hold
 * @nr_holds: number of them
 */
struct lend_file {
	struct hugetlb_reservation *resv;
	struct address_space *mapping;
	unsigned int order;
	unsigned long nr_huge;

	struct rw_semaphore walk_rwsem;

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

static unsigned int lend_piece_order(const struct lend_file *lf)
{
	return min(lf->order, PMD_ORDER);
}

static bool range_ok(u64 index, u64 nr, u64 size)
{
	return nr && index < size && nr <= size - index;
}

/*
 * The page cache
 */

static void lend_free_folio(struct folio *folio)
{
	if (!folio_test_lent(folio))
		hugetlb_lent_hide(folio);
}

static const struct address_space_operations lend_aops = {
	.dirty_folio	= noop_dirty_folio,
	.free_folio	= lend_free_folio,
};

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

	if (folio_test_large(folio) || folio_test_lent(folio)) {
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

/* Tell what the operation has made of the huge page; @nr_vmemmap is from before. */
static void op_result(struct folio *folio, struct test_lend_op *op,
		      unsigned long nr_vmemmap)
{
	struct hugetlb_loan_stats stats;

	hugetlb_loan_stats(folio, &stats);
	if (stats.split_pending)
		op->state |= TEST_LEND_SPLIT_PENDING;
	if (stats.merge_pending)
		op->state |= TEST_LEND_MERGE_PENDING;
	op->vmemmap_pages = (long)(stats.nr_vmemmap - nr_vmemmap);
}

static unsigned long nr_vmemmap(struct folio *folio)
{
	struct hugetlb_loan_stats stats;

	hugetlb_loan_stats(folio, &stats);
	return stats.nr_vmemmap;
}

static int populate_one(struct lend_file *lf, pgoff_t index)
{
	struct folio *folio;
	int r;

	if (xa_load(&lf->mapping->i_pages, index))
		return 0;

	folio = hugetlb_alloc_reserved(lf->resv, NULL, 0);
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

static long do_split(struct lend_file *lf, struct test_lend_op *op, bool all)
{
	unsigned long before;
	struct hugetlb_split *split;
	cycles_t start, middle;
	struct folio *folio;
	long r = 0;

	folio = lend_lock_folio(lf, op->index);
	if (IS_ERR(folio))
		return PTR_ERR(folio);
	before = nr_vmemmap(folio);

	start = get_cycles();
	split = all ? hugetlb_split_all_prepare(folio) :
		      hugetlb_split_prepare(folio, op->index - folio->index, op->nr);
	middle = get_cycles();
	if (IS_ERR(split)) {
		r = PTR_ERR(split);
		goto out;
	}

	if (!split)
		op->state |= TEST_LEND_NOTHING_TO_DO;
	if (op->flags & TEST_LEND_PREPARE_ONLY)
		hugetlb_split_cancel(split);
	else
		hugetlb_split_commit(split);
	op->commit_cycles = get_cycles() - middle;
	op->prepare_cycles = middle - start;
	op_result(folio, op, before);
out:
	lend_unlock_folio(folio);
	return r;
}

static long lend_split(struct lend_file *lf, struct test_lend_op *op)
{
	return do_split(lf, op, false);
}

static long lend_split_all(struct lend_file *lf, struct test_lend_op *op)
{
	return do_split(lf, op, true);
}

static long lend_complete(struct lend_file *lf, struct test_lend_op *op)
{
	unsigned long before;
	struct folio *folio;
	cycles_t start;
	long r;

	folio = lend_lock_folio(lf, op->index);
	if (IS_ERR(folio))
		return PTR_ERR(folio);
	before = nr_vmemmap(folio);

	start = get_cycles();
	r = hugetlb_split_complete(folio);
	op->commit_cycles = get_cycles() - start;
	op_result(folio, op, before);

	lend_unlock_folio(folio);
	return r;
}

static long lend_merge(struct lend_file *lf, struct test_lend_op *op)
{
	unsigned long before;
	struct hugetlb_merge *merge;
	cycles_t start, middle;
	struct folio *folio;
	long r = 0;

	if (op->order > lf->order || !IS_ALIGNED(op->index, 1UL << op->order))
		return -EINVAL;

	folio = lend_lock_folio(lf, op->index);
	if (IS_ERR(folio))
		return PTR_ERR(folio);
	before = nr_vmemmap(folio);

	/*
	 * A fault that has come past the invalidate lock already, to another page
	 * than the first, may map it after this.  It holds a reference.
	 */
	if (!(op->flags & TEST_LEND_PREPARE_ONLY))
		unmap_mapping_pages(lf->mapping, op->index, 1UL << op->order,
				    false);

	start = get_cycles();
	merge = hugetlb_merge_prepare(folio, op->order);
	middle = get_cycles();
	if (IS_ERR(merge)) {
		r = PTR_ERR(merge);
		goto out;
	}

	if (!merge)
		op->state |= TEST_LEND_NOTHING_TO_DO;
	if (op->flags & TEST_LEND_PREPARE_ONLY)
		hugetlb_merge_cancel(merge);
	else
		hugetlb_merge_commit(merge);
	op->commit_cycles = get_cycles() - middle;
	op->prepare_cycles = middle - start;
	op_result(folio, op, before);
out:
	lend_unlock_folio(folio);
	return r;
}

static long lend_merge_later(struct lend_file *lf, struct test_lend_op *op)
{
	struct folio *folio;

	folio = lend_lock_folio(lf, op->index);
	if (IS_ERR(folio))
		return PTR_ERR(folio);

	hugetlb_merge_later(folio);
	op_result(folio, op, nr_vmemmap(folio));

	lend_unlock_folio(folio);
	return 0;
}

static void expose_folio(struct lend_file *lf, struct folio *folio)
{
	if (folio_test_lent(folio))
		hugetlb_lent_expose(folio);
}

static void hide_folio(struct lend_file *lf, struct folio *folio)
{
	if (folio_test_lent(folio))
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
	hugetlb_loan_flush();

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
	hugetlb_loan_flush();
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
	struct hugetlb_loan_stats loan;

	hugetlb_loan_stats(folio, &loan);
	stats->huge_order = loan.order;
	stats->split_pending = loan.split_pending;
	stats->merge_pending = loan.merge_pending;
	stats->nr_folios = loan.nr_folios;
	stats->nr_small = loan.nr_small;
	stats->nr_vmemmap = loan.nr_vmemmap;
	stats->nr_back = loan.nr_back;

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
 * A walk.  The model says of each huge page whether it is whole, and of each of
 * its pieces whether that is split to single pages.  The invalidate lock is held
 * from before a step until its outcome is checked.  Between steps the only thing
 * that may happen is that a merge that was left for later is done; where it may,
 * the model is brought up to date.
 *
 * What else the kernel does may have references to the pages for a moment, which
 * leave a split or a merge pending that the walk itself does not hold up.  Such a
 * split is completed before the next step.
 */

/**
 * struct walk_huge - the model of a huge page
 * @there: it is in the file, else nothing below counts
 * @whole: it is one folio
 * @split_pending: the walk has a reference to the folio that was to be split
 * @merge_whole: it may become whole at any time
 * @small: bitmap of the pieces that are split
 * @merge: bitmap of the pieces that may become whole at any time
 * @suspect: bitmap of split pieces to check page by page after this step
 * @exposed: bitmap of its pages
 * @pending_op: the split that is pending
 * @pending_all: that is by TEST_LEND_SPLIT_ALL
 * @pfn: of its first page
 */
struct walk_huge {
	bool there;
	bool whole;
	bool split_pending;
	bool merge_whole;
	unsigned long *small;
	unsigned long *merge;
	unsigned long *suspect;
	unsigned long *exposed;
	struct test_lend_op pending_op;
	bool pending_all;
	unsigned long pfn;
};

struct lend_walk {
	struct lend_file *lf;
	struct test_lend_walk *args;
	struct rnd_state rnd;
	struct test_lend_op op;		/* for messages: the last one */
	const char *step;
	unsigned int nr_pieces;		/* per huge page */
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

static unsigned int walk_piece(struct lend_walk *w, pgoff_t index)
{
	return (index & ((1UL << w->lf->order) - 1)) >> lend_piece_order(w->lf);
}

static pgoff_t walk_start(struct lend_walk *w, struct walk_huge *h)
{
	return (pgoff_t)(h - w->huge) << w->lf->order;
}

static bool walk_is_exposed(struct lend_walk *w, struct walk_huge *h, pgoff_t index)
{
	return test_bit(index - walk_start(w, h), h->exposed);
}

/* The order of the folio that has the page */
static unsigned int walk_order(struct lend_walk *w, pgoff_t index)
{
	struct walk_huge *h = walk_huge(w, index);

	if (h->whole)
		return w->lf->order;
	return test_bit(walk_piece(w, index), h->small) ? 0 : lend_piece_order(w->lf);
}

/* References of the walk to pages that are in the file */
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

static void walk_make_whole(struct lend_walk *w, struct walk_huge *h)
{
	h->whole = true;
	h->merge_whole = false;
	bitmap_zero(h->small, w->nr_pieces);
	bitmap_zero(h->exposed, 1UL << w->lf->order);
}

static void walk_make_piece(struct lend_walk *w, struct walk_huge *h,
			    unsigned int piece)
{
	const unsigned int order = lend_piece_order(w->lf);

	__clear_bit(piece, h->small);
	bitmap_clear(h->exposed, piece << order, 1U << order);
	if (w->nr_pieces == 1)
		walk_make_whole(w, h);
}

static void walk_make_small(struct lend_walk *w, struct walk_huge *h,
			    unsigned int piece)
{
	__set_bit(piece, h->small);
	__set_bit(piece, h->suspect);
	__clear_bit(piece, h->merge);
}

/* What a split does that is not left pending */
static void walk_apply_split(struct lend_walk *w, const struct test_lend_op *op,
			     bool all)
{
	struct walk_huge *h = walk_huge(w, op->index);
	const unsigned int order = walk_order(w, op->index);
	const pgoff_t end = op->index + op->nr;
	const pgoff_t mask = (1UL << lend_piece_order(w->lf)) - 1;
	unsigned int piece;

	h->whole = false;
	if (all && order > lend_piece_order(w->lf)) {
		for (piece = 0; piece < w->nr_pieces; piece++)
			walk_make_small(w, h, piece);
	} else if (order == lend_piece_order(w->lf)) {
		walk_make_small(w, h, walk_piece(w, op->index));
	} else {
		if (op->index & mask)
			walk_make_small(w, h, walk_piece(w, op->index));
		if (end & mask)
			walk_make_small(w, h, walk_piece(w, end));
	}
}

static bool walk_merge_wanted(struct lend_walk *w, struct walk_huge *h)
{
	return h->merge_whole || !bitmap_empty(h->merge, w->nr_pieces);
}

static unsigned int cached_order(struct lend_walk *w, pgoff_t index)
{
	struct folio *folio = xa_load(&w->lf->mapping->i_pages, index);

	return folio ? folio_order(folio) : 0;
}

/* See whether what may be merged at any time has been. */
static int walk_adopt(struct lend_walk *w, struct walk_huge *h)
{
	const unsigned int order = lend_piece_order(w->lf);
	const pgoff_t start = walk_start(w, h);
	unsigned int piece;
	pgoff_t index;

	if (!h->there)
		return 0;

	for_each_set_bit(piece, h->small, w->nr_pieces) {
		index = start + ((pgoff_t)piece << order);
		if (cached_order(w, index) < order ||
		    (!h->merge_whole && !test_bit(piece, h->merge)))
			continue;
		if (h->split_pending)
			return walk_violated(w, "merged at %lx in spite of a split",
					     index);
		if (walk_nr_holds(w, index, order))
			return walk_violated(w, "merged at %lx in spite of a reference",
					     index);
		walk_make_piece(w, h, piece);
	}

	if (!h->whole && h->merge_whole && cached_order(w, start) == w->lf->order) {
		if (walk_nr_holds(w, start, w->lf->order))
			return walk_violated(w, "merged in spite of a reference");
		walk_make_whole(w, h);
	}

	return 0;
}

static int walk_check_folio(struct lend_walk *w, struct walk_huge *h,
			    pgoff_t index, bool all)
{
	const unsigned int order = walk_order(w, index);
	const unsigned long nr = 1UL << order;
	struct xarray *xa = &w->lf->mapping->i_pages;
	struct folio *folio = xa_load(xa, index);
	struct page *page = pfn_to_page(h->pfn + (index - walk_start(w, h)));
	unsigned long i, refs;

	if (folio != (struct folio *)page || xa_is_value(folio))
		return walk_violated(w, "the file has another page at %lx", index);
	if (folio_order(folio) != order || xa_get_order(xa, index) != order)
		return walk_violated(w, "order is %u, in the file %d, not %u, at %lx",
				     folio_order(folio), xa_get_order(xa, index),
				     order, index);
	if (folio->mapping != w->lf->mapping || folio->index != index)
		return walk_violated(w, "index is %lx, not %lx", folio->index, index);
	if (folio_test_lent(folio) == (!order && walk_is_exposed(w, h, index)))
		return walk_violated(w, "the type is wrong at %lx", index);

	refs = nr + walk_nr_holds(w, index, order);
	if (folio_ref_count(folio) < refs)
		return walk_violated(w, "%d references, not %lu, at %lx",
				     folio_ref_count(folio), refs, index);

	/* The ends, a few others, or all of them */
	for (i = 0; i < nr; i++) {
		if (page_folio(page + i) != folio || xa_load(xa, index + i) != folio)
			return walk_violated(w, "page %lx is not in the folio at %lx",
					     index + i, index);
		if (!all && i + 1 < nr)
			i = min(i + walk_random(w, nr), nr - 2);
	}

	return 0;
}

static int walk_check_stats(struct lend_walk *w, struct walk_huge *h)
{
	unsigned long nr_pieces = bitmap_weight(h->small, w->nr_pieces);
	unsigned long nr_small = nr_pieces << lend_piece_order(w->lf);
	unsigned long nr = h->whole ? 1 : w->nr_pieces - nr_pieces + nr_small;
	struct hugetlb_loan_stats stats;

	hugetlb_loan_stats((struct folio *)pfn_to_page(h->pfn), &stats);
	if (stats.order != w->lf->order || stats.nr_back ||
	    stats.nr_folios != nr || stats.nr_small != nr_small)
		return walk_violated(w,
				     "%lu folios, %lu small ones, %lu back, not %lu, %lu, 0",
				     stats.nr_folios, stats.nr_small, stats.nr_back,
				     nr, nr_small);
	if (stats.split_pending != h->split_pending)
		return walk_violated(w, "a split is%s pending",
				     stats.split_pending ? "" : " not");
	if (stats.merge_pending && !walk_merge_wanted(w, h))
		return walk_violated(w, "a merge is pending");
	if (!stats.merge_pending) {
		h->merge_whole = false;
		bitmap_zero(h->merge, w->nr_pieces);
	}

	return 0;
}

static int walk_check_piece(struct lend_walk *w, struct walk_huge *h,
			    unsigned int piece, bool all)
{
	const unsigned long nr = 1UL << lend_piece_order(w->lf);
	const pgoff_t start = walk_start(w, h) + piece * nr;
	unsigned long i;
	int r;

	if (!test_bit(piece, h->small))
		return walk_check_folio(w, h, start, all);

	/* Of a piece that nothing was done to, a few single pages will do. */
	for (i = 0; i < nr; i++) {
		r = walk_check_folio(w, h, start + i, all);
		if (r)
			return r;
		if (!all && !test_bit(piece, h->suspect))
			i += walk_random(w, nr);
	}

	return 0;
}

static int walk_check(struct lend_walk *w, struct walk_huge *h, bool all)
{
	pgoff_t index = walk_start(w, h);
	unsigned int piece;
	int r = 0;

	if (!h->there) {
		if (xa_find(&w->lf->mapping->i_pages, &index,
			    index + (1UL << w->lf->order) - 1, XA_PRESENT))
			return walk_violated(w, "there is a page at %lx", index);
		return 0;
	}

	if (h->whole)
		r = walk_check_folio(w, h, index, all);
	for (piece = 0; !r && !h->whole && piece < w->nr_pieces; piece++) {
		r = walk_check_piece(w, h, piece, all);
		cond_resched();
	}
	if (r)
		return r;

	bitmap_zero(h->suspect, w->nr_pieces);
	return walk_check_stats(w, h);
}

/* Others use the page for a moment; let them end that. */
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

static int walk_complete(struct lend_walk *w, struct walk_huge *h)
{
	const unsigned int order = walk_order(w, h->pending_op.index);
	const pgoff_t index = h->pending_op.index;
	unsigned long timeout = jiffies + PATIENCE;
	bool held = walk_nr_holds(w, index, order);
	struct test_lend_op op = { .index = walk_start(w, h) };
	int r;

	for (;;) {
		op.state = 0;
		r = lend_complete(w->lf, &op);
		if (!r)
			break;
		if (r != -EAGAIN || !(op.state & TEST_LEND_SPLIT_PENDING))
			return walk_violated(w, "complete says %d", r);
		if (held)
			return 0;
		r = walk_wait(w, timeout);
		if (r)
			return r;
	}

	if (held)
		return walk_violated(w, "split in spite of a reference at %lx", index);

	h->split_pending = false;
	walk_apply_split(w, &h->pending_op, h->pending_all);
	w->args->nr_splits++;
	return 0;
}

static int walk_split(struct lend_walk *w, pgoff_t index)
{
	const unsigned int order = walk_order(w, index);
	const unsigned int piece_order = lend_piece_order(w->lf);
	const unsigned long nr = 1UL << order;
	struct walk_huge *h = walk_huge(w, index);
	struct test_lend_op *op = &w->op;
	bool all, held;
	int r;

	if (!order)
		return 0;

	all = !walk_random(w, order > piece_order ? 64 : 4);
	if (!walk_random(w, 8))
		op->flags = TEST_LEND_PREPARE_ONLY;
	op->nr = 1;
	if (order > piece_order && !walk_random(w, 4)) {
		op->nr = 1UL << piece_order;
		op->index = round_down(index, op->nr);
	} else if (!walk_random(w, 2)) {
		op->nr += walk_random(w, nr - (index & (nr - 1)));
		if (op->nr == nr)
			op->nr--;
	}

	held = walk_nr_holds(w, index, order);
	r = do_split(w->lf, op, all);
	if (h->split_pending)
		return r == -EBUSY ? 0 :
		       walk_violated(w, "split says %d, another is pending", r);
	if (r == -ENOMEM) {
		w->args->nr_failed++;
		return 0;
	}
	if (r || op->state & TEST_LEND_NOTHING_TO_DO)
		return walk_violated(w, "split says %d, state %x", r, op->state);
	if (op->flags & TEST_LEND_PREPARE_ONLY)
		return 0;

	h->merge_whole = false;
	if (order <= piece_order)
		__clear_bit(walk_piece(w, index), h->merge);

	if (!(op->state & TEST_LEND_SPLIT_PENDING)) {
		if (held)
			return walk_violated(w, "split in spite of a reference");
		walk_apply_split(w, op, all);
		w->args->nr_splits++;
		return 0;
	}

	h->split_pending = true;
	h->pending_op = *op;
	h->pending_all = all;
	w->args->nr_pending++;
	return held ? 0 : walk_complete(w, h);
}

static bool walk_is_merged(struct lend_walk *w, pgoff_t index, unsigned int order)
{
	return walk_order(w, index) >= order;
}

static int walk_merge(struct lend_walk *w, pgoff_t index)
{
	struct walk_huge *h = walk_huge(w, index);
	struct test_lend_op *op = &w->op;
	int r;

	op->order = walk_random(w, 3) ? lend_piece_order(w->lf) : w->lf->order;
	op->index = round_down(index, 1UL << op->order);
	if (!walk_random(w, 8))
		op->flags = TEST_LEND_PREPARE_ONLY;

	if (walk_is_merged(w, op->index, op->order)) {
		r = lend_merge(w->lf, op);
		return !r && op->state & TEST_LEND_NOTHING_TO_DO ? 0 :
		       walk_violated(w, "merge says %d, state %x", r, op->state);
	}

	r = lend_merge(w->lf, op);
	if (h->split_pending)
		return r == -EBUSY ? 0 :
		       walk_violated(w, "merge says %d, a split is pending", r);
	if (r == -ENOMEM) {
		w->args->nr_failed++;
		return 0;
	}
	if (r || op->state & TEST_LEND_NOTHING_TO_DO)
		return walk_violated(w, "merge says %d, state %x", r, op->state);
	if (op->flags & TEST_LEND_PREPARE_ONLY)
		return 0;

	if (op->order > lend_piece_order(w->lf))
		h->merge_whole = true;
	else
		__set_bit(walk_piece(w, op->index), h->merge);
	r = walk_adopt(w, h);
	if (r)
		return r;

	if (walk_is_merged(w, op->index, op->order)) {
		w->args->nr_merges++;
		return 0;
	}
	w->args->nr_pending++;
	return op->state & TEST_LEND_MERGE_PENDING ? 0 :
	       walk_violated(w, "neither merged nor pending");
}

static int walk_merge_later(struct lend_walk *w, pgoff_t index)
{
	struct walk_huge *h = walk_huge(w, index);

	if (!h->whole)
		h->merge_whole = true;
	return lend_merge_later(w->lf, &w->op);
}

/* A single page, if there are any, not far from that which chance has chosen */
static bool walk_find_small(struct lend_walk *w, pgoff_t *index)
{
	struct walk_huge *h = walk_huge(w, *index);
	unsigned int piece = walk_piece(w, *index);
	const unsigned int order = lend_piece_order(w->lf);

	piece = find_next_bit_wrap(h->small, w->nr_pieces, piece);
	if (piece >= w->nr_pieces)
		return false;

	*index = walk_start(w, h) + ((pgoff_t)piece << order) +
		 (*index & ((1UL << order) - 1));
	return true;
}

static int walk_expose(struct lend_walk *w, pgoff_t index)
{
	struct walk_huge *h = walk_huge(w, index);
	int r;

	if (!walk_find_small(w, &index)) {
		r = lend_expose(w->lf, &w->op);
		return r == -EINVAL ? 0 : walk_violated(w, "expose says %d", r);
	}

	w->op.index = index;
	w->args->nr_exposed++;
	__set_bit(index - walk_start(w, h), h->exposed);
	__set_bit(walk_piece(w, index), h->suspect);
	return lend_expose(w->lf, &w->op);
}

static int walk_hide(struct lend_walk *w, pgoff_t index)
{
	struct walk_huge *h = walk_huge(w, index);

	if (!walk_find_small(w, &index))
		return 0;

	/* Mostly one that is exposed */
	index -= walk_start(w, h);
	if (walk_random(w, 4))
		index = find_next_bit_wrap(h->exposed, 1UL << w->lf->order, index);
	if (index >> w->lf->order)
		return 0;

	__clear_bit(index, h->exposed);
	index += walk_start(w, h);
	__set_bit(walk_piece(w, index), h->suspect);
	w->op.index = index;
	return lend_hide(w->lf, &w->op);
}

static int walk_hold(struct lend_walk *w, pgoff_t index)
{
	int r;

	if (w->lf->nr_holds >= 8)
		return 0;

	if (walk_random(w, 2) && walk_find_small(w, &index))
		w->op.index = index;
	r = lend_hold(w->lf, &w->op);
	if (r == -ENOMEM)
		w->args->nr_failed++;
	else if (!r)
		w->args->nr_holds++;
	return r == -ENOMEM ? 0 : r;
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
	return r ? walk_violated(w, "release says %d", r) : 0;
}

static int walk_punch(struct lend_walk *w, pgoff_t index)
{
	struct walk_huge *h = walk_huge(w, index);

	w->op.index = index >> w->lf->order;
	w->args->nr_punched++;
	h->there = false;
	return lend_punch(w->lf, &w->op);
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
	unsigned long timeout = jiffies + PATIENCE;
	struct folio *folio;
	int r;

	w->op.index = index >> w->lf->order;
	for (;;) {
		r = lend_populate(w->lf, &w->op);
		if (r != -EAGAIN)
			break;
		if (walk_has_orphans(w))
			return 0;
		r = walk_wait(w, timeout);
		if (r)
			return r;
	}
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
	h->split_pending = false;
	h->merge_whole = false;
	bitmap_zero(h->merge, w->nr_pieces);
	h->pfn = folio_pfn(folio);
	walk_make_whole(w, h);
	return 0;
}

struct walk_step {
	const char *name;
	unsigned int weight;
	int (*fn)(struct lend_walk *w, pgoff_t index);
};

static const struct walk_step walk_steps[] = {
	{ "split",	8,	walk_split },
	{ "merge",	5,	walk_merge },
	{ "merge later", 1,	walk_merge_later },
	{ "expose",	5,	walk_expose },
	{ "hide",	2,	walk_hide },
	{ "hold",	3,	walk_hold },
	{ "release",	3,	walk_release },
	{ "punch",	1,	walk_punch },
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
	struct walk_huge *h = walk_huge(w, index);
	int r;

	r = walk_adopt(w, h);
	if (r)
		return r;

	w->step = step->name;
	w->op = (struct test_lend_op) { .index = index, .nr = 1 };
	r = step->fn(w, index);
	/* Anything that the walk does not expect */
	if (r && r != -EUCLEAN && r != -EINTR && r != -ETIME)
		r = walk_violated(w, "error %d", r);
	if (r)
		return r;

	if (h->there && h->split_pending)
		r = walk_complete(w, h);
	return r ?: walk_check(w, h, false);
}

static int walk_random_step(struct lend_walk *w)
{
	pgoff_t index = walk_random(w, w->lf->nr_huge);
	const struct walk_step *step = walk_choose(w);
	struct walk_huge *h = &w->huge[index];

	/* Mostly in a few pieces, so that something happens to these again. */
	index <<= w->lf->order;
	index += walk_random(w, 1U << min(w->lf->order, PMD_ORDER +
					  (walk_random(w, 8) ? 2 : 32)));
	if (!h->there && step->fn != walk_release)
		step = &walk_populate_step;

	return walk_step_at(w, step, index);
}

/* Of what is whole nothing is left to be merged for long. */
static int walk_end_pending(struct lend_walk *w, struct walk_huge *h)
{
	struct folio *folio = (struct folio *)pfn_to_page(h->pfn);
	unsigned long timeout = jiffies + PATIENCE;
	struct hugetlb_loan_stats stats;
	int r;

	for (;;) {
		hugetlb_loan_stats(folio, &stats);
		if (!stats.merge_pending)
			return 0;
		r = walk_wait(w, timeout);
		if (r == -ETIME)
			return walk_violated(w, "a merge of what is whole is pending");
		if (r)
			return r;
	}
}

static int walk_end_huge(struct lend_walk *w, struct walk_huge *h)
{
	const pgoff_t start = walk_start(w, h);
	unsigned long timeout = jiffies + PATIENCE;
	int r = 0;

	w->step = "end";
	if (!h->there)
		return walk_check(w, h, true);

	if (h->split_pending)
		r = walk_complete(w, h);
	if (r)
		return r;

	if (walk_random(w, 2)) {
		w->op = (struct test_lend_op) { .nr = 1 };
		r = walk_punch(w, start);
		return r ?: walk_check(w, h, true);
	}

	while (!h->whole) {
		w->op = (struct test_lend_op) {
			.index = start,
			.order = w->lf->order,
		};
		r = lend_merge(w->lf, &w->op);
		if (r && r != -ENOMEM)
			return walk_violated(w, "merge says %d", r);
		h->merge_whole = true;
		if (w->nr_pieces == 1)
			__set_bit(0, h->merge);
		r = walk_adopt(w, h);
		if (!r && !h->whole)
			r = walk_wait(w, timeout);
		if (r)
			return r;
	}

	r = walk_end_pending(w, h);
	return r ?: walk_check(w, h, true);
}

/* All has gone back that is not in the file. */
static int walk_check_reservation(struct lend_walk *w)
{
	unsigned long timeout = jiffies + PATIENCE;
	unsigned long reserved, allocated, nr = 0, i;
	int r;

	for (i = 0; i < w->lf->nr_huge; i++)
		nr += w->huge[i].there;

	w->step = "end";
	for (;;) {
		hugetlb_loan_flush();
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

static int walk_all_steps(struct lend_walk *w)
{
	struct address_space *mapping = w->lf->mapping;
	unsigned long i;
	int r = 0;

	w->step = "begin";
	filemap_invalidate_lock(mapping);
	w->op = (struct test_lend_op) { .nr = w->lf->nr_huge };
	r = lend_punch(w->lf, &w->op);
	filemap_invalidate_unlock(mapping);

	while (!r && w->args->nr_steps < w->args->rounds) {
		if (signal_pending(current))
			r = -EINTR;

		filemap_invalidate_lock(mapping);
		if (!r)
			r = walk_random_step(w);
		w->args->nr_steps++;
		for (i = 0; !r && !(w->args->nr_steps % 64) && i < w->lf->nr_huge; i++) {
			r = walk_adopt(w, &w->huge[i]);
			if (!r)
				r = walk_check(w, &w->huge[i], true);
		}
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
	filemap_invalidate_unlock(mapping);

	return r;
}

static void walk_free(struct lend_walk *w)
{
	unsigned long i;

	for (i = 0; i < w->lf->nr_huge; i++) {
		kvfree(w->huge[i].small);
		kvfree(w->huge[i].merge);
		kvfree(w->huge[i].suspect);
		kvfree(w->huge[i].exposed);
	}
	kvfree(w->huge);
}

static unsigned long *walk_bitmap(unsigned long nr)
{
	return kvcalloc(BITS_TO_LONGS(nr), sizeof(long), GFP_KERNEL_ACCOUNT);
}

static int walk_alloc(struct lend_walk *w)
{
	struct walk_huge *h;

	w->nr_pieces = 1U << (w->lf->order - lend_piece_order(w->lf));
	w->huge = kvcalloc(w->lf->nr_huge, sizeof(*w->huge), GFP_KERNEL_ACCOUNT);
	if (!w->huge)
		return -ENOMEM;

	for (h = w->huge; h < w->huge + w->lf->nr_huge; h++) {
		h->small = walk_bitmap(w->nr_pieces);
		h->merge = walk_bitmap(w->nr_pieces);
		h->suspect = walk_bitmap(w->nr_pieces);
		h->exposed = walk_bitmap(1UL << w->lf->order);
		if (!h->small || !h->merge || !h->suspect || !h->exposed) {
			walk_free(w);
			return -ENOMEM;
		}
	}

	return 0;
}

static long lend_walk(struct lend_file *lf, struct test_lend_walk *args)
{
	struct lend_walk w = { .lf = lf, .args = args };
	const u64 rounds = args->rounds;
	int r;

	*args = (struct test_lend_walk) { .seed = args->seed, .rounds = rounds };
	prandom_seed_state(&w.rnd, args->seed);

	if (down_write_killable(&lf->walk_rwsem))
		return -EINTR;

	r = lf->nr_holds ? -EBUSY : walk_alloc(&w);
	if (!r) {
		r = walk_all_steps(&w);
		walk_free(&w);
	}
	if (r == -ETIME)
		pr_err("seed %llu, step %llu, %s: somebody keeps using pages\n",
		       args->seed, args->nr_steps, w.step);

	up_write(&lf->walk_rwsem);
	return r;
}

/*
 * Files
 */

struct lend_ioctl {
	unsigned int cmd;
	unsigned int flags;	/* of struct test_lend_op, that it takes */
	bool exclusive;
	long (*fn)(struct lend_file *lf, struct test_lend_op *op);
};

static const struct lend_ioctl lend_ioctls[] = {
	{ TEST_LEND_POPULATE, 0, true, lend_populate },
	{ TEST_LEND_SPLIT, TEST_LEND_PREPARE_ONLY, true, lend_split },
	{ TEST_LEND_SPLIT_ALL, TEST_LEND_PREPARE_ONLY, true, lend_split_all },
	{ TEST_LEND_COMPLETE, 0, true, lend_complete },
	{ TEST_LEND_MERGE, TEST_LEND_PREPARE_ONLY, true, lend_merge },
	{ TEST_LEND_MERGE_LATER, 0, false, lend_merge_later },
	{ TEST_LEND_EXPOSE, 0, false, lend_expose },
	{ TEST_LEND_HIDE, 0, true, lend_hide },
	{ TEST_LEND_PUNCH, 0, true, lend_punch },
	{ TEST_LEND_HOLD, 0, false, lend_hold },
	{ TEST_LEND_RELEASE, TEST_LEND_ALL, false, lend_release_holds },
};

static long lend_do_op(struct lend_file *lf, const struct lend_ioctl *ioctl,
		       struct test_lend_op *op)
{
	long r;

	if (op->flags & ~ioctl->flags)
		return -EINVAL;
	op->state = 0;
	op->prepare_cycles = 0;
	op->commit_cycles = 0;
	op->vmemmap_pages = 0;

	if (down_read_killable(&lf->walk_rwsem))
		return -EINTR;

	if (ioctl->exclusive)
		filemap_invalidate_lock(lf->mapping);
	else
		filemap_invalidate_lock_shared(lf->mapping);

	r = ioctl->fn(lf, op);

	if (ioctl->exclusive)
		filemap_invalidate_unlock(lf->mapping);
	else
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

	hugetlb_unreserve(lf->resv);
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
	lf->nr_huge = args->nr_huge;
	init_rwsem(&lf->walk_rwsem);
	mutex_init(&lf->hold_lock);
	INIT_LIST_HEAD(&lf->holds);

	lf->resv = hugetlb_reserve(lf->order, lf->nr_huge);
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
		hugetlb_unreserve(lf->resv);
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
