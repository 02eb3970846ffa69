// SPDX-License-Identifier: GPL-2.0-only
/*
 * Which pages of a guest_memfd file are private, and which are shared.
 *
 * All pages of a file begin in one state, which GUEST_MEMFD_FLAG_INIT_SHARED
 * chooses.  The tree gmem_inode::attrs has an entry for each range of pages in
 * the other state, and none for the rest.  The tree of a file that converts
 * nothing is empty.  What the pages contain, and whether there are any, is not
 * known here.
 *
 * An entry ends only where the state changes: a store covers the entries beside
 * its range that have the same state.  A mapping of the guest may span what one
 * entry covers, so a range stored as two entries would keep mappings small.
 *
 * Readers walk the tree under RCU, beside a writer.  The state of a page that
 * does not change is read right.  The ends of a range are two loads and may be
 * from before and after a store, so a range can be read that never was.  Its
 * user must notice that a page of it changed; KVM does, as each change runs
 * within an invalidation of the pages around it.
 *
 * Storing is in two steps.  kvm_gmem_attrs_prepare() allocates and may fail, and
 * kvm_gmem_attrs_store() does not.  The prepared maple state remembers nodes of
 * the tree, so nothing else of the same tree is stored in between, and no second
 * store of it is prepared.
 */
#include <linux/kvm_host.h>
#include <linux/maple_tree.h>
#include <linux/minmax.h>
#include <linux/pgtable.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/sizes.h>
#include <linux/xarray.h>

#include "guest_memfd.h"

/* So many pages have their attributes freed at a time */
#define DESTROY_CHUNK	(SZ_1G >> PAGE_SHIFT)

/* What test modules call */
#define EXPORT_SYMBOL_FOR_ATTR_TEST(symbol)				\
	EXPORT_SYMBOL_FOR_MODULES(symbol, "guest_memfd_attr_kunit")

/* A maple state points to a tree that is not const, even if it only walks. */
static struct maple_tree *gmem_attrs(const struct gmem_inode *gi)
{
	return (struct maple_tree *)&gi->attrs;
}

static void gmem_attrs_assert_locked(const struct gmem_inode *gi)
{
	lockdep_assert_held_write(&gi->vfs_inode.i_data.invalidate_lock);
}

/* What the tree has for pages that are private, or shared */
static void *gmem_attrs_entry(const struct gmem_inode *gi, bool private)
{
	return private == kvm_gmem_initially_private(gi) ? NULL : xa_mk_value(1);
}

/**
 * kvm_gmem_attrs_init - let all pages of a file be in its initial state
 * @gi: a new inode, or one whose attributes were destroyed
 *
 * The initial state is that of gmem_inode::flags, which may still be set later,
 * but not change once a page has left it.
 */
void kvm_gmem_attrs_init(struct gmem_inode *gi)
{
	/* i_mapping, which is i_data for these inodes, may not be set yet. */
	mt_set_external_lock(&gi->attrs, &gi->vfs_inode.i_data.invalidate_lock);
	mt_init_flags(&gi->attrs, MT_FLAGS_LOCK_EXTERN | MT_FLAGS_USE_RCU);
	gi->nr_other = 0;
}
EXPORT_SYMBOL_FOR_ATTR_TEST(kvm_gmem_attrs_init);

/**
 * kvm_gmem_attrs_destroy - free what the attributes of a file take
 * @gi: the inode; no store is prepared
 *
 * Readers may still be walking the tree under RCU.
 *
 * Context: task context; takes the mapping's invalidate lock for writing.
 */
void kvm_gmem_attrs_destroy(struct gmem_inode *gi)
{
	MA_STATE(mas, &gi->attrs, 0, 0);
	unsigned long last;

	guard(rwsem_write)(&gi->vfs_inode.i_data.invalidate_lock);

	/*
	 * What a store removes, or what is left, is freed by one RCU callback.
	 * That of a whole large tree would keep its CPU busy for long.
	 */
	while (mas_find(&mas, ULONG_MAX)) {
		last = max(mas.last, mas.index + DESTROY_CHUNK - 1);
		mas_set_range(&mas, mas.index, last);
		if (mas_store_gfp(&mas, NULL, GFP_KERNEL))
			break;
		mas_set(&mas, last);
		cond_resched();
	}

	__mt_destroy(&gi->attrs);
	gi->nr_other = 0;
}
EXPORT_SYMBOL_FOR_ATTR_TEST(kvm_gmem_attrs_destroy);

