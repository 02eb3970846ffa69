// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of who else has pages of a guest_memfd that converts in place: no way of the
 * host to memory leads to a page once it is private, and a page that is in use does
 * not become private.
 *
 * A way to memory (struct path) must work as long as the page is shared, must fail
 * once it is private, and is used by a thread while the page is converted to and fro.
 * Whenever the page is private, the guest has a secret in it.
 *
 * The numbers in front of tests are those of the corner cases of the design.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/falloc.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <linux/sizes.h>
#include <linux/tcp.h>
#include <linux/userfaultfd.h>

#include "guest_memfd_conversions.h"
#include "kvm_util.h"
#include "kvm_test_harness.h"
#include "processor.h"
#include "test_util.h"

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL	102
#define MADV_GUARD_REMOVE	103
#endif

/* Seconds.  A debug kernel on an emulated CPU takes its time. */
#define TIMEOUT		600
#define RACE_SECONDS	0.4

/* The page that all want, not the first of anything */
#define PAGE		70
#define SECRET		0x5ec0000000000001ULL
#define PUBLIC		0x1001ULL
#define SECRET_WORD	(P(PAGE) ^ SECRET)
#define PUBLIC_WORD	(P(PAGE) ^ PUBLIC)

FIXTURE(user)
{
	struct conv c;
};

FIXTURE_VARIANT(user)
{
	unsigned int page_shift;
};

FIXTURE_VARIANT_ADD(user, 4k) { .page_shift = 12 };
FIXTURE_VARIANT_ADD(user, 2m) { .page_shift = 21 };
FIXTURE_VARIANT_ADD(user, 1g) { .page_shift = 30 };

FIXTURE_SETUP(user)
{
	const char *why = conv_setup(&self->c, variant->page_shift, WINDOW, 0);

	if (why)
		SKIP(return, "%s", why);
}

FIXTURE_TEARDOWN(user)
{
	struct conv *c = &self->c;

	conv_free(c);
	if (c->g.hva)
		EXPECT_TRUE(pool_same_soon(c->g.page_size, &c->g.before));
}

/*
 * Ways to memory
 */

/* What a thread needs for its way to the page; not shared with other threads */
struct way {
	struct conv *c;
	char *page;		/* in the file's mapping */
	char *alias;		/* in a mapping of its own */
	int fd;
	int pair[2];
	pid_t child;
	int to_child[2];
	int from_child[2];
	struct uring ring;
	char *buf;
	long filled;
};

struct path {
	/* Why it cannot be tested, NULL if it can */
	const char *(*open)(struct way *w);
	void (*close)(struct way *w);
	/* 0 or an error number; *@value is what it read. */
	int (*read)(struct way *w, u64 *value);
	int (*write)(struct way *w, u64 value);
	/* What is read only says whether it is the secret. */
	bool opaque;
};

static const char *open_nothing(struct way *w)
{
	return NULL;
}

static void close_nothing(struct way *w)
{
}

static int result(long r, long want)
{
	return r == want ? 0 : r < 0 ? errno : EIO;
}

/* The page tables of this process */

static int ptes_read(struct way *w, u64 *value)
{
	return host_read(w->page, value);
}

static int ptes_write(struct way *w, u64 value)
{
	return host_write(w->page, value);
}

static const struct path ptes = { open_nothing, close_nothing, ptes_read, ptes_write };

/* A mapping of its own, which was moved */

static const char *alias_open(struct way *w)
{
	w->alias = mmap(NULL, SZ_4K, PROT_READ | PROT_WRITE, MAP_SHARED, w->c->fd, P(PAGE));
	return w->alias == MAP_FAILED ? "cannot map the file" : NULL;
}

static void alias_close(struct way *w)
{
	kvm_munmap(w->alias, SZ_4K);
}

static int moved_read(struct way *w, u64 *value)
{
	char *to = kvm_mmap(SZ_4K, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	w->alias = mremap(w->alias, SZ_4K, SZ_4K, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	TEST_ASSERT(w->alias == to, "mremap() failed");
	return host_read(w->alias, value);
}

static int alias_write(struct way *w, u64 value)
{
	return host_write(w->alias, value);
}

static const struct path moved = { alias_open, alias_close, moved_read, alias_write };

/* Its protection is changed all the time. */

static int protected_read(struct way *w, u64 *value)
{
	TEST_ASSERT(!mprotect(w->alias, SZ_4K, PROT_NONE), "mprotect() failed");
	TEST_ASSERT(!mprotect(w->alias, SZ_4K, PROT_READ | PROT_WRITE), "mprotect() failed");
	return host_read(w->alias, value);
}

static const struct path protected = {
	alias_open, alias_close, protected_read, alias_write
};

/* It is mapped anew, and populated. */

static int populated_read(struct way *w, u64 *value)
{
	char *p = mmap(NULL, SZ_4K, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
		       w->c->fd, P(PAGE));
	int r;

	TEST_ASSERT(p != MAP_FAILED, "cannot map the file");
	r = host_read(p, value);
	kvm_munmap(p, SZ_4K);
	return r;
}

static const struct path populated = { open_nothing, close_nothing, populated_read };

static int locked_read(struct way *w, u64 *value)
{
	int r;

	if (mlock(w->page, SZ_4K)) {
		munlock(w->page, SZ_4K);
		return errno;
	}
	r = host_read(w->page, value);
	munlock(w->page, SZ_4K);
	return r;
}

static const struct path locked = { open_nothing, close_nothing, locked_read, ptes_write };

/* It is discarded, touched and aged. */

static int advised_read(struct way *w, u64 *value)
{
	static const int advice[] = {
		MADV_DONTNEED, MADV_WILLNEED, MADV_POPULATE_READ, MADV_COLD,
		MADV_POPULATE_WRITE, MADV_PAGEOUT,
	};
	static __thread int next;

	madvise(w->page, SZ_4K, advice[next++ % ARRAY_SIZE(advice)]);
	return host_read(w->page, value);
}

static const struct path advised = { open_nothing, close_nothing, advised_read, ptes_write };

/*
 * Another process, which has inherited the mapping, or was sent the file and maps it
 */

struct request {
	bool write;
	u64 value;
};

struct answer {
	int error;
	u64 value;
};

static void serve(char *page, int in, int out)
{
	struct request q;
	struct answer a;

	while (read(in, &q, sizeof(q)) == sizeof(q)) {
		a = (struct answer) { .value = q.value };
		a.error = q.write ? host_write(page, q.value) : host_read(page, &a.value);
		if (write(out, &a, sizeof(a)) != sizeof(a))
			break;
	}
	_exit(0);
}

static pid_t fork_child(struct way *w)
{
	pid_t pid;

	TEST_ASSERT(!pipe(w->to_child) && !pipe(w->from_child), "pipe() failed");
	pid = fork();
	TEST_ASSERT(pid >= 0, "fork() failed");
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(w->to_child[1]);
		close(w->from_child[0]);
		return 0;
	}
	close(w->to_child[0]);
	close(w->from_child[1]);
	w->child = pid;
	return pid;
}

static const char *forked_open(struct way *w)
{
	if (!fork_child(w))
		serve(w->page, w->to_child[0], w->from_child[1]);
	return NULL;
}

static void forked_close(struct way *w)
{
	close(w->to_child[1]);
	close(w->from_child[0]);
	kill(w->child, SIGKILL);
	waitpid(w->child, NULL, 0);
}

static int ask(struct way *w, const struct request *q, u64 *value)
{
	struct answer a;

	if (write(w->to_child[1], q, sizeof(*q)) != sizeof(*q) ||
	    read(w->from_child[0], &a, sizeof(a)) != sizeof(a))
		return ESRCH;
	*value = a.value;
	return a.error;
}

static int forked_read(struct way *w, u64 *value)
{
	const struct request q = { .write = false, .value = *value };

	return ask(w, &q, value);
}

static int forked_write(struct way *w, u64 value)
{
	const struct request q = { .write = true, .value = value };

	return ask(w, &q, &value);
}

static const struct path forked = { forked_open, forked_close, forked_read, forked_write };

static int receive_fd(int sock)
{
	char control[CMSG_SPACE(sizeof(int))], byte;
	struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	int fd = -1;

	if (recvmsg(sock, &msg, 0) == 1)
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(fd));
	return fd;
}

