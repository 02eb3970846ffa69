// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of memslots on guest_memfd: the guest has the memory of the file, as fast
 * as the file's pages allow, and what is mapped at userspace_addr has no part in
 * it.  Prefaulting gives way to changes of memslots, and so does a fault that has
 * found no memslot.
 *
 * Files of huge pages are tested if the pool has enough pages.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <linux/falloc.h>
#include <linux/sizes.h>

#include "kvm_util.h"
#include "kvm_test_harness.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define SLOT		10
#define OTHER_SLOT	11	/* a page of userspace, at OTHER_GPA */
/* Aligned to any page size, and clear of the memory of the test library */
#define GPA		(8ULL * SZ_1G)
#define OTHER_GPA	(32ULL * SZ_1G)
/* The guest has GPA at the same address, and once more by pages of 4K. */
#define GVA		GPA
#define GVA_4K		(16ULL * SZ_1G)
#define MAPPED		(2ULL * SZ_1G)
/* Seconds.  A debug kernel on an emulated CPU takes its time. */
#define TIMEOUT		120

/* What the guest does to the first word of each page of 4K */
enum visit_op {
	TOUCH,		/* write the number of the page, counted from 1 */
	EXPECT,		/* expect that */
	EXPECT_ZERO,
};

static struct visit {
	enum visit_op op;
	u64 gva;
	u64 nr_pages;
} visit;

static void guest_code(void)
{
	u64 i, want, wrong, *word;
	struct visit v;

	for (;;) {
		v = visit;
		asm volatile("" : "+m"(v));

		for (wrong = 0, i = 0; i < v.nr_pages; i++) {
			word = (u64 *)(v.gva + i * SZ_4K);
			want = v.op == EXPECT_ZERO ? 0 : i + 1;
			if (v.op == TOUCH)
				WRITE_ONCE(*word, want);
			else if (READ_ONCE(*word) != want)
				wrong++;
		}
		GUEST_SYNC(wrong);
	}
}

struct memory {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	int fd;		/* -1: memory of userspace */
	size_t size;
	char *mem;	/* the file mapped, where that can be; else memory of userspace */
	bool private;
};

/* The number of pages that did not hold what they should */
static u64 run_guest(struct memory *m, enum visit_op op, u64 gva, u64 size)
{
	struct ucall uc;

	visit = (struct visit) { .op = op, .gva = gva, .nr_pages = size / SZ_4K };
	sync_global_to_guest(m->vm, visit);
	vcpu_run(m->vcpu);
	TEST_ASSERT(get_ucall(m->vcpu, &uc) == UCALL_SYNC, "the guest failed");
	return uc.args[1];
}

static void *reserve_address(size_t size, int prot)
{
	return kvm_mmap(size, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
}

/* Why a test cannot run, NULL if it can.  @page_shift is 0 for memory of userspace. */
static const char *setup(struct memory *m, unsigned int vm_type,
			 unsigned int page_shift, size_t size)
{
	struct vm_shape shape = { .mode = VM_MODE_DEFAULT, .type = vm_type };
	u64 flags = vm_type == KVM_X86_SW_PROTECTED_VM ? 0 : GUEST_MEMFD_FLAG_MMAP;

	m->fd = -1;
	m->size = size;
	if (!(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(vm_type)))
		return "no VMs of that type";

	m->vm = __vm_create_with_vcpus(shape, 1, 0, guest_code, &m->vcpu);
	virt_map_level(m->vm, GVA, GPA, MAPPED, PG_LEVEL_1G);
	m->private = vm_type == KVM_X86_SW_PROTECTED_VM;
	if (!page_shift) {
		m->mem = reserve_address(size, PROT_READ | PROT_WRITE);
		madvise(m->mem, size, MADV_NOHUGEPAGE);
		return NULL;
	}

	if (page_shift > 12) {
		if (!(kvm_check_cap(KVM_CAP_GUEST_MEMFD_HUGETLB) & BIT(page_shift - 12)))
			return "no huge pages of that size";
		flags |= GUEST_MEMFD_FLAG_HUGETLB |
			 (u64)page_shift << GUEST_MEMFD_HUGE_SHIFT;
	} else if (!m->private) {
		flags |= GUEST_MEMFD_FLAG_INIT_SHARED;
	}
	m->fd = __vm_create_guest_memfd(m->vm, size, flags);
	if (m->fd < 0) {
		TEST_ASSERT_EQ(errno, ENOMEM);
		return "not enough pages of that size";
	}
	if (!m->private)
		m->mem = kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd);
	return NULL;
}

