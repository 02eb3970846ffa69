// SPDX-License-Identifier: GPL-2.0
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <linux/io_uring.h>
#include <linux/sockios.h>
#include <netinet/in.h>

#include "guest_memfd_conversions.h"
#include "../../../../mm/gup_test.h"

/*
 * Files
 */

void conv_bind(struct conv *c, u32 slot, u64 offset, u64 size, u64 delta)
{
	vm_set_user_memory_region2(c->g.vm, slot, KVM_MEM_GUEST_MEMFD,
				   TEST_GPA + delta, size, c->mem + offset, c->fd,
				   offset);
}

void conv_unbind(struct conv *c, u32 slot)
{
	vm_set_user_memory_region2(c->g.vm, slot, KVM_MEM_GUEST_MEMFD, 0, 0, NULL,
				   -1, 0);
}

void conv_open(struct conv *c, u64 flags)
{
	if (c->mem) {
		conv_unbind(c, TEST_SLOT);
		conv_close(c);
	}

	c->fd = vm_create_guest_memfd(c->g.vm, c->size, c->g.flags | flags);
	c->mem = c->g.hva;
	TEST_ASSERT(mmap(c->mem, c->size, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_FIXED, c->fd, 0) == c->mem,
		    "cannot map the file: %s", strerror(errno));
	conv_bind(c, TEST_SLOT, 0, c->size, 0);
}

void conv_close(struct conv *c)
{
	if (!c->mem)
		return;
	/* Leave the addresses reserved. */
	TEST_ASSERT(mmap(c->mem, c->size, PROT_NONE, MAP_PRIVATE | MAP_FIXED |
			 MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) == c->mem,
		    "cannot unmap the file: %s", strerror(errno));
	close(c->fd);
	c->mem = NULL;
	c->fd = -1;
}

int to_private_soon(struct conv *c, u64 offset, u64 size)
{
	const double end = conv_now() + POOL_PATIENCE;
	int r;

	do {
		r = to_private(c, offset, size);
	} while (r == EAGAIN && conv_now() < end);
	return r;
}

static void catch_sigbus(void);

const char *conv_setup(struct conv *c, unsigned int page_shift, u64 size, u64 flags)
{
	const u64 page_size = 1ULL << page_shift;
	const char *reason;

	if (!(kvm_check_cap(KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES) &
	      KVM_MEMORY_ATTRIBUTE_PRIVATE))
		return "no conversion in place";

	c->size = max(size, page_size);
	reason = gmem_setup(&c->g, page_shift, KVM_X86_SW_PROTECTED_VM,
			    c->size / page_size);
	if (reason)
		return reason;

	c->g.flags |= GUEST_MEMFD_FLAG_MMAP;
	conv_open(c, flags);
	catch_sigbus();
	return NULL;
}

void conv_free(struct conv *c)
{
	if (!c->g.vm)
		return;
	conv_close(c);
	gmem_free_vm(&c->g);
}

long conv_fdinfo(struct conv *c, const char *key)
{
	const char *value = gmem_fdinfo(c->fd, key);

	return value ? atol(value) : -1;
}

bool conv_wait_fdinfo(struct conv *c, const char *key, long want)
{
	const double end = conv_now() + 60;
	long value;

	while ((value = conv_fdinfo(c, key)) != want) {
		if (conv_now() > end) {
			ksft_print_msg("%s is %ld, not %ld\n", key, value, want);
			return false;
		}
		usleep(10000);
	}
	return true;
}

double conv_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

/*
 * The host
 */

static __thread sigjmp_buf sigbus_jmp;
static __thread volatile bool sigbus_expected;
static __thread volatile int sigbus_code;

static void sigbus_handler(int sig, siginfo_t *info, void *context)
{
	/* Let what comes unexpected kill the process. */
	if (!sigbus_expected) {
		signal(SIGBUS, SIG_DFL);
		return;
	}
	sigbus_code = info->si_code;
	siglongjmp(sigbus_jmp, 1);
}

