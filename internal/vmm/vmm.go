// Package vmm is the contract between the lifecycle of VMs and the drivers that run
// them: what a driver can do, what it is given, and the lock that a VMM holds. It runs
// nothing itself.
package vmm

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/network"
)

// GuestLine is what every guest's kernel command line ends with. Without notests the
// kernel tests its ciphers at each boot, for a third of the boot's CPU time.
const GuestLine = "cryptomgr.notests systemd.ssh_auto=no"

// Driver runs VMs by one kind of VMM. It holds no state of VMs between calls.
type Driver interface {
	Name() string

	// Probe looks at the host without changing it. It returns an Unready error
	// with a fix when VMs cannot run by this driver here.
	Probe(ctx context.Context) (Capabilities, error)

	// Launch starts a VMM and returns as soon as it runs; the guest boots
	// afterwards. The VMM inherits spec.Lock, outlives this process, and is
	// ended again when Launch fails or ctx ends before it returns. The caller
	// closes its own spec.Lock.
	Launch(ctx context.Context, spec Spec) (Machine, error)

	// Adopt takes over a VMM that an earlier process launched in dir and that
	// holds its lock, also one that has only just been forked. It returns
	// ErrGone when the lock becomes free instead.
	Adopt(ctx context.Context, dir string) (Machine, error)

	// Ending returns how the last VMM in dir ended, for one that nobody watched. It
	// reads the log; if that does not show the reason, the reason is unknown.
	Ending(dir string) Exit
}

// Capabilities are what a driver can do on this host. Callers use them instead of the
// driver's name.
type Capabilities struct {
	Version      string // of the VMM
	Accelerator  string // "kvm", "tcg"
	Note         string // one line for the user: what the choice costs, empty when nothing
	Fix          string // what would make it better, empty when nothing
	MaxVCPUs     int
	DefaultVCPUs int
	GrowOnline   bool
	Balloon      bool          // the memory of a running guest can be lowered and raised again
	TellsBalloon bool          // the VMM reports how much the guest has given back
	PowersOff    bool          // the guest's power-off ends the VMM; else only a reset does
	Pauses       bool          // a guest is paused while its disk cannot be written; else it gets an error
	BootTimeout  time.Duration // how long to wait for the agent
}

// Role names a disk of a VM.
type Role string

// The disks of a VM.
const (
	Base    Role = "base"
	Modules Role = "modules"
	Overlay Role = "overlay"
	Work    Role = "work"
)

// Disk is one disk of a VM.
type Disk struct {
	Role     Role
	File     string // relative to Spec.Dir
	ReadOnly bool
}

// Spec is a VM to launch. All file names are relative to Dir, which is the
// VM's own private directory (mode 0700) and the VMM's working directory.
type Spec struct {
	ID      banger.VMID
	Name    string
	Dir     string
	Lock    *os.File // locked by the caller: whoever has the lock may open the disks
	Kernel  string   // an ELF vmlinux
	Initrd  string
	Disks   []Disk
	VCPUs   int
	Memory  banger.Size
	NIC     *NIC       // nil: no network
	Inside  *Namespace // where the VMM runs; nil: where the daemon does
	Console string     // file the serial console is appended to
	Log     string     // file the VMM's own output is appended to
}

// NIC is a VM's network card. Its TAP exists, and the VMM's user may open it.
type NIC struct {
	Tap string
	MAC net.HardwareAddr
	MTU int
}

// Namespace is where a VMM of a plain user's daemon runs, so that it has a network. The
// caller closes it; the VMM stays in it.
type Namespace = network.Namespace

// Machine is a running VMM. Its methods may be called by several goroutines.
type Machine interface {
	// PID is the VMM's process.
	PID() int

	// Dial opens a stream to a guest port. It waits, within ctx, for the
	// guest's agent to answer; after that the stream is the port's protocol.
	Dial(ctx context.Context, port int) (net.Conn, error)

	// Grow tells the VMM that the file behind a disk has grown to size.
	Grow(ctx context.Context, role Role, size banger.Size) error

	// SetMemory changes how much memory the guest has, up to what the VMM was launched
	// with. It does not wait: a guest gives back what it can spare.
	SetMemory(ctx context.Context, size banger.Size) error

	// Memory returns what the guest has. It fails for a VMM that was launched without
	// a balloon.
	Memory(ctx context.Context) (Memory, error)

	// DiskErrors returns the disks that fail now, and a channel that is closed when
	// that changes. An error that paused the guest goes when the guest continues;
	// one that the guest got stays, for its file system may be damaged.
	DiskErrors() ([]DiskError, <-chan struct{})

	// Kill ends the VMM at once (SIGKILL). Disks are left as they are. It may
	// be called twice, and after the end.
	Kill() error

	// Signal sends the VMM a signal. SIGKILL is Kill; the VMM may handle the others.
	// After the end it does nothing.
	Signal(signal unix.Signal) error

	// Ended is closed when the VMM process is gone and its lock is free.
	Ended() <-chan struct{}

	// Exit returns how it ended. It is valid once Ended is closed.
	Exit() Exit

	// Close stops watching the VMM, which continues.
	Close() error
}

// Memory is what a guest has of its host's memory.
type Memory struct {
	Launched banger.Size `json:"launched"` // what the VMM was launched with: the most there can be
	Balloon  banger.Size `json:"balloon"`  // what the guest has given back
	Told     bool        `json:"told"`     // Balloon is known: not every VMM reports it
}

// CheckMemory returns an error if size is more than the VMM was launched with.
func (m Memory) CheckMemory(size banger.Size) error {
	if size < 0 || size > m.Launched {
		return fmt.Errorf("the VM was started with %v of memory, and cannot have %v", m.Launched, size)
	}
	return nil
}

// Reason is why a VMM ended.
type Reason string

// The reasons. A panic looks like a reset: only the guest's bye distinguishes them.
const (
	ReasonUnknown  Reason = "unknown"  // it ended while nobody watched
	ReasonPoweroff Reason = "poweroff" // the guest switched itself off
	ReasonReset    Reason = "reset"    // the guest was reset
	ReasonKilled   Reason = "killed"   // by Kill
	ReasonSignal   Reason = "signal"   // by a signal from elsewhere
	ReasonFailed   Reason = "failed"   // the VMM gave up
)

// Exit is how a VMM ended.
type Exit struct {
	Reason Reason
	Detail string // one line: the signal, the last words of its log
}
