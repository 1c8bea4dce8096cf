package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"banger"
	"banger/internal/config"
	"banger/internal/disk"
	"banger/internal/durable"
	"banger/internal/guest/wire"
	"banger/internal/oci"
	"banger/internal/rootfs"
	"banger/internal/store"
)

// making is the state of an operation that makes an image.
type making struct {
	*Images
	name   string
	origin string
	stage  config.ImageDir
	made   banger.Image
	info   info
	note   string
}

// checkName refuses a name that no new image can have.
func (m *making) checkName(ctx context.Context) error {
	if err := m.checkOwnName(); err != nil {
		return err
	}
	_, err := m.Store.Image(ctx, m.name)
	switch {
	case err == nil:
		return store.ImageTaken(m.name)
	case banger.KindOf(err) == banger.NotFound:
		return nil
	}
	return err
}

func (m *making) checkOwnName() error {
	if err := banger.CheckImageName(m.name); err != nil {
		return err
	}
	if m.name == m.Bundled {
		return &banger.Error{Kind: banger.Conflict, Why: errors.New("the image of the runtime bundle has that name"), Fix: "choose another name"}
	}
	return nil
}

// checkRoom checks that there is space for what an image needs at least.
func (m *making) checkRoom(need banger.Size) error {
	const reserve = 64 * banger.MiB
	if err := durable.MkdirAll(m.Dirs.Images(), 0o700); err != nil {
		return err
	}
	free, err := disk.Free(m.Dirs.Images())
	if need += reserve; err != nil || free >= need {
		return err
	}
	return m.full(fmt.Errorf("%s has %v free, the image needs at least %v", m.Dirs.Images(), free, need))
}

func (m *making) full(why error) error {
	return &banger.Error{Kind: banger.Unready, Why: why, Fix: "free space on " + disk.MountPoint(m.Dirs.Images())}
}

// stageIn creates the directory in which the image is made.
func (m *making) stageIn() error {
	stage, err := os.MkdirTemp(m.Dirs.Images(), m.Dirs.NewImage())
	m.stage = config.ImageDir(stage)
	return err
}

func (m *making) options() rootfs.Options {
	return rootfs.Options{Label: wire.LabelBase, Reset: true, Check: func(tree rootfs.Tree) (err error) {
		m.note, err = checkContent(tree)
		return err
	}}
}

// writeTar writes the file system that a tar archive holds.
func (m *making) writeTar(ctx context.Context, archive io.Reader) error {
	result, err := rootfs.Write(ctx, archive, m.stage.Rootfs(), m.options())
	return m.wrote(result.Digest, result.Size, err)
}

// writeLayers writes the file system of an image of a container. What the image says
// about its programs goes into it as well, where the guest's agent reads it.
func (m *making) writeLayers(ctx context.Context, config banger.ImageConfig, contents []*oci.Content) error {
	m.info.Config = &config
	top, err := configLayer(config)
	if err != nil {
		return err
	}
	var layers []rootfs.Layer
	for _, content := range contents {
		layers = append(layers, content)
	}
	result, err := rootfs.Flatten(ctx, append(layers, top), m.stage.Rootfs(), m.options())
	return m.wrote(result.Digest, result.Size, err)
}

// configLayer returns a layer with the file for the agent.
func configLayer(config banger.ImageConfig) (rootfs.Layer, error) {
	data, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	err = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(wire.ImageFile, "/"), Mode: 0o644, Size: int64(len(data))})
	if err == nil {
		_, err = w.Write(data)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		return nil, err
	}
	return rootfs.Rewound(bytes.NewReader(layer.Bytes()))
}

// wrote takes the result of writing the file system. The image's digest is the one of the
// file as it was read back.
func (m *making) wrote(digest banger.Digest, size banger.Size, err error) error {
	if disk.Full(err) {
		return m.full(err)
	}
	if err != nil {
		return err
	}
	m.made = banger.Image{Name: m.name, ID: digest, Size: size, Origin: m.origin, CreatedAt: time.Now().UTC()}
	return nil
}

// place moves the file system to its place, unless an image with the same content is
// there, and then records it.
func (m *making) place(ctx context.Context, record func(context.Context) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir := m.Dirs.Image(m.made.ID)
	_, err := os.Stat(string(dir))
	placed := errors.Is(err, os.ErrNotExist)
	if placed {
		if err = m.info.write(m.stage); err == nil {
			err = durable.Rename(string(m.stage), string(dir))
		}
	} else if err == nil {
		err = readInfo(dir).merged(m.info).write(dir)
	}
	if err == nil {
		err = record(ctx)
	}
	if err != nil && placed {
		return errors.Join(err, m.drop(string(dir)))
	}
	if err != nil {
		return err
	}
	m.made, err = m.Store.Image(context.WithoutCancel(ctx), m.made.Name) // too late to cancel
	made := m.made
	m.Events.Publish(banger.Event{Kind: banger.EventImage, Image: &made})
	return err
}

// record places the image under a name that none has.
func (m *making) record(ctx context.Context) error {
	return m.place(ctx, func(ctx context.Context) error { return m.Store.AddImage(ctx, m.made) })
}

// replace gives the image the name of an older one, which loses it.
func (m *making) replace(ctx context.Context, old banger.Image) error {
	err := m.Store.PutImage(ctx, m.made)
	if err == nil && old.ID != m.made.ID {
		m.Events.Publish(banger.Event{Kind: banger.EventImage, Image: &old, Gone: true})
	}
	return err
}

// removeStage removes what an operation that failed has made.
func (m *making) removeStage(err *error) {
	if m.stage == "" {
		return
	}
	if failed := os.RemoveAll(string(m.stage)); failed != nil && *err != nil {
		*err = errors.Join(*err, failed)
	}
}
