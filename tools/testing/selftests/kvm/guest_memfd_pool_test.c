// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of where huge pages of guest_memfd come from, and what they are charged
 * to: memory policies and cpusets, the counters of the pool, of the hugetlb and
 * memory cgroups and of the system, and surplus pages.
 *
 * Pages may be in the pool since boot, added later, or from hugetlb_cma; the
 * tests take what there is.  Needs root, and the pool to itself.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/sizes.h>

#include "guest_memfd_util.h"
#include "kvm_util.h"
#include "kvm_test_harness.h"
#include "numaif.h"
#include "test_util.h"

/* Seconds.  Clearing 1G takes its time. */
#define TIMEOUT		300

#define CG_NAME		"guest_memfd_pool_test"
#define CG_PARENT	CG_ROOT "/" CG_NAME
#define CG_CHILD	CG_PARENT "/child"
#define WEIGHTS		"/sys/kernel/mm/mempolicy/weighted_interleave"

/* What makes a page of the file exist */
enum how {
	FALLOC,
	GUEST,
	NR_HOW,
};

/* Shared with the parent, which undoes what the test has changed. */
struct pool {
	struct gmem g;
	void *map;		/* of the file, for its policy */
	int node[2];		/* the two that NUMA tests use */
	bool resized;
	long overcommit;
	bool weights_set;
	bool weights_auto;
	long weight[MAX_NODES];
	struct gmem_cgroups cg;
};

static const char *setup_pool(struct pool *p, unsigned int page_shift,
			      unsigned int vm_type, long nr_free)
{
	const char *reason;

	p->overcommit = -1;
	reason = gmem_setup(&p->g, page_shift, vm_type, nr_free);
	if (!reason && (p->g.before.resv || p->g.before.surplus))
		reason = "another task uses the pool";
	return reason;
}

static long read_overcommit(struct gmem *g)
{
	return cg_read_long(pool_dir(g->page_size, -1), "nr_overcommit_hugepages");
}

static bool set_overcommit(struct gmem *g, long nr)
{
	return !cg_write_numeric(pool_dir(g->page_size, -1),
				 "nr_overcommit_hugepages", nr);
}

static void restore_weights(struct pool *p)
{
	char name[16];
	int i;

	for (i = 0; i < MAX_NODES; i++) {
		snprintf(name, sizeof(name), "node%d", i);
		if (p->weight[i] > 0)
			cg_write_numeric(WEIGHTS, name, p->weight[i]);
	}
	/* Refused where nothing is known of the nodes' bandwidths. */
	if (p->weights_auto)
		cg_write(WEIGHTS, "auto", "1");
}

/* Runs when the process that ran the test is gone, whatever ended it. */
static void teardown_pool(struct __test_metadata *_metadata, struct pool *p)
{
	struct gmem *g = &p->g;

	if (p->overcommit >= 0)
		EXPECT_TRUE(set_overcommit(g, p->overcommit));
	if (p->resized)
		EXPECT_TRUE(restore_pool(g->page_size, &g->before));
	if (p->weights_set)
		restore_weights(p);

	EXPECT_TRUE(gmem_remove_cgroups(&p->cg));
	EXPECT_TRUE(pool_same(g->page_size, &g->before));
}

static int populate_errno(struct gmem *g, int fd, long page, enum how how)
{
	return how == GUEST ? gmem_touch(g, page) :
			      gmem_populate(g, fd, page, 1);
}

#define expect_pool(g, nr, free, resv, surplus)	\
	EXPECT_TRUE(pool_is((g)->page_size, nr, free, resv, surplus))

#define expect_same(g, want)	EXPECT_TRUE(pool_same((g)->page_size, want))

static bool make_cgroups(struct pool *p, const char *controller)
{
	return gmem_make_cgroups(&p->cg, CG_NAME, controller);
}

static bool enter_cgroup(const char *dir)
{
	return !cg_enter_current(dir);
}

static const char *enter_hugetlb_cgroup(struct pool *p)
{
	if (p->g.page_size == SZ_4K)
		return "4K pages are not HugeTLB's";
	if (!make_cgroups(p, "hugetlb") || !enter_cgroup(CG_CHILD))
		return "needs root, and the hugetlb controller in " CG_ROOT;
	return NULL;
}

/*
 * NUMA
 */

/* The policy is set for the file by mbind(), or it is that of the task. */
FIXTURE(numa)
{
	struct pool p;
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
	struct pool *p = &self->p;
	const char *reason;
	int i, n = 0;

	reason = setup_pool(p, variant->page_shift, variant->vm_type, 2);
	if (reason)
		SKIP(return, "%s", reason);
	for (i = 0; i < MAX_NODES && n < 2; i++)
		if (p->g.before.node[i].free >= variant->nr_free)
			p->node[n++] = i;
	if (n < 2)
		SKIP(return, "needs 2 nodes with %d free huge pages of %lu kB",
		     variant->nr_free, 1UL << (variant->page_shift - 10));
}

