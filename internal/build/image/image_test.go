package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger"
	"banger/internal/hostcmd"
)

// host is a model host whose mmdebstrap prints and packs what the test sets.
type host struct {
	lacks string
	says  string
	packs []byte
	fails bool
	ran   []hostcmd.Cmd
	stdin string
}

func (h *host) Look(name string) (string, error) {
	if name == h.lacks {
		return "", errors.New("no such command")
	}
	return "/usr/bin/" + name, nil
}

func (h *host) Run(ctx context.Context, c hostcmd.Cmd) ([]byte, error) {
	h.ran = append(h.ran, c)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	sources, err := io.ReadAll(c.Stdin)
	if err != nil {
		return nil, err
	}
	h.stdin = string(sources)
	// In pieces, as a pipe delivers it.
	for part := range slices.Chunk([]byte(h.says), 7) {
		c.Stderr.Write(part)
	}
	if h.fails {
		return nil, &hostcmd.Error{Argv: c.Argv, Status: 25, Err: errors.New("exit status 25")}
	}
	_, err = c.Stdout.Write(h.packs)
	return nil, err
}

func tree(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for name, data := range files {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "./" + name, Mode: 0o644, Size: int64(len(data))}); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, data)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

var installed = map[string]string{
	"etc/debian_version":  "13.8\n",
	"var/lib/dpkg/status": "Package: a\nStatus: install ok installed\n\nPackage: b\nStatus: deinstall ok config-files\n\nPackage: c\nStatus: install ok installed\n",
	"etc/hostname":        "the build host",
	"etc/fstab":           "# UNCONFIGURED",

	"etc/apt/sources.list":                                          "deb http://mirror.example",
	"etc/apt/sources.list.d/0000.list":                              "deb http://mirror.example",
	"etc/systemd/system/multi-user.target.wants/docker.service":     "",
	"etc/systemd/system/sockets.target.wants/docker.socket":         "",
	"etc/systemd/system/multi-user.target.wants/containerd.service": "",
}

const chatter = `I: running apt-get update...
0 upgraded, 59 newly installed, 0 to remove and 0 not upgraded.
Get:1 http://mirror.example trixie/main amd64 base-files
Unpacking base-files (13.8) ...
Setting up base-files (13.8) ...
0 upgraded, 154 newly installed, 0 to remove and 0 not upgraded.
I: creating tarball...
`

// build runs Build and checks that it leaves nothing but the image.
func build(t *testing.T, h *host, packages string) (string, Built, []string, error) {
	t.Helper()
	if err := Ready(&host{}); err != nil {
		t.Skipf("%v; fix: %s", err, banger.FixOf(err))
	}
	dir := t.TempDir()
	t.Setenv("TMPDIR", t.TempDir())
	list := filepath.Join(dir, "packages.apt")
	if err := os.WriteFile(list, []byte(packages), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out.ext4")
	var steps []string
	percents := 0
	built, err := Build(t.Context(), h, Options{Packages: list, Out: out, Mirror: "http://mirror.example/debian", Done: func(percent int) { percents += percent }}, func(s string) { steps = append(steps, s) })
	for _, d := range []string{os.Getenv("TMPDIR"), dir} {
		left, readErr := filepath.Glob(filepath.Join(d, "*"))
		hidden, _ := filepath.Glob(filepath.Join(d, ".*"))
		left = slices.DeleteFunc(append(left, hidden...), func(p string) bool { return p == list || err == nil && p == out })
		if readErr != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, readErr)
		}
	}
	if err == nil && strings.Contains(h.says, "Unpacking") && percents != 0+1+1 { // 1/177, 2/177, 3/177
		t.Errorf("percents %d", percents)
	}
	return out, built, steps, err
}

func TestBuild(t *testing.T) {
	h := &host{says: chatter, packs: tree(t, installed)}
	out, built, steps, err := build(t, h, "# the system\nsystemd-sysv\n\nvim-tiny # an editor\n")
	if err != nil {
		t.Fatal(err)
	}
	if built.Origin != "debian trixie 13.8, 2 packages" || built.Digest == "" || built.Size == 0 {
		t.Errorf("%+v", built)
	}
	want := []string{"read Debian's package lists", "install 59 packages", "install 154 packages", "pack the installed tree", "write the file system"}
	if !slices.Equal(steps, want) {
		t.Errorf("steps %q", steps)
	}
	if !slices.Contains(h.ran[0].Argv, "--include=systemd-sysv,vim-tiny") || !strings.Contains(h.stdin, "http://mirror.example/debian trixie main") {
		t.Errorf("ran %q with %q", h.ran[0].Argv, h.stdin)
	}
	inspect(t, out)
}

