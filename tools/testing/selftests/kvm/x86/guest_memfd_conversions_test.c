// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of converting the memory of a guest_memfd in place: what each page is
 * afterwards, for the host and for the guest; errors, after which all is as before;
 * what the guest's mappings become.
 *
 * The numbers in front of tests are those of the corner cases of the design.  Tests
 * of tasks that hold pages are in guest_memfd_conversions_users_test, tests of what
 * happens at once in guest_memfd_conversions_race_test.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/falloc.h>
#include <linux/sizes.h>

#include "guest_memfd_conversions.h"
#include "kvm_util.h"
#include "kvm_test_harness.h"
#include "processor.h"
#include "test_util.h"

/* Seconds.  A debug kernel on an emulated CPU takes its time. */
#define TIMEOUT		600
#define OTHER_SLOT	(TEST_SLOT + 1)
#define THIRD_SLOT	(TEST_SLOT + 2)
#define PRIVATE		KVM_MEMORY_ATTRIBUTE_PRIVATE

FIXTURE(file)
{
	struct conv c;
};

FIXTURE_VARIANT(file)
{
	unsigned int page_shift;
};

FIXTURE_VARIANT_ADD(file, 4k) { .page_shift = 12 };
FIXTURE_VARIANT_ADD(file, 2m) { .page_shift = 21 };
FIXTURE_VARIANT_ADD(file, 1g) { .page_shift = 30 };

FIXTURE_SETUP(file)
{
	const char *why = conv_setup(&self->c, variant->page_shift, WINDOW, 0);

	if (why)
		SKIP(return, "%s", why);
}

FIXTURE_TEARDOWN(file)
{
	struct conv *c = &self->c;

	conv_free(c);
	if (c->g.hva)
		EXPECT_TRUE(pool_same_soon(c->g.page_size, &c->g.before));
}

/* Tests that no size of pages makes a difference to have files of 4K. */
FIXTURE(one)
{
	struct conv c;
};

FIXTURE_SETUP(one)
{
	const char *why = conv_setup(&self->c, 12, WINDOW, 0);

	if (why)
		SKIP(return, "%s", why);
}

FIXTURE_TEARDOWN(one)
{
	conv_free(&self->c);
}

/*
 * What there is
 */

TEST_F(one, capabilities)
{
	struct vm_shape shape = { .mode = VM_MODE_DEFAULT, .type = KVM_X86_DEFAULT_VM };
	struct conv *c = &self->c;
	struct kvm_vm *vm;

	EXPECT_EQ(PRIVATE, kvm_check_cap(KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES));
	EXPECT_EQ(PRIVATE, vm_check_cap(c->g.vm, KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES));
	EXPECT_EQ(PRIVATE, vm_check_cap(c->g.vm, KVM_CAP_MEMORY_ATTRIBUTES));
	EXPECT_EQ(GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED,
		  vm_check_cap(c->g.vm, KVM_CAP_GUEST_MEMFD_FLAGS) &
		  (GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED));

	vm = ____vm_create(shape);
	EXPECT_EQ(0, vm_check_cap(vm, KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES));
	kvm_vm_free(vm);
}

/* Each page is what the file's flags say, whatever is mapped. */
TEST_F(file, initial_state)
{
	struct conv *c = &self->c;
	int fd;

	EXPECT_EQ(c->size >> 10, conv_fdinfo(c, "gmem-private"));
	EXPECT_EQ(0, conv_fdinfo(c, "gmem-shared"));
	EXPECT_PRIVATE(0, P(16));

	conv_open(c, GUEST_MEMFD_FLAG_INIT_SHARED);
	EXPECT_EQ(0, conv_fdinfo(c, "gmem-private"));
	EXPECT_EQ(c->size >> 10, conv_fdinfo(c, "gmem-shared"));
	EXPECT_SHARED(0, P(16));
	conv_close(c);

	/* Without MMAP nothing of it is for the host, and it converts all the same. */
	fd = vm_create_guest_memfd(c->g.vm, c->size,
				   (c->g.flags & ~GUEST_MEMFD_FLAG_MMAP) |
				   GUEST_MEMFD_FLAG_INIT_SHARED);
	EXPECT_EQ(MAP_FAILED, mmap(NULL, SZ_4K, PROT_READ, MAP_SHARED, fd, 0));
	EXPECT_EQ(0, gmem_convert(fd, P(1), P(2), true, NULL));
	close(fd);
}

/* Pages keep their contents, both ways, and those beside them their state. */
TEST_F_TIMEOUT(file, contents, TIMEOUT)
{
	struct conv *c = &self->c;

	guest_mark(c, 0, WINDOW, 0x1001);
	EXPECT_EQ(0, to_shared(c, P(7), WINDOW - P(9)));
	EXPECT_EQ(0, host_check(c, P(7), WINDOW - P(9), 0x1001));
	EXPECT_PRIVATE(0, P(7));
	EXPECT_PRIVATE(WINDOW - P(2), P(2));
	guest_check(c, 0, WINDOW, 0x1001);

	EXPECT_EQ(0, host_mark(c, P(7), WINDOW - P(9), 0x2001));
	guest_check(c, P(7), WINDOW - P(9), 0x2001);
	guest_mark(c, P(7), P(64), 0x3001);
	EXPECT_EQ(0, host_check(c, P(7), P(64), 0x3001));

	EXPECT_EQ(0, to_private(c, 0, WINDOW));
	EXPECT_PRIVATE(0, WINDOW);
	guest_check(c, 0, P(7), 0x1001);
	guest_check(c, P(7), P(64), 0x3001);
	guest_check(c, P(71), WINDOW - P(73), 0x2001);
	guest_check(c, WINDOW - P(2), P(2), 0x1001);

	EXPECT_EQ(0, to_shared(c, 0, WINDOW));
	EXPECT_EQ(0, host_check(c, P(71), WINDOW - P(73), 0x2001));
	EXPECT_EQ(c->size - WINDOW, conv_fdinfo(c, "gmem-private") * 1024);
}

/* Each page by itself, at the edges of the window and of a page of 2M */
TEST_F_TIMEOUT(file, single_pages, TIMEOUT)
{
	static const long pages[] = { 0, 1, 63, 64, 511, 512, 1023, 1025, NR_PAGES - 1 };
	struct conv *c = &self->c;
	int i;

	guest_mark(c, 0, WINDOW, 1);
	for (i = 0; i < ARRAY_SIZE(pages); i++) {
		const u64 o = P(pages[i]);

		EXPECT_EQ(0, to_shared(c, o, SZ_4K));
		EXPECT_EQ(0, host_check(c, o, SZ_4K, 1));
		if (o)
			EXPECT_PRIVATE(o - SZ_4K, SZ_4K);
		if (o + SZ_4K < WINDOW)
			EXPECT_PRIVATE(o + SZ_4K, SZ_4K);
		EXPECT_EQ(4, conv_fdinfo(c, "gmem-shared"));
		EXPECT_EQ(0, to_private(c, o, SZ_4K));
		EXPECT_PRIVATE(o, SZ_4K);
	}
	guest_check(c, 0, WINDOW, 1);
	EXPECT_PRIVATE(0, WINDOW);
}

/*
 * State
 */

/* 1. To what it is already: nothing happens, not even for a page in use. */
TEST_F_TIMEOUT(file, present_state, TIMEOUT)
{
	struct conv *c = &self->c;
	struct guest_maps before, after;
	struct piped pipe;

	EXPECT_EQ(0, to_shared(c, 0, WINDOW / 2));
	EXPECT_EQ(0, host_mark(c, P(1), P(1), 1));
	ASSERT_EQ(0, pipe_page(&pipe, c->mem + P(1)));
	guest_mark(c, 0, WINDOW, 1);
	before = conv_maps(c);

	EXPECT_EQ(0, to_shared(c, 0, WINDOW / 2));
	EXPECT_EQ(0, to_shared(c, P(1), P(1)));
	EXPECT_EQ(0, to_private(c, WINDOW / 2, WINDOW / 2));
	EXPECT_EQ(0, to_private(c, c->size - P(5), P(4)));
	EXPECT_EQ(0, vm_to_shared(c, P(1), P(3)));
	EXPECT_EQ(0, vm_to_private(c, WINDOW / 2, c->size - WINDOW / 2));

	guest_check(c, 0, WINDOW, 1);
	after = conv_maps(c);
	EXPECT_EQ(0, memcmp(&before, &after, sizeof(before)));
	EXPECT_TRUE(host_mapped(c->mem + P(1)));
	unpipe_page(&pipe);
}

