package vmmtest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"banger"
	"banger/internal/linux"
	"banger/internal/vmm"
	"banger/internal/vmm/process"
)

// fakeMachine implements vmm.Machine.
type fakeMachine struct {
	*process.Life
	vmm.Disks
	proc    *process.Process
	dir     *process.Dir
	monitor net.Conn
	reason  chan vmm.Reason // closed when the monitor is
}

func attachFake(ctx context.Context, proc *process.Process, dir *process.Dir, log string) (*fakeMachine, error) {
	m := &fakeMachine{proc: proc, dir: dir, reason: make(chan vmm.Reason, 1)}
	var err error
	if m.monitor, err = m.Dial(ctx, portMonitor); err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(m.monitor)
	if lines.Scan() { // the first line says how the disks are now
		m.hear(lines.Text())
	}
	go func() {
		defer close(m.reason)
		for lines.Scan() {
			m.hear(lines.Text())
		}
	}()
	m.Life = process.NewLife(proc, func() vmm.Exit { return fakeEnding(m.reason, proc, dir, log) })
	return m, nil
}

// hear takes a line of the monitor.
func (m *fakeMachine) hear(line string) {
	text, disks := strings.CutPrefix(line, saysDisks)
	if !disks {
		select {
		case m.reason <- vmm.Reason(line):
		default: // the first counts
		}
		return
	}
	var errs []vmm.DiskError
	if json.Unmarshal([]byte(text), &errs) == nil {
		m.SetDiskErrors(errs)
	}
}

func fakeEnding(reason <-chan vmm.Reason, proc *process.Process, dir *process.Dir, log string) vmm.Exit {
	if reason, told := <-reason; told {
		return vmm.Exit{Reason: reason}
	}
	exit := proc.Exit()
	if exit.Reason == vmm.ReasonFailed {
		exit.Detail += ": " + lastWords(dir, log)
	}
	return exit
}

func (m *fakeMachine) Dial(ctx context.Context, port int) (net.Conn, error) {
	conn, err := m.dir.Dial(ctx, fakeSocket)
	if err != nil {
		return nil, err
	}
	end := linux.InterruptAfter(ctx, conn)
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

func (m *fakeMachine) Close() error {
	return errors.Join(m.Life.Close(), m.monitor.Close(), m.dir.Close())
}

func lastWords(dir *process.Dir, log string) string {
	lines := process.LastLines(dir.Path(log), 0)
	if len(lines) == 0 {
		return ""
	}
	return lines[len(lines)-1]
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
