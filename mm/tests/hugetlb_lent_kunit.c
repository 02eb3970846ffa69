// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of lending HugeTLB pages, of splitting and of merging them.
 *
 * Each test borrows one page of a pool, which must have a free one, and is run for
 * pages of PMD_ORDER and PUD_ORDER, in a page cache and in none.  A model has the
 * order of the folio that each page should be in.  All struct pages of the page are
 * compared with that, as are its entries in the page cache and its vmemmap.  HVO is
 * as the kernel was booted.
 *
 * In a page cache the page is alone, at index 0, where the tree has as few levels
 * as can be and may lose some; or further up, with a page behind it.
 *
 * The cases here are named ones.  Random walks are lib/test_hugetlb_lend.c's.
 */
#include <kunit/test.h>
#include <linux/anon_inodes.h>
#include <linux/delay.h>
#include <linux/file.h>
#include <linux/folio_batch.h>
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/hrtimer.h>
#include <linux/hugetlb_lend.h>
#include <linux/hugetlb_reservation.h>
#include <linux/irq_work.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/timer.h>
#include <linux/vmstat.h>
#include <linux/xarray.h>

#define PIECE		BIT(PMD_ORDER)

/* What one page of the vmemmap describes; smaller folios are single pages. */
#define GRANULE_ORDER	((unsigned int)ilog2(PAGE_SIZE / sizeof(struct page)))
#define GRANULE		BIT(GRANULE_ORDER)

/* How far apart are the pages whose contents are looked at; they drift. */
#define MARK_DISTANCE	(PIECE / 4 - 1)

/* How long to wait for what is bound to happen */
#define PATIENCE	(30 * HZ)

/* How long the delayed work waits at first */
#define MERGE_DELAY	HZ

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

/* A call of the function that is told of merges */
struct lend_merged {
	unsigned long off;
	unsigned int order;
};

/* A borrowed page, and what it should be */
struct lend_test {
	struct kunit *test;
	unsigned int order;
	unsigned long nr_pages;
	struct hugetlb_reservation *resv;
	struct page *page;		/* NULL when it was given back */
	void *loan;
	bool hvo;
	bool was_split;
	bool asked_later;
	struct file *file;
	struct address_space *mapping;
	pgoff_t index;
	long nr_nodes;			/* of the tree with the page whole, or -1 */
	long nr_memmap;			/* what nr_memmap() said of the page whole */
	unsigned long nr_vmemmap;	/* of the page whole */

	struct hugetlb_reservation *beside_resv;
	struct folio *beside;		/* the folio behind the page, or NULL */

	unsigned long held;		/* the folio that has references of the test */
	int nr_held;
	unsigned long gone;		/* pages that were truncated */
	unsigned long nr_gone;
	unsigned long poisoned;		/* the page that failed, or ULONG_MAX */
	unsigned long flags;		/* that each folio must have */
	unsigned long may_flags;	/* that each folio may have besides */

	unsigned int nr_merged;
	struct lend_merged merged[8];	/* the latest of them */

	u8 *model;			/* order of each granule's folio, or 0 */
};

/* The last reference of the page cache takes the page to where nothing maps it. */
static void lend_free_folio(const struct address_space *mapping,
			    struct folio *folio)
{
	hugetlb_lent_hide(folio);
}

static const struct file_operations lend_fops = {};

static const struct address_space_operations lend_aops = {
	.dirty_folio	= noop_dirty_folio,
	.free_folio	= lend_free_folio,
};

static void lend_merged(struct folio *folio)
{
	struct address_space *mapping = folio->mapping;
	struct lend_test *lt = mapping->host->i_private;
	struct kunit *test = lt->test;
	unsigned int i = lt->nr_merged++;

	/* That of the block, if only a part of it could be merged */
	if (!folio_test_locked(folio))
		KUNIT_EXPECT_TRUE(test, folio_test_locked(page_folio(lt->page)));
	KUNIT_EXPECT_TRUE(test, folio_test_lent(folio));
	if (down_read_trylock(&mapping->invalidate_lock)) {
		up_read(&mapping->invalidate_lock);
		KUNIT_FAIL(test, "not locked for writing");
	}
	KUNIT_EXPECT_PTR_EQ(test, folio, xa_load(&mapping->i_pages, folio->index));
	KUNIT_EXPECT_EQ(test, folio_order(folio),
			xa_get_order(&mapping->i_pages, folio->index));
	lt->merged[i % ARRAY_SIZE(lt->merged)] = (struct lend_merged) {
		.off = folio->index - lt->index,
		.order = folio_order(folio),
	};
}

static unsigned int lend_order_at(struct lend_test *lt, unsigned long off)
{
	return lt->model[off >> GRANULE_ORDER];
}

static unsigned long lend_head_of(struct lend_test *lt, unsigned long off)
{
	return round_down(off, 1UL << lend_order_at(lt, off));
}

/* How many pages the struct pages take up */
static unsigned long nr_vmemmap(struct lend_test *lt)
{
	struct hugetlb_lent_stats stats;

	hugetlb_lent_stats(page_folio(lt->page), &stats);
	return stats.nr_vmemmap;
}

static bool merge_wanted(struct lend_test *lt)
{
	struct hugetlb_lent_stats stats;

	hugetlb_lent_stats(page_folio(lt->page), &stats);
	return stats.merge_wanted;
}

/* Opened by the task that loads the module: a kernel thread has no /proc. */
static struct file *vmstat;

