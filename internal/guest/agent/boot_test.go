package agent

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger/internal/durable"
	"banger/internal/durable/durabletest"
)

func TestBootStepsOrder(t *testing.T) {
	at := map[string]int{}
	for i, s := range bootSteps {
		if _, twice := at[s.name]; twice || s.name == "" || s.run == nil || s.fix == "" {
			t.Errorf("step %d %q is not complete or not the only one of its name", i, s.name)
		}
		at[s.name] = i
	}
	for _, chain := range [][]string{
		{"mount kernel file systems", "read configuration", "load modules", "find disks", "mount base", "mount root"},
		{"find disks", "mount overlay disk", "mount root", "mount modules disk", "register modprobe"},
		{"mount root", "mount direct directories", "become root"},
		{"mount root", "mount work disk", "become root"},
		{"mount root", "mount run", "keep agent", "register modprobe", "become root"},
		{"keep agent", "find init", "prepare init", "become root", "start server"},
		{"mount root", "find init", "mount temporary directory", "become root", "start server"},
		{"mount terminals and control groups", "become root", "start server"},
		{"write identity", "become root"},
		{"write host key", "become root"},
	} {
		for i := 1; i < len(chain); i++ {
			before, ok1 := at[chain[i-1]]
			after, ok2 := at[chain[i]]
			if !ok1 || !ok2 || before >= after {
				t.Errorf("%q must come before %q", chain[i-1], chain[i])
			}
		}
	}
}

func TestFailingStepIsNamed(t *testing.T) {
	ran := 0
	ok := func(*boot) error { ran++; return nil }
	for name, bad := range map[string]func(*boot) error{
		"error": func(*boot) error { return errors.New("out of luck") },
		"panic": func(*boot) error { panic("out of luck") },
	} {
		t.Run(name, func(t *testing.T) {
			ran = 0
			f := (&boot{}).runSteps([]step{{"first", ok, "x"}, {"second", bad, "do this"}, {"third", ok, "x"}})
			if f == nil || f.Step != "second" || f.Fix != "do this" || !strings.Contains(f.Why, "out of luck") || ran != 1 {
				t.Errorf("got %+v after %d steps", f, ran)
			}
		})
	}
	if f := (&boot{}).runSteps([]step{{"first", ok, "x"}}); f != nil {
		t.Errorf("got %+v", f)
	}
}

func TestHostsFor(t *testing.T) {
	for _, c := range []struct{ old, want string }{
		{"", "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\totter\n"},
		{"127.0.0.1 localhost\n127.0.1.1 builder\n10.0.0.1 db", "127.0.0.1 localhost\n10.0.0.1 db\n127.0.1.1\totter\n"},
	} {
		got := string(hostsFor([]byte(c.old), "otter"))
		if got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
		if again := string(hostsFor([]byte(got), "otter")); again != got {
			t.Errorf("a second boot changes %q to %q", got, again)
		}
	}
}

