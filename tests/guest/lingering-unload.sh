#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# usage: lingering-unload.sh kvm/x86/guest_memfd_lingering_test
#
# A page that a process has taken hold of outlives its guest_memfd, the VM, and KVM's
# modules. The pool has it back when the process lets go, be KVM unloaded or loaded.
# Wants a VM with --hugepages 1G:1,2M:4 or more
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"

program=$(dirname "$0")/$1
log=/tmp/lingering-unload.log
vendor=kvm_amd
[ -e /sys/module/kvm_amd ] || vendor=kvm_intel
if [ ! -e /sys/module/$vendor/refcnt ]; then
	echo "1..0 # SKIP needs KVM in modules that are loaded"
	exit 4
fi

# The pools of all sizes, by node too
counters() {
	for file in /sys/kernel/mm/hugepages/*/*_hugepages \
		    /sys/devices/system/node/node*/hugepages/*/*_hugepages; do
		echo "$file $(cat "$file")"
	done
}

# free KB: free pages of the pool of that size, 0 where there is none
free() {
	cat "$(pool "$1")/free_hugepages" 2>/dev/null || echo 0
}

# wait_until WANT COMMAND [ARG]...: for 30 s; the last output
wait_until() {
	want=$1 tries=300
	shift
	until have=$("$@"); [ "$have" = "$want" ] || [ $((tries -= 1)) = 0 ]; do
		usleep 100000
	done
	echo "$have"
}

# shellcheck disable=SC2317 # called by wait_until
refcnt() {
	cat "/sys/module/$vendor/refcnt" 2>/dev/null || echo gone
}

held() {
	grep -E 'held|skip' $log
}

# The inode itself goes with an RCU callback.
unload() {
	wait_until 0 refcnt > /dev/null
	rmmod $vendor && rmmod kvm
}

# linger HOLDER KB WHEN: let go "unloaded", "meanwhile" or "loaded" again; 6 results
linger() {
	before=$(counters) free=$(free "$2") taken=1
	[ "$2" -gt 4 ] || taken=0
	what="$1 with a page of $2 kB"

	"$program" --hold "$1" "$2" > $log 2>&1 &
	holder=$!
	wait_until held held > /dev/null
	is held "$(held)" "$what is all that is left of the VM"
	is $((free - taken)) "$(free "$2")" "the pool lacks it"
	if [ "$3" = meanwhile ]; then
		kill -USR1 $holder
		unload
		result $? "KVM is unloaded while the page goes home"
		wait $holder
		result $? "the holder has read what it had"
	else
		unload
		result $? "KVM is unloaded, and the page still held"
		is $((free - taken)) "$(free "$2")" "which the pool lacks"
		[ "$3" != loaded ] || modprobe $vendor
		kill -USR1 $holder
		wait $holder || sed 's/^/# /' $log
	fi
	is "$before" "$(wait_until "$before" counters)" "$3, the pool is as before"
	[ -e /sys/module/$vendor ] || modprobe $vendor
	is released "$(grep released $log)" "$what was released"
}

set -- gup,2048,unloaded gup,2048,meanwhile gup,2048,loaded gup,1048576,unloaded gup,4,unloaded \
	pipe,2048,unloaded pipe,2048,meanwhile uring,2048,unloaded uring,2048,loaded \
	tcp,2048,unloaded tcp,2048,meanwhile packet,2048,unloaded packet,4,meanwhile
if [ -e /dev/iommu ]; then
	set -- "$@" iommufd,2048,unloaded
fi

plan $(($# * 6 + 1))
for case; do
	holder=${case%%,*} when=${case##*,} kb=${case#*,}
	linger "$holder" "${kb%,*}" "$when"
done
is 0 "$(dmesg | grep -cE 'WARNING: |BUG: |Bad page|still has objects')" "the kernel has no complaint"
finish
