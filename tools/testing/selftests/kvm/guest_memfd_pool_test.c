// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of where huge pages of guest_memfd come from, and of who is charged for
 * them: memory policies and cpusets, the counters of the pool, of the hugetlb
 * and memory cgroups and of the system, and pools that change their size while
 * a file holds or reserves pages.
 *
 * Pages may be in the pool since boot, added later, or from hugetlb_cma; the
 * tests take what there is.  Needs root.  Nobody else may use the pool.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <linux/falloc.h>
#include <linux/sizes.h>

#include "kvm_util.h"
#include "kvm_test_harness.h"
#include "guest_visitor.h"
#include "hugetlb_pool.h"
#include "numaif.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define TEST_SLOT	10
/* Seconds.  Clearing 1G takes its time. */
#define TIMEOUT		300
/* What is mapped for the guest, and the room for memory in userspace. */
#define GUEST_SIZE	(8ULL * SZ_1G)

#define CG_ROOT		"/sys/fs/cgroup"
#define CG_PARENT	CG_ROOT "/guest_memfd_pool_test"
#define CG_CHILD	CG_PARENT "/child"
#define WEIGHTS		"/sys/kernel/mm/mempolicy/weighted_interleave"

/* Who makes a page of the file exist. */
enum how {
	FALLOC,
	GUEST,
	NR_HOW,
};

/* Shared with the parent, which undoes what the test has changed. */
struct gmem {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	struct pool_count before;
	struct pool_count before_2m;
	size_t page_size;
	u64 flags;
	bool private;
	void *hva;
	void *map;		/* of the file, for its policy */
	int node[2];		/* the two that NUMA tests use */
	bool resized;
	bool demoted;
	long overcommit;
	bool weights_set;
	long weights_auto;
	long weight[MAX_NODES];
	char controllers[64];	/* that were enabled for this test */
};

static const char *setup_gmem(struct gmem *g, unsigned int page_shift,
			      unsigned int vm_type, long nr_free)
{
	struct vm_shape shape = {
		.mode = VM_MODE_DEFAULT,
		.type = vm_type,
	};
	static char reason[80];

	g->page_size = 1UL << page_shift;
	if (!(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(vm_type)))
		return "no VMs of that type";

	read_pool(g->page_size, &g->before);
	read_pool(SZ_2M, &g->before_2m);
	if (page_shift > 12) {
		if (!(kvm_check_cap(KVM_CAP_GUEST_MEMFD_HUGETLB) &
		      BIT(page_shift - 12)))
			return "no huge pages of that size";
		if (g->before.resv || g->before.surplus)
			return "somebody else uses the pool";
		if (g->before.free < nr_free) {
			snprintf(reason, sizeof(reason),
				 "needs %ld free huge pages of %zu kB", nr_free,
				 g->page_size >> 10);
			return reason;
		}
		g->flags = hugetlb_flags(page_shift);
	}

	/* Without private memory the guest gets it if the file can be mapped. */
	g->private = vm_type == KVM_X86_SW_PROTECTED_VM;
	if (!g->private)
		g->flags |= GUEST_MEMFD_FLAG_MMAP;

	g->vm = __vm_create_with_vcpus(shape, 1, 0, guest_code, &g->vcpu);
	g->hva = mmap(NULL, GUEST_SIZE + SZ_1G, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	TEST_ASSERT(g->hva != MAP_FAILED, "mmap() failed: %s", strerror(errno));
	g->hva = align_ptr_up(g->hva, SZ_1G);
	virt_map_level(g->vm, TEST_GPA, TEST_GPA, GUEST_SIZE, PG_LEVEL_1G);

	/* Have the guest's own pages mapped before a test counts anything. */
	run_cmd(g->vm, g->vcpu, OP_NONE, 0, 0, 0);
	return NULL;
}

/* Of one node, or of all of them if that is negative. */
static void pool_dir(char *dir, size_t len, size_t page_size, int node)
{
	if (node < 0)
		snprintf(dir, len, "/sys/kernel/mm/hugepages/hugepages-%zukB",
			 page_size >> 10);
	else
		snprintf(dir, len,
			 "/sys/devices/system/node/node%d/hugepages/hugepages-%zukB",
			 node, page_size >> 10);
}

static bool write_number(const char *dir, const char *name, long val)
{
	char str[32];

	snprintf(str, sizeof(str), "%ld", val);
	return write_string(dir, name, str);
}

static bool resize_pool(struct gmem *g, int node, long nr)
{
	char dir[128];

	g->resized = true;
	pool_dir(dir, sizeof(dir), g->page_size, node);
	return write_number(dir, "nr_hugepages", nr);
}

static long read_overcommit(struct gmem *g)
{
	char dir[128];

	pool_dir(dir, sizeof(dir), g->page_size, -1);
	return read_count(dir, "nr_overcommit_hugepages");
}

static bool set_overcommit(struct gmem *g, long nr)
{
	char dir[128];

	pool_dir(dir, sizeof(dir), g->page_size, -1);
	return write_number(dir, "nr_overcommit_hugepages", nr);
}

static bool restore_pool(size_t page_size, const struct pool_count *p)
{
	bool ok = true;
	char dir[128];
	int i;

	for (i = 0; i < MAX_NODES && p->node[i].nr >= 0; i++) {
		pool_dir(dir, sizeof(dir), page_size, i);
		ok &= write_number(dir, "nr_hugepages", p->node[i].nr);
	}
	return ok;
}

static void restore_weights(struct gmem *g)
{
	char name[16];
	int i;

	for (i = 0; i < MAX_NODES; i++) {
		snprintf(name, sizeof(name), "node%d", i);
		if (g->weight[i] > 0)
			write_number(WEIGHTS, name, g->weight[i]);
	}
	/* Refused where nothing is known of the nodes' bandwidths. */
	if (g->weights_auto == 1)
		write_string(WEIGHTS, "auto", "1");
}

/* Runs when the process that ran the test is gone, whatever ended it. */
static void teardown_gmem(struct __test_metadata *_metadata, struct gmem *g)
{
	struct pool_count after;
	char *name, *next, str[32];

	if (g->overcommit >= 0)
		EXPECT_TRUE(set_overcommit(g, g->overcommit));
	if (g->demoted)
		EXPECT_TRUE(restore_pool(SZ_2M, &g->before_2m));
	if (g->resized)
		EXPECT_TRUE(restore_pool(g->page_size, &g->before));
	if (g->weights_set)
		restore_weights(g);

	rmdir(CG_CHILD);
	rmdir(CG_PARENT);
	for (next = g->controllers; (name = strsep(&next, " "));) {
		if (!*name)
			continue;
		snprintf(str, sizeof(str), "-%s", name);
		EXPECT_TRUE(write_string(CG_ROOT, "cgroup.subtree_control", str));
	}
	EXPECT_NE(0, access(CG_PARENT, F_OK));

	read_pool(g->page_size, &after);
	EXPECT_EQ(0, memcmp(&g->before, &after, sizeof(after))) {
		print_pool("before", &g->before);
		print_pool("after", &after);
	}
	read_pool(SZ_2M, &after);
	EXPECT_EQ(0, memcmp(&g->before_2m, &after, sizeof(after))) {
		print_pool("2M before", &g->before_2m);
		print_pool("2M after", &after);
	}
}

static int create_file(struct gmem *g, long nr_pages)
{
	return vm_create_guest_memfd(g->vm, nr_pages * g->page_size, g->flags);
}

/* The error of creating a file, 0 if it was created (and is closed again). */
static int create_errno(struct gmem *g, long nr_pages)
{
	int fd = __vm_create_guest_memfd(g->vm, nr_pages * g->page_size, g->flags);

	if (fd < 0)
		return errno;

	close(fd);
	return 0;
}

static void bind_file(struct gmem *g, int fd, long nr_pages)
{
	const u64 size = nr_pages * g->page_size;

	vm_set_user_memory_region2(g->vm, TEST_SLOT, KVM_MEM_GUEST_MEMFD,
				   TEST_GPA, size, g->hva, fd, 0);
	if (g->private)
		vm_mem_set_private(g->vm, TEST_GPA, size);
}

static void unbind_file(struct gmem *g)
{
	vm_set_user_memory_region2(g->vm, TEST_SLOT, KVM_MEM_GUEST_MEMFD,
				   0, 0, NULL, -1, 0);
}

static int fallocate_errno(struct gmem *g, int fd, long page, long nr_pages)
{
	if (fallocate(fd, FALLOC_FL_KEEP_SIZE, page * g->page_size,
		      nr_pages * g->page_size))
		return errno;
	return 0;
}

static int punch_errno(struct gmem *g, int fd, long page, long nr_pages)
{
	if (fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
		      page * g->page_size, nr_pages * g->page_size))
		return errno;
	return 0;
}

/*
 * Have the guest touch a page, in its middle.  After an error the guest is still
 * at it, so the next call must be for the same page.
 */
static int touch_errno(struct gmem *g, long page)
{
	const u64 offset = page * g->page_size;
	struct ucall uc;

	set_cmd(g->vm, OP_TOUCH, offset + g->page_size / 2 / SZ_4K * SZ_4K,
		SZ_4K, 1);
	if (_vcpu_run(g->vcpu))
		return errno;

	TEST_ASSERT(get_ucall(g->vcpu, &uc) == UCALL_SYNC, "the guest failed");
	return 0;
}

static int populate_errno(struct gmem *g, int fd, long page, enum how how)
{
	return how == GUEST ? touch_errno(g, page) :
			      fallocate_errno(g, fd, page, 1);
}

static void __expect_pool(struct __test_metadata *_metadata, struct gmem *g,
			  int line, long nr, long free, long resv, long surplus)
{
	long node_nr = 0, node_free = 0, node_surplus = 0;
	struct pool_count now;
	int i;

	read_pool(g->page_size, &now);
	EXPECT_EQ(nr, now.nr)
		ksft_print_msg("called in line %d\n", line);
	EXPECT_EQ(free, now.free)
		ksft_print_msg("called in line %d\n", line);
	EXPECT_EQ(resv, now.resv)
		ksft_print_msg("called in line %d\n", line);
	EXPECT_EQ(surplus, now.surplus)
		ksft_print_msg("called in line %d\n", line);

	for (i = 0; i < MAX_NODES && now.node[i].nr >= 0; i++) {
		node_nr += now.node[i].nr;
		node_free += now.node[i].free;
		node_surplus += now.node[i].surplus;
	}
	EXPECT_EQ(now.nr, node_nr);
	EXPECT_EQ(now.free, node_free);
	EXPECT_EQ(now.surplus, node_surplus);
}

