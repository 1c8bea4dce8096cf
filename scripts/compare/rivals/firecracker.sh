# Firecracker with banger's kernel and a guest of one program that answers on the serial
# port.
VMM=firecracker
. "$ROOT/scripts/compare/bare.sh"
missing() {
	kvm || { echo "this user has no KVM; use a host with KVM, or make lab-compare"; return; }
	has firecracker || { echo "; make runtime-bundle, and add $ROOT/runtime to PATH"; return; }
	bare_missing
}
