// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of what happens while a guest_memfd converts in place: other tasks touch,
 * allocate, punch and merge, are killed, or wait.
 *
 * The numbers in front of tests are those of the corner cases of the design.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/falloc.h>
#include <linux/sizes.h>

#include "guest_memfd_conversions.h"
#include "kvm_util.h"
#include "kvm_test_harness.h"
#include "processor.h"
#include "test_util.h"

/* Seconds.  A debug kernel on an emulated CPU takes its time. */
#define TIMEOUT		900
/* How long a race is run.  GMEM_RACE_SECONDS in the environment says otherwise. */
#define RACE_SECONDS	0.5

static double race_end(void)
{
	const char *seconds = getenv("GMEM_RACE_SECONDS");

	return conv_now() + (seconds ? atof(seconds) : RACE_SECONDS);
}

FIXTURE(race)
{
	struct conv c;
};

FIXTURE_VARIANT(race)
{
	unsigned int page_shift;
};

FIXTURE_VARIANT_ADD(race, 4k) { .page_shift = 12 };
FIXTURE_VARIANT_ADD(race, 2m) { .page_shift = 21 };
FIXTURE_VARIANT_ADD(race, 1g) { .page_shift = 30 };

FIXTURE_SETUP(race)
{
	const char *why = conv_setup(&self->c, variant->page_shift, WINDOW, 0);

	if (why)
		SKIP(return, "%s", why);
}

FIXTURE_TEARDOWN(race)
{
	struct conv *c = &self->c;

	conv_free(c);
	if (c->g.hva)
		EXPECT_TRUE(pool_same_soon(c->g.page_size, &c->g.before));
}

/*
 * Touching
 */

struct prober {
	struct conv *c;
	long page;
	long nr;
	long nr_ok;
	long nr_refused;
	long nr_other;
	bool write;
};

static bool probe(void *arg)
{
	struct prober *p = arg;
	long i;
	int r;

	for (i = p->page; i < p->page + p->nr; i++) {
		r = host_touch(p->c->mem + P(i));
		p->nr_ok += !r;
		p->nr_refused += r == EFAULT;
		p->nr_other += r && r != EFAULT;
	}
	return true;
}

/* 60. A hole that the host allocates while it becomes private */
TEST_F_TIMEOUT(race, allocate, TIMEOUT)
{
	const long nr = WINDOW >> variant->page_shift;
	struct conv *c = &self->c;
	struct prober p = { .c = c, .page = 0, .nr = 64 };
	double end = race_end();
	struct looper l;
	long rounds = 0;
	int r;

	if (variant->page_shift == 30)
		SKIP(return, "1G takes too long");
	start_loop(&l, probe, &p);
	while (conv_now() < end || !p.nr_ok || !p.nr_refused) {
		ASSERT_EQ(0, to_shared(c, 0, P(64)));
		/* How long a fault takes that allocates is up to the machine. */
		usleep(rounds % 8 * (100 + 20 * rounds));
		rounds++;
		do {
			r = to_private(c, 0, P(64));
		} while (r == EAGAIN);
		ASSERT_EQ(0, r);
		guest_mark(c, 0, P(64), 1);
		guest_check(c, 0, P(64), 1);
		ASSERT_EQ(0, gmem_punch(&c->g, c->fd, 0, nr));
		guest_run(c, OP_CHECK_ZERO, 0, P(64), 0);
		ASSERT_EQ(0, gmem_punch(&c->g, c->fd, 0, nr));
	}
	stop_loop(&l);
	EXPECT_EQ(0, p.nr_other);
	TH_LOG("%ld rounds, %ld touches, %ld refused", rounds, p.nr_ok, p.nr_refused);
	EXPECT_PRIVATE(0, P(64));
}

