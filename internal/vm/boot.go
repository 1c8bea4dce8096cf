package vm

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"banger/internal/config"
	"banger/internal/guest"
	"banger/internal/guest/wire"
)

// newID is n random bytes in hexadecimal.
func newID(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// boot is what a later daemon must know of a VM's current boot and cannot ask
// anybody for: the secrets that prove who the agent is.
type boot struct {
	guest.Identity
	StartedAt time.Time `json:"started_at"`
	Host      string    `json:"host,omitempty"` // the host's own boot id
}

func newBoot() boot {
	return boot{Identity: guest.Identity{Token: newID(32), Nonce: newID(16)}, StartedAt: time.Now().UTC(), Host: hostBoot()}
}

// hostBootID is the kernel's file with an id of its own for each of its boots.
var hostBootID = "/proc/sys/kernel/random/boot_id"

// hostBoot is the host's boot id, or empty where it has none.
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

// readBoot returns no secrets when there are none, also when they were cut off
// as a daemon was killed: it had not come to the launch.
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

// consoleTail is how much of a console's end is searched for last words.
const consoleTail = 64 << 10

// lastWords is what the end of a console log tells of a boot.
type lastWords struct {
	Bye    wire.Verb
	Why    string // the agent's, in place of the init
	Failed *wire.Failure
	Panic  string
	Kernel string // what it did as its very last: a program asked for it
}

// The kernel's own last words.
const (
	kernelHalted = "System halted"
	kernelOff    = "Power off not available: System halted instead" // where a VM cannot switch itself off
	kernelReset  = "Restarting system"
)

// kernelWord is the kernel's last word, if a line is that.
func kernelWord(line string) string {
	switch _, rest, _ := strings.Cut(line, "] reboot: "); rest {
	case kernelHalted, kernelOff, kernelReset:
		return rest
	}
	return ""
}

// halts says whether a guest does nothing more after such a word, and its VMM
// runs on.
func halts(word string) bool { return word == kernelHalted || word == kernelOff }

// haltTail is how much of a console's end is searched for the kernel's last word.
const haltTail = 4 << 10

// hasHalted says whether the last that a guest's kernel said is that it has halted.
func hasHalted(console string) bool {
	text, err := tailOf(console, haltTail)
	if err != nil {
		return false
	}
	word := ""
	for line := range bytes.Lines(text) {
		if said := kernelWord(strings.TrimSpace(string(line))); said != "" {
			word = said
		}
	}
	return halts(word)
}

// listen reads the end of a console log. The guest can write what it likes
// there, so only lines with this boot's nonce count as the agent's.
func listen(console, nonce string) lastWords {
	var words lastWords
	text, err := tailOf(console, consoleTail)
	if err != nil {
		return words
	}
	for line := range bytes.Lines(text) {
		// The kernel's own lines may end with \r\n or lack an end of line.
		line := strings.TrimSpace(string(line))
		if _, rest, ok := strings.Cut(line, wire.ConsoleBye+nonce+" "); ok {
			verb, why, _ := strings.Cut(rest, " ")
			if verb := wire.Verb(verb); verb == wire.Poweroff || verb == wire.Reboot || verb == wire.Halt {
				words.Bye, words.Why = verb, printable(why)
			}
		}
		if _, rest, ok := strings.Cut(line, wire.ConsoleFailed+nonce+" "); ok {
			failure := new(wire.Failure)
			if json.Unmarshal([]byte(rest), failure) == nil {
				*failure = guest.PrintableFailure(*failure)
				words.Failed = failure
			}
		}
		if _, rest, ok := strings.Cut(line, "Kernel panic - not syncing: "); ok {
			words.Panic = "kernel panic: " + printable(rest)
		}
		if word := kernelWord(line); word != "" {
			words.Kernel = word
		}
	}
	return words
}

func printable(s string) string { return guest.Printable(s) }

// tailOf is the end of a file, at most limit bytes, also while its front is
// being cut off.
func tailOf(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	for {
		before, err := file.Stat()
		if err != nil {
			return nil, err
		}
		text := make([]byte, min(limit, before.Size()))
		n, err := file.ReadAt(text, before.Size()-int64(len(text)))
		if err != nil && err != io.EOF {
			return nil, err
		}
		if after, err := file.Stat(); err != nil || after.Size() >= before.Size() {
			return text[:n], err
		}
	}
}

// keepOld renames a log before a new boot begins it again. A missing log is
// no error.
func keepOld(log, old string) error {
	if err := os.Rename(log, old); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("keep the last log: %w", err)
	}
	return nil
}
