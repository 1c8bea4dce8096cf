package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"banger"
)

func newDaemon(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "daemon",
		Short:   "Show or stop the daemon",
		Long:    "The daemon owns the VMs. It starts when a command needs it, and VMs keep running when it stops.",
		Example: "  banger daemon status",
		RunE:    group,
	}
	cmd.AddCommand(newDaemonStatus(a), newDaemonSocket(a), newDaemonStop(a))
	return cmd
}

func newDaemonStatus(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "Print the daemon's pid, socket and log",
		Long:    "Print the daemon's pid, socket and log. It does not start the daemon; the exit code is 3 if it is not running.",
		Example: "  banger daemon status\n  banger daemon status --json",
		Args:    args(0, 0),
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.runDaemonStatus(cmd.Context()) },
	}
	a.addJSON(cmd)
	return cmd
}

func (a *app) runDaemonStatus(ctx context.Context) error {
	svc, err := a.connect(ctx, noStart)
	if banger.KindOf(err) == banger.NotFound {
		err = &banger.Error{Kind: banger.NotFound, Why: errors.New("the daemon is not running"), Fix: "banger vm list, which starts it"}
	}
	if err != nil {
		return err
	}
	d, err := svc.Daemon(ctx)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(d)
	}
	return table(a.std.Out, [][]string{
		{"pid", fmt.Sprint(d.PID)},
		{"version", d.Version},
		{"socket", d.Socket},
		{"log", d.Log},
		{"state", d.State},
		{"runtime", d.Runtime},
		{"driver", d.Driver},
		{"running VMs", fmt.Sprint(d.Running)},
	})
}

func newDaemonSocket(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "socket",
		Short:   "Print the path of the daemon's socket",
		Long:    "Print the path of the socket on which the daemon listens, or would listen if it were running.",
		Example: "  banger daemon socket",
		Args:    args(0, 0),
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.runDaemonSocket(cmd.Context()) },
	}
	a.addJSON(cmd)
	return cmd
}

func (a *app) runDaemonSocket(ctx context.Context) error {
	dirs, err := a.dirs()
	if err != nil {
		return err
	}
	socket := dirs.Socket()
	if svc, err := a.connect(ctx, noStart); err == nil {
		d, err := svc.Daemon(ctx)
		if err != nil {
			return err
		}
		socket = d.Socket
	}
	if a.json {
		return a.printJSON(map[string]string{"socket": socket})
	}
	_, err = fmt.Fprintln(a.std.Out, socket)
	return err
}

func newDaemonStop(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "stop",
		Short:   "Stop the daemon; VMs keep running",
		Example: "  banger daemon stop",
		Args:    args(0, 0),
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.runDaemonStop(cmd.Context()) },
	}
	a.addJSON(cmd)
	return cmd
}

func (a *app) runDaemonStop(ctx context.Context) error {
	svc, err := a.connect(ctx, noStart)
	text := "daemon: stopped"
	if banger.KindOf(err) == banger.NotFound {
		text, err = "daemon: not running", nil
	} else if err == nil {
		err = svc.StopDaemon(ctx)
	}
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(map[string]bool{"stopped": true})
	}
	_, err = fmt.Fprintln(a.std.Out, text)
	return err
}
