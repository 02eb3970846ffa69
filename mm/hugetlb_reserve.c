// SPDX-License-Identifier: GPL-2.0
/*
 * Reservations of HugeTLB pages for users other than hugetlbfs.
 *
 * A reservation is a subpool whose minimum and maximum are both the number of
 * pages reserved.  Creating it takes that many pages off what the pool can
 * promise to others, or fails and takes none.  From then on each page of it is
 * in one of two states:
 *
 *   reserved   counted in the pool's resv_huge_pages and in rsv_hpages of the
 *              subpool; no page in particular
 *   allocated  lent out (hugetlb_lend.c); counted in used_hpages of the subpool,
 *              which the loan points to
 *
 * and rsv_hpages + used_hpages is constant.  hugetlb_alloc_reserved() moves one
 * page from the first to the second.  When all that it consists of has been put
 * it is taken home, and is back in the first.  After hugetlb_unreserve() nothing
 * is reserved, and a page that is still out returns to the pool for anybody; the
 * subpool goes with the last of them.
 *
 * HugeTLB counts reservations per pool, not per node.  A reservation therefore
 * promises pages somewhere in the system: a memory policy or a cpuset that
 * confines an allocation to nodes without a free page makes it fail.
 */
#include <linux/hugetlb_alloc.h>
#include <linux/mempolicy.h>
#include <linux/slab.h>

#include "hugetlb_internal.h"
#include "hugetlb_lend.h"

struct hugetlb_reservation {
	struct hugepage_subpool *spool;
	struct hugetlb_cgroup *h_cg_rsvd;
	unsigned long nr_huge_pages;
};

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

/**
 * hugetlb_reserve - reserve huge pages of a pool, all or none
 * @order: order of the pages, one that hugetlb_pool_order() returned
 * @nr_huge_pages: number of pages of that order, at least 1
 *
 * The pages are charged to the hugetlb cgroup of the current task as
 * reservations (rsvd), until hugetlb_unreserve().  If the pool has too few
 * pages but may overcommit, surplus pages are allocated here.
 *
 * Context: task context, may sleep.
 * Return: the reservation, or an ERR_PTR: -ENODEV if there is no pool of that
 *         order, -ENOMEM if the pool cannot promise that many pages, if it has
 *         fewer on the nodes that the task's cpuset and an MPOL_BIND policy
 *         allow, if the limit of the cgroup's reservations is reached or if
 *         there is no memory for the bookkeeping.
 */
struct hugetlb_reservation *hugetlb_reserve(unsigned int order,
					    unsigned long nr_huge_pages)
{
	struct hstate *h = size_to_hstate(PAGE_SIZE << order);
	struct hugetlb_reservation *resv;
	unsigned long nr_pages;

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

	resv->spool = hugepage_new_subpool(h, nr_huge_pages, nr_huge_pages);
	if (!resv->spool) {
		/* Pages that somebody has put may only have to be taken home. */
		hugetlb_loan_flush();
		resv->spool = hugepage_new_subpool(h, nr_huge_pages,
						   nr_huge_pages);
		if (!resv->spool)
			goto err_uncharge;
	}

	resv->nr_huge_pages = nr_huge_pages;
	return resv;

err_uncharge:
	hugetlb_cgroup_uncharge_cgroup_rsvd(hstate_index(h), nr_pages,
					    resv->h_cg_rsvd);
err_free:
	kfree(resv);
	return ERR_PTR(-ENOMEM);
}
EXPORT_SYMBOL_FOR_BORROWERS(hugetlb_reserve);

/**
 * hugetlb_unreserve - give up a reservation
 * @resv: the reservation; gone on return
 *
 * The pages that are not allocated are the pool's at once, whoever may still hold
 * others.  Folios that are lent out remain valid; each goes to the pool after the
 * last folio_put(), where nobody has a claim to it.
 *
 * Context: task context, may sleep.
 */
void hugetlb_unreserve(struct hugetlb_reservation *resv)
{
	struct hstate *h = resv->spool->hstate;

	hugetlb_loan_flush();
	hugetlb_cgroup_uncharge_cgroup_rsvd(hstate_index(h),
					    resv->nr_huge_pages << huge_page_order(h),
					    resv->h_cg_rsvd);
	hugepage_subpool_unreserve(resv->spool);
	hugepage_put_subpool(resv->spool);
	kfree(resv);
}
EXPORT_SYMBOL_FOR_BORROWERS(hugetlb_unreserve);

/**
 * hugetlb_alloc_reserved - allocate one page of a reservation
 * @resv: the reservation
 * @mpol: memory policy, NULL for that of the current task
 * @ilx: interleave index of the page, in huge pages; used with @mpol only
 *
 * The page is charged to the hugetlb cgroup of the current task, and to its
 * memory cgroup if that accounts HugeTLB.  It is never a surplus page taken in
 * place of a reserved one.  Its contents are those of its last user.
 *
 * Context: task context, may sleep.
 * Return: a lent folio with one reference, see linux/hugetlb_lend.h, which is the
 *         reservation's again some time after the last folio_put(), and for sure
 *         after hugetlb_loan_flush(); or an ERR_PTR with all counters as before:
 *         -EAGAIN if all pages are allocated, which a caller that knows better
 *         meets while somebody still holds a short reference to a page that it
 *         has put; -ENOMEM if there is no free page on the nodes that policy
 *         and cpuset allow, or if a cgroup is at its limit.
 */
struct folio *hugetlb_alloc_reserved(struct hugetlb_reservation *resv,
				     struct mempolicy *mpol, pgoff_t ilx)
{
	const u8 alloc_flags = HUGETLB_ALLOC_USE_GLOBAL_RESERVATIONS |
			       HUGETLB_ALLOC_NO_SURPLUS;
	struct mempolicy_interpreted mpoli = { .mode = MPOL_DEFAULT };
	struct hugepage_subpool *spool = resv->spool;
	struct hstate *h = spool->hstate;
	struct hugetlb_loan *loan;
	struct folio *folio;

	if (hugepage_subpool_get_pages(spool, 1) < 0) {
		/* Some may only have to be taken home. */
		hugetlb_loan_flush();
		if (hugepage_subpool_get_pages(spool, 1) < 0)
			return ERR_PTR(-EAGAIN);
	}

	loan = hugetlb_loan_alloc(h);
	if (!loan)
		goto err_cancel;

	if (!mpol) {
		mpol = get_task_policy(current);
		ilx = NO_INTERLEAVE_INDEX;
	}
	mpoli.nid = mpol_huge_node(mpol, htlb_alloc_mask(h), ilx,
				   &mpoli.nodemask);
#ifdef CONFIG_NUMA
	mpoli.mode = mpol->mode;
#endif

	folio = hugetlb_alloc_folio(h, &mpoli, current->mm, alloc_flags);
	/* What is to be taken home may be on the nodes that are allowed. */
	if (IS_ERR(folio) && hugetlb_loan_flush())
		folio = hugetlb_alloc_folio(h, &mpoli, current->mm, alloc_flags);
	if (IS_ERR(folio))
		goto err_free;

	/*
	 * The subpool has counted the page as used.  From here on freeing it
	 * goes through the subpool, which restores the reservation.
	 */
	folio_clear_hugetlb_restore_reserve(folio);
	hugetlb_lend(loan, folio, spool);

	return folio;

err_free:
	hugetlb_loan_free(loan);
err_cancel:
	hugepage_subpool_cancel_pages(spool, 1, 0);
	return ERR_PTR(-ENOMEM);
}
EXPORT_SYMBOL_FOR_BORROWERS(hugetlb_alloc_reserved);

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
