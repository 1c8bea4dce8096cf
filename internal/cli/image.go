package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

func newImage(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "image",
		Short:   "Import, list and delete images",
		Example: "  banger image list\n  banger image import box rootfs.tar",
		RunE:    group,
	}
	list := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the images that VMs can be created from",
		Example: "  banger image list\n  banger image list --json",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			svc, err := a.connect(cmd.Context(), autoStart)
			if err != nil {
				return err
			}
			return showThings(cmd.Context(), a, svc.ListImages, func(i banger.Image) []string {
				return []string{i.Name, short(i.ID), i.Size.String(), age(i.CreatedAt), users(i.Use), clean(i.Origin)}
			})
		},
	}
	a.addJSON(list)
	show := &cobra.Command{
		Use:               "show NAME...",
		Short:             "Show everything about images",
		Example:           "  banger image show docker\n  banger image show --json docker",
		Args:              args(1, anyNumber),
		ValidArgsFunction: a.imageNames,
		RunE: func(cmd *cobra.Command, names []string) error {
			svc, err := a.connect(cmd.Context(), autoStart)
			if err != nil {
				return err
			}
			return showThing(cmd.Context(), a, "image", names, svc.ListImages, func(t banger.Image) (string, banger.Digest, [][]string) {
				return t.Name, t.ID, thingDetails(t.Name, t.Origin, t.ID, t.Size, t.CreatedAt, t.Use)
			})
		},
	}
	a.addJSON(show)
	cmd.AddCommand(newImport(a), list, show, newImageDelete(a))
	return cmd
}

func newKernel(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "kernel",
		Short:   "List kernels",
		Example: "  banger kernel list\n  banger kernel show --json 6.12.117+deb13-cloud-amd64",
		RunE:    group,
	}
	list := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the kernels that VMs can boot",
		Example: "  banger kernel list\n  banger kernel list --json",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			svc, err := a.connect(cmd.Context(), autoStart)
			if err != nil {
				return err
			}
			return showThings(cmd.Context(), a, svc.ListKernels, func(k banger.Kernel) []string {
				return []string{k.Name, short(k.ID), k.Size.String(), age(k.CreatedAt), users(k.Use), clean(k.Origin)}
			})
		},
	}
	a.addJSON(list)
	show := &cobra.Command{
		Use:               "show NAME...",
		Short:             "Show everything about kernels",
		Example:           "  banger kernel show 6.12.117+deb13-cloud-amd64\n  banger kernel show --json 6.12.117+deb13-cloud-amd64",
		Args:              args(1, anyNumber),
		ValidArgsFunction: a.kernelNames,
		RunE: func(cmd *cobra.Command, names []string) error {
			svc, err := a.connect(cmd.Context(), autoStart)
			if err != nil {
				return err
			}
			return showThing(cmd.Context(), a, "kernel", names, svc.ListKernels, func(t banger.Kernel) (string, banger.Digest, [][]string) {
				return t.Name, t.ID, thingDetails(t.Name, t.Origin, t.ID, t.Size, t.CreatedAt, t.Use)
			})
		},
	}
	a.addJSON(show)
	cmd.AddCommand(list, show)
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
	rows := [][]string{{"NAME", "DIGEST", "SIZE", "AGE", "USED BY", "ORIGIN"}}
	for _, thing := range things {
		rows = append(rows, row(thing))
	}
	return table(a.std.Out, rows)
}

// showThing shows the things in a list that have these names or digests. about
// returns what there is to show of one.
func showThing[T any](ctx context.Context, a *app, noun string, names []string, list func(context.Context) ([]T, error),
	about func(T) (name string, id banger.Digest, details [][]string)) error {
	things, err := list(ctx)
	if err != nil {
		return err
	}
	results := each(ctx, names, func(_ context.Context, ref string) (T, error) {
		for _, thing := range things {
			if name, id, _ := about(thing); ref == name || ref == string(id) || ref == short(id) {
				return thing, nil
			}
		}
		var none T
		return none, &banger.Error{Kind: banger.NotFound, What: fmt.Sprintf("show %s %q", noun, ref),
			Why: errors.New("there is no such " + noun), Fix: "banger " + noun + " list"}
	})
	first := true
	return showResults(a, results, func(_ string, thing T) error {
		if a.json {
			return a.printJSON(thing)
		}
		if !first {
			fmt.Fprintln(a.std.Out)
		}
		first = false
		_, _, rows := about(thing)
		return table(a.std.Out, rows)
	})
}

// users returns the number of VMs that use a thing; older daemons do not know it.
func users(use *banger.Use) string {
	if use == nil {
		return "-"
	}
	return fmt.Sprint(len(use.VMs))
}

func thingDetails(name, origin string, id banger.Digest, size banger.Size, created time.Time, use *banger.Use) [][]string {
	rows := [][]string{{"name", name}, {"digest", string(id)}, {"origin", clean(origin)}, {"size", size.String()}, {"created", when(created)}}
	if use == nil {
		return rows
	}
	names := "no VMs"
	if len(use.VMs) > 0 {
		names = strings.Join(use.VMs, ", ")
	}
	return append(rows, []string{"on this host", use.OnHost.String()}, []string{"used by", names})
}
