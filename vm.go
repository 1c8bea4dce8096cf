package banger

import "time"

// VMID identifies a VM for its whole life: 12 lower-case hexadecimal digits.
type VMID string

// Digest is "sha256:" and 64 hexadecimal digits.
type Digest string

// VM is a persistent machine as its daemon describes it.
type VM struct {
	ID        VMID      `json:"id"`
	Name      string    `json:"name"`
	State     State     `json:"state"`
	Image     string    `json:"image"`        // the image's name when the VM was made
	ImageID   Digest    `json:"image_digest"` // what the VM is pinned to
	Kernel    string    `json:"kernel"`
	KernelID  Digest    `json:"kernel_digest"`
	VCPUs     int       `json:"vcpus"`
	Memory    Size      `json:"memory_bytes"`
	Overlay   Size      `json:"overlay_bytes"`
	Disk      Size      `json:"disk_bytes"`
	Driver    string    `json:"driver"`
	Network   string    `json:"network"`
	CreatedAt time.Time `json:"created_at"`

	// Of the current run; zero when the VM is stopped.
	PID       int       `json:"pid,omitempty"`     // of the VMM
	BootID    string    `json:"boot_id,omitempty"` // the guest kernel's
	StartedAt time.Time `json:"started_at,omitzero"`
	Launched  Size      `json:"launched_memory_bytes,omitempty"` // the most it can have while it runs

	// Of the last run that ended.
	Ending   Ending    `json:"ending,omitempty"`
	EndingBy string    `json:"ending_detail,omitempty"` // one line: the panic, the signal
	EndedAt  time.Time `json:"ended_at,omitzero"`

	// Where things lie on the host of the daemon.
	Dir        string `json:"dir"`
	Console    string `json:"console_log"`
	VMMLog     string `json:"vmm_log"`
	SSHKey     string `json:"ssh_key"`
	KnownHosts string `json:"known_hosts"`
}

// VMSummary is what a list tells of a VM. It exists because there may be a
// thousand of them in one, and most of what a VM is goes into no table.
type VMSummary struct {
	Name      string    `json:"name"`
	State     State     `json:"state"`
	Image     string    `json:"image"`
	VCPUs     int       `json:"vcpus"`
	Memory    Size      `json:"memory_bytes"`
	Disk      Size      `json:"disk_bytes"`
	CreatedAt time.Time `json:"created_at"`
	Ending    Ending    `json:"ending,omitempty"`
}

// VMStats is what a VM uses at one moment. Of a VM that does not run only its
// disks are known.
type VMStats struct {
	ID    VMID   `json:"id"`
	Name  string `json:"name"`
	State State  `json:"state"`

	// Of the VMM, as the host sees it.
	PID      int           `json:"pid,omitempty"`
	CPUTime  time.Duration `json:"cpu_time_ns,omitempty"`
	Resident Size          `json:"resident_bytes,omitempty"`
	Launched Size          `json:"launched_memory_bytes,omitempty"`
	Balloon  *Size         `json:"balloon_bytes,omitempty"` // what the guest has given back; nil when the VMM cannot tell

	// What the sparse files of the disks take on the host.
	OverlayOnHost Size `json:"overlay_on_host_bytes"`
	DiskOnHost    Size `json:"disk_on_host_bytes"`

	Guest *GuestStats `json:"guest,omitempty"` // nil when its agent cannot tell
}

// GuestStats is what a guest says of itself.
type GuestStats struct {
	Uptime          time.Duration `json:"uptime_ns"`
	Load            [3]float64    `json:"load"` // over 1, 5 and 15 minutes
	CPUs            int           `json:"cpus,omitempty"`
	CPUBusy         time.Duration `json:"cpu_busy_ns,omitempty"`  // of all CPUs together, since the boot
	CPUTotal        time.Duration `json:"cpu_total_ns,omitempty"` // with what they were idle; 0 when an older agent does not tell
	MemoryTotal     Size          `json:"memory_total_bytes"`
	MemoryAvailable Size          `json:"memory_available_bytes"`
	FileSystems     []FileSystem  `json:"file_systems"`
}

// FileSystem is how full a file system of a guest is.
type FileSystem struct {
	Path string `json:"path"`
	Size Size   `json:"size_bytes"`
	Used Size   `json:"used_bytes"`
}

// Image is a read-only root filesystem.
type Image struct {
	Name      string    `json:"name"`
	ID        Digest    `json:"digest"`
	Size      Size      `json:"size_bytes"`
	Origin    string    `json:"origin"`
	CreatedAt time.Time `json:"created_at"`
	Use       *Use      `json:"use,omitempty"` // not on record: asked when it is listed
}

// Kernel is a kernel set: vmlinux, boot modules and the modules disk.
type Kernel struct {
	Name      string    `json:"name"` // the kernel's release: 6.12.117+deb13-cloud-amd64
	ID        Digest    `json:"digest"`
	Size      Size      `json:"size_bytes"`
	Origin    string    `json:"origin"`
	CreatedAt time.Time `json:"created_at"`
	Use       *Use      `json:"use,omitempty"` // not on record: asked when it is listed
}

// Use is what an image or a kernel set costs, and who needs it.
type Use struct {
	OnHost Size     `json:"on_host_bytes"` // what its files take on the host
	VMs    []string `json:"vms"`           // names of the VMs that were made from it
}
