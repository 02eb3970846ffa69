#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# usage: unchanged.sh guest/hugepage_flags COMMAND [ARG]...
#
# Run a command of this directory; then HugeTLB's counters, those of the vmemmap, and what
# /proc/kpageflags and kpagecount say of all pages in the pools must be as before.
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"

here=$(dirname "$0")
flags=$here/$1 command=$2
shift 2

state() {
	grep -E '^(HugePages_|Hugetlb|HardwareCorrupted)' /proc/meminfo
	grep -E '^nr_memmap' /proc/vmstat
	for file in /sys/kernel/mm/hugepages/*/*_hugepages \
		    /sys/devices/system/node/node*/hugepages/*/*_hugepages; do
		echo "$file $(cat "$file" 2>/dev/null)"
	done
	"$flags"
}

echo "KTAP version 1"
echo "1..2"

state > /tmp/state.before
{ "$here/$command" "$@" 2>&1; echo $? > /tmp/state.status; } | sed 's/^/    /'
result "$(cat /tmp/state.status)" "$command $*"

# What is left to a delayed work is done within seconds.
for _ in 1 2 3 4 5 6 7 8; do
	state > /tmp/state.after
	cmp -s /tmp/state.before /tmp/state.after && break
	sleep 1
done

if ! grep -q '^0x' /tmp/state.before; then
	echo "# no page is in any pool: nothing to compare"
	result 1 "counters and flags as before"
else
	diff /tmp/state.before /tmp/state.after > /tmp/state.diff
	result $? "counters and flags as before"
	sed 's/^/# /' /tmp/state.diff
fi
finish
