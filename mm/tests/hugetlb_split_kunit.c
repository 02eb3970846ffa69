// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of lending HugeTLB pages, of splitting and of merging them.
 *
 * Each test borrows one page of a pool, which must have a free one, and is run for
 * pages of PMD_ORDER and PUD_ORDER, in a page cache and in none.  What the page
 * should look like is kept in a model, and all of its struct pages are compared
 * with that.  HVO is as the kernel was booted.
 *
 * In a page cache the page is alone, at index 0, where the tree has as few levels
 * as can be and may lose some; or further up, with a page behind it.
 */
#include <kunit/test.h>
#include <linux/anon_inodes.h>
#include <linux/delay.h>
#include <linux/file.h>
#include <linux/folio_batch.h>
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/hugetlb_alloc.h>
#include <linux/hugetlb_lend.h>
#include <linux/irq_work.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/prandom.h>
#include <linux/random.h>
#include <linux/sched.h>
#include <linux/timer.h>

static unsigned int rounds = 300;
module_param(rounds, uint, 0444);
MODULE_PARM_DESC(rounds, "steps of the random walk");

static unsigned long seed;
module_param(seed, ulong, 0444);
MODULE_PARM_DESC(seed, "of the random walk; 0 to choose one");

#define PIECE		BIT(PMD_ORDER)
#define MAX_PIECES	BIT(PUD_ORDER - PMD_ORDER)

/* How far apart are the pages whose contents are looked at; they drift. */
#define MARK_DISTANCE	(PIECE / 4 - 1)

/* How long to wait for what is bound to happen */
#define PATIENCE	(30 * HZ)

/* What a folio may have set besides what it must have */
#define ALLOWED_FLAGS	BIT(PG_uptodate)

struct lend_param {
	unsigned int order;
	bool cached;
	unsigned int nr_before;		/* such pages that fit in before it */
};

static const struct lend_param lend_params[] = {
	{ PMD_ORDER, false }, { PMD_ORDER, true },
	{ PUD_ORDER, false }, { PUD_ORDER, true },
};

static const struct lend_param lend_place_params[] = {
	{ PMD_ORDER, false }, { PMD_ORDER, true }, { PMD_ORDER, true, 5 },
	{ PUD_ORDER, false }, { PUD_ORDER, true }, { PUD_ORDER, true, 5 },
};

static const struct lend_param lend_bare_params[] = {
	{ PMD_ORDER, false }, { PUD_ORDER, false },
};

static const struct lend_param lend_cached_params[] = {
	{ PMD_ORDER, true }, { PUD_ORDER, true },
};

static void lend_param_desc(const struct lend_param *param, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "%lu MiB, %s%s",
		 PAGE_SIZE << param->order >> 20,
		 param->cached ? "in a page cache" : "in no page cache",
		 param->nr_before ? " with others" : "");
}

KUNIT_ARRAY_PARAM(lend, lend_params, lend_param_desc);
KUNIT_ARRAY_PARAM(lend_place, lend_place_params, lend_param_desc);
KUNIT_ARRAY_PARAM(lend_bare, lend_bare_params, lend_param_desc);
KUNIT_ARRAY_PARAM(lend_cached, lend_cached_params, lend_param_desc);

/* A borrowed page, and what it should be */
struct lend_test {
	struct kunit *test;
	unsigned int order;
	unsigned long nr_pages;
	unsigned long nr_pieces;
	struct hugetlb_reservation *resv;
	struct page *page;		/* NULL when it was given back */
	void *loan;
	struct file *file;
	struct address_space *mapping;
	pgoff_t index;
	unsigned long nr_vmemmap;	/* of the whole page */

	struct hugetlb_reservation *beside_resv;
	struct folio *beside;		/* the folio behind the page, or NULL */

	bool whole;
	bool small[MAX_PIECES];
};

static const struct file_operations lend_fops = {};

static const struct address_space_operations lend_aops = {
	.dirty_folio	= noop_dirty_folio,
	.free_folio	= hugetlb_lent_hide,
};

/* How many pages the struct pages take up */
static unsigned long nr_vmemmap(struct lend_test *lt)
{
	struct hugetlb_loan_stats stats;

	hugetlb_loan_stats(page_folio(lt->page), &stats);
	return stats.nr_vmemmap;
}

/* A test has failed half-way: make what there is available to others. */
static void lend_cleanup(void *data)
{
	struct lend_test *lt = data;
	unsigned long off, nr;

	if (IS_ERR_OR_NULL(lt->resv))
		return;

	if (lt->mapping)
		truncate_inode_pages(lt->mapping, 0);
	for (off = 0; lt->page && !lt->mapping && off < lt->nr_pages; off += nr) {
		nr = folio_nr_pages(page_folio(lt->page + off));
		if (page_ref_count(lt->page + off))
			put_page(lt->page + off);
	}
	hugetlb_unreserve(lt->resv);
	if (!IS_ERR_OR_NULL(lt->beside_resv))
		hugetlb_unreserve(lt->beside_resv);
	if (!IS_ERR_OR_NULL(lt->file))
		__fput_sync(lt->file);
}

static void lend_write(struct lend_test *lt)
{
	unsigned long off;

	for (off = 0; off < lt->nr_pages; off += MARK_DISTANCE) {
		unsigned long *p = kmap_local_page(lt->page + off);

		*p = off ^ 0x5a5a;
		kunmap_local(p);
	}
}

/* A page behind the other, if there is one to be had */
static void lend_add_beside(struct lend_test *lt)
{
	struct folio *folio;

	lt->beside_resv = hugetlb_reserve(PMD_ORDER, 1);
	if (IS_ERR(lt->beside_resv)) {
		kunit_info(lt->test, "no second page to have beside\n");
		return;
	}
	folio = hugetlb_alloc_reserved(lt->beside_resv, NULL, 0);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(lt->test, folio);
	__folio_mark_uptodate(folio);
	KUNIT_ASSERT_EQ(lt->test, 0,
			filemap_add_folio(lt->mapping, folio,
					  lt->index + lt->nr_pages, GFP_KERNEL));
	folio_unlock(folio);
	folio_put(folio);
	lt->beside = folio;
}

static void lend_make_file(struct lend_test *lt)
{
	struct address_space *mapping;

	lt->file = anon_inode_create_getfile("[hugetlb_split_kunit]", &lend_fops,
					     NULL, O_RDWR, NULL);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(lt->test, lt->file);
	mapping = lt->file->f_mapping;
	mapping->a_ops = &lend_aops;
	mapping_set_unevictable(mapping);
	mapping_set_large_folios(mapping);
	mapping_set_preaccounted(mapping);
	mapping_set_gfp_mask(mapping, GFP_HIGHUSER);
	lt->mapping = mapping;
}

static struct lend_test *lend_borrow(struct kunit *test)
{
	const struct lend_param *param = test->param_value;
	struct lend_test *lt;
	struct folio *folio;

	lt = kunit_kzalloc(test, sizeof(*lt), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, lt);
	lt->test = test;
	lt->order = param->order;
	lt->nr_pages = 1UL << param->order;
	lt->nr_pieces = lt->nr_pages >> PMD_ORDER;
	lt->whole = true;
	KUNIT_ASSERT_EQ(test, 0, kunit_add_action(test, lend_cleanup, lt));

	lt->resv = hugetlb_reserve(param->order, 1);
	if (IS_ERR(lt->resv))
		kunit_skip(test, "no free page of this size: error %ld",
			   PTR_ERR(lt->resv));

	folio = hugetlb_alloc_reserved(lt->resv, NULL, 0);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, folio);
	KUNIT_ASSERT_TRUE(test, folio_test_lent(folio));
	lt->page = &folio->page;
	lt->loan = folio->private;
	lt->nr_vmemmap = nr_vmemmap(lt);
	__folio_mark_uptodate(folio);
	lend_write(lt);

	if (!param->cached)
		return lt;

	lend_make_file(lt);
	lt->index = param->nr_before << lt->order;
	KUNIT_ASSERT_EQ(test, 0, filemap_add_folio(lt->mapping, folio, lt->index,
						   GFP_KERNEL));
	folio_unlock(folio);
	folio_put(folio);
	if (param->nr_before)
		lend_add_beside(lt);
	return lt;
}

