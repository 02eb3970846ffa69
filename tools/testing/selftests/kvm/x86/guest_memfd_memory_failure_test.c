// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory errors in huge pages of guest_memfd: they cost 4K, whatever the page is used
 * for, and no other file a page.
 *
 * Errors are made by writing to hard_offline_page.  They last until the machine boots
 * again: each test that makes some has one huge page less afterwards, which is
 * allocated again before the next one if the machine has the memory for it.
 *
 * Environment: GMEM_ROUNDS, how many random rounds; GMEM_SEED, what they are made of;
 * GMEM_RACE_SECONDS, how long errors meet other things
 */
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "guest_memfd_conversions.h"
#include "kselftest_harness.h"

#define TIMEOUT		900
/* A page that fails, in the first 2M and in no granule at the edge of them */
#define BAD		200
#define SEED		1
#define RACE_SECONDS	5
#define SPLIT_SECONDS	20

FIXTURE(failure)
{
	struct conv c;
	u64 *pfn;		/* of the first page of each huge page */
	long corrupted;		/* kB */
	struct pool_count before;
};

FIXTURE_VARIANT(failure)
{
	unsigned int page_shift;
};

FIXTURE_VARIANT_ADD(failure, 2m) { .page_shift = 21 };
FIXTURE_VARIANT_ADD(failure, 1g) { .page_shift = 30 };

/* kB */
static long hardware_corrupted(void)
{
	char line[128];
	long kb = -1;
	FILE *f = fopen("/proc/meminfo", "r");

	TEST_ASSERT(f, "no /proc/meminfo");
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "HardwareCorrupted: %ld", &kb) == 1)
			break;
	fclose(f);
	return kb;
}

static u64 pfn_of(const void *p)
{
	int fd = open("/proc/self/pagemap", O_RDONLY);
	u64 entry;

	TEST_ASSERT(fd >= 0, "no /proc/self/pagemap");
	TEST_ASSERT(pread(fd, &entry, sizeof(entry), (u64)p / SZ_4K * sizeof(entry)) ==
		    sizeof(entry), "cannot read the page map");
	close(fd);
	TEST_ASSERT(entry >> 63, "the page is not present");
	return entry & ((1ULL << 55) - 1);
}

static int fail_pfn(u64 pfn)
{
	int fd = open("/sys/devices/system/memory/hard_offline_page", O_WRONLY);
	char address[32];
	int r;

	if (fd < 0)
		return errno;
	snprintf(address, sizeof(address), "%#llx", (unsigned long long)P(pfn));
	r = write(fd, address, strlen(address)) < 0 ? errno : 0;
	close(fd);
	return r;
}

static u64 offset_pfn(struct conv *c, const u64 *pfn, u64 offset)
{
	return pfn[offset / c->g.page_size] + offset % c->g.page_size / SZ_4K;
}

#define FAIL(offset) fail_pfn(offset_pfn(c, self->pfn, offset))

#define KPF_HWPOISON	19

/* How many pages of the machine have failed */
static long nr_failed_pages(void)
{
	const int fd = open_path_or_exit("/proc/kpageflags", O_RDONLY);
	static u64 flags[8192];
	long failed = 0;
	ssize_t n, i;

	while ((n = read(fd, flags, sizeof(flags))) > 0)
		for (i = 0; i < n / (ssize_t)sizeof(u64); i++)
			failed += flags[i] >> KPF_HWPOISON & 1;
	TEST_ASSERT(!n, "cannot read /proc/kpageflags");
	close(fd);
	return failed;
}

static bool has_failed(u64 pfn)
{
	const int fd = open_path_or_exit("/proc/kpageflags", O_RDONLY);
	u64 flags;

	TEST_ASSERT(pread(fd, &flags, sizeof(flags), pfn * sizeof(flags)) ==
		    sizeof(flags), "cannot read /proc/kpageflags");
	close(fd);
	return flags >> KPF_HWPOISON & 1;
}

/* Those of the vCPU that guest_try() runs, as it has not run yet */
static struct kvm_regs start_regs;

FIXTURE_SETUP(failure)
{
	const size_t page_size = 1UL << variant->page_shift;
	struct conv *c = &self->c;
	const char *why;
	u64 o;

	if (access("/sys/devices/system/memory/hard_offline_page", W_OK))
		SKIP(return, "no CONFIG_MEMORY_FAILURE");

	/* What an earlier test has cost */
	if (access(pool_dir(page_size, -1), R_OK))
		SKIP(return, "no such pool");
	read_pool(page_size, &self->before);
	if (self->before.free - self->before.resv < 2)
		resize_pool(page_size, -1, self->before.nr + 2);
	why = conv_setup(c, variant->page_shift, WINDOW, 0);
	if (why)
		SKIP(return, "%s", why);
	vcpu_regs_get(c->g.vcpu[1], &start_regs);

	self->pfn = calloc(c->size / page_size, sizeof(u64));
	for (o = 0; o < c->size; o += page_size) {
		ASSERT_EQ(0, to_shared(c, o, SZ_4K));
		ASSERT_EQ(0, host_touch(c->mem + o));
		self->pfn[o / page_size] = pfn_of(c->mem + o);
		ASSERT_EQ(0, to_private(c, o, SZ_4K));
	}
	ASSERT_TRUE(conv_wait_merged(c));
	guest_mark(c, 0, WINDOW, SEED);
	ASSERT_EQ(c->size / page_size, conv_nr_huge(c));
	self->corrupted = hardware_corrupted();
	read_pool(page_size, &self->before);
}

FIXTURE_TEARDOWN(failure)
{
	conv_free(&self->c);
	free(self->pfn);
}

/*
 * An access of the guest that may fail: the error.  The vCPU goes back to where it
 * began, or it would try the same again.
 */
