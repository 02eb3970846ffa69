/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests of in-place conversion have in common: a VM with private memory,
 * a file that is mapped by the host and bound at TEST_GPA, and accesses of host and
 * guest that say what they met.
 *
 * Host and guest mark a page of 4K by its first word: its offset ^ a seed.
 */
#ifndef SELFTEST_KVM_GUEST_MEMFD_CONVERSIONS_H
#define SELFTEST_KVM_GUEST_MEMFD_CONVERSIONS_H

#include <pthread.h>

#include "guest_memfd_util.h"

/* The part of a file that most tests use: 4 pages of 2M, or of one page of 1G */
#define WINDOW		SZ_8M
#define NR_PAGES	(WINDOW / SZ_4K)
#define P(n)		((u64)(n) * SZ_4K)

struct conv {
	struct gmem g;
	int fd;
	char *mem;	/* the file, mapped at userspace_addr */
	u64 size;
};

/*
 * Why a test cannot run, NULL if it can.  The file has at least a window; all of it
 * is private, or shared if @flags has GUEST_MEMFD_FLAG_INIT_SHARED.
 */
const char *conv_setup(struct conv *c, unsigned int page_shift, u64 size, u64 flags);
void conv_free(struct conv *c);

/* Another file of the same size in its place; without a file in between, too. */
void conv_open(struct conv *c, u64 flags);
void conv_close(struct conv *c);
void conv_bind(struct conv *c, u32 slot, u64 offset, u64 size, u64 delta);
void conv_unbind(struct conv *c, u32 slot);

static inline int to_private(struct conv *c, u64 offset, u64 size)
{
	return gmem_convert(c->fd, offset, size, true, NULL);
}

static inline int to_shared(struct conv *c, u64 offset, u64 size)
{
	return gmem_convert(c->fd, offset, size, false, NULL);
}

/*
 * The same of pages that were in use.  A task that has let go of one may have told so
 * before it puts the last reference.
 */
int to_private_soon(struct conv *c, u64 offset, u64 size);

/* By the ioctl of the VM; @offset is from TEST_GPA. */
static inline int vm_to_private(struct conv *c, u64 offset, u64 size)
{
	return vm_convert(c->g.vm, TEST_GPA + offset, size, true);
}

static inline int vm_to_shared(struct conv *c, u64 offset, u64 size)
{
	return vm_convert(c->g.vm, TEST_GPA + offset, size, false);
}

/*
 * The host, by its page tables.  0; EFAULT for SIGBUS as on private pages; EHWPOISON
 * for SIGBUS of a page with a memory error.
 */
int host_read(const void *p, u64 *value);
int host_write(void *p, u64 value);

/* The error of either; the word stays as it is. */
int host_touch(void *p);

/* Have the page marked as one with a memory error. */
int host_poison(void *p);

/* The number of 4K pages that are not so; the first one is printed. */
long conv_wrong_state(struct conv *c, u64 offset, u64 size, bool private);
long host_mark(struct conv *c, u64 offset, u64 size, u64 seed);
long host_check(struct conv *c, u64 offset, u64 size, u64 seed);

#define EXPECT_PRIVATE(offset, size) \
	EXPECT_EQ(0, conv_wrong_state(c, offset, size, true))
#define EXPECT_SHARED(offset, size) \
	EXPECT_EQ(0, conv_wrong_state(c, offset, size, false))

/* Does this process have it mapped just now? */
bool host_mapped(const void *p);

/* A guest that finds something else ends the test. */
static inline void guest_run(struct conv *c, enum guest_op op, u64 offset, u64 size,
			     u64 seed)
{
	set_vcpu_cmd(&c->g, 0, op, offset, size, seed);
	vcpu_thread(c->g.vcpu[0]);
}

static inline void guest_mark(struct conv *c, u64 offset, u64 size, u64 seed)
{
	guest_run(c, OP_MARK, offset, size, seed);
}

static inline void guest_check(struct conv *c, u64 offset, u64 size, u64 seed)
{
	guest_run(c, OP_CHECK_MARK, offset, size, seed);
}

/* What maps the guest's memory, and how often the guest took a fault */
struct guest_maps {
	u64 nr_4k;
	u64 nr_2m;
	u64 nr_1g;
	u64 faults;
};

struct guest_maps conv_maps(struct conv *c);

