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

#define GUEST_MEMFD_FLAG_TEST	BIT_ULL(62)

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
	FAULT_NOT_CLEARED,	/* allocate() leaves half of each page as it is */
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
	struct test_file *file;		/* NULL if that is gone */
};

/* The reservation of a file. */
struct test_file {
	unsigned long nr_folios;
	unsigned long nr_allocated;	/* and not come back by free() */
};

static DEFINE_MUTEX(test_lock);		/* protects all that follows */
static struct test_folio *test_pool;
static unsigned long test_promised;
static enum test_fault test_fault;
static unsigned int test_hold, test_again, test_fail;
static unsigned int test_held;
static unsigned int test_release;	/* the number of writes to held */
static DECLARE_WAIT_QUEUE_HEAD(test_wait);

/*
 * The first folio of the pool after NULL, NULL after the last.  There is no pool
 * when parameters can be read already, or still.
 */
static struct test_folio *test_next(struct test_folio *tf)
{
	if (!test_pool)
		return NULL;

	tf = tf ? tf + 1 : test_pool;
	return tf < test_pool + nr_folios ? tf : NULL;
}

static unsigned long test_orders(void)
{
	return BIT(order);
}

static int test_order(u64 flags)
{
	return order;
}

/* Take back what was awaited and is no longer in use by anybody. */
static void test_reap(void)
{
	struct test_folio *tf = NULL;

	while ((tf = test_next(tf))) {
		if (tf->state != FOLIO_AWAITED || folio_ref_count(tf->folio) > 1)
			continue;
		tf->state = folio_contain_hwpoisoned_page(tf->folio) ?
			    FOLIO_LOST : FOLIO_FREE;
		tf->file = NULL;
	}
}

static struct test_folio *test_find(enum test_state state, struct test_file *file)
{
	struct test_folio *tf = NULL;

	while ((tf = test_next(tf)))
		if (tf->state == state && tf->file == file)
			return tf;
	return NULL;
}

static unsigned int test_count(enum test_state state, struct test_file *file)
{
	struct test_folio *tf = NULL;
	unsigned int n = 0;

	lockdep_assert_held(&test_lock);

	while ((tf = test_next(tf)))
		n += tf->state == state && (!file || tf->file == file);
	return n;
}

/* Folios that files which are gone have left to others, or that are lost */
static unsigned int test_orphans(void)
{
	struct test_folio *tf = NULL;
	unsigned int n = 0;

	while ((tf = test_next(tf)))
		n += tf->state == FOLIO_LOST ||
		     (tf->state == FOLIO_AWAITED && !tf->file);
	return n;
}

static void *test_reserve(u64 flags, unsigned int order, unsigned long nr)
{
	struct test_file *file;

	file = kzalloc_obj(*file, GFP_KERNEL_ACCOUNT);
	if (!file)
		return ERR_PTR(-ENOMEM);

	guard(mutex)(&test_lock);

	/* What somebody still uses without a file cannot be promised. */
	test_reap();
	if (test_promised + test_orphans() > nr_folios ||
	    nr > nr_folios - test_promised - test_orphans()) {
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
	struct test_folio *tf = NULL;

	guard(mutex)(&test_lock);

	while ((tf = test_next(tf)))
		if (tf->file == file)
			tf->file = NULL;

	/* guest_memfd has called free() for all that allocate() returned. */
	WARN_ON(file->nr_allocated);
	test_promised -= file->nr_folios;
	if (test_fault == FAULT_LEAK_RESERVATION)
		test_promised++;
	kfree(file);
}

static struct folio *test_take(struct test_file *file, pgoff_t index)
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
	if (WARN_ON(file->nr_allocated >= file->nr_folios ||
		    index >> order >= file->nr_folios))
		return ERR_PTR(-ENOMEM);

	/* What is awaited is still the file's; others have the rest. */
	test_reap();
	if (test_count(FOLIO_ALLOCATED, file) +
	    test_count(FOLIO_AWAITED, file) >= file->nr_folios)
		return ERR_PTR(-EAGAIN);

	tf = test_find(FOLIO_FREE, NULL);
	if (!tf)
		return ERR_PTR(-ENOMEM);

	tf->state = FOLIO_ALLOCATED;
	tf->file = file;
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
	struct test_folio *tf = NULL;

	guard(mutex)(&test_lock);

	while ((tf = test_next(tf))) {
		if (tf->folio != folio)
			continue;

		WARN_ON(tf->state != FOLIO_ALLOCATED || tf->file != file);
		tf->state = test_fault == FAULT_LEAK_FOLIO ? FOLIO_LOST :
							     FOLIO_AWAITED;
		file->nr_allocated--;
		test_reap();
		return;
	}
	WARN(1, "not a folio of the pool\n");
}

