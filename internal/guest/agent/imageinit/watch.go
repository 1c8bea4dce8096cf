package imageinit

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guest/agent/layout"
	"banger/internal/guest/agent/log"
	"banger/internal/guest/wire"
)

// progress is how far the init has come. It is kept for a server that starts again.
type progress struct {
	Kind  Kind      `json:"kind"`
	State wire.Init `json:"state"`
	Why   string    `json:"why,omitempty"` // with InitEmergency: the unit that failed
}

// Begin records in a file that an init of this kind is about to start.
func Begin(file string, kind Kind) error {
	return layout.WriteJSON(file, progress{Kind: kind, State: firstState(kind)})
}

// Watch follows the state of the init.
type Watch struct {
	file      string        // where it is kept
	emergency func() bool   // reports whether systemd is in its emergency or rescue mode
	why       func() string // the unit whose failure led there
	ends      func() bool   // reports whether systemd is shutting down

	wake  func()        // asks the agent, as process 1, for Awake
	awake chan struct{} // holds a token when it has answered

	asking sync.Mutex // held while the init is asked

	mu      sync.Mutex
	now     progress
	changed chan struct{} // closed at the next change
}

// OpenWatch continues the watch that Begin or an earlier server recorded in a file.
func OpenWatch(file string) (*Watch, error) {
	w := &Watch{file: file, emergency: inEmergency, why: failedUnit, ends: shutsDown, wake: wakeFirst, awake: make(chan struct{}, 1), changed: make(chan struct{})}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &w.now); err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	return w, nil
}

// State returns the state and a channel that is closed when it has changed.
func (w *Watch) State() (wire.Init, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now.State, w.changed
}

// Kind returns the init's kind.
func (w *Watch) Kind() Kind {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now.Kind
}

// Reason returns the reason for InitEmergency, if it is known.
func (w *Watch) Reason() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now.Why
}

// Hear takes one notification of the init. It returns the states that the init has
// entered, and whether it has started again. Only one goroutine may call it.
func (w *Watch) Hear(datagram string) (entered []wire.Init, again bool) {
	if datagram == Awake {
		select {
		case w.awake <- struct{}{}:
		default:
		}
	}
	for line := range strings.Lines(datagram) {
		before, _ := w.State()
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

// MayEnd reports whether a notification can be the first one of a shutdown, which
// begins with the targets.
func MayEnd(datagram string) bool { return strings.Contains(datagram, "X_SYSTEMD_UNIT_INACTIVE=") }

// Ask makes sure that a shutdown that has begun is known. systemd announces only one
// that a signal asked for, so it is asked, and Ask reports whether that has changed the
// state. The agent as process 1 announces each, so Ask waits until it has handled the
// signals that it was sent.
func (w *Watch) Ask() bool {
	w.asking.Lock()
	defer w.asking.Unlock()
	before, changed := w.State()
	if w.Kind() == None && !ending(before) {
		w.reach(changed)
	}
	if w.Kind() != Systemd || ending(before) || !w.ends() {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.changed != changed {
		return false // a notification is newer than the answer
	}
	w.set(wire.InitStopping, "")
	return true
}

// SignalAwake has the agent as process 1 answer with Awake. Its number is greater than
// those of the signals that end the machine, so that these are handled first.
const (
	SignalAwake = unix.SIGWINCH
	Awake       = "X_BANGER_AWAKE=1"
)

func wakeFirst() { unix.Kill(1, SignalAwake) }

// awakeTime bounds how long the answer may take. A guest that boots does not answer.
const awakeTime = 2 * time.Second

// reach waits until process 1 has answered, or the state has changed.
func (w *Watch) reach(changed <-chan struct{}) {
	select {
	case <-w.awake: // late
	default:
	}
	w.wake()
	select {
	case <-w.awake:
	case <-changed:
	case <-time.After(awakeTime):
	}
}

// ending reports whether an init in this state is ending the machine.
func ending(state wire.Init) bool { return state == wire.InitStopping || state == wire.InitShutdown }

func (w *Watch) enter(state wire.Init, why string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.set(state, why)
}

// set changes the state. The caller holds mu.
func (w *Watch) set(state wire.Init, why string) {
	w.now.State, w.now.Why = state, why
	if err := layout.WriteJSON(w.file, w.now); err != nil {
		log.Errorf("write the init's state: %v", err)
	}
	close(w.changed)
	w.changed = make(chan struct{})
}

// ends are the targets that end the machine, or at least everything that the init runs.
var ends = []string{"poweroff.target", "reboot.target", "halt.target", "kexec.target", "soft-reboot.target", "exit.target"}

// nextInit returns the state after one line of systemd's notifications. systemd
// reports READY=1 in its emergency mode, too; emergency tells the two apart.
func nextInit(now wire.Init, line string, emergency func() bool) wire.Init {
	key, value, _ := strings.Cut(line, "=")
	ending := ending(now)
	switch key {
	case "X_SYSTEMD_SIGNALS_LEVEL":
		// systemd repeats this when it executes itself. Only after an end does it
		// mean a new start: a soft reboot.
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
