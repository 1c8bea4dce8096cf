//go:build vm

package lab

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/internal/oci/ocitest"
)

// guestEnd is how a guest ends, and what is shown then.
type guestEnd struct {
	by   string // a program in the VM; empty: banger vm stop
	told banger.Ending
}

// contract tests what every VM does, whatever its image contains. The VM runs when it
// returns.
func contract(t *testing.T, h *home, image, name string, end guestEnd) banger.VM {
	t.Helper()
	vm := h.create(t, "--name", name, "--image", image, "--disk-size", "64M", "--overlay-size", "64M")
	if vm.Image != image {
		t.Errorf("it is made from %q", vm.Image)
	}
	if got := h.sh(t, name, "hostname; id -un; pwd; cat /etc/hostname; wc -c </etc/machine-id"); got != name+"\nroot\n/root\n"+name+"\n33" {
		t.Errorf("identity: %q", got)
	}
	if r := h.run(t.Context(), nil, "vm", "exec", name, "--", "sh", "-c", "exit 7"); r.code != 7 {
		t.Errorf("exec: exit %d (%s)", r.code, r.stderr)
	}
	if got := h.banger(t, "vm", "exec", "--user", "nobody", name, "--", "id", "-un"); got != "nobody\n" {
		t.Errorf("as nobody: %q", got)
	}
	copies(t, h, vm)
	first := h.bootID(t, name)
	h.sh(t, name, "echo mine >/root/proof; echo mine >/etc/proof; echo mine >/var/proof")
	grows(t, h, name)
	if stats := h.banger(t, "vm", "stats", "--json", name); !strings.Contains(stats, `"guest": {`) || !strings.Contains(stats, `"path": "/root"`) {
		t.Errorf("stats: %s", stats)
	}
	ends(t, h, vm, end)
	h.banger(t, "vm", "start", name)
	if second := h.bootID(t, name); second == first {
		t.Errorf("the boot id is still %s", first)
	}
	if got := h.sh(t, name, "cat /root/proof /etc/proof /var/proof"); got != "mine\nmine\nmine" {
		t.Errorf("after the restart: %q", got)
	}
	return vm
}

// ends stops the VM. After a clean ending it checks the disks.
func ends(t *testing.T, h *home, vm banger.VM, end guestEnd) {
	t.Helper()
	if end.by != "" {
		h.run(t.Context(), nil, "vm", "exec", vm.Name, "--", end.by)
		until(t, 2*time.Minute, "the guest's own power-off", func() bool { return h.show(t, vm.Name).State == banger.Stopped })
	} else {
		h.banger(t, "vm", "stop", vm.Name)
	}
	if now := h.show(t, vm.Name); now.Ending != end.told {
		t.Errorf("the end is %s %q, want %s", now.Ending, now.EndingBy, end.told)
	}
	if end.told == banger.EndedPoweroff {
		cleanVM(t, vm)
	}
}