static void teardown(struct memory *m)
{
	if (m->fd >= 0)
		close(m->fd);
	if (m->vm)
		kvm_vm_free(m->vm);
}

static void bind(struct memory *m, u64 gpa, u64 size, void *hva, u64 offset)
{
	vm_set_user_memory_region2(m->vm, SLOT, m->fd < 0 ? 0 : KVM_MEM_GUEST_MEMFD,
				   gpa, size, hva, m->fd, offset);
}

static void delete_slot(struct memory *m, u32 slot)
{
	vm_set_user_memory_region2(m->vm, slot, 0, 0, 0, NULL, -1, 0);
}

static void add_other_slot(struct memory *m)
{
	vm_set_user_memory_region2(m->vm, OTHER_SLOT, 0, OTHER_GPA, SZ_4K,
				   reserve_address(SZ_4K, PROT_READ | PROT_WRITE), -1, 0);
}

/* The number of mappings that the guest has, of any size */
static u64 nr_mappings(struct memory *m)
{
	return vm_get_stat(m->vm, pages_4k) + vm_get_stat(m->vm, pages_2m) +
	       vm_get_stat(m->vm, pages_1g);
}

/*
 * What is mapped at userspace_addr
 */

FIXTURE(host)
{
	struct memory m;
};

FIXTURE_VARIANT(host)
{
	unsigned int page_shift;
};

FIXTURE_VARIANT_ADD(host, 4k) { .page_shift = 12 };
FIXTURE_VARIANT_ADD(host, 2m) { .page_shift = 21 };
#define HOST_SIZE	(2 * SZ_2M)

FIXTURE_SETUP(host)
{
	const char *why = setup(&self->m, KVM_X86_DEFAULT_VM, variant->page_shift,
				HOST_SIZE);

	if (why)
		SKIP(return, "%s", why);
	virt_map(self->m.vm, GVA_4K, GPA, HOST_SIZE / SZ_4K);
}

FIXTURE_TEARDOWN(host)
{
	teardown(&self->m);
}

static int punch(struct memory *m)
{
	return fallocate(m->fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0, m->size);
}

/*
 * Without nested paging KVM fills in more than what faults, if a page of the guest
 * covers it, or if it was accessed before.
 */
static void guest_has_file(struct __test_metadata *_metadata, struct memory *m,
			   void *hva)
{
	const u64 gva[] = { GVA_4K, GVA };
	int i;

	bind(m, GPA, HOST_SIZE, hva, 0);
	for (i = 0; i < ARRAY_SIZE(gva); i++) {
		EXPECT_EQ(0, run_guest(m, EXPECT_ZERO, gva[i], HOST_SIZE));
		run_guest(m, TOUCH, gva[i], HOST_SIZE);
		/* Deleting any slot zaps all. */
		add_other_slot(m);
		delete_slot(m, OTHER_SLOT);
		EXPECT_EQ(0, run_guest(m, EXPECT, gva[i], HOST_SIZE));
		EXPECT_EQ(0, punch(m));
	}
}

TEST_F(host, other_memory)
{
	char *other = reserve_address(HOST_SIZE, PROT_READ | PROT_WRITE);
	u64 i, nr_written = 0;

	memset(other, 0xaa, HOST_SIZE);
	guest_has_file(_metadata, &self->m, other);
	for (i = 0; i < HOST_SIZE; i++)
		nr_written += (u8)other[i] != 0xaa;
	EXPECT_EQ(0, nr_written);
}

