package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"time"

	"github.com/godbus/dbus/v5"
)

// Systemd is the service manager that can give a process a control group of its own: the
// user's, or the host's if this process is root.
type Systemd struct {
	Socket string // the manager's own socket, which needs no bus
	Linger string // file that exists if the user's processes outlive the last log-in; empty: they always do
	Unit   string // the unit that ends with the last log-in
}

// thisSystemd returns the manager of this process's user. Its socket does not depend on
// the environment, which may be another user's after su.
func thisSystemd() Systemd {
	if os.Geteuid() == 0 {
		return Systemd{Socket: "/run/systemd/private"}
	}
	s := Systemd{Socket: fmt.Sprintf("/run/user/%d/systemd/private", os.Geteuid()), Unit: fmt.Sprintf("user@%d.service", os.Geteuid())}
	s.Linger = "/var/lib/systemd/linger/"
	if me, err := user.Current(); err == nil {
		s.Linger += me.Username
	}
	return s
}

// isolateTime is how long systemd may take.
const isolateTime = 30 * time.Second

// Isolate has systemd move a process, a VMM or the daemon, into a control group of its own
// (a scope), which is named for the VM's id or for the daemon. The process then survives what ends the daemon's group: a closed terminal, or too little memory for it.
// Isolate does nothing if that would shorten the VM's life: unless a user lingers,
// systemd ends the user's scopes with the last log-in, but not what a session has left
// behind.
func (h Host) Isolate(ctx context.Context, id string, pid int) error {
	own, err := h.mayIsolate(id, pid)
	if err != nil || !own {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, isolateTime)
	defer cancel()
	manager, err := dbus.Dial("unix:path="+dbus.EscapeBusAddressValue(h.Systemd.Socket), dbus.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("reach systemd: %w", err)
	}
	defer manager.Close()
	if err := manager.Auth(nil); err != nil {
		return fmt.Errorf("reach systemd: %w", err)
	}
	type property struct {
		Name  string
		Value dbus.Variant
	}
	properties := []property{
		{"Description", dbus.MakeVariant("banger " + id)},
		{"PIDs", dbus.MakeVariant([]uint32{uint32(pid)})},
		{"CollectMode", dbus.MakeVariant("inactive-or-failed")}, // systemd forgets it at its end
	}
	type auxiliary struct {
		Name       string
		Properties []property
	}
	call := manager.Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1").CallWithContext(ctx,
		"org.freedesktop.systemd1.Manager.StartTransientUnit", 0, scope(id, pid), "fail", properties, []auxiliary(nil))
	if call.Err != nil {
		return fmt.Errorf("move process %d into a group of its own: %w", pid, call.Err)
	}
	return nil
}

// scope returns the name of a process's group. The pid is in it because the last group of the
// same VM may still exist.
func scope(id string, pid int) string { return fmt.Sprintf("banger-%s-%d.scope", id, pid) }

// mayIsolate reports whether a process is in another group, and may get its own.
func (h Host) mayIsolate(id string, pid int) (bool, error) {
	if _, err := os.Stat(h.Systemd.Socket); err != nil {
		return false, ignoreMissing(err)
	}
	group, err := os.ReadFile(filepath.Join(h.Proc, fmt.Sprint(pid), "cgroup"))
	if err != nil || bytes.Contains(group, []byte("/"+scope(id, pid))) {
		return false, ignoreMissing(err)
	}
	if h.Systemd.Linger == "" || bytes.Contains(group, []byte("/"+h.Systemd.Unit+"/")) {
		return true, nil
	}
	_, err = os.Stat(h.Systemd.Linger)
	return err == nil, ignoreMissing(err)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
