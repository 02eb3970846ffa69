// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of which pages of a guest_memfd file are private.
 *
 * Each test has an inode that no file system knows, and a model: a bitmap of the
 * pages that are not in the state that all begin in.  What the functions say is
 * compared with that, and so is the tree itself, entry by entry.  An entry that
 * ends where the state does not change is as wrong as one of the wrong state.
 *
 * Everything is run for files that are private at first, and for such that are
 * shared.  Random numbers are the same in each run.
 */
#include <kunit/test.h>
#include <linux/bitmap.h>
#include <linux/bitops.h>
#include <linux/cpumask.h>
#include <linux/fs.h>
#include <linux/hash.h>
#include <linux/jiffies.h>
#include <linux/kthread.h>
#include <linux/kvm_host.h>
#include <linux/log2.h>
#include <linux/maple_tree.h>
#include <linux/math.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pgtable.h>
#include <linux/prandom.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/vmstat.h>
#include <linux/xarray.h>

#include "../guest_memfd.h"

#define PUD_PAGES	BIT(PUD_ORDER)
#define PMD_PAGES	BIT(PMD_ORDER)

/* With KASAN, half a million stores take a quarter of an hour on an emulated CPU. */
#define NR_ALTERNATING	(IS_ENABLED(CONFIG_KASAN_GENERIC) ? PUD_PAGES / 16 : PUD_PAGES)
#define MAX_HEIGHT	(IS_ENABLED(CONFIG_KASAN_GENERIC) ? 5 : 6)

/* Files have pages of 4K, 2M or 1G, but any order will do. */
static const unsigned int attr_orders[] = { 0, 4, PMD_ORDER, PUD_ORDER };

struct attr_param {
	const char *name;
	u64 flags;
};

static const struct attr_param attr_params[] = {
	{ "private at first", 0 },
	{ "shared at first", GUEST_MEMFD_FLAG_INIT_SHARED },
};

KUNIT_ARRAY_PARAM_DESC(attr, attr_params, name);

/* An inode, and what its attributes should be */
struct attr_test {
	struct kunit *test;
	struct gmem_inode *gi;
	unsigned long nr_pages;
	unsigned long *other;	/* pages not in the initial state */
	struct rnd_state rnd;
};

static struct address_space *attr_mapping(struct attr_test *at)
{
	return at->gi->vfs_inode.i_mapping;
}

static void attr_end(void *gi)
{
	kvm_gmem_attrs_destroy(gi);
	/* Nodes are freed by callbacks, which may find what was wrong. */
	rcu_barrier();
}

static struct attr_test *attr_begin(struct kunit *test, unsigned long nr_pages)
{
	const struct attr_param *param = test->param_value;
	struct attr_test *at;
	struct inode *inode;

	at = kunit_kzalloc(test, sizeof(*at), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, at);
	at->gi = kunit_kzalloc(test, sizeof(*at->gi), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, at->gi);
	at->other = kunit_kcalloc(test, BITS_TO_LONGS(nr_pages),
				  sizeof(*at->other), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, at->other);

	at->test = test;
	at->nr_pages = nr_pages;
	prandom_seed_state(&at->rnd, 1);

	inode = &at->gi->vfs_inode;
	inode_init_once(inode);
	inode->i_mapping = &inode->i_data;
	init_rwsem(&inode->i_data.invalidate_lock);
	at->gi->flags = param->flags;
	kvm_gmem_attrs_init(at->gi);
	KUNIT_ASSERT_EQ(test, 0, kunit_add_action_or_reset(test, attr_end, at->gi));
	return at;
}

static unsigned long attr_random(struct attr_test *at, unsigned long below)
{
	return prandom_u32_state(&at->rnd) % below;
}

/*
 * The model
 */

static bool model_initial(struct attr_test *at)
{
	return !(at->gi->flags & GUEST_MEMFD_FLAG_INIT_SHARED);
}

static bool model_other(struct attr_test *at, pgoff_t index)
{
	return index < at->nr_pages && test_bit(index, at->other);
}

static bool model_private(struct attr_test *at, pgoff_t index)
{
	return model_other(at, index) != model_initial(at);
}

/* The first page of [index, end) whose bit is as wanted, else end */
static pgoff_t model_find(struct attr_test *at, pgoff_t index, pgoff_t end,
			  bool other)
{
	pgoff_t limit = min(end, at->nr_pages);

	if (index < limit) {
		index = other ? find_next_bit(at->other, limit, index) :
				find_next_zero_bit(at->other, limit, index);
		if (index < limit)
			return index;
	}

	/* Behind the bitmap all pages are in the initial state. */
	return other || limit == end ? end : max(index, limit);
}

static bool model_uniform(struct attr_test *at, pgoff_t start, pgoff_t end)
{
	return model_find(at, start, end, !model_other(at, start)) == end;
}

static unsigned int model_order(struct attr_test *at, pgoff_t index,
				unsigned int order)
{
	pgoff_t start = round_down(index, BIT(order));

	if (model_uniform(at, start, start + BIT(order)))
		return order;
	return order > PMD_ORDER ? model_order(at, index, PMD_ORDER) : 0;
}

