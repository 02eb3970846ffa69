// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of pages that outlive their guest_memfd.  The host takes hold of a page while
 * it is shared (struct holder).  Then the page leaves the file, or file, VM, cgroup or
 * KVM itself go.  The holder lets go before that, meanwhile, or after.
 *
 * At each step the counters must be those of a model (struct scene), the holder must
 * still read what was there, a new page must be zero, and what is not the holder's
 * must work as if the holder did not exist.
 *
 * Environment: GMEM_ROUNDS, how many random rounds; GMEM_SEED, what they are made of;
 * GMEM_FULL, all combinations with pages of 1G, which takes minutes; GMEM_TELL, print
 * each step.
 *
 * The program is also a process that keeps a page and has let go of all else of KVM
 * (--hold HOLDER KB), until it gets SIGUSR1.
 *
 * Needs root.  The rest of the pool is reserved, so that a page missing shows.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/io_uring.h>
#include <linux/iommufd.h>
#include <linux/kernel-page-flags.h>
#include <linux/sizes.h>

#include "../../../../drivers/iommu/iommufd/iommufd_test.h"

#include "guest_memfd_conversions.h"
#include "kvm_util.h"
#include "kvm_test_harness.h"
#include "processor.h"
#include "test_util.h"

/* Seconds.  A debug kernel on an emulated CPU takes its time. */
#define TIMEOUT		1200
/* For what takes moments, or never comes; also seconds */
#define PATIENCE	20

#define CG_NAME		"guest_memfd_lingering_test"

/* The page that is held unless a test says otherwise, and the seeds of what is marked */
#define PAGE		70
#define OLD_SEED	0x01d0000000000001ULL
#define NEW_SEED	0x9e30000000000003ULL
#define NEAR_SEED	0x7ea0000000000005ULL

/*
 * What holds pages
 */

struct hold {
	char *page;		/* in the file's mapping, which may be gone */
	u64 size;
	char *data;		/* as much: what the holder has read */
	u64 data_size;
	int fd;
	int pair[2];
	struct uring ring;
	long filler;		/* bytes in front of the page */
	u32 id;			/* of iommufd: an access to the I/O address space */
	u32 ioas;
	u64 iova;
	pthread_t thread;
	int error;
};

/* Functions that return an int return an error number, or 0. */
struct holder {
	const char *name;
	u64 min;		/* bytes that it holds, from one page on if that is 0 */
	u64 max;
	/* Why it cannot be tested, NULL if it can */
	const char *(*open)(struct hold *h);
	void (*close)(struct hold *h);
	int (*hold)(struct hold *h);
	/* Read what is held, into @data, and go on; NULL: release() does. */
	int (*read)(struct hold *h);
	/* Write @data to what is held; may be NULL. */
	int (*write)(struct hold *h);
	int (*release)(struct hold *h);
	/* It lets go by itself, in its time: does it still hold? */
	bool (*still)(struct hold *h);
	/* The last reference may be put after release() has returned. */
	bool late;
};

static u64 min_size(const struct holder *holder)
{
	return holder->min ?: SZ_4K;
}

static int result(long r, long want)
{
	return r == want ? 0 : r < 0 ? errno : EIO;
}

static void close_fd(struct hold *h)
{
	close(h->fd);
}

/* A pin as of a device, by get_user_pages() */

static const char *gup_open(struct hold *h)
{
	h->fd = gup_test_open();
	return h->fd < 0 ? "no CONFIG_GUP_TEST, or not root" : NULL;
}

static int gup_hold(struct hold *h)
{
	return gup_test_pin(h->fd, h->page, h->size, false);
}

static int gup_hold_fast(struct hold *h)
{
	return gup_test_pin(h->fd, h->page, h->size, true);
}

static int gup_read(struct hold *h)
{
	return gup_test_read(h->fd, h->data);
}

static int gup_release(struct hold *h)
{
	return gup_test_unpin(h->fd);
}

static const struct holder gup = {
	.name = "gup", .max = SZ_1G, .open = gup_open, .close = close_fd,
	.hold = gup_hold, .read = gup_read, .release = gup_release,
};

static const struct holder gup_fast = {
	.name = "gup_fast", .max = SZ_1G, .open = gup_open, .close = close_fd,
	.hold = gup_hold_fast, .read = gup_read, .release = gup_release,
};

/* References in a pipe */

static const char *open_nothing(struct hold *h)
{
	return NULL;
}

static void close_nothing(struct hold *h)
{
}

static int open_pipe(int fd[2], u64 size)
{
	if (pipe2(fd, O_NONBLOCK))
		return errno;
	return size <= SZ_64K || fcntl(fd[1], F_SETPIPE_SZ, size) >= (long)size ? 0 : errno;
}

static void close_pipe(int fd[2])
{
	close(fd[0]);
	close(fd[1]);
}

static int pipe_hold(struct hold *h)
{
	struct iovec iov = { .iov_base = h->page, .iov_len = h->size };
	int r = open_pipe(h->pair, h->size);
	long n;

	while (!r && iov.iov_len) {
		n = vmsplice(h->pair[1], &iov, 1, 0);
		if (n <= 0)
			r = n ? errno : EIO;
		iov.iov_base += n;
		iov.iov_len -= n;
	}
	if (r)
		close_pipe(h->pair);
	return r;
}

/* What is read is gone from a pipe, so have it in another one, too. */
static int pipe_read(struct hold *h)
{
	int copy[2], r;
	u64 done;
	long n;

	r = open_pipe(copy, h->size);
	if (!r)
		r = result(tee(h->pair[0], copy[1], h->size, 0), h->size);
	for (done = 0; !r && done < h->size; done += n) {
		n = read(copy[0], h->data + done, h->size - done);
		if (n <= 0)
			r = n ? errno : EIO;
	}
	close_pipe(copy);
	return r;
}

static int pipe_release(struct hold *h)
{
	close_pipe(h->pair);
	return 0;
}

static const struct holder in_pipe = {
	.name = "pipe", .max = SZ_2M, .open = open_nothing, .close = close_nothing,
	.hold = pipe_hold, .read = pipe_read, .release = pipe_release,
};

/* A buffer that is registered with io_uring, for files to be written from and read to */

/*
 * One ring for all.  When a ring goes, each task that has used it is interrupted as by a
 * signal, and KVM_CREATE_VM fails with EINTR then.
 */
static const char *get_ring(struct hold *h)
{
	static struct uring ring;
	static bool ready;

	if (!ready && uring_setup(&ring))
		return "no io_uring";
	ready = true;
	h->ring = ring;
	return NULL;
}

static const char *fixed_open(struct hold *h)
{
	const char *why = get_ring(h);

	if (why)
		return why;
	h->fd = memfd_create("uring", 0);
	return h->fd < 0 || ftruncate(h->fd, h->size) ? "no memfd" : NULL;
}

static int fixed_hold(struct hold *h)
{
	return uring_register(&h->ring, h->page, h->size);
}

static int fixed_read(struct hold *h)
{
	int r = uring_do(&h->ring, IORING_OP_WRITE_FIXED, h->fd, h->page, h->size);

	if (r != h->size)
		return r < 0 ? -r : EIO;
	return result(pread(h->fd, h->data, h->size, 0), h->size);
}

static int fixed_write(struct hold *h)
{
	int r = result(pwrite(h->fd, h->data, h->size, 0), h->size);

	if (r)
		return r;
	r = uring_do(&h->ring, IORING_OP_READ_FIXED, h->fd, h->page, h->size);
	return r == h->size ? 0 : r < 0 ? -r : EIO;
}

static int fixed_release(struct hold *h)
{
	return uring_unregister(&h->ring);
}

static const struct holder in_uring = {
	.name = "uring", .max = SZ_2M, .open = fixed_open, .close = close_fd,
	.hold = fixed_hold, .read = fixed_read, .write = fixed_write,
	.release = fixed_release,
};

/*
 * TCP sends the page without a copy, but not before the receiver has room for it.
 * Then the acknowledgment, which a softirq handles, puts the last reference.
 */

static const char *tcp_open(struct hold *h)
{
	return tcp_connect(h->pair);
}

static void tcp_close(struct hold *h)
{
	close_pipe(h->pair);
}

static int tcp_hold(struct hold *h)
{
	const int r = tcp_fill(h->pair, &h->filler);

	return r ?: result(send(h->pair[1], h->page, h->size, MSG_ZEROCOPY), h->size);
}

static int tcp_release(struct hold *h)
{
	const int r = tcp_drain(h->pair, h->filler);
	long n;

	if (r)
		return r;
	n = recv(h->pair[0], h->data, h->size, MSG_WAITALL);
	h->data_size = n > 0 ? n : 0;
	return result(n, h->size) ?: tcp_complete(h->pair[1]);
}

static const struct holder in_tcp = {
	.name = "tcp", .max = SZ_4K, .open = tcp_open, .close = tcp_close,
	.hold = tcp_hold, .release = tcp_release, .late = true,
};

/*
 * A packet with the page itself, for a port without a socket: a softirq drops it, and
 * the packet socket that watches the device has the page.
 */

