// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of what guest_memfd promises its allocators, and they it, and of what it
 * tells about them in fdinfo and by tracepoints.
 *
 * Most of it takes the allocator of the module test_guest_memfd, which is loaded
 * for each test and can be told to wait and to fail.  GUEST_MEMFD_FAULT in the
 * environment names a fault that it is to have all the time; some test must
 * fail then.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
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

#define MODULE		"test_guest_memfd"
#define PARAMETERS	"/sys/module/" MODULE "/parameters"
#define FLAG_TEST	BIT_ULL(62)
#define POOL		16	/* folios in the module's pool */
#define NR_FOLIOS	4	/* in the file of a test */
#define NR_VCPUS	2
#define TEST_SLOT	10
#define TIMEOUT		300
#define TRACING		"/sys/kernel/tracing"
#define TRACE		TRACING "/instances/guest_memfd_allocator_test"

/* The counters of the module. */
struct test_count {
	long free;
	long promised;
	long awaited;
};

static struct test_count read_test_count(void)
{
	return (struct test_count) {
		.free = read_count(PARAMETERS, "free"),
		.promised = read_count(PARAMETERS, "promised"),
		.awaited = read_count(PARAMETERS, "awaited"),
	};
}

static bool set_param(const char *name, long value)
{
	char text[32];

	snprintf(text, sizeof(text), "%ld", value);
	return write_string(PARAMETERS, name, text);
}

/* Whether the parameter has the value within half a minute. */
static bool wait_param(const char *name, long value)
{
	int i;

	for (i = 0; i < 3000; i++) {
		if (read_count(PARAMETERS, name) == value)
			return true;
		usleep(10000);
	}
	ksft_print_msg("%s is %ld, not %ld\n", name,
		       read_count(PARAMETERS, name), value);
	return false;
}

static bool load_module(unsigned int order)
{
	char command[128];

	snprintf(command, sizeof(command),
		 "modprobe -q " MODULE " order=%u nr_folios=%u", order, POOL);
	return !system(command) && read_count(PARAMETERS, "order") == order;
}

/* The error of unloading the module, 0 if it is gone. */
static int unload_module(void)
{
	return syscall(SYS_delete_module, MODULE, O_NONBLOCK) ? errno : 0;
}

/* The last of a file's inode goes with an RCU callback. */
static int unload_module_wait(void)
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
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu[NR_VCPUS];
	struct pool_count before;
	bool loaded;
	size_t page_size;
	size_t size;		/* of a file */
	u64 flags;
	int fd;
};

#define alloc_data FIXTURE_DATA(alloc)

FIXTURE_VARIANT(alloc)
{
	const char *name;
	unsigned int page_shift;
	bool test;		/* the module's allocator */
};

FIXTURE_VARIANT_ADD(alloc, buddy_4k)
{
	.name = "buddy",
	.page_shift = 12,
};

FIXTURE_VARIANT_ADD(alloc, hugetlb_2m)
{
	.name = "hugetlb",
	.page_shift = 21,
};

FIXTURE_VARIANT_ADD(alloc, test_4k)
{
	.name = "test",
	.page_shift = 12,
	.test = true,
};

FIXTURE_VARIANT_ADD(alloc, test_2m)
{
	.name = "test",
	.page_shift = 21,
	.test = true,
};

static int __create_file(alloc_data *self, unsigned int nr_folios, u64 flags)
{
	return __vm_create_guest_memfd(self->vm, nr_folios * self->page_size,
				       flags);
}

static bool populate(alloc_data *self, unsigned int folio, unsigned int nr)
{
	return !fallocate(self->fd, FALLOC_FL_KEEP_SIZE,
			  folio * self->page_size, nr * self->page_size);
}

static bool punch(alloc_data *self, unsigned int folio, unsigned int nr)
{
	return !fallocate(self->fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
			  folio * self->page_size, nr * self->page_size);
}

static long nr_folios(alloc_data *self)
{
	struct stat st;

	TEST_ASSERT(!fstat(self->fd, &st), "fstat of guest_memfd failed");
	return st.st_blocks * 512 / self->page_size;
}

