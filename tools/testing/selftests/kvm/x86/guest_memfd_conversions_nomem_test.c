// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of converting guest_memfd in place, and of the host's first touch, where
 * there is no memory for what it takes: each allocation fails in turn, or the cgroup
 * is at its limit.  What fails has changed nothing, and works the next time.
 *
 * The numbers in front of tests are those of the corner cases of the design.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
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
#define TIMEOUT		1200

FIXTURE(nomem)
{
	struct conv c;
	bool injecting;
	int fail_nth;
};

#define nomem_data FIXTURE_DATA(nomem)

FIXTURE_VARIANT(nomem)
{
	unsigned int page_shift;
};

FIXTURE_VARIANT_ADD(nomem, 4k) { .page_shift = 12 };
FIXTURE_VARIANT_ADD(nomem, 2m) { .page_shift = 21 };
FIXTURE_VARIANT_ADD(nomem, 1g) { .page_shift = 30 };

FIXTURE_SETUP(nomem)
{
	const char *why = conv_setup(&self->c, variant->page_shift, WINDOW, 0);
	bool ok;

	if (why)
		SKIP(return, "%s", why);

	self->fail_nth = open("/proc/thread-self/fail-nth", O_RDWR);
	ok = self->fail_nth >= 0 && faults_set_up(&self->injecting);
	if (!ok && !self->injecting) {
		conv_free(&self->c);
		SKIP(return, "needs root, and the faults of CONFIG_FAULT_INJECTION");
	}
	ASSERT_TRUE(ok);
}

FIXTURE_TEARDOWN(nomem)
{
	struct conv *c = &self->c;

	if (self->injecting)
		EXPECT_TRUE(faults_restore());
	conv_free(c);
	if (c->g.hva)
		EXPECT_TRUE(pool_same_soon(c->g.page_size, &c->g.before));
}

/* Have the nth allocation of this thread fail, counted from 1. */
static void arm(nomem_data *self, int n)
{
	char text[16];

	snprintf(text, sizeof(text), "%d", n);
	TEST_ASSERT(pwrite(self->fail_nth, text, strlen(text), 0) == strlen(text),
		    "cannot set fail-nth");
}

/* Were there fewer allocations? */
static bool disarm(nomem_data *self)
{
	char text[16] = {};

	TEST_ASSERT(pread(self->fail_nth, text, sizeof(text) - 1, 0) > 0,
		    "cannot read fail-nth");
	TEST_ASSERT(pwrite(self->fail_nth, "0", 1, 0) == 1, "cannot set fail-nth");
	return atoi(text);
}

/*
 * One call converts two files and what the VM knows of a slot with two stores.  Pages
 * of the files alternate, so that the ends of the range are in the midst of entries.
 */