static unsigned int lend_order_at(struct lend_test *lt, unsigned long off)
{
	if (lt->whole)
		return lt->order;
	return lt->small[off >> PMD_ORDER] ? 0 : PMD_ORDER;
}

/* Put what the test has.  The page is not home yet. */
static void lend_put_all(struct lend_test *lt)
{
	unsigned long off, nr;

	/* As eviction does, which need not take the invalidate lock */
	if (lt->mapping)
		truncate_inode_pages(lt->mapping, 0);
	else
		for (off = 0; off < lt->nr_pages; off += nr) {
			nr = 1UL << lend_order_at(lt, off);
			put_page(lt->page + off);
		}
	lt->page = NULL;
}

static void lend_expect_home(struct lend_test *lt)
{
	unsigned long reserved, allocated;

	hugetlb_reservation_stats(lt->resv, &reserved, &allocated);
	KUNIT_EXPECT_EQ(lt->test, 1, reserved);
	KUNIT_EXPECT_EQ(lt->test, 0, allocated);
	if (!lt->beside)
		return;

	hugetlb_reservation_stats(lt->beside_resv, &reserved, &allocated);
	KUNIT_EXPECT_EQ(lt->test, 1, reserved);
	KUNIT_EXPECT_EQ(lt->test, 0, allocated);
}

static void lend_return(struct lend_test *lt)
{
	if (lt->page)
		lend_put_all(lt);
	hugetlb_loan_flush();
	lend_expect_home(lt);
	kunit_release_action(lt->test, lend_cleanup, lt);
}

/*
 * The checks.  They are for some 262,144 struct pages at a time, so that only the
 * first mismatch is told.
 */

