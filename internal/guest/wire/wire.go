// Package wire is what the host and the agent in a VM say to each other: the
// configuration handed in at boot and the messages on the control port. It
// holds no transport; its one function reads a message, bounded.
//
// The control port carries newline-delimited JSON, one Message a line, both
// ways. The guest speaks first, with its Hello; the host answers with its own.
// After that the host sends requests, the guest replies and events, in any
// order. Unknown fields are ignored and unknown methods refused by name, so
// that the two ends may be of different versions.
package wire

import (
	"encoding/json"
)

// Version is the protocol's version. Features say more than it does.
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
// serves its own ports. It says nothing there: who serves is told by the hello.
const PortKnock = 1000

// Names of the two virtio-serial ports of a QEMU VM.
const (
	SerialControl = "banger.control"
	SerialStreams = "banger.streams"
)

// Labels of the ext4 file systems of a VM: the agent finds its disks by them.
const (
	LabelBase    = "banger-base"
	LabelModules = "banger-mods"
	LabelOverlay = "banger-ovl"
	LabelWork    = "banger-work"
)

// Names within the initrd.
const (
	ConfigPath  = "config.json"       // of the VM: a Config
	ModulesPath = "lib/modules.order" // of the kernel set: paths of the boot modules below the initrd's root, one a line, in loading order
)

// Config is a VM's configuration, made anew by the host for each boot.
type Config struct {
	Version        int      `json:"version"`
	Name           string   `json:"name"`       // host name
	MachineID      string   `json:"machine_id"` // 32 hexadecimal digits
	Nonce          string   `json:"nonce"`      // names this boot: in every bye
	Token          string   `json:"token"`      // proves that a Hello is the agent's
	AuthorizedKeys []string `json:"authorized_keys"`
	HostKey        string   `json:"host_key"`     // ed25519, OpenSSH PEM
	HostKeyPub     string   `json:"host_key_pub"` // its public half, one line
	Direct         []string `json:"direct"`       // directories kept on the raw overlay disk: what cannot live on overlayfs
	WorkMount      string   `json:"work_mount"`   // where the work disk goes; empty: the VM has none
	ResetToOff     bool     `json:"reset_to_off"` // the VMM ends only on a reset: the last stage resets where it would power off
	UnixNano       int64    `json:"unix_nano"`    // the host's clock when this was written
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

	// Said by the guest only.
	Token   string       `json:"token,omitempty"`
	Nonce   string       `json:"nonce,omitempty"`
	BootID  string       `json:"boot_id,omitempty"`
	Kernel  string       `json:"kernel,omitempty"`
	Init    Init         `json:"init,omitempty"`
	InitWhy string       `json:"init_why,omitempty"` // with InitEmergency: the unit that failed and why, if known
	Disks   []DiskErrors `json:"disks,omitempty"`    // the disks with errors
	Failed  *Failure     `json:"failed,omitempty"`   // the boot failed at this step; nothing else works
}

// Init is how far the image's init has come.
type Init string

// The states of the init. An image without one stays at InitNone.
const (
	InitNone      Init = "none"      // the agent itself is PID 1
	InitStarting  Init = "starting"  // exec'd; it may not hear signals yet
	InitHears     Init = "hears"     // it hears the signals that ask it to stop
	InitUp        Init = "up"        // multi-user.target is reached, or what the init calls up
	InitEmergency Init = "emergency" // the boot ended in systemd's emergency or rescue mode
	InitStopping  Init = "stopping"  // it has heard the ask and is stopping its services
	InitShutdown  Init = "shutdown"  // shutdown.target began: only the last stage is left
)

// StepTimer is the boot step that fails where the kernel could not measure its
// timer: it may at the next boot. A guest without one cannot wait, so it tells the
// console alone.
const StepTimer = "check timer"

