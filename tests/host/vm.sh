#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# scripts/vm: what goes in and out of a VM, and what ends one. TAP.
# shellcheck disable=SC2016,SC2317 # strings for the guest's shell; functions that ok calls
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ ! -f build/kernel/test/arch/x86/boot/bzImage ]; then
	echo "TAP version 13"
	echo "1..0 # SKIP there is no kernel in build/kernel/test"
	exit 4
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
nr=0 failed=0

# vm ARGUMENT...: run it; leaves $status, $work/out and $work/err
vm() {
	status=0
	scripts/vm --mem 1G --timeout 120 "$@" < /dev/null > "$work/out" 2> "$work/err" || status=$?
}

# ok DESCRIPTION COMMAND...: a result, by the command's status
ok() {
	local what=$1
	shift
	nr=$((nr + 1))
	if "$@"; then
		echo "ok $nr $what"
		return
	fi
	echo "not ok $nr $what"
	failed=1
	echo "# status $status, stdout and stderr:"
	tail -n 8 "$work/out" "$work/err" | sed 's/^/#   /'
}

is() { [ "$1" = "$2" ]; }
says() { grep -qE "$1" "$work/err"; }
ended() { is "$status" "$1" && says "$2"; }

echo "TAP version 13"
echo "1..18"

vm -- sh -c 'echo to stdout; echo to stderr >&2; exit 3'
ok "the exit status is the command's" is "$status" 3
ok "stdout is the command's stdout, and no more" is "$(cat "$work/out")" "to stdout"
ok "stderr is the command's stderr" grep -qx "to stderr" "$work/err"

args=('a  b' "it's" '"q"' '$HOME * \x' $'two\nlines' '' $'\xff\x01')
vm -- printf '%s|' "${args[@]}"
# shellcheck disable=SC2059
ok "arguments arrive byte by byte" cmp -s "$work/out" <(printf '%s|' "${args[@]}")

vm -- sh -c 'kill -SEGV $$'
ok "death by a signal is 128 + its number" is "$status" 139

vm -- no-such-command
ok "a command that does not exist is 127" ended 127 "not found"

head -c 3000000 /dev/urandom > "$work/blob"
vm --file "$work/blob:/tmp/x/blob" -- cat /tmp/x/blob
ok "a file goes in and its bytes come out" cmp -s "$work/blob" "$work/out"

status=0
scripts/vm --mem 1G --timeout 120 -- cat < "$work/blob" > "$work/out" 2> "$work/err" || status=$?
ok "stdin goes in" cmp -s "$work/blob" "$work/out"

vm --file "$(command -v bash):/opt/" -- /opt/bash -c 'echo "${BASH_VERSION:+bash}"'
ok "a dynamically linked program has its libraries" is "$(cat "$work/out")" bash

SECONDS=0
vm -- sh -c 'echo c > /proc/sysrq-trigger; sleep 100'
ok "a panic fails, with its message" ended 125 "Kernel panic - not syncing: sysrq"
ok "a panic ends the VM at once" test $SECONDS -lt 90

vm -- sh -c 'echo "WARNING: mm/test.c:1 at nothing+0x1/0x2, CPU#0: sh/1" > /dev/kmsg'
ok "a warning of the kernel fails a command that succeeds" ended 125 "WARNING: mm/test.c:1"

vm --timeout 15 -- sleep 1000
ok "--timeout ends it, and says so" ended 124 "^vm: time-out"

SECONDS=0
vm --log "$work/lost.log" -- sh -c 'echo "rcu: rcu_preempt kthread timer wakeup didn'"'"'t happen for 5 jiffies" > /dev/kmsg; sleep 1000'
ok "a CPU without timer interrupts ends it, and is named" ended 126 "^vm: a CPU of the guest takes no timer interrupts"
ok "the log says where the CPUs are" grep -qE "^QEMU: RIP=[0-9a-f]{16} RFL=" "$work/lost.log"

# Once the guest runs, QEMU is the only child
scripts/vm --mem 1G --timeout 120 --log "$work/killed.log" -- sleep 1000 < /dev/null > "$work/out" 2> "$work/err" &
parent=$!
until grep -q "Run /init" "$work/killed.log" 2>/dev/null; do sleep 0.2; done
kill -KILL "$(< "/proc/$parent/task/$parent/children")"
status=0
wait $parent || status=$?
ok "a killed QEMU is named as the cause" ended 125 "QEMU was killed by SIGKILL"

vm --hugepages 1G:64 -- true
ok "fewer huge pages than asked for is a failure" ended 125 "instead of 64 huge pages"

QEMU=/nonexistent/qemu vm -- true
ok "a missing QEMU is a clear error" ended 125 "no /nonexistent/qemu: "

exit $failed
