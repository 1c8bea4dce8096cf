package agent

import (
	"fmt"
	"os"
	"path/filepath"

	"banger/internal/version"
)

// Names by which a process of the agent knows its role. A leading @ tells
// systemd-shutdown, and our own last stage, to leave the process alone.
const (
	nameInit     = "init"
	nameServer   = "@banger-agent"
	nameShutdown = "shutdown"
	nameModprobe = "modprobe"
	nameSFTP     = "sftp-server"
)

const argServe = "serve"

// Main runs the role that the process id and the arguments name and returns
// the exit status.
func Main(args []string) int {
	name := ""
	if len(args) > 0 {
		name = filepath.Base(args[0])
	}
	first := os.Getpid() == 1
	switch {
	case first && name == nameInit:
		return runBoot()
	case first && name == nameShutdown:
		return runLastStage(args[1:])
	case name == nameServer && len(args) > 1 && args[1] == argServe:
		return runServer()
	case name == nameServer:
		return runParent()
	case name == nameModprobe:
		return runModprobe(args[1:])
	case name == nameSFTP:
		return runSFTP()
	}
	fmt.Printf("banger-agent %s runs inside VMs; banger puts it there\n", version.Version)
	return 2
}
