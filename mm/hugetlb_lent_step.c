// SPDX-License-Identifier: GPL-2.0
/*
 * One step of a lent page: a folio is split, or the folios of a block are merged.
 */
#include <linux/dax.h>
#include <linux/hugetlb.h>
#include <linux/mm.h>
#include <linux/mm_inline.h>
#include <linux/pagemap.h>
#include <linux/shmem_fs.h>
#include <linux/vmstat.h>
#include <linux/xarray.h>

#include "hugetlb_internal.h"
#include "hugetlb_lend.h"
#include "hugetlb_vmemmap.h"
#include "internal.h"

/**
 * DOC: A step of a lent page
 *
 * A step runs from the moment in which the reference counts of its folios are
 * frozen at zero to the moment in which those of the new folios are set.  A task
 * that looks up one of the pages by pfn or in the page cache, and wants a reference,
 * gets none meanwhile.  Lookups in the page cache spin on a frozen folio, some with
 * a spinlock held.  Hence a step does not sleep, runs with preemption disabled, and
 * allocates nothing; it has got all memory before.  It waits for other CPUs to
 * flush their TLBs, with interrupts enabled.
 *
 * A task that looks without a reference has to find a head wherever a tail leads,
 * at any time and on any CPU, however old its TLB entries are.  That makes the
 * order of things:
 *
 * - A page becomes a head before tails lead to it.  With HVO that takes a flush
 *   between the two, if the head is in a page of the vmemmap that is newly mapped.
 * - A head becomes a tail after no tail leads to it.  With HVO that takes a flush
 *   between the two, if these tails are in a shared page of the vmemmap.
 *
 * What a CPU finds by the struct page of a tail, while a step runs with HVO:
 *
 * ================= ==================== ================== =====================
 * splitting         new heads            shared tails       a stale entry leads to
 * ================= ==================== ================== =====================
 * heads mapped      written, own page    of the old order   the old head
 * TLBs flushed      seen by all          of the old order   the old head
 * tails mapped      seen by all          of their order     the old head
 * TLBs flushed      seen by all          seen by all        --
 * ================= ==================== ================== =====================
 *
 * ================= ==================== ================== =====================
 * merging           old heads            shared tails       a stale entry leads to
 * ================= ==================== ================== =====================
 * tails mapped      heads                of the new order   an old head
 * TLBs flushed      heads                seen by all        --
 * heads written     tails, own page      seen by all        the new head
 * tails mapped      tails, shared page   seen by all        the new head, own page
 * TLBs flushed      seen by all          seen by all        --; own pages are freed
 * ================= ==================== ================== =====================
 *
 * With HVO a folio larger than a granule owns the first page of its part of the
 * vmemmap.  All others are mapped to the zone's page of tails of that order, where
 * a tail finds its head by a mask.  A granule, and a granule of single pages, own
 * the one page that describes them.  This is so between any two steps; which page
 * of the vmemmap is shared follows from the folios.
 *
 * Shared tails of what was split or merged are mapped writable.  A task may have
 * read the reference count of a page before it was frozen, and write to it when the
 * page has become a tail: a cmpxchg() that fails writes back what it finds, which
 * is zero then.  For that reason a page of the vmemmap can be freed as soon as
 * TLBs are flushed.  All other writes to a struct page take a reference, the lock
 * of the folio, a mapping, or hugetlb_lent_rwsem.
 *
 * In the page cache an entry is replaced by smaller ones, level by level of the
 * XArray, and these by larger ones where the folios are larger; or many by one.  At
 * no time is there a hole, and each entry that a lookup finds leads to the right
 * page.  For a moment of a split that can be a tail, of a folio that is frozen.
 */

/* What is true of a folio is true of its parts. */
#define INHERITED_FLAGS		(BIT(PG_uptodate) | BIT(PG_dirty))

/* What the caller of a step may have done to the folio that it holds */
#define HELD_FLAGS		(BIT(PG_locked) | BIT(PG_waiters))

/* What must not be left of the folios that a block consisted of */
#define OTHER_FLAGS		(PAGEFLAGS_MASK & ~(HELD_FLAGS | INHERITED_FLAGS))