static void model_set(struct attr_test *at, pgoff_t start, pgoff_t end,
		      bool private)
{
	if (private == model_initial(at))
		bitmap_clear(at->other, start, end - start);
	else
		bitmap_set(at->other, start, end - start);
}

/*
 * Comparisons.  They say what is wrong, and return whether all is right.
 */

/* The tree, entry by entry, and the number of pages */
static bool check_tree(struct attr_test *at)
{
	MA_STATE(mas, &at->gi->attrs, 0, 0);
	unsigned long nr = bitmap_weight(at->other, at->nr_pages);
	pgoff_t index = 0, next;
	bool right = true;

	if (at->gi->nr_other != nr) {
		KUNIT_FAIL(at->test, "%lu pages are said not to be in the initial state, of %lu",
			   at->gi->nr_other, nr);
		right = false;
	}
	if (!nr && !mtree_empty(&at->gi->attrs)) {
		KUNIT_FAIL(at->test, "the tree is not empty");
		right = false;
	}

	filemap_invalidate_lock_shared(attr_mapping(at));
	do {
		bool other = model_other(at, index);
		void *entry;

		/* The last range is that of the pages behind the bitmap. */
		next = model_find(at, index, ULONG_MAX, !other);
		mas_set(&mas, index);
		entry = mas_walk(&mas);
		if (entry != (other ? xa_mk_value(1) : NULL) ||
		    mas.index != index ||
		    mas.last != (next == ULONG_MAX ? next : next - 1)) {
			KUNIT_FAIL(at->test, "entry %p from %lu to %lu where %lu to %lu is %s",
				   entry, mas.index, mas.last, index, next - 1,
				   other ? "other" : "initial");
			right = false;
		}
		cond_resched();
		index = next;
	} while (right && index != ULONG_MAX);
	filemap_invalidate_unlock_shared(attr_mapping(at));
	return right;
}

/* What is said about one page and the blocks around it */
static bool check_page(struct attr_test *at, pgoff_t index)
{
	bool private = kvm_gmem_is_private(at->gi, index);
	pgoff_t first = ~index, last = ~index, next;
	unsigned int i, order, want;

	if (private != model_private(at, index)) {
		KUNIT_FAIL(at->test, "page %lu is said to be %s", index,
			   private ? "private" : "shared");
		return false;
	}

	next = model_find(at, index, ULONG_MAX, !model_other(at, index));
	if (kvm_gmem_run(at->gi, index, &first, &last) != private ||
	    last != (next == ULONG_MAX ? next : next - 1) || first > index ||
	    !model_uniform(at, first, index + 1) ||
	    (first && model_uniform(at, first - 1, index + 1))) {
		KUNIT_FAIL(at->test, "run of page %lu: %lu to %lu, not to before %lu",
			   index, first, last, next);
		return false;
	}

	for (i = 0; i < ARRAY_SIZE(attr_orders); i++) {
		order = kvm_gmem_uniform_order(at->gi, index, attr_orders[i]);
		want = model_order(at, index, attr_orders[i]);
		if (order != want) {
			KUNIT_FAIL(at->test, "uniform order of page %lu, at most %u: %u, not %u",
				   index, attr_orders[i], order, want);
			return false;
		}
	}
	return true;
}

/* At most that many runs of a range, or that there are no more */
static bool check_runs(struct attr_test *at, pgoff_t start, pgoff_t end,
		       bool private, unsigned int nr)
{
	bool other = private == model_initial(at);

	while (nr--) {
		pgoff_t want = model_find(at, start, end, other);
		pgoff_t index = start, last = start - 1;
		bool found;

		found = kvm_gmem_next_run(at->gi, &index, end, private, &last);
		if (want == end) {
			if (found || index != start || last != start - 1)
				goto wrong;
			return true;
		}
		if (!found || index != want ||
		    last != model_find(at, want, end, !other) - 1)
			goto wrong;
		start = last + 1;
		continue;
wrong:
		KUNIT_FAIL(at->test, "run in %lu to %lu not %s: %s, %lu to %lu, should be from %lu",
			   start, end - 1, private ? "private" : "shared",
			   found ? "found" : "none", index, last, want);
		return false;
	}
	return true;
}

/* The pages around a change, a random one, and runs from before it to behind it */
static bool check_change(struct attr_test *at, pgoff_t start, pgoff_t end)
{
	pgoff_t from = start - attr_random(at, min(start, 2 * PMD_PAGES) + 1);
	pgoff_t to = min(end + attr_random(at, 2 * PMD_PAGES), at->nr_pages);
	unsigned long nr = bitmap_weight(at->other, at->nr_pages);

	if (at->gi->nr_other != nr) {
		KUNIT_FAIL(at->test, "%lu pages are said not to be in the initial state, of %lu",
			   at->gi->nr_other, nr);
		return false;
	}
	return (!start || check_page(at, start - 1)) &&
	       check_page(at, start) && check_page(at, end - 1) &&
	       check_page(at, end) &&
	       check_page(at, attr_random(at, at->nr_pages)) &&
	       check_runs(at, from, to, true, 16) &&
	       check_runs(at, from, to, false, 16);
}

