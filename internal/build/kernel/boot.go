package kernel

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"banger/internal/guest/wire"
	"banger/internal/initrd"
)

// bootModules are the modules that a VM needs before it mounts its root, in loading
// order. Some kernels have them built in.
var bootModules = []struct {
	name     string
	device   int  // the virtio device that it drives, and without which nothing needs it; 0: every VM needs it
	optional bool // a kernel may lack it
}{
	{name: "virtio_pci"}, {name: "virtio_mmio"}, {name: "virtio_blk"},
	{name: "ext4"}, {name: "overlay"},
	{name: "virtio_console"}, {name: "vmw_vsock_virtio_transport", device: wire.VirtioVsock},
	{name: "virtio_net", device: wire.VirtioNet}, {name: "virtio_rng", device: wire.VirtioRNG, optional: true},
	{name: "virtio_balloon", device: wire.VirtioBalloon, optional: true},
}

// bootModule is a module of the initrd.
type bootModule struct {
	*module
	device int // as in bootModules
}

// bootOrder returns the boot modules to load, each after the modules that it needs.
func (s *moduleSet) bootOrder() ([]bootModule, error) {
	builtin, err := s.builtin()
	if err != nil {
		return nil, err
	}
	var order []bootModule
	for _, want := range bootModules {
		m, ok := s.byName[want.name]
		if !ok && !want.optional && !slices.Contains(builtin, want.name) {
			return nil, fmt.Errorf("this kernel has no %s", want.name)
		}
		if !ok {
			continue
		}
		needs, err := s.needs(m)
		if err != nil {
			return nil, err
		}
		for _, m := range append(needs, m) {
			at := slices.IndexFunc(order, func(b bootModule) bool { return b.module == m })
			if at < 0 {
				order = append(order, bootModule{m, want.device})
			} else if order[at].device != want.device {
				order[at].device = 0
			}
		}
	}
	return order, nil
}

// builtin returns the names of the modules that are built into the kernel.
func (s *moduleSet) builtin() ([]string, error) {
	text, err := os.ReadFile(filepath.Join(s.dir, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, path := range strings.Fields(string(text)) {
		names = append(names, moduleName(path))
	}
	return names, nil
}

// writeBootModules writes the boot modules as an archive for an initrd.
func (s *moduleSet) writeBootModules(path string) error {
	order, err := s.bootOrder()
	if err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	out := bufio.NewWriterSize(file, 1<<20)
	archive := initrd.NewWriter(out)
	archive.Dir("lib", 0o755)
	archive.Dir("lib/modules", 0o755)
	var lines []byte
	for _, m := range order {
		data, err := os.ReadFile(filepath.Join(s.dir, m.path))
		if err != nil {
			return err
		}
		name := "lib/modules/" + m.name + ".ko"
		archive.File(name, 0o644, int64(len(data)), bytes.NewReader(data))
		lines = fmt.Appendln(lines, wire.BootModule{Path: name, Device: m.device})
	}
	archive.File(wire.ModulesPath, 0o644, int64(len(lines)), bytes.NewReader(lines))
	if err := archive.Close(); err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return err
	}
	return file.Close()
}
