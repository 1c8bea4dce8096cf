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
	"banger/internal/vm/console"
	"banger/internal/vmm"
)

// reconcile compares the records with the world after whatever happened to the
// last daemon: it finishes what was begun, adopts what runs, and tells how what
// no longer runs has ended. A VM that fails here does not stop the others.
func (v *VMs) reconcile(ctx context.Context) error {
	if v.Installed.Agent == "" {
		v.Installed.Agent = newestAgent(v.Dirs)
	}
	v.sweep()
	rows, err := v.Store.VMs(ctx)
	if err != nil {
		return err
	}
	if err := v.sweepLeases(rows); err != nil {
		v.Log.Warn("reconcile: remove leases", "err", err)
	}
	var all sync.WaitGroup
	for _, row := range rows {
		o := v.own(row, banger.Stopped)
		if row.Phase != store.Ready || v.deletionBegun(row) {
			o.happen(banger.Delete)
		}
		all.Go(func() { // one whose VMM does not answer is waited for
			if err := o.reconcile(ctx); err != nil {
				o.log().Error("reconcile", "err", err)
			}
			if row.Lease != "" {
				v.task(o.expire)
			}
		})
	}
	all.Wait()
	v.adoptNetwork(ctx)
	return nil
}

// sweep removes the temporary files of a killed daemon.
func (v *VMs) sweep() {
	for _, pattern := range []string{
		filepath.Join(v.Dirs.SSH(), ".id_ed25519*"), filepath.Join(v.Dirs.SSH(), ".known_hosts.*"), filepath.Join(v.Dirs.Initrds(), ".*"),
	} {
		if err := removeAll(pattern); err != nil {
			v.Log.Warn("reconcile: remove temporary files", "err", err)
		}
	}
}

func (o *owner) reconcile(ctx context.Context) error {
	row, state, _ := o.now()
	if state == banger.Deleting {
		o.log().Info("reconcile: remove what was left", "phase", row.Phase)
		return o.remove(ctx)
	}
	// A rename that was cut off may have left the old name.
	if err := o.v.knowName(row.ID, row.Name); err != nil {
		o.log().Warn("reconcile: update known hosts", "err", err)
	}
	b, err := readBoot(o.dir())
	if err != nil {
		return fmt.Errorf("read the secrets of the boot: %w", err)
	}
	driver, err := o.v.Drivers.Named(row.Driver)
	if err != nil {
		return err
	}
	if o.isChecked() { // by what an earlier daemon has begun: no VMM runs
		return o.reconcileStopped(ctx, row, driver, b)
	}
	machine, err := driver.Adopt(ctx, string(o.dir()))
	if errors.Is(err, vmm.ErrGone) {
		return o.reconcileStopped(ctx, row, driver, b)
	}
	if err != nil {
		return fmt.Errorf("adopt: %w", err)
	}
	return o.adopt(ctx, newRun(o, machine, b))
}

// adopt takes over a VMM that an earlier daemon has launched.
func (o *owner) adopt(ctx context.Context, r *run) error {
	row, _, _ := o.now()
	o.log().Info("reconcile: adopted", "pid", r.machine.PID())
	if err := r.settleMemory(ctx, row.Memory); err != nil {
		o.log().Warn("reconcile: set memory", "err", err)
	}
	o.happen(banger.Adopted)
	o.began(r)
	o.v.task(r.tend)
	o.v.task(func(ctx context.Context) {
		r.dropInitrd(ctx) // before an end can lead to a start with an initrd of its own
		o.watch(ctx, r)
	})
	if row.Wanted != banger.WantStopped {
		return nil
	}
	o.log().Info("reconcile: finish the stop that was begun")
	if err := o.take(ctx); err != nil { // before any client can
		return err
	}
	o.v.task(func(ctx context.Context) {
		defer o.release()
		op := o.v.Operations.Begin("vm", banger.Stop, row.Name, row.ID, nil)
		var err error
		defer op.End(ctx, &err)
		err = o.stop(ctx, op, banger.StopVM{})
	})
	return nil
}

