package agent

import (
	"fmt"
	"os"
	"path/filepath"

	"banger/internal/guest/agent/boot"
	"banger/internal/guest/agent/export"
	"banger/internal/guest/agent/layout"
	"banger/internal/guest/agent/modprobe"
	"banger/internal/guest/agent/server"
	"banger/internal/guest/agent/shutdown"
	"banger/internal/guest/agent/sshd"
	"banger/internal/version"
)

// Main runs the role that the process id and the arguments name. It returns the exit
// status.
func Main(args []string) int {
	name := ""
	if len(args) > 0 {
		name = filepath.Base(args[0])
	}
	first := os.Getpid() == 1
	switch {
	case first && name == layout.NameInit:
		return boot.Run()
	case first && name == layout.NameShutdown:
		return shutdown.LastStage(args[1:])
	case name == layout.NameServer && len(args) > 1:
		return serverRole(args[1])
	case name == layout.NameModprobe:
		return modprobe.Run(args[1:])
	case name == layout.NameTransfer:
		return sshd.RunTransfer()
	case name == layout.NameExport:
		return export.Run()
	case name == layout.NameSFTP:
		return sshd.RunSFTP()
	}
	fmt.Printf("banger-agent %s runs inside VMs; banger puts it there\n", version.Version)
	return 2
}

func serverRole(arg string) int {
	if arg == layout.ArgKeep {
		return server.RunKeeper()
	}
	return server.Run(arg == layout.ArgFirst)
}
