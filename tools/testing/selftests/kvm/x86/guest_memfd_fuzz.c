// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fuzz guest_memfd as a userspace would that means no good.
 *
 * Threads call what there is to be called, in any order and with odd arguments, on
 * files with pages of 4K, 2M and 1G, of two VMs with private memory and one without:
 * the ioctls of KVM, memory mappings, and what takes a file descriptor.  They fork,
 * and hand files to a process without any privilege.  VMMs are killed in between.
 * There is no model of what a page has to contain: that is the business of
 * guest_memfd_conversions_stress.  What has to hold whatever the threads do is:
 *
 *  - A page never shows data of another VM.  All that is written are tags, which name
 *    the VM, and where it is known the file and the page.  A word of a page is such a
 *    tag or 0.
 *  - The host never sees what a guest has written to private memory.  Parts of a few
 *    files, the vaults, are shared by their keeper only, a vCPU that takes its secrets
 *    away before.  All others use them as they use any other page, but do not share
 *    them.
 *  - A system call fails with an error that is documented for it, and does not succeed
 *    where the documentation says that it fails.
 *  - No call takes longer than a few minutes, no process dies of a signal, the kernel
 *    has not warned, and when the processes are gone the pools have their pages back.
 *
 * The work is done in rounds.  A round has processes, VMs and files of its own.  What
 * a thread does in its n-th step depends on the seed, the page size, the number of the
 * round, the thread and n, and on nothing else; when it does it is up to the scheduler.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <grp.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/kcov.h>
#include <linux/mempolicy.h>
#include <linux/sizes.h>
#include <linux/userfaultfd.h>

#include "guest_memfd_conversions.h"
#include "kvm_util.h"
#include "processor.h"
#include "ucall_common.h"

#define NR_VMS		3	/* the last one has no private memory */
#define NR_FILES	8	/* file n is of VM n % NR_VMS; the first ones are its anchor */
#define NR_SLOTS	6	/* memslots that change, beside that of the anchor */
#define NR_PIPES	6
#define NR_KEPT		4	/* files that the process without privilege has at once */
#define MAX_HOST	16
#define NR_GUEST	(2 * NR_VCPUS + 1)
#define MAX_THREADS	(NR_GUEST + MAX_HOST)

/* Of a log: the threads, their children, and the process without privilege */
#define STRANGER	(2 * MAX_THREADS)
#define NR_TASKS	(2 * MAX_THREADS + 1)

/* A round with pages of 1G takes long to begin, until they are cleared. */
#define STEPS_PER_ROUND	(page_size == SZ_1G ? 1000 : 400)
#define NR_RECORDS	32
#define MAX_ERRNO	134

/* Seconds */
#define LONGEST_STEP	300
#define ROUND_PATIENCE	600	/* from its last step to its end */
#define PATIENCE	20	/* until a page is private that nothing uses */
#define MERGE_PATIENCE	200
#define PIN_TIME	0.3	/* a page stays in a pipe, at least */
#define POKE_AFTER	1.5	/* a step gets a signal */

/* Descriptors of the files: a step may meet another file there, but nothing else. */
#define FD_BASE		200
#define FD_DUP		300

/* Addresses.  The kernel puts mappings elsewhere by itself. */
#define ARENA		0x100000000000UL
#define WINDOW_SIZE	(4UL * SZ_1G)
#define SCRATCH_SIZE	SZ_16M

/* Guest-physical addresses */
#define ANCHOR_GPA	TEST_GPA
#define ZONE_GPA	(TEST_GPA + 2ULL * SZ_1G)
#define ZONE_SIZE	((u64)NR_SLOTS * SZ_1G)
#define FIRST_SLOT	(TEST_SLOT + 1)

/* Of each 64 pages of an anchor the last 16 are a vault. */
#define GRANULE		64UL
#define VAULT_FIRST	48UL
#define VAULT_PAGES	(GRANULE - VAULT_FIRST)
#define NR_VAULTS	12

#define MAX_POISON	8

/* Advices of madvise() that headers may lack */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ	22
#define MADV_POPULATE_WRITE	23
#endif
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED	24
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE		25
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL	102
#define MADV_GUARD_REMOVE	103
#endif

/* Ioctls of regular files, which no header for userspace has */
struct space_resv {
	s16 l_type;
	s16 l_whence;
	s64 l_start;
	s64 l_len;
	s32 l_sysid;
	u32 l_pid;
	s32 l_pad[4];
};

#define FS_IOC_RESVSP		_IOW('X', 40, struct space_resv)
#define FS_IOC_UNRESVSP		_IOW('X', 41, struct space_resv)

/*
 * Tags.  A page has NR_WORDS of them, the rest of it stays zero.
 */

#define NR_WORDS	4
#define WORD_STRIDE	1032

#define TAG_MAGIC	0xc7ULL
#define TAG_SECRET	BIT_ULL(55)
#define TAG_EXACT	BIT_ULL(54)	/* names the file and the page */
#define TAG_VM(serial)	((u64)((serial) & 0x3fff) << 40)
#define TAG_FILE(s)	((u64)((s) & 0xfff) << 28)
#define TAG_INDEX(i)	((u64)(i) & 0xfffffff)

static u64 loose_tag(u32 vm, u64 number)
{
	return TAG_MAGIC << 56 | TAG_VM(vm) | TAG_INDEX(number);
}

static u64 exact_tag(u32 vm, u32 file, u64 index)
{
	return TAG_MAGIC << 56 | TAG_EXACT | TAG_VM(vm) | TAG_FILE(file) |
	       TAG_INDEX(index);
}

/* What a word may be: 0, or a tag of the VM; exact ones of @file and @index if known */
struct expected {
	u32 vm;
	u32 file;		/* serial number; 0: not known */
	s64 index;		/* negative: not known */
	bool secrets;
};

static const char *wrong_word(u64 word, const struct expected *x)
{
	if (!word)
		return NULL;
	if (word >> 56 != TAG_MAGIC)
		return "no tag";
	if ((word & TAG_VM(~0U)) != TAG_VM(x->vm))
		return "of another VM";
	if ((word & TAG_SECRET) && !x->secrets)
		return "a secret";
	if (!(word & TAG_EXACT))
		return NULL;
	if (x->file && (word & TAG_FILE(~0U)) != TAG_FILE(x->file))
		return "of another file";
	if (x->index >= 0 && (word & TAG_INDEX(~0ULL)) != TAG_INDEX(x->index))
		return "of another page";
	return NULL;
}

static u64 *word_at(void *page, int i)
{
	return page + i * WORD_STRIDE;
}

/*
 * The guest
 */

enum access_kind {
	ACCESS_LOAD,
	ACCESS_STORE,
	ACCESS_SCAN,	/* first words of many pages: count those that are not of the VM */
};

struct access {
	u64 kind;
	u64 gva;
	u64 nr;			/* of a scan: pages, and how far apart they are */
	u64 stride;
	u64 vm;
	u64 word[NR_WORDS];
};

#define MAX_BATCH	16

struct mailbox {
	u64 nr;
	u64 done;
	struct access access[MAX_BATCH];
};

static struct mailbox mailboxes[NR_VCPUS];

static void guest_scan(struct access *a)
{
	u64 i, word;

	a->word[1] = 0;
	for (i = 0; i < a->nr; i++) {
		word = READ_ONCE(*(u64 *)(a->gva + i * a->stride));
		if (!word || (word & ~(TAG_EXACT | TAG_SECRET | 0xffffffffffULL)) == a->vm)
			continue;
		a->word[0] = word;
		a->word[1]++;
	}
}

static void guest_code(int vcpu)
{
	struct mailbox *m = &mailboxes[vcpu];
	u64 n;
	int i;

	for (;;) {
		for (n = 0; n < READ_ONCE(m->nr); n++) {
			struct access *a = &m->access[n];

			switch (READ_ONCE(a->kind)) {
			case ACCESS_LOAD:
				for (i = 0; i < NR_WORDS; i++)
					a->word[i] = READ_ONCE(*word_at((void *)a->gva, i));
				break;
			case ACCESS_STORE:
				for (i = 0; i < NR_WORDS; i++)
					WRITE_ONCE(*word_at((void *)a->gva, i), a->word[i]);
				break;
			case ACCESS_SCAN:
				guest_scan(a);
				break;
			}
			WRITE_ONCE(m->done, n + 1);
		}
		ucall_arch_do_ucall(0);
	}
}

/*
 * What all processes of the test have in common
 */

enum seen {
	SEEN_SIGBUS,
	SEEN_TAG_BY_HOST,
	SEEN_TAG_BY_GUEST,
	SEEN_SECRET,
	SEEN_BUSY,
	SEEN_STRANGER,
	SEEN_CHILD,
	SEEN_MERGED,
	SEEN_KILLED,
	SEEN_FAULT_EXIT,
	SEEN_AGAIN_EXIT,
	SEEN_MMIO,
	SEEN_POKE,
	SEEN_ROUND,
	NR_SEEN
};

static const char * const seen_names[NR_SEEN] = {
	[SEEN_SIGBUS] = "touches of the host that were refused",
	[SEEN_TAG_BY_HOST] = "words that the host has read, not 0",
	[SEEN_TAG_BY_GUEST] = "words that a guest has read, not 0",
	[SEEN_SECRET] = "vaults with secrets that were emptied and shared",
	[SEEN_BUSY] = "conversions refused, a page in use",
	[SEEN_STRANGER] = "steps of the process without privilege",
	[SEEN_CHILD] = "children",
	[SEEN_MERGED] = "files that were split and have become whole",
	[SEEN_KILLED] = "rounds that ended by SIGKILL",
	[SEEN_FAULT_EXIT] = "KVM_RUN: memory faults",
	[SEEN_AGAIN_EXIT] = "KVM_RUN: waited in vain",
	[SEEN_MMIO] = "KVM_RUN: MMIO",
	[SEEN_POKE] = "signals for steps that took long",
	[SEEN_ROUND] = "rounds",
};

#define MAX_OPS		64

struct record {
	u64 n;
	double begin;
	double end;		/* 0: not yet */
	int op;
	int result;
	u64 arg[4];
};

struct task_log {
	pid_t tid;
	u64 nr;
	struct record record[NR_RECORDS];
};

#define NR_PCS		65536
#define MAX_TEXT	512

struct shared {
	bool failed;
	bool told;		/* @text is complete */
	bool stop;
	pid_t failed_pid;
	char text[MAX_TEXT + 64];
	u32 nr_vms;		/* ever */
	u32 nr_poisoned;
	struct task_log log[NR_TASKS];
	u64 done[MAX_OPS][MAX_ERRNO];
	u64 seen[NR_SEEN];
	u64 nr_pcs;
	u64 pc[NR_PCS];
};

static struct shared *s;

static u64 seed;
static size_t page_size;	/* most files of the round have these */
static const char *size_name;
static u32 round_nr;
static u64 round_key;
static int nr_host = 3;
static bool with_kcov, with_poison, verbose, have_policies;
static double longest_step = LONGEST_STEP;
static u64 huge_sizes;		/* bit n: there is a pool of pages of 2^n bytes */
static size_t default_huge;
static const char *plant = "";

static void saw_many(enum seen what, u64 n)
{
	__atomic_add_fetch(&s->seen[what], n, __ATOMIC_RELAXED);
}

static void saw(enum seen what)
{
	saw_many(what, 1);
}

static bool planted(const char *what)
{
	return !strcmp(plant, what);
}

/* Scatter a number over all 64 bits. */
static u64 hash(u64 x)
{
	x ^= x >> 33;
	x *= 0xff51afd7ed558ccdULL;
	x ^= x >> 33;
	x *= 0xc4ceb9fe1a85ec53ULL;
	return x ^ x >> 33;
}

static u64 hash_with(u64 key, u64 x)
{
	return hash(key + hash(x + 0x632be59bd9b4e019ULL));
}

/*
 * Files and VMs
 */

struct gfile {
	int idx;
	int vm;			/* index */
	size_t page_size;
	u64 size;
	bool vault;		/* parts of it must not become shared */
	u8 *window;		/* where the file is mapped, from its first page on */

	/*
	 * Held for reading, the file is the same, and so is what the window shows, as
	 * far as it shows anything.  Incarnations have different serial numbers, also
	 * from those of other files.  0: there is no file, or no mapping of one.
	 */
	pthread_rwlock_t lock;
	int fd;
	u32 serial;
	u32 last_serial;
	u64 flags;
	u32 mapped;
};

struct vm {
	struct kvm_vm *vm;
	u32 serial;
	bool private;
	int nr_vcpus;
	struct kvm_vcpu *vcpu[NR_VCPUS];
	struct mailbox *mailbox[NR_VCPUS];
	struct kvm_regs start[NR_VCPUS];
	u8 *anon;		/* memory elsewhere, as large as the zone */
	u64 plain[NR_SLOTS][2];	/* the last userspace_addr and size of a memslot */
};

enum vault_state { VAULT_EMPTY, VAULT_FULL, VAULT_SHARED };

static struct gfile files[NR_FILES];
static struct vm vms[NR_VMS];
static int kvm_fd, mem_fd, pagemap_fd, stranger_fd;

struct pin {
	pthread_mutex_t lock;
	int fd[2];
	double since;		/* 0: empty */
	struct expected expected;
};

static struct pin pins[NR_PIPES];

/* A thread, a child of one, or the process without privilege */
struct task {
	int id;
	struct task_log *log;
	struct record *rec;
	u64 n;			/* the step */
	u64 key;		/* of its random numbers */
	u64 nr_draws;
	int op;

	bool child;
	bool stranger;
	struct vm *vm;		/* of a vCPU */
	int vcpu;
	pid_t vmm;		/* of the stranger */

	struct gfile *files;
	int nr_files;
	u8 *scratch;
	u8 *buf;
	int memfd;
	int dup_fd;
	enum vault_state vault[NR_VAULTS];
	u64 *kcov;
	pthread_t thread;
	bool ended;
};

static struct task tasks[MAX_THREADS];
static int nr_threads;

/* 0 to n - 1; each step has its own sequence */
static u64 rnd(struct task *t, u64 n)
{
	return hash_with(t->key, t->nr_draws++) % n;
}

static u64 rnd64(struct task *t)
{
	return hash_with(t->key, t->nr_draws++);
}

static bool chance(struct task *t, int percent)
{
	return rnd(t, 100) < percent;
}

/* A number of any magnitude */
static u64 odd_number(struct task *t)
{
	static const u64 numbers[] = {
		0, 1, 511, SZ_4K - 1, SZ_4K, SZ_4K + 1, SZ_2M, SZ_1G, SZ_1G + SZ_4K,
		1ULL << 40, 1ULL << 62, 1ULL << 63, -1ULL, -(u64)SZ_4K, -(u64)SZ_2M,
		-(u64)SZ_1G, 0x7fffffffffffffffULL, 0x7ffffffffffff000ULL,
	};
	const u64 any = rnd64(t), shift = rnd(t, 64), which = rnd(t, 32);

	return which < ARRAY_SIZE(numbers) ? numbers[which] : any >> shift;
}

/*
 * Failing
 */

static void __printf(2, 3) __noreturn fail(struct task *t, const char *fmt, ...)
{
	bool no = false;
	va_list ap;

	if (__atomic_compare_exchange_n(&s->failed, &no, true, false, __ATOMIC_SEQ_CST,
					__ATOMIC_SEQ_CST)) {
		char text[MAX_TEXT];

		va_start(ap, fmt);
		vsnprintf(text, sizeof(text), fmt, ap);
		va_end(ap);
		s->failed_pid = getpid();
		snprintf(s->text, sizeof(s->text), "task %d, step %lu: %s", t ? t->id : -1,
			 t ? t->n : 0, text);
		WRITE_ONCE(s->told, true);
	}
	_exit(KSFT_FAIL);
}

/* What the step is about, for the log */
static void note(struct task *t, u64 a, u64 b, u64 c, u64 d)
{
	t->rec->arg[0] = a;
	t->rec->arg[1] = b;
	t->rec->arg[2] = c;
	t->rec->arg[3] = d;
}

static void count_result(struct task *t, int err)
{
	t->rec->result = err;
	__atomic_add_fetch(&s->done[t->op][min(err, MAX_ERRNO - 1)], 1, __ATOMIC_RELAXED);
}

/* The error of a call, which must be one of those, or 0 */
static int __allow(struct task *t, const char *what, long r, const int *errors)
{
	const int err = r < 0 ? errno : 0;
	int i;

	count_result(t, err);
	if (!err)
		return 0;
	for (i = 0; errors[i]; i++)
		if (errors[i] == err)
			return err;
	if (err == EHWPOISON && with_poison)
		return err;
	fail(t, "%s: %s, which it must not fail with (arguments %lx %lx %lx %lx)", what,
	     strerror(err), t->rec->arg[0],
	     t->rec->arg[1], t->rec->arg[2],
	     t->rec->arg[3]);
}

#define allow(t, what, r, ...) \
	__allow(t, what, r, (const int[]){ __VA_ARGS__, 0 })
#define succeed(t, what, r) \
	__allow(t, what, r, (const int[]){ 0 })

/* The same for a call that must fail */
static int __refuse(struct task *t, const char *what, long r, const int *errors)
{
	const int err = __allow(t, what, r, errors);

	if (!err)
		fail(t, "%s: succeeds, and must not (arguments %lx %lx %lx %lx)", what,
		     t->rec->arg[0], t->rec->arg[1],
		     t->rec->arg[2], t->rec->arg[3]);
	return err;
}

#define refuse(t, what, r, ...) \
	__refuse(t, what, r, (const int[]){ __VA_ARGS__, 0 })

static void check_word(struct task *t, u64 word, const struct expected *x, const char *who)
{
	const char *wrong = wrong_word(word, x);

	if (wrong)
		fail(t, "%s: 0x%lx is %s; expected VM %u, file %u, page %ld", who,
		     word, wrong, x->vm, x->file & 0xfff,
		     (long)x->index);
	if (word)
		saw(SEEN_TAG_BY_HOST);
}

static void check_page(struct task *t, void *page, const struct expected *x, const char *who)
{
	int i;

	for (i = 0; i < NR_WORDS; i++)
		check_word(t, *word_at(page, i), x, who);
}

/*
 * Accesses of the host, which a signal may end
 */

static __thread sigjmp_buf access_env;
static __thread bool in_access;
static __thread u8 *access_at;

