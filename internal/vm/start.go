package vm

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/config"
	"banger/internal/guest"
	"banger/internal/guest/wire"
	"banger/internal/initrd"
	"banger/internal/operation"
	"banger/internal/store"
	"banger/internal/vm/console"
	"banger/internal/vmm"
)

// direct are the directories that cannot be on an overlay file system, since
// Docker, containerd and Podman create overlays in them.
var direct = []string{"/var/lib/docker", "/var/lib/containerd", "/var/lib/containers"}

// workMount is where the work disk is mounted.
const workMount = "/root"

// StartVM implements banger.VMService. A VM that runs is left alone, once its
// guest has answered: one that is going down is waited for, and started again.
func (v *VMs) StartVM(ctx context.Context, ref string, opts banger.StartVM, progress banger.Progress) (_ banger.VM, err error) {
	o, op, end, err := v.begin(ctx, banger.Start, ref, progress)
	if err != nil {
		return banger.VM{}, err
	}
	defer func() { end(&err) }()
	if r := o.running(); r != nil {
		stays, err := r.comesUp(ctx, op, opts.Timeout)
		if stays || err != nil {
			return o.show(), err
		}
		if err := o.awaitDown(ctx, op, banger.Start); err != nil {
			return banger.VM{}, err
		}
	}
	if o.running() == nil {
		if err := o.start(ctx, op, opts.Timeout); err != nil {
			return banger.VM{}, v.explain(err, o.dir().Console())
		}
	}
	return o.show(), nil
}

// comesUp reports whether the VM runs and continues to run. If not, it is going down.
func (r *run) comesUp(ctx context.Context, op *operation.Operation, timeout time.Duration) (bool, error) {
	if err := r.paused(); err != nil {
		return false, err
	}
	if booted, err := r.finishBoot(ctx, op, timeout); !booted || err != nil {
		return false, err
	}
	return r.staysUp(ctx), nil
}

// finishBoot waits for the agent of a VM that was adopted amid its boot, as its own start
// would have done. A boot that has failed is ended, so that the VM can be started again. A
// guest that is only silent may have been at work for long, and is left alone.
func (r *run) finishBoot(ctx context.Context, op *operation.Operation, timeout time.Duration) (booted bool, err error) {
	if booted, _ := r.bootState(); booted {
		return true, nil
	}
	row, _, _ := r.o.now()
	_, caps, err := r.o.v.Drivers.Choose(ctx, row.Driver)
	if err != nil {
		return false, err
	}
	err = op.Step(ctx, "boot", func(ctx context.Context) error {
		err := r.awaitAnswer(ctx, cmp.Or(timeout, caps.BootTimeout), timeout == 0)
		if _, over := r.bootState(); over && err != nil {
			op.Note("boot", "the boot that was under way has failed; it boots again")
			return r.signal(unix.SIGKILL)
		}
		booted = err == nil
		return err
	})
	if banger.KindOf(err) == banger.TimedOut {
		err = &banger.Error{Kind: banger.TimedOut, Why: err, Fix: "banger vm restart " + row.Name}
	}
	return booted, err
}

// stayTime is how long a guest may take to answer whether it is shutting down. One
// that does not answer and does not end is busy, and runs.
const stayTime = 10 * time.Second

// staysUp reports whether the guest is not shutting down. The agent makes sure of that
// before it answers.
func (r *run) staysUp(ctx context.Context) bool {
	bounded, cancel := context.WithTimeout(ctx, stayTime)
	defer cancel()
	var info wire.Info
	if control, err := r.connected(bounded); err == nil && control.Call(bounded, wire.MethodInfo, nil, &info) == nil && leaves(info.Init) {
		r.change(func() { r.follow(info.Init) }) // the event may come after the answer
	}
	_, state, now := r.o.now()
	return now == r && state.Up() && !r.dying()
}

// starting is the state that the steps of a start share.
type starting struct {
	*operation.Operation
	*owner
	row     store.VM
	caps    vmm.Capabilities
	timeout time.Duration
	patient bool // nobody has asked for the timeout
	lock    *os.File
	boot    boot
	nic     *vmm.NIC
	inside  *vmm.Namespace
	run     *run
	undo    operation.Undo
}

// mostBoots is how often a guest's kernel may try to measure its timer.
const mostBoots = 5

// start brings the stopped VM up. The caller has its turn. After a failure the VM
// is stopped again, and its disks are as the guest left them.
func (o *owner) start(ctx context.Context, op *operation.Operation, timeout time.Duration) error {
	row, _, _ := o.now()
	_, caps, err := o.v.Drivers.Choose(ctx, row.Driver)
	if err != nil {
		return err
	}
	return o.startWith(ctx, op, caps, timeout)
}

