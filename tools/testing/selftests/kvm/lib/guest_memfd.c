// SPDX-License-Identifier: GPL-2.0
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/falloc.h>

#include "guest_memfd_util.h"
#include "processor.h"
#include "ucall_common.h"

const char *pool_dir(size_t page_size, int node)
{
	static __thread char dir[128];

	if (node < 0)
		snprintf(dir, sizeof(dir), "/sys/kernel/mm/hugepages/hugepages-%zukB",
			 page_size >> 10);
	else
		snprintf(dir, sizeof(dir),
			 "/sys/devices/system/node/node%d/hugepages/hugepages-%zukB",
			 node, page_size >> 10);
	return dir;
}

void read_pool(size_t page_size, struct pool_count *p)
{
	const char *dir;
	int i;

	memset(p, 0, sizeof(*p));
	if (page_size == SZ_4K)
		return;

	dir = pool_dir(page_size, -1);
	p->nr = cg_read_long(dir, "nr_hugepages");
	p->free = cg_read_long(dir, "free_hugepages");
	p->resv = cg_read_long(dir, "resv_hugepages");
	p->surplus = cg_read_long(dir, "surplus_hugepages");

	for (i = 0; i < MAX_NODES; i++) {
		dir = pool_dir(page_size, i);
		p->node[i].nr = cg_read_long(dir, "nr_hugepages");
		p->node[i].free = cg_read_long(dir, "free_hugepages");
		p->node[i].surplus = cg_read_long(dir, "surplus_hugepages");
	}
}

void print_pool(const char *when, const struct pool_count *p)
{
	int i;

	ksft_print_msg("%s: nr %ld free %ld resv %ld surplus %ld\n", when,
		       p->nr, p->free, p->resv, p->surplus);
	for (i = 0; i < MAX_NODES && p->node[i].nr >= 0; i++)
		ksft_print_msg("  node %d: nr %ld free %ld surplus %ld\n", i,
			       p->node[i].nr, p->node[i].free,
			       p->node[i].surplus);
}

static bool same_totals(const struct pool_count *want, const struct pool_count *p)
{
	long nr = 0, free = 0, surplus = 0;
	int i;

	for (i = 0; i < MAX_NODES && p->node[i].nr >= 0; i++) {
		nr += p->node[i].nr;
		free += p->node[i].free;
		surplus += p->node[i].surplus;
	}
	return nr == p->nr && free == p->free && surplus == p->surplus &&
	       want->nr == p->nr && want->free == p->free &&
	       want->resv == p->resv && want->surplus == p->surplus;
}

bool pool_compare(size_t page_size, const struct pool_count *want, bool nodes,
		  int patience)
{
	struct pool_count now;
	int i;

	for (i = 0; i <= patience * 100; i++) {
		if (i)
			usleep(10000);
		read_pool(page_size, &now);
		if (nodes ? !memcmp(want, &now, sizeof(now)) :
			    same_totals(want, &now))
			return true;
	}

	ksft_print_msg("wanted: nr %ld free %ld resv %ld surplus %ld\n", want->nr,
		       want->free, want->resv, want->surplus);
	if (nodes)
		print_pool("that is", want);
	print_pool("now", &now);
	return false;
}

bool resize_pool(size_t page_size, int node, long nr)
{
	return !cg_write_numeric(pool_dir(page_size, node), "nr_hugepages", nr);
}

bool restore_pool(size_t page_size, const struct pool_count *p)
{
	bool ok = true;
	int i;

	for (i = 0; i < MAX_NODES && p->node[i].nr >= 0; i++)
		ok &= resize_pool(page_size, i, p->node[i].nr);
	return ok;
}

/*
 * The guest
 */

struct guest_cmd {
	enum guest_op op;
	u64 gva;
	u64 size;
	u64 seed;
};

static struct guest_cmd guest_cmd[NR_VCPUS];

static void guest_run_cmd(const struct guest_cmd *cmd)
{
	const bool by_page = cmd->op == OP_TOUCH || cmd->op == OP_MARK ||
			     cmd->op == OP_CHECK_MARK;
	const bool by_gpa = cmd->op == OP_MARK || cmd->op == OP_CHECK_MARK;
	const u64 base = by_gpa ? TEST_GPA : cmd->gva;
	const u64 stride = by_page ? SZ_4K : 64;
	u64 end = cmd->gva + cmd->size;
	u64 gva, want, got;

	if (cmd->op == OP_NONE)
		return;

	for (gva = cmd->gva; gva < end; gva += stride) {
		want = cmd->op == OP_CHECK_ZERO ? 0 : (gva - base) ^ cmd->seed;
		if (cmd->op == OP_FILL || cmd->op == OP_TOUCH ||
		    cmd->op == OP_MARK) {
			WRITE_ONCE(*(u64 *)gva, want);
			continue;
		}
		got = READ_ONCE(*(u64 *)gva);
		__GUEST_ASSERT(got == want, "0x%lx holds 0x%lx, not 0x%lx",
			       gva, got, want);
	}
}

