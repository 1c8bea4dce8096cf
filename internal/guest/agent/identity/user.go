package identity

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"banger/internal/guest/agent/inroot"
	"banger/internal/guest/agent/layout"
)

// Files of the accounts, as login and sudo read them.
const (
	passwdFile  = "/etc/passwd"
	shadowFile  = "/etc/shadow"
	groupFile   = "/etc/group"
	gshadowFile = "/etc/gshadow"
	sudoersDir  = "/etc/sudoers.d"
)

// rightful are the groups of a user who may do what root may. An image has few of them.
var rightful = []string{"sudo", "wheel", "adm", "docker"}

// giveUser adds the user to the image, who then may use sudo without a password. It
// does so once in a VM's life: who was changed or deleted since then stays so. An image
// without accounts gets none.
func giveUser(root, name string) error {
	given, err := inroot.Read(root, layout.UsersMemory)
	if err != nil || name == "" || hasLine(given, name) {
		return err
	}
	passwd, err := inroot.Read(root, passwdFile)
	if err != nil || len(passwd) == 0 {
		return err
	}
	if _, there := record(passwd, name); !there {
		if err := addUser(root, name, passwd); err != nil {
			return fmt.Errorf("add the user %s: %w", name, err)
		}
	}
	return inroot.Write(root, layout.UsersMemory, append(given, name+"\n"...), 0o644)
}

// account is a user to add.
type account struct {
	name, home, shell string
	uid, gid          int
}

// addUser changes passwd last: what was begun before a crash is done again.
func addUser(root, name string, passwd []byte) error {
	groups, err := inroot.Read(root, groupFile)
	if err != nil {
		return err
	}
	a := account{name: name, home: "/home/" + name, shell: "/bin/sh"}
	if a.uid, a.gid, err = numbers(passwd, groups, name); err != nil {
		return err
	}
	if inroot.Exists(root, "/bin/bash") {
		a.shell = "/bin/bash"
	}
	if err := a.makeHome(root); err != nil {
		return err
	}
	if inroot.Exists(root, sudoersDir) {
		rule := []byte(name + " ALL=(ALL:ALL) NOPASSWD: ALL\n")
		if err := inroot.Write(root, path.Join(sudoersDir, "90-banger-"+name), rule, 0o440); err != nil {
			return err
		}
	}
	return a.record(root)
}

// record adds the account to those of its files that the image has.
func (a account) record(root string) error {
	var changes []inroot.Change
	for _, file := range []struct {
		path string
		edit func([]byte) []byte
	}{
		{shadowFile, func(text []byte) []byte { return addRecord(text, a.name, a.name+":*:19700:0:99999:7:::") }},
		{groupFile, func(text []byte) []byte {
			return join(addRecord(text, a.name, fmt.Sprintf("%s:x:%d:", a.name, a.gid)), a.name)
		}},
		{gshadowFile, func(text []byte) []byte { return join(addRecord(text, a.name, a.name+":!::"), a.name) }},
		{"/etc/subuid", func(text []byte) []byte { return addRange(text, a.name) }},
		{"/etc/subgid", func(text []byte) []byte { return addRange(text, a.name) }},
		{passwdFile, func(text []byte) []byte {
			return addRecord(text, a.name, fmt.Sprintf("%s:x:%d:%d::%s:%s", a.name, a.uid, a.gid, a.home, a.shell))
		}},
	} {
		text, err := inroot.Read(root, file.path)
		if err != nil {
			return err
		}
		if inroot.Exists(root, file.path) {
			changes = append(changes, inroot.Change{Path: file.path, Content: file.edit(text)})
		}
	}
	return inroot.Update(root, changes)
}

// record returns the fields of the record with this name.
func record(text []byte, name string) ([]string, bool) {
	for line := range strings.Lines(string(text)) {
		if fields := strings.Split(strings.TrimSpace(line), ":"); fields[0] == name {
			return fields, true
		}
	}
	return nil, false
}