/* 2. */
TEST_F_TIMEOUT(file, alternating, TIMEOUT)
{
	struct conv *c = &self->c;
	long i;

	guest_mark(c, 0, WINDOW, 1);
	for (i = 1; i < NR_PAGES; i += 2)
		ASSERT_EQ(0, to_shared(c, P(i), SZ_4K));
	EXPECT_EQ(WINDOW / 2 / 1024, conv_fdinfo(c, "gmem-shared"));
	for (i = 0; i < NR_PAGES; i++)
		ASSERT_EQ(0, conv_wrong_state(c, P(i), SZ_4K, !(i & 1)));
	for (i = 1; i < NR_PAGES; i += 2)
		ASSERT_EQ(0, host_check(c, P(i), SZ_4K, 1));
	guest_check(c, 0, WINDOW, 1);

	EXPECT_EQ(0, to_shared(c, 0, WINDOW));
	EXPECT_EQ(0, host_check(c, 0, WINDOW, 1));

	for (i = 1; i < NR_PAGES; i += 2)
		ASSERT_EQ(0, to_private(c, P(i), SZ_4K));
	for (i = 0; i < NR_PAGES; i++)
		ASSERT_EQ(0, conv_wrong_state(c, P(i), SZ_4K, i & 1));
	EXPECT_EQ(0, to_private(c, 0, WINDOW));
	EXPECT_PRIVATE(0, WINDOW);
	guest_check(c, 0, WINDOW, 1);
	EXPECT_EQ(0, conv_fdinfo(c, "gmem-shared"));
}

static void add_anon_slot(struct conv *c, u32 slot, u64 delta, u64 size)
{
	vm_set_user_memory_region2(c->g.vm, slot, 0, TEST_GPA + delta, size,
				   c->g.hva + SZ_1G + delta, -1, 0);
}

/* What the guest's access to the start of a range says of it */
static int access_errno(struct conv *c, u64 delta)
{
	set_vcpu_cmd(&c->g, 0, OP_TOUCH, delta, SZ_4K, 1);
	return run_vcpu(c->g.vcpu[0]);
}

/* 3. From the middle of a slot, over what has none, to the middle of another */
TEST_F_TIMEOUT(file, hole_between_slots, TIMEOUT)
{
	const u64 half = WINDOW / 2, hole = SZ_2M, quarter = WINDOW / 4;
	struct conv *c = &self->c;
	struct kvm_run *run = c->g.vcpu[0]->run;

	conv_open(c, GUEST_MEMFD_FLAG_INIT_SHARED);
	conv_unbind(c, TEST_SLOT);
	conv_bind(c, TEST_SLOT, 0, half, 0);
	conv_bind(c, OTHER_SLOT, half, half, half + hole);

	EXPECT_EQ(0, vm_to_private(c, quarter, quarter + hole + quarter));
	EXPECT_SHARED(0, quarter);
	EXPECT_PRIVATE(quarter, 2 * quarter);
	EXPECT_SHARED(3 * quarter, quarter);

	/* The VM remembers it for what is in the hole later. */
	add_anon_slot(c, THIRD_SLOT, half, hole);
	EXPECT_EQ(EFAULT, access_errno(c, half + hole - SZ_4K));
	EXPECT_EQ(KVM_EXIT_MEMORY_FAULT, run->exit_reason);
	EXPECT_EQ(KVM_MEMORY_EXIT_FLAG_PRIVATE, run->memory_fault.flags);
	EXPECT_EQ(TEST_GPA + half + hole - SZ_4K, run->memory_fault.gpa);

	EXPECT_EQ(0, vm_to_shared(c, 0, WINDOW + hole));
	EXPECT_EQ(0, run_vcpu(c->g.vcpu[0]));
	EXPECT_SHARED(0, WINDOW);
	conv_unbind(c, OTHER_SLOT);
}

/* 4. Two slots of one file, in reverse order, in the same huge page */
TEST_F_TIMEOUT(file, two_slots, TIMEOUT)
{
	const u64 half = WINDOW / 2, part = SZ_64K;
	struct conv *c = &self->c;
	u64 value;

	conv_unbind(c, TEST_SLOT);
	conv_bind(c, TEST_SLOT, half, part, 0);
	conv_bind(c, OTHER_SLOT, half - part, part, 3 * part);
	guest_mark(c, 0, part, 1);
	guest_mark(c, 3 * part, part, 1);

	/* The second half of the first slot, the first half of the second one */
	EXPECT_EQ(0, vm_to_shared(c, part / 2, 3 * part));
	EXPECT_PRIVATE(half, part / 2);
	EXPECT_SHARED(half + part / 2, part / 2);
	EXPECT_SHARED(half - part, part / 2);
	EXPECT_PRIVATE(half - part / 2, part / 2);
	EXPECT_EQ(part / 1024, conv_fdinfo(c, "gmem-shared"));
	EXPECT_EQ(0, host_read(c->mem + half + part - SZ_4K, &value));
	EXPECT_EQ((part - SZ_4K) ^ 1, value);
	EXPECT_EQ(0, host_read(c->mem + half - part, &value));
	EXPECT_EQ((3 * part) ^ 1, value);

	EXPECT_EQ(0, vm_to_shared(c, 0, 4 * part));
	EXPECT_SHARED(half - part, 2 * part);
	EXPECT_EQ(0, vm_to_private(c, 0, 4 * part));
	EXPECT_PRIVATE(half - part, 2 * part);
	guest_check(c, 0, part, 1);
	guest_check(c, 3 * part, part, 1);
	conv_unbind(c, OTHER_SLOT);
}

/* 5. A page in use in the last one: nothing happens to any. */
TEST_F_TIMEOUT(file, all_or_nothing, TIMEOUT)
{
	struct conv *c = &self->c;
	struct three_slots t;
	struct piped pipe;
	u64 value;

	three_slots_setup(&t, c, 1);
	ASSERT_EQ(0, pipe_page(&pipe, t.other + OTHER_SIZE - SZ_4K));
	EXPECT_EQ(EAGAIN, vm_to_private(c, 0, THREE_SIZE));
	EXPECT_TRUE(three_slots_shared(&t, 1));
	EXPECT_EQ(EAGAIN, vm_to_private(c, P(1), THREE_SIZE - P(1)));
	EXPECT_TRUE(three_slots_shared(&t, 1));
	unpipe_page(&pipe);

	EXPECT_EQ(0, vm_to_private(c, 0, THREE_SIZE));
	EXPECT_PRIVATE(0, WINDOW);
	EXPECT_EQ(EFAULT, host_read(t.other, &value));
	EXPECT_EQ(EFAULT, host_read(t.other + OTHER_SIZE - SZ_4K, &value));
	guest_check(c, 0, WINDOW, 1);
	guest_check(c, AT_OTHER, OTHER_SIZE, 1);
	/* Private memory has a store of its own. */
	guest_run(c, OP_CHECK_ZERO, AT_STORES, SZ_2M, 0);

	EXPECT_EQ(0, vm_to_shared(c, 0, THREE_SIZE));
	EXPECT_TRUE(three_slots_shared(&t, 1));
	three_slots_free(&t);
}

/* 6. A slot whose file is closed: an access fails, the ioctl does not. */
TEST_F_TIMEOUT(file, closed_file, TIMEOUT)
{
	struct conv *c = &self->c;

	guest_mark(c, 0, P(4), 1);
	conv_close(c);
	EXPECT_EQ(0, vm_to_private(c, 0, WINDOW));
	EXPECT_EQ(EFAULT, access_errno(c, 0));
	EXPECT_EQ(KVM_EXIT_MEMORY_FAULT, c->g.vcpu[0]->run->exit_reason);
	EXPECT_EQ(0, vm_to_shared(c, P(1), P(1)));
	EXPECT_EQ(EFAULT, run_vcpu(c->g.vcpu[0]));

	/* Another file in that slot has a state of its own. */
	conv_unbind(c, TEST_SLOT);
	conv_open(c, 0);
	EXPECT_EQ(0, run_vcpu(c->g.vcpu[0]));
	EXPECT_PRIVATE(0, P(16));
	EXPECT_EQ(c->size / 1024, conv_fdinfo(c, "gmem-private"));
}

struct restless {
	struct kvm_vcpu *vcpu;
	long nr_mmio;
	long nr_wrong;
};

static bool run_restless(void *arg)
{
	struct restless *r = arg;

	if (_vcpu_run(r->vcpu))
		r->nr_wrong++;
	else if (r->vcpu->run->exit_reason == KVM_EXIT_MMIO)
		r->nr_mmio++;
	else
		r->nr_wrong += r->vcpu->run->exit_reason != KVM_EXIT_IO;
	return !r->nr_wrong;
}

/* Pages that the vCPU does not use become private or shared; the last error */
static int toggle_error;

