package daemon

import (
	"context"
	"iter"
	"os"

	"banger"
	"banger/internal/version"
)

// host implements banger.HostService.
type host struct {
	d        *daemon
	services Services
}

var _ banger.HostService = (*host)(nil)

// Daemon implements banger.HostService.
func (h *host) Daemon(ctx context.Context) (banger.Daemon, error) {
	h.d.mu.Lock()
	socket := h.d.socket.path
	h.d.mu.Unlock()
	vms, err := h.services.VMs.SummarizeVMs(ctx)
	if err != nil {
		return banger.Daemon{}, err
	}
	running := 0
	for _, vm := range vms {
		if vm.State != banger.Stopped {
			running++
		}
	}
	return banger.Daemon{
		PID: os.Getpid(), Version: version.Version,
		Socket: socket, Log: h.d.dirs.Log(), State: h.d.dirs.State, Runtime: h.d.config.RuntimeDir,
		Driver: h.driver(ctx), Running: running,
	}, nil
}

// driver returns the name of the driver of new VMs, even if it does not work here.
func (h *host) driver(ctx context.Context) string {
	driver, _, _ := h.services.Drivers.Choose(ctx, h.d.config.Driver)
	if driver == nil {
		return ""
	}
	return driver.Name()
}

// StopDaemon implements banger.HostService. It returns at once.
func (h *host) StopDaemon(context.Context) error {
	select {
	case h.d.stop <- struct{}{}:
	default: // it is stopping already
	}
	return nil
}

// renumberer is the part of the VMs that moves them to another subnet.
type renumberer interface {
	RenumberNetwork(ctx context.Context, opts banger.RenumberNetwork, progress banger.Progress) (banger.Renumbered, error)
}

// RenumberNetwork implements banger.HostService.
func (h *host) RenumberNetwork(ctx context.Context, opts banger.RenumberNetwork, progress banger.Progress) (banger.Renumbered, error) {
	return h.services.Network.RenumberNetwork(ctx, opts, progress)
}

// Events implements banger.HostService.
func (h *host) Events(ctx context.Context) iter.Seq2[banger.Event, error] {
	return h.services.Events.Read(ctx)
}
