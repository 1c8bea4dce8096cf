package qemu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const greeting = `{"QMP": {"version": {"qemu": {"major": 9}}, "capabilities": []}}`

// serveMonitor is a monitor that gives these answers, one to each command.
func serveMonitor(t *testing.T, first string, answers ...string) net.Conn {
	t.Helper()
	host, qemu := net.Pipe()
	go func() {
		defer qemu.Close()
		fmt.Fprintln(qemu, first)
		in := bufio.NewScanner(qemu)
		for _, answer := range answers {
			if !in.Scan() {
				return
			}
			fmt.Fprintln(qemu, answer)
		}
	}()
	t.Cleanup(func() { host.Close() })
	return host
}

func TestMonitor(t *testing.T) {
	m, err := openMonitor(t.Context(), serveMonitor(t, greeting,
		`{"event": "RTC_CHANGE", "data": {}}`+"\n"+`{"return": {}, "id": 1}`,
		`{"return": {}, "id": 7}`+"\n"+`{"id": 2, "error": {"class": "GenericError", "desc": "Cannot find device"}}`,
		`{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}`+"\n"+`{"event": "SHUTDOWN", "data": {"guest": false, "reason": "host-signal"}}`))
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	if err := m.do(t.Context(), "block_resize", nil); err == nil || !strings.Contains(err.Error(), "Cannot find device") {
		t.Errorf("got %v", err)
	}
	if err := m.do(t.Context(), "stop", nil); !errors.Is(err, errMonitorClosed) {
		t.Errorf("got %v", err)
	}
	<-m.done
	if e := m.ending(); e == nil || e.Reason != "guest-reset" {
		t.Errorf("got %+v, want the first event", e)
	}
}

// A guest that opens a port is no news to QEMU's main loop: a command is.
func TestMonitorNudges(t *testing.T) {
	m, err := openMonitor(t.Context(), serveMonitor(t, greeting,
		`{"event": "VSERPORT_CHANGE", "data": {"open": true, "id": "banger.control"}}`+"\n"+`{"return": {}, "id": 1}`,
		`{"return": {"status": "running"}, "id": 0}`)) // the last: then the monitor closes
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	select {
	case <-m.done:
	case <-time.After(10 * time.Second):
		t.Error("no command came")
	}
}

// connected are two ends that take what is written before the other reads it, as
// those of QEMU's monitor do.
func connected(t *testing.T) (host, qemu net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ends := make([]net.Conn, len(fds))
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "monitor")
		defer file.Close() // the connection has a descriptor of its own
		if ends[i], err = net.FileConn(file); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ends[i].Close() })
	}
	return ends[0], ends[1]
}

func TestMonitorThatIsNone(t *testing.T) {
	for _, first := range []string{"hello", `{"return": {}}`, strings.Repeat("x", maxResponse+1)} {
		if _, err := openMonitor(t.Context(), serveMonitor(t, first)); err == nil {
			t.Errorf("%.20q was taken for a greeting", first)
		}
	}
	silent, other := net.Pipe()
	defer other.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := openMonitor(ctx, silent); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
