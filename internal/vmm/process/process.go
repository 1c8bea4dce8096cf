// Package process owns what the drivers share about a VMM as a process of the host: it
// starts one in its VM's directory under an account of its own, finds and watches it,
// gives it a control group, and reads how it ended. It knows no VMM.
package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/config"
	"banger/internal/linux"
	"banger/internal/vmm"
)

// Process is a VMM's process, whether this process started it or not. It never means
// another process that got the same pid later.
type Process struct {
	pid    int
	fd     *os.File // a pidfd
	done   chan struct{}
	status *unix.WaitStatus // nil unless it was our child; set before done is closed
	killed atomic.Bool
	before int64 // what outOfMemory said when the process was opened
	short  bool  // the host has been out of memory since; set before done is closed
}

// OpenProcess watches a process. If it is a child, OpenProcess also waits for it.
func OpenProcess(pid int) (*Process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // so that the runtime's poller takes it
		unix.Close(fd)
		return nil, err
	}
	p := &Process{pid: pid, fd: os.NewFile(uintptr(fd), fmt.Sprintf("pidfd %d", pid)), done: make(chan struct{}), before: outOfMemory()}
	go p.watch()
	return p, nil
}

// OpenHolder watches the process that holds the lock at path, or returns ErrGone. A
// process that is ending shows no files any more, but holds the lock until its last
// thread is gone: OpenHolder waits for that. One that is just entering a namespace shows
// none for less than a millisecond, until it runs its next program.
func OpenHolder(path string) (*Process, error) {
	for within := enterTime; ; {
		if locked, err := vmm.Locked(path); err != nil {
			return nil, err
		} else if !locked { // the usual case, and quicker to find out than the holder
			return nil, vmm.ErrGone
		}
		pid, err := vmm.Holder(path)
		if errors.Is(err, vmm.ErrGone) {
			err := awaitFree(path, within)
			if err == nil {
				return nil, vmm.ErrGone
			}
			if within == endTime || !errors.Is(err, errUnseen) {
				return nil, err
			}
			within = endTime
			continue
		}
		if err != nil {
			return nil, err
		}
		p, err := OpenProcess(pid)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return nil, err
		}
		// The pid could have become another's before it was opened.
		if again, err := vmm.Holder(path); err == nil && again == pid {
			return p, nil
		}
		p.Close()
	}
}

// Adopt opens a VM's directory and watches the VMM that runs there, or returns ErrGone.
func Adopt(path string) (*Process, *Dir, error) {
	proc, err := OpenHolder(config.VMDir(path).Lock())
	if err != nil {
		return nil, nil, err
	}
	dir, err := OpenDir(path)
	if err != nil {
		proc.Close()
		return nil, nil, err
	}
	return proc, dir, nil
}

// How long a process that shows no files may hold a lock: one that is entering a
// namespace, on a busy host, and any.
const (
	enterTime = 200 * time.Millisecond
	endTime   = 30 * time.Second
)

var errUnseen = errors.New("it is held by a process that cannot be seen")

// awaitFree waits until nobody holds the lock at path, which need not exist.
func awaitFree(path string, within time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	err := linux.AwaitFree(ctx, path)
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("the lock %s: %w", path, errUnseen)
	}
	return err
}

func (p *Process) watch() {
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return
	}
	err = raw.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		return err == nil && n > 0
	})
	if err != nil {
		return // Close
	}
	var status unix.WaitStatus
	if pid, err := unix.Wait4(p.pid, &status, unix.WNOHANG, nil); err == nil && pid == p.pid {
		p.status = &status
	}
	p.short = outOfMemory() > p.before
	close(p.done)
}

// kernelCounts is the file of the kernel's counters.
var kernelCounts = "/proc/vmstat"

// outOfMemory returns how many processes the host's kernel has killed for lack of memory,
// of the host or of a control group; 0 if it does not count them. A plain user cannot
// find out which they were: the signal is one that anybody can send.
func outOfMemory() int64 {
	text, err := os.ReadFile(kernelCounts)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if count, found := strings.CutPrefix(line, "oom_kill "); found {
			n, _ := strconv.ParseInt(strings.TrimSpace(count), 10, 64)
			return n
		}
	}
	return 0
}

// forLackOfMemory is the detail if that may be why a process was killed.
const forLackOfMemory = "the host ran out of memory meanwhile and killed processes"

// PID is the process's number.
func (p *Process) PID() int { return p.pid }

// Done is closed when the process is gone, and with it all it had open.
func (p *Process) Done() <-chan struct{} { return p.done }

// Kill ends the process at once. It may be called at any time.
func (p *Process) Kill() error { return p.Signal(unix.SIGKILL) }

// Signal sends the process a signal; after its end that does nothing.
func (p *Process) Signal(signal unix.Signal) error {
	if signal == unix.SIGKILL {
		p.killed.Store(true)
	}
	err := p.control(func(fd int) error { return unix.PidfdSendSignal(fd, signal, nil, 0) })
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", p.pid, err)
	}
	return nil
}

// control calls f with the pidfd.
func (p *Process) control(f func(fd int) error) error {
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	failed := raw.Control(func(fd uintptr) { err = f(int(fd)) })
	return errors.Join(failed, err)
}

// Exit returns how the process ended. It is valid once Done is closed. A driver knows
// more about a guest that has switched itself off.
func (p *Process) Exit() vmm.Exit {
	switch {
	case p.killed.Load():
		return vmm.Exit{Reason: vmm.ReasonKilled}
	case p.status == nil && p.short:
		return vmm.Exit{Reason: vmm.ReasonUnknown, Detail: forLackOfMemory}
	case p.status == nil:
		return vmm.Exit{Reason: vmm.ReasonUnknown}
	case p.status.Signaled() && p.status.Signal() == unix.SIGKILL && p.short:
		return vmm.Exit{Reason: vmm.ReasonSignal, Detail: "SIGKILL; " + forLackOfMemory}
	case p.status.Signaled():
		return vmm.Exit{Reason: vmm.ReasonSignal, Detail: unix.SignalName(p.status.Signal())}
	case p.status.ExitStatus() != 0:
		return vmm.Exit{Reason: vmm.ReasonFailed, Detail: fmt.Sprintf("exit status %d", p.status.ExitStatus())}
	}
	return vmm.Exit{Reason: vmm.ReasonUnknown}
}

// Close stops watching the process, which continues. It does not close Done.
func (p *Process) Close() error { return p.fd.Close() }
