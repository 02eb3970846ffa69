// SPDX-License-Identifier: GPL-2.0
/*
 * Walk HugeTLB through what it can do, and watch all of its counters.
 *
 * A scenario runs in a process of its own, in a cgroup. After each step it
 * says by how much the counters of its pool must differ from those at its
 * start, and prints a snapshot of every counter there is, with nothing in it
 * that changes from run to run: the output of two kernels can be compared line
 * by line. When the scenario has ended, all counters must be what they were.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/mempolicy.h>

#ifndef MFD_HUGETLB
#define MFD_HUGETLB	0x0004U
#endif
#define HUGE_SHIFT	26
#define MAX_NODES	2
#define CGROUP_ROOT	"/sys/fs/cgroup"
#define CGROUP		CGROUP_ROOT "/hugetlb_counters"
#define MNT		"/tmp/hugetlb_counters"
#define TIME_LIMIT	120
#define SKIP		4

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))
#define __printf(a, b)	__attribute__((format(printf, a, b)))
#define __noreturn	__attribute__((noreturn))
#define for_each_size(s) \
	for (s = sizes; s < sizes + ARRAY_SIZE(sizes); s++) \
		if (s->present)

struct hstate {
	const char *name;
	const char *cgroup;	/* in the names of the cgroup's files */
	unsigned long kb;
	int shift;
	long want;		/* pages on each node when a scenario starts */
	bool present;
	bool boot;		/* pages of this size are not to be freed */
	long initial[MAX_NODES];
};

static struct hstate sizes[] = {
	{ .name = "2M", .cgroup = "2MB", .kb = 2048, .shift = 21, .want = 3 },
	{ .name = "1G", .cgroup = "1GB", .kb = 1048576, .shift = 30, .want = 1 },
};

struct pool {
	long nr, free, rsvd, surplus;
};

/* What a scenario leaves to be judged by; shared with its process */
struct outcome {
	int checks, failures;
};

static struct outcome *outcome;
static struct hstate *h;	/* of the scenario that runs */
static struct pool start;	/* its pool then */
static long start_events[ARRAY_SIZE(sizes)];
static size_t page;		/* its page size in bytes */
static const char *current;	/* "2M cow" */
static int nr_nodes;
static bool cgroups, slow, scattered;
static FILE *snapshots;

static void __printf(1, 2) __noreturn die(const char *fmt, ...)
{
	va_list ap;

	printf("Bail out! ");
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
	fflush(stdout);
	_exit(1);
}

/*
 * Files
 */

/* The content without the newline; an empty string if it cannot be read */
static char *read_file(const char *path)
{
	static char buf[8192];
	ssize_t len = 0, n;
	int fd;

	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		while ((n = read(fd, buf + len, sizeof(buf) - 1 - len)) > 0)
			len += n;
		close(fd);
	}
	while (len && buf[len - 1] == '\n')
		len--;
	buf[len] = '\0';
	return buf;
}

static int write_file(const char *path, const char *text)
{
	int fd, err = 0;

	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return errno;
	if (write(fd, text, strlen(text)) < 0)
		err = errno;
	close(fd);
	return err;
}

/* The number after KEY in a file of lines "KEY NUMBER"; -1 if there is none */
static long field(const char *path, const char *key)
{
	size_t len = strlen(key);
	char *line, *save;

	line = strtok_r(read_file(path), "\n", &save);
	for (; line; line = strtok_r(NULL, "\n", &save))
		if (!strncmp(line, key, len) && line[len] && strchr(" \t:", line[len]))
			return strtol(line + len + strspn(line + len, ": \t"), NULL, 10);
	return -1;
}

/*
 * Pools. Node -1 is all nodes.
 */

static const char *pool_path(const struct hstate *s, int node, const char *file)
{
	static char path[128];

	if (node < 0)
		snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%lukB/%s",
			 s->kb, file);
	else
		snprintf(path, sizeof(path),
			 "/sys/devices/system/node/node%d/hugepages/hugepages-%lukB/%s",
			 node, s->kb, file);
	return path;
}

static long get(const struct hstate *s, int node, const char *file)
{
	return strtol(read_file(pool_path(s, node, file)), NULL, 10);
}

static int set(const struct hstate *s, int node, const char *file, long value)
{
	char text[32];

	snprintf(text, sizeof(text), "%ld", value);
	return write_file(pool_path(s, node, file), text);
}

static struct pool get_pool(const struct hstate *s)
{
	return (struct pool) {
		.nr = get(s, -1, "nr_hugepages"),
		.free = get(s, -1, "free_hugepages"),
		.rsvd = get(s, -1, "resv_hugepages"),
		.surplus = get(s, -1, "surplus_hugepages"),
	};
}

static const char *cgroup_path(const struct hstate *s, const char *file)
{
	static char path[128];

	snprintf(path, sizeof(path), CGROUP "/hugetlb.%s.%s", s->cgroup, file);
	return path;
}

/* In pages */
static long charged(const struct hstate *s, const char *file)
{
	return strtol(read_file(cgroup_path(s, file)), NULL, 10) / 1024 / (long)s->kb;
}

/* How often a limit was met */
static long events_of(const struct hstate *s)
{
	return field(cgroup_path(s, "events"), "max");
}

/*
 * Snapshots
 */

static void __printf(3, 4) append(char *buf, size_t size, const char *fmt, ...)
{
	size_t len = strlen(buf);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(buf + len, size - len, fmt, ap);
	va_end(ap);
}

static void append_state(char *buf, size_t size, bool events)
{
	static const char * const meminfo[] = {
		"HugePages_Total", "HugePages_Free", "HugePages_Rsvd", "HugePages_Surp",
		"Hugepagesize", "Hugetlb",
	};
	static const char * const limits[] = { "max", "rsvd.max" };
	char path[128], key[64];
	struct hstate *s;
	size_t i;
	int node;

	for_each_size(s) {
		struct pool p = get_pool(s);

		append(buf, size, "#   %s: nr %ld free %ld rsvd %ld surplus %ld", s->name,
		       p.nr, p.free, p.rsvd, p.surplus);
		append(buf, size, " mempolicy %ld", get(s, -1, "nr_hugepages_mempolicy"));
		append(buf, size, " overcommit %ld", get(s, -1, "nr_overcommit_hugepages"));
		for (node = 0; node < nr_nodes; node++)
			append(buf, size, " | node%d: %ld %ld %ld", node,
			       get(s, node, "nr_hugepages"),
			       get(s, node, "free_hugepages"),
			       get(s, node, "surplus_hugepages"));
		if (cgroups) {
			append(buf, size, " | cgroup: %ld rsvd %ld", charged(s, "current"),
			       charged(s, "rsvd.current"));
			for (i = 0; i < ARRAY_SIZE(limits); i++)
				append(buf, size, " %s %s", limits[i],
				       read_file(cgroup_path(s, limits[i])));
		}
		if (cgroups && events)
			append(buf, size, " events %ld", events_of(s) - start_events[s - sizes]);
		append(buf, size, "\n");
	}
	append(buf, size, "#   meminfo:");
	for (i = 0; i < ARRAY_SIZE(meminfo); i++)
		append(buf, size, " %ld", field("/proc/meminfo", meminfo[i]));
	for (node = 0; node < nr_nodes; node++) {
		append(buf, size, " | node%d:", node);
		snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/meminfo", node);
		for (i = 0; i < 4; i++) {
			snprintf(key, sizeof(key), "Node %d %s", node, meminfo[i]);
			if (i != 2)
				append(buf, size, " %ld", field(path, key));
		}
	}
	append(buf, size, "\n");
}

static void snapshot(const char *label)
{
	char buf[4096] = "";

	append(buf, sizeof(buf), "# %s: %s\n", current, label);
	append_state(buf, sizeof(buf), true);
	fputs(buf, snapshots);
	fflush(snapshots);
}

/* struct pages that are allocated: what the vmemmap optimization changes */
static long memmap_pages(void)
{
	return field("/proc/vmstat", "nr_memmap_pages") + field("/proc/vmstat", "nr_memmap_boot_pages");
}

/*
 * Checks
 */

static bool __printf(2, 3) check(bool good, const char *fmt, ...)
{
	va_list ap;

	outcome->checks++;
	if (!good) {
		outcome->failures++;
		printf("# %s: ", current);
		va_start(ap, fmt);
		vprintf(fmt, ap);
		va_end(ap);
		printf("\n");
		fflush(stdout);
	}
	return good;
}

