#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Usage: tests/host/moves.sh
#
# scripts/cmove on two small files: what it moves and where to, what it refuses. TAP.
set -euo pipefail
case ${1:-} in '') ;; *) sed -n '/^# SPDX/d; 2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;; esac

here=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/tree

n=0 failed=0
result() { # STATUS NAME
	n=$((n + 1))
	if [ "$1" = 0 ]; then echo "ok $n - $2"; else
		failed=$((failed + 1))
		echo "not ok $n - $2"
		sed 's/^/# /' "$work/out"
	fi
}
# check NAME COMMAND...: that the command succeeds
check() {
	local name=$1 status=0
	shift
	"$@" >"$work/out" 2>&1 || status=1
	result $status "$name"
}
state() { (cd "$tree" && find . -printf '%p %m %i ' -type f -exec sha256sum {} \;); }
was=$work/was/mm
# list [LINE...]: a move list of these lines, whose runs begin with a tab
list() { printf '%s\n' 'move mm/a.c mm/b.c' "$@" >"$work/list"; }
run() { "$here/scripts/cmove" "$work/list" "$tree"; }
# refused NAME TEXT [COMMAND...]: that the mover refuses, says TEXT in its one line, and changes nothing
refused() {
	local name=$1 text=$2 status=0 before
	shift 2
	before=$(state)
	if "${@:-run}" >"$work/out" 2>&1; then
		status=1
	else
		[ "$(wc -l <"$work/out")" = 1 ] || status=1
		grep -qxF -e "cmove: $text" "$work/out" || { echo "not: $text" >>"$work/out"; status=1; }
		[ "$before" = "$(state)" ] || { echo "a file changed" >>"$work/out"; status=1; }
	fi
	result $status "$name"
}

files() {
	rm -rf "$tree"
	mkdir -p "$tree/mm"
	cat >"$tree/mm/a.c" <<'SRC'
// SPDX
#include <linux/mm.h>

int one __read_mostly;
static struct thing *two[3];

/* On top of three. */
static DEFINE_SPINLOCK(three);

#define retry(x) do { \
	if (x) \
		again(x); \
} while (0)

static int forward(int a, int (*call)(int));

/*
 * Adds one.

 * An empty line in a comment { ( #if
 */
static int add(int a,
	       int b)
{
	char c = '{';

	return a + b + "}("[c];
}
EXPORT_SYMBOL_GPL(add);


static int __init setup(char *s)
{
	if (s) {

		return 1;
	}

	return 0;
}
early_param("setup", setup);

#ifdef CONFIG_X
static void maybe(void)
{
#ifdef CONFIG_Y
	if (y) {
#else
	if (z) {
#endif
		x();

	}
}

struct local {
	int a;
};
#else
static void maybe(void) { }
#endif /* CONFIG_X */

struct pair {
	int a;

	int b;
} __packed pairs[2] = {
	{ 1, 2 },
};

SYSCALL_DEFINE2(call, int, a, int, b)
{
	return 0;
}

static void (*hook)(int);

int last(void)
{
	return 0;
}
SRC
	cat >"$tree/mm/b.c" <<'DST'
// SPDX
#include <linux/mm.h>

/* Two files' worth of code. */

/*
 * Pools
 *
 * of pages.
 */

/*
 * Rest
 */

/*
 * Twice
 */

static int own(void)
{
	return 0;
}

/*
 * Twice
 */

/*
 * Attached
 */
int attached;
DST
	chmod 600 "$tree/mm/a.c"
	chmod 755 "$tree/mm/b.c"
}

# ------------------------------------------------------------------------ moves
files
cp -r "$tree" "$work/was"
# good [LINE...]: that this list moves, and keeps the lines, the modes and the look
good() {
	files
	list "$@"
	run || return 1
	cmp <(sort "$work/was/mm/a.c" "$work/was/mm/b.c" | grep .) <(sort "$tree/mm/a.c" "$tree/mm/b.c" | grep .) || return 1
	[ "$(cd "$tree" && find . -type f -printf '%p %m\n' | sort | xargs)" = "./mm/a.c 600 ./mm/b.c 755" ] || return 1
	if grep -q '^$' <(tail -qn 1 "$tree/mm/a.c" "$tree/mm/b.c"); then echo "an empty line at the end"; return 1; fi
}
# has FILE TEXT: that the file has these lines in a row; hasnt FILE TEXT
has() { [[ $'\n'$(<"$tree/mm/$1")$'\n' == *$'\n'"$2"$'\n'* ]] || { cat "$tree/mm/$1"; return 1; }; }
hasnt() { ! grep -F -e "$2" "$tree/mm/$1"; }

