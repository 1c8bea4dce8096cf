// Package identity makes a guest the VM that it is: its host name, machine id, keys
// and clock. It does not decide what they are; the host does.
package identity

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guest/agent/inroot"
	"banger/internal/guest/agent/layout"
	"banger/internal/guest/agent/log"
	"banger/internal/guest/wire"
)

// Identity is what distinguishes a VM from others of the same image.
type Identity struct {
	Name           string // host name
	MachineID      string
	AuthorizedKeys []string
	User           string // an account beside root; empty: none
	HostKey        string // of the image's own sshd; empty: leave it alone
	HostKeyPub     string
	Clock          Clock
}

// Clock is a time that the host has told, and how old it may be on arrival.
type Clock struct {
	Time time.Time
	Age  time.Duration
}

// bootTime is how old the time in a configuration may be: the boot takes a while.
const bootTime = time.Hour

// Of returns the identity in a VM's configuration.
func Of(c wire.Config) Identity {
	id := Identity{
		Name: c.Name, MachineID: c.MachineID, AuthorizedKeys: c.AuthorizedKeys, User: c.User,
		HostKey: c.HostKey, HostKeyPub: c.HostKeyPub,
	}
	if c.UnixNano != 0 {
		id.Clock = Clock{time.Unix(0, c.UnixNano), bootTime}
	}
	return id
}

// Apply makes the running guest, whose files are below root, equal to the identity.
// It changes nothing that is already right, so it may be called again, also with
// another identity. What a person changed in the files stays.
func Apply(root string, id Identity) error {
	if err := giveUser(root, id.User); err != nil {
		log.Errorf("%v", err) // a guest without that user is of use all the same
	}
	// For everyone: the image's sshd reads them as the user who logs in.
	keys := strings.Join(id.AuthorizedKeys, "\n") + "\n"
	return errors.Join(
		id.Clock.Set(),
		id.applyName(root),
		inroot.Write(root, "/etc/machine-id", []byte(id.MachineID+"\n"), 0o444),
		inroot.Write(root, layout.KeysFile, []byte(keys), 0o644),
		id.writeHostKey(root),
	)
}

// applyName names the guest. The name is remembered last: what is cut off before that
// is done again.
func (id Identity) applyName(root string) error {
	host, err := readHostName(root, id.Name)
	if err != nil {
		return err
	}
	err = setHostName(host.name)
	if err != nil && host.name != id.Name { // the kernel does not take what a person wrote
		err = setHostName(id.Name)
	}
	return errors.Join(
		err,
		writeHosts(root, host),
		inroot.Write(root, hostNameFile, host.file, 0o644),
		remember(root, id.Name),
	)
}

func setHostName(name string) error {
	if now, err := os.Hostname(); err == nil && now == name {
		return nil
	}
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	return nil
}

// writeHostKey gives the image's sshd, if it has one, the VM's host key. The image's
// own unit that makes keys does not run once there is a machine id.
func (id Identity) writeHostKey(root string) error {
	if id.HostKey == "" || !inroot.Exists(root, "/etc/ssh") {
		return nil
	}
	const path = "/etc/ssh/ssh_host_ed25519_key"
	private := strings.TrimRight(id.HostKey, "\n") + "\n"
	public := strings.TrimRight(id.HostKeyPub, "\n") + "\n"
	return errors.Join(
		inroot.Write(root, path, []byte(private), 0o600),
		inroot.Write(root, path+".pub", []byte(public), 0o644),
	)
}

// clockOff is how far the guest's clock may be from the host's.
const clockOff = time.Second

// Set sets the guest's clock if it is earlier than the told time, or later by more
// than that can be old. A zero time is not set.
func (c Clock) Set() error {
	off := time.Since(c.Time)
	if c.Time.IsZero() || off > -clockOff && off < max(c.Age, clockOff) {
		return nil
	}
	t := unix.NsecToTimespec(c.Time.UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &t); err != nil {
		return fmt.Errorf("set clock: %w", err)
	}
	return nil
}
