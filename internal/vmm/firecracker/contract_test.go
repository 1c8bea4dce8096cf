//go:build vm

package firecracker

import (
	"os"
	"testing"

	"banger"
	"banger/internal/guest/wire"
	"banger/internal/hostcmd"
	"banger/internal/vmm"
	"banger/internal/vmm/vmmtest"
	"banger/internal/vmm/vmmtest/realguest"
)

// The contract on real VMs. It needs KVM, and skips without; what can be tried
// without is in TestContractWithoutVMs and in the tests of a real Firecracker.
func TestContract(t *testing.T) {
	driver := New(hostcmd.Host{}, Places{Configured: os.Getenv(realFirecracker)})
	if _, err := driver.Probe(t.Context()); err != nil {
		t.Skipf("Firecracker cannot run VMs here: %v; fix: %s", err, banger.FixOf(err))
	}
	guest := realguest.Build(t)
	vmmtest.Run(t, func(t *testing.T) (vmm.Driver, func(*testing.T) vmm.Spec) {
		return realguest.Measuring{Driver: driver}, func(t *testing.T) vmm.Spec { return guest.Spec(t, Name, wire.Config{ResetToOff: true}) }
	})
}
