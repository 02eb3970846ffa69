// SPDX-License-Identifier: GPL-2.0
/*
 * Tests that a guest_memfd gets the huge pages that it has reserved, whatever else
 * goes on: a page that is on its way back to the pool, memory blocks that are
 * taken offline, pages of the pool that cannot be lent, and other users of it.
 *
 * A file is created with all of its pages or not at all.  Once it is there,
 * populating it never fails.
 *
 * Needs root, and the pools to itself: it resizes them.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/kernel-page-flags.h>
#include <linux/sizes.h>

#include "guest_memfd_util.h"
#include "kvm_util.h"
#include "kvm_test_harness.h"
#include "numaif.h"
#include "test_util.h"

/* Seconds.  A debug kernel on an emulated CPU takes its time. */
#define TIMEOUT		600
/* For what takes no time if it is done at all; also seconds */
#define PATIENCE	60

#define MEMORY		"/sys/devices/system/memory"
#define MAX_BLOCKS	1024

/* Shared with the parent, which undoes what the test has changed */
FIXTURE(reserved)
{
	struct gmem g;
	pid_t offliner;
	int block;		/* that it takes offline */
	long movable;		/* sysctl vm.movable_gigantic_pages */
};

#define reserved_data FIXTURE_DATA(reserved)

FIXTURE_VARIANT(reserved)
{
	unsigned int page_shift;
	unsigned int vm_type;
};

FIXTURE_VARIANT_ADD(reserved, default_2m)
{
	.page_shift = 21,
	.vm_type = KVM_X86_DEFAULT_VM,
};

FIXTURE_VARIANT_ADD(reserved, sw_protected_2m)
{
	.page_shift = 21,
	.vm_type = KVM_X86_SW_PROTECTED_VM,
};

FIXTURE_VARIANT_ADD(reserved, default_1g)
{
	.page_shift = 30,
	.vm_type = KVM_X86_DEFAULT_VM,
};

/* Resizing does what it can before it returns, and does not say what it could. */
static bool set_pool(size_t page_size, long nr)
{
	struct pool_count now;

	if (!resize_pool(page_size, -1, nr))
		return false;
	read_pool(page_size, &now);
	return now.nr == nr && now.free == nr && !now.resv && !now.surplus;
}

FIXTURE_SETUP(reserved)
{
	const char *reason;

	self->block = -1;
	self->movable = -1;
	if (geteuid())
		SKIP(return, "needs root");
	reason = gmem_setup(&self->g, variant->page_shift, variant->vm_type, 0);
	if (reason)
		SKIP(return, "%s", reason);
	if (self->g.avail != self->g.before.nr || self->g.before.surplus)
		SKIP(return, "the pool is in use");
}

static void stop_offliner(reserved_data *self)
{
	char dir[64];

	if (self->offliner > 0) {
		kill(self->offliner, SIGKILL);
		waitpid(self->offliner, NULL, 0);
		self->offliner = 0;
	}
	if (self->block >= 0) {
		snprintf(dir, sizeof(dir), MEMORY "/memory%d", self->block);
		cg_write(dir, "state", "online");
		self->block = -1;
	}
}

/* Runs when the process that ran the test is gone, whatever ended it. */
FIXTURE_TEARDOWN_PARENT(reserved)
{
	if (self->offliner > 0)
		kill(self->offliner, SIGKILL);
	self->offliner = 0;
	stop_offliner(self);
	if (self->movable >= 0)
		cg_write_numeric("/proc/sys/vm", "movable_gigantic_pages",
				 self->movable);
	restore_pool(self->g.page_size, &self->g.before);
	EXPECT_TRUE(pool_same_soon(self->g.page_size, &self->g.before));
}

static int touch_all(struct gmem *g, long nr_pages)
{
	long page;
	int r;

	for (page = 0; page < nr_pages; page++) {
		r = gmem_touch(g, page);
		if (r)
			return r;
	}
	return 0;
}