static bool lent_step_has_hvo(const struct lent_step *step)
{
	return step->loan->hvo && step->order > hugetlb_loan_granule(step->loan);
}

/*
 * Blocks: the folios that a folio is split to
 */

/* Order of the block that starts @off pages into the folio */
static unsigned int block_order(const struct lent_step *step, unsigned long off)
{
	unsigned int order = off ? __ffs(off) : step->order;

	if (off < step->first)
		return min_t(unsigned int, order, ilog2(step->first - off));
	if (off < step->first + step->nr)
		return 0;
	return order;
}

/*
 * To walk over the blocks: for (off = 0; off < 1UL << step->order; off += ...), with
 * the order of the block at each @off, and 1UL << order pages to the next.  There are
 * as many pages to the next page of the vmemmap that starts with a head as this says.
 */
static unsigned long memmap_distance(unsigned int order)
{
	return max(1UL << order, MEMMAP_PER_PAGE);
}

/*
 * Struct pages
 */

/*
 * Make a head, or a single page, of a struct page that is a tail or none yet.
 * @memmap is where to write it, @off says which page of the folio it is.
 */
static void init_head(const struct lent_step *step, struct page *memmap,
		      unsigned long off, unsigned int order, unsigned long flags)
{
	struct folio *folio = (struct folio *)memmap;

	if (order)
		flags |= BIT(PG_head);
	memmap->flags.f = (memmap->flags.f & ~PAGEFLAGS_MASK) | flags;
	folio->mapping = step->mapping;
	folio->index = step->index + off;
	folio->private = step->loan;
#ifdef CONFIG_MEMCG
	folio->memcg_data = 0;
#endif
	__folio_set_lent(folio);
	if (order) {
		/* What folio_set_order() does, for a folio that is none yet */
		folio->_flags_1 &= ~PAGEFLAGS_MASK;
		folio->_flags_1 |= order;
#ifdef NR_PAGES_IN_LARGE_FOLIO
		folio->_nr_pages = 1U << order;
#endif
	}

	/* A task that finds no tail here must find a complete head. */
	smp_wmb();
	clear_compound_head(memmap);
}

/* Make a tail of any struct page. */
static void init_tail(struct page *page, const struct page *head,
		      unsigned int order)
{
	page->page_type = UINT_MAX;
	page->mapping = TAIL_MAPPING;
	page->private = 0;
	page->flags.f &= ~PAGEFLAGS_MASK;
#ifdef CONFIG_MEMCG
	page->memcg_data = 0;
#endif
	/* A task that finds a tail here must find a complete one. */
	smp_wmb();
	set_compound_head(page, head, order);
}

/* One store for each of as many as there are: preemption is off meanwhile. */
static void redirect_tails(struct page *page, const struct page *end,
			   const struct page *head, unsigned int order)
{
	for (; page < end; page++)
		set_compound_head(page, head, order);
}

/* The folio's first page, which is a head already; tails lead elsewhere by now. */
static void split_first_head(const struct lent_step *step, unsigned int order,
			     unsigned long flags)
{
	struct page *page = step->page;

	if (order) {
		prep_compound_head(page, order);
		flags |= BIT(PG_head);
	}
	/* The caller holds the lock; a task may be about to wait for it. */
	set_mask_bits(&page->flags.f, PAGEFLAGS_MASK & ~HELD_FLAGS, flags);
}

/* Write the struct pages, from @start to @end of the folio, where they are. */
static void split_memmap(const struct lent_step *step, unsigned long start,
			 unsigned long end, unsigned long flags)
{
	unsigned long off, last;
	unsigned int order;

	for (off = start; off < end; off = last) {
		struct page *head = step->page + off;

		order = block_order(step, off);
		last = min(off + (1UL << order), end);
		if (off)
			init_head(step, head, off, order, flags);
		/* A tail of the old folio stays one, and leads elsewhere. */
		redirect_tails(head + 1, step->page + last, head, order);
		if (off && order)
			prep_compound_head(head, order);
	}

	if (!start)
		split_first_head(step, block_order(step, 0), flags);
}

