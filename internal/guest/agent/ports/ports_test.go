package ports

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guest/wire"
)

// listenElsewhere listens in a process of its own, since those of this one do not
// count. It returns the port and what ends the listener.
func listenElsewhere(t *testing.T, network, address string, more ...syscall.SysProcAttr) (uint16, func()) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestListener$")
	cmd.Env = append(os.Environ(), "BANGER_TEST_LISTEN="+network+" "+address)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	for _, a := range more {
		cmd.SysProcAttr = &a
	}
	hold, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skipf("needs another process: %v", err)
	}
	end := func() { hold.Close(); cmd.Wait() }
	t.Cleanup(end)
	var port uint16
	if _, err := fmt.Fscanf(out, "listening on %d\n", &port); err != nil {
		t.Skipf("cannot listen on %s %s: %v", network, address, err)
	}
	return port, end
}

// TestListener is the process of listenElsewhere.
func TestListener(t *testing.T) {
	network, address, asked := strings.Cut(os.Getenv("BANGER_TEST_LISTEN"), " ")
	if !asked {
		return
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("listening on %d\n", l.Addr().(*net.TCPAddr).Port)
	os.Stdin.Read(make([]byte, 1))
	l.Close()
}

func find(p wire.Ports, port uint16) *wire.Listener {
	for _, l := range p.Listeners {
		if l.Port == port {
			return &l
		}
	}
	return nil
}

func TestLookFindsWhatListens(t *testing.T) {
	w := NewWatch(nil)
	for _, c := range []struct {
		network, address, shown string
		dual                    bool
	}{
		{"tcp4", "127.0.0.1:0", "127.0.0.1", false}, {"tcp4", "0.0.0.0:0", "0.0.0.0", false}, {"tcp4", "127.0.0.9:0", "127.0.0.9", false},
		{"tcp6", "[::1]:0", "::1", false}, {"tcp6", "[::]:0", "::", false}, {"tcp", "[::]:0", "::", true},
	} {
		t.Run(c.network+" "+c.address, func(t *testing.T) {
			port, end := listenElsewhere(t, c.network, c.address)
			now, err := w.Look()
			if err != nil {
				t.Skipf("needs sock_diag: %v", err)
			}
			want := wire.Listener{Port: port, Addr: netip.MustParseAddr(c.shown), Dual: c.dual}
			if got := find(now, port); got == nil || *got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
			end()
			if now, err := w.Look(); err != nil || find(now, port) != nil {
				t.Errorf("after its end: %+v, %v", now, err)
			}
		})
	}
}

func TestOwnListenersDoNotCount(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	now, err := NewWatch(nil).Look()
	if err != nil {
		t.Skipf("needs sock_diag: %v", err)
	}
	if got := find(now, uint16(l.Addr().(*net.TCPAddr).Port)); got != nil {
		t.Errorf("got %+v", got)
	}
}

func TestFollowTellsOfChanges(t *testing.T) {
	events := openElsewhere(t)
	told := make(chan wire.Ports, 100)
	w := NewWatch(func(p wire.Ports) { told <- p })
	go w.follow(events)
	first := <-told
	if first.Unwatched != "" {
		t.Fatalf("unwatched: %s", first.Unwatched)
	}
	port, end := listenElsewhere(t, "tcp4", "127.0.0.1:0")
	got := waitFor(t, told, func(p wire.Ports) bool { return find(p, port) != nil })
	if l := find(got, port); l.Program != "exe" && !strings.HasPrefix(l.Program, "ports.test") {
		t.Errorf("its program is %q", l.Program)
	}
	conn, err := net.Dial("tcp4", "127.0.0.1:"+strconv.Itoa(int(port)))
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	end()
	waitFor(t, told, func(p wire.Ports) bool { return find(p, port) == nil })
	if known := w.Known(); known == nil || find(*known, port) != nil {
		t.Errorf("known: %+v", known)
	}

	// A listener in a container does not belong to the guest.
	inside, _ := listenElsewhere(t, "tcp4", "0.0.0.0:0", syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL})
	after, _ := listenElsewhere(t, "tcp4", "127.0.0.1:0")
	if got := waitFor(t, told, func(p wire.Ports) bool { return find(p, after) != nil }); find(got, inside) != nil && inside != after {
		t.Errorf("a container's port %d is told: %+v", inside, got)
	}
}