static void handle_signal(int sig, siginfo_t *info, void *context)
{
	const bool fault = sig == SIGBUS || sig == SIGSEGV;
	u8 *addr = info->si_addr;

	if (READ_ONCE(in_access) && (!fault || (addr >= access_at && addr < access_at + SZ_4K)))
		siglongjmp(access_env, sig == SIGBUS && info->si_code == BUS_MCEERR_AR ?
				       SIGSYS : sig);
	if (!fault)
		return;
	/* A page with an error that no task accesses is announced, too. */
	if (with_poison && sig == SIGBUS && info->si_code == BUS_MCEERR_AO)
		return;
	fail(NULL, "%s at %p, code %d, which no access expects", strsignal(sig), addr,
	     info->si_code);
}

static void catch_signals(void)
{
	const struct sigaction sa = {
		.sa_sigaction = handle_signal,
		.sa_flags = SA_SIGINFO | SA_NODEFER,
	};
	static const int signals[] = { SIGBUS, SIGSEGV, SIGUSR1, SIGALRM };
	int i;

	for (i = 0; i < ARRAY_SIZE(signals); i++)
		TEST_ASSERT(!sigaction(signals[i], &sa, NULL), "sigaction() failed");
}

/*
 * Load or store the words of a page.  Returns an error number: EFAULT for what is
 * private, ENXIO for what is not mapped so, EINTR if it took too long.
 */
static int access_page(struct task *t, void *page, u64 *word, bool store)
{
	int i, sig, err = 0;

	access_at = page;
	sig = sigsetjmp(access_env, 0);
	if (!sig) {
		WRITE_ONCE(in_access, true);
		for (i = 0; i < NR_WORDS; i++) {
			if (store)
				WRITE_ONCE(*word_at(page, i), word[i]);
			else
				word[i] = READ_ONCE(*word_at(page, i));
		}
	}
	WRITE_ONCE(in_access, false);

	switch (sig) {
	case SIGBUS:
		saw(SEEN_SIGBUS);
		err = EFAULT;
		break;
	case SIGSYS:
		if (!with_poison)
			fail(t, "a memory error at %p", page);
		err = EHWPOISON;
		break;
	case SIGSEGV:
		err = ENXIO;
		break;
	case SIGUSR1:
	case SIGALRM:
		err = EINTR;
		break;
	}
	return err;
}

/*
 * Choosing
 */

static u32 vm_serial(const struct gfile *f)
{
	return vms[f->vm].serial;
}

static bool is_private(const struct gfile *f)
{
	return vms[f->vm].private;
}

static bool converts(const struct gfile *f)
{
	return is_private(f) &&
	       (f->flags & (GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED));
}

/* To keep the file for a while.  A process that is no thread has it to itself. */
static void lock_file(struct task *t, struct gfile *f)
{
	if (!t->child && !t->stranger)
		TEST_ASSERT(!pthread_rwlock_rdlock(&f->lock), "rdlock failed");
}

static void lock_file_to_change(struct task *t, struct gfile *f)
{
	if (!t->child && !t->stranger)
		TEST_ASSERT(!pthread_rwlock_wrlock(&f->lock), "wrlock failed");
}

static void unlock_file(struct task *t, struct gfile *f)
{
	if (!t->child && !t->stranger)
		TEST_ASSERT(!pthread_rwlock_unlock(&f->lock), "unlock failed");
}

static struct vm *pick_vm(struct task *t)
{
	/* The one without private memory less often */
	const u64 n = rnd(t, 5);

	return &vms[n == 4 ? 2 : n & 1];
}

static struct gfile *pick_file(struct task *t)
{
	const u64 which = rnd(t, 100), any = rnd64(t);

	if (t->stranger)
		return &t->files[any % t->nr_files];
	/* The anchors of the VMs with private memory are what matters most. */
	return &t->files[which < 40 ? any % (NR_VMS - 1) : any % NR_FILES];
}

/* Those that can be created and closed */
static struct gfile *pick_spare(struct task *t)
{
	return &t->files[NR_VMS + rnd(t, NR_FILES - NR_VMS)];
}

struct range {
	u64 first;
	u64 nr;
};

static u64 nr_pages(const struct gfile *f)
{
	return f->size / SZ_4K;
}

/*
 * Some pages of a file, many of them in a part of it that is the same for all tasks
 * for a while: they are to meet, and other parts are to be left alone and merged.
 */
static struct range pick_range(struct task *t, const struct gfile *f, u64 max)
{
	const u64 blocks = DIV_ROUND_UP(nr_pages(f), 512);
	const u64 hot = hash_with(round_key, t->n / 64 * NR_FILES + f->idx) % blocks;
	const u64 how = rnd(t, 8), n = rnd64(t), at = rnd64(t), elsewhere = rnd64(t);
	struct range r;

	r.first = (elsewhere % 4 ? hot : elsewhere / 4 % blocks) * 512;
	switch (how) {
	case 0 ... 3:
		r.first += at % 128;
		r.nr = 1 + n % 4;
		break;
	case 4:
		r.first += at % 8 * GRANULE;
		r.nr = GRANULE;
		break;
	case 5:
		r.nr = 512;
		break;
	case 6:
		r.first += at % 512;
		r.nr = 1 + n % 512;
		break;
	default:
		r.first = at % nr_pages(f);
		r.nr = 1 + n % max;
		break;
	}
	r.first %= nr_pages(f);
	r.nr = min(min(r.nr, max), nr_pages(f) - r.first);
	return r;
}

/* Make it a range that may become shared. */
static void spare_vault(const struct gfile *f, struct range *r)
{
	if (!f->vault)
		return;
	if (r->first % GRANULE >= VAULT_FIRST) {
		r->first = round_down(r->first, GRANULE) + GRANULE;
		if (r->first >= nr_pages(f))
			r->first = 0;
	}
	r->nr = min(r->nr, VAULT_FIRST - r->first % GRANULE);
	r->nr = min(r->nr, nr_pages(f) - r->first);
}

/* Pages that can be reached by the window */
static struct range pick_window(struct task *t, const struct gfile *f, u64 max)
{
	struct range r = pick_range(t, f, max);
	const u64 limit = WINDOW_SIZE / SZ_4K;

	if (r.first >= limit)
		r.first %= limit;
	r.nr = min(r.nr, limit - r.first);
	return r;
}

static void *window_at(const struct gfile *f, u64 index)
{
	return f->window + index * SZ_4K;
}

static struct expected expect_page(const struct gfile *f, u32 serial, u64 index)
{
	return (struct expected) {
		.vm = vm_serial(f),
		.file = serial,
		.index = index,
	};
}

static u64 slot_gpa(int slot)
{
	return ZONE_GPA + (u64)slot * SZ_1G;
}

/* An address in the zone; those at the begin of memslots more often */
static u64 pick_gpa(struct task *t)
{
	const u64 how = rnd(t, 16), slot = rnd(t, NR_SLOTS), n = rnd64(t);

	return slot_gpa(slot) + n % (how < 9 ? 64 : how < 15 ? 512 : SZ_1G / SZ_4K) * SZ_4K;
}

static bool pool_exists(unsigned int shift)
{
	return shift < 64 && (huge_sizes & BIT_ULL(shift));
}

/* What KVM_CREATE_GUEST_MEMFD is documented to take */
static bool is_valid(bool private, u64 size, u64 flags)
{
	const u64 huge = (u64)GUEST_MEMFD_HUGE_MASK << GUEST_MEMFD_HUGE_SHIFT;
	const unsigned int shift = (flags & huge) >> GUEST_MEMFD_HUGE_SHIFT;
	u64 align = SZ_4K;

	if (flags & ~(GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED |
		      GUEST_MEMFD_FLAG_HUGETLB | huge))
		return false;
	if (flags & GUEST_MEMFD_FLAG_HUGETLB) {
		if (shift && !pool_exists(shift))
			return false;
		align = shift ? 1ULL << shift : default_huge;
		if (!private && (flags & GUEST_MEMFD_FLAG_INIT_SHARED))
			return false;
	} else if (shift) {
		return false;
	}
	return size && size <= 0x7fffffffffffffffULL && !(size % align);
}

static int create_file(int vm_fd, u64 size, u64 flags)
{
	struct kvm_create_guest_memfd args = { .size = size, .flags = flags };

	return ioctl(vm_fd, KVM_CREATE_GUEST_MEMFD, &args);
}

static u64 size_flags(size_t size)
{
	return size == SZ_4K ? 0 : hugetlb_flags(__builtin_ctzl(size));
}

static u32 next_vm(void)
{
	u32 serial;

	do {
		serial = __atomic_add_fetch(&s->nr_vms, 1, __ATOMIC_RELAXED) & 0x3fff;
	} while (!serial);
	return serial;
}

/* Of the next incarnation */
static void set_serial(struct gfile *f)
{
	f->last_serial = f->last_serial ? f->last_serial + NR_FILES : NR_FILES + f->idx;
	f->serial = f->last_serial;
}

/*
 * Steps: files
 */

static void op_create(struct task *t)
{
	struct gfile *f = pick_spare(t);
	const u64 flags = (chance(t, 80) ? GUEST_MEMFD_FLAG_MMAP : 0) |
			  (chance(t, 40) ? GUEST_MEMFD_FLAG_INIT_SHARED : 0) |
			  size_flags(f->page_size);
	const int vm_fd = vms[f->vm].vm->fd;
	const bool skip = chance(t, 80);
	int fd;

	if (skip && f->page_size == SZ_1G)
		return;
	note(t, f->idx, f->size, flags, 0);
	fd = create_file(vm_fd, f->size, flags);
	if (!is_valid(is_private(f), f->size, flags)) {
		refuse(t, "create", fd, EINVAL, ENODEV, EOPNOTSUPP);
		return;
	}
	if (allow(t, "create", fd, ENOMEM))
		return;

	/* This closes the one before, which may be mapped and bound. */
	lock_file_to_change(t, f);
	TEST_ASSERT(dup3(fd, f->fd, O_CLOEXEC) == f->fd, "dup3() failed");
	set_serial(f);
	f->flags = flags;
	unlock_file(t, f);
	close(fd);
}

static void op_create_odd(struct task *t)
{
	struct vm *vm = pick_vm(t);
	const u64 how = rnd(t, 8), bits = rnd64(t), shift = rnd(t, 64), n = odd_number(t);
	u64 size = SZ_2M, flags = GUEST_MEMFD_FLAG_MMAP;
	int fd;

	switch (how) {
	case 0:
		flags = bits;
		break;
	case 1:
		flags |= 1ULL << shift;
		break;
	case 2:
		flags = (bits & 3) | GUEST_MEMFD_FLAG_HUGETLB |
			(shift & GUEST_MEMFD_HUGE_MASK) << GUEST_MEMFD_HUGE_SHIFT;
		size = n;
		break;
	case 3:
		flags = (shift & GUEST_MEMFD_HUGE_MASK) << GUEST_MEMFD_HUGE_SHIFT;
		break;
	case 4:
		size = n;
		break;
	case 5:
		/* More huge pages than there are */
		flags = (bits & 3) | hugetlb_flags(21);
		size = round_down(n, SZ_2M);
		break;
	case 6:
		fd = ioctl(vm->vm->fd, KVM_CREATE_GUEST_MEMFD, (void *)8);
		refuse(t, "create", fd, EFAULT);
		return;
	default:
		flags = size_flags(page_size) | (bits & 3);
		size = (1 + shift % 3) * page_size;
		break;
	}
	note(t, vm - vms, size, flags, how);
	fd = create_file(vm->vm->fd, size, flags);
	if (!is_valid(vm->private, size, flags)) {
		refuse(t, "create", fd, EINVAL, ENODEV, EOPNOTSUPP);
		return;
	}
	if (!allow(t, "create", fd, ENOMEM))
		close(fd);
}

static void op_close(struct task *t)
{
	struct gfile *f = pick_spare(t);

	note(t, f->idx, 0, 0, 0);
	lock_file_to_change(t, f);
	if (f->serial) {
		/* It may still be mapped. */
		succeed(t, "close", close(f->fd));
		f->serial = 0;
	}
	unlock_file(t, f);
}

/* Files that the last close() is not the end of */
static void op_dup(struct task *t)
{
	struct gfile *f = pick_file(t);
	const int how = rnd(t, 3);

	note(t, f->idx, how, 0, 0);
	if (t->dup_fd >= 0) {
		succeed(t, "close", close(t->dup_fd));
		t->dup_fd = -1;
		return;
	}
	switch (how) {
	case 0:
		t->dup_fd = fcntl(f->fd, F_DUPFD_CLOEXEC, FD_DUP);
		break;
	case 1:
		t->dup_fd = dup2(f->fd, FD_DUP + MAX_THREADS + t->id);
		break;
	default:
		t->dup_fd = dup3(f->fd, FD_DUP + MAX_THREADS + t->id, O_CLOEXEC);
		break;
	}
	if (allow(t, "dup", t->dup_fd, EBADF))
		t->dup_fd = -1;
}

static void op_fallocate(struct task *t)
{
	struct gfile *f = pick_file(t);
	const u64 huge = f->page_size / SZ_4K, how = rnd(t, 8), n = rnd64(t);
	const bool punch = chance(t, 50);
	struct range r = pick_range(t, f, f->page_size == SZ_4K ? 4096 : 8 * huge);
	u64 offset = r.first * SZ_4K, len = r.nr * SZ_4K;
	int err, mode = FALLOC_FL_KEEP_SIZE | (punch ? FALLOC_FL_PUNCH_HOLE : 0);

	/* Large pages are cleared: not too often, and few at once. */
	if (huge > 512 && how)
		return;
	if (how < 6) {
		offset = round_down(offset, f->page_size);
		len = f->page_size * (1 + (huge > 512 ? 0 : n % 3));
	}
	if (how == 7 && punch) {
		/* Also beyond the end */
		offset = 0;
		len = n % 2 ? f->size : 1ULL << 50;
	}
	note(t, f->idx, mode, offset, len);
	lock_file(t, f);
	err = fallocate(f->fd, mode, offset, len);
	if (f->serial && ((offset | len) % f->page_size ||
			  (!punch && offset + len > f->size)))
		refuse(t, "fallocate", err, EINVAL);
	else
		allow(t, "fallocate", err, EBADF, ENOMEM, EINTR);
	unlock_file(t, f);
}

static void op_fallocate_odd(struct task *t)
{
	static const int modes[] = {
		0, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_ZERO_RANGE,
		FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_INSERT_RANGE,
		FALLOC_FL_UNSHARE_RANGE, FALLOC_FL_UNSHARE_RANGE | FALLOC_FL_KEEP_SIZE,
		FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_COLLAPSE_RANGE, 0x80,
		0x40000000, FALLOC_FL_KEEP_SIZE | 0x100, FALLOC_FL_ALLOCATE_RANGE,
	};
	struct gfile *f = pick_file(t);
	const u64 a = odd_number(t), b = odd_number(t), which = rnd(t, 16);
	int mode = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, r;

	lock_file(t, f);
	if (which < ARRAY_SIZE(modes)) {
		mode = modes[which];
		note(t, f->idx, mode, 0, f->page_size);
		refuse(t, "fallocate with that mode",
		       fallocate(f->fd, mode, 0, f->page_size), EOPNOTSUPP, EINVAL, EBADF);
		goto unlock;
	}
	/* Not huge numbers to allocate */
	if (which == 15 && (s64)a >= 0 && a < f->size && b < SZ_2M)
		mode = FALLOC_FL_KEEP_SIZE;
	note(t, f->idx, mode, a, b);
	r = fallocate(f->fd, mode, a, b);
	if ((s64)a < 0 || (s64)b <= 0 || (s64)(a + b) < 0 || (a | b) % f->page_size)
		refuse(t, "fallocate", r, EINVAL, EFBIG, EBADF);
	else
		allow(t, "fallocate", r, EBADF, EFBIG, ENOMEM, EINTR, EINVAL);
unlock:
	unlock_file(t, f);
}

static u64 fdinfo_value(struct task *t, const char *buf, const char *key)
{
	const char *line = strstr(buf, key);

	if (!line)
		fail(t, "fdinfo has no line %s", key);
	return strtoull(line + strlen(key), NULL, 10) * 1024;
}

static void op_fdinfo(struct task *t)
{
	struct gfile *f = pick_file(t);
	u64 size, private, shared, allocated;
	char path[64], *buf = (char *)t->buf;
	ssize_t n = 0, r;
	int fd;

	note(t, f->idx, 0, 0, 0);
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", f->fd);
	lock_file(t, f);
	fd = open(path, O_RDONLY);
	if (allow(t, "open fdinfo", fd, ENOENT))
		goto unlock;
	while ((r = read(fd, buf + n, SZ_8K - 1 - n)) > 0)
		n += r;
	if (allow(t, "read fdinfo", r, EINTR, ENOENT, EBADF) || !f->serial)
		goto close;
	buf[n] = '\0';

	size = fdinfo_value(t, buf, "gmem-size:\t");
	private = fdinfo_value(t, buf, "gmem-private:\t");
	shared = fdinfo_value(t, buf, "gmem-shared:\t");
	allocated = fdinfo_value(t, buf, "gmem-allocated:\t");
	if (size != f->size || private + shared != size || allocated > size ||
	    fdinfo_value(t, buf, "gmem-page-size:\t") != f->page_size)
		fail(t, "fdinfo: size %lu, private %lu, shared %lu, allocated %lu of %lu",
		     size, private,
		     shared, allocated,
		     f->size);
	if (!converts(f) && private && shared)
		fail(t, "fdinfo: %lu private, %lu shared of a file that does not convert",
		     private, shared);
close:
	close(fd);
unlock:
	unlock_file(t, f);
}

static void op_stat(struct task *t)
{
	struct gfile *f = pick_file(t);
	struct statfs fs;
	struct stat st;

	note(t, f->idx, 0, 0, 0);
	lock_file(t, f);
	if (allow(t, "fstat", fstat(f->fd, &st), EBADF) ||
	    allow(t, "fstatfs", fstatfs(f->fd, &fs), EBADF))
		goto unlock;
	if (st.st_size != f->size || st.st_blksize != f->page_size ||
	    fs.f_bsize != f->page_size || st.st_blocks * 512ULL > f->size)
		fail(t, "fstat: size %lu, block size %lu, %lu blocks",
		     st.st_size, st.st_blksize,
		     st.st_blocks);
	if (!S_ISREG(st.st_mode) || st.st_mode & 077)
		fail(t, "fstat: mode 0%o", st.st_mode);
unlock:
	unlock_file(t, f);
}

