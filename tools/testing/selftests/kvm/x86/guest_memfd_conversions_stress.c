// SPDX-License-Identifier: GPL-2.0-only
/*
 * Stress test of guest_memfd files that convert in place, against a model.
 *
 * Threads convert pages between private and shared, by both ioctls, visit them
 * from the guest and from the host, pin, punch, populate, mlock and zap them, and
 * fork.  Meanwhile the dirty pages of the guest's own memory are logged, and a
 * memslot comes and goes.  The model knows of each page whether it is private, what
 * it contains, and how often it is pinned.  What a page contains is a tag that names
 * the page and is written once only, so that data of another page, or old data, are
 * known for what they are.
 *
 * The pages are in two files of one VM: huge pages, the last of which is split
 * between two memslots, and a few pages of 4K beside them.  Blocks of 64 pages are
 * of three kinds, which lie mixed in the same huge pages:
 *
 *   exact    whoever uses pages has a lock of the block, for writing to change
 *            them.  Each result must be what the model says.
 *   secret   one vCPU at a time converts pages, writes a secret while they are
 *            private, and takes it away before they are shared.  The host uses
 *            them all the time without a lock.  It must never see the secret, nor
 *            change it.
 *   free     all convert, visit, pin and punch as they like.  Data must be those
 *            of the page.
 *
 * Now and then the threads stop, and what can be counted is compared: what fdinfo
 * says, and the size of the guest's mappings.  At the end all is converted to
 * private, must be merged, and be mapped hugely again; holes must read as zeros;
 * and the pools must have their pages back.
 *
 * A seed makes threads do the same again, but not at the same time.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/sizes.h>

#include "guest_memfd_util.h"
#include "kvm_util.h"
#include "processor.h"
#include "ucall_common.h"
#include "../../../../mm/gup_test.h"

#define MAX_VCPUS	8
#define NR_HOST		3	/* threads */
#define NR_OTHERS	(NR_HOST + 2)	/* for whole huge pages and for other slots, too */
#define MAX_THREADS	(MAX_VCPUS + NR_OTHERS)

#define BLOCK_PAGES	64L
#define AREA_PAGES	512L	/* what the guest maps as 2M */
#define SIDE_PAGES	(4 * BLOCK_PAGES)
#define MAX_UNITS	4

#define MAIN_SLOT	TEST_SLOT
#define TAIL_SLOT	(TEST_SLOT + 1)
#define SIDE_SLOT	(TEST_SLOT + 2)
#define OTHER_SLOT	(TEST_SLOT + 3)	/* of ordinary memory, now and then */

/* The last half of the last huge page is in front of the rest. */
#define TAIL_END	(TEST_GPA + SZ_1G)
#define OTHER_GPA	(TEST_GPA + 16ULL * SZ_1G)

/* Seconds */
#define FIRST_ROUND	1.0
#define LONGEST_ROUND	8.0
#define MERGE_PATIENCE	200
/* A page that no task uses converts within this time, whatever was in its way. */
#define PATIENCE	20
/* No operation takes longer, not even on a debug kernel on an emulated CPU. */
#define LONGEST_OP	300
/* A vCPU that runs for longer is looked at. */
#define LONG_RUN	20

/*
 * Tags.  A page has one in eight places; the rest of it stays zero.
 */

#define NR_WORDS	8
#define WORD_STRIDE	512
#define TAG_MAGIC	0xa5ULL

/* Which page, which word of it, and a number that is used once */
static u64 make_tag(long page, int word, u32 gen, bool secret)
{
	return TAG_MAGIC << 56 | (u64)secret << 55 | (u64)word << 52 |
	       (u64)page << 28 | gen;
}

static bool tag_is_secret(u64 tag)
{
	return tag >> 55 & 1;
}

static long tag_page(u64 tag)
{
	return tag >> 28 & 0xffffff;
}

static u32 tag_gen(u64 tag)
{
	return tag & 0xfffffff;
}

/* Could that word be in the page at all? */
static bool tag_fits(long page, int word, u64 tag)
{
	return !tag || (tag | 0x80000000000000ULL | 0xfffffff) ==
		       (make_tag(page, word, 0xfffffff, true));
}

/*
 * The guest
 */

enum guest_access_op {
	GUEST_LOAD,	/* the words of a page */
	GUEST_STORE,
	GUEST_SCAN,	/* pages, for words that don't fit; for zeros if @gen */
};

struct guest_access {
	enum guest_access_op op;
	u32 gen;
	bool secret;
	long page;
	long nr;
	gva_t gva;
	u64 word[NR_WORDS];
};

#define MAX_BATCH	64

struct mailbox {
	int nr;
	struct guest_access access[MAX_BATCH];
};

static struct mailbox mailboxes[MAX_VCPUS];

static u64 *word_at(void *page, int i)
{
	return page + i * WORD_STRIDE;
}

/* Leaves the first bad page in @page, and its words. */
static void guest_scan(struct guest_access *a)
{
	long end = a->page + a->nr;
	gva_t gva = a->gva;
	int i;

	for (; a->page < end; a->page++, gva += SZ_4K) {
		bool bad = false;

		for (i = 0; i < NR_WORDS; i += a->gen ? 1 : NR_WORDS - 1) {
			a->word[i] = READ_ONCE(*word_at((void *)gva, i));
			bad |= a->gen ? a->word[i] :
			       !tag_fits(a->page, i, a->word[i]);
		}
		if (bad)
			return;
	}
}

static void guest_code(int vcpu)
{
	struct mailbox *m = &mailboxes[vcpu];
	int i, n;

	for (;;) {
		for (n = 0; n < READ_ONCE(m->nr); n++) {
			struct guest_access *a = &m->access[n];

			switch (READ_ONCE(a->op)) {
			case GUEST_LOAD:
				for (i = 0; i < NR_WORDS; i++)
					a->word[i] = READ_ONCE(*word_at((void *)a->gva, i));
				break;
			case GUEST_STORE:
				for (i = 0; i < NR_WORDS; i++)
					WRITE_ONCE(*word_at((void *)a->gva, i),
						   a->word[i]);
				break;
			case GUEST_SCAN:
				guest_scan(a);
				break;
			}
		}
		GUEST_SYNC(0);
	}
}

/*
 * The model
 */

enum block_kind { KIND_EXACT, KIND_SECRET, KIND_FREE, NR_KINDS };

static const char * const kind_names[] = { "exact", "secret", "free" };

struct page {
	u32 gen;		/* 0: zeros */
	u8 private;		/* of free pages: at first */
	u8 pins;
};

struct block {
	pthread_rwlock_t lock;
	enum block_kind kind;
	int pins;		/* of its pages */
	bool mlocked;
};

/*
 * A huge page, or as many small ones.  The gate is open, locked for reading, to
 * those who then take locks of blocks; closed to change all of it at once.
 */
struct unit {
	pthread_rwlock_t gate;
	long first;
	long nr;
	double quiet_until;	/* none of it is converted, so that it is merged */
};

struct pin {
	pthread_mutex_t lock;
	u32 seq;
	bool active;
	bool spliced;		/* by vmsplice(), into the pipe */
	int gup_fd;
	int pipe[2];
	long first;
	int nr;
	unsigned int live;	/* which of the pages are still in the file */
};

#define NR_PINS		6
#define MAX_PINNED	4

static struct {
	struct pool_count pool;
	long mlocked;		/* kB, before */
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu[MAX_VCPUS];
	struct mailbox *mailbox[MAX_VCPUS];
	size_t page_size;
	const char *size_name;

	int fd[2];		/* of huge pages, and of small ones beside them */
	u8 *hva;		/* of all pages */
	long nr_main;
	long nr_pages;
	long split;		/* the first page in the tail's memslot */
	long nr_blocks;
	long nr_units;		/* of the first file; the second is one more */

	struct page *pages;
	struct block *blocks;
	struct unit units[MAX_UNITS + 1];
	long *hot[NR_KINDS];	/* blocks that are used often */
	long nr_hot[NR_KINDS];
	struct pin pins[NR_PINS];

	struct unit *quiet;	/* the last one that was, or NULL */
	long nr_whole;		/* folios, when it had become private; else -1 */

	bool stop;
	struct {
		pid_t task;	/* which is in KVM_RUN; else 0 */
		double since;
	} running[MAX_VCPUS];
} w;

static u64 seed;
static int nr_vcpus = 2;
static bool have_gup;
static int mem_fd;
static u32 last_gen;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static u32 next_gen(void)
{
	u32 gen = __atomic_add_fetch(&last_gen, 1, __ATOMIC_RELAXED);

	TEST_ASSERT(gen < 0xfffffff, "too long a run");
	return gen;
}

static long block_of(long page)
{
	return page / BLOCK_PAGES;
}

static enum block_kind kind_of(long page)
{
	return w.blocks[block_of(page)].kind;
}

static long unit_of(long page)
{
	return page < w.nr_main ? page / w.units[0].nr : w.nr_units;
}

static bool in_main(long page)
{
	return page < w.nr_main;
}

static u64 file_offset(long page)
{
	return (page - (in_main(page) ? 0 : w.nr_main)) * SZ_4K;
}

static gpa_t gpa_of(long page)
{
	if (page < w.split)
		return TAIL_END + page * SZ_4K;
	if (page < w.nr_main)
		return TAIL_END - (w.nr_main - page) * SZ_4K;
	return TAIL_END + (w.split + page - w.nr_main) * SZ_4K;
}

static void *hva_of(long page)
{
	return w.hva + page * SZ_4K;
}

static int fd_of(long page)
{
	return w.fd[!in_main(page)];
}

/*
 * Threads, what they do and have done
 */

enum op_kind {
	OP_GUEST_READ,
	OP_GUEST_WRITE,
	OP_GUEST_LOOSE,
	OP_HOST_READ,
	OP_HOST_WRITE,
	OP_HOST_SIGBUS,
	OP_MEM_READ,
	OP_MEM_EIO,
	OP_FD_SHARED,
	OP_FD_PRIVATE,
	OP_VM_SHARED,
	OP_VM_PRIVATE,
	OP_SEAM,
	OP_TWO_FILES,
	OP_REFUSED,
	OP_UNPINNED,
	OP_PIN,
	OP_SPLICE,
	OP_PIN_EFAULT,
	OP_UNPIN,
	OP_PUNCH,
	OP_POPULATE,
	OP_MADV,
	OP_MADV_EFAULT,
	OP_DONTNEED,
	OP_MLOCK,
	OP_MUNLOCK,
	OP_FORK,
	OP_UNIT_SHARED,
	OP_UNIT_PRIVATE,
	OP_UNIT_PUNCH,
	OP_UNIT_QUIET,
	OP_UNIT_MERGED,
	OP_DIRTY_LOG,
	OP_OTHER_SLOT,
	OP_SECRET_CYCLE,
	OP_SECRET_READ,
	OP_SECRET_WRITE,
	OP_SECRET_BUS,
	OP_SECRET_PIN,
	OP_SECRET_ZAP,
	OP_FREE_SHARED,
	OP_FREE_PRIVATE,
	OP_FREE_GUEST,
	OP_FREE_HOST,
	OP_FREE_PIN,
	OP_FREE_PUNCH,
	NR_OPS
};