/*
 * Changes
 */

static int attr_try(struct attr_test *at, pgoff_t start, pgoff_t end,
		    bool private, bool store)
{
	struct ma_state mas;
	int r;

	filemap_invalidate_lock(attr_mapping(at));
	r = kvm_gmem_attrs_prepare(at->gi, &mas, start, end, private, GFP_KERNEL);
	if (r)
		goto unlock;

	if (store)
		kvm_gmem_attrs_store(at->gi, &mas, start, end, private);
	else
		kvm_gmem_attrs_cancel(&mas);
unlock:
	filemap_invalidate_unlock(attr_mapping(at));
	return r;
}

static void attr_change(struct attr_test *at, pgoff_t start, pgoff_t end,
			bool private)
{
	KUNIT_ASSERT_EQ(at->test, 0, attr_try(at, start, end, private, true));
	model_set(at, start, end, private);
}

/* Every second page of a range leaves the initial state, or returns to it. */
static void attr_alternate(struct attr_test *at, pgoff_t start, pgoff_t end,
			   bool private)
{
	pgoff_t index;

	for (index = start + 1; index < end; index += 2) {
		attr_change(at, index, index + 1, private);
		cond_resched();
	}
}

/* Short ranges are more frequent, and often begin where the state changes. */
static void attr_random_range(struct attr_test *at, pgoff_t *start, pgoff_t *end)
{
	unsigned int order = attr_random(at, ilog2(at->nr_pages) + 1);
	unsigned long nr;

	/* Long ones would leave little else. */
	if (order > PMD_ORDER && attr_random(at, 8))
		order = attr_random(at, 6);
	nr = 1 + attr_random(at, BIT(order));

	*start = attr_random(at, at->nr_pages);
	switch (attr_random(at, 4)) {
	case 0:
		*start = model_find(at, *start, at->nr_pages - 1,
				    !model_other(at, *start));
		break;
	case 1:
		*start = round_down(*start, PMD_PAGES);
		break;
	}
	*end = min(*start + nr, at->nr_pages);
	if (!attr_random(at, 4))
		*end = model_find(at, *end, at->nr_pages,
				  !model_other(at, *end - 1));
}

/* Changes of random ranges, of which every fourth is given up */
static void attr_random_changes(struct attr_test *at, unsigned int nr,
				unsigned int distance)
{
	struct kunit *test = at->test;
	unsigned int i;

	for (i = 1; i <= nr; i++) {
		bool private = attr_random(at, 2), store = attr_random(at, 4);
		pgoff_t start, end;

		attr_random_range(at, &start, &end);
		KUNIT_ASSERT_EQ(test, 0, attr_try(at, start, end, private, store));
		if (store)
			model_set(at, start, end, private);
		if (!check_change(at, start, end) ||
		    (i % distance == 0 && !check_tree(at)))
			KUNIT_FAIL_AND_ABORT(test, "after change %u, %s %lu to %lu %s",
					     i, store ? "making" : "not making",
					     start, end - 1,
					     private ? "private" : "shared");
		cond_resched();
	}
	KUNIT_ASSERT_TRUE(test, check_tree(at));
}

/*
 * Tests
 */

static void test_initial(struct kunit *test)
{
	struct attr_test *at = attr_begin(test, 4 * PUD_PAGES);
	const bool initial = model_initial(at);

	KUNIT_EXPECT_TRUE(test, check_tree(at));
	KUNIT_EXPECT_EQ(test, initial, kvm_gmem_is_private(at->gi, 0));
	KUNIT_EXPECT_EQ(test, initial, kvm_gmem_is_private(at->gi, ULONG_MAX));
	KUNIT_EXPECT_TRUE(test, check_page(at, 0));
	KUNIT_EXPECT_TRUE(test, check_page(at, 3 * PUD_PAGES - 1));
	KUNIT_EXPECT_TRUE(test, check_page(at, 3 * PUD_PAGES));
	KUNIT_EXPECT_TRUE(test, check_runs(at, 5, at->nr_pages, true, 2));
	KUNIT_EXPECT_TRUE(test, check_runs(at, 5, at->nr_pages, false, 2));

	/* To where they are, then to the other state and back */
	attr_change(at, 0, at->nr_pages, initial);
	KUNIT_EXPECT_TRUE(test, check_tree(at));
	attr_change(at, 0, at->nr_pages, !initial);
	KUNIT_EXPECT_TRUE(test, check_tree(at));
	KUNIT_EXPECT_EQ(test, PUD_ORDER,
			kvm_gmem_uniform_order(at->gi, 7, PUD_ORDER));
	attr_change(at, 5, 6, initial);
	KUNIT_EXPECT_TRUE(test, check_tree(at));
	attr_change(at, 0, at->nr_pages, initial);
	KUNIT_EXPECT_TRUE(test, check_tree(at));
}

