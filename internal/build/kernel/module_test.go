package kernel

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger/internal/guest/wire"
)

func openTestModules(t *testing.T) (root string, set *moduleSet) {
	t.Helper()
	root, dir := writeModules(t, testModules(t))
	set, err := readModules(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return root, set
}

func TestBootOrderLoadsWhatAModuleNeedsFirst(t *testing.T) {
	_, set := openTestModules(t)
	order, err := set.bootOrder()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range order {
		got = append(got, wire.BootModule{Path: m.name, Device: m.device}.String())
	}
	want := []string{"virtio_mmio", "virtio_blk", "overlay", "vsock 19", "vmw_vsock_virtio_transport_common 19", "vmw_vsock_virtio_transport 19",
		"failover 1", "net_failover 1", "virtio_net 1", "virtio_rng 4"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	delete(set.byName, "overlay")
	if _, err := set.bootOrder(); err == nil || !strings.Contains(err.Error(), "overlay") {
		t.Errorf("a kernel without overlay: %v", err)
	}
}

func TestNeedsFindsLoopsAndGaps(t *testing.T) {
	a, b := &module{name: "a", depends: []string{"b"}}, &module{name: "b", depends: []string{"a"}}
	set := &moduleSet{byName: map[string]*module{"a": a, "b": b}}
	if _, err := set.needs(a); err == nil || !strings.Contains(err.Error(), "needs itself") {
		t.Errorf("a loop: %v", err)
	}
	delete(set.byName, "b")
	if _, err := set.needs(a); err == nil || !strings.Contains(err.Error(), "lacks") {
		t.Errorf("a gap: %v", err)
	}
}

func TestBootModulesAreAnArchiveWithTheirOrder(t *testing.T) {
	cpio, err := exec.LookPath("cpio")
	if err != nil {
		t.Skip("cpio is not on this host: apt-get install cpio")
	}
	_, set := openTestModules(t)
	dir := t.TempDir()
	if err := set.writeBootModules(filepath.Join(dir, "boot.cpio")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(cpio, "-i", "--quiet", "-F", "boot.cpio")
	cmd.Dir = dir
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	order, err := os.ReadFile(filepath.Join(dir, "lib/modules.order"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(order)) {
		path := wire.ParseBootModule(line).Path
		if data, err := os.ReadFile(filepath.Join(dir, path)); err != nil || !bytes.HasPrefix(data, []byte("\x7fELF")) {
			t.Errorf("%s is not unpacked: %v", path, err)
		}
	}
	if !strings.HasSuffix(string(order), "lib/modules/virtio_rng.ko 4\n") {
		t.Errorf("order: %q", order)
	}
}

func TestHostsModprobeReadsOurIndexes(t *testing.T) {
	root, set := openTestModules(t)
	if err := set.writeIndexes(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]string{
		"virtio_net":                 {"kernel/net/core/failover.ko", "kernel/net/net_failover.ko", "kernel/net/virtio_net.ko"},
		"virtio-rng":                 {"kernel/rng/virtio-rng.ko"},
		"virtio:d00000002v00001af4":  {"kernel/blk/virtio_blk.ko"},
		"fs-overlay":                 {"kernel/fs/overlay.ko"},
		"char-major-10-200":          {"kernel/net/tun.ko"},
		"vmw_vsock_virtio_transport": {"kernel/net/vsock.ko", "kernel/net/vmw_vsock_virtio_transport_common.ko", "kernel/mmio/virtio_mmio.ko", "kernel/net/vmw_vsock_virtio_transport.ko"},
		"ext4":                       {"builtin ext4"},
		"fs-ext4":                    {"builtin ext4"},
	} {
		if got := showDepends(t, root, testRelease, name); !slices.Equal(got, want) {
			t.Errorf("modprobe %s loads %q, want %q", name, got, want)
		}
	}
	for name, want := range map[string]string{
		"modules.devname": "# Device nodes to trigger on-demand module loading.\ntun net/tun c10:200\n",
		"modules.softdep": "# Soft dependencies extracted from modules themselves.\nsoftdep vmw_vsock_virtio_transport pre: virtio_mmio\n",
		"modules.weakdep": "# Weak dependencies extracted from modules themselves.\nweakdep tun virtio_net\n",
	} {
		if got, err := os.ReadFile(filepath.Join(set.dir, name)); err != nil || string(got) != want {
			t.Errorf("%s has %q, %v", name, got, err)
		}
	}
}

func TestAliasKey(t *testing.T) {
	for alias, want := range map[string]string{"a-b": "a_b", "x[0-9]-y": "x[0-9]_y", "plain": "plain"} {
		if got, err := aliasKey(alias); got != want || err != nil {
			t.Errorf("%q: %q, %v", alias, got, err)
		}
	}
	for _, alias := range []string{"a]", "a[b", "a[[b]]"} {
		if _, err := aliasKey(alias); err == nil {
			t.Errorf("%q was taken", alias)
		}
	}
}

func TestReadModulesNamesTheBrokenOne(t *testing.T) {
	for name, data := range map[string][]byte{"text.ko": []byte("text"), "cut.ko": packXZ(t, moduleELF("a=b"))[:40], "odd.ko.zst": []byte("x")} {
		files := testModules(t)
		files["kernel/"+name] = data
		_, dir := writeModules(t, files)
		if _, err := readModules(context.Background(), dir); err == nil || !strings.Contains(err.Error(), "kernel/"+name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
