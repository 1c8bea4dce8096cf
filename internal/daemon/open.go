package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"banger"
	"banger/internal/bundle"
	"banger/internal/config"
	"banger/internal/hostcmd"
	"banger/internal/image"
	"banger/internal/store"
	"banger/internal/version"
	"banger/internal/vm"
	"banger/internal/vmm"
	"banger/internal/vmm/firecracker"
	"banger/internal/vmm/qemu"
)

// Std is the environment of the real daemon.
func Std() Env {
	return Env{Getenv: os.Getenv, Stdout: os.Stdout, Stderr: os.Stderr, Open: open, Drivers: drivers, Isolate: vmm.ThisHost().Isolate}
}

func drivers(c config.Config, bundled string) vmm.Drivers {
	return vmm.Drivers{
		firecracker.New(hostcmd.Host{}, firecracker.Places{Configured: c.FirecrackerBin, Bundled: bundled}),
		qemu.New(hostcmd.Host{}),
	}
}

// checkDriver refuses a configured driver that does not exist. Whether it works
// here is asked when a VM starts: a daemon without a usable driver still lists
// and deletes VMs.
func checkDriver(all vmm.Drivers, name string) error {
	if name == vmm.Auto {
		return nil
	}
	_, err := all.Named(name)
	if err != nil {
		return banger.Invalidf("set driver in config.toml, or BANGER_DRIVER, to one of "+all.Names(), "%v", err)
	}
	return nil
}

// open opens what the daemon serves: the database, what the bundle brings, and
// the VMs, which it reconciles.
func open(ctx context.Context, o Opening) (_ Parts, err error) {
	if err := checkDriver(o.Drivers(o.Config, ""), o.Config.Driver); err != nil {
		return Parts{}, err
	}
	s, err := store.Open(ctx, o.Dirs.DB())
	if err != nil {
		return Parts{}, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	b, installed, missing, err := install(ctx, o, s)
	if err != nil {
		return Parts{}, err
	}
	images := &image.Images{Dirs: o.Dirs, Store: s, Log: o.Log, Bundled: installed.Image.Name}
	if err := images.Sweep(ctx); err != nil {
		o.Log.Warn("remove what images left", "err", err)
	}
	var bundled string
	if installed.Firecracker != "" {
		bundled = o.Dirs.Firecracker(installed.Firecracker)
	}
	all := o.Drivers(o.Config, bundled)
	vms, err := vm.Open(ctx, vm.Host{
		Dirs: o.Dirs, Config: o.Config, Store: s, Drivers: all, Bundle: b, Installed: installed, Missing: missing,
		Isolate: o.Isolate, Run: hostcmd.Host{}, Log: o.Log, Program: "bangerd " + version.Version,
	})
	if err != nil {
		return Parts{}, fmt.Errorf("open the VMs: %w", err)
	}
	return Parts{
		VMs: vms, Driver: func(ctx context.Context) string { return nameOf(ctx, all, o.Config.Driver) }, Running: vms.Running, Images: s.Images, Kernels: s.Kernels,
		Import: images.Import, DeleteImage: images.Delete,
		Close: func() error {
			vms.Close()
			return s.Close()
		},
	}, nil
}

// nameOf is the name of the driver that new VMs get: also of one that does not work.
func nameOf(ctx context.Context, all vmm.Drivers, wanted string) string {
	driver, _, _ := all.Choose(ctx, wanted)
	return driver.Name()
}

// install opens the bundle and puts on record what it has. A bundle that is
// missing or broken is logged and no more: VMs that exist do not need it, and
// `vm create` says what it misses, and why.
func install(ctx context.Context, o Opening, s *store.Store) (_ *bundle.Bundle, _ bundle.Installed, missing, err error) {
	b, missing := bundle.Open(o.Config.Bundle())
	if missing != nil {
		o.Log.Warn("no runtime bundle", "err", missing, "fix", banger.FixOf(missing))
		return nil, bundle.Installed{}, missing, nil
	}
	installed, missing := bundle.Install(ctx, b, o.Dirs)
	if ctx.Err() != nil {
		return b, installed, missing, ctx.Err()
	}
	if missing != nil {
		o.Log.Error("install the runtime bundle", "err", missing, "fix", banger.FixOf(missing))
	}
	return b, installed, missing, register(ctx, s, installed, o.Log)
}

func register(ctx context.Context, s *store.Store, installed bundle.Installed, log *slog.Logger) error {
	if image := installed.Image; image.ID != "" {
		if err := s.PutImage(ctx, image); err != nil {
			return err
		}
		log.Debug("image", "name", image.Name, "digest", image.ID)
	}
	if kernel := installed.Kernel; kernel.ID != "" {
		if err := s.PutKernel(ctx, kernel); err != nil {
			return err
		}
		log.Debug("kernel", "name", kernel.Name, "digest", kernel.ID)
	}
	return nil
}