static const char * const op_names[NR_OPS] = {
	[OP_GUEST_READ] = "guest reads",
	[OP_GUEST_WRITE] = "guest writes",
	[OP_GUEST_LOOSE] = "guest reads without lock",
	[OP_HOST_READ] = "host reads",
	[OP_HOST_WRITE] = "host writes",
	[OP_HOST_SIGBUS] = "host gets SIGBUS",
	[OP_MEM_READ] = "host reads /proc/self/mem",
	[OP_MEM_EIO] = "host gets EIO of that",
	[OP_FD_SHARED] = "to shared, by the file",
	[OP_FD_PRIVATE] = "to private, by the file",
	[OP_VM_SHARED] = "to shared, by the VM",
	[OP_VM_PRIVATE] = "to private, by the VM",
	[OP_SEAM] = "convert in two memslots",
	[OP_TWO_FILES] = "convert in two files",
	[OP_REFUSED] = "to private refused, pinned",
	[OP_UNPINNED] = "to private when unpinned",
	[OP_PIN] = "pin by GUP",
	[OP_SPLICE] = "pin in a pipe",
	[OP_PIN_EFAULT] = "pin gets EFAULT",
	[OP_UNPIN] = "read by the pin, unpin",
	[OP_PUNCH] = "punch",
	[OP_POPULATE] = "fallocate",
	[OP_MADV] = "MADV_POPULATE",
	[OP_MADV_EFAULT] = "MADV_POPULATE gets EFAULT",
	[OP_DONTNEED] = "MADV_DONTNEED",
	[OP_MLOCK] = "mlock",
	[OP_MUNLOCK] = "munlock",
	[OP_FORK] = "fork",
	[OP_UNIT_SHARED] = "large range to shared",
	[OP_UNIT_PRIVATE] = "large range to private",
	[OP_UNIT_PUNCH] = "punch a huge page",
	[OP_UNIT_QUIET] = "convert no page of a huge page",
	[OP_UNIT_MERGED] = "merged among the others",
	[OP_DIRTY_LOG] = "dirty log of another slot",
	[OP_OTHER_SLOT] = "another slot comes and goes",
	[OP_SECRET_CYCLE] = "secret written and removed",
	[OP_SECRET_READ] = "host reads a secret page",
	[OP_SECRET_WRITE] = "host writes a secret page",
	[OP_SECRET_BUS] = "host gets SIGBUS of one",
	[OP_SECRET_PIN] = "pin a secret page",
	[OP_SECRET_ZAP] = "zap, mlock a secret page",
	[OP_FREE_SHARED] = "free to shared",
	[OP_FREE_PRIVATE] = "free to private",
	[OP_FREE_GUEST] = "guest in free pages",
	[OP_FREE_HOST] = "host in free pages",
	[OP_FREE_PIN] = "pin free pages",
	[OP_FREE_PUNCH] = "punch free pages",
};

struct event {
	double begin;
	double end;		/* 0: not yet */
	long first;
	long nr;
	u32 gen;
	enum op_kind op;
	int result;		/* errno */
};

#define NR_EVENTS	8192

struct thread {
	int id;
	pthread_t thread;
	u64 rng;
	int vcpu;		/* -1: of the host */
	bool hands_off;		/* the host does not look at what was converted */
	struct event *events;
	unsigned long nr_events;
	u64 done[NR_OPS];
	u64 again[NR_OPS];	/* tried again, or given up, without a user in the model */
	pid_t child;
	u8 buffer[MAX_PINNED * SZ_4K] __aligned(SZ_4K);
};

static struct thread threads[MAX_THREADS];
static int nr_threads;
static double started, deadline;

/* vCPU exits for a page that changed, or took too long */
static u64 nr_fault_exits, nr_again_exits;
/* How often a page without a user was refused first, and for how long at most */
static u64 nr_transient;
static double longest_transient;

static u64 random_u64(struct thread *t)
{
	u64 x = (t->rng += 0x9e3779b97f4a7c15ULL);

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
	return x ^ x >> 31;
}

/* 0 to n - 1 */
static long random_below(struct thread *t, long n)
{
	return (random_u64(t) >> 8) % n;
}

static bool chance(struct thread *t, int percent)
{
	return random_below(t, 100) < percent;
}

static struct event *begin_event(struct thread *t, enum op_kind op, long first, long nr,
				 u32 gen)
{
	struct event *e = &t->events[t->nr_events++ % NR_EVENTS];

	*e = (struct event) {
		.begin = now(),
		.op = op,
		.first = first,
		.nr = nr,
		.gen = gen,
	};
	return e;
}

/* The event that the thread has begun last; it counts if there was no error. */
static void end_event(struct event *e, int result)
{
	e->result = result;
	e->end = now();
}

static void done(struct thread *t, struct event *e)
{
	end_event(e, 0);
	t->done[e->op]++;
}

static int compare_events(const void *a, const void *b)
{
	const struct event *x = *(struct event **)a, *y = *(struct event **)b;

	return x->begin < y->begin ? -1 : x->begin > y->begin;
}

#define NR_PRINTED	48

static void print_history(long page)
{
	struct event **found;
	long i, n = 0;
	int k;

	found = calloc(MAX_THREADS * NR_EVENTS, sizeof(*found));
	if (!found)
		return;
	for (k = 0; k < nr_threads; k++) {
		const struct thread *t = &threads[k];

		for (i = 0; i < NR_EVENTS && i < t->nr_events; i++) {
			struct event *e = &t->events[i];

			if (e->nr && page >= e->first && page < e->first + e->nr)
				found[n++] = e;
		}
	}
	qsort(found, n, sizeof(*found), compare_events);

	ksft_print_msg("page %ld: %s, %s, written as %u, pinned %d times; what was done:\n", page,
		       kind_names[kind_of(page)],
		       w.pages[page].private ? "private" : "shared",
		       w.pages[page].gen, w.pages[page].pins);
	for (i = n > NR_PRINTED ? n - NR_PRINTED : 0; i < n; i++) {
		const struct event *e = found[i];
		char end[32] = "the end";

		for (k = 0; k < nr_threads; k++)
			if (e >= threads[k].events &&
			    e < threads[k].events + NR_EVENTS)
				break;
		if (e->end)
			snprintf(end, sizeof(end), "%.6f", e->end - started);
		ksft_print_msg("  %.6f to %s: thread %d, %s, pages %ld to %ld, as %u%s%s\n",
			       e->begin - started, end, k, op_names[e->op], e->first,
			       e->first + e->nr - 1, e->gen,
			       e->result ? ": " : "",
			       e->result ? strerror(e->result) : "");
	}
	free(found);
}

#define MAX_TEXT	512

/* What a child has found, for its parent to report */
struct child_report {
	bool failed;
	long page;
	char text[MAX_TEXT];
};

static struct child_report *child_report;
static bool is_child;

static void __printf(2, 3) __noreturn fail(long page, const char *fmt, ...)
{
	static pthread_mutex_t once = PTHREAD_MUTEX_INITIALIZER;
	char text[MAX_TEXT];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);

	if (is_child) {
		child_report->page = page;
		memcpy(child_report->text, text, sizeof(text));
		WRITE_ONCE(child_report->failed, true);
		_exit(KSFT_FAIL);
	}

	/* Not given back: others may fail for the same reason. */
	pthread_mutex_lock(&once);
	ksft_print_msg("after %.1f s, page %ld: %s\n", now() - started, page, text);
	ksft_print_msg("again with: -s 0x%llx -p %s -v %d\n",
		       (unsigned long long)seed, w.size_name, nr_vcpus);
	if (page >= 0 && page < w.nr_pages)
		print_history(page);
	ksft_test_result_fail("pages of %s\n", w.size_name);
	_exit(KSFT_FAIL);
}

/* The same, about data */
static void __noreturn fail_data(long page, int word, u64 got,
				 const char *who, const char *why)
{
	const long other = tag_page(got);

	if (!is_child && got >> 56 == TAG_MAGIC && other != page &&
	    other < w.nr_pages) {
		ksft_print_msg("the data are of page %ld\n", other);
		print_history(other);
	}
	fail(page, "%s finds 0x%llx in word %d, %s: %spage %ld written as %u", who,
	     (unsigned long long)got, word, why,
	     got >> 56 != TAG_MAGIC ? "not a tag; " :
	     tag_is_secret(got) ? "a secret; " : "", other, tag_gen(got));
}

/* Words of an exact page */
static void check_words(long page, const u64 *word, const char *who)
{
	const u32 gen = w.pages[page].gen;
	int i;

	for (i = 0; i < NR_WORDS; i++)
		if (word[i] != (gen ? make_tag(page, i, gen, false) : 0))
			fail_data(page, i, word[i], who, "which is wrong");
}

/* Words of a page that others may be writing to */
static void check_loose(long page, const u64 *word, const char *who, bool secret)
{
	int i;

	for (i = 0; i < NR_WORDS; i++) {
		if (!tag_fits(page, i, word[i]))
			fail_data(page, i, word[i], who, "which is not this page's");
		if (tag_is_secret(word[i]) && !secret)
			fail_data(page, i, word[i], who, "which is secret");
	}
}

/*
 * Locks.  Gates come before blocks, lower ones before higher ones; then pins.
 */

struct run {
	long first;
	long nr;
};

/* Are pages to be left as private or shared as they are for a while? */
static bool is_quiet(const struct run *r)
{
	const double t = now();
	long i;

	for (i = unit_of(r->first); i <= unit_of(r->first + r->nr - 1); i++)
		if (t < READ_ONCE(w.units[i].quiet_until))
			return true;
	return false;
}

static void check_lock(int r)
{
	TEST_ASSERT(!r, "a lock failed: %s", strerror(r));
}

static void init_rwlock(pthread_rwlock_t *lock)
{
	pthread_rwlockattr_t attr;

	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	check_lock(pthread_rwlock_init(lock, &attr));
	pthread_rwlockattr_destroy(&attr);
}

static void open_gates(const struct run *r)
{
	long i;

	for (i = unit_of(r->first); i <= unit_of(r->first + r->nr - 1); i++)
		check_lock(pthread_rwlock_rdlock(&w.units[i].gate));
}

static void leave_gates(const struct run *r)
{
	long i;

	for (i = unit_of(r->first); i <= unit_of(r->first + r->nr - 1); i++)
		check_lock(pthread_rwlock_unlock(&w.units[i].gate));
}

static void close_gates(const struct run *r)
{
	long i;

	for (i = unit_of(r->first); i <= unit_of(r->first + r->nr - 1); i++)
		check_lock(pthread_rwlock_wrlock(&w.units[i].gate));
}

static void lock_run(const struct run *r, bool write)
{
	long i;

	open_gates(r);
	for (i = block_of(r->first); i <= block_of(r->first + r->nr - 1); i++)
		check_lock(write ? pthread_rwlock_wrlock(&w.blocks[i].lock) :
				   pthread_rwlock_rdlock(&w.blocks[i].lock));
}

static void unlock_run(const struct run *r)
{
	long i;

	for (i = block_of(r->first); i <= block_of(r->first + r->nr - 1); i++)
		check_lock(pthread_rwlock_unlock(&w.blocks[i].lock));
	leave_gates(r);
}

static long pick_block(struct thread *t, enum block_kind kind)
{
	long i;

	if (chance(t, 85))
		return w.hot[kind][random_below(t, w.nr_hot[kind])];
	do {
		i = random_below(t, w.nr_blocks);
	} while (w.blocks[i].kind != kind);
	return i;
}

/* Up to @max pages of a block */
static struct run pick_run(struct thread *t, enum block_kind kind, long max)
{
	struct run r = { .nr = 1 + random_below(t, max) };

	r.first = pick_block(t, kind) * BLOCK_PAGES +
		  random_below(t, BLOCK_PAGES - r.nr + 1);
	return r;
}

/*
 * The host's accesses
 */

static __thread sigjmp_buf sigbus_env;
static __thread bool sigbus_expected;

static void handle_sigbus(int sig)
{
	static const char text[] = "# unexpected SIGBUS\n";

	if (READ_ONCE(sigbus_expected))
		siglongjmp(sigbus_env, 1);
	(void)!write(1, text, sizeof(text) - 1);
	_exit(KSFT_FAIL);
}

/* Returns false after a SIGBUS. */
static bool host_load(long page, u64 *word)
{
	int i;

	if (sigsetjmp(sigbus_env, 0)) {
		WRITE_ONCE(sigbus_expected, false);
		return false;
	}
	WRITE_ONCE(sigbus_expected, true);
	for (i = 0; i < NR_WORDS; i++)
		word[i] = READ_ONCE(*word_at(hva_of(page), i));
	WRITE_ONCE(sigbus_expected, false);
	return true;
}

static bool host_store(long page, u32 gen)
{
	int i;

	if (sigsetjmp(sigbus_env, 0)) {
		WRITE_ONCE(sigbus_expected, false);
		return false;
	}
	WRITE_ONCE(sigbus_expected, true);
	for (i = 0; i < NR_WORDS; i++)
		WRITE_ONCE(*word_at(hva_of(page), i),
			   make_tag(page, i, gen, false));
	WRITE_ONCE(sigbus_expected, false);
	return true;
}

/* An access that is not a fault of the task; returns an error number. */
static int host_pread(struct thread *t, long page, u64 *word)
{
	ssize_t n;
	int i;

	n = pread(mem_fd, t->buffer, SZ_4K, (uintptr_t)hva_of(page));
	if (n < 0)
		return errno;
	TEST_ASSERT(n == SZ_4K, "/proc/self/mem has given %ld bytes", n);
	for (i = 0; i < NR_WORDS; i++)
		word[i] = *word_at(t->buffer, i);
	return 0;
}

