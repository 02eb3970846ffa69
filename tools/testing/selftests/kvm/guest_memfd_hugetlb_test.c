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
#include <setjmp.h>
#include <signal.h>
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

#include "kvm_util.h"
#include "kvm_test_harness.h"
#include "guest_visitor.h"
#include "hugetlb_pool.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define TEST_SLOT	10
#define NR_VCPUS	2
/* Seconds.  Clearing 1G and having a guest visit it takes its time. */
#define TIMEOUT		600

/* The page size is encoded as users know it from memfd_create(). */
static_assert(GUEST_MEMFD_HUGE_SHIFT == MFD_HUGE_SHIFT);
static_assert(GUEST_MEMFD_HUGE_MASK == MFD_HUGE_MASK);
static_assert(GUEST_MEMFD_HUGE_1GB == MFD_HUGE_1GB);

FIXTURE(gmem)
{
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu[NR_VCPUS];
	struct pool_count before;
	size_t page_size;	/* of the file, in bytes */
	size_t size;		/* of the file, in bytes */
	u64 flags;
	bool private;
	void *hva;
	gva_t scratch;
};

#define gmem_data FIXTURE_DATA(gmem)

FIXTURE_VARIANT(gmem)
{
	unsigned int page_shift;
	unsigned int vm_type;
};

FIXTURE_VARIANT_ADD(gmem, sw_protected_4k)
{
	.page_shift = 12,
	.vm_type = KVM_X86_SW_PROTECTED_VM,
};

FIXTURE_VARIANT_ADD(gmem, sw_protected_2m)
{
	.page_shift = 21,
	.vm_type = KVM_X86_SW_PROTECTED_VM,
};

FIXTURE_VARIANT_ADD(gmem, sw_protected_1g)
{
	.page_shift = 30,
	.vm_type = KVM_X86_SW_PROTECTED_VM,
};

FIXTURE_VARIANT_ADD(gmem, default_4k)
{
	.page_shift = 12,
	.vm_type = KVM_X86_DEFAULT_VM,
};

FIXTURE_VARIANT_ADD(gmem, default_2m)
{
	.page_shift = 21,
	.vm_type = KVM_X86_DEFAULT_VM,
};

FIXTURE_VARIANT_ADD(gmem, default_1g)
{
	.page_shift = 30,
	.vm_type = KVM_X86_DEFAULT_VM,
};

