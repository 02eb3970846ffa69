/* SPDX-License-Identifier: GPL-2.0 */
#ifndef GMEM_VMM_H
#define GMEM_VMM_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdnoreturn.h>
#include <linux/kvm.h>
#include "guest.h"

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))

#define SZ_4K	0x1000ULL
#define SZ_2M	0x200000ULL
#define SZ_1G	0x40000000ULL

/* vm.c: where these fail they say what to do and exit */
struct vcpu {
	int fd;
	int stats_fd;
	struct kvm_run *run;
	struct guest_job *job;
};

struct vm {
	int fd;
	int stats_fd;
	int gmem_fd;
	unsigned long type;
	size_t run_size;
	char *low;		/* the ordinary slot, as the host sees it */
	void *gmem;		/* what KVM has for the other one */
	size_t gmem_size;
	int nr_vcpus;
	struct vcpu vcpu[MAX_VCPUS];
};

void vm_create(struct vm *vm, unsigned long type, int nr_vcpus);
__u64 vm_gmem_flags(const struct vm *vm, __u64 page_size);
void vm_create_gmem(struct vm *vm, __u64 size, __u64 page_size);
void vm_bind_gmem(struct vm *vm, __u64 gpa, __u64 size, __u64 offset);
void vm_set_private(struct vm *vm, __u64 gpa, __u64 size, bool private);
void vm_run_vcpu(struct vm *vm, int n, void (*progress)(unsigned int mib));
int vm_try_vcpu(struct vm *vm, int n);
void vm_destroy(struct vm *vm);

/* stats.c */
struct pool {
	__u64 total, free, reserved;
};

struct mapping {
	__u64 gpa, hpa;
	int level;		/* 1: 4K, 2: 2M, 3: 1G */
};

__u64 vm_stat(const struct vm *vm, const char *name);
__u64 vcpu_stat(const struct vm *vm, const char *name);
const char *pool_path(__u64 page_size);
void pool_read(struct pool *pool, __u64 page_size);
__u64 meminfo_kib(const char *name);
void trace_start(void);
size_t trace_stop(struct mapping **mappings);

/* report.c */
struct options {
	__u64 size;
	__u64 stride;
	int nr_vcpus;
	unsigned long vm_type;
	const char *json;
	bool trace;
};

struct run {
	const char *name;
	__u64 page_size;
	__u64 size;
	__u64 flags;
	struct pool pool_before, pool_created, pool_touched, pool_closed;
	__s64 free_memory_used_mib, page_tables_kib;
	__u64 faults, pages_1g, pages_2m, pages_4k;
	__u64 words, checksum;
	__u64 reach_tried, reach_done;		/* the guest, the VMM's memory */
	__u64 create_ms, touch_ms, close_ms;
	__u64 touch_cycles, verify_cycles;	/* per word */
	struct mapping *mappings;
	size_t nr_mappings;
};

void print_table(const struct run *runs, int nr_runs);
void write_json(const char *path, const struct options *opt,
		const struct run *runs, int nr_runs);

/* main.c */
noreturn void die(const char *fmt, ...);

#endif /* GMEM_VMM_H */
