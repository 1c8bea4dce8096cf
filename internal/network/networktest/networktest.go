// Package networktest is network namespaces for tests: a process that is root in some of
// its own, and more of them within one process. It does not fill them: links, addresses
// and servers are a test's own.
package networktest

import (
	"os"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Attributes are those of a process that is root of a new user, network and mount
// namespace, whose end removes everything. It does not start where the host allows a plain
// user no namespaces.
func Attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
}

// Namespace is a network namespace, and the thread that is in it. The zero Namespace is the
// process's own.
type Namespace struct{ todo chan func() }

// New makes a network namespace, which ends with the test and with what the test opened in
// it.
func New(t testing.TB) *Namespace {
	t.Helper()
	n, ready := &Namespace{todo: make(chan func())}, make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
		ready <- unix.Unshare(unix.CLONE_NEWNET)
		for f := range n.todo {
			f()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatalf("create a network namespace: %v", err)
	}
	t.Cleanup(func() { close(n.todo) })
	return n
}

// Do runs f in the namespace. Sockets that f opens stay there.
func (n *Namespace) Do(f func() error) error {
	if n.todo == nil {
		return f()
	}
	failed := make(chan error)
	n.todo <- func() { failed <- f() }
	return <-failed
}

// Must is Do for what may not fail.
func (n *Namespace) Must(t testing.TB, f func() error) {
	t.Helper()
	if err := n.Do(f); err != nil {
		t.Fatal(err)
	}
}