FIXTURE_SETUP(gmem)
{
	struct vm_shape shape = {
		.mode = VM_MODE_DEFAULT,
		.type = variant->vm_type,
	};

	if (!(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(variant->vm_type)))
		SKIP(return, "no VMs of type %u", variant->vm_type);

	self->page_size = 1UL << variant->page_shift;
	read_pool(self->page_size, &self->before);

	if (variant->page_shift == 12) {
		self->size = 16 * SZ_4K;
	} else {
		if (!(kvm_check_cap(KVM_CAP_GUEST_MEMFD_HUGETLB) &
		      BIT(variant->page_shift - 12)))
			SKIP(return, "no huge pages of %zu kB",
			     self->page_size >> 10);
		if (self->before.free - self->before.resv < 2)
			SKIP(return, "needs 2 free huge pages of %zu kB",
			     self->page_size >> 10);
		self->flags = hugetlb_flags(variant->page_shift);
		self->size = 2 * self->page_size;
	}

	/* Without private memory the guest gets it if the file can be mapped. */
	self->private = variant->vm_type == KVM_X86_SW_PROTECTED_VM;
	if (!self->private)
		self->flags |= GUEST_MEMFD_FLAG_MMAP;

	self->vm = __vm_create_with_vcpus(shape, NR_VCPUS, 0, guest_code,
					  self->vcpu);
	/* Where shared memory would be; nothing of it is ever touched. */
	self->hva = mmap(NULL, self->size + SZ_1G, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ASSERT_NE(MAP_FAILED, self->hva);
	self->hva = align_ptr_up(self->hva, SZ_1G);
}

FIXTURE_TEARDOWN(gmem)
{
	struct pool_count after;

	if (!self->vm)
		return;

	kvm_vm_free(self->vm);

	read_pool(self->page_size, &after);
	EXPECT_EQ(0, memcmp(&self->before, &after, sizeof(after))) {
		print_pool("before", &self->before);
		print_pool("after", &after);
	}
}

static int create_file(gmem_data *self)
{
	return vm_create_guest_memfd(self->vm, self->size, self->flags);
}

/* The error of creating a file, 0 if it was created (and is closed again). */
static int create_errno(struct kvm_vm *vm, u64 size, u64 flags)
{
	int fd = __vm_create_guest_memfd(vm, size, flags);

	if (fd < 0)
		return errno;

	close(fd);
	return 0;
}

/* Bind @size bytes of the file, from @offset, at TEST_GPA + @delta. */
static void bind_file(gmem_data *self, int fd, u64 offset, u64 size,
		      u64 delta)
{
	const u64 gpa = TEST_GPA + delta;
	const u64 start = gpa & ~(SZ_1G - 1ULL);

	vm_set_user_memory_region2(self->vm, TEST_SLOT, KVM_MEM_GUEST_MEMFD,
				   gpa, size, self->hva + (gpa - start), fd,
				   offset);
	if (self->private)
		vm_mem_set_private(self->vm, gpa, size);

	/*
	 * The guest's own page tables map 1G throughout: that needs no page
	 * which would have to be mapped too and be counted with the memory.
	 */
	virt_map_level(self->vm, start, start,
		       align_up(gpa + size - start, SZ_1G), PG_LEVEL_1G);
}

static void unbind_file(gmem_data *self)
{
	vm_set_user_memory_region2(self->vm, TEST_SLOT, KVM_MEM_GUEST_MEMFD,
				   0, 0, NULL, -1, 0);
}

struct mappings {
	long nr_1g;
	long nr_2m;
	long nr_4k;
	long faults;
};

static struct mappings read_mappings(gmem_data *self)
{
	return (struct mappings) {
		.nr_1g = vm_get_stat(self->vm, pages_1g),
		.nr_2m = vm_get_stat(self->vm, pages_2m),
		.nr_4k = vm_get_stat(self->vm, pages_4k),
		.faults = vcpu_get_stat(self->vcpu[0], pf_fixed),
	};
}

/* What mappings and faults the first touch of all of a region makes. */
static struct mappings touch_all(gmem_data *self, u64 delta, u64 size)
{
	struct mappings before, after;

	/* Get the guest's code and stack mapped first, and a page to touch. */
	if (!self->scratch)
		self->scratch = vm_alloc_page(self->vm);
	run_cmd(self->vm, self->vcpu[0], OP_TOUCH, self->scratch - TEST_GPA,
		SZ_4K, 1);

	before = read_mappings(self);
	run_cmd(self->vm, self->vcpu[0], OP_TOUCH, delta, size, 1);
	after = read_mappings(self);

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

TEST_F(gmem, create_flags)
{
	u64 size_bits = (u64)variant->page_shift << GUEST_MEMFD_HUGE_SHIFT;
	u64 size = self->size;

	EXPECT_EQ(0, create_errno(self->vm, size, self->flags));
	EXPECT_EQ(EINVAL, create_errno(self->vm, size, size_bits));
	EXPECT_EQ(EINVAL, create_errno(self->vm, size, self->flags | BIT(20)));
	EXPECT_EQ(EINVAL, create_errno(self->vm, size,
				       self->flags | BIT_ULL(63)));

	if (variant->page_shift == 12)
		return;

	/* No pool of that size; 0 is the default one. */
	EXPECT_EQ(ENODEV, create_errno(self->vm, size, hugetlb_flags(14)));
	EXPECT_EQ(ENODEV, create_errno(self->vm, size, hugetlb_flags(12)));
	EXPECT_EQ(ENODEV, create_errno(self->vm, size, hugetlb_flags(63)));
	EXPECT_EQ(0, create_errno(self->vm, 2 * SZ_2M, hugetlb_flags(0)));

	EXPECT_EQ(EOPNOTSUPP, create_errno(self->vm, size, self->flags |
					   GUEST_MEMFD_FLAG_INIT_SHARED));
	EXPECT_EQ(EOPNOTSUPP, create_errno(self->vm, size, self->flags |
					   GUEST_MEMFD_FLAG_MMAP |
					   GUEST_MEMFD_FLAG_INIT_SHARED));
	EXPECT_EQ(self->private ? EOPNOTSUPP : 0,
		  create_errno(self->vm, size, self->flags |
			       GUEST_MEMFD_FLAG_MMAP));
	/* Without mmap() it can be created on any VM. */
	EXPECT_EQ(0, create_errno(self->vm, size,
				  self->flags & ~GUEST_MEMFD_FLAG_MMAP));
}

TEST_F(gmem, create_size)
{
	const u64 size = self->size;
	const u64 page_size = self->page_size;

	EXPECT_EQ(EINVAL, create_errno(self->vm, 0, self->flags));
	EXPECT_EQ(EINVAL, create_errno(self->vm, -page_size, self->flags));
	EXPECT_EQ(EINVAL, create_errno(self->vm, 1, self->flags));
	EXPECT_EQ(EINVAL, create_errno(self->vm, size + page_size / 2,
				       self->flags));
	if (variant->page_shift > 12)
		EXPECT_EQ(EINVAL, create_errno(self->vm, size + SZ_4K,
					       self->flags));
	EXPECT_EQ(0, create_errno(self->vm, page_size, self->flags));
}

TEST_F(gmem, reservation)
{
	struct pool_count now;
	u64 all, rest;
	int fd, fd2;

	if (variant->page_shift == 12)
		SKIP(return, "4K pages are not reserved");

	/* One too many: all or nothing. */
	all = self->before.free - self->before.resv;
	EXPECT_EQ(ENOMEM, create_errno(self->vm, (all + 1) * self->page_size,
				       self->flags));
	EXPECT_EQ(ENOMEM, create_errno(self->vm, SZ_1G * 8192ULL * 1024,
				       self->flags));
	EXPECT_EQ(ENOMEM, create_errno(self->vm, 1ULL << 62, self->flags));
	read_pool(self->page_size, &now);
	EXPECT_EQ(0, memcmp(&self->before, &now, sizeof(now)));

	/* A reservation takes no page, but it leaves fewer for others. */
	fd = create_file(self);
	read_pool(self->page_size, &now);
	EXPECT_EQ(self->before.resv + 2, now.resv);
	EXPECT_EQ(self->before.free, now.free);
	EXPECT_EQ(self->before.nr, now.nr);
	EXPECT_EQ(ENOMEM, create_errno(self->vm, (all - 1) * self->page_size,
				       self->flags));

	/* Two files share the pool; the rest is nobody's. */
	rest = all - 2;
	if (rest) {
		fd2 = vm_create_guest_memfd(self->vm, rest * self->page_size,
					    self->flags);
		EXPECT_EQ(ENOMEM, create_errno(self->vm, self->page_size,
					       self->flags));
		close(fd2);
	}

	close(fd);
	read_pool(self->page_size, &now);
	EXPECT_EQ(self->before.resv, now.resv);
}

/* The reservation is charged as such, and the cgroup's limit of those holds. */
TEST_F(gmem, cgroup_rsvd)
{
	static const char root[] = "/sys/fs/cgroup";
	static const char dir[] = "/sys/fs/cgroup/guest_memfd_hugetlb_test";
	char max[64], current[64], value[32];
	int fd;

	if (variant->page_shift == 12)
		SKIP(return, "4K pages are not reserved");

	snprintf(max, sizeof(max), "hugetlb.%s.rsvd.max",
		 variant->page_shift == 30 ? "1GB" : "2MB");
	snprintf(current, sizeof(current), "hugetlb.%s.rsvd.current",
		 variant->page_shift == 30 ? "1GB" : "2MB");
	snprintf(value, sizeof(value), "%zu", self->page_size);

	if (!write_string(root, "cgroup.subtree_control", "+hugetlb") ||
	    (mkdir(dir, 0755) && errno != EEXIST))
		SKIP(return, "needs root, and the hugetlb controller in %s", root);

	ASSERT_TRUE(write_string(dir, max, value));
	ASSERT_TRUE(write_string(dir, "cgroup.procs", "0"));

	EXPECT_EQ(ENOMEM, create_errno(self->vm, 2 * self->page_size,
				       self->flags));
	EXPECT_EQ(0, read_count(dir, current));

	fd = vm_create_guest_memfd(self->vm, self->page_size, self->flags);
	EXPECT_EQ(self->page_size, read_count(dir, current));
	ASSERT_EQ(0, fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, self->page_size));
	EXPECT_EQ(self->page_size, read_count(dir, current));
	EXPECT_EQ(ENOMEM, create_errno(self->vm, self->page_size, self->flags));

	/* The charge stays with the cgroup of the task that made the file. */
	ASSERT_TRUE(write_string(root, "cgroup.procs", "0"));
	EXPECT_EQ(self->page_size, read_count(dir, current));
	EXPECT_EQ(0, create_errno(self->vm, self->page_size, self->flags));
	close(fd);
	EXPECT_EQ(0, read_count(dir, current));

	EXPECT_EQ(0, rmdir(dir));
}

TEST_F_TIMEOUT(gmem, fallocate, TIMEOUT)
{
	const size_t page_size = self->page_size;
	struct pool_count now;
	struct statfs sfs;
	struct stat st;
	int fd;

	fd = create_file(self);

	ASSERT_EQ(0, fstat(fd, &st));
	EXPECT_EQ(self->size, st.st_size);
	EXPECT_EQ(page_size, st.st_blksize);
	EXPECT_EQ(0, st.st_blocks);
	ASSERT_EQ(0, fstatfs(fd, &sfs));
	EXPECT_EQ(page_size, sfs.f_bsize);

	EXPECT_EQ(-1, fallocate(fd, 0, 0, page_size));
	EXPECT_EQ(EOPNOTSUPP, errno);
	EXPECT_EQ(-1, fallocate(fd, FALLOC_FL_KEEP_SIZE, page_size / 2,
				page_size));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, page_size / 2));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, fallocate(fd, FALLOC_FL_KEEP_SIZE, self->size, page_size));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
				0, page_size / 2));
	EXPECT_EQ(EINVAL, errno);

	ASSERT_EQ(0, fallocate(fd, FALLOC_FL_KEEP_SIZE, page_size, page_size));
	ASSERT_EQ(0, fstat(fd, &st));
	EXPECT_EQ(page_size / 512, st.st_blocks);
	if (variant->page_shift > 12) {
		read_pool(page_size, &now);
		EXPECT_EQ(self->before.free - 1, now.free);
		EXPECT_EQ(self->before.resv + 1, now.resv);
	}

	/* What is there already is left alone. */
	ASSERT_EQ(0, fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, self->size));
	ASSERT_EQ(0, fstat(fd, &st));
	EXPECT_EQ(self->size / 512, st.st_blocks);
	if (variant->page_shift > 12) {
		read_pool(page_size, &now);
		EXPECT_EQ(self->before.free - 2, now.free);
		EXPECT_EQ(self->before.resv, now.resv);
	}

	/* A hole gives the page back to the file's reservation. */
	ASSERT_EQ(0, fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
			       0, page_size));
	ASSERT_EQ(0, fstat(fd, &st));
	EXPECT_EQ((self->size - page_size) / 512, st.st_blocks);
	if (variant->page_shift > 12) {
		read_pool(page_size, &now);
		EXPECT_EQ(self->before.free - 1, now.free);
		EXPECT_EQ(self->before.resv + 1, now.resv);
	}
	ASSERT_EQ(0, fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, page_size));

	close(fd);
}

