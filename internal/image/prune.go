package image

import (
	"cmp"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"banger"
	"banger/internal/oci/registry/blob"
	"banger/internal/operation"
)

// unneeded is a thing that nothing needs, and how to remove it. remove returns false if it
// is needed all the same.
type unneeded struct {
	banger.PrunedItem
	remove func(context.Context) (bool, error)
}

// PruneImages implements banger.ImageService. What is removed stays removed if a later
// removal fails.
func (i *Images) PruneImages(ctx context.Context, opts banger.PruneImages, progress banger.Progress) (_ banger.Pruned, err error) {
	pruned := banger.Pruned{Items: []banger.PrunedItem{}}
	op := i.Operations.Begin("image", "prune", "", "", progress)
	defer op.End(ctx, &err)
	var all []unneeded
	find := func(ctx context.Context) error {
		i.mu.Lock()
		defer i.mu.Unlock()
		all, err = i.unneeded(ctx)
		return err
	}
	remove := func(ctx context.Context) error {
		for _, u := range all {
			removed := opts.DryRun
			if !removed {
				if removed, err = u.remove(ctx); err != nil {
					return err
				}
			}
			if removed {
				pruned.Items, pruned.Freed = append(pruned.Items, u.PrunedItem), pruned.Freed+u.Size
			}
		}
		return nil
	}
	err = op.Run(ctx, operation.Step{Name: "look", Do: find}, operation.Step{Name: "remove", Do: remove})
	return pruned, err
}

// unneeded returns what nothing needs, the largest first.
func (i *Images) unneeded(ctx context.Context) ([]unneeded, error) {
	all, err := i.namelessImages(ctx)
	if err != nil {
		return nil, err
	}
	kernels, err := i.neededKernels(ctx)
	if err != nil {
		return nil, err
	}
	agent, firecracker := keepNewest(i.Installed.Agent, i.Dirs.Agents()), keepNewest(i.Installed.Firecracker, i.Dirs.VMMs())
	all = append(all, i.oldKernels(kernels)...)
	all = append(all, oldFiles(i.Dirs.Agents(), banger.PrunedAgent, func(name string) bool { return name == agent })...)
	all = append(all, oldFiles(i.Dirs.VMMs(), banger.PrunedFirecracker, func(name string) bool { return name == firecracker })...)
	all = append(all, oldFiles(i.Dirs.Initrds(), banger.PrunedInitrd, func(name string) bool {
		return slices.ContainsFunc(kernels, func(kernel banger.Digest) bool {
			return name == filepath.Base(i.Dirs.BaseInitrd(kernel, banger.Digest("sha256:"+agent)))
		})
	})...)
	downloads, err := i.downloads()
	all = append(all, downloads...)
	slices.SortStableFunc(all, func(a, b unneeded) int { return cmp.Compare(b.Size, a.Size) })
	return all, err
}

// namelessImages returns the images without a name that no VM uses.
func (i *Images) namelessImages(ctx context.Context) ([]unneeded, error) {
	known, err := i.Store.KnownImages(ctx)
	if err != nil {
		return nil, err
	}
	named, err := i.Store.Images(ctx)
	if err != nil {
		return nil, err
	}
	vms, err := i.Store.VMs(ctx)
	needed := map[banger.Digest]bool{}
	for _, image := range named {
		needed[image.ID] = true
	}
	for _, vm := range vms {
		needed[vm.ImageID] = true
	}
	var all []unneeded
	for _, image := range known {
		if !needed[image.ID] {
			item := banger.PrunedItem{Kind: banger.PrunedImage, Name: image.Name, Size: onHost(string(i.Dirs.Image(image.ID)))}
			all = append(all, unneeded{item, func(ctx context.Context) (bool, error) { return i.dropNameless(ctx, image.ID) }})
		}
	}
	return all, err
}