#define expect_pool(g, nr, free, resv, surplus) \
	__expect_pool(_metadata, g, __LINE__, nr, free, resv, surplus)

static void __expect_same(struct __test_metadata *_metadata, struct gmem *g,
			  int line, const struct pool_count *want)
{
	struct pool_count now;

	read_pool(g->page_size, &now);
	EXPECT_EQ(0, memcmp(want, &now, sizeof(now))) {
		ksft_print_msg("called in line %d\n", line);
		print_pool("want", want);
		print_pool("got", &now);
	}
}

#define expect_same(g, want) __expect_same(_metadata, g, __LINE__, want)

/* The first number after @key in a file of lines of "key number". */
static long read_key(const char *dir, const char *name, const char *key)
{
	char path[256], line[256], word[64];
	long val, found = -1;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "r");
	if (!f)
		return -1;
	while (found < 0 && fgets(line, sizeof(line), f))
		if (sscanf(line, "%63s %ld", word, &val) == 2 &&
		    !strcmp(word, key))
			found = val;
	fclose(f);
	return found;
}

/* A number of the one line of hugetlb.*.numa_stat: of "total=", "N0=". */
static long read_numa_stat(const char *dir, const char *name, const char *key)
{
	char path[256], line[256], *p;
	long val = -1;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "r");
	if (!f)
		return -1;
	if (fgets(line, sizeof(line), f)) {
		p = strstr(line, key);
		if (p)
			val = strtol(p + strlen(key), NULL, 10);
	}
	fclose(f);
	return val;
}

static bool has_word(const char *dir, const char *name, const char *want)
{
	char path[256], word[64];
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "r");
	if (!f)
		return false;
	while (!found && fscanf(f, "%63s", word) == 1)
		found = !strcmp(word, want);
	fclose(f);
	return found;
}

/* A cgroup with a controller, and one below it. */
static bool make_cgroups(struct gmem *g, const char *controller)
{
	char str[32];

	snprintf(str, sizeof(str), "+%s", controller);
	if (!has_word(CG_ROOT, "cgroup.controllers", controller))
		return false;

	if (!has_word(CG_ROOT, "cgroup.subtree_control", controller)) {
		if (!write_string(CG_ROOT, "cgroup.subtree_control", str))
			return false;
		strcat(g->controllers, controller);
		strcat(g->controllers, " ");
	}

	return (!mkdir(CG_PARENT, 0755) || errno == EEXIST) &&
	       write_string(CG_PARENT, "cgroup.subtree_control", str) &&
	       (!mkdir(CG_CHILD, 0755) || errno == EEXIST);
}

static bool enter_cgroup(const char *dir)
{
	return write_string(dir, "cgroup.procs", "0");
}

/* hugetlb.SIZE.NAME */
static const char *hugetlb_file(struct gmem *g, const char *name)
{
	static char file[4][64];
	static int next;
	char *p = file[next++ % ARRAY_SIZE(file)];

	snprintf(p, sizeof(file[0]), "hugetlb.%s.%s",
		 g->page_size == SZ_1G ? "1GB" : "2MB", name);
	return p;
}

/*
 * NUMA
 */

/* The policy is set for the file by mbind(), or it is that of the task. */
FIXTURE(numa)
{
	struct gmem g;
};

FIXTURE_VARIANT(numa)
{
	unsigned int page_shift;
	unsigned int vm_type;
	int nr_pages;		/* of the file */
	int nr_free;		/* of each node, at least */
};

FIXTURE_VARIANT_ADD(numa, mbind_2m)
{
	.page_shift = 21,
	.vm_type = KVM_X86_DEFAULT_VM,
	.nr_pages = 8,
	.nr_free = 8,
};

FIXTURE_VARIANT_ADD(numa, mbind_1g)
{
	.page_shift = 30,
	.vm_type = KVM_X86_DEFAULT_VM,
	.nr_pages = 1,
	.nr_free = 1,
};

FIXTURE_VARIANT_ADD(numa, task_2m)
{
	.page_shift = 21,
	.vm_type = KVM_X86_SW_PROTECTED_VM,
	.nr_pages = 8,
	.nr_free = 8,
};

FIXTURE_VARIANT_ADD(numa, task_1g)
{
	.page_shift = 30,
	.vm_type = KVM_X86_SW_PROTECTED_VM,
	.nr_pages = 1,
	.nr_free = 1,
};

FIXTURE_SETUP(numa)
{
	struct gmem *g = &self->g;
	const char *reason;
	int i, n = 0;

	g->overcommit = -1;
	read_pool(1UL << variant->page_shift, &g->before);
	for (i = 0; i < MAX_NODES && n < 2; i++)
		if (g->before.node[i].free >= variant->nr_free)
			g->node[n++] = i;
	if (n < 2)
		SKIP(return, "needs 2 nodes with %d free huge pages of %lu kB",
		     variant->nr_free, 1UL << (variant->page_shift - 10));

	reason = setup_gmem(g, variant->page_shift, variant->vm_type, 2);
	if (reason)
		SKIP(return, "%s", reason);
}

FIXTURE_TEARDOWN_PARENT(numa)
{
	teardown_gmem(_metadata, &self->g);
}

static void set_task_policy(int mode, unsigned long nodes)
{
	kvm_set_mempolicy(mode, nodes ? &nodes : NULL,
			  nodes ? BITS_PER_LONG : 0);
}

/*
 * Offset and size in bytes; for a file that can be mapped.  The mapping is kept:
 * mbind() of MPOL_DEFAULT is ignored where the mapping has no policy already.
 */
static void set_file_policy(struct gmem *g, int fd, u64 offset, u64 size,
			    int mode, unsigned long nodes)
{
	if (!g->map)
		g->map = kvm_mmap(GUEST_SIZE, PROT_READ | PROT_WRITE,
				  MAP_SHARED, fd);
	kvm_mbind(g->map + offset, size, mode, nodes ? &nodes : NULL,
		  nodes ? BITS_PER_LONG : 0, 0);
}

static void close_file(struct gmem *g, int fd)
{
	if (g->map)
		munmap(g->map, GUEST_SIZE);
	g->map = NULL;
	close(fd);
}

/* The policy for all of a file, whose it ever may be. */
static void set_policy(struct gmem *g, int fd, long nr_pages, int mode,
		       unsigned long nodes)
{
	if (g->private)
		set_task_policy(mode, nodes);
	else
		set_file_policy(g, fd, 0, nr_pages * g->page_size, mode, nodes);
}

/* Take all free pages of a node; the task's policy is the default afterwards. */
static int hoard(struct gmem *g, int node)
{
	struct pool_count now;
	long nr;
	int fd;

	read_pool(g->page_size, &now);
	nr = now.node[node].free;
	set_task_policy(MPOL_BIND, BIT(node));
	fd = create_file(g, nr);
	TEST_ASSERT_EQ(0, fallocate_errno(g, fd, 0, nr));
	set_task_policy(MPOL_DEFAULT, 0);

	read_pool(g->page_size, &now);
	TEST_ASSERT_EQ(0, now.node[node].free);
	return fd;
}

/* Populate a page that was reserved; the node that it came from. */
static int populate_node(struct __test_metadata *_metadata, struct gmem *g,
			 int fd, long page, enum how how)
{
	struct pool_count old, now;
	int i, node = -1;
	long taken = 0;

	read_pool(g->page_size, &old);
	EXPECT_EQ(0, populate_errno(g, fd, page, how));
	read_pool(g->page_size, &now);

	for (i = 0; i < MAX_NODES; i++) {
		if (old.node[i].free == now.node[i].free)
			continue;
		taken += labs(old.node[i].free - now.node[i].free);
		node = i;
	}
	EXPECT_EQ(1, taken);
	EXPECT_EQ(old.free - 1, now.free);
	EXPECT_EQ(old.resv - 1, now.resv);
	EXPECT_EQ(old.nr, now.nr);
	return node;
}

static void pin_to_node(int node)
{
	char dir[64];
	cpu_set_t set;
	long cpu;

	snprintf(dir, sizeof(dir), "/sys/devices/system/node/node%d", node);
	cpu = read_count(dir, "cpulist");
	TEST_ASSERT(cpu >= 0, "node %d has no CPU", node);
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	TEST_ASSERT(!sched_setaffinity(0, sizeof(set), &set),
		    "cannot run on CPU %ld", cpu);
}

/* Without a policy: where the populating task runs. */
TEST_F_TIMEOUT(numa, local, TIMEOUT)
{
	struct gmem *g = &self->g;
	enum how how;
	int fd, i;

	fd = create_file(g, 1);
	bind_file(g, fd, 1);
	for (how = 0; how < NR_HOW; how++) {
		for (i = 0; i < 2; i++) {
			pin_to_node(g->node[i]);
			EXPECT_EQ(g->node[i],
				  populate_node(_metadata, g, fd, 0, how));
			ASSERT_EQ(0, punch_errno(g, fd, 0, 1));
		}
	}
	expect_pool(g, g->before.nr, g->before.free, 1, 0);
	close_file(g, fd);
}

/* MPOL_BIND and MPOL_PREFERRED, and MPOL_PREFERRED_MANY of one node. */
TEST_F_TIMEOUT(numa, one_node, TIMEOUT)
{
	static const int modes[] = {
		MPOL_BIND, MPOL_PREFERRED, MPOL_PREFERRED_MANY,
	};
	const long nr = variant->nr_pages > 1 ? 2 : 1;
	struct gmem *g = &self->g;
	enum how how;
	int fd, i, m;
	long page;

	fd = create_file(g, nr);
	bind_file(g, fd, nr);
	for (how = 0; how < NR_HOW; how++) {
		for (m = 0; m < ARRAY_SIZE(modes); m++) {
			for (i = 0; i < 2; i++) {
				/* Not where it would go without the policy. */
				pin_to_node(g->node[!i]);
				set_policy(g, fd, nr, modes[m],
					   BIT(g->node[i]));
				for (page = 0; page < nr; page++)
					EXPECT_EQ(g->node[i],
						  populate_node(_metadata, g, fd,
								page, how));
				ASSERT_EQ(0, punch_errno(g, fd, 0, nr));
			}
			/* Once is enough, where clearing takes so long. */
			if (nr == 1 && how != GUEST)
				break;
		}
	}
	expect_pool(g, g->before.nr, g->before.free, nr, 0);
	close_file(g, fd);
}

