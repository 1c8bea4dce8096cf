package qemu

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/vmm"
)

// QEMU's events about a guest whose disk fails.
const (
	diskError = "BLOCK_IO_ERROR" // the host could not read or write
	stopped   = "STOP"           // the guest is paused
	resumed   = "RESUME"         // the guest continues
)

// diskErrorEvent is the data of QEMU's BLOCK_IO_ERROR event.
type diskErrorEvent struct {
	Device string `json:"device"` // a vmm.Role
	Action string `json:"action"`
	Reason string `json:"reason"` // the text of an errno
	Full   bool   `json:"nospace"`
}

// Values of diskErrorEvent.Action.
const (
	actionStop   = "stop"
	actionReport = "report" // the guest gets the error
)

// pause is the state of a guest that is paused because of a disk. The monitor's mu
// protects it.
type pause struct {
	on    bool
	again *time.Timer // tells the guest to continue
	over  *time.Timer // reports that it does

	resumeAfter, writesWithin time.Duration
}

// resumeAfter is the time from a pause to the next attempt: nothing tells when the
// disk works again. writesWithin bounds how long QEMU takes to repeat the writes of a
// guest that it has resumed: if none fails by then, the disk works.
const (
	resumeAfter  = 5 * time.Second
	writesWithin = time.Second
)

// diskFailed takes a BLOCK_IO_ERROR. The caller holds mu.
func (m *monitor) diskFailed(data json.RawMessage) {
	var event diskErrorEvent
	if json.Unmarshal(data, &event) != nil {
		return
	}
	failed := vmm.DiskError{Role: vmm.Role(event.Device), Errno: errnoOf(event.Reason, event.Full)}
	switch event.Action {
	case actionReport:
		m.disks.Failed(failed)
	case actionStop:
		failed.Paused = true
		m.paused(failed)
	}
}

// errnoOf returns the errno of an error's text.
func errnoOf(text string, full bool) unix.Errno {
	for _, errno := range []unix.Errno{unix.ENOSPC, unix.EDQUOT, unix.EFBIG} {
		if strings.EqualFold(text, errno.Error()) {
			return errno
		}
	}
	if full {
		return unix.ENOSPC
	}
	return unix.EIO
}

// paused notes that QEMU has paused the guest, and has it continue later. The caller
// holds mu.
func (m *monitor) paused(failed vmm.DiskError) {
	m.disks.Failed(failed)
	m.pause.on = true
	if m.pause.over != nil {
		m.pause.over.Stop()
	}
	if m.pause.again == nil {
		m.pause.again = time.AfterFunc(m.pause.resumeAfter, m.resume)
	}
}

// resume has the guest continue if it is paused.
func (m *monitor) resume() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pause.again != nil {
		m.pause.again.Stop()
		m.pause.again = nil
	}
	m.send(0, "cont", nil) // if the monitor is closed, the next daemon does it
}

// awaitWrites reports that the guest continues, unless a write fails soon. The caller
// holds mu.
func (m *monitor) awaitWrites() {
	if !m.pause.on {
		return
	}
	if m.pause.over != nil {
		m.pause.over.Stop()
	}
	var over *time.Timer
	over = time.AfterFunc(m.pause.writesWithin, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.pause.again == nil && m.pause.over == over {
			m.pause.on = false
			m.disks.Resumed()
		}
	})
	m.pause.over = over
}

// takeOver has a guest continue that was paused when the last daemon ended.
func (m *monitor) takeOver(ctx context.Context) error {
	if err := m.findFailed(ctx); err != nil {
		return err
	}
	m.resume()
	return nil
}

// findFailed asks QEMU for the disks that have paused the guest.
func (m *monitor) findFailed(ctx context.Context) error {
	var status struct {
		Status string `json:"status"`
	}
	if err := m.ask(ctx, "query-status", nil, &status); err != nil || status.Status != "io-error" {
		return err
	}
	var disks []struct {
		Device string `json:"device"`
		Status string `json:"io-status"` // "ok", "failed", "nospace"
	}
	if err := m.ask(ctx, "query-block", nil, &disks); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, disk := range disks {
		if disk.Status == "failed" || disk.Status == "nospace" {
			m.paused(vmm.DiskError{Role: vmm.Role(disk.Device), Errno: errnoOf("", disk.Status == "nospace"), Paused: true})
		}
	}
	return nil
}
