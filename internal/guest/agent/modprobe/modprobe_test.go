package modprobe

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestModuleTree(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"modules.dep": `kernel/net/bridge/bridge.ko.xz: kernel/net/802/stp.ko.xz kernel/net/llc/llc.ko.xz
kernel/net/802/stp.ko.xz: kernel/net/llc/llc.ko.xz
kernel/net/llc/llc.ko.xz:
kernel/fs/fuse/virtio-fs.ko:
`,
		"modules.alias": `# aliases
alias net-pf-26 llc
alias pci:v00008086d*sv* bridge
alias char-major-[0-9]-* virtio_fs
alias devname:both stp
alias devname:both llc
`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := readModuleTree(dir)
	if err != nil {
		t.Fatal(err)
	}
	const stp, llc, bridge, fs = "kernel/net/802/stp.ko.xz", "kernel/net/llc/llc.ko.xz", "kernel/net/bridge/bridge.ko.xz", "kernel/fs/fuse/virtio-fs.ko"
	for request, want := range map[string][]string{
		"bridge":                 {llc, stp, bridge},
		"virtio-fs":              {fs},
		"virtio_fs":              {fs},
		"net-pf-26":              {llc},
		"pci:v00008086d01sv0002": {llc, stp, bridge},
		"char-major-5-7":         {fs},
		"devname:both":           {llc, stp, llc},
	} {
		if got, err := tree.files(request); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %v, %v; want %v", request, got, err, want)
		}
	}
	if got, err := tree.files("char-major-x-7"); !errors.Is(err, errNoModule) {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestParseDevice(t *testing.T) {
	if mode, dev, ok := parseDevice("c10:200"); !ok || mode != unix.S_IFCHR || unix.Minor(uint64(dev)) != 200 || unix.Major(uint64(dev)) != 10 {
		t.Errorf("got %o %x %v", mode, dev, ok)
	}
	for _, bad := range []string{"", "c", "c10", "x1:2", "c1:x", "c99999:1"} {
		if _, _, ok := parseDevice(bad); ok {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestVirtioDevices(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"virtio0": "0x0002\n", "virtio1": "0x0013\n", "virtio2": "nonsense"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "device"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := virtioDevices(dir), map[int]bool{2: true, 19: true}; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := virtioDevices(filepath.Join(dir, "missing")); len(got) != 0 {
		t.Errorf("got %v", got)
	}
}
