#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Usage: tests/host/series.sh
#
# scripts/series on a small made-up kernel: round trip, refusals, git am. Then,
# if build/linux exists, the round trip and git am of the series itself. TAP.
set -euo pipefail
case ${1:-} in '') ;; *) sed -n '/^# SPDX/d; 2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;; esac

here=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# What a user's configuration may say must not show.
cat >"$work/.gitconfig" <<-'CONF'
	[user]
		name = Test
		email = test@localhost
	[diff]
		noprefix = true
		algorithm = patience
		context = 7
		renames = copies
	[core]
		abbrev = 9
	[format]
		subjectPrefix = OTHER
	[init]
		defaultBranch = other
CONF
export HOME=$work NO_SPACE_CHECK=1 XDG_CACHE_HOME=$work/cache
unset LINUX FORCE XDG_CONFIG_HOME GIT_CONFIG_GLOBAL GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE

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
# refused NAME TEXT COMMAND...: that it fails, says TEXT in one line, and changes nothing in the repository
refused() {
	local name=$1 text=$2 status=0 before
	shift 2
	before=$(state)
	if "$@" >"$work/out" 2>&1; then
		status=1
	else
		grep -qF -e "$text" "$work/out" || status=1
		[ "$(grep -vc '^==>' "$work/out")" = 1 ] || status=1
		[ "$before" = "$(state)" ] || { echo "the repository changed" >>"$work/out"; status=1; }
	fi
	result $status "$name"
}

# ------------------------------------------------------- a kernel of ten files
base=$work/linux
mkdir -p "$base"/{mm,virt/kvm,include/linux,kernel,scripts}
printf 'VERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = 9\n' >"$base/Makefile"
printf '/*\n*.o\n' >"$base/.gitignore"
printf '*.c diff=cpp\n' >"$base/.gitattributes"
for f in mm/a.c mm/b.c kernel/fork.c include/linux/a.h; do
	{ printf 'int %s(void)\n{\n' "$(basename "$f" | tr . _)"; seq -f '	line(%g);' 1 20; printf 'out:\n'; seq -f '	line(%g);' 21 40; echo '}'; } >"$base/$f"
done
echo 'obj-y += a.o' >"$base/mm/Makefile"
printf '#!/bin/sh\n' >"$base/scripts/tool.sh"
chmod +x "$base/scripts/tool.sh"
printf 'Intro\n\nMaintainers List\n----------------\n\n.. note:: be\n          alphabetical.\n\n3C\nS:\tOdd\n\nKERNEL\nS:\tFine\n\nZ\nS:\tFine\n\nTHE REST\nF:\t*\n' >"$base/MAINTAINERS"
export LINUX=$base