static bool toggle(void *arg)
{
	struct conv *c = arg;
	int r;

	r = to_private_soon(c, P(1), P(2)) ?: to_shared(c, P(1), P(2));
	r = r ?: host_touch(c->mem + P(1));
	if (r)
		WRITE_ONCE(toggle_error, r);
	return !r;
}

/*
 * 7. A slot that is deleted and created while a vCPU uses it, and its file is converted.
 * There is nothing, or there is memory in the state of the file.
 */
TEST_F_TIMEOUT(file, recreated_slot, TIMEOUT)
{
	struct conv *c = &self->c;
	struct restless restless = { .vcpu = c->g.vcpu[1] };
	struct looper l, converter;
	double end;

	EXPECT_EQ(0, to_shared(c, 0, WINDOW / 2));
	guest_mark(c, 0, WINDOW, 1);
	set_vcpu_cmd(&c->g, 1, OP_TOUCH, P(4), WINDOW - P(8), 1);
	start_loop(&l, run_restless, &restless);
	toggle_error = 0;
	start_loop(&converter, toggle, c);
	end = conv_now() + 2;
	while ((conv_now() < end || !READ_ONCE(l.rounds) ||
		!READ_ONCE(converter.rounds)) &&
	       !READ_ONCE(restless.nr_wrong) && !READ_ONCE(toggle_error)) {
		conv_unbind(c, TEST_SLOT);
		usleep(1000);
		conv_bind(c, TEST_SLOT, 0, c->size, 0);
		usleep(20000);
	}
	stop_loop(&converter);
	stop_loop(&l);
	EXPECT_EQ(0, toggle_error);
	EXPECT_EQ(0, restless.nr_wrong)
		TH_LOG("exit %s, flags 0x%llx, page 0x%llx",
		       exit_reason_str(restless.vcpu->run->exit_reason),
		       restless.vcpu->run->memory_fault.flags,
		       (restless.vcpu->run->memory_fault.gpa - TEST_GPA) / SZ_4K);
	EXPECT_LT(0, l.rounds);
	guest_check(c, 0, P(4), 1);
	EXPECT_SHARED(0, WINDOW / 2);
	EXPECT_PRIVATE(WINDOW / 2, WINDOW / 2);
}

/* 8. Nothing of the file is bound, and another process converts it. */
TEST_F_TIMEOUT(file, unbound, TIMEOUT)
{
	struct conv *c = &self->c;
	int status;
	pid_t pid;

	guest_mark(c, 0, WINDOW, 1);
	conv_unbind(c, TEST_SLOT);
	EXPECT_EQ(0, to_shared(c, 0, P(600)));
	EXPECT_EQ(0, host_check(c, 0, P(600), 1));
	EXPECT_EQ(0, to_private(c, P(5), P(1)));
	EXPECT_PRIVATE(P(5), P(1));

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(to_shared(c, P(700), P(10)) ?: to_private(c, 0, P(2)));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);

	conv_bind(c, TEST_SLOT, 0, c->size, 0);
	EXPECT_PRIVATE(0, P(2));
	EXPECT_SHARED(P(2), P(3));
	EXPECT_SHARED(P(700), P(10));
	guest_check(c, 0, WINDOW, 1);
}

/*
 * 9. Errors
 */

static int attributes_errno(int fd, const void *arg)
{
	return ioctl(fd, KVM_SET_MEMORY_ATTRIBUTES2, arg) ? errno : 0;
}

#define EXPECT_INVALID(...) do {						\
	struct kvm_memory_attributes2 __a = {					\
		.offset = P(2), .size = P(2), .attributes = PRIVATE,		\
		__VA_ARGS__							\
	}, __before;								\
										\
	__a.error_offset = 0x1234;						\
	__before = __a;								\
	EXPECT_EQ(EINVAL, attributes_errno(c->fd, &__a)) {			\
		TH_LOG(#__VA_ARGS__);						\
	}									\
	/* Nothing is written but for EAGAIN and ENOMEM. */			\
	EXPECT_EQ(0, memcmp(&__a, &__before, sizeof(__a)));			\
} while (0)

TEST_F_TIMEOUT(file, invalid, TIMEOUT)
{
	struct conv *c = &self->c;
	struct kvm_memory_attributes2 a;
	int i, bit;

	EXPECT_EQ(0, to_shared(c, 0, WINDOW));
	EXPECT_EQ(0, host_mark(c, 0, P(16), 1));

	for (bit = 0; bit < 64; bit++) {
		EXPECT_INVALID(.flags = BIT_ULL(bit));
		if (BIT_ULL(bit) != PRIVATE)
			EXPECT_INVALID(.attributes = BIT_ULL(bit));
		EXPECT_INVALID(.attributes = PRIVATE | BIT_ULL(bit),
			       .flags = BIT_ULL(bit) == PRIVATE);
	}
	for (i = 0; i < ARRAY_SIZE(a.reserved); i++) {
		a = (struct kvm_memory_attributes2) { .size = P(2), .attributes = PRIVATE };
		a.reserved[i] = 1;
		EXPECT_EQ(EINVAL, attributes_errno(c->fd, &a));
	}
	EXPECT_INVALID(.size = 0);
	EXPECT_INVALID(.offset = -P(2), .size = P(2));
	EXPECT_INVALID(.offset = -P(2), .size = P(4));
	EXPECT_INVALID(.offset = P(2), .size = -P(1));
	EXPECT_INVALID(.offset = 1);
	EXPECT_INVALID(.offset = P(2) + 2048);
	EXPECT_INVALID(.size = 1);
	EXPECT_INVALID(.size = P(2) - 1);
	EXPECT_INVALID(.offset = c->size);
	EXPECT_INVALID(.offset = c->size - P(1));
	EXPECT_INVALID(.offset = 0, .size = c->size + P(1));
	EXPECT_INVALID(.offset = 1ULL << 60);
	/* The same if there is nothing to do */
	EXPECT_INVALID(.attributes = 0, .size = P(2) + 1);

	EXPECT_EQ(0, host_check(c, 0, P(16), 1));
	EXPECT_SHARED(0, WINDOW);
}

