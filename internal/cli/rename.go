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
		Short:   "Rename a VM",
		Long:    "Rename a VM, even while it runs. Its disks, its ID and its host key stay the same.\nThe guest's host name changes with it, at once.",
		Example: "  banger vm rename calm-otter keen-otter",
		Args:    args(2, 2),
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
	p := a.newProgress(notUndone)
	note := ""
	vm, err := svc.RenameVM(ctx, ref, banger.RenameVM{Name: name}, func(e banger.Step) {
		if e.Step == banger.StepTellGuest && e.Note != "" {
			note, e.Note = " ("+clean(e.Note)+")", "" // it belongs to the result
		}
		p.event(e)
	})
	p.close()
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(vm)
	}
	_, err = fmt.Fprintf(a.std.Out, "renamed %s to %s%s\n", ref, vm.Name, note)
	return err
}
