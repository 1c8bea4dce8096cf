package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"banger"
	"banger/internal/config"
	"banger/internal/durable/durabletest"
	"banger/internal/event"
	"banger/internal/operation"
	"banger/internal/store"
)

func newImages(t *testing.T) *Images {
	t.Helper()
	dirs := config.Dirs{State: t.TempDir()}
	s, err := store.Open(t.Context(), dirs.DB())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return &Images{Dirs: dirs, Store: s, Log: slog.New(slog.DiscardHandler), Bundled: "docker", Events: event.NewHub(), Operations: &operation.Runner{Log: slog.New(slog.DiscardHandler)}}
}

// state returns all files and records as text.
func (i *Images) state(t *testing.T) string {
	t.Helper()
	var out strings.Builder
	err := filepath.WalkDir(i.Dirs.State, func(path string, _ os.DirEntry, err error) error {
		if !strings.HasPrefix(path, i.Dirs.DB()) {
			fmt.Fprintln(&out, strings.TrimPrefix(path, i.Dirs.State))
		}
		return err
	})
	known, errK := i.Store.KnownImages(t.Context())
	named, errN := i.Store.Images(t.Context())
	if err := errors.Join(err, errK, errN); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(&out, known, named)
	return out.String()
}

func archive(t *testing.T, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rootfs.tar")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func small(t *testing.T) []byte { return tree(t, map[string]string{"etc/issue": "hello\n"}) }

func tree(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for name, data := range files {
		err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(data))})
		if err == nil {
			_, err = io.WriteString(w, data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestImport(t *testing.T) {
	i := newImages(t)
	disk := durabletest.New(t, i.Dirs.State)
	plain := small(t)
	var steps []string
	first, err := i.ImportImage(t.Context(), banger.ImportImage{Name: "plain", File: archive(t, plain)}, func(e banger.Step) {
		if e.Done {
			steps = append(steps, e.Step)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"check the name", "read the archive", "write the file system", "record"}; !slices.Equal(steps, want) {
		t.Errorf("steps %q", steps)
	}
	disk.Check(string(i.Dirs.Image(first.ID)))
	if info, err := os.Stat(i.Dirs.Image(first.ID).Rootfs()); err != nil || info.Mode().Perm() != 0o444 || banger.Size(info.Size()) != first.Size {
		t.Errorf("%v, %v", info, err)
	}
	if first.Name != "plain" || first.Origin != "rootfs.tar" || first.CreatedAt.IsZero() {
		t.Errorf("%+v", first)
	}
	for kind, data := range packed(t, plain) {
		same, err := i.ImportImage(t.Context(), banger.ImportImage{Name: kind, File: archive(t, data), Origin: "a test"}, nil)
		if err != nil || same.ID != first.ID || same.Name != kind {
			t.Errorf("%s: %+v, %v", kind, same, err)
		}
		_, err = i.ImportImage(t.Context(), banger.ImportImage{Name: "torn", File: archive(t, data[:len(data)-9])}, nil)
		if banger.KindOf(err) != banger.Invalid || !strings.Contains(err.Error(), `import image "torn"`) || banger.FixOf(err) == "" {
			t.Errorf("torn %s: %v, fix %q", kind, err, banger.FixOf(err))
		}
	}
	if files, err := os.ReadDir(i.Dirs.Images()); err != nil || len(files) != 1 {
		t.Errorf("files: %v, %v", files, err)
	}
	if named, err := i.Store.Images(t.Context()); err != nil || len(named) != 4 {
		t.Errorf("names: %v, %v", named, err)
	}
}

func packed(t *testing.T, plain []byte) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for kind, open := range map[string]func(io.Writer) (io.WriteCloser, error){
		"gzip": func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil },
		"xz":   func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) },
		"zstd": func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) },
	} {
		var buf bytes.Buffer
		w, err := open(&buf)
		if err == nil {
			_, err = w.Write(plain)
		}
		if err := errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		all[kind] = buf.Bytes()
	}
	return all
}

