//go:build vm

package lab

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"banger"
)

// many is how many connections are open at once.
const many = 200

// server listens on a port of the guest's own loopback. The first line of a connection
// says what to do with it.
const server = `import os, socket, subprocess, sys, threading
everybody, ends, ended = threading.Barrier(int(sys.argv[2])), [], threading.Semaphore(0)
def line(c):
    got = b""
    while not got.endswith(b"\n"): got += c.recv(1) or b" gone\n"
    return got.split()
def rest(c):
    got = b""
    while True:
        some = c.recv(65536)
        if not some: return got
        got += some
def serve(c):
    verb, *args = line(c)
    if verb == b"echo": c.sendall(rest(c))
    if verb == b"gather": everybody.wait(); c.sendall(b"all"); c.sendall(rest(c))
    if verb == b"first":
        c.sendall(b"welcome"); c.shutdown(socket.SHUT_WR)
        try: ends.append(rest(c))
        except OSError as e: ends.append(type(e).__name__.encode())
        ended.release()
    if verb == b"said": ended.acquire(); c.sendall(ends.pop())
    if verb == b"seq": subprocess.run("seq 1000000000 | head -c " + args[0].decode(), shell=True, stdout=c)
    if verb == b"cut": c.sendall(b"part"); c.recv(1); c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    c.close()
l = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=256)
open("/run/listens", "w").write(str(os.getpid()))
while True: threading.Thread(target=serve, args=(l.accept()[0],), daemon=True).start()
`

// startServer returns once the server listens.
func (h *home) startServer(t *testing.T, name string, port uint16) {
	t.Helper()
	if r := h.run(t.Context(), []byte(server), "vm", "exec", name, "--", "sh", "-c", "cat >/run/server"); r.code != 0 {
		t.Fatal(r.stderr)
	}
	h.sh(t, name, fmt.Sprintf("setsid python3 /run/server %d %d >/run/server.log 2>&1 </dev/null & until [ -s /run/listens ]; do sleep 0.05; done", port, many))
}

func (h *home) ports(t *testing.T, name string) map[uint16]banger.Forward {
	t.Helper()
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

// freePorts returns ports of localhost that nobody has.
func freePorts(t *testing.T, n int) (ports []uint16) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // only then: each is another one
		ports = append(ports, l.Addr().(*net.TCPAddr).AddrPort().Port())
	}
	return ports
}

func onLocalhost(port uint16) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// talk connects, and says what to do.
func talk(at, verb string) (*net.TCPConn, error) {
	conn, err := net.Dial("tcp", at)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(5 * time.Minute))
	_, err = io.WriteString(conn, verb+"\n")
	return conn.(*net.TCPConn), err
}