/* What else takes a descriptor: none of it gets at the memory, or changes the file. */
static void op_file_odd(struct task *t)
{
	struct gfile *f = pick_file(t);
	const u64 how = rnd(t, 27), n = odd_number(t);
	struct timespec times[2] = {};
	char path[64];
	loff_t pos = 0;
	struct flock lock = { .l_type = F_WRLCK };
	int fd = f->fd, r;

	note(t, f->idx, how, n, 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	lock_file(t, f);
	switch (how) {
	case 0:
		refuse(t, "read", read(fd, t->buf, SZ_4K), EINVAL, EBADF);
		break;
	case 1:
		refuse(t, "write", write(fd, t->buf, SZ_4K), EINVAL, EBADF);
		break;
	case 2:
		refuse(t, "pread", pread(fd, t->buf, SZ_4K, n), EINVAL, EBADF, ESPIPE);
		break;
	case 3:
		refuse(t, "pwrite", pwrite(fd, t->buf, SZ_4K, n), EINVAL, EBADF, ESPIPE);
		break;
	case 4:
		refuse(t, "lseek", lseek(fd, n % 2 ? 0 : n, n % 5), ESPIPE, EINVAL, EBADF);
		break;
	case 5:
		refuse(t, "ftruncate", ftruncate(fd, n % 3 ? n : f->size), EINVAL, EBADF,
		       EPERM, EACCES);
		break;
	case 6:
		refuse(t, "F_ADD_SEALS", fcntl(fd, F_ADD_SEALS, 1 << (n % 7)), EINVAL, EBADF,
		       EPERM);
		break;
	case 7:
		refuse(t, "F_GET_SEALS", fcntl(fd, F_GET_SEALS), EINVAL, EBADF);
		break;
	case 8:
		r = open(path, n % 2 ? O_RDWR : O_RDONLY);
		refuse(t, "reopening", r, ENXIO, EACCES, ENOENT, EPERM);
		break;
	case 9:
		refuse(t, "fchmod", fchmod(fd, 0777), EINVAL, EBADF, EPERM, EACCES);
		break;
	case 10:
		refuse(t, "fchown", fchown(fd, 65534, 65534), EINVAL, EBADF, EPERM, EACCES);
		break;
	case 11:
		refuse(t, "futimens", futimens(fd, times), EINVAL, EBADF, EPERM, EACCES);
		break;
	case 12:
		refuse(t, "fsetxattr", fsetxattr(fd, "user.x", "y", 1, 0), EOPNOTSUPP, EBADF,
		       EPERM, EACCES);
		break;
	case 13:
		refuse(t, "fsync", fsync(fd), EINVAL, EBADF);
		break;
	case 14:
		allow(t, "fadvise", posix_fadvise(fd, 0, 0, n % 6), EBADF, EINVAL);
		break;
	case 15:
		refuse(t, "readahead", readahead(fd, 0, SZ_2M), EINVAL, EBADF);
		break;
	case 16:
		refuse(t, "sendfile", sendfile(t->memfd, fd, &pos, SZ_4K), EINVAL, EBADF,
		       ESPIPE);
		break;
	case 17:
		refuse(t, "copy_file_range",
		       copy_file_range(fd, NULL, t->memfd, NULL, SZ_4K, 0), EINVAL, EBADF,
		       EXDEV, EOPNOTSUPP);
		break;
	case 18:
		refuse(t, "FICLONE", ioctl(fd, FICLONE, t->memfd), EINVAL, EBADF, EXDEV,
		       EOPNOTSUPP, EPERM, ENOTTY);
		break;
	case 19:
		refuse(t, "linkat", linkat(AT_FDCWD, path, AT_FDCWD, "/tmp/x",
					   AT_SYMLINK_FOLLOW), EXDEV, EBADF, EPERM, ENOENT,
		       EACCES);
		break;
	case 20:
		refuse(t, "execve", execve(path, (char *[]){ path, NULL },
					   (char *[]){ NULL }), EACCES, ENOENT, EPERM,
		       ENXIO, ETXTBSY);
		break;
	case 21:
		allow(t, "flock", flock(fd, (n % 2 ? LOCK_EX : LOCK_UN) | LOCK_NB), EBADF,
		      EAGAIN);
		break;
	case 22:
		allow(t, "F_OFD_SETLK", fcntl(fd, F_OFD_SETLK, &lock), EBADF, EAGAIN,
		      EINVAL);
		break;
	case 23:
		r = syscall(SYS_vmsplice, fd, &(struct iovec) { t->buf, SZ_4K }, 1, 0);
		refuse(t, "vmsplice to the file", r, EBADF, EINVAL);
		break;
	case 24:
		r = ioctl(fd, n % 2 ? FS_IOC_RESVSP : FS_IOC_UNRESVSP,
			  &(struct space_resv) { .l_len = f->page_size });
		refuse(t, "an ioctl of regular files", r, ENOTTY, EBADF);
		break;
	case 25:
		/* Ioctls of VMs, vCPUs and /dev/kvm, and of other files */
		refuse(t, "another ioctl", ioctl(fd, (n % 4) << 30 | KVMIO << 8 |
						 ((n >> 8) & 0xff), t->buf), ENOTTY, EBADF);
		break;
	default:
		r = ioctl(fd, n % 2 ? KVM_SET_MEMORY_ATTRIBUTES : KVM_CREATE_GUEST_MEMFD,
			  t->buf);
		refuse(t, "an ioctl of the VM", r, ENOTTY, EBADF);
		break;
	}
	unlock_file(t, f);
}

/*
 * Steps: converting
 */

/* The whole range, or nothing.  Returns an error number. */
static int convert(struct task *t, struct gfile *f, int fd, struct range r, bool private)
{
	const u64 offset = r.first * SZ_4K, size = r.nr * SZ_4K;
	u64 bad;
	int err;

	err = gmem_convert(fd, offset, size, private, &bad);
	errno = err;
	err = private ? allow(t, "to private", err ? -1 : 0, ENOMEM, EAGAIN) :
			allow(t, "to shared", err ? -1 : 0, ENOMEM);
	if (!err && bad != GMEM_NO_ERROR)
		fail(t, "a conversion writes 0x%lx to error_offset", bad);
	if (err && (bad % SZ_4K || bad < offset || bad >= offset + size))
		fail(t, "error_offset 0x%lx of a conversion of 0x%lx at 0x%lx, %s", bad, size,
		     offset, strerror(err));
	if (err == EAGAIN)
		saw(SEEN_BUSY);
	return err;
}

static void op_convert(struct task *t)
{
	struct gfile *f = pick_file(t);
	struct range r = pick_range(t, f, nr_pages(f));
	const bool private = chance(t, 50);
	struct kvm_memory_attributes2 args = {};
	int err;

	if (!private)
		spare_vault(f, &r);
	note(t, f->idx, r.first, r.nr, private);
	lock_file(t, f);
	if (f->serial && converts(f)) {
		convert(t, f, f->fd, r, private);
	} else {
		args.size = f->size;
		err = ioctl(f->fd, KVM_SET_MEMORY_ATTRIBUTES2, &args);
		refuse(t, "converting what does not convert", err, EBADF,
		       is_private(f) ? ENOTTY : EINVAL);
	}
	unlock_file(t, f);
}

static void op_convert_odd(struct task *t)
{
	struct gfile *f = pick_file(t);
	const u64 how = rnd(t, 9), n = odd_number(t), m = odd_number(t);
	struct kvm_memory_attributes2 args = {
		.size = SZ_4K,
		.attributes = KVM_MEMORY_ATTRIBUTE_PRIVATE,
	};
	void *arg = &args;

	switch (how) {
	case 0:
		args.attributes = 1ULL << (n % 64);
		if (args.attributes == KVM_MEMORY_ATTRIBUTE_PRIVATE)
			args.attributes |= 1;
		break;
	case 1:
		args.flags = n ?: 1;
		break;
	case 2:
		args.reserved[n % 11] = m ?: 1;
		break;
	case 3:
		args.size = 0;
		break;
	case 4:
		args.offset = f->size;
		break;
	case 5:
		args.offset = SZ_4K;
		args.size = -(u64)SZ_4K - n % SZ_4K;
		break;
	case 6:
		args.offset = n % SZ_4K ?: 8;
		break;
	case 7:
		args.size = f->size + SZ_4K;
		break;
	default:
		arg = (void *)(m % SZ_4K);
		break;
	}
	note(t, f->idx, how, args.offset, args.size);
	lock_file(t, f);
	refuse(t, "an odd conversion", ioctl(f->fd, KVM_SET_MEMORY_ATTRIBUTES2, arg), EINVAL,
	       EFAULT, EBADF, ENOTTY);
	unlock_file(t, f);
}

static int vm_attributes(struct vm *vm, u64 gpa, u64 size, u64 attributes, u64 flags)
{
	struct kvm_memory_attributes args = {
		.address = gpa,
		.size = size,
		.attributes = attributes,
		.flags = flags,
	};

	return ioctl(vm->vm->fd, KVM_SET_MEMORY_ATTRIBUTES, &args);
}

static void op_convert_vm(struct task *t)
{
	struct vm *vm = pick_vm(t);
	struct gfile *anchor = &t->files[vm - vms];
	const bool private = chance(t, 50), zone = chance(t, 60);
	const u64 gpa = pick_gpa(t), how = rnd(t, 4), n = rnd64(t);
	struct range r = pick_range(t, anchor, nr_pages(anchor));
	u64 address = gpa, size = (1 + n % (how < 2 ? 8 : how < 3 ? 1024 : 65536)) * SZ_4K;
	int err;

	if (!zone) {
		if (!private)
			spare_vault(anchor, &r);
		address = ANCHOR_GPA + r.first * SZ_4K;
		size = r.nr * SZ_4K;
	} else if (private && n % 16 == 0) {
		/* The anchor and what follows, memslots or not; the VM notes each gfn. */
		address = ANCHOR_GPA;
		size = ZONE_GPA - ANCHOR_GPA + (n % 64 ? SZ_2M : SZ_1G);
	}
	note(t, vm - vms, address, size, private);
	err = vm_attributes(vm, address, size, private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0, 0);
	/* EAGAIN for a page in use; or a file with memslots here is being closed. */
	if (!vm->private && private)
		refuse(t, "private memory in a VM without", err, EINVAL);
	else if (private)
		allow(t, "to private by the VM", err, ENOMEM, EAGAIN);
	else
		allow(t, "to shared by the VM", err, ENOMEM, EAGAIN);
}

static void op_convert_vm_odd(struct task *t)
{
	struct vm *vm = pick_vm(t);
	const u64 how = rnd(t, 6), n = odd_number(t), gpa = pick_gpa(t);
	const u64 private = KVM_MEMORY_ATTRIBUTE_PRIVATE;
	int err;

	note(t, vm - vms, how, n, gpa);
	switch (how) {
	case 0:
		err = vm_attributes(vm, gpa, SZ_4K, private, n ?: 1);
		break;
	case 1:
		err = vm_attributes(vm, gpa, SZ_4K, private | 1ULL << (n % 3), 0);
		break;
	case 2:
		err = vm_attributes(vm, gpa, 0, private, 0);
		break;
	case 3:
		err = vm_attributes(vm, gpa, -gpa + n % SZ_1G / SZ_4K * SZ_4K + SZ_4K, private,
				    0);
		break;
	case 4:
		err = vm_attributes(vm, gpa + 1 + n % (SZ_4K - 1), SZ_4K, private, 0);
		break;
	default:
		err = ioctl(vm->vm->fd, KVM_SET_MEMORY_ATTRIBUTES, (void *)(n % SZ_4K));
		break;
	}
	refuse(t, "odd attributes of the VM", err, EINVAL, EFAULT);
}

/*
 * Steps: memslots
 */

static int set_region(struct vm *vm, u32 slot, u32 flags, u64 gpa, u64 size, u64 hva, int fd,
		      u64 offset)
{
	struct kvm_userspace_memory_region2 region = {
		.slot = slot,
		.flags = flags,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.userspace_addr = hva,
		.guest_memfd = fd,
		.guest_memfd_offset = offset,
	};

	return ioctl(vm->vm->fd, KVM_SET_USER_MEMORY_REGION2, &region);
}

/* Where a range of a file is mapped, or memory that is not the file's */
static u64 pick_hva(struct task *t, struct gfile *f, u64 offset, u64 size, int slot)
{
	const bool window = chance(t, 70);

	if (window && offset + size <= WINDOW_SIZE)
		return (u64)f->window + offset;
	return (u64)vms[f->vm].anon + (u64)slot * SZ_1G;
}

static void op_bind(struct task *t)
{
	struct gfile *f = pick_file(t);
	struct vm *vm = &vms[f->vm];
	const int slot = rnd(t, NR_SLOTS);
	const u64 how = rnd(t, 8), n = rnd64(t), where = rnd(t, 8);
	const bool anew = chance(t, 70);
	struct range r = pick_range(t, f, SZ_1G / SZ_4K);
	u64 gpa = slot_gpa(slot), offset, size, hva;
	int err;

	if (how < 4)
		r = (struct range) { 0, min_t(u64, nr_pages(f), SZ_1G / SZ_4K) };
	else if (how < 6)
		r.nr = min_t(u64, nr_pages(f) - r.first, SZ_1G / SZ_4K);
	offset = r.first * SZ_4K;
	size = r.nr * SZ_4K;
	switch (where) {
	case 0:
		/* Large mappings are not possible. */
		gpa += n % 16 * SZ_4K;
		break;
	case 1:
		/* Into a neighbour, or in front of all */
		gpa += n % 8 * SZ_256M - SZ_1G;
		break;
	case 2:
		gpa += n % 8 * SZ_2M;
		break;
	default:
		gpa += offset % SZ_1G;
		break;
	}
	hva = pick_hva(t, f, offset, size, slot);
	note(t, (vm - vms) << 8 | f->idx, FIRST_SLOT + slot, gpa, size);
	if (anew)
		allow(t, "deleting a memslot",
		      set_region(vm, FIRST_SLOT + slot, 0, 0, 0, 0, -1, 0), EINVAL, ENOMEM);
	err = set_region(vm, FIRST_SLOT + slot, KVM_MEM_GUEST_MEMFD, gpa, size, hva, f->fd,
			 offset);
	if (!allow(t, "bind", err, EINVAL, EEXIST, EBADF, ENOMEM) && n % 2 && vm->private)
		/* So that the guest has private memory of a file that does not convert. */
		vm_attributes(vm, gpa, size, f->vault ? KVM_MEMORY_ATTRIBUTE_PRIVATE :
						      (n & 2 ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0),
			      0);
}

/* A memslot without a file; its memory may be a file's, all the same. */
static void op_bind_plain(struct task *t)
{
	static const u32 flags[] = { 0, 0, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY };
	struct gfile *f = pick_file(t);
	struct vm *vm = &vms[f->vm];
	const int slot = rnd(t, NR_SLOTS);
	const u64 flag = flags[rnd(t, 4)];
	struct range r = pick_window(t, f, SZ_1G / SZ_4K);
	const u64 gpa = slot_gpa(slot) + rnd(t, 4) * SZ_2M;
	const u64 hva = pick_hva(t, f, r.first * SZ_4K, r.nr * SZ_4K, slot);

	note(t, (vm - vms) << 8 | f->idx, FIRST_SLOT + slot, flag, hva);
	if (allow(t, "a memslot without a file",
		  set_region(vm, FIRST_SLOT + slot, flag, gpa, r.nr * SZ_4K, hva, -1, 0), EINVAL,
		  EEXIST, ENOMEM))
		return;
	WRITE_ONCE(vm->plain[slot][0], hva);
	WRITE_ONCE(vm->plain[slot][1], r.nr * SZ_4K);
}

/* Move it, or change its flags. */
static void op_slot_change(struct task *t)
{
	struct vm *vm = pick_vm(t);
	const int slot = rnd(t, NR_SLOTS);
	const u64 gpa = slot_gpa(rnd(t, NR_SLOTS)) + rnd(t, 4) * SZ_2M;
	const u64 flag = chance(t, 50) ? KVM_MEM_LOG_DIRTY_PAGES : 0;
	const u64 hva = READ_ONCE(vm->plain[slot][0]), size = READ_ONCE(vm->plain[slot][1]);

	if (!size)
		return;
	note(t, vm - vms, FIRST_SLOT + slot, gpa, flag);
	allow(t, "changing a memslot",
	      set_region(vm, FIRST_SLOT + slot, flag, gpa, size, hva, -1, 0), EINVAL, EEXIST,
	      ENOMEM);
}

static void op_unbind(struct task *t)
{
	struct vm *vm = pick_vm(t);
	const int slot = FIRST_SLOT + rnd(t, NR_SLOTS);

	note(t, vm - vms, slot, 0, 0);
	allow(t, "deleting a memslot", set_region(vm, slot, 0, 0, 0, 0, -1, 0), EINVAL, ENOMEM);
}

static void op_bind_odd(struct task *t)
{
	struct gfile *f = pick_file(t);
	struct vm *vm = &vms[f->vm];
	const u64 how = rnd(t, 15), n = odd_number(t);
	u32 slot = FIRST_SLOT + rnd(t, NR_SLOTS), flags = KVM_MEM_GUEST_MEMFD;
	u64 gpa = slot_gpa(rnd(t, NR_SLOTS)), size = f->page_size, hva = (u64)f->window;
	u64 offset = 0;
	int fd = f->fd, err;

	switch (how) {
	case 0:
		gpa += 1 + n % (SZ_4K - 1);
		break;
	case 1:
		size += 1 + n % (SZ_4K - 1);
		break;
	case 2:
		hva += 1 + n % (SZ_4K - 1);
		break;
	case 3:
		offset = 1 + n % (SZ_4K - 1);
		break;
	case 4:
		offset = -(u64)SZ_4K;
		break;
	case 5:
		offset = f->size;
		break;
	case 6:
		flags |= KVM_MEM_READONLY;
		break;
	case 7:
		flags |= KVM_MEM_LOG_DIRTY_PAGES;
		break;
	case 8:
		flags |= 8U << (n % 29);
		break;
	case 9:
		slot |= (2 + n % 100) << 16;
		break;
	case 10:
		fd = n % 2 ? -1 : t->memfd;
		break;
	case 11:
		/* The file of another VM */
		vm = &vms[(f->vm + 1 + n % (NR_VMS - 1)) % NR_VMS];
		break;
	case 12:
		gpa = -(u64)SZ_4K;
		size = SZ_2M;
		break;
	case 13:
		hva = 0xffff800000000000ULL;
		break;
	default:
		note(t, f->idx, how, 0, 0);
		err = ioctl(vm->vm->fd, KVM_SET_USER_MEMORY_REGION2, (void *)(n % SZ_4K));
		refuse(t, "a memslot from nowhere", err, EFAULT);
		return;
	}
	note(t, (vm - vms) << 8 | f->idx, how, gpa, size);
	refuse(t, "an odd memslot", set_region(vm, slot, flags, gpa, size, hva, fd, offset),
	       EINVAL, EEXIST, EBADF);
}

static void op_dirty_log(struct task *t)
{
	struct vm *vm = pick_vm(t);
	struct kvm_dirty_log log = {
		.slot = FIRST_SLOT + rnd(t, NR_SLOTS),
		.dirty_bitmap = t->buf,
	};

	note(t, vm - vms, log.slot, 0, 0);
	allow(t, "KVM_GET_DIRTY_LOG", ioctl(vm->vm->fd, KVM_GET_DIRTY_LOG, &log), ENOENT, EINVAL);
}

static void op_capability(struct task *t)
{
	struct vm *vm = pick_vm(t);
	const int has = ioctl(vm->vm->fd, KVM_CHECK_EXTENSION,
			      KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES);

	note(t, vm - vms, has, 0, 0);
	succeed(t, "KVM_CHECK_EXTENSION", has);
	if (has != (vm->private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0))
		fail(t, "a VM %s private memory can set attributes 0x%x",
		     vm->private ? "with" : "without", has);
}

/*
 * Steps: guests
 */

static struct access *guest_add(struct task *t, enum access_kind kind, u64 gva)
{
	struct mailbox *m = t->vm->mailbox[t->vcpu];
	struct access *a = &m->access[m->nr++];

	*a = (struct access) {
		.kind = kind,
		.gva = gva,
		.nr = 1,
		.stride = SZ_4K,
		.vm = loose_tag(t->vm->serial, 0),
	};
	return a;
}

static void guest_begin(struct task *t)
{
	t->vm->mailbox[t->vcpu]->nr = 0;
	t->vm->mailbox[t->vcpu]->done = 0;
}

/*
 * Have the guest do what is in the mailbox.  Returns false if it has not done all of
 * that; then it begins anew the next time.
 */
static bool run_guest(struct task *t)
{
	struct kvm_vcpu *vcpu = t->vm->vcpu[t->vcpu];
	struct kvm_run *run = vcpu->run;
	int tries, err;

	for (tries = 0; tries < 64; tries++) {
		err = ioctl(vcpu->fd, KVM_RUN, NULL);
		if (err)
			run->immediate_exit = 0;
		/* ENOMEM: a policy allows no node that has memory. */
		err = allow(t, "KVM_RUN", err, EINTR, EFAULT, EAGAIN, ENOMEM);
		if (err == EINTR && tries < 3)
			continue;
		if (err == EFAULT)
			saw(SEEN_FAULT_EXIT);
		if (err == EAGAIN) {
			saw(SEEN_AGAIN_EXIT);
			if (run->exit_reason != KVM_EXIT_MEMORY_FAULT)
				fail(t, "KVM_RUN: EAGAIN and exit %s",
				     exit_reason_str(run->exit_reason));
		}
		if (err)
			break;

		switch (run->exit_reason) {
		case KVM_EXIT_IO:
			return true;
		case KVM_EXIT_MMIO:
			/* There is no memory: reads give 0. */
			saw(SEEN_MMIO);
			memset(run->mmio.data, 0, sizeof(run->mmio.data));
			continue;
		default:
			fail(t, "the guest exits for %s, at 0x%lx",
			     exit_reason_str(run->exit_reason),
			     t->vm->mailbox[t->vcpu]->access[0].gva);
		}
	}
	/* Whatever was to be completed is, and does nothing. */
	run->immediate_exit = 1;
	ioctl(vcpu->fd, KVM_RUN, NULL);
	run->immediate_exit = 0;
	err = ioctl(vcpu->fd, KVM_SET_REGS, &t->vm->start[t->vcpu]);
	TEST_ASSERT(!err, "KVM_SET_REGS failed: %s", strerror(errno));
	return false;
}

static void check_guest_word(struct task *t, u64 word, const struct expected *x, u64 gva)
{
	const char *wrong = wrong_word(word, x);

	if (wrong)
		fail(t, "guest %ld reads 0x%lx at 0x%lx, %s; expected VM %u, file %u, page %ld",
		     (long)(t->vm - vms), word, gva,
		     wrong, x->vm, x->file & 0xfff, (long)x->index);
	if (word)
		saw(SEEN_TAG_BY_GUEST);
}

/* Check what has been read, as far as the guest got. */
static void check_guest(struct task *t)
{
	struct mailbox *m = t->vm->mailbox[t->vcpu];
	struct gfile *anchor = &files[t->vm - vms];
	u64 n;
	int i;

	for (n = 0; n < min_t(u64, m->done, MAX_BATCH); n++) {
		const struct access *a = &m->access[n];
		struct expected x = { .vm = t->vm->serial, .index = -1 };

		if (a->kind == ACCESS_SCAN) {
			if (a->word[1])
				fail(t, "guest %ld reads 0x%lx among %lu pages at 0x%lx",
				     (long)(t->vm - vms), a->word[0], a->nr, a->gva);
			continue;
		}
		if (a->kind != ACCESS_LOAD)
			continue;
		if (a->gva < ANCHOR_GPA + anchor->size) {
			x.file = anchor->serial;
			x.index = (a->gva - ANCHOR_GPA) / SZ_4K;
			x.secrets = anchor->vault && x.index % GRANULE >= VAULT_FIRST;
		}
		for (i = 0; i < NR_WORDS; i++)
			check_guest_word(t, a->word[i], &x, a->gva);
	}
}

static void op_guest(struct task *t)
{
	struct gfile *anchor = &files[t->vm - vms];
	const int nr = 1 + rnd(t, MAX_BATCH);
	const bool immediate = chance(t, 3);
	struct access *a;
	struct range r;
	u64 gpa, what;
	int i, k;

	guest_begin(t);
	for (i = 0; i < nr; i++) {
		what = rnd(t, 100);
		r = pick_range(t, anchor, 256);
		gpa = pick_gpa(t);
		if (what < 30) {
			guest_add(t, ACCESS_LOAD, gpa);
		} else if (what < 55) {
			a = guest_add(t, ACCESS_STORE, gpa);
			for (k = 0; k < NR_WORDS; k++)
				a->word[k] = loose_tag(t->vm->serial, gpa / SZ_4K);
			if (planted("foreign"))
				a->word[0] = loose_tag(t->vm->serial + 1, 0);
		} else if (what < 75) {
			guest_add(t, ACCESS_LOAD, ANCHOR_GPA + r.first * SZ_4K);
		} else if (what < 90) {
			/* What the keeper has cleared is to stay so. */
			spare_vault(anchor, &r);
			a = guest_add(t, ACCESS_STORE, ANCHOR_GPA + r.first * SZ_4K);
			for (k = 0; k < NR_WORDS; k++)
				a->word[k] = exact_tag(t->vm->serial, anchor->serial, r.first);
		} else if (what < 95) {
			a = guest_add(t, ACCESS_SCAN, ANCHOR_GPA + r.first * SZ_4K);
			a->nr = r.nr;
		} else {
			a = guest_add(t, ACCESS_SCAN, gpa);
			a->nr = min_t(u64, 8, (ZONE_GPA + ZONE_SIZE - gpa) / SZ_4K);
		}
	}
	note(t, t->vm - vms, nr, t->vm->mailbox[t->vcpu]->access[0].gva, immediate);
	if (immediate)
		t->vm->vcpu[t->vcpu]->run->immediate_exit = 1;
	run_guest(t);
	check_guest(t);
}

static void op_prefault(struct task *t)
{
	struct gfile *anchor = &t->files[t->vm - vms];
	struct range r = pick_range(t, anchor, 2048);
	const u64 how = rnd(t, 16), gpa = pick_gpa(t), n = odd_number(t);
	struct kvm_pre_fault_memory args = {
		.gpa = gpa,
		.size = (1 + n % 2048) * SZ_4K,
	};
	const u64 end = args.gpa + args.size;
	int err;

	switch (how) {
	case 0:
		args.gpa |= 8;
		break;
	case 1:
		args.size = 0;
		break;
	case 2:
		args.flags = n ?: 1;
		break;
	case 3:
		args.size = -(u64)SZ_4K;
		break;
	case 4 ... 9:
		args.gpa = ANCHOR_GPA + r.first * SZ_4K;
		args.size = r.nr * SZ_4K;
		break;
	}
	note(t, t->vm - vms, how, args.gpa, args.size);
	/* By the vCPU's thread alone: what it fails of is written to struct kvm_run. */
	err = ioctl(t->vm->vcpu[t->vcpu]->fd, KVM_PRE_FAULT_MEMORY, &args);
	if (how < 4) {
		refuse(t, "an odd KVM_PRE_FAULT_MEMORY", err, EINVAL);
		return;
	}
	err = allow(t, "KVM_PRE_FAULT_MEMORY", err, ENOENT, EINTR, EAGAIN, EFAULT, ENOMEM);
	if (!err && how > 9 && (args.gpa + args.size != end || args.gpa % SZ_4K))
		fail(t, "KVM_PRE_FAULT_MEMORY leaves 0x%lx at 0x%lx, of 0x%lx at 0x%lx",
		     (u64)args.size, (u64)args.gpa, end - gpa, gpa);
}

/*
 * Steps: the vaults.  One vCPU of each VM with private memory keeps them.  It writes
 * secrets to pages that are private, and takes them away before it shares the pages.
 */

/* The first page of a vault; they are in the parts that pick_range() likes. */
static u64 vault_page(const struct gfile *f, int nr)
{
	const u64 granules = nr_pages(f) / GRANULE;
	const u64 n = nr % 2 ? hash_with(round_key, nr) : nr / 2;

	return n % granules * GRANULE + VAULT_FIRST;
}

/* Load or store all pages of a vault.  Returns false if the guest did not get through. */
static bool vault_access(struct task *t, u64 first, enum access_kind kind, bool secret)
{
	struct gfile *anchor = &files[t->vm - vms];
	struct access *a;
	u64 i;
	int k;

	guest_begin(t);
	for (i = 0; i < VAULT_PAGES; i++) {
		a = guest_add(t, kind, ANCHOR_GPA + (first + i) * SZ_4K);
		for (k = 0; kind == ACCESS_STORE && secret && k < NR_WORDS; k++)
			a->word[k] = TAG_SECRET | exact_tag(t->vm->serial, anchor->serial,
							    first + i);
	}
	return run_guest(t);
}

/* Vaults may be the same one: then what is true of it is true of both. */
static void set_vault(struct task *t, const struct gfile *f, u64 first, enum vault_state state)
{
	int i;

	for (i = 0; i < NR_VAULTS; i++)
		if (vault_page(f, i) == first)
			t->vault[i] = state;
}

static void fill_vault(struct task *t, const struct gfile *f, u64 first)
{
	/* Before: it may come to a part of the pages. */
	set_vault(t, f, first, VAULT_FULL);
	vault_access(t, first, ACCESS_STORE, true);
}

/* Returns true if there are no secrets left. */
static bool empty_vault(struct task *t, const struct gfile *f, u64 first)
{
	struct mailbox *m = t->vm->mailbox[t->vcpu];
	u64 i;
	int k;

	if (!vault_access(t, first, ACCESS_STORE, false) ||
	    !vault_access(t, first, ACCESS_LOAD, false))
		return false;
	for (i = 0; i < VAULT_PAGES; i++)
		for (k = 0; k < NR_WORDS; k++)
			if (m->access[i].word[k])
				fail(t, "page %lu of VM %ld, private and cleared, reads 0x%lx",
				     (first + i), (long)(t->vm - vms),
				     m->access[i].word[k]);
	set_vault(t, f, first, VAULT_EMPTY);
	return true;
}

static void op_vault(struct task *t)
{
	struct gfile *f = &files[t->vm - vms];
	const int nr = rnd(t, NR_VAULTS);
	const bool by_vm = chance(t, 40), share = chance(t, 40), fill = chance(t, 70);
	const u64 page = rnd(t, VAULT_PAGES);
	struct range r = { vault_page(f, nr), VAULT_PAGES };
	u64 gpa = ANCHOR_GPA + r.first * SZ_4K, size = VAULT_PAGES * SZ_4K, word[NR_WORDS];
	struct expected x = expect_page(f, f->serial, r.first + page);
	int i, err;

	note(t, f->idx, r.first, t->vault[nr], share << 1 | fill);
	if (t->vault[nr] == VAULT_SHARED) {
		err = by_vm ? allow(t, "to private by the VM",
				    vm_attributes(t->vm, gpa, size, KVM_MEMORY_ATTRIBUTE_PRIVATE,
						  0), ENOMEM, EAGAIN) :
			      convert(t, f, f->fd, r, true);
		if (!err)
			set_vault(t, f, r.first, VAULT_EMPTY);
	}

	if (t->vault[nr] != VAULT_SHARED) {
		if (vault_access(t, r.first, ACCESS_LOAD, false))
			check_guest(t);
		if (fill)
			fill_vault(t, f, r.first);
		/* The host is kept out while there is a secret. */
		lock_file(t, f);
		err = access_page(t, window_at(f, r.first + page), word, false);
		if (!err && f->mapped == f->serial)
			fail(t, "the host reads 0x%lx of page %lu of file %d, which is private",
			     word[0], (r.first + page),
			     f->idx);
		unlock_file(t, f);
	}

	if (!share || t->vault[nr] == VAULT_SHARED)
		return;
	if (!planted("secret") && !empty_vault(t, f, r.first))
		return;
	if (by_vm)
		err = allow(t, "to shared by the VM", vm_attributes(t->vm, gpa, size, 0, 0),
			    ENOMEM);
	else
		err = convert(t, f, f->fd, r, false);
	if (err)
		return;
	set_vault(t, f, r.first, VAULT_SHARED);
	saw(SEEN_SECRET);

	lock_file(t, f);
	if (!access_page(t, window_at(f, r.first + page), word, false))
		for (i = 0; i < NR_WORDS; i++)
			check_word(t, word[i], &x, "the host, in a vault that is shared");
	unlock_file(t, f);
}

/*
 * Steps: mappings
 */

static void op_map(struct task *t)
{
	struct gfile *f = pick_file(t);
	const int prot = chance(t, 80) ? PROT_READ | PROT_WRITE : PROT_READ;
	const u64 size = min(f->size, WINDOW_SIZE);
	void *p;
	int err;

	note(t, f->idx, size, prot, 0);
	lock_file_to_change(t, f);
	p = mmap(f->window, size, prot, MAP_SHARED | MAP_FIXED, f->fd, 0);
	err = p == MAP_FAILED ? -1 : 0;
	if (f->serial && !(f->flags & GUEST_MEMFD_FLAG_MMAP))
		refuse(t, "mmap", err, ENODEV);
	else if (!allow(t, "mmap", err, EBADF, ENOMEM, EAGAIN))
		f->mapped = f->serial;
	unlock_file(t, f);
}

static void op_unmap(struct task *t)
{
	struct gfile *f = pick_file(t);
	struct range r = pick_window(t, f, WINDOW_SIZE / SZ_4K);

	note(t, f->idx, r.first, r.nr, 0);
	succeed(t, "munmap", munmap(window_at(f, r.first), r.nr * SZ_4K));
}

static void clear_scratch(struct task *t)
{
	TEST_ASSERT(mmap(t->scratch, SCRATCH_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS |
			 MAP_NORESERVE | MAP_FIXED, -1, 0) == t->scratch,
		    "cannot reserve addresses: %s", strerror(errno));
}

static int try_map(struct task *t, size_t size, int prot, int flags, int fd, off_t offset)
{
	return mmap(t->scratch, size, prot, flags | MAP_FIXED, fd, offset) == MAP_FAILED ? -1 : 0;
}

static void op_map_odd(struct task *t)
{
	struct gfile *f = pick_file(t);
	const u64 how = rnd(t, 9), n = odd_number(t);
	const int rw = PROT_READ | PROT_WRITE, fd = f->fd;
	u64 word[NR_WORDS] = {}, beyond;
	int err;

	note(t, f->idx, how, n, 0);
	lock_file(t, f);
	switch (how) {
	case 0:
		refuse(t, "a private mapping", try_map(t, SZ_4K, rw, MAP_PRIVATE, fd, 0), EINVAL,
		       ENODEV, EBADF);
		break;
	case 1:
		refuse(t, "an executable mapping",
		       try_map(t, SZ_4K, rw | PROT_EXEC, MAP_SHARED, fd, 0), EPERM, ENODEV, EBADF);
		break;
	case 2:
		refuse(t, "a mapping at half a page",
		       try_map(t, SZ_4K, rw, MAP_SHARED, fd, 1 + n % (SZ_4K - 1)), EINVAL);
		break;
	case 3:
		refuse(t, "a mapping of nothing", try_map(t, 0, rw, MAP_SHARED, fd, 0), EINVAL,
		       EBADF);
		break;
	case 4:
		refuse(t, "MAP_SYNC",
		       try_map(t, SZ_4K, rw, MAP_SHARED_VALIDATE | MAP_SYNC, fd, 0), EOPNOTSUPP,
		       ENODEV, EBADF, EINVAL);
		break;
	case 5:
		refuse(t, "MAP_HUGETLB", try_map(t, SZ_2M, rw, MAP_SHARED | MAP_HUGETLB, fd, 0),
		       EINVAL, EBADF);
		break;
	case 6:
		allow(t, "a populated mapping",
		      try_map(t, SZ_64K, rw, MAP_SHARED | MAP_POPULATE | (n % 2 ? MAP_LOCKED : 0),
			      fd, 0), ENODEV, EBADF, ENOMEM, EAGAIN, EPERM);
		break;
	default:
		/* Beyond the end there is nothing. */
		beyond = f->size + n % 1024 * SZ_4K;
		err = allow(t, "a mapping beyond the end",
			    try_map(t, SZ_4K, rw, MAP_SHARED, fd, beyond), ENODEV, EBADF, ENOMEM,
			    EOVERFLOW, EINVAL);
		if (err)
			break;
		err = access_page(t, t->scratch, word, n % 2);
		if (err != EFAULT && err != EINTR)
			fail(t, "beyond the end of file %d: error %d, reads 0x%lx", f->idx, err,
			     word[0]);
		break;
	}
	clear_scratch(t);
	unlock_file(t, f);
}

static void op_mprotect(struct task *t)
{
	static const int prots[] = {
		PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE, PROT_WRITE,
	};
	struct gfile *f = pick_file(t);
	struct range r = pick_window(t, f, WINDOW_SIZE / SZ_4K);
	const u64 which = rnd(t, 6);

	note(t, f->idx, r.first, r.nr, which);
	if (which == 5)
		refuse(t, "mprotect to executable",
		       mprotect(window_at(f, r.first), r.nr * SZ_4K, PROT_READ | PROT_EXEC),
		       EACCES, ENOMEM);
	else
		allow(t, "mprotect",
		      mprotect(window_at(f, r.first), r.nr * SZ_4K, prots[which]), ENOMEM, EACCES,
		      EINVAL);
}

/* Look at pages where mremap() has moved or copied their mapping. */
static void op_mremap(struct task *t)
{
	struct gfile *f = pick_file(t);
	struct range r = pick_window(t, f, SCRATCH_SIZE / SZ_4K / 2);
	const u64 how = rnd(t, 3), n = rnd64(t);
	const size_t size = r.nr * SZ_4K, old_size = how == 1 ? 0 : size;
	u64 word[NR_WORDS], page;
	struct expected x;
	void *p;
	int i, err;

	note(t, f->idx, r.first, r.nr, how);
	lock_file(t, f);
	/* The third way: twice as large, with what follows in the file. */
	p = mremap(window_at(f, r.first), old_size, how == 2 ? 2 * size : size,
		   MREMAP_MAYMOVE | MREMAP_FIXED, t->scratch);
	err = allow(t, "mremap", p == MAP_FAILED ? -1 : 0, EFAULT, ENOMEM, EINVAL, EAGAIN);
	if (!err) {
		page = n % r.nr;
		x = expect_page(f, f->mapped, r.first + page);
		if (!access_page(t, t->scratch + page * SZ_4K, word, false))
			for (i = 0; i < NR_WORDS; i++)
				check_word(t, word[i], &x, "the host, after mremap()");
	}
	clear_scratch(t);
	unlock_file(t, f);
}

static void op_mlock(struct task *t)
{
	struct gfile *f = pick_file(t);
	struct range r = pick_window(t, f, 512);
	void *p = window_at(f, r.first);
	const u64 how = rnd(t, 4);

	note(t, f->idx, r.first, r.nr, how);
	if (how == 0)
		allow(t, "mlock", mlock(p, r.nr * SZ_4K), ENOMEM, EAGAIN, EPERM, EINTR);
	else if (how == 1)
		allow(t, "mlock2", syscall(SYS_mlock2, p, r.nr * SZ_4K, 1 /* MLOCK_ONFAULT */),
		      ENOMEM, EAGAIN, EPERM, EINTR);
	else
		allow(t, "munlock", munlock(p, how == 2 ? r.nr * SZ_4K : SZ_4K), ENOMEM, EAGAIN,
		      EINTR);
}

static void op_madvise(struct task *t)
{
	static const int advices[] = {
		MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_DONTNEED,
		MADV_DONTNEED, MADV_FREE, MADV_DONTFORK, MADV_DOFORK, MADV_DOFORK,
		MADV_MERGEABLE, MADV_UNMERGEABLE,
		MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_DONTDUMP, MADV_DODUMP, MADV_WIPEONFORK,
		MADV_KEEPONFORK, MADV_COLD, MADV_PAGEOUT, MADV_PAGEOUT, MADV_POPULATE_READ,
		MADV_POPULATE_WRITE, MADV_POPULATE_WRITE, MADV_DONTNEED_LOCKED, MADV_COLLAPSE,
		MADV_GUARD_INSTALL, MADV_GUARD_REMOVE, MADV_GUARD_REMOVE, 5, 6, 7, 26, 99, 104,
		-1,
	};
	struct gfile *f = pick_file(t);
	struct range r = pick_window(t, f, 512);
	const int advice = advices[rnd(t, ARRAY_SIZE(advices))];
	int err;

	note(t, f->idx, r.first, r.nr, advice);
	err = madvise(window_at(f, r.first), r.nr * SZ_4K, advice);
	switch (advice) {
	case MADV_POPULATE_READ:
	case MADV_POPULATE_WRITE:
		allow(t, "MADV_POPULATE", err, EFAULT, ENOMEM, EINVAL, EAGAIN, EINTR);
		break;
	case MADV_FREE:
	case MADV_WIPEONFORK:
		/* For anonymous memory */
		refuse(t, "madvise", err, EINVAL, ENOMEM);
		break;
	case 5 ... 7:
	case 26:
	case 99:
	case 104:
	case -1:
		refuse(t, "an unknown advice", err, EINVAL);
		break;
	default:
		allow(t, "madvise", err, EINVAL, ENOMEM, EBUSY, EAGAIN, EACCES, EFAULT, EINTR,
		      EPERM);
		break;
	}
}

/* With a mapping alone, memory that may be private cannot be destroyed. */
static void op_remove(struct task *t)
{
	struct gfile *f = pick_file(t);
	struct range r = pick_window(t, f, 1024);
	int err;

	note(t, f->idx, r.first, r.nr, 0);
	err = madvise(window_at(f, r.first), r.nr * SZ_4K, MADV_REMOVE);
	if (is_private(f))
		refuse(t, "MADV_REMOVE", err, EINVAL, ENOMEM);
	else
		allow(t, "MADV_REMOVE", err, EINVAL, ENOMEM, EACCES, EINTR);
}

static void op_process_madvise(struct task *t)
{
	struct gfile *f = pick_file(t);
	struct range r = pick_window(t, f, 512);
	static const int advices[] = {
		MADV_COLD, MADV_PAGEOUT, MADV_WILLNEED, MADV_COLLAPSE, MADV_DONTNEED,
		MADV_GUARD_REMOVE, MADV_REMOVE,
	};
	const int advice = advices[rnd(t, ARRAY_SIZE(advices))];
	struct iovec iov = { window_at(f, r.first), r.nr * SZ_4K };
	const int fd = syscall(SYS_pidfd_open, getpid(), 0);

	note(t, f->idx, r.first, r.nr, advice);
	if (fd < 0)
		return;
	allow(t, "process_madvise", syscall(SYS_process_madvise, fd, &iov, 1, advice, 0), EINVAL,
	      ENOMEM, EBUSY, EAGAIN, EACCES, EFAULT, EPERM, EINTR);
	close(fd);
}

static void op_touch(struct task *t)
{
	struct gfile *f = pick_file(t);
	struct range r = pick_window(t, f, 8);
	const bool store = chance(t, 40);
	u64 word[NR_WORDS], i;
	struct expected x;
	int k, err;

	note(t, f->idx, r.first, r.nr, store);
	lock_file(t, f);
	for (i = r.first; i < r.first + r.nr; i++) {
		x = expect_page(f, f->mapped, i);
		for (k = 0; k < NR_WORDS; k++)
			word[k] = exact_tag(vm_serial(f), f->mapped, i);
		err = access_page(t, window_at(f, i), word, store);
		count_result(t, err);
		if (err == EINTR)
			break;
		for (k = 0; !err && !store && k < NR_WORDS; k++)
			check_word(t, word[k], &x, "the host");
	}
	unlock_file(t, f);
}

static long mempolicy(long nr, void *p, size_t size, long mode, u64 *nodes, long flags)
{
	return syscall(nr, p, size, mode, nodes, 64, flags);
}

static void op_policy(struct task *t)
{
	struct gfile *f = pick_file(t);
	struct range r = pick_window(t, f, 1024);
	void *p = window_at(f, r.first);
	const u64 how = rnd(t, 4), n = rnd64(t);
	u64 nodes = n & 1 ? 1 : 1 + (n >> 1) % 3;
	int mode = (n >> 4) % 7, status = 0, node = (n >> 8) % 2;
	long err;

	if (!have_policies)
		return;
	note(t, f->idx, r.first, r.nr, how << 8 | mode);
	switch (how) {
	case 0:
		allow(t, "mbind", mempolicy(SYS_mbind, p, r.nr * SZ_4K, mode, &nodes,
					    (n >> 12) % 8), EINVAL, EFAULT, EIO, ENOMEM, EPERM);
		break;
	case 1:
		/* No policy, so that memory is found again */
		nodes = 0;
		allow(t, "mbind", mempolicy(SYS_mbind, p, r.nr * SZ_4K, MPOL_DEFAULT, &nodes, 0),
		      EINVAL, EFAULT, EIO, ENOMEM);
		break;
	case 2:
		err = syscall(SYS_get_mempolicy, &mode, &nodes, 64, p, MPOL_F_ADDR |
			      (n % 2 ? MPOL_F_NODE : 0));
		allow(t, "get_mempolicy", err, EFAULT, EINVAL, ENOMEM, EINTR);
		break;
	default:
		err = syscall(SYS_move_pages, 0, 1, &p, &node, &status, MPOL_MF_MOVE);
		allow(t, "move_pages", err, EFAULT, EINVAL, ENODEV, EPERM, ENOENT,
		      EACCES);
		break;
	}
}

static void op_vm_readv(struct task *t)
{
	struct gfile *f = pick_file(t);
	/* One page: those that a call has got could be what the others wait for. */
	struct range r = pick_window(t, f, 1);
	const bool store = chance(t, 40);
	struct iovec local = { t->buf, SZ_4K }, remote = { window_at(f, r.first), SZ_4K };
	struct expected x;
	ssize_t n;
	int i;

	note(t, f->idx, r.first, r.nr, store);
	lock_file(t, f);
	x = expect_page(f, f->mapped, r.first);
	memset(t->buf, 0, SZ_4K);
	for (i = 0; store && i < NR_WORDS; i++)
		*word_at(t->buf, i) = exact_tag(vm_serial(f), f->mapped, r.first);
	n = syscall(store ? SYS_process_vm_writev : SYS_process_vm_readv, getpid(), &local, 1,
		    &remote, 1, 0);
	if (!allow(t, "process_vm_readv", n, EFAULT, ENOMEM, EPERM, EINTR) && !store && n == SZ_4K)
		check_page(t, t->buf, &x, "process_vm_readv");
	unlock_file(t, f);
}

static void op_proc_mem(struct task *t)
{
	struct gfile *f = pick_file(t);
	struct range r = pick_window(t, f, 1);
	const bool store = chance(t, 30);
	struct expected x;
	ssize_t n;
	int i;

	note(t, f->idx, r.first, r.nr, store);
	lock_file(t, f);
	x = expect_page(f, f->mapped, r.first);
	memset(t->buf, 0, SZ_4K);
	for (i = 0; store && i < NR_WORDS; i++)
		*word_at(t->buf, i) = exact_tag(vm_serial(f), f->mapped, r.first);
	n = store ? pwrite(mem_fd, t->buf, SZ_4K, (u64)window_at(f, r.first)) :
		    pread(mem_fd, t->buf, SZ_4K, (u64)window_at(f, r.first));
	if (!allow(t, "/proc/self/mem", n, EIO, EFAULT, EINTR) && !store && n == SZ_4K)
		check_page(t, t->buf, &x, "/proc/self/mem");
	unlock_file(t, f);
}

/* A file in between, by system calls that read and write the mapping */
static void op_rw(struct task *t)
{
	struct gfile *f = pick_file(t);
	struct range r = pick_window(t, f, 1);
	const bool store = chance(t, 40);
	struct expected x;
	ssize_t n;
	int i;

	note(t, f->idx, r.first, r.nr, store);
	lock_file(t, f);
	x = expect_page(f, f->mapped, r.first);
	memset(t->buf, 0, SZ_4K);
	if (store) {
		for (i = 0; i < NR_WORDS; i++)
			*word_at(t->buf, i) = exact_tag(vm_serial(f), f->mapped, r.first);
		TEST_ASSERT(pwrite(t->memfd, t->buf, SZ_4K, 0) == SZ_4K, "pwrite() failed");
		allow(t, "read to the mapping", pread(t->memfd, window_at(f, r.first), SZ_4K, 0),
		      EFAULT, EINTR);
	} else {
		n = pwrite(t->memfd, window_at(f, r.first), SZ_4K, 0);
		if (!allow(t, "write from the mapping", n, EFAULT, EINTR) && n == SZ_4K) {
			TEST_ASSERT(pread(t->memfd, t->buf, SZ_4K, 0) == SZ_4K,
				    "pread() failed");
			check_page(t, t->buf, &x, "write()");
		}
	}
	unlock_file(t, f);
}

static void op_mincore(struct task *t)
{
	struct gfile *f = pick_file(t);
	struct range r = pick_window(t, f, 512);

	note(t, f->idx, r.first, r.nr, 0);
	allow(t, "mincore", mincore(window_at(f, r.first), r.nr * SZ_4K, t->buf), ENOMEM, EAGAIN);
	if (!t->stranger)
		allow(t, "pagemap", pread(pagemap_fd, t->buf, r.nr * sizeof(u64),
					  (u64)window_at(f, r.first) / SZ_4K * sizeof(u64)),
		      EINTR, EFAULT);
	allow(t, "msync", msync(window_at(f, r.first), r.nr * SZ_4K, MS_SYNC), ENOMEM, EBUSY,
	      EINVAL);
}

static void op_uffd(struct task *t)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct gfile *f = pick_file(t);
	struct range r = pick_window(t, f, 512);
	struct uffdio_register reg = {
		.range = { (u64)window_at(f, r.first), r.nr * SZ_4K },
		.mode = 1ULL << rnd(t, 3),
	};
	const int fd = syscall(SYS_userfaultfd, UFFD_USER_MODE_ONLY | O_CLOEXEC | O_NONBLOCK);

	note(t, f->idx, r.first, r.nr, reg.mode);
	if (fd < 0)
		return;
	if (!ioctl(fd, UFFDIO_API, &api))
		refuse(t, "userfaultfd", ioctl(fd, UFFDIO_REGISTER, &reg), EINVAL, ENOMEM);
	close(fd);
}

