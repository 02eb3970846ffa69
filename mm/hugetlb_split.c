// SPDX-License-Identifier: GPL-2.0
/*
 * Splitting lent HugeTLB pages, and merging them again.
 *
 * A lent page is split by the levels of the hardware.  A page that is larger than
 * a PMD maps becomes folios of PMD_ORDER, the pieces; one of these, or a page
 * that is no larger, becomes single pages.  Each folio has the type and the loan
 * of the page, and its struct pages look like those of any folio of its order.
 *
 * A folio is split, or several are merged, in one step, with their reference
 * counts frozen at zero: whoever comes across one of the struct pages, by pfn or
 * by the page cache, and wants a reference gets none.  Those who look without a
 * reference must find a head wherever a tail points to, at any moment and on any
 * CPU, however old its TLB is.  Hence pages become heads before others point to
 * them, and tails only after nobody does, with TLBs flushed between where that
 * takes other entries in the page table of the vmemmap.
 *
 * Lookups in the page cache spin on a frozen folio, some with a spinlock held.
 * A step must therefore not sleep, and not be preempted, between freezing and
 * unfreezing.  All that it needs was allocated before.
 *
 * HVO: a folio that has it owns the first page of its part of the vmemmap, all
 * others are one shared page, of tails that find their head by a mask.  A step to
 * smaller folios needs pages for those that begin in a shared one; they are filled
 * in beforehand and mapped in the step.  A folio that is merged has pages left
 * over, which look the same as the shared one.  They stay for a while, see
 * hugetlb_loan_tidy(), and are used again if the folio is split meanwhile: what is
 * shared and what is not is only in the page table.  No step restores or builds
 * more of the vmemmap than it needs.
 *
 * Page cache: an entry is split to smaller ones that still point to the frozen
 * folio, then these are replaced; or replaced by one.  There is never a hole, and
 * a lookup that succeeds finds a folio of one of the three orders.
 */
#include <linux/bitmap.h>
#include <linux/dax.h>
#include <linux/hugetlb.h>
#include <linux/mm.h>
#include <linux/mm_inline.h>
#include <linux/pagemap.h>
#include <linux/rcupdate.h>
#include <linux/shmem_fs.h>
#include <linux/slab.h>
#include <linux/vmstat.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include "hugetlb_internal.h"
#include "hugetlb_lend.h"
#include "hugetlb_vmemmap.h"
#include "internal.h"

/* How often to try to freeze a folio before leaving that for later */
#define FREEZE_TRIES		3

/* A merge is tried again after this time, then after twice of it and so on. */
#define MERGE_DELAY		HZ
#define MERGE_DELAY_MAX		(64 * HZ)

/* struct pages in a page of the vmemmap; HVO needs this to be exact. */
#define VMEMMAP_PER_PAGE	(PAGE_SIZE / sizeof(struct page))

/* What is true of a folio is true of its parts. */
#define INHERITED_FLAGS		(BIT(PG_uptodate) | BIT(PG_dirty))

/**
 * struct split_step - one folio, and what it takes to split it
 * @page: its first page
 * @order: its order
 * @new_order: that of the folios it becomes
 * @flags: page flags that these have
 * @mapping: the page cache that it is in, or NULL
 * @index: its index there
 * @tail: the shared page of the vmemmap for pieces
 * @spare: pages for the vmemmap, in the order of its pages
 * @nr_xas: number of entries to split
 * @xas: for each of them, with the nodes that it needs
 */
struct split_step {
	struct page *page;
	unsigned int order;
	unsigned int new_order;
	unsigned long flags;
	struct address_space *mapping;
	pgoff_t index;

	struct page *tail;
	struct list_head spare;

	unsigned long nr_xas;
	struct xa_state *xas;
};

/**
 * struct hugetlb_split - a split that was prepared
 * @loan: the page
 * @entry: in loan->pending
 * @next_step: the first one that is not done
 * @nr_steps: number of steps
 * @steps: the page itself, and the pieces at the two ends of a range
 */
struct hugetlb_split {
	struct hugetlb_loan *loan;
	struct list_head entry;
	unsigned int next_step;
	unsigned int nr_steps;
	struct split_step steps[3];
};

/**
 * struct hugetlb_merge - a merge that was prepared
 * @loan: the page
 * @page: the first page of what is to be one folio
 * @order: order of that
 * @xas: for the whole page in the page cache, with a node
 */
struct hugetlb_merge {
	struct hugetlb_loan *loan;
	struct page *page;
	unsigned int order;
	struct xa_state xas;
};

/*
 * Struct pages
 */

/*
 * Make a head, or a single page, of a struct page that is a tail or none yet.
 * @page is where to write it, @off its distance from the first of the folio.
 */
static void init_head(const struct split_step *step, struct hugetlb_loan *loan,
		      struct page *page, unsigned long off)
{
	struct folio *folio = (struct folio *)page;
	unsigned long flags = page->flags.f & ~PAGEFLAGS_MASK;

	/* The caller's lock stays where it is. */
	if (!off)
		flags |= page->flags.f & (BIT(PG_locked) | BIT(PG_waiters));
	flags |= step->flags;
	if (step->new_order)
		flags |= BIT(PG_head);

	page->flags.f = flags;
	folio->mapping = step->mapping;
	folio->index = step->index + off;
	folio->private = loan;
#ifdef CONFIG_MEMCG
	folio->memcg_data = 0;
#endif
	__folio_set_lent(folio);
	if (step->new_order) {
		/* As folio_set_order() does, for a folio that is none yet. */
		folio->_flags_1 &= ~PAGEFLAGS_MASK;
		folio->_flags_1 |= step->new_order;
#ifdef NR_PAGES_IN_LARGE_FOLIO
		folio->_nr_pages = 1U << step->new_order;
#endif
	}

