package qemu

import (
	"fmt"
	"strconv"
	"strings"

	"banger"
	"banger/internal/guest/wire"
	"banger/internal/vmm"
)

// Sockets in a VM's directory.
const (
	monitorSocket = "qmp.sock"
	controlSocket = "control.sock"
	streamsSocket = "streams.sock"
)

// Descriptors that QEMU inherits, behind the standard ones.
const (
	monitorFD = 3 + iota
	controlFD
	streamsFD
)

// translationCache bounds, in MiB, the memory for translated code. The default
// is an eighth of the host's memory for each VM.
const translationCache = 256

// args returns QEMU's command line, without its name. Neither it nor the kernel's may
// hold a secret: every process of the host can read the first, and every process of the
// guest the second.
func args(spec vmm.Spec, accel accelerator, khz int, p program) []string {
	a := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-name", "banger:" + escape(spec.Name),
		"-msg", "timestamp=on",
		"-machine", "microvm,acpi=on,pic=off,pit=off,rtc=on,isa-serial=on,usb=off,pcie=off",
		"-m", fmt.Sprintf("%dM", spec.Memory/banger.MiB),
		"-smp", fmt.Sprint(spec.VCPUs),
	}
	if p.sandbox {
		a = append(a, "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
	}
	if accel.kvm {
		a = append(a, "-accel", "kvm", "-cpu", "host")
	} else {
		// With svm the guest's udev would load kvm, which takes seconds and is useless.
		a = append(a, "-accel", emulation(spec.VCPUs), "-cpu", "max,svm=off")
	}
	a = append(a, "-kernel", escape(spec.Kernel), "-initrd", escape(spec.Initrd), "-append", cmdline(accel, khz, p.version))
	for _, disk := range spec.Disks {
		a = append(a,
			"-drive", drive(disk),
			"-device", fmt.Sprintf("virtio-blk-device,drive=%s", disk.Role))
	}
	if spec.NIC != nil {
		a = append(a, card(*spec.NIC)...)
	}
	a = append(a, "-object", "rng-builtin,id=rng", "-device", "virtio-rng-device,rng=rng",
		"-device", "virtio-balloon-device,id=balloon,deflate-on-oom=on,free-page-reporting=on",
		"-device", "virtio-serial-device,id=serial,max_ports=3")
	for i, port := range []struct {
		name string
		fd   int
	}{{wire.SerialControl, controlFD}, {wire.SerialStreams, streamsFD}} {
		a = append(a,
			"-chardev", fmt.Sprintf("socket,id=%s,fd=%d,server=on,wait=off", port.name, port.fd),
			"-device", fmt.Sprintf("virtserialport,bus=serial.0,nr=%d,chardev=%s,name=%s,id=%s", i+1, port.name, port.name, port.name))
	}
	return append(a,
		"-chardev", fmt.Sprintf("file,id=console,path=%s,append=on", escape(spec.Console)), "-serial", "chardev:console",
		"-chardev", fmt.Sprintf("socket,id=monitor,fd=%d,server=on,wait=off", monitorFD), "-mon", "chardev=monitor,mode=control")
}

func emulation(vcpus int) string {
	accel := fmt.Sprintf("tcg,tb-size=%d", translationCache)
	if vcpus > 1 {
		// With several threads one CPU can run an instruction that another is
		// rewriting, and the guest's kernel panics.
		accel += ",thread=single"
	}
	return accel
}

func drive(disk vmm.Disk) string {
	d := fmt.Sprintf("if=none,id=%s,file=%s,format=raw,cache=writeback,aio=threads", disk.Role, escape(disk.File))
	if disk.ReadOnly {
		return d + ",readonly=on"
	}
	// QEMU's default pauses the guest when the host's disk is full, and gives it all
	// other errors, after which its file system is read-only or damaged.
	return d + ",discard=unmap,werror=stop"
}

// card returns the options of a network card. QEMU runs no script for it, which its
// sandbox would refuse, and moves the packets itself: vhost needs a device that a plain
// user may not open.
func card(nic vmm.NIC) []string {
	device := "virtio-net-device,netdev=net,mac=" + nic.MAC.String()
	if nic.MTU > 0 {
		device += fmt.Sprintf(",host_mtu=%d", nic.MTU)
	}
	return []string{"-netdev", fmt.Sprintf("tap,id=net,ifname=%s,script=no,downscript=no,vhost=off", escape(nic.Tap)), "-device", device}
}

func cmdline(accel accelerator, khz int, version string) string {
	line := "console=ttyS0 reboot=t panic=-1 quiet loglevel=4 8250.nr_uarts=1 " + vmm.GuestLine
	if !accel.kvm {
		// If the host is busy, measuring the rate by an emulated timer hangs, and
		// checking it by a late timer rejects the right clock.
		line += fmt.Sprintf(" tsc_early_khz=%d tsc=reliable", khz)
		if losesFlags(version) {
			line += " clearcpuid=" + cx16
		}
	}
	return line
}

// cx16 is how Linux numbers the CPU's feature cmpxchg16b: bit 13 of its word 4
// (arch/x86/include/asm/cpufeatures.h). Every kernel takes the number.
const cx16 = "141"

// losesFlags reports whether this QEMU's software CPU may have wrong flags after a
// cmpxchg16b: interrupts off, or strings that run backwards. It takes them from where
// they were stored last. Kernels use the instruction when they allocate memory. Fixed in
// 8.0 (target/i386/tcg/translate.c, gen_cmpxchg16b); see ADR 16.
func losesFlags(version string) bool {
	major, _, _ := strings.Cut(version, ".")
	number, err := strconv.Atoi(major)
	return err != nil || number < 8
}

// escape returns a value for one of QEMU's comma-separated options.
func escape(value string) string { return strings.ReplaceAll(value, ",", ",,") }
