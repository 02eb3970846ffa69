// SPDX-License-Identifier: GPL-2.0
/*
 * usage: fault_cost [populate | small | vcpus]
 *
 * What it costs to get memory of guest_memfd, and to have the guest get at it.  For
 * a VM with --icount, where a nanosecond is an instruction, and all is the same in
 * each run.
 *
 *   populate  to populate a 1G page and to give it back, against the same of
 *             hugetlbfs; with limits
 *   small     what pages of 4K cost, also on a kernel without huge ones
 *   vcpus     what the guest's mappings of 4K cost if all are to one page of 1G, by
 *             one vCPU and by four of them; with limits
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <linux/kvm.h>

/* For headers that are older */
#ifndef KVM_CREATE_GUEST_MEMFD
#define KVM_X86_DEFAULT_VM		0
#define KVM_X86_SW_PROTECTED_VM		1
#define KVM_MEM_GUEST_MEMFD		(1UL << 2)
#define KVM_MEMORY_ATTRIBUTE_PRIVATE	(1ULL << 3)

struct kvm_userspace_memory_region2 {
	uint32_t slot;
	uint32_t flags;
	uint64_t guest_phys_addr;
	uint64_t memory_size;
	uint64_t userspace_addr;
	uint64_t guest_memfd_offset;
	uint32_t guest_memfd;
	uint32_t pad1;
	uint64_t pad2[14];
};

struct kvm_memory_attributes {
	uint64_t address;
	uint64_t size;
	uint64_t attributes;
	uint64_t flags;
};

struct kvm_create_guest_memfd {
	uint64_t size;
	uint64_t flags;
	uint64_t reserved[6];
};

#define KVM_SET_USER_MEMORY_REGION2	_IOW(KVMIO, 0x49, struct kvm_userspace_memory_region2)
#define KVM_SET_MEMORY_ATTRIBUTES	_IOW(KVMIO, 0xd2, struct kvm_memory_attributes)
#define KVM_CREATE_GUEST_MEMFD		_IOWR(KVMIO, 0xd4, struct kvm_create_guest_memfd)
#endif
#ifndef GUEST_MEMFD_FLAG_MMAP
#define GUEST_MEMFD_FLAG_MMAP		(1ULL << 0)
#define GUEST_MEMFD_FLAG_INIT_SHARED	(1ULL << 1)
#endif
#ifndef GUEST_MEMFD_FLAG_HUGETLB
#define GUEST_MEMFD_FLAG_HUGETLB	(1ULL << 25)
#endif
#define HUGE_1GB	(30U << 26)

#define PAGE_SIZE	4096L
#define SIZE_1G		(1L << 30)
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
#define CODE_GPA	0
#define CODE_SIZE	(2 * PAGE_SIZE)
#define CODE_SLOT	0
#define TEST_GPA	SIZE_1G
#define TEST_SLOT	1

/*
 * vcpus: a mapping to a page of 1G may cost so many times one to a page of 4K, and
 * one of four vCPUs so many times that of one vCPU alone
 */
#define MAX_HUGE	1.02
#define MAX_VCPUS	1.05
#define NR_VCPUS	4

static int nr_results, failed;

static void die(const char *what)
{
	printf("Bail out! %s: %m\n", what);
	exit(1);
}

static void result(bool good, const char *what, double limit, double factor)
{
	printf("%sok %d %s: at most %.2f times, is %.4f\n", good ? "" : "not ",
	       ++nr_results, what, limit, factor);
	failed |= !good;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

/* The least of some rounds: interrupts only add to it. */
static void take_least(double *least, double value)
{
	if (!*least || value < *least)
		*least = value;
}

static void populate(int fd, long size)
{
	if (fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, size))
		die("populating");
}

static void punch(int fd, long size)
{
	if (fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0, size))
		die("punching a hole");
}

/*
 * VMs
 */

static int create_vm(unsigned long type)
{
	int vm, kvm = open("/dev/kvm", O_RDWR);

	vm = ioctl(kvm, KVM_CREATE_VM, type);
	if (vm < 0)
		die("KVM_CREATE_VM");
	close(kvm);
	return vm;
}

static int create_file(int vm, long size, uint64_t flags)
{
	struct kvm_create_guest_memfd args = { .size = size, .flags = flags };
	int fd = ioctl(vm, KVM_CREATE_GUEST_MEMFD, &args);

	if (fd < 0)
		die("KVM_CREATE_GUEST_MEMFD");
	return fd;
}

static void set_slot(int vm, const struct kvm_userspace_memory_region2 *slot)
{
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION2, slot))
		die("KVM_SET_USER_MEMORY_REGION2");
}

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

