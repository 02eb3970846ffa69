/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the VMM and the code in its guest agree on.
 *
 * The host cannot write to private memory, so everything that the VMM puts
 * there before the guest runs lives in a small ordinary slot at address 0:
 *
 *	0x00000		PML4, one entry
 *	0x01000		PDPT, 512 entries of 1G: virtual is physical below 512G
 *	0x02000		the guest's code
 *	0x10000 + n * 0x2000	vCPU n: its job, and its stack above it
 *
 * The memory under test starts at PRIVATE_GPA, which every page size divides.
 */
#ifndef GMEM_VMM_GUEST_H
#define GMEM_VMM_GUEST_H

#include <linux/types.h>

#define LOW_SIZE	0x200000
#define PML4_GPA	0x0
#define PDPT_GPA	0x1000
#define CODE_GPA	0x2000
#define CODE_MAX	0xe000
#define JOB_GPA(n)	(0x10000 + (n) * 0x2000)
#define STACK_TOP(n)	(JOB_GPA(n) + 0x2000)
#define MAX_VCPUS	64
#define GUEST_PAGE_SIZE	0x1000

#define PRIVATE_GPA	0x100000000ULL	/* 4G */
#define PRIVATE_MAX	0x7f00000000ULL	/* up to what the PDPT maps */

/* 32-bit writes to these ports leave the guest. */
#define PORT_PROGRESS	0xf0	/* MiB done since the last such write */
#define PORT_DONE	0xf1	/* the job is done; KVM_RUN starts the next */

enum guest_op {
	GUEST_WRITE,	/* expect stage "from" in each word, write stage "to" */
	GUEST_VERIFY,	/* expect stage "from" */
	GUEST_COUNT,	/* count the words by their stage */
	GUEST_CONVERT,	/* ask that each piece be private, or shared */
	GUEST_CLOCK,	/* have KVM write the wall clock to gpa */
};

/*
 * What a word holds tells its address, and in which stage of its life it was
 * written: a word that was lost, moved or kept from an earlier time is found.
 */
enum stage {
	CLEARED,	/* as the kernel hands memory out: zero */
	WRITTEN,	/* by the guest */
	SHARED_BY_GUEST,	/* by the guest, for the host to read */
	SHARED_BY_HOST,	/* by the host, for the guest to read */
	NR_STAGES
};

struct guest_job {
	__u64 op;
	__u64 gpa;
	__u64 size;
	__u64 stride;
	__u64 from, to;		/* enum stage */
	__u64 piece;		/* GUEST_CONVERT: bytes at each stride */
	__u64 private;
	/* the guest's answer */
	__u64 words;		/* visited */
	__u64 bad;		/* words that did not hold what they should */
	__u64 bad_gpa;		/* the last such word */
	__u64 checksum;		/* of the words as they are afterwards */
	__u64 cycles;		/* of the guest's time stamp counter */
	__u64 stage_words[NR_STAGES];
	__s64 error;		/* of the last hypercall that failed */
};

/* Different for every word below 512G, and in every stage. */
static inline __u64 stage_word(__u64 gpa, enum stage stage)
{
	return stage == CLEARED ? 0 : ((gpa | 1) * 0x9e3779b97f4a7c15ULL) ^ stage;
}

extern const char __start_guest_code[], __stop_guest_code[];
void guest_main(struct guest_job *job);

#endif /* GMEM_VMM_GUEST_H */