TEST_F_TIMEOUT(gmem, guest_mappings, TIMEOUT)
{
	struct mappings m;
	struct stat st;
	int fd;

	fd = create_file(self);
	bind_file(self, fd, 0, self->size, 0);
	m = touch_all(self, 0, self->size);

	EXPECT_EQ(variant->page_shift == 30 ? 2 : 0, m.nr_1g);
	EXPECT_EQ(variant->page_shift == 21 ? 2 : 0, m.nr_2m);
	EXPECT_EQ(variant->page_shift == 12 ? 16 : 0, m.nr_4k);
	EXPECT_EQ(self->size / self->page_size, m.faults);

	ASSERT_EQ(0, fstat(fd, &st));
	EXPECT_EQ(self->size / 512, st.st_blocks);

	close(fd);
}

/* The page exists whole after the first touch of any part of it. */
TEST_F_TIMEOUT(gmem, first_touch, TIMEOUT)
{
	const u64 offset = self->page_size - SZ_4K;
	struct stat st;
	int fd;

	fd = create_file(self);
	bind_file(self, fd, 0, self->size, 0);
	run_cmd(self->vm, self->vcpu[0], OP_TOUCH, offset, SZ_4K, 1);

	ASSERT_EQ(0, fstat(fd, &st));
	EXPECT_EQ(self->page_size / 512, st.st_blocks);

	close(fd);
}

