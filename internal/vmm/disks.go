package vmm

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"syscall"
)

// DiskError is a disk of a guest that the VMM could not read or write on the host.
type DiskError struct {
	Role   Role          `json:"role"`   // empty if the VMM does not report it
	Errno  syscall.Errno `json:"errno"`  // ENOSPC, EDQUOT, EFBIG, EIO; EIO also if the VMM does not report it
	Paused bool          `json:"paused"` // the guest is paused until the disk works; else it got the error
}

// Error implements error.
func (e DiskError) Error() string {
	return fmt.Sprintf("%s disk: %v", cmp.Or(string(e.Role), "a"), e.Errno)
}

// Disks collects a machine's disk errors for Machine.DiskErrors. The zero value
// is ready to use. Drivers embed it.
type Disks struct {
	mu      sync.Mutex
	now     []DiskError
	changed chan struct{} // closed at the next change; nil if nobody waits
}

// DiskErrors implements Machine.
func (d *Disks) DiskErrors() ([]DiskError, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.changed == nil {
		d.changed = make(chan struct{})
	}
	return slices.Clone(d.now), d.changed
}

// Failed adds an error. Of the errors that a guest got from one disk the first stays:
// the others follow from it. Of those that pause a guest the last counts.
func (d *Disks) Failed(e DiskError) {
	d.change(func(now []DiskError) []DiskError {
		at := slices.IndexFunc(now, func(old DiskError) bool { return old.Role == e.Role && old.Paused == e.Paused })
		switch {
		case at < 0:
			return append(now, e)
		case e.Paused:
			now[at] = e
		}
		return now
	})
}

// Resumed removes the errors that paused the guest: it has written its data now.
func (d *Disks) Resumed() {
	d.change(func(now []DiskError) []DiskError {
		return slices.DeleteFunc(now, func(e DiskError) bool { return e.Paused })
	})
}

// SetDiskErrors replaces all errors.
func (d *Disks) SetDiskErrors(errs []DiskError) {
	d.change(func([]DiskError) []DiskError { return slices.Clone(errs) })
}

func (d *Disks) change(f func([]DiskError) []DiskError) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := slices.Clone(d.now)
	d.now = f(d.now)
	if d.changed != nil && !slices.Equal(before, d.now) {
		close(d.changed)
		d.changed = nil
	}
}
