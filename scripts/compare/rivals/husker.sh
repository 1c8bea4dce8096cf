# husker (https://pypi.org/project/husker) on Firecracker, with banger's kernel and a guest
# that has busybox, and husker's agent as its only process. get-husker.sh makes that.
files=$ROOT/dist/rivals/husker
export HOME="$HOME_OF" HUSKER_STATE_DIR="$HOME_OF/state" HUSKER_DATA_DIR="$HOME_OF/data" HUSKER_API_URL=http://127.0.0.1:7787
# Its daemon makes a bridge and firewall rules, even for VMs without a network, and mounts
# each VM's disk: it needs root, and gets namespaces of its own.
husker() { nsenter --net --target "$(cat "$HOME_OF/daemon.pid")" "$files/husker" "$@"; }

missing() {
	for need in husker rootfs.ext4 initrd; do
		[ -e "$files/$need" ] || { echo "there is no $files/$need; scripts/compare/get-husker.sh"; return; }
	done
	kvm || { echo "it needs KVM, which this user does not have; use a host with KVM, or make lab-compare"; return; }
	[ "$(id -u)" = 0 ] || { echo "its daemon needs root; run this with sudo"; return; }
	has firecracker || { echo "; make runtime-bundle, and add $ROOT/runtime to PATH"; return; }
	has unshare nsenter ip nft || echo "; sudo apt-get install -y util-linux iproute2 nftables"
}
open() {
	mkdir -p "$HUSKER_STATE_DIR" "$HUSKER_DATA_DIR"
	HUSKER_HOST_INTERFACE=lo unshare --net --mount sh -c 'ip link set lo up && exec "$@"' - \
		"$files/husker" daemon --listen 127.0.0.1:7787 >"$HOME_OF/daemon.log" 2>&1 </dev/null &
	echo $! >"$HOME_OF/daemon.pid"
	for _ in $(seq 200); do # it tells nobody that it is up
		husker list -o json 2>&1 | grep -q '"daemon_reachable": true' && return
		kill -0 "$(cat "$HOME_OF/daemon.pid")" || break
		sleep 0.3
	done
	tail -n 4 "$HOME_OF/daemon.log"
	return 1
}
close() {
	husker list -o json | sed -n 's/.*"name": *"\([^"]*\)".*/\1/p' | while read -r vm; do remove "$vm"; done
	daemon=$(cat "$HOME_OF/daemon.pid")
	kill "$daemon"
	for _ in $(seq 100); do
		kill -0 "$daemon" 2>/dev/null || return 0
		sleep 0.1
	done
}
create() { husker run "$files/rootfs.ext4" --kernel "$ROOT/runtime/kernel/vmlinux" --initrd "$files/initrd" --vmm firecracker --name "$1" --cpus 1 --memory 1024 --net none; }
run() { husker exec --connect-timeout 600 "$1" -- true; }
pid() { husker info -o json "$1" | tr ',' '\n' | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p'; }
remove() { husker destroy --yes "$1"; }
