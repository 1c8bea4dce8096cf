package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"banger/internal/network"
	"banger/internal/network/networktest"
)

// inside marks the test binary that runs in namespaces of its own.
const inside = "BANGER_TEST_STACK_INSIDE"

// forbidden says why this host gives a plain user no namespaces.
var forbidden string

// TestMain runs the tests in a user and a network namespace, where they are root and
// harm nobody.
func TestMain(m *testing.M) {
	if r := os.Getenv(role); r != "" {
		if err := play(r); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv(inside) == "" {
		runtime.LockOSThread() // the child dies with this thread
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.SysProcAttr = networktest.Attributes()
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
		err := cmd.Start()
		if err == nil {
			err = cmd.Wait()
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				os.Exit(max(1, exit.ExitCode()))
			}
			os.Exit(0)
		}
		forbidden = fmt.Sprintf("this host gives no user and network namespaces: %v", err)
	}
	os.Exit(m.Run())
}

// A lab is a guest, the stack and the outside: three network namespaces with real
// kernels. The stack runs in the one between, which plays the host.
//
//	guest 198.51.100.2 --TAP-- stack, host 192.0.2.1 --veth-- server 192.0.2.2
type lab struct {
	*Stack
	guest, server *networktest.Namespace
	link          string // the TAP in the guest's namespace
	ran           chan error
}

const serverIP = "192.0.2.2"

type labOptions struct {
	Options
	plain bool // a TAP without IFF_VNET_HDR
}

func newLab(t testing.TB, o labOptions) *lab {
	t.Helper()
	if forbidden != "" {
		t.Skip(forbidden)
	}
	if os.Getuid() != 0 || os.Getenv(inside) == "" {
		t.Skip("not in namespaces of its own")
	}
	if _, leaks := t.(*testing.T); leaks {
		before := goleak.IgnoreCurrent()
		t.Cleanup(func() { goleak.VerifyNone(t, before) })
	}
	l := &lab{guest: networktest.New(t), server: networktest.New(t), link: network.Instance("0123abcd").Uplink(), ran: make(chan error, 1)}
	must(t, l.outside())
	t.Cleanup(l.undo)
	if o.MTU == 0 {
		o.MTU = network.UplinkMTU
	}
	var tap *os.File
	err := l.guest.Do(func() (err error) {
		tap, err = openTAP(l.link, o.MTU, o.plain)
		return err
	})
	if errors.Is(err, os.ErrPermission) {
		t.Skipf("%v: /dev/net/tun is closed; enable with: sudo chmod 0666 /dev/net/tun", err)
	}
	must(t, err)
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	l.Stack, err = New(tap, o.Options)
	must(t, err)
	go func() { l.ran <- l.Run(context.Background()) }()
	t.Cleanup(func() {
		l.Close()
		if err := <-l.ran; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return l
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// outside connects the host with the server.
func (l *lab) outside() error {
	var pid int
	if err := l.server.Do(func() error { pid = unix.Gettid(); return nil }); err != nil {
		return err
	}
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "h0", MTU: 65520}, PeerName: "s0", PeerMTU: 65520, PeerNamespace: netlink.NsPid(pid)}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("add a veth pair: %w", err)
	}
	if err := up("lo"); err != nil {
		return err
	}
	if err := up("h0", "192.0.2.1/24"); err != nil {
		return err
	}
	if err := route(unix.RTN_UNICAST, "0.0.0.0/0", serverIP); err != nil {
		return err
	}
	return l.server.Do(func() error {
		if err := errors.Join(up("lo"), up("s0", serverIP+"/24", "192.0.2.3/24"), sysctl("net/ipv4/ip_forward", "1")); err != nil {
			return err
		}
		return route(unix.RTN_BLACKHOLE, "198.18.0.0/24", "") // packets to here vanish
	})
}

// undo takes the outside away again.
func (l *lab) undo() {
	if h, err := netlink.LinkByName("h0"); err == nil {
		_ = netlink.LinkDel(h)
	}
}

func up(name string, addrs ...string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("add %s to %s: %w", a, name, err)
		}
	}
	return netlink.LinkSetUp(link)
}

func route(kind int, dst, via string) error {
	_, to, err := net.ParseCIDR(dst)
	if err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{Type: kind, Dst: to, Gw: net.ParseIP(via)})
}

func sysctl(name, value string) error {
	return os.WriteFile("/proc/sys/"+name, []byte(value), 0)
}

func openTAP(name string, mtu int, plain bool) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	tap := os.NewFile(uintptr(fd), name)
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if plain {
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	}
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return nil, fmt.Errorf("create a TAP: %w", err)
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil, err
	}
	if err := netlink.LinkSetMTU(link, mtu); err != nil {
		return nil, err
	}
	bits := fmt.Sprintf("/%d", network.UplinkSubnet.Bits())
	if err := errors.Join(up("lo"), up(name, network.UplinkAddr.String()+bits)); err != nil {
		return nil, err
	}
	return tap, route(unix.RTN_UNICAST, "0.0.0.0/0", gateway.String())
}

// listen serves each connection to a port of the server's.
func (l *lab) listen(t testing.TB, serve func(*net.TCPConn)) string {
	t.Helper()
	var ln net.Listener
	must(t, l.server.Do(func() (err error) {
		ln, err = net.Listen("tcp4", ":0")
		return err
	}))
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); serve(c.(*net.TCPConn)) }()
		}
	}()
	return fmt.Sprintf("%s:%d", serverIP, ln.Addr().(*net.TCPAddr).Port)
}

// dial connects from the guest. Blocking, and so in a thread of its own.
func (l *lab) dial(ctx context.Context, addr string) (*net.TCPConn, error) {
	s, err := l.socket(unix.SOCK_STREAM)
	if err != nil {
		return nil, err
	}
	to := netip.MustParseAddrPort(addr)
	failed := make(chan error, 1)
	go func() { failed <- unix.Connect(s, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}) }()
	select {
	case err = <-failed:
	case <-ctx.Done():
		unix.Shutdown(s, unix.SHUT_RDWR)
		<-failed
		err = ctx.Err()
	}
	if err != nil {
		unix.Close(s)
		return nil, err
	}
	f := os.NewFile(uintptr(s), "guest")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

func (l *lab) socket(kind int) (fd int, err error) {
	err = l.guest.Do(func() error {
		fd, err = unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
		return err
	})
	return fd, err
}

func (l *lab) mustDial(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	c, err := l.dial(t.Context(), addr)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	must(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	return c
}

// within is the longest that "at once" may take on a busy machine. What is not refused
// at once takes 10 s.
const within = 4 * time.Second

// wantRefused expects a dial to fail at once with one of the errors.
func (l *lab) wantRefused(t *testing.T, addr string, want ...error) {
	t.Helper()
	start := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	c, err := l.dial(ctx, addr)
	if err == nil {
		c.Close()
		t.Errorf("%s: connected", addr)
		return
	}
	known := false
	for _, w := range want {
		known = known || errors.Is(err, w)
	}
	if took := time.Since(start); !known || took > within {
		t.Errorf("%s: %v after %v; want one of %v within %v", addr, err, took, want, within)
	}
}

func pattern(seed byte, n int) []byte {
	b := make([]byte, n)
	x := uint32(seed) + 1
	for i := range b {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x)
	}
	return b
}
