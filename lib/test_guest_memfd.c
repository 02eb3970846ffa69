// SPDX-License-Identifier: GPL-2.0
/*
 * An allocator of guest_memfd memory for tests, in a module of its own.
 *
 * It has a fixed pool of folios, which the page allocator does not get back
 * before the module is unloaded, and reserves a file's folios in it.  A file with
 * GUEST_MEMFD_FLAG_TEST is served from there.
 *
 * Its parameters in /sys/module/test_guest_memfd/parameters:
 *
 *   order, nr_folios		the pool; set when the module is loaded
 *   free, promised, awaited	folios that are free, that files have reserved,
 *				allocated ones included, and that have left their
 *				file but are in use by somebody
 *   hold			so many calls of allocate() are to wait
 *   held			so many do; writing to it lets them go on
 *   again, fail		so many calls are to return -EAGAIN, -ENOMEM
 *   fault			how the allocator is to be broken, see below; for
 *				tests of the tests
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <kunit/test.h>
#include <linux/guest_memfd.h>
#include <linux/highmem.h>
#include <linux/kvm.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/wait.h>

#define GUEST_MEMFD_FLAG_TEST	(1ULL << 62)

static unsigned int order;
module_param(order, uint, 0444);
MODULE_PARM_DESC(order, "order of the pool's folios");

static unsigned int nr_folios = 16;
module_param(nr_folios, uint, 0444);
MODULE_PARM_DESC(nr_folios, "number of the pool's folios");

enum test_fault {
	FAULT_NONE,
	FAULT_LEAK_FOLIO,	/* free() loses the folio */
	FAULT_LEAK_RESERVATION,	/* unreserve() leaves one folio promised */
	FAULT_PARTIAL_RESERVE,	/* reserve() fails, but promises one folio */
	FAULT_NOT_CLEARED,	/* allocate() leaves the second half as it is */
	FAULT_FALL_SHORT,	/* allocate() fails inside the reservation */
	NR_FAULTS
};

static const char * const fault_names[NR_FAULTS] = {
	[FAULT_NONE]			= "none",
	[FAULT_LEAK_FOLIO]		= "leak_folio",
	[FAULT_LEAK_RESERVATION]	= "leak_reservation",
	[FAULT_PARTIAL_RESERVE]		= "partial_reserve",
	[FAULT_NOT_CLEARED]		= "not_cleared",
	[FAULT_FALL_SHORT]		= "fall_short",
};

enum test_state {
	FOLIO_FREE,
	FOLIO_ALLOCATED,
	FOLIO_AWAITED,
	FOLIO_LOST,
};

struct test_folio {
	struct folio *folio;
	enum test_state state;
};

/* The reservation of a file. */
struct test_file {
	unsigned long nr_folios;
	unsigned long nr_allocated;
};

static DEFINE_MUTEX(test_lock);		/* protects all that follows */
static struct test_folio *test_pool;
static unsigned long test_promised;
static enum test_fault test_fault;
static unsigned int test_hold, test_again, test_fail;
static unsigned int test_held;
static unsigned int test_release;	/* the number of writes to held */
static DECLARE_WAIT_QUEUE_HEAD(test_wait);

static unsigned long test_orders(void)
{
	return BIT(order);
}

static int test_order(u64 flags)
{
	return order;
}

static void *test_reserve(unsigned int order, unsigned long nr)
{
	struct test_file *file;

	file = kzalloc_obj(*file, GFP_KERNEL_ACCOUNT);
	if (!file)
		return ERR_PTR(-ENOMEM);

	guard(mutex)(&test_lock);

	if (nr > nr_folios - test_promised) {
		if (test_fault == FAULT_PARTIAL_RESERVE)
			test_promised++;
		kfree(file);
		return ERR_PTR(-ENOMEM);
	}

	test_promised += nr;
	file->nr_folios = nr;
	return file;
}

static void test_unreserve(void *handle)
{
	struct test_file *file = handle;

	guard(mutex)(&test_lock);

	/* guest_memfd has called free() for all that allocate() returned. */
	WARN_ON(file->nr_allocated);
	test_promised -= file->nr_folios;
	if (test_fault == FAULT_LEAK_RESERVATION)
		test_promised++;
	kfree(file);
}

/* Take back what was awaited and is no longer in use by anybody. */
static void test_reap(void)
{
	int i;

	for (i = 0; i < nr_folios; i++)
		if (test_pool[i].state == FOLIO_AWAITED &&
		    folio_ref_count(test_pool[i].folio) == 1)
			test_pool[i].state = FOLIO_FREE;
}

static struct test_folio *test_find(enum test_state state)
{
	int i;

