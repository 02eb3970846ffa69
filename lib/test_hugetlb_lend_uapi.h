/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The interface of lib/test_hugetlb_lend.c, a device for tests that borrows
 * pages of the HugeTLB pools and splits and merges them as it is told.
 *
 * /dev/test_hugetlb_lend makes files.  Such a file has a fixed size, a number of
 * huge pages that are reserved for it.  An index is that of a page of PAGE_SIZE
 * in the file, except where it says huge index, or nr huge pages.
 *
 * Only pages that are exposed can be mapped (MAP_SHARED), touching anything else
 * raises SIGBUS.  Memory is not cleared: it has what its last user left there.
 *
 * ioctls return 0 if nothing else is said, or -1 with errno.  Common to all
 * that take an index: ENOENT if the file has no folio there, EINVAL for what is
 * outside of the file or makes no sense, ENOTTY for an ioctl of the other fd.
 */
#ifndef _LIB_TEST_HUGETLB_LEND_UAPI_H
#define _LIB_TEST_HUGETLB_LEND_UAPI_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define TEST_LEND_DEVICE	"/dev/test_hugetlb_lend"
#define TEST_LEND_MAGIC		'L'

/*
 * On the device
 */

/**
 * struct test_lend_create - make a file
 * @order: of its huge pages, for example 18 for 1G and 9 for 2M on x86
 * @pad: 0
 * @nr_huge: its size in huge pages
 *
 * Returns the file descriptor.  ENODEV: no such pool, ENOMEM: the pool has too
 * few pages that are not reserved for others.
 */
struct test_lend_create {
	__u32 order;
	__u32 pad;
	__u64 nr_huge;
};

/**
 * struct test_lend_put_cost - measure folio_put() of a page that is not lent
 * @nr: (in) how many times; 1 to 1000000
 * @get_put_cycles: (out) get_cycles() for @nr folio_get() and folio_put()
 * @alloc_put_cycles: (out) for @nr allocations, each with its last folio_put()
 */
struct test_lend_put_cost {
	__u64 nr;
	__u64 get_put_cycles;
	__u64 alloc_put_cycles;
};

#define TEST_LEND_CREATE	_IOW(TEST_LEND_MAGIC, 0, struct test_lend_create)
#define TEST_LEND_PUT_COST	_IOWR(TEST_LEND_MAGIC, 1, struct test_lend_put_cost)

/*
 * On a file
 */

/* In test_lend_op.flags */
#define TEST_LEND_PREPARE_ONLY	0x1	/* TEST_LEND_SPLIT: prepare, and cancel */
#define TEST_LEND_ALL		0x2	/* TEST_LEND_RELEASE: @index is 0 */

/* In test_lend_op.state */
#define TEST_LEND_NOTHING_TO_DO	0x1	/* it is split or merged that far already */
#define TEST_LEND_MERGE_WANTED	0x2	/* a part of the huge page is to be merged later */

/* In test_lend_op.context: where the references are put, by folio_put() */
enum test_lend_context {
	TEST_LEND_TASK,
	TEST_LEND_SPINLOCK,	/* held, with interrupts off */
	TEST_LEND_SOFTIRQ,	/* a timer */
	TEST_LEND_HARDIRQ,	/* irq_work */
	TEST_LEND_BATCH,	/* in a task, by folios_put() */
	TEST_LEND_NR_CONTEXTS
};

/**
 * struct test_lend_op - what all ioctls that do something take
 * @index: (in) index, or huge index
 * @nr: (in) pages, or huge pages; (out) of TEST_LEND_RELEASE
 * @order: (in) of TEST_LEND_MERGE and TEST_LEND_MERGE_LATER
 * @flags: (in) TEST_LEND_PREPARE_ONLY, TEST_LEND_ALL
 * @context: (in) of TEST_LEND_RELEASE, enum test_lend_context
 * @state: (out) TEST_LEND_NOTHING_TO_DO, TEST_LEND_MERGE_WANTED
 * @tries: (out) how often a split was committed, or a merge was tried
 * @pad: 0
 * @prepare_cycles: (out) get_cycles() for prepare
 * @commit_cycles: (out) for the last commit, cancel, merge, or the operation as such
 * @vmemmap_pages: (out) by how many pages the vmemmap of the huge page has grown
 *
 * What an ioctl does not use is ignored on the way in, and has to be 0 in @flags.
 */
struct test_lend_op {
	__u64 index;
	__u64 nr;
	__u32 order;
	__u32 flags;
	__u32 context;
	__u32 state;
	__u32 tries;
	__u32 pad;
	__u64 prepare_cycles;
	__u64 commit_cycles;
	__s64 vmemmap_pages;
};

/* In test_lend_stats.flags */
#define TEST_LEND_PRESENT	0x1	/* the file has the folio */
#define TEST_LEND_HELD		0x2	/* by TEST_LEND_HOLD at @index */
#define TEST_LEND_LENT		0x4	/* has the type: is not exposed */
#define TEST_LEND_MAPPED	0x8

/* More than there are orders of folios */
#define TEST_LEND_NR_ORDERS	32