/* The first page alone needs no node, and is a special case of the tree. */
static void test_first_page(struct kunit *test)
{
	struct attr_test *at = attr_begin(test, PUD_PAGES);
	const bool initial = model_initial(at);

	attr_change(at, 0, 1, !initial);
	KUNIT_EXPECT_TRUE(test, check_tree(at));
	KUNIT_EXPECT_TRUE(test, check_change(at, 0, 1));
	attr_change(at, 1, 2, !initial);
	KUNIT_EXPECT_TRUE(test, check_tree(at));
	KUNIT_EXPECT_TRUE(test, check_change(at, 0, 2));
	attr_change(at, 1, 2, initial);
	KUNIT_EXPECT_TRUE(test, check_tree(at));
	attr_change(at, 0, 1, initial);
	KUNIT_EXPECT_TRUE(test, check_tree(at));
}

/* A block is uniform if both its ends are in the range, and only then. */
static void test_uniform_order(struct kunit *test)
{
	struct attr_test *at = attr_begin(test, 4 * PUD_PAGES);
	const bool initial = model_initial(at);
	const pgoff_t start = PUD_PAGES, end = 2 * PUD_PAGES;
	struct gmem_inode *gi = at->gi;

	attr_change(at, start, end, !initial);
	KUNIT_EXPECT_EQ(test, PUD_ORDER, kvm_gmem_uniform_order(gi, start, PUD_ORDER));
	KUNIT_EXPECT_EQ(test, PUD_ORDER, kvm_gmem_uniform_order(gi, end - 1, PUD_ORDER));
	KUNIT_EXPECT_EQ(test, PUD_ORDER, kvm_gmem_uniform_order(gi, start - 1, PUD_ORDER));
	KUNIT_EXPECT_EQ(test, PUD_ORDER, kvm_gmem_uniform_order(gi, end, PUD_ORDER));
	KUNIT_EXPECT_EQ(test, PMD_ORDER, kvm_gmem_uniform_order(gi, start, PMD_ORDER));
	KUNIT_EXPECT_EQ(test, 4, kvm_gmem_uniform_order(gi, start, 4));
	KUNIT_EXPECT_EQ(test, 0, kvm_gmem_uniform_order(gi, start, 0));

	/* It lacks its first page, then only its last one. */
	attr_change(at, start, start + 1, initial);
	KUNIT_EXPECT_EQ(test, 0, kvm_gmem_uniform_order(gi, start, PUD_ORDER));
	KUNIT_EXPECT_EQ(test, 0, kvm_gmem_uniform_order(gi, start + 1, PUD_ORDER));
	KUNIT_EXPECT_EQ(test, 0, kvm_gmem_uniform_order(gi, start + 1, 4));
	KUNIT_EXPECT_EQ(test, PMD_ORDER,
			kvm_gmem_uniform_order(gi, start + PMD_PAGES, PUD_ORDER));
	KUNIT_EXPECT_EQ(test, PMD_ORDER, kvm_gmem_uniform_order(gi, end - 1, PUD_ORDER));
	attr_change(at, start, start + 1, !initial);
	attr_change(at, end - 1, end, initial);
	KUNIT_EXPECT_EQ(test, PMD_ORDER, kvm_gmem_uniform_order(gi, start, PUD_ORDER));
	KUNIT_EXPECT_EQ(test, 0, kvm_gmem_uniform_order(gi, end - 2, PUD_ORDER));
	KUNIT_EXPECT_EQ(test, 0, kvm_gmem_uniform_order(gi, end - 1, PMD_ORDER));
	KUNIT_EXPECT_EQ(test, PUD_ORDER, kvm_gmem_uniform_order(gi, end, PUD_ORDER));

	/* A block in the initial state ends at a page that is not. */
	attr_change(at, end, end + 1, !initial);
	KUNIT_EXPECT_EQ(test, 0, kvm_gmem_uniform_order(gi, end + 1, PUD_ORDER));
	KUNIT_EXPECT_EQ(test, PMD_ORDER,
			kvm_gmem_uniform_order(gi, end + PMD_PAGES, PUD_ORDER));
	KUNIT_EXPECT_TRUE(test, check_tree(at));
}

/* What becomes of both neighbours, each alone, and none */
static void test_neighbours(struct kunit *test)
{
	struct attr_test *at = attr_begin(test, 64);
	unsigned int before, behind, i;

	for (i = 0; i < 32; i++) {
		const bool private = i & 1;

		before = i >> 1 & 3;
		behind = i >> 3 & 3;
		attr_change(at, 0, 64, i & 2);
		attr_change(at, 10, 20, before & 1 ? private : !private);
		attr_change(at, 30, 40, behind & 1 ? private : !private);
		attr_change(at, 20, 30, !private);
		KUNIT_ASSERT_TRUE(test, check_tree(at));
		attr_change(at, 20, 30, private);
		KUNIT_ASSERT_TRUE(test, check_tree(at));
		attr_change(at, 15, 35, private);
		KUNIT_ASSERT_TRUE(test, check_tree(at));
		attr_change(at, 20, 30, !private);
		KUNIT_ASSERT_TRUE(test, check_tree(at));
		attr_change(at, 19, 31, private);
		KUNIT_ASSERT_TRUE(test, check_tree(at));
	}
}

