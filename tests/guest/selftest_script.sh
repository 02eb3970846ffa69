#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# usage: selftest_script.sh DIR/SCRIPT [ARG]...
#
# Run a script of the kernel's selftests that wants bash, pgrep, a killall that
# waits and a ps that can be asked for a process; busybox has none of them.
# Wants /bin/bash, and beside this file DIR with the script and what that calls.
cd "$(dirname "$0")/$(dirname "$1")" || exit
bin=/tmp/selftest_script
mkdir -p /mnt $bin

# tool NAME: its text comes from stdin
tool() {
	{ echo '#!/bin/sh'; cat; } > $bin/"$1"
	chmod +x $bin/"$1"
}
tool killall <<'END'
# -SIGNAL --wait NAME
/bin/busybox killall "$1" "$3" || exit
while pidof "$3" > /dev/null; do
	usleep 50000
done
END
tool pgrep <<'END'
# -f NAME
pidof "$2"
END
tool ps <<'END'
# PID
[ -d "/proc/$1" ]
END

script=$(basename "$1")
shift
PATH=$bin:$PATH exec bash "./$script" "$@"
