package qemu

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"banger"
	"banger/internal/config"
	"banger/internal/hostcmd"
	"banger/internal/vmm"
)

// Name is the driver's name.
const Name = "qemu"

// binary runs x86-64 guests.
const binary = "qemu-system-x86_64"

const installFix = "sudo apt install qemu-system-x86"

// Driver implements vmm.Driver.
type Driver struct {
	run  hostcmd.Runner
	host host
}

// New returns the driver, which asks QEMU about itself through run.
func New(run hostcmd.Runner) *Driver { return &Driver{run: run, host: thisHost} }

// Name implements vmm.Driver.
func (d *Driver) Name() string { return Name }

// Probe implements vmm.Driver.
func (d *Driver) Probe(ctx context.Context) (vmm.Capabilities, error) {
	program, err := d.inspect(ctx)
	if err != nil {
		return vmm.Capabilities{}, err
	}
	machines, err := d.run.Run(ctx, hostcmd.Cmd{Argv: []string{program.path, "-machine", "help"}})
	if err != nil {
		return vmm.Capabilities{}, &banger.Error{Kind: banger.Unready, What: "ask QEMU for its machines", Why: err, Fix: installFix}
	}
	if !slices.ContainsFunc(strings.Split(string(machines), "\n"), func(line string) bool { return strings.HasPrefix(line, "microvm ") }) {
		return vmm.Capabilities{}, &banger.Error{Kind: banger.Unready, Why: fmt.Errorf("QEMU %s has no microvm machine", program.version), Fix: installFix}
	}
	return d.host.accelerator().capabilities(program.version), nil
}

// program is the QEMU found on this host.
type program struct {
	path    string
	version string
	sandbox bool
}

func (d *Driver) inspect(ctx context.Context) (program, error) {
	path, err := d.run.Look(binary)
	if err != nil {
		return program{}, &banger.Error{Kind: banger.Unready, Why: errors.New("QEMU is not on this host"), Fix: installFix}
	}
	// Options are taken in order, so the version is told only by a QEMU that
	// knows the one before.
	out, err := d.run.Run(ctx, hostcmd.Cmd{Argv: []string{path, "-sandbox", "on", "-version"}})
	sandbox := err == nil
	if err != nil && ctx.Err() == nil {
		out, err = d.run.Run(ctx, hostcmd.Cmd{Argv: []string{path, "-version"}})
	}
	if err != nil {
		return program{}, &banger.Error{Kind: banger.Unready, What: "ask QEMU for its version", Why: err, Fix: installFix}
	}
	_, version, _ := strings.Cut(string(out), "version ")
	fields := strings.Fields(version)
	if len(fields) == 0 {
		return program{}, &banger.Error{Kind: banger.Unready, Why: fmt.Errorf("%s does not say its version", path), Fix: installFix}
	}
	return program{path, fields[0], sandbox}, nil
}

// Adopt implements vmm.Driver. The sockets were there before the fork, so QEMU
// need not have opened anything yet.
func (d *Driver) Adopt(ctx context.Context, dir string) (vmm.Machine, error) {
	lock := config.VMDir(dir).Lock()
	if locked, err := vmm.Locked(lock); err != nil || !locked {
		return nil, errors.Join(err, gone(locked))
	}
	proc, err := vmm.OpenHolder(lock)
	if err != nil {
		return nil, err
	}
	open, err := vmm.OpenDir(dir)
	if err != nil {
		proc.Close()
		return nil, err
	}
	m, err := attach(ctx, proc, open, config.VMMLogName(Name))
	if err == nil {
		return m, nil
	}
	defer proc.Close()
	defer open.Close()
	select {
	case <-proc.Done(): // its sockets close a moment before it is gone
		return nil, vmm.ErrGone
	case <-ctx.Done():
	case <-time.After(time.Second):
	}
	return nil, fmt.Errorf("adopt QEMU, process %d: %w", proc.PID(), err)
}

func gone(locked bool) error {
	if locked {
		return nil
	}
	return vmm.ErrGone
}
