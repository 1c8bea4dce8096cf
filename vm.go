package banger

import (
	"net/netip"
	"time"
)

// VMID identifies a VM for its whole life: 12 lower-case hexadecimal digits.
type VMID string

// Digest is "sha256:" and 64 hexadecimal digits.
type Digest string

// VM is a persistent machine as its daemon describes it.
type VM struct {
	ID        VMID      `json:"id"`                  // 12 hexadecimal digits; never changes
	Name      string    `json:"name"`                // the VM's name
	State     State     `json:"state"`               // what the VM is doing
	Image     string    `json:"image"`               // the image's name when the VM was created
	ImageID   Digest    `json:"image_digest"`        // the image that the VM keeps using
	Kernel    string    `json:"kernel"`              // the kernel's release
	KernelID  Digest    `json:"kernel_digest"`       // the kernel set that the VM keeps using
	VCPUs     int       `json:"vcpus"`               // number of virtual CPUs
	Memory    Size      `json:"memory_bytes"`        // memory of the next start, or of the running VM
	Overlay   Size      `json:"overlay_bytes"`       // maximum size of all changes to /
	Disk      Size      `json:"disk_bytes"`          // maximum size of /root
	Driver    string    `json:"driver"`              // `firecracker` or `qemu`
	Network   Network   `json:"network"`             // how the VM reaches the network
	Ports     []Publish `json:"ports,omitempty"`     // ports that the host publishes
	CreatedAt time.Time `json:"created_at"`          // when the VM was created
	Temporary bool      `json:"temporary,omitempty"` // it is deleted when the client that created it ends

	// Of the current run; zero when the VM is stopped.
	PID       int       `json:"pid,omitempty"`                   // process ID of the VMM
	BootID    string    `json:"boot_id,omitempty"`               // the guest kernel's boot ID
	StartedAt time.Time `json:"started_at,omitzero"`             // when this run began
	Launched  Size      `json:"launched_memory_bytes,omitempty"` // memory that the VM was started with: its maximum until the next start

	Problems []Problem `json:"problems,omitempty"` // what keeps it from working

	// Of the last run that ended.
	Ending   Ending    `json:"ending,omitempty"`        // how the last run ended
	EndingBy string    `json:"ending_detail,omitempty"` // one line about the ending: the panic, the signal
	EndedAt  time.Time `json:"ended_at,omitzero"`       // when the last run ended

	// Where things lie on the host of the daemon.
	Dir        string `json:"dir"`         // the VM's directory
	Console    string `json:"console_log"` // file of the serial console
	VMMLog     string `json:"vmm_log"`     // file of the VMM's own output
	SSHKey     string `json:"ssh_key"`     // private key for logging in
	KnownHosts string `json:"known_hosts"` // file with the VM's host key
}

// Network is how a VM reaches the network, and where it is found there.
type Network struct {
	Mode     string     `json:"mode"`               // `bridge`, `usernet` or `none`
	Why      string     `json:"why,omitempty"`      // why there is no better one
	Fix      string     `json:"fix,omitempty"`      // what would change that
	Address  netip.Addr `json:"address,omitzero"`   // the VM's address for its whole life
	MAC      string     `json:"mac,omitempty"`      // the address of its network card
	NAT      bool       `json:"nat"`                // whether it may reach what is outside the instance's network
	Isolated bool       `json:"isolated,omitempty"` // whether other VMs are out of its reach
}

// VMSummary is what a list tells of a VM. It exists because there may be a
// thousand of them in one, and most of what a VM is goes into no table.
type VMSummary struct {
	Name      string    `json:"name"`               // the VM's name
	State     State     `json:"state"`              // what the VM is doing
	Image     string    `json:"image"`              // the image's name when the VM was created
	VCPUs     int       `json:"vcpus"`              // number of virtual CPUs
	Memory    Size      `json:"memory_bytes"`       // memory
	Disk      Size      `json:"disk_bytes"`         // maximum size of /root
	CreatedAt time.Time `json:"created_at"`         // when the VM was created
	Ending    Ending    `json:"ending,omitempty"`   // how the last run ended
	Problems  []Problem `json:"problems,omitempty"` // what keeps it from working
}

// Problem is why a VM does not work, or not well, though its VMM runs: it is
// paused, one of its disks has errors, or it has no network.
type Problem struct {
	Kind ProblemKind `json:"kind"`           // what sort of problem it is
	Disk string      `json:"disk,omitempty"` // `overlay` or `work`
	Text string      `json:"text"`           // one line for the user
	Fix  string      `json:"fix,omitempty"`  // one command or one sentence
}

// ProblemKind says what sort of problem a VM has.
type ProblemKind string

