package timer

import (
	"errors"
	"fmt"
	"testing"
)

// timers is the end of a guest's /proc/timer_list.
const timers = `jiffies: 4294668206

Tick Device: mode:     1
Broadcast device
Clock Event Device: <NULL>
tick_broadcast_mask: 0
tick_broadcast_oneshot_mask: 0

Tick Device: mode:     1
Per CPU device: 0
Clock Event Device: lapic
 max_delta_ns:   %d
 min_delta_ns:   1000
 mult:           %d
`

func TestCheck(t *testing.T) {
	for name, c := range map[string]struct {
		device string
		most   int64
		want   string // nothing: it is good; otherwise how the error ends
	}{
		"measured":                   {"lapic", 34359738352, ""},
		"taken for faster, a little": {"lapic", 25021291880, ""},
		"taken for slower":           {"lapic", 343597383520, ""}, // wakes early, looks and sleeps again
		"taken for faster":           {"lapic", 6871947670, ": programs would sleep 5 times too long"},
		"none":                       {"", 0, ": it has none"},
		"by the CPU's clock":         {"lapic-deadline", 1, ""},
		"of another machine":         {"hpet", 1, ""},
	} {
		err := check(c.device, fmt.Sprintf(timers, c.most, 1))
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (!errors.Is(err, ErrUnmeasured) || err.Error() != ErrUnmeasured.Error()+c.want):
			t.Errorf("%s: got %v", name, err)
		}
	}
	if err := check("lapic", "Timer List Version: v0.10\n"); err == nil || errors.Is(err, ErrUnmeasured) {
		t.Errorf("a list without it: %v", err)
	}
}
