package image

import (
	"archive/tar"
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"
)

// files are the default image's own files, besides its packages.
//
//go:embed all:files
var files embed.FS

// removed is what the packages or mmdebstrap install and the image does not have.
// Docker starts by its socket, no login on a console could succeed, and a VM does not
// upgrade, check or index itself in the background. containerd keeps two shims for
// versions of Docker before this one, and gcc a tool to look at its own format: 51 MiB.
var removed = []string{
	"etc/apt/apt.conf.d/99mmdebstrap",
	"etc/apt/sources.list",
	"etc/dpkg/dpkg.cfg.d/99mmdebstrap",
	"etc/systemd/system/getty.target.wants/getty@tty1.service",
	"etc/systemd/system/multi-user.target.wants/containerd.service",
	"etc/systemd/system/multi-user.target.wants/docker.service",
	"etc/systemd/system/sysinit.target.wants/systemd-pstore.service",
	"etc/systemd/system/timers.target.wants/apt-daily-upgrade.timer",
	"etc/systemd/system/timers.target.wants/apt-daily.timer",
	"etc/systemd/system/timers.target.wants/e2scrub_all.timer",
	"etc/systemd/system/timers.target.wants/man-db.timer",
	"etc/systemd/system/multi-user.target.wants/e2scrub_reap.service",
	"usr/bin/containerd-shim",
	"usr/bin/containerd-shim-runc-v1",
	"usr/bin/lto-dump",
	"usr/bin/lto-dump-14",
	"usr/bin/x86_64-linux-gnu-lto-dump",
	"usr/bin/x86_64-linux-gnu-lto-dump-14",
}

// emptied are the directories in which only our own files stay: the build's mirror is
// not the image's.
var emptied = []string{"etc/apt/sources.list.d"}

// linked are the symbolic links to add.
var linked = []struct{ name, target string }{
	{"etc/systemd/system/multi-user.target.wants/banger-docker-restart.service", "/etc/systemd/system/banger-docker-restart.service"},
	{"etc/systemd/system/serial-getty@ttyS0.service", "/dev/null"},
}

// stamps are files newer than /usr. They keep systemd from rebuilding caches at the
// first boot that the packages have just built.
var stamps = []string{"etc/.updated", "var/.updated"}

// entry is a file or a symbolic link of the layer.
type entry struct {
	name, target string
	data         []byte
}

// extrasLayer returns the layer above the packages.
func extrasLayer() (*bytes.Reader, error) {
	entries, err := extras()
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	now := time.Now()
	for _, e := range entries {
		h := tar.Header{Typeflag: tar.TypeReg, Name: e.name, Mode: 0o644, Size: int64(len(e.data)), ModTime: now, Format: tar.FormatPAX}
		if e.target != "" {
			h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, e.target, 0o777
		}
		if err := w.WriteHeader(&h); err != nil {
			return nil, err
		}
		if _, err := w.Write(e.data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return bytes.NewReader(buf.Bytes()), nil
}

func extras() ([]entry, error) {
	var all []entry
	for _, name := range removed {
		all = append(all, entry{name: path.Dir(name) + "/.wh." + path.Base(name)})
	}
	for _, name := range emptied {
		all = append(all, entry{name: name + "/.wh..wh..opq"})
	}
	for _, name := range stamps {
		all = append(all, entry{name: name})
	}
	for _, link := range linked {
		all = append(all, entry{name: link.name, target: link.target})
	}
	err := fs.WalkDir(files, "files", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := files.ReadFile(name)
		all = append(all, entry{name: strings.TrimPrefix(name, "files/"), data: data})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read banger's own files: %w", err)
	}
	return all, nil
}
