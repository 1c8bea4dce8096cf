package image

import (
	"context"
	"errors"
	"io"
	"os"

	"banger"
	"banger/internal/durable"
	"banger/internal/store"
)

// Draft is an image whose files are complete and that nobody knows yet. Keep it, or
// Discard it.
type Draft struct {
	banger.Image
	Note string // what VMs of the image will lack
	making
}

// CheckFree returns an error unless a new image can have the name.
func (i *Images) CheckFree(ctx context.Context, name string) error {
	return (&making{Images: i, name: name}).checkName(ctx)
}

// CheckOwn returns an error if name cannot be that of an image that a user makes.
func (i *Images) CheckOwn(name string) error {
	return (&making{Images: i, name: name}).checkOwnName()
}

// Draft makes an image of a tar archive of a root file system. A failure leaves nothing.
func (i *Images) Draft(ctx context.Context, name, origin string, archive io.Reader) (_ *Draft, err error) {
	d := &Draft{making: making{Images: i, name: name, origin: origin}}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Discard())
		}
	}()
	if err := durable.MkdirAll(i.Dirs.Images(), 0o700); err != nil {
		return nil, err
	}
	if err := d.stageIn(); err != nil {
		return nil, err
	}
	if err := d.writeTar(ctx, archive); err != nil {
		return nil, err
	}
	d.Image, d.Note = d.made, d.note
	return d, nil
}

// Discard removes the files of a draft that was not kept. It may be called twice.
func (d *Draft) Discard() error {
	if d.stage == "" {
		return nil
	}
	return os.RemoveAll(string(d.stage))
}

// Keep makes the image known. recipe is kept beside it; it may be empty. The image of the
// digest before, if it is not empty, may have the name, which it loses; another image that
// has it is a Conflict.
func (d *Draft) Keep(ctx context.Context, recipe []byte, before banger.Digest) (banger.Image, error) {
	err := d.place(ctx, func(ctx context.Context) error {
		if len(recipe) > 0 {
			if err := durable.WriteFile(d.Dirs.Image(d.made.ID).Recipe(), recipe, 0o600); err != nil {
				return err
			}
		}
		return d.rename(ctx, before)
	})
	if err != nil {
		return banger.Image{}, err
	}
	if before != "" && before != d.made.ID {
		d.forgetUnnamed(context.WithoutCancel(ctx), before)
	}
	return d.made, d.Discard()
}

// rename gives the image its name, which the image before may have.
func (d *Draft) rename(ctx context.Context, before banger.Digest) error {
	now, err := d.Store.Image(ctx, d.made.Name)
	if before == "" || banger.KindOf(err) == banger.NotFound {
		return d.Store.AddImage(ctx, d.made)
	}
	if err != nil {
		return err
	}
	if now.ID != before {
		return store.ImageTaken(d.made.Name)
	}
	return d.replace(ctx, now)
}

// forgetUnnamed removes an image that has lost its name, unless it has another one or a VM
// needs it.
func (i *Images) forgetUnnamed(ctx context.Context, id banger.Digest) {
	if _, err := i.dropNameless(ctx, id); err != nil {
		i.Log.Warn("remove an image that has lost its name", "digest", id, "err", err)
	}
}

// Recipe returns what was kept beside an image, or nil.
func (i *Images) Recipe(id banger.Digest) ([]byte, error) {
	text, err := os.ReadFile(i.Dirs.Image(id).Recipe())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return text, err
}
