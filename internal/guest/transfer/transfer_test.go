package transfer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// copyTo copies as one program does on one host.
func copyTo(t *testing.T, src, dst string) error {
	t.Helper()
	return Flow{Source: Sender{Path: src}.Send, Sink: Receiver{Path: dst, Name: Name(src)}.Receive}.Run(t.Context())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(text), 0o644))
}

// tree describes everything below dir: kinds, modes, times, contents, and which names
// are of one file.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var text strings.Builder
	first := map[uint64]string{}
	must(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		st := info.Sys().(*syscall.Stat_t)
		fmt.Fprintf(&text, "%q %v %d", name, info.Mode(), info.ModTime().UnixNano())
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&text, " %d %x", len(data), sha256.Sum256(data))
			if st.Nlink > 1 {
				if first[st.Ino] == "" {
					first[st.Ino] = name
				}
				fmt.Fprintf(&text, " = %q", first[st.Ino])
			}
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&text, " -> %q", to)
		}
		text.WriteString("\n")
		return nil
	}))
	return text.String()
}

func same(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// makeTree makes a tree with everything that is copied.
func makeTree(t *testing.T, dir string) {
	t.Helper()
	for _, name := range []string{"a b", "line\nbreak", `q'"uote`, "-rf", "ünï", "\xff\xfe", "sub/deep/er/file", ".hidden", strings.Repeat("n", 255), "*", "~"} {
		write(t, filepath.Join(dir, name), "I am "+name)
	}
	must(t, os.MkdirAll(filepath.Join(dir, "empty", "in empty"), 0o755))
	write(t, filepath.Join(dir, "no bytes"), "")
	must(t, os.Symlink("/etc/passwd", filepath.Join(dir, "absolute")))
	must(t, os.Symlink("../..", filepath.Join(dir, "sub", "out")))
	must(t, os.Symlink("nowhere", filepath.Join(dir, "dangling")))
	must(t, os.Link(filepath.Join(dir, "a b"), filepath.Join(dir, "sub", "the same")))
	must(t, os.Link(filepath.Join(dir, "a b"), filepath.Join(dir, "and again")))
	must(t, os.Chmod(filepath.Join(dir, "-rf"), 0o500))
	must(t, os.Chmod(filepath.Join(dir, "ünï"), 0o000))
	must(t, os.Chmod(filepath.Join(dir, "empty"), 0o1777))
	must(t, os.Chmod(filepath.Join(dir, "sub", "deep"), 0o500))
	past := time.Date(1999, 12, 31, 23, 59, 59, 123456789, time.UTC)
	for _, name := range []string{"a b", "sub/deep/er", "sub", "."} {
		must(t, os.Chtimes(filepath.Join(dir, name), past, past))
	}
	must(t, unix.Lutimes(filepath.Join(dir, "dangling"), []unix.Timeval{{Sec: 7}, {Sec: 8}}))
	t.Cleanup(func() { os.Chmod(filepath.Join(dir, "sub", "deep"), 0o700) })
}

func TestTreesAreCopiedWhole(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("a file of mode 0 is left out: only root can read it")
	}
	dir := t.TempDir()
	src := filepath.Join(dir, "src")
	makeTree(t, src)
	if os.Geteuid() != 0 {
		must(t, os.Chmod(filepath.Join(src, "ünï"), 0o400))
	}
	must(t, copyTo(t, src, filepath.Join(dir, "new")))
	same(t, tree(t, filepath.Join(dir, "new")), tree(t, src))
	t.Cleanup(func() { os.Chmod(filepath.Join(dir, "new", "sub", "deep"), 0o700) })

	// Again, over what is there.
	must(t, os.Chmod(filepath.Join(dir, "new", "sub", "deep"), 0o700))
	must(t, os.Chmod(filepath.Join(src, "sub", "deep"), 0o700))
	write(t, filepath.Join(dir, "new", "more"), "mine")
	must(t, copyTo(t, src+"/.", filepath.Join(dir, "new")))
	must(t, os.Remove(filepath.Join(dir, "new", "more")))
	for _, name := range []string{"sub/deep/er", "sub/deep", "sub", "empty", "."} { // directories that exist keep their times
		info, err := os.Stat(filepath.Join(src, name))
		must(t, err)
		must(t, os.Chtimes(filepath.Join(dir, "new", name), info.ModTime(), info.ModTime()))
	}
	same(t, tree(t, filepath.Join(dir, "new")), tree(t, src))
}