#define lend_mismatch(lt, off, fmt, ...)				\
	KUNIT_FAIL((lt)->test, "page %lu: " fmt, off, ##__VA_ARGS__)

static bool check_head(struct lend_test *lt, unsigned long off,
		       unsigned int order, const struct page *held)
{
	struct page *page = lt->page + off;
	struct folio *folio = page_folio(page);
	unsigned long flags, nr = 1UL << order;
	int i, refs = lt->mapping ? nr : 1;
	pgoff_t index;

	if (&folio->page != page || PageTail(page)) {
		lend_mismatch(lt, off, "is no head");
		return false;
	}
	if (folio_order(folio) != order || folio_test_large(folio) != !!order) {
		lend_mismatch(lt, off, "order %u, not %u", folio_order(folio), order);
		return false;
	}
	if (!folio_test_lent(folio)) {
		lend_mismatch(lt, off, "type %x", page->page_type);
		return false;
	}
	if (page == held)
		refs++;
	/* The delayed work has a look whether it can do anything. */
	for (i = 0; !off && folio_ref_count(folio) == refs + 1 && i < 100; i++)
		msleep(20);
	if (folio_ref_count(folio) != refs) {
		lend_mismatch(lt, off, "%d references, not %d",
			      folio_ref_count(folio), refs);
		return false;
	}
	if (order && (folio_mapcount(folio) || atomic_read(&folio->_pincount) ||
		      folio_nr_pages(folio) != nr)) {
		lend_mismatch(lt, off, "mapcount %d, pincount %d, %lu pages",
			      folio_mapcount(folio),
			      atomic_read(&folio->_pincount),
			      folio_nr_pages(folio));
		return false;
	}
	if (order && !list_empty(&folio->_deferred_list)) {
		lend_mismatch(lt, off, "no empty list");
		return false;
	}
	flags = page->flags.f & PAGEFLAGS_MASK & ~ALLOWED_FLAGS;
	if (order)
		flags ^= BIT(PG_head);
	if (flags || !folio_test_uptodate(folio)) {
		lend_mismatch(lt, off, "flags %pGp", &page->flags.f);
		return false;
	}
	if (folio->private != lt->loan) {
		lend_mismatch(lt, off, "of another loan");
		return false;
	}
#ifdef CONFIG_MEMCG
	if (folio->memcg_data) {
		lend_mismatch(lt, off, "memcg_data %lx", folio->memcg_data);
		return false;
	}
#endif
	if (folio->mapping != lt->mapping) {
		lend_mismatch(lt, off, "mapping %p", folio->mapping);
		return false;
	}
	if (!lt->mapping)
		return true;

	index = lt->index + off;
	if (folio->index != index ||
	    xa_load(&lt->mapping->i_pages, index) != folio ||
	    xa_load(&lt->mapping->i_pages, index + nr / 2) != folio ||
	    xa_load(&lt->mapping->i_pages, index + nr - 1) != folio ||
	    xa_get_order(&lt->mapping->i_pages, index) != order) {
		lend_mismatch(lt, off, "index %lu, entry of order %d", folio->index,
			      xa_get_order(&lt->mapping->i_pages, index));
		return false;
	}
	return true;
}

static bool check_tail(struct lend_test *lt, unsigned long off,
		       unsigned long head)
{
	struct page *page = lt->page + off;
	unsigned long flags = page->flags.f & PAGEFLAGS_MASK;

	/* The first tail has the order in place of some flags. */
	if (off == head + 1)
		flags &= ~0xffUL;

	if (!PageTail(page) || compound_head(page) != lt->page + head) {
		lend_mismatch(lt, off, "no tail of page %lu", head);
		return false;
	}
	if (page_ref_count(page) || page->page_type != UINT_MAX || flags) {
		lend_mismatch(lt, off, "tail with %d references, type %x, flags %pGp",
			      page_ref_count(page), page->page_type,
			      &page->flags.f);
		return false;
	}
	if (page->private || (off > head + 3 && page->mapping != TAIL_MAPPING)) {
		lend_mismatch(lt, off, "tail with private %lx, mapping %p",
			      page->private, page->mapping);
		return false;
	}
	return true;
}

static bool __lend_check(struct lend_test *lt, const struct page *held)
{
	struct hugetlb_loan_stats stats, model = { .order = lt->order };
	const int nid = page_to_nid(lt->page);
	const enum zone_type zone = page_zonenum(lt->page);
	unsigned long off, head = 0, end = 0;

	for (off = 0; off < lt->nr_pages; off++) {
		if (off == end) {
			unsigned int order = lend_order_at(lt, off);

			head = off;
			end = off + (1UL << order);
			model.nr_folios++;
			model.nr_small += !order;
			if (!check_head(lt, off, order, held))
				return false;
		} else if (!check_tail(lt, off, head)) {
			return false;
		}
		if (page_to_nid(lt->page + off) != nid ||
		    page_zonenum(lt->page + off) != zone) {
			lend_mismatch(lt, off, "node or zone");
			return false;
		}
		if (IS_ALIGNED(off, PIECE))
			cond_resched();
	}

	if (lt->mapping &&
	    lt->mapping->nrpages != lt->nr_pages + (lt->beside ? PIECE : 0)) {
		lend_mismatch(lt, 0UL, "%lu pages in the mapping",
			      lt->mapping->nrpages);
		return false;
	}
	if (lt->beside) {
		pgoff_t index = lt->index + lt->nr_pages;

		if (xa_load(&lt->mapping->i_pages, index) != lt->beside ||
		    xa_get_order(&lt->mapping->i_pages, index) != PMD_ORDER ||
		    folio_ref_count(lt->beside) != PIECE) {
			lend_mismatch(lt, lt->nr_pages, "is not what it was");
			return false;
		}
	}

	for (off = 0; off < lt->nr_pages; off += MARK_DISTANCE) {
		unsigned long *p = kmap_local_page(lt->page + off);
		unsigned long val = *p;

		kunmap_local(p);
		if (val != (off ^ 0x5a5a)) {
			lend_mismatch(lt, off, "contents lost");
			return false;
		}
	}

	hugetlb_loan_stats(page_folio(lt->page), &stats);
	KUNIT_EXPECT_EQ(lt->test, stats.order, model.order);
	KUNIT_EXPECT_EQ(lt->test, stats.nr_folios, model.nr_folios);
	KUNIT_EXPECT_EQ(lt->test, stats.nr_small, model.nr_small);
	KUNIT_EXPECT_EQ(lt->test, stats.nr_back, 0);
	return true;
}

/*
 * @held is the first page of the folio that has another reference.  What is merged
 * in a while waits meanwhile.
 */
static bool lend_check_held(struct lend_test *lt, const struct page *held)
{
	bool ok;

	if (lt->mapping)
		filemap_invalidate_lock_shared(lt->mapping);
	ok = __lend_check(lt, held);
	if (lt->mapping)
		filemap_invalidate_unlock_shared(lt->mapping);
	return ok;
}

static bool lend_check(struct lend_test *lt)
{
	return lend_check_held(lt, NULL);
}

/* The operations, on the page and on the model */

static struct folio *lend_lock(struct lend_test *lt, unsigned long off)
{
	struct folio *folio;

	if (lt->mapping)
		filemap_invalidate_lock(lt->mapping);
	folio = page_folio(lt->page + off);
	if (lt->mapping)
		folio_get(folio);
	folio_lock(folio);
	return folio;
}

static void lend_unlock(struct lend_test *lt, struct folio *folio)
{
	folio_unlock(folio);
	if (lt->mapping) {
		folio_put(folio);
		filemap_invalidate_unlock(lt->mapping);
	}
}

static void lend_model_split(struct lend_test *lt, unsigned long first,
			     unsigned long nr)
{
	unsigned long end = first + nr;

	lt->whole = false;
	if (lt->order == PMD_ORDER) {
		lt->small[0] = true;
		return;
	}
	if (!IS_ALIGNED(first, PIECE))
		lt->small[first >> PMD_ORDER] = true;
	if (!IS_ALIGNED(end, PIECE))
		lt->small[end >> PMD_ORDER] = true;
}

static void lend_model_split_all(struct lend_test *lt)
{
	lt->whole = false;
	memset(lt->small, 1, sizeof(lt->small));
}

static void lend_model_merge(struct lend_test *lt, unsigned long off,
			     unsigned int order)
{
	if (order == lt->order) {
		lt->whole = true;
		memset(lt->small, 0, sizeof(lt->small));
	} else {
		lt->small[off >> PMD_ORDER] = false;
	}
}

/* The delayed work may have been in the way for a moment. */
static void lend_complete(struct lend_test *lt, struct folio *folio)
{
	int r, i;

	for (i = 0; i < 100; i++) {
		r = hugetlb_split_complete(folio);
		if (r != -EAGAIN)
			break;
		msleep(20);
	}
	KUNIT_EXPECT_EQ(lt->test, 0, r);
}

/* Split for a range that is in one folio; returns what prepare does. */
static long lend_split(struct lend_test *lt, unsigned long first,
		       unsigned long nr, bool commit)
{
	unsigned long off = round_down(first, 1UL << lend_order_at(lt, first));
	struct folio *folio = lend_lock(lt, off);
	struct hugetlb_split *split;

	split = hugetlb_split_prepare(folio, first - off, nr);
	if (IS_ERR_OR_NULL(split)) {
		lend_unlock(lt, folio);
		return PTR_ERR(split);
	}

	if (!commit) {
		hugetlb_split_cancel(split);
		lend_unlock(lt, folio);
		return 1;
	}

	hugetlb_split_commit(split);
	lend_complete(lt, folio);
	lend_unlock(lt, folio);
	lend_model_split(lt, first, nr);
	return 1;
}

static long lend_split_all(struct lend_test *lt, bool commit)
{
	struct folio *folio = lend_lock(lt, 0);
	struct hugetlb_split *split;

	split = hugetlb_split_all_prepare(folio);
	if (IS_ERR_OR_NULL(split)) {
		lend_unlock(lt, folio);
		return PTR_ERR(split);
	}

	if (commit) {
		hugetlb_split_commit(split);
		lend_complete(lt, folio);
		lend_model_split_all(lt);
	} else {
		hugetlb_split_cancel(split);
	}
	lend_unlock(lt, folio);
	return 1;
}

static long lend_merge(struct lend_test *lt, unsigned long off,
		       unsigned int order, bool commit)
{
	struct folio *folio = lend_lock(lt, off);
	struct hugetlb_merge *merge;
	int i;

	merge = hugetlb_merge_prepare(folio, order);
	if (IS_ERR_OR_NULL(merge)) {
		lend_unlock(lt, folio);
		return PTR_ERR(merge);
	}

	if (!commit) {
		hugetlb_merge_cancel(merge);
		lend_unlock(lt, folio);
		return 1;
	}

	hugetlb_merge_commit(merge);
	for (i = 0; folio_order(folio) < order && i < 100; i++) {
		/* As in lend_complete() */
		msleep(20);
		merge = hugetlb_merge_prepare(folio, order);
		if (IS_ERR(merge))
			break;
		hugetlb_merge_commit(merge);
	}
	KUNIT_EXPECT_EQ(lt->test, order, folio_order(folio));
	lend_unlock(lt, folio);
	lend_model_merge(lt, off, order);
	return 1;
}

/* Each stage, in several orders, and again: leftovers of a merge are used. */
static void test_stages(struct kunit *test)
{
	struct lend_test *lt = lend_borrow(test);
	unsigned long last = lt->nr_pages - 1;
	int i;

	KUNIT_ASSERT_TRUE(test, lend_check(lt));
	for (i = 0; i < 3; i++) {
		KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1, true));
		KUNIT_ASSERT_TRUE(test, lend_check(lt));
		KUNIT_EXPECT_EQ(test, 0, lend_split(lt, 5, 1, true));
		KUNIT_EXPECT_EQ(test, 0, lend_split(lt, 6, 1, true));

		if (lt->nr_pieces > 1) {
			KUNIT_EXPECT_EQ(test, 1, lend_split(lt, last, 1, true));
			KUNIT_ASSERT_TRUE(test, lend_check(lt));
			KUNIT_EXPECT_EQ(test, 1, lend_merge(lt, 0, PMD_ORDER, true));
			KUNIT_ASSERT_TRUE(test, lend_check(lt));
			KUNIT_EXPECT_EQ(test, 0, lend_merge(lt, 0, PMD_ORDER, true));
		}
		/* All that is left, at once */
		KUNIT_EXPECT_EQ(test, 1, lend_merge(lt, 0, lt->order, true));
		KUNIT_ASSERT_TRUE(test, lend_check(lt));

		if (lt->nr_pieces == 1)
			continue;

		/* Pieces only: no folio is partly in the range. */
		KUNIT_EXPECT_EQ(test, 1, lend_split(lt, PIECE, 2 * PIECE, true));
		KUNIT_ASSERT_TRUE(test, lend_check(lt));
		KUNIT_EXPECT_EQ(test, 0, lend_split(lt, PIECE, PIECE, true));
		KUNIT_EXPECT_EQ(test, 1, lend_split(lt, PIECE + 1, PIECE - 1, true));
		KUNIT_ASSERT_TRUE(test, lend_check(lt));
		KUNIT_EXPECT_EQ(test, 1, lend_merge(lt, PIECE, PMD_ORDER, true));
		KUNIT_EXPECT_EQ(test, 1, lend_merge(lt, 0, lt->order, true));
		KUNIT_ASSERT_TRUE(test, lend_check(lt));

		/* Both ends of a range, the pieces between stay */
		KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 100, 3 * PIECE, true));
		KUNIT_ASSERT_TRUE(test, lend_check(lt));
		KUNIT_EXPECT_EQ(test, 1, lend_merge(lt, 0, lt->order, true));
		KUNIT_ASSERT_TRUE(test, lend_check(lt));
	}
	lend_return(lt);
}

static void test_all_at_once(struct kunit *test)
{
	struct lend_test *lt = lend_borrow(test);
	int i;

	for (i = 0; i < 3; i++) {
		KUNIT_EXPECT_EQ(test, 1, lend_split_all(lt, false));
		KUNIT_EXPECT_EQ(test, 1, lend_split_all(lt, true));
		KUNIT_ASSERT_TRUE(test, lend_check(lt));
		KUNIT_EXPECT_EQ(test, 0, lend_split_all(lt, true));

		KUNIT_EXPECT_EQ(test, 1, lend_merge(lt, 0, lt->order, true));
		KUNIT_ASSERT_TRUE(test, lend_check(lt));
	}
	lend_return(lt);
}

