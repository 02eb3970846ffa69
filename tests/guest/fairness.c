// SPDX-License-Identifier: GPL-2.0
/*
 * usage: fairness [ATTACK]...
 *
 * What one VM takes from another.  The attacker, on CPU 0, converts, splits, punches
 * and has merged as much as it can.  The victim, on CPU 1, does the same work again and
 * again meanwhile.  For a VM with --icount and two CPUs, where a nanosecond is an
 * instruction.
 *
 * QEMU runs one CPU at a time then, and the time that passes is the sum of what both
 * execute.  The turn is the other one's when a CPU executes PAUSE, or halts.  The
 * kernel does so where it waits, and both sides here do so after each operation: some
 * versions of QEMU find no other reason for long.  Hence operations per second say
 * nothing about the victim.  But what its CPU executes is known: it is the time that
 * has passed, less the attacker's operations, each of which takes what it takes alone.
 * The victim's own work is in that, interrupts from the other CPU, and kworkers, all of
 * which are on this CPU here.
 *
 * To wait, spinning or asleep, lets the other CPU run, for a whole operation at least.
 * Waits are thus longer than they would be with CPUs that run at a time.  They show in
 * the longest operation and the longest wait for a lock.
 *
 * With names of attacks as arguments there are no others: toggles, splits, punches,
 * scatters, EAGAIN, ordinary.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "kvm.h"
#include "result.h"

#define ATTACKER_CPU	0
#define VICTIM_CPU	1
/* The CPUs of kworkers that are bound to none */
#define KWORKER_CPUS	"/sys/devices/virtual/workqueue/cpumask"
#define TRACING		"/sys/kernel/tracing/"

#define SIZE_2M		(2L << 20)
#define HUGE_2MB	(21U << 26)
#define NR_BLOCK	(SIZE_2M / PAGE_SIZE)
#define NR_BLOCKS	(SIZE_1G / SIZE_2M)
/* Pages that one page of the vmemmap describes */
#define NR_GRANULE	64
/* Each second one is a part of a folio that is larger: splitting that takes more */
#define SPLIT_STEP	(2 * NR_GRANULE)
#define NR_SPLITS	(SIZE_1G / PAGE_SIZE / SPLIT_STEP)
#define NR_SPLITS_2M	(SIZE_2M / PAGE_SIZE / SPLIT_STEP)

/*
 * What is shared of each 2M where that is scattered.  It leaves a folio that is larger
 * than what a page of the vmemmap describes, so that merging takes flushing, too.
 */
#define NR_SCATTERED	3
#define SCATTER		100
/* As often before the victim is watched, so that it is for no longer than needed */
#define NR_BLOCKS_BEFORE	(NR_BLOCKS * 3 / 4)

/* The page in a block of 2M that is converted and touched */
#define PAGE		7
/* How many pages the guest touches in an operation, and where the victim has them */
#define NR_TOUCH	16
#define TOUCHED		128
/* How often the victim repeats the operations without a page of 2M in a round */
#define NR_REPEAT	4

/* What the attacker computes in an operation */
#define NR_COMPUTE	5000
/* How often a page is zapped to know what an interrupt takes */
#define NR_ZAPS		2000
/* After so many seconds without a merge the next one has to wait for one second only. */
#define FORGET_S	66

/* How long the victim is watched: rounds, and ns */
#define MIN_ROUNDS	60
#define MERGE_NS	1.3e9
#define MAX_NS		10e9

/*
 * Limits.  With the attacker a round of the victim may take so many times what it
 * takes while the other CPU only computes.  A short operation may take more than that:
 * it may meet with a kworker of the attacker each time.
 */
#define MAX_ROUND	1.25
/* With less, the attacker's operations do not take what they take alone. */
#define MIN_ROUND	0.95
#define MAX_OPERATION	1.5
/*
 * The longest operation, and the longest wait for a lock, in ms.  Populating 2M takes
 * two of them, and a kworker may have its CPU for two slices of three meanwhile.
 */
#define MAX_STALL_MS	9
/* The same with the attacker's turns, one for each interrupt that a kworker sends */
#define MAX_TURNS_MS	50
/*
 * What interrupts take of another CPU that runs a guest, in percent, if the attacker
 * has a CPU to itself.  Hardware needs longer for one than for the instructions of the
 * handler, two microseconds say, and less for clearing, with 10 GB/s.  Both are here in
 * instructions, of which there are three in a nanosecond.
 */
#define MAX_IPI_SHARE	20
#define HARDWARE_IPI	6000
#define HARDWARE_CLEAR	(0.3 * SIZE_2M)
/* The s from private again to merged: one to wait, the others for kworkers to run */
#define MAX_MERGE_S	3
/* To merge 1G of which each 2M is split: one for each, and some for the whole */
#define MAX_MERGE_IPIS	(NR_BLOCKS + 32)

