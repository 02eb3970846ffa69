// SPDX-License-Identifier: GPL-2.0
/*
 * What it takes when a guest on one page of 1G shares parts of it with the host and
 * takes them back: in place, with other memory for what is shared, and in place after
 * the page was split to 4K throughout.
 *
 * The guest asks by hypercall. It writes to what it shares, the host reads that and
 * writes to it, the guest reads that, and then looks at all of its memory.
 */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "gmem_vmm.h"

#define SIZE		SZ_1G
#define MERGE_MS	20000	/* waiting for merges: the first takes a second */

/* Pieces of the guest's memory. A word is in each 4K of them. */
static const struct part {
	const char *what;
	__u64 offset, piece, stride;
	int count;
} parts[] = {
	/*
	 * Each in blocks of 2M that the others leave alone.  The last is what a
	 * guest has for bounce buffers.
	 */
	{ "4K shared", 100 * SZ_2M + 7 * SZ_4K, SZ_4K, SZ_4K, 1 },
	{ "64 times 4K more, scattered", 5 * SZ_2M + 3 * SZ_4K, SZ_4K,
	  8 * SZ_1M + 61 * SZ_4K, 64 },
	{ "2M more, in one piece", 300 * SZ_2M, SZ_2M, SZ_2M, 1 },
	{ "16M more, in one piece", 320 * SZ_2M, 8 * SZ_2M, 8 * SZ_2M, 1 },
};

static const struct part everything = { "all", 0, SIZE, SIZE, 1 };

struct scene {
	struct vm vm;
	struct conversion *conversion;
	/* what there was before, of what others have, too */
	__u64 pages_4k, pages_2m, memmap, page_tables;
	__u64 faults_taken, faults_fixed;
	__u64 start_ms;
	__u64 words[NR_STAGES];	/* of each stage, in the guest's memory */
	__u64 hpa;		/* where the page is, if that is known */
};

/* The VM that look_at_all() is about. */
static struct vm *counted;

static void begin(struct scene *scene, const char *what)
{
	printf(", %s", what);
	scene->faults_taken = vcpu_stat(&scene->vm, "pf_taken");
	scene->faults_fixed = vcpu_stat(&scene->vm, "pf_fixed");
	scene->start_ms = now_ms();
}

/* Takes down what there is now, and what it took since begin(). */
static void record(struct scene *scene, const char *what)
{
	struct conversion *conversion = scene->conversion;
	struct conversion_row *row = &conversion->rows[conversion->nr_rows++];
	struct vm *vm = &scene->vm;
	struct pool pool;

	row->what = what;
	row->ms = now_ms() - scene->start_ms;
	row->faults_taken = vcpu_stat(vm, "pf_taken") - scene->faults_taken;
	row->faults_fixed = vcpu_stat(vm, "pf_fixed") - scene->faults_fixed;
	row->pages_1g = vm_stat(vm, "pages_1g");
	row->pages_2m = vm_stat(vm, "pages_2m") - scene->pages_2m;
	row->pages_4k = vm_stat(vm, "pages_4k") - scene->pages_4k;
	row->memmap_kib = ((__s64)memmap_pages() - (__s64)scene->memmap) * 4;
	row->page_tables_kib = (__s64)meminfo_kib("SecPageTables") -
			       (__s64)scene->page_tables;
	row->host_pages = mapped_pages(vm->gmem, SIZE, NULL);
	if (vm->sharing == SHARE_TWO_STORES)
		row->copy_kib = row->host_pages * 4;
	pool_read(&pool, SZ_1G);
	row->pool_free = pool.free;
	fdinfo_folios(vm->gmem_fd, row->folios);
	if (!fdinfo_kib(vm->gmem_fd, "gmem-vmemmap", &row->vmemmap_kib))
		die("fdinfo of the guest_memfd has no line gmem-vmemmap");
	if (!fdinfo_kib(vm->gmem_fd, "gmem-shared", &row->shared_kib))
		die("fdinfo of the guest_memfd has no line gmem-shared");
}

static void take_map(struct scene *scene, struct conversions *all, const char *what)
{
	struct page_map *map = &all->map[all->nr_maps];

	if (!scene->hpa || scene->conversion != &all->conversion[IN_PLACE])
		return;
	all->nr_maps++;
	map->what = what;
	map->row = scene->conversion->nr_rows - 1;
	folio_extents(scene->hpa, SIZE, &map->folios);
	mapped_pages(scene->vm.gmem, SIZE, &map->mapped);
}

/* By all vCPUs */
static void run_empty_jobs(struct vm *vm)
{
	int i;

	for (i = 0; i < vm->nr_vcpus; i++) {
		*vm->vcpu[i].job = (struct guest_job){ .op = GUEST_WRITE };
		vm_run_vcpu(vm, i, NULL);
	}
}

