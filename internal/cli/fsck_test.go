package cli

import (
	"slices"
	"testing"

	"banger"
)

// TestFsckAsks: only a person, or --yes, lets files be lost.
func TestFsckAsks(t *testing.T) {
	f := newFake(aVM("otter", banger.Stopped))
	const question = "work.ext4 has errors?[2J\nRepair the work disk of otter? Damaged files may be lost. A copy is kept. [y/N] "
	const repaired = "otter: overlay disk clean, work disk repaired\n  the work disk as it was: /vms/work.ext4.before-fsck\n"
	f.run(t, setup{}, "vm", "fsck", "otter").want(t, 4, "",
		"banger: VM \"otter\" is not repaired: work.ext4 has errors?[2J\nfix: banger vm fsck --yes otter, which may lose damaged files\n")
	f.run(t, setup{tty: true, in: "n\n"}, "vm", "fsck", "otter").want(t, 1, "", "\r\x1b[K"+question+"banger: the disks stay as they are\n")
	if want := []string{"fsck otter {}", "fsck otter {}"}; !slices.Equal(f.took, want) {
		t.Errorf("asked for %q, want %q", f.took, want)
	}
	if r := f.run(t, setup{tty: true, in: "y\n"}, "vm", "fsck", "otter"); r.code != 0 || r.out != repaired {
		t.Errorf("%+v", r)
	}
	f.run(t, setup{}, "vm", "fsck", "--yes", "--no-copy", "otter").want(t, 0, repaired, "")
	if want := []string{"fsck otter {}", `fsck 000000000005 {"yes":true}`, `fsck otter {"yes":true,"no_copy":true}`}; !slices.Equal(f.took[2:], want) {
		t.Errorf("asked for %q, want %q", f.took[2:], want)
	}
}
