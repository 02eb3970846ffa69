// SPDX-License-Identifier: GPL-2.0
/*
 * Huge pages that HugeTLB has lent out, split and merged while all who find pages
 * by pfn, through the page cache or in page tables come across them.
 *
 * It needs the module test_hugetlb_lend and at least one free huge page, of each
 * size that is to be tested.  No other task may use huge pages meanwhile: after each
 * test the counters, and the flags of all pages of the pools, must be as before.
 *
 *   --seconds N	how long to do all that at least; the default is 20.  It goes on
 *			until each of the hammers, below, has done something
 *   --seed N		of the random numbers
 *   --without NAME	do it without this one of the hammers; more than once
 *			for others
 */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <lib/test_hugetlb_lend_uapi.h>

#include "../kselftest_harness.h"
#include "vm_util.h"

#define MAX_COUNTERS	256
#define MAX_HUGE	4
#define MAX_PFNS	64
#define KPF_HUGE	BIT_ULL(17)
#define CGROUPS		"/sys/fs/cgroup"
#define CGROUP		CGROUPS "/hugetlb-split"
/*
 * Seconds, for what hangs.  What has to happen is waited for: with one CPU, or on a
 * machine that is loaded, a thread may not run for long.
 */
#define PATIENCE	600
#define TIMEOUT		1800

/* How often each hammer has to have done what it does */
#define MIN_DONE	2

/* Pages that many operations choose, so that they meet */
#define NR_HOT		16

static long opt_seconds = 20;
static unsigned long opt_seed;
static const char *opt_without[32];
static int opt_nr_without;

#define die(fmt, ...) do {						\
	ksft_print_msg(fmt, ##__VA_ARGS__);				\
	exit(KSFT_FAIL);						\
} while (0)

struct counter {
	char name[160];
	char value[32];
};

/* What must be the same before and after */
struct state {
	int nr_counters;
	struct counter counters[MAX_COUNTERS];
	uint64_t *flags;	/* of all pages, 0 for those in no pool */
	uint64_t *count;
	size_t nr_pages;
	size_t nr_pool;		/* pages in pools */
};

static bool expired(const struct timespec *end)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec > end->tv_sec ||
	       (now.tv_sec == end->tv_sec && now.tv_nsec >= end->tv_nsec);
}

static struct timespec after(long seconds)
{
	struct timespec end;

	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += seconds;
	return end;
}

/* As write_file(), but for what may fail */
static int try_write(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	int r;

	if (fd < 0)
		return -errno;
	r = write(fd, text, strlen(text)) < 0 ? -errno : 0;
	close(fd);
	return r;
}

/*
 * The state
 */

static void add_counter(struct state *state, const char *name, const char *value)
{
	struct counter *counter = &state->counters[state->nr_counters];

	if (state->nr_counters == MAX_COUNTERS)
		die("more than %d counters\n", MAX_COUNTERS);
	snprintf(counter->name, sizeof(counter->name), "%s", name);
	snprintf(counter->value, sizeof(counter->value), "%s", value);
	state->nr_counters++;
}

/* Lines "NAME VALUE" whose name begins with one of the prefixes */
static void add_lines(struct state *state, const char *path, const char * const *prefixes)
{
	char line[256], name[128], value[32];
	FILE *f = fopen(path, "r");
	int i;

	if (!f)
		die("cannot read %s\n", path);
	while (fgets(line, sizeof(line), f)) {
		for (i = 0; prefixes[i]; i++)
			if (!strncmp(line, prefixes[i], strlen(prefixes[i])) &&
			    sscanf(line, "%127s %31s", name, value) == 2)
				add_counter(state, name, value);
	}
	fclose(f);
}

static void add_files(struct state *state, const char *pattern)
{
	char value[32];
	glob_t files;
	size_t i;

	if (glob(pattern, 0, NULL, &files))
		return;
	for (i = 0; i < files.gl_pathc; i++) {
		if (!read_file(files.gl_pathv[i], value, sizeof(value)))
			continue;
		value[strcspn(value, "\n")] = 0;
		add_counter(state, files.gl_pathv[i], value);
	}
	globfree(&files);
}

/* Of pages that belong to a pool now, or in @before. */
static bool read_pages(struct state *state, const struct state *before)
{
	const size_t batch = 65536;
	int flags_fd = open("/proc/kpageflags", O_RDONLY);
	int count_fd = open("/proc/kpagecount", O_RDONLY);
	size_t allocated = 0, i;
	bool same = true;
	ssize_t n;

	if (flags_fd < 0 || count_fd < 0)
		die("cannot open /proc/kpageflags, kpagecount\n");

	state->nr_pages = 0;
	state->nr_pool = 0;
	for (;;) {
		if (state->nr_pages == allocated) {
			allocated += 16 * batch;
			state->flags = realloc(state->flags, 8 * allocated);
			state->count = realloc(state->count, 8 * allocated);
			if (!state->flags || !state->count)
				die("no memory\n");
		}
		n = read(flags_fd, state->flags + state->nr_pages, 8 * batch);
		if (n <= 0)
			break;
		if (read(count_fd, state->count + state->nr_pages, n) != n)
			die("/proc/kpagecount is shorter\n");
		for (i = state->nr_pages; i < state->nr_pages + n / 8; i++) {
			bool huge = state->flags[i] & KPF_HUGE;

			state->nr_pool += huge;
			if (!huge && !(before && i < before->nr_pages &&
				       before->flags[i])) {
				state->flags[i] = 0;
				state->count[i] = 0;
			}
			if (before && i < before->nr_pages &&
			    (state->flags[i] != before->flags[i] ||
			     state->count[i] != before->count[i]))
				same = false;
		}
		state->nr_pages += n / 8;
	}
	close(flags_fd);
	close(count_fd);
	return same;
}

static void read_counters(struct state *state)
{
	static const char * const vmstat[] = { "nr_memmap", "nr_hugetlb", NULL };
	static const char * const meminfo[] = { "HugePages_", "Hugetlb", "HardwareCorrupted",
						NULL };

	/* What each CPU has counted is added up. */
	write_file("/proc/sys/vm/stat_refresh", "1", sizeof("1"));

	state->nr_counters = 0;
	add_lines(state, "/proc/vmstat", vmstat);
	add_lines(state, "/proc/meminfo", meminfo);
	add_files(state, "/sys/kernel/mm/hugepages/*/*_hugepages");
	add_files(state, "/sys/devices/system/node/node*/hugepages/*/*_hugepages");
	add_files(state, CGROUP "/hugetlb.*.current");
}

