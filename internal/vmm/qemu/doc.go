// Package qemu runs VMs by QEMU's microvm machine, with KVM where the host has
// it and by emulation elsewhere. It owns QEMU's command line, its monitor and
// the streams over its two serial ports. It does not know what the streams
// carry, nor when a VM should run.
package qemu
