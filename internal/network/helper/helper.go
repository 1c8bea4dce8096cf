// Package helper is banger-net, the process that serves an instance's guests: their
// resolver and, for a plain user, their TCP/IP stack. It owns the process: how the daemon
// starts, finds, tells and ends it, and how long it lives. It runs without a daemon as
// long as a VM does, and learns everything from one file.
//
// It does not own names and addresses (package dns), packets (package stack), or the
// links and rules that bring packets to it (package apply).
package helper

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/config"
	"banger/internal/durable"
	"banger/internal/linux"
	"banger/internal/network"
	"banger/internal/vmm"
	"banger/internal/vmm/process"
)

// Role is the first argument that makes bangerd the helper.
const Role = "net"

// port is where guests expect a resolver.
const port = 53

// Config is what a helper is started with.
type Config struct {
	Dir   config.NetDir // made if it is missing
	State State         // written to Dir first

	// Uplink is the open TAP that the guests of usernet are behind. Start does not
	// close it.
	Uplink *os.File

	// Account is who the helper runs as if this process is root, which it never does.
	Account process.Account

	Log *slog.Logger

	port    uint16                 // instead of 53, in tests
	started func(*process.Process) // called before the helper serves, in tests; may be nil
}

// environ is the helper's whole environment: it collects garbage early, since it is
// there as long as the VMs are. The limit is above what it needs on an ordinary day: close
// to it Go does little else than to collect. One processor is enough: several goroutines
// serve each packet, and waking another processor costs more than it brings.
var environ = []string{"GOGC=50", "GOMEMLIMIT=64MiB", "GOMAXPROCS=1", "GORACE=atexit_sleep_ms=0"}

// ErrRuns means that the instance has a helper.
var ErrRuns = errors.New("the network's helper runs already")

// Start starts the helper of an instance and returns it once it serves. If there is one,
// the error is ErrRuns. The helper lives on when the caller ends.
func Start(ctx context.Context, c Config) (_ *process.Process, err error) {
	if os.Geteuid() == 0 && !c.Account.Is() {
		return nil, errors.New("start the network's helper: root needs an account for it")
	}
	dir, err := c.prepare()
	if err != nil {
		return nil, fmt.Errorf("start the network's helper: %w", err)
	}
	defer dir.Close()
	lock, err := vmm.Lock(c.Dir.Lock()) // the helper inherits it
	if errors.Is(err, vmm.ErrLocked) {
		return nil, ErrRuns
	}
	if err != nil {
		return nil, fmt.Errorf("start the network's helper: %w", err)
	}
	defer lock.Close()
	if err := WriteState(c.Dir, c.State); err != nil {
		return nil, err
	}
	log, err := openLog(c.Dir)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	in := inheritance{}
	defer in.close()
	if err := c.endow(&in); err != nil {
		return nil, err
	}
	in.add("lock", lock)
	p, err := c.launch(ctx, dir, log, in)
	if errors.Is(err, errKilled) { // once more, or a VM would run without its network
		p, err = c.launch(ctx, dir, log, in)
	}
	return p, err
}

// errKilled means that somebody killed a helper before it served.
var errKilled = errors.New("it was killed before it served")

// prepare makes the helper's directory, and opens it.
func (c Config) prepare() (*process.Dir, error) {
	if err := durable.MkdirAll(string(c.Dir), 0o700); err != nil {
		return nil, err
	}
	above, err := process.OpenDir(filepath.Dir(string(c.Dir)))
	if err != nil {
		return nil, err
	}
	defer above.Close()
	// What is made in it belongs to the account's group, too.
	if err := c.Account.AdmitTo(above, filepath.Base(string(c.Dir)), os.ModeSetgid|0o750); err != nil {
		return nil, err
	}
	return process.OpenDir(string(c.Dir))
}

// endow adds the sockets and devices that only the daemon can open.
func (c Config) endow(in *inheritance) error {
	switch {
	case c.State.Mode == network.Usernet && c.Uplink == nil:
		return errors.New("start the network's helper: no uplink")
	case c.State.Mode == network.Usernet:
		in.add("uplink", c.Uplink)
	default:
		at := netip.AddrPortFrom(network.Gateway(c.State.Subnet), cmp.Or(c.port, port))
		if err := in.listen("guests", at); err != nil {
			return &banger.Error{Kind: banger.Unready, What: "serve names to VMs", Why: err, Fix: fmt.Sprintf("sudo ss -lnp 'sport = :%d' shows who listens there: end it, or have it listen on other addresses only", at.Port())}
		}
	}
	if err := in.listen("host", HostAddr(c.State.Instance)); err != nil {
		c.Log.Warn("this host cannot look up names of VMs", "err", err)
	}
	return nil
}

