//go:build vm

package lab

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/network"
	"banger/internal/network/helper"
)

// A bridged lab is a host and what is outside of it: two namespaces with a cable.
type bridged struct {
	*home
	host, outside netns
}

// Addresses of the lab.
const (
	hostAddr    = "203.0.113.1"
	outsideAddr = "203.0.113.2"
	outsidePort = 8080
	forged      = "192.0.2.77" // nobody's
)

// reachesLab ends with 0 in a guest with bash if it reaches the outside.
const reachesLab = `timeout 5 bash -c 'exec 3<>/dev/tcp/203.0.113.2/8080'`

// bridge returns a home whose daemon is root of a host of its own.
func bridge(t *testing.T) *bridged {
	t.Helper()
	b := cabled(t)
	b.home = own(t)
	b.in = b.host.enter()
	b.env = append(b.env, "BANGER_NETWORK=auto")
	return b
}

// usernet returns a home whose daemon is a plain user's on a host of its own.
func usernet(t *testing.T) *bridged {
	t.Helper()
	b := cabled(t)
	b.home = plain(t)
	b.as = nil // only root enters the host
	b.in = append(b.host.enter(), "setpriv", fmt.Sprintf("--reuid=%d", nobody), fmt.Sprintf("--regid=%d", nobody), "--clear-groups", "--")
	b.env = append(b.env, "BANGER_NETWORK=auto")
	return b
}

// cabled returns a host and what is outside of it, without a home.
func cabled(t *testing.T) *bridged {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root makes a host of its own; fix: sudo make vmtest")
	}
	for _, tool := range []string{"ip", "nft", "iptables", "nsenter"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%v; fix: sudo apt-get install iproute2 nftables iptables util-linux", err)
		}
	}
	everybodyOpens(t, "/dev/net/tun")
	b := &bridged{host: newNetns(t), outside: newNetns(t)}
	b.host.sh(t, fmt.Sprintf(`ip link set lo up
ip link add h0 type veth peer name o0 netns %d
ip addr add %s/24 dev h0
ip link set h0 up
ip route add default via %s`, b.outside.pid, hostAddr, outsideAddr))
	b.outside.sh(t, fmt.Sprintf("ip link set lo up; ip addr add %s/24 dev o0; ip link set o0 up", outsideAddr))
	return b
}

// serve takes connections outside, and hands them over.
func (b *bridged) serve(t *testing.T) <-chan net.Conn {
	t.Helper()
	var l net.Listener
	b.outside.do(t, func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprintf("%s:%d", outsideAddr, outsidePort))
		return err
	})
	t.Cleanup(func() { l.Close() })
	conns := make(chan net.Conn, 1000)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns <- c // open until the process ends: only the host cuts them
		}
	}()
	return conns
}

// TestBridge gives VMs of root's the internet, each other and names, and leaves the host
// as it was.
func TestBridge(t *testing.T) {
	t.Parallel()
	b := bridge(t)
	h := b.home
	conns := b.serve(t)
	tiny := h.tiny(t)
	before, told := b.state(t), resolver(t)
	vm := h.create(t, "--name", "otter")
	near := h.create(t, "--name", "wombat", "--image", tiny)
	t.Run("shown", func(t *testing.T) {
		for _, vm := range []banger.VM{vm, near} {
			if n := vm.Network; n.Mode != "bridge" || !netip.MustParsePrefix("10.192.0.0/10").Contains(n.Address) || !n.NAT {
				t.Errorf("%s: %+v", vm.Name, n)
			}
		}
	})
	t.Run("another host's resolver", func(t *testing.T) {
		if now := resolver(t); now != told { // it would take the bridge for a link of its own
			t.Errorf("it was told of a link in another namespace: it was %s\nand is %s", told, now)
		}
	})
	t.Run("the helper is not root", func(t *testing.T) { b.helperIsNotRoot(t) })
	h.booted(t, vm.Name)
	t.Run("names and neighbours", func(t *testing.T) { neighbours(t, h, vm, near) })
	t.Run("the outside", func(t *testing.T) {
		h.sh(t, vm.Name, reachesLab)
		if from := (<-conns).RemoteAddr().(*net.TCPAddr).IP.String(); from != hostAddr {
			t.Errorf("outside sees %s, want the host's address", from)
		}
	})
	t.Run("the host is closed", func(t *testing.T) { b.hostIsClosed(t, vm) })
	t.Run("forged addresses", func(t *testing.T) { b.forge(t, vm, near) })
	t.Run("isolated", func(t *testing.T) { b.isolate(t, vm, near) })
	t.Run("egress off and on", func(t *testing.T) {
		toggles(t, h, vm, near, reachesLab)
		b.cut(t, vm)
	})
	t.Run("renumber", func(t *testing.T) { renumbered(t, h, vm, near, reachesLab) })
	t.Run("a VPN takes the subnet", func(t *testing.T) { b.vpn(t, vm, near) })
	t.Run("published to everybody", func(t *testing.T) { b.published(t, vm) })
	t.Run("kills", func(t *testing.T) { killed(t, h, vm, reachesLab) })
	t.Run("the host is as before", func(t *testing.T) { b.unchanged(t, before) })
	t.Run("beside Docker", func(t *testing.T) { b.besideDocker(t, tiny) })
}

