package linux

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func rung(t *testing.T, ring <-chan struct{}) {
	t.Helper()
	select {
	case <-ring:
	case <-time.After(10 * time.Second):
		t.Error("no event")
	}
}

func silent(t *testing.T, ring <-chan struct{}) {
	t.Helper()
	select {
	case <-ring:
		t.Error("an event")
	default:
	}
}

// instances counts the inotify instances of this process.
func instances() (n int) {
	open, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range open {
		if name, err := os.Readlink(fd); err == nil && strings.Contains(name, "inotify") {
			n++
		}
	}
	return n
}

func TestWatch(t *testing.T) {
	dir := t.TempDir()
	made, gone := make(chan struct{}, 1), make(chan struct{}, 1)
	stopMade, err1 := Watch(dir, unix.IN_CREATE, made)
	stopGone, err2 := Watch(dir, unix.IN_DELETE|unix.IN_ONLYDIR, gone)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if n := instances(); n != 1 {
		t.Errorf("%d inotify instances", n)
	}
	file := filepath.Join(dir, "file")
	for range 3 { // a full ring is no reason to wait
		if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Remove(file)); err != nil {
			t.Fatal(err)
		}
	}
	rung(t, made)
	rung(t, gone)
	stopMade()
	stopMade()
	for len(made) > 0 {
		<-made
	}
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Remove(file)); err != nil {
		t.Fatal(err)
	}
	rung(t, gone)
	silent(t, made)
	for len(gone) > 0 {
		<-gone
	}
	if err := os.Remove(dir); err != nil { // of which nobody asked to be told
		t.Fatal(err)
	}
	rung(t, gone)
	stopGone()
	if n := instances(); n != 0 {
		t.Errorf("%d inotify instances are left", n)
	}
	if _, err := Watch(dir, unix.IN_CREATE, made); !errors.Is(err, os.ErrNotExist) || instances() != 0 {
		t.Errorf("watched nothing: %v", err)
	}
}

// Two files never get each other's events, whichever are watched by whom.
func TestWatchTwoFiles(t *testing.T) {
	dir := t.TempDir()
	var rings [2]chan struct{}
	var paths [2]string
	for i, name := range []string{"a", "b"} {
		paths[i], rings[i] = filepath.Join(dir, name), make(chan struct{}, 1)
		if err := os.WriteFile(paths[i], nil, 0o600); err != nil {
			t.Fatal(err)
		}
		stop, err := Watch(paths[i], unix.IN_MODIFY, rings[i])
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
	}
	for i, path := range paths {
		file, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		file.Close()
		rung(t, rings[i])
		silent(t, rings[1-i])
	}
}

func TestInterrupt(t *testing.T) {
	conn, other := net.Pipe()
	defer other.Close()
	ctx, cancel := context.WithCancel(t.Context())
	stop := InterruptAfter(ctx, conn)
	time.AfterFunc(time.Millisecond, cancel)
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || stop() {
		t.Errorf("got %v", err)
	}
}

func TestPeer(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	listener, err := net.Listen("unix", Through(dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := net.Dial("unix", Through(dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if peer, err := Peer(conn); err != nil || int(peer.Pid) != os.Getpid() || int(peer.Uid) != os.Getuid() {
		t.Errorf("got %+v, %v", peer, err)
	}
	pipe, _ := net.Pipe()
	if _, err := Peer(pipe); err == nil {
		t.Error("a pipe has a peer")
	}
}