/* A file of few pages, each of which is looked at after each change */
static void test_random_few(struct kunit *test)
{
	struct attr_test *at = attr_begin(test, 40);
	unsigned int i;
	pgoff_t index;

	for (i = 0; i < 200; i++) {
		attr_random_changes(at, 25, 1);
		for (index = 0; index < at->nr_pages; index++)
			KUNIT_ASSERT_TRUE(test, check_page(at, index));
	}
}

static void test_random(struct kunit *test)
{
	attr_random_changes(attr_begin(test, 2 * PUD_PAGES), 20000, 1000);
}

/* The most entries that 1 GiB can have, made in order, and what random does */
static void test_alternating(struct kunit *test)
{
	struct attr_test *at = attr_begin(test, NR_ALTERNATING);
	const bool initial = model_initial(at);

	attr_alternate(at, 0, at->nr_pages, !initial);
	KUNIT_EXPECT_EQ(test, NR_ALTERNATING / 2, at->gi->nr_other);
	KUNIT_ASSERT_TRUE(test, check_tree(at));
	KUNIT_EXPECT_TRUE(test, check_runs(at, 0, at->nr_pages, true, UINT_MAX));
	KUNIT_EXPECT_TRUE(test, check_runs(at, 0, at->nr_pages, false, UINT_MAX));
	attr_random_changes(at, 5000, 1000);

	attr_change(at, 0, at->nr_pages, !initial);
	KUNIT_ASSERT_TRUE(test, check_tree(at));
	attr_alternate(at, 0, at->nr_pages, initial);
	KUNIT_EXPECT_EQ(test, NR_ALTERNATING / 2, at->gi->nr_other);
	KUNIT_ASSERT_TRUE(test, check_tree(at));
	attr_alternate(at, 0, at->nr_pages, !initial);
	KUNIT_ASSERT_TRUE(test, check_tree(at));
	attr_change(at, 0, at->nr_pages, initial);
	KUNIT_ASSERT_TRUE(test, check_tree(at));
}

/*
 * Convert a range as the ioctls do: without what is in the wanted state at its
 * ends, and in chunks that are stored one by one.
 */
static void attr_convert(struct attr_test *at, pgoff_t start, pgoff_t end,
			 bool private, unsigned int chunk_order)
{
	bool other = private == model_initial(at), right = true;
	const pgoff_t old_end = end;
	pgoff_t index, next, first = model_find(at, start, end, other);
	struct gmem_inode *gi = at->gi;
	int r = 0;

	filemap_invalidate_lock(attr_mapping(at));
	if (!kvm_gmem_trim(gi, &start, &end, private)) {
		right = first == end;
		goto unlock;
	}
	/* The range begins and ends with a page that changes, and no other does. */
	right = start == first && model_other(at, end - 1) == other &&
		model_find(at, end, old_end, other) == old_end;

	for (index = start; index < end && right; index = next) {
		gfp_t gfp = GFP_KERNEL | (index == start ? 0 : __GFP_NOFAIL);
		struct ma_state mas;

		next = min(round_down(index, BIT(chunk_order)) + BIT(chunk_order), end);
		r = kvm_gmem_attrs_prepare(gi, &mas, index, next, private, gfp);
		if (r)
			break;
		kvm_gmem_attrs_store(gi, &mas, index, next, private);
		model_set(at, index, next, private);

		filemap_invalidate_unlock(attr_mapping(at));
		right = check_tree(at) && check_change(at, index, next);
		filemap_invalidate_lock(attr_mapping(at));
	}
unlock:
	filemap_invalidate_unlock(attr_mapping(at));
	KUNIT_ASSERT_EQ(at->test, 0, r);
	KUNIT_ASSERT_TRUE(at->test, right);
}

/* Chunks of 1 GiB: all of one state, alternating pages, and long runs */
static void test_chunks(struct kunit *test)
{
	struct attr_test *at = attr_begin(test, 4 * PUD_PAGES);
	const bool initial = model_initial(at);
	unsigned int i;

	attr_convert(at, 1, at->nr_pages - 1, !initial, PUD_ORDER);
	attr_convert(at, 0, at->nr_pages, initial, PUD_ORDER);
	for (i = 0; i < 2; i++) {
		const bool private = i ? initial : !initial;

		attr_alternate(at, PUD_PAGES - 3000, PUD_PAGES + 3000, !private);
		attr_alternate(at, PUD_PAGES - 3000, PUD_PAGES + 3001, private);
		attr_change(at, 2 * PUD_PAGES - 1, 2 * PUD_PAGES, private);
		attr_change(at, 3 * PUD_PAGES, 3 * PUD_PAGES + 10, private);
		attr_convert(at, 300, at->nr_pages - 300, private, PUD_ORDER);
	}
}

