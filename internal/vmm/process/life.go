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

// Life is what the machines of all drivers have in common: the process of a VMM
// from when it is taken over until it ends, or is let go.
type Life struct {
	proc  *Process
	ctx   context.Context
	leave context.CancelCauseFunc
	ended chan struct{}
	exit  vmm.Exit      // set before ended is closed
	done  chan struct{} // closed when nothing of it is looked at any more
}

// ErrEnded is the cause of what a VMM's end has cut short.
var ErrEnded = errors.New("the VMM has ended")

var errClosed = errors.New("the VM was let go")

// NewLife watches a process, which it owns. ending is called once, after its end,
// and tells how that came; it may ask Process.Exit.
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

// Over is nil while the VMM runs and is not let go, and then says which of them it
// is.
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

// Close lets go of the process. Once it returns, ending no longer runs: what that
// looks at may be closed too.
func (l *Life) Close() error {
	l.leave(errClosed)
	<-l.done
	return l.proc.Close()
}

// wordsTail is how much of a log's end is looked at.
const wordsTail = 8 << 10

// LastLines are the last lines of a log, of what was written after from. They are
// not empty, and have no space around them.
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
