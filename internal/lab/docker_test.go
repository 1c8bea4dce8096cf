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
	unit, err := os.ReadFile("../../internal/build/image/files/" + restartUnit) // the image may be older
	if err != nil {
		t.Fatal(err)
	}
	if r := h.run(t.Context(), unit, "vm", "exec", vm.Name, "--", "sh", "-c", "cat >/"+restartUnit); r.code != 0 {
		t.Fatal(r.stderr)
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

// restartUnit is the unit of the image that starts Docker for containers.
const restartUnit = "etc/systemd/system/banger-docker-restart.service"

// containerIsBack checks that docker's container runs once the boot is complete. It does
// not use Docker's socket, which would start Docker.
func containerIsBack(t *testing.T, h *home, vm banger.VM) {
	t.Helper()
	if got := h.sh(t, vm.Name, "ls /sys/fs/cgroup/system.slice"); !strings.Contains(got, "docker-") {
		t.Errorf("the boot is complete without the container: %s", got)
	}
	h.inGuest(t, vm.Name, "pgrep -f '^/busybox sleep 100000'") // its shell may not have come that far
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
