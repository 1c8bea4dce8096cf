package link

import (
	"errors"
	"io/fs"
	"os"
	"testing"
	"time"
)

func TestOpenPortWithoutOne(t *testing.T) {
	if _, err := os.Stat("/sys/class/virtio-ports/vport1p1"); err == nil {
		t.Skip("this host is a VM with serial ports of its own")
	}
	if _, err := OpenPort("banger.no-such-port"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestEventsCanBeWaitedFor(t *testing.T) {
	events, err := openEvents()
	if err != nil {
		t.Fatal(err)
	}
	defer events.Close()
	if err := events.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	for buf := make([]byte, 4096); err == nil; {
		_, err = events.Read(buf)
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