static const char *packet_open(struct hold *h)
{
	struct sockaddr_ll addr = {
		.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP),
		.sll_ifindex = if_nametoindex("lo"),
	};

	h->fd = socket(AF_PACKET, SOCK_DGRAM, htons(ETH_P_IP));
	if (h->fd < 0)
		return "no CONFIG_PACKET, or not root";
	h->pair[0] = socket(AF_INET, SOCK_DGRAM, 0);
	if (h->pair[0] < 0)
		return "no CONFIG_INET";
	return bind(h->fd, (struct sockaddr *)&addr, sizeof(addr)) ?
	       "no loopback device" : NULL;
}

static void packet_close(struct hold *h)
{
	close(h->pair[0]);
	close(h->fd);
}

/* The headers of IP and UDP are in front. */
#define PACKET_HEAD	28

static int packet_read(struct hold *h)
{
	char buf[SZ_4K + PACKET_HEAD];
	int r;

	r = result(recv(h->fd, buf, sizeof(buf), MSG_PEEK | MSG_DONTWAIT), sizeof(buf));
	if (!r)
		memcpy(h->data, buf + PACKET_HEAD, SZ_4K);
	return r;
}

static int packet_hold(struct hold *h)
{
	struct sockaddr_in to = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
		.sin_port = htons(9),
	};
	struct pollfd pfd = { .fd = h->fd, .events = POLLIN };
	struct piped pipe;
	int r;

	if (connect(h->pair[0], (struct sockaddr *)&to, sizeof(to)))
		return errno;
	r = pipe_page(&pipe, h->page);
	if (!r)
		r = result(splice(pipe.fd[0], NULL, h->pair[0], NULL, SZ_4K, 0), SZ_4K);
	unpipe_page(&pipe);
	if (!r && poll(&pfd, 1, PATIENCE * 1000) != 1)
		r = EIO;
	return r ?: packet_read(h);
}

static int packet_release(struct hold *h)
{
	close(h->fd);
	h->fd = -1;
	return 0;
}

static const struct holder in_packet = {
	.name = "packet", .max = SZ_4K, .open = packet_open, .close = packet_close,
	.hold = packet_hold, .read = packet_read, .release = packet_release,
};

/* A device behind an IOMMU, both of them mocked */

static int iommu_test(struct hold *h, struct iommu_test_cmd *cmd, u32 op, u32 id)
{
	cmd->size = sizeof(*cmd);
	cmd->op = op;
	cmd->id = id;
	return ioctl(h->fd, IOMMU_TEST_CMD, cmd) ? errno : 0;
}

static const char *iommufd_open(struct hold *h)
{
	struct iommu_ioas_alloc alloc = { .size = sizeof(alloc) };
	struct iommu_test_cmd domain = {}, access = {};

	h->fd = open("/dev/iommu", O_RDWR);
	if (h->fd < 0)
		return "no /dev/iommu";
	if (ioctl(h->fd, IOMMU_IOAS_ALLOC, &alloc))
		return "no I/O address space";
	h->ioas = alloc.out_ioas_id;
	if (iommu_test(h, &domain, IOMMU_TEST_OP_MOCK_DOMAIN, h->ioas) ||
	    iommu_test(h, &access, IOMMU_TEST_OP_CREATE_ACCESS, h->ioas))
		return "no CONFIG_IOMMUFD_TEST";
	h->id = access.create_access.out_access_fd;
	return NULL;
}

static void iommufd_close(struct hold *h)
{
	close(h->id);
	close(h->fd);
}

static int iommufd_hold(struct hold *h)
{
	struct iommu_ioas_map map = {
		.size = sizeof(map),
		.flags = IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE,
		.ioas_id = h->ioas, .user_va = (uintptr_t)h->page, .length = h->size,
	};
	int r = ioctl(h->fd, IOMMU_IOAS_MAP, &map) ? errno : 0;

	h->iova = map.iova;
	return r;
}

/* What is pinned, as a device sees it.  Of a single page it would be what is mapped. */
static int iommufd_access(struct hold *h, u32 flags)
{
	struct iommu_test_cmd cmd = {
		.access_rw = {
			.iova = h->iova, .length = h->size,
			.flags = flags | MOCK_ACCESS_RW_SLOW_PATH,
			.uptr = (uintptr_t)h->data,
		},
	};

	return iommu_test(h, &cmd, IOMMU_TEST_OP_ACCESS_RW, h->id);
}

static int iommufd_read(struct hold *h)
{
	return iommufd_access(h, 0);
}

static int iommufd_write(struct hold *h)
{
	return iommufd_access(h, MOCK_ACCESS_RW_WRITE);
}

static int iommufd_release(struct hold *h)
{
	struct iommu_ioas_unmap unmap = {
		.size = sizeof(unmap), .ioas_id = h->ioas, .iova = h->iova,
		.length = h->size,
	};

	return ioctl(h->fd, IOMMU_IOAS_UNMAP, &unmap) ? errno : 0;
}

static const struct holder by_iommufd = {
	.name = "iommufd", .min = 2 * SZ_4K, .max = SZ_2M,
	.open = iommufd_open, .close = iommufd_close,
	.hold = iommufd_hold, .read = iommufd_read, .write = iommufd_write,
	.release = iommufd_release,
};

/*
 * A slow disk is being written to, by io_uring or by a thread.  When it is done, it
 * has what was written.
 */

static const char *disk_open(struct hold *h)
{
	const double start = conv_now();
	static bool known;
	const char *why;

	/* To look what it is takes time, and it remains the same. */
	if (known) {
		h->fd = open("/dev/nullb0", O_RDWR | O_DIRECT);
	} else {
		why = nullb_open(&h->fd, h->data);
		if (why)
			return why;
		/* That was two requests. */
		if (conv_now() - start < 1)
			return "/dev/nullb0 is too fast: load null_blk with irqmode=2";
		known = true;
	}
	return h->fd < 0 ? "cannot open /dev/nullb0 again" : get_ring(h);
}

static bool disk_still(struct hold *h)
{
	char text[64];
	int nr_reads, nr_writes;

	TEST_ASSERT(!cg_read("/sys/block/nullb0", "inflight", text, sizeof(text)) &&
		    sscanf(text, "%d %d", &nr_reads, &nr_writes) == 2,
		    "cannot tell what /dev/nullb0 does");
	return nr_writes;
}

/* Wait for the disk to begin. */
static int disk_begun(struct hold *h)
{
	const double end = conv_now() + PATIENCE;

	while (!disk_still(h)) {
		if (conv_now() > end)
			return EIO;
		sched_yield();
	}
	return 0;
}

/* Once is enough: each request takes seconds. */
static int disk_read_back(struct hold *h)
{
	static bool done;
	int r;

	if (done)
		return 0;
	done = true;
	r = result(pread(h->fd, h->data, h->size, 0), h->size);
	h->data_size = r ? 0 : h->size;
	return r;
}

static int in_flight_hold(struct hold *h)
{
	return uring_submit(&h->ring, IORING_OP_WRITE, h->fd, h->page, h->size) ?:
	       disk_begun(h);
}

static int in_flight_release(struct hold *h)
{
	const int r = uring_wait(&h->ring);

	if (r != h->size)
		return r < 0 ? -r : EIO;
	return disk_read_back(h);
}

static const struct holder in_flight = {
	.name = "in_flight", .max = SZ_4K, .open = disk_open, .close = close_fd,
	.hold = in_flight_hold, .release = in_flight_release, .still = disk_still,
	.late = true,
};

static void *direct_thread(void *arg)
{
	struct hold *h = arg;

	h->error = result(pwrite(h->fd, h->page, h->size, 0), h->size);
	return NULL;
}

static int direct_hold(struct hold *h)
{
	kvm_pthread_create(&h->thread, NULL, direct_thread, h);
	return disk_begun(h);
}

static int direct_release(struct hold *h)
{
	kvm_pthread_join(h->thread, NULL);
	return h->error ?: disk_read_back(h);
}

static const struct holder direct = {
	.name = "direct", .max = SZ_4K, .open = disk_open, .close = close_fd,
	.hold = direct_hold, .release = direct_release, .still = disk_still,
	.late = true,
};

/* Those that hold until they are told to let go */
static const struct holder * const holders[] = {
	&gup, &gup_fast, &in_pipe, &in_uring, &in_tcp, &in_packet, &by_iommufd,
};

/*
 * What is held, and what there is otherwise
 */

/* Pages, and how many of them are charged to the test's cgroups */
struct lot {
	long nr;
	long charged;
};

struct scene {
	struct conv c;
	unsigned int page_shift;
	struct pool_count before;	/* with what @hog has */
	struct kvm_vm *hog;		/* has reserved the rest of the pool */
	int hog_fd;
	int nr_vms;			/* without that of @c */
	struct gmem_cgroups cg;
	long nr;			/* pages of the file, huge ones if it has those */

	/* What is now */
	bool vm;
	bool file;
	bool child;			/* the cgroup, with this process in it */
	long rsvd_charged;
	u64 shared;			/* bytes of the file */
	struct lot in_file;		/* its first pages */
	struct lot awaited;		/* of this file */
	struct lot orphans;		/* of a file that is gone */
	bool settling;			/* pages are on their way home */

	/* What is held, and was from @offset on when it was taken */
	const struct holder *holder;
	struct hold h;
	bool held;
	bool held_in_file;
	long held_nr;
	u64 held_seed;
	u64 offset;
	u64 size;
	u64 pfn;			/* of its first page */

