// Package wire defines what the host and the agent in a VM send each other: the
// configuration at boot and the messages on the control port. It reads a bounded
// message, and checks what both ends must check. It has no transport.
//
// The control port carries newline-delimited JSON both ways, one Message a line. The
// guest begins with its Hello, and the host answers with its own. After that the host
// sends requests, and the guest replies and events, in any order. Unknown fields are
// ignored and unknown methods refused, so the two ends may be of different versions.
package wire

import (
	"encoding/json"
)

// Version is the protocol's version. Features tell more.
const Version = 1

// MaxLine bounds one message in bytes, newline included. A longer line ends
// the connection: neither end trusts the other.
const MaxLine = 64 << 10

// Guest ports. Below 1024 only root in the guest can listen.
const (
	PortSSH     = 22
	PortControl = 1000
)

// PortKnock is the port of its host that a guest with a vsock connects to once it
// serves its own ports. It sends nothing there: the hello tells who serves.
const PortKnock = 1000

// Names of the two virtio-serial ports of a QEMU VM.
const (
	SerialControl = "banger.control"
	SerialStreams = "banger.streams"
)

// Labels of a VM's ext4 file systems, by which the agent finds its disks.
const (
	LabelBase    = "banger-base"
	LabelModules = "banger-mods"
	LabelOverlay = "banger-ovl"
	LabelWork    = "banger-work"
)

// Names within the initrd.
const (
	ConfigPath  = "config.json"       // of the VM: a Config
	ModulesPath = "lib/modules.order" // of the kernel set: its BootModules, one a line, in loading order
)

// Config is a VM's configuration. The host makes a new one for each boot.
type Config struct {
	Version        int      `json:"version"`
	Name           string   `json:"name"`       // host name
	MachineID      string   `json:"machine_id"` // 32 hexadecimal digits
	Nonce          string   `json:"nonce"`      // names this boot in every bye
	Token          string   `json:"token"`      // proves that a Hello is the agent's
	AuthorizedKeys []string `json:"authorized_keys"`
	User           string   `json:"user,omitempty"`    // an account beside root, which may use sudo; empty: none
	HostKey        string   `json:"host_key"`          // ed25519, OpenSSH PEM
	HostKeyPub     string   `json:"host_key_pub"`      // its public half, one line
	Direct         []string `json:"direct"`            // directories on the raw overlay disk, for what overlayfs cannot hold
	WorkMount      string   `json:"work_mount"`        // where the work disk is mounted; empty: the VM has none
	NoInit         bool     `json:"no_init,omitempty"` // the image's init is not started: the agent stays process 1
	ResetToOff     bool     `json:"reset_to_off"`      // the VMM ends only on a reset: the last stage resets instead of powering off
	UnixNano       int64    `json:"unix_nano"`         // the host's clock when this was written
	Network        *Network `json:"network,omitempty"` // nil: the VM has no network card
}

// Message is one line on the control port: exactly one field is set.
type Message struct {
	Hello   *Hello   `json:"hello,omitempty"`
	Request *Request `json:"request,omitempty"`
	Reply   *Reply   `json:"reply,omitempty"`
	Event   *Event   `json:"event,omitempty"`
}

// Hello opens a control connection.
type Hello struct {
	Version  int      `json:"version"`
	Features []string `json:"features,omitempty"`
	Program  string   `json:"program"` // "banger-agent 0.1.0"

	// Only the guest sends these.
	Token      string       `json:"token,omitempty"`
	Nonce      string       `json:"nonce,omitempty"`
	BootID     string       `json:"boot_id,omitempty"`
	Kernel     string       `json:"kernel,omitempty"`
	Init       Init         `json:"init,omitempty"`
	InitWhy    string       `json:"init_why,omitempty"`    // with InitEmergency: the unit that failed and why, if known
	Disks      []DiskErrors `json:"disks,omitempty"`       // the disks with errors
	Ports      *Ports       `json:"ports,omitempty"`       // what listens; nil: not known yet
	NetworkWhy string       `json:"network_why,omitempty"` // why the network is not as configured
	Failed     *Failure     `json:"failed,omitempty"`      // the boot failed at this step; nothing else works
}

