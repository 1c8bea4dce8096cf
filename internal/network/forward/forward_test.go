package forward

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/network"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const instance = network.Instance("7e57ab1e")

// fixture has forwards, and servers in place of those in guests.
type fixture struct {
	*Forwards
	t       testing.TB
	log     bytes.Buffer
	changed chan banger.VMID

	mu      sync.Mutex
	servers map[string]string // by "VM:port"
	broken  error
	wrap    func(Stream) Stream
}

func newFixture(t testing.TB) *fixture {
	x := &fixture{t: t, changed: make(chan banger.VMID, 10000), servers: map[string]string{}}
	x.Forwards = New(Config{Log: slog.New(slog.NewTextHandler(&x.log, nil)), Instance: instance, Dial: x.dial,
		Changed: func(id banger.VMID) { x.changed <- id }})
	x.lowest = func() uint16 { return 0 }
	t.Cleanup(x.Close)
	return x
}

func serverOf(id banger.VMID, port uint16) string { return fmt.Sprintf("%s:%d", id, port) }

func (x *fixture) dial(ctx context.Context, id banger.VMID, to netip.AddrPort) (Stream, error) {
	x.mu.Lock()
	at, broken, wrap := x.servers[serverOf(id, to.Port())], x.broken, x.wrap
	x.mu.Unlock()
	if broken != nil {
		return nil, broken
	}
	if at == "" {
		return nil, fmt.Errorf("dial %v: %w", to, syscall.ECONNREFUSED)
	}
	network := "tcp"
	if strings.HasPrefix(at, "/") || strings.HasPrefix(at, "@") {
		network = "unix"
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, at)
	if err != nil {
		return nil, err
	}
	if wrap != nil {
		return wrap(conn.(Stream)), nil
	}
	return conn.(Stream), nil
}

// serve makes a server for a port of a VM.
func (x *fixture) serve(id banger.VMID, port uint16, handle func(*net.TCPConn)) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go handle(conn.(*net.TCPConn))
		}
	}()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.servers[serverOf(id, port)] = l.Addr().String()
}

// says returns a handler that sends back what it gets behind a word.
func says(word string) func(*net.TCPConn) {
	return func(conn *net.TCPConn) {
		defer conn.Close()
		io.WriteString(conn, word)
		io.Copy(conn, conn)
	}
}

func listening(ports ...uint16) (list []Port) {
	for _, port := range ports {
		list = append(list, Port{At: netip.AddrPortFrom(loopback4, port), Program: "server"})
	}
	return list
}

func (x *fixture) ownOf(slot int, port uint16) netip.AddrPort {
	own, err := network.Loopback(instance, slot)
	if err != nil {
		x.t.Fatal(err)
	}
	return netip.AddrPortFrom(own, port)
}

func (x *fixture) row(id banger.VMID, port uint16) banger.Forward {
	x.t.Helper()
	for _, row := range x.List(id) {
		if row.Port == port {
			return row
		}
	}
	return banger.Forward{}
}

// wantAddresses checks where a port is found.
func (x *fixture) wantAddresses(id banger.VMID, port uint16, want ...netip.AddrPort) banger.Forward {
	x.t.Helper()
	row := x.row(id, port)
	if !slices.Equal(row.Addresses, want) {
		x.t.Errorf("port %d of %s is at %v, not %v: %s", port, id, row.Addresses, want, row.Why)
	}
	return row
}

// ask returns the first bytes of the answer at an address, or the error.
func ask(at netip.AddrPort, length int) (string, error) {
	conn, err := net.Dial("tcp", at.String())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	answer := make([]byte, length)
	n, err := io.ReadFull(conn, answer)
	return string(answer[:n]), err
}

func (x *fixture) wantAnswer(at netip.AddrPort, want string) {
	x.t.Helper()
	if got, err := ask(at, len(want)); got != want {
		x.t.Errorf("%v: got %q (%v), not %q", at, got, err, want)
	}
}

