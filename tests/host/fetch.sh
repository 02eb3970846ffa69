#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Usage: tests/host/fetch.sh
#
# scripts/fetch-linux with a small package, and an apt that a script plays: what
# a damaged, cut off or missing download and an archive without the version do. TAP.
set -euo pipefail
case ${1:-} in '') ;; *) sed -n '/^# SPDX/d; 2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;; esac

here=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export XDG_CACHE_HOME=$work/cache NO_SPACE_CHECK=1 fixtures=$work/fixtures
unset LINUX
mkdir -p "$work"/{bin,fixtures,repo}
cp -r "$here/scripts" "$work/repo"
fetch=$work/repo/scripts/fetch-linux
cached=$work/cache/gmem-1g/downloads

# package VERSION: a linux-source package of that version
package() {
	local version=$1 dir=$work/deb
	rm -rf "$dir"
	mkdir -p "$dir"/{DEBIAN,usr/src} "$work/linux-source-7.3/mm"
	printf 'VERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = %s\n' "${version#7.3.}" >"$work/linux-source-7.3/Makefile"
	echo "int a;" >"$work/linux-source-7.3/mm/a.c"
	head -c 300000 /dev/urandom >"$work/linux-source-7.3/mm/big"
	tar -C "$work" -cJf "$dir/usr/src/linux-source-7.3.tar.xz" linux-source-7.3
	printf 'Package: linux-source-7.3\nVersion: %s\nArchitecture: all\nMaintainer: x <x@localhost>\nDescription: x\n' \
		"$version" >"$dir/DEBIAN/control"
	dpkg-deb -Znone --build "$dir" "$fixtures/linux-source-7.3_${version}_all.deb" >/dev/null
}
sum() { sha256sum "$1" | cut -d ' ' -f 1; }

# The archive has the packages that $fixtures/online names; mode: what its downloads are like.
cat >"$work/bin/apt-get" <<'APT'
#!/bin/sh
echo "apt-get $*" >>"$fixtures/log"
while [ $# -gt 0 ]; do case $1 in -c) shift 2 ;; *) break ;; esac; done
case $1 in
indextargets) echo 'stable http://archive.localhost/' ;;
update) [ -s "$fixtures/online" ] ;;
download)
	for last; do :; done
	deb=linux-source-7.3_${last#*=}_all.deb
	case $(cat "$fixtures/mode") in
	good) cp "$fixtures/$deb" . ;;
	cut) head -c 1000 "$fixtures/$deb" >"$deb" ;;
	killed) head -c 1000 "$fixtures/$deb" >"$deb"; exit 100 ;;
	esac ;;
esac
APT
cat >"$work/bin/apt-cache" <<'APT'
#!/bin/sh
shift 2
case $1 in
madison) sed 's/.*/linux-source-7.3 | & | archive/' "$fixtures/online" ;;
show) echo "SHA256: $(sha256sum "$fixtures/linux-source-7.3_${2#*=}_all.deb" | cut -d ' ' -f 1)" ;;
esac
APT
chmod +x "$work"/bin/*
PATH=$work/bin:$PATH

package 7.3.4
package 7.3.5
deb=$cached/linux-source-7.3_7.3.4_all.deb
echo "linux-source-7.3 7.3.4 $(sum "$fixtures/linux-source-7.3_7.3.4_all.deb")" >"$work/repo/linux-base"
archive() { printf '%s\n' "$@" >"$fixtures/online"; }
offline() { : >"$fixtures/online"; }
mode() { echo "$1" >"$fixtures/mode"; }

n=0 failed=0
# check NAME COMMAND...
check() {
	local name=$1 verdict="ok"
	shift
	: >"$fixtures/log"
	"$@" >"$work/out" 2>&1 || { verdict="not ok"; failed=$((failed + 1)); }
	n=$((n + 1))
	echo "$verdict $n - $name"
	[ "$verdict" = ok ] || sed 's/^/# /' "$work/out"
}
# fails TEXT COMMAND...: it fails, and its last line says TEXT
fails() {
	local text=$1
	shift
	if "$@" >"$work/said" 2>&1; then cat "$work/said"; return 1; fi
	cat "$work/said"
	tail -n 1 "$work/said" | grep -qF -e "$text"
}
# says TEXT COMMAND...: it succeeds, and says TEXT
says() {
	local text=$1
	shift
	"$@" >"$work/said" 2>&1 || { cat "$work/said"; return 1; }
	cat "$work/said"
	grep -qF -e "$text" "$work/said"
}
nothing_left() { ! compgen -G "$cached/*.deb" >/dev/null; }
whole() { [ "$(sum "$deb")" = "$(cut -d ' ' -f 3 "$work/repo/linux-base")" ]; }
no_download() { ! grep -q download "$fixtures/log"; }

offline
mode good
check "offline, nothing in the cache" fails "go online once, or give a kernel tree: LINUX=" "$fetch"
archive 7.3.4
mode cut
check "a download that is cut off is refused" fails "is incomplete or damaged; run it again" "$fetch"
check "and does not stay" nothing_left
mode killed
check "a download that fails" fails "failed; run it again" "$fetch"
check "does not stay" nothing_left
mode good
check "the next one is good" says "$deb" "$fetch"
check "and in the cache" whole
offline
warm() { says "$deb" "$fetch" && no_download; }
check "offline from the cache" warm
check "unpack" "$fetch" --unpack "$work/tree"
check "gives the tree" grep -q 'SUBLEVEL = 4' "$work/tree/Makefile"
check "unpack one file" "$fetch" --unpack "$work/one" mm/a.c
check "gives that file only" test "$(cd "$work/one" && find . -type f)" = ./mm/a.c

printf x | dd of="$deb" bs=1 seek=200000 conv=notrunc status=none
check "a damaged one in the cache is found, offline" fails "go online once" "$fetch"
check "and does not stay either" nothing_left
cp "$fixtures/linux-source-7.3_7.3.4_all.deb" "$deb"
truncate -s -1 "$deb"
archive 7.3.4
check "a cut off one in the cache is fetched again" says "is damaged (its SHA256 is not" "$fetch"
check "and is whole" whole
rm "$deb"
cp "$work/repo/linux-base" "$work/linux-base"
sed -i 's/[0-9a-f]\{64\}/'"$(printf x | sha256sum | cut -d ' ' -f 1)/" "$work/repo/linux-base"
check "the archive has another file than was pinned" fails "linux-base says" "$fetch"
cp "$work/linux-base" "$work/repo/linux-base"

other=$cached/linux-source-7.3_7.3.5_all.deb
archive 7.3.5 7.4.1
check "a version that the archive dropped: the newest of the series, saying so" \
	says "no longer has linux-source-7.3 7.3.4, with which the series was tested; taking 7.3.5" "$fetch"
offline
check "which the cache has offline" says "$other" "$fetch"
truncate -s -1 "$other"
check "unless it is damaged" fails "go online once" "$fetch"
archive 7.4.1
check "an archive that has none of the series" fails "has no linux-source-7.3 any more" "$fetch"

space() { # of 1000 TB
	# shellcheck disable=SC2016 # the text of the script
	sed 's/need_space "$(dirname "$1")" 8/need_space "$(dirname "$1")" 1000000/' -i "$fetch"
	env -u NO_SPACE_CHECK "$fetch" --unpack "$work/none"
}
check "no room: how much is needed, and where" fails "needs 1000000 GB free in $work" space
check "and nothing is begun" test ! -e "$work/none"

echo "1..$n"
[ "$failed" = 0 ]
