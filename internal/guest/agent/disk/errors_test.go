package disk

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"banger/internal/guest/wire"
)

func TestDiskError(t *testing.T) {
	for record, want := range map[string]string{
		"3,700,1,-;EXT4-fs error (device vdc): ext4_lookup:1855: inode #2: comm ls: deleted inode referenced: 12\n SUBSYSTEM=block\n": "vdc",
		"2,700,1,-;EXT4-fs error (device vdd) in ext4_reserve_inode_write:5786: Journal has aborted\n":                                "vdd",
		"3,700,1,-;Aborting journal on device vdc-8.\n":                                                                               "", // follows an error
		"3,700,1,-;I/O error, dev vdc, sector 8192 op 0x1:(WRITE) flags 0x800 phys_seg 1 prio class 2\n":                              "vdc",
		"3,700,1,-;blk_update_request: I/O error, dev vdc, sector 0 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 0\n":                "vdc",
		"3,700,1,-;I/O error, dev vdc, sector 8192 op 0x3:(DISCARD) flags 0x800 phys_seg 1 prio class 2\n":                            "",
		"3,700,1,-;operation not supported error, dev vdc, sector 0 op 0x9:(WRITE_ZEROES) flags 0x800\n":                              "",
		"4,700,1,-;EXT4-fs (vdc): mounting fs with errors, running e2fsck is recommended\n":                                           "",
		"11,700,1,-;EXT4-fs error (device vdc): a program wrote this\n":                                                               "",
		"6,700,1,-;harmless\n EXT4-fs error (device vdc)\n":                                                                           "",
		"EXT4-fs error (device vdc)": "",
		"":                           "",
	} {
		if device, text := diskError([]byte(record)); device != want || (text != "") != (want != "") {
			t.Errorf("%q: %q, %q", record, device, text)
		}
	}
}

// records are reads of the kernel's log; an empty one was overwritten.
type records []string

func (r *records) Read(b []byte) (int, error) {
	if len(*r) == 0 {
		return 0, io.EOF
	}
	next := (*r)[0]
	*r = (*r)[1:]
	if next == "" {
		return 0, &os.PathError{Op: "read", Err: unix.EPIPE}
	}
	return copy(b, next), nil
}

func TestDiskWatch(t *testing.T) {
	damaged := filepath.Join(t.TempDir(), "vdd")
	if err := os.WriteFile(damaged, newSuperblock(withErrors), 0o600); err != nil {
		t.Fatal(err)
	}
	var told []wire.DiskErrors
	w := NewWatch(map[string]string{wire.LabelOverlay: "/dev/none-of-this-machine", wire.LabelWork: damaged}, nil)
	w.tell = func(disks []wire.DiskErrors) {
		w.Errors() // as a hello does meanwhile
		told = append(told, disks[0])
	}
	recorded := wire.DiskErrors{Label: wire.LabelWork, Errors: 3, Why: "found in ext4_lookup:1080 at inode 2, block 33"}
	if got := w.Errors(); !slices.Equal(got, []wire.DiskErrors{recorded}) {
		t.Errorf("recorded: %+v", got)
	}

	w.devices[wire.LabelOverlay] = "/dev/vdzz"
	const failed = "EXT4-fs error (device vdzz): it failed"
	log := records{"6,1,1,-;boot\n", "", "3,2,2,-;EXT4-fs error (device vdzy): another disk\n"}
	for range 9 {
		log = append(log, "3,2,2,-;"+failed+"\n")
	}
	if err := w.follow(&log); err == nil || !strings.Contains(err.Error(), "EOF") {
		t.Errorf("at the log's end: %v", err)
	}
	var counts []int64
	for _, d := range told {
		counts = append(counts, d.Errors)
	}
	if !slices.Equal(counts, []int64{1, 2, 4, 8}) {
		t.Errorf("told %v", told)
	}
	if got := w.Errors(); !slices.Equal(got, []wire.DiskErrors{{Label: wire.LabelOverlay, Errors: 9, Why: failed}, recorded}) {
		t.Errorf("at the end: %+v", got)
	}
}