	/* A thread lets go while this one is at something else. */
	bool during;
	unsigned int delay;		/* in microseconds */
	bool go;
	int released;			/* what release() has returned */
	u64 seed;			/* of what the file's pages hold now */
	long nr_refused;		/* attempts to create a file while that thread ran */

	char story[1024];		/* what has happened, to print if it goes wrong */
};

static void tell(struct scene *l, const char *format, ...)
{
	const size_t len = strlen(l->story);
	va_list args;

	va_start(args, format);
	vsnprintf(l->story + len, sizeof(l->story) - len, format, args);
	va_end(args);
	/* For what neither fails nor ends */
	if (getenv("GMEM_TELL"))
		ksft_print_msg("%.3f%s\n", conv_now(), l->story + len);
}

static bool is_huge(struct scene *l)
{
	return l->page_shift > 12;
}

/* Some of what follows reports to the test that it is called by. */
#define CHECKER struct __test_metadata *_metadata, struct scene *l

/*
 * Each word of a page that is marked
 */

static void fill(void *p, u64 size, u64 offset, u64 seed)
{
	u64 o, *word;
	int i;

	for (o = 0; o < size; o += SZ_4K) {
		word = p + o;
		for (i = 0; i < SZ_4K / sizeof(*word); i++)
			WRITE_ONCE(word[i], ((offset + o) ^ seed) + i);
	}
}

/* The number of words that are not so; the first one is printed. */
static long wrong_words(const void *p, u64 size, u64 offset, u64 seed)
{
	long wrong = 0;
	const u64 *word;
	u64 o, want;
	int i;

	for (o = 0; o < size; o += SZ_4K) {
		word = p + o;
		for (i = 0; i < SZ_4K / sizeof(*word); i++) {
			want = seed ? ((offset + o) ^ seed) + i : 0;
			if (READ_ONCE(word[i]) == want)
				continue;
			if (!wrong++)
				ksft_print_msg("word %d of page 0x%lx is 0x%lx, not 0x%lx\n",
					       i, (offset + o) / SZ_4K, word[i], want);
		}
	}
	return wrong;
}

/* 0 if it cannot be told */
static u64 read_proc_page(const char *path, u64 index)
{
	int fd = open(path, O_RDONLY);
	u64 value = 0;

	if (fd >= 0 && pread(fd, &value, sizeof(value), index * sizeof(value)) < 0)
		value = 0;
	close(fd);
	return value;
}

static u64 pfn_at(const void *p)
{
	return read_proc_page("/proc/self/pagemap", (uintptr_t)p / SZ_4K) & (BIT_ULL(55) - 1);
}

/* HugeTLB has the page: it is neither lent nor on its way home. */
static bool is_home(u64 pfn)
{
	return read_proc_page("/proc/kpageflags", pfn) >> KPF_HUGE & 1;
}

/*
 * The counters
 */

static void expect_lot(CHECKER)
{
	const long lost = l->awaited.nr + l->orphans.nr;
	const long reserved = l->file ? l->nr - l->in_file.nr - l->awaited.nr : 0;
	const long charged = l->in_file.charged + l->awaited.charged + l->orphans.charged;
	const size_t page_size = l->c.g.page_size;
	struct pool_count want = l->before;

	if (!is_huge(l))
		return;
	want.free -= l->in_file.nr + lost;
	want.resv += reserved;
	EXPECT_TRUE(pool_compare(page_size, &want, false, l->settling ? POOL_PATIENCE : 0));
	/* Of a file that is there, fdinfo tells what is awaited. */
	EXPECT_EQ(l->orphans.nr, cg_read_long(pool_dir(page_size, -1), "awaited_hugepages"));
	if (page_size == cg_read_key_long("/proc", "meminfo", "Hugepagesize:") << 10) {
		EXPECT_EQ(want.nr, cg_read_key_long("/proc", "meminfo", "HugePages_Total:"));
		EXPECT_EQ(want.free, cg_read_key_long("/proc", "meminfo", "HugePages_Free:"));
		EXPECT_EQ(want.resv, cg_read_key_long("/proc", "meminfo", "HugePages_Rsvd:"));
	}
	EXPECT_TRUE(gmem_hugetlb_is(&l->c.g, l->cg.parent, charged, l->rsvd_charged));
	if (l->child)
		EXPECT_TRUE(gmem_hugetlb_is(&l->c.g, l->cg.child, charged,
					    l->rsvd_charged));
	/* Some other user may have got the page that has come home. */
	if (l->held && l->pfn)
		EXPECT_FALSE(is_home(l->pfn));
}

static void expect_file(CHECKER)
{
	const long kb = l->c.g.page_size >> 10;

	if (!l->file)
		return;
	EXPECT_EQ(l->in_file.nr, gmem_nr_allocated(&l->c.g, l->c.fd));
	EXPECT_EQ(l->in_file.nr * kb, conv_fdinfo(&l->c, "gmem-allocated"));
	EXPECT_EQ(l->c.size >> 10, conv_fdinfo(&l->c, "gmem-size"));
	EXPECT_EQ(l->shared >> 10, conv_fdinfo(&l->c, "gmem-shared"));
	EXPECT_EQ((l->c.size - l->shared) >> 10, conv_fdinfo(&l->c, "gmem-private"));
	if (!is_huge(l))
		return;
	EXPECT_EQ(l->awaited.nr * kb, conv_fdinfo(&l->c, "gmem-awaited"));
	EXPECT_EQ((l->nr - l->in_file.nr - l->awaited.nr) * kb,
		  conv_fdinfo(&l->c, "gmem-reserved"));
}

/* All is as the model says. */
static void expect_state(CHECKER)
{
	expect_lot(_metadata, l);
	expect_file(_metadata, l);
	/* A file has its VM, whatever became of the VM's own descriptor. */
	EXPECT_EQ(l->nr_vms + (l->vm || l->file), gmem_nr_vms());
	/* The disk is to be slower than what was just looked at. */
	if (l->held && l->holder->still)
		EXPECT_TRUE(l->holder->still(&l->h));
	l->settling = false;
}

/*
 * Setting up
 */

/* Why it cannot be tested, NULL if it can */
static const char *scene_setup(struct scene *l, unsigned int page_shift)
{
	static char reason[96];
	const u64 page_size = 1ULL << page_shift;
	long avail;

	memset(l, 0, sizeof(*l));
	l->page_shift = page_shift;
	l->c.size = max_t(u64, WINDOW, page_size);
	l->c.g.page_size = page_size;
	l->nr = l->c.size / page_size;
	l->hog_fd = -1;
	if (geteuid())
		return "needs root";
	if (page_shift > 12 && !(kvm_check_cap(KVM_CAP_GUEST_MEMFD_HUGETLB) &
				 BIT(page_shift - 12)))
		return "no huge pages of that size";

	read_pool(page_size, &l->before);
	if (is_huge(l)) {
		avail = l->before.free - l->before.resv;
		if (avail < l->nr) {
			snprintf(reason, sizeof(reason), "needs %ld free huge pages of %lu kB",
				 l->nr, (long)page_size >> 10);
			return reason;
		}
		l->hog = vm_create_barebones();
		if (avail > l->nr)
			l->hog_fd = vm_create_guest_memfd(l->hog, (avail - l->nr) * page_size,
							  hugetlb_flags(page_shift));
		read_pool(page_size, &l->before);
		if (!gmem_make_cgroups(&l->cg, CG_NAME, "hugetlb"))
			return "needs the hugetlb controller in " CG_ROOT;
	}
	if (!gmem_make_cgroups(&l->cg, CG_NAME, "memory"))
		return "needs the memory controller in " CG_ROOT;
	/* Each round makes its own. */
	rmdir(l->cg.child);
	l->nr_vms = gmem_nr_vms();
	return l->nr_vms < 0 ? "needs debugfs" : NULL;
}

static bool leave_cgroup(struct scene *l)
{
	return !cg_enter_current(CG_ROOT);
}

/*
 * The events.  Each changes the model, and expects to see what it says.
 */

static long charged(struct scene *l, long nr)
{
	return is_huge(l) && l->child ? nr : 0;
}

static void do_cgroup(CHECKER)
{
	const double end = conv_now() + PATIENCE;

	tell(l, " rmdir");
	ASSERT_TRUE(leave_cgroup(l));
	/* A thread that was joined may be there for another moment. */
	while (rmdir(l->cg.child)) {
		ASSERT_EQ(EBUSY, errno);
		ASSERT_GT(end, conv_now());
		usleep(100);
	}
	l->child = false;
}

/* Have a VM and a file; at the beginning of a round in a cgroup of their own. */
static void do_open(CHECKER)
{
	const char *why = NULL;

	tell(l, " open");
	if (l->vm) {
		conv_open(&l->c, 0);
	} else {
		why = conv_setup(&l->c, l->page_shift, WINDOW, 0);
		ASSERT_EQ(NULL, why) {
			TH_LOG("%s", why);
		}
	}
	l->vm = true;
	l->file = true;
	l->shared = 0;
	l->seed = 0;
	l->rsvd_charged = charged(l, l->nr);
}

/* All of the file: its holes, and the pages that are held */
static void leave_file(struct scene *l)
{
	if (l->held && l->held_in_file) {
		l->awaited.nr += is_huge(l) ? l->held_nr : 0;
		l->awaited.charged += l->in_file.charged ? l->held_nr : 0;
	}
	l->held_in_file = false;
	l->in_file = (struct lot) {};
	l->seed = 0;
}

