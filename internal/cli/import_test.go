package cli

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger"
)

func TestImageImport(t *testing.T) {
	f := newFake()
	f.run(t, setup{in: "an archive"}, "image", "import", "box", "-").want(t, 0, "box: imported 1G\n", "")
	path := filepath.Join(t.TempDir(), "box.tar")
	if err := os.WriteFile(path, []byte("a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(filepath.Dir(path))
	f.run(t, setup{}, "image", "import", "box", "box.tar").want(t, 0, "box: imported 1G\n", "")
	if len(f.imported) != 2 {
		t.Fatalf("%+v", f.imported)
	}
	if in := f.imported[0]; in.data != "an archive" || in.spec.Origin != "standard input" || !strings.HasPrefix(in.spec.File, "/proc/") {
		t.Errorf("standard input: %+v", in)
	}
	if in := f.imported[1]; in.data != "a file" || in.spec != (banger.ImportImage{Name: "box", File: path}) {
		t.Errorf("a file: %+v", in)
	}
	f.run(t, setup{tty: true}, "image", "import", "box", "-").want(t, 2, "", "banger: standard input is a terminal, not an archive\nfix: docker export box | banger image import box -\n")
	if r := f.run(t, setup{}, "image", "import", "Box", "box.tar"); r.code != 2 {
		t.Errorf("%+v", r)
	}
	if r := f.run(t, setup{}, "image", "import", "box"); r.code != 2 {
		t.Errorf("%+v", r)
	}
}

// TestImportIsInterruptedWhileItReads: nothing is imported.
func TestImportIsInterruptedWhileItReads(t *testing.T) {
	f := newFake()
	in, feed := io.Pipe()
	defer feed.Close()
	signals := make(chan os.Signal, 1)
	go func() {
		feed.Write([]byte("the beginning"))
		signals <- os.Interrupt
	}()
	if r := f.run(t, setup{stdin: in, signals: signals}, "image", "import", "box", "-"); r.code != 130 || len(f.imported) != 0 {
		t.Errorf("%+v, %v", r, f.imported)
	}
}
