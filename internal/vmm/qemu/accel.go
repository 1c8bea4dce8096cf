package qemu

import (
	"fmt"
	"time"

	"banger"
	"banger/internal/vmm"
	"banger/internal/vmm/process"
)

// accelerator is how VMs run here, and what the user should know about it.
type accelerator struct {
	kvm  bool
	note string
	fix  string
}

const emulated = "VMs are emulated, which is many times slower"

func acceleratorOf(h process.Host) accelerator {
	if err := h.CheckKVM(); err != nil {
		return accelerator{note: fmt.Sprintf("%s: %v", emulated, err), fix: banger.FixOf(err)}
	}
	return accelerator{kvm: true}
}

// Two emulated CPUs take turns in one thread, and the guest's own code patching
// can break it if they do not: one is the right number.
func (a accelerator) capabilities(version string) vmm.Capabilities {
	c := vmm.Capabilities{Version: version, Accelerator: "kvm", MaxVCPUs: 64, DefaultVCPUs: 2,
		GrowOnline: true, Balloon: true, TellsBalloon: true, PowersOff: true, Pauses: true, BootTimeout: 60 * time.Second}
	if !a.kvm {
		c.Accelerator, c.Note, c.Fix = "tcg", a.note, a.fix
		c.MaxVCPUs, c.DefaultVCPUs, c.BootTimeout = 8, 1, 180*time.Second
	}
	return c
}
