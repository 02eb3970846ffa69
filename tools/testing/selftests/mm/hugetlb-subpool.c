// SPDX-License-Identifier: GPL-2.0
/*
 * What a hugetlbfs mount with size= or min_size= does to the counters of the
 * pool: its quota and its reservation are exact, whatever fails and whoever
 * still holds one of its pages.
 *
 * Each test starts with a pool of POOL pages of the default size on node 0, all
 * free, and ends with the same.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "../kselftest_harness.h"
#include "hugepage_settings.h"
#include "vm_util.h"

#define POOL	4

static __thread sigjmp_buf sigbus_env;

static void sigbus(int sig)
{
	siglongjmp(sigbus_env, 1);
}

/* Write to a page: 0, or -1 if that raised SIGBUS. */
static int touch(char *addr)
{
	if (sigsetjmp(sigbus_env, 1))
		return -1;
	__atomic_store_n(addr, 1, __ATOMIC_RELAXED);

	return 0;
}

FIXTURE(subpool)
{
	long size;			/* bytes in a page of the pool */
	long overcommit;		/* as it was */
	char dir[32];
	bool mounted;
};

static long count(const char *name, long size)
{
	char path[128];

	snprintf(path, sizeof(path),
		 "/sys/kernel/mm/hugepages/hugepages-%ldkB/%s", size >> 10, name);
	return read_num(path);
}

static void set_count(const char *name, long size, long val)
{
	char path[128];

	snprintf(path, sizeof(path),
		 "/sys/kernel/mm/hugepages/hugepages-%ldkB/%s", size >> 10, name);
	write_num(path, val);
}

static bool has_node(int node)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/hugepages",
		 node);
	return !access(path, F_OK);
}

/* Resize the part of the pool that is on a node. */
static void set_node(int node, long size, long nr)
{
	char path[128];

	snprintf(path, sizeof(path),
		 "/sys/devices/system/node/node%d/hugepages/hugepages-%ldkB/nr_hugepages",
		 node, size >> 10);
	write_num(path, nr);
}

/* Resize the pool, with pages of node 0 only where there are several. */
static void set_pool(long size, long nr)
{
	if (has_node(0))
		set_node(0, size, nr);
	else
		set_count("nr_hugepages", size, nr);
}

#define EXPECT_POOL(_nr, _free, _resv, _surplus) do {				\
	EXPECT_EQ(_nr, count("nr_hugepages", self->size));			\
	EXPECT_EQ(_free, count("free_hugepages", self->size));			\
	EXPECT_EQ(_resv, count("resv_hugepages", self->size));			\
	EXPECT_EQ(_surplus, count("surplus_hugepages", self->size));		\
} while (0)

static void restore(long size, long overcommit)
{
	set_count("nr_overcommit_hugepages", size, overcommit);
	hugetlb_restore_settings();
}

FIXTURE_SETUP(subpool)
{
	struct sigaction sa = { .sa_handler = sigbus };

	if (geteuid())
		SKIP(return, "needs root");
	sigaction(SIGBUS, &sa, NULL);
	self->size = default_huge_page_size();
	if (!self->size)
		SKIP(return, "no huge pages");

	hugetlb_save_settings();
	self->overcommit = count("nr_overcommit_hugepages", self->size);
	set_count("nr_overcommit_hugepages", self->size, 0);
	set_count("nr_hugepages", self->size, 0);
	set_pool(self->size, POOL);
	if (count("nr_hugepages", self->size) != POOL ||
	    count("free_hugepages", self->size) != POOL ||
	    count("resv_hugepages", self->size)) {
		restore(self->size, self->overcommit);
		SKIP(return, "no pool of %d free pages to be had", POOL);
	}

	strcpy(self->dir, "/tmp/hugetlb-subpool.XXXXXX");
	mkdir("/tmp", 01777);
	ASSERT_NE(NULL, mkdtemp(self->dir));
}

FIXTURE_TEARDOWN(subpool)
{
	if (!self->dir[0])
		return;

	if (self->mounted)
		EXPECT_EQ(0, umount(self->dir));
	rmdir(self->dir);

	/* Releasing a subpool may be left to a work item. */
	for (int i = 0; i < 100 && count("resv_hugepages", self->size); i++)
		usleep(10000);
	set_count("nr_overcommit_hugepages", self->size, 0);
	set_pool(self->size, POOL);
	EXPECT_POOL(POOL, POOL, 0, 0);

	restore(self->size, self->overcommit);
}