/* Small chunks over random contents */
static void test_chunks_random(struct kunit *test)
{
	struct attr_test *at = attr_begin(test, 32 * PMD_PAGES);
	unsigned int i;

	for (i = 0; i < 40; i++) {
		pgoff_t start = attr_random(at, at->nr_pages / 4);
		pgoff_t end = at->nr_pages - attr_random(at, at->nr_pages / 4);

		attr_random_changes(at, 100, 100);
		attr_convert(at, start, end, attr_random(at, 2), PMD_ORDER);
	}
}

/*
 * Large trees are freed by callbacks of RCU, a subtree each.
 */

static long nr_slab_pages(void)
{
	rcu_barrier();
	return global_node_page_state_pages(NR_SLAB_UNRECLAIMABLE_B);
}

/*
 * Pages with odd numbers leave the initial state until the tree has that height.
 * Their order leaves fewer entries in a node than ascending numbers would.
 */
static void attr_grow(struct attr_test *at, unsigned int height)
{
	const unsigned long nr = at->nr_pages / 2;
	unsigned long i;

	for (i = 0; i < nr && mt_height(&at->gi->attrs) < height; i++) {
		pgoff_t index = 1 + 2 * (i * GOLDEN_RATIO_32 % nr);

		attr_change(at, index, index + 1, !model_initial(at));
		cond_resched();
	}
	KUNIT_ASSERT_EQ(at->test, height, mt_height(&at->gi->attrs));
}

static void test_freed(struct kunit *test, bool destroy)
{
	struct attr_test *at = attr_begin(test, 2 * PUD_PAGES);
	long before, with, after;
	unsigned int height;

	for (height = 4; height <= MAX_HEIGHT; height++) {
		before = nr_slab_pages();
		attr_grow(at, height);
		with = nr_slab_pages();

		if (destroy) {
			kvm_gmem_attrs_destroy(at->gi);
			model_set(at, 0, at->nr_pages, model_initial(at));
		} else {
			attr_change(at, 0, at->nr_pages, model_initial(at));
		}
		after = nr_slab_pages();
		KUNIT_ASSERT_TRUE(test, check_tree(at));
		KUNIT_ASSERT_TRUE(test, check_page(at, 1));
		kunit_info(test, "height %u: %ld pages of slabs, %ld freed\n",
			   height, with - before, with - after);

		/* The quarantine of KASAN keeps what was freed. */
		if (height == 6 && !IS_ENABLED(CONFIG_KASAN_GENERIC))
			KUNIT_EXPECT_GT(test, with - after, (with - before) / 2);
	}
}

static void test_destroyed(struct kunit *test)
{
	test_freed(test, true);
}

static void test_stored_over(struct kunit *test)
{
	test_freed(test, false);
}

/* Nothing is kept of what is given up, be it one node or as many as a sheaf has. */
static void test_cancelled(struct kunit *test)
{
	struct attr_test *at = attr_begin(test, 2 * PMD_PAGES);
	const bool other = !model_initial(at);
	const unsigned int nr = 20000;
	long before, after;
	unsigned int i;

	attr_alternate(at, 0, at->nr_pages, other);
	before = nr_slab_pages();
	for (i = 0; i < nr; i++) {
		/* Within a node, and over many of them */
		KUNIT_ASSERT_EQ(test, 0, attr_try(at, 10, 11, other, false));
		KUNIT_ASSERT_EQ(test, 0, attr_try(at, 10, 500, other, false));
		cond_resched();
	}
	after = nr_slab_pages();
	KUNIT_ASSERT_TRUE(test, check_tree(at));
	kunit_info(test, "%u changes were given up, %ld pages of slabs more\n",
		   2 * nr, after - before);

	/* A maple node is 256 bytes.  The quarantine of KASAN keeps some. */
	if (!IS_ENABLED(CONFIG_KASAN_GENERIC))
		KUNIT_EXPECT_LT(test, after - before, nr / 16 / 2);
}

/*
 * Walks beside a writer
 */

/* The writer leaves the odd ones alone, but ranges that it changes go on there. */
#define NR_BLOCKS	32

/*
 * What KVM does around a change.  The range of an invalidation is rounded out to
 * blocks of the order that is the most that a fault asks for.
 */
struct invalidation {
	spinlock_t lock;	/* stands for mmu_lock */
	unsigned long seq;
	bool in_progress;
	pgoff_t start, end;
};

struct walker {
	struct attr_test *at;
	struct invalidation *inv;
	unsigned int order;
	struct rnd_state rnd;
	struct task_struct *task;

	unsigned long accepted, beside, dropped, wrong;
	pgoff_t index;			/* the first that was wrong, and how */
	unsigned int got, want;
};

static void walker_compare(struct walker *w, pgoff_t index, unsigned int order,
			   bool private)
{
	unsigned int want = model_order(w->at, index, w->order);

	w->accepted++;
	if (order == want && private == model_private(w->at, index))
		return;

	if (!w->wrong++) {
		w->index = index;
		w->got = order;
		w->want = want;
	}
}