repo=$work/repo
mkdir -p "$repo/patches"
cp -r "$here/scripts" "$here/linux-base" "$repo"
git -C "$repo" init -q
echo /build/ >"$repo/.gitignore"
linux=$repo/build/linux
series() { "$repo/scripts/series" "$@"; }
g() { git -C "$linux" "$@"; }
state() { (cd "$repo" && find . -path ./build -prune -o -path ./.git -prune -o -type f -printf '%p %m ' -exec sha256sum {} \; | sort); }
# head_tree: what a round trip keeps
head_tree() { g rev-parse 'guest_memfd^{tree}' && g log --format='%an %ae %ad%n%B' guest_memfd; }
# edit FILE LINE TEXT
edit() { sed -i "$2s/.*/$3/" "$linux/$1"; }
# commit SUBJECT [FILE...]: with these files added
commit() {
	local subject=$1
	shift
	[ $# = 0 ] || g add -f "$@"
	g commit -q -a -m "$subject" -m "Because." -m "Signed-off-by: Test <test@localhost>" --date "${date:-2026-02-03T04:05:06+0130}"
}
# fold: autosquash the last commit
fold() { GIT_SEQUENCE_EDITOR=: g rebase -q -i --autosquash base; }

# The round trip of what build/linux has: refresh, a new tree from it alone, refresh again, each changes nothing.
round_trip() {
	local want before
	want=$(head_tree)
	series refresh || return 1
	before=$(state)
	[ "$(head_tree)" = "$want" ] || { echo "refresh changed the tree"; return 1; }
	rm -rf "$linux"
	series tree || return 1
	[ "$(head_tree)" = "$want" ] || { echo "another tree"; return 1; }
	if ! series refresh || [ "$(state)" != "$before" ]; then echo "refresh after tree changed a byte"; return 1; fi
	if ! series refresh --rewrite || [ "$(state)" != "$before" ]; then echo "refresh --rewrite after tree changed a byte"; return 1; fi
}

check "a tree of no patches" series tree
edit mm/a.c 5 '	first(5);'
edit mm/a.c 35 '	first(35);'
commit "mm/a: First, with a subject that is longer than sixty-four characters, to be cut"
edit mm/Makefile 1 'obj-y += a.o x.o'
printf '/* SPDX */\nint x;\n' >"$linux/virt/kvm/x.c"
printf '#!/bin/sh\n' >"$linux/virt/kvm/x.sh"
chmod +x "$linux/virt/kvm/x.sh"
sed -i 's/^KERNEL$/GUEST MEMORY\nM:\tTest\n\nKERNEL/' "$linux/MAINTAINERS"
commit "virt/x: Söme new files" virt/kvm/x.c virt/kvm/x.sh
edit mm/b.c 10 '	third(10);'
date='1999-12-31T23:59:59-0800' commit "mm/b: Third"
check "round trip" round_trip
same() { [ "$(cat "$1")" = "$2" ]; }
check "a new file is at its place, with its mode" test -x "$repo/virt/kvm/x.sh" -a -f "$repo/virt/kvm/x.c"
check "MAINTAINERS has the new entry only" same "$repo/MAINTAINERS" $'GUEST MEMORY\nM:\tTest'
check "the patch names its new files" test "$(grep -c '^New-file: ' "$repo"/patches/0002-*)" = 3
check "the commits do not" test -z "$(g log --format=%B | grep New-file)"
head=$(g rev-parse guest_memfd)
ids() { rm -rf "$linux" && series tree && [ "$(g rev-parse guest_memfd)" = "$head" ]; }
check "commit ids are reproducible" ids

edit mm/a.c 36 '	amended(36);'
commit "fixup! mm/a: First, with a subject that is longer than sixty-four characters, to be cut"
fold
check "round trip after an amended commit" round_trip
# The new file's commit is swapped with the third
GIT_SEQUENCE_EDITOR="sed -i -e '2{h;d}' -e '3G'" g rebase -q -i base
check "round trip after commits were reordered" round_trip
names() {
	(cd "$repo/patches" && printf '%s\n' *) | tee /dev/stderr |
		cmp - <(printf '%s\n' "$1" 0002-mm-b-Third.patch 0003-virt-x-S-me-new-files.patch)
}
check "the patch files are named as git format-patch does, stale ones are gone" \
	names "$(g format-patch -o "$work/mails" -1 guest_memfd~2 | xargs basename)"
edit kernel/fork.c 7 '	fork(7);'
chmod -x "$linux/scripts/tool.sh"
commit "kernel/fork: A file that was not tracked" kernel/fork.c scripts/tool.sh
check "round trip after an added commit" round_trip
check "a base file that a commit adds is an edit of it" test \
	"$(sed '1,/^---$/d' "$repo"/patches/0004-* | grep -Ec '^([-+]|old mode)')" = 5
printf 'int y;\n' >"$linux/virt/kvm/x.c"
commit "fixup! virt/x: Söme new files"
fold
check "round trip after a new file was amended" round_trip

# ------------------------------------------------------------------ updating
untouched() {
	local f
	touch -d 2026-01-01 "$linux"/mm/*.c "$linux/kernel/fork.c"
	g update-index -q --refresh
	sed -i 's/int y;/int z;/' "$repo/virt/kvm/x.c"
	series tree
	grep -q 'int z;' "$linux/virt/kvm/x.c" || return 1
	for f in mm/a.c mm/b.c kernel/fork.c; do
		[ "$(date -r "$linux/$f" +%F)" = 2026-01-01 ] || { echo "$f was written anew"; return 1; }
	done
}
check "an edit in the repository reaches build/linux, which is otherwise untouched" untouched
fewer() {
	mv "$repo"/patches/0004-* "$work/0004.patch"
	series tree && cmp "$base/kernel/fork.c" "$linux/kernel/fork.c" && [ -z "$(g status --short)" ] &&
		[ "$(g rev-list --count base..guest_memfd)" = 3 ] || return 1
	cp "$work/0004.patch" "$repo/patches/0004-kernel-fork-A-file-that-was-not-tracked.patch"
	series tree && grep -q 'fork(7)' "$linux/kernel/fork.c"
}
check "a patch taken away and given back" fewer

by_hand() {
	sed -i 's/^--- a/index 123..456 100644\n&/; s/^---$/&\n mm: a remark\n/' "$repo"/patches/0001-*
	local before
	before=$(state)
	series tree && series refresh && [ "$(state)" = "$before" ]
}
check "a patch that was not written by refresh stays as it is" by_hand

# ------------------------------------------------------------------ refusals
reset() { g checkout -q -f guest_memfd; g reset -q --hard "$good"; }
good=$(g rev-parse guest_memfd)
echo 'int later;' >>"$linux/virt/kvm/x.c"
refused "uncommitted edits" "virt/kvm/x.c" series refresh
commit "virt/x: Touch it again"
check "a new file that two commits touch" series refresh
twice=$(g rev-parse guest_memfd)
check "is whole here" grep -qx 'int later;' "$repo/virt/kvm/x.c"
edit=$(grep -l '^Subject: .*Touch it again' "$repo"/patches/*)
check "and a diff in the patch" grep -qx '+int later;' "$edit"
check "the tree has both commits" series tree
check "as they were" test "$(g rev-parse guest_memfd)" = "$twice"
check "the first without the second's edit" eval '! g show guest_memfd~:virt/kvm/x.c | grep later'
sed -i 's/^+int later;/+int sooner;/' "$edit"
refused "a diff that the copy does not have" "does not fit the repository's copy of virt/kvm/x.c" series tree
sed -i 's/^+int sooner;/+int later;/' "$edit"
reset
check "a commit taken away" series refresh
echo 'int later;' >>"$linux/virt/kvm/x.c"
commit "virt/x: Touch it again"
echo "int z, w;" >"$repo/virt/kvm/x.c"
refused "make tree over commits that patches/ lacks" "run make refresh" series tree
refused "distclean over commits that patches/ lacks" "run make refresh" series saved
echo "int z;" >"$repo/virt/kvm/x.c"
reset
g mv mm/b.c mm/c.c
commit "mm: Rename"
refused "a base file renamed" "mm/b.c" series refresh
reset
g rm -q mm/b.c
commit "mm: Remove"
refused "a base file removed" "mm/b.c" series refresh
reset
printf 'a\0b' >"$linux/mm/bin.h"
commit "mm: Binary" mm/bin.h
refused "a binary file" "mm/bin.h is a binary file" series refresh
reset
printf 'a\0b' >"$linux/mm/b.c"
commit "mm: Binary"
refused "a file that becomes binary" "mm/b.c is a binary file" series refresh
reset
sed -i 's/^Z$/Z2/' "$linux/MAINTAINERS"
commit "MAINTAINERS: Edit an entry"
refused "a second commit to MAINTAINERS" "MAINTAINERS is touched by two commits" series refresh
reset
g rebase -q --onto base "$good~1"
sed -i 's/^Z$/Z2/' "$linux/MAINTAINERS"
commit "MAINTAINERS: Edit an entry"
refused "an edit of the kernel's MAINTAINERS entries" "MAINTAINERS: only whole new entries" series refresh
reset
echo "int forgotten;" >"$linux/mm/forgotten.c"
refused "a new file that was not added" "mm/forgotten.c" series refresh
rm "$linux/mm/forgotten.c"
echo "/* forgotten */" >>"$linux/scripts/../include/linux/a.h"
refused "an edit that was not committed" "include/linux/a.h" series refresh
reset
echo "int far;" >"$linux/kernel/far.c"
commit "kernel: Far" kernel/far.c
refused "a new file outside the repository's directories" "kernel/far.c" series refresh
reset
mkdir "$repo/mm"
echo "int u;" >"$repo/mm/unclaimed.c"
refused "a kernel file that no patch claims" "mm/unclaimed.c is claimed by no patch" series tree
check "which refresh leaves alone" series refresh
check "and does not remove" test -f "$repo/mm/unclaimed.c"
rm "$repo/mm/unclaimed.c"
mv "$repo/virt/kvm/x.sh" "$work"
refused "a named file that is not there" "virt/kvm/x.sh" series tree
mv "$work/x.sh" "$repo/virt/kvm/x.sh"
check "a kernel tree as it was" series tree
p=$(cd "$repo" && echo patches/0002-*)
cp "$repo/$p" "$work/kept"
sed -i 's/line(10)/line(11)/' "$repo/$p"
refused "a patch that does not apply" "$p does not apply to Linux 7.3.9 (patch failed: mm/b.c:7); the series is for 7.3.y" series tree
check "after which build/linux is as it was" test "$(g rev-parse guest_memfd)" = "$good"
cp "$work/kept" "$repo/$p"
edit mm/a.c 8 '	both(8);'
commit "mm/a: In build/linux"
sed -i 's/Because/Why/' "$repo/$p"
refused "patches/ and build/linux both changed" "$p changed in the repository" series refresh
cp "$work/kept" "$repo/$p"
reset
forced() {
	edit mm/a.c 8 '	lost(8);'
	commit "mm/a: Lost"
	sed -i 's/Because/Why/' "$repo/$p"
	FORCE=1 series tree && [ "$(g rev-list --count base..guest_memfd)" = 4 ] && ! grep -q lost "$linux/mm/a.c" || return 1
	cp "$work/kept" "$repo/$p"
	series tree
}
check "FORCE=1 discards what patches/ lacks" forced

sed -i 's/PATCHLEVEL = 3/PATCHLEVEL = 4/' "$base/Makefile"
refused "another kernel version" "is Linux 7.4.9; the series is for 7.3.y" series tree
sed -i 's/PATCHLEVEL = 4/PATCHLEVEL = 3/' "$base/Makefile"
tarball() {
	tar -C "$work" -cJf "$work/linux-7.3.9.tar.xz" linux
	LINUX=$work/linux-7.3.9.tar.xz series tree && [ "$(g rev-parse guest_memfd)" = "$good" ]
}
check "the same from a tarball" tarball
check "and back from a tree" series tree

# --------------------------------------------------------------------- git am
refused "make series without a cover letter" "patches/cover-letter.txt is missing" series mail
printf 'mm: A series\n\nWhat it is for.\n' >"$repo/patches/cover-letter.txt"
g config diff.noprefix true
check "make series" series mail
check "its cover letter" grep -q '^Subject: \[PATCH 0/4\] mm: A series$' "$repo/build/series/0000-cover-letter.patch"
check "git am gives the tree" series verify
sed -i 's/third(10)/fourth(10)/' "$repo"/build/series/0002-*
refused "git am of other patches does not" "gives another tree than build/linux: mm/b.c" series verify

# What stays here: no mail has it
mkdir -p "$linux/tools/kvm/gmem_vmm"
echo "int demo;" >"$linux/tools/kvm/gmem_vmm/a.c"
commit "tools/kvm: A demo" tools/kvm/gmem_vmm/a.c
edit mm/a.c 8 '	after(8);'
commit "mm/a: After the demo"
left_out() { series mail 2>&1 | grep -F "5 patches and a cover letter; 1 commit of tools/kvm/gmem_vmm/ left out"; }
check "make series with a demo leaves it out" left_out
check "of every patch" test -z "$(grep -rl gmem_vmm "$repo/build/series")" -a -e "$repo/build/series/0005-mm-a-After-the-demo.patch"
check "git am gives the tree without it" series verify
check "no branch is left behind" same <(g branch --format='%(refname:short)') guest_memfd
check "refresh with the demo" series refresh
check "the repository has it" same "$repo/tools/kvm/gmem_vmm/a.c" "int demo;"
edit mm/b.c 5 '	mixed(5);'
echo "int mixed;" >"$linux/tools/kvm/gmem_vmm/b.c"
commit "mm/b: With the demo" tools/kvm/gmem_vmm/b.c
refused "make series with a commit of both kinds" "tools/kvm/gmem_vmm/b.c is not mailed, mm/b.c is" series mail
reset
check "the series without the demo" series refresh

# ----------------------------------------------------------- a patch that moves
# functions NAME...: of six lines each
functions() {
	local sep=
	for f in "$@"; do
		printf '%sint %s(int x)\n{\n\tx += 1;\n\n\treturn %s_too(x) + %s_more(x);\n}\n' "$sep" "$f" "$f" "$f"
		sep=$'\n'
	done
}
functions one two three four five >"$base/mm/pool.c"
unset date
rm -rf "$repo"/patches/[0-9]* "$repo/virt" "$repo/MAINTAINERS" "$linux"
check "another tree of no patches" series tree
edit mm/pool.c 10 '	x += 10;'
commit "mm/pool: An edit of what moves"
skeleton=$'// SPDX\n\n/*\n * Moved\n */'
echo "$skeleton" >"$linux/mm/new.c"
edit mm/Makefile 1 'obj-y += a.o new.o'
commit "mm/new: A skeleton" mm/new.c
check "refresh of the skeleton" series refresh
list=$'# What leaves pool.c\nmove mm/pool.c mm/new.c\n\nMoved\n\tfour\n\ttwo .. three = 2\t# behind it'
printf 'From: T <t@localhost>\nDate: Tue, 03 Feb 2026 04:05:06 +0130\nSubject: mm/pool: move two\n\nmove it now\n---\n%s\n' "$list" \
	>"$repo/patches/0003-mm-pool-move-two.patch"
check "make tree with a move" series tree
moved() { # in the order of the list
	diff "$linux/mm/new.c" <(echo "$skeleton"; echo; functions four two three | sed '10s/1/10/') &&
		diff "$linux/mm/pool.c" <(functions one five)
}
check "what moves is what an earlier patch made of it" moved
check "scripts/series moves" same <(series moves) "$(g rev-parse guest_memfd~1 guest_memfd | xargs) mm/pool.c mm/new.c"
edit mm/new.c 9 '	x += 100;'
edit mm/pool.c 3 '	x += 1000;'
commit "mm/new: Edit what was moved"
check "round trip with a move and a later edit of its files" round_trip
check "the repository has the skeleton" same "$repo/mm/new.c" "$skeleton"
check "and the list as it was" same <(sed '1,/^---$/d' "$repo"/patches/0003-*) "$list"
head=$(g rev-parse guest_memfd)
check "commit ids are reproducible with a move" ids
check "make series with a move" series mail
check "as an ordinary diff" grep -q '^-int two(int x)$' "$repo"/build/series/0003-*
check "git am of which gives the tree" series verify
fixed() {
	sed -i 's/three_more(x)/three_fixed(x)/' "$base/mm/pool.c"
	touch -d 2026-01-01 "$base/Makefile"
	series tree || return 1
	grep -q 'three_fixed(x)' "$linux/mm/new.c" && grep -q 'x += 100;' "$linux/mm/new.c" || return 1
	if grep three "$linux/mm/pool.c"; then return 1; fi
	sed -i 's/three_fixed(x)/three_more(x)/' "$base/mm/pool.c"
	touch -d 2026-01-02 "$base/Makefile"
	series tree && [ "$(g rev-parse guest_memfd)" = "$head" ]
}
check "a later base's fix of what moves goes to the new file" fixed
drift() {
	sed -i 's/^int three(/int added(int x)\n{\n}\n\n&/' "$base/mm/pool.c"
	touch -d 2026-01-03 "$base/Makefile"
}
undrift() {
	sed -i '/^int added/,/^$/d' "$base/mm/pool.c"
	touch -d 2026-01-04 "$base/Makefile"
}
drift
refused "a later base with one more function in a run" \
	"patches/0003-mm-pool-move-two.patch: two .. three: 3 definitions in mm/pool.c, the list says 2; this is Linux 7.3.9, the series is for" \
	series tree
undrift
check "and without it again" series tree
check "as it was" test "$(g rev-parse guest_memfd)" = "$head"

# scripts/check on it: lines of the move are upstream's, others are ours
cat >"$work/check.py" <<'PYTHON'
import importlib.machinery
import importlib.util
import sys
from pathlib import Path
sys.dont_write_bytecode = True
loader = importlib.machinery.SourceFileLoader("check", sys.argv[1])
check = importlib.util.module_from_spec(importlib.util.spec_from_loader("check", loader))
loader.exec_module(check)
ours = sorted(line for path, line in check.added_lines() if path == "mm/new.c")
assert ours == [1, 2, 3, 4, 5, 9, 16], ours
patch = next(Path(sys.argv[2]).glob("0003-*"))
lines = patch.read_text().splitlines()
moved = f"{lines.index('+int two(int x)') + 1}: WARNING:X: upstream's"
others = [f"{lines.index('-int two(int x)') + 1}: WARNING:X: removed", "3: WARNING:X: message", "9999: WARNING:X: y"]
assert check.upstream(patch, [moved, *others]) == [moved]
base = [("mm/pool.c", 5, "known"), ("mm/pool.c", 3, "of a line that we edit")]
series = [("mm/new.c", 8, "known"), ("mm/new.c", 9, "of a line that we edit"), ("mm/new.c", 10, "known"), ("mm/new.c", 8, "new")]
check.sources = lambda: ["mm/new.o"]
check.compile_warnings = lambda commit, objects: base if commit == "base" else series
assert check.compiled() == 3
PYTHON
check "scripts/check tells moved lines from ours" python3 "$work/check.py" "$repo/scripts/check" "$repo/build/series"

# amended N COMMAND...: in a rebase, at the Nth commit
amended() { GIT_SEQUENCE_EDITOR="sed -i $1s/pick/edit/" g rebase -q -i base && "${@:2}" && g commit -q -a --amend --no-edit; }
continued() { GIT_EDITOR=: g rebase --continue; }
whole() { round_trip && [ "$(series moves | wc -l)" = 1 ] && [ "$(g rev-list --count base..guest_memfd)" = 4 ]; }
outside() { amended 1 edit mm/pool.c 31 '	x += 5;' && continued && whole; }
check "a commit before the move amended, outside of what moves" outside
within() {
	amended 1 edit mm/pool.c 17 '	x += 3;' || return 1
	if continued; then echo "no conflict"; return 1; fi
	series move && continued && grep -q 'x += 3;' "$linux/mm/new.c" && grep -q 'x += 100;' "$linux/mm/new.c" && whole
}
check "a commit before the move amended in what moves, scripts/series move at the conflict" within
reworded() { amended 3 g commit -q --amend -m "mm/pool: move more" -m "Why." && continued && whole && [ -e "$repo/patches/0003-mm-pool-move-more.patch" ]; }
check "the message of the move changed" reworded
list_edited() {
	sed -i 's/^\ttwo \.\. three = 2/\tthree\n\ttwo/' "$repo"/patches/0003-*
	series tree && diff <(grep -o '^int [a-z]*' "$linux/mm/new.c" | xargs) <(echo int four int three int two) && whole
}
check "an edit of the list reaches build/linux" list_edited

good=$(g rev-parse guest_memfd)
stopped() { # at the commit behind the move
	amended 1 edit mm/pool.c 3 '	x += 7;' || return 1
	! continued && [ -e "$linux/.git/rebase-merge" ]
}
check "a rebase that stops behind the move" stopped
refused "scripts/series move there" '("mm/new: Edit what was moved"), which is no move of patches/' series move
g rebase --abort
reset
tampered() { sed -i 's/four_too/four_other/' "$linux/mm/new.c"; }
amended 3 tampered >"$work/out" 2>&1 || true
continued >"$work/out" 2>&1 || true
refused "scripts/series move behind the move" "four is defined nowhere in mm/pool.c, as of HEAD of build/linux" series move
refused "a move with an edit" '("mm/pool: move more") is not what its move list gives: redo it with scripts/series move' series refresh
redone() { amended 3 series move && continued && series refresh && [ "$(g rev-parse 'guest_memfd^{tree}')" = "$(g rev-parse "$good^{tree}")" ]; }
check "which scripts/series move redoes" redone
good=$(g rev-parse guest_memfd)
besides() { edit mm/a.c 3 '	besides(3);'; }
amended 3 besides >"$work/out" 2>&1 || true
continued >"$work/out" 2>&1 || true
refused "a move with an edit of another file" "is not what its move list gives" series refresh
reset
amended 3 tampered >"$work/out" 2>&1 || true
g commit -q --amend -m "mm/pool: Another subject" || true
continued >"$work/out" 2>&1 || true
refused "a move with an edit and another subject" "mm/new.c is touched by two commits" series refresh
reset
before_the_move() {
	amended 2 g commit -q --amend --no-edit && sed -i 's/SPDX/SPDX 2/' "$linux/mm/new.c" &&
		g commit -q -a -m "mm/new: Edit the skeleton" -m "Because." && continued
}
check "a skeleton edited by a commit of its own before the move" before_the_move
refused "which refresh refuses" "mm/new.c is touched by two commits" series refresh
folded() { fold_skeleton && whole && same "$repo/mm/new.c" "${skeleton/SPDX/SPDX 2}"; }
fold_skeleton() { GIT_SEQUENCE_EDITOR="sed -i 3s/pick/fixup/" g rebase -q -i base; }
check "and takes folded" folded
good=$(g rev-parse guest_memfd)
printf 'From: T <t@localhost>\nDate: Tue, 03 Feb 2026 04:05:06 +0130\nSubject: x\n\n---\n%s\n' \
	$'diff --git a/mm/new.c b/mm/new.c\n--- a/mm/new.c\n+++ b/mm/new.c\n@@ -1 +1 @@\n-// SPDX 2\n+// SPDX 3' >"$repo/patches/0002-z.patch"
refused "a patch that edits the skeleton before the move" "patches/0002-z.patch edits mm/new.c, which 0002-mm-new-A-skeleton.patch brings" series tree
rm "$repo/patches/0002-z.patch"
p=$(cd "$repo" && echo patches/0003-*)
cp "$repo/$p" "$work/kept"
# broken NAME TEXT SED: that make tree refuses the move patch when sed made this of it
broken() {
	sed -i "$3" "$repo/$p"
	refused "$1" "$p: $2" series tree
	cp "$work/kept" "$repo/$p"
}
broken "a list with a name that nothing defines" "fuor is defined nowhere in mm/pool.c; this is Linux 7.3.9, the series is for" 's/^\tfour/\tfuor/'
broken "a list with a malformed line" "'four -': not a run" 's/^\tfour/\tfour -/'
broken "a list and a diff" "a move list beside a diff" '/^Moved/idiff --git a/mm/a.c b/mm/a.c'
broken "a list and a new file" "a move list beside New-file" 's/^---$/New-file: mm\/new.c\n---/'
broken "a move to a file that no patch brings" "move mm/pool.c mm/a.c: the first is to be a file of the kernel, the second a new file" \
	's/^move.*/move mm\/pool.c mm\/a.c/'
broken "a move from a file that is not there" "there is no mm/pond.c" 's/^move.*/move mm\/pond.c mm\/new.c/'
check "the move as it was" series tree
check "gives what it gave" test "$(g rev-parse guest_memfd)" = "$good"
rm "$repo/$p"
refused "no list for a move" "changed in the repository since build/linux was made" series refresh
refused "scripts/series moves without a list" "no commit of build/linux is a move" series moves
refused "scripts/series move without a list" "patches/ has no move list" series move
cp "$work/kept" "$repo/$p"

# ---------------------------------------------------- the series of this repository
cat >"$work/fix.py" <<'PYTHON'
import importlib.machinery
import importlib.util
import subprocess
import sys
from pathlib import Path
sys.dont_write_bytecode = True
repo = Path(sys.argv[1])
loader = importlib.machinery.SourceFileLoader("cmove", str(repo / "scripts/cmove"))
cmove = importlib.util.module_from_spec(importlib.util.spec_from_loader("cmove", loader))
loader.exec_module(cmove)
lists = {cmove.parse(text)[:2]: text for path in repo.glob("patches/0*.patch")
         if "\nmove " in (text := path.read_text().partition("\n---\n")[2])[:1000] or text.startswith("move ")}
for line in open(sys.argv[2]):
    parent, commit, source, dest = line.split()
    show = lambda name: subprocess.run(["git", "show", name], cwd=repo / "build/linux", check=True, capture_output=True, text=True).stdout
    before, skeleton, after = show(f"{parent}:{source}"), show(f"{parent}:{dest}"), show(f"{commit}:{dest}")
    moved = [line for line in after.split("\n") if line.startswith("\t") and line.endswith(";") and before.count(f"\n{line}\n") == 1]
    for line in moved[::len(moved) // 10 or 1]:
        left, got = cmove.move(lists[source, dest], before.replace(f"\n{line}\n", f"\n{line}\n\tfix_of_7_3_y();\n"), skeleton)
        assert f"{line}\n\tfix_of_7_3_y();\n" in got and "fix_of_7_3_y" not in left, line
    assert moved
PYTHON
real=$here/build/linux
if [ -e "$real/.git/series/stamp.json" ]; then
	unset LINUX
	rm -rf "$repo"
	mkdir -p "$repo/build"
	cp -r "$here/scripts" "$here/linux-base" "$here/patches" "$repo" 2>/dev/null || mkdir -p "$repo/patches"
	git -C "$repo" init -q
	for d in Documentation arch include lib mm tools virt MAINTAINERS; do [ ! -e "$here/$d" ] || cp -r "$here/$d" "$repo"; done
	# Its git tree, with the tracked files only
	git -c safe.directory='*' clone -q -n "$real" "$linux"
	cp -r "$real/.git/series" "$linux/.git"
	cp "$real/.git/info/attributes" "$real/.git/info/exclude" "$linux/.git/info/"
	g tag -f base "$(git -C "$real" rev-parse base)" >/dev/null 2>&1
	g checkout -q -f -B guest_memfd "$(git -C "$real" rev-parse guest_memfd)"
	cp "$real/Makefile" "$linux/"
	touch "$linux/.git/series/stamp.json"
	LINUX=$(python3 -c 'import json, sys; r = json.load(open(sys.argv[1]))["request"]; print(r.split()[0] if r[0] == "/" else "")' \
		"$real/.git/series/stamp.json")
	if [ -n "$LINUX" ]; then export LINUX; else unset LINUX; fi
	before=$(state)
	exact() { series refresh "$@" && [ "$(state)" = "$before" ]; }
	if [ "$(g rev-list --count base..guest_memfd)" = 0 ]; then
		n=$((n + 1)); echo "ok $n - the series # SKIP build/linux has no commits"
	elif [ "$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["head"])' "$real/.git/series/stamp.json")" != "$(g rev-parse guest_memfd)" ]; then
		n=$((n + 1)); echo "ok $n - the series # SKIP build/linux has commits that patches/ lacks"
	else
		check "the series: refresh changes no byte" exact
		check "the series: nor when it writes each patch anew" exact --rewrite
		[ -e "$repo/patches/cover-letter.txt" ] || printf 'x\n\nx\n' >"$repo/patches/cover-letter.txt"
		check "the series: make series" series mail
		check "the series: git am gives its tree" series verify
		if series moves >"$work/moves" 2>"$work/out"; then
			check "the series: a fix of what moves goes with it" python3 "$work/fix.py" "$repo" "$work/moves"
		fi
	fi
else
	n=$((n + 1)); echo "ok $n - the series # SKIP there is no build/linux"
fi
echo "1..$n"
[ "$failed" = 0 ]