/* 70. A page is punched while the host's touch splits it. */
TEST_F_TIMEOUT(race, punch_while_split, TIMEOUT)
{
	const long nr = WINDOW >> variant->page_shift;
	struct conv *c = &self->c;
	struct prober p[2] = {
		{ .c = c, .page = 3, .nr = 1 }, { .c = c, .page = 300, .nr = 70 },
	};
	double end = race_end();
	struct looper l[2];
	int i;

	if (variant->page_shift == 30)
		SKIP(return, "1G takes too long");
	EXPECT_EQ(0, to_shared(c, 0, P(512)));
	for (i = 0; i < 2; i++)
		start_loop(&l[i], probe, &p[i]);
	while (conv_now() < end || !READ_ONCE(p[0].nr_ok) || !READ_ONCE(p[1].nr_ok)) {
		ASSERT_EQ(0, gmem_populate(&c->g, c->fd, 0, nr));
		ASSERT_EQ(0, gmem_punch(&c->g, c->fd, 0, nr));
	}
	for (i = 0; i < 2; i++) {
		stop_loop(&l[i]);
		EXPECT_LT(0, p[i].nr_ok);
		EXPECT_EQ(0, p[i].nr_refused + p[i].nr_other);
	}
	ASSERT_EQ(0, gmem_punch(&c->g, c->fd, 0, nr));
	guest_run(c, OP_CHECK_ZERO, 0, WINDOW, 0);
	EXPECT_SHARED(0, P(512));
}

struct reader {
	struct conv *c;
	long nr_whole;
	long nr_partly;
	long nr_refused;
	long nr_other;
};

/* The kernel pins all of the pages, one by one, and then copies. */
static bool read_by_pins(void *arg)
{
	static char buf[P(16)];
	struct reader *rd = arg;
	const struct iovec local = { .iov_base = buf, .iov_len = sizeof(buf) };
	const struct iovec remote = { .iov_base = rd->c->mem, .iov_len = sizeof(buf) };
	ssize_t r = process_vm_readv(getpid(), &local, 1, &remote, 1, 0);

	rd->nr_whole += r == sizeof(buf);
	rd->nr_partly += r >= 0 && r < sizeof(buf);
	rd->nr_refused += r < 0 && errno == EFAULT;
	rd->nr_other += r < 0 && errno != EFAULT;
	return true;
}

/* A huge page is punched while a task has pinned the first pages of those it wants. */
TEST_F_TIMEOUT(race, punch_while_pinning, TIMEOUT)
{
	struct conv *c = &self->c;
	const long nr = c->size / c->g.page_size;
	struct reader rd = { .c = c };
	struct looper l;
	double end;
	long rounds;

	if (variant->page_shift == 30)
		SKIP(return, "1G takes too long");
	/* So that there is no other page for it to take. */
	ASSERT_EQ(0, gmem_populate(&c->g, c->fd, 0, nr));
	ASSERT_EQ(0, to_shared(c, 0, P(16)));
	start_loop(&l, read_by_pins, &rd);
	for (end = race_end() + 3; conv_now() < end; ) {
		usleep(random() % 3000);
		ASSERT_EQ(0, gmem_punch(&c->g, c->fd, 0, SZ_2M >> variant->page_shift));
	}
	/* It must not wait for a page that it has pinned itself. */
	rounds = READ_ONCE(l.rounds);
	for (end = conv_now() + 30; READ_ONCE(l.rounds) < rounds + 2 && conv_now() < end; )
		usleep(10000);
	ASSERT_LE(rounds + 2, READ_ONCE(l.rounds));
	stop_loop(&l);
	TH_LOG("%ld times read, %ld in part, %ld refused", rd.nr_whole, rd.nr_partly,
	       rd.nr_refused);
	EXPECT_EQ(0, rd.nr_other);
	EXPECT_LT(0, rd.nr_whole);
}

struct first_touch {
	char *p;
	int error;
};

static void *touch_once(void *arg)
{
	struct first_touch *t = arg;

	t->error = host_touch(t->p);
	return NULL;
}