static void print_changes(const struct state *before, const struct state *now)
{
	int i, n = 0;
	size_t pfn;

	for (i = 0; i < before->nr_counters && i < now->nr_counters; i++)
		if (strcmp(before->counters[i].value, now->counters[i].value))
			ksft_print_msg("%s was %s, is %s\n",
				       before->counters[i].name,
				       before->counters[i].value,
				       now->counters[i].value);
	if (before->nr_counters != now->nr_counters)
		ksft_print_msg("%d counters, %d before\n", now->nr_counters, before->nr_counters);
	for (pfn = 0; n < 8 && pfn < before->nr_pages && pfn < now->nr_pages; pfn++) {
		if (before->flags[pfn] == now->flags[pfn] &&
		    before->count[pfn] == now->count[pfn])
			continue;
		ksft_print_msg("pfn %zx: flags were %llx, are %llx, count was %llu, is %llu\n",
			       pfn, (long long)before->flags[pfn],
			       (long long)now->flags[pfn],
			       (long long)before->count[pfn],
			       (long long)now->count[pfn]);
		n++;
	}
}

static bool same_counters(const struct state *a, const struct state *b)
{
	int i;

	if (a->nr_counters != b->nr_counters)
		return false;
	for (i = 0; i < a->nr_counters; i++)
		if (strcmp(a->counters[i].name, b->counters[i].name) ||
		    strcmp(a->counters[i].value, b->counters[i].value))
			return false;
	return true;
}

/* All is as before, or will be soon. */
static bool unchanged(const struct state *before)
{
	struct timespec end = after(PATIENCE);
	struct state now = {};
	bool same;

	do {
		read_counters(&now);
		same = same_counters(before, &now);
		if (!same)
			usleep(100000);
	} while (!same && !expired(&end));

	same &= read_pages(&now, before) && now.nr_pages == before->nr_pages;
	if (!same)
		print_changes(before, &now);
	free(now.flags);
	free(now.count);
	return same;
}

/*
 * The fixture: a file with all the huge pages of a size that are free, or some
 */

FIXTURE(lend)
{
	unsigned int order;
	long nr_huge;
	int device;
	int fd;
	int nr_pfns;
	uint64_t pfns[MAX_PFNS];	/* of huge pages that the file may have */
	uint64_t nr_vmemmap;		/* of a huge page that is whole */
	bool in_cgroup;
	struct state before;
};

#define lend_data FIXTURE_DATA(lend)

FIXTURE_VARIANT(lend)
{
	unsigned int page_shift;
};

FIXTURE_VARIANT_ADD(lend, 2m)
{
	.page_shift = 21,
};

FIXTURE_VARIANT_ADD(lend, 1g)
{
	.page_shift = 30,
};

static unsigned int pmd_order(const lend_data *self)
{
	unsigned long pmd_size = read_pmd_pagesize();
	unsigned int order = pmd_size ? sz2ord(pmd_size, psize()) : 9;

	return self->order < order ? self->order : order;
}

static int do_op(int fd, unsigned long cmd, struct test_lend_op *op)
{
	return ioctl(fd, cmd, op) < 0 ? -errno : 0;
}

static int create(const lend_data *self, long nr_huge)
{
	struct test_lend_create args = { .order = self->order, .nr_huge = nr_huge };
	int fd = ioctl(self->device, TEST_LEND_CREATE, &args);

	return fd < 0 ? -errno : fd;
}

static int populate(int fd, long index, long nr)
{
	struct test_lend_op op = { .index = index, .nr = nr };

	return do_op(fd, TEST_LEND_POPULATE, &op);
}

static struct test_lend_stats get_stats(int fd, uint64_t index)
{
	struct test_lend_stats stats = { .index = index };

	if (ioctl(fd, TEST_LEND_STATS, &stats) && errno != ENOENT)
		die("TEST_LEND_STATS: %s\n", strerror(errno));
	return stats;
}

/* The cgroup of the whole system has no counters of its own. */
static bool enter_cgroup(void)
{
	try_write(CGROUPS "/cgroup.subtree_control", "+hugetlb");
	if (mkdir(CGROUP, 0700) && errno != EEXIST)
		return false;
	if (!try_write(CGROUP "/cgroup.procs", "0"))
		return true;
	rmdir(CGROUP);
	return false;
}

FIXTURE_SETUP(lend)
{
	char path[128];
	long nr_free, i;
	int fd;

	self->device = -1;
	self->fd = -1;
	self->order = variant->page_shift - pshift();
	if (geteuid())
		SKIP(return, "needs root");
	if (access(TEST_LEND_DEVICE, F_OK) &&
	    system("modprobe test_hugetlb_lend 2>/dev/null"))
		SKIP(return, "no " TEST_LEND_DEVICE ", and no module for it");
	self->device = open(TEST_LEND_DEVICE, O_RDWR);
	if (self->device < 0)
		SKIP(return, "no " TEST_LEND_DEVICE);

	snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%lukB/free_hugepages",
		 1UL << (variant->page_shift - 10));
	nr_free = access(path, R_OK) ? 0 : read_num(path);
	if (nr_free < 1)
		SKIP(return, "no free huge page of %lu kB", 1UL << (variant->page_shift - 10));

	/*
	 * HugeTLB leaves flags of its last user on a page of a pool, lending it
	 * does not.  To split one gives the zone the tails that all share, just once.
	 */
	fd = create(self, nr_free);
	if (fd < 0)
		SKIP(return, "the huge pages that are free are reserved");
	ASSERT_EQ(0, populate(fd, 0, nr_free));
	while (self->nr_pfns < nr_free && self->nr_pfns < MAX_PFNS) {
		self->pfns[self->nr_pfns] =
			get_stats(fd, (long)self->nr_pfns << self->order).pfn;
		self->nr_pfns++;
	}
	self->nr_vmemmap = get_stats(fd, 0).nr_vmemmap;
	for (i = 0; i < nr_free; i++) {
		struct test_lend_op op = { .index = i << self->order, .nr = 1 };

		ASSERT_EQ(0, do_op(fd, TEST_LEND_SPLIT, &op));
	}
	close(fd);

	self->in_cgroup = enter_cgroup();
	if (!self->in_cgroup)
		TH_LOG("no hugetlb controller in " CGROUPS ": its counters are not checked");
	read_counters(&self->before);
	read_pages(&self->before, NULL);
	ASSERT_LT(0, self->before.nr_pool);

	self->nr_huge = nr_free < MAX_HUGE ? nr_free : MAX_HUGE;
	self->fd = create(self, self->nr_huge);
	ASSERT_LE(0, self->fd);
}

