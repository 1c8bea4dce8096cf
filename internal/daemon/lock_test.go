package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"banger"
)

// TestStartersQueue: whoever finds the lock held finds the holder's record.
func TestStartersQueue(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bangerd.lock")
	first, err := admit(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer first.close()
	gate, err := os.Open(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	defer gate.Close()
	if err := unix.Flock(int(gate.Fd()), unix.LOCK_SH|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("before the first has said where it listens the gate is open: %v", err)
	}
	if err := first.publish("/run/here"); err != nil {
		t.Fatal(err)
	}
	_, err = admit(t.Context(), path)
	var held *taken
	if !errors.As(err, &held) || held.socket != "/run/here" || banger.KindOf(err) != banger.Conflict {
		t.Errorf("afterwards: %v", err)
	}
}
