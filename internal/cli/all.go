package cli

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"banger"
)

// kindOfVMs is the set of VMs that --all stands for in a command.
type kindOfVMs struct {
	text, none string // the help of --all, and what to print if there are no such VMs
	has        func(banger.VMSummary) bool
	unoffered  bool // no error may propose --all
}

var (
	everyVM    = kindOfVMs{text: "all VMs", none: "there are no VMs", has: func(banger.VMSummary) bool { return true }}
	runningVMs = kindOfVMs{text: "all running VMs", none: "no VMs are running", has: func(vm banger.VMSummary) bool { return vm.State != banger.Stopped }}
	// deletedVMs are named one by one, or on purpose.
	deletedVMs = kindOfVMs{text: everyVM.text, none: everyVM.none, has: everyVM.has, unoffered: true}
)

// selection is the VMs a command works on: named ones, or all of a kind.
type selection struct {
	kindOfVMs
	all bool
}

// selectVMs makes cmd, whose Use is only its verb so far, take several names or --all.
func (a *app) selectVMs(cmd *cobra.Command, kind kindOfVMs) *selection {
	s := &selection{kindOfVMs: kind}
	cmd.Use += " NAME...|--all"
	cmd.Args = s.check
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if s.all {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.vmNames(cmd, args, word)
	}
	cmd.Flags().BoolVar(&s.all, "all", false, kind.text+", instead of names")
	return s
}

func (s *selection) check(cmd *cobra.Command, names []string) error {
	path := cmd.CommandPath()
	fix := path + " NAME, or " + path + " --all"
	if s.unoffered {
		fix = path + " NAME"
	}
	switch {
	case s.all && len(names) > 0:
		return banger.Invalidf("leave out the names or --all", "--all and names exclude each other")
	case !s.all && len(names) == 0:
		return banger.Invalidf(fix, "which VM?")
	}
	return nil
}

// names returns the names of the selected VMs. If --all selects none, it tells
// the user so.
func (s *selection) names(ctx context.Context, a *app, svc service, names []string) ([]string, error) {
	if !s.all {
		return names, nil
	}
	vms, err := svc.SummarizeVMs(ctx)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, vm := range vms {
		if s.has(vm) {
			found = append(found, vm.Name)
		}
	}
	if len(found) == 0 && !a.json {
		fmt.Fprintln(a.std.Err, s.none)
	}
	return found, nil
}

// forSelected is like each, but with --all it ignores VMs that are deleted meanwhile.
func forSelected[T any](ctx context.Context, s *selection, names []string, do func(context.Context, string) (T, error)) []result[T] {
	results := each(ctx, names, do)
	if s.all {
		results = slices.DeleteFunc(results, func(r result[T]) bool { return banger.KindOf(r.err) == banger.NotFound })
	}
	return results
}
