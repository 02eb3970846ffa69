// SPDX-License-Identifier: GPL-2.0
/*
 * A child has its parent's private huge pages, of each size that the system has
 * a free page of.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hugepage_settings.h"
#include "vm_util.h"

#define NR_FORKS	100
#define MAX_SIZES	16

/*
 * Have the pages that are allocated next, page tables among them, be such that
 * were a file's and still have its index in their struct page.
 */
static void leave_used_pages(void)
{
	const size_t len = 64 * getpagesize();
	const off_t at = 1024 * getpagesize();
	int fd = memfd_create("used", 0);
	char *addr;

	if (fd < 0 || ftruncate(fd, at + len))
		ksft_exit_fail_perror("memfd");
	addr = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, at);
	if (addr == MAP_FAILED)
		ksft_exit_fail_perror("mmap");
	memset(addr, 1, len);
	munmap(addr, len);
	close(fd);
}

static void test_size(unsigned long size)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB |
			  __builtin_ctzl(size) << MAP_HUGE_SHIFT;
	int status, lost = 0;
	char *addr;
	pid_t pid;

	if (!hugetlb_free_pages(size)) {
		ksft_test_result_skip("%luK: no free page\n", size >> 10);
		return;
	}

	addr = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, -1, 0);
	if (addr == MAP_FAILED) {
		ksft_test_result_skip("%luK: no page to be reserved\n", size >> 10);
		return;
	}
	*addr = 'x';

	for (int i = 0; i < NR_FORKS; i++) {
		leave_used_pages();
		pid = fork();
		if (pid < 0)
			ksft_exit_fail_perror("fork");
		if (!pid)
			_exit(FORCE_READ(*addr) != 'x');
		if (waitpid(pid, &status, 0) != pid)
			ksft_exit_fail_perror("waitpid");
		lost += status != 0;
	}
	munmap(addr, size);

	ksft_test_result(!lost, "%luK: the page is there in all of %d children\n",
			 size >> 10, NR_FORKS);
	if (lost)
		ksft_print_msg("%d did not have it\n", lost);
}

int main(void)
{
	unsigned long sizes[MAX_SIZES];
	int nr;

	ksft_print_header();
	nr = detect_hugetlb_page_sizes(sizes, MAX_SIZES);
	if (!nr)
		ksft_exit_skip("no huge pages\n");
	ksft_set_plan(nr);

	for (int i = 0; i < nr; i++)
		test_size(sizes[i]);

	ksft_finished();
}
