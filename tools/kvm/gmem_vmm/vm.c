// SPDX-License-Identifier: GPL-2.0
/*
 * A VM whose memory is a guest_memfd: the KVM calls, in the order in which a
 * VMM makes them.
 */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include <linux/kvm_para.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "gmem_vmm.h"

#define PTE_PRESENT	0x1ULL
#define PTE_WRITABLE	0x2ULL
#define PTE_LARGE	0x80ULL

#define CR0_PE		0x1
#define CR0_ET		0x10
#define CR0_PG		0x80000000U
#define CR4_PAE		0x20
#define EFER_LME	0x100
#define EFER_LMA	0x400
#define CPUID_PDPE1GB	0x4000000

/* How often a conversion is tried that finds a page in use. */
#define CONVERT_TRIES	10

enum { SLOT_LOW, SLOT_GMEM };

static int open_kvm(void)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		die("/dev/kvm: %m: load kvm_amd or kvm_intel, be root or in group kvm");
	return fd;
}

static void set_slot(struct vm *vm, struct kvm_userspace_memory_region2 *slot)
{
	if (ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION2, slot))
		die("KVM_SET_USER_MEMORY_REGION2, slot %u: %m", slot->slot);
}

/* The ordinary memory that holds page tables, code, jobs and stacks. */
static void create_low(struct vm *vm)
{
	struct kvm_userspace_memory_region2 slot = {
		.slot = SLOT_LOW,
		.memory_size = LOW_SIZE,
	};
	size_t code_size = __stop_guest_code - __start_guest_code;
	__u64 *pml4, *pdpt;
	int i;

	vm->low = mmap(NULL, LOW_SIZE, PROT_READ | PROT_WRITE,
		       MAP_ANONYMOUS | MAP_SHARED, -1, 0);
	if (vm->low == MAP_FAILED)
		die("mmap of %d bytes: %m", LOW_SIZE);

	pml4 = (__u64 *)(vm->low + PML4_GPA);
	pdpt = (__u64 *)(vm->low + PDPT_GPA);
	pml4[0] = PDPT_GPA | PTE_PRESENT | PTE_WRITABLE;
	for (i = 0; i < 512; i++)
		pdpt[i] = i * SZ_1G | PTE_PRESENT | PTE_WRITABLE | PTE_LARGE;

	if (code_size > CODE_MAX)
		die("the guest's code is larger than %d bytes", CODE_MAX);
	memcpy(vm->low + CODE_GPA, __start_guest_code, code_size);

	slot.userspace_addr = (__u64)vm->low;
	set_slot(vm, &slot);
}

/* Start in 64-bit mode: no boot code, no descriptor tables, no interrupts. */
static void set_registers(struct vcpu *vcpu, int n)
{
	struct kvm_segment code = {
		.limit = 0xffffffff, .selector = 8, .type = 0xb,
		.present = 1, .s = 1, .l = 1, .g = 1,
	};
	struct kvm_segment data = {
		.limit = 0xffffffff, .selector = 16, .type = 0x3,
		.present = 1, .s = 1, .db = 1, .g = 1,
	};
	struct kvm_sregs sregs;
	struct kvm_regs regs = {
		.rip = CODE_GPA + ((char *)guest_main - __start_guest_code),
		.rdi = JOB_GPA(n),
		.rsp = STACK_TOP(n) - 8,	/* as if called */
		.rflags = 0x2,
	};

	if (ioctl(vcpu->fd, KVM_GET_SREGS, &sregs))
		die("KVM_GET_SREGS: %m");
	sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
	sregs.cr3 = PML4_GPA;
	sregs.cr4 = CR4_PAE;
	sregs.efer = EFER_LME | EFER_LMA;
	sregs.cs = code;
	sregs.ds = data;
	sregs.es = data;
	sregs.ss = data;
	if (ioctl(vcpu->fd, KVM_SET_SREGS, &sregs))
		die("KVM_SET_SREGS: %m");
	if (ioctl(vcpu->fd, KVM_SET_REGS, &regs))
		die("KVM_SET_REGS: %m");
}

