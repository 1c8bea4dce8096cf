package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"banger"
	"banger/internal/config"
	"banger/internal/guest"
)

func newSSHConfig(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "ssh-config [NAME...]",
		Short: "Print what ssh, scp, rsync and editors need to reach VMs by name",
		Long: "Print entries for a configuration of ssh by which ssh, scp, sftp, rsync and editors reach VMs, as NAME and as\n" +
			"NAME.vm: those named, or all. No file of yours is touched. With them in ~/.ssh/banger, put `Include banger` first\n" +
			"in ~/.ssh/config, or give the file by -F: `rsync -a -e 'ssh -F ~/.ssh/banger' src/ NAME:src/`.\n" +
			"An entry lasts as long as its VM and that VM's name.",
		Example:           "  banger vm ssh-config >~/.ssh/banger\n  banger vm ssh-config calm-otter",
		ValidArgsFunction: a.vmNames,
		RunE: func(cmd *cobra.Command, names []string) error {
			return a.runSSHConfig(cmd.Context(), names)
		},
	}
}

// runSSHConfig prints all or nothing: its output is mostly on its way to a file.
func (a *app) runSSHConfig(ctx context.Context, names []string) error {
	vms, err := a.vmsNamed(ctx, names)
	if err != nil {
		return err
	}
	before, err := a.stateElsewhere()
	if err != nil {
		return err
	}
	var entries []string
	for _, vm := range vms {
		proxy, err := proxyCommand(vm, "--name", vm.Name)
		if err != nil {
			return err
		}
		entry, err := guest.SSHConfig(vm, append(before, proxy...))
		if err != nil {
			return fmt.Errorf("describe VM %q to ssh: %w", vm.Name, err)
		}
		entries = append(entries, entry)
	}
	_, err = fmt.Fprint(a.std.Out, strings.Join(entries, "\n"))
	return err
}

// vmsNamed are the VMs of these names, or all.
func (a *app) vmsNamed(ctx context.Context, names []string) ([]banger.VM, error) {
	svc, err := a.connect(ctx, autoStart)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return svc.ListVMs(ctx)
	}
	var vms []banger.VM
	for _, r := range each(ctx, names, svc.ShowVM) {
		if r.err != nil {
			return nil, r.err
		}
		vms = append(vms, r.value)
	}
	return vms, nil
}

// stateElsewhere is what makes a command find this state directory from
// surroundings that have only HOME, such as an editor's.
func (a *app) stateElsewhere() ([]string, error) {
	dirs, err := a.dirs()
	if err != nil {
		return nil, err
	}
	usual, err := config.DirsFrom(func(key string) string {
		if key != "HOME" {
			return ""
		}
		return a.std.Getenv(key)
	})
	if err == nil && usual.State == dirs.State {
		return nil, nil
	}
	return []string{"env", "BANGER_STATE_DIR=" + dirs.State}, nil
}
