// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of the page sizes of guest_memfd: 4K, and 2M and 1G from the HugeTLB
 * pools.
 *
 * Each test runs for each page size on a VM with private memory and on one
 * without, and each ends with the counters of the pool, global and per node, as
 * they were when it began.  Two free pages of a size are needed for its tests.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <linux/falloc.h>
#include <linux/memfd.h>
#include <linux/sizes.h>

#include "guest_memfd_util.h"
#include "kvm_util.h"
#include "kvm_test_harness.h"
#include "processor.h"
#include "test_util.h"

/* Seconds.  Clearing 1G and having a guest visit it takes its time. */
#define TIMEOUT		600

/* The page size is encoded as users know it from memfd_create(). */
static_assert(GUEST_MEMFD_HUGE_SHIFT == MFD_HUGE_SHIFT);
static_assert(GUEST_MEMFD_HUGE_MASK == MFD_HUGE_MASK);
static_assert(GUEST_MEMFD_HUGE_1GB == MFD_HUGE_1GB);

FIXTURE(pages)
{
	struct gmem g;
	long nr;	/* pages of a file */
	u64 size;	/* of the file, in bytes */
	gva_t scratch;
};

#define pages_data FIXTURE_DATA(pages)

FIXTURE_VARIANT(pages)
{
	unsigned int page_shift;
	unsigned int vm_type;
};

FIXTURE_VARIANT_ADD(pages, sw_protected_4k)
{
	.page_shift = 12, .vm_type = KVM_X86_SW_PROTECTED_VM,
};

FIXTURE_VARIANT_ADD(pages, sw_protected_2m)
{
	.page_shift = 21, .vm_type = KVM_X86_SW_PROTECTED_VM,
};

FIXTURE_VARIANT_ADD(pages, sw_protected_1g)
{
	.page_shift = 30, .vm_type = KVM_X86_SW_PROTECTED_VM,
};

FIXTURE_VARIANT_ADD(pages, default_4k)
{
	.page_shift = 12, .vm_type = KVM_X86_DEFAULT_VM,
};

FIXTURE_VARIANT_ADD(pages, default_2m)
{
	.page_shift = 21, .vm_type = KVM_X86_DEFAULT_VM,
};

FIXTURE_VARIANT_ADD(pages, default_1g)
{
	.page_shift = 30, .vm_type = KVM_X86_DEFAULT_VM,
};

FIXTURE_SETUP(pages)
{
	const char *reason;

	reason = gmem_setup(&self->g, variant->page_shift, variant->vm_type, 2);
	if (reason)
		SKIP(return, "%s", reason);

	self->nr = variant->page_shift == 12 ? 16 : 2;
	self->size = self->nr * self->g.page_size;
}

FIXTURE_TEARDOWN(pages)
{
	if (!self->g.vm)
		return;

	gmem_free_vm(&self->g);
	EXPECT_TRUE(pool_same(self->g.page_size, &self->g.before));
}

static int create_file(pages_data *self)
{
	return gmem_create(&self->g, self->nr);
}

struct mappings {
	long nr_1g;
	long nr_2m;
	long nr_4k;
	long faults;
};

static struct mappings read_mappings(struct gmem *g)
{
	return (struct mappings) {
		.nr_1g = vm_get_stat(g->vm, pages_1g),
		.nr_2m = vm_get_stat(g->vm, pages_2m),
		.nr_4k = vm_get_stat(g->vm, pages_4k),
		.faults = vcpu_get_stat(g->vcpu[0], pf_fixed),
	};
}

/* What mappings and faults the first touch of all of a region makes. */
static struct mappings touch_all(pages_data *self, u64 delta, u64 size)
{
	struct mappings before, after;
	struct gmem *g = &self->g;

	/* Have the guest's code for this mapped, with a page to touch. */
	if (!self->scratch)
		self->scratch = vm_alloc_page(g->vm);
	run_cmd(g, 0, OP_TOUCH, self->scratch - TEST_GPA, SZ_4K, 1);

	before = read_mappings(g);
	run_cmd(g, 0, OP_TOUCH, delta, size, 1);
	after = read_mappings(g);

	return (struct mappings) {
		.nr_1g = after.nr_1g - before.nr_1g,
		.nr_2m = after.nr_2m - before.nr_2m,
		.nr_4k = after.nr_4k - before.nr_4k,
		.faults = after.faults - before.faults,
	};
}