func TestLargeHostsStayWhole(t *testing.T) {
	root := newTree(t, "etc/", "etc/hosts")
	path := filepath.Join(root, "etc/hosts")
	for _, c := range []struct {
		size    int
		changed bool
	}{{maxSmall - 100, true}, {maxSmall + 1, false}} {
		old := strings.Repeat("#", c.size)
		if err := os.WriteFile(path, []byte(old), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := writeHosts(root, "otter"); err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(path); !strings.Contains(string(got), old) || (string(got) != old) != c.changed {
			t.Errorf("of %d bytes %d are left, changed: %v", c.size, len(got), string(got) != old)
		}
	}
}

func TestEscapePath(t *testing.T) {
	// As systemd-escape --path says.
	for path, want := range map[string]string{
		"/var/lib/docker":                 "var-lib-docker",
		"/var/lib-docker/":                `var-lib\x2ddocker`,
		"/lib/modules/6.12.1+deb13-cloud": `lib-modules-6.12.1\x2bdeb13\x2dcloud`,
		"/.hidden":                        `\x2ehidden`,
		"/a:b_c":                          "a:b_c",
		"/":                               "-",
	} {
		if got := escapePath(path); got != want {
			t.Errorf("%s: got %s, want %s", path, got, want)
		}
	}
}

// newTree makes a directory of files, of directories (a trailing slash) and of
// links (->).
func newTree(t *testing.T, entries ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, e := range entries {
		name, to, link := strings.Cut(e, " -> ")
		path := filepath.Join(root, name)
		var err error
		switch {
		case link:
			err = os.Symlink(to, path)
		case strings.HasSuffix(name, "/"):
			err = os.Mkdir(path, 0o755)
		default:
			err = os.WriteFile(path, []byte("content of "+name), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestWriteInStaysInside(t *testing.T) {
	root := newTree(t, "etc/", "real/", "etc/abs -> /real", "etc/up -> ../../../../real", "etc/resolv.conf -> ../run/systemd/resolv.conf")
	for _, path := range []string{"/etc/abs/file", "/etc/up/other", "/etc/resolv.conf", "/new/dir/file"} {
		if err := writeIn(root, path, []byte("x\n"), 0o640); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	for _, path := range []string{"real/file", "real/other", "etc/resolv.conf", "new/dir/file"} {
		info, err := os.Lstat(filepath.Join(root, path))
		if err != nil || !info.Mode().IsRegular() || info.Mode().Perm() != 0o640 {
			t.Errorf("%s: %v %v", path, info, err)
		}
	}
	if left, _ := filepath.Glob(root + "/*/.*banger*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if got := resolveIn(root, "/etc/abs/file"); got != "/real/file" {
		t.Errorf("resolved to %s", got)
	}
}

func TestWriteInSyncsFirst(t *testing.T) {
	root := newTree(t, "etc/")
	path := filepath.Join(root, "etc/hosts")
	if err := os.WriteFile(path, []byte("the image's"), 0o644); err != nil {
		t.Fatal(err)
	}
	var synced []string
	before := durable.Watch.Load()
	defer durable.Watch.Store(before)
	watch := func(what, next string) {
		if now, err := os.ReadFile(path); err != nil || string(now) != "the image's" {
			t.Errorf("it is replaced already: %q, %v", now, err)
		}
		content, _ := os.ReadFile(next)
		synced = append(synced, what+" "+string(content))
	}
	durable.Watch.Store(&watch)
	if err := writeIn(root, "/etc/hosts", []byte("otter"), 0o644); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(synced, []string{"synced otter"}) {
		t.Errorf("got %q", synced)
	}
}

func TestWriteInLeavesTheSameAlone(t *testing.T) {
	root := newTree(t, "etc/")
	path := filepath.Join(root, "etc/hostname")
	if err := writeIn(root, "/etc/hostname", []byte("otter\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	before, _ := os.Stat(path)
	if err := writeIn(root, "/etc/hostname", []byte("otter\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.Stat(path); !os.SameFile(before, after) {
		t.Error("the file was written again")
	}
}

func TestSeed(t *testing.T) {
	source := newTree(t, "dir/", "dir/file", "link -> dir/file", "plain")
	if err := os.Link(source+"/plain", source+"/dir/second"); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(source+"/dir", 0o2750); err != nil {
		t.Fatal(err)
	}
	parent := t.TempDir()
	target := filepath.Join(parent, "root")
	disk := durabletest.New(t, parent)
	// What an interrupted seeding left is not taken for a whole one.
	if err := os.MkdirAll(target+".seeding/rubbish", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := seed(source+"/.", target); err != nil {
		t.Fatal(err)
	}
	disk.Check(parent)
	entries, err := os.ReadDir(target)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if !slices.Equal(names, []string{"dir", "link", "plain"}) {
		t.Errorf("got %v", names)
	}
	want, _ := os.Stat(source + "/dir")
	got, _ := os.Stat(target + "/dir")
	if got.Mode() != want.Mode() || !got.ModTime().Equal(want.ModTime()) {
		t.Errorf("dir: %v %v, want %v %v", got.Mode(), got.ModTime(), want.Mode(), want.ModTime())
	}
	one, _ := os.Stat(target + "/plain")
	two, _ := os.Stat(target + "/dir/second")
	if !os.SameFile(one, two) {
		t.Error("two names of one file became two files")
	}
	if content, _ := os.ReadFile(target + "/link"); string(content) != "content of dir/file" {
		t.Errorf("through the link: %q", content)
	}
	if err := os.Remove(target + "/plain"); err != nil {
		t.Fatal(err)
	}
	if err := seed(source+"/.", target); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(target + "/plain"); !errors.Is(err, os.ErrNotExist) {
		t.Error("a second boot brought a deleted file back")
	}
}

func TestImageInit(t *testing.T) {
	program := func(root, path string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, path), []byte("x"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	link := func(root, to, path string) {
		t.Helper()
		if err := os.Symlink(to, filepath.Join(root, path)); err != nil {
			t.Fatal(err)
		}
	}
	debian, alpine, bare, none := t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir()
	program(debian, "usr/lib/systemd/systemd")
	link(debian, "usr/lib", "lib")
	link(debian, "usr/sbin", "sbin")
	program(debian, "usr/sbin/other")
	link(debian, "/lib/systemd/systemd", "usr/sbin/init")
	program(alpine, "bin/busybox")
	program(alpine, "sbin/other")
	link(alpine, "/bin/busybox", "sbin/init")
	program(bare, "lib/systemd/systemd")
	program(none, "bin/sh")
	link(none, "/nowhere", "bin/init")
	for _, c := range []struct {
		root, program string
		kind          initKind
	}{
		{debian, "/sbin/init", initSystemd},
		{alpine, "/sbin/init", initOther},
		{bare, "/lib/systemd/systemd", initSystemd},
		{none, "", initNone},
	} {
		if program, kind := imageInit(c.root); program != c.program || kind != c.kind {
			t.Errorf("got %q %q, want %q %q", program, kind, c.program, c.kind)
		}
	}
}
