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
	"banger/internal/event"
	"banger/internal/hostcmd"
	"banger/internal/image"
	"banger/internal/image/build"
	"banger/internal/network/helper"
	"banger/internal/network/instance"
	"banger/internal/network/resolved"
	"banger/internal/oci/registry"
	"banger/internal/oci/registry/blob"
	"banger/internal/operation"
	"banger/internal/store"
	"banger/internal/version"
	"banger/internal/vm"
	"banger/internal/vmm"
	"banger/internal/vmm/firecracker"
	"banger/internal/vmm/process"
	"banger/internal/vmm/qemu"
)

// Std returns the environment of the real daemon.
func Std() Env {
	return Env{Getenv: os.Getenv, Stdout: os.Stdout, Stderr: os.Stderr, Open: open, Drivers: drivers, Network: openNetwork, Isolate: process.ThisHost().Isolate}
}

func drivers(c config.Config, bundled string) vmm.Drivers {
	return vmm.Drivers{
		firecracker.New(hostcmd.Host{}, firecracker.Places{Configured: c.FirecrackerBin, Bundled: bundled}),
		qemu.New(hostcmd.Host{}),
	}
}

// checkDriver refuses a configured driver that does not exist. It does not check that
// the driver works: a daemon without a usable driver still lists and deletes VMs.
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

// open opens the database, installs the bundle, and opens the images and the VMs.
func open(ctx context.Context, env Env, dirs config.Dirs, c config.Config, log *slog.Logger) (_ Services, err error) {
	if err := checkDriver(env.Drivers(c, ""), c.Driver); err != nil {
		return Services{}, err
	}
	s, err := store.Open(ctx, dirs.DB())
	if err != nil {
		return Services{}, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	b, installed, missing, err := install(ctx, dirs, c, s, log)
	if err != nil {
		return Services{}, err
	}
	hub := event.NewHub()
	operations := newOperations(hub, log)
	images := &image.Images{Dirs: dirs, Store: s, Log: log, Run: hostcmd.Host{}, Operations: operations, Events: hub, Bundled: installed.Image.Name, Installed: installed,
		Registry: &registry.Client{Blobs: blob.Cache{Dir: dirs.Blobs()}, Mirrors: c.Mirrors, Getenv: env.Getenv}}
	if err := images.Open(ctx); err != nil {
		log.Warn("remove leftovers of images", "err", err)
	}
	var bundled string
	if installed.Firecracker != "" {
		bundled = dirs.Firecracker(installed.Firecracker)
	}
	all := env.Drivers(c, bundled)
	connected, disconnect, err := connect(ctx, env, dirs, s, log)
	if err != nil {
		return Services{}, err
	}
	vms, err := vm.Open(ctx, vm.Env{
		Dirs: dirs, Config: c, Store: s, Drivers: all, Bundle: b, Installed: installed, Missing: missing, Operations: operations, Events: hub,
		Pull: images.Pulled, Network: connected, Isolate: env.Isolate, Run: hostcmd.Host{}, Log: log, Program: "bangerd " + version.Version,
	})
	if err != nil {
		return Services{}, fmt.Errorf("open the VMs: %w", err)
	}
	builds := &build.Builder{Dirs: dirs, Config: c, Images: images, VMs: vms, Operations: operations, Log: log}
	return Services{VMs: vms, Network: vms, Images: images, Builds: builds, Events: hub, Drivers: all, Close: func() error {
		vms.Close()
		return errors.Join(disconnect(), s.Close())
	}}, nil
}

// connect opens the network, if the daemon has one, and returns what closes it.
func connect(ctx context.Context, env Env, dirs config.Dirs, s *store.Store, log *slog.Logger) (vm.Network, func() error, error) {
	if env.Network == nil {
		return vm.NoNetwork{Reason: errors.New("this daemon connects no VMs")}, func() error { return nil }, nil
	}
	n, err := env.Network(ctx, dirs, s, log)
	if err != nil {
		return nil, nil, err
	}
	return n, n.Close, nil
}

// openNetwork opens the network of this host's daemon.
func openNetwork(ctx context.Context, dirs config.Dirs, s *store.Store, log *slog.Logger) (*instance.Network, error) {
	host := process.ThisHost()
	return instance.Open(ctx, instance.Config{Dirs: dirs, Subnet: s.Subnet, Record: s.SetSubnet, Owner: host.Owner, Account: func() (process.Account, error) { return host.Account(helper.Role) }, Root: host.Root, Host: resolved.Host(), Log: log})
}

// newOperations returns the host of all operations, which publishes their steps.
func newOperations(hub *event.Hub, log *slog.Logger) *operation.Runner {
	operations := &operation.Runner{Log: log, Publish: func(o banger.Operation) {
		hub.Publish(banger.Event{Kind: banger.EventOperation, Operation: &o})
	}}
	hub.Add(func(context.Context) (all []banger.Event, _ error) {
		operations.Running(func(running []banger.Operation) {
			for _, o := range running {
				all = append(all, banger.Event{Seq: hub.Seq(), Time: o.BeganAt, Kind: banger.EventOperation, Operation: &o})
			}
		})
		return all, nil
	})
	return operations
}

// install opens the bundle and records its image and its kernel. A bundle that is
// missing or broken is only logged: existing VMs do not need it, and `vm create`
// returns the reason.
func install(ctx context.Context, dirs config.Dirs, c config.Config, s *store.Store, log *slog.Logger) (_ *bundle.Bundle, _ bundle.Installed, missing, err error) {
	b, missing := bundle.Open(c.Bundle())
	if missing != nil {
		log.Warn("no runtime bundle", "err", missing, "fix", banger.FixOf(missing))
		return nil, bundle.Installed{}, missing, nil
	}
	installed, missing := bundle.Install(ctx, b, dirs)
	if ctx.Err() != nil {
		return b, installed, missing, ctx.Err()
	}
	if missing != nil {
		log.Error("install the runtime bundle", "err", missing, "fix", banger.FixOf(missing))
	}
	return b, installed, missing, register(ctx, s, installed, log)
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
