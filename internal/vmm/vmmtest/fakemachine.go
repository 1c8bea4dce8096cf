package vmmtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/vmm"
)

// fakeMachine implements vmm.Machine.
type fakeMachine struct {
	proc    *vmm.Process
	dir     *vmm.Dir
	log     string
	monitor net.Conn // says one word at the end: the reason

	life  context.Context
	leave context.CancelFunc
	ended chan struct{}
	exit  vmm.Exit
}

func attachFake(ctx context.Context, proc *vmm.Process, dir *vmm.Dir, log string) (*fakeMachine, error) {
	m := &fakeMachine{proc: proc, dir: dir, log: log, ended: make(chan struct{})}
	m.life, m.leave = context.WithCancel(context.Background())
	var err error
	if m.monitor, err = m.Dial(ctx, portMonitor); err != nil {
		m.leave()
		return nil, err
	}
	go m.watch()
	return m, nil
}

func (m *fakeMachine) watch() {
	word, _ := io.ReadAll(io.LimitReader(m.monitor, maxLine))
	select {
	case <-m.life.Done():
		return
	case <-m.proc.Done():
	}
	m.exit = m.proc.Exit()
	if reason := vmm.Reason(bytes.TrimSpace(word)); reason != "" {
		m.exit = vmm.Exit{Reason: reason}
	}
	if m.exit.Reason == vmm.ReasonFailed {
		m.exit.Detail += ": " + lastWords(m.dir, m.log)
	}
	close(m.ended)
}

func (m *fakeMachine) PID() int { return m.proc.PID() }

func (m *fakeMachine) Dial(ctx context.Context, port int) (net.Conn, error) {
	conn, err := m.dir.Dial(ctx, fakeSocket)
	if err != nil {
		return nil, err
	}
	end := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	err = m.connect(conn, port)
	if !end() {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func (m *fakeMachine) connect(conn net.Conn, port int) error {
	if _, err := fmt.Fprintf(conn, "CONNECT %d\n", port); err != nil {
		return err
	}
	line, err := readLine(conn)
	if err != nil {
		return err
	}
	if want := fmt.Sprintf("OK %d", port); line != want {
		return fmt.Errorf("the guest answered %q", line)
	}
	return nil
}

func (m *fakeMachine) Grow(_ context.Context, role vmm.Role, size banger.Size) error {
	select {
	case <-m.proc.Done():
		return fmt.Errorf("grow %s: the VMM has ended", role)
	default:
		return nil
	}
}

func (m *fakeMachine) SetMemory(ctx context.Context, size banger.Size) error {
	now, err := m.Memory(ctx)
	if err == nil {
		err = now.CheckMemory(size)
	}
	if err == nil {
		_, err = m.askMemory(ctx, size)
	}
	return err
}

func (m *fakeMachine) Memory(ctx context.Context) (vmm.Memory, error) { return m.askMemory(ctx, 0) }

func (m *fakeMachine) askMemory(ctx context.Context, size banger.Size) (told vmm.Memory, err error) {
	conn, err := m.Dial(ctx, portMemory)
	if err != nil {
		return told, err
	}
	defer conn.Close()
	if _, err := fmt.Fprintln(conn, int64(size)); err != nil {
		return told, err
	}
	return told, json.NewDecoder(conn).Decode(&told)
}

func (m *fakeMachine) Kill() error                     { return m.proc.Kill() }
func (m *fakeMachine) Signal(signal unix.Signal) error { return m.proc.Signal(signal) }
func (m *fakeMachine) Ended() <-chan struct{}          { return m.ended }
func (m *fakeMachine) Exit() vmm.Exit                  { return m.exit }

func (m *fakeMachine) Close() error {
	m.leave()
	return errors.Join(m.monitor.Close(), m.proc.Close(), m.dir.Close())
}

func lastWords(dir *vmm.Dir, log string) string {
	data, err := os.ReadFile(dir.Path(log))
	if err != nil {
		return ""
	}
	lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	return string(lines[len(lines)-1])
}

// maxLine bounds the lines of the fake's own protocol.
const maxLine = 128

// readLine reads byte by byte: what follows is the stream's.
func readLine(r io.Reader) (string, error) {
	var line []byte
	for b := make([]byte, 1); len(line) < maxLine; line = append(line, b[0]) {
		if _, err := io.ReadFull(r, b); err != nil {
			return "", err
		}
		if b[0] == '\n' {
			return string(line), nil
		}
	}
	return "", errors.New("line too long")
}
