package build

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/internal/build/kernel"
	"banger/internal/bundle"
	"banger/internal/config"
	"banger/internal/durable/durabletest"
)

// workshop is a bundle and a cache, with makers that write small files and record
// their calls.
type workshop struct {
	t       *testing.T
	opts    Options
	made    []Part
	out     bytes.Buffer
	content string // of the files that the makers write
	failing map[Part]error
}

func newWorkshop(t *testing.T) *workshop {
	w := &workshop{t: t, content: "first", failing: map[Part]error{}}
	w.opts = Options{Dir: config.BundleDir(filepath.Join(t.TempDir(), "runtime")), Packages: filepath.Join(t.TempDir(), "packages.apt"), Cache: t.TempDir()}
	w.write(w.opts.Packages, "systemd\n")
	return w
}

func (w *workshop) write(path, text string) {
	w.t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.RemoveAll(path), os.WriteFile(path, []byte(text), 0o444)); err != nil {
		w.t.Fatal(err)
	}
}

// run builds the bundle and returns the parts that were made.
func (w *workshop) run(ctx context.Context, change func(o *Options)) (made []Part, err error) {
	opts := w.opts
	if change != nil {
		change(&opts)
	}
	w.out.Reset()
	b := &builder{Options: opts, report: &report{out: &w.out}}
	ready := func() error { return nil }
	b.makers = map[Part]maker{
		Kernel: {ready, func(context.Context) (string, error) { return w.kernel(b) }},
		Image:  {ready, func(context.Context) (string, error) { return w.image(b) }},
	}
	w.made = nil
	err = b.run(ctx)
	return w.made, err
}

func (w *workshop) kernel(b *builder) (string, error) {
	w.made = append(w.made, Kernel)
	if err := w.failing[Kernel]; err != nil {
		return "", err
	}
	b.step("unpack it")
	dir := b.Dir.Kernel()
	for _, path := range []string{dir.Vmlinux(), dir.BootModules(), dir.Modules()} {
		w.write(path, w.content+path)
	}
	digest, size, err := bundle.KernelDigest(context.Background(), dir)
	if err != nil {
		return "", err
	}
	built := kernel.Built{Release: "6.1", Digest: digest, Size: size, Recipe: kernel.Recipe}
	text, err := json.Marshal(built)
	w.write(dir.Info(), string(text))
	b.manifest.Kernel = bundle.Kernel{Release: "6.1", Digest: digest, Size: size, Recipe: kernel.Recipe}
	return "6.1", err
}

func (w *workshop) image(b *builder) (string, error) {
	w.made = append(w.made, Image)
	if err := w.failing[Image]; err != nil {
		return "", err
	}
	w.write(b.Dir.Rootfs(), w.content)
	digest, size, err := bundle.FileDigest(context.Background(), b.Dir.Rootfs())
	b.manifest.Image = bundle.Image{
		Name: imageName, File: filepath.Base(b.Dir.Rootfs()), Digest: digest, Size: size, Packages: b.packages, Recipe: imageRecipe, Origin: "test",
	}
	return "test", errors.Join(err, b.copyPackages())
}

// expect runs a build that must make exactly these parts.
func (w *workshop) expect(why string, change func(o *Options), want ...Part) {
	w.t.Helper()
	made, err := w.run(context.Background(), change)
	if err != nil || !slices.Equal(made, want) {
		w.t.Errorf("%s: made %v, want %v: %v", why, made, want, err)
	}
	b, err := bundle.Open(w.opts.Dir)
	if err != nil {
		w.t.Errorf("%s: %v", why, err)
	} else if err := b.Verify(context.Background()); err != nil && b.Image.Digest != "" {
		w.t.Errorf("%s: %v", why, err)
	}
}

