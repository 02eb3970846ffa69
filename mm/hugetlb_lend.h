/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What HugeTLB and the rest of mm/ know of lent pages.
 *
 * hugetlb_loan_*() take a loan, hugetlb_lent_*() a folio of a lent page.
 */
#ifndef _LINUX_MM_HUGETLB_LEND_H
#define _LINUX_MM_HUGETLB_LEND_H

#include <linux/hugetlb_lend.h>

#ifdef CONFIG_HUGETLB_LEND

#include <linux/hugetlb.h>
#include <linux/llist.h>
#include <linux/log2.h>
#include <linux/mutex.h>
#include <linux/refcount.h>
#include <linux/rwsem.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

struct hugepage_subpool;
struct hugetlb_cgroup;

/* struct pages in a page of the vmemmap; HVO needs this to be exact. */
#define MEMMAP_PER_PAGE		(PAGE_SIZE / sizeof(struct page))

/**
 * struct hugetlb_reservation - huge pages that are reserved for one borrower
 * @spool: the subpool; it counts what is reserved and what is allocated
 * @h: the pool
 * @h_cg_rsvd: the hugetlb cgroup that is charged for the reservation
 * @nr_huge_pages: number of huge pages
 * @merged: called with a folio that a delayed merge has made, or NULL
 * @refs: of the owner, of each loan, and of @work while it is queued
 * @returned: loans of which all pages have returned
 * @lock: held while loans of @returned are taken home
 * @work: takes them home
 * @nr_lost: number of huge pages that are promised no more, since pages have failed
 *           and the pool had no others; @lock
 * @may_regain: pages have come home since the pool was last asked for others; @lock
 * @destroyed: its owner has given it up; what is outstanding is awaited by the pool
 */
struct hugetlb_reservation {
	struct hugepage_subpool *spool;
	struct hstate *h;
	struct hugetlb_cgroup *h_cg_rsvd;
	unsigned long nr_huge_pages;
	void (*merged)(struct folio *folio);

	refcount_t refs;
	struct llist_head returned;
	struct mutex lock;		/* held while loans go home */
	struct work_struct work;
	unsigned long nr_lost;
	bool may_regain;
	bool destroyed;
};

/**
 * struct hugetlb_loan_parts - what a loan needs once its page was split
 * @loan: the loan
 * @nr_vmemmap: number of pages of the vmemmap that only this huge page has
 * @nr_folios: number of folios by order
 * @work: merges what is wanted
 * @due: time in jiffies before which @work leaves the page alone
 * @merged_at: time in jiffies of the last delayed merge, if there was one
 * @wait: how long a wanted merge waits in jiffies, see hugetlb_lent_split.c
 * @retry: the same after attempts that found a page in use
 * @merged: a delayed merge has been done since the last split
 * @nr_wanted: number of blocks to merge
 * @wanted: bitmap of these blocks; as all from @due on, under hugetlb_loan.lock
 *
 * The numbers change with the folios, in steps of which there is one at a time.
 */
struct hugetlb_loan_parts {
	struct hugetlb_loan *loan;
	unsigned long nr_vmemmap;
	unsigned int nr_folios[MAX_FOLIO_ORDER + 1];

	struct delayed_work work;
	unsigned long due;
	unsigned long merged_at;
	unsigned long wait;
	unsigned long retry;
	bool merged;
	unsigned int nr_wanted;
	unsigned long wanted[];
};

/**
 * struct hugetlb_loan - a huge page that is lent out
 * @entry: on hstate->lent_list; hugetlb_lock
 * @h: the pool
 * @resv: the reservation that the page belongs to
 * @page: the first page.  The folio that it is the head of, of whichever order,
 *        and all others that the huge page consists of, have this loan in ->private.
 * @h_cg: the hugetlb cgroup that is charged for the page; hugetlb_lock
 * @memcg_data: of the folio that was lent
 * @flags: what HugeTLB had in ->private, see enum hugetlb_page_flags
 * @raw_hwp: pages that failed; under hugetlb_lock while lent
 * @nr_outstanding: number of pages that are part of folios which are referenced, and
 *        of those who keep the huge page from going home
 * @returned: on the list of the reservation when @nr_outstanding is zero
 * @parts: NULL until the page is split for the first time
 * @lock: the types of single pages, and @parts->wanted
 * @split_lock: held while a split is committed.  The borrower has one at a time, and
 *        a page that fails is another reason.
 * @isolate_work: splits folios around pages that have failed
 * @isolate_wait: how long it waits before it tries again, in jiffies
 * @hvo: the page was lent with HVO, and goes home with it
 */
struct hugetlb_loan {
	struct list_head entry;
	struct hstate *h;
	struct hugetlb_reservation *resv;
	struct page *page;

	struct hugetlb_cgroup *h_cg;
	unsigned long memcg_data;
	unsigned long flags;
	struct llist_head raw_hwp;

	atomic_long_t nr_outstanding;
	struct llist_node returned;

	struct hugetlb_loan_parts *parts;
	spinlock_t lock;		/* types of single pages, wanted blocks */
	struct mutex split_lock;	/* one split at a time */
	struct delayed_work isolate_work;
	unsigned long isolate_wait;
	bool hvo;
};

static inline struct hugetlb_loan *hugetlb_lent_loan(const struct folio *folio)
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

/* Order of the smallest folio above a single page */
static inline unsigned int hugetlb_loan_granule(const struct hugetlb_loan *loan)
{
	return min_t(unsigned int, ilog2(MEMMAP_PER_PAGE), hugetlb_loan_order(loan));
}

