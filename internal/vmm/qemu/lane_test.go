package qemu

import (
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

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
	go silentTwice(t, listener, port)
	l := newLane(dir, streamsSocket)
	defer l.close()
	l.silence = 20 * time.Millisecond
	stream, err := l.dial(t.Context(), port)
	if err != nil {
		t.Fatal(err)
	}
	if said, err := io.ReadAll(stream); string(said) != "hello" || err != nil {
		t.Errorf("the guest said %q, %v", said, err)
	}
}

// silentTwice is a guest that answers on every connection but the first two.
func silentTwice(t *testing.T, listener *net.UnixListener, port int) {
	for n := 0; ; n++ {
		conn, err := listener.AcceptUnix()
		if err != nil {
			return
		}
		if n < 2 {
			io.Copy(io.Discard, conn)
			conn.Close()
			continue
		}
		file, err := conn.File()
		conn.Close()
		if err != nil {
			t.Error(err)
			return
		}
		p, err := link.NewPort(file)
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { p.Close() })
		go link.Serve(p, func(stream net.Conn, _ int) {
			io.WriteString(stream, "hello")
			stream.Close()
		}, port)
	}
}
