# QEMU with banger's kernel and a guest of one program that answers on the serial port.
VMM=qemu
. "$ROOT/scripts/compare/bare.sh"
missing() {
	has qemu-system-x86_64 || { echo "; sudo apt-get install -y qemu-system-x86"; return; }
	bare_missing
}
