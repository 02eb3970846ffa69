// SPDX-License-Identifier: GPL-2.0
/*
 * A task that moves, takes away or gives up memory by pfn must leave alone what
 * HugeTLB has lent out, be it whole, split, or awaited: out of its file and still
 * held.  It has to say so, and to do so soon.  A task that pins a page for long must
 * get it, or hear that the page cannot be moved to where it could be pinned.
 *
 * It needs the module test_hugetlb_lend and a free page of each pool to be tested.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <lib/test_hugetlb_lend_uapi.h>
#include <mm/gup_test.h>

#include "../kselftest_harness.h"
#include "vm_util.h"

#define CGROUPS		"/tmp/hugetlb-lend-cgroups"
#define GUP_TEST	"/sys/kernel/debug/gup_test"
/* Seconds, for what hangs; a machine that is loaded takes its time */
#define PATIENCE	300

/* As write_file(), but for what may fail.  Returns 0 or an errno. */
static int try_write(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY), r = 0;

	if (fd < 0)
		return errno;
	if (write(fd, text, strlen(text)) < 0)
		r = errno;
	close(fd);
	return r;
}

/* What a child of ours exits with; TOO_LATE if it has to be killed. */
#define TOO_LATE	255
static int wait_in_time(pid_t pid)
{
	int status, i;

	for (i = 0; i < 100 * PATIENCE; i++) {
		if (waitpid(pid, &status, WNOHANG) == pid)
			return WIFEXITED(status) ? WEXITSTATUS(status) : ECHILD;
		usleep(10000);
	}
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	return TOO_LATE;
}

/* try_write() in a process that may be killed */
static int write_in_time(const char *path, const char *text)
{
	pid_t pid = fork();

	if (!pid)
		_exit(try_write(path, text));
	return wait_in_time(pid);
}

enum lent_state { WHOLE, SPLIT, AWAITED };

FIXTURE(lent) {
	int device;
	int fd;
	uint64_t pfn;
	char pool[128];
	long nr, free;
};

FIXTURE_VARIANT(lent) {
	unsigned int order;
	enum lent_state state;
};

FIXTURE_VARIANT_ADD(lent, whole_2m) { .order = 9, .state = WHOLE };
FIXTURE_VARIANT_ADD(lent, split_2m) { .order = 9, .state = SPLIT };
FIXTURE_VARIANT_ADD(lent, awaited_2m) { .order = 9, .state = AWAITED };
FIXTURE_VARIANT_ADD(lent, whole_1g) { .order = 18, .state = WHOLE };
FIXTURE_VARIANT_ADD(lent, split_1g) { .order = 18, .state = SPLIT };
FIXTURE_VARIANT_ADD(lent, awaited_1g) { .order = 18, .state = AWAITED };

static long pool_read(const char *pool, const char *name)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", pool, name);
	return access(path, R_OK) ? -1 : (long)read_num(path);
}

/* It will be that soon. */
static bool pool_becomes(const char *pool, const char *name, long want)
{
	int i;

	for (i = 0; i < 100 * PATIENCE; i++) {
		if (pool_read(pool, name) == want)
			return true;
		usleep(10000);
	}
	return false;
}

static int do_op(int fd, unsigned long cmd, uint64_t index, uint64_t nr,
		 struct test_lend_op *op)
{
	struct test_lend_op none = {};

	if (!op)
		op = &none;
	op->index = index;
	op->nr = nr;
	return ioctl(fd, cmd, op) ? errno : 0;
}