static void do_punch(CHECKER)
{
	tell(l, " punch");
	EXPECT_EQ(0, gmem_punch(&l->c.g, l->c.fd, 0, l->nr));
	leave_file(l);
}

/* Of a VM that is gone; random rounds make many, and addresses must not run out. */
static void free_addresses(struct scene *l)
{
	if (!l->vm && !l->file)
		kvm_munmap(l->c.g.hva, GUEST_SIZE);
}

static void close_file(struct scene *l)
{
	conv_close(&l->c);
	leave_file(l);
	l->file = false;
	l->rsvd_charged = 0;
	l->orphans.nr += l->awaited.nr;
	l->orphans.charged += l->awaited.charged;
	l->awaited = (struct lot) {};
	free_addresses(l);
}

static void do_close(CHECKER)
{
	tell(l, " close");
	if (l->vm)
		conv_unbind(&l->c, TEST_SLOT);
	close_file(l);
}

/* The memslot stays while the file goes. */
static void do_close_bound(CHECKER)
{
	tell(l, " close_bound");
	close_file(l);
	if (l->vm)
		conv_unbind(&l->c, TEST_SLOT);
}

static void do_vm(CHECKER)
{
	tell(l, " VM");
	gmem_free_vm(&l->c.g);
	l->vm = false;
	free_addresses(l);
}

static void do_close_and_vm(CHECKER)
{
	tell(l, " close VM");
	close_file(l);
	gmem_free_vm(&l->c.g);
	l->vm = false;
	free_addresses(l);
}

/* Pages that are to be had without waiting, or with it while a thread lets go */
static long nr_to_be_had(struct scene *l)
{
	return l->during ? l->nr : l->nr - l->awaited.nr;
}

static void ignore_signal(int sig)
{
}

/* A page that is held cannot be had: fallocate() waits until a signal arrives. */
static void do_populate_in_vain(CHECKER)
{
	const struct itimerval timer = { .it_value.tv_usec = 20000, .it_interval.tv_usec = 20000 };
	const struct sigaction sa = { .sa_handler = ignore_signal };
	const struct itimerval never = {};
	struct sigaction old;

	sigaction(SIGALRM, &sa, &old);
	setitimer(ITIMER_REAL, &timer, NULL);
	EXPECT_EQ(EINTR, gmem_populate(&l->c.g, l->c.fd, 0, l->nr));
	setitimer(ITIMER_REAL, &never, NULL);
	sigaction(SIGALRM, &old, NULL);
}

static bool is_in_file(struct scene *l, u64 offset)
{
	return l->file && offset < l->in_file.nr * l->c.g.page_size;
}

/* All that is shared */
static bool is_shared_there(struct scene *l)
{
	return l->shared && is_in_file(l, l->offset + l->size - 1);
}

/* The pages around those that are shared; false if the file ends there. */
static bool left_neighbour(struct scene *l, u64 *offset)
{
	*offset = l->offset - SZ_4K;
	return l->offset;
}

static bool right_neighbour(struct scene *l, u64 *offset)
{
	*offset = l->offset + l->size;
	return *offset < l->c.size;
}

/* Completions of io_uring interrupt a vCPU. */
static void guest_run_restarted(struct scene *l, enum guest_op op, u64 offset, u64 seed)
{
	int r;

	set_vcpu_cmd(&l->c.g, 0, op, offset, SZ_4K, seed);
	do {
		r = run_vcpu(l->c.g.vcpu[0]);
	} while (r == EINTR);
	TEST_ASSERT(!r, "KVM_RUN failed: %s,%s", strerror(r), l->story);
}

static void guest_run_at(struct scene *l, enum guest_op op, u64 seed)
{
	u64 o;

	if (!l->vm)
		return;
	if (left_neighbour(l, &o) && is_in_file(l, o))
		guest_run_restarted(l, op, o, seed);
	if (right_neighbour(l, &o) && is_in_file(l, o))
		guest_run_restarted(l, op, o, seed);
}

/* Some of what is shared, for host_*() */
static u64 sample(struct scene *l)
{
	return min_t(u64, l->size, SZ_2M);
}

/* What the file has now is marked by the host and, around that, by the guest. */
static void mark(CHECKER, u64 seed)
{
	if (!is_shared_there(l))
		return;
	fill(l->c.mem + l->offset, sample(l), l->offset, seed);
	guest_run_at(l, OP_MARK, seed);
	l->seed = seed;
}

static void expect_marked(CHECKER)
{
	if (!l->seed || !is_shared_there(l))
		return;
	EXPECT_EQ(0, wrong_words(l->c.mem + l->offset, sample(l), l->offset, l->seed));
	guest_run_at(l, OP_CHECK_MARK, l->seed);
}

/* What a task has to do for its io_uring interrupts it as a signal does. */
static int populate_restarted(struct scene *l, long nr)
{
	int i, r = EINTR;

	for (i = 0; r == EINTR && i < 100; i++)
		r = gmem_populate(&l->c.g, l->c.fd, 0, nr);
	return r;
}

static void do_populate(CHECKER)
{
	const long nr = is_huge(l) ? nr_to_be_had(l) : l->nr;
	const bool was_there = is_shared_there(l);
	const long had = l->in_file.nr;

	tell(l, " populate");
	/* Pages that are there are not asked for again. */
	if (nr > had)
		EXPECT_EQ(0, populate_restarted(l, nr)) {
			TH_LOG("%s", l->story);
		}
	if (nr < l->nr)
		do_populate_in_vain(_metadata, l);
	l->in_file.nr = nr;
	l->in_file.charged += charged(l, nr - had);

	if (was_there || !is_shared_there(l))
		return;
	EXPECT_EQ(0, wrong_words(l->c.mem + l->offset, sample(l), l->offset, 0));
	guest_run_at(l, OP_CHECK_ZERO, 0);
	mark(_metadata, l, NEW_SEED);
}

/* Have pages of the file that are shared, marked and held. */
static void do_hold(CHECKER, const struct holder *holder, u64 offset, u64 size)
{
	const u64 page_size = l->c.g.page_size;
	const char *why;

	tell(l, " %s(0x%lx+0x%lx)", holder->name, offset / SZ_4K, size / SZ_4K);
	l->offset = offset;
	l->size = size;
	EXPECT_EQ(0, to_shared(&l->c, offset, size));
	l->shared = size;
	mark(_metadata, l, OLD_SEED);
	l->pfn = is_huge(l) ? pfn_at(l->c.mem + offset) : 0;
	if (is_huge(l))
		EXPECT_NE(0, l->pfn);

	l->holder = holder;
	l->h = (struct hold) { .page = l->c.mem + offset, .size = size, .fd = -1 };
	l->h.data = kvm_mmap(sample(l), PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1);
	why = holder->open(&l->h);
	ASSERT_EQ(NULL, why) {
		TH_LOG("%s: %s", holder->name, why);
	}
	ASSERT_EQ(0, holder->hold(&l->h)) {
		TH_LOG("%s", l->story);
	}
	l->held = true;
	l->held_in_file = true;
	l->held_nr = (offset + size - 1) / page_size - offset / page_size + 1;
	l->held_seed = OLD_SEED;
}

static void expect_held_data(CHECKER)
{
	/* Of a whole page of 1G the tests read what they have marked. */
	if (!l->held || !l->holder->read || l->size > SZ_2M)
		return;
	memset(l->h.data, 0, l->size);
	EXPECT_EQ(0, l->holder->read(&l->h));
	EXPECT_EQ(0, wrong_words(l->h.data, l->size, l->offset, l->held_seed)) {
		TH_LOG("the holder reads something else:%s", l->story);
	}
}

/* The holder writes: to nothing but what it has held all the time. */
static void do_write(CHECKER)
{
	tell(l, " write");
	l->held_seed ^= 0x1000000000000ULL;
	fill(l->h.data, l->size, l->offset, l->held_seed);
	EXPECT_EQ(0, l->holder->write(&l->h));
	if (l->held_in_file)
		l->seed = 0;
	expect_held_data(_metadata, l);
	expect_marked(_metadata, l);
}

/* The holder has let go, be it that this was waited for. */
static void has_released(CHECKER)
{
	EXPECT_EQ(0, l->released) {
		TH_LOG("%s", l->story);
	}
	if (!l->holder->read && !l->holder->still)
		EXPECT_EQ(l->size, l->h.data_size);
	if (l->h.data_size)
		EXPECT_EQ(0, wrong_words(l->h.data, l->size, l->offset, l->held_seed)) {
			TH_LOG("the holder had something else:%s", l->story);
		}
	l->holder->close(&l->h);
	kvm_munmap(l->h.data, sample(l));
	l->held = false;
	l->awaited = (struct lot) {};
	l->orphans = (struct lot) {};
	l->settling = true;
}

static void do_release(CHECKER)
{
	tell(l, " release");
	l->released = l->holder->release(&l->h);
	has_released(_metadata, l);
}

static void *release_thread(void *arg)
{
	struct scene *l = arg;

	while (!READ_ONCE(l->go))
		;
	if (l->delay)
		usleep(l->delay);
	l->released = l->holder->release(&l->h);
	return NULL;
}

typedef void (*event_fn)(CHECKER);

