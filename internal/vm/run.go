package vm

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/guest"
	"banger/internal/guest/wire"
	"banger/internal/vmm"
)

// afterBye is how long a VMM may take to end once its guest has said bye. Some
// guests halt and leave it running.
const afterBye = 20 * time.Second

// run is one run of a VM's VMM, from launch or adoption to its end. It belongs
// to the VM's owner.
type run struct {
	o       *owner
	machine vmm.Machine
	boot    boot
	dialer  *guest.Dialer
	expects atomic.Bool // connections to the guest are being prepared
	// launched is the most memory that it can have; 0 where that cannot change.
	launched banger.Size

	halting   atomic.Bool   // the guest's kernel has said that it halted, and its agent is asked
	tended    chan struct{} // closed when nothing more will be heard from the guest
	timeAsked chan struct{} // holds a token when the guest is to be told the time

	// The rest is under the owner's mu.
	control  *guest.Control  // nil while the agent is not connected
	answered bool            // the agent has said hello once
	hello    wire.Hello      // the newest, with what the events since told
	failed   error           // a boot step that failed, or somebody else's agent
	gone     bool            // the VMM has ended, and all that its guest said is heard
	asked    bool            // to stop, and the guest said yes
	disks    []vmm.DiskError // those that fail on the host
	seen     seen            // how it will have ended
}

func newRun(o *owner, machine vmm.Machine, b boot) *run {
	r := &run{o: o, machine: machine, boot: b, tended: make(chan struct{}), timeAsked: make(chan struct{}, 1), seen: seen{host: b.Host}}
	r.dialer = newDialer(r)
	return r
}

// tend keeps a control connection to the guest until the VMM ends or ctx does.
func (r *run) tend(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-r.machine.Ended():
			cancel()
			<-r.tended
			r.change(func() { r.gone = true; r.o.forward() })
		case <-ctx.Done():
		}
	}()
	go r.keepTime(ctx)
	go r.watchDisks(ctx)
	r.listen(ctx)
	close(r.tended)
	<-ctx.Done()
}

// listen connects to the agent, again and again, until ctx ends or a failure
// that will not heal is told.
func (r *run) listen(ctx context.Context) {
	for failures := 0; ; {
		control, err := r.connect(ctx)
		if err == nil {
			failures = 0
			select { // what the guest said before the end is still read
			case <-control.Done():
			case <-ctx.Done():
				r.drain(control)
			}
			r.change(func() { r.control = nil })
		} else if failures++; !r.heals(err) {
			return
		}
		pause := time.NewTimer(backoff(failures))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return
		}
	}
}

// backoff keeps a guest that answers with nonsense from keeping us busy. A
// guest that does not answer costs nothing: dialling waits for it.
func backoff(failures int) time.Duration {
	return min(time.Duration(failures)*100*time.Millisecond, 5*time.Second)
}

func (r *run) connect(ctx context.Context) (*guest.Control, error) {
	conn, err := r.machine.Dial(ctx, wire.PortControl)
	if err != nil {
		return nil, err
	}
	opened := make(chan struct{}) // an event is newer than the hello
	control, err := guest.OpenControl(ctx, conn, r.boot.Identity, r.o.v.Program, func(event wire.Event) {
		<-opened
		r.heard(event)
	})
	if err != nil {
		return nil, err
	}
	r.change(func() {
		r.control, r.answered, r.hello = control, true, control.Hello()
		r.follow(r.hello.Init)
		r.o.forward()
	})
	close(opened)
	if len(control.Hello().Disks) > 0 {
		r.o.suspect()
	}
	if r.outdated() {
		r.o.v.task(func(ctx context.Context) {
			if err := r.tellAddress(ctx); err != nil && ctx.Err() == nil {
				r.o.log().Warn("tell the guest its address", "err", err)
			}
		})
	}
	r.askTime() // the clock was not watched while there was no connection
	return control, nil
}

// change makes a change of the run, and tells whoever waits for one.
func (r *run) change(f func()) {
	r.o.mu.Lock()
	defer r.o.mu.Unlock()
	f()
	r.o.tell()
}

// heals reports whether it makes sense to dial again after err. If not, it is
// the reason why the boot failed.
func (r *run) heals(err error) bool {
	var boot *guest.BootError
	if !errors.As(err, &boot) {
		return true
	}
	r.change(func() { r.failed = err })
	return false
}

// drain waits a moment for a control connection to end by itself after the VMM
// did, so that a bye on its way is heard. It closes one to a guest that runs.
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