/* The guest's page tables are made of 1G pages. */
static void check_cpuid(struct kvm_cpuid2 *cpuid)
{
	int i;

	for (i = 0; i < cpuid->nent; i++)
		if (cpuid->entries[i].function == 0x80000001 &&
		    cpuid->entries[i].edx & CPUID_PDPE1GB)
			return;
	die("this CPU has no 1G pages (pdpe1gb), or KVM hides them from its guests");
}

static void create_vcpu(struct vm *vm, int n, struct kvm_cpuid2 *cpuid)
{
	struct vcpu *vcpu = &vm->vcpu[n];

	vcpu->fd = ioctl(vm->fd, KVM_CREATE_VCPU, n);
	if (vcpu->fd < 0)
		die("KVM_CREATE_VCPU %d: %m", n);
	vcpu->run = mmap(NULL, vm->run_size, PROT_READ | PROT_WRITE,
			 MAP_SHARED, vcpu->fd, 0);
	if (vcpu->run == MAP_FAILED)
		die("mmap of vCPU %d: %m", n);
	vcpu->stats_fd = ioctl(vcpu->fd, KVM_GET_STATS_FD, NULL);
	if (vcpu->stats_fd < 0)
		die("KVM_GET_STATS_FD, vCPU %d: %m", n);
	vcpu->job = (struct guest_job *)(vm->low + JOB_GPA(n));

	/* Long mode and 1G pages have to be in the guest's CPUID. */
	if (ioctl(vcpu->fd, KVM_SET_CPUID2, cpuid))
		die("KVM_SET_CPUID2: %m");
	set_registers(vcpu, n);
}

/*
 * A guest asks for memory to be private or shared by a hypercall, and this program
 * is to answer it.
 */
static void enable_hypercall(struct vm *vm)
{
	struct kvm_enable_cap cap = {
		.cap = KVM_CAP_EXIT_HYPERCALL,
		.args[0] = 1 << KVM_HC_MAP_GPA_RANGE,
	};

	if (ioctl(vm->fd, KVM_ENABLE_CAP, &cap))
		die("KVM_CAP_EXIT_HYPERCALL: %m: no guest can ask for conversions here");
}

void vm_create(struct vm *vm, unsigned long type, enum sharing sharing, int nr_vcpus)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entries[256];
	} cpuid = { .head.nent = 256 };
	int kvm_fd = open_kvm();
	int i;

	*vm = (struct vm){
		.type = type, .sharing = sharing, .nr_vcpus = nr_vcpus, .gmem_fd = -1,
	};

	vm->fd = ioctl(kvm_fd, KVM_CREATE_VM, type);
	if (vm->fd < 0 && errno == EINVAL)
		die("no VMs with private memory: set CONFIG_KVM_SW_PROTECTED_VM=y in the kernel");
	if (vm->fd < 0)
		die("KVM_CREATE_VM: %m");
	vm->stats_fd = ioctl(vm->fd, KVM_GET_STATS_FD, NULL);
	if (vm->stats_fd < 0)
		die("KVM_GET_STATS_FD: %m");
	if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, &cpuid))
		die("KVM_GET_SUPPORTED_CPUID: %m");
	check_cpuid(&cpuid.head);
	vm->run_size = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	close(kvm_fd);

	if (sharing == SHARE_IN_PLACE &&
	    !(ioctl(vm->fd, KVM_CHECK_EXTENSION, KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES) &
	      KVM_MEMORY_ATTRIBUTE_PRIVATE))
		die("this kernel lacks KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES: leave out --convert");
	if (sharing != SHARE_NOTHING)
		enable_hypercall(vm);

	create_low(vm);
	for (i = 0; i < nr_vcpus; i++)
		create_vcpu(vm, i, &cpuid.head);
}

/*
 * A VM without private memory runs from the guest_memfd only if the file has
 * MMAP; as long as it lacks INIT_SHARED the host cannot touch its memory. In a VM
 * with private memory a file with MMAP converts in place: the host can touch what
 * is shared.
 */
__u64 vm_gmem_flags(const struct vm *vm, __u64 page_size)
{
	__u64 flags = 0;

	if (vm->type == KVM_X86_DEFAULT_VM || vm->sharing == SHARE_IN_PLACE)
		flags |= GUEST_MEMFD_FLAG_MMAP;
	if (page_size == SZ_2M)
		flags |= GUEST_MEMFD_FLAG_HUGETLB | GUEST_MEMFD_HUGE_2MB;
	if (page_size == SZ_1G)
		flags |= GUEST_MEMFD_FLAG_HUGETLB | GUEST_MEMFD_HUGE_1GB;
	return flags;
}