static void all_or_nothing(struct __test_metadata *_metadata, nomem_data *self,
			   bool private)
{
	const u64 first = P(9), size = THREE_SIZE - P(18);
	struct conv *c = &self->c;
	struct guest_maps before, after;
	int r, n, failed = 0, survived = 0;
	struct pool_count pool, pool_after;
	long shared, shared_other, i;
	struct three_slots t;
	bool done = false;

	/* Of two stores, the guest has marked one with 1 and the private one with 2. */
	three_slots_setup(&t, c, 1);
	EXPECT_EQ(0, vm_to_private(c, AT_STORES, SZ_2M));
	guest_mark(c, AT_STORES, SZ_2M, 2);
	for (n = 1; !done && n < 1000; n++) {
		/* Each third page is not in the wanted state, and no page of two stores. */
		EXPECT_EQ(0, vm_convert(c->g.vm, TEST_GPA, THREE_SIZE, private));
		EXPECT_EQ(0, vm_convert(c->g.vm, TEST_GPA + AT_STORES, SZ_2M, !private));
		for (i = 0; i < 60; i += 3) {
			EXPECT_EQ(0, gmem_convert(c->fd, P(i), P(1), !private, NULL));
			EXPECT_EQ(0, gmem_convert(c->fd, WINDOW - P(i + 1), P(1), !private,
						  NULL));
			EXPECT_EQ(0, gmem_convert(t.other_fd, P(i), P(1), !private, NULL));
			EXPECT_EQ(0, gmem_convert(t.other_fd, OTHER_SIZE - P(i + 1), P(1),
						  !private, NULL));
		}
		guest_check(c, 0, WINDOW, 1);
		guest_check(c, AT_OTHER, OTHER_SIZE, 1);
		guest_run(c, OP_NONE, 0, 0, 0);
		shared = conv_fdinfo(c, "gmem-shared");
		shared_other = atol(gmem_fdinfo(t.other_fd, "gmem-shared"));
		read_pool(c->g.page_size, &pool);
		before = conv_maps(c);

		arm(self, n);
		r = vm_convert(c->g.vm, TEST_GPA + first, size, private);
		done = disarm(self);
		if (!r) {
			survived++;
			EXPECT_NE(shared, conv_fdinfo(c, "gmem-shared"));
			EXPECT_NE(shared_other, atol(gmem_fdinfo(t.other_fd, "gmem-shared")));
			guest_check(c, AT_STORES, SZ_2M, private ? 2 : 1);
			continue;
		}

		failed++;
		EXPECT_EQ(ENOMEM, r);
		EXPECT_FALSE(done);
		after = conv_maps(c);
		EXPECT_EQ(0, memcmp(&before, &after, sizeof(before)));
		EXPECT_EQ(shared, conv_fdinfo(c, "gmem-shared"));
		EXPECT_EQ(shared_other, atol(gmem_fdinfo(t.other_fd, "gmem-shared")));
		read_pool(c->g.page_size, &pool_after);
		EXPECT_EQ(0, memcmp(&pool, &pool_after, sizeof(pool)));
		for (i = 0; i < 60; i++)
			EXPECT_EQ(0, conv_wrong_state(c, P(i), P(1),
						      i % 3 ? private : !private));
		guest_check(c, 0, WINDOW, 1);
		guest_check(c, AT_OTHER, OTHER_SIZE, 1);
		after = conv_maps(c);
		if (kvm_is_tdp_enabled())
			EXPECT_EQ(before.faults, after.faults);
		guest_check(c, AT_STORES, SZ_2M, private ? 1 : 2);

		/* The same again */
		EXPECT_EQ(0, vm_convert(c->g.vm, TEST_GPA + first, size, private));
		EXPECT_EQ(0, conv_wrong_state(c, P(9), P(64), private));
		guest_check(c, 0, WINDOW, 1);
		guest_check(c, AT_STORES, SZ_2M, private ? 2 : 1);
	}
	TH_LOG("%d allocations made it fail, %d did not", failed, survived - 1);
	EXPECT_TRUE(done);
	EXPECT_LT(0, failed);

	EXPECT_EQ(0, vm_to_shared(c, 0, THREE_SIZE));
	EXPECT_TRUE(three_slots_shared(&t, 1));
	three_slots_free(&t);
}

TEST_F_TIMEOUT(nomem, to_private, TIMEOUT)
{
	all_or_nothing(_metadata, self, true);
}

TEST_F_TIMEOUT(nomem, to_shared, TIMEOUT)
{
	all_or_nothing(_metadata, self, false);
}

/* The ioctl of the file says where, which is the start. */
TEST_F_TIMEOUT(nomem, error_offset, TIMEOUT)
{
	struct conv *c = &self->c;
	struct guest_maps before, after;
	int r, n, failed = 0;
	bool done = false;
	u64 where;

	guest_mark(c, 0, WINDOW, 1);
	for (n = 1; !done && n < 1000; n++) {
		EXPECT_EQ(0, to_private(c, 0, WINDOW));
		guest_check(c, 0, WINDOW, 1);
		guest_run(c, OP_NONE, 0, 0, 0);
		before = conv_maps(c);
		arm(self, n);
		r = gmem_convert(c->fd, P(33), P(5), false, &where);
		done = disarm(self);
		if (!r) {
			EXPECT_EQ(GMEM_NO_ERROR, where);
			continue;
		}
		failed++;
		EXPECT_EQ(ENOMEM, r);
		EXPECT_EQ(P(33), where);
		after = conv_maps(c);
		EXPECT_EQ(0, memcmp(&before, &after, sizeof(before)));
		EXPECT_PRIVATE(P(32), P(8));
		EXPECT_EQ(0, to_shared(c, P(33), P(5)));
		EXPECT_EQ(0, host_check(c, P(33), P(5), 1));
	}
	EXPECT_TRUE(done);
	EXPECT_LT(0, failed);
	guest_check(c, 0, WINDOW, 1);
}

