package api

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/linux"
)

// Listen makes the socket at path, in a directory that nobody else can enter,
// and the directory too where it does not exist. A socket that nobody answers
// at is replaced; one that somebody does is a Conflict. The listener accepts
// its own user and root only.
func Listen(path string) (net.Listener, error) {
	if err := privateDir(filepath.Dir(path)); err != nil {
		return nil, &banger.Error{Kind: banger.Unready, What: "listen at " + path, Why: err, Fix: "make " + filepath.Dir(path) + " a directory of your own with mode 0700"}
	}
	short, done, err := shorten(path)
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	defer done()
	if err := removeStale(path, short); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false) // its name may be another's by then; see Close
	made, err := os.Lstat(path)
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen at %s: %w", path, err), l.Close())
	}
	own := &listener{UnixListener: l, path: path, made: made}
	own.close = sync.OnceValue(own.remove)
	return own, nil
}

// privateDir makes dir or sees to it that it is what we would have made.
func privateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir():
		return fmt.Errorf("%s is not a directory but %s", dir, info.Mode().Type())
	case !ok || int(owner.Uid) != os.Geteuid():
		return fmt.Errorf("%s belongs to another user", dir)
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%s is open to others (mode %04o)", dir, info.Mode().Perm())
	}
	return nil
}

// removeStale removes the socket of a daemon that is gone.
func removeStale(path, short string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	taken := &banger.Error{Kind: banger.Conflict, What: "listen at " + path, Fix: "export XDG_RUNTIME_DIR with another directory"}
	if err != nil || info.Mode().Type() != fs.ModeSocket {
		taken.Why = errors.Join(errors.New("the file there is not a socket"), err)
		return taken
	}
	conn, err := net.Dial("unix", short)
	if err == nil {
		conn.Close()
		taken.Why = errors.New("another program answers there")
		return taken
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("listen at %s: %w", path, err)
	}
	return os.Remove(path)
}

// maxSocketName is what sun_path holds, with its closing zero.
const maxSocketName = 107

// shorten returns a name for the socket at path that fits into an address.
// done must be called once the name was used.
func shorten(path string) (name string, done func(), err error) {
	if len(path) <= maxSocketName {
		return path, func() {}, nil
	}
	dir, err := os.OpenFile(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return "", nil, err
	}
	return linux.Through(dir, filepath.Base(path)), func() { dir.Close() }, nil
}

type listener struct {
	*net.UnixListener
	path  string
	made  os.FileInfo
	close func() error
}

// Accept passes over strangers.
func (l *listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if peer, err := linux.Peer(conn); err == nil && (int(peer.Uid) == os.Geteuid() || peer.Uid == 0) {
			return conn, nil
		}
		conn.Close()
	}
}

// Close removes the socket's name too, unless that is another's by now. It may
// be called twice.
func (l *listener) Close() error { return l.close() }

func (l *listener) remove() error {
	if Listening(l) {
		os.Remove(l.path)
	}
	return l.UnixListener.Close()
}

// Listening says whether the name that a listener of Listen has on disk still
// leads to it.
func Listening(l net.Listener) bool {
	own, ok := l.(*listener)
	if !ok {
		return false
	}
	now, err := os.Lstat(own.path)
	return err == nil && os.SameFile(now, own.made)
}
