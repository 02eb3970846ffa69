#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# usage: unload-after.sh COMMAND [ARG]...
#
# Run a command of this directory that leaves something to be done later, by a worker,
# to memory of guest_memfd, and unload KVM at once.
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"

vendor=kvm_amd
[ -e /sys/module/kvm_amd ] || vendor=kvm_intel
if [ ! -e /sys/module/$vendor/refcnt ]; then
	echo "1..0 # SKIP needs KVM in modules that are loaded"
	exit 4
fi
program=$(dirname "$0")/$1
shift

plan 4
"$program" "$@" > /tmp/unload-after.log 2>&1
status=$?
[ $status = 0 ] || sed 's/^/# /' /tmp/unload-after.log
is 0 $status "what leaves something to be done later passes"
# The inode of a file goes with an RCU callback.  What is done later comes later.
tries=3000
until [ "$(cat /sys/module/$vendor/refcnt)" = 0 ] || [ $((tries -= 1)) = 0 ]; do
	usleep 10000
done
is 00 "$(rmmod $vendor; printf %s $?; rmmod kvm; printf %s $?)" "KVM is unloaded at once"
sleep 3
modprobe $vendor
result $? "it is loaded again"
is 0 "$(dmesg | grep -cE 'WARNING: |BUG: |Bad page|still has objects')" "the kernel has no complaint"
finish