// Init is the state of the image's init.
type Init string

// The states of an init.
const (
	InitNone      Init = "none"      // the image has no init: the agent is process 1
	InitStarting  Init = "starting"  // exec'd; it may not hear signals yet
	InitHears     Init = "hears"     // it hears the signals that ask it to stop
	InitUp        Init = "up"        // multi-user.target is reached, or what the init calls up
	InitEmergency Init = "emergency" // the boot ended in systemd's emergency or rescue mode
	InitStopping  Init = "stopping"  // it was asked to stop and is stopping its services
	InitShutdown  Init = "shutdown"  // shutdown.target began: only the last stage is left
)

// StepTimer is the boot step that fails if the kernel could not measure its timer,
// which the next boot may do. A guest without a timer cannot wait, so it reports this
// failure only on the console.
const StepTimer = "check timer"

// Failure is a boot step that failed. The agent also prints it on the console, as
// "banger-failed NONCE {json}".
type Failure struct {
	Step string `json:"step"`
	Why  string `json:"why"`
	Fix  string `json:"fix"`
}

// Methods of requests.
const (
	MethodPing      = "ping"      // -> nothing
	MethodSync      = "sync"      // sync(2) has ended; -> nothing
	MethodStop      = "stop"      // StopParams -> nothing, at once; events follow
	MethodClock     = "clock"     // ClockParams -> nothing: sets the guest's clock if it is wrong
	MethodInfo      = "info"      // -> Info, once it is certain that no shutdown has begun unnoticed
	MethodStats     = "stats"     // -> Stats
	MethodGrow      = "grow"      // GrowParams or none -> nothing: grows each mounted file system that is smaller than its disk
	MethodConfigure = "configure" // ConfigureParams -> nothing, once it is done: changes what the guest was told at boot
	MethodPorts     = "ports"     // -> Ports, after a look
)

// Features that a guest's Hello may list.
const (
	FeatureStats     = "stats"     // it knows MethodStats
	FeatureDisks     = "disks"     // it reports disk errors: in its hello, in an EventDisks and in its bye
	FeatureConfigure = "configure" // it knows MethodConfigure, and Network in its Config
	FeaturePorts     = "ports"     // it knows MethodPorts, and tells of ports in its hello and in an EventPorts
)

// Request asks the guest for something. The host chooses the ID, unique in a
// connection.
type Request struct {
	ID     uint64          `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params,omitempty"`
}

// Reply answers the request with the same ID.
type Reply struct {
	ID     uint64          `json:"id"`
	Result json.RawMessage `json:"result,omitempty"`
	Error  string          `json:"error,omitempty"`
}

// Verb is how a machine ends.
type Verb string

// The verbs of a bye.
const (
	Poweroff Verb = "poweroff"
	Reboot   Verb = "reboot"
	Halt     Verb = "halt"
)

// StopParams asks for an orderly end. The agent asks the init, until the init reacts.
// If the init has not ended the machine after GraceMS milliseconds, the agent does.
type StopParams struct {
	Verb    Verb  `json:"verb"`
	GraceMS int64 `json:"grace_ms"`
}

// ClockParams carries the host's clock.
type ClockParams struct {
	UnixNano int64 `json:"unix_nano"`
}

// GrowParams holds the new sizes of disks in bytes, by label. The VMM tells the guest's
// kernel as well, a moment earlier or later.
type GrowParams struct {
	Disks map[string]int64 `json:"disks,omitempty"`
}

// Info describes the guest.
type Info struct {
	BootID string `json:"boot_id"`
	Uptime int64  `json:"uptime_ms"`
	Init   Init   `json:"init"`
}

// Stats is what the guest uses. Sizes are bytes.
type Stats struct {
	UptimeMS        int64        `json:"uptime_ms"`
	Load            [3]float64   `json:"load"` // over 1, 5 and 15 minutes
	CPUs            int          `json:"cpus"`
	CPUBusyMS       int64        `json:"cpu_busy_ms"`  // of all CPUs together, since the boot
	CPUTotalMS      int64        `json:"cpu_total_ms"` // busy and idle
	MemoryTotal     int64        `json:"memory_total"`
	MemoryAvailable int64        `json:"memory_available"`
	FileSystems     []FileSystem `json:"file_systems"`
}

