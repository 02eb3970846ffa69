# SPDX-License-Identifier: GPL-2.0
# The front door: each target calls a script, which has a --help of its own.

.NOTPARALLEL:
.DEFAULT_GOAL := help
# One clock for a whole run; the kernel's make must not see our variables.
export STEP_T0 := $(shell date +%s)
unexport MAKEFLAGS

.PHONY: help
help:	## this list
	@echo 'make TARGET [VARIABLE=VALUE]...'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s%s\n", $$1, $$2 }' Makefile
	@echo 'LINUX=/path/to/tree-or-tarball  another base than linux-base names (any of the same y-series)'
	@echo 'QEMU=path  JOBS=N  V=1  FORCE=1 (tree, refresh, distclean: discard what the other side lacks)'

.PHONY: run test test-debug test-alloc test-races test-lingering fuzz test-planted vm
run: kernel initramfs	## do all it needs, boot a VM, run the demo in it; leaves build/run
	@scripts/run

test: kernel initramfs selftests	## run the tests; leaves build/test
	@scripts/test

test-alloc: kernel-alloc initramfs selftests	## those for a kernel with HugeTLB pools but no hugetlbfs
	@scripts/test --config alloc

test-debug: kernel-debug initramfs selftests	## the same on a kernel with KASAN, lockdep and the like
	@scripts/test --debug

test-races: kernel-kcsan initramfs selftests	## those for a kernel that delays the series' code and finds data races in it
	@scripts/test --config kcsan

test-lingering: kernel initramfs selftests	## all orders in which users of 1G pages let go, and 1000 random ones
	@GMEM_FULL=1 GMEM_ROUNDS=$${GMEM_ROUNDS:-1000} scripts/test --timeout-factor 20 --filter '^lingering:'

fuzz: kernel-debug initramfs selftests	## fuzz guest_memfd, 30 minutes for each page size; leaves build/fuzz
	@scripts/fuzz

test-planted: kernel initramfs selftests	## plant bugs in a copy, each of which the stress test must find
	@tests/planted.sh

.PHONY: bench
bench: kernel initramfs selftests	## count what splitting, merging and faulting take; leaves build/bench
	@scripts/bench

.PHONY: regress regress-hugetlb
regress: tree initramfs	## compare the kernel's KVM, hugetlb, gup and cgroup tests with the base; leaves build/regress
	@scripts/regress

regress-hugetlb: tree initramfs	## the same for HugeTLB and its counters alone
	@scripts/regress --suite hugetlb

vm: kernel initramfs	## a shell in a VM
	@scripts/vm

.PHONY: deps fetch tree refresh series
deps:	## install the Debian packages that are missing
	@scripts/deps

fetch: deps	## fetch and verify the base kernel's source
	@scripts/fetch-linux

tree: deps	## make or update build/linux, a git tree with one commit per patch
	@scripts/series tree

refresh:	## write the commits of build/linux back to patches/ and the new files
	@scripts/series refresh

series: tree	## write build/series/*.patch for git am, with a cover letter, without the demo
	@scripts/series mail

.PHONY: kernel kernel-alloc kernel-debug kernel-kcsan initramfs selftests
kernel: tree	## build the kernel, build/kernel/test
	@scripts/kernel test

kernel-alloc: tree	## build the kernel with HugeTLB pools but no hugetlbfs, build/kernel/alloc
	@scripts/kernel alloc

kernel-debug: tree	## build the debug kernel, build/kernel/debug
	@scripts/kernel debug

kernel-kcsan: tree	## build the kernel that finds data races, build/kernel/kcsan
	@scripts/kernel kcsan

initramfs: deps	## pack what the VM starts from
	@scripts/initramfs

selftests: tree	## build the kernel's selftests that the tests run
	@scripts/selftests

.PHONY: check bisect-check config-check
check: series kernel	## checkpatch, sparse and W=1 on the series, shellcheck on the scripts
	@scripts/check

bisect-check: kernel	## build what each step of the series touches
	@scripts/bisect-check

config-check: tree	## compile what the series touches in other configurations, arm64 and 32 bits among them
	@scripts/config-check

.PHONY: nfc
nfc: tree	## prove that the commits which only move code change none, for x86-64 and arm64
	@scripts/deps nfc
	@scripts/nfc

.PHONY: clean distclean
clean:	## remove what was built, but not build/linux
	@[ ! -d build ] || find build -mindepth 1 -maxdepth 1 ! -name linux -exec rm -rf {} +

distclean:	## remove build/ and the cache
	@[ -n "$(FORCE)" ] || [ ! -d build/linux ] || scripts/series saved
	@rm -rf build "$${XDG_CACHE_HOME:-$$HOME/.cache}/gmem-1g"
