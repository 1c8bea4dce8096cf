package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"banger"
	"banger/internal/api"
	"banger/internal/doctor"
	"banger/internal/hostcmd"
	"banger/internal/vmm/firecracker"
)

type doctorOptions struct {
	preflight bool
	packages  bool
}

func newDoctor(a *app) *cobra.Command {
	var opts doctorOptions
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check whether this host has what VMs need",
		Long: "Check whether this host has what VMs need. It changes nothing and needs no daemon.\n" +
			"Whatever is missing comes with a command that fixes it. The exit code is 5 if VMs cannot run.",
		Example: "  banger doctor\n  banger doctor --json\n  banger doctor --preflight",
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.runDoctor(cmd.Context(), opts)
		},
	}
	cmd.Flags().BoolVar(&opts.preflight, "preflight", false, "check what is needed to build banger and its runtime from source")
	cmd.Flags().BoolVar(&opts.packages, "packages", false, "print only the names of missing Debian packages")
	a.addJSON(cmd)
	return cmd
}

func (a *app) runDoctor(ctx context.Context, opts doctorOptions) error {
	host, err := a.host(opts.preflight)
	if err != nil {
		return err
	}
	checks := doctor.Run(ctx, host)
	ready := doctor.Ready(checks)
	switch {
	case a.json:
		err = a.printJSON(map[string]any{"ready": ready, "checks": checks})
	case opts.packages:
		for _, c := range checks {
			if c.Package != "" && c.State == doctor.Missing {
				fmt.Fprintln(a.std.Out, c.Package)
			}
		}
	default:
		err = a.printChecks(checks)
	}
	if err == nil && !ready {
		err = exitStatus(exitCodes[banger.Unready])
	}
	return err
}

func (a *app) host(preflight bool) (doctor.Host, error) {
	dirs, err := a.dirs()
	if err != nil {
		return doctor.Host{}, err
	}
	cfg, err := a.config()
	if err != nil {
		return doctor.Host{}, err
	}
	driver := firecracker.New(hostcmd.Host{}, firecracker.Places{Configured: cfg.FirecrackerBin, Bundled: cfg.Bundle().Firecracker()})
	if preflight {
		return doctor.ThisHost(doctor.ToBuild, dirs, cfg, driver, nil), nil
	}
	host := doctor.ThisHost(doctor.ToRun, dirs, cfg, driver, func(ctx context.Context) (banger.Daemon, error) {
		svc, err := a.connect(ctx, noStart)
		if err != nil {
			return banger.Daemon{}, err
		}
		return svc.Daemon(ctx)
	})
	host.Offer = doctor.AskBangerd(host.Runner, dirs.State, api.Program)
	return host, nil
}

// printChecks prints the table, the fixes below it, and the verdict.
func (a *app) printChecks(checks []doctor.Check) error {
	var rows [][]string
	for _, c := range checks {
		rows = append(rows, []string{string(c.State), c.Name, clean(c.Detail)})
	}
	if err := table(a.std.Out, rows); err != nil {
		return err
	}
	for _, c := range checks {
		if c.Fix != "" {
			fmt.Fprintf(a.std.Out, "\n%s: %s\n  %s\n", c.State, c.Name, clean(c.Fix))
		}
	}
	_, err := fmt.Fprintf(a.std.Out, "\n%s\n", doctor.Verdict(checks))
	return err
}