/*
 * What the attacker does in one operation
 */

enum kind {
	COMPUTE, TOGGLE, SPLIT, POPULATE_2M, SPLIT_2M, PUNCH_2M, SCATTER_2M, HIDE_1G, IN_USE,
	REFAULT, NR_KINDS
};

/* For interrupts see mm/hugetlb_lent_step.c, "A step of a lent page". */
static const struct {
	const char *name;
	double max_ipis;
} kinds[NR_KINDS] = {
	[COMPUTE]     = { "computing", 0.1 },
	[TOGGLE]      = { "4K to shared, to private, touched by the guest", 0.1 },
	[SPLIT]	      = { "4K in another 512K of 1G shared, touched, private", 2.1 },
	[POPULATE_2M] = { "2M populated", 0.5 },
	[SPLIT_2M]    = { "4K in each 512K of it shared, and touched", 2.1 * NR_SPLITS_2M },
	[PUNCH_2M]    = { "2M punched, and to private", 2.1 },
	[SCATTER_2M]  = { "3 pages of another 2M of 1G shared, and touched", 2.1 * NR_SCATTERED },
	[HIDE_1G]     = { "1G to private where each 2M is split", 10 },
	/* Another CPU drains its LRU batches. */
	[IN_USE]      = { "4K to private that is in a pipe", 1.1 },
	[REFAULT]     = { "ordinary VM: 16 pages zapped, and touched", 0.1 },
};

enum attack { CONTROL, TOGGLES, SPLITS, PUNCHES, SCATTERS, USES, ORDINARY, NR_ATTACKS };

static const struct {
	const char *name;
	enum kind kind;
	int nr_alone;	/* operations, to know what one takes */
	bool merge;	/* is the victim watched until its page is merged? */
} attacks[NR_ATTACKS] = {
	[CONTROL]  = { "computes", COMPUTE, 128 },
	[TOGGLES]  = { "toggles", TOGGLE, 128 },
	[SPLITS]   = { "splits", SPLIT, 128, true },
	[PUNCHES]  = { "punches", POPULATE_2M, 3 * 16, true },
	/* and has the page merged, on the victim's CPU */
	[SCATTERS] = { "scatters", SCATTER_2M, NR_BLOCKS - NR_BLOCKS_BEFORE + 1, true },
	[USES]	   = { "EAGAIN", IN_USE, 128 },
	/* What there is without guest_memfd */
	[ORDINARY] = { "ordinary", REFAULT, 128 },
};

/*
 * What the victim does
 */

enum op { GUEST_TOUCH, CONVERT, HOST_TOUCH, MMAP, ORDINARY_TOUCH, POPULATE, FIRST_TOUCH, NR_OPS };

static const char * const op_names[NR_OPS] = {
	[GUEST_TOUCH]	 = "the guest touches 16 pages",
	[CONVERT]	 = "16 pages to shared, to private",
	[HOST_TOUCH]	 = "4K to shared, touched, to private",
	[MMAP]		 = "mmap(), 16 pages touched, munmap()",
	[ORDINARY_TOUCH] = "16 pages of an ordinary VM's guest",
	[POPULATE]	 = "2M punched and populated",
	[FIRST_TOUCH]	 = "4K of it split, with waiting for IPIs",
};

struct figures {
	struct {
		long nr;
		double sum;	/* without what the attacker did meanwhile, but for FIRST_TOUCH */
	} op[NR_OPS];
	double longest;		/* of all operations, with what the attacker did */
	double longest_own;	/* without that */
	long rounds;
	double time;		/* ns, all of it */
	double own;		/* what the victim's CPU has executed */
	double preempted;	/* how often it went to another task */
	double ipis;
	double ipi_share;	/* percent of another CPU if the attacker never waits */
	double lock_waits;	/* the victim's */
	double lock_max;	/* the longest, ns */
	double others_waits;	/* those of other tasks on its CPU */
	double merge;		/* s until the victim's page was merged */
	long operations;	/* the attacker's */
	bool merged;		/* the attacker's page of 1G, while the victim was watched */
};

/* What the attacker's operations take if the other CPU does nothing */
static struct alone {
	long nr;
	double cost;
	double ipis;
} alone[NR_KINDS];

static double clock_cost;

/* Interrupts while a page of 1G is merged of which each 2M was split */
static double merge_ipis;

static double ipi_cost;

/* With the attacker, which is a process of its own */
static struct shared {
	int go;
	int stop;
	volatile long count[NR_KINDS];
	struct alone alone[NR_KINDS];
	bool merged;
	double merge_ipis;	/* that merging the page of 1G has sent */
} *shared;

