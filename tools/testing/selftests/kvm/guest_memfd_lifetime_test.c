// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of what holds the memory of a guest_memfd file and for how long, and of
 * what becomes of it when populating is interrupted, killed, raced for or fails.
 *
 * The counters of the HugeTLB pool, global and per node, must be exact at each
 * step.  Pages of 4K have no pool: there the number of pages in the page cache
 * tells, roughly, because others use that too.
 *
 * The program is also a process that is told what to do with a file that it has
 * inherited (--serve), and one that holds a file or the path of a closed one
 * (--hold SECONDS, --hold-path SECONDS).
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
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/sizes.h>

#include "guest_memfd_util.h"
#include "kvm_util.h"
#include "kvm_test_harness.h"
#include "test_util.h"

#define NR_CHILDREN	4
/* Seconds.  A debug kernel on an emulated CPU takes its time. */
#define TIMEOUT		1200

struct child {
	pid_t pid;
	int to;
	int from;
};

FIXTURE(life)
{
	struct gmem g;
	struct child child[NR_CHILDREN];
	long file_pages;	/* of the whole system, before */
	const char *trace;
	bool injecting;
};

#define life_data FIXTURE_DATA(life)

FIXTURE_VARIANT(life)
{
	unsigned int page_shift;
	unsigned int vm_type;
	long nr;		/* pages of a file */
	long nr_populated;	/* of those, from the beginning */
	long nr_large;		/* pages of a file that takes long to populate */
};

/* Pages of 1G are reserved only, by most tests: each takes seconds to clear. */
FIXTURE_VARIANT_ADD(life, sw_protected_4k)
{
	.page_shift = 12, .vm_type = KVM_X86_SW_PROTECTED_VM,
	.nr = 2048, .nr_populated = 1536, .nr_large = 8192,
};

FIXTURE_VARIANT_ADD(life, sw_protected_2m)
{
	.page_shift = 21, .vm_type = KVM_X86_SW_PROTECTED_VM,
	.nr = 4, .nr_populated = 3, .nr_large = 24,
};

FIXTURE_VARIANT_ADD(life, sw_protected_1g)
{
	.page_shift = 30, .vm_type = KVM_X86_SW_PROTECTED_VM,
	.nr = 1,
};

FIXTURE_VARIANT_ADD(life, default_4k)
{
	.page_shift = 12, .vm_type = KVM_X86_DEFAULT_VM,
	.nr = 2048, .nr_populated = 1536, .nr_large = 8192,
};

FIXTURE_VARIANT_ADD(life, default_2m)
{
	.page_shift = 21, .vm_type = KVM_X86_DEFAULT_VM,
	.nr = 4, .nr_populated = 3, .nr_large = 24,
};

FIXTURE_VARIANT_ADD(life, default_1g)
{
	.page_shift = 30, .vm_type = KVM_X86_DEFAULT_VM,
	.nr = 1,
};

/*
 * What is held
 */

static long read_file_pages(void)
{
	long value = -1;
	char line[128];
	FILE *f;

	/* Have the counters of each CPU added up. */
	f = fopen("/proc/sys/vm/stat_refresh", "r");
	if (f) {
		(void)!fgets(line, sizeof(line), f);
		fclose(f);
	}

	f = fopen("/proc/vmstat", "r");
	TEST_ASSERT(f, "cannot read /proc/vmstat");
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "nr_file_pages %ld", &value) == 1)
			break;
	fclose(f);
	return value;
}

#define EXPECT_VMS(want) do {						\
	int __nr = gmem_nr_vms();					\
									\
	if (__nr >= 0)							\
		EXPECT_EQ(want, __nr);					\
} while (0)

/* That many pages are allocated, and as many more are reserved. */
static bool held(life_data *self, long allocated, long reserved)
{
	long pages;

	if (self->g.page_size > SZ_4K)
		return gmem_held(&self->g, allocated, reserved);

	/* A quarter of the pages of a file is for other users. */
	pages = read_file_pages() - self->file_pages;
	if (labs(pages - allocated) <= 512)
		return true;
	ksft_print_msg("%ld more pages in the page cache, not %ld\n", pages,
		       allocated);
	return false;
}

#define EXPECT_HELD(allocated, reserved) \
	EXPECT_TRUE(held(self, allocated, reserved))

/*
 * Populate one more page of a file, as a process may that has it.  Returns the
 * error, -1 if the file is not what it should be.
 */
static int use_file(struct gmem *g, int fd, long nr, long nr_populated)
{
	struct stat st;
	int r;

	if (fstat(fd, &st))
		return errno;
	if (st.st_size != (off_t)(nr * g->page_size) ||
	    st.st_blksize != (blksize_t)g->page_size ||
	    gmem_nr_allocated(g, fd) != nr_populated)
		return -1;
	if (!nr_populated)
		return 0;
	r = gmem_populate(g, fd, nr_populated, 1);
	if (r)
		return r;
	return gmem_nr_allocated(g, fd) == nr_populated + 1 ? 0 : -1;
}

/*
 * Other processes
 */

enum order {
	CMD_USE,	/* use_file(), argument: pages populated */
	CMD_CLOSE,
	CMD_EXEC,	/* become another program, which serves on */
};

struct message {
	enum order order;
	long arg;
};

static void send_fd(int sock, int fd)
{
	char control[CMSG_SPACE(sizeof(fd))] = {};
	char byte = 0;
	struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(cmsg), &fd, sizeof(fd));
	TEST_ASSERT(sendmsg(sock, &msg, 0) == 1, "sendmsg failed");
}

static void exec_server(struct gmem *g, int fd, long nr, int in, int out)
{
	char arg[5][32];

	snprintf(arg[0], sizeof(arg[0]), "%d", fd);
	snprintf(arg[1], sizeof(arg[1]), "%zu", g->page_size);
	snprintf(arg[2], sizeof(arg[2]), "%ld", nr);
	snprintf(arg[3], sizeof(arg[3]), "%d", in);
	snprintf(arg[4], sizeof(arg[4]), "%d", out);
	execl("/proc/self/exe", "guest_memfd_lifetime_test", "--serve", arg[0],
	      arg[1], arg[2], arg[3], arg[4], NULL);
}