func (b *bridged) helperIsNotRoot(t *testing.T) {
	p, err := helper.Find(b.dirs.Net())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{`(?m)^Uid:.*\b0\b`, `(?m)^Gid:.*\b0\b`, `(?m)^Cap(Eff|Prm|Inh|Amb):.*[1-9a-f]`} {
		if got := regexp.MustCompile(bad).Find(status); got != nil {
			t.Errorf("the helper has %s", got)
		}
	}
}

// hostIsClosed: of all sockets that listen on the host, a guest reaches only the one that
// answers for names.
func (b *bridged) hostIsClosed(t *testing.T, vm banger.VM) {
	b.host.do(t, func() error {
		l, err := net.Listen("tcp4", ":9999")
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	})
	gateway := b.sh(t, vm.Name, "ip route | awk '/^default/ { print $3 }'")
	ports := map[string]bool{}
	for line := range strings.Lines(b.host.sh(t, "ss -Hltn")) {
		at := strings.Fields(line)[3]
		ports[at[strings.LastIndex(at, ":")+1:]] = true
	}
	if !ports["9999"] || !ports["53"] {
		t.Fatalf("the host listens on %v", ports)
	}
	for port := range ports {
		for _, addr := range []string{gateway, hostAddr} {
			r := b.run(t.Context(), nil, "vm", "exec", vm.Name, "--", "sh", "-c", fmt.Sprintf("timeout 5 bash -c 'exec 3<>/dev/tcp/%s/%s'", addr, port))
			switch {
			case addr == gateway && port == "53":
				if r.code != 0 {
					t.Errorf("the resolver: exit %d: %s", r.code, r.stderr)
				}
			case r.code == 0 || r.code == 124:
				t.Errorf("%s:%s: exit %d, want to be refused", addr, port, r.code)
			}
		}
	}
}

// capture returns a socket that sees every frame of a link of the host.
func (b *bridged) capture(t *testing.T, link string) *os.File {
	t.Helper()
	var file *os.File
	b.host.do(t, func() error {
		all := uint16(unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8) // in the network's byte order
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(all))
		if err != nil {
			return err
		}
		file = os.NewFile(uintptr(fd), link)
		at, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: at.Index})
	})
	t.Cleanup(func() { file.Close() })
	return file
}

// forge sends packets from an address that the guest does not have. None leaves its TAP.
func (b *bridged) forge(t *testing.T, vm, near banger.VM) {
	seen := map[string]*os.File{"outside": b.capture(t, "h0"), near.Name: b.capture(t, network.Tap(near.ID))}
	marks := []byte("forged by a guest")
	b.sh(t, vm.Name, fmt.Sprintf(`ip addr add %s/32 dev eth0; ip addr add %s/32 dev eth0
exec python3 -c '
import socket
def send(source, to, what):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind((source, 0))
    s.sendto(what, (to, 9))
for to in ("%s", "%s"):
    for source in ("%[1]s", "%[2]s"):
        for _ in range(3): send(source, to, b"%[5]s")
    send("%[6]s", to, b"in order")
'`, forged, network.Gateway(netip.PrefixFrom(vm.Network.Address, network.PrefixBits)).Next().Next().Next().Next(), outsideAddr, near.Network.Address, marks, vm.Network.Address))
	for where, file := range seen {
		file.SetReadDeadline(time.Now().Add(10 * time.Second))
		for frame := make([]byte, 65536); ; {
			n, err := file.Read(frame)
			if err != nil {
				t.Errorf("%s: what was in order did not arrive: %v", where, err)
				break
			}
			if bytes.Contains(frame[:n], marks) {
				t.Errorf("%s: a forged packet arrived: %x", where, frame[:min(n, 64)])
			}
			if bytes.Contains(frame[:n], []byte("in order")) {
				break
			}
		}
	}
	b.sh(t, vm.Name, "ip addr flush dev eth0 to "+forged+"/32; ip -4 addr show dev eth0 | awk '/\\/32/ { print $2 }' | xargs -r -n 1 -I '{}' ip addr del '{}' dev eth0")
}

