package qemu

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"banger/internal/vmm"
)

// host is the part of a host that decides how VMs run on it.
type host struct{ cpuinfo, kvm string }

var thisHost = host{cpuinfo: "/proc/cpuinfo", kvm: "/dev/kvm"}

// accelerator is how VMs run here, and what the user should know about it.
type accelerator struct {
	kvm  bool
	note string
	fix  string
}

const emulated = "VMs run by emulation, many times slower"

// accelerator looks at the CPU first: a /dev/kvm without its flags opens, and
// then cannot run anything.
func (h host) accelerator() accelerator {
	cpu, err := h.cpuFields()
	if err != nil {
		return accelerator{note: fmt.Sprintf("%s: %v", emulated, err), fix: "banger doctor"}
	}
	flags := strings.Fields(cpu["flags"])
	vmx, svm := slices.Contains(flags, "vmx"), slices.Contains(flags, "svm")
	if !vmx && !svm {
		return accelerator{note: emulated + ": this CPU offers no virtualisation",
			fix: "switch on VT-x or AMD-V in the firmware, or nested virtualisation where this host itself is a VM"}
	}
	file, err := os.OpenFile(h.kvm, os.O_RDWR, 0)
	if err == nil {
		file.Close()
		return accelerator{kvm: true}
	}
	a := accelerator{note: fmt.Sprintf("%s: %v", emulated, err), fix: "banger doctor"}
	switch {
	case errors.Is(err, fs.ErrPermission):
		a.fix = "sudo usermod -aG kvm $USER, then log in again"
	case errors.Is(err, fs.ErrNotExist) && vmx:
		a.fix = "sudo modprobe kvm_intel"
	case errors.Is(err, fs.ErrNotExist):
		a.fix = "sudo modprobe kvm_amd"
	}
	return a
}

// cpuFields are the fields of the first CPU.
func (h host) cpuFields() (map[string]string, error) {
	data, err := os.ReadFile(h.cpuinfo)
	if err != nil {
		return nil, err
	}
	fields := make(map[string]string)
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan() && lines.Text() != ""; {
		key, value, _ := strings.Cut(lines.Text(), ":")
		fields[strings.TrimSpace(key)] = strings.TrimSpace(value)
	}
	return fields, nil
}

// defaultKHz serves where the host does not say its own: any sane value does.
const defaultKHz = 2_000_000

// khz is the host's clock rate.
func (h host) khz() int {
	cpu, err := h.cpuFields()
	if err != nil {
		return defaultKHz
	}
	mhz, err := strconv.ParseFloat(cpu["cpu MHz"], 64)
	if err != nil || mhz < 100 || mhz > 20_000 {
		return defaultKHz
	}
	return int(mhz * 1000)
}

// Two emulated CPUs take turns in one thread, and the guest's own code patching
// can break it if they do not: one is the right number.
func (a accelerator) capabilities(version string) vmm.Capabilities {
	c := vmm.Capabilities{Version: version, Accelerator: "kvm", MaxVCPUs: 64, DefaultVCPUs: 2,
		GrowOnline: true, PowersOff: true, BootTimeout: 60 * time.Second}
	if !a.kvm {
		c.Accelerator, c.Note, c.Fix = "tcg", a.note, a.fix
		c.MaxVCPUs, c.DefaultVCPUs, c.BootTimeout = 8, 1, 180*time.Second
	}
	return c
}
