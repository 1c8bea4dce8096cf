package banger

import "fmt"

// State is what a VM is doing.
type State string

// The states of a VM. Only Stopped and Running last by themselves; the others
// end with the operation, the boot or the shutdown that they belong to.
const (
	Gone     State = ""         // it does not exist
	Creating State = "creating" // its disks are being made
	Stopped  State = "stopped"
	Starting State = "starting" // its VMM is being launched; the agent has not answered yet
	Booting  State = "booting"  // ssh and exec work; the init is still starting services
	Running  State = "running"
	Stopping State = "stopping" // its guest is shutting down, or its VMM is being ended
	Deleting State = "deleting"
)

// States lists every state that a VM can be shown in.
var States = []State{Creating, Stopped, Starting, Booting, Running, Stopping, Deleting}

// Up reports whether a VMM runs in this state and its guest can be reached.
func (s State) Up() bool { return s == Booting || s == Running }

// Wanted is what a VM's user asked for last: what a daemon that starts has to
// bring about.
type Wanted string

// What can be wanted of a VM.
const (
	WantStopped Wanted = "stopped"
	WantRunning Wanted = "running"
)

// Verb is what moves a VM from one state to another: a command, or something
// that happens to it.
type Verb string

// The commands.
const (
	Create      Verb = "create"
	Start       Verb = "start"
	Stop        Verb = "stop"
	Restart     Verb = "restart"
	Set         Verb = "set"
	Rename      Verb = "rename"
	Delete      Verb = "delete"
	ForceDelete Verb = "delete --force"
	Kill        Verb = "kill"
	FsckDisks   Verb = "fsck"
	Renumber    Verb = "renumber" // of the network
	Reach       Verb = "reach"    // ssh, exec, forwards
	Build       Verb = "build"    // an image
	Commit      Verb = "commit"   // a VM's system as an image
	Diff        Verb = "diff"     // a VM with its image
	Copy        Verb = "copy"     // a VM's disks, for a helper
)

// What happens to a VM by itself.
const (
	Created  Verb = "created"  // its disks are complete
	Failed   Verb = "failed"   // a start failed and was undone
	Adopted  Verb = "adopted"  // a new daemon found its VMM running
	Answered Verb = "answered" // the agent said hello, and the init has not finished
	Booted   Verb = "booted"   // the init has started everything
	Leaving  Verb = "leaving"  // the guest began to shut down
	Kept     Verb = "kept"     // a stop was given up before the guest heard of it
	Ended    Verb = "ended"    // the VMM ended
	Rebooted Verb = "rebooted" // the VMM ended, and the guest asked to be started again
	Deleted  Verb = "deleted"  // nothing is left of it
)

// Transition is one row of the table of states: a VM in state From takes Verb
// and is in state To afterwards. A verb that has no row for a state is refused.
type Transition struct {
	From   State
	Verb   Verb
	To     State
	Wanted Wanted // what is wanted from then on; empty: as before
	Wait   bool   // the verb first waits until the VM has left From
}

