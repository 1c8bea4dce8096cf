package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"banger/internal/linux"
	"banger/internal/vmm"
)

// monitor is a connection to QEMU's monitor. QEMU serves one client at a time: the next
// one waits for the greeting.
type monitor struct {
	conn net.Conn
	done chan struct{} // closed at the end of the connection: no event follows

	mu       sync.Mutex
	last     int
	waiting  map[int]chan response
	shutdown *shutdownEvent

	disks vmm.Disks
	pause pause
}

// shutdownEvent is the data of QEMU's SHUTDOWN event.
type shutdownEvent struct {
	Guest  bool   `json:"guest"`
	Reason string `json:"reason"`
}

type response struct {
	Greeting json.RawMessage `json:"QMP"`
	Event    string          `json:"event"`
	Data     json.RawMessage `json:"data"`
	ID       int             `json:"id"`
	Return   json.RawMessage `json:"return"`
	Error    *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
}

// maxResponse bounds a line of QEMU.
const maxResponse = 1 << 20

// callTime bounds a command: a stopped QEMU does not answer.
const callTime = time.Minute

// openMonitor waits, within ctx, for QEMU's greeting. It owns conn.
func openMonitor(ctx context.Context, conn net.Conn) (*monitor, error) {
	m := &monitor{conn: conn, done: make(chan struct{}), waiting: make(map[int]chan response), pause: pause{resumeAfter: resumeAfter, writesWithin: writesWithin}}
	lines := bufio.NewScanner(conn)
	lines.Buffer(nil, maxResponse)
	end := linux.InterruptAfter(ctx, conn)
	err := greet(lines)
	if !end() {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("wait for QEMU's greeting: %w", err)
	}
	go m.read(lines)
	if err := m.do(ctx, "qmp_capabilities", nil); err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

var errMonitorClosed = errors.New("QEMU closed its monitor")

func greet(lines *bufio.Scanner) error {
	if !lines.Scan() {
		return errors.Join(errMonitorClosed, lines.Err())
	}
	var r response
	if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
		return err
	}
	if r.Greeting == nil {
		return fmt.Errorf("unexpected greeting %.100q", lines.Bytes())
	}
	return nil
}

func (m *monitor) read(lines *bufio.Scanner) {
	defer close(m.done)
	defer m.conn.Close()
	for lines.Scan() {
		var r response
		if json.Unmarshal(lines.Bytes(), &r) != nil {
			return
		}
		m.take(r)
	}
}

func (m *monitor) take(r response) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r.Event == "SHUTDOWN" && m.shutdown == nil {
		m.shutdown = new(shutdownEvent)
		if json.Unmarshal(r.Data, m.shutdown) != nil {
			m.shutdown.Reason = "none"
		}
	}
	switch r.Event {
	case portChange:
		go m.nudge()
	case diskError:
		m.diskFailed(r.Data)
	case stopped:
		if !m.pause.on { // the error was reported to a daemon before this one
			go m.findFailed(context.Background())
		}
	case resumed:
		m.awaitWrites()
	}
	if reply := m.waiting[r.ID]; reply != nil && r.Event == "" {
		delete(m.waiting, r.ID)
		reply <- r
	}
}

// portChange is QEMU's event when its guest opens or closes a serial port that
// has an id.
const portChange = "VSERPORT_CHANGE"

// nudge makes QEMU's main loop run once. Only there QEMU checks whether the guest reads
// what a host has sent to a serial port, and the guest's opening of the port does not
// trigger it: a guest that is idle afterwards would never get what was sent before. Any
// command works.
func (m *monitor) nudge() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.send(0, "query-status", nil) // if the monitor is closed, nobody waits for the guest either
}

// do runs a command of the monitor.
func (m *monitor) do(ctx context.Context, command string, arguments any) error {
	return m.ask(ctx, command, arguments, nil)
}

// ask runs a command of the monitor, and decodes the result into answer unless that is
// nil.
func (m *monitor) ask(ctx context.Context, command string, arguments, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	reply := make(chan response, 1)
	m.mu.Lock()
	m.last++
	id := m.last
	m.waiting[id] = reply
	err := m.send(id, command, arguments)
	m.mu.Unlock()
	if err != nil {
		return fmt.Errorf("ask QEMU for %s: %w", command, err)
	}
	select {
	case r := <-reply:
		if r.Error != nil {
			return fmt.Errorf("QEMU refused %s: %s", command, r.Error.Desc)
		}
		if answer == nil {
			return nil
		}
		if err := json.Unmarshal(r.Return, answer); err != nil {
			return fmt.Errorf("read QEMU's answer to %s: %w", command, err)
		}
		return nil
	case <-m.done:
		return fmt.Errorf("ask QEMU for %s: %w", command, errMonitorClosed)
	case <-ctx.Done():
		return fmt.Errorf("ask QEMU for %s: %w", command, ctx.Err())
	}
}

func (m *monitor) send(id int, command string, arguments any) error {
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        int    `json:"id"`
	}{command, arguments, id})
	if err != nil {
		return err
	}
	m.conn.SetWriteDeadline(time.Now().Add(callTime))
	_, err = m.conn.Write(append(line, '\n'))
	return err
}

// ending returns the SHUTDOWN event, or nil. It is valid once done is closed.
func (m *monitor) ending() *shutdownEvent {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.shutdown
}

func (m *monitor) close() {
	m.conn.Close()
	<-m.done
}