static struct figures figures[NR_ATTACKS];
static bool wanted[NR_ATTACKS];
static int to_attacker[2], from_attacker[2];
static char kworker_cpus[256];

static void give_turn(void)
{
	__builtin_ia32_pause();
}

static void pin(int cpu)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		die("there have to be two CPUs");
}

/*
 * What the kernel tells
 */

/* Interrupts that a CPU got from the other one */
static double nr_ipis(int cpu)
{
	/* One that flushes the TLB for another CPU is among the calls. */
	static const char * const rows[] = { "CAL:", "RES:" };
	char line[4096], *p;
	double sum = 0;
	unsigned int i;
	FILE *f;

	f = fopen("/proc/interrupts", "r");
	if (!f)
		die("/proc/interrupts");
	while (fgets(line, sizeof(line), f)) {
		p = line + strspn(line, " ");
		for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
			if (strncmp(p, rows[i], strlen(rows[i])))
				continue;
			p += strlen(rows[i]);
			if (cpu)
				strtol(p, &p, 10);
			sum += strtol(p, NULL, 10);
			break;
		}
	}
	fclose(f);
	return sum;
}

static double nr_preempted(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_nivcsw;
}

static void write_file(const char *path, const char *text)
{
	FILE *f;

	f = fopen(path, "w");
	if (!f || fputs(text, f) < 0 || fclose(f))
		die(path);
}

static void trace_locks(bool on)
{
	write_file(TRACING "events/lock/enable", on ? "1" : "0");
	if (on)
		write_file(TRACING "trace", "");
}

/* How often and how long this process has waited for locks */
static void read_locks(struct figures *fig)
{
	double since = 0, time;
	char line[1024], pid[16];
	FILE *f;

	snprintf(pid, sizeof(pid), "-%d ", getpid());
	f = fopen(TRACING "per_cpu/cpu1/trace", "r");
	if (!f)
		die(TRACING);
	while (fgets(line, sizeof(line), f)) {
		const char *rest = strstr(line, "] ");

		const bool begins = rest && strstr(rest, "contention_begin");

		if (!rest || sscanf(rest, "] %*s %lf:", &time) != 1)
			continue;
		if (!strstr(line, pid)) {
			fig->others_waits += begins;
		} else if (begins) {
			since = time;
			fig->lock_waits++;
		} else if (since) {
			time = (time - since) * 1e9;
			if (time > fig->lock_max)
				fig->lock_max = time;
			since = 0;
		}
	}
	fclose(f);
}

static void restore_kworkers(void)
{
	write_file(KWORKER_CPUS, kworker_cpus);
}

static void place_kworkers(const char *cpus)
{
	FILE *f;

	f = fopen(KWORKER_CPUS, "r");
	if (!f || !fgets(kworker_cpus, sizeof(kworker_cpus), f))
		die(KWORKER_CPUS);
	fclose(f);
	atexit(restore_kworkers);
	write_file(KWORKER_CPUS, cpus);
}

/*
 * Files
 */

struct file {
	int vm, fd;
	volatile char *mem;
	struct vcpu vcpu;
};

/*
 * A file that converts in place, all of it there.  With an @offset that is no multiple
 * of 2M the guest's mappings are of 4K.
 */
static void create(struct file *f, long size, uint64_t page_size, long offset)
{
	f->vm = create_private_vm(0);
	f->fd = create_file(f->vm, size,
			    GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_HUGETLB | page_size);
	f->mem = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0);
	if (f->mem == MAP_FAILED)
		die("mmap");
	set_slot(f->vm, &(struct kvm_userspace_memory_region2) {
		.slot = TEST_SLOT,
		.flags = KVM_MEM_GUEST_MEMFD,
		.guest_phys_addr = TEST_GPA + offset,
		.memory_size = size - offset,
		.userspace_addr = (uintptr_t)f->mem + offset,
		.guest_memfd = f->fd,
		.guest_memfd_offset = offset,
	});
	create_vcpu(f->vm, &f->vcpu, 0);
	populate(f->fd, size);
	touch(&f->vcpu, CODE_GPA + PAGE_SIZE, 1);
}

/* An ordinary VM, with anonymous memory */
static void create_ordinary(struct file *f)
{
	const long size = NR_TOUCH * PAGE_SIZE;

	f->vm = create_vm_with_code(KVM_X86_DEFAULT_VM);
	f->mem = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (f->mem == MAP_FAILED)
		die("mmap");
	set_slot(f->vm, &(struct kvm_userspace_memory_region2) {
		.slot = TEST_SLOT,
		.guest_phys_addr = TEST_GPA,
		.memory_size = size,
		.userspace_addr = (uintptr_t)f->mem,
	});
	create_vcpu(f->vm, &f->vcpu, 0);
	touch(&f->vcpu, CODE_GPA + PAGE_SIZE, 1);
}