check "a definition with the comment on top" good Rest $'\tthree'
check "  goes below its heading, between empty lines" has b.c $' * Rest\n */\n\n/* On top of three. */\nstatic DEFINE_SPINLOCK(three);\n\n/*\n * Twice'
check "  and leaves one empty line" has a.c $'static struct thing *two[3];\n\n#define retry(x) do { \\'
check "a long comment and EXPORT_SYMBOL" good Rest $'\tadd'
check "  go with their function" has b.c "$(sed -n '/^ \* Rest/,/^ \*\//p' "$was/b.c")"$'\n\n'"$(sed -n '/^\/\*$/,/^EXPORT/p' "$was/a.c")"
check "  of two empty lines one stays" has a.c $'static int forward(int a, int (*call)(int));\n\nstatic int __init setup(char *s)'
check "early_param" good Rest $'\tsetup'
check "  goes with its function" has b.c $'\treturn 0;\n}\nearly_param("setup", setup);'
check "an if group" good Rest $'\tmaybe .. local = 2'
check "  moves whole" has b.c "$(sed -n '/^#ifdef CONFIG_X/,/^#endif .*CONFIG_X/p' "$was/a.c")"
check "  and leaves nothing" hasnt a.c "#endif"
check "a block with several names" good Rest $'\ttwo = 2'
check "  moves together" has b.c $'\nint one __read_mostly;\nstatic struct thing *two[3];\n'
check "a macro with do and while" good Rest $'\tretry'
check "  moves whole" has b.c $'#define retry(x) do { \\\n\tif (x) \\\n\t\tagain(x); \\\n} while (0)\n'
check "a struct with its variables" good Rest $'\tpairs = 2'
check "a system call" good Rest $'\tcall'
check "a pointer to a function" good Rest $'\thook'
check "the end of the file" good Rest $'\tlast'
check "  where the source ends with what was before" test "$(tail -n 1 "$tree/mm/a.c")" = 'static void (*hook)(int);'
check "runs in another order, in two groups, comments" good '# x' Rest $'\tlast\t# the end' '' $'\thook' $'\tone .. three=3' Pools $'\t retry .. setup = 3 # x'
check "  arrive in the order of the list" has b.c $'\treturn 0;\n}\n\nstatic void (*hook)(int);\n\nint one __read_mostly;\nstatic struct thing *two[3];\n\n/* On top of three. */\nstatic DEFINE_SPINLOCK(three);\n\n/*\n * Twice'
check "  what has no name goes with its run" has b.c $'} while (0)\n\nstatic int forward(int a, int (*call)(int));\n\n/*\n * Adds one.'
check "  the other group at its place" has b.c $'early_param("setup", setup);\n\n/*\n * Rest\n */\n\nint last(void)'
printf 'From: x\nSubject: y\n\nmove no code\n---\n' >"$work/patch"
cat "$work/list" >>"$work/patch"
cp -r "$tree" "$work/moved"
patched() { files; "$here/scripts/cmove" "$work/patch" "$tree" && diff -r "$tree" "$work/moved"; }
check "the same from a patch file" patched
everything() { good Rest $'\tone .. last = 13' && [ "$(cat "$tree/mm/a.c")" = $'// SPDX\n#include <linux/mm.h>' ]; }
check "all but the includes" everything
fix() { # A fix of the base to a moved function
	files
	list Rest $'\tadd'
	sed -i 's/return a + b/return b + a/' "$tree/mm/a.c"
	run && hasnt a.c "b + a" && has b.c $'\treturn b + a + "}("[c];'
}
check "a later kernel's change of what moves moves along" fix