TEST(capability)
{
	struct kvm_vm *vm = vm_create_barebones();
	unsigned int sizes = vm_check_cap(vm, KVM_CAP_GUEST_MEMFD_HUGETLB);
	unsigned int want = 0;
	struct dirent *d;
	unsigned long kb;
	DIR *dir;

	dir = opendir("/sys/kernel/mm/hugepages");
	if (dir) {
		while ((d = readdir(dir)))
			if (sscanf(d->d_name, "hugepages-%lukB", &kb) == 1)
				want |= BIT(__builtin_ctzl(kb << 10) - 12);
		closedir(dir);
	}
	EXPECT_EQ(want, sizes);
	EXPECT_EQ(sizes, kvm_check_cap(KVM_CAP_GUEST_MEMFD_HUGETLB));
	EXPECT_EQ(0, vm_check_cap(vm, KVM_CAP_GUEST_MEMFD_FLAGS) &
		     GUEST_MEMFD_FLAG_HUGETLB);
	kvm_vm_free(vm);
}

/* A VMM learns that a flag has no meaning here, which it may have elsewhere. */
TEST(unknown_flags)
{
	const u64 flags[] = { BIT(2), BIT(3), BIT(2) | BIT(3), BIT_ULL(24),
			      BIT_ULL(32), BIT_ULL(59) };
	unsigned int types = kvm_check_cap(KVM_CAP_VM_TYPES), type, bit, n = 0;
	const u64 size = 2ULL * SZ_1G;
	struct kvm_vm *vm;
	int i;

	for (type = 0; type < 32; type++) {
		/* Others need firmware, and cannot be made so simply. */
		if (!(types & BIT(type)) || (type != KVM_X86_DEFAULT_VM &&
					     type != KVM_X86_SW_PROTECTED_VM))
			continue;

		n++;
		vm = vm_create_barebones_type(type);
		for (i = 0; i < ARRAY_SIZE(flags); i++) {
			EXPECT_EQ(EINVAL, create_errno(vm, size, flags[i]));
			EXPECT_EQ(EINVAL, create_errno(vm, size, flags[i] |
						       GUEST_MEMFD_FLAG_HUGETLB));
			EXPECT_EQ(EINVAL, create_errno(vm, size, flags[i] |
						       hugetlb_flags(21)));
			EXPECT_EQ(0, flags[i] & vm_check_cap(vm, KVM_CAP_GUEST_MEMFD_FLAGS));
		}

		/* A page size is nothing without the flag that it belongs to. */
		for (bit = 26; bit <= 31; bit++)
			EXPECT_EQ(EINVAL, create_errno(vm, size, BIT_ULL(bit)));
		kvm_vm_free(vm);
	}
	ksft_print_msg("%u types of VMs\n", n);
	EXPECT_LT(0, n);
}

TEST_F(pages, create_flags)
{
	u64 size_bits = (u64)variant->page_shift << GUEST_MEMFD_HUGE_SHIFT;
	u64 size = self->size;
	int shared;

	EXPECT_EQ(0, create_errno(self->g.vm, size, self->g.flags));
	EXPECT_EQ(EINVAL, create_errno(self->g.vm, size, size_bits));
	EXPECT_EQ(EINVAL, create_errno(self->g.vm, size, self->g.flags | BIT(20)));
	/* For allocators of modules, of which there is none here */
	EXPECT_EQ(EINVAL, create_errno(self->g.vm, size,
				       self->g.flags | BIT_ULL(63)));

	if (variant->page_shift == 12)
		return;

	/* No pool of that size; 0 is the default one. */
	EXPECT_EQ(ENODEV, create_errno(self->g.vm, size, hugetlb_flags(14)));
	EXPECT_EQ(ENODEV, create_errno(self->g.vm, size, hugetlb_flags(12)));
	EXPECT_EQ(ENODEV, create_errno(self->g.vm, size, hugetlb_flags(63)));
	EXPECT_EQ(0, create_errno(self->g.vm, 2 * SZ_2M, hugetlb_flags(0)));

	/* What the host may touch converts, or it cannot be created. */
	shared = self->g.private ? 0 : EOPNOTSUPP;
	EXPECT_EQ(shared, create_errno(self->g.vm, size, self->g.flags |
				       GUEST_MEMFD_FLAG_INIT_SHARED));
	EXPECT_EQ(shared, create_errno(self->g.vm, size, self->g.flags |
				       GUEST_MEMFD_FLAG_MMAP |
				       GUEST_MEMFD_FLAG_INIT_SHARED));
	EXPECT_EQ(0, create_errno(self->g.vm, size, self->g.flags |
				  GUEST_MEMFD_FLAG_MMAP));
	/* Without mmap() it can be created on any VM. */
	EXPECT_EQ(0, create_errno(self->g.vm, size,
				  self->g.flags & ~GUEST_MEMFD_FLAG_MMAP));
}