/* Borrow a page, and bring it to the state of the variant. */
static int borrow(int device, unsigned int order, enum lent_state state,
		  uint64_t *pfn)
{
	struct test_lend_create create = { .order = order, .nr_huge = 1 };
	struct test_lend_stats stats = {};
	int fd = ioctl(device, TEST_LEND_CREATE, &create);

	if (fd < 0)
		return -1;
	if (do_op(fd, TEST_LEND_POPULATE, 0, 1, NULL) ||
	    ioctl(fd, TEST_LEND_STATS, &stats))
		goto fail;
	*pfn = stats.pfn;

	if (state != WHOLE && do_op(fd, TEST_LEND_SPLIT, 5, 1, NULL))
		goto fail;
	if (state == AWAITED && (do_op(fd, TEST_LEND_HOLD, 5, 1, NULL) ||
				 do_op(fd, TEST_LEND_PUNCH, 0, 1, NULL)))
		goto fail;
	return fd;

fail:
	close(fd);
	return -1;
}

static void give_back(int fd, enum lent_state state)
{
	struct test_lend_op op = { .flags = TEST_LEND_ALL };

	if (state == AWAITED)
		do_op(fd, TEST_LEND_RELEASE, 0, 0, &op);
	close(fd);
}

FIXTURE_SETUP(lent)
{
	if (access(TEST_LEND_DEVICE, F_OK) &&
	    system("modprobe test_hugetlb_lend 2>/dev/null"))
		SKIP(return, "no module test_hugetlb_lend");
	self->fd = -1;
	self->device = open(TEST_LEND_DEVICE, O_RDWR);
	ASSERT_LE(0, self->device);

	snprintf(self->pool, sizeof(self->pool),
		 "/sys/kernel/mm/hugepages/hugepages-%lukB", 4UL << variant->order);
	self->nr = pool_read(self->pool, "nr_hugepages");
	self->free = pool_read(self->pool, "free_hugepages");
	if (self->free < 1)
		SKIP(return, "no free page in %s", self->pool);
}

FIXTURE_TEARDOWN(lent)
{
	if (self->fd >= 0) {
		give_back(self->fd, variant->state);
		EXPECT_TRUE(pool_becomes(self->pool, "free_hugepages", self->free));
		EXPECT_EQ(self->nr, pool_read(self->pool, "nr_hugepages"));
		EXPECT_EQ(0, pool_read(self->pool, "surplus_hugepages"));
	}
	close(self->device);
}

#define BORROW()							\
	do {								\
		self->fd = borrow(self->device, variant->order,		\
				  variant->state, &self->pfn);		\
		ASSERT_LE(0, self->fd);					\
	} while (0)

TEST_F_TIMEOUT(lent, memory_offline, 4 * PATIENCE)
{
	unsigned long block_size, block;
	char path[128];
	FILE *f;

	f = fopen("/sys/devices/system/memory/block_size_bytes", "r");
	if (!f || fscanf(f, "%lx", &block_size) != 1)
		SKIP(return, "no memory hotplug");
	fclose(f);
	BORROW();

	block = self->pfn * psize() / block_size;
	snprintf(path, sizeof(path), "/sys/devices/system/memory/memory%lu/state",
		 block);
	if (access(path, W_OK))
		SKIP(return, "%s: %s", path, strerror(errno));
	EXPECT_EQ(EBUSY, write_in_time(path, "offline"));
	EXPECT_NE(0, try_write(path, "online"));
}

TEST_F_TIMEOUT(lent, soft_offline, 2 * PATIENCE)
{
	const char *path = "/sys/devices/system/memory/soft_offline_page";
	uint64_t pages[] = { 0, 5, 6, 300, (1UL << variant->order) - 1 };
	char text[32];
	unsigned int i;

	if (access(path, W_OK))
		SKIP(return, "no %s", path);
	BORROW();
	for (i = 0; i < 5; i++) {
		snprintf(text, sizeof(text), "%#lx",
			 (unsigned long)(self->pfn + pages[i]) * psize());
		EXPECT_EQ(EOPNOTSUPP, write_in_time(path, text)) {
			TH_LOG("page %lu", (unsigned long)pages[i]);
		}
	}
}