TEST_F(one, error_order)
{
	struct vm_shape shape = { .mode = VM_MODE_DEFAULT, .type = KVM_X86_DEFAULT_VM };
	const struct kvm_memory_attributes2 ok = { .size = P(1), .attributes = PRIVATE };
	struct kvm_memory_attributes2 bad = { .flags = 1 };
	struct conv *c = &self->c;
	void *nowhere = kvm_mmap(SZ_4K, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	struct kvm_vm *vm;
	int fd;

	/* A file that cannot: whatever the argument is */
	fd = vm_create_guest_memfd(c->g.vm, SZ_2M, 0);
	EXPECT_EQ(ENOTTY, attributes_errno(fd, &ok));
	EXPECT_EQ(ENOTTY, attributes_errno(fd, nowhere));
	EXPECT_EQ(ENOTTY, attributes_errno(fd, &bad));
	close(fd);

	/* No other ioctl is there. */
	EXPECT_EQ(-1, ioctl(c->fd, KVM_SET_MEMORY_ATTRIBUTES, &ok));
	EXPECT_EQ(ENOTTY, errno);
	EXPECT_EQ(-1, ioctl(c->fd, KVM_CREATE_VM, 0));
	EXPECT_EQ(ENOTTY, errno);

	/* An argument that is not there, before what is in it */
	EXPECT_EQ(EFAULT, attributes_errno(c->fd, nowhere));
	EXPECT_EQ(EFAULT, attributes_errno(c->fd, nowhere + SZ_4K - 64));

	/* A VM without private memory */
	vm = ____vm_create(shape);
	fd = vm_create_guest_memfd(vm, SZ_2M, GUEST_MEMFD_FLAG_MMAP |
				   GUEST_MEMFD_FLAG_INIT_SHARED);
	EXPECT_EQ(EFAULT, attributes_errno(fd, nowhere));
	EXPECT_EQ(EINVAL, attributes_errno(fd, &ok));
	EXPECT_EQ(EINVAL, gmem_convert(fd, 0, P(1), false, NULL));
	close(fd);
	kvm_vm_free(vm);
	EXPECT_EQ(c->size / 1024, conv_fdinfo(c, "gmem-private"));
}

/* What is written for a page in use, and where that is not possible */
TEST_F_TIMEOUT(file, in_use, TIMEOUT)
{
	struct conv *c = &self->c;
	struct kvm_memory_attributes2 want, *a;
	struct piped pipe, pipe2;
	u64 where;

	a = kvm_mmap(SZ_4K, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	EXPECT_EQ(0, to_shared(c, 0, WINDOW));
	EXPECT_EQ(0, host_mark(c, 0, WINDOW, 1));
	ASSERT_EQ(0, pipe_page(&pipe, c->mem + P(515)));
	ASSERT_EQ(0, pipe_page(&pipe2, c->mem + P(517)));

	*a = (struct kvm_memory_attributes2) {
		.offset = P(3), .size = WINDOW - P(7), .attributes = PRIVATE,
		.error_offset = 0x1234,
	};
	want = *a;
	want.error_offset = P(515);
	EXPECT_EQ(EAGAIN, attributes_errno(c->fd, a));
	EXPECT_EQ(0, memcmp(a, &want, sizeof(want)));

	mprotect(a, SZ_4K, PROT_READ);
	EXPECT_EQ(EFAULT, attributes_errno(c->fd, a));
	EXPECT_EQ(0, host_check(c, 0, WINDOW, 1));
	guest_check(c, 0, WINDOW, 1);
	unpipe_page(&pipe);

	EXPECT_EQ(EAGAIN, gmem_convert(c->fd, 0, WINDOW, true, &where));
	EXPECT_EQ(P(517), where);
	EXPECT_EQ(EAGAIN, gmem_convert(c->fd, P(517), P(1), true, &where));
	EXPECT_EQ(P(517), where);
	EXPECT_SHARED(0, WINDOW);
	unpipe_page(&pipe2);

	/* Success writes nothing. */
	EXPECT_EQ(0, attributes_errno(c->fd, a));
	EXPECT_PRIVATE(P(3), WINDOW - P(7));
	EXPECT_SHARED(0, P(3));
	guest_check(c, 0, WINDOW, 1);
}

TEST_F_TIMEOUT(file, vm_invalid, TIMEOUT)
{
	struct conv *c = &self->c;
	struct kvm_memory_attributes bad[] = {
		{ .address = TEST_GPA, .size = P(2), .attributes = PRIVATE, .flags = 1 },
		{ .address = TEST_GPA, .size = P(2), .attributes = PRIVATE | 1 },
		{ .address = TEST_GPA, .size = 0, .attributes = PRIVATE },
		{ .address = TEST_GPA + 1, .size = P(2), .attributes = PRIVATE },
		{ .address = TEST_GPA, .size = P(2) + 1, .attributes = PRIVATE },
		{ .address = -P(1), .size = P(2), .attributes = PRIVATE },
	};
	int i;

	EXPECT_EQ(0, to_shared(c, 0, WINDOW));
	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		EXPECT_EQ(-1, ioctl(c->g.vm->fd, KVM_SET_MEMORY_ATTRIBUTES, &bad[i]));
		EXPECT_EQ(EINVAL, errno) {
			TH_LOG("argument %d", i);
		}
	}
	EXPECT_SHARED(0, P(16));
	EXPECT_EQ(WINDOW / 1024, conv_fdinfo(c, "gmem-shared"));
}

/* 11. */
TEST_F_TIMEOUT(one, many_files, TIMEOUT)
{
	enum { MAX_FILES = 64, NR = MAX_FILES + 1 };
	struct conv *c = &self->c;
	const u64 base = SZ_64M;
	int fd[NR], i;
	char *mem[NR];
	u64 value;

	for (i = 0; i < NR; i++) {
		fd[i] = vm_create_guest_memfd(c->g.vm, SZ_4K, GUEST_MEMFD_FLAG_MMAP |
					      GUEST_MEMFD_FLAG_INIT_SHARED);
		mem[i] = kvm_mmap(SZ_4K, PROT_READ | PROT_WRITE, MAP_SHARED, fd[i]);
		vm_set_user_memory_region2(c->g.vm, OTHER_SLOT + i, KVM_MEM_GUEST_MEMFD,
					   TEST_GPA + base + P(i), SZ_4K, mem[i], fd[i], 0);
		ASSERT_EQ(0, host_write(mem[i], i));
	}

	EXPECT_EQ(E2BIG, vm_to_private(c, base, P(NR)));
	for (i = 0; i < NR; i++)
		EXPECT_EQ(0, host_read(mem[i], &value));

	EXPECT_EQ(0, vm_to_private(c, base, P(MAX_FILES)));
	for (i = 0; i < MAX_FILES; i++)
		EXPECT_EQ(EFAULT, host_read(mem[i], &value));
	EXPECT_EQ(0, host_read(mem[i], &value));

	/* Those that are private already do not count, nor do they change. */
	EXPECT_EQ(0, vm_to_private(c, base, P(NR)));
	EXPECT_EQ(EFAULT, host_read(mem[i], &value));
	EXPECT_EQ(E2BIG, vm_to_shared(c, base, P(NR)));
	for (i = 0; i < NR; i++)
		EXPECT_EQ(EFAULT, host_read(mem[i], &value));
	EXPECT_EQ(0, vm_to_shared(c, base + P(1), P(MAX_FILES)));
	for (i = 1; i < NR; i++) {
		EXPECT_EQ(0, host_read(mem[i], &value));
		EXPECT_EQ(i, value);
	}
	for (i = 0; i < NR; i++) {
		conv_unbind(c, OTHER_SLOT + i);
		kvm_munmap(mem[i], SZ_4K);
		close(fd[i]);
	}
}

/* Slots of one file are not limited. */
TEST_F_TIMEOUT(one, many_slots, TIMEOUT)
{
	enum { NR = 200 };
	struct conv *c = &self->c;
	int i;

	conv_unbind(c, TEST_SLOT);
	for (i = 0; i < NR; i++)
		conv_bind(c, TEST_SLOT + i, P(2 * i), P(1), P(3 * (NR - i)));
	EXPECT_EQ(0, vm_to_shared(c, 0, P(3 * NR + 1)));
	for (i = 0; i < NR; i++) {
		EXPECT_SHARED(P(2 * i), P(1));
		EXPECT_PRIVATE(P(2 * i + 1), P(1));
	}
	EXPECT_EQ(0, vm_to_private(c, 0, P(3 * NR + 1)));
	EXPECT_PRIVATE(0, P(2 * NR));
	for (i = 1; i < NR; i++)
		conv_unbind(c, TEST_SLOT + i);
}

/*
 * Chunks: a conversion is carried out by parts of 1G.
 */

FIXTURE(chunks)
{
	struct conv c;
};

FIXTURE_VARIANT(chunks)
{
	unsigned int page_shift;
	u64 size;
};

FIXTURE_VARIANT_ADD(chunks, 4k) { .page_shift = 12, .size = 3ULL * SZ_1G + SZ_8M };
FIXTURE_VARIANT_ADD(chunks, 2m) { .page_shift = 21, .size = 1ULL * SZ_1G + SZ_8M };
FIXTURE_VARIANT_ADD(chunks, 1g) { .page_shift = 30, .size = 2ULL * SZ_1G };

FIXTURE_SETUP(chunks)
{
	const char *why = conv_setup(&self->c, variant->page_shift, variant->size, 0);

	if (why)
		SKIP(return, "%s", why);
}

FIXTURE_TEARDOWN(chunks)
{
	struct conv *c = &self->c;

	conv_free(c);
	if (c->g.hva)
		EXPECT_TRUE(pool_same_soon(c->g.page_size, &c->g.before));
}

#define AROUND	P(4)	/* on both sides of where chunks meet */

#define FOR_EACH_BOUNDARY(o) \
	for (o = SZ_1G - AROUND; o + 2 * AROUND < c->size; o += SZ_1G)

/* 13. */
TEST_F_TIMEOUT(chunks, unaligned, TIMEOUT)
{
	struct conv *c = &self->c;
	const u64 first = P(3), last = c->size - P(2);
	u64 o;

	guest_mark(c, 0, P(16), 1);
	guest_mark(c, c->size - P(16), P(16), 1);
	FOR_EACH_BOUNDARY(o)
		guest_mark(c, o, 2 * AROUND, 1);

	EXPECT_EQ(0, to_shared(c, first, last - first));
	EXPECT_EQ((last - first) / 1024, conv_fdinfo(c, "gmem-shared"));
	EXPECT_EQ((c->size - (last - first)) / 1024, conv_fdinfo(c, "gmem-private"));
	EXPECT_PRIVATE(0, first);
	EXPECT_PRIVATE(last, P(2));
	EXPECT_EQ(0, host_check(c, first, P(13), 1));
	EXPECT_EQ(0, host_check(c, c->size - P(16), P(14), 1));
	FOR_EACH_BOUNDARY(o)
		EXPECT_EQ(0, host_check(c, o, 2 * AROUND, 1));

	/* From one chunk to the next one, and all */
	FOR_EACH_BOUNDARY(o) {
		EXPECT_EQ(0, to_private(c, o + P(1), 2 * AROUND - P(2)));
		EXPECT_SHARED(o, P(1));
		EXPECT_PRIVATE(o + P(1), 2 * AROUND - P(2));
		EXPECT_SHARED(o + 2 * AROUND - P(1), P(1));
	}
	EXPECT_EQ(0, vm_to_private(c, 0, c->size));
	EXPECT_EQ(0, conv_fdinfo(c, "gmem-shared"));
	EXPECT_PRIVATE(0, P(16));
	FOR_EACH_BOUNDARY(o) {
		EXPECT_PRIVATE(o, 2 * AROUND);
		guest_check(c, o, 2 * AROUND, 1);
	}
	guest_check(c, 0, P(16), 1);
	guest_check(c, c->size - P(16), P(16), 1);
}

/* 14. A page in use in the last chunk */
TEST_F_TIMEOUT(chunks, in_use, TIMEOUT)
{
	struct conv *c = &self->c;
	struct piped pipe;
	u64 o, error_offset;

	EXPECT_EQ(0, to_shared(c, 0, c->size));
	FOR_EACH_BOUNDARY(o)
		EXPECT_EQ(0, host_mark(c, o, 2 * AROUND, 1));
	ASSERT_EQ(0, pipe_page(&pipe, c->mem + c->size - P(3)));

	EXPECT_EQ(EAGAIN, gmem_convert(c->fd, P(1), c->size - P(1), true, &error_offset));
	EXPECT_EQ(c->size - P(3), error_offset);
	EXPECT_EQ(EAGAIN, vm_to_private(c, 0, c->size));
	EXPECT_EQ(0, conv_fdinfo(c, "gmem-private"));
	FOR_EACH_BOUNDARY(o)
		EXPECT_EQ(0, host_check(c, o, 2 * AROUND, 1));
	EXPECT_SHARED(0, P(4));

	unpipe_page(&pipe);
	EXPECT_EQ(0, to_private(c, P(1), c->size - P(1)));
	EXPECT_SHARED(0, P(1));
	FOR_EACH_BOUNDARY(o)
		guest_check(c, o, 2 * AROUND, 1);
	EXPECT_EQ(4, conv_fdinfo(c, "gmem-shared"));
}

/*
 * The host
 */

/* 18. */
TEST_F_TIMEOUT(file, touch_private, TIMEOUT)
{
	struct conv *c = &self->c;
	char *p;

	EXPECT_PRIVATE(0, WINDOW);
	EXPECT_EQ(EFAULT, host_write(c->mem, 1));
	EXPECT_EQ(EFAULT, host_write(c->mem + c->size - 8, 1));
	p = mmap(NULL, SZ_4K, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, P(5));
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(EFAULT, host_write(p, 1));
	kvm_munmap(p, SZ_4K);

	EXPECT_EQ(0, gmem_nr_allocated(&c->g, c->fd));
	EXPECT_TRUE(gmem_held(&c->g, 0, c->size / c->g.page_size));
	/* Beyond the file is not private, but nothing. */
	p = mmap(NULL, SZ_2M, PROT_READ, MAP_SHARED, c->fd, c->size);
	if (p != MAP_FAILED) {
		u64 value;

		EXPECT_EQ(EFAULT, host_read(p, &value));
		kvm_munmap(p, SZ_2M);
	}
}

struct toucher {
	struct conv *c;
	long first;
	long step;
	long nr;
	long errors;
};

static void *touch_pages(void *arg)
{
	struct toucher *t = arg;
	long i;

	for (i = 0; i < t->nr; i++)
		t->errors += !!host_write(t->c->mem + P(t->first + i * t->step),
					  P(t->first + i * t->step) ^ 1);
	return NULL;
}

static void touch_at_once(struct __test_metadata *_metadata, struct conv *c,
			  int nr_threads, long step, long nr)
{
	struct toucher t[8];
	pthread_t thread[8];
	int i;

	for (i = 0; i < nr_threads; i++) {
		t[i] = (struct toucher) { .c = c, .first = i, .step = step, .nr = nr };
		kvm_pthread_create(&thread[i], NULL, touch_pages, &t[i]);
	}
	for (i = 0; i < nr_threads; i++) {
		kvm_pthread_join(thread[i], NULL);
		EXPECT_EQ(0, t[i].errors);
	}
}

/* 19. Two threads are the first to touch a huge page: it is split once. */
TEST_F_TIMEOUT(file, first_touch, TIMEOUT)
{
	struct conv *c = &self->c;
	long vmemmap, folios;
	int i;

	EXPECT_EQ(0, gmem_populate(&c->g, c->fd, 0, 1));
	EXPECT_EQ(0, to_shared(c, 0, P(64)));
	touch_at_once(_metadata, c, 1, 1, 1);
	vmemmap = conv_fdinfo(c, "gmem-vmemmap");
	folios = conv_fdinfo(c, "gmem-folios-4kB");

	/* A page of 1G takes long to clear. */
	for (i = 0; i < (variant->page_shift == 30 ? 1 : 5); i++) {
		conv_open(c, 0);
		EXPECT_EQ(0, gmem_populate(&c->g, c->fd, 0, 1));
		EXPECT_EQ(0, to_shared(c, 0, P(64)));
		touch_at_once(_metadata, c, 2, 1, 1);
		EXPECT_EQ(0, host_check(c, 0, P(2), 1));
		if (variant->page_shift == 12)
			continue;
		EXPECT_EQ(vmemmap, conv_fdinfo(c, "gmem-vmemmap"));
		EXPECT_EQ(folios, conv_fdinfo(c, "gmem-folios-4kB"));
	}
}

/* 21. */
TEST_F_TIMEOUT(file, touch_same_2m, TIMEOUT)
{
	struct conv *c = &self->c;

	EXPECT_EQ(0, to_shared(c, 0, SZ_2M));
	touch_at_once(_metadata, c, 8, 8, 64);
	EXPECT_EQ(0, host_check(c, 0, SZ_2M, 1));
	guest_check(c, 0, SZ_2M, 1);
	EXPECT_PRIVATE(SZ_2M, SZ_2M);
}

/* A child whose page tables have it, and what it found: 0, or an errno */
static pid_t fork_reader(struct conv *c, u64 offset, int to_child, int from_child)
{
	pid_t pid = fork();
	u64 value;
	char byte;
	int r;

	TEST_ASSERT(pid >= 0, "fork() failed");
	if (pid)
		return pid;

	while (read(to_child, &byte, 1) == 1) {
		value = 0;
		r = host_read(c->mem + offset, &value);
		if (!r && value != (offset ^ 1))
			r = EIO;
		if (write(from_child, &r, sizeof(r)) != sizeof(r))
			break;
	}
	_exit(0);
}

/* 24. */
TEST_F_TIMEOUT(file, forked, TIMEOUT)
{
	struct conv *c = &self->c;
	int to[2], from[2], r;
	pid_t pid;

	EXPECT_EQ(0, to_shared(c, P(2), P(1)));
	EXPECT_EQ(0, host_mark(c, P(2), P(1), 1));
	ASSERT_EQ(0, pipe(to));
	ASSERT_EQ(0, pipe(from));
	pid = fork_reader(c, P(2), to[0], from[1]);

	ASSERT_EQ(1, write(to[1], "", 1));
	ASSERT_EQ(sizeof(r), read(from[0], &r, sizeof(r)));
	EXPECT_EQ(0, r);

	EXPECT_EQ(0, to_private(c, P(2), P(1)));
	ASSERT_EQ(1, write(to[1], "", 1));
	ASSERT_EQ(sizeof(r), read(from[0], &r, sizeof(r)));
	EXPECT_EQ(EFAULT, r);
	guest_check(c, P(2), P(1), 1);

	EXPECT_EQ(0, to_shared(c, P(2), P(1)));
	ASSERT_EQ(1, write(to[1], "", 1));
	ASSERT_EQ(sizeof(r), read(from[0], &r, sizeof(r)));
	EXPECT_EQ(0, r);
	kill(pid, SIGKILL);
	EXPECT_EQ(pid, waitpid(pid, NULL, 0));
}

static long nr_mapped(char *p, long nr)
{
	long i, mapped = 0;

	for (i = 0; i < nr; i++)
		mapped += host_mapped(p + P(i));
	return mapped;
}

/* 25. What is shared is mapped, up to the first page that is not. */
TEST_F_TIMEOUT(file, populate, TIMEOUT)
{
	struct conv *c = &self->c;
	char *p;

	EXPECT_EQ(0, to_shared(c, 0, P(20)));
	EXPECT_EQ(0, to_shared(c, P(21), P(20)));

	EXPECT_EQ(-1, madvise(c->mem, P(40), MADV_POPULATE_WRITE));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(20, nr_mapped(c->mem, 20));
	EXPECT_FALSE(host_mapped(c->mem + P(20)));
	EXPECT_EQ(-1, madvise(c->mem + P(20), P(1), MADV_POPULATE_READ));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(0, madvise(c->mem + P(21), P(20), MADV_POPULATE_READ));
	EXPECT_EQ(20, nr_mapped(c->mem + P(21), 20));

	p = mmap(NULL, P(64), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, c->fd, 0);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(20, nr_mapped(p, 20));
	EXPECT_FALSE(host_mapped(p + P(20)));
	kvm_munmap(p, P(64));

	EXPECT_EQ(0, to_private(c, 0, P(41)));
	EXPECT_EQ(0, nr_mapped(c->mem, 64));
}

/* Does the system have as many locked pages?  Batches are drained, counters added. */
static bool nr_mlock_is(long want)
{
	char *p = kvm_mmap(SZ_4K, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	char text[64];
	long nr;
	int i;

	for (i = 0; i < 100; i++) {
		if (i)
			usleep(20000);
		madvise(p, SZ_4K, MADV_COLD);
		cg_read("/proc/sys/vm", "stat_refresh", text, sizeof(text));
		nr = cg_read_key_long("/proc", "vmstat", "nr_mlock ");
		if (nr == want)
			break;
	}
	kvm_munmap(p, SZ_4K);
	if (nr != want)
		ksft_print_msg("%ld pages are locked, not %ld\n", nr, want);
	return nr == want;
}

/* 26. Also 36: more pages than a batch has, locked and mapped. */
TEST_F_TIMEOUT(file, mlocked, TIMEOUT)
{
	const u64 size = P(600);
	struct conv *c = &self->c;
	long before;

	nr_mlock_is(0);
	before = cg_read_key_long("/proc", "vmstat", "nr_mlock ");
	EXPECT_EQ(0, to_shared(c, 0, WINDOW));
	ASSERT_EQ(0, mlock(c->mem, size));
	EXPECT_EQ(600, nr_mapped(c->mem, 600));
	EXPECT_TRUE(nr_mlock_is(before + 600));
	EXPECT_EQ(0, host_mark(c, 0, size, 1));

	EXPECT_EQ(0, to_private(c, 0, size));
	EXPECT_PRIVATE(0, size);
	guest_check(c, 0, size, 1);
	EXPECT_EQ(0, munlock(c->mem, size));
	EXPECT_TRUE(nr_mlock_is(before));

	/* Private memory cannot be locked, and is not in the way later. */
	EXPECT_EQ(-1, mlock(c->mem, size));
	EXPECT_EQ(ENOMEM, errno);
	EXPECT_EQ(0, to_shared(c, 0, size));
	EXPECT_EQ(0, host_check(c, 0, size, 1));
	EXPECT_EQ(0, to_private(c, 0, size));
	EXPECT_EQ(0, munlock(c->mem, WINDOW));
	EXPECT_TRUE(nr_mlock_is(before));
}

/*
 * The batch of another CPU has the locked page yet when it is punched.  ptrace() and
 * the like, which keep mmap_lock, get the next one all the same.
 */
TEST_F_TIMEOUT(file, mlocked_punched, TIMEOUT)
{
	const int fd = open_path_or_exit("/proc/self/mem", O_RDONLY);
	static const char zeroes[SZ_4K];
	struct conv *c = &self->c;
	char page[SZ_4K];
	int i;

	if (get_nprocs() < 2)
		SKIP(return, "needs two CPUs");

	EXPECT_EQ(0, to_shared(c, 0, WINDOW));
	ASSERT_EQ(0, mlock(c->mem, SZ_4K));
	for (i = 0; i < 10; i++) {
		ASSERT_EQ(0, gmem_punch(&c->g, c->fd, 0, 1));
		pin_self_to_cpu(1);
		EXPECT_EQ(0, host_touch(c->mem));
		pin_self_to_cpu(0);
		ASSERT_EQ(0, gmem_punch(&c->g, c->fd, 0, 1));

		memset(page, 1, sizeof(page));
		ASSERT_EQ(SZ_4K, pread(fd, page, SZ_4K, (uintptr_t)c->mem));
		EXPECT_EQ(0, memcmp(page, zeroes, sizeof(page)));
	}
	EXPECT_EQ(0, munlock(c->mem, SZ_4K));
	kvm_close(fd);
}

/* 28. A mapping is not enough to destroy private memory; the file is. */
TEST_F_TIMEOUT(file, madv_remove, TIMEOUT)
{
	struct conv *c = &self->c;

	guest_mark(c, 0, P(4), 1);
	EXPECT_EQ(0, to_shared(c, 0, P(2)));
	EXPECT_EQ(-1, madvise(c->mem, P(1), MADV_REMOVE));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, madvise(c->mem + P(2), P(1), MADV_REMOVE));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, madvise(c->mem, c->size, MADV_REMOVE));
	EXPECT_EQ(EINVAL, errno);
	guest_check(c, 0, P(4), 1);
	EXPECT_EQ(0, gmem_punch(&c->g, c->fd, 0, 1));
}

