#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# usage: pool.sh SIZE:COUNT,... COMMAND [ARG]...
#
# Allocate huge pages now that the system runs, 1G:2,2M:8 for example, and run a
# command of this directory.
pools=$1 here=$(dirname "$0")
shift

for pool in $(echo "$pools" | tr , ' '); do
	case $pool in
	1G:*) dir=/sys/kernel/mm/hugepages/hugepages-1048576kB ;;
	2M:*) dir=/sys/kernel/mm/hugepages/hugepages-2048kB ;;
	*) echo "Bail out! no such size: $pool"; exit 1 ;;
	esac
	echo "${pool#*:}" > $dir/nr_hugepages
	if [ "$(cat $dir/nr_hugepages)" -lt "${pool#*:}" ]; then
		echo "Bail out! the pool of ${pool%:*} got only $(cat $dir/nr_hugepages)"
		exit 1
	fi
done

command=$1
shift
exec "$here/$command" "$@"
