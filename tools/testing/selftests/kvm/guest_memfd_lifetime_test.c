// SPDX-License-Identifier: GPL-2.0
/*
 * Who holds the memory of a guest_memfd file and for how long, and what becomes
 * of it when populating is interrupted, killed, raced for or runs into errors.
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
#include <dirent.h>
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
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/falloc.h>
#include <linux/sizes.h>

#include "kvm_util.h"
#include "kvm_test_harness.h"
#include "guest_visitor.h"
#include "hugetlb_pool.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define TEST_SLOT	10
#define NR_VCPUS	2
#define NR_CHILDREN	4
/* Seconds.  A debug kernel on an emulated CPU takes its time. */
#define TIMEOUT		1200
#define TRACING		"/sys/kernel/tracing"
#define TRACE		TRACING "/instances/guest_memfd_lifetime_test"
#define DEBUGFS		"/sys/kernel/debug"

struct child {
	pid_t pid;
	int to;
	int from;
};

FIXTURE(life)
{
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu[NR_VCPUS];
	struct child child[NR_CHILDREN];
	struct pool_count before;
	struct pool_count last;	/* when pages were last counted */
	long last_allocated;
	long file_pages;	/* of the whole system, before */
	size_t page_size;	/* of the file, in bytes */
	long avail;		/* huge pages that nobody has a claim to */
	u64 flags;
	bool private;
	bool tracing;
	bool injecting;
	bool guest_mapped;	/* by the guest's own page tables */
	void *hva;
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

/* Pages of 1G are reserved only: each takes seconds to clear. */
FIXTURE_VARIANT_ADD(life, sw_protected_4k)
{
	.page_shift = 12,
	.vm_type = KVM_X86_SW_PROTECTED_VM,
	.nr = 2048,
	.nr_populated = 1536,
	.nr_large = 8192,
};

FIXTURE_VARIANT_ADD(life, sw_protected_2m)
{
	.page_shift = 21,
	.vm_type = KVM_X86_SW_PROTECTED_VM,
	.nr = 4,
	.nr_populated = 3,
	.nr_large = 24,
};

FIXTURE_VARIANT_ADD(life, sw_protected_1g)
{
	.page_shift = 30,
	.vm_type = KVM_X86_SW_PROTECTED_VM,
	.nr = 1,
};

FIXTURE_VARIANT_ADD(life, default_4k)
{
	.page_shift = 12,
	.vm_type = KVM_X86_DEFAULT_VM,
	.nr = 2048,
	.nr_populated = 1536,
	.nr_large = 8192,
};

FIXTURE_VARIANT_ADD(life, default_2m)
{
	.page_shift = 21,
	.vm_type = KVM_X86_DEFAULT_VM,
	.nr = 4,
	.nr_populated = 3,
	.nr_large = 24,
};

FIXTURE_VARIANT_ADD(life, default_1g)
{
	.page_shift = 30,
	.vm_type = KVM_X86_DEFAULT_VM,
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

/* VMs that this process has made and that exist, -1 if it cannot be told. */
static int nr_vms(void)
{
	char prefix[32];
	struct dirent *d;
	int nr = 0;
	DIR *dir;

	dir = opendir(DEBUGFS "/kvm");
	if (!dir)
		return -1;
	snprintf(prefix, sizeof(prefix), "%d-", getpid());
	while ((d = readdir(dir)))
		if (!strncmp(d->d_name, prefix, strlen(prefix)))
			nr++;
	closedir(dir);
	return nr;
}

#define EXPECT_VMS(want) do {						\
	int __nr = nr_vms();						\
									\
	if (__nr >= 0)							\
		EXPECT_EQ(want, __nr);					\
} while (0)

static bool pool_is(life_data *self, const struct pool_count *now,
		    long allocated, long reserved)
{
	const struct pool_count *before = &self->before;
	long taken = 0;
	int i;

	if (now->nr != before->nr || now->surplus != before->surplus ||
	    now->free != before->free - allocated ||
	    now->resv != before->resv + reserved)
		return false;

	for (i = 0; i < MAX_NODES; i++) {
		if (now->node[i].nr != before->node[i].nr ||
		    now->node[i].surplus != before->node[i].surplus)
			return false;
		taken += before->node[i].free - now->node[i].free;
		if (!allocated && now->node[i].free != before->node[i].free)
			return false;
		/* Handing a file over does not move its pages. */
		if (allocated == self->last_allocated &&
		    now->node[i].free != self->last.node[i].free)
			return false;
	}
	return taken == allocated;
}

/* That many pages are allocated, and as many more are reserved. */
static void __expect_held(struct __test_metadata *_metadata, life_data *self,
			  int line, long allocated, long reserved)
{
	struct pool_count now;
	long pages;

	if (self->page_size == SZ_4K) {
		/* A quarter of the pages of a file is for other users. */
		pages = read_file_pages() - self->file_pages;
		EXPECT_GE(512, labs(pages - allocated)) {
			ksft_print_msg("line %d: %ld more pages in the page cache, not %ld\n",
				       line, pages, allocated);
		}
		return;
	}

	read_pool(self->page_size, &now);
	EXPECT_TRUE(pool_is(self, &now, allocated, reserved)) {
		ksft_print_msg("line %d: wanted %ld allocated, %ld reserved\n",
			       line, allocated, reserved);
		print_pool("before", &self->before);
		if (allocated == self->last_allocated)
			print_pool("last", &self->last);
		print_pool("now", &now);
	}
	self->last = now;
	self->last_allocated = allocated;
}

#define EXPECT_HELD(allocated, reserved) \
	__expect_held(_metadata, self, __LINE__, allocated, reserved)

static long nr_allocated(int fd, size_t page_size)
{
	struct stat st;

	TEST_ASSERT(!fstat(fd, &st), "fstat of guest_memfd failed");
	TEST_ASSERT(!(st.st_blocks % (page_size / 512)),
		    "%ld blocks are not a whole number of pages",
		    (long)st.st_blocks);
	return st.st_blocks / (page_size / 512);
}

static int populate(int fd, size_t page_size, long index, long nr)
{
	return fallocate(fd, FALLOC_FL_KEEP_SIZE, index * page_size,
			 nr * page_size) ? errno : 0;
}

static int punch(int fd, size_t page_size, long index, long nr)
{
	return fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
			 index * page_size, nr * page_size) ? errno : 0;
}

