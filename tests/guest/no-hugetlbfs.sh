#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# A kernel with HugeTLB pools and no hugetlbfs: the pools are there, are sized
# and accounted, and there is no other way to their pages.
# Wants a VM with --config alloc --hugepages 1G:2,2M:16
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"

plan 10
is '# CONFIG_HUGETLBFS is not set' "$(zcat /proc/config.gz | grep 'CONFIG_HUGETLBFS[ =]')" "hugetlbfs is not built"
is 0 "$(grep -c hugetlbfs /proc/filesystems)" "nor known as a filesystem"
result "$(! mount -t hugetlbfs none /root 2>/dev/null; echo $?)" "nor mounted"
is 2 "$(cat "$(pool 1048576)/nr_hugepages")" "there is a pool of 1G pages"
is 16 "$(awk '/^HugePages_Total:/ { print $2 }' /proc/meminfo)" "/proc/meminfo has that of 2M pages"
echo 8 > /proc/sys/vm/nr_hugepages
is 8 "$(cat "$(pool 2048)/free_hugepages")" "which can be resized"
echo 16 > /proc/sys/vm/nr_hugepages
is 16 "$(cat "$(pool 2048)/free_hugepages")" "both ways"
mkdir /sys/fs/cgroup/test
echo +hugetlb > /sys/fs/cgroup/cgroup.subtree_control
is 0 "$(cat /sys/fs/cgroup/test/hugetlb.1GB.current)" "there is a hugetlb cgroup"
rmdir /sys/fs/cgroup/test
echo 1 > "$(pool 1048576)/demote"
is 528 "$(cat "$(pool 2048)/nr_hugepages")" "a 1G page is demoted"
echo 16 > /proc/sys/vm/nr_hugepages
echo 2 > "$(pool 1048576)/nr_hugepages"
is 2 "$(cat "$(pool 1048576)/nr_hugepages")" "and another one made of free memory"
finish
