//go:build vm

package lab

import (
	"archive/tar"
	"bytes"
	"os"
	"strings"
	"testing"

	"banger"
)

// docker uses the image's own Docker, which starts at its first use and has its storage
// on raw ext4. It leaves a container that must start again after a reboot.
func docker(t *testing.T, h *home, vm banger.VM) {
	t.Helper()
	if got := h.run(t.Context(), nil, "vm", "exec", vm.Name, "--", "systemctl", "is-active", "docker.service", "containerd.service").stdout; got != "inactive\ninactive\n" {
		t.Errorf("before their first use docker.service and containerd.service are %q", got)
	}
	info := h.sh(t, vm.Name, "docker info --format '{{.Driver}} {{.CgroupVersion}} {{.CgroupDriver}}'; docker compose version --short; docker buildx version")
	if !strings.HasPrefix(info, "overlay2 2 systemd\n") || strings.Count(info, "\n") != 2 {
		t.Errorf("docker says %q", info)
	}
	if r := h.run(t.Context(), busybox(t), "vm", "exec", vm.Name, "--", "docker", "import", "-", "tiny"); r.code != 0 {
		t.Fatalf("docker import: %s", r.stderr)
	}
	const script = "echo from a container; exec /busybox sleep 100000"
	h.sh(t, vm.Name, "docker run -d --name keeps --stop-timeout 1 --restart unless-stopped tiny /busybox sh -c '"+script+"'")
	if got := h.sh(t, vm.Name, "docker logs keeps"); got != "from a container" {
		t.Errorf("got %q", got)
	}
}

// containerIsBack waits for docker's container. It does not use Docker's socket, which
// would start Docker, and searches the processes only once the container has a group:
// the guest has one CPU.
func containerIsBack(t *testing.T, h *home, vm banger.VM) {
	t.Helper()
	h.inGuest(t, vm.Name, "test -d /sys/fs/cgroup/system.slice/docker-*.scope && pgrep -f '^/busybox sleep 100000'")
}

// busybox returns a tar with one static program.
func busybox(t *testing.T) []byte {
	t.Helper()
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatalf("%v: apt-get install busybox-static", err)
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := w.WriteHeader(&tar.Header{Name: "busybox", Mode: 0o755, Size: int64(len(program))}); err != nil {
		t.Fatal(err)
	}
	w.Write(program)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
