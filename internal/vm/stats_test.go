package vm

import (
	"os"
	"testing"
	"time"

	"banger"
	"banger/internal/vmm/vmmtest"
)

func TestStats(t *testing.T) {
	w := newWorld(t)
	vm := w.create("otter")
	s, err := w.VMStats(t.Context(), "otter")
	if err != nil {
		t.Fatal(err)
	}
	if s.ID != vm.ID || !s.State.Up() || s.PID != vm.PID || s.Resident < banger.MiB || s.DiskOnHost <= 0 || s.DiskOnHost > vm.Disk || s.OverlayOnHost <= 0 {
		t.Errorf("%+v", s)
	}
	g := s.Guest
	if g == nil || g.Uptime != 5*time.Second || g.Load[1] != 0.5 || g.CPUs != 2 || g.CPUBusy != time.Second || g.CPUTotal != 10*time.Second || g.MemoryAvailable != banger.MiB || len(g.FileSystems) != 2 {
		t.Fatalf("%+v", g)
	}
	if fs := g.FileSystems[1]; fs != (banger.FileSystem{Path: "/root[2J", Size: 4096, Used: 512}) {
		t.Errorf("%+v", fs)
	}
	if _, err := w.StopVM(t.Context(), "otter", banger.StopVM{}, nil); err != nil {
		t.Fatal(err)
	}
	s, err = w.VMStats(t.Context(), "otter")
	if err != nil || s.State != banger.Stopped || s.PID != 0 || s.Resident != 0 || s.Guest != nil || s.DiskOnHost <= 0 {
		t.Errorf("%v, %+v", err, s)
	}
	if _, err := w.VMStats(t.Context(), "nobody"); banger.KindOf(err) != banger.NotFound {
		t.Errorf("got %v", err)
	}
}

func TestStatsOfAnOlderAgent(t *testing.T) {
	w := newWorld(t)
	w.fake.SetFaults(vmmtest.KnowsNoStats)
	w.create("otter")
	if s, err := w.VMStats(t.Context(), "otter"); err != nil || s.Guest != nil || s.PID == 0 {
		t.Errorf("%v, %+v", err, s)
	}
}

func TestReadStat(t *testing.T) {
	const line = "7 (a ) name 1 2) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 1 0 99 1000000 3 18446744073709551615 1"
	cpu, resident, err := readStat([]byte(line))
	if cpu != 3*time.Second || resident != banger.Size(3*os.Getpagesize()) || err != nil {
		t.Errorf("%v, %v, %v", cpu, resident, err)
	}
	for _, bad := range []string{"", "7 (x", "7 (x) S 1 2 3", "7 (x) S 1 7 7 0 -1 4194304 100 0 0 0 many 50 0 0 20 0 1 0 99 1000000 3 1"} {
		if _, _, err := readStat([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}
