/* SPDX-License-Identifier: GPL-2.0 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM guest_memfd

#if !defined(_TRACE_GUEST_MEMFD_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_GUEST_MEMFD_H

#include <linux/mm.h>
#include <linux/tracepoint.h>

/* A file is being created; @error is why its memory cannot be reserved, or 0. */
TRACE_EVENT(guest_memfd_reserve,
	    TP_PROTO(u64 ino, const char *allocator, unsigned int order,
		     unsigned long nr_folios, int error),

	    TP_ARGS(ino, allocator, order, nr_folios, error),

	    TP_STRUCT__entry(
		__field(u64,		ino)
		__string(allocator,	allocator)
		__field(unsigned int,	order)
		__field(unsigned long,	nr_folios)
		__field(int,		error)
	    ),

	    TP_fast_assign(
		__entry->ino		= ino;
		__assign_str(allocator);
		__entry->order		= order;
		__entry->nr_folios	= nr_folios;
		__entry->error		= error;
	    ),

	    TP_printk("ino=%llu allocator=%s order=%u nr_folios=%lu error=%d",
		      __entry->ino, __get_str(allocator), __entry->order,
		      __entry->nr_folios, __entry->error)
);

/* A file is gone, and so is its reservation. */
TRACE_EVENT(guest_memfd_unreserve,
	    TP_PROTO(u64 ino, const char *allocator),

	    TP_ARGS(ino, allocator),

	    TP_STRUCT__entry(
		__field(u64,		ino)
		__string(allocator,	allocator)
	    ),

	    TP_fast_assign(
		__entry->ino		= ino;
		__assign_str(allocator);
	    ),

	    TP_printk("ino=%llu allocator=%s", __entry->ino, __get_str(allocator))
);

/*
 * An allocator has been asked for the folio at an index, which is in pages; an
 * ERR_PTR stands for what it answered instead.
 */
TRACE_EVENT(guest_memfd_allocate,
	    TP_PROTO(u64 ino, pgoff_t index, unsigned int order,
		     struct folio *folio),

	    TP_ARGS(ino, index, order, folio),

	    TP_STRUCT__entry(
		__field(u64,		ino)
		__field(pgoff_t,	index)
		__field(unsigned int,	order)
		__field(unsigned long,	pfn)
		__field(int,		nid)
		__field(int,		error)
	    ),

	    TP_fast_assign(
		__entry->ino	= ino;
		__entry->index	= index;
		__entry->order	= order;
		__entry->pfn	= IS_ERR(folio) ? -1UL : folio_pfn(folio);
		__entry->nid	= IS_ERR(folio) ? NUMA_NO_NODE : folio_nid(folio);
		__entry->error	= PTR_ERR_OR_ZERO(folio);
	    ),

	    TP_printk("ino=%llu index=0x%lx order=%u pfn=0x%lx nid=%d error=%d",
		      __entry->ino, __entry->index, __entry->order, __entry->pfn,
		      __entry->nid, __entry->error)
);

/* The folios of a range of indices, @end not included, leave the file. */
TRACE_EVENT(guest_memfd_truncate,
	    TP_PROTO(u64 ino, pgoff_t start, pgoff_t end),

	    TP_ARGS(ino, start, end),

	    TP_STRUCT__entry(
		__field(u64,		ino)
		__field(pgoff_t,	start)
		__field(pgoff_t,	end)
	    ),

	    TP_fast_assign(
		__entry->ino	= ino;
		__entry->start	= start;
		__entry->end	= end;
	    ),

	    TP_printk("ino=%llu start=0x%lx end=0x%lx", __entry->ino,
		      __entry->start, __entry->end)
);

/*
 * The attempt to make a range of pages, @end not included, private or shared has
 * ended; @error is why it has failed, or 0.  KVM may try again after -EAGAIN.
 */
TRACE_EVENT(guest_memfd_convert,
	    TP_PROTO(u64 ino, pgoff_t start, pgoff_t end, bool private, int error),

	    TP_ARGS(ino, start, end, private, error),

	    TP_STRUCT__entry(
		__field(u64,		ino)
		__field(pgoff_t,	start)
		__field(pgoff_t,	end)
		__field(bool,		private)
		__field(int,		error)
	    ),

	    TP_fast_assign(
		__entry->ino		= ino;
		__entry->start		= start;
		__entry->end		= end;
		__entry->private	= private;
		__entry->error		= error;
	    ),

	    TP_printk("ino=%llu start=0x%lx end=0x%lx to=%s error=%d",
		      __entry->ino, __entry->start, __entry->end,
		      __entry->private ? "private" : "shared", __entry->error)
);

/*
 * The host has touched a page of a large folio; @first and @nr are what single pages
 * were to be made of.  @error is why they were not, or 0.
 */
TRACE_EVENT(guest_memfd_split,
	    TP_PROTO(u64 ino, pgoff_t index, pgoff_t first, unsigned long nr,
		     int error),

	    TP_ARGS(ino, index, first, nr, error),

	    TP_STRUCT__entry(
		__field(u64,		ino)
		__field(pgoff_t,	index)
		__field(pgoff_t,	first)
		__field(unsigned long,	nr)
		__field(int,		error)
	    ),

	    TP_fast_assign(
		__entry->ino	= ino;
		__entry->index	= index;
		__entry->first	= first;
		__entry->nr	= nr;
		__entry->error	= error;
	    ),

	    TP_printk("ino=%llu index=0x%lx first=0x%lx nr=%lu error=%d",
		      __entry->ino, __entry->index, __entry->first, __entry->nr,
		      __entry->error)
);

/* Pages have become one folio of @order again, which begins at @index. */
TRACE_EVENT(guest_memfd_merge,
	    TP_PROTO(u64 ino, pgoff_t index, unsigned int order),

	    TP_ARGS(ino, index, order),

	    TP_STRUCT__entry(
		__field(u64,		ino)
		__field(pgoff_t,	index)
		__field(unsigned int,	order)
	    ),

	    TP_fast_assign(
		__entry->ino	= ino;
		__entry->index	= index;
		__entry->order	= order;
	    ),

	    TP_printk("ino=%llu index=0x%lx order=%u", __entry->ino,
		      __entry->index, __entry->order)
);

#endif /* _TRACE_GUEST_MEMFD_H */

/* This part must be outside protection */
#include <trace/define_trace.h>
