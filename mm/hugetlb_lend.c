// SPDX-License-Identifier: GPL-2.0
/*
 * Lending HugeTLB pages out, and taking them home.
 */
#include <linux/hugetlb.h>
#include <linux/hugetlb_cgroup.h>
#include <linux/hugetlb_reservation.h>
#include <linux/init.h>
#include <linux/llist.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include <asm/tlbflush.h>

#include "hugetlb_internal.h"
#include "hugetlb_lend.h"
#include "hugetlb_vmemmap.h"
#include "internal.h"

#define CREATE_TRACE_POINTS
#include <trace/events/hugetlb_lend.h>

/**
 * DOC: Lending HugeTLB pages
 *
 * A borrower wants to do more with a page of a pool than HugeTLB can with a page of
 * its own, above all to split it.  Such a page is lent: it is taken off the list of
 * allocated pages, and PGTY_hugetlb is replaced by PGTY_lent.  From then on no path
 * of HugeTLB finds it, be it one that looks for pages by pfn, of which several wait
 * for a page to change its state, or one that takes a folio of PMD_ORDER for a page
 * of the 2M pool.  What HugeTLB has to know again later is kept in the loan.  The
 * pool still counts the page, as it counts one that is allocated to hugetlbfs.
 *
 * All folios that the page consists of have the type, but for single pages that are
 * exposed to the host.  Each has the loan in ->private.
 *
 * The page is *outstanding* as long as one of its folios has a reference.  A folio
 * whose last reference is put has *returned*: it is counted on the loan, keeps its
 * type, so that no task takes it for free, and its reference count stays zero.  When
 * all pages have returned, the loan is queued to go home: the page is made whole,
 * gets back what it came with, and is freed to the pool like any other.
 *
 * A last put can come from any context but NMI, and does no more than count and
 * queue.  Each reservation has its own queue, and a work item that takes home what
 * is on it; a task that wants to be sure calls hugetlb_reservation_flush().  No task
 * waits for the pages of another borrower, except to allocate from the same pool.
 *
 * Locks:
 *
 * - hugetlb_lock: hstate->lent_list, the type of a page that is lent or goes home,
 *   and what a cgroup that goes away, or a failure of memory, changes in a loan.
 * - loan->lock, inside hugetlb_lock: the types of single pages, wanted merges.
 * - hugetlb_lent_rwsem: held for reading while folios of a lent page are split or
 *   merged; for writing by memory failure, which writes to a struct page that has no
 *   other protection.
 * - loan->split_lock, inside folio locks: a split is committed.
 * - reservation->lock: held while loans are taken home, around all of these.
 */

DECLARE_RWSEM(hugetlb_lent_rwsem);

static struct kmem_cache *loan_cache;
static struct workqueue_struct *home_wq;

/**
 * struct lent_pool - pages of a pool that are on their way home
 * @nr_coming: number of huge pages that have returned and are not home
 * @nr_home: number of huge pages that have come home since boot
 * @nr_awaited: number of huge pages that have outlived their reservation
 * @wait: woken up when pages have come home
 */
struct lent_pool {
	atomic_long_t nr_coming;
	atomic_long_t nr_home;
	atomic_long_t nr_awaited;
	wait_queue_head_t wait;
};

static struct lent_pool lent_pools[HUGE_MAX_HSTATE];

static struct lent_pool *lent_pool(const struct hstate *h)
{
	return &lent_pools[h - hstates];
}

/**
 * hugetlb_loan_alloc - allocate what hugetlb_loan_lend() needs
 * @resv: the reservation that the page will belong to
 *
 * Context: may sleep.
 * Return: a loan, or NULL if there is no memory.
 */
struct hugetlb_loan *hugetlb_loan_alloc(struct hugetlb_reservation *resv)
{
	struct hugetlb_loan *loan;

	loan = kmem_cache_zalloc(loan_cache, GFP_KERNEL);
	if (!loan)
		return NULL;

	refcount_inc(&resv->refs);
	loan->resv = resv;
	loan->h = resv->h;
	spin_lock_init(&loan->lock);
	hugetlb_loan_init_work(loan);
	return loan;
}

