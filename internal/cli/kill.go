package cli

import (
	"context"

	"github.com/spf13/cobra"

	"banger"
)

func newKill(a *app) *cobra.Command {
	var opts banger.KillVM
	cmd := a.forVMs("kill", "Send a signal to the processes that run VMs", runningVMs, notUndone, func(ctx context.Context, svc service, ref string, p *progress) (ended, error) {
		vm, err := svc.KillVM(ctx, ref, opts, p.event)
		text := string(vm.State)
		if vm.State != banger.Stopped {
			text = "sent " + opts.Signal + ", still " + text
		}
		return ended{vm, text}, err
	})
	cmd.Long = "Send a signal to the host's processes that run VMs. The guests are not asked, and what they\nhave not written to disk is lost. To shut VMs down properly, use `banger vm stop`."
	cmd.Example = "  banger vm kill calm-otter\n  banger vm kill --signal KILL calm-otter spare\n  banger vm kill --all"
	cmd.Flags().StringVarP(&opts.Signal, "signal", "s", "TERM", "signal: TERM, KILL, INT, HUP, QUIT, USR1, USR2 or a number")
	_ = cmd.RegisterFlagCompletionFunc("signal", cobra.FixedCompletions(
		[]string{"TERM", "KILL", "INT", "HUP", "QUIT", "USR1", "USR2"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}
