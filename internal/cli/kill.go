package cli

import (
	"context"

	"github.com/spf13/cobra"

	"banger"
)

func newKill(a *app) *cobra.Command {
	var opts banger.KillVM
	cmd := a.forVMs("kill", "Send a signal to the processes that run VMs", runningVMs, func(ctx context.Context, svc service, ref string, p banger.Progress) (banger.VM, error) {
		return svc.KillVM(ctx, ref, opts, p)
	})
	cmd.Long = "Send a signal to the host's processes that run VMs. The guests are not asked, and what they\nhave not written to disk is lost: `banger vm stop` is the orderly way."
	cmd.Example = "  banger vm kill calm-otter\n  banger vm kill --signal KILL calm-otter spare\n  banger vm kill --all"
	cmd.Flags().StringVarP(&opts.Signal, "signal", "s", "TERM", "TERM, KILL, INT, HUP, QUIT, USR1, USR2 or a number")
	_ = cmd.RegisterFlagCompletionFunc("signal", cobra.FixedCompletions(
		[]string{"TERM", "KILL", "INT", "HUP", "QUIT", "USR1", "USR2"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}
