package daemon

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/api"
	"banger/internal/config"
	"banger/internal/linux"
)

// socket is where the daemon listens, and a watch on its name: a logout removes
// /run/user/<uid> with all that is in it.
type socket struct {
	path     string
	listener net.Listener
	lost     chan struct{} // something was removed near the socket
	unwatch  func()
}

// listen makes the socket at its usual place, else at the spare one.
func listen(dirs config.Dirs) (*socket, error) {
	usual, err := listenAt(dirs.Socket())
	if err == nil {
		removeSpare(dirs.SpareSocket())
		return usual, nil
	}
	spare, failed := listenAt(dirs.SpareSocket())
	if failed != nil {
		return nil, errors.Join(err, failed)
	}
	return spare, nil
}

// removeSpare removes the spare socket of an earlier daemon that was killed.
func removeSpare(path string) {
	dir := filepath.Dir(path)
	info, err := os.Lstat(dir)
	if err != nil || !info.IsDir() || int(info.Sys().(*syscall.Stat_t).Uid) != os.Geteuid() {
		return
	}
	os.Remove(path)
	os.Remove(dir)
}

func listenAt(path string) (*socket, error) {
	l, err := api.Listen(path)
	if err != nil {
		return nil, err
	}
	s := &socket{path: path, listener: l, lost: make(chan struct{}, 1)}
	const gone = unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF
	if s.unwatch, err = linux.Watch(filepath.Dir(path), gone|unix.IN_ONLYDIR, s.lost); err != nil {
		return nil, errors.Join(fmt.Errorf("watch %s: %w", filepath.Dir(path), noInstance(err)), l.Close())
	}
	if !s.listening() { // it went before the watch was there
		s.lost <- struct{}{}
	}
	return s, nil
}

// noInstance explains an error of a watch. "Too many open files" may mean those of this
// process, or all inotify instances of the user, of which few are allowed.
func noInstance(err error) error {
	null, failed := os.Open(os.DevNull)
	if failed == nil {
		null.Close()
	}
	if failed != nil || !errors.Is(err, unix.EMFILE) {
		return err
	}
	limit, _ := os.ReadFile("/proc/sys/fs/inotify/max_user_instances")
	allowed, _ := strconv.Atoi(strings.TrimSpace(string(limit)))
	return &banger.Error{
		Kind: banger.Unready, Why: errors.New("your programs use all inotify instances that a user may have"),
		Fix: fmt.Sprintf("sudo sysctl fs.inotify.max_user_instances=%d", max(512, 2*allowed)),
	}
}

// listening reports whether clients can find the socket by its name.
func (s *socket) listening() bool { return api.Listening(s.listener) }

// close ends the watch and removes the name if it is still this socket's, and the
// directory if nothing else is in it.
func (s *socket) close() error {
	s.unwatch()
	err := s.listener.Close()
	os.Remove(filepath.Dir(s.path))
	return err
}