/*
 * The guest
 */

static void count_faults(struct __test_metadata *_metadata, struct conv *c, u64 want,
			 u64 offset, u64 size)
{
	const u64 before = conv_maps(c).faults;

	guest_check(c, offset, size, 1);
	if (kvm_is_tdp_enabled())
		EXPECT_EQ(want, conv_maps(c).faults - before);
}

/* 40. A page is converted, again and again: its neighbours stay mapped. */
TEST_F_TIMEOUT(file, neighbours, TIMEOUT)
{
	struct conv *c = &self->c;
	struct guest_maps before;
	struct looper l;
	int i;

	guest_mark(c, 0, WINDOW, 1);
	guest_check(c, 0, WINDOW, 1);
	before = conv_maps(c);
	set_vcpu_cmd(&c->g, 1, OP_CHECK_MARK, P(1), WINDOW - P(1), 1);
	start_loop(&l, loop_vcpu, c->g.vcpu[1]);
	for (i = 0; i < 100 || !READ_ONCE(l.rounds); i++) {
		ASSERT_EQ(0, to_shared(c, 0, P(1)));
		ASSERT_EQ(0, to_private(c, 0, P(1)));
	}
	stop_loop(&l);
	if (kvm_is_tdp_enabled())
		EXPECT_EQ(before.faults, conv_maps(c).faults);
	guest_check(c, 0, P(1), 1);
}

