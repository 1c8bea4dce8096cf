package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"banger"
)

func newDiff(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "diff VM",
		Short: "List what a VM has changed of its image, by package and file",
		Long: "List what a VM has changed of its image: packages, and files that belong to none of them. A is added,\n" +
			"M modified, D deleted. It shows what `banger image commit` would take: /root, logs and caches are not\n" +
			"among it. A stopped VM stays stopped: a copy of its disk is read.",
		Example:           "  banger image diff calm-otter\n  banger image diff --json calm-otter",
		Args:              args(1, 1),
		ValidArgsFunction: a.onlyVM,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runDiff(cmd.Context(), args[0])
		},
	}
	a.addJSON(cmd)
	return cmd
}

func (a *app) runDiff(ctx context.Context, ref string) error {
	svc, err := a.connect(ctx, autoStart)
	if err != nil {
		return err
	}
	p := a.newProgress(undone)
	diff, err := svc.DiffVM(ctx, ref, banger.DiffVM{}, p.event)
	p.close()
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(diff)
	}
	if len(diff.Packages)+len(diff.Files) == 0 {
		return a.say(diff.Name, "as its image "+diff.Image)
	}
	return a.showDiff(diff)
}

func (a *app) showDiff(diff banger.VMDiff) error {
	var rows [][]string
	for _, p := range diff.Packages {
		switch {
		case p.Was == "":
			rows = append(rows, []string{"A", "package " + clean(p.Name), clean(p.Now)})
		case p.Now == "":
			rows = append(rows, []string{"D", "package " + clean(p.Name), clean(p.Was)})
		default:
			rows = append(rows, []string{"M", "package " + clean(p.Name), clean(p.Was) + " -> " + clean(p.Now)})
		}
	}
	for _, f := range diff.Files {
		rows = append(rows, fileRow(f))
	}
	for _, row := range rows {
		if _, err := fmt.Fprintln(a.std.Out, strings.Join(row, "  ")); err != nil {
			return err
		}
	}
	return nil
}

// letters stand for changes of files.
var letters = map[string]string{"added": "A", "changed": "M", "deleted": "D"}

func fileRow(f banger.FileChange) []string {
	row := []string{letters[f.Change], clean(f.Path)}
	if f.Dir {
		row[1] += "/"
	}
	switch {
	case f.Change == "deleted":
	case f.Files == 1:
		row = append(row, fmt.Sprintf("1 file, %v", f.Size))
	case f.Files > 1:
		row = append(row, fmt.Sprintf("%d files, %v", f.Files, f.Size))
	case !f.Dir:
		row = append(row, f.Size.String())
	}
	return row
}
