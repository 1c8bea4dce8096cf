package image

import (
	"context"
	"io/fs"
	"path/filepath"
	"syscall"
	"time"

	"banger"
	"banger/internal/store"
)

var _ banger.ImageService = (*Images)(nil)

// ListImages implements banger.ImageService.
func (i *Images) ListImages(ctx context.Context) ([]banger.Image, error) {
	images, err := i.Store.Images(ctx)
	if err != nil {
		return nil, err
	}
	users, err := i.users(ctx, func(vm store.VM) banger.Digest { return vm.ImageID })
	for n, image := range images {
		images[n].Config = readInfo(i.Dirs.Image(image.ID)).Config
		images[n].Use = &banger.Use{OnHost: onHost(string(i.Dirs.Image(image.ID))), VMs: append([]string{}, users[image.ID]...)}
	}
	return images, err
}

// ListKernels implements banger.ImageService.
func (i *Images) ListKernels(ctx context.Context) ([]banger.Kernel, error) {
	kernels, err := i.Store.Kernels(ctx)
	if err != nil {
		return nil, err
	}
	users, err := i.users(ctx, func(vm store.VM) banger.Digest { return vm.KernelID })
	for n, kernel := range kernels {
		kernels[n].Use = &banger.Use{OnHost: onHost(string(i.Dirs.Kernel(kernel.ID))), VMs: append([]string{}, users[kernel.ID]...)}
	}
	return kernels, err
}

// users returns the names of the VMs that are pinned to each digest.
func (i *Images) users(ctx context.Context, pin func(store.VM) banger.Digest) (map[banger.Digest][]string, error) {
	vms, err := i.Store.VMs(ctx)
	users := map[banger.Digest][]string{}
	for _, vm := range vms {
		users[pin(vm)] = append(users[pin(vm)], vm.Name)
	}
	return users, err
}

// onHost returns what the files of a directory occupy. What is missing occupies nothing.
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

// snapshot returns one event for each image and kernel, as a new reader gets them.
func (i *Images) snapshot(ctx context.Context) ([]banger.Event, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	seq, now := i.Events.Seq(), time.Now().UTC()
	images, err := i.Store.Images(ctx)
	if err != nil {
		return nil, err
	}
	kernels, err := i.Store.Kernels(ctx)
	var events []banger.Event
	for _, image := range images {
		events = append(events, banger.Event{Seq: seq, Time: now, Kind: banger.EventImage, Image: &image})
	}
	for _, kernel := range kernels {
		events = append(events, banger.Event{Seq: seq, Time: now, Kind: banger.EventKernel, Kernel: &kernel})
	}
	return events, err
}