/*
 * May a system call get no page yet?  A hole gets its page when the last user has let
 * go of that, be it a task that is preempted, and the call waits for a second only.
 */
static bool has_hole(const struct run *r)
{
	long i;

	for (i = r->first; i < r->first + r->nr; i++)
		if (!w.pages[i].gen)
			return true;
	return false;
}

/* Is a page of an exact block, with its lock, as the model has it? */
static void check_by_host(long page, const char *when)
{
	u64 word[NR_WORDS];

	if (!host_load(page, word)) {
		if (!w.pages[page].private)
			fail(page, "a shared page gives SIGBUS %s", when);
		return;
	}
	if (w.pages[page].private)
		fail(page, "the host reads 0x%llx in a private page %s",
		     (unsigned long long)word[0], when);
	check_words(page, word, "the host");
}

/* With the lock of the page's block */
static int host_pread_exact(struct thread *t, long page, u64 *word)
{
	const struct run r = { page, 1 };
	const bool hole = has_hole(&r);
	const double start = now();
	int err;

	do {
		err = host_pread(t, page, word);
	} while (err == EIO && !w.pages[page].private && hole &&
		 now() - start < PATIENCE);
	return err;
}

static void host_exact(struct thread *t)
{
	struct run r = pick_run(t, KIND_EXACT, 4);
	const bool write = chance(t, 50);
	struct event *e;
	u64 word[NR_WORDS];
	long i;
	u32 gen;
	int err;

	lock_run(&r, write);
	for (i = r.first; i < r.first + r.nr; i++) {
		struct page *p = &w.pages[i];

		if (!write && chance(t, 20)) {
			e = begin_event(t, p->private ? OP_MEM_EIO : OP_MEM_READ,
					i, 1, p->gen);
			err = host_pread_exact(t, i, word);
			if (err != (p->private ? EIO : 0))
				fail(i, "/proc/self/mem, a %s page: %s",
				     p->private ? "private" : "shared", strerror(err));
			if (!p->private)
				check_words(i, word, "/proc/self/mem");
			done(t, e);
			continue;
		}

		if (!write) {
			e = begin_event(t, p->private ? OP_HOST_SIGBUS : OP_HOST_READ,
					i, 1, p->gen);
			check_by_host(i, "when read");
			done(t, e);
			continue;
		}

		gen = next_gen();
		e = begin_event(t, p->private ? OP_HOST_SIGBUS : OP_HOST_WRITE, i, 1,
				gen);
		if (host_store(i, gen)) {
			if (p->private)
				fail(i, "the host writes to a private page");
			p->gen = gen;
		} else if (!p->private) {
			fail(i, "a shared page gives SIGBUS when written");
		}
		done(t, e);
	}
	unlock_run(&r);
}

/*
 * The guest's accesses
 */

static struct guest_access *guest_add(struct thread *t, enum guest_access_op op,
				      long page, u32 gen, bool secret)
{
	struct mailbox *m = w.mailbox[t->vcpu];
	struct guest_access *a = &m->access[m->nr++];
	int i;

	*a = (struct guest_access) {
		.op = op,
		.page = page,
		.nr = 1,
		.gen = gen,
		.secret = secret,
		.gva = gpa_of(page),
	};
	if (op == GUEST_STORE)
		for (i = 0; i < NR_WORDS; i++)
			a->word[i] = make_tag(page, i, gen, secret);
	return a;
}

/* A vCPU that does not come back is asked where it is. */
static void interrupt(int sig)
{
}

/* Where the vCPU is, and whether the guest's page tables are still there */
static void print_vcpu(struct kvm_vcpu *vcpu)
{
	fflush(stdout);
	vcpu_dump(stdout, vcpu, 2);
	ksft_print_msg("the guest's code is at gpa 0x%llx, its requests at gpa 0x%llx\n",
		       (unsigned long long)addr_gva2gpa(w.vm, (gva_t)guest_code),
		       (unsigned long long)addr_gva2gpa(w.vm, (gva_t)mailboxes));
	fflush(stdout);
}

/*
 * An emulated CPU may leave the guest twice at once: the host's registers are
 * then saved as the guest's.  The guest has no code in that half of its memory.
 */
static void check_interrupted(struct kvm_vcpu *vcpu, long page)
{
	struct kvm_regs regs;

	vcpu_regs_get(vcpu, &regs);
	if (!(regs.rip >> 63))
		return;
	print_vcpu(vcpu);
	fail(page, "the guest has the registers of the host");
}

/* If @exact, no page that the guest visits is converted meanwhile. */
static void guest_run(struct thread *t, bool exact)
{
	struct kvm_vcpu *vcpu = w.vcpu[t->vcpu];
	struct kvm_run *run = vcpu->run;
	const long page = w.mailbox[t->vcpu]->access[0].page;
	struct ucall uc;

	w.running[t->vcpu].since = now();
	WRITE_ONCE(w.running[t->vcpu].task, gettid());
	while (__vcpu_run(vcpu)) {
		if (errno == EINTR) {
			check_interrupted(vcpu, page);
			continue;
		}
		if (run->exit_reason != KVM_EXIT_MEMORY_FAULT ||
		    (errno != EFAULT && errno != EAGAIN))
			fail(page, "KVM_RUN: %s, exit %s", strerror(errno),
			     exit_reason_str(run->exit_reason));
		if (errno == EAGAIN) {
			__atomic_add_fetch(&nr_again_exits, 1, __ATOMIC_RELAXED);
			continue;
		}
		if (exact)
			fail(page, "KVM_RUN exits for gpa 0x%llx, flags 0x%llx, no task converts",
			     (unsigned long long)run->memory_fault.gpa,
			     (unsigned long long)run->memory_fault.flags);
		__atomic_add_fetch(&nr_fault_exits, 1, __ATOMIC_RELAXED);
	}
	WRITE_ONCE(w.running[t->vcpu].task, 0);
	if (run->exit_reason != KVM_EXIT_IO || get_ucall(vcpu, &uc) != UCALL_SYNC) {
		print_vcpu(vcpu);
		fail(page, "the guest exits for %s",
		     exit_reason_str(run->exit_reason));
	}
}

static void guest_begin(struct thread *t)
{
	w.mailbox[t->vcpu]->nr = 0;
}

static void guest_exact(struct thread *t)
{
	struct run r = pick_run(t, KIND_EXACT, 8);
	const bool write = chance(t, 50);
	struct mailbox *m = w.mailbox[t->vcpu];
	struct event *e[8];
	long i;
	u32 gen;

	lock_run(&r, write);
	guest_begin(t);
	for (i = 0; i < r.nr; i++) {
		gen = write ? next_gen() : w.pages[r.first + i].gen;
		e[i] = begin_event(t, write ? OP_GUEST_WRITE : OP_GUEST_READ,
				   r.first + i, 1, gen);
		guest_add(t, write ? GUEST_STORE : GUEST_LOAD, r.first + i, gen,
			  false);
	}
	guest_run(t, true);
	for (i = 0; i < r.nr; i++) {
		if (write)
			w.pages[r.first + i].gen = m->access[i].gen;
		else
			check_words(r.first + i, m->access[i].word, "the guest");
		done(t, e[i]);
	}
	unlock_run(&r);
}

/* Any pages, while they are converted, punched and merged */
static void guest_loose(struct thread *t)
{
	struct mailbox *m = w.mailbox[t->vcpu];
	struct event *e;
	int i;

	guest_begin(t);
	for (i = 0; i < 8; i++)
		guest_add(t, GUEST_LOAD,
			  pick_run(t, random_below(t, NR_KINDS), 1).first, 0, false);
	e = begin_event(t, OP_GUEST_LOOSE, m->access[0].page, 1, 0);
	guest_run(t, false);
	for (i = 0; i < m->nr; i++)
		check_loose(m->access[i].page, m->access[i].word, "the guest", true);
	done(t, e);
}

/*
 * Converting
 */

enum conversion { BY_FILE, BY_VM };

/* The whole range is in one file or, by the VM, in a row for the guest. */
static int set_private(enum conversion how, long first, long nr, bool private, long *bad)
{
	const u64 attributes = private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0;
	const u64 untouched = 0x5a5a5a5a5a5a5a5aULL;
	struct kvm_memory_attributes2 file = {
		.offset = file_offset(first),
		.size = nr * SZ_4K,
		.attributes = attributes,
		.error_offset = untouched,
	};
	struct kvm_memory_attributes vm = {
		.address = gpa_of(first),
		.size = nr * SZ_4K,
		.attributes = attributes,
	};
	int r;

	*bad = -1;
	if (how == BY_VM)
		return __vm_ioctl(w.vm, KVM_SET_MEMORY_ATTRIBUTES, &vm) ? errno : 0;

	r = ioctl(fd_of(first), KVM_SET_MEMORY_ATTRIBUTES2, &file) ? errno : 0;
	if (r != EAGAIN) {
		if (file.error_offset != untouched)
			fail(first, "error_offset is 0x%llx after %s",
			     (unsigned long long)file.error_offset, strerror(r));
		return r;
	}
	if (file.error_offset % SZ_4K || file.error_offset < file.offset ||
	    file.error_offset >= file.offset + file.size)
		fail(first, "error_offset 0x%llx is not a page of 0x%llx to 0x%llx",
		     (unsigned long long)file.error_offset,
		     (unsigned long long)file.offset,
		     (unsigned long long)(file.offset + file.size));
	*bad = first + (file.error_offset - file.offset) / SZ_4K;
	return r;
}

/* The first exact page that is pinned, so that it cannot become private; or -1 */
static long find_pinned(const struct run *r)
{
	long i, b;

	for (b = block_of(r->first); b <= block_of(r->first + r->nr - 1); b++) {
		if (!w.blocks[b].pins)
			continue;
		for (i = b * BLOCK_PAGES; i < (b + 1) * BLOCK_PAGES; i++)
			if (i >= r->first && i < r->first + r->nr &&
			    w.pages[i].pins && !w.pages[i].private)
				return i;
	}
	return -1;
}

/* Are there pages that may be in use without the model's knowledge? */
static bool is_loose(const struct run *r)
{
	long b;

	for (b = block_of(r->first); b <= block_of(r->first + r->nr - 1); b++)
		if (w.blocks[b].kind != KIND_EXACT)
			return true;
	return false;
}

static void model_convert(const struct run *r, bool private)
{
	long i;

	for (i = r->first; i < r->first + r->nr; i++)
		w.pages[i].private = private;
}

/*
 * Convert one or two runs at once, with their locks for writing or their gates
 * closed.  To private, that fails if and only if an exact page is pinned; or
 * because of a page that is not exact.  Returns an error number.
 */
static int convert(struct thread *t, enum conversion how, enum op_kind op,
		   const struct run *runs, int nr_runs, bool private)
{
	const double start = now();
	long bad, pinned = -1, first = runs[0].first, nr = 0, i;
	bool loose = false, refused = false;
	struct event *e[2];
	int r, k, tries;

	for (k = 0; k < nr_runs; k++) {
		if (private && pinned < 0)
			pinned = find_pinned(&runs[k]);
		loose |= is_loose(&runs[k]);
		nr += runs[k].nr;
		e[k] = begin_event(t, op, runs[k].first, runs[k].nr, private);
	}

	for (tries = 1; ; tries++) {
		/* Those of the first run come first for the guest, too. */
		r = set_private(how, first, nr, private, &bad);
		for (k = 0; k < nr_runs; k++)
			end_event(e[k], r);
		if (r != EAGAIN)
			break;
		if (!private)
			fail(first, "conversion to shared: %s", strerror(r));

		if (bad >= 0 ? bad == pinned : pinned >= 0) {
			refused = true;
			break;
		}
		if (pinned >= 0 && bad > pinned)
			fail(bad, "this page is blamed, but page %ld is pinned", pinned);

		/* Another user: in exact blocks it must not stay for long. */
		t->again[op]++;
		if (bad >= 0 ? kind_of(bad) != KIND_EXACT : loose) {
			if (tries >= 3)
				return r;
		} else {
			__atomic_add_fetch(&nr_transient, 1, __ATOMIC_RELAXED);
			if (now() - start > PATIENCE)
				fail(bad < 0 ? first : bad,
				     "not used, but cannot become private in %d s",
				     PATIENCE);
			if (tries > 3)
				usleep(1000);
		}
	}
	if (r && !refused)
		fail(first, "conversion of %ld pages: %s", nr, strerror(r));
	/* A race makes this figure wrong, not more. */
	if (tries > 1 && !loose && now() - start > longest_transient)
		longest_transient = now() - start;
	if (!r && pinned >= 0)
		fail(pinned, "became private, but is pinned");

	if (refused) {
		t->done[OP_REFUSED]++;
	} else {
		t->done[op]++;
		for (k = 0; k < nr_runs; k++)
			model_convert(&runs[k], private);
	}

	/* Nothing changed, or all */
	if (t->hands_off)
		return r;
	for (k = 0; k < nr_runs; k++) {
		i = runs[k].first + random_below(t, runs[k].nr);
		if (kind_of(i) == KIND_EXACT)
			check_by_host(i, refused ? "after a refusal" :
						   "after a conversion");
	}
	if (refused && bad >= 0)
		check_by_host(bad, "after a refusal");
	return r;
}

