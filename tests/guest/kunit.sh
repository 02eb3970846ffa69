#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# usage: kunit.sh MODULE [PARAMETER=VALUE]...
#
# Load a module for the sake of its KUnit suites, and print their results.
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"

if ! has_module "$1"; then
	echo "1..0 # SKIP this kernel has no module $1"
	exit 4
fi
suites() {
	find /sys/kernel/debug/kunit -mindepth 1 -maxdepth 1 | sort
}
suites > /tmp/before
# Allocations of the suites may be made to fail, those with GFP_KERNEL too
for attr in failslab fail_page_alloc; do
	dir=/sys/kernel/debug/$attr
	if [ -d "$dir" ]; then
		echo 0 > "$dir/verbose"
		echo N > "$dir/ignore-gfp-wait"
	fi
done
echo 0 2>/dev/null > /sys/kernel/debug/fail_page_alloc/min-order || :

# modprobe sleeps for as long as a case takes, which is long with sanitizers
echo 0 2>/dev/null > /proc/sys/kernel/hung_task_timeout_secs || :

modprobe "$@" || exit 1
suites > /tmp/after
sort /tmp/before /tmp/after | uniq -u > /tmp/new

echo "KTAP version 1"
echo "1..$(wc -l < /tmp/new)"
nr=0 failed=0
while read -r suite; do
	nr=$((nr + 1))
	# Each has a plan and a number of its own
	sed -e '/^KTAP version 1$/d' -e '/^1\.\.1$/d' -e "s/^\(not \)*ok 1 /\1ok $nr /" "$suite/results"
	if grep -q 'not ok' "$suite/results"; then
		failed=1
	fi
done < /tmp/new
rmmod "$1" || failed=1
finish
