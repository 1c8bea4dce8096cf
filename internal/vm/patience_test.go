package vm

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"
)

// TestPatience: what a guest waited for a CPU does not count, and the wait ends all the same.
func TestPatience(t *testing.T) {
	late := errors.New("late")
	const limit = 20 * time.Millisecond
	for starved, least := range map[time.Duration]time.Duration{0: limit, 3 * limit: 4 * limit, time.Hour: (1 + mostPatience) * limit} {
		begun := time.Now()
		ctx, cancel := withPatience(t.Context(), limit, func() time.Duration { return starved }, late)
		<-ctx.Done()
		if took := time.Since(begun); took < least || !errors.Is(context.Cause(ctx), late) {
			t.Errorf("starved for %v: it ended after %v, not %v: %v", starved, took, least, context.Cause(ctx))
		}
		cancel()
	}
	ctx, cancel := withPatience(t.Context(), time.Hour, func() time.Duration { return 0 }, late)
	cancel()
	if <-ctx.Done(); !errors.Is(context.Cause(ctx), context.Canceled) {
		t.Error(context.Cause(ctx))
	}
	if _, err := os.Stat("/proc/self/schedstat"); err == nil && starvedFor(os.Getpid()) <= 0 {
		t.Error("this process has never waited for a CPU")
	}
}
