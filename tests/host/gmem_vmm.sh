#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# gmem_vmm: a guest on guest_memfd does not reach the VMM's memory, and the demo
# notices where it does: in a copy that leaves userspace_addr 0. TAP.
set -euo pipefail
cd "$(dirname "$0")/../.."

for need in build/kernel/test/arch/x86/boot/bzImage build/headers/include/linux/kvm.h; do
	if [ ! -f "$need" ]; then
		echo "TAP version 13"
		echo "1..0 # SKIP there is no $need"
		exit 4
	fi
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
include="-isystem $PWD/build/headers/include"
line='slot.userspace_addr = (__u64)vm->gmem;'
make -s -C tools/kvm/gmem_vmm O="$work/vmm" KHDR_INCLUDES="$include" >/dev/null
cp -r tools/kvm/gmem_vmm "$work/src"
sed -i "s/${line//[()*]/.}/;/" "$work/src/vm.c"
make -s -C "$work/src" O="$work/null" KHDR_INCLUDES="$include" >/dev/null

# shellcheck disable=SC2016 # for the guest's shell
in_guest='for vmm in vmm null; do
	for type in default sw-protected; do
		/$vmm --vm-type $type --size 64M --page-size 2M,4K
		echo "$vmm $type: exit $?"
	done
done'
scripts/vm --mem 6G --hugepages 2M:32 --hvo on --timeout 400 --file "$work/vmm/gmem_vmm:/vmm" \
	--file "$work/null/gmem_vmm:/null" -- sh -c "$in_guest" </dev/null >"$work/out" 2>"$work/err" || true
# VMM TYPE TRIES, of which SUCCESSFUL: for each page size, and the exit status
awk '/^Guest.s tries/ { t = $(NF - 1) " " $NF } /of these, successful/ { s = $(NF - 1) " " $NF }
	/: exit / { sub(":", "", $2); print $1, $2, t, "of which", s, "exit", $4; t = s = "" }' "$work/out" >"$work/table"

nr=0 failed=0
# is WANT DESCRIPTION: the table has the line
is() {
	nr=$((nr + 1))
	if grep -qxF "$1" "$work/table"; then
		echo "ok $nr $2"
	else
		echo "not ok $nr $2"
		failed=1
		echo "# wanted: $1"
		sed 's/^/# have: /' "$work/table"
		tail -n 8 "$work/out" "$work/err" | sed 's/^/#   /'
	fi
}

echo "TAP version 13"
echo "1..5"
nr=1
if cmp -s tools/kvm/gmem_vmm/vm.c "$work/src/vm.c"; then
	echo "not ok 1 there is a copy with userspace_addr 0"
	echo "# vm.c has no line: $line"
	failed=1
else
	echo "ok 1 there is a copy with userspace_addr 0"
fi
is "vmm default 1 1 of which 0 0 exit 0" "in a default VM KVM does not write the time to the VMM"
is "vmm sw-protected 2 2 of which 0 0 exit 0" "nor does it, nor a plain store, in a VM with private memory"
is "null default 1 1 of which 1 1 exit 1" "with userspace_addr 0 it does"
is "null sw-protected 2 2 of which 2 2 exit 1" "and so does the store, and the demo fails"
exit $failed
