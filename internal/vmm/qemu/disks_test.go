package qemu

import (
	"bufio"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/vmm"
)

// scriptedMonitor is the QEMU end of a monitor.
type scriptedMonitor struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Scanner
}

// answers waits for a command, and writes the answers.
func (q *scriptedMonitor) answers(command string, answers ...string) {
	q.t.Helper()
	if !q.in.Scan() || !strings.Contains(q.in.Text(), command) {
		q.t.Errorf("got %q, want %s", q.in.Text(), command)
	}
	q.says(answers...)
}

func (q *scriptedMonitor) says(lines ...string) {
	for _, line := range lines {
		fmt.Fprintln(q.conn, line)
	}
}

// scripted returns a monitor, and QEMU's end of it. A guest that was paused is tried
// again after some time, and found to continue soon.
func scripted(t *testing.T, again time.Duration) (*monitor, *scriptedMonitor) {
	t.Helper()
	host, end := connected(t)
	end.SetDeadline(time.Now().Add(10 * time.Second))
	q := &scriptedMonitor{t, end, bufio.NewScanner(end)}
	go func() {
		q.says(greeting)
		q.answers("qmp_capabilities", `{"return": {}, "id": 1}`)
	}()
	m, err := openMonitor(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	m.mu.Lock()
	m.pause.resumeAfter, m.pause.writesWithin = again, 100*time.Millisecond
	m.mu.Unlock()
	t.Cleanup(m.close)
	return m, q
}

// awaitErrors waits until the monitor has these disk errors.
func awaitErrors(t *testing.T, m *monitor, want ...vmm.DiskError) {
	t.Helper()
	for {
		errs, changed := m.disks.DiskErrors()
		if slices.Equal(errs, want) {
			return
		}
		select {
		case <-changed:
		case <-time.After(10 * time.Second):
			t.Fatalf("disk errors %v, want %v", errs, want)
		}
	}
}

const (
	fullEvent  = `{"event": "BLOCK_IO_ERROR", "data": {"device": "overlay", "action": "stop", "nospace": true, "reason": "No space left on device"}}`
	stopEvent  = `{"event": "STOP"}`
	contAnswer = `{"event": "RESUME"}` + "\n" + `{"return": {}, "id": 0}`
)

var full = vmm.DiskError{Role: vmm.Overlay, Errno: unix.ENOSPC, Paused: true}

// A guest that is paused because the host's disk is full is told to continue until it
// can.
func TestMonitorResumes(t *testing.T) {
	m, q := scripted(t, time.Millisecond)
	for range 2 {
		q.says(fullEvent, fullEvent, fullEvent, stopEvent) // one error for each of its writes
		awaitErrors(t, m, full)
		q.answers("cont", contAnswer)
	}
	awaitErrors(t, m)
}

// A resumed guest whose next write fails was paused all the time.
func TestMonitorResumesInVain(t *testing.T) {
	m, q := scripted(t, time.Millisecond)
	q.says(fullEvent, stopEvent)
	awaitErrors(t, m, full)
	_, changed := m.disks.DiskErrors()
	for range 3 {
		q.answers("cont", contAnswer, fullEvent, stopEvent)
	}
	q.answers("cont", `{"return": {}, "id": 0}`)
	select {
	case <-changed:
		t.Error("the guest was reported to continue")
	default:
	}
}

func TestMonitorReportsErrors(t *testing.T) {
	m, q := scripted(t, time.Hour)
	event := `{"event": "BLOCK_IO_ERROR", "data": {"device": "%s", "action": "%s", "nospace": false, "reason": "%s"}}`
	q.says(fmt.Sprintf(event, "work", "report", "Input/output error"), fmt.Sprintf(event, "base", "ignore", "Input/output error"),
		fmt.Sprintf(event, "work", "report", "File too large"), fmt.Sprintf(event, "overlay", "stop", "Disk quota exceeded"), stopEvent)
	awaitErrors(t, m, vmm.DiskError{Role: vmm.Work, Errno: unix.EIO}, vmm.DiskError{Role: vmm.Overlay, Errno: unix.EDQUOT, Paused: true})
}

// A daemon finds the disk that has paused a guest before it came, and at the moment
// when it came.
func TestMonitorFindsErrors(t *testing.T) {
	found := func(q *scriptedMonitor, id int) {
		q.answers("query-status", fmt.Sprintf(`{"return": {"running": false, "status": "io-error"}, "id": %d}`, id))
		q.answers("query-block", fmt.Sprintf(`{"return": [{"device": "base", "io-status": "ok"}, {"device": "overlay", "io-status": "nospace"}], "id": %d}`, id+1))
	}
	t.Run("before", func(t *testing.T) {
		m, q := scripted(t, time.Hour)
		done := make(chan error, 1)
		go func() { done <- m.takeOver(t.Context()) }()
		found(q, 2)
		q.answers("cont", contAnswer)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		awaitErrors(t, m)
	})
	t.Run("then", func(t *testing.T) {
		m, q := scripted(t, time.Hour)
		q.says(stopEvent)
		found(q, 2)
		awaitErrors(t, m, full)
	})
}