static void run_job(struct scene *scene, struct guest_job job)
{
	struct guest_job *shared = scene->vm.vcpu[0].job;

	job.gpa += PRIVATE_GPA;
	*shared = job;
	vm_run_vcpu(&scene->vm, 0, NULL);
	if (shared->error)
		die("the guest's request at %#llx is answered %lld", shared->bad_gpa,
		    shared->error);
	if (shared->bad)
		die("the guest finds %llu words that are wrong, the last at %#llx",
		    shared->bad, shared->bad_gpa);
	if (job.op == GUEST_VERIFY)
		scene->conversion->guest_words += shared->words;
}

static __u64 part_words(const struct part *part)
{
	return part->count * part->piece / SZ_4K;
}

static void visit(struct scene *scene, enum guest_op op, const struct part *part,
		  enum stage from, enum stage to)
{
	run_job(scene, (struct guest_job){
		.op = op,
		.gpa = part->offset,
		.size = (part->count - 1) * part->stride + part->piece,
		.stride = part->count > 1 ? part->stride : SZ_4K,
		.from = from,
		.to = to,
	});
	if (op == GUEST_WRITE) {
		scene->words[from] -= part_words(part);
		scene->words[to] += part_words(part);
	}
}

static void ask(struct scene *scene, const struct part *part, bool private)
{
	run_job(scene, (struct guest_job){
		.op = GUEST_CONVERT,
		.gpa = part->offset,
		.size = part->count * part->stride,
		.stride = part->stride,
		.piece = part->piece,
		.private = private,
	});
}

static void *count_thread(void *arg)
{
	struct vcpu *vcpu = arg;

	vm_run_vcpu(counted, vcpu - counted->vcpu, NULL);
	return NULL;
}

/*
 * The first @nr vCPUs touch each 4K of the first @size bytes, and find of each stage as
 * many words as there should be.
 */
static void look_at(struct scene *scene, __u64 size, int nr, const __u64 words[NR_STAGES])
{
	__u64 found[NR_STAGES] = { 0 };
	struct vm *vm = &scene->vm;
	pthread_t thread[MAX_VCPUS];
	int i, stage;

	counted = vm;
	for (i = 0; i < nr; i++) {
		__u64 start = size / SZ_2M * i / nr * SZ_2M;

		*vm->vcpu[i].job = (struct guest_job){
			.op = GUEST_COUNT,
			.gpa = PRIVATE_GPA + start,
			.size = size / SZ_2M * (i + 1) / nr * SZ_2M - start,
			.stride = SZ_4K,
		};
		if (pthread_create(&thread[i], NULL, count_thread, &vm->vcpu[i]))
			die("pthread_create: %m");
	}
	for (i = 0; i < nr; i++) {
		struct guest_job *job = vm->vcpu[i].job;

		pthread_join(thread[i], NULL);
		if (job->bad)
			die("the guest finds %llu words that are wrong, the last at %#llx",
			    job->bad, job->bad_gpa);
		for (stage = 0; stage < NR_STAGES; stage++)
			found[stage] += job->stage_words[stage];
		scene->conversion->guest_words += job->words;
	}
	for (stage = 0; stage < NR_STAGES; stage++)
		if (found[stage] != words[stage])
			die("the guest finds %llu words of stage %d, there should be %llu",
			    found[stage], stage, words[stage]);
}

static void look_at_all(struct scene *scene, int nr)
{
	look_at(scene, SIZE, nr, scene->words);
}

/* The host reads what the guest has written, and writes for the guest. */
static void host_answers(struct scene *scene, const struct part *part, __u64 step,
			 enum stage from)
{
	__u64 offset, piece, i;

	for (i = 0; i < part->count; i++) {
		piece = part->offset + i * part->stride;
		for (offset = piece; offset < piece + part->piece; offset += step) {
			__u64 *word = (__u64 *)(scene->vm.gmem + offset);
			__u64 gpa = PRIVATE_GPA + offset;

			if (*word != stage_word(gpa, from))
				die("the host finds %#llx at %#llx of the guest's memory",
				    *word, gpa);
			*word = stage_word(gpa, SHARED_BY_HOST);
			scene->words[from]--;
			scene->words[SHARED_BY_HOST]++;
			scene->conversion->host_words++;
		}
	}
}

static void share(struct scene *scene, const struct part *part)
{
	enum stage found = WRITTEN;

	begin(scene, part->what);
	ask(scene, part, false);
	if (scene->vm.sharing == SHARE_TWO_STORES) {
		/* What is private cannot be seen, and what is shared is new. */
		scene->words[WRITTEN] -= part_words(part);
		scene->words[CLEARED] += part_words(part);
		found = CLEARED;
	}
	visit(scene, GUEST_WRITE, part, found, SHARED_BY_GUEST);
	host_answers(scene, part, SZ_4K, SHARED_BY_GUEST);
	visit(scene, GUEST_VERIFY, part, SHARED_BY_HOST, 0);
	look_at_all(scene, scene->vm.nr_vcpus);
	record(scene, part->what);
}

static void take_back(struct scene *scene)
{
	int i;

	begin(scene, "all private");
	for (i = 0; i < ARRAY_SIZE(parts); i++)
		ask(scene, &parts[i], true);
	/* The kernel merges a second later, with the guest idle. */
	if (scene->vm.sharing == SHARE_TWO_STORES) {
		scene->words[WRITTEN] += scene->words[SHARED_BY_HOST];
		scene->words[SHARED_BY_HOST] = 0;
		look_at_all(scene, 1);
	}
	record(scene, "all private again");
}

