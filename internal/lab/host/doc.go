// Package host builds and runs the lab host: a Debian with KVM, emulated by QEMU, for
// testing the Firecracker driver on machines without KVM. It owns what that host consists
// of and runs programs in it as a plain user. Callers decide what to test.
package host
