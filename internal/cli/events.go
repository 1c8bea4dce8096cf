package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"banger"
)

type eventOptions struct {
	vms        []string
	noSnapshot bool
}

func newEvents(a *app) *cobra.Command {
	var opts eventOptions
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Print what changes, as it happens",
		Long: "Print the VMs, images, kernels and operations that exist, then a line \"ready\", and then each change\n" +
			"as it happens, until interrupted. A VM prints a line when its name or state changes, an operation\n" +
			"one at each step. With --json every event is one line; docs/json.md lists its fields.",
		Example: "  banger events\n  banger events --vm calm-otter --vm spare\n  banger events --json --no-snapshot",
		Args:    args(0, 0),
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.runEvents(cmd.Context(), opts) },
	}
	cmd.Flags().StringArrayVar(&opts.vms, "vm", nil, "print only events of this VM, by name or ID; repeatable")
	cmd.Flags().BoolVar(&opts.noSnapshot, "no-snapshot", false, "print changes only")
	_ = cmd.RegisterFlagCompletionFunc("vm", a.vmNames)
	a.addJSON(cmd)
	return cmd
}

func (a *app) runEvents(ctx context.Context, opts eventOptions) error {
	a.lines = true
	svc, err := a.connect(ctx, autoStart)
	if err != nil {
		return err
	}
	wanted := vmFilter{refs: opts.vms, seen: map[string]bool{}}
	live := !opts.noSnapshot
	shown := map[banger.VMID]string{} // the newest line of each VM
	return follow(ctx, svc, func(e banger.Event) error {
		live = live || e.Kind == banger.EventReady
		if !wanted.has(e) || !live {
			return nil
		}
		if a.json {
			return a.printJSON(e)
		}
		switch e.Kind {
		case banger.EventReady:
			wanted.note(a.std.Err)
		case banger.EventDropped:
			clear(shown)
		}
		subject, text := eventText(e)
		line := clean(strings.TrimSpace(subject + "  " + text))
		if e.VM != nil && shown[e.VM.ID] == line {
			return nil
		}
		if e.VM != nil {
			shown[e.VM.ID] = line
		}
		_, err := fmt.Fprintf(a.std.Out, "%s  %s\n", e.Time.Local().Format("2006-01-02 15:04:05.000"), line)
		return err
	})
}

// follow calls do with each event until it fails, ctx ends or the daemon ends. If
// the daemon drops this reader, the events continue with a new snapshot.
func follow(ctx context.Context, svc service, do func(banger.Event) error) error {
	for {
		for e, err := range svc.Events(ctx) {
			if ctx.Err() != nil {
				return exitStatus(exitInterrupted)
			}
			if err == nil {
				err = do(e)
			}
			if err != nil {
				return err
			}
		}
	}
}

// vmFilter selects events of VMs. A VM that it has selected by name once stays
// selected when it is renamed.
type vmFilter struct {
	refs []string        // names and IDs
	seen map[string]bool // which of refs were found, and the IDs of their VMs
}

func (f vmFilter) has(e banger.Event) bool {
	var name string
	var id banger.VMID
	switch {
	case len(f.refs) == 0, e.Kind == banger.EventReady, e.Kind == banger.EventDropped:
		return true
	case e.VM != nil:
		name, id = e.VM.Name, e.VM.ID
	case e.Operation != nil && e.Operation.Noun == "vm":
		name, id = e.Operation.Name, e.Operation.VMID
	default:
		return false
	}
	for _, ref := range []string{name, string(id)} {
		if ref != "" && slices.Contains(f.refs, ref) {
			f.seen[ref], f.seen[string(id)] = true, id != ""
			return true
		}
	}
	return f.seen[string(id)]
}

// note tells which VMs do not exist yet, once the snapshot has ended.
func (f vmFilter) note(out io.Writer) {
	for _, ref := range f.refs {
		if !f.seen[ref] {
			fmt.Fprintf(out, "note: there is no VM %q yet\n", ref)
		}
	}
}

// eventText returns what an event is about, and what happened to it.
func eventText(e banger.Event) (subject, text string) {
	exists := "exists"
	if e.Gone {
		exists = "deleted"
	}
	switch {
	case e.VM != nil && e.Gone:
		return "vm " + e.VM.Name, exists
	case e.VM != nil:
		return "vm " + e.VM.Name, listedState(summary(*e.VM))
	case e.Image != nil:
		return "image " + e.Image.Name, exists
	case e.Kernel != nil:
		return "kernel " + e.Kernel.Name, exists
	case e.Operation != nil:
		return e.Operation.Noun + " " + e.Operation.Name, operationText(*e.Operation)
	case e.Kind == banger.EventDropped:
		return "dropped", "this reader was too slow; a new snapshot follows"
	}
	return string(e.Kind), ""
}

func operationText(o banger.Operation) string {
	switch {
	case o.Failure != nil:
		return fmt.Sprintf("%s failed after %s: %s", o.Verb, seconds(o.Took), o.Failure.Message)
	case o.Ended:
		return fmt.Sprintf("%s done after %s", o.Verb, seconds(o.Took))
	case o.Step == nil:
		return string(o.Verb)
	case o.Step.Total > 0:
		return fmt.Sprintf("%s: %s: %v of %v", o.Verb, o.Step.Step, o.Step.Moved, o.Step.Total)
	case o.Step.Note != "":
		return fmt.Sprintf("%s: %s: %s", o.Verb, o.Step.Step, o.Step.Note)
	case o.Step.Done:
		return fmt.Sprintf("%s: %s ... %s", o.Verb, o.Step.Step, seconds(o.Step.Took))
	}
	return fmt.Sprintf("%s: %s", o.Verb, o.Step.Step)
}