TEST_F_TIMEOUT(lent, compaction, 4 * PATIENCE)
{
	if (access("/proc/sys/vm/compact_memory", F_OK))
		SKIP(return, "no compaction");
	BORROW();
	EXPECT_EQ(0, write_in_time("/proc/sys/vm/compact_memory", "1"));
}

/* Contiguous memory is looked for everywhere, and taken where it can be had. */
TEST_F_TIMEOUT(lent, alloc_contig, 4 * PATIENCE)
{
	const char *path =
		"/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages";
	char text[32];
	long nr;

	if (access(path, W_OK))
		SKIP(return, "no pages of 1G");
	nr = read_num(path);
	BORROW();
	snprintf(text, sizeof(text), "%ld", nr + 64);
	EXPECT_EQ(0, write_in_time(path, text));
	snprintf(text, sizeof(text), "%ld", nr);
	EXPECT_EQ(0, write_in_time(path, text));
	EXPECT_EQ(nr, (long)read_num(path));
}

TEST_F_TIMEOUT(lent, pool_shrinks, 4 * PATIENCE)
{
	char path[256], text[32];
	long nr;
	int i;

	BORROW();
	snprintf(path, sizeof(path), "%s/nr_hugepages", self->pool);
	EXPECT_EQ(0, write_in_time(path, "0"));
	EXPECT_EQ(0, pool_read(self->pool, "free_hugepages"));
	EXPECT_EQ(1, pool_read(self->pool, "surplus_hugepages"));

	/* It goes when it is back, and has its struct pages then. */
	give_back(self->fd, variant->state);
	self->fd = -1;
	EXPECT_TRUE(pool_becomes(self->pool, "surplus_hugepages", 0));
	EXPECT_EQ(0, pool_read(self->pool, "nr_hugepages"));

	/* Memory that has been given up may have other users by now. */
	snprintf(text, sizeof(text), "%ld", self->nr);
	for (i = 0; i < 10 && pool_read(self->pool, "nr_hugepages") < self->nr; i++) {
		try_write("/proc/sys/vm/compact_memory", "1");
		EXPECT_EQ(0, write_in_time(path, text));
	}
	nr = pool_read(self->pool, "nr_hugepages");
	if (nr != self->nr)
		TH_LOG("%ld of %ld pages could be allocated again", nr, self->nr);
	EXPECT_EQ(nr - (self->nr - self->free), pool_read(self->pool, "free_hugepages"));
	EXPECT_EQ(0, pool_read(self->pool, "surplus_hugepages"));
}

/* The charge goes to the parent, and from there when the page is back. */
TEST_F_TIMEOUT(lent, cgroup_rmdir, 4 * PATIENCE)
{
	char usage[256], text[32];
	long before;
	pid_t pid;
	int i;

	mkdir(CGROUPS, 0700);
	if (mount("none", CGROUPS, "cgroup2", 0, NULL) ||
	    try_write(CGROUPS "/cgroup.subtree_control", "+hugetlb"))
		SKIP(umount(CGROUPS); return, "no hugetlb cgroup");
	mkdir(CGROUPS "/parent", 0700);
	ASSERT_EQ(0, try_write(CGROUPS "/parent/cgroup.subtree_control",
			       "+hugetlb"));
	ASSERT_EQ(0, mkdir(CGROUPS "/parent/child", 0700));
	snprintf(usage, sizeof(usage), CGROUPS "/parent/hugetlb.%s.current",
		 variant->order == 18 ? "1GB" : "2MB");
	ASSERT_EQ(0, access(usage, R_OK));
	before = read_num(usage);

	snprintf(text, sizeof(text), "%d", getpid());
	ASSERT_EQ(0, try_write(CGROUPS "/parent/child/cgroup.procs", text));
	BORROW();
	ASSERT_EQ(0, try_write(CGROUPS "/cgroup.procs", text));
	EXPECT_EQ(before + ((long)psize() << variant->order), (long)read_num(usage));

	pid = fork();
	if (!pid)
		_exit(rmdir(CGROUPS "/parent/child") ? errno : 0);
	EXPECT_EQ(0, wait_in_time(pid));
	EXPECT_EQ(before + ((long)psize() << variant->order), (long)read_num(usage));

	give_back(self->fd, variant->state);
	self->fd = -1;
	for (i = 0; i < 100 * PATIENCE && (long)read_num(usage) != before; i++)
		usleep(10000);
	EXPECT_EQ(before, (long)read_num(usage));
	EXPECT_EQ(0, rmdir(CGROUPS "/parent"));
	EXPECT_EQ(0, umount(CGROUPS));
}