/* Write a page that is going to be mapped in the vmemmap. */
static void fill_memmap(const struct lent_step *step, struct page *memmap,
			unsigned long off, unsigned int order)
{
	const unsigned long base = step->page->flags.f & ~PAGEFLAGS_MASK;
	struct page *head = step->page + off;
	unsigned long i;

	memset(memmap, 0, PAGE_SIZE);
	for (i = 0; i < MEMMAP_PER_PAGE; i++) {
		memmap[i].flags.f = base;
		atomic_set(&memmap[i]._mapcount, -1);
		if (order && i)
			init_tail(memmap + i, head, order);
	}

	for (i = 0; i < (order ? 1 : MEMMAP_PER_PAGE); i++)
		init_head(step, memmap + i, off + i, order, 0);
}

static void split_vmemmap(struct lent_step *step, unsigned long flags)
{
	const unsigned int granule = hugetlb_loan_granule(step->loan);
	const unsigned long nr = 1UL << step->order;
	struct zone *zone = page_zone(step->page);
	struct page *page, *memmap;
	unsigned long off, i;
	bool changed = false;
	unsigned int order;

	/* Heads first: the tails of the old folio still lead to its head. */
	for (off = 0; off < nr; off += memmap_distance(order)) {
		order = block_order(step, off);
		if (!off)
			continue;
		page = list_first_entry(&step->memmap, struct page, lru);
		list_del(&page->lru);
		memmap = page_address(page);
		for (i = 0; i < (order ? 1 : MEMMAP_PER_PAGE); i++)
			memmap[i].flags.f |= flags;
		hugetlb_vmemmap_map_own(step->page + off, page);
	}
	hugetlb_vmemmap_flush(step->page, nr);

	/* This has a list, whose address it could not know before. */
	for (off = 0; off < nr; off += memmap_distance(order)) {
		order = block_order(step, off);
		if (off && order)
			prep_compound_head(step->page + off, order);
	}

	split_memmap(step, 0, MEMMAP_PER_PAGE, flags);

	/* Tails, now that every CPU finds their heads */
	for (off = 0; off < nr; off += 1UL << order) {
		order = block_order(step, off);
		if (order <= granule)
			continue;
		hugetlb_vmemmap_map_tails(step->page + off + MEMMAP_PER_PAGE,
					  (1UL << order) - MEMMAP_PER_PAGE,
					  hugetlb_vmemmap_shared_tail(order, zone));
		changed = true;
	}
	if (changed)
		hugetlb_vmemmap_flush(step->page, nr);
}

static int split_vmemmap_prepare(struct lent_step *step)
{
	const unsigned long nr = 1UL << step->order;
	struct hugetlb_loan *loan = step->loan;
	unsigned long off, nr_memmap = 0;
	struct page *page;
	unsigned int order;
	int r;

	/* Also those of larger folios, so that merging need not allocate. */
	for (order = hugetlb_loan_granule(loan) + 1;
	     order <= hugetlb_loan_order(loan); order++)
		if (!hugetlb_vmemmap_shared_tail(order, page_zone(step->page)))
			return -ENOMEM;

	/* The first one is there. */
	for (off = memmap_distance(block_order(step, 0)); off < nr;
	     off += memmap_distance(block_order(step, off)))
		nr_memmap++;
	r = hugetlb_vmemmap_alloc_list(nr_memmap, page_to_nid(step->page),
				       &step->memmap);
	if (r)
		return r;

	page = list_first_entry(&step->memmap, struct page, lru);
	for (off = 0; off < nr; off += memmap_distance(order)) {
		order = block_order(step, off);
		if (!off)
			continue;
		fill_memmap(step, page_address(page), off, order);
		page = list_next_entry(page, lru);
		cond_resched();
	}

	return 0;
}

/*
 * Page cache
 */

/* The XArray splits an entry by one level of nodes at a time. */
static unsigned int xas_next_order(unsigned int order)
{
	return rounddown(order - 1, XA_CHUNK_SHIFT);
}

