package agent

import (
	"bufio"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guest/wire"
)

// lastConfig is the configuration where the last stage sees it: lastRoot is
// its root.
const lastConfig = "/config.json"

// runLastStage is what systemd-shutdown, or our own process 1, becomes: it
// tells the host how the machine goes down, unmounts the disks, and ends it.
func runLastStage(args []string) int {
	openLog()
	verb := lastVerb(args)
	config, err := readConfig(lastConfig)
	if err != nil {
		logf(prioError, "last stage: %v", err)
	}
	disks, _, _ := scanDisks()
	watch := newDiskWatch(disks, nil)
	unix.Sync() // so that the bye tells of what cannot be written
	sayBye(verb)
	sayOnConsole(wire.ConsoleBye + config.Nonce + " " + string(verb))
	if !unmountAll() {
		remountReadOnly()
	}
	unix.Sync()
	sayDiskErrors(config.Nonce, watch.errors())
	endMachine(verb, config.ResetToOff)
	return 1
}

// lastVerb is systemd-shutdown's first argument. A kexec cannot be done from
// here; the nearest is a reboot.
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

// serverTime bounds how long the server may take to pass on bye and end.
const serverTime = 4 * time.Second

// sayBye tells the server and waits until it is gone.
func sayBye(verb wire.Verb) {
	conn, err := net.DialTimeout("unix", byeSocket, serverTime)
	if err != nil {
		logf(prioError, "tell the server bye: %v", err)
		return
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(serverTime))
	if _, err := io.WriteString(conn, string(verb)+"\n"); err != nil {
		logf(prioError, "tell the server bye: %v", err)
		return
	}
	io.Copy(io.Discard, conn)
}

// rounds bounds how often the mounts are gone through: one that is busy may be
// free when those on it are gone.
const rounds = 10

// unmountAll unmounts everything but what the last stage stands on, and says
// whether no disk is left.
func unmountAll() bool {
	for range rounds {
		mounts := readMounts()
		progress := false
		for i := len(mounts) - 1; i >= 0; i-- {
			err := mounts[i].unmount()
			progress = progress || err == nil
			if err != nil {
				logf(prioInfo, "unmount %s: %v", mounts[i].target, err)
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

// mounted is one line of the mount table.
type mounted struct {
	target string
	fs     string
	disk   bool // its data is on a disk, directly or through an overlay
}

func (m mounted) unmount() error {
	if m.disk {
		return unix.Unmount(m.target, unix.UMOUNT_NOFOLLOW)
	}
	// Somebody may have a file of the kernel's own open, which must not keep the
	// disk below it busy.
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

// parseMounts reads a mount table, oldest first, without what the last stage
// stands on.
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
		if !standsOn(m) {
			list = append(list, m)
		}
	}
	return list
}

// standsOn says whether the last stage itself needs the mount.
func standsOn(m mounted) bool {
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