FIXTURE_SETUP(alloc)
{
	const char *fault = getenv("GUEST_MEMFD_FAULT");

	self->page_size = 1UL << variant->page_shift;
	self->size = NR_FOLIOS * self->page_size;
	/* Without private memory the guest gets it if the file can be mapped. */
	self->flags = GUEST_MEMFD_FLAG_MMAP;
	self->fd = -1;

	if (variant->test) {
		if (!load_module(variant->page_shift - 12))
			SKIP(return, "needs root, and CONFIG_TEST_GUEST_MEMFD");
		self->loaded = true;
		self->flags |= FLAG_TEST;
		if (fault)
			ASSERT_TRUE(write_string(PARAMETERS, "fault", fault));
	} else if (variant->page_shift > 12) {
		read_pool(self->page_size, &self->before);
		if (self->before.free - self->before.resv < NR_FOLIOS)
			SKIP(return, "needs %d free huge pages of %zu kB",
			     NR_FOLIOS, self->page_size >> 10);
		self->flags |= hugetlb_flags(variant->page_shift);
	}

	self->vm = __vm_create_with_vcpus(VM_SHAPE_DEFAULT, NR_VCPUS, 0,
					  guest_code, self->vcpu);
	self->fd = __create_file(self, NR_FOLIOS, self->flags);
	ASSERT_LE(0, self->fd);

	vm_set_user_memory_region2(self->vm, TEST_SLOT, KVM_MEM_GUEST_MEMFD,
				   TEST_GPA, self->size, NULL, self->fd, 0);
	virt_map_level(self->vm, TEST_GPA, TEST_GPA, SZ_1G, PG_LEVEL_1G);

	/* Get the guest's code and stack mapped. */
	run_cmd(self->vm, self->vcpu[0], OP_NONE, 0, 0, 0);
	run_cmd(self->vm, self->vcpu[1], OP_NONE, 0, 0, 0);
}

FIXTURE_TEARDOWN(alloc)
{
	struct pool_count after;
	struct test_count count;

	if (self->fd >= 0)
		close(self->fd);
	if (self->vm)
		kvm_vm_free(self->vm);

	if (self->loaded) {
		count = read_test_count();
		EXPECT_EQ(POOL, count.free);
		EXPECT_EQ(0, count.promised);
		EXPECT_EQ(0, count.awaited);
		EXPECT_EQ(0, unload_module_wait());
	} else if (self->vm && variant->page_shift > 12) {
		read_pool(self->page_size, &after);
		EXPECT_EQ(0, memcmp(&self->before, &after, sizeof(after))) {
			print_pool("before", &self->before);
			print_pool("after", &after);
		}
	}
}

/*
 * fdinfo
 */

/* The value of a key in the file's fdinfo, -1 if it isn't there. */
static long read_fdinfo(int fd, const char *key, char *text, size_t size)
{
	char path[64], line[256], value[128], unit[8];
	long found = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	f = fopen(path, "r");
	TEST_ASSERT(f, "no %s", path);

	while (fgets(line, sizeof(line), f)) {
		size_t len = strlen(key);

		if (strncmp(line, key, len) || line[len] != ':')
			continue;
		TEST_ASSERT(found < 0, "%s is there twice", key);
		TEST_ASSERT(sscanf(line + len + 1, "\t%127s %7s", value, unit) >= 1,
			    "%s has no value", key);
		found = strtol(value, NULL, 10);
		if (text)
			snprintf(text, size, "%s", value);
	}
	fclose(f);
	return found;
}

static long fdinfo_kb(int fd, const char *key)
{
	return read_fdinfo(fd, key, NULL, 0);
}

static void check_fdinfo(struct __test_metadata *_metadata, alloc_data *self,
			 int fd, long allocated, bool reserves, bool shared)
{
	const long kb = self->page_size >> 10;
	char key[64];

	EXPECT_EQ(kb, fdinfo_kb(fd, "gmem-page-size"));
	EXPECT_EQ(NR_FOLIOS * kb, fdinfo_kb(fd, "gmem-size"));
	EXPECT_EQ(shared ? 0 : NR_FOLIOS * kb, fdinfo_kb(fd, "gmem-private"));
	EXPECT_EQ(shared ? NR_FOLIOS * kb : 0, fdinfo_kb(fd, "gmem-shared"));
	EXPECT_EQ(allocated * kb, fdinfo_kb(fd, "gmem-allocated"));
	snprintf(key, sizeof(key), "gmem-folios-%ldkB", kb);
	EXPECT_EQ(allocated, fdinfo_kb(fd, key));
	EXPECT_EQ(reserves ? (NR_FOLIOS - allocated) * kb : -1,
		  fdinfo_kb(fd, "gmem-reserved"));
	EXPECT_EQ(reserves ? 0 : -1, fdinfo_kb(fd, "gmem-awaited"));
}

TEST_F_TIMEOUT(alloc, fdinfo, TIMEOUT)
{
	const bool reserves = strcmp(variant->name, "buddy");
	char name[64] = "";
	int fd;

	read_fdinfo(self->fd, "gmem-allocator", name, sizeof(name));
	EXPECT_STREQ(variant->name, name);

	check_fdinfo(_metadata, self, self->fd, 0, reserves, false);
	ASSERT_TRUE(populate(self, 1, 2));
	check_fdinfo(_metadata, self, self->fd, 2, reserves, false);
	run_cmd(self->vm, self->vcpu[0], OP_TOUCH, 0, SZ_4K, 1);
	check_fdinfo(_metadata, self, self->fd, 3, reserves, false);
	ASSERT_TRUE(punch(self, 0, 2));
	check_fdinfo(_metadata, self, self->fd, 1, reserves, false);

	if (variant->page_shift == 12) {
		fd = __create_file(self, NR_FOLIOS, self->flags |
				   GUEST_MEMFD_FLAG_INIT_SHARED);
		ASSERT_LE(0, fd);
		check_fdinfo(_metadata, self, fd, 0, reserves, true);
		close(fd);
	}
}