/* Carry out commands, answer each with an error or 0, until @in is closed. */
static void serve(struct gmem *g, int fd, long nr, int in, int out)
{
	struct message m;
	int r;

	while (read(in, &m, sizeof(m)) == sizeof(m)) {
		r = 0;
		switch (m.order) {
		case CMD_USE:
			r = use_file(g, fd, nr, m.arg);
			break;
		case CMD_CLOSE:
			r = close(fd) ? errno : 0;
			break;
		case CMD_EXEC:
			/* The new program answers. */
			exec_server(g, fd, nr, in, out);
			r = errno;
			break;
		}
		if (write(out, &r, sizeof(r)) != sizeof(r))
			break;
	}
	_exit(0);
}

/* Fork; the child gets 0 and two pipes, and ends with this process. */
static pid_t fork_child(life_data *self, struct child **childp, int *in, int *out)
{
	int to[2], from[2], i;
	struct child *c;
	pid_t pid;

	for (i = 0; i < NR_CHILDREN && self->child[i].pid; i++)
		;
	TEST_ASSERT(i < NR_CHILDREN, "too many children");
	c = &self->child[i];

	TEST_ASSERT(!pipe(to) && !pipe(from), "pipe failed");
	pid = fork();
	TEST_ASSERT(pid >= 0, "fork failed");
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		/* Pipes are to end with the parent's descriptors. */
		for (i = 0; i < NR_CHILDREN; i++) {
			if (self->child[i].pid) {
				close(self->child[i].to);
				close(self->child[i].from);
			}
		}
		close(to[1]);
		close(from[0]);
		*in = to[0];
		*out = from[1];
		return 0;
	}

	close(to[0]);
	close(from[1]);
	*c = (struct child) { .pid = pid, .to = to[1], .from = from[0] };
	*childp = c;
	return pid;
}

static struct child *start_server(life_data *self, int fd, long nr)
{
	struct child *c;
	int in, out;

	if (!fork_child(self, &c, &in, &out))
		serve(&self->g, fd, nr, in, out);
	return c;
}

/* The answer to a request, -1 also if the child is gone. */
static int tell(struct child *c, enum order what, long arg)
{
	struct message m = { .order = what, .arg = arg };
	int r;

	if (write(c->to, &m, sizeof(m)) != sizeof(m) ||
	    read(c->from, &r, sizeof(r)) != sizeof(r))
		return -1;
	return r;
}

/* Wait for a child to end by itself; its wait status. */
static int end_child(struct child *c)
{
	int status = -1;

	close(c->to);
	waitpid(c->pid, &status, 0);
	close(c->from);
	c->pid = 0;
	return status;
}

static int kill_child(struct child *c)
{
	kill(c->pid, SIGKILL);
	return end_child(c);
}

FIXTURE_SETUP(life)
{
	const char *reason;

	reason = gmem_setup(&self->g, variant->page_shift, variant->vm_type,
			    variant->nr);
	if (reason)
		SKIP(return, "%s", reason);

	self->file_pages = read_file_pages();
	if (gmem_nr_vms() < 0)
		ksft_print_msg("no debugfs to tell whether a VM still exists\n");
	EXPECT_VMS(1);
}

FIXTURE_TEARDOWN(life)
{
	int i;

	if (self->injecting)
		EXPECT_TRUE(faults_restore());
	gmem_trace_stop(self->trace);
	for (i = 0; i < NR_CHILDREN; i++)
		if (self->child[i].pid)
			kill_child(&self->child[i]);
	gmem_free_vm(&self->g);
	if (self->g.hva)
		EXPECT_HELD(0, 0);
}

/* A file of the variant's size, populated as it says. */
#define OPEN_FILE() ({							\
	int __fd = gmem_create(&self->g, variant->nr);			\
									\
	EXPECT_HELD(0, variant->nr);					\
	if (variant->nr_populated)					\
		ASSERT_EQ(0, gmem_populate(&self->g, __fd, 0,		\
					   variant->nr_populated));	\
	EXPECT_HELD(variant->nr_populated,				\
		    variant->nr - variant->nr_populated);		\
	__fd;								\
})

/* What is held when use_file() has populated @more pages. */
#define EXPECT_FILE_HELD(more) do {					\
	long __nr = variant->nr_populated;				\
									\
	__nr += __nr ? (more) : 0;					\
	EXPECT_HELD(__nr, variant->nr - __nr);				\
} while (0)

/* The guest has touched the pages that are populated. */
static void bind_and_touch(life_data *self, int fd, long nr, long nr_populated)
{
	gmem_bind(&self->g, fd, nr);
	if (nr_populated)
		run_cmd(&self->g, 0, OP_TOUCH, 0,
			nr_populated * self->g.page_size, 1);
}

/*
 * The holders of a file
 */

/* A process that has inherited it, and nothing else of KVM */
TEST_F_TIMEOUT(life, exec, TIMEOUT)
{
	struct child *c;
	int fd;

	fd = OPEN_FILE();
	c = start_server(self, fd, variant->nr);
	ASSERT_EQ(0, tell(c, CMD_EXEC, 0));
	EXPECT_FILE_HELD(0);

	close(fd);
	gmem_free_vm(&self->g);
	EXPECT_FILE_HELD(0);
	/* It has not inherited the VM, its file has it. */
	EXPECT_VMS(1);

	EXPECT_EQ(0, tell(c, CMD_USE, variant->nr_populated));
	EXPECT_FILE_HELD(1);
	EXPECT_EQ(0, tell(c, CMD_CLOSE, 0));
	EXPECT_HELD(0, 0);
	EXPECT_VMS(0);
	EXPECT_EQ(0, end_child(c));
}

/*
 * A socket in flight in itself, with the file: it is the garbage collector that
 * releases the file, in a kernel thread, and the VM with it.
 */