static int split_page_cache_prepare(struct lent_step *step)
{
	struct xa_state *xas = &step->xas;
	unsigned int order;
	unsigned long off;

	for (order = step->order; order; order = xas_next_order(order)) {
		for (off = round_down(step->first, 1UL << order);
		     off < step->first + step->nr; off += 1UL << order) {
			xas_set_order(xas, step->index + off,
				      xas_next_order(order));
			xas_split_alloc(xas, step->page, order, GFP_KERNEL);
			if (xas_error(xas))
				return xas_error(xas);
			cond_resched();
		}
	}

	return 0;
}

static void split_page_cache(struct lent_step *step)
{
	struct xa_state *xas = &step->xas;
	unsigned int order;
	unsigned long off;

	xas_lock_irq(xas);
	for (order = step->order; order; order = xas_next_order(order)) {
		for (off = round_down(step->first, 1UL << order);
		     off < step->first + step->nr; off += 1UL << order) {
			xas_set_order(xas, step->index + off,
				      xas_next_order(order));
			xas_split_strided(xas, step->page + off, order,
					  sizeof(struct page));
		}
	}

	/* These lie over entries that lead to the same pages. */
	for (off = 0; off < 1UL << step->order; off += 1UL << order) {
		order = block_order(step, off);
		if (!order)
			continue;
		xas_set_order(xas, step->index + off, order);
		xas_store(xas, step->page + off);
	}
	xas_unlock_irq(xas);
	WARN_ON_ONCE(xas_error(xas));
}

static void merge_page_cache(struct xa_state *xas, struct folio *folio)
{
	xas_lock_irq(xas);
	xas_store(xas, folio);
	xas_unlock_irq(xas);
	WARN_ON_ONCE(xas_error(xas));
}

/*
 * References
 */

/* @held: the page whose folio the caller has locked, with one reference */
static int folio_refs(const struct page *page, unsigned int order,
		      const struct address_space *mapping,
		      const struct page *held)
{
	if (!mapping)
		return 1;
	return (1 << order) + (page == held);
}

/*
 * Freeze a folio that is not used.  A task that uses it has a reference, with one
 * exception: a fault may still have the lock when the entry that it made in the
 * page table was zapped, and the reference with that.
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

/*
 * Splitting
 */

/**
 * lent_step_prepare - allocate what it takes to split a folio
 * @step: the step, with all set that says what to split
 *
 * Context: may sleep.  The caller has a reference to the folio.
 * Return: 0, or -ENOMEM; lent_step_cancel() frees what there is in both cases.
 */
int lent_step_prepare(struct lent_step *step)
{
	int r = 0;

	INIT_LIST_HEAD(&step->memmap);
	step->xas = (struct xa_state)__XA_STATE(NULL, 0, 0, 0);
	if (step->mapping) {
		step->xas.xa = &step->mapping->i_pages;
		mapping_set_update(&step->xas, step->mapping);
		r = split_page_cache_prepare(step);
	}
	if (!r && lent_step_has_hvo(step))
		r = split_vmemmap_prepare(step);

	return r;
}

/**
 * lent_step_cancel - free what a step did not need
 * @step: the step
 *
 * Context: any.
 */
void lent_step_cancel(struct lent_step *step)
{
	xas_destroy(&step->xas);
	hugetlb_vmemmap_cancel_list(&step->memmap);
}

/* Count the folios and pages of the vmemmap that there are now. */
static void split_count(const struct lent_step *step)
{
	struct hugetlb_loan_parts *parts = step->loan->parts;
	const unsigned long nr = 1UL << step->order;
	unsigned long off;
	unsigned int order;

	parts->nr_folios[step->order]--;
	for (off = 0; off < nr; off += 1UL << order) {
		order = block_order(step, off);
		parts->nr_folios[order]++;
	}

	if (!lent_step_has_hvo(step))
		return;
	parts->nr_vmemmap--;
	for (off = 0; off < nr; off += memmap_distance(block_order(step, off)))
		parts->nr_vmemmap++;
}

/**
 * lent_step_split - split a folio
 * @step: the step, prepared; the folio is locked
 *
 * Context: task context, may sleep before and after the step.
 * Return: 0, or -EAGAIN if the folio has another reference than those of the page
 *         cache and of the caller; then nothing has changed.
 */
