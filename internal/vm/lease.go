package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"banger"
	"banger/internal/linux"
	"banger/internal/store"
)

// A lease is a file that a client has locked. A VM that was created with one is deleted
// when the lock is free: the kernel frees it however the client ends, and also while no
// daemon runs.

var leaseName = regexp.MustCompile(`^[0-9a-f]{32}$`)

// checkLease returns an error if no client holds the lease of a request.
func (v *VMs) checkLease(lease string) error {
	if lease == "" {
		return nil
	}
	if !leaseName.MatchString(lease) {
		return banger.Invalidf("name a file of 32 hexadecimal digits in "+v.Dirs.Leases(), "%.40q is not a lease", lease)
	}
	held, err := linux.Locked(v.Dirs.Lease(lease))
	if err == nil && !held {
		err = banger.Invalidf("lock "+v.Dirs.Lease(lease)+" first", "nobody holds the lease %s", lease)
	}
	return err
}

// expire deletes the VM when its lease ends. What it cannot delete is left to the next
// daemon.
func (o *owner) expire(ctx context.Context) {
	row, _, _ := o.now()
	path := o.v.Dirs.Lease(row.Lease)
	err := linux.AwaitFree(ctx, path)
	if err == nil {
		o.log().Info("the lease has ended")
		err = o.v.DeleteVM(ctx, string(o.id), banger.DeleteVM{Force: true}, nil)
	}
	if banger.KindOf(err) == banger.NotFound {
		err = nil
	}
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil && ctx.Err() == nil && !errors.Is(err, os.ErrNotExist) {
		o.log().Error("delete the VM after its lease", "err", err)
	}
}

// sweepLeases removes the leases of clients that have ended, except those that still
// have a VM.
func (v *VMs) sweepLeases(rows []store.VM) error {
	kept := map[string]bool{}
	for _, row := range rows {
		kept[v.Dirs.Lease(row.Lease)] = true
	}
	files, err := filepath.Glob(v.Dirs.Lease("*"))
	for _, file := range files {
		held, failed := linux.Locked(file)
		if failed == nil && !held && !kept[file] {
			failed = removeAny(file)
		}
		if failed != nil {
			err = errors.Join(err, fmt.Errorf("lease %s: %w", filepath.Base(file), failed))
		}
	}
	return err
}