static void op_poison(struct task *t)
{
	struct gfile *f = pick_file(t);
	struct range r = pick_window(t, f, 1);
	const bool do_it = chance(t, 20);

	if (!with_poison || !do_it)
		return;
	if (__atomic_add_fetch(&s->nr_poisoned, 1, __ATOMIC_RELAXED) > MAX_POISON) {
		__atomic_sub_fetch(&s->nr_poisoned, 1, __ATOMIC_RELAXED);
		return;
	}
	note(t, f->idx, r.first, 0, 0);
	lock_file(t, f);
	access_at = window_at(f, r.first);
	/* A page that the kernel can handle costs this task a signal. */
	if (!sigsetjmp(access_env, 0)) {
		WRITE_ONCE(in_access, true);
		allow(t, "MADV_HWPOISON", madvise(access_at, SZ_4K, MADV_HWPOISON), EBUSY, EINVAL,
		      EIO, EFAULT, ENOMEM, EOPNOTSUPP, EAGAIN, EINTR);
	}
	WRITE_ONCE(in_access, false);
	unlock_file(t, f);
}

/*
 * Steps: pages in pipes.  A pipe has one page at most.  A task that waits for a page
 * thus does not keep another one, which a second task could be waiting for.
 */

static void drain_pin(struct task *t, struct pin *p)
{
	ssize_t n = read(p->fd[0], t->buf, SZ_4K);

	if (n == SZ_4K)
		check_page(t, t->buf, &p->expected, "a pipe");
	p->since = 0;
}

