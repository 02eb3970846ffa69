// SPDX-License-Identifier: GPL-2.0
/*
 * usage: convert_cost cost [FIGURE]... | stores | attributes
 *
 * What it costs a VMM to convert memory of guest_memfd between private and shared.  For
 * a VM with --icount, where a nanosecond is an instruction, and all is the same in each
 * run.
 *
 *   cost        the same conversions of a file with a page of 1G that converts in
 *               place, of one with pages of 4K, and with other memory for what is
 *               shared; with limits. FIGUREs are what "stores" says on the kernel
 *               without the series.
 *   stores      with other memory for what is shared, and pages of 4K, on any kernel
 *   attributes  KVM_SET_MEMORY_ATTRIBUTES alone, on any kernel
 */
#define _GNU_SOURCE

#include "kvm.h"
#include "result.h"

#define ROUNDS		3
#define SIZE_2M		(2L << 20)
#define NR_PAGES	(SIZE_1G / PAGE_SIZE)
#define NR_BLOCK	(SIZE_2M / PAGE_SIZE)
#define NR_BLOCKS	(SIZE_1G / SIZE_2M)
/* Pages that one page of the vmemmap describes */
#define NR_GRANULE	64

/* What the guest has mapped, and where in it a page is converted */
#define GUEST_SIZE	(64L << 20)
#define NR_GUEST	(GUEST_SIZE / PAGE_SIZE)
#define PAGE		(5 * NR_BLOCK + 3 * NR_GRANULE + 7)
#define GRANULE		(9 * NR_BLOCK + 2 * NR_GRANULE)

#define NR_TOGGLES	1000
/* 1% of the pages: in one piece, and five of each 2M */
#define CONTIGUOUS	(3 * NR_BLOCK + 7)
#define NR_CONTIGUOUS	2621
#define NR_SCATTERED	5
#define SCATTER		100
#define LONG_GIB	16

/* Limits: instructions */
#define MAX_FIRST_TOUCH	900000
/* KiB, with three nodes of an XArray, which split_cost counts */
#define MAX_KEPT	(64 - 2)
#define MAX_KEPT_ALL	(16 << 10)
/* so many times */
#define MAX_SMALL	2
#define MAX_1G		3
#define MAX_TOUCH	1.1
/* seconds from the last conversion to a page of 1G that is whole again */
#define MAX_HEAL	2
#define WAIT_HEAL	300

enum row {
	SHARE_4K, HIDE_4K, SHARE_1G, HIDE_1G,
	SHARE_MAPPED_4K, NEIGHBOURS, FIRST_TOUCH, HIDE_TOUCHED_4K,
	NEXT_TOUCH, NEXT_GRANULE, TOGGLE,
	SHARE_CONTIGUOUS, TOUCH_CONTIGUOUS, HIDE_CONTIGUOUS,
	SHARE_SCATTERED, TOUCH_SCATTERED, HIDE_SCATTERED,
	TOUCH_ALL, HIDE_ALL, HIDE_ALTERNATE,
	SHARE_LONG, HIDE_LONG,
	KEPT_4K, KEPT_CONTIGUOUS, KEPT_SCATTERED, KEPT_ALL,
	NR_ROWS
};

static const char * const row_names[NR_ROWS] = {
	[SHARE_4K]		= "4K to shared, nothing touched",
	[HIDE_4K]		= "  and to private",
	[SHARE_1G]		= "1G to shared, nothing touched",
	[HIDE_1G]		= "  and to private",
	[SHARE_MAPPED_4K]	= "4K to shared that the guest has mapped",
	[NEIGHBOURS]		= "  page faults of the guest on neighbours",
	[FIRST_TOUCH]		= "  the host touches it",
	[HIDE_TOUCHED_4K]	= "  and to private",
	[NEXT_TOUCH]		= "touching another 4K of the same 256K",
	[NEXT_GRANULE]		= "touching the next 256K of the same 2M",
	[TOGGLE]		= "4K to shared, touched, to private, 1000 times",
	[SHARE_CONTIGUOUS]	= "2621 pages in one piece to shared",
	[TOUCH_CONTIGUOUS]	= "  the host touches all of them",
	[HIDE_CONTIGUOUS]	= "  and to private",
	[SHARE_SCATTERED]	= "5 pages of each 2M to shared, 2560 calls",
	[TOUCH_SCATTERED]	= "  the host touches all of them",
	[HIDE_SCATTERED]	= "  and to private, 2560 calls",
	[TOUCH_ALL]		= "1G shared, the host touches 4K of each 2M",
	[HIDE_ALL]		= "  and to private",
	[HIDE_ALTERNATE]	= "1G to private of which each second 4K is",
	[SHARE_LONG]		= "16G to shared, for each 1G",
	[HIDE_LONG]		= "  and to private",
	[KEPT_4K]		= "KiB taken while the 4K is shared",
	[KEPT_CONTIGUOUS]	= "  2621 pages in one piece",
	[KEPT_SCATTERED]	= "  5 pages of each 2M",
	[KEPT_ALL]		= "  1G, touched in each 2M",
};