	/* It must be a head by the time that it is no tail. */
	smp_wmb();
	clear_compound_head(page);
}

/* @first: it is the first tail, in which the order of the folio is set already */
static void init_tail(struct page *page, struct page *head, unsigned int order,
		      bool first)
{
	page->page_type = UINT_MAX;
	page->mapping = TAIL_MAPPING;
	page->private = 0;
	if (!first) {
		page->flags.f &= ~PAGEFLAGS_MASK;
#ifdef CONFIG_MEMCG
		page->memcg_data = 0;
#endif
	}
	/* It must be a proper tail by the time that it is one. */
	smp_wmb();
	set_compound_head(page, head, order);
}

/*
 * Write the struct pages, @off to @off + @nr of the folio, of the folios that it
 * becomes.  @map is where they are, or will be mapped from.
 */
static void split_map(const struct split_step *step, struct hugetlb_loan *loan,
		      struct page *map, unsigned long off, unsigned long nr)
{
	const unsigned long new_nr = 1UL << step->new_order;
	unsigned long i, first;

	/* The head of the old folio goes last if it will be none. */
	for (i = !step->new_order && !off; i < nr; i++) {
		first = round_down(off + i, new_nr);
		if (first == off + i)
			init_head(step, loan, map + i, first);
		else
			init_tail(map + i, step->page + first, step->new_order,
				  off + i == first + 1);
	}
	if (!step->new_order && !off)
		init_head(step, loan, map, 0);

	/* Some fields of a folio are in place of what a tail has. */
	if (step->new_order)
		for (i = round_up(off, new_nr) - off; i < nr; i += new_nr)
			prep_compound_head(map + i, step->new_order);
}

/* Does this page of the vmemmap have a head, after the step? */
static bool has_head(const struct split_step *step, unsigned long off)
{
	const unsigned long new_nr = 1UL << step->new_order;

	return new_nr <= VMEMMAP_PER_PAGE || IS_ALIGNED(off, new_nr);
}

static void split_vmemmap(struct split_step *step, struct hugetlb_loan *loan)
{
	const unsigned long nr = 1UL << step->order;
	struct page *page, *map;
	unsigned long off;
	LIST_HEAD(none);

	/* Heads first: the tails of the old folio still find its head. */
	for (off = VMEMMAP_PER_PAGE; off < nr; off += VMEMMAP_PER_PAGE) {
		map = step->page + off;
		if (!has_head(step, off))
			continue;
		if (!hugetlb_vmemmap_is_shared(map)) {
			split_map(step, loan, map, off, VMEMMAP_PER_PAGE);
			continue;
		}
		page = list_first_entry(&step->spare, struct page, lru);
		VM_WARN_ON_ONCE(page->private != (unsigned long)map);
		list_del(&page->lru);
		set_page_private(page, 0);
		hugetlb_vmemmap_map_own(map, page);
	}
	hugetlb_vmemmap_flush(step->page, nr);

	/* A list knows where it is, which was elsewhere when it was filled in. */
	for (off = 1UL << step->new_order; step->new_order > 1 && off < nr;
	     off += 1UL << step->new_order)
		INIT_LIST_HEAD(&((struct folio *)(step->page + off))->_deferred_list);

	split_map(step, loan, step->page, 0, VMEMMAP_PER_PAGE);

	if (1UL << step->new_order <= VMEMMAP_PER_PAGE)
		return;

	/* Tails, now that their heads can be seen */
	for (off = VMEMMAP_PER_PAGE; off < nr; off += VMEMMAP_PER_PAGE) {
		map = step->page + off;
		if (has_head(step, off))
			continue;
		if (hugetlb_vmemmap_is_shared(map))
			hugetlb_vmemmap_map_shared(map, step->tail, &none);
		else
			split_map(step, loan, map, off, VMEMMAP_PER_PAGE);
	}
	hugetlb_vmemmap_flush(step->page, nr);
}

/*
 * Make one folio of struct pages that are those of smaller ones, all frozen or
 * with no references.
 */
static void merge_map(struct hugetlb_loan *loan, struct page *head,
		      unsigned int order)
{
	const unsigned long nr = 1UL << order;
	unsigned long chunk = nr, off, i;
	struct page *tail;
	LIST_HEAD(none);

	if (loan->hvo && nr > VMEMMAP_PER_PAGE) {
		chunk = VMEMMAP_PER_PAGE;

		/* There is one since a page was split that has, or had, HVO. */
		tail = hugetlb_vmemmap_shared_tail(order, page_zone(head));
		for (off = chunk; off < nr; off += chunk)
			if (hugetlb_vmemmap_is_shared(head + off))
				hugetlb_vmemmap_map_shared(head + off, tail, &none);
		hugetlb_vmemmap_flush(head, nr);
		loan->untidy = true;
	}

	/*
	 * A head, before there are tails; the first has the order.  From the end:
	 * a head becomes a tail after those that point to it.
	 */
	__SetPageHead(head);
	for (off = nr; off; off -= chunk) {
		struct page *map = head + off - chunk;

		if (chunk < nr && map != head && hugetlb_vmemmap_is_shared(map))
			continue;
		for (i = chunk; i--; )
			if (map + i != head)
				init_tail(map + i, head, order, false);
	}

	prep_compound_head(head, order);
	__folio_set_lent((struct folio *)head);
}

/*
 * Page cache
 */

/*
 * The XArray splits an entry by one level of nodes at a time.  The order of what
 * the first such split of an entry gives, on the way to @new_order.
 */
