package instance

import (
	"slices"
	"testing"
	"time"
)

// A helper that keeps ending is started less and less often, and a sound one at once.
func TestRestartDoesNotSpin(t *testing.T) {
	now := time.Now()
	var r restart
	var pauses []time.Duration
	for range 10 {
		r.began = now
		now = now.Add(time.Millisecond)
		pauses = append(pauses, r.pause(now))
	}
	if want := []time.Duration{0, 1, 2, 4, 8, 16, 32, 60, 60, 60}; !slices.EqualFunc(pauses, want, func(got, want time.Duration) bool { return got == want*time.Second }) {
		t.Errorf("got %v", pauses)
	}
	r.began = now
	if got := r.pause(now.Add(soundAfter)); got != 0 {
		t.Errorf("after a sound one: %v", got)
	}
}