func addRecord(text []byte, name, line string) []byte {
	if _, there := record(text, name); there {
		return text
	}
	if len(text) > 0 && text[len(text)-1] != '\n' {
		text = append(text, '\n')
	}
	return append(text, line+"\n"...)
}

// join makes the user a member of the rightful groups in group or gshadow.
func join(text []byte, name string) []byte {
	var out strings.Builder
	for line := range strings.Lines(string(text)) {
		fields := strings.Split(strings.TrimRight(line, "\n"), ":")
		if len(fields) == 4 && slices.Contains(rightful, fields[0]) && !slices.Contains(strings.Split(fields[3], ","), name) {
			if fields[3] != "" {
				fields[3] += ","
			}
			line = strings.Join(fields, ":") + name + "\n"
		}
		out.WriteString(line)
	}
	return []byte(out.String())
}

// The numbers of people, and the most that a file of subordinate numbers may give away.
const (
	firstID, lastID = 1000, 59999
	firstSub, subs  = 100000, 65536
)

// numbers returns the user's number and that of the group of the same name, which may
// exist. New ones are the same and nobody's.
func numbers(passwd, groups []byte, name string) (uid, gid int, err error) {
	users, teams := taken(passwd), taken(groups)
	id := firstID
	for n := strconv.Itoa(id); (users[n] || teams[n]) && id < lastID; n = strconv.Itoa(id) {
		id++
	}
	own, there := record(groups, name)
	if !there || len(own) < 3 {
		return id, id, nil
	}
	if gid, err = strconv.Atoi(own[2]); err != nil {
		return 0, 0, fmt.Errorf("its group has the number %q", own[2])
	}
	if gid >= firstID && !users[own[2]] {
		id = gid
	}
	return id, gid, nil
}

// taken returns the numbers in passwd or group.
func taken(text []byte) map[string]bool {
	all := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Split(strings.TrimSpace(line), ":"); len(fields) > 2 {
			all[fields[2]] = true
		}
	}
	return all
}

// addRange gives the user numbers for containers, after those of the others.
func addRange(text []byte, name string) []byte {
	next := firstSub
	for line := range strings.Lines(string(text)) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) != 3 {
			continue
		}
		start, err1 := strconv.Atoi(fields[1])
		count, err2 := strconv.Atoi(fields[2])
		if err1 == nil && err2 == nil && start >= 0 && count >= 0 && start+count > next {
			next = start + count
		}
	}
	return addRecord(text, name, fmt.Sprintf("%s:%d:%d", name, next, subs))
}

// makeHome makes the home with the files of /etc/skel. A home that is a person's already
// stays as it is.
func (a account) makeHome(root string) error {
	parent, err := inroot.Dir(root, path.Dir(a.home), 0o755)
	if err != nil {
		return err
	}
	parent.Close()
	dir, err := inroot.Dir(root, a.home, 0o700)
	if err != nil {
		return err
	}
	defer dir.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil || st.Uid != 0 {
		return err
	}
	skeleton, err := inroot.Open(root, "/etc/skel", unix.O_RDONLY|unix.O_DIRECTORY)
	if err == nil {
		defer skeleton.Close()
		err = a.fillHome(root, skeleton)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return dir.Chown(a.uid, a.gid)
}

// fillHome copies the files of a directory into a new home. Directories of it are rare, and
// are left out.
func (a account) fillHome(root string, skeleton *os.File) error {
	entries, err := skeleton.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		to := path.Join(a.home, entry.Name())
		if !entry.Type().IsRegular() || inroot.HasName(root, to) {
			continue
		}
		text, err := inroot.Read(root, path.Join("/etc/skel", entry.Name()))
		if err != nil {
			return err
		}
		if err := inroot.Write(root, to, text, 0o644); err != nil {
			return err
		}
		f, err := inroot.Open(root, to, unix.O_RDONLY|unix.O_NOFOLLOW)
		if err != nil {
			return err
		}
		err = f.Chown(a.uid, a.gid)
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func hasLine(text []byte, want string) bool {
	for line := range strings.Lines(string(text)) {
		if strings.TrimSpace(line) == want {
			return true
		}
	}
	return false
}