int lent_step_split(struct lent_step *step)
{
	const unsigned long nr = 1UL << step->order;
	struct folio *folio = page_folio(step->page);
	struct page *held = step->page;
	unsigned long off, flags;
	unsigned int order;

	guard(rwsem_read)(&hugetlb_lent_rwsem);

	/* It was split around a page that failed since this was prepared. */
	if (folio_order(folio) != step->order)
		return -EAGAIN;

	guard(preempt)();

	if (!freeze_unused(folio, step->mapping,
			   folio_refs(held, step->order, step->mapping, held), held))
		return -EAGAIN;

	VM_WARN_ON_ONCE_FOLIO(folio_mapped(folio), folio);

	/* The mark on the head is going to be where the failed page is. */
	if (unlikely(folio_test_hwpoison(folio)))
		hugetlb_loan_keep_hwpoison(step->loan, folio);

	flags = folio->flags.f & INHERITED_FLAGS;
	if (lent_step_has_hvo(step))
		split_vmemmap(step, flags);
	else
		split_memmap(step, 0, nr, flags);
	hugetlb_loan_spread_hwpoison(step->loan);

	if (step->mapping)
		split_page_cache(step);
	split_count(step);

	for (off = 0; off < nr; off += 1UL << order) {
		order = block_order(step, off);
		page_ref_unfreeze(step->page + off,
				  folio_refs(step->page + off, order,
					     step->mapping, held));
	}
	return 0;
}

/*
 * Merging
 */

/* mlock() leaves its mark on a page that is on no LRU list. */
static void clear_mlocked(struct folio *folio)
{
	if (likely(!folio_test_mlocked(folio)))
		return;

	__folio_clear_mlocked(folio);
	zone_stat_mod_folio(folio, NR_MLOCK, -folio_nr_pages(folio));
	count_vm_events(UNEVICTABLE_PGCLEARED, folio_nr_pages(folio));
}

/* Struct pages of a large folio that have fields of the folio, its head's included */
#define FOLIO_STRUCT_PAGES	(sizeof(struct folio) / sizeof(struct page))

/*
 * A unit of a merge is a large folio, or a granule of single pages.  It is what has
 * a page of the vmemmap of its own.
 */
static unsigned long unit_pages(const struct hugetlb_loan *loan,
				const struct page *page)
{
	const struct folio *folio = (const struct folio *)page;

	if (folio_test_large(folio))
		return folio_nr_pages(folio);
	return 1UL << hugetlb_loan_granule(loan);
}

static bool merge_has_hvo(const struct hugetlb_loan *loan, unsigned int order)
{
	return loan->hvo && order > hugetlb_loan_granule(loan);
}

/*
 * Make the shared tails in a block lead to the first page of it, which is no tail.
 * Returns true if there are some; then TLBs have to be flushed.
 */
static bool merge_tails(struct hugetlb_loan *loan, struct page *head,
			unsigned int order)
{
	unsigned long off, nr;
	bool changed = false;
	struct page *tail;

	if (!merge_has_hvo(loan, order))
		return false;

	tail = hugetlb_vmemmap_shared_tail(order, page_zone(head));
	for (off = 0; off < 1UL << order; off += nr) {
		nr = unit_pages(loan, head + off);
		if (nr <= MEMMAP_PER_PAGE)
			continue;
		hugetlb_vmemmap_map_tails(head + off + MEMMAP_PER_PAGE,
					  nr - MEMMAP_PER_PAGE, tail);
		changed = true;
	}

	return changed;
}

/*
 * Make one folio of the units in a block, of which no shared tail leads to another
 * head than that of the block.  Pages of the vmemmap that are left over are added
 * to @memmap_list; TLBs have to be flushed before these are freed.
 */