/* 42. A page to shared and back, without the host: mapped hugely at once. */
TEST_F_TIMEOUT(file, back_without_touch, TIMEOUT)
{
	struct conv *c = &self->c;
	struct guest_maps before, after;

	guest_mark(c, 0, WINDOW, 1);
	before = conv_maps(c);
	EXPECT_EQ(0, to_shared(c, P(515), P(1)));
	EXPECT_EQ(0, to_private(c, P(515), P(1)));
	count_faults(_metadata, c, 1, P(515), P(1));
	after = conv_maps(c);
	EXPECT_EQ(before.nr_4k, after.nr_4k);
	EXPECT_EQ(before.nr_2m, after.nr_2m);
	EXPECT_EQ(before.nr_1g, after.nr_1g);
	count_faults(_metadata, c, 0, 0, WINDOW);
}

static bool wait_huge(struct conv *c, u64 want)
{
	const double end = conv_now() + 30;

	while (conv_nr_huge(c) != want) {
		if (conv_now() > end) {
			ksft_print_msg("%lu huge mappings, not %lu\n", conv_nr_huge(c),
				       want);
			return false;
		}
		usleep(10000);
	}
	return true;
}

/* 43. The same with the host: once the page is merged, and without a fault. */
TEST_F_TIMEOUT(file, back_after_touch, TIMEOUT)
{
	struct conv *c = &self->c;
	struct guest_maps before, after;
	u64 faults, nr_huge;
	long vmemmap;

	if (variant->page_shift == 12)
		SKIP(return, "nothing to merge");

	guest_mark(c, 0, WINDOW, 1);
	vmemmap = conv_fdinfo(c, "gmem-vmemmap");
	before = conv_maps(c);
	nr_huge = conv_nr_huge(c);
	EXPECT_EQ(0, to_shared(c, P(3), P(2)));
	EXPECT_EQ(0, host_check(c, P(3), P(2), 1));
	guest_check(c, 0, WINDOW, 1);
	EXPECT_EQ(0, to_private(c, P(3), P(2)));
	EXPECT_LT(0, conv_fdinfo(c, "gmem-merges-pending"));
	guest_check(c, 0, WINDOW, 1);
	faults = conv_maps(c).faults;

	EXPECT_TRUE(conv_wait_merged(c));
	EXPECT_EQ(vmemmap, conv_fdinfo(c, "gmem-vmemmap"));
	if (kvm_is_tdp_enabled())
		EXPECT_TRUE(wait_huge(c, nr_huge));
	guest_check(c, 0, WINDOW, 1);
	after = conv_maps(c);
	if (kvm_is_tdp_enabled()) {
		EXPECT_EQ(faults, after.faults);
		EXPECT_EQ(before.nr_4k, after.nr_4k);
		EXPECT_EQ(before.nr_2m, after.nr_2m);
		EXPECT_EQ(before.nr_1g, after.nr_1g);
	}
}

