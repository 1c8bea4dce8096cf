package agent

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"banger/internal/guest/wire"
)

// initKind is how the image's init is spoken to.
type initKind string

const (
	initNone    initKind = "no"      // the agent itself
	initSystemd initKind = "systemd" // signals above SIGRTMIN, and it notifies
	initOther   initKind = "foreign" // only its own commands are known
)

// initPrograms are tried in order.
var initPrograms = []string{
	"/sbin/init", "/usr/sbin/init", "/etc/init", "/bin/init",
	"/lib/systemd/systemd", "/usr/lib/systemd/systemd",
}

func (b *boot) findInit() error {
	b.program, b.kind = imageInit(newRoot)
	return writeJSON(newRoot+progressFile, progress{Kind: b.kind, State: firstState(b.kind)})
}

func imageInit(root string) (program string, kind initKind) {
	for _, path := range initPrograms {
		f, err := openIn(root, path, unix.O_PATH)
		if err != nil {
			continue
		}
		info, err := f.Stat()
		name, _ := os.Readlink(through(f))
		f.Close()
		if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			continue
		}
		if filepath.Base(name) == "systemd" {
			return path, initSystemd
		}
		return path, initOther
	}
	return "", initNone
}

// firstState is what is known when the init is started. Of a foreign one
// nothing more ever is, so it counts as up.
func firstState(kind initKind) wire.Init {
	switch kind {
	case initNone:
		return wire.InitNone
	case initSystemd:
		return wire.InitStarting
	}
	return wire.InitUp
}

// progress is how far the init has come, kept for a server that starts again.
type progress struct {
	Kind  initKind  `json:"kind"`
	State wire.Init `json:"state"`
	Why   string    `json:"why,omitempty"` // with InitEmergency: the unit that failed
}

// initWatch knows the state of the init.
type initWatch struct {
	file      string        // where it is kept
	emergency func() bool   // reports whether systemd is in its emergency or rescue mode
	why       func() string // the unit whose failure led there

	mu      sync.Mutex
	now     progress
	changed chan struct{} // closed at the next change
}

func openInitWatch(file string) (*initWatch, error) {
	w := &initWatch{file: file, emergency: inEmergency, why: failedUnit, changed: make(chan struct{})}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &w.now); err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	return w, nil
}

// state returns the state and a channel that is closed when it has changed.
func (w *initWatch) state() (wire.Init, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now.State, w.changed
}

func (w *initWatch) kind() initKind {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now.Kind
}

// reason returns the reason for InitEmergency, if it is known.
func (w *initWatch) reason() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now.Why
}

// hear takes one notification of the init. It returns the states entered by
// it, and whether the init started anew. One goroutine calls it.
func (w *initWatch) hear(datagram string) (entered []wire.Init, again bool) {
	for line := range strings.Lines(datagram) {
		before, _ := w.state()
		next := nextInit(before, strings.TrimRight(line, "\n"), w.emergency)
		if next == before {
			continue
		}
		why := ""
		if next == wire.InitEmergency {
			why = w.why()
		}
		again = again || next == wire.InitHears && before != wire.InitStarting
		w.enter(next, why)
		entered = append(entered, next)
	}
	return entered, again
}

func (w *initWatch) enter(state wire.Init, why string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now.State, w.now.Why = state, why
	if err := writeJSON(w.file, w.now); err != nil {
		logf(prioError, "keep the init's state: %v", err)
	}
	close(w.changed)
	w.changed = make(chan struct{})
}

// ends are the targets that end a machine or at least all of its user space.
var ends = []string{"poweroff.target", "reboot.target", "halt.target", "kexec.target", "soft-reboot.target", "exit.target"}

// nextInit returns the state after one line of systemd's notifications. systemd
// reports READY=1 in its emergency mode, too; emergency tells the two apart.
func nextInit(now wire.Init, line string, emergency func() bool) wire.Init {
	key, value, _ := strings.Cut(line, "=")
	ending := now == wire.InitStopping || now == wire.InitShutdown
	switch key {
	case "X_SYSTEMD_SIGNALS_LEVEL":
		// It says so again when it is executed anew; only after an end is that a
		// new start, of a soft reboot.
		if now == wire.InitStarting || ending {
			return wire.InitHears
		}
	case "READY":
		switch {
		case value != "1" || ending || now == wire.InitEmergency:
		case emergency():
			return wire.InitEmergency
		default:
			return wire.InitUp
		}
	case "X_SYSTEMD_UNIT_ACTIVE":
		switch {
		case value == "multi-user.target" && !ending:
			return wire.InitUp
		case (value == "emergency.target" || value == "rescue.target") && !ending:
			return wire.InitEmergency
		case value == "shutdown.target":
			return wire.InitShutdown
		}
	case "STATUS":
		unit, special := strings.CutPrefix(value, "Activating special unit ")
		if special && now != wire.InitShutdown && slices.Contains(ends, strings.TrimRight(unit, ".")) {
			return wire.InitStopping
		}
	}
	return now
}