TEST_F_TIMEOUT(life, in_flight, TIMEOUT)
{
	struct pool_count now;
	int fd, sock[2], i;

	if (variant->page_shift == 12)
		SKIP(return, "needs a pool to tell when it is collected");
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, sock))
		SKIP(return, "no Unix sockets");

	fd = OPEN_FILE();
	bind_and_touch(self, fd, variant->nr, variant->nr_populated);
	send_fd(sock[0], fd);
	send_fd(sock[0], sock[1]);
	send_fd(sock[1], sock[0]);
	close(fd);
	gmem_free_vm(&self->g);
	EXPECT_FILE_HELD(0);
	EXPECT_VMS(1);
	close(sock[0]);
	close(sock[1]);

	/* Collecting is deferred; closing another socket sets it off. */
	for (i = 0; i < 300; i++) {
		read_pool(self->g.page_size, &now);
		if (!memcmp(&now, &self->g.before, sizeof(now)) && gmem_nr_vms() <= 0)
			break;
		ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sock));
		close(sock[0]);
		close(sock[1]);
		usleep(100000);
	}
	EXPECT_HELD(0, 0);
	EXPECT_VMS(0);
}

TEST_F_TIMEOUT(life, killed, TIMEOUT)
{
	struct child *c;
	int fd;

	fd = OPEN_FILE();
	c = start_server(self, fd, variant->nr);
	close(fd);
	EXPECT_EQ(0, tell(c, CMD_USE, variant->nr_populated));
	EXPECT_FILE_HELD(1);
	EXPECT_EQ(SIGKILL, kill_child(c));
	EXPECT_HELD(0, 0);
}

/* A path to the file, without the file: its memory stays, its VM goes. */
TEST_F_TIMEOUT(life, o_path, TIMEOUT)
{
	int fd, path_fd;
	struct stat st;
	char path[64];

	fd = OPEN_FILE();
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	EXPECT_EQ(-1, open(path, O_RDWR));
	EXPECT_EQ(ENXIO, errno);
	path_fd = open(path, O_PATH);
	ASSERT_LE(0, path_fd);

	close(fd);
	gmem_free_vm(&self->g);
	EXPECT_FILE_HELD(0);
	EXPECT_VMS(0);
	ASSERT_EQ(0, fstat(path_fd, &st));
	EXPECT_EQ(variant->nr * self->g.page_size, st.st_size);
	EXPECT_EQ(EBADF, gmem_populate(&self->g, path_fd, 0, 1));

	close(path_fd);
	EXPECT_HELD(0, 0);
}

/* Mappings hold the file, each part of them and those of other processes. */
TEST_F_TIMEOUT(life, mapping, TIMEOUT)
{
	const size_t size = variant->nr * self->g.page_size;
	struct child *c;
	char *p;
	int fd;

	if (self->g.private)
		SKIP(return, "files of this VM cannot be mapped");

	fd = OPEN_FILE();
	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, p);
	close(fd);
	EXPECT_FILE_HELD(0);
	gmem_free_vm(&self->g);
	EXPECT_FILE_HELD(0);
	EXPECT_VMS(1);

	ASSERT_EQ(0, munmap(p, size / 2));
	EXPECT_FILE_HELD(0);

	c = start_server(self, -1, variant->nr);
	ASSERT_EQ(0, munmap(p + size / 2, size / 2));
	EXPECT_FILE_HELD(0);
	EXPECT_VMS(1);

	EXPECT_EQ(0, end_child(c));
	EXPECT_HELD(0, 0);
	EXPECT_VMS(0);
}

TEST_F_TIMEOUT(life, close_file_first, TIMEOUT)
{
	int fd;

	fd = OPEN_FILE();
	bind_and_touch(self, fd, variant->nr, variant->nr_populated);
	EXPECT_FILE_HELD(0);
	close(fd);
	EXPECT_HELD(0, 0);
	EXPECT_VMS(1);

	/* There is no memory for the guest any more. */
	EXPECT_EQ(EFAULT, gmem_touch(&self->g, 0));
	EXPECT_EQ(KVM_EXIT_MEMORY_FAULT, self->g.vcpu[0]->run->exit_reason);

	gmem_free_vm(&self->g);
	EXPECT_HELD(0, 0);
	EXPECT_VMS(0);
}

TEST_F_TIMEOUT(life, close_vm_first, TIMEOUT)
{
	int fd;

	fd = OPEN_FILE();
	bind_and_touch(self, fd, variant->nr, variant->nr_populated);
	gmem_free_vm(&self->g);
	EXPECT_FILE_HELD(0);
	EXPECT_VMS(1);

	/* It remains a file that works, also where the dead VM has it mapped. */
	EXPECT_EQ(0, use_file(&self->g, fd, variant->nr,
			      variant->nr_populated));
	EXPECT_FILE_HELD(1);
	EXPECT_EQ(0, gmem_punch(&self->g, fd, 0, variant->nr));
	EXPECT_HELD(0, variant->nr);
	if (variant->nr_populated) {
		EXPECT_EQ(0, gmem_populate(&self->g, fd, 0,
					   variant->nr_populated));
		EXPECT_FILE_HELD(0);
	}

	close(fd);
	EXPECT_HELD(0, 0);
	EXPECT_VMS(0);
}

/* A vCPU keeps the VM, not the memory. */
TEST_F_TIMEOUT(life, close_vcpu_last, TIMEOUT)
{
	int fd, vcpu_fd;

	fd = OPEN_FILE();
	bind_and_touch(self, fd, variant->nr, variant->nr_populated);
	vcpu_fd = dup(self->g.vcpu[0]->fd);
	ASSERT_LE(0, vcpu_fd);
	gmem_free_vm(&self->g);
	EXPECT_FILE_HELD(0);
	EXPECT_VMS(1);
	close(fd);
	EXPECT_HELD(0, 0);
	EXPECT_VMS(1);
	close(vcpu_fd);
	EXPECT_VMS(0);
}

/* Nor does a memslot keep the memory, or unbinding lose it. */
TEST_F_TIMEOUT(life, unbind, TIMEOUT)
{
	int fd;

	fd = OPEN_FILE();
	bind_and_touch(self, fd, variant->nr, variant->nr_populated);
	gmem_unbind(&self->g);
	EXPECT_FILE_HELD(0);
	close(fd);
	EXPECT_HELD(0, 0);
}

/*
 * Races for the last pages of the pool
 */

struct race {
	struct gmem *g;
	unsigned int arrived;
	bool stop;
};

struct racer {
	struct race *race;
	long nr;		/* pages of the file */
	int error;		/* of creating it, 0 if it was created */
	int populate_error;
};

#define PARTIES 3	/* two that race and one that looks on */

