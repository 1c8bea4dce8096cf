package qemu

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/guest/wire"
	"banger/internal/vmm"
)

// machine implements vmm.Machine.
type machine struct {
	proc    *vmm.Process
	dir     *vmm.Dir
	log     string
	monitor *monitor
	control *lane // so that no bulk delays what the agent has to say
	streams *lane

	life  context.Context // ends with the VMM, or with Close
	leave context.CancelCauseFunc
	ended chan struct{}
	exit  vmm.Exit // set before ended is closed
}

var (
	errEnded  = errors.New("the VMM has ended")
	errClosed = errors.New("the VM was let go")
)

// attach makes a machine of a QEMU process as soon as it answers. The machine
// owns proc and dir, if there is one.
func attach(ctx context.Context, proc *vmm.Process, dir *vmm.Dir, log string) (*machine, error) {
	conn, err := dir.Dial(ctx, monitorSocket)
	if err != nil {
		return nil, err
	}
	mon, err := openMonitor(ctx, conn)
	if err != nil {
		return nil, err
	}
	m := &machine{proc: proc, dir: dir, log: log, monitor: mon, ended: make(chan struct{}),
		control: newLane(dir, controlSocket), streams: newLane(dir, streamsSocket)}
	m.life, m.leave = context.WithCancelCause(context.Background())
	go m.watch()
	return m, nil
}

func (m *machine) watch() {
	select {
	case <-m.life.Done():
		return
	case <-m.proc.Done():
	}
	<-m.monitor.done // its last event may still be on the way
	m.exit = m.ending()
	m.leave(errEnded)
	close(m.ended)
}

// endings are the reasons that QEMU gives.
var endings = map[string]vmm.Reason{
	"guest-shutdown": vmm.ReasonPoweroff,
	"guest-reset":    vmm.ReasonReset,
	"guest-panic":    vmm.ReasonReset,
	"host-qmp-quit":  vmm.ReasonKilled,
	"host-signal":    vmm.ReasonSignal,
	"host-error":     vmm.ReasonFailed,
}

func (m *machine) ending() vmm.Exit {
	if event := m.monitor.ending(); event != nil {
		if reason, known := endings[event.Reason]; known {
			return vmm.Exit{Reason: reason, Detail: event.Reason}
		}
		return vmm.Exit{Reason: vmm.ReasonUnknown, Detail: event.Reason}
	}
	exit := m.proc.Exit()
	if exit.Reason == vmm.ReasonFailed {
		if said := lastWords(m.dir.Path(m.log), 0); said != "" {
			exit.Detail += ": " + said
		}
	}
	return exit
}

// PID implements vmm.Machine.
func (m *machine) PID() int { return m.proc.PID() }

// Dial implements vmm.Machine.
func (m *machine) Dial(ctx context.Context, port int) (net.Conn, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(m.life, func() { cancel(context.Cause(m.life)) })()
	lane := m.streams
	if port == wire.PortControl {
		lane = m.control
	}
	conn, err := lane.dial(ctx, port)
	if err != nil && m.life.Err() != nil {
		return nil, context.Cause(m.life)
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
	return vmm.Memory{Launched: banger.Size(launched.Base), Balloon: banger.Size(max(0, launched.Base-left.Actual))}, nil
}

// Kill implements vmm.Machine.
func (m *machine) Kill() error { return m.proc.Kill() }

// Signal implements vmm.Machine.
func (m *machine) Signal(signal unix.Signal) error { return m.proc.Signal(signal) }

// Ended implements vmm.Machine.
func (m *machine) Ended() <-chan struct{} { return m.ended }

// Exit implements vmm.Machine.
func (m *machine) Exit() vmm.Exit { return m.exit }

// Close implements vmm.Machine.
func (m *machine) Close() error {
	m.leave(errClosed)
	m.control.close()
	m.streams.close()
	m.monitor.close()
	return errors.Join(m.proc.Close(), m.dir.Close())
}

// wordsTail is how much of a log's end is looked at.
const wordsTail = 8 << 10

// lastWords is the last line that QEMU wrote to its log after from.
func lastWords(path string, from int64) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil {
		from = max(from, info.Size()-wordsTail)
	}
	data, err := io.ReadAll(io.NewSectionReader(file, from, wordsTail))
	if err != nil {
		return ""
	}
	lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	line := strings.TrimSpace(string(lines[len(lines)-1]))
	if stamp, rest, ok := strings.Cut(line, " "); ok {
		if _, err := time.Parse(time.RFC3339Nano, stamp); err == nil {
			line = rest
		}
	}
	return strings.TrimPrefix(line, binary+": ")
}
