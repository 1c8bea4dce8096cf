package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"banger"
)

func newDaemon(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "daemon",
		Short:   "Look at the daemon, or stop it",
		Long:    "The daemon owns the VMs. It starts by itself, and VMs keep running when it stops.",
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
		Long:    "Print the daemon's pid, socket and log. It does not start one: when none runs, the exit code is 3.",
		Example: "  banger daemon status\n  banger daemon status --json",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.runDaemonStatus(cmd.Context()) },
	}
	a.addJSON(cmd)
	return cmd
}

func (a *app) runDaemonStatus(ctx context.Context) error {
	svc, err := a.connect(ctx, noStart)
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
		Long:    "Print the path of the daemon's socket: of the one that runs, else where the next one will listen.",
		Example: "  banger daemon socket",
		Args:    cobra.NoArgs,
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
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.runDaemonStop(cmd.Context()) },
	}
	a.addJSON(cmd)
	return cmd
}

func (a *app) runDaemonStop(ctx context.Context) error {
	svc, err := a.connect(ctx, noStart)
	switch {
	case banger.KindOf(err) == banger.NotFound: // it is stopped already
	case err != nil:
		return err
	default:
		if err := svc.StopDaemon(ctx); err != nil {
			return err
		}
	}
	if a.json {
		return a.printJSON(map[string]bool{"stopped": true})
	}
	_, err = fmt.Fprintln(a.std.Out, "daemon: stopped")
	return err
}
