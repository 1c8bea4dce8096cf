package cli

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"banger"
	"banger/internal/guest/wire"
	"banger/internal/lease"
)

type runOptions struct {
	execOptions
	remove bool
}

func newRun(a *app) *cobra.Command {
	var spec banger.CreateVM
	var opts runOptions
	cmd := &cobra.Command{
		Use:   "run [flags] [-- PROGRAM [ARGUMENT...]]",
		Short: "Create a VM and run a program or a shell in it",
		Long: "Create a VM and run a program in it, as `banger vm exec` does. Without a program, log in with ssh.\n" +
			"The VM stays unless --rm is given: then the daemon deletes it when this command ends, even if it is\n" +
			"killed. The exit status is the program's; 125 means that banger itself failed.",
		Example:     "  banger vm run\n  banger vm run --rm -- uname -a\n  banger vm run --name calm-otter --memory 2048 -- sh -c 'free -m'",
		Annotations: map[string]string{ownFailure: "yes"},
		RunE: func(cmd *cobra.Command, argv []string) error {
			return a.runRun(cmd.Context(), spec, argv, opts)
		},
	}
	cmd.Flags().SetInterspersed(false)
	addSpec(a, cmd, &spec)
	opts.addFlags(cmd.Flags())
	cmd.Flags().BoolVar(&opts.remove, "rm", false, "delete the VM afterwards, even on failure")
	return cmd
}

func (a *app) runRun(ctx context.Context, spec banger.CreateVM, argv []string, opts runOptions) error {
	var program wire.Exec
	if len(argv) > 0 {
		var err error
		if program, err = a.program(argv, opts.execOptions); err != nil {
			return err
		}
	}
	if opts.remove {
		return a.runTemporary(ctx, spec, argv, program, opts.execOptions)
	}
	vm, svc, err := a.create(ctx, spec)
	if err != nil {
		return err
	}
	err = a.runIn(ctx, svc, vm, argv, program, opts.execOptions)
	a.hint("banger vm ssh %s", vm.Name)
	return err
}

// runIn runs a program in a new VM, or without one the user's ssh.
func (a *app) runIn(ctx context.Context, svc service, vm banger.VM, argv []string, program wire.Exec, opts execOptions) error {
	if len(argv) == 0 {
		return a.shell(ctx, vm)
	}
	err := a.execIn(ctx, svc, vm, program, opts)
	a.tellEarly(vm, err)
	return err
}

// runTemporary runs a program in a VM that is deleted afterwards: by this process, which
// can tell what goes wrong, or by the daemon if this process ends earlier.
func (a *app) runTemporary(ctx context.Context, spec banger.CreateVM, argv []string, program wire.Exec, opts execOptions) error {
	if _, err := a.connect(ctx, autoStart); err != nil {
		return err
	}
	lease, err := a.takeLease()
	if err != nil {
		return err
	}
	spec.Lease = lease.Name
	vm, svc, err := a.create(ctx, spec)
	if err != nil {
		lease.Drop()
		return err
	}
	err = a.runIn(ctx, svc, vm, argv, program, opts)
	ctx = context.WithoutCancel(ctx)                               // even after an interrupt
	if fresh, failed := a.connect(ctx, autoStart); failed == nil { // the daemon may have ended meanwhile
		svc = fresh
	}
	p := a.newProgress(notUndone)
	failed := svc.DeleteVM(ctx, string(vm.ID), banger.DeleteVM{Force: true}, p.event)
	p.close()
	if banger.KindOf(failed) == banger.NotFound { // somebody else was faster
		failed = nil
	}
	if failed == nil {
		lease.Drop()
		return err
	}
	if err != nil {
		a.report(err)
	}
	return failed
}

func (a *app) takeLease() (*lease.Lease, error) {
	dirs, err := a.dirs()
	if err != nil {
		return nil, err
	}
	return lease.Take(dirs)
}

// shell runs the user's ssh as a child, because banger has more to do afterwards.
func (a *app) shell(ctx context.Context, vm banger.VM) error {
	_, argv, err := a.sshCommand(ctx, vm, nil)
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 4)
	a.stop.handTo(signals)
	defer a.stop.handTo(nil)
	status, err := a.spawn(argv, signals)
	if err == nil && status != 0 {
		err = exitStatus(status)
	}
	return err
}
