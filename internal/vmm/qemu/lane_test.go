package qemu

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guest/link"
	"banger/internal/vmm"
)

// A port whose first connections carry nothing back is connected to until one does.
func TestLaneConnectsAnew(t *testing.T) {
	path := t.TempDir()
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(path, streamsSocket), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	dir, err := vmm.OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	const port = 7
	served, over := make(chan error, 1), make(chan struct{})
	go func() { served <- serveThird(listener, port, over) }()
	l := newLane(dir, streamsSocket)
	l.silence = 20 * time.Millisecond
	stream, err := l.dial(t.Context(), port)
	if err != nil {
		t.Fatal(err)
	}
	if said, err := io.ReadAll(stream); string(said) != "hello" || err != nil {
		t.Errorf("the guest said %q, %v", said, err)
	}
	close(over)
	if err := <-served; err != nil {
		t.Error(err)
	}
	l.close()
}

// serveThird is a guest that answers on its third connection, after the others
// have ended, until over is closed.
func serveThird(listener *net.UnixListener, port int, over <-chan struct{}) error {
	for range 2 {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		io.Copy(io.Discard, conn)
		conn.Close()
	}
	conn, err := listener.AcceptUnix()
	if err != nil {
		return err
	}
	defer conn.Close()
	raw, err := conn.File()
	if err != nil {
		return err
	}
	fd, err := unix.Dup(int(raw.Fd()))
	raw.Close()
	if err != nil {
		return err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return err
	}
	p, err := link.NewPort(os.NewFile(uintptr(fd), "port"))
	if err != nil {
		return err
	}
	defer p.Close()
	go link.Serve(p, func(stream net.Conn, _ int) {
		io.WriteString(stream, "hello")
		stream.Close()
	}, port)
	<-over
	return nil
}