/* How many pages the kernel says that all its struct pages take up, or -1 */
static long nr_memmap(struct lend_test *lt)
{
	static const char * const names[] = {
		"\nnr_memmap_pages ", "\nnr_memmap_boot_pages ",
	};
	const size_t size = 8 * PAGE_SIZE;
	char *buf, *found;
	long sum = 0, nr;
	size_t len = 0;
	loff_t pos = 0;
	ssize_t n;
	int i;

	if (IS_ERR_OR_NULL(vmstat))
		return -1;
	buf = kvmalloc(size, GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(lt->test, buf);
	while (len < size - 1) {
		n = kernel_read(vmstat, buf + len, size - 1 - len, &pos);
		if (n <= 0)
			break;
		len += n;
	}
	buf[len] = '\0';
	for (i = 0; i < ARRAY_SIZE(names) && sum >= 0; i++) {
		found = strstr(buf, names[i]);
		if (found && sscanf(found + strlen(names[i]), "%ld", &nr) == 1)
			sum += nr;
		else
			sum = -1;
	}
	kvfree(buf);
	return sum;
}

/* Nodes in the tree below an entry */
static long nodes_below(const void *entry)
{
	struct xa_node *node;
	unsigned int i;
	long nr = 1;

	if (!xa_is_node(entry))
		return 0;
	node = xa_to_node(entry);
	for (i = 0; node->shift && i < XA_CHUNK_SIZE; i++)
		nr += nodes_below(rcu_dereference(node->slots[i]));
	return nr;
}

static long nr_nodes(struct lend_test *lt)
{
	guard(rcu)();
	return nodes_below(rcu_dereference(lt->mapping->i_pages.xa_head));
}

/* A test has failed half-way: make what there is available to others. */
static void lend_cleanup(void *data)
{
	struct lend_test *lt = data;
	unsigned long off, nr;

	if (IS_ERR_OR_NULL(lt->resv))
		return;

	if (lt->page && lt->poisoned != ULONG_MAX)
		ClearPageHWPoison(lt->page + lt->poisoned);
	while (lt->page && lt->nr_held) {
		lt->nr_held--;
		put_page(lt->page + lt->held);
	}
	if (lt->mapping)
		truncate_inode_pages(lt->mapping, 0);
	for (off = 0; lt->page && !lt->mapping && off < lt->nr_pages; off += nr) {
		nr = folio_nr_pages(page_folio(lt->page + off));
		if (page_ref_count(lt->page + off))
			put_page(lt->page + off);
	}
	hugetlb_reservation_destroy(lt->resv);
	if (!IS_ERR_OR_NULL(lt->beside_resv))
		hugetlb_reservation_destroy(lt->beside_resv);
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

	lt->beside_resv = hugetlb_reservation_create(PMD_ORDER, 1, NULL);
	if (IS_ERR(lt->beside_resv)) {
		kunit_info(lt->test, "no second page to have beside\n");
		return;
	}
	folio = hugetlb_reservation_alloc_folio(lt->beside_resv, NULL, 0);
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

	lt->file = anon_inode_create_getfile("[hugetlb_lent_kunit]", &lend_fops,
					     NULL, O_RDWR, NULL);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(lt->test, lt->file);
	mapping = lt->file->f_mapping;
	mapping->host->i_private = lt;
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
	lt->flags = BIT(PG_uptodate);
	lt->poisoned = ULONG_MAX;
	lt->nr_nodes = -1;
	lt->model = kunit_kmalloc(test, lt->nr_pages >> GRANULE_ORDER, GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, lt->model);
	memset(lt->model, lt->order, lt->nr_pages >> GRANULE_ORDER);
	KUNIT_ASSERT_EQ(test, 0, kunit_add_action(test, lend_cleanup, lt));

	lt->resv = hugetlb_reservation_create(param->order, 1, lend_merged);
	if (IS_ERR(lt->resv))
		kunit_skip(test, "no free page of this size: error %ld",
			   PTR_ERR(lt->resv));

	folio = hugetlb_reservation_alloc_folio(lt->resv, NULL, 0);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, folio);
	KUNIT_ASSERT_TRUE(test, folio_test_lent(folio));
	KUNIT_ASSERT_EQ(test, lt->order, folio_order(folio));
	lt->page = &folio->page;
	lt->loan = folio->private;
	lt->nr_vmemmap = nr_vmemmap(lt);
	lt->hvo = lt->nr_vmemmap == 1;
	if (!lt->hvo)
		KUNIT_EXPECT_EQ(test, lt->nr_vmemmap, lt->nr_pages >> GRANULE_ORDER);
	lt->nr_memmap = nr_memmap(lt);
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
	lt->nr_nodes = nr_nodes(lt);
	return lt;
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

static unsigned long lend_allocated(struct lend_test *lt)
{
	unsigned long reserved, allocated;

	hugetlb_reservation_stats(lt->resv, &reserved, &allocated);
	KUNIT_EXPECT_EQ(lt->test, 1, reserved + allocated);
	return allocated;
}

/* Without a call that asks for it */
static void wait_until_home(struct lend_test *lt)
{
	unsigned long timeout = jiffies + PATIENCE;

	while (lend_allocated(lt) && time_before(jiffies, timeout))
		msleep(20);
	KUNIT_EXPECT_EQ(lt->test, 0, lend_allocated(lt));
}

static void lend_expect_home(struct lend_test *lt)
{
	unsigned long reserved, allocated;
	long memmap;

	KUNIT_EXPECT_EQ(lt->test, 0, lend_allocated(lt));
	memmap = nr_memmap(lt);
	KUNIT_EXPECT_EQ(lt->test, lt->nr_memmap, memmap);
	if (!lt->beside)
		return;

	hugetlb_reservation_flush(lt->beside_resv);
	hugetlb_reservation_stats(lt->beside_resv, &reserved, &allocated);
	KUNIT_EXPECT_EQ(lt->test, 1, reserved);
	KUNIT_EXPECT_EQ(lt->test, 0, allocated);
}

static void lend_return(struct lend_test *lt)
{
	if (lt->page)
		lend_put_all(lt);
	hugetlb_reservation_flush(lt->resv);
	/* The delayed work may have had the last reference. */
	if (lt->asked_later)
		wait_until_home(lt);
	lend_expect_home(lt);
	kunit_release_action(lt->test, lend_cleanup, lt);
}

/* References of the test to the folio that the page at @off is in */

static struct folio *lend_hold(struct lend_test *lt, unsigned long off)
{
	struct folio *folio = page_folio(lt->page + off);

	off = &folio->page - lt->page;
	KUNIT_EXPECT_TRUE(lt->test, !lt->nr_held || lt->held == off);
	lt->held = off;
	lt->nr_held++;
	folio_get(folio);
	return folio;
}

static void lend_let_go(struct lend_test *lt)
{
	lt->nr_held--;
	put_page(lt->page + lt->held);
}

/*
 * The checks.  They are for some 262,144 struct pages at a time, so that only the
 * first mismatch is told.
 */

#define lend_mismatch(lt, off, fmt, ...)				\
	KUNIT_FAIL((lt)->test, "page %lu: " fmt, off, ##__VA_ARGS__)

static bool is_gone(struct lend_test *lt, unsigned long off)
{
	return off >= lt->gone && off < lt->gone + lt->nr_gone;
}

static bool check_entry(struct lend_test *lt, unsigned long off,
			unsigned int order)
{
	struct xarray *xa = &lt->mapping->i_pages;
	struct folio *folio = page_folio(lt->page + off);
	const pgoff_t index = lt->index + off;
	const unsigned long nr = 1UL << order;

	if (folio->index == index && xa_load(xa, index) == folio &&
	    xa_load(xa, index + nr / 2) == folio &&
	    xa_load(xa, index + nr - 1) == folio && xa_get_order(xa, index) == order)
		return true;

	lend_mismatch(lt, off, "index %lu, entry of order %d", folio->index,
		      xa_get_order(xa, index));
	return false;
}

static bool check_head(struct lend_test *lt, unsigned long off,
		       unsigned int order)
{
	struct page *page = lt->page + off;
	struct folio *folio = page_folio(page);
	struct address_space *mapping = is_gone(lt, off) ? NULL : lt->mapping;
	unsigned long flags, nr = 1UL << order;
	int i, refs = mapping ? nr : !is_gone(lt, off);

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
	if (off == lt->held)
		refs += lt->nr_held;
	/* The delayed work has a look whether it can do anything. */
	for (i = 0; folio_ref_count(folio) == refs + 1 && i < 100; i++)
		msleep(20);
	if (folio_ref_count(folio) != refs) {
		lend_mismatch(lt, off, "%d references, not %d",
			      folio_ref_count(folio), refs);
		return false;
	}
	if (order && (folio_mapcount(folio) || atomic_read(&folio->_pincount) ||
		      atomic_read(&folio->_entire_mapcount) != -1 ||
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
	flags = page->flags.f & PAGEFLAGS_MASK & ~lt->may_flags;
	if (order)
		flags ^= BIT(PG_head);
#ifdef CONFIG_MEMORY_FAILURE
	if (off == lt->poisoned)
		flags ^= BIT(PG_hwpoison);
#endif
	if (flags != lt->flags) {
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
	if (folio->mapping != mapping) {
		lend_mismatch(lt, off, "mapping %p", folio->mapping);
		return false;
	}
	if (mapping)
		return check_entry(lt, off, order);
	if (lt->mapping && xa_load(&lt->mapping->i_pages, lt->index + off)) {
		lend_mismatch(lt, off, "still in the page cache");
		return false;
	}
	return true;
}

static bool check_tail(struct lend_test *lt, unsigned long off,
		       unsigned long head, unsigned long info)
{
	struct page *page = lt->page + off;
	unsigned long flags = page->flags.f & PAGEFLAGS_MASK;

	/* The first tail has the order in place of some flags. */
	if (off == head + 1)
		flags &= ~0xffUL;

	if (page->compound_info != info || !PageTail(page) ||
	    compound_head(page) != lt->page + head) {
		lend_mismatch(lt, off, "no tail of page %lu: %lx", head,
			      page->compound_info);
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
#ifdef CONFIG_MEMCG
	/* The first tail has the number of pages in place of it. */
	if (off > head + 1 && page->memcg_data) {
		lend_mismatch(lt, off, "tail with memcg_data %lx", page->memcg_data);
		return false;
	}
#endif
	return true;
}

/*
 * The page table of the vmemmap: with HVO a folio has a page for its first struct
 * pages only, and shares the rest with all folios of that order in the zone.
 */
#if defined(CONFIG_X86_64) && defined(CONFIG_HUGETLB_PAGE_OPTIMIZE_VMEMMAP)
static bool check_vmemmap(struct lend_test *lt, unsigned long off)
{
	struct zone *zone = page_zone(lt->page);
	unsigned int level, order = lend_order_at(lt, off);
	unsigned long pfn = 0;
	struct page *shared;
	pte_t *pte;
	int i;

	if (!lt->hvo)
		return true;

	pte = lookup_address((unsigned long)(lt->page + off), &level);
	if (!pte || level != PG_LEVEL_4K || !pte_present(*pte)) {
		lend_mismatch(lt, off, "vmemmap of level %u", level);
		return false;
	}
	pfn = pte_pfn(*pte);
	if (lend_head_of(lt, off) == off || !order) {
		for (i = 0; i < NR_VMEMMAP_TAILS; i++) {
			shared = zone->vmemmap_tails[i];
			if (!shared || page_to_pfn(shared) != pfn)
				continue;
			lend_mismatch(lt, off, "head in a shared page of the vmemmap");
			return false;
		}
		if (!pte_write(*pte)) {
			lend_mismatch(lt, off, "head that can't be written");
			return false;
		}
		return true;
	}

	shared = zone->vmemmap_tails[order - VMEMMAP_TAIL_MIN_ORDER];
	if (!shared || page_to_pfn(shared) != pfn) {
		lend_mismatch(lt, off, "page of the vmemmap is not shared");
		return false;
	}
	/* A reader may write back the zero that it found before a merge. */
	if (lt->was_split && !pte_write(*pte)) {
		lend_mismatch(lt, off, "tails that can't be written");
		return false;
	}
	return true;
}
#else
static bool check_vmemmap(struct lend_test *lt, unsigned long off)
{
	return true;
}
#endif

/*
 * A level of nodes has 64 slots.  A node is where the pages that it is for are
 * not of one folio.
 */
static long model_nodes(struct lend_test *lt)
{
	unsigned long off, nr = 0;
	unsigned int order;

	for (order = XA_CHUNK_SHIFT; order <= lt->order; order += XA_CHUNK_SHIFT)
		for (off = 0; off < lt->nr_pages; off += 1UL << order)
			nr += lend_order_at(lt, off) < order;
	return lt->nr_nodes + nr;
}

static void model_stats(struct lend_test *lt, struct hugetlb_lent_stats *stats)
{
	unsigned long off, nr;
	unsigned int order;

	*stats = (struct hugetlb_lent_stats) {
		.order = lt->order,
		.nr_returned = lt->nr_gone,
	};
	if (lt->nr_held && is_gone(lt, lt->held))
		stats->nr_returned -= 1UL << lend_order_at(lt, lt->held);
	for (off = 0; off < lt->nr_pages; off += nr) {
		order = lend_order_at(lt, off);
		nr = max(1UL << order, GRANULE);
		stats->nr_folios[order] += order ? 1 : nr;
		stats->nr_vmemmap++;
	}
	if (!lt->hvo)
		stats->nr_vmemmap = lt->nr_pages >> GRANULE_ORDER;
}

static bool check_stats(struct lend_test *lt)
{
	struct hugetlb_lent_stats stats, model;
	unsigned long nr_pages = 0;
	unsigned int i;
	long memmap;

	hugetlb_lent_stats(page_folio(lt->page), &stats);
	model_stats(lt, &model);
	KUNIT_EXPECT_EQ(lt->test, stats.order, model.order);
	KUNIT_EXPECT_EQ(lt->test, stats.nr_returned, model.nr_returned);
	KUNIT_EXPECT_EQ(lt->test, stats.nr_vmemmap, model.nr_vmemmap);
	for (i = 0; i <= MAX_FOLIO_ORDER; i++) {
		nr_pages += (unsigned long)stats.nr_folios[i] << i;
		if (stats.nr_folios[i] != model.nr_folios[i]) {
			lend_mismatch(lt, 0UL, "%u folios of order %u, not %u",
				      stats.nr_folios[i], i, model.nr_folios[i]);
			return false;
		}
	}
	KUNIT_EXPECT_EQ(lt->test, nr_pages, lt->nr_pages);

	memmap = nr_memmap(lt);
	KUNIT_EXPECT_EQ(lt->test, memmap - lt->nr_memmap,
			memmap < 0 ? 0 : (long)(model.nr_vmemmap - lt->nr_vmemmap));
	return true;
}

static bool check_mapping(struct lend_test *lt)
{
	const pgoff_t index = lt->index + lt->nr_pages;
	struct address_space *mapping = lt->mapping;
	long nodes;

	if (mapping->nrpages !=
	    lt->nr_pages - lt->nr_gone + (lt->beside ? PIECE : 0)) {
		lend_mismatch(lt, 0UL, "%lu pages in the mapping",
			      mapping->nrpages);
		return false;
	}
	if (lt->beside && (xa_load(&mapping->i_pages, index) != lt->beside ||
			   xa_get_order(&mapping->i_pages, index) != PMD_ORDER ||
			   folio_ref_count(lt->beside) != PIECE)) {
		lend_mismatch(lt, lt->nr_pages, "is not what it was");
		return false;
	}
	if (lt->nr_nodes < 0 || lt->nr_gone)
		return true;

	nodes = nr_nodes(lt);
	if (nodes != model_nodes(lt)) {
		lend_mismatch(lt, 0UL, "%ld nodes, not %ld", nodes,
			      model_nodes(lt));
		return false;
	}
	return true;
}

static bool __lend_check(struct lend_test *lt)
{
	const int nid = page_to_nid(lt->page);
	const enum zone_type zone = page_zonenum(lt->page);
	unsigned long off, head = 0, end = 0;
	struct page tail = {};

	for (off = 0; off < lt->nr_pages; off++) {
		if (off == end) {
			unsigned int order = lend_order_at(lt, off);

			head = off;
			end = off + (1UL << order);
			set_compound_head(&tail, lt->page + head, order);
			if (!check_head(lt, off, order))
				return false;
		} else if (!check_tail(lt, off, head, tail.compound_info)) {
			return false;
		}
		if (page_to_nid(lt->page + off) != nid ||
		    page_zonenum(lt->page + off) != zone) {
			lend_mismatch(lt, off, "node or zone");
			return false;
		}
		if (IS_ALIGNED(off, GRANULE) && !check_vmemmap(lt, off))
			return false;
		if (IS_ALIGNED(off, PIECE))
			cond_resched();
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

	return (!lt->mapping || check_mapping(lt)) && check_stats(lt);
}

/* What is merged in a while waits meanwhile. */
static bool lend_check(struct lend_test *lt)
{
	bool ok;

	if (lt->mapping)
		filemap_invalidate_lock_shared(lt->mapping);
	ok = __lend_check(lt);
	if (lt->mapping)
		filemap_invalidate_unlock_shared(lt->mapping);
	return ok;
}

/* The operations, on the page and on the model */

static void model_set(struct lend_test *lt, unsigned long off,
		      unsigned int order, unsigned int new_order)
{
	memset(lt->model + (off >> GRANULE_ORDER), new_order,
	       1UL << (order - GRANULE_ORDER));
}

/* A block is cut in halves as long as it is partly in the range. */
static void model_split(struct lend_test *lt, unsigned long off,
			unsigned int order, unsigned long first,
			unsigned long end)
{
	const unsigned long nr = 1UL << order;

	if (end <= off || first >= off + nr) {
		model_set(lt, off, order, order);
	} else if (order == GRANULE_ORDER || (first <= off && end >= off + nr)) {
		model_set(lt, off, order, 0);
	} else {
		model_split(lt, off, order - 1, first, end);
		model_split(lt, off + nr / 2, order - 1, first, end);
	}
}

static void lend_model_split(struct lend_test *lt, unsigned long first,
			     unsigned long nr)
{
	model_split(lt, lend_head_of(lt, first), lend_order_at(lt, first), first,
		    first + nr);
	lt->was_split = true;
}

static void lend_model_merge(struct lend_test *lt, unsigned long off,
			     unsigned int order)
{
	if (lend_order_at(lt, off) < order)
		model_set(lt, off, order, order);
}

/*
 * A merge has found that the folio of @busy is in use.  What is smaller than PIECE
 * is merged to that, at least, unless @busy is in it; how far it goes from there is
 * not for this to say.
 */
static void lend_model_merge_partly(struct lend_test *lt, unsigned long first,
				    unsigned int order, unsigned long busy)
{
	const unsigned long end = first + (1UL << order);
	unsigned long off, nr;
	unsigned int now;

	if (order <= PMD_ORDER)
		return;
	for (off = first; off < end; off += nr) {
		nr = max(1UL << lend_order_at(lt, off), PIECE);
		if (busy >= off && busy < off + nr)
			continue;
		now = folio_order(page_folio(lt->page + off));
		if (now < PMD_ORDER || now >= order)
			lend_mismatch(lt, off, "order %u after a merge failed", now);
		if (now <= lend_order_at(lt, off) || !IS_ALIGNED(off, 1UL << now) ||
		    round_down(busy, 1UL << now) == off)
			continue;
		lend_model_merge(lt, off, now);
		nr = 1UL << now;
	}
}

/* With the lock of the mapping, and with a reference in a page cache */
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

/*
 * Prepare with no lock, and with a reference that lend_done() puts unless there is
 * nothing to be done.
 */
static struct hugetlb_lent_split *lend_prepare(struct lend_test *lt,
					       unsigned long first,
					       unsigned long nr)
{
	struct hugetlb_lent_split *split;
	struct folio *folio;

	folio = lt->mapping ? lend_hold(lt, first) : page_folio(lt->page + first);
	split = hugetlb_lent_split_prepare(folio,
					   lt->page + first - &folio->page, nr);
	if (lt->mapping && IS_ERR_OR_NULL(split))
		lend_let_go(lt);
	return split;
}

static void lend_done(struct lend_test *lt)
{
	if (lt->mapping)
		lend_let_go(lt);
}

static int lend_commit_once(struct lend_test *lt,
			    struct hugetlb_lent_split *split, unsigned long first)
{
	struct folio *folio;
	int r;

	if (lt->mapping)
		filemap_invalidate_lock_shared(lt->mapping);
	folio = page_folio(lt->page + first);
	folio_lock(folio);
	r = hugetlb_lent_split_commit(split);
	KUNIT_EXPECT_TRUE(lt->test, folio_test_locked(folio));
	folio_unlock(folio);
	if (lt->mapping)
		filemap_invalidate_unlock_shared(lt->mapping);
	return r;
}

/* The delayed work may be in the way for a moment. */
static int lend_commit(struct lend_test *lt, struct hugetlb_lent_split *split,
		       unsigned long first)
{
	int r, i;

	for (i = 0; i < 100; i++) {
		r = lend_commit_once(lt, split, first);
		if (r != -EAGAIN)
			break;
		msleep(20);
	}
	return r;
}

/*
 * Split for a range that is in one folio.  Returns what prepare does, or 1 if there
 * was something to split.
 */
static long lend_split(struct lend_test *lt, unsigned long first,
		       unsigned long nr)
{
	struct hugetlb_lent_split *split = lend_prepare(lt, first, nr);
	int r;

	if (IS_ERR_OR_NULL(split))
		return PTR_ERR(split);

	r = lend_commit(lt, split, first);
	KUNIT_EXPECT_EQ(lt->test, 0, r);
	if (r)
		hugetlb_lent_split_cancel(split);
	lend_done(lt);
	if (r)
		return r;
	lend_model_split(lt, first, nr);
	return 1;
}

static long lend_cancel(struct lend_test *lt, unsigned long first,
			unsigned long nr)
{
	struct hugetlb_lent_split *split = lend_prepare(lt, first, nr);

	if (IS_ERR_OR_NULL(split))
		return PTR_ERR(split);

	hugetlb_lent_split_cancel(split);
	lend_done(lt);
	return 1;
}

static int lend_merge_once(struct lend_test *lt, unsigned long off,
			   unsigned int order)
{
	struct folio *folio = lend_lock(lt, off);
	int r = hugetlb_lent_merge(folio, order);

	KUNIT_EXPECT_TRUE(lt->test, folio_test_locked(folio));
	lend_unlock(lt, folio);
	return r;
}

static int lend_merge(struct lend_test *lt, unsigned long off,
		      unsigned int order)
{
	int r, i;

	for (i = 0; i < 100; i++) {
		r = lend_merge_once(lt, off, order);
		if (r != -EAGAIN)
			break;
		msleep(20);
	}
	if (!r)
		lend_model_merge(lt, off, order);
	return r;
}

static int lend_later(struct lend_test *lt, unsigned long off,
		      unsigned int order)
{
	struct folio *folio = lend_lock(lt, off);
	int r = hugetlb_lent_merge_later(folio, order);

	lt->asked_later = true;
	lend_unlock(lt, folio);
	return r;
}

/* Wait until a folio has been merged, and tell how long that took. */
static unsigned long lend_wait(struct lend_test *lt, unsigned long off,
			       unsigned int order)
{
	unsigned long start = jiffies;

	while (folio_order(page_folio(lt->page + off)) != order &&
	       time_before(jiffies, start + PATIENCE))
		msleep(20);
	KUNIT_EXPECT_EQ(lt->test, order, folio_order(page_folio(lt->page + off)));
	lend_model_merge(lt, off, order);
	return jiffies - start;
}

/* Split a whole page for a range, and merge all of it. */
static void split_and_merge(struct lend_test *lt, unsigned long first,
			    unsigned long nr)
{
	struct kunit *test = lt->test;

	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, first, nr));
	KUNIT_ASSERT_TRUE_MSG(test, lend_check(lt), "split at %lu, %lu pages",
			      first, nr);
	KUNIT_EXPECT_EQ(test, 0, lend_merge(lt, 0, lt->order));
	KUNIT_ASSERT_TRUE_MSG(test, lend_check(lt), "merged after %lu, %lu pages",
			      first, nr);
}

/* Ranges of all kinds, at each of the places that differ */
static void test_split_ranges(struct kunit *test)
{
	struct lend_test *lt = lend_borrow(test);
	const unsigned long nr = lt->nr_pages;

	KUNIT_ASSERT_TRUE(test, lend_check(lt));
	/* One page: the first, the last, on both sides of the middle */
	split_and_merge(lt, 0, 1);
	split_and_merge(lt, nr - 1, 1);
	split_and_merge(lt, nr / 2, 1);
	split_and_merge(lt, nr / 2 - 1, 1);
	split_and_merge(lt, nr / 2 - 1, 2);
	/* A granule, parts of two, several, those of a quarter */
	split_and_merge(lt, 3 * GRANULE, GRANULE);
	split_and_merge(lt, GRANULE - 1, 2);
	split_and_merge(lt, 2 * GRANULE + 7, 3 * GRANULE);
	split_and_merge(lt, nr / 4, nr / 4);
	/* All but the ends, and all but as much as is a folio at the ends */
	split_and_merge(lt, 1, nr - 2);
	split_and_merge(lt, GRANULE, nr - 2 * GRANULE);
	split_and_merge(lt, 0, nr);
	if (lt->order > PMD_ORDER) {
		split_and_merge(lt, 3 * PIECE, PIECE);
		split_and_merge(lt, 3 * PIECE + 1, PIECE - 1);
		split_and_merge(lt, nr - PIECE, PIECE);
		split_and_merge(lt, 100, 3 * PIECE);
		split_and_merge(lt, BIT(12) - 1, BIT(12) + 2);
	}
	lend_return(lt);
}

/*
 * The first page of a page leaves one folio of each order.  Split each of these, at
 * its start, in the middle or at its end, and what that leaves once more.
 */
static void test_split_again(struct kunit *test)
{
	struct lend_test *lt = lend_borrow(test);
	unsigned long off, at, nr;
	unsigned int order;

	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 0, 1));
	KUNIT_ASSERT_TRUE(test, lend_check(lt));
	for (order = lt->order - 1; order >= GRANULE_ORDER; order--) {
		off = 1UL << order;
		nr = 1UL << order;
		at = order % 3 == 0 ? 0 : order % 3 == 1 ? nr / 2 : nr - 1;

		KUNIT_ASSERT_EQ(test, order, lend_order_at(lt, off));
		KUNIT_EXPECT_EQ(test, 1, lend_split(lt, off + at, 1));
		KUNIT_ASSERT_TRUE_MSG(test, lend_check(lt), "order %u", order);
		if (order < GRANULE_ORDER + 2)
			continue;

		/* The half of it that has no single page */
		at = at < nr / 2 ? nr / 2 : 0;
		KUNIT_ASSERT_EQ(test, order - 1, lend_order_at(lt, off + at));
		KUNIT_EXPECT_EQ(test, 1, lend_split(lt, off + at + nr / 4 - 1, 2));
		KUNIT_ASSERT_TRUE_MSG(test, lend_check(lt), "order %u", order);
	}
	for (order = GRANULE_ORDER; order <= lt->order; order++)
		KUNIT_EXPECT_EQ(test, 0, lend_merge(lt, 0, order));
	KUNIT_ASSERT_TRUE(test, lend_check(lt));

	/* Whole folios of every order, from the inside to the outside */
	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, lt->nr_pages - 1, 1));
	for (order = GRANULE_ORDER; order < lt->order; order++) {
		off = lt->nr_pages - (2UL << order);
		KUNIT_ASSERT_EQ(test, order, lend_order_at(lt, off));
		KUNIT_EXPECT_EQ(test, 1, lend_split(lt, off, 1UL << order));
		KUNIT_ASSERT_TRUE_MSG(test, lend_check(lt), "order %u", order);
	}
	lend_return(lt);
}

/* Blocks of each order, of single pages and of any mixture, again and again */
static void test_merge(struct kunit *test)
{
	struct lend_test *lt = lend_borrow(test);
	const unsigned long mid = lt->nr_pages / 2;
	unsigned long off;
	unsigned int order, i;

	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 0, lt->nr_pages));
	for (order = GRANULE_ORDER; order <= lt->order; order++) {
		off = round_down(mid - 1, 1UL << order);
		KUNIT_EXPECT_EQ(test, 0, lend_merge(lt, off, order));
		KUNIT_ASSERT_TRUE_MSG(test, lend_check(lt), "order %u", order);
	}

	/* Single pages at the ends of what is merged next, and inside */
	for (i = 0; i < 2; i++) {
		KUNIT_EXPECT_EQ(test, 1, lend_split(lt, mid + 5, 1));
		for (order = GRANULE_ORDER; order < lt->order; order++) {
			off = i ? mid + (1UL << order) - 1 : mid + (1UL << order) / 2;
			KUNIT_EXPECT_GE(test, lend_split(lt, off, 1), 0);
			KUNIT_EXPECT_EQ(test, 0, lend_merge(lt, mid, order));
			KUNIT_ASSERT_TRUE_MSG(test, lend_check(lt), "order %u", order);
			/* As large as that, or larger */
			KUNIT_EXPECT_EQ(test, 0, lend_merge(lt, mid, order));
			KUNIT_EXPECT_EQ(test, 0, lend_merge(lt, mid, GRANULE_ORDER));
			KUNIT_ASSERT_EQ(test, order, folio_order(page_folio(lt->page + mid)));
		}
		KUNIT_EXPECT_EQ(test, 0, lend_merge(lt, 0, lt->order));
		KUNIT_ASSERT_TRUE(test, lend_check(lt));
	}

	/* Ends of both halves, so that nothing of either is one folio */
	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 7, 1));
	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, lt->nr_pages - 1, 1));
	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, mid - 1, 1));
	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, mid + GRANULE + 1, GRANULE / 2));
	KUNIT_ASSERT_TRUE(test, lend_check(lt));
	KUNIT_EXPECT_EQ(test, 0, lend_merge(lt, mid, lt->order - 1));
	KUNIT_ASSERT_TRUE(test, lend_check(lt));
	KUNIT_EXPECT_EQ(test, 0, lend_merge(lt, 0, lt->order));
	KUNIT_ASSERT_TRUE(test, lend_check(lt));
	KUNIT_EXPECT_EQ(test, 0, lend_merge(lt, 0, GRANULE_ORDER));
	KUNIT_ASSERT_TRUE(test, lend_check(lt));

	/* merged() is called for delayed merges only. */
	KUNIT_EXPECT_EQ(test, 0, lt->nr_merged);
	lend_return(lt);
}

