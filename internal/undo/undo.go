// Package undo is a rollback stack: after each step push what reverses it, and
// unwind when a later step fails. It knows nothing of what it reverses, and it
// is no help after a crash; that is reconciling, elsewhere.
package undo

import (
	"context"
	"errors"
	"fmt"
)

// Stack holds the undo functions of the steps done so far. The zero value is
// ready. It is not for use by several goroutines.
type Stack struct {
	steps []step
}

type step struct {
	name string
	undo func(context.Context) error
}

// Push adds what reverses the step just done. name is the step's own name.
func (s *Stack) Push(name string, undo func(context.Context) error) {
	s.steps = append(s.steps, step{name, undo})
}

// Keep forgets every step: from here on the work stands.
func (s *Stack) Keep() { s.steps = nil }

// Unwind runs every undo, newest first. It never stops early: failures are
// joined. It outlives a cancelled ctx, since what was begun must be undone.
func (s *Stack) Unwind(ctx context.Context) error {
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

// OnError unwinds when *err is set and joins what the undo itself could not do.
// Use it deferred, with a named result.
func (s *Stack) OnError(ctx context.Context, err *error) {
	if *err == nil {
		return
	}
	if failed := s.Unwind(ctx); failed != nil {
		*err = &joined{cause: *err, undo: failed}
	}
}

// joined keeps the cause first, so that its kind and fix stay the error's own.
type joined struct{ cause, undo error }

func (j *joined) Error() string   { return fmt.Sprintf("%v; and then: %v", j.cause, j.undo) }
func (j *joined) Unwrap() []error { return []error{j.cause, j.undo} }
