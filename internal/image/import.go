package image

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"banger"
	"banger/internal/compression"
	"banger/internal/oci"
	"banger/internal/operation"
	"banger/internal/rootfs"
)

// importing is the state of one import.
type importing struct {
	making
	spec   banger.ImportImage
	file   *os.File
	kind   compression.Kind
	stored *oci.Stored // nil: the file is no image of a container
	plain  *os.File    // what file is, unpacked
}

// ImportImage implements banger.ImageService. A failed import leaves nothing.
func (i *Images) ImportImage(ctx context.Context, spec banger.ImportImage, progress banger.Progress) (_ banger.Image, err error) {
	im := &importing{making: making{Images: i, name: spec.Name, origin: spec.Origin}, spec: spec}
	if im.origin == "" {
		im.origin = filepath.Base(spec.File)
	}
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

// open opens the archive and checks that there is space for what it holds.
func (im *importing) open(ctx context.Context) error {
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
	switch {
	case info.IsDir():
		if im.stored, err = oci.OpenDir(ctx, im.spec.File); err != nil {
			return unreadable(err)
		}
		return im.checkRoom(0)
	case !info.Mode().IsRegular():
		return banger.Invalidf("name a file that holds a tar archive", "%s is not a file", im.spec.File)
	}
	if im.kind, err = compression.Of(file); err != nil {
		return err
	}
	need := banger.Size(allocated(info))
	if im.kind != compression.None {
		need += banger.Size(info.Size()) // its plain content
	}
	return im.checkRoom(need)
}

// allocated returns the space that a file takes, without holes.
func allocated(info os.FileInfo) int64 {
	const block = 512
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return min(info.Size(), stat.Blocks*block)
	}
	return info.Size()
}

func unreadable(err error) error {
	e := &banger.Error{Why: err, Fix: "name a file that you can read"}
	switch {
	case errors.Is(err, os.ErrNotExist):
		e.Kind = banger.NotFound
	case errors.Is(err, os.ErrPermission):
		e.Kind = banger.Invalid
	default:
		return err
	}
	return e
}

// write writes the file system into a stage. What the archive holds tells how.
func (im *importing) write(ctx context.Context) error {
	if err := im.stageIn(); err != nil {
		return err
	}
	if im.stored != nil {
		return im.writeLayers(ctx, im.stored.Config, im.stored.Contents())
	}
	if err := im.unpack(ctx); err != nil {
		return err
	}
	switch found, err := contentOf(im.plain); {
	case err != nil:
		return err
	case found == ext4Disk:
		return im.writeDisk(ctx, im.plain)
	case found != "":
		return found.refuse()
	}
	var err error
	if im.stored, err = oci.OpenArchive(ctx, im.plain); err != nil {
		return err
	}
	if im.stored != nil {
		return im.writeLayers(ctx, im.stored.Config, im.stored.Contents())
	}
	if _, err := im.plain.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return im.writeTar(ctx, im.plain)
}

// unpack unpacks a compressed archive into a file without a name.
func (im *importing) unpack(ctx context.Context) error {
	if im.kind == compression.None {
		im.plain = im.file
		return nil
	}
	archive, done, err := compression.NewReader(im.file)
	if err != nil {
		return err
	}
	defer done()
	im.plain, err = rootfs.Spool(ctx, archive, string(im.stage))
	return im.wrote("", 0, err)
}

// close closes the archive and removes the stage.
func (im *importing) close(err *error) {
	if im.stored != nil {
		im.stored.Close()
	}
	for _, file := range []*os.File{im.file, im.plain} {
		if file != nil {
			file.Close()
		}
	}
	im.removeStage(err)
}