static void test_bad_arguments(struct kunit *test)
{
	struct lend_test *lt = lend_borrow(test);
	struct folio *folio = lend_lock(lt, 0);
	struct hugetlb_split *split;

	split = hugetlb_split_prepare(folio, 0, 0);
	KUNIT_EXPECT_EQ(test, -EINVAL, PTR_ERR(split));
	split = hugetlb_split_prepare(folio, lt->nr_pages, 1);
	KUNIT_EXPECT_EQ(test, -EINVAL, PTR_ERR(split));
	split = hugetlb_split_prepare(folio, 1, lt->nr_pages);
	KUNIT_EXPECT_EQ(test, -EINVAL, PTR_ERR(split));
	KUNIT_EXPECT_NULL(test, hugetlb_split_prepare(folio, 0, lt->nr_pages));
	KUNIT_EXPECT_EQ(test, -EINVAL, PTR_ERR(hugetlb_merge_prepare(folio, 3)));
	KUNIT_EXPECT_NULL(test, hugetlb_merge_prepare(folio, lt->order));
	lend_unlock(lt, folio);

	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1, true));
	folio = lend_lock(lt, 1);
	KUNIT_EXPECT_EQ(test, -EINVAL,
			PTR_ERR(hugetlb_merge_prepare(folio, PMD_ORDER)));
	lend_unlock(lt, folio);
	lend_return(lt);
}

/* What prepare and cancel do must not be seen anywhere. */
static void test_cancel(struct kunit *test)
{
	struct lend_test *lt = lend_borrow(test);
	unsigned long before;

	before = nr_vmemmap(lt);
	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1, false));
	KUNIT_EXPECT_EQ(test, before, nr_vmemmap(lt));
	KUNIT_ASSERT_TRUE(test, lend_check(lt));

	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1, true));
	before = nr_vmemmap(lt);
	KUNIT_EXPECT_EQ(test, 1, lend_merge(lt, 0, lt->order, false));
	if (lt->nr_pieces > 1)
		KUNIT_EXPECT_EQ(test, 1, lend_split(lt, PIECE + 7, 9, false));
	KUNIT_EXPECT_EQ(test, before, nr_vmemmap(lt));
	KUNIT_ASSERT_TRUE(test, lend_check(lt));
	lend_return(lt);
}

/*
 * How many pages of the vmemmap a stage costs, and that they are given back.  With
 * HVO the second is the difference between a piece that has it and one that has
 * not, the first that between one head and as many as there are pieces.
 */
static void test_vmemmap(struct kunit *test)
{
	struct lend_test *lt = lend_borrow(test);
	const unsigned long per_piece = PIECE * sizeof(struct page) / PAGE_SIZE;
	unsigned long cost, timeout = jiffies + PATIENCE;
	bool whole_hvo;

	/* Without HVO nothing costs anything. */
	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1, true));
	cost = nr_vmemmap(lt) - lt->nr_vmemmap;
	whole_hvo = cost;
	kunit_info(test, "%lu pages for the first single page\n", cost);
	if (whole_hvo)
		KUNIT_EXPECT_EQ(test, cost, lt->nr_pieces - 1 + per_piece - 1);

	/* They stay with the page until it has been left alone for a while. */
	KUNIT_EXPECT_EQ(test, 1, lend_merge(lt, 0, lt->order, true));
	KUNIT_EXPECT_EQ(test, nr_vmemmap(lt) - lt->nr_vmemmap, cost);
	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1, true));
	KUNIT_EXPECT_EQ(test, nr_vmemmap(lt) - lt->nr_vmemmap, cost);
	KUNIT_EXPECT_EQ(test, 1, lend_merge(lt, 0, lt->order, true));

	if (lt->mapping) {
		while (nr_vmemmap(lt) != lt->nr_vmemmap &&
		       time_before(jiffies, timeout))
			msleep(100);
		KUNIT_EXPECT_EQ(test, nr_vmemmap(lt), lt->nr_vmemmap);
		KUNIT_ASSERT_TRUE(test, lend_check(lt));
	}
	lend_return(lt);
}

/* Somebody has a reference: it takes longer, nothing else. */
static void test_pending(struct kunit *test)
{
	struct lend_test *lt = lend_borrow(test);
	unsigned long timeout;
	struct hugetlb_loan_stats stats;
	struct hugetlb_split *split;
	struct hugetlb_merge *merge;
	struct folio *folio;

	folio = lend_lock(lt, 0);
	split = hugetlb_split_prepare(folio, 5, 1);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, split);
	folio_get(folio);
	hugetlb_split_commit(split);

	hugetlb_loan_stats(folio, &stats);
	KUNIT_EXPECT_TRUE(test, stats.split_pending);
	KUNIT_EXPECT_EQ(test, 1, stats.nr_folios);
	KUNIT_EXPECT_EQ(test, -EAGAIN, hugetlb_split_complete(folio));
	split = hugetlb_split_prepare(folio, 6, 1);
	KUNIT_EXPECT_EQ(test, -EBUSY, PTR_ERR(split));

	folio_put(folio);
	KUNIT_ASSERT_TRUE(test, folio_test_large(folio));
	KUNIT_EXPECT_EQ(test, 0, hugetlb_split_complete(folio));
	KUNIT_EXPECT_EQ(test, 0, hugetlb_split_complete(folio));
	hugetlb_loan_stats(folio, &stats);
	KUNIT_EXPECT_FALSE(test, stats.split_pending);
	lend_unlock(lt, folio);
	lt->whole = false;
	lt->small[0] = true;
	KUNIT_ASSERT_TRUE(test, lend_check(lt));

	/* The last of the single pages holds up the merge. */
	get_page(lt->page + PIECE - 1);
	folio = lend_lock(lt, 0);
	merge = hugetlb_merge_prepare(folio, lt->order);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, merge);
	hugetlb_merge_commit(merge);
	hugetlb_loan_stats(folio, &stats);
	KUNIT_EXPECT_TRUE(test, stats.merge_pending);
	lend_unlock(lt, folio);
	KUNIT_EXPECT_FALSE(test, folio_test_large(folio));
	put_page(lt->page + PIECE - 1);
	KUNIT_ASSERT_TRUE(test, lend_check(lt));

	if (lt->mapping) {
		timeout = jiffies + PATIENCE;
		while (folio_order(page_folio(lt->page)) != lt->order &&
		       time_before(jiffies, timeout))
			msleep(100);
		lt->whole = true;
		lt->small[0] = false;
		/* The work may have a reference for another moment. */
		msleep(100);
		KUNIT_ASSERT_TRUE(test, lend_check(lt));
	}
	lend_return(lt);
}

/* Merging that was put off is done when the page is left alone, not before. */
static void test_merge_later(struct kunit *test)
{
	struct lend_test *lt = lend_borrow(test);
	unsigned long start, timeout;
	int i;

	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1, true));
	for (i = 0; i < 5; i++) {
		start = jiffies;
		hugetlb_merge_later(page_folio(lt->page));
		msleep(300);
		KUNIT_EXPECT_FALSE(test, folio_order(page_folio(lt->page)));
	}
	timeout = jiffies + PATIENCE;
	while (folio_order(page_folio(lt->page)) != lt->order &&
	       time_before(jiffies, timeout))
		msleep(20);
	KUNIT_EXPECT_GE(test, jiffies - start, HZ);
	msleep(100);
	lt->whole = true;
	lt->small[0] = false;
	KUNIT_ASSERT_TRUE(test, lend_check(lt));

	/* A split means that it is not to be merged, even if it takes nothing. */
	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1, true));
	hugetlb_merge_later(page_folio(lt->page));
	KUNIT_EXPECT_EQ(test, 0, lend_split(lt, 6, 1, true));
	msleep(1500);
	KUNIT_ASSERT_TRUE(test, lend_check(lt));

	hugetlb_merge_later(page_folio(lt->page));
	if (lt->nr_pieces > 1) {
		KUNIT_EXPECT_EQ(test, 1, lend_split(lt, PIECE + 5, 1, true));
		msleep(1500);
		KUNIT_ASSERT_TRUE(test, lend_check(lt));
	}
	lend_return(lt);
}

