// SPDX-License-Identifier: GPL-2.0
/*
 * The figures of all runs, as a table with one column per run, and as JSON.
 */
#include <stdio.h>
#include <sys/utsname.h>

#include "gmem_vmm.h"

enum kind { HEADING, NUMBER, MIB, HEX, POOL };

static const struct figure {
	const char *key;
	const char *label;
	enum kind kind;
	size_t offset;
} figures[] = {
#define FIGURE(name, label, kind) { #name, label, kind, offsetof(struct run, name) }
	FIGURE(size, "Guest memory, MiB", MIB),
	FIGURE(flags, "KVM_CREATE_GUEST_MEMFD flags", HEX),
	{ .label = "HugePages total / free / reserved" },
	FIGURE(pool_before, "  before creation", POOL),
	FIGURE(pool_created, "  after creation", POOL),
	FIGURE(pool_touched, "  after first touch", POOL),
	FIGURE(pool_closed, "  after close", POOL),
	FIGURE(free_memory_used_mib, "Host's MemFree went down by, MiB", NUMBER),
	FIGURE(page_tables_kib, "Host's SecPageTables went up by, KiB", NUMBER),
	FIGURE(faults, "Guest page faults", NUMBER),
	FIGURE(pages_1g, "Mappings of 1G", NUMBER),
	FIGURE(pages_2m, "            2M", NUMBER),
	FIGURE(pages_4k, "            4K", NUMBER),
	FIGURE(words, "Words written and verified", NUMBER),
	FIGURE(checksum, "Checksum", HEX),
	FIGURE(reach_tried, "Guest's tries to write to the VMM", NUMBER),
	FIGURE(reach_done, "  of these, successful", NUMBER),
	{ .label = "For information, on this machine" },
	FIGURE(create_ms, "  create and bind, ms", NUMBER),
	FIGURE(touch_ms, "  first touch of all, ms", NUMBER),
	FIGURE(touch_cycles, "  first touch, guest cycles per word", NUMBER),
	FIGURE(verify_cycles, "  second touch, guest cycles per word", NUMBER),
	FIGURE(close_ms, "  close, ms", NUMBER),
};

static void format_figure(char *text, size_t size, const struct figure *figure,
			  const struct run *run, bool json)
{
	const void *field = (const char *)run + figure->offset;
	const struct pool *pool = field;
	const __s64 *number = field;

	if (figure->kind == POOL && run->page_size == SZ_4K)
		snprintf(text, size, json ? "null" : "-");
	else if (figure->kind == POOL)
		snprintf(text, size, json ? "[%llu, %llu, %llu]" : "%llu / %llu / %llu",
			 pool->total, pool->free, pool->reserved);
	else if (figure->kind == HEX)
		snprintf(text, size, json ? "\"%#llx\"" : "%#llx", *number);
	else if (figure->kind == MIB && !json)
		snprintf(text, size, "%lld", *number >> 20);
	else
		snprintf(text, size, "%lld", *number);
}

void print_table(const struct run *runs, int nr_runs)
{
	char text[64];
	int i, r;

	printf("%-40s", "");
	for (r = 0; r < nr_runs; r++)
		printf(" %16s pages", runs[r].name);
	putchar('\n');
	for (i = 0; i < ARRAY_SIZE(figures); i++) {
		printf(figures[i].kind == HEADING ? "%s" : "%-40s", figures[i].label);
		for (r = 0; r < nr_runs && figures[i].kind != HEADING; r++) {
			format_figure(text, sizeof(text), &figures[i], &runs[r], false);
			printf(" %22s", text);
		}
		putchar('\n');
	}
}

static void json_run(FILE *file, const struct run *run)
{
	char text[64];
	size_t i;

	fprintf(file, "{\"page_size\": \"%s\"", run->name);
	for (i = 0; i < ARRAY_SIZE(figures); i++) {
		if (figures[i].kind == HEADING)
			continue;
		format_figure(text, sizeof(text), &figures[i], run, true);
		fprintf(file, ",\n   \"%s\": %s", figures[i].key, text);
	}
	/* Offset in guest memory, host-physical address, level (1: 4K). */
	fprintf(file, ",\n   \"layout\": [");
	for (i = 0; i < run->nr_mappings; i++)
		fprintf(file, "%s[%llu, %llu, %d]", i ? ", " : "",
			run->mappings[i].gpa - PRIVATE_GPA,
			run->mappings[i].hpa, run->mappings[i].level);
	fprintf(file, "]}");
}

void write_json(const char *path, const struct options *opt,
		const struct run *runs, int nr_runs)
{
	FILE *file = fopen(path, "w");
	struct utsname uts;
	int r;

	if (!file)
		die("%s: %m", path);
	uname(&uts);
	fprintf(file, "{\"kernel\": \"%s %s\",\n", uts.release, uts.version);
	fprintf(file, " \"stride\": %llu, \"vcpus\": %d, \"vm_type\": %lu,\n",
		opt->stride, opt->nr_vcpus, opt->vm_type);
	fprintf(file, " \"runs\": [\n  ");
	for (r = 0; r < nr_runs; r++) {
		fprintf(file, "%s", r ? ",\n  " : "");
		json_run(file, &runs[r]);
	}
	fprintf(file, "]}\n");
	if (fclose(file))
		die("%s: %m", path);
}
