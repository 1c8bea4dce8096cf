package cli

import (
	"crypto/rand"
	"encoding/hex"
	"os"

	"banger/internal/durable"
	"banger/internal/linux"
)

// lease is a lock that this process holds until it ends, in whatever way. The daemon
// deletes the VMs that were created with it when it is free.
type lease struct {
	name string
	file *os.File
}

// takeLease takes a new lease. The daemon must be running: it removes the leases that
// nobody holds when it starts.
func (a *app) takeLease() (*lease, error) {
	dirs, err := a.dirs()
	if err != nil {
		return nil, err
	}
	if err := durable.MkdirAll(dirs.Leases(), 0o700); err != nil {
		return nil, err
	}
	name := make([]byte, 16)
	rand.Read(name)
	l := &lease{name: hex.EncodeToString(name)}
	l.file, err = os.OpenFile(dirs.Lease(l.name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := linux.TryLock(l.file); err != nil {
		l.drop()
		return nil, err
	}
	return l, nil
}

// drop ends a lease that no VM has any more.
func (l *lease) drop() {
	os.Remove(l.file.Name())
	l.file.Close()
}