/**
 * hugetlb_loan_free - free a loan that has no page
 * @loan: the loan
 *
 * Context: any that may take a spinlock.
 */
void hugetlb_loan_free(struct hugetlb_loan *loan)
{
	hugetlb_reservation_put(loan->resv);
	kfree(loan->parts);
	kmem_cache_free(loan_cache, loan);
}

/**
 * hugetlb_loan_lend - lend a page that was just allocated
 * @loan: of hugetlb_loan_alloc(), belongs to @folio until that is home
 * @folio: the page, with one reference and not known to any other task
 *
 * Context: task context; takes hugetlb_lock.
 */
void hugetlb_loan_lend(struct hugetlb_loan *loan, struct folio *folio)
{
	loan->page = &folio->page;
	atomic_long_set(&loan->nr_outstanding, folio_nr_pages(folio));
	loan->hvo = folio_test_hugetlb_vmemmap_optimized(folio);

	spin_lock_irq(&hugetlb_lock);
	list_del(&folio->lru);
	list_add(&loan->entry, &loan->h->lent_list);

	loan->flags = (unsigned long)folio->private;
	loan->h_cg = hugetlb_cgroup_from_folio(folio);
	set_hugetlb_cgroup(folio, NULL);
	/* The reservation is charged as a whole, not page by page. */
	VM_WARN_ON_ONCE_FOLIO(hugetlb_cgroup_from_folio_rsvd(folio), folio);
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
	/* A page has failed since the pool was asked for one. */
	if (unlikely(hugetlb_loan_has_hwpoison(loan)))
		hugetlb_loan_isolate_later(loan);
	spin_unlock_irq(&hugetlb_lock);
}

/* Pages have returned. */
static void loan_put_pages(struct hugetlb_loan *loan, unsigned long nr)
{
	struct hugetlb_reservation *resv;

	if (!atomic_long_sub_and_test(nr, &loan->nr_outstanding))
		return;

	resv = loan->resv;
	atomic_long_inc(&lent_pool(loan->h)->nr_coming);
	/* Once it is on the list, the loan and its reference may be gone. */
	refcount_inc(&resv->refs);
	llist_add(&loan->returned, &resv->returned);
	if (!queue_work(home_wq, &resv->work))
		hugetlb_reservation_put(resv);
}

/**
 * hugetlb_lent_put - count that the last reference to a lent folio is gone
 * @folio: the folio, which may be home by the time that this returns
 *
 * Context: any but NMI, with any lock held.
 */
void hugetlb_lent_put(struct folio *folio)
{
	VM_WARN_ON_ONCE_FOLIO(folio_test_lru(folio), folio);
	VM_WARN_ON_ONCE_FOLIO(folio->mapping, folio);
	VM_WARN_ON_ONCE_FOLIO(folio_test_large(folio) && folio_mapped(folio),
			      folio);

	loan_put_pages(hugetlb_lent_loan(folio), folio_nr_pages(folio));
}

/**
 * hugetlb_lent_get_loan - find the loan of a page, and keep the huge page from home
 * @page: any page
 *
 * An exposed page looks like any page, so this has to look at all loans.  A reference
 * to a folio would keep the huge page from home, too, but also from being split.
 *
 * Context: task context, may sleep.
 * Return: the loan, for hugetlb_loan_put(); NULL if the page is not lent, or is on its
 *         way home.
 */
struct hugetlb_loan *hugetlb_lent_get_loan(struct page *page)
{
	struct hugetlb_loan *loan;
	struct hstate *h;

	guard(spinlock_irq)(&hugetlb_lock);

	for_each_hstate(h)
		list_for_each_entry(loan, &h->lent_list, entry)
			if (page >= loan->page &&
			    page < loan->page + hugetlb_loan_pages(loan))
				return atomic_long_inc_not_zero(&loan->nr_outstanding) ?
				       loan : NULL;

	return NULL;
}