static unsigned int xas_next_order(unsigned int order, unsigned int new_order)
{
	order = rounddown(order, XA_CHUNK_SHIFT);
	if (order < XA_CHUNK_SHIFT)
		return new_order;
	return max(order - XA_CHUNK_SHIFT, new_order);
}

static int split_page_cache_prepare(struct split_step *step)
{
	unsigned int order, next;
	struct xa_state *xas;
	unsigned long i, nr;

	for (order = step->order; order > step->new_order;
	     order = xas_next_order(order, step->new_order))
		step->nr_xas += 1UL << (step->order - order);

	step->xas = kvmalloc_objs(*step->xas, step->nr_xas);
	if (!step->xas) {
		step->nr_xas = 0;
		return -ENOMEM;
	}

	xas = step->xas;
	for (i = 0; i < step->nr_xas; i++)
		xas[i] = (struct xa_state)__XA_STATE(&step->mapping->i_pages, 0, 0, 0);

	for (order = step->order; order > step->new_order; order = next) {
		next = xas_next_order(order, step->new_order);
		nr = 1UL << (step->order - order);
		for (i = 0; i < nr; i++, xas++) {
			xas_set_order(xas, step->index + (i << order), next);
			mapping_set_update(xas, step->mapping);
			xas_split_alloc(xas, step->page, order, GFP_KERNEL);
			if (xas_error(xas))
				return xas_error(xas);
			cond_resched();
		}
	}

	return 0;
}

static void split_page_cache(struct split_step *step)
{
	XA_STATE(xas, &step->mapping->i_pages, step->index);
	const unsigned long nr = 1UL << step->order;
	struct xa_state *split = step->xas;
	unsigned int order;
	unsigned long off;

	mapping_set_update(&xas, step->mapping);

	xas_lock_irq(&xas);
	for (order = step->order; order > step->new_order;
	     order = xas_next_order(order, step->new_order))
		for (off = 0; off < nr; off += 1UL << order)
			xas_split(split++, step->page, order);

	for (off = 1UL << step->new_order; off < nr; off += 1UL << step->new_order) {
		xas_set_order(&xas, step->index + off, step->new_order);
		xas_store(&xas, step->page + off);
	}
	xas_unlock_irq(&xas);
	VM_WARN_ON_ONCE(xas_error(&xas));
}

static void merge_page_cache(struct xa_state *xas, struct folio *folio)
{
	xas_lock_irq(xas);
	xas_store(xas, folio);
	xas_unlock_irq(xas);
	VM_WARN_ON_ONCE(xas_error(xas));
}

/*
 * Splitting
 */

static void merge_workfn(struct work_struct *work);

static LIST_HEAD(merge_list);
static DEFINE_SPINLOCK(merge_lock);
static DECLARE_DELAYED_WORK(merge_work, merge_workfn);

static unsigned int piece_of(const struct hugetlb_loan *loan,
			     const struct page *page)
{
	return (page - loan->page) >> loan->piece_order;
}

/* A range is to be different from what is around it: whatever has both stays. */
static void merge_forget(struct folio *folio, unsigned long first,
			 unsigned long nr)
{
	struct hugetlb_loan *loan = hugetlb_folio_loan(folio);
	const struct page *page = folio_page(folio, first);
	const unsigned long nr_piece = 1UL << loan->piece_order;

	if (nr == hugetlb_loan_pages(loan))
		return;

	guard(spinlock)(&merge_lock);
	loan->merge_whole = false;
	if (!IS_ALIGNED(page - loan->page, nr_piece))
		__clear_bit(piece_of(loan, page), loan->merge_pieces);
	page += nr;
	if (!IS_ALIGNED(page - loan->page, nr_piece))
		__clear_bit(piece_of(loan, page), loan->merge_pieces);
}

static int split_vmemmap_prepare(struct split_step *step,
				 struct hugetlb_loan *loan)
{
	const unsigned long nr = 1UL << step->order;
	unsigned long base = step->page->flags.f & ~PAGEFLAGS_MASK;
	unsigned long off, i, nr_vmemmap = 0;
	struct page *page;
	int r;

	for (off = VMEMMAP_PER_PAGE; off < nr; off += VMEMMAP_PER_PAGE)
		if (has_head(step, off) &&
		    hugetlb_vmemmap_is_shared(step->page + off))
			nr_vmemmap++;

	r = hugetlb_vmemmap_alloc_list(nr_vmemmap, page_to_nid(loan->page),
				       &step->spare);
	if (r)
		return r;

	/* Of the pieces, also if they are skipped: merging makes some. */
	if (1UL << loan->piece_order > VMEMMAP_PER_PAGE) {
		step->tail = hugetlb_vmemmap_shared_tail(loan->piece_order,
							 page_zone(loan->page));
		if (!step->tail)
			return -ENOMEM;
	}

	off = 0;
	list_for_each_entry(page, &step->spare, lru) {
		struct page *map = page_address(page);

		do {
			off += VMEMMAP_PER_PAGE;
		} while (!has_head(step, off) ||
			 !hugetlb_vmemmap_is_shared(step->page + off));

		memset(map, 0, PAGE_SIZE);
		for (i = 0; i < VMEMMAP_PER_PAGE; i++) {
			map[i].flags.f = base;
			atomic_set(&map[i]._mapcount, -1);
		}
		split_map(step, loan, map, off, VMEMMAP_PER_PAGE);
		set_page_private(page, (unsigned long)(step->page + off));
		cond_resched();
	}

	return 0;
}

static int split_step_prepare(struct split_step *step,
			      struct hugetlb_loan *loan)
{
	int r = 0;

	if (loan->hvo)
		r = split_vmemmap_prepare(step, loan);
	if (!r && step->mapping)
		r = split_page_cache_prepare(step);

	return r;
}

