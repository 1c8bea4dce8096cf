package helper

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"banger/internal/network"
	"banger/internal/network/apply"
	"banger/internal/network/networktest"
)

// namespaceEnv makes the test binary play the namespace of an instance, and a guest in it.
const namespaceEnv = "BANGER_TEST_NAMESPACE"

// playNamespace hands out the uplink of an instance on descriptor 3. Then it looks up each
// line of its input as the guest otter, and prints the answer.
func playNamespace(i network.Instance) error {
	uplink, err := apply.OpenUplink(i)
	if err != nil {
		return err
	}
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	guest := &netlink.Addr{IPNet: &net.IPNet{IP: usernetOtter.Addr.AsSlice(), Mask: net.CIDRMask(32, 32)}}
	if err := netlink.AddrAdd(loopback, guest); err != nil {
		return err
	}
	if err := unix.Sendmsg(3, []byte("u"), unix.UnixRights(int(uplink.Fd())), nil, 0); err != nil {
		return err
	}
	uplink.Close()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		by, name, _ := strings.Cut(lines.Text(), " ")
		fmt.Println(lookupAs(context.Background(), by, usernetOtter.Addr, name, netip.AddrPortFrom(network.UplinkGateway, port)))
	}
	return nil
}

var (
	usernetSubnet = netip.MustParsePrefix("10.201.16.0/20")
	usernetOtter  = Name{"000000000001", "otter", netip.MustParseAddr("10.201.16.2"), false}
)

// namespace is a process that plays one.
type namespace struct {
	uplink *os.File
	in     *os.File
	out    *bufio.Scanner
}

// newNamespace skips the test where the host does not give a plain user a namespace.
func newNamespace(t *testing.T, i network.Instance) *namespace {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	theirs := os.NewFile(uintptr(pair[1]), "socket")
	stdin, in, err1 := os.Pipe()
	out, stdout, err2 := os.Pipe()
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	cmd := exec.Command("/proc/self/exe")
	cmd.SysProcAttr = networktest.Attributes()
	cmd.Env = append(os.Environ(), namespaceEnv+"="+string(i))
	cmd.ExtraFiles, cmd.Stdin, cmd.Stdout, cmd.Stderr = []*os.File{theirs}, stdin, stdout, &said
	err = cmd.Start()
	for _, file := range []*os.File{theirs, stdin, stdout} {
		file.Close()
	}
	if err != nil {
		t.Skipf("this host does not let %s make a user and a network namespace: %v; fix: banger doctor", os.Getenv("USER"), err)
	}
	t.Cleanup(func() {
		in.Close() // so it ends
		cmd.Wait()
		out.Close()
	})
	rights := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(pair[0], make([]byte, 1), rights, unix.MSG_CMSG_CLOEXEC)
	if err != nil || n == 0 {
		in.Close()
		cmd.Wait()
		t.Skipf("no uplink: %s; fix: sudo chmod 0666 /dev/net/tun, if that is closed", said.String())
	}
	messages, err := unix.ParseSocketControlMessage(rights[:n])
	if err != nil {
		t.Fatal(err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		t.Fatal(err)
	}
	return &namespace{uplink: os.NewFile(uintptr(fds[0]), "uplink"), in: in, out: bufio.NewScanner(out)}
}

// lookup has the guest look a name up.
func (n *namespace) lookup(by, name string) string {
	fmt.Fprintln(n.in, by, name)
	n.out.Scan()
	return n.out.Text()
}

// In usernet guests reach the helper through the uplink, and the helper knows who asks.
func TestUsernet(t *testing.T) {
	f := setUp(t)
	ns := newNamespace(t, f.State.Instance)
	f.State.Mode, f.State.Subnet, f.State.Names, f.Uplink = network.Usernet, usernetSubnet, []Name{usernetOtter}, ns.uplink
	for round := range 2 { // the next one takes the uplink over
		p := f.start()
		for _, by := range []string{"udp", "tcp"} {
			if got := ns.lookup(by, "otter.vm."); got != "10.201.16.2" {
				t.Errorf("by %s: %s", by, got)
			}
		}
		if got := ns.lookup("udp", "fox.vm."); got != "missing" {
			t.Errorf("a missing name: %s", got)
		}
		if got := ns.lookup("udp", "example.org."); !strings.Contains(got, "misbehaving") { // REFUSED
			t.Errorf("without egress: %s", got)
		}
		if got := f.lookup("otter.vm.", HostAddr(f.State.Instance)); got != "10.201.16.2" {
			t.Errorf("for the host: %s", got)
		}
		if round == 0 {
			f.logAtRest(p)
		}
		if err := End(p); err != nil {
			t.Fatal(err)
		}
	}
	ns.uplink.Close()
}