FIXTURE_TEARDOWN(lend)
{
	if (self->fd >= 0)
		close(self->fd);
	if (self->device >= 0)
		close(self->device);
	if (self->in_cgroup) {
		EXPECT_EQ(0, try_write(CGROUPS "/cgroup.procs", "0"));
		EXPECT_EQ(0, rmdir(CGROUP));
	}
	free(self->before.flags);
	free(self->before.count);
}

/* Close the file: all must be as before. */
static bool end_lend(lend_data *self)
{
	close(self->fd);
	self->fd = -1;
	return unchanged(&self->before);
}

/*
 * Threads, each of which does one thing over and over
 */

struct hammer;

struct stress {
	lend_data *self;
	char *map;
	long nr_pages;
	long huge_nr;		/* pages in a huge page */
	unsigned int pmd_order;
	unsigned int granule_order;
	long hot[NR_HOT];
	bool stop;
	unsigned long sigbus;	/* of threads that touch the mapping */
};

struct hammer {
	const char *name;
	/* 1 if it was done, 0 if not this time, -1 if this kernel does not have it */
	int (*fn)(struct stress *stress, struct hammer *hammer);
	struct stress *stress;
	pthread_t thread;
	unsigned int seed;
	unsigned long done;
	unsigned long failed;	/* something happened that must not */
	bool missing;		/* from this kernel */
	bool left_out;
	int fd[3];
};

static __thread sigjmp_buf sigbus_env;

static void sigbus(int sig)
{
	siglongjmp(sigbus_env, 1);
}

static unsigned long random_below(struct hammer *hammer, unsigned long n)
{
	return ((unsigned long)rand_r(&hammer->seed) << 15 ^ rand_r(&hammer->seed)) % n;
}

static long random_index(struct hammer *hammer)
{
	struct stress *s = hammer->stress;

	return random_below(hammer, 8) ? s->hot[random_below(hammer, NR_HOT)] :
					 (long)random_below(hammer, s->nr_pages);
}

/* Something that must not be.  Once it goes wrong it may go on to do so. */
static int failed(struct hammer *hammer, const char *what, int error)
{
	if (hammer->failed++ < 3)
		ksft_print_msg("%s: %s: %s\n", hammer->name, what, strerror(error));
	return 0;
}

static int open_once(struct hammer *hammer, int i, const char *path, int flags)
{
	if (!hammer->fd[i]) {
		hammer->fd[i] = open(path, flags);
		if (hammer->fd[i] < 0)
			hammer->fd[i] = -1;
	}
	return hammer->fd[i];
}

/* Page cache lookups with a lock of a page table held */
static int hammer_mincore(struct stress *s, struct hammer *hammer)
{
	static unsigned char vec[1 << 18];
	long nr = s->huge_nr < (long)sizeof(vec) ? s->huge_nr : (long)sizeof(vec);
	long index = random_below(hammer, s->nr_pages - nr + 1);

	if (mincore(s->map + index * psize(), nr * psize(), vec))
		return failed(hammer, "mincore", errno);
	return 1;
}

/* Looks at all entries of the page cache, and takes no reference. */
static int hammer_cachestat(struct stress *s, struct hammer *hammer)
{
#ifdef __NR_cachestat
	struct { uint64_t off, len; } range = {};
	struct { uint64_t nr[5]; } stat;

	range.off = random_below(hammer, s->nr_pages) * psize();
	if (!syscall(__NR_cachestat, s->self->fd, &range, &stat, 0))
		return 1;
	/* It has worked before, or there is no such system call. */
	if (hammer->done)
		return failed(hammer, "cachestat", errno);
#endif
	return -1;
}

/* Read what /proc tells of the pages of a huge page. */
static int hammer_proc(struct stress *s, struct hammer *hammer)
{
	static const char * const files[] = {
		"/proc/kpageflags", "/proc/kpagecount", "/proc/kpagecgroup",
	};
	static __thread uint64_t buf[1 << 15];
	uint64_t pfn = s->self->pfns[random_below(hammer, s->self->nr_pfns)];
	long nr, n;
	int i;

	for (i = 0; i < 3; i++) {
		if (open_once(hammer, i, files[i], O_RDONLY) < 0)
			continue;
		for (nr = 0; nr < s->huge_nr; nr += n / 8) {
			n = (s->huge_nr - nr) * 8;
			if (n > (long)sizeof(buf))
				n = sizeof(buf);
			n = pread(hammer->fd[i], buf, n, (pfn + nr) * 8);
			if (n <= 0)
				return failed(hammer, files[i], errno);
		}
	}
	return hammer->fd[0] < 0 || hammer->fd[1] < 0 ? -1 : 1;
}

/* Takes references to pages by pfn. */
static int hammer_page_idle(struct stress *s, struct hammer *hammer)
{
	off_t pos = s->self->pfns[random_below(hammer, s->self->nr_pfns)] / 8;
	off_t end = pos + s->huge_nr / 8;
	uint64_t buf[512];		/* as much as it takes at a time */
	size_t size;
	int fd;

	fd = open_once(hammer, 0, "/sys/kernel/mm/page_idle/bitmap", O_RDWR);
	if (fd < 0)
		return -1;

	memset(buf, 0xff, sizeof(buf));
	for (; pos < end; pos += size) {
		size = end - pos < (off_t)sizeof(buf) ? end - pos : (off_t)sizeof(buf);
		if (pwrite(fd, buf, size, pos) != (ssize_t)size ||
		    pread(fd, buf, size, pos) != (ssize_t)size)
			return failed(hammer, "pread or pwrite", errno);
	}
	return 1;
}

static int hammer_compact(struct stress *s, struct hammer *hammer)
{
	int r = try_write("/proc/sys/vm/compact_memory", "1");

	usleep(100000);
	return r == -ENOENT ? -1 : !r;
}

static int hammer_split_huge_pages(struct stress *s, struct hammer *hammer)
{
	int r = try_write("/sys/kernel/debug/split_huge_pages", "1");

	usleep(100000);
	return r == -ENOENT ? -1 : !r;
}