static void op_pin(struct task *t)
{
	struct gfile *f = pick_file(t);
	struct range r = pick_window(t, f, 1);
	struct pin *p = &pins[rnd(t, NR_PIPES)];
	const bool drain = chance(t, 30), take_away = chance(t, 60);
	struct iovec iov = { window_at(f, r.first), SZ_4K };
	ssize_t n;

	note(t, f->idx, r.first, p - pins, drain);
	if (pthread_mutex_trylock(&p->lock))
		return;
	if (p->since) {
		if (drain)
			drain_pin(t, p);
	} else {
		lock_file(t, f);
		p->expected = expect_page(f, f->mapped, r.first);
		n = vmsplice(p->fd[1], &iov, 1, SPLICE_F_NONBLOCK);
		if (!allow(t, "vmsplice", n, EFAULT, EAGAIN, ENOMEM, EINTR) && n)
			p->since = conv_now();
		/* That fails, unless the page has been punched out. */
		if (p->since && take_away && f->serial && f->serial == f->mapped && converts(f))
			convert(t, f, f->fd, r, true);
		unlock_file(t, f);
	}
	pthread_mutex_unlock(&p->lock);
}

/*
 * Steps: processes
 */

static void run_child(struct task *t);

static void op_fork(struct task *t)
{
	const u64 life = 1 + rnd(t, 200);
	const bool kill_it = chance(t, 30);
	int i, status;
	pid_t pid, r;

	note(t, life, kill_it, 0, 0);
	/* The child is to find the files in a state that fits what is known of them. */
	for (i = 0; i < NR_FILES; i++)
		lock_file(t, &files[i]);
	pid = fork();
	if (!pid) {
		run_child(t);
		_exit(0);
	}
	for (i = 0; i < NR_FILES; i++)
		unlock_file(t, &files[i]);
	if (allow(t, "fork", pid, EAGAIN, ENOMEM))
		return;

	for (i = 0; (!kill_it || i < life) && i < 2000; i++) {
		r = waitpid(pid, &status, WNOHANG);
		if (r)
			break;
		usleep(1000);
	}
	if (!r) {
		kill(pid, SIGKILL);
		while ((r = waitpid(pid, &status, 0)) < 0 && errno == EINTR)
			;
	}
	if (r != pid)
		fail(t, "waitpid: %s", strerror(errno));
	/* If it was killed, its last step has no end. */
	s->log[t->id + MAX_THREADS].tid = 0;
	if (status && !(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL))
		fail(t, "a child ended with status 0x%x", status);
	saw(SEEN_CHILD);
}

/* Of a child: the VM is not its own, but the files are. */
static void op_foreign(struct task *t)
{
	struct vm *vm = pick_vm(t);
	struct gfile *f = pick_file(t);

	note(t, vm - vms, f->idx, 0, 0);
	refuse(t, "KVM_CREATE_GUEST_MEMFD of another process",
	       create_file(vm->vm->fd, SZ_2M, 0), EIO);
	refuse(t, "KVM_SET_USER_MEMORY_REGION2 of another process",
	       set_region(vm, FIRST_SLOT, KVM_MEM_GUEST_MEMFD, slot_gpa(0), f->page_size,
			  (u64)f->window, f->fd, 0), EIO);
	refuse(t, "KVM_SET_MEMORY_ATTRIBUTES of another process",
	       vm_attributes(vm, ANCHOR_GPA, SZ_4K, KVM_MEMORY_ATTRIBUTE_PRIVATE, 0), EIO);
	refuse(t, "KVM_RUN of another process", ioctl(vm->vcpu[0]->fd, KVM_RUN, NULL), EIO);
}

