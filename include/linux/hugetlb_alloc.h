/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Huge pages from the HugeTLB pools, for kernel users that are not hugetlbfs.
 *
 * Such a user reserves all the pages that it may need in one go, gets them one
 * by one, by memory policy, and gives each back with folio_put(), which restores
 * the reservation, at the latest when it calls hugetlb_loan_flush().  It needs no
 * VMA, no inode of hugetlbfs and no resv_map.  The pages are lent: what that means,
 * and how to split them, is in linux/hugetlb_lend.h.
 *
 * The hugetlb cgroup of the current task is charged for the reservation when
 * that is made, and for a page when that is allocated; for a page also the memory
 * cgroup, where it accounts HugeTLB.  Each charge is taken back with what it is
 * for.
 *
 * These are the terms that a user thinks in: an order, a number of pages, a
 * policy.  linux/hugetlb.h, with hstates, subpools and the flags in struct folio
 * that HugeTLB keeps to itself, is not needed along with this.
 */
#ifndef _LINUX_HUGETLB_ALLOC_H
#define _LINUX_HUGETLB_ALLOC_H

#include <linux/types.h>

struct folio;
struct hugetlb_reservation;
struct mempolicy;

unsigned long hugetlb_pool_orders(void);
int hugetlb_pool_order(unsigned int page_shift);

struct hugetlb_reservation *hugetlb_reserve(unsigned int order,
					    unsigned long nr_huge_pages);
void hugetlb_unreserve(struct hugetlb_reservation *resv);
void hugetlb_reservation_stats(struct hugetlb_reservation *resv,
			       unsigned long *reserved, unsigned long *allocated);
struct folio *hugetlb_alloc_reserved(struct hugetlb_reservation *resv,
				     struct mempolicy *mpol, pgoff_t ilx);

#endif /* _LINUX_HUGETLB_ALLOC_H */