static int hammer_touch(struct stress *s, struct hammer *hammer)
{
	char *page = s->map + random_index(hammer) * psize();

	if (sigsetjmp(sigbus_env, 1)) {
		__atomic_add_fetch(&s->sigbus, 1, __ATOMIC_RELAXED);
		return 0;
	}
	if (random_below(hammer, 4))
		__atomic_load_n(page, __ATOMIC_RELAXED);
	else
		__atomic_fetch_add(page, 1, __ATOMIC_RELAXED);
	return 1;
}

/* A pipe has the page for a moment.  It has to be there, single and exposed. */
static int hammer_pin(struct stress *s, struct hammer *hammer)
{
	static __thread char buf[1 << 16];
	struct test_lend_op op = { .index = random_index(hammer), .nr = 1 };
	char *page = s->map + op.index * psize();
	struct iovec iov = { .iov_base = page, .iov_len = psize() };
	ssize_t n;

	if (!hammer->fd[1] && pipe(hammer->fd))
		return failed(hammer, "pipe", errno);
	do_op(s->self->fd, TEST_LEND_SPLIT, &op);
	do_op(s->self->fd, TEST_LEND_EXPOSE, &op);
	n = vmsplice(hammer->fd[1], &iov, 1, SPLICE_F_NONBLOCK);
	if (n < 0)
		return 0;
	usleep(random_below(hammer, 2000));
	while (n > 0) {
		ssize_t m = read(hammer->fd[0], buf, n);

		if (m <= 0)
			return failed(hammer, "pipe", errno);
		n -= m;
	}
	/* Let others find the page unused, for longer than it was held. */
	usleep(random_below(hammer, 10000));
	return 1;
}

/* It must be refused: the page is held, so that it is lent all the time. */
static int hammer_soft_offline(struct stress *s, struct hammer *hammer)
{
	static const char path[] = "/sys/devices/system/memory/soft_offline_page";
	struct test_lend_op op = { .index = random_index(hammer), .nr = 1 };
	int fd = s->self->fd, ret = 0, r;
	struct test_lend_stats stats;
	char address[32];

	if (access(path, W_OK))
		return -1;
	if (do_op(fd, TEST_LEND_HOLD, &op))
		return 0;

	stats = get_stats(fd, op.index);
	snprintf(address, sizeof(address), "%#llx",
		 (unsigned long long)stats.pfn * psize());
	if (stats.flags & TEST_LEND_HELD) {
		ret = 1;
		r = try_write(path, address);
		if (!r) {
			ksft_print_msg("soft offline of a lent page, order %u, flags %x\n",
				       stats.order, stats.flags);
			hammer->failed++;
		}
	}

	/* It may be gone if another thread releases all that is held. */
	op.context = TEST_LEND_TASK;
	do_op(fd, TEST_LEND_RELEASE, &op);
	usleep(10000);
	return ret;
}

/*
 * Changes
 */

/* What must not be said, by an operation that may find anything by now */
static int judge(struct hammer *hammer, int r, const char *what)
{
	if (!r)
		return 1;
	if (r != -ENOENT && r != -EAGAIN && r != -EINVAL)
		failed(hammer, what, -r);
	return 0;
}

static int change_split(struct stress *s, struct hammer *hammer)
{
	long index = random_index(hammer);
	struct test_lend_op op = { .index = index, .nr = 1 };
	struct test_lend_stats stats;

	if (!random_below(hammer, 8))
		op.flags = TEST_LEND_PREPARE_ONLY;
	if (!random_below(hammer, 4)) {
		op.nr = 1UL << random_below(hammer, s->pmd_order + 1);
		op.index &= -op.nr;
	} else if (!random_below(hammer, 4)) {
		op.nr = 1 + random_below(hammer, s->huge_nr);
	} else if (!random_below(hammer, s->huge_nr > 512 ? 200 : 10)) {
		/* All of the folio; that is a lot to do for the next merge. */
		stats = get_stats(s->self->fd, index);
		op.nr = 1UL << stats.order;
		op.index &= -op.nr;
	}

	if (!judge(hammer, do_op(s->self->fd, TEST_LEND_SPLIT, &op), "split"))
		return 0;
	return !op.flags && !(op.state & TEST_LEND_NOTHING_TO_DO);
}

/* The order of a block, sometimes one that is too small or too large */
static unsigned int random_order(struct stress *s, struct hammer *hammer)
{
	switch (random_below(hammer, 4)) {
	case 0:
		return s->self->order;
	case 1:
		return s->pmd_order;
	default:
		return random_below(hammer, s->self->order + 2);
	}
}

static int change_merge(struct stress *s, struct hammer *hammer)
{
	struct test_lend_op op = { .order = random_order(s, hammer) };
	int r;

	op.index = random_index(hammer) & -(1UL << op.order);
	r = do_op(s->self->fd, TEST_LEND_MERGE, &op);
	usleep(2000);
	if (!r && (op.order < s->granule_order || op.order > s->self->order))
		return failed(hammer, "merge to an order that there is not", 0);
	if (!judge(hammer, r, "merge"))
		return 0;
	return !(op.state & TEST_LEND_NOTHING_TO_DO);
}

static int change_merge_later(struct stress *s, struct hammer *hammer)
{
	struct test_lend_op op = { .order = random_order(s, hammer) };
	int r;

	op.index = random_index(hammer) & -(1UL << op.order);
	r = do_op(s->self->fd, TEST_LEND_MERGE_LATER, &op);

	/* Mostly enough for that to happen, if the others let it */
	usleep(random_below(hammer, 3000000));
	return judge(hammer, r, "merge later");
}

/* A page that is single then, mostly */
static int change_expose(struct stress *s, struct hammer *hammer)
{
	struct test_lend_op op = { .index = random_index(hammer), .nr = 1 };
	int r;

	do_op(s->self->fd, TEST_LEND_SPLIT, &op);
	op.flags = 0;
	r = do_op(s->self->fd, TEST_LEND_EXPOSE, &op);
	return judge(hammer, r, "expose");
}

static int change_hide(struct stress *s, struct hammer *hammer)
{
	struct test_lend_op op = { .index = random_index(hammer), .nr = 1 };
	int r = do_op(s->self->fd, TEST_LEND_HIDE, &op);

	usleep(2000);
	return judge(hammer, r, "hide");
}

static int change_punch(struct stress *s, struct hammer *hammer)
{
	struct test_lend_op op = { .index = random_index(hammer) >> s->self->order, .nr = 1 };
	int r;

	/* The others need some time with it, more for what has more pages. */
	usleep(random_below(hammer, s->huge_nr > 512 ? 2000000 : 200000));
	r = do_op(s->self->fd, TEST_LEND_PUNCH, &op);
	return judge(hammer, r, "punch");
}

