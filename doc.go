// Package banger holds the nouns of the project: VMs, images, kernels, their
// states, names and sizes, the one error type, and the services that a client
// of the daemon sees. It holds no behaviour that touches the host.
package banger
