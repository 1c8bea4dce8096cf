package guest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"banger"
	"banger/internal/guest/agent/sshd"
	"banger/internal/guest/wire"
)

// dialed is a guest whose agent serves SSH, or something in its place.
type dialed struct {
	*Dialer
	t      testing.TB
	logins atomic.Int32

	mu    sync.Mutex
	conns []net.Conn // the guest's ends
}

// dialGuest returns a guest whose SSH port serve serves.
func dialGuest(t testing.TB, serve func(private []byte, key string) func(net.Conn)) *dialed {
	leaks := goleak.IgnoreCurrent()
	dir := t.TempDir()
	private, public, err := NewKey("user")
	if err != nil {
		t.Fatal(err)
	}
	vm := banger.VM{ID: "0123456789ab", Name: "otter", SSHKey: filepath.Join(dir, "key"), KnownHosts: filepath.Join(dir, "known")}
	hostPrivate, hostPublic, err := NewKey("host")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(vm.SSHKey, private, 0o600), AddKnownHost(vm.KnownHosts, vm.ID, vm.Name, hostPublic)); err != nil {
		t.Fatal(err)
	}
	handle := serve(hostPrivate, public)
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	g := &dialed{t: t}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			g.mu.Lock()
			g.conns = append(g.conns, conn)
			g.mu.Unlock()
			go handle(conn)
		}
	}()
	g.Dialer = NewDialer(func(ctx context.Context) (net.Conn, error) {
		g.logins.Add(1)
		return new(net.Dialer).DialContext(ctx, "unix", l.Addr().String())
	}, func() banger.VM { return vm }, nil)
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
		l.Close()
		g.breakOff()
		goleak.VerifyNone(t, leaks)
	})
	return g
}

// agentGuest returns a guest with the agent's own SSH server.
func agentGuest(t testing.TB) *dialed {
	return dialGuest(t, func(private []byte, key string) func(net.Conn) {
		server, err := sshd.New(wire.Config{HostKey: string(private), AuthorizedKeys: []string{key}}, (*exec.Cmd).Start, func() bool { return false })
		if err != nil {
			t.Fatal(err)
		}
		return server.Serve
	})
}

// breakOff ends the connections to the guest.
func (g *dialed) breakOff() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, conn := range g.conns {
		conn.Close()
	}
	g.conns = nil
}

