// Package operation runs the verbs of the daemon. It owns what all of them share: an
// id, named steps, their undo, and the reports to the log, the client and the event
// stream, which use the same names. It does not know what a verb does.
package operation

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"banger"
)

// Runner is what the operations of one daemon have in common.
type Runner struct {
	Log     *slog.Logger
	Publish func(banger.Operation) // called at each step and at the end; may be nil

	mu      sync.Mutex
	running map[string]banger.Operation

	// Before and After are called around each step; if they return an error, the
	// step fails. Tests set them to make every step fail once.
	Before, After func(step string) error
}

// Operation is one run of a verb on one VM or image.
type Operation struct {
	Undo // of the steps done so far

	host     *Runner
	now      banger.Operation
	progress banger.Progress
	log      *slog.Logger
	stepped  bool
}

// Begin starts an operation on a VM or an image; noun is "vm" or "image". Defer a
// call of End.
func (h *Runner) Begin(noun string, verb banger.Verb, name string, id banger.VMID, progress banger.Progress) *Operation {
	now := banger.Operation{ID: newID(), Noun: noun, Verb: verb, Name: name, VMID: id, BeganAt: time.Now().UTC()}
	log := h.Log.With("op", now.ID, "verb", string(verb), noun, name)
	if id != "" {
		log = log.With("id", id)
	}
	return &Operation{host: h, now: now, progress: progress, log: log}
}

// newID returns a random id: 8 hexadecimal digits are enough for one log.
func newID() string {
	id := make([]byte, 4)
	rand.Read(id)
	return hex.EncodeToString(id)
}

// Log returns the operation's log, in which every line has the operation's id.
func (o *Operation) Log() *slog.Logger { return o.log }

// Name sets the name of the VM or image, for an operation that chooses it.
func (o *Operation) Name(name string) {
	o.now.Name = name
	o.log = o.log.With("named", name)
}

// Step is a part of an operation.
type Step struct {
	Name string
	Do   func(context.Context) error
}

// Run runs steps in order until one fails.
func (o *Operation) Run(ctx context.Context, steps ...Step) error {
	for _, step := range steps {
		if err := o.Step(ctx, step.Name, step.Do); err != nil {
			return err
		}
	}
	return nil
}

// Step runs one step and reports its begin and its end. An error of do is returned
// with the step's name in front. If ctx has ended, do is not called.
func (o *Operation) Step(ctx context.Context, name string, do func(context.Context) error) error {
	o.stepped = true
	o.tell(banger.Step{Step: name})
	began := time.Now()
	err := o.attempt(ctx, name, do)
	took := time.Since(began)
	if err != nil {
		o.log.Warn("step failed", "step", name, "took", took, "err", err)
		return fmt.Errorf("%s: %w", name, err)
	}
	o.log.Info("step", "step", name, "took", took)
	o.tell(banger.Step{Step: name, Done: true, Took: took})
	return nil
}

func (o *Operation) attempt(ctx context.Context, name string, do func(context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if o.host.Before != nil {
		if err := o.host.Before(name); err != nil {
			return err
		}
	}
	if err := do(ctx); err != nil {
		return err
	}
	if o.host.After != nil {
		return o.host.After(name)
	}
	return nil
}

// Note reports a text about a step to the client and to the log as a warning. It
// ignores an empty text.
func (o *Operation) Note(step, text string) {
	if text != "" {
		o.log.Warn("note", "step", step, "note", text)
		o.tell(banger.Step{Step: step, Note: text})
	}
}

// Warn is Note for what a user has to know even if nobody sees the steps.
func (o *Operation) Warn(step, text string) {
	o.log.Warn("note", "step", step, "note", text)
	o.tell(banger.Step{Step: step, Note: text, Warn: true})
}

// Progress reports a text about a step to the client, but not to the log.
func (o *Operation) Progress(step, text string) { o.tell(banger.Step{Step: step, Note: text}) }

// Moved reports how many bytes a step has moved to the client, but not to the log. Calls
// must not overlap.
func (o *Operation) Moved(step string, moved, total banger.Size) {
	o.tell(banger.Step{Step: step, Moved: moved, Total: total})
}

// Output reports a line that a program printed to the client only: there may be many.
func (o *Operation) Output(step, line string) {
	o.progress.Send(banger.Step{Step: step, Output: line})
}

func (o *Operation) tell(step banger.Step) {
	if o.now.Noun == "vm" {
		step.VM = o.now.Name
	}
	o.progress.Send(step)
	o.now.Step = &step
	o.publish()
}

func (o *Operation) publish() {
	h := o.host
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.running == nil {
		h.running = map[string]banger.Operation{}
	}
	h.running[o.now.ID] = o.now
	if o.now.Ended {
		delete(h.running, o.now.ID)
	}
	if h.Publish != nil {
		h.Publish(o.now)
	}
}

// Running calls f with the operations that have begun and not ended, the oldest
// first. While f runs, no operation is published.
func (h *Runner) Running(f func([]banger.Operation)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f(slices.SortedFunc(maps.Values(h.running), func(a, b banger.Operation) int { return a.BeganAt.Compare(b.BeganAt) }))
}

// End ends the operation. If *err is set, End undoes the steps and puts the
// operation's name in front of the error. It reports the end to the log and to the
// events, unless the operation failed before its first step: then the error says
// everything.
func (o *Operation) End(ctx context.Context, err *error) {
	o.OnError(ctx, err)
	if *err == nil && !o.stepped {
		return
	}
	o.now.Ended, o.now.Took = true, time.Since(o.now.BeganAt)
	if *err == nil {
		o.log.Info("done", "took", o.now.Took)
		o.publish()
		return
	}
	whole := *err
	*err = Name(Plain(whole), o.now.Noun, o.now.Verb, o.now.Name)
	if !o.stepped {
		return
	}
	var e *banger.Error
	if errors.As(*err, &e) {
		e.Op = o.now.ID
	}
	kind := banger.KindOf(*err)
	o.log.Warn("failed", "took", o.now.Took, "err", whole, "kind", kind)
	o.now.Failure = &banger.Failure{Kind: kind, Message: (*err).Error(), Fix: banger.FixOf(*err)}
	o.publish()
}

// Plain returns an error as a user should read it: if part of it was written for
// users, that part, without the path of steps and calls that led there. The log
// has the path. An undo that failed is never left out.
func Plain(err error) error {
	var user *banger.Error
	var both *joined
	if errors.As(err, &both) || !errors.As(err, &user) {
		return err
	}
	return user
}

// nouns maps an operation's noun to the word that errors use.
var nouns = map[string]string{"vm": "VM", "network": "the network", "image": "image"}

// Name returns err with the verb in front, as in `start VM "otter": …`, and with the
// same kind.
func Name(err error, noun string, verb banger.Verb, name string) error {
	if err == nil {
		return nil
	}
	what := string(verb) + " " + nouns[noun]
	if name != "" {
		what += fmt.Sprintf(" %q", name)
	}
	return &banger.Error{What: what, Why: err}
}