/* 71. Neighbours become private while the first touch of a page splits it. */
TEST_F_TIMEOUT(race, private_while_split, TIMEOUT)
{
	struct conv *c = &self->c;
	struct first_touch t = { .p = c->mem + P(3) };
	double end = race_end();
	pthread_t thread;
	long rounds = 0;

	if (variant->page_shift != 21)
		SKIP(return, "needs pages of 2M");
	for (; conv_now() < end; rounds++) {
		ASSERT_EQ(0, gmem_punch(&c->g, c->fd, 0, 1));
		guest_mark(c, 0, SZ_2M, 1);
		ASSERT_EQ(0, to_shared(c, 0, P(64)));
		kvm_pthread_create(&thread, NULL, touch_once, &t);
		usleep(rounds % 16 * 20);
		ASSERT_EQ(0, to_private(c, P(4), P(60)));
		kvm_pthread_join(thread, NULL);
		ASSERT_EQ(0, t.error);
		ASSERT_EQ(0, host_check(c, 0, P(4), 1));
		ASSERT_EQ(0, conv_wrong_state(c, P(4), P(60), true));
		guest_check(c, 0, SZ_2M, 1);
		ASSERT_EQ(0, to_private(c, 0, P(4)));
	}
	TH_LOG("%ld rounds", rounds);
}

/* 27. All that changes page tables, while the page is converted */
struct changer {
	struct conv *c;
	long nr_errors;
};

static bool change_tables(void *arg)
{
	struct changer *ch = arg;
	struct conv *c = ch->c;
	unsigned char vec[64];
	char *p;

	madvise(c->mem, P(64), MADV_DONTNEED);
	madvise(c->mem, P(64), MADV_COLD);
	madvise(c->mem, P(64), MADV_PAGEOUT);
	ch->nr_errors += !!mincore(c->mem, P(64), vec);
	mlock(c->mem, P(64));
	munlock(c->mem, P(64));
	madvise(c->mem, P(64), MADV_POPULATE_WRITE);
	p = mmap(NULL, P(64), PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);
	madvise(p, P(64), MADV_POPULATE_READ);
	p = mremap(p, P(64), P(128), MREMAP_MAYMOVE);
	if (p == MAP_FAILED) {
		ch->nr_errors++;
		return false;
	}
	ch->nr_errors += mprotect(p, P(64), PROT_READ) || mprotect(p, P(32), PROT_NONE);
	ch->nr_errors += !!munmap(p, P(128));
	return true;
}

TEST_F_TIMEOUT(race, page_tables, TIMEOUT)
{
	struct conv *c = &self->c;
	struct changer ch = { .c = c };
	long refused = 0, done = 0;
	struct looper l;
	double end;
	int r;

	guest_mark(c, 0, P(64), 1);
	start_loop(&l, change_tables, &ch);
	for (end = race_end(); conv_now() < end || !done || !READ_ONCE(l.rounds); ) {
		ASSERT_EQ(0, to_shared(c, 0, P(64)));
		usleep(500);
		r = to_private(c, 0, P(64));
		if (r) {
			ASSERT_EQ(EAGAIN, r);
			refused++;
			continue;
		}
		done++;
		guest_check(c, 0, P(64), 1);
	}
	stop_loop(&l);
	TH_LOG("%ld times private, refused %ld times, %ld rounds", done, refused, l.rounds);
	EXPECT_EQ(0, ch.nr_errors);
	EXPECT_LT(0, l.rounds);
	EXPECT_EQ(0, to_private(c, 0, P(64)));
	EXPECT_PRIVATE(0, P(64));
}

/*
 * The guest
 */

/*
 * 41. A vCPU faults on a neighbour that it never had while a page is converted: no
 * mapping covers both.
 */
TEST_F_TIMEOUT(race, unmapped_neighbour, TIMEOUT)
{
	struct conv *c = &self->c;
	pthread_t thread;
	long rounds = 0;
	u64 nr_huge;
	double end;

	if (variant->page_shift == 12)
		SKIP(return, "needs huge pages");

	guest_mark(c, 0, WINDOW, 1);
	conv_unbind(c, TEST_SLOT);
	guest_run(c, OP_NONE, 0, 0, 0);
	nr_huge = conv_nr_huge(c);
	for (end = race_end(); conv_now() < end; rounds++) {
		conv_bind(c, TEST_SLOT, 0, c->size, 0);
		set_vcpu_cmd(&c->g, 1, OP_CHECK_MARK, P(5), P(1), 1);
		kvm_pthread_create(&thread, NULL, vcpu_thread, c->g.vcpu[1]);
		usleep(rounds % 16 * 20);
		ASSERT_EQ(0, to_shared(c, P(4), P(1)));
		kvm_pthread_join(thread, NULL);
		ASSERT_EQ(nr_huge, conv_nr_huge(c));
		guest_check(c, 0, P(16), 1);
		ASSERT_EQ(nr_huge, conv_nr_huge(c));
		ASSERT_EQ(0, to_private(c, P(4), P(1)));
		/* That zaps all of it. */
		conv_unbind(c, TEST_SLOT);
	}
	conv_bind(c, TEST_SLOT, 0, c->size, 0);
	TH_LOG("%ld rounds", rounds);
	guest_check(c, 0, WINDOW, 1);
}