static int guest_try(struct conv *c, enum guest_op op, u64 offset, u64 size)
{
	struct kvm_vcpu *vcpu = c->g.vcpu[1];
	int r;

	set_vcpu_cmd(&c->g, 1, op, offset, size, SEED);
	r = run_vcpu(vcpu);
	if (r)
		vcpu_regs_set(vcpu, &start_regs);
	return r;
}

/*
 * The same, of a page that has failed if it is @lost.  An access of that may be in time
 * until the page is split off, which is tried again if something is in its way.
 */
static int guest_access(struct conv *c, enum guest_op op, u64 offset, bool lost)
{
	const double end = conv_now() + SPLIT_SECONDS;
	int r;

	while (!(r = guest_try(c, op, offset, SZ_4K)) && lost && conv_now() < end)
		usleep(1000);
	return r;
}

/* The guest and KVM's exit say that this page is lost. */
static bool guest_lost(struct conv *c, u64 offset)
{
	const struct kvm_run *run = c->g.vcpu[1]->run;
	int r = guest_access(c, OP_MARK, offset, true);

	if (r == EHWPOISON && run->exit_reason == KVM_EXIT_MEMORY_FAULT &&
	    run->memory_fault.gpa == TEST_GPA + offset)
		return true;

	ksft_print_msg("page 0x%lx: error %d, exit %u\n", offset / SZ_4K, r,
		       run->exit_reason);
	return false;
}

/* All of the window but these pages, which are in ascending order */
static void check_others(struct conv *c, const u64 *bad, int nr)
{
	u64 o = 0;
	int i;

	for (i = 0; i <= nr; i++) {
		u64 end = i < nr ? P(bad[i]) : WINDOW;

		if (end > o)
			guest_check(c, o, end - o, SEED);
		o = end + SZ_4K;
	}
}

/*
 * What SIGBUS says of an access of the host
 */

static sigjmp_buf sigbus_jmp;
static siginfo_t sigbus_info;

static void sigbus(int sig, siginfo_t *info, void *context)
{
	sigbus_info = *info;
	siglongjmp(sigbus_jmp, 1);
}

static bool host_lost(struct conv *c, u64 offset)
{
	struct sigaction sa = { .sa_sigaction = sigbus, .sa_flags = SA_SIGINFO }, old;
	bool lost;

	sigaction(SIGBUS, &sa, &old);
	if (!sigsetjmp(sigbus_jmp, 1)) {
		READ_ONCE(*(u64 *)(c->mem + offset + 8));
		lost = false;
	} else {
		lost = sigbus_info.si_code == BUS_MCEERR_AR &&
		       sigbus_info.si_addr_lsb == 12 &&
		       (u64)sigbus_info.si_addr / SZ_4K == (u64)(c->mem + offset) / SZ_4K;
	}
	sigaction(SIGBUS, &old, NULL);
	if (!lost)
		ksft_print_msg("page 0x%lx: code %d lsb %d address %p\n", offset / SZ_4K,
			       sigbus_info.si_code, sigbus_info.si_addr_lsb,
			       sigbus_info.si_addr);
	return lost;
}

static long nr_folios(struct conv *c, unsigned int order)
{
	char key[64];

	snprintf(key, sizeof(key), "gmem-folios-%lukB", 4UL << order);
	return max(conv_fdinfo(c, key), 0L);
}

/* Folios of 4K, and of each size up to the file's, when a single page is apart */
#define EXPECT_ISOLATED(nr)							\
	do {									\
		unsigned int order;						\
										\
		EXPECT_TRUE(conv_wait_fdinfo(c, "gmem-folios-4kB", 64 * (nr)));	\
		for (order = 6; order < variant->page_shift - 12; order++)	\
			EXPECT_EQ((nr), nr_folios(c, order)) {			\
				TH_LOG("order %u", order);			\
			}							\
	} while (0)

/* A page of a whole huge page that only the guest has */
TEST_F_TIMEOUT(failure, private, TIMEOUT)
{
	const u64 bad[] = { BAD };
	struct conv *c = &self->c;

	ASSERT_EQ(0, FAIL(P(BAD)));
	EXPECT_EQ(self->corrupted + 4, hardware_corrupted());
	EXPECT_TRUE(guest_lost(c, P(BAD)));
	EXPECT_ISOLATED(1);
	EXPECT_EQ(c->size / c->g.page_size - 1, nr_folios(c, variant->page_shift - 12));
	check_others(c, bad, 1);

	/* Of 1G, the window's other blocks of 2M are mapped by these. */
	if (c->g.page_size == SZ_1G) {
		EXPECT_EQ(WINDOW / SZ_2M - 1, conv_maps(c).nr_2m);
	}
	EXPECT_TRUE(guest_lost(c, P(BAD)));
	EXPECT_EQ(EHWPOISON, FAIL(P(BAD)));
	EXPECT_EQ(self->corrupted + 4, hardware_corrupted());
}

/* A second page, next to it, and a third one elsewhere */
TEST_F_TIMEOUT(failure, more, TIMEOUT)
{
	const u64 bad[] = { BAD, BAD + 1, BAD + 512 };
	struct conv *c = &self->c;
	int i;

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		ASSERT_EQ(0, FAIL(P(bad[i])));
		EXPECT_TRUE(guest_lost(c, P(bad[i])));
	}
	EXPECT_TRUE(conv_wait_fdinfo(c, "gmem-folios-4kB", 128));
	check_others(c, bad, ARRAY_SIZE(bad));
	for (i = 0; i < ARRAY_SIZE(bad); i++)
		EXPECT_TRUE(guest_lost(c, P(bad[i])));
	EXPECT_EQ(self->corrupted + 12, hardware_corrupted());
}