/* Another folio than the first is in the way, and is not locked any more. */
static void test_pending_piece(struct kunit *test)
{
	struct lend_test *lt = lend_borrow(test);
	const unsigned long off = 3 * PIECE;
	struct hugetlb_split *split;
	struct folio *folio;

	if (lt->nr_pieces == 1) {
		lend_return(lt);
		kunit_skip(test, "the page has one piece only");
	}

	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, PIECE, PIECE, true));
	get_page(lt->page + off);
	folio = lend_lock(lt, off);
	split = hugetlb_split_prepare(folio, 7, 1);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, split);
	hugetlb_split_commit(split);
	lend_unlock(lt, folio);
	KUNIT_ASSERT_TRUE(test, lend_check_held(lt, lt->page + off));

	folio = lend_lock(lt, 0);
	KUNIT_EXPECT_EQ(test, -EAGAIN, hugetlb_split_complete(folio));
	KUNIT_EXPECT_EQ(test, -EBUSY,
			PTR_ERR(hugetlb_split_prepare(folio, 1, 1)));
	KUNIT_EXPECT_EQ(test, -EBUSY,
			PTR_ERR(hugetlb_split_all_prepare(folio)));
	KUNIT_EXPECT_EQ(test, -EBUSY,
			PTR_ERR(hugetlb_merge_prepare(folio, lt->order)));
	put_page(lt->page + off);
	KUNIT_EXPECT_EQ(test, 0, hugetlb_split_complete(folio));
	lend_unlock(lt, folio);
	lend_model_split(lt, off + 7, 1);
	KUNIT_ASSERT_TRUE(test, lend_check(lt));
	lend_return(lt);
}

/* Truncated with a split pending, before and after the reference is put */
static void test_pending_home(struct kunit *test)
{
	int early;

	for (early = 0; early < 2; early++) {
		struct lend_test *lt = lend_borrow(test);
		struct hugetlb_split *split;
		struct folio *folio;

		folio = lend_lock(lt, 0);
		split = hugetlb_split_prepare(folio, 5, 1);
		KUNIT_ASSERT_NOT_ERR_OR_NULL(test, split);
		folio_get(folio);
		hugetlb_split_commit(split);
		lend_unlock(lt, folio);
		if (early)
			folio_put(folio);
		lend_put_all(lt);
		hugetlb_loan_flush();
		if (!early)
			folio_put(folio);
		lend_return(lt);
	}
}

static void punch(struct lend_test *lt, unsigned long off, unsigned long nr)
{
	loff_t pos = (loff_t)(lt->index + off) << PAGE_SHIFT;

	filemap_invalidate_lock(lt->mapping);
	truncate_inode_pages_range(lt->mapping, pos,
				   pos + ((loff_t)nr << PAGE_SHIFT) - 1);
	filemap_invalidate_unlock(lt->mapping);
}

/* What a split is pending for is punched out: the rest must not wait for it. */
static void test_pending_punched(struct kunit *test)
{
	struct lend_test *lt = lend_borrow(test);
	const unsigned long off = 3 * PIECE;
	struct hugetlb_split *split;
	struct folio *folio, *held;

	if (lt->nr_pieces == 1) {
		lend_return(lt);
		kunit_skip(test, "the page has one piece only");
	}

	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, PIECE, PIECE, true));
	held = page_folio(lt->page + off);
	folio_get(held);
	folio = lend_lock(lt, off);
	split = hugetlb_split_prepare(folio, 7, 1);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, split);
	hugetlb_split_commit(split);
	lend_unlock(lt, folio);
	punch(lt, off, PIECE);
	folio_put(held);

	folio = lend_lock(lt, 0);
	KUNIT_EXPECT_EQ(test, 0, hugetlb_split_complete(folio));
	split = hugetlb_split_prepare(folio, 1, 1);
	KUNIT_EXPECT_NOT_ERR_OR_NULL(test, split);
	if (!IS_ERR(split))
		hugetlb_split_cancel(split);
	lend_unlock(lt, folio);
	lend_return(lt);
}

/*
 * A single page is punched out, and somebody has it still or has not.  The piece
 * that it was of cannot be merged then, not even when each of its pages has one
 * reference, as each has that the page cache has.
 */
static void test_punched(struct kunit *test)
{
	int held, whole;

	for (held = 0; held < 2; held++) {
		for (whole = 0; whole < 2; whole++) {
			struct lend_test *lt = lend_borrow(test);
			struct page *page = lt->page + 7;
			struct hugetlb_loan_stats stats;
			struct hugetlb_merge *merge;
			unsigned long nr_back;
			struct folio *folio;

			KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1, true));
			if (held)
				get_page(page);
			punch(lt, 7, 1);
			nr_back = !held;
			if (lt->nr_pieces > 1) {
				punch(lt, 3 * PIECE, PIECE);
				nr_back += PIECE;
			}
			hugetlb_loan_stats(page_folio(lt->page), &stats);
			KUNIT_EXPECT_EQ(test, nr_back, stats.nr_back);

			folio = lend_lock(lt, 0);
			merge = hugetlb_merge_prepare(folio, whole ? lt->order :
								     PMD_ORDER);
			KUNIT_ASSERT_NOT_ERR_OR_NULL(test, merge);
			hugetlb_merge_commit(merge);
			KUNIT_EXPECT_EQ(test, 0, folio_order(folio));
			lend_unlock(lt, folio);

			KUNIT_EXPECT_NULL(test, xa_load(&lt->mapping->i_pages,
							lt->index + 7));
			KUNIT_EXPECT_EQ(test, held, page_ref_count(page));
			/* If it was merged, the page cache has it again. */
			if (PageCompound(page))
				lt->mapping->nrpages++;
			else if (held)
				put_page(page);
			lend_return(lt);
		}
	}
}

/* Truncated, at about the time when it is to be merged */
static void test_truncate_late(struct kunit *test)
{
	int i;

	for (i = -1; i < 2; i++) {
		struct lend_test *lt = lend_borrow(test);
		unsigned long when;

		KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1, true));
		hugetlb_merge_later(page_folio(lt->page));
		when = jiffies + HZ + i;
		msleep(900);
		while (time_before(jiffies, when))
			cpu_relax();
		lend_return(lt);
	}
}

/* The last put, from everywhere */

struct put_work {
	struct page *page;
	struct irq_work irq_work;
	struct timer_list timer;
	struct completion done;
};

static void put_in_hardirq(struct irq_work *work)
{
	struct put_work *put = container_of(work, struct put_work, irq_work);

	put_page(put->page);
	complete(&put->done);
}

static void put_in_softirq(struct timer_list *timer)
{
	struct put_work *put = container_of(timer, struct put_work, timer);

	put_page(put->page);
	complete(&put->done);
}

static void put_from(struct page *page, int context)
{
	static DEFINE_SPINLOCK(lock);
	struct page *pages[] = { page };
	struct folio_batch fbatch;
	struct put_work put = { .page = page };

	init_completion(&put.done);
	switch (context) {
	case 0:
		put_page(page);
		break;
	case 1:
		scoped_guard(spinlock_irqsave, &lock)
			put_page(page);
		break;
	case 2:
		timer_setup_on_stack(&put.timer, put_in_softirq, 0);
		mod_timer(&put.timer, jiffies);
		wait_for_completion(&put.done);
		timer_shutdown_sync(&put.timer);
		timer_destroy_on_stack(&put.timer);
		break;
	case 3:
		put.irq_work = IRQ_WORK_INIT_HARD(put_in_hardirq);
		irq_work_queue(&put.irq_work);
		wait_for_completion(&put.done);
		irq_work_sync(&put.irq_work);
		break;
	case 4:
		folio_batch_init(&fbatch);
		folio_batch_add(&fbatch, page_folio(page));
		folios_put(&fbatch);
		break;
	case 5:
		release_pages(pages, 1);
		break;
	}
}

