package network

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"banger/internal/guest/agent/inroot"
)

const (
	oursText   = "# From banger, for 10.201.16.1 vm. If you change this file, it stays as you leave it.\nnameserver 10.201.16.1\nsearch vm\n"
	beforeText = "# From banger, for 10.9.0.1 vm. If you change this file, it stays as you leave it.\nnameserver 10.9.0.1\nsearch vm\n"
	hostText   = "# of the host where the image was built\nnameserver 192.0.2.53\n"
	stub       = "/run/systemd/resolve/stub-resolv.conf"
)

// TestResolvConf lists the forms that /etc/resolv.conf has in images.
func TestResolvConf(t *testing.T) {
	for name, c := range map[string]struct {
		file, link string // what /etc/resolv.conf is
		at, there  string // another file
		image      bool   // it is as in the image
		want       string // of the file where the C library looks; empty: oursText
		wantLink   string
		untouched  bool
	}{
		"missing":                       {},
		"empty, of a container's image": {file: "\n", image: true},
		"only comments":                 {file: "# nothing\noptions edns0\n"},
		"of the build host":             {file: hostText, image: true},
		"a person's":                    {file: hostText, want: hostText, untouched: true},
		"ours":                          {file: oursText, untouched: true},
		"ours, of another address":      {file: beforeText},
		"ours, with a person's server":  {file: strings.Replace(beforeText, "nameserver 10.9.0.1", "nameserver 192.0.2.1", 1), want: strings.Replace(beforeText, "nameserver 10.9.0.1", "nameserver 192.0.2.1", 1), untouched: true},
		"ours, with a person's line":    {file: beforeText + "options timeout:1\n", want: beforeText + "options timeout:1\n", untouched: true},
		"resolved has not started":      {link: "../run/systemd/resolve/stub-resolv.conf", wantLink: "../run/systemd/resolve/stub-resolv.conf"},
		"resolved has started":          {link: ".." + stub, at: stub, there: "nameserver 127.0.0.53\n", want: "nameserver 127.0.0.53\n", wantLink: ".." + stub, untouched: true},
		"resolved was told before":      {link: ".." + stub, at: stub, there: beforeText, wantLink: ".." + stub},
		"resolved's own fixed file": {link: "../usr/lib/systemd/resolv.conf", at: "/usr/lib/systemd/resolv.conf", there: "nameserver 127.0.0.53\n",
			image: true},
		"resolvconf":                        {link: "/run/resolvconf/resolv.conf", wantLink: "/run/resolvconf/resolv.conf"},
		"NetworkManager":                    {link: "/var/run/NetworkManager/resolv.conf", wantLink: "/var/run/NetworkManager/resolv.conf"},
		"a person's link":                   {link: "resolv.own", at: "/etc/resolv.own", there: hostText, want: hostText, wantLink: "resolv.own", untouched: true},
		"a person's link, to an empty file": {link: "resolv.own", at: "/etc/resolv.own", there: ""},
		"a link to nothing":                 {link: "/mnt/gone"},
		"a link to itself":                  {link: "resolv.conf"},
		"a link out of the root":            {link: "../../../../../../run/../run/x", wantLink: "../../../../../../run/../run/x"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			path := root + resolvConf
			write := func(at, text string) {
				t.Helper()
				if err := os.MkdirAll(filepath.Dir(root+at), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(root+at, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			os.MkdirAll(root+"/etc", 0o755)
			os.MkdirAll(root+"/run", 0o755)
			os.MkdirAll(root+"/var", 0o755)
			os.Symlink("/run", root+"/var/run")
			if c.at != "" {
				write(c.at, c.there)
			}
			switch {
			case c.link != "":
				if err := os.Symlink(c.link, path); err != nil {
					t.Fatal(err)
				}
			case c.file != "":
				write(resolvConf, c.file)
			}
			before := listing(t, root)
			g := Guest{Root: root, Changed: func(string) bool { return !c.image }}
			for range 2 {
				if err := g.writeResolver(wanted("10.201.16.2/20")); err != nil {
					t.Fatal(err)
				}
			}
			if link, _ := os.Readlink(path); link != c.wantLink {
				t.Errorf("it is a link to %q, want %q", link, c.wantLink)
			}
			if after := listing(t, root); c.untouched && after != before {
				t.Errorf("changed\n%sto\n%s", before, after)
			}
			want := c.want
			if want == "" {
				want = oursText
			}
			if got := resolverOf(t, root); got != want {
				t.Errorf("it says %q, want %q", got, want)
			}
		})
	}
}

// resolverOf returns what the C library finds.
func resolverOf(t *testing.T, root string) string {
	t.Helper()
	text, err := inroot.Read(root, resolvConf)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestReadOnlyResolvConfIsAnError(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(root+"/etc", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	g := Guest{Root: root, Changed: func(string) bool { return true }}
	if err := g.writeResolver(wanted("10.201.16.2/20")); err == nil || !strings.Contains(err.Error(), resolvConf) {
		t.Errorf("got %v", err)
	}
}

// listing names each file below root with what tells whether it was written.
func listing(t *testing.T, root string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil || d.IsDir() {
			return err
		}
		b.WriteString(path + " " + info.ModTime().String() + "\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestServicesAreTold(t *testing.T) {
	g := Guest{Root: t.TempDir(), Changed: func(string) bool { return true }}
	n := wanted("10.201.16.2/20")
	if err := os.MkdirAll(g.Root+"/etc", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/run/resolvconf/resolv.conf", g.Root+resolvConf); err != nil {
		t.Fatal(err)
	}
	if err := g.writeServices(n, "eth0"); err != nil {
		t.Fatal(err)
	}
	for path, lines := range map[string][]string{
		"/run/systemd/network/00-banger.link":       {"MACAddress=" + testMAC, "Driver=virtio_net", "NamePolicy=keep"},
		"/run/systemd/network/00-banger.network":    {"MACAddress=" + testMAC, "MTUBytes=1400", "Address=10.201.16.2/20", "Gateway=10.201.16.1", "IPv6AcceptRA=no", "KeepConfiguration=yes"},
		"/run/systemd/resolved.conf.d/banger.conf":  {"[Resolve]", "DNS=10.201.16.1", "Domains=vm"},
		"/run/NetworkManager/conf.d/00-banger.conf": {"match-device=mac:" + testMAC, "managed=0", "rc-manager=unmanaged", "searches=vm", "servers=10.201.16.1"},
		"/run/network/ifstate.eth0":                 {"eth0"},
		"/run/resolvconf/interface/eth0.banger":     {"nameserver 10.201.16.1", "search vm"},
	} {
		text, err := os.ReadFile(g.Root + path)
		if err != nil {
			t.Error(err)
		}
		for _, line := range lines {
			if !strings.Contains("\n"+string(text), "\n"+line+"\n") {
				t.Errorf("%s lacks %q:\n%s", path, line, text)
			}
		}
	}
	before := listing(t, g.Root)
	if err := g.writeServices(n, "eth0"); err != nil || listing(t, g.Root) != before {
		t.Errorf("the second time: %v, %s", err, listing(t, g.Root))
	}
}

// FuzzResolvConf: what a person wrote is never taken for ours.
func FuzzResolvConf(f *testing.F) {
	f.Add([]byte(oursText))
	f.Add([]byte(beforeText + "\n"))
	f.Add([]byte("# From banger, for 10.0.0.1 . If you change this file, it stays as you leave it.\nnameserver 10.0.0.1\n"))
	f.Add([]byte("# From banger, for ::1%eth0 a. b. \n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if !isOurs(text) {
			return
		}
		lines := strings.Split(string(text), "\n")
		if len(lines) > 4 || !strings.HasPrefix(lines[1], "nameserver ") || strings.Count(string(text), "nameserver") != 1 && !strings.ContainsFunc(lines[0], unicode.IsSpace) {
			t.Errorf("%q is taken for ours", text)
		}
	})
}
