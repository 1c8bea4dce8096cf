package cli

import (
	"encoding/json"
	"net/netip"
	"testing"

	"banger"
)

func TestPorts(t *testing.T) {
	f := newFake(aVM("otter", banger.Running), aVM("wombat", banger.Stopped))
	f.run(t, setup{}, "vm", "ports").want(t, 0, "", "nothing listens\n")
	own, local4, local6 := netip.MustParseAddr("127.9.1.2"), netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()
	at := netip.AddrPortFrom
	f.ports = []banger.Forward{
		{Port: 80, Listening: true, Program: "ngi\x1bnx", Addresses: []netip.AddrPort{at(own, 8080)}, Why: "forbidden", Fix: "sudo something"},
		{Port: 3000, Listening: true, Addresses: []netip.AddrPort{at(own, 3000), at(local4, 3000), at(local6, 3000)}},
		{Port: 5000, Published: true, Addresses: []netip.AddrPort{at(local6, 5001)}},
		{Port: 6000, Listening: true, Why: "no"},
	}
	want := "NAME   PORT  PROGRAM          ON THE HOST                     NOTE\n" +
		"otter  80    ngi?nx           127.9.1.2:8080                  forbidden; fix: sudo something\n" +
		"otter  3000  -                localhost:3000, 127.9.1.2:3000  -\n" +
		"otter  5000  nothing listens  [::1]:5001                      -\n" +
		"otter  6000  -                -                               no\n"
	f.run(t, setup{}, "vm", "ports").want(t, 0, want, "")
	f.run(t, setup{}, "vm", "ports", "otter", "wombat").want(t, 0, want, "")
	r := f.run(t, setup{}, "vm", "ports", "--json", "otter")
	var p banger.VMPorts
	if err := json.Unmarshal([]byte(r.out), &p); err != nil || len(p.Ports) != 4 || p.Ports[1].Addresses[2] != at(local6, 3000) {
		t.Errorf("%v: %+v", err, r)
	}
	if r := f.run(t, setup{}, "vm", "ports", "nobody"); r.code != 3 {
		t.Errorf("%+v", r)
	}
}

func TestPublish(t *testing.T) {
	f := newFake(aVM("otter", banger.Running))
	for _, args := range [][]string{
		{"vm", "set", "otter", "--port", "8000-8010:80"}, {"vm", "create", "--port", "web"}, {"vm", "set", "otter", "--port", "80", "--no-ports"},
	} {
		if r := f.run(t, setup{}, args...); r.code != 2 {
			t.Errorf("%q: %+v", args, r)
		}
	}
	for _, args := range [][]string{
		{"vm", "set", "otter", "--port", "8080:80", "--port", "[::]:81:81"}, {"vm", "set", "otter", "--no-ports"},
	} {
		if r := f.run(t, setup{}, args...); r.code != 0 {
			t.Errorf("%q: %+v", args, r)
		}
	}
}