static void test_bad_arguments(struct kunit *test)
{
	struct lend_test *lt = lend_borrow(test);
	const unsigned long nr = lt->nr_pages;

	KUNIT_EXPECT_TRUE(test, hugetlb_lent_can_split());
	KUNIT_EXPECT_EQ(test, -EINVAL, lend_split(lt, 0, 0));
	KUNIT_EXPECT_EQ(test, -EINVAL, lend_split(lt, 0, nr + 1));
	KUNIT_EXPECT_EQ(test, -EINVAL, lend_split(lt, 1, nr));
	KUNIT_EXPECT_EQ(test, -EINVAL, lend_split(lt, 1, ULONG_MAX));
	KUNIT_EXPECT_EQ(test, -EINVAL,
			PTR_ERR(hugetlb_lent_split_prepare(page_folio(lt->page),
							   nr, 1)));
	KUNIT_EXPECT_EQ(test, -EINVAL,
			PTR_ERR(hugetlb_lent_split_prepare(page_folio(lt->page),
							   ULONG_MAX, 2)));
	KUNIT_EXPECT_EQ(test, 0, hugetlb_lent_split_commit(NULL));
	hugetlb_lent_split_cancel(NULL);

	KUNIT_EXPECT_EQ(test, -EINVAL, lend_merge(lt, 0, 0));
	KUNIT_EXPECT_EQ(test, -EINVAL, lend_merge(lt, 0, GRANULE_ORDER - 1));
	KUNIT_EXPECT_EQ(test, -EINVAL, lend_merge(lt, 0, lt->order + 1));
	KUNIT_EXPECT_EQ(test, 0, lend_merge(lt, 0, lt->order));
	KUNIT_EXPECT_EQ(test, -EINVAL, lend_later(lt, 0, 0));
	KUNIT_EXPECT_EQ(test, -EINVAL, lend_later(lt, 0, GRANULE_ORDER - 1));
	KUNIT_EXPECT_EQ(test, -EINVAL, lend_later(lt, 0, lt->order + 1));
	KUNIT_ASSERT_TRUE(test, lend_check(lt));

	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1));
	/* A single page, and what goes beyond a folio in the page */
	KUNIT_EXPECT_EQ(test, 0, lend_split(lt, 5, 1));
	KUNIT_EXPECT_EQ(test, -EINVAL, lend_split(lt, 5, 2));
	KUNIT_EXPECT_EQ(test, -EINVAL, lend_split(lt, GRANULE, GRANULE + 1));
	/* Not the start of such a block */
	KUNIT_EXPECT_EQ(test, -EINVAL, lend_merge(lt, 1, GRANULE_ORDER));
	KUNIT_EXPECT_EQ(test, -EINVAL, lend_merge(lt, GRANULE, GRANULE_ORDER + 1));
	KUNIT_EXPECT_EQ(test, -EINVAL, lend_later(lt, 1, GRANULE_ORDER));
	KUNIT_EXPECT_EQ(test, -EINVAL, lend_later(lt, GRANULE, GRANULE_ORDER + 1));
	KUNIT_EXPECT_EQ(test, -EINVAL, lend_later(lt, lt->nr_pages / 2, lt->order));
	KUNIT_EXPECT_FALSE(test, merge_wanted(lt));
	KUNIT_ASSERT_TRUE(test, lend_check(lt));
	lend_return(lt);
}

/* What prepare and cancel do must not be seen anywhere. */
static void test_cancel(struct kunit *test)
{
	struct lend_test *lt = lend_borrow(test);
	struct hugetlb_lent_split *split;

	KUNIT_EXPECT_EQ(test, 1, lend_cancel(lt, 5, 1));
	KUNIT_EXPECT_EQ(test, 1, lend_cancel(lt, 0, lt->nr_pages));
	KUNIT_EXPECT_EQ(test, 1, lend_cancel(lt, 100, lt->nr_pages - 100));
	KUNIT_ASSERT_TRUE(test, lend_check(lt));

	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1));
	KUNIT_EXPECT_EQ(test, 1, lend_cancel(lt, lt->nr_pages - 1, 1));
	KUNIT_EXPECT_EQ(test, 1, lend_cancel(lt, GRANULE, 1));
	KUNIT_ASSERT_TRUE(test, lend_check(lt));

	/* Nor as long as it is prepared */
	split = lend_prepare(lt, lt->nr_pages / 2 + 3, 1);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, split);
	KUNIT_ASSERT_TRUE(test, lend_check(lt));
	hugetlb_lent_split_cancel(split);
	lend_done(lt);
	KUNIT_ASSERT_TRUE(test, lend_check(lt));
	lend_return(lt);
}

/* The page table of the vmemmap, as far as there are PTEs */
static void save_vmemmap(struct lend_test *lt, unsigned long *pfns)
{
	unsigned long off;

	for (off = 0; off < lt->nr_pages; off += GRANULE) {
#ifdef CONFIG_X86_64
		unsigned int level;
		pte_t *pte = lookup_address((unsigned long)(lt->page + off), &level);

		pfns[off >> GRANULE_ORDER] = pte ? pte_val(*pte) : 0;
#else
		pfns[off >> GRANULE_ORDER] = 0;
#endif
	}
}

