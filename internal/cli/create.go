package cli

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"banger"
)

// sizeFlag is a banger.Size on the command line.
type sizeFlag struct {
	to   *banger.Size
	bare banger.Size // the unit of a number without one
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

// countFlag is a number of at least 1 on the command line; 0 means that it is not set.
type countFlag struct{ to *int }

func (f countFlag) Set(text string) error {
	n, err := strconv.Atoi(text)
	if err != nil {
		return banger.Invalidf("give a number of at least 1", "%q is not a number", text)
	}
	if n < 1 {
		return banger.Invalidf("give a number of at least 1", "must be at least 1")
	}
	*f.to = n
	return nil
}

func (f countFlag) String() string {
	if f.to == nil || *f.to == 0 {
		return ""
	}
	return strconv.Itoa(*f.to)
}

func (f countFlag) Type() string { return "number" }

// addSpec adds the flags that describe a new VM.
func addSpec(a *app, cmd *cobra.Command, spec *banger.CreateVM) {
	flags := cmd.Flags()
	flags.StringVar(&spec.Name, "name", "", "name of the VM, also its host name (default: a made-up name)")
	flags.StringVar(&spec.Image, "image", "", "image to create the VM from, or its name in a registry, such as debian:trixie: it is pulled when missing")
	addResources(flags, &spec.VCPUs, &spec.Memory, &spec.Disk, &spec.Overlay)
	addDriver(cmd, &spec.Driver)
	addNetwork(cmd, &spec.Network, &spec.NAT, &spec.Isolated)
	addPorts(flags, &spec.Ports, "publish a port of the VM, such as 8080:80 for port 80 at localhost:8080, or 0.0.0.0:8080:80 for other hosts as well; repeatable")
	_ = cmd.RegisterFlagCompletionFunc("image", completeThings(a, service.ListImages))
	_ = cmd.RegisterFlagCompletionFunc("name", cobra.NoFileCompletions)
	help := cmd.HelpFunc()
	cmd.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		a.addDefaults(flags)
		help(cmd, args)
	})
}

// addDefaults adds the configured defaults to the usage of flags. It adds none if the
// configuration cannot be read.
func (a *app) addDefaults(flags *pflag.FlagSet) {
	c, err := a.config()
	if err != nil {
		return
	}
	vcpus := "depends on the host"
	if c.VCPUs > 0 {
		vcpus = strconv.Itoa(c.VCPUs)
	}
	for name, value := range map[string]string{"image": c.DefaultImage, "vcpu": vcpus, "driver": c.Driver, "network": c.Network,
		"memory": c.Memory.String(), "disk-size": c.Disk.String(), "overlay-size": c.Overlay.String()} {
		flags.Lookup(name).Usage += " (default " + value + ")"
	}
}

// addResources adds the flags that create and set have in common.
func addResources(flags *pflag.FlagSet, vcpus *int, memory, disk, overlay *banger.Size) {
	flags.Var(countFlag{vcpus}, "vcpu", "number of virtual CPUs")
	flags.Var(sizeFlag{memory, banger.MiB}, "memory", "memory; a bare number is MiB")
	flags.Var(sizeFlag{disk, banger.GiB}, "disk-size", "size of /root, not of packages and Docker (--overlay-size); a bare number is GiB")
	flags.Var(sizeFlag{overlay, banger.GiB}, "overlay-size", "size of / beyond the image: packages, Docker, everything outside /root; a bare number is GiB")
}

func addDriver(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "driver", "", "what runs the VM: firecracker, qemu, or auto for the first that works on this host")
	_ = cmd.RegisterFlagCompletionFunc("driver", cobra.FixedCompletions([]string{"auto", "firecracker", "qemu"}, cobra.ShellCompDirectiveNoFileComp))
}

func newCreate(a *app) *cobra.Command {
	var spec banger.CreateVM
	var wait waitFlag
	cmd := &cobra.Command{
		Use:     "create",
		Short:   "Create a VM and start it",
		Long:    "Create a VM and start it. It stays until `banger vm delete`.\nIf anything fails, nothing is left behind.",
		Example: "  banger vm create\n  banger vm create --name calm-otter --memory 2048 --disk-size 16G\n  banger vm create --image box\n  banger vm create --image debian:trixie\n  banger vm create --driver firecracker\n  banger vm create --name spare --no-start --json",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return banger.Invalidf(cmd.CommandPath()+" --name "+args[0], "the name of the VM is not an argument")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.runCreate(cmd.Context(), spec, wait)
		},
	}
	addSpec(a, cmd, &spec)
	cmd.Flags().BoolVar(&spec.NoStart, "no-start", false, "create it without starting it")
	addWait(cmd, &wait)
	a.addJSON(cmd)
	return cmd
}

func (a *app) runCreate(ctx context.Context, spec banger.CreateVM, wait waitFlag) error {
	if spec.NoStart && wait.milestone != "" {
		return banger.Invalidf("leave out --no-start or --wait", "--no-start and --wait exclude each other")
	}
	began := time.Now()
	vm, svc, err := a.create(ctx, spec)
	if err != nil {
		return err
	}
	p := a.newProgress(staysUp)
	vm, err = wait.wait(ctx, svc, vm, p)
	p.close()
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(vm)
	}
	text, verb := a.stateText(vm, time.Since(began)), "ssh"
	if spec.NoStart {
		text, verb = "created, not started", "start"
	}
	if err := a.say(vm.Name, text); err != nil {
		return err
	}
	a.tell("disks: / %v (packages, Docker), /root %v", vm.Overlay, vm.Disk)
	a.hint("banger vm %s %s", verb, vm.Name)
	return nil
}

func (a *app) create(ctx context.Context, spec banger.CreateVM) (banger.VM, service, error) {
	if spec.Name != "" {
		if err := banger.CheckName(spec.Name); err != nil {
			return banger.VM{}, nil, err
		}
	}
	svc, err := a.connect(ctx, autoStart)
	if err != nil {
		return banger.VM{}, nil, err
	}
	p := a.newProgress(undone)
	vm, err := svc.CreateVM(ctx, spec, p.event)
	p.close()
	return vm, svc, err
}

// say prints the result of an operation on a VM or an image.
func (a *app) say(name, text string) error {
	_, err := fmt.Fprintf(a.std.Out, "%s: %s\n", name, text)
	return err
}

// stateText returns a VM's state and, on a terminal, the time it took to get there.
func (a *app) stateText(vm banger.VM, took time.Duration) string {
	if vm.State == banger.Booting && a.std.OutTTY {
		return "ssh works after " + seconds(took) + "; services are still starting"
	}
	return string(vm.State) + a.took(" after ", took)
}

// took returns how long an operation took, or nothing without a terminal.
func (a *app) took(before string, took time.Duration) string {
	if !a.std.OutTTY {
		return ""
	}
	return before + seconds(took)
}

// hint suggests the next command, on a terminal. In a recipe of make the next one comes
// by itself.
func (a *app) hint(format string, args ...any) {
	if a.std.Getenv("MAKELEVEL") == "" {
		a.tell("next: "+format, args...)
	}
}

// tell tells a person more, on a terminal.
func (a *app) tell(format string, args ...any) {
	if a.std.ErrTTY && !a.json {
		fmt.Fprintf(a.std.Err, format+"\n", args...)
	}
}
