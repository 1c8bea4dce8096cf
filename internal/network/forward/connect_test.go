package forward

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
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger"
)

// wrapped is a stream that the kernel cannot copy to.
type wrapped struct{ Stream }

func (w wrapped) Reset() { reset(w.Stream.(*net.TCPConn)) }

// streams runs a test with connections in the guest of each kind.
func streams(t *testing.T, test func(*testing.T, *fixture, uint16)) {
	for name, wrap := range map[string]func(Stream) Stream{"bare": nil, "wrapped": func(s Stream) Stream { return wrapped{s} }} {
		t.Run(name, func(t *testing.T) {
			x, port := newFixture(t), freePort(t)
			x.wrap = wrap
			x.Set("a", Wanted{Slot: 2, Auto: true, Listening: listening(port)})
			x.List("a")
			test(t, x, port)
		})
	}
}

func (x *fixture) connect(port uint16) *net.TCPConn {
	conn, err := net.Dial("tcp", localhost(port)[0].String())
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { conn.Close() })
	return conn.(*net.TCPConn)
}

// The end of each direction arrives alone.
func TestHalfClosed(t *testing.T) {
	streams(t, func(t *testing.T, x *fixture, port uint16) {
		ended := make(chan string, 1)
		x.serve("a", port, func(conn *net.TCPConn) {
			defer conn.Close()
			asked, _ := io.ReadAll(conn)
			io.WriteString(conn, "you said "+string(asked))
			conn.CloseWrite()
			ended <- string(asked)
		})
		conn := x.connect(port)
		io.WriteString(conn, "nothing more")
		conn.CloseWrite()
		if got, err := io.ReadAll(conn); string(got) != "you said nothing more" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		<-ended

		x.serve("a", port, func(conn *net.TCPConn) {
			defer conn.Close()
			io.WriteString(conn, "welcome")
			conn.CloseWrite()
			said, _ := io.ReadAll(conn)
			ended <- string(said)
		})
		conn = x.connect(port)
		if got, err := io.ReadAll(conn); string(got) != "welcome" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		io.WriteString(conn, "after that")
		conn.CloseWrite()
		if said := <-ended; said != "after that" {
			t.Errorf("the guest got %q", said)
		}
	})
}

// What was cut off must not look complete, at either end.
func TestCutOff(t *testing.T) {
	streams(t, func(t *testing.T, x *fixture, port uint16) {
		failed := make(chan error, 1)
		x.serve("a", port, func(conn *net.TCPConn) {
			io.WriteString(conn, "part")
			io.ReadFull(conn, make([]byte, 1))
			reset(conn)
		})
		conn := x.connect(port)
		io.ReadFull(conn, make([]byte, 4))
		conn.Write([]byte{1})
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the guest is gone: %v", err)
		}

		x.serve("a", port, func(conn *net.TCPConn) {
			defer conn.Close()
			io.WriteString(conn, "part")
			_, err := io.ReadAll(conn)
			failed <- err
		})
		conn = x.connect(port)
		io.ReadFull(conn, make([]byte, 4))
		reset(conn)
		if err := <-failed; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client is gone: %v", err)
		}

		x.serve("a", port, func(conn *net.TCPConn) {
			defer conn.Close()
			conn.CloseWrite()
			_, err := io.ReadAll(conn)
			failed <- err
		})
		conn = x.connect(port)
		io.WriteString(conn, "part")
		io.ReadAll(conn)
		reset(conn)
		if err := <-failed; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client is gone after the answer: %v", err)
		}
	})
}

// A client that has ended its own half and then vanishes ends a silent guest's
// connection.
func TestClientVanishesAfterItsHalf(t *testing.T) {
	streams(t, func(t *testing.T, x *fixture, port uint16) {
		heard := make(chan bool)
		x.serve("a", port, func(conn *net.TCPConn) {
			t.Cleanup(func() { conn.Close() })
			io.ReadAll(conn)
			close(heard)
		})
		conn := x.connect(port)
		conn.CloseWrite()
		<-heard
		x.mu.Lock()
		slots := x.vms["a"].slots
		x.mu.Unlock()
		if len(slots) != 1 {
			t.Errorf("%d connections", len(slots))
		}
		reset(conn)
		for range cap(slots) { // only once it has ended may all be had
			slots <- struct{}{}
		}
	})
}

func TestManyConnections(t *testing.T) {
	streams(t, func(t *testing.T, x *fixture, port uint16) {
		const clients = 200
		var all sync.WaitGroup
		all.Add(clients)
		x.serve("a", port, func(conn *net.TCPConn) {
			defer conn.Close()
			all.Done()
			all.Wait() // until all are connected
			io.Copy(conn, conn)
		})
		var wait sync.WaitGroup
		for n := range clients {
			conn := x.connect(port)
			wait.Go(func() {
				want := bytes.Repeat([]byte{byte(n)}, 10000)
				go func() { conn.Write(want); conn.CloseWrite() }()
				if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, want) {
					t.Errorf("client %d got %d bytes, %v", n, len(got), err)
				}
			})
		}
		wait.Wait()
	})
}

// More than maxConns wait their turn.
func TestConnectionsAreBounded(t *testing.T) {
	x, port := newFixture(t), freePort(t)
	x.conns = 2
	x.serve("a", port, says("x"))
	x.Set("a", Wanted{Slot: 2, Auto: true, Listening: listening(port)})
	x.List("a")
	first := x.connect(port)
	for _, conn := range []*net.TCPConn{first, x.connect(port)} {
		io.ReadFull(conn, make([]byte, 1))
	}
	third := x.connect(port)
	third.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := third.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("read %d, %v", n, err)
	}
	third.SetReadDeadline(time.Time{})
	first.Close()
	if n, err := third.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("read %d, %v", n, err)
	}
	fourth := x.connect(port)
	x.Remove("a")
	if _, err := io.ReadAll(fourth); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a connection that waited: %v", err)
	}
}