/* The rest can be converted, and becomes large again. */
TEST_F_TIMEOUT(failure, converted, TIMEOUT)
{
	const u64 bad[] = { BAD };
	struct conv *c = &self->c;

	ASSERT_EQ(0, FAIL(P(BAD)));
	EXPECT_EQ(0, to_shared(c, 0, WINDOW));
	EXPECT_EQ(0, host_check(c, 0, P(BAD), SEED));
	EXPECT_EQ(0, host_check(c, P(BAD + 1), WINDOW - P(BAD + 1), SEED));
	EXPECT_TRUE(host_lost(c, P(BAD)));
	EXPECT_TRUE(guest_lost(c, P(BAD)));
	check_others(c, bad, 1);

	EXPECT_EQ(0, to_private(c, 0, WINDOW));
	EXPECT_TRUE(conv_wait_merged(c));
	EXPECT_ISOLATED(1);
	check_others(c, bad, 1);
	EXPECT_TRUE(guest_lost(c, P(BAD)));
}

/* The same for a page that fails before all is large again */
TEST_F_TIMEOUT(failure, before_merge, TIMEOUT)
{
	const u64 bad[] = { BAD };
	struct conv *c = &self->c;

	EXPECT_EQ(0, to_shared(c, 0, WINDOW));
	EXPECT_EQ(0, host_check(c, 0, WINDOW, SEED));
	EXPECT_EQ(0, to_private(c, 0, WINDOW));
	ASSERT_EQ(0, FAIL(P(BAD)));
	EXPECT_TRUE(guest_lost(c, P(BAD)));
	EXPECT_TRUE(conv_wait_merged(c));
	EXPECT_ISOLATED(1);
	check_others(c, bad, 1);
}

/* Parts of a page that are in use and cannot be split, but have not failed, stay so. */
TEST_F_TIMEOUT(failure, beside_pinned, TIMEOUT)
{
	const u64 bad[] = { BAD };
	struct conv *c = &self->c;
	struct piped pipe;

	EXPECT_EQ(0, to_shared(c, P(BAD + 1), SZ_4K));
	EXPECT_EQ(0, host_check(c, P(BAD + 1), SZ_4K, SEED));
	ASSERT_EQ(0, pipe_page(&pipe, c->mem + P(BAD + 1)));
	ASSERT_EQ(0, FAIL(P(BAD)));
	EXPECT_TRUE(guest_lost(c, P(BAD)));
	check_others(c, bad, 1);
	EXPECT_EQ(0, host_check(c, P(BAD + 1), SZ_4K, SEED));

	/* One that is in use and fails: it cannot become private until it is let go of. */
	ASSERT_EQ(0, FAIL(P(BAD + 1)));
	EXPECT_TRUE(host_lost(c, P(BAD + 1)));
	EXPECT_EQ(EAGAIN, to_private(c, P(BAD + 1), SZ_4K));
	unpipe_page(&pipe);
	EXPECT_EQ(0, to_private(c, P(BAD + 1), SZ_4K));
	EXPECT_TRUE(guest_lost(c, P(BAD + 1)));
	EXPECT_TRUE(conv_wait_merged(c));
	EXPECT_ISOLATED(1);
	EXPECT_EQ(self->corrupted + 8, hardware_corrupted());
}

/* Shared, and mapped by host and guest */
TEST_F_TIMEOUT(failure, shared, TIMEOUT)
{
	const u64 bad[] = { BAD };
	struct conv *c = &self->c;

	EXPECT_EQ(0, to_shared(c, 0, WINDOW));
	EXPECT_EQ(0, host_check(c, 0, WINDOW, SEED));
	guest_check(c, 0, WINDOW, SEED);
	ASSERT_EQ(0, FAIL(P(BAD)));
	EXPECT_TRUE(host_lost(c, P(BAD)));
	EXPECT_TRUE(guest_lost(c, P(BAD)));
	EXPECT_EQ(0, host_check(c, 0, P(BAD), SEED));
	EXPECT_EQ(0, host_check(c, P(BAD + 1), WINDOW - P(BAD + 1), SEED));
	check_others(c, bad, 1);

	/* The host keeps what it has in its page tables, for as long as it is true. */
	EXPECT_EQ(0, to_private(c, 0, WINDOW));
	EXPECT_EQ(EHWPOISON, FAIL(P(BAD)));
	EXPECT_TRUE(conv_wait_merged(c));
	EXPECT_ISOLATED(1);
	EXPECT_TRUE(guest_lost(c, P(BAD)));
	EXPECT_EQ(self->corrupted + 4, hardware_corrupted());
}

/* Shared, in a part that the host has not touched */
TEST_F_TIMEOUT(failure, shared_untouched, TIMEOUT)
{
	struct conv *c = &self->c;

	EXPECT_EQ(0, to_shared(c, 0, WINDOW));
	ASSERT_EQ(0, FAIL(P(BAD)));
	EXPECT_TRUE(host_lost(c, P(BAD)));
	EXPECT_TRUE(guest_lost(c, P(BAD)));
	EXPECT_EQ(0, host_check(c, 0, P(BAD), SEED));
	EXPECT_EQ(0, host_check(c, P(BAD + 1), WINDOW - P(BAD + 1), SEED));
}

static volatile sig_atomic_t nr_early;

static void sigbus_early(int sig, siginfo_t *info, void *context)
{
	sigbus_info = *info;
	nr_early++;
}