/* A VM whose memory at TEST_GPA is private */
static int create_private_vm(void)
{
	struct kvm_memory_attributes attributes = {
		.address = TEST_GPA,
		.size = SIZE,
		.attributes = KVM_MEMORY_ATTRIBUTE_PRIVATE,
	};
	/* Write to %ecx pages from %ebx on, and halt. */
	static const unsigned char code[] = {
		0x89, 0x03,				/* 1: mov %eax,(%ebx) */
		0x81, 0xc3, 0x00, 0x10, 0x00, 0x00,	/* add $4096,%ebx */
		0x49,					/* dec %ecx */
		0x75, 0xf5,				/* jnz 1b */
		0xf4,					/* hlt */
	};
	int vm = create_vm(KVM_X86_SW_PROTECTED_VM);
	void *mem;

	mem = mmap(NULL, CODE_SIZE, PROT_READ | PROT_WRITE,
		   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (mem == MAP_FAILED)
		die("mmap");
	memcpy(mem, code, sizeof(code));
	set_slot(vm, &(struct kvm_userspace_memory_region2) {
		.slot = CODE_SLOT,
		.guest_phys_addr = CODE_GPA,
		.memory_size = CODE_SIZE,
		.userspace_addr = (uintptr_t)mem,
	});
	if (ioctl(vm, KVM_SET_MEMORY_ATTRIBUTES, &attributes))
		die("KVM_SET_MEMORY_ATTRIBUTES");
	return vm;
}

struct vcpu {
	int fd;
	int cpu;
	struct kvm_run *run;
	uint64_t gpa;
	long nr_pages;
	pthread_barrier_t *barrier;
	double start;
	double end;
};

/* In protected mode, with segments of 4G and without paging */
static void create_vcpu(int vm, struct vcpu *v, int id)
{
	struct kvm_segment segment = {
		.limit = ~0U, .selector = 16, .type = 3, .present = 1, .db = 1,
		.s = 1, .g = 1,
	};
	struct kvm_sregs sregs;

	v->cpu = id;
	v->fd = ioctl(vm, KVM_CREATE_VCPU, id);
	if (v->fd < 0)
		die("KVM_CREATE_VCPU");
	v->run = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	if (v->run == MAP_FAILED || ioctl(v->fd, KVM_GET_SREGS, &sregs))
		die("the vCPU");
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = segment;
	segment.selector = 8;
	segment.type = 11;
	sregs.cs = segment;
	sregs.cr0 |= 1;
	if (ioctl(v->fd, KVM_SET_SREGS, &sregs))
		die("KVM_SET_SREGS");
}

/* Have the guest touch so many pages, each of which it has no mapping for. */
static void touch(struct vcpu *v, uint64_t gpa, long nr_pages)
{
	struct kvm_regs regs = {
		.rip = CODE_GPA, .rbx = gpa, .rcx = nr_pages, .rflags = 2,
	};

	if (ioctl(v->fd, KVM_SET_REGS, &regs) || ioctl(v->fd, KVM_RUN, 0))
		die("KVM_RUN");
	if (v->run->exit_reason != KVM_EXIT_HLT) {
		printf("Bail out! exit reason %u\n", v->run->exit_reason);
		exit(1);
	}
}

/* The same, with the guest's code and KVM's own memory in place */
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

static void measure_guest(struct small *cost)
{
	int i, vm = create_private_vm(), fd = create_file(vm, SIZE, 0);
	struct vcpu vcpu = {};
	double start, middle;

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

	measure_guest(&cost);
	measure_host(&cost);
	printf("small %.1f %.1f %.1f %.1f %.1f %.1f\n", cost.new / NR_PAGES,
	       cost.present / NR_PAGES, cost.populate / NR_PAGES,
	       cost.populate_touch / NR_PAGES, cost.punch / NR_PAGES,
	       cost.host / NR_PAGES);
}

/*
 * vcpus
 */

static void *touch_thread(void *arg)
{
	struct vcpu *v = arg;
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(v->cpu, &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		die("not enough CPUs");
	touch(v, CODE_GPA + PAGE_SIZE, 1);
	pthread_barrier_wait(v->barrier);
	v->start = now();
	touch(v, v->gpa, v->nr_pages);
	v->end = now();
	return NULL;
}

/* Each of them touches another part. */
static double time_vcpus(struct vcpu *vcpu, int nr)
{
	pthread_t thread[NR_VCPUS];
	pthread_barrier_t barrier;
	double start, end;
	int i;

	pthread_barrier_init(&barrier, NULL, nr);
	for (i = 0; i < nr; i++) {
		vcpu[i].gpa = TEST_GPA + SIZE / nr * i;
		vcpu[i].nr_pages = NR_PAGES / nr;
		vcpu[i].barrier = &barrier;
		if (pthread_create(&thread[i], NULL, touch_thread, &vcpu[i]))
			die("pthread_create");
	}
	for (i = 0; i < nr; i++) {
		pthread_join(thread[i], NULL);
		start = i && start < vcpu[i].start ? start : vcpu[i].start;
		end = i && end > vcpu[i].end ? end : vcpu[i].end;
	}
	pthread_barrier_destroy(&barrier);
	return (end - start) / NR_PAGES;
}

/* With a file whose pages are all there, and an offset that allows 4K only */
static void measure_mappings(uint64_t flags, double *one, double *all)
{
	int i, fd, vm = create_private_vm();
	struct vcpu vcpu[NR_VCPUS] = {};

	for (i = 0; i < NR_VCPUS; i++)
		create_vcpu(vm, &vcpu[i], i);
	fd = create_file(vm, SIZE_1G, flags);
	populate(fd, flags ? SIZE_1G : SIZE + PAGE_SIZE);
	for (i = 0; i < ROUNDS; i++) {
		bind(vm, fd, PAGE_SIZE);
		take_least(one, time_vcpus(vcpu, 1));
		unbind(vm);
		bind(vm, fd, PAGE_SIZE);
		take_least(all, time_vcpus(vcpu, NR_VCPUS));
		unbind(vm);
	}
	close(fd);
	for (i = 0; i < NR_VCPUS; i++)
		close(vcpu[i].fd);
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