func mustTalk(t *testing.T, at, verb string) *net.TCPConn {
	t.Helper()
	conn, err := talk(at, verb)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// echoed sends bytes, ends its half, and expects them back.
func echoed(at string, size int) error {
	conn, err := talk(at, "echo")
	if err != nil {
		return err
	}
	defer conn.Close()
	sent := strings.Repeat("x", size)
	go func() { io.WriteString(conn, sent); conn.CloseWrite() }()
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
	free := freePorts(t, 2)
	listens, published := free[0], free[1]
	vm := h.create(t, "--network", "none", "--port", fmt.Sprintf("%d:%d", published, listens))
	h.startServer(t, vm.Name, listens)
	began := time.Now()
	until(t, time.Second, "the port on localhost", func() bool { return echoed(onLocalhost(listens), 1) == nil })
	t.Logf("forwarded %v after it listens", time.Since(began).Round(time.Millisecond))
	h.checkAddresses(t, vm.Name, listens)
	at := onLocalhost(listens)
	t.Run("many at once", func(t *testing.T) { manyAtOnce(t, at) })
	t.Run("half-closed", func(t *testing.T) { halfClosed(t, at) })
	t.Run("a download", func(t *testing.T) { download(t, at) })
	t.Run("cut off", func(t *testing.T) { cutOff(t, at) })
	t.Run("the daemon is killed", func(t *testing.T) { h.killAmidTransfers(t, vm.Name, at) })
	h.checkAddresses(t, vm.Name, listens)
	h.sh(t, vm.Name, "kill $(cat /run/listens)")
	until(t, 2*time.Minute, "the end of the port", func() bool {
		f := h.ports(t, vm.Name)[listens]
		return !f.Listening && len(f.Addresses) == 2
	})
	if err := echoed(onLocalhost(published), 1); err == nil {
		t.Error("a port that nobody listens on answers")
	}
}

// checkAddresses reaches a port by all of its addresses: the VM's own, localhost and what
// is published, the last two in IPv4 and IPv6.
func (h *home) checkAddresses(t *testing.T, name string, port uint16) {
	t.Helper()
	addresses := h.ports(t, name)[port].Addresses
	if len(addresses) != 5 {
		t.Errorf("it is at %v", addresses)
	}
	for _, at := range addresses {
		began := time.Now()
		if err := echoed(at.String(), 100_000); err != nil {
			t.Errorf("%v: %v", at, err)
		}
		t.Logf("%v: 100 kB both ways in %v", at, time.Since(began).Round(time.Millisecond))
	}
}

// manyAtOnce opens many connections, all of which the guest has at the same time.
func manyAtOnce(t *testing.T, at string) {
	began := time.Now()
	var wait sync.WaitGroup
	for n := range many {
		wait.Go(func() {
			conn, err := talk(at, "gather")
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			all := make([]byte, 3)
			if _, err := io.ReadFull(conn, all); err != nil {
				t.Errorf("connection %d: %v", n, err)
				return
			}
			sent := bytes.Repeat([]byte{byte(n)}, 10_000)
			go func() { conn.Write(sent); conn.CloseWrite() }()
			if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("connection %d: %d bytes came back, %v", n, len(got), err)
			}
		})
	}
	wait.Wait()
	t.Logf("%d connections, each with 10 kB both ways, in %v", many, time.Since(began).Round(time.Millisecond))
}

// halfClosed ends each half alone; echoed is about the client's.
func halfClosed(t *testing.T, at string) {
	conn := mustTalk(t, at, "first")
	if got, err := io.ReadAll(conn); string(got) != "welcome" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	io.WriteString(conn, "after that")
	conn.CloseWrite()
	if got := said(t, at); got != "after that" {
		t.Errorf("the guest got %q", got)
	}
}

// said returns what the last connection that the guest half-closed has brought, or the
// guest's error.
func said(t *testing.T, at string) string {
	t.Helper()
	got, err := io.ReadAll(mustTalk(t, at, "said"))
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}

func download(t *testing.T, at string) {
	size := 4 << 20
	if rounds(t, 1) > 1 {
		size = 1 << 30
	}
	conn := mustTalk(t, at, fmt.Sprintf("seq %d", size))
	conn.SetDeadline(time.Now().Add(30 * time.Minute))
	began, hash := time.Now(), sha256.New()
	n, err := io.Copy(hash, conn)
	t.Logf("out: %s", rate(int(n), time.Since(began)))
	if sum := hex.EncodeToString(hash.Sum(nil)); n != int64(size) || err != nil || sum != patternDigest(n) {
		t.Errorf("%d of %d bytes, sum %s, %v", n, size, sum, err)
	}
}

// cutOff: what is cut off at one end does not look complete at the other.
func cutOff(t *testing.T, at string) {
	conn := mustTalk(t, at, "cut")
	io.ReadFull(conn, make([]byte, 4))
	conn.Write([]byte{1})
	if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the guest has reset it: %d, %v", n, err)
	}
	conn = mustTalk(t, at, "first")
	io.ReadAll(conn)
	io.WriteString(conn, "part")
	conn.SetLinger(0)
	conn.Close()
	if got := said(t, at); got != "ConnectionResetError" {
		t.Errorf("the client has reset it; the guest got %q", got)
	}
}

