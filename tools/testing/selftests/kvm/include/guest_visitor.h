/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A guest that visits memory as it's told: one word of each cache line, or of
 * each 4K page.
 */
#ifndef SELFTEST_KVM_GUEST_VISITOR_H
#define SELFTEST_KVM_GUEST_VISITOR_H

#include <linux/sizes.h>

#include "kvm_util.h"
#include "test_util.h"
#include "ucall_common.h"

/* Aligned to any page size, and clear of the memory of the test library. */
#define TEST_GPA	(8ULL * SZ_1G)

/* What the guest is to do. */
enum guest_op {
	OP_NONE,
	OP_FILL,	/* write (word's offset ^ seed) */
	OP_CHECK,	/* expect that */
	OP_CHECK_ZERO,	/* expect 0 */
	OP_TOUCH,	/* write a word of each 4K page */
};

struct guest_cmd {
	enum guest_op op;
	u64 gva;
	u64 size;
	u64 seed;	/* not a multiple of 64 */
};

static struct guest_cmd guest_cmd;

static inline void guest_run_cmd(const struct guest_cmd *cmd)
{
	const u64 stride = cmd->op == OP_TOUCH ? SZ_4K : 64;
	u64 end = cmd->gva + cmd->size;
	u64 gva, want, got;

	if (cmd->op == OP_NONE)
		return;

	for (gva = cmd->gva; gva < end; gva += stride) {
		want = cmd->op == OP_CHECK_ZERO ? 0 :
						  (gva - cmd->gva) ^ cmd->seed;
		if (cmd->op == OP_FILL || cmd->op == OP_TOUCH) {
			WRITE_ONCE(*(u64 *)gva, want);
			continue;
		}
		got = READ_ONCE(*(u64 *)gva);
		__GUEST_ASSERT(got == want, "0x%lx holds 0x%lx, not 0x%lx",
			       gva, got, want);
	}
}

static inline void guest_code(void)
{
	struct guest_cmd cmd;

	for (;;) {
		/* The next one may be set while this one is carried out. */
		cmd = guest_cmd;
		asm volatile("" : "+m"(cmd));
		guest_run_cmd(&cmd);
		GUEST_SYNC(0);
	}
}

static inline void run_vcpu(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	vcpu_run(vcpu);

	switch (get_ucall(vcpu, &uc)) {
	case UCALL_SYNC:
		break;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
		break;
	default:
		TEST_FAIL("unexpected exit of the guest, ucall %lu", uc.cmd);
	}
}

static inline void set_cmd(struct kvm_vm *vm, enum guest_op op, u64 offset,
			   u64 size, u64 seed)
{
	guest_cmd = (struct guest_cmd) {
		.op = op,
		.gva = TEST_GPA + offset,
		.size = size,
		.seed = seed,
	};
	sync_global_to_guest(vm, guest_cmd);
}

static inline void run_cmd(struct kvm_vm *vm, struct kvm_vcpu *vcpu,
			   enum guest_op op, u64 offset, u64 size, u64 seed)
{
	set_cmd(vm, op, offset, size, seed);
	run_vcpu(vcpu);
}

#endif /* SELFTEST_KVM_GUEST_VISITOR_H */