/*
 * Pages that are on their way back
 */

static void bind_to_node(int node)
{
	unsigned long mask = BIT(node);

	kvm_set_mempolicy(MPOL_BIND, &mask, BITS_PER_LONG);
}

static long now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

/*
 * In each round a thread punches the first page, a few times, while the other
 * task populates it.  Then it stops: if it did not, the guest might never get a
 * page mapped before that is punched.
 */
struct puncher {
	struct gmem *g;
	int fd;
	long us;		/* that populating takes, at least */
	long round;		/* that the other task has begun */
	long punched;		/* the last round with a punched page */
	long called;		/* the last one in which the other task populates */
	bool populating;	/* it still does */
	long over;		/* the last round that is over */
	long overlaps;		/* pages punched while it did */
	int error;
	bool stop;
};

static void punch_once(struct puncher *p)
{
	bool populating = READ_ONCE(p->populating);
	int r = gmem_punch(p->g, p->fd, 0, 1);

	if (r)
		WRITE_ONCE(p->error, r);
	p->overlaps += populating && READ_ONCE(p->populating);
}

static void punch_in_round(struct puncher *p, long round)
{
	const int nr = p->g->page_size == SZ_1G ? 1 : 3;
	long until;
	int i;

	punch_once(p);
	WRITE_ONCE(p->punched, round);
	while (READ_ONCE(p->called) != round)
		sched_yield();
	/* At once, and at any other point of what the other task does */
	for (i = 0; i < nr; i++) {
		until = now_us() + READ_ONCE(p->us) * ((5 * i + 3 * (round - 1)) % 8) / 8;
		while (now_us() < until)
			;
		punch_once(p);
	}
	WRITE_ONCE(p->over, round);
}

static void *punch(void *arg)
{
	struct puncher *p = arg;
	long round;

	bind_to_node(0);
	while (!READ_ONCE(p->stop)) {
		round = READ_ONCE(p->round);
		if (round != p->over)
			punch_in_round(p, round);
		else
			sched_yield();
	}
	return NULL;
}

static int populate(struct puncher *p, bool guest)
{
	return guest ? gmem_touch(p->g, 0) : gmem_populate(p->g, p->fd, 0, 1);
}

/*
 * A page of each of two nodes belongs to the file, and both tasks may use node 0
 * only.  The one that populates therefore has to get the very page that the other
 * one has just punched.
 */
static void race_for_page(struct __test_metadata *_metadata, struct gmem *g,
			  bool guest, long rounds)
{
	struct puncher p = { .g = g };
	struct pool_count now;
	pthread_t thread;
	long start;
	int r = 0;

	if (g->before.node[1].nr < 0)
		SKIP(return, "needs 2 nodes");
	restore_pool(g->page_size, &(struct pool_count) {
		.node = { { .nr = 1 }, { .nr = 1 }, { .nr = -1 } } });
	read_pool(g->page_size, &now);
	if (now.node[0].free != 1 || now.node[1].free != 1)
		SKIP(return, "no memory for a huge page on each node");

	p.fd = gmem_create(g, 2);
	gmem_bind(g, p.fd, 2);
	bind_to_node(0);
	start = now_us();
	ASSERT_EQ(0, populate(&p, guest));
	p.us = now_us() - start;

	ASSERT_EQ(0, pthread_create(&thread, NULL, punch, &p));
	while (p.round < rounds && !r) {
		WRITE_ONCE(p.round, p.round + 1);
		while (READ_ONCE(p.punched) != p.round)
			sched_yield();
		start = now_us();
		WRITE_ONCE(p.populating, true);
		WRITE_ONCE(p.called, p.round);
		r = populate(&p, guest);
		WRITE_ONCE(p.populating, false);
		WRITE_ONCE(p.us, min_t(long, p.us, now_us() - start));
		while (READ_ONCE(p.over) != p.round)
			sched_yield();
	}
	WRITE_ONCE(p.stop, true);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(0, r)
		ksft_print_msg("populating failed in round %ld\n", p.round);
	EXPECT_EQ(0, p.error);
	ksft_print_msg("%ld punches met a task that populates, in %ld rounds of %ld us\n",
		       p.overlaps, p.round, p.us);
	EXPECT_LT(0, p.overlaps);

	/* Nothing was lost. */
	EXPECT_EQ(0, gmem_populate(g, p.fd, 0, 1));
	EXPECT_TRUE(pool_is_soon(g->page_size, 2, 1, 1, 0));
	gmem_unbind(g);
	close(p.fd);
	EXPECT_TRUE(pool_is_soon(g->page_size, 2, 2, 0, 0));
}

