#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# usage: broken-allocator.sh kvm/guest_memfd_allocator_test
#
# Do the tests of guest_memfd's allocators notice one that is broken? Each fault
# that the test allocator can have must make the test fail that is named with it,
# and without a fault all of them must pass.
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"

program=$(dirname "$0")/$1
log=/tmp/broken-allocator.log
if ! has_module test_guest_memfd; then
	echo "1..0 # SKIP needs CONFIG_TEST_GUEST_MEMFD"
	exit 4
fi

is_loaded() {
	[ -d /sys/module/test_guest_memfd ]
}

# run_with FAULT TEST: the exit status of TEST with FAULT
run_with() {
	GUEST_MEMFD_FAULT=$1 "$program" -r "alloc.test_2m.$2" > $log 2>&1
	echo $?
	# A failed test may have left it, and files that are about to go
	tries=100
	while is_loaded && [ $((tries -= 1)) -gt 0 ] && ! rmmod test_guest_memfd 2>/dev/null; do
		usleep 100000
	done
}

set -- \
	leak_folio:cleared \
	leak_reservation:cleared \
	partial_reserve:reservation \
	not_cleared:cleared \
	fall_short:reservation
plan $((2 * $#))
for pair; do
	fault=${pair%:*} test=${pair#*:}
	is 0 "$(run_with none "$test")" "$test passes without a fault"
	is 1 "$(run_with "$fault" "$test")" "$test fails with $fault"
	grep -m 3 -A 1 Expected $log | sed 's/^#* */# /'
done
finish
