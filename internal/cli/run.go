package cli

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"banger"
	"banger/internal/guest/wire"
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
			"The VM stays unless --rm is given. The exit status is the program's; 125 means that banger itself failed.",
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
	vm, svc, err := a.create(ctx, spec)
	if err != nil {
		return err
	}
	if len(argv) > 0 {
		err = a.execIn(ctx, svc, vm, program, opts.execOptions)
		a.tellEarly(vm, err)
	} else {
		err = a.shell(vm)
	}
	if !opts.remove {
		a.hint("banger vm ssh %s", vm.Name)
		return err
	}
	p := a.newProgress(notUndone) // even after an interrupt
	failed := svc.DeleteVM(context.WithoutCancel(ctx), string(vm.ID), banger.DeleteVM{Force: true}, p.event)
	p.close()
	if failed != nil && err != nil {
		a.report(err)
	}
	if failed != nil {
		return failed
	}
	return err
}

// shell runs the user's ssh as a child, because banger has more to do afterwards.
func (a *app) shell(vm banger.VM) error {
	_, argv, err := sshCommand(vm, nil)
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