static void guest_code(int vcpu)
{
	struct guest_cmd cmd;

	for (;;) {
		/* The next one may be set while this one is carried out. */
		cmd = guest_cmd[vcpu];
		asm volatile("" : "+m"(cmd));
		guest_run_cmd(&cmd);
		GUEST_SYNC(0);
	}
}

void set_vcpu_cmd(struct gmem *g, int vcpu, enum guest_op op, u64 offset,
		  u64 size, u64 seed)
{
	guest_cmd[vcpu] = (struct guest_cmd) {
		.op = op,
		.gva = TEST_GPA + offset,
		.size = size,
		.seed = seed,
	};
	sync_global_to_guest(g->vm, guest_cmd[vcpu]);
}

void set_cmd(struct gmem *g, enum guest_op op, u64 offset, u64 size, u64 seed)
{
	int i;

	for (i = 0; i < NR_VCPUS; i++)
		set_vcpu_cmd(g, i, op, offset, size, seed);
}

int run_vcpu(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	if (_vcpu_run(vcpu))
		return errno;

	switch (get_ucall(vcpu, &uc)) {
	case UCALL_SYNC:
		return 0;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
	default:
		TEST_FAIL("unexpected exit of the guest, ucall %lu", uc.cmd);
	}
}

void *vcpu_thread(void *vcpu)
{
	int r = run_vcpu(vcpu);

	TEST_ASSERT(!r, "KVM_RUN failed: %s", strerror(r));
	return NULL;
}

/*
 * Files
 */