/**
 * kvm_gmem_is_private - whether a page of a file is private
 * @gi: the inode
 * @index: the page
 *
 * Context: any context.  The answer lasts while the caller holds the mapping's
 *          invalidate lock, or until the invalidation that a change runs within.
 * Return: true if the page is private, false if it is shared with the host.
 */
bool kvm_gmem_is_private(const struct gmem_inode *gi, pgoff_t index)
{
	/* Most files are never asked to convert. */
	if (data_race(mtree_empty(gmem_attrs(gi))))
		return kvm_gmem_initially_private(gi);

	return !mtree_load(gmem_attrs(gi), index) ==
	       kvm_gmem_initially_private(gi);
}
EXPORT_SYMBOL_FOR_ATTR_TEST(kvm_gmem_is_private);

/*
 * Whether the range of a walk has the block of @order around @index.  A range
 * that was read beside a writer may lack even @index: compare both ends.
 */
static bool gmem_mas_covers(const struct ma_state *mas, pgoff_t index,
			    unsigned int order)
{
	pgoff_t mask = BIT(order) - 1;

	return mas->index <= (index & ~mask) && mas->last >= (index | mask);
}

/**
 * kvm_gmem_uniform_order - how large a block around a page has one state
 * @gi: the inode
 * @index: the page
 * @order: the largest block that is of interest, log2 of pages
 *
 * Blocks are naturally aligned.
 *
 * Context: any context.  The answer lasts as that of kvm_gmem_is_private() does,
 *          for all of the block.  Beside a change it may be too large, or wrong
 *          in other ways, only if a page of that block changes.
 * Return: the largest of @order, PMD_ORDER and 0, but at most @order, whose block
 *         around @index is all private or all shared.
 */
unsigned int kvm_gmem_uniform_order(const struct gmem_inode *gi, pgoff_t index,
				    unsigned int order)
{
	MA_STATE(mas, gmem_attrs(gi), index, index);

	if (!order)
		return 0;

	scoped_guard(rcu)
		mas_walk(&mas);

	if (gmem_mas_covers(&mas, index, order))
		return order;

	if (order > PMD_ORDER && gmem_mas_covers(&mas, index, PMD_ORDER))
		return PMD_ORDER;

	return 0;
}
EXPORT_SYMBOL_FOR_ATTR_TEST(kvm_gmem_uniform_order);

/**
 * kvm_gmem_next_run - find pages that are not in the wanted state
 * @gi: the inode
 * @start: where to begin; set to the first page of the run
 * @end: the page after the last one to look at
 * @private: the wanted state
 * @last: set to the last page of the run
 *
 * A run is a range of pages, as long as there is one within [*@start, @end), that
 * are shared if @private, else private.
 *
 * Context: task context.  The caller holds a lock that excludes changes: the
 *          mapping's invalidate lock, or slots_lock of the VM that converts.
 * Return: true if there is a run, false if all pages are in the wanted state, and
 *         then *@start and *@last are as they were.
 */
bool kvm_gmem_next_run(const struct gmem_inode *gi, pgoff_t *start, pgoff_t end,
		       bool private, pgoff_t *last)
{
	MA_STATE(mas, gmem_attrs(gi), 0, 0);
	const void *wanted = gmem_attrs_entry(gi, private);
	pgoff_t index;

	guard(rcu)();
	/* Two rounds at most, as neighbours differ */
	for (index = *start; index < end; index = mas.last + 1) {
		mas_set(&mas, index);
		if (mas_walk(&mas) != wanted) {
			*start = index;
			*last = min(mas.last, end - 1);
			return true;
		}
		/* The last range of the tree ends at ULONG_MAX. */
		if (mas.last >= end - 1)
			break;
	}
	return false;
}
EXPORT_SYMBOL_FOR_ATTR_TEST(kvm_gmem_next_run);

