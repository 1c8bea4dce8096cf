package banger

import (
	"context"
	"errors"
	"fmt"
)

// Kind classifies an error for machines: it decides the HTTP status and the
// exit code, each by one table.
type Kind string

// The kinds of errors. Unknown is what any error is that carries none.
const (
	Unknown  Kind = "unknown"   // an internal failure
	Invalid  Kind = "invalid"   // the request itself is wrong
	NotFound Kind = "not_found" // the named thing does not exist
	Conflict Kind = "conflict"  // the thing exists already, or its state forbids the request
	Unready  Kind = "unready"   // the host lacks something: a tool, a device, space
	Canceled Kind = "canceled"  // the caller went away or pressed Ctrl-C
	TimedOut Kind = "timed_out" // a bounded wait came to its end
)

// Kinds lists every Kind, for tables that must be complete.
var Kinds = []Kind{Unknown, Invalid, NotFound, Conflict, Unready, Canceled, TimedOut}

// Error is an error a user can act on: what was attempted, why it failed, and
// the one command or sentence that fixes it.
type Error struct {
	Kind Kind
	What string // the thing and the verb: `start VM "otter"`
	Why  error  // the cause; may be nil when What says it all
	Fix  string // one command to paste or one sentence; may be empty
	Op   string // the operation's id in the daemon's log, where that says more; may be empty
}

func (e *Error) Error() string {
	if e.Why == nil {
		return e.What
	}
	if e.What == "" {
		return e.Why.Error()
	}
	return e.What + ": " + e.Why.Error()
}

func (e *Error) Unwrap() error { return e.Why }

// KindOf returns the kind of the outermost *Error in err's chain that has one.
// Without one, the end of a context is Canceled or TimedOut.
func KindOf(err error) Kind {
	for rest := err; rest != nil; {
		var e *Error
		if !errors.As(rest, &e) {
			break
		}
		if e.Kind != "" && e.Kind != Unknown {
			return e.Kind
		}
		rest = e.Why
	}
	switch {
	case errors.Is(err, context.Canceled):
		return Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return TimedOut
	}
	return Unknown
}

// FixOf returns the fix of the innermost *Error in err's chain that has one:
// the one written nearest to the cause.
func FixOf(err error) string {
	fix := ""
	for err != nil {
		var e *Error
		if !errors.As(err, &e) {
			return fix
		}
		if e.Fix != "" {
			fix = e.Fix
		}
		err = e.Why
	}
	return fix
}

// OpOf returns the operation id of the outermost *Error in err's chain that has one.
func OpOf(err error) string {
	for err != nil {
		var e *Error
		if !errors.As(err, &e) {
			return ""
		}
		if e.Op != "" {
			return e.Op
		}
		err = e.Why
	}
	return ""
}

// Invalidf is a short form for an Invalid error without a cause.
func Invalidf(fix, format string, args ...any) error {
	return &Error{Kind: Invalid, Why: fmt.Errorf(format, args...), Fix: fix}
}
