package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"banger"
	"banger/internal/config"
	"banger/internal/durable"
	"banger/internal/guest"
	"banger/internal/guest/wire"
	"banger/internal/initrd"
	"banger/internal/operation"
	"banger/internal/store"
	"banger/internal/vm/console"
	"banger/internal/vmm"
)

// direct are the directories that cannot live on overlayfs: what Docker,
// containerd and Podman stack their own overlays in.
var direct = []string{"/var/lib/docker", "/var/lib/containerd", "/var/lib/containers"}

// workMount is where every VM's work disk goes.
const workMount = "/root"

// StartVM implements banger.VMService. A VM that runs already is left alone.
func (v *VMs) StartVM(ctx context.Context, ref string, opts banger.StartVM, progress banger.Progress) (_ banger.VM, err error) {
	row, e, err := v.hold(ctx, ref)
	if err != nil {
		named(&err, "start", ref)
		return banger.VM{}, err
	}
	defer e.release()
	op := v.begin("start", row.ID, row.Name, progress)
	defer op.End(ctx, &err)
	if err := usable(row); err != nil {
		return banger.VM{}, err
	}
	if state, _ := e.now(); state == banger.Stopped {
		if err := v.start(ctx, op, row, e, opts.Timeout); err != nil {
			return banger.VM{}, v.explain(err, row, v.Dirs.VM(row.ID).Console())
		}
	}
	return v.show(ctx, row.ID)
}

func usable(row store.VM) error {
	if row.Phase == store.Ready {
		return nil
	}
	if row.Phase == store.Deleting {
		return &banger.Error{Kind: banger.Conflict, Why: errors.New("it is being deleted"), Fix: "banger vm delete " + row.Name + ", should it still be there"}
	}
	return &banger.Error{Kind: banger.Conflict, Why: errors.New("it is being created"), Fix: "the command again, once it is listed: banger vm list"}
}

// starting is what the steps of a start hand on to each other.
type starting struct {
	*operation.Operation
	v       *VMs
	row     store.VM
	dir     config.VMDir
	entry   *entry
	timeout time.Duration
	lock    *os.File
	boot    boot
	run     *run
	undo    operation.Undo
}

// mostBoots is how often a guest's kernel may try to measure its timer.
const mostBoots = 5

// start brings a stopped VM up. The caller holds it. Whatever fails, the VM is
// stopped again when start returns, and its disks are as the guest left them.
func (v *VMs) start(ctx context.Context, op *operation.Operation, row store.VM, e *entry, timeout time.Duration) error {
	for boots := 1; ; boots++ {
		err := v.startOnce(ctx, op, row, e, timeout)
		var failed *guest.BootError
		if !errors.As(err, &failed) || failed.Step != wire.StepTimer || boots == mostBoots {
			return err
		}
		op.Note("boot", failed.Why+"; it boots again")
	}
}

func (v *VMs) startOnce(ctx context.Context, op *operation.Operation, row store.VM, e *entry, timeout time.Duration) (err error) {
	s := &starting{Operation: op, v: v, row: row, dir: v.Dirs.VM(row.ID), entry: e, timeout: timeout, boot: newBoot()}
	e.setState(banger.Starting)
	defer func() {
		if err != nil {
			e.set(banger.Stopped, nil)
		}
	}()
	defer s.undo.OnError(ctx, &err)
	if err := s.takeTurn(ctx); err != nil {
		return err
	}
	defer func() { <-v.boots }()
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"lock", s.takeLock},
		{"check disks", s.checkDisks},
		{"configure", s.configure},
		{"launch", s.launch},
		{"boot", s.awaitReady},
	} {
		if err := op.Step(ctx, step.name, step.do); err != nil {
			return err
		}
	}
	e.set(banger.Running, s.run)
	v.task(func(ctx context.Context) { v.watch(ctx, row, e, s.run) })
	// The VMM has read it, and it holds the boot's secrets.
	if err := os.Remove(s.dir.Initrd()); err != nil {
		op.Log().Warn("remove initrd", "err", err)
	}
	return nil
}

// takeTurn waits until few enough VMs are booting. Booting takes a CPU for
// seconds, without KVM for much longer: more at once come up no sooner, and
// each may miss its deadline.
func (s *starting) takeTurn(ctx context.Context) error {
	select {
	case s.v.boots <- struct{}{}:
		return nil
	default:
	}
	s.Progress("wait for a turn", fmt.Sprintf("%s waits: %d VMs boot at once", s.row.Name, cap(s.v.boots)))
	select {
	case s.v.boots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.v.ctx.Done():
		return errStopping()
	}
}