// serve makes a server in the guest.
func (g *dialed) serve(handle func(*net.TCPConn)) netip.AddrPort {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				handle(conn.(*net.TCPConn))
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func (g *dialed) dial(to netip.AddrPort) *Stream {
	g.t.Helper()
	s, err := g.DialTCP(g.t.Context(), to)
	if err != nil {
		g.t.Fatal(err)
	}
	return s
}

func echoes(conn *net.TCPConn) { io.Copy(conn, conn) }

func TestDialTCP(t *testing.T) {
	g := agentGuest(t)
	if err := g.Prepare(t.Context()); err != nil || g.logins.Load() != 1 {
		t.Errorf("%d logins, %v", g.logins.Load(), err)
	}
	s := g.dial(g.serve(echoes))
	io.WriteString(s, "there and back")
	s.CloseWrite()
	if got, err := io.ReadAll(s); string(got) != "there and back" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	<-s.Gone()
	if err := s.Close(); err != nil {
		t.Error(err)
	}

	heard := make(chan string)
	s = g.dial(g.serve(func(conn *net.TCPConn) {
		io.WriteString(conn, "welcome")
		conn.CloseWrite()
		got, _ := io.ReadAll(conn)
		heard <- string(got)
	}))
	defer s.Close()
	if got, err := io.ReadAll(s); string(got) != "welcome" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	io.WriteString(s, "after that")
	s.CloseWrite()
	if got := <-heard; got != "after that" {
		t.Errorf("the guest got %q", got)
	}
	if n := g.logins.Load(); n != 1 {
		t.Errorf("%d logins", n)
	}
}

func TestDialTCPIsRefused(t *testing.T) {
	g := agentGuest(t)
	_, err := g.DialTCP(t.Context(), netip.MustParseAddrPort("127.0.0.1:1"))
	var unreachable *UnreachableError
	if !errors.Is(err, syscall.ECONNREFUSED) || !errors.As(err, &unreachable) {
		t.Errorf("got %v", err)
	}
}

// A connection that breaks is no end of the data, and the next dial logs in again.
func TestDialTCPAfterABreak(t *testing.T) {
	g := agentGuest(t)
	waits := g.serve(func(conn *net.TCPConn) { io.WriteString(conn, "part"); io.Copy(io.Discard, conn) })
	s := g.dial(waits)
	io.ReadFull(s, make([]byte, 4))
	g.breakOff()
	if n, err := s.Read(make([]byte, 1)); n != 0 || err != io.ErrUnexpectedEOF {
		t.Errorf("read %d, %v", n, err)
	}
	if _, err := s.Write([]byte{1}); err == nil {
		t.Error("written")
	}
	s.Close()
	s = g.dial(waits)
	io.ReadFull(s, make([]byte, 4))
	if n := g.logins.Load(); n != 2 {
		t.Errorf("%d logins", n)
	}
	g.Close()
	if n, err := s.Read(make([]byte, 1)); n != 0 || err == nil || err == io.EOF {
		t.Errorf("after Close: %d, %v", n, err)
	}
	if _, err := g.DialTCP(t.Context(), waits); err != ErrClosed {
		t.Errorf("after Close: %v", err)
	}
}

// What was cut off at one end does not look complete at the other.
func TestDialTCPPassesResets(t *testing.T) {
	g := agentGuest(t)
	s := g.dial(g.serve(func(conn *net.TCPConn) {
		io.WriteString(conn, "part")
		io.ReadFull(conn, make([]byte, 1))
		conn.SetLinger(0)
	}))
	io.ReadFull(s, make([]byte, 4))
	s.Write([]byte{1})
	if n, err := s.Read(make([]byte, 1)); n != 0 || err != syscall.ECONNRESET {
		t.Errorf("the guest's end was reset: %d, %v", n, err)
	}
	<-s.Gone()
	s.Close()

	for name, cut := range map[string]func(*Stream){
		"reset":        (*Stream).Reset,
		"lost":         func(*Stream) { g.breakOff(); <-g.login.ended },
		"after an end": func(s *Stream) { s.CloseWrite(); io.ReadAll(s); s.Close() },
	} {
		ended := make(chan error, 1)
		s := g.dial(g.serve(func(conn *net.TCPConn) {
			io.ReadFull(conn, make([]byte, 4))
			io.WriteString(conn, "part")
			conn.CloseWrite()
			_, err := io.ReadAll(conn)
			ended <- err
		}))
		io.WriteString(s, "part")
		if name != "after an end" {
			io.ReadFull(s, make([]byte, 4))
		}
		cut(s)
		err := <-ended
		if complete := name == "after an end"; complete && err != nil || !complete && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: the guest sees %v", name, err)
		}
		s.Close()
	}
}

// Many at once, some of which nobody reads, share one login and do not stop each other.
func TestDialTCPManyAtOnce(t *testing.T) {
	g := agentGuest(t)
	endless := g.serve(func(conn *net.TCPConn) {
		for block := make([]byte, 64<<10); ; {
			if _, err := conn.Write(block); err != nil {
				return
			}
		}
	})
	to := g.serve(echoes)
	for range 5 {
		defer g.dial(endless).Close()
	}
	var wait sync.WaitGroup
	for n := range 200 {
		wait.Go(func() {
			s, err := g.DialTCP(t.Context(), to)
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			want := bytes.Repeat([]byte{byte(n)}, 10000)
			go func() { s.Write(want); s.CloseWrite() }()
			if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, want) {
				t.Errorf("stream %d: %d bytes, %v", n, len(got), err)
			}
		})
	}
	wait.Wait()
	if n := g.logins.Load(); n != 1 {
		t.Errorf("%d logins", n)
	}
}

func TestDialTCPTransfersAreWhole(t *testing.T) {
	size := int64(16 << 20)
	if rounds := os.Getenv("BANGER_TEST_ROUNDS"); rounds != "" && rounds != "1" {
		size = 1 << 30
	}
	g := agentGuest(t)
	noise := func(to io.Writer) []byte {
		sum := sha256.New()
		io.CopyN(io.MultiWriter(to, sum), rand.NewChaCha8([32]byte{1}), size)
		return sum.Sum(nil)
	}
	sums := make(chan []byte, 2)
	s := g.dial(g.serve(func(conn *net.TCPConn) {
		var sending sync.WaitGroup
		sending.Go(func() { noise(conn); conn.CloseWrite() })
		sum := sha256.New()
		io.Copy(sum, conn)
		sums <- sum.Sum(nil)
		sending.Wait()
	}))
	defer s.Close()
	go func() { sums <- noise(s); s.CloseWrite() }()
	sum := sha256.New()
	n, err := io.Copy(sum, s)
	for range 2 {
		if got := <-sums; n != size || err != nil || !bytes.Equal(got, sum.Sum(nil)) {
			t.Errorf("%d bytes, %v", n, err)
		}
	}
}