TEST_F(host, no_access)
{
	guest_has_file(_metadata, &self->m, reserve_address(HOST_SIZE, PROT_NONE));
}

static void host_unmaps(struct memory *m)
{
	kvm_munmap(m->mem, HOST_SIZE);
}

static void host_discards(struct memory *m)
{
	TEST_ASSERT(!madvise(m->mem, HOST_SIZE, MADV_DONTNEED), "MADV_DONTNEED");
}

static void host_moves(struct memory *m)
{
	TEST_ASSERT(mremap(m->mem, HOST_SIZE, HOST_SIZE, MREMAP_MAYMOVE | MREMAP_FIXED,
			   reserve_address(HOST_SIZE, PROT_NONE)) != MAP_FAILED,
		    "mremap()");
}

static void guest_keeps_mappings(struct __test_metadata *_metadata, struct memory *m,
				 void (*change)(struct memory *m))
{
	u64 nr, nr_other, faults;

	bind(m, GPA, HOST_SIZE, m->mem, 0);
	run_guest(m, TOUCH, 0, 0);
	nr_other = nr_mappings(m);
	/* Fails for huge pages, which the host cannot have. */
	madvise(m->mem, HOST_SIZE, MADV_POPULATE_WRITE);
	run_guest(m, TOUCH, GVA, HOST_SIZE);
	nr = nr_mappings(m);
	EXPECT_LT(nr_other, nr);

	change(m);
	EXPECT_EQ(nr, nr_mappings(m));
	faults = vcpu_get_stat(m->vcpu, pf_taken);
	EXPECT_EQ(0, run_guest(m, EXPECT, GVA, HOST_SIZE));
	EXPECT_EQ(faults, vcpu_get_stat(m->vcpu, pf_taken));

	/* The file takes back what it frees. */
	EXPECT_EQ(0, punch(m));
	EXPECT_EQ(nr_other, nr_mappings(m));
	EXPECT_EQ(0, run_guest(m, EXPECT_ZERO, GVA, HOST_SIZE));
}

TEST_F(host, munmap)
{
	guest_keeps_mappings(_metadata, &self->m, host_unmaps);
}

TEST_F(host, madv_dontneed)
{
	guest_keeps_mappings(_metadata, &self->m, host_discards);
}

TEST_F(host, mremap)
{
	guest_keeps_mappings(_metadata, &self->m, host_moves);
}

/*
 * KVM_PRE_FAULT_MEMORY against changes of memslots
 */

FIXTURE(prefault)
{
	struct memory m;
	pthread_t thread;
	bool stop, done;
	long calls;
	long nr_errors[256];	/* by errno */
	u64 left;		/* of the last call */
};

#define prefault_data FIXTURE_DATA(prefault)

FIXTURE_VARIANT(prefault)
{
	unsigned int page_shift;
	size_t size;		/* more than a moment's work */
};

FIXTURE_VARIANT_ADD(prefault, userspace) { .size = SZ_256M };
FIXTURE_VARIANT_ADD(prefault, 4k) { .page_shift = 12, .size = SZ_256M };
FIXTURE_VARIANT_ADD(prefault, 2m) { .page_shift = 21, .size = SZ_128M };
FIXTURE_VARIANT_ADD(prefault, 1g) { .page_shift = 30, .size = MAPPED };

FIXTURE_SETUP(prefault)
{
	const char *why;

	if (!kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY) || !kvm_is_tdp_enabled())
		SKIP(return, "no KVM_PRE_FAULT_MEMORY");
	why = setup(&self->m, KVM_X86_DEFAULT_VM, variant->page_shift, variant->size);
	if (why)
		SKIP(return, "%s", why);
	bind(&self->m, GPA, variant->size, self->m.mem, 0);
}

FIXTURE_TEARDOWN(prefault)
{
	teardown(&self->m);
}

