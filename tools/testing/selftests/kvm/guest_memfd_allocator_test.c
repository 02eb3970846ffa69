// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of allocators of guest_memfd memory that are modules: that a file keeps
 * its allocator, and gets from it what both have promised.
 *
 * The allocator is that of the module test_guest_memfd, which is loaded for each
 * test and can be told to wait and to fail.  GUEST_MEMFD_FAULT in the environment
 * names a fault that it is to have all the time; some test must fail then.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/sizes.h>

#include "guest_memfd_util.h"
#include "kvm_util.h"
#include "kvm_test_harness.h"
#include "test_util.h"

#define MODULE		"test_guest_memfd"
#define PARAMETERS	"/sys/module/" MODULE "/parameters"
#define FLAG_TEST	BIT_ULL(62)
#define POOL		16	/* folios in the module's pool */
#define NR_FOLIOS	4	/* in the file of a test */
#define FOREVER		1000000000
#define TIMEOUT		300

static long get_param(const char *name)
{
	return cg_read_long(PARAMETERS, name);
}

static bool set_param(const char *name, long value)
{
	return !cg_write_numeric(PARAMETERS, name, value);
}

/* Whether the parameter has the value within half a minute */
static bool wait_param(const char *name, long value)
{
	int i;

	for (i = 0; i < 3000; i++) {
		if (get_param(name) == value)
			return true;
		usleep(10000);
	}
	ksft_print_msg("%s is %ld, not %ld\n", name, get_param(name), value);
	return false;
}

/* What the module has free and awaits, and has promised to files */
static bool pool_has(long free, long awaited, long promised)
{
	if (get_param("free") == free && get_param("awaited") == awaited &&
	    get_param("promised") == promised)
		return true;
	ksft_print_msg("free %ld, awaited %ld, promised %ld\n", get_param("free"),
		       get_param("awaited"), get_param("promised"));
	return false;
}

static bool load_module(unsigned int order)
{
	char command[128];

	snprintf(command, sizeof(command),
		 "modprobe -q " MODULE " order=%u nr_folios=%u", order, POOL);
	return !system(command) && get_param("order") == order;
}

/* The error of unloading the module, 0 if it is gone */
static int unload_module(void)
{
	return syscall(SYS_delete_module, MODULE, O_NONBLOCK) ? errno : 0;
}

/* The last of a file's inode goes with an RCU callback. */
static int unload_module_soon(void)
{
	int i, r = EBUSY;

	for (i = 0; i < 1000; i++) {
		r = unload_module();
		if (r != EWOULDBLOCK && r != EBUSY)
			break;
		usleep(10000);
	}
	return r;
}

FIXTURE(alloc)
{
	struct gmem g;
	bool loaded;
	int fd;
};

FIXTURE_VARIANT(alloc)
{
	unsigned int page_shift;
};

FIXTURE_VARIANT_ADD(alloc, test_4k)
{
	.page_shift = 12,
};

FIXTURE_VARIANT_ADD(alloc, test_2m)
{
	.page_shift = 21,
};

FIXTURE_SETUP(alloc)
{
	char *fault = getenv("GUEST_MEMFD_FAULT");
	const char *reason;

	self->fd = -1;
	if (!load_module(variant->page_shift - 12))
		SKIP(return, "needs root, and CONFIG_TEST_GUEST_MEMFD");
	self->loaded = true;
	if (fault)
		ASSERT_EQ(0, cg_write(PARAMETERS, "fault", fault));

	reason = gmem_setup(&self->g, 12, KVM_X86_DEFAULT_VM, 0);
	if (reason)
		SKIP(return, "%s", reason);
	/* The page size is a matter of the module. */
	self->g.page_size = 1UL << variant->page_shift;
	self->g.flags |= FLAG_TEST;
	self->fd = gmem_create(&self->g, NR_FOLIOS);
	gmem_bind(&self->g, self->fd, NR_FOLIOS);
}

