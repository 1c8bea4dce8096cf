package api

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"banger/internal/linux"

	"golang.org/x/sys/unix"

	"banger"
)

func TestListenIsPrivateFromBirth(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run", "banger")
	path := filepath.Join(dir, "bangerd.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{dir: 0o700, path: 0o600} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if _, err := Listen(path); banger.KindOf(err) != banger.Conflict {
		t.Errorf("a second listener: %v", err)
	}
	if !Listening(l) {
		t.Error("it does not know its own name")
	}
	for range 2 {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
}

func TestListenRefusesDirectoriesOfOthers(t *testing.T) {
	root := t.TempDir()
	private := filepath.Join(root, "private")
	open := filepath.Join(root, "open")
	link := filepath.Join(root, "link")
	file := filepath.Join(root, "file")
	for _, err := range []error{
		os.Mkdir(private, 0o700), os.Mkdir(open, 0o700), os.Chmod(open, 0o750), os.Symlink(private, link), os.WriteFile(file, nil, 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	dirs := []string{open, link, file}
	if os.Getuid() == 0 {
		foreign := filepath.Join(root, "foreign")
		if err := os.Mkdir(foreign, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(foreign, 12345, 12345); err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, foreign)
	}
	for _, dir := range dirs {
		if l, err := Listen(filepath.Join(dir, "s")); banger.KindOf(err) != banger.Unready || banger.FixOf(err) == "" {
			t.Errorf("%s: got %v, %v", dir, l, err)
		}
	}
}

func TestListenReplacesOnlyStaleSockets(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	path := filepath.Join(dir, "s")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); banger.KindOf(err) != banger.Conflict {
		t.Errorf("over a file: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	l, err := Listen(path)
	if err != nil {
		t.Fatalf("over a stale socket: %v", err)
	}
	// Close keeps a name that leads to another socket by now.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	other, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if Listening(l) || !Listening(other) {
		t.Error("the first still calls the name its own")
	}
	l.Close()
	if !Listening(other) {
		t.Error("closing the first removed the other's name")
	}
}

func TestLongPaths(t *testing.T) {
	path := filepath.Join(t.TempDir(), strings.Repeat("long", 40), "bangerd.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := NewServer(&fake{}, &fake{}, &fake{}, &fake{}, quiet)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if d, err := c.Daemon(t.Context()); err != nil || d.PID != 7 {
		t.Errorf("got %+v, %v", d, err)
	}
	c.Close()
	if err := s.Shutdown(); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestStrangersAreTurnedAway(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can become somebody else: run this test with sudo")
	}
	path := filepath.Join(t.TempDir(), "run", "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// Let the stranger pass the modes, to test the check behind them.
	for dir := filepath.Dir(path); dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	stranger := make(chan int)
	go func() {
		runtime.LockOSThread() // without unlocking it: the thread ends with this goroutine
		defer close(stranger)
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 12345, 12345, 12345); err != nil || errno != 0 {
			t.Errorf("%v, %v", err, errno)
			return
		}
		if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
			t.Error(err)
			return
		}
		stranger <- fd
	}()
	fd, ok := <-stranger
	if !ok {
		return
	}
	defer unix.Close(fd)
	own := make(chan error, 1)
	go func() {
		conn, err := net.Dial("unix", path)
		if err == nil {
			conn.Close()
		}
		own <- err
	}()
	conn, err := l.Accept() // the stranger connected first
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if peer, err := linux.Peer(conn); err != nil || peer.Uid != 0 {
		t.Errorf("let in %+v, %v", peer, err)
	}
	if n, err := unix.Read(fd, make([]byte, 1)); n != 0 || err != nil {
		t.Errorf("the stranger read %d, %v: want the end", n, err)
	}
	if err := <-own; err != nil {
		t.Error(err)
	}
}