static enum conversion pick_how(struct thread *t, const struct run *r)
{
	/* Not in a row for the guest */
	if (r->first < w.split && r->first + r->nr > w.split)
		return BY_FILE;
	return chance(t, 40) ? BY_VM : BY_FILE;
}

static enum op_kind convert_op(enum conversion how, bool private)
{
	if (how == BY_FILE)
		return private ? OP_FD_PRIVATE : OP_FD_SHARED;
	return private ? OP_VM_PRIVATE : OP_VM_SHARED;
}

static void convert_exact(struct thread *t)
{
	const bool private = chance(t, 50);
	struct run r;
	enum conversion how;

	if (chance(t, 75)) {
		r = pick_run(t, KIND_EXACT, chance(t, 70) ? 4 : BLOCK_PAGES);
	} else {
		/* Several blocks, of any kind */
		r.first = pick_block(t, KIND_EXACT) * BLOCK_PAGES;
		if (chance(t, 50))
			r.first += random_below(t, BLOCK_PAGES);
		r.nr = BLOCK_PAGES + random_below(t, 8 * BLOCK_PAGES);
		r.nr = min(r.nr, (in_main(r.first) ? w.nr_main : w.nr_pages) -
				 r.first);
	}

	if (is_quiet(&r))
		return;
	how = pick_how(t, &r);
	lock_run(&r, true);
	convert(t, how, convert_op(how, private), &r, 1, private);
	unlock_run(&r);
}

/* A range of the guest's where memslots meet: the tail and the rest, or two files */
static void convert_seam(struct thread *t)
{
	const bool private = chance(t, 50);
	const long x = 1 + random_below(t, 40), y = 1 + random_below(t, 40);
	const bool tail = w.split < w.nr_main && chance(t, 50);
	struct run r[2];

	r[0].first = (tail ? w.nr_main : w.split) - x;
	r[0].nr = x;
	r[1].first = tail ? 0 : w.nr_main;
	r[1].nr = y;
	if (is_quiet(&r[0]) || is_quiet(&r[1]))
		return;

	lock_run(&r[tail ? 1 : 0], true);
	lock_run(&r[tail ? 0 : 1], true);
	convert(t, BY_VM, tail ? OP_SEAM : OP_TWO_FILES, r, 2, private);
	unlock_run(&r[1]);
	unlock_run(&r[0]);
}

/*
 * Pins
 */

static void drop_pin_file(struct pin *p)
{
	if (!p->spliced)
		TEST_ASSERT(!ioctl(p->gup_fd, PIN_LONGTERM_TEST_STOP),
			    "PIN_LONGTERM_TEST_STOP failed");
}

/* How many pages are in use now, or a negative error number */
static int take_pin(struct pin *p, const struct run *r, bool spliced)
{
	struct pin_longterm_test args = {
		.addr = (uintptr_t)hva_of(r->first),
		.size = r->nr * SZ_4K,
		/* Or it would wait for a page in use with mmap_lock held. */
		.flags = PIN_LONGTERM_TEST_FLAG_USE_WRITE |
			 PIN_LONGTERM_TEST_FLAG_USE_FAST,
	};
	struct iovec iov = {
		.iov_base = hva_of(r->first),
		.iov_len = r->nr * SZ_4K,
	};
	ssize_t n;

	p->spliced = spliced;
	p->first = r->first;
	if (spliced) {
		n = vmsplice(p->pipe[1], &iov, 1, 0);
		if (n < 0)
			return -errno;
		TEST_ASSERT(n % SZ_4K == 0, "vmsplice() took %ld bytes", n);
		p->nr = n / SZ_4K;
	} else {
		if (ioctl(p->gup_fd, PIN_LONGTERM_TEST_START, &args))
			return -errno;
		p->nr = r->nr;
	}
	return p->nr;
}

/* Read the pages by the pin, which ends it if that is a pipe. */
static void read_pin(struct thread *t, struct pin *p)
{
	const size_t size = p->nr * SZ_4K;
	u64 address = (uintptr_t)t->buffer;
	size_t n;
	ssize_t k;

	if (!p->spliced) {
		if (ioctl(p->gup_fd, PIN_LONGTERM_TEST_READ, &address))
			fail(p->first, "PIN_LONGTERM_TEST_READ: %s", strerror(errno));
		return;
	}
	for (n = 0; n < size; n += k) {
		k = read(p->pipe[0], t->buffer + n, size - n);
		TEST_ASSERT(k > 0, "reading from a pipe: %ld", k);
	}
}

static void open_pin(struct pin *p)
{
	check_lock(pthread_mutex_init(&p->lock, NULL));
	TEST_ASSERT(!pipe2(p->pipe, O_CLOEXEC), "pipe() failed");
	p->gup_fd = have_gup ? open("/sys/kernel/debug/gup_test", O_RDWR | O_CLOEXEC) :
			       -1;
	TEST_ASSERT(!have_gup || p->gup_fd >= 0, "cannot open gup_test");
	p->active = false;
}

static void close_pin(struct pin *p)
{
	close(p->pipe[0]);
	close(p->pipe[1]);
	if (p->gup_fd >= 0)
		close(p->gup_fd);
	pthread_mutex_destroy(&p->lock);
}

static bool use_pipe(struct thread *t)
{
	return !have_gup || chance(t, 40);
}

static void pin_exact(struct thread *t)
{
	struct run r = pick_run(t, KIND_EXACT, MAX_PINNED);
	struct pin *p = &w.pins[random_below(t, NR_PINS)];
	const bool spliced = use_pipe(t);
	struct event *e;
	double start;
	long shared, i;
	int n, want;
	bool hole;

	lock_run(&r, true);
	check_lock(pthread_mutex_lock(&p->lock));
	if (p->active)
		goto unlock;

	for (shared = 0; shared < r.nr; shared++)
		if (w.pages[r.first + shared].private)
			break;
	if (spliced)
		want = shared ?: -EFAULT;
	else
		want = shared == r.nr ? r.nr : -EFAULT;

	e = begin_event(t, want < 0 ? OP_PIN_EFAULT : spliced ? OP_SPLICE : OP_PIN,
			r.first, r.nr, 0);
	hole = has_hole(&r);
	start = now();
	do {
		n = take_pin(p, &r, spliced);
	} while (n == -EFAULT && want > 0 && hole && now() - start < PATIENCE);
	if (n != want)
		fail(r.first, "pinning %ld pages, %ld of them shared, %s: %d, wanted %d",
		     r.nr, shared, spliced ? "in a pipe" : "by GUP", n, want);
	done(t, e);
	if (n > 0) {
		p->active = true;
		p->seq++;
		p->live = (1U << n) - 1;
		for (i = p->first; i < p->first + n; i++)
			w.pages[i].pins++;
		w.blocks[block_of(r.first)].pins += n;
	}
unlock:
	check_lock(pthread_mutex_unlock(&p->lock));
	unlock_run(&r);
}

/*
 * With the block's lock for writing or its gate closed, and that of the pin.  What
 * was punched is known by the pin only.
 */
static void unpin(struct thread *t, struct pin *p)
{
	struct event *e = begin_event(t, OP_UNPIN, p->first, p->nr, 0);
	u64 word[NR_WORDS];
	int i, k;

	read_pin(t, p);
	for (i = 0; i < p->nr; i++) {
		for (k = 0; k < NR_WORDS; k++)
			word[k] = *word_at(t->buffer + i * SZ_4K, k);
		if (!(p->live & BIT(i))) {
			check_loose(p->first + i, word, "a pin", false);
			continue;
		}
		check_words(p->first + i, word, "a pin");
		w.pages[p->first + i].pins--;
		w.blocks[block_of(p->first)].pins--;
	}
	drop_pin_file(p);
	p->active = false;
	done(t, e);
}

static void unpin_exact(struct thread *t)
{
	struct pin *p = &w.pins[random_below(t, NR_PINS)];
	struct run r;
	bool live;
	u32 seq;

	check_lock(pthread_mutex_lock(&p->lock));
	seq = p->seq;
	r = (struct run) { p->first, p->nr };
	live = p->active;
	check_lock(pthread_mutex_unlock(&p->lock));
	if (!live)
		return;

	lock_run(&r, true);
	check_lock(pthread_mutex_lock(&p->lock));
	live = p->active && p->seq == seq;
	if (live)
		unpin(t, p);
	check_lock(pthread_mutex_unlock(&p->lock));
	/* The first try succeeds, unless there is another user for a moment. */
	if (live && chance(t, 50) && find_pinned(&r) < 0 && !is_quiet(&r))
		convert(t, BY_FILE, OP_UNPINNED, &r, 1, true);
	unlock_run(&r);
}

static void unpin_all(struct thread *t)
{
	int i;

	for (i = 0; i < NR_PINS; i++)
		if (w.pins[i].active)
			unpin(t, &w.pins[i]);
}

/* Pages of the range are gone from the file: to pins they are pages of their own. */
static void forget_pins(const struct run *r)
{
	struct pin *p;
	int i;

	for (p = w.pins; p < w.pins + NR_PINS; p++) {
		check_lock(pthread_mutex_lock(&p->lock));
		for (i = 0; p->active && i < p->nr; i++) {
			const long page = p->first + i;

			if (page < r->first || page >= r->first + r->nr ||
			    !(p->live & BIT(i)))
				continue;
			p->live &= ~BIT(i);
			w.pages[page].pins--;
			w.blocks[block_of(page)].pins--;
		}
		check_lock(pthread_mutex_unlock(&p->lock));
	}
}

/*
 * Other operations on exact pages
 */

static int punch_run(const struct run *r)
{
	return fallocate(fd_of(r->first), FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
			 file_offset(r->first), r->nr * SZ_4K) ? errno : 0;
}

static int populate_run(const struct run *r)
{
	return fallocate(fd_of(r->first), FALLOC_FL_KEEP_SIZE,
			 file_offset(r->first), r->nr * SZ_4K) ? errno : 0;
}

/* Can single pages of the file be punched? */
static bool has_small_pages(long page)
{
	return !in_main(page) || w.page_size == SZ_4K;
}

static void model_punch(const struct run *r)
{
	long i;

	for (i = r->first; i < r->first + r->nr; i++)
		w.pages[i].gen = 0;
}

static void punch_exact(struct thread *t)
{
	struct run r = pick_run(t, KIND_EXACT, 8);
	struct event *e;
	int err;

	if (!has_small_pages(r.first)) {
		r.first = w.nr_main + (chance(t, 50) ? 0 : 3) * BLOCK_PAGES +
			  random_below(t, BLOCK_PAGES - r.nr + 1);
	}
	lock_run(&r, true);
	e = begin_event(t, OP_PUNCH, r.first, r.nr, 0);
	err = punch_run(&r);
	if (err)
		fail(r.first, "punching: %s", strerror(err));
	model_punch(&r);
	forget_pins(&r);
	done(t, e);
	unlock_run(&r);
}

static void populate_exact(struct thread *t)
{
	struct run r = pick_run(t, KIND_EXACT, 8);
	struct event *e;
	int err;

	lock_run(&r, false);
	if (has_small_pages(r.first)) {
		e = begin_event(t, OP_POPULATE, r.first, r.nr, 0);
		err = populate_run(&r);
	} else {
		const struct run unit = {
			w.units[unit_of(r.first)].first,
			w.units[unit_of(r.first)].nr,
		};

		e = begin_event(t, OP_POPULATE, unit.first, unit.nr, 0);
		err = populate_run(&unit);
	}
	if (err)
		fail(r.first, "fallocate(): %s", strerror(err));
	done(t, e);
	unlock_run(&r);
}