/* 30. The host's first touch of a page that is not split, or is not there */
static void first_touch(struct __test_metadata *_metadata, nomem_data *self,
			bool populate)
{
	struct conv *c = &self->c;
	long vmemmap, folios, allocated;
	int r, n, failed = 0;
	bool done = false;
	char key[64];

	snprintf(key, sizeof(key), "gmem-folios-%zukB", c->g.page_size / 1024);
	conv_open(c, GUEST_MEMFD_FLAG_INIT_SHARED);
	for (n = 1; !done && n < 1000; n++) {
		EXPECT_EQ(0, fallocate(c->fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0,
				       c->size));
		if (populate)
			EXPECT_EQ(0, gmem_populate(&c->g, c->fd, 0, 1));

again:
		allocated = conv_fdinfo(c, "gmem-allocated");
		vmemmap = conv_fdinfo(c, "gmem-vmemmap");
		folios = conv_fdinfo(c, key);
		arm(self, n);
		r = madvise(c->mem + P(5), P(1), MADV_POPULATE_WRITE) ? errno : 0;
		done = disarm(self);
		if (!r) {
			EXPECT_EQ(0, host_write(c->mem + P(5), P(5) ^ 1));
			guest_check(c, P(5), P(1), 1);
			continue;
		}

		failed++;
		/* Where the page itself is not there it is SIGBUS. */
		EXPECT_TRUE(r == ENOMEM || (!populate && r == EFAULT)) {
			TH_LOG("error %d when allocation %d failed", r, n);
		}
		EXPECT_FALSE(done);
		if (populate) {
			EXPECT_EQ(allocated, conv_fdinfo(c, "gmem-allocated"));
			EXPECT_EQ(vmemmap, conv_fdinfo(c, "gmem-vmemmap"));
			EXPECT_EQ(folios, conv_fdinfo(c, key));
			n++;
			goto again;
		}
		EXPECT_EQ(0, host_write(c->mem + P(5), P(5) ^ 1));
		guest_check(c, P(5), P(1), 1);
	}
	TH_LOG("%d allocations made it fail", failed);
	EXPECT_TRUE(done);
	if (populate && c->g.page_size > SZ_4K)
		EXPECT_LT(0, failed);
}

TEST_F_TIMEOUT(nomem, first_touch, TIMEOUT)
{
	first_touch(_metadata, self, true);
}

TEST_F_TIMEOUT(nomem, first_touch_hole, TIMEOUT)
{
	if (variant->page_shift == 30)
		SKIP(return, "1G takes too long");
	first_touch(_metadata, self, false);
}

/* The same access by the CPU is tried again, by the fault. */
TEST_F_TIMEOUT(nomem, touch_again, TIMEOUT)
{
	struct conv *c = &self->c;
	bool done = false;
	int n, r;

	if (variant->page_shift == 30)
		SKIP(return, "1G takes too long");
	conv_open(c, GUEST_MEMFD_FLAG_INIT_SHARED);
	for (n = 1; !done && n < 1000; n++) {
		EXPECT_EQ(0, fallocate(c->fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0,
				       c->size));
		EXPECT_EQ(0, gmem_populate(&c->g, c->fd, 0, 1));
		arm(self, n);
		r = host_touch(c->mem + P(5));
		done = disarm(self);
		EXPECT_EQ(0, r);
	}
	EXPECT_TRUE(done);
}

/* What gives memory back needs none: a page is split, with a part of it shared. */
static void give_back(struct __test_metadata *_metadata, nomem_data *self, bool punch)
{
	struct conv *c = &self->c;
	bool done = false;
	int n, fd;

	for (n = 1; !done && n < 1000; n++) {
		guest_mark(c, 0, c->size, 1);
		EXPECT_EQ(0, to_shared(c, P(3), P(5)));
		EXPECT_EQ(0, host_check(c, P(3), P(5), 1));
		if (punch) {
			arm(self, n);
			EXPECT_EQ(0, gmem_punch(&c->g, c->fd, 0, c->size / c->g.page_size));
			done = disarm(self);
			EXPECT_EQ(0, conv_fdinfo(c, "gmem-allocated"));
			guest_run(c, OP_CHECK_ZERO, 0, P(8), 0);
			EXPECT_EQ(0, to_private(c, 0, c->size));
		} else {
			/* All but the file itself is closed before. */
			fd = dup(c->fd);
			conv_unbind(c, TEST_SLOT);
			conv_close(c);
			arm(self, n);
			EXPECT_EQ(0, close(fd));
			done = disarm(self);
			EXPECT_TRUE(pool_same_soon(c->g.page_size, &c->g.before));
			conv_open(c, 0);
		}
	}
	EXPECT_TRUE(done);
	TH_LOG("%d allocations", n - 2);
}

