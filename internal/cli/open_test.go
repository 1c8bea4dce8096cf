package cli

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"banger"
)

func TestForwardedURL(t *testing.T) {
	at := func(port uint16, addresses ...string) banger.Forward {
		f := banger.Forward{Port: port, Listening: true}
		for _, a := range addresses {
			f.Addresses = append(f.Addresses, netip.MustParseAddrPort(a))
		}
		return f
	}
	web, more := at(3000, "127.9.8.7:3000", "127.0.0.1:3000", "[::1]:3000"), at(443, "127.9.8.7:8443")
	silent, taken := banger.Forward{Port: 80}, banger.Forward{Port: 90, Listening: true, Why: "it is taken", Fix: "end the other"}
	for _, c := range []struct {
		forwards []banger.Forward
		port     int
		want     string
	}{
		{[]banger.Forward{silent, web}, 0, "http://localhost:3000/"},
		{[]banger.Forward{web, more}, 443, "https://127.9.8.7:8443/"},
		{[]banger.Forward{web, more}, 0, `VM "otter" listens on several ports: 3000, 443`},
		{[]banger.Forward{at(1, "0.0.0.0:8080")}, 1, "http://localhost:8080/"},
		{[]banger.Forward{silent, taken}, 0, `nothing in VM "otter" listens on a port`},
		{[]banger.Forward{web, silent}, 80, `nothing in VM "otter" listens on port 80`},
		{[]banger.Forward{taken}, 90, `open port 90 of VM "otter": it is taken`},
	} {
		got, err := forwardedURL(banger.VMPorts{Name: "otter", Ports: c.forwards}, c.port)
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%v, %d: %s", c.forwards, c.port, got)
		}
	}
}

// A guest that cannot tell what listens does not keep a published port from being opened.
func TestOpenOfAGuestThatCannotTell(t *testing.T) {
	published := banger.Forward{Port: 80, Addresses: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:8080")}}
	vm := banger.VMPorts{Name: "otter", Ports: []banger.Forward{published}, Why: "it does not answer"}
	if got, err := forwardedURL(vm, 80); got != "http://localhost:8080/" || err != nil {
		t.Errorf("%s, %v", got, err)
	}
	_, err := forwardedURL(vm, 0)
	if want := `nothing in VM "otter" listens on a port, or it is not known: it does not answer`; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

func TestBrowser(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"mine", "xdg-open"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
	for _, c := range []struct {
		env  map[string]string
		want []string
	}{
		{nil, nil},
		{map[string]string{"BROWSER": "missing:mine --new %s", "DISPLAY": ":0"}, []string{"mine", "--new", "%s"}},
		{map[string]string{"BROWSER": "missing", "WAYLAND_DISPLAY": "wayland-0"}, []string{"xdg-open"}},
	} {
		a := &app{std: Std{Getenv: func(key string) string { return c.env[key] }}}
		if got := a.browser(); !slices.Equal(got, c.want) {
			t.Errorf("%v: %q", c.env, got)
		}
	}
	if got := withAddress([]string{"--new", "<%s>"}, "http://x/"); !slices.Equal(got, []string{"--new", "<http://x/>"}) {
		t.Errorf("%q", got)
	}
	if got := withAddress(nil, "http://x/"); !slices.Equal(got, []string{"http://x/"}) {
		t.Errorf("%q", got)
	}
}
