#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# usage: pressure.sh guest/hugepage_flags COMMAND [ARG]...
#
# Run a command of this directory while all memory is compacted again and again, and
# memory in which no huge page is, is taken offline and online. Needs movablecore=.
# One after the other: compaction of Linux 7.3 faults where memory goes offline.
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"

here=$(dirname "$0")
flags=$here/$1 command=$2
shift 2
memory=/sys/devices/system/memory

if [ ! -w /proc/sys/vm/compact_memory ] || [ ! -r $memory/block_size_bytes ]; then
	echo "1..0 # SKIP needs CONFIG_COMPACTION and CONFIG_MEMORY_HOTREMOVE"
	exit 4
fi

# The blocks of memory that may go: what is there can move, and is in no pool
block=$((0x$(cat $memory/block_size_bytes) / 4096))
"$flags" | while read -r pfn count _; do
	first=$((pfn / block)) last=$(((pfn + count - 1) / block))
	seq $first $last
done > /tmp/pressure.huge
for dir in "$memory"/memory*; do
	nr=${dir##*/memory}
	grep -qx "$nr" /tmp/pressure.huge && continue
	[ "$(cut -d ' ' -f 1 "$dir/valid_zones")" = Movable ] && echo "$dir"
done > /tmp/pressure.blocks
nr=0

press() {
	compacted=0 offlined=0
	while [ -e /tmp/pressure.on ]; do
		while read -r dir; do
			[ -e /tmp/pressure.on ] || break
			echo 1 > /proc/sys/vm/compact_memory && compacted=$((compacted + 1))
			timeout 10 sh -c "echo offline > $dir/state" 2> /dev/null && offlined=$((offlined + 1))
			sleep 0.1
			echo online_movable > "$dir/state" 2> /dev/null
			echo $compacted > /tmp/pressure.compacted
			echo $offlined > /tmp/pressure.offlined
		done < /tmp/pressure.blocks
	done
}

plan 4
echo 0 | tee /tmp/pressure.compacted > /tmp/pressure.offlined
touch /tmp/pressure.on
press &
{ "$here/$command" "$@" 2>&1; echo $? > /tmp/pressure.status; } | sed 's/^/# /'
rm /tmp/pressure.on
wait
result "$(cat /tmp/pressure.status)" "$command $*"
at_least 10 "$(cat /tmp/pressure.compacted)" "memory was compacted meanwhile, $(cat /tmp/pressure.compacted) times"
at_least 10 "$(cat /tmp/pressure.offlined)" "blocks of memory were offline meanwhile, $(cat /tmp/pressure.offlined) times"
is "" "$(sed 's,$,/state,' /tmp/pressure.blocks | xargs grep -L online)" "all of it is online again"
finish
