// SPDX-License-Identifier: GPL-2.0
/*
 * Splitting lent pages, and merging them again: what and when.
 */
#include <linux/bitops.h>
#include <linux/hugetlb.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/slab.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include "hugetlb_internal.h"
#include "hugetlb_lend.h"

/**
 * DOC: Splitting and merging lent pages
 *
 * A folio is split around a range: the pages of the range become single pages, all
 * others naturally aligned folios that are as large as possible.  The borrower has
 * one page split at a time, and knows when: each split is asked for, prepared and
 * committed.  But for that, a folio is split around a page that has failed.
 *
 * Merging is the reverse, and nothing waits for it.  It costs time, and what was
 * split once may soon be split again.  The borrower says which block may be one
 * folio again.  That block is *wanted* until it is merged, or a part of it is split.
 * A work item merges what is wanted when the huge page has been left alone for a
 * while:
 *
 * - a second, since the last split or request;
 * - twice as long as before if the huge page is split within MERGE_WAIT_MAX of its
 *   last merge, up to MERGE_WAIT_MAX, since the next split may be as soon;
 * - twice as long as before, up to MERGE_WAIT_MAX, after each attempt that found a
 *   page in use.
 *
 * A wanted block becomes one folio, whatever folios it consists of.  In it, blocks of
 * PMD_ORDER are merged first, and then larger ones of these.  That bounds the number
 * of folios that are frozen, and the time with preemption disabled.
 *
 * Wanted blocks are bits of a bitmap, numbered as the nodes of a binary tree in an
 * array.  The root, bit 1, is the whole huge page.  Bits 2n and 2n + 1 are the
 * halves of what bit n is.  The leaves are granules.
 */

/* How long to wait before merging, in jiffies */
#define MERGE_WAIT		HZ
#define MERGE_WAIT_MAX		(64 * HZ)

/* How often memory failure tries to split around a failed page, a jiffy apart */
#define ISOLATE_TRIES		5
/* How long to wait at most before a work item tries that again, in jiffies */
#define ISOLATE_WAIT_MAX	(HZ / 4)

/* How many more orders the next blocks have than the folios that they consist of */
#define MERGE_STEP		6

/**
 * struct hugetlb_lent_split - a split that was prepared
 * @step: the step
 * @parts: for the loan, if its page was never split when this was prepared
 * @isolates: it is for a page that has failed, and what is wanted stays so
 */
struct hugetlb_lent_split {
	struct lent_step step;
	struct hugetlb_loan_parts *parts;
	bool isolates;
};

/*
 * Wanted blocks
 */

static unsigned int wanted_bits(const struct hugetlb_loan *loan)
{
	return 2U << (hugetlb_loan_order(loan) - hugetlb_loan_granule(loan));
}

static unsigned int wanted_bit(const struct hugetlb_loan *loan, unsigned long off,
			       unsigned int order)
{
	return (1U << (hugetlb_loan_order(loan) - order)) + (off >> order);
}

static unsigned int wanted_order(const struct hugetlb_loan *loan, unsigned int bit)
{
	return hugetlb_loan_order(loan) - ilog2(bit);
}

static struct page *wanted_page(const struct hugetlb_loan *loan, unsigned int bit)
{
	unsigned int order = wanted_order(loan, bit);
	unsigned long block = bit - (1U << ilog2(bit));

	return loan->page + (block << order);
}

static void wanted_set(struct hugetlb_loan *loan, unsigned int bit)
{
	lockdep_assert_held(&loan->lock);
	if (!__test_and_set_bit(bit, loan->parts->wanted))
		loan->parts->nr_wanted++;
}

static void wanted_clear(struct hugetlb_loan *loan, unsigned int bit)
{
	lockdep_assert_held(&loan->lock);
	if (__test_and_clear_bit(bit, loan->parts->wanted))
		loan->parts->nr_wanted--;
}

