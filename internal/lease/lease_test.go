package lease

import (
	"errors"
	"os"
	"testing"

	"banger/internal/config"
	"banger/internal/linux"
)

func TestLease(t *testing.T) {
	dirs := config.Dirs{State: t.TempDir()}
	l, err := Take(dirs)
	if err != nil {
		t.Fatal(err)
	}
	if held, err := linux.Locked(dirs.Lease(l.Name)); err != nil || !held {
		t.Errorf("held: %t, %v", held, err)
	}
	info, err := os.Stat(dirs.Lease(l.Name))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	other, err := Take(dirs)
	if err != nil || other.Name == l.Name {
		t.Errorf("a second one: %+v, %v", other, err)
	}
	l.Drop()
	l.Drop()
	other.Drop()
	(*Lease)(nil).Drop()
	if _, err := os.Stat(dirs.Lease(l.Name)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}