/* An event, while a thread has the holder let go or nothing else happens */
static void act(CHECKER, event_fn fn, bool during)
{
	pthread_t thread;

	if (!during) {
		fn(_metadata, l);
		return;
	}

	tell(l, " release(%u us)&", l->delay);
	l->during = true;
	WRITE_ONCE(l->go, false);
	kvm_pthread_create(&thread, NULL, release_thread, l);
	WRITE_ONCE(l->go, true);
	fn(_metadata, l);
	kvm_pthread_join(thread, NULL);
	l->during = false;
	has_released(_metadata, l);
}

/*
 * What is held does not become private.  What is around it does, to and fro, and is
 * not affected by being split and merged around a page in use.
 */
static void turn_neighbours(CHECKER)
{
	u64 side[2], where, from, to;
	int i, n = 0;

	if (!l->file || l->in_file.nr < l->nr)
		return;
	tell(l, " turn");
	n += left_neighbour(l, &side[n]);
	n += right_neighbour(l, &side[n]);
	from = n && side[0] < l->offset ? side[0] : l->offset;
	to = min(l->offset + l->size + SZ_4K, l->c.size);

	if (l->held && l->held_in_file) {
		EXPECT_EQ(EAGAIN, gmem_convert(l->c.fd, from, to - from, true, &where));
		EXPECT_EQ(l->offset, where);
	} else {
		/* That of another file may be private all the time. */
		EXPECT_EQ(0, to_private_soon(&l->c, l->offset, l->size));
		if (l->shared)
			EXPECT_EQ(0, to_shared(&l->c, l->offset, l->size));
	}
	for (i = 0; i < n; i++) {
		if (l->vm)
			guest_run_restarted(l, OP_MARK, side[i], NEAR_SEED);
		EXPECT_EQ(0, to_shared(&l->c, side[i], SZ_4K));
		if (l->vm)
			EXPECT_EQ(0, host_check(&l->c, side[i], SZ_4K, NEAR_SEED));
		EXPECT_EQ(0, host_mark(&l->c, side[i], SZ_4K, l->seed ?: NEAR_SEED));
		EXPECT_EQ(0, to_private(&l->c, side[i], SZ_4K));
		EXPECT_EQ(0, conv_wrong_state(&l->c, side[i], SZ_4K, true));
	}
	expect_marked(_metadata, l);
}

/* Nothing is there any more but a VM, and all is as before. */
static void finish_round(CHECKER)
{
	if (l->held)
		do_release(_metadata, l);
	if (l->file)
		do_close(_metadata, l);
	if (l->child)
		do_cgroup(_metadata, l);
	expect_state(_metadata, l);
	EXPECT_TRUE(pool_same(l->c.g.page_size, &l->before));
	if (is_huge(l) && l->pfn)
		EXPECT_TRUE(is_home(l->pfn));
	if (!__test_passed(_metadata))
		TH_LOG("that was%s", l->story);
}

static void finish(CHECKER)
{
	finish_round(_metadata, l);
	if (l->vm)
		do_vm(_metadata, l);
	EXPECT_EQ(l->nr_vms, gmem_nr_vms());
}

static void begin(CHECKER)
{
	l->story[0] = 0;
	l->pfn = 0;
	l->seed = 0;
	if (!l->child) {
		ASSERT_EQ(0, cg_create(l->cg.child));
		ASSERT_EQ(0, cg_enter_current(l->cg.child));
		l->child = true;
	}
	do_open(_metadata, l);
	do_populate(_metadata, l);
}

/*
 * The matrix
 */

FIXTURE(linger)
{
	struct scene l;
};

FIXTURE_VARIANT(linger)
{
	unsigned int page_shift;
};

FIXTURE_VARIANT_ADD(linger, 4k) { .page_shift = 12 };
FIXTURE_VARIANT_ADD(linger, 2m) { .page_shift = 21 };
FIXTURE_VARIANT_ADD(linger, 1g) { .page_shift = 30 };

FIXTURE_SETUP(linger)
{
	const char *why = scene_setup(&self->l, variant->page_shift);

	if (why)
		SKIP(return, "%s", why);
}

/* What the memory cgroup has of huge pages; its statistics lag behind. */
static void clean_up(CHECKER)
{
	leave_cgroup(l);
	if (l->cg.parent[0] && is_huge(l) &&
	    cg_read_key_long(l->cg.parent, "memory.stat", "hugetlb ") >= 0)
		EXPECT_EQ(0, cg_read_key_long_poll(l->cg.parent, "memory.stat", "hugetlb ", 0,
						   200, DEFAULT_WAIT_INTERVAL_US));
	EXPECT_TRUE(gmem_remove_cgroups(&l->cg));
}

/* Runs when the process that ran the test is gone, whatever ended it. */
FIXTURE_TEARDOWN_PARENT(linger)
{
	clean_up(_metadata, &self->l);
}

enum order { BEFORE, DURING, AFTER, NR_ORDERS };

static const event_fn events[] = {
	do_punch, do_close, do_close_and_vm, do_vm, do_cgroup,
};

/* The file is gone, and some of its pages are held: there are not enough for another. */
static void do_create_in_vain(CHECKER)
{
	tell(l, " create?");
	EXPECT_EQ(ENOMEM, gmem_create_errno(&l->c.g, l->nr));
	if (l->nr > l->orphans.nr)
		EXPECT_EQ(0, gmem_create_errno(&l->c.g, l->nr - l->orphans.nr));
}

/* The file is still there: have pages in place of what is held. */
static void allocate_again(CHECKER)
{
	if (l->in_file.nr)
		do_punch(_metadata, l);
	expect_state(_metadata, l);
	expect_held_data(_metadata, l);
	if (!l->held) {
		/* At once, although pages may be on their way home */
		do_populate(_metadata, l);
		expect_state(_metadata, l);
		return;
	}

	do_populate(_metadata, l);
	expect_state(_metadata, l);
	expect_held_data(_metadata, l);
	if (l->holder->write)
		do_write(_metadata, l);
	/* The task waits, and has all of them when the holder lets go. */
	act(_metadata, l, do_populate, true);
	expect_state(_metadata, l);
	turn_neighbours(_metadata, l);
	expect_state(_metadata, l);
}

/*
 * A page that is held is not on its way, so that there is no waiting for it; whichever
 * moment the holder lets go, the file can be created from then on.
 */
static void do_open_soon(CHECKER)
{
	const double end = conv_now() + PATIENCE;
	int r;

	tell(l, " create...");
	for (;;) {
		r = gmem_create_errno(&l->c.g, l->nr);
		if (r != ENOMEM || conv_now() > end)
			break;
		l->nr_refused++;
	}
	EXPECT_EQ(0, r);
	do_open(_metadata, l);
}

/* The file is gone: have another one of the same size. */
static void create_again(CHECKER)
{
	if (l->held) {
		expect_held_data(_metadata, l);
		if (l->holder->write)
			do_write(_metadata, l);
		if (l->vm && is_huge(l))
			do_create_in_vain(_metadata, l);
		expect_state(_metadata, l);
		if (l->vm && l->delay) {
			act(_metadata, l, do_open_soon, true);
			goto opened;
		}
		do_release(_metadata, l);
	}
	/* If the page has returned, it need not be home. */
	if (!l->vm || l->holder->late)
		expect_state(_metadata, l);
	do_open(_metadata, l);
opened:
	do_populate(_metadata, l);
	expect_state(_metadata, l);
}

static void play(CHECKER, const struct holder *holder, u64 offset, u64 size,
		 event_fn event, enum order order)
{
	begin(_metadata, l);
	expect_state(_metadata, l);
	do_hold(_metadata, l, holder, offset, size);
	expect_state(_metadata, l);
	turn_neighbours(_metadata, l);
	expect_held_data(_metadata, l);
	expect_state(_metadata, l);

	if (order == BEFORE) {
		do_release(_metadata, l);
		expect_state(_metadata, l);
	}
	act(_metadata, l, event, order == DURING);
	expect_state(_metadata, l);
	expect_held_data(_metadata, l);

	if (l->file)
		allocate_again(_metadata, l);
	else
		create_again(_metadata, l);
	finish_round(_metadata, l);
}

