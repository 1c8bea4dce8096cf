package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"banger"
)

func newFsck(a *app) *cobra.Command {
	var opts banger.FsckVM
	cmd := &cobra.Command{
		Use:   "fsck NAME",
		Short: "Check and repair the disks of a stopped VM",
		Long: "Check the disks of a stopped VM with e2fsck. What it can repair safely is repaired at once; a start\n" +
			"does the same for a disk with errors. For the rest it asks: a repair may move damaged files to\n" +
			"lost+found, or lose them. The disk is copied first, and the copy stays in the VM's directory.",
		Example:           "  banger vm fsck calm-otter\n  banger vm fsck --yes calm-otter",
		Args:              args(1, 1),
		ValidArgsFunction: a.firstVM,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runFsck(cmd.Context(), args[0], opts)
		},
	}
	cmd.Flags().BoolVarP(&opts.Yes, "yes", "y", false, "do not ask: repair everything, even if damaged files are lost")
	cmd.Flags().BoolVar(&opts.NoCopy, "no-copy", false, "do not copy a damaged disk before its repair")
	a.addJSON(cmd)
	return cmd
}

func (a *app) runFsck(ctx context.Context, ref string, opts banger.FsckVM) error {
	svc, err := a.connect(ctx, autoStart)
	if err != nil {
		return err
	}
	found, err := a.fsck(ctx, svc, ref, opts)
	if damaged := damagedDisks(found); err == nil && len(damaged) > 0 {
		if opts.Yes, err = a.confirmRepair(ctx, found, damaged, opts); err == nil {
			found, err = a.fsck(ctx, svc, string(found.ID), opts) // another VM may have the name by now
		}
	}
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(found)
	}
	return a.say(found.Name, fsckText(found))
}

func (a *app) fsck(ctx context.Context, svc service, ref string, opts banger.FsckVM) (banger.Fsck, error) {
	p := a.newProgress(notUndone)
	defer p.close()
	return svc.FsckVM(ctx, ref, opts, p.event)
}

func damagedDisks(found banger.Fsck) (damaged []banger.FsckDisk) {
	for _, d := range found.Disks {
		if d.Result == banger.FsckDamaged {
			damaged = append(damaged, d)
		}
	}
	return damaged
}

// confirmRepair asks whether to repair disks at the risk of their files.
func (a *app) confirmRepair(ctx context.Context, found banger.Fsck, damaged []banger.FsckDisk, opts banger.FsckVM) (bool, error) {
	var names, why []string
	for _, d := range damaged {
		names, why = append(names, d.Disk), append(why, clean(d.Why))
	}
	if !a.std.InTTY || a.json {
		return false, &banger.Error{Kind: banger.Conflict, What: fmt.Sprintf("VM %q is not repaired: %s", found.Name, strings.Join(why, "; ")),
			Fix: "banger vm fsck --yes " + found.Name + ", which may lose damaged files"}
	}
	kept := "A copy is kept."
	if opts.NoCopy {
		kept = "No copy is kept."
	}
	for _, line := range why {
		fmt.Fprintln(a.std.Err, line)
	}
	fmt.Fprintf(a.std.Err, "Repair the %s disk of %s? Damaged files may be lost. %s [y/N] ", strings.Join(names, " and the "), found.Name, kept)
	yes, err := a.readYes(ctx)
	if err == nil && !yes {
		err = &banger.Error{What: "the disks stay as they are"}
	}
	return yes, err
}

// fsckText returns what became of each disk.
func fsckText(found banger.Fsck) string {
	var parts, copies []string
	for _, d := range found.Disks {
		parts = append(parts, fmt.Sprintf("%s disk %s", d.Disk, d.Result))
		if d.Copy != "" {
			copies = append(copies, fmt.Sprintf("the %s disk as it was: %s", d.Disk, d.Copy))
		}
	}
	return strings.Join(append([]string{strings.Join(parts, ", ")}, copies...), "\n  ")
}
