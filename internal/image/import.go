// Package image owns the images of a state directory: it imports them from tar
// archives and deletes them. The image of the runtime bundle is installed by
// package bundle, and built by build/image.
package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"banger"
	"banger/internal/config"
	"banger/internal/disk"
	"banger/internal/durable"
	"banger/internal/event"
	"banger/internal/guest/wire"
	"banger/internal/operation"
	"banger/internal/rootfs"
	"banger/internal/store"
)

// Images are the images of a state directory: their files and their records.
type Images struct {
	Dirs  config.Dirs
	Store *store.Store
	Log   *slog.Logger

	// Bundled is the name of the runtime bundle's image, which each start of a
	// daemon gives to that.
	Bundled string

	Operations *operation.Host // runs the verbs
	Events     *event.Hub      // hears of every image that comes and goes

	// Files and records change together, so that content which is imported
	// while its last name is deleted is not lost.
	mu sync.Mutex
}

// Open makes the images a source of events, and removes what a killed daemon was
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

// importing is what the steps of an import hand on to each other.
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

// ImportImage implements banger.ImageService: the image is made whole or not at all.
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

// open looks at the archive and whether there is room for what it holds.
func (im *importing) open(context.Context) error {
	if !filepath.IsAbs(im.spec.File) {
		return banger.Invalidf("give the file's absolute path", "%q is no absolute path", im.spec.File)
	}
	// A pipe without a writer would wait for ever.
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
		return banger.Invalidf("name a file that holds a tar archive", "%s is no file", im.spec.File)
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

// checkRoom knows the least that an import takes: the image, and of a
// compressed archive its plain content beside it.
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

// write puts the file system together aside of its place. Its digest is that of
// what was read back.
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
	if errors.Is(err, syscall.ENOSPC) {
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

// record gives the file its name and puts it on record.
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
	im.made, err = im.Store.Image(context.WithoutCancel(ctx), im.made.Name) // it is there: no way back
	made := im.made
	im.Events.Publish(banger.Event{Kind: banger.EventImage, Image: &made})
	return err
}

// close removes what is not in its place.
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

// DeleteImage implements banger.ImageService. It takes an image's name away, and with the last one its files. A VM that
// was made from the image keeps all of it: that is a Conflict.
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

// drop removes an image's directory, which nobody finds half removed.
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