static void guest_touch(struct file *f, long page, long nr)
{
	touch(&f->vcpu, TEST_GPA + page * PAGE_SIZE, nr);
}

static void refault(struct file *ordinary)
{
	if (madvise((void *)ordinary->mem, NR_TOUCH * PAGE_SIZE, MADV_DONTNEED))
		die("MADV_DONTNEED");
	guest_touch(ordinary, 0, NR_TOUCH);
}

/* The kernel may use a page for a moment: try a few times, as a VMM does. */
static void convert(const struct file *f, long page, long nr, bool private)
{
	int tries = 0, r;

	do {
		r = convert_in_place(f->fd, page, nr, private);
	} while (r == -EAGAIN && ++tries < 10);
	if (r)
		die("KVM_SET_MEMORY_ATTRIBUTES2");
}

static void share(const struct file *f, long page, long nr)
{
	convert(f, page, nr, false);
}

static void hide(const struct file *f, long page, long nr)
{
	convert(f, page, nr, true);
}

static void host_touch(const struct file *f, long page)
{
	f->mem[page * PAGE_SIZE]++;
}

static bool is_merged(const struct file *f)
{
	return !read_fdinfo(f->fd, "gmem-merges-pending: %ld");
}

/*
 * The attacker
 */

static struct attacker {
	struct file huge;	/* a page of 1G */
	struct file block;	/* a page of 2M, for POPULATE_2M to PUNCH_2M */
	struct file toggle;	/* one that is never split, for TOGGLE */
	struct file used;	/* one of which PAGE is in a pipe, for IN_USE */
	struct file ordinary;
	long split;		/* how often the page of 1G was */
	long scattered;		/* in how many of its blocks */
	int pipe[2];
} attacker;

static void compute(void)
{
	volatile int i;

	for (i = 0; i < NR_COMPUTE; i++)
		;
}

static void operate(struct attacker *a, enum kind kind)
{
	long page;
	int i;

	switch (kind) {
	case COMPUTE:
		compute();
		break;
	case TOGGLE:
		share(&a->toggle, PAGE, 1);
		hide(&a->toggle, PAGE, 1);
		guest_touch(&a->toggle, PAGE, 1);
		break;
	case SPLIT:
		page = a->split++ * SPLIT_STEP + PAGE;
		share(&a->huge, page, 1);
		host_touch(&a->huge, page);
		hide(&a->huge, page, 1);
		break;
	case POPULATE_2M:
		populate(a->block.fd, SIZE_2M);
		break;
	case SPLIT_2M:
		for (i = 0; i < NR_SPLITS_2M; i++) {
			share(&a->block, i * SPLIT_STEP + PAGE, 1);
			host_touch(&a->block, i * SPLIT_STEP + PAGE);
		}
		break;
	case PUNCH_2M:
		punch(a->block.fd, SIZE_2M);
		hide(&a->block, 0, NR_BLOCK);
		break;
	case SCATTER_2M:
		page = a->scattered++ * NR_BLOCK;
		for (i = 0; i < NR_SCATTERED; i++)
			share(&a->huge, page + i * SCATTER, 1);
		for (i = 0; i < NR_SCATTERED; i++)
			host_touch(&a->huge, page + i * SCATTER);
		break;
	case HIDE_1G:
		hide(&a->huge, 0, NR_BLOCK * NR_BLOCKS);
		break;
	case IN_USE:
		if (convert_in_place(a->used.fd, PAGE, 1, true) != -EAGAIN)
			die("a page in a pipe became private");
		break;
	default:
		refault(&a->ordinary);
	}
	shared->count[kind]++;
	give_turn();
}

/* What comes next; some can be done a number of times only. */
static enum kind next_kind(const struct attacker *a, enum attack attack)
{
	switch (attack) {
	case SPLITS:
		return a->split < NR_SPLITS ? SPLIT : TOGGLE;
	case PUNCHES:
		return POPULATE_2M + (shared->count[POPULATE_2M] + shared->count[SPLIT_2M] +
				      shared->count[PUNCH_2M]) % 3;
	case SCATTERS:
		if (a->scattered < NR_BLOCKS)
			return SCATTER_2M;
		return shared->count[HIDE_1G] ? TOGGLE : HIDE_1G;
	default:
		return attacks[attack].kind;
	}
}

static void begin(struct attacker *a, enum attack attack)
{
	struct iovec iov = {
		.iov_base = (void *)(a->used.mem + PAGE * PAGE_SIZE),
		.iov_len = PAGE_SIZE,
	};

	if (attack == SPLITS)
		a->split = 0;
	if (attack == SCATTERS)
		for (a->scattered = 0; a->scattered < NR_BLOCKS_BEFORE; )
			operate(a, SCATTER_2M);
	if (attack == USES) {
		share(&a->used, PAGE, 1);
		host_touch(&a->used, PAGE);
		if (pipe(a->pipe) || vmsplice(a->pipe[1], &iov, 1, 0) != PAGE_SIZE)
			die("vmsplice");
	}
	*shared = (struct shared){};
}