/*
 * Tracepoints
 */

static bool trace_open(void)
{
	rmdir(TRACE);
	return !mkdir(TRACE, 0700) &&
	       write_string(TRACE "/events/guest_memfd", "enable", "1") &&
	       write_string(TRACE, "tracing_on", "1");
}

/*
 * What the next event of that name, for the inode if it's not 0, has to say by
 * this format.  The number of values that were found, -1 without an event.
 */
static int trace_next(FILE *f, const char *event, ino_t ino, const char *format,
		      ...)
{
	char name[64], text[64] = "", line[512], *start;
	va_list ap;
	int n;

	snprintf(name, sizeof(name), " %s: ", event);
	if (ino)
		snprintf(text, sizeof(text), "ino=%lu ", (unsigned long)ino);

	while (fgets(line, sizeof(line), f)) {
		start = strstr(line, name);
		if (line[0] == '#' || !start || !strstr(start, text))
			continue;

		va_start(ap, format);
		n = vsscanf(start + strlen(name), format, ap);
		va_end(ap);
		return n;
	}
	return -1;
}

TEST_F_TIMEOUT(alloc, tracepoints, TIMEOUT)
{
	static const char reserve[] =
		"ino=%llu allocator=%31s order=%u nr_folios=%lu error=%d";
	static const char allocate[] =
		"ino=%llu index=0x%lx order=%u pfn=0x%lx nid=%d error=%d";
	static const char truncate[] = "ino=%llu start=0x%lx end=0x%lx";
	static const char unreserve[] = "ino=%llu allocator=%31s";
	const unsigned int order = variant->page_shift - 12;
	const bool reserves = strcmp(variant->name, "buddy");
	unsigned long index, pfn, start, end, nr;
	unsigned long long ino;
	char name[32];
	unsigned int got_order;
	struct stat st;
	int fd, nid, error;
	FILE *f;

	if (!trace_open())
		SKIP(return, "needs root, and tracefs in " TRACING);

	fd = __create_file(self, NR_FOLIOS, self->flags);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, fstat(fd, &st));
	ASSERT_EQ(0, fallocate(fd, FALLOC_FL_KEEP_SIZE, self->page_size,
			       self->page_size));
	ASSERT_EQ(0, fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
			       self->page_size, self->page_size));
	/* There is nothing to remove now. */
	ASSERT_EQ(0, fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
			       0, self->page_size));
	ASSERT_EQ(0, fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, self->page_size));
	close(fd);
	/* More than anybody has. */
	fd = __vm_create_guest_memfd(self->vm, 1ULL << 62, self->flags);
	if (fd >= 0)
		close(fd);
	EXPECT_EQ(reserves, fd < 0);

	ASSERT_TRUE(write_string(TRACE, "tracing_on", "0"));
	f = fopen(TRACE "/trace", "r");
	ASSERT_NE(NULL, f);

	if (reserves) {
		ASSERT_EQ(5, trace_next(f, "guest_memfd_reserve", st.st_ino,
					reserve, &ino, name, &got_order, &nr,
					&error));
		EXPECT_STREQ(variant->name, name);
		EXPECT_EQ(order, got_order);
		EXPECT_EQ(NR_FOLIOS, nr);
		EXPECT_EQ(0, error);
	}

	ASSERT_EQ(6, trace_next(f, "guest_memfd_allocate", st.st_ino, allocate,
				&ino, &index, &got_order, &pfn, &nid, &error));
	EXPECT_EQ(1UL << order, index);
	EXPECT_EQ(order, got_order);
	EXPECT_NE(0, pfn);
	EXPECT_EQ(0, pfn & ((1UL << order) - 1));
	EXPECT_LE(0, nid);
	EXPECT_EQ(0, error);

	/* The hole, then the file. */
	ASSERT_EQ(3, trace_next(f, "guest_memfd_truncate", st.st_ino, truncate,
				&ino, &start, &end));
	EXPECT_EQ(1UL << order, start);
	EXPECT_EQ(2UL << order, end);

	ASSERT_EQ(3, trace_next(f, "guest_memfd_truncate", st.st_ino, truncate,
				&ino, &start, &end));
	EXPECT_EQ(0, start);
	EXPECT_EQ((unsigned long)NR_FOLIOS << order, end);

	if (reserves) {
		ASSERT_EQ(2, trace_next(f, "guest_memfd_unreserve", st.st_ino,
					unreserve, &ino, name));
		EXPECT_STREQ(variant->name, name);

		ASSERT_EQ(5, trace_next(f, "guest_memfd_reserve", 0, reserve,
					&ino, name, &got_order, &nr, &error));
		EXPECT_EQ((1UL << 50) >> order, nr);
		EXPECT_EQ(-ENOMEM, error);
	}
	fclose(f);
	EXPECT_EQ(0, rmdir(TRACE));
}

/*
 * What any allocator does
 */