// killAmidTransfers kills the daemon while bytes flow: neither end takes them for all
// there are. The port is there again as soon as a daemon is.
func (h *home) killAmidTransfers(t *testing.T, name, at string) {
	down, up := mustTalk(t, at, fmt.Sprintf("seq %d", 1<<30)), mustTalk(t, at, "first")
	io.ReadAll(up)
	io.WriteString(up, "part")
	if _, err := io.CopyN(io.Discard, down, 1<<20); err != nil {
		t.Fatal(err)
	}
	h.killDaemon(t)
	if n, err := io.Copy(io.Discard, down); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the daemon was killed: %d bytes more, %v", n, err)
	}
	began := time.Now()
	h.banger(t, "vm", "list") // which starts one
	until(t, time.Minute, "the port under another daemon", func() bool { return echoed(at, 1) == nil })
	t.Logf("there again after %v", time.Since(began).Round(time.Millisecond))
	if got := said(t, at); got != "ConnectionResetError" {
		t.Errorf("the daemon was killed; the guest got %q", got)
	}
}

// published: others on the network reach what is published to everybody, and nothing else
// of what listens in the guest.
func (b *bridged) published(t *testing.T, vm banger.VM) {
	const listens, published = 3000, 8081
	outside := func(port int) (err error) {
		b.outside.do(t, func() error {
			err = echoed(fmt.Sprintf("%s:%d", hostAddr, port), 1000)
			return nil
		})
		return err
	}
	b.startServer(t, vm.Name, listens)
	b.banger(t, "vm", "set", vm.Name, "--port", fmt.Sprintf("0.0.0.0:%d:%d", published, listens))
	until(t, time.Minute, "the published port", func() bool { return outside(published) == nil })
	if err := outside(listens); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("what is not published: %v", err)
	}
	b.banger(t, "vm", "set", vm.Name, "--no-ports")
	until(t, time.Minute, "the end of the published port", func() bool { return errors.Is(outside(published), syscall.ECONNREFUSED) })
}

// TestSamePort: VMs that listen on the same port are told apart by their addresses, and
// the first has localhost. All of that is there under another daemon, too, and gone
// within a second of a stop.
func TestSamePort(t *testing.T) {
	t.Parallel()
	h := own(t)
	port := freePorts(t, 1)[0]
	names := []string{"one", "two", "three", "four"}
	own := map[string]string{}
	for _, name := range names {
		h.create(t, "--name", name, "--image", h.tiny(t), "--network", "none")
		h.sh(t, name, fmt.Sprintf("mkdir /www && echo %s >/www/name && busybox httpd -p 127.0.0.1:%d -h /www", name, port))
		until(t, bootTime, "the port of "+name, func() bool { return len(h.ports(t, name)[port].Addresses) > 0 })
		own[name] = h.ports(t, name)[port].Addresses[0].String()
	}
	check := func(local string, running []string) {
		t.Helper()
		for _, name := range running {
			if got, err := nameAt(own[name]); got != name {
				t.Errorf("%s, which is %s: %q, %v", own[name], name, got, err)
			}
		}
		for _, at := range []string{onLocalhost(port), netip.AddrPortFrom(netip.IPv6Loopback(), port).String()} {
			if got, err := nameAt(at); got != local {
				t.Errorf("%s: %q, %v, want %s", at, got, err, local)
			}
		}
	}
	check("one", names)
	h.killDaemon(t)
	h.banger(t, "vm", "list")
	began := time.Now()
	until(t, time.Minute, "all ports under another daemon", func() bool {
		for _, name := range names {
			if got, _ := nameAt(own[name]); got != name {
				return false
			}
		}
		return true
	})
	t.Logf("there again after %v", time.Since(began).Round(time.Millisecond))
	local, err := nameAt(onLocalhost(port)) // whichever this daemon heard first
	if err != nil {
		t.Fatal(err)
	}
	check(local, names)
	h.banger(t, "vm", "stop", local)
	until(t, time.Second, "the end of its forwards", func() bool {
		_, err := nameAt(own[local])
		next, _ := nameAt(onLocalhost(port))
		return errors.Is(err, syscall.ECONNREFUSED) && next != "" && next != local
	})
}

// nameAt returns the name that a VM's server says.
func nameAt(at string) (string, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	answer, err := client.Get("http://" + at + "/name")
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return strings.TrimSpace(string(body)), err
}
