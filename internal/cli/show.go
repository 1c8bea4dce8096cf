package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

func newList(a *app) *cobra.Command {
	var quiet, watch bool
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls", "ps"},
		Short:   "List all VMs, running or stopped",
		Long:    "List all VMs, running or stopped. With --watch the list is printed again after each change, until\ninterrupted: a terminal shows the newest list only, and with --json each line is one list.",
		Example: "  banger vm list\n  banger vm list --watch\n  banger vm list --json",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.runList(cmd.Context(), quiet, watch)
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print only the names")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "print the list again after each change")
	a.addJSON(cmd)
	return cmd
}

func (a *app) runList(ctx context.Context, quiet, watch bool) error {
	svc, err := a.connect(ctx, autoStart)
	switch {
	case err != nil:
		return err
	case watch:
		return a.watchList(ctx, svc, quiet)
	}
	if a.json {
		vms, err := svc.ListVMs(ctx)
		if err != nil {
			return err
		}
		return a.printJSON(some(vms))
	}
	vms, err := svc.SummarizeVMs(ctx)
	if err == nil {
		err = a.printList(vms, quiet)
	}
	if err == nil && len(vms) == 0 && !quiet {
		a.hint("banger vm create")
	}
	return err
}

// printList prints a table, or only the names.
func (a *app) printList(vms []banger.VMSummary, quiet bool) error {
	if quiet {
		for _, vm := range vms {
			fmt.Fprintln(a.std.Out, vm.Name)
		}
		return nil
	}
	rows := [][]string{{"NAME", "STATE", "IMAGE", "VCPUS", "MEMORY", "DISK", "AGE"}}
	for _, vm := range vms {
		rows = append(rows, []string{vm.Name, listedState(vm), vm.Image, fmt.Sprint(vm.VCPUs),
			vm.Memory.String(), vm.Disk.String(), age(vm.CreatedAt)})
	}
	return table(a.std.Out, rows)
}

// listedState returns a VM's state and, in parentheses, what is wrong with it: its
// problems, or how its last run ended if that was not clean.
func listedState(vm banger.VMSummary) string {
	var wrong []string
	for _, p := range vm.Problems {
		if text := problemText[p.Kind]; !slices.Contains(wrong, text) {
			wrong = append(wrong, text)
		}
	}
	if vm.State == banger.Stopped && vm.Ending != banger.EndedNever && !vm.Ending.Clean() {
		wrong = append(wrong, string(vm.Ending))
	}
	if len(wrong) == 0 {
		return string(vm.State)
	}
	return fmt.Sprintf("%s (%s)", vm.State, strings.Join(wrong, ", "))
}

// problemText is the name of a kind of problem in lists.
var problemText = map[banger.ProblemKind]string{
	banger.ProblemPaused: "paused", banger.ProblemDisk: "disk errors", banger.ProblemBoot: "boot failed", banger.ProblemNetwork: "network fails",
}

func newShow(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "show NAME...",
		Short:             "Show everything about VMs",
		Example:           "  banger vm show calm-otter\n  banger vm show --json calm-otter",
		Args:              args(1, anyNumber),
		ValidArgsFunction: a.vmNames,
		RunE: func(cmd *cobra.Command, names []string) error {
			return a.runShow(cmd.Context(), names)
		},
	}
	a.addJSON(cmd)
	return cmd
}

func (a *app) runShow(ctx context.Context, names []string) error {
	svc, err := a.connect(ctx, autoStart)
	if err != nil {
		return err
	}
	return showAll(a, each(ctx, names, svc.ShowVM), details)
}

func details(vm banger.VM) [][]string {
	rows := [][]string{
		{"name", vm.Name},
		{"id", string(vm.ID)},
		{"state", string(vm.State)},
	}
	for _, p := range vm.Problems {
		rows = append(rows, []string{"problem", clean(p.Text)})
		if p.Fix != "" {
			rows = append(rows, []string{"fix", clean(p.Fix)})
		}
	}
	rows = append(rows, [][]string{
		{"image", vm.Image + "  " + short12(vm.ImageID)},
		{"kernel", vm.Kernel + "  " + short12(vm.KernelID)},
		{"vcpus", fmt.Sprint(vm.VCPUs)},
		{"memory", memory(vm)},
		{"work disk", vm.Disk.String() + " at /root"},
		{"overlay", vm.Overlay.String() + " for all changes to /"},
		{"driver", vm.Driver},
	}...)
	rows = append(rows, networkDetails(vm.Network)...)
	if len(vm.Ports) > 0 {
		rows = append(rows, []string{"published", portsText(vm.Ports)})
	}
	rows = append(rows, []string{"created", when(vm.CreatedAt)})
	if vm.Temporary {
		rows = append(rows, []string{"temporary", "deleted when the command that created it ends"})
	}
	if vm.State != banger.Stopped {
		rows = append(rows, []string{"started", when(vm.StartedAt)}, []string{"boot id", clean(vm.BootID)}, []string{"pid", fmt.Sprint(vm.PID)})
	}
	if vm.Ending != banger.EndedNever {
		ended := string(vm.Ending)
		if vm.EndingBy != "" {
			ended += ": " + clean(vm.EndingBy)
		}
		rows = append(rows, []string{"last end", ended}, []string{"ended", when(vm.EndedAt)})
	}
	return append(rows, []string{"directory", vm.Dir}, []string{"console", vm.Console}, []string{"vmm log", vm.VMMLog})
}

// memory returns a VM's memory, and what it was started with if that is more.
func memory(vm banger.VM) string {
	if vm.Launched > vm.Memory {
		return fmt.Sprintf("%v of the %v it was started with", vm.Memory, vm.Launched)
	}
	return vm.Memory.String()
}

// short12 returns the first digits of a digest, as tables show it.
func short12(id banger.Digest) string {
	hex := strings.TrimPrefix(string(id), "sha256:")
	return hex[:min(12, len(hex))]
}

func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// age returns how long ago t was, in the largest unit.
func age(t time.Time) string {
	d := time.Since(t)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", max(0, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

func table(out io.Writer, rows [][]string) error {
	buffered := bufio.NewWriter(out) // tabwriter writes each cell separately
	w := tabwriter.NewWriter(buffered, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return errors.Join(w.Flush(), buffered.Flush())
}

// some returns list so that JSON has [] for an empty one.
func some[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