/*
 * How many pages of the vmemmap a split costs, in figures, and that a merge gives
 * them back at once.  What only concerns a granule changes no entry.
 */
static void test_vmemmap(struct kunit *test)
{
	struct lend_test *lt = lend_borrow(test);
	const unsigned long nr_granules = lt->nr_pages >> GRANULE_ORDER;
	const size_t size = nr_granules * sizeof(unsigned long);
	unsigned long cost = lt->order - GRANULE_ORDER, *before, *after;
	int i;

	KUNIT_EXPECT_EQ_MSG(test, true, lt->nr_memmap > 0, "no /proc/vmstat");
	before = kunit_kmalloc(test, size, GFP_KERNEL);
	after = kunit_kmalloc(test, size, GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, before);
	KUNIT_ASSERT_NOT_NULL(test, after);
	/* Without HVO nothing costs anything. */
	if (!lt->hvo)
		cost = 0;
	kunit_info(test, "HVO %s: %lu pages, %lu for the first single page\n",
		   lt->hvo ? "on" : "off", lt->nr_vmemmap, cost);

	/* 13 pages for the first of 1G */
	for (i = 0; i < 3; i++) {
		KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1));
		KUNIT_EXPECT_EQ(test, nr_vmemmap(lt), lt->nr_vmemmap + cost);
		KUNIT_EXPECT_EQ(test, 0, lend_merge(lt, 0, lt->order));
		KUNIT_EXPECT_EQ(test, nr_vmemmap(lt), lt->nr_vmemmap);
		KUNIT_EXPECT_EQ(test, nr_memmap(lt), lt->nr_memmap);
	}
	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 0, lt->nr_pages));
	KUNIT_EXPECT_EQ(test, nr_vmemmap(lt), nr_granules);
	KUNIT_EXPECT_EQ(test, 0, lend_merge(lt, 0, lt->order));
	KUNIT_EXPECT_EQ(test, nr_vmemmap(lt), lt->nr_vmemmap);

	/* The granule behind the single pages */
	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1));
	KUNIT_ASSERT_EQ(test, GRANULE_ORDER, lend_order_at(lt, GRANULE));
	save_vmemmap(lt, before);
	for (i = 0; i < 10; i++) {
		KUNIT_EXPECT_EQ(test, 1, lend_split(lt, GRANULE + 6 * i, 3));
		KUNIT_EXPECT_EQ(test, nr_vmemmap(lt), lt->nr_vmemmap + cost);
		if (!i)
			KUNIT_ASSERT_TRUE(test, lend_check(lt));
		save_vmemmap(lt, after);
		KUNIT_EXPECT_EQ(test, 0, memcmp(before, after, size));
		KUNIT_EXPECT_EQ(test, 0, lend_merge(lt, GRANULE, GRANULE_ORDER));
		KUNIT_EXPECT_EQ(test, nr_vmemmap(lt), lt->nr_vmemmap + cost);
		save_vmemmap(lt, after);
		KUNIT_EXPECT_EQ(test, 0, memcmp(before, after, size));
	}
	KUNIT_ASSERT_TRUE(test, lend_check(lt));
	lend_return(lt);
}

/* The tree, in figures; that each entry is right is checked all the time. */
static void test_nodes(struct kunit *test)
{
	struct lend_test *lt = lend_borrow(test);
	const bool huge = lt->order > PMD_ORDER;
	long nodes = nr_nodes(lt);

	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1));
	KUNIT_EXPECT_EQ(test, nr_nodes(lt) - nodes, huge ? 3 : 1);
	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, GRANULE, 1));
	KUNIT_EXPECT_EQ(test, nr_nodes(lt) - nodes, huge ? 4 : 2);
	KUNIT_EXPECT_EQ(test, 0, lend_merge(lt, GRANULE, GRANULE_ORDER));
	KUNIT_EXPECT_EQ(test, nr_nodes(lt) - nodes, huge ? 3 : 1);
	KUNIT_EXPECT_EQ(test, 0, lend_merge(lt, 0, lt->order));
	KUNIT_EXPECT_EQ(test, nr_nodes(lt), nodes);
	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 0, lt->nr_pages));
	KUNIT_EXPECT_EQ(test, nr_nodes(lt) - nodes, huge ? 4161 : 8);
	KUNIT_EXPECT_EQ(test, 0, lend_merge(lt, 0, lt->order));
	KUNIT_EXPECT_EQ(test, nr_nodes(lt), nodes);
	lend_return(lt);
}

/* The tree has lost levels by the time that it is to have one large entry. */
static void test_nodes_lost(struct kunit *test)
{
	struct lend_test *lt = lend_borrow(test);
	const loff_t end = (loff_t)lt->nr_pages << PAGE_SHIFT;
	int i;

	for (i = 0; i < 2; i++) {
		lend_add_beside(lt);
		if (!lt->beside)
			break;
		lt->nr_nodes = -1;
		KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1));
		KUNIT_ASSERT_TRUE(test, lend_check(lt));
		filemap_invalidate_lock(lt->mapping);
		truncate_inode_pages_range(lt->mapping, end, -1);
		filemap_invalidate_unlock(lt->mapping);
		lt->beside = NULL;
		hugetlb_reservation_destroy(lt->beside_resv);
		lt->beside_resv = NULL;
		KUNIT_ASSERT_TRUE(test, lend_check(lt));
		if (i)
			KUNIT_EXPECT_EQ(test, 1, lend_split(lt, lt->nr_pages - 1, 1));
		KUNIT_EXPECT_EQ(test, 0, lend_merge(lt, 0, lt->order));
		KUNIT_ASSERT_TRUE(test, lend_check(lt));
	}
	lend_return(lt);
}

/* With a reference that is not the caller's, commit changes nothing. */
static void split_in_use(struct lend_test *lt, unsigned long first,
			 unsigned long nr)
{
	struct hugetlb_lent_split *split;
	struct kunit *test = lt->test;
	int i;

	split = lend_prepare(lt, first, nr);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, split);
	/* Of one of the tails, which makes no difference */
	lend_hold(lt, first);
	for (i = 0; i < 3; i++)
		KUNIT_EXPECT_EQ(test, -EAGAIN, lend_commit_once(lt, split, first));
	KUNIT_ASSERT_TRUE(test, lend_check(lt));
	lend_let_go(lt);

	KUNIT_EXPECT_EQ(test, 0, lend_commit(lt, split, first));
	lend_done(lt);
	lend_model_split(lt, first, nr);
	KUNIT_ASSERT_TRUE(test, lend_check(lt));
}

static void test_split_in_use(struct kunit *test)
{
	struct lend_test *lt = lend_borrow(test);
	struct hugetlb_lent_split *split;

	split_in_use(lt, 5, 1);
	split_in_use(lt, lt->nr_pages - 1, 1);
	split_in_use(lt, GRANULE + 1, 1);
	split_in_use(lt, 2 * GRANULE, 2 * GRANULE);

	/* It is given up in the end. */
	KUNIT_EXPECT_EQ(test, 0, lend_merge(lt, 0, lt->order));
	split = lend_prepare(lt, 5, 1);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, split);
	lend_hold(lt, 0);
	KUNIT_EXPECT_EQ(test, -EAGAIN, lend_commit_once(lt, split, 5));
	hugetlb_lent_split_cancel(split);
	KUNIT_ASSERT_TRUE(test, lend_check(lt));
	lend_let_go(lt);
	lend_done(lt);
	KUNIT_ASSERT_TRUE(test, lend_check(lt));
	lend_return(lt);
}

static void punch(struct lend_test *lt, unsigned long off, unsigned long nr)
{
	loff_t pos = (loff_t)(lt->index + off) << PAGE_SHIFT;

	filemap_invalidate_lock(lt->mapping);
	truncate_inode_pages_range(lt->mapping, pos,
				   pos + ((loff_t)nr << PAGE_SHIFT) - 1);
	filemap_invalidate_unlock(lt->mapping);
	lt->gone = off;
	lt->nr_gone = nr;
}

/* What was prepared to be split has left the page cache, or a part of it has. */
static void test_split_truncated(struct kunit *test)
{
	enum { CANCEL, COMMIT, PART, NR } how;

	for (how = CANCEL; how < NR; how++) {
		struct lend_test *lt = lend_borrow(test);
		unsigned long first = how == PART ? lt->nr_pages / 2 : 0;
		unsigned long nr = lt->nr_pages - first;
		struct hugetlb_lent_split *split;

		if (how == PART)
			KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 0, 1));
		split = lend_prepare(lt, first + 5, 1);
		KUNIT_ASSERT_NOT_ERR_OR_NULL(test, split);
		punch(lt, first, nr);
		KUNIT_EXPECT_NULL(test, page_folio(lt->page + first)->mapping);
		if (how != CANCEL)
			KUNIT_EXPECT_EQ(test, -EAGAIN,
					lend_commit_once(lt, split, first));
		KUNIT_EXPECT_TRUE(test, lend_check(lt));
		hugetlb_lent_split_cancel(split);
		KUNIT_EXPECT_TRUE(test, lend_check(lt));

		if (how == PART) {
			lend_done(lt);
			KUNIT_EXPECT_TRUE(test, lend_check(lt));
			/* The rest can be split still. */
			KUNIT_EXPECT_EQ(test, 1, lend_split(lt, GRANULE, 1));
			KUNIT_EXPECT_TRUE(test, lend_check(lt));
		} else {
			KUNIT_EXPECT_EQ(test, 1, lend_allocated(lt));
			lend_done(lt);
		}
		lend_return(lt);
	}
}

/*
 * A folio of what is to be merged is in use: by a reference, or by its lock.
 */
static void merge_in_use(struct lend_test *lt, unsigned long off,
			 unsigned int order, unsigned long busy, bool locked)
{
	struct folio *folio = page_folio(lt->page + busy);
	struct kunit *test = lt->test;

	if (locked)
		folio_lock(folio);
	else
		lend_hold(lt, busy);
	KUNIT_EXPECT_EQ(test, -EAGAIN, lend_merge_once(lt, off, order));
	lend_model_merge_partly(lt, off, order, busy);
	if (locked)
		folio_unlock(folio);
	KUNIT_ASSERT_TRUE_MSG(test, lend_check(lt), "order %u, page %lu", order, busy);
	if (!locked)
		lend_let_go(lt);
	KUNIT_EXPECT_EQ(test, 0, lend_merge(lt, off, order));
	KUNIT_ASSERT_TRUE_MSG(test, lend_check(lt), "order %u, page %lu", order, busy);
}

static void test_merge_in_use(struct kunit *test)
{
	struct lend_test *lt = lend_borrow(test);
	const unsigned long nr = lt->nr_pages;
	unsigned int order;
	int locked;

	for (locked = 0; locked < 2; locked++) {
		/* One page, the first of all, the last of its folio */
		KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1));
		merge_in_use(lt, 0, GRANULE_ORDER, GRANULE - 1, locked);
		KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1));
		KUNIT_EXPECT_EQ(test, 1, lend_split(lt, nr - 1, 1));
		merge_in_use(lt, 0, lt->order, 1, locked);
		KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1));
		KUNIT_EXPECT_EQ(test, 1, lend_split(lt, nr - 1, 1));
		merge_in_use(lt, 0, lt->order, nr - 1, locked);

		/* A large folio */
		for (order = GRANULE_ORDER; order < lt->order; order += 3) {
			KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1));
			merge_in_use(lt, 0, lt->order, 1UL << order, locked);
		}
	}

	/* The first folio of the block: one more reference than the caller has */
	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1));
	merge_in_use(lt, 0, lt->order, 0, false);
	lend_return(lt);
}

/* A page that failed must not become part of anything. */
static void test_merge_hwpoison(struct kunit *test)
{
#ifdef CONFIG_MEMORY_FAILURE
	struct lend_test *lt = lend_borrow(test);
	const unsigned long where[] = { 0, 7, GRANULE - 1 };
	int i;

	for (i = 0; i < ARRAY_SIZE(where); i++) {
		KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1));
		lt->poisoned = where[i];
		SetPageHWPoison(lt->page + lt->poisoned);
		KUNIT_EXPECT_EQ(test, -EHWPOISON, lend_merge(lt, 0, GRANULE_ORDER));
		KUNIT_ASSERT_TRUE(test, lend_check(lt));
		KUNIT_EXPECT_EQ(test, -EHWPOISON, lend_merge(lt, 0, lt->order));
		KUNIT_ASSERT_TRUE(test, lend_check(lt));
		/* Others can be. */
		KUNIT_EXPECT_EQ(test, 1, lend_split(lt, GRANULE, 1));
		KUNIT_EXPECT_EQ(test, 0, lend_merge(lt, GRANULE, GRANULE_ORDER));
		KUNIT_ASSERT_TRUE(test, lend_check(lt));

		ClearPageHWPoison(lt->page + lt->poisoned);
		lt->poisoned = ULONG_MAX;
		KUNIT_EXPECT_EQ(test, 0, lend_merge(lt, 0, lt->order));
		KUNIT_ASSERT_TRUE(test, lend_check(lt));
	}
	lend_return(lt);
#else
	kunit_skip(test, "no handling of memory failures");
#endif
}

/*
 * Flags: what is true of a folio is true of its parts, and what the host's mappings
 * left on single pages does not stay on tails.
 */