#define MOUNT(_fmt, _pages) do {						\
	char _opts[64];								\
	snprintf(_opts, sizeof(_opts), "pagesize=%ld," _fmt, self->size,	\
		 (_pages) * self->size);				\
	ASSERT_EQ(0, mount("none", self->dir, "hugetlbfs", 0, _opts));		\
	self->mounted = true;							\
} while (0)

#define UMOUNT() do {								\
	ASSERT_EQ(0, umount(self->dir));					\
	self->mounted = false;							\
} while (0)

#define FREE_BLOCKS() ({							\
	struct statfs _st;							\
	EXPECT_EQ(0, statfs(self->dir, &_st));					\
	(long)_st.f_bfree;							\
})

/* A file of the mount that has no name and @_pages of size. */
#define OPEN(_pages) ({								\
	char _name[64];								\
	int _fd;								\
	snprintf(_name, sizeof(_name), "%s/file", self->dir);			\
	_fd = open(_name, O_RDWR | O_CREAT | O_EXCL, 0600);			\
	ASSERT_LE(0, _fd);							\
	EXPECT_EQ(0, unlink(_name));						\
	EXPECT_EQ(0, ftruncate(_fd, (_pages) * self->size));			\
	_fd;									\
})

#define PUNCH(_fd, _page)							\
	EXPECT_EQ(0, fallocate(_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,	\
			       (_page) * self->size, self->size))

/* A fault that finds the pool empty takes nothing off the quota. */
TEST_F(subpool, quota_after_failed_faults)
{
	char *addr;
	int fd;

	MOUNT("size=%ld", 2);
	fd = OPEN(2);
	addr = mmap(NULL, 2 * self->size, PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_NORESERVE, fd, 0);
	ASSERT_NE(MAP_FAILED, addr);

	set_pool(self->size, 0);
	EXPECT_POOL(0, 0, 0, 0);
	EXPECT_EQ(2, FREE_BLOCKS());
	for (int i = 0; i < 3; i++) {
		EXPECT_EQ(-1, touch(addr));
		EXPECT_EQ(2, FREE_BLOCKS());
	}

	set_pool(self->size, POOL);
	EXPECT_EQ(0, touch(addr));
	EXPECT_EQ(0, touch(addr + self->size));
	EXPECT_EQ(0, FREE_BLOCKS());
	EXPECT_POOL(POOL, POOL - 2, 0, 0);

	munmap(addr, 2 * self->size);
	close(fd);
	EXPECT_EQ(2, FREE_BLOCKS());
}

/* The same where part of a reservation comes from the mount's minimum. */
TEST_F(subpool, quota_after_failed_reservation)
{
	void *addr;
	int fd;

	MOUNT("min_size=%ld,size=1G", 2);
	EXPECT_POOL(POOL, POOL, 2, 0);
	fd = OPEN(POOL + 1);
	addr = mmap(NULL, (POOL + 1) * self->size, PROT_READ | PROT_WRITE,
		    MAP_SHARED, fd, 0);
	EXPECT_EQ(MAP_FAILED, addr);
	EXPECT_EQ((1L << 30) / self->size, FREE_BLOCKS());
	EXPECT_POOL(POOL, POOL, 2, 0);
	close(fd);
}

/* Only what is missing to the minimum is reserved again. */
TEST_F(subpool, minimum_without_maximum)
{
	int fd;

	MOUNT("min_size=%ld", 2);
	EXPECT_EQ(-1, FREE_BLOCKS());
	EXPECT_POOL(POOL, POOL, 2, 0);
	fd = OPEN(4);
	EXPECT_EQ(0, fallocate(fd, 0, 0, 4 * self->size));
	EXPECT_POOL(POOL, POOL - 4, 0, 0);

	PUNCH(fd, 3);
	EXPECT_POOL(POOL, POOL - 3, 0, 0);
	PUNCH(fd, 2);
	EXPECT_POOL(POOL, POOL - 2, 0, 0);
	PUNCH(fd, 1);
	EXPECT_POOL(POOL, POOL - 1, 1, 0);
	EXPECT_EQ(-1, FREE_BLOCKS());

	close(fd);
	EXPECT_POOL(POOL, POOL, 2, 0);
	UMOUNT();
	EXPECT_POOL(POOL, POOL, 0, 0);
}

/* Several pages at once, from above the minimum to below. */
TEST_F(subpool, minimum_crossed)
{
	void *addr;
	int fd;

	MOUNT("min_size=%ld", 2);
	fd = OPEN(4);
	addr = mmap(NULL, 4 * self->size, PROT_READ | PROT_WRITE, MAP_SHARED,
		    fd, 0);
	ASSERT_NE(MAP_FAILED, addr);
	EXPECT_POOL(POOL, POOL, 4, 0);
	EXPECT_EQ(0, ftruncate(fd, self->size));
	EXPECT_POOL(POOL, POOL, 2, 0);

	munmap(addr, 4 * self->size);
	close(fd);
	EXPECT_POOL(POOL, POOL, 2, 0);
	UMOUNT();
	EXPECT_POOL(POOL, POOL, 0, 0);
}

