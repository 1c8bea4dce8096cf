package identity

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestHostNameFor(t *testing.T) {
	for _, c := range []struct{ text, before, want, name string }{
		{"", "", "otter\n", "otter"},
		{"builder\n", "", "otter\n", "otter"}, // the image's, at the first boot
		{"builder.corp\n", "", "otter\n", "otter"},
		{"fox\n", "fox", "otter\n", "otter"},
		{"fox", "fox", "otter\n", "otter"},
		{"# written by Ann\nfox.corp.example\n", "fox", "# written by Ann\notter.corp.example\n", "otter.corp.example"},
		{"# nothing but this\n", "otter", "# nothing but this\notter\n", "otter"},
		{"own.corp\n", "fox", "own.corp\n", "own.corp"}, // a person's choice
		{"foxes\n", "fox", "foxes\n", "foxes"},
		{"otter.corp\n", "", "otter.corp\n", "otter.corp"},
	} {
		got := hostNameFor(c.text, c.before, "otter")
		if string(got.file) != c.want || got.name != c.name {
			t.Errorf("%q of %q becomes %q, name %q", c.text, c.before, got.file, got.name)
		}
		if again := hostNameFor(string(got.file), "otter", "otter"); string(again.file) != c.want || again.name != c.name {
			t.Errorf("a second boot changes %q to %q, name %q", got.file, again.file, again.name)
		}
	}
}

// TestNamesOfAPersonStay renames a VM whose names a person has changed.
func TestNamesOfAPersonStay(t *testing.T) {
	const local = "127.0.0.1 localhost\n"
	for _, c := range []struct{ hostname, hosts, wantName, wantHosts string }{
		{"fox.corp\n", local + "127.0.1.1\tfox.corp fox alias # fox\n", "otter.corp\n", local + "127.0.1.1\totter.corp otter alias # fox\n"},
		{"fox\n", local + "10.0.0.7 fox\n127.0.1.1 fox.corp fox\n", "otter\n", local + "10.0.0.7 fox\n127.0.1.1 fox.corp otter\n"},
		{"den\n", local + "127.0.1.1 den fox\n", "den\n", local + "127.0.1.1 den otter\n"},
		{"den\n", local + "192.168.1.5 den\n", "den\n", local + "192.168.1.5 den\n"},
	} {
		root := newRoot(t, "etc", "var/lib/banger")
		for path, text := range map[string]string{"etc/hostname": c.hostname, "etc/hosts": c.hosts, "var/lib/banger/hostname": "fox\n"} {
			if err := os.WriteFile(filepath.Join(root, path), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		host, err := readHostName(root, "otter")
		if err != nil || string(host.file) != c.wantName || host.name != strings.TrimSpace(c.wantName) {
			t.Errorf("%q becomes %q, %v", c.hostname, host.file, err)
		}
		if err := writeHosts(root, host); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(root + "/etc/hosts"); err != nil || string(got) != c.wantHosts {
			t.Errorf("%q becomes %q, %v", c.hosts, got, err)
		}
	}
}