static void split_step_free(struct split_step *step)
{
	struct page *page;
	unsigned long i;

	list_for_each_entry(page, &step->spare, lru)
		set_page_private(page, 0);
	hugetlb_vmemmap_cancel_list(&step->spare);
	for (i = 0; i < step->nr_xas; i++)
		xas_destroy(&step->xas[i]);
	kvfree(step->xas);
}

static void split_free(struct hugetlb_split *split)
{
	unsigned int i;

	for (i = 0; i < split->nr_steps; i++)
		split_step_free(&split->steps[i]);
	kfree(split);
}

static int folio_refs(const struct page *page, unsigned int order,
		      const struct address_space *mapping,
		      const struct page *held)
{
	if (!mapping)
		return 1;
	return (1 << order) + (page == held);
}

/*
 * Freeze a folio that nobody else uses.  A reference is what to tell that by, but
 * for a fault whose entry in the page table was zapped at once: that has taken its
 * reference along, and the fault still has the lock.
 */
static bool freeze_unused(struct folio *folio, struct address_space *mapping,
			  int refs, const struct page *held)
{
	if (!folio_ref_freeze(folio, refs))
		return false;
	if (likely(folio->mapping == mapping &&
		   (!folio_test_locked(folio) || &folio->page == held)))
		return true;

	folio_ref_unfreeze(folio, refs);
	return false;
}

/* The whole of a step.  False if somebody has a reference that is not ours. */
static bool split_step_try(struct split_step *step, struct hugetlb_loan *loan,
			   const struct page *held)
{
	const unsigned long nr = 1UL << step->order;
	struct folio *folio = page_folio(step->page);
	unsigned long off;

	guard(rwsem_read)(&hugetlb_lend_rwsem);
	guard(preempt)();

	if (!freeze_unused(folio, step->mapping,
			   folio_refs(step->page, step->order, step->mapping,
				      held), held))
		return false;

	if (loan->hvo)
		split_vmemmap(step, loan);
	else
		split_map(step, loan, step->page, 0, nr);

	hugetlb_lent_spread_hwpoison(loan);

	if (step->mapping)
		split_page_cache(step);

	for (off = 0; off < nr; off += 1UL << step->new_order)
		page_ref_unfreeze(step->page + off,
				  folio_refs(step->page + off, step->new_order,
					     step->mapping, held));
	return true;
}

static bool split_try(struct hugetlb_split *split, const struct page *held)
{
	int tries = 0;

	lockdep_assert_held(&split->loan->lock);

	while (split->next_step < split->nr_steps) {
		if (split_step_try(&split->steps[split->next_step], split->loan,
				   held)) {
			split->next_step++;
			tries = 0;
			continue;
		}
		if (++tries == FREEZE_TRIES)
			return false;
		cond_resched();
		cpu_relax();
	}

	return true;
}

/* Is there a folio to be split that is not where it was? */
static bool split_is_stale(const struct hugetlb_split *split)
{
	const struct split_step *step = &split->steps[split->next_step];

	return page_folio(step->page)->mapping != step->mapping;
}

static void split_add_step(struct hugetlb_split *split, struct folio *folio,
			   unsigned long first, unsigned int order,
			   unsigned int new_order)
{
	struct split_step *step = &split->steps[split->nr_steps++];

	*step = (struct split_step) {
		.page = folio_page(folio, first),
		.order = order,
		.new_order = new_order,
		.flags = folio->flags.f & INHERITED_FLAGS,
		.mapping = folio->mapping,
		.index = folio->index + first,
	};
	INIT_LIST_HEAD(&step->spare);
}

/* Split the piece that an end of the range is in, unless that is between two. */
static void split_add_end(struct hugetlb_split *split, struct folio *folio,
			  unsigned long end)
{
	const unsigned int order = split->loan->piece_order;
	unsigned long first = round_down(end, 1UL << order);
	struct split_step *last = &split->steps[split->nr_steps - 1];

	if (first == end ||
	    (split->nr_steps > 1 && last->page == folio_page(folio, first)))
		return;

	split_add_step(split, folio, first, order, 0);
}

static struct hugetlb_split *split_alloc(struct folio *folio)
{
	struct hugetlb_loan *loan = hugetlb_folio_loan(folio);
	struct hugetlb_split *split;

	/* Readers of the page cache would spin on a folio with preemption on. */
	if (IS_ENABLED(CONFIG_PREEMPT_RT))
		return ERR_PTR(-EOPNOTSUPP);

	scoped_guard(mutex, &loan->lock)
		if (!list_empty(&loan->pending))
			return ERR_PTR(-EBUSY);

	split = kzalloc_obj(*split);
	if (!split)
		return ERR_PTR(-ENOMEM);

	split->loan = loan;
	return split;
}

static struct hugetlb_split *split_prepare(struct hugetlb_split *split)
{
	unsigned int i;
	int r;

	for (i = 0; i < split->nr_steps; i++) {
		r = split_step_prepare(&split->steps[i], split->loan);
		if (r) {
			split_free(split);
			return ERR_PTR(r);
		}
	}

	return split;
}

/**
 * hugetlb_split_prepare - prepare to split a lent folio around a range
 * @folio: a folio of a lent page, locked, with a reference of the caller
 * @first: first page of the range, from the start of @folio, in pages
 * @nr: number of pages in the range
 *
 * After the split no folio is partly in the range and partly not.  All others are
 * as large as that allows, among those orders that a lent page can be split to.
 * Folios that had both, and are to be merged later, are not; also if there is
 * nothing to split now, or the split is cancelled.
 *
 * Context: task context, may sleep and allocate.
 * Return: what to pass to hugetlb_split_commit() or hugetlb_split_cancel(); NULL
 *         if there is nothing to split; or an ERR_PTR: -ENOMEM, -EINVAL if the
 *         range is empty or not in @folio, -EBUSY if a split of the page is
 *         pending, -EOPNOTSUPP on PREEMPT_RT.
 */