/* No part of a page has what was there before, whoever had it. */
TEST_F_TIMEOUT(alloc, cleared, TIMEOUT)
{
	struct kvm_vm *vm = self->vm;
	int i;

	for (i = 0; i < 2; i++) {
		run_cmd(vm, self->vcpu[i], OP_CHECK_ZERO, 0, self->size, 0);
		run_cmd(vm, self->vcpu[i], OP_FILL, 0, self->size, 7);
		run_cmd(vm, self->vcpu[!i], OP_CHECK, 0, self->size, 7);
		ASSERT_EQ(NR_FOLIOS, nr_folios(self));
		ASSERT_TRUE(punch(self, 0, NR_FOLIOS));
		ASSERT_EQ(0, nr_folios(self));
	}

	ASSERT_TRUE(populate(self, 0, NR_FOLIOS));
	run_cmd(vm, self->vcpu[0], OP_CHECK_ZERO, 0, self->size, 0);
}

TEST_F_TIMEOUT(alloc, mappings, TIMEOUT)
{
	const bool huge = variant->page_shift == 21;
	long nr_2m = vm_get_stat(self->vm, pages_2m);
	long nr_4k = vm_get_stat(self->vm, pages_4k);

	run_cmd(self->vm, self->vcpu[0], OP_TOUCH, 0, self->size, 1);
	EXPECT_EQ(huge ? NR_FOLIOS : 0, vm_get_stat(self->vm, pages_2m) - nr_2m);
	EXPECT_EQ(huge ? 0 : NR_FOLIOS, vm_get_stat(self->vm, pages_4k) - nr_4k);
}

/*
 * What the test allocator can be told to do
 */

TEST_F_TIMEOUT(alloc, reservation, TIMEOUT)
{
	struct test_count count;
	int fd, fd2;

	if (!variant->test)
		SKIP(return, "for the test allocator only");

	count = read_test_count();
	EXPECT_EQ(POOL, count.free);
	EXPECT_EQ(NR_FOLIOS, count.promised);

	/* All or nothing. */
	EXPECT_EQ(-1, __create_file(self, POOL - NR_FOLIOS + 1, self->flags));
	EXPECT_EQ(ENOMEM, errno);
	EXPECT_EQ(-1, __vm_create_guest_memfd(self->vm, 1ULL << 62, self->flags));
	EXPECT_EQ(ENOMEM, errno);
	EXPECT_EQ(NR_FOLIOS, read_test_count().promised);

	fd = __create_file(self, POOL - NR_FOLIOS, self->flags);
	EXPECT_LE(0, fd);
	EXPECT_EQ(POOL, read_test_count().promised);
	fd2 = __create_file(self, 1, self->flags);
	EXPECT_EQ(-1, fd2);
	EXPECT_EQ(ENOMEM, errno);

	/* Both get all that was promised to them, and no more. */
	EXPECT_EQ(0, fallocate(fd, FALLOC_FL_KEEP_SIZE, 0,
			       (POOL - NR_FOLIOS) * self->page_size));
	EXPECT_TRUE(populate(self, 0, NR_FOLIOS));
	EXPECT_EQ(0, read_test_count().free);

	/* A page that is punched out is the file's to have again. */
	EXPECT_TRUE(punch(self, 1, 1));
	EXPECT_EQ(1, read_test_count().free);
	EXPECT_EQ(POOL, read_test_count().promised);
	run_cmd(self->vm, self->vcpu[0], OP_TOUCH, 0, self->size, 1);
	EXPECT_EQ(0, read_test_count().free);

	close(fd);
	EXPECT_EQ(POOL - NR_FOLIOS, read_test_count().free);
	EXPECT_EQ(NR_FOLIOS, read_test_count().promised);
}

/* A file keeps the module, whatever else is gone, and nothing else does. */
TEST_F_TIMEOUT(alloc, module_lifetime, TIMEOUT)
{
	struct kvm_vm *vm;

	if (!variant->test)
		SKIP(return, "for the test allocator only");

	ASSERT_TRUE(populate(self, 0, 1));
	EXPECT_EQ(EWOULDBLOCK, unload_module());

	/* A file that could not be created. */
	EXPECT_EQ(-1, __create_file(self, POOL, self->flags));
	EXPECT_EQ(-1, __vm_create_guest_memfd(self->vm, 1, self->flags));
	EXPECT_EQ(-1, __vm_create_guest_memfd(self->vm, self->size,
					      self->flags | BIT_ULL(61)));

	/* The VM goes first. */
	vm = self->vm;
	self->vm = NULL;
	kvm_vm_free(vm);
	EXPECT_EQ(1, nr_folios(self));
	EXPECT_EQ(EWOULDBLOCK, unload_module());

	close(self->fd);
	self->fd = -1;
	EXPECT_EQ(POOL, read_test_count().free);
	ASSERT_EQ(0, unload_module_wait());
	self->loaded = false;

	/* The flag is unknown now, and known again if the module comes back. */
	vm = vm_create_barebones();
	EXPECT_EQ(-1, __vm_create_guest_memfd(vm, self->size, self->flags));
	EXPECT_EQ(EINVAL, errno);
	self->loaded = load_module(variant->page_shift - 12);
	ASSERT_TRUE(self->loaded);
	self->fd = __vm_create_guest_memfd(vm, self->size, self->flags);
	EXPECT_LE(0, self->fd);
	kvm_vm_free(vm);
}