/* Leave everything as it was. */
static void end(struct attacker *a, enum attack attack)
{
	double ipis;

	shared->merged = shared->count[HIDE_1G] && is_merged(&a->huge);
	if (attack == PUNCHES) {
		punch(a->block.fd, SIZE_2M);
		hide(&a->block, 0, NR_BLOCK);
	}
	if (attack == SCATTERS)
		hide(&a->huge, 0, NR_BLOCK * NR_BLOCKS);
	if (attack == USES) {
		close(a->pipe[0]);
		close(a->pipe[1]);
		hide(&a->used, PAGE, 1);
	}
	ipis = nr_ipis(ATTACKER_CPU);
	while ((a->huge.mem && !is_merged(&a->huge)) || !is_merged(&a->used))
		usleep(100000);
	shared->merge_ipis = nr_ipis(ATTACKER_CPU) - ipis;
}

static void attack_alone(struct attacker *a, enum attack attack)
{
	double start, ipis;
	enum kind kind;
	int i;

	begin(a, attack);
	for (i = 0; i < attacks[attack].nr_alone; i++) {
		kind = next_kind(a, attack);
		ipis = nr_ipis(VICTIM_CPU);
		start = now();
		operate(a, kind);
		shared->alone[kind].cost += now() - start;
		shared->alone[kind].ipis += nr_ipis(VICTIM_CPU) - ipis;
		shared->alone[kind].nr++;
	}
	end(a, attack);
}

static void tell(int fd, int value)
{
	if (write(fd, &value, sizeof(value)) != sizeof(value))
		die("a pipe");
}

/* Returns -1 if the other process has gone. */
static int hear(int fd)
{
	int value;

	return read(fd, &value, sizeof(value)) == sizeof(value) ? value : -1;
}

/* What to do is an attack, or the same plus NR_ATTACKS to know what it takes alone. */
static void run_attacker(struct attacker *a)
{
	int todo;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	pin(ATTACKER_CPU);
	if (wanted[SPLITS] || wanted[SCATTERS])
		create(&a->huge, SIZE_1G, HUGE_1GB, 0);
	create(&a->block, SIZE_2M, HUGE_2MB, 0);
	punch(a->block.fd, SIZE_2M);
	create(&a->toggle, SIZE_2M, HUGE_2MB, 0);
	create(&a->used, SIZE_2M, HUGE_2MB, 0);
	create_ordinary(&a->ordinary);
	for (tell(from_attacker[1], 0); (todo = hear(to_attacker[0])) >= 0;
	     tell(from_attacker[1], 0)) {
		if (todo >= NR_ATTACKS) {
			attack_alone(a, todo - NR_ATTACKS);
			continue;
		}
		begin(a, todo);
		tell(from_attacker[1], 0);
		while (!__atomic_load_n(&shared->go, __ATOMIC_RELAXED))
			give_turn();
		while (!__atomic_load_n(&shared->stop, __ATOMIC_RELAXED))
			operate(a, next_kind(a, todo));
		end(a, todo);
	}
}

static void wait_for_attacker(void)
{
	if (hear(from_attacker[0]) < 0) {
		printf("Bail out! the attacker has failed\n");
		exit(1);
	}
}

static void measure_alone(void)
{
	double start, ipis, time;
	int attack, kind, i;

	for (i = 0; i < 10; i++) {
		start = now();
		take_least(&clock_cost, now() - start);
	}
	for (attack = 0; attack < NR_ATTACKS; attack++) {
		/* Toggling is what comes after what can be done only once. */
		if (!wanted[attack] && attack != TOGGLES)
			continue;
		tell(to_attacker[1], NR_ATTACKS + attack);
		wait_for_attacker();
		ipis = 0;
		time = 0;
		for (kind = 0; kind < NR_KINDS; kind++) {
			if (!shared->alone[kind].nr)
				continue;
			alone[kind] = shared->alone[kind];
			ipis += alone[kind].ipis;
			time += alone[kind].cost;
			if (kind == POPULATE_2M)
				time -= alone[kind].nr * (SIZE_2M - HARDWARE_CLEAR);
			alone[kind].cost = alone[kind].cost / alone[kind].nr - clock_cost;
			alone[kind].ipis /= alone[kind].nr;
		}
		if (attack == SCATTERS)
			merge_ipis = shared->merge_ipis;
		figures[attack].ipi_share = 100 * ipis * HARDWARE_IPI / time;
	}
}

