package qemu

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"banger"
	"banger/internal/undo"
	"banger/internal/vmm"
)

// Launch implements vmm.Driver.
func (d *Driver) Launch(ctx context.Context, spec vmm.Spec) (_ vmm.Machine, err error) {
	program, err := d.inspect(ctx)
	if err != nil {
		return nil, err
	}
	var steps undo.Stack
	defer steps.OnError(ctx, &err)
	dir, err := vmm.OpenDir(spec.Dir)
	if err != nil {
		return nil, err
	}
	steps.Push("open directory", func(context.Context) error { return dir.Close() })
	steps.Push("make sockets", func(context.Context) error { return dir.Remove(monitorSocket, controlSocket, streamsSocket) })
	proc, from, err := d.fork(dir, program, spec)
	if err != nil {
		return nil, &banger.Error{Kind: banger.Unready, What: "launch QEMU", Why: err}
	}
	steps.Push("fork", func(context.Context) error { return end(proc) })
	m, err := attach(ctx, proc, dir, spec.Log)
	if err != nil {
		return nil, explain(ctx, err, proc, dir, spec, from)
	}
	steps.Keep()
	return m, nil
}

// fork starts QEMU in a session of its own. It returns the size of the log
// before that.
func (d *Driver) fork(dir *vmm.Dir, p program, spec vmm.Spec) (_ *vmm.Process, from int64, err error) {
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
	if err := create(dir.Path(spec.Console)); err != nil {
		return nil, 0, fmt.Errorf("create console log: %w", err)
	}
	log, err := os.OpenFile(dir.Path(spec.Log), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, 0, fmt.Errorf("open QEMU's log: %w", err)
	}
	defer log.Close()
	info, err := log.Stat()
	if err != nil {
		return nil, 0, err
	}
	accel := acceleratorOf(d.host)
	khz := 0
	if !accel.kvm {
		khz = measureKHz()
	}
	cmd := exec.Command(p.path, args(spec, accel, khz, p.sandbox)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = spec.Dir, log, log
	cmd.ExtraFiles = append(append(cmd.ExtraFiles, inherited...), spec.Lock)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, 0, err
	}
	defer cmd.Process.Release() // the Process waits for it
	proc, err := vmm.OpenProcess(cmd.Process.Pid)
	if err != nil {
		cmd.Process.Kill()
		cmd.Process.Wait()
		return nil, 0, err
	}
	return proc, info.Size(), nil
}

// create makes a file that is its owner's alone: QEMU would not.
func create(path string) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return file.Close()
}

func end(proc *vmm.Process) error {
	defer proc.Close()
	if err := proc.Kill(); err != nil {
		return err
	}
	<-proc.Done()
	return nil
}

// explain says why QEMU did not come up.
func explain(ctx context.Context, err error, proc *vmm.Process, dir *vmm.Dir, spec vmm.Spec, from int64) error {
	if ctx.Err() == nil {
		select {
		case <-proc.Done(): // it closed its sockets: it is about to end
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil {
		return fmt.Errorf("launch QEMU: %w", ctx.Err())
	}
	why := fmt.Errorf("it ended at once: %s", proc.Exit().Detail)
	if said := lastWords(dir.Path(spec.Log), from); said != "" {
		why = fmt.Errorf("%w: %s", why, said)
	}
	return &banger.Error{Kind: banger.Unready, What: "launch QEMU", Why: why, Fix: "less " + filepath.Join(spec.Dir, spec.Log)}
}