/* A preference is one: with no page there, others do. */
TEST_F_TIMEOUT(numa, preferred_exhausted, TIMEOUT)
{
	static const int modes[] = { MPOL_PREFERRED, MPOL_PREFERRED_MANY };
	struct gmem *g = &self->g;
	int fd, other, m;
	enum how how;

	fd = create_file(g, 1);
	bind_file(g, fd, 1);
	other = hoard(g, g->node[0]);
	pin_to_node(g->node[0]);
	for (m = 0; m < ARRAY_SIZE(modes); m++) {
		how = m % 2 ? FALLOC : GUEST;
		set_policy(g, fd, 1, modes[m], BIT(g->node[0]));
		EXPECT_NE(g->node[0], populate_node(_metadata, g, fd, 0, how));
		ASSERT_EQ(0, punch_errno(g, fd, 0, 1));
	}
	close(other);
	close_file(g, fd);
}

/* Several are preferred: that of the task is the first. */
TEST_F_TIMEOUT(numa, preferred_many, TIMEOUT)
{
	const unsigned long nodes = BIT(self->g.node[0]) | BIT(self->g.node[1]);
	struct gmem *g = &self->g;
	enum how how;
	int fd, i;

	fd = create_file(g, 1);
	bind_file(g, fd, 1);
	set_policy(g, fd, 1, MPOL_PREFERRED_MANY, nodes);
	for (i = 0; i < 2; i++) {
		how = i ? FALLOC : GUEST;
		pin_to_node(g->node[i]);
		EXPECT_EQ(g->node[i], populate_node(_metadata, g, fd, 0, how));
		ASSERT_EQ(0, punch_errno(g, fd, 0, 1));
	}
	close_file(g, fd);
}

/*
 * The pages of a file take turns by their index.  Where the policy is the task's,
 * the turn is the task's too, and each page that the kernel allocates for itself
 * moves it on.
 */
TEST_F_TIMEOUT(numa, interleave, TIMEOUT)
{
	const unsigned long nodes = BIT(self->g.node[0]) | BIT(self->g.node[1]);
	const long nr = variant->nr_pages > 1 ? variant->nr_pages : 2;
	struct pool_count old, now;
	struct gmem *g = &self->g;
	int node[8], fd, other;
	enum how how;
	long page;

	fd = create_file(g, nr);
	bind_file(g, fd, nr);
	set_policy(g, fd, nr, MPOL_INTERLEAVE, nodes);

	if (g->private) {
		if (nr < 8)
			SKIP(return, "two pages may well be of one node");
		for (how = 0; how < NR_HOW; how++) {
			read_pool(g->page_size, &old);
			for (page = 0; page < nr; page++)
				EXPECT_EQ(0, populate_errno(g, fd, page, how));
			read_pool(g->page_size, &now);
			/* An exact half, but for the kernel's own pages. */
			EXPECT_GE(old.node[g->node[0]].free - 2,
				  now.node[g->node[0]].free);
			EXPECT_GE(old.node[g->node[1]].free - 2,
				  now.node[g->node[1]].free);
			EXPECT_EQ(old.free - nr, now.free);
			EXPECT_EQ(0, punch_errno(g, fd, 0, nr));
		}
		close_file(g, fd);
		return;
	}

	for (page = 0; page < nr; page++) {
		node[page] = populate_node(_metadata, g, fd, page,
					   page % 2 ? GUEST : FALLOC);
		EXPECT_TRUE(BIT(node[page]) & nodes);
		if (page)
			EXPECT_NE(node[page - 1], node[page]);
	}
	/* The same for each page when they come in another order. */
	ASSERT_EQ(0, punch_errno(g, fd, 0, nr));
	for (page = nr - 1; page >= 0; page--)
		EXPECT_EQ(node[page], populate_node(_metadata, g, fd, page,
						    page % 2 ? FALLOC : GUEST));

	/* A turn whose node has no page goes to another. */
	ASSERT_EQ(0, punch_errno(g, fd, 0, nr));
	if (nr >= 8) {
		other = hoard(g, g->node[0]);
		for (page = 0; page < nr; page++)
			EXPECT_NE(g->node[0], populate_node(_metadata, g, fd,
							    page, GUEST));
		close(other);
	}
	close_file(g, fd);
}

static bool set_weight(struct gmem *g, int node, long weight)
{
	char name[16];
	int i;

	for (i = 0; !g->weights_set && i < MAX_NODES; i++) {
		snprintf(name, sizeof(name), "node%d", i);
		g->weight[i] = read_count(WEIGHTS, name);
	}
	if (!g->weights_set)
		g->weights_auto = has_word(WEIGHTS, "auto", "true");
	g->weights_set = true;

	snprintf(name, sizeof(name), "node%d", node);
	return write_number(WEIGHTS, name, weight);
}

TEST_F_TIMEOUT(numa, weighted_interleave, TIMEOUT)
{
	const unsigned long nodes = BIT(self->g.node[0]) | BIT(self->g.node[1]);
	const long nr = variant->nr_pages;
	struct pool_count old, now;
	struct gmem *g = &self->g;
	int node[8], fd, i;
	long page;

	if (nr < 8)
		SKIP(return, "needs 8 pages");
	if (access(WEIGHTS, F_OK))
		SKIP(return, "there are no weights");

	fd = create_file(g, nr);
	bind_file(g, fd, nr);
	for (i = 0; i < 2; i++) {
		/* The more the kernel's own pages are not to matter. */
		ASSERT_TRUE(set_weight(g, g->node[i], g->private ? 255 : 3));
		ASSERT_TRUE(set_weight(g, g->node[!i], 1));
		set_policy(g, fd, nr, MPOL_WEIGHTED_INTERLEAVE, nodes);

		read_pool(g->page_size, &old);
		for (page = 0; page < nr; page++) {
			node[page] = populate_node(_metadata, g, fd, page,
						   page % 2 ? GUEST : FALLOC);
			/* The pattern repeats itself. */
			if (!g->private && page >= 4)
				EXPECT_EQ(node[page - 4], node[page]);
		}
		read_pool(g->page_size, &now);
		if (!g->private) {
			EXPECT_EQ(old.node[g->node[i]].free - 6,
				  now.node[g->node[i]].free);
			EXPECT_EQ(old.node[g->node[!i]].free - 2,
				  now.node[g->node[!i]].free);
		} else {
			/* The other's single turn may be among these. */
			EXPECT_GE(old.node[g->node[i]].free - 7,
				  now.node[g->node[i]].free);
		}
		ASSERT_EQ(0, punch_errno(g, fd, 0, nr));
	}
	close_file(g, fd);
}

/* The file's own policy is the one that counts, if it has one. */
TEST_F_TIMEOUT(numa, file_and_task, TIMEOUT)
{
	struct gmem *g = &self->g;
	enum how how;
	int fd;

	if (g->private)
		SKIP(return, "the file has no policy");

	fd = create_file(g, 1);
	bind_file(g, fd, 1);
	for (how = 0; how < NR_HOW; how++) {
		set_file_policy(g, fd, 0, g->page_size, MPOL_BIND, BIT(g->node[0]));
		set_task_policy(MPOL_BIND, BIT(g->node[1]));
		EXPECT_EQ(g->node[0], populate_node(_metadata, g, fd, 0, how));
		ASSERT_EQ(0, punch_errno(g, fd, 0, 1));

		set_file_policy(g, fd, 0, g->page_size, MPOL_DEFAULT, 0);
		EXPECT_EQ(g->node[1], populate_node(_metadata, g, fd, 0, how));
		ASSERT_EQ(0, punch_errno(g, fd, 0, 1));
	}
	close_file(g, fd);
}

struct vcpu_policy {
	struct gmem *g;
	int node;
	int error;
};

static void *vcpu_policy_thread(void *arg)
{
	struct vcpu_policy *p = arg;

	set_task_policy(MPOL_BIND, BIT(p->node));
	p->error = touch_errno(p->g, 0);
	return NULL;
}

/* The task whose policy it is, is the thread that runs the vCPU. */
TEST_F_TIMEOUT(numa, vcpu_thread, TIMEOUT)
{
	struct gmem *g = &self->g;
	struct pool_count old, now;
	struct vcpu_policy p = { .g = g };
	pthread_t thread;
	int fd, i;

	fd = create_file(g, 1);
	bind_file(g, fd, 1);
	for (i = 0; i < 2; i++) {
		p.node = g->node[i];
		set_task_policy(MPOL_BIND, BIT(g->node[!i]));
		read_pool(g->page_size, &old);
		ASSERT_EQ(0, pthread_create(&thread, NULL, vcpu_policy_thread,
					    &p));
		pthread_join(thread, NULL);
		EXPECT_EQ(0, p.error);
		read_pool(g->page_size, &now);
		EXPECT_EQ(old.node[g->node[i]].free - 1,
			  now.node[g->node[i]].free);
		EXPECT_EQ(old.free - 1, now.free);
		ASSERT_EQ(0, punch_errno(g, fd, 0, 1));
	}
	close_file(g, fd);
}

TEST_F_TIMEOUT(numa, two_halves, TIMEOUT)
{
	const long nr = variant->nr_pages > 1 ? 8 : 2;
	struct gmem *g = &self->g;
	long page, i;
	int fd;

	if (g->private)
		SKIP(return, "the file has no policy");

	fd = create_file(g, nr);
	bind_file(g, fd, nr);
	set_file_policy(g, fd, 0, nr / 2 * g->page_size, MPOL_BIND,
			BIT(g->node[1]));
	set_file_policy(g, fd, nr / 2 * g->page_size, nr / 2 * g->page_size,
			MPOL_PREFERRED, BIT(g->node[0]));

	/* Taking turns between the halves. */
	for (i = 0; i < nr; i++) {
		page = i / 2 + (i % 2 ? nr / 2 : 0);
		EXPECT_EQ(page < nr / 2 ? g->node[1] : g->node[0],
			  populate_node(_metadata, g, fd, page,
					i & 2 ? FALLOC : GUEST));
	}
	close_file(g, fd);
}