// silent serves SSH, but opens no connection until told.
func silent(t testing.TB, answer <-chan struct{}) func([]byte, string) func(net.Conn) {
	return func(private []byte, _ string) func(net.Conn) {
		host, err := ssh.ParsePrivateKey(private)
		if err != nil {
			t.Fatal(err)
		}
		config := &ssh.ServerConfig{NoClientAuth: true}
		config.AddHostKey(host)
		return func(conn net.Conn) {
			client, channels, requests, err := ssh.NewServerConn(conn, config)
			if err != nil {
				return
			}
			defer client.Close()
			go ssh.DiscardRequests(requests)
			for offer := range channels {
				<-answer
				channel, requests, err := offer.Accept()
				if err != nil {
					return
				}
				go ssh.DiscardRequests(requests)
				go func() { io.Copy(io.Discard, channel); channel.Close() }()
			}
		}
	}
}

// A guest that does not answer costs a bounded number of goroutines, and what it opens
// too late is closed.
func TestDialTCPWithoutAnAnswer(t *testing.T) {
	answer := make(chan struct{})
	g := dialGuest(t, silent(t, answer))
	to := netip.MustParseAddrPort("127.0.0.1:80")
	if _, err := g.logIn(t.Context()); err != nil { // which may take longer than what follows
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var wait sync.WaitGroup
	for range maxOpening + 50 {
		wait.Go(func() {
			if _, err := g.DialTCP(ctx, to); banger.KindOf(err) != banger.TimedOut {
				t.Errorf("got %v", err)
			}
		})
	}
	wait.Wait()
	if n := len(g.opening); n > maxOpening || n == 0 {
		t.Errorf("%d are being opened", n)
	}
	close(answer)
	s := g.dial(to)
	s.Close()
	<-s.Gone()
}

// A key of the Dialer's own needs no key of the user.
func TestDialTCPWithItsOwnKey(t *testing.T) {
	private, public, err := NewKey("banger")
	if err != nil {
		t.Fatal(err)
	}
	g := dialGuest(t, func(host []byte, user string) func(net.Conn) {
		server, err := sshd.New(wire.Config{HostKey: string(host), AuthorizedKeys: []string{user, public}}, (*exec.Cmd).Start, func() bool { return false })
		if err != nil {
			t.Fatal(err)
		}
		return server.Serve
	})
	vm := g.vm()
	vm.SSHKey = filepath.Join(t.TempDir(), "missing")
	to := g.serve(echoes)
	g.vm, g.key = func() banger.VM { return vm }, []byte("none")
	if _, err := g.DialTCP(t.Context(), to); err == nil || !strings.Contains(err.Error(), "daemon's key") {
		t.Errorf("a key that is none: %v", err)
	}
	g.key = private
	if err := g.dial(to).Close(); err != nil {
		t.Error(err)
	}
}

func TestDialTCPWithoutALogin(t *testing.T) {
	g := dialGuest(t, func([]byte, string) func(net.Conn) { return func(conn net.Conn) { conn.Close() } })
	for range 2 {
		if _, err := g.DialTCP(t.Context(), netip.MustParseAddrPort("127.0.0.1:80")); err == nil {
			t.Error("connected")
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := g.DialTCP(ctx, netip.MustParseAddrPort("127.0.0.1:80")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// BenchmarkDialTCP measures connections over SSH, beside those to the server itself.
func BenchmarkDialTCP(b *testing.B) {
	g := agentGuest(b)
	to := g.serve(func(conn *net.TCPConn) {
		for block := make([]byte, 128<<10); ; {
			if _, err := conn.Write(block); err != nil {
				return
			}
		}
	})
	type dial func() io.ReadCloser
	for name, dial := range map[string]dial{
		"ssh": func() io.ReadCloser { return g.dial(to) },
		"direct": func() io.ReadCloser {
			conn, err := net.Dial("tcp", to.String())
			if err != nil {
				b.Fatal(err)
			}
			return conn
		},
	} {
		b.Run("copy/"+name, func(b *testing.B) {
			s := dial()
			defer s.Close()
			block := make([]byte, 1<<20)
			b.SetBytes(int64(len(block)))
			for b.Loop() {
				if _, err := io.ReadFull(s, block); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("connect/"+name, func(b *testing.B) {
			for b.Loop() {
				s := dial()
				s.Read(make([]byte, 1))
				s.Close()
			}
		})
	}
	b.Run("login", func(b *testing.B) {
		for b.Loop() {
			g.breakOff()
			<-g.login.ended
			g.dial(to).Close()
		}
	})
}
