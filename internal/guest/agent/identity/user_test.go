package identity

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"banger/internal/guest/agent/inroot"
	"banger/internal/guest/agent/layout"
)

// accounts are the files of an image with root, one person, sudo and docker.
var accounts = map[string]string{
	"/etc/passwd":   "root:x:0:0:root:/root:/bin/bash\nann:x:1000:1000::/home/ann:/bin/sh",
	"/etc/shadow":   "root:*:19000:0:99999:7:::\nann:*:19000:0:99999:7:::\n",
	"/etc/group":    "root:x:0:\nsudo:x:27:ann\ndocker:x:999:\nann:x:1000:\nlibrary:x:1001:\n",
	"/etc/gshadow":  "root:*::\nsudo:*::ann\ndocker:!::\nann:!::\n",
	"/etc/subuid":   "ann:100000:65536\n",
	"/etc/skel/.rc": "hello\n",
}

func newAccounts(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away: sudo go test ./internal/guest/agent/identity")
	}
	root := newRoot(t, "etc/skel", "etc/sudoers.d", "bin", "home")
	for path, text := range accounts {
		if err := os.WriteFile(root+path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for path, mode := range map[string]os.FileMode{"/etc/shadow": 0o640, "/etc/gshadow": 0o640} {
		if err := os.Chmod(root+path, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(root+"/etc/shadow", 0, 42); err != nil {
		t.Fatal(err)
	}
	return root
}

func TestGiveUser(t *testing.T) {
	root := newAccounts(t)
	if err := giveUser(root, "dev"); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/etc/passwd":                  accounts["/etc/passwd"] + "\ndev:x:1002:1002::/home/dev:/bin/sh\n",
		"/etc/shadow":                  accounts["/etc/shadow"] + "dev:*:19700:0:99999:7:::\n",
		"/etc/group":                   "root:x:0:\nsudo:x:27:ann,dev\ndocker:x:999:dev\nann:x:1000:\nlibrary:x:1001:\ndev:x:1002:\n",
		"/etc/gshadow":                 "root:*::\nsudo:*::ann,dev\ndocker:!::dev\nann:!::\ndev:!::\n",
		"/etc/subuid":                  "ann:100000:65536\ndev:165536:65536\n",
		"/etc/sudoers.d/90-banger-dev": "dev ALL=(ALL:ALL) NOPASSWD: ALL\n",
		"/home/dev/.rc":                "hello\n",
		layout.UsersMemory:             "dev\n",
	} {
		if got, err := os.ReadFile(root + path); err != nil || string(got) != want {
			t.Errorf("%s has %q, %v, want %q", path, got, err, want)
		}
	}
	for path, want := range map[string]string{"/etc/shadow": "640 0:42", "/home/dev": "700 1002:1002", "/home/dev/.rc": "644 1002:1002", "/etc/sudoers.d/90-banger-dev": "440 0:0"} {
		info, err := os.Stat(root + path)
		if err != nil {
			t.Fatal(err)
		}
		st := info.Sys().(*syscall.Stat_t)
		if got := fmt.Sprintf("%o %d:%d", info.Mode().Perm(), st.Uid, st.Gid); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
	if inroot.Exists(root, "/etc/subgid") {
		t.Error("a file that the image does not have was created")
	}
}

// TestUserOfAPersonStays changes, deletes and replaces what the user was given.
func TestUserOfAPersonStays(t *testing.T) {
	for name, change := range map[string]func(root string) error{
		"nothing":   func(string) error { return nil },
		"its shell": func(root string) error { return edit(root, "/etc/passwd", "/home/dev:/bin/sh", "/srv/dev:/bin/zsh") },
		"it is gone": func(root string) error {
			if err := edit(root, "/etc/passwd", "dev:x:1002:1002::/home/dev:/bin/sh\n", ""); err != nil {
				return err
			}
			return os.RemoveAll(root + "/home/dev")
		},
		"no sudo": func(root string) error { return os.Remove(root + "/etc/sudoers.d/90-banger-dev") },
	} {
		root := newAccounts(t)
		if err := giveUser(root, "dev"); err != nil {
			t.Fatal(err)
		}
		if err := change(root); err != nil {
			t.Fatal(err)
		}
		before := snapshot(t, root)
		if err := giveUser(root, "dev"); err != nil {
			t.Fatal(err)
		}
		if after := snapshot(t, root); after != before {
			t.Errorf("%s: the next boot changed\n%s to\n%s", name, before, after)
		}
	}
}

// TestUserOfTheImageStays: an image that has the user keeps it, and one without
// accounts gets none.
func TestUserOfTheImageStays(t *testing.T) {
	root := newAccounts(t)
	if err := giveUser(root, "ann"); err != nil {
		t.Fatal(err)
	}
	for path, want := range accounts {
		if got, err := os.ReadFile(root + path); err != nil || string(got) != want {
			t.Errorf("%s has %q, %v", path, got, err)
		}
	}
	bare := newRoot(t, "etc")
	if err := giveUser(bare, "dev"); err != nil || inroot.Exists(bare, "/etc/passwd") || inroot.Exists(bare, "/home") {
		t.Errorf("an image without accounts: %v\n%s", err, snapshot(t, bare))
	}
}

// TestUserAfterACrash: what was begun is completed, and nothing is there twice.
func TestUserAfterACrash(t *testing.T) {
	root := newAccounts(t)
	if err := giveUser(root, "dev"); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(root + "/etc/group")
	if err != nil {
		t.Fatal(err)
	}
	// passwd is written last, and what is remembered after it.
	if err := edit(root, "/etc/passwd", "dev:x:1002:1002::/home/dev:/bin/sh\n", ""); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(root + layout.UsersMemory); err != nil {
		t.Fatal(err)
	}
	if err := giveUser(root, "dev"); err != nil {
		t.Fatal(err)
	}
	passwd, _ := os.ReadFile(root + "/etc/passwd")
	if got, err := os.ReadFile(root + "/etc/group"); err != nil || string(got) != string(want) || strings.Count(string(passwd), "\ndev:x:1002:1002:") != 1 {
		t.Errorf("group %q, %v, passwd %q", got, err, passwd)
	}
}

func edit(root, path, old, text string) error {
	before, err := os.ReadFile(filepath.Join(root, path))
	if err == nil && !strings.Contains(string(before), old) {
		err = fmt.Errorf("%s has no %q", path, old)
	}
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(root, path), []byte(strings.Replace(string(before), old, text, 1)), 0o644)
}