TEST_F(pages, create_size)
{
	const u64 size = self->size;
	const u64 page_size = self->g.page_size;

	EXPECT_EQ(EINVAL, create_errno(self->g.vm, 0, self->g.flags));
	EXPECT_EQ(EINVAL, create_errno(self->g.vm, -page_size, self->g.flags));
	EXPECT_EQ(EINVAL, create_errno(self->g.vm, 1, self->g.flags));
	EXPECT_EQ(EINVAL, create_errno(self->g.vm, size + page_size / 2,
				       self->g.flags));
	if (variant->page_shift > 12)
		EXPECT_EQ(EINVAL, create_errno(self->g.vm, size + SZ_4K,
					       self->g.flags));
	EXPECT_EQ(0, create_errno(self->g.vm, page_size, self->g.flags));
}

TEST_F(pages, reservation)
{
	struct gmem *g = &self->g;
	int fd, fd2;

	if (variant->page_shift == 12)
		SKIP(return, "4K pages are not reserved");

	/* One too many: all or nothing. */
	EXPECT_EQ(ENOMEM, gmem_create_errno(g, g->avail + 1));
	EXPECT_EQ(ENOMEM, create_errno(g->vm, SZ_1G * 8192ULL * 1024, g->flags));
	EXPECT_EQ(ENOMEM, create_errno(g->vm, 1ULL << 62, g->flags));
	EXPECT_TRUE(gmem_held(g, 0, 0));

	/* A reservation takes no page, but it leaves fewer for others. */
	fd = create_file(self);
	EXPECT_TRUE(gmem_held(g, 0, 2));
	EXPECT_EQ(ENOMEM, gmem_create_errno(g, g->avail - 1));

	/* Two files share the pool; the rest can be reserved, and no more. */
	if (g->avail > 2) {
		fd2 = gmem_create(g, g->avail - 2);
		EXPECT_TRUE(gmem_held(g, 0, g->avail));
		EXPECT_EQ(ENOMEM, gmem_create_errno(g, 1));
		close(fd2);
	}

	close(fd);
	EXPECT_TRUE(gmem_held(g, 0, 0));
}

TEST_F(pages, fallocate_errors)
{
	const size_t page_size = self->g.page_size;
	struct gmem *g = &self->g;
	struct statfs sfs;
	struct stat st;
	int fd;

	fd = create_file(self);

	ASSERT_EQ(0, fstat(fd, &st));
	EXPECT_EQ(self->size, st.st_size);
	EXPECT_EQ(page_size, st.st_blksize);
	ASSERT_EQ(0, fstatfs(fd, &sfs));
	EXPECT_EQ(page_size, sfs.f_bsize);

	EXPECT_EQ(-1, fallocate(fd, 0, 0, page_size));
	EXPECT_EQ(EOPNOTSUPP, errno);
	EXPECT_EQ(-1, fallocate(fd, FALLOC_FL_KEEP_SIZE, page_size / 2,
				page_size));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, page_size / 2));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(EINVAL, gmem_populate(g, fd, self->nr, 1));
	EXPECT_EQ(-1, fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
				0, page_size / 2));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(0, gmem_nr_allocated(g, fd));

	close(fd);
}

/* A hole as large as a file can be: only what there is takes time. */
TEST_F_TIMEOUT(pages, punch_sparse, TIMEOUT)
{
	const u64 nr = BIT_ULL(50);
	struct gmem *g = &self->g;
	int fd;

	if (variant->page_shift > 12)
		SKIP(return, "the whole file is reserved");

	fd = gmem_create(g, nr);
	ASSERT_EQ(0, gmem_populate(g, fd, 1, 1));
	ASSERT_EQ(0, gmem_populate(g, fd, nr / 2, 1));
	ASSERT_EQ(0, gmem_populate(g, fd, nr - 1, 1));
	ASSERT_EQ(0, gmem_punch(g, fd, 1, nr - 2));
	EXPECT_EQ(1, gmem_nr_allocated(g, fd));
	ASSERT_EQ(0, gmem_punch(g, fd, 0, nr));
	EXPECT_EQ(0, gmem_nr_allocated(g, fd));
	close(fd);
}

