#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# scripts/test: how it judges programs that behave and programs that do not. TAP.
# shellcheck disable=SC2016,SC2317 # strings for the guest's shell; functions that ok calls
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ ! -f build/kernel/test/arch/x86/boot/bzImage ]; then
	echo "TAP version 13"
	echo "1..0 # SKIP there is no kernel in build/kernel/test"
	exit 4
fi

# A repository of its own, with programs of its own
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/build" "$work/tests/guest" "$work/tests/host"
cp -r scripts "$work/scripts"
sed -i 's/^HANG_GRACE = .*/HANG_GRACE = 5/' "$work/scripts/test"
ln -s "$PWD/build/linux" "$PWD/build/kernel" "$work/build/"

program() {
	{ echo '#!/bin/sh'; cat; } > "$work/tests/guest/$1"
	chmod +x "$work/tests/guest/$1"
}
program good <<< 'echo "TAP version 13"; echo 1..2; echo "ok 1 first"; echo "ok 2 # SKIP no reason to"'
program bad <<< 'echo "TAP version 13"; echo 1..1; echo "# a detail"; echo "not ok 1 wrong"; exit 1'
program skip <<< 'echo "TAP version 13"; echo "1..0 # SKIP not here"; exit 4'
program headless <<< 'echo 1..1; echo "ok 1 first"'
program plan-last <<< 'echo "ok 1 first"; echo "not ok 2 second"; echo 1..2; exit 1'
program silent <<< ':'
program silent-bad <<< 'exit 9'
program no-plan <<< 'echo "TAP version 13"; echo "ok 1 first"'
program short <<< 'echo "TAP version 13"; echo 1..2; echo "ok 1 first"'
program liar <<< 'echo "TAP version 13"; echo 1..1; echo "ok 1 first"; exit 3'
program slow <<< 'sleep 1000'
program warn <<< 'echo "WARNING: mm/test.c:1 at nothing" > /dev/kmsg'
program panic <<< 'echo "TAP version 13"; echo 1..2; echo "ok 1 first"; echo c > /proc/sysrq-trigger'
program litter <<< 'sleep 1000 &'
program tidy <<< '! pidof sleep'
# The shell that runs the programs, and with it all that ends them
program hang <<< 'kill -STOP $PPID'
program again.sh <<< 'echo "rcu: INFO: rcu_preempt stalled: kthread timer wakeup didn'"'"'t happen" > /dev/kmsg; sleep 1000'
mkdir "$work/tests/guest/kvm"
program kvm/lost <<- 'EOF'
	echo "TAP version 13"; echo 1..2; echo "ok 1 first"; echo "not ok 2 second"
	while read -r line; do
		echo "$line" > /dev/kmsg
	done <<-END
		rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:
		NMI backtrace for cpu 0
		RIP: 0010:queued_spin_lock_slowpath+0x69/0x219
		<IRQ>
		handle_edge_irq+0x1a/0x1e0
		__common_interrupt+0x3e/0xa0
		</IRQ>
		<TASK>
		vcpu_enter_guest+0x5d1/0x13b0
		</TASK>
	END
	sleep 1000
EOF
# Lost at the first time, by the words that again.sh looks for
cp tests/guest/again.sh "$work/tests/guest/again-indeed.sh"
program kvm/once <<- 'EOF'
	echo "TAP version 13"; echo 1..2; echo "ok 1 first"
	if [ ! -f /tmp/once ]; then
		touch /tmp/once
		echo "# the guest exits for SHUTDOWN, at 0x1000"
		echo "not ok 2 second"
		exit 1
	fi
	echo "ok 2 second"
EOF
program host <<< 'echo "TAP version 13"; echo 1..1; echo "ok 1 here"'
mv "$work/tests/guest/host" "$work/tests/host/host.sh"
{
	echo "[one] --mem 1G"
	printf '60 %s\n' good bad skip headless plan-last silent silent-bad no-plan short liar
	printf '%s\n' '3 slow' '60 warn' '60 panic' '60 silent after' '60 litter' '60 tidy' '3 hang' '60 silent again' '60 again.sh kvm/x' '60 kvm/lost' '60 again-indeed.sh kvm/once' '60 silent end'
	echo "[two] --mem 1G --hugepages 1G:64"
	printf '60 %s\n' absent silent
} > "$work/tests/vm.list"