// startWith is start for a caller that knows what the VM's driver can do.
func (o *owner) startWith(ctx context.Context, op *operation.Operation, caps vmm.Capabilities, timeout time.Duration) error {
	for boots := 1; ; boots++ {
		err := o.startOnce(ctx, op, caps, timeout)
		var failed *guest.BootError
		if !errors.As(err, &failed) || failed.Step != wire.StepTimer || boots == mostBoots {
			return err
		}
		op.Note("boot", failed.Why+"; it boots again")
	}
}

func (o *owner) startOnce(ctx context.Context, op *operation.Operation, caps vmm.Capabilities, timeout time.Duration) (err error) {
	if err := o.noStranger(ctx); err != nil {
		return err
	}
	if err := o.move(ctx, banger.Start); err != nil {
		return err
	}
	s := &starting{Operation: op, owner: o, caps: caps, timeout: cmp.Or(timeout, caps.BootTimeout), patient: timeout == 0, boot: newBoot()}
	s.row, _, _ = o.now()
	defer func() {
		if err != nil {
			err = errors.Join(err, o.fail(ctx))
		}
	}()
	defer s.undo.OnError(ctx, &err)
	if err := s.takeTurn(ctx); err != nil {
		return err
	}
	defer func() { <-o.v.boots }()
	err = op.Run(ctx,
		operation.Step{Name: "lock", Do: s.takeLock},
		operation.Step{Name: "check disks", Do: s.checkDisks},
		operation.Step{Name: connectStep, Do: s.connect},
		operation.Step{Name: "configure", Do: s.configure},
		operation.Step{Name: "launch", Do: s.launch},
		operation.Step{Name: "boot", Do: s.awaitReady})
	if err != nil {
		return err
	}
	o.v.task(func(ctx context.Context) { o.watch(ctx, s.run) })
	// The VMM has read it, and it holds the boot's secrets.
	if err := os.Remove(o.dir().Initrd()); err != nil {
		op.Log().Warn("remove initrd", "err", err)
	}
	return nil
}

