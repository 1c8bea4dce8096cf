package vm

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"time"

	"banger/internal/config"
	"banger/internal/guest"
)

// newID returns n random bytes in hexadecimal.
func newID(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// boot is what the next daemon must know about a VM's current boot and cannot
// find out: the secrets by which the agent proves its identity.
type boot struct {
	guest.Identity
	StartedAt time.Time `json:"started_at"`
	Host      string    `json:"host,omitempty"` // the host's own boot id
}

func newBoot() boot {
	return boot{Identity: guest.Identity{Token: newID(32), Nonce: newID(16)}, StartedAt: time.Now().UTC(), Host: hostBoot()}
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
