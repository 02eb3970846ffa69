// SPDX-License-Identifier: GPL-2.0
/*
 * guest_memfd memory from the HugeTLB pools (GUEST_MEMFD_FLAG_HUGETLB).
 *
 * All pages of a file are reserved when it is created, so that a guest never
 * finds the pool empty.  They are allocated whole, one for each huge page of
 * the file that is touched or populated, and go back to the file's reservation
 * when they are punched out, and to the pool with the file.
 *
 * Folios are lent by HugeTLB, and stay whole.  They are not split, hence no part
 * of one can be given to the host while the rest is the guest's: only files whose
 * memory the host never touches use this allocator.
 */
#include <linux/hugetlb_reservation.h>
#include <linux/kvm.h>
#include <linux/mm.h>
#include <linux/module.h>

#include "guest_memfd.h"

static int gmem_hugetlb_order(u64 flags)
{
	return hugetlb_pool_order((flags >> GUEST_MEMFD_HUGE_SHIFT) &
				  GUEST_MEMFD_HUGE_MASK);
}

static void *gmem_hugetlb_reserve(u64 flags, unsigned int order,
				  unsigned long nr_folios)
{
	return hugetlb_reservation_create(order, nr_folios, NULL);
}

static void gmem_hugetlb_unreserve(void *handle)
{
	hugetlb_reservation_destroy(handle);
}

static struct folio *gmem_hugetlb_allocate(void *handle, pgoff_t index,
					   struct mempolicy *mpol, pgoff_t ilx)
{
	struct folio *folio;
	int r;

	folio = hugetlb_reservation_alloc_folio(handle, mpol, ilx);
	if (IS_ERR(folio))
		return folio;

	r = guest_memfd_clear(folio);
	if (r) {
		folio_put(folio);
		hugetlb_reservation_flush(handle);
		return ERR_PTR(r);
	}

	return folio;
}

static void gmem_hugetlb_flush(void *handle)
{
	hugetlb_reservation_flush(handle);
}

static void gmem_hugetlb_stats(void *handle, struct guest_memfd_stats *stats)
{
	hugetlb_reservation_stats(handle, &stats->reserved, &stats->allocated);
}

const struct guest_memfd_allocator_ops kvm_gmem_hugetlb_ops = {
	.owner		= THIS_MODULE,
	.name		= "hugetlb",
	.flag		= GUEST_MEMFD_FLAG_HUGETLB,
	.flag_args	= (u64)GUEST_MEMFD_HUGE_MASK << GUEST_MEMFD_HUGE_SHIFT,
	.accounted	= true,
	.orders		= hugetlb_pool_orders,
	.order		= gmem_hugetlb_order,
	.reserve	= gmem_hugetlb_reserve,
	.unreserve	= gmem_hugetlb_unreserve,
	.allocate	= gmem_hugetlb_allocate,
	.flush		= gmem_hugetlb_flush,
	.stats		= gmem_hugetlb_stats,
};
