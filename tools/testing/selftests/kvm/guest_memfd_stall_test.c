// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of which tasks wait while a page of a guest_memfd comes into being.
 *
 * Three things can take long: a task is throttled by its memory cgroup, a huge
 * page is cleared, and a page that was punched out is still in use.  Faults of
 * other pages, hole punching and memslot updates must not wait for any of them.
 * A vCPU that needs this very page waits for a second, and then tells its VMM.
 *
 * One must not take at all: a memory error and a hole that wait for each other.
 *
 * Machines differ in how long things take.  Hence the tests expect an order of
 * events wherever there is one, and print the times.
 *
 * Needs root, a free page of 1G, and CONFIG_TEST_GUEST_MEMFD.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/sizes.h>

#include "guest_memfd_util.h"
#include "kvm_test_harness.h"
#include "ucall_common.h"

#define OTHER_SLOT	11
/* Where no other memslot is, and the test library has none either */
#define OTHER_GPA	(TEST_GPA - SZ_1G)
/* Seconds.  A debug kernel on an emulated CPU takes its time. */
#define TIMEOUT		300
/* For what does not come to an end by itself; also seconds */
#define PATIENCE	20

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

/* A memslot that has nothing to do with the test's */
static void add_other_slot(struct gmem *g)
{
	vm_set_user_memory_region2(g->vm, OTHER_SLOT, 0, OTHER_GPA, SZ_4K, g->hva,
				   -1, 0);
}

static void delete_slot(struct gmem *g, int slot)
{
	vm_set_user_memory_region2(g->vm, slot, 0, 0, 0, NULL, -1, 0);
}

/*
 * Signals for the one thread that has not blocked them, after a while and then
 * again and again.  A thread that would wait for ever is sure to be woken.
 */

static int nr_signals;

static void count_signal(int sig)
{
	WRITE_ONCE(nr_signals, nr_signals + 1);
}

static void start_signals(double seconds)
{
	const struct itimerval timer = {
		.it_value.tv_sec = seconds,
		.it_value.tv_usec = (seconds - (long)seconds) * 1000000,
		.it_interval.tv_usec = 100000,
	};
	struct sigaction sa = { .sa_handler = count_signal };

	WRITE_ONCE(nr_signals, 0);
	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &timer, NULL);
}

static void stop_signals(void)
{
	const struct itimerval never = {};

	setitimer(ITIMER_REAL, &never, NULL);
}

/* The new thread gets the signals, its creator does not. */
static void create_signalled(pthread_t *thread, void *(*fn)(void *), void *arg)
{
	sigset_t alarm;

	kvm_pthread_create(thread, NULL, fn, arg);
	sigemptyset(&alarm);
	sigaddset(&alarm, SIGALRM);
	pthread_sigmask(SIG_BLOCK, &alarm, NULL);
}

/*
 * A task that its memory cgroup throttles
 */

/* Seconds, for which the others are observed */
#define WINDOW		10
/* A call that takes longer was stalled: a throttled task sleeps for 2 s at a time. */
#define STALL		1.0
/* What these calls may take together: the machine may be busy. */
#define MAX_STALLED	(WINDOW * 0.3)

/* The file, in pages of 4K: what each of the tasks uses */
#define NR_THROTTLED	(SZ_64M / SZ_4K)
#define PUNCHED		NR_THROTTLED
#define BOUND		(NR_THROTTLED + 1)
#define TOUCHED		(SZ_128M / SZ_4K)
#define NR_TOUCHED	(SZ_512M / SZ_4K)
#define NR_PAGES	(TOUCHED + NR_TOUCHED)

FIXTURE(throttled)
{
	struct gmem g;
	char root[PATH_MAX];	/* of the cgroups */
	char cgroup[PATH_MAX];
	bool enabled;		/* memory cgroups, for this test */
	int fd;
};

#define throttled_data FIXTURE_DATA(throttled)

FIXTURE_VARIANT(throttled)
{
	unsigned int vm_type;
};

FIXTURE_VARIANT_ADD(throttled, default_4k)
{
	.vm_type = KVM_X86_DEFAULT_VM,
};