static void test_flags(struct kunit *test)
{
	struct lend_test *lt = lend_borrow(test);
	struct folio *folio = page_folio(lt->page);
	struct hugetlb_lent_split *split;
	unsigned long off, nr;

	/* At the time of the split, not when that was prepared */
	clear_bit(PG_uptodate, &folio->flags.f);
	split = lend_prepare(lt, 5, 1);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, split);
	set_bit(PG_uptodate, &folio->flags.f);
	set_bit(PG_dirty, &folio->flags.f);
	KUNIT_EXPECT_EQ(test, 0, lend_commit(lt, split, 5));
	lend_done(lt);
	lend_model_split(lt, 5, 1);
	lt->flags |= BIT(PG_dirty);
	KUNIT_ASSERT_TRUE(test, lend_check(lt));

	for (off = 0; off < lt->nr_pages; off += nr) {
		nr = 1UL << lend_order_at(lt, off);
		clear_bit(PG_dirty, &lt->page[off].flags.f);
		if (!off || nr > 1)
			continue;
		lt->page[off].flags.f |= BIT(PG_dirty) | BIT(PG_referenced) |
					 BIT(PG_workingset) | BIT(PG_owner_priv_1);
	}
	lt->flags = BIT(PG_uptodate);
	/* Whether that makes the whole dirty is not for this to say. */
	lt->may_flags = BIT(PG_dirty);
	KUNIT_EXPECT_EQ(test, 0, lend_merge(lt, 0, lt->order));
	KUNIT_ASSERT_TRUE(test, lend_check(lt));
	lend_return(lt);
}

/* mlock() leaves its mark on a page that is on no LRU list, and counts it. */
static void test_mlocked(struct kunit *test)
{
	struct lend_test *lt = lend_borrow(test);
	struct zone *zone = page_zone(lt->page);
	unsigned long before;
	unsigned long off;
	int i;

	before = zone_page_state_snapshot(zone, NR_MLOCK);
	for (i = 0; i < 3; i++) {
		KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1));
		for (off = 0; off < GRANULE; off += 9) {
			set_bit(PG_mlocked, &lt->page[off].flags.f);
			mod_zone_page_state(zone, NR_MLOCK, 1);
		}
		/* The last time it goes home like that. */
		if (i == 2)
			break;
		KUNIT_EXPECT_EQ(test, 0, lend_merge(lt, 0, i ? lt->order :
							       GRANULE_ORDER));
		KUNIT_ASSERT_TRUE(test, lend_check(lt));
		KUNIT_EXPECT_EQ(test, before,
				zone_page_state_snapshot(zone, NR_MLOCK));
		KUNIT_EXPECT_EQ(test, 0, lend_merge(lt, 0, lt->order));
	}
	lend_put_all(lt);
	hugetlb_reservation_flush(lt->resv);
	KUNIT_EXPECT_EQ(test, before, zone_page_state_snapshot(zone, NR_MLOCK));
	lend_return(lt);
}

/*
 * Merging later
 *
 * A machine may be so slow, or so loaded, that a merge is late, or that the test is.
 * A function that minds returns whether all was in time, and gets another chance.
 */
static void try_in_time(struct kunit *test, bool (*fn)(struct lend_test *lt))
{
	int tries;

	for (tries = 0; tries < 8; tries++) {
		struct lend_test *lt = lend_borrow(test);
		bool in_time = fn(lt);

		lend_return(lt);
		if (in_time)
			return;
		kunit_info(test, "too early or too late\n");
	}
	KUNIT_FAIL(test, "not in time once");
}

/* Merging that was put off is done when the page is left alone, not before. */
static bool later(struct lend_test *lt)
{
	struct kunit *test = lt->test;
	unsigned long start, waited;
	unsigned int order;
	int i;

	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1));
	KUNIT_EXPECT_FALSE(test, merge_wanted(lt));
	for (i = 0; i < 5; i++) {
		start = jiffies;
		KUNIT_EXPECT_EQ(test, 0, lend_later(lt, 0, lt->order));
		KUNIT_EXPECT_TRUE(test, merge_wanted(lt));
		msleep(300);
		order = folio_order(page_folio(lt->page));
		if (jiffies - start >= MERGE_DELAY)
			return false;
		KUNIT_EXPECT_EQ(test, 0, order);
	}
	lend_wait(lt, 0, lt->order);
	waited = jiffies - start;
	KUNIT_EXPECT_GE(test, waited, MERGE_DELAY);
	KUNIT_ASSERT_TRUE(test, lend_check(lt));
	KUNIT_EXPECT_FALSE(test, merge_wanted(lt));
	KUNIT_EXPECT_EQ(test, lt->nr_merged, 1);
	KUNIT_EXPECT_EQ(test, lt->merged[0].off, 0);
	KUNIT_EXPECT_EQ(test, lt->merged[0].order, lt->order);

	/* That it is whole already is no reason to do anything. */
	KUNIT_EXPECT_EQ(test, 0, lend_later(lt, 0, lt->order));
	KUNIT_EXPECT_FALSE(test, merge_wanted(lt));
	return waited < 2 * MERGE_DELAY;
}

static void test_later(struct kunit *test)
{
	try_in_time(test, later);
}

/* A split elsewhere puts it off as well. */
static bool later_put_off(struct lend_test *lt)
{
	unsigned long start, waited;
	struct kunit *test = lt->test;

	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1));
	start = jiffies;
	KUNIT_EXPECT_EQ(test, 0, lend_later(lt, 0, GRANULE_ORDER));
	msleep(700);
	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, lt->nr_pages / 2, 1));
	if (jiffies - start >= MERGE_DELAY)
		return false;
	start = jiffies;
	lend_wait(lt, 0, GRANULE_ORDER);
	waited = jiffies - start;
	/* The split was up to a tick before. */
	KUNIT_EXPECT_GE(test, waited, MERGE_DELAY - 1);
	KUNIT_ASSERT_TRUE(test, lend_check(lt));
	return waited < 2 * MERGE_DELAY;
}

static void test_later_put_off(struct kunit *test)
{
	try_in_time(test, later_put_off);
}

/*
 * It is forgotten once a part of that block is split: not by what was prepared, and
 * not by a commit that found the folio in use.  A reference to page 7 is what keeps
 * it from being done meanwhile.
 */
static void test_later_forgotten(struct kunit *test)
{
	struct lend_test *lt = lend_borrow(test);
	struct hugetlb_lent_split *split;
	const unsigned long off = lt->nr_pages / 2;

	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1));
	get_page(lt->page + 7);
	KUNIT_EXPECT_EQ(test, 0, lend_later(lt, 0, lt->order));
	KUNIT_EXPECT_EQ(test, 0, lend_later(lt, 0, GRANULE_ORDER));

	split = lend_prepare(lt, off, 1);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, split);
	KUNIT_EXPECT_TRUE(test, merge_wanted(lt));
	lend_hold(lt, off);
	KUNIT_EXPECT_EQ(test, -EAGAIN, lend_commit_once(lt, split, off));
	KUNIT_EXPECT_TRUE(test, merge_wanted(lt));
	lend_let_go(lt);
	hugetlb_lent_split_cancel(split);
	lend_done(lt);
	KUNIT_EXPECT_TRUE(test, merge_wanted(lt));
	put_page(lt->page + 7);
	lend_wait(lt, 0, lt->order);
	KUNIT_ASSERT_TRUE(test, lend_check(lt));
	lend_return(lt);

	/* Now for what is forgotten: the page, but not its first granule */
	lt = lend_borrow(test);
	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1));
	get_page(lt->page + 7);
	KUNIT_EXPECT_EQ(test, 0, lend_later(lt, 0, lt->order));
	KUNIT_EXPECT_EQ(test, 0, lend_later(lt, 0, GRANULE_ORDER));
	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, off, 1));
	KUNIT_EXPECT_TRUE(test, merge_wanted(lt));
	put_page(lt->page + 7);
	lend_wait(lt, 0, GRANULE_ORDER);
	KUNIT_ASSERT_TRUE(test, lend_check(lt));
	KUNIT_EXPECT_FALSE(test, merge_wanted(lt));
	KUNIT_EXPECT_EQ(test, lt->nr_merged, 1);
	lend_return(lt);

	/* Both, and nothing happens any more */
	lt = lend_borrow(test);
	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1));
	get_page(lt->page + 7);
	KUNIT_EXPECT_EQ(test, 0, lend_later(lt, 0, lt->order));
	KUNIT_EXPECT_EQ(test, 0, lend_later(lt, 0, GRANULE_ORDER + 1));
	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, GRANULE, 1));
	KUNIT_EXPECT_FALSE(test, merge_wanted(lt));
	put_page(lt->page + 7);
	msleep(1500);
	KUNIT_ASSERT_TRUE(test, lend_check(lt));
	KUNIT_EXPECT_EQ(test, lt->nr_merged, 0);

	/* There was nothing to split: that forgets nothing. */
	get_page(lt->page + 7);
	KUNIT_EXPECT_EQ(test, 0, lend_later(lt, 0, GRANULE_ORDER));
	KUNIT_EXPECT_EQ(test, 0, lend_split(lt, 5, 1));
	KUNIT_EXPECT_TRUE(test, merge_wanted(lt));
	put_page(lt->page + 7);
	lend_return(lt);
}

/* Blocks are what was asked for: no buddies of these, and one in another is that. */
static void test_later_blocks(struct kunit *test)
{
	struct lend_test *lt = lend_borrow(test);
	const unsigned int order = GRANULE_ORDER + 1;
	const unsigned long nr = 1UL << order;
	unsigned int i;

	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 0, lt->nr_pages));
	/* Two buddies, and a block with a smaller one at its end */
	KUNIT_EXPECT_EQ(test, 0, lend_later(lt, 0, order));
	KUNIT_EXPECT_EQ(test, 0, lend_later(lt, nr, order));
	KUNIT_EXPECT_EQ(test, 0, lend_later(lt, 4 * nr - GRANULE, GRANULE_ORDER));
	KUNIT_EXPECT_EQ(test, 0, lend_later(lt, 2 * nr, order + 1));
	if (lt->order > PMD_ORDER) {
		KUNIT_EXPECT_EQ(test, 0, lend_later(lt, lt->nr_pages / 2,
						    lt->order - 1));
		KUNIT_EXPECT_EQ(test, 0, lend_later(lt, PIECE, PMD_ORDER));
	}
	lend_wait(lt, 0, order);
	lend_wait(lt, nr, order);
	lend_wait(lt, 2 * nr, order + 1);
	if (lt->order > PMD_ORDER) {
		lend_wait(lt, PIECE, PMD_ORDER);
		lend_wait(lt, lt->nr_pages / 2, lt->order - 1);
	}
	KUNIT_ASSERT_TRUE(test, lend_check(lt));
	KUNIT_EXPECT_FALSE(test, merge_wanted(lt));

	for (i = 0; i < lt->nr_merged && i < ARRAY_SIZE(lt->merged); i++)
		KUNIT_EXPECT_LE(test, lt->merged[i].order,
				lend_order_at(lt, lt->merged[i].off));
	KUNIT_EXPECT_GE(test, lt->nr_merged, lt->order > PMD_ORDER ? 5 : 3);
	lend_return(lt);
}

/* Each time that a page of it is in use it is left alone for twice as long. */
static bool later_in_use(struct lend_test *lt)
{
	const unsigned long piece = lt->nr_pages - PIECE;
	struct kunit *test = lt->test;
	unsigned long start, waited;
	struct lend_merged last;

	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1));
	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, lt->nr_pages - 1, 1));
	lend_hold(lt, 7);
	start = jiffies;
	KUNIT_EXPECT_EQ(test, 0, lend_later(lt, 0, lt->order));
	if (piece)
		/* No page in use is in this; it does not have to wait. */
		lend_wait(lt, piece, PMD_ORDER);
	else
		msleep(1500);
	KUNIT_EXPECT_TRUE(test, merge_wanted(lt));
	KUNIT_EXPECT_TRUE(test, lend_check(lt));
	if (piece) {
		KUNIT_EXPECT_GT(test, lt->nr_merged, 0);
		last = lt->merged[(lt->nr_merged - 1) % ARRAY_SIZE(lt->merged)];
		KUNIT_EXPECT_EQ(test, last.off, piece);
		KUNIT_EXPECT_EQ(test, last.order, PMD_ORDER);
	}
	lend_let_go(lt);
	lend_wait(lt, 0, lt->order);
	waited = jiffies - start;
	KUNIT_ASSERT_TRUE(test, lend_check(lt));
	/* After one second, and then two */
	return waited >= 3 * MERGE_DELAY && waited < 4 * MERGE_DELAY;
}

static void test_later_in_use(struct kunit *test)
{
	try_in_time(test, later_in_use);
}

/* A task that faults or truncates has the locks for a moment: no reason to back off. */
static bool later_locked(struct lend_test *lt)
{
	struct kunit *test = lt->test;
	struct folio *folio;

	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1));
	KUNIT_EXPECT_EQ(test, 0, lend_later(lt, 0, lt->order));

	/* It is tried after 1, 2 and 3 seconds, or after 1, 3 and 7. */
	filemap_invalidate_lock_shared(lt->mapping);
	msleep(1700);
	folio = page_folio(lt->page);
	folio_lock(folio);
	filemap_invalidate_unlock_shared(lt->mapping);
	msleep(1600);
	KUNIT_EXPECT_EQ(test, 0, folio_order(folio));
	KUNIT_EXPECT_TRUE(test, merge_wanted(lt));
	folio_unlock(folio);
	return lend_wait(lt, 0, lt->order) < 2 * MERGE_DELAY;
}

static void test_later_locked(struct kunit *test)
{
	try_in_time(test, later_locked);
}

/* What is split soon after it was merged, however often, waits for twice that time. */
static bool later_back_off(struct lend_test *lt)
{
	struct kunit *test = lt->test;
	unsigned long delay, start, waited;
	bool in_time = true;

	for (delay = MERGE_DELAY; delay <= 4 * MERGE_DELAY; delay *= 2) {
		KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1));
		if (delay > MERGE_DELAY)
			KUNIT_EXPECT_EQ(test, 1, lend_split(lt, lt->nr_pages - 1, 1));
		start = jiffies;
		KUNIT_EXPECT_EQ(test, 0, lend_later(lt, 0, lt->order));
		lend_wait(lt, 0, lt->order);
		waited = jiffies - start;
		KUNIT_EXPECT_GE(test, waited, delay);
		in_time &= waited < 2 * delay;
		/* The work has finished when this has had the lock. */
		KUNIT_ASSERT_TRUE(test, lend_check(lt));
	}
	return in_time;
}

