package boot

import (
	"os"

	"banger/internal/guest/agent/identity"
	"banger/internal/guest/agent/imageinit"
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