FIXTURE_VARIANT_ADD(throttled, sw_protected_4k)
{
	.vm_type = KVM_X86_SW_PROTECTED_VM,
};

FIXTURE_SETUP(throttled)
{
	const char *reason;

	if (cg_find_unified_root(self->root, sizeof(self->root), NULL) ||
	    cg_read_strstr(self->root, "cgroup.controllers", "memory"))
		SKIP(return, "no memory cgroups");
	reason = gmem_setup(&self->g, 12, variant->vm_type, 0);
	if (reason)
		SKIP(return, "%s", reason);
	if (cg_read_strstr(self->root, "cgroup.subtree_control", "memory")) {
		if (cg_write(self->root, "cgroup.subtree_control", "+memory"))
			SKIP(return, "needs root");
		self->enabled = true;
	}

	snprintf(self->cgroup, sizeof(self->cgroup), "%.200s/%s", self->root,
		 "guest_memfd_stall_test");
	cg_destroy(self->cgroup);
	ASSERT_EQ(0, cg_create(self->cgroup));
	ASSERT_EQ(0, cg_write(self->cgroup, "memory.high", "1M"));

	self->fd = gmem_create(&self->g, NR_PAGES);
	gmem_bind_at(&self->g, self->fd, TOUCHED * SZ_4K, NR_TOUCHED * SZ_4K, 0);
}

/* Runs when the process that ran the test is gone, whatever ended it. */
FIXTURE_TEARDOWN_PARENT(throttled)
{
	if (self->cgroup[0])
		EXPECT_EQ(0, cg_destroy(self->cgroup));
	if (self->enabled)
		EXPECT_EQ(0, cg_write(self->root, "cgroup.subtree_control", "-memory"));
}

struct calls {
	const char *what;
	long nr;
	double start;
	double total;
	double longest;
	double stalled;
};

static void begin_call(struct calls *c)
{
	c->start = now();
}

static void end_call(struct calls *c)
{
	const double t = now() - c->start;

	c->nr++;
	c->total += t;
	if (t > c->longest)
		c->longest = t;
	if (t > STALL)
		c->stalled += t;
}

static void expect_no_stall(struct __test_metadata *_metadata, struct calls *c)
{
	ksft_print_msg("%s: %ld, mean %.1f ms, longest %.1f ms, stalled for %.1f of %d s\n",
		       c->what, c->nr, c->total * 1000 / c->nr, c->longest * 1000,
		       c->stalled, WINDOW);
	EXPECT_LT(0, c->nr);
	EXPECT_GT(MAX_STALLED, c->stalled);
}

struct changer {
	throttled_data *self;
	struct calls calls;
	int error;
	bool stop;
};

/* Now and then, punch a page of the file. */
static void *punch_pages(void *arg)
{
	struct changer *c = arg;
	struct gmem *g = &c->self->g;

	while (!READ_ONCE(c->stop) && !c->error) {
		usleep(20000);
		c->error = gmem_populate(g, c->self->fd, PUNCHED, 1);
		if (c->error)
			break;
		begin_call(&c->calls);
		c->error = gmem_punch(g, c->self->fd, PUNCHED, 1);
		end_call(&c->calls);
	}
	return NULL;
}

/* Less often, bind a part of it.  This takes its time: all mappings are zapped. */
static void *change_slots(void *arg)
{
	struct changer *c = arg;
	struct gmem *g = &c->self->g;

	while (!READ_ONCE(c->stop)) {
		usleep(500000);
		begin_call(&c->calls);
		vm_set_user_memory_region2(g->vm, OTHER_SLOT, KVM_MEM_GUEST_MEMFD,
					   OTHER_GPA, SZ_4K, g->hva, c->self->fd,
					   BOUND * SZ_4K);
		delete_slot(g, OTHER_SLOT);
		end_call(&c->calls);
	}
	return NULL;
}