/* A page that was somebody else's has none of their data, in any part of it. */
TEST_F_TIMEOUT(gmem, zeroed, TIMEOUT)
{
	struct pool_count now;
	u64 nr;
	int fd;

	/* Dirty all the pages there are to be had, so as to get one of them. */
	nr = variant->page_shift == 12 ? 16 :
	     self->before.free - self->before.resv;
	fd = vm_create_guest_memfd(self->vm, nr * self->page_size, self->flags);
	bind_file(self, fd, 0, nr * self->page_size, 0);
	run_cmd(self->vm, self->vcpu[0], OP_FILL, 0, nr * self->page_size, 42);
	run_cmd(self->vm, self->vcpu[1], OP_CHECK, 0, nr * self->page_size, 42);
	unbind_file(self);
	close(fd);

	read_pool(self->page_size, &now);
	EXPECT_EQ(self->before.free, now.free);

	fd = create_file(self);
	vm_set_user_memory_region2(self->vm, TEST_SLOT, KVM_MEM_GUEST_MEMFD,
				   TEST_GPA, self->size, self->hva, fd, 0);
	/* Dirty 4K of the first page, then read the rest and the other page. */
	run_cmd(self->vm, self->vcpu[0], OP_FILL, 0, SZ_4K, 43);
	run_cmd(self->vm, self->vcpu[0], OP_CHECK_ZERO, SZ_4K,
		self->size - SZ_4K, 0);
	run_cmd(self->vm, self->vcpu[1], OP_CHECK, 0, SZ_4K, 43);

	/* The same for a page that was punched out of this file. */
	run_cmd(self->vm, self->vcpu[0], OP_FILL, 0, self->page_size, 44);
	ASSERT_EQ(0, fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
			       0, self->page_size));
	run_cmd(self->vm, self->vcpu[0], OP_CHECK_ZERO, 0, self->page_size, 0);

	close(fd);
}

