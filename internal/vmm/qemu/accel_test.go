package qemu

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/vmm/process"
	"banger/internal/vmm/vmmtest"
)

func testHost(t *testing.T, cpuinfo string) process.Host {
	t.Helper()
	dir := t.TempDir()
	h := process.Host{CPUInfo: filepath.Join(dir, "cpuinfo"), KVM: filepath.Join(dir, "kvm")}
	if err := os.WriteFile(h.CPUInfo, []byte(cpuinfo), 0o600); err != nil {
		t.Fatal(err)
	}
	return h
}

const (
	intel = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu MHz\t\t: 2095.078\nflags\t\t: fpu vmx sse\n\nprocessor\t: 1\ncpu MHz\t\t: 800.000\nflags\t\t: fpu\n\n"
	amd   = "processor\t: 0\nflags\t\t: fpu svm\n"
	plain = "processor\t: 0\ncpu MHz\t\t: 0.0\nflags\t\t: fpu vmxish\n"
)

func TestAccelerator(t *testing.T) {
	kvm := func(t *testing.T, h process.Host) {
		if err := os.WriteFile(h.KVM, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	forbidden := func(t *testing.T, h process.Host) {
		if err := os.Mkdir(h.KVM, 0o700); err != nil { // opens for nobody, root included
			t.Fatal(err)
		}
	}
	nothing := func(*testing.T, process.Host) {}
	for _, test := range []struct {
		name    string
		cpuinfo string
		prepare func(*testing.T, process.Host)
		kvm     bool
		note    string
		fix     string
	}{
		{"kvm", intel, kvm, true, "", ""},
		{"device without the CPU", plain, kvm, false, "this CPU offers no virtualisation", "firmware"},
		{"Intel, no device", intel, nothing, false, "no such file", "sudo modprobe kvm_intel"},
		{"AMD, no device", amd, nothing, false, "no such file", "sudo modprobe kvm_amd"},
		{"odd device", intel, forbidden, false, "is a directory", "banger doctor"},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := testHost(t, test.cpuinfo)
			test.prepare(t, h)
			a := acceleratorOf(h)
			if a.kvm != test.kvm || !strings.Contains(a.note, test.note) || !strings.Contains(a.fix, test.fix) || (a.note == "") != test.kvm {
				t.Errorf("got %+v", a)
			}
			c := a.capabilities("7.2.22")
			if (c.Accelerator == "kvm") != test.kvm || c.Note != a.note || c.Fix != a.fix {
				t.Errorf("got %+v", c)
			}
			if c.DefaultVCPUs != 1 && !test.kvm {
				t.Errorf("%d emulated CPUs by default", c.DefaultVCPUs)
			}
		})
	}
}

func TestAcceleratorWithoutPermission(t *testing.T) {
	h := testHost(t, intel)
	if err := os.WriteFile(h.KVM, nil, 0); err != nil {
		t.Fatal(err)
	}
	defer vmmtest.Plain(t, h)()
	if a := acceleratorOf(h); a.kvm || a.fix != process.JoinKVM {
		t.Errorf("got %+v", a)
	}
}