/*
 * What an interrupt takes: zapping a page interrupts the CPU of another thread
 */

static struct counter {
	long count;
	int stop;
} counter;

static void *count_thread(void *arg)
{
	struct counter *c = arg;
	volatile int i;

	pin(VICTIM_CPU);
	while (!__atomic_load_n(&c->stop, __ATOMIC_RELAXED)) {
		for (i = 0; i < 100; i++)
			;
		__atomic_add_fetch(&c->count, 1, __ATOMIC_RELAXED);
		give_turn();
	}
	return NULL;
}

static long get_count(void)
{
	return __atomic_load_n(&counter.count, __ATOMIC_RELAXED);
}

/* Returns the time that has passed, and how often the thread has counted. */
static double zap(volatile char *mem, long *count)
{
	double start = now();
	int i;

	*count = get_count();
	for (i = 0; i < NR_ZAPS; i++) {
		*mem = 1;
		if (madvise((void *)mem, PAGE_SIZE, MADV_DONTNEED))
			die("MADV_DONTNEED");
		give_turn();
	}
	*count = get_count() - *count;
	return now() - start;
}

static double time_count(void)
{
	long count = get_count();
	double start = now();

	usleep(20000);
	return (now() - start) / (get_count() - count);
}

static void measure_ipi(void)
{
	double ipis, apart, together;
	pthread_t thread;
	volatile char *mem;
	long count;

	pin(ATTACKER_CPU);
	mem = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mem == MAP_FAILED)
		die("mmap");
	zap(mem, &count);
	apart = zap(mem, &count);

	if (pthread_create(&thread, NULL, count_thread, &counter))
		die("pthread_create");
	usleep(20000);
	ipis = nr_ipis(VICTIM_CPU);
	together = zap(mem, &count);
	ipis = nr_ipis(VICTIM_CPU) - ipis;
	ipi_cost = (together - count * time_count() - apart) / ipis;
	__atomic_store_n(&counter.stop, 1, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	munmap((void *)mem, PAGE_SIZE);

	printf("# %.0f interrupts for %d pages zapped: each takes %.0f instructions of both CPUs\n",
	       ipis, NR_ZAPS, ipi_cost);
	if (ipis < NR_ZAPS || ipi_cost <= 0 || ipi_cost > HARDWARE_IPI) {
		printf("Bail out! interrupts are not what was expected\n");
		exit(1);
	}
	pin(VICTIM_CPU);
}

/*
 * The victim
 */

static struct victim {
	struct file file;	/* two pages of 2M */
	struct file merge;	/* one that is merged */
	struct file ordinary;
	struct figures *figures;
} victim;

/* What the attacker has executed, as far as its operations are done */
static double attacked(void)
{
	double sum = 0;
	int kind;

	for (kind = 0; kind < NR_KINDS; kind++)
		sum += shared->count[kind] * alone[kind].cost;
	return sum;
}

static void mmap_and_touch(void)
{
	volatile char *mem;
	int i;

	mem = mmap(NULL, NR_TOUCH * PAGE_SIZE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mem == MAP_FAILED)
		die("mmap");
	for (i = 0; i < NR_TOUCH; i++)
		mem[i * PAGE_SIZE] = 1;
	munmap((void *)mem, NR_TOUCH * PAGE_SIZE);
}

static void work(struct victim *v, enum op op)
{
	struct file *f = &v->file;

	switch (op) {
	case GUEST_TOUCH:
		guest_touch(f, TOUCHED, NR_TOUCH);
		break;
	case CONVERT:
		share(f, TOUCHED, NR_TOUCH);
		hide(f, TOUCHED, NR_TOUCH);
		break;
	case HOST_TOUCH:
		share(f, PAGE, 1);
		host_touch(f, PAGE);
		hide(f, PAGE, 1);
		break;
	case MMAP:
		mmap_and_touch();
		break;
	case ORDINARY_TOUCH:
		refault(&v->ordinary);
		break;
	case POPULATE:
		if (fallocate(f->fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, SIZE_2M,
			      SIZE_2M) ||
		    fallocate(f->fd, FALLOC_FL_KEEP_SIZE, SIZE_2M, SIZE_2M))
			die("fallocate");
		break;
	default:
		share(f, NR_BLOCK + PAGE, 1);
		host_touch(f, NR_BLOCK + PAGE);
		hide(f, NR_BLOCK + PAGE, 1);
	}
}

static void time_work(struct victim *v, enum op op)
{
	struct figures *fig = v->figures;
	double start, passed, others;

	others = attacked();
	start = now();
	work(v, op);
	passed = now() - start;
	others = attacked() - others;

	fig->op[op].nr++;
	/* This waits for the other CPU always, when an operation there is half done. */
	if (op == FIRST_TOUCH)
		others = 0;
	fig->op[op].sum += passed - others;
	if (passed > fig->longest)
		fig->longest = passed;
	if (passed - others > fig->longest_own)
		fig->longest_own = passed - others;
	give_turn();
}

