package process

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"

	"banger/internal/vmm"

	"golang.org/x/sys/unix"
)

// Life is the part of vmm.Machine that all drivers share: the process of a VMM until it
// ends or is closed.
type Life struct {
	proc  *Process
	ctx   context.Context
	leave context.CancelCauseFunc
	ended chan struct{}
	exit  vmm.Exit      // set before ended is closed
	done  chan struct{} // closed when nothing of it is used any more
}

// ErrEnded is the error of calls that the VMM's end has interrupted.
var ErrEnded = errors.New("the VMM has ended")

var errClosed = errors.New("the daemon no longer watches the VM")

// NewLife watches a process, and owns it. It calls ending once, after the process has
// ended: ending returns how, and may use Process.Exit.
func NewLife(proc *Process, ending func() vmm.Exit) *Life {
	l := &Life{proc: proc, ended: make(chan struct{}), done: make(chan struct{})}
	l.ctx, l.leave = context.WithCancelCause(context.Background())
	go func() {
		defer close(l.done)
		select {
		case <-l.ctx.Done():
			return
		case <-proc.Done():
		}
		l.exit = ending()
		l.leave(ErrEnded)
		close(l.ended)
	}()
	return l
}

// While returns a context that ends with ctx, with the VMM and with Close.
func (l *Life) While(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(l.ctx, func() { cancel(context.Cause(l.ctx)) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// Over returns nil while the VMM runs and is not closed, and otherwise an error that
// says which it is.
func (l *Life) Over() error { return context.Cause(l.ctx) }

// PID implements Machine.
func (l *Life) PID() int { return l.proc.PID() }

// Kill implements Machine.
func (l *Life) Kill() error { return l.proc.Kill() }

// Signal implements Machine.
func (l *Life) Signal(signal unix.Signal) error { return l.proc.Signal(signal) }

// Ended implements Machine.
func (l *Life) Ended() <-chan struct{} { return l.ended }

// Exit implements Machine.
func (l *Life) Exit() vmm.Exit { return l.exit }

// Close stops watching the process. After it has returned, ending does not run any more,
// so that what it uses can be closed.
func (l *Life) Close() error {
	l.leave(errClosed)
	<-l.done
	return l.proc.Close()
}

// wordsTail is how much of a log's end LastLines reads.
const wordsTail = 8 << 10

// LastLines returns the last lines of a log that were written after the offset from,
// without space around them and without empty lines.
func LastLines(path string, from int64) (lines []string) {
	file, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil
	}
	data, err := io.ReadAll(io.NewSectionReader(file, max(from, info.Size()-wordsTail), wordsTail))
	if err != nil {
		return nil
	}
	for line := range bytes.Lines(data) {
		line = bytes.TrimLeft(line, "\x00") // a log that was cut while it is written has a hole
		if line = bytes.TrimSpace(line); len(line) > 0 {
			lines = append(lines, string(line))
		}
	}
	return lines
}
