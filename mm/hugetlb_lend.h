/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What HugeTLB and the rest of mm/ know of lent pages.
 */
#ifndef _LINUX_MM_HUGETLB_LEND_H
#define _LINUX_MM_HUGETLB_LEND_H

#include <linux/hugetlb_lend.h>

#ifdef CONFIG_HUGETLB_LEND

#include <linux/hugetlb.h>
#include <linux/llist.h>
#include <linux/mutex.h>
#include <linux/rwsem.h>

struct hugepage_subpool;
struct hugetlb_cgroup;

/**
 * struct hugetlb_loan - a huge page that is lent out
 * @entry: on hstate->lent_list; hugetlb_lock
 * @h: the pool
 * @page: the first page.  The folio that it is the head of, of whichever order,
 *        and all others that the page consists of have this loan in ->private.
 * @spool: the subpool that gets the page back
 * @h_cg: the hugetlb cgroup that is charged for the page; hugetlb_lock
 * @h_cg_rsvd: the one that is charged for its reservation, if the page carries it
 * @memcg_data: of the folio that was lent
 * @flags: what HugeTLB had in ->private, see enum hugetlb_page_flags
 * @raw_hwp: pages that failed; under hugetlb_lock while lent
 * @hvo: the page has gone out with HVO, and returns with it
 * @piece_order: the order of the folios that it is split into first, the page's
 *               own if there is nothing between that and single pages
 * @nr_out: number of pages that are part of folios which are referenced
 * @home: on the list of those that have none of these
 * @lock: one split, merge or completion at a time
 * @pending: splits that are committed and not done; @lock
 * @untidy: there may be pages of the vmemmap left over from a merge; @lock
 * @rcu_state: when they can be given back
 * @merge_entry: on the list of pages to be merged later; with the fields below,
 *               under the lock of that list
 * @merge_at: when, in jiffies
 * @merge_delay: how long to wait after that, in jiffies
 * @merge_whole: to one folio, when @merge_pieces is empty
 * @merge_pieces: bitmap of the pieces to merge
 */
struct hugetlb_loan {
	struct list_head entry;
	struct hstate *h;
	struct page *page;

	struct hugepage_subpool *spool;
	struct hugetlb_cgroup *h_cg;
	struct hugetlb_cgroup *h_cg_rsvd;
	unsigned long memcg_data;
	unsigned long flags;
	struct llist_head raw_hwp;
	bool hvo;
	u8 piece_order;

	atomic_long_t nr_out;
	struct llist_node home;

	struct mutex lock;		/* one split, merge or completion */
	struct list_head pending;
	bool untidy;
	unsigned long rcu_state;

	struct list_head merge_entry;
	unsigned long merge_at;
	unsigned long merge_delay;
	bool merge_whole;
	unsigned long merge_pieces[];
};

static inline struct hugetlb_loan *hugetlb_folio_loan(const struct folio *folio)
{
	return folio->private;
}

static inline unsigned int hugetlb_loan_order(const struct hugetlb_loan *loan)
{
	return huge_page_order(loan->h);
}

static inline unsigned long hugetlb_loan_pages(const struct hugetlb_loan *loan)
{
	return pages_per_huge_page(loan->h);
}

/* hugetlb_lend.c */
extern struct rw_semaphore hugetlb_lend_rwsem;

struct hugetlb_loan *hugetlb_loan_alloc(struct hstate *h);
void hugetlb_loan_free(struct hugetlb_loan *loan);
void hugetlb_lend(struct hugetlb_loan *loan, struct folio *folio,
		  struct hugepage_subpool *spool);
void hugetlb_lent_put(struct folio *folio);

/* Keep struct pages of lent pages as they are. */
static inline void hugetlb_lend_freeze(void)
{
	down_write(&hugetlb_lend_rwsem);
}

static inline void hugetlb_lend_thaw(void)
{
	up_write(&hugetlb_lend_rwsem);
}

/* hugetlb_split.c */
void hugetlb_loan_whole(struct hugetlb_loan *loan);
void hugetlb_loan_tidy(struct hugetlb_loan *loan, struct list_head *spare);
void hugetlb_loan_abandon(struct hugetlb_loan *loan);
bool hugetlb_loan_merge_pending(struct hugetlb_loan *loan);

#ifdef CONFIG_MEMORY_FAILURE
/* memory-failure.c */
void hugetlb_lent_spread_hwpoison(struct hugetlb_loan *loan);
void hugetlb_lent_keep_hwpoison(struct hugetlb_loan *loan, struct page *page);
void hugetlb_lent_return_hwpoison(struct hugetlb_loan *loan, struct folio *folio);
#else
static inline void hugetlb_lent_spread_hwpoison(struct hugetlb_loan *loan) { }
static inline void hugetlb_lent_keep_hwpoison(struct hugetlb_loan *loan,
					      struct page *page) { }
static inline void hugetlb_lent_return_hwpoison(struct hugetlb_loan *loan,
						struct folio *folio) { }
#endif

#else /* !CONFIG_HUGETLB_LEND */

static inline void hugetlb_lent_put(struct folio *folio) { }
static inline void hugetlb_lend_freeze(void) { }
static inline void hugetlb_lend_thaw(void) { }

#endif /* CONFIG_HUGETLB_LEND */

#endif /* _LINUX_MM_HUGETLB_LEND_H */
