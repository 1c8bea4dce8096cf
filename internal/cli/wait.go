package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

// waitFlag is the milestone that a start waits for.
type waitFlag struct{ milestone banger.Milestone }

func (f *waitFlag) Set(text string) error {
	switch m := banger.Milestone(text); m {
	case banger.AgentUp, banger.BootUp:
		f.milestone = m
		return nil
	}
	return banger.Invalidf("use --wait agent or --wait boot", "%q is not a milestone", text)
}

func (f *waitFlag) String() string {
	if f.milestone == "" {
		return string(banger.AgentUp)
	}
	return string(f.milestone)
}

func (f *waitFlag) Type() string { return "milestone" }

func addWait(cmd *cobra.Command, f *waitFlag) {
	cmd.Flags().Var(f, "wait", "return when: agent (ssh works) or boot (all services are up)")
	_ = cmd.RegisterFlagCompletionFunc("wait", cobra.FixedCompletions([]string{"agent", "boot"}, cobra.ShellCompDirectiveNoFileComp))
}

// wait waits for the milestone after a start, which an interrupt then no longer undoes.
func (f *waitFlag) wait(ctx context.Context, svc service, vm banger.VM, p *progress) (banger.VM, error) {
	if f.milestone != banger.BootUp {
		return vm, nil
	}
	p.app.operation.Store(staysUp)
	return svc.WaitVM(ctx, string(vm.ID), banger.WaitVM{For: f.milestone}, p.event)
}

// reached is what to print when a VM has reached a milestone.
var reached = map[banger.Milestone]string{banger.AgentUp: "ssh works", banger.BootUp: "booted", banger.Off: "stopped"}

func newWait(a *app) *cobra.Command {
	opts := banger.WaitVM{For: banger.BootUp}
	cmd := a.forVMs("wait", "Wait until VMs are up or stopped", runningVMs, notUndone, func(ctx context.Context, svc service, ref string, p *progress) (ended, error) {
		began := time.Now()
		vm, err := svc.WaitVM(ctx, ref, opts, p.event)
		return ended{vm, reached[opts.For] + a.took(" after ", time.Since(began))}, err
	})
	cmd.Long = "Wait until ssh works (--for agent), all services are up (--for boot), or the VM is stopped\n(--for stopped). It fails if the VM cannot get there without help."
	cmd.Example = "  banger vm wait calm-otter\n  banger vm wait --for stopped --timeout 5m calm-otter spare\n  banger vm wait --all"
	cmd.Flags().StringVar((*string)(&opts.For), "for", string(opts.For), fmt.Sprintf("wait for %s, %s or %s", banger.AgentUp, banger.BootUp, banger.Off))
	cmd.Flags().DurationVar(&opts.Timeout, "timeout", 0, "give up after this time, such as 5m (default: never)")
	_ = cmd.RegisterFlagCompletionFunc("for", cobra.FixedCompletions([]string{"agent", "boot", "stopped"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}
