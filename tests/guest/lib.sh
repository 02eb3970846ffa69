# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
# TAP for the tests that run in the guest's busybox shell; source it.

nr=0 failed=0

# plan N: how many results will follow
plan() {
	echo "TAP version 13"
	echo "1..$1"
}

# result STATUS DESCRIPTION
result() {
	nr=$((nr + 1))
	if [ "$1" = 0 ]; then
		echo "ok $nr $2"
	else
		echo "not ok $nr $2"
		failed=1
	fi
}

# is WANT HAVE DESCRIPTION
is() {
	[ "$1" = "$2" ] || echo "# wanted $1, is $2"
	result "$([ "$1" = "$2" ]; echo $?)" "$3"
}

# at_least WANT HAVE DESCRIPTION
at_least() {
	[ "$2" -ge "$1" ] || echo "# wanted at least $1, is $2"
	result "$([ "$2" -ge "$1" ]; echo $?)" "$3"
}

# The exit status of a kselftest
finish() {
	exit $failed
}

# pool KB: the directory of the huge page pool of that page size
pool() {
	echo "/sys/kernel/mm/hugepages/hugepages-$1kB"
}

free_mb() {
	awk '/^MemFree:/ { print int($2 / 1024) }' /proc/meminfo
}

# no_bad_pages DESCRIPTION: pages that the buddy allocator refused since boot
no_bad_pages() {
	is 0 "$(dmesg | grep -c 'Bad page')" "$1"
}

# has_module NAME: is there such a module for this kernel
has_module() {
	[ -n "$(find "/lib/modules/$(uname -r)" -name "$1.ko")" ]
}
