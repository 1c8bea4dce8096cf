package daemon

import (
	"context"
	"os"

	"banger"
	"banger/internal/version"
)

// host implements banger.HostService for the daemon itself.
type host struct {
	d     *daemon
	parts Parts
}

var _ banger.HostService = (*host)(nil)

// Daemon implements banger.HostService.
func (h *host) Daemon(context.Context) (banger.Daemon, error) {
	h.d.mu.Lock()
	socket := h.d.socket.path
	h.d.mu.Unlock()
	return banger.Daemon{
		PID: os.Getpid(), Version: version.Version,
		Socket: socket, Log: h.d.dirs.Log(), State: h.d.dirs.State, Runtime: h.d.config.RuntimeDir,
		Driver: h.parts.Driver, Running: h.parts.Running(),
	}, nil
}

// StopDaemon implements banger.HostService. It returns at once.
func (h *host) StopDaemon(context.Context) error {
	select {
	case h.d.stop <- struct{}{}:
	default: // it is stopping already
	}
	return nil
}

// ListImages implements banger.HostService.
func (h *host) ListImages(ctx context.Context) ([]banger.Image, error) { return h.parts.Images(ctx) }

// ListKernels implements banger.HostService.
func (h *host) ListKernels(ctx context.Context) ([]banger.Kernel, error) { return h.parts.Kernels(ctx) }
