package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/config"
	"banger/internal/linux"
)

func TestVanishedSocketComesBack(t *testing.T) {
	for name, gone := range map[string]func(config.Dirs) string{
		"file":      config.Dirs.Socket,
		"directory": func(d config.Dirs) string { return d.Runtime },
		"logout":    func(d config.Dirs) string { return filepath.Dir(d.Runtime) },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			first := p.daemon(p.connect())
			p.opts.NoStart = true
			spare := filepath.Dir(p.dirs.SpareSocket())
			for _, remove := range []func() error{
				func() error { return os.RemoveAll(gone(p.dirs)) },
				func() error { return os.Remove(p.dirs.SpareSocket()) },
				func() error { return os.Rename(spare, filepath.Join(t.TempDir(), "spare")) },
			} {
				changed := onEvent(t, p.dirs.DaemonLock(), unix.IN_MODIFY)
				if err := remove(); err != nil {
					t.Fatal(err)
				}
				changed()
				if d := p.daemon(p.connect()); d.PID != first.PID || d.Socket != p.dirs.SpareSocket() {
					t.Errorf("got %+v", d)
				}
			}
		})
	}
}

// TestSpareSocketOfAKilledDaemon: the next daemon of the same directory removes it.
func TestSpareSocketOfAKilledDaemon(t *testing.T) {
	p := newPlace(t)
	spare := p.dirs.SpareSocket()
	if err := errors.Join(os.Mkdir(filepath.Dir(spare), 0o700), os.WriteFile(spare, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	p.connect()
	if _, err := os.Lstat(filepath.Dir(spare)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

// onEvent returns a function that waits until that happens to the file.
func onEvent(t *testing.T, path string, what uint32) func() {
	t.Helper()
	happened := make(chan struct{}, 1)
	stop, err := linux.Watch(path, what, happened)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return func() {
		t.Helper()
		select {
		case <-happened:
		case <-time.After(30 * time.Second):
			t.Fatalf("nothing happened to %s", path)
		}
	}
}
