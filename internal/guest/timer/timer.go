// Package timer checks the timer of a guest's kernel. On a host without KVM the kernel
// measures it at boot, against the clock, for a tenth of a second. If a busy host
// stops the VM for longer than that at that moment, the kernel either finds the timer
// too slow and does without one (programs that sleep never wake), or takes it for much
// faster than it is (they sleep too long).
package timer

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// ErrUnmeasured means that the kernel has no timer, or a wrong idea of its rate. The
// next boot measures again.
var ErrUnmeasured = errors.New("the host was too busy for the kernel to measure its timer")

const (
	current = "/sys/devices/system/clockevents/clockevent0/current_device"
	list    = "/proc/timer_list"
)

// measured is the timer whose rate must be measured: the local APIC's, in its plain
// mode.
const measured = "lapic"

// longest is the longest time for which that timer can be set, if it was measured
// right: its 31 bits count every 16th cycle of a bus with 1 GHz in QEMU and KVM.
const longest = (1<<31 - 1) * 16 * time.Nanosecond

// Check checks the timer of the first CPU. It returns an ErrUnmeasured, another error
// if it cannot tell, or nil. It needs /proc and /sys.
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
		return fmt.Errorf("%w: it has none", ErrUnmeasured)
	}
	if name != measured {
		return nil
	}
	_, device, _ := strings.Cut(timers, "\nClock Event Device: "+measured+"\n")
	_, rest, found := strings.Cut(device, " max_delta_ns:")
	field, _, _ := strings.Cut(strings.TrimSpace(rest), "\n")
	believed, err := strconv.ParseInt(field, 10, 64)
	if !found || err != nil {
		return fmt.Errorf("the list of timers has no %s", measured)
	}
	// A little more than right is usual. Twice as long would be noticed.
	if times := float64(longest) / float64(believed); times >= 2 {
		return fmt.Errorf("%w: programs would sleep %.0f times too long", ErrUnmeasured, times)
	}
	return nil
}
