// Package ocitest makes images of containers for tests, and serves them as a registry
// that can be told to fail. It knows nothing of how they are read.
package ocitest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"banger"
)

// Image is an image, or an index of some.
type Image struct {
	Blobs    map[banger.Digest][]byte
	Top      banger.Digest // its manifest or its index
	Platform string        // as in linux/amd64
	config   banger.Digest
	plain    [][]byte // its layers, not compressed
}

func digest(data []byte) banger.Digest {
	return banger.Digest(fmt.Sprintf("sha256:%x", sha256.Sum256(data)))
}

func (i *Image) add(data []byte) banger.Digest {
	if i.Blobs == nil {
		i.Blobs = map[banger.Digest][]byte{}
	}
	d := digest(data)
	i.Blobs[d] = data
	return d
}

func mustJSON(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return data
}

type object = map[string]any

const (
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	indexType    = "application/vnd.oci.image.index.v1+json"
)

func (i *Image) describe(mediaType string, d banger.Digest) object {
	return object{"mediaType": mediaType, "digest": d, "size": len(i.Blobs[d])}
}

// Host is the platform of this machine.
const Host = "linux/" + runtime.GOARCH

// New returns an image with layers, which are tar archives. config is what it says about
// its programs.
func New(platform string, config any, layers ...[]byte) Image {
	i := Image{Platform: platform, plain: layers}
	var diffs []banger.Digest
	described := []object{}
	for _, layer := range layers {
		var packed bytes.Buffer
		w := gzip.NewWriter(&packed)
		w.Write(layer)
		w.Close()
		diffs = append(diffs, digest(layer))
		described = append(described, i.describe("application/vnd.oci.image.layer.v1.tar+gzip", i.add(packed.Bytes())))
	}
	system, machine, _ := strings.Cut(platform, "/")
	i.config = i.add(mustJSON(object{"os": system, "architecture": machine, "config": config, "rootfs": object{"type": "layers", "diff_ids": diffs}}))
	i.Top = i.add(mustJSON(object{"schemaVersion": 2, "mediaType": manifestType,
		"config": i.describe("application/vnd.oci.image.config.v1+json", i.config), "layers": described}))
	return i
}

// Index returns an index of images.
func Index(images ...Image) Image {
	all := Image{}
	list := []object{}
	for _, i := range images {
		for _, data := range i.Blobs {
			all.add(data)
		}
		d := all.describe(manifestType, i.Top)
		if system, machine, ok := strings.Cut(i.Platform, "/"); ok {
			d["platform"] = object{"os": system, "architecture": machine}
		}
		list = append(list, d)
	}
	all.Top = all.add(mustJSON(object{"schemaVersion": 2, "mediaType": indexType, "manifests": list}))
	return all
}

// MediaType returns the type of a manifest or an index.
func MediaType(data []byte) string {
	var d struct{ MediaType string }
	json.Unmarshal(data, &d)
	return d.MediaType
}

// Layout returns the files of an OCI layout with images.
func Layout(images ...Image) map[string]string {
	files := map[string]string{"oci-layout": `{"imageLayoutVersion":"1.0.0"}`}
	list := []object{}
	for n, i := range images {
		for d, data := range i.Blobs {
			files["blobs/sha256/"+strings.TrimPrefix(string(d), "sha256:")] = string(data)
		}
		d := i.describe(MediaType(i.Blobs[i.Top]), i.Top)
		d["annotations"] = object{"org.opencontainers.image.ref.name": fmt.Sprint("name", n)}
		list = append(list, d)
	}
	files["index.json"] = string(mustJSON(object{"schemaVersion": 2, "manifests": list}))
	return files
}

// Saved returns the files that docker save writes of images.
func Saved(images ...Image) map[string]string {
	files := map[string]string{"repositories": "{}"}
	var list []object
	for n, i := range images {
		name := strings.TrimPrefix(string(i.config), "sha256:") + ".json"
		files[name] = string(i.Blobs[i.config])
		var layers []string
		for at, layer := range i.plain {
			layers = append(layers, fmt.Sprintf("%d-%d/layer.tar", n, at))
			files[layers[at]] = string(layer)
		}
		list = append(list, object{"Config": name, "RepoTags": []string{fmt.Sprintf("name:%d", n)}, "Layers": layers})
	}
	files["manifest.json"] = string(mustJSON(list))
	return files
}

// Tar returns an archive of files. A name that ends in a slash is a directory; a content
// that begins with an arrow is a symbolic link.
func Tar(files map[string]string) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		data := files[name]
		h := tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(data))}
		if target, ok := strings.CutPrefix(data, "-> "); ok {
			h.Typeflag, h.Linkname, h.Size, data = tar.TypeSymlink, target, 0, ""
		}
		if strings.HasSuffix(name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(&h); err != nil {
			panic(err)
		}
		io.WriteString(w, data)
	}
	w.Close()
	return buf.Bytes()
}

// Write writes files into a new directory.
func Write(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// File writes data into a new file.
func File(t testing.TB, data []byte) string {
	t.Helper()
	return filepath.Join(Write(t, map[string]string{"file": string(data)}), "file")
}
