package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The tests' subnet is in 127/8, so that each guest can ask from its own address.
var (
	subnet  = netip.MustParsePrefix("127.64.16.0/20")
	gateway = netip.MustParseAddr("127.64.16.1")
	otter   = netip.MustParseAddr("127.64.16.2") // with egress
	badger  = netip.MustParseAddr("127.64.17.3") // without
	table   = NewTable(subnet, []Name{{"otter", otter, true}, {"badger", badger, false}})
)

// none are no upstreams.
func none() []netip.AddrPort { return nil }

// bind listens by UDP and TCP on the same port of an address.
func bind(t testing.TB, addr netip.Addr, askers Askers) (Socket, netip.AddrPort) {
	t.Helper()
	for range 20 {
		streams, err := net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
		if err != nil {
			t.Fatal(err)
		}
		packets, err := net.ListenPacket("udp", streams.Addr().String())
		if err == nil {
			return Socket{packets, streams, askers}, streams.Addr().(*net.TCPAddr).AddrPort()
		}
		streams.Close() // somebody else has the port by UDP
	}
	t.Fatal("no port")
	return Socket{}, netip.AddrPort{}
}

// serve starts a server for guests and returns where it listens.
func serve(t testing.TB, upstreams func() []netip.AddrPort) (*Server, netip.AddrPort) {
	t.Helper()
	s := NewServer(table, upstreams)
	socket, at := bind(t, gateway, Guests)
	run(t, s, socket)
	return s, at
}

func run(t testing.TB, s *Server, sockets ...Socket) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, sockets...) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
}

// dial connects a guest to a server.
func dial(t testing.TB, network string, from netip.Addr, to netip.AddrPort) net.Conn {
	t.Helper()
	dialer := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), Timeout: 10 * time.Second}
	if network == "tcp" {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	conn, err := dialer.Dial(network, to.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}

// resolver is Go's own, which asks as a guest does.
func resolver(from netip.Addr, to netip.AddrPort) *net.Resolver {
	return &net.Resolver{PreferGo: true, StrictErrors: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		dialer := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
		if strings.HasPrefix(network, "tcp") {
			dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
		}
		return dialer.DialContext(ctx, network, to.String())
	}}
}

// question packs a query.
func question(t testing.TB, name string, asked dnsmessage.Type, options ...func(*dnsmessage.Message)) []byte {
	t.Helper()
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: 0x1234, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: asked, Class: dnsmessage.ClassINET}}}
	for _, option := range options {
		option(&m)
	}
	packed, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return packed
}

// edns adds an OPT record.
func edns(size int, version byte) func(*dnsmessage.Message) {
	return func(m *dnsmessage.Message) {
		var h dnsmessage.ResourceHeader
		h.SetEDNS0(size, 0, true)
		h.TTL |= uint32(version) << 16
		m.Additionals = append(m.Additionals, dnsmessage.Resource{Header: h, Body: &dnsmessage.OPTResource{}})
	}
}

// unpack reads an answer.
func unpack(t testing.TB, packet []byte) (m dnsmessage.Message) {
	t.Helper()
	if err := m.Unpack(packet); err != nil {
		t.Fatalf("an answer that cannot be read: %v: %x", err, packet)
	}
	return m
}

// say describes an answer in a line.
func say(m dnsmessage.Message) string {
	said := m.RCode.String()[len("RCode"):]
	if m.Authoritative {
		said += " aa"
	}
	if m.Truncated {
		said += " tc"
	}
	for _, r := range m.Answers {
		switch body := r.Body.(type) {
		case *dnsmessage.AResource:
			said += " " + netip.AddrFrom4(body.A).String()
		case *dnsmessage.PTRResource:
			said += " " + body.PTR.String()
		default:
			said += " " + r.Header.Type.String()[len("Type"):]
		}
	}
	for _, r := range m.Authorities {
		said += " of " + r.Header.Name.String()
	}
	return said
}

