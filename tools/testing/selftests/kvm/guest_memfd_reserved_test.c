// SPDX-License-Identifier: GPL-2.0
/*
 * Tests that a guest_memfd gets the huge pages that it has reserved, whatever else
 * goes on: a page that is on its way back to the pool, memory blocks that are
 * taken offline, pages of the pool that cannot be lent, and other users of it.
 *
 * A file is created with all of its pages or not at all.  Once it is there,
 * populating it never fails.
 *
 * Needs root, and nobody else may use the pools.  The tests resize them.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/falloc.h>
#include <linux/kernel-page-flags.h>
#include <linux/sizes.h>

#include "kvm_util.h"
#include "kvm_test_harness.h"
#include "guest_visitor.h"
#include "hugetlb_pool.h"
#include "numaif.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define TEST_SLOT	10
/* Seconds.  A debug kernel on an emulated CPU takes its time. */
#define TIMEOUT		600
/* For what takes no time if it is done at all; also seconds */
#define PATIENCE	60
/* What is mapped for the guest, and the room for memory in userspace */
#define GUEST_SIZE	(4ULL * SZ_1G)

#define MEMORY		"/sys/devices/system/memory"
#define MAX_BLOCKS	1024

/* Shared with the parent, which undoes what the test has changed */
FIXTURE(reserved)
{
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	struct pool_count before;
	size_t page_size;
	u64 flags;
	bool private;
	void *hva;
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

/* Of one node, or of all of them if that is negative */
static bool resize_pool(size_t page_size, int node, long nr)
{
	char dir[128], str[32];

	if (node < 0)
		snprintf(dir, sizeof(dir), "/sys/kernel/mm/hugepages/hugepages-%zukB",
			 page_size >> 10);
	else
		snprintf(dir, sizeof(dir),
			 "/sys/devices/system/node/node%d/hugepages/hugepages-%zukB",
			 node, page_size >> 10);
	snprintf(str, sizeof(str), "%ld", nr);
	return write_string(dir, "nr_hugepages", str);
}

/* Resizing does what it can before it returns, and does not say what it could. */
static bool set_pool(size_t page_size, long nr)
{
	struct pool_count now;

	if (!resize_pool(page_size, -1, nr))
		return false;
	read_pool(page_size, &now);
	return now.nr == nr && now.free == nr && !now.resv && !now.surplus;
}

static void restore_pool(size_t page_size, const struct pool_count *p)
{
	int i;

	for (i = 0; i < MAX_NODES && p->node[i].nr >= 0; i++)
		resize_pool(page_size, i, p->node[i].nr);
}

/* What is put comes back to its pool soon, but not at once. */
static bool pool_is(size_t page_size, const struct pool_count *want)
{
	struct pool_count now;
	int i;

	for (i = 0; i < PATIENCE * 100; i++) {
		read_pool(page_size, &now);
		if (!memcmp(want, &now, sizeof(now)))
			return true;
		usleep(10000);
	}
	print_pool("want", want);
	print_pool("have", &now);
	return false;
}

static bool wait_for_pool(size_t page_size, long nr, long free, long resv,
			  long surplus)
{
	struct pool_count now;
	int i;

	for (i = 0; i < PATIENCE * 100; i++) {
		read_pool(page_size, &now);
		if (now.nr == nr && now.free == free && now.resv == resv &&
		    now.surplus == surplus)
			return true;
		usleep(10000);
	}
	print_pool("have", &now);
	return false;
}

FIXTURE_SETUP(reserved)
{
	struct vm_shape shape = {
		.mode = VM_MODE_DEFAULT,
		.type = variant->vm_type,
	};

	self->page_size = 1UL << variant->page_shift;
	self->block = -1;
	self->movable = -1;
	read_pool(self->page_size, &self->before);
	if (!(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(variant->vm_type)))
		SKIP(return, "no VMs of that type");
	if (!(kvm_check_cap(KVM_CAP_GUEST_MEMFD_HUGETLB) &
	      BIT(variant->page_shift - 12)))
		SKIP(return, "no huge pages of that size");
	if (geteuid())
		SKIP(return, "needs root");
	if (self->before.resv || self->before.surplus ||
	    self->before.free != self->before.nr)
		SKIP(return, "the pool is in use");

	self->flags = hugetlb_flags(variant->page_shift);
	self->private = variant->vm_type == KVM_X86_SW_PROTECTED_VM;
	if (!self->private)
		self->flags |= GUEST_MEMFD_FLAG_MMAP;

	self->vm = __vm_create_with_vcpus(shape, 1, 0, guest_code, &self->vcpu);
	self->hva = mmap(NULL, GUEST_SIZE + SZ_1G, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ASSERT_NE(MAP_FAILED, self->hva);
	self->hva = align_ptr_up(self->hva, SZ_1G);
	virt_map_level(self->vm, TEST_GPA, TEST_GPA, GUEST_SIZE, PG_LEVEL_1G);
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
		write_string(dir, "state", "online");
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
		write_string("/proc/sys/vm", "movable_gigantic_pages",
			     self->movable ? "1" : "0");
	restore_pool(self->page_size, &self->before);
	EXPECT_TRUE(pool_is(self->page_size, &self->before));
}

static int create_file(reserved_data *self, long nr_pages)
{
	return vm_create_guest_memfd(self->vm, nr_pages * self->page_size,
				     self->flags);
}

/* The error of creating a file, 0 if it was created (and is closed again) */
static int create_errno(reserved_data *self, long nr_pages)
{
	int fd = __vm_create_guest_memfd(self->vm, nr_pages * self->page_size,
					 self->flags);

	if (fd < 0)
		return errno;

	close(fd);
	return 0;
}

static void bind_file(reserved_data *self, int fd, long nr_pages)
{
	const u64 size = nr_pages * self->page_size;

	vm_set_user_memory_region2(self->vm, TEST_SLOT, KVM_MEM_GUEST_MEMFD,
				   TEST_GPA, size, self->hva, fd, 0);
	if (self->private)
		vm_mem_set_private(self->vm, TEST_GPA, size);
}

static void unbind_file(reserved_data *self)
{
	vm_set_user_memory_region2(self->vm, TEST_SLOT, KVM_MEM_GUEST_MEMFD,
				   0, 0, NULL, -1, 0);
}

static int fallocate_errno(reserved_data *self, int fd, long page, long nr_pages)
{
	if (fallocate(fd, FALLOC_FL_KEEP_SIZE, page * self->page_size,
		      nr_pages * self->page_size))
		return errno;
	return 0;
}

static int punch_errno(reserved_data *self, int fd, long page, long nr_pages)
{
	if (fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
		      page * self->page_size, nr_pages * self->page_size))
		return errno;
	return 0;
}

/*
 * Have the guest write to a page.  After an error the guest is still at it, so the
 * next call must be for the same page.
 */
static int touch_errno(reserved_data *self, long page)
{
	struct ucall uc;

	set_cmd(self->vm, OP_TOUCH, page * self->page_size, SZ_4K, 1);
	if (_vcpu_run(self->vcpu))
		return errno;

	TEST_ASSERT(get_ucall(self->vcpu, &uc) == UCALL_SYNC, "the guest failed");
	return 0;
}

static int touch_all_errno(reserved_data *self, long nr_pages)
{
	long page;
	int r;

	for (page = 0; page < nr_pages; page++) {
		r = touch_errno(self, page);
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

struct puncher {
	reserved_data *self;
	int fd;
	int error;
	bool stop;
	long nr;
};

/* Punch the first page over and over. */
static void *punch(void *arg)
{
	struct puncher *p = arg;

	bind_to_node(0);
	while (!READ_ONCE(p->stop) && !p->error) {
		WRITE_ONCE(p->error, punch_errno(p->self, p->fd, 0, 1));
		WRITE_ONCE(p->nr, p->nr + 1);
	}
	return NULL;
}

/*
 * A page of each of two nodes belongs to the file, and both tasks may use node 0
 * only.  The one that populates therefore has to get the very page that the other
 * one has just punched.
 */
static void race_for_page(struct __test_metadata *_metadata, reserved_data *self,
			  bool guest, long rounds)
{
	struct puncher p = { .self = self };
	struct pool_count now;
	pthread_t thread;
	long i, last = 0;
	int r = 0;

	if (self->before.node[1].nr < 0)
		SKIP(return, "needs 2 nodes");
	restore_pool(self->page_size, &(struct pool_count) {
		.node = { { .nr = 1 }, { .nr = 1 }, { .nr = -1 } } });
	read_pool(self->page_size, &now);
	if (now.node[0].free != 1 || now.node[1].free != 1)
		SKIP(return, "no memory for a huge page on each node");

	p.fd = create_file(self, 2);
	bind_file(self, p.fd, 2);
	bind_to_node(0);
	ASSERT_EQ(0, pthread_create(&thread, NULL, punch, &p));

	/* Each round is to meet a page that was punched since the last one. */
	for (i = 0; i < rounds && !r; i++) {
		while (READ_ONCE(p.nr) == last && !READ_ONCE(p.error))
			sched_yield();
		last = READ_ONCE(p.nr);
		r = guest ? touch_errno(self, 0) :
			    fallocate_errno(self, p.fd, 0, 1);
	}
	EXPECT_EQ(0, r)
		ksft_print_msg("populating failed in round %ld\n", i);
	WRITE_ONCE(p.stop, true);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(0, p.error);

	/* Nothing was lost. */
	EXPECT_EQ(0, fallocate_errno(self, p.fd, 0, 1));
	EXPECT_TRUE(wait_for_pool(self->page_size, 2, 1, 1, 0));
	unbind_file(self);
	close(p.fd);
	EXPECT_TRUE(wait_for_pool(self->page_size, 2, 2, 0, 0));
}

TEST_F_TIMEOUT(reserved, fallocate_races_punch, TIMEOUT)
{
	race_for_page(_metadata, self, false,
		      variant->page_shift == 30 ? 3 : 1000);
}

TEST_F_TIMEOUT(reserved, guest_races_punch, TIMEOUT)
{
	race_for_page(_metadata, self, true,
		      variant->page_shift == 30 ? 3 : 500);
}

/* A file can be created of the pages that another one has just given up. */
TEST_F_TIMEOUT(reserved, create_after_close, TIMEOUT)
{
	const long nr = variant->page_shift == 30 ? 1 : 8;
	int i, fd;

	if (!set_pool(self->page_size, nr))
		SKIP(return, "no memory for %ld huge pages", nr);

	for (i = 0; i < (variant->page_shift == 30 ? 2 : 100); i++) {
		fd = __vm_create_guest_memfd(self->vm, nr * self->page_size,
					     self->flags);
		ASSERT_LE(0, fd)
			ksft_print_msg("creating file %d failed: %s\n", i,
				       strerror(errno));
		ASSERT_EQ(0, fallocate_errno(self, fd, 0, nr));
		close(fd);
	}
}

/*
 * Memory blocks
 */

static size_t block_size(void)
{
	static size_t size;
	FILE *f;

	if (size)
		return size;
	f = fopen(MEMORY "/block_size_bytes", "r");
	if (!f)
		return 0;
	if (fscanf(f, "%zx", &size) != 1)
		size = 0;
	fclose(f);
	return size;
}

static bool block_is_movable(int block)
{
	char path[96], zone[32] = "";
	FILE *f;

	snprintf(path, sizeof(path), MEMORY "/memory%d/valid_zones", block);
	f = fopen(path, "r");
	if (!f)
		return false;
	if (fscanf(f, "%31s", zone) != 1)
		zone[0] = 0;
	fclose(f);
	return !strcmp(zone, "Movable");
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
	_exit(write_string(dir, "state", "offline") ? 0 : errno);
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
	int pipefd[2], block;
	char *mem, *p;
	u64 entry;

	TEST_ASSERT(pagemap >= 0, "no /proc/self/pagemap");
	mem = mmap(NULL, size, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	TEST_ASSERT(mem != MAP_FAILED, "mmap() failed");
	madvise(mem, size, MADV_NOHUGEPAGE);

	for (p = mem; p < mem + size; p += SZ_4K) {
		struct iovec iov = { p, SZ_4K };

		*p = 1;
		if (pread(pagemap, &entry, sizeof(entry),
			  (uintptr_t)p / SZ_4K * sizeof(entry)) != sizeof(entry))
			continue;
		block = (entry & (BIT_ULL(55) - 1)) * SZ_4K / block_size();
		if (!block || block >= MAX_BLOCKS || held[block] ||
		    !block_is_movable(block))
			continue;
		TEST_ASSERT(!pipe(pipefd), "pipe() failed");
		TEST_ASSERT(vmsplice(pipefd[1], &iov, 1, 0) == SZ_4K,
			    "vmsplice() failed");
		held[block] = true;
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
	if (self->page_size == SZ_1G) {
		self->movable = read_count("/proc/sys/vm", "movable_gigantic_pages");
		if (self->movable < 0 ||
		    !write_string("/proc/sys/vm", "movable_gigantic_pages", "1"))
			return "no movable pages of 1G";
	}
	if (!resize_pool(self->page_size, -1, 0) ||
	    !set_pool(self->page_size, nr))
		return "no memory for the huge pages";
	if (!nr_huge_movable(self->page_size))
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
	read_pool(self->page_size, &before);
	fd = create_file(self, nr);
	EXPECT_EQ(0, nr_huge_movable(self->page_size));
	before.resv = nr;
	EXPECT_TRUE(pool_is(self->page_size, &before));
	EXPECT_EQ(ENOMEM, create_errno(self, 1));

	bind_file(self, fd, nr);
	EXPECT_EQ(0, fallocate_errno(self, fd, 0, (nr + 1) / 2));
	EXPECT_EQ(0, touch_all_errno(self, nr));
	EXPECT_TRUE(wait_for_pool(self->page_size, nr, 0, 0, 0));
	EXPECT_EQ(0, punch_errno(self, fd, 0, nr));
	EXPECT_TRUE(pool_is(self->page_size, &before));
	EXPECT_EQ(0, touch_all_errno(self, nr));

	unbind_file(self);
	close(fd);
	before.resv = 0;
	EXPECT_TRUE(pool_is(self->page_size, &before));
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
		n = held[i] ? nr_huge_in_block(i, self->page_size) : 0;
		if (n > most) {
			most = n;
			block = i;
		}
	}
	if (block < 0)
		SKIP(return, "no block has pages of the pool and others");

	fd = create_file(self, nr);
	bind_file(self, fd, nr);
	start_offliner(self, block);
	ASSERT_TRUE(wait_for_isolation(self));

	EXPECT_EQ(0, fallocate_errno(self, fd, 0, nr / 2));
	EXPECT_EQ(0, touch_all_errno(self, nr));
	EXPECT_TRUE(wait_for_pool(self->page_size, nr, 0, 0, 0));
	EXPECT_EQ(0, punch_errno(self, fd, 0, nr));
	EXPECT_EQ(0, fallocate_errno(self, fd, 0, nr));
	EXPECT_TRUE(offliner_runs(self))
		ksft_print_msg("taking the block offline has ended before\n");
	stop_offliner(self);

	unbind_file(self);
	close(fd);
	EXPECT_TRUE(wait_for_pool(self->page_size, nr, nr, 0, 0));
}

static size_t free_memory(void)
{
	size_t kb = 0;
	char line[128];
	FILE *f;

	f = fopen("/proc/meminfo", "r");
	TEST_ASSERT(f, "no /proc/meminfo");
	while (!kb && fgets(line, sizeof(line), f))
		sscanf(line, "MemFree: %zu", &kb);
	fclose(f);
	return kb << 10;
}

/* More than there is memory for: all or none, and never at the time of use. */
TEST_F_TIMEOUT(reserved, more_than_lendable, TIMEOUT)
{
	struct pool_count before;
	const char *reason;
	long nr;

	if (variant->page_shift != 21)
		SKIP(return, "for pages of 2M");
	/* Leave some for others, but too little to exchange the movable ones. */
	reason = movable_pool(self, free_memory() / 8 * 7 / self->page_size);
	if (reason)
		SKIP(return, "%s", reason);

	read_pool(self->page_size, &before);
	nr = before.nr;
	EXPECT_EQ(ENOMEM, create_errno(self, nr));
	EXPECT_TRUE(pool_is(self->page_size, &before));
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

	if (self->page_size != SZ_2M)
		return "for pages of 2M";
	reason = movable_pool(self, nr);
	if (reason)
		return reason;

	/* The pages that are exchanged for a file stay. */
	fd = create_file(self, nr_lendable);
	close(fd);
	wait_for_pool(self->page_size, nr, nr, 0, 0);
	return nr_huge_movable(self->page_size) ? NULL :
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
	fd = create_file(self, lendable);
	EXPECT_TRUE(wait_for_pool(self->page_size, nr, nr, lendable, 0));
	EXPECT_EQ(MAP_FAILED, map_hugetlb((n + 1) * self->page_size, 0));

	/* Without a reservation it takes what it can get. */
	mem = map_hugetlb(nr * self->page_size, MAP_NORESERVE);
	ASSERT_NE(MAP_FAILED, mem);
	EXPECT_EQ(n, touch_hugetlb(self->page_size, mem, nr));
	EXPECT_TRUE(wait_for_pool(self->page_size, nr, lendable, lendable, 0));
	bind_file(self, fd, lendable);
	EXPECT_EQ(0, touch_all_errno(self, lendable));
	EXPECT_TRUE(wait_for_pool(self->page_size, nr, 0, 0, 0));
	munmap(mem, nr * self->page_size);
	EXPECT_TRUE(wait_for_pool(self->page_size, nr, n, 0, 0));

	/* With one, each gets its own, whoever comes first. */
	EXPECT_EQ(0, punch_errno(self, fd, 0, lendable));
	EXPECT_TRUE(wait_for_pool(self->page_size, nr, nr, lendable, 0));
	mem = map_hugetlb(n * self->page_size, 0);
	ASSERT_NE(MAP_FAILED, mem);
	EXPECT_TRUE(wait_for_pool(self->page_size, nr, nr, nr, 0));
	EXPECT_EQ(0, fallocate_errno(self, fd, 0, lendable / 2));
	EXPECT_EQ(n, touch_hugetlb(self->page_size, mem, n));
	EXPECT_EQ(0, touch_all_errno(self, lendable));
	EXPECT_TRUE(wait_for_pool(self->page_size, nr, 0, 0, 0));
	munmap(mem, n * self->page_size);

	unbind_file(self);
	close(fd);
	EXPECT_TRUE(wait_for_pool(self->page_size, nr, nr, 0, 0));
}

/* A pool that shrinks loses the pages that cannot be lent. */
TEST_F_TIMEOUT(reserved, shrink_keeps_lendable, TIMEOUT)
{
	const long nr = 40, lendable = 16;
	const char *reason = mixed_pool(self, nr, lendable);
	int fd;

	if (reason)
		SKIP(return, "%s", reason);

	fd = create_file(self, lendable);
	bind_file(self, fd, lendable);
	ASSERT_TRUE(resize_pool(self->page_size, -1, lendable + 2));
	EXPECT_TRUE(wait_for_pool(self->page_size, lendable + 2, lendable + 2,
				  lendable, 0));
	ASSERT_TRUE(resize_pool(self->page_size, -1, 0));
	EXPECT_TRUE(wait_for_pool(self->page_size, lendable, lendable, lendable,
				  lendable));
	EXPECT_EQ(0, nr_huge_movable(self->page_size));

	EXPECT_EQ(0, touch_all_errno(self, lendable));
	EXPECT_EQ(0, punch_errno(self, fd, 0, lendable));
	EXPECT_TRUE(wait_for_pool(self->page_size, lendable, lendable, lendable,
				  lendable));
	EXPECT_EQ(0, fallocate_errno(self, fd, 0, lendable));

	unbind_file(self);
	close(fd);
	EXPECT_TRUE(wait_for_pool(self->page_size, 0, 0, 0, 0));
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

	fd = create_file(self, lendable);
	bind_file(self, fd, lendable);
	for (block = 0; block < MAX_BLOCKS; block++) {
		if (!nr_huge_in_block(block, self->page_size))
			continue;
		start_offliner(self, block);
		while (offliner_runs(self))
			usleep(1000);
		stop_offliner(self);
	}
	EXPECT_TRUE(wait_for_pool(self->page_size, nr, nr, nr, 0));
	EXPECT_EQ(0, touch_all_errno(self, lendable));
	unbind_file(self);
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
	if (self->before.free < 1)
		SKIP(return, "needs a free page of 1G");

	nr = inner_blocks(blocks, ARRAY_SIZE(blocks));
	ASSERT_LT(0, nr);
	fd = create_file(self, self->before.free);

	/* Until enough attempts had isolated a block before the page was lent */
	for (i = 0; seen < enough; i++) {
		struct timespec start, now;
		bool isolated;

		start_offliner(self, blocks[i % nr]);
		isolated = wait_for_isolation(self);
		ASSERT_EQ(0, fallocate_errno(self, fd, 0, self->before.free));
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

		ASSERT_EQ(0, punch_errno(self, fd, 0, self->before.free));
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
	if (self->before.free < 1)
		SKIP(return, "needs a free page of 1G");

	nr = inner_blocks(blocks, ARRAY_SIZE(blocks));
	fd = create_file(self, self->before.free);
	ASSERT_EQ(0, fallocate_errno(self, fd, 0, self->before.free));
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