struct hugetlb_split *hugetlb_split_prepare(struct folio *folio,
					    unsigned long first,
					    unsigned long nr)
{
	const unsigned long nr_pages = folio_nr_pages(folio);
	const unsigned int order = folio_order(folio);
	struct hugetlb_split *split;
	unsigned int piece_order;

	if (!nr || first >= nr_pages || nr > nr_pages - first)
		return ERR_PTR(-EINVAL);

	merge_forget(folio, first, nr);
	if (nr == nr_pages)
		return NULL;

	VM_WARN_ON_ONCE_FOLIO(!folio_test_lent(folio), folio);
	VM_WARN_ON_ONCE_FOLIO(!folio_test_locked(folio), folio);

	split = split_alloc(folio);
	if (IS_ERR(split))
		return split;

	piece_order = split->loan->piece_order;
	if (order > piece_order) {
		split_add_step(split, folio, 0, order, piece_order);
		split_add_end(split, folio, first);
		split_add_end(split, folio, first + nr);
	} else {
		split_add_step(split, folio, 0, order, 0);
	}

	return split_prepare(split);
}
EXPORT_SYMBOL_FOR_BORROWERS(hugetlb_split_prepare);

/**
 * hugetlb_split_all_prepare - prepare to split a lent folio to single pages
 * @folio: a folio of a lent page, locked, with a reference of the caller
 *
 * In one step, however large the folio is.  For tests and measurements: the CPU is
 * not preempted for as long as it takes to write all the struct pages, and to
 * store all of them in the page cache.
 *
 * Context: as hugetlb_split_prepare().
 * Return: as hugetlb_split_prepare().
 */
struct hugetlb_split *hugetlb_split_all_prepare(struct folio *folio)
{
	struct hugetlb_split *split;

	merge_forget(folio, 0, 1);
	if (!folio_test_large(folio))
		return NULL;

	split = split_alloc(folio);
	if (IS_ERR(split))
		return split;

	split_add_step(split, folio, 0, folio_order(folio), 0);
	return split_prepare(split);
}
EXPORT_SYMBOL_FOR_MODULES(hugetlb_split_all_prepare,
			  "hugetlb_split_kunit,test_hugetlb_lend");

/**
 * hugetlb_split_cancel - do not split after all
 * @split: of hugetlb_split_prepare(), may be NULL
 *
 * Context: task context, may sleep.
 */
void hugetlb_split_cancel(struct hugetlb_split *split)
{
	if (split)
		split_free(split);
}
EXPORT_SYMBOL_FOR_BORROWERS(hugetlb_split_cancel);

/*
 * Merging, now and later
 */

static bool merge_wanted(const struct hugetlb_loan *loan)
{
	const unsigned int nr_pieces =
		hugetlb_loan_pages(loan) >> loan->piece_order;

	lockdep_assert_held(&merge_lock);
	return loan->merge_whole || !bitmap_empty(loan->merge_pieces, nr_pieces);
}

bool hugetlb_loan_merge_pending(struct hugetlb_loan *loan)
{
	guard(spinlock)(&merge_lock);
	return merge_wanted(loan);
}

/* Look at the page in a while: there is something to merge or to tidy up. */
static void merge_schedule(struct hugetlb_loan *loan)
{
	lockdep_assert_held(&merge_lock);

	loan->merge_delay = MERGE_DELAY;
	loan->merge_at = jiffies + loan->merge_delay;
	if (list_empty(&loan->merge_entry))
		list_add_tail(&loan->merge_entry, &merge_list);
	queue_delayed_work(system_dfl_wq, &merge_work, MERGE_DELAY);
}

/**
 * hugetlb_split_commit - split a folio
 * @split: of hugetlb_split_prepare(), may be NULL; gone on return
 *
 * The caller's lock, and its reference in the page cache, are those of the folio
 * with the first page on return.  If the folio was in no page cache, the caller
 * has one reference to each of those that it was split to.
 *
 * The split is pending on return, hugetlb_split_complete() is to finish it, if
 * somebody else has a reference to one of the folios to be split.
 *
 * Context: task context, may sleep.
 */
void hugetlb_split_commit(struct hugetlb_split *split)
{
	struct hugetlb_loan *loan;

	if (!split)
		return;

	loan = split->loan;
	guard(mutex)(&loan->lock);

	if (split_try(split, split->steps[0].page))
		split_free(split);
	else
		list_add_tail(&split->entry, &loan->pending);
}
EXPORT_SYMBOL_FOR_BORROWERS(hugetlb_split_commit);

/**
 * hugetlb_split_complete - finish what is pending
 * @folio: a folio of the lent page, locked, with a reference of the caller; that
 *         is the one reference that doesn't hold up a split
 *
 * A split is dropped if its folio has left the page cache since, or has got into
 * one.  Other folios than @folio, with their indices, may have been split.
 *
 * Context: task context, may sleep.
 * Return: 0 if nothing is pending any more, or -EAGAIN.
 */
int hugetlb_split_complete(struct folio *folio)
{
	struct hugetlb_loan *loan = hugetlb_folio_loan(folio);
	struct hugetlb_split *split, *next;

	guard(mutex)(&loan->lock);

	list_for_each_entry_safe(split, next, &loan->pending, entry) {
		/* What was truncated since, or inserted, stays as it is. */
		if (!split_is_stale(split) && !split_try(split, &folio->page))
			continue;
		list_del(&split->entry);
		split_free(split);
	}

	return list_empty(&loan->pending) ? 0 : -EAGAIN;
}
EXPORT_SYMBOL_FOR_BORROWERS(hugetlb_split_complete);