TEST_F_TIMEOUT(nomem, punch, TIMEOUT)
{
	if (variant->page_shift == 30)
		SKIP(return, "1G takes too long");
	give_back(_metadata, self, true);
}

TEST_F_TIMEOUT(nomem, close, TIMEOUT)
{
	if (variant->page_shift == 30)
		SKIP(return, "1G takes too long");
	give_back(_metadata, self, false);
}

/*
 * Limits of cgroups
 */

FIXTURE(limit)
{
	struct conv c;
	char root[256];
	char *cgroup;
	bool enabled;
	long vmemmap;	/* of a page that is whole, in kB */
	long limit;	/* bytes beyond what is charged already */
};

#define limit_data FIXTURE_DATA(limit)

FIXTURE_VARIANT(limit)
{
	unsigned int page_shift;
	u64 size;
};

/* As many pages of the vmemmap as exceed the limit by far */
FIXTURE_VARIANT_ADD(limit, 4k) { .page_shift = 12, .size = SZ_1G };
FIXTURE_VARIANT_ADD(limit, 2m) { .page_shift = 21, .size = SZ_1G };
FIXTURE_VARIANT_ADD(limit, 1g) { .page_shift = 30, .size = SZ_1G };

#define LIMIT	SZ_1M

FIXTURE_SETUP(limit)
{
	const char *why;

	if (cg_find_unified_root(self->root, sizeof(self->root), NULL) ||
	    cg_read_strstr(self->root, "cgroup.controllers", "memory"))
		SKIP(return, "no cgroups of memory");
	why = conv_setup(&self->c, variant->page_shift, variant->size, 0);
	if (why)
		SKIP(return, "%s", why);

	if (cg_read_strstr(self->root, "cgroup.subtree_control", "memory")) {
		ASSERT_EQ(0, cg_write(self->root, "cgroup.subtree_control", "+memory"));
		self->enabled = true;
	}
	self->limit = LIMIT;
	self->cgroup = cg_name(self->root, "guest_memfd_conversions");
	cg_destroy(self->cgroup);
	ASSERT_EQ(0, cg_create(self->cgroup));
}

FIXTURE_TEARDOWN(limit)
{
	struct conv *c = &self->c;

	conv_free(c);
	if (!self->cgroup)
		return;
	cg_destroy(self->cgroup);
	if (self->enabled)
		EXPECT_EQ(0, cg_write(self->root, "cgroup.subtree_control", "-memory"));
	EXPECT_TRUE(pool_same_soon(c->g.page_size, &c->g.before));
}

/*
 * Have a child do something, with some more memory than it has.  Its wait status; it
 * is spared by the OOM killer if it shall get errors.
 */
static int run_limited(limit_data *self, int (*fn)(struct conv *c), bool spared)
{
	int status;
	pid_t pid;

	pid = fork();
	TEST_ASSERT(pid >= 0, "fork() failed");
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (cg_enter_current(self->cgroup) ||
		    cg_write("/proc/self", "oom_score_adj", spared ? "-1000" : "1000") ||
		    cg_write_numeric(self->cgroup, "memory.max",
				     cg_read_long(self->cgroup, "memory.current") + self->limit))
			_exit(255);
		_exit(fn(&self->c));
	}
	TEST_ASSERT(waitpid(pid, &status, 0) == pid, "waitpid() failed");
	return status;
}

/* Soon, because nodes are freed by RCU, and statistics are added up now and then */
static bool uncharged(limit_data *self)
{
	long charged;
	int i;

	for (i = 0; i < 300; i++) {
		charged = cg_read_key_long(self->cgroup, "memory.stat", "kernel ");
		if (charged < LIMIT / 8)
			return true;
		usleep(100000);
	}
	ksft_print_msg("%ld bytes are charged\n", charged);
	return false;
}

/*
 * What is charged once the page tables of the tasks that were in the cgroup are gone, as
 * soon as it is in [@least, @most].  Statistics are added up now and then.
 */
