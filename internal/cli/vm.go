package cli

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"
)

func newVM(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "vm",
		Short:   "Create, run and reach VMs",
		Long:    "A VM keeps /root on its work disk and all other changes to / in its overlay.\nBoth stay until the VM is deleted.",
		Example: "  banger vm create --name calm-otter --memory 2048 --disk-size 16G\n  banger vm list",
		RunE:    group,
	}
	cmd.AddCommand(
		newCreate(a), newRun(a), newList(a), newShow(a),
		newStart(a), newStop(a), newRestart(a), newWait(a), newSet(a), newRename(a), newKill(a), newFsck(a), newDelete(a),
		newSSH(a), newSSHConfig(a), newExec(a), newCp(a), newOpen(a), newLogs(a), newStats(a), newPorts(a), newProxy(a),
	)
	return cmd
}

// completionTime is how long a person waits for a completion, for a daemon that does not
// answer: less than it takes to say so.
const completionTime = time.Second

// vmNames completes the names of VMs. It does not start a daemon for that.
func (a *app) vmNames(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
	defer cancel()
	svc, err := a.connect(ctx, noStart)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	vms, err := svc.SummarizeVMs(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, vm := range vms {
		if !slices.Contains(args, vm.Name) {
			names = append(names, cobra.CompletionWithDesc(vm.Name, string(vm.State)))
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// firstVM completes the name of one VM; the shell completes the rest.
func (a *app) firstVM(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return a.vmNames(cmd, args, word)
}

// onlyVM completes the first argument as a VM's name. The others are no files.
func (a *app) onlyVM(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.vmNames(cmd, args, word)
}

// each runs do for every name at once and returns the results in the names'
// order. A name given twice counts once.
func each[T any](ctx context.Context, names []string, do func(context.Context, string) (T, error)) []result[T] {
	var unique []string
	for _, name := range names {
		if !slices.Contains(unique, name) {
			unique = append(unique, name)
		}
	}
	results := make([]result[T], len(unique))
	var done sync.WaitGroup
	for i, name := range unique {
		done.Go(func() {
			value, err := do(ctx, name)
			results[i] = result[T]{name, value, err}
		})
	}
	done.Wait()
	return results
}

type result[T any] struct {
	name  string
	value T
	err   error
}

// failure is how --json prints an error about one of several names.
type failure struct {
	Name  string    `json:"name"`
	Error errorJSON `json:"error"`
}

// showResults prints each result with show, or its error. It returns the exit status
// of the worst error.
func showResults[T any](a *app, results []result[T], show func(name string, value T) error) error {
	worst := 0
	for _, r := range results {
		switch {
		case r.err == nil:
			if err := show(r.name, r.value); err != nil {
				return err
			}
			continue
		case a.json:
			a.printJSON(failure{r.name, describe(r.err)})
		default:
			a.report(r.err)
		}
		worst = max(worst, ExitCode(r.err))
	}
	if worst > 0 {
		return exitStatus(worst)
	}
	return nil
}

// showAll prints each result as a table, or as JSON.
func showAll[T any](a *app, results []result[T], details func(T) [][]string) error {
	before := ""
	return showResults(a, results, func(_ string, value T) error {
		if a.json {
			return a.printJSON(value)
		}
		fmt.Fprint(a.std.Out, before)
		before = "\n"
		return table(a.std.Out, details(value))
	})
}