// The kinds of problems.
const (
	ProblemPaused  ProblemKind = "paused"  // the VMM has stopped the guest: the host cannot store what it writes
	ProblemDisk    ProblemKind = "disk"    // a disk or its file system has errors
	ProblemBoot    ProblemKind = "boot"    // the boot ended in systemd's emergency or rescue mode
	ProblemNetwork ProblemKind = "network" // it has no network though it shall have one, or the host has a route to its subnet
)

// VMStats is what a VM uses at one moment. Of a VM that does not run only its
// disks and its traffic are known.
type VMStats struct {
	ID    VMID   `json:"id"`    // the VM's ID
	Name  string `json:"name"`  // the VM's name
	State State  `json:"state"` // what the VM is doing

	// Of the VMM, as the host sees it.
	PID      int           `json:"pid,omitempty"`                   // process ID of the VMM
	CPUTime  time.Duration `json:"cpu_time_ns,omitempty"`           // CPU time that the VMM has used
	Resident Size          `json:"resident_bytes,omitempty"`        // host memory that the VMM uses
	Launched Size          `json:"launched_memory_bytes,omitempty"` // memory that the VM was started with
	Balloon  *Size         `json:"balloon_bytes,omitempty"`         // memory that the guest has given back; absent if the VMM cannot tell

	// What the sparse files of the disks take on the host.
	OverlayOnHost Size `json:"overlay_on_host_bytes"` // space that the overlay uses on the host
	DiskOnHost    Size `json:"disk_on_host_bytes"`    // space that the work disk uses on the host

	// What it has transferred over the network in all its runs, this one included.
	NetworkReceived Size `json:"network_received_bytes"` // what its network card has received
	NetworkSent     Size `json:"network_sent_bytes"`     // what its network card has sent

	Guest *GuestStats `json:"guest,omitempty"` // absent if the agent cannot tell
}

// GuestStats is what a guest says of itself.
type GuestStats struct {
	Uptime          time.Duration `json:"uptime_ns"`              // time since the guest booted
	Load            [3]float64    `json:"load"`                   // load average over 1, 5 and 15 minutes
	CPUs            int           `json:"cpus,omitempty"`         // number of CPUs; absent with an older agent
	CPUBusy         time.Duration `json:"cpu_busy_ns,omitempty"`  // busy time of all CPUs since the boot
	CPUTotal        time.Duration `json:"cpu_total_ns,omitempty"` // busy and idle time of all CPUs since the boot
	MemoryTotal     Size          `json:"memory_total_bytes"`     // memory that the guest can use
	MemoryAvailable Size          `json:"memory_available_bytes"` // memory that programs could still get
	FileSystems     []FileSystem  `json:"file_systems"`           // `/`, `/root` and Docker's directory
}

// FileSystem is how full a file system of a guest is.
type FileSystem struct {
	Path string `json:"path"`       // where it is mounted
	Size Size   `json:"size_bytes"` // its size
	Used Size   `json:"used_bytes"` // space in use
}

// Image is a read-only root filesystem.
type Image struct {
	Name      string    `json:"name"`          // the image's name
	ID        Digest    `json:"digest"`        // SHA-256 of the content
	Size      Size      `json:"size_bytes"`    // its size
	Origin    string    `json:"origin"`        // what it was made from
	CreatedAt time.Time `json:"created_at"`    // when it was made
	Use       *Use      `json:"use,omitempty"` // which VMs use it

	Config *ImageConfig `json:"config,omitempty"` // what an image of a container says about its programs
}

// ImageConfig is what an image of a container says about its programs. Sessions in VMs get
// the environment; the rest is for people.
type ImageConfig struct {
	Env        []string `json:"env,omitempty"`         // variables of its programs: `NAME=value`
	Entrypoint []string `json:"entrypoint,omitempty"`  // program that a container runs
	Cmd        []string `json:"cmd,omitempty"`         // arguments of the entrypoint, or the program
	WorkingDir string   `json:"working_dir,omitempty"` // directory that the program starts in
	User       string   `json:"user,omitempty"`        // account that the program runs as
}

// Kernel is a kernel set: vmlinux, boot modules and the modules disk.
type Kernel struct {
	Name      string    `json:"name"`          // the kernel's release, such as 6.12.117+deb13-cloud-amd64
	ID        Digest    `json:"digest"`        // SHA-256 of the content
	Size      Size      `json:"size_bytes"`    // its size
	Origin    string    `json:"origin"`        // what it was made from
	CreatedAt time.Time `json:"created_at"`    // when it was made
	Use       *Use      `json:"use,omitempty"` // which VMs use it
}

// Use is what an image or a kernel set costs, and who needs it.
type Use struct {
	OnHost Size     `json:"on_host_bytes"` // space that the files use on the host
	VMs    []string `json:"vms"`           // names of the VMs that use it
}
