package vm

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/config"
	"banger/internal/guest"
	"banger/internal/guest/wire"
	"banger/internal/store"
	"banger/internal/vm/console"
	"banger/internal/vmm"
)

// afterBye is how long a VMM may take to end once its guest has said bye. Some
// guests halt and leave it running.
const afterBye = 20 * time.Second

// run is one run of a VM's VMM, from launch or adoption to its end.
type run struct {
	machine vmm.Machine
	boot    boot
	// launched is the most memory that it can have; 0 where that cannot change.
	launched banger.Size
	ready    chan struct{} // closed at the first hello
	failed   chan error    // a boot step that failed, or a stranger: at most one
	halting  atomic.Bool   // the guest's kernel has said so, and its agent is asked
	asked    atomic.Bool   // to stop, and the guest said yes
	tended   chan struct{} // closed when nothing more will be heard from the guest
	over     chan struct{} // closed when the end is on record

	timeAsked chan struct{} // holds a token when the guest is to be told the time

	mu      sync.Mutex
	control *guest.Control
	hello   wire.Hello
	bye     wire.Verb
	why     string // the agent's, for ending the machine itself
	killed  bool
	sent    unix.Signal   // the last signal that could have ended the VMM
	changed chan struct{} // replaced, and closed, at each change of control and of hello.Init
}

func newRun(machine vmm.Machine, b boot) *run {
	return &run{machine: machine, boot: b, ready: make(chan struct{}), failed: make(chan error, 1),
		tended: make(chan struct{}), over: make(chan struct{}), changed: make(chan struct{}), timeAsked: make(chan struct{}, 1)}
}

// tend keeps a control connection to the guest until the VMM ends or ctx does.
func (r *run) tend(ctx context.Context, program string) {
	defer close(r.tended)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-r.machine.Ended():
			cancel()
		case <-ctx.Done():
		}
	}()
	go r.keepTime(ctx)
	for failures := 0; ; {
		control, err := r.connect(ctx, program)
		if err == nil {
			failures = 0
			select { // what the guest said before the end is still read
			case <-control.Done():
			case <-ctx.Done():
				r.drain(control)
			}
			r.setControl(nil)
		} else if failures++; !r.report(err) {
			return
		}
		if !wait(ctx, backoff(failures)) {
			return
		}
	}
}

// backoff keeps a guest that answers with nonsense from keeping us busy. A
// guest that does not answer costs nothing: dialling waits for it.
func backoff(failures int) time.Duration {
	return min(time.Duration(failures)*100*time.Millisecond, 5*time.Second)
}

func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

func (r *run) connect(ctx context.Context, program string) (*guest.Control, error) {
	conn, err := r.machine.Dial(ctx, wire.PortControl)
	if err != nil {
		return nil, err
	}
	opened := make(chan struct{}) // an event is newer than the hello
	control, err := guest.OpenControl(ctx, conn, r.boot.Identity, program, func(event wire.Event) {
		<-opened
		r.heard(event)
	})
	if err != nil {
		return nil, err
	}
	r.setControl(control)
	close(opened)
	r.askTime() // nobody may have watched the clock
	return control, nil
}

// report hands a failure that will not heal to whoever waits for the boot, and
// says whether dialling again makes sense.
func (r *run) report(err error) bool {
	var boot *guest.BootError
	if !errors.As(err, &boot) {
		return true
	}
	select {
	case r.failed <- err:
	default:
	}
	return false
}

// drain waits a moment for a control connection to end by itself after the VMM
// did, so that a bye on its way is heard. One to a guest that goes on is closed.
func (r *run) drain(control *guest.Control) {
	defer control.Close()
	if r.alive() {
		return
	}
	select {
	case <-control.Done():
	case <-time.After(2 * time.Second):
	}
}

func (r *run) setControl(control *guest.Control) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if control == nil && r.control == nil {
		return
	}
	r.control = control
	if control != nil {
		r.hello = control.Hello()
		select {
		case <-r.ready:
		default:
			close(r.ready)
		}
	}
	r.tell()
}

// tell wakes whoever waits for a change. The caller holds mu.
func (r *run) tell() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// connected returns the control connection, and waits for one within ctx.
func (r *run) connected(ctx context.Context) (*guest.Control, error) {
	for {
		r.mu.Lock()
		control, changed := r.control, r.changed
		r.mu.Unlock()
		if control != nil {
			return control, nil
		}
		select {
		case <-changed:
		case <-r.machine.Ended():
			return nil, errors.New("the VMM has ended")
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// heard takes an event from the guest. A bye counts only with this boot's nonce.
func (r *run) heard(event wire.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case event.Kind == wire.EventInit:
		r.hello.Init = event.Init
		r.tell()
	case event.Kind == wire.EventBye && event.Nonce == r.boot.Nonce && r.bye == "":
		r.bye, r.why = event.Verb, guest.Printable(event.Why)
		timer := time.AfterFunc(afterBye, func() { r.machine.Kill() })
		go func() { <-r.machine.Ended(); timer.Stop() }()
	}
}

func (r *run) kill() error {
	r.mu.Lock()
	r.killed = true
	r.mu.Unlock()
	return r.machine.Kill()
}

// haltTime is how long an agent may be silent after its kernel said that it has
// halted: anything that may write to the console can say that.
const haltTime = 3 * time.Second

// endHalted ends the VMM of a guest that has halted. Nothing else would.
func (r *run) endHalted(ctx context.Context) {
	defer r.halting.Store(false)
	if !r.answers(ctx) && ctx.Err() == nil {
		r.machine.Kill()
	}
}

// answers says whether a guest whose kernel seems to have halted has not.
func (r *run) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, haltTime)
	defer cancel()
	return r.ask(ctx, wire.MethodPing, nil) == nil
}