/*
 * Populate one more page of a file, as a process may that has it.  Returns the
 * error, -1 if the file is not what it should be.
 */
static int use_file(int fd, size_t page_size, long nr, long nr_populated)
{
	struct stat st;

	if (fstat(fd, &st))
		return errno;
	if (st.st_size != (off_t)(nr * page_size) ||
	    st.st_blksize != (blksize_t)page_size ||
	    nr_allocated(fd, page_size) != nr_populated)
		return -1;
	if (!nr_populated)
		return 0;
	if (populate(fd, page_size, nr_populated, 1))
		return errno;
	return nr_allocated(fd, page_size) == nr_populated + 1 ? 0 : -1;
}

/*
 * Other processes
 */

enum order {
	CMD_USE,	/* use_file(), argument: pages populated */
	CMD_CLOSE,
	CMD_RECEIVE,	/* a file from a socket, argument: the socket */
	CMD_TAKE,	/* a file of the parent, argument: its descriptor */
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

static int receive_fd(int sock)
{
	char control[CMSG_SPACE(sizeof(int))] = {};
	char byte;
	struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg;
	int fd;

	if (recvmsg(sock, &msg, 0) != 1)
		return -1;
	cmsg = CMSG_FIRSTHDR(&msg);
	if (!cmsg || cmsg->cmsg_type != SCM_RIGHTS)
		return -1;
	memcpy(&fd, CMSG_DATA(cmsg), sizeof(fd));
	return fd;
}

static int take_fd(int fd)
{
	int pidfd, taken = -1;

	pidfd = syscall(SYS_pidfd_open, getppid(), 0);
	if (pidfd >= 0) {
		taken = syscall(SYS_pidfd_getfd, pidfd, fd, 0);
		close(pidfd);
	}
	return taken;
}

static void exec_server(int fd, size_t page_size, long nr, int in, int out)
{
	char arg[5][32];

	snprintf(arg[0], sizeof(arg[0]), "%d", fd);
	snprintf(arg[1], sizeof(arg[1]), "%zu", page_size);
	snprintf(arg[2], sizeof(arg[2]), "%ld", nr);
	snprintf(arg[3], sizeof(arg[3]), "%d", in);
	snprintf(arg[4], sizeof(arg[4]), "%d", out);
	execl("/proc/self/exe", "guest_memfd_lifetime_test", "--serve", arg[0],
	      arg[1], arg[2], arg[3], arg[4], NULL);
}

/* Carry out commands, answer each with an error or 0, until @in is closed. */
static void serve(int fd, size_t page_size, long nr, int in, int out)
{
	struct message m;
	int r;

	while (read(in, &m, sizeof(m)) == sizeof(m)) {
		r = 0;
		switch (m.order) {
		case CMD_USE:
			r = use_file(fd, page_size, nr, m.arg);
			break;
		case CMD_CLOSE:
			r = close(fd) ? errno : 0;
			break;
		case CMD_RECEIVE:
			fd = receive_fd(m.arg);
			r = fd < 0 ? errno : 0;
			break;
		case CMD_TAKE:
			fd = take_fd(m.arg);
			r = fd < 0 ? errno : 0;
			break;
		case CMD_EXEC:
			/* The new program answers. */
			exec_server(fd, page_size, nr, in, out);
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
		serve(fd, self->page_size, nr, in, out);
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

/*
 * Error injection
 */

static struct {
	const char *dir;
	const char *name;
	const char *value;
	char old[32];
} fault_settings[] = {
	{ DEBUGFS "/failslab", "ignore-gfp-wait", "N" },
	{ DEBUGFS "/failslab", "verbose", "0" },
	{ DEBUGFS "/failslab", "task-filter", "Y" },
	{ DEBUGFS "/failslab", "times", "-1" },
	{ DEBUGFS "/failslab", "probability", "100" },
	{ DEBUGFS "/fail_page_alloc", "ignore-gfp-wait", "N" },
	{ DEBUGFS "/fail_page_alloc", "ignore-gfp-highmem", "N" },
	{ DEBUGFS "/fail_page_alloc", "min-order", "0" },
	{ DEBUGFS "/fail_page_alloc", "verbose", "0" },
	{ DEBUGFS "/fail_page_alloc", "task-filter", "Y" },
	{ DEBUGFS "/fail_page_alloc", "times", "-1" },
	{ DEBUGFS "/fail_page_alloc", "probability", "100" },
	/* No caller is at such an address: copying to and from here works. */
	{ DEBUGFS "/fail_usercopy", "require-end", "1" },
};

static bool read_string(const char *dir, const char *name, char *s, size_t size)
{
	char path[256];
	bool ok = false;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "r");
	if (f) {
		ok = fgets(s, size, f);
		fclose(f);
	}
	return ok;
}

static bool set_up_faults(life_data *self)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(fault_settings); i++)
		if (!read_string(fault_settings[i].dir, fault_settings[i].name,
				 fault_settings[i].old,
				 sizeof(fault_settings[i].old)))
			return false;

	self->injecting = true;
	for (i = 0; i < ARRAY_SIZE(fault_settings); i++)
		if (!write_string(fault_settings[i].dir, fault_settings[i].name,
				  fault_settings[i].value))
			return false;
	return true;
}

static bool restore_faults(void)
{
	bool ok = true;
	int i;

	/* In reverse, so that a filter goes after what it holds back. */
	for (i = ARRAY_SIZE(fault_settings) - 1; i >= 0; i--)
		ok &= write_string(fault_settings[i].dir, fault_settings[i].name,
				   fault_settings[i].old);
	return ok;
}

FIXTURE_SETUP(life)
{
	struct vm_shape shape = {
		.mode = VM_MODE_DEFAULT,
		.type = variant->vm_type,
	};

	if (!(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(variant->vm_type)))
		SKIP(return, "no VMs of type %u", variant->vm_type);

	self->page_size = 1UL << variant->page_shift;
	if (variant->page_shift > 12) {
		if (!(kvm_check_cap(KVM_CAP_GUEST_MEMFD_HUGETLB) &
		      BIT(variant->page_shift - 12)))
			SKIP(return, "no huge pages of %zu kB",
			     self->page_size >> 10);
		read_pool(self->page_size, &self->before);
		self->avail = self->before.free - self->before.resv;
		if (self->avail < variant->nr)
			SKIP(return, "needs %ld free huge pages of %zu kB",
			     variant->nr, self->page_size >> 10);
		self->flags = hugetlb_flags(variant->page_shift);
	}
	self->last_allocated = -1;

	/* Without private memory the guest gets it if the file can be mapped. */
	self->private = variant->vm_type == KVM_X86_SW_PROTECTED_VM;
	if (!self->private)
		self->flags |= GUEST_MEMFD_FLAG_MMAP;

	self->vm = __vm_create_with_vcpus(shape, NR_VCPUS, 0, guest_code,
					  self->vcpu);
	/* Where shared memory would be; nothing of it is ever touched. */
	self->hva = mmap(NULL, 2UL * SZ_1G, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ASSERT_NE(MAP_FAILED, self->hva);
	self->hva = align_ptr_up(self->hva, SZ_1G);

	self->file_pages = read_file_pages();

	if (nr_vms() < 0)
		ksft_print_msg("no debugfs to tell whether a VM still exists\n");
	EXPECT_VMS(1);
}

static void free_vm(life_data *self)
{
	kvm_vm_free(self->vm);
	self->vm = NULL;
}

FIXTURE_TEARDOWN(life)
{
	int i;

	if (self->injecting)
		EXPECT_TRUE(restore_faults());
	if (self->tracing)
		EXPECT_EQ(0, rmdir(TRACE));
	for (i = 0; i < NR_CHILDREN; i++)
		if (self->child[i].pid)
			kill_child(&self->child[i]);
	if (self->vm)
		free_vm(self);
	if (self->hva)
		EXPECT_HELD(0, 0);
}

static int create_file(life_data *self, long nr)
{
	return vm_create_guest_memfd(self->vm, nr * self->page_size, self->flags);
}

/* Bind all of the file at TEST_GPA. */
static void bind_file(life_data *self, int fd, long nr)
{
	const u64 size = nr * self->page_size;

	vm_set_user_memory_region2(self->vm, TEST_SLOT, KVM_MEM_GUEST_MEMFD,
				   TEST_GPA, size, self->hva, fd, 0);
	if (self->private)
		vm_mem_set_private(self->vm, TEST_GPA, size);
	if (!self->guest_mapped)
		virt_map_level(self->vm, TEST_GPA, TEST_GPA,
			       align_up(size, SZ_1G), PG_LEVEL_1G);
	self->guest_mapped = true;
}

/* A file of the variant's size, populated as it says. */
#define OPEN_FILE() ({							\
	int __fd = create_file(self, variant->nr);			\
									\
	EXPECT_HELD(0, variant->nr);					\
	if (variant->nr_populated)					\
		ASSERT_EQ(0, populate(__fd, self->page_size, 0,		\
				      variant->nr_populated));		\
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

/*
 * The holders of a file
 */

TEST_F_TIMEOUT(life, fork_child_last, TIMEOUT)
{
	struct child *c;
	int fd;

	fd = OPEN_FILE();
	c = start_server(self, fd, variant->nr);
	EXPECT_FILE_HELD(0);
	close(fd);
	EXPECT_FILE_HELD(0);
	EXPECT_EQ(0, tell(c, CMD_USE, variant->nr_populated));
	EXPECT_FILE_HELD(1);

	/* The child has the VM too. */
	free_vm(self);
	EXPECT_FILE_HELD(1);
	EXPECT_VMS(1);

	EXPECT_EQ(0, end_child(c));
	EXPECT_HELD(0, 0);
	EXPECT_VMS(0);
}

TEST_F_TIMEOUT(life, fork_parent_last, TIMEOUT)
{
	struct child *closes, *exits, *killed;
	int fd;

	fd = OPEN_FILE();
	closes = start_server(self, fd, variant->nr);
	exits = start_server(self, fd, variant->nr);
	killed = start_server(self, fd, variant->nr);

	EXPECT_EQ(0, tell(closes, CMD_USE, variant->nr_populated));
	EXPECT_FILE_HELD(1);
	EXPECT_EQ(0, tell(closes, CMD_CLOSE, 0));
	EXPECT_FILE_HELD(1);
	EXPECT_EQ(0, end_child(exits));
	EXPECT_FILE_HELD(1);
	EXPECT_EQ(SIGKILL, kill_child(killed));
	EXPECT_FILE_HELD(1);
	if (variant->nr_populated)
		EXPECT_EQ(variant->nr_populated + 1,
			  nr_allocated(fd, self->page_size));

	close(fd);
	EXPECT_HELD(0, 0);
	EXPECT_EQ(0, end_child(closes));
}

/* A second descriptor in this process. */
TEST_F_TIMEOUT(life, dup, TIMEOUT)
{
	int fd, fd2;

	fd = OPEN_FILE();
	fd2 = dup(fd);
	ASSERT_LE(0, fd2);
	close(fd);
	EXPECT_FILE_HELD(0);
	EXPECT_EQ(0, use_file(fd2, self->page_size, variant->nr,
			      variant->nr_populated));
	EXPECT_FILE_HELD(1);
	close(fd2);
	EXPECT_HELD(0, 0);
}

TEST_F_TIMEOUT(life, exec, TIMEOUT)
{
	struct child *c;
	int fd;

	fd = OPEN_FILE();
	c = start_server(self, fd, variant->nr);
	ASSERT_EQ(0, tell(c, CMD_EXEC, 0));
	EXPECT_FILE_HELD(0);

	close(fd);
	free_vm(self);
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

/* To close it on exec is as good as to close it. */
TEST_F_TIMEOUT(life, close_on_exec, TIMEOUT)
{
	struct child *c;
	int fd;

	fd = OPEN_FILE();
	ASSERT_EQ(0, fcntl(fd, F_SETFD, FD_CLOEXEC));
	c = start_server(self, fd, variant->nr);
	close(fd);
	EXPECT_FILE_HELD(0);
	ASSERT_EQ(0, tell(c, CMD_EXEC, 0));
	EXPECT_HELD(0, 0);
	EXPECT_EQ(EBADF, tell(c, CMD_USE, variant->nr_populated));
	EXPECT_EQ(0, end_child(c));
}

TEST_F_TIMEOUT(life, socket, TIMEOUT)
{
	struct child *c;
	int fd, sock[2];

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, sock))
		SKIP(return, "no Unix sockets");

	/* It is there before the file, and inherits nothing of it. */
	c = start_server(self, -1, variant->nr);
	fd = OPEN_FILE();
	send_fd(sock[0], fd);
	close(fd);
	close(sock[0]);
	close(sock[1]);
	EXPECT_FILE_HELD(0);
	ASSERT_EQ(0, tell(c, CMD_RECEIVE, sock[1]));
	EXPECT_FILE_HELD(0);
	EXPECT_EQ(0, tell(c, CMD_USE, variant->nr_populated));
	EXPECT_FILE_HELD(1);
	EXPECT_EQ(0, tell(c, CMD_CLOSE, 0));
	EXPECT_HELD(0, 0);
	EXPECT_EQ(0, end_child(c));
}

/* Nobody has it but a message that nobody receives. */
TEST_F_TIMEOUT(life, in_flight, TIMEOUT)
{
	struct child *c;
	int fd, sock[2];

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, sock))
		SKIP(return, "no Unix sockets");

	fd = OPEN_FILE();
	send_fd(sock[0], fd);
	EXPECT_FILE_HELD(0);
	close(fd);
	EXPECT_FILE_HELD(0);
	close(sock[0]);
	EXPECT_FILE_HELD(0);
	close(sock[1]);
	EXPECT_HELD(0, 0);

	/* The same with a receiver that is killed, and without the VM. */
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sock));
	c = start_server(self, -1, variant->nr);
	fd = OPEN_FILE();
	send_fd(sock[0], fd);
	close(fd);
	close(sock[0]);
	close(sock[1]);
	free_vm(self);
	EXPECT_FILE_HELD(0);
	EXPECT_VMS(1);
	EXPECT_EQ(SIGKILL, kill_child(c));
	EXPECT_HELD(0, 0);
	EXPECT_VMS(0);
}

