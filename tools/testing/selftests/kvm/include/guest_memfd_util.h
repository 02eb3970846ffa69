/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests of guest_memfd have in common: a VM with files of one page size,
 * a guest that visits their memory, and the counters of the HugeTLB pools.
 *
 * All of it reports what it finds and leaves the verdict to the test.  Functions
 * that return an int return an error number, 0 for success.
 */
#ifndef SELFTEST_KVM_GUEST_MEMFD_UTIL_H
#define SELFTEST_KVM_GUEST_MEMFD_UTIL_H

#include <linux/sizes.h>

#include "kselftest.h"
#include "kvm_util.h"
#include "test_util.h"
#include "cgroup_util.h"

#define MAX_NODES	8
#define NR_VCPUS	2
#define TEST_SLOT	10
/* Aligned to any page size, and clear of the memory of the test library */
#define TEST_GPA	(8ULL * SZ_1G)
/* What is mapped for the guest, and the room for memory in userspace */
#define GUEST_SIZE	(12ULL * SZ_1G)

/*
 * Pools
 */

/* The counters of one HugeTLB pool; all 0 for pages of 4K */
struct pool_count {
	long nr;
	long free;
	long resv;
	long surplus;
	struct {
		long nr;
		long free;
		long surplus;
	} node[MAX_NODES];
};

/* The directory of one node, or of all of them if that is negative */
const char *pool_dir(size_t page_size, int node);
void read_pool(size_t page_size, struct pool_count *p);
void print_pool(const char *when, const struct pool_count *p);

/* Pages that another task has used may come back late: seconds to wait for them. */
#define POOL_PATIENCE	60

bool pool_compare(size_t page_size, const struct pool_count *want, bool nodes,
		  int patience);

/* Are these the counters now, those of the nodes included? */
static inline bool pool_same(size_t page_size, const struct pool_count *want)
{
	return pool_compare(page_size, want, true, 0);
}

static inline bool pool_same_soon(size_t page_size,
				  const struct pool_count *want)
{
	return pool_compare(page_size, want, true, POOL_PATIENCE);
}

/* Those of the nodes need only add up to these. */
static inline bool pool_is(size_t page_size, long nr, long free, long resv,
			   long surplus)
{
	const struct pool_count want = { nr, free, resv, surplus };

	return pool_compare(page_size, &want, false, 0);
}

static inline bool pool_is_soon(size_t page_size, long nr, long free, long resv,
				long surplus)
{
	const struct pool_count want = { nr, free, resv, surplus };

	return pool_compare(page_size, &want, false, POOL_PATIENCE);
}

bool resize_pool(size_t page_size, int node, long nr);
bool restore_pool(size_t page_size, const struct pool_count *p);

/*
 * Files
 */

struct gmem {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu[NR_VCPUS];
	struct pool_count before;
	size_t page_size;
	long avail;		/* huge pages that were neither in use nor reserved */
	u64 flags;		/* of a file that the guest can have */
	bool private;		/* the VM has private memory */
	void *hva;		/* where shared memory would be; is never touched */
};

/* Why a test cannot run, NULL if it can: it wants @nr_free huge pages. */
const char *gmem_setup(struct gmem *g, unsigned int page_shift,
		       unsigned int vm_type, long nr_free);
void gmem_free_vm(struct gmem *g);

static inline u64 hugetlb_flags(unsigned int page_shift)
{
	return GUEST_MEMFD_FLAG_HUGETLB |
	       (u64)page_shift << GUEST_MEMFD_HUGE_SHIFT;
}

/* Pages are huge pages if the file's are, from here on. */
static inline int gmem_create(struct gmem *g, long nr_pages)
{
	return vm_create_guest_memfd(g->vm, nr_pages * g->page_size, g->flags);
}

/* The error of creating a file, 0 if it was created (and is closed again) */
int create_errno(struct kvm_vm *vm, u64 size, u64 flags);

static inline int gmem_create_errno(struct gmem *g, long nr_pages)
{
	return create_errno(g->vm, nr_pages * g->page_size, g->flags);
}

int gmem_populate(struct gmem *g, int fd, long page, long nr_pages);
int gmem_punch(struct gmem *g, int fd, long page, long nr_pages);
long gmem_nr_allocated(struct gmem *g, int fd);

/*
 * Of what was available before, so many pages are allocated and so many more are
 * reserved, and the pool has as many as before.  True for pages of 4K.
 */
bool gmem_held(struct gmem *g, long allocated, long reserved);

/* VMs that this process has made and that exist, -1 if it cannot be told */
int gmem_nr_vms(void);

