package registry

import (
	"errors"
	"io"
	"os"

	"banger/internal/oci"
)

// Layers are the layers of an image, as files that stay while they are open, whatever
// becomes of the cache.
type Layers struct {
	found *Found
	files []*os.File
}

// Contents returns the layers, lowest first.
func (l *Layers) Contents() []*oci.Content {
	var all []*oci.Content
	for n, layer := range l.found.Layers {
		all = append(all, oci.NewContent(layer, func() (io.ReadCloser, error) {
			return io.NopCloser(io.NewSectionReader(l.files[n], 0, layer.Size)), nil
		}))
	}
	return all
}

// Drop removes the layers from the cache, for an image that turned out to be damaged.
func (l *Layers) Drop() error {
	var err error
	for _, layer := range l.found.Layers {
		err = errors.Join(err, l.found.client.Blobs.Drop(layer.Digest))
	}
	return err
}

// Close closes the layers.
func (l *Layers) Close() error {
	for _, file := range l.files {
		if file != nil {
			file.Close()
		}
	}
	return nil
}