/**
 * kvm_gmem_attrs_prepare - allocate what it takes to change the state of pages
 * @gi: the inode, of which no other store is prepared
 * @mas: need not be initialized; for kvm_gmem_attrs_store()
 * @start: the first page
 * @end: the page after the last one, more than @start
 * @private: the new state; some of the pages, or all, may have it already
 * @gfp: how to allocate; the memory is charged to the task's memory cgroup
 *
 * Changes nothing.  If it succeeds, kvm_gmem_attrs_store() or
 * kvm_gmem_attrs_cancel() is called before the invalidate lock is released.
 *
 * Context: the caller holds the mapping's invalidate lock for writing; may sleep
 *          if @gfp allows.
 * Return: 0, or -ENOMEM, after which @mas has nothing to cancel.
 */
int kvm_gmem_attrs_prepare(struct gmem_inode *gi, struct ma_state *mas,
			   pgoff_t start, pgoff_t end, bool private, gfp_t gfp)
{
	void *entry = gmem_attrs_entry(gi, private);
	pgoff_t last = end - 1;

	gmem_attrs_assert_locked(gi);

	mas_init(mas, &gi->attrs, end);
	if (mas_walk(mas) == entry)
		last = mas->last;

	if (start) {
		mas_set(mas, start - 1);
		if (mas_walk(mas) == entry)
			start = mas->index;
	}

	mas_set_range(mas, start, last);
	return mas_preallocate(mas, entry, gfp | __GFP_ACCOUNT);
}
EXPORT_SYMBOL_FOR_ATTR_TEST(kvm_gmem_attrs_prepare);

/**
 * kvm_gmem_attrs_store - change the state of pages
 * @gi: the inode
 * @mas: what kvm_gmem_attrs_prepare() has prepared
 * @start: as that was called with
 * @end: likewise
 * @private: likewise
 *
 * Cannot fail.  A reader may see some of the pages change before the others.
 *
 * Context: the caller has held the mapping's invalidate lock for writing since
 *          the preparation; may sleep.
 */
void kvm_gmem_attrs_store(struct gmem_inode *gi, struct ma_state *mas,
			  pgoff_t start, pgoff_t end, bool private)
{
	pgoff_t index, last;
	unsigned long nr = 0;

	gmem_attrs_assert_locked(gi);

	/* There may be as many runs as pages. */
	for (index = start;
	     kvm_gmem_next_run(gi, &index, end, private, &last);
	     index = last + 1) {
		nr += last - index + 1;
		cond_resched();
	}

	if (private == kvm_gmem_initially_private(gi))
		nr = -nr;
	WRITE_ONCE(gi->nr_other, gi->nr_other + nr);

	mas_store_prealloc(mas, gmem_attrs_entry(gi, private));
}
EXPORT_SYMBOL_FOR_ATTR_TEST(kvm_gmem_attrs_store);

/**
 * kvm_gmem_attrs_cancel - give up a prepared change
 * @mas: what kvm_gmem_attrs_prepare() has prepared
 */
void kvm_gmem_attrs_cancel(struct ma_state *mas)
{
	mas_destroy(mas);
}
EXPORT_SYMBOL_FOR_ATTR_TEST(kvm_gmem_attrs_cancel);

/**
 * kvm_gmem_run - find the pages around a page that are in the same state
 * @gi: the inode
 * @index: the page
 * @first: set to the first page of the run
 * @last: set to the last page of the run, which may be beyond the file's end
 *
 * Context: any context.  The run is exact if the caller holds a lock that excludes
 *          changes.  Otherwise it has @index, and may be too long or too short.
 * Return: true if the pages are private.
 */
