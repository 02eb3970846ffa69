// SPDX-License-Identifier: GPL-2.0
/*
 * The allocators of guest_memfd memory: which there are, which one a file gets,
 * and the default one, single pages from the page allocator.
 *
 * KVM registers its own when it's loaded; modules can bring others.  A file pins
 * the module of its allocator.
 */
#include <linux/bitops.h>
#include <linux/cleanup.h>
#include <linux/kvm_host.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pagemap.h>
#include <linux/xarray.h>

#include "guest_memfd.h"

static unsigned long gmem_buddy_orders(void)
{
	return BIT(0);
}

static int gmem_buddy_order(u64 flags)
{
	return 0;
}

static struct folio *gmem_buddy_allocate(void *handle, pgoff_t index,
					 struct mempolicy *mpol, pgoff_t ilx)
{
	struct folio *folio;

	folio = filemap_alloc_folio(GFP_HIGHUSER | __GFP_ZERO, 0, mpol);
	if (!folio)
		return ERR_PTR(-ENOMEM);

	__folio_mark_uptodate(folio);
	return folio;
}

/*
 * Nothing is reserved.  The pages are ordinary page cache: charged to the memory
 * cgroup of the task that allocates them and on the unevictable LRU.
 */
static const struct guest_memfd_allocator_ops kvm_gmem_buddy_ops = {
	.owner		= THIS_MODULE,
	.name		= "buddy",
	.can_mmap	= true,
	.orders		= gmem_buddy_orders,
	.order		= gmem_buddy_order,
	.allocate	= gmem_buddy_allocate,
};

static const struct guest_memfd_allocator_ops * const kvm_gmem_own_allocators[] = {
	&kvm_gmem_buddy_ops,
#ifdef CONFIG_KVM_GUEST_MEMFD_HUGETLB
	&kvm_gmem_hugetlb_ops,
#endif
};

/* By the number of the flag's bit, plus 1; the allocator without a flag is 0. */
static DEFINE_XARRAY(kvm_gmem_allocators);
static DEFINE_MUTEX(kvm_gmem_allocators_lock);

static unsigned long kvm_gmem_allocator_index(u64 flag)
{
	return flag ? __ffs64(flag) + 1 : 0;
}

/**
 * guest_memfd_register_allocator - offer an allocator to new guest_memfd files
 * @ops: the allocator; neither it nor what it points to may go away before
 *       guest_memfd_unregister_allocator()
 *
 * Files may be created with it before this returns.  A module therefore calls
 * this last in its init function: it cannot be pinned if init fails.
 *
 * Context: process context, may sleep.
 * Return: 0; -EBUSY if there is an allocator with this name or flag, or to which
 *         one of the flag bits means something else; -EINVAL if a hook is
 *         missing, @flag is not one bit, a bit is guest_memfd's own, or the
 *         allocator is not KVM's own and @flag not for others; -ENOMEM.
 */
int guest_memfd_register_allocator(const struct guest_memfd_allocator_ops *ops)
{
	const u64 core_flags = kvm_gmem_get_supported_flags(NULL);
	const struct guest_memfd_allocator_ops *other;
	unsigned long i;

	if (!ops->name || !ops->orders || !ops->order || !ops->allocate ||
	    !ops->reserve != !ops->unreserve)
		return -EINVAL;

	if (ops->can_split && !(ops->split_prepare && ops->split_commit &&
				ops->split_cancel && ops->merge_later))
		return -EINVAL;

	if ((ops->flag & (ops->flag - 1)) || (ops->flag & ops->flag_args) ||
	    ((ops->flag | ops->flag_args) & core_flags))
		return -EINVAL;

	if (ops->owner != THIS_MODULE && !(ops->flag & GUEST_MEMFD_FLAGS_MODULE))
		return -EINVAL;

	guard(mutex)(&kvm_gmem_allocators_lock);

	xa_for_each(&kvm_gmem_allocators, i, other)
		if (!strcmp(other->name, ops->name) ||
		    (other->flag & ops->flag_args) ||
		    (other->flag_args & ops->flag))
			return -EBUSY;

	return xa_insert(&kvm_gmem_allocators, kvm_gmem_allocator_index(ops->flag),
			 (void *)ops, GFP_KERNEL);
}
EXPORT_SYMBOL_GPL(guest_memfd_register_allocator);

/**
 * guest_memfd_unregister_allocator - take an allocator away from new files
 * @ops: an allocator that is registered
 *
 * For the exit function of a module, at which time there is no file that uses
 * it.
 *
 * Context: process context, may sleep.
 */
void guest_memfd_unregister_allocator(const struct guest_memfd_allocator_ops *ops)
{
	guard(mutex)(&kvm_gmem_allocators_lock);

	WARN_ON_ONCE(xa_cmpxchg(&kvm_gmem_allocators,
				kvm_gmem_allocator_index(ops->flag),
				(void *)ops, NULL, GFP_KERNEL) != ops);
}
EXPORT_SYMBOL_GPL(guest_memfd_unregister_allocator);

/**
 * kvm_gmem_unregister_allocators - take KVM's own allocators away
 *
 * Context: process context, may sleep.
 */
void kvm_gmem_unregister_allocators(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(kvm_gmem_own_allocators); i++)
		guest_memfd_unregister_allocator(kvm_gmem_own_allocators[i]);
}

/**
 * kvm_gmem_register_allocators - offer KVM's own allocators
 *
 * Context: process context, may sleep.
 * Return: 0, or an error of guest_memfd_register_allocator().
 */
int kvm_gmem_register_allocators(void)
{
	int i, r;

	for (i = 0; i < ARRAY_SIZE(kvm_gmem_own_allocators); i++) {
		r = guest_memfd_register_allocator(kvm_gmem_own_allocators[i]);
		if (r) {
			while (i--)
				guest_memfd_unregister_allocator(kvm_gmem_own_allocators[i]);
			return r;
		}
	}
	return 0;
}

/**
 * kvm_gmem_get_allocator - find the allocator for a new file
 * @flags: the flags of KVM_CREATE_GUEST_MEMFD
 *
 * Context: process context, may sleep.
 * Return: the allocator that one of the flags selects, otherwise the one without
 *         a flag.  module_put(ops->owner) when it's no longer needed.
 */
const struct guest_memfd_allocator_ops *kvm_gmem_get_allocator(u64 flags)
{
	const struct guest_memfd_allocator_ops *ops;
	unsigned long i;

	guard(mutex)(&kvm_gmem_allocators_lock);

	/* A module that is on its way out is gone. */
	xa_for_each(&kvm_gmem_allocators, i, ops)
		if ((ops->flag & flags) && try_module_get(ops->owner))
			return ops;

	/* KVM's own, and thus pinned by the VM. */
	ops = xa_load(&kvm_gmem_allocators, kvm_gmem_allocator_index(0));
	__module_get(ops->owner);
	return ops;
}

/**
 * kvm_gmem_page_sizes - the page sizes on offer with a flag
 * @flag: a flag of KVM_CREATE_GUEST_MEMFD
 *
 * Context: process context, may sleep.
 * Return: a bitmap with bit n for pages of 2^(n + 12) bytes; 0 if no allocator
 *         has the flag.
 */
unsigned long kvm_gmem_page_sizes(u64 flag)
{
	const struct guest_memfd_allocator_ops *ops;
	unsigned long sizes = 0;

	ops = kvm_gmem_get_allocator(flag);
	if (ops->flag == flag)
		sizes = ops->orders() << (PAGE_SHIFT - 12);
	module_put(ops->owner);

	return sizes;
}
