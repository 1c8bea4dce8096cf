// Package daemon is bangerd: it opens everything, serves it, and lets go again.
// It is wiring, and it owns what makes a process the one daemon of a state
// directory: the lock, the socket and the log. What VMs do is decided below.
package daemon