static bool all_shared(const struct run *r)
{
	long i;

	for (i = r->first; i < r->first + r->nr; i++)
		if (w.pages[i].private)
			return false;
	return true;
}

static void madv_exact(struct thread *t)
{
	struct run r = pick_run(t, KIND_EXACT, 16);
	const int advice = chance(t, 50) ? MADV_POPULATE_READ : MADV_POPULATE_WRITE;
	struct event *e;
	double start;
	int err, want;
	bool hole;

	lock_run(&r, false);
	want = all_shared(&r) ? 0 : EFAULT;
	e = begin_event(t, want ? OP_MADV_EFAULT : OP_MADV, r.first, r.nr, 0);
	hole = has_hole(&r);
	start = now();
	do {
		err = madvise(hva_of(r.first), r.nr * SZ_4K, advice) ? errno : 0;
	} while (err == EFAULT && !want && hole && now() - start < PATIENCE);
	if (err != want)
		fail(r.first, "MADV_POPULATE of %ld pages: %s, wanted %s", r.nr,
		     strerror(err), strerror(want));
	done(t, e);
	unlock_run(&r);
}

/* Of a whole block, so that there won't be too many VMAs */
static void mlock_exact(struct thread *t)
{
	struct run r = { pick_block(t, KIND_EXACT) * BLOCK_PAGES, BLOCK_PAGES };
	struct block *b = &w.blocks[block_of(r.first)];
	struct event *e;
	int err, want = 0;
	double start;
	bool hole;

	lock_run(&r, true);
	if (b->mlocked) {
		e = begin_event(t, OP_MUNLOCK, r.first, r.nr, 0);
		err = munlock(hva_of(r.first), r.nr * SZ_4K) ? errno : 0;
	} else {
		e = begin_event(t, OP_MLOCK, r.first, r.nr, 0);
		want = all_shared(&r) ? 0 : ENOMEM;
		hole = has_hole(&r);
		start = now();
		do {
			err = mlock(hva_of(r.first), r.nr * SZ_4K) ? errno : 0;
		} while (err == ENOMEM && !want && hole && now() - start < PATIENCE);
	}
	if (err != want)
		fail(r.first, "%s: %s, wanted %s", op_names[e->op], strerror(err),
		     strerror(want));
	/* Whether or not all pages are there, the VMA is locked. */
	b->mlocked = !b->mlocked;
	done(t, e);
	unlock_run(&r);
}

static void dontneed_exact(struct thread *t)
{
	struct run r = pick_run(t, KIND_EXACT, 16);
	struct event *e;
	int err, want;

	lock_run(&r, true);
	want = w.blocks[block_of(r.first)].mlocked ? EINVAL : 0;
	e = begin_event(t, OP_DONTNEED, r.first, r.nr, 0);
	err = madvise(hva_of(r.first), r.nr * SZ_4K, MADV_DONTNEED) ? errno : 0;
	if (err != want)
		fail(r.first, "MADV_DONTNEED: %s, wanted %s", strerror(err),
		     strerror(want));
	if (!want)
		check_by_host(r.first, "after MADV_DONTNEED");
	done(t, e);
	unlock_run(&r);
}

/* The host's use of secret pages, in a task of any kind */
static void peek_secret(struct thread *t)
{
	const long page = pick_run(t, KIND_SECRET, 1).first;
	u64 word[NR_WORDS];

	if (host_load(page, word))
		check_loose(page, word, is_child ? "a child" : "the host", false);
}

/* Map pages in a child.  They are zapped there, too, while the child looks on. */
static void __noreturn child_main(struct thread *t, const struct run *r, int fd)
{
	const double start = now(), end = start + 0.05 + random_below(t, 100) / 400.0;
	long i;

	is_child = true;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (i = r->first; i < r->first + r->nr; i++)
		check_by_host(i, "in a child");
	if (write(fd, "", 1) != 1)
		_exit(KSFT_FAIL);
	while (now() < end) {
		peek_secret(t);
		usleep(500);
	}
	_exit(KSFT_PASS);
}

static bool reap_child(struct thread *t, bool wait)
{
	int status;
	pid_t pid;

	if (!t->child)
		return true;
	pid = waitpid(t->child, &status, wait ? 0 : WNOHANG);
	if (!pid)
		return false;
	if (pid != t->child || !WIFEXITED(status) || WEXITSTATUS(status)) {
		if (READ_ONCE(child_report->failed))
			fail(child_report->page, "in a child: %s",
			     child_report->text);
		fail(-1, "a child ended with status 0x%x", status);
	}
	t->child = 0;
	return true;
}

static void fork_exact(struct thread *t)
{
	struct run r = pick_run(t, KIND_EXACT, 16);
	struct event *e;
	int fds[2];
	char byte;

	if (!reap_child(t, false))
		return;

	lock_run(&r, false);
	e = begin_event(t, OP_FORK, r.first, r.nr, 0);
	TEST_ASSERT(!pipe2(fds, O_CLOEXEC), "pipe() failed");
	t->child = fork();
	TEST_ASSERT(t->child >= 0, "fork() failed");
	if (!t->child)
		child_main(t, &r, fds[1]);
	close(fds[1]);
	/* When it has read exact pages, or has failed to */
	if (read(fds[0], &byte, 1) != 1)
		reap_child(t, true);
	close(fds[0]);
	done(t, e);
	unlock_run(&r);
}

/*
 * Whole huge pages, and ranges of several, with closed gates
 */

/* A number of fdinfo, which may be absent */
static long fdinfo(int fd, const char *key)
{
	const char *value = gmem_fdinfo(fd, key);

	return value ? atol(value) : -1;
}

/* From somewhere in one unit to somewhere in another */
static struct run pick_large(struct thread *t)
{
	struct run r;
	long a, b;

	if (chance(t, 40)) {
		const struct unit *u = &w.units[random_below(t, w.nr_units)];

		return (struct run) { u->first, u->nr };
	}
	if (chance(t, 30))
		return (struct run) { 0, w.nr_main };
	a = random_below(t, w.nr_main);
	b = random_below(t, w.nr_main);
	r.first = min(a, b);
	r.nr = max(a, b) - r.first + 1;
	return r;
}

static const struct unit *pick_unit(struct thread *t)
{
	return &w.units[random_below(t, w.nr_units)];
}

static void convert_large(struct thread *t, bool private)
{
	struct run r = pick_large(t);

	if (is_quiet(&r))
		return;
	close_gates(&r);
	convert(t, pick_how(t, &r), private ? OP_UNIT_PRIVATE : OP_UNIT_SHARED, &r, 1,
		private);
	leave_gates(&r);
}

/*
 * A huge page that is still in use goes back to its pool when it is not, and is not
 * allocated meanwhile: let go of it.
 */
static void punch_unit(struct thread *t, const struct unit *u)
{
	const struct run r = { u->first, u->nr };
	struct event *e;
	struct pin *p;
	int err;

	close_gates(&r);
	e = begin_event(t, OP_UNIT_PUNCH, r.first, r.nr, 0);
	err = punch_run(&r);
	if (err)
		fail(r.first, "punching a huge page: %s", strerror(err));
	forget_pins(&r);
	for (p = w.pins; p < w.pins + NR_PINS; p++) {
		check_lock(pthread_mutex_lock(&p->lock));
		if (p->active && unit_of(p->first) == unit_of(r.first) && !p->live)
			unpin(t, p);
		check_lock(pthread_mutex_unlock(&p->lock));
	}
	model_punch(&r);
	done(t, e);
	leave_gates(&r);
}

/* How many folios are as large as those that the file is made of? */
static long nr_whole(void)
{
	char key[64];

	snprintf(key, sizeof(key), "gmem-folios-%zukB", w.page_size >> 10);
	return fdinfo(w.fd[0], key);
}

/*
 * Let a huge page be merged while the rest goes on: none of it is converted until a
 * huge page was merged, or for about as long as that takes.  In half of the cases all
 * of it is private; else blocks are, next to pages that the host has mapped.
 */
static void quiet_unit(struct thread *t)
{
	struct unit *u = w.quiet;
	struct event *e;
	struct run r;
	double max;

	if (w.page_size == SZ_4K)
		return;

	if (u && w.nr_whole >= 0 && nr_whole() > w.nr_whole) {
		t->done[OP_UNIT_MERGED]++;
		w.nr_whole = -1;
		WRITE_ONCE(u->quiet_until, 0);
		return;
	}
	if (u && now() < u->quiet_until)
		return;
	/* In between all take part. */
	if (!chance(t, w.page_size == SZ_1G ? 40 : 10))
		return;

	u = &w.units[random_below(t, w.nr_units)];
	w.quiet = u;
	r = (struct run) { u->first, u->nr };
	w.nr_whole = -1;

	close_gates(&r);
	e = begin_event(t, OP_UNIT_QUIET, r.first, r.nr, 0);
	end_event(e, 0);
	t->done[OP_UNIT_QUIET]++;
	if (chance(t, 60)) {
		if (!convert(t, BY_FILE, OP_UNIT_PRIVATE, &r, 1, true))
			w.nr_whole = nr_whole();
	}
	/* Often not long enough, or just as long as it takes */
	max = w.nr_whole >= 0 && chance(t, 60) ? 4 : 0.9 + random_below(t, 500) / 1000.0;
	WRITE_ONCE(u->quiet_until, now() + max);
	leave_gates(&r);
}

static void *do_chores(void *arg)
{
	struct thread *t = arg;
	const long us = w.page_size == SZ_1G ? 250000 : 60000;
	const struct unit *u;
	int i;

	for (i = 0; !READ_ONCE(w.stop); i++) {
		quiet_unit(t);
		switch (i % 5) {
		case 0:
		case 2:
			convert_large(t, true);
			break;
		case 1:
		case 3:
			convert_large(t, chance(t, 40));
			break;
		case 4:
			u = pick_unit(t);
			if (now() >= u->quiet_until)
				punch_unit(t, u);
			break;
		}
		usleep(us / 2 + random_below(t, us));
	}
	return NULL;
}

/*
 * Secret pages
 */

/* Returns false if a word is not of this generation. */
static void check_secret(struct thread *t, const struct run *r, u32 gen)
{
	struct mailbox *m = w.mailbox[t->vcpu];
	long i;
	int k;

	guest_begin(t);
	for (i = 0; i < r->nr; i++)
		guest_add(t, GUEST_LOAD, r->first + i, 0, true);
	guest_run(t, true);
	for (i = 0; i < r->nr; i++)
		for (k = 0; k < NR_WORDS; k++)
			if (m->access[i].word[k] !=
			    make_tag(r->first + i, k, gen, true))
				fail_data(r->first + i, k, m->access[i].word[k],
					  "the guest", "in place of its secret");
}

static void cycle_secret(struct thread *t)
{
	struct run r = pick_run(t, KIND_SECRET, 8);
	enum conversion how = pick_how(t, &r);
	const u32 gen = next_gen();
	u64 word[NR_WORDS];
	struct event *e;
	long i;

	if (is_quiet(&r))
		return;
	lock_run(&r, true);
	if (convert(t, how, convert_op(how, true), &r, 1, true))
		goto unlock;

	e = begin_event(t, OP_SECRET_CYCLE, r.first, r.nr, gen);
	guest_begin(t);
	for (i = 0; i < r.nr; i++)
		guest_add(t, GUEST_STORE, r.first + i, gen, true);
	guest_run(t, true);
	check_secret(t, &r, gen);
	for (i = 0; i < r.nr; i++)
		if (host_load(r.first + i, word))
			fail(r.first + i, "the host reads 0x%llx in a private page",
			     (unsigned long long)word[0]);
	check_secret(t, &r, gen);

	guest_begin(t);
	for (i = 0; i < r.nr; i++)
		guest_add(t, GUEST_STORE, r.first + i, gen, false);
	guest_run(t, true);
	done(t, e);
	if (chance(t, 60)) {
		how = pick_how(t, &r);
		convert(t, how, convert_op(how, false), &r, 1, false);
	}
unlock:
	unlock_run(&r);
}