/**
 * hugetlb_loan_put - let a huge page go home
 * @loan: of hugetlb_lent_get_loan()
 *
 * Context: any but NMI.
 */
void hugetlb_loan_put(struct hugetlb_loan *loan)
{
	loan_put_pages(loan, 1);
}

/*
 * No task looks at flags of a page in a pool, but for those that HugeTLB sets.  The
 * borrower's must not show on a page that another user gets.
 */
static void loan_clear_flags(struct folio *folio)
{
	folio->flags.f &= ~PAGEFLAGS_MASK | BIT(PG_head) | __PG_HWPOISON;
}

/* Have back what the reservation has lost, if the pool has pages by now. */
static void reservation_regain(struct hugetlb_reservation *resv)
{
	lockdep_assert_held(&resv->lock);

	resv->may_regain = false;
	while (resv->nr_lost && !resv->destroyed &&
	       !hugepage_subpool_grow(resv->spool))
		resv->nr_lost--;
}

/* Give a page that is whole again to the pool. */
static void loan_go_home(struct hugetlb_loan *loan)
{
	struct folio *folio = page_folio(loan->page);
	struct lent_pool *pool = lent_pool(loan->h);
	struct hugetlb_reservation *resv = loan->resv;

	loan_clear_flags(folio);
	trace_hugetlb_lent_home(folio, resv->destroyed);
	/* A task that finds the page in the pool does not find it awaited as well. */
	if (resv->destroyed)
		atomic_long_dec(&pool->nr_awaited);

	spin_lock_irq(&hugetlb_lock);
	list_del(&loan->entry);

	__folio_clear_lent(folio);
	__folio_set_hugetlb(folio);
	folio->private = (void *)loan->flags;
	hugetlb_set_folio_subpool(folio, resv->spool);
	set_hugetlb_cgroup(folio, loan->h_cg);
	set_hugetlb_cgroup_rsvd(folio, NULL);
#ifdef CONFIG_MEMCG
	folio->memcg_data = loan->memcg_data;
#endif
	hugetlb_loan_return_hwpoison(loan, folio);
	list_add(&folio->lru, &loan->h->hugepage_activelist);
	spin_unlock_irq(&hugetlb_lock);

	if (free_lent_huge_folio(folio) && !resv->destroyed)
		resv->nr_lost++;
	resv->may_regain = resv->nr_lost;
	hugetlb_loan_free(loan);

	/* A task that sees none coming must see those that are home. */
	atomic_long_inc(&pool->nr_home);
	atomic_long_dec_return_release(&pool->nr_coming);
}

/* With @resv->lock held; all of @list are loans of that. */
static void loans_go_home(struct hugetlb_reservation *resv,
			  struct llist_node *list)
{
	struct hugetlb_loan *loan, *next;
	LIST_HEAD(memmap_list);
	bool flush = false;

	/* For all at a time, so that TLBs are flushed twice at most. */
	llist_for_each_entry(loan, list, returned) {
		hugetlb_loan_forget_work(loan);
		flush |= hugetlb_loan_whole_tails(loan);
		cond_resched();
	}
	if (flush)
		flush_tlb_all();

	llist_for_each_entry(loan, list, returned) {
		hugetlb_loan_whole_heads(loan, &memmap_list);
		cond_resched();
	}
	if (!list_empty(&memmap_list)) {
		flush_tlb_all();
		hugetlb_vmemmap_free_list(&memmap_list);
	}

	llist_for_each_entry_safe(loan, next, list, returned) {
		loan_go_home(loan);
		cond_resched();
	}
	wake_up_all(&lent_pool(resv->h)->wait);
}

static void take_home(struct hugetlb_reservation *resv)
{
	struct llist_node *list;

	lockdep_assert_held(&resv->lock);

	list = llist_del_all(&resv->returned);
	if (list)
		loans_go_home(resv, list);
}

/**
 * hugetlb_reservation_flush - take lent pages home that have returned
 * @resv: the reservation that they belong to
 *
 * On return, all pages of the reservation whose last references were put before,
 * by any task, are reserved again, but for those with memory errors.
 *
 * Context: task context, may sleep.  The caller holds no lock that merged() of the
 *          reservation takes.
 */