/* Of the policies that one huge page has, that of its first 4K is used. */
TEST_F_TIMEOUT(numa, part_of_page, TIMEOUT)
{
	struct gmem *g = &self->g;
	struct pool_count now;
	int fd;

	if (g->private)
		SKIP(return, "the file has no policy");

	fd = create_file(g, 1);
	bind_file(g, fd, 1);

	set_file_policy(g, fd, 0, g->page_size, MPOL_BIND, BIT(g->node[0]));
	set_file_policy(g, fd, SZ_4K, g->page_size - SZ_4K, MPOL_BIND,
			BIT(g->node[1]));
	EXPECT_EQ(g->node[0], populate_node(_metadata, g, fd, 0, GUEST));
	ASSERT_EQ(0, punch_errno(g, fd, 0, 1));

	set_file_policy(g, fd, 0, g->page_size, MPOL_BIND, BIT(g->node[0]));
	set_file_policy(g, fd, 0, SZ_4K, MPOL_BIND, BIT(g->node[1]));
	EXPECT_EQ(g->node[1], populate_node(_metadata, g, fd, 0, GUEST));
	ASSERT_EQ(0, punch_errno(g, fd, 0, 1));
	EXPECT_EQ(g->node[1], populate_node(_metadata, g, fd, 0, FALLOC));

	/* What is there stays where it is. */
	set_file_policy(g, fd, 0, g->page_size, MPOL_BIND, BIT(g->node[0]));
	EXPECT_EQ(0, fallocate_errno(g, fd, 0, 1));
	read_pool(g->page_size, &now);
	EXPECT_EQ(g->before.free - 1, now.free);
	EXPECT_EQ(g->before.node[g->node[1]].free - 1,
		  now.node[g->node[1]].free);
	close_file(g, fd);
}

/* Bound to a node without a free page: no page, not even a reserved one. */
TEST_F_TIMEOUT(numa, bind_exhausted, TIMEOUT)
{
	struct gmem *g = &self->g;
	struct pool_count old;
	int fd, other;
	enum how how;

	fd = create_file(g, 1);
	bind_file(g, fd, 1);
	other = hoard(g, g->node[1]);
	read_pool(g->page_size, &old);

	for (how = 0; how < NR_HOW; how++) {
		set_policy(g, fd, 1, MPOL_BIND, BIT(g->node[1]));
		EXPECT_EQ(ENOMEM, fallocate_errno(g, fd, 0, 1));
		expect_same(g, &old);
		EXPECT_EQ(ENOMEM, touch_errno(g, 0));
		expect_same(g, &old);
		EXPECT_EQ(ENOMEM, touch_errno(g, 0));
		expect_same(g, &old);

		set_policy(g, fd, 1, MPOL_DEFAULT, 0);
		EXPECT_NE(g->node[1], populate_node(_metadata, g, fd, 0, how));
		EXPECT_EQ(0, touch_errno(g, 0));
		ASSERT_EQ(0, punch_errno(g, fd, 0, 1));
		expect_same(g, &old);
	}

	/* Or there is a page again. */
	set_policy(g, fd, 1, MPOL_BIND, BIT(g->node[1]));
	EXPECT_EQ(ENOMEM, fallocate_errno(g, fd, 0, 1));
	ASSERT_EQ(0, punch_errno(g, other, 0, 1));
	/* That one is reserved for the other file, which can get any other. */
	EXPECT_EQ(g->node[1], populate_node(_metadata, g, fd, 0, FALLOC));

	close(other);
	close_file(g, fd);
}

/* Nor is a surplus page allocated in place of the one that is reserved. */
TEST_F_TIMEOUT(numa, bind_no_surplus, TIMEOUT)
{
	struct gmem *g = &self->g;
	struct pool_count old;
	int fd, other;

	fd = create_file(g, 1);
	bind_file(g, fd, 1);
	other = hoard(g, g->node[1]);
	read_pool(g->page_size, &old);
	g->overcommit = read_overcommit(g);
	if (!set_overcommit(g, 4))
		SKIP(return, "no overcommit of this size");

	set_policy(g, fd, 1, MPOL_BIND, BIT(g->node[1]));
	EXPECT_EQ(ENOMEM, fallocate_errno(g, fd, 0, 1));
	expect_same(g, &old);
	EXPECT_EQ(ENOMEM, touch_errno(g, 0));
	expect_same(g, &old);

	/* Where the policy is only a preference, too. */
	set_policy(g, fd, 1, MPOL_PREFERRED, BIT(g->node[1]));
	EXPECT_NE(g->node[1], populate_node(_metadata, g, fd, 0, GUEST));
	expect_pool(g, old.nr, old.free - 1, old.resv - 1, 0);

	close_file(g, other);
	close_file(g, fd);
}

/* fallocate() of several pages keeps those that it got. */
TEST_F_TIMEOUT(numa, bind_half_exhausted, TIMEOUT)
{
	struct gmem *g = &self->g;
	struct stat st;
	int fd, other;

	if (g->private)
		SKIP(return, "the file has no policy");
	if (variant->nr_pages == 1)
		SKIP(return, "needs more pages");

	fd = create_file(g, 4);
	set_file_policy(g, fd, 0, 2 * g->page_size, MPOL_BIND, BIT(g->node[0]));
	set_file_policy(g, fd, 2 * g->page_size, 2 * g->page_size, MPOL_BIND,
			BIT(g->node[1]));
	other = hoard(g, g->node[1]);

	EXPECT_EQ(ENOMEM, fallocate_errno(g, fd, 0, 4));
	ASSERT_EQ(0, fstat(fd, &st));
	EXPECT_EQ(2 * g->page_size / 512, st.st_blocks);
	expect_pool(g, g->before.nr,
		    g->before.free - g->before.node[g->node[1]].free - 2, 2, 0);

	close(other);
	EXPECT_EQ(0, fallocate_errno(g, fd, 0, 4));
	expect_pool(g, g->before.nr, g->before.free - 4, 0, 0);
	close_file(g, fd);
}

/* A file is refused if the task's MPOL_BIND leaves fewer pages than it has. */
TEST_F_TIMEOUT(numa, create_bound, TIMEOUT)
{
	struct gmem *g = &self->g;
	long free = g->before.node[g->node[1]].free;

	set_task_policy(MPOL_BIND, BIT(g->node[1]));
	EXPECT_EQ(ENOMEM, create_errno(g, free + 1));
	expect_same(g, &g->before);
	EXPECT_EQ(0, create_errno(g, free));
	expect_same(g, &g->before);

	set_task_policy(MPOL_BIND, BIT(g->node[0]) | BIT(g->node[1]));
	EXPECT_EQ(0, create_errno(g, free + 1));
	set_task_policy(MPOL_PREFERRED, BIT(g->node[1]));
	EXPECT_EQ(0, create_errno(g, free + 1));
	expect_same(g, &g->before);
}

/* The same with a cpuset in place of a policy. */
TEST_F_TIMEOUT(numa, cpuset, TIMEOUT)
{
	struct gmem *g = &self->g;
	long free = g->before.node[g->node[1]].free;
	struct pool_count old;
	int fd, other;
	enum how how;

	if (!make_cgroups(g, "cpuset"))
		SKIP(return, "needs root, and the cpuset controller in " CG_ROOT);

	fd = create_file(g, 1);
	bind_file(g, fd, 1);
	ASSERT_TRUE(write_number(CG_CHILD, "cpuset.mems", g->node[1]));
	ASSERT_TRUE(enter_cgroup(CG_CHILD));

	/* It confines what is allocated, and what may be reserved. */
	pin_to_node(g->node[0]);
	EXPECT_EQ(g->node[1], populate_node(_metadata, g, fd, 0, GUEST));
	ASSERT_EQ(0, punch_errno(g, fd, 0, 1));
	EXPECT_EQ(g->node[1], populate_node(_metadata, g, fd, 0, FALLOC));
	ASSERT_EQ(0, punch_errno(g, fd, 0, 1));
	read_pool(g->page_size, &old);
	EXPECT_EQ(ENOMEM, create_errno(g, free + 1));
	expect_same(g, &old);

	other = hoard(g, g->node[1]);
	read_pool(g->page_size, &old);
	for (how = 0; how < NR_HOW; how++) {
		ASSERT_TRUE(write_number(CG_CHILD, "cpuset.mems", g->node[1]));
		EXPECT_EQ(ENOMEM, fallocate_errno(g, fd, 0, 1));
		expect_same(g, &old);
		EXPECT_EQ(ENOMEM, touch_errno(g, 0));
		expect_same(g, &old);

		ASSERT_TRUE(write_number(CG_CHILD, "cpuset.mems", g->node[0]));
		EXPECT_EQ(g->node[0], populate_node(_metadata, g, fd, 0, how));
		EXPECT_EQ(0, touch_errno(g, 0));
		ASSERT_EQ(0, punch_errno(g, fd, 0, 1));
		expect_same(g, &old);
	}
	close(other);
	close_file(g, fd);
	ASSERT_TRUE(enter_cgroup(CG_ROOT));
}

/* A cpuset prevails over a file's policy that has no node in common with it. */
TEST_F_TIMEOUT(numa, cpuset_and_mbind, TIMEOUT)
{
	struct gmem *g = &self->g;
	int fd;

	if (g->private)
		SKIP(return, "the file has no policy");
	if (!make_cgroups(g, "cpuset"))
		SKIP(return, "needs root, and the cpuset controller in " CG_ROOT);

	fd = create_file(g, 1);
	bind_file(g, fd, 1);
	set_file_policy(g, fd, 0, g->page_size, MPOL_BIND, BIT(g->node[0]));
	ASSERT_TRUE(write_number(CG_CHILD, "cpuset.mems", g->node[1]));
	ASSERT_TRUE(enter_cgroup(CG_CHILD));
	EXPECT_EQ(g->node[1], populate_node(_metadata, g, fd, 0, GUEST));
	ASSERT_EQ(0, punch_errno(g, fd, 0, 1));

	ASSERT_TRUE(enter_cgroup(CG_ROOT));
	EXPECT_EQ(g->node[0], populate_node(_metadata, g, fd, 0, FALLOC));
	close_file(g, fd);
}

/*
 * Accounting
 */

FIXTURE(account)
{
	struct gmem g;
};

