package vmmtest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Card is the network card of a guest.
type Card struct {
	MAC    net.HardwareAddr
	MTU    int
	Frames Frames
}

// Frames are a card's Ethernet frames, one for each call.
type Frames interface {
	io.ReadWriteCloser
	SetReadDeadline(time.Time) error
}

// Kept are frames that the guest does not close: those of a TAP that a fake VMM keeps open.
type Kept struct{ Frames }

// Close implements Frames.
func (Kept) Close() error { return nil }

// asked is what a guest finds out by its card, and PortCard sends as JSON.
type asked struct {
	MAC    string
	MTU    int
	Answer string // the MAC of who has the address
	Error  string
}

// Addresses in the network of the contract.
var (
	hostAddr  = netip.MustParseAddr("198.51.100.1")
	guestAddr = netip.MustParseAddr("198.51.100.2")
)

// answerTime is how long an answer by the network may take.
const answerTime = 20 * time.Second

// ask asks by the guest's card who has the host's address: one frame goes out, to all, and
// one comes back.
func (g *Guest) ask() (got asked) {
	if g.Card == nil {
		return asked{Error: "no card"}
	}
	card, err := g.Card()
	if err != nil {
		return asked{Error: err.Error()}
	}
	defer card.Frames.Close()
	got = asked{MAC: card.MAC.String(), MTU: card.MTU}
	card.Frames.SetReadDeadline(time.Now().Add(answerTime))
	if _, err := card.Frames.Write(arpRequest(card.MAC, guestAddr, hostAddr)); err != nil {
		got.Error = err.Error()
		return got
	}
	for frame := make([]byte, 64<<10); ; {
		n, err := card.Frames.Read(frame)
		if err != nil {
			got.Error = err.Error()
			return got
		}
		if from := arpReply(frame[:n], card.MAC, hostAddr); from != nil {
			got.Answer = from.String()
			return got
		}
	}
}

// An Ethernet frame with ARP, as RFC 826 has it for Ethernet and IPv4.
const (
	arpFrame  = 42
	opRequest = 1
	opReply   = 2
)

var arpHead = []byte{0x08, 0x06, 0, 1, 0x08, 0, 6, 4} // EtherType, hardware, protocol, sizes

// arpRequest returns a frame that asks who has the address to.
func arpRequest(mac net.HardwareAddr, from, to netip.Addr) []byte {
	frame := bytes.Repeat([]byte{0xff}, 6)
	frame = append(append(frame, mac...), arpHead...)
	frame = binary.BigEndian.AppendUint16(frame, opRequest)
	frame = append(append(frame, mac...), from.AsSlice()...)
	return append(append(frame, make([]byte, 6)...), to.AsSlice()...)
}

// arpReply returns who answers to mac that it has the address, or nil for another frame.
func arpReply(frame []byte, mac net.HardwareAddr, of netip.Addr) net.HardwareAddr {
	if len(frame) < arpFrame || !bytes.Equal(frame[:6], mac) || !bytes.Equal(frame[12:20], arpHead) ||
		binary.BigEndian.Uint16(frame[20:]) != opReply || !bytes.Equal(frame[28:32], of.AsSlice()) {
		return nil
	}
	return bytes.Clone(frame[22:28])
}

// OpenTap opens a TAP that exists, as a VMM does. mac is what the card of the guest has.
func OpenTap(name string, mac net.HardwareAddr) (Card, error) {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return Card{}, err
	}
	tun, err := configureTap(name)
	if err != nil {
		return Card{}, err
	}
	file := os.NewFile(uintptr(tun), name)
	return Card{MAC: mac, MTU: link.MTU, Frames: file}, nil
}

// configureTap opens the TAP of a name, or makes it.
func configureTap(name string) (tun int, err error) {
	tun, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(tun, unix.TUNSETIFF, request)
	}
	if err != nil {
		unix.Close(tun)
		return -1, fmt.Errorf("open the TAP %s: %w", name, err)
	}
	return tun, nil
}

// makeTap makes a TAP that stays, for a user, and gives the host's end the host's address.
func makeTap(name string, owner int) error {
	tun, err := configureTap(name)
	if err != nil {
		return err
	}
	defer unix.Close(tun)
	if err := errors.Join(unix.IoctlSetInt(tun, unix.TUNSETOWNER, owner), unix.IoctlSetInt(tun, unix.TUNSETPERSIST, 1)); err != nil {
		return os.NewSyscallError("ioctl", err)
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(socket)
	for _, set := range []struct {
		call  uint
		value func(*unix.Ifreq) error
	}{
		{unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(hostAddr.AsSlice()) }},
		{unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr([]byte{255, 255, 255, 0}) }},
		{unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP); return nil }},
	} {
		request, err := unix.NewIfreq(name)
		if err == nil {
			err = set.value(request)
		}
		if err == nil {
			err = unix.IoctlIfreq(socket, set.call, request)
		}
		if err != nil {
			return fmt.Errorf("configure the TAP %s: %w", name, err)
		}
	}
	return nil
}
