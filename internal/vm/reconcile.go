package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"banger"
	"banger/internal/config"
	"banger/internal/store"
	"banger/internal/vmm"
)

// reconcile compares what is on record with what is there, after whatever
// happened to the last daemon: it ends what was begun, adopts what runs, and
// tells how what runs no longer has ended. One VM's trouble is not another's.
func (v *VMs) reconcile(ctx context.Context) error {
	if v.Installed.Agent == "" {
		v.Installed.Agent = newestAgent(v.Dirs)
	}
	v.sweep()
	rows, err := v.Store.VMs(ctx)
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	for _, row := range rows {
		all.Go(func() { // a VMM that stands still is waited for
			if err := v.reconcileVM(ctx, row); err != nil {
				v.Log.Error("reconcile", "vm", row.Name, "id", row.ID, "err", err)
			}
		})
	}
	all.Wait()
	return nil
}

// sweep removes what a killed daemon was writing aside of its place.
func (v *VMs) sweep() {
	for _, pattern := range []string{
		filepath.Join(v.Dirs.SSH(), ".id_ed25519*"), filepath.Join(v.Dirs.SSH(), ".known_hosts.*"), filepath.Join(v.Dirs.Initrds(), ".*"),
	} {
		if err := removeAll(pattern); err != nil {
			v.Log.Warn("reconcile: remove what was half written", "err", err)
		}
	}
}

func (v *VMs) reconcileVM(ctx context.Context, row store.VM) error {
	log := v.Log.With("vm", row.Name, "id", row.ID)
	if row.Phase != store.Ready || v.deletionBegun(row) {
		log.Info("reconcile: remove what was left", "phase", row.Phase)
		return v.remove(ctx, row)
	}
	// A rename that was cut off may have left the old one.
	if err := v.knowName(row); err != nil {
		log.Warn("reconcile: know the host", "err", err)
	}
	dir, e := v.Dirs.VM(row.ID), v.entry(row.ID)
	b, err := readBoot(dir)
	if err != nil {
		return fmt.Errorf("read who booted: %w", err)
	}
	driver, err := v.Drivers.Named(row.Driver)
	if err != nil {
		return err
	}
	machine, err := driver.Adopt(ctx, string(dir))
	if errors.Is(err, vmm.ErrGone) {
		return v.reconcileStopped(ctx, row, driver, b)
	}
	if err != nil {
		return fmt.Errorf("adopt: %w", err)
	}
	log.Info("reconcile: adopted", "pid", machine.PID())
	r := newRun(machine, b)
	if err := r.settleMemory(ctx, row.Memory); err != nil {
		log.Warn("reconcile: set memory", "err", err)
	}
	e.set(banger.Running, r)
	v.boundLogs(row, r)
	v.isolate(row, r)
	v.task(func(ctx context.Context) { r.tend(ctx, v.Program) })
	v.task(func(ctx context.Context) {
		r.dropInitrd(ctx, dir) // before an end can lead to a start with an initrd of its own
		v.watch(ctx, row, e, r)
	})
	if row.Wanted == banger.WantStopped {
		log.Info("reconcile: end the stop that was begun")
		if err := e.take(ctx); err != nil { // before any client can
			return err
		}
		v.task(func(ctx context.Context) {
			defer e.release()
			v.stop(ctx, v.begin("stop", row.ID, row.Name, nil), row, e, banger.StopVM{})
		})
	}
	return nil
}

// memoryTime bounds how long an adopted VMM may take to tell of its memory.
const memoryTime = 5 * time.Second

// settleMemory asks an adopted VMM what it was launched with, and has its guest have
// what is on record: a set that was cut off may have asked for something else. One
// without a balloon, which an older banger launched, does not tell.
func (r *run) settleMemory(ctx context.Context, recorded banger.Size) error {
	ctx, cancel := context.WithTimeout(ctx, memoryTime)
	defer cancel()
	memory, err := r.machine.Memory(ctx)
	if err != nil {
		return nil
	}
	r.launched = memory.Launched
	return r.machine.SetMemory(ctx, recorded)
}

// dropInitrd removes the initrd of an adopted VM, which holds the boot's
// secrets, once the guest has answered: its VMM may only just have begun.
func (r *run) dropInitrd(ctx context.Context, dir config.VMDir) {
	select {
	case <-r.ready:
		removeAny(dir.Initrd())
	case <-r.machine.Ended():
	case <-ctx.Done():
	}
}

// reconcileStopped tells how a VM's run ended that the last daemon had not put
// on record, by what its guest wrote on the console and its VMM into its log.
func (v *VMs) reconcileStopped(ctx context.Context, row store.VM, driver vmm.Driver, b boot) error {
	dir := v.Dirs.VM(row.ID)
	if b.Nonce == "" || !launched(dir) {
		return v.reconcileUnlaunched(ctx, row)
	}
	r := newRun(ended{exit: driver.Ending(string(dir))}, b)
	close(r.tended)
	ending, detail := r.ending(dir)
	v.Log.Info("reconcile: ended while no daemon watched", "vm", row.Name, "id", row.ID, "ending", ending, "detail", detail)
	if err := v.record(ctx, row.ID, ending, detail); err != nil {
		return err
	}
	if ending == banger.EndedReboot {
		v.task(func(ctx context.Context) { v.reboot(ctx, row.ID) })
	}
	return nil
}

// reconcileUnlaunched clears up after a start that did not come to the launch.
// One that followed a guest's reboot is owed to the guest.
func (v *VMs) reconcileUnlaunched(ctx context.Context, row store.VM) error {
	if err := forgetBoot(v.Dirs.VM(row.ID)); err != nil || row.Wanted != banger.WantRunning {
		return err
	}
	if row.Ending == banger.EndedReboot {
		v.task(func(ctx context.Context) { v.reboot(ctx, row.ID) })
		return nil
	}
	return v.Store.SetWanted(ctx, row.ID, banger.WantStopped)
}

// launched says whether the VMM of the last boot has begun: it makes the console.
func launched(dir config.VMDir) bool {
	_, err := os.Stat(dir.Console())
	return err == nil
}

// ended stands for a VMM that nobody saw end.
type ended struct {
	vmm.Machine
	exit vmm.Exit
}

func (e ended) Exit() vmm.Exit {
	if e.exit.Reason == vmm.ReasonUnknown {
		return vmm.Exit{} // not even that it was the VMM's
	}
	return e.exit
}

// newestAgent is the agent that VMs boot with when neither a bundle nor a build
// offers one: the last that was installed.
func newestAgent(dirs config.Dirs) banger.Digest {
	files, err := os.ReadDir(dirs.Agents())
	if err != nil {
		return ""
	}
	var newest os.FileInfo
	for _, file := range files {
		info, err := file.Info()
		if err == nil && info.Mode().IsRegular() && len(info.Name()) == 64 && (newest == nil || info.ModTime().After(newest.ModTime())) {
			newest = info
		}
	}
	if newest == nil {
		return ""
	}
	return banger.Digest("sha256:" + newest.Name())
}
