package daemon

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/config"
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

// TestOneWordIsEnough: whoever says it again does not wait for a listener, who
// may not be there yet.
func TestOneWordIsEnough(t *testing.T) {
	s := &socket{lost: make(chan struct{}, 1)}
	s.say()
	s.say()
	if len(s.lost) != 1 {
		t.Error("nothing was said")
	}
}

// onEvent returns a function that waits until that happens to the file.
func onEvent(t *testing.T, path string, what uint32) func() {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "inotify")
	t.Cleanup(func() { file.Close() })
	if _, err := unix.InotifyAddWatch(fd, path, what); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		file.SetReadDeadline(time.Now().Add(30 * time.Second))
		if _, err := file.Read(make([]byte, 4096)); err != nil {
			t.Fatalf("nothing happened to %s: %v", path, err)
		}
	}
}