/* A task that asked for it hears of a shared page at once, of a private one when used. */
TEST_F_TIMEOUT(failure, early_kill, TIMEOUT)
{
	struct sigaction sa = { .sa_sigaction = sigbus_early, .sa_flags = SA_SIGINFO }, old;
	const u64 bad[] = { BAD, BAD + 8 };
	struct conv *c = &self->c;

	EXPECT_EQ(0, to_shared(c, P(BAD), SZ_4K));
	EXPECT_EQ(0, host_check(c, P(BAD), SZ_4K, SEED));
	ASSERT_EQ(0, prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0));
	ASSERT_EQ(0, sigaction(SIGBUS, &sa, &old));

	ASSERT_EQ(0, FAIL(P(BAD)));
	EXPECT_EQ(1, nr_early);
	EXPECT_EQ(BUS_MCEERR_AO, sigbus_info.si_code);
	EXPECT_EQ(12, sigbus_info.si_addr_lsb);
	EXPECT_EQ((u64)c->mem + P(BAD), (u64)sigbus_info.si_addr & ~(u64)(SZ_4K - 1));

	ASSERT_EQ(0, FAIL(P(BAD + 8)));
	EXPECT_EQ(1, nr_early);

	ASSERT_EQ(0, sigaction(SIGBUS, &old, NULL));
	ASSERT_EQ(0, prctl(PR_MCE_KILL, PR_MCE_KILL_CLEAR, 0, 0, 0));
	EXPECT_TRUE(host_lost(c, P(BAD)));
	EXPECT_TRUE(guest_lost(c, P(BAD)));
	EXPECT_TRUE(guest_lost(c, P(BAD + 8)));
	check_others(c, bad, ARRAY_SIZE(bad));
}

/* The error of taking the memory offline that a page is in */
static int offline_errno(u64 pfn)
{
	const char *dir = "/sys/devices/system/memory";
	unsigned long long size = 0;
	char path[128];
	int fd, r;
	FILE *f;

	snprintf(path, sizeof(path), "%s/block_size_bytes", dir);
	f = fopen(path, "r");
	if (!f)
		return -1;
	r = fscanf(f, "%llx", &size);
	fclose(f);
	if (r != 1)
		return -1;
	snprintf(path, sizeof(path), "%s/memory%llu/state", dir, P(pfn) / size);
	fd = open(path, O_WRONLY);
	if (fd < 0)
		return -1;
	r = write(fd, "offline", 7) < 0 ? errno : 0;
	close(fd);
	return r;
}

/* Its memory cannot be taken offline, with a page that has failed or without. */
TEST_F_TIMEOUT(failure, offline, TIMEOUT)
{
	const u64 bad[] = { BAD };
	struct conv *c = &self->c;
	const u64 pfn = self->pfn[0];

	if (offline_errno(pfn) < 0)
		SKIP(return, "no memory that can be offline");
	ASSERT_EQ(0, FAIL(P(BAD)));
	EXPECT_EQ(EBUSY, offline_errno(pfn + BAD));
	EXPECT_TRUE(guest_lost(c, P(BAD)));
	check_others(c, bad, 1);
	EXPECT_EQ(EBUSY, offline_errno(pfn + BAD));
	EXPECT_EQ(0, to_shared(c, 0, WINDOW));
	EXPECT_TRUE(host_lost(c, P(BAD)));
	EXPECT_EQ(0, host_check(c, 0, P(BAD), SEED));
	EXPECT_EQ(EBUSY, offline_errno(pfn + BAD));
	check_others(c, bad, 1);
}

/* Soft offline would take a page that works, and that cannot move. */
TEST_F_TIMEOUT(failure, soft_offline, TIMEOUT)
{
	const char *path = "/sys/devices/system/memory/soft_offline_page";
	struct conv *c = &self->c;
	char address[32];
	int fd, r, i;

	fd = open(path, O_WRONLY);
	if (fd < 0)
		SKIP(return, "no soft_offline_page");
	for (i = 0; i < 2; i++) {
		snprintf(address, sizeof(address), "%#llx",
			 (unsigned long long)P(self->pfn[0] + BAD));
		r = pwrite(fd, address, strlen(address), 0) < 0 ? errno : 0;
		EXPECT_EQ(EOPNOTSUPP, r);
		guest_check(c, 0, WINDOW, SEED);
		EXPECT_EQ(0, to_shared(c, 0, WINDOW));
		EXPECT_EQ(0, host_check(c, 0, WINDOW, SEED));
	}
	close(fd);
	EXPECT_FALSE(has_failed(self->pfn[0] + BAD));
	EXPECT_EQ(self->corrupted, hardware_corrupted());
}

struct populate {
	struct conv *c;
	int error;
};

static void *populate_first(void *arg)
{
	struct populate *p = arg;

	p->error = gmem_populate(&p->c->g, p->c->fd, 0, 1);
	return NULL;
}

/* A page that fails while it is cleared for the file is not lost for good. */
TEST_F_TIMEOUT(failure, while_cleared, TIMEOUT)
{
	const struct pool_count *p = &self->before;
	const long nr = p->free - p->resv;
	struct conv *c = &self->c;
	struct populate populate = { .c = c };
	pthread_t thread;
	int other, r;

	if (variant->page_shift != 30)
		SKIP(return, "is cleared too fast");

	/* There is no other page. */
	ASSERT_LE(1, nr);
	other = gmem_create(&c->g, nr);
	ASSERT_LE(0, other);
	ASSERT_EQ(0, gmem_populate(&c->g, other, 0, nr));
	ASSERT_EQ(0, gmem_punch(&c->g, c->fd, 0, 1));

	kvm_pthread_create(&thread, NULL, populate_first, &populate);
	usleep(50000);
	r = fail_pfn(self->pfn[0] + BAD);
	kvm_pthread_join(thread, NULL);
	TH_LOG("failed: error %d, populated: error %d", r, populate.error);
	EXPECT_TRUE(!r || r == EBUSY);

	/* Either it has all of the page but 4K, or none of it. */
	EXPECT_TRUE(!populate.error || populate.error == EHWPOISON);
	EXPECT_EQ(EHWPOISON, guest_access(c, OP_MARK, P(BAD), true));
	r = guest_try(c, OP_MARK, 0, SZ_4K);
	EXPECT_EQ(populate.error, r);
	kvm_close(other);
	if (populate.error) {
		EXPECT_EQ(0, gmem_populate(&c->g, c->fd, 0, 1));
		EXPECT_EQ(0, guest_try(c, OP_MARK, 0, WINDOW));
	}
	EXPECT_EQ(self->corrupted + 4, hardware_corrupted());
	conv_free(c);
	EXPECT_TRUE(pool_is_soon(SZ_1G, p->nr - 1, p->free, p->resv, p->surplus));
}