/**
 * struct test_lend_stats - what has become of a page
 * @index: (in) index; all below is out
 * @pfn: of the page
 * @head_pfn: of the folio that it is part of
 * @order: of the folio
 * @flags: TEST_LEND_PRESENT and so on
 * @refcount: of the folio; has one reference for each page from the page cache
 * @huge_order: these are hugetlb_lent_stats() of the huge page
 * @merge_wanted: see there, 0 or 1
 * @nr_folios: see there
 * @nr_vmemmap: see there
 * @nr_returned: see there
 * @granule_order: of a granule, the smallest order of a folio but for single pages
 * @merged_order: of the last folio that merged() of the file was called with
 * @merged_index: its index
 * @nr_merged: number of these calls
 * @nr_pages: in the page cache of the file
 * @nr_nodes: of the XArray of the file
 * @reserved: hugetlb_reservation_stats() of the file: huge pages
 * @allocated: the others
 *
 * A page that is not in the file any more, but held, is found too.  ENOENT if
 * there is none: @granule_order and what follows is set all the same.
 */
struct test_lend_stats {
	__u64 index;
	__u64 pfn;
	__u64 head_pfn;
	__u32 order;
	__u32 flags;
	__u64 refcount;
	__u32 huge_order;
	__u32 merge_wanted;
	__u64 nr_folios[TEST_LEND_NR_ORDERS];
	__u64 nr_vmemmap;
	__u64 nr_returned;
	__u32 granule_order;
	__u32 merged_order;
	__u64 merged_index;
	__u64 nr_merged;
	__u64 nr_pages;
	__u64 nr_nodes;
	__u64 reserved;
	__u64 allocated;
};

/**
 * struct test_lend_walk - a random walk that is checked against a model
 * @seed: (in) of the random numbers
 * @rounds: (in) number of steps
 * @map: (in) address of a shared mapping of the file from its start on, so that the
 *       walk can touch pages; 0 if there is none
 * @nr_steps: (out) number of steps that were taken
 * @nr_splits: (out) these are for the caller to see that something was done
 * @nr_uniform: (out) splits of whole folios
 * @nr_merges: (out) done at once
 * @nr_later: (out) done by the delayed work
 * @nr_refused: (out) splits and merges that met a reference of the walk
 * @nr_exposed: (out)
 * @nr_mapped: (out)
 * @nr_holds: (out)
 * @nr_punched: (out)
 * @nr_retried: (out) steps that met a reference of another task, and were repeated
 * @nr_failed: (out) steps that failed for want of memory, and changed nothing
 *
 * Begins and ends with no page split: all are whole, or not in the file.  EBUSY:
 * there are pages held.  EUCLEAN: the model was violated, the kernel's log says
 * how.  EINTR: a signal arrived.  ETIME: a task does not stop to use a page.
 */
struct test_lend_walk {
	__u64 seed;
	__u64 rounds;
	__u64 map;
	__u64 nr_steps;
	__u64 nr_splits;
	__u64 nr_uniform;
	__u64 nr_merges;
	__u64 nr_later;
	__u64 nr_refused;
	__u64 nr_exposed;
	__u64 nr_mapped;
	__u64 nr_holds;
	__u64 nr_punched;
	__u64 nr_retried;
	__u64 nr_failed;
};

/*
 * @index, @nr: huge index and huge pages.  Have pages that are whole, where there
 * are none.  EAGAIN: some that were punched are still in use.
 */
#define TEST_LEND_POPULATE	_IOWR(TEST_LEND_MAGIC, 16, struct test_lend_op)
/* @index, @nr in one folio, @flags; EAGAIN if the folio stays in use */
#define TEST_LEND_SPLIT		_IOWR(TEST_LEND_MAGIC, 17, struct test_lend_op)
/* @index, @order: that block; what is mapped gets unmapped.  EAGAIN as above */
#define TEST_LEND_MERGE		_IOWR(TEST_LEND_MAGIC, 18, struct test_lend_op)
/* @index, @order: that block, in a second or later */
#define TEST_LEND_MERGE_LATER	_IOWR(TEST_LEND_MAGIC, 19, struct test_lend_op)
/* @index, @nr of single pages: let them be mapped; EINVAL at the first folio that is large */
#define TEST_LEND_EXPOSE	_IOWR(TEST_LEND_MAGIC, 20, struct test_lend_op)
/* @index, @nr of single pages: unmap them, they can be mapped no longer */
#define TEST_LEND_HIDE		_IOWR(TEST_LEND_MAGIC, 21, struct test_lend_op)
/* @index, @nr: huge index and huge pages.  Unmap, truncate, hugetlb_reservation_flush() */
#define TEST_LEND_PUNCH		_IOWR(TEST_LEND_MAGIC, 22, struct test_lend_op)
/* @index, @nr: a reference to the folio of each page, which the file remembers */
#define TEST_LEND_HOLD		_IOWR(TEST_LEND_MAGIC, 23, struct test_lend_op)
/*
 * @index, @nr, or TEST_LEND_ALL; @context: put those of HOLD with these indices.
 * Sets @nr to their number, and flushes.  ENOENT: there are none.
 */
#define TEST_LEND_RELEASE	_IOWR(TEST_LEND_MAGIC, 24, struct test_lend_op)
#define TEST_LEND_STATS		_IOWR(TEST_LEND_MAGIC, 25, struct test_lend_stats)
#define TEST_LEND_WALK		_IOWR(TEST_LEND_MAGIC, 26, struct test_lend_walk)

#endif /* _LIB_TEST_HUGETLB_LEND_UAPI_H */
