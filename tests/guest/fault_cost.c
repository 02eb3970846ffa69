// SPDX-License-Identifier: GPL-2.0
/*
 * usage: fault_cost [populate | small | in-place | vcpus]
 *
 * What it costs to get memory of guest_memfd, and to have the guest get at it.  For
 * a VM with --icount, where a nanosecond is an instruction, and all is the same in
 * each run.
 *
 *   populate  to populate a 1G page and to give it back, against the same of
 *             hugetlbfs; with limits
 *   small     what pages of 4K cost, also on a kernel without huge ones
 *   in-place  what the guest's pages of 4K cost if the file converts in place; on a
 *             kernel where none does, if it does not
 *   vcpus     what the guest's mappings of 4K cost if all are to one page of 1G, by
 *             one vCPU and by four of them; with limits
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>

#include "kvm.h"

#define ROUNDS		3

/*
 * populate: to be at most so many times as expensive, clearing set aside.  QEMU
 * counts the string instruction that clears once for each byte.
 */
#define MAX_POPULATE	1.05
#define CLEARING	((double)SIZE_1G)

/* What small and vcpus touch: the last page tables are full then. */
#define SIZE		(64L << 20)
#define NR_PAGES	(SIZE / PAGE_SIZE)

/*
 * vcpus: a mapping to a page of 1G may cost so many times one to a page of 4K, and
 * one of four vCPUs so many times that of one vCPU alone
 */
#define MAX_HUGE	1.02
#define MAX_VCPUS	1.05
#define NR_VCPUS	4

static int nr_results, failed;

static void result(bool good, const char *what, double limit, double factor)
{
	printf("%sok %d %s: at most %.2f times, is %.4f\n", good ? "" : "not ",
	       ++nr_results, what, limit, factor);
	failed |= !good;
}

/*
 * VMs
 */