static void host_secret(struct thread *t)
{
	const long page = pick_run(t, KIND_SECRET, 1).first;
	struct event *e = begin_event(t, OP_SECRET_READ, page, 1, 0);
	u64 word[NR_WORDS];
	int err;

	if (chance(t, 40)) {
		e->op = OP_SECRET_WRITE;
		e->gen = next_gen();
		if (!host_store(page, e->gen))
			e->op = OP_SECRET_BUS;
	} else if (chance(t, 20)) {
		err = host_pread(t, page, word);
		if (!err)
			check_loose(page, word, "/proc/self/mem", false);
		else if (err != EIO)
			fail(page, "/proc/self/mem: %s", strerror(err));
		else
			e->op = OP_SECRET_BUS;
	} else if (host_load(page, word)) {
		check_loose(page, word, "the host", false);
	} else {
		e->op = OP_SECRET_BUS;
	}
	done(t, e);
}

/* For a moment.  Whatever happens to the page meanwhile, it has no secrets. */
static void pin_loose(struct thread *t, enum block_kind kind, enum op_kind op)
{
	struct run r = pick_run(t, kind, MAX_PINNED);
	u64 word[NR_WORDS];
	struct event *e;
	struct pin p;
	int n, i, k;

	open_pin(&p);
	e = begin_event(t, op, r.first, r.nr, 0);
	n = take_pin(&p, &r, use_pipe(t));
	if (n > 0) {
		usleep(random_below(t, 8000));
		read_pin(t, &p);
		for (i = 0; i < n; i++) {
			for (k = 0; k < NR_WORDS; k++)
				word[k] = *word_at(t->buffer + i * SZ_4K, k);
			check_loose(r.first + i, word, "a pin", false);
		}
		drop_pin_file(&p);
		done(t, e);
	} else {
		if (n != -EFAULT)
			fail(r.first, "pinning %ld pages: %s", r.nr, strerror(-n));
		end_event(e, -n);
	}
	close_pin(&p);
}

static void zap_secret(struct thread *t)
{
	struct run r = { pick_block(t, KIND_SECRET) * BLOCK_PAGES, BLOCK_PAGES };
	struct event *e = begin_event(t, OP_SECRET_ZAP, r.first, r.nr, 0);
	void *hva = hva_of(r.first);
	const size_t size = r.nr * SZ_4K;
	int err = 0;

	/* Pages may be private, the VMA may be locked. */
	switch (random_below(t, 6)) {
	case 0:
		err = madvise(hva, size, MADV_POPULATE_WRITE) ? errno : 0;
		break;
	case 1:
		err = mlock(hva, size) ? errno : 0;
		break;
	case 2:
		err = munlock(hva, size) ? errno : 0;
		break;
	case 3:
		err = madvise(hva, size, MADV_COLD) ? errno : 0;
		break;
	case 4:
		err = madvise(hva, size, MADV_PAGEOUT) ? errno : 0;
		break;
	default:
		err = madvise(hva, size, MADV_DONTNEED) ? errno : 0;
		break;
	}
	if (err && err != EFAULT && err != EINVAL && err != ENOMEM && err != EAGAIN)
		fail(r.first, "madvise() or mlock(): %s", strerror(err));
	if (err)
		end_event(e, err);
	else
		done(t, e);
}

/*
 * Free pages.  Only the gate is open, so that there is no more than one huge range
 * at a time that waits for pages in use.
 */

static void convert_free(struct thread *t)
{
	struct run r = pick_run(t, KIND_FREE, BLOCK_PAGES);
	const bool private = chance(t, 50);
	struct event *e;
	long bad;
	int err;

	if (is_quiet(&r))
		return;
	open_gates(&r);
	e = begin_event(t, private ? OP_FREE_PRIVATE : OP_FREE_SHARED, r.first, r.nr,
			private);
	err = set_private(pick_how(t, &r), r.first, r.nr, private, &bad);
	if (!err) {
		done(t, e);
	} else {
		if (err != EAGAIN || !private)
			fail(r.first, "conversion of free pages to %s: %s",
			     private ? "private" : "shared", strerror(err));
		end_event(e, err);
		t->again[e->op]++;
	}
	leave_gates(&r);
}

static void guest_free(struct thread *t)
{
	struct run r = pick_run(t, KIND_FREE, 8);
	struct mailbox *m = w.mailbox[t->vcpu];
	struct event *e;
	const u32 gen = next_gen();
	long i;

	open_gates(&r);
	guest_begin(t);
	for (i = 0; i < r.nr; i++)
		guest_add(t, chance(t, 50) ? GUEST_STORE : GUEST_LOAD, r.first + i,
			  gen, false);
	e = begin_event(t, OP_FREE_GUEST, r.first, r.nr, gen);
	guest_run(t, false);
	for (i = 0; i < r.nr; i++)
		if (m->access[i].op == GUEST_LOAD)
			check_loose(r.first + i, m->access[i].word, "the guest", false);
	done(t, e);
	leave_gates(&r);
}

static void host_free(struct thread *t)
{
	struct run r = pick_run(t, KIND_FREE, 1);
	u64 word[NR_WORDS];
	struct event *e;
	bool ok;

	open_gates(&r);
	e = begin_event(t, OP_FREE_HOST, r.first, 1, next_gen());
	if (chance(t, 50)) {
		ok = host_store(r.first, e->gen);
	} else {
		ok = host_load(r.first, word);
		if (ok)
			check_loose(r.first, word, "the host", false);
	}
	if (ok)
		done(t, e);
	else
		end_event(e, EFAULT);
	leave_gates(&r);
}

static void pin_free(struct thread *t)
{
	pin_loose(t, KIND_FREE, OP_FREE_PIN);
}

static void punch_free(struct thread *t)
{
	struct run r = pick_run(t, KIND_FREE, 8);
	struct event *e;
	int err;

	if (!has_small_pages(r.first))
		r.first = w.nr_main + 2 * BLOCK_PAGES +
			  random_below(t, BLOCK_PAGES - r.nr + 1);
	open_gates(&r);
	e = begin_event(t, OP_FREE_PUNCH, r.first, r.nr, 0);
	err = punch_run(&r);
	if (err)
		fail(r.first, "punching: %s", strerror(err));
	done(t, e);
	leave_gates(&r);
}

/*
 * Threads
 */

struct choice {
	void (*fn)(struct thread *t);
	int weight;
};

static void pin_secret(struct thread *t)
{
	pin_loose(t, KIND_SECRET, OP_SECRET_PIN);
}

static const struct choice host_choices[] = {
	{ host_exact,		24 },
	{ convert_exact,	20 },
	{ convert_seam,		3 },
	{ pin_exact,		7 },
	{ unpin_exact,		6 },
	{ punch_exact,		3 },
	{ populate_exact,	2 },
	{ madv_exact,		4 },
	{ mlock_exact,		3 },
	{ dontneed_exact,	3 },
	{ fork_exact,		1 },
	{ host_secret,		20 },
	{ pin_secret,		5 },
	{ zap_secret,		2 },
	{ convert_free,		5 },
	{ host_free,		6 },
	{ pin_free,		2 },
	{ punch_free,		1 },
	{}
};

static const struct choice vcpu_choices[] = {
	{ guest_exact,		40 },
	{ guest_loose,		20 },
	{ guest_free,		15 },
	{ cycle_secret,		25 },
	{}
};

static void *do_choices(void *arg)
{
	struct thread *t = arg;
	const struct choice *choices = t->vcpu < 0 ? host_choices : vcpu_choices, *c;
	long sum = 0, n;

	for (c = choices; c->fn; c++)
		sum += c->weight;
	while (!READ_ONCE(w.stop)) {
		n = random_below(t, sum);
		for (c = choices; n >= c->weight; c++)
			n -= c->weight;
		c->fn(t);
	}
	reap_child(t, true);
	return NULL;
}