static void work_round(struct victim *v)
{
	int i, op;

	for (i = 0; i < NR_REPEAT; i++)
		for (op = 0; op < POPULATE; op++)
			time_work(v, op);
	for (; op < NR_OPS; op++)
		time_work(v, op);
	v->figures->rounds++;
}

static void watch(struct victim *v, enum attack attack, struct figures *fig)
{
	double start, hidden, ipis, preempted, scattered = 0;
	int kind;

	v->figures = fig;
	if (attack == SCATTERS)
		sleep(FORGET_S);
	/* A huge page that is new: its first merge does not wait for longer. */
	punch(v->merge.fd, SIZE_2M);
	populate(v->merge.fd, SIZE_2M);

	tell(to_attacker[1], attack);
	wait_for_attacker();
	share(&v->merge, PAGE, 1);
	host_touch(&v->merge, PAGE);
	hide(&v->merge, PAGE, 1);
	hidden = now();
	if (is_merged(&v->merge))
		die("nothing was split");

	trace_locks(true);
	ipis = nr_ipis(VICTIM_CPU);
	preempted = nr_preempted();
	__atomic_store_n(&shared->go, 1, __ATOMIC_RELAXED);
	start = now();
	do {
		work_round(v);
		if (!fig->merge && is_merged(&v->merge))
			fig->merge = (now() - hidden) / 1e9;
		fig->time = now() - start;
		if (!scattered && shared->count[HIDE_1G])
			scattered = fig->time;
	} while (fig->time < MAX_NS &&
		 (fig->rounds < MIN_ROUNDS || (attacks[attack].merge && !fig->merge) ||
		  (attack == SCATTERS &&
		   (!shared->count[HIDE_1G] || fig->time < scattered + MERGE_NS))));
	/* The interrupts of this CPU are in what an operation takes alone. */
	fig->own = fig->time - attacked();
	fig->ipis = nr_ipis(VICTIM_CPU) - ipis;
	fig->own += fig->ipis * ipi_cost;
	fig->preempted = nr_preempted() - preempted;

	__atomic_store_n(&shared->stop, 1, __ATOMIC_RELAXED);
	wait_for_attacker();
	trace_locks(false);
	read_locks(fig);
	for (kind = 0; kind < NR_KINDS; kind++)
		fig->operations += shared->count[kind];
	fig->merged = shared->merged;
}

/*
 * Report
 */

static double mean(const struct figures *fig, enum op op)
{
	return fig->op[op].sum / fig->op[op].nr;
}

static double per_round(const struct figures *fig)
{
	return fig->own / fig->rounds;
}

static void report(void)
{
	const struct figures *fig;
	int i;

	printf("# %-50s %12s %8s\n", "an operation of the attacker, alone", "instructions",
	       "IPIs");
	for (i = 0; i < NR_KINDS; i++)
		if (alone[i].nr)
			printf("# %-50s %12.0f %8.2f\n", kinds[i].name, alone[i].cost,
			       alone[i].ipis);

#define ROW(what, format, value) do {						\
		printf("# %-40s", what);					\
		for (fig = figures; fig < figures + NR_ATTACKS; fig++)		\
			if (wanted[fig - figures])				\
				printf(" " format, value);			\
		printf("\n");							\
	} while (0)

	if (wanted[SCATTERS])
		printf("# %-50s %12s %8.0f\n", "  which a kworker merges", "", merge_ipis);
	printf("#\n");
	ROW("the victim, while the attacker", "%10s", attacks[fig - figures].name);
	ROW("a round, instructions of its CPU", "%10.0f", per_round(fig));
	for (i = 0; i < NR_OPS; i++)
		ROW(op_names[i], "%10.0f", mean(fig, i));
	ROW("its longest operation, ms", "%10.2f", fig->longest / 1e6);
	ROW("  without the attacker's turns", "%10.2f", fig->longest_own / 1e6);
	ROW("how often it waits for a lock", "%10.0f", fig->lock_waits);
	ROW("  the longest wait, ms", "%10.3f", fig->lock_max / 1e6);
	ROW("  how often others do, on its CPU", "%10.0f", fig->others_waits);
	ROW("from private to merged, s", "%10.2f", fig->merge);
	ROW("operations of the attacker", "%10ld", fig->operations);
	ROW("  IPIs for each", "%10.2f", fig->ipis / fig->operations);
	ROW("  kworkers on the victim's CPU for each", "%10.2f", fig->preempted / fig->operations);
	ROW("IPIs at full speed, percent of a CPU", "%10.2f", fig->ipi_share);
