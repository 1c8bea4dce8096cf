package daemon

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/api"
	"banger/internal/config"
)

// socket is where the daemon listens, and a watch on the name's life: a logout
// removes /run/user/<uid> with all that is in it.
type socket struct {
	path     string
	listener net.Listener
	watch    *os.File
	lost     chan struct{} // something was removed near the socket; closed with the watch
}

// listen makes the socket at its usual place, else at the spare one.
func listen(dirs config.Dirs) (*socket, error) {
	var errs []error
	for _, path := range []string{dirs.Socket(), dirs.SpareSocket()} {
		s, err := listenAt(path)
		if err == nil {
			return s, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func listenAt(path string) (*socket, error) {
	l, err := api.Listen(path)
	if err != nil {
		return nil, err
	}
	s := &socket{path: path, listener: l, lost: make(chan struct{}, 1)}
	if s.watch, err = watch(filepath.Dir(path)); err != nil {
		return nil, errors.Join(fmt.Errorf("watch %s: %w", filepath.Dir(path), err), l.Close())
	}
	go s.read()
	if !s.listening() { // it went before the watch was there
		s.say()
	}
	return s, nil
}

// say says that something was removed, unless that is said already.
func (s *socket) say() {
	select {
	case s.lost <- struct{}{}:
	default:
	}
}

func watch(dir string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, noInstance(err)
	}
	file := os.NewFile(uintptr(fd), "inotify")
	const gone = unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF
	if _, err := unix.InotifyAddWatch(fd, dir, gone|unix.IN_ONLYDIR); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// noInstance explains why there is no inotify instance. Too many open files may
// be this process's, or all instances of the user, of which few are allowed.
func noInstance(err error) error {
	null, failed := os.Open(os.DevNull)
	if failed == nil {
		null.Close()
	}
	if failed != nil || !errors.Is(err, unix.EMFILE) {
		return os.NewSyscallError("inotify_init1", err)
	}
	limit, _ := os.ReadFile("/proc/sys/fs/inotify/max_user_instances")
	allowed, _ := strconv.Atoi(strings.TrimSpace(string(limit)))
	return &banger.Error{
		Kind: banger.Unready, Why: errors.New("your programs use all inotify instances that a user may have"),
		Fix: fmt.Sprintf("sudo sysctl fs.inotify.max_user_instances=%d", max(512, 2*allowed)),
	}
}

// read turns whatever happens in the directory into one word, at most one of
// them waiting. What happened is looked up, not decoded.
func (s *socket) read() {
	defer close(s.lost)
	buffer := make([]byte, 4096)
	for {
		if _, err := s.watch.Read(buffer); err != nil {
			return
		}
		s.say()
	}
}

// listening says whether clients can find the socket by its name.
func (s *socket) listening() bool { return api.Listening(s.listener) }

// close ends the watch and removes the name, as long as it is ours.
func (s *socket) close() error {
	err := errors.Join(s.watch.Close(), s.listener.Close())
	for range s.lost { // until the reader is gone
	}
	return err
}
