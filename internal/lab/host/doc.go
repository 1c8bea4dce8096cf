// Package host makes and runs the lab host: a whole Debian with KVM, under
// QEMU's software CPU, for trying the Firecracker driver where the machine has
// no KVM to give. It owns what that host is made of and how to run programs in
// it as a plain user; what is tried is its caller's.
package host
