package apply

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/network"
	"banger/internal/network/networktest"
)

// insideEnv is set in the process that runs a test in namespaces of its own.
const insideEnv = "BANGER_TEST_INSIDE"

// inside runs the rest of a test or benchmark in a new user and network namespace: in
// another process, whose end removes everything. It reports whether this is that process.
func inside(t testing.TB) bool {
	t.Helper()
	if os.Getenv(insideEnv) == t.Name() {
		needTun(t)
		if err := setForwards("0"); err != nil { // a new namespace has the setting of the machine's
			t.Fatal(err)
		}
		return true
	}
	if os.Getenv(insideEnv) != "" {
		return false
	}
	args := []string{"-test.run=^" + t.Name() + "$", "-test.v", "-test.timeout=2m"}
	switch t := t.(type) {
	case *testing.T:
		t.Parallel()
	case *testing.B:
		args = []string{"-test.run=^$", "-test.bench=^" + t.Name() + "$", "-test.timeout=2m"}
	}
	out, err := newNamespace(t, args).CombinedOutput()
	if err != nil {
		t.Fatalf("in its namespace: %v\n%s", err, out)
	}
	if text := string(out); strings.Contains(text, "--- SKIP") {
		t.Skip(text)
	} else {
		t.Log(text)
	}
	return false
}

// newNamespace returns a command that runs the test binary in new namespaces.
func newNamespace(t testing.TB, args []string) *exec.Cmd {
	t.Helper()
	if err := exec.Command("unshare", "--user", "--net", "true").Run(); err != nil {
		t.Skipf("user namespaces are not allowed here: %v", err)
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.SysProcAttr = networktest.Attributes()
	cmd.Env = append(os.Environ(), insideEnv+"="+t.Name())
	return cmd
}

func needTun(t testing.TB) {
	t.Helper()
	file, err := os.OpenFile(tunDevice, os.O_RDWR, 0)
	if err != nil {
		t.Skipf("%v: TAPs cannot be made here; as root, `modprobe tun; chmod 0666 %s`", err, tunDevice)
	}
	file.Close()
}

// space is a network namespace.
type space struct{ *networktest.Namespace }

func newSpace(t testing.TB) *space { return &space{networktest.New(t)} }

// What is answered is answered at once, but a busy machine may take long to notice. Where
// nobody answers, a test does not wait for that.
const (
	patience   = 20 * time.Second
	impatience = 2 * time.Second
)

// dial connects out of the namespace.
func (s *space) dial(to string) (conn net.Conn, err error) { return s.dialWithin(to, patience) }

func (s *space) dialWithin(to string, within time.Duration) (conn net.Conn, err error) {
	s.Do(func() error {
		conn, err = net.DialTimeout("tcp4", to, within)
		return nil
	})
	return conn, err
}

// serve echoes on a TCP address of the namespace.
func (s *space) serve(t testing.TB, at string) {
	t.Helper()
	s.Must(t, func() error {
		l, err := net.Listen("tcp4", at)
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go func() { defer conn.Close(); io.Copy(conn, conn) }()
			}
		}()
		return nil
	})
}

// answer echoes on a UDP address of the namespace, and tells who asked.
func (s *space) answer(t *testing.T, at string) (askers <-chan string) {
	t.Helper()
	told := make(chan string, 64)
	s.Must(t, func() error {
		conn, err := net.ListenPacket("udp4", at)
		if err != nil {
			return err
		}
		t.Cleanup(func() { conn.Close() })
		go func() {
			b := make([]byte, 1500)
			for {
				n, from, err := conn.ReadFrom(b)
				if err != nil {
					return
				}
				told <- from.(*net.UDPAddr).IP.String()
				conn.WriteTo(b[:n], from)
			}
		}()
		return nil
	})
	return told
}

// ask says how a question by UDP ends: "" when it is echoed.
func (s *space) ask(to netip.Addr, port int) string {
	var conn net.Conn
	err := s.Do(func() (err error) {
		conn, err = net.Dial("udp4", fmt.Sprintf("%v:%d", to, port))
		return err
	})
	if err != nil {
		return word(err)
	}
	defer conn.Close()
	return echo(conn, "hello")
}

// guest is a system behind a TAP of ours: a namespace whose card is wired to it.
type guest struct {
	network.Guest
	*space
	tap *os.File // the VMM's end: what is written here, the guest has sent
	got chan []byte
}

const vnetHeader = 10

// openExisting opens a TAP as a VMM does.
func openExisting(name string) (*os.File, error) {
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	var req struct {
		name  [unix.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}
	copy(req.name[:], name)
	req.flags = unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETIFF, uintptr(unsafe.Pointer(&req))); errno != 0 {
		unix.Close(fd)
		return nil, errno
	}
	return os.NewFile(uintptr(fd), name), nil
}

// boot starts a guest that has been applied.
func boot(t *testing.T, w network.Wanted, g network.Guest) *guest {
	t.Helper()
	tap, err := openExisting(network.Tap(g.ID))
	if err != nil {
		t.Fatalf("open the TAP of %s: %v", g.ID, err)
	}
	b := &guest{Guest: g, space: newSpace(t), tap: tap, got: make(chan []byte, 256)}
	var card *os.File
	b.Must(t, func() (err error) {
		if card, err = openExisting("eth0"); err != nil {
			return err
		}
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return errors.Join(
			netlink.LinkSetHardwareAddr(link, network.MAC(g.ID)), netlink.LinkSetUp(link), netlink.LinkSetUp(lo),
			netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(g.Addr, w.Subnet.Bits()))}),
			netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: network.Gateway(w.Subnet).AsSlice()}))
	})
	t.Cleanup(func() { tap.Close(); card.Close() })
	go wire(card, tap, nil)
	go wire(tap, card, b.got)
	awaitPort(t, tap.Name())
	return b
}