/* What one vCPU writes, another reads; the memory outlives its mappings. */
TEST_F_TIMEOUT(gmem, contents, TIMEOUT)
{
	int fd;

	fd = create_file(self);
	bind_file(self, fd, 0, self->size, 0);
	run_cmd(self->vm, self->vcpu[0], OP_FILL, 0, self->size, 7);
	run_cmd(self->vm, self->vcpu[1], OP_CHECK, 0, self->size, 7);

	unbind_file(self);
	vm_set_user_memory_region2(self->vm, TEST_SLOT, KVM_MEM_GUEST_MEMFD,
				   TEST_GPA, self->size, self->hva, fd, 0);
	run_cmd(self->vm, self->vcpu[1], OP_CHECK, 0, self->size, 7);

	close(fd);
}

/* Where gfn and file offset are not congruent, mappings are smaller. */
TEST_F_TIMEOUT(gmem, misaligned_slot, TIMEOUT)
{
	struct mappings m;
	u64 size;
	int fd;

	fd = create_file(self);

	/* 4K off: 4K mappings, whatever the file has. */
	size = min_t(u64, self->size - SZ_4K, 8 * SZ_4K);
	bind_file(self, fd, SZ_4K, size, 0);
	m = touch_all(self, 0, size);
	EXPECT_EQ(0, m.nr_1g);
	EXPECT_EQ(0, m.nr_2m);
	EXPECT_EQ(size / SZ_4K, m.nr_4k);
	unbind_file(self);

	/* 2M off: 2M mappings of pages of 1G. */
	if (variant->page_shift == 30) {
		bind_file(self, fd, SZ_2M, SZ_1G, 4ULL * SZ_1G);
		m = touch_all(self, 4ULL * SZ_1G, SZ_1G);
		EXPECT_EQ(0, m.nr_1g);
		EXPECT_EQ(512, m.nr_2m);
		EXPECT_EQ(0, m.nr_4k);
		unbind_file(self);

		/* Congruent, but the slot has half of one page and all of one. */
		bind_file(self, fd, SZ_1G / 2, SZ_1G + SZ_1G / 2,
			  8ULL * SZ_1G + SZ_1G / 2);
		m = touch_all(self, 8ULL * SZ_1G + SZ_1G / 2,
			      SZ_1G + SZ_1G / 2);
		EXPECT_EQ(1, m.nr_1g);
		EXPECT_EQ(256, m.nr_2m);
		EXPECT_EQ(0, m.nr_4k);
		unbind_file(self);
	}

	close(fd);
}