/* Forget each block that has a part in the range, which is split. */
static void wanted_forget(struct hugetlb_loan *loan, unsigned long first,
			  unsigned long nr)
{
	const unsigned int granule = hugetlb_loan_granule(loan);
	unsigned int first_bit, last_bit, bit;

	first_bit = wanted_bit(loan, first, granule);
	last_bit = wanted_bit(loan, first + nr - 1, granule);
	for (; first_bit; first_bit /= 2, last_bit /= 2)
		for (bit = first_bit; bit <= last_bit; bit++)
			wanted_clear(loan, bit);
}

/*
 * Splitting
 */

static void merge_workfn(struct work_struct *work);

static struct hugetlb_loan_parts *parts_alloc(struct hugetlb_loan *loan)
{
	const unsigned long nr_memmap = DIV_ROUND_UP(hugetlb_loan_pages(loan),
						     MEMMAP_PER_PAGE);
	struct hugetlb_loan_parts *parts;

	parts = kzalloc_flex(*parts, wanted, BITS_TO_LONGS(wanted_bits(loan)),
			     GFP_KERNEL_ACCOUNT);
	if (!parts)
		return NULL;

	parts->loan = loan;
	parts->nr_vmemmap = loan->hvo ? 1 : nr_memmap;
	parts->nr_folios[hugetlb_loan_order(loan)] = 1;
	parts->wait = MERGE_WAIT;
	parts->retry = MERGE_WAIT;
	parts->merged_at = jiffies - MERGE_WAIT_MAX;
	INIT_DELAYED_WORK(&parts->work, merge_workfn);
	return parts;
}

static void split_free(struct hugetlb_lent_split *split)
{
	lent_step_cancel(&split->step);
	kfree(split->parts);
	kfree(split);
}

/**
 * hugetlb_lent_split_prepare - prepare to split a lent folio around a range
 * @folio: the folio, with a reference of the caller
 * @first: first page of the range, counted from the start of @folio
 * @nr: number of pages in the range
 *
 * Once split, the pages of the range, widened to granules, are single pages.  All
 * others of the folio are in the largest naturally aligned folios that there can be.
 * Preemption is disabled while that is done; a range of a whole 1G page takes long.
 *
 * What is allocated is charged to the memory cgroup of the current task.
 *
 * Context: task context, may sleep.  No lock is needed; no other task may split a
 *          part of the same huge page before the split is committed or cancelled.
 * Return: what to pass to hugetlb_lent_split_commit() or
 *         hugetlb_lent_split_cancel(); NULL if @folio is a single page; or an
 *         ERR_PTR: -ENOMEM, -EINVAL if the range is empty or not in @folio,
 *         -EOPNOTSUPP if hugetlb_lent_can_split() is false.
 */
struct hugetlb_lent_split *hugetlb_lent_split_prepare(struct folio *folio,
						      unsigned long first,
						      unsigned long nr)
{
	const unsigned long nr_pages = folio_nr_pages(folio);
	struct hugetlb_loan *loan = hugetlb_lent_loan(folio);
	const unsigned long granule = 1UL << hugetlb_loan_granule(loan);
	struct hugetlb_lent_split *split;
	unsigned long end;

	if (!nr || first >= nr_pages || nr > nr_pages - first)
		return ERR_PTR(-EINVAL);
	if (!hugetlb_lent_can_split())
		return ERR_PTR(-EOPNOTSUPP);
	if (!folio_test_large(folio))
		return NULL;
	VM_WARN_ON_ONCE_FOLIO(!folio_test_lent(folio), folio);

	split = kzalloc_obj(*split, GFP_KERNEL_ACCOUNT);
	if (!split)
		return ERR_PTR(-ENOMEM);

	end = round_up(first + nr, granule);
	first = round_down(first, granule);
	split->step = (struct lent_step) {
		.loan = loan,
		.page = &folio->page,
		.order = folio_order(folio),
		.first = first,
		.nr = end - first,
		.mapping = folio->mapping,
		.index = folio->index,
	};

	if (lent_step_prepare(&split->step))
		goto err_free;
	if (!loan->parts) {
		split->parts = parts_alloc(loan);
		if (!split->parts)
			goto err_free;
	}

	return split;

err_free:
	split_free(split);
	return ERR_PTR(-ENOMEM);
}
EXPORT_SYMBOL_FOR_BORROWERS(hugetlb_lent_split_prepare);