// copies sends a file to the VM with the host's own ssh and sftp.
func copies(t *testing.T, h *home, vm banger.VM) {
	t.Helper()
	proxy := "ProxyCommand=" + h.bin + "/banger vm proxy " + vm.Name + " 22"
	options := []string{"-i", vm.SSHKey, "-o", "UserKnownHostsFile=" + vm.KnownHosts, "-o", "HostKeyAlias=banger-" + string(vm.ID),
		"-o", "StrictHostKeyChecking=yes", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", proxy, "-o", "LogLevel=ERROR"}
	ssh := exec.CommandContext(t.Context(), "ssh", append(options, "root@"+vm.Name, "echo from ssh; exit 9")...)
	ssh.Env = h.env
	out, err := ssh.Output()
	if ssh.ProcessState == nil || ssh.ProcessState.ExitCode() != 9 || string(out) != "from ssh\n" {
		t.Errorf("ssh: %v: %s", err, out)
	}
	sftp := exec.CommandContext(t.Context(), "sftp", append(options, "-b", "-", "root@"+vm.Name)...)
	sftp.Env, sftp.Stdin = h.env, strings.NewReader("put /bin/busybox /tmp/copied\nls -l /tmp/copied\n")
	if out, err := sftp.CombinedOutput(); err != nil || !strings.Contains(string(out), "/tmp/copied") {
		t.Errorf("sftp: %v: %s", err, out)
	}
	if got := h.sh(t, vm.Name, "sha256sum </tmp/copied; rm /tmp/copied"); !strings.HasPrefix(got, digest(t, "/bin/busybox")) {
		t.Errorf("what sftp copied is %s", got)
	}
}

// grows grows both disks while the VM runs.
func grows(t *testing.T, h *home, name string) {
	t.Helper()
	blocks := func() []string { return strings.Fields(h.sh(t, name, "stat -f -c %b / /root")) }
	before := blocks()
	h.banger(t, "vm", "set", "--disk-size", "128M", "--overlay-size", "128M", name)
	after := blocks()
	for i, path := range []string{"/", "/root"} {
		if number(t, after[i]) < number(t, before[i])*3/2 {
			t.Errorf("%s has %s blocks, and had %s", path, after[i], before[i])
		}
	}
}

// TestImages: VMs work the same whatever their image lacks, or has in strange places.
func TestImages(t *testing.T) {
	t.Parallel()
	h := shared
	byInit := guestEnd{"poweroff", banger.EndedPoweroff}
	t.Run("no init, no kmod, no SSH server", func(t *testing.T) {
		t.Parallel()
		vm := contract(t, h, h.tiny(t), "img-tiny", byInit)
		autoloads(t, h, vm.Name)
	})
	t.Run("an init of another kind", func(t *testing.T) {
		t.Parallel()
		r := newTinyTar(t)
		r.link("bin/init", "busybox")
		r.file("etc/inittab", "::sysinit:/bin/touch /run/init-was-here\n::shutdown:/bin/touch /root/init-ended\n")
		h.importTar(t, "foreign", r.bytes())
		// This init does not unmount the disks below the root: it does not know them.
		vm := contract(t, h, "foreign", "img-foreign", guestEnd{"", banger.EndedUnclean})
		if got := h.sh(t, vm.Name, "tr -d '\\000' </proc/1/cmdline | cut -c 1-4; ls /run/init-was-here /root/init-ended"); got != "init\n/root/init-ended\n/run/init-was-here" {
			t.Errorf("init: %q", got)
		}
		autoloads(t, h, vm.Name)
		h.sh(t, vm.Name, "echo synced >/root/proof; sync")
		ends(t, h, vm, guestEnd{"poweroff", banger.EndedUnclean})
		h.banger(t, "vm", "start", vm.Name)
		if got := h.sh(t, vm.Name, "cat /root/proof"); got != "synced" {
			t.Errorf("after its own end: %q", got)
		}
	})
	t.Run("content where a VM has disks of its own, and links for resolv.conf; from a registry", func(t *testing.T) {
		t.Parallel()
		pullSeeded(t, h)
		vm := contract(t, h, "seeded", "img-seeded", guestEnd{"", banger.EndedPoweroff})
		if got := h.sh(t, vm.Name, "echo $GREETING $PATH $HOME; cat /etc/banger-test"); got != "hello /opt/bin:/bin /root\nupper" {
			t.Errorf("what the image of a container says: %q", got)
		}
		seeds(t, h, vm)
	})
}

// autoloads uses what needs modules that the image does not have: the kernel asks for
// them by itself.
func autoloads(t *testing.T, h *home, name string) {
	t.Helper()
	got := h.sh(t, name, `grep -c -E '^(xfs|loop) ' /proc/modules
		mkdir -p /mnt
		dd if=/dev/zero of=/tmp/disk bs=1k count=100 2>/dev/null
		mount -t xfs -o loop /tmp/disk /mnt 2>/dev/null
		grep -o -E '^(xfs|loop) ' /proc/modules | sort | tr -d '\n'`)
	if got != "0\nloop xfs " {
		t.Errorf("modules: %q", got)
	}
}

// pullSeeded makes the image of two layers in a registry.
func pullSeeded(t *testing.T, h *home) {
	t.Helper()
	registry := ocitest.NewRegistry(t)
	config := map[string]any{"Env": []string{"PATH=/opt/bin:/bin", "GREETING=hello", "HOME=/else"}, "Entrypoint": []string{"/bin/sh"}}
	upper := ocitest.Tar(map[string]string{"etc/banger-test": "upper", "root/.wh.gone": ""})
	registry.Push("org/seeded:1", ocitest.New(ocitest.Host, config, seeded(t), upper))
	h.banger(t, "image", "pull", registry.Host+"/org/seeded:1", "seeded")
}

// seeded is an image with content where the VM's own disks are mounted.
func seeded(t *testing.T) []byte {
	t.Helper()
	r := newTinyTar(t)
	r.file("root/.profile", "from the image\n")
	r.file("root/gone", "")
	r.add(tar.Header{Typeflag: tar.TypeDir, Name: "root/deep/dir/", Mode: 0o750, Uid: 7, Gid: 8}, "")
	r.add(tar.Header{Name: "root/deep/dir/own", Mode: 0o640, Uid: 7, Gid: 8}, "owned\n")
	r.file("var/lib/containers/data", "from the image\n")
	r.file("var/lib/docker/data", "from the image\n")
	r.link("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf")
	return r.bytes()
}

// seeds checks that the image's content is there at first, and the user's changes to it
// later. A resolv.conf that is a dangling link does not keep a VM from booting.
func seeds(t *testing.T, h *home, vm banger.VM) {
	t.Helper()
	look := "ls /root/gone 2>/dev/null; cat /root/.profile; stat -c '%a %u %g' /root/deep/dir /root/deep/dir/own; ls /var/lib/containers /var/lib/docker"
	if got := h.sh(t, vm.Name, look); got != "from the image\n750 7 8\n640 7 8\n/var/lib/containers:\ndata\n\n/var/lib/docker:\ndata" {
		t.Errorf("the seed: %q", got)
	}
	h.sh(t, vm.Name, `echo changed >/root/.profile; rm /root/deep/dir/own /var/lib/containers/data /var/lib/docker/data; echo new >/var/lib/docker/new
		ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf`)
	h.banger(t, "vm", "restart", vm.Name)
	if got := h.sh(t, vm.Name, "cat /root/.profile; ls /root/deep/dir /var/lib/containers /var/lib/docker"); got != "changed\n/root/deep/dir:\n\n/var/lib/containers:\n\n/var/lib/docker:\nnew" {
		t.Errorf("after the restart: %q", got)
	}
	h.sh(t, vm.Name, "ln -sf /run/nowhere/resolv.conf /etc/resolv.conf")
	h.banger(t, "vm", "restart", vm.Name)
	if got := h.sh(t, vm.Name, "stat -f -c %T /var/lib/docker"); got != "ext2/ext3" {
		t.Errorf("/var/lib/docker is on %q", got)
	}
}

// TestManyFiles imports an image with 100,000 files.
func TestManyFiles(t *testing.T) {
	t.Parallel()
	h := shared
	const count = 100_000
	r := newTinyTar(t)
	for i := range count {
		r.file(fmt.Sprintf("many/%03d/%05d", i/500, i), fmt.Sprint(i))
	}
	deep := "many/" + strings.Repeat("deeper/", 100) + "file"
	long := "many/" + strings.Repeat("n", 255)
	r.file(deep, "deep")
	r.file(long, "long")
	r.add(tar.Header{Typeflag: tar.TypeLink, Name: "many/linked", Linkname: long}, "")
	archive := r.bytes()
	begun := time.Now()
	h.importTar(t, "many", archive)
	t.Logf("import of %d MiB, %d files: %v", len(archive)>>20, count, time.Since(begun).Round(time.Millisecond))
	vm := contract(t, h, "many", "img-many", guestEnd{told: banger.EndedPoweroff})
	got := h.sh(t, vm.Name, "find /many -type f | wc -l; cat /many/199/99999 /"+deep+" /many/linked; stat -c %h /many/linked")
	if want := fmt.Sprintf("%d\n99999deeplong2", count+3); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	h.banger(t, "vm", "stop", vm.Name)
	cleanVM(t, vm)
	if r := h.run(t.Context(), nil, "image", "delete", "many"); r.code != 4 || !bytes.Contains([]byte(r.stderr), []byte("img-many")) {
		t.Errorf("exit %d: %s", r.code, r.stderr)
	}
}
