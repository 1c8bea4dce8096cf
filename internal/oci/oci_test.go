package oci

import (
	"context"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/oci/ocitest"
)

var (
	lower = ocitest.Tar(map[string]string{"bin/sh": "elf", "etc/a": "1"})
	upper = ocitest.Tar(map[string]string{"etc/.wh.a": ""})
	made  = map[string]any{"Env": []string{"PATH=/bin", "A=b"}, "Entrypoint": []string{"/bin/sh"}, "Cmd": []string{"-c"}, "WorkingDir": "/srv", "User": "nobody"}
	whole = ocitest.New(ocitest.Host, made, lower, upper)
	other = ocitest.New("linux/riscv64", nil, lower)
)

func archiveOf(t testing.TB, data []byte) *os.File {
	t.Helper()
	file, err := os.Open(ocitest.File(t, data))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

// contents reads all layers twice.
func contents(s *Stored) (all []string, err error) {
	for _, c := range s.Contents() {
		for range 2 {
			r, err := c.Open()
			if err != nil {
				return nil, err
			}
			data, err := io.ReadAll(r)
			r.Close()
			if err != nil {
				return nil, err
			}
			all = append(all, string(data))
		}
	}
	return all, nil
}

// TestStoredImages: an image is the same in every form.
func TestStoredImages(t *testing.T) {
	inDirectory := map[string]string{}
	for name, data := range ocitest.Layout(whole) {
		inDirectory["./box/"+name] = data
	}
	linked := ocitest.Saved(whole)
	linked["common.tar"] = linked["0-1/layer.tar"]
	linked["0-1/layer.tar"] = "-> ../common.tar"
	both := ocitest.Layout(whole)
	maps.Copy(both, ocitest.Saved(whole)) // as newer Dockers save
	for name, files := range map[string]map[string]string{
		"layout": ocitest.Layout(whole), "index": ocitest.Layout(ocitest.Index(other, whole)), "in a directory": inDirectory,
		"index of an index": ocitest.Layout(ocitest.Index(ocitest.Index(other, whole))),
		"docker save":       ocitest.Saved(whole), "with links": linked, "both": both,
	} {
		s, err := OpenArchive(t.Context(), archiveOf(t, ocitest.Tar(files)))
		if err != nil || s == nil {
			t.Errorf("%s: %v, %v", name, s, err)
			continue
		}
		all, err := contents(s)
		if err != nil || !slices.Equal(all, []string{string(lower), string(lower), string(upper), string(upper)}) {
			t.Errorf("%s: %d contents, %v", name, len(all), err)
		}
		if c := s.Config; len(c.Env) != 2 || c.Entrypoint[0] != "/bin/sh" || c.Cmd[0] != "-c" || c.WorkingDir != "/srv" || c.User != "nobody" {
			t.Errorf("%s: %+v", name, c)
		}
		if name == "in a directory" || name == "with links" {
			continue
		}
		s, err = OpenDir(t.Context(), ocitest.Write(t, files))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if all, err := contents(s); err != nil || len(all) != 4 {
			t.Errorf("%s: directory: %d contents, %v", name, len(all), err)
		}
		s.Close()
	}
}

// TestArchivesOfOtherKinds are not taken for images.
func TestArchivesOfOtherKinds(t *testing.T) {
	for name, data := range map[string][]byte{
		"a system":         ocitest.Tar(map[string]string{"./bin/sh": "", "manifest.json": "[]", "oci-layout": ""}),
		"an empty archive": ocitest.Tar(nil),
		"deep":             ocitest.Tar(map[string]string{"a/b/oci-layout": ""}),
		"no archive":       []byte(strings.Repeat("no archive ", 200)),
		"a cut archive":    ocitest.Tar(ocitest.Layout(whole))[:1100],
		"an empty file":    nil,
	} {
		if s, err := OpenArchive(t.Context(), archiveOf(t, data)); s != nil || err != nil {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
}

// TestDamagedImages: whatever is wrong with an image is said, and has a fix.
func TestDamagedImages(t *testing.T) {
	change := func(files map[string]string, change func(files map[string]string)) map[string]string {
		change(files)
		return files
	}
	blobs := func(files map[string]string, do func(name, data string)) {
		for name, data := range maps.Clone(files) {
			if strings.HasPrefix(name, "blobs/") {
				do(name, data)
			}
		}
	}
	layered := func(data string) bool { return strings.HasPrefix(data, "\x1f\x8b") }
	wrong := ocitest.New(ocitest.Host, nil, lower)
	for name, c := range map[string]struct {
		files map[string]string
		why   string
	}{
		"another machine":     {ocitest.Layout(ocitest.Index(other)), "it is for linux/riscv64, and VMs are " + ocitest.Host},
		"another, no index":   {ocitest.Layout(other), "it is for linux/riscv64"},
		"another, saved":      {ocitest.Saved(other), "it is for linux/riscv64"},
		"two images":          {ocitest.Layout(whole, wrong), `it holds 2 images: "name0", "name1"`},
		"two saved":           {ocitest.Saved(whole, wrong), `it holds 2 images: "name:0", "name:1"`},
		"none":                {ocitest.Layout(), "it has no images"},
		"none saved":          {ocitest.Saved(), "it holds no image"},
		"indexes without end": {ocitest.Layout(ocitest.Index(ocitest.Index(ocitest.Index(ocitest.Index(whole))))), "its indexes lead to other indexes"},
		"no index":            {change(ocitest.Layout(whole), func(f map[string]string) { delete(f, "index.json") }), `the image lacks "index.json"`},
		"no JSON":             {change(ocitest.Layout(whole), func(f map[string]string) { f["index.json"] = "[" }), "index.json is damaged"},
		"a missing blob":      {change(ocitest.Layout(whole), func(f map[string]string) { blobs(f, func(n, _ string) { delete(f, n) }) }), `the image lacks "blobs/sha256/`},
		"a missing layer": {change(ocitest.Layout(whole), func(f map[string]string) {
			blobs(f, func(n, d string) {
				if layered(d) {
					delete(f, n)
				}
			})
		}), `the image lacks "blobs/sha256/`},
		"a damaged document": {change(ocitest.Layout(whole), func(f map[string]string) {
			blobs(f, func(n, d string) {
				if !layered(d) {
					f[n] = " " + d[1:]
				}
			})
		}), "is damaged: its content is not what its digest says"},
		"a cut layer": {change(ocitest.Layout(whole), func(f map[string]string) {
			blobs(f, func(n, d string) {
				if layered(d) {
					f[n] = d[:len(d)/2]
				}
			})
		}), "unpack gzip"},
		"another layer":   {change(ocitest.Saved(whole), func(f map[string]string) { f["0-0/layer.tar"] += strings.Repeat("\x00", 512) }), "is damaged: its content is sha256:"},
		"a huge document": {change(ocitest.Layout(whole), func(f map[string]string) { f["index.json"] = strings.Repeat(" ", int(MaxDocument)+1) }), "has more than 4M"},
		"a layer more": {change(ocitest.Saved(whole), func(f map[string]string) {
			f["manifest.json"] = strings.Replace(f["manifest.json"], `"0-0/`, `"0-1/layer.tar","0-0/`, 1)
		}), "its manifest has 3 layers, and its configuration 2"},
		"invalid digests": {change(ocitest.Layout(whole), func(f map[string]string) {
			f["index.json"] = strings.ReplaceAll(f["index.json"], "sha256:", "sha256:../../")
		}), "is not a digest"},
		"an artifact":      {ocitest.Layout(artifact()), "it is not an image of a container"},
		"the first format": {ocitest.Layout(document1()), "the format of 2014"},
	} {
		s, err := OpenArchive(t.Context(), archiveOf(t, ocitest.Tar(c.files)))
		if err == nil && s != nil {
			_, err = contents(s)
		}
		if banger.KindOf(err) != banger.Invalid || !strings.Contains(err.Error(), c.why) || banger.FixOf(err) == "" {
			t.Errorf("%s: %v (%s), fix %q", name, err, banger.KindOf(err), banger.FixOf(err))
		}
	}
}

func raw(document string) ocitest.Image {
	d := DigestOf([]byte(document))
	return ocitest.Image{Top: d, Blobs: map[banger.Digest][]byte{d: []byte(document)}}
}

func artifact() ocitest.Image {
	return raw(`{"schemaVersion":2,"config":{"mediaType":"application/vnd.cncf.helm.config.v1+json","digest":"sha256:` + strings.Repeat("a", 64) + `"}}`)
}

func document1() ocitest.Image { return raw(`{"schemaVersion":1,"fsLayers":[]}`) }

// TestDirectoriesAreHostile: what a layout names is looked for only in it, and is a file.
func TestDirectoriesAreHostile(t *testing.T) {
	outside := ocitest.File(t, []byte("[]"))
	for name, put := range map[string]func(path string) error{
		"a link out":  func(path string) error { return os.Symlink(outside, path) },
		"a pipe":      func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"a directory": func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		dir := ocitest.Write(t, map[string]string{"oci-layout": ""})
		if err := put(dir + "/index.json"); err != nil {
			t.Fatal(err)
		}
		if s, err := OpenDir(t.Context(), dir); err == nil {
			t.Errorf("%s: %+v", name, s)
		}
	}
	if _, err := OpenDir(t.Context(), t.TempDir()); banger.KindOf(err) != banger.Invalid || !strings.Contains(banger.FixOf(err), "tar -C") {
		t.Errorf("%v, fix %q", err, banger.FixOf(err))
	}
}

// FuzzDocuments: whatever documents say, they describe an image or are refused.
func FuzzDocuments(f *testing.F) {
	for _, data := range whole.Blobs {
		f.Add(data, data)
	}
	f.Add(ocitest.Index(whole, other).Blobs[ocitest.Index(whole, other).Top], whole.Blobs[whole.Top])
	f.Fuzz(func(t *testing.T, top, next []byte) {
		get := func(_ context.Context, d Descriptor) ([]byte, error) {
			if d.Digest == DigestOf(top) {
				return top, nil
			}
			return next, nil
		}
		i, err := Find(context.Background(), get, Descriptor{Digest: DigestOf(top)})
		if err != nil && banger.KindOf(err) != banger.Invalid {
			t.Errorf("not an Invalid error: %v", err)
		}
		for _, layer := range i.Layers {
			if err == nil && (!validDigest(string(layer.Digest)) || !validDigest(string(layer.DiffID))) {
				t.Errorf("%+v", layer)
			}
		}
	})
}

// FuzzStored: archives and their lists are read, refused, or taken for something else.
func FuzzStored(f *testing.F) {
	f.Add(ocitest.Tar(ocitest.Layout(whole)))
	f.Add(ocitest.Tar(ocitest.Saved(whole)))
	f.Fuzz(func(t *testing.T, data []byte) {
		fd, err := unix.MemfdCreate("archive", unix.MFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		file := os.NewFile(uintptr(fd), "archive")
		defer file.Close()
		if _, err := file.Write(data); err != nil {
			t.Fatal(err)
		}
		s, err := OpenArchive(context.Background(), file)
		if err == nil && s != nil {
			_, err = contents(s)
		}
		if err != nil && banger.KindOf(err) != banger.Invalid {
			t.Errorf("not an Invalid error: %v", err)
		}
	})
}