/* hugetlb_lend.c */
extern struct rw_semaphore hugetlb_lent_rwsem;

struct hugetlb_loan *hugetlb_loan_alloc(struct hugetlb_reservation *resv);
void hugetlb_loan_free(struct hugetlb_loan *loan);
void hugetlb_loan_lend(struct hugetlb_loan *loan, struct folio *folio);
void hugetlb_lent_put(struct folio *folio);
struct hugetlb_loan *hugetlb_lent_get_loan(struct page *page);
void hugetlb_loan_put(struct hugetlb_loan *loan);

unsigned long hugetlb_lent_pool_nr_coming(const struct hstate *h);
unsigned long hugetlb_lent_pool_nr_home(const struct hstate *h);
unsigned long hugetlb_lent_pool_nr_awaited(const struct hstate *h);
int hugetlb_lent_pool_wait(const struct hstate *h, unsigned long nr_home, long timeout);
void hugetlb_reservation_orphan(struct hugetlb_reservation *resv);
void hugetlb_reservation_regain(struct hugetlb_reservation *resv);
void hugetlb_reservation_workfn(struct work_struct *work);
void hugetlb_reservation_put(struct hugetlb_reservation *resv);

/* Keep folios of lent pages from being split or merged. */
static inline void hugetlb_lent_block_steps(void)
{
	down_write(&hugetlb_lent_rwsem);
}

static inline void hugetlb_lent_unblock_steps(void)
{
	up_write(&hugetlb_lent_rwsem);
}

/**
 * struct lent_step - a folio to split, with all that it takes
 * @loan: the loan
 * @page: first page of the folio
 * @order: order of the folio
 * @first: first of the pages that become single ones, counted from @page
 * @nr: number of these pages; both are multiples of a granule
 * @mapping: the page cache that the folio is in, or NULL
 * @index: index of @page there
 * @memmap: pages for the vmemmap, in the order in which they are mapped
 * @xas: in the page cache, with the nodes that the entries need
 */
struct lent_step {
	struct hugetlb_loan *loan;
	struct page *page;
	unsigned int order;
	unsigned long first;
	unsigned long nr;

	struct address_space *mapping;
	pgoff_t index;

	struct list_head memmap;
	struct xa_state xas;
};

/* hugetlb_lent_step.c */
int lent_step_prepare(struct lent_step *step);
int lent_step_split(struct lent_step *step);
void lent_step_cancel(struct lent_step *step);
int hugetlb_loan_merge(struct hugetlb_loan *loan, struct page *head,
		       unsigned int order, struct page *held,
		       struct list_head *memmap_list);
void hugetlb_loan_free_memmap(struct page *page, unsigned int order,
			      struct list_head *memmap_list);
bool hugetlb_loan_whole_tails(struct hugetlb_loan *loan);
void hugetlb_loan_whole_heads(struct hugetlb_loan *loan,
			      struct list_head *memmap_list);

/* hugetlb_lent_split.c */
void hugetlb_loan_init_work(struct hugetlb_loan *loan);
void hugetlb_loan_forget_work(struct hugetlb_loan *loan);
int hugetlb_loan_isolate_page(struct hugetlb_loan *loan, struct page *page);
int hugetlb_lent_isolate(struct page *page);
void hugetlb_loan_isolate_later(struct hugetlb_loan *loan);

#ifdef CONFIG_MEMORY_FAILURE
/* memory-failure.c */
void hugetlb_loan_spread_hwpoison(struct hugetlb_loan *loan);
void hugetlb_loan_keep_hwpoison(struct hugetlb_loan *loan, struct folio *folio);
void hugetlb_loan_return_hwpoison(struct hugetlb_loan *loan, struct folio *folio);
int hugetlb_loan_isolate_hwpoison(struct hugetlb_loan *loan);
bool hugetlb_loan_has_hwpoison(struct hugetlb_loan *loan);
void hugetlb_free_hwpoison(struct folio *folio);
#else
static inline void hugetlb_loan_spread_hwpoison(struct hugetlb_loan *loan) { }
static inline void hugetlb_loan_keep_hwpoison(struct hugetlb_loan *loan,
					      struct folio *folio) { }
static inline void hugetlb_loan_return_hwpoison(struct hugetlb_loan *loan,
						struct folio *folio) { }
static inline int hugetlb_loan_isolate_hwpoison(struct hugetlb_loan *loan)
{
	return 0;
}

static inline bool hugetlb_loan_has_hwpoison(struct hugetlb_loan *loan)
{
	return false;
}

static inline void hugetlb_free_hwpoison(struct folio *folio) { }
#endif

#else /* !CONFIG_HUGETLB_LEND */

static inline void hugetlb_lent_put(struct folio *folio) { }
static inline int hugetlb_lent_isolate(struct page *page)
{
	return 0;
}

static inline struct hugetlb_loan *hugetlb_lent_get_loan(struct page *page)
{
	return NULL;
}

static inline void hugetlb_loan_put(struct hugetlb_loan *loan) { }
static inline void hugetlb_free_hwpoison(struct folio *folio) { }

static inline void hugetlb_lent_block_steps(void) { }
static inline void hugetlb_lent_unblock_steps(void) { }

#endif /* CONFIG_HUGETLB_LEND */

#endif /* _LINUX_MM_HUGETLB_LEND_H */
