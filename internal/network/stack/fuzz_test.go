package stack

import (
	"context"
	"net/netip"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

var (
	fuzzed sync.Once
	wire   int // the guest's end of a stack that all inputs of a fuzz target share
	under  *Stack
)

// FuzzFrames writes frames as a guest could, if it were the kernel. Each becomes one of
// every protocol with a good IP header, so that mutations get past it.
func FuzzFrames(f *testing.F) {
	if os.Getenv(inside) == "" {
		f.Skip("not in a network namespace of its own: " + forbidden)
	}
	for _, seed := range frames() {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) == 0 {
			return // the end of the socket that plays the TAP
		}
		fuzzed.Do(func() { startFuzzed(t) })
		if _, err := unix.Write(wire, frame); err != nil && err != unix.EMSGSIZE && err != unix.EAGAIN {
			t.Fatal(err)
		}
		for _, protocol := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP, 47} {
			_, _ = unix.Write(wire, ipFrame(protocol, "127.0.0.1", frame))
			_, _ = unix.Write(wire, ipFrame(protocol, gateway.String(), frame))
		}
		var answer [65536]byte
		for {
			if _, err := unix.Read(wire, answer[:]); err != nil {
				break
			}
		}
		if s := under.Stats(); s.TCP > 4096 || s.UDP > 2048 {
			t.Fatalf("stats %+v", s)
		}
	})
}

func startFuzzed(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	must(t, err)
	wire = pair[0]
	under, err = New(os.NewFile(uintptr(pair[1]), "wire"), Options{})
	must(t, err)
	_, err = under.Listen(53)
	must(t, err)
	go func() {
		if err := under.Run(context.Background()); err != nil {
			panic(err)
		}
	}()
}

func ipFrame(protocol byte, dst string, payload []byte) []byte {
	payload = payload[:min(len(payload), 2000)]
	out := make([]byte, header.EthernetMinimumSize+header.IPv4MinimumSize, header.EthernetMinimumSize+header.IPv4MinimumSize+len(payload))
	header.Ethernet(out).Encode(&header.EthernetFields{SrcAddr: "\x02\x00\x00\x00\x00\x09", DstAddr: ourMAC, Type: header.IPv4ProtocolNumber})
	putIP(out[header.EthernetMinimumSize:], header.IPv4Fields{Protocol: protocol, TotalLength: uint16(header.IPv4MinimumSize + len(payload)),
		SrcAddr: address(netip.MustParseAddr("198.51.100.2")), DstAddr: address(netip.MustParseAddr(dst))})
	return append(out, payload...)
}

// frames are seeds: one of each kind that a guest sends.
func frames() [][]byte {
	syn := make([]byte, 24)
	header.TCP(syn).Encode(&header.TCPFields{SrcPort: 4000, DstPort: 53, DataOffset: 24, Flags: header.TCPFlagSyn, WindowSize: 1000})
	copy(syn[20:], []byte{2, 4, 0, 1}) // a tiny MSS
	udp := make([]byte, 12)
	header.UDP(udp).Encode(&header.UDPFields{SrcPort: 4000, DstPort: 53, Length: 12})
	echo := []byte{8, 0, 0, 0, 1, 2, 3, 4}
	unreachable := append([]byte{3, 4, 0, 0, 0, 0, 0, 1}, ipFrame(6, "198.51.100.2", syn)[header.EthernetMinimumSize:]...)
	arp := append([]byte("\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x09\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01\x02\x00\x00\x00\x00\x09"),
		198, 51, 100, 2, 0, 0, 0, 0, 0, 0, 198, 51, 100, 1)
	fragment := ipFrame(17, "192.0.2.9", udp)
	fragment[header.EthernetMinimumSize+6] = 0x20
	return [][]byte{{0}, arp, syn, udp, echo, unreachable, fragment, ipFrame(6, gateway.String(), syn), ipFrame(17, "1.1.1.1", udp)}
}