/* A socket in flight in itself, with the file: the garbage collector's. */
TEST_F_TIMEOUT(life, in_flight_cycle, TIMEOUT)
{
	int fd, sock[2], i;
	struct pool_count now;

	if (variant->page_shift == 12)
		SKIP(return, "needs a pool to tell when it is collected");
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, sock))
		SKIP(return, "no Unix sockets");

	fd = OPEN_FILE();
	send_fd(sock[0], fd);
	send_fd(sock[0], sock[1]);
	send_fd(sock[1], sock[0]);
	close(fd);
	close(sock[0]);
	close(sock[1]);

	/* Collecting is deferred; closing another socket sets it off. */
	for (i = 0; i < 300; i++) {
		read_pool(self->page_size, &now);
		if (now.resv == self->before.resv && now.free == self->before.free)
			break;
		ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sock));
		close(sock[0]);
		close(sock[1]);
		usleep(100000);
	}
	EXPECT_HELD(0, 0);
}

TEST_F_TIMEOUT(life, pidfd_getfd, TIMEOUT)
{
	struct child *c;
	int fd, r;

	c = start_server(self, -1, variant->nr);
	fd = OPEN_FILE();
	r = tell(c, CMD_TAKE, fd);
	if (r == EPERM) {
		close(fd);
		SKIP(return, "may not take files of other processes");
	}
	ASSERT_EQ(0, r);
	close(fd);
	EXPECT_FILE_HELD(0);
	EXPECT_EQ(0, tell(c, CMD_USE, variant->nr_populated));
	EXPECT_FILE_HELD(1);
	EXPECT_EQ(0, end_child(c));
	EXPECT_HELD(0, 0);
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
	free_vm(self);
	EXPECT_FILE_HELD(0);
	EXPECT_VMS(0);
	ASSERT_EQ(0, fstat(path_fd, &st));
	EXPECT_EQ(variant->nr * self->page_size, st.st_size);
	EXPECT_EQ(EBADF, populate(path_fd, self->page_size, 0, 1));

	close(path_fd);
	EXPECT_HELD(0, 0);
}