static long fdinfo(int fd, const char *key)
{
	const char *value = gmem_fdinfo(fd, key);

	return value ? atol(value) : -1;
}

static void check_fdinfo(struct __test_metadata *_metadata, pages_data *self,
			 int fd, long allocated, bool shared)
{
	const long kb = self->g.page_size >> 10, size = self->size >> 10;
	const bool reserves = kb > 4;
	char key[64];

	EXPECT_STREQ(reserves ? "hugetlb" : "buddy",
		     gmem_fdinfo(fd, "gmem-allocator"));
	EXPECT_EQ(kb, fdinfo(fd, "gmem-page-size"));
	EXPECT_EQ(size, fdinfo(fd, "gmem-size"));
	EXPECT_EQ(shared ? 0 : size, fdinfo(fd, "gmem-private"));
	EXPECT_EQ(shared ? size : 0, fdinfo(fd, "gmem-shared"));
	EXPECT_EQ(allocated * kb, fdinfo(fd, "gmem-allocated"));
	snprintf(key, sizeof(key), "gmem-folios-%ldkB", kb);
	EXPECT_EQ(allocated, fdinfo(fd, key));
	EXPECT_EQ(reserves ? size - allocated * kb : -1,
		  fdinfo(fd, "gmem-reserved"));
	EXPECT_EQ(reserves ? 0 : -1, fdinfo(fd, "gmem-awaited"));
}

TEST_F_TIMEOUT(pages, fdinfo, TIMEOUT)
{
	struct gmem *g = &self->g;
	int fd;

	fd = create_file(self);
	gmem_bind(g, fd, self->nr);
	check_fdinfo(_metadata, self, fd, 0, false);
	ASSERT_EQ(0, gmem_populate(g, fd, 1, 1));
	check_fdinfo(_metadata, self, fd, 1, false);
	EXPECT_EQ(0, gmem_touch(g, 0));
	check_fdinfo(_metadata, self, fd, 2, false);
	ASSERT_EQ(0, gmem_punch(g, fd, 1, 1));
	check_fdinfo(_metadata, self, fd, 1, false);
	close(fd);

	if (variant->page_shift == 12 && !g->private) {
		fd = vm_create_guest_memfd(g->vm, self->size, g->flags |
					   GUEST_MEMFD_FLAG_INIT_SHARED);
		check_fdinfo(_metadata, self, fd, 0, true);
		close(fd);
	}
}

/*
 * What the next event of that name, for the inode if it's not 0, has to say by
 * this format.  The number of values that were found, -1 without an event.
 */
static int trace_next(FILE *f, const char *event, ino_t ino, const char *format,
		      ...)
{
	char name[64], text[64] = "", line[512], *start;
	va_list ap;
	int n;

	snprintf(name, sizeof(name), " %s: ", event);
	if (ino)
		snprintf(text, sizeof(text), "ino=%lu ", (unsigned long)ino);

	while (fgets(line, sizeof(line), f)) {
		start = strstr(line, name);
		if (line[0] == '#' || !start || !strstr(start, text))
			continue;

		va_start(ap, format);
		n = vsscanf(start + strlen(name), format, ap);
		va_end(ap);
		return n;
	}
	return -1;
}