static void test_later_back_off(struct kunit *test)
{
	try_in_time(test, later_back_off);
}

/* A part is truncated before it is to be merged, or all of it is. */
static void test_later_punched(struct kunit *test)
{
	struct lend_test *lt = lend_borrow(test);

	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1));
	get_page(lt->page + 5);
	KUNIT_EXPECT_EQ(test, 0, lend_later(lt, 0, lt->order));
	KUNIT_EXPECT_EQ(test, 0, lend_later(lt, 0, GRANULE_ORDER));
	punch(lt, 7, 1);
	put_page(lt->page + 5);
	msleep(1500);
	KUNIT_ASSERT_TRUE(test, lend_check(lt));
	KUNIT_EXPECT_EQ(test, lt->nr_merged, 0);
	lend_return(lt);

	/* The first page, by which a loan can be found */
	lt = lend_borrow(test);
	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 0, 2 * GRANULE));
	KUNIT_EXPECT_EQ(test, 0, lend_later(lt, GRANULE, GRANULE_ORDER));
	punch(lt, 0, 1);
	lend_wait(lt, GRANULE, GRANULE_ORDER);
	KUNIT_ASSERT_TRUE(test, lend_check(lt));
	lend_return(lt);

	lt = lend_borrow(test);
	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1));
	KUNIT_EXPECT_EQ(test, 0, lend_later(lt, 0, lt->order));
	KUNIT_EXPECT_EQ(test, 0, lend_later(lt, 0, GRANULE_ORDER));
	lend_return(lt);
}

/* Truncated, at about the time when it is to be merged */
static void test_truncate_late(struct kunit *test)
{
	int i;

	for (i = -1; i < 3; i++) {
		struct lend_test *lt = lend_borrow(test);
		unsigned long when;

		KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1));
		KUNIT_EXPECT_EQ(test, 0, lend_later(lt, 0, lt->order));
		when = jiffies + MERGE_DELAY + i;
		msleep(900);
		while (time_before(jiffies, when))
			cpu_relax();
		lend_return(lt);
	}
}

/*
 * A part is truncated, and the test has it still or has not.  The block that it was
 * of cannot be merged then, not even when each of its pages has one reference, as
 * each has that the page cache has.
 */
static void test_punched(struct kunit *test)
{
	int held, whole, large;

	for (held = 0; held < 2; held++) {
		for (whole = 0; whole < 2; whole++) {
			for (large = 0; large < 2; large++) {
				struct lend_test *lt = lend_borrow(test);
				unsigned long off = large ? GRANULE : 7;
				unsigned int order = whole ? lt->order :
							     GRANULE_ORDER + 1;

				KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1));
				if (held)
					lend_hold(lt, off);
				punch(lt, off, large ? GRANULE : 1);
				KUNIT_ASSERT_TRUE(test, lend_check(lt));
				KUNIT_EXPECT_EQ(test, -EAGAIN,
						lend_merge_once(lt, 0, order));
				KUNIT_EXPECT_TRUE(test, lend_check(lt));
				if (held)
					lend_let_go(lt);
				KUNIT_EXPECT_EQ(test, -EAGAIN,
						lend_merge_once(lt, 0, order));
				KUNIT_EXPECT_TRUE(test, lend_check(lt));
				lend_return(lt);
			}
		}
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

/* A whole page, a single one of a page that was split, and a large folio of that */
static void test_put_last(struct kunit *test)
{
	struct lend_test *lt;
	struct page *page;
	int context, what;

	for (what = 0; what < 3; what++) {
		for (context = 0; context < NR_PUT_CONTEXTS; context++) {
			lt = lend_borrow(test);
			if (what)
				KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1));
			page = lt->page;
			if (what)
				page += what == 1 ? 6 : lt->nr_pages / 2;
			get_page(page);
			lend_put_all(lt);
			hugetlb_reservation_flush(lt->resv);
			KUNIT_EXPECT_EQ(test, 1, lend_allocated(lt));

			put_from(page, context);
			if (context & 1) {
				wait_until_home(lt);
			} else {
				hugetlb_reservation_flush(lt->resv);
				KUNIT_EXPECT_EQ(test, 0, lend_allocated(lt));
			}
			lend_return(lt);
		}
	}
}

/* The first pages of all folios */
static u32 *lend_heads(struct lend_test *lt, unsigned long *nr_heads)
{
	unsigned long off, nr = 0;
	u32 *heads;

	heads = kvmalloc_array(lt->nr_pages, sizeof(*heads), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(lt->test, heads);
	for (off = 0; off < lt->nr_pages; off += 1UL << lend_order_at(lt, off))
		heads[nr++] = off;
	*nr_heads = nr;
	return heads;
}

/* Hold each folio, and let go of all else. */
static struct page *lend_hold_all(struct lend_test *lt, const u32 *heads,
				  unsigned long nr_heads)
{
	struct page *page = lt->page;
	unsigned long i;

	for (i = 0; i < nr_heads; i++)
		get_page(page + heads[i]);
	lend_put_all(lt);
	return page;
}

/* One folio of all is held back, and all are, one after the other. */
static void held_back(struct lend_test *lt)
{
	unsigned long nr, next, stride, back = 0, i;
	struct hugetlb_lent_stats stats;
	struct kunit *test = lt->test;
	struct folio *folio;
	struct page *page;
	u32 *heads;

	heads = lend_heads(lt, &nr);
	page = lend_hold_all(lt, heads, nr);

	/* In an order that comes to each once */
	for (stride = 7; !(nr % stride); stride += 2)
		;
	for (i = 1, next = stride % nr; i < nr; i++) {
		back += 1UL << lend_order_at(lt, heads[next]);
		put_page(page + heads[next]);
		if (i % (nr / 8 + 1) == 0 || i == nr - 1) {
			hugetlb_lent_stats(page_folio(page), &stats);
			KUNIT_EXPECT_EQ(test, stats.nr_returned, back);
		}
		next = (next + stride) % nr;
	}
	KUNIT_EXPECT_EQ(test, next, 0);
	for (i = 1; i < nr; i++) {
		folio = page_folio(page + heads[i]);
		if (folio_ref_count(folio) || !folio_test_lent(folio) ||
		    folio_order(folio) != lend_order_at(lt, heads[i])) {
			lend_mismatch(lt, (unsigned long)heads[i],
				      "%d references, type %x, order %u",
				      folio_ref_count(folio), folio->page.page_type,
				      folio_order(folio));
			break;
		}
	}
	kvfree(heads);

	hugetlb_reservation_flush(lt->resv);
	KUNIT_EXPECT_EQ(test, 1, lend_allocated(lt));
	folio = hugetlb_reservation_alloc_folio(lt->resv, NULL, 0);
	KUNIT_EXPECT_EQ(test, -EAGAIN, PTR_ERR(folio));

	put_page(page);
	/* Allocating takes home what it needs. */
	folio = hugetlb_reservation_alloc_folio(lt->resv, NULL, 0);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, folio);
	KUNIT_EXPECT_EQ(test, folio_order(folio), lt->order);
	folio_put(folio);
	lend_return(lt);
}

static void test_held_back(struct kunit *test)
{
	struct lend_test *lt = lend_borrow(test);

	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 0, lt->nr_pages));
	held_back(lt);

	/* Folios of all orders, with some of the large ones before small ones */
	lt = lend_borrow(test);
	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 0, 1));
	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, lt->nr_pages - 1, 1));
	held_back(lt);
}

struct putter {
	struct page *page;
	const u32 *heads;
	unsigned long nr_heads;
	unsigned int step;
	struct completion done;
};

static int putter_fn(void *data)
{
	struct putter *putter = data;
	unsigned long i;

	for (i = 0; i < putter->nr_heads; i += putter->step)
		put_page(putter->page + putter->heads[i]);
	kthread_complete_and_exit(&putter->done, 0);
}

/* Several put what they have, and another takes home whatever is back. */
static void test_put_race(struct kunit *test)
{
	struct putter putter[3];
	struct task_struct *task;
	unsigned long timeout, nr;
	struct lend_test *lt;
	struct page *page;
	u32 *heads;
	int i, n;

	for (i = 0; i < 4; i++) {
		lt = lend_borrow(test);
		if (i == 3)
			KUNIT_EXPECT_EQ(test, 1, lend_split(lt, lt->nr_pages / 2, 1));
		else
			KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 0, lt->nr_pages));
		heads = lend_heads(lt, &nr);
		page = lend_hold_all(lt, heads, nr);

		for (n = 0; n < ARRAY_SIZE(putter); n++) {
			putter[n] = (struct putter) {
				.page = page,
				.heads = heads + n,
				.nr_heads = nr - n,
				.step = ARRAY_SIZE(putter),
			};
			init_completion(&putter[n].done);
			task = kthread_run(putter_fn, &putter[n], "lend_put/%d", n);
			KUNIT_EXPECT_NOT_ERR_OR_NULL(test, task);
			if (IS_ERR(task))
				complete(&putter[n].done);
		}

		timeout = jiffies + PATIENCE;
		do {
			hugetlb_reservation_flush(lt->resv);
			cond_resched();
		} while (lend_allocated(lt) && time_before(jiffies, timeout));
		KUNIT_EXPECT_EQ(test, 0, lend_allocated(lt));

		for (n = 0; n < ARRAY_SIZE(putter); n++)
			wait_for_completion(&putter[n].done);
		kvfree(heads);
		lend_return(lt);
	}
}

static int flusher_fn(void *data)
{
	while (!kthread_should_stop()) {
		hugetlb_reservation_flush(data);
		cond_resched();
	}
	return 0;
}

/*
 * A page can be allocated again as soon as its last reference is gone, also when
 * another task, or the work item, is about to take it home.
 */
static void test_alloc_again(struct kunit *test)
{
	struct lend_test *lt = lend_borrow(test);
	struct hugetlb_lent_split *split;
	struct task_struct *task;
	struct folio *folio;
	unsigned long off;
	int i, failed = 0;

	lend_put_all(lt);
	task = kthread_run(flusher_fn, lt->resv, "lend_flush");
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, task);
	for (i = 0; i < 300; i++) {
		folio = hugetlb_reservation_alloc_folio(lt->resv, NULL, 0);
		if (IS_ERR(folio)) {
			failed++;
			continue;
		}
		if (folio_order(folio) != lt->order ||
		    folio_ref_count(folio) != 1)
			failed++;
		if (i % 4) {
			folio_put(folio);
			continue;
		}
		/* With its last page last */
		split = hugetlb_lent_split_prepare(folio, lt->nr_pages - 1, 1);
		folio_lock(folio);
		if (IS_ERR(split) || hugetlb_lent_split_commit(split))
			failed++;
		folio_unlock(folio);
		for (off = 0; off < lt->nr_pages; ) {
			struct page *page = &folio->page + off;

			off += folio_nr_pages(page_folio(page));
			put_page(page);
		}
	}
	kthread_stop(task);
	KUNIT_EXPECT_EQ(test, 0, failed);
	lend_return(lt);
}

/* A page that is still in use when there is no reservation any more */
static void test_destroy_early(struct kunit *test)
{
	const struct lend_param *param = test->param_value;
	unsigned long timeout = jiffies + PATIENCE;
	struct hugetlb_reservation *resv;
	struct lend_test *lt;
	struct folio *folio;
	struct page *page;
	int what;

	for (what = 0; what < 3; what++) {
		lt = lend_borrow(test);
		if (what)
			KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1));
		if (what == 2 && lt->mapping)
			KUNIT_EXPECT_EQ(test, 0, lend_later(lt, 0, lt->order));
		page = lt->page + (what ? 6 : 0);
		get_page(page);
		lend_put_all(lt);
		kunit_release_action(test, lend_cleanup, lt);
		msleep(20);
		KUNIT_EXPECT_TRUE(test, folio_test_lent(page_folio(page)));
		put_page(page);

		do {
			resv = hugetlb_reservation_create(param->order, 1, NULL);
			if (IS_ERR(resv))
				msleep(20);
		} while (IS_ERR(resv) && time_before(jiffies, timeout));
		KUNIT_ASSERT_NOT_ERR_OR_NULL(test, resv);
		folio = hugetlb_reservation_alloc_folio(resv, NULL, 0);
		KUNIT_EXPECT_NOT_ERR_OR_NULL(test, folio);
		if (!IS_ERR(folio)) {
			KUNIT_EXPECT_EQ(test, param->order, folio_order(folio));
			folio_put(folio);
		}
		hugetlb_reservation_destroy(resv);
	}
}

/* Split before it is put in the page cache, folio by folio */
static void test_insert_parts(struct kunit *test)
{
	struct lend_test *lt = lend_borrow(test);
	unsigned long off, nr;

	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1));
	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, lt->nr_pages / 2 + GRANULE, 1));
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
	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, lt->nr_pages - 1, 1));
	KUNIT_EXPECT_EQ(test, 0, lend_merge(lt, lt->nr_pages / 2, lt->order - 1));
	KUNIT_ASSERT_TRUE(test, lend_check(lt));
	KUNIT_EXPECT_EQ(test, 0, lend_merge(lt, 0, lt->order));
	KUNIT_ASSERT_TRUE(test, lend_check(lt));
	lend_return(lt);
}

