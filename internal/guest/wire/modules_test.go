package wire

import "testing"

func TestBootModule(t *testing.T) {
	for _, m := range []BootModule{{Path: "lib/modules/overlay.ko"}, {Path: "lib/modules/virtio_net.ko", Device: VirtioNet}} {
		if got := ParseBootModule(m.String() + "\n"); got != m {
			t.Errorf("%+v became %+v", m, got)
		}
	}
	if got := ParseBootModule("lib/modules/x.ko later words\n"); got != (BootModule{Path: "lib/modules/x.ko"}) {
		t.Errorf("got %+v", got)
	}
}
