#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Usage: tests/host/nfc.sh
#
# scripts/asm-diff on a small made-up file of which a part moves: what it must not
# notice, and what it must. Then scripts/nfc on the move of build/linux, for x86-64:
# nothing changed, and mutants of the moved file are found, by name. TAP.
# shellcheck disable=SC2317 # functions that ok calls
set -euo pipefail
case ${1:-} in '') ;; *) sed -n '/^# SPDX/d; 2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;; esac
cd "$(dirname "$0")/../.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work"/{before,after}
nr=0 failed=0 skip=''

# ok DESCRIPTION COMMAND...: a result, by the command's status
ok() {
	local what=$1
	shift
	nr=$((nr + 1))
	if [ -n "$skip" ]; then
		echo "ok $nr $what # SKIP $skip"
	elif "$@" > "$work/out" 2>&1; then
		echo "ok $nr $what"
	else
		echo "not ok $nr $what"
		sed 's/^/# /' "$work/out"
		failed=1
	fi
}

# edit FILE OLD NEW [OLD NEW]...: each of these is in the file once
edit() {
	python3 - "$@" <<-'EOF'
		import sys
		path, *pairs = sys.argv[1:]
		text = open(path).read()
		for old, new in zip(pairs[::2], pairs[1::2]):
		    if text.count(old) != 1:
		        sys.exit(f"{path}: {old!r} is there {text.count(old)} times, not once")
		    text = text.replace(old, new)
		open(path, "w").write(text)
	EOF
}

# named NAME...: what asm-diff reports in $work/said is these, and no other; "+": these, and maybe others
named() {
	local rest=''
	if [ "$1" = + ]; then rest=+; shift; fi
	sed -nE 's/^([^ ]+: )?(only before|only after|differs): ([^:]*).*/\3/p' "$work/said" | sort > "$work/names"
	printf '%s\n' "$@" | sort > "$work/wanted"
	[ -z "$rest" ] || { comm -12 "$work/names" "$work/wanted" > "$work/both"; mv "$work/both" "$work/names"; }
	diff "$work/wanted" "$work/names"
}

echo "TAP version 13"
echo "1..54"

# ------------------------------------------------------------- scripts/asm-diff
cat > "$work/h.h" <<'E'
#define section_(s) __attribute__((section(s)))
#define used __attribute__((used))
#define cat_(a, b) a##b
#define cat(a, b) cat_(a, b)
#define str_(s) #s
#define str(s) str_(s)
#define EXPORT_SYMBOL(fn) asm(".section \".export_symbol\",\"a\" ; __export_symbol_" #fn ": ; .asciz \"\" ; .ascii \"\\0\"" \
	" ; .balign 8 ; .quad " #fn " ; .previous")
#define initcall(fn) asm(".section \".initcall4.init\", \"a\"\n__initcall__kmod_" str(MOD) "__" str(__COUNTER__) "_" str(__LINE__) \
	"_" #fn "4:\n.long " #fn " - .\n.previous\n")
#define param(name, fn) static const char cat(__setup_str_, fn)[] used section_(".init.rodata") = name; \
	static struct { const char *s; int (*f)(int); } cat(__setup_, fn) used section_(".init.setup") = { cat(__setup_str_, fn), fn }
#define warn(cond) do { if (cond) asm volatile("1: ud2\n.pushsection __bug_table,\"aw\"\n.long 1b - ., %c0 - .\n.popsection" \
	:: "i" (__FILE__)); } while (0)