TEST_F_TIMEOUT(pages, tracepoints, TIMEOUT)
{
	static const char reserve[] =
		"ino=%llu allocator=%31s order=%u nr_folios=%lu error=%d";
	static const char allocate[] =
		"ino=%llu index=0x%lx order=%u pfn=0x%lx nid=%d error=%d";
	static const char truncate[] = "ino=%llu start=0x%lx end=0x%lx";
	static const char unreserve[] = "ino=%llu allocator=%31s";
	const unsigned int order = variant->page_shift - 12;
	unsigned long index, pfn, start, end, nr;
	const bool reserves = order;
	struct gmem *g = &self->g;
	unsigned int got_order;
	unsigned long long ino;
	int fd, nid, error;
	const char *dir;
	char name[128];
	struct stat st;
	FILE *f;

	if (variant->page_shift == 30)
		SKIP(return, "1G takes too long");
	dir = gmem_trace_start("guest_memfd_hugetlb_test");
	if (!dir)
		SKIP(return, "needs root, and tracefs");

	fd = create_file(self);
	ASSERT_EQ(0, fstat(fd, &st));
	ASSERT_EQ(0, gmem_populate(g, fd, 1, 1));
	ASSERT_EQ(0, gmem_punch(g, fd, 1, 1));
	/* There is nothing to remove now. */
	ASSERT_EQ(0, gmem_punch(g, fd, 0, 1));
	ASSERT_EQ(0, gmem_populate(g, fd, 0, 1));
	close(fd);
	/* More than any pool has */
	EXPECT_EQ(reserves ? ENOMEM : 0, create_errno(g->vm, 1ULL << 62, g->flags));

	snprintf(name, sizeof(name), "%s/trace", dir);
	f = fopen(name, "r");
	ASSERT_NE(NULL, f);

	if (reserves) {
		ASSERT_EQ(5, trace_next(f, "guest_memfd_reserve", st.st_ino,
					reserve, &ino, name, &got_order, &nr,
					&error));
		EXPECT_STREQ("hugetlb", name);
		EXPECT_EQ(order, got_order);
		EXPECT_EQ(self->nr, nr);
		EXPECT_EQ(0, error);
	}

	ASSERT_EQ(6, trace_next(f, "guest_memfd_allocate", st.st_ino, allocate,
				&ino, &index, &got_order, &pfn, &nid, &error));
	EXPECT_EQ(1UL << order, index);
	EXPECT_EQ(order, got_order);
	EXPECT_NE(0, pfn);
	EXPECT_EQ(0, pfn & ((1UL << order) - 1));
	EXPECT_LE(0, nid);
	EXPECT_EQ(0, error);

	/* The hole, then the file. */
	ASSERT_EQ(3, trace_next(f, "guest_memfd_truncate", st.st_ino, truncate,
				&ino, &start, &end));
	EXPECT_EQ(1UL << order, start);
	EXPECT_EQ(2UL << order, end);

	ASSERT_EQ(3, trace_next(f, "guest_memfd_truncate", st.st_ino, truncate,
				&ino, &start, &end));
	EXPECT_EQ(0, start);
	EXPECT_EQ((unsigned long)self->nr << order, end);

	if (reserves) {
		ASSERT_EQ(2, trace_next(f, "guest_memfd_unreserve", st.st_ino,
					unreserve, &ino, name));
		EXPECT_STREQ("hugetlb", name);

		ASSERT_EQ(5, trace_next(f, "guest_memfd_reserve", 0, reserve,
					&ino, name, &got_order, &nr, &error));
		EXPECT_EQ((1UL << 50) >> order, nr);
		EXPECT_EQ(-ENOMEM, error);
	}
	fclose(f);
	gmem_trace_stop(dir);
}

TEST_F_TIMEOUT(pages, guest_mappings, TIMEOUT)
{
	struct mappings m;
	int fd;

	fd = create_file(self);
	gmem_bind(&self->g, fd, self->nr);
	m = touch_all(self, 0, self->size);

	EXPECT_EQ(variant->page_shift == 30 ? 2 : 0, m.nr_1g);
	EXPECT_EQ(variant->page_shift == 21 ? 2 : 0, m.nr_2m);
	EXPECT_EQ(variant->page_shift == 12 ? 16 : 0, m.nr_4k);
	EXPECT_EQ(self->nr, m.faults);
	EXPECT_EQ(self->nr, gmem_nr_allocated(&self->g, fd));

	close(fd);
}

/*
 * What one vCPU writes, another reads, and the memory outlives its mappings.  A
 * page that was another file's has none of its data, in any part of it.
 */
TEST_F_TIMEOUT(pages, contents, TIMEOUT)
{
	struct gmem *g = &self->g;
	long nr;
	int fd;

	/* Dirty all the pages there are to be had, so as to get one of them. */
	nr = variant->page_shift == 12 ? 16 : g->avail;
	fd = gmem_create(g, nr);
	gmem_bind(g, fd, nr);
	run_cmd(g, 0, OP_FILL, 0, nr * g->page_size, 42);
	gmem_unbind(g);
	gmem_bind(g, fd, nr);
	run_cmd(g, 1, OP_CHECK, 0, nr * g->page_size, 42);
	gmem_unbind(g);
	close(fd);
	EXPECT_TRUE(gmem_held(g, 0, 0));

	fd = create_file(self);
	gmem_bind(g, fd, self->nr);
	/* Dirty 4K of the first page, then read the rest and the other page. */
	run_cmd(g, 0, OP_FILL, 0, SZ_4K, 43);
	run_cmd(g, 0, OP_CHECK_ZERO, SZ_4K, self->size - SZ_4K, 0);
	run_cmd(g, 1, OP_CHECK, 0, SZ_4K, 43);

	/* The same for a page that was punched out of this file. */
	run_cmd(g, 0, OP_FILL, 0, g->page_size, 44);
	ASSERT_EQ(0, gmem_punch(g, fd, 0, 1));
	run_cmd(g, 0, OP_CHECK_ZERO, 0, g->page_size, 0);

	close(fd);
}

