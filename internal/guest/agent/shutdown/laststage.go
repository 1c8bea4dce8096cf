package shutdown

import (
	"bufio"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"banger/internal/guest/agent/disk"
	"banger/internal/guest/agent/layout"
	"banger/internal/guest/agent/log"
	"banger/internal/guest/wire"
)

// LastStage is what systemd-shutdown, or the agent as process 1, becomes: it tells the
// host how the machine ends, unmounts the disks and ends the machine.
func LastStage(args []string) int {
	log.Open()
	verb := lastVerb(args)
	config, err := layout.ReadConfig(layout.LastConfig)
	if err != nil {
		log.Errorf("last stage: %v", err)
	}
	watch := disk.NewWatch(disk.Devices(), nil)
	unix.Sync() // a bye reports the errors of what could not be written
	sayBye(verb)
	printBye(config.Nonce, verb, "")
	if !unmountAll() {
		remountReadOnly()
	}
	unix.Sync()
	disk.PrintErrors(config.Nonce, watch.Errors())
	EndMachine(verb, config.ResetToOff)
	return 1
}

// lastVerb returns the verb in systemd-shutdown's first argument. The nearest to a
// kexec, which is impossible here, is a reboot.
func lastVerb(args []string) wire.Verb {
	if len(args) > 0 {
		if verb := wire.Verb(args[0]); verbs[verb].reboot != 0 {
			return verb
		}
		if args[0] != "kexec" {
			return wire.Poweroff
		}
	}
	return wire.Reboot
}

// rounds bounds how often all mounts are tried: a busy one may become free when
// those on it are gone.
const rounds = 10

// unmountAll unmounts everything except what the last stage needs itself, and
// reports whether nothing is left.
func unmountAll() bool {
	for range rounds {
		mounts := readMounts()
		progress := false
		for i := len(mounts) - 1; i >= 0; i-- {
			err := mounts[i].unmount()
			progress = progress || err == nil
			if err != nil {
				log.Infof("unmount %s: %v", mounts[i].target, err)
			}
		}
		left := readMounts()
		if len(left) == 0 {
			return true
		}
		if !progress {
			return false
		}
	}
	return false
}

// mounted is a line of the mount table.
type mounted struct {
	target string
	fs     string
	disk   bool // its data is on a disk, directly or through an overlay
}

func (m mounted) unmount() error {
	if m.disk {
		return unix.Unmount(m.target, unix.UMOUNT_NOFOLLOW)
	}
	// A program may have a file of such a mount open, which must not keep the disk
	// below it busy.
	return unix.Unmount(m.target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
}

func readMounts() []mounted {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	defer f.Close()
	return parseMounts(f)
}

// parseMounts reads a mount table, oldest first, without what the last stage needs
// itself.
func parseMounts(r io.Reader) []mounted {
	var list []mounted
	in := bufio.NewScanner(r)
	for in.Scan() {
		before, after, ok := strings.Cut(in.Text(), " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(kind) < 1 {
			continue
		}
		m := mounted{target: unescapeMount(fields[4]), fs: kind[0]}
		m.disk = !strings.HasPrefix(fields[2], "0:") || m.fs == "overlay"
		if !needed(m) {
			list = append(list, m)
		}
	}
	return list
}

// needed reports whether the last stage itself needs the mount.
func needed(m mounted) bool {
	switch m.target {
	case "/", "/proc", "/sys", "/dev", "/run":
		return true
	}
	for _, below := range []string{"/proc/", "/sys/", "/dev/"} {
		if strings.HasPrefix(m.target, below) && !m.disk {
			return true
		}
	}
	return false
}

// unescapeMount undoes the mount table's octal escapes.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
