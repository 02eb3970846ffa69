// SPDX-License-Identifier: GPL-2.0
/*
 * What the host has of a guest_memfd: its folios by size, from fdinfo and from
 * /proc/kpageflags, and the pages that this program has mapped.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gmem_vmm.h"

#define PAGEMAP_PRESENT		0x8000000000000000ULL
#define KPF_COMPOUND_TAIL	0x10000ULL

/* Of /proc/kpageflags or /proc/self/pagemap: a word for each page. */
static __u64 *read_words(const char *path, __u64 first, size_t nr)
{
	__u64 *words = malloc(nr * sizeof(*words));
	size_t done = 0;
	ssize_t r;
	int fd;

	if (!words)
		die("malloc: %m");
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		die("%s: %m: be root, on a kernel with CONFIG_PROC_PAGE_MONITOR=y", path);
	while (done < nr * sizeof(*words)) {
		r = pread(fd, (char *)words + done, nr * sizeof(*words) - done,
			  first * sizeof(*words) + done);
		if (r <= 0)
			die("%s at page %#llx: %s", path, first,
			    r ? strerror(errno) : "ends there");
		done += r;
	}
	close(fd);
	return words;
}

static FILE *open_fdinfo(int fd)
{
	char path[64];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	file = fopen(path, "r");
	if (!file)
		die("%s: %m", path);
	return file;
}

/* Of the line "@name: value kB".  False if there is none. */
bool fdinfo_kib(int fd, const char *name, __u64 *value)
{
	FILE *file = open_fdinfo(fd);
	char line[128], key[64];
	bool found = false;

	while (!found && fgets(line, sizeof(line), file))
		found = sscanf(line, "%63[^:]: %llu", key, value) == 2 &&
			!strcmp(key, name);
	fclose(file);
	return found;
}

static enum folio_size size_class(__u64 bytes)
{
	if (bytes >= SZ_1G)
		return FOLIO_1G;
	if (bytes >= SZ_2M)
		return FOLIO_2M_UP;
	return bytes > SZ_4K ? FOLIO_BELOW_2M : FOLIO_4K;
}

void fdinfo_folios(int fd, __u64 folios[NR_FOLIO_SIZES])
{
	FILE *file = open_fdinfo(fd);
	__u64 kib, nr, sum = 0;
	char line[128];

	memset(folios, 0, NR_FOLIO_SIZES * sizeof(*folios));
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "gmem-folios-%llukB: %llu", &kib, &nr) != 2)
			continue;
		folios[size_class(kib << 10)] += nr;
		sum += nr;
	}
	fclose(file);
	if (!sum)
		die("fdinfo of the guest_memfd shows no folio: the guest has not run from it");
}

static void add_page(struct extents *extents, __u64 index, __u64 nr_pages,
		     __u64 folio_pages)
{
	struct extent *last = extents->extent + extents->nr - 1;

	if (extents->nr && last->index + last->nr_pages == index &&
	    last->folio_pages == folio_pages) {
		last->nr_pages += nr_pages;
		return;
	}
	if (!(extents->nr & (extents->nr - 1))) {
		extents->extent = realloc(extents->extent, (2 * extents->nr + 1) *
					  sizeof(*extents->extent));
		if (!extents->extent)
			die("realloc: %m");
	}
	extents->extent[extents->nr++] = (struct extent){
		.index = index, .nr_pages = nr_pages, .folio_pages = folio_pages,
	};
}

/* The pages of 4K that this program has mapped; @extents may be NULL. */
__u64 mapped_pages(const char *mem, size_t size, struct extents *extents)
{
	__u64 *words, i, nr = 0;

	words = read_words("/proc/self/pagemap", (__u64)mem / SZ_4K, size / SZ_4K);
	for (i = 0; i < size / SZ_4K; i++) {
		if (!(words[i] & PAGEMAP_PRESENT))
			continue;
		nr++;
		if (extents)
			add_page(extents, i, 1, 1);
	}
	free(words);
	return nr;
}

/* The folios of @size bytes from @hpa on: a head, or a single page, and its tails. */
void folio_extents(__u64 hpa, size_t size, struct extents *extents)
{
	__u64 *words, i, head = 0;

	words = read_words("/proc/kpageflags", hpa / SZ_4K, size / SZ_4K);
	for (i = 1; i <= size / SZ_4K; i++) {
		if (i < size / SZ_4K && words[i] & KPF_COMPOUND_TAIL)
			continue;
		add_page(extents, head, i - head, i - head);
		head = i;
	}
	free(words);
}