/* The loan keeps its parts from the first attempt on, also if that fails. */
static void split_set_parts(struct hugetlb_lent_split *split)
{
	/* There are some if the page was split around one that failed meanwhile. */
	if (!split->parts || split->step.loan->parts)
		return;

	/* A task that reads statistics must not find them half-made. */
	smp_store_release(&split->step.loan->parts, split->parts);
	split->parts = NULL;
}

/* Leave the huge page alone for a while, with what is still wanted of it. */
static void split_postpone_merges(struct hugetlb_loan *loan)
{
	struct hugetlb_loan_parts *parts = loan->parts;
	const unsigned long now = jiffies;

	if (!time_before(now, parts->merged_at + MERGE_WAIT_MAX))
		parts->wait = MERGE_WAIT;
	else if (parts->merged)
		parts->wait = min(2 * parts->wait, MERGE_WAIT_MAX);
	/* The next split has no merge of its own to have come too soon for. */
	parts->merged = false;
	parts->retry = parts->wait;
	WRITE_ONCE(parts->due, now + parts->wait);
}

/**
 * hugetlb_lent_split_commit - split a folio
 * @split: of hugetlb_lent_split_prepare(), may be NULL; gone if this returns 0
 *
 * The caller's lock, and its reference in the page cache, are those of the folio
 * with the first page on return.  If the folio was in no page cache, the caller
 * has one reference to each of the new folios.
 *
 * Blocks that are wanted by hugetlb_lent_merge_later() and have a part in the range
 * are not wanted any more.
 *
 * Context: task context, may sleep.  The folio is locked, and was not truncated
 *          since it was prepared; of the caller, it has one reference.  See
 *          linux/hugetlb_lend.h for the invalidate lock.
 * Return: 0; or -EAGAIN if the folio is in use otherwise, is not in the page cache
 *         that it was in, or was split around a page that has failed.  Then nothing
 *         has changed, and the split is still the caller's, to commit it again or to
 *         cancel it.
 */
int hugetlb_lent_split_commit(struct hugetlb_lent_split *split)
{
	struct hugetlb_loan *loan;
	struct lent_step *step;
	int r;

	if (!split)
		return 0;

	step = &split->step;
	loan = step->loan;
	VM_WARN_ON_ONCE_FOLIO(!folio_test_locked(page_folio(step->page)),
			      page_folio(step->page));

	scoped_guard(mutex, &loan->split_lock) {
		split_set_parts(split);
		r = lent_step_split(step);
	}
	if (r)
		return r;

	scoped_guard(spinlock_irqsave, &loan->lock) {
		if (!split->isolates) {
			wanted_forget(loan, step->page - loan->page + step->first,
				      step->nr);
			split_postpone_merges(loan);
		}
	}

	split_free(split);
	return 0;
}
EXPORT_SYMBOL_FOR_BORROWERS(hugetlb_lent_split_commit);

/**
 * hugetlb_lent_split_cancel - do not split after all
 * @split: of hugetlb_lent_split_prepare(), may be NULL
 *
 * Context: any.
 */
void hugetlb_lent_split_cancel(struct hugetlb_lent_split *split)
{
	if (split)
		split_free(split);
}
EXPORT_SYMBOL_FOR_BORROWERS(hugetlb_lent_split_cancel);

/*
 * Merging now
 */

/* Is @folio the start of a block of @order, in which folios can be merged? */
static bool merge_order_ok(const struct hugetlb_loan *loan,
			   const struct folio *folio, unsigned int order)
{
	return order >= hugetlb_loan_granule(loan) &&
	       order <= hugetlb_loan_order(loan) &&
	       IS_ALIGNED(&folio->page - loan->page, 1L << order);
}

/*
 * Merge one block.  @held: the start of the block that all of this is for, whose
 * folio the caller has locked.  If a page of the block has failed, what can be merged
 * next to that is.
 */
