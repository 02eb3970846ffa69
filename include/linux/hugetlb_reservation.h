/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Huge pages from the HugeTLB pools, for kernel users other than hugetlbfs.
 *
 * Such a user reserves all pages that it may need in one go, and borrows them one
 * by one, by memory policy.  Each returns to the reservation after its last
 * folio_put().  No VMA, no inode of hugetlbfs and no resv_map is needed.  What can
 * be done with a borrowed page is in linux/hugetlb_lend.h.
 *
 * The hugetlb cgroup of the current task is charged for the reservation when that
 * is created, and for a page when that is allocated.  The memory cgroup is charged
 * for a page where it accounts HugeTLB.
 *
 * linux/hugetlb.h, with hstates, subpools and flags of HugeTLB, is not needed along
 * with this.
 */
#ifndef _LINUX_HUGETLB_RESERVATION_H
#define _LINUX_HUGETLB_RESERVATION_H

#include <linux/types.h>

struct folio;
struct hugetlb_reservation;
struct mempolicy;

unsigned long hugetlb_pool_orders(void);
int hugetlb_pool_order(unsigned int page_shift);

struct hugetlb_reservation *
hugetlb_reservation_create(unsigned int order, unsigned long nr_huge_pages,
			   void (*merged)(struct folio *folio));
void hugetlb_reservation_destroy(struct hugetlb_reservation *resv);
struct folio *hugetlb_reservation_alloc_folio(struct hugetlb_reservation *resv,
					      struct mempolicy *mpol, pgoff_t ilx);
void hugetlb_reservation_flush(struct hugetlb_reservation *resv);
void hugetlb_reservation_stats(struct hugetlb_reservation *resv,
			       unsigned long *reserved, unsigned long *allocated);

#endif /* _LINUX_HUGETLB_RESERVATION_H */