/* A mount is gone, but some of its pages are still in a pipe. */
TEST_F(subpool, pages_outlive_the_mount)
{
	int fd, pipes[3][2];
	char *addr, byte;

	MOUNT("min_size=%ld", 1);
	fd = OPEN(3);
	addr = mmap(NULL, 3 * self->size, PROT_READ | PROT_WRITE, MAP_SHARED,
		    fd, 0);
	ASSERT_NE(MAP_FAILED, addr);
	for (int i = 0; i < 3; i++) {
		struct iovec iov = { addr + i * self->size, 1 };

		ASSERT_EQ(0, touch(iov.iov_base));
		ASSERT_EQ(0, pipe(pipes[i]));
		ASSERT_EQ(1, vmsplice(pipes[i][1], &iov, 1, 0));
	}
	EXPECT_POOL(POOL, POOL - 3, 0, 0);
	munmap(addr, 3 * self->size);
	close(fd);
	UMOUNT();
	EXPECT_POOL(POOL, POOL - 3, 0, 0);

	for (int i = 0; i < 3; i++) {
		EXPECT_EQ(1, read(pipes[i][0], &byte, 1));
		close(pipes[i][0]);
		close(pipes[i][1]);
		EXPECT_EQ(POOL - 2 + i, count("free_hugepages", self->size));
		/* The last one's may be given up a little later. */
		EXPECT_GE(i < 2 ? 0 : 1, count("resv_hugepages", self->size));
	}
}

struct toucher {
	pthread_t thread;
	char *addr;
	long size;
	int stop;
};

static void *touch_all(void *arg)
{
	struct toucher *t = arg;

	while (!__atomic_load_n(&t->stop, __ATOMIC_RELAXED)) {
		for (int i = 0; i < POOL; i++)
			touch(t->addr + i * t->size);
	}
	return NULL;
}

/*
 * Faults, of which none has a reservation, race with truncation: both the page
 * cache's pages and private ones get lost on the way to a page table.
 */
TEST_F(subpool, truncate_against_faults)
{
	const char * const opts[] = { "size=%ld", "min_size=%ld",
				      "size=%ld,min_size=%ld" };
	struct toucher touchers[3];
	char *addr, *private;
	time_t end;
	int fd;

	for (int i = 0; i < 3; i++) {
		char fmt[64], opt[64];

		snprintf(fmt, sizeof(fmt), "pagesize=%%ld,%s", opts[i]);
		snprintf(opt, sizeof(opt), fmt, self->size,
			 i == 1 ? 2 * self->size : POOL * self->size, self->size);
		ASSERT_EQ(0, mount("none", self->dir, "hugetlbfs", 0, opt));
		self->mounted = true;
		fd = OPEN(POOL);
		addr = mmap(NULL, POOL * self->size, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_NORESERVE, fd, 0);
		ASSERT_NE(MAP_FAILED, addr);

		private = mmap(NULL, POOL * self->size, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_NORESERVE, fd, 0);
		ASSERT_NE(MAP_FAILED, private);

		for (int j = 0; j < 3; j++) {
			touchers[j] = (struct toucher){
				.addr = j < 2 ? addr : private,
				.size = self->size,
			};
			ASSERT_EQ(0, pthread_create(&touchers[j].thread, NULL,
						    touch_all, &touchers[j]));
		}
		for (end = time(NULL) + 3; time(NULL) < end; ) {
			EXPECT_EQ(0, ftruncate(fd, 0));
			EXPECT_EQ(0, ftruncate(fd, POOL * self->size));
		}
		for (int j = 0; j < 3; j++) {
			__atomic_store_n(&touchers[j].stop, 1, __ATOMIC_RELAXED);
			pthread_join(touchers[j].thread, NULL);
		}

		munmap(addr, POOL * self->size);
		munmap(private, POOL * self->size);
		close(fd);
		EXPECT_EQ(i == 1 ? -1 : POOL, FREE_BLOCKS());
		EXPECT_POOL(POOL, POOL, (i == 1) * 2 + (i == 2), 0);
		UMOUNT();
		EXPECT_POOL(POOL, POOL, 0, 0);
	}
}