/* What the VM does with slots of ordinary memory; vCPUs write to slot 0 all the time. */
static void *do_other_slots(void *arg)
{
	struct userspace_mem_region *own = memslot2region(w.vm, 0);
	const u32 flags = own->region.flags;
	struct thread *t = arg;
	unsigned long *dirty;
	long nr_words, i;
	struct event *e;
	void *mem;

	nr_words = DIV_ROUND_UP(own->region.memory_size / SZ_4K, 64);
	dirty = calloc(nr_words, sizeof(*dirty));
	TEST_ASSERT(dirty, "no memory");
	mem = kvm_mmap(SZ_2M, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	while (!READ_ONCE(w.stop)) {
		e = begin_event(t, OP_DIRTY_LOG, 0, 0, 0);
		vm_mem_region_set_flags(w.vm, 0, flags | KVM_MEM_LOG_DIRTY_PAGES);
		usleep(random_below(t, 50000));
		kvm_vm_get_dirty_log(w.vm, 0, dirty);
		vm_mem_region_set_flags(w.vm, 0, flags);
		end_event(e, 0);
		for (i = 0; i < nr_words && !dirty[i]; i++)
			;
		t->done[OP_DIRTY_LOG] += i < nr_words;

		e = begin_event(t, OP_OTHER_SLOT, 0, 0, 0);
		vm_set_user_memory_region2(w.vm, OTHER_SLOT, 0, OTHER_GPA, SZ_2M, mem,
					   -1, 0);
		usleep(random_below(t, 5000));
		vm_set_user_memory_region2(w.vm, OTHER_SLOT, 0, OTHER_GPA, 0, mem, -1, 0);
		done(t, e);
		usleep(random_below(t, 50000));
	}
	kvm_munmap(mem, SZ_2M);
	free(dirty);
	return NULL;
}

static void print_file(const char *path, const char *what)
{
	char line[256];
	FILE *f = fopen(path, "r");

	if (!f)
		return;
	while (fgets(line, sizeof(line), f))
		ksft_print_msg("%s: %s", what, line);
	fclose(f);
}

/* Where tasks are in the kernel, and what the files wait for */
static void print_tasks(void)
{
	const struct dirent *d;
	char path[320];
	DIR *dir = opendir("/proc/self/task");
	int i;

	while (dir && (d = readdir(dir))) {
		if (d->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/proc/self/task/%s/stack", d->d_name);
		print_file(path, d->d_name);
	}
	if (dir)
		closedir(dir);
	for (i = 0; i < ARRAY_SIZE(w.fd); i++) {
		snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", w.fd[i]);
		print_file(path, "file");
	}
	print_file("/proc/meminfo", "memory");
	ksft_print_msg("vCPUs gave up on pages in use %ld times\n",
		       (long)READ_ONCE(nr_again_exits));
}

/* Is it in the guest, or does it fault? */
static void print_running(int i)
{
	struct kvm_vcpu *vcpu = w.vcpu[i];
	u64 exits = vcpu_get_stat(vcpu, exits), faults = vcpu_get_stat(vcpu, pf_taken);

	sleep(1);
	ksft_print_msg("vCPU %d: %llu exits and %llu page faults within a second\n", i,
		       (unsigned long long)vcpu_get_stat(vcpu, exits) - exits,
		       (unsigned long long)vcpu_get_stat(vcpu, pf_taken) - faults);
}

static void interrupt_vcpus(void)
{
	pid_t task;
	int i;

	for (i = 0; i < nr_vcpus; i++) {
		task = READ_ONCE(w.running[i].task);
		if (task && now() - w.running[i].since > LONG_RUN)
			tgkill(getpid(), task, SIGUSR1);
	}
}

/* What the thread does, NULL if nothing */
static const struct event *under_way(const struct thread *t)
{
	const struct event *e = &t->events[(t->nr_events - 1) % NR_EVENTS];

	return t->nr_events && !e->end ? e : NULL;
}

/* Tasks that wait for ever cannot tell. */
static void *watch(void *arg)
{
	const struct thread *t;
	const struct event *e;
	int i;

	while (now() < READ_ONCE(deadline)) {
		sleep(1);
		interrupt_vcpus();
	}
	for (t = threads; t < threads + nr_threads; t++) {
		e = under_way(t);
		if (e)
			ksft_print_msg("thread %d: %s, pages %ld to %ld, for %.1f s\n",
				       t->id, op_names[e->op], e->first,
				       e->first + e->nr - 1, now() - e->begin);
	}
	print_tasks();
	for (i = 0; i < nr_vcpus; i++)
		if (READ_ONCE(w.running[i].task))
			print_running(i);
	fail(-1, "stuck");
}

/* Something will be done for @seconds, and what is under way then ends. */
static void set_deadline(double seconds)
{
	WRITE_ONCE(deadline, now() + seconds + LONGEST_OP);
}

static void run_threads(double seconds)
{
	int i;

	set_deadline(seconds);
	WRITE_ONCE(w.stop, false);
	for (i = 0; i < nr_threads; i++)
		kvm_pthread_create(&threads[i].thread, NULL,
				   i == nr_threads - 1 ? do_other_slots :
				   i == nr_threads - 2 ? do_chores : do_choices,
				   &threads[i]);
	usleep(seconds * 1000000);
	WRITE_ONCE(w.stop, true);
	for (i = 0; i < nr_threads; i++)
		kvm_pthread_join(threads[i].thread, NULL);
}

/*
 * What is checked while no thread runs.  The main task has the first thread's vCPU.
 */

static void wait_for_merges(void)
{
	const double start = now();
	long n;

	while ((n = fdinfo(w.fd[0], "gmem-merges-pending")) > 0) {
		if (now() - start > MERGE_PATIENCE)
			fail(-1, "merges of %ld huge pages still pending after %d s", n,
			     MERGE_PATIENCE);
		usleep(100000);
	}
	if (n < 0 && w.page_size > SZ_4K)
		fail(-1, "fdinfo has no gmem-merges-pending");
}

/* Does fdinfo have as many private pages as the model?  Of free ones, any number */
static void check_fdinfo(void)
{
	long known[2], unknown[2], i, private, shared, size;
	int k;

	memset(known, 0, sizeof(known));
	memset(unknown, 0, sizeof(unknown));
	for (i = 0; i < w.nr_pages; i++) {
		k = !in_main(i);
		if (kind_of(i) == KIND_FREE)
			unknown[k]++;
		else
			known[k] += w.pages[i].private;
	}
	for (k = 0; k < 2; k++) {
		private = fdinfo(w.fd[k], "gmem-private") / 4;
		shared = fdinfo(w.fd[k], "gmem-shared") / 4;
		size = k ? SIDE_PAGES : w.nr_main;
		if (private + shared != size || private < known[k] ||
		    private > known[k] + unknown[k])
			fail(-1, "fdinfo: %ld private, %ld shared of %ld; model: %ld to %ld",
			     private, shared, size, known[k],
			     known[k] + unknown[k]);
	}
}

/* Could the guest have one mapping of these pages? */
static bool can_be_mapped(long first, long nr)
{
	int seen = -1;
	long i;

	if (first < w.split && first + nr > w.split)
		return false;
	for (i = first; i < first + nr; i++) {
		if (kind_of(i) == KIND_FREE)
			continue;
		if (seen < 0)
			seen = w.pages[i].private;
		else if (seen != w.pages[i].private)
			return false;
	}
	return true;
}

/* Have the guest read a page of each 2M. */
static void touch_areas(struct thread *t)
{
	struct mailbox *m = w.mailbox[t->vcpu];
	long i = 0;
	int k;

	while (i < w.nr_main) {
		guest_begin(t);
		for (; i < w.nr_main && m->nr < MAX_BATCH; i += AREA_PAGES)
			guest_add(t, GUEST_LOAD, i + random_below(t, AREA_PAGES), 0,
				  false);
		guest_run(t, true);
		for (k = 0; k < m->nr; k++)
			check_loose(m->access[k].page, m->access[k].word, "the guest",
				    false);
	}
}

/*
 * Make a huge page mixed that is one folio.  The host must not touch it, or it would
 * be split.  Then nothing but the attributes keeps the guest from mapping all of it.
 */
static void mix_folio(struct thread *t)
{
	const struct unit *u = pick_unit(t);
	const bool private = chance(t, 50);
	const struct run all = { u->first, u->nr };
	struct run part = { u->first + random_below(t, u->nr), 1 };

	if (chance(t, 50))
		part.nr += random_below(t, u->first + u->nr - part.first);

	punch_unit(t, u);
	t->hands_off = true;
	convert(t, BY_FILE, private ? OP_UNIT_PRIVATE : OP_UNIT_SHARED, &all, 1, private);
	convert(t, BY_FILE, private ? OP_FD_SHARED : OP_FD_PRIVATE, &part, 1, !private);
	t->hands_off = false;
}

/* No mapping of the guest spans private and shared pages. */
static void check_mappings(struct thread *t)
{
	long i, nr_1g = 0, nr_2m = 0, have_1g, have_2m;

	mix_folio(t);
	touch_areas(t);
	for (i = 0; i < w.nr_main; i += AREA_PAGES)
		nr_2m += can_be_mapped(i, AREA_PAGES);
	for (i = 0; i < w.nr_units; i++)
		nr_1g += w.page_size == SZ_1G &&
			 can_be_mapped(w.units[i].first, w.units[i].nr);

	have_1g = vm_get_stat(w.vm, pages_1g);
	have_2m = vm_get_stat(w.vm, pages_2m);
	if (have_1g > nr_1g || have_2m > nr_2m)
		fail(-1, "guest mappings: %ld of 1G, %ld of 2M; allowed: %ld and %ld",
		     have_1g, have_2m, nr_1g, nr_2m);
}

/* Compare exact pages that have been written to, about every nth of them. */
static void check_contents(struct thread *t, long step, bool host)
{
	struct mailbox *m = w.mailbox[t->vcpu];
	long i = 0;
	int k;

	while (i < w.nr_pages) {
		guest_begin(t);
		for (; i < w.nr_pages && m->nr < MAX_BATCH; i++) {
			if (kind_of(i) != KIND_EXACT || !w.pages[i].gen ||
			    random_below(t, step))
				continue;
			guest_add(t, GUEST_LOAD, i, 0, false);
			if (host)
				check_by_host(i, "in the end");
		}
		if (!m->nr)
			break;
		guest_run(t, true);
		for (k = 0; k < m->nr; k++)
			check_words(m->access[k].page, m->access[k].word,
				    "the guest, in the end,");
	}
}

/* Have the guest read all pages, of @r in one memslot. */
static void scan_run(struct thread *t, long first, long nr, bool zero)
{
	struct mailbox *m = w.mailbox[t->vcpu];
	struct guest_access *a;
	int i;

	if (!nr)
		return;
	guest_begin(t);
	a = guest_add(t, GUEST_SCAN, first, zero, false);
	a->nr = nr;
	guest_run(t, true);
	if (a->page == first + nr)
		return;
	for (i = 0; i < NR_WORDS; i++)
		if (zero ? a->word[i] : !tag_fits(a->page, i, a->word[i]))
			break;
	fail_data(a->page, i, m->access[0].word[i % NR_WORDS], "the guest",
		  zero ? "in a hole" : "which is not this page's");
}

static void scan_all(struct thread *t, bool zero)
{
	scan_run(t, 0, w.split, zero);
	scan_run(t, w.split, w.nr_main - w.split, zero);
	scan_run(t, w.nr_main, SIDE_PAGES, zero);
}

static void convert_all(struct thread *t, bool private)
{
	const struct run r[] = {
		{ 0, w.nr_main },
		{ w.nr_main, SIDE_PAGES },
	};
	const double start = now();
	int i;

	/* Pages that are not exact have no user any more, either. */
	for (i = 0; i < 2; i++)
		while (convert(t, BY_FILE, private ? OP_UNIT_PRIVATE : OP_UNIT_SHARED,
			       &r[i], 1, private)) {
			if (now() - start > PATIENCE)
				fail(r[i].first, "cannot become private as a whole in %d s",
				     PATIENCE);
			usleep(10000);
		}
}

static void munlock_all(void)
{
	long i;

	TEST_ASSERT(!munlock(w.hva, w.nr_pages * SZ_4K), "munlock() failed: %s",
		    strerror(errno));
	for (i = 0; i < w.nr_blocks; i++)
		w.blocks[i].mlocked = false;
}

/* All is private: once it has been merged, the guest's mappings are as large as ever. */
static void check_recovery(struct thread *t)
{
	const bool is_split = w.split < w.nr_main;
	long want_1g = 0, want_2m = 0, have_1g, have_2m;
	double start;

	wait_for_merges();
	if (w.page_size == SZ_2M) {
		want_2m = w.nr_units - is_split;
	} else if (w.page_size == SZ_1G) {
		want_1g = w.nr_units - is_split;
		want_2m = is_split ? SZ_1G / SZ_2M : 0;
	}

	scan_all(t, false);
	for (start = now(); ; usleep(100000)) {
		have_1g = vm_get_stat(w.vm, pages_1g);
		have_2m = vm_get_stat(w.vm, pages_2m);
		if (have_1g == want_1g && have_2m == want_2m)
			return;
		if (now() - start > PATIENCE)
			fail(-1, "guest mappings: %ld of 1G, %ld of 2M; wanted: %ld and %ld",
			     have_1g, have_2m, want_1g, want_2m);
	}
}

static void check_stopped(struct thread *t)
{
	set_deadline(0);
	check_fdinfo();
	if (w.page_size > SZ_4K)
		check_mappings(t);
	check_contents(t, w.page_size == SZ_1G ? 4 : 1, false);
}

static void check_private(struct thread *t)
{
	double start = now();

	set_deadline(MERGE_PATIENCE);
	unpin_all(t);
	munlock_all();
	convert_all(t, true);
	check_fdinfo();
	check_recovery(t);
	check_contents(t, 1, true);
	ksft_print_msg("%s: all is private and merged after %.1f s\n", w.size_name,
		       now() - start);
}

/* What has been punched is zero when it comes back. */
static void check_holes(struct thread *t)
{
	const struct run all[] = {
		{ 0, w.nr_main },
		{ w.nr_main, SIDE_PAGES },
	};
	int i, err;

	for (i = 0; i < 2; i++) {
		err = punch_run(&all[i]);
		if (err)
			fail(all[i].first, "punching all: %s", strerror(err));
		model_punch(&all[i]);
	}
	scan_all(t, true);
}

static long read_mlocked(void)
{
	char line[128];
	long kb = -1;
	FILE *f;

	f = fopen("/proc/meminfo", "r");
	TEST_ASSERT(f, "no /proc/meminfo");
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "Mlocked: %ld", &kb) == 1)
			break;
	fclose(f);
	return kb;
}

/*
 * Setting up
 */

static enum block_kind choose_kind(long block)
{
	static const enum block_kind side[] = { KIND_EXACT, KIND_SECRET, KIND_FREE, KIND_EXACT };
	const long area = block / (AREA_PAGES / BLOCK_PAGES);

	if (block >= w.nr_main / BLOCK_PAGES)
		return side[block - w.nr_main / BLOCK_PAGES];

	/* Of four areas of 2M one is exact, and two have no free pages. */
	if (area % 4 == 3)
		return KIND_EXACT;
	switch (block % 8) {
	case 2:
	case 6:
		return KIND_SECRET;
	case 5:
		return area % 2 ? KIND_EXACT : KIND_FREE;
	}
	return KIND_EXACT;
}

static void add_hot(long first, long nr)
{
	long i;

	for (i = first; i < first + nr; i++) {
		enum block_kind kind = w.blocks[i].kind;

		w.hot[kind][w.nr_hot[kind]++] = i;
	}
}

/* All blocks are, unless there are many: then those of a few areas */
static void choose_hot(void)
{
	const long main_blocks = w.nr_main / BLOCK_PAGES;
	const long per_unit = main_blocks / w.nr_units;
	struct thread *t = &threads[0];
	long i;

	for (i = 0; i < NR_KINDS; i++) {
		w.hot[i] = calloc(w.nr_blocks, sizeof(long));
		TEST_ASSERT(w.hot[i], "no memory");
		w.nr_hot[i] = 0;
	}
	if (w.page_size == SZ_1G) {
		for (i = 0; i < w.nr_units; i++) {
			add_hot(i * per_unit, 8);
			add_hot(i * per_unit + 16 + 8 * random_below(t, per_unit / 8 - 4),
				8);
			add_hot(i * per_unit + per_unit - 8, 8);
		}
	} else {
		add_hot(0, main_blocks);
	}
	add_hot(main_blocks, w.nr_blocks - main_blocks);
}

static void set_up_model(const bool *shared)
{
	long i;

	w.pages = calloc(w.nr_pages, sizeof(*w.pages));
	w.blocks = calloc(w.nr_blocks, sizeof(*w.blocks));
	TEST_ASSERT(w.pages && w.blocks, "no memory");
	for (i = 0; i < w.nr_pages; i++)
		w.pages[i].private = !shared[!in_main(i)];
	for (i = 0; i < w.nr_blocks; i++) {
		init_rwlock(&w.blocks[i].lock);
		w.blocks[i].kind = choose_kind(i);
	}
	for (i = 0; i < w.nr_units; i++)
		w.units[i] = (struct unit) {
			.first = i * (w.nr_main / w.nr_units),
			.nr = w.nr_main / w.nr_units,
		};
	w.units[w.nr_units] = (struct unit) {
		.first = w.nr_main,
		.nr = SIDE_PAGES,
	};
	for (i = 0; i <= w.nr_units; i++)
		init_rwlock(&w.units[i].gate);
	for (i = 0; i < NR_PINS; i++)
		open_pin(&w.pins[i]);
	choose_hot();
	w.quiet = NULL;
}