// inspect checks the image with debugfs.
func inspect(t *testing.T, image string) {
	debugfs, err := hostcmd.Host{}.Look("debugfs")
	if err != nil {
		t.Skip("debugfs is not here, so the image is not looked into: sudo apt install e2fsprogs")
	}
	ask := func(request string) string {
		said, err := exec.Command(debugfs, "-R", request, image).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v", request, err)
		}
		return string(said)
	}
	for path, want := range map[string]bool{
		"/etc/hostname": false, "/etc/apt/sources.list": false, "/etc/apt/sources.list.d/0000.list": false,
		"/etc/systemd/system/multi-user.target.wants/docker.service":                false,
		"/etc/systemd/system/multi-user.target.wants/containerd.service":            false,
		"/etc/systemd/system/sockets.target.wants/docker.socket":                    true,
		"/etc/systemd/system/multi-user.target.wants/banger-docker-restart.service": true,
		"/etc/.updated": true, "/var/.updated": true, "/root/.bashrc": true,
	} {
		if there := !strings.Contains(ask("stat "+path), "File not found"); there != want {
			t.Errorf("%s: there %v, want %v", path, there, want)
		}
	}
	if fstab := ask("stat /etc/fstab"); !strings.Contains(fstab, "Size: 0") {
		t.Errorf("fstab: %s", fstab)
	}
	if sources := ask("cat /etc/apt/sources.list.d/debian.sources"); strings.Contains(sources, "mirror.example") || !strings.Contains(sources, "http://deb.debian.org/debian-security") {
		t.Errorf("sources: %s", sources)
	}
}

func TestFailures(t *testing.T) {
	tests := []struct {
		name     string
		host     host
		packages string
		kind     banger.Kind
		fix      string
	}{
		{"no mmdebstrap", host{lacks: "mmdebstrap"}, "less", banger.Unready, installTools},
		{"an unknown package", host{fails: true, says: "E: Unable to locate package nosuch\nE: mmdebstrap failed to run\n"}, "nosuch", banger.Invalid, "correct the name"},
		{"no connection", host{fails: true, says: "E: Failed to fetch http://mirror.example\n"}, "less", banger.Unready, "check the connection"},
		{"another's signature", host{fails: true, says: "E: The repository 'x' is not signed.\n"}, "less", banger.Unready, "use a mirror"},
		{"a failure without a word", host{fails: true}, "less", banger.Unknown, ""},
		{"a tree without packages", host{packs: tree(t, map[string]string{"a": "b"})}, "less", banger.Unknown, ""},
		{"an option for a name", host{}, "less\n--hook=x\n", banger.Invalid, "correct line 2 of"},
		{"two names in a line", host{}, "less more\n", banger.Invalid, "correct line 1 of"},
		{"an empty list", host{}, "# nothing\n", banger.Invalid, "list at least"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, _, err := build(t, &tt.host, tt.packages)
			if err == nil || banger.KindOf(err) != tt.kind || !strings.HasPrefix(banger.FixOf(err), tt.fix) {
				t.Errorf("%v (kind %s, fix %q)", err, banger.KindOf(err), banger.FixOf(err))
			}
		})
	}
}

// TestPackagesOfTheDefaultImage reads packages.apt, which must contain the packages that
// the rest of the image needs.
func TestPackagesOfTheDefaultImage(t *testing.T) {
	packages, err := readPackages("../../../packages.apt")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"systemd-sysv", "udev", "openssh-server", "docker.io", "docker-cli", "kmod", "sudo", "python3", "gcc", "make", "vim", "e2fsprogs", "ncurses-term", "man-db"} {
		if !slices.Contains(packages, name) {
			t.Errorf("%s is not in packages.apt", name)
		}
	}
	slices.Sort(packages)
	if compact := slices.Compact(slices.Clone(packages)); len(compact) != len(packages) {
		t.Error("packages.apt names a package twice")
	}
}
