// Package doctor looks at a host and says what banger needs there and does not
// find, each with one command that puts it right. It changes nothing, and it
// needs no daemon.
package doctor

import (
	"context"
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"banger"
	"banger/internal/bundle"
	"banger/internal/config"
	"banger/internal/hostcmd"
	"banger/internal/vmm"
)

// State is how a check came out.
type State string

// The states of a check.
const (
	OK      State = "ok"
	Warn    State = "warn"    // banger works, but less well or untested
	Missing State = "missing" // something that was asked for will not work
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

// Host is the host that is looked at. ThisHost fills it in; tests model another.
type Host struct {
	Runner  hostcmd.Runner
	Purpose Purpose
	Dirs    config.Dirs
	Config  config.Config
	Root    string // below it lie proc, etc and dev
	User    string
	UID     int

	OpenKVM     func() error
	Firecracker vmm.Driver
	Free        func(dir string) (banger.Size, error)
	Daemon      func(context.Context) (banger.Daemon, error) // NotFound: none runs
}

// ThisHost is the host this process runs on.
func ThisHost(purpose Purpose, dirs config.Dirs, cfg config.Config, firecracker vmm.Driver, daemon func(context.Context) (banger.Daemon, error)) Host {
	h := Host{
		Runner: hostcmd.Host{}, Purpose: purpose, Dirs: dirs, Config: cfg, Root: "/",
		UID: os.Getuid(), OpenKVM: openKVM, Firecracker: firecracker, Free: free, Daemon: daemon,
	}
	if me, err := user.Current(); err == nil {
		h.User = me.Username
	}
	return h
}

// Run runs every check that matters for the host's purpose, in the order
// of the table.
func Run(ctx context.Context, h Host) []Check {
	rows := []func(context.Context, Host) Check{
		distribution, qemu, kvm, firecracker, e2fsprogs, ssh, space,
	}
	if h.building() {
		rows = append(rows, golang, makeTool, mmdebstrap, subIDs, namespaces)
	}
	rows = append(rows, runtimeBundle)
	if len(h.Config.Idle()) > 0 {
		rows = append(rows, idleKeys)
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

// Ready says whether nothing required is missing.
func Ready(checks []Check) bool {
	for _, c := range checks {
		if c.State == Missing {
			return false
		}
	}
	return true
}

// building says whether the tools that make a runtime are needed: to build
// one, or because there is none.
func (h Host) building() bool { return h.Purpose == ToBuild || !h.hasRuntime() }

func (h Host) hasRuntime() bool {
	b, err := bundle.Open(h.Config.Bundle())
	return err == nil && b.Kernel.Digest != "" && b.Image.Digest != ""
}

// read returns a file of the host, or nothing.
func (h Host) read(path string) string {
	text, err := os.ReadFile(filepath.Join(h.Root, path))
	if err != nil {
		return ""
	}
	return string(text)
}

func openKVM() error {
	file, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return file.Close()
}

// free is the space that the user may still fill where dir is, or will be.
func free(dir string) (banger.Size, error) {
	var fs syscall.Statfs_t
	for {
		err := syscall.Statfs(dir, &fs)
		if err == nil {
			return banger.Size(fs.Bavail) * banger.Size(fs.Bsize), nil
		}
		if !errors.Is(err, syscall.ENOENT) || dir == filepath.Dir(dir) {
			return 0, err
		}
		dir = filepath.Dir(dir)
	}
}

func install(pkg string) string { return "sudo apt-get install -y --no-install-recommends " + pkg }

// tool is the check of one command that a package brings.
func tool(h Host, name, pkg string, commands ...string) Check {
	for _, command := range commands {
		if _, err := h.Runner.Look(command); err != nil {
			return Check{Name: name, State: Missing, Detail: command + " is not installed", Fix: install(pkg), Package: pkg}
		}
	}
	return Check{Name: name, State: OK, Detail: strings.Join(commands, ", ")}
}

// patience bounds a command that only prints something about itself.
const patience = 10 * time.Second

func ask(ctx context.Context, h Host, argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	out, err := h.Runner.Run(ctx, hostcmd.Cmd{Argv: argv})
	return string(out), err
}
