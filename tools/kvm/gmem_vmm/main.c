// SPDX-License-Identifier: GPL-2.0
/*
 * gmem_vmm: a small VMM, to show and to learn how a VM gets its memory from
 * guest_memfd with huge pages.
 *
 * It creates a VM and a guest_memfd, has the guest write to all of it and read
 * it back, and prints what this took, for one page size beside the other.
 */
#include <getopt.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <sys/mman.h>

#include "gmem_vmm.h"

#define MAX_RUNS	4

/* Where the guest gets if the slot's memory is what this program has from 0 on. */
#define BAIT		0x10000ULL
#define BAIT_WORDS	(SZ_4K / sizeof(__u64))
#define BAIT_VALUE	0x7469616200000000ULL

static struct options opt = {
	.size = 2 * SZ_1G,
	.stride = SZ_4K,
	.nr_vcpus = 1,
	.vm_type = KVM_X86_SW_PROTECTED_VM,
};

static const struct { const char *name; __u64 size; } page_sizes[] = {
	{ "4K", SZ_4K }, { "2M", SZ_2M }, { "1G", SZ_1G },
};

static const char usage[] =
"Usage: gmem_vmm [OPTION]...\n"
"Run a guest on guest_memfd memory: write to all of it, read it back, and show\n"
"what that took in huge pages, page faults and mappings.\n"
"\n"
"  --size SIZE         guest memory, with suffix K, M or G (2G)\n"
"  --page-size LIST    1G, 2M or 4K; several run one after the other and are\n"
"                      shown side by side; 1G,4K:512M has 512M of 4K pages (1G)\n"
"  --vcpus N           each writes its part and verifies its neighbour's (1)\n"
"  --stride SIZE       distance between the words that the guest touches (4K)\n"
"  --vm-type TYPE      sw-protected: private memory; default: none, but still\n"
"                      out of the host's reach (sw-protected)\n"
"  --convert           instead: have the guest share parts of a page of 1G with the\n"
"                      host and take them back, in place and otherwise; of the\n"
"                      other options --vcpus, --json and --trace count\n"
"  --json FILE         write all figures to FILE\n"
"  --trace             add the host-physical layout to FILE, from tracefs\n"
"  --help              this text\n"
"\n"
"Huge pages come from the HugeTLB pool. To reserve two 1G pages, as root:\n"
"  echo 2 > /sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages\n";

/* The line that tells of a run's progress has been begun. */
bool line_open;

void die(const char *fmt, ...)
{
	va_list args;

	fputs(line_open ? "\ngmem_vmm: " : "gmem_vmm: ", stderr);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
	exit(1);
}

__u64 now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000ULL + ts.tv_nsec / 1000000;
}

/* What all vCPUs are doing now. */
static struct {
	struct vm *vm;
	__u64 start_ms;
	pthread_mutex_t lock;
	__u64 size, done, shown_ms;
} phase = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void show_progress(unsigned int mib)
{
	pthread_mutex_lock(&phase.lock);
	phase.done += (__u64)mib << 20;
	if (now_ms() - phase.shown_ms > 3000) {
		phase.shown_ms = now_ms();
		printf(" %llu%%", phase.done * 100 / phase.size);
	}
	pthread_mutex_unlock(&phase.lock);
}

static void *vcpu_thread(void *arg)
{
	struct vcpu *vcpu = arg;

	vm_run_vcpu(phase.vm, vcpu - phase.vm->vcpu, show_progress);
	return NULL;
}

/*
 * Has the vCPUs do @op, each on one part of the first @size bytes of memory.
 * In GUEST_VERIFY vCPU n has the part that vCPU n + 1 wrote. Returns the time.
 */
static __u64 do_phase(struct vm *vm, enum guest_op op, __u64 size,
		      struct guest_job *sum)
{
	__u64 part = size / vm->nr_vcpus / opt.stride * opt.stride;
	pthread_t thread[MAX_VCPUS];
	int i, n;

	phase.vm = vm;
	phase.size = size;
	phase.start_ms = now_ms();
	phase.shown_ms = phase.start_ms;
	phase.done = 0;

	for (i = 0; i < vm->nr_vcpus; i++) {
		n = op == GUEST_WRITE ? i : (i + 1) % vm->nr_vcpus;
		*vm->vcpu[i].job = (struct guest_job){
			.op = op,
			.gpa = PRIVATE_GPA + n * part,
			.size = n == vm->nr_vcpus - 1 ? size - n * part : part,
			.stride = opt.stride,
			.from = op == GUEST_WRITE ? CLEARED : WRITTEN,
			.to = WRITTEN,
		};
	}
	for (i = 0; i < vm->nr_vcpus; i++)
		if (pthread_create(&thread[i], NULL, vcpu_thread, &vm->vcpu[i]))
			die("pthread_create: %m");