	for (i = 0; i < nr_folios; i++)
		if (test_pool[i].state == state)
			return &test_pool[i];
	return NULL;
}

static unsigned int test_count(enum test_state state)
{
	unsigned int i, n = 0;

	guard(mutex)(&test_lock);

	test_reap();
	for (i = 0; i < nr_folios; i++)
		n += test_pool[i].state == state;
	return n;
}

static struct folio *test_take(struct test_file *file)
{
	struct test_folio *tf;

	guard(mutex)(&test_lock);

	if (test_again) {
		test_again--;
		return ERR_PTR(-EAGAIN);
	}

	if (test_fail) {
		test_fail--;
		return ERR_PTR(-ENOMEM);
	}

	if (test_fault == FAULT_FALL_SHORT && file->nr_allocated)
		return ERR_PTR(-ENOMEM);

	/* guest_memfd must not ask for more than it has reserved. */
	if (WARN_ON(file->nr_allocated >= file->nr_folios))
		return ERR_PTR(-ENOMEM);

	test_reap();
	tf = test_find(FOLIO_FREE);
	if (!tf)
		return ERR_PTR(test_find(FOLIO_AWAITED) ? -EAGAIN : -ENOMEM);

	tf->state = FOLIO_ALLOCATED;
	file->nr_allocated++;
	return tf->folio;
}

static int test_wait_if_held(void)
{
	unsigned int release;
	int r;

	scoped_guard(mutex, &test_lock) {
		if (!test_hold)
			return 0;
		test_hold--;
		test_held++;
		release = test_release;
	}

	r = wait_event_killable(test_wait, READ_ONCE(test_release) != release);

	scoped_guard(mutex, &test_lock)
		test_held--;
	return r ? -EINTR : 0;
}

static void test_free(void *handle, struct folio *folio)
{
	struct test_file *file = handle;
	int i;

	guard(mutex)(&test_lock);

	file->nr_allocated--;
	for (i = 0; i < nr_folios; i++) {
		if (test_pool[i].folio != folio)
			continue;
		WARN_ON(test_pool[i].state != FOLIO_ALLOCATED);
		test_pool[i].state = test_fault == FAULT_LEAK_FOLIO ?
				     FOLIO_LOST : FOLIO_AWAITED;
		test_reap();
		return;
	}
	WARN(1, "not a folio of the pool\n");
}

/* The memory policy makes no difference here. */
static struct folio *test_allocate(void *handle, struct mempolicy *mpol,
				   pgoff_t ilx)
{
	struct folio *folio;
	long i;
	int r;

	folio = test_take(handle);
	if (IS_ERR(folio))
		return folio;

	r = test_wait_if_held();
	if (!r && READ_ONCE(test_fault) == FAULT_NOT_CLEARED) {
		for (i = 0; i < (folio_nr_pages(folio) + 1) / 2; i++)
			memzero_page(folio_page(folio, i), 0, PAGE_SIZE / 2);
		__folio_mark_uptodate(folio);
	} else if (!r) {
		r = guest_memfd_clear(folio);
	}
	if (r) {
		test_free(handle, folio);
		return ERR_PTR(r);
	}

	return folio;
}

static void test_stats(void *handle, struct guest_memfd_stats *stats)
{
	struct test_file *file = handle;

	guard(mutex)(&test_lock);

	stats->reserved = file->nr_folios - file->nr_allocated;
	stats->allocated = file->nr_allocated;
}

static struct guest_memfd_allocator_ops test_ops = {
	.owner		= THIS_MODULE,
	.name		= "test",
	.flag		= GUEST_MEMFD_FLAG_TEST,
	.accounted	= true,
	.orders		= test_orders,
	.order		= test_order,
	.reserve	= test_reserve,
	.unreserve	= test_unreserve,
	.allocate	= test_allocate,
	.free		= test_free,
	.stats		= test_stats,
};

/*
 * Parameters
 */

static int free_get(char *buf, const struct kernel_param *kp)
{
	return sysfs_emit(buf, "%u\n", test_count(FOLIO_FREE));
}

static int awaited_get(char *buf, const struct kernel_param *kp)
{
	return sysfs_emit(buf, "%u\n", test_count(FOLIO_AWAITED));
}

static int promised_get(char *buf, const struct kernel_param *kp)
{
	guard(mutex)(&test_lock);
	return sysfs_emit(buf, "%lu\n", test_promised);
}

static int held_get(char *buf, const struct kernel_param *kp)
{
	guard(mutex)(&test_lock);
	return sysfs_emit(buf, "%u\n", test_held);
}

static int held_set(const char *val, const struct kernel_param *kp)
{
	scoped_guard(mutex, &test_lock) {
		test_hold = 0;
		WRITE_ONCE(test_release, test_release + 1);
	}
	wake_up_all(&test_wait);
	return 0;
}