/* Mappings hold the file, each part of them and those of other processes. */
TEST_F_TIMEOUT(life, mapping, TIMEOUT)
{
	const size_t size = variant->nr * self->page_size;
	struct child *c;
	char *p;
	int fd;

	if (self->private)
		SKIP(return, "files of this VM cannot be mapped");

	fd = OPEN_FILE();
	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, p);
	close(fd);
	EXPECT_FILE_HELD(0);
	free_vm(self);
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

/* The guest has touched the pages that are populated. */
static void bind_and_touch(life_data *self, int fd, long nr, long nr_populated)
{
	bind_file(self, fd, nr);
	if (nr_populated)
		run_cmd(self->vm, self->vcpu[0], OP_TOUCH, 0,
			nr_populated * self->page_size, 1);
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
	free_vm(self);
	EXPECT_HELD(0, 0);
	EXPECT_VMS(0);
}

TEST_F_TIMEOUT(life, close_vm_first, TIMEOUT)
{
	int fd;

	fd = OPEN_FILE();
	bind_and_touch(self, fd, variant->nr, variant->nr_populated);
	free_vm(self);
	EXPECT_FILE_HELD(0);
	EXPECT_VMS(1);

	/* It remains a file that works, also where the dead VM has it mapped. */
	EXPECT_EQ(0, use_file(fd, self->page_size, variant->nr,
			      variant->nr_populated));
	EXPECT_FILE_HELD(1);
	EXPECT_EQ(0, punch(fd, self->page_size, 0, variant->nr));
	EXPECT_HELD(0, variant->nr);
	if (variant->nr_populated) {
		self->last_allocated = -1;
		EXPECT_EQ(0, populate(fd, self->page_size, 0,
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
	vcpu_fd = dup(self->vcpu[0]->fd);
	ASSERT_LE(0, vcpu_fd);
	free_vm(self);
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
	vm_set_user_memory_region2(self->vm, TEST_SLOT, KVM_MEM_GUEST_MEMFD,
				   0, 0, NULL, -1, 0);
	EXPECT_FILE_HELD(0);
	close(fd);
	EXPECT_HELD(0, 0);
}

/*
 * Races for the last pages of the pool
 */

struct race {
	unsigned int arrived;
	bool stop;
	struct racer {
		int error;	/* of creating the file, 0 if it got one */
		int populate_error;
		long nr;
	} racer[2];
};

struct race_arg {
	struct race *race;
	struct racer *racer;
	struct kvm_vm *vm;
	size_t page_size;
	u64 flags;
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
	struct race_arg *arg = p;
	struct racer *racer = arg->racer;
	unsigned int phase = 0;
	int fd;

	for (;;) {
		meet(arg->race, &phase);
		if (READ_ONCE(arg->race->stop))
			return NULL;
		fd = __vm_create_guest_memfd(arg->vm, racer->nr * arg->page_size,
					     arg->flags);
		racer->error = fd < 0 ? errno : 0;
		meet(arg->race, &phase);
		/* The counters of creation are looked at here. */
		meet(arg->race, &phase);
		if (fd >= 0 && arg->page_size < SZ_1G)
			racer->populate_error = populate(fd, arg->page_size, 0,
							 racer->nr);
		meet(arg->race, &phase);
		/* And those of populating. */
		meet(arg->race, &phase);
		if (fd >= 0)
			close(fd);
		meet(arg->race, &phase);
	}
}

/*
 * Two processes, or two threads, create files at once, of @nr pages each; @left
 * pages are free.
 */
static void race(struct __test_metadata *_metadata, life_data *self,
		 bool processes, long nr, long left)
{
	const int rounds = self->page_size == SZ_1G ? 20 : 100;
	const bool both = left >= 2 * nr;
	long filled = self->avail - left, allocated, winners;
	int filler = -1, i, in, out, won[2] = {};
	struct race_arg arg[2];
	struct child *c[2];
	pthread_t thread[2];
	unsigned int phase = 0;
	struct race *race;

	race = mmap(NULL, sizeof(*race), PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, race);

	if (filled)
		filler = create_file(self, filled);

	for (i = 0; i < 2; i++) {
		race->racer[i].nr = nr;
		arg[i] = (struct race_arg) {
			.race = race,
			.racer = &race->racer[i],
			.vm = self->vm,
			.page_size = self->page_size,
			.flags = self->flags,
		};
		if (!processes) {
			pthread_create(&thread[i], NULL, race_thread, &arg[i]);
		} else if (!fork_child(self, &c[i], &in, &out)) {
			/* A VM takes orders from the process that made it only. */
			if (filler >= 0)
				close(filler);
			arg[i].vm = self->private ?
				    vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM) :
				    vm_create_barebones();
			race_thread(&arg[i]);
			_exit(0);
		}
	}

	for (i = 0; i < rounds; i++) {
		meet(race, &phase);	/* create */
		meet(race, &phase);
		winners = !race->racer[0].error + !race->racer[1].error;
		EXPECT_EQ(both ? 2 : 1, winners);
		if (!both && winners == 1)
			EXPECT_EQ(ENOMEM, race->racer[0].error ?:
					  race->racer[1].error);
		won[0] += !race->racer[0].error;
		won[1] += !race->racer[1].error;
		self->last_allocated = -1;
		EXPECT_HELD(0, filled + winners * nr);

		meet(race, &phase);	/* populate */
		meet(race, &phase);
		EXPECT_EQ(0, race->racer[0].populate_error);
		EXPECT_EQ(0, race->racer[1].populate_error);
		allocated = self->page_size < SZ_1G ? winners * nr : 0;
		self->last_allocated = -1;
		EXPECT_HELD(allocated, filled + winners * nr - allocated);

		meet(race, &phase);	/* close */
		meet(race, &phase);
		EXPECT_HELD(0, filled);
	}
	race->stop = true;
	meet(race, &phase);

	for (i = 0; i < 2; i++) {
		if (processes)
			EXPECT_EQ(0, end_child(c[i]));
		if (!processes)
			pthread_join(thread[i], NULL);
	}
	if (filler >= 0)
		close(filler);
	EXPECT_HELD(0, 0);
	ksft_print_msg("won: %d and %d of %d\n", won[0], won[1], rounds);
	munmap(race, sizeof(*race));
}

TEST_F_TIMEOUT(life, race_threads, TIMEOUT)
{
	if (variant->page_shift == 12)
		SKIP(return, "4K pages are not reserved");

	race(_metadata, self, false, 1, 1);
	if (self->avail >= 3)
		race(_metadata, self, false, 2, 3);
	if (self->avail >= 4)
		race(_metadata, self, false, 2, 4);
}

TEST_F_TIMEOUT(life, race_processes, TIMEOUT)
{
	if (variant->page_shift == 12)
		SKIP(return, "4K pages are not reserved");

	race(_metadata, self, true, 1, 1);
	if (self->avail >= 3)
		race(_metadata, self, true, 2, 3);
	if (self->avail >= 4)
		race(_metadata, self, true, 2, 4);
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
	if (self->page_size > SZ_4K && nr > self->avail)
		nr = self->avail;
	return nr >= 4 ? nr : 0;
}

/* How long it takes to populate all of a file, in microseconds. */
static long time_to_populate(life_data *self, int fd, long nr)
{
	long start, us;

	TEST_ASSERT(!populate(fd, self->page_size, 0, nr), "cannot populate");
	TEST_ASSERT(!punch(fd, self->page_size, 0, nr), "cannot punch");
	start = now_us();
	TEST_ASSERT(!populate(fd, self->page_size, 0, nr), "cannot populate");
	us = now_us() - start;
	TEST_ASSERT(!punch(fd, self->page_size, 0, nr), "cannot punch");
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

	fd = create_file(self, nr);
	us = time_to_populate(self, fd, nr);
	sigaction(SIGALRM, &sa, &old);

	for (k = 1; k <= 16; k++) {
		WRITE_ONCE(nr_signals, 0);
		set_timer(us * k / 16 + 1, 0);
		r = populate(fd, self->page_size, 0, nr);
		/* Before the counters are read, let it come if it has not yet. */
		while (!READ_ONCE(nr_signals))
			usleep(100);
		EXPECT_EQ(1, nr_signals);

		have = nr_allocated(fd, self->page_size);
		self->last_allocated = -1;
		EXPECT_HELD(have, nr - have);
		if (r) {
			EXPECT_EQ(EINTR, r);
			EXPECT_LE(0, have);
			EXPECT_GT(nr, have);
			partial += have > 0;
		} else {
			EXPECT_EQ(nr, have);
		}

		EXPECT_EQ(0, populate(fd, self->page_size, 0, nr));
		EXPECT_EQ(nr, nr_allocated(fd, self->page_size));
		self->last_allocated = -1;
		EXPECT_HELD(nr, 0);
		EXPECT_EQ(0, punch(fd, self->page_size, 0, nr));
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

	fd = create_file(self, nr);
	/*
	 * Pages that are there are walked over again by each call, and signals
	 * arrive twice in that time.
	 */
	ASSERT_EQ(0, populate(fd, self->page_size, 0, nr));
	start = now_us();
	ASSERT_EQ(0, populate(fd, self->page_size, 0, nr));
	interval = 100 + (now_us() - start) / 2;
	ASSERT_EQ(0, punch(fd, self->page_size, 0, nr));

	sigaction(SIGALRM, &sa, &old);
	WRITE_ONCE(nr_signals, 0);
	set_timer(interval, interval);
	do {
		r = populate(fd, self->page_size, 0, nr);
		calls++;
		last = have;
		/* Neither does fstat() care about signals. */
		have = nr_allocated(fd, self->page_size);
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
	size_t page_size;
	int fd;
	long first;
	long nr;
	int error;
	bool done;
};

static void *populate_thread(void *arg)
{
	struct work *w = arg;

	w->error = populate(w->fd, w->page_size, w->first, w->nr);
	WRITE_ONCE(w->done, true);
	return NULL;
}

static void *vcpu_thread(void *vcpu)
{
	run_vcpu(vcpu);
	return NULL;
}

/* Populate all of a file of one's own again and again, with two threads. */
static void populate_forever(life_data *self, long nr, int out)
{
	struct work w = { .page_size = self->page_size, .nr = nr };
	pthread_t thread;
	char byte = 0;

	self->vm = self->private ?
		   vm_create_barebones_type(KVM_X86_SW_PROTECTED_VM) :
		   vm_create_barebones();
	w.fd = create_file(self, nr);
	(void)!write(out, &byte, 1);
	for (;;) {
		pthread_create(&thread, NULL, populate_thread, &w);
		populate(w.fd, self->page_size, 0, nr);
		pthread_join(thread, NULL);
		punch(w.fd, self->page_size, 0, nr);
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
		fd = create_file(self, nr);
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

	fd = create_file(self, nr);
	us = time_to_populate(self, fd, nr);

	for (i = 0; i < 12; i++) {
		if (!fork_child(self, &c, &in, &out)) {
			(void)!write(out, &byte, 1);
			populate(fd, self->page_size, 0, nr);
			for (;;)
				pause();
		}
		ASSERT_EQ(1, read(c->from, &byte, 1));
		usleep(us * (i + 1) / 16);
		EXPECT_EQ(SIGKILL, kill_child(c));

		have = nr_allocated(fd, self->page_size);
		partial += have > 0 && have < nr;
		self->last_allocated = -1;
		EXPECT_HELD(have, nr - have);
		EXPECT_EQ(0, populate(fd, self->page_size, 0, nr));
		self->last_allocated = -1;
		EXPECT_HELD(nr, 0);
		EXPECT_EQ(0, punch(fd, self->page_size, 0, nr));
	}
	ksft_print_msg("%d of 12 were killed halfway\n", partial);
	EXPECT_LT(0, partial);
	close(fd);
	EXPECT_HELD(0, 0);
}

/*
 * Populating, by several at once
 */

static bool start_trace(life_data *self)
{
	static const char event[] = TRACE "/events/guest_memfd/guest_memfd_allocate";

	if (mkdir(TRACE, 0755) && errno != EEXIST)
		return false;
	self->tracing = true;
	return write_string(TRACE, "buffer_size_kb", "2048") &&
	       write_string(event, "enable", "1");
}

/* How many pages have been allocated since this was last asked. */
static long count_trace(void)
{
	char line[256];
	long nr = 0;
	FILE *f;
	int fd;

	f = fopen(TRACE "/trace", "r");
	TEST_ASSERT(f, "cannot read the trace");
	while (fgets(line, sizeof(line), f))
		nr += !!strstr(line, "guest_memfd_allocate: ");
	fclose(f);
	fd = open(TRACE "/trace", O_WRONLY | O_TRUNC);
	TEST_ASSERT(fd >= 0, "cannot clear the trace");
	close(fd);
	return nr;
}

#define NR_THREADS 4

enum ranges { DISJOINT, OVERLAPPING, SAME };

static void parallel(struct __test_metadata *_metadata, life_data *self,
		     long nr, enum ranges ranges)
{
	const int rounds = 5;
	pthread_t thread[NR_THREADS], vcpu[NR_VCPUS];
	struct work w[NR_THREADS];
	long quarter;
	int fd, i, n;

	nr -= nr % NR_THREADS;
	quarter = nr / NR_THREADS;
	fd = create_file(self, nr);
	bind_file(self, fd, nr);

	for (i = 0; i < NR_THREADS; i++) {
		w[i] = (struct work) {
			.page_size = self->page_size,
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

	if (self->tracing)
		count_trace();
	for (n = 0; n < rounds; n++) {
		set_cmd(self->vm, OP_FILL, 0, nr * self->page_size, 2 * n + 1);
		for (i = 0; i < NR_THREADS; i++)
			pthread_create(&thread[i], NULL, populate_thread, &w[i]);
		for (i = 0; i < NR_VCPUS; i++)
			pthread_create(&vcpu[i], NULL, vcpu_thread,
				       self->vcpu[i]);
		for (i = 0; i < NR_THREADS; i++) {
			pthread_join(thread[i], NULL);
			EXPECT_EQ(0, w[i].error);
		}
		/* That is all of the file, whatever the guest does. */
		EXPECT_EQ(nr, nr_allocated(fd, self->page_size));
		self->last_allocated = -1;
		EXPECT_HELD(nr, 0);
		for (i = 0; i < NR_VCPUS; i++)
			pthread_join(vcpu[i], NULL);

		EXPECT_EQ(nr, nr_allocated(fd, self->page_size));
		EXPECT_HELD(nr, 0);
		if (self->tracing)
			EXPECT_EQ(nr, count_trace());

		run_cmd(self->vm, self->vcpu[n % NR_VCPUS], OP_CHECK, 0,
			nr * self->page_size, 2 * n + 1);
		EXPECT_EQ(0, punch(fd, self->page_size, 0, nr));
		EXPECT_HELD(0, nr);
	}

	close(fd);
	EXPECT_HELD(0, 0);
}

TEST_F_TIMEOUT(life, parallel_disjoint, TIMEOUT)
{
	long nr = large_file(self, min_t(long, variant->nr_large, 2048));

	if (!nr)
		SKIP(return, "1G takes too long, others want 4 free pages");
	parallel(_metadata, self, nr, DISJOINT);
}

TEST_F_TIMEOUT(life, parallel_overlapping, TIMEOUT)
{
	long nr = large_file(self, min_t(long, variant->nr_large, 2048));

	if (!nr)
		SKIP(return, "1G takes too long, others want 4 free pages");
	parallel(_metadata, self, nr, OVERLAPPING);
}

TEST_F_TIMEOUT(life, parallel_same, TIMEOUT)
{
	long nr = large_file(self, min_t(long, variant->nr_large, 2048));

	if (!nr)
		SKIP(return, "1G takes too long, others want 4 free pages");
	parallel(_metadata, self, nr, SAME);
}

/* No page is allocated in vain, to be thrown away again. */
TEST_F_TIMEOUT(life, parallel_once, TIMEOUT)
{
	long nr = large_file(self, min_t(long, variant->nr_large, 2048));

	if (!nr)
		SKIP(return, "1G takes too long, others want 4 free pages");
	if (!start_trace(self))
		SKIP(return, "needs root, and the tracepoints in " TRACING);
	parallel(_metadata, self, nr, SAME);
}

/* Close the only descriptor while somebody populates through it. */
TEST_F_TIMEOUT(life, close_populating, TIMEOUT)
{
	long nr = large_file(self, variant->nr_large), us;
	struct work w = { .page_size = self->page_size, .nr = nr };
	int i, early = 0;
	pthread_t thread;

	if (!nr)
		SKIP(return, "1G takes too long, others want 4 free pages");

	w.fd = create_file(self, nr);
	us = time_to_populate(self, w.fd, nr);
	close(w.fd);

	for (i = 0; i < 10; i++) {
		w.fd = create_file(self, nr);
		bind_file(self, w.fd, nr);
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
		vm_set_user_memory_region2(self->vm, TEST_SLOT,
					   KVM_MEM_GUEST_MEMFD, 0, 0, NULL,
					   -1, 0);
	}
	ksft_print_msg("%d of 10 were closed meanwhile\n", early);
	EXPECT_LT(0, early);
}

static void *vcpu_until_closed(void *vcpu)
{
	struct kvm_vcpu *v = vcpu;
	struct ucall uc;
	int r;

	r = _vcpu_run(v);
	if (r)
		return (void *)(long)(errno == EFAULT &&
				      v->run->exit_reason == KVM_EXIT_MEMORY_FAULT);
	return (void *)(long)(get_ucall(v, &uc) == UCALL_SYNC ? 2 : 0);
}

/* The same while the guest does. */
TEST_F_TIMEOUT(life, close_under_guest, TIMEOUT)
{
	long nr = large_file(self, variant->nr_large), us, result;
	int fd, i, faulted = 0;
	pthread_t thread;

	if (!nr)
		SKIP(return, "1G takes too long, others want 4 free pages");

	fd = create_file(self, nr);
	us = time_to_populate(self, fd, nr);
	close(fd);
	/* Get the guest's code and stack mapped. */
	run_cmd(self->vm, self->vcpu[0], OP_NONE, 0, 0, 0);

	for (i = 0; i < 10; i++) {
		fd = create_file(self, nr);
		bind_file(self, fd, nr);
		set_cmd(self->vm, OP_TOUCH, 0, nr * self->page_size, 1);
		pthread_create(&thread, NULL, vcpu_until_closed, self->vcpu[0]);
		usleep(us * (i + 1) / 16);
		close(fd);
		pthread_join(thread, (void **)&result);
		EXPECT_HELD(0, 0);
		EXPECT_NE(0, result);
		vm_set_user_memory_region2(self->vm, TEST_SLOT,
					   KVM_MEM_GUEST_MEMFD, 0, 0, NULL,
					   -1, 0);
		if (result != 1)
			continue;

		/* The access was not carried out: give it memory to end with. */
		faulted++;
		fd = create_file(self, nr);
		bind_file(self, fd, nr);
		run_vcpu(self->vcpu[0]);
		close(fd);
		EXPECT_HELD(0, 0);
		vm_set_user_memory_region2(self->vm, TEST_SLOT,
					   KVM_MEM_GUEST_MEMFD, 0, 0, NULL,
					   -1, 0);
	}
	ksft_print_msg("%d of 10 met a file that was closed\n", faulted);
	EXPECT_LT(0, faulted);
}

/*
 * Errors
 */

enum operation { OP_CREATE, OP_POPULATE, OP_BIND };

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
		.memory_size = nr * self->page_size,
		.userspace_addr = (uintptr_t)self->hva,
		.guest_memfd = *fd,
	};

	switch (op) {
	case OP_CREATE:
		*fd = __vm_create_guest_memfd(self->vm, nr * self->page_size,
					      self->flags);
		return *fd < 0 ? errno : 0;
	case OP_POPULATE:
		return populate(*fd, self->page_size, nr - 1, 1);
	case OP_BIND:
		return ioctl(self->vm->fd, KVM_SET_USER_MEMORY_REGION2,
			     &region) ? errno : 0;
	}
	return -1;
}

static void undo_operation(life_data *self, enum operation op, int fd, long nr)
{
	switch (op) {
	case OP_CREATE:
		close(fd);
		break;
	case OP_POPULATE:
		TEST_ASSERT(!punch(fd, self->page_size, nr - 1, 1), "cannot punch");
		break;
	case OP_BIND:
		vm_set_user_memory_region2(self->vm, TEST_SLOT,
					   KVM_MEM_GUEST_MEMFD, 0, 0, NULL,
					   -1, 0);
		break;
	}
}

/* Have each allocation of memory that an operation makes fail in turn, then all. */
static void inject(struct __test_metadata *_metadata, life_data *self,
		   enum operation op, int fd, long nr)
{
	const long reserved = op == OP_CREATE ? 0 : nr;
	int fail_nth, fail_all, n, r, left, failed = 0, survived = 0;
	char text[32];

	fail_nth = open("/proc/thread-self/fail-nth", O_RDWR);
	fail_all = open("/proc/thread-self/make-it-fail", O_RDWR);
	if (fail_nth < 0 || fail_all < 0)
		SKIP(return, "needs CONFIG_FAULT_INJECTION");
	if (!set_up_faults(self)) {
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
			if (op == OP_POPULATE)
				EXPECT_EQ(0, nr_allocated(fd, self->page_size));
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
	inject(_metadata, self, OP_CREATE, -1, variant->nr);
}

TEST_F_TIMEOUT(life, fail_populate, TIMEOUT)
{
	int fd;

	if (variant->page_shift == 30)
		SKIP(return, "1G takes too long");

	fd = create_file(self, variant->nr);
	inject(_metadata, self, OP_POPULATE, fd, variant->nr);
	close(fd);
}

TEST_F_TIMEOUT(life, fail_bind, TIMEOUT)
{
	int fd;

	fd = create_file(self, variant->nr);
	inject(_metadata, self, OP_BIND, fd, variant->nr);
	close(fd);
}

/* A file of 2 pages of 2M is all that keeps KVM busy, or a path to it. */
static int hold(unsigned int seconds, bool path_only)
{
	struct kvm_vm *vm = vm_create_barebones();
	char path[64];
	int fd;

	fd = vm_create_guest_memfd(vm, 2 * SZ_2M, hugetlb_flags(21));
	if (populate(fd, SZ_2M, 0, 2))
		return 1;
	kvm_vm_free(vm);
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
		out = atoi(argv[6]);
		if (write(out, &r, sizeof(r)) != sizeof(r))
			return 1;
		serve(atoi(argv[2]), atol(argv[3]), atol(argv[4]), atoi(argv[5]),
		      out);
	}

	return test_harness_run(argc, argv);
}