/* Each page of a file that has been punched out is the pool's; it has one less. */
TEST_F_TIMEOUT(failure, punched, TIMEOUT)
{
	struct conv *c = &self->c;
	const struct pool_count *p = &self->before;

	/* Another page in its place, with nothing of the failed one's */
	ASSERT_LE(1, p->free - p->resv);
	ASSERT_EQ(0, FAIL(P(BAD)));
	ASSERT_EQ(0, gmem_punch(&c->g, c->fd, 0, 1));
	EXPECT_TRUE(pool_is_soon(c->g.page_size, p->nr - 1, p->free, p->resv + 1,
				 p->surplus));
	EXPECT_EQ(0, gmem_populate(&c->g, c->fd, 0, 1));
	EXPECT_TRUE(pool_is_soon(c->g.page_size, p->nr - 1, p->free - 1, p->resv,
				 p->surplus));
	EXPECT_EQ(0, guest_try(c, OP_MARK, 0, WINDOW));
	guest_check(c, 0, WINDOW, SEED);
	conv_free(c);
	EXPECT_EQ(self->corrupted + 4, hardware_corrupted());
}

/* What the host's page tables say of the failed page does not hold for the next one. */
TEST_F_TIMEOUT(failure, punched_shared, TIMEOUT)
{
	const struct pool_count *p = &self->before;
	struct conv *c = &self->c;
	u64 value;

	ASSERT_LE(1, p->free - p->resv);
	EXPECT_EQ(0, to_shared(c, 0, WINDOW));
	EXPECT_EQ(0, host_check(c, 0, WINDOW, SEED));
	ASSERT_EQ(0, FAIL(P(BAD)));
	EXPECT_TRUE(host_lost(c, P(BAD)));
	ASSERT_EQ(0, gmem_punch(&c->g, c->fd, 0, 1));
	EXPECT_EQ(0, host_read(c->mem + P(BAD), &value));
	EXPECT_EQ(0, value);
	EXPECT_EQ(0, host_mark(c, 0, min_t(u64, WINDOW, c->g.page_size), SEED));
	guest_check(c, 0, WINDOW, SEED);
}

/* With nothing in its place, it is not what others were promised that replaces it. */
TEST_F_TIMEOUT(failure, promised, TIMEOUT)
{
	const struct pool_count *p = &self->before;
	const long nr = p->free - p->resv;
	struct conv *c = &self->c;
	int other;

	ASSERT_LE(1, nr);
	other = gmem_create(&c->g, nr);
	ASSERT_LE(0, other);
	ASSERT_EQ(0, FAIL(P(BAD)));
	ASSERT_EQ(0, gmem_punch(&c->g, c->fd, 0, 1));
	EXPECT_TRUE(pool_is_soon(c->g.page_size, p->nr - 1, p->free, p->free, p->surplus));
	EXPECT_EQ(EHWPOISON, gmem_populate(&c->g, c->fd, 0, 1));
	EXPECT_EQ(EHWPOISON, guest_try(c, OP_MARK, 0, SZ_4K));
	EXPECT_EQ(0, to_shared(c, 0, SZ_4K));
	EXPECT_EQ(EHWPOISON, host_touch(c->mem));
	EXPECT_EQ(0, to_private(c, 0, SZ_4K));

	/* The other file gets all that it was promised. */
	EXPECT_EQ(0, gmem_populate(&c->g, other, 0, nr));
	EXPECT_EQ(EHWPOISON, gmem_populate(&c->g, c->fd, 0, 1));

	/* What that gives back, this one may have. */
	kvm_close(other);
	EXPECT_TRUE(pool_is_soon(c->g.page_size, p->nr - 1, p->free, p->resv, p->surplus));
	EXPECT_EQ(0, gmem_populate(&c->g, c->fd, 0, 1));
	EXPECT_EQ(0, guest_try(c, OP_MARK, 0, WINDOW));
}

/* A file that is closed: of a huge page, all but 4K is free memory. */
TEST_F_TIMEOUT(failure, closed, TIMEOUT)
{
	const struct pool_count p = self->before;
	const size_t page_size = 1UL << variant->page_shift;
	const long nr = self->c.size / page_size;
	struct conv *c = &self->c;

	ASSERT_EQ(0, FAIL(P(BAD)));
	conv_free(c);
	EXPECT_TRUE(pool_is_soon(page_size, p.nr - 1, p.free + nr - 1, p.resv, p.surplus));
	EXPECT_EQ(self->corrupted + 4, hardware_corrupted());
}

static int write_pfn(const char *path, u64 pfn)
{
	int fd = open(path, O_WRONLY), r;
	char text[32];

	if (fd < 0)
		return errno;
	snprintf(text, sizeof(text), "%#llx", (unsigned long long)pfn);
	r = write(fd, text, strlen(text)) < 0 ? errno : 0;
	close(fd);
	return r;
}

/* A page that was lost by mistake comes back when its huge page is home. */
TEST_F_TIMEOUT(failure, unpoison, TIMEOUT)
{
	const char *path = "/sys/kernel/debug/hwpoison/unpoison-pfn";
	struct conv *c = &self->c;
	const u64 pfn = offset_pfn(c, self->pfn, P(BAD));
	const size_t page_size = 1UL << variant->page_shift;
	const long nr = c->size / page_size;
	const struct pool_count *p = &self->before;

	if (access(path, W_OK))
		SKIP(return, "no hwpoison-inject");
	ASSERT_EQ(0, FAIL(P(BAD)));
	EXPECT_EQ(EBUSY, write_pfn(path, pfn));
	conv_free(c);
	EXPECT_TRUE(pool_is_soon(page_size, p->nr - 1, p->free + nr - 1, p->resv,
				 p->surplus));
	EXPECT_EQ(0, write_pfn(path, pfn));
	EXPECT_EQ(self->corrupted, hardware_corrupted());
}

