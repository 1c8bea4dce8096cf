package banger

import (
	"context"
	"io"
	"iter"
	"net"
	"net/netip"
	"time"
)

// VMService is everything a client can do with VMs. A ref is a VM's name or
// its ID, or a prefix of the ID that no other VM shares. Every method returns
// *Error values; NotFound is the kind for a ref that names nothing.
type VMService interface {
	CreateVM(ctx context.Context, spec CreateVM, progress Progress) (VM, error)
	ListVMs(ctx context.Context) ([]VM, error)
	SummarizeVMs(ctx context.Context) ([]VMSummary, error)
	ShowVM(ctx context.Context, ref string) (VM, error)
	StartVM(ctx context.Context, ref string, opts StartVM, progress Progress) (VM, error)
	StopVM(ctx context.Context, ref string, opts StopVM, progress Progress) (VM, error)
	RestartVM(ctx context.Context, ref string, opts StopVM, progress Progress) (VM, error)
	DeleteVM(ctx context.Context, ref string, opts DeleteVM, progress Progress) error

	// SetVM changes a VM's resources and driver. Disks only grow, also while it runs; what
	// needs a restart is a Conflict on a running VM unless opts.Apply allows one.
	SetVM(ctx context.Context, ref string, opts SetVM, progress Progress) (VM, error)

	// KillVM sends a signal to the VM's VMM. It returns once that has ended, or a
	// moment later with the VM as it then is.
	KillVM(ctx context.Context, ref string, opts KillVM, progress Progress) (VM, error)

	// FsckVM checks the disks of a stopped VM, and repairs what can be repaired without a
	// decision; with opts.Yes the rest as well. What it did with each disk is in the result.
	FsckVM(ctx context.Context, ref string, opts FsckVM, progress Progress) (Fsck, error)

	// RenameVM gives a VM another name; its identity stays. A running guest gets it
	// as its host name at once; if it does not, the step StepTellGuest has a note.
	RenameVM(ctx context.Context, ref string, opts RenameVM, progress Progress) (VM, error)

	// WaitVM returns once the VM has come as far as asked. A VM that cannot get
	// there by itself is a Conflict, the end of opts.Timeout a TimedOut error.
	WaitVM(ctx context.Context, ref string, opts WaitVM, progress Progress) (VM, error)

	// VMStats looks at what a VM uses now.
	VMStats(ctx context.Context, ref string) (VMStats, error)

	// VMPorts looks at what listens in a VM, and where the host reaches it. What could
	// not be forwarded is tried again.
	VMPorts(ctx context.Context, ref string) (VMPorts, error)

	// VMLogs streams a log. With Follow it ends when ctx does or the VM is deleted.
	VMLogs(ctx context.Context, ref string, opts VMLogs) (io.ReadCloser, error)

	// DialVM opens a raw stream to a guest port of a running VM (22: SSH).
	// The stream has no half-close: close it as a whole.
	DialVM(ctx context.Context, ref string, port int) (net.Conn, error)
}

// ImageService is everything a client can do with images and kernels.
type ImageService interface {
	ListImages(ctx context.Context) ([]Image, error)
	// ImportImage makes an image from a file or a directory, which the daemon reads
	// itself. A name that an image already has is a Conflict.
	ImportImage(ctx context.Context, spec ImportImage, progress Progress) (Image, error)
	// PullImage makes an image of one in a registry. A name that has the same image of
	// the same source stays; with a newer image of it, the name moves to that. Any other
	// use of the name is a Conflict.
	PullImage(ctx context.Context, spec PullImage, progress Progress) (Image, error)
	// PruneImages removes what no VM and no name needs: images, kernels, agents and
	// Firecrackers, and downloads and other files that are made again when needed.
	PruneImages(ctx context.Context, opts PruneImages, progress Progress) (Pruned, error)
	// DeleteImage removes an image's name, or with a digest all its names, and
	// its file when nothing needs it any more. An image that a VM was made from
	// is a Conflict.
	DeleteImage(ctx context.Context, ref string, progress Progress) error
	ListKernels(ctx context.Context) ([]Kernel, error)
}

// HostService is what a client can ask the daemon about itself, its host, and
// everything that changes.
type HostService interface {
	Daemon(ctx context.Context) (Daemon, error)
	StopDaemon(ctx context.Context) error // the VMs keep running
	// RenumberNetwork gives the VMs another subnet, which takes effect at once, also in
	// guests that run. VMs keep their places in it, and their names.
	RenumberNetwork(ctx context.Context, opts RenumberNetwork, progress Progress) (Renumbered, error)
	// Events yields a snapshot, an event of the kind EventReady, and then every
	// change, until ctx ends. A reader that is too slow gets an EventDropped and
	// no more.
	Events(ctx context.Context) iter.Seq2[Event, error]
}

