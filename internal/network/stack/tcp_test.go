package stack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/network"
)

func TestBytesComeThroughWhole(t *testing.T) {
	for name, o := range map[string]labOptions{"offload": {}, "plain": {plain: true}, "1500": {Options: Options{MTU: 1500}}, "plain 1500": {Options: Options{MTU: 1500}, plain: true}} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, o)
			size := 32 << 20
			if o.plain {
				size = 8 << 20 // slower, and no user of ours has it
			}
			data := pattern(1, size)
			addr := l.listen(t, func(c *net.TCPConn) {
				got, err := io.ReadAll(c)
				if err != nil || !bytes.Equal(got, data) {
					t.Errorf("upload: %d bytes, %v", len(got), err)
				}
				c.Write(data)
			})
			c := l.mustDial(t, addr)
			must(t, c.SetDeadline(time.Now().Add(2*time.Minute))) // the race detector is slow
			_, err := c.Write(data)
			must(t, err)
			must(t, c.CloseWrite())
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("download: %d bytes, %v", len(got), err)
			}
			if s := l.Stats(); s.Connections != 1 || s.FromGuests < int64(size) || s.ToGuests < int64(size) || s.Lost != 0 {
				t.Errorf("stats %+v", s)
			}
		})
	}
}

// noise writes bytes that cannot be guessed, and returns their digest.
func noise(to io.Writer, size int64) []byte {
	sum := sha256.New()
	io.CopyN(io.MultiWriter(to, sum), rand.NewChaCha8([32]byte{1}), size)
	return sum.Sum(nil)
}

// Both ways at the same time, as much as a large download.
func TestLargeTransfers(t *testing.T) {
	size := int64(32 << 20)
	if rounds := os.Getenv("BANGER_TEST_ROUNDS"); rounds != "" && rounds != "1" {
		size = 1 << 30
	}
	for _, mtu := range []int{network.UplinkMTU, 1500} {
		t.Run(strconv.Itoa(mtu), func(t *testing.T) {
			l := newLab(t, labOptions{Options: Options{MTU: mtu}})
			whole := func(who string, c *net.TCPConn) {
				sent := make(chan []byte, 1)
				go func() { sent <- noise(c, size); c.CloseWrite() }()
				got := sha256.New()
				if n, err := io.Copy(got, c); n != size || err != nil || !bytes.Equal(got.Sum(nil), <-sent) {
					t.Errorf("%s got %d bytes of %d, %v", who, n, size, err)
				}
			}
			served := make(chan bool)
			addr := l.listen(t, func(c *net.TCPConn) { whole("the outside", c); close(served) })
			c := l.mustDial(t, addr)
			must(t, c.SetDeadline(time.Now().Add(10*time.Minute)))
			whole("the guest", c)
			<-served
		})
	}
}

func TestManyConnectionsAtOnce(t *testing.T) {
	l := newLab(t, labOptions{})
	addr := l.listen(t, func(c *net.TCPConn) { io.Copy(c, c) })
	var all sync.WaitGroup
	for i := range 200 {
		c := l.mustDial(t, addr)
		all.Go(func() {
			data := pattern(byte(i), 100_000)
			go func() { c.Write(data); c.CloseWrite() }()
			if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, data) {
				t.Errorf("connection %d: %d bytes, %v", i, len(got), err)
			}
		})
	}
	if n := l.Stats().TCP; n > 200 || n < 1 {
		t.Errorf("%d connections are counted", n)
	}
	all.Wait()
}

func TestHalfClose(t *testing.T) {
	l := newLab(t, labOptions{})
	// The outside closes first, and still hears the guest.
	heard := make(chan string, 1)
	addr := l.listen(t, func(c *net.TCPConn) {
		c.Write([]byte("bye"))
		c.CloseWrite()
		b, _ := io.ReadAll(c)
		heard <- string(b)
	})
	c := l.mustDial(t, addr)
	if b, err := io.ReadAll(c); string(b) != "bye" || err != nil {
		t.Errorf("the guest read %q, %v", b, err)
	}
	c.Write([]byte("still here"))
	c.CloseWrite()
	if got := <-heard; got != "still here" {
		t.Errorf("the outside read %q", got)
	}
}

