package sshd

import (
	"encoding/binary"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// writeFiles writes files below a directory.
func writeFiles(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLoginEnvironment: the image's files have a say as with PAM, in its order.
func TestLoginEnvironment(t *testing.T) {
	root := account{name: "root", home: "/root", shell: "/bin/bash"}
	ann := account{name: "ann", home: "/home/ann", shell: "/bin/zsh", uid: 1000}
	defs := "# comment\nMAIL_DIR\t/var/spool/mail\nENV_SUPATH\tPATH=/sbin:/bin\nENV_PATH  PATH=/bin\nUMASK\n"
	for _, c := range []struct {
		name  string
		files map[string]string
		user  account
		want  variables
	}{
		{"nothing", nil, ann, variables{"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "MAIL": "/var/mail/ann", "LANG": "C.UTF-8"}},
		{"login.defs for root", map[string]string{"login.defs": defs}, root, variables{"PATH": "/sbin:/bin", "MAIL": "/var/spool/mail/root"}},
		{"login.defs for others", map[string]string{"login.defs": defs}, ann, variables{"PATH": "/bin", "MAIL": "/var/spool/mail/ann"}},
		{"environment", map[string]string{"login.defs": defs, "environment": "PATH=\"/opt/bin:/bin\"\n export TZ='Europe/Vienna' # here\nEMPTY=\nbad name=1\n2X=1\nMAIL\n#A=1\nQ=\"a'b\""},
			ann, variables{"PATH": "/opt/bin:/bin", "TZ": "Europe/Vienna", "EMPTY": "", "Q": "a'b", "MAIL": "-", "A": "-", "2X": "-"}},
		{"an image of a container", map[string]string{"login.defs": defs, "banger/image.json": `{"env":["PATH=/usr/local/go/bin:/bin","GOPATH=/go","HOME=/else","bad name=1","EMPTY=","TZ=UTC","LINES=a\nb"],"user":"x"}`, "environment": "TZ=CET\n"},
			ann, variables{"PATH": "/usr/local/go/bin:/bin", "GOPATH": "/go", "EMPTY": "", "TZ": "CET", "bad name": "-", "LINES": "-"}},
		{"a damaged image", map[string]string{"login.defs": defs, "banger/image.json": "{"}, ann, variables{"PATH": "/bin"}},
		{"locales", map[string]string{"default/locale": "LANG=de_AT.UTF-8\n", "locale.conf": "LANG=fr_FR.UTF-8\nLC_TIME=C\n"}, ann, variables{"LANG": "de_AT.UTF-8", "LC_TIME": "C"}},
		{"pam_env.conf", map[string]string{"security/pam_env.conf": `
# comment
PATH	DEFAULT=${PATH}:/snap/bin
CACHE DEFAULT=@{HOME}/.cache \
      OVERRIDE=
WHO   DEFAULT="@{PAM_USER} of \@{x} @x $" OVERRIDE=${NONE}
WIN   DEFAULT=a OVERRIDE=b
MAIL  DEFAULT= OVERRIDE=
ODD   DEFAULT=1 OTHER=2
LINE  DEFAULT="a b"c
`, "environment": "WIN=c\n"}, ann, variables{"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/snap/bin",
			"CACHE": "/home/ann/.cache", "WHO": "ann of @{x} @x $", "WIN": "c", "MAIL": "-", "ODD": "-", "LINE": "-"}},
	} {
		etc := t.TempDir()
		writeFiles(t, etc, c.files)
		got := variables{"LANG": "C.UTF-8"}
		got.login(c.user, etc)
		for name, want := range c.want {
			if value, ok := got[name]; value != want && (want != "-" || ok) {
				t.Errorf("%s: %s is %q, want %q", c.name, name, value, want)
			}
		}
		if got["HOME"] != c.user.home || got["USER"] != c.user.name || got["LOGNAME"] != c.user.name || got["SHELL"] != c.user.shell {
			t.Errorf("%s: got %v", c.name, got)
		}
	}
}

func FuzzLoginEnvironment(f *testing.F) {
	f.Add([]byte("A=\"b\nC='\nD\n=\nexport E=1\\\n\\"), []byte("A DEFAULT=${A}@{HOME OVERRIDE=\"\nB DEFAULT=\\"), []byte("ENV_PATH\nMAIL_DIR =x\n"), []byte(`{"env":["A=1"]}`))
	etc := f.TempDir()
	f.Fuzz(func(t *testing.T, environment, pam, defs, image []byte) {
		writeFiles(t, etc, map[string]string{"environment": string(environment), "security/pam_env.conf": string(pam), "login.defs": string(defs), "banger/image.json": string(image)})
		v := variables{}
		v.login(account{name: "ann", home: "/home/ann", shell: "/bin/sh", uid: 1000}, etc)
		for name, value := range maps.All(v) {
			if !isName(name) || strings.ContainsAny(value, "\x00\n") {
				t.Errorf("%q=%q", name, value)
			}
		}
	})
}

func TestHasLocale(t *testing.T) {
	dir := t.TempDir()
	names := "\x00de_AT.utf8\x00de_AT\x00ca_ES.utf8@valencia\x00"
	header := []uint32{archiveMagic, 1, 0, 0, 0, 56, uint32(len(names)), 4096, 0, 0, 0, 0, 0, 0}
	var archive []byte
	for _, word := range header {
		archive = binary.NativeEndian.AppendUint32(archive, word)
	}
	writeFiles(t, dir, map[string]string{"locale-archive": string(archive) + names, "C.utf8/LC_CTYPE": "", "fr_FR.utf8/LC_CTYPE": "", "en_US/LC_CTYPE": "", "ja_JP.utf8": "no directory"})
	for locale, want := range map[string]bool{
		"": true, "C": true, "POSIX": true, "C.UTF-8": true, "C.utf8": true,
		"fr_FR.UTF-8": true, "fr_FR.utf-8": true, "fr_FR": false, "en_US": true, "en_US.UTF-8": false,
		"de_AT.UTF-8": true, "de_AT": true, "de_DE.UTF-8": false, "ca_ES.UTF-8@valencia": true, "ca_ES.UTF-8": false,
		"e_AT": false, "ja_JP.UTF-8": false, "..": false, "/etc": false, "../" + filepath.Base(dir): false,
	} {
		if got := hasLocale(dir, locale); got != want {
			t.Errorf("%q: %v", locale, got)
		}
	}
	for _, archive := range []string{"", "short", string(make([]byte, 100))} {
		writeFiles(t, dir, map[string]string{"locale-archive": archive})
		if hasLocale(dir, "de_AT.UTF-8") {
			t.Errorf("found in %q", archive)
		}
	}
}