/* Throttled, this takes minutes. */
static pid_t fork_throttled(throttled_data *self)
{
	const pid_t pid = fork();

	TEST_ASSERT(pid >= 0, "fork() failed");
	if (pid)
		return pid;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (cg_enter_current(self->cgroup))
		_exit(1);
	_exit(gmem_populate(&self->g, self->fd, 0, NR_THROTTLED) ? 2 : 0);
}

static long nr_throttled(throttled_data *self)
{
	return cg_read_key_long(self->cgroup, "memory.events", "high ");
}

/*
 * A task is over the limit of its cgroup, and sleeps again and again while it
 * allocates.  vCPUs of other cgroups do not, nor do tasks that punch or bind.
 */
TEST_F_TIMEOUT(throttled, charge, TIMEOUT)
{
	struct changer puncher = {
		.self = self,
		.calls.what = "punching a page",
	};
	struct changer binder = {
		.self = self,
		.calls.what = "adding and deleting a memslot",
	};
	struct calls fault = { .what = "touching a page" };
	pthread_t punch_thread, bind_thread;
	long before, after, page = 0;
	double start;
	int status;
	pid_t pid;

	pid = fork_throttled(self);
	for (start = now(); !nr_throttled(self); usleep(10000))
		ASSERT_GT(PATIENCE, now() - start);

	before = nr_throttled(self);
	kvm_pthread_create(&punch_thread, NULL, punch_pages, &puncher);
	kvm_pthread_create(&bind_thread, NULL, change_slots, &binder);
	for (start = now(); now() - start < WINDOW; page++) {
		if (page == NR_TOUCHED) {
			ASSERT_EQ(0, gmem_punch(&self->g, self->fd, TOUCHED, NR_TOUCHED));
			page = 0;
		}
		begin_call(&fault);
		ASSERT_EQ(0, gmem_touch(&self->g, page));
		end_call(&fault);
	}
	after = nr_throttled(self);
	WRITE_ONCE(puncher.stop, true);
	WRITE_ONCE(binder.stop, true);
	kvm_pthread_join(punch_thread, NULL);
	kvm_pthread_join(bind_thread, NULL);
	EXPECT_EQ(0, puncher.error);

	/* All this time there was a task to wait for. */
	EXPECT_LT(before, after);
	EXPECT_EQ(0, waitpid(pid, &status, WNOHANG))
		ksft_print_msg("the throttled task is done, its status is 0x%x\n",
			       status);
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);

	ksft_print_msg("the throttled task went over its limit %ld times\n",
		       after - before);
	expect_no_stall(_metadata, &fault);
	expect_no_stall(_metadata, &puncher.calls);
	expect_no_stall(_metadata, &binder.calls);
	close(self->fd);
}

/*
 * A page of 1G that is being cleared
 */

FIXTURE(clearing)
{
	struct gmem g;
	int fd;
};

#define clearing_data FIXTURE_DATA(clearing)

FIXTURE_VARIANT(clearing)
{
	unsigned int vm_type;
};

FIXTURE_VARIANT_ADD(clearing, default_1g)
{
	.vm_type = KVM_X86_DEFAULT_VM,
};

FIXTURE_VARIANT_ADD(clearing, sw_protected_1g)
{
	.vm_type = KVM_X86_SW_PROTECTED_VM,
};

FIXTURE_SETUP(clearing)
{
	const char *reason = gmem_setup(&self->g, 30, variant->vm_type, 1);

	if (reason)
		SKIP(return, "%s", reason);
	self->fd = gmem_create(&self->g, 1);
	gmem_bind(&self->g, self->fd, 1);
}

FIXTURE_TEARDOWN(clearing)
{
	if (self->g.vm)
		close(self->fd);
	gmem_free_vm(&self->g);
}

struct toucher {
	struct kvm_vcpu *vcpu;
	double start;
	double end;
	long nr_told;		/* that the page takes long */
	long nr_missed;		/* the memslot */
	bool done;
};

