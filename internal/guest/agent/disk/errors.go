package disk

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"banger/internal/guest/agent/log"
	"banger/internal/guest/wire"
)

// Watch knows the errors of the VM's writable disks: those that the file systems
// have recorded, and those that the kernel logs while the machine runs.
type Watch struct {
	devices map[string]string // by label
	tell    func([]wire.DiskErrors)

	mu    sync.Mutex
	known map[string]wire.DiskErrors // by label
	told  map[string]int64           // errors, by label
}

// writable lists the labels of the disks that a VM writes to.
var writable = []string{wire.LabelOverlay, wire.LabelWork}

// NewWatch returns a watch over these devices. tell is called with all disks
// that have errors whenever the errors of one have at least doubled.
func NewWatch(devices map[string]string, tell func([]wire.DiskErrors)) *Watch {
	return &Watch{devices: devices, tell: tell, known: map[string]wire.DiskErrors{}, told: map[string]int64{}}
}

// Errors returns the disks with errors, after a look at what is recorded on them.
func (w *Watch) Errors() []wire.DiskErrors {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.look()
}

func (w *Watch) look() (disks []wire.DiskErrors) {
	for _, label := range writable {
		d := w.known[label]
		if s, err := superblockOf(w.devices[label]); err == nil && s.errors > d.Errors {
			d.Errors = s.errors
			if d.Why == "" {
				d.Why = s.lastError
			}
		}
		if d.Errors > 0 {
			d.Label = label
			w.known[label] = d
			disks = append(disks, d)
		}
	}
	return disks
}

// Follow watches the kernel's log, until it cannot be read. It begins with what
// was logged since the boot: a server that starts again knows that, too.
func (w *Watch) Follow() error {
	records, err := log.Records()
	if err != nil {
		return err
	}
	defer records.Close()
	return w.follow(records)
}

func (w *Watch) follow(records io.Reader) error {
	record := make([]byte, 8<<10)
	heard := map[string]int64{}
	for {
		n, err := records.Read(record)
		if errors.Is(err, unix.EPIPE) {
			continue // records were overwritten before they were read
		}
		if err != nil {
			return fmt.Errorf("read the kernel's log: %w", err)
		}
		device, text := diskError(record[:n])
		for _, label := range writable {
			if device != "" && w.devices[label] == "/dev/"+device {
				heard[label]++
				if disks := w.note(label, heard[label], text); disks != nil {
					w.tell(disks)
				}
			}
		}
	}
}

// note records an error from the log, the heard-th of this disk. It returns the
// disks with errors if that is to be told.
func (w *Watch) note(label string, heard int64, text string) []wire.DiskErrors {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.known[label]
	d.Errors = max(d.Errors, heard)
	if heard == 1 {
		d.Why = text // what comes later follows from it
	}
	w.known[label] = d
	disks := w.look()
	now := w.known[label].Errors
	if now < 2*w.told[label] {
		return nil
	}
	w.told[label] = now
	return disks
}

// kernelErrors are what the kernel logs, before the device's name, when a file system
// or a disk fails.
var kernelErrors = []string{"EXT4-fs error (device ", ioError}

const ioError = "I/O error, dev "

// diskError returns the device whose error a record of the kernel's log reports,
// and the record's text. Records that programs wrote do not count.
func diskError(record []byte) (device, text string) {
	head, rest, _ := strings.Cut(string(record), ";")
	priority, _, _ := strings.Cut(head, ",")
	if n, err := strconv.Atoi(priority); err != nil || n>>3 != 0 {
		return "", ""
	}
	line, _, _ := strings.Cut(rest, "\n")
	for _, known := range kernelErrors {
		_, after, found := strings.Cut(line, known)
		if !found || known == ioError && !losesData(after) {
			continue
		}
		end := strings.IndexFunc(after, func(r rune) bool { return r < 'a' || r > 'z' })
		if device = after[:max(end, 0)]; device != "" {
			return device, strings.ToValidUTF8(line[:min(len(line), maxWhy)], "")
		}
	}
	return "", ""
}

// losesData reports whether a failed operation can lose data, as a failed discard
// cannot. The kernel logs it as "vdc, sector 8 op 0x1:(WRITE) flags ...".
func losesData(operation string) bool {
	_, after, _ := strings.Cut(operation, ":(")
	kind, _, _ := strings.Cut(after, ")")
	return slices.Contains([]string{"READ", "WRITE", "FLUSH", "WRITE_ZEROES"}, kind)
}

// maxWhy bounds a line of the log in a report, in bytes.
const maxWhy = 300

// PrintErrors prints disk errors on the console, for a host that is not connected.
func PrintErrors(nonce string, disks []wire.DiskErrors) {
	if text, err := json.Marshal(disks); err == nil && len(disks) > 0 {
		log.Console(wire.ConsoleDisks + nonce + " " + string(text))
	}
}
