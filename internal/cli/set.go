package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"banger"
)

func newSet(a *app) *cobra.Command {
	var opts banger.SetVM
	var ports []banger.Publish
	var noPorts bool
	cmd := a.forVMs("set", "Change the memory, vCPUs, disk sizes, driver and network of VMs", everyVM, notUndone, func(ctx context.Context, svc service, ref string, p *progress) (ended, error) {
		before, err := svc.ShowVM(ctx, ref)
		if err != nil {
			return ended{}, err
		}
		vm, err := svc.SetVM(ctx, ref, opts, p.event)
		return ended{vm, changes(before, vm)}, err
	})
	cmd.Long = "Change the memory, vCPUs, disk sizes, driver and network of VMs.\n" +
		"Disks and their file systems can grow, even while the VM runs, but not shrink.\n" +
		"The memory of a running VM can be lowered, and raised again to what it was started with;\n" +
		"`banger vm stats` shows how much its guest has given back. More memory, vCPUs and another\n" +
		"driver take a restart, which --apply allows, and so does --network. --nat and --no-nat take effect\n" +
		"at once. The disks stay the same with every driver."
	cmd.Example = "  banger vm set calm-otter --disk-size 32G\n  banger vm set calm-otter --memory 512\n  banger vm set calm-otter spare --memory 2048 --vcpu 4 --apply\n  banger vm set --all --disk-size 32G\n  banger vm set spare --driver qemu\n  banger vm set spare --no-nat"
	addResources(cmd.Flags(), &opts.VCPUs, &opts.Memory, &opts.Disk, &opts.Overlay)
	addDriver(cmd, &opts.Driver)
	addNetwork(cmd, &opts.Network, &opts.NAT, &opts.Isolated)
	addPorts(cmd.Flags(), &ports, "publish a port of the VM, in place of those published before; repeatable")
	cmd.Flags().BoolVar(&noPorts, "no-ports", false, "publish no port")
	cmd.Flags().BoolVar(&opts.Apply, "apply", false, "restart running VMs if the change needs it")
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if noPorts && len(ports) > 0 {
			return banger.Invalidf("leave out --port or --no-ports", "--port and --no-ports exclude each other")
		}
		if noPorts {
			ports = []banger.Publish{} // nil would be no change
		}
		if ports != nil {
			opts.Ports = &ports
		}
		if opts == (banger.SetVM{Apply: opts.Apply}) {
			return banger.Invalidf("give --memory, --vcpu, --disk-size, --overlay-size, --driver, --network, --nat, --isolated or --port", "nothing to change")
		}
		return nil
	}
	return cmd
}

// changes lists what is different about a VM after it was set.
func changes(before, now banger.VM) string {
	var list []string
	for _, c := range []struct {
		name        string
		before, now any
	}{
		{"memory", before.Memory, now.Memory}, {"vcpus", before.VCPUs, now.VCPUs}, {"disk", before.Disk, now.Disk},
		{"overlay", before.Overlay, now.Overlay}, {"driver", before.Driver, now.Driver},
		{"network", before.Network.Mode, now.Network.Mode}, {"nat", onOff(before.Network.NAT), onOff(now.Network.NAT)},
		{"ports", portsText(before.Ports), portsText(now.Ports)},
		{"isolated", onOff(before.Network.Isolated), onOff(now.Network.Isolated)},
	} {
		if c.before != c.now {
			list = append(list, fmt.Sprintf("%s %v -> %v", c.name, orNone(c.before), orNone(c.now)))
		}
	}
	if len(list) == 0 {
		return "nothing to change"
	}
	if before.State != banger.Stopped && before.BootID != now.BootID {
		list = append(list, "restarted")
	}
	return strings.Join(list, ", ")
}

func orNone(value any) any {
	if value == "" {
		return "none"
	}
	return value
}