/*
 * 50, 51. The host splits, the page is merged and mapped hugely again, and vCPUs
 * fault all the time.
 */
TEST_F_TIMEOUT(race, split_and_merge, TIMEOUT)
{
	struct conv *c = &self->c;
	long rounds = 0, mixed = 0, i;
	struct looper l;
	u64 nr_huge;
	double end;

	if (variant->page_shift == 12)
		SKIP(return, "nothing to merge");

	guest_mark(c, 0, WINDOW, 1);
	nr_huge = conv_nr_huge(c);
	set_vcpu_cmd(&c->g, 1, OP_CHECK_MARK, 0, WINDOW, 1);
	start_loop(&l, loop_vcpu, c->g.vcpu[1]);
	for (end = race_end() + 4; conv_now() < end || !READ_ONCE(l.rounds); rounds++) {
		i = random() % 512;
		ASSERT_EQ(0, to_shared(c, P(i), P(1)));
		ASSERT_EQ(0, host_check(c, P(i), P(1), 1));
		/* Recovery leaves alone what is mixed. */
		usleep(rounds & 1 ? 1200000 : 10000);
		mixed += conv_nr_huge(c) >= nr_huge;
		ASSERT_EQ(0, to_private(c, P(i), P(1)));
		usleep(rounds & 2 ? 1100000 : 0);
	}
	stop_loop(&l);
	if (kvm_is_tdp_enabled())
		EXPECT_EQ(0, mixed);
	EXPECT_LT(0, l.rounds);
	TH_LOG("%ld rounds, %ld of the guest", rounds, l.rounds);
	guest_check(c, 0, WINDOW, 1);
	EXPECT_PRIVATE(0, WINDOW);
}

static double time_to_merge(struct __test_metadata *_metadata, struct conv *c)
{
	double start;

	EXPECT_EQ(0, to_shared(c, 0, P(1)));
	EXPECT_EQ(0, host_touch(c->mem));
	start = conv_now();
	EXPECT_EQ(0, to_private(c, 0, P(1)));
	EXPECT_TRUE(conv_wait_merged(c));
	return conv_now() - start;
}

/* 64. The next merge takes twice as long if the last one was in vain. */
TEST_F_TIMEOUT(race, back_off, TIMEOUT)
{
	struct conv *c = &self->c;
	double t[3];
	int i;

	if (variant->page_shift != 21)
		SKIP(return, "needs pages of 2M");
	guest_mark(c, 0, SZ_2M, 1);
	for (i = 0; i < 3; i++) {
		t[i] = time_to_merge(_metadata, c);
		TH_LOG("merged after %.1f s", t[i]);
	}
	/* A machine that is busy makes it longer, never shorter. */
	for (i = 0; i < 3; i++)
		EXPECT_LT(0.9 * (1 << i), t[i]);
	guest_check(c, 0, SZ_2M, 1);
}

/*
 * Conversions that take long
 */

FIXTURE(long)
{
	struct conv c;
};

#define LONG_SIZE	((u64)SZ_128M)

FIXTURE_SETUP(long)
{
	const char *why = conv_setup(&self->c, 12, LONG_SIZE, GUEST_MEMFD_FLAG_INIT_SHARED);

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, madvise(self->c.mem, LONG_SIZE, MADV_POPULATE_WRITE));
}

FIXTURE_TEARDOWN(long)
{
	conv_free(&self->c);
}

/* The least of some, since the machine may be busy. */
static double time_to_convert(struct __test_metadata *_metadata, struct conv *c)
{
	double start, took = 0;
	int i;

	for (i = 0; i < 3; i++) {
		start = conv_now();
		EXPECT_EQ(0, to_private(c, 0, LONG_SIZE));
		if (!i || conv_now() - start < took)
			took = conv_now() - start;
		EXPECT_EQ(0, to_shared(c, 0, LONG_SIZE));
		EXPECT_EQ(0, madvise(c->mem, LONG_SIZE, MADV_POPULATE_WRITE));
	}
	return took;
}