#define NR_PUT_CONTEXTS	6

static void test_last_put(struct kunit *test)
{
	unsigned long reserved, allocated, timeout;
	struct lend_test *lt;
	struct page *page;
	int context, split;

	for (split = 0; split < 2; split++) {
		for (context = 0; context < NR_PUT_CONTEXTS; context++) {
			lt = lend_borrow(test);
			if (split)
				KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1, true));
			page = lt->page + (split ? 6 : 0);
			get_page(page);
			lend_put_all(lt);
			hugetlb_loan_flush();
			hugetlb_reservation_stats(lt->resv, &reserved, &allocated);
			KUNIT_EXPECT_EQ(test, 1, allocated);

			put_from(page, context);
			if (context & 1) {
				/* Without anybody asking for it */
				timeout = jiffies + PATIENCE;
				do {
					msleep(20);
					hugetlb_reservation_stats(lt->resv, &reserved,
								  &allocated);
				} while (allocated && time_before(jiffies, timeout));
				KUNIT_EXPECT_EQ(test, 0, allocated);
			}
			lend_return(lt);
		}
	}
}

/* Hold each folio, and let go of all else. */
static struct page *lend_hold_all(struct lend_test *lt, unsigned int order)
{
	struct page *page = lt->page;
	unsigned long off;

	if (order)
		KUNIT_EXPECT_EQ(lt->test, 1, lend_split(lt, PIECE, PIECE, true));
	else
		KUNIT_EXPECT_EQ(lt->test, 1, lend_split_all(lt, true));
	for (off = 0; off < lt->nr_pages; off += 1UL << order)
		get_page(page + off);
	lend_put_all(lt);
	return page;
}

/* One folio of all is held back, and all are, one after the other. */
static void held_back(struct kunit *test, unsigned int order)
{
	unsigned long reserved, allocated, nr, next, i;
	struct lend_test *lt = lend_borrow(test);
	struct hugetlb_loan_stats stats;
	struct folio *folio;
	struct page *page;

	page = lend_hold_all(lt, order);
	nr = lt->nr_pages >> order;

	/* 7 is prime to the number of folios. */
	for (i = 1, next = 7; i < nr; i++) {
		put_page(page + (next << order));
		if (i % (nr / 8 + 1) == 0 || i == nr - 1) {
			hugetlb_loan_stats(page_folio(page), &stats);
			KUNIT_EXPECT_EQ(test, stats.nr_back, i << order);
		}
		next = (next + 7) & (nr - 1);
	}
	KUNIT_ASSERT_EQ(test, next, 0);
	KUNIT_EXPECT_EQ(test, page_ref_count(page + (1UL << order)), 0);
	KUNIT_EXPECT_TRUE(test, folio_test_lent(page_folio(page + (1UL << order))));

	hugetlb_loan_flush();
	hugetlb_reservation_stats(lt->resv, &reserved, &allocated);
	KUNIT_EXPECT_EQ(test, 1, allocated);
	KUNIT_EXPECT_EQ(test, -EAGAIN,
			PTR_ERR(hugetlb_alloc_reserved(lt->resv, NULL, 0)));

	put_page(page);
	/* Allocating takes home what it needs. */
	folio = hugetlb_alloc_reserved(lt->resv, NULL, 0);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, folio);
	KUNIT_EXPECT_EQ(test, folio_order(folio), lt->order);
	folio_put(folio);
	lend_return(lt);
}

static void test_held_back(struct kunit *test)
{
	const struct lend_param *param = test->param_value;

	if (param->order > PMD_ORDER)
		held_back(test, PMD_ORDER);
	held_back(test, 0);
}

struct putter {
	struct page *page;
	unsigned long nr_pages;
	unsigned int step;
	struct completion done;
};

static int putter_fn(void *data)
{
	struct putter *putter = data;
	unsigned long off;

	for (off = 0; off < putter->nr_pages; off += putter->step)
		put_page(putter->page + off);
	kthread_complete_and_exit(&putter->done, 0);
}

/* Several put what they have, and another takes home whatever is back. */
static void test_put_race(struct kunit *test)
{
	unsigned long reserved, allocated, timeout;
	struct putter putter[3];
	struct task_struct *task;
	struct lend_test *lt;
	struct page *page;
	int i, n;

	for (i = 0; i < 3; i++) {
		lt = lend_borrow(test);
		page = lend_hold_all(lt, 0);

		for (n = 0; n < ARRAY_SIZE(putter); n++) {
			putter[n] = (struct putter) {
				.page = page + n,
				.nr_pages = lt->nr_pages - n,
				.step = ARRAY_SIZE(putter),
			};
			init_completion(&putter[n].done);
			task = kthread_run(putter_fn, &putter[n], "lend_put/%d", n);
			KUNIT_EXPECT_NOT_ERR_OR_NULL(test, task);
			if (IS_ERR(task))
				putter_fn(&putter[n]);
		}

		timeout = jiffies + PATIENCE;
		do {
			hugetlb_loan_flush();
			hugetlb_reservation_stats(lt->resv, &reserved, &allocated);
			cond_resched();
		} while (allocated && time_before(jiffies, timeout));
		KUNIT_EXPECT_EQ(test, 0, allocated);

		for (n = 0; n < ARRAY_SIZE(putter); n++)
			wait_for_completion(&putter[n].done);
		lend_return(lt);
	}
}

/* Split before it is put in the page cache, folio by folio */
static void test_insert_pieces(struct kunit *test)
{
	struct lend_test *lt = lend_borrow(test);
	unsigned long off, nr;

	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1, true));
	lend_make_file(lt);
	lt->index = 3UL << lt->order;
	for (off = 0; off < lt->nr_pages; off += nr) {
		struct folio *folio = page_folio(lt->page + off);

		nr = folio_nr_pages(folio);
		KUNIT_ASSERT_EQ(test, 0,
				filemap_add_folio(lt->mapping, folio,
						  lt->index + off, GFP_KERNEL));
		folio_unlock(folio);
		folio_put(folio);
	}
	KUNIT_ASSERT_TRUE(test, lend_check(lt));
	if (lt->nr_pieces > 1) {
		KUNIT_EXPECT_EQ(test, 1, lend_split(lt, PIECE + 5, 1, true));
		KUNIT_EXPECT_EQ(test, 1, lend_merge(lt, 0, PMD_ORDER, true));
		KUNIT_ASSERT_TRUE(test, lend_check(lt));
	}
	KUNIT_EXPECT_EQ(test, 1, lend_merge(lt, 0, lt->order, true));
	KUNIT_ASSERT_TRUE(test, lend_check(lt));
	lend_return(lt);
}

/* Single pages without the type */
static void test_expose(struct kunit *test)
{
	struct lend_test *lt = lend_borrow(test);
	struct folio *folio;

	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1, true));
	folio = page_folio(lt->page + 5);
	hugetlb_lent_expose(folio);
	hugetlb_lent_expose(folio);
	KUNIT_EXPECT_FALSE(test, page_has_type(&folio->page));
	hugetlb_lent_hide(folio);
	hugetlb_lent_hide(folio);
	KUNIT_ASSERT_TRUE(test, lend_check(lt));

	/* Merging hides it, ->free_folio() does. */
	hugetlb_lent_expose(folio);
	hugetlb_lent_expose(page_folio(lt->page));
	KUNIT_EXPECT_EQ(test, 1, lend_merge(lt, 0, lt->order, true));
	KUNIT_ASSERT_TRUE(test, lend_check(lt));
	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1, true));
	hugetlb_lent_expose(page_folio(lt->page + 5));
	lend_return(lt);
}

#ifdef CONFIG_FAULT_INJECTION
enum { FAIL_SPLIT, FAIL_MERGE_PIECE, FAIL_MERGE, FAIL_SPLIT_PIECE, NR_FAIL };