/* userspace_addr means nothing where guest_memfd is the slot's only memory. */
TEST_F_TIMEOUT(gmem, userspace_addr, TIMEOUT)
{
	struct mappings m;
	int fd;

	if (self->private)
		SKIP(return, "the slot has memory in userspace too");

	fd = create_file(self);
	self->hva += SZ_4K;
	bind_file(self, fd, 0, self->size, 0);
	m = touch_all(self, 0, self->size);
	EXPECT_EQ(variant->page_shift == 30 ? 2 : 0, m.nr_1g);
	EXPECT_EQ(variant->page_shift == 21 ? 2 : 0, m.nr_2m);
	EXPECT_EQ(variant->page_shift == 12 ? 16 : 0, m.nr_4k);

	close(fd);
}

/* Part private, part shared: a huge mapping must not cover both. */
TEST_F_TIMEOUT(gmem, mixed_attributes, TIMEOUT)
{
	struct mappings m;
	int fd;

	if (!self->private)
		SKIP(return, "this VM has no private memory");
	if (variant->page_shift == 12)
		SKIP(return, "4K pages are private or shared as a whole");

	fd = create_file(self);
	bind_file(self, fd, 0, self->size, 0);
	vm_mem_set_shared(self->vm, TEST_GPA, SZ_4K);
	m = touch_all(self, SZ_4K, self->size - SZ_4K);

	EXPECT_EQ(variant->page_shift == 30 ? 1 : 0, m.nr_1g);
	EXPECT_EQ(variant->page_shift == 30 ? 511 : 1, m.nr_2m);
	EXPECT_EQ(511, m.nr_4k);

	close(fd);
}

/* Closing the file takes the memory from the guest, the VM may live on. */
TEST_F_TIMEOUT(gmem, close_bound, TIMEOUT)
{
	struct pool_count now;
	int fd, r;

	fd = create_file(self);
	bind_file(self, fd, 0, self->size, 0);
	run_cmd(self->vm, self->vcpu[0], OP_TOUCH, 0, self->size, 1);
	close(fd);

	read_pool(self->page_size, &now);
	EXPECT_EQ(0, memcmp(&self->before, &now, sizeof(now)));

	r = _vcpu_run(self->vcpu[0]);
	EXPECT_EQ(-1, r);
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(KVM_EXIT_MEMORY_FAULT, self->vcpu[0]->run->exit_reason);
}

static sigjmp_buf sigbus_env;

static void sigbus(int sig)
{
	siglongjmp(sigbus_env, 1);
}

static bool access_raises_sigbus(char *p, bool write)
{
	struct sigaction old, sa = { .sa_handler = sigbus };
	bool raised = true;

	sigaction(SIGBUS, &sa, &old);
	if (!sigsetjmp(sigbus_env, 1)) {
		if (write)
			WRITE_ONCE(*p, 1);
		else
			(void)READ_ONCE(*p);
		raised = false;
	}
	sigaction(SIGBUS, &old, NULL);
	return raised;
}