// memoryTime bounds how long an adopted VMM may take to tell of its memory.
const memoryTime = 5 * time.Second

// settleMemory asks an adopted VMM what it was launched with, and gives its guest
// what is on record, since a set that was cut off may have asked for something
// else. A VMM without a balloon, which an older banger launched, does not tell.
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

// dropInitrd removes the initrd of an adopted VM, which holds the boot's secrets,
// once the guest has answered: its VMM may only just have begun.
func (r *run) dropInitrd(ctx context.Context) {
	err := r.o.await(ctx, func() (bool, error) { return r.answered || r.gone, nil })
	if err == nil && r.alive() {
		removeAny(r.o.dir().Initrd())
	}
}

// reconcileStopped tells how a VM's run ended that the last daemon had not put on
// record, from what its guest wrote to the console and its VMM to its log.
func (o *owner) reconcileStopped(ctx context.Context, row store.VM, driver vmm.Driver, b boot) error {
	dir := o.dir()
	if b.Nonce == "" || !launched(dir) {
		return o.reconcileUnlaunched(ctx, row)
	}
	s := seen{exit: driver.Ending(string(dir)), host: b.Host, broken: o.broken()}
	if s.exit.Reason == vmm.ReasonUnknown {
		s.exit = vmm.Exit{} // not even whether the VMM ended by itself
	}
	how, detail := ending(s, console.Read(dir.Console(), b.Nonce))
	o.log().Info("reconcile: ended while no daemon watched", "ending", how, "detail", detail)
	if err := o.record(ctx, how, detail); err != nil {
		return err
	}
	if how == banger.EndedReboot {
		o.v.task(o.reboot)
	}
	return nil
}

// reconcileUnlaunched clears up after a start that did not get to the launch. A
// start that followed a guest's reboot is made up for.
func (o *owner) reconcileUnlaunched(ctx context.Context, row store.VM) error {
	if err := forgetBoot(o.dir()); err != nil || row.Wanted != banger.WantRunning {
		return err
	}
	if row.Ending == banger.EndedReboot {
		o.v.task(o.reboot)
		return nil
	}
	return o.move(ctx, banger.Stop)
}

// reboot starts a VM whose guest asked for it, unless a command has stopped it in
// the meantime.
func (o *owner) reboot(ctx context.Context) {
	if o.take(ctx) != nil {
		return
	}
	defer o.release()
	row, state, _ := o.now()
	if row.Wanted != banger.WantRunning || state != banger.Stopped {
		return
	}
	op := o.v.Operations.Begin("vm", "reboot", row.Name, row.ID, nil)
	err := o.start(ctx, op, 0)
	defer op.End(ctx, &err)
	switch {
	case err == nil:
	case ctx.Err() != nil: // the daemon stops, and the next one makes up for the start
		if err := o.want(context.WithoutCancel(ctx), banger.WantRunning); err != nil {
			op.Log().Error("leave the start to the next daemon", "err", err)
		}
	default:
		detail := "it did not come back: " + printable(err.Error())
		o.save(func() error { return o.v.Store.SetEnding(ctx, o.id, banger.EndedReboot, detail, row.EndedAt) },
			func(row *store.VM) { row.EndingBy = detail })
	}
}

// want records what is wanted of the VM, whatever it is doing.
func (o *owner) want(ctx context.Context, wanted banger.Wanted) error {
	return o.save(func() error { return o.v.Store.SetWanted(ctx, o.id, wanted) }, func(row *store.VM) { row.Wanted = wanted })
}

// launched reports whether the VMM of the last boot has begun: it creates the console.
func launched(dir config.VMDir) bool {
	_, err := os.Stat(dir.Console())
	return err == nil
}

// newestAgent returns the agent that VMs boot with when neither a bundle nor a
// build offers one: the last that was installed.
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
