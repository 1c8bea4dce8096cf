package instance

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/network"
	"banger/internal/network/namespace"
)

// A helper of another program, as before an upgrade, is replaced by the next daemon. One
// of the same program stays, and so do VMs.
func TestUpgrade(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := namespace.Check(t.Context()); err != nil {
		t.Skipf("no namespace with a TAP here: %v; fix: %s", err, banger.FixOf(err))
	}
	dir := reachable(t, t.TempDir())
	l := &killLab{T: t, dir: dir, running: map[int]network.Guest{}, program: filepath.Join(dir, "old")}
	text, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(l.program, text, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(l.must("start"), &l.running); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.killAll)
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
