package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"banger"
	"banger/internal/guest/wire"
)

func newLogs(a *app) *cobra.Command {
	opts := banger.VMLogs{Kind: banger.ConsoleLog}
	var vmm, raw bool
	cmd := &cobra.Command{
		Use:               "logs NAME",
		Short:             "Print the console of a VM, or the log of its VMM",
		Long:              "Print the console of a VM, or the log of its VMM. Services log to the guest's journal:\n`banger vm exec NAME -- journalctl`. What is printed is text, on a terminal with its colours, and\nwithout the lines that banger's agent writes; --raw prints every byte that the guest wrote.",
		Example:           "  banger vm logs calm-otter\n  banger vm logs -f calm-otter\n  banger vm logs --vmm calm-otter",
		Args:              args(1, 1),
		ValidArgsFunction: a.firstVM,
		RunE: func(cmd *cobra.Command, args []string) error {
			if vmm {
				opts.Kind = banger.VMMLog
			}
			return a.runLogs(cmd.Context(), args[0], opts, raw)
		},
	}
	cmd.Flags().BoolVarP(&opts.Follow, "follow", "f", false, "continue as the log grows, until Ctrl-C")
	cmd.Flags().BoolVar(&vmm, "vmm", false, "print the log of the VMM instead of the console")
	cmd.Flags().BoolVar(&raw, "raw", false, "print every byte of the log, control sequences included")
	a.addJSON(cmd)
	return cmd
}

func (a *app) runLogs(ctx context.Context, ref string, opts banger.VMLogs, raw bool) error {
	svc, err := a.connect(ctx, autoStart)
	if err != nil {
		return err
	}
	log, err := svc.VMLogs(ctx, ref, opts)
	if err != nil {
		return err
	}
	defer log.Close()
	if opts.Follow {
		defer a.tellStops(ctx, svc, ref)()
	}
	out := a.logWriter(raw)
	_, err = io.Copy(out, log)
	if ctx.Err() != nil {
		return exitStatus(exitInterrupted)
	}
	if err = errors.Join(err, out.Close()); err == nil && opts.Kind == banger.ConsoleLog && !opts.Follow {
		a.tell("services log to the journal: banger vm exec %s -- journalctl", ref)
	}
	return err
}

// tellStops tells a person, who would wait for more, each time the VM is stopped. The
// function that it returns ends that.
func (a *app) tellStops(ctx context.Context, svc service, ref string) (end func()) {
	vm, err := svc.ShowVM(ctx, ref)
	if err != nil || a.json {
		return func() {}
	}
	was := false
	tell := func(vm banger.VM) {
		is := vm.State == banger.Stopped && vm.Ending != banger.EndedReboot
		if is && !was {
			fmt.Fprintf(a.std.Err, "%s is stopped; waiting for its next start (Ctrl-C ends this)\n", clean(vm.Name))
		}
		was = is
	}
	tell(vm)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = follow(ctx, svc, func(e banger.Event) error { // without a daemon, the log breaks off too
			if e.VM != nil && e.VM.ID == vm.ID && !e.Gone {
				tell(*e.VM)
			}
			return nil
		})
	}()
	return func() {
		cancel()
		<-done
	}
}

// logWriter returns a writer of a log to stdout. Close writes what it still holds.
func (a *app) logWriter(raw bool) io.WriteCloser {
	var out io.WriteCloser = unclosed{a.std.Out}
	if a.json {
		out = &jsonLines{to: a.std.Out}
	}
	if raw {
		return out
	}
	out = &guestLines{to: out}
	return chain{&terminalWriter{to: out, plain: !a.std.OutTTY || a.json}, out}
}

type unclosed struct{ io.Writer }

func (unclosed) Close() error { return nil }

// chain is a writer before another one, which it closes as well.
type chain struct {
	io.WriteCloser
	next io.Closer
}

func (c chain) Close() error { return errors.Join(c.WriteCloser.Close(), c.next.Close()) }

// agentsLines are how the lines begin that the agent writes for the daemon.
var agentsLines = []string{wire.ConsoleBye, wire.ConsoleFailed, wire.ConsoleDisks}

// guestLines leaves out the lines of the agent. It holds the begin of a line as long as
// that may be one of them.
type guestLines struct {
	to     io.WriteCloser
	begin  []byte
	inside bool // of a line that is written
	hidden bool // the line is left out
}

func (g *guestLines) Write(p []byte) (int, error) {
	var out []byte
	for _, b := range p {
		switch {
		case g.hidden:
		case g.inside:
			out = append(out, b)
		default:
			g.begin = append(g.begin, b)
			is, may := agents(string(g.begin))
			if g.hidden, g.inside = is, !is && !may; g.inside {
				out = append(out, g.begin...)
			}
			if is || !may {
				g.begin = g.begin[:0]
			}
		}
		if b == '\n' {
			g.inside, g.hidden = false, false
		}
	}
	if _, err := g.to.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// agents reports whether a line that begins like this is one of the agent's, or may be.
func agents(begin string) (is, may bool) {
	for _, prefix := range agentsLines {
		is = is || strings.HasPrefix(begin, prefix)
		may = may || strings.HasPrefix(prefix, begin)
	}
	return is, may
}

func (g *guestLines) Close() error {
	_, err := g.to.Write(g.begin)
	return errors.Join(err, g.to.Close())
}

// jsonLines writes each line as a JSON object. One that is longer than maxLine is written
// in parts.
type jsonLines struct {
	to   io.Writer
	line []byte
}

const maxLine = 64 << 10

func (j *jsonLines) Write(p []byte) (int, error) {
	for _, b := range p {
		if b != '\n' {
			j.line = append(j.line, b)
		}
		if b == '\n' || len(j.line) == maxLine {
			if err := j.flush(); err != nil {
				return 0, err
			}
		}
	}
	return len(p), nil
}

func (j *jsonLines) flush() error {
	line := strings.TrimSuffix(string(j.line), "\r")
	j.line = j.line[:0]
	return json.NewEncoder(j.to).Encode(map[string]string{"line": line})
}

func (j *jsonLines) Close() error {
	if len(j.line) == 0 {
		return nil
	}
	return j.flush()
}