static void send_fd(int sock, int fd)
{
	char control[CMSG_SPACE(sizeof(fd))] = {}, byte = 0;
	struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(cmsg), &fd, sizeof(fd));
	TEST_ASSERT(sendmsg(sock, &msg, 0) == 1, "sendmsg() failed");
}

static const char *passed_open(struct way *w)
{
	char *page;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, w->pair))
		return "no Unix sockets";
	if (!fork_child(w)) {
		munmap(w->c->mem, w->c->size);
		close(w->c->fd);
		page = mmap(NULL, SZ_4K, PROT_READ | PROT_WRITE, MAP_SHARED,
			    receive_fd(w->pair[1]), P(PAGE));
		serve(page, w->to_child[0], w->from_child[1]);
	}
	send_fd(w->pair[0], w->c->fd);
	return NULL;
}

static void passed_close(struct way *w)
{
	forked_close(w);
	close(w->pair[0]);
	close(w->pair[1]);
}

static const struct path passed = { passed_open, passed_close, forked_read, forked_write };

/*
 * System calls that get memory of a process by its address
 */

static int vm_read(struct way *w, u64 *value)
{
	struct iovec local = { value, sizeof(*value) }, remote = { w->page, sizeof(*value) };

	return result(process_vm_readv(getpid(), &local, 1, &remote, 1, 0), sizeof(*value));
}

static int vm_write(struct way *w, u64 value)
{
	struct iovec local = { &value, sizeof(value) }, remote = { w->page, sizeof(value) };

	return result(process_vm_writev(getpid(), &local, 1, &remote, 1, 0), sizeof(value));
}

static const char *vm_open(struct way *w)
{
	u64 value = 0;
	struct iovec iov = { &value, sizeof(value) };

	return process_vm_readv(getpid(), &iov, 1, &iov, 1, 0) < 0 && errno == ENOSYS ?
	       "no CONFIG_CROSS_MEMORY_ATTACH" : NULL;
}

static const struct path process_vm = { vm_open, close_nothing, vm_read, vm_write };

static const char *proc_mem_open(struct way *w)
{
	w->fd = open("/proc/self/mem", O_RDWR);
	return w->fd < 0 ? "no /proc/self/mem" : NULL;
}

static void fd_close(struct way *w)
{
	close(w->fd);
}

static int proc_mem_read(struct way *w, u64 *value)
{
	return result(pread(w->fd, value, sizeof(*value), (uintptr_t)w->page), sizeof(*value));
}

static int proc_mem_write(struct way *w, u64 value)
{
	return result(pwrite(w->fd, &value, sizeof(value), (uintptr_t)w->page), sizeof(value));
}

static const struct path proc_mem = {
	proc_mem_open, fd_close, proc_mem_read, proc_mem_write
};

/* A child that is traced, and has inherited the mapping */

static const char *ptrace_open(struct way *w)
{
	int status;

	if (!fork_child(w)) {
		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL))
			_exit(1);
		raise(SIGSTOP);
		_exit(0);
	}
	if (waitpid(w->child, &status, __WALL) != w->child || !WIFSTOPPED(status))
		return "no ptrace()";
	return NULL;
}

static int ptrace_read(struct way *w, u64 *value)
{
	errno = 0;
	*value = ptrace(PTRACE_PEEKDATA, w->child, w->page, NULL);
	return errno;
}

static int ptrace_write(struct way *w, u64 value)
{
	return ptrace(PTRACE_POKEDATA, w->child, w->page, value) ? errno : 0;
}

static const struct path traced = { ptrace_open, forked_close, ptrace_read, ptrace_write };

/* Copying to and from a pipe and a socket */

static const char *pipe_open(struct way *w)
{
	return pipe2(w->pair, O_NONBLOCK) ? "no pipes" : NULL;
}

static const char *socket_open(struct way *w)
{
	return socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, w->pair) ?
	       "no Unix sockets" : NULL;
}

static void pair_close(struct way *w)
{
	close(w->pair[0]);
	close(w->pair[1]);
}

static int copied_read(struct way *w, u64 *value)
{
	int r = result(write(w->pair[1], w->page, sizeof(*value)), sizeof(*value));

	return r ?: result(read(w->pair[0], value, sizeof(*value)), sizeof(*value));
}

static int copied_write(struct way *w, u64 value)
{
	u64 left;
	int r;

	r = result(write(w->pair[1], &value, sizeof(value)), sizeof(value));
	if (!r)
		r = result(read(w->pair[0], w->page, sizeof(value)), sizeof(value));
	/* A read that failed may have left it there. */
	while (read(w->pair[0], &left, sizeof(left)) > 0)
		;
	return r;
}

static const struct path copied = { pipe_open, pair_close, copied_read, copied_write };
static const struct path sent = { socket_open, pair_close, copied_read, copied_write };

/* The page itself is in a pipe; what reads it later must still find it shared. */
static int piped_read(struct way *w, u64 *value)
{
	struct piped pipe;
	int r;

	r = pipe_page(&pipe, w->page);
	if (!r) {
		sched_yield();
		r = result(read(pipe.fd[0], value, sizeof(*value)), sizeof(*value));
	}
	unpipe_page(&pipe);
	return r;
}

static const struct path piped = { open_nothing, close_nothing, piped_read };

/* The same in the buffer of a socket */
static int hold_in_socket(struct way *w, const char *page)
{
	struct piped pipe;
	int r;

	r = pipe_page(&pipe, page);
	if (!r)
		r = result(splice(pipe.fd[0], NULL, w->pair[1], NULL, SZ_4K, 0), SZ_4K);
	unpipe_page(&pipe);
	return r;
}

static int spliced_read(struct way *w, u64 *value)
{
	char buf[SZ_4K];
	int r;

	r = hold_in_socket(w, w->page);
	if (!r) {
		sched_yield();
		r = result(recv(w->pair[0], buf, SZ_4K, MSG_WAITALL), SZ_4K);
		memcpy(value, buf, sizeof(*value));
	}
	while (recv(w->pair[0], buf, SZ_4K, 0) > 0)
		;
	return r;
}

static const struct path spliced = { socket_open, pair_close, spliced_read };

/* Sent by TCP without a copy; skb and socket have the page until it is received. */

static const char *tcp_open(struct way *w)
{
	return tcp_connect(w->pair);
}

static int tcp_read(struct way *w, u64 *value)
{
	char buf[SZ_4K];
	int r;

	r = result(send(w->pair[1], w->page, SZ_4K, MSG_ZEROCOPY), SZ_4K);
	if (!r) {
		r = result(recv(w->pair[0], buf, SZ_4K, MSG_WAITALL), SZ_4K);
		memcpy(value, buf, sizeof(*value));
	}
	return r ?: tcp_complete(w->pair[1]);
}

static const struct path tcp_zerocopy = { tcp_open, pair_close, tcp_read };

/*
 * io_uring
 */

static const char *uring_open(struct way *w)
{
	if (uring_setup(&w->ring))
		return "no io_uring";
	w->fd = memfd_create("uring", 0);
	return w->fd < 0 || ftruncate(w->fd, SZ_4K) ? "no memfd" : NULL;
}

static void uring_close(struct way *w)
{
	uring_free(&w->ring);
	close(w->fd);
}

/* Its own mapping of registered memory, without a look at page tables */
static int fixed_read(struct way *w, u64 *value)
{
	int r;

	r = uring_register(&w->ring, w->page, SZ_4K);
	if (r)
		return r;
	sched_yield();
	r = uring_do(&w->ring, IORING_OP_WRITE_FIXED, w->fd, w->page, sizeof(*value));
	uring_unregister(&w->ring);
	return r == sizeof(*value) ? result(pread(w->fd, value, sizeof(*value), 0),
					    sizeof(*value)) : -r;
}

