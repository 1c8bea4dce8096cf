package banger_test

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"banger"
)

func TestErrorText(t *testing.T) {
	for want, err := range map[string]*banger.Error{
		`start VM "otter": no space`: {What: `start VM "otter"`, Why: errors.New("no space")},
		"no space":                   {Why: errors.New("no space"), Fix: "free some"},
		`start VM "otter"`:           {What: `start VM "otter"`},
		"":                           {Kind: banger.Conflict},
	} {
		if got := err.Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if err := (&banger.Error{What: "read", Why: io.EOF}); !errors.Is(err, io.EOF) {
		t.Error("the cause is not in the chain")
	}
}

// TestKindAndFix: the kind is the outermost one that says something, the fix
// is the innermost.
func TestKindAndFix(t *testing.T) {
	plain := errors.New("plain")
	inner := &banger.Error{Kind: banger.Unready, Why: plain, Fix: "install it"}
	for _, c := range []struct {
		name string
		err  error
		kind banger.Kind
		fix  string
	}{
		{"nil", nil, banger.Unknown, ""},
		{"a plain error", plain, banger.Unknown, ""},
		{"one", inner, banger.Unready, "install it"},
		{"wrapped", fmt.Errorf("step: %w", inner), banger.Unready, "install it"},
		{"joined", errors.Join(plain, inner), banger.Unready, "install it"},
		{"the outer kind wins", &banger.Error{Kind: banger.Conflict, Why: inner}, banger.Conflict, "install it"},
		{"an outer kind that says nothing", &banger.Error{What: "start", Why: inner}, banger.Unready, "install it"},
		{"an outer Unknown", &banger.Error{Kind: banger.Unknown, Why: fmt.Errorf("step: %w", inner)}, banger.Unready, "install it"},
		{"the inner fix wins", &banger.Error{Fix: "read the log", Why: fmt.Errorf("step: %w", inner)}, banger.Unready, "install it"},
		{"the only fix is the outer", &banger.Error{Fix: "read the log", Why: plain}, banger.Unknown, "read the log"},
		{"Invalidf", banger.Invalidf("write 1G", "%q is not a size", "x"), banger.Invalid, "write 1G"},
	} {
		if kind, fix := banger.KindOf(c.err), banger.FixOf(c.err); kind != c.kind || fix != c.fix {
			t.Errorf("%s: %s, %q; want %s, %q", c.name, kind, fix, c.kind, c.fix)
		}
	}
}

// TestOp: the operation is the outermost: what failed inside of it is its part.
func TestOp(t *testing.T) {
	inner := &banger.Error{Why: io.EOF, Op: "0a"}
	for want, err := range map[string]error{
		"":   fmt.Errorf("step: %w", io.EOF),
		"0a": fmt.Errorf("step: %w", &banger.Error{What: "start", Why: inner}),
		"0b": &banger.Error{Op: "0b", Why: inner},
	} {
		if got := banger.OpOf(err); got != want {
			t.Errorf("%v: got %q, want %q", err, got, want)
		}
	}
}