func waitFor(t *testing.T, told <-chan wire.Ports, is func(wire.Ports) bool) wire.Ports {
	t.Helper()
	for limit := time.After(30 * time.Second); ; {
		select {
		case p := <-told:
			if is(p) {
				return p
			}
		case <-limit:
			t.Fatal("no event")
		}
	}
}

// openElsewhere returns the kernel's events as they come to a process of their own:
// nothing but its end ends the wait for the next one.
func openElsewhere(t *testing.T) io.Reader {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, to mount tracefs")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestEvents$")
	cmd.Env = append(os.Environ(), "BANGER_TEST_EVENTS=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		removeInstance(t)
	})
	lines := bufio.NewReader(out)
	if ready, err := lines.ReadString('\n'); err != nil || ready != "ready\n" {
		t.Skipf("needs a kernel with tracing: %s", ready)
	}
	return lines
}

// TestEvents is the process of openElsewhere.
func TestEvents(t *testing.T) {
	if os.Getenv("BANGER_TEST_EVENTS") == "" {
		return
	}
	events, err := openEvents()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("ready")
	io.Copy(os.Stdout, events)
}

func removeInstance(t *testing.T) {
	fs, err := mountTracing()
	if err != nil {
		return
	}
	defer unix.Close(fs)
	if err := unix.Unlinkat(fs, tracing, unix.AT_REMOVEDIR); err != nil && err != unix.ENOENT {
		t.Errorf("remove the tracing instance: %v", err)
	}
}

func TestConnectionsAreNoHints(t *testing.T) {
	events := openElsewhere(t)
	port, end := listenElsewhere(t, "tcp4", "127.0.0.1:0")
	for range 20 {
		conn, err := net.Dial("tcp4", "127.0.0.1:"+strconv.Itoa(int(port)))
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	end()
	// The listener's end comes last, so all that it caused is there to be read.
	var heard []string
	ours := fmt.Sprintf(" sport=%d ", port)
	for lines := bufio.NewReader(events); len(heard) == 0 || !strings.Contains(heard[len(heard)-1], "newstate=TCP_CLOSE"); {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(line, ours) {
			heard = append(heard, line)
		}
	}
	if len(heard) != 2 {
		t.Errorf("heard %q", heard)
	}
}

func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hints := make(chan struct{}, 1)
		var looks atomic.Int32
		done := make(chan struct{})
		go func() { pace(hints, func() { looks.Add(1) }); close(done) }()
		hint := func() {
			select {
			case hints <- struct{}{}:
			default:
			}
		}
		hint()
		synctest.Wait()
		if looks.Load() != 1 {
			t.Errorf("%d looks at once after the first hint", looks.Load())
		}
		for range 1000 {
			hint()
		}
		synctest.Wait()
		if looks.Load() != 1 {
			t.Errorf("%d looks in a burst", looks.Load())
		}
		time.Sleep(calm)
		synctest.Wait()
		if looks.Load() != 3 { // the one that ends the calm, and the burst's
			t.Errorf("%d looks after the calm", looks.Load())
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if looks.Load() != 4 {
			t.Errorf("%d looks in idleness", looks.Load())
		}
		close(hints)
		<-done
	})
}