FIXTURE_VARIANT(account)
{
	unsigned int page_shift;
	unsigned int vm_type;
	long nr_pages;		/* of the file */
};

FIXTURE_VARIANT_ADD(account, default_4k)
{
	.page_shift = 12,
	.vm_type = KVM_X86_DEFAULT_VM,
	.nr_pages = 4096,
};

FIXTURE_VARIANT_ADD(account, sw_protected_4k)
{
	.page_shift = 12,
	.vm_type = KVM_X86_SW_PROTECTED_VM,
	.nr_pages = 4096,
};

FIXTURE_VARIANT_ADD(account, default_2m)
{
	.page_shift = 21,
	.vm_type = KVM_X86_DEFAULT_VM,
	.nr_pages = 8,
};

FIXTURE_VARIANT_ADD(account, sw_protected_2m)
{
	.page_shift = 21,
	.vm_type = KVM_X86_SW_PROTECTED_VM,
	.nr_pages = 8,
};

FIXTURE_VARIANT_ADD(account, default_1g)
{
	.page_shift = 30,
	.vm_type = KVM_X86_DEFAULT_VM,
	.nr_pages = 2,
};

FIXTURE_SETUP(account)
{
	struct gmem *g = &self->g;
	const char *reason;

	g->overcommit = -1;
	reason = setup_gmem(g, variant->page_shift, variant->vm_type,
			    variant->nr_pages);
	if (reason)
		SKIP(return, "%s", reason);
}

FIXTURE_TEARDOWN_PARENT(account)
{
	teardown_gmem(_metadata, &self->g);
}

/* kB of huge pages in all pools, as /proc/meminfo has it. */
static long hugetlb_kb(void)
{
	struct pool_count p;
	long kb = 0;

	/* 2M and 1G are all the sizes that x86 has. */
	if (!access("/sys/kernel/mm/hugepages/hugepages-2048kB", F_OK)) {
		read_pool(SZ_2M, &p);
		kb += p.nr * (SZ_2M >> 10);
	}
	if (!access("/sys/kernel/mm/hugepages/hugepages-1048576kB", F_OK)) {
		read_pool(SZ_1G, &p);
		kb += p.nr * (SZ_1G >> 10);
	}
	return kb;
}

static void expect_meminfo(struct __test_metadata *_metadata, struct gmem *g)
{
	const long size = read_key("/proc", "meminfo", "Hugepagesize:");
	struct pool_count now;

	EXPECT_EQ(hugetlb_kb(), read_key("/proc", "meminfo", "Hugetlb:"));
	/* These are of the default size only. */
	if (size << 10 != g->page_size)
		return;
	read_pool(g->page_size, &now);
	EXPECT_EQ(now.nr, read_key("/proc", "meminfo", "HugePages_Total:"));
	EXPECT_EQ(now.free, read_key("/proc", "meminfo", "HugePages_Free:"));
	EXPECT_EQ(now.resv, read_key("/proc", "meminfo", "HugePages_Rsvd:"));
	EXPECT_EQ(now.surplus, read_key("/proc", "meminfo", "HugePages_Surp:"));
}

/* With @held pages of @nr in the file. */
static void __expect_file(struct __test_metadata *_metadata, struct gmem *g,
			  int line, int fd, long held, long nr)
{
	struct statfs sfs;
	struct stat st;

	ASSERT_EQ(0, fstat(fd, &st));
	EXPECT_EQ(nr * g->page_size, st.st_size);
	EXPECT_EQ(g->page_size, st.st_blksize);
	EXPECT_EQ(held * g->page_size / 512, st.st_blocks)
		ksft_print_msg("called in line %d\n", line);
	ASSERT_EQ(0, fstatfs(fd, &sfs));
	EXPECT_EQ(g->page_size, sfs.f_bsize);

	if (g->page_size == SZ_4K)
		return;
	__expect_pool(_metadata, g, line, g->before.nr, g->before.free - held,
		      nr - held, 0);
	expect_meminfo(_metadata, g);
}

#define expect_file(g, fd, held, nr) \
	__expect_file(_metadata, g, __LINE__, fd, held, nr)

TEST_F_TIMEOUT(account, counters, TIMEOUT)
{
	const long nr = variant->page_shift == 12 ? 16 : variant->nr_pages;
	struct gmem *g = &self->g;
	enum how how;
	long page;
	int fd;

	for (how = 0; how < NR_HOW; how++) {
		fd = create_file(g, nr);
		expect_file(g, fd, 0, nr);
		bind_file(g, fd, nr);
		expect_file(g, fd, 0, nr);

		for (page = 0; page < nr; page++) {
			EXPECT_EQ(0, populate_errno(g, fd, page, how));
			expect_file(g, fd, page + 1, nr);
		}
		EXPECT_EQ(0, touch_errno(g, 0));
		EXPECT_EQ(0, fallocate_errno(g, fd, 0, nr));
		expect_file(g, fd, nr, nr);

		EXPECT_EQ(0, punch_errno(g, fd, 1, 1));
		expect_file(g, fd, nr - 1, nr);
		EXPECT_EQ(0, punch_errno(g, fd, 1, 1));
		expect_file(g, fd, nr - 1, nr);
		EXPECT_EQ(0, populate_errno(g, fd, 1, how));
		expect_file(g, fd, nr, nr);
		EXPECT_EQ(0, punch_errno(g, fd, 0, nr));
		expect_file(g, fd, 0, nr);
		EXPECT_EQ(0, populate_errno(g, fd, nr - 1, how));
		expect_file(g, fd, 1, nr);

		close(fd);
		expect_same(g, &g->before);
		expect_meminfo(_metadata, g);
		unbind_file(g);
	}
}

struct vm_counts {
	long file_pages;
	long unevictable;
	long hugetlb;
	long cached_kb;
	long anon_huge_kb;
	long file_huge_kb;
	long shmem_huge_kb;
};

/* Per-CPU parts of the counters are folded, and batches for the LRU drained. */
static struct vm_counts read_vm_counts(void)
{
	void *p;

	/* Moving pages, to wherever, waits for those. */
	p = kvm_mmap(SZ_4K, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		     -1);
	mbind(p, SZ_4K, MPOL_DEFAULT, NULL, 0, MPOL_MF_MOVE);
	munmap(p, SZ_4K);
	write_string("/proc/sys/vm", "stat_refresh", "1");

	return (struct vm_counts) {
		.file_pages = read_key("/proc", "vmstat", "nr_file_pages"),
		.unevictable = read_key("/proc", "vmstat", "nr_unevictable"),
		.hugetlb = read_key("/proc", "vmstat", "nr_hugetlb"),
		.cached_kb = read_key("/proc", "meminfo", "Cached:"),
		.anon_huge_kb = read_key("/proc", "meminfo", "AnonHugePages:"),
		.file_huge_kb = read_key("/proc", "meminfo", "FileHugePages:"),
		.shmem_huge_kb = read_key("/proc", "meminfo", "ShmemHugePages:"),
	};
}

/* What other tasks may move meanwhile, in 4K pages; a huge page is 512. */
#define NOISE	64

static void __expect_near(struct __test_metadata *_metadata, int line,
			  const char *what, long want, long got, long noise)
{
	EXPECT_LE(labs(want - got), noise)
		ksft_print_msg("%s: want %ld, got %ld, in line %d\n", what,
			       want, got, line);
}

#define expect_near(what, want, got, noise) \
	__expect_near(_metadata, __LINE__, what, want, got, noise)

static void expect_vm_counts(struct __test_metadata *_metadata, struct gmem *g,
			     const struct vm_counts *old, long held)
{
	const long small = g->page_size == SZ_4K ? held : 0;
	const long huge = g->page_size == SZ_4K ? 0 : held * (g->page_size / SZ_4K);
	struct vm_counts now = read_vm_counts();

	EXPECT_EQ(old->hugetlb + huge, now.hugetlb);
	expect_near("nr_file_pages", old->file_pages + small, now.file_pages,
		    NOISE);
	expect_near("nr_unevictable", old->unevictable + small, now.unevictable,
		    NOISE);
	expect_near("Cached", old->cached_kb + small * 4, now.cached_kb,
		    NOISE * 4);
	/* A transparent huge page more or less would show. */
	EXPECT_EQ(old->anon_huge_kb, now.anon_huge_kb);
	EXPECT_EQ(old->file_huge_kb, now.file_huge_kb);
	EXPECT_EQ(old->shmem_huge_kb, now.shmem_huge_kb);
}

/* Huge pages are counted as such, and not in the page cache. */
TEST_F_TIMEOUT(account, vmstat, TIMEOUT)
{
	const long nr = variant->nr_pages;
	struct gmem *g = &self->g;
	struct vm_counts old;
	int fd;

	old = read_vm_counts();
	ASSERT_LE(0, old.file_pages);
	ASSERT_LE(0, old.unevictable);
	ASSERT_LE(0, old.hugetlb);
	ASSERT_LE(0, old.cached_kb);

	fd = create_file(g, nr);
	bind_file(g, fd, nr);
	expect_vm_counts(_metadata, g, &old, 0);
	EXPECT_EQ(0, touch_errno(g, 0));
	expect_vm_counts(_metadata, g, &old, 1);
	EXPECT_EQ(0, fallocate_errno(g, fd, 0, nr));
	expect_vm_counts(_metadata, g, &old, nr);
	EXPECT_EQ(0, punch_errno(g, fd, nr / 2, nr / 2));
	expect_vm_counts(_metadata, g, &old, nr / 2);
	close(fd);
	expect_vm_counts(_metadata, g, &old, 0);
}

static void __expect_hugetlb(struct __test_metadata *_metadata, struct gmem *g,
			     int line, const char *dir, long held, long rsvd)
{
	EXPECT_EQ(held * (long)g->page_size,
		  read_count(dir, hugetlb_file(g, "current")))
		ksft_print_msg("called in line %d\n", line);
	EXPECT_EQ(held * (long)g->page_size,
		  read_numa_stat(dir, hugetlb_file(g, "numa_stat"), "total="))
		ksft_print_msg("called in line %d\n", line);
	EXPECT_EQ(rsvd * (long)g->page_size,
		  read_count(dir, hugetlb_file(g, "rsvd.current")))
		ksft_print_msg("called in line %d\n", line);
}

