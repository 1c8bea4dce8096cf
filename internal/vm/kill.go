package vm

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/operation"
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
	sig, err := signal(cmp.Or(opts.Signal, "TERM"))
	if err != nil {
		return banger.VM{}, operation.Name(err, "vm", banger.Kill, ref)
	}
	o, err := v.find(ref)
	if err != nil {
		return banger.VM{}, operation.Name(err, "vm", banger.Kill, ref)
	}
	row, state, r := o.now()
	_, ok := state.On(banger.Kill)
	if ok {
		o.traced(state, banger.Kill)
	} else if state != banger.Stopped || !o.hasStranger() {
		return banger.VM{}, banger.Refuse(banger.Kill, row.Name, state)
	}
	op := v.Operations.Begin("vm", banger.Kill, row.Name, o.id, progress)
	defer op.End(ctx, &err)
	err = op.Step(ctx, "send "+signalName(sig), func(ctx context.Context) error {
		if r == nil {
			return o.signalStranger(ctx, sig)
		}
		return r.killBy(ctx, sig)
	})
	if err != nil {
		return banger.VM{}, err
	}
	return o.show(), nil
}

// killBy sends the VMM a signal, and waits as long as it may take to end by it.
func (r *run) killBy(ctx context.Context, sig unix.Signal) error {
	within := endsWithin(sig)
	if err := r.signal(sig); err != nil || within == 0 {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if r.ended(bounded) != nil && within == perhapsTime {
		r.survived(sig)
	}
	return ctx.Err()
}