static pid_t fork_converter(struct conv *c, int *started, int *done)
{
	int begin[2], end[2];
	pid_t pid;
	int r;

	TEST_ASSERT(!pipe(begin) && !pipe(end), "pipe() failed");
	pid = fork();
	TEST_ASSERT(pid >= 0, "fork() failed");
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		(void)!write(begin[1], "", 1);
		r = to_private(c, 0, LONG_SIZE);
		(void)!write(end[1], &r, sizeof(r));
		for (;;)
			pause();
	}
	close(begin[1]);
	close(end[1]);
	*started = begin[0];
	*done = end[0];
	return pid;
}

/* 10. A task that is killed ends soon, and has changed all or nothing. */
TEST_F_TIMEOUT(long, killed, TIMEOUT)
{
	struct conv *c = &self->c;
	const double took = time_to_convert(_metadata, c);
	int i, r, started, done, status, killed = 0;
	double start;
	long private;
	pid_t pid;
	char byte;

	for (i = 1; i <= 6; i++) {
		pid = fork_converter(c, &started, &done);
		ASSERT_EQ(1, read(started, &byte, 1));
		usleep(took * i / 8 * 1000000);
		start = conv_now();
		kill(pid, SIGKILL);
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		TH_LOG("gone after %.3f of %.3f s, then %.3f", took * i / 8, took,
		       conv_now() - start);
		r = -1;
		(void)!read(done, &r, sizeof(r));
		close(started);
		close(done);

		private = conv_fdinfo(c, "gmem-private");
		if (r < 0 && !private) {
			killed++;
			EXPECT_EQ(0, conv_wrong_state(c, 0, P(64), false));
			EXPECT_EQ(0, conv_wrong_state(c, LONG_SIZE - P(64), P(64), false));
		} else {
			/* It was through, or past the point of no return. */
			EXPECT_EQ(LONG_SIZE / 1024, private);
		}
		EXPECT_EQ(0, to_shared(c, 0, LONG_SIZE));
		EXPECT_EQ(0, madvise(c->mem, LONG_SIZE, MADV_POPULATE_WRITE));
	}
	EXPECT_LT(0, killed);
}

struct timed {
	struct conv *c;
	struct kvm_vcpu *vcpu;
	double longest;
	bool running;
	double until;	/* for a wait that has not ended */
};

static void add_time(struct timed *t, double start)
{
	t->longest = max(t->longest, conv_now() - start);
}

