package agent

import (
	"os"
	"path/filepath"
	"testing"
)

func TestClosedAll(t *testing.T) {
	fds := t.TempDir()
	for _, c := range []struct {
		open string
		want bool
	}{{"0", true}, {"2", true}, {"3", false}} {
		if err := os.WriteFile(filepath.Join(fds, c.open), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := closedAll(fds); got != c.want {
			t.Errorf("with %s open: %v", c.open, got)
		}
	}
	if closedAll("/proc/self/fd") {
		t.Error("this process has nothing open")
	}
	if closedAll(filepath.Join(fds, "none")) {
		t.Error("of a process that cannot be looked at it is said that it has crashed")
	}
}
