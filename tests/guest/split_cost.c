// SPDX-License-Identifier: GPL-2.0
/*
 * usage: split_cost [cost | ipi | ordinary]
 *
 * What it costs to split a 1G page that HugeTLB has lent out, and to merge it
 * again, side by side with what it would cost otherwise, and with limits.  For a VM
 * with --icount, where a nanosecond is an instruction, and all is the same in each
 * run.
 *
 *   cost      instructions, memory, and the longest time that a task with real-time
 *             priority was kept from its CPU; one CPU, pages of 1G and 2M
 *   ipi       function-call interrupts while nothing changes in the vmemmap; two CPUs
 *   ordinary  what an ordinary page costs, also on a kernel without lent pages
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "result.h"
#include "../../build/linux/lib/test_hugetlb_lend_uapi.h"
#include "../../build/linux/mm/gup_test.h"

#define GRANULE_ORDER	6
#define PMD_ORDER	9
#define PUD_ORDER	18
#define NR_GRANULE	(1UL << GRANULE_ORDER)
#define NR_PMD		(1UL << PMD_ORDER)
#define NR_HUGE		(1UL << PUD_ORDER)
#define PAGE_SIZE	4096UL
#define ROUNDS		3
#define NR_PUTS		1000
#define HUGEPAGES	"/sys/kernel/mm/hugepages/hugepages-1048576kB/"

/* Somewhere in the middle, on the border of nothing but a block of 2M */
#define BLOCK		(100 * NR_PMD)
#define SOMEWHERE	(BLOCK + 7)

/* What the first 4K may take and keep, and its share of splitting all at once */
#define MAX_KIB		64
#define MAX_VMEMMAP	12
#define MAX_NODES	3
#define SHARE		150

/* To punch what was split and merged, against what never was */
#define MAX_PUNCH	2

/* Instructions with preemption off, with HVO and without */
#define MAX_LATENCY_HVO		500000
#define MAX_LATENCY_NO_HVO	2000000
/* How often the real-time task runs, in ns; as exactly the time is known */
#define PERIOD		20000

#define NR_TOGGLES	1000
#define NR_GRANULE_TOGGLES	200

struct cost {
	double prepare;
	double commit;
	long vmemmap;		/* pages */
	long nodes;
};

static int device, fd;
static double node_size;
static bool hvo;

static void die(const char *what)
{
	printf("Bail out! %s: %m\n", what);
	exit(1);
}

static void row(const char *what, struct cost c)
{
	printf("# %-44s %12.0f %12.0f %8ld %6ld %8.1f\n", what, c.prepare, c.commit,
	       c.vmemmap, c.nodes,
	       (c.vmemmap * (double)PAGE_SIZE + c.nodes * node_size) / 1024);
}

static double sum(struct cost cost)
{
	return cost.prepare + cost.commit;
}

/*
 * What the kernel tells
 */

static long nr_memmap_pages(void)
{
	char line[128];
	long value = -1;
	FILE *f;

	f = fopen("/proc/vmstat", "r");
	if (!f)
		die("/proc/vmstat");
	while (value < 0 && fgets(line, sizeof(line), f))
		sscanf(line, "nr_memmap_pages %ld", &value);
	fclose(f);
	if (value < 0)
		die("no nr_memmap_pages in /proc/vmstat");
	return value;
}

/* What a node of an XArray takes, with its share of what is left over in a slab */
static double xa_node_size(void)
{
	unsigned long size, per_slab, pages;
	char line[256];
	double r = 0;
	FILE *f;

	f = fopen("/proc/slabinfo", "r");
	if (!f)
		die("/proc/slabinfo");
	while (!r && fgets(line, sizeof(line), f))
		if (sscanf(line, "radix_tree_node %*u %*u %lu %lu %lu", &size, &per_slab,
			   &pages) == 3)
			r = (double)pages * PAGE_SIZE / per_slab;
	fclose(f);
	if (!r)
		die("no radix_tree_node in /proc/slabinfo");
	return r;
}