/* Have the guest touch what it was told, as a VMM does that changes memslots. */
static void *touch(void *arg)
{
	struct toucher *t = arg;
	const struct kvm_run *run = t->vcpu->run;
	struct ucall uc;

	for (t->start = now(); ; ) {
		if (_vcpu_run(t->vcpu)) {
			TEST_ASSERT(run->exit_reason == KVM_EXIT_MEMORY_FAULT,
				    "KVM_RUN failed: %s", strerror(errno));
			if (errno == EAGAIN)
				t->nr_told++;
			else
				t->nr_missed++;
		} else if (run->exit_reason == KVM_EXIT_MMIO) {
			t->nr_missed++;
		} else {
			break;
		}
	}
	TEST_ASSERT(get_ucall(t->vcpu, &uc) == UCALL_SYNC, "the guest failed");
	t->end = now();
	WRITE_ONCE(t->done, true);
	return NULL;
}

/* A page that is taken from the pool is cleared next. */
static bool wait_for_clearing(struct gmem *g)
{
	const double start = now();
	struct pool_count count;

	do {
		read_pool(g->page_size, &count);
		if (count.free < g->before.free)
			return true;
		usleep(1000);
	} while (now() - start < PATIENCE);
	return false;
}

/* Two vCPUs need the page: one clears it, the other waits for that. */
static void change_while_clearing(struct __test_metadata *_metadata,
				  clearing_data *self, int slot)
{
	struct toucher t[NR_VCPUS] = {};
	pthread_t thread[NR_VCPUS];
	double start, deleted, added;
	struct gmem *g = &self->g;
	int i;

	add_other_slot(g);
	set_cmd(g, OP_TOUCH, SZ_512M, SZ_4K, 1);
	for (i = 0; i < NR_VCPUS; i++) {
		t[i].vcpu = g->vcpu[i];
		kvm_pthread_create(&thread[i], NULL, touch, &t[i]);
	}
	ASSERT_TRUE(wait_for_clearing(g));

	start = now();
	delete_slot(g, slot);
	deleted = now();
	EXPECT_EQ(0, gmem_nr_allocated(g, self->fd))
		ksft_print_msg("the page was cleared before the memslot was deleted\n");

	if (slot == TEST_SLOT)
		gmem_bind(g, self->fd, 1);
	else
		add_other_slot(g);
	added = now();
	EXPECT_EQ(0, gmem_nr_allocated(g, self->fd))
		ksft_print_msg("the page was cleared before the memslot was added\n");

	for (i = 0; i < NR_VCPUS; i++) {
		kvm_pthread_join(thread[i], NULL);
		ksft_print_msg("vCPU %d: %.0f ms, told %ld times, without memslot %ld times\n",
			       i, (t[i].end - t[i].start) * 1000, t[i].nr_told,
			       t[i].nr_missed);
	}
	ksft_print_msg("memslot deleted in %.1f ms, added in %.1f ms\n",
		       (deleted - start) * 1000, (added - deleted) * 1000);
	EXPECT_EQ(1, gmem_nr_allocated(g, self->fd));
}

TEST_F_TIMEOUT(clearing, change_other_slot, TIMEOUT)
{
	change_while_clearing(_metadata, self, OTHER_SLOT);
}

/* The vCPUs find the memslot gone and there again, and the page in it. */
TEST_F_TIMEOUT(clearing, change_same_slot, TIMEOUT)
{
	change_while_clearing(_metadata, self, TEST_SLOT);
}

/*
 * A page that was punched out and is still in use
 */

#define MODULE		"test_guest_memfd"
#define PARAMETERS	"/sys/module/" MODULE "/parameters"
#define FLAG_TEST	BIT_ULL(62)
#define NR_FOLIOS	2	/* in the file, and in the module's pool */

FIXTURE(awaited)
{
	struct gmem g;
	char *map;
	int pipe[2];
	bool loaded;
	int fd;
};

#define awaited_data FIXTURE_DATA(awaited)

FIXTURE_VARIANT(awaited)
{
	unsigned int page_shift;
	unsigned int vm_type;
};

/* The page is in a pipe. */
FIXTURE_VARIANT_ADD(awaited, default_4k)
{
	.page_shift = 12,
	.vm_type = KVM_X86_DEFAULT_VM,
};