func errStopping() error {
	return &banger.Error{Kind: banger.Canceled, Why: errors.New("the daemon is stopping"), Fix: "the command again"}
}

func (s *starting) takeLock(ctx context.Context) error {
	lock, err := vmm.Lock(s.dir.Lock())
	if errors.Is(err, vmm.ErrLocked) {
		return errStranger(s.row)
	}
	if err != nil {
		return err
	}
	s.lock = lock
	s.undo.Push("lock", func(context.Context) error { return s.dropLock() })
	if err := s.v.Store.SetWanted(ctx, s.row.ID, banger.WantRunning); err != nil {
		return err
	}
	s.undo.Push("lock", func(ctx context.Context) error { return s.v.Store.SetWanted(ctx, s.row.ID, banger.WantStopped) })
	return nil
}

func (s *starting) dropLock() error {
	if s.lock == nil {
		return nil
	}
	err := s.lock.Close()
	s.lock = nil
	return err
}

// checkDisks makes sure that everything the VMM will open is there. The links
// to the shared disks are made again if somebody removed them.
func (s *starting) checkDisks(context.Context) error {
	if err := s.v.linkShared(s.dir, s.row); err != nil {
		return err
	}
	for _, path := range []string{s.dir.Overlay(), s.dir.Work()} {
		if _, err := os.Stat(path); err != nil {
			return &banger.Error{Kind: banger.Unready, Why: err,
				Fix: "put the disk back from a backup, or delete the VM: banger vm delete " + s.row.Name}
		}
	}
	return nil
}

func (s *starting) configure(context.Context) error {
	hostKey, err := os.ReadFile(s.dir.HostKey())
	if err != nil {
		return fmt.Errorf("read the host key: %w", err)
	}
	public, err := guest.PublicKey(hostKey)
	if err != nil {
		return fmt.Errorf("read the host key: %w", err)
	}
	_, caps, err := s.v.Drivers.Choose(s.v.ctx, s.row.Driver)
	if err != nil {
		return err
	}
	if s.timeout == 0 {
		s.timeout = caps.BootTimeout
	}
	if caps.Note != "" && s.row.Ending == banger.EndedNever { // said once, when the VM is new
		s.Progress("configure", caps.Note+"; fix: "+caps.Fix)
	}
	data, err := json.Marshal(wire.Config{
		Version: wire.Version, Name: s.row.Name, MachineID: s.row.MachineID,
		Nonce: s.boot.Nonce, Token: s.boot.Token,
		AuthorizedKeys: []string{s.v.authorized},
		HostKey:        string(hostKey), HostKeyPub: public,
		Direct: direct, WorkMount: workMount,
		ResetToOff: !caps.PowersOff,
		UnixNano:   time.Now().UnixNano(),
	})
	if err != nil {
		return err
	}
	base, err := s.v.baseInitrd(s.row.KernelID)
	if err != nil {
		return err
	}
	// Before there is a boot on record: one without a console was not launched.
	err = errors.Join(console.Rotate(s.dir.Console(), s.dir.OldConsole()),
		console.Rotate(s.dir.VMMLog(s.row.Driver), s.dir.OldVMMLog(s.row.Driver)))
	if err != nil {
		return err
	}
	s.undo.Push("configure", func(context.Context) error { return forgetBoot(s.dir) })
	if err := writeBoot(s.dir, s.boot); err != nil {
		return err
	}
	return initrd.Make(s.dir.Initrd(), base, data)
}

// forgetBoot removes the secrets of a boot, also where they were being written
// when a daemon was killed.
func forgetBoot(dir config.VMDir) error {
	return errors.Join(removeAny(dir.Initrd()), removeAny(dir.Boot()), removeAll(dir.Path("."+config.InitrdName+"-*")))
}

func removeAll(pattern string) error {
	paths, err := filepath.Glob(pattern)
	for _, path := range paths {
		err = errors.Join(err, removeAny(path))
	}
	return err
}