/* The memory policy makes no difference here. */
static struct folio *test_allocate(void *handle, pgoff_t index,
				   struct mempolicy *mpol, pgoff_t ilx)
{
	struct folio *folio;
	long i;
	int r;

	folio = test_take(handle, index);
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

	test_reap();
	stats->allocated = test_count(FOLIO_ALLOCATED, file) +
			   test_count(FOLIO_AWAITED, file);
	stats->reserved = file->nr_folios - stats->allocated;
}

static struct guest_memfd_allocator_ops test_ops = {
	.owner		= THIS_MODULE,
	.name		= "test",
	.flag		= GUEST_MEMFD_FLAG_TEST,
	.can_mmap	= true,
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
	guard(mutex)(&test_lock);
	test_reap();
	return sysfs_emit(buf, "%u\n", test_count(FOLIO_FREE, NULL));
}

static int awaited_get(char *buf, const struct kernel_param *kp)
{
	guard(mutex)(&test_lock);
	test_reap();
	return sysfs_emit(buf, "%u\n", test_count(FOLIO_AWAITED, NULL));
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

static const struct kernel_param_ops free_param = {
	.get = free_get,
};

static const struct kernel_param_ops awaited_param = {
	.get = awaited_get,
};

static const struct kernel_param_ops promised_param = {
	.get = promised_get,
};

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

static int copy_order(u64 flags)
{
	return -ENODEV;
}

/* Not on the stack: whoever creates a file may find it while it's registered. */
static struct guest_memfd_allocator_ops copy_ops;

static struct guest_memfd_allocator_ops *test_copy(void)
{
	copy_ops = test_ops;
	copy_ops.name = "copy";
	copy_ops.flag = BIT_ULL(61);
	copy_ops.order = copy_order;
	return &copy_ops;
}

static void expect_refused(struct kunit *test, int error)
{
	int r = guest_memfd_register_allocator(&copy_ops);

	if (!r)
		guest_memfd_unregister_allocator(&copy_ops);
	KUNIT_EXPECT_EQ(test, error, r);
}

static void register_twice(struct kunit *test)
{
	int i;

	test_copy();
	for (i = 0; i < 2; i++) {
		KUNIT_ASSERT_EQ(test, 0, guest_memfd_register_allocator(&copy_ops));
		KUNIT_EXPECT_EQ(test, -EBUSY, guest_memfd_register_allocator(&copy_ops));
		guest_memfd_unregister_allocator(&copy_ops);
	}
}

static void register_taken(struct kunit *test)
{
	test_copy()->name = test_ops.name;
	expect_refused(test, -EBUSY);

	test_copy()->flag = test_ops.flag;
	expect_refused(test, -EBUSY);

	test_copy()->flag_args = test_ops.flag;
	expect_refused(test, -EBUSY);
}

/* KVM registers its allocators with the module for the processor's vendor. */
static void register_like_kvm(struct kunit *test)
{
	test_copy()->name = "buddy";
	if (!guest_memfd_register_allocator(&copy_ops)) {
		guest_memfd_unregister_allocator(&copy_ops);
		kunit_skip(test, "KVM is not running");
	}
	expect_refused(test, -EBUSY);

	/* Flags that are KVM's to give out */
	test_copy()->flag = 0;
	expect_refused(test, -EINVAL);

	test_copy()->flag = GUEST_MEMFD_FLAG_HUGETLB;
	expect_refused(test, -EINVAL);

	test_copy()->flag = 1ULL << GUEST_MEMFD_HUGE_SHIFT;
	expect_refused(test, -EINVAL);

	test_copy()->flag = BIT_ULL(40);
	expect_refused(test, -EINVAL);

	/* What is an argument for HugeTLB may be one for others. */
	test_copy()->flag_args = (u64)GUEST_MEMFD_HUGE_MASK << GUEST_MEMFD_HUGE_SHIFT;
	KUNIT_ASSERT_EQ(test, 0, guest_memfd_register_allocator(&copy_ops));
	guest_memfd_unregister_allocator(&copy_ops);

	if (IS_ENABLED(CONFIG_KVM_GUEST_MEMFD_HUGETLB)) {
		test_copy()->flag_args = GUEST_MEMFD_FLAG_HUGETLB;
		expect_refused(test, -EBUSY);
	}
}

static void register_invalid(struct kunit *test)
{
	test_copy()->flag |= BIT_ULL(60);
	expect_refused(test, -EINVAL);

	test_copy()->flag = GUEST_MEMFD_FLAG_MMAP;
	expect_refused(test, -EINVAL);

	test_copy()->flag_args = GUEST_MEMFD_FLAG_INIT_SHARED;
	expect_refused(test, -EINVAL);

	test_copy()->flag_args = BIT_ULL(61);
	expect_refused(test, -EINVAL);

	test_copy()->name = NULL;
	expect_refused(test, -EINVAL);

	test_copy()->allocate = NULL;
	expect_refused(test, -EINVAL);

	test_copy()->order = NULL;
	expect_refused(test, -EINVAL);

	test_copy()->orders = NULL;
	expect_refused(test, -EINVAL);

	test_copy()->unreserve = NULL;
	expect_refused(test, -EINVAL);

	test_copy()->reserve = NULL;
	expect_refused(test, -EINVAL);
}

static void clear_whole_folio(struct kunit *test)
{
	const unsigned int orders[] = { 0, 1, PMD_ORDER };
	struct folio *folio;
	char *p;
	int i;

	for (i = 0; i < ARRAY_SIZE(orders); i++) {
		folio = folio_alloc(GFP_KERNEL, orders[i]);
		KUNIT_ASSERT_NOT_NULL(test, folio);

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
	KUNIT_CASE(register_like_kvm),
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
	struct test_folio *tf = NULL;

	guard(mutex)(&test_lock);

	while ((tf = test_next(tf)))
		folio_put(tf->folio);
	kvfree(test_pool);
	test_pool = NULL;
}

static int __init test_alloc_pool(void)
{
	struct test_folio *pool;
	int i;

	pool = kvcalloc(nr_folios, sizeof(*pool), GFP_KERNEL);
	if (!pool)
		return -ENOMEM;

	for (i = 0; i < nr_folios; i++) {
		pool[i].folio = folio_alloc(GFP_HIGHUSER, order);
		if (!pool[i].folio) {
			while (i--)
				folio_put(pool[i].folio);
			kvfree(pool);
			return -ENOMEM;
		}
	}

	guard(mutex)(&test_lock);
	test_pool = pool;
	return 0;
}

static int __init test_guest_memfd_init(void)
{
	int r;

	if (!nr_folios || order > MAX_PAGE_ORDER)
		return -EINVAL;

	r = test_alloc_pool();
	if (r)
		return r;

	r = guest_memfd_register_allocator(&test_ops);
	if (r)
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