static int change_populate(struct stress *s, struct hammer *hammer)
{
	struct test_lend_op op = { .nr = s->self->nr_huge };
	int r = do_op(s->self->fd, TEST_LEND_POPULATE, &op);

	usleep(1000);
	return judge(hammer, r, "populate");
}

static int change_hold(struct stress *s, struct hammer *hammer)
{
	struct test_lend_op op = { .index = random_index(hammer), .nr = 1 };
	int r;

	r = do_op(s->self->fd, TEST_LEND_HOLD, &op);
	usleep(random_below(hammer, 5000));
	if (!judge(hammer, r, "hold"))
		return 0;
	op.context = random_below(hammer, TEST_LEND_NR_CONTEXTS);
	r = do_op(s->self->fd, TEST_LEND_RELEASE, &op);
	usleep(random_below(hammer, 20000));
	return judge(hammer, r, "release");
}

/* The first NR_BYSTANDERS change nothing and need nothing from the device. */
#define NR_BYSTANDERS	6

static const struct hammer hammers[] = {
	{ "mincore",		hammer_mincore },
	{ "cachestat",		hammer_cachestat },
	{ "proc",		hammer_proc },
	{ "page_idle",		hammer_page_idle },
	{ "compact_memory",	hammer_compact },
	{ "split_huge_pages",	hammer_split_huge_pages },
	{ "touch",		hammer_touch },
	{ "pin",		hammer_pin },
	{ "soft_offline",	hammer_soft_offline },
	{ "split",		change_split },
	{ "merge",		change_merge },
	{ "merge later",	change_merge_later },
	{ "expose",		change_expose },
	{ "hide",		change_hide },
	{ "punch",		change_punch },
	{ "populate",		change_populate },
	{ "hold and release",	change_hold },
};

#define NR_HAMMERS	((int)ARRAY_SIZE(hammers))

static void *hammer_thread(void *arg)
{
	struct hammer *hammer = arg;
	int r;

	/*
	 * On one CPU a kernel thread of low priority, preempted in an RCU read-side
	 * section, would starve.
	 */
	setpriority(PRIO_PROCESS, 0, 19);
	while (!__atomic_load_n(&hammer->stress->stop, __ATOMIC_RELAXED)) {
		r = hammer->fn(hammer->stress, hammer);
		if (r < 0) {
			__atomic_store_n(&hammer->missing, true, __ATOMIC_RELAXED);
			break;
		}
		__atomic_add_fetch(&hammer->done, r, __ATOMIC_RELAXED);
	}
	return NULL;
}

static bool is_done(struct hammer *hammer)
{
	return hammer->left_out ||
	       __atomic_load_n(&hammer->missing, __ATOMIC_RELAXED) ||
	       __atomic_load_n(&hammer->done, __ATOMIC_RELAXED) >= MIN_DONE;
}

/* Until each has done its part, which takes long where there are few CPUs. */
static void wait_for_hammers(struct hammer *h, int nr)
{
	struct timespec end = after(PATIENCE);
	int i;

	for (i = 0; i < nr; i++)
		while (!is_done(&h[i]) && !expired(&end))
			usleep(100000);
}

static void expect_done(struct __test_metadata *_metadata, struct hammer *h, int nr)
{
	int i;

	for (i = 0; i < nr; i++) {
		EXPECT_EQ(0, h[i].failed)
			TH_LOG("%s: %lu times what must not be", h[i].name, h[i].failed);
		if (h[i].missing || h[i].left_out) {
			TH_LOG("%s: %s", h[i].name,
			       h[i].left_out ? "left out" : "this kernel does not have it");
			continue;
		}
		TH_LOG("%s: %lu times", h[i].name, h[i].done);
		EXPECT_LE(MIN_DONE, h[i].done)
			TH_LOG("%s: %lu times in %d s", h[i].name, h[i].done, PATIENCE);
	}
}

static bool is_left_out(const char *name)
{
	int i;

	for (i = 0; i < opt_nr_without; i++)
		if (!strcmp(name, opt_without[i]))
			return true;
	return false;
}

static void start_stress(struct stress *s, struct hammer *h, int nr)
{
	struct sigaction sa = { .sa_handler = sigbus };
	unsigned int seed = opt_seed;
	int i;

	sigaction(SIGBUS, &sa, NULL);
	s->huge_nr = 1L << s->self->order;
	s->pmd_order = pmd_order(s->self);
	s->granule_order = get_stats(s->self->fd, 0).granule_order;
	s->nr_pages = s->self->nr_huge << s->self->order;
	for (i = 0; i < NR_HOT; i++)
		s->hot[i] = ((long)rand_r(&seed) << 15 ^ rand_r(&seed)) % s->nr_pages;
	/* Some that share a block of 2M, and fewer that share a granule */
	for (i = 0; i < NR_HOT / 2; i++)
		s->hot[i] = (s->hot[0] & -(1L << s->pmd_order)) + 24 * i;

	s->map = mmap(NULL, s->nr_pages * psize(), PROT_READ | PROT_WRITE, MAP_SHARED,
		      s->self->fd, 0);
	if (s->map == MAP_FAILED)
		die("mmap: %s\n", strerror(errno));

	for (i = 0; i < nr; i++) {
		h[i].stress = s;
		h[i].seed = opt_seed + i;
		h[i].left_out = is_left_out(h[i].name);
		if (!h[i].left_out &&
		    pthread_create(&h[i].thread, NULL, hammer_thread, &h[i]))
			die("no thread\n");
	}
}

static void stop_stress(struct stress *s, struct hammer *h, int nr)
{
	int i, j;

	__atomic_store_n(&s->stop, true, __ATOMIC_RELAXED);
	for (i = 0; i < nr; i++) {
		if (!h[i].left_out)
			pthread_join(h[i].thread, NULL);
		for (j = 0; j < 3; j++)
			if (h[i].fd[j] > 0)
				close(h[i].fd[j]);
	}
	munmap(s->map, s->nr_pages * psize());
}

