// SPDX-License-Identifier: GPL-2.0
/*
 * Reservations of HugeTLB pages for users other than hugetlbfs.
 */
#include <linux/hugetlb_reservation.h>
#include <linux/mempolicy.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "hugetlb_internal.h"
#include "hugetlb_lend.h"

/**
 * DOC: Reservations of HugeTLB pages
 *
 * A reservation is a subpool whose minimum and maximum are both the number of pages
 * reserved.  Creating it takes that many pages off what the pool can promise to
 * others, or fails and takes none.  Only pages that can be lent are promised, see
 * hugepage_new_lending_subpool().  From then on each page is in one of two states:
 *
 * reserved
 *   counted in the pool's resv_huge_pages and in rsv_hpages of the subpool; no page
 *   in particular
 * allocated
 *   lent out (mm/hugetlb_lend.c); counted in used_hpages of the subpool
 *
 * and rsv_hpages + used_hpages is constant, unless a page comes home with memory errors
 * and the pool has no other one, see free_lent_huge_folio().
 * hugetlb_reservation_alloc_folio() moves one page from the first state to the second.
 * When all of the page has returned it is taken home, and is back in the first.  After
 * hugetlb_reservation_destroy() nothing is reserved, and a page that is outstanding goes
 * to the pool for any user; the subpool goes with the last of them.
 *
 * A page may be on its way home at the moment in which it is asked for.  The task
 * waits for that, for WAIT_MAX at most, unless it is killed.  hugetlb_alloc_folio()
 * does the same where a memory block is on trial to be taken offline.
 *
 * HugeTLB counts reservations per pool, not per node.  A reservation therefore
 * promises pages somewhere in the system: a memory policy or a cpuset that confines
 * an allocation to nodes without a free page makes it fail.
 */

/* How long to wait for what is bound to happen, in jiffies */
#define WAIT_MAX		(10 * HZ)

/* How often to try what pages that come home may help, or may not */
#define TRIES_MAX		3

/* How long a page may take from the page cache to hugetlb_lent_put(), in jiffies */
#define WAIT_PUT		(HZ / 10)

/**
 * hugetlb_pool_orders - the sizes of huge pages that this host has pools of
 *
 * Context: any.
 * Return: a bitmap, bit n set for huge pages of order n; 0 if there are none.
 */
unsigned long hugetlb_pool_orders(void)
{
	unsigned long orders = 0;
	struct hstate *h;

	if (!hugepages_supported())
		return 0;

	for_each_hstate(h)
		orders |= BIT(huge_page_order(h));

	return orders;
}
EXPORT_SYMBOL_FOR_BORROWERS(hugetlb_pool_orders);

/**
 * hugetlb_pool_order - find the pool of a page size
 * @page_shift: log2 of the page size in bytes, 0 for the default huge page size
 *
 * Context: any.
 * Return: the order of the pool's pages, or -ENODEV if this host has no pool of
 *         that size.
 */
int hugetlb_pool_order(unsigned int page_shift)
{
	struct hstate *h = &default_hstate;

	if (!hugepages_supported() || page_shift >= BITS_PER_LONG)
		return -ENODEV;

	if (page_shift)
		h = size_to_hstate(1UL << page_shift);
	return h ? huge_page_order(h) : -ENODEV;
}
EXPORT_SYMBOL_FOR_BORROWERS(hugetlb_pool_order);

/*
 * Wait for pages, after an attempt to get some has failed.  @nr_home is the number
 * of pages that had come home before the attempt, @since when the first one was.
 * @out: a page of the reservation is allocated, and may have left the page cache.
 * Returns 0 to try again, -ENOMEM if that is no use, or -EINTR.
 */
static int wait_for_pages(struct hstate *h, unsigned long nr_home,
			  unsigned long since, bool out)
{
	if (fatal_signal_pending(current))
		return -EINTR;
	if (hugetlb_lent_pool_nr_home(h) != nr_home)
		return time_before(jiffies, since + WAIT_MAX) ? 0 : -ENOMEM;

	if (hugetlb_lent_pool_nr_coming(h)) {
		if (time_before(jiffies, since + WAIT_MAX))
			return hugetlb_lent_pool_wait(h, nr_home + 1, HZ);
	} else if (out && time_before(jiffies, since + WAIT_PUT)) {
		schedule_timeout_killable(1);
		return 0;
	}

	return hugetlb_lent_pool_nr_home(h) != nr_home ? 0 : -ENOMEM;
}

/* Before surplus pages are allocated, pages that are on their way may do. */
static bool pool_is_short(const struct hstate *h, unsigned long nr_huge_pages)
{
	unsigned long free = READ_ONCE(h->free_huge_pages);
	unsigned long resv = READ_ONCE(h->resv_huge_pages);

	return free < resv || free - resv < nr_huge_pages;
}