#define once() ({ static char done section_(".data..once"); static char warned; warned ? 0 : (warned = done = 1); })
#ifndef STEP
#define STEP 1
#endif
int print(const char *, ...);
extern int shared, limit;
static inline int in_header(int a) { static char warned; return warned ? 0 : (warned = a + STEP); }
static const int table[] = { 1, 2, 3 };
E
cat > "$work/stay.c" <<'E'
#include "h.h"
static int stays(int a) { static int calls; warn(a == 1); return print("stays", ++calls) + in_header(a); }
int user(int a) { once(); return stays(a) + table[a]; }
E
cat > "$work/move.c" <<'E'
int shared = 5;
int limit section_(".data..ro_after_init") = 7;
int aligned_ __attribute__((aligned(64)));
static int counter;
static const char *const names[] = { "one", "tw#o;" };
static int helper(int a) { return in_header(a) + counter++; }
int moved(int a) { warn(a == 2); once(); return helper(a) > limit && a >= 3 ? print("moved 1.5 12b .L1 // x\n", a, limit) : 0; }
int with_statics(int a) { static int first = 1, second = 1; return a ? first++ : second++; }
int __attribute__((weak)) weak_one(int a) { return a - shared; }
int alias_one(int a) __attribute__((alias("weak_one")));
int choose(int a)
{
	switch (a) {
	case 0: return print("zero");
	case 1: return print("one more") + table[a];
	case 2: return shared;
	case 3: return print("three");
	case 4: return print("four");
	default: return print(names[a & 1]);
	}
}
static int used section_(".init.text") setup(int a) { return a + 1; }
static int used section_(".init.text") start(void) { return moved(1); }
param("name", setup);
EXPORT_SYMBOL(moved);
initcall(start);
E

assemble() {
	local file
	for file; do
		gcc -w -Os -fno-inline -fno-ipa-cp -fno-ipa-sra -fno-ipa-ra -fno-ipa-icf -fno-asynchronous-unwind-tables -fno-pie \
			-fverbose-asm -I "$work" -DMOD="$(basename "$file")" -S -o "$file.s" "$file.c"
	done
}
asm_diff() {
	status=0
	scripts/asm-diff --path "$work/before/a.c" --path "$work/after/a.c" --path "$work/after/b.c" \
		"$work/before/a.s,$work/before/b.s" "$work/after/a.s,$work/after/b.s" > "$work/said" || status=$?
	cat "$work/said"
	return "$status"
}
# changed OLD NEW...: asm_diff with this change in what moved
changed() {
	cp "$work/moved.c" "$work/after/b.c"
	status=2
	edit "$work/after/b.c" "$@" && assemble "$work/after/b" && asm_diff
}
# finds "NAME..." OLD NEW...: which names these
finds() {
	local names
	read -ra names <<< "$1"
	changed "${@:2}" || true
	[ "$status" = 1 ] && named "${names[@]}"
}

cat "$work/stay.c" "$work/move.c" > "$work/before/a.c"
cp "$work/stay.c" "$work/after/a.c"
{ echo '#include "h.h"'; cat "$work/move.c"; } | tee "$work/moved.c" > "$work/after/b.c"
echo > "$work/before/b.c"
assemble "$work"/{before,after}/{a,b}
ok "a plain move is the same" asm_diff
ok "in whatever order" changed $'int shared = 5;\n' '' 'int __attribute__((weak)) weak_one' $'int shared = 5;\nint __attribute__((weak)) weak_one' \
	$'initcall(start);\n' '' 'param("name"' $'initcall(start);\nparam("name"'