FIXTURE_TEARDOWN(alloc)
{
	if (self->fd >= 0)
		close(self->fd);
	gmem_free_vm(&self->g);
	if (!self->loaded)
		return;
	EXPECT_TRUE(pool_has(POOL, 0, 0));
	EXPECT_EQ(0, unload_module_soon());
}

/* No part of a page has what was there before, in any file. */
TEST_F_TIMEOUT(alloc, cleared, TIMEOUT)
{
	const u64 size = NR_FOLIOS * self->g.page_size;
	struct gmem *g = &self->g;
	int i;

	EXPECT_STREQ("test", gmem_fdinfo(self->fd, "gmem-allocator"));
	for (i = 0; i < 2; i++) {
		run_cmd(g, i, OP_CHECK_ZERO, 0, size, 0);
		run_cmd(g, i, OP_FILL, 0, size, 7);
		run_cmd(g, !i, OP_CHECK, 0, size, 7);
		ASSERT_EQ(NR_FOLIOS, gmem_nr_allocated(g, self->fd));
		ASSERT_EQ(0, gmem_punch(g, self->fd, 0, NR_FOLIOS));
	}

	ASSERT_EQ(0, gmem_populate(g, self->fd, 0, NR_FOLIOS));
	run_cmd(g, 0, OP_CHECK_ZERO, 0, size, 0);
}

TEST_F_TIMEOUT(alloc, reservation, TIMEOUT)
{
	struct gmem *g = &self->g;
	int fd;

	EXPECT_TRUE(pool_has(POOL, 0, NR_FOLIOS));

	/* All or nothing */
	EXPECT_EQ(ENOMEM, gmem_create_errno(g, POOL - NR_FOLIOS + 1));
	EXPECT_EQ(ENOMEM, create_errno(g->vm, 1ULL << 62, g->flags));
	EXPECT_TRUE(pool_has(POOL, 0, NR_FOLIOS));

	fd = gmem_create(g, POOL - NR_FOLIOS);
	EXPECT_TRUE(pool_has(POOL, 0, POOL));
	EXPECT_EQ(ENOMEM, gmem_create_errno(g, 1));

	/* Both get all that was promised to them, and no more. */
	EXPECT_EQ(0, gmem_populate(g, fd, 0, POOL - NR_FOLIOS));
	EXPECT_EQ(0, gmem_populate(g, self->fd, 0, NR_FOLIOS));
	EXPECT_TRUE(pool_has(0, 0, POOL));

	/* A page that is punched out is the file's to have again. */
	EXPECT_EQ(0, gmem_punch(g, self->fd, 1, 1));
	EXPECT_TRUE(pool_has(1, 0, POOL));
	EXPECT_EQ(0, gmem_touch(g, 1));
	EXPECT_TRUE(pool_has(0, 0, POOL));

	close(fd);
	EXPECT_TRUE(pool_has(POOL - NR_FOLIOS, 0, NR_FOLIOS));

	/* The host maps single pages only. */
	EXPECT_EQ(variant->page_shift == 12 ? 0 : EOPNOTSUPP,
		  create_errno(g->vm, g->page_size, g->flags |
			       GUEST_MEMFD_FLAG_INIT_SHARED));
}

struct populate_arg {
	struct gmem *g;
	int fd;
	int error;
};

static void *populate_thread(void *arg)
{
	struct populate_arg *p = arg;

	p->error = gmem_populate(p->g, p->fd, 0, NR_FOLIOS);
	return NULL;
}

