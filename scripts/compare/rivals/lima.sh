# Lima (https://lima-vm.io) on QEMU, without mounts and containerd. LIMA_TEMPLATE names a
# template or a file; Lima downloads its image first.
export HOME="$HOME_OF" LIMA_HOME="$HOME_OF/lima"
missing() {
	has limactl || { echo "; https://lima-vm.io/docs/installation, or go build ./cmd/limactl in the module github.com/lima-vm/lima/v2"; return; }
	has qemu-system-x86_64 qemu-img || echo "; sudo apt-get install -y qemu-system-x86 qemu-utils"
}
close() {
	for dir in "$LIMA_HOME"/*/lima.yaml; do
		[ ! -e "$dir" ] || remove "$(basename "$(dirname "$dir")")"
	done
}
create() {
	limactl --tty=false start --name="$1" --vm-type=qemu --cpus=1 --memory=1 --plain --mount-none --timeout=20m "${LIMA_TEMPLATE:-template:debian-13}"
}
run() { limactl shell --workdir / "$1" true; }
pid() { cat "$LIMA_HOME/$1/qemu.pid"; }
remove() { limactl delete --force "$1"; }
