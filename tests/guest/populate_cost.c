// SPDX-License-Identifier: GPL-2.0
/*
 * What it costs to populate a 1G page of guest_memfd and to give it back, against
 * the same of hugetlbfs. For a VM with --icount, where time is the number of
 * instructions that are carried out and the same in each run.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define KVM_CREATE_VM			0xae01
#define KVM_CREATE_GUEST_MEMFD		0xc040aed4
#define GUEST_MEMFD_FLAG_HUGETLB	(1ULL << 2)
#define HUGE_1GB			(30U << 26)
#define SIZE				(1L << 30)
#define ROUNDS				3

/* To be at most so many times as expensive, clearing set aside */
#define LIMIT				1.05
/* QEMU counts the string instruction that clears once for each byte. */
#define CLEARING			((double)SIZE)

struct kvm_create_guest_memfd {
	uint64_t size;
	uint64_t flags;
	uint64_t reserved[6];
};

struct cost {
	double populate;
	double punch;
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

static void die(const char *what)
{
	printf("Bail out! %s: %m\n", what);
	exit(1);
}

/* The least of some rounds: interrupts only add to it. */
static struct cost measure(int fd)
{
	struct cost cost = { 1e18, 1e18 };
	double start, middle, end;
	int i;

	for (i = 0; i < ROUNDS; i++) {
		start = now();
		if (fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, SIZE))
			die("populating");
		middle = now();
		if (fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0, SIZE))
			die("punching a hole");
		end = now();
		if (middle - start < cost.populate)
			cost.populate = middle - start;
		if (end - middle < cost.punch)
			cost.punch = end - middle;
	}
	close(fd);
	return cost;
}

static int open_hugetlbfs(void)
{
	int fd = memfd_create("populate_cost", MFD_HUGETLB | HUGE_1GB);

	if (fd < 0 || ftruncate(fd, SIZE))
		die("memfd_create");
	return fd;
}

static int open_guest_memfd(void)
{
	struct kvm_create_guest_memfd args = {
		.size = SIZE,
		.flags = GUEST_MEMFD_FLAG_HUGETLB | HUGE_1GB,
	};
	int kvm, vm, fd;

	kvm = open("/dev/kvm", O_RDWR);
	vm = ioctl(kvm, KVM_CREATE_VM, 1UL);	/* with private memory */
	if (vm < 0)
		die("KVM_CREATE_VM");
	fd = ioctl(vm, KVM_CREATE_GUEST_MEMFD, &args);
	if (fd < 0)
		die("KVM_CREATE_GUEST_MEMFD");
	close(vm);
	close(kvm);
	return fd;
}

static int report(int nr, const char *what, double ours, double theirs)
{
	double factor = (ours - CLEARING) / (theirs - CLEARING);
	/* Without --icount these are no numbers of instructions. */
	int good = theirs > CLEARING && ours > CLEARING && factor <= LIMIT;

	printf("# %s: guest_memfd %.0f instructions, hugetlbfs %.0f\n", what, ours, theirs);
	printf("%sok %d %s is at most %.2f times as expensive, but for clearing: %.4f\n",
	       good ? "" : "not ", nr, what, LIMIT, factor);
	return !good;
}

int main(void)
{
	struct cost theirs, ours;
	int failed;

	printf("TAP version 13\n1..2\n");
	theirs = measure(open_hugetlbfs());
	ours = measure(open_guest_memfd());
	failed = report(1, "populating 1G", ours.populate, theirs.populate);
	failed |= report(2, "populating 1G and giving it back", ours.populate + ours.punch,
			 theirs.populate + theirs.punch);
	return failed;
}