/* A file keeps the module, whatever else is gone, and nothing else does. */
TEST_F_TIMEOUT(alloc, module_lifetime, TIMEOUT)
{
	struct populate_arg arg = { .g = &self->g, .fd = self->fd };
	struct gmem *g = &self->g;
	pthread_t thread;

	EXPECT_EQ(EWOULDBLOCK, unload_module());

	/* A file that could not be created */
	EXPECT_EQ(ENOMEM, gmem_create_errno(g, POOL));
	EXPECT_EQ(EINVAL, create_errno(g->vm, 1, g->flags));
	EXPECT_EQ(EINVAL, create_errno(g->vm, g->page_size,
				       g->flags | BIT_ULL(61)));

	/* The VM goes first, then the file is closed by all but a system call. */
	ASSERT_TRUE(set_param("hold", 1));
	pthread_create(&thread, NULL, populate_thread, &arg);
	ASSERT_TRUE(wait_param("held", 1));
	gmem_free_vm(g);
	EXPECT_EQ(EWOULDBLOCK, unload_module());
	close(self->fd);
	self->fd = -1;
	EXPECT_EQ(EWOULDBLOCK, unload_module());
	EXPECT_TRUE(pool_has(POOL - 1, 0, NR_FOLIOS));
	ASSERT_TRUE(set_param("held", 0));
	pthread_join(thread, NULL);
	EXPECT_EQ(0, arg.error);
	EXPECT_TRUE(wait_param("promised", 0));
	EXPECT_TRUE(pool_has(POOL, 0, 0));
	ASSERT_EQ(0, unload_module_soon());
	self->loaded = false;

	/* The flag is unknown now, and known again if the module comes back. */
	g->vm = vm_create_barebones();
	EXPECT_EQ(EINVAL, gmem_create_errno(g, NR_FOLIOS));
	self->loaded = load_module(variant->page_shift - 12);
	ASSERT_TRUE(self->loaded);
	EXPECT_EQ(0, gmem_create_errno(g, NR_FOLIOS));
}

static int nr_alarms;

/* At the third one, have the allocator give the page out. */
static void on_alarm(int sig)
{
	WRITE_ONCE(nr_alarms, nr_alarms + 1);
	if (nr_alarms == 3)
		set_param("again", 0);
}

static void interrupt_soon(void)
{
	const struct itimerval soon = {
		.it_value.tv_usec = 100000,
		.it_interval.tv_usec = 100000,
	};
	struct sigaction sa = { .sa_handler = on_alarm };

	nr_alarms = 0;
	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &soon, NULL);
}

static void interrupt_no_more(void)
{
	const struct itimerval never = {};

	setitimer(ITIMER_REAL, &never, NULL);
	signal(SIGALRM, SIG_DFL);
}

/* The host's fault for a page that is still in use waits, but not against SIGKILL. */
TEST_F_TIMEOUT(alloc, host_fault, TIMEOUT)
{
	struct gmem *g = &self->g;
	int i, r, status, fd, sink;
	pid_t pid;
	char *p;

	if (variant->page_shift != 12)
		SKIP(return, "the host maps single pages only");

	fd = vm_create_guest_memfd(g->vm, 2 * SZ_4K, g->flags |
				   GUEST_MEMFD_FLAG_INIT_SHARED);
	p = kvm_mmap(2 * SZ_4K, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	sink = memfd_create("sink", 0);
	ASSERT_LE(0, sink);

	/* The kernel faults. */
	for (i = 0; i < 2; i++) {
		ASSERT_TRUE(set_param(i ? "again" : "hold", i ? FOREVER : 1));
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			(void)!write(sink, p, 1);
			_exit(1);
		}
		/* There is nothing to tell that it asks again and again. */
		ASSERT_TRUE(i || wait_param("held", 1));
		usleep(200000);
		kill(pid, SIGKILL);
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		EXPECT_TRUE(WIFSIGNALED(status));
		EXPECT_EQ(SIGKILL, WTERMSIG(status));
		ASSERT_TRUE(set_param("again", 0));
	}

	/*
	 * The page comes once it can, signals or not.  A kernel that gets no CPU for most
	 * of the second that it waits gives up.
	 */
	for (i = 0; i < 10; i++) {
		ASSERT_TRUE(set_param("again", 50));
		interrupt_soon();
		r = write(sink, p, 1);
		interrupt_no_more();
		if (r != -1 || errno != EFAULT)
			break;
	}
	EXPECT_EQ(1, r);
	EXPECT_EQ(0, get_param("again"));
	ASSERT_EQ(0, gmem_punch(g, fd, 0, 1));

	/* Userspace faults: signals are dealt with meanwhile. */
	ASSERT_TRUE(set_param("again", FOREVER));
	interrupt_soon();
	WRITE_ONCE(*p, 1);
	interrupt_no_more();
	EXPECT_LE(3, nr_alarms);
	EXPECT_EQ(1, *p);

	/* No memory: that is no reason to try for ever. */
	ASSERT_TRUE(set_param("fail", 1));
	TEST_EXPECT_SIGBUS(WRITE_ONCE(p[SZ_4K], 1));
	EXPECT_EQ(0, get_param("fail"));
	WRITE_ONCE(p[SZ_4K], 2);
	EXPECT_EQ(2, p[SZ_4K]);

	munmap(p, 2 * SZ_4K);
	close(sink);
	close(fd);
}