static int merge_block(struct hugetlb_loan *loan, struct page *page,
		       unsigned int order, struct page *held,
		       struct list_head *memmap_list, bool *merged)
{
	struct page *half;
	int r, ret;

	if (folio_order(page_folio(page)) >= order)
		return 0;

	r = hugetlb_loan_merge(loan, page, order, held, memmap_list);
	if (!r)
		*merged = true;
	if (likely(r != -EHWPOISON) || order <= hugetlb_loan_granule(loan))
		return r;

	order--;
	for (half = page; half <= page + (1UL << order); half += 1UL << order) {
		ret = merge_block(loan, half, order, held, memmap_list, merged);
		if (ret && ret != -EHWPOISON)
			r = ret;
	}
	return r;
}

/*
 * Merge all blocks of order @small in a block that starts with @page.
 *
 * A page in use makes this fail rather than one that has failed: for that, the
 * caller comes back, and finds what can be merged next to a failed page.
 */
static int merge_small(struct hugetlb_loan *loan, struct page *page,
		       unsigned int order, unsigned int small,
		       struct list_head *memmap_list, bool *merged)
{
	unsigned long off, nr;
	int r, ret = 0;

	for (off = 0; off < 1UL << order; off += nr) {
		nr = max(folio_nr_pages(page_folio(page + off)), 1UL << small);
		r = merge_block(loan, page + off, small, page, memmap_list, merged);
		if (r && (!ret || ret == -EHWPOISON))
			ret = r;
		cond_resched();
	}

	return ret;
}

/*
 * Merge blocks of PMD_ORDER first, then blocks of more and more of them, so that
 * there are no more folios at a time to freeze than a step takes.  Sets @merged if
 * there was one to merge.
 */
static int merge_by_stages(struct hugetlb_loan *loan, struct page *page,
			   unsigned int order, bool *merged)
{
	LIST_HEAD(memmap_list);
	unsigned int small;
	int r;

	for (small = PMD_ORDER; ; small += MERGE_STEP) {
		small = min(small, order);
		r = merge_small(loan, page, order, small, &memmap_list, merged);
		/* Once for all of a stage, and before the next one makes tails. */
		hugetlb_loan_free_memmap(page, order, &memmap_list);
		/* Larger folios may fit next to a page that has failed. */
		if ((r && r != -EHWPOISON) || small == order)
			return r;
	}
}

/**
 * hugetlb_lent_merge - make one folio of a block of a lent page now
 * @folio: first folio of the block, locked, with a reference of the caller
 * @order: order of the block, a granule's at least
 *
 * For tests; others use hugetlb_lent_merge_later().  No page of the block is mapped.
 * If the block is in no page cache, the caller has one reference to each folio in
 * it, and one to the folio that it becomes.
 *
 * Context: task context, may sleep.  If the block is in a page cache, the caller
 *          holds the mapping's invalidate lock for writing.
 * Return: 0, also if @folio is that large already; -EINVAL if there is no such
 *         block; -EAGAIN if a page of it is in use, -EHWPOISON if one has failed;
 *         then smaller blocks in it may have been merged; -ENOMEM.
 */
int hugetlb_lent_merge(struct folio *folio, unsigned int order)
{
	struct hugetlb_loan *loan = hugetlb_lent_loan(folio);
	bool merged = false;

	if (!merge_order_ok(loan, folio, order))
		return -EINVAL;

	VM_WARN_ON_ONCE_FOLIO(!folio_test_locked(folio), folio);
	return merge_by_stages(loan, &folio->page, order, &merged);
}
EXPORT_SYMBOL_FOR_MODULES(hugetlb_lent_merge,
			  "hugetlb_lent_kunit,test_hugetlb_lend");

/*
 * Merging later
 */

/**
 * hugetlb_lent_merge_later - let a block of a lent page become one folio again
 * @folio: first folio of the block
 * @order: order of the block, a granule's at least
 *
 * The block is merged if it stays in the page cache, and the huge page is left alone
 * for a while: a second at first, see "Splitting and merging".  It is forgotten
 * when a part of it is split.  When it is merged, merged() of the reservation is
 * called with the folio; when only a part of it could be, with each folio of
 * PMD_ORDER or more in it.  These are in the page cache, with the first folio of the
 * block locked, and the invalidate lock held for writing.
 *
 * Context: any that may take a spinlock.  The caller keeps the folio from being
 *          split, merged and truncated.
 * Return: 0, also if @folio is that large already; -EINVAL if there is no such
 *         block.
 */
