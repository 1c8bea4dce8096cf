package boot

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"

	"banger/internal/guest/agent/inroot"
	"banger/internal/guest/agent/layout"
	"banger/internal/guest/agent/log"
	"banger/internal/guest/agent/mount"
)

// quietUnits are of no use in a VM: a login prompt on the console log, and checks and
// downloads at odd hours. Units of the same name in /etc still win.
var quietUnits = []string{
	"serial-getty@ttyS0.service", "getty-static.service",
	"e2scrub_all.timer", "e2scrub_reap.service",
	"apt-daily.timer", "apt-daily-upgrade.timer",
}

func (b *boot) prepareSystemd() error {
	units := layout.NewRoot + "/run/systemd/system"
	if err := os.MkdirAll(units, 0o755); err != nil {
		return err
	}
	for _, unit := range quietUnits {
		if err := os.Symlink("/dev/null", filepath.Join(units, unit)); err != nil {
			return err
		}
	}
	// The agent's mounts have no unit files. By default systemd would unmount them
	// at its end, while they are in use, and not mount them after a soft reboot.
	for _, path := range append([]string{b.modulesPath(), b.config.WorkMount}, b.config.Direct...) {
		if path == "" {
			continue
		}
		if err := dropIn(units, mount.EscapePath(inroot.Resolve(layout.NewRoot, path))+".mount", "[Unit]\nDefaultDependencies=no\n"); err != nil {
			return err
		}
	}
	if err := skipDead(thisMachine(layout.NewRoot), units); err != nil {
		log.Errorf("read /etc/fstab: %v", err)
	}
	for _, s := range append(lean(nestedKVM()), sessionEnd) {
		if err := dropIn(units, s.unit, s.settings); err != nil {
			return err
		}
	}
	return nil
}

// setting is a part of a unit that the agent adds.
type setting struct{ unit, settings string }

// sessionEnd: a program left in a login's session would delay the end for 90 s.
var sessionEnd = setting{"session-.scope", "[Scope]\nTimeoutStopSec=10s\n"}

// idleDevices are subsystems whose devices need nothing from udev: the kernel creates
// them with the right modes, they have no module, and there are many of them.
const idleDevices = "tty,vc,vtconsole,wakeup,memory,memory_tiering,workqueue,event_source,clocksource,clockevents,bdi,machinecheck"

// onDemand are modules that systemd loads at each boot and that load by themselves when
// a program uses them. udev then mounts their file systems.
var onDemand = map[string]string{"configfs": "sys-kernel-config.mount", "fuse": "sys-fs-fuse-connections.mount", "drm": ""}

// lean spares a boot work that no VM needs: about a twelfth of the CPU time until the
// system is up. The device of a processor names modules. Those for ciphers load on demand,
// and those for VMs in this VM are of use only if its processor can run VMs.
func lean(nested bool) []setting {
	skip := idleDevices
	if !nested {
		skip += ",cpu"
	}
	args := ""
	for _, s := range strings.Split(skip, ",") {
		args += " --subsystem-nomatch=" + s
	}
	all := []setting{{"systemd-udev-trigger.service", "[Service]\nExecStart=\nExecStart=-/bin/udevadm trigger --type=devices --action=add" + args + "\n"}}
	for module, mount := range onDemand {
		all = append(all, setting{"modprobe@" + module + ".service", never})
		if mount != "" { // it is still mounted if /etc/modules names the module
			all = append(all, setting{mount, "[Unit]\nAfter=systemd-modules-load.service\n"})
		}
	}
	return all
}

// never is a condition that fails under systemd. What requires the unit starts all the same.
const never = "[Unit]\nConditionPathExists=!/run/systemd/system\n"

// nestedKVM reports whether the guest's processor can run VMs.
func nestedKVM() bool {
	info, err := os.ReadFile("/proc/cpuinfo")
	return err != nil || bytes.Contains(info, []byte(" vmx ")) || bytes.Contains(info, []byte(" svm "))
}

// dropIn adds settings to a unit. A file of the same name in /etc still wins.
func dropIn(units, unit, settings string) error {
	dir := filepath.Join(units, unit+".d")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(dir+"/banger.conf", []byte(settings), 0o644)
}
