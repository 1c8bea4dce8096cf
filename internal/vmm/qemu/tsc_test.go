package qemu

import (
	"os"
	"runtime"
	"strings"
	"testing"
)

// Measured twice the rate is the same, also on a busy host.
func TestMeasureKHz(t *testing.T) {
	if info, _ := os.ReadFile("/proc/cpuinfo"); runtime.GOARCH != "amd64" || !strings.Contains(string(info), "constant_tsc") {
		t.Skip("a CPU with a steady time stamp counter is missing (constant_tsc in /proc/cpuinfo)")
	}
	one, other := measureKHz(), measureKHz()
	if apart := max(one, other) - min(one, other); apart > one/1000 {
		t.Errorf("%d kHz, then %d", one, other)
	}
	t.Logf("%d and %d kHz", one, other)
}