void vm_create_gmem(struct vm *vm, __u64 size, __u64 page_size)
{
	struct kvm_create_guest_memfd args = {
		.size = size,
		.flags = vm_gmem_flags(vm, page_size),
	};
	__u64 pages = size / page_size;
	struct pool pool;

	pool_read(&pool, page_size);
	vm->gmem_fd = ioctl(vm->fd, KVM_CREATE_GUEST_MEMFD, &args);
	if (vm->gmem_fd >= 0)
		return;

	if (errno == ENODEV)
		die("this kernel has no HugeTLB pages of this size");
	if (errno == ENOMEM)
		die("%llu pages free and unreserved, %llu needed: echo %llu > %s/nr_hugepages",
		    pool.free - pool.reserved, pages,
		    pool.total - pool.free + pool.reserved + pages, pool_path(page_size));
	if (page_size != SZ_4K &&
	    ioctl(vm->fd, KVM_CHECK_EXTENSION, KVM_CAP_GUEST_MEMFD_HUGETLB) <= 0)
		die("this kernel lacks KVM_CAP_GUEST_MEMFD_HUGETLB: use --page-size 4K");
	die("KVM_CREATE_GUEST_MEMFD, size %#llx, flags %#llx: %m", args.size, args.flags);
}

/*
 * KVM takes userspace_addr, and not the file, where it reads or writes guest
 * memory itself, to write the time for example.  The field never means "none":
 * with 0 a guest writes to what this program has from address 0 on.  Map the same
 * range of the file.  Where that cannot be mapped, have other memory there for what
 * will be shared, or keep the addresses free of memory.
 */
static void map_gmem(struct vm *vm, __u64 size)
{
	int prot = PROT_READ | PROT_WRITE;
	void *mem;

	if (vm_gmem_flags(vm, SZ_4K) & GUEST_MEMFD_FLAG_MMAP) {
		mem = mmap(NULL, size, prot, MAP_SHARED, vm->gmem_fd, 0);
	} else {
		if (vm->sharing != SHARE_TWO_STORES)
			prot = PROT_NONE;
		mem = mmap(NULL, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			   -1, 0);
	}
	if (mem == MAP_FAILED)
		die("mmap of %llu bytes for userspace_addr: %m", size);
	/* Of the other memory no more than what is used. */
	if (vm->sharing == SHARE_TWO_STORES && madvise(mem, size, MADV_NOHUGEPAGE) &&
	    errno != EINVAL)
		die("MADV_NOHUGEPAGE: %m");
	vm->gmem = mem;
	vm->gmem_size = size;
}

/*
 * The file says where memory is in use that is to be private: pinned, in a pipe, or
 * just looked at by the kernel.  The last passes.
 */
static void convert_in_place(struct vm *vm, __u64 offset, __u64 size, bool private)
{
	struct kvm_memory_attributes2 attributes = {
		.offset = offset,
		.size = size,
		.attributes = private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
	};
	int tries;

	for (tries = 0; tries < CONVERT_TRIES; tries++) {
		if (!ioctl(vm->gmem_fd, KVM_SET_MEMORY_ATTRIBUTES2, &attributes))
			return;
		if (errno != EAGAIN)
			die("KVM_SET_MEMORY_ATTRIBUTES2, offset %#llx, size %#llx: %m",
			    offset, size);
		usleep(1000 << tries);
	}
	die("the page at %#llx of the file stays in use in the host: unpin it first",
	    (__u64)attributes.error_offset);
}

/* What the guest has in one store does not get into the other. */
static void convert_stores(struct vm *vm, __u64 gpa, __u64 size, bool private)
{
	struct kvm_memory_attributes attributes = {
		.address = gpa,
		.size = size,
		.attributes = private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
	};

	if (ioctl(vm->fd, KVM_SET_MEMORY_ATTRIBUTES, &attributes))
		die("KVM_SET_MEMORY_ATTRIBUTES: %m");
	if (private && vm->sharing == SHARE_TWO_STORES &&
	    madvise(vm->gmem + (gpa - vm->gmem_gpa), size, MADV_DONTNEED))
		die("MADV_DONTNEED: %m");
}

