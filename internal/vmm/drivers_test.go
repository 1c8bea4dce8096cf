package vmm

import (
	"context"
	"errors"
	"strings"
	"testing"

	"banger"
)

// some is a driver as far as one is chosen.
type some struct {
	Driver
	name string
	err  error
}

func (s some) Name() string { return s.name }

func (s some) Probe(context.Context) (Capabilities, error) {
	return Capabilities{Version: s.name + " 1"}, s.err
}

func TestChoose(t *testing.T) {
	broken := &banger.Error{Kind: banger.Unready, Why: errors.New("no KVM"), Fix: "sudo modprobe kvm_intel"}
	for _, test := range []struct {
		drivers     Drivers
		name        string
		want, error string
	}{
		{Drivers{some{name: "a"}, some{name: "b"}}, Auto, "a", ""},
		{Drivers{some{name: "a", err: broken}, some{name: "b"}}, Auto, "b", ""},
		{Drivers{some{name: "a", err: errors.New("other")}, some{name: "b", err: broken}}, Auto, "b", "no KVM"},
		{Drivers{some{name: "a"}, some{name: "b"}}, "b", "b", ""},
		{Drivers{some{name: "a", err: broken}, some{name: "b"}}, "a", "a", "use the driver a: no KVM"},
	} {
		driver, capabilities, err := test.drivers.Choose(t.Context(), test.name)
		if driver.Name() != test.want || err == nil && (test.error != "" || capabilities.Version != test.want+" 1") || err != nil && err.Error() != test.error {
			t.Errorf("%s of %s: got %s, %v", test.name, test.drivers.Names(), driver.Name(), err)
		}
		if err != nil && (banger.KindOf(err) != banger.Unready || banger.FixOf(err) != broken.Fix) {
			t.Errorf("kind %s, fix %q", banger.KindOf(err), banger.FixOf(err))
		}
	}
	_, _, err := Drivers{some{name: "a"}}.Choose(t.Context(), "c")
	if banger.KindOf(err) != banger.Invalid || !strings.Contains(banger.FixOf(err), "auto, a") {
		t.Errorf("got %v, fix %q", err, banger.FixOf(err))
	}
}
