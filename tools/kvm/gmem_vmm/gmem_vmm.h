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
#define SZ_1M	0x100000ULL
#define SZ_2M	0x200000ULL
#define SZ_1G	0x40000000ULL

/* vm.c: where these fail they say what to do and exit */

/* How a guest's private memory is shared. */
enum sharing {
	SHARE_NOTHING,		/* no memory at userspace_addr */
	SHARE_IN_PLACE,		/* the file converts, and is mapped there */
	SHARE_TWO_STORES,	/* other memory is there, for what is shared */
};

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
	enum sharing sharing;
	size_t run_size;
	char *low;		/* the ordinary slot, as the host sees it */
	char *gmem;		/* what KVM has for the other one */
	size_t gmem_size;
	__u64 gmem_gpa;
	int nr_vcpus;
	struct vcpu vcpu[MAX_VCPUS];
};

void vm_create(struct vm *vm, unsigned long type, enum sharing sharing, int nr_vcpus);
__u64 vm_gmem_flags(const struct vm *vm, __u64 page_size);
void vm_create_gmem(struct vm *vm, __u64 size, __u64 page_size);
void vm_bind_gmem(struct vm *vm, __u64 gpa, __u64 size);
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
__u64 memmap_pages(void);
void trace_start(void);
size_t trace_stop(struct mapping **mappings);

/* report.c */
struct options {
	__u64 size;
	__u64 stride;
	int nr_vcpus;
	unsigned long vm_type;
	bool convert;
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

/* filemap.c: what the host has of a file and of its mapping */
enum folio_size { FOLIO_1G, FOLIO_2M_UP, FOLIO_BELOW_2M, FOLIO_4K, NR_FOLIO_SIZES };

/* Pages next to each other that are in folios of the same size, or all mapped. */
struct extent {
	__u64 index;		/* of the first page in the file */
	__u64 nr_pages;
	__u64 folio_pages;	/* of each folio */
};

struct extents {
	struct extent *extent;
	size_t nr;
};

bool fdinfo_kib(int fd, const char *name, __u64 *value);
void fdinfo_folios(int fd, __u64 folios[NR_FOLIO_SIZES]);
__u64 mapped_pages(const char *mem, size_t size, struct extents *extents);
void folio_extents(__u64 hpa, size_t size, struct extents *extents);

/* convert.c */
struct conversion_row {
	const char *what;
	__u64 pool_free;
	__u64 folios[NR_FOLIO_SIZES];
	__u64 shared_kib;	/* of the guest's memory */
	__u64 vmemmap_kib;	/* struct pages of the file and of nothing else */
	__s64 memmap_kib;	/* struct pages of the host, more than at first */
	__u64 copy_kib;		/* memory that the guest has a second time */
	__s64 page_tables_kib;	/* of KVM, more than at first */
	__u64 host_pages;	/* that the host has mapped */
	__u64 pages_1g, pages_2m, pages_4k;
	__u64 faults_taken, faults_fixed;	/* since the row before */
	__u64 ms;
};

#define MAX_ROWS	7

struct conversion {
	const char *key, *name;
	__u64 flags;
	struct conversion_row rows[MAX_ROWS];
	int nr_rows;
	__u64 host_words, guest_words;	/* each checked the other's */
	bool kept;		/* what was shared is there when it is private again */
};

/* A page of 1G at one time, for a picture. */
struct page_map {
	const char *what;
	int row;		/* what there was then */
	struct extents folios, mapped;
};

#define MAX_MAPS	3

enum way { IN_PLACE, TWO_STORES, SPLIT, NR_WAYS };

struct conversions {
	struct conversion conversion[NR_WAYS];
	struct page_map map[MAX_MAPS];
	int nr_maps;
};

void convert_run(struct conversions *all, const struct options *opt);

/* convert_report.c */
void print_conversions(const struct conversions *all);
void write_conversions_json(const char *path, const struct conversions *all);

/* main.c */
extern bool line_open;		/* the line that tells of progress has been begun */
__u64 now_ms(void);
noreturn void die(const char *fmt, ...);

#endif /* GMEM_VMM_H */
