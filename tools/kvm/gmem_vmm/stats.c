// SPDX-License-Identifier: GPL-2.0
/*
 * What the host says about a VM and its memory: KVM's binary statistics, the
 * HugeTLB pool, /proc/meminfo, and the MMU's tracepoint for the layout.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/stat.h>

#include "gmem_vmm.h"

#define TRACEFS		"/sys/kernel/tracing"
#define TRACE		TRACEFS "/instances/gmem_vmm/"
#define TRACE_EVENT	TRACE "events/kvmmmu/kvm_mmu_set_spte/"
#define SPTE_ADDR_MASK	0x000ffffffffff000ULL

static void pread_all(int fd, void *buf, size_t size, off_t offset)
{
	if (pread(fd, buf, size, offset) != (ssize_t)size)
		die("KVM statistics: %m");
}

/*
 * A statistics file describes itself: a header says where the descriptors and
 * the values are, a descriptor names a value and says where in the values.
 */
static __u64 kvm_stat(int stats_fd, const char *name)
{
	struct kvm_stats_header header;
	struct kvm_stats_desc *desc;
	size_t desc_size, i;
	__u64 value = 0;
	char *descs;

	pread_all(stats_fd, &header, sizeof(header), 0);
	desc_size = sizeof(*desc) + header.name_size;
	descs = malloc(header.num_desc * desc_size);
	if (!descs)
		die("malloc: %m");
	pread_all(stats_fd, descs, header.num_desc * desc_size, header.desc_offset);

	for (i = 0; i < header.num_desc; i++) {
		desc = (struct kvm_stats_desc *)(descs + i * desc_size);
		if (!strcmp(desc->name, name))
			break;
	}
	if (i == header.num_desc)
		die("this kernel's KVM has no statistic %s", name);
	pread_all(stats_fd, &value, sizeof(value), header.data_offset + desc->offset);
	free(descs);
	return value;
}

__u64 vm_stat(const struct vm *vm, const char *name)
{
	return kvm_stat(vm->stats_fd, name);
}

__u64 vcpu_stat(const struct vm *vm, const char *name)
{
	__u64 sum = 0;
	int i;

	for (i = 0; i < vm->nr_vcpus; i++)
		sum += kvm_stat(vm->vcpu[i].stats_fd, name);
	return sum;
}

const char *pool_path(__u64 page_size)
{
	static char path[80];

	snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%llukB",
		 page_size >> 10);
	return path;
}

static __u64 pool_value(__u64 page_size, const char *name)
{
	__u64 value = 0;
	char path[128];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", pool_path(page_size), name);
	file = fopen(path, "r");
	if (file && fscanf(file, "%llu", &value) != 1)
		die("%s: not a number", path);
	if (file)
		fclose(file);
	return value;
}

/* All zero if the host has no such pool. */
void pool_read(struct pool *pool, __u64 page_size)
{
	pool->total = pool_value(page_size, "nr_hugepages");
	pool->free = pool_value(page_size, "free_hugepages");
	pool->reserved = pool_value(page_size, "resv_hugepages");
}

/* Of the whole host, so other activity shows in it. */
__u64 meminfo_kib(const char *name)
{
	char line[128], key[64];
	__u64 kib = 0;
	FILE *file;

	/* Reading this, as root, adds what the CPUs have counted for themselves. */
	file = fopen("/proc/sys/vm/stat_refresh", "r");
	if (file) {
		fgetc(file);
		fclose(file);
	}

	file = fopen("/proc/meminfo", "r");
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "%63[^:]: %llu", key, &kib) == 2 && !strcmp(key, name))
			break;
	if (!file || feof(file))
		die("/proc/meminfo has no %s", name);
	fclose(file);
	return kib;
}

/* Pages that hold struct pages: with HVO those of lent pages come and go. */
__u64 memmap_pages(void)
{
	char line[128];
	__u64 value;
	FILE *file;

	file = fopen("/proc/vmstat", "r");
	while (file && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "nr_memmap_pages %llu", &value) == 1) {
			fclose(file);
			return value;
		}
	}
	die("/proc/vmstat has no nr_memmap_pages");
}

static void trace_write(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		die("%s: %m", path);
	close(fd);
}

/*
 * The only interface that tells the physical address of memory that no process
 * has mapped is the tracepoint that fires when KVM maps it into the guest. The
 * filter is the kernel's: of the 4K mappings one in each 2M, all of the rest.
 */
void trace_start(void)
{
	char text[128];

	if (access(TRACEFS "/instances", W_OK))
		die("--trace needs root, tracefs on %s and event tracing in the kernel",
		    TRACEFS);
	if (mkdir(TRACEFS "/instances/gmem_vmm", 0700) && errno != EEXIST)
		die("%s: %m", TRACE);

	/* This process alone, with the threads that it is going to create. */
	snprintf(text, sizeof(text), "%d", getpid());
	trace_write(TRACE "set_event_pid", text);
	trace_write(TRACE "options/event-fork", "1");
	trace_write(TRACE "buffer_size_kb", "4096");
	snprintf(text, sizeof(text), "gfn >= %#llx && (level > 1 || !(gfn & 0x1ff))",
		 PRIVATE_GPA / SZ_4K);
	trace_write(TRACE_EVENT "filter", text);
	trace_write(TRACE "trace", "\n");
	trace_write(TRACE_EVENT "enable", "1");
}

size_t trace_stop(struct mapping **mappings)
{
	struct mapping *map = NULL, m;
	size_t nr = 0, room = 0;
	char line[256], *event;
	FILE *file;
	__u64 spte;

	trace_write(TRACE_EVENT "enable", "0");
	file = fopen(TRACE "trace", "r");
	if (!file)
		die("%strace: %m", TRACE);
	while (fgets(line, sizeof(line), file)) {
		event = strstr(line, "kvm_mmu_set_spte: ");
		if (!event || sscanf(event, "%*s gfn %llx spte %llx %*s level %d",
				     &m.gpa, &spte, &m.level) != 3)
			continue;
		m.gpa *= SZ_4K;
		m.hpa = spte & SPTE_ADDR_MASK;
		if (nr == room) {
			room = room ? 2 * room : 1024;
			map = realloc(map, room * sizeof(*map));
			if (!map)
				die("realloc: %m");
		}
		map[nr++] = m;
	}
	fclose(file);
	rmdir(TRACEFS "/instances/gmem_vmm");
	*mappings = map;
	return nr;
}
