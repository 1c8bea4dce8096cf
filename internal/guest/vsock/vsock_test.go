package vsock

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// listenUnix uses a unix socket in place of a vsock, which needs another kernel.
func listenUnix(t *testing.T, allowed func(unix.Sockaddr) bool) (*Listener, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err == nil {
		err = errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 8))
	}
	if err != nil {
		t.Fatal(err)
	}
	l := newListener(fd, Addr{3, 22}, allowed)
	t.Cleanup(func() { l.Close() })
	return l, path
}

func TestListener(t *testing.T) {
	strangers := 2
	l, path := listenUnix(t, func(unix.Sockaddr) bool { strangers--; return strangers < 0 })
	for range 2 {
		stranger, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer stranger.Close()
	}
	client, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if server.LocalAddr().String() != "3:22" || server.LocalAddr().Network() != "vsock" || l.Addr() != server.LocalAddr() {
		t.Errorf("%v, %v", server.LocalAddr(), l.Addr())
	}
	go io.Copy(server, server)
	if _, err := client.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(client, got); err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestAcceptEndsWithTheListener(t *testing.T) {
	l, _ := listenUnix(t, fromHost)
	time.AfterFunc(10*time.Millisecond, func() { l.Close() })
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestConn(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	a, b := newConn(fds[0], Addr{3, 22}, &unix.SockaddrVM{CID: 2, Port: 7}), newConn(fds[1], Addr{}, nil)
	if got := a.RemoteAddr().String(); got != "2:7" {
		t.Errorf("remote address %s", got)
	}
	a.SetReadDeadline(time.Now().Add(time.Millisecond))
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read past its deadline: %v", err)
	}
	a.SetDeadline(time.Time{})
	a.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
	for err = nil; err == nil; { // until the buffers are full
		_, err = a.Write(make([]byte, 64<<10))
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("write past its deadline: %v", err)
	}
	time.AfterFunc(10*time.Millisecond, func() { a.Close() })
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("read of a closed one: %v", err)
	}
	if n, err := io.Copy(io.Discard, b); err != nil || n == 0 {
		t.Errorf("the other end read %d bytes, %v", n, err)
	}
	if _, err := b.Write([]byte("x")); !errors.Is(err, unix.EPIPE) {
		t.Errorf("write to nobody: %v", err)
	}
	b.Close()
}

func TestFromHost(t *testing.T) {
	for _, test := range []struct {
		peer unix.Sockaddr
		want bool
	}{{&unix.SockaddrVM{CID: Host}, true}, {&unix.SockaddrVM{CID: 3}, false}, {&unix.SockaddrVM{CID: unix.VMADDR_CID_LOCAL}, false}, {&unix.SockaddrUnix{}, false}, {nil, false}} {
		if got := fromHost(test.peer); got != test.want {
			t.Errorf("%+v: %v", test.peer, got)
		}
	}
}

// Without the device Listen returns an error that its callers know; with it, it listens.
func TestListen(t *testing.T) {
	l, err := Listen(41_000)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			t.Error(err)
		}
		return
	}
	defer l.Close()
	if l.addr.CID <= Host || l.addr.Port != 41_000 {
		t.Errorf("listens on %v", l.Addr())
	}
}
