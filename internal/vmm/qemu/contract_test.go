//go:build vm

package qemu

import (
	"testing"

	"banger/internal/guest/wire"
	"banger/internal/hostcmd"
	"banger/internal/vmm"
	"banger/internal/vmm/vmmtest"
	"banger/internal/vmm/vmmtest/realguest"
)

func TestContract(t *testing.T) {
	guest := realguest.Build(t)
	vmmtest.Run(t, func(t *testing.T) (vmm.Driver, func(*testing.T) vmm.Spec) {
		return realguest.Measuring{Driver: New(hostcmd.Host{})}, func(t *testing.T) vmm.Spec { return guest.Spec(t, Name, wire.Config{}) }
	})
}
