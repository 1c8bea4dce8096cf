// Package doctor checks whether a host has what banger needs. Each problem comes
// with a command or a sentence that fixes it. It changes nothing and needs no
// daemon.
package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"banger"
	"banger/internal/bundle"
	"banger/internal/config"
	"banger/internal/detach"
	"banger/internal/disk"
	"banger/internal/hostcmd"
	"banger/internal/network"
	"banger/internal/vmm"
	"banger/internal/vmm/process"
)

// State is the result of a check.
type State string

// The states of a check.
const (
	OK      State = "ok"
	Warn    State = "warn"    // banger works, but slower or untested
	Missing State = "missing" // banger will not work, or not as configured
)

// Check is one row of the table.
type Check struct {
	Name    string `json:"name"`              // what was checked
	State   State  `json:"state"`             // `ok`, `warn` or `missing`
	Detail  string `json:"detail"`            // what was found
	Fix     string `json:"fix,omitempty"`     // one command or one sentence
	Package string `json:"package,omitempty"` // the Debian package that is missing
}

// Purpose is what the host is to be used for.
type Purpose string

// The purposes. Building needs tools that running does not.
const (
	ToRun   Purpose = "run"   // run VMs with what is there
	ToBuild Purpose = "build" // build banger and its runtime from a clone first
)

// Host is the host to check. ThisHost returns the real one; tests model others.
type Host struct {
	Runner  hostcmd.Runner
	Purpose Purpose
	Dirs    config.Dirs
	Config  config.Config
	Root    string // the directory that holds proc and etc
	User    string
	UID     int

	CheckKVM    func() error // the drivers' own check
	Firecracker vmm.Driver
	Free        func(dir string) (banger.Size, error)
	Offer       func(context.Context) (network.Offer, error) // the network that VMs can have; nil: do not ask
	Daemon      func(context.Context) (banger.Daemon, error) // NotFound: not running; nil: do not ask
	Inherited   func(pid int) ([]detach.Problem, error)      // what a daemon could not reset; nil: do not ask
}

// ThisHost returns the host that this process runs on.
func ThisHost(purpose Purpose, dirs config.Dirs, cfg config.Config, firecracker vmm.Driver, daemon func(context.Context) (banger.Daemon, error)) Host {
	h := Host{
		Runner: hostcmd.Host{}, Purpose: purpose, Dirs: dirs, Config: cfg, Root: "/",
		UID: os.Getuid(), CheckKVM: process.ThisHost().CheckKVM, Firecracker: firecracker, Free: free, Daemon: daemon, Inherited: detach.Problems,
	}
	if me, err := user.Current(); err == nil {
		h.User = me.Username
	}
	return h
}

// Run runs every check that matters for the host's purpose and returns the
// results in the order of the printed table.
func Run(ctx context.Context, h Host) []Check {
	rows := []func(context.Context, Host) Check{
		distribution, qemu, kvm, firecracker, e2fsprogs, ssh, space,
	}
	if h.building() {
		rows = append(rows, golang, makeTool, mmdebstrap, subIDs, namespaces)
	}
	rows = append(rows, runtimeBundle)
	if h.Offer != nil {
		h.Offer = askOnce(ctx, h.Offer)
		rows = append(rows, networkMode, names)
	}
	if len(h.Config.Legacy) > 0 {
		rows = append(rows, configuration)
	}
	if h.Daemon != nil {
		rows = append(rows, daemon)
	}
	var checks []Check
	for _, row := range rows {
		checks = append(checks, row(ctx, h))
	}
	return checks
}

// Ready reports whether no check is Missing.
func Ready(checks []Check) bool {
	for _, c := range checks {
		if c.State == Missing {
			return false
		}
	}
	return true
}

// meaning says what a warning means for a person who does not read the table.
var meaning = map[string]string{
	"host":        "this host is untested",
	"/dev/kvm":    "VMs will be slow",
	"Firecracker": "new VMs use QEMU",
	"names":       "this host does not find NAME.vm",
}

// Verdict returns the checks in one line.
func Verdict(checks []Check) string {
	var missing, warned []string
	for _, c := range checks {
		switch c.State {
		case Missing:
			missing = append(missing, c.Name)
		case Warn:
			warned = append(warned, cmp.Or(meaning[c.Name], c.Name))
		}
	}
	switch {
	case len(missing) > 0:
		return "Not ready: " + strings.Join(missing, ", ")
	case len(warned) == 1:
		return "Ready, with 1 warning: " + warned[0]
	case len(warned) > 1:
		return fmt.Sprintf("Ready, with %d warnings: %s", len(warned), strings.Join(warned, "; "))
	}
	return "Ready"
}

// building reports whether the host needs the tools that build a runtime: it was
// asked for, or there is no runtime yet.
func (h Host) building() bool { return h.Purpose == ToBuild || !h.hasRuntime() }

func (h Host) hasRuntime() bool {
	b, err := bundle.Open(h.Config.Bundle())
	return err == nil && b.Kernel.Digest != "" && b.Image.Digest != ""
}

// read returns the content of a file, or "" if it cannot be read.
func (h Host) read(path string) string {
	text, err := os.ReadFile(filepath.Join(h.Root, path))
	if err != nil {
		return ""
	}
	return string(text)
}

// free returns the space that the user can use in dir, which may not exist yet.
func free(dir string) (banger.Size, error) { return disk.Free(existing(dir)) }

// existing returns dir or its nearest parent that exists.
func existing(dir string) string {
	for dir != filepath.Dir(dir) {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			break
		}
		dir = filepath.Dir(dir)
	}
	return dir
}

func install(pkg string) string { return "sudo apt-get install -y --no-install-recommends " + pkg }

// tool checks that the commands of one Debian package are installed.
func tool(h Host, name, pkg string, commands ...string) Check {
	for _, command := range commands {
		if _, err := h.Runner.Look(command); err != nil {
			return Check{Name: name, State: Missing, Detail: command + " is not installed", Fix: install(pkg), Package: pkg}
		}
	}
	return Check{Name: name, State: OK, Detail: strings.Join(commands, ", ")}
}

// patience is how long a command may take to print its version or the like.
const patience = 10 * time.Second

func ask(ctx context.Context, h Host, argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	out, err := h.Runner.Run(ctx, hostcmd.Cmd{Argv: argv})
	return string(out), err
}