/* Bind @size bytes of the file, from @offset, at TEST_GPA + @delta. */
void gmem_bind_at(struct gmem *g, int fd, u64 offset, u64 size, u64 delta);

static inline void gmem_bind(struct gmem *g, int fd, long nr_pages)
{
	gmem_bind_at(g, fd, 0, nr_pages * g->page_size, 0);
}

static inline void gmem_unbind(struct gmem *g)
{
	vm_set_user_memory_region2(g->vm, TEST_SLOT, KVM_MEM_GUEST_MEMFD,
				   0, 0, NULL, -1, 0);
}

/* The value of a key in the file's fdinfo, as a string; NULL if it isn't there */
const char *gmem_fdinfo(int fd, const char *key);

/* What gmem_convert() leaves in *@error_offset if the kernel wrote nothing */
#define GMEM_NO_ERROR	0xdeadbeefULL

/* Make bytes of a file private or shared, whichever VM has them in a memslot. */
int gmem_convert(int fd, u64 offset, u64 size, bool private, u64 *error_offset);

/* The same for all that a VM has in a range of addresses. */
int vm_convert(struct kvm_vm *vm, u64 gpa, u64 size, bool private);

/*
 * The guest visits memory as it's told: one word of each cache line, or of each
 * 4K page.
 */

enum guest_op {
	OP_NONE,
	OP_FILL,	/* write (word's offset ^ seed) */
	OP_CHECK,	/* expect that */
	OP_CHECK_ZERO,	/* expect 0 */
	OP_TOUCH,	/* write a word of each 4K page */
	OP_MARK,	/* the same: (the word's offset from TEST_GPA ^ seed) */
	OP_CHECK_MARK,	/* expect that */
};

/* @offset is from TEST_GPA, @seed is not a multiple of 64. */
void set_cmd(struct gmem *g, enum guest_op op, u64 offset, u64 size, u64 seed);

/* The same for one vCPU, while others go on with what they were told. */
void set_vcpu_cmd(struct gmem *g, int vcpu, enum guest_op op, u64 offset,
		  u64 size, u64 seed);

/*
 * Have a vCPU carry it out.  After an error the guest is still at it, and goes on
 * in the next run, whatever it is told meanwhile.
 */
int run_vcpu(struct kvm_vcpu *vcpu);

/* The same for a thread, which must not fail */
void *vcpu_thread(void *vcpu);

static inline void run_cmd(struct gmem *g, int vcpu, enum guest_op op,
			   u64 offset, u64 size, u64 seed)
{
	set_cmd(g, op, offset, size, seed);
	vcpu_thread(g->vcpu[vcpu]);
}

/* Touch a page in its middle, with the first vCPU. */
static inline int gmem_touch(struct gmem *g, long page)
{
	set_cmd(g, OP_TOUCH, page * g->page_size + g->page_size / 2 / SZ_4K * SZ_4K,
		SZ_4K, 1);
	return run_vcpu(g->vcpu[0]);
}

/*
 * Error injection
 */

#define DEBUGFS		"/sys/kernel/debug"

/*
 * Let failslab and fail_page_alloc fail all that /proc/thread-self/fail-nth or
 * make-it-fail asks for, and usercopy nothing.  Restore what was set before even if
 * this says false, unless the kernel has no such faults: *@begun tells.
 */
bool faults_set_up(bool *begun);
bool faults_restore(void);

/*
 * Cgroups
 */

#define CG_ROOT		"/sys/fs/cgroup"

/* A cgroup below the root, one below that, and what was enabled in the root for them */
struct gmem_cgroups {
	char parent[64];
	char child[80];
	char controllers[64];
};

/* Have both with a controller; false if they cannot be had.  May be called again. */
bool gmem_make_cgroups(struct gmem_cgroups *cg, const char *name, const char *controller);
/* The tasks have left them; either may be gone. */
bool gmem_remove_cgroups(struct gmem_cgroups *cg);

/* hugetlb.SIZE.NAME, good until three more names are asked for */
const char *gmem_hugetlb_file(struct gmem *g, const char *name);

/* What the hugetlb controller has charged to a cgroup: is it this, in huge pages? */
bool gmem_hugetlb_is(struct gmem *g, const char *dir, long held, long rsvd);

/*
 * Tracing
 */

/* An instance, with all events of guest_memfd; the directory, NULL without one */
const char *gmem_trace_start(const char *name);
void gmem_trace_stop(const char *dir);

#endif /* SELFTEST_KVM_GUEST_MEMFD_UTIL_H */