static bool map_and_unmap(void *arg)
{
	struct timed *t = arg;
	const double start = conv_now();
	char *p = mmap(NULL, SZ_64K, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	munmap(p, SZ_64K);
	add_time(t, start);
	return true;
}

static bool run_timed(void *arg)
{
	struct timed *t = arg;
	const double start = conv_now();

	loop_vcpu(t->vcpu);
	add_time(t, start);
	return true;
}

static void *touch_file(void *arg)
{
	struct timed *t = arg;
	const double start = conv_now();

	WRITE_ONCE(t->running, true);
	/* Whatever it is by then */
	host_touch(t->c->mem + LONG_SIZE - P(1));
	t->until = conv_now();
	add_time(t, start);
	return NULL;
}

static void *convert_all(void *arg)
{
	struct conv *c = arg;

	return (void *)(long)to_private(c, 0, LONG_SIZE);
}

/*
 * 15, 23. While a task converts, another one that wants a page of the file waits.
 * Those that map memory or fault elsewhere do not wait for either, nor do vCPUs.
 */
TEST_F_TIMEOUT(long, others_go_on, TIMEOUT)
{
	struct conv *c = &self->c;
	struct timed map = {}, vcpu = { .vcpu = c->g.vcpu[1] }, fault = { .c = c };
	struct looper map_loop, vcpu_loop;
	pthread_t converter, toucher;
	double start, took;
	void *r;
	int i;

	guest_mark(c, 0, P(256), 1);
	guest_mark(c, LONG_SIZE - P(256), P(256), 1);
	set_vcpu_cmd(&c->g, 1, OP_CHECK_MARK, LONG_SIZE - P(256), P(256), 1);

	/* It may be another task of this machine that took the CPU, so try again. */
	for (i = 0; i < 5; i++) {
		map.longest = 0;
		vcpu.longest = 0;
		fault.running = false;
		start_loop(&map_loop, map_and_unmap, &map);
		start_loop(&vcpu_loop, run_timed, &vcpu);
		start = conv_now();
		kvm_pthread_create(&converter, NULL, convert_all, c);
		usleep(20000);
		madvise(c->mem + LONG_SIZE - P(1), P(1), MADV_DONTNEED);
		kvm_pthread_create(&toucher, NULL, touch_file, &fault);
		kvm_pthread_join(converter, &r);
		took = conv_now() - start;
		kvm_pthread_join(toucher, NULL);
		stop_loop(&map_loop);
		stop_loop(&vcpu_loop);
		if (r)
			EXPECT_EQ(EAGAIN, (long)r);
		TH_LOG("converting took %.3f s, a touch %.3f; mapping %.3f, a vCPU %.3f at most",
		       took, fault.longest, map.longest, vcpu.longest);
		if (!r && map_loop.rounds && vcpu_loop.rounds &&
		    map.longest < took / 2 && vcpu.longest < took / 2)
			break;
		EXPECT_EQ(0, to_shared(c, 0, LONG_SIZE));
		EXPECT_EQ(0, madvise(c->mem, LONG_SIZE, MADV_POPULATE_WRITE));
	}
	EXPECT_GT(5, i);
	guest_check(c, 0, P(256), 1);
}

/* 22. A task that waits for a conversion to be over can be killed. */
TEST_F_TIMEOUT(long, killed_while_waiting, TIMEOUT)
{
	struct conv *c = &self->c;
	int i, started, done, status, r, early = 0;
	pid_t converter, pid;
	char byte;

	/* How long a conversion takes is up to the machine: try many delays. */
	for (i = 0; i < 40 && !early; i++) {
		converter = fork_converter(c, &started, &done);
		ASSERT_EQ(1, read(started, &byte, 1));
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			usleep(2000 * (i % 10));
			host_touch(c->mem + LONG_SIZE - P(1));
			_exit(0);
		}
		usleep(2000 * (i % 10) + 4000 * (1 + i % 8));
		kill(pid, SIGKILL);
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		/* It was killed, and the conversion goes on. */
		if (WIFSIGNALED(status) && !conv_fdinfo(c, "gmem-private"))
			early++;
		ASSERT_EQ(sizeof(r), read(done, &r, sizeof(r)));
		EXPECT_TRUE(r == 0 || r == EAGAIN);
		kill(converter, SIGKILL);
		waitpid(converter, NULL, 0);
		close(started);
		close(done);
		EXPECT_EQ(0, to_shared(c, 0, LONG_SIZE));
		EXPECT_EQ(0, madvise(c->mem, LONG_SIZE, MADV_POPULATE_WRITE));
	}
	EXPECT_LT(0, early);
}

#define CLOSING_GPA	(TEST_GPA + SZ_1G)
#define CLOSING_SLOT	(TEST_SLOT + 1)

static void *convert_closing(void *arg)
{
	struct conv *c = arg;

	return (void *)(long)vm_convert(c->g.vm, CLOSING_GPA, P(1), true);
}

static void *close_file(void *arg)
{
	close((long)arg);
	return NULL;
}

/*
 * A file without a reference stays bound until closing it gets slots_lock.  Until then it
 * cannot be converted, and attributes of the VM do not count.
 */