func TestResetsArePassedOn(t *testing.T) {
	l := newLab(t, labOptions{})
	t.Run("of the outside", func(t *testing.T) {
		addr := l.listen(t, func(c *net.TCPConn) {
			io.ReadFull(c, make([]byte, 1))
			c.SetLinger(0)
		})
		c := l.mustDial(t, addr)
		c.Write([]byte("x"))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the guest read: %v", err)
		}
	})
	t.Run("of the guest", func(t *testing.T) {
		got := make(chan error, 1)
		addr := l.listen(t, func(c *net.TCPConn) {
			c.Write([]byte("x"))
			_, err := c.Read(make([]byte, 1))
			got <- err
		})
		c := l.mustDial(t, addr)
		io.ReadFull(c, make([]byte, 1))
		c.SetLinger(0)
		c.Close()
		if err := <-got; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the outside read: %v", err)
		}
	})
	t.Run("of the outside, half closed", func(t *testing.T) {
		next := make(chan bool)
		addr := l.listen(t, func(c *net.TCPConn) {
			c.CloseWrite()
			<-next
			c.SetLinger(0)
		})
		c := l.mustDial(t, addr)
		io.ReadAll(c)
		close(next)
		raw, err := c.SyscallConn()
		must(t, err)
		// Nothing can be read: wait until the poller reports the error.
		var failed int
		raw.Read(func(fd uintptr) bool {
			failed, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
			return failed != 0
		})
		// An RST after both have heard a FIN is EPIPE, before it ECONNRESET.
		if e := syscall.Errno(failed); e != syscall.ECONNRESET && e != syscall.EPIPE {
			t.Errorf("the guest's socket: %v", e)
		}
	})
}

func TestRefusedAndUnreachable(t *testing.T) {
	l := newLab(t, labOptions{})
	must(t, route(unix.RTN_UNREACHABLE, "203.0.113.0/25", ""))
	must(t, route(unix.RTN_PROHIBIT, "203.0.113.128/25", ""))
	t.Cleanup(func() { // the namespace of the host is every test's
		for _, dst := range []string{"203.0.113.0/25", "203.0.113.128/25"} {
			unroute(dst)
		}
	})
	l.wantRefused(t, serverIP+":1", syscall.ECONNREFUSED)
	l.wantRefused(t, "203.0.113.5:80", syscall.EHOSTUNREACH)
	l.wantRefused(t, "203.0.113.200:80", syscall.EHOSTUNREACH)                   // EACCES on the host
	l.wantRefused(t, "100.64.0.1:80", syscall.ENETUNREACH, syscall.EHOSTUNREACH) // the server's ICMP
	l.wantRefused(t, gateway.String()+":80", syscall.ECONNREFUSED)
}

func TestHangingDialsStopNobody(t *testing.T) {
	t.Run("others connect", func(t *testing.T) {
		l := newLab(t, labOptions{Options: Options{Dial: time.Hour}})
		addr := l.listen(t, func(c *net.TCPConn) { c.Write([]byte("ok")) })
		ctx, cancel := context.WithCancel(t.Context())
		const hanging = 64
		ended := make(chan error, hanging)
		for range hanging {
			go func() {
				_, err := l.dial(ctx, "198.18.0.1:80")
				ended <- err
			}()
		}
		for l.Stats().TCP < hanging {
			<-time.After(time.Millisecond) // until the stack has seen them all
		}
		start := time.Now()
		if b, err := io.ReadAll(l.mustDial(t, addr)); string(b) != "ok" || time.Since(start) > within {
			t.Errorf("%q, %v after %v", b, err, time.Since(start))
		}
		if len(ended) > 0 {
			t.Errorf("a dial does not hang: %v", <-ended)
		}
		cancel()
		for range hanging {
			<-ended
		}
	})
	t.Run("they are given up", func(t *testing.T) {
		l := newLab(t, labOptions{Options: Options{Dial: 200 * time.Millisecond}})
		l.wantRefused(t, "198.18.0.1:80", syscall.EHOSTUNREACH)
	})
}