FIXTURE_TEARDOWN_PARENT(numa)
{
	teardown_pool(_metadata, &self->p);
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
static void set_file_policy(struct pool *p, int fd, u64 offset, u64 size,
			    int mode, unsigned long nodes)
{
	if (!p->map)
		p->map = kvm_mmap(GUEST_SIZE, PROT_READ | PROT_WRITE,
				  MAP_SHARED, fd);
	kvm_mbind(p->map + offset, size, mode, nodes ? &nodes : NULL,
		  nodes ? BITS_PER_LONG : 0, 0);
}

static void close_file(struct pool *p, int fd)
{
	if (p->map)
		munmap(p->map, GUEST_SIZE);
	p->map = NULL;
	close(fd);
}

/* The policy for all of a file, be it the task's or the file's */
static void set_policy(struct pool *p, int fd, long nr_pages, int mode,
		       unsigned long nodes)
{
	if (p->g.private)
		set_task_policy(mode, nodes);
	else
		set_file_policy(p, fd, 0, nr_pages * p->g.page_size, mode, nodes);
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
	fd = gmem_create(g, nr);
	TEST_ASSERT_EQ(0, gmem_populate(g, fd, 0, nr));
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
	cpu = cg_read_long(dir, "cpulist");
	TEST_ASSERT(cpu >= 0, "node %d has no CPU", node);
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	TEST_ASSERT(!sched_setaffinity(0, sizeof(set), &set),
		    "cannot run on CPU %ld", cpu);
}

/* Without a policy: where the populating task runs. */
TEST_F_TIMEOUT(numa, local, TIMEOUT)
{
	struct pool *p = &self->p;
	struct gmem *g = &self->p.g;
	enum how how;
	int fd, i;

	fd = gmem_create(g, 1);
	gmem_bind(g, fd, 1);
	for (how = 0; how < NR_HOW; how++) {
		for (i = 0; i < 2; i++) {
			pin_to_node(p->node[i]);
			EXPECT_EQ(p->node[i],
				  populate_node(_metadata, g, fd, 0, how));
			ASSERT_EQ(0, gmem_punch(g, fd, 0, 1));
		}
	}
	expect_pool(g, g->before.nr, g->before.free, 1, 0);
	close_file(p, fd);
}

/* MPOL_BIND and MPOL_PREFERRED, and MPOL_PREFERRED_MANY of one node. */
TEST_F_TIMEOUT(numa, one_node, TIMEOUT)
{
	static const int modes[] = {
		MPOL_BIND, MPOL_PREFERRED, MPOL_PREFERRED_MANY,
	};
	const long nr = variant->nr_pages > 1 ? 2 : 1;
	struct pool *p = &self->p;
	struct gmem *g = &self->p.g;
	enum how how;
	int fd, i, m;
	long page;

	fd = gmem_create(g, nr);
	gmem_bind(g, fd, nr);
	for (how = 0; how < NR_HOW; how++) {
		for (m = 0; m < ARRAY_SIZE(modes); m++) {
			for (i = 0; i < 2; i++) {
				/* Not where it would go without the policy. */
				pin_to_node(p->node[!i]);
				set_policy(p, fd, nr, modes[m],
					   BIT(p->node[i]));
				for (page = 0; page < nr; page++)
					EXPECT_EQ(p->node[i],
						  populate_node(_metadata, g, fd,
								page, how));
				ASSERT_EQ(0, gmem_punch(g, fd, 0, nr));
			}
			/* Once is enough, where clearing takes so long. */
			if (nr == 1 && how != GUEST)
				break;
		}
	}
	expect_pool(g, g->before.nr, g->before.free, nr, 0);
	close_file(p, fd);
}

/* Several are preferred: that of the task is the first. */
TEST_F_TIMEOUT(numa, preferred_many, TIMEOUT)
{
	const unsigned long nodes = BIT(self->p.node[0]) | BIT(self->p.node[1]);
	struct pool *p = &self->p;
	struct gmem *g = &self->p.g;
	enum how how;
	int fd, i;

	fd = gmem_create(g, 1);
	gmem_bind(g, fd, 1);
	set_policy(p, fd, 1, MPOL_PREFERRED_MANY, nodes);
	for (i = 0; i < 2; i++) {
		how = i ? FALLOC : GUEST;
		pin_to_node(p->node[i]);
		EXPECT_EQ(p->node[i], populate_node(_metadata, g, fd, 0, how));
		ASSERT_EQ(0, gmem_punch(g, fd, 0, 1));
	}
	close_file(p, fd);
}

/*
 * Pass the task's turns on until the next one is that of a node.  A page that is
 * written to a new pipe takes a turn.
 */
static void give_turn(int node)
{
	static char page[SZ_4K];
	int next, i, fds[2];

	TEST_ASSERT(!pipe(fds), "pipe() failed");
	for (i = 0; i < 2 * MAX_NODES; i++) {
		kvm_get_mempolicy(&next, NULL, 0, NULL, MPOL_F_NODE);
		if (next == node)
			break;
		TEST_ASSERT_EQ(sizeof(page), write(fds[1], page, sizeof(page)));
	}
	TEST_ASSERT_EQ(node, next);
	close(fds[0]);
	close(fds[1]);
}

#define NR_TURNS	32

/*
 * A page of the kernel's own takes a turn of the task, too, so that the node of a
 * huge page depends on how many of these come before it.  Mostly that is the same
 * number, and the next node makes the difference.
 */
static void expect_turns(struct __test_metadata *_metadata, struct pool *p,
			 int fd, enum how how)
{
	struct pool_count old, now;
	struct gmem *g = &p->g;
	long i, taken[2], nr[2] = {};

	for (i = 0; i < NR_TURNS; i++) {
		read_pool(g->page_size, &old);
		give_turn(p->node[i % 2]);
		ASSERT_EQ(0, populate_errno(g, fd, 0, how));
		read_pool(g->page_size, &now);

		taken[0] = old.node[p->node[0]].free - now.node[p->node[0]].free;
		taken[1] = old.node[p->node[1]].free - now.node[p->node[1]].free;
		EXPECT_EQ(1, taken[0] + taken[1]);
		EXPECT_EQ(old.free - 1, now.free);
		nr[0] += taken[0];
		nr[1] += taken[1];
		ASSERT_EQ(0, gmem_punch(g, fd, 0, 1));
	}
	TH_LOG("%s: %ld and %ld", how == GUEST ? "guest" : "fallocate", nr[0],
	       nr[1]);
	/*
	 * By the page's index, or without the policy, all would be of one node.
	 * Of nodes at random so few would be one case in a million.
	 */
	EXPECT_LE(NR_TURNS / 8, nr[0]);
	EXPECT_LE(NR_TURNS / 8, nr[1]);
}

/*
 * The pages of a file take turns by their index.  Where the policy is the task's,
 * the turn is the task's too.
 */
TEST_F_TIMEOUT(numa, interleave, TIMEOUT)
{
	const unsigned long nodes = BIT(self->p.node[0]) | BIT(self->p.node[1]);
	const long nr = variant->nr_pages > 1 ? variant->nr_pages : 2;
	struct pool *p = &self->p;
	struct gmem *g = &self->p.g;
	int node[8], fd, other;
	enum how how;
	long page;

	fd = gmem_create(g, nr);
	gmem_bind(g, fd, nr);
	set_policy(p, fd, nr, MPOL_INTERLEAVE, nodes);

	if (g->private) {
		if (nr < 8)
			SKIP(return, "clearing so many pages takes too long");
		for (how = 0; how < NR_HOW; how++)
			expect_turns(_metadata, p, fd, how);
		close_file(p, fd);
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
	ASSERT_EQ(0, gmem_punch(g, fd, 0, nr));
	for (page = nr - 1; page >= 0; page--)
		EXPECT_EQ(node[page], populate_node(_metadata, g, fd, page,
						    page % 2 ? FALLOC : GUEST));

	/* A turn whose node has no page goes to another. */
	ASSERT_EQ(0, gmem_punch(g, fd, 0, nr));
	if (nr >= 8) {
		other = hoard(g, p->node[0]);
		for (page = 0; page < nr; page++)
			EXPECT_NE(p->node[0], populate_node(_metadata, g, fd,
							    page, GUEST));
		close(other);
	}
	close_file(p, fd);
}

static bool set_weight(struct pool *p, int node, long weight)
{
	char name[16];
	int i;

	for (i = 0; !p->weights_set && i < MAX_NODES; i++) {
		snprintf(name, sizeof(name), "node%d", i);
		p->weight[i] = cg_read_long(WEIGHTS, name);
	}
	if (!p->weights_set)
		p->weights_auto = !cg_read_strstr(WEIGHTS, "auto", "true");
	p->weights_set = true;

	snprintf(name, sizeof(name), "node%d", node);
	return !cg_write_numeric(WEIGHTS, name, weight);
}

TEST_F_TIMEOUT(numa, weighted_interleave, TIMEOUT)
{
	const unsigned long nodes = BIT(self->p.node[0]) | BIT(self->p.node[1]);
	const long nr = variant->nr_pages;
	struct pool_count old, now;
	struct pool *p = &self->p;
	struct gmem *g = &self->p.g;
	int node[8], fd, i;
	long page;

	if (nr < 8)
		SKIP(return, "needs 8 pages");
	if (access(WEIGHTS, F_OK))
		SKIP(return, "there are no weights");

	fd = gmem_create(g, nr);
	gmem_bind(g, fd, nr);
	for (i = 0; i < 2; i++) {
		/* The more the kernel's own pages are not to matter. */
		ASSERT_TRUE(set_weight(p, p->node[i], g->private ? 255 : 3));
		ASSERT_TRUE(set_weight(p, p->node[!i], 1));
		set_policy(p, fd, nr, MPOL_WEIGHTED_INTERLEAVE, nodes);

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
			EXPECT_EQ(old.node[p->node[i]].free - 6,
				  now.node[p->node[i]].free);
			EXPECT_EQ(old.node[p->node[!i]].free - 2,
				  now.node[p->node[!i]].free);
		} else {
			/* The other's single turn may be among these. */
			EXPECT_GE(old.node[p->node[i]].free - 7,
				  now.node[p->node[i]].free);
		}
		ASSERT_EQ(0, gmem_punch(g, fd, 0, nr));
	}
	close_file(p, fd);
}

/* The file's own policy is the one that counts, if it has one. */
TEST_F_TIMEOUT(numa, file_and_task, TIMEOUT)
{
	struct pool *p = &self->p;
	struct gmem *g = &self->p.g;
	enum how how;
	int fd;

	if (g->private)
		SKIP(return, "the file has no policy");

	fd = gmem_create(g, 1);
	gmem_bind(g, fd, 1);
	for (how = 0; how < NR_HOW; how++) {
		set_file_policy(p, fd, 0, g->page_size, MPOL_BIND, BIT(p->node[0]));
		set_task_policy(MPOL_BIND, BIT(p->node[1]));
		EXPECT_EQ(p->node[0], populate_node(_metadata, g, fd, 0, how));
		ASSERT_EQ(0, gmem_punch(g, fd, 0, 1));

		set_file_policy(p, fd, 0, g->page_size, MPOL_DEFAULT, 0);
		EXPECT_EQ(p->node[1], populate_node(_metadata, g, fd, 0, how));
		ASSERT_EQ(0, gmem_punch(g, fd, 0, 1));
	}
	close_file(p, fd);
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
	p->error = gmem_touch(p->g, 0);
	return NULL;
}

/* The task whose policy it is, is the thread that runs the vCPU. */
TEST_F_TIMEOUT(numa, vcpu_thread, TIMEOUT)
{
	struct pool *p = &self->p;
	struct gmem *g = &self->p.g;
	struct pool_count old, now;
	struct vcpu_policy vp = { .g = g };
	pthread_t thread;
	int fd, i;

	fd = gmem_create(g, 1);
	gmem_bind(g, fd, 1);
	for (i = 0; i < 2; i++) {
		vp.node = p->node[i];
		set_task_policy(MPOL_BIND, BIT(p->node[!i]));
		read_pool(g->page_size, &old);
		ASSERT_EQ(0, pthread_create(&thread, NULL, vcpu_policy_thread,
					    &vp));
		pthread_join(thread, NULL);
		EXPECT_EQ(0, vp.error);
		read_pool(g->page_size, &now);
		EXPECT_EQ(old.node[p->node[i]].free - 1,
			  now.node[p->node[i]].free);
		EXPECT_EQ(old.free - 1, now.free);
		ASSERT_EQ(0, gmem_punch(g, fd, 0, 1));
	}
	close_file(p, fd);
}

/* Of the policies that one huge page has, that of its first 4K is used. */
TEST_F_TIMEOUT(numa, part_of_page, TIMEOUT)
{
	struct pool *p = &self->p;
	struct gmem *g = &self->p.g;
	struct pool_count now;
	int fd;

	if (g->private)
		SKIP(return, "the file has no policy");

	fd = gmem_create(g, 1);
	gmem_bind(g, fd, 1);

	set_file_policy(p, fd, 0, g->page_size, MPOL_BIND, BIT(p->node[0]));
	set_file_policy(p, fd, SZ_4K, g->page_size - SZ_4K, MPOL_BIND,
			BIT(p->node[1]));
	EXPECT_EQ(p->node[0], populate_node(_metadata, g, fd, 0, GUEST));
	ASSERT_EQ(0, gmem_punch(g, fd, 0, 1));

	set_file_policy(p, fd, 0, g->page_size, MPOL_BIND, BIT(p->node[0]));
	set_file_policy(p, fd, 0, SZ_4K, MPOL_BIND, BIT(p->node[1]));
	EXPECT_EQ(p->node[1], populate_node(_metadata, g, fd, 0, GUEST));
	ASSERT_EQ(0, gmem_punch(g, fd, 0, 1));
	EXPECT_EQ(p->node[1], populate_node(_metadata, g, fd, 0, FALLOC));

	/* What is there stays where it is. */
	set_file_policy(p, fd, 0, g->page_size, MPOL_BIND, BIT(p->node[0]));
	EXPECT_EQ(0, gmem_populate(g, fd, 0, 1));
	read_pool(g->page_size, &now);
	EXPECT_EQ(g->before.free - 1, now.free);
	EXPECT_EQ(g->before.node[p->node[1]].free - 1,
		  now.node[p->node[1]].free);
	close_file(p, fd);
}

/* Bound to a node without a free page: no page, not even a reserved one. */
TEST_F_TIMEOUT(numa, bind_exhausted, TIMEOUT)
{
	struct pool *p = &self->p;
	struct gmem *g = &self->p.g;
	struct pool_count old;
	int fd, other;
	enum how how;

	fd = gmem_create(g, 1);
	gmem_bind(g, fd, 1);
	other = hoard(g, p->node[1]);
	read_pool(g->page_size, &old);

	for (how = 0; how < NR_HOW; how++) {
		set_policy(p, fd, 1, MPOL_BIND, BIT(p->node[1]));
		EXPECT_EQ(ENOMEM, gmem_populate(g, fd, 0, 1));
		expect_same(g, &old);
		EXPECT_EQ(ENOMEM, gmem_touch(g, 0));
		expect_same(g, &old);
		EXPECT_EQ(ENOMEM, gmem_touch(g, 0));
		expect_same(g, &old);

		set_policy(p, fd, 1, MPOL_DEFAULT, 0);
		EXPECT_NE(p->node[1], populate_node(_metadata, g, fd, 0, how));
		EXPECT_EQ(0, gmem_touch(g, 0));
		ASSERT_EQ(0, gmem_punch(g, fd, 0, 1));
		expect_same(g, &old);
	}

	/* Or there is a page again. */
	set_policy(p, fd, 1, MPOL_BIND, BIT(p->node[1]));
	EXPECT_EQ(ENOMEM, gmem_populate(g, fd, 0, 1));
	ASSERT_EQ(0, gmem_punch(g, other, 0, 1));
	/* That one is reserved for the other file, which can get any other. */
	EXPECT_EQ(p->node[1], populate_node(_metadata, g, fd, 0, FALLOC));

	close(other);
	close_file(p, fd);
}

/* Nor is a surplus page allocated in place of the one that is reserved. */
TEST_F_TIMEOUT(numa, bind_no_surplus, TIMEOUT)
{
	static const int modes[] = { MPOL_PREFERRED, MPOL_PREFERRED_MANY };
	struct pool *p = &self->p;
	struct gmem *g = &self->p.g;
	struct pool_count old;
	int fd, other, m;

	fd = gmem_create(g, 1);
	gmem_bind(g, fd, 1);
	other = hoard(g, p->node[1]);
	read_pool(g->page_size, &old);
	p->overcommit = read_overcommit(g);
	if (!set_overcommit(g, 4))
		SKIP(return, "no overcommit of this size");

	set_policy(p, fd, 1, MPOL_BIND, BIT(p->node[1]));
	EXPECT_EQ(ENOMEM, gmem_populate(g, fd, 0, 1));
	expect_same(g, &old);
	EXPECT_EQ(ENOMEM, gmem_touch(g, 0));
	expect_same(g, &old);

	/* A preference is one: with no page there, others do, and no surplus. */
	for (m = 0; m < ARRAY_SIZE(modes); m++) {
		set_policy(p, fd, 1, modes[m], BIT(p->node[1]));
		EXPECT_NE(p->node[1], populate_node(_metadata, g, fd, 0,
						    m % 2 ? FALLOC : GUEST));
		expect_pool(g, old.nr, old.free - 1, old.resv - 1, 0);
		ASSERT_EQ(0, gmem_punch(g, fd, 0, 1));
	}

	close(other);
	close_file(p, fd);
}

/* fallocate() of several pages keeps those that it got. */
TEST_F_TIMEOUT(numa, bind_half_exhausted, TIMEOUT)
{
	struct pool *p = &self->p;
	struct gmem *g = &self->p.g;
	struct pool_count now;
	int fd, other, i;

	if (g->private)
		SKIP(return, "the file has no policy");
	if (variant->nr_pages == 1)
		SKIP(return, "needs more pages");

	fd = gmem_create(g, 4);
	set_file_policy(p, fd, 0, 2 * g->page_size, MPOL_BIND, BIT(p->node[0]));
	set_file_policy(p, fd, 2 * g->page_size, 2 * g->page_size, MPOL_BIND,
			BIT(p->node[1]));
	other = hoard(g, p->node[1]);

	EXPECT_EQ(ENOMEM, gmem_populate(g, fd, 0, 4));
	EXPECT_EQ(2, gmem_nr_allocated(g, fd));
	expect_pool(g, g->before.nr,
		    g->before.free - g->before.node[p->node[1]].free - 2, 2, 0);

	close(other);
	EXPECT_EQ(0, gmem_populate(g, fd, 0, 4));
	expect_pool(g, g->before.nr, g->before.free - 4, 0, 0);
	read_pool(g->page_size, &now);
	for (i = 0; i < 2; i++)
		EXPECT_EQ(g->before.node[p->node[i]].free - 2,
			  now.node[p->node[i]].free);
	close_file(p, fd);
}

/* A file is refused if the task's MPOL_BIND leaves fewer pages than it has. */
TEST_F_TIMEOUT(numa, create_bound, TIMEOUT)
{
	struct pool *p = &self->p;
	struct gmem *g = &self->p.g;
	long free = g->before.node[p->node[1]].free;

	set_task_policy(MPOL_BIND, BIT(p->node[1]));
	EXPECT_EQ(ENOMEM, gmem_create_errno(g, free + 1));
	expect_same(g, &g->before);
	EXPECT_EQ(0, gmem_create_errno(g, free));
	expect_same(g, &g->before);

	set_task_policy(MPOL_BIND, BIT(p->node[0]) | BIT(p->node[1]));
	EXPECT_EQ(0, gmem_create_errno(g, free + 1));
	set_task_policy(MPOL_PREFERRED, BIT(p->node[1]));
	EXPECT_EQ(0, gmem_create_errno(g, free + 1));
	expect_same(g, &g->before);
}

/* The same with a cpuset in place of a policy. */
TEST_F_TIMEOUT(numa, cpuset, TIMEOUT)
{
	struct pool *p = &self->p;
	struct gmem *g = &self->p.g;
	long free = g->before.node[p->node[1]].free;
	struct pool_count old;
	int fd, other;
	enum how how;

	if (!make_cgroups(p, "cpuset"))
		SKIP(return, "needs root, and the cpuset controller in " CG_ROOT);

	fd = gmem_create(g, 1);
	gmem_bind(g, fd, 1);
	ASSERT_EQ(0, cg_write_numeric(CG_CHILD, "cpuset.mems", p->node[1]));
	ASSERT_TRUE(enter_cgroup(CG_CHILD));

	/* It confines what is allocated, and what may be reserved. */
	pin_to_node(p->node[0]);
	EXPECT_EQ(p->node[1], populate_node(_metadata, g, fd, 0, GUEST));
	ASSERT_EQ(0, gmem_punch(g, fd, 0, 1));
	EXPECT_EQ(p->node[1], populate_node(_metadata, g, fd, 0, FALLOC));
	ASSERT_EQ(0, gmem_punch(g, fd, 0, 1));
	read_pool(g->page_size, &old);
	EXPECT_EQ(ENOMEM, gmem_create_errno(g, free + 1));
	expect_same(g, &old);

	other = hoard(g, p->node[1]);
	read_pool(g->page_size, &old);
	for (how = 0; how < NR_HOW; how++) {
		ASSERT_EQ(0, cg_write_numeric(CG_CHILD, "cpuset.mems", p->node[1]));
		EXPECT_EQ(ENOMEM, gmem_populate(g, fd, 0, 1));
		expect_same(g, &old);
		EXPECT_EQ(ENOMEM, gmem_touch(g, 0));
		expect_same(g, &old);

		ASSERT_EQ(0, cg_write_numeric(CG_CHILD, "cpuset.mems", p->node[0]));
		EXPECT_EQ(p->node[0], populate_node(_metadata, g, fd, 0, how));
		EXPECT_EQ(0, gmem_touch(g, 0));
		ASSERT_EQ(0, gmem_punch(g, fd, 0, 1));
		expect_same(g, &old);
	}
	close(other);
	close_file(p, fd);
	ASSERT_TRUE(enter_cgroup(CG_ROOT));
}

/* A cpuset prevails over a file's policy that has no node in common with it. */
TEST_F_TIMEOUT(numa, cpuset_and_mbind, TIMEOUT)
{
	struct pool *p = &self->p;
	struct gmem *g = &self->p.g;
	int fd;

	if (g->private)
		SKIP(return, "the file has no policy");
	if (!make_cgroups(p, "cpuset"))
		SKIP(return, "needs root, and the cpuset controller in " CG_ROOT);

	fd = gmem_create(g, 1);
	gmem_bind(g, fd, 1);
	set_file_policy(p, fd, 0, g->page_size, MPOL_BIND, BIT(p->node[0]));
	ASSERT_EQ(0, cg_write_numeric(CG_CHILD, "cpuset.mems", p->node[1]));
	ASSERT_TRUE(enter_cgroup(CG_CHILD));
	EXPECT_EQ(p->node[1], populate_node(_metadata, g, fd, 0, GUEST));
	ASSERT_EQ(0, gmem_punch(g, fd, 0, 1));

	ASSERT_TRUE(enter_cgroup(CG_ROOT));
	EXPECT_EQ(p->node[0], populate_node(_metadata, g, fd, 0, FALLOC));
	close_file(p, fd);
}

/*
 * Accounting
 */

FIXTURE(account)
{
	struct pool p;
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
	const char *reason;

	reason = setup_pool(&self->p, variant->page_shift, variant->vm_type,
			    variant->nr_pages);
	if (reason)
		SKIP(return, "%s", reason);
}

FIXTURE_TEARDOWN_PARENT(account)
{
	teardown_pool(_metadata, &self->p);
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
	const long size = cg_read_key_long("/proc", "meminfo", "Hugepagesize:");
	struct pool_count now;

	EXPECT_EQ(hugetlb_kb(), cg_read_key_long("/proc", "meminfo", "Hugetlb:"));
	/* These are of the default size only. */
	if (size << 10 != g->page_size)
		return;
	read_pool(g->page_size, &now);
	EXPECT_EQ(now.nr, cg_read_key_long("/proc", "meminfo", "HugePages_Total:"));
	EXPECT_EQ(now.free, cg_read_key_long("/proc", "meminfo", "HugePages_Free:"));
	EXPECT_EQ(now.resv, cg_read_key_long("/proc", "meminfo", "HugePages_Rsvd:"));
	EXPECT_EQ(now.surplus, cg_read_key_long("/proc", "meminfo", "HugePages_Surp:"));
}

/* With @held pages of @nr in the file */
static void expect_file(struct __test_metadata *_metadata, struct gmem *g,
			int fd, long held, long nr)
{
	EXPECT_EQ(held, gmem_nr_allocated(g, fd));
	EXPECT_TRUE(gmem_held(g, held, nr - held));
	if (g->page_size > SZ_4K)
		expect_meminfo(_metadata, g);
}

#define expect_file(g, fd, held, nr) expect_file(_metadata, g, fd, held, nr)

TEST_F_TIMEOUT(account, counters, TIMEOUT)
{
	const long nr = variant->page_shift == 12 ? 16 : variant->nr_pages;
	struct gmem *g = &self->p.g;
	enum how how;
	long page;
	int fd;

	for (how = 0; how < NR_HOW; how++) {
		fd = gmem_create(g, nr);
		expect_file(g, fd, 0, nr);
		gmem_bind(g, fd, nr);
		expect_file(g, fd, 0, nr);

		for (page = 0; page < nr; page++) {
			EXPECT_EQ(0, populate_errno(g, fd, page, how));
			expect_file(g, fd, page + 1, nr);
		}
		EXPECT_EQ(0, gmem_touch(g, 0));
		EXPECT_EQ(0, gmem_populate(g, fd, 0, nr));
		expect_file(g, fd, nr, nr);

		EXPECT_EQ(0, gmem_punch(g, fd, 1, 1));
		expect_file(g, fd, nr - 1, nr);
		EXPECT_EQ(0, gmem_punch(g, fd, 1, 1));
		expect_file(g, fd, nr - 1, nr);
		EXPECT_EQ(0, populate_errno(g, fd, 1, how));
		expect_file(g, fd, nr, nr);
		EXPECT_EQ(0, gmem_punch(g, fd, 0, nr));
		expect_file(g, fd, 0, nr);
		EXPECT_EQ(0, populate_errno(g, fd, nr - 1, how));
		expect_file(g, fd, 1, nr);

		close(fd);
		expect_same(g, &g->before);
		expect_meminfo(_metadata, g);
		gmem_unbind(g);
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
	cg_write("/proc/sys/vm", "stat_refresh", "1");

	return (struct vm_counts) {
		.file_pages = cg_read_key_long("/proc", "vmstat", "nr_file_pages "),
		.unevictable = cg_read_key_long("/proc", "vmstat", "nr_unevictable "),
		.hugetlb = cg_read_key_long("/proc", "vmstat", "nr_hugetlb "),
		.cached_kb = cg_read_key_long("/proc", "meminfo", "Cached:"),
		.anon_huge_kb = cg_read_key_long("/proc", "meminfo", "AnonHugePages:"),
		.file_huge_kb = cg_read_key_long("/proc", "meminfo", "FileHugePages:"),
		.shmem_huge_kb = cg_read_key_long("/proc", "meminfo", "ShmemHugePages:"),
	};
}

/* What other tasks may move meanwhile, in 4K pages; a huge page is 512. */
#define NOISE	64

#define expect_near(want, got, noise)	\
	EXPECT_LE(labs((want) - (got)), noise)

static void expect_vm_counts(struct __test_metadata *_metadata, struct gmem *g,
			     const struct vm_counts *old, long held)
{
	const long small = g->page_size == SZ_4K ? held : 0;
	const long huge = g->page_size == SZ_4K ? 0 : held * (g->page_size / SZ_4K);
	struct vm_counts now = read_vm_counts();

	EXPECT_EQ(old->hugetlb + huge, now.hugetlb);
	expect_near(old->file_pages + small, now.file_pages, NOISE);
	expect_near(old->unevictable + small, now.unevictable, NOISE);
	expect_near(old->cached_kb + small * 4, now.cached_kb, NOISE * 4);
	/* A transparent huge page more or less would show. */
	EXPECT_EQ(old->anon_huge_kb, now.anon_huge_kb);
	EXPECT_EQ(old->file_huge_kb, now.file_huge_kb);
	EXPECT_EQ(old->shmem_huge_kb, now.shmem_huge_kb);
}

/* Huge pages are counted as such, and not in the page cache. */
TEST_F_TIMEOUT(account, vmstat, TIMEOUT)
{
	const long nr = variant->nr_pages;
	struct gmem *g = &self->p.g;
	struct vm_counts old;
	int fd;

	old = read_vm_counts();
	ASSERT_LE(0, old.file_pages);
	ASSERT_LE(0, old.unevictable);
	ASSERT_LE(0, old.hugetlb);
	ASSERT_LE(0, old.cached_kb);

	fd = gmem_create(g, nr);
	gmem_bind(g, fd, nr);
	expect_vm_counts(_metadata, g, &old, 0);
	EXPECT_EQ(0, gmem_touch(g, 0));
	expect_vm_counts(_metadata, g, &old, 1);
	EXPECT_EQ(0, gmem_populate(g, fd, 0, nr));
	expect_vm_counts(_metadata, g, &old, nr);
	EXPECT_EQ(0, gmem_punch(g, fd, nr / 2, nr / 2));
	expect_vm_counts(_metadata, g, &old, nr / 2);
	close(fd);
	expect_vm_counts(_metadata, g, &old, 0);
}

#define expect_hugetlb(g, dir, held, rsvd) \
	EXPECT_TRUE(gmem_hugetlb_is(g, dir, held, rsvd))

static long hugetlb_events(struct gmem *g)
{
	return cg_read_key_long(CG_CHILD, gmem_hugetlb_file(g, "events"), "max ");
}

TEST_F_TIMEOUT(account, hugetlb_cgroup, TIMEOUT)
{
	const long nr = variant->nr_pages;
	struct pool *p = &self->p;
	struct gmem *g = &self->p.g;
	const char *reason;
	struct pool_count now;
	char key[16];
	int fd, i;

	reason = enter_hugetlb_cgroup(p);
	if (reason)
		SKIP(return, "%s", reason);

	expect_hugetlb(g, CG_CHILD, 0, 0);
	fd = gmem_create(g, nr);
	expect_hugetlb(g, CG_CHILD, 0, nr);
	gmem_bind(g, fd, nr);
	EXPECT_EQ(0, gmem_touch(g, 0));
	expect_hugetlb(g, CG_CHILD, 1, nr);
	EXPECT_EQ(0, gmem_populate(g, fd, 0, nr));
	expect_hugetlb(g, CG_CHILD, nr, nr);
	expect_hugetlb(g, CG_PARENT, nr, nr);

	read_pool(g->page_size, &now);
	for (i = 0; i < MAX_NODES && now.node[i].nr >= 0; i++) {
		snprintf(key, sizeof(key), "N%d=", i);
		EXPECT_EQ((g->before.node[i].free - now.node[i].free) *
			  (long)g->page_size,
			  cg_read_key_long(CG_CHILD, gmem_hugetlb_file(g, "numa_stat"),
					   key));
	}

	EXPECT_EQ(0, gmem_punch(g, fd, 0, 1));
	expect_hugetlb(g, CG_CHILD, nr - 1, nr);

	/* What a task populates is charged to where that task is now. */
	ASSERT_TRUE(enter_cgroup(CG_ROOT));
	EXPECT_EQ(0, gmem_touch(g, 0));
	expect_hugetlb(g, CG_CHILD, nr - 1, nr);
	EXPECT_EQ(0, gmem_punch(g, fd, 0, 1));
	expect_hugetlb(g, CG_CHILD, nr - 1, nr);

	close(fd);
	expect_hugetlb(g, CG_CHILD, 0, 0);
	expect_hugetlb(g, CG_PARENT, 0, 0);
}

static void set_max(struct __test_metadata *_metadata, const char *dir,
		    const char *name, long val)
{
	ASSERT_EQ(0, val < 0 ? cg_write(dir, name, "max") :
			       cg_write_numeric(dir, name, val));
}

TEST_F_TIMEOUT(account, rsvd_max, TIMEOUT)
{
	const long page_size = self->p.g.page_size;
	struct pool *p = &self->p;
	struct gmem *g = &self->p.g;
	const char *reason;
	int fd;

	reason = enter_hugetlb_cgroup(p);
	if (reason)
		SKIP(return, "%s", reason);
	set_max(_metadata, CG_CHILD, gmem_hugetlb_file(g, "rsvd.max"), page_size);

	EXPECT_EQ(ENOMEM, gmem_create_errno(g, 2));
	expect_same(g, &g->before);
	expect_hugetlb(g, CG_CHILD, 0, 0);
	EXPECT_EQ(1, hugetlb_events(g));

	fd = gmem_create(g, 1);
	expect_hugetlb(g, CG_CHILD, 0, 1);
	EXPECT_EQ(ENOMEM, gmem_create_errno(g, 1));
	expect_pool(g, g->before.nr, g->before.free, 1, 0);
	expect_hugetlb(g, CG_CHILD, 0, 1);
	EXPECT_EQ(2, hugetlb_events(g));

	/* That of the parent holds too. */
	set_max(_metadata, CG_CHILD, gmem_hugetlb_file(g, "rsvd.max"), -1);
	set_max(_metadata, CG_PARENT, gmem_hugetlb_file(g, "rsvd.max"), page_size);
	EXPECT_EQ(ENOMEM, gmem_create_errno(g, 1));
	expect_pool(g, g->before.nr, g->before.free, 1, 0);
	expect_hugetlb(g, CG_PARENT, 0, 1);

	set_max(_metadata, CG_PARENT, gmem_hugetlb_file(g, "rsvd.max"), 2 * page_size);
	EXPECT_EQ(0, gmem_create_errno(g, 1));
	close(fd);
	expect_hugetlb(g, CG_PARENT, 0, 0);
	ASSERT_TRUE(enter_cgroup(CG_ROOT));
}

/* No page over the limit, and no task is killed for it. */
TEST_F_TIMEOUT(account, hugetlb_max, TIMEOUT)
{
	const long page_size = self->p.g.page_size;
	struct pool *p = &self->p;
	struct gmem *g = &self->p.g;
	const char *reason;
	enum how how;
	int fd;

	reason = enter_hugetlb_cgroup(p);
	if (reason)
		SKIP(return, "%s", reason);

	fd = gmem_create(g, 2);
	gmem_bind(g, fd, 2);
	EXPECT_EQ(0, gmem_touch(g, 0));
	for (how = 0; how < NR_HOW; how++) {
		set_max(_metadata, CG_CHILD, gmem_hugetlb_file(g, "max"), page_size);
		EXPECT_EQ(ENOMEM, gmem_populate(g, fd, 1, 1));
		EXPECT_EQ(2 * how + 1, hugetlb_events(g));
		expect_file(g, fd, 1, 2);
		EXPECT_EQ(ENOMEM, gmem_touch(g, 1));
		EXPECT_EQ(2 * how + 2, hugetlb_events(g));
		expect_file(g, fd, 1, 2);
		expect_hugetlb(g, CG_CHILD, 1, 2);

		set_max(_metadata, CG_CHILD, gmem_hugetlb_file(g, "max"),
			2 * page_size);
		EXPECT_EQ(0, populate_errno(g, fd, 1, how));
		EXPECT_EQ(0, gmem_touch(g, 1));
		expect_file(g, fd, 2, 2);
		expect_hugetlb(g, CG_CHILD, 2, 2);
		EXPECT_EQ(0, gmem_punch(g, fd, 1, 1));
		expect_hugetlb(g, CG_CHILD, 1, 2);
	}

	/* That of the parent holds too.  Or a page is given back. */
	set_max(_metadata, CG_CHILD, gmem_hugetlb_file(g, "max"), -1);
	set_max(_metadata, CG_PARENT, gmem_hugetlb_file(g, "max"), page_size);
	EXPECT_EQ(ENOMEM, gmem_populate(g, fd, 1, 1));
	EXPECT_EQ(0, gmem_punch(g, fd, 0, 1));
	EXPECT_EQ(0, gmem_populate(g, fd, 1, 1));
	expect_file(g, fd, 1, 2);

	close(fd);
	expect_hugetlb(g, CG_CHILD, 0, 0);
	ASSERT_TRUE(enter_cgroup(CG_ROOT));
}

/* What memory.current may have beside the pages in question: stocks, slabs */
#define MEMCG_NOISE	((long)SZ_1M)

/* The statistics lag behind by up to 2 seconds. */
static long read_memory_stat(const char *dir, const char *key, long want)
{
	return cg_read_key_long_poll(dir, "memory.stat", key, want, 200,
				     DEFAULT_WAIT_INTERVAL_US);
}

static bool memory_is(struct gmem *g, const char *dir, long base, long held)
{
	const char *key = g->page_size == SZ_4K ? "file " : "hugetlb ";
	const long bytes = held * g->page_size;
	long stat = read_memory_stat(dir, key, bytes);
	long current = cg_read_long(dir, "memory.current");

	if (stat == bytes && labs(base + bytes - current) <= MEMCG_NOISE)
		return true;
	ksft_print_msg("%s: %s%ld, not %ld, current %ld, not %ld\n", dir, key,
		       stat, bytes, current, base + bytes);
	return false;
}

#define expect_memory(g, dir, current, held) \
	EXPECT_TRUE(memory_is(g, dir, current, held))

static bool memory_has_hugetlb(void)
{
	return cg_read_key_long(CG_CHILD, "memory.stat", "hugetlb ") >= 0;
}

TEST_F_TIMEOUT(account, memcg, TIMEOUT)
{
	const long nr = variant->nr_pages;
	struct pool *p = &self->p;
	struct gmem *g = &self->p.g;
	long current;
	int fd;

	if (!make_cgroups(p, "memory"))
		SKIP(return, "needs root, and the memory controller in " CG_ROOT);
	if (variant->page_shift > 12 && !memory_has_hugetlb())
		SKIP(return, "needs cgroup2 mounted with memory_hugetlb_accounting");
	ASSERT_TRUE(enter_cgroup(CG_CHILD));

	current = cg_read_long(CG_CHILD, "memory.current");
	fd = gmem_create(g, nr);
	expect_memory(g, CG_CHILD, current, 0);
	gmem_bind(g, fd, nr);
	EXPECT_EQ(0, gmem_touch(g, 0));
	expect_memory(g, CG_CHILD, current, 1);
	EXPECT_EQ(0, gmem_populate(g, fd, 0, nr));
	expect_memory(g, CG_CHILD, current, nr);
	expect_memory(g, CG_PARENT, current, nr);
	EXPECT_EQ(0, gmem_punch(g, fd, nr / 2, nr / 2));
	expect_memory(g, CG_CHILD, current, nr / 2);

	/* What a task populates is charged to where that task is now. */
	ASSERT_TRUE(enter_cgroup(CG_ROOT));
	EXPECT_EQ(0, gmem_touch(g, nr - 1));
	expect_memory(g, CG_CHILD, current, nr / 2);

	close(fd);
	expect_memory(g, CG_CHILD, current, 0);
	EXPECT_EQ(0, cg_read_key_long(CG_CHILD, "memory.events", "oom_kill "));
}

TEST_F_TIMEOUT(account, memcg_max, TIMEOUT)
{
	const long page_size = self->p.g.page_size;
	struct pool *p = &self->p;
	struct gmem *g = &self->p.g;
	/*
	 * For one page and all else, but not for two.  What memory.current has
	 * beside pages says little: CPUs give back their stocks at the limit.
	 */
	const long max = 2 * page_size - SZ_4K;
	long current, events;
	bool hugetlb;
	enum how how;
	int fd;

	if (variant->page_shift == 12)
		SKIP(return, "for 4K pages the OOM killer is called");
	if (!make_cgroups(p, "memory"))
		SKIP(return, "needs root, and the memory controller in " CG_ROOT);
	if (!memory_has_hugetlb())
		SKIP(return, "needs cgroup2 mounted with memory_hugetlb_accounting");
	hugetlb = make_cgroups(p, "hugetlb");
	ASSERT_TRUE(enter_cgroup(CG_CHILD));

	fd = gmem_create(g, 2);
	gmem_bind(g, fd, 2);
	EXPECT_EQ(0, gmem_touch(g, 0));
	current = cg_read_long(CG_CHILD, "memory.current");
	if (hugetlb)
		expect_hugetlb(g, CG_CHILD, 1, 2);

	for (how = 0; how < NR_HOW; how++) {
		set_max(_metadata, CG_CHILD, "memory.max", max);
		events = cg_read_key_long(CG_CHILD, "memory.events", "max ");
		EXPECT_EQ(ENOMEM, gmem_populate(g, fd, 1, 1));
		expect_file(g, fd, 1, 2);
		/* Once for each time that it tried and reclaimed nothing. */
		EXPECT_LT(events, cg_read_key_long(CG_CHILD, "memory.events", "max "));

		events = cg_read_key_long(CG_CHILD, "memory.events", "max ");
		EXPECT_EQ(ENOMEM, gmem_touch(g, 1));
		expect_file(g, fd, 1, 2);
		EXPECT_LT(events, cg_read_key_long(CG_CHILD, "memory.events", "max "));
		expect_memory(g, CG_CHILD, current - page_size, 1);
		if (hugetlb)
			expect_hugetlb(g, CG_CHILD, 1, 2);

		set_max(_metadata, CG_CHILD, "memory.max", -1);
		EXPECT_EQ(0, populate_errno(g, fd, 1, how));
		EXPECT_EQ(0, gmem_touch(g, 1));
		expect_file(g, fd, 2, 2);
		expect_memory(g, CG_CHILD, current - page_size, 2);
		EXPECT_EQ(0, gmem_punch(g, fd, 1, 1));
	}
	EXPECT_EQ(0, cg_read_key_long(CG_CHILD, "memory.events", "oom "));
	EXPECT_EQ(0, cg_read_key_long(CG_CHILD, "memory.events", "oom_kill "));

	close(fd);
	expect_memory(g, CG_CHILD, current - page_size, 0);
	ASSERT_TRUE(enter_cgroup(CG_ROOT));
}

/* A cgroup can go before the pages that are charged to it. */
TEST_F_TIMEOUT(account, cgroup_rmdir, 60)
{
	const long page_size = self->p.g.page_size;
	struct pool *p = &self->p;
	struct gmem *g = &self->p.g;
	const char *reason;
	bool memory;
	int fd;

	reason = enter_hugetlb_cgroup(p);
	if (reason)
		SKIP(return, "%s", reason);
	memory = make_cgroups(p, "memory") && memory_has_hugetlb();

	fd = gmem_create(g, 2);
	gmem_bind(g, fd, 2);
	EXPECT_EQ(0, gmem_touch(g, 0));
	ASSERT_TRUE(enter_cgroup(CG_ROOT));
	ASSERT_EQ(0, rmdir(CG_CHILD));

	expect_hugetlb(g, CG_PARENT, 1, 2);
	if (memory)
		EXPECT_EQ(page_size, read_memory_stat(CG_PARENT, "hugetlb ",
						      page_size));
	expect_file(g, fd, 1, 2);

	/* Another one of that name is another one. */
	ASSERT_EQ(0, mkdir(CG_CHILD, 0755));
	expect_hugetlb(g, CG_CHILD, 0, 0);
	ASSERT_TRUE(enter_cgroup(CG_CHILD));
	EXPECT_EQ(0, gmem_touch(g, 1));
	expect_hugetlb(g, CG_CHILD, 1, 0);
	expect_hugetlb(g, CG_PARENT, 2, 2);
	EXPECT_EQ(0, gmem_punch(g, fd, 0, 1));
	expect_hugetlb(g, CG_CHILD, 1, 0);
	expect_hugetlb(g, CG_PARENT, 1, 2);
	ASSERT_TRUE(enter_cgroup(CG_ROOT));
	ASSERT_EQ(0, rmdir(CG_CHILD));
	expect_hugetlb(g, CG_PARENT, 1, 2);

	close(fd);
	expect_hugetlb(g, CG_PARENT, 0, 0);
	if (memory)
		EXPECT_EQ(0, read_memory_stat(CG_PARENT, "hugetlb ", 0));
	EXPECT_EQ(0, rmdir(CG_PARENT));
}

/* The file may outlive all cgroups that it was charged to, but the root. */
TEST_F_TIMEOUT(account, cgroup_rmdir_all, 60)
{
	struct pool *p = &self->p;
	struct gmem *g = &self->p.g;
	const char *reason;
	int fd;

	reason = enter_hugetlb_cgroup(p);
	if (reason)
		SKIP(return, "%s", reason);
	make_cgroups(p, "memory");

	fd = gmem_create(g, 2);
	EXPECT_EQ(0, gmem_populate(g, fd, 0, 1));
	ASSERT_TRUE(enter_cgroup(CG_ROOT));
	ASSERT_EQ(0, rmdir(CG_CHILD));
	ASSERT_EQ(0, rmdir(CG_PARENT));

	expect_file(g, fd, 1, 2);
	EXPECT_EQ(0, gmem_populate(g, fd, 0, 2));
	expect_file(g, fd, 2, 2);
	EXPECT_EQ(0, gmem_punch(g, fd, 0, 1));
	expect_file(g, fd, 1, 2);
	close(fd);
	expect_same(g, &g->before);
}

/*
 * Sources of pages
 */

FIXTURE(source)
{
	struct pool p;
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
	const char *reason;

	reason = setup_pool(&self->p, variant->page_shift, KVM_X86_DEFAULT_VM,
			    variant->nr_pages);
	if (reason)
		SKIP(return, "%s", reason);
	if (self->p.g.before.free != self->p.g.before.nr)
		SKIP(return, "another task uses the pool");
}

FIXTURE_TEARDOWN_PARENT(source)
{
	teardown_pool(_metadata, &self->p);
}

/* A file larger than the pool takes surplus pages, as many as it may. */
TEST_F_TIMEOUT(source, overcommit, TIMEOUT)
{
	const long extra = variant->page_shift == 30 ? 1 : 2;
	const long nr = self->p.g.before.nr;
	struct pool *p = &self->p;
	struct gmem *g = &self->p.g;
	long page;
	int fd;

	EXPECT_EQ(0, read_overcommit(g));
	EXPECT_EQ(ENOMEM, gmem_create_errno(g, nr + 1));
	expect_same(g, &g->before);

	p->overcommit = read_overcommit(g);
	if (!set_overcommit(g, extra))
		SKIP(return, "no overcommit of this size");
	EXPECT_EQ(ENOMEM, gmem_create_errno(g, nr + extra + 1));
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
	EXPECT_EQ(ENOMEM, gmem_create_errno(g, 1));
	expect_pool(g, nr + extra, nr + extra, nr + extra, extra);

	EXPECT_EQ(0, gmem_populate(g, fd, 0, nr + extra));
	expect_pool(g, nr + extra, 0, 0, extra);

	/* A page that is punched out stays for the file, surplus or not. */
	for (page = 0; page < (variant->page_shift == 30 ? 1 : 4); page++) {
		EXPECT_EQ(0, gmem_punch(g, fd, page, 1));
		expect_pool(g, nr + extra, 1, 1, extra);
		EXPECT_EQ(ENOMEM, gmem_create_errno(g, 1));
		EXPECT_EQ(0, gmem_populate(g, fd, page, 1));
		expect_pool(g, nr + extra, 0, 0, extra);
	}
	EXPECT_EQ(0, gmem_punch(g, fd, 0, nr + extra));
	expect_pool(g, nr + extra, nr + extra, nr + extra, extra);

	close(fd);
	expect_same(g, &g->before);
}

/* Surplus pages too are of the nodes that the task may use. */
TEST_F_TIMEOUT(source, overcommit_bound, TIMEOUT)
{
	const long nr = self->p.g.before.nr;
	struct pool *p = &self->p;
	struct gmem *g = &self->p.g;
	struct pool_count old, now;
	int fd, fd2, i;

	if (g->before.node[0].free <= 0 || g->before.node[1].free <= 0)
		SKIP(return, "needs nodes 0 and 1 with free pages");

	p->overcommit = read_overcommit(g);
	if (variant->page_shift != 21 || !set_overcommit(g, 2))
		SKIP(return, "for 2M, with overcommit");

	/* One could be had, but that would not be enough. */
	set_task_policy(MPOL_BIND, BIT(1));
	EXPECT_EQ(ENOMEM, gmem_create_errno(g, nr + 1));
	expect_same(g, &g->before);

	set_task_policy(MPOL_DEFAULT, 0);
	fd = gmem_create(g, nr);
	read_pool(g->page_size, &old);
	for (i = 0; i < 2; i++) {
		set_task_policy(MPOL_BIND, BIT(i));
		fd2 = gmem_create(g, 2);
		expect_pool(g, nr + 2, nr + 2, nr + 2, 2);
		read_pool(g->page_size, &now);
		EXPECT_EQ(old.node[i].nr + 2, now.node[i].nr);
		EXPECT_EQ(2, now.node[i].surplus);
		EXPECT_EQ(0, gmem_populate(g, fd2, 0, 2));
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
	struct pool *p = &self->p;
	struct gmem *g = &self->p.g;
	int fd;

	p->resized = true;
	fd = gmem_create(g, nr);
	EXPECT_EQ(0, gmem_populate(g, fd, 0, nr / 2));
	ASSERT_TRUE(resize_pool(g->page_size, -1, 0));
	expect_pool(g, nr, nr / 2, nr / 2, nr);
	EXPECT_EQ(ENOMEM, gmem_create_errno(g, 1));
	expect_pool(g, nr, nr / 2, nr / 2, nr);

	EXPECT_EQ(0, gmem_punch(g, fd, 0, 1));
	expect_pool(g, nr, nr / 2 + 1, nr / 2 + 1, nr);
	EXPECT_EQ(0, gmem_populate(g, fd, 0, nr));
	expect_pool(g, nr, 0, 0, nr);
	ASSERT_TRUE(resize_pool(g->page_size, -1, 0));
	expect_pool(g, nr, 0, 0, nr);
	EXPECT_EQ(0, gmem_punch(g, fd, nr / 2, nr / 2));
	expect_pool(g, nr, nr / 2, nr / 2, nr);

	close(fd);
	expect_pool(g, 0, 0, 0, 0);
	EXPECT_EQ(ENOMEM, gmem_create_errno(g, 1));
}

TEST_HARNESS_MAIN
