package stack

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var guests = []netip.Addr{netip.MustParseAddr("10.201.16.2"), netip.MustParseAddr("10.201.16.3"), netip.MustParseAddr("10.201.16.4")}

func TestShares(t *testing.T) {
	s := newShares(100)
	takeAll := func(guest netip.Addr) (n int) {
		for s.take(guest, 1) {
			n++
		}
		return n
	}
	first, second, third := takeAll(guests[0]), takeAll(guests[1]), takeAll(guests[2])
	if first != 50 || second != 25 || third != 12 {
		t.Errorf("guests that take all they get have %d, %d and %d of 100", first, second, third)
	}
	if s.take(guests[0], 1) {
		t.Error("the first has more than is free")
	}
	s.give(guests[0], 1)
	s.swap(guests[0], 1)
	for i, n := range []int{first, second, third} {
		s.give(guests[i], n)
	}
	if s.free != 100 || len(s.taken) != 0 {
		t.Errorf("%d are free in the end, and %v taken", s.free, s.taken)
	}
}

// The first connections of a guest get large buffers, and no guest can take all the room.
func TestBuffersShrink(t *testing.T) {
	room := newShares(roomForBuffers)
	sum, last := 0, 0
	for range 2048 {
		i := chooseBuffer(room, guests[0])
		if i < last {
			t.Fatal("a later connection has larger buffers")
		}
		sum, last = sum+2*buffers[i], i
	}
	if most := roomForBuffers/2 + 2048*2*buffers[len(buffers)-1]; sum > most || last != len(buffers)-1 {
		t.Errorf("2048 connections of one guest have buffers of %d bytes, the limit is %d", sum, most)
	}
	if i := chooseBuffer(room, guests[1]); i > 1 {
		t.Errorf("another guest's first connection gets %d bytes", buffers[i])
	}
}

// addGuests gives the guest's kernel addresses, as if it were several.
func (l *lab) addGuests(t *testing.T) {
	t.Helper()
	must(t, l.guest.Do(func() error { return up("lo", guests[0].String()+"/32", guests[1].String()+"/32") }))
}

// dialAs connects from one of guests.
func (l *lab) dialAs(t *testing.T, guest netip.Addr, network, addr string) (conn net.Conn, err error) {
	t.Helper()
	dialer := net.Dialer{Timeout: 20 * time.Second, LocalAddr: &net.TCPAddr{IP: guest.AsSlice()}}
	if network == "udp4" {
		dialer.LocalAddr = &net.UDPAddr{IP: guest.AsSlice()}
	}
	err = l.guest.Do(func() (err error) {
		conn, err = dialer.DialContext(context.Background(), network, addr)
		return err
	})
	if err == nil {
		t.Cleanup(func() { conn.Close() })
		must(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	}
	return conn, err
}

// One guest's flood of connections takes nothing from another guest.
func TestGuestsShareConnections(t *testing.T) {
	l := newLab(t, labOptions{Options: Options{MaxTCP: 16}})
	l.addGuests(t)
	addr := l.listen(t, func(c *net.TCPConn) { io.Copy(c, c) })
	for range 8 {
		_, err := l.dialAs(t, guests[0], "tcp4", addr)
		must(t, err)
	}
	if _, err := l.dialAs(t, guests[0], "tcp4", addr); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the flood's next connection: %v", err)
	}
	for range 4 {
		c, err := l.dialAs(t, guests[1], "tcp4", addr)
		must(t, err)
		must(t, ask4(t, c, []byte("hello")))
	}
}

// One guest's flood of datagrams ends no flow of another guest.
func TestGuestsShareFlows(t *testing.T) {
	l := newLab(t, labOptions{Options: Options{MaxUDP: 16}})
	l.addGuests(t)
	addr := l.udpEcho(t, 0)
	var quiet []net.Conn
	for range 3 {
		c, err := l.dialAs(t, guests[1], "udp4", addr)
		must(t, err)
		must(t, ask4(t, c, []byte("hello")))
		quiet = append(quiet, c)
	}
	for range 100 {
		c, err := l.dialAs(t, guests[0], "udp4", addr)
		must(t, err)
		must(t, ask4(t, c, []byte("flood"))) // answered, and later than the others
	}
	for _, c := range quiet {
		must(t, ask4(t, c, []byte("still here")))
	}
	if s := l.Stats(); s.Flows != 103 || s.UDP != 9 {
		t.Errorf("flows of the quiet guest have ended: %+v", s)
	}
}

// Many small pieces all come, in order, also where only few of them may wait.
func TestSmallPieces(t *testing.T) {
	large := buffers
	buffers = buffers[len(buffers)-1:]
	t.Cleanup(func() { buffers = large }) // after the lab's end
	l := newLab(t, labOptions{})
	data := pattern(7, 20_000)
	addr := l.listen(t, func(c *net.TCPConn) {
		for i := range data {
			if _, err := c.Write(data[i:][:1]); err != nil {
				t.Errorf("byte %d: %v", i, err)
				return
			}
		}
	})
	c := l.mustDial(t, addr)
	raw, err := c.SyscallConn()
	must(t, err)
	must(t, raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096) }))
	must(t, err)
	if got, err := io.ReadAll(c); err != nil || string(got) != string(data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// What a guest sends and nobody takes is bounded, however it sends it.
func TestHeldFramesAreBounded(t *testing.T) {
	l := newLab(t, labOptions{})
	held := l.link_().held
	l.addGuests(t)
	addr := l.listen(t, func(c *net.TCPConn) { io.Copy(c, c) })
	must(t, l.mustDialAs(t, guests[1], addr))
	all := 0
	for ; held.take(guests[0], 4096); all += 4096 {
	}
	c, err := l.dialAs(t, guests[0], "tcp4", addr)
	must(t, err)
	if _, err := c.Write(make([]byte, 20_000)); err != nil {
		t.Error(err)
	}
	for l.Stats().Lost == 0 {
		<-time.After(time.Millisecond) // until the stack has seen it
	}
	must(t, l.mustDialAs(t, guests[1], addr))
	held.give(guests[0], all) // the guest's kernel sends again
	if got, err := io.ReadAtLeast(c, make([]byte, 20_000), 20_000); err != nil {
		t.Errorf("%d bytes, %v", got, err)
	}
	c.Close()
	for l.Stats().TCP > 1 {
		<-time.After(time.Millisecond)
	}
}

// mustDialAs exchanges more than a few bytes on a new connection of a guest's.
func (l *lab) mustDialAs(t *testing.T, guest netip.Addr, addr string) error {
	t.Helper()
	c, err := l.dialAs(t, guest, "tcp4", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	return ask4(t, c, pattern(1, 5000))
}
