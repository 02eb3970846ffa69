#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# usage: tests/planted.sh [PLANT...]
#
# Does the stress test of conversion find bugs? For each tests/planted/PLANT.patch
# (default: all) build a kernel with that bug, and run the test in a VM until it
# fails; print what it took. Without a bug it must pass. The bugs are planted in a
# copy of build/linux, in build/planted. Then the fuzzer makes mistakes of its own,
# which are what a leak would look like, and must find them.
# Environment: SEED=N (default: 1), SECONDS_EACH=N for how long the test runs
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../scripts/lib.sh"

case ${1-} in
-h|--help) usage; exit 0 ;;
-*) usage >&2; exit 2 ;;
esac
plants=("$@")
[ $# -gt 0 ] || mapfile -t plants < <(basename -s .patch -a "$root"/tests/planted/*.patch)
for plant in "${plants[@]}"; do
	[ -f "$root/tests/planted/$plant.patch" ] || die "there is no tests/planted/$plant.patch"
done

seed=${SEED:-1} seconds=${SECONDS_EACH:-60}
test=kvm/x86/guest_memfd_conversions_stress
program=$build/selftests/bin/$test
fuzzer=$build/selftests/bin/kvm/x86/guest_memfd_fuzz
for file in "$program" "$fuzzer"; do
	[ -x "$file" ] || die "there is no ${file#"$root"/}: run 'make selftests'"
done
[ -f "$build/linux/Makefile" ] || die "there is no kernel tree in build/linux: run 'make tree'"

# What scripts/kernel takes for the repository
copy=$build/planted
linux=$copy/build/linux
out=$copy/build/kernel/test
mkdir -p "$copy/build"
exec 8> "$copy/lock"
flock -n 8 || die "another $0 is running"
for dir in scripts arch; do
	ln -sfn "$root/$dir" "$copy/$dir"
done

say "copying build/linux to build/planted"
rm -rf "$linux"
mkdir "$linux"
find "$build/linux" -mindepth 1 -maxdepth 1 ! -name .git -exec cp -al -t "$linux" {} +

# The files that a patch changes
files() {
	sed -n 's#^+++ b/##p' "$root/tests/planted/$1.patch"
}

# Whatever an earlier run has left of them is older than the source
for plant in "$root"/tests/planted/*.patch; do
	for file in $(files "$(basename -s .patch "$plant")"); do
		rm -f "$out/${file%.c}.o"
	done
done

plant() {
	local file
	for file in $(files "$1"); do
		# A file of its own, not a link to that in build/linux
		cp --remove-destination "$build/linux/$file" "$linux/$file"
	done
	patch -s -p1 -d "$linux" < "$root/tests/planted/$1.patch"
}

restore() {
	local file
	for file in $(files "$1"); do
		cp --remove-destination "$build/linux/$file" "$linux/$file"
	done
}

# run NAME PROGRAM ARG...: its exit status; leaves its output and the time it took
run() {
	local name=$1 program=$2 log=$copy/$1.log start
	shift 2
	rm -f "$log.status"
	{
		"$root/scripts/vm" --kernel "$out/arch/x86/boot/bzImage" --mem 8G --hugepages 1G:2,2M:16 --hvo on \
			--append panic_on_warn=1 --log "$copy/$name.dmesg" --timeout $((seconds * 6 + 600)) --file "$program:/program" -- \
			/program "$@" 2> "$log.err" || echo $? > "$log.status"
	} | while IFS= read -r line; do
		printf '%d %s\n' "$(date +%s)" "$line"
	done > "$log"
	status=$(cat "$log.status" 2>/dev/null || echo 0)
	rm -f "$log.status"
	start=$(sed -n '1s/ .*//p' "$log")
	took=$(($(date +%s) - ${start:-$(date +%s)}))
	found=$(sed -n 's/^[0-9]* # \(after .*\)/\1/p' "$log" | head -n 1)
	[ -n "$found" ] || found=$(sed -n 's/^vm: //p' "$log.err" | grep -m 1 -E 'BUG|WARNING|Oops|Bad page|fault' || tail -n 1 "$log.err")
}

echo "TAP version 13"
echo "1..$((${#plants[@]} + 3))"
nr=0 failed=0
for plant in "${plants[@]}"; do
	nr=$((nr + 1))
	plant "$plant"
	"$copy/scripts/kernel" test >&2
	run "$plant" "$program" -s "$seed" -t "$seconds"
	restore "$plant"
	what=$(sed '/^$/,$d' "$root/tests/planted/$plant.patch" | tr '\n' ' ')
	# The test says so, or the kernel does
	if [ "$status" = 1 ] || { [ "$status" = 125 ] && grep -q 'reported a bug' "$copy/$plant.log.err"; }; then
		echo "ok $nr $plant is caught in $took s"
	else
		echo "not ok $nr $plant is caught"
		echo "# after $took s: status $status"
		failed=1
	fi
	echo "# planted: $what"
	echo "# found: $found"
done
nr=$((nr + 1))
"$copy/scripts/kernel" test >&2
run none "$program" -s "$seed" -t "$seconds"
if [ "$status" = 0 ]; then
	echo "ok $nr without a bug the test passes, in $took s"
else
	echo "not ok $nr without a bug the test passes"
	echo "# after $took s: status $status, $found"
	failed=1
fi
declare -A says=([secret]="a secret" [foreign]="of another VM")
for mistake in secret foreign; do
	nr=$((nr + 1))
	run "fuzz-$mistake" "$fuzzer" --seed "$seed" --seconds "$seconds" --plant "$mistake"
	if [ "$status" = 1 ] && grep -q "${says[$mistake]}" "$copy/fuzz-$mistake.log"; then
		echo "ok $nr the fuzzer finds its mistake '$mistake' in $took s"
	else
		echo "not ok $nr the fuzzer finds its mistake '$mistake'"
		echo "# after $took s: status $status, $found"
		failed=1
	fi
done
exit $failed