/* Single pages without the type */
static void test_expose(struct kunit *test)
{
	struct lend_test *lt = lend_borrow(test);
	struct folio *folio;
	unsigned int order;

	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1));
	folio = lend_lock(lt, 5);
	KUNIT_EXPECT_FALSE(test, hugetlb_lent_exposed(folio));
	hugetlb_lent_expose(folio);
	hugetlb_lent_expose(folio);
	KUNIT_EXPECT_TRUE(test, hugetlb_lent_exposed(folio));
	KUNIT_EXPECT_FALSE(test, page_has_type(&folio->page));
	KUNIT_EXPECT_EQ(test, folio_mapcount(folio), 0);
	KUNIT_EXPECT_TRUE(test, hugetlb_lent_unused(folio, 1));
	hugetlb_lent_hide(folio);
	hugetlb_lent_hide(folio);
	KUNIT_EXPECT_FALSE(test, hugetlb_lent_exposed(folio));
	lend_unlock(lt, folio);
	KUNIT_ASSERT_TRUE(test, lend_check(lt));

	/* Merging hides it. */
	for (order = GRANULE_ORDER; order <= lt->order; order++) {
		unsigned long off[] = { 0, 5, GRANULE - 1 };
		int i;

		KUNIT_EXPECT_GE(test, lend_split(lt, 5, 1), 0);
		for (i = 0; i < ARRAY_SIZE(off); i++) {
			folio = lend_lock(lt, off[i]);
			hugetlb_lent_expose(folio);
			lend_unlock(lt, folio);
		}
		KUNIT_EXPECT_EQ(test, 0, lend_merge(lt, 0, order));
		if (order % 3 == 0)
			KUNIT_ASSERT_TRUE(test, lend_check(lt));
	}

	/* ->free_folio() does, for one page and for all. */
	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1));
	for (order = 0; order < 2; order++) {
		folio = lend_lock(lt, 5 + order);
		hugetlb_lent_expose(folio);
		lend_unlock(lt, folio);
	}
	punch(lt, 5, 1);
	KUNIT_EXPECT_TRUE(test, folio_test_lent(page_folio(lt->page + 5)));
	lend_return(lt);
}

/* Does nothing but the page cache use a folio? */
static void test_unused(struct kunit *test)
{
	struct lend_test *lt = lend_borrow(test);
	const int own = !lt->mapping;
	struct folio *folio;
	unsigned long off;
	int i;

	for (i = 0; i < 2; i++) {
		for (off = 5; off < lt->nr_pages; off = off * 4 + 3) {
			folio = page_folio(lt->page + off);
			folio_lock(folio);
			KUNIT_EXPECT_TRUE(test, hugetlb_lent_unused(folio, own));
			KUNIT_EXPECT_FALSE(test, hugetlb_lent_unused(folio, own + 1));
			folio_get(folio);
			KUNIT_EXPECT_FALSE(test, hugetlb_lent_unused(folio, own));
			KUNIT_EXPECT_TRUE(test, hugetlb_lent_unused(folio, own + 1));
			folio_put(folio);
			folio_unlock(folio);
		}
		if (!i)
			KUNIT_EXPECT_EQ(test, 1, lend_split(lt, 5, 1));
	}
	KUNIT_ASSERT_TRUE(test, lend_check(lt));
	lend_return(lt);
}

#if defined(CONFIG_FAILSLAB) && defined(CONFIG_FAIL_PAGE_ALLOC)
static long fail_one(struct lend_test *lt, unsigned long first,
		     unsigned long nr_pages, unsigned int n, unsigned int *left)
{
	long r;

	current->fail_nth = n;
	r = lend_cancel(lt, first, nr_pages);
	*left = current->fail_nth;
	current->fail_nth = 0;
	return r;
}

/*
 * Fail the first allocation, the second and so on, until there is none that could
 * fail.  Returns how many made prepare fail.
 */
