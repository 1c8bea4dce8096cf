package operation

import (
	"context"
	"errors"
	"slices"
	"testing"
)

func TestOnErrorUnwindsNewestFirstAndJoins(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var order []string
	cause, broken := errors.New("boot"), errors.New("tap is busy")
	run := func() (err error) {
		var steps Undo
		defer steps.OnError(ctx, &err)
		for _, name := range []string{"a", "b", "c"} {
			steps.Push(name, func(ctx context.Context) error {
				order = append(order, name)
				if ctx.Err() != nil {
					t.Errorf("undo %s saw the caller's cancellation", name)
				}
				if name == "b" {
					return broken
				}
				return nil
			})
		}
		return cause
	}
	err := run()
	if want := []string{"c", "b", "a"}; !slices.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
	if !errors.Is(err, cause) || !errors.Is(err, broken) {
		t.Errorf("error %v lost a part", err)
	}
	if got, want := err.Error(), "boot; and then: undo b: tap is busy"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestKeepAndSuccessUndoNothing(t *testing.T) {
	called := false
	run := func(fail bool) (err error) {
		var steps Undo
		defer steps.OnError(context.Background(), &err)
		steps.Push("a", func(context.Context) error { called = true; return nil })
		if fail {
			steps.Keep()
			return errors.New("late")
		}
		return nil
	}
	if err := run(false); err != nil || called {
		t.Errorf("success: err %v, undone %v", err, called)
	}
	if err := run(true); err == nil || called {
		t.Errorf("after Keep: err %v, undone %v", err, called)
	}
}