/*
 * A page fails: no write to a tail that is shared, and the pool does not give the
 * page away when it has returned.  This takes a page off the pool.
 */
TEST_F_TIMEOUT(lent, memory_failure, 4 * PATIENCE)
{
	const char *path = "/sys/kernel/debug/hwpoison/corrupt-pfn";
	uint64_t pfn;
	char text[32];
	int fd;

	if (access(path, W_OK))
		SKIP(return, "no hwpoison-inject");
	if (self->free < 2)
		SKIP(return, "needs a page that can be lost, and another one");
	BORROW();

	/* In a folio that is large, if there is any, and a single page */
	snprintf(text, sizeof(text), "%#lx",
		 (unsigned long)self->pfn + (1UL << variant->order) - 3);
	EXPECT_EQ(0, write_in_time(path, text));
	snprintf(text, sizeof(text), "%#lx", (unsigned long)self->pfn + 5);
	write_in_time(path, text);
	EXPECT_NE(0, write_in_time("/sys/kernel/debug/hwpoison/unpoison-pfn", text));

	give_back(self->fd, variant->state);
	self->fd = -1;
	EXPECT_TRUE(pool_becomes(self->pool, "free_hugepages", self->free - 1));
	fd = borrow(self->device, variant->order, WHOLE, &pfn);
	EXPECT_LE(0, fd);
	EXPECT_NE(self->pfn, pfn);
	close(fd);
}

/*
 * Pins for long, of a single page that is exposed and mapped: not of memory that CMA
 * will want back, which a lent page cannot be moved out of.
 */

FIXTURE(longterm) {
	int device;
	int fd;
	int gup;
	uint64_t pfn;
	char *page;
	char pool[128];
	long free;
};

FIXTURE_VARIANT(longterm) {
	unsigned int order;
};

FIXTURE_VARIANT_ADD(longterm, 2m) { .order = 9 };
FIXTURE_VARIANT_ADD(longterm, 1g) { .order = 18 };

/* The page that borrow() splits off */
#define PINNED		5

FIXTURE_SETUP(longterm)
{
	self->fd = -1;
	self->device = -1;
	self->gup = open(GUP_TEST, O_RDWR);
	if (self->gup < 0)
		SKIP(return, "no " GUP_TEST);
	if (access(TEST_LEND_DEVICE, F_OK) &&
	    system("modprobe test_hugetlb_lend 2>/dev/null"))
		SKIP(return, "no module test_hugetlb_lend");
	self->device = open(TEST_LEND_DEVICE, O_RDWR);
	ASSERT_LE(0, self->device);

	snprintf(self->pool, sizeof(self->pool),
		 "/sys/kernel/mm/hugepages/hugepages-%lukB", 4UL << variant->order);
	self->free = pool_read(self->pool, "free_hugepages");
	if (self->free < 1)
		SKIP(return, "no free page in %s", self->pool);

	self->fd = borrow(self->device, variant->order, SPLIT, &self->pfn);
	ASSERT_LE(0, self->fd);
	ASSERT_EQ(0, do_op(self->fd, TEST_LEND_EXPOSE, PINNED, 1, NULL));
	self->page = mmap(NULL, psize(), PROT_READ | PROT_WRITE, MAP_SHARED, self->fd,
			  PINNED * psize());
	ASSERT_NE(MAP_FAILED, self->page);
	*self->page = 42;
}