TEST_F_TIMEOUT(reserved, fallocate_races_punch, TIMEOUT)
{
	race_for_page(_metadata, &self->g, false,
		      variant->page_shift == 30 ? 3 : 1000);
}

TEST_F_TIMEOUT(reserved, guest_races_punch, TIMEOUT)
{
	race_for_page(_metadata, &self->g, true,
		      variant->page_shift == 30 ? 3 : 500);
}

/* A file can be created of the pages that another one has just given up. */
TEST_F_TIMEOUT(reserved, create_after_close, TIMEOUT)
{
	const long nr = variant->page_shift == 30 ? 1 : 8;
	int i, fd;

	if (!set_pool(self->g.page_size, nr))
		SKIP(return, "no memory for %ld huge pages", nr);

	for (i = 0; i < (variant->page_shift == 30 ? 2 : 100); i++) {
		fd = __vm_create_guest_memfd(self->g.vm, nr * self->g.page_size,
					     self->g.flags);
		ASSERT_LE(0, fd)
			ksft_print_msg("creating file %d failed: %s\n", i,
				       strerror(errno));
		ASSERT_EQ(0, gmem_populate(&self->g, fd, 0, nr));
		close(fd);
	}
}

/*
 * Memory blocks
 */

static size_t block_size(void)
{
	static size_t size;
	char text[32] = "";

	/* In hexadecimal */
	if (!size && !cg_read(MEMORY, "block_size_bytes", text, sizeof(text)))
		size = strtoul(text, NULL, 16);
	return size;
}

static bool block_is_movable(int block)
{
	char dir[96], zone[64];

	snprintf(dir, sizeof(dir), MEMORY "/memory%d", block);
	return !cg_read(dir, "valid_zones", zone, sizeof(zone)) &&
	       !strncmp(zone, "Movable", 7);
}

static bool have_movable(void)
{
	int block;

	for (block = 0; block < MAX_BLOCKS; block++)
		if (block_is_movable(block))
			return true;
	return false;
}

static u64 page_flags(int kpageflags, u64 pfn)
{
	u64 flags;

	if (pread(kpageflags, &flags, sizeof(flags), pfn * sizeof(flags)) !=
	    sizeof(flags))
		return 0;
	return flags;
}

/* How many pages of HugeTLB begin in a block? */
static long nr_huge_in_block(int block, size_t page_size)
{
	const u64 want = BIT(KPF_HUGE) | BIT(KPF_COMPOUND_HEAD);
	u64 pfn, end = (block + 1) * block_size() / SZ_4K;
	int fd = open("/proc/kpageflags", O_RDONLY);
	long nr = 0;

	TEST_ASSERT(fd >= 0, "no /proc/kpageflags");
	for (pfn = block * block_size() / SZ_4K; pfn < end; pfn += page_size / SZ_4K)
		nr += (page_flags(fd, pfn) & want) == want;
	close(fd);
	return nr;
}

/* Of pages of 2M, which are smaller than blocks */
static long nr_huge_movable(size_t page_size)
{
	long nr = 0;
	int block;

	for (block = 0; block < MAX_BLOCKS; block++)
		if (block_is_movable(block))
			nr += nr_huge_in_block(block, page_size);
	return nr;
}