static long fail_one(struct lend_test *lt, int what, unsigned int n,
		     unsigned int *left)
{
	long r;

	current->fail_nth = n;
	switch (what) {
	case FAIL_SPLIT:
		r = lend_split(lt, 5, 1, false);
		break;
	case FAIL_MERGE_PIECE:
		r = lend_merge(lt, 0, PMD_ORDER, false);
		break;
	case FAIL_MERGE:
		r = lend_merge(lt, 0, lt->order, false);
		break;
	default:
		r = lend_split(lt, lt->nr_pages - PIECE + 5, 1, false);
		break;
	}
	*left = current->fail_nth;
	current->fail_nth = 0;
	return r;
}

/*
 * Fail the first allocation, the second and so on, until there is none that could
 * fail.  Returns how many made prepare fail.
 */
static unsigned int fail_each(struct lend_test *lt, int what)
{
	unsigned long before = nr_vmemmap(lt);
	unsigned int n, left, failed = 0, tries = 0;
	struct kunit *test = lt->test;
	long r;

	for (n = 1; ; n++) {
		r = fail_one(lt, what, n, &left);
		if (left)
			break;
		/*
		 * Some have another way, or nobody depends on them; unless there
		 * was one more than usual, that a cache or a debugging aid made.
		 */
		if (r == 1) {
			if (tries++ < 3)
				n--;
			else
				tries = 0;
			continue;
		}
		tries = 0;
		KUNIT_ASSERT_EQ(test, -ENOMEM, r);
		KUNIT_ASSERT_EQ(test, before, nr_vmemmap(lt));
		if (failed++ % 64 == 0)
			KUNIT_ASSERT_TRUE(test, lend_check(lt));
		cond_resched();
	}
	KUNIT_EXPECT_EQ(test, 1, r);
	KUNIT_EXPECT_EQ(test, before, nr_vmemmap(lt));
	KUNIT_ASSERT_TRUE(test, lend_check(lt));
	kunit_info(test, "of %u allocations %u made prepare fail\n", n - 1, failed);
	return failed;
}
#endif

/* Each allocation of prepare is made to fail in turn. */
static void test_fail_nth(struct kunit *test)
{
#ifdef CONFIG_FAULT_INJECTION
	const unsigned long per_piece = PIECE * sizeof(struct page) / PAGE_SIZE;
	struct lend_test *lt = lend_borrow(test);
	unsigned int failed, left, least;
	unsigned long cost;

	fail_one(lt, FAIL_SPLIT, 1, &left);
	if (left) {
		lend_return(lt);
		kunit_skip(test, "see ignore-gfp-wait of failslab and fail_page_alloc");
	}

	failed = fail_each(lt, FAIL_SPLIT);
	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1, true));
	/* Each page of the vmemmap, and what describes the split */
	cost = nr_vmemmap(lt) - lt->nr_vmemmap;
	least = cost + 1 + !!lt->mapping;
	KUNIT_EXPECT_GE(test, failed, least);

	least = 1;
	KUNIT_EXPECT_GE(test, fail_each(lt, FAIL_MERGE_PIECE), least);
	KUNIT_EXPECT_GE(test, fail_each(lt, FAIL_MERGE), least);
	if (lt->nr_pieces > 1) {
		least = (cost ? per_piece - 1 : 0) + 1 + !!lt->mapping;
		KUNIT_EXPECT_GE(test, fail_each(lt, FAIL_SPLIT_PIECE), least);
	}
	lend_return(lt);
#else
	kunit_skip(test, "no fault injection");
#endif
}

/*
 * Somebody has a reference to the folio at @off when it is split, or merged with
 * others; to the whole page if @whole.  Try, check, let go, and do it.
 */
static void walk_held(struct lend_test *lt, unsigned long off, bool whole)
{
	unsigned int order = lend_order_at(lt, off);
	unsigned long first = round_down(off, 1UL << order);
	struct hugetlb_loan_stats stats;
	struct kunit *test = lt->test;
	struct hugetlb_split *split;
	struct hugetlb_merge *merge;
	struct folio *folio;
	struct page *held = lt->page + first;

	get_page(held);
	if (order == lt->order || (order && !whole)) {
		folio = lend_lock(lt, first);
		split = hugetlb_split_prepare(folio, off - first, 1);
		KUNIT_EXPECT_NOT_ERR_OR_NULL(test, split);
		if (!IS_ERR_OR_NULL(split))
			hugetlb_split_commit(split);
		hugetlb_loan_stats(folio, &stats);
		KUNIT_EXPECT_TRUE(test, stats.split_pending);
		lend_unlock(lt, folio);
		KUNIT_EXPECT_TRUE(test, lend_check_held(lt, held));

		put_page(held);
		folio = lend_lock(lt, 0);
		lend_complete(lt, folio);
		lend_unlock(lt, folio);
		lend_model_split(lt, off, 1);
		return;
	}

	/* What @off is in is smaller than what it is to be. */
	order = whole ? lt->order : PMD_ORDER;
	first = round_down(off, 1UL << order);
	folio = lend_lock(lt, first);
	merge = hugetlb_merge_prepare(folio, order);
	KUNIT_EXPECT_NOT_ERR_OR_NULL(test, merge);
	if (!IS_ERR(merge))
		hugetlb_merge_commit(merge);
	hugetlb_loan_stats(folio, &stats);
	KUNIT_EXPECT_TRUE(test, stats.merge_pending);
	lend_unlock(lt, folio);

	/* All the others are merged. */
	if (order > PMD_ORDER) {
		bool small = lt->small[off >> PMD_ORDER];

		memset(lt->small, 0, sizeof(lt->small));
		lt->small[off >> PMD_ORDER] = small;
	}
	KUNIT_EXPECT_TRUE(test, lend_check_held(lt, held));

	put_page(held);
	/* The delayed work may have done it before. */
	KUNIT_EXPECT_GE(test, lend_merge(lt, first, order, true), 0);
	lend_model_merge(lt, first, order);
}

static void test_random(struct kunit *test)
{
	struct lend_test *lt = lend_borrow(test);
	unsigned long this_seed = seed ?: get_random_u32();
	struct rnd_state rnd;
	unsigned int i;

	kunit_info(test, "seed %lu, %u steps\n", this_seed, rounds);
	prandom_seed_state(&rnd, this_seed);

	for (i = 0; i < rounds; i++) {
		unsigned long off, first, nr;
		u32 op = prandom_u32_state(&rnd) % 18;
		bool commit = prandom_u32_state(&rnd) % 8;

		off = prandom_u32_state(&rnd) & (lt->nr_pages - 1);
		/* Mostly at one place, so that things meet */
		if (op & 1 && lt->nr_pieces > 1)
			off &= 4 * PIECE - 1;
		nr = 1UL << lend_order_at(lt, off);
		first = round_down(off, nr);
		nr = 1 + prandom_u32_state(&rnd) % (first + nr - off);

		if (op < 9)
			KUNIT_EXPECT_GE(test, lend_split(lt, off, nr, commit), 0);
		else if (op < 14)
			KUNIT_EXPECT_GE(test, lend_merge(lt, round_down(off, PIECE),
							 PMD_ORDER, commit), 0);
		else if (op < 16)
			KUNIT_EXPECT_GE(test, lend_merge(lt, 0, lt->order, commit),
					0);
		else
			walk_held(lt, off, prandom_u32_state(&rnd) % 2);
		if (i % 8 == 0 || i == rounds - 1)
			KUNIT_ASSERT_TRUE_MSG(test, lend_check(lt),
					      "seed %lu, step %u", this_seed, i);
	}
	lend_return(lt);
}

/*
 * A reader of the page cache that holds a spinlock while it tries to get a folio,
 * as mincore() does: whoever splits or merges must never leave it spinning for
 * something that cannot go on until it stops.
 *
 * And one that comes across struct pages by their pfn.
 */
struct reader {
	struct page *page;
	struct address_space *mapping;
	pgoff_t index;
	unsigned long nr_pages;
	unsigned int order;
	unsigned long got, wrong;
	unsigned long step;
};

static bool reader_folio_ok(const struct reader *reader, struct folio *folio)
{
	unsigned int order = folio_order(folio);

	return folio_test_lent(folio) &&
	       (!order || order == PMD_ORDER || order == reader->order);
}