/* A fault: what it has found is good if mmu_lock shows no invalidation of it. */
static int walker_fault(void *arg)
{
	struct walker *w = arg;
	struct invalidation *inv = w->inv;

	while (!kthread_should_stop()) {
		pgoff_t index = prandom_u32_state(&w->rnd) % w->at->nr_pages;
		unsigned long seq = READ_ONCE(inv->seq);
		unsigned int order;
		bool private;

		smp_rmb();	/* as in kvm_mmu_faultin_pfn() */
		order = kvm_gmem_uniform_order(w->at->gi, index, w->order);
		private = kvm_gmem_is_private(w->at->gi, index);

		spin_lock(&inv->lock);
		if (seq != inv->seq || (inv->in_progress && index >= inv->start &&
					index < inv->end)) {
			w->dropped++;
		} else {
			w->beside += inv->in_progress;
			walker_compare(w, index, order, private);
		}
		spin_unlock(&inv->lock);
		cond_resched();
	}
	return 0;
}

/* What does not change is read right, whatever else does. */
static int walker_constant(void *arg)
{
	struct walker *w = arg;

	while (!kthread_should_stop()) {
		pgoff_t index = prandom_u32_state(&w->rnd) % w->at->nr_pages;
		unsigned int order;
		bool private;

		index |= BIT(w->order);
		order = kvm_gmem_uniform_order(w->at->gi, index, w->order);
		private = kvm_gmem_is_private(w->at->gi, index);
		walker_compare(w, index, order, private);
		cond_resched();
	}
	return 0;
}

/* A change within a block: of all of it, of an end, or of something amid */
static int writer_change(struct attr_test *at, struct invalidation *inv,
			 unsigned int order)
{
	pgoff_t first = attr_random(at, NR_BLOCKS / 2) << (order + 1);
	pgoff_t start = first, end = first + BIT(order);
	bool private = attr_random(at, 2);
	struct ma_state mas;
	int r;

	switch (attr_random(at, 4)) {
	case 0:
		break;
	case 1:
		start += attr_random(at, BIT(order));
		break;
	case 2:
		end -= attr_random(at, BIT(order));
		break;
	default:
		start += attr_random(at, BIT(order));
		end = start + 1 + attr_random(at, end - start);
		break;
	}

	filemap_invalidate_lock(attr_mapping(at));
	r = kvm_gmem_attrs_prepare(at->gi, &mas, start, end, private, GFP_KERNEL);
	if (r)
		goto unlock;

	spin_lock(&inv->lock);
	inv->in_progress = true;
	inv->start = first;
	inv->end = first + BIT(order);
	spin_unlock(&inv->lock);

	kvm_gmem_attrs_store(at->gi, &mas, start, end, private);

	spin_lock(&inv->lock);
	model_set(at, start, end, private);
	WRITE_ONCE(inv->seq, inv->seq + 1);
	inv->in_progress = false;
	spin_unlock(&inv->lock);
unlock:
	filemap_invalidate_unlock(attr_mapping(at));
	return r;
}

static void walk_beside_writer(struct kunit *test, unsigned int order)
{
	struct attr_test *at = attr_begin(test, NR_BLOCKS << order);
	struct invalidation inv = {};
	struct walker walkers[2] = {};
	unsigned long until, changes = 0;
	unsigned int i;
	int r = 0;

	spin_lock_init(&inv.lock);
	/* Constant blocks of one state, and with a page in the other state */
	for (i = 1; i < NR_BLOCKS; i += 2) {
		pgoff_t start = (pgoff_t)i << order;

		attr_change(at, start, start + BIT(order), i & 2);
		if (i % 8 == 7)
			attr_change(at, start + 7, start + 8, !(i & 2));
	}

	for (i = 0; i < ARRAY_SIZE(walkers); i++) {
		struct walker *w = &walkers[i];

		w->at = at;
		w->inv = &inv;
		w->order = order;
		prandom_seed_state(&w->rnd, 2 + i);
		w->task = kthread_run(i ? walker_constant : walker_fault, w,
				      "gmem_walker/%u", i);
		KUNIT_EXPECT_NOT_ERR_OR_NULL(test, w->task);
		if (IS_ERR(w->task))
			goto stop;
	}

	until = jiffies + 2 * HZ;
	do {
		r = writer_change(at, &inv, order);
		changes++;
		cond_resched();
	} while (!r && time_before(jiffies, until));
stop:
	while (i--)
		kthread_stop(walkers[i].task);
	KUNIT_ASSERT_EQ(test, 0, r);
	KUNIT_EXPECT_TRUE(test, check_tree(at));

	kunit_info(test, "%lu changes; %lu faults, %lu beside a change, %lu tried again; %lu walks\n",
		   changes, walkers[0].accepted, walkers[0].beside,
		   walkers[0].dropped, walkers[1].accepted);
	for (i = 0; i < ARRAY_SIZE(walkers); i++) {
		KUNIT_EXPECT_EQ_MSG(test, 0, walkers[i].wrong,
				    "walker %u, page %lu: uniform order %u, not %u, or its state",
				    i, walkers[i].index, walkers[i].got,
				    walkers[i].want);
		KUNIT_EXPECT_GT(test, walkers[i].accepted, 1000);
	}
	KUNIT_EXPECT_GT(test, changes, 1000);
	if (num_online_cpus() > 1)
		KUNIT_EXPECT_GT(test, walkers[0].beside, 0);
}

