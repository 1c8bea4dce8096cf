// Package ports knows which TCP ports listen in the guest, and hears of each change
// from the kernel. It covers the network namespace of its own process, so no
// containers, and no UDP. It does not make ports reachable.
package ports

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"banger/internal/guest/agent/log"
	"banger/internal/guest/wire"
)

// Watch knows what listens.
type Watch struct {
	tell func(wire.Ports)

	mu        sync.Mutex
	known     *wire.Ports // nil before the first look
	programs  map[uint16]string
	unwatched string
}

// NewWatch returns a watch. tell is called with all that listens after each change,
// from one goroutine.
func NewWatch(tell func(wire.Ports)) *Watch {
	return &Watch{tell: tell, programs: map[uint16]string{}}
}

// Known returns what listened after the last change, or nil before the first look.
func (w *Watch) Known() *wire.Ports {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.known
}

// Look returns what listens now.
func (w *Watch) Look() (wire.Ports, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now, _, err := w.look()
	return now, err
}

// look asks the kernel, and reports whether something is different from what was known.
func (w *Watch) look() (now wire.Ports, changed bool, err error) {
	found, err := listening()
	if err != nil {
		return now, false, err
	}
	w.forget(found)
	now = report(found, w.programs)
	now.Unwatched = w.unwatched
	changed = w.known == nil || !slices.Equal(now.Listeners, w.known.Listeners) || now.More != w.known.More || now.Unwatched != w.known.Unwatched
	w.known = &now
	return now, changed, nil
}

// forget forgets the programs of ports that nobody listens on any more.
func (w *Watch) forget(found []socket) {
	for port := range w.programs {
		if !slices.ContainsFunc(found, func(s socket) bool { return s.Port == port }) {
			delete(w.programs, port)
		}
	}
}

// report orders the sockets and bounds their number.
func report(found []socket, programs map[uint16]string) (p wire.Ports) {
	own := ownSockets()
	for _, s := range found {
		if own[s.inode] {
			continue // a forward towards an SSH client, which must not be forwarded back
		}
		s.Program = programs[s.Port]
		p.Listeners = append(p.Listeners, s.Listener)
	}
	slices.SortFunc(p.Listeners, func(a, b wire.Listener) int {
		if a.Port != b.Port {
			return int(a.Port) - int(b.Port)
		}
		return a.Addr.Compare(b.Addr)
	})
	// Several processes can share a port.
	p.Listeners = slices.CompactFunc(p.Listeners, func(a, b wire.Listener) bool { return a.Port == b.Port && a.Addr == b.Addr })
	if len(p.Listeners) > wire.MaxListeners {
		p.Listeners, p.More = p.Listeners[:wire.MaxListeners], true
	}
	return p
}

// Follow tells of what listens, and of each change, until the kernel's events end. If
// there are no events it tells once, with the reason.
func (w *Watch) Follow() error {
	events, err := openEvents()
	if err != nil {
		w.mu.Lock()
		w.unwatched = "the guest's kernel has no events for it: " + err.Error()
		w.mu.Unlock()
		w.update()
		return err
	}
	defer events.Close()
	return w.follow(events)
}

func (w *Watch) follow(events io.Reader) error {
	hints := make(chan struct{}, 1)
	hints <- struct{}{} // what listened before
	ended := make(chan error, 1)
	go func() { ended <- w.hear(events, hints); close(hints) }()
	pace(hints, w.update)
	return <-ended
}

// calm is how long a hint is waited for to have its effect, and how seldom at the
// least the host is told of a program that keeps changing what it listens on.
const calm = 100 * time.Millisecond

// pace calls look for each hint, and once more: the kernel announces a listener a
// moment before it can be found. Hints that come meanwhile are one.
func pace(hints <-chan struct{}, look func()) {
	for range hints {
		look()
		<-time.After(calm)
		look()
	}
}

func (w *Watch) update() {
	w.mu.Lock()
	now, changed, err := w.look()
	w.mu.Unlock()
	if err != nil {
		log.Errorf("look for ports that listen: %v", err)
		return
	}
	if changed {
		w.tell(now)
	}
}

// hear reads the kernel's events, one a line, and hints at each.
func (w *Watch) hear(events io.Reader, hints chan<- struct{}) error {
	lines := bufio.NewReaderSize(events, maxEvent)
	for {
		line, err := lines.ReadSlice('\n')
		if err != nil && err != bufio.ErrBufferFull {
			return fmt.Errorf("read the kernel's events: %w", err)
		}
		if pid, port, ok := parseEvent(line); ok {
			w.name(pid, port)
		}
		select {
		case hints <- struct{}{}:
		default:
		}
	}
}

// maxEvent bounds a line: a longer one is several hints.
const maxEvent = 4 << 10

// commField is the width of a program's name at the beginning of an event. The name is
// not used: the kernel does not keep it up to date.
const commField = 16

// parseEvent returns which process began to listen on which port. A line is
//
//	<...>-1234 [000] ..... 12.345678: inet_sock_set_state: family=AF_INET protocol=IPPROTO_TCP sport=80 ... newstate=TCP_LISTEN
//
// with the first word right-aligned in its field.
func parseEvent(line []byte) (pid int, port uint16, ok bool) {
	if len(line) < commField+1 || line[commField] != '-' || !bytes.Contains(line, []byte("newstate=TCP_LISTEN")) {
		return 0, 0, false
	}
	number, _, _ := strings.Cut(string(line[commField+1:]), " ")
	_, after, _ := strings.Cut(string(line), " sport=")
	source, _, _ := strings.Cut(after, " ")
	pid, err1 := strconv.Atoi(number)
	n, err2 := strconv.ParseUint(source, 10, 16)
	return pid, uint16(n), err1 == nil && err2 == nil && pid > 0 && n > 0
}

// name remembers the program that listens on a port, unless it runs in a network
// namespace of its own. It is a hint for people: any program can call itself anything.
func (w *Watch) name(pid int, port uint16) {
	dir := "/proc/" + strconv.Itoa(pid)
	ours, err1 := os.Readlink("/proc/self/ns/net")
	its, err2 := os.Readlink(dir + "/ns/net")
	comm, err3 := os.ReadFile(dir + "/comm")
	if err1 != nil || err2 != nil || err3 != nil || ours != its {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.programs) < wire.MaxListeners || w.programs[port] != "" {
		w.programs[port] = printable(comm)
	}
}

func printable(comm []byte) string {
	name := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, string(comm))
	return name[:min(len(name), wire.MaxProgram)]
}