// dropNameless removes an image, unless it has got a name or a VM since it was looked at.
func (i *Images) dropNameless(ctx context.Context, id banger.Digest) (bool, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	dropped, err := i.Store.ForgetNameless(ctx, id)
	if err != nil || !dropped {
		return false, err
	}
	return true, i.drop(string(i.Dirs.Image(id)))
}

// neededKernels returns the kernel sets of VMs, and the one that new VMs get.
func (i *Images) neededKernels(ctx context.Context) ([]banger.Digest, error) {
	vms, err := i.Store.VMs(ctx)
	if err != nil {
		return nil, err
	}
	needed := []banger.Digest{i.Installed.Kernel.ID}
	for _, vm := range vms {
		needed = append(needed, vm.KernelID)
	}
	if needed[0] != "" {
		return needed, nil
	}
	named, err := i.Store.Kernels(ctx) // without a bundle, new VMs get the newest
	if len(named) > 0 {
		needed[0] = slices.MaxFunc(named, func(a, b banger.Kernel) int { return a.CreatedAt.Compare(b.CreatedAt) }).ID
	}
	return needed, err
}

// oldKernels returns the kernel sets that are not needed.
func (i *Images) oldKernels(needed []banger.Digest) []unneeded {
	all := oldFiles(i.Dirs.Kernels(), banger.PrunedKernel, func(name string) bool {
		return slices.Contains(needed, banger.Digest("sha256:"+name))
	})
	for n, u := range all {
		all[n].remove = func(ctx context.Context) (bool, error) {
			return i.dropKernel(ctx, banger.Digest("sha256:"+u.Name), filepath.Join(i.Dirs.Kernels(), u.Name))
		}
	}
	return all
}

// dropKernel removes a kernel set, unless it has got a VM since it was looked at.
func (i *Images) dropKernel(ctx context.Context, id banger.Digest, dir string) (bool, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	named, err := i.Store.Kernels(ctx)
	if err != nil {
		return false, err
	}
	dropped, err := i.Store.ForgetKernel(ctx, id)
	if err != nil || !dropped {
		return false, err
	}
	for _, kernel := range named {
		if kernel.ID == id {
			i.Events.Publish(banger.Event{Kind: banger.EventKernel, Kernel: &kernel, Gone: true})
		}
	}
	return true, os.RemoveAll(dir)
}

// keepNewest returns the file name of a program, or of the newest in a directory if there
// is no program.
func keepNewest(id banger.Digest, dir string) string {
	if id != "" {
		return strings.TrimPrefix(string(id), "sha256:")
	}
	files, _ := os.ReadDir(dir)
	newest, name := int64(0), ""
	for _, file := range files {
		if info, err := file.Info(); err == nil && info.ModTime().UnixNano() > newest {
			newest, name = info.ModTime().UnixNano(), file.Name()
		}
	}
	return name
}

// oldFiles returns what is in a directory and not needed. Names that begin with a dot are
// of unfinished work, which the daemon's start removes.
func oldFiles(dir string, kind banger.PrunedKind, needed func(name string) bool) []unneeded {
	files, _ := os.ReadDir(dir)
	var all []unneeded
	for _, file := range files {
		name, path := file.Name(), filepath.Join(dir, file.Name())
		if strings.HasPrefix(name, ".") || needed(name) {
			continue
		}
		all = append(all, unneeded{banger.PrunedItem{Kind: kind, Name: name, Size: onHost(path)}, func(context.Context) (bool, error) {
			return true, os.RemoveAll(path)
		}})
	}
	return all
}

// downloads returns what is in the cache of downloads. What somebody downloads now stays.
func (i *Images) downloads() ([]unneeded, error) {
	entries, err := blob.Cache{Dir: i.Dirs.Blobs()}.Entries()
	var all []unneeded
	for _, e := range entries {
		item := banger.PrunedItem{Kind: banger.PrunedDownload, Name: filepath.Base(e.Path), Size: onHost(e.Path)}
		all = append(all, unneeded{item, func(context.Context) (bool, error) { return e.Remove() }})
	}
	return all, err
}
