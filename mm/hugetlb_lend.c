// SPDX-License-Identifier: GPL-2.0
/*
 * Lending HugeTLB pages out, and taking them back.
 *
 * A page that is allocated from a pool for somebody who wants more of it than
 * HugeTLB can do with a page of its own, above all to split it, is lent to them:
 * it is taken off the list of allocated pages, and PGTY_hugetlb is replaced by
 * PGTY_lent.  From then on no path of HugeTLB finds it, be it one that looks for
 * pages by pfn, of which several wait for a page to change its state, or one that
 * takes a folio of PMD_ORDER for a page of the 2M pool.  What HugeTLB has to know
 * again later is kept in a struct hugetlb_loan meanwhile.  The pool still counts
 * the page, in the same way as when it is allocated to hugetlbfs.
 *
 * All folios that the page consists of have the type, except for single pages
 * that are exposed, and count their last references on the loan.  A folio whose
 * last reference is gone keeps the type, so that nobody takes it for free; its
 * reference count stays zero.  When none has a reference the loan is queued to go
 * home: the page is made whole, gets back what it came with, and is freed to the
 * pool in the way of any other.  A last put can come from any context and does no
 * more than count and queue; whoever wants to be sure that pages are home calls
 * hugetlb_loan_flush(), a work item does for others.
 *
 * Locks: hugetlb_lock protects hstate->lent_list, the type of a page that is lent
 * or comes home, of a single page that is exposed or hidden, and what a cgroup
 * that goes away or a failure of memory changes in a loan.  hugetlb_lend_rwsem is
 * held for reading while struct pages of a lent page change their folio, for
 * writing by memory failure, which writes to a struct page that nothing else keeps
 * in place.
 */
#include <linux/hugetlb.h>
#include <linux/hugetlb_cgroup.h>
#include <linux/init.h>
#include <linux/llist.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include <asm/tlbflush.h>

#include "hugetlb_internal.h"
#include "hugetlb_lend.h"
#include "hugetlb_vmemmap.h"
#include "internal.h"

DECLARE_RWSEM(hugetlb_lend_rwsem);

static LLIST_HEAD(loans_home);
static DEFINE_MUTEX(loans_home_mutex);
static struct workqueue_struct *loans_home_wq;

/**
 * hugetlb_loan_alloc - make what hugetlb_lend() needs
 * @h: the pool that the page will be from
 *
 * Context: may sleep.
 * Return: a loan, or NULL if there is no memory.
 */
struct hugetlb_loan *hugetlb_loan_alloc(struct hstate *h)
{
	unsigned int piece_order = min(huge_page_order(h), PMD_ORDER);
	unsigned long nr_pieces = pages_per_huge_page(h) >> piece_order;
	struct hugetlb_loan *loan;

	loan = kzalloc_flex(*loan, merge_pieces, BITS_TO_LONGS(nr_pieces),
			    GFP_KERNEL_ACCOUNT);
	if (!loan)
		return NULL;

	loan->h = h;
	loan->piece_order = piece_order;
	mutex_init(&loan->lock);
	INIT_LIST_HEAD(&loan->pending);
	INIT_LIST_HEAD(&loan->merge_entry);
	return loan;
}

void hugetlb_loan_free(struct hugetlb_loan *loan)
{
	kfree(loan);
}

/**
 * hugetlb_lend - let go of a page that was just allocated
 * @loan: of hugetlb_loan_alloc(), belongs to @folio until that is home
 * @folio: the page, with one reference and nobody else who knows of it
 * @spool: the subpool that gets it back
 *
 * Context: task context; takes hugetlb_lock.
 */
void hugetlb_lend(struct hugetlb_loan *loan, struct folio *folio,
		  struct hugepage_subpool *spool)
{
	loan->page = &folio->page;
	loan->spool = spool;
	atomic_long_set(&loan->nr_out, folio_nr_pages(folio));
	loan->hvo = folio_test_hugetlb_vmemmap_optimized(folio);

	spin_lock_irq(&hugetlb_lock);
	list_del(&folio->lru);
	list_add(&loan->entry, &loan->h->lent_list);

	loan->flags = (unsigned long)folio->private;
	loan->h_cg = hugetlb_cgroup_from_folio(folio);
	loan->h_cg_rsvd = hugetlb_cgroup_from_folio_rsvd(folio);
	set_hugetlb_cgroup(folio, NULL);
	set_hugetlb_cgroup_rsvd(folio, NULL);
	hugetlb_set_folio_subpool(folio, NULL);
#ifdef CONFIG_MEMCG
	loan->memcg_data = folio->memcg_data;
	folio->memcg_data = 0;
#endif
	loan->raw_hwp.first = folio->_hugetlb_hwpoison;
	folio->_hugetlb_hwpoison = NULL;

	__folio_clear_hugetlb(folio);
	__folio_set_lent(folio);
	folio->private = loan;
	spin_unlock_irq(&hugetlb_lock);
}

static void loans_home_workfn(struct work_struct *work)
{
	hugetlb_loan_flush();
}

static DECLARE_WORK(loans_home_work, loans_home_workfn);

/*
 * The last reference to a lent folio is gone.  Any context but NMI, and whatever
 * locks: nothing is done to the folio, which may not even be looked at any more
 * once it is counted.
 */