func TestNoSetuid(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/src/tool", "x")
	must(t, os.Chmod(dir+"/src/tool", 0o755|fs.ModeSetuid|fs.ModeSetgid))
	must(t, os.Chmod(dir+"/src", 0o755|fs.ModeSetgid))
	must(t, copyTo(t, dir+"/src", dir+"/new"))
	for path, want := range map[string]fs.FileMode{"/new": fs.ModeDir | 0o755, "/new/tool": 0o755} {
		info, err := os.Stat(dir + path)
		must(t, err)
		if info.Mode() != want {
			t.Errorf("%s: %v", path, info.Mode())
		}
	}
}

// TestDestinations is the table in the help of `vm cp`.
func TestDestinations(t *testing.T) {
	for _, c := range []struct {
		src, dst string
		want     string // a new file, or an error
		code     Code
	}{
		{"file", "dir", "dir/file", 0},
		{"file", "dir/", "dir/file", 0},
		{"file", "dir/.", "dir/file", 0},
		{"file", "todir", "dir/file", 0},
		{"file", "new", "new", 0},
		{"file", "dir/new", "dir/new", 0},
		{"file", "old", "old", 0},
		{"file", "tofile", "old", 0},
		{"link", "dir", "dir/link", 0},
		{"tree", "dir", "dir/tree/file", 0},
		{"tree/", "dir", "dir/tree/file", 0},
		{"totree", "dir", "dir/totree/file", 0},
		{"totree/", "dir", "dir/totree/file", 0},
		{"tree", "new", "new/file", 0},
		{"tree", "new/", "new/file", 0},
		{"tree/.", "dir", "dir/file", 0},
		{"tree/.", "new", "new/file", 0},
		{"tree/sub/..", "dir", "dir/file", 0},
		{"missing", "dir", "missing: no such file or directory", Missing},
		{"dangling", "dir", "dangling: no such file or directory", Missing},
		{"file/", "dir", "file/: is not a directory", Exists},
		{"pipe", "dir", "pipe: is a named pipe", NoFile},
		{"file", "new/", "new: no such directory", NoParent},
		{"file", "no/new", "no: no such directory", NoParent},
		{"tree", "no/new", "no: no such directory", NoParent},
		{"file", "old/", "old/: is not a directory", Exists},
		{"file", "old/new", "old/new: is not a directory", Exists},
		{"tree", "old", "old: is not a directory", Exists},
		{"tree/.", "old", "old: is not a directory", Exists},
		{"file", "pipe", "pipe: is not a regular file", NoFile},
		{"file", "dangling", "dangling: is a link to a file that does not exist", Missing},
		{"file", "full", "full/file: is a directory", Exists},
		{"tree", "blocked", "blocked/tree: exists, and is not a directory", Exists},
		{"file", "special", "special/file: is a named pipe", Exists},
		{"file", strings.Repeat("n", 256), strings.Repeat("n", 256) + ": file name too long", Unknown},
	} {
		t.Run(c.src+" to "+c.dst, func(t *testing.T) {
			dir := t.TempDir()
			t.Chdir(dir)
			write(t, "file", "content")
			write(t, "old", "old")
			write(t, "tree/file", "content")
			write(t, "blocked/tree", "a file")
			for _, d := range []string{"dir", "tree/sub", "full/file", "special"} {
				must(t, os.MkdirAll(d, 0o755))
			}
			for link, to := range map[string]string{"todir": "dir", "totree": "tree", "tofile": "old", "dangling": "nowhere", "link": "file"} {
				must(t, os.Symlink(to, link))
			}
			must(t, unix.Mkfifo("pipe", 0o600))
			must(t, unix.Mkfifo("special/file", 0o600))
			before := names(t, dir)
			err := copyTo(t, c.src, c.dst)
			if f := (*Failure)(nil); errors.As(err, &f) {
				if err.Error() != c.want || f.Code != c.code {
					t.Errorf("%q, %v", err, f.Code)
				}
				same(t, names(t, dir), before)
				return
			}
			must(t, err)
			if data, err := os.ReadFile(c.want); err != nil || string(data) != "content" {
				t.Errorf("%q, %v\n%s", data, err, names(t, dir))
			}
			if strings.Contains(names(t, dir), ".banger") {
				t.Error(names(t, dir))
			}
			if info, _ := os.Lstat("tofile"); info.Mode()&fs.ModeSymlink == 0 {
				t.Error("the link was replaced, not its file")
			}
		})
	}
}

func names(t *testing.T, dir string) string {
	t.Helper()
	var list []string
	must(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		list = append(list, path)
		return err
	}))
	return strings.Join(list, "\n")
}