// launch starts the process and waits until it serves.
func (c Config) launch(ctx context.Context, dir *process.Dir, log *os.File, in inheritance) (*process.Process, error) {
	ready, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer ready.Close()
	p, err := dir.Start(process.Command{
		Program: "/proc/self/exe", Name: "bangerd", Args: append([]string{Role, "ready"}, in.names...), Env: environ, Output: log,
		Inherit: append([]*os.File{theirs}, in.files...), Account: c.Account,
	})
	theirs.Close()
	if err != nil {
		return nil, err
	}
	if c.started != nil {
		c.started(p)
	}
	defer linux.InterruptAfter(ctx, ready)()
	said, err := io.ReadAll(io.LimitReader(ready, 4096))
	if err == nil && string(said) == served {
		return p, nil
	}
	if err == nil && len(said) == 0 {
		<-p.Done() // it says something before it ends by itself
	}
	killed := ended(p) && p.Exit().Reason == vmm.ReasonSignal
	p.End()
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case len(said) > 0:
		err = errors.New(strings.TrimSpace(string(said)))
	case killed:
		err = errKilled
	case err == nil:
		err = errors.New("it ended before it served")
	}
	return nil, &banger.Error{Kind: banger.Unready, What: "start the network's helper", Why: err, Fix: "read " + c.Dir.Log()}
}

func ended(p *process.Process) bool {
	select {
	case <-p.Done():
		return true
	default:
		return false
	}
}

// Current reports whether a helper runs this program, and not the one of a daemon from
// before an upgrade. One that cannot be asked counts as current.
func Current(p *process.Process) bool {
	theirs, err1 := os.Stat(fmt.Sprintf("/proc/%d/exe", p.PID()))
	ours, err2 := os.Stat("/proc/self/exe")
	return err1 != nil || err2 != nil || os.SameFile(theirs, ours)
}

// Find returns the helper that runs in dir, or vmm.ErrGone.
func Find(dir config.NetDir) (*process.Process, error) { return process.OpenHolder(dir.Lock()) }

// endTime is how long a helper may take to end.
const endTime = 5 * time.Second

// End ends a helper, and returns when it is gone. Guests' connections through the stack
// end with it.
func End(p *process.Process) error {
	if err := p.Signal(unix.SIGTERM); err != nil {
		return err
	}
	defer p.Close()
	select {
	case <-p.Done():
		return nil
	case <-time.After(endTime):
		return p.End()
	}
}

// HostAddr returns where the helper answers this host about names of VMs, by UDP and TCP:
// a loopback address of the instance's own, and a port that a plain user may have.
func HostAddr(i network.Instance) netip.AddrPort {
	mac := i.BridgeMAC() // its last four bytes are the instance
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 53, mac[2], mac[3]}), 5360+uint16(mac[4])%32)
}

// inheritance are the descriptors that a helper gets, by name, from 3 on.
type inheritance struct {
	names []string
	files []*os.File
	own   []*os.File // to close
}

func (in *inheritance) add(name string, file *os.File) {
	in.names, in.files = append(in.names, name), append(in.files, file)
}

func (in *inheritance) close() {
	for _, file := range in.own {
		file.Close()
	}
}

// What a socket's name ends in.
const (
	packets = ".udp"
	streams = ".tcp"
)

// listen adds sockets that listen by UDP and TCP, or nothing.
func (in *inheritance) listen(name string, at netip.AddrPort) error {
	// The bridge may come later, or go and come again.
	free := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		failed := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1) })
		return errors.Join(failed, os.NewSyscallError("setsockopt", err))
	}}
	udp, err := free.ListenPacket(context.Background(), "udp4", at.String())
	if err != nil {
		return err
	}
	defer udp.Close()
	tcp, err := free.Listen(context.Background(), "tcp4", at.String())
	if err != nil {
		return err
	}
	defer tcp.Close()
	one, err1 := udp.(*net.UDPConn).File()
	two, err2 := tcp.(*net.TCPListener).File()
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	in.own = append(in.own, one, two)
	in.add(name+packets, one)
	in.add(name+streams, two)
	return nil
}

// openLog opens the log, which the helper inherits. A long one becomes the old log.
func openLog(dir config.NetDir) (*os.File, error) {
	if info, err := os.Stat(dir.Log()); err == nil && info.Size() > mostLog/2 {
		if err := os.Rename(dir.Log(), dir.OldLog()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return os.OpenFile(dir.Log(), os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
}