	*sum = (struct guest_job){ 0 };
	for (i = 0; i < vm->nr_vcpus; i++) {
		struct guest_job *job = vm->vcpu[i].job;

		pthread_join(thread[i], NULL);
		if (job->bad)
			die("%llu words are not what they should be, the last at %#llx",
			    job->bad, job->bad_gpa);
		sum->words += job->words;
		sum->checksum += job->checksum;
		sum->cycles += job->cycles;
	}
	return now_ms() - phase.start_ms;
}

/* Has the guest changed the bait?  Puts it back for the next try. */
static bool bait_taken(void)
{
	__u64 *bait = (__u64 *)BAIT;
	bool taken = false;
	size_t i;

	for (i = 0; i < BAIT_WORDS; i++) {
		taken |= bait[i] != BAIT_VALUE;
		bait[i] = BAIT_VALUE;
	}
	return taken;
}

static void put_bait(void)
{
	void *bait = mmap((void *)BAIT, SZ_4K, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	if (bait != (void *)BAIT)
		die("mmap at %#llx: %m", BAIT);
	bait_taken();
}

/*
 * Has the guest try to write to this program's memory, in the ways in which KVM
 * uses userspace_addr: KVM writes the time to an address of the guest's choice,
 * and a shared page is what is mapped there.
 */
static void reach_for_vmm(struct vm *vm, struct run *run)
{
	struct guest_job *job = vm->vcpu[0].job;

	if (run->size < BAIT + SZ_4K)
		return;

	*job = (struct guest_job){ .op = GUEST_CLOCK, .gpa = PRIVATE_GPA + BAIT };
	vm_run_vcpu(vm, 0, show_progress);
	run->reach_tried++;
	run->reach_done += bait_taken();
	if (vm->type == KVM_X86_DEFAULT_VM)
		return;

	vm_set_private(vm, PRIVATE_GPA + BAIT, SZ_4K, false);
	*job = (struct guest_job){
		.op = GUEST_WRITE,
		.gpa = PRIVATE_GPA + BAIT,
		.size = sizeof(__u64),
		.stride = sizeof(__u64),
		.to = WRITTEN,
	};
	vm_try_vcpu(vm, 0);
	run->reach_tried++;
	run->reach_done += bait_taken();
}

static void do_run(struct run *run)
{
	__u64 faults, pages_4k, pages_2m, page_tables, start;
	__s64 free_memory;
	struct guest_job job;
	struct vm vm;

	line_open = true;
	printf("  %llu MiB of %s pages: create", run->size >> 20, run->name);
	vm_create(&vm, opt.vm_type, SHARE_NOTHING, opt.nr_vcpus);
	pool_read(&run->pool_before, run->page_size);
	start = now_ms();
	vm_create_gmem(&vm, run->size, run->page_size);
	vm_bind_gmem(&vm, PRIVATE_GPA, run->size);
	run->create_ms = now_ms() - start;
	run->flags = vm_gmem_flags(&vm, run->page_size);
	pool_read(&run->pool_created, run->page_size);

	/*
	 * An empty job maps what the guest's code, stack and page tables need:
	 * what comes after is due to the guest_memfd alone.
	 */
	do_phase(&vm, GUEST_WRITE, 0, &job);
	if (opt.trace)
		trace_start();
	faults = vcpu_stat(&vm, "pf_fixed");
	pages_4k = vm_stat(&vm, "pages_4k");
	pages_2m = vm_stat(&vm, "pages_2m");
	free_memory = meminfo_kib("MemFree");
	page_tables = meminfo_kib("SecPageTables");

	printf(", first touch");
	run->touch_ms = do_phase(&vm, GUEST_WRITE, run->size, &job);
	run->touch_cycles = job.cycles / job.words;
	run->faults = vcpu_stat(&vm, "pf_fixed") - faults;
	pool_read(&run->pool_touched, run->page_size);

	printf(" (%.1f s), verify", run->touch_ms / 1e3);
	do_phase(&vm, GUEST_VERIFY, run->size, &job);
	run->verify_cycles = job.cycles / job.words;
	run->words = job.words;
	run->checksum = job.checksum;
	run->pages_4k = vm_stat(&vm, "pages_4k") - pages_4k;
	run->pages_2m = vm_stat(&vm, "pages_2m") - pages_2m;
	run->pages_1g = vm_stat(&vm, "pages_1g");
	run->free_memory_used_mib = (free_memory - (__s64)meminfo_kib("MemFree")) / 1024;
	run->page_tables_kib = meminfo_kib("SecPageTables") - page_tables;
	if (opt.trace)
		run->nr_mappings = trace_stop(&run->mappings);

	reach_for_vmm(&vm, run);

	printf(", close");
	start = now_ms();
	vm_destroy(&vm);
	run->close_ms = now_ms() - start;
	pool_read(&run->pool_closed, run->page_size);
	printf(" (%.1f s)\n", run->close_ms / 1e3);
	line_open = false;
}

static void do_conversions(void)
{
	struct conversions all;

	printf("Conversion of guest_memfd memory between private and shared\n");
	convert_run(&all, &opt);
	putchar('\n');
	print_conversions(&all);
	if (opt.json)
		write_conversions_json(opt.json, &all);
}

static __u64 parse_size(const char *text)
{
	static const char suffixes[] = "KMG";
	const char *suffix;
	__u64 size;
	char *end;

	size = strtoull(text, &end, 0);
	suffix = *end ? strchr(suffixes, *end) : NULL;
	if (suffix) {
		size <<= 10 * (suffix - suffixes + 1);
		end++;
	}
	if (end == text || *end || !size)
		die("%s is not a size, such as 512M or 2G", text);
	return size;
}

static int parse_page_sizes(char *list, struct run *runs)
{
	struct run *run = runs;
	char *name, *size;
	int i;

	for (name = strtok(list, ","); name; name = strtok(NULL, ","), run++) {
		if (run == runs + MAX_RUNS)
			die("more than %d page sizes", MAX_RUNS);
		size = strchr(name, ':');
		if (size)
			*size++ = '\0';
		for (i = 0; i < 3 && strcmp(name, page_sizes[i].name); i++)
			;
		if (i == 3)
			die("--page-size %s: takes 1G, 2M or 4K", name);
		run->name = name;
		run->page_size = page_sizes[i].size;
		run->size = size ? parse_size(size) : opt.size;
		if (run->size % run->page_size)
			die("a size of %llu bytes is not a multiple of %s", run->size, name);
		if (run->size > PRIVATE_MAX - PRIVATE_GPA)
			die("a size is at most %lluG", (PRIVATE_MAX - PRIVATE_GPA) / SZ_1G);
		if (opt.stride % sizeof(__u64) || opt.stride > run->size / opt.nr_vcpus)
			die("--stride takes a multiple of 8 that fits in a vCPU's part");
	}
	return run - runs;
}

static char *parse_options(int argc, char **argv)
{
	static const struct option options[] = {
		{ "size", required_argument, NULL, 's' },
		{ "page-size", required_argument, NULL, 'p' },
		{ "vcpus", required_argument, NULL, 'c' },
		{ "stride", required_argument, NULL, 'd' },
		{ "vm-type", required_argument, NULL, 't' },
		{ "convert", no_argument, NULL, 'C' },
		{ "json", required_argument, NULL, 'j' },
		{ "trace", no_argument, NULL, 'T' },
		{ "help", no_argument, NULL, 'h' },
		{ }
	};
	char *page_sizes = strdup("1G");
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 's':
			opt.size = parse_size(optarg);
			break;
		case 'p':
			page_sizes = optarg;
			break;
		case 'c':
			opt.nr_vcpus = atoi(optarg);
			break;
		case 'd':
			opt.stride = parse_size(optarg);
			break;
		case 't':
			if (!strcmp(optarg, "default"))
				opt.vm_type = KVM_X86_DEFAULT_VM;
			else if (strcmp(optarg, "sw-protected"))
				die("--vm-type takes sw-protected or default");
			break;
		case 'C':
			opt.convert = true;
			break;
		case 'j':
			opt.json = optarg;
			break;
		case 'T':
			opt.trace = true;
			break;
		case 'h':
			fputs(usage, stdout);
			exit(0);
		default:
			fputs("Try gmem_vmm --help\n", stderr);
			exit(2);
		}
	}
	if (optind < argc)
		die("%s: unexpected argument, try --help", argv[optind]);
	if (opt.nr_vcpus < 1 || opt.nr_vcpus > MAX_VCPUS)
		die("--vcpus takes 1 to %d", MAX_VCPUS);
	if (opt.trace && !opt.json)
		die("--trace needs --json FILE");
	if (opt.convert && opt.vm_type == KVM_X86_DEFAULT_VM)
		die("--convert needs private memory: leave out --vm-type default");
	return page_sizes;
}

int main(int argc, char **argv)
{
	char *page_sizes = parse_options(argc, argv);
	struct run runs[MAX_RUNS] = { };
	int i, nr_runs;

	setbuf(stdout, NULL);
	if (opt.convert) {
		do_conversions();
		return 0;
	}
	nr_runs = parse_page_sizes(page_sizes, runs);
	put_bait();
	printf("Memory from guest_memfd, %s VM, %d vCPU%s\n",
	       opt.vm_type == KVM_X86_DEFAULT_VM ? "default" : "software-protected",
	       opt.nr_vcpus, opt.nr_vcpus > 1 ? "s" : "");
	for (i = 0; i < nr_runs; i++)
		do_run(&runs[i]);
	putchar('\n');
	print_table(runs, nr_runs);
	if (opt.json)
		write_json(opt.json, &opt, runs, nr_runs);
	for (i = 0; i < nr_runs; i++)
		if (runs[i].reach_done)
			die("the guest has written to this program's memory");
	return 0;
}
