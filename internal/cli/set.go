package cli

import (
	"context"

	"github.com/spf13/cobra"

	"banger"
)

func newSet(a *app) *cobra.Command {
	var opts banger.SetVM
	cmd := a.forVMs("set", "Change the memory, vCPUs, disk sizes and driver of VMs", everyVM, func(ctx context.Context, svc service, ref string, p banger.Progress) (banger.VM, error) {
		return svc.SetVM(ctx, ref, opts, p)
	})
	cmd.Long = "Change the memory, vCPUs, disk sizes and driver of VMs.\nDisks only grow, also while a VM runs, and their file systems with them.\nA VM keeps its disks whatever runs it.\nMemory can be lowered while a VM runs, and raised again to what it was started with: `banger vm\nstats` tells what its guest has given back. More memory, vCPUs and the driver of a running VM\nchange by a restart, which --apply allows."
	cmd.Example = "  banger vm set calm-otter --disk-size 32G\n  banger vm set calm-otter --memory 512\n  banger vm set calm-otter spare --memory 2048 --vcpu 4 --apply\n  banger vm set --all --disk-size 32G\n  banger vm set spare --driver qemu"
	flags := cmd.Flags()
	flags.IntVar(&opts.VCPUs, "vcpu", 0, "number of virtual CPUs")
	addSize(flags, &opts.Memory, "memory", banger.MiB, "memory; a bare number is MiB")
	addSize(flags, &opts.Disk, "disk-size", banger.GiB, "most that /root can grow to; a bare number is GiB")
	addSize(flags, &opts.Overlay, "overlay-size", banger.GiB, "most that changes to / can grow to; a bare number is GiB")
	addDriver(cmd, &opts.Driver, "")
	flags.BoolVar(&opts.Apply, "apply", false, "restart running VMs where that is needed")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if opts == (banger.SetVM{Apply: opts.Apply}) && !flags.Changed("vcpu") {
			return banger.Invalidf("give at least one of --memory, --vcpu, --disk-size, --overlay-size and --driver", "nothing is to be changed")
		}
		if flags.Changed("vcpu") && opts.VCPUs < 1 {
			return banger.Invalidf("give --vcpu a number from 1", "%d virtual CPUs are none", opts.VCPUs)
		}
		return nil
	}
	return cmd
}
