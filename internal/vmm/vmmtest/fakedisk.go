package vmmtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"banger/internal/vmm"
	"banger/internal/vmm/process"
)

// FailDisks makes the fake VMM in a VM's directory report exactly these disk errors. When
// it returns, they are in effect. With a Paused one the guest is paused.
func FailDisks(ctx context.Context, path string, errs ...vmm.DiskError) error {
	dir, err := process.OpenDir(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	m := &fakeMachine{dir: dir}
	conn, err := m.Dial(ctx, portDisks)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := json.NewEncoder(conn).Encode(errs); err != nil {
		return err
	}
	_, err = io.ReadFull(conn, make([]byte, 1))
	return err
}

// setDisks serves portDisks.
func (v *fakeVMM) setDisks(conn net.Conn) {
	defer conn.Close()
	fmt.Fprintf(conn, "OK %d\n", portDisks)
	var errs []vmm.DiskError
	if json.NewDecoder(conn).Decode(&errs) != nil {
		return
	}
	v.disks.SetDiskErrors(errs)
	conn.Write([]byte("\n"))
}

// sendDisks sends the disk errors to the monitors whenever they change.
func (v *fakeVMM) sendDisks() {
	for {
		errs, changed := v.disks.DiskErrors()
		v.mu.Lock()
		for _, monitor := range v.monitors {
			fmt.Fprint(monitor, disksLine(errs))
		}
		v.mu.Unlock()
		<-changed
	}
}

func disksLine(errs []vmm.DiskError) string {
	line, err := json.Marshal(errs)
	if err != nil {
		panic(err)
	}
	return saysDisks + string(line) + "\n"
}

// awaitRunning returns when the guest is not paused.
func (v *fakeVMM) awaitRunning() {
	for {
		errs, changed := v.disks.DiskErrors()
		paused := false
		for _, e := range errs {
			paused = paused || e.Paused
		}
		if !paused {
			return
		}
		<-changed
	}
}

// pausing is a connection of a guest that may be paused.
type pausing struct {
	net.Conn
	v *fakeVMM
}

func (p pausing) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	p.v.awaitRunning()
	return n, err
}

// fakeDisk is a disk whose guest is paused while it cannot be written.
type fakeDisk struct {
	*os.File
	v    *fakeVMM
	role vmm.Role
}

func (v *fakeVMM) openDisk(disk vmm.Disk) (Disk, error) {
	file, err := os.OpenFile(disk.File, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return fakeDisk{file, v, disk.Role}, nil
}

// writeAgain is how long after an error the fake VMM tries again.
const writeAgain = 10 * time.Millisecond

func (d fakeDisk) WriteAt(block []byte, at int64) (int, error) {
	for failed := false; ; failed = true {
		n, err := d.File.WriteAt(block, at)
		var errno syscall.Errno
		if !errors.As(err, &errno) {
			if failed {
				d.v.disks.Resumed()
			}
			return n, err
		}
		d.v.disks.Failed(vmm.DiskError{Role: d.role, Errno: errno, Paused: true})
		time.Sleep(writeAgain) // there is no event for a disk that works again
	}
}