func TestHolesStayHoles(t *testing.T) {
	dir := t.TempDir()
	const size = 1 << 32
	f, err := os.Create(dir + "/sparse")
	must(t, err)
	must(t, f.Truncate(size))
	for _, at := range []int64{0, 1 << 20, 3 << 30} {
		_, err := f.WriteAt(bytes.Repeat([]byte("x"), 5000), at)
		must(t, err)
	}
	must(t, f.Close())
	var moved atomic.Int64 // the last bytes may be counted after the end
	must(t, Flow{Source: Sender{Path: dir + "/sparse"}.Send, Sink: Receiver{Path: dir + "/copy"}.Receive, Moved: func(n int) { moved.Add(int64(n)) }}.Run(t.Context()))
	var st unix.Stat_t
	must(t, unix.Stat(dir+"/copy", &st))
	if st.Size != size || st.Blocks*512 > 1<<20 || moved.Load() > 1<<20 {
		t.Errorf("size %d, %d bytes on disk, %d moved", st.Size, st.Blocks*512, moved.Load())
	}
	copied, err := os.Open(dir + "/copy")
	must(t, err)
	defer copied.Close()
	b := make([]byte, 6000)
	for _, at := range []int64{0, 1 << 20, 3 << 30} {
		_, err := copied.ReadAt(b, at)
		must(t, err)
		if !bytes.Equal(b[:5000], bytes.Repeat([]byte("x"), 5000)) || bytes.ContainsRune(b[5000:], 'x') {
			t.Errorf("other content at %d", at)
		}
	}
}

func TestFollowLinks(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "src/real/file", "content")
	must(t, os.Symlink("real", "src/to"))
	must(t, os.Symlink("real/file", "src/tofile"))
	must(t, Flow{Source: Sender{Path: "src", FollowLinks: true}.Send, Sink: Receiver{Path: "new"}.Receive}.Run(t.Context()))
	for _, name := range []string{"new/to/file", "new/tofile", "new/real/file"} {
		if info, err := os.Lstat(name); err != nil || !info.Mode().IsRegular() {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	must(t, os.Symlink("..", "src/real/loop"))
	err := Flow{Source: Sender{Path: "src", FollowLinks: true}.Send, Sink: Receiver{Path: "newer"}.Receive}.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "src/real/loop: the link leads to a directory above it") {
		t.Error(err)
	}
	if _, err := os.Lstat("newer"); err == nil {
		t.Error("a part was left")
	}
}

func TestWhatIsNoFileIsLeftOut(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "src/file", "content")
	must(t, unix.Mkfifo("src/pipe", 0o600))
	var notes []string
	must(t, Flow{Source: Sender{Path: "src"}.Send,
		Sink: Receiver{Path: "new", Note: func(path, why string) { notes = append(notes, path+": "+why) }}.Receive}.Run(t.Context()))
	same(t, fmt.Sprint(notes), "[src/pipe: a named pipe]")
	if entries, _ := os.ReadDir("new"); len(entries) != 1 {
		t.Error(entries)
	}
}

func TestFilesOfTheKernel(t *testing.T) {
	t.Chdir(t.TempDir())
	must(t, copyTo(t, "/proc/version", "version"))
	if got, _ := os.ReadFile("version"); !bytes.Contains(got, []byte("Linux")) {
		t.Errorf("%q", got)
	}
}

func TestStreams(t *testing.T) {
	t.Chdir(t.TempDir())
	data := noise(3<<20 + 17)
	must(t, Flow{Source: func(w io.Writer) error { return SendStream(w, bytes.NewReader(data)) }, Sink: Receiver{Path: "file"}.Receive}.Run(t.Context()))
	if got, err := os.ReadFile("file"); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	must(t, os.Chmod("file", 0o751))
	must(t, Flow{Source: func(w io.Writer) error { return SendStream(w, strings.NewReader("short")) }, Sink: Receiver{Path: "file"}.Receive}.Run(t.Context()))
	if info, err := os.Stat("file"); err != nil || info.Mode() != 0o751 || info.Size() != 5 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	var out bytes.Buffer
	to := func(r io.Reader) error { return ReceiveStream(&out, r, nil) }
	must(t, Flow{Source: Sender{Path: "file"}.Send, Sink: to}.Run(t.Context()))
	same(t, out.String(), "short")
	for src, want := range map[string]string{".": "is not a file, and stdout takes only one file", "none": "none: no such file or directory"} {
		if err := (Flow{Source: Sender{Path: src}.Send, Sink: to}).Run(t.Context()); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: %v", src, err)
		}
	}
	err := Flow{Source: func(w io.Writer) error { return SendStream(w, strings.NewReader("x")) }, Sink: Receiver{Path: "."}.Receive}.Run(t.Context())
	if err == nil || err.Error() != ".: is a directory, and stdin has no name" {
		t.Error(err)
	}
}

func noise(size int) []byte {
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{1}).Read(data)
	return data
}

