package vmmtest

import "slices"

// Fault is what goes wrong with a fake VM.
type Fault string

// The faults.
const (
	FailsProbe   Fault = "fails-probe"    // the host cannot run VMs
	FailsLaunch  Fault = "fails-launch"   // Launch returns an error
	NeverReady   Fault = "never-ready"    // the guest never answers
	SlowBoot     Fault = "slow-boot"      // the guest does not answer before its VMM has got a SIGUSR1
	HasNoTimer   Fault = "has-no-timer"   // the guest's kernel could not measure its timer
	DiesBooting  Fault = "dies-booting"   // the VMM gives up when it is first spoken to
	PanicsAtStop Fault = "panics-at-stop" // ends without a bye when asked to stop
	IgnoresStop  Fault = "ignores-stop"   // answers yes to a stop, and continues
	IgnoresPing  Fault = "ignores-ping"   // as a guest that has halted
	AnswersLate  Fault = "answers-late"   // takes a third of a second to accept a connection other than the control's
	KnowsNoStats Fault = "knows-no-stats" // an older agent
	SlowInit     Fault = "slow-init"      // the init has not started everything until an event says so
	EndsInSecret Fault = "ends-in-secret" // the init is stopping, and says so only when it is asked
	NoNetwork    Fault = "no-network"     // the guest could not set up its network card
	RefusesGrow  Fault = "refuses-grow"   // the guest does not grow its file systems
)

// Faults are those of one VM.
type Faults []Fault

func (f Faults) has(fault Fault) bool { return slices.Contains(f, fault) }
