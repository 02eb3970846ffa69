# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034 # variables for the scripts that source this
# Helpers that the scripts share; source it after "set -euo pipefail".

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$root/build
cache=${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/gmem-1g
jobs=${JOBS:-$(nproc)}
# One clock for all scripts of a run.
export STEP_T0=${STEP_T0:-$(date +%s)}
export LC_ALL=C
# The user's "make V=1 FORCE=1" is not meant for the kernel's make.
unset MAKEFLAGS MFLAGS MAKELEVEL

die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

say() {
	printf '==> %s (%d s)\n' "$*" $(($(date +%s) - STEP_T0)) >&2
}

# usage: the comment block at the head of the script is its help
usage() {
	sed -n '/^# SPDX/d; 2,/^[^#]/s/^# \{0,1\}//p' "$0"
}

# need_space DIR GB WHAT
need_space() {
	local dir=$1 gb=$2 what=$3 free
	[ -z "${NO_SPACE_CHECK:-}" ] || return 0
	while [ ! -d "$dir" ]; do dir=$(dirname "$dir"); done
	free=$(($(df --output=avail -B1M "$dir" | tail -n 1)))
	[ "$free" -ge $((gb * 1024)) ] ||
		die "$what needs $gb GB free in $1, there are $((free / 1024)).$((free % 1024 * 10 / 1024)) GB (NO_SPACE_CHECK=1 tries all the same)"
}

can_root() {
	[ "$(id -u)" = 0 ] || command -v sudo >/dev/null
}

as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif [ -t 0 ]; then
		sudo "$@"
	else
		sudo -n "$@"
	fi
}

# not_taken CONFIG FRAGMENT...: what Kconfig dropped without a word, each as " [line]".
# Of two lines on a symbol the later one counts.
not_taken() {
	local config=$1 line
	shift
	while read -r line; do
		grep -qxF "$line" "$config" || printf ' [%s]' "$line"
	done < <(cat "$@" | grep -oE '^(# )?CONFIG_.*' | tac | awk -F '[ =]' '!seen[$1 == "#" ? $2 : $1]++')
}

# use_ccache: sets $cc and the environment that makes cache hits independent of the build directory
use_ccache() {
	export KBUILD_BUILD_TIMESTAMP='Thu Jan  1 00:00:00 UTC 2026' KBUILD_BUILD_USER=build KBUILD_BUILD_HOST=localhost
	cc=gcc
	if command -v ccache >/dev/null; then
		cc="ccache gcc"
		export CCACHE_DIR=$cache/ccache CCACHE_BASEDIR=$root CCACHE_NOHASHDIR=1 CCACHE_MAXSIZE=${CCACHE_MAXSIZE:-2G}
		mkdir -p "$CCACHE_DIR"
	fi
}
