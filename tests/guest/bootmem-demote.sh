#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# A 1G page that was allocated at boot can be demoted to 2M pages, and these
# freed. Wants a VM with one: --hugepages 1G:2 --hvo on
# shellcheck source=tests/guest/lib.sh
. "$(dirname "$0")/lib.sh"

huge=$(pool 1048576)
small=$(pool 2048)
pages=$(cat "$huge/nr_hugepages")
before=$(free_mb)

plan 7
at_least 1 "$pages" "1G pages were allocated at boot"
echo 1 > "$huge/demote"
is $((pages - 1)) "$(cat "$huge/nr_hugepages")" "one 1G page less"
is 512 "$(cat "$small/nr_hugepages")" "512 2M pages more"
echo 0 > "$small/nr_hugepages"
is 0 "$(cat "$small/nr_hugepages")" "the 2M pages are freed"
at_least $((before + 950)) "$(free_mb)" "their memory is free"
no_bad_pages "no bad page is reported"
echo 512 > "$small/nr_hugepages"
is 512 "$(cat "$small/nr_hugepages")" "as many 2M pages can be allocated again"
finish