static bool is(long have, long want, const char *what)
{
	return check(have == want, "%s: is %ld, wanted %ld", what, have, want);
}

/* Nothing that follows in the scenario would make sense */
static void must(bool good, const char *what)
{
	int err = errno;

	if (!check(good, "%s: %s", what, strerror(err)))
		_exit(1);
}

static void step(const char *label, long nr, long free, long rsvd, long surplus)
{
	struct pool p = get_pool(h);

	snapshot(label);
	p.nr -= start.nr;
	p.free -= start.free;
	p.rsvd -= start.rsvd;
	p.surplus -= start.surplus;
	check(p.nr == nr && p.free == free && p.rsvd == rsvd && p.surplus == surplus,
	      "%s: nr %+ld free %+ld rsvd %+ld surplus %+ld, wanted %+ld %+ld %+ld %+ld",
	      label, p.nr, p.free, p.rsvd, p.surplus, nr, free, rsvd, surplus);
}

static void node_is(int node, const char *file, long want, const char *label)
{
	long have = get(h, node, file);

	check(have == want, "%s: node %d has %s %ld, wanted %ld", label, node, file, have, want);
}

/*
 * Memory
 */

static char *map_try(long pages, int flags)
{
	char *p = mmap(NULL, pages * page, PROT_READ | PROT_WRITE,
		       MAP_ANONYMOUS | MAP_HUGETLB | h->shift << HUGE_SHIFT | flags, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static char *map(long pages)
{
	char *p = map_try(pages, MAP_PRIVATE);

	must(p, "mmap");
	return p;
}

static void unmap(char *p, long pages)
{
	must(!munmap(p, pages * page), "munmap");
}

static sigjmp_buf fault;

static void on_sigbus(int sig)
{
	siglongjmp(fault, sig);
}

/* Write to the first byte of a page: 0, or the signal that it took */
static int touch(char *p, char value)
{
	int sig = sigsetjmp(fault, 1);

	if (!sig)
		*(volatile char *)p = value;
	return sig;
}

static int peek(char *p)
{
	int sig = sigsetjmp(fault, 1);

	return sig ? -sig : *(volatile char *)p;
}

static void touched(char *p, char value)
{
	is(touch(p, value), 0, "signal at a fault");
}

/* Reserve what nobody has reserved: the pool is empty to all others */
static char *hog(long *pages)
{
	struct pool p = get_pool(h);

	*pages = p.free - p.rsvd;
	return *pages > 0 ? map(*pages) : NULL;
}

/* An emulator takes seconds to zero 1G: do with few such pages */
static bool cheap(void)
{
	return h->shift < 30;
}

static unsigned long mask_of(int node)
{
	return node < 0 ? 0 : 1UL << node;
}

static void bind_to(char *p, long pages, int mode, unsigned long mask, int flags)
{
	must(!syscall(SYS_mbind, p, pages * page, mode, &mask, sizeof(mask) * 8, flags), "mbind");
}

static void task_policy(int mode, unsigned long mask)
{
	must(!syscall(SYS_set_mempolicy, mode, &mask, sizeof(mask) * 8), "set_mempolicy");
}

static int node_of(char *p)
{
	int node = -1, err;
	void *addr = p;

	err = syscall(SYS_move_pages, 0, 1UL, &addr, NULL, &node, 0);
	return err ? -errno : node;
}

/*
 * Processes
 */

struct child {
	pid_t pid;
	int to, from;
};

/* A child that does something whenever it is asked, and tells what came of it */
static struct child spawn(void (*fn)(struct child *self, char *p), char *p)
{
	int to[2], from[2];
	struct child c, self;

	must(!pipe2(to, O_CLOEXEC) && !pipe2(from, O_CLOEXEC), "pipe2");
	fflush(NULL);
	c.pid = fork();
	must(c.pid >= 0, "fork");
	if (!c.pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		self = (struct child) { .to = from[1], .from = to[0] };
		close(to[1]);
		close(from[0]);
		fn(&self, p);
		_exit(0);
	}
	close(to[0]);
	close(from[1]);
	c.to = to[1];
	c.from = from[0];
	return c;
}

static void tell(struct child *c, signed char what)
{
	if (write(c->to, &what, 1) != 1)
		_exit(1);
}

/* What the other side told, or that it is gone */
static int told(struct child *c)
{
	signed char what;

	return read(c->from, &what, 1) == 1 ? what : -1000;
}

static int ask(struct child *c)
{
	tell(c, 0);
	return told(c);
}

static int reap(struct child *c)
{
	int status = -1;

	close(c->to);
	waitpid(c->pid, &status, 0);
	close(c->from);
	return status;
}

/* Whenever it is asked: write, and tell the signal */
static void writer(struct child *self, char *p)
{
	while (told(self) == 0)
		tell(self, touch(p, 'c'));
}

static void reader(struct child *self, char *p)
{
	while (told(self) == 0)
		tell(self, peek(p));
}

/*
 * hugetlbfs
 */

static int mount_fs(const char *size, long max, long min)
{
	char options[96];

	snprintf(options, sizeof(options), "pagesize=%s", size);
	if (max)
		append(options, sizeof(options), ",size=%lu", max * page);
	if (min)
		append(options, sizeof(options), ",min_size=%lu", min * page);
	return mount("none", MNT, "hugetlbfs", 0, options) ? errno : 0;
}

static int umount_fs(int flags)
{
	return umount2(MNT, flags) ? errno : 0;
}

static int create(const char *name)
{
	int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	must(fd >= 0, name);
	return fd;
}

static int allocate(int fd, int mode, long first, long pages)
{
	return fallocate(fd, mode, first * page, pages * page) ? errno : 0;
}

static int punch(int fd, long first, long pages)
{
	return allocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, first, pages);
}

static char *map_file_try(int fd, long pages, int flags)
{
	char *p = mmap(NULL, pages * page, PROT_READ | PROT_WRITE, flags, fd, 0);

	return p == MAP_FAILED ? NULL : p;
}

static char *map_file(int fd, long pages)
{
	char *p = map_file_try(fd, pages, MAP_SHARED);

	must(p, "mmap of a file");
	return p;
}

static void fs_is(long total, long free)
{
	struct statfs fs;

	must(!statfs(MNT, &fs), "statfs");
	is(fs.f_blocks, total, "f_blocks");
	is(fs.f_bfree, free, "f_bfree");
}

/*
 * Scenarios: the size of the pool
 */

static void resize(void)
{
	is(set(h, -1, "nr_hugepages", start.nr + 1), 0, "grow");
	step("one page more", 1, 1, 0, 0);
	is(set(h, -1, "nr_hugepages", start.nr + 1), 0, "the same again");
	step("the same again", 1, 1, 0, 0);
	if (cheap()) {
		is(set(h, -1, "nr_hugepages", start.nr + 20), 0, "grow");
		step("twenty more", 20, 20, 0, 0);
		if (nr_nodes == 2)
			is(get(h, 0, "nr_hugepages"), get(h, 1, "nr_hugepages"), "even nodes");
	}
	is(set(h, -1, "nr_hugepages", start.nr), 0, "shrink");
	step("as before", 0, 0, 0, 0);
	is(set(h, -1, "nr_hugepages", 0), 0, "shrink");
	step("none", -start.nr, -start.nr, 0, 0);
	is(set(h, -1, "nr_hugepages", start.nr), 0, "grow");
	step("all of them", 0, 0, 0, 0);
}

static void resize_node(void)
{
	int node;

	for (node = 0; node < nr_nodes; node++) {
		long nr = get(h, node, "nr_hugepages");

		is(set(h, node, "nr_hugepages", nr + 1), 0, "grow a node");
		step("one page more on a node", 1, 1, 0, 0);
		node_is(node, "nr_hugepages", nr + 1, "grown");
		is(set(h, node, "nr_hugepages", 0), 0, "empty a node");
		step("none on a node", -nr, -nr, 0, 0);
		node_is(node, "nr_hugepages", 0, "emptied");
		is(set(h, node, "nr_hugepages", nr), 0, "refill a node");
		step("the node as before", 0, 0, 0, 0);
	}
}

static void resize_mempolicy(void)
{
	int node;

	for (node = 1; node >= 0; node--) {
		long nr = get(h, node, "nr_hugepages");

		task_policy(MPOL_BIND, mask_of(node));
		is(set(h, -1, "nr_hugepages_mempolicy", start.nr + 1), 0, "grow");
		step("one page more where the task is bound", 1, 1, 0, 0);
		node_is(node, "nr_hugepages", nr + 1, "grown");
		is(set(h, -1, "nr_hugepages_mempolicy", start.nr), 0, "shrink");
		step("one page less where the task is bound", 0, 0, 0, 0);
		node_is(node, "nr_hugepages", nr, "shrunk");
		task_policy(MPOL_DEFAULT, 0);
	}
}

static void resize_refused(void)
{
	is(write_file(pool_path(h, -1, "nr_hugepages"), "many"), EINVAL, "no number");
	is(write_file(pool_path(h, -1, "nr_overcommit_hugepages"), "-"), EINVAL, "no number");
	step("after refusals", 0, 0, 0, 0);
}

static void shrink_reserved(void)
{
	char *p = map(1);

	step("a page reserved", 0, 0, 1, 0);
	is(set(h, -1, "nr_hugepages", 0), 0, "shrink");
	step("shrunk to what is reserved", 1 - start.nr, 1 - start.nr, 1, 1);
	unmap(p, 1);
	step("given up", -start.nr, -start.nr, 0, 0);
}

static void shrink_node_reserved(void)
{
	int node = nr_nodes - 1;
	long gone = get(h, node, "nr_hugepages") - 1, reserved = start.free - gone;
	char *p = map(reserved);

	is(set(h, node, "nr_hugepages", 0), 0, "empty a node");
	step("but for what is reserved", -gone, -gone, reserved, 1);
	node_is(node, "nr_hugepages", 1, "reserved");
	unmap(p, reserved);
	step("given up", -gone - 1, -gone - 1, 0, 0);
	node_is(node, "nr_hugepages", 0, "given up");
}

static void shrink_in_use(void)
{
	long used = cheap() ? 3 : 1, i;
	char *p = map(used);

	for (i = 0; i < used; i++)
		touched(p + i * page, 'a');
	step("in use", 0, -used, 0, 0);
	is(set(h, -1, "nr_hugepages", 0), 0, "shrink");
	step("all surplus", used - start.nr, -start.nr, 0, used);
	if (cheap()) {
		is(set(h, -1, "nr_hugepages", 1), 0, "grow");
		step("one of them persistent", used - start.nr, -start.nr, 0, used - 1);
		is(set(h, -1, "nr_hugepages", 0), 0, "shrink");
		step("all surplus again", used - start.nr, -start.nr, 0, used);
		is(peek(p), 'a', "data");
		unmap(p + 2 * page, 1);
		used--;
		step("one freed", used - start.nr, -start.nr, 0, used);
	}
	unmap(p, used);
	step("all freed", -start.nr, -start.nr, 0, 0);
}

static void overcommit(void)
{
	long all = start.free, i;
	char *p, *q;

	check(!map_try(all + 1, MAP_PRIVATE), "more than the pool has could be mapped");
	step("refused without overcommit", 0, 0, 0, 0);
	is(set(h, -1, "nr_overcommit_hugepages", 2), 0, "overcommit");
	p = map(all + 1);
	step("one more than the pool has", 1, 1, all + 1, 1);
	check(!map_try(2, MAP_PRIVATE), "more than may be overcommitted could be mapped");
	step("refused beyond overcommit", 1, 1, all + 1, 1);
	if (cheap()) {
		for (i = 0; i < all + 1; i++)
			touched(p + i * page, 'a');
		step("used", 1, -all, 0, 1);
	}
	is(set(h, -1, "nr_overcommit_hugepages", 0), 0, "overcommit");
	check(!map_try(1, MAP_PRIVATE), "a page could be mapped though overcommit was lowered");
	if (cheap())
		step("overcommit lowered", 1, -all, 0, 1);
	else
		step("overcommit lowered", 1, 1, all + 1, 1);
	unmap(p, all + 1);
	step("given back", 0, 0, 0, 0);

	/* A page without a reservation: surplus when it is touched, gone when it is freed */
	is(set(h, -1, "nr_overcommit_hugepages", 1), 0, "overcommit");
	p = hog(&all);
	q = map_try(1, MAP_PRIVATE | MAP_NORESERVE);
	must(q, "mmap");
	if (cheap()) {
		step("nothing left", 0, 0, all, 0);
		touched(q, 'a');
		step("a page beyond it", 1, 0, all, 1);
		is(set(h, -1, "nr_hugepages", start.nr + 1), 0, "grow");
		step("grown by it", 1, 0, all, 0);
		unmap(q, 1);
		step("freed to the pool", 1, 1, all, 0);
		is(set(h, -1, "nr_hugepages", start.nr), 0, "shrink");
		step("shrunk", 0, 0, all, 0);
	}
	unmap(p, all);
	is(set(h, -1, "nr_overcommit_hugepages", 0), 0, "overcommit");
	step("given back again", 0, 0, 0, 0);
}

static long small_nr(void)
{
	return get(&sizes[0], -1, "nr_hugepages");
}

static void demote(void)
{
	long small = small_nr(), memmap = memmap_pages();
	int node = nr_nodes - 1;

	is(set(h, node, "demote", 1), 0, "demote");
	step("a page of a node demoted", -1, -1, 0, 0);
	is(small_nr(), small + 512, "2M pages");
	is(set(&sizes[0], node, "nr_hugepages", sizes[0].want), 0, "shrink");
	step("the small ones freed", -1, -1, 0, 0);
	is(set(h, node, "nr_hugepages", h->want), 0, "grow");
	step("made again", 0, 0, 0, 0);
	is(memmap_pages() - memmap, 0, "struct pages, difference");
	is(set(h, -1, "demote", 1), 0, "demote");
	step("a page of any node demoted", -1, -1, 0, 0);
	is(set(&sizes[0], -1, "nr_hugepages", 0), 0, "shrink");
	step("no small ones", -1, -1, 0, 0);
}

static void demote_reserved(void)
{
	long small = small_nr(), all;
	char *p = hog(&all);

	is(set(h, -1, "demote", 1), 0, "demote");
	step("none to demote", 0, 0, all, 0);
	is(small_nr(), small, "2M pages");
	is(write_file(pool_path(h, -1, "demote_size"), "1G"), EINVAL, "to the same size");
	is(write_file(pool_path(h, -1, "demote_size"), "4k"), EINVAL, "to a size that is none");
	unmap(p, all);
	step("given up", 0, 0, 0, 0);
}

/* A node has fewer free pages than are reserved in the pool */
static void demote_node_reserved(void)
{
	long small = small_nr(), all;
	char *p = hog(&all);
	int node;

	for (node = 0; node < nr_nodes; node++) {
		is(set(h, node, "demote", 1), 0, "demote");
		step("none of the node to demote", 0, 0, all, 0);
	}
	is(small_nr(), small, "2M pages");
	unmap(p, all);
	step("given up", 0, 0, 0, 0);
}

static void demote_too_many(void)
{
	long small = small_nr(), reserved = start.free - 1;
	char *p = map(reserved);

	is(set(h, -1, "demote", start.nr), 0, "demote");
	step("the one that is not reserved", -1, -1, reserved, 0);
	is(small_nr(), small + 512, "2M pages");
	unmap(p, reserved);
	is(set(&sizes[0], -1, "nr_hugepages", 0), 0, "shrink");
	step("no small ones", -1, -1, 0, 0);
}

/* struct pages that are freed with the pages of a pool and come back */
static void vmemmap(void)
{
	long before = memmap_pages(), grown;

	is(set(h, -1, "nr_hugepages", start.nr + 2), 0, "grow");
	grown = memmap_pages() - before;
	fprintf(snapshots, "# %s: struct pages for two pages: %ld\n", current, grown);
	step("two more", 2, 2, 0, 0);
	is(set(h, -1, "nr_hugepages", start.nr), 0, "shrink");
	step("as before", 0, 0, 0, 0);
	is(memmap_pages() - before, 0, "struct pages, difference");
}

/*
 * Scenarios: private mappings
 */

static void private_map(void)
{
	char *p = map(2);

	step("reserved", 0, 0, 2, 0);
	if (cheap()) {
		touched(p, 'a');
		step("one touched", 0, -1, 1, 0);
		touched(p + page, 'b');
		step("two touched", 0, -2, 0, 0);
	}
	unmap(p, 2);
	step("unmapped", 0, 0, 0, 0);
	check(!map_try(start.free + 1, MAP_PRIVATE), "more than the pool has could be mapped");
	check(!map_try(start.free + 1, MAP_SHARED), "more than it has could be mapped, shared");
	step("refused", 0, 0, 0, 0);
}

static void cow(void)
{
	char *p = map(1);
	struct child c;

	touched(p, 'a');
	step("touched", 0, -1, 0, 0);
	c = spawn(writer, p);
	step("forked", 0, -1, 0, 0);
	is(ask(&c), 0, "signal when the child writes");
	step("the child's copy", 0, -2, 0, 0);
	is(peek(p), 'a', "the parent's data");
	is(reap(&c), 0, "status");
	step("the child is gone", 0, -1, 0, 0);
	touched(p, 'b');
	step("the page is the parent's", 0, -1, 0, 0);
	if (cheap()) {
		c = spawn(reader, p);
		touched(p, 'd');
		step("the parent's copy", 0, -2, 0, 0);
		is(ask(&c), 'b', "the child's data");
		is(reap(&c), 0, "status");
		step("the child is gone again", 0, -1, 0, 0);
	}
	unmap(p, 1);
	step("unmapped", 0, 0, 0, 0);
}

/*
 * Not with 1G: fork() does not always give the child such a page, because
 * copy_hugetlb_page_range() takes what the descriptor of a PUD table has in the
 * place of a share count, which only PMD tables have, for one.
 */
static void cow_empty(void)
{
	struct child c;
	char *p, *q;
	long rest;

	p = map(1);
	touched(p, 'a');
	q = hog(&rest);
	step("the rest reserved", 0, -1, rest, 0);
	c = spawn(writer, p);
	is(ask(&c), SIGBUS, "signal when the child writes");
	step("no copy for the child", 0, -1, rest, 0);
	is(reap(&c), 0, "status");
	step("the child is gone", 0, -1, rest, 0);
	c = spawn(reader, p);
	is(ask(&c), 'a', "the child's data");
	touched(p, 'b');
	step("the parent took the page", 0, -1, rest, 0);
	is(ask(&c), -SIGBUS, "what the child reads");
	is(reap(&c), 0, "status");
	step("the child is gone again", 0, -1, rest, 0);
	unmap(q, rest);
	unmap(p, 1);
	step("unmapped", 0, 0, 0, 0);
}

/* The child inherits the mapping but not its reservation */
static void fork_reserved(void)
{
	struct child c;
	char *p, *q;
	long rest;

	p = map(1);
	q = hog(&rest);
	step("all reserved", 0, 0, rest + 1, 0);
	c = spawn(writer, p);
	is(ask(&c), SIGBUS, "signal when the child writes");
	step("nothing for the child", 0, 0, rest + 1, 0);
	unmap(q, rest);
	is(reap(&c), 0, "status");
	step("the child is gone", 0, 0, 1, 0);
	if (cheap()) {
		touched(p, 'a');
		step("the parent's page", 0, -1, 0, 0);
	}
	unmap(p, 1);
	step("unmapped", 0, 0, 0, 0);
}

static void noreserve(void)
{
	long rest;
	char *q = hog(&rest), *p = map_try(1, MAP_PRIVATE | MAP_NORESERVE);

	must(p, "mmap");
	step("mapped without reservation", 0, 0, rest, 0);
	is(touch(p, 'a'), SIGBUS, "signal when the pool is empty");
	step("after the fault", 0, 0, rest, 0);
	unmap(q, rest);
	if (cheap()) {
		touched(p, 'a');
		step("touched", 0, -1, 0, 0);
	}
	unmap(p, 1);
	step("unmapped", 0, 0, 0, 0);
}

static void remap(void)
{
	char *p = map(2), *hole, *q;

	touched(p, 'a');
	step("touched", 0, -1, 1, 0);
	hole = mmap(NULL, 4 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		    -1, 0);
	must(hole != MAP_FAILED, "mmap");
	q = (char *)(((unsigned long)hole + page - 1) & -page);
	q = mremap(p, 2 * page, 2 * page, MREMAP_MAYMOVE | MREMAP_FIXED, q);
	must(q != MAP_FAILED, "mremap");
	step("moved", 0, -1, 1, 0);
	is(peek(q), 'a', "data");
	if (cheap()) {
		touched(q + page, 'b');
		step("the other page touched", 0, -2, 0, 0);
	}
	must(mremap(q, 2 * page, page, 0) == q, "mremap");
	step("shrunk", 0, -1, 0, 0);
	check(mremap(q, page, 2 * page, MREMAP_MAYMOVE) == MAP_FAILED, "it could grow");
	unmap(q, 1);
	step("unmapped", 0, 0, 0, 0);
}

static void dontneed(void)
{
	char *p = map(2);

	touched(p, 'a');
	step("touched", 0, -1, 1, 0);
	must(!madvise(p, page, MADV_DONTNEED), "MADV_DONTNEED");
	step("not needed", 0, 0, 2, 0);
	if (cheap()) {
		touched(p, 'b');
		touched(p + page, 'c');
		step("touched again", 0, -2, 0, 0);
		must(!madvise(p, 2 * page, MADV_DONTNEED), "MADV_DONTNEED");
		step("not needed again", 0, 0, 2, 0);
		is(peek(p), 0, "data");
	}
	unmap(p, 2);
	step("unmapped", 0, 0, 0, 0);
}

static void unmap_middle(void)
{
	char *p = map(4);

	touched(p + page, 'a');
	step("touched", 0, -1, 3, 0);
	unmap(p + page, 2);
	step("without a middle", 0, 0, 2, 0);
	unmap(p, 1);
	unmap(p + 3 * page, 1);
	step("unmapped", 0, 0, 0, 0);
}

static void populate(void)
{
	char *p = map_try(2, MAP_PRIVATE | MAP_POPULATE);

	must(p, "mmap");
	step("populated", 0, -2, 0, 0);
	unmap(p, 2);
	p = map(2);
	must(!madvise(p, 2 * page, MADV_POPULATE_WRITE), "MADV_POPULATE_WRITE");
	step("populated by advice", 0, -2, 0, 0);
	must(!mlock(p, 2 * page), "mlock");
	unmap(p, 2);
	step("unmapped", 0, 0, 0, 0);
}

static void killed(void)
{
	char *p = map(2);
	struct child c;

	touched(p, 'a');
	c = spawn(writer, p);
	is(ask(&c), 0, "signal when the child writes");
	step("the child's copy", 0, -2, 1, 0);
	kill(c.pid, SIGKILL);
	reap(&c);
	step("the child was killed", 0, -1, 1, 0);
	unmap(p, 2);
	step("unmapped", 0, 0, 0, 0);
}

/*
 * Scenarios: files
 */

static void shared_map(void)
{
	char *p = map_try(2, MAP_SHARED);
	struct child c;

	must(p, "mmap");
	step("reserved", 0, 0, 2, 0);
	c = spawn(writer, p);
	is(ask(&c), 0, "signal when the child writes");
	step("the child touched it", 0, -1, 1, 0);
	is(peek(p), 'c', "data");
	is(reap(&c), 0, "status");
	step("the child is gone", 0, -1, 1, 0);
	unmap(p, 2);
	step("unmapped", 0, 0, 0, 0);
}

/* A file system with a maximum and a minimum */
static void fs_sized(void)
{
	char *p;
	int fd;

	is(mount_fs(h->name, 4, 2), 0, "mount");
	step("mounted", 0, 0, 2, 0);
	fs_is(4, 4);
	fd = create(MNT "/f");
	p = map_file(fd, 3);
	step("three mapped", 0, 0, 3, 0);
	touched(p, 'a');
	step("one touched", 0, -1, 2, 0);
	is(allocate(fd, 0, 1, 1), 0, "fallocate");
	step("one allocated", 0, -2, 1, 0);
	is(allocate(fd, 0, 3, 2), ENOSPC, "fallocate beyond the size");
	step("allocated up to the size", 0, -3, 1, 0);
	fs_is(4, 0);
	is(punch(fd, 4, 1), 0, "punch where nothing is");
	is(punch(fd, 0, 1), 0, "punch");
	step("punched", 0, -2, 1, 0);
	touched(p, 'b');
	step("touched again", 0, -3, 1, 0);
	must(!ftruncate(fd, 0), "ftruncate");
	step("truncated", 0, 0, 2, 0);
	check(touch(p, 'c') == SIGBUS, "the page is there though the file was truncated");
	unmap(p, 3);
	check(!map_file_try(fd, 5, MAP_SHARED), "more than the size could be mapped");
	step("over-size refused", 0, 0, 2, 0);
	fs_is(4, 4);
	close(fd);
	is(umount_fs(0), 0, "umount");
	step("unmounted", 0, 0, 0, 0);
}

static void fs_max(void)
{
	char *p;
	int fd;

	is(mount_fs(h->name, 1, 0), 0, "mount");
	step("mounted", 0, 0, 0, 0);
	fd = create(MNT "/f");
	check(!map_file_try(fd, 2, MAP_SHARED), "more than the size could be mapped");
	check(!map_file_try(fd, 2, MAP_PRIVATE), "more than the size could be mapped, private");
	p = map_file_try(fd, 2, MAP_SHARED | MAP_NORESERVE);
	must(p, "mmap without reservation");
	step("mapped without reservation", 0, 0, 0, 0);
	touched(p, 'a');
	step("touched", 0, -1, 0, 0);
	fs_is(1, 0);
	is(touch(p + page, 'b'), SIGBUS, "signal beyond the size");
	step("beyond the size", 0, -1, 0, 0);
	unmap(p, 2);
	step("unmapped", 0, -1, 0, 0);
	close(fd);
	unlink(MNT "/f");
	step("unlinked", 0, 0, 0, 0);
	fs_is(1, 1);
	is(umount_fs(0), 0, "umount");
	step("unmounted", 0, 0, 0, 0);
}

/* Within the minimum only: see min_floor */
static void fs_min(void)
{
	int fd;

	is(mount_fs(h->name, 0, 2), 0, "mount");
	step("mounted", 0, 0, 2, 0);
	fd = create(MNT "/f");
	is(allocate(fd, 0, 0, 1), 0, "fallocate");
	step("one allocated", 0, -1, 1, 0);
	is(punch(fd, 0, 1), 0, "punch");
	step("punched", 0, 0, 2, 0);
	close(fd);
	is(umount_fs(0), 0, "umount");
	step("unmounted", 0, 0, 0, 0);
}

static void fs_refused(void)
{
	is(mount_fs(h->name, 0, start.free + 1), ENOMEM, "mount");
	step("more than there is", 0, 0, 0, 0);
	is(mount_fs(h->name, start.free + 2, start.free + 1), ENOMEM, "mount");
	step("more than there is, of a size", 0, 0, 0, 0);
	is(mount_fs(h->name, 1, 2), EINVAL, "mount");
	step("a size below the minimum", 0, 0, 0, 0);
	is(mount_fs("3M", 0, 0), EINVAL, "mount");
	step("a page size that is none", 0, 0, 0, 0);
}

/* A file in use when its file system goes keeps the reservation alive */
static void fs_busy(void)
{
	char *p;
	int fd;

	is(mount_fs(h->name, 2, 1), 0, "mount");
	fd = create(MNT "/f");
	p = map_file(fd, 1);
	close(fd);
	is(umount_fs(0), EBUSY, "umount");
	step("mapped", 0, 0, 1, 0);
	is(umount_fs(MNT_DETACH), 0, "detach");
	step("detached", 0, 0, 1, 0);
	if (cheap()) {
		touched(p, 'a');
		step("touched", 0, -1, 0, 0);
	}
	unmap(p, 1);
}

static void fs_private(void)
{
	char *p, *q;
	int fd;

	is(mount_fs(h->name, 4, 0), 0, "mount");
	fd = create(MNT "/f");
	must(!ftruncate(fd, 2 * page), "ftruncate");
	p = map_file_try(fd, 2, MAP_PRIVATE);
	must(p, "mmap");
	step("mapped private", 0, 0, 2, 0);
	is(allocate(fd, 0, 0, 1), 0, "fallocate");
	step("the file's page", 0, -1, 2, 0);
	is(peek(p), 0, "data");
	step("read", 0, -1, 2, 0);
	touched(p, 'a');
	step("copied", 0, -2, 1, 0);
	q = map_file(fd, 2);
	step("mapped shared too", 0, -2, 2, 0);
	is(peek(q), 0, "the file's data");
	unmap(p, 2);
	step("private unmapped", 0, -1, 1, 0);
	unmap(q, 2);
	step("shared unmapped", 0, -1, 1, 0);
	must(!ftruncate(fd, 0), "ftruncate");
	step("truncated", 0, 0, 0, 0);
	close(fd);
	is(umount_fs(0), 0, "umount");
}

static void memfd(void)
{
	unsigned int flags = MFD_HUGETLB | (unsigned int)h->shift << HUGE_SHIFT;
	int fd = memfd_create("hugetlb_counters", flags);
	long pages = cheap() ? 2 : 1;
	char arg[3][32];
	int status;
	pid_t pid;

	must(fd >= 0, "memfd_create");
	step("created", 0, 0, 0, 0);
	is(allocate(fd, 0, 0, pages), 0, "fallocate");
	step("allocated", 0, -pages, 0, 0);
	if (cheap())
		touched(map_file(fd, pages), 'a');
	snprintf(arg[0], sizeof(arg[0]), "%d", fd);
	snprintf(arg[1], sizeof(arg[1]), "%zu", page);
	snprintf(arg[2], sizeof(arg[2]), "%d", cheap() ? 'a' : 0);
	fflush(NULL);
	pid = fork();
	must(pid >= 0, "fork");
	if (!pid) {
		execl("/proc/self/exe", "hugetlb_counters", "--memfd", arg[0], arg[1], arg[2],
		      NULL);
		_exit(127);
	}
	must(waitpid(pid, &status, 0) == pid, "waitpid");
	is(status, 0, "status of the program that was given the file");
	step("used by another program", 0, -pages, 0, 0);
	is(punch(fd, 0, 1), 0, "punch");
	step("punched", 0, 1 - pages, 0, 0);
	close(fd);
}

/* The other program */
static int memfd_user(char **argv)
{
	int fd = atoi(argv[0]);
	char *p;

	p = mmap(NULL, strtoul(argv[1], NULL, 10), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return 2;
	if (*p != atoi(argv[2]))
		return 3;
	*p = 'x';
	return 0;
}

/*
 * Scenarios: policies
 */

static void mbind_one(const char *label, int mode, int node)
{
	long before = get(h, node, "free_hugepages");
	char *p = map(1);

	bind_to(p, 1, mode, mask_of(node), 0);
	snapshot("bound");
	touched(p, 'a');
	step(label, 0, -1, 0, 0);
	node_is(node, "free_hugepages", before - 1, label);
	is(node_of(p), node, "node");
	unmap(p, 1);
	step("unmapped", 0, 0, 0, 0);
}

static void mbind_modes(void)
{
	mbind_one("bind", MPOL_BIND, 1);
	if (!cheap())
		return;
	mbind_one("bind, node 0", MPOL_BIND, 0);
	mbind_one("preferred", MPOL_PREFERRED, 1);
	mbind_one("preferred_many", MPOL_PREFERRED_MANY, 1);
	mbind_one("interleave over one", MPOL_INTERLEAVE, 1);
}

static void interleave(void)
{
	char *p = map(4);
	int i;

	bind_to(p, 4, MPOL_INTERLEAVE, 3, 0);
	for (i = 0; i < 4; i++)
		touched(p + i * page, 'a');
	step("interleaved", 0, -4, 0, 0);
	node_is(0, "free_hugepages", h->want - 2, "interleaved");
	node_is(1, "free_hugepages", h->want - 2, "interleaved");
	unmap(p, 4);
	step("unmapped", 0, 0, 0, 0);
}

static void empty_node(void)
{
	long nr = get(h, 1, "nr_hugepages");
	char *p;

	is(set(h, 1, "nr_hugepages", 0), 0, "empty a node");
	step("the node is empty", -nr, -nr, 0, 0);
	p = map(1);
	bind_to(p, 1, MPOL_BIND, mask_of(1), 0);
	step("bound to the node", -nr, -nr, 1, 0);
	is(touch(p, 'a'), SIGBUS, "signal");
	step("no page", -nr, -nr, 1, 0);
	is(touch(p, 'a'), SIGBUS, "signal");
	step("no page again", -nr, -nr, 1, 0);
	bind_to(p, 1, MPOL_PREFERRED, mask_of(1), 0);
	if (cheap()) {
		touched(p, 'a');
		step("a page of the other node", -nr, -nr - 1, 0, 0);
		is(node_of(p), 0, "node");
	}
	unmap(p, 1);
	step("unmapped", -nr, -nr, 0, 0);
	if (cheap()) {
		p = map(1);
		bind_to(p, 1, MPOL_PREFERRED_MANY, mask_of(1), 0);
		touched(p, 'a');
		step("preferred_many falls back", -nr, -nr - 1, 0, 0);
		is(node_of(p), 0, "node");
		unmap(p, 1);
	}
	is(set(h, 1, "nr_hugepages", nr), 0, "refill the node");
	step("the node as before", 0, 0, 0, 0);
}

/* Where a policy leaves no page of the pool, one beyond it consumes the reservation */
static void empty_node_overcommit(void)
{
	long nr = get(h, 1, "nr_hugepages");
	char *p;

	is(set(h, 1, "nr_hugepages", 0), 0, "empty a node");
	is(set(h, -1, "nr_overcommit_hugepages", 1), 0, "overcommit");
	p = map(1);
	bind_to(p, 1, MPOL_BIND, mask_of(1), 0);
	step("bound to the empty node", -nr, -nr, 1, 0);
	touched(p, 'a');
	step("a surplus page", 1 - nr, -nr, 0, 1);
	is(node_of(p), 1, "node");
	unmap(p, 1);
	step("unmapped", -nr, -nr, 0, 0);
	is(set(h, -1, "nr_overcommit_hugepages", 0), 0, "overcommit");
	is(set(h, 1, "nr_hugepages", nr), 0, "refill the node");
	step("the node as before", 0, 0, 0, 0);
}

static void bound_task(void)
{
	long here = get(h, 1, "free_hugepages");
	char *p;

	task_policy(MPOL_BIND, mask_of(1));
	check(!map_try(here + 1, MAP_PRIVATE), "more than the node has could be mapped");
	step("more than the node has", 0, 0, 0, 0);
	p = map(here);
	step("all of the node", 0, 0, here, 0);
	if (cheap()) {
		touched(p, 'a');
		step("touched", 0, -1, here - 1, 0);
		is(node_of(p), 1, "node");
	}
	unmap(p, here);
	task_policy(MPOL_PREFERRED, mask_of(1));
	p = map(here + 1);
	step("a page of the other node, too", 0, 0, here + 1, 0);
	unmap(p, here + 1);
	task_policy(MPOL_DEFAULT, 0);
	step("unmapped", 0, 0, 0, 0);
}

static void migrate(void)
{
	int node = 0, status = -1;
	char *p = map(1);
	void *addr = p;

	bind_to(p, 1, MPOL_BIND, mask_of(0), 0);
	touched(p, 'a');
	step("on node 0", 0, -1, 0, 0);
	is(node_of(p), 0, "node");
	bind_to(p, 1, MPOL_BIND, mask_of(1), MPOL_MF_MOVE | MPOL_MF_STRICT);
	step("moved by mbind", 0, -1, 0, 0);
	is(node_of(p), 1, "node");
	if (cheap()) {
		must(!syscall(SYS_move_pages, 0, 1UL, &addr, &node, &status, MPOL_MF_MOVE),
		     "move_pages");
		is(status, 0, "status");
		step("moved by move_pages", 0, -1, 0, 0);
		is(node_of(p), 0, "node");
		is(peek(p), 'a', "data");
	}
	unmap(p, 1);
	step("unmapped", 0, 0, 0, 0);
}

/* Without a free page there migration makes one, and with it the pool's page changes nodes */
static void migrate_full(void)
{
	char *p, *q;

	q = map(h->want);
	bind_to(q, h->want, MPOL_BIND, mask_of(1), 0);
	must(!madvise(q, h->want * page, MADV_POPULATE_WRITE), "MADV_POPULATE_WRITE");
	step("node 1 is used up", 0, -h->want, 0, 0);
	p = map(1);
	bind_to(p, 1, MPOL_BIND, mask_of(0), 0);
	touched(p, 'a');
	bind_to(p, 1, MPOL_BIND, mask_of(1), MPOL_MF_MOVE | MPOL_MF_STRICT);
	step("moved", 0, -h->want - 1, 0, 0);
	is(node_of(p), 1, "node");
	node_is(0, "nr_hugepages", h->want - 1, "moved");
	node_is(1, "nr_hugepages", h->want + 1, "moved");
	is(peek(p), 'a', "data");
	unmap(p, 1);
	unmap(q, h->want);
	step("unmapped", 0, 0, 0, 0);
}

/*
 * Scenarios: cgroups
 */

static void cgroup_is(const char *label, long usage, long rsvd)
{
	is(charged(h, "current"), usage, label);
	is(charged(h, "rsvd.current"), rsvd, label);
}

static void cgroup_limit(const char *file, long pages)
{
	char text[32] = "max";

	if (pages >= 0)
		snprintf(text, sizeof(text), "%lu", pages * page);
	is(write_file(cgroup_path(h, file), text), 0, file);
}

static void cgroup_rsvd(void)
{
	char *p;

	cgroup_limit("rsvd.max", 1);
	check(!map_try(2, MAP_PRIVATE), "more than the limit could be mapped");
	check(!map_try(2, MAP_SHARED), "more than the limit could be mapped, shared");
	step("refused", 0, 0, 0, 0);
	cgroup_is("refused", 0, 0);
	p = map(1);
	step("reserved", 0, 0, 1, 0);
	cgroup_is("reserved", 0, 1);
	check(!map_try(1, MAP_PRIVATE), "more than the limit could be mapped in two mappings");
	cgroup_is("reserved", 0, 1);
	unmap(p, 1);
	step("unmapped", 0, 0, 0, 0);
	cgroup_is("unmapped", 0, 0);
	/* Without reservation it is charged when the page is there */
	cgroup_limit("rsvd.max", 0);
	p = map_try(1, MAP_PRIVATE | MAP_NORESERVE);
	must(p, "mmap");
	is(touch(p, 'a'), SIGBUS, "signal");
	step("no page without reservation", 0, 0, 0, 0);
	cgroup_limit("rsvd.max", -1);
	if (cheap()) {
		touched(p, 'a');
		step("touched", 0, -1, 0, 0);
		cgroup_is("touched", 1, 1);
	}
	unmap(p, 1);
	cgroup_is("unmapped", 0, 0);
}

static void cgroup_usage(void)
{
	long limit = cheap() ? 1 : 0, i;
	char *p = map(limit + 1);

	cgroup_limit("max", limit);
	for (i = 0; i < limit; i++)
		touched(p, 'a');
	step("up to the limit", 0, -limit, 1, 0);
	cgroup_is("up to the limit", limit, limit + 1);
	is(touch(p + limit * page, 'b'), SIGBUS, "signal");
	step("beyond it", 0, -limit, 1, 0);
	cgroup_is("beyond it", limit, limit + 1);
	is(events_of(h) - start_events[h - sizes], 1, "events");
	cgroup_limit("max", -1);
	if (cheap()) {
		touched(p + page, 'b');
		step("without limit", 0, -2, 0, 0);
	}
	unmap(p, limit + 1);
	step("unmapped", 0, 0, 0, 0);
	cgroup_is("unmapped", 0, 0);
}

/* Touch, and wait for the end */
static void toucher(struct child *self, char *unused)
{
	char *p = map_try(2, MAP_PRIVATE);

	(void)unused;
	tell(self, p ? touch(p, 'a') : -1);
	told(self);
}

static void cgroup_exit(void)
{
	struct child c = spawn(toucher, NULL);

	is(told(&c), 0, "signal");
	step("charged", 0, -1, 1, 0);
	cgroup_is("charged", 1, 2);
	kill(c.pid, SIGKILL);
	reap(&c);
	step("the process was killed", 0, 0, 0, 0);
	cgroup_is("the process was killed", 0, 0);
}

/* Move to a cgroup of its own and leave a file with a page behind */
static void filer(struct child *self, char *unused)
{
	int fd, err;

	(void)unused;
	err = write_file(CGROUP "/sub/cgroup.procs", "0");
	fd = open(MNT "/f", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	tell(self, err || fd < 0 || allocate(fd, 0, 0, 1) ? 1 : 0);
	told(self);
}

static int remove_cgroup(const char *path)
{
	int i;

	/* A process that was reaped may still be on its way out of it */
	for (i = 0; rmdir(path) && errno == EBUSY && i < 100; i++)
		usleep(20000);
	return access(path, F_OK) ? 0 : EBUSY;
}

static void cgroup_rmdir(void)
{
	struct child c;

	is(mount_fs(h->name, 0, 0), 0, "mount");
	must(!mkdir(CGROUP "/sub", 0755), "mkdir");
	c = spawn(filer, NULL);
	is(told(&c), 0, "errors in the child");
	step("a page in a file", 0, -1, 0, 0);
	cgroup_is("a page in a file", 1, 1);
	is(reap(&c), 0, "status");
	is(remove_cgroup(CGROUP "/sub"), 0, "rmdir");
	step("the cgroup is gone", 0, -1, 0, 0);
	cgroup_is("the cgroup is gone", 1, 1);
	is(unlink(MNT "/f"), 0, "unlink");
	step("the file is gone", 0, 0, 0, 0);
	cgroup_is("the file is gone", 0, 0);
	is(umount_fs(0), 0, "umount");
}

/*
 * Scenarios that end otherwise on a kernel without the fixes of the series
 */

/* What is freed above a minimum is not reserved again */
static void min_floor(void)
{
	int fd;

	is(mount_fs(h->name, 0, 2), 0, "mount");
	fd = create(MNT "/f");
	is(allocate(fd, 0, 0, 3), 0, "fallocate");
	step("more than the minimum", 0, -3, 0, 0);
	is(punch(fd, 2, 1), 0, "punch");
	step("down to the minimum", 0, -2, 0, 0);
	is(punch(fd, 1, 1), 0, "punch");
	step("below the minimum", 0, -1, 1, 0);
	close(fd);
	unlink(MNT "/f");
	step("unlinked", 0, 0, 2, 0);
	is(umount_fs(0), 0, "umount");
	step("unmounted", 0, 0, 0, 0);
}

/* A page that is freed on a node with surplus pages stays if it backs a reservation */
static void min_surplus(void)
{
	int fd;

	is(mount_fs(h->name, 1, 1), 0, "mount");
	fd = create(MNT "/f");
	is(allocate(fd, 0, 0, 1), 0, "fallocate");
	is(set(h, -1, "nr_hugepages", 0), 0, "shrink");
	step("the page is surplus", 1 - start.nr, -start.nr, 0, 1);
	is(punch(fd, 0, 1), 0, "punch");
	step("its reservation is back", 1 - start.nr, 1 - start.nr, 1, 1);
	is(allocate(fd, 0, 0, 1), 0, "fallocate");
	step("allocated again", 1 - start.nr, -start.nr, 0, 1);
	close(fd);
	unlink(MNT "/f");
	is(umount_fs(0), 0, "umount");
	step("unmounted", -start.nr, -start.nr, 0, 0);
}

/*
 * The list, and what runs it
 */

#define NUMA		1	/* wants two nodes */
#define CGROUPS		2	/* wants the hugetlb controller */
#define RESIZES		4	/* frees or demotes pages of the pool */
#define COPIES		8	/* copies pages: of 1G that is --slow */
#define ONLY_2M		16
#define ONLY_1G		32

static const struct scenario {
	const char *name;
	void (*fn)(void);
	int flags;
} scenarios[] = {
	{ "resize", resize, RESIZES },
	{ "resize_node", resize_node, RESIZES },
	{ "resize_mempolicy", resize_mempolicy, RESIZES | NUMA },
	{ "resize_refused", resize_refused, 0 },
	{ "vmemmap", vmemmap, RESIZES | ONLY_2M },
	{ "shrink_reserved", shrink_reserved, RESIZES },
	{ "shrink_node_reserved", shrink_node_reserved, NUMA | RESIZES },
	{ "shrink_in_use", shrink_in_use, RESIZES },
	{ "overcommit", overcommit, RESIZES },
	{ "demote", demote, RESIZES | ONLY_1G },
	{ "demote_reserved", demote_reserved, ONLY_1G },
	{ "private_map", private_map, 0 },
	{ "cow", cow, COPIES },
	{ "cow_empty", cow_empty, ONLY_2M },
	{ "fork_reserved", fork_reserved, 0 },
	{ "noreserve", noreserve, 0 },
	{ "remap", remap, ONLY_2M },
	{ "dontneed", dontneed, ONLY_2M },
	{ "unmap_middle", unmap_middle, ONLY_2M },
	{ "populate", populate, ONLY_2M },
	{ "killed", killed, ONLY_2M },
	{ "shared_map", shared_map, ONLY_2M },
	{ "fs_sized", fs_sized, ONLY_2M },
	{ "fs_max", fs_max, ONLY_2M },
	{ "fs_min", fs_min, 0 },
	{ "fs_refused", fs_refused, 0 },
	{ "fs_busy", fs_busy, 0 },
	{ "fs_private", fs_private, ONLY_2M },
	{ "memfd", memfd, 0 },
	{ "mbind_modes", mbind_modes, NUMA | ONLY_2M },
	{ "interleave", interleave, NUMA | ONLY_2M },
	{ "empty_node", empty_node, NUMA | RESIZES },
	{ "empty_node_overcommit", empty_node_overcommit, NUMA | RESIZES | ONLY_2M },
	{ "bound_task", bound_task, NUMA },
	{ "migrate", migrate, NUMA | COPIES },
	{ "migrate_full", migrate_full, NUMA | RESIZES | ONLY_2M },
	{ "cgroup_rsvd", cgroup_rsvd, CGROUPS },
	{ "cgroup_usage", cgroup_usage, CGROUPS },
	{ "cgroup_exit", cgroup_exit, CGROUPS | ONLY_2M },
	{ "cgroup_rmdir", cgroup_rmdir, CGROUPS | ONLY_2M },
	{ "demote_node_reserved", demote_node_reserved, NUMA | RESIZES | ONLY_1G },
	{ "demote_too_many", demote_too_many, NUMA | RESIZES | ONLY_1G },
	{ "min_floor", min_floor, ONLY_2M },
	{ "min_surplus", min_surplus, ONLY_2M | RESIZES },
};

static void size_pools(bool restore)
{
	struct hstate *s;
	int node;

	for_each_size(s) {
		for (node = 0; node < nr_nodes; node++) {
			long want = restore ? s->initial[node] : s->want;

			if (!s->boot && get(s, node, "nr_hugepages") != want)
				set(s, node, "nr_hugepages", want);
		}
	}
}

static void leave_cgroup(void)
{
	write_file(CGROUP_ROOT "/cgroup.procs", "0");
	remove_cgroup(CGROUP "/run");
	remove_cgroup(CGROUP);
}

/* An inner cgroup to be in, and an outer one for the limits that may have others within */
static void enter_cgroup(void)
{
	if (write_file(CGROUP_ROOT "/cgroup.subtree_control", "+hugetlb +memory"))
		return;
	if (mkdir(CGROUP, 0755) || mkdir(CGROUP "/run", 0755) ||
	    write_file(CGROUP "/cgroup.subtree_control", "+hugetlb +memory") ||
	    write_file(CGROUP "/run/cgroup.procs", "0"))
		die(CGROUP ": %s", strerror(errno));
	cgroups = true;
}

/* Even 16 GiB have too few pages of 1G then, and fewer after each scenario. */
static bool memory_is_scattered(void)
{
	return !system("zcat /proc/config.gz | grep -q ^CONFIG_KASAN=y") &&
	       system("grep -q hugetlb_cma= /proc/cmdline");
}

static const char *left_out(const struct hstate *s, const struct scenario *sc)
{
	if (sc->flags & NUMA && nr_nodes < 2)
		return "wants two nodes";
	if (sc->flags & CGROUPS && !cgroups)
		return "wants the hugetlb controller of cgroup2";
	if (sc->flags & RESIZES && s->boot)
		return "--keep-boot: frees or demotes pages";
	if (s->kb == 1048576 && scattered)
		return "with KASAN too few at run time, but from CMA";
	if (sc->flags & COPIES && s->kb == 1048576 && !slow)
		return "without --slow: copies pages of 1G";
	return NULL;
}

/* Whatever a scenario left behind, most of it with its processes */
static void clean_up(void)
{
	static const char * const limits[] = { "max", "rsvd.max" };
	struct hstate *s;
	size_t i;

	while (wait(NULL) > 0)
		;
	umount2(MNT, MNT_DETACH);
	rmdir(CGROUP "/sub");
	for_each_size(s) {
		set(s, -1, "nr_overcommit_hugepages", 0);
		for (i = 0; cgroups && i < ARRAY_SIZE(limits); i++)
			write_file(cgroup_path(s, limits[i]), "max");
	}
	size_pools(false);
}

static void run_scenario(const struct scenario *sc)
{
	struct sigaction sa = { .sa_handler = on_sigbus };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	sigaction(SIGBUS, &sa, NULL);
	alarm(TIME_LIMIT);
	sc->fn();
	fflush(NULL);
	_exit(0);
}

static bool passes(const struct scenario *sc)
{
	char before[4096] = "", after[4096] = "";
	int status, node, i;
	long memmap;
	pid_t pid;

	clean_up();
	page = h->kb * 1024;
	start = get_pool(h);
	for (i = 0; i < (int)ARRAY_SIZE(sizes); i++)
		start_events[i] = events_of(&sizes[i]);
	memmap = memmap_pages();
	*outcome = (struct outcome) {};
	append_state(before, sizeof(before), false);
	snapshot("start");
	for (node = 0; node < nr_nodes; node++)
		if (!check(get(h, node, "free_hugepages") >= h->want,
			   "node %d has fewer than %ld free pages", node, h->want))
			return false;
	if (!check(!start.rsvd && !start.surplus, "the pool is in use"))
		return false;

	outcome->checks = 0;
	fflush(NULL);
	pid = fork();
	if (!pid)
		run_scenario(sc);
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		die("fork or waitpid: %s", strerror(errno));
	check(outcome->checks, "it checked nothing");
	if (WIFSIGNALED(status))
		check(false, "ended by signal %d (%d is a time-out)", WTERMSIG(status), SIGALRM);
	else
		is(WEXITSTATUS(status), 0, "exit status");
	/* Only the last put of a subpool and freed struct pages lag behind */
	for (i = 0; i < 100; i++) {
		clean_up();
		*after = '\0';
		append_state(after, sizeof(after), false);
		if (!strcmp(before, after) && memmap_pages() == memmap)
			break;
		usleep(20000);
	}
	snapshot("end");
	check(!strcmp(before, after), "the counters are not what they were at the start");
	is(memmap_pages() - memmap, 0, "struct pages, difference");
	return !outcome->failures;
}

static void find_sizes(bool keep_boot)
{
	char path[64];
	struct hstate *s;
	int node;

	for (nr_nodes = 0; nr_nodes < MAX_NODES; nr_nodes++) {
		snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/hugepages", nr_nodes);
		if (access(path, F_OK))
			break;
	}
	for (s = sizes; s < sizes + ARRAY_SIZE(sizes); s++) {
		s->present = !access(pool_path(s, -1, "nr_hugepages"), F_OK);
		for (node = 0; s->present && node < nr_nodes; node++)
			s->initial[node] = get(s, node, "nr_hugepages");
		/* Only the size whose pages can come from early boot */
		s->boot = keep_boot && s->kb == 1048576 && s->present && get(s, -1, "nr_hugepages");
	}
	if (!nr_nodes)
		die("no pools of huge pages by node in /sys/devices/system/node");
}

static const char usage[] =
"usage: hugetlb_counters [-t NAME]... [--keep-boot] [--slow] [--snapshots FILE] [--list]\n"
"\n"
"Walk HugeTLB through scenarios, for pages of 2M and 1G, and check that all of\n"
"its counters are right after each step and what they were at the end. Wants to\n"
"be root, a 3 GB pool it may size (one page of 1G and three of 2M per node), and\n"
"nobody else who uses huge pages. Output: TAP, with snapshots of all counters.\n"
"\n"
"  -t NAME           only this scenario, of both page sizes; \"2M NAME\": of one\n"
"  --keep-boot       leave out what frees or demotes 1G pages that there are: boot\n"
"                    pages whose struct pages are optimized do not survive that on\n"
"                    every kernel\n"
"  --slow            copy pages of 1G, too: a minute each in an emulator\n"
"  --snapshots FILE  the snapshots go there, not to the output\n"
"  --list            the names\n";

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "help", no_argument, NULL, 'h' },
		{ "list", no_argument, NULL, 'l' },
		{ "keep-boot", no_argument, NULL, 'k' },
		{ "slow", no_argument, NULL, 'S' },
		{ "snapshots", required_argument, NULL, 's' },
		{ "memfd", no_argument, NULL, 'm' },
		{}
	};
	struct {
		struct hstate *h;
		const struct scenario *sc;
	} plan[ARRAY_SIZE(sizes) * ARRAY_SIZE(scenarios)];
	const char *names[64], *path = NULL;
	bool keep_boot = false, list = false, used[64] = {};
	int passed = 0, failed = 0, skipped = 0;
	int nr_names = 0, nr_plan = 0;
	char name[64], omitted[1024] = "";
	struct hstate *s;
	cpu_set_t cpus;
	int c, i;
	size_t j;

	while ((c = getopt_long(argc, argv, "ht:", options, NULL)) != -1) {
		switch (c) {
		case 'h':
			fputs(usage, stdout);
			return 0;
		case 'l':
			list = true;
			break;
		case 'k':
			keep_boot = true;
			break;
		case 'S':
			slow = true;
			break;
		case 's':
			path = optarg;
			break;
		case 'm':
			return optind + 3 == argc ? memfd_user(argv + optind) : 2;
		case 't':
			if (nr_names < (int)ARRAY_SIZE(names)) {
				names[nr_names++] = optarg;
				break;
			}
			__attribute__((fallthrough));
		default:
			fputs(usage, stderr);
			return 2;
		}
	}
	if (optind != argc) {
		fputs(usage, stderr);
		return 2;
	}

	find_sizes(keep_boot);
	scattered = !keep_boot && memory_is_scattered();
	for_each_size(s)
		if (s->kb == 1048576 && scattered)
			s->want = 0;
	/* By scenario: what differs on purpose comes last */
	for (j = 0; j < ARRAY_SIZE(scenarios); j++) {
		for (s = sizes; s < sizes + ARRAY_SIZE(sizes); s++) {
			bool wanted = !nr_names;

			if (scenarios[j].flags & (s->shift < 30 ? ONLY_1G : ONLY_2M))
				continue;
			snprintf(name, sizeof(name), "%s %s", s->name, scenarios[j].name);
			for (i = 0; i < nr_names; i++)
				if (!strcmp(names[i], name) ||
				    !strcmp(names[i], scenarios[j].name)) {
					used[i] = true;
					wanted = true;
				}
			if (!wanted || !s->present)
				continue;
			plan[nr_plan].h = s;
			plan[nr_plan++].sc = &scenarios[j];
		}
	}
	for (i = 0; i < nr_names; i++)
		if (!used[i]) {
			fprintf(stderr, "hugetlb_counters: no scenario %s\n", names[i]);
			return 2;
		}
	if (list) {
		for (i = 0; i < nr_plan; i++)
			printf("%s %s\n", plan[i].h->name, plan[i].sc->name);
		return 0;
	}
	if (!nr_plan)
		die("there are no pools of 2M or 1G pages");

	snapshots = path ? fopen(path, "we") : stdout;
	if (!snapshots)
		die("%s: %s", path, strerror(errno));
	outcome = mmap(NULL, sizeof(*outcome), PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (outcome == MAP_FAILED)
		die("mmap: %s", strerror(errno));
	/* A page that no policy tells where to be is on node 0 */
	CPU_ZERO(&cpus);
	CPU_SET(0, &cpus);
	sched_setaffinity(0, sizeof(cpus), &cpus);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	mkdir(MNT, 0755);
	enter_cgroup();

	printf("TAP version 13\n1..%d\n", nr_plan);
	for (i = 0; i < nr_plan; i++) {
		const char *why;
		bool good;

		h = plan[i].h;
		snprintf(name, sizeof(name), "%s %s", h->name, plan[i].sc->name);
		current = name;
		why = left_out(h, plan[i].sc);
		if (why) {
			printf("ok %d %s # SKIP %s\n", i + 1, name, why);
			append(omitted, sizeof(omitted), " %s,", name);
			skipped++;
			continue;
		}
		good = passes(plan[i].sc);
		printf("%sok %d %s\n", good ? "" : "not ", i + 1, name);
		fflush(stdout);
		if (good)
			passed++;
		else
			failed++;
	}
	if (skipped)
		printf("# left out:%.*s\n", (int)strlen(omitted) - 1, omitted);
	printf("# Totals: pass:%d fail:%d skip:%d\n", passed, failed, skipped);

	clean_up();
	size_pools(true);
	if (cgroups)
		leave_cgroup();
	rmdir(MNT);
	return failed ? 1 : passed ? 0 : SKIP;
}
