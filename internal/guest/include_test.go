package guest

import (
	"strings"
	"testing"
)

func TestInclude(t *testing.T) {
	const line = `Include "/state/ssh/config"`
	for name, c := range map[string]struct{ config, want string }{
		"nothing":            {"", line + "\n"},
		"a block":            {"Host a\n  User b\n", line + "\nHost a\n  User b\n"},
		"no end of line":     {"User b", line + "\nUser b"},
		"CRLF":               {"User b\r\nPort 1\r\n", line + "\r\nUser b\r\nPort 1\r\n"},
		"in effect":          {"# mine\n\t" + line + " \nHost a\n", "# mine\n\t" + line + " \nHost a\n"},
		"in a block":         {"Host a\n" + line + "\n  User b\n", line + "\nHost a\n  User b\n"},
		"in a block, =":      {"host=a\n" + line + "\n", line + "\nhost=a\n"},
		"after a Match":      {"MATCH\tall\n" + line + "\n", line + "\nMATCH\tall\n"},
		"hosts in a comment": {"# Host a\nHostName b\n" + line + "\n", "# Host a\nHostName b\n" + line + "\n"},
		"bytes":              {"\xff\x00\r", line + "\n\xff\x00\r"},
	} {
		got := Include([]byte(c.config), line)
		if string(got) != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
		if again := Include(got, line); string(again) != c.want {
			t.Errorf("%s: again: %q", name, again)
		}
		if without := Exclude(got, line); strings.Contains(string(without), "Include") || !strings.Contains(c.config, "Include") && string(without) != c.config {
			t.Errorf("%s: without it: %q", name, without)
		}
	}
}

func TestIncludeLine(t *testing.T) {
	if line, err := IncludeLine("/a b/it's"); err != nil || line != `Include "/a b/it's"` {
		t.Errorf("%q, %v", line, err)
	}
	for _, path := range []string{"/a%b", "/a*b", "/a\nb", `/a"b`, "/a[b]", "/$a", `/a\b`} {
		if line, err := IncludeLine(path); err == nil {
			t.Errorf("%q", line)
		}
	}
}

// TestSSHConfigOfAll: a name reaches the program as it was typed, and nothing else.
func TestSSHConfigOfAll(t *testing.T) {
	all, err := SSHConfigOfAll(oddVM.SSHKey, oddVM.KnownHosts, oddProxy)
	if err != nil {
		t.Fatal(err)
	}
	file := writeConfig(t, "Include "+writeConfig(t, all)+"\nCompression yes\nHost other\n  User me\n")
	understands(t, []string{"-F", file, "otter.vm"}, []string{"user root", "port 22", "hostname otter.vm", "compression yes",
		`identityfile /home/a b/100%% "key"`, `userknownhostsfile /home/a b/known%h\x`,
		`proxycommand '/opt/it'\''s 5%%/banger' 'vm' 'proxy' 'a1b2' -- '%n' '22'`})
	for _, host := range []string{"otter", "vm", "otter.vm.example.org"} {
		if got := options(t, "-F", file, host); got["proxycommand"] != nil {
			t.Errorf("%s: %q", host, got["proxycommand"])
		}
	}
	understands(t, []string{"-F", file, "other"}, []string{"user me", "compression yes", "stricthostkeychecking ask"})
}