const switchedOff = "the guest switched itself off without unmounting its disks"

// ending tells how a run ended from everything that was seen: the guest's own
// words first, then what the VMM saw, then the console.
func (r *run) ending(dir config.VMDir) (banger.Ending, string) {
	<-r.tended
	r.mu.Lock()
	verb, why, killed, sent := r.bye, r.why, r.killed, r.sent
	r.mu.Unlock()
	exit, words := r.machine.Exit(), console.Read(dir.Console(), r.boot.Nonce)
	if verb == "" {
		verb, why = words.Bye, words.Why
	}
	switch {
	case verb == wire.Reboot:
		return banger.EndedReboot, why
	case verb == wire.Halt:
		return banger.EndedHalt, why
	case verb == wire.Poweroff:
		return banger.EndedPoweroff, why
	case words.Kernel == console.KernelHalted:
		return banger.EndedUnclean, "the guest halted without unmounting its disks"
	case words.Kernel == console.KernelOff:
		return banger.EndedUnclean, switchedOff
	case sent != 0 && exit.Reason != vmm.ReasonPoweroff && exit.Reason != vmm.ReasonReset:
		return banger.EndedKilled, "the VMM ended after it was sent " + signalName(sent)
	case killed || exit.Reason == vmm.ReasonKilled:
		return banger.EndedKilled, "the VMM was ended by banger"
	case words.Failed != nil:
		return banger.EndedUnclean, fmt.Sprintf("boot step %q: %s", words.Failed.Step, words.Failed.Why)
	case words.Panic != "":
		return banger.EndedCrashed, words.Panic
	case words.Kernel == console.KernelReset:
		return banger.EndedUnclean, "the guest reset itself without unmounting its disks"
	}
	switch exit.Reason {
	case vmm.ReasonPoweroff:
		return banger.EndedUnclean, switchedOff
	case vmm.ReasonReset:
		return banger.EndedCrashed, "the guest was reset without a word" + in(exit.Detail)
	case vmm.ReasonSignal, vmm.ReasonFailed:
		return banger.EndedVMMDied, guest.Printable(exit.Detail)
	case vmm.ReasonUnknown:
		return banger.EndedVMMDied, "the VMM ended without a word; this daemon is not the one that started it" + in(exit.Detail)
	}
	if r.boot.Host != "" && r.boot.Host == hostBoot() {
		return banger.EndedVMMDied, "the VMM was killed while no daemon watched: it left no word, and this host has been up since"
	}
	return banger.EndedHostDown, "it ended while no daemon watched, and left no word"
}

// in puts what there is to say in parentheses.
func in(detail string) string {
	if detail == "" {
		return ""
	}
	return " (" + guest.Printable(detail) + ")"
}

// watch waits for the end of a run and puts it on record. A guest that asked
// for a reboot is started again.
func (v *VMs) watch(ctx context.Context, row store.VM, e *entry, r *run) {
	select {
	case <-r.machine.Ended():
	case <-ctx.Done():
		<-r.tended
		r.machine.Close()
		return
	}
	dir := v.Dirs.VM(row.ID)
	ending, detail := r.ending(dir)
	log := v.Log.With("vm", row.Name, "id", row.ID)
	log.Info("VM ended", "ending", ending, "detail", detail, "exit", r.machine.Exit())
	ctx = context.WithoutCancel(ctx)
	if err := v.record(ctx, row.ID, ending, detail); err != nil {
		log.Error("record the end", "err", err)
	}
	r.machine.Close()
	e.set(banger.Stopped, nil)
	close(r.over)
	if ending == banger.EndedReboot {
		v.task(func(ctx context.Context) { v.reboot(ctx, row.ID) })
	}
}

// record writes an ending down. Unless the guest wants to come back, the VM is
// wanted no longer. The boot's secrets go last: they are how the ending is told.
func (v *VMs) record(ctx context.Context, id banger.VMID, ending banger.Ending, detail string) error {
	err := v.Store.SetEnding(ctx, id, ending, detail, time.Now().UTC())
	if err == nil && ending != banger.EndedReboot {
		err = v.Store.SetWanted(ctx, id, banger.WantStopped)
	}
	if err != nil {
		return err
	}
	return forgetBoot(v.Dirs.VM(id))
}

// reboot starts a VM whose guest asked for it, unless somebody has stopped it
// in the meantime.
func (v *VMs) reboot(ctx context.Context, id banger.VMID) {
	row, e, err := v.hold(ctx, string(id))
	if err != nil {
		return
	}
	defer e.release()
	if state, _ := e.now(); row.Phase != store.Ready || row.Wanted != banger.WantRunning || state != banger.Stopped {
		return
	}
	op := v.begin("reboot", row.ID, row.Name, nil)
	err = v.start(ctx, op, row, e, 0)
	if err != nil && ctx.Err() != nil { // the daemon stops: the next one owes it the start
		if err := v.Store.SetWanted(context.WithoutCancel(ctx), id, banger.WantRunning); err != nil {
			op.Log().Error("leave the start to the next daemon", "err", err)
		}
		return
	}
	if err != nil {
		op.Log().Error("start after the guest's reboot", "err", err)
		v.Store.SetEnding(context.WithoutCancel(ctx), id, banger.EndedReboot, "it did not come back: "+guest.Printable(err.Error()), time.Now().UTC())
	}
}
