package daemon

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

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
func (h *host) Daemon(ctx context.Context) (banger.Daemon, error) {
	h.d.mu.Lock()
	socket := h.d.socket.path
	h.d.mu.Unlock()
	return banger.Daemon{
		PID: os.Getpid(), Version: version.Version,
		Socket: socket, Log: h.d.dirs.Log(), State: h.d.dirs.State, Runtime: h.d.config.RuntimeDir,
		Driver: h.parts.Driver(ctx), Running: h.parts.Running(),
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
func (h *host) ListImages(ctx context.Context) ([]banger.Image, error) {
	images, err := h.parts.Images(ctx)
	if err != nil {
		return nil, err
	}
	users, err := h.users(ctx, func(vm banger.VM) banger.Digest { return vm.ImageID })
	for i, image := range images {
		images[i].Use = &banger.Use{OnHost: onHost(string(h.d.dirs.Image(image.ID))), VMs: append([]string{}, users[image.ID]...)}
	}
	return images, err
}

// ImportImage implements banger.HostService.
func (h *host) ImportImage(ctx context.Context, spec banger.ImportImage, progress banger.Progress) (banger.Image, error) {
	return h.parts.Import(ctx, spec, progress)
}

// DeleteImage implements banger.HostService.
func (h *host) DeleteImage(ctx context.Context, ref string, progress banger.Progress) error {
	return h.parts.DeleteImage(ctx, ref, progress)
}

// ListKernels implements banger.HostService.
func (h *host) ListKernels(ctx context.Context) ([]banger.Kernel, error) {
	kernels, err := h.parts.Kernels(ctx)
	if err != nil {
		return nil, err
	}
	users, err := h.users(ctx, func(vm banger.VM) banger.Digest { return vm.KernelID })
	for i, kernel := range kernels {
		kernels[i].Use = &banger.Use{OnHost: onHost(string(h.d.dirs.Kernel(kernel.ID))), VMs: append([]string{}, users[kernel.ID]...)}
	}
	return kernels, err
}

// users are the names of the VMs that are pinned to each digest.
func (h *host) users(ctx context.Context, pin func(banger.VM) banger.Digest) (map[banger.Digest][]string, error) {
	vms, err := h.parts.VMs.ListVMs(ctx)
	users := map[banger.Digest][]string{}
	for _, vm := range vms {
		users[pin(vm)] = append(users[pin(vm)], vm.Name)
	}
	return users, err
}

// onHost is what the files of a directory really take. What is missing takes nothing.
func onHost(dir string) banger.Size {
	const block = 512
	var size banger.Size
	filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		var stat syscall.Stat_t
		if err == nil && syscall.Lstat(path, &stat) == nil {
			size += banger.Size(stat.Blocks) * block
		}
		return nil
	})
	return size
}