static int prefault_errno(prefault_data *self)
{
	struct kvm_pre_fault_memory range = { .gpa = GPA, .size = self->m.size };
	int r = __vcpu_ioctl(self->m.vcpu, KVM_PRE_FAULT_MEMORY, &range) ? errno : 0;

	self->left = range.size;
	self->nr_errors[r]++;
	WRITE_ONCE(self->calls, self->calls + 1);
	return r;
}

static void *prefault(void *arg)
{
	prefault_data *self = arg;

	do {
		prefault_errno(self);
	} while (!READ_ONCE(self->stop));
	WRITE_ONCE(self->done, true);
	return NULL;
}

/* The slot is deleted while it's prefaulted, and each goes on. */
TEST_F_TIMEOUT(prefault, same_slot, TIMEOUT)
{
	long i, calls;

	ASSERT_EQ(0, pthread_create(&self->thread, NULL, prefault, self));
	for (i = 0; i < 200; i++) {
		calls = READ_ONCE(self->calls);
		delete_slot(&self->m, SLOT);
		bind(&self->m, GPA, self->m.size, self->m.mem, 0);
		while (READ_ONCE(self->calls) == calls)
			usleep(100);
	}
	WRITE_ONCE(self->stop, true);
	pthread_join(self->thread, NULL);

	TH_LOG("%ld calls: %ld ok, %ld EAGAIN, %ld ENOENT", self->calls,
	       self->nr_errors[0], self->nr_errors[EAGAIN], self->nr_errors[ENOENT]);
	EXPECT_EQ(self->calls, self->nr_errors[0] + self->nr_errors[EAGAIN] +
			       self->nr_errors[ENOENT]);
	EXPECT_EQ(0, prefault_errno(self));
}

/* Another slot is deleted before the call for this one is through. */
TEST_F_TIMEOUT(prefault, other_slot, TIMEOUT)
{
	bool deleted = false;
	u64 before;
	int i;

	/* For pages of 4K, mapping those that are there is work enough. */
	if (variant->page_shift == 12)
		ASSERT_EQ(0, fallocate(self->m.fd, FALLOC_FL_KEEP_SIZE, 0,
				       self->m.size));

	/* Once is enough: this task may get no CPU until the call is through. */
	for (i = 1; i <= 10 && !deleted; i++) {
		add_other_slot(&self->m);
		before = nr_mappings(&self->m);
		self->done = false;
		self->stop = true;	/* after one call */
		ASSERT_EQ(0, pthread_create(&self->thread, NULL, prefault, self));
		while (nr_mappings(&self->m) == before && !READ_ONCE(self->done))
			;

		delete_slot(&self->m, OTHER_SLOT);
		deleted = !READ_ONCE(self->done);
		pthread_join(self->thread, NULL);
		EXPECT_EQ(i, self->nr_errors[0]);
		EXPECT_EQ(0, self->left);

		delete_slot(&self->m, SLOT);
		if (variant->page_shift > 12)
			ASSERT_EQ(0, fallocate(self->m.fd, FALLOC_FL_KEEP_SIZE |
					       FALLOC_FL_PUNCH_HOLE, 0, self->m.size));
		bind(&self->m, GPA, self->m.size, self->m.mem, 0);
	}
	EXPECT_TRUE(deleted);
}

/*
 * A memslot that appears while vCPUs fault where it is going to be
 */

#define NR_TOUCHING	3
/* A vCPU faults once on each page before a mapping of MMIO spares it that. */
#define TOUCH_PAGES	64
#define STORM_SECONDS	15
#define MIN_ROUNDS	10
#define TAINT_WARN	9	/* bit of the sysctl kernel.tainted */

struct touching {
	struct kvm_vcpu *vcpu;
	pthread_t thread;
	long exits;		/* for want of a memslot */
	bool stop, done;
	u32 reason;		/* of its last exit */
};

FIXTURE(appear)
{
	struct memory m;
	struct touching touching[NR_TOUCHING];
};

