package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"banger"
)

func newPrune(a *app) *cobra.Command {
	var opts banger.PruneImages
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Remove what no VM and no name needs",
		Long: "Remove what no VM and no name needs: images without a name, kernels, agents and Firecrackers\nof earlier runtime bundles, and downloads. Images that have a name stay: see banger image\n" +
			"delete. The largest comes first.",
		Example: "  banger image prune --dry-run\n  banger image prune\n  banger image prune --dry-run --json",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.runPrune(cmd.Context(), opts)
		},
	}
	cmd.Flags().BoolVar(&opts.DryRun, "dry-run", false, "only print what would be removed")
	a.addJSON(cmd)
	return cmd
}

func (a *app) runPrune(ctx context.Context, opts banger.PruneImages) error {
	svc, err := a.connect(ctx, autoStart)
	if err != nil {
		return err
	}
	p := a.newProgress(notUndone)
	pruned, err := svc.PruneImages(ctx, opts, p.event)
	p.close()
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(pruned)
	}
	if len(pruned.Items) > 0 {
		rows := [][]string{{"SIZE", "KIND", "NAME"}}
		for _, item := range pruned.Items {
			rows = append(rows, []string{item.Size.String(), string(item.Kind), shortName(item.Name)})
		}
		if err := table(a.std.Out, rows); err != nil {
			return err
		}
	}
	verb := "removed"
	if opts.DryRun {
		verb = "would be removed"
	}
	_, err = fmt.Fprintf(a.std.Out, "%v %s\n", pruned.Freed, verb)
	return err
}

// shortName returns a name, and of a digest its beginning.
func shortName(name string) string {
	const digest = 64
	if len(name) >= digest {
		return clean(name[:12])
	}
	return clean(name)
}
