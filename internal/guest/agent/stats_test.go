package agent

import (
	"strings"
	"testing"

	"banger/internal/guest/wire"
)

func TestStats(t *testing.T) {
	s, err := stats(wire.Config{WorkMount: "/no/such/mount"})
	if err != nil {
		t.Fatal(err)
	}
	if s.UptimeMS <= 0 || s.MemoryTotal <= 0 || s.MemoryAvailable <= 0 || s.MemoryAvailable > s.MemoryTotal {
		t.Errorf("%+v", s)
	}
	if root := s.FileSystems[0]; root.Path != "/" || root.Size <= 0 || root.Used > root.Size {
		t.Errorf("%+v", root)
	}
	for _, fs := range s.FileSystems {
		if fs.Path == "/no/such/mount" {
			t.Error("a file system that is not there")
		}
	}
}

func TestMemory(t *testing.T) {
	total, available, err := memory(strings.NewReader("MemTotal:  2048 kB\nMemFree: 1 kB\n\nMemAvailable: 1024 kB\n"))
	if total != 2<<20 || available != 1<<20 || err != nil {
		t.Errorf("%d, %d, %v", total, available, err)
	}
	for _, bad := range []string{"", "MemTotal: lots kB"} {
		if _, _, err := memory(strings.NewReader(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}
