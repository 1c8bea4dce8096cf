package daemon

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

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
		s.lost <- struct{}{}
	}
	return s, nil
}

func watch(dir string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "inotify")
	const gone = unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF
	if _, err := unix.InotifyAddWatch(fd, dir, gone|unix.IN_ONLYDIR); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
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
		select {
		case s.lost <- struct{}{}:
		default:
		}
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