static long charged_for_file(limit_data *self, long least, long most)
{
	long charged = -1;
	int i;

	for (i = 0; i < 300; i++) {
		charged = cg_read_key_long(self->cgroup, "memory.stat", "kernel ");
		if (!cg_read_key_long(self->cgroup, "memory.stat", "pagetables ") &&
		    charged >= least && charged <= most)
			break;
		usleep(100000);
	}
	return charged;
}

static int fragment(struct conv *c)
{
	long i;
	int r;

	for (i = 0; i < c->size / SZ_4K; i += 2) {
		r = to_shared(c, P(i), P(1));
		if (r)
			return r;
	}
	return 0;
}

/* 17. What keeps the state of each page is charged to who converts. */
TEST_F_TIMEOUT(limit, fragment, TIMEOUT)
{
	struct conv *c = &self->c;
	long shared;
	int status;

	status = run_limited(self, fragment, true);
	EXPECT_TRUE(WIFEXITED(status));
	EXPECT_EQ(ENOMEM, WEXITSTATUS(status));
	shared = conv_fdinfo(c, "gmem-shared") * 1024;
	TH_LOG("%ld single pages", shared / SZ_4K);
	EXPECT_LT(0, shared);
	EXPECT_EQ(0, conv_wrong_state(c, 2 * shared, P(1), true));
	if (variant->page_shift == 12) {
		EXPECT_EQ(0, conv_wrong_state(c, 2 * shared - P(2), P(1), false));
		EXPECT_EQ(0, conv_wrong_state(c, 2 * shared - P(1), P(1), true));
	}

	/* Others are not at their limit. */
	EXPECT_EQ(0, to_shared(c, 2 * shared, P(1)));
	EXPECT_EQ(0, to_private(c, 0, c->size));
	EXPECT_TRUE(uncharged(self));
	EXPECT_EQ(0, cg_destroy(self->cgroup));
}

TEST_F_TIMEOUT(limit, fragment_and_close, TIMEOUT)
{
	int status = run_limited(self, fragment, true);

	EXPECT_EQ(ENOMEM, WEXITSTATUS(status));
	conv_free(&self->c);
	EXPECT_TRUE(uncharged(self));
	EXPECT_EQ(0, cg_destroy(self->cgroup));
}

/* The first page of each 2M: it takes a page of the vmemmap for each, at least. */
static int touch_each(struct conv *c)
{
	u64 o;

	for (o = 0; o < c->size; o += SZ_2M)
		if (host_touch(c->mem + o))
			return EFAULT;
	return 0;
}

static int populate_each(struct conv *c)
{
	u64 o;

	for (o = 0; o < c->size; o += SZ_2M)
		if (madvise(c->mem + o, SZ_4K, MADV_POPULATE_WRITE))
			return errno;
	return 0;
}

static void share_each(struct __test_metadata *_metadata, limit_data *self)
{
	struct conv *c = &self->c;
	u64 o;

	EXPECT_EQ(0, gmem_populate(&c->g, c->fd, 0, 1));
	self->vmemmap = conv_fdinfo(c, "gmem-vmemmap");
	for (o = 0; o < c->size; o += SZ_2M)
		EXPECT_EQ(0, to_shared(c, o, P(1)));
}

/* 31. A task that is over its limit by touching is killed, and does not hang. */
TEST_F_TIMEOUT(limit, touch, TIMEOUT)
{
	struct conv *c = &self->c;
	long vmemmap, charged;
	int status;

	if (variant->page_shift != 30)
		SKIP(return, "needs a page that takes much to split");
	share_each(_metadata, self);
	status = run_limited(self, touch_each, false);
	EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
		TH_LOG("status 0x%x", status);
	EXPECT_LT(0, cg_read_key_long(self->cgroup, "memory.events", "oom_kill "));
	vmemmap = conv_fdinfo(c, "gmem-vmemmap") - self->vmemmap;
	charged = charged_for_file(self, vmemmap * 1024, LONG_MAX);
	TH_LOG("%ld kB of the vmemmap, %ld kB charged", vmemmap, charged / 1024);
	EXPECT_LT(LIMIT / 1024 / 4, vmemmap);
	EXPECT_LE(vmemmap, charged / 1024);

	/* Others can touch what it could not. */
	EXPECT_EQ(0, touch_each(c));
	EXPECT_EQ(0, to_private(c, 0, c->size));
	EXPECT_TRUE(conv_wait_fdinfo(c, "gmem-vmemmap", self->vmemmap));
	EXPECT_TRUE(uncharged(self));
	EXPECT_EQ(0, cg_destroy(self->cgroup));
}