static void *touch_thread(void *vcpu)
{
	run_vcpu(vcpu);
	return NULL;
}

struct populate_arg {
	alloc_data *self;
	unsigned int folio;
	int error;
};

static void *populate_thread(void *arg)
{
	struct populate_arg *p = arg;

	p->error = populate(p->self, p->folio, 1) ? 0 : errno;
	return NULL;
}

/* Whoever waits for one page holds up nobody who wants another one. */
TEST_F_TIMEOUT(alloc, independent_indices, TIMEOUT)
{
	struct populate_arg same = { .self = self };
	pthread_t first, second;
	int i;

	if (!variant->test)
		SKIP(return, "for the test allocator only");

	/* A vCPU's first touch of page 0 does not come to an end. */
	ASSERT_TRUE(set_param("hold", 1));
	set_cmd(self->vm, OP_TOUCH, 0, SZ_4K, 1);
	pthread_create(&first, NULL, touch_thread, self->vcpu[0]);
	ASSERT_TRUE(wait_param("held", 1));

	/* Nor does populating it. */
	pthread_create(&second, NULL, populate_thread, &same);

	for (i = 0; i < 3; i++) {
		run_cmd(self->vm, self->vcpu[1], OP_TOUCH, self->page_size,
			self->size - self->page_size, 1);
		EXPECT_EQ(NR_FOLIOS - 1, nr_folios(self));
		ASSERT_TRUE(punch(self, 1, 2));
		EXPECT_EQ(NR_FOLIOS - 3, nr_folios(self));
		ASSERT_TRUE(populate(self, 2, 2));
		EXPECT_EQ(NR_FOLIOS - 2, nr_folios(self));
		ASSERT_TRUE(punch(self, 0, NR_FOLIOS));
		EXPECT_EQ(0, nr_folios(self));
	}

	/* Punching a hole is over, the page comes into being afterwards. */
	EXPECT_EQ(1, read_count(PARAMETERS, "held"));
	EXPECT_EQ(POOL - 1, read_test_count().free);
	EXPECT_EQ(self->page_size >> 10, fdinfo_kb(self->fd, "gmem-awaited"));

	ASSERT_TRUE(set_param("held", 0));
	pthread_join(first, NULL);
	pthread_join(second, NULL);
	EXPECT_EQ(0, same.error);
	/* One page, not two. */
	EXPECT_EQ(1, nr_folios(self));
	EXPECT_EQ(POOL - 1, read_test_count().free);
}

/* Pages that are allocated at the same time, by several threads */
TEST_F_TIMEOUT(alloc, parallel, TIMEOUT)
{
	struct populate_arg arg[NR_FOLIOS];
	pthread_t thread[NR_FOLIOS];
	int i;

	if (!variant->test)
		SKIP(return, "for the test allocator only");

	ASSERT_TRUE(set_param("hold", NR_FOLIOS));
	for (i = 0; i < NR_FOLIOS; i++) {
		arg[i] = (struct populate_arg) { .self = self, .folio = i };
		pthread_create(&thread[i], NULL, populate_thread, &arg[i]);
	}
	EXPECT_TRUE(wait_param("held", NR_FOLIOS));
	ASSERT_TRUE(set_param("held", 0));
	for (i = 0; i < NR_FOLIOS; i++) {
		pthread_join(thread[i], NULL);
		EXPECT_EQ(0, arg[i].error);
	}
	EXPECT_EQ(NR_FOLIOS, nr_folios(self));
}

static void nothing(int sig)
{
}

static void interrupt_soon(void)
{
	const struct itimerval soon = {
		.it_value.tv_usec = 100000,
		.it_interval.tv_usec = 100000,
	};
	struct sigaction sa = { .sa_handler = nothing };

	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &soon, NULL);
}

static void interrupt_no_more(void)
{
	const struct itimerval never = {};

	setitimer(ITIMER_REAL, &never, NULL);
	signal(SIGALRM, SIG_DFL);
}