static bool set_overcommit(size_t page_size, long nr)
{
	return !cg_write_numeric(pool_dir(page_size, -1), "nr_overcommit_hugepages", nr);
}

/*
 * A free page fails while all of them are promised.  The pool has to keep it then, and
 * a surplus page makes up for it.
 */
TEST_F_TIMEOUT(failure, surplus, TIMEOUT)
{
	const char *path = "/sys/kernel/debug/hwpoison/unpoison-pfn";
	const size_t page_size = 1UL << variant->page_shift;
	const struct pool_count *p = &self->before;
	const long nr = p->free - p->resv;
	struct conv *c = &self->c;
	long overcommit;
	int all, more;

	if (page_size > SZ_2M)
		SKIP(return, "takes more free pages of 1G than the VM has");
	if (access(path, W_OK))
		SKIP(return, "no hwpoison-inject");
	overcommit = cg_read_long(pool_dir(page_size, -1), "nr_overcommit_hugepages");
	ASSERT_LE(0, overcommit);

	all = gmem_create(&c->g, nr);
	ASSERT_EQ(0, gmem_punch(&c->g, c->fd, 0, 1));
	ASSERT_TRUE(pool_is_soon(page_size, p->nr, p->free + 1, p->free + 1, p->surplus));
	FAIL(P(BAD));
	ASSERT_EQ(self->corrupted + 4, hardware_corrupted());
	EXPECT_TRUE(pool_is_soon(page_size, p->nr, p->free + 1, p->free + 1, p->surplus));

	/* One for the file, and one for what is lost */
	EXPECT_TRUE(set_overcommit(page_size, p->surplus + 1));
	EXPECT_EQ(ENOMEM, gmem_create_errno(&c->g, 1));
	EXPECT_TRUE(set_overcommit(page_size, p->surplus + 2));
	more = gmem_create(&c->g, 1);
	EXPECT_EQ(0, gmem_populate(&c->g, all, 0, nr));
	EXPECT_EQ(0, gmem_populate(&c->g, c->fd, 0, 1));
	EXPECT_EQ(0, gmem_populate(&c->g, more, 0, 1));

	/* The only test that leaves the page in its pool, where others would count it */
	EXPECT_EQ(0, write_pfn(path, self->pfn[0]));
	EXPECT_EQ(self->corrupted, hardware_corrupted());
	kvm_close(more);
	kvm_close(all);
	EXPECT_TRUE(set_overcommit(page_size, overcommit));
	EXPECT_TRUE(pool_is_soon(page_size, p->nr, p->free, p->resv, p->surplus));
}

/*
 * Errors, conversions and accesses at random, against a model
 */

struct model {
	bool shared[NR_PAGES];
	bool lost[NR_PAGES];
};

static unsigned int pick(unsigned int *state, unsigned int n)
{
	return rand_r(state) % n;
}

TEST_F_TIMEOUT(failure, random, TIMEOUT)
{
	const char *rounds = getenv("GMEM_ROUNDS"), *seed = getenv("GMEM_SEED");
	const long nr_rounds = rounds ? atol(rounds) : 200;
	unsigned int state = seed ? atol(seed) : time(NULL) ^ getpid() << 16;
	struct model *m = calloc(1, sizeof(*m));
	struct conv *c = &self->c;
	long i, j, first, nr, nr_lost = 0, nr_huge = 0;
	const struct pool_count p = self->before;
	bool *huge = calloc(c->size / c->g.page_size, sizeof(*huge));
	const long failed = nr_failed_pages();
	u64 value;
	int r;

	TH_LOG("GMEM_ROUNDS=%ld GMEM_SEED=%u", nr_rounds, state);
	for (i = 0; i < nr_rounds; i++) {
		first = pick(&state, NR_PAGES);
		nr = 1 + pick(&state, min(NR_PAGES - first, 1L << pick(&state, 12)));

		switch (pick(&state, 6)) {
		case 0:
			r = FAIL(P(first));
			EXPECT_EQ(m->lost[first] ? EHWPOISON : 0, r);
			nr_lost += !m->lost[first];
			nr_huge += !huge[P(first) / c->g.page_size];
			huge[P(first) / c->g.page_size] = true;
			m->lost[first] = true;
			break;
		case 1:
		case 2:
			r = pick(&state, 2);
			EXPECT_EQ(0, gmem_convert(c->fd, P(first), P(nr), !r, NULL));
			for (j = first; j < first + nr; j++)
				m->shared[j] = r;
			break;
		case 3:
			for (j = first; j < min(first + nr, first + 16); j++) {
				r = host_read(c->mem + P(j), &value);
				EXPECT_EQ(!m->shared[j] ? EFAULT :
					  m->lost[j] ? EHWPOISON : 0, r);
				if (!r) {
					EXPECT_EQ(P(j) ^ SEED, value);
				}
			}
			break;
		case 4:
			for (j = first; j < min(first + nr, first + 16); j++)
				EXPECT_EQ(m->lost[j] ? EHWPOISON : 0,
					  guest_access(c, OP_CHECK_MARK, P(j), m->lost[j]));
			break;
		case 5:
			/* Most of what can be merged is after a second. */
			if (!pick(&state, 8))
				usleep(1200000);
			break;
		}
		ASSERT_TRUE(__test_passed(_metadata)) {
			TH_LOG("round %ld", i);
		}
	}

	for (j = 0; j < NR_PAGES; j++)
		EXPECT_EQ(m->lost[j] ? EHWPOISON : 0,
			  guest_access(c, OP_CHECK_MARK, P(j), m->lost[j]));
	TH_LOG("%ld pages of %ld huge pages have failed", nr_lost, nr_huge);
	EXPECT_EQ(self->corrupted + 4 * nr_lost, hardware_corrupted());

	nr = c->size / c->g.page_size;
	conv_free(c);
	EXPECT_TRUE(pool_is_soon(1UL << variant->page_shift, p.nr - nr_huge,
				 p.free + nr - nr_huge, p.resv, p.surplus));
	EXPECT_EQ(self->corrupted + 4 * nr_lost, hardware_corrupted());

	/* Page by page, it is these that are lost, and no other one. */
	EXPECT_EQ(failed + nr_lost, nr_failed_pages());
	for (j = 0; j < NR_PAGES; j++)
		EXPECT_EQ(m->lost[j], has_failed(offset_pfn(c, self->pfn, P(j))));
	free(huge);
	free(m);
}

