// SPDX-License-Identifier: GPL-2.0
/*
 * The code that runs in the guest, in 64-bit mode, without interrupts.
 *
 * The Makefile makes its text a section of its own in the VMM, which the VMM
 * copies to CODE_GPA: it may use no data and nothing else of the program.
 */
#include <linux/kvm_para.h>
#include "guest.h"

#define PROGRESS_STEP	(128ULL << 20)
#define GENUINE_INTEL	0x756e6547	/* EBX of CPUID leaf 0 */

static void out32(__u16 port, __u32 value)
{
	asm volatile("outl %0, %1" : : "a" (value), "Nd" (port) : "memory");
}

static __u64 rdtsc(void)
{
	__u32 lo, hi;

	asm volatile("rdtsc" : "=a" (lo), "=d" (hi) : : "memory");
	return (__u64)hi << 32 | lo;
}

static void wrmsr(__u32 msr, __u64 value)
{
	asm volatile("wrmsr" : : "c" (msr), "a" ((__u32)value),
		     "d" ((__u32)(value >> 32)) : "memory");
}

/* AMD's CPUs and Intel's have different instructions for it. */
static long hypercall(__u64 nr, __u64 a0, __u64 a1, __u64 a2)
{
	__u32 eax = 0, ebx, ecx = 0, edx;
	long r;

	asm volatile("cpuid" : "+a" (eax), "=b" (ebx), "+c" (ecx), "=d" (edx));
	if (ebx == GENUINE_INTEL)
		asm volatile("vmcall" : "=a" (r)
			     : "a" (nr), "b" (a0), "c" (a1), "d" (a2) : "memory");
	else
		asm volatile("vmmcall" : "=a" (r)
			     : "a" (nr), "b" (a0), "c" (a1), "d" (a2) : "memory");
	return r;
}

/* As a guest asks whose kernel decides which memory the host may see. */
static void convert(struct guest_job *job)
{
	__u64 end = job->gpa + job->size, gpa;
	long r;

	for (gpa = job->gpa; gpa < end; gpa += job->stride) {
		r = hypercall(KVM_HC_MAP_GPA_RANGE, gpa, job->piece / GUEST_PAGE_SIZE,
			      KVM_MAP_GPA_RANGE_PAGE_SZ_4K |
			      KVM_MAP_GPA_RANGE_ENC_STAT(job->private));
		if (r) {
			job->bad++;
			job->bad_gpa = gpa;
			job->error = r;
		}
	}
}

static void count_stage(struct guest_job *job, __u64 gpa, __u64 word)
{
	int stage;

	for (stage = 0; stage < NR_STAGES; stage++) {
		if (word == stage_word(gpa, stage)) {
			job->stage_words[stage]++;
			return;
		}
	}
	job->bad++;
	job->bad_gpa = gpa;
}

static void do_job(struct guest_job *job)
{
	__u64 end = job->gpa + job->size, step = job->gpa + PROGRESS_STEP;
	__u64 start = rdtsc(), gpa;

	for (gpa = job->gpa; gpa < end; gpa += job->stride) {
		__u64 *word = (__u64 *)gpa;

		if (job->op == GUEST_COUNT) {
			count_stage(job, gpa, *word);
		} else if (*word != stage_word(gpa, job->from)) {
			job->bad++;
			job->bad_gpa = gpa;
		}
		if (job->op == GUEST_WRITE)
			*word = stage_word(gpa, job->to);
		job->checksum += *word;
		job->words++;
		if (gpa >= step) {
			out32(PORT_PROGRESS, PROGRESS_STEP >> 20);
			step += PROGRESS_STEP;
		}
	}
	job->cycles = rdtsc() - start;
}

/* RDI is the job: the VMM fills it in before each KVM_RUN that follows DONE. */
void guest_main(struct guest_job *job)
{
	for (;;) {
		if (job->op == GUEST_CLOCK)
			wrmsr(MSR_KVM_WALL_CLOCK_NEW, job->gpa);
		else if (job->op == GUEST_CONVERT)
			convert(job);
		else
			do_job(job);
		out32(PORT_DONE, 0);
	}
}
