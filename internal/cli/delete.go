package cli

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"banger"
)

type deleteOptions struct {
	*selection
	yes, force bool
}

func newDelete(a *app) *cobra.Command {
	var opts deleteOptions
	cmd := &cobra.Command{
		Use:     "delete",
		Aliases: []string{"rm"},
		Short:   "Delete VMs and all their data",
		Long: "Delete VMs and all their data. It asks first, and stops VMs that are running.\n" +
			"Without a terminal, --yes is needed instead, and --force for running VMs.",
		Example: "  banger vm delete calm-otter\n  banger vm delete --yes --force calm-otter spare\n  banger vm delete --yes --force --all",
	}
	opts.selection = a.selectVMs(cmd, deletedVMs)
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		return a.runDelete(cmd.Context(), names, opts)
	}
	cmd.Flags().BoolVarP(&opts.yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&opts.force, "force", false, "with --yes: delete running VMs too")
	a.addJSON(cmd)
	return cmd
}

func (a *app) runDelete(ctx context.Context, names []string, opts deleteOptions) error {
	svc, err := a.connect(ctx, autoStart)
	if err != nil {
		return err
	}
	if names, err = opts.names(ctx, a, svc, names); err != nil || len(names) == 0 {
		return err
	}
	var asked map[string]banger.VMID
	if !opts.yes {
		if asked, err = a.confirmDelete(ctx, svc, names, opts.force); err != nil {
			return err
		}
		opts.force = true // the question was about running VMs, too
	}
	p := a.newProgress(notUndone)
	results := forSelected(ctx, opts.selection, names, func(ctx context.Context, name string) (struct{}, error) {
		return struct{}{}, svc.DeleteVM(ctx, cmp.Or(string(asked[name]), name), banger.DeleteVM{Force: opts.force}, p.event)
	})
	p.close()
	return showResults(a, results, a.showDeleted)
}

type deleted struct {
	Name    string `json:"name"`
	Deleted bool   `json:"deleted"`
}

func (a *app) showDeleted(name string, _ struct{}) error {
	if a.json {
		return a.printJSON(deleted{name, true})
	}
	return a.say(name, "deleted")
}

// confirmDelete asks whether to delete VMs. It returns an error if one does not exist, or
// if the answer is not yes. Otherwise it returns which VMs the answer is about: others may
// have the names by then.
func (a *app) confirmDelete(ctx context.Context, svc service, names []string, force bool) (map[string]banger.VMID, error) {
	var found, running []string
	ids := map[string]banger.VMID{}
	for _, r := range each(ctx, names, svc.ShowVM) {
		if r.err != nil {
			return nil, r.err
		}
		ids[r.name] = r.value.ID
		found = append(found, r.value.Name)
		if _, ok := r.value.State.On(banger.Delete); !ok {
			running = append(running, r.value.Name)
		}
	}
	if !a.std.InTTY {
		fix := "banger vm delete --yes "
		if force || len(running) > 0 {
			fix += "--force "
		}
		return nil, banger.Invalidf(fix+strings.Join(found, " "), "not deleting without confirmation: stdin is not a terminal")
	}
	fmt.Fprint(a.std.Err, deleteQuestion(found, running), " [y/N] ")
	yes, err := a.readYes(ctx)
	if err == nil && !yes {
		err = &banger.Error{What: "nothing was deleted"}
	}
	return ids, err
}

// readYes reads the answer to a question, and reports whether it is yes.
func (a *app) readYes(ctx context.Context) (bool, error) {
	answer, err := a.readLine(ctx)
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes", err
}

func deleteQuestion(found, running []string) string {
	all := strings.Join(found, ", ")
	switch {
	case len(running) == 0 && len(found) == 1:
		return fmt.Sprintf("Delete %s and all its data?", all)
	case len(running) == 0:
		return fmt.Sprintf("Delete %s and all their data?", all)
	case len(found) == 1:
		return fmt.Sprintf("%s is running. Stop it and delete all its data?", all)
	case len(running) == 1:
		return fmt.Sprintf("%s is running. Stop it and delete %s and all their data?", running[0], all)
	}
	return fmt.Sprintf("%s are running. Stop them and delete %s and all their data?", strings.Join(running, ", "), all)
}

// readLine reads a line from stdin unless ctx ends first.
func (a *app) readLine(ctx context.Context) (string, error) {
	type read struct {
		line string
		err  error
	}
	answer := make(chan read, 1)
	go func() {
		line, err := bufio.NewReader(a.std.In).ReadString('\n')
		answer <- read{line, err}
	}()
	select {
	case r := <-answer:
		if errors.Is(r.err, io.EOF) {
			r.err = nil // an empty answer
		}
		return r.line, r.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}