int hugetlb_lent_merge_later(struct folio *folio, unsigned int order)
{
	struct hugetlb_loan *loan = hugetlb_lent_loan(folio);
	struct hugetlb_loan_parts *parts = loan->parts;

	if (!merge_order_ok(loan, folio, order))
		return -EINVAL;
	if (folio_order(folio) >= order)
		return 0;

	scoped_guard(spinlock_irqsave, &loan->lock) {
		wanted_set(loan, wanted_bit(loan, &folio->page - loan->page,
					    order));
		parts->retry = parts->wait;
		parts->due = jiffies + parts->wait;
	}
	/* If it is queued already, it finds that it is early. */
	queue_delayed_work(system_dfl_wq, &parts->work, parts->wait);
	return 0;
}
EXPORT_SYMBOL_FOR_BORROWERS(hugetlb_lent_merge_later);

/* Tell the borrower of folios in a block of which only a part could be merged. */
static void report_merged(struct hugetlb_loan *loan, struct page *page,
			  unsigned int order)
{
	unsigned long off, nr;

	for (off = 0; off < 1UL << order; off += nr) {
		struct folio *folio = page_folio(page + off);

		nr = folio_nr_pages(folio);
		if (folio_order(folio) >= PMD_ORDER && folio->mapping)
			loan->resv->merged(folio);
	}
}

static bool is_wanted(struct hugetlb_loan *loan, unsigned int bit)
{
	guard(spinlock_irq)(&loan->lock);
	return test_bit(bit, loan->parts->wanted);
}

static void forget_block(struct hugetlb_loan *loan, unsigned int bit)
{
	guard(spinlock_irq)(&loan->lock);
	wanted_clear(loan, bit);
}

/* A block is one folio: nothing is left to do for those that are a part of it. */
static void forget_parts(struct hugetlb_loan *loan, unsigned int bit)
{
	const unsigned int nr_bits = wanted_bits(loan);
	unsigned int first, nr, i;

	guard(spinlock_irq)(&loan->lock);
	for (first = bit, nr = 1; first < nr_bits; first *= 2, nr *= 2)
		for (i = first; i < first + nr; i++)
			wanted_clear(loan, i);
}

/* With the folio locked, and the invalidate lock held for writing */
static int merge_locked(struct hugetlb_loan *loan, unsigned int bit)
{
	const unsigned int order = wanted_order(loan, bit);
	struct page *page = wanted_page(loan, bit);
	bool merged = false;
	int r;

	/* A task may have split it before the locks were taken. */
	if (!is_wanted(loan, bit))
		return 0;

	r = merge_by_stages(loan, page, order, &merged);
	/* Before a task can ask for it again. */
	if (!r)
		forget_parts(loan, bit);
	else if (r == -EHWPOISON)
		forget_block(loan, bit);
	if (!merged)
		return r;

	scoped_guard(spinlock_irq, &loan->lock) {
		loan->parts->merged = true;
		loan->parts->merged_at = jiffies;
	}
	if (!loan->resv->merged)
		return r;
	if (!r)
		loan->resv->merged(page_folio(page));
	else
		report_merged(loan, page, order);
	return r;
}

/*
 * Merge a wanted block.  -EBUSY: a lock could not be had, for no longer than another
 * task takes.  Other errors are those of hugetlb_lent_merge().
 */