/* Mappings of the size of the file's pages */
static inline u64 conv_nr_huge(struct conv *c)
{
	const struct guest_maps m = conv_maps(c);

	return c->g.page_size == SZ_1G ? m.nr_1g :
	       c->g.page_size == SZ_2M ? m.nr_2m : m.nr_4k;
}

/* A number of the file's fdinfo, -1 if it has no such line */
long conv_fdinfo(struct conv *c, const char *key);

/* Wait until a number of fdinfo is this one; false after a minute. */
bool conv_wait_fdinfo(struct conv *c, const char *key, long want);

/* Wait until nothing of the file is to be merged any more. */
static inline bool conv_wait_merged(struct conv *c)
{
	return conv_wait_fdinfo(c, "gmem-merges-pending", 0);
}

/* Seconds */
double conv_now(void);

/*
 * References that the host has to memory
 */

/* The page at @p is in a pipe, that of a process which wants to read or splice it. */
struct piped {
	int fd[2];
};

int pipe_page(struct piped *pipe, const void *p);
void unpipe_page(struct piped *pipe);

/* Pages that /sys/kernel/debug/gup_test pins; -1 without that file */
int gup_test_open(void);
int gup_test_pin(int fd, const void *p, u64 size, bool fast);
/* Read what is pinned, by the kernel's own mapping. */
int gup_test_read(int fd, void *buf);
int gup_test_unpin(int fd);
/* Have get_user_pages_fast() take and drop references: the error, or 0. */
int gup_test_fast(int fd, const void *p, u64 size, bool pin);

/* An io_uring with room for a few requests; the functions return an error, or 0. */
struct uring {
	int fd;
	unsigned int *sq_tail, *sq_mask, *sq_array;
	unsigned int *cq_head, *cq_mask;
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqes;
	void *ring;
	size_t ring_size, sqes_size;
};

int uring_setup(struct uring *ring);
void uring_free(struct uring *ring);
int uring_register(struct uring *ring, void *p, size_t size);
int uring_unregister(struct uring *ring);
int uring_submit(struct uring *ring, int op, int fd, void *p, unsigned int len);
/* The result of the next request that is done, negative for an error */
int uring_wait(struct uring *ring);
/* Both of them, for one request */
int uring_do(struct uring *ring, int op, int fd, void *p, unsigned int len);

/*
 * Why there is no TCP connection by the loopback device, NULL if there is one: from
 * pair[1], which may send without a copy, to pair[0].
 */
const char *tcp_connect(int pair[2]);
/*
 * Fill the way from pair[1] to pair[0], so that what is sent next stays in the queue of
 * the sender until all before it is received.  The loopback device would have it copied.
 */
int tcp_fill(int pair[2], long *filled);
/* Receive what that has sent. */
int tcp_drain(int pair[2], long filled);
/* Wait until the kernel says that it is done with what was sent: an error, or 0. */
int tcp_complete(int fd);

/*
 * Why there is no /dev/nullb0 that keeps what is written to it, NULL if there is one.
 * It is opened for direct I/O; @buf is a page to try it with.
 */
const char *nullb_open(int *fd, char *buf);

/*
 * Two more slots behind the window: one with private memory in a file and shared
 * memory elsewhere, and one of another file that converts.  All is shared.
 */
struct three_slots {
	struct conv *c;
	int fd;
	int other_fd;
	char *other;
};

#define AT_STORES	WINDOW
#define AT_OTHER	(AT_STORES + SZ_2M)
#define OTHER_SIZE	SZ_2M
#define THREE_SIZE	(AT_OTHER + OTHER_SIZE)

/* The guest marks all of it with a seed. */
void three_slots_setup(struct three_slots *t, struct conv *c, u64 seed);
void three_slots_free(struct three_slots *t);

/* Is all of it shared, and as it was marked?  The guest says so, too. */
bool three_slots_shared(struct three_slots *t, u64 seed);

/*
 * A thread that does the same again and again: fn(arg) returns true to go on.
 */
struct looper {
	bool (*fn)(void *arg);
	void *arg;
	bool stop;
	long rounds;
	pthread_t thread;
};

void start_loop(struct looper *l, bool (*fn)(void *arg), void *arg);
void stop_loop(struct looper *l);

/*
 * For start_loop(): a vCPU that carries its command out.  KVM says that there is no
 * such memory if an access meets a conversion of its page; the vCPU tries it again.
 */
bool loop_vcpu(void *vcpu);

#endif /* SELFTEST_KVM_GUEST_MEMFD_CONVERSIONS_H */
