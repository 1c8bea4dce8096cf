package boot

import (
	"os"
	"path/filepath"

	"banger/internal/guest/agent/identity"
	"banger/internal/guest/agent/imageinit"
	"banger/internal/guest/agent/inroot"
	"banger/internal/guest/agent/layout"
	"banger/internal/guest/agent/log"
	"banger/internal/guest/agent/mount"
	"banger/internal/guest/agent/network"
	"banger/internal/guest/agent/process"
)

// keepAgent puts the agent and its configuration on /run.
func (b *boot) keepAgent() error {
	last, own := layout.NewRoot+layout.LastRoot, layout.NewRoot+layout.RunDir
	for _, dir := range []string{last, own, last + "/oldroot", last + "/proc", last + "/sys", last + "/dev", last + "/run"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := mount.CopyFile("/proc/self/exe", layout.NewRoot+layout.AgentFile); err != nil {
		return err
	}
	if err := os.Chmod(layout.NewRoot+layout.AgentFile, 0o755); err != nil {
		return err
	}
	return layout.WriteJSON(layout.NewRoot+layout.ConfigFile, b.config)
}

func (b *boot) findInit() error {
	b.kind = imageinit.None
	if !b.config.NoInit {
		b.program, b.kind = imageinit.Find(layout.NewRoot)
	}
	return imageinit.Begin(layout.NewRoot+layout.InitFile, b.kind)
}

func (b *boot) applyIdentity() error { return identity.Apply(layout.NewRoot, identity.Of(b.config)) }

// setUpNetwork raises the loopback link, without which few programs work, and sets up
// the network card. A guest whose card fails boots all the same: the host hears of it.
func (b *boot) setUpNetwork() error {
	if err := network.RaiseLoopback(); err != nil || b.config.Network == nil {
		return err
	}
	if err := (network.Guest{Root: layout.NewRoot, Changed: changedInVM}).Apply(*b.config.Network); err != nil {
		log.Errorf("set up network: %v", err)
	}
	return nil
}

// changedInVM reports whether a file is the VM's own, and not the image's.
func changedInVM(path string) bool {
	_, err := os.Lstat(overlayDir + "/upper" + path)
	return err == nil
}

// quietUnits are of no use in a VM: a login prompt on the console log, and checks and
// downloads at odd hours. Units of the same name in /etc still win.
var quietUnits = []string{
	"serial-getty@ttyS0.service", "getty-static.service",
	"e2scrub_all.timer", "e2scrub_reap.service",
	"apt-daily.timer", "apt-daily-upgrade.timer",
}

// prepareInit tells the init, only by files on /run, what it must know of the agent.
func (b *boot) prepareInit() error {
	switch b.kind {
	case imageinit.Systemd:
		return b.prepareSystemd()
	case imageinit.Foreign:
		return process.MakeSpareDir(layout.NewRoot)
	}
	return nil
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
	// A program left in a login's session would delay the end for 90 s.
	return dropIn(units, "session-.scope", "[Scope]\nTimeoutStopSec=10s\n")
}

// dropIn adds settings to a unit. A file of the same name in /etc still wins.
func dropIn(units, unit, settings string) error {
	dir := filepath.Join(units, unit+".d")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(dir+"/banger.conf", []byte(settings), 0o644)
}