/* Tasks cannot get hold of it: the allocator only says so. */
FIXTURE_VARIANT_ADD(awaited, sw_protected_2m)
{
	.page_shift = 21,
	.vm_type = KVM_X86_SW_PROTECTED_VM,
};

static bool load_module(unsigned int order)
{
	char command[128];

	snprintf(command, sizeof(command), "modprobe -q " MODULE " order=%u nr_folios=%u",
		 order, NR_FOLIOS);
	return !system(command) && cg_read_long(PARAMETERS, "order") == order;
}

/* The last of a file's inode goes with an RCU callback. */
static int unload_module(void)
{
	const double start = now();

	while (syscall(SYS_delete_module, MODULE, O_NONBLOCK)) {
		if ((errno != EWOULDBLOCK && errno != EBUSY) ||
		    now() - start > PATIENCE)
			return errno;
		usleep(10000);
	}
	return 0;
}

FIXTURE_SETUP(awaited)
{
	struct gmem *g = &self->g;
	const char *reason;

	if (!load_module(variant->page_shift - 12))
		SKIP(return, "needs root, and CONFIG_TEST_GUEST_MEMFD");
	self->loaded = true;
	reason = gmem_setup(g, variant->page_shift, variant->vm_type, 0);
	if (reason)
		SKIP(return, "%s", reason);

	g->flags = FLAG_TEST;
	if (!g->private)
		g->flags |= GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED;
	self->fd = gmem_create(g, NR_FOLIOS);
	if (!g->private)
		self->map = kvm_mmap(SZ_4K, PROT_READ | PROT_WRITE, MAP_SHARED,
				     self->fd);
	gmem_bind(g, self->fd, NR_FOLIOS);
	add_other_slot(g);
}

FIXTURE_TEARDOWN(awaited)
{
	if (self->map)
		kvm_munmap(self->map, SZ_4K);
	if (self->g.vm)
		close(self->fd);
	gmem_free_vm(&self->g);
	if (self->loaded)
		EXPECT_EQ(0, unload_module());
}

/* Page 0 has left the file, and is in use by a pipe.  All pages are allocated. */
static void take_page(struct __test_metadata *_metadata, awaited_data *self)
{
	struct iovec iov = { .iov_base = self->map, .iov_len = SZ_4K };

	ASSERT_EQ(0, gmem_populate(&self->g, self->fd, 0, NR_FOLIOS));
	if (self->map) {
		ASSERT_EQ(0, pipe(self->pipe));
		ASSERT_EQ(SZ_4K, vmsplice(self->pipe[1], &iov, 1, 0));
	} else {
		ASSERT_EQ(0, cg_write_numeric(PARAMETERS, "again", 2000000000));
	}
	ASSERT_EQ(0, gmem_punch(&self->g, self->fd, 0, 1));
	ASSERT_EQ(NR_FOLIOS - 1, gmem_nr_allocated(&self->g, self->fd));
}

static void release_page(struct __test_metadata *_metadata, awaited_data *self)
{
	if (self->map) {
		ASSERT_EQ(0, close(self->pipe[0]));
		ASSERT_EQ(0, close(self->pipe[1]));
	} else {
		ASSERT_EQ(0, cg_write_numeric(PARAMETERS, "again", 0));
	}
}

/* -1 if KVM has no such statistic */
static long nr_awaited(awaited_data *self)
{
	struct kvm_stats_header header;
	struct kvm_stats_desc *all, *desc;
	int i, fd = vm_get_stats_fd(self->g.vm);
	u64 value = -1;

	read_stats_header(fd, &header);
	all = read_stats_descriptors(fd, &header);
	for (i = 0; i < header.num_desc; i++) {
		desc = get_stats_descriptor(all, i, &header);
		if (!strcmp(desc->name, "gmem_awaited"))
			read_stat_data(fd, &header, desc, &value, 1);
	}
	free(all);
	close(fd);
	return value;
}

/* The guest is to touch the last 4K of the page. */
static void set_touch(awaited_data *self)
{
	set_cmd(&self->g, OP_TOUCH, self->g.page_size - SZ_4K, SZ_4K, 1);
}

