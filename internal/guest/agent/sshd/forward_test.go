package sshd

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// echo serves one connection on a listener, sending back what it reads.
func echo(l net.Listener) {
	conn, err := l.Accept()
	if err != nil {
		return
	}
	io.Copy(conn, conn)
	conn.Close()
}

func checkEcho(t *testing.T, conn net.Conn) {
	t.Helper()
	conn.Write([]byte("over and back"))
	conn.(interface{ CloseWrite() error }).CloseWrite()
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != "over and back" {
		t.Errorf("got %q, %v", got, err)
	}
	conn.Close()
}

func TestSSHForwards(t *testing.T) {
	g := newSSHGuest(t)
	client, err := g.dial(t, g.key)
	if err != nil {
		t.Fatal(err)
	}
	for _, network := range []string{"tcp", "unix"} {
		address := "127.0.0.1:0"
		if network == "unix" {
			address = filepath.Join(g.home, "socket")
		}
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		go echo(l)
		conn, err := client.Dial(network, l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		checkEcho(t, conn)
		l.Close()
		if _, err := client.Dial(network, l.Addr().String()); err == nil {
			t.Errorf("%s: dialled a closed listener", network)
		}
	}
}

// TestManyForwards: many connections at once to the guest's own addresses come through
// whole, whichever end stops sending first.
func TestManyForwards(t *testing.T) {
	g := newSSHGuest(t)
	client, err := g.dial(t, g.key)
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Skipf("needs %s: %v", address, err)
		}
		defer l.Close()
		const many, size = 200, 100 << 10
		go answerAll(l, size)
		var conns []net.Conn
		for range many {
			conn, err := client.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, conn)
		}
		var all sync.WaitGroup
		for _, conn := range conns {
			all.Go(func() { checkHalves(t, conn, size) })
		}
		all.Wait()
	}
}

// answerAll sends size bytes on each connection and stops sending; then it reads to the
// end.
func answerAll(l net.Listener, size int) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			conn.Write(make([]byte, size))
			conn.(halfCloser).CloseWrite()
			io.Copy(io.Discard, conn)
		}()
	}
}

// checkHalves reads to the end, and only then sends and stops sending.
func checkHalves(t *testing.T, conn net.Conn, size int64) {
	defer conn.Close()
	if n, err := io.Copy(io.Discard, conn); n != size || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	if _, err := conn.Write(make([]byte, size)); err != nil {
		t.Errorf("after the other end stopped sending: %v", err)
	}
	if err := conn.(halfCloser).CloseWrite(); err != nil {
		t.Error(err)
	}
}

// silentConn is a connection to a program that says nothing.
type silentConn struct {
	net.Conn
	closed context.Context
	close  context.CancelFunc
}

func (c silentConn) Read([]byte) (int, error) { <-c.closed.Done(); return 0, net.ErrClosed }
func (c silentConn) CloseWrite() error        { return nil }
func (c silentConn) Close() error             { c.close(); return nil }

// endedChannel is the channel of a client that has sent all it had.
type endedChannel struct{ ssh.Channel }

func (endedChannel) Read([]byte) (int, error) { return 0, io.EOF }
func (endedChannel) CloseWrite() error        { return nil }
func (endedChannel) Close() error             { return nil }

func (endedChannel) SendRequest(string, bool, []byte) (bool, error) { return false, io.EOF }

func TestSSHForwardEndsWithItsClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, requests, ended := silentConn{}, make(chan *ssh.Request), false
		conn.closed, conn.close = context.WithCancel(t.Context())
		go func() { join(endedChannel{}, requests, conn, func() bool { return false }); ended = true }()
		synctest.Wait()
		if ended {
			t.Error("a client that may wait for an answer was left")
		}
		close(requests) // as when the client closes the channel
		synctest.Wait()
		if !ended {
			t.Error("the connection outlives its client")
			conn.Close()
		}
	})
}

func TestSSHForwardAfterTheClient(t *testing.T) {
	f := &forwards{listeners: map[string]net.Listener{}}
	f.close()
	if _, err := f.listen(forwardAddress{"127.0.0.1", 0}); err == nil || len(f.listeners) > 0 {
		t.Errorf("%v, %v", f.listeners, err)
	}
}

func TestSSHRemoteForward(t *testing.T) {
	g := newSSHGuest(t)
	client, err := g.dial(t, g.key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := client.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go echo(l)
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	checkEcho(t, conn)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := net.DialTimeout("tcp", l.Addr().String(), time.Second); err == nil {
		t.Error("the cancelled forward still listens")
	}
}

func TestSSHAgentForwarding(t *testing.T) {
	g := newSSHGuest(t)
	client, err := g.dial(t, g.key)
	if err != nil {
		t.Fatal(err)
	}
	keys := agent.NewKeyring()
	if err := agent.ForwardToAgent(client, keys); err != nil {
		t.Fatal(err)
	}
	s, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.RequestAgentForwarding(s); err != nil {
		t.Fatal(err)
	}
	in, _ := s.StdinPipe()
	out, _ := s.StdoutPipe()
	if err := s.Start(`echo "$SSH_AUTH_SOCK"; cat`); err != nil {
		t.Fatal(err)
	}
	var path string
	if _, err := fmt.Fscanln(out, &path); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if list, err := agent.NewClient(conn).List(); err != nil || len(list) != 0 {
		t.Errorf("list of the client's keys: %v, %v", list, err)
	}
	conn.Close()
	in.Close()
	s.Wait()
}

// TestAgentSocketIsTheConnections: sessions share it, and it goes with the connection.
func TestAgentSocketIsTheConnections(t *testing.T) {
	sockets := t.TempDir()
	user := account{uid: uint32(os.Geteuid()), gid: uint32(os.Getegid())}
	c := &connection{server: &Server{sockets: sockets}, user: user, forwards: &forwards{}}
	var paths []string
	for range 2 {
		requests := make(chan *ssh.Request, 2)
		requests <- &ssh.Request{Type: "auth-agent-req@openssh.com"}
		requests <- &ssh.Request{Type: "auth-agent-req@openssh.com"}
		close(requests)
		s := &session{server: c.server, conn: c, user: user}
		s.serve(requests)
		paths = append(paths, s.environment(user)["SSH_AUTH_SOCK"])
	}
	if made, err := os.ReadDir(sockets); err != nil || len(made) != 1 || paths[0] == "" || paths[0] != paths[1] {
		t.Errorf("%d sockets, %v, %q", len(made), err, paths)
	}
	c.close()
	if left, err := os.ReadDir(sockets); err != nil || len(left) > 0 || c.openAgent() == nil {
		t.Errorf("%d sockets are left, %v", len(left), err)
	}
}
