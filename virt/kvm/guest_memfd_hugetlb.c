// SPDX-License-Identifier: GPL-2.0
/*
 * guest_memfd memory from the HugeTLB pools (GUEST_MEMFD_FLAG_HUGETLB).
 *
 * All pages of a file are reserved when it is created, so that a guest never
 * finds the pool empty.  They are allocated whole, one for each huge page of
 * the file that is touched or populated, and go back to the file's reservation
 * when they are punched out, and to the pool with the file.
 *
 * Folios are lent by HugeTLB, which can split them while they are: where the host
 * touches a page that is shared, single pages are made of that and what is around it.
 */
#include <linux/hugetlb_lend.h>
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
	return hugetlb_reservation_create(order, nr_folios, guest_memfd_merged);
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

static void gmem_hugetlb_folio_stats(const struct folio *folio,
				     struct guest_memfd_folio_stats *stats)
{
	struct hugetlb_lent_stats lent;
	unsigned int order;

	hugetlb_lent_stats(folio, &lent);

	for (order = 0; order <= lent.order; order++)
		stats->nr_folios[order] += lent.nr_folios[order];
	stats->nr_vmemmap += lent.nr_vmemmap;
	stats->nr_merges += lent.merge_wanted;
}

static bool gmem_hugetlb_can_split(void)
{
	return hugetlb_lent_can_split();
}

static void *gmem_hugetlb_split_prepare(struct folio *folio, unsigned long first,
					unsigned long nr)
{
	return hugetlb_lent_split_prepare(folio, first, nr);
}

static int gmem_hugetlb_split_commit(void *split)
{
	return hugetlb_lent_split_commit(split);
}

static void gmem_hugetlb_split_cancel(void *split)
{
	hugetlb_lent_split_cancel(split);
}

static void gmem_hugetlb_merge_later(struct folio *folio, unsigned int order)
{
	/* As many struct pages fill a page: a folio of so many saves none. */
	if (order <= ilog2(PAGE_SIZE / sizeof(struct page)))
		return;

	hugetlb_lent_merge_later(folio, order);
}

const struct guest_memfd_allocator_ops kvm_gmem_hugetlb_ops = {
	.owner		= THIS_MODULE,
	.name		= "hugetlb",
	.flag		= GUEST_MEMFD_FLAG_HUGETLB,
	.flag_args	= (u64)GUEST_MEMFD_HUGE_MASK << GUEST_MEMFD_HUGE_SHIFT,
	.can_mmap	= true,
	.accounted	= true,
	.orders		= hugetlb_pool_orders,
	.order		= gmem_hugetlb_order,
	.reserve	= gmem_hugetlb_reserve,
	.unreserve	= gmem_hugetlb_unreserve,
	.allocate	= gmem_hugetlb_allocate,
	.flush		= gmem_hugetlb_flush,
	.stats		= gmem_hugetlb_stats,
	.folio_stats	= gmem_hugetlb_folio_stats,
	.can_split	= gmem_hugetlb_can_split,
	.split_prepare	= gmem_hugetlb_split_prepare,
	.split_commit	= gmem_hugetlb_split_commit,
	.split_cancel	= gmem_hugetlb_split_cancel,
	.merge_later	= gmem_hugetlb_merge_later,
	.expose		= hugetlb_lent_expose,
	.exposed	= hugetlb_lent_exposed,
	.hide		= hugetlb_lent_hide,
};