/* Run the vCPU, which is not to come back before about a second is over. */
static void expect_told(struct __test_metadata *_metadata, awaited_data *self)
{
	struct kvm_run *run = self->g.vcpu[0]->run;
	double elapsed = now();
	int r, error;

	start_signals(PATIENCE);
	r = __vcpu_run(self->g.vcpu[0]);
	error = errno;
	stop_signals();
	elapsed = now() - elapsed;

	EXPECT_EQ(-1, r);
	EXPECT_EQ(EAGAIN, error);
	EXPECT_EQ(KVM_EXIT_MEMORY_FAULT, run->exit_reason);
	EXPECT_EQ(TEST_GPA + self->g.page_size - SZ_4K, run->memory_fault.gpa);
	EXPECT_EQ(SZ_4K, run->memory_fault.size);
	EXPECT_EQ(self->map ? 0 : KVM_MEMORY_EXIT_FLAG_PRIVATE,
		  run->memory_fault.flags);
	/* A VMM that only tries again must not burn a CPU. */
	EXPECT_LT(0.5, elapsed);
	ksft_print_msg("KVM_RUN returned after %.0f ms: %s\n", elapsed * 1000,
		       r ? strerror(error) : "no error");
}

/* After a second the VMM is told which page is missing. */
TEST_F_TIMEOUT(awaited, vcpu_exits, TIMEOUT)
{
	long awaited[3];

	take_page(_metadata, self);
	set_touch(self);
	awaited[0] = nr_awaited(self);
	expect_told(_metadata, self);
	awaited[1] = nr_awaited(self);
	/* It may try again as often as it likes. */
	expect_told(_metadata, self);
	awaited[2] = nr_awaited(self);
	release_page(_metadata, self);
	EXPECT_EQ(0, run_vcpu(self->g.vcpu[0]));

	ksft_print_msg("gmem_awaited was %ld, %ld and %ld\n", awaited[0], awaited[1],
		       awaited[2]);
	EXPECT_EQ(0, awaited[0]);
	EXPECT_LE(1, awaited[1]);
	EXPECT_LT(awaited[1], awaited[2]);
	EXPECT_EQ(awaited[2], nr_awaited(self));
	EXPECT_EQ(NR_FOLIOS, gmem_nr_allocated(&self->g, self->fd));
}

/* What is released in time is no matter for the VMM. */
TEST_F_TIMEOUT(awaited, vcpu_waits, TIMEOUT)
{
	struct toucher t = { .vcpu = self->g.vcpu[0] };
	pthread_t thread;

	take_page(_metadata, self);
	set_touch(self);
	kvm_pthread_create(&thread, NULL, touch, &t);
	usleep(100000);
	EXPECT_FALSE(READ_ONCE(t.done));
	release_page(_metadata, self);
	kvm_pthread_join(thread, NULL);
	ksft_print_msg("the vCPU had the page after %.0f ms, told of it %ld times\n",
		       (t.end - t.start) * 1000, t.nr_told);
	EXPECT_EQ(NR_FOLIOS, gmem_nr_allocated(&self->g, self->fd));
}

/* A signal ends the wait, before the second is over. */
TEST_F_TIMEOUT(awaited, vcpu_interrupted, TIMEOUT)
{
	double start;
	int r, error;

	take_page(_metadata, self);
	set_touch(self);
	start = now();
	start_signals(0.1);
	r = __vcpu_run(self->g.vcpu[0]);
	error = errno;
	stop_signals();
	ksft_print_msg("KVM_RUN returned after %.0f ms: %s\n",
		       (now() - start) * 1000, r ? strerror(error) : "no error");
	EXPECT_EQ(-1, r);
	EXPECT_EQ(EINTR, error);
	EXPECT_EQ(KVM_EXIT_INTR, self->g.vcpu[0]->run->exit_reason);

	release_page(_metadata, self);
	EXPECT_EQ(0, run_vcpu(self->g.vcpu[0]));
}

