// Package timer looks at the timer that a guest's kernel runs by. On a host without
// KVM the kernel measures it as it boots, against the clock and for a tenth of a
// second, and believes what it gets. Where the host lets the VM wait for longer than
// that in just that moment, the kernel finds its timer too slow to be one and goes
// without (whoever sleeps then never wakes), or takes it for much faster than it
// is (then all sleep too long).
package timer

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// ErrUnmeasured says that the kernel has no timer, or a wrong idea of its rate. At
// the next boot it measures anew.
var ErrUnmeasured = errors.New("the host was too busy for the kernel to measure its timer")

const (
	current = "/sys/devices/system/clockevents/clockevent0/current_device"
	list    = "/proc/timer_list"
)

// measured is the timer whose rate is not known without measuring: the local APIC's,
// in its plain mode.
const measured = "lapic"

// longest is for how long that can be set, by a kernel which has measured well: its
// 31 bits count every 16th cycle of a bus that has 1 GHz in QEMU and KVM.
const longest = (1<<31 - 1) * 16 * time.Nanosecond

// Check returns an ErrUnmeasured for the timer of the first CPU, or nil. It needs
// /proc and /sys.
func Check() error {
	name, err := os.ReadFile(current)
	if err != nil {
		return fmt.Errorf("read the timer's name: %w", err)
	}
	timers, err := os.ReadFile(list)
	if err != nil {
		return fmt.Errorf("read the list of timers: %w", err)
	}
	return check(strings.TrimSpace(string(name)), string(timers))
}

func check(name, timers string) error {
	if name == "" {
		return fmt.Errorf("%w, and goes without", ErrUnmeasured)
	}
	if name != measured {
		return nil
	}
	_, device, _ := strings.Cut(timers, "\nClock Event Device: "+measured+"\n")
	_, rest, found := strings.Cut(device, " max_delta_ns:")
	field, _, _ := strings.Cut(strings.TrimSpace(rest), "\n")
	believed, err := strconv.ParseInt(field, 10, 64)
	if !found || err != nil {
		return fmt.Errorf("the list of timers does not tell of %s", measured)
	}
	// A little less is usual. Twice as long is what nobody would think of.
	if times := float64(longest) / float64(believed); times >= 2 {
		return fmt.Errorf("%w: all would sleep %.0f times too long", ErrUnmeasured, times)
	}
	return nil
}