/* Nothing is used any more: all can be made whole, and is as if never split. */
static void expect_whole(struct __test_metadata *_metadata, lend_data *self)
{
	struct test_lend_op op = { .flags = TEST_LEND_ALL };
	struct timespec end = after(PATIENCE);
	struct test_lend_stats stats;
	long i;
	int r;

	do_op(self->fd, TEST_LEND_RELEASE, &op);
	while (populate(self->fd, 0, self->nr_huge) == -EAGAIN && !expired(&end))
		usleep(1000);
	for (i = 0; i < self->nr_huge; i++) {
		do {
			op = (struct test_lend_op) {
				.index = i << self->order,
				.order = self->order,
			};
			r = do_op(self->fd, TEST_LEND_MERGE, &op);
		} while (r == -EAGAIN && !expired(&end));
		EXPECT_EQ(0, r);

		stats = get_stats(self->fd, op.index);
		EXPECT_EQ(1, stats.nr_folios[self->order]);
		EXPECT_EQ(0, stats.nr_folios[0]);
		EXPECT_EQ(self->nr_vmemmap, stats.nr_vmemmap);
	}
	EXPECT_EQ(self->nr_huge << self->order, get_stats(self->fd, 0).nr_pages);
}

TEST_F_TIMEOUT(lend, stress, TIMEOUT)
{
	struct stress s = { .self = self };
	struct hammer h[NR_HAMMERS];

	memcpy(h, hammers, sizeof(h));
	TH_LOG("seed %lu", opt_seed);
	start_stress(&s, h, NR_HAMMERS);
	sleep(opt_seconds);
	wait_for_hammers(h, NR_HAMMERS);
	stop_stress(&s, h, NR_HAMMERS);

	expect_done(_metadata, h, NR_HAMMERS);
	/* There was something that could not be mapped. */
	EXPECT_LT(0, s.sigbus);

	expect_whole(_metadata, self);
	EXPECT_TRUE(end_lend(self));
}

/*
 * A walk in the kernel, whose outcome is checked after each step
 */

static void walk(struct __test_metadata *_metadata, lend_data *self, int nr_hammers)
{
	struct test_lend_walk args = { .seed = opt_seed, .rounds = 1000 };
	struct stress s = { .self = self };
	struct hammer h[NR_HAMMERS];
	int r;

	memcpy(h, hammers, sizeof(h));
	start_stress(&s, h, nr_hammers);
	args.map = (uintptr_t)s.map;
	r = ioctl(self->fd, TEST_LEND_WALK, &args);
	EXPECT_EQ(0, r)
		TH_LOG("seed %lu: %s; see the kernel's log", opt_seed, strerror(errno));
	wait_for_hammers(h, nr_hammers);
	stop_stress(&s, h, nr_hammers);
	expect_done(_metadata, h, nr_hammers);

	TH_LOG("%llu splits, %llu merges, %llu later, %llu refused, %llu repeated",
	       args.nr_splits, args.nr_merges, args.nr_later, args.nr_refused,
	       args.nr_retried);
	EXPECT_EQ(args.rounds, args.nr_steps);
	EXPECT_LT(0, args.nr_splits);
	EXPECT_LT(0, args.nr_uniform);
	EXPECT_LT(0, args.nr_merges);
	EXPECT_LT(0, args.nr_later);
	EXPECT_LT(0, args.nr_refused);
	EXPECT_LT(0, args.nr_exposed);
	EXPECT_LT(0, args.nr_mapped);
	EXPECT_LT(0, args.nr_holds);
	EXPECT_LT(0, args.nr_punched);
	EXPECT_EQ(0, args.nr_failed);
	EXPECT_TRUE(end_lend(self));
}

TEST_F_TIMEOUT(lend, walk, TIMEOUT)
{
	walk(_metadata, self, 0);
}

TEST_F_TIMEOUT(lend, walk_among_others, TIMEOUT)
{
	walk(_metadata, self, NR_BYSTANDERS);
}

/*
 * Which folios there are, and what is put off
 */

static bool wait_until_merged(int fd, uint64_t index, unsigned int order)
{
	struct timespec end = after(PATIENCE);

	do {
		if (get_stats(fd, index).order >= order)
			return true;
		usleep(10000);
	} while (!expired(&end));
	return false;
}

/* A range is single pages then, all else is in folios that are as large as can be. */
TEST_F_TIMEOUT(lend, buddies, TIMEOUT)
{
	struct test_lend_op op = { .nr = 1 };
	struct test_lend_stats before, stats;
	unsigned int order, granule;
	uint64_t index;

	ASSERT_EQ(0, populate(self->fd, 0, 1));
	before = get_stats(self->fd, 0);
	granule = before.granule_order;
	EXPECT_EQ(self->order, before.order);
	EXPECT_EQ(1, before.nr_folios[self->order]);

	/* The first page, in the first of the granules */
	ASSERT_EQ(0, do_op(self->fd, TEST_LEND_SPLIT, &op));
	EXPECT_EQ(1, op.tries);
	EXPECT_EQ(0, op.state);
	stats = get_stats(self->fd, 0);
	EXPECT_EQ(1UL << granule, stats.nr_folios[0]);
	for (order = granule; order < self->order; order++) {
		EXPECT_EQ(1, stats.nr_folios[order]);
		index = 1UL << order;
		EXPECT_EQ(order, get_stats(self->fd, index).order);
		EXPECT_EQ(before.pfn + index, get_stats(self->fd, index).head_pfn);
	}
	EXPECT_EQ(0, stats.nr_folios[self->order]);
	EXPECT_EQ((int64_t)(stats.nr_vmemmap - before.nr_vmemmap), op.vmemmap_pages);
	/* With HVO: one page for each folio, and one for the granule */
	EXPECT_EQ(before.nr_vmemmap == 1 ? self->order - granule + 1 : before.nr_vmemmap,
		  stats.nr_vmemmap);

	/* There is nothing to do for another page of the granule. */
	op = (struct test_lend_op) { .index = 1, .nr = 1 };
	ASSERT_EQ(0, do_op(self->fd, TEST_LEND_SPLIT, &op));
	EXPECT_EQ(TEST_LEND_NOTHING_TO_DO, op.state);
	EXPECT_EQ(stats.nr_nodes, get_stats(self->fd, 0).nr_nodes);

	/* Half of it again: the other half is split already. */
	op = (struct test_lend_op) { .order = self->order - 1 };
	ASSERT_EQ(0, do_op(self->fd, TEST_LEND_MERGE, &op));
	stats = get_stats(self->fd, 0);
	EXPECT_EQ(2, stats.nr_folios[self->order - 1]);
	EXPECT_EQ(0, stats.nr_folios[0]);
	op = (struct test_lend_op) { .order = self->order };
	ASSERT_EQ(0, do_op(self->fd, TEST_LEND_MERGE, &op));
	EXPECT_EQ(0, op.state);
	stats = get_stats(self->fd, 0);
	EXPECT_EQ(1, stats.nr_folios[self->order]);
	EXPECT_EQ(before.nr_vmemmap, stats.nr_vmemmap);
	EXPECT_EQ(before.nr_nodes, stats.nr_nodes);

	/* All of it */
	op = (struct test_lend_op) { .nr = 1UL << self->order };
	ASSERT_EQ(0, do_op(self->fd, TEST_LEND_SPLIT, &op));
	stats = get_stats(self->fd, 0);
	EXPECT_EQ(1UL << self->order, stats.nr_folios[0]);
	EXPECT_TRUE(end_lend(self));
}

