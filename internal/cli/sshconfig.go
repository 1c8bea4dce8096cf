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
	var install, uninstall bool
	cmd := &cobra.Command{
		Use:   "ssh-config [--install | --uninstall | NAME...]",
		Short: "Let ssh, scp, rsync and editors reach VMs by name",
		Long: "With --install, ssh, scp, sftp, rsync and editors reach each VM as NAME.vm, also VMs that you create\n" +
			"later. It adds one line to the top of ~/.ssh/config, which includes a file of banger's own; --uninstall\n" +
			"removes both. Install it again after you moved banger or changed ssh_key_path.\n\n" +
			"Without these flags, print entries (Host NAME and NAME.vm) for these VMs, or for all, and change no\n" +
			"files. Print them again when you create or rename a VM.",
		Example:           "  banger vm ssh-config --install\n  banger vm ssh-config --uninstall\n  banger vm ssh-config >ssh_config\n  banger vm ssh-config calm-otter",
		ValidArgsFunction: a.vmNames,
		RunE: func(cmd *cobra.Command, names []string) error {
			switch {
			case install && uninstall:
				return banger.Invalidf("leave out one of them", "--install and --uninstall are opposites")
			case (install || uninstall) && len(names) > 0:
				return banger.Invalidf("leave out the names", "--install and --uninstall are about all VMs")
			case install:
				return a.installSSH()
			case uninstall:
				return a.uninstallSSH()
			}
			return a.runSSHConfig(cmd.Context(), names)
		},
	}
	cmd.Flags().BoolVar(&install, "install", false, "add all VMs to your ssh configuration")
	cmd.Flags().BoolVar(&uninstall, "uninstall", false, "remove them from it")
	return cmd
}

// runSSHConfig prints all entries or none: its output usually goes to a file.
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

// vmsNamed returns the VMs with these names, or all.
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

// stateElsewhere returns a prefix for commands that makes them find this state directory
// in an environment with only HOME, such as that of an editor. It is usually empty.
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