static int fault_get(char *buf, const struct kernel_param *kp)
{
	guard(mutex)(&test_lock);
	return sysfs_emit(buf, "%s\n", fault_names[test_fault]);
}

static int fault_set(const char *val, const struct kernel_param *kp)
{
	int i = sysfs_match_string(fault_names, val);

	if (i < 0)
		return i;

	guard(mutex)(&test_lock);
	WRITE_ONCE(test_fault, i);
	return 0;
}

static int count_get(char *buf, const struct kernel_param *kp)
{
	guard(mutex)(&test_lock);
	return sysfs_emit(buf, "%u\n", *(unsigned int *)kp->arg);
}

static int count_set(const char *val, const struct kernel_param *kp)
{
	guard(mutex)(&test_lock);
	return param_set_uint(val, kp);
}

static const struct kernel_param_ops free_param = { .get = free_get };
static const struct kernel_param_ops awaited_param = { .get = awaited_get };
static const struct kernel_param_ops promised_param = { .get = promised_get };
static const struct kernel_param_ops held_param = {
	.get = held_get,
	.set = held_set,
};
static const struct kernel_param_ops fault_param = {
	.get = fault_get,
	.set = fault_set,
};
static const struct kernel_param_ops count_param = {
	.get = count_get,
	.set = count_set,
};

module_param_cb(free, &free_param, NULL, 0444);
module_param_cb(awaited, &awaited_param, NULL, 0444);
module_param_cb(promised, &promised_param, NULL, 0444);
module_param_cb(held, &held_param, NULL, 0644);
module_param_cb(fault, &fault_param, NULL, 0644);
module_param_cb(hold, &count_param, &test_hold, 0644);
module_param_cb(again, &count_param, &test_again, 0644);
module_param_cb(fail, &count_param, &test_fail, 0644);

/*
 * The registry, and what allocators are given to use
 */

static void test_copy(struct guest_memfd_allocator_ops *ops)
{
	*ops = test_ops;
	ops->name = "copy";
	ops->flag = 1ULL << 61;
}

static void register_twice(struct kunit *test)
{
	struct guest_memfd_allocator_ops ops;

	test_copy(&ops);
	KUNIT_ASSERT_EQ(test, 0, guest_memfd_register_allocator(&ops));
	KUNIT_EXPECT_EQ(test, -EBUSY, guest_memfd_register_allocator(&ops));
	guest_memfd_unregister_allocator(&ops);

	KUNIT_ASSERT_EQ(test, 0, guest_memfd_register_allocator(&ops));
	guest_memfd_unregister_allocator(&ops);
}

static void register_taken(struct kunit *test)
{
	struct guest_memfd_allocator_ops ops;

	test_copy(&ops);
	ops.name = "buddy";
	KUNIT_EXPECT_EQ(test, -EBUSY, guest_memfd_register_allocator(&ops));

	test_copy(&ops);
	ops.name = test_ops.name;
	KUNIT_EXPECT_EQ(test, -EBUSY, guest_memfd_register_allocator(&ops));

	test_copy(&ops);
	ops.flag = test_ops.flag;
	KUNIT_EXPECT_EQ(test, -EBUSY, guest_memfd_register_allocator(&ops));

	/* Files without a flag have their allocator. */
	test_copy(&ops);
	ops.flag = 0;
	KUNIT_EXPECT_EQ(test, -EBUSY, guest_memfd_register_allocator(&ops));

	test_copy(&ops);
	ops.flag_args = test_ops.flag;
	KUNIT_EXPECT_EQ(test, -EBUSY, guest_memfd_register_allocator(&ops));
}

static void register_hugetlb(struct kunit *test)
{
	struct guest_memfd_allocator_ops ops;

	if (!IS_ENABLED(CONFIG_KVM_GUEST_MEMFD_HUGETLB))
		kunit_skip(test, "no HugeTLB allocator");

	test_copy(&ops);
	ops.flag = GUEST_MEMFD_FLAG_HUGETLB;
	KUNIT_EXPECT_EQ(test, -EBUSY, guest_memfd_register_allocator(&ops));

	/* Its arguments are no flags, but may be arguments of others. */
	test_copy(&ops);
	ops.flag = 1ULL << GUEST_MEMFD_HUGE_SHIFT;
	KUNIT_EXPECT_EQ(test, -EBUSY, guest_memfd_register_allocator(&ops));

	test_copy(&ops);
	ops.flag_args = (u64)GUEST_MEMFD_HUGE_MASK << GUEST_MEMFD_HUGE_SHIFT;
	KUNIT_ASSERT_EQ(test, 0, guest_memfd_register_allocator(&ops));
	guest_memfd_unregister_allocator(&ops);
}