#define appear_data FIXTURE_DATA(appear)

FIXTURE_VARIANT(appear)
{
	unsigned int page_shift;
};

FIXTURE_VARIANT_ADD(appear, userspace) { .page_shift = 0 };
FIXTURE_VARIANT_ADD(appear, 4k) { .page_shift = 12 };
FIXTURE_VARIANT_ADD(appear, 2m) { .page_shift = 21 };

static bool kernel_has_warned(void)
{
	FILE *file = fopen("/proc/sys/kernel/tainted", "r");
	unsigned long taint;

	TEST_ASSERT(file && fscanf(file, "%lu", &taint) == 1, "kernel.tainted");
	fclose(file);
	return taint & BIT(TAINT_WARN);
}

static void guest_touch(void)
{
	int i;

	for (;;) {
		for (i = 0; i < TOUCH_PAGES; i++)
			WRITE_ONCE(*(u64 *)(GVA + i * SZ_4K), 1);
	}
}

FIXTURE_SETUP(appear)
{
	const char *why;
	int i;

	/* KVM's checks warn once. */
	if (kernel_has_warned())
		SKIP(return, "the kernel has warned already");
	why = setup(&self->m, KVM_X86_DEFAULT_VM, variant->page_shift, SZ_2M);
	if (why)
		SKIP(return, "%s", why);
	for (i = 0; i < NR_TOUCHING; i++)
		self->touching[i].vcpu = vm_vcpu_add(self->m.vm, i + 1,
						     guest_touch);
}

FIXTURE_TEARDOWN(appear)
{
	teardown(&self->m);
}

static void *touch(void *arg)
{
	struct touching *t = arg;

	while (!READ_ONCE(t->stop)) {
		vcpu_run(t->vcpu);
		t->reason = t->vcpu->run->exit_reason;
		if (t->reason != KVM_EXIT_MMIO)
			break;
		WRITE_ONCE(t->exits, t->exits + 1);
	}
	WRITE_ONCE(t->done, true);
	return NULL;
}

static int nr_touching(appear_data *self)
{
	int i, nr = 0;

	for (i = 0; i < NR_TOUCHING; i++)
		nr += !READ_ONCE(self->touching[i].done);
	return nr;
}

static long nr_exits(appear_data *self)
{
	long nr = 0;
	int i;

	for (i = 0; i < NR_TOUCHING; i++)
		nr += READ_ONCE(self->touching[i].exits);
	return nr;
}

/*
 * A vCPU finds no memslot, another one finds it and maps the page: the first one
 * must not take that for memory without a memslot.
 */
TEST_F_TIMEOUT(appear, while_touched, TIMEOUT)
{
	const time_t end = time(NULL) + STORM_SECONDS;
	struct touching *t;
	long exits, rounds;
	int i;

	for (i = 0; i < NR_TOUCHING; i++)
		ASSERT_EQ(0, pthread_create(&self->touching[i].thread, NULL,
					    touch, &self->touching[i]));

	/* It takes two. */
	for (rounds = 0; time(NULL) < end && nr_touching(self) > 1; rounds++) {
		exits = nr_exits(self);
		while (nr_exits(self) == exits && nr_touching(self) > 1)
			sched_yield();
		bind(&self->m, GPA, SZ_2M, self->m.mem, 0);
		delete_slot(&self->m, SLOT);
	}

	for (i = 0; i < NR_TOUCHING; i++)
		WRITE_ONCE(self->touching[i].stop, true);
	for (i = 0; i < NR_TOUCHING; i++) {
		t = &self->touching[i];
		pthread_join(t->thread, NULL);
		TH_LOG("%ld exits, the last for reason %u", t->exits, t->reason);
		/* The memslot comes and goes while an instruction is emulated. */
		if (t->reason != KVM_EXIT_SHUTDOWN &&
		    t->reason != KVM_EXIT_INTERNAL_ERROR)
			EXPECT_EQ(KVM_EXIT_MMIO, t->reason);
	}
	TH_LOG("%ld rounds", rounds);
	EXPECT_LE(MIN_ROUNDS, rounds);
	EXPECT_FALSE(kernel_has_warned());

	bind(&self->m, GPA, SZ_2M, self->m.mem, 0);
	run_guest(&self->m, TOUCH, GVA, TOUCH_PAGES * SZ_4K);
	EXPECT_EQ(0, run_guest(&self->m, EXPECT, GVA, TOUCH_PAGES * SZ_4K));
}