#define expect_hugetlb(g, dir, held, rsvd) \
	__expect_hugetlb(_metadata, g, __LINE__, dir, held, rsvd)

TEST_F_TIMEOUT(account, hugetlb_cgroup, TIMEOUT)
{
	const long nr = variant->nr_pages;
	struct gmem *g = &self->g;
	struct pool_count now;
	char key[16];
	int fd, i;

	if (variant->page_shift == 12)
		SKIP(return, "4K pages are not HugeTLB's");
	if (!make_cgroups(g, "hugetlb"))
		SKIP(return, "needs root, and the hugetlb controller in " CG_ROOT);
	ASSERT_TRUE(enter_cgroup(CG_CHILD));

	expect_hugetlb(g, CG_CHILD, 0, 0);
	fd = create_file(g, nr);
	expect_hugetlb(g, CG_CHILD, 0, nr);
	bind_file(g, fd, nr);
	EXPECT_EQ(0, touch_errno(g, 0));
	expect_hugetlb(g, CG_CHILD, 1, nr);
	EXPECT_EQ(0, fallocate_errno(g, fd, 0, nr));
	expect_hugetlb(g, CG_CHILD, nr, nr);
	expect_hugetlb(g, CG_PARENT, nr, nr);

	read_pool(g->page_size, &now);
	for (i = 0; i < MAX_NODES && now.node[i].nr >= 0; i++) {
		snprintf(key, sizeof(key), "N%d=", i);
		EXPECT_EQ((g->before.node[i].free - now.node[i].free) *
			  (long)g->page_size,
			  read_numa_stat(CG_CHILD, hugetlb_file(g, "numa_stat"),
					 key));
	}

	EXPECT_EQ(0, punch_errno(g, fd, 0, 1));
	expect_hugetlb(g, CG_CHILD, nr - 1, nr);

	/* What a task populates is charged to where that task is now. */
	ASSERT_TRUE(enter_cgroup(CG_ROOT));
	EXPECT_EQ(0, touch_errno(g, 0));
	expect_hugetlb(g, CG_CHILD, nr - 1, nr);
	EXPECT_EQ(0, punch_errno(g, fd, 0, 1));
	expect_hugetlb(g, CG_CHILD, nr - 1, nr);

	close(fd);
	expect_hugetlb(g, CG_CHILD, 0, 0);
	expect_hugetlb(g, CG_PARENT, 0, 0);
}

static void set_max(struct __test_metadata *_metadata, const char *dir,
		    const char *name, long val)
{
	bool ok;

	ok = val < 0 ? write_string(dir, name, "max") :
		       write_number(dir, name, val);
	ASSERT_TRUE(ok);
}

TEST_F_TIMEOUT(account, rsvd_max, TIMEOUT)
{
	const long page_size = self->g.page_size;
	struct gmem *g = &self->g;
	int fd;

	if (variant->page_shift == 12)
		SKIP(return, "4K pages are not HugeTLB's");
	if (!make_cgroups(g, "hugetlb"))
		SKIP(return, "needs root, and the hugetlb controller in " CG_ROOT);
	set_max(_metadata, CG_CHILD, hugetlb_file(g, "rsvd.max"), page_size);
	ASSERT_TRUE(enter_cgroup(CG_CHILD));

	EXPECT_EQ(ENOMEM, create_errno(g, 2));
	expect_same(g, &g->before);
	expect_hugetlb(g, CG_CHILD, 0, 0);
	EXPECT_EQ(1, read_key(CG_CHILD, hugetlb_file(g, "events"), "max"));

	fd = create_file(g, 1);
	expect_hugetlb(g, CG_CHILD, 0, 1);
	EXPECT_EQ(ENOMEM, create_errno(g, 1));
	expect_pool(g, g->before.nr, g->before.free, 1, 0);
	expect_hugetlb(g, CG_CHILD, 0, 1);
	EXPECT_EQ(2, read_key(CG_CHILD, hugetlb_file(g, "events"), "max"));

	/* That of the parent holds too. */
	set_max(_metadata, CG_CHILD, hugetlb_file(g, "rsvd.max"), -1);
	set_max(_metadata, CG_PARENT, hugetlb_file(g, "rsvd.max"), page_size);
	EXPECT_EQ(ENOMEM, create_errno(g, 1));
	expect_pool(g, g->before.nr, g->before.free, 1, 0);
	expect_hugetlb(g, CG_PARENT, 0, 1);

	set_max(_metadata, CG_PARENT, hugetlb_file(g, "rsvd.max"), 2 * page_size);
	EXPECT_EQ(0, create_errno(g, 1));
	close(fd);
	expect_hugetlb(g, CG_PARENT, 0, 0);
	ASSERT_TRUE(enter_cgroup(CG_ROOT));
}

/* No page over the limit, and nobody is killed for it. */
TEST_F_TIMEOUT(account, hugetlb_max, TIMEOUT)
{
	const long page_size = self->g.page_size;
	struct gmem *g = &self->g;
	enum how how;
	int fd;

	if (variant->page_shift == 12)
		SKIP(return, "4K pages are not HugeTLB's");
	if (!make_cgroups(g, "hugetlb"))
		SKIP(return, "needs root, and the hugetlb controller in " CG_ROOT);
	ASSERT_TRUE(enter_cgroup(CG_CHILD));

	fd = create_file(g, 2);
	bind_file(g, fd, 2);
	EXPECT_EQ(0, touch_errno(g, 0));
	for (how = 0; how < NR_HOW; how++) {
		set_max(_metadata, CG_CHILD, hugetlb_file(g, "max"), page_size);
		EXPECT_EQ(ENOMEM, fallocate_errno(g, fd, 1, 1));
		EXPECT_EQ(2 * how + 1,
			  read_key(CG_CHILD, hugetlb_file(g, "events"), "max"));
		expect_file(g, fd, 1, 2);
		EXPECT_EQ(ENOMEM, touch_errno(g, 1));
		EXPECT_EQ(2 * how + 2,
			  read_key(CG_CHILD, hugetlb_file(g, "events"), "max"));
		expect_file(g, fd, 1, 2);
		expect_hugetlb(g, CG_CHILD, 1, 2);

		set_max(_metadata, CG_CHILD, hugetlb_file(g, "max"),
			2 * page_size);
		EXPECT_EQ(0, populate_errno(g, fd, 1, how));
		EXPECT_EQ(0, touch_errno(g, 1));
		expect_file(g, fd, 2, 2);
		expect_hugetlb(g, CG_CHILD, 2, 2);
		EXPECT_EQ(0, punch_errno(g, fd, 1, 1));
		expect_hugetlb(g, CG_CHILD, 1, 2);
	}

	/* That of the parent holds too.  Or a page is given back. */
	set_max(_metadata, CG_CHILD, hugetlb_file(g, "max"), -1);
	set_max(_metadata, CG_PARENT, hugetlb_file(g, "max"), page_size);
	EXPECT_EQ(ENOMEM, fallocate_errno(g, fd, 1, 1));
	EXPECT_EQ(0, punch_errno(g, fd, 0, 1));
	EXPECT_EQ(0, fallocate_errno(g, fd, 1, 1));
	expect_file(g, fd, 1, 2);

	close(fd);
	expect_hugetlb(g, CG_CHILD, 0, 0);
	ASSERT_TRUE(enter_cgroup(CG_ROOT));
}

/* What memory.current may have beside the pages in question: stocks, slabs. */
#define MEMCG_NOISE	((long)SZ_1M)

/* The statistics lag behind by up to 2 seconds. */
static long read_memory_stat(const char *dir, const char *key, long want)
{
	long val;
	int i;

	for (i = 0; i < 50; i++) {
		val = read_key(dir, "memory.stat", key);
		if (val == want)
			break;
		usleep(100 * 1000);
	}
	return val;
}

static void __expect_memory(struct __test_metadata *_metadata, struct gmem *g,
			    int line, const char *dir, long current, long held)
{
	const char *key = g->page_size == SZ_4K ? "file" : "hugetlb";
	const long bytes = held * g->page_size;

	EXPECT_EQ(bytes, read_memory_stat(dir, key, bytes))
		ksft_print_msg("called in line %d\n", line);
	__expect_near(_metadata, line, "memory.current", current + bytes,
		      read_count(dir, "memory.current"), MEMCG_NOISE);
}

#define expect_memory(g, dir, current, held) \
	__expect_memory(_metadata, g, __LINE__, dir, current, held)

static bool memory_has_hugetlb(void)
{
	return read_key(CG_CHILD, "memory.stat", "hugetlb") >= 0;
}

TEST_F_TIMEOUT(account, memcg, TIMEOUT)
{
	const long nr = variant->nr_pages;
	struct gmem *g = &self->g;
	long current;
	int fd;

	if (!make_cgroups(g, "memory"))
		SKIP(return, "needs root, and the memory controller in " CG_ROOT);
	if (variant->page_shift > 12 && !memory_has_hugetlb())
		SKIP(return, "needs cgroup2 mounted with memory_hugetlb_accounting");
	ASSERT_TRUE(enter_cgroup(CG_CHILD));

	current = read_count(CG_CHILD, "memory.current");
	fd = create_file(g, nr);
	expect_memory(g, CG_CHILD, current, 0);
	bind_file(g, fd, nr);
	EXPECT_EQ(0, touch_errno(g, 0));
	expect_memory(g, CG_CHILD, current, 1);
	EXPECT_EQ(0, fallocate_errno(g, fd, 0, nr));
	expect_memory(g, CG_CHILD, current, nr);
	expect_memory(g, CG_PARENT, current, nr);
	EXPECT_EQ(0, punch_errno(g, fd, nr / 2, nr / 2));
	expect_memory(g, CG_CHILD, current, nr / 2);

	/* What a task populates is charged to where that task is now. */
	ASSERT_TRUE(enter_cgroup(CG_ROOT));
	EXPECT_EQ(0, touch_errno(g, nr - 1));
	expect_memory(g, CG_CHILD, current, nr / 2);

	close(fd);
	expect_memory(g, CG_CHILD, current, 0);
	EXPECT_EQ(0, read_key(CG_CHILD, "memory.events", "oom_kill"));
}

