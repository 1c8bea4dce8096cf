package boot

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"banger/internal/guest/agent/disk"
	"banger/internal/guest/agent/inroot"
	"banger/internal/guest/agent/log"
	"banger/internal/guest/agent/mount"
)

// entry is a line of fstab.
type entry struct {
	what, where, kind string
	options           []string
}

// readFstab returns the entries of the image's fstab.
func readFstab(root string) ([]entry, error) {
	table, err := inroot.Read(root, "/etc/fstab")
	if err != nil {
		return nil, err
	}
	var all []entry
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) < 2 || strings.HasPrefix(f[0], "#") {
			continue
		}
		e := entry{what: strings.ReplaceAll(unescape(f[0]), `"`, ""), where: filepath.Clean(unescape(f[1]))}
		if strings.ContainsFunc(e.what+e.where, unicode.IsControl) {
			continue // it could not be a line of a unit
		}
		if len(f) > 2 {
			e.kind = f[2]
		}
		if len(f) > 3 {
			e.options = strings.Split(f[3], ",")
		}
		all = append(all, e)
	}
	return all, nil
}

// unescape turns \040 and the like into what they stand for.
func unescape(field string) string {
	var out strings.Builder
	for i := 0; i < len(field); i++ {
		if field[i] == '\\' && i+4 <= len(field) {
			if c, err := strconv.ParseUint(field[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		out.WriteByte(field[i])
	}
	return out.String()
}

// machine is what entries of fstab can mean in this VM.
type machine struct {
	root  string
	names map[string]bool // LABEL= and UUID= of its disks
	there func(device string) bool
}

func thisMachine(root string) machine {
	return machine{root: root, names: disk.Names(), there: func(device string) bool {
		_, err := os.Stat(device)
		return err == nil
	}}
}

// skipDead has systemd pass over the entries of fstab whose device or source this VM
// cannot have: an image of another machine names that machine's disks. systemd would
// wait for them, and then not start. The file stays as it is.
func skipDead(m machine, units string) error {
	entries, err := readFstab(m.root)
	if err != nil {
		return err
	}
	for _, e := range m.dead(entries) {
		log.Errorf("passed over in /etc/fstab: %s at %s, which this VM does not have", e.what, e.where)
		if err := e.skip(m.root, units); err != nil {
			log.Errorf("pass over an entry of /etc/fstab: %v", err)
		}
	}
	return nil
}

// dead returns the entries that would keep systemd from starting, or a unit from it.
// Those that hold nothing up are left to it.
func (m machine) dead(entries []entry) []entry {
	var dead, live []entry
	for _, e := range entries {
		switch {
		case e.has("noauto"), e.has("nofail"), e.has("_netdev"), e.has("x-systemd.automount"):
		case m.lacks(e, dead, live):
			dead = append(dead, e)
		default:
			live = append(live, e)
		}
	}
	return dead
}

func (e entry) has(option string) bool { return slices.Contains(e.options, option) }

// foreign are file systems that a hypervisor offers. None of ours does.
var foreign = []string{"9p", "virtiofs", "vboxsf", "fuse.vmhgfs-fuse", "vmhgfs", "prl_fs"}

// virtual are the devices that a driver makes from nothing, maybe later in the boot.
var virtual = []string{"/dev/loop", "/dev/zram", "/dev/ram", "/dev/nbd", "/dev/fuse", "/dev/shm", "/dev/pts"}

// lacks reports whether this VM cannot have what e mounts, given the entries before it.
func (m machine) lacks(e entry, dead, live []entry) bool {
	tag, value, tagged := strings.Cut(e.what, "=")
	switch {
	case slices.Contains(foreign, e.kind):
		return true
	case tagged && slices.Contains([]string{"LABEL", "UUID", "PARTLABEL", "PARTUUID", "ID"}, tag):
		if tag == "UUID" {
			value = strings.ToLower(value)
		}
		return !m.names[tag+"="+value]
	case strings.HasPrefix(e.what, "/dev/"):
		return m.lacksDevice(e.what)
	case strings.HasPrefix(e.what, "/") && (e.has("bind") || e.has("rbind") || e.has("loop")):
		return m.lacksFile(e.what, dead, live)
	}
	return false
}

func (m machine) lacksDevice(device string) bool {
	if m.there(device) || slices.ContainsFunc(virtual, func(prefix string) bool { return strings.HasPrefix(device, prefix) }) {
		return false
	}
	switch dir, name := path.Split(device); dir {
	case "/dev/disk/by-label/":
		return !m.names["LABEL="+name]
	case "/dev/disk/by-uuid/":
		return !m.names["UUID="+name]
	case "/dev/mapper/":
		return !m.unlocks(name)
	}
	return true
}

// unlocks reports whether the image's crypttab makes a device of this name.
func (m machine) unlocks(name string) bool {
	table, err := inroot.Read(m.root, "/etc/crypttab")
	if err != nil {
		return true
	}
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == name {
			what := strings.ReplaceAll(f[1], `"`, "")
			return !m.lacks(entry{what: what}, nil, nil)
		}
	}
	return false
}

// lacksFile reports whether a file or directory does not exist, and no entry before it
// can bring it.
func (m machine) lacksFile(file string, dead, live []entry) bool {
	below := func(e entry) bool { return e.where != "/" && strings.HasPrefix(file+"/", e.where+"/") }
	volatile := func(dir string) bool { return strings.HasPrefix(file+"/", dir) }
	switch {
	case slices.ContainsFunc(dead, below):
		return true
	case slices.ContainsFunc(live, below), slices.ContainsFunc([]string{"/run/", "/tmp/", "/proc/", "/sys/", "/dev/"}, volatile):
		return false
	}
	return !inroot.Exists(m.root, file)
}

// skip takes the place of the unit that systemd would make of the entry. A mount becomes
// one that is never done, and counts as done. A swap's unit cannot be replaced so: its
// device is not waited for.
func (e entry) skip(root, units string) error {
	switch {
	case e.kind == "swap":
		return dropIn(units, mount.EscapePath(e.device())+".device", "[Unit]\nJobRunningTimeoutSec=1s\n")
	case e.where == "/": // it is mounted; by this unit, mount would look for the device again
		return os.Symlink("/dev/null", filepath.Join(units, "systemd-remount-fs.service"))
	}
	where := inroot.Resolve(root, e.where)
	text := fmt.Sprintf("# From banger: this VM does not have what /etc/fstab mounts here.\n"+
		"[Unit]\nDescription=%s (not in this VM: passed over)\nDefaultDependencies=no\nConditionPathExists=!/\n\n"+
		"[Mount]\nWhat=none\nWhere=%s\nType=tmpfs\n", literal(where), literal(where))
	return os.WriteFile(filepath.Join(units, mount.EscapePath(where)+".mount"), []byte(text), 0o644)
}

// literal keeps systemd from reading specifiers in a path.
func literal(path string) string { return strings.ReplaceAll(path, "%", "%%") }

// device returns the device of an entry, as systemd and udev name it.
func (e entry) device() string {
	tag, value, tagged := strings.Cut(e.what, "=")
	if !tagged {
		return e.what
	}
	var name strings.Builder
	for i := range len(value) {
		switch c := value[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("#+-.:=@_", c) >= 0, c >= 0x80:
			name.WriteByte(c)
		default:
			fmt.Fprintf(&name, `\x%02x`, c)
		}
	}
	return "/dev/disk/by-" + strings.ToLower(tag) + "/" + name.String()
}
