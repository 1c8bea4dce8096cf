package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// keepAgent puts the agent, its configuration and the keys on /run.
func (b *boot) keepAgent() error {
	last, own := newRoot+lastRoot, newRoot+runDir
	for _, dir := range []string{last, own, last + "/oldroot", last + "/proc", last + "/sys", last + "/dev", last + "/run"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := copyFile("/proc/self/exe", newRoot+agentFile); err != nil {
		return err
	}
	if err := os.Chmod(newRoot+agentFile, 0o755); err != nil {
		return err
	}
	if err := writeJSON(newRoot+configFile, b.config); err != nil {
		return err
	}
	keys := strings.Join(b.config.AuthorizedKeys, "\n") + "\n"
	return os.WriteFile(newRoot+keysFile, []byte(keys), 0o600)
}

func (b *boot) writeIdentity() error {
	if err := unix.Sethostname([]byte(b.config.Name)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	return errors.Join(
		writeIn(newRoot, "/etc/hostname", []byte(b.config.Name+"\n"), 0o644),
		writeHosts(newRoot, b.config.Name),
		writeIn(newRoot, "/etc/machine-id", []byte(b.config.MachineID+"\n"), 0o444),
	)
}

// writeHosts puts the machine's name into /etc/hosts. One that is too large to
// be read whole is the user's list of something, and stays as it is.
func writeHosts(root, name string) error {
	old, err := readIn(root, "/etc/hosts")
	if errors.Is(err, unix.EFBIG) {
		logf(prioError, "leave /etc/hosts alone: %v", err)
		return nil
	}
	if err != nil {
		return err
	}
	return writeIn(root, "/etc/hosts", hostsFor(old, name), 0o644)
}

// hostsFor is the image's /etc/hosts with the machine's own name at 127.0.1.1
// and localhost where it was missing.
func hostsFor(old []byte, name string) []byte {
	var lines []string
	local := false
	for line := range strings.Lines(string(old)) {
		fields := strings.Fields(line)
		if len(fields) > 0 && fields[0] == "127.0.1.1" {
			continue
		}
		local = local || len(fields) > 0 && fields[0] == "127.0.0.1"
		lines = append(lines, strings.TrimRight(line, "\n"))
	}
	if !local {
		lines = append([]string{"127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"}, lines...)
	}
	lines = append(lines, "127.0.1.1\t"+name)
	return []byte(strings.Join(lines, "\n") + "\n")
}

// writeHostKey gives the image's sshd, if it has one, the VM's host key: its
// own key unit does not run once there is a machine id.
func (b *boot) writeHostKey() error {
	if b.config.HostKey == "" || !existsIn(newRoot, "/etc/ssh") {
		return nil
	}
	const path = "/etc/ssh/ssh_host_ed25519_key"
	private := strings.TrimRight(b.config.HostKey, "\n") + "\n"
	public := strings.TrimRight(b.config.HostKeyPub, "\n") + "\n"
	return errors.Join(
		writeIn(newRoot, path, []byte(private), 0o600),
		writeIn(newRoot, path+".pub", []byte(public), 0o644),
	)
}

// quietUnits say or do nothing useful in a VM: a login on the console log, and
// checks and downloads at odd hours. Units of the same name in /etc still win.
var quietUnits = []string{
	"serial-getty@ttyS0.service", "getty-static.service",
	"e2scrub_all.timer", "e2scrub_reap.service",
	"apt-daily.timer", "apt-daily-upgrade.timer",
}

// prepareInit tells the init, on /run alone, what it must know of us.
func (b *boot) prepareInit() error {
	switch b.kind {
	case initSystemd:
		return b.prepareSystemd()
	case initOther:
		return os.MkdirAll(newRoot+omitDir, 0o755)
	}
	return nil
}

func (b *boot) prepareSystemd() error {
	units := newRoot + "/run/systemd/system"
	if err := os.MkdirAll(units, 0o755); err != nil {
		return err
	}
	for _, unit := range quietUnits {
		if err := os.Symlink("/dev/null", filepath.Join(units, unit)); err != nil {
			return err
		}
	}
	// Our mounts have no unit files: at its end systemd would unmount what is
	// still in use, and after a soft reboot mount nothing again.
	for _, path := range append([]string{b.modulesPath(), b.config.WorkMount}, b.config.Direct...) {
		if path == "" {
			continue
		}
		if err := dropIn(units, escapePath(resolveIn(newRoot, path))+".mount", "[Unit]\nDefaultDependencies=no\n"); err != nil {
			return err
		}
	}
	// A program left in a login's session would hold up the end for 90 s.
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
