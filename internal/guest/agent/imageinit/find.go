// Package imageinit finds the image's init and follows how far it has come: its
// start, its emergency mode, its end. It does not start or stop it.
package imageinit

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"banger/internal/guest/agent/inroot"
	"banger/internal/guest/wire"
	"banger/internal/linux"
)

// Kind is how the agent talks to the image's init.
type Kind string

const (
	None    Kind = "no"      // the image has none: the agent is process 1
	Systemd Kind = "systemd" // by signals above SIGRTMIN; it notifies
	Foreign Kind = "foreign" // by the image's own commands
)

// programs are tried in order.
var programs = []string{
	"/sbin/init", "/usr/sbin/init", "/etc/init", "/bin/init",
	"/lib/systemd/systemd", "/usr/lib/systemd/systemd",
}

// Find returns the image's init, or None.
func Find(root string) (program string, kind Kind) {
	for _, path := range programs {
		f, err := inroot.Open(root, path, unix.O_PATH)
		if err != nil {
			continue
		}
		info, err := f.Stat()
		name, _ := os.Readlink(linux.Through(f))
		f.Close()
		if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			continue
		}
		if filepath.Base(name) == "systemd" {
			return path, Systemd
		}
		return path, Foreign
	}
	return "", None
}

// firstState returns the state in which an init starts. Nothing more is ever known
// of a foreign one, so it counts as up.
func firstState(kind Kind) wire.Init {
	switch kind {
	case None:
		return wire.InitNone
	case Systemd:
		return wire.InitStarting
	}
	return wire.InitUp
}
