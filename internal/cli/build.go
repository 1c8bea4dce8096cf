package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

type buildOptions struct {
	packages, script string
	args, secrets    []string
	keep             bool
}

func newBuild(a *app) *cobra.Command {
	var spec banger.BuildImage
	var opts buildOptions
	cmd := &cobra.Command{
		Use:   "build NAME",
		Short: "Build an image from another one, packages and a script",
		Long: "Build an image in a VM of its own, which is deleted afterwards. In the VM, packages are installed, then\n" +
			"Docker, and then the script runs as root. Host keys, logs and other files that belong to one machine\n" +
			"are left out. If nothing has changed since the image was built, nothing is done; if something has,\n" +
			"NAME is the new image, and VMs keep the one that they were created from.\n\n" +
			"All output is in image-build/NAME.log in the state directory. If the build fails or is interrupted,\n" +
			"nothing else is left. The script finds the packages' list in $BANGER_RUNTIME_DIR/packages.apt, room for\n" +
			"what is not to stay in $BANGER_STATE_DIR, and secrets as files in /run/secrets; all three are in memory\n" +
			"and never in the image.",
		Example: "  banger image build tools --packages 'ripgrep jq'\n  banger image build docker-dev --docker --packages packages.apt\n" +
			"  banger image build app --from tools --script setup.sh --build-arg VERSION=2 --secret id=token,src=token.txt",
		Args:              args(1, 1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, names []string) error {
			configured := !cmd.Flags().Changed("script")
			return a.runBuild(cmd.Context(), names[0], spec, opts, configured)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&spec.From, "from", "", "image to begin with (default: that of new VMs)")
	flags.StringVar(&opts.packages, "packages", "", "packages to install: a file with one a line, or their names with spaces between")
	flags.StringVar(&opts.script, "script", "", "program to run in the VM; - is standard input (default: customize_script of config.toml)")
	flags.BoolVar(&spec.Docker, "docker", false, "install Docker")
	flags.StringArrayVar(&opts.args, "build-arg", nil, "set NAME=value for the script, or pass on NAME from this environment; repeatable")
	flags.StringArrayVar(&opts.secrets, "secret", nil, "a secret for the script: id=NAME,src=FILE or id=NAME,env=VARIABLE; repeatable")
	flags.Var(sizeFlag{&spec.Size, banger.GiB}, "size", "space for the build beyond the image; a bare number is GiB (default: overlay_size of config.toml)")
	flags.Var(sizeFlag{&spec.Memory, banger.MiB}, "memory", "memory of the VM; a bare number is MiB")
	flags.Var(countFlag{&spec.VCPUs}, "vcpu", "number of virtual CPUs of the VM")
	flags.BoolVar(&spec.Rebuild, "rebuild", false, "build also if nothing has changed, as for newer versions of packages")
	flags.BoolVar(&opts.keep, "keep", false, "if a program of the build fails, open a shell in the VM first")
	_ = cmd.RegisterFlagCompletionFunc("from", completeThings(a, service.ListImages))
	for _, name := range []string{"build-arg", "secret"} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	a.addJSON(cmd)
	return cmd
}

func (a *app) runBuild(ctx context.Context, name string, spec banger.BuildImage, opts buildOptions, configured bool) (err error) {
	if err := banger.CheckImageName(name); err != nil {
		return err
	}
	if configured {
		if c, err := a.config(); err == nil {
			opts.script = c.CustomizeScript
		}
	}
	if err := a.readInputs(&spec, opts); err != nil {
		return err
	}
	if opts.keep && (!a.std.InTTY || a.json) {
		return banger.Invalidf("leave out --keep", "--keep opens a shell, which needs a terminal")
	}
	svc, err := a.connect(ctx, autoStart)
	if err != nil {
		return err
	}
	if opts.keep {
		lease, err := a.takeLease()
		if err != nil {
			return err
		}
		defer lease.Drop()
		spec.Keep, spec.VM = lease.Name, "build-"+lease.Name[:8]
	}
	began := time.Now()
	p := a.newProgress(undone)
	built, err := svc.BuildImage(ctx, name, spec, p.event)
	p.close()
	if err != nil {
		if opts.keep && ctx.Err() == nil {
			return a.shellOfFailed(ctx, svc, spec.VM, err)
		}
		return err
	}
	return a.showBuilt(built, time.Since(began))
}

func (a *app) showBuilt(built banger.BuiltImage, took time.Duration) error {
	if a.json {
		return a.printJSON(built)
	}
	text := "built " + built.Image.Size.String() + a.took(" in ", took)
	if built.Unchanged {
		text = "unchanged"
	}
	if err := a.say(built.Image.Name, text); err != nil {
		return err
	}
	a.hint("banger vm create --image %s", built.Image.Name)
	return nil
}

// shellOfFailed opens a shell in the VM of a build that has failed, if it is still there, and
// deletes it afterwards.
func (a *app) shellOfFailed(ctx context.Context, svc service, name string, failed error) error {
	vm, err := svc.ShowVM(ctx, name)
	if err != nil {
		return failed
	}
	a.report(failed)
	a.tell("this is a shell in the VM of the build; exit deletes it")
	if err := a.shell(ctx, vm); err != nil && banger.KindOf(err) == banger.Unready {
		a.report(err)
	}
	p := a.newProgress(notUndone)
	err = svc.DeleteVM(context.WithoutCancel(ctx), string(vm.ID), banger.DeleteVM{Force: true}, p.event)
	p.close()
	if err != nil {
		return err
	}
	return exitStatus(ExitCode(failed))
}
