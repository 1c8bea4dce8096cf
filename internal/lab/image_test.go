//go:build vm

package lab

import (
	"archive/tar"
	"bytes"
	"os"
	"strings"
	"sync"
	"testing"
)

// applets are the commands of the tiny image, all of them busybox.
var applets = strings.Fields(`sh ash mount umount cat dd sync sleep id hostname df awk ls mkdir rm ln cp mv chmod chown
	echo printf true false test env kill ps grep sed cut head tail wc sort tr tee touch stat du find readlink uname
	date seq od md5sum sha256sum dmesg free uptime poweroff reboot halt ip nc tar sysctl mknod timeout xargs pwd stty tty`)

// rootTar is a root file system that a test makes.
type rootTar struct {
	t   testing.TB
	buf bytes.Buffer
	w   *tar.Writer
}

// newTinyTar returns a root file system with busybox, the accounts root and nobody, and
// the usual directories. It has no init, no kmod and no SSH server.
func newTinyTar(t testing.TB) *rootTar {
	t.Helper()
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatalf("%v: apt-get install busybox-static", err)
	}
	r := &rootTar{t: t}
	r.w = tar.NewWriter(&r.buf)
	for dir, mode := range map[string]int64{"bin": 0o755, "etc": 0o755, "root": 0o700, "tmp": 0o1777, "var": 0o755, "var/tmp": 0o1777} {
		r.add(tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: mode}, "")
	}
	r.add(tar.Header{Name: "bin/busybox", Mode: 0o755}, string(program))
	for _, name := range applets {
		r.link("bin/"+name, "busybox")
	}
	r.file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/sh\n")
	r.file("etc/group", "root:x:0:\nnogroup:x:65534:\n")
	r.link("sbin", "bin")
	return r
}

func (r *rootTar) add(h tar.Header, data string) {
	r.t.Helper()
	h.Size = int64(len(data))
	if err := r.w.WriteHeader(&h); err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.w.Write([]byte(data)); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rootTar) file(name, data string) {
	r.t.Helper()
	r.add(tar.Header{Name: name, Mode: 0o644}, data)
}

func (r *rootTar) link(name, target string) {
	r.t.Helper()
	r.add(tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, "")
}

func (r *rootTar) bytes() []byte {
	r.t.Helper()
	if err := r.w.Close(); err != nil {
		r.t.Fatal(err)
	}
	return r.buf.Bytes()
}

// importTar imports an image, which stays as long as the home.
func (h *home) importTar(t testing.TB, name string, archive []byte) {
	t.Helper()
	if r := h.run(t.Context(), archive, "image", "import", name, "-"); r.code != 0 {
		t.Fatalf("import %s: exit %d: %s", name, r.code, r.stderr)
	}
}

// tinies are the homes that have the tiny image.
var tinies struct {
	sync.Mutex
	in map[*home]bool
}

// tiny returns the name of the image whose VMs boot fastest: busybox, and no init, so
// that the agent stays process 1. It is imported once for each home.
func (h *home) tiny(t testing.TB) string {
	t.Helper()
	tinies.Lock()
	defer tinies.Unlock()
	if !tinies.in[h] {
		h.importTar(t, "tiny", newTinyTar(t).bytes())
		if tinies.in == nil {
			tinies.in = map[*home]bool{}
		}
		tinies.in[h] = true
	}
	return "tiny"
}
