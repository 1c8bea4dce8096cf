package process

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"banger"
)

// Host is what decides how VMs run on a host.
type Host struct {
	CPUInfo string // the kernel's file about the CPUs
	KVM     string // KVM's device
	Proc    string // the kernel's directory about processes
	Self    string // and about this one
	Files   uint64 // most that a process may have open
	Root    bool   // this process is root, as which no VMM may run
	Systemd Systemd
}

// ThisHost returns the host that this process runs on.
func ThisHost() Host {
	return Host{CPUInfo: "/proc/cpuinfo", KVM: "/dev/kvm", Proc: "/proc", Self: "/proc/self", Files: mostFiles(), Root: os.Geteuid() == 0, Systemd: thisSystemd()}
}

// CheckKVM returns an Unready error with a fix if KVM cannot run VMs here. It checks the
// CPU first: without its flags the device opens, but runs nothing.
func (h Host) CheckKVM() error {
	cpu, err := h.CPU()
	if err != nil {
		return &banger.Error{Kind: banger.Unready, Why: err, Fix: "banger doctor"}
	}
	flags := strings.Fields(cpu["flags"])
	vmx, svm := slices.Contains(flags, "vmx"), slices.Contains(flags, "svm")
	if !vmx && !svm {
		return &banger.Error{Kind: banger.Unready, Why: errors.New("this CPU offers no virtualisation"),
			Fix: "switch on VT-x or AMD-V in the firmware, or nested virtualisation where this host itself is a VM"}
	}
	file, err := os.OpenFile(h.KVM, os.O_RDWR, 0)
	if err == nil {
		defer file.Close()
		return h.checkGroup(file)
	}
	fix := "banger doctor"
	switch {
	case errors.Is(err, fs.ErrPermission):
		fix = JoinKVM
	case errors.Is(err, fs.ErrNotExist) && vmx:
		fix = "sudo modprobe kvm_intel"
	case errors.Is(err, fs.ErrNotExist):
		fix = "sudo modprobe kvm_amd"
	}
	return &banger.Error{Kind: banger.Unready, Why: err, Fix: fix}
}

// checkGroup returns an error if no account may open the device: root may open anything.
func (h Host) checkGroup(device *os.File) error {
	info, err := device.Stat()
	if err != nil || !h.Root {
		return err
	}
	mode, group := info.Mode().Perm(), info.Sys().(*syscall.Stat_t).Gid
	if mode&0o006 == 0o006 || mode&0o060 == 0o060 && group != 0 {
		return nil
	}
	return &banger.Error{Kind: banger.Unready, Why: fmt.Errorf("only root can open %s, and VMs do not run as root", h.KVM),
		Fix: "groupadd --force --system kvm && chgrp kvm " + h.KVM + " && chmod 660 " + h.KVM}
}

// JoinKVM is the fix if the user may not open /dev/kvm. A running daemon keeps the
// groups that it was started with.
const JoinKVM = "sudo usermod -aG kvm $USER, then log in again, then: banger daemon stop"

// CPU returns the fields of the first CPU in /proc/cpuinfo.
func (h Host) CPU() (map[string]string, error) {
	data, err := os.ReadFile(h.CPUInfo)
	if err != nil {
		return nil, fmt.Errorf("inspect the CPU: %w", err)
	}
	fields := make(map[string]string)
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan() && lines.Text() != ""; {
		key, value, _ := strings.Cut(lines.Text(), ":")
		fields[strings.TrimSpace(key)] = strings.TrimSpace(value)
	}
	return fields, nil
}