// CreateVM describes a VM to be made. Zero values mean the configured default.
type CreateVM struct {
	Name     string `json:"name,omitempty"`          // generated when absent
	Image    string `json:"image,omitempty"`         // an image's name, or its name in a registry: it is pulled when missing
	VCPUs    int    `json:"vcpus,omitempty"`         // number of virtual CPUs
	Memory   Size   `json:"memory_bytes,omitempty"`  // memory
	Disk     Size   `json:"disk_bytes,omitempty"`    // maximum size of /root
	Overlay  Size   `json:"overlay_bytes,omitempty"` // maximum size of all changes to /
	Driver   string `json:"driver,omitempty"`        // `auto` or a driver's name
	NoStart  bool   `json:"no_start,omitempty"`      // create the VM without starting it
	Network  string `json:"network,omitempty"`       // `auto` or `none`
	NAT      *bool  `json:"nat,omitempty"`           // whether it may reach the internet
	Isolated *bool  `json:"isolated,omitempty"`      // whether other VMs are out of its reach

	Ports []Publish `json:"ports,omitempty"` // ports that the host publishes: `80`, `8080:80`, `0.0.0.0:8080:80`

	Lease string `json:"lease,omitempty"` // name of a file in the state directory's `leases` that the client has locked: when the lock is free, the daemon deletes the VM
}

// PullImage says which image to get from a registry.
type PullImage struct {
	Ref      string `json:"ref"`                 // its name as Docker writes it: `debian:trixie`, `ghcr.io/org/app@sha256:…`
	Name     string `json:"name,omitempty"`      // the image's name; made from the ref when absent
	AuthFile string `json:"auth_file,omitempty"` // absolute path of a file with credentials, as Docker's `config.json`; it is used before those of the daemon's user
}

// PruneImages has the options of `image prune`.
type PruneImages struct {
	DryRun bool `json:"dry_run,omitempty"` // only tell what would be removed
}

// Pruned is what was removed, or would be.
type Pruned struct {
	Items []PrunedItem `json:"items"`       // the largest first
	Freed Size         `json:"freed_bytes"` // space on the host
}

// PrunedItem is a thing that nothing needs.
type PrunedItem struct {
	Kind PrunedKind `json:"kind"`       // what it is
	Name string     `json:"name"`       // its name, or the beginning of its digest
	Size Size       `json:"size_bytes"` // space that it used on the host
}

// PrunedKind is what a thing is that nothing needs.
type PrunedKind string

// The kinds of things that are pruned.
const (
	PrunedImage       PrunedKind = "image"       // an image without a name, which no VM uses
	PrunedKernel      PrunedKind = "kernel"      // a kernel set from an earlier bundle, which no VM uses
	PrunedAgent       PrunedKind = "agent"       // an agent that no VM is started with any more
	PrunedFirecracker PrunedKind = "firecracker" // a Firecracker that no VM is started with any more
	PrunedInitrd      PrunedKind = "initrd"      // a base initrd of such an agent or kernel
	PrunedDownload    PrunedKind = "download"    // what was downloaded from registries, also in part
)

// ImportImage says what to make an image of.
type ImportImage struct {
	Name   string `json:"name"`             // the image's name
	File   string `json:"file"`             // absolute path of the file or directory, which the daemon reads
	Origin string `json:"origin,omitempty"` // where the archive comes from, for people; the file's name when absent
}

// StartVM says how to start a VM.
type StartVM struct {
	Timeout time.Duration `json:"timeout_ns,omitempty"` // how long to wait for the guest's agent; 0 means the driver's default
}

// StopVM says how to stop a VM. Starting it again, in RestartVM, waits as StartVM does.
type StopVM struct {
	Grace time.Duration `json:"grace_ns,omitempty"` // how long the guest's init may take; 0 means the default
	Force bool          `json:"force,omitempty"`    // sync, then end the VMM without asking the init
}

// Milestone is a point in a VM's life that can be waited for.
type Milestone string

// The milestones. A start waits for the agent only: ssh and exec work from
// there on, long before the init has started all its services.
const (
	AgentUp Milestone = "agent"   // the guest's agent answers
	BootUp  Milestone = "boot"    // the guest's init has started everything
	Off     Milestone = "stopped" // the VM is stopped and does not come back by itself
)

