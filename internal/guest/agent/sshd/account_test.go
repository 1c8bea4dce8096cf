package sshd

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestLookupAccount(t *testing.T) {
	etc := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(etc, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("passwd", `root:x:0:0:root:/root:/bin/bash
broken
bad:x:minus:0::/:/bin/sh
bare:x:1001:1002:::
ann:x:1000:1000:Ann,,,:/home/ann:/bin/zsh
`)
	write("group", "root:x:0:\nsudo:x:27:bob,ann\ndocker:x:999:ann\nann:x:1000:ann\nshort:x\n")
	for who, want := range map[string]account{
		"root": {name: "root", home: "/root", shell: "/bin/bash", groups: []uint32{0}},
		"0":    {name: "root", home: "/root", shell: "/bin/bash", groups: []uint32{0}},
		"ann":  {name: "ann", home: "/home/ann", shell: "/bin/zsh", uid: 1000, gid: 1000, groups: []uint32{1000, 27, 999}},
		"1000": {name: "ann", home: "/home/ann", shell: "/bin/zsh", uid: 1000, gid: 1000, groups: []uint32{1000, 27, 999}},
		"bare": {name: "bare", home: "/", shell: "/bin/sh", uid: 1001, gid: 1002, groups: []uint32{1002}},
		"4242": {name: "4242", home: "/", shell: "/bin/sh", uid: 4242, groups: []uint32{0}},
	} {
		got, err := lookupAccount(etc, who)
		if err != nil || !same(got, want) {
			t.Errorf("%s: got %+v, %v; want %+v", who, got, err, want)
		}
	}
	for _, who := range []string{"bad", "bob", "", "-1"} {
		if got, err := lookupAccount(etc, who); !errors.Is(err, errNoUser) {
			t.Errorf("%q: got %+v, %v", who, got, err)
		}
	}
}

func same(a, b account) bool {
	groups := slices.Equal(a.groups, b.groups)
	a.groups, b.groups = nil, nil
	return groups && a.name == b.name && a.home == b.home && a.shell == b.shell && a.uid == b.uid && a.gid == b.gid
}

func TestLookupAccountWithoutFiles(t *testing.T) {
	etc := t.TempDir()
	if got, err := lookupAccount(etc, "root"); err != nil || got.home != "/root" || got.uid != 0 {
		t.Errorf("root: %+v, %v", got, err)
	}
	if _, err := lookupAccount(etc, "ann"); !errors.Is(err, errNoUser) {
		t.Errorf("ann: %v", err)
	}
}