static void test_walk_64(struct kunit *test)
{
	walk_beside_writer(test, 6);
}

static void test_walk_pmd(struct kunit *test)
{
	walk_beside_writer(test, PMD_ORDER);
}

static void test_walk_pud(struct kunit *test)
{
	walk_beside_writer(test, PUD_ORDER);
}

#ifdef CONFIG_FAILSLAB
static int fail_one(struct attr_test *at, pgoff_t start, pgoff_t end,
		    bool private, unsigned int n, unsigned int *left)
{
	int r;

	current->fail_nth = n;
	r = attr_try(at, start, end, private, false);
	*left = current->fail_nth;
	current->fail_nth = 0;
	return r;
}

/*
 * Fail the first allocation, the second and so on, until there is none that could
 * fail, then make the change.  Returns how many made it fail.
 */
static unsigned int fail_each(struct attr_test *at, pgoff_t start, pgoff_t end,
			      bool private)
{
	struct kunit *test = at->test;
	unsigned int n, left, failed = 0;
	int r;

	for (n = 1; ; n++) {
		r = fail_one(at, start, end, private, n, &left);
		if (left)
			break;
		/* The slab allocator has another way for some. */
		if (r)
			failed++;
		if (r && r != -ENOMEM)
			break;
		KUNIT_ASSERT_TRUE(test, check_change(at, start, end));
	}
	KUNIT_ASSERT_EQ(test, 0, r);
	KUNIT_ASSERT_TRUE(test, check_tree(at));
	attr_change(at, start, end, private);
	KUNIT_ASSERT_TRUE(test, check_tree(at));
	return failed;
}
#endif

/* Each allocation of a preparation is made to fail in turn. */
static void test_fail_nth(struct kunit *test)
{
#ifdef CONFIG_FAILSLAB
	struct attr_test *at = attr_begin(test, 16 * PMD_PAGES);
	const bool initial = model_initial(at);
	unsigned int i, left, failed = 0;

	fail_one(at, 5, 6, !initial, 1, &left);
	if (left)
		kunit_skip(test, "see ignore-gfp-wait of failslab");

	/* One node in place of none, and in place of one */
	KUNIT_EXPECT_GE(test, fail_each(at, 5, 6, !initial), 1);
	KUNIT_EXPECT_GE(test, fail_each(at, 7, 8, !initial), 1);

	attr_alternate(at, 0, at->nr_pages / 2, !initial);
	for (i = 0; i < 500; i++) {
		pgoff_t start, end;

		attr_random_range(at, &start, &end);
		failed += fail_each(at, start, end, attr_random(at, 2));
		cond_resched();
	}
	KUNIT_EXPECT_GT(test, failed, 100);
	kunit_info(test, "%u allocations made %u changes fail\n", failed, i);
#else
	kunit_skip(test, "no fault injection");
#endif
}

/* These take more than a second on a machine that is not slow. */
static const struct kunit_attributes attr_slow = { .speed = KUNIT_SPEED_SLOW };

static struct kunit_case guest_memfd_attr_cases[] = {
	KUNIT_CASE_PARAM(test_initial, attr_gen_params),
	KUNIT_CASE_PARAM(test_first_page, attr_gen_params),
	KUNIT_CASE_PARAM(test_uniform_order, attr_gen_params),
	KUNIT_CASE_PARAM(test_neighbours, attr_gen_params),
	KUNIT_CASE_PARAM(test_random_few, attr_gen_params),
	KUNIT_CASE_PARAM_ATTR(test_random, attr_gen_params, attr_slow),
	KUNIT_CASE_PARAM_ATTR(test_alternating, attr_gen_params, attr_slow),
	KUNIT_CASE_PARAM(test_chunks, attr_gen_params),
	KUNIT_CASE_PARAM_ATTR(test_chunks_random, attr_gen_params, attr_slow),
	KUNIT_CASE_PARAM_ATTR(test_destroyed, attr_gen_params, attr_slow),
	KUNIT_CASE_PARAM_ATTR(test_stored_over, attr_gen_params, attr_slow),
	KUNIT_CASE_PARAM_ATTR(test_cancelled, attr_gen_params, attr_slow),
	KUNIT_CASE_PARAM_ATTR(test_walk_64, attr_gen_params, attr_slow),
	KUNIT_CASE_PARAM_ATTR(test_walk_pmd, attr_gen_params, attr_slow),
	KUNIT_CASE_PARAM_ATTR(test_walk_pud, attr_gen_params, attr_slow),
	KUNIT_CASE_PARAM(test_fail_nth, attr_gen_params),
	{}
};

static struct kunit_suite guest_memfd_attr_suite = {
	.name = "guest_memfd_attr",
	.test_cases = guest_memfd_attr_cases,
};

kunit_test_suite(guest_memfd_attr_suite);

MODULE_DESCRIPTION("Tests of the attributes of guest_memfd files");
MODULE_LICENSE("GPL");
