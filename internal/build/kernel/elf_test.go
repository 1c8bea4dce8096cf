package kernel

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ulikunitz/xz"

	"banger/internal/hostcmd"
)

// moduleELF returns the smallest module that has a .modinfo section.
func moduleELF(info ...string) []byte {
	data := []byte(strings.Join(info, "\x00") + "\x00")
	names := []byte("\x00.modinfo\x00.shstrtab\x00")
	headerSize, sectionSize := 64, 64
	var out bytes.Buffer
	put := func(v any) { binary.Write(&out, binary.LittleEndian, v) }
	sections := headerSize + len(data) + len(names)
	put(elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', 2, 1, 1}, Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1,
		Shoff: uint64(sections), Ehsize: uint16(headerSize), Shentsize: uint16(sectionSize), Shnum: 3, Shstrndx: 2,
	})
	out.Write(data)
	out.Write(names)
	put(elf.Section64{})
	put(elf.Section64{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: uint64(headerSize), Size: uint64(len(data)), Addralign: 1})
	put(elf.Section64{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(headerSize + len(data)), Size: uint64(len(names)), Addralign: 1})
	return out.Bytes()
}

func packXZ(t *testing.T, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := xz.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// testRelease and its files are a small kernel with built-in modules, and with modules
// that need each other.
const testRelease = "6.1.0-test"

func testModules(t *testing.T) map[string][]byte {
	order := []string{"kernel/net/core/failover", "kernel/net/net_failover", "kernel/net/virtio_net", "kernel/blk/virtio_blk",
		"kernel/mmio/virtio_mmio", "kernel/rng/virtio-rng", "kernel/net/vsock", "kernel/net/vmw_vsock_virtio_transport_common",
		"kernel/net/vmw_vsock_virtio_transport", "kernel/fs/overlay", "kernel/net/tun"}
	info := map[string][]string{
		"net_failover":                      {"depends=failover"},
		"virtio_net":                        {"depends=net_failover,failover", "alias=virtio:d00000001v*"},
		"virtio_blk":                        {"depends=", "alias=virtio:d00000002v*"},
		"virtio-rng":                        {"depends=", "alias=virtio:d00000004v*"},
		"vmw_vsock_virtio_transport_common": {"depends=vsock"},
		"vmw_vsock_virtio_transport":        {"depends=vmw_vsock_virtio_transport_common,vsock", "softdep=pre: virtio_mmio"},
		"overlay":                           {"depends=", "alias=fs-overlay"},
		"tun":                               {"alias=devname:net/tun", "alias=char-major-10-200", "weakdep=virtio_net"},
	}
	files := map[string][]byte{
		"modules.builtin":         []byte("kernel/fs/ext4/ext4.ko\nkernel/drivers/virtio/virtio_pci.ko\nkernel/drivers/char/virtio_console.ko\n"),
		"modules.builtin.modinfo": []byte("ext4.alias=fs-ext4\x00ext4.license=GPL\x00"),
	}
	var list strings.Builder
	for _, path := range order {
		list.WriteString(path + ".ko\n")
		files[path+".ko.xz"] = packXZ(t, moduleELF(append([]string{"license=GPL"}, info[filepath.Base(path)]...)...))
	}
	files["modules.order"] = []byte(list.String())
	return files
}

// writeModules writes the test kernel's modules as they are in /lib/modules.
func writeModules(t *testing.T, files map[string][]byte) (root, modules string) {
	t.Helper()
	root = t.TempDir()
	modules = filepath.Join(root, "lib/modules", testRelease)
	for name, data := range files {
		if err := writeFile(filepath.Join(modules, name), bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
	}
	return root, modules
}

// showDepends returns what the host's modprobe would load for a module or an alias.
func showDepends(t *testing.T, root, release, name string) []string {
	t.Helper()
	modprobe, err := hostcmd.Host{}.Look("modprobe")
	if err != nil {
		t.Skip("modprobe is not on this host: apt-get install kmod")
	}
	said, err := exec.Command(modprobe, "-d", root, "-S", release, "-C", os.DevNull, "--show-depends", name).CombinedOutput()
	if err != nil {
		t.Fatalf("modprobe %s: %v: %s", name, err, said)
	}
	var paths []string
	for line := range strings.Lines(string(said)) {
		path := strings.TrimSpace(strings.TrimPrefix(line, "insmod "))
		if at := strings.Index(path, release+"/"); at >= 0 {
			path = path[at+len(release)+1:]
		}
		paths = append(paths, path)
	}
	return paths
}