/* Blocks of any zone that are isolated: the last column of that table */
static long nr_isolated(void)
{
	bool found = false;
	char line[512], *p;
	long nr = 0;
	FILE *f;

	f = fopen("/proc/pagetypeinfo", "r");
	TEST_ASSERT(f, "no /proc/pagetypeinfo");
	while (fgets(line, sizeof(line), f)) {
		if (strstr(line, "Number of blocks type")) {
			found = strstr(line, "Isolate");
		} else if (found && !strncmp(line, "Node", 4)) {
			line[strcspn(line, "\n")] = 0;
			for (p = line + strlen(line); p > line && p[-1] == ' '; )
				*--p = 0;
			p = strrchr(line, ' ');
			nr += p ? atol(p) : 0;
		}
	}
	fclose(f);
	return nr;
}

/* Have a child try to take a block offline until it succeeds, fails or is killed. */
static void start_offliner(reserved_data *self, int block)
{
	char dir[64];
	pid_t pid;

	self->block = block;
	pid = fork();
	TEST_ASSERT(pid >= 0, "fork() failed");
	if (pid) {
		self->offliner = pid;
		return;
	}

	snprintf(dir, sizeof(dir), MEMORY "/memory%d", block);
	_exit(-cg_write(dir, "state", "offline"));
}

static bool offliner_runs(reserved_data *self)
{
	int status;

	if (!self->offliner)
		return false;
	if (waitpid(self->offliner, &status, WNOHANG) != self->offliner)
		return true;
	self->offliner = 0;
	return false;
}

static bool wait_for_isolation(reserved_data *self)
{
	while (offliner_runs(self))
		if (nr_isolated() > 0)
			return true;
	return false;
}

/*
 * Keep a page of each movable block, as far as one can be had, in a pipe.  It can
 * be isolated, but not migrated, so that taking the block offline does not end.
 */