static void catch_sigbus(void)
{
	const struct sigaction sa = {
		.sa_sigaction = sigbus_handler,
		.sa_flags = SA_SIGINFO | SA_NODEFER,
	};

	TEST_ASSERT(!sigaction(SIGBUS, &sa, NULL), "sigaction() failed");
}

enum host_op { HOST_READ, HOST_WRITE, HOST_TOUCH, HOST_POISON };

static int host_access(enum host_op op, void *p, u64 *value)
{
	int r = 0;

	if (sigsetjmp(sigbus_jmp, 0)) {
		sigbus_expected = false;
		return sigbus_code == BUS_MCEERR_AR ? EHWPOISON : EFAULT;
	}

	sigbus_expected = true;
	switch (op) {
	case HOST_READ:
		*value = READ_ONCE(*(u64 *)p);
		break;
	case HOST_WRITE:
		WRITE_ONCE(*(u64 *)p, *value);
		break;
	case HOST_TOUCH:
		asm volatile("lock orq $0, %0" : "+m"(*(u64 *)p) :: "cc");
		break;
	case HOST_POISON:
		/* A page that the kernel can handle costs this task a signal. */
		r = madvise(p, SZ_4K, MADV_HWPOISON) ? errno : 0;
		break;
	}
	sigbus_expected = false;
	return r;
}

int host_read(const void *p, u64 *value)
{
	return host_access(HOST_READ, (void *)p, value);
}

int host_write(void *p, u64 value)
{
	return host_access(HOST_WRITE, p, &value);
}

int host_touch(void *p)
{
	return host_access(HOST_TOUCH, p, NULL);
}

int host_poison(void *p)
{
	int r = host_access(HOST_POISON, p, NULL);

	/* EBUSY: the page is marked, and stays mapped. */
	return r == EHWPOISON || r == EBUSY ? 0 : r;
}

long conv_wrong_state(struct conv *c, u64 offset, u64 size, bool private)
{
	const int want = private ? EFAULT : 0;
	u64 o, value;
	long wrong = 0;
	int r;

	for (o = offset; o < offset + size; o += SZ_4K) {
		r = host_read(c->mem + o, &value);
		if (r == want)
			continue;
		if (!wrong++)
			ksft_print_msg("page 0x%lx is not %s: error %d\n", o / SZ_4K,
				       private ? "private" : "shared", r);
	}
	return wrong;
}

long host_mark(struct conv *c, u64 offset, u64 size, u64 seed)
{
	long wrong = 0;
	u64 o;

	for (o = offset; o < offset + size; o += SZ_4K)
		wrong += !!host_write(c->mem + o, o ^ seed);
	return wrong;
}

long host_check(struct conv *c, u64 offset, u64 size, u64 seed)
{
	long wrong = 0;
	u64 o, value;
	int r;

	for (o = offset; o < offset + size; o += SZ_4K) {
		value = 0;
		r = host_read(c->mem + o, &value);
		if (!r && value == (o ^ seed))
			continue;
		if (!wrong++)
			ksft_print_msg("page 0x%lx holds 0x%lx, not 0x%lx: error %d\n",
				       o / SZ_4K, value, o ^ seed, r);
	}
	return wrong;
}

bool host_mapped(const void *p)
{
	static int fd = -1;
	u64 entry;

	if (fd < 0)
		fd = open("/proc/self/pagemap", O_RDONLY);
	TEST_ASSERT(pread(fd, &entry, sizeof(entry),
			  (uintptr_t)p / SZ_4K * sizeof(entry)) == sizeof(entry),
		    "cannot read pagemap");
	return entry & BIT_ULL(63);
}

/*
 * The guest
 */

struct guest_maps conv_maps(struct conv *c)
{
	struct guest_maps m = {
		.nr_4k = vm_get_stat(c->g.vm, pages_4k),
		.nr_2m = vm_get_stat(c->g.vm, pages_2m),
		.nr_1g = vm_get_stat(c->g.vm, pages_1g),
	};
	int i;

	for (i = 0; i < NR_VCPUS; i++)
		m.faults += vcpu_get_stat(c->g.vcpu[i], pf_taken);
	return m;
}

/*
 * References
 */

