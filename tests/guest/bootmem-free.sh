#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# 1G pages that were allocated at boot go back to the buddy allocator whole, and
# can be had again. Wants a VM with some: --hugepages 1G:2 --hvo on
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"

dir=$(pool 1048576)
pages=$(cat "$dir/nr_hugepages")
before=$(free_mb)

plan 5
at_least 1 "$pages" "1G pages were allocated at boot"
echo 0 > "$dir/nr_hugepages"
is 0 "$(cat "$dir/nr_hugepages")" "the pool is empty"
no_bad_pages "no bad page is reported"
# Less what their struct pages take again, 16 MB each, and pages in per-CPU lists
at_least $((before + pages * 950)) "$(free_mb)" "their memory is free"
echo "$pages" > "$dir/nr_hugepages"
is "$pages" "$(cat "$dir/nr_hugepages")" "as many can be allocated again"
finish
