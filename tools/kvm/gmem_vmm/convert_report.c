// SPDX-License-Identifier: GPL-2.0
/*
 * What conversions took, step by step, and one way beside the other; and as JSON.
 */
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include "gmem_vmm.h"

static void print_rows(const struct conversion *conversion)
{
	const struct conversion_row *row;

	printf("\n%s, KVM_CREATE_GUEST_MEMFD flags %#llx\n", conversion->name,
	       conversion->flags);
	for (row = conversion->rows; row < conversion->rows + conversion->nr_rows; row++) {
		char folios[64];

		snprintf(folios, sizeof(folios), "%llu/%llu/%llu/%llu", row->folios[FOLIO_1G],
			 row->folios[FOLIO_2M_UP], row->folios[FOLIO_BELOW_2M],
			 row->folios[FOLIO_4K]);
		printf("  %-28s %5llu %17s %8llu %8llu %7lld %4llu %4llu %7llu %7llu %7llu\n",
		       row->what, row->pool_free, folios, row->vmemmap_kib, row->copy_kib,
		       row->page_tables_kib, row->pages_1g, row->pages_2m, row->pages_4k,
		       row->faults_taken, row->host_pages);
	}
}

/* Memory beyond the guest's own: struct pages, page tables, and what is there twice. */
static __s64 extra_kib(const struct conversion *conversion, int i)
{
	const struct conversion_row *first = conversion->rows;
	const struct conversion_row *row = conversion->rows + i;

	return row->vmemmap_kib - first->vmemmap_kib + row->copy_kib +
	       row->page_tables_kib - first->page_tables_kib;
}

/*
 * What is shared, one way beside the other. Split throughout it is always the same; the
 * guest then looks at an eighth of its memory.
 */
static void print_side_by_side(const struct conversions *all)
{
	const struct conversion *in_place = &all->conversion[IN_PLACE];
	const struct conversion *stores = &all->conversion[TWO_STORES];
	const struct conversion *split = &all->conversion[SPLIT];
	int i;

	printf("\n%-30s %34s %34s\n", "", "memory beyond the guest's 1G, KiB",
	       "page faults (*: in 128M)");
	printf("%-30s", "To share");
	printf(" %10s %11s %11s", "in place", "two stores", "split to 4K");
	printf(" %10s %11s %11s\n", "in place", "two stores", "split to 4K*");
	for (i = 1; i < stores->nr_rows - 1; i++)
		printf("  %-28s %10lld %11lld %11lld %10llu %11llu %11llu\n",
		       in_place->rows[i].what, extra_kib(in_place, i), extra_kib(stores, i),
		       extra_kib(split, 1), in_place->rows[i].faults_taken,
		       stores->rows[i].faults_taken, split->rows[1].faults_taken);
}

static void print_checks(const struct conversion *conversion)
{
	printf("%s: the host has checked %llu words, the guest %llu; what is private again %s\n",
	       conversion->name, conversion->host_words, conversion->guest_words,
	       conversion->kept ? "has what was written while it was shared" :
				  "has what it had before it was shared");
}

void print_conversions(const struct conversions *all)
{
	int i;

	puts("A guest on one page of 1G shares parts of it, and takes them back\n");
	printf("  %-28s %5s %17s %8s %8s %7s %17s %7s %7s\n", "", "Huge-", "Folios of",
	       "struct", "second", "KVM's", "guest's mappings", "guest's", "pages");
	printf("  %-28s %5s %17s %8s %8s %7s %4s %4s %7s %7s %7s\n", "", "Pages",
	       "1G / 2M and more", "pages,", "copy,", "tables,", "", "", "", "page", "the host");
	printf("  %-28s %5s %17s %8s %8s %7s %4s %4s %7s %7s %7s\n", "", "free",
	       "/ less / 4K", "KiB", "KiB", "KiB", "1G", "2M", "4K", "faults", "has");
	for (i = 0; i < NR_WAYS; i++)
		print_rows(&all->conversion[i]);
	print_side_by_side(all);
	putchar('\n');
	for (i = 0; i < NR_WAYS; i++)
		print_checks(&all->conversion[i]);
}

static void json_row(FILE *file, const struct conversion_row *row)
{
	fprintf(file, "{\"what\": \"%s\", \"pool_free\": %llu, ", row->what, row->pool_free);
	fprintf(file, "\"folios\": [%llu, %llu, %llu, %llu], ", row->folios[FOLIO_1G],
		row->folios[FOLIO_2M_UP], row->folios[FOLIO_BELOW_2M], row->folios[FOLIO_4K]);
	fprintf(file, "\"shared_kib\": %llu, \"vmemmap_kib\": %llu, \"memmap_kib\": %lld, ",
		row->shared_kib, row->vmemmap_kib, row->memmap_kib);
	fprintf(file, "\"copy_kib\": %llu, \"page_tables_kib\": %lld, \"host_pages\": %llu, ",
		row->copy_kib, row->page_tables_kib, row->host_pages);
	fprintf(file, "\"pages_1g\": %llu, \"pages_2m\": %llu, \"pages_4k\": %llu, ",
		row->pages_1g, row->pages_2m, row->pages_4k);
	fprintf(file, "\"faults_taken\": %llu, \"faults_fixed\": %llu, \"ms\": %llu}",
		row->faults_taken, row->faults_fixed, row->ms);
}

/* Index of the first page, pages, pages of each folio. */
static void json_extents(FILE *file, const char *key, const struct extents *extents)
{
	size_t i;

	fprintf(file, "\"%s\": [", key);
	for (i = 0; i < extents->nr; i++)
		fprintf(file, "%s[%llu, %llu, %llu]", i ? ", " : "",
			extents->extent[i].index, extents->extent[i].nr_pages,
			extents->extent[i].folio_pages);
	fputc(']', file);
}

void write_conversions_json(const char *path, const struct conversions *all)
{
	FILE *file = fopen(path, "w");
	struct utsname uts;
	int c, r, m;

	if (!file)
		die("%s: %m", path);
	uname(&uts);
	fprintf(file, "{\"kernel\": \"%s %s\",\n", uts.release, uts.version);
	fprintf(file, " \"ways\": [");
	for (c = 0; c < NR_WAYS; c++) {
		const struct conversion *conversion = &all->conversion[c];

		fprintf(file, "%s\n  {\"way\": \"%s\", \"flags\": \"%#llx\", ", c ? "," : "",
			conversion->key, conversion->flags);
		fprintf(file, "\"host_words\": %llu, \"guest_words\": %llu, ",
			conversion->host_words, conversion->guest_words);
		fprintf(file, "\"kept\": %s,\n   \"steps\": [",
			conversion->kept ? "true" : "false");
		for (r = 0; r < conversion->nr_rows; r++) {
			fprintf(file, "%s\n    ", r ? "," : "");
			json_row(file, &conversion->rows[r]);
		}
		fprintf(file, "]}");
	}
	fprintf(file, "],\n \"maps\": [");
	for (m = 0; m < all->nr_maps; m++) {
		fprintf(file, "%s\n  {\"what\": \"%s\", \"step\": %d, ", m ? "," : "",
			all->map[m].what, all->map[m].row);
		json_extents(file, "folios", &all->map[m].folios);
		fprintf(file, ",\n   ");
		json_extents(file, "mapped", &all->map[m].mapped);
		fputc('}', file);
	}
	fprintf(file, "]}\n");
	if (fclose(file))
		die("%s: %m", path);
}
