package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"io"

	"github.com/spf13/cobra"

	"banger"
)

func newLogs(a *app) *cobra.Command {
	opts := banger.VMLogs{Kind: banger.ConsoleLog}
	var vmm bool
	cmd := &cobra.Command{
		Use:               "logs NAME",
		Short:             "Print the console of a VM, or the log of its VMM",
		Long:              "Print the console of a VM, or the log of its VMM. Services log to the guest's journal:\n`banger vm exec NAME -- journalctl`. A terminal gets only text and colours; a pipe or a file gets\nevery byte that the guest wrote.",
		Example:           "  banger vm logs calm-otter\n  banger vm logs -f calm-otter\n  banger vm logs --vmm calm-otter",
		Args:              args(1, 1),
		ValidArgsFunction: a.firstVM,
		RunE: func(cmd *cobra.Command, args []string) error {
			if vmm {
				opts.Kind = banger.VMMLog
			}
			return a.runLogs(cmd.Context(), args[0], opts)
		},
	}
	cmd.Flags().BoolVarP(&opts.Follow, "follow", "f", false, "continue as the log grows, until Ctrl-C")
	cmd.Flags().BoolVar(&vmm, "vmm", false, "print the log of the VMM instead of the console")
	a.addJSON(cmd)
	return cmd
}

func (a *app) runLogs(ctx context.Context, ref string, opts banger.VMLogs) error {
	svc, err := a.connect(ctx, autoStart)
	if err != nil {
		return err
	}
	log, err := svc.VMLogs(ctx, ref, opts)
	if err != nil {
		return err
	}
	defer log.Close()
	out := a.std.Out
	if a.std.OutTTY {
		terminal := &terminalWriter{to: out}
		defer terminal.Close()
		out = terminal
	}
	if a.json {
		err = printLines(out, log)
	} else {
		_, err = io.Copy(out, log)
	}
	if ctx.Err() != nil {
		return exitStatus(exitInterrupted)
	}
	return err
}

// printLines prints each line as a JSON object. A line longer than the buffer is
// printed in parts.
func printLines(w io.Writer, log io.Reader) error {
	in := bufio.NewReaderSize(log, 64<<10)
	out := json.NewEncoder(w)
	for {
		line, _, err := in.ReadLine()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := out.Encode(map[string]string{"line": string(line)}); err != nil {
			return err
		}
	}
}
