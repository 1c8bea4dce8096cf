package cli

import (
	"context"

	"github.com/spf13/cobra"

	"banger"
)

func newImage(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "image",
		Short:   "Look at images",
		Example: "  banger image list",
		RunE:    group,
	}
	list := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the images that VMs can be made from",
		Example: "  banger image list\n  banger image list --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			svc, err := a.connect(cmd.Context(), autoStart)
			if err != nil {
				return err
			}
			return showThings(cmd.Context(), a, svc.ListImages, func(i banger.Image) []string {
				return []string{i.Name, short(i.ID), i.Size.String(), age(i.CreatedAt), clean(i.Origin)}
			})
		},
	}
	a.addJSON(list)
	cmd.AddCommand(list)
	return cmd
}

func newKernel(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "kernel",
		Short:   "Look at kernels",
		Example: "  banger kernel list",
		RunE:    group,
	}
	list := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the kernels that VMs can boot",
		Example: "  banger kernel list\n  banger kernel list --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			svc, err := a.connect(cmd.Context(), autoStart)
			if err != nil {
				return err
			}
			return showThings(cmd.Context(), a, svc.ListKernels, func(k banger.Kernel) []string {
				return []string{k.Name, short(k.ID), k.Size.String(), age(k.CreatedAt), clean(k.Origin)}
			})
		},
	}
	a.addJSON(list)
	cmd.AddCommand(list)
	return cmd
}

func showThings[T any](ctx context.Context, a *app, list func(context.Context) ([]T, error), row func(T) []string) error {
	things, err := list(ctx)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(some(things))
	}
	rows := [][]string{{"NAME", "DIGEST", "SIZE", "AGE", "ORIGIN"}}
	for _, thing := range things {
		rows = append(rows, row(thing))
	}
	return table(a.std.Out, rows)
}
