package host

import (
	"bytes"
	"embed"
	"io/fs"
	"os"
	"path"

	"banger"
	"banger/internal/initrd"
)

//go:embed files
var files embed.FS

// placed is a file of the initrd.
type placed struct {
	path string
	mode fs.FileMode
	data []byte
}

// busybox is the shell of the initrd's script.
const busybox = "/bin/busybox"

// writeInitrd writes the host's initrd: a static shell, the script that mounts the root,
// the kernel set's boot modules, and the files for the root.
func (l *Lab) writeInitrd(keys keys) (string, error) {
	shell, err := os.ReadFile(busybox)
	if err != nil {
		return "", &banger.Error{Kind: banger.Unready, What: "create the lab host's initrd", Why: err, Fix: "sudo apt-get install -y busybox-static"}
	}
	modules, err := os.ReadFile(l.Bundle.Kernel().BootModules())
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	archive := initrd.NewWriter(&out)
	for _, dir := range []string{"bin", "dev", "proc", "sys", "files"} {
		archive.Dir(dir, 0o755)
	}
	archive.Char("dev/console", 0o600, 5, 1)
	all := append([]placed{{"bin/busybox", 0o755, shell}, {"init", 0o755, script("init")}}, root(keys)...)
	made := map[string]bool{"bin": true, ".": true, "files": true}
	for _, file := range all {
		above(archive, made, path.Dir(file.path), file.mode)
		if err := archive.File(file.path, file.mode, int64(len(file.data)), bytes.NewReader(file.data)); err != nil {
			return "", err
		}
	}
	if err := archive.Close(); err != nil {
		return "", err
	}
	out.Write(modules)
	out.Write(make([]byte, initrd.Rest(int64(out.Len()))))
	return l.writeFile("initrd.img", 0o600, &out)
}

// above adds the directories above a file.
func above(archive *initrd.Writer, made map[string]bool, dir string, mode fs.FileMode) {
	if made[dir] {
		return
	}
	above(archive, made, path.Dir(dir), mode)
	made[dir] = true
	if path.Base(dir) == ".ssh" {
		archive.Dir(dir, 0o700)
		return
	}
	archive.Dir(dir, 0o755)
}

func script(name string) []byte {
	text, err := files.ReadFile("files/" + name)
	if err != nil {
		panic(err) // it is embedded
	}
	return text
}

// root returns the files that are added to the host's image.
func root(keys keys) []placed {
	return []placed{
		{"files/etc/hostname", 0o644, []byte("banger-lab\n")},
		{"files/etc/hosts", 0o644, []byte("127.0.0.1 localhost\n127.0.1.1 banger-lab\n")},
		{"files/etc/udev/rules.d/99-lab.rules", 0o644, []byte(`KERNEL=="kvm", GROUP="kvm", MODE="0660"` + "\n" + `KERNEL=="tun", MODE="0666"` + "\n")},
		{"files/etc/systemd/system/lab.service", 0o644, script("lab.service")},
		{"files/usr/local/sbin/lab-up", 0o755, script("up")},
		{"files/etc/ssh/ssh_host_ed25519_key", 0o600, keys.host},
		{"files/root/.ssh/authorized_keys", 0o600, keys.authorized},
	}
}
