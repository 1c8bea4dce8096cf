package firecracker

import (
	"os"
	"testing"

	"banger/internal/config"
	"banger/internal/vmm"
)

// What Firecracker's log tells of an end that nobody watched.
func TestEndingByTheLog(t *testing.T) {
	const stamp = "2026-11-24T14:27:26.332219536 [x:fc_vcpu 0] "
	dir := t.TempDir()
	for log, want := range map[string]vmm.Exit{
		"":                                     {Reason: vmm.ReasonUnknown},
		stamp + "Artificially kick devices.\n": {Reason: vmm.ReasonUnknown},
		stamp + "Vmm is stopping.\n" + stamp + "Vmm is stopping.\n":                             {Reason: vmm.ReasonReset},
		stamp + "Received KVM_EXIT_SHUTDOWN signal\n" + stamp + "Vmm is stopping.\n":            {Reason: vmm.ReasonReset, Detail: "triple fault"},
		stamp + "Shutting down VM after intercepting signal 1, code 0.\n" + stamp + "the end\n": {Reason: vmm.ReasonSignal, Detail: "signal 1, code 0."},
	} {
		if err := os.WriteFile(config.VMDir(dir).VMMLog(Name), []byte(log), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := new(Driver).Ending(dir); got != want {
			t.Errorf("%q: got %+v", log, got)
		}
	}
	if got := new(Driver).Ending(t.TempDir()); got.Reason != vmm.ReasonUnknown {
		t.Errorf("no log: got %+v", got)
	}
}