int pipe_page(struct piped *pipe, const void *p)
{
	const struct iovec iov = { .iov_base = (void *)p, .iov_len = SZ_4K };

	TEST_ASSERT(!pipe2(pipe->fd, O_NONBLOCK), "pipe2() failed");
	if (vmsplice(pipe->fd[1], &iov, 1, 0) == SZ_4K)
		return 0;
	return errno;
}

void unpipe_page(struct piped *pipe)
{
	close(pipe->fd[0]);
	close(pipe->fd[1]);
}

int gup_test_open(void)
{
	return open("/sys/kernel/debug/gup_test", O_RDWR);
}

int gup_test_pin(int fd, const void *p, u64 size, bool fast)
{
	const struct pin_longterm_test args = {
		.addr = (uintptr_t)p,
		.size = size,
		.flags = PIN_LONGTERM_TEST_FLAG_USE_WRITE |
			 (fast ? PIN_LONGTERM_TEST_FLAG_USE_FAST : 0),
	};

	return ioctl(fd, PIN_LONGTERM_TEST_START, &args) ? errno : 0;
}

int gup_test_read(int fd, void *buf)
{
	u64 addr = (uintptr_t)buf;

	return ioctl(fd, PIN_LONGTERM_TEST_READ, &addr) ? errno : 0;
}

int gup_test_unpin(int fd)
{
	return ioctl(fd, PIN_LONGTERM_TEST_STOP) ? errno : 0;
}

int gup_test_fast(int fd, const void *p, u64 size, bool pin)
{
	struct gup_test args = {
		.addr = (uintptr_t)p,
		.size = size,
		.nr_pages_per_call = size / SZ_4K,
		.gup_flags = 1,	/* FOLL_WRITE */
	};

	return ioctl(fd, pin ? PIN_FAST_BENCHMARK : GUP_FAST_BENCHMARK, &args) ?
	       errno : 0;
}

int uring_setup(struct uring *ring)
{
	struct io_uring_params p = {};
	char *sq;

	ring->fd = syscall(__NR_io_uring_setup, 4, &p);
	if (ring->fd < 0)
		return errno;
	if (!(p.features & IORING_FEAT_SINGLE_MMAP))
		return ENOSYS;

	ring->ring_size = max_t(size_t, p.sq_off.array + p.sq_entries * sizeof(int),
				p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe));
	ring->sqes_size = p.sq_entries * sizeof(struct io_uring_sqe);
	sq = mmap(NULL, ring->ring_size, PROT_READ | PROT_WRITE, MAP_SHARED, ring->fd,
		  IORING_OFF_SQ_RING);
	ring->sqes = mmap(NULL, ring->sqes_size, PROT_READ | PROT_WRITE, MAP_SHARED,
			  ring->fd, IORING_OFF_SQES);
	TEST_ASSERT(sq != MAP_FAILED && ring->sqes != MAP_FAILED, "cannot map the ring");
	ring->ring = sq;
	ring->sq_tail = (void *)(sq + p.sq_off.tail);
	ring->sq_mask = (void *)(sq + p.sq_off.ring_mask);
	ring->sq_array = (void *)(sq + p.sq_off.array);
	ring->cq_head = (void *)(sq + p.cq_off.head);
	ring->cq_mask = (void *)(sq + p.cq_off.ring_mask);
	ring->cqes = (void *)(sq + p.cq_off.cqes);
	return 0;
}

void uring_free(struct uring *ring)
{
	kvm_munmap(ring->ring, ring->ring_size);
	kvm_munmap(ring->sqes, ring->sqes_size);
	close(ring->fd);
}

int uring_register(struct uring *ring, void *p, size_t size)
{
	struct iovec iov = { .iov_base = p, .iov_len = size };

	return syscall(__NR_io_uring_register, ring->fd, IORING_REGISTER_BUFFERS, &iov, 1) ?
	       errno : 0;
}

int uring_unregister(struct uring *ring)
{
	return syscall(__NR_io_uring_register, ring->fd, IORING_UNREGISTER_BUFFERS, NULL, 0) ?
	       errno : 0;
}

