package vm

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger"
)

// killTime is how long a VMM may take to end by a signal that asks for it.
const killTime = 10 * time.Second

// perhapsTime is how long it takes at most to end by one that it may ignore.
var perhapsTime = time.Second

// deadly are the signals that end a VMM, unless it thinks otherwise.
var deadly = []unix.Signal{unix.SIGTERM, unix.SIGKILL, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGABRT}

// harmless are the signals that end nobody. All others do, unless a VMM handles them.
var harmless = []unix.Signal{unix.SIGCHLD, unix.SIGCONT, unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGURG, unix.SIGWINCH}

// endsWithin is how long a VMM may take to end by a signal; 0 when it does not.
func endsWithin(sig unix.Signal) time.Duration {
	switch {
	case slices.Contains(harmless, sig):
		return 0
	case slices.Contains(deadly, sig):
		return killTime
	}
	return perhapsTime
}

// known are the signals with a name here.
var known = []string{"TERM", "KILL", "INT", "HUP", "QUIT", "USR1", "USR2"}

// signal reads TERM, SIGTERM or 15.
func signal(text string) (unix.Signal, error) {
	const last = 64
	name := strings.TrimPrefix(strings.ToUpper(text), "SIG")
	if slices.Contains(known, name) {
		return unix.SignalNum("SIG" + name), nil
	}
	if n, err := strconv.Atoi(text); err == nil && n >= 1 && n <= last {
		return unix.Signal(n), nil
	}
	return 0, banger.Invalidf(fmt.Sprintf("use %s or a number from 1 to %d", strings.Join(known, ", "), last), "%q is not a signal", text)
}

func signalName(s unix.Signal) string {
	if name := unix.SignalName(s); name != "" {
		return name
	}
	return fmt.Sprintf("signal %d", int(s))
}

// KillVM implements banger.VMService. It does not wait for its turn: it is for
// a VM that is stuck, maybe in a stop.
func (v *VMs) KillVM(ctx context.Context, ref string, opts banger.KillVM, progress banger.Progress) (_ banger.VM, err error) {
	sig, err := signal(first(opts.Signal, "TERM"))
	if err != nil {
		named(&err, "kill", ref)
		return banger.VM{}, err
	}
	row, err := v.Store.FindVM(ctx, ref)
	if err != nil {
		named(&err, "kill", ref)
		return banger.VM{}, err
	}
	op := v.begin("kill", row.ID, row.Name, progress)
	defer op.End(ctx, &err)
	e := v.entry(row.ID)
	r := e.current()
	err = op.Step(ctx, "send "+signalName(sig), func(ctx context.Context) error {
		if r == nil {
			return v.killStranger(ctx, row, e, sig)
		}
		within := endsWithin(sig)
		if err := r.signal(sig); err != nil || within == 0 {
			return err
		}
		bounded, cancel := context.WithTimeout(ctx, within)
		defer cancel()
		if !e.left(bounded, r) && within == perhapsTime {
			r.survived(sig)
		}
		return ctx.Err()
	})
	if err != nil {
		return banger.VM{}, err
	}
	return v.show(ctx, row.ID)
}

func (r *run) signal(sig unix.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if endsWithin(sig) > 0 {
		r.sent = sig
	}
	if err := r.machine.Signal(sig); err != nil && r.alive() {
		return err
	}
	return nil // a VMM that has ended just now has nothing to hear
}

// survived forgets a signal that a VMM handles: its end, if it comes, has another cause.
func (r *run) survived(sig unix.Signal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sent == sig {
		r.sent = 0
	}
}

// left waits until the VM has left a run behind, or ctx ends.
func (e *entry) left(ctx context.Context, r *run) bool {
	for {
		e.mu.Lock()
		current, changed := e.run, e.changed
		e.mu.Unlock()
		if current != r {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}
