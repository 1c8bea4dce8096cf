package process

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"

	"banger"
	"banger/internal/vmm"
)

// CheckTap returns an Unready error if the TAP of a VM does not exist. A VMM that is root
// would make another in its place. In a namespace only the VMM can see it.
func CheckTap(spec vmm.Spec) error {
	if spec.NIC == nil || spec.Inside != nil {
		return nil
	}
	if _, err := net.InterfaceByName(spec.NIC.Tap); err != nil {
		return noTap(spec)
	}
	return nil
}

func noTap(spec vmm.Spec) error {
	return &banger.Error{Kind: banger.Unready, What: "open the network card of the VM",
		Why: fmt.Errorf("there is no TAP %s that the VMM may open", spec.NIC.Tap), Fix: "banger vm start " + spec.Name}
}

// ExplainTap returns why a VMM that failed with these words could not open its TAP, or nil
// if they are about something else.
func ExplainTap(said string, spec vmm.Spec) error {
	if spec.NIC == nil || !strings.Contains(said, spec.NIC.Tap) && !strings.Contains(said, "/dev/net/tun") {
		return nil
	}
	because := func(fix, format string, args ...any) error {
		return &banger.Error{Kind: banger.Unready, What: "open the network card of the VM", Why: fmt.Errorf(format, args...), Fix: fix}
	}
	has := func(errno syscall.Errno) bool { return strings.Contains(strings.ToLower(said), errno.Error()) }
	switch tap := spec.NIC.Tap; {
	case strings.Contains(said, "esource busy"): // "Device or" before it, or not: each C library has words of its own
		return because(fmt.Sprintf("end the process that this command names: sudo grep -ls 'iff:.%s$' /proc/[0-9]*/fdinfo/*", tap), "another process has the TAP %s", tap)
	case has(syscall.EPERM):
		return noTap(spec)
	case has(syscall.EACCES), has(syscall.ENOENT):
		return because("banger doctor", "the VMM may not open /dev/net/tun: %w", errors.New(said))
	}
	return nil
}