static int merge_wanted(struct hugetlb_loan *loan, unsigned int bit)
{
	struct page *page = wanted_page(loan, bit);
	struct folio *folio = page_folio(page);
	struct address_space *mapping;
	int r = -EBUSY;

	if (!folio_try_get(folio)) {
		if (READ_ONCE(folio->mapping))
			return -EAGAIN;
		/* It has returned, and cannot be merged in a page cache any more. */
		forget_block(loan, bit);
		return 0;
	}
	if (unlikely(page_folio(page) != folio))
		goto put;

	/* Others take the lock of a folio inside the invalidate lock. */
	if (!folio_trylock(folio))
		goto put;
	mapping = folio->mapping;
	if (!mapping) {
		/* Truncated: it is not going to be one folio in a page cache. */
		forget_block(loan, bit);
		r = 0;
	} else if (down_write_trylock(&mapping->invalidate_lock)) {
		r = merge_locked(loan, bit);
		/* The lock of the folio keeps the mapping. */
		up_write(&mapping->invalidate_lock);
	}
	folio_unlock(folio);
put:
	folio_put(folio);
	return r;
}

/* Returns the time to wait in jiffies before trying again, or 0. */
static unsigned long merge_all_wanted(struct hugetlb_loan *loan)
{
	struct hugetlb_loan_parts *parts = loan->parts;
	const unsigned int nr_bits = wanted_bits(loan);
	bool in_use = false;
	unsigned int bit;

	/* Large blocks come first; those in them are forgotten with them. */
	for_each_set_bit(bit, parts->wanted, nr_bits) {
		if (merge_wanted(loan, bit) == -EAGAIN)
			in_use = true;
		cond_resched();
	}

	guard(spinlock_irq)(&loan->lock);
	if (!parts->nr_wanted)
		return 0;
	if (in_use)
		parts->retry = min(2 * parts->retry, MERGE_WAIT_MAX);
	parts->due = jiffies + parts->retry;
	return parts->retry;
}

static void merge_workfn(struct work_struct *work)
{
	struct hugetlb_loan_parts *parts =
		container_of(to_delayed_work(work), struct hugetlb_loan_parts, work);
	const unsigned long now = jiffies;
	unsigned long due = READ_ONCE(parts->due), wait;

	wait = time_before(now, due) ? due - now : merge_all_wanted(parts->loan);
	if (wait)
		queue_delayed_work(system_dfl_wq, &parts->work, wait);
}

/*
 * Pages that have failed
 *
 * A folio with a failed page is of no use as a whole.  It is split around the page,
 * whatever the borrower does meanwhile, so that the rest of it is.
 */

/*
 * @folio is locked, in @mapping, and the invalidate lock is held.  An error of prepare
 * is in @split.
 */
static int isolate_locked(struct hugetlb_lent_split *split, struct folio *folio,
			  struct address_space *mapping, struct page *page)
{
	struct folio *failed;
	int r;

	r = IS_ERR(split) ? PTR_ERR(split) : hugetlb_lent_split_commit(split);
	/*
	 * A guest may lose what is unmapped, and the next attempt may be in time for
	 * all but the page itself.
	 */
	if (r && r != -EOPNOTSUPP)
		return r;

	/* The lock has become that of the first part. */
	failed = page_folio(page);
	if (failed != folio)
		folio_lock(failed);
	/* Its owner may have written to the flags when the folio was new. */
	folio_set_hwpoison(failed);
	if (mapping->a_ops->error_remove_folio)
		mapping->a_ops->error_remove_folio(mapping, failed);
	if (failed != folio)
		folio_unlock(failed);

	return r;
}

/**
 * hugetlb_loan_isolate_page - split a folio around a page that has failed
 * @loan: the loan, whose page does not go home meanwhile
 * @page: the page
 *
 * If the page is single then, or never will be, the borrower's ->error_remove_folio()
 * is called for its folio, with the invalidate lock held.  It is to unmap the folio
 * from where the host does not know of it.
 *
 * Context: task context, may sleep; no folio lock and no invalidate lock is held.
 * Return: 0 if the page is a single one, or has returned; -EBUSY if it is in no page
 *         cache, yet or any more; -EAGAIN if its folio is in use, or a lock could not
 *         be had; -ENOMEM; -EOPNOTSUPP if lent pages cannot be split.
 */
