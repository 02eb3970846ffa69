#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# scripts/regress: what it keeps, runs again, compares and takes for an error. TAP.
# shellcheck disable=SC2317 # functions that ok calls
set -euo pipefail
cd "$(dirname "$0")/../.."

kernel=$PWD/build/kernel/test/arch/x86/boot/bzImage
if [ ! -f "$kernel" ]; then
	echo "TAP version 13"
	echo "1..0 # SKIP there is no kernel in build/kernel/test"
	exit 4
fi

# A repository of its own, with programs of its own, and the same kernel for both
# sides: the results that differ are made here
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/build" "$work/tests/guest"
cp -r scripts "$work/scripts"
cp tests/guest/lib.sh "$work/tests/guest/"
ln -s "$PWD/build/linux" "$PWD/build/kernel" "$work/build/"

program() {
	{ echo '#!/bin/sh'; cat; } > "$work/tests/guest/$1"
	chmod +x "$work/tests/guest/$1"
}
program good <<< 'echo "TAP version 13"; echo 1..2; echo "ok 1 first"; echo "ok 2 second"'
program bad <<< 'echo "TAP version 13"; echo 1..2; echo "ok 1 right"; echo "not ok 2 wrong"; exit 1'
program skip <<< 'echo "no such thing # SKIP"; exit 4'
program slow <<< 'sleep 1000'
program panic <<< 'echo c > /proc/sysrq-trigger'
program after <<< ':'
cat > "$work/tests/regress.list" <<'END'
[a-one] --mem 1G
60 good
60 bad
60 skip
3 slow
60 panic
60 after
[b-two] --mem 1G
60 good
END
expect() {
	printf '%s\t%s\t%s\t%s\n' "$@" > "$work/tests/regress.expected"
}
known=(fail fail "a-one: bad: wrong" "it is" skip skip "a-*: skip" "none here" fail fail "a-one: slow" "never ends"
	fail fail "a-one: panic*" "dies" )
expect "${known[@]}"

nr=0 failed=0 status=0
ok() {
	local what=$1
	shift
	nr=$((nr + 1))
	if "$@"; then
		echo "ok $nr $what"
	else
		echo "not ok $nr $what"
		failed=1
		echo "# status $status"
		sed 's/^/#   /' "$work/out" "$work/err"
	fi
}
regress() {
	status=0
	"$work/scripts/regress" --kernel-base "$kernel" --kernel "$kernel" "$@" > "$work/out" 2> "$work/err" || status=$?
}
is() { [ "$1" = "$2" ]; }
says() { grep -qE -- "$1" "$work/out"; }
ended() { is "$status" "$1" && says "$2"; }
refused() { is "$status" 1 && grep -qE -- "$1" "$work/err"; }
# How many programs it ran
ran() { is "$(grep -cE '==> [0-9]+/[0-9]+ (base|patched): ' "$work/err")" "$1"; }
# Change a result that is kept: SIDE FILE EXPRESSION
tamper() { sed -i "$3" "$work/build/regress/$1/$2.log"; }

echo "TAP version 13"
echo "1..23"

# Stopped when one result is there
"$work/scripts/regress" --kernel-base "$kernel" --kernel "$kernel" > "$work/out" 2> "$work/err" &
pid=$!
while kill -0 $pid 2> /dev/null && [ ! -f "$work/build/regress/base/a-one_good.log" ]; do
	sleep 0.1
done
kill -TERM $pid 2> /dev/null || true
wait $pid || status=$?
ok "a signal ends it" is $status 143
before=$(find "$work/build/regress" -name 'a-one_*.log' | wc -l)
vms() { pgrep -f "$work/[t]ests|$work/build/[r]egress" | wc -l; }
ok "with it goes the VM" is "$(vms)" 0

regress
ok "what is known makes no error" ended 0 "15 results are ok on both, .* 0 errors"
ok "the next start goes on" ran $((14 - before))
ok "a program that fails" says "wrong +fail +fail +known: it is"
ok "one that is skipped" says "as a whole +skip +skip +known: none here"
ok "one that does not end" says "as a whole +fail +fail +known: never ends"
ok "one that takes the VM down" says "kernel log +fail +fail +known: dies"
ok "costs no other" says "^a-one: after +2 ok +2 ok"
ok "the table is kept" cmp -s "$work/out" "$work/build/regress/table"

# The VM that died without a word of its own would be tried again; the panic has one
cp "$work/out" "$work/first"
regress
ok "a third start runs nothing" ran 0
ok "and says the same" cmp -s "$work/out" "$work/first"

tamper patched a-one_good 's/^ok 2 second/not ok 2 second/'
regress
ok "a result that is worse is an error" ended 1 "second +ok +fail +ERROR: not in tests/regress.expected"
tamper base a-one_good 's/^ok 2 second/not ok 2 second/'
regress
ok "so is one that is bad on both, if not known" ended 1 "second +fail +fail +ERROR: not in"
expect "${known[@]}" fail fail "a-one: good: second" "a bug"
regress
ok "but not if known" ended 0 "second +fail +fail +known: a bug"
tamper patched a-one_good 's/^not ok 2 second/ok 2 second/'
regress
ok "a result that is better is an error if not expected" ended 1 "second +fail +ok +ERROR: expected fail, fail: a bug"
expect "${known[@]}" fail ok "a-one: good: second" "mended"
regress
ok "and not if expected" ended 0 "second +fail +ok +expected: mended"
regress --again --filter '^a-one: good$'
ok "--again runs what is selected, on both" ran 2
ok "what was to be mended must be bad on the base" ended 1 "second +ok +ok +ERROR: expected fail, ok: mended"
expect "${known[@]}" fail fail "a-one: good: second" "a bug"
regress
ok "better than known on both is told, and no error" ended 0 "^BETTER than expected, fail, fail: a-one: good: second"
expect "${known[@]}" fail fail "a-one: nonsense" "a bug"
regress
ok "an expectation that nothing matches is an error" ended 1 "ERROR: no result matches a-one: nonsense"

expect "${known[@]}"
program after <<< 'exit 0'
regress --suite a
ok "a program that has changed is run again" ran 2
expect fail fail "c-one: good" "a bug"
regress --report
ok "an expectation of no suite is refused" refused "begin with a suite, a or b"
exit $failed
