package firecracker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"

	"banger"
	"banger/internal/config"
	"banger/internal/vmm"
	"banger/internal/vmm/process"
)

// machine implements vmm.Machine.
type machine struct {
	*process.Life
	vmm.Disks
	proc    *process.Process
	dir     *process.Dir
	api     *client
	knocks  *knocks
	adopted bool // the guest may have knocked before this daemon listened

	noting  sync.WaitGroup // noteDiskErrors
	growing sync.Mutex
	sizes   map[vmm.Role]int64 // of the files that have grown
}

// newMachine returns a machine, which owns its arguments.
func newMachine(proc *process.Process, dir *process.Dir, api *client, knocks *knocks, log string) *machine {
	m := &machine{proc: proc, dir: dir, api: api, knocks: knocks, sizes: map[vmm.Role]int64{},
		Life: process.NewLife(proc, func() vmm.Exit { return ending(proc.Exit(), lastLines(dir.Path(log))) })}
	ctx, cancel := m.While(context.Background())
	m.noting.Go(func() {
		defer cancel()
		m.noteDiskErrors(ctx, dir.Path(log))
	})
	return m
}

// Words of Firecracker's log about its end. A killed process logs none of them.
const (
	saysStopping = "Vmm is stopping."
	saysFault    = "KVM_EXIT_SHUTDOWN"
	saysSignal   = "Shutting down VM after intercepting signal"
)

// ending returns how Firecracker ended. Its exit status is the same for everything that a
// guest can do, and unknown for an adopted process: then the log decides.
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

// Ending implements vmm.Driver.
func (d *Driver) Ending(dir string) vmm.Exit {
	return ending(vmm.Exit{Reason: vmm.ReasonUnknown}, lastLines(config.VMDir(dir).VMMLog(Name)))
}

// Dial implements vmm.Machine.
func (m *machine) Dial(ctx context.Context, port int) (net.Conn, error) {
	ctx, cancel := m.While(ctx)
	defer cancel()
	conn, err := m.dial(ctx, port)
	if err == nil {
		return conn, nil
	}
	if over := m.Over(); over != nil {
		return nil, over
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

// fileOf returns the file of a disk.
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
	memory.Told = true
	memory.Balloon = banger.Size(stats.ActualMiB) * banger.MiB
	return memory, nil
}

// Close implements vmm.Machine.
func (m *machine) Close() error {
	err := m.Life.Close() // first: it ends the calls that wait for the guest
	m.noting.Wait()
	m.api.close()
	return errors.Join(err, m.knocks.close(), m.dir.Close())
}
