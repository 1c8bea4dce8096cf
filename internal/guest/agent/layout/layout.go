// Package layout names the agent's files, sockets, control groups and roles in a
// guest, and reads and writes its small files. It does not decide when they exist.
package layout

import (
	"encoding/json"
	"fmt"
	"os"

	"banger/internal/guest/wire"
)

// Names by which a process of the agent knows its role. systemd-shutdown and the
// agent's own last stage leave processes alone whose name begins with @.
const (
	NameInit     = "init"
	NameServer   = "@banger-agent"
	NameShutdown = "shutdown"
	NameModprobe = "modprobe"
	NameSFTP     = "sftp-server"
	NameTransfer = "transfer"
	NameExport   = "export"
)

// The argument of NameServer tells its roles apart.
const (
	ArgFirst = "serve-first" // the first server of a boot
	ArgServe = "serve"       // a server in the place of one that died
	ArgKeep  = "keep"        // what starts it
)

// NewRoot is where the boot builds the root file system.
const NewRoot = "/newroot"

// Files on /run. What the last stage needs is in LastRoot, which becomes its
// root: only that is sure to be mounted by then.
const (
	RunDir       = "/run/banger"
	LastRoot     = "/run/initramfs"
	AgentFile    = LastRoot + "/" + NameShutdown
	ConfigFile   = LastRoot + "/config.json"
	KeysFile     = RunDir + "/authorized_keys"
	InitFile     = RunDir + "/init"    // how far the init has come
	NetworkFile  = RunDir + "/network" // what the network is and was
	ModprobeFile = RunDir + "/" + NameModprobe
	ScratchDir   = RunDir + "/mnt"
)

// Files on the overlay: what the agent remembers of the VM.
const (
	HostNameMemory = "/var/lib/banger/hostname" // the VM's name that the host name was made from
	UsersMemory    = "/var/lib/banger/users"    // the users that the VM was given, one a line
)

// LastConfig is ConfigFile as the last stage sees it.
const LastConfig = "/config.json"

// Sockets in the abstract namespace, which need no file system. The server only
// listens to process 1 there.
const (
	NotifySocket = "@banger-notify"
	ByeSocket    = "@banger-bye"
)

// The agent's control groups. systemd leaves them alone; in its own groups it
// would kill the agent's processes when it stops.
const (
	CgroupRoot     = "/sys/fs/cgroup"
	CgroupServer   = CgroupRoot + "/banger/agent"
	CgroupSessions = CgroupRoot + "/banger/sessions"
)

// DefaultPath is the PATH of the programs that the agent starts.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// ReadConfig reads the VM's configuration from a file.
func ReadConfig(path string) (wire.Config, error) {
	var c wire.Config
	raw, err := os.ReadFile(path)
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return c, fmt.Errorf("read %s: %w", path, err)
	}
	return c, nil
}

// CurrentConfig returns the path of the VM's configuration: a server that starts
// during the last stage finds it in the last stage's root.
func CurrentConfig() string {
	if _, err := os.Stat(ConfigFile); err != nil {
		return LastConfig
	}
	return ConfigFile
}

// WriteJSON replaces a private file with a value in JSON, in full or not at all.
func WriteJSON(path string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	aside := path + ".new"
	if err := os.WriteFile(aside, raw, 0o600); err != nil {
		return err
	}
	return os.Rename(aside, path)
}