static void register_invalid(struct kunit *test)
{
	struct guest_memfd_allocator_ops ops;

	test_copy(&ops);
	ops.flag |= 1ULL << 60;
	KUNIT_EXPECT_EQ(test, -EINVAL, guest_memfd_register_allocator(&ops));

	test_copy(&ops);
	ops.flag = GUEST_MEMFD_FLAG_MMAP;
	KUNIT_EXPECT_EQ(test, -EINVAL, guest_memfd_register_allocator(&ops));

	test_copy(&ops);
	ops.flag_args = GUEST_MEMFD_FLAG_INIT_SHARED;
	KUNIT_EXPECT_EQ(test, -EINVAL, guest_memfd_register_allocator(&ops));

	test_copy(&ops);
	ops.flag_args = ops.flag;
	KUNIT_EXPECT_EQ(test, -EINVAL, guest_memfd_register_allocator(&ops));

	test_copy(&ops);
	ops.name = NULL;
	KUNIT_EXPECT_EQ(test, -EINVAL, guest_memfd_register_allocator(&ops));

	test_copy(&ops);
	ops.allocate = NULL;
	KUNIT_EXPECT_EQ(test, -EINVAL, guest_memfd_register_allocator(&ops));

	test_copy(&ops);
	ops.order = NULL;
	KUNIT_EXPECT_EQ(test, -EINVAL, guest_memfd_register_allocator(&ops));

	test_copy(&ops);
	ops.orders = NULL;
	KUNIT_EXPECT_EQ(test, -EINVAL, guest_memfd_register_allocator(&ops));

	test_copy(&ops);
	ops.unreserve = NULL;
	KUNIT_EXPECT_EQ(test, -EINVAL, guest_memfd_register_allocator(&ops));

	test_copy(&ops);
	ops.reserve = NULL;
	KUNIT_EXPECT_EQ(test, -EINVAL, guest_memfd_register_allocator(&ops));
}

static void clear_whole_folio(struct kunit *test)
{
	const unsigned int orders[] = { 0, 1, MAX_PAGE_ORDER };
	struct folio *folio;
	char *p;
	int i;

	for (i = 0; i < ARRAY_SIZE(orders); i++) {
		folio = folio_alloc(GFP_KERNEL, orders[i]);
		if (!folio)
			kunit_skip(test, "no memory of order %u", orders[i]);

		p = folio_address(folio);
		memset(p, 0xa5, folio_size(folio));
		KUNIT_EXPECT_EQ(test, 0, guest_memfd_clear(folio));
		KUNIT_EXPECT_NULL(test, memchr_inv(p, 0, folio_size(folio)));
		KUNIT_EXPECT_TRUE(test, folio_test_uptodate(folio));
		folio_put(folio);
	}
}

static struct kunit_case test_guest_memfd_cases[] = {
	KUNIT_CASE(register_twice),
	KUNIT_CASE(register_taken),
	KUNIT_CASE(register_hugetlb),
	KUNIT_CASE(register_invalid),
	KUNIT_CASE(clear_whole_folio),
	{}
};

static struct kunit_suite test_guest_memfd_suite = {
	.name = "guest_memfd_allocator",
	.test_cases = test_guest_memfd_cases,
};
kunit_test_suite(test_guest_memfd_suite);

static void test_free_pool(void)
{
	int i;

	for (i = 0; i < nr_folios && test_pool[i].folio; i++)
		folio_put(test_pool[i].folio);
	kvfree(test_pool);
}

static int __init test_guest_memfd_init(void)
{
	int i, r;

	if (!nr_folios || order > MAX_PAGE_ORDER)
		return -EINVAL;

	test_pool = kvcalloc(nr_folios, sizeof(*test_pool), GFP_KERNEL);
	if (!test_pool)
		return -ENOMEM;

	for (i = 0; i < nr_folios; i++) {
		test_pool[i].folio = folio_alloc(GFP_HIGHUSER, order);
		if (!test_pool[i].folio) {
			r = -ENOMEM;
			goto err;
		}
	}

	/* guest_memfd lets the host map single pages only. */
	test_ops.can_mmap = !order;

	r = guest_memfd_register_allocator(&test_ops);
	if (r)
		goto err;
	return 0;

err:
	test_free_pool();
	return r;
}

static void __exit test_guest_memfd_exit(void)
{
	guest_memfd_unregister_allocator(&test_ops);
	test_free_pool();
}

module_init(test_guest_memfd_init);
module_exit(test_guest_memfd_exit);
MODULE_DESCRIPTION("Test allocator of guest_memfd memory");
MODULE_LICENSE("GPL");