ok "an operator" finds moved 'a >= 3' 'a > 3'
ok "a letter of a string" finds moved 'moved 1.5' 'moved 1,5'
ok "a number in a string, like a static variable's" finds moved '1.5 12b' '1.6 12b'
ok "a number in a string, like a label's" finds moved '1.5 12b' '1.5 13b'
ok "a number in a string, like a local label's" finds moved '.L1' '.L2'
ok "what comes after // in a string" finds moved '// x' '// y'
ok "what comes after # and ; in a string" finds names 'tw#o;' 'tw#o,'
ok "swapped arguments" finds moved 'a, limit)' 'limit, a)'
ok "an initial value" finds shared 'shared = 5' 'shared = 6'
ok "a lost section of data" finds limit ' section_(".data..ro_after_init")' ''
ok "a lost section of a function" finds setup 'section_(".init.text") setup' 'setup'
ok "an alignment" finds aligned_ 'aligned(64)' 'aligned(32)'
ok "static lost by a function" finds helper 'static int helper' 'int helper'
ok "static lost by an object" finds counter 'static int counter' 'int counter'
ok "static gained" finds aligned_ 'int aligned_ __attribute__((aligned' 'static int used aligned_ __attribute__((aligned'
ok "weak lost" finds weak_one ' __attribute__((weak))' ''
ok "hidden" finds choose 'int choose' '__attribute__((visibility("hidden"))) int choose'
ok "another target of an alias" finds alias_one 'alias("weak_one")' 'alias("moved")'
ok "a lost alias" finds alias_one $'int alias_one(int a) __attribute__((alias("weak_one")));\n' ''
ok "a lost export" finds __export_symbol_moved 'EXPORT_SYMBOL(moved);' ''
ok "a new export" finds __export_symbol_choose 'EXPORT_SYMBOL(moved);' 'EXPORT_SYMBOL(moved); EXPORT_SYMBOL(choose);'
ok "an export twice" finds __export_symbol_moved 'EXPORT_SYMBOL(moved);' 'EXPORT_SYMBOL(moved); EXPORT_SYMBOL(moved);'
ok "a lost initcall" finds "__initcall_start4" 'initcall(start);' ''
ok "a lost parameter" finds "__setup_setup __setup_str_setup" 'param("name", setup);' ''
ok "another name of a parameter" finds __setup_str_setup 'param("name"' 'param("nome"'
ok "the initial value of a static variable" finds with_statics 'second = 1' 'second = 2'
ok "one static variable for two" finds with_statics 'second++' 'first++'
ok "a case of a switch" finds choose 'case 2: return shared' 'case 2: return limit'
ok "a function that is new" finds weak_copy $'int choose(int a)\n' $'int weak_copy(int a) { return 0; }\nint choose(int a)\n'
ok "another definition from a header" finds in_header '#include "h.h"' $'#define STEP 2\n#include "h.h"'
stays=$(grep '^static int stays' "$work/stay.c") user=$(grep '^int user' "$work/stay.c")
ok "a static function that stays too" finds "stays" $'static int counter;\n' "static int counter;"$'\n'"${stays/int/int used}"$'\n'
ok "a global function that stays too" finds user $'static int counter;\n' "static int counter;"$'\n'"int stays(int);"$'\n'"$user"$'\n'

# refused TEXT FILE...: an error, with its reason in one line
refused() {
	status=0
	scripts/asm-diff "${@:2}" > "$work/said" 2>&1 || status=$?
	cat "$work/said"
	[ "$status" = 2 ] && [ "$(wc -l < "$work/said")" = 1 ] && grep -qF -e "$1" "$work/said"
}
a=$work/before/a.s
ok "a file that is not there is refused" refused "none.s: No such file" "$a" none.s
ok "a side with nothing in it is refused" refused "no function or object" "$work/before/b.s" "$a"
sed '/\.size/d' "$a" > "$work/cut.s"
ok "a file that lacks the end is refused" refused "has no end" "$a" "$work/cut.s"
gcc -w -g -I "$work" -S -o "$work/debug.s" "$work/stay.c"
ok "a file with debug information is refused" refused "without -g" "$a" "$work/debug.s"

# ------------------------------------------------------------------ scripts/nfc
to=mm/hugetlb_alloc.c
if ! moves=$(scripts/series moves 2> "$work/err"); then
	grep -q 'no commit' "$work/err" || { cat "$work/err"; exit 1; }
	skip="build/linux has no commit that moves code"
elif ! move=$(grep " $to\$" <<< "$moves"); then
	echo "# build/linux has a move, but none to $to"
	exit 1
else
	git -c safe.directory='*' -C build/linux show "$(cut -d ' ' -f 2 <<< "$move"):$to" > "$work/moved.c"
