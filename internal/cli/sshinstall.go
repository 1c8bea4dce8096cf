package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"banger"
	"banger/internal/config"
	"banger/internal/durable"
	"banger/internal/guest"
)

// userSSH is the ssh configuration of the user, and banger's own file that it includes.
type userSSH struct {
	home   string
	config string // as the user knows it
	own    string
	line   string // includes own
}

func (a *app) userSSH() (userSSH, config.Dirs, error) {
	dirs, err := a.dirs()
	if err != nil {
		return userSSH{}, dirs, err
	}
	u := userSSH{home: a.std.Getenv("HOME"), own: dirs.SSHConfig()}
	if !filepath.IsAbs(u.home) {
		return u, dirs, banger.Invalidf("export HOME=/home/you", "HOME is no absolute path: %q", u.home)
	}
	u.config = filepath.Join(u.home, ".ssh", "config")
	u.line, err = guest.IncludeLine(u.own)
	if err != nil {
		err = &banger.Error{Kind: banger.Invalid, Why: err, Fix: "banger vm ssh-config >ssh_config, then: ssh -F ssh_config NAME"}
	}
	return u, dirs, err
}

// installSSH makes ssh reach all VMs as NAME.vm, also those that do not exist yet. It
// may be called again.
func (a *app) installSSH() error {
	u, dirs, err := a.userSSH()
	if err != nil {
		return err
	}
	settings, err := a.config()
	if err != nil {
		return err
	}
	before, err := a.stateElsewhere()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own executable: %w", err)
	}
	entry, err := guest.SSHConfigOfAll(cmp.Or(settings.SSHKeyPath, dirs.SSHKey()), dirs.KnownHosts(), append(before, self, "vm", "proxy"))
	if err != nil {
		return err
	}
	err = durable.MkdirAll(dirs.SSH(), 0o700)
	if err == nil {
		err = errors.Join(guest.WriteHostNames(dirs.KnownHosts()), durable.WriteFile(u.own, []byte(entry), 0o600))
	}
	if err != nil {
		return &banger.Error{What: "write " + u.own, Why: err, Fix: "ls -ld " + quote(dirs.SSH())}
	}
	changed, err := u.edit(guest.Include)
	if err != nil {
		return err
	}
	if changed {
		fmt.Fprintf(a.std.Out, "added to %s: %s\n", u.config, u.line)
	}
	fmt.Fprintln(a.std.Out, "ssh NAME.vm now reaches each VM; scp, rsync and editors do, too\nto undo it: banger vm ssh-config --uninstall")
	u.noteOtherHome(a)
	return nil
}

// uninstallSSH undoes installSSH. It may be called again.
func (a *app) uninstallSSH() error {
	u, _, err := a.userSSH()
	if err != nil {
		return err
	}
	changed, err := u.edit(guest.Exclude)
	if err != nil {
		return err
	}
	if err := os.Remove(u.own); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if changed {
		fmt.Fprintf(a.std.Out, "removed from %s: %s\n", u.config, u.line)
	} else {
		fmt.Fprintf(a.std.Out, "%s does not include banger's file\n", u.config)
	}
	return nil
}

// edit changes the user's configuration, and reports whether there was anything to
// change. Links to it stay links, and it keeps its mode and its owner.
func (u userSSH) edit(change func(text []byte, line string) []byte) (bool, error) {
	real, text, mode, owner, err := u.read()
	if err != nil {
		return false, u.cannot("read", err)
	}
	edited := change(text, u.line)
	if string(edited) == string(text) {
		return false, nil
	}
	if mode&0o200 == 0 {
		return false, u.cannot("change", errors.New("it is read-only"))
	}
	if err := durable.MkdirAll(filepath.Dir(real), 0o700); err != nil {
		return false, u.cannot("change", err)
	}
	err = durable.Write(real, mode, func(f *os.File) error {
		if owner != nil && (int(owner.Uid) != os.Geteuid() || int(owner.Gid) != os.Getegid()) {
			if err := f.Chown(int(owner.Uid), int(owner.Gid)); err != nil {
				return err
			}
		}
		_, err := f.Write(edited)
		return err
	})
	if err != nil {
		return false, u.cannot("change", err)
	}
	return true, nil
}

// read returns where the configuration really is, and what it is. One that does not
// exist is empty.
func (u userSSH) read() (real string, text []byte, mode fs.FileMode, owner *syscall.Stat_t, err error) {
	if _, err := os.Lstat(u.config); errors.Is(err, fs.ErrNotExist) {
		return u.config, nil, 0o600, nil, nil
	}
	if real, err = filepath.EvalSymlinks(u.config); err != nil {
		return "", nil, 0, nil, err
	}
	info, err := os.Stat(real)
	if err != nil {
		return "", nil, 0, nil, err
	}
	if !info.Mode().IsRegular() {
		return "", nil, 0, nil, errors.New("it is not a file")
	}
	text, err = os.ReadFile(real)
	owner, _ = info.Sys().(*syscall.Stat_t)
	return real, text, info.Mode().Perm(), owner, err
}

// cannot says how a person does what failed.
func (u userSSH) cannot(do string, err error) error {
	if path := (*fs.PathError)(nil); errors.As(err, &path) {
		err = path.Err
	}
	return &banger.Error{Kind: banger.Unready, What: do + " " + u.config, Why: err,
		Fix: "make it a file that you can write, or put this line at its top yourself: " + u.line}
}

// noteOtherHome says so if ssh looks for its configuration elsewhere: it does not ask
// HOME for that.
func (u userSSH) noteOtherHome(a *app) {
	account, err := user.LookupId(strconv.Itoa(os.Getuid()))
	if err != nil || account.HomeDir == "" || filepath.Clean(account.HomeDir) == filepath.Clean(u.home) {
		return
	}
	fmt.Fprintf(a.std.Err, "note: HOME is %s, but ssh reads %s; with this HOME use ssh -F %s\n",
		u.home, filepath.Join(account.HomeDir, ".ssh", "config"), u.config)
}
