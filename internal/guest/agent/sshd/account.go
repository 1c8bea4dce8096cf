package sshd

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// account is a user of the image.
type account struct {
	name, home, shell string
	uid, gid          uint32
	groups            []uint32
}

var errNoUser = errors.New("no such user")

// lookupAccount finds a user by name or uid in the files of etc. Every image has
// root; an unknown uid is allowed, as in a container.
func lookupAccount(etc, who string) (account, error) {
	number, err := strconv.ParseUint(who, 10, 32)
	numeric := err == nil
	found, err := findAccount(filepath.Join(etc, "passwd"), who, uint32(number), numeric)
	switch {
	case err == nil:
	case !errors.Is(err, errNoUser):
		return account{}, err
	case who == "root" || numeric && number == 0:
		found = account{name: "root", home: "/root", shell: "/bin/sh"}
	case numeric:
		found = account{name: who, home: "/", shell: "/bin/sh", uid: uint32(number)}
	default:
		return account{}, fmt.Errorf("%s: %w", who, errNoUser)
	}
	found.groups, err = groupsOf(filepath.Join(etc, "group"), found)
	return found, err
}

func findAccount(file, who string, uid uint32, numeric bool) (account, error) {
	var found account
	err := eachRecord(file, 7, func(f []string) bool {
		a, ok := parseAccount(f)
		if !ok || a.name != who && !(numeric && a.uid == uid) {
			return true
		}
		found = a
		return false
	})
	if err == nil && found.name == "" {
		err = errNoUser
	}
	return found, err
}

func parseAccount(f []string) (account, bool) {
	uid, err1 := strconv.ParseUint(f[2], 10, 32)
	gid, err2 := strconv.ParseUint(f[3], 10, 32)
	if err1 != nil || err2 != nil || f[0] == "" {
		return account{}, false
	}
	a := account{name: f[0], uid: uint32(uid), gid: uint32(gid), home: f[5], shell: f[6]}
	if a.home == "" {
		a.home = "/"
	}
	if a.shell == "" {
		a.shell = "/bin/sh"
	}
	return a, true
}

// maxGroups is the most that setgroups(2) accepts.
const maxGroups = 65536

func groupsOf(file string, a account) ([]uint32, error) {
	groups := []uint32{a.gid}
	err := eachRecord(file, 4, func(f []string) bool {
		gid, err := strconv.ParseUint(f[2], 10, 32)
		member := slices.Contains(strings.Split(f[3], ","), a.name)
		if err == nil && member && !slices.Contains(groups, uint32(gid)) {
			groups = append(groups, uint32(gid))
		}
		return len(groups) < maxGroups
	})
	return groups, err
}

// groupNamed returns the number of a group, or else other.
func groupNamed(file, name string, other uint32) uint32 {
	eachRecord(file, 3, func(f []string) bool {
		gid, err := strconv.ParseUint(f[2], 10, 32)
		if f[0] != name || err != nil {
			return true
		}
		other = uint32(gid)
		return false
	})
	return other
}

// maxAccountFile bounds how much of passwd and group is read.
const maxAccountFile = 4 << 20

// eachRecord calls do with the fields of each line until it returns false. A
// missing file has no lines.
func eachRecord(file string, fields int, do func([]string) bool) error {
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	in := bufio.NewScanner(io.LimitReader(f, maxAccountFile))
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		if f := strings.Split(in.Text(), ":"); len(f) >= fields && !do(f) {
			return nil
		}
	}
	return in.Err()
}

// directory returns the home, or / if the user cannot enter that.
func (a account) directory() string {
	if a.enter(a.home) == nil {
		return a.home
	}
	return "/"
}

// enter returns why the user cannot work in a directory: root, who starts the programs,
// could.
func (a account) enter(dir string) error {
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		err = syscall.ENOTDIR
	}
	if err == nil && a.credential() != nil {
		err = asUser(a, func() error { return unix.Chdir(dir) }) // of a thread that ends
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// credential returns what makes a process the account's. It is nil for the agent's
// own user: the tests run the server without privileges.
func (a account) credential() *syscall.Credential {
	if os.Geteuid() != 0 && uint32(os.Geteuid()) == a.uid {
		return nil
	}
	return &syscall.Credential{Uid: a.uid, Gid: a.gid, Groups: a.groups}
}