const char *gmem_setup(struct gmem *g, unsigned int page_shift,
		       unsigned int vm_type, long nr_free)
{
	struct vm_shape shape = {
		.mode = VM_MODE_DEFAULT,
		.type = vm_type,
	};
	static char reason[80];
	int i;

	g->page_size = 1UL << page_shift;
	if (!(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(vm_type)))
		return "no VMs of that type";

	read_pool(g->page_size, &g->before);
	if (page_shift > 12) {
		if (!(kvm_check_cap(KVM_CAP_GUEST_MEMFD_HUGETLB) &
		      BIT(page_shift - 12)))
			return "no huge pages of that size";
		g->avail = g->before.free - g->before.resv;
		if (g->avail < nr_free) {
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

	g->vm = __vm_create_with_vcpus(shape, NR_VCPUS, 0, guest_code, g->vcpu);
	for (i = 0; i < NR_VCPUS; i++)
		vcpu_args_set(g->vcpu[i], 1, i);
	g->hva = kvm_mmap(GUEST_SIZE + SZ_1G, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
	g->hva = align_ptr_up(g->hva, SZ_1G);

	/*
	 * The guest's own page tables map 1G throughout: that needs no page
	 * which would have to be mapped too and be counted with the memory.
	 */
	virt_map_level(g->vm, TEST_GPA, TEST_GPA, GUEST_SIZE, PG_LEVEL_1G);

	/* Have the guest's own pages mapped before a test counts anything. */
	for (i = 0; i < NR_VCPUS; i++)
		run_cmd(g, i, OP_NONE, 0, 0, 0);
	return NULL;
}

void gmem_free_vm(struct gmem *g)
{
	if (g->vm)
		kvm_vm_free(g->vm);
	g->vm = NULL;
}

int create_errno(struct kvm_vm *vm, u64 size, u64 flags)
{
	int fd = __vm_create_guest_memfd(vm, size, flags);

	if (fd < 0)
		return errno;

	close(fd);
	return 0;
}

int gmem_populate(struct gmem *g, int fd, long page, long nr_pages)
{
	return fallocate(fd, FALLOC_FL_KEEP_SIZE, page * g->page_size,
			 nr_pages * g->page_size) ? errno : 0;
}

int gmem_punch(struct gmem *g, int fd, long page, long nr_pages)
{
	return fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
			 page * g->page_size, nr_pages * g->page_size) ? errno : 0;
}

long gmem_nr_allocated(struct gmem *g, int fd)
{
	struct stat st;

	TEST_ASSERT(!fstat(fd, &st), "fstat of guest_memfd failed");
	TEST_ASSERT(!(st.st_blocks % (g->page_size / 512)),
		    "%ld blocks are not a whole number of pages",
		    (long)st.st_blocks);
	return st.st_blocks / (g->page_size / 512);
}

bool gmem_held(struct gmem *g, long allocated, long reserved)
{
	const struct pool_count *before = &g->before;
	struct pool_count want = *before, now;
	bool same;
	int i;

	if (g->page_size == SZ_4K)
		return true;

	want.free -= allocated;
	want.resv += reserved;
	read_pool(g->page_size, &now);
	same = same_totals(&want, &now);
	for (i = 0; i < MAX_NODES; i++)
		same &= now.node[i].nr == before->node[i].nr &&
			now.node[i].surplus == before->node[i].surplus &&
			(allocated ||
			 now.node[i].free == before->node[i].free);

	if (!same) {
		ksft_print_msg("wanted %ld allocated, %ld reserved\n", allocated,
			       reserved);
		print_pool("before", before);
		print_pool("now", &now);
	}
	return same;
}

int gmem_nr_vms(void)
{
	char prefix[32];
	struct dirent *d;
	int nr = 0;
	DIR *dir;

	dir = opendir("/sys/kernel/debug/kvm");
	if (!dir)
		return -1;
	snprintf(prefix, sizeof(prefix), "%d-", getpid());
	while ((d = readdir(dir)))
		if (!strncmp(d->d_name, prefix, strlen(prefix)))
			nr++;
	closedir(dir);
	return nr;
}

void gmem_bind_at(struct gmem *g, int fd, u64 offset, u64 size, u64 delta)
{
	vm_set_user_memory_region2(g->vm, TEST_SLOT, KVM_MEM_GUEST_MEMFD,
				   TEST_GPA + delta, size, g->hva + delta, fd,
				   offset);
	if (g->private)
		vm_mem_set_private(g->vm, TEST_GPA + delta, size);
}

const char *gmem_fdinfo(int fd, const char *key)
{
	static char value[128];
	char path[64], line[256];
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	f = fopen(path, "r");
	TEST_ASSERT(f, "no %s", path);

	while (fgets(line, sizeof(line), f)) {
		size_t len = strlen(key);

		if (strncmp(line, key, len) || line[len] != ':')
			continue;
		TEST_ASSERT(!found, "%s is there twice", key);
		TEST_ASSERT(sscanf(line + len + 1, "\t%127s", value) == 1,
			    "%s has no value", key);
		found = true;
	}
	fclose(f);
	return found ? value : NULL;
}

int gmem_convert(int fd, u64 offset, u64 size, bool private, u64 *error_offset)
{
	struct kvm_memory_attributes2 attr = {
		.offset = offset,
		.size = size,
		.attributes = private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
		.error_offset = GMEM_NO_ERROR,
	};
	int r = ioctl(fd, KVM_SET_MEMORY_ATTRIBUTES2, &attr) ? errno : 0;

	if (error_offset)
		*error_offset = attr.error_offset;
	return r;
}

int vm_convert(struct kvm_vm *vm, u64 gpa, u64 size, bool private)
{
	const struct kvm_memory_attributes attr = {
		.address = gpa,
		.size = size,
		.attributes = private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
	};

	return ioctl(vm->fd, KVM_SET_MEMORY_ATTRIBUTES, &attr) ? errno : 0;
}

/*
 * Error injection
 */

static struct {
	const char *dir;
	const char *name;
	char *value;
	char old[32];
} fault_settings[] = {
	{ DEBUGFS "/failslab", "ignore-gfp-wait", "N" },
	{ DEBUGFS "/failslab", "verbose", "0" },
	{ DEBUGFS "/failslab", "task-filter", "Y" },
	{ DEBUGFS "/failslab", "times", "-1" },
	{ DEBUGFS "/failslab", "probability", "100" },
	{ DEBUGFS "/fail_page_alloc", "ignore-gfp-wait", "N" },
	{ DEBUGFS "/fail_page_alloc", "ignore-gfp-highmem", "N" },
	{ DEBUGFS "/fail_page_alloc", "min-order", "0" },
	{ DEBUGFS "/fail_page_alloc", "verbose", "0" },
	{ DEBUGFS "/fail_page_alloc", "task-filter", "Y" },
	{ DEBUGFS "/fail_page_alloc", "times", "-1" },
	{ DEBUGFS "/fail_page_alloc", "probability", "100" },
	/* No caller is at such an address: copying to and from here works. */
	{ DEBUGFS "/fail_usercopy", "require-end", "1" },
};

bool faults_set_up(bool *begun)
{
	int i;

	*begun = false;
	for (i = 0; i < ARRAY_SIZE(fault_settings); i++)
		if (cg_read(fault_settings[i].dir, fault_settings[i].name,
			    fault_settings[i].old, sizeof(fault_settings[i].old)))
			return false;

	*begun = true;
	for (i = 0; i < ARRAY_SIZE(fault_settings); i++)
		if (cg_write(fault_settings[i].dir, fault_settings[i].name,
			     fault_settings[i].value))
			return false;
	return true;
}

bool faults_restore(void)
{
	bool ok = true;
	int i;

	/* In reverse, so that a filter goes after what it holds back. */
	for (i = ARRAY_SIZE(fault_settings) - 1; i >= 0; i--)
		ok &= !cg_write(fault_settings[i].dir, fault_settings[i].name,
				fault_settings[i].old);
	return ok;
}

/*
 * Cgroups
 */

bool gmem_make_cgroups(struct gmem_cgroups *cg, const char *name, const char *controller)
{
	char str[32];

	snprintf(str, sizeof(str), "+%s", controller);
	if (cg_read_strstr(CG_ROOT, "cgroup.controllers", controller))
		return false;

	if (cg_read_strstr(CG_ROOT, "cgroup.subtree_control", controller)) {
		if (cg_write(CG_ROOT, "cgroup.subtree_control", str))
			return false;
		strcat(cg->controllers, controller);
		strcat(cg->controllers, " ");
	}

	snprintf(cg->parent, sizeof(cg->parent), CG_ROOT "/%s", name);
	snprintf(cg->child, sizeof(cg->child), "%s/child", cg->parent);
	return (!cg_create(cg->parent) || errno == EEXIST) &&
	       !cg_write(cg->parent, "cgroup.subtree_control", str) &&
	       (!cg_create(cg->child) || errno == EEXIST);
}

bool gmem_remove_cgroups(struct gmem_cgroups *cg)
{
	char *name, *next, str[32];
	bool ok = true;

	if (!cg->parent[0])
		return true;
	rmdir(cg->child);
	rmdir(cg->parent);
	for (next = cg->controllers; (name = strsep(&next, " "));) {
		if (!*name)
			continue;
		snprintf(str, sizeof(str), "-%s", name);
		ok &= !cg_write(CG_ROOT, "cgroup.subtree_control", str);
	}
	return ok && access(cg->parent, F_OK);
}

const char *gmem_hugetlb_file(struct gmem *g, const char *name)
{
	static char file[4][64];
	static int next;
	char *p = file[next++ % ARRAY_SIZE(file)];

	snprintf(p, sizeof(file[0]), "hugetlb.%s.%s",
		 g->page_size == SZ_1G ? "1GB" : "2MB", name);
	return p;
}

bool gmem_hugetlb_is(struct gmem *g, const char *dir, long held, long rsvd)
{
	const long size = g->page_size;
	long current = cg_read_long(dir, gmem_hugetlb_file(g, "current"));
	long total = cg_read_key_long(dir, gmem_hugetlb_file(g, "numa_stat"), "total=");
	long reserved = cg_read_long(dir, gmem_hugetlb_file(g, "rsvd.current"));

	if (current == held * size && total == held * size &&
	    reserved == rsvd * size)
		return true;
	ksft_print_msg("%s: current %ld, numa_stat %ld, rsvd.current %ld\n", dir,
		       current, total, reserved);
	return false;
}

/*
 * Tracing
 */

const char *gmem_trace_start(const char *name)
{
	static char dir[96];

	snprintf(dir, sizeof(dir), "/sys/kernel/tracing/instances/%s", name);
	/* A test that was killed may have left it. */
	rmdir(dir);
	if (mkdir(dir, 0700))
		return NULL;
	if (cg_write(dir, "buffer_size_kb", "2048") ||
	    cg_write(dir, "events/guest_memfd/enable", "1")) {
		rmdir(dir);
		return NULL;
	}
	return dir;
}

void gmem_trace_stop(const char *dir)
{
	if (dir)
		TEST_ASSERT(!rmdir(dir), "cannot remove %s", dir);
}
