package qemu

import (
	"os"
	"testing"

	"banger/internal/config"
	"banger/internal/vmm"
)

// What QEMU's log tells of an end that nobody watched: signals.
func TestEndingByTheLog(t *testing.T) {
	const stamp = "2026-11-27T06:23:58.408213Z qemu-system-x86_64: "
	dir := t.TempDir()
	for log, want := range map[string]vmm.Exit{
		"":                             {Reason: vmm.ReasonUnknown},
		stamp + "warning: something\n": {Reason: vmm.ReasonUnknown},
		stamp + "warning: something\n" + stamp + "terminating on signal 15 from pid 7 (bash)\n": {Reason: vmm.ReasonSignal, Detail: "signal 15 from pid 7 (bash)"},
	} {
		if err := os.WriteFile(config.VMDir(dir).VMMLog(Name), []byte(log), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := new(Driver).Ending(dir); got != want {
			t.Errorf("%q: got %+v", log, got)
		}
	}
}
