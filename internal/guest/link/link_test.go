package link

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	portEcho = 7
	portSink = 9
	portFull = 19
)

// demo serves echo, discard and an endless source.
func demo(stream net.Conn, port int) {
	defer stream.Close()
	switch port {
	case portEcho:
		io.Copy(stream, stream)
	case portSink:
		io.Copy(io.Discard, stream)
	case portFull:
		for block := make([]byte, 40000); ; {
			if _, err := stream.Write(block); err != nil {
				return
			}
		}
	}
}

// serve runs Serve until the returned function ends it, handlers included.
func serve(t *testing.T, p *Port) (stop func()) {
	t.Helper()
	var handlers sync.WaitGroup
	done := make(chan error, 1)
	go func() {
		done <- Serve(p, func(stream net.Conn, port int) {
			handlers.Add(1)
			defer handlers.Done()
			demo(stream, port)
		}, portEcho, portSink, portFull)
	}()
	return sync.OnceFunc(func() {
		p.Close()
		if err := <-done; err == nil {
			t.Error("Serve ended without an error")
		}
		handlers.Wait()
	})
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func mustHost(t *testing.T, conn net.Conn) *yamux.Session {
	t.Helper()
	session, err := Host(testContext(t), conn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close() })
	return session
}

// echo proves that a session works, both ways and byte for byte.
func echo(t *testing.T, session *yamux.Session) {
	t.Helper()
	stream, err := Connect(testContext(t), session, portEcho)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	stream.SetDeadline(time.Now().Add(20 * time.Second))
	sent := make([]byte, 1+mrand.IntN(3*maxPayload))
	rand.Read(sent)
	go stream.Write(sent)
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(stream, got); err != nil {
		t.Fatalf("echo: %v", err)
	}
	if !bytes.Equal(got, sent) {
		t.Fatal("echo: other bytes came back")
	}
}

func TestReconnectIdle(t *testing.T) {
	r := newRelay(t)
	defer serve(t, r.port)()
	for range 50 {
		session := mustHost(t, r.connect())
		echo(t, session)
		if mrand.IntN(2) == 0 {
			session.Close()
		}
	}
}

func TestReconnectInMidTransfer(t *testing.T) {
	r := newRelay(t)
	defer serve(t, r.port)()
	for i := range 100 {
		session := mustHost(t, r.connect())
		echo(t, session)
		down, err := Connect(testContext(t), session, portFull)
		if err != nil {
			t.Fatal(err)
		}
		up, err := Connect(testContext(t), session, portSink)
		if err != nil {
			t.Fatal(err)
		}
		var busy sync.WaitGroup
		busy.Go(func() {
			for block := make([]byte, 50000); ; {
				if _, err := up.Write(block); err != nil {
					return
				}
			}
		})
		if _, err := io.CopyN(io.Discard, down, int64(mrand.IntN(400000))); err != nil {
			t.Fatalf("download %d: %v", i, err)
		}
		busy.Go(func() { io.Copy(io.Discard, down) })
		if i%2 == 0 {
			session.Close()
		} else {
			r.hangUp()
		}
		busy.Wait()
	}
}

func TestHostWaitsForTheAgent(t *testing.T) {
	r := newRelay(t)
	ready := make(chan *yamux.Session)
	go func() { ready <- mustHost(t, r.connect()) }()
	stop := serve(t, r.port)
	defer stop()
	echo(t, <-ready)
}

func TestHostGivesUpWithItsContext(t *testing.T) {
	r := newRelay(t)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := Host(ctx, r.connect()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// An agent that restarts does not know the session. The host's session must end, even
// if the agent before died in the middle of a frame.
func TestAgentReplaced(t *testing.T) {
	r := newRelay(t)
	port := r.port
	for range 20 {
		next := again(t, port)
		stop := serve(t, port)
		session := mustHost(t, r.connect())
		echo(t, session)
		down, err := Connect(testContext(t), session, portFull)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, down, int64(mrand.IntN(100000))); err != nil {
			t.Fatal(err)
		}
		stop()
		port = next
		stop = serve(t, again(t, port))
		select {
		case <-session.CloseChan():
		case <-testContext(t).Done():
			t.Fatal("the session outlived its agent")
		}
		stop()
	}
	port.Close()
}

// again opens the port again.
func again(t *testing.T, p *Port) *Port {
	t.Helper()
	var fd int
	var err error
	p.raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) })
	if err != nil {
		t.Fatal(err)
	}
	next, err := NewPort(os.NewFile(uintptr(fd), "port"))
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func TestConnectRefused(t *testing.T) {
	r := newRelay(t)
	defer serve(t, r.port)()
	session := mustHost(t, r.connect())
	_, err := Connect(testContext(t), session, 4444)
	var refused *RefusedError
	if !errors.As(err, &refused) || refused.Port != 4444 {
		t.Fatalf("got %v", err)
	}
	if got, want := err.Error(), `connect to guest port 4444: the guest refused: "nothing serves port 4444"`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, first := range []string{"GET / HTTP/1.1\r\n", "CONNECT 0\n", "CONNECT x\n", string(make([]byte, 4096))} {
		stream, err := session.Open()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(stream, first)
		if line, err := readLine(stream); err != nil || line[:4] != "ERR " {
			t.Errorf("%q: got %q, %v", first, line, err)
		}
		stream.Close()
	}
	echo(t, session)
}

// A guest cannot make the host keep streams that it did not ask for.
func TestGuestOpensNoStream(t *testing.T) {
	r := newRelay(t)
	opened := make(chan error, 1)
	done := make(chan error)
	go func() {
		done <- Serve(r.port, func(stream net.Conn, _ int) {
			_, err := stream.(*yamux.Stream).Session().Open()
			opened <- err
			stream.Close()
		})
	}()
	session := mustHost(t, r.connect())
	if _, err := Connect(testContext(t), session, portEcho); err != nil {
		t.Fatal(err)
	}
	if err := <-opened; !errors.Is(err, yamux.ErrRemoteGoAway) {
		t.Errorf("got %v", err)
	}
	r.port.Close()
	<-done
}

// Garbage on the port costs a session, never the link.
func TestGarbageEndsTheSessionOnly(t *testing.T) {
	r := newRelay(t)
	defer serve(t, r.port)()
	for _, garbage := range [][]byte{{0}, randomBytes(100000), appendFrame(nil, []byte("not a session's frame"))} {
		session := mustHost(t, r.connect())
		echo(t, session)
		if _, err := r.guest.Write(garbage); err != nil {
			t.Fatal(err)
		}
		select {
		case <-session.CloseChan():
		case <-testContext(t).Done():
			t.Fatal("the host was not told")
		}
	}
	echo(t, mustHost(t, r.connect()))
}