void vm_set_private(struct vm *vm, __u64 gpa, __u64 size, bool private)
{
	if (vm->sharing == SHARE_IN_PLACE)
		convert_in_place(vm, gpa - vm->gmem_gpa, size, private);
	else
		convert_stores(vm, gpa, size, private);
}

void vm_bind_gmem(struct vm *vm, __u64 gpa, __u64 size)
{
	struct kvm_userspace_memory_region2 slot = {
		.slot = SLOT_GMEM,
		.flags = KVM_MEM_GUEST_MEMFD,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.guest_memfd = vm->gmem_fd,
	};

	map_gmem(vm, size);
	vm->gmem_gpa = gpa;
	slot.userspace_addr = (__u64)vm->gmem;
	set_slot(vm, &slot);
	/* A file that converts in place says itself what is private: all, at first. */
	if (vm->type != KVM_X86_DEFAULT_VM && vm->sharing != SHARE_IN_PLACE)
		vm_set_private(vm, gpa, size, true);
}

static int kvm_run(struct vcpu *vcpu)
{
	int r;

	do {
		r = ioctl(vcpu->fd, KVM_RUN, NULL) ? errno : 0;
		/* EAGAIN: a page that is punched out is still in use by a task. */
	} while (r == EINTR || (r == EAGAIN &&
				vcpu->run->exit_reason == KVM_EXIT_MEMORY_FAULT));
	return r;
}

/* The guest's answer is 0, or why its request makes no sense. */
static void handle_hypercall(struct vm *vm, struct kvm_run *run)
{
	__u64 gpa = run->hypercall.args[0], size = run->hypercall.args[1] * SZ_4K;

	if (run->hypercall.nr != KVM_HC_MAP_GPA_RANGE)
		die("unexpected hypercall %llu", (__u64)run->hypercall.nr);
	if (gpa < vm->gmem_gpa || size > vm->gmem_size ||
	    gpa - vm->gmem_gpa > vm->gmem_size - size) {
		run->hypercall.ret = -EINVAL;
		return;
	}
	vm_set_private(vm, gpa, size,
		       run->hypercall.args[2] & KVM_MAP_GPA_RANGE_ENCRYPTED);
	run->hypercall.ret = 0;
}

/* Runs vCPU n until its job is done; @progress may be NULL. */
void vm_run_vcpu(struct vm *vm, int n, void (*progress)(unsigned int mib))
{
	struct vcpu *vcpu = &vm->vcpu[n];
	struct kvm_run *run = vcpu->run;

	for (;;) {
		__u32 *data;

		errno = kvm_run(vcpu);
		if (errno && run->exit_reason == KVM_EXIT_MEMORY_FAULT)
			die("KVM_RUN: %m: memory fault at %#llx, flags %#llx",
			    run->memory_fault.gpa, run->memory_fault.flags);
		if (errno)
			die("KVM_RUN: %m");
		if (run->exit_reason == KVM_EXIT_HYPERCALL) {
			handle_hypercall(vm, run);
			continue;
		}
		if (run->exit_reason != KVM_EXIT_IO)
			die("vCPU %d: unexpected exit %u%s", n, run->exit_reason,
			    run->exit_reason == KVM_EXIT_SHUTDOWN ?
			    " (triple fault)" : "");
		if (run->io.port == PORT_DONE)
			return;
		data = (__u32 *)((char *)run + run->io.data_offset);
		if (progress)
			progress(*data);
	}
}

/* Runs vCPU n up to its next exit.  Returns 0, or the errno of KVM_RUN. */
int vm_try_vcpu(struct vm *vm, int n)
{
	return kvm_run(&vm->vcpu[n]);
}

/*
 * The memory of the file goes with its descriptor and mapping, the VM with these
 * and all the others.
 */
void vm_destroy(struct vm *vm)
{
	int i;

	for (i = 0; i < vm->nr_vcpus; i++) {
		munmap(vm->vcpu[i].run, vm->run_size);
		close(vm->vcpu[i].stats_fd);
		close(vm->vcpu[i].fd);
	}
	close(vm->stats_fd);
	close(vm->fd);
	close(vm->gmem_fd);
	munmap(vm->gmem, vm->gmem_size);
	munmap(vm->low, LOW_SIZE);
}
