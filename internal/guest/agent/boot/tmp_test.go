package boot

import (
	"os"
	"path/filepath"
	"testing"
)

func TestSystemdMountsTmp(t *testing.T) {
	const wants = "/systemd/system/local-fs.target.wants/"
	for name, c := range map[string]struct {
		dirs, files []string
		link        [2]string // a name, and what it leads to
		fstab       string
		want        bool
	}{
		"as Debian 13 has it": {dirs: []string{"usr/lib" + wants}, link: [2]string{"usr/lib" + wants + "tmp.mount", "../tmp.mount"}, want: true},
		"lib is of its own":   {files: []string{"lib" + wants + "tmp.mount"}, want: true},
		"enabled by the user": {files: []string{"etc" + wants + "tmp.mount"}, want: true},
		"as Debian 12 has it": {files: []string{"usr/share/systemd/tmp.mount"}},
		"masked":              {dirs: []string{"etc/systemd/system"}, files: []string{"usr/lib" + wants + "tmp.mount"}, link: [2]string{"etc/systemd/system/tmp.mount", "/dev/null"}},
		"the user's unit":     {files: []string{"usr/lib" + wants + "tmp.mount", "etc/systemd/system/tmp.mount"}},
		"the user's settings": {dirs: []string{"etc/systemd/system/tmp.mount.d"}, files: []string{"usr/lib" + wants + "tmp.mount"}},
		"in fstab":            {files: []string{"usr/lib" + wants + "tmp.mount"}, fstab: "/dev/vda / ext4\n tmpfs /tmp/ tmpfs size=1g 0 0\n"},
		"not in fstab":        {files: []string{"usr/lib" + wants + "tmp.mount"}, fstab: "# tmpfs /tmp\ntmpfs /var/tmp tmpfs\n\n#\n", want: true},
		"a link":              {files: []string{"usr/lib" + wants + "tmp.mount"}, link: [2]string{"tmp", "var/tmp"}},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			dirs := append(c.dirs, "etc")
			for _, file := range c.files {
				dirs = append(dirs, filepath.Dir(file))
			}
			for _, dir := range dirs {
				if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for _, file := range append(c.files, "etc/fstab") {
				if err := os.WriteFile(filepath.Join(root, file), []byte(c.fstab), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if c.link[0] != "" {
				if err := os.Symlink(c.link[1], filepath.Join(root, c.link[0])); err != nil {
					t.Fatal(err)
				}
			}
			if got := systemdMountsTmp(root); got != c.want {
				t.Errorf("got %v", got)
			}
		})
	}
}
