package rootfs

import (
	"archive/tar"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"banger/internal/oci/ocitest"
)

// TestSameAsUmoci compares what layers become with what another program makes of them.
func TestSameAsUmoci(t *testing.T) {
	if _, err := exec.LookPath("umoci"); err != nil {
		t.Skip("umoci is missing: apt-get install umoci")
	}
	layers := [][]byte{
		archive(t, dir("usr/bin"), sym("bin", "usr/bin"), reg("usr/bin/tool", "1"), reg("etc/a", "a"), reg("etc/b", "b"), reg("opq/x", "x"), dir("opq/sub"), reg("opq/sub/y", "y"),
			reg("gone/deep/z", "z"), reg("file", "f"), reg("other/c", "c"), reg("linked", "l"), hard("linked2", "linked"), reg("made", "m"), sym("abs", "/etc")),
		archive(t, reg("etc/.wh.a", ""), dir("opq"), reg("opq/.wh..wh..opq", ""), reg("opq/new", "n"), reg(".wh.gone", ""), dir("file"), reg("file/in", "i"), reg(".wh.other", ""),
			hard("linked3", "linked2"), reg(".wh.linked", ""), reg("usr/bin/more", "2")),
		archive(t, reg("other", "now a file"), reg("etc/a", "again"), reg(".wh.made", ""), sym("link", "etc/b"), hard("etc/hard", "etc/b"), tar.Header{Typeflag: tar.TypeReg, Name: "suid", Mode: 0o4755}),
	}
	_, tree := flatten(t, Options{}, layers...)
	bundle := t.TempDir() + "/bundle"
	layout := ocitest.Write(t, ocitest.Layout(ocitest.New(ocitest.Host, nil, layers...)))
	if out, err := exec.CommandContext(t.Context(), "umoci", "unpack", "--rootless", "--image", layout+":name0", bundle).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	root := bundle + "/rootfs"
	want := map[string]string{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		name, _ := filepath.Rel(root, path)
		if err != nil || name == "." {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		switch {
		case info.IsDir():
			want[name] = "/"
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			want[name] = "-> " + target
			return err
		default:
			data, err := os.ReadFile(path)
			want[name] = string(data)
			return err
		}
		if got := fs.FileMode(tree[name].mode) & 0o777; got != info.Mode().Perm() {
			t.Errorf("%s has mode %o, umoci gives it %o", name, got, info.Mode().Perm())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	compare(t, flat(tree), want)
	same := func(a, b string) bool {
		first, errA := os.Stat(filepath.Join(root, a))
		second, errB := os.Stat(filepath.Join(root, b))
		return errA == nil && errB == nil && os.SameFile(first, second)
	}
	for _, pair := range [][2]string{{"linked2", "linked3"}, {"etc/b", "etc/hard"}} {
		if got := tree[pair[0]].ino == tree[pair[1]].ino; !got || !same(pair[0], pair[1]) {
			t.Errorf("%q are one file: %v", pair, got)
		}
	}
}
