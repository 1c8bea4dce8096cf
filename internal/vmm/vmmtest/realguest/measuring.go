package realguest

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	"banger/internal/guest/timer"
	"banger/internal/vmm"
	"banger/internal/vmm/vmmtest"
)

// Measuring is a driver that boots a VM again if the host was too busy for the guest's
// kernel to measure its timer. No guest works without it, and it is not the driver's
// fault. Package vm does the same.
type Measuring struct{ vmm.Driver }

// Launch implements vmm.Driver.
func (d Measuring) Launch(ctx context.Context, spec vmm.Spec) (vmm.Machine, error) {
	console := filepath.Join(spec.Dir, spec.Console)
	for {
		m, err := d.Driver.Launch(ctx, spec)
		if err != nil || !unmeasured(ctx, m, console) {
			return m, err
		}
		m.Close()
		if err := os.Remove(console); err != nil {
			return nil, err
		}
	}
}

// unmeasured waits until the guest has checked its timer, and reports whether the guest
// has ended because of it.
func unmeasured(ctx context.Context, m vmm.Machine, console string) bool {
	for {
		ended := false
		select {
		case <-m.Ended():
			ended = true
		case <-ctx.Done():
			return false
		case <-time.After(10 * time.Millisecond):
		}
		said, _ := os.ReadFile(console)
		if ended {
			return strings.Contains(string(said), timer.ErrUnmeasured.Error())
		}
		if strings.Contains(string(said), vmmtest.Measured) {
			return false
		}
	}
}