/* Function calls on other CPUs, which kernel TLB flushes are, and TLB shootdowns */
static long nr_ipis(void)
{
	char line[4096], *p, *end;
	long sum = 0, n;
	FILE *f;

	f = fopen("/proc/interrupts", "r");
	if (!f)
		die("/proc/interrupts");
	while (fgets(line, sizeof(line), f)) {
		p = line + strspn(line, " ");
		if (strncmp(p, "CAL:", 4) && strncmp(p, "TLB:", 4))
			continue;
		for (p += 4;; p = end) {
			n = strtol(p, &end, 10);
			if (end == p)
				break;
			sum += n;
		}
	}
	fclose(f);
	return sum;
}

static struct test_lend_stats get_stats(unsigned long index)
{
	struct test_lend_stats stats = { .index = index };

	if (ioctl(fd, TEST_LEND_STATS, &stats) && errno != ENOENT)
		die("TEST_LEND_STATS");
	return stats;
}

static double clock_ns(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

/*
 * Operations on the file
 */

static int create(unsigned int order, unsigned long nr_huge)
{
	struct test_lend_create create = { .order = order, .nr_huge = nr_huge };

	return ioctl(device, TEST_LEND_CREATE, &create);
}

static struct test_lend_op do_op(unsigned long cmd, unsigned long index,
				 unsigned long nr, unsigned int order)
{
	struct test_lend_op op = { .index = index, .nr = nr, .order = order };

	if (ioctl(fd, cmd, &op)) {
		printf("Bail out! ioctl %lx at %lx: %m\n", cmd, index);
		exit(1);
	}
	return op;
}

/* The same with what it costs.  It has to do something, and at the first attempt. */
static struct cost cost_of(unsigned long cmd, unsigned long index, unsigned long nr,
			   unsigned int order)
{
	long nodes = get_stats(0).nr_nodes, vmemmap = nr_memmap_pages();
	struct test_lend_op op = do_op(cmd, index, nr, order);
	struct cost cost = {
		.prepare = op.prepare_cycles,
		.commit = op.commit_cycles,
		.vmemmap = nr_memmap_pages() - vmemmap,
		.nodes = get_stats(0).nr_nodes - nodes,
	};

	if (op.state & TEST_LEND_NOTHING_TO_DO || op.tries != 1) {
		printf("Bail out! state %x of ioctl %lx at %lx, %u tries\n", op.state,
		       cmd, index, op.tries);
		exit(1);
	}
	return cost;
}

static struct cost split(unsigned long index, unsigned long nr)
{
	return cost_of(TEST_LEND_SPLIT, index, nr, 0);
}

static struct cost merge(unsigned long index, unsigned int order)
{
	return cost_of(TEST_LEND_MERGE, index, 0, order);
}

/* Elapsed: another task may do the work, and a wait is a cost. */
static double punch(unsigned long nr_huge)
{
	double start = clock_ns(CLOCK_MONOTONIC);

	do_op(TEST_LEND_PUNCH, 0, nr_huge, 0);
	return clock_ns(CLOCK_MONOTONIC) - start;
}

static void populate(unsigned long nr_huge)
{
	do_op(TEST_LEND_POPULATE, 0, nr_huge, 0);
}

static void fresh(void)
{
	punch(1);
	populate(1);
}

/* The least of some rounds, as interrupts only add to it; the last one's memory */
static void least(struct cost *cost, struct cost now, int round)
{
	if (round && cost->prepare < now.prepare)
		now.prepare = cost->prepare;
	if (round && cost->commit < now.commit)
		now.commit = cost->commit;
	*cost = now;
}

static void least_of(double *least, double now, int round)
{
	if (!round || now < *least)
		*least = now;
}

/*
 * Instructions and memory
 */

static struct cost first_4k(void)
{
	struct cost first = {}, granule = {}, block = {}, far = {};
	struct cost merge_granule = {}, merge_block = {}, merge_huge = {};
	bool nothing = true, given_back = true;
	struct test_lend_op op;
	double known = 0;
	long memmap, nodes;
	int i;

	for (i = 0; i < ROUNDS; i++) {
		fresh();
		memmap = nr_memmap_pages();
		nodes = get_stats(0).nr_nodes;

		least(&first, split(SOMEWHERE, 1), i);
		op = do_op(TEST_LEND_SPLIT, SOMEWHERE + 1, 1, 0);
		nothing &= op.state & TEST_LEND_NOTHING_TO_DO && !op.vmemmap_pages;
		least_of(&known, op.prepare_cycles, i);
		least(&granule, split(BLOCK + NR_GRANULE, 1), i);
		least(&block, split(BLOCK + 5 * NR_GRANULE, 1), i);
		least(&far, split(BLOCK + 200 * NR_PMD, 1), i);
		least(&merge_granule, merge(BLOCK, GRANULE_ORDER), i);
		least(&merge_block, merge(BLOCK, PMD_ORDER), i);
		merge(0, PUD_ORDER);

		split(SOMEWHERE, 1);
		least(&merge_huge, merge(0, PUD_ORDER), i);
		given_back &= nr_memmap_pages() == memmap &&
			      get_stats(0).nr_nodes == (uint64_t)nodes;
	}
	row("the first 4K of a whole 1G page", first);
	row("another 4K in the same granule", (struct cost){ .prepare = known });
	row("the next granule, a folio of its own", granule);
	row("a granule in a larger folio of that block", block);
	row("4K in another block of 2M", far);
	row("merging a granule", merge_granule);
	row("merging 2M of all that", merge_block);
	row("merging 1G after the first 4K", merge_huge);
	result(nothing, "another 4K page in a granule that is split takes nothing");
	result(given_back, "after merging the vmemmap and the nodes are at once what they were");
	return first;
}

static void block_2m(void)
{
	struct cost block = {}, merge_block = {}, merge_huge = {};
	int i;

	for (i = 0; i < ROUNDS; i++) {
		fresh();
		least(&block, split(BLOCK, NR_PMD), i);
		least(&merge_block, merge(BLOCK, PMD_ORDER), i);
		least(&merge_huge, merge(0, PUD_ORDER), i);
	}
	row("a block of 2M in a whole 1G page", block);
	row("merging that 2M", merge_block);
	row("merging 1G of that and its buddies", merge_huge);
}

static void make_blocks(void)
{
	unsigned long index;

	fresh();
	for (index = 0; index < NR_HUGE; index += NR_PMD) {
		do_op(TEST_LEND_SPLIT, index, 1, 0);
		do_op(TEST_LEND_MERGE, index, 0, PMD_ORDER);
	}
}

static struct cost split_all(void)
{
	struct cost all = {}, merge_all = {}, merge_blocks = {};
	int i;

	for (i = 0; i < ROUNDS; i++) {
		fresh();
		least(&all, split(0, NR_HUGE), i);
		least(&merge_all, merge(0, PUD_ORDER), i);
	}
	row("1G to 4K at once (uniform)", all);
	row("merging 1G of that", merge_all);

	for (i = 0; i < ROUNDS; i++) {
		make_blocks();
		least(&merge_blocks, merge(0, PUD_ORDER), i);
	}
	row("merging 1G of 512 x 2M", merge_blocks);
	return all;
}

static void toggle_exposed(char *map, unsigned long index)
{
	struct test_lend_op op;

	/* It was split by the first of them. */
	op = do_op(TEST_LEND_SPLIT, index, 1, 0);
	if (!(op.state & TEST_LEND_NOTHING_TO_DO))
		die("split again");
	do_op(TEST_LEND_EXPOSE, index, 1, 0);
	__atomic_fetch_add(map + index * PAGE_SIZE, 1, __ATOMIC_RELAXED);
	do_op(TEST_LEND_HIDE, index, 1, 0);
}

static char *map_huge(void)
{
	char *map = mmap(NULL, NR_HUGE * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (map == MAP_FAILED)
		die("mmap");
	return map;
}

/* What a page that is shared and private by turns takes: system calls, a fault */
static void toggles(void)
{
	struct cost cost = {};
	double start;
	char *map;
	int i;

	map = map_huge();
	fresh();
	split(SOMEWHERE, 1);
	toggle_exposed(map, SOMEWHERE);
	start = clock_ns(CLOCK_MONOTONIC);
	for (i = 0; i < NR_TOGGLES; i++)
		toggle_exposed(map, SOMEWHERE);
	cost.commit = (clock_ns(CLOCK_MONOTONIC) - start) / NR_TOGGLES;
	row("4K exposed, touched and hidden, each time", cost);
	munmap(map, NR_HUGE * PAGE_SIZE);
}

/* HugeTLB's own way from 1G to 2M, for pages that are free */
static void demote(void)
{
	long memmap = nr_memmap_pages();
	struct cost cost = {};
	double start;
	int file;

	file = open(HUGEPAGES "demote", O_WRONLY);
	if (file < 0) {
		printf("# no " HUGEPAGES "demote\n");
		return;
	}
	start = clock_ns(CLOCK_MONOTONIC);
	if (write(file, "1", 1) != 1)
		die(HUGEPAGES "demote");
	cost.commit = clock_ns(CLOCK_MONOTONIC) - start;
	cost.vmemmap = nr_memmap_pages() - memmap;
	close(file);
	row("HugeTLB demoting a free 1G page to 2M", cost);
}

static void put_cost(void)
{
	struct test_lend_put_cost cost = { .nr = NR_PUTS };
	double get_put = 0, alloc_put = 0;
	int i;

	for (i = 0; i < ROUNDS; i++) {
		if (ioctl(device, TEST_LEND_PUT_COST, &cost))
			die("TEST_LEND_PUT_COST");
		least_of(&get_put, cost.get_put_cycles, i);
		least_of(&alloc_put, cost.alloc_put_cycles, i);
	}
	printf("# folio_get() and folio_put() of an ordinary page: %.1f, allocating and putting one: %.1f\n",
	       get_put / NR_PUTS, alloc_put / NR_PUTS);
}

/*
 * Punching
 */

enum shape { UNSPLIT, SPLIT_MERGED, SPLIT_4K, SPLIT_BLOCK, SINGLE, NR_SHAPES };

static const char * const shapes[] = {
	[UNSPLIT]	= "never split",
	[SPLIT_MERGED]	= "split at 4K, and merged",
	[SPLIT_4K]	= "split at 4K",
	[SPLIT_BLOCK]	= "a block of 2M split",
	[SINGLE]	= "all single pages",
};

static void make_shape(enum shape shape, unsigned long index, unsigned int order)
{
	switch (shape) {
	case SPLIT_MERGED:
		do_op(TEST_LEND_SPLIT, index + 7, 1, 0);
		do_op(TEST_LEND_MERGE, index, 0, order);
		break;
	case SPLIT_4K:
		do_op(TEST_LEND_SPLIT, index + 7, 1, 0);
		break;
	case SPLIT_BLOCK:
		do_op(TEST_LEND_SPLIT, index, NR_PMD, 0);
		break;
	case SINGLE:
		do_op(TEST_LEND_SPLIT, index, 1UL << order, 0);
		break;
	default:
		break;
	}
}

/* What an ordinary file takes for a page of 4K */
static double punch_memfd(void)
{
	const unsigned long size = 64UL << 20;
	double cost = 0, start;
	int file, i;

	for (i = 0; i < ROUNDS; i++) {
		file = memfd_create("split_cost", 0);
		if (file < 0 || fallocate(file, 0, 0, size))
			die("memfd");
		start = clock_ns(CLOCK_MONOTONIC);
		if (fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, size))
			die("memfd");
		least_of(&cost, clock_ns(CLOCK_MONOTONIC) - start, i);
		close(file);
	}
	return cost / (size / PAGE_SIZE);
}

/*
 * To punch what was split it takes to have each folio out of the page cache, and to
 * make the page whole.  It must not take more, and above all no wait.
 */
static void punch_shapes(const char *what, unsigned int order, unsigned long nr_huge,
			 double memfd)
{
	double cost[NR_SHAPES] = {}, merging[NR_SHAPES] = {}, sum, limit;
	unsigned long nr_folios[NR_SHAPES] = {}, index;
	struct test_lend_stats stats;
	enum shape shape;
	int i, o;

	for (shape = UNSPLIT; shape < NR_SHAPES; shape++) {
		if (shape == SPLIT_BLOCK && order <= PMD_ORDER)
			continue;
		for (i = 0; i < ROUNDS; i++) {
			populate(nr_huge);
			for (index = 0; index < nr_huge << order; index += 1UL << order)
				make_shape(shape, index, order);
			stats = get_stats(0);
			least_of(&cost[shape], punch(nr_huge), i);

			populate(nr_huge);
			sum = 0;
			for (index = 0; index < nr_huge << order; index += 1UL << order) {
				make_shape(shape, index, order);
				sum += do_op(TEST_LEND_MERGE, index, 0, order).commit_cycles;
			}
			least_of(&merging[shape], sum, i);
			punch(nr_huge);
		}
		for (o = 0; o < TEST_LEND_NR_ORDERS; o++)
			nr_folios[shape] += stats.nr_folios[o] * nr_huge;
		printf("# %-10s%-26s %9lu %12.0f %12.0f %9.2f\n", what, shapes[shape],
		       nr_folios[shape], merging[shape], cost[shape],
		       cost[shape] / cost[UNSPLIT]);
	}

	for (shape = SPLIT_MERGED; shape < NR_SHAPES; shape++) {
		if (!nr_folios[shape])
			continue;
		limit = shape == SPLIT_MERGED ? MAX_PUNCH * cost[UNSPLIT] :
			cost[UNSPLIT] + merging[shape] + nr_folios[shape] * memfd;
		result(cost[shape] <= limit, "punching %s %s takes at most %s: %.2f", what,
		       shapes[shape], shape == SPLIT_MERGED ? "twice what it takes unsplit" :
		       "that, merging, and as many pages of shmem", cost[shape] / limit);
	}
}

static void punch_all(void)
{
	double memfd = punch_memfd();

	printf("# a page of shmem, punched: %.0f\n", memfd);
	printf("# %-36s %9s %12s %12s %9s\n", "punching", "folios", "merging", "punching",
	       "x unsplit");
	punch_shapes("1G", PUD_ORDER, 1, memfd);

	close(fd);
	fd = create(PMD_ORDER, 512);
	if (fd < 0)
		die("no 512 free pages of 2M");
	punch_shapes("512 x 2M", PMD_ORDER, 512, memfd);
	close(fd);
	fd = create(PUD_ORDER, 1);
	if (fd < 0)
		die("no free page of 1G");
}

/*
 * The longest time that a task which has priority over all others had to wait for
 * the CPU.  It wants to run all the time, in short intervals.  There is no other CPU,
 * so that it waits for what has preemption off, or interrupts.
 */

static sem_t begin, end;
static bool running;
static double longest;

static void *real_time_task(void *arg)
{
	struct timespec t;
	double next, late;

	(void)arg;
	for (;;) {
		sem_wait(&begin);
		next = clock_ns(CLOCK_MONOTONIC);
		while (__atomic_load_n(&running, __ATOMIC_RELAXED)) {
			next += PERIOD;
			t.tv_sec = next / 1e9;
			t.tv_nsec = next - t.tv_sec * 1e9;
			clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
			late = clock_ns(CLOCK_MONOTONIC) - next;
			if (late > longest)
				longest = late;
			if (late > 0)
				next += late;
		}
		sem_post(&end);
	}
	return NULL;
}

static void start_real_time_task(void)
{
	struct sched_param param = { .sched_priority = 99 };
	pthread_attr_t attr;
	pthread_t thread;

	if (mlockall(MCL_CURRENT | MCL_FUTURE))
		die("mlockall");
	sem_init(&begin, 0, 0);
	sem_init(&end, 0, 0);
	pthread_attr_init(&attr);
	pthread_attr_setinheritsched(&attr, PTHREAD_EXPLICIT_SCHED);
	pthread_attr_setschedpolicy(&attr, SCHED_FIFO);
	pthread_attr_setschedparam(&attr, &param);
	errno = pthread_create(&thread, &attr, real_time_task, NULL);
	if (errno)
		die("no thread with real-time priority");
}

static void nothing_before(void) { }

static void op_nothing(void)
{
	int i;

	for (i = 0; i < 1000000; i++)
		__asm__ __volatile__("");
}

static void op_first_4k(void)
{
	do_op(TEST_LEND_SPLIT, SOMEWHERE, 1, 0);
}

static void op_block(void)
{
	do_op(TEST_LEND_SPLIT, BLOCK, NR_PMD, 0);
}

static void op_uniform(void)
{
	do_op(TEST_LEND_SPLIT, 0, NR_HUGE, 0);
}

static void op_merge_block(void)
{
	do_op(TEST_LEND_MERGE, BLOCK, 0, PMD_ORDER);
}

static void op_merge_huge(void)
{
	do_op(TEST_LEND_MERGE, 0, 0, PUD_ORDER);
}

static void op_punch(void)
{
	punch(1);
}

static void before_first_4k(void)
{
	fresh();
	op_first_4k();
}

static void before_block(void)
{
	fresh();
	op_block();
}

static void before_uniform(void)
{
	fresh();
	op_uniform();
}

static const struct latency {
	const char *what;
	void (*before)(void);
	void (*op)(void);
	bool limited;		/* it is what a user may do at any time */
} latencies[] = {
	{ "nothing",				nothing_before,	op_nothing,	true },
	{ "splitting the first 4K of 1G",	fresh,		op_first_4k,	true },
	{ "splitting a block of 2M in 1G",	fresh,		op_block,	true },
	{ "merging 2M of single pages",		before_block,	op_merge_block,	true },
	{ "merging 1G after the first 4K",	before_first_4k, op_merge_huge,	true },
	{ "merging 1G of 512 x 2M",		make_blocks,	op_merge_huge,	true },
	{ "merging 1G of single pages",		before_uniform,	op_merge_huge,	true },
	{ "punching 1G split at 4K",		before_first_4k, op_punch,	true },
	{ "punching 1G of single pages",	before_uniform,	op_punch,	true },
	{ "splitting 1G to 4K at once",		fresh,		op_uniform,	false },
};

static void measure_latencies(void)
{
	const double limit = hvo ? MAX_LATENCY_HVO : MAX_LATENCY_NO_HVO;
	double max = 0, least;
	unsigned int i;
	int round;

	printf("# %-44s %12s\n", "longest wait of a real-time task, while", "instructions");
	start_real_time_task();
	for (i = 0; i < sizeof(latencies) / sizeof(latencies[0]); i++) {
		for (round = 0; round < ROUNDS; round++) {
			latencies[i].before();
			longest = 0;
			__atomic_store_n(&running, true, __ATOMIC_RELAXED);
			sem_post(&begin);
			latencies[i].op();
			__atomic_store_n(&running, false, __ATOMIC_RELAXED);
			sem_wait(&end);
			least_of(&least, longest, round);
		}
		printf("# %-44s %12.0f%s\n", latencies[i].what, least,
		       latencies[i].limited ? "" : " (no limit)");
		if (latencies[i].limited && least > max)
			max = least;
	}
	result(max <= limit, "preemption is off for at most %.0f instructions: %.0f",
	       limit, max);
}

/*
 * Interrupts
 */

/* Function calls that were sent to other CPUs, by what they call */
#define TRACING		"/sys/kernel/tracing/"
#define MAX_FUNCS	32

static struct {
	char name[64];
	long nr;
} funcs[MAX_FUNCS];

static void write_tracing(const char *name, const char *value)
{
	char path[128];
	int file;

	snprintf(path, sizeof(path), TRACING "%s", name);
	file = open(path, O_WRONLY | O_TRUNC);
	if (file < 0 || write(file, value, strlen(value)) < 0)
		die(path);
	close(file);
}

static void count_func(const char *name)
{
	int i;

	for (i = 0; i < MAX_FUNCS; i++) {
		if (!funcs[i].nr)
			snprintf(funcs[i].name, sizeof(funcs[i].name), "%s", name);
		if (!strcmp(funcs[i].name, name)) {
			funcs[i].nr++;
			return;
		}
	}
}

static long ipis_before, memmap_before;

static void count_ipis(void)
{
	write_tracing("events/csd/csd_queue_cpu/enable", "1");
	write_tracing("trace", "");
	memmap_before = nr_memmap_pages();
	ipis_before = nr_ipis();
}

/* How many there were since count_ipis(); names all, and returns those that flush. */
static long flushes(const char *what)
{
	long ipis = nr_ipis() - ipis_before, nr = 0;
	char line[512], *name;
	FILE *f;
	int i;

	write_tracing("events/csd/csd_queue_cpu/enable", "0");
	memset(funcs, 0, sizeof(funcs));
	f = fopen(TRACING "trace", "r");
	if (!f)
		die(TRACING "trace");
	while (fgets(line, sizeof(line), f)) {
		name = strstr(line, " func=");
		if (!name || !strstr(line, "csd_queue_cpu:"))
			continue;
		name += 6;
		name[strcspn(name, " \n")] = 0;
		/* That is what it takes to patch the tracepoint in and out. */
		if (strcmp(name, "do_sync_core"))
			count_func(name);
	}
	fclose(f);

	printf("# %-48s %6ld:", what, ipis);
	for (i = 0; i < MAX_FUNCS && funcs[i].nr; i++) {
		printf(" %s %ld", funcs[i].name, funcs[i].nr);
		if (strstr(funcs[i].name, "flush"))
			nr += funcs[i].nr;
	}
	printf("\n");
	return nr;
}

static void check_ipis(const char *what)
{
	long memmap = nr_memmap_pages() - memmap_before;
	long nr = flushes(what);

	result(!nr && !memmap, "%s: %ld interrupts to flush, %ld vmemmap pages changed",
	       what, nr, memmap);
}

static void measure_ipis(void)
{
	char *map;
	int i;

	map = map_huge();
	fresh();
	printf("# %-48s %6s\n", "function calls on the other CPU", "CAL+TLB");

	/* What does need it.  If this sees none, the others mean nothing. */
	count_ipis();
	for (i = 0; i < 10; i++) {
		split(SOMEWHERE, 1);
		merge(0, PUD_ORDER);
	}
	result(flushes("4K split off 1G and merged 10 times") > 0,
	       "interrupts to flush are seen where the vmemmap changes");

	count_ipis();
	for (i = 0; i < 10; i++) {
		split(SOMEWHERE, 1);
		fresh();
	}
	flushes("4K split off 1G and that punched 10 times");

	split(SOMEWHERE, 1);
	toggle_exposed(map, SOMEWHERE);
	count_ipis();
	for (i = 0; i < NR_TOGGLES; i++)
		toggle_exposed(map, SOMEWHERE);
	check_ipis("4K exposed, touched and hidden 1000 times");

	merge(BLOCK, GRANULE_ORDER);
	count_ipis();
	for (i = 0; i < NR_GRANULE_TOGGLES; i++) {
		split(SOMEWHERE, 1);
		merge(BLOCK, GRANULE_ORDER);
	}
	check_ipis("a granule split and merged 200 times");

	fresh();
	count_ipis();
	for (i = 0; i < 20; i++)
		fresh();
	check_ipis("1G that was never split punched 20 times");
	munmap(map, NR_HUGE * PAGE_SIZE);
}

/* Of a process that has run on one CPU only no other CPU has to be told. */
static void stay_here(char **argv)
{
	cpu_set_t cpus;

	if (getenv("SPLIT_COST_HERE"))
		return;
	CPU_ZERO(&cpus);
	CPU_SET(0, &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		die("sched_setaffinity");
	setenv("SPLIT_COST_HERE", "1", 1);
	execv("/proc/self/exe", argv);
	die("execv");
}

/*
 * Ordinary pages
 */

static void measure_ordinary(void)
{
	const unsigned long size = 64UL << 20, nr = size / PAGE_SIZE;
	struct gup_test gup = { .size = size, .nr_pages_per_call = 1 };
	double get = 0, put = 0, fault = 0, unmap = 0, start;
	char *map;
	int file, i;

	file = open("/sys/kernel/debug/gup_test", O_RDWR);
	if (file < 0)
		die("gup_test");
	for (i = 0; i < ROUNDS; i++) {
		map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			   -1, 0);
		if (map == MAP_FAILED || madvise(map, size, MADV_NOHUGEPAGE))
			die("mmap");
		start = clock_ns(CLOCK_MONOTONIC);
		if (madvise(map, size, MADV_POPULATE_WRITE))
			die("MADV_POPULATE_WRITE");
		least_of(&fault, clock_ns(CLOCK_MONOTONIC) - start, i);

		gup.addr = (uintptr_t)map;
		gup.nr_pages_per_call = 1;
		if (ioctl(file, GUP_FAST_BENCHMARK, &gup))
			die("GUP_FAST_BENCHMARK");
		least_of(&get, gup.get_delta_usec * 1000., i);
		least_of(&put, gup.put_delta_usec * 1000., i);

		start = clock_ns(CLOCK_MONOTONIC);
		munmap(map, size);
		least_of(&unmap, clock_ns(CLOCK_MONOTONIC) - start, i);
	}
	close(file);
	printf("ordinary %.1f %.1f %.1f %.1f\n", fault / nr, get / nr, put / nr, unmap / nr);
}

static void measure_costs(void)
{
	struct cost first, all;
	double kib;

	printf("# %-44s %12s %12s %8s %6s %8s\n", hvo ? "with HVO" : "without HVO", "prepare",
	       "commit", "vmemmap", "nodes", "KiB");
	first = first_4k();
	block_2m();
	toggles();
	all = split_all();
	punch_all();
	measure_latencies();
	if (hvo) {
		kib = (first.vmemmap * (double)PAGE_SIZE + first.nodes * node_size) / 1024;
		result(first.vmemmap > 0 && kib <= MAX_KIB,
		       "the first 4K keeps at most %d KiB: %.1f", MAX_KIB, kib);
		result(first.vmemmap == MAX_VMEMMAP, "the first 4K takes %d pages of vmemmap: %ld",
		       MAX_VMEMMAP, first.vmemmap);
	}
	result(first.nodes == MAX_NODES, "the first 4K takes %d nodes: %ld", MAX_NODES,
	       first.nodes);
	if (hvo)
		result(sum(first) > 0 && sum(first) <= sum(all) / SHARE,
		       "the first 4K takes 1/%d of 1G to 4K at once: 1/%.0f", SHARE,
		       sum(all) / sum(first));
	put_cost();
	punch(1);
	close(fd);
	demote();
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "cost";

	if (!strcmp(mode, "ordinary")) {
		measure_ordinary();
		return 0;
	}
	if (!strcmp(mode, "ipi"))
		stay_here(argv);

	printf("TAP version 13\n");
	if (access(TEST_LEND_DEVICE, F_OK) && system("modprobe test_hugetlb_lend"))
		printf("# modprobe fails\n");
	device = open(TEST_LEND_DEVICE, O_RDWR);
	if (device < 0 && errno == ENOENT) {
		printf("1..0 # SKIP no " TEST_LEND_DEVICE "\n");
		return 4;
	}
	if (device < 0)
		die(TEST_LEND_DEVICE);
	fd = create(PUD_ORDER, 1);
	if (fd < 0) {
		printf("1..0 # SKIP no free page of 1G: %s\n", strerror(errno));
		return 4;
	}

	/* A zone gets the tails that all of its folios share just once. */
	fresh();
	hvo = get_stats(0).nr_vmemmap == 1;
	do_op(TEST_LEND_SPLIT, SOMEWHERE, 1, 0);
	node_size = xa_node_size();

	if (!strcmp(mode, "ipi"))
		measure_ipis();
	else
		measure_costs();
	printf("1..%d\n", nr_results);
	return failed;
}