/* Merged up to 2M first, because another page of the 1G is shared */
TEST_F_TIMEOUT(file, partly_merged, TIMEOUT)
{
	struct conv *c = &self->c;
	struct guest_maps before;

	if (variant->page_shift != 30)
		SKIP(return, "needs pages of 1G");

	guest_mark(c, 0, WINDOW, 1);
	before = conv_maps(c);
	EXPECT_EQ(0, to_shared(c, P(3), P(1)));
	EXPECT_EQ(0, to_shared(c, SZ_4M, P(1)));
	EXPECT_EQ(0, host_check(c, P(3), P(1), 1));
	EXPECT_EQ(0, host_check(c, SZ_4M, P(1), 1));
	EXPECT_EQ(0, to_private(c, P(3), P(1)));
	EXPECT_TRUE(conv_wait_merged(c));
	guest_check(c, 0, WINDOW, 1);
	EXPECT_SHARED(SZ_4M, P(1));
	EXPECT_EQ(before.nr_1g - 1, conv_maps(c).nr_1g);

	EXPECT_EQ(0, to_private(c, SZ_4M, P(1)));
	guest_check(c, 0, WINDOW, 1);
	EXPECT_TRUE(conv_wait_merged(c));
	EXPECT_TRUE(wait_huge(c, before.nr_1g));
	guest_check(c, 0, WINDOW, 1);
	EXPECT_EQ(1, conv_fdinfo(c, "gmem-folios-1048576kB"));
}

/* What the guest has of a huge page mapped, apart from a page that was converted */
static void expect_split(struct __test_metadata *_metadata, struct conv *c,
			 const struct guest_maps *before, u64 nr_4k)
{
	const struct guest_maps m = conv_maps(c);
	const bool gigantic = c->g.page_size == SZ_1G;

	if (!kvm_is_tdp_enabled())
		return;
	EXPECT_EQ(before->nr_1g - gigantic, m.nr_1g);
	EXPECT_EQ(gigantic ? before->nr_2m + 511 : before->nr_2m - 1, m.nr_2m);
	EXPECT_EQ(before->nr_4k + nr_4k, m.nr_4k);
	EXPECT_EQ(before->faults, m.faults);
}

/*
 * 44. The host touches a page of what is shared and mapped hugely: the guest's
 * mapping stays.  Then that page becomes private: the rest of it stays.
 */
TEST_F_TIMEOUT(file, host_touches_huge, TIMEOUT)
{
	struct conv *c = &self->c;
	struct guest_maps before;

	if (variant->page_shift == 12)
		SKIP(return, "needs huge pages");

	EXPECT_EQ(0, to_shared(c, 0, c->size));
	guest_mark(c, 0, WINDOW, 1);
	before = conv_maps(c);
	EXPECT_EQ(0, host_check(c, P(515), P(1), 1));
	EXPECT_LT(0, conv_fdinfo(c, "gmem-folios-4kB"));
	count_faults(_metadata, c, 0, 0, WINDOW);
	EXPECT_EQ(before.nr_1g, conv_maps(c).nr_1g);
	EXPECT_EQ(before.nr_2m, conv_maps(c).nr_2m);
	EXPECT_EQ(before.nr_4k, conv_maps(c).nr_4k);

	EXPECT_EQ(0, to_private(c, P(515), P(1)));
	expect_split(_metadata, c, &before, 511);
	count_faults(_metadata, c, 0, 0, P(515));
	count_faults(_metadata, c, 0, P(516), WINDOW - P(516));
	guest_check(c, P(515), P(1), 1);
	EXPECT_PRIVATE(P(515), P(1));
	EXPECT_EQ(0, host_check(c, P(516), P(4), 1));
}

/* 45. The ends of the range have the state already: it is split where it changes. */
TEST_F_TIMEOUT(file, edges, TIMEOUT)
{
	struct conv *c = &self->c;
	struct guest_maps before, m;

	if (variant->page_shift == 12)
		SKIP(return, "needs huge pages");

	guest_mark(c, 0, WINDOW, 1);
	before = conv_maps(c);
	EXPECT_EQ(0, to_shared(c, P(8), P(8)));
	expect_split(_metadata, c, &before, 504);

	/* These map the pages themselves. */
	guest_check(c, P(8), P(8), 1);
	before.faults = conv_maps(c).faults;
	expect_split(_metadata, c, &before, 512);

	EXPECT_EQ(0, to_shared(c, P(8), P(16)));
	expect_split(_metadata, c, &before, 504);
	EXPECT_EQ(0, to_shared(c, P(4), P(20)));
	expect_split(_metadata, c, &before, 500);
	guest_check(c, 0, WINDOW, 1);

	/* To the end of a page of 2M and beyond: the next one is split, too. */
	before = conv_maps(c);
	EXPECT_EQ(0, to_shared(c, P(4), SZ_2M - P(4) + P(1)));
	m = conv_maps(c);
	if (kvm_is_tdp_enabled()) {
		EXPECT_EQ(before.nr_2m - 1, m.nr_2m);
		EXPECT_EQ(before.nr_4k - (512 - 24) + 511, m.nr_4k);
	}
	count_faults(_metadata, c, 0, SZ_2M + P(1), WINDOW - SZ_2M - P(1));
	guest_check(c, 0, WINDOW, 1);
	EXPECT_EQ(0, host_check(c, P(4), SZ_2M - P(3), 1));
	EXPECT_PRIVATE(0, P(4));
}

/* 46. The guest has the file at an address that is not aligned as the file is. */
static void skewed(struct __test_metadata *_metadata, struct conv *c, u64 skew)
{
	u64 value;

	conv_unbind(c, TEST_SLOT);
	conv_bind(c, TEST_SLOT, 0, c->size, skew);
	guest_mark(c, skew, WINDOW, 1);
	EXPECT_EQ(0, to_shared(c, P(511), P(3)));
	EXPECT_EQ(0, host_read(c->mem + P(512), &value));
	EXPECT_EQ((P(512) + skew) ^ 1, value);
	guest_check(c, skew, WINDOW, 1);
	EXPECT_EQ(0, to_private(c, P(512), P(1)));
	EXPECT_PRIVATE(P(512), P(1));
	EXPECT_SHARED(P(511), P(1));
	EXPECT_SHARED(P(513), P(1));

	EXPECT_EQ(0, vm_to_shared(c, skew, SZ_2M + skew));
	EXPECT_SHARED(0, SZ_2M + skew);
	EXPECT_PRIVATE(SZ_2M + skew + P(1), P(1));
	guest_check(c, skew, WINDOW, 1);
	EXPECT_EQ(0, vm_to_private(c, skew, WINDOW));
	EXPECT_PRIVATE(0, WINDOW);
	guest_check(c, skew, WINDOW, 1);
}

TEST_F_TIMEOUT(file, skewed, TIMEOUT)
{
	struct conv *c = &self->c;

	skewed(_metadata, c, SZ_4K);
	skewed(_metadata, c, SZ_2M);
}

/* 48. */
TEST_F_TIMEOUT(file, munmap, TIMEOUT)
{
	struct conv *c = &self->c;
	struct guest_maps before, after;

	EXPECT_EQ(0, to_shared(c, 0, P(64)));
	EXPECT_EQ(0, host_mark(c, 0, P(32), 1));
	guest_mark(c, 0, WINDOW, 1);
	before = conv_maps(c);
	EXPECT_EQ(0, madvise(c->mem, P(16), MADV_DONTNEED));
	EXPECT_EQ(0, munmap(c->mem, P(32)));
	after = conv_maps(c);
	EXPECT_EQ(0, memcmp(&before, &after, sizeof(before)));
	count_faults(_metadata, c, 0, 0, WINDOW);
	EXPECT_EQ(0, to_private(c, 0, P(64)));
	guest_check(c, 0, WINDOW, 1);
}

static int prefault(struct kvm_vcpu *vcpu, u64 gpa, u64 size)
{
	struct kvm_pre_fault_memory range = { .gpa = gpa, .size = size };

	while (range.size)
		if (__vcpu_ioctl(vcpu, KVM_PRE_FAULT_MEMORY, &range))
			return errno;
	return 0;
}

