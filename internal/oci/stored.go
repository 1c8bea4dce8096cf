package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"banger"
)

// Names of the files that tell what a directory or an archive is.
const (
	layoutFile = "oci-layout"
	indexFile  = "index.json"
	savedFile  = "manifest.json" // of docker save
)

// files are the files of a directory or an archive. open returns an fs.ErrNotExist for
// one that is missing.
type files interface {
	open(name string) (io.ReadCloser, int64, error)
	Close() error
}

// Stored is an image in a directory or an archive.
type Stored struct {
	Image
	files
	names []string // of the layers' files
}

// Contents returns the layers, lowest first.
func (s *Stored) Contents() []*Content {
	var all []*Content
	for n, layer := range s.Layers {
		all = append(all, NewContent(layer, func() (io.ReadCloser, error) {
			r, _, err := s.open(s.names[n])
			if errors.Is(err, fs.ErrNotExist) {
				err = missing(s.names[n])
			}
			return r, err
		}))
	}
	return all
}

func missing(name string) error {
	return banger.Invalidf(again, "the image lacks %.200q", name)
}

// OpenDir opens the image in a directory, which is an OCI layout or what docker save
// writes, unpacked.
func OpenDir(ctx context.Context, dir string) (*Stored, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	tree := directory{root}
	for _, name := range []string{layoutFile, savedFile} {
		if _, err := root.Stat(name); err == nil {
			return opened(ctx, tree, name)
		}
	}
	root.Close()
	return nil, banger.Invalidf("name an OCI layout, or pack a root file system: tar -C "+dir+" -cf rootfs.tar .", "the directory %s is not an OCI layout: it has no %s", dir, layoutFile)
}

// opened reads the image that files hold. It closes them if that fails.
func opened(ctx context.Context, f files, kind string) (*Stored, error) {
	read := readLayout
	if kind == savedFile {
		read = readSaved
	}
	s, err := read(ctx, f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return s, nil
}

type directory struct{ *os.Root }

func (d directory) open(name string) (io.ReadCloser, int64, error) {
	// Without O_NONBLOCK, opening a pipe would wait for a writer.
	file, err := d.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = banger.Invalidf(again, "%.200q is not a file", name)
	}
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return file, info.Size(), nil
}

// readDocument reads a small file.
func readDocument(f files, name string) ([]byte, error) {
	r, size, err := f.open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, missing(name)
	}
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if size > int64(MaxDocument) {
		return nil, banger.Invalidf(again, "%.200q has more than %v", name, MaxDocument)
	}
	return io.ReadAll(io.LimitReader(r, size))
}

func blobName(d banger.Digest) string {
	return "blobs/sha256/" + strings.TrimPrefix(string(d), "sha256:")
}

// readLayout reads an OCI layout. If it has several images, none is the one.
func readLayout(ctx context.Context, f files) (*Stored, error) {
	data, err := readDocument(f, indexFile)
	if err != nil {
		return nil, err
	}
	var index document
	if err := parse(data, indexFile, &index); err != nil {
		return nil, err
	}
	names := map[banger.Digest]string{}
	for _, d := range index.Manifests {
		if d.Platform == nil || *d.Platform == host {
			names[d.Digest] = d.Annotations["org.opencontainers.image.ref.name"]
		}
	}
	if len(names) > 1 {
		return nil, several(names)
	}
	top, err := choose(index.Manifests)
	if err != nil {
		return nil, err
	}
	get := func(_ context.Context, d Descriptor) ([]byte, error) { return readDocument(f, blobName(d.Digest)) }
	i, err := Find(ctx, get, top)
	s := &Stored{Image: i, files: f}
	for _, layer := range i.Layers {
		s.names = append(s.names, blobName(layer.Digest))
	}
	return s, err
}

func several(names map[banger.Digest]string) error {
	var all []string
	for digest, name := range names {
		if name == "" {
			name = short(digest)
		}
		all = append(all, fmt.Sprintf("%.60q", name))
	}
	slices.Sort(all)
	return banger.Invalidf("save one image alone", "it holds %d images: %.400s", len(all), strings.Join(all, ", "))
}

// readSaved reads what docker save writes.
func readSaved(_ context.Context, f files) (*Stored, error) {
	data, err := readDocument(f, savedFile)
	if err != nil {
		return nil, err
	}
	var saved []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := parse(data, savedFile, &saved); err != nil {
		return nil, err
	}
	if len(saved) != 1 {
		names := map[banger.Digest]string{}
		for n, one := range saved {
			names[banger.Digest(fmt.Sprint(n))] = strings.Join(one.RepoTags, " ")
		}
		if len(saved) == 0 {
			return nil, banger.Invalidf(again, "it holds no image")
		}
		return nil, several(names)
	}
	config, err := readDocument(f, path.Clean(saved[0].Config))
	if err != nil {
		return nil, err
	}
	s := &Stored{files: f}
	var layers []Descriptor
	for _, name := range saved[0].Layers {
		s.names = append(s.names, path.Clean(name))
		layers = append(layers, Descriptor{Digest: "sha256:" + banger.Digest(strings.Repeat("0", 64))}) // not known, and not needed
	}
	s.Image, err = fromConfig(config, DigestOf(config), layers)
	return s, err
}