fi
# nfc ARGUMENT...: leaves what it said in $work/x86-Os and x86-O2
nfc() {
	status=0
	scripts/nfc --move "$move" "$@" x86-Os x86-O2 > "$work/all" || status=$?
	cat "$work/all"
	grep '^x86-Os: ' "$work/all" > "$work/x86-Os"
	grep '^x86-O2: ' "$work/all" > "$work/x86-O2"
}
same() {
	nfc
	[ "$status" = 0 ] && [ "$(cat "$work"/x86-O? | grep -cE ': [1-9][0-9]+ functions and objects the same, 0 not$')" = 2 ]
}
differs() {
	nfc --with "$work/mutant.c"
	[ "$status" = 1 ]
}
# both NAME...: the names in both configurations
both() {
	local config
	for config in x86-Os x86-O2; do
		tee "$work/said" < "$work/$config"
		named "$@" || return
	done
}

# What it is, the line and what becomes of it, the names that have to be reported
mutants=(
	operator 'if (hugetlb_param_index >= HUGE_MAX_CMDLINE_ARGS)' 'if (hugetlb_param_index > HUGE_MAX_CMDLINE_ARGS)' hugetlb_add_param
	"dropped line" $'\th->free_huge_pages_node[nid]++;\n\tfolio_set_hugetlb_freed(folio);\n' $'\th->free_huge_pages_node[nid]++;\n'
		enqueue_hugetlb_folio
	"letter" '"HugeTLB: NULL demote order' '"HugeTLB: NULl demote order' demote_pool_huge_page
	"lost __init" 'static void __init report_hugepages(void)' 'static void report_hugepages(void)' report_hugepages
	"lost __initdata" 'static bool __initdata parsed_valid_hugepagesz = true;' 'static bool parsed_valid_hugepagesz = true;'
		parsed_valid_hugepagesz
	"lost alignment" '__cacheline_aligned_in_smp DEFINE_SPINLOCK(hugetlb_lock);' 'DEFINE_SPINLOCK(hugetlb_lock);' hugetlb_lock
	"lost static" 'static nodemask_t *policy_mbind_nodemask(gfp_t gfp)' 'nodemask_t *policy_mbind_nodemask(gfp_t gfp)'
		policy_mbind_nodemask
	"swapped arguments" 'alloc_gigantic_frozen_folio(order, gfp_mask, nid, nmask)'
		'alloc_gigantic_frozen_folio(nid, gfp_mask, order, nmask)' only_alloc_fresh_hugetlb_folio
	"swapped ?:" 'ret = isolated ? 0 : -EBUSY;' 'ret = isolated ? -EBUSY : 0;' alloc_and_dissolve_hugetlb_folio
	# Without it the function is unused, and gone
	"lost parameter" $'hugetlb_early_param("hugepagesz", hugepagesz_setup);\n' ''
		"__setup_hugepagesz_setupargs __setup_str_hugepagesz_setupargs hugepagesz_setup hugepagesz_setupargs"
)
# They are in functions of their own, so that one compilation finds them all
mutate() {
	cp "$work/moved.c" "$work/mutant.c"
	edit "$work/mutant.c" "${edits[@]}" && differs
}
no_numa() {
	{ echo '#undef CONFIG_NUMA'; cat "$work/moved.c"; } > "$work/mutant.c"
	differs
}
edits=() names=()
for ((i = 0; i < ${#mutants[@]}; i += 4)); do
	edits+=("${mutants[@]:i + 1:2}")
	read -ra more <<< "${mutants[i + 3]}"
	names+=("${more[@]}")
done

ok "build/linux: the move changes nothing" same
ok "build/linux: mutants of the moved file are a difference" mutate
for ((i = 0; i < ${#mutants[@]}; i += 4)); do
	read -ra more <<< "${mutants[i + 3]}"
	ok "build/linux: ${mutants[i]}: in ${more[-1]}" both + "${more[@]}"
done
ok "build/linux: and nothing else" both "${names[@]}"
ok "build/linux: CONFIG_NUMA undefined is a difference" no_numa
ok "build/linux: in the functions that it changes" both + policy_mbind_nodemask
ok "build/linux: nothing of the mutants stays" same
exit $failed