// fail marks a VM as stopped after its start was undone.
func (o *owner) fail(ctx context.Context) error {
	err := o.move(context.WithoutCancel(ctx), banger.Failed)
	if err != nil {
		o.happen(banger.Failed)
	}
	return err
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

func (s *starting) takeLock(context.Context) error {
	lock, err := vmm.Lock(s.dir().Lock())
	if errors.Is(err, vmm.ErrLocked) {
		return s.errStranger()
	}
	if err != nil {
		return err
	}
	s.lock = lock
	s.undo.Push("lock", func(context.Context) error { return s.dropLock() })
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

func (s *starting) configure(context.Context) error {
	hostKey, err := os.ReadFile(s.dir().HostKey())
	if err != nil {
		return fmt.Errorf("read the host key: %w", err)
	}
	public, err := guest.PublicKey(hostKey)
	if err != nil {
		return fmt.Errorf("read the host key: %w", err)
	}
	if s.caps.Note != "" && s.row.Ending == banger.EndedNever { // once, when the VM is new
		s.Progress("configure", withFix(s.caps.Note, s.caps.Fix))
	}
	own, err := s.boot.makeKey()
	if err != nil {
		return err
	}
	told := wire.Config{
		Version: wire.Version, Name: s.row.Name, MachineID: s.row.MachineID,
		Nonce: s.boot.Nonce, Token: s.boot.Token,
		AuthorizedKeys: []string{s.v.authorized, own}, User: s.v.Config.User,
		HostKey: string(hostKey), HostKeyPub: public,
		Direct: direct, WorkMount: workMount,
		ResetToOff: !s.caps.PowersOff,
		UnixNano:   time.Now().UnixNano(),
		Network:    s.networkConfig(),
	}
	if s.helper != nil {
		s.helper.configure(&told)
	}
	data, err := json.Marshal(told)
	if err != nil {
		return err
	}
	base, err := s.v.baseInitrd(s.row.KernelID)
	if err != nil {
		return err
	}
	// Before there is a boot on record: one without a console was not launched.
	err = errors.Join(console.Rotate(s.dir().Console(), s.dir().OldConsole()),
		console.Rotate(s.dir().VMMLog(s.row.Driver), s.dir().OldVMMLog(s.row.Driver)))
	if err != nil {
		return err
	}
	s.undo.Push("configure", func(context.Context) error { return forgetBoot(s.dir()) })
	if err := writeBoot(s.dir(), s.boot); err != nil {
		return err
	}
	return initrd.Make(s.dir().Initrd(), base, data)
}

func (s *starting) launch(ctx context.Context) error {
	driver, err := s.v.Drivers.Named(s.row.Driver)
	if err != nil {
		return err
	}
	machine, err := driver.Launch(ctx, vmm.Spec{
		ID: s.row.ID, Name: s.row.Name, Dir: string(s.dir()), Lock: s.lock,
		Kernel: config.KernelName, Initrd: config.InitrdName,
		Disks: []vmm.Disk{
			{Role: vmm.Base, File: config.BaseName, ReadOnly: true},
			{Role: vmm.Modules, File: config.ModulesName, ReadOnly: true},
			{Role: vmm.Overlay, File: config.OverlayName},
			{Role: vmm.Work, File: config.WorkName},
		},
		VCPUs: s.row.VCPUs, Memory: s.row.Memory, NIC: s.nic, Inside: s.inside,
		Console: config.ConsoleName, Log: config.VMMLogName(driver.Name()),
	})
	if err != nil {
		return err
	}
	r := newRun(s.owner, machine, s.boot)
	r.launched = s.row.Memory
	s.run = r
	s.undo.Push("launch", func(context.Context) error {
		err := r.kill()
		<-machine.Ended()
		return errors.Join(err, machine.Close())
	})
	s.began(r)
	s.notePorts()
	if err := s.v.Network.Launched(s.row.ID, machine.PID()); err != nil {
		s.Log().Warn("tell the network's helper of a VM", "err", err)
	}
	// From here on the VMM alone holds the lock, whatever becomes of the daemon.
	return s.dropLock()
}

// began makes r the VM's run, limits its logs and gives its VMM a control group.
func (o *owner) began(r *run) {
	o.mu.Lock()
	o.run = r
	o.forward()
	o.tell()
	o.mu.Unlock()
	o.limitLogs(r)
	if o.v.Isolate == nil {
		return
	}
	o.v.task(func(ctx context.Context) { // while the guest boots; a VMM does as well without
		if err := o.v.Isolate(ctx, string(o.id), r.machine.PID()); err != nil && ctx.Err() == nil {
			o.log().Info("the VMM stays in the daemon's control group", "err", err)
		}
	})
}

// limitLogs keeps what the VMM writes from filling the host, and ends a VMM whose
// guest has halted.
func (o *owner) limitLogs(r *run) {
	row, _, _ := o.now()
	dir := o.dir()
	written := func() {
		if console.Halted(dir.Console()) && r.halting.CompareAndSwap(false, true) {
			o.v.task(r.endHalted)
		}
	}
	if err := errors.Join(o.v.logs.Bound(dir.Console(), written), o.v.logs.Bound(dir.VMMLog(row.Driver), nil)); err != nil {
		o.log().Warn("limit the logs", "err", err)
	}
}

// errGone means that the VMM has ended.
var errGone = errors.New("the VMM has ended")

// awaitReady waits until the guest's agent has answered. It waits for events and
// never polls: a hello, a failed boot step, or the end of the VMM.
func (s *starting) awaitReady(ctx context.Context) error {
	s.v.task(s.run.tend)
	return s.run.awaitAnswer(ctx, s.timeout, s.patient)
}

// awaitAnswer waits until the guest's agent has answered once, its boot has failed, or a
// limit has passed. The time that a VMM waits for a CPU counts only if the user has set the
// limit, and patient is false.
func (r *run) awaitAnswer(ctx context.Context, limit time.Duration, patient bool) error {
	late := &banger.Error{Kind: banger.TimedOut, Why: fmt.Errorf("the guest's agent did not answer within %v", limit)}
	starved := func() time.Duration { return 0 }
	if patient {
		starved = func() time.Duration { return starvedFor(r.machine.PID()) }
	}
	ctx, cancel := withPatience(ctx, limit, starved, late)
	defer cancel()
	ctx, give := context.WithCancelCause(ctx)
	defer give(nil)
	defer context.AfterFunc(r.o.v.ctx, func() { give(errStopping()) })()
	err := r.o.await(ctx, func() (bool, error) {
		if r.gone && r.failed == nil && !r.answered {
			return false, errGone
		}
		return r.answered, r.failed
	})
	if errors.Is(err, errGone) {
		return r.whyGone()
	}
	return err
}

// whyGone returns the reason why a VMM ended while its guest booted.
func (r *run) whyGone() error {
	words := console.Read(r.o.dir().Console(), r.boot.Nonce)
	if words.Failed != nil {
		return &guest.BootError{Failure: *words.Failed}
	}
	r.o.mu.Lock()
	s := r.seen
	r.o.mu.Unlock()
	s.exit = r.machine.Exit()
	how, detail := ending(s, words)
	return &banger.Error{Why: fmt.Errorf("the VM ended while it booted: %s", cmp.Or(detail, string(how)))}
}

// explain adds what the console says to the error of a failed start, and its fix.
func (v *VMs) explain(err error, path string) error {
	var failed *guest.BootError
	if !errors.As(err, &failed) { // the host's disk may be full, not the guest's
		err = v.noSpace(err)
	}
	if banger.FixOf(err) != "" || errors.Is(err, context.Canceled) {
		return err
	}
	if failed != nil && failed.Fix != "" {
		return &banger.Error{Kind: banger.Unready, Why: failed, Fix: printable(failed.Fix)}
	}
	err = operation.Plain(err)
	if words := console.Read(path, ""); words.Panic != "" && !strings.Contains(err.Error(), words.Panic) {
		err = fmt.Errorf("%w (%s)", err, words.Panic)
	}
	return &banger.Error{Why: err, Fix: readLog + path}
}
