package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"banger"
	"banger/internal/config"
	"banger/internal/hostcmd"
	"banger/internal/vmm"
	"banger/internal/vmm/process"
)

// Name is the driver's name.
const Name = "qemu"

// binary runs x86-64 guests.
const binary = "qemu-system-x86_64"

const installFix = "sudo apt install qemu-system-x86"

// Driver implements vmm.Driver.
type Driver struct {
	run  hostcmd.Runner
	host process.Host

	mu   sync.Mutex
	last program // the result of the last inspect
}

// New returns the driver. It runs QEMU by run to find out its version.
func New(run hostcmd.Runner) *Driver { return &Driver{run: run, host: process.ThisHost()} }

// Name implements vmm.Driver.
func (d *Driver) Name() string { return Name }

// Probe implements vmm.Driver.
func (d *Driver) Probe(ctx context.Context) (vmm.Capabilities, error) {
	program, err := d.inspect(ctx)
	if err != nil {
		return vmm.Capabilities{}, err
	}
	return acceleratorOf(d.host).capabilities(program.version), nil
}

// program is the QEMU found on this host.
type program struct {
	path    string
	file    os.FileInfo
	version string
	sandbox bool
}

// inspect returns the version and the features of the installed QEMU. It runs QEMU only
// if that has changed.
func (d *Driver) inspect(ctx context.Context) (program, error) {
	path, err := d.run.Look(binary)
	if err != nil {
		return program{}, &banger.Error{Kind: banger.Unready, Why: errors.New("QEMU is not installed"), Fix: installFix}
	}
	file, err := os.Stat(path)
	if err != nil {
		return program{}, &banger.Error{Kind: banger.Unready, What: "inspect QEMU", Why: err, Fix: installFix}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.last.path == path && os.SameFile(d.last.file, file) && d.last.file.ModTime().Equal(file.ModTime()) && d.last.file.Size() == file.Size() {
		return d.last, nil
	}
	p := program{path: path, file: file}
	if err := d.ask(ctx, &p); err != nil {
		return program{}, err
	}
	d.last = p
	return p, nil
}

func (d *Driver) ask(ctx context.Context, p *program) error {
	// QEMU reads its options in order: it prints its version only if it knows -sandbox.
	out, err := d.run.Run(ctx, hostcmd.Cmd{Argv: []string{p.path, "-sandbox", "on", "-version"}})
	p.sandbox = err == nil
	if err != nil && ctx.Err() == nil {
		out, err = d.run.Run(ctx, hostcmd.Cmd{Argv: []string{p.path, "-version"}})
	}
	if err != nil {
		return &banger.Error{Kind: banger.Unready, What: "ask QEMU for its version", Why: err, Fix: installFix}
	}
	_, version, _ := strings.Cut(string(out), "version ")
	fields := strings.Fields(version)
	if len(fields) == 0 {
		return &banger.Error{Kind: banger.Unready, Why: fmt.Errorf("unrecognised output of %s -version", p.path), Fix: installFix}
	}
	p.version = fields[0]
	machines, err := d.run.Run(ctx, hostcmd.Cmd{Argv: []string{p.path, "-machine", "help"}})
	if err != nil {
		return &banger.Error{Kind: banger.Unready, What: "ask QEMU for its machines", Why: err, Fix: installFix}
	}
	if !slices.ContainsFunc(strings.Split(string(machines), "\n"), func(line string) bool { return strings.HasPrefix(line, "microvm ") }) {
		return &banger.Error{Kind: banger.Unready, Why: fmt.Errorf("QEMU %s has no microvm machine", p.version), Fix: installFix}
	}
	return nil
}

// attachTime is how long a QEMU that was found may take to answer. One that is stopped,
// or has another client at its monitor, accepts the connection and does not answer.
var attachTime = 30 * time.Second

// lastMoment is how long a process that has closed its sockets may take to end.
const lastMoment = time.Second

// Adopt implements vmm.Driver. The sockets were there before the fork, so QEMU
// need not have opened anything yet.
func (d *Driver) Adopt(ctx context.Context, dir string) (vmm.Machine, error) {
	proc, open, err := process.Adopt(dir)
	if err != nil {
		return nil, err
	}
	within, cancel := context.WithTimeout(ctx, attachTime)
	defer cancel()
	m, err := attach(within, proc, open, config.VMMLogName(Name))
	if err == nil {
		return m, nil
	}
	defer proc.Close()
	defer open.Close()
	select {
	case <-proc.Done():
		return nil, vmm.ErrGone
	case <-ctx.Done():
	case <-time.After(lastMoment):
	}
	return nil, fmt.Errorf("adopt QEMU, process %d: %w", proc.PID(), err)
}
