/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The counters of HugeTLB pools, for tests that want them to be exact.
 */
#ifndef SELFTEST_KVM_HUGETLB_POOL_H
#define SELFTEST_KVM_HUGETLB_POOL_H

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <linux/sizes.h>

#include "kselftest.h"
#include "kvm_util.h"
#include "test_util.h"

#define MAX_NODES	8

/* The counters of one HugeTLB pool; all 0 for pages of 4K. */
struct pool_count {
	long nr;
	long free;
	long resv;
	long surplus;
	struct {
		long nr;
		long free;
		long surplus;
	} node[MAX_NODES];
};

static inline long read_count(const char *dir, const char *name)
{
	char path[256];
	long val = -1;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "r");
	if (!f)
		return -1;
	TEST_ASSERT(fscanf(f, "%ld", &val) == 1, "no number in %s", path);
	fclose(f);
	return val;
}

static inline void read_pool(size_t page_size, struct pool_count *p)
{
	char dir[128];
	int i;

	memset(p, 0, sizeof(*p));
	if (page_size == SZ_4K)
		return;

	snprintf(dir, sizeof(dir), "/sys/kernel/mm/hugepages/hugepages-%zukB",
		 page_size >> 10);
	p->nr = read_count(dir, "nr_hugepages");
	p->free = read_count(dir, "free_hugepages");
	p->resv = read_count(dir, "resv_hugepages");
	p->surplus = read_count(dir, "surplus_hugepages");

	for (i = 0; i < MAX_NODES; i++) {
		snprintf(dir, sizeof(dir),
			 "/sys/devices/system/node/node%d/hugepages/hugepages-%zukB",
			 i, page_size >> 10);
		p->node[i].nr = read_count(dir, "nr_hugepages");
		p->node[i].free = read_count(dir, "free_hugepages");
		p->node[i].surplus = read_count(dir, "surplus_hugepages");
	}
}

static inline void print_pool(const char *when, const struct pool_count *p)
{
	int i;

	ksft_print_msg("%s: nr %ld free %ld resv %ld surplus %ld\n", when,
		       p->nr, p->free, p->resv, p->surplus);
	for (i = 0; i < MAX_NODES && p->node[i].nr >= 0; i++)
		ksft_print_msg("  node %d: nr %ld free %ld surplus %ld\n", i,
			       p->node[i].nr, p->node[i].free,
			       p->node[i].surplus);
}

static inline bool write_string(const char *dir, const char *name, const char *value)
{
	char path[256];
	ssize_t len = -1;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_WRONLY);
	if (fd >= 0) {
		len = write(fd, value, strlen(value));
		close(fd);
	}
	return len == (ssize_t)strlen(value);
}

static inline u64 hugetlb_flags(unsigned int page_shift)
{
	return GUEST_MEMFD_FLAG_HUGETLB |
	       (u64)page_shift << GUEST_MEMFD_HUGE_SHIFT;
}

#endif /* SELFTEST_KVM_HUGETLB_POOL_H */