// FileSystem is how full a file system is.
type FileSystem struct {
	Path string `json:"path"`
	Size int64  `json:"size"`
	Used int64  `json:"used"`
}

// DiskErrors reports that one of the VM's writable disks has errors: its file
// system has recorded some, in this boot or an earlier one, or the kernel could
// not read or write the disk.
type DiskErrors struct {
	Label  string `json:"label"`         // LabelOverlay or LabelWork
	Errors int64  `json:"errors"`        // how many are known, at least 1
	Why    string `json:"why,omitempty"` // the first of this boot, or else the last of an earlier one
}

// Kinds of events.
const (
	EventInit  = "init"  // Init is set; with InitEmergency maybe Why: the unit that failed
	EventDisks = "disks" // Disks is set
	EventPorts = "ports" // Ports is set
	EventBye   = "bye"   // Verb and Nonce are set, maybe Disks and Why; the last message of a machine
)

// Event is what the guest sends unasked. A host that is not connected finds two kinds
// on the console, each on a line of its own: a bye as
// "banger-bye NONCE VERB WHY", disk errors as "banger-disks NONCE [json]".
type Event struct {
	Kind  string       `json:"kind"`
	Init  Init         `json:"init,omitempty"`
	Verb  Verb         `json:"verb,omitempty"`
	Nonce string       `json:"nonce,omitempty"`
	Why   string       `json:"why,omitempty"`   // in a bye: why the agent ended the machine in place of its init
	Disks []DiskErrors `json:"disks,omitempty"` // all disks that have errors
	Ports *Ports       `json:"ports,omitempty"` // all that listen
}

// Prefixes of the agent's lines on the console.
const (
	ConsoleBye    = "banger-bye "
	ConsoleFailed = "banger-failed "
	ConsoleDisks  = "banger-disks " // NONCE and the JSON of a []DiskErrors
)

// ExecRequest is a request on a session channel of the SSH server on PortSSH. Its
// payload is the JSON of an Exec. The arguments reach the program byte for byte, with
// no shell in between.
const ExecRequest = "exec@banger"

// ExecPartRequest carries a part of an ExecRequest's payload that is too large for one
// packet of SSH. The ExecRequest carries the end of it, and so the last part.
const ExecPartRequest = "exec-part@banger"

const (
	// MaxExecPart is the most bytes in one ExecPartRequest or ExecRequest.
	MaxExecPart = 128 << 10
	// MaxExec bounds the payload of all parts together: execve(2) takes at most 6 MiB of
	// arguments and environment, which base64 makes 8.
	MaxExec = 16 << 20
)

// LoginWaits begins a line that the SSH server sends before its version while a client
// waits for its turn to log in. The number of clients before it follows.
const LoginWaits = "banger-waits "

// SignalSuffix follows a signal's number in the name of one that has no name in SSH.
const SignalSuffix = "@banger"

// Exec is a program to run in the guest. Argv, Workdir and Env are base64 in JSON, whose
// strings cannot carry every byte.
type Exec struct {
	Argv    [][]byte `json:"argv"`
	User    string   `json:"user,omitempty"`    // name or uid; default root
	Workdir []byte   `json:"workdir,omitempty"` // default: the user's home
	Env     [][]byte `json:"env,omitempty"`     // NAME=value, added to the login environment
}

// TransferSubsystem is a subsystem of the SSH server on PortSSH. It reads a request of
// package transfer and copies files, as the user who logged in.
const TransferSubsystem = "transfer@banger"

// ResetRequest is a request on the channel of a forward, from either end: the connection
// behind it was cut off, so what came is not complete. SSH itself cannot tell. Who sends
// it waits for the answer before it closes the channel.
const ResetRequest = "reset@banger"

// Exit statuses of an ExecRequest whose program did not run, as env(1) uses them.
const (
	ExitCannotRun = 126
	ExitNotFound  = 127
)
