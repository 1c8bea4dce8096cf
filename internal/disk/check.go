package disk

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"banger"
	"banger/internal/durable"
	"banger/internal/hostcmd"
)

// Where ext4 keeps what this package reads, in bytes from the superblock's start.
// https://docs.kernel.org/filesystems/ext4/super.html
const (
	superblock   = 1024 // from the disk's start
	blocksLow    = 0x4
	logBlockSize = 0x18
	magic        = 0x38
	state        = 0x3a
	incompatible = 0x60
	blocksHigh   = 0x150
	errorCount   = 0x194
)

// Errors returns how many errors the guest's kernel has recorded in the disk's
// superblock since the last check, and 0 for a healthy disk. A disk that was not
// unmounted can have more of them in its journal. Errors only reads the file. A
// file without ext4, or shorter than its ext4, is a Conflict.
func Errors(path string) (int, error) {
	super, size, err := readSuper(path)
	if err != nil {
		return 0, err
	}
	if super.short(magic) != 0xef53 {
		return 0, damaged(fmt.Errorf("%s does not contain an ext4 file system", path))
	}
	if want := super.size(); size < want {
		return 0, damaged(fmt.Errorf("%s is cut off: it has %d of its %d bytes", path, size, want))
	}
	count := int(super.long(errorCount))
	if super.short(state)&2 != 0 { // the error flag
		count = max(count, 1)
	}
	return count, nil
}

// super is a superblock.
type super []byte

func (s super) short(at int) uint16 { return binary.LittleEndian.Uint16(s[at:]) }
func (s super) long(at int) uint32  { return binary.LittleEndian.Uint32(s[at:]) }

// size returns the size of the file system.
func (s super) size() uint64 {
	blocks := uint64(s.long(blocksLow))
	if s.long(incompatible)&0x80 != 0 { // 64bit
		blocks |= uint64(s.long(blocksHigh)) << 32
	}
	return blocks << (10 + s.long(logBlockSize)&7)
}

// readSuper returns what may be a superblock, and the file's size.
func readSuper(path string) (super, uint64, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, 0, err
	}
	s := make(super, 1024)
	if _, err := file.ReadAt(s, superblock); err != nil && !errors.Is(err, io.EOF) {
		return nil, 0, err
	}
	return s, uint64(info.Size()), nil
}

// Check repairs the file system on a disk that no VMM has open, as far as
// e2fsck may without asking, and clears the recorded errors. A disk that needs
// a person's decisions is a Conflict.
func Check(ctx context.Context, run hostcmd.Runner, path string) (banger.FsckResult, error) {
	recorded, err := Errors(path)
	if banger.KindOf(err) == banger.Conflict { // e2fsck would not look for another superblock unasked
		return banger.FsckDamaged, err
	}
	if err != nil {
		return "", err
	}
	status, _, err := e2fsck(ctx, run, "-p", path)
	if err == nil {
		err = durable.Sync(path)
	}
	switch {
	case err != nil:
		return "", err
	case status == 0 && recorded == 0: // clearing the record alone is no change for e2fsck
		return banger.FsckClean, nil
	case status < uncorrected:
		return banger.FsckRepaired, nil
	}
	return banger.FsckDamaged, damaged(fmt.Errorf("%s has errors that e2fsck does not repair without asking", path))
}

// Repair repairs the file system on a disk that no VMM has open, and lets e2fsck decide
// what to do with damaged files. A file that was cut off gets its size back. What e2fsck
// cannot repair is a Conflict.
func Repair(ctx context.Context, run hostcmd.Runner, path string) error {
	super, size, err := readSuper(path)
	if err != nil {
		return err
	}
	if want := super.size(); super.short(magic) == 0xef53 && size < want && want <= uint64(Largest) {
		if err := Grow(path, banger.Size(want)); err != nil {
			return err
		}
	}
	status, said, err := e2fsck(ctx, run, "-y", path)
	if err != nil {
		return err
	}
	if status >= uncorrected {
		return &banger.Error{Kind: banger.Conflict, Why: fmt.Errorf("e2fsck cannot repair %s: %s", path, said), Fix: "restore the file from a backup, or delete the VM"}
	}
	return durable.Sync(path)
}

// uncorrected is the first bit of e2fsck's exit status that says that it did not repair
// everything; the lower ones say that it did.
const uncorrected = 4

// e2fsck checks the whole file system on a disk, and returns its exit status and the last
// line that it printed.
func e2fsck(ctx context.Context, run hostcmd.Runner, mode, path string) (status int, said string, err error) {
	program, err := run.Look("e2fsck")
	if err != nil {
		return 0, "", err
	}
	var out lastLine
	_, err = run.Run(ctx, hostcmd.Cmd{Argv: []string{program, "-f", mode, path}, Stdout: &out, Stderr: &out})
	var failed *hostcmd.Error
	if errors.As(err, &failed) && failed.Status > 0 && !Full(errors.New(out.text)) {
		return failed.Status, out.String(), nil
	}
	if err != nil && out.text != "" {
		err = fmt.Errorf("%w: %s", err, out.String())
	}
	return 0, "", err
}

// lastLine keeps the last line that is not empty of what is written to it, whose lines
// are shorter than the bound.
type lastLine struct {
	mu   sync.Mutex // stdout and stderr are written at the same time
	text string
}

func (l *lastLine) Write(p []byte) (int, error) {
	const bound = 1024
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text += string(p)
	l.text = l.text[max(0, len(l.text)-bound):]
	return len(p), nil
}

func (l *lastLine) String() string {
	lines := strings.Split(strings.TrimSpace(l.text), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

// Copy copies a disk that no VMM has open, with its holes, to a file that must not exist.
// A failure leaves no file.
func Copy(ctx context.Context, run hostcmd.Runner, from, to string) error {
	cp, err := run.Look("cp")
	if err != nil {
		return err
	}
	_, err = run.Run(ctx, hostcmd.Cmd{Argv: []string{cp, "--reflink=auto", "--", from, to}})
	if err == nil {
		err = durable.Sync(to)
	}
	if err != nil {
		os.Remove(to)
	}
	return err
}

// damaged is the error of a disk that no VM can be started with as it is.
func damaged(why error) error { return &banger.Error{Kind: banger.Conflict, Why: why} }