# --------------------------------------------------------------------- refusals
files
# no NAME TEXT [LINE...]: that this list is refused
no() {
	local name=$1 text=$2
	shift 2
	list "$@"
	refused "$name" "$text"
}
no "a name that nothing defines" "nobody is defined nowhere in mm/a.c" Rest $'\tnobody'
no "a declaration is no definition" "forward is defined nowhere in mm/a.c" Rest $'\tforward'
echo $'\nint add;' >>"$tree/mm/a.c"
no "a name in two blocks" "add is defined in 2 places of mm/a.c" Rest $'\tadd'
no "the last name in two blocks" "add is defined in 2 places of mm/a.c" Rest $'\tthree .. add = 3'
files
no "more definitions than the list says" "three .. add: 3 definitions in mm/a.c, the list says 2" Rest $'\tthree .. add = 2'
no "fewer" "three .. add: 3 definitions in mm/a.c, the list says 4" Rest $'\tthree .. add = 4'
no "a block with more than the one name" "two: 2 definitions in mm/a.c, the list says 1" Rest $'\ttwo'
no "part of an if group" "local: 2 definitions in mm/a.c, the list says 1" Rest $'\tlocal'
no "a run without its count" "three .. add: how many definitions is that? (= N)" Rest $'\tthree .. add'
no "a reversed run" "add .. three: in mm/a.c three comes first" Rest $'\tadd .. three = 3'
no "runs that overlap" "retry .. setup: retry is moved twice" Pools $'\tthree .. retry = 2' Rest $'\tretry .. setup = 3'
no "the same run again" "add: add is moved twice" Rest $'\tadd' $'\tadd'
no "a heading that is not there" "mm/b.c has no comments of their own that begin with 'Res', not one" Res $'\tadd'
no "a heading in two comments" "mm/b.c has 2 comments of their own that begin with 'Twice', not one" Twice $'\tadd'
no "a heading of a comment that belongs to code" "mm/b.c has no comments of their own that begin with 'Attached', not one" Attached $'\tadd'
no "a heading twice in the list" "'Rest' is a heading of the list twice" Rest $'\tadd' Rest $'\tlast'
no "a heading without runs" "'Rest' has no run below it" Rest Pools $'\tadd'
no "a run above the headings" "'add': not a run, FIRST [.. LAST] [= N], below a heading" $'\tadd' Rest
no "a line that is no run" "'add - last': not a run, FIRST [.. LAST] [= N], below a heading" Rest $'\tadd - last'
no "a count that is no number" "'add = two': not a run, FIRST [.. LAST] [= N], below a heading" Rest $'\tadd = two'
no "an empty list" "the move list is empty"
echo "from mm/a.c" >"$work/list"
refused "another first line" "'from mm/a.c': a move list begins with 'move FROM TO', two files below the tree"
echo "move mm/a.c ../b.c" >"$work/list"
refused "a file outside the tree" "'move mm/a.c ../b.c': a move list begins with 'move FROM TO', two files below the tree"
printf 'move mm/a.c mm/c.c\nRest\n\tadd\n' >"$work/list"
refused "a file that is not there" "$tree/mm/c.c: No such file or directory"
echo $'\nint last;' >>"$tree/mm/b.c"
no "a name that the destination has" "last is defined in mm/b.c too" Rest $'\tlast'
files
# unread NAME LINE WHAT TEXT: that a source with TEXT at its end is refused
unread() {
	files
	printf '\n%b\n' "$4" >>"$tree/mm/a.c"
	no "$1" "mm/a.c:$2: cannot read this: $3" Rest $'\tadd'
}
at=$(wc -l <"$tree/mm/a.c")
unread "a brace too many" $((at + 4)) "a } that nothing opened" 'int f(void)\n{ }\n}'
unread "a brace too few" $((at + 4)) "the file ends within {" 'int f(void)\n{'
unread "a bracket of another kind" $((at + 2)) "a ) that nothing opened" 'int f[3);'
unread "an if without an endif" $((at + 4)) "the file ends within #if" '#if X\nint f;'
unread "an endif without an if" $((at + 3)) "#endif without #if" 'int f;\n#endif'
unread "branches with other braces" $((at + 6)) "the branches of an #if leave other brackets open" 'int f(void)\n{\n#if X\n\tif (x) {\n#endif\n}\n#endif'
unread "a comment without end" $((at + 2)) "a comment or string without its end" '/* int f;'
unread "a string without end" $((at + 2)) "a comment or string without its end" 'char *f = "abc;'
unread "an empty line within a definition" $((at + 3)) "a definition goes on after an empty line" 'int f(void)\n\n{\n}'
files
printf 'int x;' >>"$tree/mm/a.c"
no "a last line without its end" "mm/a.c: no newline at its end" Rest $'\tadd'
files
sed -i 's/$/\r/' "$tree/mm/a.c"
no "carriage returns" "mm/a.c: has carriage returns" Rest $'\tadd'
files
echo 'int f[3);' >>"$tree/mm/b.c"
no "a destination that cannot be read" "mm/b.c:$(wc -l <"$tree/mm/b.c"): cannot read this: a ) that nothing opened" Rest $'\tadd'

