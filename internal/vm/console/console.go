// Package console owns what VMs write on the host: consoles and the logs of
// VMMs. It reads a guest's last words, keeps logs bounded, and follows them. It
// does not know where these files are, nor what a VM's end means.
package console

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"banger/internal/guest"
	"banger/internal/guest/wire"
)

// Words are what the end of a console says about a boot. All text is printable.
type Words struct {
	Bye    wire.Verb     // the agent's verb, if it said bye
	Why    string        // the agent's reason for ending the machine without the init
	Failed *wire.Failure // the boot step that failed
	Panic  string        // the kernel's panic
	Kernel string        // the kernel's last message, one of the constants below
}

// Messages with which a kernel ends. Without a bye, a program has asked for it.
const (
	KernelHalted = "System halted"
	KernelOff    = "Power off not available: System halted instead" // the VM cannot switch itself off
	KernelReset  = "Restarting system"
)

// Halted reports whether the kernel has halted. Its VMM then keeps running.
func (w Words) Halted() bool { return w.Kernel == KernelHalted || w.Kernel == KernelOff }

// How many bytes at the end of a console are searched.
const (
	wordsTail  = 64 << 10
	haltedTail = 4 << 10
)

// Read returns the last words on the console at path; none if it cannot be
// read. A guest can write anything there, so only lines with the boot's nonce
// count as the agent's.
func Read(path, nonce string) Words {
	var words Words
	for _, line := range lastLines(path, wordsTail) {
		if _, rest, ok := strings.Cut(line, wire.ConsoleBye+nonce+" "); ok {
			verb, why, _ := strings.Cut(rest, " ")
			if verb := wire.Verb(verb); verb == wire.Poweroff || verb == wire.Reboot || verb == wire.Halt {
				words.Bye, words.Why = verb, guest.Printable(why)
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
			words.Panic = "kernel panic: " + guest.Printable(rest)
		}
		words.hearKernel(line)
	}
	return words
}

// Halted reports whether the console at path ends with a halted kernel. It is
// cheaper than Read.
func Halted(path string) bool {
	var words Words
	for _, line := range lastLines(path, haltedTail) {
		words.hearKernel(line)
	}
	return words.Halted()
}

// hearKernel sets Kernel if the line is one of the kernel's last messages.
func (w *Words) hearKernel(line string) {
	switch _, rest, _ := strings.Cut(line, "] reboot: "); rest {
	case KernelHalted, KernelOff, KernelReset:
		w.Kernel = rest
	}
}

// lastLines returns the trimmed lines at the end of a file: the kernel's lines
// may end with \r\n, and the last one with nothing.
func lastLines(path string, limit int64) []string {
	text, err := Tail(path, limit)
	if err != nil {
		return nil
	}
	var lines []string
	for line := range bytes.Lines(text) {
		lines = append(lines, strings.TrimSpace(string(line)))
	}
	return lines
}

// Tail returns the last bytes of a file, at most limit. It is right even while
// the front of the file is being cut off.
func Tail(path string, limit int64) ([]byte, error) {
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

// Rotate renames a log to old before a new boot begins another. It is no error
// if there is no log.
func Rotate(log, old string) error {
	if err := os.Rename(log, old); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("keep the last log: %w", err)
	}
	return nil
}
