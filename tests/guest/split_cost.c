// SPDX-License-Identifier: GPL-2.0
/*
 * What it costs to split a 1G page that HugeTLB has lent out, and to merge it
 * again. For a VM with --icount, where time is the number of instructions that
 * are carried out and the same in each run, on a kernel with HVO.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "../../build/linux/lib/test_hugetlb_lend_uapi.h"

#define PMD_ORDER	9
#define PUD_ORDER	18
#define NR_PIECE	(1UL << PMD_ORDER)
#define NR_HUGE		(1UL << PUD_ORDER)
#define PAGE_SIZE	4096UL
#define NODE_SIZE	576UL	/* of the XArray, on 64-bit */
#define ROUNDS		3
#define NR_PUTS		1000
#define HUGEPAGES	"/sys/kernel/mm/hugepages/hugepages-1048576kB/"

/* Somewhere in the middle, on the border of nothing */
#define SOMEWHERE	(100 * NR_PIECE + 7)

/* What the first 4K may take and keep, and its share of splitting all at once */
#define MAX_MIB		2.2
#define SHARE		8

struct cost {
	double prepare;
	double commit;
	long vmemmap;		/* pages */
	long nodes;
};

static int fd, nr_results, failed;

static void die(const char *what)
{
	printf("Bail out! %s: %m\n", what);
	exit(1);
}

static void result(bool good, const char *what)
{
	printf("%sok %d %s\n", good ? "" : "not ", ++nr_results, what);
	failed |= !good;
}

static void row(const char *what, struct cost c)
{
	printf("# %-42s %13.0f %13.0f %9ld %6ld\n", what, c.prepare, c.commit, c.vmemmap,
	       c.nodes);
}

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

static long nr_nodes(void)
{
	struct test_lend_stats stats = {};

	if (ioctl(fd, TEST_LEND_STATS, &stats) && errno != ENOENT)
		die("TEST_LEND_STATS");
	return stats.nr_nodes;
}

