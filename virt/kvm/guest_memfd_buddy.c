// SPDX-License-Identifier: GPL-2.0
/*
 * The default allocator of guest_memfd: single pages from the page allocator.
 *
 * Nothing is reserved.  The pages are ordinary page cache: charged to the
 * memory cgroup of the task that allocates them and on the unevictable LRU.
 */
#include <linux/bits.h>
#include <linux/guest_memfd.h>
#include <linux/module.h>
#include <linux/pagemap.h>

#include "guest_memfd.h"

static unsigned long gmem_buddy_orders(void)
{
	return BIT(0);
}

static int gmem_buddy_order(u64 flags)
{
	return 0;
}

static struct folio *gmem_buddy_allocate(void *handle, pgoff_t index,
					 struct mempolicy *mpol, pgoff_t ilx)
{
	struct folio *folio;

	folio = filemap_alloc_folio(GFP_HIGHUSER | __GFP_ZERO, 0, mpol);
	if (!folio)
		return ERR_PTR(-ENOMEM);

	__folio_mark_uptodate(folio);
	return folio;
}

const struct guest_memfd_allocator_ops kvm_gmem_buddy_ops = {
	.owner		= THIS_MODULE,
	.name		= "buddy",
	.can_mmap	= true,
	.orders		= gmem_buddy_orders,
	.order		= gmem_buddy_order,
	.allocate	= gmem_buddy_allocate,
};