#define NONE	(-1.0)

/* How a VMM has its guest's memory */
enum way { HUGE_IN_PLACE, SMALL_IN_PLACE, HUGE_STORES, SMALL_STORES, NR_WAYS };

static const struct {
	const char *name;
	uint64_t flags;
	bool in_place;
	bool huge;
} ways[NR_WAYS] = {
	[HUGE_IN_PLACE]		= { "in place, 1G", GUEST_MEMFD_FLAG_MMAP |
				    GUEST_MEMFD_FLAG_HUGETLB | HUGE_1GB, true, true },
	[SMALL_IN_PLACE]	= { "in place, 4K", GUEST_MEMFD_FLAG_MMAP, true, false },
	[HUGE_STORES]		= { "2 stores, 1G", GUEST_MEMFD_FLAG_HUGETLB | HUGE_1GB,
				    false, true },
	[SMALL_STORES]		= { "2 stores, 4K", 0, false, false },
};

struct file {
	enum way way;
	int vm, fd, stats, vcpu_stats;
	volatile char *mem;
	long size;
	struct vcpu vcpu;
	double *cost;
};

/*
 * What the kernel tells
 */

static long nr_memmap_pages(void)
{
	return read_number("/proc/vmstat", "nr_memmap_pages %ld");
}

/* The lines of fdinfo that tell of folios, to see that nothing is split */
static void read_folios(const struct file *f, char *text, size_t size)
{
	char path[64], line[256];
	FILE *info;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", f->fd);
	info = fopen(path, "r");
	if (!info)
		die(path);
	text[0] = 0;
	while (fgets(line, sizeof(line), info))
		if (!strncmp(line, "gmem-folios-", 12) || !strncmp(line, "gmem-vmemmap:", 13))
			strncat(text, line, size - strlen(text) - 1);
	fclose(info);
}

static long nr_resident(const struct file *f)
{
	static unsigned char state[NR_PAGES];
	long i, nr = 0;

	if (mincore((void *)f->mem, SIZE_1G, state))
		die("mincore");
	for (i = 0; i < NR_PAGES; i++)
		nr += state[i] & 1;
	return nr;
}

/*
 * Files
 */

/*
 * Where no page table of the host is that other mappings have filled. It would be
 * looked through each time, and how much of it there is would depend on chance.
 */