static void free_model(void)
{
	int i;

	for (i = 0; i < NR_KINDS; i++)
		free(w.hot[i]);
	for (i = 0; i < NR_PINS; i++)
		close_pin(&w.pins[i]);
	free(w.blocks);
	free(w.pages);
}

static void bind(int slot, long first, long nr)
{
	if (nr)
		vm_set_user_memory_region2(w.vm, slot, KVM_MEM_GUEST_MEMFD,
					   gpa_of(first), nr * SZ_4K, hva_of(first),
					   fd_of(first), file_offset(first));
}

static void set_up_vm(void)
{
	const struct vm_shape shape = {
		.mode = VM_MODE_DEFAULT,
		.type = KVM_X86_SW_PROTECTED_VM,
	};
	struct userspace_mem_region *region;
	int i;

	w.vm = __vm_create_with_vcpus(shape, nr_vcpus, 0, guest_code, w.vcpu);
	virt_map_level(w.vm, TEST_GPA, TEST_GPA, 4ULL * SZ_1G, PG_LEVEL_1G);
	for (i = 0; i < nr_vcpus; i++) {
		vcpu_args_set(w.vcpu[i], 1, i);
		w.mailbox[i] = addr_gva2hva(w.vm, (gva_t)&mailboxes[i]);
	}

	/* A child need not have the guest's own memory, copied when it changes. */
	region = memslot2region(w.vm, 0);
	madvise(region->mmap_start, region->mmap_size, MADV_DONTFORK);
}

static void set_up_files(const bool *shared)
{
	const u64 huge = w.page_size == SZ_4K ? 0 :
			 hugetlb_flags(__builtin_ctzl(w.page_size));
	const size_t size[] = { w.nr_main * SZ_4K, SIDE_PAGES * SZ_4K };
	int i;

	for (i = 0; i < 2; i++)
		w.fd[i] = vm_create_guest_memfd(w.vm, size[i], GUEST_MEMFD_FLAG_MMAP |
			(i ? 0 : huge) |
			(shared[i] ? GUEST_MEMFD_FLAG_INIT_SHARED : 0));

	w.hva = kvm_mmap(size[0] + size[1], PROT_NONE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
	TEST_ASSERT(mmap(w.hva, size[0], PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_FIXED, w.fd[0], 0) == w.hva &&
		    mmap(w.hva + size[0], size[1], PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_FIXED, w.fd[1], 0) == w.hva + size[0],
		    "cannot map the files: %s", strerror(errno));

	bind(MAIN_SLOT, 0, w.split);
	bind(TAIL_SLOT, w.split, w.nr_main - w.split);
	bind(SIDE_SLOT, w.nr_main, SIDE_PAGES);
}

static void set_up_threads(void)
{
	int i;

	nr_threads = nr_vcpus + NR_OTHERS;
	for (i = 0; i < nr_threads; i++) {
		struct thread *t = &threads[i];

		free(t->events);
		memset(t, 0, sizeof(*t));
		t->id = i;
		t->vcpu = i < nr_vcpus ? i : -1;
		t->rng = seed * 1000003 + i * 0x1234567ULL + w.page_size;
		t->events = calloc(NR_EVENTS, sizeof(*t->events));
		TEST_ASSERT(t->events, "no memory");
	}
	nr_fault_exits = 0;
	nr_again_exits = 0;
	nr_transient = 0;
	longest_transient = 0;
}

/*
 * Results
 */

static u64 sum_done(enum op_kind op)
{
	u64 n = 0;
	int i;

	for (i = 0; i < nr_threads; i++)
		n += threads[i].done[op];
	return n;
}

static bool can_happen(enum op_kind op)
{
	switch (op) {
	case OP_PIN:
		return have_gup;
	case OP_SEAM:
		return w.split < w.nr_main;
	case OP_UNIT_QUIET:
	case OP_UNIT_MERGED:
		return w.page_size > SZ_4K;
	default:
		return true;
	}
}

/* How many kinds of operations have never happened, or never succeeded */
static int nr_missing(void)
{
	int op, n = 0;

	for (op = 0; op < NR_OPS; op++)
		n += can_happen(op) && !sum_done(op);
	return n;
}

static void report(double seconds)
{
	u64 again;
	int op, i;

	ksft_print_msg("%-28s %9s %9s %9s\n", "operation", "done", "per s", "again");
	for (op = 0; op < NR_OPS; op++) {
		if (!can_happen(op))
			continue;
		for (again = i = 0; i < nr_threads; i++)
			again += threads[i].again[op];
		ksft_print_msg("%-28s %9llu %9.1f %9llu%s\n", op_names[op],
			       (unsigned long long)sum_done(op),
			       sum_done(op) / seconds, (unsigned long long)again,
			       sum_done(op) ? "" : "  never!");
	}
	ksft_print_msg("refused without a user: %llu times, for %.1f ms at most\n",
		       (unsigned long long)nr_transient, longest_transient * 1000);
	ksft_print_msg("vCPUs gave up on pages that changed: %llu times, in use: %llu times\n",
		       (unsigned long long)nr_fault_exits,
		       (unsigned long long)nr_again_exits);
	if (nr_missing())
		fail(-1, "%d kinds of operations never succeeded in %.1f s",
		     nr_missing(), seconds);
}

/* Why pages of that size cannot be tested, or NULL */
static const char *choose_size(size_t page_size)
{
	long avail;

	read_pool(page_size, &w.pool);
	w.page_size = page_size;
	w.nr_units = 2;
	w.nr_main = 2 * AREA_PAGES;
	if (page_size > SZ_4K) {
		if (!(kvm_check_cap(KVM_CAP_GUEST_MEMFD_HUGETLB) &
		      page_size / SZ_4K))
			return "no huge pages of that size";
		avail = w.pool.free - w.pool.resv;
		if (avail < 1)
			return "no free huge pages of that size";
		w.nr_units = min(avail, page_size == SZ_1G ? 2L : MAX_UNITS);
		w.nr_main = w.nr_units * (page_size / SZ_4K);
	}
	w.split = w.nr_main;
	if (w.nr_units > 1)
		w.split -= w.nr_main / w.nr_units / 2;
	w.nr_pages = w.nr_main + SIDE_PAGES;
	w.nr_blocks = w.nr_pages / BLOCK_PAGES;
	return NULL;
}

static void test_size(double seconds)
{
	const bool shared[2] = { seed & 1, seed & 2 };
	struct thread *t = &threads[0];
	double round = FIRST_ROUND, start = now(), left, ran = 0;
	int i, n;

	set_deadline(0);
	w.mlocked = read_mlocked();
	set_up_threads();
	set_up_vm();
	set_up_model(shared);
	set_up_files(shared);
	check_stopped(t);

	/* A fault is to be found soon; later on let pages be merged now and then. */
	for (n = 1; ran < seconds || (nr_missing() && ran < 10 * seconds); n++) {
		left = seconds - ran;
		if (left > 0 && left < round * 1.5)
			round = left;
		run_threads(round);
		ran += round;
		check_stopped(t);
		if (n % 5 == 0 && ran < seconds)
			check_private(t);
		round = min(round * 2, LONGEST_ROUND);
	}
	check_private(t);
	set_deadline(0);
	convert_all(t, false);
	check_fdinfo();
	check_contents(t, 1, true);
	convert_all(t, true);
	check_holes(t);

	set_deadline(0);
	kvm_munmap(w.hva, w.nr_pages * SZ_4K);
	for (i = 0; i < 2; i++)
		close(w.fd[i]);
	kvm_vm_free(w.vm);
	if (!pool_same_soon(w.page_size, &w.pool))
		fail(-1, "the pool is not as it was before");
	/* Fewer, if batches of a process that ended before are drained by now */
	for (i = 0; read_mlocked() > w.mlocked; i++) {
		if (i > PATIENCE * 10)
			fail(-1, "mlocked are %ld kB, were %ld", read_mlocked(),
			     w.mlocked);
		usleep(100000);
	}
	ksft_print_msg("%s: %.0f s, %.0f of them with %d vCPUs and %d other threads\n",
		       w.size_name, now() - start, ran, nr_vcpus, NR_OTHERS);
	report(ran);
	set_deadline(0);
	free_model();
	ksft_test_result_pass("pages of %s\n", w.size_name);
}

static void usage(const char *name)
{
	puts("");
	printf("Usage: %s [-h] [-s seed] [-t seconds] [-p page_size] [-v vcpus]\n",
	       name);
	puts("");
	printf(" -h: Display this help message.\n");
	printf(" -s: specify the seed of what the threads do.\n"
	       "     (default: another one each time; it is printed)\n");
	printf(" -t: specify how long the threads run, in seconds, for all page\n"
	       "     sizes together.  Checks come on top of that; and as much time\n"
	       "     again, up to ten times, as it takes for each operation to have\n"
	       "     succeeded.\n"
	       "     (default: 45)\n");
	printf(" -p: specify the page size, one of 4K, 2M and 1G.\n"
	       "     (default: one after the other)\n");
	printf(" -v: specify the number of vCPUs to run, up to %d.\n"
	       "     (default: 2)\n", MAX_VCPUS);
	puts("");
	exit(0);
}

int main(int argc, char *argv[])
{
	static const struct {
		size_t size;
		const char *name;
		int share;	/* of the time */
	} sizes[] = {
		{ SZ_4K, "4K", 1 },
		{ SZ_2M, "2M", 1 },
		{ SZ_1G, "1G", 2 },
	};
	struct sigaction sa = {
		.sa_handler = handle_sigbus,
		.sa_flags = SA_NODEFER,
	};
	const char *reason;
	double seconds = 45;
	pthread_t watchdog;
	size_t only = 0;
	int opt, i;

	seed = time(NULL) * 1000003ULL ^ getpid();
	while ((opt = getopt(argc, argv, "hs:t:p:v:")) != -1) {
		switch (opt) {
		case 's':
			seed = strtoull(optarg, NULL, 0);
			break;
		case 't':
			seconds = atoi_positive("Seconds", optarg);
			break;
		case 'p':
			only = parse_size(optarg);
			TEST_ASSERT(only == SZ_4K || only == SZ_2M || only == SZ_1G,
				    "the page size is to be 4K, 2M or 1G");
			break;
		case 'v':
			nr_vcpus = atoi_positive("Number of vCPUs", optarg);
			TEST_ASSERT(nr_vcpus <= MAX_VCPUS, "no more than %d vCPUs",
				    MAX_VCPUS);
			break;
		case 'h':
		default:
			usage(argv[0]);
		}
	}

	TEST_REQUIRE(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(KVM_X86_SW_PROTECTED_VM));
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES));

	have_gup = !access("/sys/kernel/debug/gup_test", R_OK | W_OK);
	mem_fd = open_path_or_exit("/proc/self/mem", O_RDONLY);
	child_report = kvm_mmap(sizeof(*child_report), PROT_READ | PROT_WRITE,
				MAP_SHARED | MAP_ANONYMOUS, -1);
	sigaction(SIGBUS, &sa, NULL);
	signal(SIGUSR1, interrupt);
	setvbuf(stdout, NULL, _IOLBF, 0);

	started = now();
	set_deadline(0);
	kvm_pthread_create(&watchdog, NULL, watch, NULL);

	ksft_print_header();
	ksft_set_plan(only ? 1 : ARRAY_SIZE(sizes));
	ksft_print_msg("seed 0x%llx\n", (unsigned long long)seed);
	if (!have_gup)
		ksft_print_msg("pins are pipes: no access to gup_test in debugfs\n");
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		if (only && only != sizes[i].size)
			continue;
		w.size_name = sizes[i].name;
		reason = choose_size(sizes[i].size);
		if (reason)
			ksft_test_result_skip("pages of %s: %s\n", sizes[i].name,
					      reason);
		else
			test_size(only ? seconds : seconds * sizes[i].share / 4);
	}
	ksft_finished();
}