/* Where gfn and file offset are not congruent, mappings are smaller. */
TEST_F_TIMEOUT(pages, misaligned_slot, TIMEOUT)
{
	struct mappings m;
	u64 size;
	int fd;

	fd = create_file(self);

	/* 4K off: 4K mappings, whatever the file has. */
	size = min_t(u64, self->size - SZ_4K, 8 * SZ_4K);
	gmem_bind_at(&self->g, fd, SZ_4K, size, 0);
	m = touch_all(self, 0, size);
	EXPECT_EQ(0, m.nr_1g);
	EXPECT_EQ(0, m.nr_2m);
	EXPECT_EQ(size / SZ_4K, m.nr_4k);
	gmem_unbind(&self->g);

	/* 2M off: 2M mappings of pages of 1G. */
	if (variant->page_shift == 30) {
		gmem_bind_at(&self->g, fd, SZ_2M, SZ_1G, 4ULL * SZ_1G);
		m = touch_all(self, 4ULL * SZ_1G, SZ_1G);
		EXPECT_EQ(0, m.nr_1g);
		EXPECT_EQ(512, m.nr_2m);
		EXPECT_EQ(0, m.nr_4k);
		gmem_unbind(&self->g);

		/* Congruent, but the slot has half of one page and all of one. */
		gmem_bind_at(&self->g, fd, SZ_1G / 2, SZ_1G + SZ_1G / 2,
			     8ULL * SZ_1G + SZ_1G / 2);
		m = touch_all(self, 8ULL * SZ_1G + SZ_1G / 2,
			      SZ_1G + SZ_1G / 2);
		EXPECT_EQ(1, m.nr_1g);
		EXPECT_EQ(256, m.nr_2m);
		EXPECT_EQ(0, m.nr_4k);
		gmem_unbind(&self->g);
	}

	close(fd);
}

/* Part private, part shared: a huge mapping must not cover both. */
TEST_F_TIMEOUT(pages, mixed_attributes, TIMEOUT)
{
	struct mappings m;
	int fd;

	if (!self->g.private)
		SKIP(return, "this VM has no private memory");
	if (variant->page_shift == 12)
		SKIP(return, "4K pages are private or shared as a whole");

	fd = create_file(self);
	gmem_bind(&self->g, fd, self->nr);
	vm_mem_set_shared(self->g.vm, TEST_GPA, SZ_4K);
	m = touch_all(self, SZ_4K, self->size - SZ_4K);

	EXPECT_EQ(variant->page_shift == 30 ? 1 : 0, m.nr_1g);
	EXPECT_EQ(variant->page_shift == 30 ? 511 : 1, m.nr_2m);
	EXPECT_EQ(511, m.nr_4k);

	close(fd);
}

