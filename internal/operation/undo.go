package operation

import (
	"context"
	"errors"
	"fmt"
)

// Undo is a rollback stack: after each step push what reverses it, and unwind
// when a later step fails. The zero value is ready. It is not safe for use by
// several goroutines. It is no help after a crash; reconciling is.
type Undo struct {
	steps []undone
}

type undone struct {
	name string
	undo func(context.Context) error
}

// Push adds what reverses the step just done. name is the step's own name.
func (s *Undo) Push(name string, undo func(context.Context) error) {
	s.steps = append(s.steps, undone{name, undo})
}

// Keep forgets every step: from here on nothing is undone.
func (s *Undo) Keep() { s.steps = nil }

// Unwind runs every undo, newest first. It never stops early; failures are
// joined. It continues when ctx is cancelled, since nothing may stay half done.
func (s *Undo) Unwind(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	var errs []error
	for i := len(s.steps) - 1; i >= 0; i-- {
		if err := s.steps[i].undo(ctx); err != nil {
			errs = append(errs, fmt.Errorf("undo %s: %w", s.steps[i].name, err))
		}
	}
	s.steps = nil
	return errors.Join(errs...)
}

// OnError unwinds when *err is set, and joins the errors of the undo. Call it
// deferred, with a named result.
func (s *Undo) OnError(ctx context.Context, err *error) {
	if *err == nil {
		return
	}
	if failed := s.Unwind(ctx); failed != nil {
		*err = &joined{cause: *err, undo: failed}
	}
}

// joined keeps the cause first, so that its kind and fix are the error's.
type joined struct{ cause, undo error }

func (j *joined) Error() string   { return fmt.Sprintf("%v; and then: %v", j.cause, j.undo) }
func (j *joined) Unwrap() []error { return []error{j.cause, j.undo} }