TEST_F_TIMEOUT(gmem, host_access, TIMEOUT)
{
	const u64 last = self->size - SZ_4K;
	char *p;
	int fd;

	fd = create_file(self);

	p = mmap(NULL, self->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (!(self->flags & GUEST_MEMFD_FLAG_MMAP)) {
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
	EXPECT_TRUE(access_raises_sigbus(p, false));
	EXPECT_TRUE(access_raises_sigbus(p + last, true));

	bind_file(self, fd, 0, self->size, 0);
	run_cmd(self->vm, self->vcpu[0], OP_FILL, 0, self->size, 9);
	EXPECT_TRUE(access_raises_sigbus(p, false));
	EXPECT_TRUE(access_raises_sigbus(p + last, true));
	run_cmd(self->vm, self->vcpu[0], OP_CHECK, 0, self->size, 9);

	/* What the host cannot touch, system calls cannot either. */
	EXPECT_EQ(-1, write(STDERR_FILENO, p, 1));
	EXPECT_EQ(EFAULT, errno);

	munmap(p, self->size);
	close(fd);
}

static void *vcpu_thread(void *vcpu)
{
	run_vcpu(vcpu);
	return NULL;
}

/* Two vCPUs race for each page of a file that has reserved just enough. */
TEST_F_TIMEOUT(gmem, concurrent_faults, TIMEOUT)
{
	const int rounds = variant->page_shift == 30 ? 1 : 50;
	pthread_t thread[NR_VCPUS];
	struct stat st;
	int fd, i, n;

	fd = create_file(self);
	bind_file(self, fd, 0, self->size, 0);

	for (n = 0; n < rounds; n++) {
		set_cmd(self->vm, OP_TOUCH, 0, self->size, n);
		for (i = 0; i < NR_VCPUS; i++)
			pthread_create(&thread[i], NULL, vcpu_thread,
				       self->vcpu[i]);
		for (i = 0; i < NR_VCPUS; i++)
			pthread_join(thread[i], NULL);

		ASSERT_EQ(0, fstat(fd, &st));
		EXPECT_EQ(self->size / 512, st.st_blocks);
		ASSERT_EQ(0, fallocate(fd, FALLOC_FL_KEEP_SIZE |
				       FALLOC_FL_PUNCH_HOLE, 0, self->size));
		ASSERT_EQ(0, fstat(fd, &st));
		EXPECT_EQ(0, st.st_blocks);
	}

	close(fd);
}

/* A vCPU never runs out of memory, however often it is taken away from it. */
TEST_F_TIMEOUT(gmem, punch_under_guest, TIMEOUT)
{
	const int rounds = variant->page_shift == 30 ? 2 : 200;
	pthread_t thread;
	int fd, i;

	fd = create_file(self);
	bind_file(self, fd, 0, self->size, 0);

	for (i = 0; i < rounds; i++) {
		set_cmd(self->vm, OP_TOUCH, 0, self->size, i);
		pthread_create(&thread, NULL, vcpu_thread, self->vcpu[0]);
		ASSERT_EQ(0, fallocate(fd, FALLOC_FL_KEEP_SIZE |
				       FALLOC_FL_PUNCH_HOLE, 0, self->size));
		ASSERT_EQ(0, fallocate(fd, FALLOC_FL_KEEP_SIZE,
				       0, self->page_size));
		pthread_join(thread, NULL);
	}

	close(fd);
}

/*
 * A guest that maps single pages of what KVM has as a huge page.  With shadow
 * paging KVM's mapping must not be larger than the guest's, which here has the
 * pages in reverse order.
 */
TEST_F_TIMEOUT(gmem, small_guest_pages, TIMEOUT)
{
	const u64 alias = 16ULL * SZ_1G;	/* from TEST_GPA */
	const int nr = 16;
	struct kvm_vcpu *vcpu = self->vcpu[0];
	int fd, i;

	fd = create_file(self);
	bind_file(self, fd, 0, self->size, 0);
	for (i = 0; i < nr; i++)
		virt_map(self->vm, TEST_GPA + alias + i * SZ_4K,
			 TEST_GPA + (nr - 1 - i) * SZ_4K, 1);

	for (i = 0; i < nr; i++)
		run_cmd(self->vm, vcpu, OP_FILL, alias + i * SZ_4K, SZ_4K,
			2 * i + 1);
	for (i = 0; i < nr; i++) {
		run_cmd(self->vm, vcpu, OP_CHECK, alias + i * SZ_4K, SZ_4K,
			2 * i + 1);
		run_cmd(self->vm, vcpu, OP_CHECK, (nr - 1 - i) * SZ_4K, SZ_4K,
			2 * i + 1);
	}

	close(fd);
}

struct populate {
	size_t page_size;
	int fd;
	int nr_pages;
	int error;
	bool stop;
};

static void *populate_thread(void *arg)
{
	struct populate *p = arg;
	int i;

	for (i = 0; !READ_ONCE(p->stop); i = (i + 1) % p->nr_pages)
		if (fallocate(p->fd, FALLOC_FL_KEEP_SIZE, i * p->page_size,
			      p->page_size))
			WRITE_ONCE(p->error, errno);
	return NULL;
}

static void *punch_thread(void *arg)
{
	struct populate *p = arg;
	int i;

	for (i = 0; !READ_ONCE(p->stop); i = (i + 1) % p->nr_pages)
		if (fallocate(p->fd, FALLOC_FL_KEEP_SIZE |
			      FALLOC_FL_PUNCH_HOLE, i * p->page_size,
			      p->page_size))
			WRITE_ONCE(p->error, errno);
	return NULL;
}

/* The file's reservation is good at any moment, with no page to spare. */
TEST_F_TIMEOUT(gmem, populate_and_punch, TIMEOUT)
{
	struct populate p = { .page_size = self->page_size, .nr_pages = 4 };
	pthread_t thread[6];
	int others = -1;
	long rest;
	int i;

	if (variant->page_shift != 21)
		SKIP(return, "4K pages are not reserved, 1G takes too long");

	rest = self->before.free - self->before.resv - p.nr_pages;
	if (rest < 0)
		SKIP(return, "needs %d free huge pages", p.nr_pages);

	p.fd = vm_create_guest_memfd(self->vm, p.nr_pages * self->page_size,
				     self->flags);
	if (rest) {
		others = vm_create_guest_memfd(self->vm, rest * self->page_size,
					       self->flags);
		ASSERT_EQ(0, fallocate(others, FALLOC_FL_KEEP_SIZE, 0,
				       rest * self->page_size));
	}

	for (i = 0; i < ARRAY_SIZE(thread); i++)
		pthread_create(&thread[i], NULL,
			       i % 2 ? punch_thread : populate_thread, &p);
	sleep(10);
	WRITE_ONCE(p.stop, true);
	for (i = 0; i < ARRAY_SIZE(thread); i++)
		pthread_join(thread[i], NULL);

	EXPECT_EQ(0, p.error);

	close(p.fd);
	if (others >= 0)
		close(others);
}

/* What is reserved stays so when the pool shrinks and its pages are surplus. */
TEST_F_TIMEOUT(gmem, shrink_pool, TIMEOUT)
{
	static const char dir[] = "/sys/kernel/mm/hugepages/hugepages-2048kB";
	const size_t page_size = self->page_size;
	struct pool_count now;
	char nr[32];
	int fd;

	if (variant->page_shift != 21)
		SKIP(return, "for the pool of 2M only");
	if (self->before.node[1].nr >= 0)
		SKIP(return, "pages may come back on other nodes");
	if (self->before.surplus || !write_string(dir, "nr_hugepages", "0"))
		SKIP(return, "needs root, and a pool without surplus pages");

	snprintf(nr, sizeof(nr), "%ld", self->before.nr);
	ASSERT_TRUE(write_string(dir, "nr_hugepages", "2"));
	fd = create_file(self);
	ASSERT_EQ(0, fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 2 * page_size));
	ASSERT_TRUE(write_string(dir, "nr_hugepages", "0"));

	ASSERT_EQ(0, fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
			       0, page_size));
	read_pool(page_size, &now);
	EXPECT_EQ(2, now.nr);
	EXPECT_EQ(2, now.surplus);
	EXPECT_EQ(1, now.free);
	EXPECT_EQ(1, now.resv);
	EXPECT_EQ(0, fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, page_size));

	close(fd);
	read_pool(page_size, &now);
	EXPECT_EQ(0, now.nr);
	EXPECT_EQ(0, now.surplus);
	EXPECT_EQ(0, now.resv);

	ASSERT_TRUE(write_string(dir, "nr_hugepages", nr));
}

TEST_HARNESS_MAIN
