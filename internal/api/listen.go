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

// Listen creates the socket at path and, if it is missing, its directory, which only
// this user can enter. It replaces a socket that no program listens at; one that a
// program does listen at is a Conflict. The listener accepts only this user and root.
func Listen(path string) (net.Listener, error) {
	l, err := listen(path)
	if errors.Is(err, fs.ErrNotExist) { // another daemon has just removed the directory
		l, err = listen(path)
	}
	return l, err
}

func listen(path string) (net.Listener, error) {
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

// privateDir creates dir, or checks that it is as private as a new one.
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
		return fmt.Errorf("%s is accessible to others (mode %04o)", dir, info.Mode().Perm())
	}
	return nil
}

// removeStale removes the socket of a daemon that has ended.
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

// maxSocketName is the most bytes of a name that fit into sun_path with its final zero.
const maxSocketName = 107

// shorten returns a name of the socket at path that fits into an address. Call done
// when the name is no longer needed.
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

// Accept returns the next connection of this user or root, and closes others.
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

// Close also removes the socket's name, unless it leads to another socket by now. It
// may be called twice.
func (l *listener) Close() error { return l.close() }

func (l *listener) remove() error {
	if Listening(l) {
		os.Remove(l.path)
	}
	return l.UnixListener.Close()
}

// Listening reports whether the name on disk of a listener from Listen still leads to
// that listener.
func Listening(l net.Listener) bool {
	own, ok := l.(*listener)
	if !ok {
		return false
	}
	now, err := os.Lstat(own.path)
	return err == nil && os.SameFile(now, own.made)
}