TEST_F_TIMEOUT(long, closing, TIMEOUT)
{
	pthread_t converter, closing, closer;
	struct conv *c = &self->c;
	const useconds_t delay = time_to_convert(_metadata, c) * 1000000 / 8;
	int i, busy = 0;
	void *r;
	long fd;

	/* Another task of this machine may be in the way, so try again. */
	for (i = 0; i < 10 && !busy; i++) {
		fd = vm_create_guest_memfd(c->g.vm, SZ_2M, c->g.flags);
		vm_set_user_memory_region2(c->g.vm, CLOSING_SLOT, KVM_MEM_GUEST_MEMFD,
					   CLOSING_GPA, SZ_2M, c->mem + SZ_1G, fd, 0);
		EXPECT_EQ(0, vm_convert(c->g.vm, CLOSING_GPA, P(2), false));

		kvm_pthread_create(&converter, NULL, convert_all, c);
		usleep(delay);
		kvm_pthread_create(&closing, NULL, convert_closing, c);
		usleep(delay);
		kvm_pthread_create(&closer, NULL, close_file, (void *)fd);
		kvm_pthread_join(converter, &r);
		EXPECT_TRUE(!r || (long)r == EAGAIN);
		kvm_pthread_join(closing, &r);
		EXPECT_TRUE(!r || (long)r == EAGAIN);
		busy += (long)r == EAGAIN;
		kvm_pthread_join(closer, NULL);

		/* Now they do count. */
		EXPECT_EQ(0, vm_convert(c->g.vm, CLOSING_GPA, P(2), true));
		EXPECT_EQ(0, vm_convert(c->g.vm, CLOSING_GPA, P(2), false));
		vm_set_user_memory_region2(c->g.vm, CLOSING_SLOT, KVM_MEM_GUEST_MEMFD,
					   0, 0, NULL, -1, 0);
		EXPECT_EQ(0, to_shared(c, 0, LONG_SIZE));
		EXPECT_EQ(0, madvise(c->mem, LONG_SIZE, MADV_POPULATE_WRITE));
	}
	EXPECT_LT(0, busy);
}

/* 22. The same for one that waits for a page of 1G to be cleared. */
TEST_F_TIMEOUT(race, killed_while_allocating, TIMEOUT)
{
	struct conv *c = &self->c;
	struct first_touch t = { .p = c->mem };
	pthread_t thread;
	int status;
	pid_t pid;

	if (variant->page_shift != 30)
		SKIP(return, "needs a page that takes long to clear");
	EXPECT_EQ(0, to_shared(c, 0, P(2)));
	kvm_pthread_create(&thread, NULL, touch_once, &t);
	while (!conv_fdinfo(c, "gmem-awaited") && !conv_fdinfo(c, "gmem-allocated"))
		;
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(host_touch(c->mem + P(1)));
	usleep(50000);
	kill(pid, SIGKILL);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	/* If the page was there already, this says nothing. */
	EXPECT_TRUE(WIFSIGNALED(status) || conv_fdinfo(c, "gmem-allocated"));
	if (WIFSIGNALED(status))
		EXPECT_EQ(0, conv_fdinfo(c, "gmem-allocated"));
	kvm_pthread_join(thread, NULL);
	EXPECT_EQ(0, t.error);
}

/*
 * 16. Every second page: 2^14 of them, or as many as GMEM_RACE_HOLES says
 */

FIXTURE(fragmented)
{
	struct conv c;
	long nr;
};

FIXTURE_VARIANT(fragmented)
{
	unsigned int page_shift;
};

FIXTURE_VARIANT_ADD(fragmented, 4k) { .page_shift = 12 };
FIXTURE_VARIANT_ADD(fragmented, 1g) { .page_shift = 30 };

FIXTURE_SETUP(fragmented)
{
	const char *nr = getenv("GMEM_RACE_HOLES"), *why;

	self->nr = nr ? atol(nr) : 1 << 14;
	why = conv_setup(&self->c, variant->page_shift,
			 align_up(2 * P(self->nr), 1UL << variant->page_shift), 0);
	if (why)
		SKIP(return, "%s", why);
}

FIXTURE_TEARDOWN(fragmented)
{
	conv_free(&self->c);
}

static long fragment(struct conv *c, long nr, bool private)
{
	long i, errors = 0;

	for (i = 0; i < nr; i++)
		errors += !!gmem_convert(c->fd, P(2 * i), P(1), private, NULL);
	return errors;
}