/* A page that is still in use is waited for, unless a signal arrives. */
TEST_F_TIMEOUT(alloc, asked_again, TIMEOUT)
{
	struct kvm_run *run = self->vcpu[0]->run;

	if (!variant->test)
		SKIP(return, "for the test allocator only");

	ASSERT_TRUE(set_param("again", 5));
	EXPECT_TRUE(populate(self, 0, 1));
	EXPECT_EQ(0, read_count(PARAMETERS, "again"));

	ASSERT_TRUE(set_param("again", 5));
	run_cmd(self->vm, self->vcpu[0], OP_TOUCH, self->page_size, SZ_4K, 1);
	EXPECT_EQ(0, read_count(PARAMETERS, "again"));
	EXPECT_EQ(2, nr_folios(self));

	/* Forever */
	ASSERT_TRUE(set_param("again", 1000000000));
	interrupt_soon();
	EXPECT_FALSE(populate(self, 2, 1));
	EXPECT_EQ(EINTR, errno);

	set_cmd(self->vm, OP_TOUCH, 2 * self->page_size, SZ_4K, 1);
	EXPECT_EQ(-1, __vcpu_run(self->vcpu[0]));
	EXPECT_EQ(EINTR, errno);
	EXPECT_EQ(KVM_EXIT_INTR, run->exit_reason);
	interrupt_no_more();
	EXPECT_EQ(2, nr_folios(self));

	/* The vCPU goes on where it was. */
	ASSERT_TRUE(set_param("again", 0));
	run_vcpu(self->vcpu[0]);
	EXPECT_EQ(3, nr_folios(self));
}

/* Waiting for another task to allocate the page can be interrupted too. */
TEST_F_TIMEOUT(alloc, interrupted_wait, TIMEOUT)
{
	struct populate_arg arg = { .self = self };
	sigset_t alarm, old;
	pthread_t thread;

	if (!variant->test)
		SKIP(return, "for the test allocator only");

	/* The signal is for this thread. */
	sigemptyset(&alarm);
	sigaddset(&alarm, SIGALRM);
	pthread_sigmask(SIG_BLOCK, &alarm, &old);
	ASSERT_TRUE(set_param("hold", 1));
	pthread_create(&thread, NULL, populate_thread, &arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	ASSERT_TRUE(wait_param("held", 1));

	interrupt_soon();
	EXPECT_FALSE(populate(self, 0, 1));
	EXPECT_EQ(EINTR, errno);
	set_cmd(self->vm, OP_TOUCH, 0, SZ_4K, 1);
	EXPECT_EQ(-1, __vcpu_run(self->vcpu[0]));
	EXPECT_EQ(EINTR, errno);
	interrupt_no_more();

	ASSERT_TRUE(set_param("held", 0));
	pthread_join(thread, NULL);
	EXPECT_EQ(0, arg.error);
	run_vcpu(self->vcpu[0]);
	EXPECT_EQ(1, nr_folios(self));
}

/* An error of the allocator is the caller's, and leaves what was done. */
TEST_F_TIMEOUT(alloc, allocate_fails, TIMEOUT)
{
	if (!variant->test)
		SKIP(return, "for the test allocator only");

	ASSERT_TRUE(populate(self, 0, 1));
	ASSERT_TRUE(set_param("fail", 1));
	EXPECT_FALSE(populate(self, 0, NR_FOLIOS));
	EXPECT_EQ(ENOMEM, errno);
	EXPECT_EQ(1, nr_folios(self));
	EXPECT_EQ(POOL - 1, read_test_count().free);

	ASSERT_TRUE(set_param("fail", 1));
	set_cmd(self->vm, OP_TOUCH, 0, self->size, 1);
	EXPECT_EQ(-1, _vcpu_run(self->vcpu[0]));
	EXPECT_EQ(ENOMEM, errno);
	EXPECT_EQ(1, nr_folios(self));

	/* The guest tries the same access again. */
	run_vcpu(self->vcpu[0]);
	EXPECT_EQ(NR_FOLIOS, nr_folios(self));
}

static void *closing_populate_thread(void *arg)
{
	struct populate_arg *p = arg;

	p->error = fallocate(p->self->fd, FALLOC_FL_KEEP_SIZE, 0,
			     p->self->size) ? errno : 0;
	return NULL;
}

/* Closing a file that is being populated: the call ends, then the file goes. */
TEST_F_TIMEOUT(alloc, close_while_populating, TIMEOUT)
{
	struct populate_arg arg = { .self = self };
	struct kvm_vm *vm = self->vm;
	pthread_t thread;

	if (!variant->test)
		SKIP(return, "for the test allocator only");

	ASSERT_TRUE(set_param("hold", 1));
	pthread_create(&thread, NULL, closing_populate_thread, &arg);
	ASSERT_TRUE(wait_param("held", 1));
	close(self->fd);
	self->vm = NULL;
	kvm_vm_free(vm);
	EXPECT_EQ(EWOULDBLOCK, unload_module());
	EXPECT_EQ(NR_FOLIOS, read_test_count().promised);

	ASSERT_TRUE(set_param("held", 0));
	pthread_join(thread, NULL);
	self->fd = -1;
	EXPECT_EQ(0, arg.error);
	EXPECT_TRUE(wait_param("promised", 0));
}

/* A process that is killed while its vCPU waits for memory leaves nothing. */
TEST_F_TIMEOUT(alloc, killed, TIMEOUT)
{
	int status;
	pid_t pid;

	if (!variant->test)
		SKIP(return, "for the test allocator only");

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		self->vm = vm_create_barebones();
		self->fd = __create_file(self, NR_FOLIOS, self->flags);
		populate(self, 0, 1);
		set_param("hold", 1);
		populate(self, 0, NR_FOLIOS);
		_exit(1);
	}
	ASSERT_TRUE(wait_param("held", 1));
	EXPECT_EQ(2 * NR_FOLIOS, read_test_count().promised);
	EXPECT_EQ(POOL - 2, read_test_count().free);
	kill(pid, SIGKILL);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_TRUE(WIFSIGNALED(status));
	EXPECT_TRUE(wait_param("promised", NR_FOLIOS));
	EXPECT_EQ(POOL, read_test_count().free);
	EXPECT_EQ(0, read_count(PARAMETERS, "held"));
}