TEST_F_TIMEOUT(pages, host_access, TIMEOUT)
{
	const u64 last = self->size - SZ_4K;
	char *p;
	int fd;

	fd = create_file(self);

	p = mmap(NULL, self->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (!(self->g.flags & GUEST_MEMFD_FLAG_MMAP)) {
		EXPECT_EQ(MAP_FAILED, p);
		EXPECT_EQ(ENODEV, errno);
		close(fd);
		return;
	}
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(MAP_FAILED, mmap(NULL, self->size, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE, fd, 0));
	EXPECT_EQ(EINVAL, errno);

	/* Before the guest has it, and after. */
	TEST_EXPECT_SIGBUS((void)READ_ONCE(*p));
	TEST_EXPECT_SIGBUS(WRITE_ONCE(p[last], 1));

	gmem_bind(&self->g, fd, self->nr);
	run_cmd(&self->g, 0, OP_FILL, 0, self->size, 9);
	TEST_EXPECT_SIGBUS((void)READ_ONCE(*p));
	TEST_EXPECT_SIGBUS(WRITE_ONCE(p[last], 1));
	run_cmd(&self->g, 0, OP_CHECK, 0, self->size, 9);

	/* What the host cannot touch, system calls cannot either. */
	EXPECT_EQ(-1, write(STDERR_FILENO, p, 1));
	EXPECT_EQ(EFAULT, errno);

	munmap(p, self->size);
	close(fd);
}

/* A vCPU never runs out of memory, however often it is taken away from it. */
TEST_F_TIMEOUT(pages, punch_under_guest, TIMEOUT)
{
	const int rounds = variant->page_shift == 30 ? 2 : 200;
	struct gmem *g = &self->g;
	pthread_t thread;
	int fd, i;

	fd = create_file(self);
	gmem_bind(g, fd, self->nr);

	for (i = 0; i < rounds; i++) {
		set_cmd(g, OP_TOUCH, 0, self->size, i);
		pthread_create(&thread, NULL, vcpu_thread, g->vcpu[0]);
		ASSERT_EQ(0, gmem_punch(g, fd, 0, self->nr));
		ASSERT_EQ(0, gmem_populate(g, fd, 0, 1));
		pthread_join(thread, NULL);
	}

	close(fd);
}

/*
 * A guest that maps single pages of what KVM has as a huge page.  With shadow
 * paging KVM's mapping must not be larger than the guest's, which here has the
 * pages in reverse order.
 */
TEST_F_TIMEOUT(pages, small_guest_pages, TIMEOUT)
{
	const u64 alias = 16ULL * SZ_1G;	/* from TEST_GPA */
	const int nr = 16;
	int fd, i;

	fd = create_file(self);
	gmem_bind(&self->g, fd, self->nr);
	for (i = 0; i < nr; i++)
		virt_map(self->g.vm, TEST_GPA + alias + i * SZ_4K,
			 TEST_GPA + (nr - 1 - i) * SZ_4K, 1);

	for (i = 0; i < nr; i++)
		run_cmd(&self->g, 0, OP_FILL, alias + i * SZ_4K, SZ_4K,
			2 * i + 1);
	for (i = 0; i < nr; i++) {
		run_cmd(&self->g, 0, OP_CHECK, alias + i * SZ_4K, SZ_4K,
			2 * i + 1);
		run_cmd(&self->g, 0, OP_CHECK, (nr - 1 - i) * SZ_4K, SZ_4K,
			2 * i + 1);
	}

	close(fd);
}

struct work {
	struct gmem *g;
	int fd;
	long nr;
	bool punch;
	bool *stop;
	int error;
};

static void *work_thread(void *arg)
{
	struct work *w = arg;
	long i;

	for (i = 0; !READ_ONCE(*w->stop) && !w->error; i = (i + 1) % w->nr)
		w->error = w->punch ? gmem_punch(w->g, w->fd, i, 1) :
				      gmem_populate(w->g, w->fd, i, 1);
	return NULL;
}

/* The file's reservation is good at any moment, with no page to spare. */
TEST_F_TIMEOUT(pages, populate_and_punch, TIMEOUT)
{
	const long nr = 4, rest = self->g.avail - nr;
	struct gmem *g = &self->g;
	pthread_t thread[6];
	struct work work[6];
	int fd, others = -1;
	bool stop = false;
	int i;

	if (variant->page_shift != 21)
		SKIP(return, "4K pages are not reserved, 1G takes too long");
	if (rest < 0)
		SKIP(return, "needs %ld free huge pages", nr);

	fd = gmem_create(g, nr);
	gmem_bind(g, fd, nr);
	if (rest) {
		others = gmem_create(g, rest);
		ASSERT_EQ(0, gmem_populate(g, others, 0, rest));
	}

	for (i = 0; i < ARRAY_SIZE(thread); i++) {
		work[i] = (struct work) {
			.g = g,
			.fd = fd,
			.nr = nr,
			.punch = i % 2,
			.stop = &stop,
		};
		pthread_create(&thread[i], NULL, work_thread, &work[i]);
	}
	sleep(10);
	WRITE_ONCE(stop, true);
	for (i = 0; i < ARRAY_SIZE(thread); i++) {
		pthread_join(thread[i], NULL);
		EXPECT_EQ(0, work[i].error);
	}

	close(fd);
	if (others >= 0)
		close(others);
}

TEST_HARNESS_MAIN