static void *free_addresses(long size)
{
	uintptr_t start;
	void *mem;

	mem = mmap(NULL, size + SIZE_1G, PROT_NONE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (mem == MAP_FAILED)
		die("mmap");
	munmap(mem, size + SIZE_1G);
	start = (uintptr_t)mem + SIZE_1G - 1;
	return (void *)(start - start % SIZE_1G);
}

static void create(struct file *f, enum way way, long size, double *cost)
{
	void *address = free_addresses(size);
	int prot = PROT_READ | PROT_WRITE;

	*f = (struct file){ .way = way, .size = size, .cost = cost };
	f->vm = create_private_vm(ways[way].in_place ? 0 : size);
	f->fd = create_file(f->vm, size, ways[way].flags);
	if (ways[way].in_place)
		f->mem = mmap(address, size, prot, MAP_SHARED | MAP_FIXED, f->fd, 0);
	else
		f->mem = mmap(address, size, prot, MAP_PRIVATE | MAP_ANONYMOUS |
			      MAP_NORESERVE | MAP_FIXED, -1, 0);
	if (f->mem == MAP_FAILED)
		die("mmap");
	/* It is to be a page that is shared, and not more. */
	if (!ways[way].in_place && madvise((void *)f->mem, size, MADV_NOHUGEPAGE))
		die("MADV_NOHUGEPAGE");
	set_slot(f->vm, &(struct kvm_userspace_memory_region2) {
		.slot = TEST_SLOT,
		.flags = KVM_MEM_GUEST_MEMFD,
		.guest_phys_addr = TEST_GPA,
		.memory_size = size,
		.userspace_addr = (uintptr_t)f->mem,
		.guest_memfd = f->fd,
	});
	create_vcpu(f->vm, &f->vcpu, 0);
	f->stats = ioctl(f->vm, KVM_GET_STATS_FD, NULL);
	f->vcpu_stats = ioctl(f->vcpu.fd, KVM_GET_STATS_FD, NULL);
	if (f->stats < 0 || f->vcpu_stats < 0)
		die("KVM_GET_STATS_FD");
	touch(&f->vcpu, CODE_GPA + PAGE_SIZE, 1);
}

static void destroy(struct file *f)
{
	munmap((void *)f->mem, f->size);
	munmap(f->vcpu.run, PAGE_SIZE);
	close(f->vcpu_stats);
	close(f->vcpu.fd);
	close(f->stats);
	close(f->fd);
	close(f->vm);
}

/* Returns what the call takes.  Pages are as the file counts them. */
static double convert(const struct file *f, long page, long nr, bool private)
{
	double start = now();

	if (!ways[f->way].in_place)
		set_attributes(f->vm, TEST_GPA + page * PAGE_SIZE, nr * PAGE_SIZE, private);
	else if (convert_in_place(f->fd, page, nr, private))
		die("KVM_SET_MEMORY_ATTRIBUTES2");
	return now() - start;
}

static double share(const struct file *f, long page, long nr)
{
	return convert(f, page, nr, false);
}

/* What was shared in other memory is given back with it. */
static double hide(const struct file *f, long page, long nr)
{
	double start = now();

	convert(f, page, nr, true);
	if (!ways[f->way].in_place &&
	    madvise((void *)(f->mem + page * PAGE_SIZE), nr * PAGE_SIZE, MADV_DONTNEED))
		die("MADV_DONTNEED");
	return now() - start;
}

static double host_touch(const struct file *f, long page, long nr, long step)
{
	double start = now();
	long i;

	for (i = 0; i < nr; i++)
		f->mem[(page + i * step) * PAGE_SIZE]++;
	return now() - start;
}

static void guest_touch(struct file *f, long page, long nr)
{
	if (nr)
		touch(&f->vcpu, TEST_GPA + page * PAGE_SIZE, nr);
}

static uint64_t nr_faults(const struct file *f)
{
	return get_stat(f->vcpu_stats, "pf_taken");
}

/* Waits until a page of 1G is whole again; returns the seconds it took. */
static double heal(const struct file *f)
{
	double start = now(), passed = 0;

	if (f->way != HUGE_IN_PLACE)
		return 0;
	while (read_fdinfo(f->fd, "gmem-folios-1048576kB: %ld") != 1 ||
	       read_fdinfo(f->fd, "gmem-merges-pending: %ld") != 0) {
		if (passed > WAIT_HEAL) {
			printf("Bail out! the page is not merged after %d s\n", WAIT_HEAL);
			exit(1);
		}
		usleep(50000);
		passed = (now() - start) / 1e9;
	}
	return passed;
}

/*
 * Rows
 */

static void take(struct file *f, enum row row, double value)
{
	if (f->cost[row] == NONE || value < f->cost[row])
		f->cost[row] = value;
}

/* In KiB: struct pages and, with two stores, pages that are there twice */
static double kept(const struct file *f, long memmap)
{
	long pages = nr_memmap_pages() - memmap;

	if (!ways[f->way].in_place)
		pages += nr_resident(f);
	return pages * PAGE_SIZE / 1024.;
}

static void measure_untouched(struct file *f)
{
	take(f, SHARE_4K, share(f, PAGE, 1));
	take(f, HIDE_4K, convert(f, PAGE, 1, true));
	take(f, SHARE_1G, share(f, 0, NR_PAGES));
	take(f, HIDE_1G, convert(f, 0, NR_PAGES, true));
}

/* One page of what the guest has mapped */
static void measure_mapped(struct file *f)
{
	long memmap = nr_memmap_pages();
	uint64_t faults;

	guest_touch(f, 0, NR_GUEST);
	take(f, SHARE_MAPPED_4K, share(f, PAGE, 1));
	faults = nr_faults(f);
	guest_touch(f, 0, PAGE);
	guest_touch(f, PAGE + 1, NR_GUEST - PAGE - 1);
	take(f, NEIGHBOURS, nr_faults(f) - faults);
	take(f, FIRST_TOUCH, host_touch(f, PAGE, 1, 1));
	take(f, KEPT_4K, kept(f, memmap));
	take(f, HIDE_TOUCHED_4K, hide(f, PAGE, 1));
}

static void measure_next(struct file *f)
{
	share(f, GRANULE, NR_GRANULE);
	host_touch(f, GRANULE, 1, 1);
	take(f, NEXT_TOUCH, host_touch(f, GRANULE + 1, NR_GRANULE - 1, 1) /
	     (NR_GRANULE - 1));
	share(f, GRANULE + NR_GRANULE, 1);
	take(f, NEXT_GRANULE, host_touch(f, GRANULE + NR_GRANULE, 1, 1));
	hide(f, GRANULE, NR_GRANULE + 1);
}

static void toggle(struct file *f)
{
	share(f, PAGE, 1);
	host_touch(f, PAGE, 1, 1);
	hide(f, PAGE, 1);
}

/* Returns how often the file's folios were others than after the first time. */
static int measure_toggle(struct file *f)
{
	char first[2048], folios[2048];
	double start, sum = 0;
	int i, changes = 0;

	toggle(f);
	read_folios(f, first, sizeof(first));
	for (i = 0; i < NR_TOGGLES; i++) {
		start = now();
		toggle(f);
		sum += now() - start;
		read_folios(f, folios, sizeof(folios));
		changes += !!strcmp(folios, first);
	}
	f->cost[TOGGLE] = sum / NR_TOGGLES;
	return changes;
}

static void measure_contiguous(struct file *f)
{
	long memmap = nr_memmap_pages();

	take(f, SHARE_CONTIGUOUS, share(f, CONTIGUOUS, NR_CONTIGUOUS));
	take(f, TOUCH_CONTIGUOUS, host_touch(f, CONTIGUOUS, NR_CONTIGUOUS, 1));
	take(f, KEPT_CONTIGUOUS, kept(f, memmap));
	take(f, HIDE_CONTIGUOUS, hide(f, CONTIGUOUS, NR_CONTIGUOUS));
}

static void measure_scattered(struct file *f)
{
	long memmap = nr_memmap_pages(), block;
	double sum = 0, touching = 0;
	int i;

	for (block = 0; block < NR_BLOCKS; block++)
		for (i = 0; i < NR_SCATTERED; i++)
			sum += share(f, block * NR_BLOCK + i * SCATTER, 1);
	take(f, SHARE_SCATTERED, sum);
	for (block = 0; block < NR_BLOCKS; block++)
		touching += host_touch(f, block * NR_BLOCK, NR_SCATTERED, SCATTER);
	take(f, TOUCH_SCATTERED, touching);
	take(f, KEPT_SCATTERED, kept(f, memmap));
	sum = 0;
	for (block = 0; block < NR_BLOCKS; block++)
		for (i = 0; i < NR_SCATTERED; i++)
			sum += hide(f, block * NR_BLOCK + i * SCATTER, 1);
	take(f, HIDE_SCATTERED, sum);
}

/* A page of 1G is split to 4K throughout by this. */
static void measure_all(struct file *f)
{
	long memmap = nr_memmap_pages();

	share(f, 0, NR_PAGES);
	take(f, TOUCH_ALL, host_touch(f, 0, NR_BLOCKS, NR_BLOCK));
	take(f, KEPT_ALL, kept(f, memmap));
	take(f, HIDE_ALL, hide(f, 0, NR_PAGES));
}

/* The attributes are of as many pieces as can be. */
static void measure_alternate(struct file *f)
{
	long page;

	for (page = 0; page < NR_PAGES; page += 2)
		share(f, page, 1);
	take(f, HIDE_ALTERNATE, convert(f, 0, NR_PAGES, true));
}

static void measure_long(enum way way, double *cost)
{
	const long nr = LONG_GIB * NR_PAGES;
	struct file f;

	create(&f, way, LONG_GIB * SIZE_1G, cost);
	take(&f, SHARE_LONG, share(&f, 0, nr) / LONG_GIB);
	take(&f, HIDE_LONG, convert(&f, 0, nr, true) / LONG_GIB);
	destroy(&f);
}

static void measure(enum way way, double *cost)
{
	int i, changes;
	struct file f;
	double s;

	for (i = 0; i < NR_ROWS; i++)
		cost[i] = NONE;
	create(&f, way, SIZE_1G, cost);
	for (i = 0; i < ROUNDS; i++)
		measure_untouched(&f);
	/* With two stores it is not the file that the host touches. */
	populate(f.fd, ways[way].in_place || ways[way].huge ? SIZE_1G : GUEST_SIZE);

	if (way == HUGE_IN_PLACE) {
		long vmemmap = read_fdinfo(f.fd, "gmem-vmemmap: %ld");
		char before[2048], after[2048];
		uint64_t faults;

		read_folios(&f, before, sizeof(before));
		measure_untouched(&f);
		read_folios(&f, after, sizeof(after));
		result(!strcmp(before, after), "converting splits nothing that the host has not touched");

		measure_mapped(&f);
		faults = nr_faults(&f);
		s = heal(&f);
		result(s <= MAX_HEAL && get_stat(f.stats, "pages_1g") == 1 &&
		       nr_faults(&f) == faults && read_fdinfo(f.fd, "gmem-vmemmap: %ld") == vmemmap,
		       "%.1f s after the last conversion there is a page of 1G, and the guest has it mapped without a fault",
		       s);
	}
	for (i = 0; i < ROUNDS; i++) {
		measure_mapped(&f);
		heal(&f);
	}
	measure_next(&f);
	heal(&f);
	changes = measure_toggle(&f);
	if (way == HUGE_IN_PLACE)
		result(!changes, "in %d conversions to and fro of a page that the host touches nothing is split or merged after the first: %d",
		       NR_TOGGLES, changes);
	heal(&f);
	measure_contiguous(&f);
	heal(&f);
	measure_scattered(&f);
	heal(&f);
	measure_all(&f);
	heal(&f);
	measure_alternate(&f);
	destroy(&f);
	if (!ways[way].huge)
		measure_long(way, cost);
}

static void check_limits(double cost[NR_WAYS][NR_ROWS])
{
	const double *huge = cost[HUGE_IN_PLACE], *small = cost[SMALL_IN_PLACE];
	double first = MAX_FIRST_TOUCH, touched;
	static const struct { enum row row; const char *what; } both[] = {
		{ SHARE_4K, "4K to shared, nothing touched" },
		{ HIDE_4K, "4K to private, nothing touched" },
		{ HIDE_TOUCHED_4K, "4K to private that the host has touched" },
		{ TOGGLE, "4K to shared, touched, to private" },
		{ HIDE_CONTIGUOUS, "1% in one piece to private" },
		{ HIDE_SCATTERED, "1% scattered to private" },
	};
	unsigned int i;

	for (i = 0; i < sizeof(both) / sizeof(both[0]); i++)
		result(huge[both[i].row] > 0 &&
		       huge[both[i].row] <= MAX_SMALL * small[both[i].row],
		       "%s: with a page of 1G at most %d times what it takes with 4K: %.2f",
		       both[i].what, MAX_SMALL, huge[both[i].row] / small[both[i].row]);
	for (i = SHARE_4K; i <= HIDE_4K; i++)
		result(huge[i + 2] <= MAX_1G * huge[i],
		       "1G %s: at most %d times what 4K take: %.2f",
		       i == SHARE_4K ? "to shared" : "to private", MAX_1G,
		       huge[i + 2] / huge[i]);
	result(huge[NEIGHBOURS] == 0, "the guest has no fault on neighbours of what was converted: %.0f",
	       huge[NEIGHBOURS]);
	result(huge[FIRST_TOUCH] > 0 && huge[FIRST_TOUCH] <= first,
	       "the host's first touch of a page of 1G takes at most %.0f instructions: %.0f",
	       first, huge[FIRST_TOUCH]);
	result(huge[KEPT_4K] > 0 && huge[KEPT_4K] <= MAX_KEPT,
	       "and at most %d KiB of struct pages: %.0f", MAX_KEPT, huge[KEPT_4K]);
	result(huge[NEXT_TOUCH] <= MAX_TOUCH * small[NEXT_TOUCH],
	       "touching another 4K of the same 256K takes at most %.1f times what it takes with 4K: %.3f",
	       MAX_TOUCH, huge[NEXT_TOUCH] / small[NEXT_TOUCH]);
	result(huge[NEXT_GRANULE] <= first, "touching the next 256K takes at most %.0f instructions: %.0f",
	       first, huge[NEXT_GRANULE]);
	/* It is in seven blocks of 2M, as it does not begin with one. */
	touched = 7 * first + MAX_TOUCH * small[TOUCH_CONTIGUOUS];
	result(huge[TOUCH_CONTIGUOUS] <= touched,
	       "touching 1%% in one piece takes at most a first touch for each 2M, and %.1f times what it takes with 4K: %.2f",
	       MAX_TOUCH, huge[TOUCH_CONTIGUOUS] / touched);
	touched = NR_BLOCKS * first + MAX_TOUCH * small[TOUCH_SCATTERED];
	result(huge[TOUCH_SCATTERED] <= touched, "and so does touching 1%% scattered: %.2f",
	       huge[TOUCH_SCATTERED] / touched);
	result(huge[KEPT_ALL] > 0 && huge[KEPT_ALL] <= MAX_KEPT_ALL,
	       "all of 1G touched keeps at most %d KiB of struct pages: %.0f", MAX_KEPT_ALL,
	       huge[KEPT_ALL]);
	for (i = SHARE_LONG; i <= HIDE_LONG; i++)
		result(small[i] > 0 && small[i] <= MAX_1G * small[i - SHARE_LONG + SHARE_1G],
		       "a range of %dG %s: for each 1G at most %d times what 1G takes: %.2f",
		       LONG_GIB, i == SHARE_LONG ? "to shared" : "to private", MAX_1G,
		       small[i] / small[i - SHARE_LONG + SHARE_1G]);
}

static void print_figure(double figure)
{
	if (figure == NONE)
		printf(" %13s", "-");
	else
		printf(" %13.0f", figure);
}

static void measure_costs(int nr_figures, char **figures)
{
	static double cost[NR_WAYS][NR_ROWS];
	enum way way;
	int row;

	if (nr_figures && nr_figures != NR_ROWS) {
		printf("Bail out! %d figures instead of %d\n", nr_figures, NR_ROWS);
		exit(1);
	}
	for (way = 0; way < NR_WAYS; way++)
		measure(way, cost[way]);

	printf("# %-46s", "instructions, but for faults and KiB");
	for (way = 0; way < NR_WAYS; way++)
		printf(" %13s", ways[way].name);
	printf(nr_figures ? " %13s\n" : "\n", "  7.3, stores");
	for (row = 0; row < NR_ROWS; row++) {
		printf("# %-46s", row_names[row]);
		for (way = 0; way < NR_WAYS; way++)
			print_figure(cost[way][row]);
		if (nr_figures)
			print_figure(atof(figures[row]));
		printf("\n");
	}
	check_limits(cost);
	printf("1..%d\n", nr_results);
}

static void measure_stores(void)
{
	double cost[NR_ROWS];
	int row;

	measure(SMALL_STORES, cost);
	printf("stores");
	for (row = 0; row < NR_ROWS; row++)
		printf(" %.1f", cost[row]);
	printf("\n");
}

static void measure_attributes(void)
{
	double cost[NR_ROWS];
	struct file f;
	int i;

	for (i = 0; i < NR_ROWS; i++)
		cost[i] = NONE;
	create(&f, SMALL_STORES, SIZE_1G, cost);
	for (i = 0; i < ROUNDS; i++)
		measure_untouched(&f);
	for (i = 0; i < ROUNDS; i++)
		measure_mapped(&f);
	destroy(&f);
	printf("attributes %.1f %.1f %.1f %.1f %.1f\n", cost[SHARE_4K], cost[HIDE_4K],
	       cost[SHARE_MAPPED_4K], cost[SHARE_1G], cost[HIDE_1G]);
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "cost";
	int vm;

	if (!strcmp(mode, "stores")) {
		measure_stores();
		return 0;
	}
	if (!strcmp(mode, "attributes")) {
		measure_attributes();
		return 0;
	}
	printf("TAP version 13\n");
	if (strcmp(mode, "cost")) {
		printf("Bail out! no such mode: %s\n", mode);
		return 1;
	}
	vm = create_vm(KVM_X86_SW_PROTECTED_VM);
	if (!converts_in_place(vm)) {
		printf("1..0 # SKIP this kernel does not convert in place\n");
		return 4;
	}
	close(vm);
	measure_costs(argc - 2, argv + 2);
	return failed;
}