TEST_F_TIMEOUT(fragmented, at_once, TIMEOUT)
{
	struct conv *c = &self->c;
	struct timed vcpu = { .vcpu = c->g.vcpu[1] };
	const u64 size = 2 * P(self->nr);
	struct looper l;
	double start;
	int to;

	for (to = 0; to < 2; to++) {
		/* All is private, or all is shared. */
		start = conv_now();
		EXPECT_EQ(0, fragment(c, self->nr, to));
		TH_LOG("%ld single pages to %s took %.1f s", self->nr,
		       to ? "private" : "shared", conv_now() - start);
		EXPECT_EQ(size / 2048, conv_fdinfo(c, "gmem-shared"));

		/* Clearing the page is not what the vCPU is timed for. */
		guest_mark(c, 0, P(1), 1);
		set_vcpu_cmd(&c->g, 1, OP_MARK, 0, P(64), 1);
		vcpu.longest = 0;
		start_loop(&l, run_timed, &vcpu);
		start = conv_now();
		EXPECT_EQ(0, gmem_convert(c->fd, 0, size, to, NULL));
		TH_LOG("all to %s took %.3f s, a vCPU %.3f at most",
		       to ? "private" : "shared", conv_now() - start, vcpu.longest);
		EXPECT_EQ(to ? 0 : size / 1024, conv_fdinfo(c, "gmem-shared"));

		/* What becomes of it if it is half done already */
		EXPECT_EQ(0, fragment(c, self->nr / 2, !to));
		EXPECT_EQ(0, gmem_convert(c->fd, 0, size, !to, NULL));
		EXPECT_EQ(to ? size / 1024 : 0, conv_fdinfo(c, "gmem-shared"));
		EXPECT_EQ(0, gmem_convert(c->fd, 0, size, to, NULL));
		stop_loop(&l);
		EXPECT_GT(10, vcpu.longest);
		guest_check(c, 0, P(64), 1);
	}
}

/*
 * In a file that no guest has mapped, and that is mostly empty: single pages and long
 * runs, before, across and after multiples of 1G
 */
TEST_F_TIMEOUT(fragmented, unbound, TIMEOUT)
{
	static const u64 at[] = { 0, SZ_1G - P(64), 3ULL * SZ_1G + P(1), 1ULL << 40 };
	const u64 size = 2ULL << 40, run = 1ULL << 39;
	const long nr = self->nr / ARRAY_SIZE(at);
	struct conv *c = &self->c;
	const int bound = c->fd;
	double start;
	u64 other;
	int to, i;
	long j;

	if (variant->page_shift != 12)
		SKIP(return, "reserves as many huge pages");

	c->fd = vm_create_guest_memfd(c->g.vm, size, c->g.flags);
	for (to = 0; to < 2; to++) {
		for (i = 0; i < ARRAY_SIZE(at); i++)
			for (j = 0; j < nr; j++)
				EXPECT_EQ(0, gmem_convert(c->fd, at[i] + P(2 * j), P(1),
							  to, NULL));
		EXPECT_EQ(0, gmem_convert(c->fd, run, run / 2, to, NULL));
		other = ARRAY_SIZE(at) * P(nr) + run / 2;
		EXPECT_EQ((to ? size - other : other) / 1024,
			  conv_fdinfo(c, "gmem-shared"));

		/* All but the first page and the last one */
		start = conv_now();
		EXPECT_EQ(0, gmem_convert(c->fd, P(1), size - P(2), to, NULL));
		TH_LOG("all to %s took %.3f s", to ? "private" : "shared",
		       conv_now() - start);
		EXPECT_EQ((to ? P(1) : size - P(1)) / 1024,
			  conv_fdinfo(c, "gmem-shared"));
		EXPECT_EQ(0, gmem_convert(c->fd, 0, size, to, NULL));
		EXPECT_EQ(to ? 0 : size / 1024, conv_fdinfo(c, "gmem-shared"));
	}
	kvm_close(c->fd);
	c->fd = bound;
}

/* Closed while it is so: each entry is freed. */
TEST_F_TIMEOUT(fragmented, closed, TIMEOUT)
{
	struct conv *c = &self->c;

	EXPECT_EQ(0, fragment(c, self->nr, false));
	EXPECT_EQ(P(self->nr) / 1024, conv_fdinfo(c, "gmem-shared"));
	conv_free(c);
	EXPECT_TRUE(pool_same_soon(c->g.page_size, &c->g.before));
}

TEST_HARNESS_MAIN
