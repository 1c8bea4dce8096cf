//go:build vm

package lab

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger"
)

// buildScript changes a root file system in every way that an image must keep.
const buildScript = `#!/bin/sh -e
test "$VERSION" = 2
test "$(cat /run/secrets/token)" = hidden-token
test "$(stat -c %a /run/secrets/token)" = 400
echo "built $VERSION" >/etc/built
mkdir -p /opt/tool
cp /bin/busybox /opt/tool/setuid
chown 65534:65534 /opt/tool/setuid
chmod 4755 /opt/tool/setuid
ln /opt/tool/setuid /opt/tool/same
ln -s ../etc/built /opt/link
rm /bin/nc
echo of the image >/root/kept
echo log >/var/tmp/gone
`

// TestImagesFromVMs: an image that a script built has all that the script left, and nothing
// of its inputs or of the VM that it was built in. Of a VM from it, running or stopped, an
// image is made that has what the VM changed, and a list of that.
func TestImagesFromVMs(t *testing.T) {
	t.Parallel()
	h := own(t)
	dir := t.TempDir()
	for name, text := range map[string]string{"script": buildScript, "token": "hidden-token"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	build := []string{"image", "build", "--json", "app", "--from", h.tiny(t), "--script", dir + "/script", "--build-arg", "VERSION=2", "--secret", "id=token,src=" + dir + "/token"}
	var built, again banger.BuiltImage
	readJSON(t, h.banger(t, build...), &built)
	readJSON(t, h.banger(t, build...), &again)
	if built.Unchanged || !again.Unchanged || again.Image.ID != built.Image.ID {
		t.Errorf("built %+v, and again %+v", built, again)
	}
	if vms := h.list(t.Context()); len(vms) > 0 {
		t.Errorf("left: %v", vms)
	}

	vm := h.create(t, "--image", "app", "--name", "otter")
	const look = "cat /etc/built /root/kept /opt/link; stat -c '%a %u %h' /opt/tool/same; ls /bin/nc /var/tmp/gone /run/secrets /run/banger-build 2>/dev/null; grep build- /etc/hosts /etc/hostname; true"
	if got, want := h.sh(t, "otter", look), "built 2\nof the image\nbuilt 2\n4755 65534 2"; got != want {
		t.Errorf("the image has %q, want %q", got, want)
	}
	h.sh(t, "otter", "echo mine >/etc/mine; echo changed >>/etc/built; rm /opt/link; mkdir /opt/new; echo 12345 >/opt/new/file; echo mine >/root/own; touch /bin/cat; chmod 755 /bin/busybox")
	changes := diff(t, h)
	h.banger(t, "image", "commit", "otter", "of-running")
	h.stopped(t, vm)
	h.banger(t, "image", "commit", "--with-home", "otter", "of-stopped")
	if now := h.show(t, "otter"); now.State != banger.Stopped {
		t.Errorf("it is %s", now.State)
	}
	cleanVM(t, vm)
	for _, line := range []string{"added /etc/mine", "changed /etc/built", "deleted /opt/link", "added /opt/new"} {
		if !slices.Contains(changes, line) {
			t.Errorf("%q is missing in %q", line, changes)
		}
	}
	for _, line := range changes {
		if strings.Contains(line, "busybox") || strings.Contains(line, "/bin/cat") || strings.Contains(line, "/root") || strings.Contains(line, "hosts") {
			t.Errorf("%q is not a change", line)
		}
	}
	for image, home := range map[string]string{"of-running": "", "of-stopped": "mine\n"} {
		for path, want := range map[string]string{"/etc/mine": "mine\n", "/etc/built": "built 2\nchanged\n", "/opt/new/file": "12345\n", "/opt/link": "",
			"/root/own": home, "/etc/hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"} {
			if got := h.inImage(t, image, path); got != want {
				t.Errorf("%s of %s is %q, want %q", path, image, got, want)
			}
		}
	}
	for _, path := range []string{h.dirs.State, h.dirs.Cache} {
		if file := holds(t, path, "hidden-token"); file != "" {
			t.Errorf("the secret is in %s", file)
		}
	}
}

// inImage returns the text of a file of an image, or nothing if it is missing.
func (h *home) inImage(t *testing.T, image, path string) string {
	t.Helper()
	var shown banger.Image
	readJSON(t, h.banger(t, "image", "show", "--json", image), &shown)
	text, err := exec.Command("/usr/sbin/debugfs", "-R", "cat "+path, h.dirs.Image(shown.ID).Rootfs()).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// diff returns what otter has changed, a line each.
func diff(t *testing.T, h *home) []string {
	t.Helper()
	var d banger.VMDiff
	readJSON(t, h.banger(t, "image", "diff", "--json", "otter"), &d)
	var lines []string
	for _, f := range d.Files {
		lines = append(lines, f.Change+" "+f.Path)
	}
	return lines
}

func readJSON(t *testing.T, text string, to any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), to); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
}

// holds returns a file below dir that has a text in it.
func holds(t *testing.T, dir, text string) (found string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || found != "" {
			return err
		}
		if info, err := entry.Info(); err != nil || info.Size() > int64(64*banger.MiB) {
			return err // another image, or a disk of a VM that never had it
		}
		content, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(content), text) {
			found = path
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
