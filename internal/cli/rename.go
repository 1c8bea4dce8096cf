package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"banger"
)

func newRename(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "rename NAME NEW",
		Aliases: []string{"mv"},
		Short:   "Give a VM another name",
		Long:    "Give a VM another name, also while it runs. Its disks, its ID and its host key stay.\nThe guest's own host name changes when it boots the next time.",
		Example: "  banger vm rename calm-otter keen-otter",
		Args:    cobra.ExactArgs(2),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return a.vmNames(cmd, args, word)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runRename(cmd.Context(), args[0], args[1])
		},
	}
	a.addJSON(cmd)
	return cmd
}

func (a *app) runRename(ctx context.Context, ref, name string) error {
	if err := banger.CheckName(name); err != nil {
		return err
	}
	svc, err := a.connect(ctx, autoStart)
	if err != nil {
		return err
	}
	p := a.newProgress()
	vm, err := svc.RenameVM(ctx, ref, banger.RenameVM{Name: name}, p.event)
	p.close()
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(vm)
	}
	note := ""
	if vm.State != banger.Stopped {
		note = "; its guest is told when it boots the next time"
	}
	_, err = fmt.Fprintf(a.std.Out, "%s: was %s%s\n", vm.Name, ref, note)
	return err
}