TEST_F_TIMEOUT(lend, merge_later, TIMEOUT)
{
	struct test_lend_op op = { .nr = 1 };
	struct timespec end = after(PATIENCE);
	struct test_lend_stats stats;
	unsigned int granule;
	bool wanted;

	ASSERT_EQ(0, populate(self->fd, 0, 1));
	granule = get_stats(self->fd, 0).granule_order;
	ASSERT_EQ(0, do_op(self->fd, TEST_LEND_SPLIT, &op));
	EXPECT_EQ(0, op.state);

	op = (struct test_lend_op) { .order = self->order };
	ASSERT_EQ(0, do_op(self->fd, TEST_LEND_MERGE_LATER, &op));
	EXPECT_EQ(TEST_LEND_MERGE_WANTED, op.state);

	/* A split that is prepared changes nothing, and one that is done forgets. */
	op = (struct test_lend_op) {
		.index = 1UL << granule,
		.nr = 1,
		.flags = TEST_LEND_PREPARE_ONLY,
	};
	ASSERT_EQ(0, do_op(self->fd, TEST_LEND_SPLIT, &op));
	EXPECT_EQ(TEST_LEND_MERGE_WANTED, op.state);
	op.flags = 0;
	ASSERT_EQ(0, do_op(self->fd, TEST_LEND_SPLIT, &op));
	EXPECT_EQ(0, op.state);
	EXPECT_EQ(0, get_stats(self->fd, 0).merge_wanted);

	/* A part, and with that done the rest; the borrower hears of both. */
	op = (struct test_lend_op) { .order = granule };
	ASSERT_EQ(0, do_op(self->fd, TEST_LEND_MERGE_LATER, &op));
	EXPECT_EQ(TEST_LEND_MERGE_WANTED, op.state);
	EXPECT_TRUE(wait_until_merged(self->fd, 0, granule));
	stats = get_stats(self->fd, 0);
	EXPECT_EQ(granule, stats.order);
	EXPECT_EQ(1, stats.nr_merged);
	EXPECT_EQ(granule, stats.merged_order);
	EXPECT_EQ(0, stats.merged_index);

	op = (struct test_lend_op) { .order = self->order };
	ASSERT_EQ(0, do_op(self->fd, TEST_LEND_MERGE_LATER, &op));
	EXPECT_TRUE(wait_until_merged(self->fd, 0, self->order));
	stats = get_stats(self->fd, 0);
	EXPECT_LT(1, stats.nr_merged);
	EXPECT_EQ(self->order, stats.merged_order);
	EXPECT_EQ(0, stats.merged_index);

	/* It is known to be done, too. */
	do {
		usleep(10000);
		wanted = get_stats(self->fd, 0).merge_wanted;
	} while (wanted && !expired(&end));
	EXPECT_FALSE(wanted);
	EXPECT_TRUE(end_lend(self));
}

/* A reference holds up a split, and a merge, but nothing else. */
TEST_F_TIMEOUT(lend, held, TIMEOUT)
{
	struct test_lend_op op = { .nr = 1 };
	const uint64_t block = 1UL << pmd_order(self);
	struct test_lend_stats stats;
	char *map;

	ASSERT_EQ(0, populate(self->fd, 0, 1));
	ASSERT_EQ(0, do_op(self->fd, TEST_LEND_HOLD, &op));
	EXPECT_EQ(-EAGAIN, do_op(self->fd, TEST_LEND_SPLIT, &op));
	EXPECT_LT(1, op.tries);
	EXPECT_EQ(0, op.vmemmap_pages);
	EXPECT_EQ(1, get_stats(self->fd, 0).nr_folios[self->order]);

	op.context = TEST_LEND_HARDIRQ;
	ASSERT_EQ(0, do_op(self->fd, TEST_LEND_RELEASE, &op));
	EXPECT_EQ(1, op.nr);
	ASSERT_EQ(0, do_op(self->fd, TEST_LEND_SPLIT, &op));
	EXPECT_EQ(0, get_stats(self->fd, 0).nr_folios[self->order]);

	/* Two blocks of which one can be merged, if the huge page has two */
	op = (struct test_lend_op) { .index = block & ((1UL << self->order) - 1), .nr = 1 };
	ASSERT_EQ(0, do_op(self->fd, TEST_LEND_SPLIT, &op));
	ASSERT_EQ(0, do_op(self->fd, TEST_LEND_HOLD, &op));
	stats = get_stats(self->fd, op.index);
	EXPECT_EQ(0, stats.order);
	EXPECT_EQ(2, stats.refcount);
	op = (struct test_lend_op) { .order = self->order };
	EXPECT_EQ(-EAGAIN, do_op(self->fd, TEST_LEND_MERGE, &op));
	EXPECT_LT(1, op.tries);
	EXPECT_EQ(block == 1UL << self->order ? 0 : pmd_order(self),
		  get_stats(self->fd, 0).order);
	EXPECT_NE(0, get_stats(self->fd, 0).nr_folios[0]);

	/* A mapping is a reference, too. */
	op = (struct test_lend_op) { .index = stats.index, .nr = 1 };
	ASSERT_EQ(0, do_op(self->fd, TEST_LEND_EXPOSE, &op));
	map = mmap(NULL, psize(), PROT_READ, MAP_SHARED, self->fd, stats.index * psize());
	ASSERT_NE(MAP_FAILED, map);
	FORCE_READ(*map);
	EXPECT_EQ(TEST_LEND_MAPPED, get_stats(self->fd, stats.index).flags & TEST_LEND_MAPPED);
	ASSERT_EQ(0, do_op(self->fd, TEST_LEND_RELEASE, &op));

	op = (struct test_lend_op) { .order = self->order };
	ASSERT_EQ(0, do_op(self->fd, TEST_LEND_MERGE_LATER, &op));
	EXPECT_EQ(TEST_LEND_MERGE_WANTED, op.state);
	sleep(3);
	EXPECT_EQ(0, get_stats(self->fd, stats.index).order);
	EXPECT_EQ(1, get_stats(self->fd, 0).merge_wanted);
	munmap(map, psize());
	EXPECT_TRUE(wait_until_merged(self->fd, 0, self->order));
	EXPECT_EQ(self->order, get_stats(self->fd, 0).merged_order);
	EXPECT_EQ(TEST_LEND_LENT, get_stats(self->fd, 0).flags & TEST_LEND_LENT);
	EXPECT_TRUE(end_lend(self));
}

