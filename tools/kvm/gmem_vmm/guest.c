// SPDX-License-Identifier: GPL-2.0
/*
 * The code that runs in the guest, in 64-bit mode, without interrupts.
 *
 * The Makefile makes its text a section of its own in the VMM, which the VMM
 * copies to CODE_GPA: it may use no data and nothing else of the program.
 */
#include <asm/kvm_para.h>
#include "guest.h"

#define PROGRESS_STEP	(128ULL << 20)

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

/* Never zero, and different for every word below 512G. */
static __u64 pattern(__u64 gpa)
{
	return (gpa | 1) * 0x9e3779b97f4a7c15ULL;
}

static void do_job(struct guest_job *job)
{
	__u64 end = job->gpa + job->size, step = job->gpa + PROGRESS_STEP;
	__u64 start = rdtsc(), gpa;

	for (gpa = job->gpa; gpa < end; gpa += job->stride) {
		__u64 *word = (__u64 *)gpa;
		__u64 expected = job->op == GUEST_WRITE ? 0 : pattern(gpa);

		if (*word != expected) {
			job->bad++;
			job->bad_gpa = gpa;
		}
		if (job->op == GUEST_WRITE)
			*word = pattern(gpa);
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
		else
			do_job(job);
		out32(PORT_DONE, 0);
	}
}