// A guest that answers one connection after the other is waited for, and one that answers
// none is not.
func TestSlowGuests(t *testing.T) {
	x, port := newFixture(t), freePort(t)
	x.patience = 400 * time.Millisecond
	x.serve("a", port, says("x"))
	silent := make(chan bool, 1)
	turn := make(chan bool, 1)
	x.Dial = func(ctx context.Context, id banger.VMID, to netip.AddrPort) (Stream, error) {
		select {
		case turn <- true:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		select {
		case <-silent:
			return nil, errors.New("never") // and nobody else has a turn
		case <-time.After(x.patience / 4):
			<-turn
			return x.dial(ctx, id, to)
		}
	}
	x.Set("a", Wanted{Slot: 2, Auto: true, Listening: listening(port)})
	x.List("a")
	var wait sync.WaitGroup
	for range 12 {
		wait.Go(func() {
			if n, err := x.connect(port).Read(make([]byte, 1)); n != 1 || err != nil {
				t.Errorf("a guest that is slow: %d, %v", n, err)
			}
		})
	}
	wait.Wait()
	silent <- true
	x.connect(port).Read(make([]byte, 1))
	if n, err := x.connect(port).Read(make([]byte, 1)); n != 0 || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a guest that is silent: %d, %v", n, err)
	}
}

// noise writes size random bytes and their checksum, and returns the checksum.
func noise(to io.Writer, size int64) []byte {
	source, sum := rand.NewChaCha8([32]byte{1}), sha256.New()
	io.CopyN(io.MultiWriter(to, sum), source, size)
	return sum.Sum(nil)
}

func TestTransfersAreWhole(t *testing.T) {
	size := int64(64 << 20)
	if testing.Short() {
		size = 8 << 20
	}
	if rounds := os.Getenv("BANGER_TEST_ROUNDS"); rounds != "" && rounds != "1" {
		size = 1 << 30
	}
	streams(t, func(t *testing.T, x *fixture, port uint16) {
		sums := make(chan []byte, 2)
		x.serve("a", port, func(conn *net.TCPConn) {
			defer conn.Close()
			var sending sync.WaitGroup
			sending.Go(func() { sums <- noise(conn, size); conn.CloseWrite() })
			sum := sha256.New()
			if n, err := io.Copy(sum, conn); n != size || err != nil {
				t.Errorf("the guest got %d bytes, %v", n, err)
			}
			sums <- sum.Sum(nil)
			sending.Wait()
		})
		conn := x.connect(port)
		go func() { noise(conn, size); conn.CloseWrite() }()
		sum := sha256.New()
		n, err := io.Copy(sum, conn)
		for range 2 {
			if got := <-sums; n != size || err != nil || !bytes.Equal(got, sum.Sum(nil)) {
				t.Errorf("%d bytes, %v, %x", n, err, got)
			}
		}
	})
}

// A client that does not read stops the guest, instead of filling the host's memory.
func TestBackPressure(t *testing.T) {
	streams(t, func(t *testing.T, x *fixture, port uint16) {
		const most = 64 << 20
		written := make(chan int64, 1)
		x.serve("a", port, func(conn *net.TCPConn) {
			defer conn.Close()
			var total int64
			for block := make([]byte, 1<<20); ; {
				conn.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
				n, err := conn.Write(block)
				if total += int64(n); err != nil || total > most {
					written <- total
					return
				}
			}
		})
		conn := x.connect(port)
		total := <-written
		if total > most {
			t.Errorf("%d bytes were taken", total)
		}
		if n, err := io.Copy(io.Discard, conn); n != total || err != nil {
			t.Errorf("%d of %d bytes, %v", n, total, err)
		}
	})
}

// canned is a stream that has one letter.
type canned struct{ *strings.Reader }

func (canned) Write(b []byte) (int, error) { return len(b), nil }
func (canned) Close() error                { return nil }
func (canned) CloseWrite() error           { return nil }

// Without descriptors connections wait, and the process does too.
func TestNoDescriptors(t *testing.T) {
	x, port := newFixture(t), freePort(t)
	x.Dial = func(context.Context, banger.VMID, netip.AddrPort) (Stream, error) {
		return canned{strings.NewReader("x")}, nil // which needs no descriptor
	}
	x.Set("a", Wanted{Slot: 2, Auto: true, Listening: listening(port)})
	x.List("a")
	client, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(client)
	var old unix.Rlimit
	unix.Getrlimit(unix.RLIMIT_NOFILE, &old)
	few := old
	few.Cur = uint64(client + 1)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	restore := sync.OnceFunc(func() { unix.Setrlimit(unix.RLIMIT_NOFILE, &old) })
	defer restore()
	var filled []int
	for {
		fd, err := unix.Dup(client)
		if err != nil {
			break
		}
		filled = append(filled, fd)
	}
	before := cpuTime()
	if err := unix.Connect(client, &unix.SockaddrInet4{Port: int(port), Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	<-time.After(3 * acceptPause)
	if used := cpuTime() - before; used > acceptPause {
		t.Errorf("%v of CPU while waiting", used)
	}
	restore()
	for _, fd := range filled {
		unix.Close(fd)
	}
	answer := make([]byte, 1)
	if n, err := unix.Read(client, answer); n != 1 || err != nil {
		t.Errorf("read %d, %v", n, err)
	}
}

func cpuTime() time.Duration {
	var used unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &used)
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