static void merge_heads(struct hugetlb_loan *loan, struct page *head,
			unsigned int order, struct list_head *memmap_list)
{
	struct hugetlb_loan_parts *parts = loan->parts;
	const bool hvo = merge_has_hvo(loan, order);
	unsigned long off, i, nr, nr_own, nr_init;
	struct page *tail = NULL;

	if (hvo)
		tail = hugetlb_vmemmap_shared_tail(order, page_zone(head));

	for (off = 0; off < 1UL << order; off += nr) {
		struct page *page = head + off;
		bool large = PageHead(page);

		nr = unit_pages(loan, page);
		nr_own = hvo ? min(nr, MEMMAP_PER_PAGE) : nr;
		if (large)
			parts->nr_folios[folio_order((struct folio *)page)]--;
		else
			parts->nr_folios[0] -= nr;

		/* A tail of a large folio stays one, and leads elsewhere. */
		/* The first folio stays one; it must not be without an order. */
		nr_init = !large ? nr_own : off ? min(nr_own, FOLIO_STRUCT_PAGES) : 1;
		for (i = 1; i < nr_init; i++)
			init_tail(page + i, head, order);
		redirect_tails(page + nr_init, page + nr_own, head, order);

		if (off) {
			init_tail(page, head, order);
		} else {
			set_mask_bits(&page->flags.f, OTHER_FLAGS, BIT(PG_head));
			prep_compound_head(page, order);
			__folio_set_lent((struct folio *)page);
		}
		if (off && hvo) {
			hugetlb_vmemmap_unmap_own(page, tail, memmap_list);
			parts->nr_vmemmap--;
		}
	}
	parts->nr_folios[order]++;
}

/* Set the references of the folios in the first @nr pages of a block. */
static void unfreeze_block(struct page *head, unsigned long nr,
			   const struct address_space *mapping,
			   const struct page *held)
{
	unsigned long off, folio_nr;
	unsigned int order;

	for (off = 0; off < nr; off += folio_nr) {
		order = folio_order(page_folio(head + off));
		folio_nr = 1UL << order;
		page_ref_unfreeze(head + off,
				  folio_refs(head + off, order, mapping, held));
	}
}

/* Freeze all folios of a block, or none. */
static int freeze_block(struct page *head, unsigned int order,
			struct address_space *mapping, const struct page *held)
{
	unsigned long off;
	int r = 0;

	for (off = 0; off < 1UL << order; ) {
		struct folio *folio = page_folio(head + off);
		int refs = folio_refs(head + off, folio_order(folio), mapping, held);

		if (!freeze_unused(folio, mapping, refs, held))
			r = -EAGAIN;
		if (!r)
			off += folio_nr_pages(folio);
		if (!r && unlikely(folio_test_hwpoison(folio)))
			r = -EHWPOISON;
		if (r) {
			unfreeze_block(head, off, mapping, held);
			return r;
		}
	}

	return 0;
}

/* The step: from freezing to unfreezing */
static int merge_step(struct hugetlb_loan *loan, struct page *head,
		      unsigned int order, struct xa_state *xas,
		      struct page *held, struct list_head *memmap_list)
{
	struct address_space *mapping = page_folio(held)->mapping;
	unsigned long off, nr;
	int r;

	guard(rwsem_read)(&hugetlb_lent_rwsem);
	guard(preempt)();

	r = freeze_block(head, order, mapping, held);
	if (r)
		return r;

	for (off = 0; off < 1UL << order; off += nr) {
		struct folio *folio = page_folio(head + off);

		nr = folio_nr_pages(folio);
		VM_WARN_ON_ONCE_FOLIO(folio_mapped(folio), folio);
		clear_mlocked(folio);
	}

	/* First, so that no entry leads to a head that has become a tail. */
	if (mapping)
		merge_page_cache(xas, page_folio(head));
	if (merge_tails(loan, head, order))
		hugetlb_vmemmap_flush(head, 1UL << order);
	merge_heads(loan, head, order, memmap_list);

	unfreeze_block(head, 1, mapping, held);
	return 0;
}

/**
 * hugetlb_loan_merge - make one folio of a block of a lent page
 * @loan: the loan
 * @head: first page of the block, of a folio that is smaller than the block
 * @order: order of the block
 * @held: first page of a folio in the same page cache, which the caller has locked,
 *        with a reference; it is @head, or before it
 * @memmap_list: list to add pages of the vmemmap to that are left over, for
 *        hugetlb_loan_free_memmap()
 *
 * Preemption is disabled for as long as it takes to write the struct pages.  The
 * caller bounds that: it merges blocks of PMD_ORDER first where pages are single.
 *
 * Context: task context, may sleep before and after the step.
 * Return: 0; or, with nothing changed, -EAGAIN if a folio of the block has a
 *         reference that is not the page cache's or the caller's, -EHWPOISON if one
 *         has a page that failed, -ENOMEM.
 */