func TestReportIsBounded(t *testing.T) {
	var found []socket
	for i := range 2 * wire.MaxListeners {
		s := socket{Listener: wire.Listener{Port: uint16(1 + i), Addr: netip.IPv4Unspecified()}}
		found = append(found, s, s)
	}
	slices.Reverse(found)
	p := report(found, map[uint16]string{1: "first"})
	if len(p.Listeners) != wire.MaxListeners || !p.More || p.Listeners[0].Program != "first" || p.Listeners[1].Port != 2 {
		t.Errorf("%d, more: %v, %+v", len(p.Listeners), p.More, p.Listeners[:2])
	}
	if p := report(found[:2], nil); len(p.Listeners) != 1 || p.More {
		t.Errorf("got %+v", p)
	}
}

func TestParseEvent(t *testing.T) {
	const rest = " [001] ..... 12.345678: inet_sock_set_state: family=AF_INET protocol=IPPROTO_TCP sport=3000 dport=0 saddr=127.0.0.1 daddr=0.0.0.0 oldstate=TCP_CLOSE newstate=TCP_LISTEN\n"
	for line, want := range map[string]int{
		"           <...>-1234   " + rest: 1234, "  evil-9 [000] x-77     " + rest: 77, "": 0, "\n": 0, rest: 0,
		"           <...>-1234   " + strings.Replace(rest, "TCP_LISTEN", "TCP_CLOSE", 1): 0,
		"           <...>-1234   " + strings.Replace(rest, "sport=3000", "sport=0", 1):   0,
		"           <...>--5     " + rest:                                                0,
	} {
		pid, port, ok := parseEvent([]byte(line))
		if ok != (want != 0) || ok && (pid != want || port != 3000) {
			t.Errorf("%q: %d, %d, %v", line, pid, port, ok)
		}
	}
}

func TestProgramsAreForgotten(t *testing.T) {
	w := NewWatch(nil)
	for port := range wire.MaxListeners + 3 {
		w.name(os.Getpid(), uint16(port+1))
	}
	if len(w.programs) != wire.MaxListeners || w.programs[1] == "" {
		t.Errorf("%d programs, the first is %q", len(w.programs), w.programs[1])
	}
	w.forget(nil)
	if len(w.programs) != 0 {
		t.Errorf("%v", w.programs)
	}
	if got := printable([]byte("\x1b]52;näme of a long one\n")); got != "]52;nme of a lo" {
		t.Errorf("got %q", got)
	}
}

// FuzzParse: whatever an answer is, it is read within its bounds.
func FuzzParse(f *testing.F) {
	f.Add(answer(unix.AF_INET, 80, []byte{127, 0, 0, 1}, nil))
	f.Add(answer(unix.AF_INET6, 80, make([]byte, 16), []byte{5, 0, attrOnly6, 0, 1, 0, 0, 0}))
	f.Add(answer(unix.AF_INET6, 80, make([]byte, 16), []byte{0, 0, attrOnly6, 0}))
	f.Add(answer(unix.AF_INET6, 80, make([]byte, 16), []byte{255, 255}))
	f.Fuzz(func(t *testing.T, b []byte) {
		found, _, err := parse(b)
		if err != nil && found != nil {
			t.Error("sockets with an error")
		}
		for _, s := range found {
			if s.Port == 0 || !s.Addr.IsValid() || s.Addr.Zone() != "" || s.Addr.Is4In6() {
				t.Errorf("%+v", s)
			}
		}
	})
}

func answer(family byte, port uint16, addr, attributes []byte) []byte {
	body := make([]byte, sizeofMsg)
	body[0], body[offState] = family, tcpListen
	binary.BigEndian.PutUint16(body[offPort:], port)
	copy(body[offAddr:], addr)
	body = append(body, attributes...)
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	b = binary.NativeEndian.AppendUint16(b, sockDiagByFamily)
	return append(append(b, make([]byte, 10)...), body...)
}

func FuzzParseEvent(f *testing.F) {
	f.Add([]byte("           <...>-1234    [001] x: sport=3000 newstate=TCP_LISTEN\n"))
	f.Fuzz(func(t *testing.T, line []byte) {
		if pid, port, ok := parseEvent(line); ok && (pid <= 0 || port == 0) {
			t.Errorf("%q: %d, %d", line, pid, port)
		}
	})
}
