// Package daemon is bangerd: it opens the services, serves them, and closes them. It
// owns what makes a process the only daemon of a state directory: the lock, the
// socket and the log. It does not decide what VMs do; package vm does.
package daemon
