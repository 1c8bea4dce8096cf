// Package process starts programs in the guest and ends them. It owns the agent's
// control groups and what its own processes are protected from. It does not know
// why a program runs.
package process

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/internal/guest/agent/layout"
)

var oomScore sync.Mutex

// Start starts a program in the sessions' control group and in a session of its
// own. When memory runs out, neither it nor its children may have the agent's
// protection, so the agent gives that up during the fork.
func Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid = true
	if group, err := os.Open(layout.CgroupSessions); err == nil {
		defer group.Close()
		cmd.SysProcAttr.UseCgroupFD = true
		cmd.SysProcAttr.CgroupFD = int(group.Fd())
	}
	oomScore.Lock()
	defer oomScore.Unlock()
	setOOMScore("0")
	defer setOOMScore(oomNever)
	return cmd.Start()
}

// oomNever keeps the kernel from choosing a process when memory runs out.
const oomNever = "-1000"

func setOOMScore(score string) { os.WriteFile("/proc/self/oom_score_adj", []byte(score), 0) }

// Protect protects the calling process from running out of memory and from the
// signals meant for ordinary processes.
func Protect() {
	setOOMScore(oomNever)
	// The kernel shares the CPU among sessions, each of which may have a niceness. While
	// an init starts its services, the user's first session should not wait for them.
	os.WriteFile("/proc/self/autogroup", []byte("-10"), 0)
	// They are caught, not ignored: programs started here would inherit the latter.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, unix.SIGTERM, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGPIPE)
	go func() {
		for range caught {
		}
	}()
}

// Limits of open files for programs that start here: the soft one, and the hard
// one up to which they may raise it, as after a login by sshd. The kernel's own
// are too low for a server of many streams.
const (
	filesSoft = 1024
	filesHard = 512 << 10
)

// WithFileLimit starts a server with these limits, and then gives this process, which
// becomes the image's init, the kernel's own again. A program in Go raises its soft limit
// to the hard one, and gives its children the soft one that it began with.
func WithFileLimit(start func() error) error {
	most, _ := os.ReadFile("/proc/sys/fs/nr_open")
	limit := fileLimit(string(most))
	var own unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &own); err != nil {
		return err
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("raise the limit of open files: %w", err)
	}
	err := start()
	own.Cur = min(filesSoft, own.Max)
	return errors.Join(err, unix.Setrlimit(unix.RLIMIT_NOFILE, &own))
}

// fileLimit returns the limits on a kernel that allows no more than most.
func fileLimit(most string) unix.Rlimit {
	limit := unix.Rlimit{Cur: filesSoft, Max: filesHard}
	if n, err := strconv.ParseUint(strings.TrimSpace(most), 10, 64); err == nil {
		limit.Cur, limit.Max = min(limit.Cur, n), min(limit.Max, n)
	}
	return limit
}
