package agent

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

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
