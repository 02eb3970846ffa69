// SPDX-License-Identifier: GPL-2.0-only
/*
 * The HugeTLB allocator: pools of huge pages.
 * (C) Nadia Yvette Chambers, April 2004
 *
 * For each size of huge page that the system offers there is a pool, a struct
 * hstate.  Its pages are set aside, at boot or when an administrator says so,
 * and kept for whoever asks for huge pages of that size: hugetlbfs and what is
 * built on it, and users inside the kernel (linux/hugetlb_alloc.h).  This file
 * gives pages out and takes them back.  It knows of memory policies and of the
 * cgroups that it charges, but neither of files nor of mappings; those are the
 * business of hugetlb.c.
 *
 * A page of a pool is free, on the list of its node, or allocated, on the
 * active list (or isolated from there for migration).  hugetlb_lock protects
 * the lists and the counts of an hstate:
 *
 *   nr_huge_pages       pages of the pool, free and allocated
 *   free_huge_pages     the free ones
 *   resv_huge_pages     free pages that are promised: whoever has no reservation
 *                       gets only what free_huge_pages has beyond that
 *   surplus_huge_pages  pages beyond max_huge_pages, the size that was asked for
 *
 * Except for reservations, each is also counted by node.
 *
 * A reservation is a number, no particular page, and holds for the system as a
 * whole, no matter on which node the page is wanted in the end.  It is made by
 * hugetlb_acct_memory(), which may have to enlarge the pool for it, and consumed
 * when the page is allocated.  A page that was allocated from one and is freed
 * unused restores it.  A subpool is a share of a pool with a minimum, which is
 * reserved as a whole, or a maximum, or both: a mount of hugetlbfs with a size.
 *
 * A surplus page comes from the page allocator when the pool has none for a
 * request and nr_overcommit_huge_pages allows for it.  It goes back there when
 * it is freed and no reservation needs it.  Shrinking a pool whose pages are in
 * use makes surplus pages too.
 *
 * Pages come to a pool at boot, from memblock or CMA before there is a page
 * allocator, or later from that.  Pages that are larger than the page allocator
 * has take contiguous memory, which is hard to find once the system is in use.
 * With HVO (hugetlb_vmemmap.c) a page in the pool lacks most of its struct pages:
 * these have to be allocated before it can leave the pool, so that freeing may
 * fail and the page be put back.
 */
#include <linux/cpuset.h>
#include <linux/hugetlb.h>
#include <linux/hugetlb_cgroup.h>
#include <linux/init.h>
#include <linux/list.h>
#include <linux/llist.h>
#include <linux/memblock.h>
#include <linux/mempolicy.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/nodemask.h>
#include <linux/nospec.h>
#include <linux/numa.h>
#include <linux/padata.h>
#include <linux/page-isolation.h>
#include <linux/page_owner.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/string_helpers.h>
#include <linux/vmstat.h>
#include <linux/workqueue.h>

#include <asm/setup.h>

#include "internal.h"
#include "page_alloc.h"
#include "hugetlb_cma.h"
#include "hugetlb_internal.h"
#include "hugetlb_vmemmap.h"
#include "mm_init.h"

/*
 * Pools
 *
 * One struct hstate for each size of page, in the order of registration, and the
 * lock for all of their lists and counts.
 */

/*
 * Subpools
 *
 * max_hpages bounds used_hpages, the pages that are allocated or reserved
 * through the subpool.  min_hpages are reserved in the pool when the subpool is
 * made; rsv_hpages is what is left of them.  A request takes from rsv_hpages
 * first, and only the rest is the caller's to get from the pool.
 *
 * The lock of a subpool nests inside hugetlb_lock.
 */

/*
 * Pages of a pool: its lists and counts
 *
 * A free page is on h->hugepage_freelists[] of its node and has a reference
 * count of zero.  remove_hugetlb_folio() and add_hugetlb_folio() take a page of
 * a pool out of it and put it back.
 */

/*
 * New pages
 *
 * They come from the page allocator, gigantic ones also from hugetlb_cma, with a
 * reference count of zero, and are no part of a pool before they are accounted.
 */

/*
 * Freeing
 *
 * free_huge_folio() gets a page from its last user and returns it to the pool,
 * or to where the pool had it from.  The latter needs memory for struct pages
 * and may sleep, which a last put may not: it is left to a work item then.
 */

/*
 * Surplus pages and reservations
 *
 * hugetlb_acct_memory() is what others call, with a number of pages to reserve
 * or, negative, to give up.  gather_surplus_pages() enlarges the pool for those
 * that its free pages do not cover, return_unused_surplus_pages() reduces it.
 */

/*
 * Allocation
 *
 * hugetlb_alloc_folio() serves those who have a memory policy, from a reservation
 * or not, and charges for the page.  The others are for callers that know the
 * nodes: memfd, and migration, whose target takes over the charges of its source.
 */

/*
 * Pages by their place in memory
 *
 * Migration, memory failure, offlining and the allocation of contiguous memory
 * meet pages by their address, whichever pool they are of and whoever uses them.
 * They isolate those that are in use, and dissolve or replace those that are
 * free.
 */

/*
 * Resizing at run time
 *
 * What an administrator writes to nr_hugepages, for the system or a node, and to
 * demote, which makes free pages into pages of a smaller size.  resize_lock of
 * the pool is held throughout.
 */

/*
 * Command line
 *
 * hugepagesz=, hugepages=, default_hugepagesz= and hugepage_alloc_threads=.
 */

/*
 * Pages allocated at boot
 *
 * Gigantic pages are taken from memblock, or CMA, before the page allocator is
 * up and go to a pool later, when their struct pages can be initialized.
 */

/*
 * Initialization
 *
 * hugetlb_bootmem_alloc() runs before the page allocator is up and takes gigantic
 * pages, hugetlb_init() after it and takes the others.
 */

/*
 * Reports
 *
 * For /proc/meminfo, meminfo of a node, and when memory is out.
 */