func TestConnectionsAreBounded(t *testing.T) {
	l := newLab(t, labOptions{Options: Options{MaxTCP: 6}})
	addr := l.listen(t, func(c *net.TCPConn) { io.Copy(io.Discard, c) })
	var open []*net.TCPConn
	for range 3 {
		open = append(open, l.mustDial(t, addr))
	}
	l.wantRefused(t, addr, syscall.ECONNREFUSED)
	if s := l.Stats(); s.TCP != 3 || s.Full == 0 {
		t.Errorf("stats %+v", s)
	}
	open[0].Close()
	for l.Stats().TCP == 3 {
		<-time.After(time.Millisecond)
	}
	l.mustDial(t, addr)
}

func TestCloseResetsConnections(t *testing.T) {
	l := newLab(t, labOptions{})
	addr := l.listen(t, func(c *net.TCPConn) { io.Copy(io.Discard, c) })
	c := l.mustDial(t, addr)
	l.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the guest read: %v", err)
	}
	l.Close()
}

// Close may meet a handshake anywhere: it returns soon, and no guest waits.
func TestCloseWhileConnecting(t *testing.T) {
	l := newLab(t, labOptions{})
	addr := l.listen(t, func(c *net.TCPConn) { io.Copy(io.Discard, c) })
	const guests = 30
	ended := make(chan error, guests)
	ctx, cancel := context.WithCancel(t.Context())
	for range guests {
		go func() {
			c, err := l.dial(ctx, addr)
			if err != nil {
				ended <- nil
				return
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(20 * time.Second))
			if _, err = c.Read(make([]byte, 1)); errors.Is(err, syscall.ECONNRESET) {
				err = nil
			}
			ended <- err
		}()
	}
	<-time.After(rand.N(20 * time.Millisecond)) // the moment
	began := time.Now()
	l.Close()
	if took := time.Since(began); took > within {
		t.Errorf("it took %v to close", took)
	}
	cancel() // a first packet that came after the end has no answer
	for range guests {
		if err := <-ended; err != nil {
			t.Errorf("a guest read: %v", err)
		}
	}
}

func TestBackPressure(t *testing.T) {
	l := newLab(t, labOptions{})
	release, got := make(chan bool), make(chan int64)
	const size = 64 << 20
	addr := l.listen(t, func(c *net.TCPConn) {
		<-release
		n, _ := io.Copy(io.Discard, c)
		got <- n
	})
	c := l.mustDial(t, addr)
	must(t, c.SetWriteDeadline(time.Now().Add(300*time.Millisecond))) // much of the 64 MiB is sent by then, if anything takes it
	n, err := c.Write(make([]byte, size))
	if err == nil {
		t.Errorf("the guest sent %d bytes to a server that reads nothing", n)
	}
	close(release)
	must(t, c.SetWriteDeadline(time.Time{}))
	_, err = c.Write(make([]byte, size-n))
	must(t, err)
	must(t, c.CloseWrite())
	if n := <-got; n != size {
		t.Errorf("%d bytes of %d", n, size)
	}
}

func TestLinkFlap(t *testing.T) {
	l := newLab(t, labOptions{})
	addr := l.listen(t, func(c *net.TCPConn) { io.Copy(c, c) })
	c := l.mustDial(t, addr)
	echo := func(c *net.TCPConn, what string) {
		t.Helper()
		got := make([]byte, len(what))
		c.Write([]byte(what))
		if _, err := io.ReadFull(c, got); err != nil || string(got) != what {
			t.Errorf("%q, %v", got, err)
		}
	}
	echo(c, "before")
	must(t, l.guest.Do(func() error { return down(l.link) }))
	l.link_().send(unix.IPPROTO_UDP, gateway, uplinkAddr, make([]byte, 8)) // EIO
	if l.Stats().Lost == 0 {
		t.Error("a TAP that is down took a frame")
	}
	must(t, l.guest.Do(func() error {
		if err := up(l.link); err != nil {
			return err
		}
		return route(unix.RTN_UNICAST, "0.0.0.0/0", gateway.String())
	}))
	echo(c, "after")
	echo(l.mustDial(t, addr), "new")
}
