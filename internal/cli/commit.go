package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

func newCommit(a *app) *cobra.Command {
	var opts banger.CommitVM
	cmd := &cobra.Command{
		Use:   "commit VM NAME",
		Short: "Make an image of a VM as it is now",
		Long: "Make an image of the system of a VM: everything outside /root, with --with-home also that. Host keys,\n" +
			"logs and other files that belong to one machine are left out, and so is Docker's data. A running VM\n" +
			"keeps running; what its programs have not written yet is missing. A stopped one stays stopped: a copy\n" +
			"of its disks is read.",
		Example:           "  banger image commit calm-otter mine\n  banger image commit --with-home --json calm-otter with-home",
		Args:              args(2, 2),
		ValidArgsFunction: a.onlyVM,
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.Name = args[1]
			return a.runCommit(cmd.Context(), args[0], opts)
		},
	}
	cmd.Flags().BoolVar(&opts.WithHome, "with-home", false, "with what is in /root")
	a.addJSON(cmd)
	return cmd
}

func (a *app) runCommit(ctx context.Context, ref string, opts banger.CommitVM) error {
	if err := banger.CheckImageName(opts.Name); err != nil {
		return err
	}
	began := time.Now()
	svc, err := a.connect(ctx, autoStart)
	if err != nil {
		return err
	}
	p := a.newProgress(undone)
	image, err := svc.CommitVM(ctx, ref, opts, p.event)
	p.close()
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(image)
	}
	if err := a.say(image.Name, "committed "+image.Size.String()+a.took(" in ", time.Since(began))); err != nil {
		return err
	}
	a.hint("banger vm create --image %s", image.Name)
	return nil
}