/* Nothing is mapped where the memslot says that shared memory is. */
static void bind(int vm, int fd, long offset)
{
	static void *hva;

	if (!hva)
		hva = mmap(NULL, SIZE, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (hva == MAP_FAILED)
		die("mmap");
	set_slot(vm, &(struct kvm_userspace_memory_region2) {
		.slot = TEST_SLOT,
		.flags = KVM_MEM_GUEST_MEMFD,
		.guest_phys_addr = TEST_GPA,
		.memory_size = SIZE,
		.userspace_addr = (uintptr_t)hva,
		.guest_memfd = fd,
		.guest_memfd_offset = offset,
	});
}

/* The guest has no mapping any more. */
static void unbind(int vm)
{
	set_slot(vm, &(struct kvm_userspace_memory_region2) { .slot = TEST_SLOT });
}

/*
 * Have the guest touch the memory under test, with its code and KVM's own memory in
 * place
 */
static double time_touch(struct vcpu *v)
{
	double start;

	touch(v, CODE_GPA + PAGE_SIZE, 1);
	start = now();
	touch(v, TEST_GPA, NR_PAGES);
	return now() - start;
}

/*
 * populate
 */

struct cost {
	double populate;
	double punch;
};

static struct cost measure(int fd)
{
	struct cost cost = {};
	double start, middle;
	int i;

	for (i = 0; i < ROUNDS; i++) {
		start = now();
		populate(fd, SIZE_1G);
		middle = now();
		punch(fd, SIZE_1G);
		take_least(&cost.punch, now() - middle);
		take_least(&cost.populate, middle - start);
	}
	close(fd);
	return cost;
}

static struct cost measure_hugetlbfs(void)
{
	int fd = memfd_create("fault_cost", MFD_HUGETLB | HUGE_1GB);

	if (fd < 0 || ftruncate(fd, SIZE_1G))
		die("memfd_create");
	return measure(fd);
}

static struct cost measure_guest_memfd(void)
{
	int vm = create_vm(KVM_X86_SW_PROTECTED_VM);
	int fd = create_file(vm, SIZE_1G, GUEST_MEMFD_FLAG_HUGETLB | HUGE_1GB);

	close(vm);
	return measure(fd);
}

static void report(const char *what, double ours, double theirs)
{
	double factor = (ours - CLEARING) / (theirs - CLEARING);

	printf("# %s: guest_memfd %.0f instructions, hugetlbfs %.0f\n", what, ours, theirs);
	/* Without --icount these are no numbers of instructions. */
	result(theirs > CLEARING && ours > CLEARING && factor <= MAX_POPULATE, what,
	       MAX_POPULATE, factor);
}

static void measure_populate(void)
{
	struct cost theirs, ours;

	printf("1..2\n");
	theirs = measure_hugetlbfs();
	ours = measure_guest_memfd();
	report("populating 1G, but for clearing", ours.populate, theirs.populate);
	report("populating 1G and giving it back, but for clearing",
	       ours.populate + ours.punch, theirs.populate + theirs.punch);
}

/*
 * small
 */

struct small {
	double new;		/* the guest touches it */
	double present;		/* the same, it is there and not mapped */
	double populate;
	double populate_touch;	/* and then the guest touches it */
	double punch;		/* it is not mapped */
	double host;		/* the host touches it */
};

static void measure_guest(struct small *cost, bool in_place)
{
	int i, fd, vm = create_private_vm(SIZE);
	struct vcpu vcpu = {};
	double start, middle;

	fd = create_file(vm, SIZE, in_place ? GUEST_MEMFD_FLAG_MMAP : 0);

	create_vcpu(vm, &vcpu, 0);
	for (i = 0; i < ROUNDS; i++) {
		bind(vm, fd, 0);
		take_least(&cost->new, time_touch(&vcpu));
		unbind(vm);
		bind(vm, fd, 0);
		take_least(&cost->present, time_touch(&vcpu));
		unbind(vm);
		punch(fd, SIZE);

		/* Some kernels clear it only when the guest touches it. */
		start = now();
		populate(fd, SIZE);
		middle = now() - start;
		take_least(&cost->populate, middle);
		bind(vm, fd, 0);
		take_least(&cost->populate_touch, middle + time_touch(&vcpu));
		unbind(vm);
		start = now();
		punch(fd, SIZE);
		take_least(&cost->punch, now() - start);
	}
	close(fd);
	close(vcpu.fd);
	close(vm);
}

static void measure_host(struct small *cost)
{
	int vm = create_vm(KVM_X86_DEFAULT_VM);
	int i, fd = create_file(vm, SIZE, GUEST_MEMFD_FLAG_MMAP |
				GUEST_MEMFD_FLAG_INIT_SHARED);
	volatile char *mem;
	double start;
	long page;

	mem = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (mem == MAP_FAILED)
		die("mmap");
	for (i = 0; i < ROUNDS; i++) {
		start = now();
		for (page = 0; page < NR_PAGES; page++)
			mem[page * PAGE_SIZE] = 1;
		take_least(&cost->host, now() - start);
		punch(fd, SIZE);
	}
	munmap((void *)mem, SIZE);
	close(fd);
	close(vm);
}

/* Instructions for each page */
static void measure_small(void)
{
	struct small cost = {};

	measure_guest(&cost, false);
	measure_host(&cost);
	printf("small %.1f %.1f %.1f %.1f %.1f %.1f\n", cost.new / NR_PAGES,
	       cost.present / NR_PAGES, cost.populate / NR_PAGES,
	       cost.populate_touch / NR_PAGES, cost.punch / NR_PAGES,
	       cost.host / NR_PAGES);
}

static void measure_in_place(void)
{
	struct small cost = {};
	int vm = create_vm(KVM_X86_SW_PROTECTED_VM);

	measure_guest(&cost, converts_in_place(vm));
	close(vm);
	printf("in-place %.1f %.1f\n", cost.new / NR_PAGES, cost.present / NR_PAGES);
}

/*
 * vcpus
 */

/* A vCPU in a thread on a CPU of its own */
struct worker {
	struct vcpu vcpu;
	int cpu;
	uint64_t gpa;
	long nr_pages;
	pthread_barrier_t *barrier;
	double start;
	double end;
};

static void *touch_thread(void *arg)
{
	struct worker *w = arg;
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(w->cpu, &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		die("not enough CPUs");
	touch(&w->vcpu, CODE_GPA + PAGE_SIZE, 1);
	pthread_barrier_wait(w->barrier);
	w->start = now();
	touch(&w->vcpu, w->gpa, w->nr_pages);
	w->end = now();
	return NULL;
}

/* Each of them touches another part. */
static double time_vcpus(struct worker *worker, int nr)
{
	pthread_t thread[NR_VCPUS];
	pthread_barrier_t barrier;
	double start, end;
	int i;

	pthread_barrier_init(&barrier, NULL, nr);
	for (i = 0; i < nr; i++) {
		worker[i].cpu = i;
		worker[i].gpa = TEST_GPA + SIZE / nr * i;
		worker[i].nr_pages = NR_PAGES / nr;
		worker[i].barrier = &barrier;
		if (pthread_create(&thread[i], NULL, touch_thread, &worker[i]))
			die("pthread_create");
	}
	for (i = 0; i < nr; i++) {
		pthread_join(thread[i], NULL);
		start = i && start < worker[i].start ? start : worker[i].start;
		end = i && end > worker[i].end ? end : worker[i].end;
	}
	pthread_barrier_destroy(&barrier);
	return (end - start) / NR_PAGES;
}

/* With a file whose pages are all there, and an offset that allows 4K only */
static void measure_mappings(uint64_t flags, double *one, double *all)
{
	int i, fd, vm = create_private_vm(SIZE);
	struct worker worker[NR_VCPUS] = {};

	for (i = 0; i < NR_VCPUS; i++)
		create_vcpu(vm, &worker[i].vcpu, i);
	fd = create_file(vm, SIZE_1G, flags);
	populate(fd, flags ? SIZE_1G : SIZE + PAGE_SIZE);
	for (i = 0; i < ROUNDS; i++) {
		bind(vm, fd, PAGE_SIZE);
		take_least(one, time_vcpus(worker, 1));
		unbind(vm);
		bind(vm, fd, PAGE_SIZE);
		take_least(all, time_vcpus(worker, NR_VCPUS));
		unbind(vm);
	}
	close(fd);
	for (i = 0; i < NR_VCPUS; i++)
		close(worker[i].vcpu.fd);
	close(vm);
}

static void measure_vcpus(void)
{
	double small[2] = {}, huge[2] = {};

	printf("1..2\n");
	measure_mappings(0, &small[0], &small[1]);
	measure_mappings(GUEST_MEMFD_FLAG_HUGETLB | HUGE_1GB, &huge[0], &huge[1]);
	printf("# %-44s %12s %12s\n", "instructions for a mapping of 4K", "1 vCPU",
	       "4 vCPUs");
	printf("# %-44s %12.1f %12.1f\n", "to a page of 4K", small[0], small[1]);
	printf("# %-44s %12.1f %12.1f\n", "to a part of a page of 1G", huge[0], huge[1]);
	result(huge[0] <= MAX_HUGE * small[0], "a part of a page of 1G, of a page of 4K",
	       MAX_HUGE, huge[0] / small[0]);
	result(huge[1] <= MAX_VCPUS * huge[0], "4 vCPUs, of one", MAX_VCPUS,
	       huge[1] / huge[0]);
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "populate";

	if (!strcmp(mode, "small")) {
		measure_small();
		return 0;
	}
	if (!strcmp(mode, "in-place")) {
		measure_in_place();
		return 0;
	}

	printf("TAP version 13\n");
	if (!strcmp(mode, "populate")) {
		measure_populate();
	} else if (!strcmp(mode, "vcpus")) {
		measure_vcpus();
	} else {
		printf("Bail out! no such mode: %s\n", mode);
		return 1;
	}
	return failed;
}