/**
 * hugetlb_reservation_create - reserve huge pages of a pool, all or none
 * @order: order of the pages, one that hugetlb_pool_order() returned
 * @nr_huge_pages: number of pages of that order, at least 1
 * @merged: called after a delayed merge, see hugetlb_lent_merge_later(); may be NULL
 *
 * The pages are charged to the hugetlb cgroup of the current task as reservations
 * (rsvd), until hugetlb_reservation_destroy().  If the pool has too few pages but may
 * overcommit, surplus pages are allocated here.
 *
 * Context: task context, may sleep.
 * Return: the reservation, or an ERR_PTR: -ENODEV if there is no pool of that order;
 *         -ENOMEM if the pool cannot promise that many pages, if it has fewer on the
 *         nodes that the task's cpuset and an MPOL_BIND policy allow, if the limit
 *         of the cgroup's reservations is reached, or if there is no memory for the
 *         bookkeeping; -EINTR on a fatal signal.
 */
struct hugetlb_reservation *
hugetlb_reservation_create(unsigned int order, unsigned long nr_huge_pages,
			   void (*merged)(struct folio *folio))
{
	struct hstate *h = size_to_hstate(PAGE_SIZE << order);
	unsigned long nr_pages, nr_home, coming;
	struct hugetlb_reservation *resv;
	unsigned int tries = 0;
	int r = -ENOMEM;

	if (!h)
		return ERR_PTR(-ENODEV);

	/* Accounting is in signed longs, of huge pages and of base pages. */
	if (nr_huge_pages > LONG_MAX >> order)
		return ERR_PTR(-ENOMEM);
	nr_pages = nr_huge_pages << order;

	resv = kzalloc_obj(*resv, GFP_KERNEL_ACCOUNT);
	if (!resv)
		return ERR_PTR(-ENOMEM);

	if (hugetlb_cgroup_charge_cgroup_rsvd(hstate_index(h), nr_pages,
					      &resv->h_cg_rsvd))
		goto err_free;

	for (;;) {
		nr_home = hugetlb_lent_pool_nr_home(h);
		coming = hugetlb_lent_pool_nr_coming(h);
		if (coming && pool_is_short(h, nr_huge_pages)) {
			r = hugetlb_lent_pool_wait(h, nr_home + coming, WAIT_MAX);
			if (r)
				goto err_uncharge;
		}

		resv->spool = hugepage_new_lending_subpool(h, nr_huge_pages);
		if (resv->spool)
			break;

		/* Pages that other borrowers go on returning stay reserved for them. */
		r = fatal_signal_pending(current) ? -EINTR : -ENOMEM;
		if (r == -EINTR || ++tries == TRIES_MAX ||
		    (!coming && hugetlb_lent_pool_nr_home(h) == nr_home))
			goto err_uncharge;
	}

	resv->h = h;
	resv->nr_huge_pages = nr_huge_pages;
	resv->merged = merged;
	refcount_set(&resv->refs, 1);
	init_llist_head(&resv->returned);
	mutex_init(&resv->lock);
	INIT_WORK(&resv->work, hugetlb_reservation_workfn);
	return resv;

err_uncharge:
	hugetlb_cgroup_uncharge_cgroup_rsvd(hstate_index(h), nr_pages,
					    resv->h_cg_rsvd);
err_free:
	kfree(resv);
	return ERR_PTR(r);
}
EXPORT_SYMBOL_FOR_BORROWERS(hugetlb_reservation_create);

/**
 * hugetlb_reservation_put - drop a reference to a reservation
 * @resv: the reservation
 *
 * Context: any.
 */
void hugetlb_reservation_put(struct hugetlb_reservation *resv)
{
	if (refcount_dec_and_test(&resv->refs))
		kfree(resv);
}

/**
 * hugetlb_reservation_destroy - give up a reservation
 * @resv: the reservation; gone on return
 *
 * The pages that are not allocated are the pool's at once, whichever others are
 * outstanding.  Folios that are lent remain valid; each huge page goes to the pool
 * after its last folio_put(), for any user, and is awaited_hugepages in sysfs until
 * then.
 *
 * Context: task context, may sleep.  The caller holds no lock that merged() takes.
 */
void hugetlb_reservation_destroy(struct hugetlb_reservation *resv)
{
	struct hstate *h = resv->h;

	hugetlb_reservation_orphan(resv);
	hugetlb_cgroup_uncharge_cgroup_rsvd(hstate_index(h),
					    resv->nr_huge_pages << huge_page_order(h),
					    resv->h_cg_rsvd);
	hugepage_subpool_unreserve(resv->spool);
	hugepage_put_subpool(resv->spool);
	hugetlb_reservation_put(resv);
}
EXPORT_SYMBOL_FOR_BORROWERS(hugetlb_reservation_destroy);