/*
 * Errors while the file converts, merges and is used, and while another one is created,
 * populated, punched and closed
 */

struct race {
	struct conv *c;
	bool *lost;		/* before the page fails */
	long nr_other;
	unsigned int state;
	long nr_done;
	long nr_met;		/* errors of pages that have failed */
	long nr_wrong;
};

static void race_wrong(struct race *r, const char *what, long page, int error)
{
	if (!r->nr_wrong++)
		ksft_print_msg("%s, page %ld: error %d, %s\n", what, page, error,
			       page < NR_PAGES && READ_ONCE(r->lost[page]) ? "has failed" :
			       "is good");
}

static bool race_convert(void *arg)
{
	struct race *r = arg;
	long first = pick(&r->state, NR_PAGES), nr;
	int error;

	nr = 1 + pick(&r->state, min(NR_PAGES - first, 1L << pick(&r->state, 12)));
	if (pick(&r->state, 200)) {
		error = gmem_convert(r->c->fd, P(first), P(nr), pick(&r->state, 2), NULL);
	} else {
		/* Let it be merged. */
		error = to_private(r->c, 0, WINDOW);
		if (!error)
			usleep(1000000 + pick(&r->state, 300000));
	}
	r->nr_done += !error;
	if (error && error != EAGAIN)
		race_wrong(r, "conversion", first, error);
	return true;
}

static bool race_guest(void *arg)
{
	struct race *r = arg;
	long page = pick(&r->state, NR_PAGES);
	int error = guest_try(r->c, OP_CHECK_MARK, P(page), SZ_4K);

	r->nr_done += !error;
	r->nr_met += error == EHWPOISON;
	/* EFAULT: it meets a conversion. */
	if (error == EHWPOISON ? !READ_ONCE(r->lost[page]) :
	    error && error != EFAULT && error != EAGAIN)
		race_wrong(r, "guest", page, error);
	return true;
}

static bool race_host(void *arg)
{
	struct race *r = arg;
	long page = pick(&r->state, NR_PAGES);
	u64 value = 0;
	int error = host_read(r->c->mem + P(page), &value);

	r->nr_done += !error;
	r->nr_met += error == EHWPOISON;
	if (error == EHWPOISON ? !READ_ONCE(r->lost[page]) :
	    error ? error != EFAULT : value != (P(page) ^ SEED))
		race_wrong(r, "host", page, error);
	return true;
}

/* The pool has twice what the file takes, so that it can fail whole. */
static bool race_other(void *arg)
{
	struct race *r = arg;
	const double end = conv_now() + POOL_PATIENCE;
	struct gmem *g = &r->c->g;
	int fd, error, i;
	long page;

	/* Memory failure may hold a page for a moment when its file is closed. */
	do {
		fd = __vm_create_guest_memfd(g->vm, r->nr_other * g->page_size, g->flags);
	} while (fd < 0 && errno == ENOMEM && conv_now() < end);
	if (fd < 0) {
		race_wrong(r, "creation", NR_PAGES, errno);
		return false;
	}
	for (i = 0; i < 4 * r->nr_other; i++) {
		page = pick(&r->state, r->nr_other);
		error = gmem_populate(g, fd, page, 1);
		if (!error)
			error = gmem_punch(g, fd, page, 1);
		r->nr_done += !error;
		if (error)
			race_wrong(r, "populate, punch", NR_PAGES, error);
	}
	gmem_populate(g, fd, 0, r->nr_other);
	kvm_close(fd);
	return true;
}

