package transfer

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// stream writes records as a sender might that keeps no rule.
func stream(write func(*writer)) []byte {
	var b bytes.Buffer
	w := newWriter(&b)
	write(w)
	w.Flush()
	return b.Bytes()
}

func content(w *writer, name, text string) {
	w.put(record{kind: file, name: name, mode: 0o644})
	w.data([]byte(text))
	w.endOfFile()
}

// hostile are streams of senders that want to write elsewhere, or to be believed.
var hostile = map[string][]byte{
	"a way up":         stream(func(w *writer) { w.put(record{kind: dir}); content(w, "..", "x") }),
	"a path":           stream(func(w *writer) { w.put(record{kind: dir}); content(w, "../outside/x", "x") }),
	"an absolute path": stream(func(w *writer) { w.put(record{kind: dir}); content(w, "/tmp/x", "x") }),
	"no name":          stream(func(w *writer) { w.put(record{kind: dir}); content(w, "", "x") }),
	"this directory":   stream(func(w *writer) { w.put(record{kind: dir}); w.put(record{kind: dir, name: "."}) }),
	"a zero":           stream(func(w *writer) { w.put(record{kind: dir}); content(w, "a\x00b", "x") }),
	"a long name":      stream(func(w *writer) { w.put(record{kind: dir}); content(w, strings.Repeat("n", 300), "x") }),
	"up and up": stream(func(w *writer) {
		w.put(record{kind: dir})
		w.put(record{kind: up})
		w.put(record{kind: up})
		content(w, "x", "x")
	}),
	"two roots":           stream(func(w *writer) { content(w, "a", "x"); content(w, "b", "x"); w.put(record{kind: done}) }),
	"a huge part":         stream(func(w *writer) { w.put(record{kind: file}); w.number(1 << 40) }),
	"huge holes":          stream(func(w *writer) { w.put(record{kind: file}); w.hole(maxHole); w.hole(maxHole); w.endOfFile() }),
	"an unknown file":     stream(func(w *writer) { w.put(record{kind: dir}); w.put(record{kind: hardLink, name: "x", id: 7}) }),
	"a link to nothing":   stream(func(w *writer) { w.put(record{kind: link}) }),
	"an unknown kind":     []byte("?"),
	"a device":            []byte("b"),
	"nothing":             nil,
	"a broken number":     append([]byte("f"), bytes.Repeat([]byte{0xff}, 20)...),
	"a failure that lies": stream(func(w *writer) { w.put(record{kind: failed, code: 200}) }),
	"done inside a file":  stream(func(w *writer) { w.put(record{kind: file}); w.breakFile(); w.put(record{kind: done}) }),
	"through a link": stream(func(w *writer) {
		w.put(record{kind: dir})
		w.put(record{kind: link, name: "l", text: "../outside"})
		w.put(record{kind: dir, name: "l"})
		content(w, "victim", "overwritten")
	}),
	"through a link to a file": stream(func(w *writer) {
		w.put(record{kind: dir})
		w.put(record{kind: link, name: "l", text: "../outside/victim"})
		content(w, "l", "overwritten")
		w.put(record{kind: up})
		w.put(record{kind: done})
	}),
	"a link as the root": stream(func(w *writer) {
		w.put(record{kind: link, text: "outside"})
		content(w, "victim", "overwritten")
	}),
	"deep": stream(func(w *writer) {
		for range 5000 {
			w.put(record{kind: dir, name: "d"})
		}
	}),
}

// receiveHostile receives a stream beside a directory that must not change. It is
// received into a new name, and into a directory with links that lead out.
func receiveHostile(t *testing.T, b []byte) (first error) {
	t.Helper()
	for _, dst := range []string{"new", "dir"} {
		base := t.TempDir()
		write(t, base+"/outside/victim", "untouched")
		must(t, os.Mkdir(base+"/dir", 0o755))
		must(t, os.Symlink("../outside", base+"/dir/l"))
		must(t, os.Symlink("../outside/victim", base+"/dir/x"))
		outside := tree(t, base+"/outside")
		err := Receiver{Path: filepath.Join(base, dst)}.Receive(bytes.NewReader(b))
		same(t, tree(t, base+"/outside"), outside)
		entries, _ := os.ReadDir(base)
		for _, e := range entries {
			if name := e.Name(); name != "outside" && name != "dir" && (name != "new" || err != nil) {
				t.Errorf("%s was left (%v)", name, err)
			}
		}
		if err != nil && first == nil {
			first = err
		}
		unix.Chmod(base+"/dir", 0o755)
		removeAll(base + "/new")
	}
	return first
}

func TestHostileSenders(t *testing.T) {
	for name, b := range hostile {
		t.Run(name, func(t *testing.T) {
			err := receiveHostile(t, b)
			if err == nil && name != "through a link to a file" {
				t.Error("it was believed")
			}
			t.Log(err)
		})
	}
}

func FuzzReceive(f *testing.F) {
	for _, b := range hostile {
		if len(b) < 1000 {
			f.Add(b)
		}
	}
	f.Add(stream(func(w *writer) {
		w.put(record{kind: dir, mode: 0o700})
		w.put(record{kind: file, name: "a", mode: 0o600, sec: 1, id: 1})
		w.data([]byte("data"))
		w.hole(10)
		w.endOfFile()
		w.put(record{kind: hardLink, name: "b", id: 1})
		w.put(record{kind: link, name: "c", text: "../outside"})
		w.put(record{kind: dir, name: "d", mode: 0o500})
		w.put(record{kind: up})
		w.put(record{kind: note, name: "p", text: "a pipe"})
		w.put(record{kind: up})
		w.put(record{kind: done})
	}))
	f.Fuzz(func(t *testing.T, b []byte) {
		receiveHostile(t, b)
		ReceiveStream(&limited{}, bytes.NewReader(b), nil)
		Answer(bytes.NewReader(b), func(string, string) {})
	})
}

// limited ends a stream of endless zeros.
type limited struct{ n int }

func (l *limited) Write(b []byte) (int, error) {
	if l.n += len(b); l.n > 1<<20 {
		return 0, os.ErrClosed
	}
	return len(b), nil
}