nr=0 failed=0 status=0
"$work/scripts/test" > "$work/out" 2>&1 || status=$?
lines=("ok host: host.sh: here" "ok one: good: first" "ok one: good: \(no name\) # SKIP no reason to" "not ok one: bad: wrong"
	"ok one: skip # SKIP not here" "ok one: headless: first" "ok one: plan-last: first"
	"not ok one: plan-last: second" "ok one: silent" "not ok one: silent-bad: exit status 9"
	"not ok one: no-plan: its TAP has no plan" "ok one: short: first" "not ok one: short: results that its plan has and that did not come: 1"
	"not ok one: liar: exit status 3" "not ok one: slow: time-out after 3 s" "not ok one: warn: kernel: .*mm/test.c:1 at nothing"
	"ok one: panic: first" "not ok one: panic: results that its plan has and that did not come: 1"
	"not ok one: panic: kernel: .*Kernel panic - not syncing: sysrq.*" "ok one: silent after" "ok one: litter" "ok one: tidy"
	"not ok one: hang: the VM hung: it did not stop the program in 8 s" "ok one: silent again"
	"not ok one: again.sh kvm/x: kernel: .*kthread timer wakeup didn't happen"
	"ok one: lost: first" "not ok one: lost: second" "not ok one: lost: kernel: .*rcu_preempt detected stalls on CPUs/tasks:"
	"ok one: again-indeed.sh kvm/once: first" "ok one: again-indeed.sh kvm/once: second" "ok one: silent end"
	"not ok two: absent: vm: .*instead of 64 huge pages.*" "not ok two: silent: vm: .*instead of 64 huge pages.*")

ok() {
	local what=$1
	shift
	nr=$((nr + 1))
	if "$@"; then
		echo "ok $nr $what"
	else
		echo "not ok $nr $what"
		failed=1
	fi
}
has_line() { grep -qxE "$1" "$work/out"; }
last_line_is() { [ "$(tail -n 1 "$work/out")" = "$1" ]; }
junit() {
	python3 - "$work/build/test/junit.xml" <<-'EOF'
		import sys, xml.etree.ElementTree as ET
		cases = list(ET.parse(sys.argv[1]).iter("testcase"))
		count = lambda *tags: sum(any(case.find(tag) is not None for tag in tags) for case in cases)
		bad, skipped = count("failure", "error"), count("skipped")
		sys.exit([len(cases) - bad - skipped, bad, skipped] != [17, 16, 2])
	EOF
}

echo "TAP version 13"
echo "1..$((${#lines[@]} + 8))"
for line in "${lines[@]}"; do
	ok "reports: ${line//#}" has_line "$line"
done
ok "the last line counts" last_line_is "17 passed, 16 failed, 2 skipped"
ok "what QEMU may lose is run three times" \
	test "$(grep -cE "^# one: again.sh kvm/x: .* takes no timer interrupts any more.* Again" "$work/out")" = 2
ok "what waits for an interrupt's lock, too" \
	test "$(grep -cE "^# one: lost: .* waits in an interrupt for .*lock.* Again" "$work/out")" = 2
ok "failures make it fail" test $status = 1
ok "junit.xml says the same" junit
if [ $failed = 1 ]; then
	sed 's/^/# /' "$work/out"
fi

status=0
"$work/scripts/test" --filter 'one: (good|silent)$' > "$work/out" 2>&1 || status=$?
ok "without failures it succeeds" test $status = 0
status=0
"$work/scripts/test" --filter 'one: skip' > "$work/out" 2>&1 || status=$?
ok "only skips are a failure" test $status = 1
status=0
"$work/scripts/test" --filter 'no such test' > "$work/out" 2>&1 || status=$?
ok "no test is a failure" test $status = 1
exit $failed
