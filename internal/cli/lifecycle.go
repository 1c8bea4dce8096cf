package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

func newStart(a *app) *cobra.Command {
	var opts banger.StartVM
	var wait waitFlag
	cmd := a.forVMs("start", "Start stopped VMs", everyVM, func(ctx context.Context, svc service, ref string, p banger.Progress) (banger.VM, error) {
		vm, err := svc.StartVM(ctx, ref, opts, p)
		if err != nil {
			return vm, err
		}
		return wait.wait(ctx, svc, vm, p)
	})
	addWait(cmd, &wait)
	cmd.Example = "  banger vm start calm-otter\n  banger vm start calm-otter spare --timeout 2m\n  banger vm start --all"
	cmd.Flags().DurationVar(&opts.Timeout, "timeout", 0, "how long to wait for the guest (default: by driver)")
	return cmd
}

func newStop(a *app) *cobra.Command {
	var opts banger.StopVM
	cmd := a.forVMs("stop", "Stop running VMs; their disks stay", everyVM, func(ctx context.Context, svc service, ref string, p banger.Progress) (banger.VM, error) {
		return svc.StopVM(ctx, ref, opts, p)
	})
	cmd.Long = "Write everything to disk, let the guest stop its services, and switch the VM off.\nNothing on its disks is lost."
	cmd.Example = "  banger vm stop calm-otter\n  banger vm stop --grace 30s calm-otter spare\n  banger vm stop --force calm-otter\n  banger vm stop --all"
	addStop(cmd, &opts)
	return cmd
}

func newRestart(a *app) *cobra.Command {
	var opts banger.StopVM
	var wait waitFlag
	cmd := a.forVMs("restart", "Stop VMs and start them again", runningVMs, func(ctx context.Context, svc service, ref string, p banger.Progress) (banger.VM, error) {
		vm, err := svc.RestartVM(ctx, ref, opts, p)
		if err != nil {
			return vm, err
		}
		return wait.wait(ctx, svc, vm, p)
	})
	addWait(cmd, &wait)
	cmd.Example = "  banger vm restart calm-otter\n  banger vm restart --json calm-otter"
	addStop(cmd, &opts)
	return cmd
}

func addStop(cmd *cobra.Command, opts *banger.StopVM) {
	cmd.Flags().DurationVar(&opts.Grace, "grace", 0, "how long the guest's services may take to stop (default: the daemon's)")
	cmd.Flags().BoolVar(&opts.Force, "force", false, "write everything to disk, then end the VM without asking the guest")
}

type vmAction func(ctx context.Context, svc service, ref string, p banger.Progress) (banger.VM, error)

// forVMs is a command that does one thing to several VMs at once.
func (a *app) forVMs(verb, short string, all kindOfVMs, do vmAction) *cobra.Command {
	cmd := &cobra.Command{Use: verb, Short: short}
	which := a.selectVMs(cmd, all)
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		return a.runForVMs(cmd.Context(), which, names, do)
	}
	a.addJSON(cmd)
	return cmd
}

func (a *app) runForVMs(ctx context.Context, which *selection, names []string, do vmAction) error {
	svc, err := a.connect(ctx, autoStart)
	if err != nil {
		return err
	}
	if names, err = which.names(ctx, a, svc, names); err != nil {
		return err
	}
	type done struct {
		vm   banger.VM
		took time.Duration
	}
	p := a.newProgress()
	results := forSelected(ctx, which, names, func(ctx context.Context, name string) (done, error) {
		began := time.Now()
		vm, err := do(ctx, svc, name, p.event)
		return done{vm, time.Since(began)}, err
	})
	p.close()
	return showResults(a, results, func(_ string, d done) error {
		if a.json {
			return a.printJSON(d.vm)
		}
		return a.printState(d.vm, d.took)
	})
}

type deleteOptions struct {
	*selection
	yes, force bool
}

func newDelete(a *app) *cobra.Command {
	var opts deleteOptions
	cmd := &cobra.Command{
		Use:     "delete",
		Aliases: []string{"rm"},
		Short:   "Delete VMs and everything on their disks",
		Long:    "Delete VMs and everything on their disks. It asks first; without a terminal --yes is required.\nA running VM is refused without --force.",
		Example: "  banger vm delete calm-otter\n  banger vm delete --yes --force calm-otter spare\n  banger vm delete --yes --force --all",
	}
	opts.selection = a.selectVMs(cmd, everyVM)
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		return a.runDelete(cmd.Context(), names, opts)
	}
	cmd.Flags().BoolVarP(&opts.yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&opts.force, "force", false, "delete running VMs too")
	a.addJSON(cmd)
	return cmd
}

func (a *app) runDelete(ctx context.Context, names []string, opts deleteOptions) error {
	if !opts.yes && !a.std.InTTY {
		if opts.all {
			names = []string{"--all"}
		}
		return banger.Invalidf("banger vm delete --yes "+strings.Join(names, " "), "nobody is there to be asked whether to delete")
	}
	svc, err := a.connect(ctx, autoStart)
	if err != nil {
		return err
	}
	if names, err = opts.names(ctx, a, svc, names); err != nil {
		return err
	}
	if !opts.yes && len(names) > 0 {
		if err := a.confirmDelete(ctx, svc, names); err != nil {
			return err
		}
	}
	p := a.newProgress()
	results := forSelected(ctx, opts.selection, names, func(ctx context.Context, name string) (struct{}, error) {
		return struct{}{}, svc.DeleteVM(ctx, name, banger.DeleteVM{Force: opts.force}, p.event)
	})
	p.close()
	return showResults(a, results, func(name string, _ struct{}) error {
		if a.json {
			return a.printJSON(deleted{name, true})
		}
		_, err := fmt.Fprintf(a.std.Out, "%s: deleted\n", name)
		return err
	})
}

type deleted struct {
	Name    string `json:"name"`
	Deleted bool   `json:"deleted"`
}

// confirmDelete asks only about VMs that there are.
func (a *app) confirmDelete(ctx context.Context, svc service, names []string) error {
	results := each(ctx, names, svc.ShowVM)
	var found []string
	for _, r := range results {
		if r.err != nil {
			return r.err
		}
		found = append(found, r.value.Name)
	}
	fmt.Fprintf(a.std.Err, "delete %s and everything on the disks? [y/N] ", strings.Join(found, ", "))
	answer, err := a.readLine(ctx)
	if err != nil {
		return err
	}
	if answer := strings.ToLower(strings.TrimSpace(answer)); answer != "y" && answer != "yes" {
		return &banger.Error{Kind: banger.Unknown, What: "nothing was deleted"}
	}
	return nil
}

// readLine reads an answer unless ctx ends first.
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
			r.err = nil // no answer is an answer
		}
		return r.line, r.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}