// isolate keeps VMs from each other while they run, and not from the outside.
func (b *bridged) isolate(t *testing.T, vm, near banger.VM) {
	ping := func(to string) int {
		return b.run(t.Context(), nil, "vm", "exec", vm.Name, "--", "ping", "-c", "1", "-W", "2", to).code
	}
	b.banger(t, "vm", "set", "--isolated", near.Name)
	if ping(near.Network.Address.String()) == 0 {
		t.Error("an isolated VM is reached")
	}
	b.sh(t, vm.Name, reachesLab)
	b.sh(t, near.Name, "ping -c 1 -W 10 "+outsideAddr)
	b.banger(t, "vm", "set", "--no-isolated", near.Name)
	if code := ping(near.Network.Address.String()); code != 0 {
		t.Errorf("not isolated any more: exit %d", code)
	}
}

// cut takes the outside from a guest that talks to it: the connection ends at once, and
// the session that says so does not.
func (b *bridged) cut(t *testing.T, vm banger.VM) {
	cmd := b.command(t.Context(), "vm", "exec", vm.Name, "--", "python3", "-uc", fmt.Sprintf(`
import socket, time
s = socket.create_connection(("%s", %d))
print("connected")
try:
    while True:
        s.sendall(b"x")
        time.sleep(0.05)
except OSError as e:
    print("cut", e)
print(input())
`, outsideAddr, outsidePort))
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	expect := func(prefix string) {
		t.Helper()
		if !lines.Scan() || !strings.HasPrefix(lines.Text(), prefix) {
			t.Fatalf("the session says %q, want %s", lines.Text(), prefix)
		}
	}
	expect("connected")
	b.banger(t, "vm", "set", "--no-nat", vm.Name)
	began := time.Now()
	expect("cut")
	if took := time.Since(began); took > time.Second*patience(t) {
		t.Errorf("the connection ended after %v", took)
	} else {
		t.Logf("cut after %v: %s", took.Round(time.Millisecond), lines.Text())
	}
	b.banger(t, "vm", "set", "--nat", vm.Name)
	b.sh(t, vm.Name, reachesLab)
	io.WriteString(in, "still here\n")
	expect("still here")
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// vpn: the host gets a route to a part of the VMs' subnet while they run. That is told at
// once, and renumber cures it.
func (b *bridged) vpn(t *testing.T, vm, near banger.VM) {
	h := b.home
	taken := netip.PrefixFrom(h.show(t, vm.Name).Network.Address, 24).Masked()
	conflict := "this host has a route to " + taken.String()
	doctor := func() string { return h.run(t.Context(), nil, "doctor").stdout }
	if said := doctor(); strings.Contains(said, "this host has a route") {
		t.Errorf("before it has: %s", said)
	}
	b.host.sh(t, fmt.Sprintf("ip link add vpn0 type veth peer name vpn1; ip link set vpn0 up; ip route add %s dev vpn0", taken))
	for _, name := range []string{vm.Name, near.Name} {
		until(t, 10*time.Second, "the conflict is told", func() bool {
			p := h.show(t, name).Problems
			return len(p) == 1 && p[0].Kind == banger.ProblemNetwork && strings.HasPrefix(p[0].Text, conflict) && p[0].Fix == "banger network renumber"
		})
	}
	if said := doctor(); !strings.Contains(said, conflict) || !strings.Contains(said, "banger network renumber") {
		t.Errorf("doctor does not tell: %s", said)
	}
	h.banger(t, "network", "renumber")
	if p := h.show(t, vm.Name); len(p.Problems) != 0 || taken.Contains(p.Network.Address) {
		t.Errorf("renumbered, it has %v, %+v", p.Network.Address, p.Problems)
	}
	if said := doctor(); strings.Contains(said, "this host has a route") {
		t.Errorf("doctor still tells: %s", said)
	}
	neighbours(t, h, vm, h.show(t, near.Name))
	h.sh(t, vm.Name, reachesLab)
	b.host.sh(t, "ip link del vpn0")
}

// besideDocker: Docker drops what it does not know, and has a chain for what others want.
func (b *bridged) besideDocker(t *testing.T, tiny string) {
	b.host.sh(t, "iptables -P FORWARD DROP; iptables -N DOCKER-USER; iptables -A DOCKER-USER -j RETURN; iptables -I FORWARD -j DOCKER-USER; sysctl -qw net.ipv4.ip_forward=1")
	before := b.state(t)
	vm := b.create(t, "--name", "whale", "--image", tiny)
	b.sh(t, vm.Name, "ping -c 1 -W 10 "+outsideAddr)
	b.banger(t, "vm", "delete", "--yes", "--force", vm.Name)
	b.unchanged(t, before)
}