/* mlock() leaves its mark on a page that is on no LRU list. */
static void clear_mlocked(struct folio *folio)
{
	if (likely(!folio_test_mlocked(folio)))
		return;

	__folio_clear_mlocked(folio);
	zone_stat_mod_folio(folio, NR_MLOCK, -folio_nr_pages(folio));
	count_vm_events(UNEVICTABLE_PGCLEARED, folio_nr_pages(folio));
}

/*
 * Make one folio of those of the next lower level.  -EAGAIN if one of these has
 * another reference, -EHWPOISON if one must be kept apart.
 */
static int merge_try(struct hugetlb_loan *loan, struct page *page,
		     unsigned int order, struct address_space *mapping,
		     struct xa_state *xas, const struct page *held)
{
	const unsigned int old_order = folio_order(page_folio(page));
	const unsigned long nr = 1UL << order;
	const unsigned long old_nr = 1UL << old_order;
	unsigned long off;
	int r = -EAGAIN;

	VM_WARN_ON_ONCE(page != held && held > page && held < page + nr);

	guard(rwsem_read)(&hugetlb_lend_rwsem);
	guard(preempt)();

	for (off = 0; off < nr; off += old_nr) {
		struct folio *folio = page_folio(page + off);
		int refs = folio_refs(page + off, old_order, mapping, held);

		if (!freeze_unused(folio, mapping, refs, held))
			goto unfreeze;
		if (unlikely(folio_test_hwpoison(folio))) {
			folio_ref_unfreeze(folio, refs);
			r = -EHWPOISON;
			goto unfreeze;
		}
	}

	for (off = 0; !old_order && off < nr; off++)
		clear_mlocked(page_folio(page + off));

	merge_map(loan, page, order);
	if (mapping)
		merge_page_cache(xas, page_folio(page));

	page_ref_unfreeze(page, folio_refs(page, order, mapping, held));
	return 0;

unfreeze:
	while (off) {
		off -= old_nr;
		page_ref_unfreeze(page + off, folio_refs(page + off, old_order,
							 mapping, held));
	}
	return r;
}

static int merge_tries(struct hugetlb_loan *loan, struct page *page,
		       unsigned int order, struct address_space *mapping,
		       struct xa_state *xas, const struct page *held)
{
	int tries, r;

	if (folio_order(page_folio(page)) >= order)
		return 0;

	for (tries = 0; tries < FREEZE_TRIES; tries++) {
		r = merge_try(loan, page, order, mapping, xas, held);
		if (r != -EAGAIN)
			break;
		cond_resched();
		cpu_relax();
	}

	return r;
}

static int merge_piece(struct hugetlb_loan *loan, struct page *page,
		       struct address_space *mapping, const struct page *held)
{
	if (mapping) {
		XA_STATE_ORDER(xas, &mapping->i_pages, page_folio(page)->index,
			       loan->piece_order);

		/* The entry is where it was, in a node that is there. */
		mapping_set_update(&xas, mapping);
		return merge_tries(loan, page, loan->piece_order, mapping, &xas,
				   held);
	}

	return merge_tries(loan, page, loan->piece_order, NULL, NULL, held);
}

/* Merge what is smaller than @order; remember what cannot be merged now. */
static void merge_now(struct hugetlb_loan *loan, struct page *page,
		      unsigned int order, struct address_space *mapping,
		      struct xa_state *xas, const struct page *held)
{
	const unsigned long nr_piece = 1UL << loan->piece_order;
	unsigned long off;
	int r, ret = 0;

	lockdep_assert_held(&loan->lock);

	for (off = 0; off < 1UL << order; off += nr_piece) {
		r = merge_piece(loan, page + off, mapping, held);
		if (r == -EAGAIN && order < hugetlb_loan_order(loan)) {
			guard(spinlock)(&merge_lock);
			__set_bit(piece_of(loan, page), loan->merge_pieces);
		}
		if (r && ret != -EHWPOISON)
			ret = r;
		cond_resched();
	}

	if (order > loan->piece_order && !ret)
		ret = merge_tries(loan, page, order, mapping, xas, held);

	if (order == hugetlb_loan_order(loan)) {
		guard(spinlock)(&merge_lock);
		loan->merge_whole = ret == -EAGAIN;
	}

	if (loan->untidy)
		loan->rcu_state = start_poll_synchronize_rcu();
}

static int merge_xas_prepare(struct xa_state *xas, struct folio *folio,
			     unsigned int order)
{
	struct address_space *mapping = folio->mapping;

	*xas = (struct xa_state)__XA_STATE(mapping ? &mapping->i_pages : NULL,
					   0, 0, 0);
	if (!mapping)
		return 0;

	/*
	 * At index 0 the tree may have lost the node that the entry was in, when
	 * all behind it was truncated.
	 */
	xas_set_order(xas, folio->index, order);
	mapping_set_update(xas, mapping);
	xas_set_err(xas, -ENOMEM);
	return xas_nomem(xas, GFP_KERNEL) ? 0 : -ENOMEM;
}

/**
 * hugetlb_merge_prepare - prepare to merge a part of a lent page
 * @folio: its first folio, locked, with a reference of the caller
 * @order: the order of the part: PMD_ORDER, or that of the lent page.  In that,
 *         the part is naturally aligned.
 *
 * Context: task context, may sleep and allocate.
 * Return: what to pass to hugetlb_merge_commit() or hugetlb_merge_cancel(); NULL
 *         if @folio is that large; or an ERR_PTR: -ENOMEM, -EINVAL if a lent page
 *         has no such part that starts with @folio, -EBUSY if a split of the page
 *         is pending, -EOPNOTSUPP on PREEMPT_RT.
 */