static double cpu_time(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

static struct cost do_op(unsigned long cmd, unsigned long index, unsigned long nr,
			 unsigned int order, unsigned int want_state)
{
	struct test_lend_op op = { .index = index, .nr = nr, .order = order };
	long nodes = nr_nodes(), vmemmap = nr_memmap_pages();
	struct cost cost;

	if (ioctl(fd, cmd, &op))
		die("ioctl");
	if (op.state & ~TEST_LEND_MERGE_PENDING & ~want_state ||
	    want_state & ~op.state) {
		printf("Bail out! state %x of ioctl %lx at %lx\n", op.state, cmd, index);
		exit(1);
	}
	cost.prepare = op.prepare_cycles;
	cost.commit = op.commit_cycles;
	cost.vmemmap = nr_memmap_pages() - vmemmap;
	cost.nodes = nr_nodes() - nodes;
	return cost;
}

static struct cost split(unsigned long index, unsigned long nr)
{
	return do_op(TEST_LEND_SPLIT, index, nr, 0, 0);
}

static struct cost merge(unsigned long index, unsigned int order)
{
	return do_op(TEST_LEND_MERGE, index, 0, order, 0);
}

/* Time of the CPU: this waits for RCU, which takes no instructions. */
static double punch(void)
{
	struct test_lend_op op = { .nr = 1 };
	double start = cpu_time();

	if (ioctl(fd, TEST_LEND_PUNCH, &op))
		die("TEST_LEND_PUNCH");
	return cpu_time() - start;
}

static void fresh(void)
{
	struct test_lend_op op = { .nr = 1 };

	punch();
	if (ioctl(fd, TEST_LEND_POPULATE, &op))
		die("TEST_LEND_POPULATE");
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

static double sum(struct cost cost)
{
	return cost.prepare + cost.commit;
}

static void add(struct cost *cost, struct cost more)
{
	cost->prepare += more.prepare;
	cost->commit += more.commit;
	cost->vmemmap += more.vmemmap;
	cost->nodes += more.nodes;
}

static bool wait_for_memmap(long want)
{
	int i;

	for (i = 0; i < 300; i++) {
		if (nr_memmap_pages() == want)
			return true;
		usleep(100000);
	}
	printf("# %ld pages of the vmemmap, not %ld\n", nr_memmap_pages(), want);
	return false;
}

/* Split off one 4K page, and everything back. */
static struct cost first_4k(void)
{
	struct cost first = {}, next = {}, piece = {}, whole = {};
	bool nothing = true, given_back = true;
	double tidy, untidy, give_back = 0;
	unsigned long start = SOMEWHERE / NR_PIECE * NR_PIECE;
	long memmap;
	int i;

	for (i = 0; i < ROUNDS; i++) {
		fresh();
		memmap = nr_memmap_pages();
		least(&first, split(SOMEWHERE, 1), i);
		least(&next, do_op(TEST_LEND_SPLIT, SOMEWHERE + 1, 1, 0,
				   TEST_LEND_NOTHING_TO_DO), i);
		nothing &= !next.vmemmap && !next.nodes;
		least(&piece, merge(start, PMD_ORDER), i);
		least(&whole, merge(0, PUD_ORDER), i);
		given_back &= wait_for_memmap(memmap);
		tidy = punch();

		fresh();
		split(SOMEWHERE, 1);
		merge(0, PUD_ORDER);
		untidy = punch();
		if (!i || untidy - tidy < give_back)
			give_back = untidy - tidy;
	}
	row("the first 4K of 1G", first);
	row("another 4K in the same 2M", next);
	row("merging that 2M", piece);
	row("merging 1G of that and 511 other 2M", whole);
	row("giving back the vmemmap after that",
	    (struct cost){ .commit = give_back, .vmemmap = -first.vmemmap });
	result(nothing, "another 4K page in 2M that are split takes nothing");
	result(given_back, "after merging the vmemmap is what it was");
	return first;
}

static struct cost split_all(void)
{
	struct cost large = {}, small = {}, staged = {}, staged_merge = {};
	struct cost all = {}, all_merge = {};
	unsigned long index;
	int i;

	for (i = 0; i < ROUNDS; i++) {
		fresh();
		least(&large, split(0, NR_PIECE), i);
		least(&small, split(SOMEWHERE, 1), i);
	}
	row("1G to 2M", large);
	row("2M to 4K", small);

	fresh();
	for (index = 0; index < NR_HUGE; index += NR_PIECE)
		add(&staged, split(index, 1));
	row("1G to 4K by way of 2M, one by one", staged);
	add(&staged_merge, merge(0, PUD_ORDER));
	row("merging 1G of that", staged_merge);

	for (i = 0; i < ROUNDS; i++) {
		fresh();
		least(&all, do_op(TEST_LEND_SPLIT_ALL, 0, 0, 0, 0), i);
		least(&all_merge, merge(0, PUD_ORDER), i);
	}
	row("1G to 4K at once", all);
	row("merging 1G of that", all_merge);
	return all;
}

/* HugeTLB's own way from 1G to 2M, for pages that nobody uses */
static void demote(void)
{
	long memmap = nr_memmap_pages();
	struct cost cost = {};
	double start;
	int file;

	punch();
	close(fd);
	file = open(HUGEPAGES "demote", O_WRONLY);
	if (file < 0) {
		printf("# no " HUGEPAGES "demote\n");
		return;
	}
	start = cpu_time();
	if (write(file, "1", 1) != 1)
		die(HUGEPAGES "demote");
	cost.commit = cpu_time() - start;
	cost.vmemmap = nr_memmap_pages() - memmap;
	close(file);
	row("HugeTLB demoting a free 1G page to 2M", cost);
}

static void put_cost(int device)
{
	struct test_lend_put_cost cost = { .nr = NR_PUTS }, min = {};
	int i;

	for (i = 0; i < ROUNDS; i++) {
		if (ioctl(device, TEST_LEND_PUT_COST, &cost))
			die("TEST_LEND_PUT_COST");
		if (!i || cost.get_put_cycles < min.get_put_cycles)
			min.get_put_cycles = cost.get_put_cycles;
		if (!i || cost.alloc_put_cycles < min.alloc_put_cycles)
			min.alloc_put_cycles = cost.alloc_put_cycles;
	}
	printf("# folio_get() and folio_put() of an ordinary page: %.1f instructions\n",
	       (double)min.get_put_cycles / NR_PUTS);
	printf("# allocating and putting one: %.1f instructions\n",
	       (double)min.alloc_put_cycles / NR_PUTS);
}

int main(void)
{
	struct test_lend_create create = { .order = PUD_ORDER, .nr_huge = 1 };
	struct cost first, all;
	char line[128];
	double mib;
	int device;

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
	fd = ioctl(device, TEST_LEND_CREATE, &create);
	if (fd < 0) {
		printf("1..0 # SKIP no free page of 1G: %s\n", strerror(errno));
		return 4;
	}

	printf("1..4\n");
	/* A zone gets the tails that all of its 2M folios share just once. */
	fresh();
	split(0, NR_PIECE);

	printf("# %-42s %13s %13s %9s %6s\n", "instructions and memory", "prepare", "commit",
	       "vmemmap", "nodes");
	first = first_4k();
	all = split_all();
	demote();
	put_cost(device);

	mib = (first.vmemmap * PAGE_SIZE + first.nodes * NODE_SIZE) / 1048576.;
	snprintf(line, sizeof(line), "the first 4K takes at most %.1f MiB: %.2f", MAX_MIB, mib);
	result(first.vmemmap > 0 && first.nodes > 0 && mib <= MAX_MIB, line);
	snprintf(line, sizeof(line), "the first 4K takes 1/%d of 1G to 4K at once: 1/%.1f",
		 SHARE, sum(all) / sum(first));
	result(sum(first) > 0 && sum(first) <= sum(all) / SHARE, line);
	return failed;
}