TEST_F_TIMEOUT(failure, race, TIMEOUT)
{
	static bool (*const fns[])(void *) = {
		race_convert, race_guest, race_host, race_other,
	};
	const char *seconds = getenv("GMEM_RACE_SECONDS"), *seed = getenv("GMEM_SEED");
	const size_t page_size = 1UL << variant->page_shift;
	const long nr_other = page_size == SZ_1G ? 1 : 8, nr_file = self->c.size / page_size;
	unsigned int state = seed ? atol(seed) : time(NULL) ^ getpid() << 16;
	struct conv *c = &self->c;
	struct looper loops[ARRAY_SIZE(fns)];
	struct race r[ARRAY_SIZE(fns)];
	bool *lost = calloc(NR_PAGES, sizeof(*lost));
	long i, page, nr_lost = 0, nr_huge = 0, nr_other_lost = 0, failed;
	bool *huge = calloc(nr_file, sizeof(*huge));
	u64 other_pfn[8], pfn;
	struct pool_count p;
	double end;
	int fd, error;
	char *mem;

	TH_LOG("GMEM_SEED=%u", state);
	read_pool(page_size, &p);
	if (p.free - p.resv < 2 * nr_other)
		resize_pool(page_size, -1, p.nr + 2 * nr_other - (p.free - p.resv));
	read_pool(page_size, &p);
	if (p.free - p.resv < 2 * nr_other)
		SKIP(return, "needs %ld more huge pages", 2 * nr_other);
	failed = nr_failed_pages();

	/* Each of these may fail once, wherever it is just then. */
	fd = vm_create_guest_memfd(c->g.vm, nr_other * page_size,
				   c->g.flags | GUEST_MEMFD_FLAG_INIT_SHARED);
	mem = kvm_mmap(nr_other * page_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	for (i = 0; i < nr_other; i++) {
		ASSERT_EQ(0, host_touch(mem + i * page_size));
		other_pfn[i] = pfn_of(mem + i * page_size);
	}
	kvm_munmap(mem, nr_other * page_size);
	kvm_close(fd);

	for (i = 0; i < ARRAY_SIZE(fns); i++) {
		r[i] = (struct race) {
			.c = c, .lost = lost, .nr_other = nr_other, .state = state + i,
		};
		start_loop(&loops[i], fns[i], &r[i]);
	}

	end = conv_now() + (seconds ? atof(seconds) : RACE_SECONDS);
	while (conv_now() < end) {
		usleep(pick(&state, 100000));
		if (nr_other_lost < nr_other && !pick(&state, 4)) {
			pfn = other_pfn[nr_other_lost++] +
			      pick(&state, page_size / SZ_4K);
			/* EBUSY: just now it is being cleared. */
			error = fail_pfn(pfn);
			EXPECT_TRUE(!error || error == EBUSY);
			continue;
		}
		page = pick(&state, NR_PAGES);
		if (lost[page])
			continue;
		WRITE_ONCE(lost[page], true);
		EXPECT_EQ(0, FAIL(P(page)));
		nr_lost++;
		nr_huge += !huge[P(page) / page_size];
		huge[P(page) / page_size] = true;
	}
	for (i = 0; i < ARRAY_SIZE(fns); i++)
		stop_loop(&loops[i]);

	for (i = 0; i < ARRAY_SIZE(fns); i++) {
		TH_LOG("%ld rounds, %ld done, %ld met errors", loops[i].rounds,
		       r[i].nr_done, r[i].nr_met);
		EXPECT_EQ(0, r[i].nr_wrong);
		EXPECT_LT(0, loops[i].rounds);
	}
	TH_LOG("%ld and %ld pages have failed", nr_lost, nr_other_lost);

	for (i = 0; i < NR_PAGES; i++)
		EXPECT_EQ(lost[i] ? EHWPOISON : 0,
			  guest_access(c, OP_CHECK_MARK, P(i), lost[i]));
	EXPECT_EQ(0, to_private(c, 0, WINDOW));
	EXPECT_TRUE(conv_wait_merged(c));
	for (i = 0; i < NR_PAGES; i++)
		EXPECT_EQ(lost[i] ? EHWPOISON : 0,
			  guest_access(c, OP_CHECK_MARK, P(i), lost[i]));

	conv_free(c);
	EXPECT_TRUE(pool_is_soon(page_size, p.nr - nr_huge - nr_other_lost,
				 p.free + nr_file - nr_huge - nr_other_lost, p.resv,
				 p.surplus));
	EXPECT_EQ(self->corrupted + 4 * (nr_lost + nr_other_lost), hardware_corrupted());
	EXPECT_EQ(failed + nr_lost + nr_other_lost, nr_failed_pages());
	for (i = 0; i < NR_PAGES; i++)
		EXPECT_EQ(lost[i], has_failed(offset_pfn(c, self->pfn, P(i))));
	free(huge);
	free(lost);
}

/* No memory for what a failed page takes: it is lost all the same, and no other is. */
TEST_F_TIMEOUT(failure, nomem, TIMEOUT)
{
	const int fail_nth = open("/proc/thread-self/fail-nth", O_RDWR);
	struct conv *c = &self->c;
	bool done = false, injecting;
	int n, r, survived = 0;
	char text[16];
	u64 bad[64];

	if (!faults_set_up(&injecting) && !injecting)
		SKIP(return, "needs root, and the faults of CONFIG_FAULT_INJECTION");
	for (n = 0; !done && n < ARRAY_SIZE(bad); n++) {
		bad[n] = BAD + 11 * n;
		snprintf(text, sizeof(text), "%d", n + 1);
		ASSERT_EQ(strlen(text), pwrite(fail_nth, text, strlen(text), 0));
		r = FAIL(P(bad[n]));
		memset(text, 0, sizeof(text));
		ASSERT_LT(0, pread(fail_nth, text, sizeof(text) - 1, 0));
		ASSERT_EQ(1, pwrite(fail_nth, "0", 1, 0));
		done = atoi(text);

		/* Writing to sysfs takes memory, too. */
		if (r == ENOMEM) {
			EXPECT_EQ(0, FAIL(P(bad[n])));
		} else {
			EXPECT_EQ(0, r);
			survived += !done;
		}
		EXPECT_TRUE(guest_lost(c, P(bad[n])));
		check_others(c, bad, n + 1);
	}
	EXPECT_TRUE(faults_restore());
	TH_LOG("%d allocations have failed, %d of them in memory_failure()", n - 1,
	       survived);
	EXPECT_TRUE(done);
	EXPECT_LT(0, survived);
	for (r = 0; r < n; r++)
		EXPECT_TRUE(guest_lost(c, P(bad[r])));
	EXPECT_EQ(self->corrupted + 4 * n, hardware_corrupted());

	/* What has been mapped until now is mapped anew, by what is marked. */
	EXPECT_EQ(0, to_shared(c, 0, WINDOW));
	EXPECT_EQ(0, to_private(c, 0, WINDOW));
	check_others(c, bad, n);
	close(fail_nth);
}

TEST_HARNESS_MAIN