TEST_F_TIMEOUT(account, memcg_max, TIMEOUT)
{
	const long page_size = self->g.page_size;
	struct gmem *g = &self->g;
	long current, max, events;
	bool hugetlb;
	enum how how;
	int fd;

	if (variant->page_shift == 12)
		SKIP(return, "for 4K pages the OOM killer is called");
	if (!make_cgroups(g, "memory"))
		SKIP(return, "needs root, and the memory controller in " CG_ROOT);
	if (!memory_has_hugetlb())
		SKIP(return, "needs cgroup2 mounted with memory_hugetlb_accounting");
	hugetlb = make_cgroups(g, "hugetlb");
	ASSERT_TRUE(enter_cgroup(CG_CHILD));

	fd = create_file(g, 2);
	bind_file(g, fd, 2);
	EXPECT_EQ(0, touch_errno(g, 0));
	current = read_count(CG_CHILD, "memory.current");
	max = current + page_size - SZ_4K * 64;
	if (hugetlb)
		expect_hugetlb(g, CG_CHILD, 1, 2);

	for (how = 0; how < NR_HOW; how++) {
		set_max(_metadata, CG_CHILD, "memory.max", max);
		events = read_key(CG_CHILD, "memory.events", "max");
		EXPECT_EQ(ENOMEM, fallocate_errno(g, fd, 1, 1));
		expect_file(g, fd, 1, 2);
		/* Once for each time that it tried and reclaimed nothing. */
		EXPECT_LT(events, read_key(CG_CHILD, "memory.events", "max"));

		events = read_key(CG_CHILD, "memory.events", "max");
		EXPECT_EQ(ENOMEM, touch_errno(g, 1));
		expect_file(g, fd, 1, 2);
		EXPECT_LT(events, read_key(CG_CHILD, "memory.events", "max"));
		expect_memory(g, CG_CHILD, current - page_size, 1);
		if (hugetlb)
			expect_hugetlb(g, CG_CHILD, 1, 2);

		set_max(_metadata, CG_CHILD, "memory.max", -1);
		EXPECT_EQ(0, populate_errno(g, fd, 1, how));
		EXPECT_EQ(0, touch_errno(g, 1));
		expect_file(g, fd, 2, 2);
		expect_memory(g, CG_CHILD, current - page_size, 2);
		EXPECT_EQ(0, punch_errno(g, fd, 1, 1));
	}
	EXPECT_EQ(0, read_key(CG_CHILD, "memory.events", "oom"));
	EXPECT_EQ(0, read_key(CG_CHILD, "memory.events", "oom_kill"));

	close(fd);
	expect_memory(g, CG_CHILD, current - page_size, 0);
	ASSERT_TRUE(enter_cgroup(CG_ROOT));
}

/* A cgroup can go before the pages that are charged to it. */
TEST_F_TIMEOUT(account, cgroup_rmdir, 60)
{
	const long page_size = self->g.page_size;
	struct gmem *g = &self->g;
	bool memory;
	int fd;

	if (variant->page_shift == 12)
		SKIP(return, "4K pages are not HugeTLB's");
	if (!make_cgroups(g, "hugetlb"))
		SKIP(return, "needs root, and the hugetlb controller in " CG_ROOT);
	memory = make_cgroups(g, "memory") && memory_has_hugetlb();

	ASSERT_TRUE(enter_cgroup(CG_CHILD));
	fd = create_file(g, 2);
	bind_file(g, fd, 2);
	EXPECT_EQ(0, touch_errno(g, 0));
	ASSERT_TRUE(enter_cgroup(CG_ROOT));
	ASSERT_EQ(0, rmdir(CG_CHILD));

	expect_hugetlb(g, CG_PARENT, 1, 2);
	if (memory)
		EXPECT_EQ(page_size, read_memory_stat(CG_PARENT, "hugetlb",
						      page_size));
	expect_file(g, fd, 1, 2);

	/* Another one of that name is another one. */
	ASSERT_EQ(0, mkdir(CG_CHILD, 0755));
	expect_hugetlb(g, CG_CHILD, 0, 0);
	ASSERT_TRUE(enter_cgroup(CG_CHILD));
	EXPECT_EQ(0, touch_errno(g, 1));
	expect_hugetlb(g, CG_CHILD, 1, 0);
	expect_hugetlb(g, CG_PARENT, 2, 2);
	EXPECT_EQ(0, punch_errno(g, fd, 0, 1));
	expect_hugetlb(g, CG_CHILD, 1, 0);
	expect_hugetlb(g, CG_PARENT, 1, 2);
	ASSERT_TRUE(enter_cgroup(CG_ROOT));
	ASSERT_EQ(0, rmdir(CG_CHILD));
	expect_hugetlb(g, CG_PARENT, 1, 2);

	close(fd);
	expect_hugetlb(g, CG_PARENT, 0, 0);
	if (memory)
		EXPECT_EQ(0, read_memory_stat(CG_PARENT, "hugetlb", 0));
	EXPECT_EQ(0, rmdir(CG_PARENT));
}

/* The file may outlive all cgroups that it was charged to, but the root. */
TEST_F_TIMEOUT(account, cgroup_rmdir_all, 60)
{
	struct gmem *g = &self->g;
	int fd;

	if (variant->page_shift == 12)
		SKIP(return, "4K pages are not HugeTLB's");
	if (!make_cgroups(g, "hugetlb"))
		SKIP(return, "needs root, and the hugetlb controller in " CG_ROOT);
	make_cgroups(g, "memory");

	ASSERT_TRUE(enter_cgroup(CG_CHILD));
	fd = create_file(g, 2);
	EXPECT_EQ(0, fallocate_errno(g, fd, 0, 1));
	ASSERT_TRUE(enter_cgroup(CG_ROOT));
	ASSERT_EQ(0, rmdir(CG_CHILD));
	ASSERT_EQ(0, rmdir(CG_PARENT));

	expect_file(g, fd, 1, 2);
	EXPECT_EQ(0, fallocate_errno(g, fd, 0, 2));
	expect_file(g, fd, 2, 2);
	EXPECT_EQ(0, punch_errno(g, fd, 0, 1));
	expect_file(g, fd, 1, 2);
	close(fd);
	expect_same(g, &g->before);
}

/*
 * Sources of pages
 */

FIXTURE(source)
{
	struct gmem g;
};

FIXTURE_VARIANT(source)
{
	unsigned int page_shift;
	long nr_pages;		/* of the file */
};

FIXTURE_VARIANT_ADD(source, 2m)
{
	.page_shift = 21,
	.nr_pages = 4,
};

FIXTURE_VARIANT_ADD(source, 1g)
{
	.page_shift = 30,
	.nr_pages = 2,
};

FIXTURE_SETUP(source)
{
	struct gmem *g = &self->g;
	const char *reason;

	g->overcommit = -1;
	reason = setup_gmem(g, variant->page_shift, KVM_X86_DEFAULT_VM,
			    variant->nr_pages);
	if (reason)
		SKIP(return, "%s", reason);
	if (g->before.free != g->before.nr)
		SKIP(return, "somebody else uses the pool");
}

FIXTURE_TEARDOWN_PARENT(source)
{
	teardown_gmem(_metadata, &self->g);
}

/* Pages that are added while a file has reserved all there were. */
TEST_F_TIMEOUT(source, add_pages, TIMEOUT)
{
	const long nr = self->g.before.nr;
	struct gmem *g = &self->g;
	struct pool_count now;
	int fd, fd2;

	fd = create_file(g, nr);
	EXPECT_EQ(ENOMEM, create_errno(g, 1));
	EXPECT_TRUE(resize_pool(g, -1, nr + 1));
	read_pool(g->page_size, &now);
	if (now.nr == nr)
		SKIP(return, "no memory for one more page");
	expect_pool(g, nr + 1, nr + 1, nr, 0);

	/* It is anybody's. */
	fd2 = create_file(g, 1);
	expect_pool(g, nr + 1, nr + 1, nr + 1, 0);
	EXPECT_EQ(0, fallocate_errno(g, fd2, 0, 1));
	expect_pool(g, nr + 1, nr, nr, 0);
	EXPECT_EQ(0, fallocate_errno(g, fd, 0, 1));
	expect_pool(g, nr + 1, nr - 1, nr - 1, 0);

	/* And goes when one is free that is not reserved. */
	EXPECT_TRUE(resize_pool(g, -1, nr));
	expect_pool(g, nr + 1, nr - 1, nr - 1, 1);
	close(fd2);
	expect_pool(g, nr, nr - 1, nr - 1, 0);
	EXPECT_EQ(0, fallocate_errno(g, fd, 0, nr < 4 ? nr : 4));
	close(fd);
	expect_pool(g, nr, nr, 0, 0);
}

/* A file larger than the pool takes surplus pages, as many as it may. */
TEST_F_TIMEOUT(source, overcommit, TIMEOUT)
{
	const long extra = variant->page_shift == 30 ? 1 : 2;
	const long nr = self->g.before.nr;
	struct gmem *g = &self->g;
	long page;
	int fd;

	EXPECT_EQ(0, read_overcommit(g));
	EXPECT_EQ(ENOMEM, create_errno(g, nr + 1));
	expect_same(g, &g->before);

	g->overcommit = read_overcommit(g);
	if (!set_overcommit(g, extra))
		SKIP(return, "no overcommit of this size");
	EXPECT_EQ(ENOMEM, create_errno(g, nr + extra + 1));
	expect_same(g, &g->before);

	fd = __vm_create_guest_memfd(g->vm, (nr + extra) * g->page_size,
				     g->flags);
	if (fd < 0 && variant->page_shift == 30) {
		EXPECT_EQ(ENOMEM, errno);
		expect_same(g, &g->before);
		SKIP(return, "no memory for one more page");
	}
	ASSERT_LE(0, fd);
	expect_pool(g, nr + extra, nr + extra, nr + extra, extra);
	EXPECT_EQ(ENOMEM, create_errno(g, 1));
	expect_pool(g, nr + extra, nr + extra, nr + extra, extra);

	EXPECT_EQ(0, fallocate_errno(g, fd, 0, nr + extra));
	expect_pool(g, nr + extra, 0, 0, extra);

	/* A page that is punched out stays for the file, surplus or not. */
	for (page = 0; page < (variant->page_shift == 30 ? 1 : 4); page++) {
		EXPECT_EQ(0, punch_errno(g, fd, page, 1));
		expect_pool(g, nr + extra, 1, 1, extra);
		EXPECT_EQ(ENOMEM, create_errno(g, 1));
		EXPECT_EQ(0, fallocate_errno(g, fd, page, 1));
		expect_pool(g, nr + extra, 0, 0, extra);
	}
	EXPECT_EQ(0, punch_errno(g, fd, 0, nr + extra));
	expect_pool(g, nr + extra, nr + extra, nr + extra, extra);

	close(fd);
	expect_same(g, &g->before);
}