func TestNamesOfOurs(t *testing.T) {
	for _, test := range []struct {
		name  string
		asked dnsmessage.Type
		want  string
	}{
		{"otter.vm.", dnsmessage.TypeA, "Success aa 127.64.16.2"},
		{"OtTer.VM.", dnsmessage.TypeA, "Success aa 127.64.16.2"},
		{"otter.vm.", dnsmessage.TypeALL, "Success aa 127.64.16.2"},
		{"a.b.otter.vm.", dnsmessage.TypeA, "Success aa 127.64.16.2"},
		{"badger.vm.", dnsmessage.TypeA, "Success aa 127.64.17.3"},
		{"otter.vm.", dnsmessage.TypeAAAA, "Success aa of vm."},
		{"otter.vm.", dnsmessage.TypeMX, "Success aa of vm."},
		{"otter.vm.", 65, "Success aa of vm."},
		{"otter.vm.", dnsmessage.TypeAXFR, "Refused"},
		{"vm.", dnsmessage.TypeSOA, "Success aa SOA"},
		{"VM.", dnsmessage.TypeSOA, "Success aa SOA"},
		{"vm.", dnsmessage.TypeA, "Success aa of vm."},
		{"fox.vm.", dnsmessage.TypeA, "NameError aa of vm."},
		{"otter.fox.vm.", dnsmessage.TypeAAAA, "NameError aa of vm."},
		{"2.16.64.127.in-addr.arpa.", dnsmessage.TypePTR, "Success aa otter.vm."},
		{"3.17.64.127.IN-ADDR.arpa.", dnsmessage.TypePTR, "Success aa badger.vm."},
		{"3.17.64.127.in-addr.arpa.", dnsmessage.TypeA, "Success aa of 17.64.127.in-addr.arpa."},
		{"4.17.64.127.in-addr.arpa.", dnsmessage.TypePTR, "NameError aa of 17.64.127.in-addr.arpa."},
		{"x.17.64.127.in-addr.arpa.", dnsmessage.TypePTR, "NameError aa of 17.64.127.in-addr.arpa."},
		{"03.17.64.127.in-addr.arpa.", dnsmessage.TypePTR, "NameError aa of 17.64.127.in-addr.arpa."},
		{"1.3.17.64.127.in-addr.arpa.", dnsmessage.TypePTR, "NameError aa of 17.64.127.in-addr.arpa."},
		{"17.64.127.in-addr.arpa.", dnsmessage.TypeSOA, "Success aa SOA"},
		{"otter.", dnsmessage.TypeA, "Success aa 127.64.16.2"},
		{"OTTER.", dnsmessage.TypeAAAA, "Success aa of otter."},
		// Not ours, and the asker has no egress.
		{"otter.", dnsmessage.TypeNS, "Refused"},
		{"fox.", dnsmessage.TypeA, "Refused"},
		{"2.32.64.127.in-addr.arpa.", dnsmessage.TypePTR, "Refused"},
		{"64.127.in-addr.arpa.", dnsmessage.TypeSOA, "Refused"},
		{"example.org.", dnsmessage.TypeA, "Refused"},
		{"xvm.", dnsmessage.TypeA, "Refused"},
		{".", dnsmessage.TypeNS, "Refused"},
	} {
		packet := question(t, test.name, test.asked)
		reply, forward := table.respond(packet, Guests, badger)
		if forward != nil {
			t.Errorf("%s: forwarded", test.name)
			continue
		}
		m := unpack(t, reply)
		if got := say(m); got != test.want || m.ID != 0x1234 || !m.Response || m.RecursionAvailable || m.Questions[0].Name.String() != test.name || len(reply) > usualUDP {
			t.Errorf("%s %v: %s, want %s (%+v)", test.name, test.asked, got, test.want, m.Header)
		}
	}
}

