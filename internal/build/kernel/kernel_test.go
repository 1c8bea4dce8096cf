package kernel

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"banger"
	"banger/internal/bundle"
	"banger/internal/config"
	"banger/internal/durable/durabletest"
	"banger/internal/hostcmd"
)

// bzImage returns a bootable image that contains a compressed kernel.
func bzImage(t *testing.T, plain []byte, compression string) []byte {
	t.Helper()
	var packed bytes.Buffer
	switch compression {
	case "gzip":
		w := gzip.NewWriter(&packed)
		w.Write(plain)
		w.Close()
	case "zstd":
		w, err := zstd.NewWriter(&packed)
		if err != nil {
			t.Fatal(err)
		}
		w.Write(plain)
		w.Close()
	default:
		packed.WriteString(compression)
	}
	if compression != "gzip" { // gzip's own format ends with the size
		binary.Write(&packed, binary.LittleEndian, uint32(len(plain)))
	}
	const sects, gap = 2, 16
	image := make([]byte, (sects+1)*512+gap)
	image[offSetupSects] = sects
	copy(image[offMagic:], "HdrS")
	binary.LittleEndian.PutUint32(image[offPayload:], gap)
	binary.LittleEndian.PutUint32(image[offPayloadLength:], uint32(packed.Len()))
	return append(append(image, packed.Bytes()...), "what follows"...)
}

func TestExtractVmlinux(t *testing.T) {
	plain := append(moduleELF("x=y"), make([]byte, 100_000)...)
	dir := t.TempDir()
	for i, test := range []struct{ name, compression, want string }{
		{"gzip", "gzip", ""},
		{"zstd", "zstd", ""},
		{"a known one", "\xfd7zXZ\x00 and so on", "compressed with xz"},
		{"an unknown one", "who knows", "compression is unknown"},
	} {
		image, out := filepath.Join(dir, fmt.Sprint("image", i)), filepath.Join(dir, fmt.Sprint("out", i))
		if err := os.WriteFile(image, bzImage(t, plain, test.compression), 0o644); err != nil {
			t.Fatal(err)
		}
		err := extractVmlinux(image, out)
		if test.want != "" {
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: %v", test.name, err)
			}
			continue
		}
		if got, readErr := os.ReadFile(out); err != nil || readErr != nil || !bytes.Equal(got, plain) {
			t.Errorf("%s: %d bytes of %d: %v, %v", test.name, len(got), len(plain), err, readErr)
		}
	}
}

func FuzzExtractVmlinux(f *testing.F) {
	plain := moduleELF("x=y")
	for _, compression := range []string{"gzip", "\x02\x21\x4c\x18...."} {
		f.Add(bzImage(&testing.T{}, plain, compression))
	}
	f.Fuzz(func(t *testing.T, image []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "image"), image, 0o600); err != nil {
			t.Fatal(err)
		}
		extractVmlinux(filepath.Join(dir, "image"), filepath.Join(dir, "out")) // must not panic or run out of memory
	})
}

// ar packs members as in a .deb.
func ar(members ...[]byte) []byte {
	names := []string{"debian-binary", "control.tar.xz", "data.tar.xz"}
	out := bytes.NewBufferString(arMagic)
	for i, data := range members {
		fmt.Fprintf(out, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", names[i], 0, 0, 0, "100644", len(data))
		out.Write(data)
		if len(data)%2 == 1 {
			out.WriteByte('\n')
		}
	}
	return out.Bytes()
}

func kernelDeb(t *testing.T, modules map[string][]byte) []byte {
	t.Helper()
	files := map[string][]byte{"./boot/vmlinuz-" + testRelease: bzImage(t, moduleELF("x=y"), "zstd"), "./boot/config-" + testRelease: []byte("CONFIG_X=y")}
	for name, data := range modules {
		files["./usr/lib/modules/"+testRelease+"/"+name] = data
	}
	var data bytes.Buffer
	w := tar.NewWriter(&data)
	for name, content := range files {
		w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg})
		w.Write(content)
	}
	w.WriteHeader(&tar.Header{Name: "./usr/lib/modules/" + testRelease + "/../../../evil", Size: 4, Typeflag: tar.TypeReg})
	w.Write([]byte("evil"))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return ar([]byte("2.0\n"), []byte("odd"), packXZ(t, data.Bytes()))
}

// archive models a host's apt and a mirror with one kernel.
type archive struct {
	deb       []byte
	sum       string // the SHA-256 in the index
	downloads int
	unwell    string // what "update" prints before it fails
}

const debName = "linux-image-" + testRelease + "_6.1-1_amd64.deb"

func newArchive(t *testing.T) *archive {
	deb := kernelDeb(t, testModules(t))
	return &archive{deb: deb, sum: fmt.Sprintf("%x", sha256.Sum256(deb))}
}

func (a *archive) Look(name string) (string, error) { return "/usr/bin/" + name, nil }

