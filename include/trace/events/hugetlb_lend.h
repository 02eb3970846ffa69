/* SPDX-License-Identifier: GPL-2.0 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM hugetlb_lend

#if !defined(_TRACE_HUGETLB_LEND_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_HUGETLB_LEND_H

#include <linux/mm.h>
#include <linux/tracepoint.h>

/*
 * A reservation of @nr_huge_pages has been given up.  Of these, @nr_awaited are in
 * use, and each comes home to the pool after its last folio_put().
 */
TRACE_EVENT(hugetlb_reservation_destroy,
	    TP_PROTO(unsigned int order, unsigned long nr_huge_pages,
		     unsigned long nr_awaited),

	    TP_ARGS(order, nr_huge_pages, nr_awaited),

	    TP_STRUCT__entry(
		__field(unsigned int,	order)
		__field(unsigned long,	nr_huge_pages)
		__field(unsigned long,	nr_awaited)
	    ),

	    TP_fast_assign(
		__entry->order		= order;
		__entry->nr_huge_pages	= nr_huge_pages;
		__entry->nr_awaited	= nr_awaited;
	    ),

	    TP_printk("order=%u nr_huge_pages=%lu nr_awaited=%lu", __entry->order,
		      __entry->nr_huge_pages, __entry->nr_awaited)
);

/*
 * A huge page is about to be free in its pool: reserved again, or if it was awaited,
 * for any user.
 */
TRACE_EVENT(hugetlb_lent_home,
	    TP_PROTO(const struct folio *folio, bool awaited),

	    TP_ARGS(folio, awaited),

	    TP_STRUCT__entry(
		__field(unsigned int,	order)
		__field(unsigned long,	pfn)
		__field(int,		nid)
		__field(bool,		awaited)
	    ),

	    TP_fast_assign(
		__entry->order		= folio_order(folio);
		__entry->pfn		= folio_pfn(folio);
		__entry->nid		= folio_nid(folio);
		__entry->awaited	= awaited;
	    ),

	    TP_printk("order=%u pfn=0x%lx nid=%d awaited=%d", __entry->order,
		      __entry->pfn, __entry->nid, __entry->awaited)
);

#endif /* _TRACE_HUGETLB_LEND_H */

#include <trace/define_trace.h>
