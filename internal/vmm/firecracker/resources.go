package firecracker

// The bodies of the API's calls and answers. Firecracker refuses unknown fields, so a
// field that the oldest supported release lacks must depend on the release.

type machineConfig struct {
	VCPUs     int   `json:"vcpu_count"`
	MemoryMiB int64 `json:"mem_size_mib"`
}

type bootSource struct {
	Kernel string `json:"kernel_image_path"`
	Initrd string `json:"initrd_path"`
	Args   string `json:"boot_args"`
}

type drive struct {
	ID        string `json:"drive_id"`
	File      string `json:"path_on_host"`
	Root      bool   `json:"is_root_device"` // never: the agent finds its disks by their labels
	ReadOnly  bool   `json:"is_read_only"`
	CacheType string `json:"cache_type"`
}

// writeback makes a drive honour flushes, which it does not by default.
const writeback = "Writeback"

type driveUpdate struct {
	ID   string `json:"drive_id"`
	File string `json:"path_on_host"`
}

// networkInterface is the guest's network card.
type networkInterface struct {
	ID  string `json:"iface_id"`
	Tap string `json:"host_dev_name"`
	MAC string `json:"guest_mac"`
}

// sizedInterface also tells the guest the size of its packets.
type sizedInterface struct {
	networkInterface
	MTU int `json:"mtu"` // since 1.16
}

// interfaceID is what Firecracker calls the card; the guest's kernel names it as it likes.
const interfaceID = "eth0"

type vsock struct {
	GuestCID uint32 `json:"guest_cid"`
	Socket   string `json:"uds_path"`
}

// guestCID is the address of every guest: each has a vsock of its own. Lower numbers are
// reserved.
const guestCID = 3

type entropy struct{}

// balloon takes memory only when it is told to, and returns it if the guest runs out of
// memory.
type balloon struct {
	AmountMiB    int64 `json:"amount_mib"`
	DeflateOnOOM bool  `json:"deflate_on_oom"`
	Interval     int   `json:"stats_polling_interval_s"`
}

// reportingBalloon also makes the guest report free pages, and returns them to the host.
type reportingBalloon struct {
	balloon
	FreePages bool `json:"free_page_reporting"` // since 1.14
}

// statsInterval is the time in seconds between two statistics of the balloon.
const statsInterval = 5

type balloonUpdate struct {
	AmountMiB int64 `json:"amount_mib"`
}

// balloonStats is what is read of the answer to getBalloon.
type balloonStats struct {
	ActualMiB int64 `json:"actual_mib"`
}

type serial struct {
	Limit tokenBucket `json:"rate_limiter"` // since 1.16
}

type tokenBucket struct {
	Size     int64 `json:"size"`           // bytes
	Burst    int64 `json:"one_time_burst"` // bytes that are free at first
	RefillMS int64 `json:"refill_time"`
}

// consoleLimit keeps a guest from filling the host's disk through its console.
var consoleLimit = tokenBucket{Size: 64 << 10, Burst: 4 << 20, RefillMS: 1000}

type action struct {
	Type string `json:"action_type"`
}

const instanceStart = "InstanceStart"

// instance is the answer to describe.
type instance struct {
	State string `json:"state"`
}

const stateNotStarted = "Not started"

// vmConfig is what is read of the answer to describeConfig.
type vmConfig struct {
	Drives  []driveUpdate `json:"drives"`
	Machine machineConfig `json:"machine-config"`
	Balloon balloon       `json:"balloon"`
}
