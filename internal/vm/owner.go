package vm

import (
	"context"
	"sync"

	"banger"
	"banger/internal/operation"
	"banger/internal/store"
)

// owner is the one holder of what is true about a VM: its row, its state, and
// its run while it has one. Nobody else keeps any of them: the store is written
// through the owner, and every verb asks it. The state changes along the
// transitions of the root package and in no other way.
//
// The state alone never proves that a VM runs: whoever is about to rely on that
// asks the VMM's process, with admit or look.
type owner struct {
	v    *VMs
	id   banger.VMID
	turn chan struct{} // holds a token while a verb is at work on the VM

	helper *helper // set before anybody can start the VM; nil: it is a user's

	writes sync.Mutex // held while a change of the row is written and made

	mu      sync.Mutex
	row     store.VM
	state   banger.State
	run     *run          // nil when no VMM runs
	changed chan struct{} // closed, and replaced, at each change of anything above and of the run
}

// own makes the owner of a VM, which others can find from then on.
func (v *VMs) own(row store.VM, state banger.State) *owner {
	o := &owner{v: v, id: row.ID, row: row, state: state, turn: make(chan struct{}, 1), changed: make(chan struct{})}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.owners[row.ID] = o
	return o
}

// take waits until no other verb is at work on the VM.
func (o *owner) take(ctx context.Context) error {
	select {
	case o.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (o *owner) release() { <-o.turn }

// begin finds a VM, waits for its turn, and begins the operation once its state
// admits the verb. The caller defers end, which ends all of that.
func (v *VMs) begin(ctx context.Context, verb banger.Verb, ref string, progress banger.Progress) (o *owner, op *operation.Operation, end func(*error), err error) {
	if o, err = v.find(ref); err != nil {
		return nil, nil, nil, err
	}
	if err = o.take(ctx); err != nil {
		return nil, nil, nil, operation.Name(err, "vm", verb, o.name())
	}
	down, err := o.goesDown(verb)
	if err != nil {
		o.release()
		return nil, nil, nil, err
	}
	op = v.Operations.Begin("vm", verb, o.name(), o.id, progress)
	end = func(err *error) {
		*err = v.noSpace(*err)
		op.End(ctx, err)
		o.release()
	}
	if down {
		err = o.awaitDown(ctx, op, verb)
	}
	if err != nil {
		end(&err)
		return nil, nil, nil, err
	}
	return o, op, end, nil
}

// goesDown reports whether the verb has to wait until the VM has left its state,
// and refuses a verb that has no transition. A VM whose VMM is just ending goes
// down, too, though nobody has noticed yet.
func (o *owner) goesDown(verb banger.Verb) (bool, error) {
	row, state, r := o.now()
	t, ok := state.On(verb)
	if !ok {
		return false, banger.Refuse(verb, row.Name, state)
	}
	o.traced(state, verb)
	return t.Wait || state.Up() && r != nil && r.dying(), nil
}

// awaitDown waits, in a step of its own, until the verb need not wait any more.
func (o *owner) awaitDown(ctx context.Context, op *operation.Operation, verb banger.Verb) error {
	return op.Step(ctx, "shutting down", func(ctx context.Context) error { return o.settle(ctx, verb) })
}

// settle waits until the VM is in a state that takes the verb, and refuses one
// that has no transition there.
func (o *owner) settle(ctx context.Context, verb banger.Verb) error {
	for {
		o.mu.Lock()
		changed := o.changed
		o.mu.Unlock()
		if down, err := o.goesDown(verb); err != nil || !down {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-o.v.ctx.Done():
			return errStopping()
		}
	}
}

// move makes the transition of a verb. What is wanted from then on is on record
// before the state changes; if it cannot be written, nothing changes.
func (o *owner) move(ctx context.Context, verb banger.Verb) error {
	o.writes.Lock()
	defer o.writes.Unlock()
	o.mu.Lock()
	t, ok := o.state.On(verb)
	state, row := o.state, o.row
	o.mu.Unlock()
	if !ok {
		return banger.Refuse(verb, row.Name, state)
	}
	if t.Wanted != "" && t.Wanted != row.Wanted {
		if err := o.v.Store.SetWanted(ctx, o.id, t.Wanted); err != nil {
			return err
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if t.Wanted != "" {
		o.row.Wanted = t.Wanted
	}
	o.become(verb)
	return nil
}

// noTransition is logged when something happens that the table does not have.
const noTransition = "a transition that does not exist"

// become makes the transition of something that has happened and needs no
// record. One that the table does not have is a bug, and changes nothing. The
// caller holds mu.
func (o *owner) become(verb banger.Verb) {
	t, ok := o.state.On(verb)
	if !ok {
		o.v.Log.Error(noTransition, "vm", o.row.Name, "id", o.id, "from", o.state, "verb", verb)
		return
	}
	o.traced(o.state, verb)
	o.state = t.To
	if o.state == banger.Stopped || o.state == banger.Gone {
		o.run = nil
		o.forward()
	}
	o.tell()
}

// traced writes a transition to the log of a daemon that is being debugged.
func (o *owner) traced(from banger.State, verb banger.Verb) {
	o.v.Log.Debug("transition", "id", o.id, "from", from, "verb", verb)
}

// happen is become for a caller that does not hold mu.
func (o *owner) happen(verb banger.Verb) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.become(verb)
}

// save writes a change of the row to the store, and then makes it.
func (o *owner) save(write func() error, change func(*store.VM)) error {
	o.writes.Lock()
	defer o.writes.Unlock()
	if err := write(); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	change(&o.row)
	o.tell()
	return nil
}

// tell wakes whoever waits for a change, and publishes the VM as it is now. The
// caller holds mu.
func (o *owner) tell() {
	close(o.changed)
	o.changed = make(chan struct{})
	vm := o.describe()
	o.v.Events.Publish(banger.Event{Kind: banger.EventVM, VM: &vm, Gone: o.state == banger.Gone})
}

// await returns once reached does, which is called under mu: now, and after each
// change. Its error ends the wait.
func (o *owner) await(ctx context.Context, reached func() (bool, error)) error {
	for {
		o.mu.Lock()
		done, err := reached()
		changed := o.changed
		o.mu.Unlock()
		if done || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (o *owner) name() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.row.Name
}

// now returns the row, the state and the run at one moment.
func (o *owner) now() (store.VM, banger.State, *run) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.row, o.state, o.run
}

// running returns the run, or nil.
func (o *owner) running() *run {
	_, _, r := o.now()
	return r
}
