package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

func newStart(a *app) *cobra.Command {
	var opts banger.StartVM
	var wait waitFlag
	cmd := a.forVMs("start", "Start stopped VMs", everyVM, undone, func(ctx context.Context, svc service, ref string, p *progress) (ended, error) {
		began := time.Now()
		before, err := svc.ShowVM(ctx, ref)
		if err != nil {
			return ended{}, err
		}
		vm, err := svc.StartVM(ctx, ref, opts, p.event)
		if err != nil {
			return ended{}, err
		}
		if before.State.Up() && before.StartedAt.Equal(vm.StartedAt) && wait.milestone != banger.BootUp {
			return ended{vm, "already " + string(vm.State)}, nil
		}
		vm, err = wait.wait(ctx, svc, vm, p)
		return ended{vm, a.stateText(vm, time.Since(began))}, err
	})
	addWait(cmd, &wait)
	cmd.Example = "  banger vm start calm-otter\n  banger vm start calm-otter spare --timeout 2m\n  banger vm start --all"
	cmd.Flags().DurationVar(&opts.Timeout, "timeout", 0, "how long to wait for the guest, such as 2m (default depends on the driver)")
	return cmd
}

func newStop(a *app) *cobra.Command {
	var opts banger.StopVM
	cmd := a.forVMs("stop", "Stop running VMs; their disks stay", everyVM, goesDown, func(ctx context.Context, svc service, ref string, p *progress) (ended, error) {
		began := time.Now()
		before, err := svc.ShowVM(ctx, ref)
		if err != nil {
			return ended{}, err
		}
		vm, err := svc.StopVM(ctx, ref, opts, p.event)
		if before.State == banger.Stopped {
			return ended{vm, "already stopped"}, err
		}
		return ended{vm, a.stateText(vm, time.Since(began)) + uncleanText(vm, opts)}, err
	})
	cmd.Long = "Write everything to disk, let the guest stop its services, and switch the VM off.\nNothing on its disks is lost."
	cmd.Example = "  banger vm stop calm-otter\n  banger vm stop --grace 30s calm-otter spare\n  banger vm stop --force calm-otter\n  banger vm stop --all"
	addStop(cmd, &opts)
	return cmd
}

// uncleanText says why a stop was not clean, unless that was asked for.
func uncleanText(vm banger.VM, opts banger.StopVM) string {
	if vm.Ending.Clean() || vm.Ending == banger.EndedNever || vm.Ending == banger.EndedKilled && opts.Force {
		return ""
	}
	text := ", not cleanly (" + string(vm.Ending)
	if vm.EndingBy != "" {
		text += ": " + clean(vm.EndingBy)
	}
	return text + ")"
}

func newRestart(a *app) *cobra.Command {
	var opts banger.StopVM
	var wait waitFlag
	cmd := a.forVMs("restart", "Stop VMs and start them again", runningVMs, comesBack, func(ctx context.Context, svc service, ref string, p *progress) (ended, error) {
		began := time.Now()
		vm, err := svc.RestartVM(ctx, ref, opts, p.event)
		if err != nil {
			return ended{}, err
		}
		vm, err = wait.wait(ctx, svc, vm, p)
		return ended{vm, a.stateText(vm, time.Since(began))}, err
	})
	addWait(cmd, &wait)
	cmd.Example = "  banger vm restart calm-otter\n  banger vm restart --json calm-otter"
	addStop(cmd, &opts)
	return cmd
}

func addStop(cmd *cobra.Command, opts *banger.StopVM) {
	cmd.Flags().DurationVar(&opts.Grace, "grace", 0, "how long the guest's services may take to stop, such as 30s (default: the daemon's)")
	cmd.Flags().BoolVar(&opts.Force, "force", false, "write everything to disk, then end the VM without asking the guest")
}

// ended is a VM after an operation, and what there is to say about that.
type ended struct {
	vm   banger.VM
	text string
}

type vmAction func(ctx context.Context, svc service, ref string, p *progress) (ended, error)

// forVMs returns a command that does one thing to several VMs at once. interrupted
// is what Ctrl-C does to it.
func (a *app) forVMs(verb, short string, all kindOfVMs, interrupted string, do vmAction) *cobra.Command {
	cmd := &cobra.Command{Use: verb, Short: short}
	which := a.selectVMs(cmd, all)
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		ctx := cmd.Context()
		svc, err := a.connect(ctx, autoStart)
		if err != nil {
			return err
		}
		if names, err = which.names(ctx, a, svc, names); err != nil {
			return err
		}
		p := a.newProgress(interrupted)
		results := forSelected(ctx, which, names, func(ctx context.Context, name string) (ended, error) {
			return do(ctx, svc, name, p)
		})
		p.close()
		return showResults(a, results, func(_ string, e ended) error {
			if a.json {
				return a.printJSON(e.vm)
			}
			return a.say(e.vm.Name, e.text)
		})
	}
	a.addJSON(cmd)
	return cmd
}
