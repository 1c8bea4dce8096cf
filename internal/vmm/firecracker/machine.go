package firecracker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/vmm"
)

// machine implements vmm.Machine.
type machine struct {
	proc    *vmm.Process
	dir     *vmm.Dir
	log     string
	api     *client
	knocks  *knocks
	adopted bool // the guest may have knocked before we listened

	growing sync.Mutex
	sizes   map[vmm.Role]int64 // of the files that have grown

	life  context.Context // ends with the VMM, or with Close
	leave context.CancelCauseFunc
	ended chan struct{}
	exit  vmm.Exit // set before ended is closed
}

var (
	errEnded  = errors.New("the VMM has ended")
	errClosed = errors.New("the VM was let go")
)

// newMachine makes a machine, which owns all that it is given.
func newMachine(proc *vmm.Process, dir *vmm.Dir, api *client, knocks *knocks, log string) *machine {
	m := &machine{proc: proc, dir: dir, api: api, knocks: knocks, log: log, sizes: map[vmm.Role]int64{}, ended: make(chan struct{})}
	m.life, m.leave = context.WithCancelCause(context.Background())
	go m.watch()
	return m
}

func (m *machine) watch() {
	select {
	case <-m.life.Done():
		return
	case <-m.proc.Done():
	}
	m.exit = ending(m.proc.Exit(), lastLines(m.dir.Path(m.log)))
	m.leave(errEnded)
	close(m.ended)
}

// Words of Firecracker's log about its end. A process that was killed says none
// of them.
const (
	saysStopping = "Vmm is stopping."
	saysFault    = "KVM_EXIT_SHUTDOWN"
	saysSignal   = "Shutting down VM after intercepting signal"
)

// ending tells how it ended. Its exit status is the same for all that a guest
// can do, and an adopted process does not tell any: then the log does.
func ending(exit vmm.Exit, log []string) vmm.Exit {
	if exit.Reason == vmm.ReasonKilled || exit.Reason == vmm.ReasonSignal {
		return exit
	}
	var stopping, faulted bool
	for _, line := range log {
		stopping = stopping || strings.Contains(line, saysStopping)
		faulted = faulted || strings.Contains(line, saysFault)
		if _, signal, found := strings.Cut(line, saysSignal); found {
			return vmm.Exit{Reason: vmm.ReasonSignal, Detail: "signal" + signal}
		}
	}
	switch {
	case exit.Reason == vmm.ReasonFailed:
		if len(log) > 0 {
			exit.Detail += ": " + log[len(log)-1]
		}
		return exit
	case faulted:
		return vmm.Exit{Reason: vmm.ReasonReset, Detail: "triple fault"}
	case stopping:
		return vmm.Exit{Reason: vmm.ReasonReset}
	}
	return exit
}

// PID implements vmm.Machine.
func (m *machine) PID() int { return m.proc.PID() }

// Dial implements vmm.Machine.
func (m *machine) Dial(ctx context.Context, port int) (net.Conn, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(m.life, func() { cancel(context.Cause(m.life)) })()
	conn, err := m.dial(ctx, port)
	if err == nil {
		return conn, nil
	}
	if m.life.Err() != nil {
		return nil, context.Cause(m.life)
	}
	return nil, fmt.Errorf("connect to guest port %d: %w", port, err)
}

// Grow implements vmm.Machine. Firecracker would take a smaller file too, below
// a mounted file system.
func (m *machine) Grow(ctx context.Context, role vmm.Role, size banger.Size) error {
	m.growing.Lock()
	defer m.growing.Unlock()
	file, err := m.fileOf(ctx, role)
	if err != nil {
		return fmt.Errorf("grow %s: %w", role, err)
	}
	info, err := os.Stat(m.dir.Path(file))
	if err != nil {
		return fmt.Errorf("grow %s: %w", role, err)
	}
	if least := max(int64(size), m.sizes[role]); info.Size() < least {
		return fmt.Errorf("grow %s: %s has %d bytes, fewer than the %d it should have", role, file, info.Size(), least)
	}
	if err := m.api.do(ctx, patchDrive.named(string(role)), driveUpdate{ID: string(role), File: file}, nil); err != nil {
		return fmt.Errorf("grow %s: %w", role, err)
	}
	m.sizes[role] = info.Size()
	return nil
}

// fileOf asks Firecracker which file is behind a disk.
func (m *machine) fileOf(ctx context.Context, role vmm.Role) (string, error) {
	var c vmConfig
	if err := m.api.do(ctx, describeConfig, nil, &c); err != nil {
		return "", err
	}
	for _, drive := range c.Drives {
		if drive.ID == string(role) {
			return drive.File, nil
		}
	}
	return "", errors.New("the VM has no such disk")
}

// SetMemory implements vmm.Machine.
func (m *machine) SetMemory(ctx context.Context, size banger.Size) error {
	now, err := m.Memory(ctx)
	if err == nil {
		err = now.CheckMemory(size)
	}
	if err != nil {
		return err
	}
	return m.api.do(ctx, patchBalloon, balloonUpdate{AmountMiB: int64((now.Launched - size) / banger.MiB)}, nil)
}

// Memory implements vmm.Machine.
func (m *machine) Memory(ctx context.Context) (vmm.Memory, error) {
	var c vmConfig
	if err := m.api.do(ctx, describeConfig, nil, &c); err != nil {
		return vmm.Memory{}, err
	}
	memory := vmm.Memory{Launched: banger.Size(c.Machine.MemoryMiB) * banger.MiB}
	if c.Balloon.Interval == 0 {
		return memory, nil
	}
	var stats balloonStats
	if err := m.api.do(ctx, getBalloon, nil, &stats); err != nil {
		return vmm.Memory{}, err
	}
	memory.Balloon = banger.Size(stats.ActualMiB) * banger.MiB
	return memory, nil
}

// Kill implements vmm.Machine.
func (m *machine) Kill() error { return m.proc.Kill() }

// Signal implements vmm.Machine.
func (m *machine) Signal(signal unix.Signal) error { return m.proc.Signal(signal) }

// Ended implements vmm.Machine.
func (m *machine) Ended() <-chan struct{} { return m.ended }

// Exit implements vmm.Machine.
func (m *machine) Exit() vmm.Exit { return m.exit }

// Close implements vmm.Machine.
func (m *machine) Close() error {
	m.leave(errClosed)
	m.api.close()
	return errors.Join(m.knocks.close(), m.proc.Close(), m.dir.Close())
}