void hugetlb_reservation_flush(struct hugetlb_reservation *resv)
{
	guard(mutex)(&resv->lock);
	take_home(resv);
	/* Not each time: the pool may allocate a huge page to have one to spare. */
	if (unlikely(resv->may_regain))
		reservation_regain(resv);
}
EXPORT_SYMBOL_FOR_BORROWERS(hugetlb_reservation_flush);

/**
 * hugetlb_reservation_regain - the same, and have back what has been lost
 * @resv: the reservation, of which a page is asked for in vain
 *
 * Context: as hugetlb_reservation_flush().
 */
void hugetlb_reservation_regain(struct hugetlb_reservation *resv)
{
	guard(mutex)(&resv->lock);
	take_home(resv);
	reservation_regain(resv);
}

/**
 * hugetlb_reservation_orphan - take home what has returned, and count the rest
 * @resv: a reservation that no page will be allocated from any more
 *
 * Pages that are outstanding are counted as awaited by the pool until they are home.
 *
 * Context: as hugetlb_reservation_flush().
 */
void hugetlb_reservation_orphan(struct hugetlb_reservation *resv)
{
	unsigned long reserved, allocated;

	/* loan_go_home(), with the lock held, sees both changes or none. */
	guard(mutex)(&resv->lock);
	take_home(resv);
	hugetlb_reservation_stats(resv, &reserved, &allocated);
	resv->destroyed = true;
	atomic_long_add(allocated, &lent_pool(resv->h)->nr_awaited);
	trace_hugetlb_reservation_destroy(huge_page_order(resv->h),
					  resv->nr_huge_pages, allocated);
}

/* The work item has a reference of its own. */
void hugetlb_reservation_workfn(struct work_struct *work)
{
	struct hugetlb_reservation *resv =
		container_of(work, struct hugetlb_reservation, work);

	/* The next caller has back what is lost; a huge page may take long to allocate. */
	scoped_guard(mutex, &resv->lock)
		take_home(resv);
	hugetlb_reservation_put(resv);
}

/**
 * hugetlb_lent_pool_nr_coming - count the pages of a pool that are on their way home
 * @h: the pool
 *
 * Context: any.
 * Return: number of huge pages that have returned as a whole, and are not home.
 */
unsigned long hugetlb_lent_pool_nr_coming(const struct hstate *h)
{
	/* Pairs with that of loan_go_home() */
	return atomic_long_read_acquire(&lent_pool(h)->nr_coming);
}

/**
 * hugetlb_lent_pool_nr_home - count the pages of a pool that have come home
 * @h: the pool
 *
 * Context: any.
 * Return: number of huge pages that have come home since boot.
 */
unsigned long hugetlb_lent_pool_nr_home(const struct hstate *h)
{
	return atomic_long_read(&lent_pool(h)->nr_home);
}

/**
 * hugetlb_lent_pool_nr_awaited - count the pages that have outlived their reservation
 * @h: the pool
 *
 * Context: any.
 * Return: number of huge pages that are still in use, or on their way home, although
 *         their reservation was destroyed.
 */
unsigned long hugetlb_lent_pool_nr_awaited(const struct hstate *h)
{
	return atomic_long_read(&lent_pool(h)->nr_awaited);
}

/**
 * hugetlb_lent_pool_wait - wait until pages have come home to a pool
 * @h: the pool
 * @nr_home: how many have to have come since boot
 * @timeout: how long to wait at most, in jiffies
 *
 * This returns early when no page is on its way.
 *
 * Context: task context, sleeps.
 * Return: 0, also if the time is over; -EINTR on a fatal signal.
 */
int hugetlb_lent_pool_wait(const struct hstate *h, unsigned long nr_home, long timeout)
{
	struct lent_pool *pool = lent_pool(h);
	long r;

	r = wait_event_killable_timeout(pool->wait,
					!hugetlb_lent_pool_nr_coming(h) ||
					(long)(hugetlb_lent_pool_nr_home(h) - nr_home) >= 0,
					timeout);
	return r < 0 ? -EINTR : 0;
}