struct populator {
	awaited_data *self;
	int error;
	bool done;
};

static void *populate_awaited(void *arg)
{
	struct populator *p = arg;

	p->error = gmem_populate(&p->self->g, p->self->fd, 0, 1);
	WRITE_ONCE(p->done, true);
	return NULL;
}

/* fallocate() waits for as long as it takes. */
TEST_F_TIMEOUT(awaited, fallocate_waits, TIMEOUT)
{
	struct populator p = { .self = self };
	pthread_t thread;

	take_page(_metadata, self);
	kvm_pthread_create(&thread, NULL, populate_awaited, &p);
	sleep(3);
	EXPECT_FALSE(READ_ONCE(p.done));
	release_page(_metadata, self);
	kvm_pthread_join(thread, NULL);
	EXPECT_EQ(0, p.error);
	EXPECT_EQ(NR_FOLIOS, gmem_nr_allocated(&self->g, self->fd));
}

struct prefaulter {
	awaited_data *self;
	long nr_again;
	long nr_other;		/* anything but EAGAIN */
	int error;		/* the last of these */
	bool stop;
};

static void *prefault(void *arg)
{
	struct prefaulter *p = arg;
	int r;

	while (!READ_ONCE(p->stop)) {
		struct kvm_pre_fault_memory range = {
			.gpa = TEST_GPA,
			.size = p->self->g.page_size,
		};

		r = __vcpu_ioctl(p->self->g.vcpu[0], KVM_PRE_FAULT_MEMORY, &range);
		if (r && errno == EAGAIN) {
			WRITE_ONCE(p->nr_again, p->nr_again + 1);
		} else {
			p->error = r ? errno : 0;
			WRITE_ONCE(p->nr_other, p->nr_other + 1);
		}
	}
	return NULL;
}

/*
 * KVM_PRE_FAULT_MEMORY does not wait, so that it is up to its caller whether to try
 * again.  A memslot can be changed all the time.
 */
static void change_while_prefaulting(struct __test_metadata *_metadata,
				     awaited_data *self, int slot)
{
	struct kvm_pre_fault_memory range = {
		.gpa = TEST_GPA,
		.size = self->g.page_size,
	};
	struct prefaulter p = { .self = self };
	double start, deleted;
	pthread_t thread;
	long told;

	if (!kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY))
		SKIP(return, "no KVM_PRE_FAULT_MEMORY");

	take_page(_metadata, self);
	create_signalled(&thread, prefault, &p);
	start_signals(PATIENCE);
	for (start = now(); !READ_ONCE(p.nr_again) && now() - start < 15; )
		usleep(10000);
	told = READ_ONCE(p.nr_again);

	start = now();
	delete_slot(&self->g, slot);
	deleted = now() - start;
	WRITE_ONCE(p.stop, true);
	kvm_pthread_join(thread, NULL);
	stop_signals();

	ksft_print_msg("EAGAIN %ld times, then memslot deleted in %.0f ms, %d signals\n",
		       told, deleted * 1000, nr_signals);
	EXPECT_LT(0, told);
	/* No signal was needed to make it stop. */
	EXPECT_EQ(0, nr_signals);
	if (slot == TEST_SLOT)
		gmem_bind(&self->g, self->fd, NR_FOLIOS);
	else
		EXPECT_EQ(0, p.nr_other)
			ksft_print_msg("the last error was %d\n", p.error);

	release_page(_metadata, self);
	EXPECT_EQ(0, __vcpu_ioctl(self->g.vcpu[0], KVM_PRE_FAULT_MEMORY, &range));
	EXPECT_EQ(NR_FOLIOS, gmem_nr_allocated(&self->g, self->fd));
}

TEST_F_TIMEOUT(awaited, prefault_and_change_other_slot, TIMEOUT)
{
	change_while_prefaulting(_metadata, self, OTHER_SLOT);
}

TEST_F_TIMEOUT(awaited, prefault_and_change_same_slot, TIMEOUT)
{
	change_while_prefaulting(_metadata, self, TEST_SLOT);
}