/*
 * The size of the guest's mappings
 */

FIXTURE(mapping)
{
	struct memory m;
	char *host;	/* aligned to 1G */
};

FIXTURE_VARIANT(mapping)
{
	unsigned int vm_type;
	unsigned int page_shift;
};

FIXTURE_VARIANT_ADD(mapping, default_2m) { .vm_type = KVM_X86_DEFAULT_VM, .page_shift = 21 };
FIXTURE_VARIANT_ADD(mapping, default_1g) { .vm_type = KVM_X86_DEFAULT_VM, .page_shift = 30 };
FIXTURE_VARIANT_ADD(mapping, private_2m) { .vm_type = KVM_X86_SW_PROTECTED_VM, .page_shift = 21 };
FIXTURE_VARIANT_ADD(mapping, private_1g) { .vm_type = KVM_X86_SW_PROTECTED_VM, .page_shift = 30 };

FIXTURE_SETUP(mapping)
{
	const u64 page_size = 1ULL << variant->page_shift;
	const char *why;

	if (!kvm_is_tdp_enabled())
		SKIP(return, "the guest's page tables take faults, too");
	why = setup(&self->m, variant->vm_type, variant->page_shift,
		    max_t(u64, page_size, SZ_64M));
	if (why)
		SKIP(return, "%s", why);

	self->host = reserve_address(3ULL * SZ_1G, PROT_NONE);
	self->host = align_ptr_up(self->host, SZ_1G);
	if (self->m.private)
		vm_mem_set_private(self->m.vm, GPA, MAPPED);
}

FIXTURE_TEARDOWN(mapping)
{
	teardown(&self->m);
}

/* How often the guest faults on a part of the file, with a userspace_addr */
static u64 count_faults(struct memory *m, u64 start, u64 size, void *hva)
{
	u64 faults;

	bind(m, GPA + start, size, hva, start);
	run_guest(m, TOUCH, 0, 0);
	faults = vcpu_get_stat(m->vcpu, pf_taken);
	run_guest(m, TOUCH, GVA + start, min_t(u64, size, SZ_64M));
	faults = vcpu_get_stat(m->vcpu, pf_taken) - faults;
	delete_slot(m, SLOT);
	return faults;
}

static const u64 shifts[] = { 0, SZ_2M, SZ_4K };

/* A fault for each page of the file, wherever userspace_addr is */
TEST_F_TIMEOUT(mapping, any_userspace_addr, TIMEOUT)
{
	const u64 want = max_t(u64, SZ_64M >> variant->page_shift, 1);
	int i;

	for (i = 0; i < ARRAY_SIZE(shifts); i++)
		EXPECT_EQ(want, count_faults(&self->m, 0, self->m.size,
					     self->host + shifts[i]))
			TH_LOG("userspace_addr + 0x%lx", shifts[i]);
}

/* No mapping reaches beyond the slot: its ends are mapped by 4K. */
TEST_F_TIMEOUT(mapping, ends_of_slot, TIMEOUT)
{
	const u64 start = SZ_2M - SZ_4K, size = 2 * SZ_4K + 3 * SZ_2M;
	int i;

	for (i = 0; i < ARRAY_SIZE(shifts); i++)
		EXPECT_EQ(2 + 3, count_faults(&self->m, start, size,
					      self->host + start + shifts[i]))
			TH_LOG("userspace_addr + 0x%lx", shifts[i]);
}

TEST_HARNESS_MAIN
