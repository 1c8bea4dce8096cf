package helper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"banger/internal/network/dns"
)

// readable is what a confined helper still reads, besides its own directory: where the
// host's resolvers are named, and the time zone. A user's home is not among it. It is all
// of /run, since a rule ends with its directory, and those below come and go.
var readable = []string{"/etc", "/run", "/usr/lib", "/usr/share/zoneinfo", "/mnt/wsl"}

// confine takes from this process, which reads packets of hostile guests, what it does
// not need: it writes no file by name, starts no program, signals nobody, and gets no
// rights from programs. Kernels without Landlock leave most of it out. Three system calls
// need no package of others.
func confine() error {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if _, _, failed := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); failed != 0 {
		return os.NewSyscallError("prctl", failed) // a program with C in it cannot
	}
	if errno != 0 {
		return os.NewSyscallError("landlock_create_ruleset", errno)
	}
	rules := handled(int(version))
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&rules)), unsafe.Sizeof(rules), 0)
	if errno != 0 {
		return os.NewSyscallError("landlock_create_ruleset", errno)
	}
	defer unix.Close(int(fd))
	allowed := append([]string{"."}, readable...)
	if file, err := filepath.EvalSymlinks(dns.ResolvConf); err == nil {
		allowed = append(allowed, filepath.Dir(file))
	}
	for _, path := range allowed {
		if err := allowReading(int(fd), path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("allow reading %s: %w", path, err)
		}
	}
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		return os.NewSyscallError("landlock_restrict_self", errno)
	}
	return nil
}

// handled returns what a version of Landlock can forbid, except sockets: guests need them,
// and it does not know all kinds.
func handled(version int) (rules unix.LandlockRulesetAttr) {
	rules.Handled_access_fs = unix.LANDLOCK_ACCESS_FS_MAKE_SYM<<1 - 1
	for first, access := range map[int]uint64{2: unix.LANDLOCK_ACCESS_FS_REFER, 3: unix.LANDLOCK_ACCESS_FS_TRUNCATE, 5: unix.LANDLOCK_ACCESS_FS_IOCTL_DEV} {
		if version >= first {
			rules.Handled_access_fs |= access
		}
	}
	if version >= 6 {
		rules.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
	}
	return rules
}

// allowReading adds a rule for what is below a directory.
func allowReading(ruleset int, path string) error {
	dir, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	rule := unix.LandlockPathBeneathAttr{Allowed_access: unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR, Parent_fd: int32(dir)}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
	if errno != 0 {
		return os.NewSyscallError("landlock_add_rule", errno)
	}
	return nil
}