static int fixed_write(struct way *w, u64 value)
{
	int r;

	TEST_ASSERT(pwrite(w->fd, &value, sizeof(value), 0) == sizeof(value), "pwrite()");
	r = uring_register(&w->ring, w->page, SZ_4K);
	if (r)
		return r;
	r = uring_do(&w->ring, IORING_OP_READ_FIXED, w->fd, w->page, sizeof(value));
	uring_unregister(&w->ring);
	return r == sizeof(value) ? 0 : -r;
}

static const struct path uring_fixed = { uring_open, uring_close, fixed_read, fixed_write };

static int uring_read(struct way *w, u64 *value)
{
	int r = uring_do(&w->ring, IORING_OP_WRITE, w->fd, w->page, sizeof(*value));

	return r == sizeof(*value) ? result(pread(w->fd, value, sizeof(*value), 0),
					    sizeof(*value)) : -r;
}

static int uring_write(struct way *w, u64 value)
{
	int r;

	TEST_ASSERT(pwrite(w->fd, &value, sizeof(value), 0) == sizeof(value), "pwrite()");
	r = uring_do(&w->ring, IORING_OP_READ, w->fd, w->page, sizeof(value));
	return r == sizeof(value) ? 0 : -r;
}

static const struct path uring = { uring_open, uring_close, uring_read, uring_write };

/*
 * Pages that the kernel pins
 */

