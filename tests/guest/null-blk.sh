#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# usage: null-blk.sh PARAMETERS COMMAND [ARG]...
#
# Run a command of this directory with /dev/nullb0, a disk in memory that reads and
# writes the pages of those who use it directly. PARAMETERS are those of null_blk, in
# one word.
parameters=$1 here=$(dirname "$0")
shift

# With sanitizers all takes longer, and requests are to be in flight meanwhile. After 5
# seconds they would time out.
case $parameters in
*completion_nsec=*)
	if zcat /proc/config.gz | grep -qE '^CONFIG_K[AC]SAN=y'; then
		parameters="$parameters completion_nsec=4000000000"
	fi ;;
esac

# shellcheck disable=SC2086 # several words
if ! modprobe null_blk gb=1 memory_backed=1 $parameters; then
	echo "1..0 # SKIP needs CONFIG_BLK_DEV_NULL_BLK=m"
	exit 4
fi
command=$1
shift
exec "$here/$command" "$@"