// awaitPort waits until a bridge forwards what comes by a TAP that was opened: the kernel
// looks after that in the background, and what comes earlier is lost.
func awaitPort(t *testing.T, tap string) {
	t.Helper()
	changes, done := make(chan netlink.LinkUpdate), make(chan struct{})
	defer close(done)
	if err := netlink.LinkSubscribeWithOptions(changes, done, netlink.LinkSubscribeOptions{ListExisting: true}); err != nil {
		t.Fatalf("watch links: %v", err)
	}
	late := time.After(patience)
	for {
		select {
		case c := <-changes:
			if c.Attrs().Name == tap && c.Attrs().OperState == netlink.OperUp {
				return
			}
		case <-late:
			t.Fatalf("%s does not come up", tap)
		}
	}
}

// wire carries frames, and shows them.
func wire(from, to *os.File, seen chan<- []byte) {
	frame := make([]byte, 1<<17)
	for {
		n, err := from.Read(frame)
		if err != nil {
			return
		}
		to.Write(frame[:n])
		if seen != nil {
			select {
			case seen <- append([]byte{}, frame[vnetHeader:n]...):
			default: // nobody looks
			}
		}
	}
}

// forge sends a frame as a hostile guest can.
func (g *guest) forge(t *testing.T, frame []byte) {
	t.Helper()
	if _, err := g.tap.Write(append(make([]byte, vnetHeader), frame...)); err != nil {
		t.Fatalf("send a frame: %v", err)
	}
}

// drain forgets the frames that have come until now.
func (g *guest) drain() {
	for {
		select {
		case <-g.got:
		default:
			return
		}
	}
}

// sees reports whether a frame that contains mark comes before one that contains last,
// which the caller has sent after it on the same way.
func (g *guest) sees(t *testing.T, mark, last string) bool {
	t.Helper()
	seen := false
	deadline := time.After(10 * time.Second)
	for {
		select {
		case frame := <-g.got:
			seen = seen || strings.Contains(string(frame), mark)
			if strings.Contains(string(frame), last) {
				return seen
			}
		case <-deadline:
			t.Fatalf("%s never came to %s", last, g.ID)
		}
	}
}

// reach says how a connection ends: "" when it echoes.
func (s *space) reach(to netip.Addr, port int) string {
	return s.reachWithin(to, port, patience)
}

func (s *space) reachWithin(to netip.Addr, port int, within time.Duration) string {
	conn, err := s.dialWithin(fmt.Sprintf("%v:%d", to, port), within)
	if err != nil {
		return word(err)
	}
	defer conn.Close()
	return echo(conn, "hello")
}

// echo says how an exchange ends: "" when it comes back.
func echo(conn net.Conn, text string) string {
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write([]byte(text)); err != nil {
		return word(err)
	}
	back := make([]byte, len(text))
	if _, err := io.ReadFull(conn, back); err != nil {
		return word(err)
	}
	return ""
}

func word(err error) string {
	for errno, word := range map[syscall.Errno]string{
		syscall.EHOSTUNREACH: "unreachable", syscall.ECONNRESET: "reset", syscall.ECONNREFUSED: "refused",
		syscall.ENETUNREACH: "no network", syscall.EPIPE: "reset", syscall.ETIMEDOUT: "silence",
	} {
		if errors.Is(err, errno) {
			return word
		}
	}
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return "silence"
	}
	return err.Error()
}

const (
	testInstance = network.Instance("0a1b2c3d")
	otherOne     = network.Instance("4e5f6071")
)

var testSubnet = netip.MustParsePrefix("10.201.16.0/20")

// plan is a network of n guests, all with egress.
func plan(mode network.Mode, n int) network.Wanted {
	w := network.Wanted{Instance: testInstance, Mode: mode, Subnet: testSubnet, MTU: 1500}
	for i := range n {
		addr, _ := network.Addr(testSubnet, network.FirstSlot+i)
		w.Guests = append(w.Guests, network.Guest{ID: banger.VMID(fmt.Sprintf("a%011d", i)), Addr: addr, Egress: true})
	}
	return w
}

func mustApply(t testing.TB, w network.Wanted) Result {
	t.Helper()
	result, err := Apply(context.Background(), w)
	if err != nil {
		t.Fatalf("apply: %v\nfix: %s", err, banger.FixOf(err))
	}
	return result
}

var outsideAddr = netip.MustParseAddr("192.0.2.2")

// outside makes a world beyond the namespace, with an echo server on port 7.
func outside(t testing.TB) *space {
	t.Helper()
	s := newSpace(t)
	name := "out0"
	var peer int
	s.Must(t, func() error { peer = unix.Gettid(); return nil })
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "in0", PeerNamespace: netlink.NsPid(peer)}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatalf("make a veth pair: %v", err)
	}
	set := func(name, addr string) error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return errors.Join(netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix(addr))}), netlink.LinkSetUp(link))
	}
	if err := set(name, "192.0.2.1/24"); err != nil {
		t.Fatal(err)
	}
	s.Must(t, func() error { return set("in0", "192.0.2.2/24") })
	if err := netlink.RouteAdd(&netlink.Route{Gw: outsideAddr.AsSlice()}); err != nil {
		t.Fatal(err)
	}
	s.serve(t, "192.0.2.2:7")
	return s
}

// output runs a command in the namespace and returns what it prints.
func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path = "/usr/sbin/" + name
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}
