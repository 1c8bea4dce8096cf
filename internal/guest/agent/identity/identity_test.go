package identity

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"

	"banger/internal/guest/agent/inroot"
	"banger/internal/guest/agent/layout"
	"banger/internal/guest/wire"
)

func TestHostsFor(t *testing.T) {
	const local = "127.0.0.1 localhost\n"
	for _, c := range []struct{ old, previous, want string }{
		{"", "", "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\totter\n"},
		{local + "127.0.1.1 builder\n10.0.0.1 db", "builder", local + "127.0.1.1 otter\n10.0.0.1 db\n"},
		// What a person wrote on the line stays.
		{local + "127.0.1.1 otter.corp otter alias\n", "otter", local + "127.0.1.1 otter.corp otter alias\n"},
		{local + "127.0.1.1\tfox.corp  fox\talias # fox\n", "fox", local + "127.0.1.1\tfox.corp  otter\talias # fox\n"},
		{local + "127.0.1.1 own.name\n", "builder", local + "127.0.1.1 own.name\n127.0.1.1\totter\n"},
		{local + "127.0.1.1 alias\n127.0.1.1 fox\n", "fox", local + "127.0.1.1 alias\n127.0.1.1 otter\n"},
		{local + "127.0.1.1 foxes fox.corp # fox\n", "fox", local + "127.0.1.1 foxes fox.corp # fox\n127.0.1.1\totter\n"},
		{local + "10.0.0.7 otter.corp otter\n", "otter", local + "10.0.0.7 otter.corp otter\n"},
		{"127.0.0.1 localhost otter # one line\n", "otter", "127.0.0.1 localhost otter # one line\n"},
		{local + "127.0.1.1 fox otter\n", "fox", local + "127.0.1.1 fox otter\n"},
	} {
		got := string(hostsFor([]byte(c.old), "otter", []swap{{c.previous, "otter"}}))
		if got != c.want {
			t.Errorf("%q: got %q, want %q", c.old, got, c.want)
		}
		if again := string(hostsFor([]byte(got), "otter", []swap{{"otter", "otter"}})); again != got {
			t.Errorf("a second boot changes %q to %q", got, again)
		}
	}
}

func TestLargeHostsStayWhole(t *testing.T) {
	root := newRoot(t, "etc")
	path := filepath.Join(root, "etc/hosts")
	for _, c := range []struct {
		size    int
		changed bool
	}{{inroot.MaxRead - 100, true}, {inroot.MaxRead + 1, false}} {
		old := strings.Repeat("#", c.size)
		if err := os.WriteFile(path, []byte(old), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := writeHosts(root, hostName{name: "otter"}); err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(path); !strings.Contains(string(got), old) || (string(got) != old) != c.changed {
			t.Errorf("of %d bytes %d are left, changed: %v", c.size, len(got), string(got) != old)
		}
	}
}

// newRoot makes a root with these directories.
func newRoot(t *testing.T, dirs ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, dir := range dirs {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// snapshot lists all files below root: a file that is written again differs.
func snapshot(t *testing.T, root string) string {
	t.Helper()
	var list strings.Builder
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		content, _ := os.ReadFile(path)
		fmt.Fprintf(&list, "%s %v %d %v %q\n", path, info.Mode(), info.Sys().(*syscall.Stat_t).Ino, info.ModTime(), content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list.String()
}

func TestApplyTwiceChangesNothing(t *testing.T) {
	root := newRoot(t, "etc/ssh")
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	id := Of(wire.Config{Name: name, MachineID: "0123", AuthorizedKeys: []string{"ssh-ed25519 AAAA me", "ssh-ed25519 BBBB you"},
		HostKey: "private", HostKeyPub: "public", UnixNano: time.Now().UnixNano()})
	if err := Apply(root, id); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/etc/hostname":                     name + "\n",
		"/etc/machine-id":                   "0123\n",
		"/etc/ssh/ssh_host_ed25519_key":     "private\n",
		"/etc/ssh/ssh_host_ed25519_key.pub": "public\n",
		layout.KeysFile:                     "ssh-ed25519 AAAA me\nssh-ed25519 BBBB you\n",
	} {
		if got, err := os.ReadFile(root + path); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	before := snapshot(t, root)
	if err := Apply(root, id); err != nil {
		t.Fatal(err)
	}
	if after := snapshot(t, root); after != before {
		t.Errorf("the second time changed\n%s to\n%s", before, after)
	}
}

func TestApplyOfAnotherIdentity(t *testing.T) {
	root := newRoot(t, "etc")
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{"/etc/hostname": "fox\n", "/etc/hosts": "127.0.0.1 localhost\n127.0.1.1 fox.corp fox vixen\n"} {
		if err := os.WriteFile(root+path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := Apply(root, Identity{Name: name, Clock: Clock{Time: time.Now()}}); err != nil {
		t.Fatal(err)
	}
	want := "127.0.0.1 localhost\n127.0.1.1 fox.corp " + name + " vixen\n"
	if got, err := os.ReadFile(root + "/etc/hosts"); err != nil || string(got) != want {
		t.Errorf("/etc/hosts has %q, %v", got, err)
	}
	if inroot.Exists(root, "/etc/ssh") {
		t.Error("an image without ssh has its directory now")
	}
}

func TestClockThatIsRightStays(t *testing.T) {
	// To set the clock takes a privilege that the tests do not need.
	now := time.Now()
	for _, c := range []Clock{{}, Of(wire.Config{}).Clock, {Time: now}, {now.Add(-30 * time.Minute), bootTime}} {
		if err := c.Set(); err != nil {
			t.Errorf("%v: %v", c, err)
		}
	}
}

// FuzzHostsFor: the name is there once the file is written, and stays as it is then.
func FuzzHostsFor(f *testing.F) {
	f.Add("127.0.1.1\told\n", "old", "otter")
	f.Add("127.0.1.1 old.corp old # old\n\n127.0.1.1\n", "old", "otter")
	f.Add("127.0.1.1 \xff\r\n#", "", "o")
	f.Add("127.0.1.1", "\xdd", "0")
	f.Fuzz(func(t *testing.T, old, previous, name string) {
		if name == "" || strings.ContainsAny(name, "#\\") || strings.TrimFunc(name, unicode.IsPrint) != "" || len(strings.Fields(name)) != 1 || strings.Fields(name)[0] != name {
			return
		}
		got := hostsFor([]byte(old), name, []swap{{previous, name}})
		found := false
		for line := range strings.Lines(string(got)) {
			found = found || addressOf(line) != "" && findName(line, name) > 0
		}
		if again := hostsFor(got, name, []swap{{name, name}}); !found || string(again) != string(got) {
			t.Errorf("%q of %q becomes %q, and then %q", name, old, got, again)
		}
	})
}