func TestImportIsRefused(t *testing.T) {
	i := newImages(t)
	file := archive(t, small(t))
	if _, err := i.ImportImage(t.Context(), banger.ImportImage{Name: "taken", File: file}, nil); err != nil {
		t.Fatal(err)
	}
	before := i.state(t)
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		spec banger.ImportImage
		kind banger.Kind
		fix  string
	}{
		"a name that an image has":  {banger.ImportImage{Name: "taken", File: file}, banger.Conflict, "banger image delete taken, or"},
		"the name of the bundle's":  {banger.ImportImage{Name: "docker", File: file}, banger.Conflict, "choose another name"},
		"no name":                   {banger.ImportImage{File: file}, banger.Invalid, "use lower-case"},
		"a name that is a path":     {banger.ImportImage{Name: "../x", File: file}, banger.Invalid, "use lower-case"},
		"a relative path":           {banger.ImportImage{Name: "new", File: "x.tar"}, banger.Invalid, "give the file's absolute path"},
		"no such file":              {banger.ImportImage{Name: "new", File: file + "x"}, banger.NotFound, "name a file"},
		"a directory":               {banger.ImportImage{Name: "new", File: "/"}, banger.Invalid, "name a file"},
		"a pipe that nobody writes": {banger.ImportImage{Name: "new", File: pipe}, banger.Invalid, "name a file"},
		"an empty file":             {banger.ImportImage{Name: "new", File: archive(t, nil)}, banger.Invalid, "create the archive again"},
		"no archive":                {banger.ImportImage{Name: "new", File: archive(t, bytes.Repeat([]byte("no archive "), 200))}, banger.Invalid, "download or create"},
	} {
		_, err := i.ImportImage(t.Context(), c.spec, nil)
		if banger.KindOf(err) != c.kind || !strings.HasPrefix(banger.FixOf(err), c.fix) {
			t.Errorf("%s: %v (%s), fix %q", name, err, banger.KindOf(err), banger.FixOf(err))
		}
	}
	if after := i.state(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// TestImportOfWhatIsNoRootFileSystem: an import recognises archives of other kinds by
// their content, refuses them, and leaves nothing.
func TestImportOfWhatIsNoRootFileSystem(t *testing.T) {
	i := newImages(t)
	if err := os.MkdirAll(i.Dirs.Images(), 0o700); err != nil {
		t.Fatal(err)
	}
	before := i.state(t)
	for name, c := range map[string]struct {
		files    []string
		why, fix string
	}{
		"docker save":         {[]string{"blobs/sha256/ab", "index.json", "manifest.json", "oci-layout", "repositories"}, "docker save", "docker export"},
		"docker save, old":    {[]string{"ab/layer.tar", "ab/json", "ab/VERSION", "cd.json", "manifest.json", "repositories"}, "docker save", "docker export"},
		"docker save, oldest": {[]string{"ab/layer.tar", "ab/json", "ab/VERSION", "repositories"}, "docker save", "docker export"},
		"podman save":         {[]string{"ab.tar", "cd.json", "manifest.json"}, "docker save", "docker export"},
		"OCI layout":          {[]string{"blobs/sha256/ab", "index.json", "oci-layout"}, "OCI image", "docker export"},
		"OCI, in a directory": {[]string{"box/blobs/sha256/ab", "box/index.json", "box/oci-layout"}, "OCI image", "docker export"},
		"in a directory":      {[]string{"box/bin/sh", "box/etc/issue"}, `directory of the archive, "box"`, "tar -C"},
		"a disk":              {[]string{"disk.img"}, "none of /bin, /etc", "docker export"},
	} {
		files := map[string]string{}
		for _, file := range c.files {
			files[file] = "{}"
		}
		_, err := i.ImportImage(t.Context(), banger.ImportImage{Name: "new", File: archive(t, tree(t, files))}, nil)
		if banger.KindOf(err) != banger.Invalid || err == nil || !strings.Contains(err.Error(), c.why) || !strings.Contains(banger.FixOf(err), c.fix) {
			t.Errorf("%s: %v, fix %q", name, err, banger.FixOf(err))
		}
	}
	if after := i.state(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

func TestImportNotesAnImageWithNothingToRun(t *testing.T) {
	i := newImages(t)
	for name, c := range map[string]struct {
		files map[string]string
		note  string
	}{
		"nothing": {map[string]string{"etc/issue": "", "app/server": "elf"}, nothingToRun},
		"shell":   {map[string]string{"etc/issue": "", "bin/sh": "elf", "manifest.json": "{}"}, ""},
		"init":    {map[string]string{"sbin/init": "elf"}, noShell},
		"other":   {map[string]string{"sbin/init": "elf", "usr/bin/sh": "elf"}, noShell},
		"script":  {map[string]string{"bin/sh": "#!/usr/bin/real -x\n"}, "the image's shell, /bin/sh, needs /usr/bin/real, which the image does not have: `banger vm ssh` cannot log in"},
		"whole":   {map[string]string{"bin/sh": "#!/usr/bin/real -x\n", "usr/bin/real": "elf"}, ""},
	} {
		var notes string
		_, err := i.ImportImage(t.Context(), banger.ImportImage{Name: name, File: archive(t, tree(t, c.files))}, func(s banger.Step) { notes += s.Note })
		if err != nil || notes != c.note {
			t.Errorf("%s: %v, note %q", name, err, notes)
		}
	}
}

// TestImportRefusesAnotherMachine: none of its programs could run.
func TestImportRefusesAnotherMachine(t *testing.T) {
	i := newImages(t)
	for _, name := range []string{"bin/sh", "sbin/init", "bin/busybox"} {
		program := "\x7fELF\x02\x01" + strings.Repeat("\x00", 12) + "\xf3\x00" + strings.Repeat("\x00", 44) // RISC-V
		_, err := i.ImportImage(t.Context(), banger.ImportImage{Name: "riscv", File: archive(t, tree(t, map[string]string{name: program}))}, nil)
		if banger.KindOf(err) != banger.Invalid || !strings.Contains(err.Error(), "/"+name+" has EM_RISCV") || !strings.Contains(banger.FixOf(err), "--platform linux/") {
			t.Errorf("%s: %v, fix %q", name, err, banger.FixOf(err))
		}
	}
}

// TestEveryStepOfAnImportFails: an import that fails or is cancelled at any step leaves
// nothing, and the next one succeeds.
func TestEveryStepOfAnImportFails(t *testing.T) {
	i := newImages(t)
	spec := banger.ImportImage{Name: "new", File: archive(t, small(t))}
	if err := os.MkdirAll(i.Dirs.Images(), 0o700); err != nil {
		t.Fatal(err)
	}
	before := i.state(t)
	for _, failing := range []string{"check the name", "read the archive", "write the file system", "record"} {
		injected := errors.New("injected")
		i.Operations.Before = func(step string) error {
			if step == failing {
				return injected
			}
			return nil
		}
		if _, err := i.ImportImage(t.Context(), spec, nil); !errors.Is(err, injected) {
			t.Errorf("%s: %v", failing, err)
		}
		if after := i.state(t); after != before {
			t.Errorf("%s: before:\n%s\nafter:\n%s", failing, before, after)
		}
		ctx, cancel := context.WithCancel(t.Context())
		i.Operations.Before = func(step string) error {
			if step == failing {
				cancel() // the step itself must notice
			}
			return nil
		}
		if _, err := i.ImportImage(ctx, spec, nil); err == nil {
			t.Errorf("%s: a cancelled import succeeded", failing)
		} else if kind := banger.KindOf(err); kind != banger.Canceled {
			t.Errorf("%s: cancelled: %s %v", failing, kind, err)
		}
		if after := i.state(t); after != before {
			t.Errorf("%s: before:\n%s\nafter cancelling:\n%s", failing, before, after)
		}
		cancel()
	}
	i.Operations.Before = nil
	if _, err := i.ImportImage(t.Context(), spec, nil); err != nil {
		t.Error(err)
	}
}

func TestImportWhileDeleting(t *testing.T) {
	i := newImages(t)
	file := archive(t, small(t))
	if _, err := i.ImportImage(t.Context(), banger.ImportImage{Name: "a0", File: file}, nil); err != nil {
		t.Fatal(err)
	}
	for n := range 8 {
		next := fmt.Sprint("a", n+1)
		var both sync.WaitGroup
		both.Go(func() {
			if err := i.DeleteImage(t.Context(), fmt.Sprint("a", n), nil); err != nil {
				t.Error(err)
			}
		})
		both.Go(func() {
			image, err := i.ImportImage(t.Context(), banger.ImportImage{Name: next, File: file}, nil)
			if err != nil {
				t.Error(err)
			}
			both.Go(func() {
				if _, err := os.Stat(i.Dirs.Image(image.ID).Rootfs()); err != nil {
					t.Error(err)
				}
			})
		})
		both.Wait()
	}
	if names, err := i.Store.Images(t.Context()); err != nil || len(names) != 1 {
		t.Errorf("%v, %v", names, err)
	}
}

func TestSweep(t *testing.T) {
	i := newImages(t)
	if err := i.sweep(t.Context()); err != nil {
		t.Errorf("before anything is there: %v", err)
	}
	image, err := i.ImportImage(t.Context(), banger.ImportImage{Name: "kept", File: archive(t, small(t))}, nil)
	if err != nil {
		t.Fatal(err)
	}
	before := i.state(t)
	stage, errS := os.MkdirTemp(i.Dirs.Images(), i.Dirs.NewImage())
	lost := i.Dirs.Image(banger.Digest("sha256:" + strings.Repeat("5", 64)))
	err = errors.Join(errS, os.WriteFile(filepath.Join(stage, "rootfs.ext4"), nil, 0o400), os.Mkdir(string(lost), 0o700), i.sweep(t.Context()))
	if after := i.state(t); err != nil || after != before {
		t.Errorf("%v, before:\n%s\nafter:\n%s", err, before, after)
	}
	if _, err := os.Stat(i.Dirs.Image(image.ID).Rootfs()); err != nil {
		t.Error(err)
	}
}