/* Surplus pages too are of the nodes that the task may use. */
TEST_F_TIMEOUT(source, overcommit_bound, TIMEOUT)
{
	const long nr = self->g.before.nr;
	struct gmem *g = &self->g;
	struct pool_count old, now;
	int fd, fd2, i;

	if (g->before.node[0].free <= 0 || g->before.node[1].free <= 0)
		SKIP(return, "needs nodes 0 and 1 with free pages");

	g->overcommit = read_overcommit(g);
	if (variant->page_shift != 21 || !set_overcommit(g, 2))
		SKIP(return, "for 2M, with overcommit");

	/* One could be had, but that would not be enough. */
	set_task_policy(MPOL_BIND, BIT(1));
	EXPECT_EQ(ENOMEM, create_errno(g, nr + 1));
	expect_same(g, &g->before);

	set_task_policy(MPOL_DEFAULT, 0);
	fd = create_file(g, nr);
	read_pool(g->page_size, &old);
	for (i = 0; i < 2; i++) {
		set_task_policy(MPOL_BIND, BIT(i));
		fd2 = create_file(g, 2);
		expect_pool(g, nr + 2, nr + 2, nr + 2, 2);
		read_pool(g->page_size, &now);
		EXPECT_EQ(old.node[i].nr + 2, now.node[i].nr);
		EXPECT_EQ(2, now.node[i].surplus);
		EXPECT_EQ(0, fallocate_errno(g, fd2, 0, 2));
		read_pool(g->page_size, &now);
		EXPECT_EQ(old.node[i].free, now.node[i].free);
		EXPECT_EQ(old.node[!i].free, now.node[!i].free);
		expect_pool(g, nr + 2, nr, nr, 2);
		close(fd2);
		expect_same(g, &old);
	}
	close(fd);
	expect_same(g, &g->before);
}

/* Held and reserved pages stay; they are surplus and go with the file. */
TEST_F_TIMEOUT(source, shrink, TIMEOUT)
{
	const long nr = variant->nr_pages;
	struct gmem *g = &self->g;
	int fd;

	fd = create_file(g, nr);
	EXPECT_EQ(0, fallocate_errno(g, fd, 0, nr / 2));
	ASSERT_TRUE(resize_pool(g, -1, 0));
	expect_pool(g, nr, nr / 2, nr / 2, nr);
	EXPECT_EQ(ENOMEM, create_errno(g, 1));
	expect_pool(g, nr, nr / 2, nr / 2, nr);

	EXPECT_EQ(0, punch_errno(g, fd, 0, 1));
	expect_pool(g, nr, nr / 2 + 1, nr / 2 + 1, nr);
	EXPECT_EQ(0, fallocate_errno(g, fd, 0, nr));
	expect_pool(g, nr, 0, 0, nr);
	ASSERT_TRUE(resize_pool(g, -1, 0));
	expect_pool(g, nr, 0, 0, nr);
	EXPECT_EQ(0, punch_errno(g, fd, nr / 2, nr / 2));
	expect_pool(g, nr, nr / 2, nr / 2, nr);

	close(fd);
	expect_pool(g, 0, 0, 0, 0);
	EXPECT_EQ(ENOMEM, create_errno(g, 1));
}

/* A part of them stays without being surplus. */
TEST_F_TIMEOUT(source, shrink_partly, TIMEOUT)
{
	const long nr = variant->nr_pages;
	struct gmem *g = &self->g;
	int fd;

	fd = create_file(g, nr);
	EXPECT_EQ(0, fallocate_errno(g, fd, 0, nr / 2));

	/* To less than is held. */
	ASSERT_TRUE(resize_pool(g, -1, nr / 2 - 1));
	expect_pool(g, nr, nr / 2, nr / 2, nr / 2 + 1);
	/* To what is held. */
	ASSERT_TRUE(resize_pool(g, -1, nr / 2));
	expect_pool(g, nr, nr / 2, nr / 2, nr / 2);
	/* To one less than held and reserved. */
	ASSERT_TRUE(resize_pool(g, -1, nr - 1));
	expect_pool(g, nr, nr / 2, nr / 2, 1);
	EXPECT_EQ(0, fallocate_errno(g, fd, 0, nr));
	expect_pool(g, nr, 0, 0, 1);
	close(fd);
	expect_pool(g, nr - 1, nr - 1, 0, 0);
}

/* Pages that were surplus are not any more when the pool grows. */
TEST_F_TIMEOUT(source, shrink_and_grow, TIMEOUT)
{
	const long nr = variant->nr_pages;
	struct gmem *g = &self->g;
	int fd;

	fd = create_file(g, nr);
	EXPECT_EQ(0, fallocate_errno(g, fd, 0, nr / 2));
	ASSERT_TRUE(resize_pool(g, -1, 0));
	expect_pool(g, nr, nr / 2, nr / 2, nr);
	ASSERT_TRUE(resize_pool(g, -1, nr));
	expect_pool(g, nr, nr / 2, nr / 2, 0);
	EXPECT_EQ(0, fallocate_errno(g, fd, 0, nr));
	close(fd);
	expect_pool(g, nr, nr, 0, 0);
}

/* The pool of one node can't shrink to the cost of a reservation either. */
TEST_F_TIMEOUT(source, shrink_node, TIMEOUT)
{
	struct gmem *g = &self->g;
	struct pool_count now;
	long free = g->before.free, rest;
	int fd, node;

	for (node = 0; node < MAX_NODES; node++)
		if (g->before.node[node].free > 0 &&
		    g->before.node[node].free < free)
			break;
	if (node == MAX_NODES)
		SKIP(return, "needs 2 nodes with free pages");

	/* All that the other nodes have, and one more. */
	rest = free - g->before.node[node].free + 1;
	fd = create_file(g, rest);
	ASSERT_TRUE(resize_pool(g, node, 0));
	read_pool(g->page_size, &now);
	EXPECT_EQ(rest, now.free);
	EXPECT_EQ(rest, now.resv);
	EXPECT_EQ(1, now.node[node].nr);
	EXPECT_EQ(1, now.node[node].surplus);
	EXPECT_EQ(1, now.surplus);

	if (variant->page_shift == 21) {
		EXPECT_EQ(0, fallocate_errno(g, fd, 0, rest));
		expect_pool(g, rest, 0, 0, 1);
	}
	close(fd);
	expect_pool(g, rest - 1, rest - 1, 0, 0);
	read_pool(g->page_size, &now);
	EXPECT_EQ(0, now.node[node].nr);
}

static bool can_demote(struct gmem *g)
{
	char path[160];

	pool_dir(path, sizeof(path), g->page_size, -1);
	strcat(path, "/demote");
	return !access(path, F_OK);
}

static bool demote(struct gmem *g, int node, long nr)
{
	char dir[128];

	g->resized = true;
	g->demoted = true;
	pool_dir(dir, sizeof(dir), g->page_size, node);
	return write_number(dir, "demote", nr);
}

/* Demoting takes pages that are free and not reserved. */
TEST_F_TIMEOUT(source, demote, TIMEOUT)
{
	const long nr = self->g.before.nr;
	struct gmem *g = &self->g;
	struct pool_count now;
	int fd;

	if (!can_demote(g))
		SKIP(return, "pages of this size cannot be demoted");

	/* One is held, the others reserved. */
	fd = create_file(g, nr);
	EXPECT_EQ(0, fallocate_errno(g, fd, 0, 1));
	EXPECT_TRUE(demote(g, -1, 1));
	expect_pool(g, nr, nr - 1, nr - 1, 0);
	EXPECT_TRUE(demote(g, -1, nr));
	expect_pool(g, nr, nr - 1, nr - 1, 0);
	EXPECT_EQ(0, punch_errno(g, fd, 0, 1));
	EXPECT_TRUE(demote(g, -1, nr));
	expect_pool(g, nr, nr, nr, 0);
	close(fd);

	/* One is nobody's. */
	fd = create_file(g, nr - 1);
	EXPECT_TRUE(demote(g, -1, 1));
	expect_pool(g, nr - 1, nr - 1, nr - 1, 0);
	read_pool(SZ_2M, &now);
	EXPECT_EQ(g->before_2m.nr + SZ_1G / SZ_2M, now.nr);
	EXPECT_EQ(g->before_2m.free + SZ_1G / SZ_2M, now.free);
	EXPECT_EQ(g->before_2m.resv, now.resv);
	EXPECT_EQ(0, fallocate_errno(g, fd, 0, 1));
	close(fd);
	expect_pool(g, nr - 1, nr - 1, 0, 0);
}

/* And not more than that when it's asked for more. */
TEST_F_TIMEOUT(source, demote_too_many, TIMEOUT)
{
	const long nr = self->g.before.nr;
	struct gmem *g = &self->g;
	int fd;

	if (!can_demote(g))
		SKIP(return, "pages of this size cannot be demoted");

	fd = create_file(g, nr - 1);
	EXPECT_TRUE(demote(g, -1, nr));
	expect_pool(g, nr - 1, nr - 1, nr - 1, 0);
	EXPECT_EQ(0, fallocate_errno(g, fd, 0, 1));
	close(fd);
}

/*
 * Nor when it's asked for those of one node, where fewer are free than are
 * reserved in all.
 */
TEST_F_TIMEOUT(source, demote_node, TIMEOUT)
{
	const long nr = self->g.before.nr;
	struct gmem *g = &self->g;
	int fd, i;

	if (!can_demote(g))
		SKIP(return, "pages of this size cannot be demoted");
	if (nr == g->before.node[0].free)
		SKIP(return, "needs 2 nodes with free pages");

	fd = create_file(g, nr);
	for (i = 0; i < MAX_NODES; i++) {
		if (g->before.node[i].free <= 0)
			continue;
		EXPECT_TRUE(demote(g, i, 1));
		expect_pool(g, nr, nr, nr, 0);
	}
	EXPECT_EQ(0, fallocate_errno(g, fd, 0, 1));
	close(fd);
}

TEST_HARNESS_MAIN