struct hugetlb_merge *hugetlb_merge_prepare(struct folio *folio,
					    unsigned int order)
{
	struct hugetlb_loan *loan = hugetlb_folio_loan(folio);
	struct hugetlb_merge *merge;

	if ((order != loan->piece_order && order != hugetlb_loan_order(loan)) ||
	    !IS_ALIGNED(&folio->page - loan->page, 1L << order))
		return ERR_PTR(-EINVAL);
	if (folio_order(folio) >= order)
		return NULL;
	if (IS_ENABLED(CONFIG_PREEMPT_RT))
		return ERR_PTR(-EOPNOTSUPP);

	VM_WARN_ON_ONCE_FOLIO(!folio_test_locked(folio), folio);

	scoped_guard(mutex, &loan->lock)
		if (!list_empty(&loan->pending))
			return ERR_PTR(-EBUSY);

	merge = kzalloc_obj(*merge);
	if (!merge)
		return ERR_PTR(-ENOMEM);

	merge->loan = loan;
	merge->page = &folio->page;
	merge->order = order;
	if (merge_xas_prepare(&merge->xas, folio, order)) {
		kfree(merge);
		return ERR_PTR(-ENOMEM);
	}

	return merge;
}
EXPORT_SYMBOL_FOR_BORROWERS(hugetlb_merge_prepare);

/**
 * hugetlb_merge_commit - merge a part of a lent page
 * @merge: of hugetlb_merge_prepare(), may be NULL; gone on return
 *
 * The merge is pending on return, and will be tried again, if somebody has a
 * reference to one of the folios.  Those of a lower level that nobody has, are
 * merged.  Folios with a page that failed are not merged, now or later.
 *
 * Context: task context, may sleep.
 */
void hugetlb_merge_commit(struct hugetlb_merge *merge)
{
	struct hugetlb_loan *loan;

	if (!merge)
		return;

	loan = merge->loan;
	scoped_guard(mutex, &loan->lock) {
		merge_now(loan, merge->page, merge->order,
			  page_folio(merge->page)->mapping, &merge->xas,
			  merge->page);

		guard(spinlock)(&merge_lock);
		if (loan->untidy || merge_wanted(loan))
			merge_schedule(loan);
	}

	hugetlb_merge_cancel(merge);
}
EXPORT_SYMBOL_FOR_BORROWERS(hugetlb_merge_commit);

/**
 * hugetlb_merge_cancel - do not merge after all
 * @merge: of hugetlb_merge_prepare(), may be NULL
 *
 * Context: any.
 */
void hugetlb_merge_cancel(struct hugetlb_merge *merge)
{
	if (!merge)
		return;

	xas_destroy(&merge->xas);
	kfree(merge);
}
EXPORT_SYMBOL_FOR_BORROWERS(hugetlb_merge_cancel);

/**
 * hugetlb_merge_later - let a lent page become whole if it is left alone
 * @folio: a folio of the page
 *
 * Merging and splitting a page costs more than leaving it in pieces for a while.
 * It is merged when it has not been split, and this has not been called, for a
 * second; if it is in a page cache, and nobody has a reference then, else later.
 *
 * Context: task context.
 */
void hugetlb_merge_later(struct folio *folio)
{
	struct hugetlb_loan *loan = hugetlb_folio_loan(folio);

	if (folio_order(folio) == hugetlb_loan_order(loan))
		return;

	guard(spinlock)(&merge_lock);
	loan->merge_whole = true;
	merge_schedule(loan);
}
EXPORT_SYMBOL_FOR_BORROWERS(hugetlb_merge_later);

static void merge_retry(struct hugetlb_loan *loan, struct folio *folio)
{
	const unsigned int nr_pieces =
		hugetlb_loan_pages(loan) >> loan->piece_order;
	struct address_space *mapping;
	LIST_HEAD(spare);
	unsigned int piece;
	struct xa_state xas;
	bool whole;

	/* Against the order of these locks, hence no more than a try. */
	if (!folio_trylock(folio))
		return;
	mapping = folio->mapping;
	if (!mapping) {
		/* It is on its way home, where all of this is done. */
		scoped_guard(spinlock, &merge_lock)
			list_del_init(&loan->merge_entry);
		goto unlock;
	}
	if (!down_write_trylock(&mapping->invalidate_lock))
		goto unlock;

	mutex_lock(&loan->lock);
	if (!list_empty(&loan->pending))
		goto out;

	for (piece = 0; piece < nr_pieces; piece++) {
		bool merge;

		scoped_guard(spinlock, &merge_lock)
			merge = __test_and_clear_bit(piece, loan->merge_pieces);
		if (merge)
			merge_now(loan,
				  loan->page + ((unsigned long)piece << loan->piece_order),
				  loan->piece_order, mapping, NULL, &folio->page);
	}

	scoped_guard(spinlock, &merge_lock)
		whole = loan->merge_whole;
	if (whole && !merge_xas_prepare(&xas, folio, hugetlb_loan_order(loan))) {
		/* Unless it is found that it has to be done later. */
		scoped_guard(spinlock, &merge_lock)
			loan->merge_whole = false;
		merge_now(loan, loan->page, hugetlb_loan_order(loan), mapping,
			  &xas, &folio->page);
		xas_destroy(&xas);
	}

	if (loan->untidy && poll_state_synchronize_rcu(loan->rcu_state))
		hugetlb_loan_tidy(loan, &spare);

	scoped_guard(spinlock, &merge_lock)
		if (!loan->untidy && !merge_wanted(loan))
			list_del_init(&loan->merge_entry);
out:
	mutex_unlock(&loan->lock);
	/* The lock of the folio is what keeps the mapping. */
	up_write(&mapping->invalidate_lock);
unlock:
	folio_unlock(folio);
	hugetlb_vmemmap_free_list(&spare);
}

