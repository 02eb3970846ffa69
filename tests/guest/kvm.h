/* SPDX-License-Identifier: GPL-2.0 */
/*
 * VMs to measure guest_memfd with, whose guest does no more than to touch pages. The
 * programs run on kernels without the series, too, and build with headers of any age.
 */
#ifndef TESTS_GUEST_KVM_H
#define TESTS_GUEST_KVM_H

#include <errno.h>
#include <fcntl.h>
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
#ifndef KVM_SET_MEMORY_ATTRIBUTES2
#define KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES	252

struct kvm_memory_attributes2 {
	union {
		uint64_t address;
		uint64_t offset;
	};
	uint64_t size;
	uint64_t attributes;
	uint64_t flags;
	uint64_t error_offset;
	uint64_t reserved[11];
};

#define KVM_SET_MEMORY_ATTRIBUTES2	_IOWR(KVMIO, 0xd2, struct kvm_memory_attributes2)
#endif
#define HUGE_1GB	(30U << 26)

#define PAGE_SIZE	4096L
#define SIZE_1G		(1L << 30)

#define CODE_GPA	0
#define CODE_SIZE	(2 * PAGE_SIZE)
#define CODE_SLOT	0
#define TEST_GPA	SIZE_1G
#define TEST_SLOT	1

static inline void __attribute__((noreturn)) die(const char *what)
{
	printf("Bail out! %s: %m\n", what);
	exit(1);
}

static inline double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

/* The least of some rounds: interrupts only add to it. */
static inline void take_least(double *least, double value)
{
	if (!*least || value < *least)
		*least = value;
}

/* The first line of a file of procfs or sysfs that has the format; -1 if none has */
static inline long read_number(const char *path, const char *format)
{
	char line[256];
	long value = -1;
	FILE *f;

	f = fopen(path, "r");
	if (!f)
		die(path);
	while (value < 0 && fgets(line, sizeof(line), f))
		sscanf(line, format, &value);
	fclose(f);
	return value;
}

/* The same of what fdinfo tells of a file of this process */
static inline long read_fdinfo(int fd, const char *format)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	return read_number(path, format);
}

static inline void populate(int fd, long size)
{
	if (fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, size))
		die("populating");
}

static inline void punch(int fd, long size)
{
	if (fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0, size))
		die("punching a hole");
}

static inline int create_vm(unsigned long type)
{
	int vm, kvm = open("/dev/kvm", O_RDWR);

	vm = ioctl(kvm, KVM_CREATE_VM, type);
	if (vm < 0)
		die("KVM_CREATE_VM");
	close(kvm);
	return vm;
}

static inline int create_file(int vm, long size, uint64_t flags)
{
	struct kvm_create_guest_memfd args = { .size = size, .flags = flags };
	int fd = ioctl(vm, KVM_CREATE_GUEST_MEMFD, &args);

	if (fd < 0)
		die("KVM_CREATE_GUEST_MEMFD");
	return fd;
}

/* Do files with GUEST_MEMFD_FLAG_MMAP convert in this VM? */
static inline bool converts_in_place(int vm)
{
	return ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES) &
	       KVM_MEMORY_ATTRIBUTE_PRIVATE;
}

static inline void set_slot(int vm, const struct kvm_userspace_memory_region2 *slot)
{
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION2, slot))
		die("KVM_SET_USER_MEMORY_REGION2");
}

/* Of @size bytes of guest memory; for an ordinary slot, or a file that does not convert */
static inline void set_attributes(int vm, uint64_t gpa, uint64_t size, bool private)
{
	struct kvm_memory_attributes attributes = {
		.address = gpa,
		.size = size,
		.attributes = private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
	};

	if (ioctl(vm, KVM_SET_MEMORY_ATTRIBUTES, &attributes))
		die("KVM_SET_MEMORY_ATTRIBUTES");
}

/* Of pages of a file that converts in place.  Returns an error, negative, or 0. */
static inline int convert_in_place(int fd, long page, long nr, bool private)
{
	struct kvm_memory_attributes2 attributes = {
		.offset = page * PAGE_SIZE,
		.size = nr * PAGE_SIZE,
		.attributes = private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
	};

	return ioctl(fd, KVM_SET_MEMORY_ATTRIBUTES2, &attributes) ? -errno : 0;
}

/* A VM with the code that touch() runs */
static inline int create_vm_with_code(unsigned long type)
{
	/* Write to %ecx pages from %ebx on, and halt. */
	static const unsigned char code[] = {
		0x89, 0x03,				/* 1: mov %eax,(%ebx) */
		0x81, 0xc3, 0x00, 0x10, 0x00, 0x00,	/* add $4096,%ebx */
		0x49,					/* dec %ecx */
		0x75, 0xf5,				/* jnz 1b */
		0xf4,					/* hlt */
	};
	int vm = create_vm(type);
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
	return vm;
}

/* A VM whose memory at TEST_GPA, of @size bytes, is private if a file does not say */
static inline int create_private_vm(uint64_t size)
{
	int vm = create_vm_with_code(KVM_X86_SW_PROTECTED_VM);

	if (size)
		set_attributes(vm, TEST_GPA, size, true);
	return vm;
}

/* A value of the statistics of a VM or a vCPU */
static inline uint64_t get_stat(int fd, const char *name)
{
	struct kvm_stats_header header;
	struct {
		struct kvm_stats_desc desc;
		char name[64];
	} d;
	uint64_t value;
	unsigned int i;

	if (pread(fd, &header, sizeof(header), 0) != sizeof(header))
		die("KVM statistics");
	for (i = 0; i < header.num_desc; i++) {
		size_t size = sizeof(d.desc) + header.name_size;

		if (size > sizeof(d) ||
		    pread(fd, &d, size, header.desc_offset + i * size) != (ssize_t)size)
			die("KVM statistics");
		if (strcmp(d.desc.name, name))
			continue;
		if (pread(fd, &value, sizeof(value), header.data_offset + d.desc.offset) !=
		    sizeof(value))
			die("KVM statistics");
		return value;
	}
	printf("Bail out! KVM has no statistic %s\n", name);
	exit(1);
}

struct vcpu {
	int fd;
	struct kvm_run *run;
};

/* In protected mode, with segments of 4G and without paging */
static inline void create_vcpu(int vm, struct vcpu *v, int id)
{
	struct kvm_segment segment = {
		.limit = ~0U, .selector = 16, .type = 3, .present = 1, .db = 1,
		.s = 1, .g = 1,
	};
	struct kvm_sregs sregs;

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
static inline void touch(struct vcpu *v, uint64_t gpa, long nr_pages)
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

#endif
