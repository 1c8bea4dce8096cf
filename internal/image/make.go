package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"banger"
	"banger/internal/config"
	"banger/internal/disk"
	"banger/internal/durable"
	"banger/internal/guest/wire"
	"banger/internal/rootfs"
	"banger/internal/store"
)

// Draft is an image whose files are complete and that nobody knows yet. Keep it, or
// Discard it.
type Draft struct {
	banger.Image
	Note   string // what VMs of the image will lack
	images *Images
	stage  config.ImageDir
}

// CheckFree returns an error unless a new image can have the name.
func (i *Images) CheckFree(ctx context.Context, name string) error {
	if err := i.CheckOwn(name); err != nil {
		return err
	}
	_, err := i.Store.Image(ctx, name)
	switch {
	case err == nil:
		return store.ImageTaken(name)
	case banger.KindOf(err) == banger.NotFound:
		return nil
	}
	return err
}

// CheckOwn returns an error if name cannot be that of an image that a user makes.
func (i *Images) CheckOwn(name string) error {
	if err := banger.CheckImageName(name); err != nil {
		return err
	}
	if name == i.Bundled {
		return &banger.Error{Kind: banger.Conflict, Why: errors.New("the image of the runtime bundle has that name"), Fix: "choose another name"}
	}
	return nil
}

// Draft makes an image of a tar archive of a root file system. A failure leaves nothing.
func (i *Images) Draft(ctx context.Context, name, origin string, archive io.Reader) (_ *Draft, err error) {
	if err := durable.MkdirAll(i.Dirs.Images(), 0o700); err != nil {
		return nil, err
	}
	stage, err := os.MkdirTemp(i.Dirs.Images(), i.Dirs.NewImage())
	if err != nil {
		return nil, err
	}
	d := &Draft{images: i, stage: config.ImageDir(stage)}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Discard())
		}
	}()
	check := func(tree rootfs.Tree) (err error) {
		d.Note, err = checkContent(tree)
		return err
	}
	result, err := rootfs.Write(ctx, archive, d.stage.Rootfs(), rootfs.Options{Label: wire.LabelBase, Reset: true, Check: check})
	if disk.Full(err) {
		return nil, &banger.Error{Kind: banger.Unready, Why: err, Fix: "free space on " + disk.MountPoint(i.Dirs.Images())}
	}
	if err != nil {
		return nil, err
	}
	d.Image = banger.Image{Name: name, ID: result.Digest, Size: result.Size, Origin: origin, CreatedAt: time.Now().UTC()}
	return d, nil
}

// Discard removes the files of a draft that was not kept. It may be called twice.
func (d *Draft) Discard() error { return os.RemoveAll(string(d.stage)) }

// Keep makes the image known. recipe is kept beside it; it may be empty. The image of the
// digest before, if it is not empty, may have the name, which it loses; another image that
// has it is a Conflict.
func (d *Draft) Keep(ctx context.Context, recipe []byte, before banger.Digest) (_ banger.Image, err error) {
	i := d.images
	i.mu.Lock()
	defer i.mu.Unlock()
	dir := i.Dirs.Image(d.ID)
	_, err = os.Stat(string(dir))
	placed := errors.Is(err, os.ErrNotExist)
	if placed {
		err = durable.Rename(string(d.stage), string(dir))
	}
	if err == nil && len(recipe) > 0 {
		err = durable.WriteFile(dir.Recipe(), recipe, 0o600)
	}
	if err == nil {
		err = i.name(ctx, d.Image, before)
	}
	if err != nil && placed {
		return banger.Image{}, errors.Join(err, i.drop(string(dir)))
	}
	if err != nil {
		return banger.Image{}, err
	}
	ctx = context.WithoutCancel(ctx) // too late to cancel
	made, err := i.Store.Image(ctx, d.Name)
	i.publish(made)
	if before != "" && before != made.ID {
		i.forgetUnnamed(ctx, before)
	}
	return made, errors.Join(err, d.Discard())
}

// name gives an image its name, which the image before may have.
func (i *Images) name(ctx context.Context, image banger.Image, before banger.Digest) error {
	now, err := i.Store.Image(ctx, image.Name)
	if before == "" || banger.KindOf(err) == banger.NotFound {
		return i.Store.AddImage(ctx, image)
	}
	if err != nil {
		return err
	}
	if now.ID != before {
		return store.ImageTaken(image.Name)
	}
	return i.Store.PutImage(ctx, image)
}

func (i *Images) publish(image banger.Image) {
	i.Events.Publish(banger.Event{Kind: banger.EventImage, Image: &image})
}

// forgetUnnamed removes an image that has lost its name, unless it has another one or a VM
// needs it.
func (i *Images) forgetUnnamed(ctx context.Context, id banger.Digest) {
	images, err := i.Store.Images(ctx)
	for _, image := range images {
		if image.ID == id {
			return
		}
	}
	last := false
	if err == nil {
		_, last, err = i.Store.ForgetImage(ctx, string(id))
	}
	if err == nil && last {
		err = i.drop(string(i.Dirs.Image(id)))
	}
	if err != nil && banger.KindOf(err) != banger.Conflict {
		i.Log.Warn("remove an image that has lost its name", "digest", id, "err", fmt.Sprint(err))
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
