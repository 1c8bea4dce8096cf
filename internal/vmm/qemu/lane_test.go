package qemu

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"banger/internal/guest/link"
	"banger/internal/vmm/process"
)

// A port whose first connections carry nothing back is connected to until one does.
func TestLaneConnectsAnew(t *testing.T) {
	l, listener := testLane(t)
	const port = 7
	go silentTwice(t, listener, port)
	l.silence = 20 * time.Millisecond
	stream, err := l.dial(t.Context(), port)
	if err != nil {
		t.Fatal(err)
	}
	if said, err := io.ReadAll(stream); string(said) != "hello" || err != nil {
		t.Errorf("the guest said %q, %v", said, err)
	}
}

// testLane returns a lane, and who stands for its guest.
func testLane(t *testing.T) (*lane, *net.UnixListener) {
	t.Helper()
	path := t.TempDir()
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(path, streamsSocket), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dir, err := process.OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	l := newLane(dir, streamsSocket)
	t.Cleanup(func() {
		l.close()
		listener.Close()
		dir.Close()
	})
	return l, listener
}

// A guest that takes each connection and then tears it does not keep the host busy.
func TestLaneRestsBetweenTornSessions(t *testing.T) {
	l, listener := testLane(t)
	var torn atomic.Int32
	go func() {
		for {
			conn, err := listener.AcceptUnix()
			if err != nil {
				return
			}
			torn.Add(1)
			tear(conn)
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := l.dial(ctx, 7); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if n := torn.Load(); n > 4 { // 0, 10 and 30 ms after the one before
		t.Errorf("%d sessions in 100 ms", n)
	}
}

// tear answers the host's mark, waits for its first stream and says nonsense.
func tear(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	mark := make([]byte, 27)
	if _, err := io.ReadFull(in, mark); err != nil {
		return
	}
	mark[2] = 'A'
	conn.Write(mark)
	for frames := 0; frames < 2; {
		if _, err := in.ReadString(0x9b); err != nil {
			return
		}
		if kind, _ := in.ReadByte(); kind == 'D' {
			frames++
		}
	}
	io.WriteString(conn, "torn")
	io.Copy(io.Discard, in)
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
