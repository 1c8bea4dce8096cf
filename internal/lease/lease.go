// Package lease ties the life of a VM to that of a process: the process locks a file, and
// the daemon deletes the VM when the lock is free. What the daemon does is in package vm.
package lease

import (
	"crypto/rand"
	"encoding/hex"
	"os"

	"banger/internal/config"
	"banger/internal/durable"
	"banger/internal/linux"
)

// Lease is a lock that this process holds until it ends, in whatever way.
type Lease struct {
	Name string // 32 hexadecimal digits
	file *os.File
}

// Take takes a new lease. A daemon must be running: it removes the leases that nobody holds
// when it starts.
func Take(dirs config.Dirs) (*Lease, error) {
	if err := durable.MkdirAll(dirs.Leases(), 0o700); err != nil {
		return nil, err
	}
	name := make([]byte, 16)
	rand.Read(name)
	l := &Lease{Name: hex.EncodeToString(name)}
	var err error
	if l.file, err = os.OpenFile(dirs.Lease(l.Name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return nil, err
	}
	if err := linux.TryLock(l.file); err != nil {
		l.Drop()
		return nil, err
	}
	return l, nil
}

// Drop ends a lease that no VM has any more. It may be called twice, and on nil.
func (l *Lease) Drop() {
	if l != nil {
		os.Remove(l.file.Name())
		l.file.Close()
	}
}