struct race_arg {
	alloc_data *self;
	bool stop;
	int error;
};

static void *race_punch_thread(void *arg)
{
	struct race_arg *r = arg;
	int i;

	for (i = 0; !READ_ONCE(r->stop); i++)
		if (!punch(r->self, i % NR_FOLIOS, 1 + i % 2))
			WRITE_ONCE(r->error, errno);
	return NULL;
}

static void *race_populate_thread(void *arg)
{
	struct race_arg *r = arg;
	int i;

	for (i = 0; !READ_ONCE(r->stop); i++)
		if (!populate(r->self, i % NR_FOLIOS, 1))
			WRITE_ONCE(r->error, errno);
	return NULL;
}

/* Never is more asked of the allocator than was reserved; it has a WARN for that. */
TEST_F_TIMEOUT(alloc, populate_and_punch, TIMEOUT)
{
	struct race_arg arg = { .self = self };
	pthread_t thread[4];
	int i, n;

	for (i = 0; i < ARRAY_SIZE(thread); i++)
		pthread_create(&thread[i], NULL, i % 2 ? race_punch_thread :
			       race_populate_thread, &arg);
	for (n = 0; n < 200; n++)
		run_cmd(self->vm, self->vcpu[n % 2], OP_TOUCH, 0, self->size, n);
	WRITE_ONCE(arg.stop, true);
	for (i = 0; i < ARRAY_SIZE(thread); i++)
		pthread_join(thread[i], NULL);
	EXPECT_EQ(0, arg.error);
}

/* A fault of the kernel's for a page that does not come; SIGKILL ends it. */
TEST_F_TIMEOUT(alloc, killed_in_host_fault, TIMEOUT)
{
	int i, status, fd, null;
	pid_t pid;
	char *p;

	if (!variant->test)
		SKIP(return, "for the test allocator only");
	if (variant->page_shift != 12)
		SKIP(return, "the host maps single pages only");

	fd = __create_file(self, 1, self->flags | GUEST_MEMFD_FLAG_INIT_SHARED);
	ASSERT_LE(0, fd);
	p = mmap(NULL, SZ_4K, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, p);
	null = memfd_create("sink", 0);
	ASSERT_LE(0, null);

	for (i = 0; i < 2; i++) {
		ASSERT_TRUE(set_param(i ? "again" : "hold", i ? 1000000000 : 1));
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			write(null, p, 1);
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

	/* The page comes once it can, signals or not. */
	ASSERT_TRUE(set_param("again", 50));
	interrupt_soon();
	EXPECT_EQ(1, write(null, p, 1));
	interrupt_no_more();
	EXPECT_EQ(0, read_count(PARAMETERS, "again"));

	munmap(p, SZ_4K);
	close(null);
	close(fd);
}

static int nr_alarms;

/* At the third one, have the allocator give the page out. */
static void let_go(int sig)
{
	WRITE_ONCE(nr_alarms, nr_alarms + 1);
	if (nr_alarms == 3)
		set_param("again", 0);
}

/* A fault of userspace's for such a page: signals are dealt with meanwhile. */
TEST_F_TIMEOUT(alloc, signals_in_host_fault, TIMEOUT)
{
	struct sigaction sa = { .sa_handler = let_go };
	int fd;
	char *p;

	if (!variant->test)
		SKIP(return, "for the test allocator only");
	if (variant->page_shift != 12)
		SKIP(return, "the host maps single pages only");

	fd = __create_file(self, 2, self->flags | GUEST_MEMFD_FLAG_INIT_SHARED);
	ASSERT_LE(0, fd);
	p = mmap(NULL, 2 * SZ_4K, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, p);

	ASSERT_TRUE(set_param("again", 1000000000));
	interrupt_soon();
	sigaction(SIGALRM, &sa, NULL);
	WRITE_ONCE(*p, 1);
	interrupt_no_more();
	EXPECT_LE(3, READ_ONCE(nr_alarms));
	EXPECT_EQ(1, *p);

	/* No memory: that is no reason to try for ever. */
	ASSERT_TRUE(set_param("fail", 1));
	TEST_EXPECT_SIGBUS(WRITE_ONCE(p[SZ_4K], 1));
	EXPECT_EQ(0, read_count(PARAMETERS, "fail"));
	WRITE_ONCE(p[SZ_4K], 2);
	EXPECT_EQ(2, p[SZ_4K]);

	munmap(p, 2 * SZ_4K);
	close(fd);
}

/* A hole as large as a file can be: only what there is takes time. */
TEST_F_TIMEOUT(alloc, punch_sparse, TIMEOUT)
{
	const u64 size = 1ULL << 62;
	struct stat st;
	int fd;

	if (strcmp(variant->name, "buddy"))
		SKIP(return, "the whole file is reserved");

	fd = __vm_create_guest_memfd(self->vm, size, self->flags);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, fallocate(fd, FALLOC_FL_KEEP_SIZE, SZ_4K, SZ_4K));
	ASSERT_EQ(0, fallocate(fd, FALLOC_FL_KEEP_SIZE, size / 2, SZ_4K));
	ASSERT_EQ(0, fallocate(fd, FALLOC_FL_KEEP_SIZE, size - SZ_4K, SZ_4K));
	ASSERT_EQ(0, fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
			       SZ_4K, size - 2 * SZ_4K));
	ASSERT_EQ(0, fstat(fd, &st));
	EXPECT_EQ(SZ_4K / 512, st.st_blocks);
	ASSERT_EQ(0, fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
			       0, size));
	ASSERT_EQ(0, fstat(fd, &st));
	EXPECT_EQ(0, st.st_blocks);
	close(fd);
}