/* One by one, or as those do who want several; with a reference */
static struct folio *look_up(struct address_space *mapping, pgoff_t index,
			     bool batch)
{
	struct folio_batch fbatch;
	struct folio *folio;

	if (batch) {
		folio_batch_init(&fbatch);
		if (filemap_get_folios(mapping, &index, index, &fbatch) != 1)
			return NULL;
		return fbatch.folios[0];
	}

	folio = filemap_get_folio(mapping, index);
	return IS_ERR(folio) ? NULL : folio;
}

static int cache_reader_fn(void *data)
{
	static DEFINE_SPINLOCK(lock);
	struct reader *reader = data;
	unsigned long off = 0;

	while (!kthread_should_stop()) {
		int i;

		spin_lock(&lock);
		for (i = 0; i < 64; i++) {
			pgoff_t index = reader->index + off;
			struct folio *folio;

			folio = look_up(reader->mapping, index, i & 1);
			if (!folio) {
				reader->wrong++;
			} else {
				if (!folio_contains(folio, index) ||
				    folio_page(folio, index - folio->index) !=
				    reader->page + off ||
				    !reader_folio_ok(reader, folio))
					reader->wrong++;
				reader->got++;
				folio_put(folio);
			}
			off = (off + reader->step) & (reader->nr_pages - 1);
		}
		spin_unlock(&lock);
		cond_resched();
	}
	return 0;
}

static int pfn_reader_fn(void *data)
{
	struct reader *reader = data;
	unsigned long off = 0;

	while (!kthread_should_stop()) {
		struct page *page = reader->page + off;
		struct folio *folio = page_folio(page);

		off = (off + reader->step) & (reader->nr_pages - 1);
		/* A frozen one is no mistake, nor that it changed before. */
		if (folio_try_get(folio)) {
			if (page_folio(page) == folio) {
				reader->got++;
				reader->wrong += !reader_folio_ok(reader, folio) ||
						 page < &folio->page ||
						 page >= &folio->page +
							 folio_nr_pages(folio);
			}
			folio_put(folio);
		}
		/* Leave a chance to those who have to find no reference. */
		udelay(1);
		if (!(off & 63))
			cond_resched();
	}
	return 0;
}

static void test_reader(struct kunit *test)
{
	struct lend_test *lt = lend_borrow(test);
	unsigned long timeout = jiffies + 2 * PATIENCE;
	unsigned int i, nr_split = 0, nr_merge = 0;
	struct hugetlb_loan_stats stats;
	struct reader cache_reader = {
		.page = lt->page,
		.mapping = lt->mapping,
		.index = lt->index,
		.nr_pages = lt->nr_pages,
		.order = lt->order,
		.step = 119,
	};
	struct reader pfn_reader = cache_reader;
	struct task_struct *cache_task = NULL, *pfn_task;
	struct folio *folio;

	pfn_task = kthread_run(pfn_reader_fn, &pfn_reader, "lend_pfn_reader");
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, pfn_task);
	if (lt->mapping) {
		cache_task = kthread_run(cache_reader_fn, &cache_reader,
					 "lend_reader");
		if (IS_ERR(cache_task)) {
			kthread_stop(pfn_task);
			KUNIT_FAIL_AND_ABORT(test, "no thread");
		}
	}

	for (i = 0; time_before(jiffies, timeout); i++) {
		struct hugetlb_split *split;
		struct hugetlb_merge *merge;

		if (i >= 200 && nr_split && nr_merge)
			break;

		/* The model is of no use: steps may be pending. */
		folio = lend_lock(lt, 0);
		split = hugetlb_split_prepare(folio, 0, 1);
		if (!IS_ERR_OR_NULL(split))
			hugetlb_split_commit(split);
		else
			hugetlb_split_complete(folio);
		nr_split += !folio_test_large(folio);

		merge = hugetlb_merge_prepare(folio, lt->order);
		if (!IS_ERR(merge))
			hugetlb_merge_commit(merge);
		nr_merge += folio_order(folio) == lt->order;
		lend_unlock(lt, folio);
		if (!(i & 7))
			usleep_range(100, 1000);
	}
	kthread_stop(pfn_task);
	if (cache_task)
		kthread_stop(cache_task);

	kunit_info(test, "%lu look-ups, %lu by pfn, of %u rounds %u split and %u merged\n",
		   cache_reader.got, pfn_reader.got, i, nr_split, nr_merge);
	KUNIT_EXPECT_GE(test, i, 200);
	KUNIT_EXPECT_EQ(test, pfn_reader.wrong, 0);
	KUNIT_EXPECT_GT(test, pfn_reader.got, 0);
	if (lt->mapping) {
		KUNIT_EXPECT_EQ(test, cache_reader.wrong, 0);
		KUNIT_EXPECT_GT(test, cache_reader.got, 0);
	}
	KUNIT_EXPECT_GT(test, nr_split, 0);
	KUNIT_EXPECT_GT(test, nr_merge, 0);

	/* With the readers gone, nothing is in the way. */
	folio = lend_lock(lt, 0);
	lend_complete(lt, folio);
	lend_unlock(lt, folio);
	lend_merge(lt, 0, lt->order, true);
	hugetlb_loan_stats(page_folio(lt->page), &stats);
	KUNIT_EXPECT_FALSE(test, stats.split_pending);
	lt->whole = true;
	memset(lt->small, 0, sizeof(lt->small));
	KUNIT_EXPECT_TRUE(test, lend_check(lt));
	lend_return(lt);
}

/* These take more than a second on a machine that is not slow. */
static const struct kunit_attributes lend_slow = { .speed = KUNIT_SPEED_SLOW };

static int lend_init(struct kunit *test)
{
	if (IS_ENABLED(CONFIG_PREEMPT_RT))
		kunit_skip(test, "nothing is split on PREEMPT_RT");
	return 0;
}

static struct kunit_case hugetlb_split_cases[] = {
	KUNIT_CASE_PARAM_ATTR(test_stages, lend_place_gen_params, lend_slow),
	KUNIT_CASE_PARAM_ATTR(test_all_at_once, lend_place_gen_params, lend_slow),
	KUNIT_CASE_PARAM(test_insert_pieces, lend_bare_gen_params),
	KUNIT_CASE_PARAM(test_bad_arguments, lend_gen_params),
	KUNIT_CASE_PARAM(test_cancel, lend_gen_params),
	KUNIT_CASE_PARAM_ATTR(test_vmemmap, lend_gen_params, lend_slow),
	KUNIT_CASE_PARAM_ATTR(test_pending, lend_gen_params, lend_slow),
	KUNIT_CASE_PARAM(test_pending_piece, lend_gen_params),
	KUNIT_CASE_PARAM(test_pending_home, lend_gen_params),
	KUNIT_CASE_PARAM(test_pending_punched, lend_cached_gen_params),
	KUNIT_CASE_PARAM(test_punched, lend_cached_gen_params),
	KUNIT_CASE_PARAM_ATTR(test_merge_later, lend_cached_gen_params, lend_slow),
	KUNIT_CASE_PARAM_ATTR(test_truncate_late, lend_cached_gen_params, lend_slow),
	KUNIT_CASE_PARAM(test_last_put, lend_gen_params),
	KUNIT_CASE_PARAM(test_held_back, lend_gen_params),
	KUNIT_CASE_PARAM_ATTR(test_put_race, lend_gen_params, lend_slow),
	KUNIT_CASE_PARAM(test_expose, lend_cached_gen_params),
	KUNIT_CASE_PARAM_ATTR(test_fail_nth, lend_gen_params, lend_slow),
	KUNIT_CASE_PARAM_ATTR(test_random, lend_place_gen_params, lend_slow),
	KUNIT_CASE_PARAM_ATTR(test_reader, lend_place_gen_params, lend_slow),
	{}
};

static struct kunit_suite hugetlb_split_suite = {
	.name = "hugetlb_split",
	.init = lend_init,
	.test_cases = hugetlb_split_cases,
};

kunit_test_suite(hugetlb_split_suite);

MODULE_DESCRIPTION("Tests of splitting and merging lent HugeTLB pages");
MODULE_LICENSE("GPL");