// heard takes an event from the guest. A bye counts only with this boot's nonce.
func (r *run) heard(event wire.Event) {
	if len(event.Disks) > 0 {
		r.o.suspect()
	}
	r.change(func() {
		switch {
		case event.Kind == wire.EventInit:
			r.follow(event.Init)
			r.hello.Init, r.hello.InitWhy = event.Init, event.Why
		case event.Kind == wire.EventDisks:
			r.hello.Disks = event.Disks
		case event.Kind == wire.EventPorts:
			r.expect(event.Ports)
			r.hello.Ports = event.Ports
			r.o.forward()
		case event.Kind == wire.EventBye && event.Nonce == r.boot.Nonce && r.seen.bye == "":
			r.seen.bye, r.seen.why = event.Verb, printable(event.Why)
			if len(event.Disks) > 0 {
				r.hello.Disks = event.Disks
			}
			r.follow(wire.InitShutdown)
			timer := time.AfterFunc(afterBye, func() { r.machine.Kill() })
			go func() { <-r.machine.Ended(); timer.Stop() }()
		}
	})
}

// follow makes the transition that the guest's init makes. The caller holds the
// owner's mu, and r.hello still has the init's last state.
func (r *run) follow(init wire.Init) {
	o := r.o
	if o.run != r {
		return // a start that has failed already
	}
	switch init {
	case wire.InitStopping, wire.InitShutdown:
		if o.state.Up() {
			o.become(banger.Leaving)
		}
	case wire.InitStarting, wire.InitHears:
		softReboot := o.state == banger.Stopping && leaves(r.hello.Init)
		if o.state == banger.Starting || o.state == banger.Running || softReboot {
			o.become(banger.Answered)
		}
	default: // it has started everything that it will
		if o.state == banger.Starting {
			o.become(banger.Answered)
		}
		if o.state == banger.Booting {
			o.become(banger.Booted)
		}
	}
}

// leaves reports whether an init in this state is shutting the machine down.
func leaves(init wire.Init) bool { return init == wire.InitStopping || init == wire.InitShutdown }

// connected returns the control connection, and waits for one within ctx.
func (r *run) connected(ctx context.Context) (control *guest.Control, err error) {
	err = r.o.await(ctx, func() (bool, error) {
		control = r.control
		if control == nil && (r.gone || !r.alive()) {
			return false, errors.New("the VMM has ended")
		}
		return control != nil, nil
	})
	return control, err
}

// ask makes a request of the agent, and waits within ctx for its answer.
func (r *run) ask(ctx context.Context, method string, params any) error {
	control, err := r.connected(ctx)
	if err != nil {
		return err
	}
	return control.Call(ctx, method, params, nil)
}

func (r *run) kill() error {
	r.o.mu.Lock()
	r.seen.killed = true
	r.o.mu.Unlock()
	return r.machine.Kill()
}

// signal sends the VMM a signal, which may be how it ends.
func (r *run) signal(sig unix.Signal) error {
	r.o.mu.Lock()
	if endsWithin(sig) > 0 {
		r.seen.sent = sig
	}
	r.o.mu.Unlock()
	if err := r.machine.Signal(sig); err != nil && r.alive() {
		return err
	}
	return nil // a VMM that has ended just now has nothing to hear
}

// survived forgets a signal that a VMM handles: its end, if it comes, has another cause.
func (r *run) survived(sig unix.Signal) {
	r.o.mu.Lock()
	defer r.o.mu.Unlock()
	if r.seen.sent == sig {
		r.seen.sent = 0
	}
}

// ended waits until the run's end is on record.
func (r *run) ended(ctx context.Context) error {
	return r.o.await(ctx, func() (bool, error) { return r.o.run != r, nil })
}

// stops reports whether the guest was asked to stop, or its VMM is being killed.
func (r *run) stops() bool {
	r.o.mu.Lock()
	defer r.o.mu.Unlock()
	return r.seen.killed || r.asked
}

// bootState reports whether the agent has answered this daemon once, and whether the boot
// is over in any way.
func (r *run) bootState() (booted, over bool) {
	r.o.mu.Lock()
	defer r.o.mu.Unlock()
	return r.answered, r.answered || r.gone || r.failed != nil
}

func (r *run) alive() bool {
	select {
	case <-r.machine.Ended():
		return false
	default:
		return true
	}
}

// haltTime is how long an agent may be silent after its kernel said that it has
// halted: anything that may write to the console can say that.
const haltTime = 3 * time.Second

// endHalted ends the VMM of a guest that has halted. Nothing else would.
func (r *run) endHalted(ctx context.Context) {
	defer r.halting.Store(false)
	if !r.answers(ctx, haltTime) && ctx.Err() == nil {
		r.machine.Kill()
	}
}

// answers reports whether the agent answers within a time.
func (r *run) answers(ctx context.Context, within time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	return r.ask(ctx, wire.MethodPing, nil) == nil
}
