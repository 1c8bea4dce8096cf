package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"banger"
	"banger/internal/config"
	"banger/internal/disk"
	"banger/internal/durable"
	"banger/internal/guest/wire"
	"banger/internal/operation"
	"banger/internal/rootfs"
	"banger/internal/store"
)

// importing is the state of one import.
type importing struct {
	*Images
	spec  banger.ImportImage
	file  *os.File
	size  banger.Size // of the archive
	kind  compression
	stage config.ImageDir
	made  banger.Image
	note  string
}

// ImportImage implements banger.ImageService. A failed import leaves nothing.
func (i *Images) ImportImage(ctx context.Context, spec banger.ImportImage, progress banger.Progress) (_ banger.Image, err error) {
	im := &importing{Images: i, spec: spec}
	op := i.Operations.Begin("image", "import", spec.Name, "", progress)
	defer op.End(ctx, &err)
	defer im.close(&err)
	err = op.Run(ctx,
		operation.Step{Name: "check the name", Do: im.checkName},
		operation.Step{Name: "read the archive", Do: im.open},
		operation.Step{Name: "write the file system", Do: im.write},
		operation.Step{Name: "record", Do: im.record})
	if err == nil {
		op.Note("record", im.note)
	}
	return im.made, err
}

func (im *importing) checkName(ctx context.Context) error {
	if err := banger.CheckImageName(im.spec.Name); err != nil {
		return err
	}
	if im.spec.Name == im.Bundled {
		return &banger.Error{Kind: banger.Conflict, Why: errors.New("the image of the runtime bundle has that name"), Fix: "choose another name"}
	}
	_, err := im.Store.Image(ctx, im.spec.Name)
	switch {
	case err == nil:
		return store.ImageTaken(im.spec.Name)
	case banger.KindOf(err) == banger.NotFound:
		return nil
	}
	return err
}

// open opens the archive and checks that there is space for what it holds.
func (im *importing) open(context.Context) error {
	if !filepath.IsAbs(im.spec.File) {
		return banger.Invalidf("give the file's absolute path", "%q is not an absolute path", im.spec.File)
	}
	// Without O_NONBLOCK, opening a pipe would wait for a writer.
	file, err := os.OpenFile(im.spec.File, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return unreadable(err)
	}
	im.file = file
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return banger.Invalidf("name a file that holds a tar archive", "%s is not a file", im.spec.File)
	}
	im.size = banger.Size(info.Size())
	if im.kind, err = compressionOf(file); err != nil {
		return err
	}
	if err := durable.MkdirAll(im.Dirs.Images(), 0o700); err != nil {
		return err
	}
	return im.checkRoom()
}

func unreadable(err error) error {
	e := &banger.Error{Why: err, Fix: "name a file that you can read"}
	switch {
	case errors.Is(err, os.ErrNotExist):
		e.Kind = banger.NotFound
	case errors.Is(err, os.ErrPermission):
		e.Kind = banger.Invalid
	}
	return e
}

// checkRoom checks that there is space for the least that an import can need: the
// image and, if the archive is compressed, its plain content.
func (im *importing) checkRoom() error {
	const reserve = 64 * banger.MiB
	need := im.size + reserve
	if im.kind != uncompressed {
		need += im.size
	}
	free, err := disk.Free(im.Dirs.Images())
	if err != nil || free >= need {
		return err
	}
	return im.full(fmt.Errorf("%s has %v free, the image needs at least %v", im.Dirs.Images(), free, need))
}

func (im *importing) full(why error) error {
	return &banger.Error{Kind: banger.Unready, Why: why, Fix: "free space on " + disk.MountPoint(im.Dirs.Images())}
}

// write writes the file system into a stage. The image's digest is the one of the
// file as it was read back.
func (im *importing) write(ctx context.Context) error {
	stage, err := os.MkdirTemp(im.Dirs.Images(), im.Dirs.NewImage())
	if err != nil {
		return err
	}
	im.stage = config.ImageDir(stage)
	archive, done, err := im.kind.open(im.file)
	if err != nil {
		return err
	}
	defer done()
	check := func(tree rootfs.Tree) (err error) {
		im.note, err = checkContent(tree)
		return err
	}
	result, err := rootfs.Write(ctx, archive, im.stage.Rootfs(), rootfs.Options{Label: wire.LabelBase, Reset: true, Check: check})
	if disk.Full(err) {
		return im.full(err)
	}
	if err != nil {
		return err
	}
	im.made = banger.Image{Name: im.spec.Name, ID: result.Digest, Size: result.Size, Origin: im.origin(), CreatedAt: time.Now().UTC()}
	return nil
}

func (im *importing) origin() string {
	if im.spec.Origin != "" {
		return im.spec.Origin
	}
	return filepath.Base(im.spec.File)
}

// record moves the file to its place and adds the image to the store.
func (im *importing) record(ctx context.Context) error {
	im.mu.Lock()
	defer im.mu.Unlock()
	dir := string(im.Dirs.Image(im.made.ID))
	_, err := os.Stat(dir)
	placed := errors.Is(err, os.ErrNotExist)
	if placed {
		err = durable.Rename(string(im.stage), dir)
	}
	if err == nil {
		err = im.Store.AddImage(ctx, im.made)
	}
	if err != nil && placed {
		return errors.Join(err, im.drop(dir))
	}
	if err != nil {
		return err
	}
	im.made, err = im.Store.Image(context.WithoutCancel(ctx), im.made.Name) // too late to cancel
	made := im.made
	im.Events.Publish(banger.Event{Kind: banger.EventImage, Image: &made})
	return err
}

// close closes the archive and removes the stage.
func (im *importing) close(err *error) {
	if im.file != nil {
		im.file.Close()
	}
	if im.stage != "" {
		if failed := os.RemoveAll(string(im.stage)); failed != nil && *err != nil {
			*err = errors.Join(*err, failed)
		}
	}
}
