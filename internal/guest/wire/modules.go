package wire

import (
	"strconv"
	"strings"
)

// Numbers of virtio devices that a VM may lack (virtio specification, section 5).
const (
	VirtioNet     = 1
	VirtioRNG     = 4
	VirtioBalloon = 5
	VirtioVsock   = 19
)

// BootModule is a module of the initrd: its path below the initrd's root, and the
// number of the virtio device without which no VM needs it. Every VM needs one with
// device 0.
type BootModule struct {
	Path   string
	Device int
}

// String returns the module's line in the file ModulesPath.
func (m BootModule) String() string {
	if m.Device == 0 {
		return m.Path
	}
	return m.Path + " " + strconv.Itoa(m.Device)
}

// ParseBootModule reads such a line. Kernel sets of older bundles name no devices.
func ParseBootModule(line string) BootModule {
	path, device, _ := strings.Cut(strings.TrimSpace(line), " ")
	number, _ := strconv.Atoi(device)
	return BootModule{Path: path, Device: number}
}
