package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"banger"
)

// sizeFlag is a banger.Size on the command line.
type sizeFlag struct {
	to   *banger.Size
	bare banger.Size // what a number without a unit counts in
}

func (f sizeFlag) Set(text string) (err error) {
	*f.to, err = banger.ParseSize(text, f.bare)
	return err
}

func (f sizeFlag) String() string {
	if f.to == nil || *f.to == 0 {
		return ""
	}
	return f.to.String()
}

func (f sizeFlag) Type() string { return "size" }

func addSpec(a *app, cmd *cobra.Command, spec *banger.CreateVM) {
	flags := cmd.Flags()
	flags.StringVar(&spec.Name, "name", "", "name of the VM, a host name (default: one is made up)")
	flags.StringVar(&spec.Image, "image", "", "image to make it from (default: docker)")
	flags.IntVar(&spec.VCPUs, "vcpu", 0, "number of virtual CPUs (default: what suits the host)")
	addSize(flags, &spec.Memory, "memory", banger.MiB, "memory; a bare number is MiB (default: 1G)")
	addSize(flags, &spec.Disk, "disk-size", banger.GiB, "most that /root can grow to; a bare number is GiB (default: 16G)")
	addSize(flags, &spec.Overlay, "overlay-size", banger.GiB, "most that changes to / can grow to; a bare number is GiB (default: 8G)")
	addDriver(cmd, &spec.Driver, " (default: what config.toml says, else auto)")
	_ = cmd.RegisterFlagCompletionFunc("image", a.imageNames)
	_ = cmd.RegisterFlagCompletionFunc("name", cobra.NoFileCompletions)
}

func addDriver(cmd *cobra.Command, to *string, more string) {
	cmd.Flags().StringVar(to, "driver", "", "what runs the VM: firecracker, qemu, or auto for the first that works here"+more)
	_ = cmd.RegisterFlagCompletionFunc("driver", cobra.FixedCompletions([]string{"auto", "firecracker", "qemu"}, cobra.ShellCompDirectiveNoFileComp))
}

func addSize(flags *pflag.FlagSet, to *banger.Size, name string, bare banger.Size, usage string) {
	flags.Var(sizeFlag{to, bare}, name, usage)
}

// checkSpec refuses at once what the daemon would refuse too.
func checkSpec(spec banger.CreateVM) error {
	if spec.VCPUs < 0 {
		return banger.Invalidf("give --vcpu a number from 1", "%d virtual CPUs are none", spec.VCPUs)
	}
	if spec.Name == "" {
		return nil
	}
	return banger.CheckName(spec.Name)
}

func newCreate(a *app) *cobra.Command {
	var spec banger.CreateVM
	var wait waitFlag
	cmd := &cobra.Command{
		Use:     "create",
		Short:   "Make a VM and start it",
		Long:    "Make a VM and start it. It is there until `banger vm delete`.\nWhen anything fails, nothing is left behind.",
		Example: "  banger vm create\n  banger vm create --name calm-otter --memory 2048 --disk-size 16G\n  banger vm create --image box\n  banger vm create --driver firecracker\n  banger vm create --name spare --no-start --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.runCreate(cmd.Context(), spec, wait)
		},
	}
	addSpec(a, cmd, &spec)
	cmd.Flags().BoolVar(&spec.NoStart, "no-start", false, "only make it")
	addWait(cmd, &wait)
	a.addJSON(cmd)
	return cmd
}

func (a *app) runCreate(ctx context.Context, spec banger.CreateVM, wait waitFlag) error {
	if spec.NoStart && wait.milestone != "" {
		return banger.Invalidf("leave one of them out", "--no-start and --wait exclude each other")
	}
	began := time.Now()
	vm, svc, err := a.create(ctx, spec)
	if err != nil {
		return err
	}
	p := a.newProgress()
	vm, err = wait.wait(ctx, svc, vm, p.event)
	p.close()
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(vm)
	}
	a.printState(vm, time.Since(began))
	verb := "ssh"
	if vm.State != banger.Running {
		verb = "start"
	}
	a.hint("banger vm %s %s", verb, vm.Name)
	return nil
}

func (a *app) create(ctx context.Context, spec banger.CreateVM) (banger.VM, service, error) {
	if err := checkSpec(spec); err != nil {
		return banger.VM{}, nil, err
	}
	svc, err := a.connect(ctx, autoStart)
	if err != nil {
		return banger.VM{}, nil, err
	}
	p := a.newProgress()
	vm, err := svc.CreateVM(ctx, spec, p.event)
	p.close()
	return vm, svc, err
}

// printState prints the line a VM's operation ends with.
func (a *app) printState(vm banger.VM, took time.Duration) error {
	_, err := fmt.Fprintf(a.std.Out, "%s: %s%s\n", vm.Name, vm.State, a.after(took))
	return err
}

// after tells a person, and no script, how long it took.
func (a *app) after(took time.Duration) string {
	if !a.std.OutTTY {
		return ""
	}
	return " after " + seconds(took)
}

// hint tells a person what to do next.
func (a *app) hint(format string, args ...any) {
	if a.std.ErrTTY && !a.json {
		fmt.Fprintf(a.std.Err, "next: "+format+"\n", args...)
	}
}