func TestBuildMakesWhatIsMissingOrStale(t *testing.T) {
	w := newWorkshop(t)
	dir := w.opts.Dir
	disk := durabletest.New(t, filepath.Dir(string(dir)))
	w.expect("fresh", nil, Kernel, Image)
	disk.Check(string(dir), filepath.Base(dir.Rootfs()), "kernel") // the makers' packages sync these
	if got := w.out.String(); !strings.Contains(got, "kernel: not built yet\n  unpack it\nkernel: done in ") || strings.Contains(got, "daemon") {
		t.Errorf("said %q", got)
	}
	if text, err := os.ReadFile(dir.Packages()); err != nil || string(text) != "systemd\n" {
		t.Errorf("packages.apt has %q, %v", text, err)
	}
	w.expect("again", nil)
	if got := w.out.String(); !strings.Contains(got, "up to date") || strings.Count(got, "\n") != 1 {
		t.Errorf("said %q", got)
	}
	w.expect("verified", func(o *Options) { o.Verify = true })
	w.write(w.opts.Packages, "systemd\ncurl\n")
	w.expect("other packages", nil, Image)
	if got := w.out.String(); !strings.Contains(got, "banger daemon stop") {
		t.Errorf("said %q", got)
	}
	w.expect("forced", func(o *Options) { o.Force, o.Only = true, Kernel }, Kernel)
	if err := os.Remove(dir.Kernel().Modules()); err != nil {
		t.Fatal(err)
	}
	w.expect("a file less", nil, Kernel)
	w.write(dir.Rootfs(), "fir5t") // same size, and perhaps the same time
	later := time.Now().Add(time.Minute)
	if err := os.Chtimes(dir.Rootfs(), later, later); err != nil {
		t.Fatal(err)
	}
	w.expect("other content", nil, Image)
	w.write(dir.Manifest(), "{")
	w.expect("a broken manifest", nil, Image)
	if left, err := filepath.Glob(filepath.Join(string(dir), ".*")); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestBuildReadsACopiedBundleOnce(t *testing.T) {
	w := newWorkshop(t)
	w.expect("fresh", nil, Kernel, Image)
	past := time.Now().Add(-time.Hour)
	if err := os.Chtimes(w.opts.Dir.Manifest(), past, past); err != nil {
		t.Fatal(err)
	}
	w.expect("copied", nil)
	if info, err := os.Stat(w.opts.Dir.Manifest()); err != nil || !info.ModTime().After(past) {
		t.Errorf("the next build would read it again: %v", err)
	}
}

func TestBuildKeepsWhatAFailedOneFinished(t *testing.T) {
	w := newWorkshop(t)
	w.failing[Image] = errors.New("no network")
	if made, err := w.run(context.Background(), nil); err == nil || len(made) != 2 || !strings.Contains(err.Error(), "build.log") {
		t.Errorf("made %v: %v", made, err)
	}
	if _, err := bundle.Open(w.opts.Dir); banger.KindOf(err) != banger.Unready {
		t.Errorf("half a bundle opens: %v", err)
	}
	w.failing[Image] = nil
	w.expect("the rest", nil, Image)
	w.expect("again", nil)

	w.content, w.failing[Image] = "second", errors.New("no network")
	if _, err := w.run(context.Background(), func(o *Options) { o.Force = true }); err == nil {
		t.Error("no error")
	}
	w.expect("the old image with the new kernel", nil)
}

func TestBuildOfOnePart(t *testing.T) {
	w := newWorkshop(t)
	w.expect("kernel", func(o *Options) { o.Only = Kernel }, Kernel)
	w.expect("kernel again", func(o *Options) { o.Only = Kernel })
	w.expect("the rest", nil, Image)
	if err := Build(context.Background(), nil, Options{Only: "roof"}); banger.KindOf(err) != banger.Invalid {
		t.Errorf("got %v", err)
	}
}

func TestBuildsDoNotCollide(t *testing.T) {
	w := newWorkshop(t)
	for _, dir := range []string{string(w.opts.Dir), filepath.Join(w.opts.Cache, "bundle")} {
		held, err := lock(dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.run(context.Background(), nil); banger.KindOf(err) != banger.Conflict {
			t.Errorf("beside a build in %s: %v", dir, err)
		}
		held.Close()
	}
	w.expect("alone", nil, Kernel, Image)
}

func TestCanceledBuildSaysSo(t *testing.T) {
	w := newWorkshop(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	w.expect("fresh", nil, Kernel, Image)
	opts := w.opts
	opts.Verify, opts.Out = true, &w.out
	if err := Build(ctx, nil, opts); banger.KindOf(err) != banger.Canceled {
		t.Errorf("got %v", err)
	}
}

func TestEnoughAddsUpByFileSystem(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	if err := enough(map[string]banger.Size{a: banger.KiB, b: banger.KiB}); err != nil {
		t.Error(err)
	}
	err := enough(map[string]banger.Size{a: 1 << 61, b: 1 << 61})
	if banger.KindOf(err) != banger.Unready || banger.FixOf(err) == "" {
		t.Errorf("got %v", err)
	}
}

func TestReportOnATerminalTimesTheSteps(t *testing.T) {
	var out bytes.Buffer
	r := &report{out: &out, terminal: true}
	r.begin("kernel", asked)
	r.step("one")
	r.step("two")
	r.end("6.1", nil)
	if got, want := out.String(), "kernel: requested\n  one ... 0.0 s\n  two ... 0.0 s\nkernel: done in 0.0 s: 6.1\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestPack(t *testing.T) {
	w := newWorkshop(t)
	w.expect("fresh", nil, Kernel, Image)
	dir := w.opts.Dir
	w.write(dir.Agent(), "agent")
	w.write(filepath.Join(string(dir), "private"), "not to be packed")
	first, second := filepath.Join(t.TempDir(), "dist/a.tar.gz"), filepath.Join(t.TempDir(), "b.tar.gz")
	disk := durabletest.New(t, filepath.Dir(second))
	a, errA := Pack(context.Background(), dir, first)
	b, errB := Pack(context.Background(), dir, second)
	if errA != nil || errB != nil || a != b {
		t.Errorf("%s, %v; %s, %v", a, errA, b, errB)
	}
	disk.Check(second)
	if got, _, err := bundle.FileDigest(context.Background(), first); got != a || err != nil {
		t.Errorf("the archive has %s, not %s: %v", got, a, err)
	}
	want := "kernel/ bundle.json kernel/kernel.json kernel/vmlinux kernel/boot.cpio kernel/modules.ext4 rootfs-docker.ext4 packages.apt agent"
	if got := strings.Join(members(t, first), " "); got != want {
		t.Errorf("packed %s, want %s", got, want)
	}
	w.write(dir.Rootfs(), "other")
	if _, err := Pack(context.Background(), dir, second); banger.KindOf(err) != banger.Unready || !strings.Contains(fmt.Sprint(err), "bundle.json says") {
		t.Errorf("got %v", err)
	}
}

func members(t *testing.T, path string) (names []string) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	plain, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	for archive := tar.NewReader(plain); ; {
		header, err := archive.Next()
		if err == io.EOF {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, header.Name)
	}
}
