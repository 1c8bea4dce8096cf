package qemu

import (
	"context"
	"errors"
	"net"
	"strings"
	"time"

	"banger"
	"banger/internal/config"
	"banger/internal/guest/wire"
	"banger/internal/vmm"
	"banger/internal/vmm/process"
)

// machine implements vmm.Machine.
type machine struct {
	*process.Life
	dir     *process.Dir
	monitor *monitor
	control *lane // of its own, so that no bulk data delays the agent's messages
	streams *lane
}

// attach returns the machine of a QEMU process as soon as that answers. The machine owns
// proc and dir; after an error the caller does.
func attach(ctx context.Context, proc *process.Process, dir *process.Dir, log string) (*machine, error) {
	conn, err := dir.Dial(ctx, monitorSocket)
	if err != nil {
		return nil, err
	}
	mon, err := openMonitor(ctx, conn)
	if err != nil {
		return nil, err
	}
	if err := mon.takeOver(ctx); err != nil {
		mon.close()
		return nil, err
	}
	return &machine{dir: dir, monitor: mon, control: newLane(dir, controlSocket), streams: newLane(dir, streamsSocket),
		Life: process.NewLife(proc, func() vmm.Exit { return ending(mon, proc, dir.Path(log)) })}, nil
}

// endings maps QEMU's reasons to ours.
var endings = map[string]vmm.Reason{
	"guest-shutdown": vmm.ReasonPoweroff,
	"guest-reset":    vmm.ReasonReset,
	"guest-panic":    vmm.ReasonReset,
	"host-qmp-quit":  vmm.ReasonKilled,
	"host-signal":    vmm.ReasonSignal,
	"host-error":     vmm.ReasonFailed,
}

func ending(mon *monitor, proc *process.Process, log string) vmm.Exit {
	<-mon.done // its last event may still arrive
	if event := mon.ending(); event != nil {
		if reason, known := endings[event.Reason]; known {
			return vmm.Exit{Reason: reason, Detail: event.Reason}
		}
		return vmm.Exit{Reason: vmm.ReasonUnknown, Detail: event.Reason}
	}
	exit := proc.Exit()
	if exit.Reason == vmm.ReasonFailed {
		if said := lastWords(log, 0); said != "" {
			exit.Detail += ": " + said
		}
	}
	return exit
}

// saysSignal begins the log line of a QEMU that a signal ends. Other ends have none.
const saysSignal = "terminating on "

// Ending implements vmm.Driver.
func (d *Driver) Ending(dir string) vmm.Exit {
	if by, found := strings.CutPrefix(lastWords(config.VMDir(dir).VMMLog(Name), 0), saysSignal); found {
		return vmm.Exit{Reason: vmm.ReasonSignal, Detail: by}
	}
	return vmm.Exit{Reason: vmm.ReasonUnknown}
}

// Dial implements vmm.Machine.
func (m *machine) Dial(ctx context.Context, port int) (net.Conn, error) {
	ctx, cancel := m.While(ctx)
	defer cancel()
	lane := m.streams
	if port == wire.PortControl {
		lane = m.control
	}
	conn, err := lane.dial(ctx, port)
	if over := m.Over(); err != nil && over != nil {
		return nil, over
	}
	return conn, err
}

// Grow implements vmm.Machine.
func (m *machine) Grow(ctx context.Context, role vmm.Role, size banger.Size) error {
	return m.monitor.do(ctx, "block_resize", struct {
		Device string `json:"device"`
		Size   int64  `json:"size"`
	}{string(role), int64(size)})
}

// DiskErrors implements vmm.Machine.
func (m *machine) DiskErrors() ([]vmm.DiskError, <-chan struct{}) {
	return m.monitor.disks.DiskErrors()
}

// SetMemory implements vmm.Machine.
func (m *machine) SetMemory(ctx context.Context, size banger.Size) error {
	now, err := m.Memory(ctx)
	if err == nil {
		err = now.CheckMemory(size)
	}
	if err != nil {
		return err
	}
	return m.monitor.do(ctx, "balloon", struct {
		Value int64 `json:"value"`
	}{int64(size)})
}

// Memory implements vmm.Machine.
func (m *machine) Memory(ctx context.Context) (vmm.Memory, error) {
	var launched struct {
		Base int64 `json:"base-memory"`
	}
	var left struct {
		Actual int64 `json:"actual"`
	}
	if err := m.monitor.ask(ctx, "query-memory-size-summary", nil, &launched); err != nil {
		return vmm.Memory{}, err
	}
	if err := m.monitor.ask(ctx, "query-balloon", nil, &left); err != nil {
		return vmm.Memory{}, err
	}
	return vmm.Memory{Launched: banger.Size(launched.Base), Balloon: banger.Size(max(0, launched.Base-left.Actual)), Told: true}, nil
}

// Close implements vmm.Machine.
func (m *machine) Close() error {
	err := m.Life.Close() // first: it ends the calls that wait for the guest
	m.control.close()
	m.streams.close()
	m.monitor.close()
	return errors.Join(err, m.dir.Close())
}

// lastWords returns the last line that QEMU wrote to its log after the offset from.
func lastWords(path string, from int64) string {
	lines := process.LastLines(path, from)
	if len(lines) == 0 {
		return ""
	}
	line := lines[len(lines)-1]
	if stamp, rest, ok := strings.Cut(line, " "); ok {
		if _, err := time.Parse(time.RFC3339Nano, stamp); err == nil {
			line = rest
		}
	}
	return strings.TrimPrefix(line, binary+": ")
}