/* A page that became surplus in use backs the reservation that it restores. */
TEST_F(subpool, surplus_page_backs_reservation)
{
	int fd;

	MOUNT("min_size=%ld", 1);
	fd = OPEN(1);
	EXPECT_EQ(0, fallocate(fd, 0, 0, self->size));
	set_pool(self->size, 0);
	EXPECT_POOL(1, 0, 0, 1);

	PUNCH(fd, 0);
	EXPECT_POOL(1, 1, 1, 1);
	EXPECT_EQ(0, fallocate(fd, 0, 0, self->size));
	EXPECT_POOL(1, 0, 0, 1);

	close(fd);
	UMOUNT();
	EXPECT_POOL(0, 0, 0, 0);
}

/*
 * A policy makes a fault take a surplus page in place of the reserved one, which
 * somebody else then gets.  When it is freed, it backs the reservation.
 */
TEST_F(subpool, surplus_page_by_policy)
{
	unsigned long nodes = 1UL << 1;
	char *addr, *other;
	int fd;

	if (!has_node(1))
		SKIP(return, "needs a second node with memory");

	set_count("nr_overcommit_hugepages", self->size, 1);
	set_pool(self->size, 1);
	MOUNT("min_size=%ld", 1);
	EXPECT_POOL(1, 1, 1, 0);

	fd = OPEN(1);
	addr = mmap(NULL, self->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, addr);
	ASSERT_EQ(0, syscall(SYS_mbind, addr, self->size, MPOL_BIND, &nodes,
			     8 * sizeof(nodes), 0));
	EXPECT_EQ(0, touch(addr));
	EXPECT_POOL(2, 1, 0, 1);

	other = mmap(NULL, self->size, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	ASSERT_NE(MAP_FAILED, other);
	EXPECT_EQ(0, touch(other));
	EXPECT_POOL(2, 0, 0, 1);

	munmap(addr, self->size);
	PUNCH(fd, 0);
	EXPECT_POOL(2, 1, 1, 1);
	EXPECT_EQ(0, fallocate(fd, 0, 0, self->size));
	EXPECT_POOL(2, 0, 0, 1);

	munmap(other, self->size);
	close(fd);
	UMOUNT();
	EXPECT_POOL(1, 1, 0, 0);
}

/* The same where the reserved page is a surplus page: it leaves the pool. */
TEST_F(subpool, surplus_page_replaced_by_policy)
{
	unsigned long nodes = 1UL << 1;
	char *addr;
	int fd;

	if (!has_node(1))
		SKIP(return, "needs a second node with memory");

	set_count("nr_overcommit_hugepages", self->size, 2);
	set_pool(self->size, 1);
	MOUNT("min_size=%ld", 1);
	set_pool(self->size, 0);
	EXPECT_POOL(1, 1, 1, 1);

	fd = OPEN(1);
	addr = mmap(NULL, self->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, addr);
	ASSERT_EQ(0, syscall(SYS_mbind, addr, self->size, MPOL_BIND, &nodes,
			     8 * sizeof(nodes), 0));
	EXPECT_EQ(0, touch(addr));
	EXPECT_POOL(1, 0, 0, 1);

	munmap(addr, self->size);
	PUNCH(fd, 0);
	EXPECT_POOL(1, 1, 1, 1);
	close(fd);
	UMOUNT();
	EXPECT_POOL(0, 0, 0, 0);
}

/*
 * Node 0 has a free surplus page, and the reservation that it backs is used up
 * by pages of node 1: resizing the pool frees it.
 */
TEST_F(subpool, free_surplus_page_and_resizing)
{
	unsigned long nodes = 1UL << 1;
	char *addr[2];

	if (!has_node(1))
		SKIP(return, "needs a second node with memory");

	set_pool(self->size, 1);
	set_node(1, self->size, 1);
	EXPECT_POOL(2, 2, 0, 0);
	for (int i = 0; i < 2; i++) {
		addr[i] = mmap(NULL, self->size, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
		ASSERT_NE(MAP_FAILED, addr[i]);
		ASSERT_EQ(0, syscall(SYS_mbind, addr[i], self->size, MPOL_BIND,
				     &nodes, 8 * sizeof(nodes), 0));
	}
	set_pool(self->size, 0);
	EXPECT_POOL(2, 2, 2, 1);

	for (int i = 0; i < 2; i++) {
		EXPECT_EQ(0, touch(addr[i]));
		EXPECT_POOL(2, 1, 1 - i, 1);
		munmap(addr[i], self->size);
		EXPECT_POOL(2, 2, 1 - i, 1);
	}
	set_count("nr_hugepages", self->size, 0);
	EXPECT_POOL(0, 0, 0, 0);
}

TEST_HARNESS_MAIN
