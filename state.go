package banger

// State is what a VM is doing. Only Stopped and Running last; the others hold
// for the length of one operation.
type State string

// The states of a VM.
const (
	Stopped  State = "stopped"
	Starting State = "starting"
	Running  State = "running"
	Stopping State = "stopping"
	Deleting State = "deleting"
)

// Ending tells how a VM's last run ended.
type Ending string

// The endings. Only the guest's own report, its `bye`, makes an ending a clean
// one; everything else is told from what was seen on the host.
const (
	EndedNever    Ending = ""          // it has not run, or its first run has not ended
	EndedPoweroff Ending = "poweroff"  // clean: the guest powered off, or was stopped
	EndedReboot   Ending = "reboot"    // clean: the guest asked to be started again
	EndedHalt     Ending = "halt"      // clean: the guest halted
	EndedUnclean  Ending = "unclean"   // the guest switched itself off without its last stage
	EndedCrashed  Ending = "crashed"   // the guest was reset without a bye: a panic
	EndedKilled   Ending = "killed"    // we killed the VMM: `vm kill`, `vm stop` that ran out of time, or --force
	EndedVMMDied  Ending = "vmm-died"  // the VMM was killed from outside, or broke
	EndedHostDown Ending = "unwatched" // it ended while no daemon lived, and left no word: as by a power cut of the host
)

// Clean says whether the guest unmounted its disks before it ended.
func (e Ending) Clean() bool {
	return e == EndedPoweroff || e == EndedReboot || e == EndedHalt
}
