#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# usage: again.sh COMMAND [ARG]...
#
# Run a command of this directory. If its guest is lost to the emulated CPU, run it again,
# up to three times in all: QEMU now and then gives it the registers of the host, see
# HACKING.md. A guest that is lost each time fails, and so does any other failure at once.
here=$(dirname "$0") command=$1
shift

tries=3
grep -q '^model name.*TCG' /proc/cpuinfo || tries=1
lost='the guest exits for SHUTDOWN(, at 0x[0-9a-f]+)?$|the guest has the registers of the host$'

while :; do
	tries=$((tries - 1))
	"$here/$command" "$@" > /tmp/again.log 2>&1
	status=$?
	if [ $status = 0 ] || [ $tries = 0 ] || ! grep -qE "$lost" /tmp/again.log; then
		break
	fi
	echo "# The emulated CPU has lost the guest. Again, after this:"
	# Its TAP would be read as that of this try, whatever is before it in the line
	sed -E 's/(TAP) version/\1-version/; s/^/# /' /tmp/again.log
done
cat /tmp/again.log
exit "$status"
