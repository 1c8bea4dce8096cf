#!/bin/sh
# Smoke test of the built programs: creates a VM, uses it, restarts it and deletes it.
# Usage: ./verify.sh
set -eu
cd "$(dirname "$0")"

name=verify-$$
[ $# = 0 ] || { echo "verify.sh takes no arguments: VMs have no network yet that --nat could cover" >&2; exit 2; }

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
./banger vm stop "$name"
./banger vm delete --yes "$name"
trap - EXIT INT TERM
echo "verify: ok"