int uring_submit(struct uring *ring, int op, int fd, void *p, unsigned int len)
{
	const unsigned int tail = *ring->sq_tail, i = tail & *ring->sq_mask;

	ring->sqes[i] = (struct io_uring_sqe) {
		.opcode = op, .fd = fd, .addr = (uintptr_t)p, .len = len,
	};
	ring->sq_array[i] = i;
	__atomic_store_n(ring->sq_tail, tail + 1, __ATOMIC_RELEASE);
	return syscall(__NR_io_uring_enter, ring->fd, 1, 0, 0, NULL, 0) == 1 ? 0 : errno;
}

int uring_wait(struct uring *ring)
{
	int r;

	if (syscall(__NR_io_uring_enter, ring->fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0))
		return -errno;
	r = ring->cqes[*ring->cq_head & *ring->cq_mask].res;
	__atomic_store_n(ring->cq_head, *ring->cq_head + 1, __ATOMIC_RELEASE);
	return r;
}

int uring_do(struct uring *ring, int op, int fd, void *p, unsigned int len)
{
	const int r = uring_submit(ring, op, fd, p, len);

	return r ? -r : uring_wait(ring);
}

const char *tcp_connect(int pair[2])
{
	struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000001) };
	socklen_t len = sizeof(addr);
	int one = 1, listener;

	listener = socket(AF_INET, SOCK_STREAM, 0);
	if (listener < 0)
		return "no CONFIG_INET";
	pair[1] = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(listener, (struct sockaddr *)&addr, sizeof(addr)) || listen(listener, 1) ||
	    getsockname(listener, (struct sockaddr *)&addr, &len) ||
	    connect(pair[1], (struct sockaddr *)&addr, len)) {
		close(listener);
		close(pair[1]);
		return "no loopback device that is up";
	}
	pair[0] = accept(listener, NULL, NULL);
	close(listener);
	if (setsockopt(pair[1], SOL_SOCKET, SO_ZEROCOPY, &one, sizeof(one)))
		return "no SO_ZEROCOPY";
	return NULL;
}

static int tcp_send_filler(int fd, long *filled)
{
	static const char filler[SZ_64K];
	long n = send(fd, filler, SZ_64K, MSG_DONTWAIT);

	if (n <= 0)
		return n ? errno : EIO;
	*filled += n;
	return 0;
}

static int socket_bytes(int fd, unsigned long what)
{
	int nr = -1;

	TEST_ASSERT(!ioctl(fd, what, &nr), "cannot tell what TCP has to send");
	return nr;
}

/* All that was sent is acknowledged, and more is to be sent: there is no room for it. */
static bool tcp_blocked(int fd)
{
	int unsent, i;

	for (i = 0; i < 500; i++) {
		unsent = socket_bytes(fd, SIOCOUTQNSD);
		if (!unsent)
			return false;
		if (socket_bytes(fd, SIOCOUTQ) == unsent)
			return true;
		/* The receiver takes its time to acknowledge. */
		usleep(1000);
	}
	return false;
}

int tcp_fill(int pair[2], long *filled)
{
	const int small = SZ_64K, large = SZ_4M;
	int r;

	*filled = 0;
	if (setsockopt(pair[0], SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)) ||
	    setsockopt(pair[1], SOL_SOCKET, SO_SNDBUFFORCE, &large, sizeof(large)))
		return errno;
	do {
		r = tcp_send_filler(pair[1], filled);
	} while (!r && !tcp_blocked(pair[1]));
	/* There may be some room, too little for a packet.  The page is not to get it. */
	return r ?: tcp_send_filler(pair[1], filled);
}

int tcp_drain(int pair[2], long filled)
{
	static char filler[SZ_16K];
	long n;

	while (filled) {
		n = recv(pair[0], filler, min_t(long, filled, SZ_16K), 0);
		if (n <= 0)
			return n ? errno : EIO;
		filled -= n;
	}
	return 0;
}

