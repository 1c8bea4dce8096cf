package agent

import (
	"encoding/json"
	"fmt"
	"os"

	"banger/internal/guest/wire"
)

// Places on /run. What the last stage needs lies in lastRoot, which is its
// root: nothing else is sure to be mounted by then.
const (
	runDir       = "/run/banger"
	lastRoot     = "/run/initramfs"
	agentFile    = lastRoot + "/" + nameShutdown
	configFile   = lastRoot + "/config.json"
	keysFile     = runDir + "/authorized_keys"
	progressFile = runDir + "/init"
	modprobeFile = runDir + "/" + nameModprobe
	scratchDir   = runDir + "/mnt"
)

// Sockets in the abstract namespace: they need no file system. Only process 1
// is listened to.
const (
	notifySocket = "@banger-notify"
	byeSocket    = "@banger-bye"
)

func readConfig(path string) (wire.Config, error) {
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