/* By a system call, it gets an error. */
TEST_F_TIMEOUT(limit, populate, TIMEOUT)
{
	struct conv *c = &self->c;
	int status;

	if (variant->page_shift != 30)
		SKIP(return, "needs a page that takes much to split");
	share_each(_metadata, self);
	status = run_limited(self, populate_each, true);
	EXPECT_TRUE(WIFEXITED(status));
	EXPECT_EQ(ENOMEM, WEXITSTATUS(status));
	EXPECT_EQ(0, populate_each(c));
	EXPECT_EQ(0, to_private(c, 0, c->size));
	EXPECT_TRUE(conv_wait_merged(c));
	EXPECT_TRUE(uncharged(self));
}

static int populate_all(struct conv *c)
{
	return fallocate(c->fd, FALLOC_FL_KEEP_SIZE, 0, c->size) ? errno : 0;
}

/* What describes a page that is lent, and where it is in the file */
TEST_F_TIMEOUT(limit, lent, TIMEOUT)
{
	const long least = self->c.size / SZ_2M * 160;
	struct conv *c = &self->c;
	long charged, left;
	int status;

	if (variant->page_shift != 21)
		SKIP(return, "needs many pages, but not too many");
	/* The cgroup may have to pay for the pages themselves. */
	self->limit += c->size;
	status = run_limited(self, populate_all, true);
	EXPECT_TRUE(WIFEXITED(status));
	EXPECT_EQ(0, WEXITSTATUS(status));
	charged = charged_for_file(self, least, LONG_MAX);
	TH_LOG("%ld bytes are charged", charged);
	EXPECT_LE(least, charged);

	EXPECT_EQ(0, fallocate(c->fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0,
			       c->size));
	left = charged_for_file(self, 0, charged - least);
	EXPECT_LE(left, charged - least);
}

/* Take all of the machine's memory. */
static void take_memory(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (cg_write("/proc/self", "oom_score_adj", "1000"))
		_exit(1);
	while (mmap(NULL, SZ_16M, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0) != MAP_FAILED)
		;
	for (;;)
		pause();
}

/* 32. The machine is out of memory: the OOM killer ends another task, touching goes on. */
TEST_F_TIMEOUT(limit, touch_at_oom, TIMEOUT)
{
	struct conv *c = &self->c;
	int status, touches = 0;
	pid_t pid;
	u64 o = 0;

	if (variant->page_shift != 30)
		SKIP(return, "needs a page that takes much to split");
	if (cg_write("/proc/self", "oom_score_adj", "-1000"))
		SKIP(return, "needs root");
	share_each(_metadata, self);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		take_memory();
	do {
		/* Each takes memory, until all of the page is in parts. */
		if (o == c->size) {
			EXPECT_EQ(0, fallocate(c->fd, FALLOC_FL_KEEP_SIZE |
					       FALLOC_FL_PUNCH_HOLE, 0, c->size));
			EXPECT_EQ(0, gmem_populate(&c->g, c->fd, 0, 1));
			o = 0;
		}
		EXPECT_EQ(0, host_touch(c->mem + o));
		o += SZ_2M;
		touches++;
		usleep(20000);
	} while (!waitpid(pid, &status, WNOHANG));
	TH_LOG("%d touches", touches);
	EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	EXPECT_EQ(0, touch_each(c));
	EXPECT_EQ(0, to_private(c, 0, c->size));
	EXPECT_TRUE(conv_wait_fdinfo(c, "gmem-vmemmap", self->vmemmap));
	EXPECT_EQ(0, cg_write("/proc/self", "oom_score_adj", "0"));
}

/* 68. The cgroup goes before what it was charged for. */
TEST_F_TIMEOUT(limit, rmdir_while_split, TIMEOUT)
{
	struct conv *c = &self->c;

	if (variant->page_shift != 30)
		SKIP(return, "needs a page that takes much to split");
	share_each(_metadata, self);
	EXPECT_NE(0, run_limited(self, touch_each, false));
	EXPECT_LT(self->vmemmap, conv_fdinfo(c, "gmem-vmemmap"));
	EXPECT_EQ(0, cg_destroy(self->cgroup));
	EXPECT_EQ(0, to_private(c, 0, c->size));
	EXPECT_TRUE(conv_wait_fdinfo(c, "gmem-vmemmap", self->vmemmap));
}

TEST_HARNESS_MAIN
