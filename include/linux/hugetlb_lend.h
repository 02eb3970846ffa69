/* SPDX-License-Identifier: GPL-2.0 */
/*
 * HugeTLB pages that are lent out, and may be split while they are.
 *
 * hugetlb_alloc_reserved() lends a page of a HugeTLB pool to its caller: the
 * pool goes on counting it, but HugeTLB does not know the folio any more, so
 * that the borrower can do with its struct pages what HugeTLB never could.
 * Whole or in pieces, the page goes home when the last reference to the last
 * piece has been put, whoever puts it and in whichever context.
 *
 * A lent page has up to two levels below it, those of the hardware: a page that
 * is larger than a PMD maps is split to folios of PMD_ORDER, and such a folio,
 * or a page that is no larger, to single pages.  Splitting keeps HVO as far as
 * the pieces can have it; merging is the reverse.
 *
 * What can fail is done by prepare: it allocates whatever commit will need and
 * changes nothing that anybody could see.  cancel gives it back.  commit cannot
 * fail.  It may find that somebody who found the folio by its pfn, or in the
 * page cache, holds a reference at this moment; then it leaves that step pending
 * rather than wait.
 *
 * The borrower sees to it that
 *
 *  - nothing of what is split or merged is mapped in the host; a guest, whose
 *    mappings have no reference, may have mapped what is split in smaller parts,
 *    and what is merged,
 *  - from prepare to commit or cancel no other task merges or truncates any part
 *    of the same huge page, or splits the same folio.  In a page cache that
 *    means to hold the mapping's invalidate lock, for merging to hold it for
 *    writing, and the lock of the folio.
 *
 * Whatever is split while it is in no page cache, and may be pending, has to be
 * completed before it gets into one.
 */
#ifndef _LINUX_HUGETLB_LEND_H
#define _LINUX_HUGETLB_LEND_H

#include <linux/types.h>

struct folio;
struct hugetlb_merge;
struct hugetlb_split;

/**
 * struct hugetlb_loan_stats - what has become of a lent huge page
 * @order: the order of the huge page
 * @nr_folios: number of folios that it consists of now; 1 if it is whole
 * @nr_small: number of those that are single pages
 * @nr_vmemmap: number of pages that its struct pages take up, and no others are in
 * @nr_back: single pages (not folios) that nobody has a reference to any more
 * @split_pending: a split is committed and waits for hugetlb_split_complete()
 * @merge_pending: a merge was committed, or put off, and will be tried again
 */
struct hugetlb_loan_stats {
	unsigned int order;
	unsigned long nr_folios;
	unsigned long nr_small;
	unsigned long nr_vmemmap;
	unsigned long nr_back;
	bool split_pending;
	bool merge_pending;
};

bool hugetlb_loan_flush(void);
void hugetlb_loan_stats(struct folio *folio, struct hugetlb_loan_stats *stats);

struct hugetlb_split *hugetlb_split_prepare(struct folio *folio,
					    unsigned long first,
					    unsigned long nr);
struct hugetlb_split *hugetlb_split_all_prepare(struct folio *folio);
void hugetlb_split_commit(struct hugetlb_split *split);
void hugetlb_split_cancel(struct hugetlb_split *split);
int hugetlb_split_complete(struct folio *folio);

struct hugetlb_merge *hugetlb_merge_prepare(struct folio *folio,
					    unsigned int order);
void hugetlb_merge_commit(struct hugetlb_merge *merge);
void hugetlb_merge_cancel(struct hugetlb_merge *merge);
void hugetlb_merge_later(struct folio *folio);

void hugetlb_lent_expose(struct folio *folio);
void hugetlb_lent_hide(struct folio *folio);

#endif /* _LINUX_HUGETLB_LEND_H */