#undef ROW
}

static void check(void)
{
	const struct figures *control = figures + CONTROL, *fig;
	double factor, most;
	int attack, op, worst, kind;

	for (attack = 0; attack < NR_ATTACKS; attack++) {
		const char *name = attacks[attack].name;

		if (!wanted[attack])
			continue;
		fig = figures + attack;
		if (attack != CONTROL) {
			factor = per_round(fig) / per_round(control);
			result(factor >= MIN_ROUND && factor <= MAX_ROUND &&
			       fig->operations >= MIN_ROUNDS,
			       "%s: a round of the victim takes at most %.2f times of its CPU: %.3f",
			       name, MAX_ROUND, factor);
			for (op = worst = most = 0; op < FIRST_TOUCH; op++) {
				factor = mean(fig, op) / mean(control, op);
				if (factor <= most)
					continue;
				most = factor;
				worst = op;
			}
			result(most > 0 && most <= MAX_OPERATION,
			       "%s: each operation takes at most %.2f times: %.3f, %s",
			       name, MAX_OPERATION, most, op_names[worst]);
		}
		result(fig->longest_own > 0 && fig->longest_own <= MAX_STALL_MS * 1e6 &&
		       fig->lock_max <= MAX_STALL_MS * 1e6,
		       "%s: the victim's longest operation takes at most %d ms: %.2f, waiting for a lock %.2f",
		       name, MAX_STALL_MS, fig->longest_own / 1e6, fig->lock_max / 1e6);
		result(fig->longest <= MAX_TURNS_MS * 1e6,
		       "%s: with the attacker's turns at most %d ms: %.2f", name, MAX_TURNS_MS,
		       fig->longest / 1e6);
		result(fig->ipi_share <= MAX_IPI_SHARE,
		       "%s: interrupts take at most %d%% of another CPU: %.2f", name,
		       MAX_IPI_SHARE, fig->ipi_share);
		if (attacks[attack].merge)
			result(fig->merge > 0 && fig->merge <= MAX_MERGE_S,
			       "%s: at most %d s until the victim's page is merged: %.2f",
			       name, MAX_MERGE_S, fig->merge);
	}
	if (wanted[SCATTERS]) {
		result(figures[SCATTERS].merged,
		       "the attacker's page of 1G is merged while the victim is watched");
		result(merge_ipis >= 1 && merge_ipis <= MAX_MERGE_IPIS,
		       "at most %ld IPIs while that is merged: %.0f", MAX_MERGE_IPIS, merge_ipis);
	}
	for (kind = 0; kind < NR_KINDS; kind++)
		if (alone[kind].nr)
			result(alone[kind].ipis <= kinds[kind].max_ipis,
			       "%s: at most %.1f IPIs: %.2f", kinds[kind].name,
			       kinds[kind].max_ipis, alone[kind].ipis);
	if (wanted[SPLITS])
		result(alone[SPLIT].ipis >= 1, "interrupts are seen where the vmemmap changes");
}

int main(int argc, char **argv)
{
	int vm, attack, i;
	pid_t pid;

	printf("TAP version 13\n");
	wanted[CONTROL] = true;
	for (i = 1; i < argc; i++) {
		for (attack = 0; attack < NR_ATTACKS; attack++)
			if (!strcmp(attacks[attack].name, argv[i]))
				break;
		if (attack == NR_ATTACKS) {
			printf("Bail out! no such attack: %s\n", argv[i]);
			return 1;
		}
		wanted[attack] = true;
	}
	for (attack = 0; attack < NR_ATTACKS; attack++)
		wanted[attack] |= argc == 1;
	setvbuf(stdout, NULL, _IOLBF, 0);
	vm = create_vm(KVM_X86_SW_PROTECTED_VM);
	if (!converts_in_place(vm)) {
		printf("1..0 # SKIP this kernel does not convert in place\n");
		return 4;
	}
	close(vm);

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED || pipe(to_attacker) || pipe(from_attacker))
		die("memory to share");
	pid = fork();
	if (pid < 0)
		die("fork");
	if (!pid) {
		close(to_attacker[1]);
		run_attacker(&attacker);
		_exit(0);
	}
	close(from_attacker[1]);

	pin(VICTIM_CPU);
	place_kworkers("2");
	wait_for_attacker();
	measure_alone();
	measure_ipi();

	create(&victim.file, 2 * SIZE_2M, HUGE_2MB, PAGE_SIZE);
	create(&victim.merge, SIZE_2M, HUGE_2MB, 0);
	create_ordinary(&victim.ordinary);
	for (attack = 0; attack < NR_ATTACKS; attack++)
		if (wanted[attack])
			watch(&victim, attack, figures + attack);

	report();
	check();
	printf("1..%d\n", nr_results);
	return failed;
}