static const char *gup_open(struct way *w)
{
	w->buf = kvm_mmap(SZ_4K, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	w->fd = gup_test_open();
	return w->fd < 0 ? "no CONFIG_GUP_TEST, or not root" : NULL;
}

static void gup_close(struct way *w)
{
	close(w->fd);
	kvm_munmap(w->buf, SZ_4K);
}

static int gup_pin_and_read(struct way *w, u64 *value, bool fast)
{
	int r;

	r = gup_test_pin(w->fd, w->page, SZ_4K, fast);
	if (r)
		return r;
	sched_yield();
	r = gup_test_read(w->fd, w->buf);
	memcpy(value, w->buf, sizeof(*value));
	gup_test_unpin(w->fd);
	return r;
}

static int gup_read(struct way *w, u64 *value)
{
	return gup_pin_and_read(w, value, false);
}

static int gup_fast_read(struct way *w, u64 *value)
{
	return gup_pin_and_read(w, value, true);
}

static const struct path gup_longterm = { gup_open, gup_close, gup_read };
static const struct path gup_longterm_fast = { gup_open, gup_close, gup_fast_read };

/* 34. References without a lock, many in a row; what they refer to is in a pipe. */
static int gup_storm_read(struct way *w, u64 *value)
{
	int i, r;

	for (i = 0; i < 50; i++) {
		r = gup_test_fast(w->fd, w->page, SZ_4K, i & 1);
		if (r)
			return r;
	}
	return piped_read(w, value);
}

static const struct path gup_fast = { gup_open, gup_close, gup_storm_read };

/* A block device that reads and writes memory by itself */

static const char *direct_open(struct way *w)
{
	w->buf = kvm_mmap(SZ_4K, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	return nullb_open(&w->fd, w->buf);
}

static int direct_read(struct way *w, u64 *value)
{
	int r;

	r = result(pwrite(w->fd, w->page, SZ_4K, 0), SZ_4K);
	if (!r)
		r = result(pread(w->fd, w->buf, SZ_4K, 0), SZ_4K);
	memcpy(value, w->buf, sizeof(*value));
	return r;
}

static int direct_write(struct way *w, u64 value)
{
	int r;

	memcpy(w->buf, &value, sizeof(value));
	r = result(pwrite(w->fd, w->buf, SZ_4K, 0), SZ_4K);
	return r ?: result(pread(w->fd, w->page, SZ_4K, 0), SZ_4K);
}

static const struct path direct = { direct_open, gup_close, direct_read, direct_write };

/* A futex reads a word, and changes one. */

static int futex_read(struct way *w, u64 *value)
{
	const struct timespec now = {};

	if (syscall(__NR_futex, w->page, FUTEX_WAIT, (u32)SECRET_WORD, &now, NULL, 0) == 0)
		return EIO;
	if (errno != EAGAIN && errno != ETIMEDOUT)
		return errno;
	*value = errno == ETIMEDOUT ? SECRET_WORD : PUBLIC_WORD;
	return 0;
}

static int futex_write(struct way *w, u64 value)
{
	/* Or the first word with 0, which changes nothing of what it is to be. */
	return syscall(__NR_futex, w->page + 8, FUTEX_WAKE_OP, 1, 1, w->page,
		       FUTEX_OP(FUTEX_OP_XOR, 0, FUTEX_OP_CMP_EQ, 0)) < 0 ? errno : 0;
}

static const struct path futex = {
	open_nothing, close_nothing, futex_read, futex_write, .opaque = true
};

/*
 * What all have to stand.  For page tables that is 20, for system calls with the
 * address of another process 29, for references without a lock 34.
 */

static struct way new_way(struct conv *c)
{
	return (struct way) { .c = c, .page = c->mem + P(PAGE), .fd = -1 };
}

struct racer {
	const struct path *path;
	struct conv *c;
	struct way w;
	bool opened;
	long nr_ok;
	long nr_failed;
	long nr_secrets;
};

static bool race_round(void *arg)
{
	struct racer *r = arg;
	u64 value = 0;

	/* Here, because some of it belongs to the thread */
	if (!r->opened) {
		r->w = new_way(r->c);
		r->opened = true;
		if (r->path->open(&r->w))
			return false;
	}

	if (r->path->read(&r->w, &value)) {
		r->nr_failed++;
	} else {
		r->nr_ok++;
		r->nr_secrets += value == SECRET_WORD;
	}
	if (r->path->write && r->path->write(&r->w, PUBLIC_WORD))
		r->nr_failed++;
	return true;
}

#define ENOUGH 3

static void race(struct __test_metadata *_metadata, struct conv *c,
		 const struct path *path)
{
	struct racer racer = { .path = path, .c = c };
	long nr_private = 0, nr_refused = 0, nr_rounds = 0;
	const double end = conv_now() + RACE_SECONDS;
	struct looper l;
	int r, i;

	start_loop(&l, race_round, &racer);
	/* Until each has come to something, whichever task the CPU prefers */
	while (conv_now() < end ||
	       (conv_now() < end + 20 && (nr_private < ENOUGH ||
					  READ_ONCE(racer.nr_ok) < ENOUGH ||
					  READ_ONCE(racer.nr_failed) < ENOUGH))) {
		nr_rounds++;
		r = to_private(c, P(PAGE), P(1));
		if (r) {
			ASSERT_EQ(EAGAIN, r);
			nr_refused++;
			usleep(nr_rounds % 64);
			continue;
		}
		nr_private++;
		guest_mark(c, P(PAGE), P(1), SECRET);
		for (i = 0; i < 3; i++)
			guest_check(c, P(PAGE), P(1), SECRET);
		guest_mark(c, P(PAGE), P(1), PUBLIC);
		ASSERT_EQ(0, to_shared(c, P(PAGE), P(1)));
		usleep(nr_rounds % 4 * 100);
	}
	stop_loop(&l);
	if (racer.opened)
		path->close(&racer.w);
	TH_LOG("%ld times private, refused %ld times; %ld reads, %ld failed",
	       nr_private, nr_refused, racer.nr_ok, racer.nr_failed);
	EXPECT_EQ(0, racer.nr_secrets);
	EXPECT_LE(ENOUGH, racer.nr_ok);
	EXPECT_LE(ENOUGH, nr_private);
}

/* 38. Memory from CMA cannot be pinned for long: who tried has nothing of it. */
static void refused(struct __test_metadata *_metadata, struct conv *c)
{
	EXPECT_EQ(0, to_private(c, 0, WINDOW));
	EXPECT_PRIVATE(0, WINDOW);
}

static void take_path(struct __test_metadata *_metadata, struct conv *c,
		      const struct path *path)
{
	struct way w = new_way(c);
	const char *why;
	u64 value = 0;
	int r;

	why = path->open(&w);
	if (why)
		SKIP(return, "%s", why);

	/* It is a way to memory. */
	EXPECT_EQ(0, to_shared(c, P(PAGE), P(1)));
	EXPECT_EQ(0, host_mark(c, P(PAGE), P(1), PUBLIC));
	r = path->read(&w, &value);
	if (r == EOPNOTSUPP) {
		refused(_metadata, c);
		path->close(&w);
		SKIP(return, "such memory is not pinned for long");
	}
	EXPECT_EQ(0, r);
	EXPECT_EQ(PUBLIC_WORD, value);
	if (path->write) {
		EXPECT_EQ(0, path->write(&w, PUBLIC_WORD ^ 0x2000));
		if (!path->opaque)
			guest_check(c, P(PAGE), P(1), PUBLIC ^ 0x2000);
	}

	/* Now it is not. */
	EXPECT_EQ(0, to_private_soon(c, P(PAGE), P(1)));
	guest_mark(c, P(PAGE), P(1), SECRET);
	value = 0;
	EXPECT_NE(0, path->read(&w, &value));
	EXPECT_NE(SECRET_WORD, value);
	if (path->write)
		EXPECT_NE(0, path->write(&w, PUBLIC_WORD));
	guest_check(c, P(PAGE), P(1), SECRET);
	/* It leaves nothing that would be in the way. */
	EXPECT_EQ(0, to_shared(c, P(PAGE), P(1)));
	value = 0;
	EXPECT_EQ(0, path->read(&w, &value));
	EXPECT_EQ(SECRET_WORD, value);
	EXPECT_EQ(0, to_private_soon(c, P(PAGE), P(1)));
	path->close(&w);

	guest_mark(c, P(PAGE), P(1), PUBLIC);
	EXPECT_EQ(0, to_shared(c, P(PAGE), P(1)));
	race(_metadata, c, path);
	EXPECT_EQ(0, to_private_soon(c, P(PAGE), P(1)));
	EXPECT_PRIVATE(P(PAGE), P(1));
	guest_check(c, P(PAGE), P(1), PUBLIC);
}

#define TEST_PATH(name)							\
	TEST_F_TIMEOUT(user, name, TIMEOUT)				\
	{								\
		take_path(_metadata, &self->c, &name);			\
	}

TEST_PATH(ptes)
TEST_PATH(moved)
TEST_PATH(protected)
TEST_PATH(populated)
TEST_PATH(locked)
TEST_PATH(advised)
TEST_PATH(forked)
TEST_PATH(passed)
TEST_PATH(process_vm)
TEST_PATH(proc_mem)
TEST_PATH(traced)
TEST_PATH(copied)
TEST_PATH(sent)
TEST_PATH(piped)
TEST_PATH(spliced)
TEST_PATH(tcp_zerocopy)
TEST_PATH(uring)
TEST_PATH(uring_fixed)
TEST_PATH(gup_longterm)
TEST_PATH(gup_longterm_fast)
TEST_PATH(gup_fast)
TEST_PATH(direct)
TEST_PATH(futex)

/*
 * 33. What holds a page keeps that page from becoming private, and no other
 */

struct holder {
	const char *(*open)(struct way *w);
	void (*close)(struct way *w);
	int (*hold)(struct way *w);
	int (*release)(struct way *w);
};

static int pipe_hold(struct way *w)
{
	return pipe_page((struct piped *)w->pair, w->page);
}

static int pipe_release(struct way *w)
{
	unpipe_page((struct piped *)w->pair);
	return 0;
}

static const struct holder in_pipe = { open_nothing, close_nothing, pipe_hold, pipe_release };

static int socket_hold(struct way *w)
{
	return hold_in_socket(w, w->page);
}

static int socket_release(struct way *w)
{
	char buf[SZ_4K];

	return result(recv(w->pair[0], buf, SZ_4K, MSG_WAITALL), SZ_4K);
}

static const struct holder in_socket = {
	socket_open, pair_close, socket_hold, socket_release
};

static int tcp_hold(struct way *w)
{
	return tcp_fill(w->pair, &w->filled) ?:
	       result(send(w->pair[1], w->page, SZ_4K, MSG_ZEROCOPY), SZ_4K);
}

static int tcp_release(struct way *w)
{
	return tcp_drain(w->pair, w->filled) ?: socket_release(w) ?:
	       tcp_complete(w->pair[1]);
}

static int uring_hold(struct way *w)
{
	return uring_register(&w->ring, w->page, SZ_4K);
}

static int uring_release(struct way *w)
{
	return uring_unregister(&w->ring);
}

static const struct holder in_uring = {
	uring_open, uring_close, uring_hold, uring_release
};

static int gup_hold(struct way *w)
{
	return gup_test_pin(w->fd, w->page, SZ_4K, false);
}

static int gup_release(struct way *w)
{
	return gup_test_unpin(w->fd);
}

static const struct holder by_gup = { gup_open, gup_close, gup_hold, gup_release };

/*
 * A write to a block device that takes long: io_uring submits it and does not wait.
 * The device must take long enough for what is done meanwhile.
 */
static const char *in_flight_open(struct way *w)
{
	const char *why = direct_open(w);
	double start;

	if (why)
		return why;
	start = conv_now();
	if (pwrite(w->fd, w->buf, SZ_4K, 0) != SZ_4K || conv_now() - start < 0.5)
		return "/dev/nullb0 is too fast: load null_blk with irqmode=2";
	return uring_setup(&w->ring) ? "no io_uring" : NULL;
}

static void in_flight_close(struct way *w)
{
	uring_free(&w->ring);
	gup_close(w);
}

static int in_flight_hold(struct way *w)
{
	return uring_submit(&w->ring, IORING_OP_WRITE, w->fd, w->page, SZ_4K);
}

static int in_flight_release(struct way *w)
{
	const int r = uring_wait(&w->ring);

	return r == SZ_4K ? 0 : r < 0 ? -r : EIO;
}

static const struct holder in_flight = {
	in_flight_open, in_flight_close, in_flight_hold, in_flight_release
};

static void be_held(struct __test_metadata *_metadata, struct conv *c,
		    const struct holder *h)
{
	struct way w = new_way(c);
	const char *why;
	u64 where;
	int r;

	why = h->open(&w);
	if (why)
		SKIP(return, "%s", why);

	EXPECT_EQ(0, to_shared(c, 0, WINDOW));
	EXPECT_EQ(0, host_mark(c, 0, WINDOW, PUBLIC));
	r = h->hold(&w);
	if (r == EOPNOTSUPP) {
		refused(_metadata, c);
		h->close(&w);
		SKIP(return, "such memory is not pinned for long");
	}
	ASSERT_EQ(0, r);

	EXPECT_EQ(EAGAIN, gmem_convert(c->fd, 0, SZ_2M, true, &where));
	EXPECT_EQ(P(PAGE), where);
	EXPECT_EQ(EAGAIN, gmem_convert(c->fd, P(PAGE), P(1), true, &where));
	EXPECT_EQ(P(PAGE), where);
	EXPECT_EQ(EAGAIN, vm_to_private(c, 0, WINDOW));
	EXPECT_SHARED(0, SZ_2M);
	/* Its neighbours */
	EXPECT_EQ(0, to_private(c, 0, P(PAGE)));
	EXPECT_EQ(0, to_private(c, P(PAGE + 1), WINDOW - P(PAGE + 1)));
	EXPECT_PRIVATE(0, P(PAGE));
	EXPECT_SHARED(P(PAGE), P(1));
	EXPECT_PRIVATE(P(PAGE + 1), WINDOW - P(PAGE + 1));
	EXPECT_EQ(EAGAIN, to_private(c, 0, WINDOW));

	EXPECT_EQ(0, h->release(&w));
	EXPECT_EQ(0, to_private_soon(c, 0, WINDOW));
	EXPECT_PRIVATE(0, WINDOW);
	guest_check(c, 0, WINDOW, PUBLIC);
	h->close(&w);
}

#define TEST_HOLDER(name)						\
	TEST_F_TIMEOUT(user, held_##name, TIMEOUT)			\
	{								\
		be_held(_metadata, &self->c, &name);			\
	}

TEST_HOLDER(in_pipe)
TEST_HOLDER(in_socket)
TEST_HOLDER(in_uring)
TEST_HOLDER(by_gup)
TEST_HOLDER(in_flight)

static const struct holder in_tcp = { tcp_open, pair_close, tcp_hold, tcp_release };
TEST_HOLDER(in_tcp)

/*
 * Users that leave the page alone
 */

/* The file itself cannot be read, written or spliced, whatever its pages are. */
TEST_F(user, file_operations)
{
	struct conv *c = &self->c;
	int file = memfd_create("file", 0), p[2];
	char buf[16] = {};
	loff_t zero = 0;

	EXPECT_EQ(0, to_shared(c, 0, P(1)));
	guest_mark(c, 0, P(2), SECRET);
	ASSERT_EQ(0, pipe(p));
	ASSERT_EQ(0, ftruncate(file, SZ_4K));
	EXPECT_EQ(-1, read(c->fd, buf, sizeof(buf)));
	EXPECT_EQ(-1, pread(c->fd, buf, sizeof(buf), SZ_4K));
	EXPECT_EQ(-1, write(c->fd, buf, sizeof(buf)));
	EXPECT_EQ(-1, pwrite(c->fd, buf, sizeof(buf), SZ_4K));
	EXPECT_EQ(-1, sendfile(p[1], c->fd, &zero, SZ_4K));
	EXPECT_EQ(-1, sendfile(c->fd, file, &zero, SZ_4K));
	EXPECT_EQ(-1, splice(c->fd, &zero, p[1], NULL, SZ_4K, SPLICE_F_NONBLOCK));
	EXPECT_EQ(-1, copy_file_range(c->fd, NULL, file, NULL, SZ_4K, 0));
	EXPECT_EQ(-1, copy_file_range(file, NULL, c->fd, NULL, SZ_4K, 0));
	EXPECT_EQ(-1, ftruncate(c->fd, 0));
	EXPECT_EQ(0, memcmp(buf, (char [16]) {}, sizeof(buf)));
	guest_check(c, 0, P(2), SECRET);
	close(file);
	close(p[0]);
	close(p[1]);
}

/* A mapping cannot be one that copies. */
TEST_F(user, private_mapping)
{
	struct conv *c = &self->c;

	EXPECT_EQ(MAP_FAILED, mmap(NULL, SZ_4K, PROT_READ, MAP_PRIVATE, c->fd, 0));
	EXPECT_EQ(EINVAL, errno);
}

/* 27. All that can be said of a range, some of which is private */
TEST_F_TIMEOUT(user, advice, TIMEOUT)
{
	static const struct {
		const char *name;
		int advice;
		int error;	/* -1: any or none */
	} list[] = {
#define ADVICE(name, error) { #name, name, error }
		ADVICE(MADV_NORMAL, 0),
		ADVICE(MADV_RANDOM, 0),
		ADVICE(MADV_SEQUENTIAL, 0),
		ADVICE(MADV_WILLNEED, -1),
		ADVICE(MADV_DONTNEED, 0),
		ADVICE(MADV_FREE, EINVAL),
		ADVICE(MADV_REMOVE, EINVAL),
		ADVICE(MADV_DONTFORK, 0),
		ADVICE(MADV_DOFORK, 0),
		ADVICE(MADV_MERGEABLE, -1),
		ADVICE(MADV_UNMERGEABLE, -1),
		ADVICE(MADV_HUGEPAGE, -1),
		ADVICE(MADV_NOHUGEPAGE, -1),
		ADVICE(MADV_COLLAPSE, -1),
		ADVICE(MADV_DONTDUMP, 0),
		ADVICE(MADV_DODUMP, 0),
		ADVICE(MADV_WIPEONFORK, EINVAL),
		ADVICE(MADV_COLD, 0),
		ADVICE(MADV_PAGEOUT, 0),
		ADVICE(MADV_POPULATE_READ, EFAULT),
		ADVICE(MADV_POPULATE_WRITE, EFAULT),
		ADVICE(MADV_GUARD_INSTALL, -1),
	};
	unsigned char vec[64];
	struct conv *c = &self->c;
	int i, r;

	guest_mark(c, 0, P(64), SECRET);
	for (i = 0; i < ARRAY_SIZE(list); i++) {
		EXPECT_EQ(0, to_shared(c, 0, P(64)));
		EXPECT_EQ(0, host_check(c, 0, P(64), SECRET));
		EXPECT_EQ(0, to_private(c, P(32), P(32)));

		r = madvise(c->mem, P(64), list[i].advice) ? errno : 0;
		if (list[i].error >= 0)
			EXPECT_EQ(list[i].error, r) {
				TH_LOG("%s", list[i].name);
			}
		/* mincore() takes references, too. */
		EXPECT_EQ(0, mincore(c->mem, P(64), vec));
		EXPECT_EQ(0, to_private(c, 0, P(64))) {
			TH_LOG("%s", list[i].name);
		}
		if (list[i].advice == MADV_GUARD_INSTALL)
			madvise(c->mem, P(64), MADV_GUARD_REMOVE);
		EXPECT_PRIVATE(0, P(64));
		guest_check(c, 0, P(64), SECRET);
	}
}

/* A task that sleeps for a futex has no page. */

static pid_t waiter;

static void *wait_for_futex(void *arg)
{
	const struct timespec timeout = { .tv_sec = 1 };
	u32 *word = arg;

	WRITE_ONCE(waiter, gettid());
	return (void *)(long)(syscall(__NR_futex, word, FUTEX_WAIT, 0, &timeout, NULL, 0) ?
			      errno : 0);
}

/* Before that it would not find the word. */
static bool waits_for_futex(void)
{
	const double end = conv_now() + POOL_PATIENCE;
	char path[64], wchan[64];
	ssize_t n;
	int fd;

	do {
		usleep(1000);
		snprintf(path, sizeof(path), "/proc/self/task/%d/wchan", READ_ONCE(waiter));
		fd = open(path, O_RDONLY);
		n = fd < 0 ? 0 : read(fd, wchan, sizeof(wchan) - 1);
		wchan[max(n, 0)] = 0;
		if (fd >= 0)
			close(fd);
	} while (!strstr(wchan, "futex") && conv_now() < end);
	return strstr(wchan, "futex");
}

TEST_F_TIMEOUT(user, futex_waiter, TIMEOUT)
{
	struct conv *c = &self->c;
	pthread_t thread;
	void *r;

	EXPECT_EQ(0, to_shared(c, P(PAGE), P(1)));
	EXPECT_EQ(0, host_write(c->mem + P(PAGE), 0));
	kvm_pthread_create(&thread, NULL, wait_for_futex, c->mem + P(PAGE));
	EXPECT_TRUE(waits_for_futex());
	EXPECT_EQ(0, to_private(c, P(PAGE), P(1)));
	guest_mark(c, P(PAGE), P(1), SECRET);
	EXPECT_EQ(-1, syscall(__NR_futex, c->mem + P(PAGE), FUTEX_WAKE, 1, NULL, NULL, 0));
	EXPECT_EQ(EFAULT, errno);
	kvm_pthread_join(thread, &r);
	EXPECT_EQ(ETIMEDOUT, (long)r);
}

/* userfaultfd neither resolves faults of private pages nor learns of them. */
TEST_F_TIMEOUT(user, userfaultfd, TIMEOUT)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg;
	struct uffdio_copy copy;
	struct conv *c = &self->c;
	char *page = kvm_mmap(SZ_4K, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	int fd, modes[] = { UFFDIO_REGISTER_MODE_MISSING, UFFDIO_REGISTER_MODE_MINOR }, i;

	fd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		SKIP(return, "no userfaultfd");
	api.features = UFFD_FEATURE_WP_ASYNC;
	ASSERT_EQ(0, ioctl(fd, UFFDIO_API, &api));

	EXPECT_EQ(0, to_shared(c, 0, P(PAGE)));
	guest_mark(c, 0, P(PAGE + 2), SECRET);
	memset(page, 0xa5, SZ_4K);
	for (i = 0; i < ARRAY_SIZE(modes); i++) {
		reg = (struct uffdio_register) {
			.range = { .start = (uintptr_t)c->mem, .len = WINDOW },
			.mode = modes[i],
		};
		if (ioctl(fd, UFFDIO_REGISTER, &reg)) {
			EXPECT_EQ(EINVAL, errno);
			continue;
		}
		copy = (struct uffdio_copy) {
			.dst = (uintptr_t)c->mem + P(PAGE),
			.src = (uintptr_t)page, .len = SZ_4K,
		};
		EXPECT_EQ(-1, ioctl(fd, UFFDIO_COPY, &copy));
		EXPECT_EQ(0, ioctl(fd, UFFDIO_UNREGISTER, &reg.range));
	}
	guest_check(c, 0, P(PAGE + 2), SECRET);

	/* Writes are tracked by bits of page tables, as of any mapping. */
	reg = (struct uffdio_register) {
		.range = { .start = (uintptr_t)c->mem, .len = WINDOW },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	if (!ioctl(fd, UFFDIO_REGISTER, &reg)) {
		struct uffdio_writeprotect wp = {
			.range = reg.range, .mode = UFFDIO_WRITEPROTECT_MODE_WP,
		};

		EXPECT_EQ(0, host_check(c, 0, P(PAGE), SECRET));
		EXPECT_EQ(0, ioctl(fd, UFFDIO_WRITEPROTECT, &wp));
		EXPECT_EQ(0, host_mark(c, 0, P(8), PUBLIC));
		EXPECT_EQ(0, to_private(c, 0, P(PAGE)));
		EXPECT_PRIVATE(0, P(PAGE + 2));
		guest_check(c, 0, P(8), PUBLIC);
		EXPECT_EQ(0, to_shared(c, 0, P(16)));
		EXPECT_EQ(0, host_check(c, 0, P(8), PUBLIC));
		EXPECT_EQ(0, host_mark(c, 0, P(8), SECRET));
		EXPECT_EQ(0, to_private(c, 0, P(16)));
		guest_check(c, 0, P(8), SECRET);
	}
	close(fd);
}

/* KSM leaves it alone, although it is asked to merge it. */
TEST_F_TIMEOUT(user, ksm, TIMEOUT)
{
	struct conv *c = &self->c;
	long i;

	if (madvise(c->mem, WINDOW, MADV_MERGEABLE))
		SKIP(return, "no CONFIG_KSM");
	EXPECT_EQ(0, to_shared(c, 0, P(64)));
	for (i = 0; i < 64; i++)
		EXPECT_EQ(0, host_write(c->mem + P(i), SECRET));
	ASSERT_EQ(0, cg_write("/sys/kernel/mm/ksm", "sleep_millisecs", "0"));
	ASSERT_EQ(0, cg_write("/sys/kernel/mm/ksm", "pages_to_scan", "10000"));
	ASSERT_EQ(0, cg_write("/sys/kernel/mm/ksm", "run", "1"));
	usleep(500000);
	EXPECT_EQ(0, to_private(c, 0, P(64)));
	guest_mark(c, 0, P(64), SECRET);
	usleep(500000);
	EXPECT_PRIVATE(0, P(64));
	guest_check(c, 0, P(64), SECRET);
	EXPECT_EQ(0, cg_read_long("/sys/kernel/mm/ksm", "pages_sharing"));
	EXPECT_EQ(0, cg_write("/sys/kernel/mm/ksm", "run", "2"));
}

/* How often a file holds a word */
static long count_words(const char *path, u64 word)
{
	int fd = open(path, O_RDONLY);
	struct stat st;
	long nr = 0, i;
	u64 *p;

	if (fd < 0 || fstat(fd, &st) || !st.st_size)
		return -1;
	p = mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	TEST_ASSERT(p != MAP_FAILED, "cannot map %s", path);
	for (i = 0; i < st.st_size / sizeof(*p); i++)
		nr += p[i] == word;
	munmap(p, st.st_size);
	close(fd);
	return nr;
}

#define CORE "/dev/shm/guest_memfd.core"

/* A core has what is shared, and nothing of what is private. */
TEST_F_TIMEOUT(user, coredump, TIMEOUT)
{
	const struct rlimit unlimited = { RLIM_INFINITY, RLIM_INFINITY };
	char old[256] = "core";
	struct conv *c = &self->c;
	int status;
	pid_t pid;

	if (cg_read("/proc/sys/kernel", "core_pattern", old, sizeof(old)) ||
	    cg_write("/proc/sys/kernel", "core_pattern", CORE))
		SKIP(return, "no CONFIG_COREDUMP, or not root");
	old[strcspn(old, "\n")] = 0;

	EXPECT_EQ(0, to_shared(c, P(PAGE + 2), P(1)));
	guest_mark(c, P(PAGE), P(1), SECRET);
	guest_mark(c, P(PAGE + 2), P(1), SECRET);
	EXPECT_EQ(0, host_check(c, P(PAGE + 2), P(1), SECRET));

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		setrlimit(RLIMIT_CORE, &unlimited);
		prctl(PR_SET_DUMPABLE, 1);
		/* Without what surrounds the pages, which may be large */
		madvise(c->mem, c->size, MADV_DONTDUMP);
		madvise(c->mem + P(PAGE), P(4), MADV_DODUMP);
		/* What is mapped shared, and nothing else */
		if (cg_write("/proc/self", "coredump_filter", "0xa"))
			_exit(1);
		signal(SIGABRT, SIG_DFL);
		abort();
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, cg_write("/proc/sys/kernel", "core_pattern", old));
	EXPECT_TRUE(WIFSIGNALED(status));
	EXPECT_LE(1, count_words(CORE, P(PAGE + 2) ^ SECRET));
	EXPECT_EQ(0, count_words(CORE, SECRET_WORD));
	unlink(CORE);
	guest_check(c, P(PAGE), P(1), SECRET);
}

/*
 * References in batches of other CPUs
 */

struct locker {
	char *page;
	int cpu;
	int request[2];
	int done[2];
};

static void *lock_and_unlock(void *arg)
{
	struct locker *l = arg;
	char byte;

	pin_task_to_cpu(pthread_self(), l->cpu);
	while (read(l->request[0], &byte, 1) == 1) {
		TEST_ASSERT(!mlock(l->page, SZ_4K), "mlock() failed");
		TEST_ASSERT(!munlock(l->page, SZ_4K), "munlock() failed");
		if (write(l->done[1], &byte, 1) != 1)
			break;
	}
	return NULL;
}

/* Not the first one, where the test itself is; -1 if there is none */
static int other_cpu(void)
{
	return sysconf(_SC_NPROCESSORS_ONLN) > 1 ? 1 : -1;
}

/* 35. munlock() leaves the page in a batch of its CPU: it is drained. */
TEST_F_TIMEOUT(user, batch_of_other_cpu, TIMEOUT)
{
	struct conv *c = &self->c;
	struct locker l = { .page = c->mem + P(PAGE), .cpu = other_cpu() };
	pthread_t thread;
	char byte = 0;
	int i;

	if (l.cpu < 0)
		SKIP(return, "needs 2 CPUs");
	ASSERT_EQ(0, pipe(l.request));
	ASSERT_EQ(0, pipe(l.done));
	pin_task_to_cpu(pthread_self(), 0);
	kvm_pthread_create(&thread, NULL, lock_and_unlock, &l);
	guest_mark(c, P(PAGE), P(1), SECRET);
	for (i = 0; i < 20; i++) {
		EXPECT_EQ(0, to_shared(c, P(PAGE), P(1)));
		ASSERT_EQ(1, write(l.request[1], &byte, 1));
		ASSERT_EQ(1, read(l.done[0], &byte, 1));
		EXPECT_EQ(0, to_private(c, P(PAGE), P(1)));
		EXPECT_PRIVATE(P(PAGE), P(1));
	}
	guest_check(c, P(PAGE), P(1), SECRET);
	close(l.request[1]);
	kvm_pthread_join(thread, NULL);
}

static bool spin_stop;

static void *spin(void *arg)
{
	const struct sched_param param = { .sched_priority = 10 };
	const double end = conv_now() + 2;

	pin_task_to_cpu(pthread_self(), (long)arg);
	if (pthread_setschedparam(pthread_self(), SCHED_FIFO, &param))
		return (void *)1L;
	while (!READ_ONCE(spin_stop) && conv_now() < end)
		;
	return NULL;
}

/*
 * The same where no kernel thread gets to run on that CPU, because a real-time task
 * spins: it ends as it may, but it ends, and holds nothing meanwhile.
 */
TEST_F_TIMEOUT(user, batch_behind_fifo, TIMEOUT)
{
	struct conv *c = &self->c;
	struct locker l = { .page = c->mem + P(PAGE), .cpu = other_cpu() };
	pthread_t thread, spinner;
	void *failed;
	char byte = 0;
	int r;

	if (l.cpu < 0)
		SKIP(return, "needs 2 CPUs");
	ASSERT_EQ(0, pipe(l.request));
	ASSERT_EQ(0, pipe(l.done));
	pin_task_to_cpu(pthread_self(), 0);
	kvm_pthread_create(&thread, NULL, lock_and_unlock, &l);
	EXPECT_EQ(0, to_shared(c, P(PAGE), P(1)));
	ASSERT_EQ(1, write(l.request[1], &byte, 1));
	ASSERT_EQ(1, read(l.done[0], &byte, 1));
	close(l.request[1]);
	kvm_pthread_join(thread, NULL);

	kvm_pthread_create(&spinner, NULL, spin, (void *)1L);
	usleep(100000);
	r = to_private(c, P(PAGE), P(1));
	if (r)
		EXPECT_EQ(EAGAIN, r);
	WRITE_ONCE(spin_stop, true);
	kvm_pthread_join(spinner, &failed);
	if (failed)
		SKIP(return, "no SCHED_FIFO");
	EXPECT_EQ(0, to_private(c, P(PAGE), P(1)));
	EXPECT_PRIVATE(P(PAGE), P(1));
}

/* 37. A page that is pinned when it leaves the file: it is awaited. */
TEST_F_TIMEOUT(user, pinned_and_punched, TIMEOUT)
{
	const long nr = WINDOW >> variant->page_shift ?: 1;
	struct conv *c = &self->c;
	struct way w = new_way(c);
	u64 value;

	if (gup_open(&w))
		SKIP(return, "no CONFIG_GUP_TEST, or not root");
	EXPECT_EQ(0, to_shared(c, P(PAGE), P(1)));
	EXPECT_EQ(0, host_mark(c, P(PAGE), P(1), SECRET));
	ASSERT_EQ(0, gup_test_pin(w.fd, w.page, SZ_4K, false));
	EXPECT_EQ(0, gmem_punch(&c->g, c->fd, 0, nr));
	if (variant->page_shift > 12)
		EXPECT_LT(0, conv_fdinfo(c, "gmem-awaited"));

	/* The file has another page there, which is not in use. */
	if (variant->page_shift == 12) {
		EXPECT_EQ(0, host_read(c->mem + P(PAGE), &value));
		EXPECT_EQ(0, value);
		EXPECT_EQ(0, to_private(c, P(PAGE), P(1)));
	}
	EXPECT_EQ(0, gup_test_unpin(w.fd));
	EXPECT_TRUE(pool_is_soon(c->g.page_size, c->g.before.nr, c->g.before.free,
				 c->g.before.resv + (variant->page_shift > 12 ?
						     c->size / c->g.page_size : 0),
				 c->g.before.surplus));
	EXPECT_EQ(0, to_private(c, P(PAGE), P(1)));
	guest_run(c, OP_CHECK_ZERO, 0, WINDOW, 0);
	gup_close(&w);
}

TEST_F_TIMEOUT(user, pinned_and_closed, TIMEOUT)
{
	struct conv *c = &self->c;
	struct way w = new_way(c);

	if (gup_open(&w))
		SKIP(return, "no CONFIG_GUP_TEST, or not root");
	EXPECT_EQ(0, to_shared(c, P(PAGE), P(1)));
	EXPECT_EQ(0, host_mark(c, P(PAGE), P(1), SECRET));
	ASSERT_EQ(0, gup_test_pin(w.fd, w.page, SZ_4K, false));
	conv_free(c);
	EXPECT_EQ(0, gup_test_read(w.fd, w.buf));
	EXPECT_EQ(SECRET_WORD, *(u64 *)w.buf);
	if (c->g.page_size > SZ_4K)
		EXPECT_FALSE(pool_same(c->g.page_size, &c->g.before));
	EXPECT_EQ(0, gup_test_unpin(w.fd));
	EXPECT_TRUE(pool_same_soon(c->g.page_size, &c->g.before));
	gup_close(&w);
}

/* 39. KVM's own mapping of a page of the guest: it has no reference, and it ends. */
TEST_F_TIMEOUT(user, kvmclock, TIMEOUT)
{
	struct kvm_clock_data clock = {};
	struct conv *c = &self->c;
	const u64 gpa = TEST_GPA + P(PAGE);
	u64 word;
	int i;

	if (!(kvm_cpu_has(X86_FEATURE_KVM_CLOCKSOURCE2)))
		SKIP(return, "no kvmclock");
	EXPECT_EQ(0, to_shared(c, P(PAGE), P(1)));
	EXPECT_EQ(0, host_mark(c, P(PAGE), P(1), PUBLIC));
	vcpu_set_msr(c->g.vcpu[0], MSR_KVM_SYSTEM_TIME_NEW, gpa | 1);
	guest_run(c, OP_NONE, 0, 0, 0);
	EXPECT_EQ(0, host_read(c->mem + P(PAGE), &word));
	EXPECT_NE(PUBLIC_WORD, word);

	EXPECT_EQ(0, to_private(c, P(PAGE), P(1)));
	guest_mark(c, P(PAGE), P(1), SECRET);
	for (i = 0; i < 10; i++) {
		vm_ioctl(c->g.vm, KVM_SET_CLOCK, &clock);
		guest_run(c, OP_NONE, 0, 0, 0);
		guest_check(c, P(PAGE), P(1), SECRET);
	}

	EXPECT_EQ(0, to_shared(c, P(PAGE), P(1)));
	vm_ioctl(c->g.vm, KVM_SET_CLOCK, &clock);
	guest_run(c, OP_NONE, 0, 0, 0);
	EXPECT_EQ(0, to_private(c, P(PAGE), P(1)));
	vcpu_set_msr(c->g.vcpu[0], MSR_KVM_SYSTEM_TIME_NEW, 0);
}

/*
 * A receiver of TCP may map pages that have no mapping and no type.  That is what a
 * single page of a huge page must never look like, as long as it has not gone home.
 */

#define RECEIVED		SZ_64K
#define RECEIVE_SECONDS		5

struct receiver {
	int fd;
	void *mem;
	int stop, cpu;
	long tries, mapped;
};

static void *receive(void *arg)
{
	struct receiver *r = arg;

	pin_task_to_cpu(pthread_self(), r->cpu);
	while (!READ_ONCE(r->stop)) {
		struct tcp_zerocopy_receive zc = {
			.address = (u64)r->mem, .length = RECEIVED,
		};
		socklen_t len = sizeof(zc);

		r->tries++;
		if (!getsockopt(r->fd, IPPROTO_TCP, TCP_ZEROCOPY_RECEIVE, &zc, &len))
			r->mapped += zc.length;
	}
	return NULL;
}

TEST_F_TIMEOUT(user, tcp_receive, TIMEOUT)
{
	const double end = conv_now() + RECEIVE_SECONDS;
	struct receiver r = {};
	struct conv *c = &self->c;
	static char buf[RECEIVED];
	struct iovec iov = { .iov_len = RECEIVED };
	int pair[2], pipefd[2];
	const char *why;
	pthread_t thread;
	long n;

	if (c->g.page_size != SZ_2M)
		SKIP(return, "pages of 4K may be mapped, 1G takes too long");
	why = tcp_connect(pair);
	if (why)
		SKIP(return, "%s", why);
	r.fd = pair[0];
	r.mem = mmap(NULL, RECEIVED, PROT_READ, MAP_SHARED, r.fd, 0);
	if (r.mem == MAP_FAILED)
		SKIP(return, "TCP does not map what it receives");
	ASSERT_EQ(0, pipe(pipefd));

	/* A packet that another CPU receives is not free before this one gets the next. */
	pin_task_to_cpu(pthread_self(), 0);
	r.cpu = get_nprocs() - 1;

	iov.iov_base = c->mem + P(PAGE);
	EXPECT_EQ(0, to_shared(c, 0, SZ_2M));
	do {
		EXPECT_EQ(0, host_mark(c, 0, SZ_2M, PUBLIC));
		n = vmsplice(pipefd[1], &iov, 1, 0);
		ASSERT_EQ(RECEIVED, n);
		while (n) {
			long sent = splice(pipefd[0], NULL, pair[1], NULL, n, SPLICE_F_MOVE);

			ASSERT_LT(0, sent);
			n -= sent;
		}

		r.stop = 0;
		kvm_pthread_create(&thread, NULL, receive, &r);
		usleep(1000);
		EXPECT_EQ(0, gmem_punch(&c->g, c->fd, 0, 1));
		usleep(1000);
		WRITE_ONCE(r.stop, 1);
		kvm_pthread_join(thread, NULL);
		ASSERT_EQ(0, r.mapped);

		ASSERT_EQ(RECEIVED, recv(r.fd, buf, RECEIVED, MSG_WAITALL));
	} while (conv_now() < end);
	TH_LOG("%ld tries to map", r.tries);
	EXPECT_LT(100, r.tries);

	munmap(r.mem, RECEIVED);
	close(pipefd[0]);
	close(pipefd[1]);
	close(pair[0]);
	close(pair[1]);
}

/*
 * 66. Memory that has an error
 */

FIXTURE(poison)
{
	struct conv c;
};

FIXTURE_VARIANT(poison)
{
	unsigned int page_shift;
};

FIXTURE_VARIANT_ADD(poison, 4k) { .page_shift = 12 };
FIXTURE_VARIANT_ADD(poison, 2m) { .page_shift = 21 };

FIXTURE_SETUP(poison)
{
	const char *why = conv_setup(&self->c, variant->page_shift, WINDOW, 0);

	if (why)
		SKIP(return, "%s", why);
}

FIXTURE_TEARDOWN(poison)
{
	/* The pool has one page less, or will have. */
	conv_free(&self->c);
}

static int guest_errno(struct conv *c, u64 offset)
{
	int r;

	set_vcpu_cmd(&c->g, 1, OP_TOUCH, offset, SZ_4K, 1);
	r = run_vcpu(c->g.vcpu[1]);
	return r;
}

static void poisoned(struct __test_metadata *_metadata, struct conv *c, bool pinned)
{
	struct piped pipe;
	u64 value, where;
	int i, r;

	EXPECT_EQ(0, to_shared(c, 0, P(128)));
	EXPECT_EQ(0, host_mark(c, 0, P(128), 1));
	if (pinned)
		ASSERT_EQ(0, pipe_page(&pipe, c->mem + P(PAGE)));
	r = host_poison(c->mem + P(PAGE));
	if (r) {
		if (pinned)
			unpipe_page(&pipe);
		SKIP(return, "no MADV_HWPOISON: %s", strerror(r));
	}
	/* A page that is still mapped is not taken away from those who have it. */
	EXPECT_EQ(0, madvise(c->mem + P(PAGE), SZ_4K, MADV_DONTNEED));
	EXPECT_EQ(EHWPOISON, host_read(c->mem + P(PAGE), &value));
	EXPECT_EQ(0, host_check(c, 0, P(PAGE), 1));
	EXPECT_EQ(0, host_check(c, P(PAGE + 1), P(57), 1));
	EXPECT_EQ(EHWPOISON, guest_errno(c, P(PAGE)));

	/*
	 * Memory failure has a reference to a page of 4K, none to a lent one.  That
	 * of the pipe is one more.
	 */
	for (i = 0; pinned && i < 3; i++) {
		EXPECT_EQ(EAGAIN, gmem_convert(c->fd, 0, P(128), true, &where));
		EXPECT_EQ(P(PAGE), where);
	}
	if (pinned)
		unpipe_page(&pipe);

	EXPECT_EQ(0, to_private(c, 0, P(128)));
	EXPECT_PRIVATE(0, P(128));
	EXPECT_EQ(EHWPOISON, guest_errno(c, P(PAGE)));
	guest_check(c, 0, P(PAGE), 1);
	guest_check(c, P(PAGE + 1), P(57), 1);

	EXPECT_EQ(0, to_shared(c, 0, P(128)));
	EXPECT_EQ(EHWPOISON, host_read(c->mem + P(PAGE), &value));
	EXPECT_EQ(0, host_check(c, P(PAGE + 1), P(57), 1));
	EXPECT_EQ(0, to_private(c, 0, P(128)));
}

#define KPF_UNEVICTABLE		18
#define KPF_BATCH		SZ_32K

/* Mark in @set what is in the page cache and is not to be reclaimed, as guest_memfd. */
static void unevictable_pages(u8 *set, u64 nr_pfns)
{
	static u64 flags[KPF_BATCH];
	int fd = open("/proc/kpageflags", O_RDONLY);
	u64 pfn;
	ssize_t n, i;

	TEST_ASSERT(fd >= 0, "no /proc/kpageflags");
	for (pfn = 0; pfn < nr_pfns; pfn += n) {
		n = read(fd, flags, sizeof(flags)) / (ssize_t)sizeof(*flags);
		if (n <= 0)
			break;
		for (i = 0; i < n && pfn + i < nr_pfns; i++)
			set[pfn + i] = flags[i] >> KPF_UNEVICTABLE & 1;
	}
	close(fd);
}

/* What only the guest has written is not dirty.  Whoever takes it for clean loses it. */
TEST_F_TIMEOUT(poison, soft_offline, TIMEOUT)
{
	const u64 nr_pfns = 16ULL * SZ_1G / SZ_4K;
	int fd = open("/sys/devices/system/memory/soft_offline_page", O_WRONLY);
	struct conv *c = &self->c;
	u8 *before, *after;
	char address[32];
	long nr = 0;
	u64 pfn;

	if (c->g.page_size > SZ_4K)
		SKIP(return, "guest_memfd_reserved_test is for lent pages");
	if (fd < 0)
		SKIP(return, "no CONFIG_MEMORY_FAILURE");
	before = calloc(2, nr_pfns);
	TEST_ASSERT(before, "no memory");
	after = before + nr_pfns;

	unevictable_pages(before, nr_pfns);
	guest_mark(c, 0, WINDOW, SECRET);
	unevictable_pages(after, nr_pfns);
	for (pfn = 0; pfn < nr_pfns; pfn++) {
		if (!after[pfn] || before[pfn])
			continue;
		nr++;
		snprintf(address, sizeof(address), "%#llx", (unsigned long long)P(pfn));
		/* It may be refused. */
		(void)!write(fd, address, strlen(address));
	}
	/* All but those that wait in the batch of a CPU */
	EXPECT_LE(NR_PAGES / 2, nr);

	guest_check(c, 0, WINDOW, SECRET);
	EXPECT_EQ(0, to_shared(c, 0, WINDOW));
	EXPECT_EQ(0, host_check(c, 0, WINDOW, SECRET));

	free(before);
	close(fd);
}

TEST_F_TIMEOUT(poison, shared, TIMEOUT)
{
	poisoned(_metadata, &self->c, false);
}

TEST_F_TIMEOUT(poison, pinned, TIMEOUT)
{
	poisoned(_metadata, &self->c, true);
}

TEST_HARNESS_MAIN
