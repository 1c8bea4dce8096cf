package instance

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"banger"
	"banger/internal/network"
)

// A helper of another program, as before an upgrade, is replaced by the next daemon. One
// of the same program stays, and so do VMs.
func TestUpgrade(t *testing.T) {
	l := newKillLab(t)
	l.program = filepath.Join(l.dir, "old")
	text, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(l.program, text, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	l.start()
	before, old := l.look(), l.victim(0, "helper")
	l.must("check")
	if now := l.victim(0, "helper"); now != old || old == 0 {
		t.Errorf("the same program: the helper was %d, is %d", old, now)
	}
	l.program = ""
	l.must("check")
	upgraded := l.victim(0, "helper")
	if upgraded == old || upgraded == 0 {
		t.Errorf("another program: the helper was %d, is %d", old, upgraded)
	}
	if now := l.look(); now != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, now)
	}
	l.must("check")
	if now := l.victim(0, "helper"); now != upgraded {
		t.Errorf("upgraded: the helper was %d, is %d", upgraded, now)
	}
	l.must("end")
}

// VMs that run prove the mode: a daemon that could not try it takes over their network all
// the same.
func TestRunningVMsProveTheMode(t *testing.T) {
	l := newKillLab(t)
	l.start()
	before := l.look()
	var have map[banger.VMID]network.Traffic
	if err := json.Unmarshal(l.must("refused"), &have); err != nil || len(have) != len(l.running) {
		t.Errorf("%v: TAPs of %v, want those of %v", err, have, l.running)
	}
	if now := l.look(); now != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, now)
	}
	l.must("end")
}
