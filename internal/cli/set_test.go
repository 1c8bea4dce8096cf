package cli

import (
	"slices"
	"testing"

	"banger"
)

func TestSet(t *testing.T) {
	f := newFake(aVM("otter", banger.Running), aVM("wombat", banger.Stopped))
	f.run(t, setup{}, "vm", "set", "otter", "wombat", "--memory", "2048", "--vcpu", "4", "--disk-size", "32", "--overlay-size", "16G", "--driver", "qemu", "--no-nat", "--isolated", "--apply").
		want(t, 0, "otter: memory 1G -> 2G\nwombat: memory 1G -> 2G\n", "")
	f.run(t, setup{}, "vm", "set", "otter", "--memory", "2048").want(t, 0, "otter: nothing to change\n", "")
	f.took = f.took[:2]
	slices.Sort(f.took)
	const opts = ` {"driver":"qemu","vcpus":4,"memory_bytes":2147483648,"disk_bytes":34359738368,"overlay_bytes":17179869184,"nat":false,"isolated":true,"apply":true}`
	if want := []string{"set otter" + opts, "set wombat" + opts}; !slices.Equal(f.took, want) {
		t.Errorf("got %q, want %q", f.took, want)
	}
	before := aVM("otter", banger.Running)
	now := before
	now.VCPUs, now.Disk, now.Driver, now.BootID = 2, 32*banger.GiB, "firecracker", "another"
	if got, want := changes(before, now), "vcpus 1 -> 2, disk 16G -> 32G, driver qemu -> firecracker, restarted"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, args := range [][]string{{"otter"}, {"otter", "--apply"}, {"otter", "--vcpu", "0"}, {"otter", "--memory", "lots"}, {"--vcpu", "1"}} {
		if r := f.run(t, setup{}, append([]string{"vm", "set"}, args...)...); r.code != 2 {
			t.Errorf("%q: %+v", args, r)
		}
	}
}