// TestServe asks the other end, in both directions.
func TestServe(t *testing.T) {
	dir := t.TempDir()
	makeTree(t, dir+"/src")
	if os.Geteuid() != 0 {
		must(t, os.Chmod(dir+"/src/ünï", 0o400))
	}
	serve := func(r Request, in io.Reader, out io.Writer) error {
		var ask bytes.Buffer
		must(t, WriteRequest(&ask, r))
		return Serve(io.MultiReader(&ask, in), out, dir)
	}
	must(t, Flow{Source: func(w io.Writer) error { return serve(Request{Send: true, Path: []byte("src")}, nil, w) },
		Sink: Receiver{Path: dir + "/out"}.Receive}.Run(t.Context()))
	same(t, tree(t, dir+"/out"), tree(t, dir+"/src"))
	in := func(path string) error {
		return Flow{Source: Sender{Path: dir + "/out"}.Send, Sink: func(r io.Reader) error {
			var answer bytes.Buffer
			return errors.Join(serve(Request{Path: []byte(path), Name: []byte("out")}, r, &answer), Answer(&answer, nil))
		}}.Run(t.Context())
	}
	must(t, in("~/in"))
	same(t, tree(t, dir+"/in"), tree(t, dir+"/src"))
	if err := in("no/new"); err == nil || err.Error() != dir+"/no: no such directory" {
		t.Error(err)
	}
	for _, d := range []string{"out", "in"} {
		os.Chmod(dir+"/"+d+"/sub/deep", 0o700)
	}
}

// TestInterruptedLeavesNothing ends a copy in the middle: of a new tree, of a file in a
// directory that exists, and of one that replaces another.
func TestInterruptedLeavesNothing(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "src/a", "whole")
	must(t, os.WriteFile("src/b", noise(8<<20), 0o644))
	must(t, os.MkdirAll("src/0/x", 0o500))
	for _, dst := range []string{"new", "dir", "old/src", "old"} {
		t.Run(dst, func(t *testing.T) {
			os.MkdirAll("dir", 0o755)
			write(t, "old/src/b", "old")
			ctx, cancel := context.WithCancel(t.Context())
			moved, over := 0, make(chan struct{})
			defer close(over)
			before := names(t, ".")
			err := Flow{Source: Sender{Path: "src/."}.Send, Sink: Receiver{Path: dst, Name: "src"}.Receive, Moved: func(n int) {
				if moved += n; moved > 4<<20 {
					cancel()
					<-over
				}
			}}.Run(ctx)
			if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			if got, _ := os.ReadFile("old/src/b"); string(got) != "old" {
				t.Errorf("b has %d bytes", len(got))
			}
			os.Remove("old/src/a") // whole, and so it stays
			os.RemoveAll("old/src/0")
			same(t, names(t, "."), before)
		})
	}
}

// TestBothEndsFail tells the cause from the consequence.
func TestBothEndsFail(t *testing.T) {
	t.Chdir(t.TempDir())
	must(t, os.WriteFile("big", noise(4<<20), 0o644))
	blocked := make(chan struct{})
	defer close(blocked)
	silent := func(w io.Writer) error { <-blocked; return nil }
	full := func(r io.Reader) error {
		return &Failure{Code: Full, Path: "x", Why: "no space"}
	}
	broken := func(w io.Writer) error {
		w.Write([]byte("f"))
		return &Failure{Path: "y", Why: "bad disk", AtSource: true}
	}
	for _, c := range []struct {
		source func(io.Writer) error
		sink   func(io.Reader) error
		want   string
	}{
		{silent, full, "x: no space"},
		{Sender{Path: "big"}.Send, full, "x: no space"},
		{broken, Receiver{Path: "new"}.Receive, "y: bad disk"},
		{Sender{Path: "missing"}.Send, Receiver{Path: "new"}.Receive, "missing: no such file or directory"},
		{func(w io.Writer) error { w.Write([]byte("f")); return nil }, Receiver{Path: "new"}.Receive, "the stream ended early"},
	} {
		if err := (Flow{Source: c.source, Sink: c.sink}).Run(t.Context()); err == nil || err.Error() != c.want {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
}

func TestLarge(t *testing.T) {
	t.Chdir(t.TempDir())
	data := noise(1 << 20)
	f, err := os.Create("big")
	must(t, err)
	sum := sha256.New()
	for i := range 300 {
		data[0] = byte(i)
		_, err := io.MultiWriter(f, sum).Write(data)
		must(t, err)
	}
	must(t, f.Close())
	begun := time.Now()
	must(t, copyTo(t, "big", "copy"))
	t.Logf("300 MiB in %v", time.Since(begun))
	got := sha256.New()
	f, err = os.Open("copy")
	must(t, err)
	defer f.Close()
	if _, err := io.Copy(got, f); err != nil || !bytes.Equal(got.Sum(nil), sum.Sum(nil)) {
		t.Error("it came back changed", err)
	}
}
