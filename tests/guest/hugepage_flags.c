// SPDX-License-Identifier: GPL-2.0
/*
 * Print what /proc/kpageflags and /proc/kpagecount say of each page that HugeTLB
 * has: a line for each run of pages with the same, "PFN COUNT FLAGS REFERENCES".
 */
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#define KPF_HUGE	17
#define BATCH		65536

int main(void)
{
	static uint64_t flags[BATCH], count[BATCH];
	uint64_t pfn = 0, first = 0, f = 0, c = 0, nr = 0;
	int kpageflags, kpagecount;
	ssize_t n, i;

	kpageflags = open("/proc/kpageflags", O_RDONLY);
	kpagecount = open("/proc/kpagecount", O_RDONLY);
	if (kpageflags < 0 || kpagecount < 0)
		err(1, "/proc/kpageflags, /proc/kpagecount");

	while ((n = read(kpageflags, flags, sizeof(flags))) > 0) {
		if (read(kpagecount, count, n) != n)
			err(1, "/proc/kpagecount");
		for (i = 0; i < n / 8; i++, pfn++) {
			int huge = flags[i] >> KPF_HUGE & 1;

			if (nr && (!huge || flags[i] != f || count[i] != c)) {
				printf("%#lx %lu %#lx %lu\n", (long)first,
				       (long)nr, (long)f, (long)c);
				nr = 0;
			}
			if (huge && !nr) {
				nr = 1;
				first = pfn;
				f = flags[i];
				c = count[i];
			} else if (huge) {
				nr++;
			}
		}
	}
	if (n < 0)
		err(1, "/proc/kpageflags");
	if (nr)
		printf("%#lx %lu %#lx %lu\n", (long)first, (long)nr, (long)f, (long)c);
	return 0;
}