int hugetlb_loan_isolate_page(struct hugetlb_loan *loan, struct page *page)
{
	struct folio *folio = page_folio(page);
	struct hugetlb_lent_split *split;
	struct address_space *mapping;
	int r = -EAGAIN;

	/* The page has returned, or its folio is just being split or merged. */
	if (!folio_try_get(folio))
		return READ_ONCE(folio->mapping) ? -EAGAIN : 0;
	if (page_folio(page) != folio)
		goto put;

	/* Its owner may lock a new folio without looking. */
	if (!READ_ONCE(folio->mapping)) {
		r = -EBUSY;
		goto put;
	}

	/* Others take the lock of a folio inside the invalidate lock. */
	if (!folio_trylock(folio))
		goto put;
	mapping = folio->mapping;
	if (!mapping) {
		r = -EBUSY;
		goto unlock;
	}

	/* The lock keeps the mapping. */
	split = hugetlb_lent_split_prepare(folio, page - &folio->page, 1);
	if (!IS_ERR_OR_NULL(split))
		split->isolates = true;

	if (down_read_trylock(&mapping->invalidate_lock)) {
		r = isolate_locked(split, folio, mapping, page);
		if (!r)
			split = NULL;
		up_read(&mapping->invalidate_lock);
	}
	if (!IS_ERR(split))
		hugetlb_lent_split_cancel(split);
unlock:
	folio_unlock(folio);
put:
	folio_put(folio);
	return r;
}

/* Try again later, if that may help. */
static void isolate_later(struct hugetlb_loan *loan, int r, unsigned long wait)
{
	if (!r || r == -EOPNOTSUPP)
		return;

	WRITE_ONCE(loan->isolate_wait, wait);
	queue_delayed_work(system_dfl_wq, &loan->isolate_work, wait);
}

static void isolate_workfn(struct work_struct *work)
{
	struct hugetlb_loan *loan =
		container_of(to_delayed_work(work), struct hugetlb_loan, isolate_work);

	isolate_later(loan, hugetlb_loan_isolate_hwpoison(loan),
		      min(2 * READ_ONCE(loan->isolate_wait), ISOLATE_WAIT_MAX));
}

/**
 * hugetlb_loan_isolate_later - split folios around pages that have failed, soon
 * @loan: the loan, whose page does not go home meanwhile
 *
 * Context: any that may take a spinlock.
 */
void hugetlb_loan_isolate_later(struct hugetlb_loan *loan)
{
	isolate_later(loan, -EAGAIN, 1);
}

/**
 * hugetlb_lent_isolate - split a folio around a page that has failed
 * @page: the page, which is marked
 *
 * What cannot be done at once is tried again later.  Until then the whole folio is
 * marked: what is not mapped of it cannot be used.
 *
 * Context: task context, may sleep; no folio lock and no invalidate lock is held.
 * Return: 0 if the borrower has unmapped the page, and nothing but the page; an error
 *         of hugetlb_loan_isolate_page() otherwise.
 */
int hugetlb_lent_isolate(struct page *page)
{
	struct hugetlb_loan *loan = hugetlb_lent_get_loan(page);
	int r, i;

	/* It has returned: it is not the borrower's to unmap. */
	if (!loan)
		return 0;

	/* It need not be among those that the loan knows of, and tries again. */
	for (i = 1; ; i++) {
		r = hugetlb_loan_isolate_page(loan, page);
		if (r != -EAGAIN || i == ISOLATE_TRIES)
			break;
		schedule_timeout_uninterruptible(1);
	}
	isolate_later(loan, hugetlb_loan_isolate_hwpoison(loan) ?: r, 1);
	hugetlb_loan_put(loan);
	return r;
}

/* For a loan that was just allocated */
void hugetlb_loan_init_work(struct hugetlb_loan *loan)
{
	mutex_init(&loan->split_lock);
	INIT_DELAYED_WORK(&loan->isolate_work, isolate_workfn);
}

/* The page goes home: it is not going to be split or merged any more. */
void hugetlb_loan_forget_work(struct hugetlb_loan *loan)
{
	cancel_delayed_work_sync(&loan->isolate_work);
	if (loan->parts)
		cancel_delayed_work_sync(&loan->parts->work);
}
