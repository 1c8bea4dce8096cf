// Package image owns the images of a state directory: it imports them from files, pulls
// them from registries, and deletes and prunes them. The image of the runtime bundle is installed by
// package bundle, and built by build/image.
package image

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"banger/internal/bundle"
	"banger/internal/config"
	"banger/internal/event"
	"banger/internal/hostcmd"
	"banger/internal/oci/registry"
	"banger/internal/operation"
	"banger/internal/store"
)

// Images are the images of a state directory: their files and their records.
type Images struct {
	Dirs  config.Dirs
	Store *store.Store
	Log   *slog.Logger
	Run   hostcmd.Runner

	Registry  *registry.Client // downloads what is pulled
	Installed bundle.Installed // what new VMs get from the runtime bundle

	// Bundled is the name of the runtime bundle's image. No other image can have
	// it: the daemon gives it to the bundle's at each start.
	Bundled string

	Operations *operation.Runner // runs the verbs
	Events     *event.Hub        // hears of every image that comes and goes

	// mu makes files and records change together. Otherwise an import could lose
	// its file to a deletion of the same content's last other name.
	mu sync.Mutex

	turns turns // of pulls
}

// Open adds the images to the event stream, and removes what a killed daemon was
// writing or removing.
func (i *Images) Open(ctx context.Context) error {
	i.Events.Add(i.snapshot)
	return i.sweep(ctx)
}

func (i *Images) sweep(ctx context.Context) error {
	known, err := i.Store.KnownImages(ctx)
	if err != nil {
		return err
	}
	keep := map[string]bool{}
	for _, image := range known {
		keep[string(i.Dirs.Image(image.ID))] = true
	}
	entries, err := os.ReadDir(i.Dirs.Images())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, entry := range entries {
		path := filepath.Join(i.Dirs.Images(), entry.Name())
		if !keep[path] {
			i.Log.Info("remove what an image left", "path", path)
			err = errors.Join(err, os.RemoveAll(path))
		}
	}
	return err
}
