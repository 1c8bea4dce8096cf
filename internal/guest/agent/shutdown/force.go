package shutdown

import (
	"golang.org/x/sys/unix"

	"banger/internal/guest/agent/disk"
	"banger/internal/guest/agent/log"
	"banger/internal/guest/agent/process"
	"banger/internal/guest/wire"
)

// force ends the machine in place of an init that has not. Process 1 is frozen, so
// that it starts nothing again, and everything else is killed.
func (s *Stopper) force(verb wire.Verb, why string) {
	log.Errorf("%s: end the machine without it", why)
	process.FreezeInit()
	process.KillSessions()
	process.EndAll(unix.SIGKILL, process.KillTime)
	unix.Sync()
	remountReadOnly()
	// Last: the host does not wait long after a bye, and takes it for a clean end.
	disks := s.Disks()
	disk.PrintErrors(s.Config.Nonce, disks)
	printBye(s.Config.Nonce, verb, " "+why)
	s.Bye(wire.Event{Kind: wire.EventBye, Verb: verb, Nonce: s.Config.Nonce, Why: why, Disks: disks})
	EndMachine(verb, s.Config.ResetToOff)
}