/* A page that has left its file while somebody else uses it */
TEST_F_TIMEOUT(alloc, lingering_user, TIMEOUT)
{
	struct iovec iov = { .iov_len = SZ_4K };
	struct test_count count;
	int rest, fd, pipefd[2];
	char *p, c;

	if (!variant->test)
		SKIP(return, "for the test allocator only");
	if (variant->page_shift != 12) {
		EXPECT_EQ(-1, __create_file(self, 1, self->flags |
					    GUEST_MEMFD_FLAG_INIT_SHARED));
		EXPECT_EQ(EOPNOTSUPP, errno);
		return;
	}

	/* The rest of the pool, so that nobody gets another page instead. */
	ASSERT_TRUE(populate(self, 0, NR_FOLIOS));
	rest = __create_file(self, POOL - NR_FOLIOS - 1, self->flags);
	ASSERT_LE(0, rest);
	ASSERT_EQ(0, fallocate(rest, FALLOC_FL_KEEP_SIZE, 0,
			       (POOL - NR_FOLIOS - 1) * self->page_size));

	fd = __create_file(self, 1, self->flags | GUEST_MEMFD_FLAG_INIT_SHARED);
	ASSERT_LE(0, fd);
	p = mmap(NULL, SZ_4K, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, p);
	*p = 42;
	ASSERT_EQ(0, pipe(pipefd));
	iov.iov_base = p;
	ASSERT_EQ(SZ_4K, vmsplice(pipefd[1], &iov, 1, 0));

	ASSERT_EQ(0, fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
			       0, SZ_4K));
	count = read_test_count();
	EXPECT_EQ(0, count.free);
	EXPECT_EQ(1, count.awaited);
	EXPECT_EQ(POOL, count.promised);
	EXPECT_EQ(4, fdinfo_kb(fd, "gmem-awaited"));
	EXPECT_EQ(0, fdinfo_kb(fd, "gmem-reserved"));
	EXPECT_EQ(0, fdinfo_kb(fd, "gmem-allocated"));

	interrupt_soon();
	EXPECT_EQ(-1, fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, SZ_4K));
	EXPECT_EQ(EINTR, errno);
	interrupt_no_more();

	/* What the user reads is what was there, and then the page is back. */
	ASSERT_EQ(1, read(pipefd[0], &c, 1));
	EXPECT_EQ(42, c);
	close(pipefd[0]);
	close(pipefd[1]);
	count = read_test_count();
	EXPECT_EQ(1, count.free);
	EXPECT_EQ(0, count.awaited);
	EXPECT_EQ(0, fdinfo_kb(fd, "gmem-awaited"));
	EXPECT_EQ(4, fdinfo_kb(fd, "gmem-reserved"));

	EXPECT_EQ(0, fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, SZ_4K));
	EXPECT_EQ(0, *p);

	/* The same when the file goes, and its reservation with it. */
	*p = 43;
	ASSERT_EQ(0, pipe(pipefd));
	ASSERT_EQ(SZ_4K, vmsplice(pipefd[1], &iov, 1, 0));
	munmap(p, SZ_4K);
	close(fd);
	count = read_test_count();
	EXPECT_EQ(0, count.free);
	EXPECT_EQ(1, count.awaited);
	EXPECT_EQ(POOL - 1, count.promised);
	/* Nobody is promised what may not come back for long. */
	EXPECT_EQ(-1, __create_file(self, 1, self->flags));
	EXPECT_EQ(ENOMEM, errno);
	ASSERT_EQ(1, read(pipefd[0], &c, 1));
	EXPECT_EQ(43, c);
	close(pipefd[0]);
	close(pipefd[1]);
	EXPECT_EQ(1, read_test_count().free);
	close(rest);
}

TEST_HARNESS_MAIN