/* Why a holder cannot be tested, NULL if it can */
static const char *probe(const struct holder *holder)
{
	struct hold h = { .size = SZ_4K, .fd = -1 };
	const char *why;

	h.data = kvm_mmap(SZ_4K, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	why = holder->open(&h);
	if (!why)
		holder->close(&h);
	kvm_munmap(h.data, SZ_4K);
	return why;
}

/* Also at the moment, and at others that calls may have come to */
static const unsigned int delays[] = { 0, 20, 100, 400, 1500, 5000, 0, 50 };

/* Clearing 1G takes seconds, and each combination does it twice. */
#define TOO_LONG	"takes minutes with pages of 1G: set GMEM_FULL"

static void play_all(CHECKER, const struct holder *holder)
{
	const char *why = probe(holder);
	const double start = conv_now();
	enum order order;
	int event, n = 0;

	if (why)
		SKIP(return, "%s", why);
	if (l->page_shift == 30 && !getenv("GMEM_FULL"))
		SKIP(return, TOO_LONG);
	for (event = 0; event < ARRAY_SIZE(events); event++) {
		for (order = 0; order < NR_ORDERS; order++) {
			/* It lets go by itself, after what the test is at. */
			if (holder->still && order != AFTER)
				continue;
			/* No pool is to be put in order: one of each is enough. */
			if (!is_huge(l) && !holder->still && order != event % NR_ORDERS)
				continue;
			l->delay = delays[(event * NR_ORDERS + order) % ARRAY_SIZE(delays)];
			play(_metadata, l, holder, P(PAGE), min_size(holder),
			     events[event], order);
			n++;
			if (!__test_passed(_metadata))
				return;
		}
	}
	finish(_metadata, l);
	TH_LOG("%s: %d combinations in %.1f s; %ld times too few pages to create a file",
	       holder->name, n, conv_now() - start, l->nr_refused);
}

#define TEST_HOLDER(name)						\
	TEST_F_TIMEOUT(linger, name, TIMEOUT)				\
	{								\
		play_all(_metadata, &self->l, &name);			\
	}

TEST_HOLDER(gup)
TEST_HOLDER(in_pipe)
TEST_HOLDER(in_uring)
TEST_HOLDER(in_tcp)
TEST_HOLDER(in_packet)
TEST_HOLDER(by_iommufd)
TEST_HOLDER(in_flight)
TEST_HOLDER(direct)

/* All of 2M at once, by all that can */
TEST_F_TIMEOUT(linger, whole_2m, TIMEOUT)
{
	enum order order;
	int i, n = 0;

	if (variant->page_shift != 21)
		SKIP(return, "is about a page of 2M");
	for (i = 0; i < ARRAY_SIZE(holders); i++) {
		if (holders[i]->max < SZ_2M || probe(holders[i]))
			continue;
		for (order = 0; order < NR_ORDERS; order++, n++) {
			self->l.delay = delays[n % ARRAY_SIZE(delays)];
			play(_metadata, &self->l, holders[i], SZ_2M, SZ_2M,
			     events[n % ARRAY_SIZE(events)], order);
			if (!__test_passed(_metadata))
				return;
		}
	}
	EXPECT_LT(0, n);
	finish(_metadata, &self->l);
}

/*
 * All pages of a huge page, 262,144 of 1G, are shared and pinned, but for one in the
 * middle that converts, and one at the end.
 */
TEST_F_TIMEOUT(linger, all_pages, TIMEOUT)
{
	struct scene *l = &self->l;
	struct conv *c = &l->c;
	const u64 size = max_t(u64, c->g.page_size, SZ_2M), middle = size / 2;
	struct { u64 from, to; int fd; } part[] = {
		{ SZ_64K, middle }, { middle + SZ_4K, size - SZ_4K },
	};
	struct hold whole = { .page = NULL };
	double start, pinned, unpinned;
	u64 where;
	int i;

	if (probe(&gup))
		SKIP(return, "%s", probe(&gup));
	begin(_metadata, l);
	do_hold(_metadata, l, &gup, 0, SZ_64K);
	EXPECT_EQ(0, to_shared(c, 0, size));
	l->shared = size;
	start = conv_now();
	for (i = 0; i < ARRAY_SIZE(part); i++) {
		part[i].fd = gup_test_open();
		ASSERT_EQ(0, gup_test_pin(part[i].fd, c->mem + part[i].from,
					  part[i].to - part[i].from, i));
	}
	pinned = conv_now();
	if (is_huge(l))
		EXPECT_LE((size - P(2)) / SZ_4K, conv_fdinfo(c, "gmem-folios-4kB"));
	expect_state(_metadata, l);

	/* Those that are not pinned convert, and no other. */
	guest_mark(c, middle, P(1), OLD_SEED);
	for (i = 0; i < 3; i++) {
		EXPECT_EQ(EAGAIN, gmem_convert(c->fd, 0, size, true, &where));
		EXPECT_EQ(0, where);
		EXPECT_EQ(EAGAIN, gmem_convert(c->fd, middle, P(2), true, &where));
		EXPECT_EQ(middle + SZ_4K, where);
		EXPECT_EQ(EAGAIN, gmem_convert(c->fd, size - P(2), P(2), true, &where));
		EXPECT_EQ(size - P(2), where);
		EXPECT_EQ(0, host_check(c, middle, P(1), OLD_SEED));
		EXPECT_EQ(0, to_private(c, middle, P(1)));
		EXPECT_PRIVATE(middle, P(1));
		guest_check(c, middle, P(1), OLD_SEED);
		EXPECT_EQ(0, to_private(c, size - P(1), P(1)));
		EXPECT_EQ(0, to_shared(c, size - P(1), P(1)));
		EXPECT_EQ(0, to_shared(c, middle, P(1)));
	}
	expect_state(_metadata, l);
	expect_held_data(_metadata, l);

	do_punch(_metadata, l);
	expect_state(_metadata, l);
	/* It is awaited until the last of its pages has returned. */
	for (i = 0; i < ARRAY_SIZE(part); i++) {
		EXPECT_EQ(0, gup_test_unpin(part[i].fd));
		close(part[i].fd);
		expect_state(_metadata, l);
		expect_held_data(_metadata, l);
	}
	unpinned = conv_now();
	l->delay = 1000;
	act(_metadata, l, do_populate, true);
	expect_state(_metadata, l);

	if (variant->page_shift == 30 && !getenv("GMEM_FULL"))
		goto out;
	/* All of them again, released when the file is gone */
	EXPECT_EQ(0, to_shared(c, 0, size));
	whole.fd = gup_test_open();
	ASSERT_EQ(0, gup_test_pin(whole.fd, c->mem, size, false));
	do_close(_metadata, l);
	l->orphans.nr = is_huge(l) ? 1 : 0;
	l->orphans.charged = charged(l, l->orphans.nr);
	expect_state(_metadata, l);
	if (is_huge(l))
		do_create_in_vain(_metadata, l);
	EXPECT_EQ(0, gup_test_unpin(whole.fd));
	l->orphans = (struct lot) {};
	l->settling = true;
	do_open(_metadata, l);
	do_populate(_metadata, l);
	expect_state(_metadata, l);
	close(whole.fd);
out:
	finish(_metadata, l);
	TH_LOG("%ld pages were pinned in %.1f s; converted, punched and unpinned in %.1f s",
	       (long)(size / SZ_4K) - 2, pinned - start, unpinned - pinned);
}

/*
 * What is around the page is converted all the time
 */

struct turner {
	struct conv *c;
	unsigned int seed;
	long failed;
};

static bool turn_some(void *arg)
{
	struct turner *t = arg;
	const u64 first = rand_r(&t->seed) % (PAGE - 1), nr = rand_r(&t->seed) % 8 + 1;
	const u64 left = P(first), right = P(PAGE + 2 + rand_r(&t->seed) % 400);
	struct conv *c = t->c;

	t->failed += !!to_shared(c, left, P(min_t(u64, nr, PAGE - first)));
	t->failed += !!to_shared(c, right, P(nr));
	t->failed += !!host_mark(c, left, P(1), NEAR_SEED);
	t->failed += !!host_check(c, left, P(1), NEAR_SEED);
	t->failed += !!host_mark(c, right, P(1), NEAR_SEED);
	t->failed += !!to_private(c, left, P(min_t(u64, nr, PAGE - first)));
	t->failed += !!to_private(c, right, P(nr));
	return true;
}

TEST_F_TIMEOUT(linger, neighbours, TIMEOUT)
{
	struct scene *l = &self->l;
	struct turner turner = { .c = &l->c, .seed = 1 };
	struct looper loop;
	double end;
	int i, n = 0;

	if (variant->page_shift == 12)
		SKIP(return, "pages of 4K are not split");
	if (variant->page_shift == 30 && !getenv("GMEM_FULL"))
		SKIP(return, TOO_LONG);
	for (i = 0; i < ARRAY_SIZE(holders); i++) {
		if (probe(holders[i]))
			continue;
		n++;
		begin(_metadata, l);
		do_hold(_metadata, l, holders[i], P(PAGE), min_size(holders[i]));
		start_loop(&loop, turn_some, &turner);
		end = conv_now() + 0.15;
		while (conv_now() < end || READ_ONCE(loop.rounds) < 3) {
			EXPECT_EQ(EAGAIN, to_private(&l->c, P(PAGE), P(1)));
			expect_held_data(_metadata, l);
			expect_lot(_metadata, l);
			if (!__test_passed(_metadata))
				break;
		}
		stop_loop(&loop);
		EXPECT_EQ(0, turner.failed);
		expect_state(_metadata, l);
		EXPECT_EQ(0, wrong_words(l->c.mem + P(PAGE), P(1), P(PAGE), OLD_SEED));
		/* What wants to be merged is, around the page. */
		EXPECT_TRUE(conv_wait_merged(&l->c));
		expect_held_data(_metadata, l);
		do_punch(_metadata, l);
		expect_state(_metadata, l);
		expect_held_data(_metadata, l);
		do_release(_metadata, l);
		finish_round(_metadata, l);
		TH_LOG("%s: %ld rounds of conversions around it", holders[i]->name, loop.rounds);
	}
	EXPECT_LT(0, n);
	finish(_metadata, l);
}

/*
 * Several have pages of the same huge page: it comes home when the last one lets go.
 * Until then a vCPU that needs it cannot have it, and its thread is told.
 */
TEST_F_TIMEOUT(linger, several, TIMEOUT)
{
	struct hold extra[ARRAY_SIZE(holders)];
	struct scene *l = &self->l;
	struct conv *c = &l->c;
	const struct holder *h;
	unsigned int left = 0;
	u64 told = 0, offset, size;
	int i, nr;

	begin(_metadata, l);
	do_hold(_metadata, l, &in_pipe, P(PAGE), P(1));
	for (i = 0; i < ARRAY_SIZE(holders); i++) {
		h = holders[i];
		if (probe(h))
			continue;
		left |= BIT(i);
		offset = P(PAGE + (i + 1) * 30);
		size = min_size(h);
		EXPECT_EQ(0, to_shared(c, offset, size));
		l->shared += size;
		fill(c->mem + offset, size, offset, OLD_SEED);
		extra[i] = (struct hold) { .page = c->mem + offset, .size = size };
		extra[i].data = kvm_mmap(size, PROT_READ | PROT_WRITE,
					 MAP_PRIVATE | MAP_ANONYMOUS, -1);
		ASSERT_EQ(NULL, h->open(&extra[i]));
		ASSERT_EQ(0, h->hold(&extra[i]));
	}
	nr = __builtin_popcount(left);
	EXPECT_LT(1, nr);
	expect_state(_metadata, l);
	turn_neighbours(_metadata, l);
	do_punch(_metadata, l);
	expect_state(_metadata, l);

	/* Where that was the only page of the file, a vCPU waits for it in vain. */
	set_vcpu_cmd(&c->g, 0, OP_CHECK_ZERO, P(PAGE), P(1), 0);
	if (l->awaited.nr == l->nr) {
		told = vm_get_stat(c->g.vm, gmem_awaited);
		EXPECT_EQ(EAGAIN, run_vcpu(c->g.vcpu[0]));
		EXPECT_EQ(KVM_EXIT_MEMORY_FAULT, c->g.vcpu[0]->run->exit_reason);
		EXPECT_EQ(TEST_GPA + P(PAGE), c->g.vcpu[0]->run->memory_fault.gpa);
		EXPECT_LT(told, vm_get_stat(c->g.vm, gmem_awaited));
	}

	while (left) {
		i = rand() % ARRAY_SIZE(holders);
		if (!(left & BIT(i)))
			continue;
		left &= ~BIT(i);
		h = holders[i];
		offset = P(PAGE + (i + 1) * 30);
		if (h->read)
			EXPECT_EQ(0, h->read(&extra[i]));
		EXPECT_EQ(0, h->release(&extra[i]));
		EXPECT_EQ(0, wrong_words(extra[i].data, extra[i].size, offset, OLD_SEED)) {
			TH_LOG("%s", h->name);
		}
		h->close(&extra[i]);
		kvm_munmap(extra[i].data, extra[i].size);
		expect_state(_metadata, l);
		expect_held_data(_metadata, l);
	}
	do_release(_metadata, l);
	/* At once, although the page may be on its way home */
	EXPECT_EQ(0, run_vcpu(c->g.vcpu[0]));
	l->in_file.nr = 1;
	l->in_file.charged = charged(l, 1);
	expect_state(_metadata, l);
	finish(_metadata, l);
	TH_LOG("%d holders of a page", nr + 1);
}

/* All of a file is awaited: a vCPU's thread is told, and goes on when it is there. */
TEST_F_TIMEOUT(linger, vcpu_told, TIMEOUT)
{
	struct scene *l = &self->l;
	struct kvm_vcpu *vcpu;
	u64 told;

	if (variant->page_shift != 21)
		SKIP(return, "4K are not waited for, 1G are part of several");
	if (probe(&gup))
		SKIP(return, "%s", probe(&gup));
	begin(_metadata, l);
	do_hold(_metadata, l, &gup, 0, WINDOW);
	expect_state(_metadata, l);
	do_punch(_metadata, l);
	expect_state(_metadata, l);
	EXPECT_EQ(l->nr, l->awaited.nr);

	vcpu = l->c.g.vcpu[0];
	told = vm_get_stat(l->c.g.vm, gmem_awaited);
	set_vcpu_cmd(&l->c.g, 0, OP_CHECK_ZERO, P(PAGE), P(1), 0);
	EXPECT_EQ(EAGAIN, run_vcpu(vcpu));
	EXPECT_EQ(KVM_EXIT_MEMORY_FAULT, vcpu->run->exit_reason);
	EXPECT_EQ(TEST_GPA + P(PAGE), vcpu->run->memory_fault.gpa);
	EXPECT_LT(told, vm_get_stat(l->c.g.vm, gmem_awaited));
	expect_state(_metadata, l);
	do_release(_metadata, l);
	EXPECT_EQ(0, run_vcpu(vcpu));
	l->in_file.nr = 1;
	l->in_file.charged = charged(l, 1);
	finish(_metadata, l);
}

/* How many lines of a trace have a text */
static long count_trace(const char *dir, const char *format, ...)
{
	char path[128], line[256], want[128];
	va_list args;
	long nr = 0;
	FILE *f;

	va_start(args, format);
	vsnprintf(want, sizeof(want), format, args);
	va_end(args);
	snprintf(path, sizeof(path), "%s/trace", dir);
	f = fopen(path, "r");
	TEST_ASSERT(f, "cannot read the trace");
	while (fgets(line, sizeof(line), f))
		nr += !!strstr(line, want);
	fclose(f);
	return nr;
}

/* The trace tells what a file leaves behind, and when it comes home. */
TEST_F_TIMEOUT(linger, traced, TIMEOUT)
{
	const unsigned int order = variant->page_shift - 12;
	struct scene *l = &self->l;
	const char *dir;
	u64 head;

	if (variant->page_shift == 12)
		SKIP(return, "no page of 4K is waited for");
	if (probe(&gup))
		SKIP(return, "%s", probe(&gup));
	dir = gmem_trace_start(CG_NAME);
	if (!dir)
		SKIP(return, "no tracefs");
	EXPECT_EQ(0, cg_write(dir, "events/hugetlb_lend/enable", "1"));

	begin(_metadata, l);
	do_hold(_metadata, l, &gup, P(PAGE), P(1));
	head = l->pfn & ~(BIT_ULL(order) - 1);
	do_punch(_metadata, l);
	expect_state(_metadata, l);
	EXPECT_EQ(l->nr - 1, count_trace(dir, "hugetlb_lent_home: order=%u", order));
	EXPECT_EQ(0, count_trace(dir, "hugetlb_lent_home: order=%u pfn=0x%llx nid=", order,
				 head));
	EXPECT_EQ(0, count_trace(dir, "hugetlb_reservation_destroy:"));
	do_close(_metadata, l);
	expect_state(_metadata, l);
	EXPECT_EQ(1, count_trace(dir, "guest_memfd_unreserve:"));
	EXPECT_EQ(1, count_trace(dir, "hugetlb_reservation_destroy:"));
	EXPECT_EQ(1, count_trace(dir, "order=%u nr_huge_pages=%ld nr_awaited=1\n", order,
				 l->nr));
	EXPECT_EQ(0, count_trace(dir, " awaited=1\n"));
	do_release(_metadata, l);
	expect_state(_metadata, l);
	EXPECT_EQ(1, count_trace(dir, "hugetlb_lent_home: order=%u pfn=0x%llx nid=", order,
				 head));
	EXPECT_EQ(1, count_trace(dir, " awaited=1\n"));
	EXPECT_EQ(l->nr - 1, count_trace(dir, " awaited=0\n"));
	finish(_metadata, l);
	gmem_trace_stop(dir);
}

/*
 * References of moments, taken again and again: nothing fails for them
 */

struct toucher {
	char *page;
	int fd;
	long nr_ok;
	u64 value;
};

static bool write_by_address(void *arg)
{
	struct toucher *t = arg;
	struct iovec local = { &t->value, sizeof(t->value) };
	struct iovec remote = { t->page, sizeof(t->value) };

	t->nr_ok += process_vm_writev(getpid(), &local, 1, &remote, 1, 0) == sizeof(t->value);
	return true;
}

/* The receiver has a copy; the softirq that makes it puts the page. */
static bool send_udp(void *arg)
{
	struct toucher *t = arg;
	char control[128];
	struct msghdr msg = { .msg_control = control, .msg_controllen = sizeof(control) };

	t->nr_ok += send(t->fd, t->page, SZ_4K, MSG_ZEROCOPY | MSG_DONTWAIT) == SZ_4K;
	recvmsg(t->fd, &msg, MSG_ERRQUEUE | MSG_DONTWAIT);
	return true;
}

static void pass_by(CHECKER, bool (*fn)(void *arg), struct toucher *t)
{
	const int rounds = 6;
	long refused = 0, seen = 0, calls;
	struct looper loop;
	double end;
	int i, r;

	if (l->page_shift == 30 && !getenv("GMEM_FULL"))
		SKIP(return, TOO_LONG);
	begin(_metadata, l);
	for (i = 0; i < rounds; i++) {
		EXPECT_EQ(0, to_shared(&l->c, P(PAGE), P(1)));
		l->shared = SZ_4K;
		t->page = l->c.mem + P(PAGE);
		t->nr_ok = 0;
		start_loop(&loop, fn, t);
		end = conv_now() + PATIENCE;
		while (READ_ONCE(t->nr_ok) < 3 && conv_now() < end)
			usleep(100);
		EXPECT_LE(3, READ_ONCE(t->nr_ok));

		/* Punch then allocate */
		do_punch(_metadata, l);
		do_populate(_metadata, l);
		EXPECT_EQ(0, gmem_punch(&l->c.g, l->c.fd, 0, l->nr));
		EXPECT_EQ(0, gmem_populate(&l->c.g, l->c.fd, 0, l->nr));
		/* Close then create: there is no page to spare in the pool. */
		do_close(_metadata, l);
		/* A task that has a page from before may get no CPU for a while. */
		calls = READ_ONCE(loop.rounds);
		end = conv_now() + PATIENCE;
		while (READ_ONCE(loop.rounds) == calls && conv_now() < end)
			usleep(100);
		r = gmem_create_errno(&l->c.g, l->nr);
		refused += !!r;
		seen += READ_ONCE(t->nr_ok);
		stop_loop(&loop);
		l->settling = true;
		expect_state(_metadata, l);
		do_open(_metadata, l);
		do_populate(_metadata, l);
		expect_state(_metadata, l);
		l->story[0] = 0;
	}
	TH_LOG("%ld references in %d rounds", seen, rounds);
	EXPECT_EQ(0, refused);
	finish(_metadata, l);
}

TEST_F_TIMEOUT(linger, process_vm, TIMEOUT)
{
	struct toucher t = {};

	if (process_vm_writev(getpid(), NULL, 0, NULL, 0, 0) < 0)
		SKIP(return, "no CONFIG_CROSS_MEMORY_ATTACH");
	pass_by(_metadata, &self->l, write_by_address, &t);
}

TEST_F_TIMEOUT(linger, udp, TIMEOUT)
{
	struct sockaddr_in to = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	socklen_t len = sizeof(to);
	struct toucher t = {};
	int one = 1, receiver;

	receiver = socket(AF_INET, SOCK_DGRAM, 0);
	t.fd = socket(AF_INET, SOCK_DGRAM, 0);
	if (receiver < 0 || t.fd < 0)
		SKIP(return, "no CONFIG_INET");
	/* It does not receive: what it has no room for is dropped. */
	if (bind(receiver, (struct sockaddr *)&to, sizeof(to)) ||
	    getsockname(receiver, (struct sockaddr *)&to, &len) ||
	    connect(t.fd, (struct sockaddr *)&to, sizeof(to)))
		SKIP(return, "no loopback device that is up");
	if (setsockopt(t.fd, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof(one)))
		SKIP(return, "no SO_ZEROCOPY");
	pass_by(_metadata, &self->l, send_udp, &t);
	close(t.fd);
	close(receiver);
}

/*
 * Random rounds
 */

FIXTURE(rounds)
{
	struct scene l[3];
};

FIXTURE_SETUP(rounds)
{
	static const unsigned int shifts[] = { 12, 21, 30 };
	const char *why;
	int i, n = 0;

	for (i = 0; i < ARRAY_SIZE(shifts); i++) {
		why = scene_setup(&self->l[i], shifts[i]);
		if (why)
			self->l[i].nr = 0;
		else
			n++;
		if (why)
			ksft_print_msg("nothing with pages of %lu kB: %s\n",
				       1UL << (shifts[i] - 10), why);
	}
	if (!n)
		SKIP(return, "nothing can be tested");
	/* All of them have their own VM for the rest of the pool by now. */
	for (i = 0; i < ARRAY_SIZE(shifts); i++)
		self->l[i].nr_vms = gmem_nr_vms();
}

FIXTURE_TEARDOWN_PARENT(rounds)
{
	int i;

	for (i = ARRAY_SIZE(self->l) - 1; i >= 0; i--)
		clean_up(_metadata, &self->l[i]);
}

static unsigned int random_seed;

/* Less than @n */
static unsigned long pick(unsigned long n)
{
	random_seed = random_seed * 1103515245 + 12345;
	return (random_seed >> 8) % n;
}

static void pick_holder(CHECKER, const bool *usable)
{
	const struct holder *holder;
	u64 nr, first;
	int i;

	do {
		i = pick(ARRAY_SIZE(holders));
	} while (!usable[i]);
	holder = holders[i];
	nr = pick(4) ? 1 + pick(20) : pick(2) ? 512 : 1;
	nr = clamp(nr, min_size(holder) / SZ_4K, holder->max / SZ_4K);
	first = nr == 512 && pick(2) ? 512 * pick(4) : pick(NR_PAGES - nr + 1);
	do_hold(_metadata, l, holder, P(first), P(nr));
}

/* One thing that can be done now; while a thread has the holder let go, maybe */
static void random_step(CHECKER)
{
	const bool during = l->held && !pick(5);

	l->delay = pick(3) ? pick(300) : pick(3000);
	switch (pick(10)) {
	case 0:
		if (l->file)
			act(_metadata, l, do_punch, during);
		break;
	case 1:
	case 2:
		if (l->file && l->in_file.nr < l->nr)
			act(_metadata, l, do_populate,
			    l->held && (during || l->awaited.nr == l->nr));
		break;
	case 3:
		if (l->file)
			act(_metadata, l, pick(2) ? do_close : do_close_bound, during);
		break;
	case 4:
		if (l->vm && !pick(2))
			act(_metadata, l, do_vm, during);
		break;
	case 5:
		if (l->child)
			act(_metadata, l, do_cgroup, during);
		break;
	case 6:
		turn_neighbours(_metadata, l);
		break;
	case 7:
		if (l->held && l->holder->write)
			do_write(_metadata, l);
		break;
	case 8:
		if (l->held && !pick(2))
			do_release(_metadata, l);
		break;
	case 9:
		if (!l->vm || l->file || l->held || l->holder->late)
			break;
		/* Pages may be on their way home. */
		do_open(_metadata, l);
		break;
	}
}

static void random_round(CHECKER, const bool *usable)
{
	int i, nr = 2 + pick(12);

	begin(_metadata, l);
	pick_holder(_metadata, l, usable);
	for (i = 0; i < nr && __test_passed(_metadata); i++) {
		random_step(_metadata, l);
		if (pick(3)) {
			expect_state(_metadata, l);
			expect_held_data(_metadata, l);
			expect_marked(_metadata, l);
		}
		if (!l->vm && !l->file && !l->held)
			break;
	}
	finish(_metadata, l);
}

static long env(const char *name, long otherwise)
{
	const char *value = getenv(name);

	return value ? strtoul(value, NULL, 0) : otherwise;
}

TEST_F_TIMEOUT(rounds, random, 6 * TIMEOUT)
{
	const long nr = env("GMEM_ROUNDS", 30);
	const unsigned int seed = env("GMEM_SEED", time(NULL) ^ getpid() << 16);
	bool usable[ARRAY_SIZE(holders)];
	struct scene *l;
	double start = conv_now();
	long i, count[3] = {};
	int size;

	for (i = 0; i < ARRAY_SIZE(holders); i++)
		usable[i] = !probe(holders[i]);
	TH_LOG("GMEM_ROUNDS=%ld GMEM_SEED=%u", nr, seed);
	random_seed = seed;
	for (i = 0; i < nr; i++) {
		/* Clearing 1G takes as long as many rounds of the others. */
		size = !pick(64) ? 2 : pick(4) ? 1 : 0;
		l = &self->l[size];
		if (!l->nr)
			continue;
		count[size]++;
		random_round(_metadata, l, usable);
		ASSERT_TRUE(__test_passed(_metadata)) {
			TH_LOG("round %ld, pages of %lu kB:%s", i, l->c.g.page_size >> 10,
			       l->story);
		}
	}
	TH_LOG("%ld rounds with 4K, %ld with 2M, %ld with 1G, %.1f s", count[0], count[1],
	       count[2], conv_now() - start);
	EXPECT_LT(0, count[0] + count[1] + count[2]);
}

/*
 * A process that has nothing of KVM but a page
 */

static int keep_page(const char *name, long page_kb)
{
	const struct holder *holder = NULL;
	struct hold h = { .fd = -1 };
	struct conv c = {};
	const char *why;
	sigset_t usr1;
	int i, sig;

	for (i = 0; i < ARRAY_SIZE(holders); i++)
		if (!strcmp(holders[i]->name, name))
			holder = holders[i];
	if (!holder) {
		fprintf(stderr, "there is no holder %s\n", name);
		return 2;
	}
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	sigprocmask(SIG_BLOCK, &usr1, NULL);

	why = conv_setup(&c, ffsl(page_kb) + 9, WINDOW, 0);
	h.size = min_size(holder);
	h.data = kvm_mmap(h.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	if (!why)
		why = holder->open(&h);
	if (why) {
		printf("skip: %s\n", why);
		return KSFT_SKIP;
	}
	h.page = c.mem + P(PAGE);
	TEST_ASSERT(!to_shared(&c, P(PAGE), h.size), "cannot share a page");
	fill(h.page, h.size, P(PAGE), OLD_SEED);
	TEST_ASSERT(!holder->hold(&h), "cannot hold a page");
	conv_free(&c);
	puts("held");
	fflush(stdout);

	TEST_ASSERT(!sigwait(&usr1, &sig), "sigwait() failed");
	if (holder->read)
		TEST_ASSERT(!holder->read(&h), "cannot read what is held");
	TEST_ASSERT(!holder->release(&h), "cannot release what is held");
	TEST_ASSERT(!wrong_words(h.data, h.size, P(PAGE), OLD_SEED), "something else was held");
	holder->close(&h);
	puts("released");
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "--hold"))
		return keep_page(argv[2], atol(argv[3]));

	return test_harness_run(argc, argv);
}
