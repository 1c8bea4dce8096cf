// Package firecracker runs VMs by Firecracker, on hosts with KVM. It owns the
// client of Firecracker's API, its command line, the streams over its vsock and
// what its log tells of an end. It does not know what the streams carry, nor
// when a VM should run.
package firecracker