# What cannot happen, made to: the mover must notice what a faulty rearrange() does.
files
list Rest $'\tadd' $'\tretry'
cat >"$work/faulty.py" <<'PYTHON'
import importlib.machinery
import importlib.util
import sys
sys.dont_write_bytecode = True
loader = importlib.machinery.SourceFileLoader("cmove", sys.argv[1])
cmove = importlib.util.module_from_spec(importlib.util.spec_from_loader("cmove", loader))
loader.exec_module(cmove)
right, fault = cmove.rearrange, sys.argv[4]


def rearrange(*args):
    source, dest = right(*args)
    return eval(fault)


cmove.rearrange = rearrange
sys.argv = ["cmove", *sys.argv[2:4]]
cmove.main()
PYTHON
faulty() { python3 "$work/faulty.py" "$here/scripts/cmove" "$work/list" "$tree" "$@"; }
other="internal error: the result is not the same lines in another order"
whole() { faulty '(source, dest)' && [ "$(grep -c again "$tree/mm/b.c")" = 1 ]; }
check "the harness of the next ones" whole
files
refused "a line lost from the source" "$other" faulty '(source.replace("static void (*hook)(int);\n", ""), dest)'
refused "a line made" "$other" faulty '(source + "int f;\n", dest)'
refused "a line of the destination elsewhere" "$other" faulty '(source, dest.replace("\tint attached;\n", "").replace(" * Pools\n", "") + " * Pools\n")'
refused "a moved block that is not whole" "internal error: add did not arrive whole" faulty '(source, dest.replace("\treturn a + b", "\n\treturn a + b"))'
refused "a moved block that is still in the source" "$other" faulty '(source + "EXPORT_SYMBOL_GPL(add);\n", dest)'
refused "blocks that run into each other" "internal error: mm/a.c would not read back as the same definitions" \
	faulty '(source.replace("early_param(\"setup\", setup);\n\n", "early_param(\"setup\", setup);\n"), dest)'
refused "a block that is cut in two" "internal error: mm/a.c would not read back as the same definitions" \
	faulty '(source.replace("static struct thing", "\nstatic struct thing"), dest)'
halfway() { # The second file cannot be replaced
	cat >"$work/halfway.py" <<'PYTHON'
import os
right = os.replace
os.replace = lambda a, b: right(a, b) if "b.c" not in str(b) else (_ for _ in ()).throw(OSError(28, "No space left on device", str(b)))
PYTHON
	python3 -c 'import sys; exec(open(sys.argv.pop(1)).read()); sys.argv.pop(0); exec(compile(open(sys.argv[0]).read(), "cmove", "exec"))' \
		"$work/halfway.py" "$here/scripts/cmove" "$work/list" "$tree"
}
content() { (cd "$tree" && find . -type f -printf '%p %m ' -exec sha256sum {} \;); }
both_or_neither() {
	local before
	before=$(content)
	if halfway; then return 1; fi
	content | diff - <(echo "$before")
}
check "a disk that fills up between the two files" both_or_neither

echo "1..$n"
[ "$failed" = 0 ]
