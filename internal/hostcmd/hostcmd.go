// Package hostcmd runs the host's commands; no other package does. A failure becomes an
// error with the whole command, its exit status and the end of its stderr. The package
// does not know what the commands do.
package hostcmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"banger"
)

// Cmd is a command to run. Only Argv is required.
type Cmd struct {
	Argv   []string
	Dir    string
	Env    []string  // nil: the caller's environment
	Stdin  io.Reader // nil: nothing to read
	Stdout io.Writer // nil: collected and returned
	Stderr io.Writer // nil: only its end is kept, for the error; otherwise all is copied there too

	Inherit   []*os.File // its descriptors from 3 on
	Namespace bool       // it runs in a new user namespace, as the only user and as root, and in a network namespace of that
}

// tail is how much of stderr an error shows.
const tail = 2048

// Error is a command that could not be run, or failed.
type Error struct {
	Argv   []string
	Status int // the exit status, or -1 when it did not exit by itself
	Stderr string
	Err    error
}

func (e *Error) Error() string {
	text := fmt.Sprintf("run %s: %v", quote(e.Argv), e.Err)
	if said := strings.TrimSpace(e.Stderr); said != "" {
		text += ": " + said
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// Killed reports whether somebody killed the command, which a host does, too, that has
// run out of memory.
func (e *Error) Killed() bool {
	exit := (*exec.ExitError)(nil)
	if !errors.As(e.Err, &exit) {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// Runner runs commands. The host's own is Host; tests model another.
type Runner interface {
	// Run waits for the command and returns its stdout, unless Stdout is set. When ctx
	// ends, so does the command's whole process group.
	Run(ctx context.Context, cmd Cmd) ([]byte, error)
	// Look returns the path of a command, or an Unready error that names it.
	Look(name string) (string, error)
}

// Host runs commands on this host.
type Host struct{}

// Run implements Runner.
func (Host) Run(ctx context.Context, c Cmd) ([]byte, error) {
	var out bytes.Buffer
	said := &tailWriter{limit: tail}
	cmd := exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdin = c.Dir, c.Env, c.Stdin
	cmd.Stdout, cmd.Stderr = c.Stdout, said
	if c.Stdout == nil {
		cmd.Stdout = &out
	}
	if c.Stderr != nil {
		cmd.Stderr = io.MultiWriter(c.Stderr, said)
	}
	cmd.ExtraFiles = c.Inherit
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if c.Namespace {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second // then the pipes are closed and the command is killed
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		status := -1
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			status = exit.ExitCode()
		}
		return nil, &Error{Argv: c.Argv, Status: status, Stderr: said.String(), Err: err}
	}
	return out.Bytes(), nil
}

// Look implements Runner. It also finds Debian's administration tools, which are not in a
// plain user's PATH.
func (Host) Look(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin/", "/sbin/"} {
		if path, err := exec.LookPath(dir + name); err == nil {
			return path, nil
		}
	}
	return "", &banger.Error{Kind: banger.Unready, Why: fmt.Errorf("the command %s is not installed", name), Fix: "banger doctor"}
}

// tailWriter keeps the last limit bytes written to it.
type tailWriter struct {
	limit int
	kept  []byte
}

func (w *tailWriter) Write(p []byte) (int, error) {
	w.kept = append(w.kept, p...)
	if over := len(w.kept) - w.limit; over > 0 {
		w.kept = append(w.kept[:0], w.kept[over:]...)
	}
	return len(p), nil
}

func (w *tailWriter) String() string { return string(w.kept) }

func quote(argv []string) string {
	words := make([]string, len(argv))
	for i, arg := range argv {
		words[i] = arg
		if arg == "" || strings.ContainsAny(arg, " \t\n'\"\\$`*?;&|<>(){}[]#~") {
			words[i] = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
		}
	}
	return strings.Join(words, " ")
}