/* Spin, so that all of them go on at the same moment. */
static void meet(struct race *race, unsigned int *phase)
{
	*phase += PARTIES;
	__atomic_fetch_add(&race->arrived, 1, __ATOMIC_SEQ_CST);
	while ((int)(__atomic_load_n(&race->arrived, __ATOMIC_SEQ_CST) - *phase) < 0)
		sched_yield();
}

static void *race_thread(void *p)
{
	struct racer *racer = p;
	struct race *race = racer->race;
	struct gmem *g = race->g;
	unsigned int phase = 0;
	int fd;

	for (;;) {
		meet(race, &phase);
		if (READ_ONCE(race->stop))
			return NULL;
		fd = __vm_create_guest_memfd(g->vm, racer->nr * g->page_size,
					     g->flags);
		racer->error = fd < 0 ? errno : 0;
		meet(race, &phase);
		/* The counters of creation are looked at here. */
		meet(race, &phase);
		if (fd >= 0 && g->page_size < SZ_1G)
			racer->populate_error = gmem_populate(g, fd, 0, racer->nr);
		meet(race, &phase);
		/* And those of populating. */
		meet(race, &phase);
		if (fd >= 0)
			close(fd);
		meet(race, &phase);
	}
}

/* Two threads create files at once, of @nr pages each; @left pages are free. */
static void race(struct __test_metadata *_metadata, life_data *self, long nr,
		 long left)
{
	const int rounds = self->g.page_size == SZ_1G ? 20 : 100;
	const bool both = left >= 2 * nr;
	long filled = self->g.avail - left, allocated, winners;
	struct race race = { .g = &self->g };
	struct racer racer[2];
	unsigned int phase = 0;
	int filler = -1, i, won[2] = {};
	pthread_t thread[2];

	if (filled)
		filler = gmem_create(&self->g, filled);

	for (i = 0; i < 2; i++) {
		racer[i] = (struct racer) { .race = &race, .nr = nr };
		pthread_create(&thread[i], NULL, race_thread, &racer[i]);
	}

	for (i = 0; i < rounds; i++) {
		meet(&race, &phase);	/* create */
		meet(&race, &phase);
		winners = !racer[0].error + !racer[1].error;
		EXPECT_EQ(both ? 2 : 1, winners);
		if (!both && winners == 1)
			EXPECT_EQ(ENOMEM, racer[0].error ?: racer[1].error);
		won[0] += !racer[0].error;
		won[1] += !racer[1].error;
		EXPECT_HELD(0, filled + winners * nr);

		meet(&race, &phase);	/* populate */
		meet(&race, &phase);
		EXPECT_EQ(0, racer[0].populate_error);
		EXPECT_EQ(0, racer[1].populate_error);
		allocated = self->g.page_size < SZ_1G ? winners * nr : 0;
		EXPECT_HELD(allocated, filled + winners * nr - allocated);

		meet(&race, &phase);	/* close */
		meet(&race, &phase);
		EXPECT_HELD(0, filled);
	}
	WRITE_ONCE(race.stop, true);
	meet(&race, &phase);

	for (i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	if (filler >= 0)
		close(filler);
	EXPECT_HELD(0, 0);
	ksft_print_msg("won: %d and %d of %d\n", won[0], won[1], rounds);
}

TEST_F_TIMEOUT(life, race, TIMEOUT)
{
	if (variant->page_shift == 12)
		SKIP(return, "4K pages are not reserved");

	race(_metadata, self, 1, 1);
	if (self->g.avail >= 3)
		race(_metadata, self, 2, 3);
	if (self->g.avail >= 4)
		race(_metadata, self, 2, 4);
}

/*
 * Populating, interrupted
 */

static int nr_signals;

static void count_signal(int sig)
{
	WRITE_ONCE(nr_signals, nr_signals + 1);
}

static void set_timer(long first_us, long interval_us)
{
	struct itimerval timer = {
		.it_value = { first_us / 1000000, first_us % 1000000 },
		.it_interval = { interval_us / 1000000, interval_us % 1000000 },
	};

	TEST_ASSERT(!setitimer(ITIMER_REAL, &timer, NULL), "setitimer failed");
}

static long now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

/* Pages of a large file; 0 if it cannot be. */
static long large_file(life_data *self, long nr)
{
	if (self->g.page_size > SZ_4K && nr > self->g.avail)
		nr = self->g.avail;
	return nr >= 4 ? nr : 0;
}

/* How long it takes to populate all of a file, in microseconds. */
static long time_to_populate(life_data *self, int fd, long nr)
{
	long start, us;

	TEST_ASSERT(!gmem_populate(&self->g, fd, 0, nr), "cannot populate");
	TEST_ASSERT(!gmem_punch(&self->g, fd, 0, nr), "cannot punch");
	start = now_us();
	TEST_ASSERT(!gmem_populate(&self->g, fd, 0, nr), "cannot populate");
	us = now_us() - start;
	TEST_ASSERT(!gmem_punch(&self->g, fd, 0, nr), "cannot punch");
	return us;
}

/*
 * A signal ends fallocate() with EINTR between two pages; it is never restarted,
 * SA_RESTART or not.  What is populated stays, and calling it again completes it.
 */
static void interrupt(struct __test_metadata *_metadata, life_data *self,
		      long nr, int sa_flags)
{
	struct sigaction old, sa = {
		.sa_handler = count_signal,
		.sa_flags = sa_flags,
	};
	int fd, k, r, partial = 0;
	long us, have;

	fd = gmem_create(&self->g, nr);
	us = time_to_populate(self, fd, nr);
	sigaction(SIGALRM, &sa, &old);

	for (k = 1; k <= 16; k++) {
		WRITE_ONCE(nr_signals, 0);
		set_timer(us * k / 16 + 1, 0);
		r = gmem_populate(&self->g, fd, 0, nr);
		/* Before the counters are read, let it come if it has not yet. */
		while (!READ_ONCE(nr_signals))
			usleep(100);
		EXPECT_EQ(1, nr_signals);

		have = gmem_nr_allocated(&self->g, fd);
		EXPECT_HELD(have, nr - have);
		if (r) {
			EXPECT_EQ(EINTR, r);
			EXPECT_LE(0, have);
			EXPECT_GT(nr, have);
			partial += have > 0;
		} else {
			EXPECT_EQ(nr, have);
		}

		EXPECT_EQ(0, gmem_populate(&self->g, fd, 0, nr));
		EXPECT_EQ(nr, gmem_nr_allocated(&self->g, fd));
		EXPECT_HELD(nr, 0);
		EXPECT_EQ(0, gmem_punch(&self->g, fd, 0, nr));
		EXPECT_HELD(0, nr);
	}
	ksft_print_msg("%d of 16 were interrupted halfway\n", partial);
	EXPECT_LT(0, partial);

	sigaction(SIGALRM, &old, NULL);
	close(fd);
	EXPECT_HELD(0, 0);
}

TEST_F_TIMEOUT(life, interrupted, TIMEOUT)
{
	long nr = large_file(self, variant->nr_large);

	if (!nr)
		SKIP(return, "1G takes too long, others want 4 free pages");

	interrupt(_metadata, self, nr, 0);
	interrupt(_metadata, self, nr, SA_RESTART);
}

/* Signals all the time: populating gets there nevertheless, page by page. */
TEST_F_TIMEOUT(life, interrupted_often, TIMEOUT)
{
	long nr = large_file(self, min_t(long, variant->nr_large, 1024)), have = 0, last;
	struct sigaction old, sa = { .sa_handler = count_signal };
	long start, interval;
	int fd, r, calls = 0;

	if (!nr)
		SKIP(return, "1G takes too long, others want 4 free pages");

	fd = gmem_create(&self->g, nr);
	/*
	 * Pages that are there are walked over again by each call, and signals
	 * arrive twice in that time.
	 */
	ASSERT_EQ(0, gmem_populate(&self->g, fd, 0, nr));
	start = now_us();
	ASSERT_EQ(0, gmem_populate(&self->g, fd, 0, nr));
	interval = 100 + (now_us() - start) / 2;
	ASSERT_EQ(0, gmem_punch(&self->g, fd, 0, nr));

	sigaction(SIGALRM, &sa, &old);
	WRITE_ONCE(nr_signals, 0);
	set_timer(interval, interval);
	do {
		r = gmem_populate(&self->g, fd, 0, nr);
		calls++;
		last = have;
		/* Neither does fstat() care about signals. */
		have = gmem_nr_allocated(&self->g, fd);
		ASSERT_LT(last, have);
	} while (r == EINTR);
	set_timer(0, 0);
	sigaction(SIGALRM, &old, NULL);

	EXPECT_EQ(0, r);
	EXPECT_EQ(nr, have);
	EXPECT_LT(0, nr_signals);
	EXPECT_LT(1, calls);
	EXPECT_HELD(nr, 0);
	ksft_print_msg("%ld pages, %d calls, a signal each %ld us\n", nr, calls,
		       interval);
	close(fd);
	EXPECT_HELD(0, 0);
}

struct work {
	struct gmem *g;
	int fd;
	long first;
	long nr;
	int error;
	bool done;
};

static void *populate_thread(void *arg)
{
	struct work *w = arg;

	w->error = gmem_populate(w->g, w->fd, w->first, w->nr);
	WRITE_ONCE(w->done, true);
	return NULL;
}

/* Populate all of a file of one's own again and again, with two threads. */
static void populate_forever(life_data *self, long nr, int out)
{
	struct work w = { .g = &self->g, .nr = nr };
	pthread_t thread;
	char byte = 0;

	/* A VM takes orders from the process that made it only. */
	self->g.vm = vm_create_barebones_type(self->g.private ?
					      KVM_X86_SW_PROTECTED_VM :
					      KVM_X86_DEFAULT_VM);
	w.fd = gmem_create(&self->g, nr);
	(void)!write(out, &byte, 1);
	for (;;) {
		pthread_create(&thread, NULL, populate_thread, &w);
		gmem_populate(&self->g, w.fd, 0, nr);
		pthread_join(thread, NULL);
		gmem_punch(&self->g, w.fd, 0, nr);
	}
}

/* A process is killed while it populates: nothing of its file remains. */
TEST_F_TIMEOUT(life, killed_populating, TIMEOUT)
{
	const bool huge = variant->page_shift == 30;
	long nr = huge ? 1 : large_file(self, variant->nr_large);
	int i, fd, in, out, rounds = huge ? 1 : 12;
	struct child *c;
	long us = 400000, start;
	char byte;

	if (!nr)
		SKIP(return, "needs 4 free pages");

	/* 1G takes a multiple of that. */
	if (!huge) {
		fd = gmem_create(&self->g, nr);
		us = time_to_populate(self, fd, nr);
		close(fd);
	}

	for (i = 0; i < rounds; i++) {
		if (!fork_child(self, &c, &in, &out))
			populate_forever(self, nr, out);
		ASSERT_EQ(1, read(c->from, &byte, 1));
		usleep(huge ? us : us * (i + 1) / 8);
		start = now_us();
		EXPECT_EQ(SIGKILL, kill_child(c));
		if (huge)
			ksft_print_msg("gone after %ld us\n", now_us() - start);
		EXPECT_HELD(0, 0);
	}
}

/* The same, but the file is not only that process's. */
TEST_F_TIMEOUT(life, killed_populating_shared, TIMEOUT)
{
	long nr = large_file(self, variant->nr_large), us, have;
	int i, fd, in, out, partial = 0;
	struct child *c;
	char byte = 0;

	if (!nr)
		SKIP(return, "1G takes too long, others want 4 free pages");

	fd = gmem_create(&self->g, nr);
	us = time_to_populate(self, fd, nr);

	for (i = 0; i < 12; i++) {
		if (!fork_child(self, &c, &in, &out)) {
			(void)!write(out, &byte, 1);
			gmem_populate(&self->g, fd, 0, nr);
			for (;;)
				pause();
		}
		ASSERT_EQ(1, read(c->from, &byte, 1));
		usleep(us * (i + 1) / 16);
		EXPECT_EQ(SIGKILL, kill_child(c));

		have = gmem_nr_allocated(&self->g, fd);
		partial += have > 0 && have < nr;
		EXPECT_HELD(have, nr - have);
		EXPECT_EQ(0, gmem_populate(&self->g, fd, 0, nr));
		EXPECT_HELD(nr, 0);
		EXPECT_EQ(0, gmem_punch(&self->g, fd, 0, nr));
	}
	ksft_print_msg("%d of 12 were killed halfway\n", partial);
	EXPECT_LT(0, partial);
	close(fd);
	EXPECT_HELD(0, 0);
}

/*
 * Populating, by several at once
 */

/* How many pages have been allocated since this was last asked */
static long count_trace(const char *dir)
{
	char path[128], line[256];
	long nr = 0;
	FILE *f;
	int fd;

	snprintf(path, sizeof(path), "%s/trace", dir);
	f = fopen(path, "r");
	TEST_ASSERT(f, "cannot read the trace");
	while (fgets(line, sizeof(line), f))
		nr += !!strstr(line, "guest_memfd_allocate: ");
	fclose(f);
	fd = open(path, O_WRONLY | O_TRUNC);
	TEST_ASSERT(fd >= 0, "cannot clear the trace");
	close(fd);
	return nr;
}

#define NR_THREADS 4

enum ranges { DISJOINT, OVERLAPPING, SAME, NONE, NR_RANGES };

/* Threads populate ranges of a file while all vCPUs fill it. */
static void parallel(struct __test_metadata *_metadata, life_data *self,
		     long nr, enum ranges ranges)
{
	const int rounds = 5, nr_threads = ranges == NONE ? 0 : NR_THREADS;
	pthread_t thread[NR_THREADS], vcpu[NR_VCPUS];
	struct work w[NR_THREADS];
	struct gmem *g = &self->g;
	long quarter;
	int fd, i, n;

	nr -= nr % NR_THREADS;
	quarter = nr / NR_THREADS;
	fd = gmem_create(g, nr);
	gmem_bind(g, fd, nr);

	for (i = 0; i < nr_threads; i++) {
		w[i] = (struct work) {
			.g = g,
			.fd = fd,
			.first = i * quarter,
			.nr = quarter,
		};
		if (ranges == SAME) {
			w[i].first = 0;
			w[i].nr = nr;
		} else if (ranges == OVERLAPPING) {
			/* Together with the next one's, the last ends there. */
			w[i].nr = min_t(long, 2 * quarter, nr - w[i].first);
		}
	}

	for (n = 0; n < rounds; n++) {
		set_cmd(g, OP_FILL, 0, nr * g->page_size, 2 * n + 1);
		for (i = 0; i < nr_threads; i++)
			pthread_create(&thread[i], NULL, populate_thread, &w[i]);
		for (i = 0; i < NR_VCPUS; i++)
			pthread_create(&vcpu[i], NULL, vcpu_thread, g->vcpu[i]);
		for (i = 0; i < nr_threads; i++) {
			pthread_join(thread[i], NULL);
			EXPECT_EQ(0, w[i].error);
		}
		/* That is all of the file, whatever the guest does. */
		if (nr_threads)
			EXPECT_EQ(nr, gmem_nr_allocated(g, fd));
		for (i = 0; i < NR_VCPUS; i++)
			pthread_join(vcpu[i], NULL);

		EXPECT_EQ(nr, gmem_nr_allocated(g, fd));
		EXPECT_HELD(nr, 0);
		/* No page was allocated in vain, to be thrown away again. */
		if (self->trace)
			EXPECT_EQ(nr, count_trace(self->trace));

		run_cmd(g, n % NR_VCPUS, OP_CHECK, 0, nr * g->page_size, 2 * n + 1);
		EXPECT_EQ(0, gmem_punch(g, fd, 0, nr));
		EXPECT_HELD(0, nr);
	}

	gmem_unbind(g);
	close(fd);
	EXPECT_HELD(0, 0);
}

TEST_F_TIMEOUT(life, parallel, TIMEOUT)
{
	long nr = large_file(self, min_t(long, variant->nr_large, 2048));
	enum ranges ranges;

	if (!nr)
		SKIP(return, "1G takes too long, others want 4 free pages");

	/* Pages of 4K are thrown away if another task was faster. */
	if (self->g.page_size > SZ_4K) {
		self->trace = gmem_trace_start("guest_memfd_lifetime_test");
		if (!self->trace)
			ksft_print_msg("no tracefs to count allocations\n");
	}
	for (ranges = 0; ranges < NR_RANGES; ranges++)
		parallel(_metadata, self, nr, ranges);
}

/* Wait until a page of the file is allocated that the file has not got. */
static bool wait_in_flight(struct gmem *g, int fd, const bool *done)
{
	while (!READ_ONCE(*done))
		if (atol(gmem_fdinfo(fd, "gmem-awaited")) == g->page_size >> 10)
			return true;
	return false;
}

struct touch {
	struct kvm_vcpu *vcpu;
	bool done;
};

static void *touch_thread(void *arg)
{
	struct touch *t = arg;

	vcpu_thread(t->vcpu);
	WRITE_ONCE(t->done, true);
	return NULL;
}

/*
 * A page that takes long to clear.  A task that wants the same page gets that one
 * or is interrupted by a signal, a task that wants another page does not wait.
 * Returns whether all of that was seen before the page was there.
 */
static bool page_in_flight(struct __test_metadata *_metadata, life_data *self,
			   int fd, bool guest)
{
	struct gmem *g = &self->g;
	struct work first = { .g = g, .fd = fd, .nr = 1 }, same = first;
	struct touch touch = { .vcpu = g->vcpu[1] };
	pthread_t thread[2];
	sigset_t alarm, old;
	bool seen;
	int r;

	/* Page 1 is there, but not mapped; page 0 is not there. */
	EXPECT_EQ(0, gmem_populate(g, fd, 1, 1));
	EXPECT_HELD(1, 1);

	/* Signals are for this thread. */
	sigemptyset(&alarm);
	sigaddset(&alarm, SIGALRM);
	pthread_sigmask(SIG_BLOCK, &alarm, &old);
	set_cmd(g, OP_TOUCH, 0, SZ_4K, 1);
	pthread_create(&thread[0], NULL, guest ? touch_thread : populate_thread,
		       guest ? (void *)&touch : &first);
	seen = wait_in_flight(g, fd, guest ? &touch.done : &first.done);
	pthread_create(&thread[1], NULL, populate_thread, &same);
	pthread_sigmask(SIG_SETMASK, &old, NULL);

	/* Another page, to map and to punch */
	EXPECT_EQ(0, gmem_touch(g, 1));
	EXPECT_EQ(0, gmem_punch(g, fd, 1, 1));
	/* A hole is punched whatever is on its way there. */
	if (seen)
		EXPECT_EQ(0, gmem_punch(g, fd, 0, 2));

	set_timer(5000, 5000);
	r = gmem_populate(g, fd, 0, 1);
	seen &= r == EINTR;
	if (r)
		EXPECT_EQ(EINTR, r);
	set_cmd(g, OP_TOUCH, 0, SZ_4K, 1);
	r = __vcpu_run(g->vcpu[0]) ? errno : 0;
	seen &= r == EINTR;
	if (r)
		EXPECT_EQ(EINTR, r);
	set_timer(0, 0);
	seen &= !READ_ONCE(*(guest ? &touch.done : &first.done));

	pthread_join(thread[0], NULL);
	pthread_join(thread[1], NULL);
	EXPECT_EQ(0, first.error);
	EXPECT_EQ(0, same.error);
	if (r)
		EXPECT_EQ(0, run_vcpu(g->vcpu[0]));
	/* One page, not two */
	EXPECT_EQ(1, gmem_nr_allocated(g, fd));
	EXPECT_HELD(1, 1);
	EXPECT_EQ(0, gmem_punch(g, fd, 0, 1));
	EXPECT_HELD(0, 2);
	return seen;
}

TEST_F_TIMEOUT(life, page_in_flight, TIMEOUT)
{
	struct sigaction old, sa = { .sa_handler = count_signal };
	int fd, i, guest;

	if (variant->page_shift != 30)
		SKIP(return, "only 1G takes long enough");
	if (self->g.avail < 2)
		SKIP(return, "needs 2 free pages");

	sigaction(SIGALRM, &sa, &old);
	fd = gmem_create(&self->g, 2);
	gmem_bind(&self->g, fd, 2);
	for (guest = 0; guest < 2; guest++) {
		for (i = 1; i <= 10; i++)
			if (page_in_flight(_metadata, self, fd, guest))
				break;
		ksft_print_msg("seen in round %d\n", i);
		EXPECT_GE(10, i);
	}
	close(fd);
	sigaction(SIGALRM, &old, NULL);
	EXPECT_HELD(0, 0);
}

/* Close the only descriptor while a thread populates through it. */
TEST_F_TIMEOUT(life, close_populating, TIMEOUT)
{
	long nr = large_file(self, variant->nr_large), us;
	struct work w = { .g = &self->g, .nr = nr };
	int i, early = 0;
	pthread_t thread;

	if (!nr)
		SKIP(return, "1G takes too long, others want 4 free pages");

	w.fd = gmem_create(&self->g, nr);
	us = time_to_populate(self, w.fd, nr);
	close(w.fd);

	for (i = 0; i < 10; i++) {
		w.fd = gmem_create(&self->g, nr);
		gmem_bind(&self->g, w.fd, nr);
		w.done = false;
		pthread_create(&thread, NULL, populate_thread, &w);
		usleep(us * (i + 1) / 16);
		EXPECT_EQ(0, close(w.fd));
		early += !READ_ONCE(w.done);
		pthread_join(thread, NULL);
		/* EBADF if the thread has not even begun. */
		if (w.error)
			EXPECT_EQ(EBADF, w.error);
		EXPECT_HELD(0, 0);
		gmem_unbind(&self->g);
	}
	ksft_print_msg("%d of 10 were closed meanwhile\n", early);
	EXPECT_LT(0, early);
}

static void *vcpu_until_closed(void *arg)
{
	struct kvm_vcpu *vcpu = arg;
	int r = run_vcpu(vcpu);

	if (r == EFAULT && vcpu->run->exit_reason != KVM_EXIT_MEMORY_FAULT)
		r = -1;
	return (void *)(long)r;
}

/* The same while the guest does. */
TEST_F_TIMEOUT(life, close_under_guest, TIMEOUT)
{
	long nr = large_file(self, variant->nr_large), us, result;
	int fd, i, faulted = 0;
	pthread_t thread;

	if (!nr)
		SKIP(return, "1G takes too long, others want 4 free pages");

	fd = gmem_create(&self->g, nr);
	us = time_to_populate(self, fd, nr);
	close(fd);
	for (i = 0; i < 10; i++) {
		fd = gmem_create(&self->g, nr);
		gmem_bind(&self->g, fd, nr);
		set_cmd(&self->g, OP_TOUCH, 0, nr * self->g.page_size, 1);
		pthread_create(&thread, NULL, vcpu_until_closed, self->g.vcpu[0]);
		usleep(us * (i + 1) / 16);
		close(fd);
		pthread_join(thread, (void **)&result);
		EXPECT_HELD(0, 0);
		gmem_unbind(&self->g);
		if (!result)
			continue;
		EXPECT_EQ(EFAULT, result);

		/* The access was not carried out: give it memory to end with. */
		faulted++;
		fd = gmem_create(&self->g, nr);
		gmem_bind(&self->g, fd, nr);
		EXPECT_EQ(0, run_vcpu(self->g.vcpu[0]));
		close(fd);
		EXPECT_HELD(0, 0);
		gmem_unbind(&self->g);
	}
	ksft_print_msg("%d of 10 met a file that was closed\n", faulted);
	EXPECT_LT(0, faulted);
}

/*
 * Errors
 */

enum operation { CREATE, POPULATE, TOUCH, BIND };

/*
 * The error of an operation, by the system calls alone: those of the library
 * make more of them.
 */
static int do_operation(life_data *self, enum operation op, int *fd, long nr)
{
	const struct kvm_userspace_memory_region2 region = {
		.slot = TEST_SLOT,
		.flags = KVM_MEM_GUEST_MEMFD,
		.guest_phys_addr = TEST_GPA,
		.memory_size = nr * self->g.page_size,
		.userspace_addr = (uintptr_t)self->g.hva,
		.guest_memfd = *fd,
	};

	switch (op) {
	case CREATE:
		*fd = __vm_create_guest_memfd(self->g.vm, nr * self->g.page_size,
					      self->g.flags);
		return *fd < 0 ? errno : 0;
	case POPULATE:
		return gmem_populate(&self->g, *fd, nr - 1, 1);
	case TOUCH:
		/* Nothing but KVM_RUN: what else the library does could fail, too. */
		set_cmd(&self->g, OP_TOUCH, (nr - 1) * self->g.page_size, SZ_4K, 1);
		return __vcpu_run(self->g.vcpu[0]) ? errno : 0;
	case BIND:
		return ioctl(self->g.vm->fd, KVM_SET_USER_MEMORY_REGION2,
			     &region) ? errno : 0;
	}
	return -1;
}

static void undo_operation(life_data *self, enum operation op, int fd, long nr)
{
	switch (op) {
	case CREATE:
		close(fd);
		break;
	case POPULATE:
	case TOUCH:
		TEST_ASSERT(!gmem_punch(&self->g, fd, nr - 1, 1), "cannot punch");
		break;
	case BIND:
		gmem_unbind(&self->g);
		break;
	}
}

/* Have each allocation of memory that an operation makes fail in turn, then all. */
static void inject(struct __test_metadata *_metadata, life_data *self,
		   enum operation op, int fd, long nr)
{
	const long reserved = op == CREATE ? 0 : nr;
	int fail_nth, fail_all, n, r, left, failed = 0, survived = 0;
	char text[32];

	fail_nth = open("/proc/thread-self/fail-nth", O_RDWR);
	fail_all = open("/proc/thread-self/make-it-fail", O_RDWR);
	if (fail_nth < 0 || fail_all < 0)
		SKIP(return, "needs CONFIG_FAULT_INJECTION");
	if (!faults_set_up(&self->injecting)) {
		close(fail_nth);
		close(fail_all);
		SKIP(return, "needs root, and the faults in " DEBUGFS);
	}

	/* What exists once and for all is allocated now. */
	ASSERT_EQ(0, do_operation(self, op, &fd, nr));
	undo_operation(self, op, fd, nr);
	EXPECT_HELD(0, reserved);

	for (n = 1; n < 1000; n++) {
		snprintf(text, sizeof(text), "%d", n);
		ASSERT_EQ(strlen(text), pwrite(fail_nth, text, strlen(text), 0));
		r = do_operation(self, op, &fd, nr);
		memset(text, 0, sizeof(text));
		ASSERT_LT(0, pread(fail_nth, text, sizeof(text) - 1, 0));
		left = atoi(text);
		ASSERT_EQ(1, pwrite(fail_nth, "0", 1, 0));

		if (r) {
			EXPECT_EQ(ENOMEM, r) {
				ksft_print_msg("when allocation %d failed\n", n);
			}
			EXPECT_EQ(0, left);
			failed++;
			if (op == POPULATE || op == TOUCH)
				EXPECT_EQ(0, gmem_nr_allocated(&self->g, fd));
		} else {
			undo_operation(self, op, fd, nr);
			survived++;
		}
		EXPECT_HELD(0, reserved);
		if (left)
			break;
	}
	EXPECT_GT(1000, n);

	/* Some are tried again with other flags, that takes more than one. */
	ASSERT_EQ(1, pwrite(fail_all, "1", 1, 0));
	r = do_operation(self, op, &fd, nr);
	ASSERT_EQ(1, pwrite(fail_all, "0", 1, 0));
	EXPECT_EQ(ENOMEM, r);
	EXPECT_HELD(0, reserved);
	if (!r)
		undo_operation(self, op, fd, nr);

	EXPECT_EQ(0, do_operation(self, op, &fd, nr));
	undo_operation(self, op, fd, nr);
	EXPECT_HELD(0, reserved);
	ksft_print_msg("%d allocations made it fail, %d did not\n", failed,
		       survived - 1);
	close(fail_nth);
	close(fail_all);
}

TEST_F_TIMEOUT(life, fail_create, TIMEOUT)
{
	inject(_metadata, self, CREATE, -1, variant->nr);
}

TEST_F_TIMEOUT(life, fail_populate, TIMEOUT)
{
	int fd;

	if (variant->page_shift == 30)
		SKIP(return, "1G takes too long");

	fd = gmem_create(&self->g, variant->nr);
	inject(_metadata, self, POPULATE, fd, variant->nr);
	close(fd);
}

/* The guest tries the same access again. */
TEST_F_TIMEOUT(life, fail_touch, TIMEOUT)
{
	int fd;

	if (variant->page_shift == 30)
		SKIP(return, "1G takes too long");

	fd = gmem_create(&self->g, variant->nr);
	gmem_bind(&self->g, fd, variant->nr);
	inject(_metadata, self, TOUCH, fd, variant->nr);
	close(fd);
}

TEST_F_TIMEOUT(life, fail_bind, TIMEOUT)
{
	int fd;

	fd = gmem_create(&self->g, variant->nr);
	inject(_metadata, self, BIND, fd, variant->nr);
	close(fd);
}

/* A file of 2 pages of 2M is all that keeps KVM busy, or a path to it. */
static int hold(unsigned int seconds, bool path_only)
{
	struct gmem g = {
		.vm = vm_create_barebones(),
		.page_size = SZ_2M,
		.flags = hugetlb_flags(21),
	};
	char path[64];
	int fd;

	fd = gmem_create(&g, 2);
	if (gmem_populate(&g, fd, 0, 2))
		return 1;
	gmem_free_vm(&g);
	if (path_only) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		if (open(path, O_PATH) < 0)
			return 1;
		close(fd);
	}
	puts("held");
	fflush(stdout);
	sleep(seconds);
	return 0;
}

int main(int argc, char **argv)
{
	int out, r = 0;

	if (argc == 3 && !strncmp(argv[1], "--hold", 6))
		return hold(atoi(argv[2]), !strcmp(argv[1], "--hold-path"));

	if (argc == 7 && !strcmp(argv[1], "--serve")) {
		struct gmem g = { .page_size = atol(argv[3]) };

		out = atoi(argv[6]);
		if (write(out, &r, sizeof(r)) != sizeof(r))
			return 1;
		serve(&g, atoi(argv[2]), atol(argv[4]), atoi(argv[5]), out);
	}

	return test_harness_run(argc, argv);
}