/* A page that has left its file while it is in a pipe, too, which free() is told */
TEST_F_TIMEOUT(alloc, lingering_user, TIMEOUT)
{
	struct iovec iov = { .iov_len = SZ_4K };
	struct gmem *g = &self->g;
	int i, rest, fd, pipefd[2];
	char *p, c;

	if (variant->page_shift != 12)
		SKIP(return, "the host maps single pages only");

	/* The rest of the pool, so that there is no other page to take instead */
	ASSERT_EQ(0, gmem_populate(g, self->fd, 0, NR_FOLIOS));
	rest = gmem_create(g, POOL - NR_FOLIOS - 1);
	ASSERT_EQ(0, gmem_populate(g, rest, 0, POOL - NR_FOLIOS - 1));

	fd = vm_create_guest_memfd(g->vm, SZ_4K, g->flags |
				   GUEST_MEMFD_FLAG_INIT_SHARED);
	p = kvm_mmap(SZ_4K, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	iov.iov_base = p;

	for (i = 0; i < 2; i++) {
		EXPECT_EQ(0, *p);
		*p = 42;
		ASSERT_EQ(0, pipe(pipefd));
		ASSERT_EQ(SZ_4K, vmsplice(pipefd[1], &iov, 1, 0));
		if (!i) {
			ASSERT_EQ(0, gmem_punch(g, fd, 0, 1));
			EXPECT_TRUE(pool_has(0, 1, POOL));
			EXPECT_STREQ("4", gmem_fdinfo(fd, "gmem-awaited"));
			EXPECT_STREQ("0", gmem_fdinfo(fd, "gmem-reserved"));
			EXPECT_STREQ("0", gmem_fdinfo(fd, "gmem-allocated"));
			interrupt_soon();
			EXPECT_EQ(EINTR, gmem_populate(g, fd, 0, 1));
			interrupt_no_more();
		} else {
			/* The file goes, and its reservation with it. */
			munmap(p, SZ_4K);
			close(fd);
			EXPECT_TRUE(pool_has(0, 1, POOL - 1));
			/* What may not come back for long is not promised. */
			EXPECT_EQ(ENOMEM, gmem_create_errno(g, 1));
		}

		/* What is read is what was there, and then the page is back. */
		ASSERT_EQ(1, read(pipefd[0], &c, 1));
		EXPECT_EQ(42, c);
		close(pipefd[0]);
		close(pipefd[1]);
		EXPECT_TRUE(pool_has(1, 0, POOL - i));
		if (!i) {
			EXPECT_STREQ("0", gmem_fdinfo(fd, "gmem-awaited"));
			EXPECT_STREQ("4", gmem_fdinfo(fd, "gmem-reserved"));
			EXPECT_EQ(0, gmem_populate(g, fd, 0, 1));
		}
	}
	close(rest);
}

TEST_HARNESS_MAIN