func (x *fixture) wantNobody(at netip.AddrPort) {
	x.t.Helper()
	if conn, err := net.Dial("tcp", at.String()); err == nil {
		conn.Close()
		x.t.Errorf("%v: somebody listens", at)
	}
}

// freePort returns a port that is free on localhost in both families.
func freePort(t testing.TB) uint16 {
	for {
		l, err := net.Listen("tcp4", "0.0.0.0:0")
		if err != nil {
			t.Fatal(err)
		}
		port := uint16(l.Addr().(*net.TCPAddr).Port)
		l6, err := net.Listen("tcp6", fmt.Sprintf("[::]:%d", port))
		l.Close()
		if err == nil {
			l6.Close()
			return port
		}
		if noIPv6(err) {
			t.Skip("this host has no IPv6")
		}
	}
}

func occupy(t testing.TB, at netip.AddrPort) net.Listener {
	l, err := listen(at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestForwardsWhatListens(t *testing.T) {
	x, port := newFixture(t), freePort(t)
	x.serve("a", port, says("otter"))
	x.Set("a", Wanted{Name: "otter", Slot: 7, Auto: true, Listening: listening(port)})
	row := x.wantAddresses("a", port, append([]netip.AddrPort{x.ownOf(7, port)}, localhost(port)...)...)
	if row.Why != "" || row.Program != "server" || !row.Listening || row.Published {
		t.Errorf("got %+v", row)
	}
	for _, at := range row.Addresses {
		x.wantAnswer(at, "otter")
	}
	if id := <-x.changed; id != "a" {
		t.Errorf("%s has changed", id)
	}
	conn, err := net.Dial("tcp", row.Addresses[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.ReadFull(conn, make([]byte, 5))
	x.Set("a", Wanted{Name: "otter", Slot: 7, Auto: true})
	if list := x.List("a"); len(list) > 0 {
		t.Errorf("still there: %v", list)
	}
	for _, at := range row.Addresses {
		x.wantNobody(at)
	}
	io.WriteString(conn, "still there")
	if answer := make([]byte, 11); func() error { _, err := io.ReadFull(conn, answer); return err }() != nil || string(answer) != "still there" {
		t.Errorf("the connection did not survive: %q", answer)
	}
	x.Remove("a")
	if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after the VM: %d, %v", n, err)
	}
	if x.List("a") != nil {
		t.Error("a VM that is gone has forwards")
	}
}

func TestLocalhostIsFirstComeFirstServed(t *testing.T) {
	x, port := newFixture(t), freePort(t)
	for slot, id := range []banger.VMID{"a", "b", "c"} {
		x.serve(id, port, says(string(id)))
		x.Set(id, Wanted{Name: "vm-" + string(id), Slot: slot + 2, Auto: true, Listening: listening(port)})
	}
	x.wantAddresses("a", port, append([]netip.AddrPort{x.ownOf(2, port)}, localhost(port)...)...)
	if row := x.wantAddresses("b", port, x.ownOf(3, port)); row.Why != fmt.Sprintf(`VM "vm-a" has localhost:%d`, port) {
		t.Errorf("got %+v", row)
	}
	x.wantAnswer(localhost(port)[0], "a")
	x.wantAnswer(x.ownOf(3, port), "b")
	x.wantAnswer(x.ownOf(4, port), "c")
	x.Set("a", Wanted{Name: "vm-a", Slot: 2, Auto: true})
	x.Set("a", Wanted{Name: "vm-a", Slot: 2, Auto: true, Listening: listening(port)}) // at the end of the queue
	x.wantAddresses("b", port, append([]netip.AddrPort{x.ownOf(3, port)}, localhost(port)...)...)
	x.wantAnswer(localhost(port)[1], "b")
	x.Remove("b")
	x.wantAddresses("c", port, append([]netip.AddrPort{x.ownOf(4, port)}, localhost(port)...)...)
	x.wantAnswer(localhost(port)[0], "c")
}

func TestAnotherProgramKeepsItsPort(t *testing.T) {
	x := newFixture(t)
	for _, taken := range []netip.Addr{loopback4, loopback6} {
		port := freePort(t)
		l := occupy(t, netip.AddrPortFrom(taken, port))
		x.Set("a", Wanted{Slot: 2, Auto: true, Listening: listening(port)})
		row := x.wantAddresses("a", port, x.ownOf(2, port))
		if row.Why != fmt.Sprintf("another program has localhost:%d", port) || row.Fix != fmt.Sprintf("ss -lntp 'sport = :%d'", port) {
			t.Errorf("got %+v", row)
		}
		l.Close()
		x.wantAddresses("a", port, x.ownOf(2, port))
		x.Retry()
		x.wantAddresses("a", port, append([]netip.AddrPort{x.ownOf(2, port)}, localhost(port)...)...)
	}
	port := freePort(t)
	occupy(t, netip.AddrPortFrom(netip.IPv4Unspecified(), port))
	x.Set("a", Wanted{Slot: 2, Auto: true, Listening: listening(port)})
	if row := x.wantAddresses("a", port); !strings.Contains(row.Why, "another program has 127.") || !strings.Contains(row.Why, "; another program has localhost:") {
		t.Errorf("got %+v", row)
	}
}

func TestPublished(t *testing.T) {
	x, port := newFixture(t), freePort(t)
	x.serve("b", port, says("auto"))
	x.Set("b", Wanted{Name: "b", Slot: 3, Auto: true, Listening: listening(port)})
	x.List("b")
	x.wantAnswer(localhost(port)[0], "auto")
	x.Set("a", Wanted{Name: "a", Slot: 2, Published: []banger.Publish{{Host: port, Port: 80}}})
	row := x.wantAddresses("a", 80, localhost(port)...)
	if !row.Published || row.Listening || row.Why != "" {
		t.Errorf("got %+v", row)
	}
	if row := x.wantAddresses("b", port, x.ownOf(3, port)); row.Why != fmt.Sprintf(`VM "a" has localhost:%d`, port) {
		t.Errorf("got %+v", row)
	}
	if got, err := ask(localhost(port)[0], 1); got != "" || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("nothing listens in the guest: got %q, %v", got, err)
	}
	x.serve("a", 80, says("published"))
	x.wantAnswer(localhost(port)[1], "published")
	x.wantNobody(x.ownOf(2, 80))
}

// A socket for every address takes the port from all others: it serves them as well.
func TestPublishedEverywhere(t *testing.T) {
	x, port := newFixture(t), freePort(t)
	x.serve("a", 80, says("a"))
	x.serve("b", port, says("b"))
	x.Set("b", Wanted{Name: "b", Slot: 3, Auto: true, Listening: listening(port)})
	x.List("b")
	x.wantAnswer(x.ownOf(3, port), "b")
	everyone := []banger.Publish{{Addr: netip.IPv4Unspecified(), Host: port, Port: 80}, {Addr: netip.IPv6Unspecified(), Host: port, Port: 80}}
	x.Set("a", Wanted{Name: "a", Slot: 2, Published: everyone})
	x.wantAddresses("a", 80, everywhere(localhost(port)[0]), everywhere(localhost(port)[1]))
	x.wantAddresses("b", port, x.ownOf(3, port))
	x.wantAnswer(x.ownOf(3, port), "b")
	for _, at := range append(localhost(port), x.ownOf(9, port)) {
		x.wantAnswer(at, "a")
	}
	x.Remove("a")
	x.wantAddresses("b", port, append([]netip.AddrPort{x.ownOf(3, port)}, localhost(port)...)...)
	x.wantAnswer(localhost(port)[0], "b")

	l := occupy(t, x.ownOf(9, port)) // keeps everyone from 0.0.0.0
	x.Set("a", Wanted{Name: "a", Slot: 2, Published: everyone[:1]})
	if row := x.wantAddresses("a", 80); row.Why != fmt.Sprintf("another program has 0.0.0.0:%d", port) {
		t.Errorf("got %+v", row)
	}
	x.wantAnswer(localhost(port)[0], "b")
	l.Close()
	x.Retry()
	x.wantAddresses("a", 80, everywhere(localhost(port)[0]))
	x.wantAnswer(localhost(port)[0], "a")
}

func TestHostWithoutIPv6(t *testing.T) {
	x, port := newFixture(t), freePort(t)
	x.listen = func(at netip.AddrPort) (*net.TCPListener, error) {
		if at.Addr().Is6() {
			return nil, &net.OpError{Op: "listen", Err: unix.EADDRNOTAVAIL}
		}
		return listen(at)
	}
	x.Set("a", Wanted{Slot: 2, Auto: true, Listening: listening(port)})
	if row := x.wantAddresses("a", port, x.ownOf(2, port), localhost(port)[0]); row.Why != "" {
		t.Errorf("got %+v", row)
	}
}

func TestPortsThatTheHostForbids(t *testing.T) {
	x := newFixture(t)
	x.lowest = func() uint16 { return 1024 }
	ports := map[uint16]bool{}
	x.listen = func(at netip.AddrPort) (*net.TCPListener, error) {
		ports[at.Port()] = true
		return listen(netip.AddrPortFrom(at.Addr(), 0))
	}
	x.Set("a", Wanted{Slot: 2, Auto: true, Listening: listening(80)})
	row := x.wantAddresses("a", 80, append([]netip.AddrPort{x.ownOf(2, 8080)}, localhost(8080)...)...)
	if row.Why != "this host forbids ports below 1024: 8080 stands in for 80" || row.Fix != "sudo sysctl net.ipv4.ip_unprivileged_port_start=80" {
		t.Errorf("got %+v", row)
	}
	x.Set("a", Wanted{Slot: 2, Auto: true, Listening: listening(80, 8080)})
	x.wantAddresses("a", 8080, append([]netip.AddrPort{x.ownOf(2, 8080)}, localhost(8080)...)...)
	if row := x.wantAddresses("a", 80); row.Why != "this host forbids ports below 1024: 8080, which would stand in for 80, is the guest's own" {
		t.Errorf("got %+v", row)
	}
	if ports[80] {
		t.Error("a port that is forbidden was tried")
	}
}

func TestOnlyPublished(t *testing.T) {
	x, port := newFixture(t), freePort(t)
	x.Set("a", Wanted{Slot: 2, Listening: listening(80, port), Published: []banger.Publish{{Host: port, Port: 80}}})
	if row := x.wantAddresses("a", port); row.Why != "only published ports are forwarded" {
		t.Errorf("got %+v", row)
	}
	if row := x.wantAddresses("a", 80, localhost(port)...); row.Why != "" || !row.Listening {
		t.Errorf("got %+v", row)
	}
}

func TestCheck(t *testing.T) {
	x, free, ours, taken := newFixture(t), freePort(t), freePort(t), freePort(t)
	occupy(t, localhost(taken)[1])
	x.Set("a", Wanted{Name: "otter", Slot: 2, Auto: true, Listening: listening(free), Published: []banger.Publish{{Host: ours, Port: 80}}})
	x.List("a")
	any4 := netip.IPv4Unspecified()
	for _, c := range []struct {
		name  string
		ports []banger.Publish
		kind  banger.Kind
		why   string
		fix   string
	}{
		{"free, and forwarded by itself", []banger.Publish{{Host: free, Port: 80}}, "", "", ""},
		{"free everywhere", []banger.Publish{{Addr: any4, Host: free, Port: 80}}, "", "", ""},
		{"another VM's", []banger.Publish{{Host: ours, Port: 81}}, banger.Conflict, `VM "otter" publishes`, "--port "},
		{"another program's", []banger.Publish{{Host: taken, Port: 80}}, banger.Conflict, "another program has localhost", "ss -lntp"},
		{"twice", []banger.Publish{{Host: free, Port: 80}, {Host: free, Port: 81}}, banger.Invalid, "the same", "once"},
		{"twice, one with an address", []banger.Publish{{Host: free, Port: 80}, {Addr: loopback4, Host: free, Port: 81}}, banger.Invalid, "the same", "once"},
		{"not the host's", []banger.Publish{{Addr: netip.MustParseAddr("192.0.2.1"), Host: free, Port: 80}}, banger.Invalid, "not an address of this host", "ip address"},
	} {
		err := x.Check("b", c.ports)
		if (err == nil) != (c.kind == "") || err != nil && (banger.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.why) || !strings.Contains(banger.FixOf(err), c.fix)) {
			t.Errorf("%s: %v; fix: %s", c.name, err, banger.FixOf(err))
		}
	}
	if err := x.Check("a", []banger.Publish{{Host: ours, Port: 81}}); err != nil {
		t.Errorf("a VM's own: %v", err)
	}
	x.listen = func(netip.AddrPort) (*net.TCPListener, error) { return nil, unix.EACCES }
	if err := x.Check("b", []banger.Publish{{Host: 81, Port: 80}}); banger.KindOf(err) != banger.Unready || !strings.Contains(banger.FixOf(err), "ip_unprivileged_port_start=80") {
		t.Errorf("%v; fix: %s", err, banger.FixOf(err))
	}
}

// A guest that opens and closes ports all the time must not keep the host busy.
func TestManyChangesCostLittle(t *testing.T) {
	x := newFixture(t)
	var listens atomic.Int64
	x.listen = func(at netip.AddrPort) (*net.TCPListener, error) {
		listens.Add(1)
		return listen(netip.AddrPortFrom(at.Addr(), 0))
	}
	began := time.Now()
	for n := range 20000 {
		x.Set("a", Wanted{Slot: 2, Auto: true, Listening: listening(uint16(2000 + n%500))})
	}
	rounds := int64(time.Since(began)/pace) + 2
	x.wantAddresses("a", 2499, append([]netip.AddrPort{x.ownOf(2, 2499)}, localhost(2499)...)...)
	if got := listens.Load(); got > 3*rounds {
		t.Errorf("%d sockets in %v", got, time.Since(began))
	}
	x.Close()
	if got := int64(len(x.changed)); got > rounds {
		t.Errorf("%d changes were told", got)
	}
}

func TestManyPorts(t *testing.T) {
	x := newFixture(t)
	x.listen = func(at netip.AddrPort) (*net.TCPListener, error) { return listen(netip.AddrPortFrom(at.Addr(), 0)) }
	var ports []uint16
	for n := range uint16(MaxPorts + 10) {
		ports = append(ports, 2000+n)
	}
	x.Set("a", Wanted{Slot: 2, Auto: true, Listening: listening(ports...)})
	list := x.List("a")
	if len(list) != len(ports) || len(list[MaxPorts-1].Addresses) != 3 || len(list[MaxPorts].Addresses) != 0 || list[MaxPorts].Why == "" {
		t.Errorf("%d ports, %+v", len(list), list[MaxPorts])
	}
}

func TestBrokenConnectionsAreTold(t *testing.T) {
	x, port := newFixture(t), freePort(t)
	x.serve("a", port, says("works"))
	x.Set("a", Wanted{Slot: 2, Auto: true, Listening: listening(port)})
	x.List("a")
	x.mu.Lock()
	x.broken = errors.New("the agent is asleep")
	x.mu.Unlock()
	for range 3 {
		if got, err := ask(x.ownOf(2, port), 1); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("got %q, %v", got, err)
		}
	}
	if row := x.row("a", port); row.Why != "connections fail: the agent is asleep" {
		t.Errorf("got %+v", row)
	}
	x.mu.Lock()
	x.broken = nil
	x.mu.Unlock()
	x.wantAnswer(x.ownOf(2, port), "works")
	if row := x.row("a", port); row.Why != "" {
		t.Errorf("got %+v", row)
	}
	x.Close()
	if lines := strings.Count(x.log.String(), "\n"); lines != 1 {
		t.Errorf("%d lines in the log:\n%s", lines, x.log.String())
	}
}