struct offer {
	u64 key;
	u64 size;
	u64 page_size;
	u64 flags;
	u32 serial;
	u32 vm_serial;
	int idx;
	int vm;
	int vault;
	int vmm;
};

/* Give a file to the process without privilege. */
static void op_offer(struct task *t)
{
	struct gfile *f = pick_file(t);
	struct offer o = { .key = rnd64(t) };
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {};
	struct iovec iov = { &o, sizeof(o) };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.buf,
		.msg_controllen = sizeof(control.buf),
	};
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

	note(t, f->idx, 0, 0, 0);
	lock_file(t, f);
	o.size = f->size;
	o.page_size = f->page_size;
	o.flags = f->flags;
	o.serial = f->serial;
	o.vm_serial = vm_serial(f);
	o.idx = f->idx;
	o.vm = f->vm;
	o.vault = f->vault;
	o.vmm = getpid();
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &f->fd, sizeof(int));
	allow(t, "SCM_RIGHTS", sendmsg(stranger_fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL), EAGAIN,
	      EBADF, EINTR);
	unlock_file(t, f);
}

/* Of the process without privilege: get at more than the file. */
static void op_reach(struct task *t)
{
	struct gfile *f = pick_file(t);
	const u64 how = rnd(t, 5), n = rnd(t, 64);
	struct iovec local = { t->buf, SZ_4K }, remote = { (void *)ARENA, SZ_4K };
	char path[64];
	int fd, vm_fd;

	note(t, f->idx, how, n, 0);
	switch (how) {
	case 0:
		fd = syscall(SYS_pidfd_open, t->vmm, 0);
		if (fd < 0)
			break;
		refuse(t, "pidfd_getfd", syscall(SYS_pidfd_getfd, fd, n, 0), EPERM, ESRCH, EBADF);
		close(fd);
		break;
	case 1:
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", t->vmm, n & 1 ? FD_BASE : (int)n);
		refuse(t, "opening a file of the VMM", open(path, O_RDWR), EACCES, ENOENT, EPERM,
		       ESRCH);
		break;
	case 2:
		refuse(t, "process_vm_readv of the VMM",
		       syscall(SYS_process_vm_readv, t->vmm, &local, 1, &remote, 1, 0), EPERM,
		       ESRCH);
		break;
	case 3:
		refuse(t, "PTRACE_SEIZE of the VMM", ptrace(PTRACE_SEIZE, t->vmm, 0, 0), EPERM,
		       ESRCH);
		break;
	default:
		/* A VM of its own, if that is allowed, does not get the memory. */
		fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
		if (allow(t, "opening /dev/kvm", fd, EACCES, EPERM, ENOENT))
			break;
		vm_fd = ioctl(fd, KVM_CREATE_VM, KVM_X86_SW_PROTECTED_VM);
		if (vm_fd >= 0) {
			struct kvm_userspace_memory_region2 region = {
				.flags = KVM_MEM_GUEST_MEMFD,
				.guest_phys_addr = TEST_GPA,
				.memory_size = f->page_size,
				.userspace_addr = (u64)f->window,
				.guest_memfd = f->fd,
			};

			refuse(t, "the file in a VM of its own",
			       ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION2, &region), EINVAL);
			close(vm_fd);
		}
		close(fd);
		break;
	}
}

static void check_zero(struct task *t, const u64 *word, const char *what)
{
	int i;

	for (i = 0; i < NR_WORDS; i++)
		if (word[i])
			fail(t, "%s reads 0x%lx, not 0", what, word[i]);
}

/* A VM that lives for one step.  What it has must be new, and is its own. */
static void op_short_life(struct task *t)
{
	const bool private = chance(t, 70), bind_it = chance(t, 50), vm_first = chance(t, 50);
	const u64 which = rnd(t, 20), at = rnd64(t), nr = 1 + rnd(t, 2);
	const size_t huge = !private || which < 10 ? SZ_4K : which < 19 || page_size != SZ_1G ?
			    SZ_2M : SZ_1G;
	const u64 size = huge == SZ_4K ? SZ_256K : nr * huge;
	const u64 index = at % (size / SZ_4K), base = round_down(index * SZ_4K, huge);
	const u64 flags = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED | size_flags(huge);
	struct gfile f = { .idx = NR_FILES - 1, .size = size, .page_size = huge };
	struct range r = { index, 1 };
	struct vm vm = { .serial = next_vm(), .private = private };
	struct kvm_vm kvm = {};
	u64 word[NR_WORDS], tag = loose_tag(vm.serial, index);
	int vm_fd, fd, i, err;

	if (huge != SZ_4K && !pool_exists(__builtin_ctzl(huge)))
		return;
	note(t, private, huge, size, index);
	vm_fd = ioctl(kvm_fd, KVM_CREATE_VM, private ? KVM_X86_SW_PROTECTED_VM : 0);
	if (allow(t, "KVM_CREATE_VM", vm_fd, ENOMEM, EINTR))
		return;
	kvm.fd = vm_fd;
	vm.vm = &kvm;
	fd = create_file(vm_fd, size, flags);
	if (allow(t, "create", fd, ENOMEM))
		goto close_vm;
	succeed(t, "mmap", try_map(t, SZ_4K, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
				   index * SZ_4K));
	if (bind_it)
		succeed(t, "bind", set_region(&vm, 1, KVM_MEM_GUEST_MEMFD, TEST_GPA, size,
					      (u64)t->scratch, fd, 0));
	refuse(t, "the file of another VM",
	       set_region(&vm, 2, KVM_MEM_GUEST_MEMFD, TEST_GPA + 4ULL * SZ_1G,
			  files[0].page_size, (u64)t->scratch, files[0].fd, 0), EINVAL);

	/* An access fails for want of memory, or because it takes too long. */
	if (access_page(t, t->scratch, word, false))
		goto close;
	check_zero(t, word, "a new page");
	for (i = 0; i < NR_WORDS; i++)
		word[i] = tag;
	if (access_page(t, t->scratch, word, true))
		goto close;
	if (private) {
		if (convert(t, &f, fd, r, true))
			goto close;
		err = access_page(t, t->scratch, word, false);
		if (err != EFAULT && err != EINTR)
			fail(t, "a private page can be read, error %d", err);
		if (convert(t, &f, fd, r, false))
			goto close;
	}
	if (access_page(t, t->scratch, word, false))
		goto close;
	for (i = 0; i < NR_WORDS; i++)
		if (word[i] != tag)
			fail(t, "a page reads 0x%lx, not what was written",
			     word[i]);
	err = allow(t, "punch", fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, base,
					  huge), EINTR);
	if (!err && !access_page(t, t->scratch, word, false))
		check_zero(t, word, "a hole");
close:
	if (vm_first) {
		close(vm_fd);
		vm_fd = -1;
	}
	close(fd);
	clear_scratch(t);
close_vm:
	if (vm_fd >= 0)
		close(vm_fd);
}

/* What else goes on in a host */
static void op_perturb(struct task *t)
{
	static const char * const paths[] = {
		"/proc/sys/vm/drop_caches",
		"/proc/sys/vm/compact_memory",
	};
	const u64 n = rnd(t, 4);
	int fd;

	note(t, n, 0, 0, 0);
	fd = open(paths[n & 1], O_WRONLY);
	if (fd < 0)
		return;
	(void)!write(fd, n & 2 ? "3" : "1", 1);
	close(fd);
}

static void op_signal(struct task *t)
{
	struct task *other = &tasks[rnd(t, nr_threads)];

	note(t, other->id, 0, 0, 0);
	if (READ_ONCE(other->log) && !READ_ONCE(other->ended))
		syscall(SYS_tgkill, getpid(), other->log->tid, SIGUSR1);
}

static void op_rest(struct task *t)
{
	usleep(rnd(t, 3000));
}

/*
 * The steps there are, and which tasks take them
 */

#define BY_THREAD	1
#define BY_CHILD	2
#define BY_STRANGER	4
#define BY_VCPU		8
#define BY_KEEPER	16
#define BY_ALL		(BY_THREAD | BY_CHILD | BY_STRANGER)

static const struct op {
	void (*fn)(struct task *t);
	const char *name;
	int weight;
	int by;
} ops[] = {
	{ op_create, "create", 14, BY_THREAD },
	{ op_create_odd, "create, odd", 10, BY_THREAD },
	{ op_close, "close", 5, BY_THREAD },
	{ op_dup, "dup", 5, BY_THREAD },
	{ op_fallocate, "fallocate", 20, BY_ALL },
	{ op_fallocate_odd, "fallocate, odd", 8, BY_ALL },
	{ op_fdinfo, "fdinfo", 10, BY_ALL },
	{ op_stat, "fstat", 5, BY_ALL },
	{ op_file_odd, "other calls with the file", 20, BY_ALL },
	{ op_convert, "convert by the file", 70, BY_ALL },
	{ op_convert_odd, "convert by the file, odd", 10, BY_ALL },
	{ op_convert_vm, "convert by the VM", 40, BY_THREAD },
	{ op_convert_vm_odd, "convert by the VM, odd", 6, BY_THREAD },
	{ op_bind, "bind", 30, BY_THREAD },
	{ op_bind_plain, "memslot without a file", 12, BY_THREAD },
	{ op_slot_change, "change a memslot", 10, BY_THREAD },
	{ op_unbind, "delete a memslot", 20, BY_THREAD },
	{ op_bind_odd, "bind, odd", 12, BY_THREAD },
	{ op_dirty_log, "dirty log", 4, BY_THREAD },
	{ op_capability, "capability", 2, BY_THREAD },
	{ op_guest, "guest", 350, BY_VCPU },
	{ op_prefault, "KVM_PRE_FAULT_MEMORY", 40, BY_VCPU },
	{ op_vault, "vault", 150, BY_KEEPER },
	{ op_map, "mmap", 30, BY_ALL },
	{ op_unmap, "munmap", 5, BY_ALL },
	{ op_map_odd, "mmap, odd", 10, BY_ALL },
	{ op_mprotect, "mprotect", 8, BY_ALL },
	{ op_mremap, "mremap", 8, BY_ALL },
	{ op_mlock, "mlock, munlock", 14, BY_ALL },
	{ op_madvise, "madvise", 40, BY_ALL },
	{ op_remove, "MADV_REMOVE", 6, BY_ALL },
	{ op_process_madvise, "process_madvise", 5, BY_ALL },
	{ op_touch, "touch", 90, BY_ALL },
	{ op_policy, "memory policy", 14, BY_ALL },
	{ op_vm_readv, "process_vm_readv, writev", 14, BY_ALL },
	{ op_proc_mem, "/proc/self/mem", 10, BY_THREAD },
	{ op_rw, "read, write by the mapping", 14, BY_ALL },
	{ op_mincore, "mincore, pagemap, msync", 6, BY_THREAD | BY_STRANGER },
	{ op_uffd, "userfaultfd", 4, BY_ALL },
	{ op_poison, "memory error", 2, BY_THREAD },
	{ op_pin, "vmsplice", 24, BY_THREAD },
	{ op_fork, "fork", 6, BY_THREAD },
	{ op_foreign, "VM of another process", 20, BY_CHILD },
	{ op_offer, "give away", 12, BY_THREAD },
	{ op_reach, "reach for the VMM", 60, BY_STRANGER },
	{ op_short_life, "short-lived VM", 8, BY_THREAD },
	{ op_perturb, "drop caches, compact", 1, BY_THREAD },
	{ op_signal, "signal", 4, BY_THREAD },
	{ op_rest, "rest", 12, BY_THREAD },
};

static_assert(ARRAY_SIZE(ops) <= MAX_OPS, "too few places for the results of all steps");

static int task_kind(const struct task *t)
{
	if (t->child)
		return BY_CHILD;
	if (t->stranger)
		return BY_STRANGER;
	return BY_THREAD | (t->vm ? BY_VCPU : 0) |
	       (t->vm && t->vm->private && !t->vcpu ? BY_KEEPER : 0);
}

static int pick_op(struct task *t)
{
	const int kind = task_kind(t);
	int i, total = 0, n;

	for (i = 0; i < ARRAY_SIZE(ops); i++)
		total += ops[i].by & kind ? ops[i].weight : 0;
	n = rnd(t, total);
	for (i = 0; i < ARRAY_SIZE(ops); i++) {
		n -= ops[i].by & kind ? ops[i].weight : 0;
		if (n < 0)
			break;
	}
	return i;
}

/*
 * Coverage
 */

#define KCOV_ENTRIES	(32 << 10)

