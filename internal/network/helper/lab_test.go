package helper

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"banger/internal/config"
	"banger/internal/network"
	"banger/internal/network/apply"
	"banger/internal/network/networktest"
)

// labEnv names the test that the test binary runs in namespaces of its own.
const labEnv = "BANGER_TEST_LAB"

// inLab runs the rest of a test in a new user and network namespace: in another process,
// whose end removes everything. It reports whether this is that process.
func inLab(t *testing.T) bool {
	t.Helper()
	if os.Getenv(labEnv) == t.Name() {
		return true
	}
	args := []string{"-test.run=^" + t.Name() + "$", "-test.v"}
	if at, limited := t.Deadline(); limited {
		args = append(args, "-test.timeout="+time.Until(at).String())
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.SysProcAttr = networktest.Attributes()
	cmd.Env = append(os.Environ(), labEnv+"="+t.Name())
	var said strings.Builder
	cmd.Stdout = io.MultiWriter(os.Stdout, &said) // a long test shows how far it is
	cmd.Stderr = cmd.Stdout
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	runtime.LockOSThread() // the process ends with this thread
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		t.Skipf("this host gives no user and network namespaces: %v; fix: banger doctor", err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("in its namespace: %v", err)
	}
	if strings.Contains(said.String(), "--- SKIP") {
		t.Skip("skipped in its namespace")
	}
	return false
}

// lab is an instance's helper between guests and the outside: three network namespaces
// with real kernels. The helper runs in the one between, which plays the host.
//
//	guests 10.201.16.2, .3 --uplink-- helper, host 192.0.2.1 --veth-- server 192.0.2.2
type lab struct {
	guests, server *networktest.Namespace
	helper         *exec.Cmd
}

const labServer = "192.0.2.2"

var labGuests = []netip.Addr{netip.MustParseAddr("10.201.16.2"), netip.MustParseAddr("10.201.16.3")}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{guests: networktest.New(t), server: networktest.New(t)}
	must(t, l.outside())
	instance := network.Instance("0123abcd")
	var uplink *os.File
	must(t, l.guests.Do(func() (err error) {
		if uplink, err = apply.OpenUplink(instance); err != nil {
			return err
		}
		for _, guest := range labGuests {
			err = errors.Join(err, setAddr("lo", guest.String()+"/32"))
		}
		return err
	}))
	defer uplink.Close()
	l.start(t, instance, uplink)
	return l
}

// start starts the helper.
func (l *lab) start(t *testing.T, i network.Instance, uplink *os.File) {
	t.Helper()
	dir := config.NetDir(t.TempDir())
	state := State{Instance: i, Mode: network.Usernet, Subnet: usernetSubnet, Needed: []int{os.Getpid()}}
	must(t, WriteState(dir, state))
	lock, err1 := os.Create(dir.Lock())
	log, err2 := os.Create(dir.Log())
	ready, theirs, err3 := os.Pipe()
	must(t, errors.Join(err1, err2, err3))
	defer lock.Close()
	defer log.Close()
	defer ready.Close()
	l.helper = exec.Command("/proc/self/exe", Role, "uplink", "ready", "lock")
	l.helper.ExtraFiles = []*os.File{uplink, theirs, lock}
	l.helper.Env, l.helper.Dir, l.helper.Stderr = environ, string(dir), log
	must(t, l.helper.Start())
	theirs.Close()
	t.Cleanup(func() {
		l.helper.Process.Signal(unix.SIGTERM)
		if err := l.helper.Wait(); err != nil {
			t.Errorf("the helper: %v", err)
		}
		if text, err := os.ReadFile(dir.Log()); err == nil && t.Failed() {
			t.Logf("the helper's log:\n%s", text)
		}
	})
	if said, err := io.ReadAll(ready); err != nil || string(said) != served {
		t.Fatalf("the helper says %q, %v", said, err)
	}
}

// outside connects the host with the server.
func (l *lab) outside() error {
	var pid int
	if err := l.server.Do(func() error { pid = unix.Gettid(); return nil }); err != nil {
		return err
	}
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "h0"}, PeerName: "s0", PeerNamespace: netlink.NsPid(pid)}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("add a veth pair: %w", err)
	}
	return errors.Join(setAddr("lo"), setAddr("h0", "192.0.2.1/24"),
		l.server.Do(func() error { return setAddr("s0", labServer+"/24") }))
}

func setAddr(link string, addrs ...string) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	for _, text := range addrs {
		addr, err := netlink.ParseAddr(text)
		if err == nil {
			err = netlink.AddrAdd(l, addr)
		}
		if err != nil {
			return fmt.Errorf("add %s to %s: %w", text, link, err)
		}
	}
	return netlink.LinkSetUp(l)
}

// memory returns how much the helper has resident, in MiB: now, or the most until now.
func (l *lab) memory(t *testing.T, field string) float64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", l.helper.Process.Pid))
	must(t, err)
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, field+":"); found {
			kB, err := strconv.ParseFloat(strings.Fields(value)[0], 64)
			must(t, err)
			return kB / 1024
		}
	}
	t.Fatalf("no %s in %s", field, text)
	return 0
}

// dial connects a guest with the outside.
func (l *lab) dial(guest netip.Addr, network, addr string) (conn net.Conn, err error) {
	dialer := net.Dialer{Timeout: 20 * time.Second, LocalAddr: &net.TCPAddr{IP: guest.AsSlice()}}
	if network == "udp4" {
		dialer.LocalAddr = &net.UDPAddr{IP: guest.AsSlice()}
	}
	err = l.guests.Do(func() (err error) {
		conn, err = dialer.Dial(network, addr)
		return err
	})
	return conn, err
}

// serve serves each connection to a port of the server's, whose address it returns.
func (l *lab) serve(t *testing.T, handle func(net.Conn)) string {
	t.Helper()
	var listener net.Listener
	must(t, l.server.Do(func() (err error) {
		listener, err = net.Listen("tcp4", labServer+":0")
		return err
	}))
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { defer conn.Close(); handle(conn) }()
		}
	}()
	return listener.Addr().String()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