/*
 * The device takes nothing for granted.
 */

TEST_F_TIMEOUT(lend, bad_arguments, TIMEOUT)
{
	static const unsigned long cmds[] = {
		TEST_LEND_POPULATE, TEST_LEND_SPLIT, TEST_LEND_MERGE, TEST_LEND_MERGE_LATER,
		TEST_LEND_EXPOSE, TEST_LEND_HIDE, TEST_LEND_PUNCH, TEST_LEND_HOLD,
		TEST_LEND_RELEASE,
	};
	const uint64_t nr_pages = (uint64_t)self->nr_huge << self->order;
	struct test_lend_op op;
	struct test_lend_stats stats = { .index = nr_pages };
	size_t i;

	EXPECT_EQ(-ENODEV, create(&(lend_data){ .device = self->device, .order = 1 }, 1));
	EXPECT_EQ(-ENODEV, create(&(lend_data){ .device = self->device, .order = 60 }, 1));
	EXPECT_EQ(-EINVAL, create(self, 0));
	EXPECT_EQ(-ENOMEM, create(self, -1));
	EXPECT_EQ(-ENOMEM, create(self, 1L << 40));

	for (i = 0; i < ARRAY_SIZE(cmds); i++) {
		op = (struct test_lend_op) { .index = nr_pages, .nr = 1 };
		EXPECT_EQ(-EINVAL, do_op(self->fd, cmds[i], &op));
		op = (struct test_lend_op) { .index = -1, .nr = 2 };
		EXPECT_EQ(-EINVAL, do_op(self->fd, cmds[i], &op));
		op = (struct test_lend_op) { .nr = 1, .flags = 1U << 31 };
		EXPECT_EQ(-EINVAL, do_op(self->fd, cmds[i], &op));
		EXPECT_EQ(-ENOTTY, do_op(self->device, cmds[i], &op));
		EXPECT_EQ(-1, ioctl(self->fd, cmds[i], NULL));
		EXPECT_EQ(EFAULT, errno);
	}
	EXPECT_EQ(-1, ioctl(self->fd, TEST_LEND_STATS, &stats));
	EXPECT_EQ(EINVAL, errno);

	/* Nothing is there. */
	for (i = 1; i < ARRAY_SIZE(cmds); i++) {
		if (cmds[i] == TEST_LEND_PUNCH)
			continue;
		op = (struct test_lend_op) { .nr = 1, .order = self->order };
		EXPECT_EQ(-ENOENT, do_op(self->fd, cmds[i], &op));
	}

	ASSERT_EQ(0, populate(self->fd, 0, 1));
	stats = get_stats(self->fd, 0);
	op = (struct test_lend_op) { .nr = 1 };
	EXPECT_EQ(-EINVAL, do_op(self->fd, TEST_LEND_EXPOSE, &op));
	EXPECT_EQ(-EINVAL, do_op(self->fd, TEST_LEND_HIDE, &op));
	op = (struct test_lend_op) { .index = 1, .nr = 1UL << self->order };
	EXPECT_EQ(-EINVAL, do_op(self->fd, TEST_LEND_SPLIT, &op));
	op = (struct test_lend_op) { .nr = (1UL << self->order) + 1 };
	EXPECT_EQ(-EINVAL, do_op(self->fd, TEST_LEND_SPLIT, &op));
	op = (struct test_lend_op) { .index = 1, .nr = -1 };
	EXPECT_EQ(-EINVAL, do_op(self->fd, TEST_LEND_SPLIT, &op));
	op = (struct test_lend_op) { .index = 1 };
	EXPECT_EQ(-EINVAL, do_op(self->fd, TEST_LEND_SPLIT, &op));
	op = (struct test_lend_op) { .nr = 1 };
	EXPECT_EQ(0, do_op(self->fd, TEST_LEND_SPLIT, &op));

	for (i = 0; i < 2; i++) {
		const unsigned long cmd = i ? TEST_LEND_MERGE_LATER : TEST_LEND_MERGE;

		op = (struct test_lend_op) { .order = stats.granule_order - 1 };
		EXPECT_EQ(-EINVAL, do_op(self->fd, cmd, &op));
		op = (struct test_lend_op) { .order = 0 };
		EXPECT_EQ(-EINVAL, do_op(self->fd, cmd, &op));
		op = (struct test_lend_op) { .order = self->order + 1 };
		EXPECT_EQ(-EINVAL, do_op(self->fd, cmd, &op));
		op = (struct test_lend_op) { .order = -1 };
		EXPECT_EQ(-EINVAL, do_op(self->fd, cmd, &op));
		op = (struct test_lend_op) { .index = 1, .order = self->order };
		EXPECT_EQ(-EINVAL, do_op(self->fd, cmd, &op));
	}
	EXPECT_TRUE(end_lend(self));
}

/* The harness has options of its own; these are taken off the command line. */
static int take_options(int argc, char **argv)
{
	int i, n = 1;

	for (i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--seconds") && i + 1 < argc)
			opt_seconds = atol(argv[++i]);
		else if (!strcmp(argv[i], "--seed") && i + 1 < argc)
			opt_seed = strtoul(argv[++i], NULL, 0);
		else if (!strcmp(argv[i], "--without") && i + 1 < argc &&
			 opt_nr_without < (int)ARRAY_SIZE(opt_without))
			opt_without[opt_nr_without++] = argv[++i];
		else
			argv[n++] = argv[i];
	}
	argv[n] = NULL;
	return n;
}

int main(int argc, char **argv)
{
	opt_seed = time(NULL);
	argc = take_options(argc, argv);
	return test_harness_run(argc, argv);
}