static void hold_pages(bool *held)
{
	const size_t size = SZ_512M;
	int pagemap = open("/proc/self/pagemap", O_RDONLY);
	bool asked[MAX_BLOCKS] = {};
	u64 entries[512];
	int pipefd[2], block;
	char *mem, *p;
	int i;

	TEST_ASSERT(pagemap >= 0, "no /proc/self/pagemap");
	mem = mmap(NULL, size, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	TEST_ASSERT(mem != MAP_FAILED, "mmap() failed");
	madvise(mem, size, MADV_NOHUGEPAGE);

	for (p = mem; p < mem + size; p += ARRAY_SIZE(entries) * SZ_4K) {
		TEST_ASSERT(!madvise(p, ARRAY_SIZE(entries) * SZ_4K, MADV_POPULATE_WRITE),
			    "MADV_POPULATE_WRITE failed");
		TEST_ASSERT(pread(pagemap, entries, sizeof(entries),
				  (uintptr_t)p / SZ_4K * sizeof(u64)) == sizeof(entries),
			    "cannot read the pagemap");
		for (i = 0; i < ARRAY_SIZE(entries); i++) {
			struct iovec iov = { p + i * SZ_4K, SZ_4K };

			block = (entries[i] & (BIT_ULL(55) - 1)) * SZ_4K / block_size();
			if (!block || block >= MAX_BLOCKS || asked[block])
				continue;
			asked[block] = true;
			if (!block_is_movable(block))
				continue;
			TEST_ASSERT(!pipe(pipefd), "pipe() failed");
			TEST_ASSERT(vmsplice(pipefd[1], &iov, 1, 0) == SZ_4K,
				    "vmsplice() failed");
			held[block] = true;
		}
	}
	munmap(mem, size);
	close(pagemap);
}

/* Make a pool of @nr pages, of 2M but for one test, some of which are in ZONE_MOVABLE. */
static const char *movable_pool(reserved_data *self, long nr)
{
	if (!have_movable())
		return "no memory in ZONE_MOVABLE";
	/* For pages of 1G it has to be allowed. */
	if (self->g.page_size == SZ_1G) {
		self->movable = cg_read_long("/proc/sys/vm", "movable_gigantic_pages");
		if (self->movable < 0 ||
		    cg_write("/proc/sys/vm", "movable_gigantic_pages", "1"))
			return "no movable pages of 1G";
	}
	if (!resize_pool(self->g.page_size, -1, 0) ||
	    !set_pool(self->g.page_size, nr))
		return "no memory for the huge pages";
	if (!nr_huge_movable(self->g.page_size))
		return "no huge page of the pool is in ZONE_MOVABLE";
	return NULL;
}

/* All pages of the pool may be where none can be lent. */
TEST_F_TIMEOUT(reserved, all_movable, TIMEOUT)
{
	const long nr = variant->page_shift == 30 ? 1 : 100;
	const char *reason = movable_pool(self, nr);
	struct pool_count before;
	int fd;

	if (reason)
		SKIP(return, "%s", reason);

	/* The file has them exchanged for others, and no count is changed. */
	read_pool(self->g.page_size, &before);
	fd = gmem_create(&self->g, nr);
	EXPECT_EQ(0, nr_huge_movable(self->g.page_size));
	before.resv = nr;
	EXPECT_TRUE(pool_same_soon(self->g.page_size, &before));
	EXPECT_EQ(ENOMEM, gmem_create_errno(&self->g, 1));

	gmem_bind(&self->g, fd, nr);
	EXPECT_EQ(0, gmem_populate(&self->g, fd, 0, (nr + 1) / 2));
	EXPECT_EQ(0, touch_all(&self->g, nr));
	EXPECT_TRUE(pool_is_soon(self->g.page_size, nr, 0, 0, 0));
	EXPECT_EQ(0, gmem_punch(&self->g, fd, 0, nr));
	EXPECT_TRUE(pool_same_soon(self->g.page_size, &before));
	EXPECT_EQ(0, touch_all(&self->g, nr));

	gmem_unbind(&self->g);
	close(fd);
	before.resv = 0;
	EXPECT_TRUE(pool_same_soon(self->g.page_size, &before));
}

/* A block that pages of the pool were in is being taken offline all the time. */
TEST_F_TIMEOUT(reserved, all_movable_offlining, TIMEOUT)
{
	static bool held[MAX_BLOCKS];
	const char *reason;
	int fd, i, block = -1;
	const long nr = 200;
	long n, most = 0;

	if (variant->page_shift != 21)
		SKIP(return, "for pages of 2M");
	if (!have_movable())
		SKIP(return, "no memory in ZONE_MOVABLE");
	hold_pages(held);
	reason = movable_pool(self, nr);
	if (reason)
		SKIP(return, "%s", reason);
	for (i = 0; i < MAX_BLOCKS; i++) {
		n = held[i] ? nr_huge_in_block(i, self->g.page_size) : 0;
		if (n > most) {
			most = n;
			block = i;
		}
	}
	if (block < 0)
		SKIP(return, "no block has pages of the pool and others");

	fd = gmem_create(&self->g, nr);
	gmem_bind(&self->g, fd, nr);
	start_offliner(self, block);
	ASSERT_TRUE(wait_for_isolation(self));

	EXPECT_EQ(0, gmem_populate(&self->g, fd, 0, nr / 2));
	EXPECT_EQ(0, touch_all(&self->g, nr));
	EXPECT_TRUE(pool_is_soon(self->g.page_size, nr, 0, 0, 0));
	EXPECT_EQ(0, gmem_punch(&self->g, fd, 0, nr));
	EXPECT_EQ(0, gmem_populate(&self->g, fd, 0, nr));
	EXPECT_TRUE(offliner_runs(self))
		ksft_print_msg("taking the block offline has ended before\n");
	stop_offliner(self);

	gmem_unbind(&self->g);
	close(fd);
	EXPECT_TRUE(pool_is_soon(self->g.page_size, nr, nr, 0, 0));
}

/* More than there is memory for: all or none, and never at the time of use. */
TEST_F_TIMEOUT(reserved, more_than_lendable, TIMEOUT)
{
	long nr, kb = cg_read_key_long("/proc", "meminfo", "MemFree:");
	struct pool_count before;
	const char *reason;

	if (variant->page_shift != 21)
		SKIP(return, "for pages of 2M");
	/* Leave some for others, but too little to exchange the movable ones. */
	reason = movable_pool(self, kb / 8 * 7 / (self->g.page_size >> 10));
	if (reason)
		SKIP(return, "%s", reason);

	read_pool(self->g.page_size, &before);
	nr = before.nr;
	EXPECT_EQ(ENOMEM, gmem_create_errno(&self->g, nr));
	EXPECT_TRUE(pool_same_soon(self->g.page_size, &before));
}

static void *map_hugetlb(size_t size, int flags)
{
	return mmap(NULL, size, PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB |
		    21 << MAP_HUGE_SHIFT | flags, -1, 0);
}

/* In a child, which may get a SIGBUS instead.  Returns how many it could touch. */
static long touch_hugetlb(size_t page_size, char *mem, long nr_pages)
{
	int status, pipefd[2];
	long i, nr = 0;
	pid_t pid;

	TEST_ASSERT(!pipe(pipefd), "pipe() failed");
	pid = fork();
	TEST_ASSERT(pid >= 0, "fork() failed");
	if (!pid) {
		signal(SIGBUS, SIG_DFL);
		for (i = 0; i < nr_pages; i++) {
			WRITE_ONCE(*(char *)(mem + i * page_size), 1);
			if (write(pipefd[1], &i, 1) != 1)
				_exit(1);
		}
		_exit(0);
	}
	close(pipefd[1]);
	waitpid(pid, &status, 0);
	while (read(pipefd[0], &status, 1) == 1)
		nr++;
	close(pipefd[0]);
	return nr;
}

/*
 * Some pages of the pool can be lent, the others cannot.  The former are promised
 * to the file: other users get the latter, and nothing takes the former away.
 */
static const char *mixed_pool(reserved_data *self, long nr, long nr_lendable)
{
	const char *reason;
	int fd;

	if (self->g.page_size != SZ_2M)
		return "for pages of 2M";
	reason = movable_pool(self, nr);
	if (reason)
		return reason;

	/* The pages that are exchanged for a file stay. */
	fd = gmem_create(&self->g, nr_lendable);
	close(fd);
	pool_is_soon(self->g.page_size, nr, nr, 0, 0);
	return nr_huge_movable(self->g.page_size) ? NULL :
		"no huge page of the pool is in ZONE_MOVABLE";
}

TEST_F_TIMEOUT(reserved, hugetlbfs_takes_the_others, TIMEOUT)
{
	const long nr = 40, lendable = 16;
	const char *reason = mixed_pool(self, nr, lendable);
	char *mem;
	long n;
	int fd;

	if (reason)
		SKIP(return, "%s", reason);

	n = nr - lendable;
	fd = gmem_create(&self->g, lendable);
	EXPECT_TRUE(pool_is_soon(self->g.page_size, nr, nr, lendable, 0));
	EXPECT_EQ(MAP_FAILED, map_hugetlb((n + 1) * self->g.page_size, 0));

	/* Without a reservation it takes what it can get. */
	mem = map_hugetlb(nr * self->g.page_size, MAP_NORESERVE);
	ASSERT_NE(MAP_FAILED, mem);
	EXPECT_EQ(n, touch_hugetlb(self->g.page_size, mem, nr));
	EXPECT_TRUE(pool_is_soon(self->g.page_size, nr, lendable, lendable, 0));
	gmem_bind(&self->g, fd, lendable);
	EXPECT_EQ(0, touch_all(&self->g, lendable));
	EXPECT_TRUE(pool_is_soon(self->g.page_size, nr, 0, 0, 0));
	munmap(mem, nr * self->g.page_size);
	EXPECT_TRUE(pool_is_soon(self->g.page_size, nr, n, 0, 0));

	/* With one, each gets its own, in any order. */
	EXPECT_EQ(0, gmem_punch(&self->g, fd, 0, lendable));
	EXPECT_TRUE(pool_is_soon(self->g.page_size, nr, nr, lendable, 0));
	mem = map_hugetlb(n * self->g.page_size, 0);
	ASSERT_NE(MAP_FAILED, mem);
	EXPECT_TRUE(pool_is_soon(self->g.page_size, nr, nr, nr, 0));
	EXPECT_EQ(0, gmem_populate(&self->g, fd, 0, lendable / 2));
	EXPECT_EQ(n, touch_hugetlb(self->g.page_size, mem, n));
	EXPECT_EQ(0, touch_all(&self->g, lendable));
	EXPECT_TRUE(pool_is_soon(self->g.page_size, nr, 0, 0, 0));
	munmap(mem, n * self->g.page_size);

	gmem_unbind(&self->g);
	close(fd);
	EXPECT_TRUE(pool_is_soon(self->g.page_size, nr, nr, 0, 0));
}

/* A pool that shrinks loses the pages that cannot be lent. */
TEST_F_TIMEOUT(reserved, shrink_keeps_lendable, TIMEOUT)
{
	const long nr = 40, lendable = 16;
	const char *reason = mixed_pool(self, nr, lendable);
	int fd;

	if (reason)
		SKIP(return, "%s", reason);

	fd = gmem_create(&self->g, lendable);
	gmem_bind(&self->g, fd, lendable);
	ASSERT_TRUE(resize_pool(self->g.page_size, -1, lendable + 2));
	EXPECT_TRUE(pool_is_soon(self->g.page_size, lendable + 2, lendable + 2,
				 lendable, 0));
	ASSERT_TRUE(resize_pool(self->g.page_size, -1, 0));
	EXPECT_TRUE(pool_is_soon(self->g.page_size, lendable, lendable, lendable,
				 lendable));
	EXPECT_EQ(0, nr_huge_movable(self->g.page_size));

	EXPECT_EQ(0, touch_all(&self->g, lendable));
	EXPECT_EQ(0, gmem_punch(&self->g, fd, 0, lendable));
	EXPECT_TRUE(pool_is_soon(self->g.page_size, lendable, lendable, lendable,
				 lendable));
	EXPECT_EQ(0, gmem_populate(&self->g, fd, 0, lendable));

	gmem_unbind(&self->g);
	close(fd);
	EXPECT_TRUE(pool_is_soon(self->g.page_size, 0, 0, 0, 0));
}

/* Taking memory offline dissolves free pages, but none that is promised. */
TEST_F_TIMEOUT(reserved, offline_keeps_promised, TIMEOUT)
{
	const long nr = 40, lendable = 40;
	const char *reason;
	int block, fd;

	if (variant->page_shift != 21)
		SKIP(return, "for pages of 2M");
	reason = movable_pool(self, nr);
	if (reason)
		SKIP(return, "%s", reason);

	fd = gmem_create(&self->g, lendable);
	gmem_bind(&self->g, fd, lendable);
	for (block = 0; block < MAX_BLOCKS; block++) {
		if (!nr_huge_in_block(block, self->g.page_size))
			continue;
		start_offliner(self, block);
		while (offliner_runs(self))
			usleep(1000);
		stop_offliner(self);
	}
	EXPECT_TRUE(pool_is_soon(self->g.page_size, nr, nr, nr, 0));
	EXPECT_EQ(0, touch_all(&self->g, lendable));
	gmem_unbind(&self->g);
	close(fd);
}

/*
 * Taking memory offline that is lent
 */

/* The blocks that lie in a free page of 1G, but for its first one */
static int inner_blocks(int *blocks, int max)
{
	const u64 head = BIT(KPF_HUGE) | BIT(KPF_COMPOUND_HEAD);
	int fd = open("/proc/kpageflags", O_RDONLY);
	size_t offset;
	int nr = 0;
	u64 addr;

	TEST_ASSERT(fd >= 0, "no /proc/kpageflags");
	for (addr = 0; addr < MAX_BLOCKS * (u64)block_size(); addr += SZ_1G) {
		/* The second 2M of a page of 2M would be a head, too. */
		if ((page_flags(fd, addr / SZ_4K) & head) != head ||
		    (page_flags(fd, (addr + SZ_2M) / SZ_4K) & head) != BIT(KPF_HUGE))
			continue;
		for (offset = block_size(); offset < SZ_1G && nr < max;
		     offset += block_size())
			blocks[nr++] = (addr + offset) / block_size();
	}
	close(fd);
	return nr;
}

/*
 * An attempt that has isolated a block while the page was free ends when it meets
 * the page lent.  It does not go on until the page comes back.
 */
TEST_F_TIMEOUT(reserved, offline_lent, TIMEOUT)
{
	const int enough = 5;
	int blocks[64], nr, i, seen = 0, fd;
	double waited;

	if (variant->page_shift != 30 || !block_size() || block_size() >= SZ_1G)
		SKIP(return, "for pages that are larger than a memory block");
	if (self->g.before.free < 1)
		SKIP(return, "needs a free page of 1G");

	nr = inner_blocks(blocks, ARRAY_SIZE(blocks));
	ASSERT_LT(0, nr);
	fd = gmem_create(&self->g, self->g.before.free);

	/* Until enough attempts had isolated a block before the page was lent */
	for (i = 0; seen < enough; i++) {
		struct timespec start, now;
		bool isolated;

		start_offliner(self, blocks[i % nr]);
		isolated = wait_for_isolation(self);
		ASSERT_EQ(0, gmem_populate(&self->g, fd, 0, self->g.before.free));
		seen += isolated;

		clock_gettime(CLOCK_MONOTONIC, &start);
		do {
			usleep(1000);
			clock_gettime(CLOCK_MONOTONIC, &now);
			waited = now.tv_sec - start.tv_sec +
				 (now.tv_nsec - start.tv_nsec) / 1e9;
		} while (offliner_runs(self) && waited < PATIENCE);
		ASSERT_EQ(0, self->offliner)
			ksft_print_msg("offlining block %d goes on while the page is lent\n",
				       blocks[i % nr]);
		stop_offliner(self);

		ASSERT_EQ(0, gmem_punch(&self->g, fd, 0, self->g.before.free));
	}
	ksft_print_msg("%d attempts, %d of them had isolated a block\n", i, seen);
	close(fd);
}

/* Nor does one begin. */
TEST_F_TIMEOUT(reserved, offline_refused, TIMEOUT)
{
	int blocks[64], nr, i, fd, status;

	if (variant->page_shift != 30 || !block_size() || block_size() >= SZ_1G)
		SKIP(return, "for pages that are larger than a memory block");
	if (self->g.before.free < 1)
		SKIP(return, "needs a free page of 1G");

	nr = inner_blocks(blocks, ARRAY_SIZE(blocks));
	fd = gmem_create(&self->g, self->g.before.free);
	ASSERT_EQ(0, gmem_populate(&self->g, fd, 0, self->g.before.free));
	for (i = 0; i < nr; i++) {
		start_offliner(self, blocks[i]);
		ASSERT_EQ(self->offliner, waitpid(self->offliner, &status, 0));
		EXPECT_EQ(EBUSY, WEXITSTATUS(status));
		self->offliner = 0;
		stop_offliner(self);
	}
	close(fd);
}

TEST_HARNESS_MAIN
