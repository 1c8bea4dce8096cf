package operation

import (
	"context"
	"errors"
	"fmt"
)

// Undo is a stack of functions that reverse steps: push one after each step, and
// unwind the stack when a later step fails. The zero value is ready to use. It is not
// safe for concurrent use. After a crash, the next daemon reconciles instead.
type Undo struct {
	steps []undone
}

type undone struct {
	name string
	undo func(context.Context) error
}

// Push adds what reverses the step of that name.
func (s *Undo) Push(name string, undo func(context.Context) error) {
	s.steps = append(s.steps, undone{name, undo})
}

// Keep forgets all steps, so that they are not undone.
func (s *Undo) Keep() { s.steps = nil }

// Unwind undoes all steps, the newest first. It continues after a failure and when
// ctx ends, so that nothing stays half done, and returns all failures joined.
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

// OnError unwinds if *err is set, and joins the errors of the undo to it. Defer it,
// with a named result.
func (s *Undo) OnError(ctx context.Context, err *error) {
	if *err == nil {
		return
	}
	if failed := s.Unwind(ctx); failed != nil {
		*err = &joined{cause: *err, undo: failed}
	}
}

// joined is an error with the kind and the fix of its cause.
type joined struct{ cause, undo error }

func (j *joined) Error() string   { return fmt.Sprintf("%v; and then: %v", j.cause, j.undo) }
func (j *joined) Unwrap() []error { return []error{j.cause, j.undo} }