// WaitVM says what to wait for.
type WaitVM struct {
	For     Milestone     `json:"for"`                  // `agent`, `boot` or `stopped`
	Timeout time.Duration `json:"timeout_ns,omitempty"` // 0 means no limit
}

// SetVM says what to change about a VM. Zero values leave things as they are.
type SetVM struct {
	Driver   string `json:"driver,omitempty"`        // `auto` or a driver's name; the disks stay
	VCPUs    int    `json:"vcpus,omitempty"`         // number of virtual CPUs
	Memory   Size   `json:"memory_bytes,omitempty"`  // memory
	Disk     Size   `json:"disk_bytes,omitempty"`    // maximum size of /root
	Overlay  Size   `json:"overlay_bytes,omitempty"` // maximum size of all changes to /
	Network  string `json:"network,omitempty"`       // `auto` or `none`
	NAT      *bool  `json:"nat,omitempty"`           // whether it may reach the internet
	Isolated *bool  `json:"isolated,omitempty"`      // whether other VMs are out of its reach
	Apply    bool   `json:"apply,omitempty"`         // restart a running VM if the change needs it

	Ports *[]Publish `json:"ports,omitempty"` // in place of those that the host published; may be empty
}

// KillVM says how to end a VMM from outside: nothing is asked of the guest.
type KillVM struct {
	Signal string `json:"signal,omitempty"` // a name, with or without SIG, or a number; TERM when absent
}

// FsckVM says how to check a VM's disks.
type FsckVM struct {
	Yes    bool `json:"yes,omitempty"`     // also repair what takes a decision: damaged files may be lost
	NoCopy bool `json:"no_copy,omitempty"` // do not first copy a disk whose repair takes a decision
}

// Fsck is what a check of a VM's disks found.
type Fsck struct {
	ID    VMID       `json:"id"`    // the VM's ID
	Name  string     `json:"name"`  // the VM's name
	Disks []FsckDisk `json:"disks"` // its disks, in the order of the check
}

// FsckDisk is what a check of one disk found.
type FsckDisk struct {
	Disk   string     `json:"disk"`           // `overlay` or `work`
	Result FsckResult `json:"result"`         // what became of the disk
	Why    string     `json:"why,omitempty"`  // what is wrong with a damaged disk
	Copy   string     `json:"copy,omitempty"` // file with the disk as it was before its repair
}

// FsckResult is the result of the check of a disk.
type FsckResult string

// The results of a check.
const (
	FsckClean    FsckResult = "clean"    // its file system has no errors
	FsckRepaired FsckResult = "repaired" // it had errors, and has none any more
	FsckDamaged  FsckResult = "damaged"  // its repair takes a decision; the VM does not start
)

// StepTellGuest is the step in which a running guest is told of a change. Its note says
// what the guest does not do at once.
const StepTellGuest = "tell the guest"

// RenameVM says what a VM is called from now on.
type RenameVM struct {
	Name string `json:"name"` // the new name
}

// RenumberNetwork says which subnet VMs get.
type RenumberNetwork struct {
	Subnet string `json:"subnet,omitempty"` // a private IPv4 prefix of 20 bits; a free one is chosen when absent
}

// Renumbered is what became of a change of the subnet.
type Renumbered struct {
	Was   netip.Prefix `json:"was"`             // the subnet before
	Now   netip.Prefix `json:"now"`             // the subnet of all VMs
	Later []string     `json:"later,omitempty"` // names of running VMs that get their new address when they start
}

// DeleteVM says how to delete a VM. A running VM is a Conflict without Force.
type DeleteVM struct {
	Force bool `json:"force,omitempty"` // also end and delete a running VM
}

// LogKind names one of a VM's logs.
type LogKind string

// The logs of a VM.
const (
	ConsoleLog LogKind = "console" // the guest's serial console
	VMMLog     LogKind = "vmm"     // what the VMM itself printed
)

// VMLogs says which log to stream.
type VMLogs struct {
	Kind   LogKind `json:"kind"`             // `console` (default) or `vmm`
	Follow bool    `json:"follow,omitempty"` // stay open for new lines
}

// Daemon describes the daemon that answers.
type Daemon struct {
	PID     int    `json:"pid"`         // its process ID
	Version string `json:"version"`     // its version
	Socket  string `json:"socket"`      // where it listens
	Log     string `json:"log"`         // file of its log
	State   string `json:"state_dir"`   // the state directory
	Runtime string `json:"runtime_dir"` // the runtime bundle
	Driver  string `json:"driver"`      // driver of new VMs
	Running int    `json:"running_vms"` // number of running VMs
}
