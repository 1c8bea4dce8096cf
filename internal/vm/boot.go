package vm

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"banger"
	"banger/internal/config"
	"banger/internal/durable"
	"banger/internal/guest"
	"banger/internal/guest/wire"
	"banger/internal/initrd"
	"banger/internal/network"
)

// newID returns n random bytes in hexadecimal.
func newID(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// newVMID returns an ID that begins with a digit. Names begin with a letter, so no name that
// is free again is the beginning of an ID.
func newVMID() banger.VMID {
	for {
		if id := newID(6); id[0] <= '9' {
			return banger.VMID(id)
		}
	}
}

// boot is what the next daemon must know about a VM's current boot and cannot
// find out: the secrets by which agent and daemon prove who they are.
type boot struct {
	guest.Identity
	Key       string    `json:"key,omitempty"` // private, with which the daemon logs in; the user's may have a passphrase
	StartedAt time.Time `json:"started_at"`
	Host      string    `json:"host,omitempty"` // the host's own boot id

	Network    network.Mode  `json:"network,omitempty"`     // what the VM's card is connected to
	Told       *wire.Network `json:"told,omitempty"`        // what the guest knows of its card
	NetworkWhy string        `json:"network_why,omitempty"` // why it has no card, though it shall and the host can
	NetworkFix string        `json:"network_fix,omitempty"`
}

func newBoot() boot {
	return boot{Identity: guest.Identity{Token: newID(32), Nonce: newID(16)}, StartedAt: time.Now().UTC(), Host: hostBoot()}
}

// makeKey makes the key with which the daemon logs in, and returns its public half.
func (b *boot) makeKey() (public string, err error) {
	private, public, err := guest.NewKey("banger")
	if err != nil {
		return "", fmt.Errorf("make the daemon's key: %w", err)
	}
	b.Key = string(private)
	return public, nil
}

// hostBootID is the file with the id of the host's current boot.
var hostBootID = "/proc/sys/kernel/random/boot_id"

// hostBoot returns the host's boot id, or an empty string if it has none.
func hostBoot() string {
	id, err := os.ReadFile(hostBootID)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}

func writeBoot(dir config.VMDir, b boot) error {
	data, err := json.Marshal(b)
	if err != nil {
		return err
	}
	return os.WriteFile(dir.Boot(), data, 0o600)
}

// readBoot returns no secrets if there are none, or if a daemon was killed while it
// wrote them: it had not launched the VMM yet.
func readBoot(dir config.VMDir) (boot, error) {
	data, err := os.ReadFile(dir.Boot())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return boot{}, err
	}
	var b boot
	if json.Unmarshal(data, &b) != nil {
		return boot{}, nil
	}
	return b, nil
}

// forgetBoot removes the secrets of a boot, and the temporary files of a daemon
// that was killed while it wrote them.
func forgetBoot(dir config.VMDir) error {
	return errors.Join(removeAny(dir.Initrd()), removeAny(dir.Boot()), removeAll(dir.Path("."+config.InitrdName+"-*")))
}

func removeAll(pattern string) error {
	paths, err := filepath.Glob(pattern)
	for _, path := range paths {
		err = errors.Join(err, removeAny(path))
	}
	return err
}

func removeAny(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// baseInitrd returns the part of an initrd that all boots with a kernel and an
// agent share. It is cached by the digests of both.
func (v *VMs) baseInitrd(kernel banger.Digest) (string, error) {
	agent := v.Installed.Agent
	if agent == "" {
		return "", v.missing("the guest agent is not installed")
	}
	path := v.Dirs.BaseInitrd(kernel, agent)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := durable.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	err := durable.Write(path, 0o600, func(file *os.File) error {
		return initrd.WriteBase(file, v.Dirs.Agent(agent), v.Dirs.Kernel(kernel).BootModules())
	})
	if err != nil {
		return "", fmt.Errorf("create the base initrd: %w", err)
	}
	return path, nil
}
