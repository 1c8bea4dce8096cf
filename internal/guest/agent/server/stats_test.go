package server

import (
	"strings"
	"testing"
)

func TestStats(t *testing.T) {
	s, err := stats("/no/such/mount")
	if err != nil {
		t.Fatal(err)
	}
	if s.UptimeMS <= 0 || s.MemoryTotal <= 0 || s.MemoryAvailable <= 0 || s.MemoryAvailable > s.MemoryTotal {
		t.Errorf("%+v", s)
	}
	if s.CPUs <= 0 || s.CPUBusyMS <= 0 || s.CPUBusyMS >= s.CPUTotalMS {
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

func TestCPUTimes(t *testing.T) {
	count, busy, total, err := cpuTimes(strings.NewReader("cpu  10 2 3 60 5 1 1 18 7 7\ncpu0 5 1 1 30 2 0 0 9 3 3\ncpu1 5 1 2 30 3 1 1 9 4 4\nintr 1\ncpu2 is none\n"))
	if count != 2 || busy != 170 || total != 1000 || err != nil {
		t.Errorf("%d, %d, %d, %v", count, busy, total, err)
	}
	if _, busy, _, err := cpuTimes(strings.NewReader("cpu  10 2 3 60\ncpu0 10 2 3 60\n")); busy != 150 || err != nil {
		t.Errorf("of an old kernel: %d, %v", busy, err)
	}
	for _, bad := range []string{"", "cpu 1 2 3 4\n", "cpu0 1\n", "cpu many\ncpu0 1\n"} {
		if _, _, _, err := cpuTimes(strings.NewReader(bad)); err == nil {
			t.Errorf("%q was read", bad)
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
