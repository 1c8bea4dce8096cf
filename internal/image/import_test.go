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
	"reflect"
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
	"banger/internal/hostcmd"
	"banger/internal/oci"
	"banger/internal/oci/ocitest"
	"banger/internal/oci/registry"
	"banger/internal/oci/registry/blob"
	"banger/internal/operation"
	"banger/internal/store"
)

func newImages(t *testing.T) *Images {
	t.Helper()
	dirs := config.Dirs{State: t.TempDir(), Cache: t.TempDir()}
	s, err := store.Open(t.Context(), dirs.DB())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return &Images{Dirs: dirs, Store: s, Log: slog.New(slog.DiscardHandler), Run: hostcmd.Host{}, Registry: &registry.Client{Blobs: blob.Cache{Dir: dirs.Blobs()}, Getenv: func(string) string { return "" }}, Bundled: "docker", Events: event.NewHub(), Operations: &operation.Runner{Log: slog.New(slog.DiscardHandler)}}
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
		"a directory":               {banger.ImportImage{Name: "new", File: "/"}, banger.Invalid, "name an OCI layout, or pack"},
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
	layer := tree(t, map[string]string{"bin/sh": "elf"})
	for name, c := range map[string]struct {
		data     []byte
		why, fix string
	}{
		"docker save, oldest": {tree(t, map[string]string{"ab/layer.tar": "{}", "ab/json": "{}", "repositories": "{}"}), "docker save", "docker export"},
		"for another machine": {ocitest.Tar(ocitest.Layout(ocitest.New("linux/riscv64", nil, layer))), "it is for linux/riscv64", "use an image for linux/"},
		"in a directory":      {tree(t, map[string]string{"box/bin/sh": "", "box/etc/issue": ""}), `directory of the archive, "box"`, "tar -C"},
		"a disk in it":        {tree(t, map[string]string{"disk.img": "{}"}), "none of /bin, /etc", "docker export"},
		"qcow2":               {append([]byte("QFI\xfb"), make([]byte, 4096)...), "the file is a disk of QEMU (qcow2)", "mount it and pack"},
		"partitions":          {append(make([]byte, 510), "\x55\xaaEFI PART"...), "the file is a disk with partitions", "mount it and pack"},
	} {
		for packing, data := range map[string][]byte{"plain": c.data, "gzip": packed(t, c.data)["gzip"]} {
			_, err := i.ImportImage(t.Context(), banger.ImportImage{Name: "new", File: archive(t, data)}, nil)
			if banger.KindOf(err) != banger.Invalid || err == nil || !strings.Contains(err.Error(), c.why) || !strings.Contains(banger.FixOf(err), c.fix) {
				t.Errorf("%s, %s: %v, fix %q", name, packing, err, banger.FixOf(err))
			}
		}
	}
	if after := i.state(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// TestImportOfContainers: every form of an image of a container gives the same image, and
// what it says about its programs is kept beside it and in it.
func TestImportOfContainers(t *testing.T) {
	i := newImages(t)
	config := banger.ImageConfig{Env: []string{"PATH=/opt/bin"}, Entrypoint: []string{"/bin/sh"}, WorkingDir: "/srv", User: "nobody"}
	made := ocitest.New(ocitest.Host, map[string]any{"Env": config.Env, "Entrypoint": config.Entrypoint, "WorkingDir": config.WorkingDir, "User": config.User}, tree(t, map[string]string{"bin/sh": "elf", "etc/gone": "x"}), tree(t, map[string]string{"etc/.wh.gone": "", "srv/a": "b"}))
	layout, saved := ocitest.Tar(ocitest.Layout(made)), ocitest.Tar(ocitest.Saved(made))
	var first banger.Image
	for n, file := range []string{archive(t, layout), archive(t, packed(t, layout)["zstd"]), archive(t, saved), archive(t, packed(t, saved)["gzip"]), ocitest.Write(t, ocitest.Layout(made))} {
		image, err := i.ImportImage(t.Context(), banger.ImportImage{Name: fmt.Sprint("a", n), File: file}, nil)
		if err != nil || n > 0 && image.ID != first.ID {
			t.Errorf("%d: %+v, %v", n, image, err)
		}
		first = image
	}
	all, err := i.ListImages(t.Context())
	if err != nil || len(all) != 5 || all[0].Config == nil || !reflect.DeepEqual(*all[0].Config, config) {
		t.Errorf("%+v, %v", all, err)
	}
	data, err := os.ReadFile(i.Dirs.Image(first.ID).Rootfs())
	if text := `{"env":["PATH=/opt/bin"],"entrypoint":["/bin/sh"],"working_dir":"/srv","user":"nobody"}`; err != nil || !bytes.Contains(data, []byte(text)) {
		t.Errorf("the image has no %s, %v", text, err)
	}
}

// TestImportOfADisk: an ext4 file system is taken as it is, with the label that guests
// look for, and the file that was named stays as it was.
func TestImportOfADisk(t *testing.T) {
	i := newImages(t)
	source := t.TempDir()
	disk := filepath.Join(t.TempDir(), "disk.ext4")
	run := func(argv ...string) {
		t.Helper()
		path, err := i.Run.Look(argv[0])
		if err != nil {
			t.Skip(banger.FixOf(err))
		}
		if _, err := i.Run.Run(t.Context(), hostcmd.Cmd{Argv: append([]string{path}, argv[1:]...)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(source+"/etc", 0o755); err != nil {
		t.Fatal(err)
	}
	run("mke2fs", "-q", "-t", "ext4", "-L", "other", "-d", source, disk, "16M")
	before, err := os.ReadFile(disk)
	if err != nil || os.Chmod(disk, 0o400) != nil {
		t.Fatal(err)
	}
	var notes string
	image, err := i.ImportImage(t.Context(), banger.ImportImage{Name: "disk", File: disk}, func(s banger.Step) { notes += s.Note })
	if err != nil || image.Size != 16*banger.MiB || notes != takenAsItIs {
		t.Fatalf("%+v, %v, note %q", image, err, notes)
	}
	path := i.Dirs.Image(image.ID).Rootfs()
	copied, err := os.ReadFile(path)
	if err != nil || string(copied[1024+0x78:][:11]) != "banger-base" || image.ID != oci.DigestOf(copied) {
		t.Errorf("%q, %v", copied[1024+0x78:][:16], err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o444 {
		t.Errorf("%v, %v", info, err)
	}
	if after, err := os.ReadFile(disk); err != nil || !bytes.Equal(after, before) {
		t.Errorf("the file has changed, %v", err)
	}
	state := i.state(t)
	empty := filepath.Join(t.TempDir(), "empty.ext4")
	run("mke2fs", "-q", "-t", "ext4", empty, "16M")
	damaged := slices.Clone(before)
	copy(damaged[4096:], bytes.Repeat([]byte("x"), 200<<10))
	for file, why := range map[string]string{empty: "is not one of a machine", archive(t, damaged): "the file system has errors", archive(t, before[:1<<20]): ""} {
		_, err := i.ImportImage(t.Context(), banger.ImportImage{Name: "new", File: file}, nil)
		if err == nil || banger.KindOf(err) != banger.Invalid || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v (%s)", why, err, banger.KindOf(err))
		}
	}
	if after := i.state(t); after != state {
		t.Errorf("before:\n%s\nafter:\n%s", state, after)
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