void hugetlb_lent_put(struct folio *folio)
{
	struct hugetlb_loan *loan = hugetlb_folio_loan(folio);

	VM_WARN_ON_ONCE_FOLIO(folio_test_lru(folio), folio);
	VM_WARN_ON_ONCE_FOLIO(folio->mapping, folio);
	VM_WARN_ON_ONCE_FOLIO(folio_test_large(folio) && folio_mapped(folio),
			      folio);

	if (!atomic_long_sub_and_test(folio_nr_pages(folio), &loan->nr_out))
		return;

	/* If the list was not empty the work is queued, and not yet at it. */
	if (llist_add(&loan->home, &loans_home))
		queue_work(loans_home_wq, &loans_home_work);
}

/*
 * Nobody looks at flags of pages in a pool, but for those that HugeTLB sets.  The
 * borrower's must not show on a page that somebody else gets.
 */
static void loan_clear_flags(struct folio *folio)
{
	folio->flags.f &= ~PAGEFLAGS_MASK | BIT(PG_head) | __PG_HWPOISON;
}

/* Give a page that is whole again, with its vmemmap in order, to the pool. */
static void loan_return(struct hugetlb_loan *loan)
{
	struct folio *folio = page_folio(loan->page);

	loan_clear_flags(folio);

	spin_lock_irq(&hugetlb_lock);
	list_del(&loan->entry);

	__folio_clear_lent(folio);
	__folio_set_hugetlb(folio);
	folio->private = (void *)loan->flags;
	hugetlb_set_folio_subpool(folio, loan->spool);
	set_hugetlb_cgroup(folio, loan->h_cg);
	set_hugetlb_cgroup_rsvd(folio, loan->h_cg_rsvd);
#ifdef CONFIG_MEMCG
	folio->memcg_data = loan->memcg_data;
#endif
	hugetlb_lent_return_hwpoison(loan, folio);
	list_add(&folio->lru, &loan->h->hugepage_activelist);
	spin_unlock_irq(&hugetlb_lock);

	free_huge_folio(folio);
	hugetlb_loan_free(loan);
}

/**
 * hugetlb_loan_flush - take lent pages home that nobody uses any more
 *
 * All pages whose last references were put before, by anybody, are in their
 * pools on return.
 *
 * Context: task context, may sleep: to wait for somebody else who is at it, and,
 *          if a page was split and has HVO, for an RCU grace period.
 * Return: true if there was one that somebody else did not take home before.
 */
bool hugetlb_loan_flush(void)
{
	struct hugetlb_loan *loan, *next;
	struct llist_node *list;
	LIST_HEAD(spare);
	bool untidy = false;

	guard(mutex)(&loans_home_mutex);

	list = llist_del_all(&loans_home);
	if (!list)
		return false;

	llist_for_each_entry(loan, list, home) {
		hugetlb_loan_abandon(loan);
		hugetlb_loan_whole(loan);
		untidy |= loan->untidy;
		cond_resched();
	}

	if (untidy) {
		/* See page_ref_add_unless_zero(). */
		synchronize_rcu();
		llist_for_each_entry(loan, list, home) {
			hugetlb_loan_tidy(loan, &spare);
			cond_resched();
		}
		hugetlb_vmemmap_free_list(&spare);
	}

	llist_for_each_entry_safe(loan, next, list, home) {
		loan_return(loan);
		cond_resched();
	}

	return true;
}
EXPORT_SYMBOL_FOR_BORROWERS(hugetlb_loan_flush);

/**
 * hugetlb_loan_stats - tell what has become of a lent huge page
 * @folio: a folio that is part of it
 * @stats: to be filled in
 *
 * Context: task context, may sleep.  The caller keeps the page from being split,
 *          merged and returned meanwhile; what is not under its control, as the
 *          number of pages that are back, may be outdated already.
 */
void hugetlb_loan_stats(struct folio *folio, struct hugetlb_loan_stats *stats)
{
	struct hugetlb_loan *loan = hugetlb_folio_loan(folio);
	unsigned long i, nr, nr_pages = hugetlb_loan_pages(loan);

	*stats = (struct hugetlb_loan_stats) {
		.order = hugetlb_loan_order(loan),
		.nr_back = nr_pages - atomic_long_read(&loan->nr_out),
		.merge_pending = hugetlb_loan_merge_pending(loan),
	};

	guard(mutex)(&loan->lock);
	stats->split_pending = !list_empty(&loan->pending);
	for (i = 0; i < nr_pages; i += nr) {
		nr = folio_nr_pages(page_folio(loan->page + i));
		stats->nr_folios++;
		stats->nr_small += nr == 1;
	}

	nr = PAGE_SIZE / sizeof(struct page);
	if (!loan->hvo)
		stats->nr_vmemmap = DIV_ROUND_UP(nr_pages * sizeof(struct page),
						 PAGE_SIZE);
	for (i = 0; loan->hvo && i < nr_pages; i += nr)
		stats->nr_vmemmap += !hugetlb_vmemmap_is_shared(loan->page + i);
}
EXPORT_SYMBOL_FOR_BORROWERS(hugetlb_loan_stats);

static int __init hugetlb_lend_init(void)
{
	loans_home_wq = alloc_workqueue("hugetlb_lend",
					WQ_MEM_RECLAIM | WQ_UNBOUND, 0);
	if (!loans_home_wq)
		panic("hugetlb_lend: no workqueue\n");
	return 0;
}
subsys_initcall(hugetlb_lend_init);
