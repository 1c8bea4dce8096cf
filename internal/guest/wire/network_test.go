package wire

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func good() Network {
	return Network{MAC: "02:00:00:00:00:01", Addr: netip.MustParsePrefix("10.201.16.2/20"), Gateway: netip.MustParseAddr("10.201.16.1"),
		Resolver: netip.MustParseAddr("10.201.16.1"), Domain: "vm", MTU: 1500}
}

func TestNetworkIsChecked(t *testing.T) {
	if err := good().Check(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Network){
		"no MAC":                  func(n *Network) { n.MAC = "" },
		"a multicast MAC":         func(n *Network) { n.MAC = "03:00:00:00:00:01" },
		"a MAC in another form":   func(n *Network) { n.MAC = "02-00-00-00-00-01" },
		"a MAC in upper case":     func(n *Network) { n.MAC = "0A:00:00:00:00:01" },
		"a long MAC":              func(n *Network) { n.MAC = "02:00:00:00:00:00:00:01" },
		"no address":              func(n *Network) { n.Addr = netip.Prefix{} },
		"an IPv6 address":         func(n *Network) { n.Addr = netip.MustParsePrefix("fd00::2/64") },
		"a loopback address":      func(n *Network) { n.Addr = netip.MustParsePrefix("127.0.0.2/8") },
		"a reserved address":      func(n *Network) { n.Addr = netip.MustParsePrefix("255.255.255.255/20") },
		"a subnet of one host":    func(n *Network) { n.Addr = netip.MustParsePrefix("10.201.16.2/32") },
		"no gateway":              func(n *Network) { n.Gateway = netip.Addr{} },
		"a gateway elsewhere":     func(n *Network) { n.Gateway = netip.MustParseAddr("10.202.0.1") },
		"itself as the gateway":   func(n *Network) { n.Gateway = n.Addr.Addr() },
		"no resolver":             func(n *Network) { n.Resolver = netip.Addr{} },
		"every host as resolver":  func(n *Network) { n.Resolver = netip.IPv4Unspecified() },
		"a small MTU":             func(n *Network) { n.MTU = 576 },
		"a large MTU":             func(n *Network) { n.MTU = 65536 },
		"a line behind a domain":  func(n *Network) { n.Domain = "vm\nnameserver 192.0.2.1" },
		"an empty part of a name": func(n *Network) { n.Domain = "vm." },
		"a long domain":           func(n *Network) { n.Domain = strings.Repeat("a.", 127) + "a" },
	} {
		n := good()
		if spoil(&n); n.Check() == nil {
			t.Errorf("%s: %+v is good", name, n)
		}
	}
}

func TestConfigureParams(t *testing.T) {
	for _, bad := range []ConfigureParams{
		{Name: "two words"}, {Name: "-x"}, {Name: "a.b"}, {Name: strings.Repeat("x", 64)},
		{AuthorizedKeys: []string{"one\ntwo"}}, {AuthorizedKeys: make([]string, maxKeys+1)}, {AuthorizedKeys: []string{strings.Repeat("x", maxKey+1)}},
		{Network: &Network{}},
	} {
		if bad.Check() == nil {
			t.Errorf("%+v is good", bad)
		}
	}
	n := good()
	before := Config{Name: "old", MachineID: "m", AuthorizedKeys: []string{"k"}, UnixNano: 1}
	if got := (ConfigureParams{}).Apply(before); !reflect.DeepEqual(got, before) {
		t.Errorf("nothing changes %+v", got)
	}
	all := ConfigureParams{Name: "new", AuthorizedKeys: []string{"l"}, UnixNano: 2, Network: &n}
	want := Config{Name: "new", MachineID: "m", AuthorizedKeys: []string{"l"}, UnixNano: 2, Network: &n}
	if got := all.Apply(before); all.Check() != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
}

func TestListener(t *testing.T) {
	for _, c := range []struct {
		addr string
		dual bool
		dial string
		own  bool
	}{
		{"0.0.0.0", false, "127.0.0.1:80", false}, {"::", true, "127.0.0.1:80", false}, {"::", false, "[::1]:80", false},
		{"127.0.0.53", false, "127.0.0.53:80", true}, {"::1", false, "[::1]:80", true}, {"172.17.0.1", false, "172.17.0.1:80", false},
	} {
		l := Listener{Port: 80, Addr: netip.MustParseAddr(c.addr), Dual: c.dual}
		if l.Dial().String() != c.dial || l.Loopback() != c.own {
			t.Errorf("%+v is dialled at %v, loopback %v", l, l.Dial(), l.Loopback())
		}
	}
}

// FuzzNetwork: a network that passes is safe to write into files line by line, and
// survives the way over the wire.
func FuzzNetwork(f *testing.F) {
	text, _ := json.Marshal(good())
	f.Add(text)
	f.Add([]byte(`{"mac":"02:00:00:00:00:01","addr":"10.0.0.2/24","gateway":"10.0.0.1","resolver":"10.0.0.1","later":{"field":[]}}`))
	f.Add([]byte(`{"addr":"::ffff:10.0.0.2/120"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var n Network
		if json.Unmarshal(b, &n) != nil || n.Check() != nil {
			return
		}
		for _, value := range []string{n.MAC, n.Addr.String(), n.Gateway.String(), n.Resolver.String(), n.Domain} {
			if strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`#;"'[]\`, r) }) {
				t.Errorf("%q is not harmless", value)
			}
		}
		again, err := json.Marshal(n)
		var same Network
		if err != nil || json.Unmarshal(again, &same) != nil || same != n {
			t.Errorf("%+v becomes %s", n, again)
		}
	})
}