/* The kernel merges what has been left alone for a second. */
static void heal(struct scene *scene)
{
	__u64 folios[NR_FOLIO_SIZES], pending = 0, start = now_ms();

	begin(scene, "merge");
	do {
		usleep(20000);
		if (!fdinfo_kib(scene->vm.gmem_fd, "gmem-merges-pending", &pending))
			die("fdinfo of the guest_memfd has no line gmem-merges-pending");
		fdinfo_folios(scene->vm.gmem_fd, folios);
		if (now_ms() - start > MERGE_MS)
			die("after %d s the page is not merged: %llu pending", MERGE_MS / 1000,
			    pending);
	} while (pending || !folios[FOLIO_1G]);
	look_at_all(scene, 1);
	record(scene, "merged, by itself");
}

static void open_scene(struct scene *scene, struct conversion *conversion,
		       enum sharing sharing, const struct options *opt, bool trace)
{
	struct vm *vm = &scene->vm;
	struct mapping *mapping;

	memset(scene, 0, sizeof(*scene));
	scene->conversion = conversion;
	line_open = true;
	printf("  %s: create", conversion->name);
	vm_create(vm, KVM_X86_SW_PROTECTED_VM, sharing, opt->nr_vcpus);
	vm_create_gmem(vm, SIZE, SZ_1G);
	vm_bind_gmem(vm, PRIVATE_GPA, SIZE);
	conversion->flags = vm_gmem_flags(vm, SZ_1G);

	/* An empty job maps what the guest's code, stacks and page tables need. */
	run_empty_jobs(vm);
	scene->pages_4k = vm_stat(vm, "pages_4k");
	scene->pages_2m = vm_stat(vm, "pages_2m");
	scene->memmap = memmap_pages();
	scene->page_tables = meminfo_kib("SecPageTables");

	scene->words[CLEARED] = SIZE / SZ_4K;
	if (trace)
		trace_start();
	begin(scene, "first touch");
	visit(scene, GUEST_WRITE, &everything, CLEARED, WRITTEN);
	if (trace && trace_stop(&mapping) && mapping[0].level == 3)
		scene->hpa = mapping[0].hpa;
	look_at_all(scene, 1);
	record(scene, "all private");
}

static void close_scene(struct scene *scene)
{
	vm_destroy(&scene->vm);
	putchar('\n');
	line_open = false;
}

static void share_parts(struct scene *scene, struct conversions *all)
{
	int i;

	take_map(scene, all, "all private");
	for (i = 0; i < ARRAY_SIZE(parts); i++)
		share(scene, &parts[i]);
	take_map(scene, all, "parts of it shared");
	take_back(scene);
	if (scene->vm.sharing == SHARE_IN_PLACE) {
		heal(scene);
		take_map(scene, all, "all private again, and merged");
	}
	scene->conversion->kept = scene->words[SHARED_BY_HOST];
}

/*
 * What it would be to split a page to 4K throughout as soon as any of it is shared.
 * Nothing in the kernel does so by itself: all has to be shared, and touched by the
 * host in each block of 2M.
 */
static void split_throughout(struct scene *scene, struct conversion *conversion)
{
	/* An emulated CPU takes long over the faults. */
	const __u64 size = 64 * SZ_2M, words[NR_STAGES] = {
		[WRITTEN] = size / SZ_4K - size / SZ_2M,
		[SHARED_BY_HOST] = size / SZ_2M,
	};
	int i;

	scene->conversion = conversion;
	conversion->flags = vm_gmem_flags(&scene->vm, SZ_1G);
	for (i = 0; i < ARRAY_SIZE(parts); i++)
		visit(scene, GUEST_WRITE, &parts[i], SHARED_BY_HOST, WRITTEN);
	begin(scene, "all shared");
	record(scene, "all private");
	ask(scene, &everything, false);
	host_answers(scene, &everything, SZ_2M, WRITTEN);
	look_at(scene, size, scene->vm.nr_vcpus, words);
	record(scene, "all shared, 128M looked at");
	ask(scene, &everything, true);
	heal(scene);
	conversion->kept = scene->words[SHARED_BY_HOST];
}

void convert_run(struct conversions *all, const struct options *opt)
{
	struct scene scene;

	*all = (struct conversions){
		.conversion = {
			[IN_PLACE] = { .key = "in_place", .name = "in place" },
			[TWO_STORES] = { .key = "two_stores", .name = "two stores" },
			[SPLIT] = { .key = "split", .name = "split to 4K throughout" },
		},
	};

	open_scene(&scene, &all->conversion[IN_PLACE], SHARE_IN_PLACE, opt, opt->trace);
	share_parts(&scene, all);
	split_throughout(&scene, &all->conversion[SPLIT]);
	close_scene(&scene);

	open_scene(&scene, &all->conversion[TWO_STORES], SHARE_TWO_STORES, opt, false);
	share_parts(&scene, all);
	close_scene(&scene);
}