bool kvm_gmem_run(const struct gmem_inode *gi, pgoff_t index, pgoff_t *first,
		  pgoff_t *last)
{
	MA_STATE(mas, gmem_attrs(gi), index, index);
	void *entry;

	scoped_guard(rcu)
		entry = mas_walk(&mas);

	/* What was read beside a writer may lack even @index. */
	*first = min(mas.index, index);
	*last = max(mas.last, index);
	return !entry == kvm_gmem_initially_private(gi);
}
EXPORT_SYMBOL_FOR_ATTR_TEST(kvm_gmem_run);

/**
 * kvm_gmem_trim - leave out both ends of a range where nothing changes
 * @gi: the inode
 * @start: first page of the range
 * @end: page after the range, more than *@start
 * @private: the wanted state
 *
 * Context: task context; as kvm_gmem_next_run().
 * Return: false if all of the range is in the wanted state.
 */
bool kvm_gmem_trim(const struct gmem_inode *gi, pgoff_t *start, pgoff_t *end,
		   bool private)
{
	pgoff_t first, last;

	if (!kvm_gmem_next_run(gi, start, *end, private, &last))
		return false;

	if (kvm_gmem_run(gi, *end - 1, &first, &last) == private)
		*end = first;
	return true;
}
EXPORT_SYMBOL_FOR_ATTR_TEST(kvm_gmem_trim);

/*
 * What KVM asks about a gfn
 */

/**
 * kvm_slot_in_place - does the memory of a memslot convert in place?
 * @slot: the memslot
 *
 * Context: any; kvm->srcu or slots_lock, which keeps @slot.
 * Return: true if the memslot's file converts in place, and is open.  The
 *         attributes of the VM say nothing about its gfns then.
 */
bool kvm_slot_in_place(const struct kvm_memory_slot *slot)
{
	const struct gmem_inode *gi;

	guard(rcu)();
	gi = rcu_dereference(slot->gmem.inode);
	return gi && gi->in_place;
}
EXPORT_SYMBOL_FOR_KVM_INTERNAL(kvm_slot_in_place);

/**
 * kvm_slot_is_private - is a page of the guest private?
 * @kvm: the VM
 * @slot: the memslot that has @gfn, or NULL if none has
 * @gfn: the page
 *
 * Context: any; kvm->srcu, slots_lock or mmu_lock, which keeps @slot.  A vCPU that
 *          acts on the answer reads mmu_invalidate_seq before and compares it under
 *          mmu_lock.
 * Return: true if it is private.
 */
bool kvm_slot_is_private(struct kvm *kvm, const struct kvm_memory_slot *slot,
			 gfn_t gfn)
{
	const struct gmem_inode *gi;

	if (slot) {
		guard(rcu)();
		gi = rcu_dereference(slot->gmem.inode);
		if (gi && gi->in_place)
			return kvm_gmem_is_private(gi, gfn - slot->base_gfn +
						       slot->gmem.pgoff);
	}

	return kvm_get_memory_attributes(kvm, gfn) & KVM_MEMORY_ATTRIBUTE_PRIVATE;
}
EXPORT_SYMBOL_FOR_KVM_INTERNAL(kvm_slot_is_private);

/**
 * kvm_gmem_range_is_private - is what a memslot has of a range in one state?
 * @slot: a memslot that has a part of the range, and converts in place
 * @start: first gfn of the range
 * @end: gfn after the range
 * @private: the state
 *
 * Context: any; kvm->srcu or slots_lock.
 * Return: true if all of it is in that state, or the file was closed meanwhile.
 */
bool kvm_gmem_range_is_private(const struct kvm_memory_slot *slot, gfn_t start,
			       gfn_t end, bool private)
{
	const gfn_t offset = slot->gmem.pgoff - slot->base_gfn;
	const struct gmem_inode *gi;
	pgoff_t first, last;

	start = max(start, slot->base_gfn);
	end = min(end, slot->base_gfn + slot->npages);

	guard(rcu)();
	gi = rcu_dereference(slot->gmem.inode);
	if (!gi)
		return true;

	return kvm_gmem_run(gi, start + offset, &first, &last) == private &&
	       last >= end - 1 + offset;
}