FIXTURE_TEARDOWN(longterm)
{
	if (self->fd >= 0) {
		munmap(self->page, psize());
		close(self->fd);
		EXPECT_TRUE(pool_becomes(self->pool, "free_hugepages", self->free));
	}
	if (self->device >= 0)
		close(self->device);
	if (self->gup >= 0)
		close(self->gup);
}

/* The areas of hugetlb_cma= are called after HugeTLB. */
static bool is_from_cma(uint64_t pfn)
{
	uint64_t base, count;
	char path[128];
	int i;

	for (i = 0; i < 64; i++) {
		snprintf(path, sizeof(path), "/sys/kernel/debug/cma/hugetlb%d/base_pfn", i);
		if (access(path, R_OK))
			continue;
		base = read_num(path);
		snprintf(path, sizeof(path), "/sys/kernel/debug/cma/hugetlb%d/count", i);
		count = read_num(path);
		if (pfn - base < count)
			return true;
	}
	return false;
}

static int pin(int gup, char *page, unsigned int flags)
{
	struct pin_longterm_test args = {
		.addr = (uintptr_t)page,
		.size = psize(),
		.flags = flags,
	};

	return ioctl(gup, PIN_LONGTERM_TEST_START, &args) ? errno : 0;
}

/* In a process that may be killed; the pin ends with that. */
static int pin_in_time(int gup, char *page, unsigned int flags)
{
	pid_t pid = fork();
	int r;

	if (!pid) {
		r = pin(gup, page, flags);
		ioctl(gup, PIN_LONGTERM_TEST_STOP);
		_exit(r);
	}
	return wait_in_time(pid);
}

TEST_F_TIMEOUT(longterm, pin, 10 * PATIENCE)
{
	const int want = is_from_cma(self->pfn) ? EOPNOTSUPP : 0;
	const unsigned int flags = PIN_LONGTERM_TEST_FLAG_USE_WRITE |
				   PIN_LONGTERM_TEST_FLAG_USE_FAST;
	struct test_lend_stats stats = { .index = PINNED };
	struct test_lend_op op = { .order = variant->order };
	char *copy = aligned_alloc(psize(), psize());
	unsigned int i;

	TH_LOG("pfn %#lx is %sfrom CMA", (unsigned long)self->pfn, want ? "" : "not ");
	for (i = 0; i <= flags; i++) {
		EXPECT_EQ(want, pin_in_time(self->gup, self->page, i)) {
			TH_LOG("flags %u", i);
		}
	}

	/* What is refused leaves no reference, what is pinned is a reference. */
	if (!want) {
		uint64_t address = (uintptr_t)copy;

		ASSERT_NE(NULL, copy);
		ASSERT_EQ(0, pin(self->gup, self->page, flags));
		ASSERT_EQ(0, ioctl(self->gup, PIN_LONGTERM_TEST_READ, &address));
		EXPECT_EQ(42, *copy);
		EXPECT_EQ(EAGAIN, do_op(self->fd, TEST_LEND_MERGE, 0, 0, &op));
		ASSERT_EQ(0, ioctl(self->gup, PIN_LONGTERM_TEST_STOP));
	}
	free(copy);
	EXPECT_EQ(0, do_op(self->fd, TEST_LEND_HIDE, PINNED, 1, NULL));
	ASSERT_EQ(0, ioctl(self->fd, TEST_LEND_STATS, &stats));
	EXPECT_EQ(1, stats.refcount);
	EXPECT_EQ(TEST_LEND_PRESENT | TEST_LEND_LENT, stats.flags);
	op = (struct test_lend_op) { .order = variant->order };
	EXPECT_EQ(0, do_op(self->fd, TEST_LEND_MERGE, 0, 0, &op));

	/* What is hidden cannot be pinned at all. */
	EXPECT_EQ(EFAULT, pin_in_time(self->gup, self->page, flags));
}

TEST_HARNESS_MAIN