static unsigned int fail_each(struct lend_test *lt, unsigned long first,
			      unsigned long nr_pages)
{
	unsigned int n, left, failed = 0, tries = 0;
	struct kunit *test = lt->test;
	long r;

	for (n = 1; ; n++) {
		r = fail_one(lt, first, nr_pages, n, &left);
		if (left)
			break;
		/*
		 * Some have another way, or nothing depends on them; unless there
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
		KUNIT_ASSERT_TRUE(test, check_stats(lt));
		if (failed++ % 16 == 0)
			KUNIT_ASSERT_TRUE(test, lend_check(lt));
		cond_resched();
	}
	KUNIT_EXPECT_EQ(test, 1, r);
	KUNIT_ASSERT_TRUE(test, lend_check(lt));
	kunit_info(test, "of %u allocations %u made prepare fail\n", n - 1, failed);
	return failed;
}

/* Each page of the vmemmap, and what describes the split */
static void fail_split(struct lend_test *lt, unsigned long first,
		       unsigned long nr)
{
	unsigned long before = nr_vmemmap(lt), least;
	long nodes = lt->mapping ? nr_nodes(lt) : 0;
	unsigned int failed = fail_each(lt, first, nr);
	struct kunit *test = lt->test;

	KUNIT_EXPECT_EQ(test, 1, lend_split(lt, first, nr));
	KUNIT_ASSERT_TRUE(test, lend_check(lt));
	least = 1 + nr_vmemmap(lt) - before;
	if (lt->mapping)
		least += nr_nodes(lt) - nodes;
	KUNIT_EXPECT_GE(test, failed, least);
}

static int fail_merge(struct lend_test *lt, unsigned int order, unsigned int n,
		      unsigned int *left)
{
	struct folio *folio = lend_lock(lt, 0);
	int r;

	current->fail_nth = n;
	r = hugetlb_lent_merge(folio, order);
	*left = current->fail_nth;
	current->fail_nth = 0;
	lend_unlock(lt, folio);
	return r;
}
#endif

/* Each allocation of prepare is made to fail in turn, and those of a merge. */
static void test_fail_nth(struct kunit *test)
{
#if defined(CONFIG_FAILSLAB) && defined(CONFIG_FAIL_PAGE_ALLOC)
	struct lend_test *lt = lend_borrow(test);
	unsigned int left, n, failed = 0;
	int r;

	fail_one(lt, 5, 1, 1, &left);
	if (left) {
		lend_return(lt);
		kunit_skip(test, "see ignore-gfp-wait of failslab and fail_page_alloc");
	}

	fail_split(lt, lt->nr_pages / 2 - 1, 2);
	fail_split(lt, 7, 1);
	fail_split(lt, GRANULE, 1);

	for (n = 1; ; n++) {
		unsigned long off = 0;

		r = fail_merge(lt, lt->order, n, &left);
		if (!r) {
			lend_model_merge(lt, 0, lt->order);
			KUNIT_ASSERT_TRUE(test, lend_check(lt));
			if (left)
				break;
			/* One failed, and the merge did without it. */
			KUNIT_ASSERT_EQ(test, 1, lend_split(lt, lt->nr_pages / 2 - 1, 2));
			KUNIT_ASSERT_EQ(test, 1, lend_split(lt, 7, 1));
			KUNIT_ASSERT_EQ(test, 1, lend_split(lt, GRANULE, 1));
			continue;
		}
		failed++;
		KUNIT_ASSERT_EQ(test, -ENOMEM, r);
		/* What could be merged before is. */
		while (off < lt->nr_pages) {
			lend_model_merge(lt, off,
					 folio_order(page_folio(lt->page + off)));
			off += 1UL << lend_order_at(lt, off);
		}
		KUNIT_ASSERT_TRUE(test, lend_check(lt));
	}
	kunit_info(test, "of %u allocations %u made a merge fail\n", n - 1, failed);

	fail_split(lt, 0, PIECE / 2);
	lend_return(lt);
#else
	kunit_skip(test, "no fault injection");
#endif
}

/* Those of a reservation, and of a page from that */
static void test_fail_reserve(struct kunit *test)
{
#if defined(CONFIG_FAILSLAB) && defined(CONFIG_FAIL_PAGE_ALLOC)
	const struct lend_param *param = test->param_value;
	struct hugetlb_reservation *resv;
	unsigned int left, n, failed = 0;
	struct folio *folio;
	bool done = false;

	resv = hugetlb_reservation_create(param->order, 1, NULL);
	if (IS_ERR(resv))
		kunit_skip(test, "no free page of this size");
	hugetlb_reservation_destroy(resv);

	for (n = 1; !done && n < 1000; n++) {
		current->fail_nth = n;
		resv = hugetlb_reservation_create(param->order, 1, NULL);
		folio = IS_ERR(resv) ? NULL :
			hugetlb_reservation_alloc_folio(resv, NULL, 0);
		left = current->fail_nth;
		current->fail_nth = 0;
		done = left;

		if (IS_ERR(resv) || IS_ERR(folio)) {
			failed++;
			KUNIT_EXPECT_EQ(test, -ENOMEM, IS_ERR(resv) ? PTR_ERR(resv) :
							 PTR_ERR(folio));
		}
		if (!IS_ERR_OR_NULL(folio))
			folio_put(folio);
		if (IS_ERR(resv)) {
			/* Nothing may be left of it: there is one page only. */
			resv = hugetlb_reservation_create(param->order, 1, NULL);
			KUNIT_ASSERT_NOT_ERR_OR_NULL(test, resv);
		}
		hugetlb_reservation_destroy(resv);
	}
	KUNIT_EXPECT_TRUE(test, done);
	kunit_info(test, "of %u allocations %u made it fail\n", n - 2, failed);
#else
	kunit_skip(test, "no fault injection");
#endif
}

/*
 * Readers, while a page is split and merged in all kinds of ways.
 */
struct readers {
	struct page *page;
	struct address_space *mapping;
	pgoff_t index;
	unsigned long nr_pages;
	unsigned int order;
	unsigned int ops;		/* odd while something is split or merged */
	bool merging;			/* the last of these is, or was, a merge */
};

struct reader {
	struct readers *all;
	unsigned long off;
	unsigned long step;
	unsigned long got;
	unsigned long amid;		/* of these, while ops was odd */
	unsigned long wrong;
	unsigned long wrong_order;
	unsigned long heads;		/* entries whose folio's index was looked at */
	unsigned long wrong_index;
	struct hrtimer timer;
};

static void reader_next(struct reader *reader)
{
	reader->off = (reader->off + reader->step) & (reader->all->nr_pages - 1);
}

static bool reader_folio_ok(const struct reader *reader, struct folio *folio)
{
	unsigned int order = folio_order(folio);

	return folio_test_lent(folio) &&
	       (!order || (order >= GRANULE_ORDER && order <= reader->all->order));
}

/* A single look-up, or one for a batch; with a reference */
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

/*
 * A reader of the page cache that holds a spinlock while it tries to get a folio,
 * as mincore() does.  A split or merge must never leave it spinning for something
 * that cannot go on until it stops.
 */
static int cache_reader_fn(void *data)
{
	static DEFINE_SPINLOCK(lock);
	struct reader *reader = data;
	const struct readers *all = reader->all;

	while (!kthread_should_stop()) {
		int i;

		spin_lock(&lock);
		for (i = 0; i < 64; i++) {
			pgoff_t index = all->index + reader->off;
			struct folio *folio;

			folio = look_up(all->mapping, index, i & 1);
			if (!folio) {
				reader->wrong++;
			} else {
				if (!folio_contains(folio, index) ||
				    folio_page(folio, index - folio->index) !=
				    all->page + reader->off ||
				    !reader_folio_ok(reader, folio))
					reader->wrong++;
				reader->got++;
				folio_put(folio);
			}
			reader_next(reader);
		}
		spin_unlock(&lock);
		cond_resched();
	}
	return 0;
}

/* One that comes across struct pages by their pfn */
static int pfn_reader_fn(void *data)
{
	struct reader *reader = data;

	while (!kthread_should_stop()) {
		struct page *page = reader->all->page + reader->off;
		struct folio *folio = page_folio(page);

		reader_next(reader);
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
		if (!(reader->off & 63))
			cond_resched();
	}
	return 0;
}

/* The index of the first page of the entry that was loaded */
static pgoff_t xas_first_index(const struct xa_state *xas)
{
	const struct xa_node *node = xas->xa_node;

	if (!node)
		return 0;
	return round_down(xas->xa_index, (pgoff_t)XA_CHUNK_SIZE << node->shift) +
	       ((pgoff_t)xas->xa_offset << node->shift);
}

static struct folio *load_entry(struct xa_state *xas)
{
	struct folio *folio;

	do {
		folio = xas_load(xas);
	} while (xas_retry(xas, folio));
	return folio;
}

/* Some operation may have been going on, but there was no other before or after. */
static bool one_op_at_most(const struct reader *reader, unsigned int before)
{
	/* After what was read; pairs with readers_begin() */
	smp_rmb();
	return READ_ONCE(reader->all->ops) - before <= 1;
}

/*
 * Without a reference: the entry of the page cache must lead to the page that it
 * is for.  It does so by where the entry starts, always; by its order, if that did
 * not change meanwhile; and by the index in the folio, if that has a head.  Amid a
 * split, an entry may lead to a tail for a moment, and amid a merge until the end.
 */
static void look_without_ref(struct reader *reader)
{
	const struct readers *all = reader->all;
	const struct page *page = all->page + reader->off;
	const pgoff_t index = all->index + reader->off;
	XA_STATE(xas, &all->mapping->i_pages, index);
	unsigned int before, order;
	struct folio *folio;
	bool merging, tail;
	pgoff_t folio_index;

	guard(rcu)();
	/* Before the entry is looked up; pairs with readers_begin() */
	before = smp_load_acquire(&all->ops);
	/* As above */
	merging = smp_load_acquire(&all->merging);

	reader->got++;
	reader->amid += before & 1;
	folio = load_entry(&xas);
	if (!folio || xa_is_value(folio) ||
	    folio_page(folio, index - xas_first_index(&xas)) != page) {
		reader->wrong++;
		return;
	}

	order = xas_get_order(&xas);
	tail = PageTail(&folio->page);
	/* What is a head stays one, with its index. */
	smp_rmb();
	folio_index = READ_ONCE(folio->index);
	xas_reset(&xas);
	if (load_entry(&xas) != folio || xas_get_order(&xas) != order)
		return;
	/* After all that was read before; pairs with readers_begin() */
	smp_rmb();
	merging |= READ_ONCE(all->merging);
	if (!one_op_at_most(reader, before))
		return;
	if (folio_page(folio, index - round_down(index, 1UL << order)) != page)
		reader->wrong_order++;
	if (merging || tail)
		return;
	reader->heads++;
	if (folio_page(folio, index - folio_index) != page)
		reader->wrong_index++;
}

/* Without a reference: a tail must lead to a head, and to that of its folio. */
static void look_at_memmap(struct reader *reader)
{
	const struct readers *all = reader->all;
	const struct page *page = all->page + reader->off;
	const struct page *head, *again;
	unsigned int before;
	bool tail;

	guard(rcu)();
	/* Before struct pages are; pairs with readers_begin() */
	before = smp_load_acquire(&all->ops);

	reader->got++;
	reader->amid += before & 1;
	head = compound_head(page);
	/* No tail leads to what becomes one: see init_tail(). */
	smp_rmb();
	tail = PageTail(head);
	/* As above */
	smp_rmb();
	again = compound_head(page);
	if (head > page || head < all->page)
		reader->wrong++;
	else if (tail && head == again && one_op_at_most(reader, before))
		reader->wrong++;
}

static void look(struct reader *reader)
{
	if (reader->all->mapping)
		look_without_ref(reader);
	look_at_memmap(reader);
	reader_next(reader);
}

static int bare_reader_fn(void *data)
{
	unsigned int i = 0;

	while (!kthread_should_stop()) {
		look(data);
		if (!(++i & 63))
			cond_resched();
	}
	return 0;
}

/* From an interrupt, which finds half-done what preemption never sees */
static enum hrtimer_restart irq_reader_fn(struct hrtimer *timer)
{
	struct reader *reader = container_of(timer, struct reader, timer);
	int i;

	for (i = 0; i < 8; i++)
		look(reader);
	hrtimer_forward_now(timer, ns_to_ktime(300 * NSEC_PER_USEC));
	return HRTIMER_RESTART;
}

static void readers_begin(struct readers *all, bool merging)
{
	WRITE_ONCE(all->merging, merging);
	/* Pairs with what readers do; the operation comes after it. */
	smp_store_release(&all->ops, all->ops + 1);
	/* As above */
	smp_wmb();
}

static void readers_end(struct readers *all)
{
	/* The operation came before it. */
	smp_store_release(&all->ops, all->ops + 1);
}

/* Returns whether it was split; readers may have been in the way. */
static bool readers_split(struct lend_test *lt, struct readers *all,
			  unsigned long first, unsigned long nr)
{
	struct hugetlb_lent_split *split = lend_prepare(lt, first, nr);
	int tries, r = -EAGAIN;

	KUNIT_EXPECT_FALSE(lt->test, IS_ERR(split));
	if (IS_ERR_OR_NULL(split))
		return false;
	for (tries = 0; r == -EAGAIN && tries < 5; tries++) {
		readers_begin(all, false);
		r = lend_commit_once(lt, split, first);
		readers_end(all);
	}
	if (r)
		hugetlb_lent_split_cancel(split);
	lend_done(lt);
	return !r;
}

static bool readers_merge(struct lend_test *lt, struct readers *all,
			  unsigned long off, unsigned int order)
{
	int tries, r = -EAGAIN;

	for (tries = 0; r == -EAGAIN && tries < 5; tries++) {
		readers_begin(all, true);
		r = lend_merge_once(lt, off, order);
		readers_end(all);
	}
	KUNIT_EXPECT_TRUE(lt->test, !r || r == -EAGAIN);
	return !r;
}

static struct task_struct *start_reader(struct kunit *test, int (*fn)(void *),
					struct reader *reader)
{
	struct task_struct *task = kthread_run(fn, reader, "lend_reader");

	KUNIT_EXPECT_FALSE(test, IS_ERR(task));
	return IS_ERR(task) ? NULL : task;
}

#define READER_ROUNDS	200

static struct reader *alloc_reader(struct kunit *test, struct readers *all,
				   unsigned long step)
{
	struct reader *reader = kunit_kzalloc(test, sizeof(*reader), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, reader);
	reader->all = all;
	reader->step = step;
	return reader;
}

static void test_reader(struct kunit *test)
{
	struct lend_test *lt = lend_borrow(test);
	const unsigned long nr_pages = lt->nr_pages;
	const struct {
		unsigned long first, nr;
	} shapes[] = {
		{ 0, 1 }, { nr_pages - 1, 1 }, { nr_pages / 2 - 1, 2 },
		{ nr_pages / 4 + GRANULE, 3 * GRANULE },
		{ 0, PIECE }, { nr_pages / 3, 1 }, { GRANULE, GRANULE + 1 },
	};
	struct task_struct *cache_task = NULL, *pfn_task, *bare_task;
	unsigned long timeout = jiffies + 2 * PATIENCE;
	unsigned int i, nr_split = 0, nr_merge = 0;
	struct reader *cache, *pfn, *bare, *irq;
	struct readers *all;
	bool whole;

	all = kunit_kzalloc(test, sizeof(*all), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, all);
	all->page = lt->page;
	all->mapping = lt->mapping;
	all->index = lt->index;
	all->nr_pages = nr_pages;
	all->order = lt->order;
	/* Steps that are prime to the number of pages, far and near */
	cache = alloc_reader(test, all, 119);
	pfn = alloc_reader(test, all, 119);
	bare = alloc_reader(test, all, 8191);
	irq = alloc_reader(test, all, 97);

	pfn_task = start_reader(test, pfn_reader_fn, pfn);
	bare_task = start_reader(test, bare_reader_fn, bare);
	if (lt->mapping)
		cache_task = start_reader(test, cache_reader_fn, cache);
	hrtimer_setup(&irq->timer, irq_reader_fn, CLOCK_MONOTONIC,
		      HRTIMER_MODE_REL_PINNED_HARD);
	hrtimer_start(&irq->timer, 0, HRTIMER_MODE_REL_PINNED_HARD);

	for (i = 0; time_before(jiffies, timeout); i++) {
		const typeof(*shapes) *shape = &shapes[i % ARRAY_SIZE(shapes)];

		if (i >= READER_ROUNDS && nr_split >= READER_ROUNDS / 5 &&
		    nr_merge >= READER_ROUNDS / 5 && pfn->got && irq->amid &&
		    bare->amid && (cache->got || !lt->mapping))
			break;

		/* The model is of no use: a round may have left anything. */
		whole = folio_order(page_folio(lt->page)) == lt->order;
		if (whole && i % 64 == 63)
			nr_split += readers_split(lt, all, 0, nr_pages);
		else if (whole)
			nr_split += readers_split(lt, all, shape->first, shape->nr);
		else if (folio_test_large(page_folio(lt->page + shape->first)))
			nr_split += readers_split(lt, all, shape->first, 1);

		if (i & 1) {
			readers_merge(lt, all, round_down(shape->first, PIECE),
				      PMD_ORDER);
			readers_merge(lt, all, nr_pages / 2, lt->order - 1);
		}
		if (i % 3)
			nr_merge += readers_merge(lt, all, 0, lt->order);
		if (!(i & 7))
			usleep_range(100, 1000);
	}
	hrtimer_cancel(&irq->timer);
	if (pfn_task)
		kthread_stop(pfn_task);
	if (bare_task)
		kthread_stop(bare_task);
	if (cache_task)
		kthread_stop(cache_task);

	kunit_info(test, "of %u rounds %u split and %u merged; look-ups: %lu, %lu by pfn, without a reference %lu (%lu amid), %lu (%lu amid) in interrupts\n",
		   i, nr_split, nr_merge, cache->got, pfn->got, bare->got, bare->amid,
		   irq->got, irq->amid);
	/* The rest is up to how fast the machine is. */
	KUNIT_EXPECT_GE(test, i, READER_ROUNDS / 2);
	KUNIT_EXPECT_GE(test, nr_split, READER_ROUNDS / 5);
	KUNIT_EXPECT_GE(test, nr_merge, READER_ROUNDS / 5);
	KUNIT_EXPECT_EQ(test, pfn->wrong, 0);
	KUNIT_EXPECT_GT(test, pfn->got, 0);
	KUNIT_EXPECT_EQ(test, bare->wrong, 0);
	KUNIT_EXPECT_EQ(test, bare->wrong_order, 0);
	KUNIT_EXPECT_EQ(test, bare->wrong_index, 0);
	KUNIT_EXPECT_EQ(test, !lt->mapping, !bare->heads);
	KUNIT_EXPECT_GT(test, bare->amid, 0);
	KUNIT_EXPECT_EQ(test, irq->wrong, 0);
	KUNIT_EXPECT_EQ(test, irq->wrong_order, 0);
	KUNIT_EXPECT_EQ(test, irq->wrong_index, 0);
	KUNIT_EXPECT_GT(test, irq->amid, 0);
	KUNIT_EXPECT_EQ(test, cache->wrong, 0);
	if (lt->mapping)
		KUNIT_EXPECT_GT(test, cache->got, 0);

	/* With the readers gone, nothing is in the way. */
	lt->was_split = true;
	KUNIT_EXPECT_EQ(test, 0, lend_merge(lt, 0, lt->order));
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

static struct kunit_case hugetlb_lent_cases[] = {
	KUNIT_CASE_PARAM_ATTR(test_split_ranges, lend_place_gen_params, lend_slow),
	KUNIT_CASE_PARAM_ATTR(test_split_again, lend_place_gen_params, lend_slow),
	KUNIT_CASE_PARAM_ATTR(test_merge, lend_place_gen_params, lend_slow),
	KUNIT_CASE_PARAM(test_insert_parts, lend_bare_gen_params),
	KUNIT_CASE_PARAM(test_bad_arguments, lend_gen_params),
	KUNIT_CASE_PARAM_ATTR(test_cancel, lend_gen_params, lend_slow),
	KUNIT_CASE_PARAM_ATTR(test_vmemmap, lend_gen_params, lend_slow),
	KUNIT_CASE_PARAM(test_nodes, lend_cached_gen_params),
	KUNIT_CASE_PARAM(test_nodes_lost, lend_cached_gen_params),
	KUNIT_CASE_PARAM(test_split_in_use, lend_gen_params),
	KUNIT_CASE_PARAM(test_split_truncated, lend_cached_gen_params),
	KUNIT_CASE_PARAM_ATTR(test_merge_in_use, lend_gen_params, lend_slow),
	KUNIT_CASE_PARAM_ATTR(test_merge_hwpoison, lend_gen_params, lend_slow),
	KUNIT_CASE_PARAM(test_flags, lend_gen_params),
	KUNIT_CASE_PARAM(test_mlocked, lend_gen_params),
	KUNIT_CASE_PARAM_ATTR(test_later, lend_cached_gen_params, lend_slow),
	KUNIT_CASE_PARAM_ATTR(test_later_put_off, lend_cached_gen_params, lend_slow),
	KUNIT_CASE_PARAM_ATTR(test_later_forgotten, lend_cached_gen_params, lend_slow),
	KUNIT_CASE_PARAM_ATTR(test_later_blocks, lend_cached_gen_params, lend_slow),
	KUNIT_CASE_PARAM_ATTR(test_later_in_use, lend_cached_gen_params, lend_slow),
	KUNIT_CASE_PARAM_ATTR(test_later_locked, lend_cached_gen_params, lend_slow),
	KUNIT_CASE_PARAM_ATTR(test_later_back_off, lend_cached_gen_params, lend_slow),
	KUNIT_CASE_PARAM_ATTR(test_later_punched, lend_cached_gen_params, lend_slow),
	KUNIT_CASE_PARAM_ATTR(test_truncate_late, lend_cached_gen_params, lend_slow),
	KUNIT_CASE_PARAM_ATTR(test_punched, lend_cached_gen_params, lend_slow),
	KUNIT_CASE_PARAM(test_put_last, lend_gen_params),
	KUNIT_CASE_PARAM_ATTR(test_held_back, lend_gen_params, lend_slow),
	KUNIT_CASE_PARAM_ATTR(test_put_race, lend_gen_params, lend_slow),
	KUNIT_CASE_PARAM_ATTR(test_alloc_again, lend_bare_gen_params, lend_slow),
	KUNIT_CASE_PARAM(test_destroy_early, lend_gen_params),
	KUNIT_CASE_PARAM(test_expose, lend_cached_gen_params),
	KUNIT_CASE_PARAM(test_unused, lend_gen_params),
	KUNIT_CASE_PARAM_ATTR(test_fail_nth, lend_gen_params, lend_slow),
	KUNIT_CASE_PARAM(test_fail_reserve, lend_bare_gen_params),
	KUNIT_CASE_PARAM_ATTR(test_reader, lend_place_gen_params, lend_slow),
	{}
};

static int lend_suite_init(struct kunit_suite *suite)
{
	vmstat = filp_open("/proc/vmstat", O_RDONLY, 0);
	return 0;
}

static void lend_suite_exit(struct kunit_suite *suite)
{
	if (!IS_ERR_OR_NULL(vmstat))
		filp_close(vmstat, NULL);
}

static struct kunit_suite hugetlb_lent_suite = {
	.name = "hugetlb_lent",
	.suite_init = lend_suite_init,
	.suite_exit = lend_suite_exit,
	.init = lend_init,
	.test_cases = hugetlb_lent_cases,
};

kunit_test_suite(hugetlb_lent_suite);

MODULE_DESCRIPTION("Tests of splitting and merging lent HugeTLB pages");
MODULE_LICENSE("GPL");