int hugetlb_loan_merge(struct hugetlb_loan *loan, struct page *head,
		       unsigned int order, struct page *held,
		       struct list_head *memmap_list)
{
	struct folio *folio = page_folio(held);
	struct address_space *mapping = folio->mapping;
	XA_STATE(xas, NULL, 0);
	int r;

	if (mapping) {
		xas.xa = &mapping->i_pages;
		xas_set_order(&xas, folio->index + (head - held), order);
		mapping_set_update(&xas, mapping);
	}
	/*
	 * A tree that has an index of the block, which is not 0, has a root that is high
	 * enough for the block, and the node for its entry.  With nothing but index 0,
	 * the root may have been lowered when all behind was truncated.  No reclaim: the
	 * caller has the invalidate lock.
	 */
	if (mapping && !xas.xa_index) {
		xas_set_err(&xas, -ENOMEM);
		if (!xas_nomem(&xas, GFP_NOWAIT))
			return -ENOMEM;
	}

	r = merge_step(loan, head, order, &xas, held, memmap_list);
	xas_destroy(&xas);
	return r;
}

/**
 * hugetlb_loan_free_memmap - free pages of the vmemmap that merging has left
 * @page: first page of the block that was merged, or blocks of which were
 * @order: order of that block
 * @memmap_list: the pages of hugetlb_loan_merge(); empty on return
 *
 * Until then a CPU with a stale entry finds struct pages that say the same.
 *
 * Context: task context.
 */
void hugetlb_loan_free_memmap(struct page *page, unsigned int order,
			      struct list_head *memmap_list)
{
	if (list_empty(memmap_list))
		return;

	hugetlb_vmemmap_flush(page, 1UL << order);
	hugetlb_vmemmap_free_list(memmap_list);
}

/*
 * Going home: all pages have returned, no reference count has to be frozen
 */

/*
 * Clear what the borrower's use has left on folios, before these become tails.  A
 * failed page is remembered in the loan.
 */
static void loan_clean(struct hugetlb_loan *loan)
{
	unsigned long off, nr;

	for (off = 0; off < hugetlb_loan_pages(loan); off += nr) {
		struct folio *folio = page_folio(loan->page + off);

		nr = folio_nr_pages(folio);
		if (unlikely(folio_test_hwpoison(folio)))
			hugetlb_loan_keep_hwpoison(loan, folio);
		clear_mlocked(folio);
	}
}

/**
 * hugetlb_loan_whole_tails - first half of making a page whole that goes home
 * @loan: the loan
 *
 * Context: task context, may sleep.
 * Return: true if TLBs have to be flushed before hugetlb_loan_whole_heads().
 */
bool hugetlb_loan_whole_tails(struct hugetlb_loan *loan)
{
	const unsigned int order = hugetlb_loan_order(loan);

	guard(rwsem_read)(&hugetlb_lent_rwsem);

	if (folio_order(page_folio(loan->page)) == order)
		return false;
	return merge_tails(loan, loan->page, order);
}

/**
 * hugetlb_loan_whole_heads - second half of making a page whole that goes home
 * @loan: the loan
 * @memmap_list: list to add pages of the vmemmap to that are left over
 *
 * Context: task context, may sleep.  The caller flushes TLBs before it frees what
 *          is on @memmap_list.
 */
void hugetlb_loan_whole_heads(struct hugetlb_loan *loan, struct list_head *memmap_list)
{
	const unsigned int order = hugetlb_loan_order(loan);

	guard(rwsem_read)(&hugetlb_lent_rwsem);

	/* Not earlier: memory failure may have marked a page until now. */
	loan_clean(loan);
	if (folio_order(page_folio(loan->page)) == order)
		return;
	merge_heads(loan, loan->page, order, memmap_list);
}
