//go:build vm

package lab

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"banger"
)

// server listens on a port of the guest's own loopback, and answers each connection
// with what it got, once the client has ended its half.
const server = `use IO::Socket::INET; $SIG{CHLD} = 'IGNORE';
my $l = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => %d, Listen => 64, ReuseAddr => 1) or die $!;
while (my $c = $l->accept) { next if fork; my $got = ''; while (sysread($c, my $b, 65536)) { $got .= $b } print $c $got; exit }`

func (h *home) ports(t *testing.T, name string) map[uint16]banger.Forward {
	var p banger.VMPorts
	if err := json.Unmarshal([]byte(h.banger(t, "vm", "ports", "--json", name)), &p); err != nil {
		t.Fatal(err)
	}
	ports := map[uint16]banger.Forward{}
	for _, f := range p.Ports {
		ports[f.Port] = f
	}
	return ports
}

func echoed(at string, size int) error {
	conn, err := net.Dial("tcp", at)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(2 * time.Minute))
	sent := strings.Repeat("x", size)
	go func() { io.WriteString(conn, sent); conn.(*net.TCPConn).CloseWrite() }()
	got, err := io.ReadAll(conn)
	if err == nil && string(got) != sent {
		err = fmt.Errorf("%d of %d bytes came back", len(got), size)
	}
	return err
}

// TestPorts reaches a program that listens on the guest's loopback: as soon as it does,
// again under another daemon, and no longer once it has ended.
func TestPorts(t *testing.T) {
	t.Parallel()
	h := own(t)
	const listens, published = 3917, 3918
	vm := h.create(t, "--network", "none", "--port", fmt.Sprintf("%d:%d", published, listens))
	h.sh(t, vm.Name, fmt.Sprintf("setsid perl -e \"$(cat <<'EOF'\n"+server+"\nEOF\n)\" >/dev/null 2>&1 </dev/null & echo $! >/run/server", listens))
	began := time.Now()
	until(t, 2*time.Minute, "the port", func() bool { return len(h.ports(t, vm.Name)[listens].Addresses) == 5 })
	t.Logf("forwarded after %v: %+v", time.Since(began).Round(time.Millisecond), h.ports(t, vm.Name)[listens])
	check := func() {
		t.Helper()
		for _, at := range h.ports(t, vm.Name)[listens].Addresses {
			began := time.Now()
			if err := echoed(at.String(), 100_000); err != nil {
				t.Errorf("%v: %v", at, err)
			}
			t.Logf("%v: 100 kB both ways in %v", at, time.Since(began).Round(time.Millisecond))
		}
	}
	check()
	h.killDaemon(t)
	until(t, 2*time.Minute, "the port under another daemon", func() bool { return len(h.ports(t, vm.Name)[listens].Addresses) == 5 })
	check()
	h.sh(t, vm.Name, "kill $(cat /run/server)")
	until(t, 2*time.Minute, "the end of the port", func() bool {
		f := h.ports(t, vm.Name)[listens]
		return !f.Listening && len(f.Addresses) == 2
	})
	if err := echoed(fmt.Sprintf("127.0.0.1:%d", published), 1); err == nil {
		t.Error("a port that nobody listens on answers")
	}
}
