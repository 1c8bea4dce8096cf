package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"banger"
)

func newNetwork(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "network",
		Short:   "Change the VMs' network",
		Long:    "All VMs of a daemon share a private subnet. `banger vm show` prints a VM's address, and\n`banger doctor` which network this host allows.",
		Example: "  banger network renumber",
		RunE:    group,
	}
	cmd.AddCommand(newRenumber(a))
	return cmd
}

func newRenumber(a *app) *cobra.Command {
	var opts banger.RenumberNetwork
	cmd := &cobra.Command{
		Use:     "renumber",
		Short:   "Give the VMs another subnet",
		Long:    "Give the VMs another subnet, because this host has got a route to theirs, as from a VPN. VMs that\nrun get their new addresses at once, and keep their names. Their connections end.",
		Example: "  banger network renumber\n  banger network renumber --subnet 10.201.16.0/20",
		Args:    args(0, 0),
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.runRenumber(cmd.Context(), opts) },
	}
	cmd.Flags().StringVar(&opts.Subnet, "subnet", "", "private IPv4 subnet of 20 bits (default: a free one)")
	a.addJSON(cmd)
	return cmd
}

func (a *app) runRenumber(ctx context.Context, opts banger.RenumberNetwork) error {
	svc, err := a.connect(ctx, autoStart)
	if err != nil {
		return err
	}
	p := a.newProgress(undone)
	done, err := svc.RenumberNetwork(ctx, opts, p.event)
	p.close()
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(done)
	}
	text := fmt.Sprintf("the VMs' subnet is %v, was %v", done.Now, done.Was)
	if done.Now == done.Was {
		text = fmt.Sprintf("the VMs' subnet is %v already", done.Now)
	}
	if len(done.Later) > 0 {
		text += "\nget their new address when they start again: " + strings.Join(done.Later, ", ")
	}
	_, err = fmt.Fprintln(a.std.Out, text)
	return err
}
