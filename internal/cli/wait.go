package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"banger"
)

// waitFlag is how far a start waits for the guest.
type waitFlag struct{ milestone banger.Milestone }

func (f *waitFlag) Set(text string) error {
	switch m := banger.Milestone(text); m {
	case banger.AgentUp, banger.BootUp:
		f.milestone = m
		return nil
	}
	return banger.Invalidf("use --wait agent or --wait boot", "%q is nothing to wait for", text)
}

func (f *waitFlag) String() string {
	if f.milestone == "" {
		return string(banger.AgentUp)
	}
	return string(f.milestone)
}

func (f *waitFlag) Type() string { return "milestone" }

func addWait(cmd *cobra.Command, f *waitFlag) {
	cmd.Flags().Var(f, "wait", "how far to wait: agent (ssh and exec work) or boot (the init has started everything)")
	_ = cmd.RegisterFlagCompletionFunc("wait", cobra.FixedCompletions([]string{"agent", "boot"}, cobra.ShellCompDirectiveNoFileComp))
}

// wait waits beyond the agent, if that was asked for.
func (f *waitFlag) wait(ctx context.Context, svc service, vm banger.VM, p banger.Progress) (banger.VM, error) {
	if f.milestone != banger.BootUp {
		return vm, nil
	}
	return svc.WaitVM(ctx, string(vm.ID), banger.WaitVM{For: f.milestone}, p)
}

func newWait(a *app) *cobra.Command {
	opts := banger.WaitVM{For: banger.BootUp}
	cmd := a.forVMs("wait", "Wait until VMs have come up, or are stopped", runningVMs, func(ctx context.Context, svc service, ref string, p banger.Progress) (banger.VM, error) {
		return svc.WaitVM(ctx, ref, opts, p)
	})
	cmd.Long = "Wait until the guest's agent answers (--for agent), its init has started everything (boot),\nor the VM is stopped (stopped). A VM that cannot get there by itself is an error."
	cmd.Example = "  banger vm wait calm-otter\n  banger vm wait --for stopped --timeout 5m calm-otter spare\n  banger vm wait --all"
	cmd.Flags().StringVar((*string)(&opts.For), "for", string(opts.For), fmt.Sprintf("%s, %s or %s", banger.AgentUp, banger.BootUp, banger.Off))
	cmd.Flags().DurationVar(&opts.Timeout, "timeout", 0, "give up after this time (default: never)")
	_ = cmd.RegisterFlagCompletionFunc("for", cobra.FixedCompletions([]string{"agent", "boot", "stopped"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}