static void merge_workfn(struct work_struct *work)
{
	struct hugetlb_loan *loan;
	struct folio *folio;
	unsigned long now;

	spin_lock(&merge_lock);
again:
	now = jiffies;
	list_for_each_entry(loan, &merge_list, merge_entry) {
		if (time_after(loan->merge_at, now))
			continue;

		loan->merge_delay = min(2 * loan->merge_delay, MERGE_DELAY_MAX);
		loan->merge_at = now + loan->merge_delay;

		/* The first page is a head at any time; it keeps the loan. */
		folio = (struct folio *)loan->page;
		if (!folio_try_get(folio))
			continue;
		spin_unlock(&merge_lock);
		merge_retry(loan, folio);
		folio_put(folio);
		cond_resched();
		spin_lock(&merge_lock);
		goto again;
	}
	/* There may be new ones to come before those that have waited long. */
	if (!list_empty(&merge_list))
		queue_delayed_work(system_dfl_wq, &merge_work, MERGE_DELAY);
	spin_unlock(&merge_lock);
}

/*
 * Going home
 */

/* Nobody will ask for what is pending any more. */
void hugetlb_loan_abandon(struct hugetlb_loan *loan)
{
	struct hugetlb_split *split, *next;

	scoped_guard(spinlock, &merge_lock)
		list_del_init(&loan->merge_entry);

	guard(mutex)(&loan->lock);
	list_for_each_entry_safe(split, next, &loan->pending, entry) {
		list_del(&split->entry);
		split_free(split);
	}
}

/* Make one folio of all that there is, none of which has a reference. */
void hugetlb_loan_whole(struct hugetlb_loan *loan)
{
	const unsigned int piece_order = loan->piece_order;
	const unsigned int order = hugetlb_loan_order(loan);
	const unsigned long nr_pages = hugetlb_loan_pages(loan);
	unsigned long off, i;

	guard(mutex)(&loan->lock);
	guard(rwsem_read)(&hugetlb_lend_rwsem);

	for (off = 0; off < nr_pages; off += 1UL << piece_order) {
		struct page *page = loan->page + off;

		if (folio_order(page_folio(page)) >= piece_order)
			continue;

		for (i = 0; i < 1UL << piece_order; i++) {
			if (unlikely(PageHWPoison(page + i)))
				hugetlb_lent_keep_hwpoison(loan, page + i);
			clear_mlocked(page_folio(page + i));
		}
		merge_map(loan, page, piece_order);
		cond_resched();
	}

	if (folio_order(page_folio(loan->page)) < order)
		merge_map(loan, loan->page, order);
}

/**
 * hugetlb_loan_tidy - take pages out of the vmemmap that merging has left there
 * @loan: the page, whose loan->lock is held, or nobody else has
 * @spare: list to add the pages to, for hugetlb_vmemmap_free_list()
 *
 * What nobody gets a reference to can still be written to, with the value that it
 * has, by somebody who has read the reference count before; see
 * page_ref_add_unless_zero().  The caller has waited for an RCU grace period since
 * the last merge.
 *
 * Context: task context.
 */
void hugetlb_loan_tidy(struct hugetlb_loan *loan, struct list_head *spare)
{
	const unsigned long nr_pages = hugetlb_loan_pages(loan);
	unsigned long off, first, nr;
	struct page *tail;

	if (!loan->untidy)
		return;

	for (first = 0; first < nr_pages; first += nr) {
		struct folio *folio = page_folio(loan->page + first);

		nr = folio_nr_pages(folio);
		if (nr <= VMEMMAP_PER_PAGE)
			continue;

		tail = hugetlb_vmemmap_shared_tail(folio_order(folio),
						   page_zone(loan->page));
		for (off = VMEMMAP_PER_PAGE; off < nr; off += VMEMMAP_PER_PAGE)
			if (!hugetlb_vmemmap_is_shared(folio_page(folio, off)))
				hugetlb_vmemmap_map_shared(folio_page(folio, off),
							   tail, spare);
	}

	hugetlb_vmemmap_flush(loan->page, nr_pages);
	loan->untidy = false;
}

/*
 * Single pages in the hands of the host
 */

/**
 * hugetlb_lent_expose - let a single page be mapped
 * @folio: a single page of a lent page, in a page cache, locked; may be exposed
 *         already, and mapped
 *
 * A folio with a type cannot have a map count.  Before the page cache drops its
 * references, which ->free_folio() precedes, it has to be hidden again; merging
 * it does that, too.
 *
 * Context: any.
 */
void hugetlb_lent_expose(struct folio *folio)
{
	VM_WARN_ON_ONCE_FOLIO(folio_test_large(folio), folio);

	/* It may have a map count already. */
	if (!folio_test_lent(folio))
		return;

	guard(spinlock_irqsave)(&hugetlb_lock);
	__folio_clear_lent(folio);
}
EXPORT_SYMBOL_FOR_BORROWERS(hugetlb_lent_expose);

/**
 * hugetlb_lent_hide - take a single page back that was exposed
 * @folio: the page, not mapped any more; may be hidden already
 *
 * Context: any.
 */
void hugetlb_lent_hide(struct folio *folio)
{
	if (folio_test_lent(folio))
		return;

	VM_WARN_ON_ONCE_FOLIO(folio_mapped(folio), folio);

	guard(spinlock_irqsave)(&hugetlb_lock);
	__folio_set_lent(folio);
}
EXPORT_SYMBOL_FOR_BORROWERS(hugetlb_lent_hide);
