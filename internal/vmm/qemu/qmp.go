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

// monitor is a connection to QEMU's monitor. QEMU serves one at a time, the
// next one waits for its greeting.
type monitor struct {
	conn net.Conn
	done chan struct{} // the connection is over, and with it all events

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

// maxResponse bounds what QEMU says in one line.
const maxResponse = 1 << 20

// callTime bounds one command: a QEMU that is stopped does not answer.
const callTime = time.Minute

// openMonitor waits, within ctx, for QEMU's greeting: then it runs. It owns conn.
func openMonitor(ctx context.Context, conn net.Conn) (*monitor, error) {
	m := &monitor{conn: conn, done: make(chan struct{}), waiting: make(map[int]chan response)}
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

// nudge makes QEMU's main loop go around. Only there it looks whether the guest
// takes what a host has sent to a serial port, and the guest's opening of the port
// does not make it look: a guest that goes idle at once, with no timer pending,
// would not hear of a host that was there before it. Any command will do.
func (m *monitor) nudge() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.send(0, "query-status", nil) // where the monitor is closed nobody waits for the guest either
}

// do runs a command of the monitor.
func (m *monitor) do(ctx context.Context, command string, arguments any) error {
	return m.ask(ctx, command, arguments, nil)
}

// ask runs a command of the monitor, and reads what it returns into answer unless
// that is nil.
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

// ending is the SHUTDOWN event, once done is closed; nil when none came.
func (m *monitor) ending() *shutdownEvent {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.shutdown
}

func (m *monitor) close() {
	m.conn.Close()
	<-m.done
}
