package process

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/linux"
	"banger/internal/vmm"
)

// Account is the user, and the group with the same number, that the VMM of one VM
// runs as if the daemon is root. The zero Account means that the VMM runs as the
// daemon does, which is a plain user.
type Account struct {
	id  uint32
	kvm uint32 // the group that may open /dev/kvm; 0 if none is needed
}

// The range of accounts. No distribution gives any of these numbers to a user, a
// service or a container.
const (
	firstAccount = 0x7000_0000
	accounts     = 0x0800_0000
)

// assigning is held while an account is chosen and put on a directory.
var assigning sync.Mutex

// Assign returns the account that the VMM of the VM in dir runs as here. No other VM
// beside it has that: the directory's group says whose it is. A VM keeps its account.
func (h Host) Assign(dir *Dir, id banger.VMID) (Account, error) {
	a, err := h.Account(id)
	if err != nil || !a.Is() {
		return a, err
	}
	assigning.Lock()
	defer assigning.Unlock()
	taken, err := dir.accountsBeside()
	if err != nil {
		return Account{}, fmt.Errorf("look for the accounts of other VMs: %w", err)
	}
	if own, err := dir.Account(); err == nil && own.Is() && !taken[own.id] {
		a.id = own.id
	}
	for taken[a.id] {
		a.id = firstAccount + (a.id-firstAccount+1)%accounts
	}
	return a, dir.file.Chown(-1, int(a.id))
}

// accountsBeside returns the accounts of the directories beside this one.
func (d *Dir) accountsBeside() (map[uint32]bool, error) {
	own, err := d.file.Stat()
	if err != nil {
		return nil, err
	}
	above, err := os.Open(d.Path(".") + "/..") // d.Path("..") would cut off both
	if err != nil {
		return nil, err
	}
	defer above.Close()
	entries, err := above.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	taken := map[uint32]bool{}
	for _, entry := range entries {
		info, err := os.Lstat(linux.Through(above, entry.Name()))
		if err != nil || os.SameFile(info, own) {
			continue // it may have gone
		}
		taken[info.Sys().(*syscall.Stat_t).Gid] = true
	}
	return taken, nil
}

// Account returns the account that a VM gets where no other VM has it.
func (h Host) Account(id banger.VMID) (Account, error) {
	if !h.Root {
		return Account{}, nil
	}
	sum := fnv.New32a()
	sum.Write([]byte(id))
	a := Account{id: firstAccount + sum.Sum32()%accounts}
	if err := h.hasAccount(a); err != nil {
		return Account{}, err
	}
	info, err := os.Stat(h.KVM)
	if errors.Is(err, fs.ErrNotExist) {
		return a, nil
	}
	if err != nil {
		return Account{}, err
	}
	a.kvm = info.Sys().(*syscall.Stat_t).Gid
	return a, nil
}

// ErrNoAccounts means that this root is the root of a container that has few users, or
// lacks the capabilities to use them.
var ErrNoAccounts = errors.New("root cannot switch to another user on this host")

// needed are the capabilities without which a VMM of another user cannot be
// started, found again, or ended.
const needed = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FOWNER | 1<<unix.CAP_KILL |
	1<<unix.CAP_SETGID | 1<<unix.CAP_SETUID | 1<<unix.CAP_SYS_PTRACE

func (h Host) hasAccount(a Account) error {
	status, err := os.ReadFile(filepath.Join(h.Self, "status"))
	if err != nil {
		return fmt.Errorf("read the capabilities of root: %w", err)
	}
	mapped, err := os.ReadFile(filepath.Join(h.Self, "uid_map"))
	if err != nil {
		return fmt.Errorf("read the users of this host: %w", err)
	}
	if capabilities(status)&needed == needed && maps(mapped, a.id) {
		return nil
	}
	return &banger.Error{Kind: banger.Unready, Why: ErrNoAccounts, Fix: "run banger as a plain user of the group kvm"}
}

// capabilities returns the effective capabilities in a process's status.
func capabilities(status []byte) (set uint64) {
	_, rest, _ := bytes.Cut(status, []byte("\nCapEff:"))
	fmt.Sscanf(string(rest), "%x", &set)
	return set
}

// maps reports whether a user namespace with this uid_map has a user.
func maps(uidMap []byte, id uint32) bool {
	for lines := bufio.NewScanner(bytes.NewReader(uidMap)); lines.Scan(); {
		var inside, outside, count uint64
		if _, err := fmt.Sscan(lines.Text(), &inside, &outside, &count); err == nil && uint64(id) >= inside && uint64(id)-inside < count {
			return true
		}
	}
	return false
}

// Is reports whether a is not the zero Account.
func (a Account) Is() bool { return a.id != 0 }

func (a Account) credential() *syscall.Credential {
	if !a.Is() {
		return nil
	}
	c := &syscall.Credential{Uid: a.id, Gid: a.id}
	if a.kvm != 0 { // never root's own group
		c.Groups = []uint32{a.kvm}
	}
	return c
}

// Admit gives the account access to the VM's directory: it may create sockets there,
// read the files of the VM, and write to disks and logs. Root stays the owner of all of
// them, and the account can neither remove nor replace them: it never decides which
// file root opens by a name.
func (a Account) Admit(dir *Dir, spec vmm.Spec, more ...string) error {
	if !a.Is() {
		return nil
	}
	modes := map[string]os.FileMode{spec.Initrd: 0o640}
	for _, name := range append(more, spec.Log) {
		modes[name] = 0o660
	}
	shared := []string{spec.Kernel}
	for _, disk := range spec.Disks {
		if disk.ReadOnly {
			shared = append(shared, disk.File)
		} else {
			modes[disk.File] = 0o660
		}
	}
	for name, mode := range modes {
		if err := a.AdmitTo(dir, name, mode); err != nil {
			return err
		}
	}
	for _, name := range shared { // other VMs use it too, so it cannot have this VM's group
		info, err := os.Stat(dir.Path(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // as below
		}
		if err != nil {
			return err
		}
		if path := filepath.Join(spec.Dir, name); info.Mode().Perm()&0o004 == 0 {
			return &banger.Error{Kind: banger.Unready, Why: fmt.Errorf("%s can be read by root only, and the VMM is not root", path), Fix: "chmod o+r " + path}
		}
	}
	return dir.file.Chmod(0o770 | os.ModeSticky)
}

// AdmitTo gives the account's group access to a file of root's.
func (a Account) AdmitTo(dir *Dir, name string, mode os.FileMode) error {
	if !a.Is() {
		return nil
	}
	// By descriptor, so that it is the file that was checked.
	file, err := os.OpenFile(dir.Path(name), unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the VMM reports it
	}
	if err != nil {
		return fmt.Errorf("open %s to the VMM: %w", name, err)
	}
	defer file.Close()
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return err
	}
	if int(stat.Uid) != os.Geteuid() || stat.Mode&unix.S_IFMT == unix.S_IFLNK {
		return fmt.Errorf("open %s to the VMM: it is not root's", name)
	}
	path := linux.Through(file)
	if err := os.Chown(path, -1, int(a.id)); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

// Account returns the account that has access to the directory.
func (d *Dir) Account() (Account, error) {
	info, err := d.file.Stat()
	if err != nil {
		return Account{}, err
	}
	if group := info.Sys().(*syscall.Stat_t).Gid; group >= firstAccount && group < firstAccount+accounts {
		return Account{id: group}, nil
	}
	return Account{}, nil
}