// Transitions is the whole life of a VM.
var Transitions = []Transition{
	{From: Gone, Verb: Create, To: Creating, Wanted: WantStopped},
	{From: Creating, Verb: Created, To: Stopped},
	{From: Creating, Verb: Delete, To: Deleting}, // the undo of a create

	{From: Stopped, Verb: Start, To: Starting, Wanted: WantRunning},
	{From: Stopped, Verb: Adopted, To: Running},
	{From: Stopped, Verb: Ended, To: Stopped, Wanted: WantStopped}, // a run that no daemon watched
	{From: Stopped, Verb: Rebooted, To: Stopped},
	{From: Stopped, Verb: Stop, To: Stopped, Wanted: WantStopped},
	{From: Stopped, Verb: Restart, To: Stopped},
	{From: Stopped, Verb: Set, To: Stopped},
	{From: Stopped, Verb: Rename, To: Stopped},
	{From: Stopped, Verb: FsckDisks, To: Stopped},
	{From: Stopped, Verb: Delete, To: Deleting},
	{From: Stopped, Verb: ForceDelete, To: Deleting},

	{From: Starting, Verb: Answered, To: Booting},
	{From: Starting, Verb: Failed, To: Stopped, Wanted: WantStopped},
	{From: Starting, Verb: Kill, To: Starting},
	{From: Starting, Verb: Reach, Wait: true},

	{From: Booting, Verb: Booted, To: Running},
	{From: Booting, Verb: Leaving, To: Stopping},
	{From: Booting, Verb: Ended, To: Stopped, Wanted: WantStopped},
	{From: Booting, Verb: Rebooted, To: Stopped},
	{From: Booting, Verb: Failed, To: Stopped, Wanted: WantStopped}, // the start's own last step
	{From: Booting, Verb: Start, To: Booting},
	{From: Booting, Verb: Stop, To: Stopping, Wanted: WantStopped},
	{From: Booting, Verb: Restart, To: Booting},
	{From: Booting, Verb: Set, To: Booting},
	{From: Booting, Verb: Rename, To: Booting},
	{From: Booting, Verb: Kill, To: Booting},
	{From: Booting, Verb: Reach, To: Booting},
	{From: Booting, Verb: ForceDelete, To: Stopping, Wanted: WantStopped},

	{From: Running, Verb: Answered, To: Booting}, // a soft reboot, or an adopted VM that still boots
	{From: Running, Verb: Leaving, To: Stopping},
	{From: Running, Verb: Ended, To: Stopped, Wanted: WantStopped},
	{From: Running, Verb: Rebooted, To: Stopped},
	{From: Running, Verb: Failed, To: Stopped, Wanted: WantStopped},
	{From: Running, Verb: Start, To: Running},
	{From: Running, Verb: Stop, To: Stopping, Wanted: WantStopped},
	{From: Running, Verb: Restart, To: Running},
	{From: Running, Verb: Set, To: Running},
	{From: Running, Verb: Rename, To: Running},
	{From: Running, Verb: Kill, To: Running},
	{From: Running, Verb: Reach, To: Running},
	{From: Running, Verb: ForceDelete, To: Stopping, Wanted: WantStopped},

	{From: Stopping, Verb: Ended, To: Stopped, Wanted: WantStopped},
	{From: Stopping, Verb: Rebooted, To: Stopped},
	{From: Stopping, Verb: Kept, To: Running, Wanted: WantRunning},
	{From: Stopping, Verb: Failed, To: Stopped, Wanted: WantStopped}, // the guest left while a start was at work
	{From: Stopping, Verb: Answered, To: Booting},                    // a soft reboot
	{From: Stopping, Verb: Start, Wait: true},
	{From: Stopping, Verb: Stop, To: Stopping, Wanted: WantStopped},
	{From: Stopping, Verb: Restart, Wait: true},
	{From: Stopping, Verb: Set, Wait: true},
	{From: Stopping, Verb: FsckDisks, Wait: true},
	{From: Stopping, Verb: Rename, To: Stopping},
	{From: Stopping, Verb: Kill, To: Stopping},
	{From: Stopping, Verb: ForceDelete, To: Stopping, Wanted: WantStopped},

	{From: Deleting, Verb: Delete, To: Deleting},
	{From: Deleting, Verb: ForceDelete, To: Deleting},
	{From: Deleting, Verb: Deleted, To: Gone},
}

// On returns the transition that v causes in state s, and whether there is one.
func (s State) On(v Verb) (Transition, bool) {
	for _, t := range Transitions {
		if t.From == s && t.Verb == v {
			return t, true
		}
	}
	return Transition{}, false
}

// reads is how a sentence names a state.
var reads = map[State]string{
	Creating: "being created", Stopped: "stopped", Starting: "starting", Booting: "booting",
	Running: "running", Stopping: "stopping", Deleting: "being deleted",
}

// leave is the command that brings a VM out of a state.
var leave = map[State]string{
	Creating: "banger vm wait --for agent %s", Stopped: "banger vm start %s", Starting: "banger vm wait --for agent %s",
	Booting: "banger vm stop %s", Running: "banger vm stop %s", Stopping: "banger vm wait --for stopped %s", Deleting: "banger vm delete %s",
}

// Refuse is the Conflict of a verb that a VM does not take in its state: a
// verb that has no row in Transitions. A VM that was deleted while the verb waited
// for its turn is NotFound.
func Refuse(v Verb, name string, s State) error {
	if s == Gone {
		return &Error{Kind: NotFound, What: fmt.Sprintf("there is no VM %q", name), Fix: "banger vm list"}
	}
	fix := fmt.Sprintf(leave[s], name)
	if v == Delete && s != Creating && s != Deleting {
		fix += fmt.Sprintf(", or banger vm delete --yes --force %s", name)
	}
	return &Error{Kind: Conflict, What: fmt.Sprintf("cannot %s VM %q while it is %s", v, name, reads[s]), Fix: fix}
}

// Ending tells how a VM's last run ended.
type Ending string

// The endings. An ending is clean only when the guest itself reported it, with
// its `bye`; all others are told from what the host saw.
const (
	EndedNever    Ending = ""          // it has not run, or its first run has not ended
	EndedPoweroff Ending = "poweroff"  // clean: the guest powered off, or was stopped
	EndedReboot   Ending = "reboot"    // clean: the guest asked to be started again
	EndedHalt     Ending = "halt"      // clean: the guest halted
	EndedUnclean  Ending = "unclean"   // the guest switched off without unmounting its disks, or with errors on them
	EndedCrashed  Ending = "crashed"   // the guest was reset without a bye: a panic
	EndedKilled   Ending = "killed"    // banger killed the VMM: `vm kill`, `vm stop --force`, or a stop that ran out of time
	EndedVMMDied  Ending = "vmm-died"  // the VMM failed, or somebody else killed it
	EndedHostDown Ending = "unwatched" // it ended while no daemon ran and left no trace: a power cut of the host
)

// Clean reports whether the guest unmounted its disks before it ended.
func (e Ending) Clean() bool {
	return e == EndedPoweroff || e == EndedReboot || e == EndedHalt
}