// A guest's name may have any length that a name may.
func TestLongestNames(t *testing.T) {
	label := strings.Repeat("x", 63)
	long := NewTable(subnet, []Name{{label, otter, false}})
	deep := strings.Repeat("y.", 93) + label + ".vm."
	for name, asked := range map[string]dnsmessage.Type{deep: dnsmessage.TypeA, label + ".fox.vm.": dnsmessage.TypeA, "2.16.64.127.in-addr.arpa.": dnsmessage.TypePTR} {
		reply, _ := long.respond(question(t, name, asked, edns(4096, 0)), Guests, otter)
		if m := unpack(t, reply); len(reply) > usualUDP || !m.Authoritative {
			t.Errorf("%s: %d bytes, %s", name, len(reply), say(m))
		}
	}
}

func TestBadQueries(t *testing.T) {
	good := question(t, "otter.vm.", dnsmessage.TypeA)
	two := func(m *dnsmessage.Message) { m.Questions = append(m.Questions, m.Questions[0]) }
	chaos := func(m *dnsmessage.Message) { m.Questions[0].Class = dnsmessage.ClassCHAOS }
	notify := func(m *dnsmessage.Message) { m.OpCode = 4 }
	response := func(m *dnsmessage.Message) { m.Response = true }
	count := func(at int) []byte {
		packet := slices.Clone(good)
		packet[at] = 0xff
		return packet
	}
	for name, test := range map[string]struct {
		packet []byte
		want   string
	}{
		"nothing":           {nil, ""},
		"half a header":     {good[:11], ""},
		"an answer":         {question(t, "otter.vm.", dnsmessage.TypeA, response), ""},
		"only a header":     {good[:12], "FormatError"},
		"half a question":   {good[:20], "FormatError"},
		"no question":       {append(make([]byte, 12), 0), "FormatError"},
		"two questions":     {question(t, "otter.vm.", dnsmessage.TypeA, two), "FormatError"},
		"too many answers":  {count(6), "FormatError"},
		"too many others":   {count(10), "FormatError"},
		"two OPT":           {question(t, "otter.vm.", dnsmessage.TypeA, edns(512, 0), edns(512, 0)), "FormatError"},
		"a loop":            {append(slices.Clone(good[:12]), 0xc0, 12, 0, 1, 0, 1), "FormatError"},
		"a dot in a label":  {append(slices.Clone(good[:12]), 3, 'a', '.', 'b', 2, 'v', 'm', 0, 0, 1, 0, 1), "FormatError"},
		"another class":     {question(t, "otter.vm.", dnsmessage.TypeTXT, chaos), "Refused"},
		"another operation": {question(t, "vm.", dnsmessage.TypeSOA, notify), "NotImplemented"},
	} {
		reply, forward := table.respond(test.packet, Guests, otter)
		got := ""
		if reply != nil {
			got = say(unpack(t, reply))
		}
		if got != test.want || forward != nil {
			t.Errorf("%s: %q, %v; want %q", name, got, forward, test.want)
		}
	}
}

func TestEDNS(t *testing.T) {
	opt := func(version byte) (dnsmessage.Message, dnsmessage.ResourceHeader) {
		reply, _ := table.respond(question(t, "otter.vm.", dnsmessage.TypeA, edns(4096, version)), Guests, otter)
		m := unpack(t, reply)
		if len(m.Additionals) != 1 || m.Additionals[0].Header.Type != dnsmessage.TypeOPT {
			t.Fatalf("no OPT in %+v", m)
		}
		return m, m.Additionals[0].Header
	}
	m, h := opt(0)
	if h.Class != ourUDP || !h.DNSSECAllowed() || h.ExtendedRCode(m.RCode) != 0 || len(m.Answers) != 1 {
		t.Errorf("%+v, %+v", m, h)
	}
	if m, h = opt(1); h.ExtendedRCode(m.RCode) != badVersion || len(m.Answers) != 0 {
		t.Errorf("version 1: %+v, %+v", m, h)
	}
}