func (a *archive) Run(ctx context.Context, c hostcmd.Cmd) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	switch strings.Join(c.Argv, " ") {
	case "apt-config dump":
		return []byte("APT \"\";\nAcquire::http::Proxy \"http://proxy.example:3142\";\n"), nil
	case "apt-get -q update":
		if a.unwell != "" {
			return nil, &hostcmd.Error{Argv: c.Argv, Status: 100, Stderr: a.unwell, Err: errors.New("exit status 100")}
		}
		return nil, nil
	case "apt-cache show --no-all-versions linux-image-cloud-amd64":
		return []byte("Package: linux-image-cloud-amd64\nDepends: linux-image-" + testRelease + " (= 6.1-1)\n"), nil
	case "apt-get -q download --print-uris linux-image-" + testRelease:
		if _, err := os.Stat(filepath.Join(c.Dir, debName)); err == nil {
			return nil, nil // as apt does
		}
		return fmt.Appendf(nil, "'http://mirror.example/%[1]s' %[1]s %[2]d SHA256:%[3]s\n", debName, len(a.deb), a.sum), nil
	case "apt-get -q download linux-image-" + testRelease:
		a.downloads++
		return nil, os.WriteFile(filepath.Join(c.Dir, debName), a.deb, 0o644)
	}
	return nil, fmt.Errorf("the model knows no %q", c.Argv)
}

func TestBuild(t *testing.T) {
	ctx, dir, a := context.Background(), t.TempDir(), newArchive(t)
	opts := Options{Out: config.KernelDir(filepath.Join(dir, "kernel")), WorkDir: filepath.Join(dir, "work"), Keyring: "/k.gpg"}
	var first Built
	disk := durabletest.New(t, dir)
	for round := range 2 { // the second one replaces the first
		if err := os.MkdirAll(filepath.Join(dir, ".kernel.new/tree"), 0o755); err != nil { // as a killed build leaves it
			t.Fatal(err)
		}
		built, err := Build(ctx, a, opts, nil)
		if err != nil {
			t.Fatal(err)
		}
		if round == 0 {
			first = built
		}
		if built != first {
			t.Errorf("built %+v, and then %+v", first, built)
		}
		disk.Check(string(opts.Out))
	}
	if a.downloads != 1 {
		t.Errorf("%d downloads, want 1", a.downloads)
	}
	if first.Release != testRelease || first.Origin != "linux-image-6.1.0-test_6.1-1_amd64 of Debian trixie" {
		t.Errorf("built %+v", first)
	}
	if digest, size, err := bundle.KernelDigest(ctx, opts.Out); err != nil || digest != first.Digest || size != first.Size {
		t.Errorf("the set has %s and %v: %v", digest, size, err)
	}
	var told Built
	if text, err := os.ReadFile(opts.Out.Info()); err != nil || json.Unmarshal(text, &told) != nil || told != first {
		t.Errorf("kernel.json has %+v: %v", told, err)
	}
	if info, err := os.Stat(opts.Out.Vmlinux()); err != nil || info.Mode() != 0o444 {
		t.Errorf("vmlinux: %v, %v", info.Mode(), err)
	}
	if got := names(t, string(opts.Out)); !slices.Equal(got, []string{"boot.cpio", "kernel.json", "modules.ext4", "vmlinux"}) {
		t.Errorf("the set has %v", got)
	}
	if got := names(t, dir); !slices.Equal(got, []string{"kernel", "work"}) {
		t.Errorf("left %v", got)
	}
	if conf, err := os.ReadFile(filepath.Join(opts.WorkDir, "apt/apt.conf")); err != nil || !strings.Contains(string(conf), "proxy.example") {
		t.Errorf("the host's proxy is not in apt.conf: %v", err)
	}
}

func TestBuildFailsWithoutLeftovers(t *testing.T) {
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	for name, test := range map[string]struct {
		ctx    context.Context
		change func(a *archive)
		kind   banger.Kind
		want   string
	}{
		"canceled":       {canceled, func(a *archive) {}, banger.Canceled, "canceled"},
		"no network":     {nil, func(a *archive) { a.unwell = "Could not resolve 'mirror.example'" }, banger.Unready, "Could not resolve"},
		"bad signature":  {nil, func(a *archive) { a.unwell = "The following signatures were invalid: BADSIG" }, banger.Unknown, "BADSIG"},
		"wrong content":  {nil, func(a *archive) { a.sum = strings.Repeat("0", 64) }, banger.Unknown, "the archive says 0000"},
		"broken package": {nil, func(a *archive) { a.deb = a.deb[:len(a.deb)/2]; a.sum = fmt.Sprintf("%x", sha256.Sum256(a.deb)) }, banger.Unknown, "data.tar.xz"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, a := t.TempDir(), newArchive(t)
			test.change(a)
			if test.ctx == nil {
				test.ctx = context.Background()
			}
			_, err := Build(test.ctx, a, Options{Out: config.KernelDir(filepath.Join(dir, "kernel")), WorkDir: filepath.Join(dir, "work")}, nil)
			if err == nil || !strings.Contains(err.Error(), test.want) || banger.KindOf(err) != test.kind {
				t.Errorf("got %v, kind %s", err, banger.KindOf(err))
			}
			if got := names(t, dir); !slices.Equal(got, []string{"work"}) {
				t.Errorf("left %v", got)
			}
		})
	}
}

func names(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}
