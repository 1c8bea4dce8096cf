package config

import (
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"banger"
)

// env returns a getenv for pairs of names and values.
func env(pairs ...string) func(string) string {
	return func(key string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == key {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func write(t *testing.T, text string) Dirs {
	t.Helper()
	dirs := Dirs{Config: t.TempDir()}
	if err := os.WriteFile(dirs.ConfigFile(), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dirs
}

func TestLoadWithoutFileGivesDefaults(t *testing.T) {
	c, err := load(Dirs{Config: filepath.Join(t.TempDir(), "none")}, env(), "/opt/banger/bin")
	if err != nil {
		t.Fatal(err)
	}
	if c.Memory != banger.GiB || c.Disk != 16*banger.GiB || c.Overlay != 8*banger.GiB || c.DefaultImage != "docker" || c.Driver != "auto" || c.Network != "auto" || !c.NAT || c.User != "dev" || c.LogLevel != slog.LevelInfo {
		t.Errorf("got %+v", c)
	}
	if c.RuntimeDir != "/opt/banger/lib/banger" {
		t.Errorf("runtime dir %s", c.RuntimeDir)
	}
}

func TestLoadReadsEveryKey(t *testing.T) {
	dirs := write(t, `
log_level = "debug"
"runtime_dir" = "~/bundle"
firecracker_bin = "/opt/firecracker"
mapdns_bin = "mapdns"
mapdns_data_file = "~/dns"
ssh_key_path = "~/.ssh/id_ed25519"
namegen_path = "/usr/bin/namegen"
customize_script = "/etc/customize.sh"
default_rootfs = "a.ext4"
default_base_rootfs = "/abs/b.ext4"
default_kernel = "k"
default_initrd = "i"
default_modules_dir = "m"
default_packages_file = "p"
memory = 2_048
vcpus = 4
disk_size = "32G"
overlay_size = "1.5G"
driver = "qemu"
default_image = "trixie"
network = "none"
nat = false
forward = "off"
user = "ann"
`)
	c, err := load(dirs, env("HOME", "/home/you"), "/x")
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		LogLevel: slog.LevelDebug, RuntimeDir: "/home/you/bundle", Driver: "qemu", VCPUs: 4,
		Memory: 2 * banger.GiB, Disk: 32 * banger.GiB, Overlay: 1536 * banger.MiB, DefaultImage: "trixie", Network: "none", Forward: "off", User: "ann",
		FirecrackerBin: "/opt/firecracker", SSHKeyPath: "/home/you/.ssh/id_ed25519", NamegenPath: "/usr/bin/namegen", CustomizeScript: "/etc/customize.sh",
		Legacy: []string{
			"mapdns_bin: " + superseded, "mapdns_data_file: " + superseded,
			"default_rootfs: not yet used", "default_base_rootfs: not yet used", "default_kernel: not yet used",
			"default_initrd: not yet used", "default_modules_dir: not yet used", "default_packages_file: not yet used",
		},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
}

func TestLoadReportsEverythingAtOnce(t *testing.T) {
	dirs := write(t, `memroy = 2048
log_level = "loud"
  vcpus = "four"
disk_size = 16
overlay_size = "16"
memory = true
ssh_key_path = "keys/id"
user = "Ann Lee"
log.level = "info"
[network]
mode = "none"
`)
	_, err := load(dirs, env(), "/x")
	if banger.KindOf(err) != banger.Invalid || banger.FixOf(err) != "correct "+dirs.ConfigFile() {
		t.Fatalf("kind %s, fix %q", banger.KindOf(err), banger.FixOf(err))
	}
	for _, want := range []string{
		dirs.ConfigFile(),
		`line 1, column 1: unknown key "memroy"`,
		`line 2, column 1: log_level: "loud" is not one of debug, info, warn, error`,
		`line 3, column 3: vcpus: want a number, found a string`,
		`line 4, column 1: disk_size: want a size with its unit such as "16G", found an integer`,
		`line 5, column 1: overlay_size: "16" has no unit`,
		`line 6, column 1: memory: want a size such as "2G" or a number of MiB, found a bool`,
		`line 7, column 1: ssh_key_path: "keys/id" is relative`,
		`line 8, column 1: user: "Ann Lee" is not a user's name`,
		`line 9, column 1: unknown key "log.level", perhaps log_level`,
		`line 10, column 2: unknown table "network"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("missing %q in:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "mode") {
		t.Errorf("a key of an unknown table is reported too:\n%v", err)
	}
}

func TestLoadShowsSyntaxErrorsAndDoubles(t *testing.T) {
	for text, want := range map[string]string{
		"vcpus = \n":               "line 1, column",
		"vcpus = 1\nvcpus = 2\n":   "line 2, column 1",
		"mapdns_bin = 1\n[a":       "line 2, column",
		"\n\nlog_level = \"info\n": "line 3, column",
	} {
		_, err := load(write(t, text), env(), "/x")
		if banger.KindOf(err) != banger.Invalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v", text, err)
		}
	}
}

func TestEnvironmentOverridesTheFile(t *testing.T) {
	dirs := write(t, "log_level = \"error\"\nruntime_dir = \"/file\"\ndriver = \"qemu\"\n")
	c, err := load(dirs, env("BANGER_LOG_LEVEL", "warn", "BANGER_RUNTIME_DIR", "rel", "BANGER_DRIVER", "fake"), "/x")
	if err != nil {
		t.Fatal(err)
	}
	abs, _ := filepath.Abs("rel")
	if c.LogLevel != slog.LevelWarn || c.RuntimeDir != abs || c.Driver != "fake" {
		t.Errorf("got %+v", c)
	}
	_, err = load(dirs, env("BANGER_LOG_LEVEL", "loud"), "/x")
	if banger.KindOf(err) != banger.Invalid || !strings.Contains(err.Error(), "BANGER_LOG_LEVEL") {
		t.Errorf("got %v", err)
	}
}

func TestBundleBesideTheExecutable(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"checkout/runtime", "prefix/bin", "prefix/lib/banger", "empty"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for dir, want := range map[string]string{
		"checkout": "checkout/runtime", "prefix/bin": "prefix/lib/banger", "empty": "empty/runtime",
	} {
		if got := bundleBeside(filepath.Join(root, dir)); got != filepath.Join(root, want) {
			t.Errorf("%s: got %s, want %s", dir, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", "memory = 2048", "memory = \"2G\"", "vcpus = 0x4", "[a]\nb = 1", "a.b.c = {d = [1]}", "log_level = \"\"\"\ninfo\"\"\"",
		"disk_size = \"1e99G\"", "ssh_key_path = \"~\"", "\xff", "firecracker_bin = \"\\u0000\"",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := defaults()
		if err != nil {
			t.Fatal(err)
		}
		if problems := parse(&c, data, "/home/you"); len(problems) > 0 {
			return
		}
		if c.Memory <= 0 || c.Disk <= 0 || c.Overlay <= 0 || c.VCPUs < 0 || c.Driver == "" || c.DefaultImage == "" {
			t.Errorf("accepted %q as %+v", data, c)
		}
		for _, path := range []string{c.RuntimeDir, c.SSHKeyPath} {
			if path != "" && !filepath.IsAbs(path) {
				t.Errorf("accepted the relative path %q", path)
			}
		}
	})
}
