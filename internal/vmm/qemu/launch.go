package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"banger"
	"banger/internal/operation"
	"banger/internal/vmm"
	"banger/internal/vmm/process"
)

// Launch implements vmm.Driver.
func (d *Driver) Launch(ctx context.Context, spec vmm.Spec) (_ vmm.Machine, err error) {
	program, err := d.inspect(ctx)
	if err != nil {
		return nil, err
	}
	if err := process.CheckTap(spec); err != nil {
		return nil, err
	}
	var steps operation.Undo
	defer steps.OnError(ctx, &err)
	dir, err := process.OpenDir(spec.Dir)
	if err != nil {
		return nil, err
	}
	steps.Push("open directory", func(context.Context) error { return dir.Close() })
	steps.Push("make sockets", func(context.Context) error { return dir.Remove(monitorSocket, controlSocket, streamsSocket) })
	proc, from, err := d.fork(dir, program, spec)
	if err != nil {
		return nil, &banger.Error{Kind: banger.Unready, What: "launch QEMU", Why: err}
	}
	steps.Push("fork", func(context.Context) error { return proc.End() })
	m, err := attach(ctx, proc, dir, spec.Log)
	if err != nil {
		return nil, explain(ctx, err, proc, dir, spec, from)
	}
	steps.Keep()
	return m, nil
}

// fork starts QEMU. It returns the size of the log before that.
func (d *Driver) fork(dir *process.Dir, p program, spec vmm.Spec) (_ *process.Process, from int64, err error) {
	account, err := d.host.Assign(dir, spec.ID)
	if err != nil && !errors.Is(err, process.ErrNoAccounts) { // then root is hardly root
		return nil, 0, err
	}
	var inherited []*os.File
	defer func() {
		for _, file := range inherited {
			file.Close()
		}
	}()
	for _, name := range []string{monitorSocket, controlSocket, streamsSocket} {
		socket, err := dir.Listen(name)
		if err != nil {
			return nil, 0, err
		}
		inherited = append(inherited, socket)
	}
	console, err := dir.Create(spec.Console, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("create console log: %w", err)
	}
	console.Close()
	log, err := dir.Create(spec.Log, os.O_APPEND)
	if err != nil {
		return nil, 0, fmt.Errorf("open QEMU's log: %w", err)
	}
	defer log.Close()
	info, err := log.Stat()
	if err != nil {
		return nil, 0, err
	}
	if err := account.Admit(dir, spec, spec.Console); err != nil {
		return nil, 0, err
	}
	accel := acceleratorOf(d.host)
	khz := 0
	if !accel.kvm {
		khz = measureKHz()
	}
	proc, err := dir.Start(process.Command{Program: p.path, Args: args(spec, accel, khz, p),
		Output: log, Inherit: append(slices.Clone(inherited), spec.Lock), Account: account, Inside: spec.Inside})
	return proc, info.Size(), err
}

// explain returns why QEMU did not start.
func explain(ctx context.Context, err error, proc *process.Process, dir *process.Dir, spec vmm.Spec, from int64) error {
	select {
	case <-ctx.Done():
	case <-proc.Done():
		if failed := process.EntryError(proc.Exit(), dir.Path(spec.Log), from); failed != nil && spec.Inside != nil {
			return failed
		}
		err = fmt.Errorf("it exited at once: %s", proc.Exit().Detail)
	case <-time.After(lastMoment): // it runs, but its monitor does not work
	}
	if ctx.Err() != nil {
		return fmt.Errorf("launch QEMU: %w", ctx.Err())
	}
	if said := lastWords(dir.Path(spec.Log), from); said != "" {
		err = fmt.Errorf("%w: %s", err, said)
	}
	if tap := process.ExplainTap(err.Error(), spec); tap != nil {
		return tap
	}
	return &banger.Error{Kind: banger.Unready, What: "launch QEMU", Why: err, Fix: "less " + filepath.Join(spec.Dir, spec.Log)}
}
