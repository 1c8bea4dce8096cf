#!/bin/sh
# Smoke test of the built programs: creates a VM, uses it, restarts it and deletes it.
# With --nat, the VM also reaches Debian's mirror, then not, then again.
# Usage: ./verify.sh [--nat]
set -eu
cd "$(dirname "$0")"

name=verify-$$
case "$*" in
"" | --nat) nat=$* ;;
*)
	echo "usage: ./verify.sh [--nat]" >&2
	exit 2
	;;
esac

trap './banger vm delete --yes --force "$name" >/dev/null 2>&1 || true' EXIT INT TERM
./banger doctor
./banger vm create --name "$name"
inside() { ./banger vm exec --no-stdin "$name" -- "$@"; }
inside sh -c 'echo kept >/root/kept && echo kept >/etc/kept'
before=$(inside cat /proc/sys/kernel/random/boot_id)
./banger vm restart "$name"
[ "$(inside cat /root/kept /etc/kept | tr '\n' ' ')" = "kept kept " ]
[ "$(inside cat /proc/sys/kernel/random/boot_id)" != "$before" ]
status=0
inside sh -c 'exit 7' || status=$?
[ $status = 7 ]

# outside reaches Debian's mirror by name, within 10 seconds.
outside() { inside timeout 10 bash -c 'exec 3<>/dev/tcp/deb.debian.org/80'; }
if [ "$nat" ]; then
	outside
	./banger vm set --no-nat "$name"
	if outside 2>/dev/null; then
		echo "verify: the VM reaches the internet with --no-nat" >&2
		exit 1
	fi
	./banger vm set --nat "$name"
	outside
fi
./banger vm stop "$name"
./banger vm delete --yes "$name"
trap - EXIT INT TERM
echo "verify: ok"