func TestWhoIsAnswered(t *testing.T) {
	loopback, stranger := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("192.0.2.1")
	for _, test := range []struct {
		askers          Askers
		from            netip.Addr
		answers, passes bool
	}{
		{Guests, otter, true, true},
		{Guests, badger, true, false},
		{Guests, gateway, true, false}, // the host itself
		{Guests, netip.MustParseAddr("127.64.16.99"), true, false},
		{Guests, stranger, false, false},
		{Guests, netip.Addr{}, false, false},
		{Host, loopback, true, false},
		{Host, otter, true, false}, // only here: it is a loopback address
		{Host, stranger, false, false},
	} {
		ours, _ := table.respond(question(t, "otter.vm.", dnsmessage.TypeA), test.askers, test.from)
		other, forward := table.respond(question(t, "example.org.", dnsmessage.TypeA), test.askers, test.from)
		if (ours != nil) != test.answers || (forward != nil) != test.passes || test.answers && !test.passes && say(unpack(t, other)) != "Refused" {
			t.Errorf("%s %v: %v, %v", test.askers, test.from, ours, forward)
		}
	}
}

// upstream answers what f says, by both transports, and counts.
func upstream(t testing.TB, f func(dnsmessage.Message, transport) *dnsmessage.Message) (netip.AddrPort, *atomic.Int32) {
	t.Helper()
	socket, at := bind(t, netip.MustParseAddr("127.0.0.1"), Host)
	t.Cleanup(func() { socket.Close() })
	var asked atomic.Int32
	reply := func(packet []byte, by transport) []byte {
		var m dnsmessage.Message
		asked.Add(1)
		if m.Unpack(packet) != nil {
			return nil
		}
		answer := f(m, by)
		if answer == nil {
			return nil
		}
		packed, err := answer.Pack()
		if err != nil {
			t.Error(err)
		}
		return packed
	}
	go func() {
		buffer := make([]byte, 1<<16)
		for {
			n, from, err := socket.Packets.ReadFrom(buffer)
			if err != nil {
				return
			}
			if out := reply(buffer[:n], byUDP); out != nil {
				socket.Packets.WriteTo(out, from)
			}
		}
	}()
	go func() {
		for {
			conn, err := socket.Streams.Accept()
			if err != nil {
				return
			}
			if packet, err := readMessage(conn, mostQuery); err == nil {
				if out := reply(packet, byTCP); out != nil {
					writeMessage(conn, out)
				}
			}
			conn.Close()
		}
	}()
	return at, &asked
}

// resolves is an upstream that knows one address of each name, and a long text.
func resolves(m dnsmessage.Message, by transport) *dnsmessage.Message {
	m.Response, m.RecursionAvailable = true, true
	q := m.Questions[0]
	h := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60}
	add := func(body dnsmessage.ResourceBody) {
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: body})
	}
	switch {
	case strings.HasPrefix(q.Name.String(), "missing."):
		m.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeA:
		add(&dnsmessage.AResource{A: [4]byte{192, 0, 2, 7}})
	case q.Type == dnsmessage.TypeAAAA:
		add(&dnsmessage.AAAAResource{AAAA: [16]byte{0x20, 1, 0xd, 0xb8}})
	case q.Type == dnsmessage.TypeTXT:
		if by == byUDP && strings.HasPrefix(q.Name.String(), "cut.") {
			m.Truncated = true
			break
		}
		for range 20 {
			add(&dnsmessage.TXTResource{TXT: []string{strings.Repeat("x", 200)}})
		}
	}
	return &m
}

func fixed(all ...netip.AddrPort) func() []netip.AddrPort {
	return func() []netip.AddrPort { return all }
}