int tcp_complete(int fd)
{
	const double end = conv_now() + POOL_PATIENCE;
	struct pollfd pfd = { .fd = fd };
	char control[128];
	struct msghdr msg = { .msg_control = control };

	do {
		msg.msg_controllen = sizeof(control);
		if (recvmsg(fd, &msg, MSG_ERRQUEUE) >= 0)
			return 0;
		poll(&pfd, 1, 10);
	} while (conv_now() < end);
	return ETIMEDOUT;
}

const char *nullb_open(int *fd, char *buf)
{
	*fd = open("/dev/nullb0", O_RDWR | O_DIRECT);
	if (*fd < 0)
		return "no block device /dev/nullb0";
	memset(buf, 0xa5, SZ_4K);
	if (pwrite(*fd, buf, SZ_4K, 0) != SZ_4K)
		return "cannot write to /dev/nullb0";
	memset(buf, 0, SZ_4K);
	if (pread(*fd, buf, SZ_4K, 0) != SZ_4K || (u8)buf[0] != 0xa5)
		return "/dev/nullb0 is not memory_backed";
	return NULL;
}

/*
 * Several slots
 */

void three_slots_setup(struct three_slots *t, struct conv *c, u64 seed)
{
	struct kvm_vm *vm = c->g.vm;

	t->c = c;
	conv_open(c, GUEST_MEMFD_FLAG_INIT_SHARED);
	conv_unbind(c, TEST_SLOT);
	conv_bind(c, TEST_SLOT, 0, WINDOW, 0);

	t->fd = vm_create_guest_memfd(vm, SZ_2M, 0);
	vm_set_user_memory_region2(vm, TEST_SLOT + 1, KVM_MEM_GUEST_MEMFD,
				   TEST_GPA + AT_STORES, SZ_2M, c->g.hva + SZ_2G,
				   t->fd, 0);

	t->other_fd = vm_create_guest_memfd(vm, OTHER_SIZE, GUEST_MEMFD_FLAG_MMAP |
					    GUEST_MEMFD_FLAG_INIT_SHARED);
	t->other = kvm_mmap(OTHER_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
			    t->other_fd);
	vm_set_user_memory_region2(vm, TEST_SLOT + 2, KVM_MEM_GUEST_MEMFD,
				   TEST_GPA + AT_OTHER, OTHER_SIZE, t->other,
				   t->other_fd, 0);
	guest_mark(c, 0, THREE_SIZE, seed);
}

void three_slots_free(struct three_slots *t)
{
	conv_unbind(t->c, TEST_SLOT + 1);
	conv_unbind(t->c, TEST_SLOT + 2);
	kvm_munmap(t->other, OTHER_SIZE);
	close(t->other_fd);
	close(t->fd);
}

bool three_slots_shared(struct three_slots *t, u64 seed)
{
	struct conv *c = t->c;
	u64 o, value;

	if (host_check(c, 0, WINDOW, seed))
		return false;
	for (o = 0; o < OTHER_SIZE; o += SZ_4K)
		if (host_read(t->other + o, &value) || value != ((AT_OTHER + o) ^ seed))
			return false;
	guest_check(c, 0, THREE_SIZE, seed);
	return conv_fdinfo(c, "gmem-shared") == c->size / 1024;
}

/*
 * Threads
 */

static void *loop(void *arg)
{
	struct looper *l = arg;

	while (!READ_ONCE(l->stop) && l->fn(l->arg))
		WRITE_ONCE(l->rounds, l->rounds + 1);
	return NULL;
}

void start_loop(struct looper *l, bool (*fn)(void *arg), void *arg)
{
	*l = (struct looper) { .fn = fn, .arg = arg };
	kvm_pthread_create(&l->thread, NULL, loop, l);
}

void stop_loop(struct looper *l)
{
	WRITE_ONCE(l->stop, true);
	kvm_pthread_join(l->thread, NULL);
}

bool loop_vcpu(void *vcpu)
{
	struct kvm_vcpu *v = vcpu;
	int r = run_vcpu(v);

	TEST_ASSERT(!r || (r == EFAULT && v->run->exit_reason == KVM_EXIT_MEMORY_FAULT),
		    "KVM_RUN failed: %s, exit %s", strerror(r),
		    exit_reason_str(v->run->exit_reason));
	return true;
}
