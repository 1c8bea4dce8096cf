package image

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"banger"
)

// DeleteImage implements banger.ImageService. It deletes an image's name, and its
// files with the last name. An image that a VM was created from is a Conflict.
func (i *Images) DeleteImage(ctx context.Context, ref string, progress banger.Progress) (err error) {
	if _, err := i.Store.Image(ctx, ref); err != nil {
		return err
	}
	op := i.Operations.Begin("image", banger.Delete, ref, "", progress)
	defer op.End(ctx, &err)
	return op.Step(ctx, "delete", func(ctx context.Context) error {
		i.mu.Lock()
		defer i.mu.Unlock()
		named, err := i.Store.Images(ctx)
		if err != nil {
			return err
		}
		id, last, err := i.Store.ForgetImage(ctx, ref)
		if err != nil {
			return err
		}
		for _, image := range named {
			if image.ID == id && (image.Name == ref || string(id) == ref) {
				i.Events.Publish(banger.Event{Kind: banger.EventImage, Image: &image, Gone: true})
			}
		}
		if !last {
			return nil
		}
		return i.drop(string(i.Dirs.Image(id)))
	})
}

// drop removes an image's directory. It moves it aside first, so that a crash does
// not leave half of it in place.
func (i *Images) drop(dir string) error {
	aside, err := os.MkdirTemp(i.Dirs.Images(), i.Dirs.NewImage())
	if err != nil {
		return err
	}
	err = os.Rename(dir, filepath.Join(aside, filepath.Base(dir)))
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, os.RemoveAll(aside))
}
