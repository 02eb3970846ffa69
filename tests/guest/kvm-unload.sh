#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# usage: kvm-unload.sh kvm/guest_memfd_lifetime_test
#
# A file of guest_memfd that outlives its VM keeps KVM's modules; once it is gone,
# they can go, its huge pages are the pool's, and KVM can come back.
# Wants a VM with --hugepages 2M:4 or more
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"

program=$(dirname "$0")/$1
log=/tmp/kvm-unload.log
vendor=kvm_amd
[ -e /sys/module/kvm_amd ] || vendor=kvm_intel
if [ ! -e /sys/module/$vendor/refcnt ]; then
	echo "1..0 # SKIP needs KVM in modules that are loaded"
	exit 4
fi

refcnt() {
	cat "/sys/module/$1/refcnt" 2>/dev/null || echo gone
}

# The pool of 2M pages, by node too
counters() {
	for file in "$(pool 2048)"/*_hugepages /sys/devices/system/node/node*/hugepages/hugepages-2048kB/*_hugepages; do
		echo "$file $(cat "$file")"
	done
}

# counter NAME
counter() {
	cat "$(pool 2048)/$1_hugepages"
}

# try_rmmod MODULE: 0 if it was unloaded
try_rmmod() {
	rmmod "$1" 2> $log.rmmod
	echo $?
}

# hold MODE DESCRIPTION: start a process that has nothing but a file of 2 pages, or its path
hold() {
	"$program" "--$1" 600 > $log 2>&1 &
	holder=$!
	tries=300
	until grep -q held $log || [ $((tries -= 1)) = 0 ]; do
		usleep 100000
	done
	is held "$(grep held $log)" "$2"
}

# The inode itself goes with an RCU callback, and its reference to the module with it.
release() {
	kill -9 $holder
	wait $holder 2>/dev/null
	tries=300
	until [ "$(refcnt $vendor)" = 0 ] || [ $((tries -= 1)) = 0 ]; do
		usleep 100000
	done
}

plan 32
before=$(counters)
free=$(counter free)
total=$(counter nr)
at_least 4 "$free" "the pool has free pages"
is 0 "$(refcnt $vendor)" "nobody uses KVM"

hold hold "a file outlives its VM"
is $((free - 2)) "$(counter free)" "and has two pages"
at_least 1 "$(refcnt $vendor)" "it has a reference to $vendor"
is 1 "$(try_rmmod $vendor)" "which is not unloaded"
is 1 "$(try_rmmod kvm)" "nor is kvm"
is $((free - 2)) "$(counter free)" "the file still has its pages"
release
is "$before" "$(counters)" "when it is gone, the pool is as before"
is 0 "$(refcnt $vendor)" "and nobody uses $vendor"

is 0 "$(try_rmmod $vendor)" "$vendor is unloaded"
is 0 "$(try_rmmod kvm)" "so is kvm, at once"
result "$(! ls -d /sys/module/kvm /sys/module/$vendor /dev/kvm 2>/dev/null; echo $?)" "there is nothing of them"
is "$before" "$(counters)" "the pool is as before"

# Without KVM, the pages are good for something else: the buddy allocator
for node in /sys/devices/system/node/node*/hugepages/hugepages-2048kB/nr_hugepages; do
	old=$(cat "$node")
	echo 0 > "$node"
	set -- "$@" "$node=$old"
done
shift
is 0 "$(counter nr)" "all of its pages can be freed"
for pair; do
	echo "${pair#*=}" > "${pair%=*}"
done
is "$total" "$(counter nr)" "and allocated"
is "$before" "$(counters)" "then the pool is as before"

modprobe $vendor
result $? "$vendor is loaded again"
hold hold "a file can be created"
is $((free - 2)) "$(counter free)" "and has two pages"
is 1 "$(try_rmmod $vendor)" "$vendor is not unloaded"
release
is "$before" "$(counters)" "when it is gone, the pool is as before"
is 00 "$(try_rmmod $vendor)$(modprobe $vendor; echo $?)" "$vendor is unloaded and loaded"

# The file is closed and its memory is not gone
hold hold-path "the path of a file outlives the file"
is $((free - 2)) "$(counter free)" "and has two pages"
is 1 "$(try_rmmod $vendor)" "$vendor is not unloaded"
is $((free - 2)) "$(counter free)" "the path still has its pages"
release
is "$before" "$(counters)" "when it is gone, the pool is as before"
is 0 "$(try_rmmod $vendor)" "$vendor is unloaded"
is 0 "$(try_rmmod kvm)" "so is kvm"
modprobe $vendor
result $? "$vendor is loaded again"

is 0 "$(dmesg | grep -cE 'WARNING: |BUG: |Bad page|still has objects')" "the kernel has no complaint"
finish