// Failure is a boot step that failed. It is also printed on the console as
// "banger-failed NONCE {json}".
type Failure struct {
	Step string `json:"step"`
	Why  string `json:"why"`
	Fix  string `json:"fix"`
}

// Methods of requests.
const (
	MethodPing  = "ping"  // -> nothing
	MethodSync  = "sync"  // sync(2) has ended; -> nothing
	MethodStop  = "stop"  // StopParams -> nothing, at once; events tell the rest
	MethodClock = "clock" // ClockParams -> nothing: sets the guest's clock when it is wrong
	MethodInfo  = "info"  // -> Info
	MethodStats = "stats" // -> Stats
	MethodGrow  = "grow"  // GrowParams or none -> nothing: grows each mounted file system that is smaller than its disk
)

// Features that a guest's Hello can name.
const (
	FeatureStats = "stats" // it knows MethodStats
	FeatureDisks = "disks" // it reports disk errors: in its hello, in an EventDisks and in its bye
)

// Request asks the guest for something. IDs are the host's, unique per connection.
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

// Verb is how a machine goes down.
type Verb string

// The verbs of a bye.
const (
	Poweroff Verb = "poweroff"
	Reboot   Verb = "reboot"
	Halt     Verb = "halt"
)

// StopParams asks for an orderly end. The agent asks the init as soon as it
// hears and repeats until it has heard; an init that has not ended the machine
// after GraceMS milliseconds is passed over by the agent's own last stage.
type StopParams struct {
	Verb    Verb  `json:"verb"`
	GraceMS int64 `json:"grace_ms"`
}

// ClockParams carries the host's clock.
type ClockParams struct {
	UnixNano int64 `json:"unix_nano"`
}

// GrowParams are the sizes in bytes that disks have been given, by label. The
// guest hears of them by the VMM too, a moment earlier or later.
type GrowParams struct {
	Disks map[string]int64 `json:"disks,omitempty"`
}

// Info is what the guest says of itself.
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
	CPUBusyMS       int64        `json:"cpu_busy_ms"`  // of all of them together, since the boot
	CPUTotalMS      int64        `json:"cpu_total_ms"` // with what they were idle
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
	EventBye   = "bye"   // Verb and Nonce are set, maybe Disks and Why; the last message of a machine
)

// Event is told by the guest unasked. A host that is not connected finds two
// kinds on the console, each on a line of its own: a bye as
// "banger-bye NONCE VERB WHY", disk errors as "banger-disks NONCE [json]".
type Event struct {
	Kind  string       `json:"kind"`
	Init  Init         `json:"init,omitempty"`
	Verb  Verb         `json:"verb,omitempty"`
	Nonce string       `json:"nonce,omitempty"`
	Why   string       `json:"why,omitempty"`   // in a bye: why the agent ended the machine in place of its init
	Disks []DiskErrors `json:"disks,omitempty"` // all disks that have errors
}

// Prefixes of the agent's lines on the console.
const (
	ConsoleBye    = "banger-bye "
	ConsoleFailed = "banger-failed "
	ConsoleDisks  = "banger-disks " // NONCE and the JSON of a []DiskErrors
)

// The SSH server on PortSSH understands, besides the standard requests on a
// session channel, ExecRequest: its payload is the JSON of an Exec. The
// arguments reach the program byte for byte, with no shell in between.
const ExecRequest = "exec@banger"

// Exec is a program to run in the guest. Bytes that JSON strings cannot carry
// are why Argv, Workdir and Env are byte strings (base64 in JSON).
type Exec struct {
	Argv    [][]byte `json:"argv"`
	User    string   `json:"user,omitempty"`    // name or uid; default root
	Workdir []byte   `json:"workdir,omitempty"` // default: the user's home
	Env     [][]byte `json:"env,omitempty"`     // NAME=value, added to the login environment
}

// Exit statuses of ExecRequest that are not the program's own, as env(1) has them.
const (
	ExitCannotRun = 126
	ExitNotFound  = 127
)