/*
 * A memory error in a page that is being punched out, while memslots come and go
 */

/* Each takes a page of the machine away. */
#define NR_ERRORS	200

FIXTURE(failing)
{
	struct gmem g;
	char *mem;
	int fd;
	pthread_barrier_t barrier;
	int nr_failed;		/* pages with an error */
	bool stop;
	long nr_bound;
};

#define failing_data FIXTURE_DATA(failing)

FIXTURE_SETUP(failing)
{
	const char *reason = gmem_setup(&self->g, 12, KVM_X86_DEFAULT_VM, 0);

	if (reason)
		SKIP(return, "%s", reason);
	self->fd = vm_create_guest_memfd(self->g.vm, NR_ERRORS * SZ_4K,
					 GUEST_MEMFD_FLAG_MMAP |
					 GUEST_MEMFD_FLAG_INIT_SHARED);
	self->mem = mmap(NULL, NR_ERRORS * SZ_4K, PROT_READ | PROT_WRITE,
			 MAP_SHARED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->mem);
	ASSERT_EQ(0, pthread_barrier_init(&self->barrier, NULL, 2));
}

FIXTURE_TEARDOWN(failing)
{
	munmap(self->mem, NR_ERRORS * SZ_4K);
	close(self->fd);
	gmem_free_vm(&self->g);
}

/* KVM keeps the page for the guest to find out, which may be "busy". */
static bool fail_page(void *page)
{
	return !madvise(page, SZ_4K, MADV_HWPOISON) || errno == EBUSY;
}

/* The page may have left the file, which then gets another one. */
static void *fail_pages(void *arg)
{
	failing_data *self = arg;
	int i;

	for (i = 1; i < NR_ERRORS; i++) {
		pthread_barrier_wait(&self->barrier);
		if (fail_page(self->mem + i * SZ_4K))
			self->nr_failed++;
		pthread_barrier_wait(&self->barrier);
	}
	return NULL;
}

static void *bind_and_unbind(void *arg)
{
	failing_data *self = arg;

	while (!READ_ONCE(self->stop)) {
		gmem_bind(&self->g, self->fd, NR_ERRORS);
		gmem_unbind(&self->g);
		self->nr_bound++;
	}
	return NULL;
}

/* Both take the folio lock and what keeps bindings stable. */
TEST_F_TIMEOUT(failing, punch_and_bind, TIMEOUT)
{
	pthread_t injector, binder;
	int i, left = 0;

	/* Tasks that have mapped a page with an error get one. */
	signal(SIGBUS, count_signal);

	/* The first page tells whether it can be done at all. */
	self->mem[0] = 1;
	if (!fail_page(self->mem))
		SKIP(return, "no MADV_HWPOISON: %s", strerror(errno));
	ASSERT_EQ(0, gmem_punch(&self->g, self->fd, 0, 1));

	kvm_pthread_create(&injector, NULL, fail_pages, self);
	kvm_pthread_create(&binder, NULL, bind_and_unbind, self);
	/* An address that was unmapped by an error is of no use any more. */
	for (i = 1; i < NR_ERRORS; i++) {
		self->mem[i * SZ_4K] = 1;
		pthread_barrier_wait(&self->barrier);
		EXPECT_EQ(0, gmem_punch(&self->g, self->fd, i, 1));
		pthread_barrier_wait(&self->barrier);
		left += gmem_nr_allocated(&self->g, self->fd);
		EXPECT_EQ(0, gmem_punch(&self->g, self->fd, i, 1));
	}
	kvm_pthread_join(injector, NULL);
	WRITE_ONCE(self->stop, true);
	kvm_pthread_join(binder, NULL);

	ksft_print_msg("%d of %d pages failed, %d of them after the hole, %ld bindings\n",
		       self->nr_failed, NR_ERRORS - 1, left, self->nr_bound);
	EXPECT_LT(0, self->nr_failed);
	EXPECT_LT(0, self->nr_bound);
	EXPECT_EQ(0, gmem_nr_allocated(&self->g, self->fd));
}

TEST_HARNESS_MAIN
