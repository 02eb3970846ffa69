// SPDX-License-Identifier: GPL-2.0
/*
 * Who moves, takes away or gives up memory by pfn must leave alone what HugeTLB
 * has lent out, be it whole, split, or awaited: out of its file and held by
 * somebody.  Each of them has to say so, and to do so soon.
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
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <lib/test_hugetlb_lend_uapi.h>

#include "../kselftest_harness.h"

#define CGROUPS		"/tmp/hugetlb-lend-cgroups"
/* Seconds that a refusal may take */
#define PATIENCE	60

static long read_number(const char *path)
{
	char buf[64] = "";
	int fd = open(path, O_RDONLY);

	if (fd < 0)
		return -1;
	if (read(fd, buf, sizeof(buf) - 1) < 0)
		buf[0] = 0;
	close(fd);
	return strtol(buf, NULL, 0);
}

/* Returns 0 or an errno. */
static int write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY), r = 0;

	if (fd < 0)
		return errno;
	if (write(fd, text, strlen(text)) < 0)
		r = errno;
	close(fd);
	return r;
}

/* The same in a process that may be killed; TOO_LATE if that has to be done. */
#define TOO_LATE	255
static int write_in_time(const char *path, const char *text)
{
	int status, i;
	pid_t pid = fork();

	if (!pid)
		_exit(write_text(path, text));

	for (i = 0; i < 10 * PATIENCE; i++) {
		if (waitpid(pid, &status, WNOHANG) == pid)
			return WIFEXITED(status) ? WEXITSTATUS(status) : ECHILD;
		usleep(100000);
	}
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	return TOO_LATE;
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
	return read_number(path);
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
		EXPECT_EQ(self->free, pool_read(self->pool, "free_hugepages"));
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

	block = self->pfn * 4096 / block_size;
	snprintf(path, sizeof(path), "/sys/devices/system/memory/memory%lu/state",
		 block);
	if (access(path, W_OK))
		SKIP(return, "%s: %s", path, strerror(errno));
	EXPECT_EQ(EBUSY, write_in_time(path, "offline"));
	EXPECT_NE(0, write_text(path, "online"));
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
			 (unsigned long)(self->pfn + pages[i]) * 4096);
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
	long nr = read_number(path);
	char text[32];

	if (nr < 0)
		SKIP(return, "no pages of 1G");
	BORROW();
	snprintf(text, sizeof(text), "%ld", nr + 64);
	EXPECT_EQ(0, write_in_time(path, text));
	snprintf(text, sizeof(text), "%ld", nr);
	EXPECT_EQ(0, write_in_time(path, text));
	EXPECT_EQ(nr, read_number(path));
}

TEST_F_TIMEOUT(lent, pool_shrinks, 4 * PATIENCE)
{
	char path[256], text[32];

	BORROW();
	snprintf(path, sizeof(path), "%s/nr_hugepages", self->pool);
	EXPECT_EQ(0, write_in_time(path, "0"));
	EXPECT_EQ(0, pool_read(self->pool, "free_hugepages"));
	EXPECT_EQ(1, pool_read(self->pool, "surplus_hugepages"));

	/* It goes when it is back, and has its struct pages then. */
	give_back(self->fd, variant->state);
	self->fd = -1;
	usleep(200000);
	EXPECT_EQ(0, pool_read(self->pool, "surplus_hugepages"));
	EXPECT_EQ(0, pool_read(self->pool, "nr_hugepages"));

	snprintf(text, sizeof(text), "%ld", self->nr);
	EXPECT_EQ(0, write_in_time(path, text));
	EXPECT_EQ(self->nr, pool_read(self->pool, "nr_hugepages"));
	EXPECT_EQ(self->free, pool_read(self->pool, "free_hugepages"));
}

/* The charge goes to the parent, and from there when the page is back. */
TEST_F_TIMEOUT(lent, cgroup_rmdir, 4 * PATIENCE)
{
	char usage[256], text[32];
	int status, i, pipefd[2];
	long before;
	pid_t pid;

	mkdir(CGROUPS, 0700);
	if (mount("none", CGROUPS, "cgroup2", 0, NULL) ||
	    write_text(CGROUPS "/cgroup.subtree_control", "+hugetlb"))
		SKIP(umount(CGROUPS); return, "no hugetlb cgroup");
	mkdir(CGROUPS "/parent", 0700);
	ASSERT_EQ(0, write_text(CGROUPS "/parent/cgroup.subtree_control",
				"+hugetlb"));
	ASSERT_EQ(0, mkdir(CGROUPS "/parent/child", 0700));
	snprintf(usage, sizeof(usage), CGROUPS "/parent/hugetlb.%s.current",
		 variant->order == 18 ? "1GB" : "2MB");
	before = read_number(usage);
	ASSERT_LE(0, before);

	snprintf(text, sizeof(text), "%d", getpid());
	ASSERT_EQ(0, write_text(CGROUPS "/parent/child/cgroup.procs", text));
	BORROW();
	ASSERT_EQ(0, write_text(CGROUPS "/cgroup.procs", text));
	EXPECT_EQ(before + (4096L << variant->order), read_number(usage));

	ASSERT_EQ(0, pipe(pipefd));
	pid = fork();
	if (!pid)
		_exit(rmdir(CGROUPS "/parent/child") ? errno : 0);
	for (i = 0; i < 10 * PATIENCE; i++) {
		if (waitpid(pid, &status, WNOHANG) == pid)
			break;
		usleep(100000);
	}
	ASSERT_GT(10 * PATIENCE, i) {
		TH_LOG("rmdir does not return");
	}
	EXPECT_EQ(0, status);
	EXPECT_EQ(before + (4096L << variant->order), read_number(usage));

	give_back(self->fd, variant->state);
	self->fd = -1;
	for (i = 0; i < 100 && read_number(usage) != before; i++)
		usleep(100000);
	EXPECT_EQ(before, read_number(usage));
	EXPECT_EQ(0, rmdir(CGROUPS "/parent"));
	EXPECT_EQ(0, umount(CGROUPS));
}

/*
 * A page fails: nobody writes to a tail that is read-only, and the pool does not
 * give the page to anybody when it is back.  This takes a page off the pool.
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

	/* In a piece that is whole, if there is any, and a single page */
	snprintf(text, sizeof(text), "%#lx",
		 (unsigned long)self->pfn + (1UL << variant->order) - 3);
	EXPECT_EQ(EBUSY, write_in_time(path, text));
	snprintf(text, sizeof(text), "%#lx", (unsigned long)self->pfn + 5);
	write_in_time(path, text);
	EXPECT_NE(0, write_in_time("/sys/kernel/debug/hwpoison/unpoison-pfn", text));

	give_back(self->fd, variant->state);
	self->fd = -1;
	usleep(200000);
	EXPECT_EQ(self->free, pool_read(self->pool, "free_hugepages"));
	fd = borrow(self->device, variant->order, WHOLE, &pfn);
	EXPECT_LE(0, fd);
	EXPECT_NE(self->pfn, pfn);
	close(fd);
}

TEST_HARNESS_MAIN