func removeAny(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// baseInitrd is the part of an initrd that all boots with a kernel and an
// agent share. It is kept in the cache, by the digests of both.
func (v *VMs) baseInitrd(kernel banger.Digest) (string, error) {
	agent := v.Installed.Agent
	if agent == "" {
		return "", v.missing("the guest agent is not installed")
	}
	path := v.Dirs.BaseInitrd(kernel, agent)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := durable.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	err := durable.Write(path, 0o600, func(file *os.File) error {
		return initrd.WriteBase(file, v.Dirs.Agent(agent), v.Dirs.Kernel(kernel).BootModules())
	})
	if err != nil {
		return "", fmt.Errorf("make the base initrd: %w", err)
	}
	return path, nil
}

func (s *starting) launch(ctx context.Context) error {
	driver, err := s.v.Drivers.Named(s.row.Driver)
	if err != nil {
		return err
	}
	machine, err := driver.Launch(ctx, vmm.Spec{
		ID: s.row.ID, Name: s.row.Name, Dir: string(s.dir), Lock: s.lock,
		Kernel: config.KernelName, Initrd: config.InitrdName,
		Disks: []vmm.Disk{
			{Role: vmm.Base, File: config.BaseName, ReadOnly: true},
			{Role: vmm.Modules, File: config.ModulesName, ReadOnly: true},
			{Role: vmm.Overlay, File: config.OverlayName},
			{Role: vmm.Work, File: config.WorkName},
		},
		VCPUs: s.row.VCPUs, Memory: s.row.Memory,
		Console: config.ConsoleName, Log: config.VMMLogName(driver.Name()),
	})
	if err != nil {
		return err
	}
	s.run = newRun(machine, s.boot)
	s.run.launched = s.row.Memory
	s.undo.Push("launch", func(context.Context) error {
		err := s.run.kill()
		<-machine.Ended()
		return errors.Join(err, machine.Close())
	})
	s.entry.set(banger.Starting, s.run)
	s.v.boundLogs(s.row, s.run)
	s.v.isolate(s.row, s.run)
	// From here on the VMM alone holds the lock, whatever becomes of us.
	return s.dropLock()
}

// isolate gives a VMM its own control group while its guest boots. A VMM does as
// well without.
func (v *VMs) isolate(row store.VM, r *run) {
	if v.Isolate == nil {
		return
	}
	v.task(func(ctx context.Context) {
		if err := v.Isolate(ctx, row.ID, r.machine.PID()); err != nil && ctx.Err() == nil {
			v.Log.Info("the VMM stays in the daemon's control group", "vm", row.Name, "id", row.ID, "err", err)
		}
	})
}

// boundLogs keeps what a VMM that runs writes from filling the host, and ends one
// whose guest has halted.
func (v *VMs) boundLogs(row store.VM, r *run) {
	dir := v.Dirs.VM(row.ID)
	written := func() {
		if console.Halted(dir.Console()) && r.halting.CompareAndSwap(false, true) {
			v.task(r.endHalted)
		}
	}
	if err := errors.Join(v.logs.Bound(dir.Console(), written), v.logs.Bound(dir.VMMLog(row.Driver), nil)); err != nil {
		v.Log.Warn("bound the logs", "vm", row.Name, "id", row.ID, "err", err)
	}
}

// awaitReady waits until the guest's agent has answered. It is told, it does
// not ask: by a hello, a failed boot step, or the end of the VMM.
func (s *starting) awaitReady(ctx context.Context) error {
	r := s.run
	s.v.task(func(ctx context.Context) { r.tend(ctx, s.v.Program) })
	timer := time.NewTimer(s.timeout)
	defer timer.Stop()
	select {
	case <-r.ready:
		return nil
	case err := <-r.failed:
		return err
	case <-r.machine.Ended():
		select {
		case err := <-r.failed: // told just before the end
			return err
		default:
		}
		if failed := console.Read(s.dir.Console(), r.boot.Nonce).Failed; failed != nil {
			return &guest.BootError{Failure: *failed}
		}
		ending, detail := r.ending(s.dir)
		if detail == "" {
			detail = string(ending)
		}
		return fmt.Errorf("the VM ended while it booted: %s", detail)
	case <-timer.C:
		return &banger.Error{Kind: banger.TimedOut, Why: fmt.Errorf("the guest's agent did not answer within %v", s.timeout)}
	case <-ctx.Done():
		return ctx.Err()
	case <-s.v.ctx.Done():
		return errStopping()
	}
}

// explain adds to a failed start what the console knows of it, and where to
// read on. log is the console as it will be found by the user.
func (v *VMs) explain(err error, row store.VM, log string) error {
	if banger.FixOf(err) != "" || errors.Is(err, context.Canceled) {
		return err
	}
	var failed *guest.BootError
	if errors.As(err, &failed) && failed.Fix != "" {
		return &banger.Error{Kind: banger.Unready, Why: err, Fix: guest.Printable(failed.Fix)}
	}
	if failed := console.Read(log, ""); failed.Panic != "" {
		err = fmt.Errorf("%w (%s)", err, failed.Panic)
	}
	return &banger.Error{Why: err, Fix: "less " + log}
}