/**
 * hugetlb_lent_stats - tell what has become of a lent huge page
 * @folio: a folio of it, with a reference of the caller or in a page cache that the
 *         caller keeps it in
 * @stats: to be filled in
 *
 * Context: any.  If the page is split, merged or put meanwhile, the numbers may not
 *          fit to each other.
 */
void hugetlb_lent_stats(const struct folio *folio, struct hugetlb_lent_stats *stats)
{
	struct hugetlb_loan *loan = hugetlb_lent_loan(folio);
	const unsigned int order = hugetlb_loan_order(loan);
	struct hugetlb_loan_parts *parts;
	unsigned int i;

	*stats = (struct hugetlb_lent_stats) {
		.order = order,
		/* hugetlb_lent_get_loan() counts as one page more. */
		.nr_returned = max_t(long, 0, hugetlb_loan_pages(loan) -
				     atomic_long_read(&loan->nr_outstanding)),
	};

	/* Pairs with that of split_set_parts() */
	parts = smp_load_acquire(&loan->parts);
	if (!parts) {
		stats->nr_folios[order] = 1;
		stats->nr_vmemmap = loan->hvo ? 1 :
			DIV_ROUND_UP(hugetlb_loan_pages(loan), MEMMAP_PER_PAGE);
		return;
	}

	for (i = 0; i <= order; i++)
		stats->nr_folios[i] = READ_ONCE(parts->nr_folios[i]);
	stats->nr_vmemmap = READ_ONCE(parts->nr_vmemmap);
	stats->merge_wanted = READ_ONCE(parts->nr_wanted);
}
EXPORT_SYMBOL_FOR_BORROWERS(hugetlb_lent_stats);

/*
 * Single pages that the host may touch
 */

/**
 * hugetlb_lent_expose - let a single page be mapped by the host
 * @folio: a single page of a lent page, in a page cache, locked; may be exposed
 *         already, and mapped
 *
 * A folio that has a type cannot have a map count.  Before the page cache drops its
 * reference, in ->free_folio(), the page has to be hidden again.
 *
 * Context: any that may take a spinlock.
 */
void hugetlb_lent_expose(struct folio *folio)
{
	struct hugetlb_loan *loan = hugetlb_lent_loan(folio);

	VM_WARN_ON_ONCE_FOLIO(folio_test_large(folio), folio);

	/* It may have a map count already. */
	if (!folio_test_lent(folio))
		return;

	guard(spinlock_irqsave)(&loan->lock);
	__folio_clear_lent(folio);
}
EXPORT_SYMBOL_FOR_BORROWERS(hugetlb_lent_expose);

/**
 * hugetlb_lent_hide - take a single page back that was exposed
 * @folio: the page, not mapped any more; may be hidden already
 *
 * Context: any that may take a spinlock.
 */
void hugetlb_lent_hide(struct folio *folio)
{
	struct hugetlb_loan *loan = hugetlb_lent_loan(folio);

	if (folio_test_lent(folio))
		return;

	VM_WARN_ON_ONCE_FOLIO(folio_mapped(folio), folio);

	guard(spinlock_irqsave)(&loan->lock);
	__folio_set_lent(folio);
}
EXPORT_SYMBOL_FOR_BORROWERS(hugetlb_lent_hide);

static int __init hugetlb_lend_init(void)
{
	unsigned int i;

	for (i = 0; i < HUGE_MAX_HSTATE; i++)
		init_waitqueue_head(&lent_pools[i].wait);

	loan_cache = KMEM_CACHE(hugetlb_loan, SLAB_ACCOUNT | SLAB_PANIC);
	home_wq = alloc_workqueue("hugetlb_lend", WQ_MEM_RECLAIM | WQ_UNBOUND, 0);
	if (!home_wq)
		panic("hugetlb_lend: no workqueue\n");
	return 0;
}
subsys_initcall(hugetlb_lend_init);