func TestForward(t *testing.T) {
	up, asked := upstream(t, resolves)
	_, at := serve(t, fixed(up))
	ctx := t.Context()
	guest := resolver(otter, at)
	if got, err := guest.LookupHost(ctx, "example.org."); err != nil || !slices.Equal(got, []string{"192.0.2.7"}) {
		t.Errorf("got %v, %v", got, err)
	}
	if n := asked.Load(); n != 2 { // A and AAAA
		t.Errorf("the upstream was asked %d times", n)
	}
	if got, err := guest.LookupHost(ctx, "otter.vm."); err != nil || !slices.Equal(got, []string{otter.String()}) {
		t.Errorf("got %v, %v", got, err)
	}
	var missing *net.DNSError
	for _, name := range []string{"missing.example.org.", "fox.vm."} {
		if _, err := guest.LookupHost(ctx, name); !errors.As(err, &missing) || !missing.IsNotFound {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, err := guest.LookupAddr(ctx, badger.String()); err != nil || !slices.Equal(got, []string{"badger.vm."}) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, name := range []string{"long.example.org.", "cut.example.org."} {
		if got, err := guest.LookupTXT(ctx, name); err != nil || len(got) != 20 {
			t.Errorf("%s: %d texts, %v", name, len(got), err)
		}
	}
	before := asked.Load()
	if _, err := resolver(badger, at).LookupHost(ctx, "example.org."); err == nil || asked.Load() != before {
		t.Errorf("without egress: %v, and the upstream was asked", err)
	}
}

// The table is replaced while guests ask.
func TestSetTable(t *testing.T) {
	up, _ := upstream(t, resolves)
	s, at := serve(t, fixed(up))
	guest := resolver(badger, at)
	s.SetTable(NewTable(subnet, []Name{{"fox", badger, true}}))
	for _, name := range []string{"fox.vm.", "example.org."} {
		if _, err := guest.LookupHost(t.Context(), name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := guest.LookupHost(t.Context(), "otter.vm."); err == nil {
		t.Error("a name stayed")
	}
}

// An IPv6 address becomes no address; everything else comes through as it is.
func TestAAAA(t *testing.T) {
	up, _ := upstream(t, resolves)
	_, at := serve(t, fixed(up))
	for _, network := range []string{"udp", "tcp"} {
		m := ask(t, network, at, question(t, "example.org.", dnsmessage.TypeAAAA, edns(1232, 0)))
		if say(m) != "Success" || len(m.Additionals) != 1 || !m.RecursionAvailable || m.ID != 0x1234 {
			t.Errorf("%s: %s %+v", network, say(m), m)
		}
		if m = ask(t, network, at, question(t, "missing.example.org.", dnsmessage.TypeAAAA)); say(m) != "NameError" {
			t.Errorf("%s: %s", network, say(m))
		}
	}
}

// ask asks once and returns the answer.
func ask(t testing.TB, network string, at netip.AddrPort, packet []byte) dnsmessage.Message {
	t.Helper()
	conn := dial(t, network, otter, at)
	defer conn.Close()
	if network == "tcp" {
		if err := writeMessage(conn, packet); err != nil {
			t.Fatal(err)
		}
		reply, err := readMessage(conn, 1<<16-1)
		if err != nil {
			t.Fatal(err)
		}
		return unpack(t, reply)
	}
	if _, err := conn.Write(packet); err != nil {
		t.Fatal(err)
	}
	reply := make([]byte, 1<<16)
	n, err := conn.Read(reply)
	if err != nil {
		t.Fatal(err)
	}
	return unpack(t, reply[:n])
}

// What does not fit is cut, with the question in it.
func TestTruncation(t *testing.T) {
	up, _ := upstream(t, resolves)
	_, at := serve(t, fixed(up))
	for _, test := range []struct {
		options []func(*dnsmessage.Message)
		cut     bool
	}{{nil, true}, {[]func(*dnsmessage.Message){edns(1232, 0)}, true}, {[]func(*dnsmessage.Message){edns(65535, 0)}, true}} {
		packet := question(t, "long.example.org.", dnsmessage.TypeTXT, test.options...)
		m := ask(t, "udp", at, packet)
		if m.Truncated != test.cut || len(m.Questions) != 1 || len(m.Answers) != 0 {
			t.Errorf("%s", say(m))
		}
		if m = ask(t, "tcp", at, packet); m.Truncated || len(m.Answers) != 20 {
			t.Errorf("by TCP: %s", say(m))
		}
	}
}

// Forged answers are passed over: with another ID, question, or from elsewhere.
func TestForgedAnswers(t *testing.T) {
	socket, up := bind(t, netip.MustParseAddr("127.0.0.1"), Host)
	defer socket.Close()
	_, at := serve(t, fixed(up))
	ids, ports := map[uint16]bool{}, map[string]bool{}
	go func() {
		buffer := make([]byte, 1<<16)
		for {
			n, from, err := socket.Packets.ReadFrom(buffer)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if err := m.Unpack(buffer[:n]); err != nil {
				t.Error(err)
			}
			ids[m.ID], ports[from.String()] = true, true
			forged := *resolves(m, byUDP)
			forged.Answers = []dnsmessage.Resource{{Header: forged.Answers[0].Header, Body: &dnsmessage.AResource{A: [4]byte{6, 6, 6, 6}}}}
			send := func(f func(*dnsmessage.Message)) {
				other := forged
				other.Questions = slices.Clone(forged.Questions)
				f(&other)
				packed, _ := other.Pack()
				socket.Packets.WriteTo(packed, from)
			}
			if elsewhere, err := net.Dial("udp", from.String()); err == nil {
				packed, _ := forged.Pack()
				elsewhere.Write(packed)
				elsewhere.Close()
			}
			send(func(m *dnsmessage.Message) { m.ID++ })
			send(func(m *dnsmessage.Message) { m.Response = false })
			send(func(m *dnsmessage.Message) { m.Questions = nil })
			send(func(m *dnsmessage.Message) { m.Questions[0].Name = dnsmessage.MustNewName("example.com.") })
			send(func(m *dnsmessage.Message) { m.Questions[0].Type = dnsmessage.TypeAAAA })
			socket.Packets.WriteTo([]byte("nonsense"), from)
			packed, _ := resolves(m, byUDP).Pack()
			socket.Packets.WriteTo(packed, from)
		}
	}()
	for range 20 {
		if got := say(ask(t, "udp", at, question(t, "example.org.", dnsmessage.TypeA))); got != "Success 192.0.2.7" {
			t.Errorf("got %s", got)
		}
	}
	socket.Close()
	if len(ids) < 15 || len(ports) < 15 {
		t.Errorf("20 queries had %d IDs and %d ports", len(ids), len(ports))
	}
}

// Upstreams that refuse, fail or are not there are passed over at once.
func TestNextUpstream(t *testing.T) {
	gone, _ := bind(t, netip.MustParseAddr("127.0.0.1"), Host)
	closed := gone.Streams.Addr().(*net.TCPAddr).AddrPort()
	gone.Close()
	refuses, _ := upstream(t, func(m dnsmessage.Message, _ transport) *dnsmessage.Message {
		m.Response, m.RCode = true, dnsmessage.RCodeRefused
		return &m
	})
	up, _ := upstream(t, resolves)
	for _, network := range []string{"udp", "tcp"} {
		for want, all := range map[string][]netip.AddrPort{
			"Success 192.0.2.7": {closed, refuses, up},
			"Refused":           {refuses, closed},
			"ServerFailure":     {closed},
		} {
			_, at := serve(t, fixed(all...))
			began := time.Now()
			if got := say(ask(t, network, at, question(t, "example.org.", dnsmessage.TypeA))); got != want || time.Since(began) > patience {
				t.Errorf("%s %v: %s after %v, want %s", network, all, got, time.Since(began), want)
			}
		}
	}
	_, at := serve(t, none)
	if got := say(ask(t, "udp", at, question(t, "example.org.", dnsmessage.TypeA))); got != "ServerFailure" {
		t.Errorf("without upstreams: %s", got)
	}
}

// An upstream that is silent is asked last for a while.
func TestSilentUpstream(t *testing.T) {
	silent, asked := upstream(t, func(dnsmessage.Message, transport) *dnsmessage.Message { return nil })
	up, _ := upstream(t, resolves)
	_, at := serve(t, fixed(silent, up))
	for range 3 {
		if got := say(ask(t, "udp", at, question(t, "example.org.", dnsmessage.TypeA))); got != "Success 192.0.2.7" {
			t.Errorf("got %s", got)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the silent one was asked %d times", n)
	}
}

// One guest cannot take the room of all, and answers for our names do not need any.
func TestBounds(t *testing.T) {
	var waits atomic.Int32
	full := make(chan struct{})
	silent, _ := upstream(t, func(dnsmessage.Message, transport) *dnsmessage.Message {
		if waits.Add(1) == mostForwardsEach {
			close(full)
		}
		return nil
	})
	s, at := serve(t, fixed(silent))
	conn := dial(t, "udp", otter, at)
	for range mostForwardsEach {
		if _, err := conn.Write(question(t, "example.org.", dnsmessage.TypeA)); err != nil {
			t.Fatal(err)
		}
	}
	<-full
	if got := say(ask(t, "udp", at, question(t, "example.org.", dnsmessage.TypeA))); got != "ServerFailure" {
		t.Errorf("got %s", got)
	}
	if got := say(ask(t, "udp", at, question(t, "otter.vm.", dnsmessage.TypeA))); got != "Success aa 127.64.16.2" {
		t.Errorf("got %s", got)
	}
	if !s.forwards.enter(badger) {
		t.Error("no room for another guest")
	}
	s.forwards.leave(badger)
	var conns []net.Conn
	for range mostConnsEach {
		conns = append(conns, dial(t, "tcp", otter, at))
	}
	if n, err := dial(t, "tcp", otter, at).Read(make([]byte, 1)); err == nil {
		t.Errorf("one more connection: %d", n)
	}
	for _, conn := range conns {
		conn.Close()
	}
}

// Queries of one connection are answered as their answers come.
func TestPipelining(t *testing.T) {
	release := make(chan struct{})
	up, _ := upstream(t, func(m dnsmessage.Message, by transport) *dnsmessage.Message {
		<-release
		return resolves(m, by)
	})
	_, at := serve(t, fixed(up))
	conn := dial(t, "tcp", otter, at)
	var all []byte
	for _, name := range []string{"example.org.", "otter.vm.", "badger.vm."} {
		packet := question(t, name, dnsmessage.TypeA)
		all = append(append(all, 0, byte(len(packet))), packet...)
	}
	if _, err := conn.Write(all); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"Success aa 127.64.16.2", "Success aa 127.64.17.3", "Success 192.0.2.7"} {
		if i == 2 {
			close(release)
		}
		reply, err := readMessage(conn, 1<<16-1)
		if err != nil {
			t.Fatal(err)
		}
		if got := say(unpack(t, reply)); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if err := writeMessage(conn, make([]byte, mostQuery+1)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("a query that is too long was answered")
	}
}

func TestServeReportsASocketThatFails(t *testing.T) {
	s := NewServer(table, none)
	one, _ := bind(t, gateway, Guests)
	two, _ := bind(t, gateway, Host)
	done := make(chan error, 1)
	go func() { done <- s.Serve(context.Background(), one, two) }()
	two.Streams.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestNameservers(t *testing.T) {
	for text, want := range map[string]string{
		"":                                       "[127.0.0.1:53]",
		"# nameserver 192.0.2.1\n;x\nsearch a\n": "[127.0.0.1:53]",
		"nameserver 192.0.2.1":                   "[192.0.2.1:53]",
		"nameserver\t192.0.2.1 # VPN\r\nnameserver ::1\n":   "[192.0.2.1:53 [::1]:53]",
		"nameserver fe80::1%eth0\nnameserver x\nnameserver": "[[fe80::1%eth0]:53]",
		" nameserver 127.0.0.53\nnameserver 224.0.0.1\n":    "[127.0.0.53:53]",
		strings.Repeat("nameserver 192.0.2.1\n", 9):         "[192.0.2.1:53 192.0.2.1:53 192.0.2.1:53]",
		"nameserver ::ffff:192.0.2.1\n":                     "[192.0.2.1:53]",
	} {
		if got := fmt.Sprint(nameservers([]byte(text))); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

// The list follows the file through links, and through directories that are replaced.
func TestUpstreamsFollow(t *testing.T) {
	dir := t.TempDir()
	path, run := filepath.Join(dir, "resolv.conf"), filepath.Join(dir, "run")
	u := NewUpstreams(path, slog.New(slog.DiscardHandler))
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(want string) {
		t.Helper()
		if got := fmt.Sprint(u.List()); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	write := func(path, addr string) error { return os.WriteFile(path, []byte("nameserver "+addr+"\n"), 0o600) }
	expect("[127.0.0.1:53]")
	must(os.Symlink("run/stub.conf", path))
	expect("[127.0.0.1:53]")
	must(os.Mkdir(run, 0o700), write(filepath.Join(run, "stub.conf"), "192.0.2.1"))
	expect("[192.0.2.1:53]")
	must(write(filepath.Join(run, "stub.conf"), "192.0.2.22")) // in place
	expect("[192.0.2.22:53]")
	must(write(filepath.Join(run, "new"), "192.0.2.33"), os.Rename(filepath.Join(run, "new"), filepath.Join(run, "stub.conf")))
	expect("[192.0.2.33:53]")
	must(os.Mkdir(run+".new", 0o700), write(filepath.Join(run+".new", "stub.conf"), "192.0.2.44"), os.RemoveAll(run), os.Rename(run+".new", run))
	expect("[192.0.2.44:53]")
	must(os.Remove(path), write(path, "192.0.2.55"))
	expect("[192.0.2.55:53]")
	must(os.Remove(path), os.Mkdir(path, 0o700)) // not a file
	expect("[192.0.2.55:53]")
}

// dig is a client of other authors.
func TestDig(t *testing.T) {
	dig, err := exec.LookPath("dig")
	if err != nil {
		t.Skip("dig is missing; fix: sudo apt-get install bind9-dnsutils")
	}
	up, _ := upstream(t, resolves)
	_, at := serve(t, fixed(up))
	for _, test := range []struct{ args, want string }{
		{"otter.vm A", "127.64.16.2"},
		{"otter.vm A +tcp", "127.64.16.2"},
		{"otter.vm A +noedns", "127.64.16.2"},
		{"-x 127.64.17.3", "badger.vm."},
		{"vm SOA", "vm. hostmaster.vm. 1 3600 600 86400 0"},
		{"otter.vm AAAA", ""},
		{"example.org A", "192.0.2.7"},
		{"example.org AAAA", ""},
		{"example.org A +cookie +dnssec", "192.0.2.7"},
		{"otter.vm A +edns=1 +noednsneg", "status: BADVERS"},
		{"fox.vm A", "status: NXDOMAIN"},
		{"otter.vm CH TXT", "status: REFUSED"},
		{"otter.vm AXFR", "Transfer failed"},
		{"otter.vm A +opcode=notify", "status: NOTIMP"},
	} {
		args := append([]string{"-b", otter.String(), "-p", fmt.Sprint(at.Port()), "@" + at.Addr().String(), "+tries=1"}, strings.Fields(test.args)...)
		short := !strings.Contains(test.want, "status") && !strings.Contains(test.want, "fail")
		if short {
			args = append(args, "+short")
		}
		out, err := exec.Command(dig, args...).CombinedOutput()
		got := strings.TrimSpace(string(out))
		if short && got != test.want || !strings.Contains(got, test.want) || strings.Contains(got, ";; Warning") || strings.Contains(got, "malformed") {
			t.Errorf("dig %s: %v\n%s", test.args, err, got)
		}
	}
}