static bool kcov_start(struct task *t)
{
	const int fd = open("/sys/kernel/debug/kcov", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return false;
	if (ioctl(fd, KCOV_INIT_TRACE, KCOV_ENTRIES))
		goto close;
	t->kcov = mmap(NULL, KCOV_ENTRIES * sizeof(u64), PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		       0);
	if (t->kcov == MAP_FAILED)
		goto close;
	if (!ioctl(fd, KCOV_ENABLE, KCOV_TRACE_PC))
		return true;	/* until the thread ends; the descriptor stays open */
close:
	t->kcov = NULL;
	close(fd);
	return false;
}

static void add_pc(u64 pc)
{
	u64 i = hash(pc), none;

	for (;; i++) {
		u64 *slot = &s->pc[i % NR_PCS];

		none = READ_ONCE(*slot);
		if (none == pc)
			return;
		if (none)
			continue;
		/* Full: give up on new ones. */
		if (READ_ONCE(s->nr_pcs) > NR_PCS / 2)
			return;
		if (__atomic_compare_exchange_n(slot, &none, pc, false, __ATOMIC_RELAXED,
						__ATOMIC_RELAXED)) {
			__atomic_add_fetch(&s->nr_pcs, 1, __ATOMIC_RELAXED);
			return;
		}
		if (none == pc)
			return;
	}
}

static void kcov_collect(struct task *t)
{
	u64 i, n;

	if (!t->kcov)
		return;
	n = min_t(u64, READ_ONCE(t->kcov[0]), KCOV_ENTRIES - 1);
	for (i = 1; i <= n; i++)
		add_pc(t->kcov[i]);
	WRITE_ONCE(t->kcov[0], 0);
}

/*
 * Tasks
 */

static void take_step(struct task *t)
{
	struct record *rec;

	t->key = hash_with(round_key, (u64)t->id << 32 | t->n);
	t->nr_draws = 0;
	t->op = pick_op(t);
	rec = &t->log->record[t->log->nr % NR_RECORDS];
	*rec = (struct record) { .n = t->n, .op = t->op, .begin = conv_now() };
	WRITE_ONCE(t->log->nr, t->log->nr + 1);
	t->rec = rec;

	ops[t->op].fn(t);
	if (planted("hang") && t->n == 20)
		for (;;)
			pause();
	kcov_collect(t);

	WRITE_ONCE(rec->end, conv_now());
	t->n++;
}

static void begin_log(struct task *t, int nr)
{
	struct task_log *log = &s->log[nr];

	memset(log, 0, sizeof(*log));
	log->tid = syscall(SYS_gettid);
	WRITE_ONCE(t->log, log);
}

/* No step is to be without an end for want of a signal. */
static void start_timer(void)
{
	const struct itimerval timer = { { 1, 0 }, { 1, 0 } };

	TEST_ASSERT(!setitimer(ITIMER_REAL, &timer, NULL), "setitimer() failed");
}

static void run_child(struct task *parent)
{
	const u64 n = parent->n;
	struct task t = *parent;
	int i, nr = 4 + rnd(parent, 20);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	t.child = true;
	t.kcov = NULL;
	/* Its numbers are not those of the parent's next steps. */
	t.id = parent->id + MAX_THREADS;
	t.n = n << 8;
	begin_log(&t, t.id);
	start_timer();
	for (i = 0; i < nr && !READ_ONCE(s->stop); i++)
		take_step(&t);
}

static void *run_thread(void *arg)
{
	struct task *t = arg;
	const bool pauses = round_key & 1;
	const double start = conv_now();

	if (with_kcov)
		kcov_start(t);
	begin_log(t, t->id);
	for (t->n = 0; t->n < STEPS_PER_ROUND && !READ_ONCE(s->stop);) {
		/* Let pages be merged, and go on when they are about to be. */
		while (pauses && (u64)((conv_now() - start) * 1000) % 4000 > 2700 &&
		       !READ_ONCE(s->stop))
			usleep(10000);
		take_step(t);
	}
	if (planted("crash") && !t->id)
		raise(SIGSEGV);
	WRITE_ONCE(t->ended, true);
	return NULL;
}

static void keep_addresses(u64 addr, u64 size)
{
	TEST_ASSERT(mmap((void *)addr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS |
			 MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0) == (void *)addr,
		    "cannot have addresses at 0x%lx: %s", addr, strerror(errno));
}

static void init_task(struct task *t, int id, u64 scratch)
{
	*t = (struct task) { .id = id, .dup_fd = -1, .files = files, .nr_files = NR_FILES };
	keep_addresses(scratch, SCRATCH_SIZE);
	t->scratch = (u8 *)scratch;
	t->buf = kvm_mmap(SZ_64K, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	t->memfd = kvm_memfd_alloc(SZ_4K, false);
}

/*
 * The process without privilege
 */

static u64 window_of(int idx)
{
	return ARENA + idx * WINDOW_SIZE;
}

static void take_file(struct task *t, struct gfile *f, const struct offer *o, int fd)
{
	const u64 size = min(o->size, WINDOW_SIZE);
	bool failed;
	void *p;

	if (f->fd >= 0) {
		close(f->fd);
		munmap(f->window, WINDOW_SIZE);
	}
	f->fd = fd;
	f->idx = o->idx;
	f->vm = o->vm;
	f->size = o->size;
	f->page_size = o->page_size;
	f->vault = o->vault;
	f->flags = o->flags;
	f->serial = o->serial;
	vms[o->vm].serial = o->vm_serial;
	t->vmm = o->vmm;
	p = mmap(f->window, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
	failed = p == MAP_FAILED;
	if (failed != !(o->flags & GUEST_MEMFD_FLAG_MMAP))
		fail(t, "mmap without privilege: %s, flags 0x%lx", strerror(errno),
		     o->flags);
	f->mapped = failed ? 0 : o->serial;
}

static void drop_privilege(void)
{
	TEST_ASSERT(!setgroups(0, NULL) && !setresgid(65534, 65534, 65534) &&
		    !setresuid(65534, 65534, 65534) && !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
		    "cannot drop privileges: %s", strerror(errno));
	/* As if it had been executed so */
	prctl(PR_SET_DUMPABLE, 1);
	TEST_ASSERT(setuid(0) && errno == EPERM, "setuid(0) without privilege");
}

static void __noreturn run_stranger(int sock)
{
	static struct gfile kept[NR_KEPT];
	static struct task task;
	struct task *t = &task;
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct offer o;
	struct iovec iov = { &o, sizeof(o) };
	u64 nr = 0;
	int i, fd, steps;
	ssize_t n;

	init_task(t, STRANGER, window_of(NR_KEPT));
	t->stranger = true;
	t->files = kept;
	begin_log(t, STRANGER);
	for (i = 0; i < NR_KEPT; i++) {
		kept[i].fd = -1;
		kept[i].window = (u8 *)window_of(i);
	}
	for (i = 0; i < NR_VMS; i++)
		vms[i].private = i != NR_VMS - 1;
	drop_privilege();
	start_timer();

	for (;;) {
		struct msghdr msg = {
			.msg_iov = &iov,
			.msg_iovlen = 1,
			.msg_control = control.buf,
			.msg_controllen = sizeof(control.buf),
		};
		struct cmsghdr *c;

		n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
		if (n < 0 && errno == EINTR)
			continue;
		if (n != sizeof(o))
			_exit(0);
		c = CMSG_FIRSTHDR(&msg);
		if (!c || c->cmsg_type != SCM_RIGHTS)
			fail(t, "a message without a file");
		memcpy(&fd, CMSG_DATA(c), sizeof(fd));

		/* Those before stay open, and mapped, for a while. */
		take_file(t, &kept[nr % NR_KEPT], &o, fd);
		nr++;
		t->nr_files = min_t(u64, nr, NR_KEPT);
		t->n = o.key >> 16;
		steps = 4 + o.key % 12;
		for (i = 0; i < steps && !READ_ONCE(s->stop); i++)
			take_step(t);
		saw_many(SEEN_STRANGER, i);
	}
}

/*
 * A round
 */

/* How large file @idx is, and of which pages */
static void choose_size(struct gfile *f, u64 *avail_2m, u64 *avail_1g)
{
	const u64 n = hash_with(round_key, 1000 + f->idx);
	const bool anchor = f->idx < NR_VMS;
	/* It takes long to clear a page of 1G: one anchor of them, and another file at most */
	const bool no_1g = f->idx != (round_key >> 16 & 1) && (f->idx != NR_VMS || n & 1);
	size_t size = page_size;
	u64 nr, *avail;

	if (!anchor && n % 10 < 4)
		size = n % 10 < 2 ? SZ_4K : SZ_2M;
	/* The VM without private memory cannot show huge pages to the host. */
	if (f->idx == NR_VMS - 1)
		size = SZ_4K;

	for (;; size = size == SZ_1G ? SZ_2M : SZ_4K) {
		if (size == SZ_4K) {
			nr = 256 + n / 16 % 1024;
			/* Once in a while one that is larger than any memory */
			if (!anchor && n % 31 == 0)
				nr = 1ULL << 28;
			break;
		}
		if (size == SZ_1G && no_1g)
			continue;
		nr = 1 + n / 16 % (size == SZ_1G ? 2 : 6);
		if (anchor)
			nr = size == SZ_1G ? 1 : 2 + nr / 3;
		/* Anchors have to be created; of others more may be asked for than there are. */
		avail = size == SZ_1G ? avail_1g : avail_2m;
		if (!pool_exists(__builtin_ctzl(size)))
			continue;
		if (!anchor)
			break;
		if (*avail >= nr) {
			*avail -= nr;
			break;
		}
	}
	f->page_size = size;
	f->size = nr * size;
}

static void set_up_vm(struct vm *vm, int idx)
{
	const struct vm_shape shape = {
		.mode = VM_MODE_DEFAULT,
		.type = idx == NR_VMS - 1 ? KVM_X86_DEFAULT_VM : KVM_X86_SW_PROTECTED_VM,
	};
	struct userspace_mem_region *region;
	int i;

	vm->private = idx != NR_VMS - 1;
	vm->serial = next_vm();
	vm->nr_vcpus = vm->private ? NR_VCPUS : 1;
	vm->vm = __vm_create_with_vcpus(shape, vm->nr_vcpus, 0, guest_code, vm->vcpu);
	virt_map_level(vm->vm, TEST_GPA, TEST_GPA, ZONE_GPA + ZONE_SIZE - TEST_GPA, PG_LEVEL_1G);
	for (i = 0; i < vm->nr_vcpus; i++) {
		vcpu_args_set(vm->vcpu[i], 1, i);
		vm->mailbox[i] = addr_gva2hva(vm->vm, (gva_t)&mailboxes[i]);
		vcpu_regs_get(vm->vcpu[i], &vm->start[i]);
	}

	/* A child need not have the guest's own memory, copied when it changes. */
	region = memslot2region(vm->vm, 0);
	madvise(region->mmap_start, region->mmap_size, MADV_DONTFORK);

	/* A neighbour reaches into what is behind the last memslot. */
	vm->anon = kvm_mmap(ZONE_SIZE + 2UL * SZ_1G, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
	madvise(vm->anon, ZONE_SIZE + 2UL * SZ_1G, MADV_NOHUGEPAGE);
	madvise(vm->anon, ZONE_SIZE + 2UL * SZ_1G, MADV_DONTFORK);
}

static void init_lock(pthread_rwlock_t *lock)
{
	pthread_rwlockattr_t attr;

	pthread_rwlockattr_init(&attr);
	/* A task that changes a file is not to wait for ever. */
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	TEST_ASSERT(!pthread_rwlock_init(lock, &attr), "pthread_rwlock_init() failed");
	pthread_rwlockattr_destroy(&attr);
}

static void set_up_file(struct gfile *f, int idx, u64 *avail_2m, u64 *avail_1g)
{
	struct vm *vm = &vms[idx % NR_VMS];
	u64 size;
	void *p;
	int fd;

	f->idx = idx;
	f->vm = idx % NR_VMS;
	f->fd = FD_BASE + idx;
	f->window = (u8 *)window_of(idx);
	f->vault = idx < NR_VMS - 1;
	init_lock(&f->lock);
	choose_size(f, avail_2m, avail_1g);

	f->flags = GUEST_MEMFD_FLAG_MMAP | size_flags(f->page_size);
	if (f->page_size == SZ_4K && !vm->private)
		f->flags |= GUEST_MEMFD_FLAG_INIT_SHARED;
	if (vm->private && (round_key >> (8 + idx)) & 1)
		f->flags |= GUEST_MEMFD_FLAG_INIT_SHARED;
	fd = create_file(vm->vm->fd, f->size, f->flags);
	if (fd < 0 && idx >= NR_VMS)
		return;
	TEST_ASSERT(fd >= 0, "cannot create an anchor of %lu pages of %lu: %s",
		    f->size / f->page_size, f->page_size, strerror(errno));
	TEST_ASSERT(dup3(fd, f->fd, O_CLOEXEC) == f->fd, "dup3() failed");
	close(fd);
	set_serial(f);
	size = min(f->size, WINDOW_SIZE);
	p = mmap(f->window, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, f->fd, 0);
	TEST_ASSERT(p == f->window, "cannot map file %d: %s", idx, strerror(errno));
	f->mapped = f->serial;

	/* The memslot of the anchor stays, others do not. */
	size = min(size, SZ_1G + 0UL);
	TEST_ASSERT(!set_region(vm, idx < NR_VMS ? TEST_SLOT : FIRST_SLOT + idx - NR_VMS,
				KVM_MEM_GUEST_MEMFD,
				idx < NR_VMS ? ANCHOR_GPA : slot_gpa(idx - NR_VMS), size,
				(u64)f->window, f->fd, 0), "cannot bind file %d: %s", idx,
		    strerror(errno));
}

/* Memory where a VM has no file: an access without a memslot is slow, and tells little. */
static void set_up_plain(struct vm *vm)
{
	int i;

	for (i = 0; i < NR_SLOTS; i++) {
		const u64 hva = (u64)vm->anon + (u64)i * SZ_1G;

		/* EEXIST, EINVAL: a file is bound there. */
		if (!set_region(vm, FIRST_SLOT + i, 0, slot_gpa(i), SZ_4M, hva, -1, 0)) {
			vm->plain[i][0] = hva;
			vm->plain[i][1] = SZ_4M;
		}
	}
}

static u64 available(size_t size)
{
	struct pool_count pool;

	if (!pool_exists(__builtin_ctzl(size)))
		return 0;
	read_pool(size, &pool);
	return pool.free > pool.resv ? pool.free - pool.resv : 0;
}

static void set_up_round(void)
{
	u64 avail_2m = available(SZ_2M), avail_1g = available(SZ_1G);
	int i, k, v;

	/* Are they free? */
	keep_addresses(ARENA, NR_FILES * WINDOW_SIZE);
	munmap((void *)ARENA, NR_FILES * WINDOW_SIZE);
	kvm_fd = open_kvm_dev_path_or_exit();
	mem_fd = open_path_or_exit("/proc/self/mem", O_RDWR);
	pagemap_fd = open_path_or_exit("/proc/self/pagemap", O_RDONLY);
	for (i = 0; i < NR_VMS; i++)
		set_up_vm(&vms[i], i);
	for (i = 0; i < NR_FILES; i++)
		set_up_file(&files[i], i, &avail_2m, &avail_1g);
	for (i = 0; i < NR_VMS; i++)
		set_up_plain(&vms[i]);
	for (i = 0; i < NR_PIPES; i++) {
		pthread_mutex_init(&pins[i].lock, NULL);
		TEST_ASSERT(!pipe2(pins[i].fd, O_NONBLOCK | O_CLOEXEC), "pipe2() failed");
	}

	nr_threads = 0;
	for (i = 0; i < NR_VMS; i++) {
		for (k = 0; k < vms[i].nr_vcpus; k++) {
			struct task *t = &tasks[nr_threads];

			init_task(t, nr_threads, window_of(NR_FILES) + nr_threads * SCRATCH_SIZE);
			t->vm = &vms[i];
			t->vcpu = k;
			for (v = 0; files[i].flags & GUEST_MEMFD_FLAG_INIT_SHARED &&
			     v < NR_VAULTS; v++)
				t->vault[v] = VAULT_SHARED;
			nr_threads++;
		}
	}
	for (i = 0; i < nr_host; i++, nr_threads++)
		init_task(&tasks[nr_threads], nr_threads,
			  window_of(NR_FILES) + nr_threads * SCRATCH_SIZE);
}

/* Take pages out of pipes, and tasks out of what they have been waiting in for long. */
static void look_after(struct task *t, bool all)
{
	const double now = conv_now();
	int i;

	for (i = 0; i < NR_PIPES; i++) {
		struct pin *p = &pins[i];

		if (pthread_mutex_trylock(&p->lock))
			continue;
		if (p->since && (all || now - p->since > PIN_TIME))
			drain_pin(t, p);
		pthread_mutex_unlock(&p->lock);
	}

	for (i = 0; i < nr_threads; i++) {
		const struct task_log *log = tasks[i].log;
		const struct record *rec;

		if (!log || !log->nr || READ_ONCE(tasks[i].ended))
			continue;
		rec = &log->record[(log->nr - 1) % NR_RECORDS];
		if (!READ_ONCE(rec->end) && now - rec->begin > POKE_AFTER) {
			saw(SEEN_POKE);
			syscall(SYS_tgkill, getpid(), log->tid, SIGUSR1);
		}
	}
}

static bool all_ended(void)
{
	int i;

	for (i = 0; i < nr_threads; i++)
		if (!READ_ONCE(tasks[i].ended))
			return false;
	return true;
}

static u64 read_fdinfo(struct gfile *f, const char *key)
{
	const char *value = gmem_fdinfo(f->fd, key);

	return value ? strtoull(value, NULL, 10) : 0;
}

/* When nothing uses the pages any more all of them can become private, and whole. */
static void make_whole(struct task *t, struct gfile *f)
{
	struct range all = { 0, nr_pages(f) };
	char whole[64];
	double start;
	bool split;

	if (!f->serial || !converts(f))
		return;
	for (start = conv_now(); convert(t, f, f->fd, all, true); usleep(10000))
		if (conv_now() - start > PATIENCE)
			fail(t, "file %d cannot become private, and no task uses it", f->idx);
	if (read_fdinfo(f, "gmem-shared"))
		fail(t, "file %d: all is private, and %lu kB are shared", f->idx,
		     read_fdinfo(f, "gmem-shared"));
	if (f->page_size == SZ_4K || with_poison)
		return;

	snprintf(whole, sizeof(whole), "gmem-folios-%lukB", f->page_size / 1024);
	split = read_fdinfo(f, whole) * f->page_size / 1024 !=
		read_fdinfo(f, "gmem-allocated");
	for (start = conv_now(); read_fdinfo(f, "gmem-merges-pending"); usleep(20000))
		if (conv_now() - start > MERGE_PATIENCE)
			fail(t, "file %d is not merged", f->idx);
	if (read_fdinfo(f, whole) * f->page_size / 1024 != read_fdinfo(f, "gmem-allocated"))
		fail(t, "file %d: %lu whole pages of %lu kB, %lu kB allocated", f->idx,
		     read_fdinfo(f, whole),
		     f->page_size / 1024,
		     read_fdinfo(f, "gmem-allocated"));
	if (split)
		saw(SEEN_MERGED);
}

/* The guest finds what is its own, in the end, too. */
static void read_anchor(struct task *t)
{
	struct gfile *f = &files[t->vm - vms];
	int i, k;

	for (i = 0; i < NR_VAULTS; i++) {
		guest_begin(t);
		for (k = 0; k < MAX_BATCH; k++)
			guest_add(t, ACCESS_LOAD, ANCHOR_GPA +
				  (round_down(vault_page(f, i), GRANULE) + k * 4) * SZ_4K);
		for (k = 0; !run_guest(t); k++)
			if (k == PATIENCE && t->rec->result != ENOMEM && !with_poison)
				fail(t, "guest %ld does not get at its memory in the end: %s",
				     (long)(t->vm - vms), strerror(t->rec->result));
			else if (k == PATIENCE)
				break;
		check_guest(t);
	}
}

/* The process without privilege: let it go through with what it has been given. */
static void dismiss_stranger(struct task *t, pid_t pid)
{
	int status;
	pid_t r;

	WRITE_ONCE(s->stop, true);
	close(stranger_fd);
	while ((r = waitpid(pid, &status, 0)) < 0 && errno == EINTR)
		;
	if (r != pid || status)
		fail(t, "the process without privilege has ended with status 0x%x", status);
}

static void finish_round(struct task *t)
{
	int i;

	/* Steps of these have come to an end; what follows is counted as others are. */
	t->n = STEPS_PER_ROUND;
	t->op = 0;
	t->rec = &t->log->record[0];
	while (ops[t->op].fn != op_convert)
		t->op++;
	look_after(t, true);
	for (i = 0; i < NR_FILES; i++)
		make_whole(t, &files[i]);
	for (i = 0; i < nr_threads; i++) {
		if (!tasks[i].vm || tasks[i].vcpu)
			continue;
		tasks[i].rec = t->rec;
		tasks[i].op = t->op;
		read_anchor(&tasks[i]);
	}
}

/* In another order than that in which all ends with the process */
static void tear_down(void)
{
	const u64 order = hash_with(round_key, 2);
	int i, k;

	for (k = 0; k < 3; k++) {
		switch ((order + k) % 3) {
		case 0:
			for (i = 0; i < NR_VMS; i++)
				kvm_vm_free(vms[i].vm);
			break;
		case 1:
			for (i = 0; i < NR_FILES; i++)
				close(files[i].fd);
			break;
		default:
			munmap((void *)ARENA, NR_FILES * WINDOW_SIZE);
			break;
		}
	}
}

static void __noreturn run_round(void)
{
	int i, sock[2];
	pid_t pid;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	catch_signals();

	/* It is to have nothing but the files that it is given. */
	TEST_ASSERT(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sock),
		    "socketpair() failed");
	pid = fork();
	TEST_ASSERT(pid >= 0, "fork() failed");
	if (!pid) {
		close(sock[0]);
		run_stranger(sock[1]);
	}
	close(sock[1]);
	stranger_fd = sock[0];
	/* It is not to lag behind. */
	setsockopt(stranger_fd, SOL_SOCKET, SO_SNDBUF, &(int){ SZ_4K }, sizeof(int));

	set_up_round();
	/* After the last copy of a descriptor that is not closed on exec */
	for (i = 0; i < nr_threads; i++)
		kvm_pthread_create(&tasks[i].thread, NULL, run_thread, &tasks[i]);
	for (i = 0; !all_ended(); i++) {
		static struct task caretaker;

		if (!i)
			caretaker.buf = kvm_mmap(SZ_4K, PROT_READ | PROT_WRITE,
						 MAP_PRIVATE | MAP_ANONYMOUS, -1);
		caretaker.id = -1;
		look_after(&caretaker, false);
		usleep(i < 100 ? 5000 : 100000);
	}
	for (i = 0; i < nr_threads; i++)
		kvm_pthread_join(tasks[i].thread, NULL);

	dismiss_stranger(&tasks[0], pid);
	finish_round(&tasks[nr_threads - 1]);
	if (round_key & 2)
		tear_down();
	_exit(0);
}

/*
 * The test itself, which has neither VMs nor files
 */

/* Bits of /proc/sys/kernel/tainted: bad page, died, warned, soft lockup */
#define TAINTS	(BIT(5) | BIT(7) | BIT(9) | BIT(14))

static unsigned long read_tainted(void)
{
	unsigned long tainted = 0;
	FILE *f = fopen("/proc/sys/kernel/tainted", "r");

	if (f) {
		if (fscanf(f, "%lu", &tainted) != 1)
			tainted = 0;
		fclose(f);
	}
	return tainted & TAINTS;
}

static void print_file(const char *path)
{
	char line[256];
	FILE *f = fopen(path, "r");

	while (f && fgets(line, sizeof(line), f))
		ksft_print_msg("    %s", line);
	if (f)
		fclose(f);
}

static const char *task_name(int nr)
{
	static char name[32];

	if (nr == STRANGER)
		return "the process without privilege";
	snprintf(name, sizeof(name), "%s %d", nr < MAX_THREADS ? "thread" : "child of thread",
		 nr % MAX_THREADS);
	return name;
}

static void print_logs(double start, int only)
{
	int i, k;

	for (i = 0; i < NR_TASKS; i++) {
		const struct task_log *log = &s->log[i];
		const int nr = min(log->nr, only < 0 ? 3UL : NR_RECORDS + 0UL);

		if (!log->nr || (only >= 0 && only != i))
			continue;
		ksft_print_msg("  %s, %d:\n", task_name(i), log->tid);
		for (k = nr; k > 0; k--) {
			const struct record *rec = &log->record[(log->nr - k) % NR_RECORDS];

			ksft_print_msg("    step %lu at %.3f s, %s: %lx %lx %lx %lx, %s%s\n",
				       rec->n, rec->begin - start,
				       ops[rec->op].name, rec->arg[0],
				       rec->arg[1],
				       rec->arg[2],
				       rec->arg[3],
				       rec->result ? strerror(rec->result) : "no error",
				       rec->end ? "" : ", goes on");
		}
	}
}

static void kill_all(pid_t pid)
{
	int status;

	kill(-pid, SIGKILL);
	kill(pid, SIGKILL);
	for (status = 0; status < 500 && waitpid(-1, NULL, WNOHANG) >= 0; status++)
		usleep(10000);
}

static void __printf(3, 4) __noreturn report_failure(pid_t pid, double start,
						     const char *fmt, ...)
{
	char text[MAX_TEXT + 64];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	ksft_print_msg("after %.1f s of round %u: %s\n", conv_now() - start, round_nr, text);
	ksft_print_msg("again with: --seed 0x%lx --threads %d --replay %s:%u\n",
		       seed, nr_host, size_name, round_nr);
	print_logs(start, -1);
	kill_all(pid);
	ksft_test_result_fail("pages of %s\n", size_name);
	_exit(KSFT_FAIL);
}

/* What keeps a round from its end */
static void print_laggards(void)
{
	char path[64];
	int i;

	for (i = 0; i < NR_TASKS; i++) {
		const struct task_log *log = &s->log[i];
		const struct record *rec;

		if (!log->nr || !log->tid)
			continue;
		rec = &log->record[(log->nr - 1) % NR_RECORDS];
		if (READ_ONCE(rec->end))
			continue;
		ksft_print_msg("%s, %d, for %.1f s: %s\n", task_name(i), log->tid,
			       conv_now() - rec->begin, ops[rec->op].name);
		snprintf(path, sizeof(path), "/proc/%d/stack", log->tid);
		print_file(path);
	}
}

/* A step that takes too long; the stack of its task says in what. */
static void check_steps(pid_t pid, double start)
{
	char path[64];
	int i;

	for (i = 0; i < NR_TASKS; i++) {
		const struct task_log *log = &s->log[i];
		const struct record *rec;
		double begin;

		if (!log->nr)
			continue;
		rec = &log->record[(log->nr - 1) % NR_RECORDS];
		begin = rec->begin;
		if (READ_ONCE(rec->end) || !log->tid || conv_now() - begin < longest_step)
			continue;
		snprintf(path, sizeof(path), "/proc/%d/stack", log->tid);
		print_file(path);
		print_logs(start, i);
		report_failure(pid, start, "%s has been at it for %.0f s: %s", task_name(i),
			       conv_now() - begin, ops[rec->op].name);
	}
}

static void print_coverage(void)
{
	static double last;
	static u64 before;

	if (!with_kcov || conv_now() - last < 10)
		return;
	last = conv_now();
	ksft_print_msg("%s, round %u: %lu PCs covered, %lu of them new\n", size_name, round_nr,
		       s->nr_pcs, (s->nr_pcs - before));
	before = s->nr_pcs;
}

static void check_tainted(pid_t pid, double start, unsigned long before)
{
	const unsigned long now = read_tainted();

	if (now & ~before)
		report_failure(pid, start, "the kernel has complained, tainted 0x%lx: see its log",
			       now);
}

/* All processes of a round are gone, and so is what they had. */
static void wait_for_end(pid_t pid, double start, const struct pool_count *pool_2m,
			 const struct pool_count *pool_1g)
{
	const double end = conv_now();

	while (waitpid(-1, NULL, WNOHANG) >= 0) {
		if (conv_now() - end > longest_step)
			report_failure(pid, start, "a process does not end");
		usleep(5000);
	}
	if (with_poison)
		return;
	if ((pool_exists(21) && !pool_same_soon(SZ_2M, pool_2m)) ||
	    (pool_exists(30) && !pool_same_soon(SZ_1G, pool_1g)))
		report_failure(pid, start, "a pool is not as it was before");
}

static void one_round(double end)
{
	const double start = conv_now();
	struct pool_count pool_2m, pool_1g;
	unsigned long tainted = read_tainted();
	bool kill_it, killed = false;
	double stopped = 0, told = 0, kill_at;
	int status;
	pid_t pid, r;

	round_key = hash_with(hash_with(seed, page_size), round_nr);
	kill_it = round_key % 5 == 4;
	kill_at = start + 0.5 + round_key / 8 % 2000 / 1000.0;
	read_pool(SZ_2M, &pool_2m);
	read_pool(SZ_1G, &pool_1g);
	memset(s->log, 0, sizeof(s->log));
	WRITE_ONCE(s->stop, false);
	if (verbose)
		ksft_print_msg("%s, round %u%s\n", size_name, round_nr,
			       kill_it ? ", to be killed" : "");
	fflush(NULL);

	pid = fork();
	TEST_ASSERT(pid >= 0, "fork() failed");
	if (!pid) {
		setpgid(0, 0);
		run_round();
	}
	for (;;) {
		r = waitpid(pid, &status, WNOHANG);
		if (r == pid)
			break;
		if (READ_ONCE(s->failed))
			break;
		if (conv_now() > end)
			WRITE_ONCE(s->stop, true);
		if (READ_ONCE(s->stop) && !stopped)
			stopped = conv_now();
		if (verbose && stopped && conv_now() - max(told, stopped) > 10) {
			told = conv_now();
			print_laggards();
		}
		if (stopped && conv_now() - stopped > ROUND_PATIENCE)
			report_failure(pid, start, "the round does not end");
		if (kill_it && !killed && conv_now() > kill_at) {
			kill(pid, SIGKILL);
			killed = true;
		}
		check_steps(pid, start);
		check_tainted(pid, start, tainted);
		print_coverage();
		usleep(20000);
	}
	if (READ_ONCE(s->failed)) {
		while (!READ_ONCE(s->told))
			usleep(1000);
		report_failure(pid, start, "%s", s->text);
	}
	if (killed && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
		saw(SEEN_KILLED);
	else if (WIFSIGNALED(status))
		report_failure(pid, start, "the VMM has died of %s", strsignal(WTERMSIG(status)));
	else if (WEXITSTATUS(status))
		report_failure(pid, start, "the VMM has ended with status %d, see above",
			       WEXITSTATUS(status));

	/* The process without privilege ends when there is no task to give it a file. */
	WRITE_ONCE(s->stop, true);
	wait_for_end(pid, start, &pool_2m, &pool_1g);
	if (READ_ONCE(s->failed))
		report_failure(pid, start, "%s", s->text);
	check_tainted(pid, start, tainted);
	saw(SEEN_ROUND);
}

static bool is_missing(enum seen what)
{
	switch (what) {
	case SEEN_MERGED:
		return page_size != SZ_4K && !with_poison && !s->seen[what];
	case SEEN_SIGBUS:
	case SEEN_TAG_BY_HOST:
	case SEEN_TAG_BY_GUEST:
	case SEEN_SECRET:
	case SEEN_BUSY:
	case SEEN_STRANGER:
	case SEEN_CHILD:
	case SEEN_FAULT_EXIT:
	case SEEN_ROUND:
		return !s->seen[what];
	default:
		return false;
	}
}

static bool any_missing(void)
{
	int i;

	for (i = 0; i < NR_SEEN; i++)
		if (is_missing(i))
			return true;
	return false;
}

static void print_missing(void)
{
	int i;

	for (i = 0; i < NR_SEEN; i++)
		if (is_missing(i))
			ksft_print_msg("not yet: %s\n", seen_names[i]);
}

static void print_results(void)
{
	char text[512];
	u64 total;
	int i, e, n;

	for (i = 0; i < ARRAY_SIZE(ops); i++) {
		for (total = e = n = 0, text[0] = '\0'; e < MAX_ERRNO; e++) {
			total += s->done[i][e];
			if (e && s->done[i][e] && n < sizeof(text))
				n += snprintf(text + n, sizeof(text) - n, " %s %lu,",
					      strerrorname_np(e) ?: "?",
					      s->done[i][e]);
		}
		if (total)
			ksft_print_msg("%-28s %8lu ok%s\n", ops[i].name,
				       s->done[i][0], text);
	}
	for (i = 0; i < NR_SEEN; i++)
		ksft_print_msg("%-50s %8lu%s\n", seen_names[i], s->seen[i],
			       is_missing(i) ? "  never!" : "");
}

/* Why pages of that size cannot be had, or NULL */
static const char *choose_page_size(size_t size, const char *name)
{
	page_size = size;
	size_name = name;
	if (size == SZ_4K)
		return NULL;
	if (!pool_exists(__builtin_ctzl(size)))
		return "no huge pages of that size";
	if (available(size) < (size == SZ_1G ? 1 : 8))
		return "too few free huge pages";
	return NULL;
}

static void test_size(double seconds, s64 replay)
{
	const double start = conv_now(), end = start + seconds;
	const double last = start + 10 * seconds;

	memset(s->done, 0, sizeof(s->done));
	memset(s->seen, 0, sizeof(s->seen));
	/* What has never happened gets more time, on a slow machine. */
	for (round_nr = 0; conv_now() < end || (any_missing() && conv_now() < last); round_nr++) {
		if (conv_now() > end && verbose)
			print_missing();
		if (replay >= 0)
			round_nr = replay;
		one_round(conv_now() < end ? max(end, conv_now() + 2) : last);
	}
	print_results();
	ksft_print_msg("%s: %.0f s\n", size_name, conv_now() - start);
	if (any_missing() && replay < 0)
		ksft_test_result_fail("pages of %s: what is to happen never did\n", size_name);
	else
		ksft_test_result_pass("pages of %s\n", size_name);
}

/*
 * Which functions have been reached
 */

struct symbol {
	u64 addr;
	u64 nr_pcs;
	char name[64];
};

static int compare_symbols(const void *a, const void *b)
{
	const struct symbol *x = a, *y = b;

	return x->addr < y->addr ? -1 : x->addr > y->addr;
}

static void print_functions(void)
{
	struct symbol *symbols = NULL;
	u64 nr = 0, max = 0, i, lo, hi, mid, offset = 0;
	char line[512], name[64];
	u64 addr;
	FILE *f;

	f = fopen("/proc/kallsyms", "r");
	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx %*c %63s", &addr, name) != 2)
			continue;
		if (nr == max) {
			max = max ? 2 * max : 65536;
			symbols = realloc(symbols, max * sizeof(*symbols));
			TEST_ASSERT(symbols, "no memory");
		}
		symbols[nr].addr = addr;
		symbols[nr].nr_pcs = 0;
		strcpy(symbols[nr++].name, name);
		/* PCs are as if the kernel were where it was linked to. */
		if (!strcmp(name, "_text"))
			offset = addr - 0xffffffff81000000ULL;
	}
	if (f)
		fclose(f);
	if (!nr)
		return;

	qsort(symbols, nr, sizeof(*symbols), compare_symbols);
	for (i = 0; i < NR_PCS; i++) {
		if (!s->pc[i])
			continue;
		for (lo = 0, hi = nr; hi - lo > 1;) {
			mid = (lo + hi) / 2;
			if (symbols[mid].addr <= s->pc[i] + offset)
				lo = mid;
			else
				hi = mid;
		}
		symbols[lo].nr_pcs++;
	}
	for (i = lo = 0; i < nr; i++) {
		if (!symbols[i].nr_pcs)
			continue;
		lo++;
		if (verbose)
			ksft_print_msg("  %-44s %lu PCs\n", symbols[i].name,
				       symbols[i].nr_pcs);
	}
	ksft_print_msg("%lu PCs covered in %lu functions\n", s->nr_pcs,
		       lo);
	free(symbols);
}

static void report_coverage(const char *reason)
{
	if (reason) {
		ksft_test_result_skip("coverage: %s\n", reason);
		return;
	}
	print_functions();
	ksft_test_result(s->nr_pcs > 0, "coverage: %lu PCs\n", s->nr_pcs);
}

/* Why there is no coverage, or NULL */
static const char *find_kcov(void)
{
	struct task t = {};
	pid_t pid;
	int status;

	if (access("/sys/kernel/debug/kcov", R_OK | W_OK))
		return "no access to kcov in debugfs (CONFIG_KCOV)";
	pid = fork();
	if (!pid)
		_exit(!kcov_start(&t));
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
		return "kcov does not start";
	return NULL;
}

static void find_pools(void)
{
	static const unsigned int shifts[] = { 16, 21, 25, 30, 34 };
	int i;

	for (i = 0; i < ARRAY_SIZE(shifts); i++)
		if (!access(pool_dir(1UL << shifts[i], -1), F_OK))
			huge_sizes |= BIT_ULL(shifts[i]);
	default_huge = get_def_hugetlb_pagesz();
}

static void usage(const char *name)
{
	puts("");
	printf("Usage: %s [option]...\n", name);
	puts("");
	printf(" --seconds N:   how long, for all page sizes together.  What has not happened\n"
	       "                by then gets up to ten times as long.\n"
	       "                (default: 30)\n");
	printf(" --seed S:      the seed of what the threads do.\n"
	       "                (default: another one each time; it is printed)\n");
	printf(" --page-size P: 4K, 2M or 1G: what most files are made of.\n"
	       "                (default: one after the other)\n");
	printf(" --threads N:   so many threads, up to %d, beside one for each vCPU.\n"
	       "                (default: 3)\n", MAX_HOST);
	printf(" --replay P:R:  round R of page size P, again and again.\n");
	printf(" --kcov:        count what is covered of the kernel.\n");
	printf(" --hwpoison:    make pages have memory errors, %d at most.  They are lost.\n",
	       MAX_POISON);
	printf(" --longest N:   seconds that no step may take.\n"
	       "                (default: %d)\n", LONGEST_STEP);
	printf(" --plant X:     make a mistake that is to be found: 'secret' shares secrets,\n"
	       "                'foreign' writes tags of another VM, 'crash' and 'hang' are\n"
	       "                what they say.\n");
	printf(" --verbose:     print rounds, and with --kcov the functions that were reached.\n");
	puts("");
	exit(0);
}

static size_t parse_page_size(const char *text)
{
	const size_t size = parse_size(text);

	TEST_ASSERT(size == SZ_4K || size == SZ_2M || size == SZ_1G,
		    "the page size is to be 4K, 2M or 1G");
	return size;
}

int main(int argc, char *argv[])
{
	static const struct {
		size_t size;
		const char *name;
	} sizes[] = {
		{ SZ_4K, "4K" },
		{ SZ_2M, "2M" },
		{ SZ_1G, "1G" },
	};
	static const struct option options[] = {
		{ "seconds", required_argument, NULL, 't' },
		{ "seed", required_argument, NULL, 's' },
		{ "page-size", required_argument, NULL, 'p' },
		{ "threads", required_argument, NULL, 'n' },
		{ "replay", required_argument, NULL, 'r' },
		{ "kcov", no_argument, NULL, 'k' },
		{ "hwpoison", no_argument, NULL, 'w' },
		{ "longest", required_argument, NULL, 'l' },
		{ "plant", required_argument, NULL, 'x' },
		{ "verbose", no_argument, NULL, 'v' },
		{ "help", no_argument, NULL, 'h' },
		{}
	};
	const char *reason, *no_kcov = NULL, *colon;
	bool want_kcov = false;
	double seconds = 30;
	size_t only = 0;
	s64 replay = -1;
	char *copy;
	int opt, i;

	seed = time(NULL) * 1000003ULL ^ getpid();
	while ((opt = getopt_long(argc, argv, "vh", options, NULL)) != -1) {
		switch (opt) {
		case 't':
			seconds = atoi_positive("Seconds", optarg);
			break;
		case 's':
			seed = strtoull(optarg, NULL, 0);
			break;
		case 'p':
			only = parse_page_size(optarg);
			break;
		case 'n':
			nr_host = atoi_positive("Number of threads", optarg);
			TEST_ASSERT(nr_host <= MAX_HOST, "no more than %d threads", MAX_HOST);
			break;
		case 'r':
			colon = strchr(optarg, ':');
			TEST_ASSERT(colon, "--replay takes a page size and a round, as in 2M:17");
			copy = strndup(optarg, colon - optarg);
			only = parse_page_size(copy);
			free(copy);
			replay = atoi_non_negative("Round", colon + 1);
			break;
		case 'k':
			want_kcov = true;
			break;
		case 'w':
			with_poison = true;
			break;
		case 'l':
			longest_step = atoi_positive("Seconds", optarg);
			break;
		case 'x':
			plant = optarg;
			break;
		case 'v':
			verbose = true;
			break;
		case 'h':
		default:
			usage(argv[0]);
		}
	}

	TEST_REQUIRE(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(KVM_X86_SW_PROTECTED_VM));
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES));
	/* It takes privileges away from a process, and reads what root may. */
	TEST_REQUIRE(!geteuid());

	s = kvm_mmap(sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
	setvbuf(stdout, NULL, _IOLBF, 0);
	/* All that a round leaves behind is ours to wait for. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	find_pools();
	have_policies = !syscall(SYS_get_mempolicy, NULL, NULL, 0, NULL, 0);
	if (want_kcov) {
		no_kcov = find_kcov();
		with_kcov = !no_kcov;
	}

	ksft_print_header();
	ksft_set_plan((only ? 1 : ARRAY_SIZE(sizes)) + want_kcov);
	ksft_print_msg("seed 0x%lx\n", seed);
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		if (only && only != sizes[i].size)
			continue;
		reason = choose_page_size(sizes[i].size, sizes[i].name);
		if (reason)
			ksft_test_result_skip("pages of %s: %s\n", sizes[i].name, reason);
		else
			test_size(only ? seconds : seconds / ARRAY_SIZE(sizes), replay);
	}
	if (want_kcov)
		report_coverage(no_kcov);
	ksft_finished();
}