static struct folio *alloc_folio(struct hugetlb_reservation *resv,
				 struct mempolicy_interpreted *mpoli)
{
	const u8 alloc_flags = HUGETLB_ALLOC_USE_GLOBAL_RESERVATIONS |
			       HUGETLB_ALLOC_NO_SURPLUS | HUGETLB_ALLOC_LEND;
	const unsigned long since = jiffies;
	struct hstate *h = resv->h;
	struct folio *folio;
	unsigned int tries = 0;
	unsigned long nr_home;
	bool limited, out;
	int r;

	for (;;) {
		nr_home = hugetlb_lent_pool_nr_home(h);
		folio = hugetlb_alloc_folio(h, mpoli, current->mm, alloc_flags);
		if (!IS_ERR(folio))
			return folio;

		/* Those of this reservation need not wait for the work item. */
		hugetlb_reservation_flush(resv);
		/* If a cgroup is at its limit, each attempt is one more of its events. */
		limited = PTR_ERR(folio) != -EAGAIN;
		if (limited && ++tries == TRIES_MAX)
			return ERR_PTR(-ENOMEM);
		out = !limited && READ_ONCE(resv->spool->used_hpages) > 1;
		r = wait_for_pages(h, nr_home, since, out);
		if (r)
			return ERR_PTR(r);
	}
}

/**
 * hugetlb_reservation_alloc_folio - allocate one page of a reservation
 * @resv: the reservation
 * @mpol: memory policy, NULL for that of the current task
 * @ilx: interleave index of the page, in huge pages; used with @mpol only
 *
 * The page is charged to the hugetlb cgroup of the current task, and to its memory
 * cgroup if that accounts HugeTLB.  It is never a surplus page taken in place of a
 * reserved one, and never one that cannot be pinned but for those of HugeTLB's CMA
 * areas.  Its contents are those of its last user.
 *
 * Context: task context, may sleep; waits for pages that are on their way home.  The
 *          caller holds no lock that merged() takes.
 * Return: a lent folio with one reference, see linux/hugetlb_lend.h, which is the
 *         reservation's again some time after the last folio_put(), and for sure
 *         after hugetlb_reservation_flush(); or an ERR_PTR with all counters as
 *         before: -EAGAIN if all pages are allocated, which a caller that knows
 *         better meets while another task has a short reference to a page that it
 *         has put; -ENOMEM if there is no free page on the nodes that policy and
 *         cpuset allow, or if a cgroup is at its limit; -EINTR on a fatal signal.
 */
struct folio *
hugetlb_reservation_alloc_folio(struct hugetlb_reservation *resv,
				struct mempolicy *mpol, pgoff_t ilx)
{
	struct mempolicy_interpreted mpoli = { .mode = MPOL_DEFAULT };
	struct hugepage_subpool *spool = resv->spool;
	struct hstate *h = resv->h;
	struct hugetlb_loan *loan;
	struct folio *folio;

	if (hugepage_subpool_get_pages(spool, 1) < 0) {
		hugetlb_reservation_regain(resv);
		if (hugepage_subpool_get_pages(spool, 1) < 0)
			return ERR_PTR(-EAGAIN);
	}

	loan = hugetlb_loan_alloc(resv);
	if (!loan) {
		hugepage_subpool_cancel_pages(spool, 1, 0);
		return ERR_PTR(-ENOMEM);
	}

	if (!mpol) {
		mpol = get_task_policy(current);
		ilx = NO_INTERLEAVE_INDEX;
	}
	mpoli.nid = mpol_huge_node(mpol, htlb_alloc_mask(h), ilx,
				   &mpoli.nodemask);
#ifdef CONFIG_NUMA
	mpoli.mode = mpol->mode;
#endif

	folio = alloc_folio(resv, &mpoli);
	if (IS_ERR(folio)) {
		hugetlb_loan_free(loan);
		hugepage_subpool_cancel_pages(spool, 1, 0);
		return folio;
	}

	/*
	 * The subpool has counted the page as used.  From here on freeing it
	 * goes through the subpool, which restores the reservation.
	 */
	folio_clear_hugetlb_restore_reserve(folio);
	hugetlb_loan_lend(loan, folio);

	return folio;
}
EXPORT_SYMBOL_FOR_BORROWERS(hugetlb_reservation_alloc_folio);

/**
 * hugetlb_reservation_stats - where the pages of a reservation are
 * @resv: the reservation
 * @reserved: set to the number of huge pages that are reserved
 * @allocated: set to the number of huge pages that are allocated, those included
 *             that are waiting for a last folio_put()
 *
 * Context: any; takes a spinlock with interrupts off.
 */
void hugetlb_reservation_stats(struct hugetlb_reservation *resv,
			       unsigned long *reserved, unsigned long *allocated)
{
	struct hugepage_subpool *spool = resv->spool;

	guard(spinlock_irqsave)(&spool->lock);
	*reserved = spool->rsv_hpages;
	*allocated = spool->used_hpages;
}
EXPORT_SYMBOL_FOR_BORROWERS(hugetlb_reservation_stats);