/* 49. */
TEST_F_TIMEOUT(file, prefault, TIMEOUT)
{
	struct conv *c = &self->c;
	struct looper l;
	int i, r;

	if (!kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY) || !kvm_is_tdp_enabled())
		SKIP(return, "no KVM_PRE_FAULT_MEMORY");

	for (i = 1; i < 64; i += 3)
		EXPECT_EQ(0, to_shared(c, P(i), P(1)));
	EXPECT_EQ(0, host_touch(c->mem + P(1)));
	EXPECT_EQ(0, prefault(c->g.vcpu[0], TEST_GPA, WINDOW));
	guest_mark(c, 0, WINDOW, 1);
	EXPECT_EQ(0, host_check(c, P(4), P(1), 1));

	set_vcpu_cmd(&c->g, 1, OP_CHECK_MARK, 0, WINDOW, 1);
	start_loop(&l, loop_vcpu, c->g.vcpu[1]);
	for (i = 0; i < 50; i++) {
		EXPECT_EQ(0, to_shared(c, P(i), P(600)));
		r = prefault(c->g.vcpu[0], TEST_GPA, WINDOW);
		if (r)
			EXPECT_EQ(EAGAIN, r);
		EXPECT_EQ(0, to_private(c, P(i), P(300)));
	}
	stop_loop(&l);
	guest_check(c, 0, WINDOW, 1);
}

/*
 * Memory
 */

/* 56. The host writes to the first page, the guest reads all of it. */
TEST_F_TIMEOUT(file, init_shared, TIMEOUT)
{
	struct conv *c = &self->c;
	long total = 0, whole = 0, shift;
	char key[64];

	conv_open(c, GUEST_MEMFD_FLAG_INIT_SHARED);
	/* Else the touch allocates it, too. */
	if (variant->page_shift == 30) {
		EXPECT_EQ(0, gmem_populate(&c->g, c->fd, 0, 1));
		whole = conv_fdinfo(c, "gmem-vmemmap");
	}
	EXPECT_EQ(0, host_write(c->mem, 1));
	EXPECT_EQ(c->g.page_size / 1024, conv_fdinfo(c, "gmem-allocated"));
	for (shift = 12; shift <= variant->page_shift; shift++) {
		snprintf(key, sizeof(key), "gmem-folios-%lukB", 1UL << (shift - 10));
		if (conv_fdinfo(c, key) > 0)
			total += conv_fdinfo(c, key) << (shift - 10);
	}
	EXPECT_EQ(c->g.page_size / 1024, total);
	EXPECT_LT(0, conv_fdinfo(c, "gmem-folios-4kB"));
	if (variant->page_shift == 30) {
		/* What is not needed in single pages stays large. */
		EXPECT_EQ(1, conv_fdinfo(c, "gmem-folios-524288kB"));
		EXPECT_GE(512, conv_fdinfo(c, "gmem-folios-4kB"));
		EXPECT_GE(whole + 64, conv_fdinfo(c, "gmem-vmemmap"));
	}

	guest_check(c, 0, P(1), 1);
	guest_run(c, OP_CHECK_ZERO, P(1), WINDOW - P(1), 0);
	guest_mark(c, 0, WINDOW, 1);
	EXPECT_EQ(0, host_check(c, 0, WINDOW, 1));
}

/* 57. */
TEST_F_TIMEOUT(file, hole, TIMEOUT)
{
	struct conv *c = &self->c;

	EXPECT_EQ(0, to_shared(c, P(5), P(5)));
	EXPECT_EQ(0, gmem_nr_allocated(&c->g, c->fd));
	EXPECT_EQ(0, gmem_populate(&c->g, c->fd, 0, WINDOW >> variant->page_shift ?: 1));
	EXPECT_SHARED(P(5), P(5));
	EXPECT_PRIVATE(0, P(5));
	EXPECT_EQ(0, host_mark(c, P(5), P(5), 1));
	guest_run(c, OP_CHECK_ZERO, P(10), P(5), 0);
	guest_check(c, P(5), P(5), 1);
}

/* 58. The guest has the file, whatever is mapped at userspace_addr. */
TEST_F_TIMEOUT(file, other_memory, TIMEOUT)
{
	struct conv *c = &self->c;
	char *other = c->g.hva + SZ_2G;
	u64 i, wrong = 0;

	memset(other, 0xaa, WINDOW);
	conv_unbind(c, TEST_SLOT);
	vm_set_user_memory_region2(c->g.vm, TEST_SLOT, KVM_MEM_GUEST_MEMFD, TEST_GPA,
				   WINDOW, other, c->fd, 0);
	EXPECT_EQ(0, to_shared(c, 0, WINDOW / 2));
	guest_run(c, OP_CHECK_ZERO, 0, WINDOW, 0);
	guest_mark(c, 0, WINDOW, 1);
	EXPECT_EQ(0, host_check(c, 0, WINDOW / 2, 1));
	EXPECT_EQ(0, to_private(c, 0, WINDOW / 4));
	guest_check(c, 0, WINDOW, 1);
	/* Shadow pages may be filled ahead from what was accessed before. */
	conv_unbind(c, TEST_SLOT);
	vm_set_user_memory_region2(c->g.vm, TEST_SLOT, KVM_MEM_GUEST_MEMFD, TEST_GPA,
				   WINDOW, other, c->fd, 0);
	guest_check(c, 0, WINDOW, 1);
	for (i = 0; i < WINDOW; i++)
		wrong += (u8)other[i] != 0xaa;
	EXPECT_EQ(0, wrong);
}

/* 59. A hole is in the state of what was there. */
TEST_F_TIMEOUT(file, punched, TIMEOUT)
{
	const long nr = WINDOW >> variant->page_shift ?: 1;
	struct conv *c = &self->c;

	guest_mark(c, 0, WINDOW, 1);
	EXPECT_EQ(0, to_shared(c, P(7), P(600)));
	EXPECT_EQ(0, host_check(c, P(7), P(600), 1));
	EXPECT_EQ(0, gmem_punch(&c->g, c->fd, 0, nr));
	EXPECT_EQ(0, conv_fdinfo(c, "gmem-allocated"));
	EXPECT_TRUE(pool_is_soon(c->g.page_size, c->g.before.nr, c->g.before.free,
				 c->g.before.resv + (variant->page_shift > 12 ?
						     c->size / c->g.page_size : 0),
				 c->g.before.surplus));

	EXPECT_PRIVATE(0, P(7));
	EXPECT_SHARED(P(7), P(600));
	EXPECT_PRIVATE(P(607), P(32));
	guest_run(c, OP_CHECK_ZERO, 0, WINDOW, 0);
	EXPECT_EQ(P(600) / 1024, conv_fdinfo(c, "gmem-shared"));
}

/* 62. To be merged, but shared again; then split again by a touch */
TEST_F_TIMEOUT(file, merged_while_shared, TIMEOUT)
{
	struct conv *c = &self->c;
	long vmemmap;

	if (variant->page_shift == 12)
		SKIP(return, "nothing to merge");

	guest_mark(c, 0, WINDOW, 1);
	vmemmap = conv_fdinfo(c, "gmem-vmemmap");
	EXPECT_EQ(0, to_shared(c, P(7), P(1)));
	EXPECT_EQ(0, host_check(c, P(7), P(1), 1));
	EXPECT_EQ(0, to_private(c, P(7), P(1)));
	EXPECT_EQ(0, to_shared(c, P(7), P(1)));
	EXPECT_TRUE(conv_wait_merged(c));
	EXPECT_EQ(vmemmap, conv_fdinfo(c, "gmem-vmemmap"));
	EXPECT_GE(0, conv_fdinfo(c, "gmem-folios-4kB"));
	guest_check(c, 0, WINDOW, 1);

	EXPECT_EQ(0, host_check(c, P(7), P(1), 1));
	EXPECT_LT(0, conv_fdinfo(c, "gmem-folios-4kB"));
	EXPECT_PRIVATE(P(6), P(1));
	EXPECT_PRIVATE(P(8), P(1));
	guest_check(c, 0, WINDOW, 1);
}

/* 65. Also 69, together with what unloads KVM afterwards. */
TEST_F_TIMEOUT(file, closed_before_merged, TIMEOUT)
{
	struct conv *c = &self->c;

	guest_mark(c, 0, WINDOW, 1);
	EXPECT_EQ(0, to_shared(c, P(7), P(1)));
	EXPECT_EQ(0, host_check(c, P(7), P(1), 1));
	EXPECT_EQ(0, to_private(c, P(7), P(1)));
	if (variant->page_shift > 12)
		EXPECT_EQ(1, conv_fdinfo(c, "gmem-merges-pending"));
	conv_free(c);
	EXPECT_TRUE(pool_same_soon(c->g.page_size, &c->g.before));
	sleep(2);
	EXPECT_TRUE(pool_same(c->g.page_size, &c->g.before));
}

TEST_HARNESS_MAIN
