/* SPDX-License-Identifier: GPL-2.0 */
/*
 * HugeTLB pages that are lent out, and are split while they are.
 */
#ifndef _LINUX_HUGETLB_LEND_H
#define _LINUX_HUGETLB_LEND_H

#include <linux/mm.h>
#include <linux/page_ref.h>
#include <linux/types.h>

struct hugetlb_lent_split;

/**
 * DOC: Lent pages
 *
 * hugetlb_reservation_alloc_folio() lends a page of a HugeTLB pool to its caller,
 * the borrower.  The pool goes on counting the page, but no path of HugeTLB takes
 * the folio for its own.  Whole or in parts, the page returns to its pool when the
 * last reference to its last folio is put, in whichever context that happens.
 *
 * A lent page can be split.  The borrower names a range of pages: these become
 * single pages, so that they can be mapped by the host.  The rest of the folio
 * becomes naturally aligned folios that are as large as possible, and keep HVO.
 * The range is widened to granules.  A granule is what one page of the vmemmap
 * describes (64 pages on x86-64); smaller folios would save no memory.
 *
 * What can fail is done by prepare: it allocates all that commit needs, and changes
 * nothing.  Commit either succeeds, or finds that the folio is in use and changes
 * nothing, too.
 *
 * The borrower sees to it that
 *
 *  - nothing of what is split or merged is mapped in the host.  A guest, whose
 *    mappings hold no reference, may have mapped it.
 *  - from prepare to commit or cancel no other task splits a part of the same huge
 *    page.
 *  - commit runs with the folio locked.  If the folio is in a page cache, the
 *    mapping's invalidate lock is held, for reading at least.
 */

/**
 * struct hugetlb_lent_stats - what has become of a lent huge page
 * @order: order of the huge page
 * @nr_folios: number of folios by order; entry @order is 1 if the page is whole
 * @nr_vmemmap: number of pages of the vmemmap that describe nothing but this page
 * @nr_returned: number of single pages (not folios) that have no reference any more
 * @merge_wanted: a part is to be merged later
 */
struct hugetlb_lent_stats {
	unsigned int order;
	unsigned int nr_folios[MAX_FOLIO_ORDER + 1];
	unsigned long nr_vmemmap;
	unsigned long nr_returned;
	bool merge_wanted;
};

void hugetlb_lent_stats(const struct folio *folio, struct hugetlb_lent_stats *stats);

/**
 * hugetlb_lent_can_split - can lent pages be split on this kernel?
 *
 * A lookup in the page cache spins on a folio that is frozen.  On PREEMPT_RT it
 * could preempt the step that it waits for, and the page cache has a lock that
 * sleeps.
 *
 * Context: any.
 * Return: false on PREEMPT_RT, true otherwise.
 */
static inline bool hugetlb_lent_can_split(void)
{
	return !IS_ENABLED(CONFIG_PREEMPT_RT);
}

struct hugetlb_lent_split *hugetlb_lent_split_prepare(struct folio *folio,
						      unsigned long first,
						      unsigned long nr);
int hugetlb_lent_split_commit(struct hugetlb_lent_split *split);
void hugetlb_lent_split_cancel(struct hugetlb_lent_split *split);

int hugetlb_lent_merge(struct folio *folio, unsigned int order);
int hugetlb_lent_merge_later(struct folio *folio, unsigned int order);

void hugetlb_lent_expose(struct folio *folio);
void hugetlb_lent_hide(struct folio *folio);

/**
 * hugetlb_lent_exposed - can a folio of a lent page be mapped by the host?
 * @folio: a folio of a lent page; the caller keeps it from being exposed or hidden
 *
 * Context: any.
 * Return: true from hugetlb_lent_expose() to hugetlb_lent_hide().
 */
static inline bool hugetlb_lent_exposed(const struct folio *folio)
{
	return !folio_test_lent(folio);
}

/**
 * hugetlb_lent_unused - does nothing but the page cache use a folio?
 * @folio: a folio of a lent page, locked
 * @extra: number of references that the caller has
 *
 * Context: any.
 * Return: true if the folio is not mapped, and has exactly the references of the
 *         page cache that it is in, if any, and @extra others.
 */
static inline bool hugetlb_lent_unused(const struct folio *folio, int extra)
{
	if (folio->mapping)
		extra += folio_nr_pages(folio);

	return !folio_mapped(folio) && folio_ref_count(folio) == extra;
}

#endif /* _LINUX_HUGETLB_LEND_H */
