package initrd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// member is an entry that readArchives found.
type member struct {
	name         string
	mode         uint32
	links        uint32
	major, minor uint32
	data         string
}

// readArchives reads archives strictly: every deviation from the format is an error.
func readArchives(data []byte) ([]member, error) {
	var members []member
	for at := 0; at < len(data); {
		if data[at] == 0 { // between archives
			at++
			continue
		}
		if at%4 != 0 || at+110 > len(data) || string(data[at:at+6]) != "070701" {
			return nil, fmt.Errorf("no header at %d", at)
		}
		var field [13]uint32
		for i := range field {
			n, err := strconv.ParseUint(string(data[at+6+8*i:at+14+8*i]), 16, 32)
			if err != nil {
				return nil, err
			}
			field[i] = uint32(n)
		}
		if field[2] != 0 || field[3] != 0 || field[5] != 0 {
			return nil, fmt.Errorf("owner or time at %d", at)
		}
		end := at + 110 + int(field[11])
		if field[11] == 0 || end > len(data) || data[end-1] != 0 {
			return nil, fmt.Errorf("bad name at %d", at)
		}
		name := string(data[at+110 : end-1])
		begin := (end + 3) &^ 3
		at = (begin + int(field[6]) + 3) &^ 3
		if at > len(data) {
			return nil, errors.New("cut off")
		}
		if name != trailer {
			members = append(members, member{name, field[1], field[4], field[9], field[10], string(data[begin : begin+int(field[6])])})
		}
	}
	return members, nil
}

func FuzzWriter(f *testing.F) {
	f.Add("etc", "a", "x", "", "")
	f.Add("a/b", "longer name", "12345", "z.bin", "\x00\x01")
	f.Add(trailer, "../x", "", "/y", "")
	f.Fuzz(func(t *testing.T, dir, name1, data1, name2, data2 string) {
		var out bytes.Buffer
		var want []member
		add := func(m member, write func(w *Writer) error) {
			w := NewWriter(&out)
			before := out.Len()
			if err := write(w); err != nil {
				if out.Len() != before {
					t.Fatalf("a refused name wrote %d bytes", out.Len()-before)
				}
				if w.Close() == nil {
					t.Fatal("Close forgot the error")
				}
				return
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			want = append(want, m)
		}
		add(member{name: dir, mode: 0o040755, links: 2}, func(w *Writer) error { return w.Dir(dir, 0o755) })
		for _, file := range [][2]string{{name1, data1}, {name2, data2}} {
			add(member{name: file[0], mode: 0o100640, links: 1, data: file[1]}, func(w *Writer) error {
				return w.File(file[0], 0o640, int64(len(file[1])), strings.NewReader(file[1]))
			})
		}
		got, err := readArchives(out.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

func TestWriterRefusesWhatTheFormatCannotHold(t *testing.T) {
	for _, name := range []string{"", ".", "/a", "a/", "../a", "a//b", "a\x00b", trailer, strings.Repeat("a", maxName+1)} {
		if err := NewWriter(io.Discard).Dir(name, 0o755); err == nil {
			t.Errorf("%.20q was taken", name)
		}
	}
	if err := NewWriter(io.Discard).Dir(strings.Repeat("a", maxName), 0o755); err != nil {
		t.Error(err)
	}
	if err := NewWriter(io.Discard).File("a", 0o644, maxFile+1, nil); err == nil {
		t.Error("4 GiB were taken")
	}
	short := NewWriter(io.Discard)
	if err := short.File("a", 0o644, 3, strings.NewReader("ab")); !errors.Is(err, io.EOF) {
		t.Errorf("a short file: %v", err)
	}
	if err := short.Close(); err == nil {
		t.Error("Close forgot the error")
	}
}

// TestHostsCpioReadsIt checks that the host's cpio reads our archives.
func TestHostsCpioReadsIt(t *testing.T) {
	cpio, err := exec.LookPath("cpio")
	if err != nil {
		t.Skip("cpio is not on this host: apt-get install cpio")
	}
	var out bytes.Buffer
	w := NewWriter(&out)
	w.Dir("lib", 0o755)
	w.Dir("lib/modules", 0o700)
	w.File("lib/modules/a.ko", 0o644, 5, strings.NewReader("12345"))
	w.File("empty", 0o600, 0, nil)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if out.Len()%block != 0 {
		t.Errorf("%d bytes are no whole blocks", out.Len())
	}
	dir := t.TempDir()
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(cpio, args...)
		cmd.Dir, cmd.Stdin = dir, bytes.NewReader(out.Bytes())
		said, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("cpio %v: %v: %s", args, err, said)
		}
		return string(said)
	}
	if got, want := run("-t", "--quiet"), "lib\nlib/modules\nlib/modules/a.ko\nempty\n"; got != want {
		t.Errorf("listed %q, want %q", got, want)
	}
	run("-i", "--quiet", "--no-preserve-owner")
	if data, err := os.ReadFile(filepath.Join(dir, "lib/modules/a.ko")); err != nil || string(data) != "12345" {
		t.Errorf("extracted %q, %v", data, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "lib/modules")); err != nil || info.Mode() != fs.ModeDir|0o700 {
		t.Errorf("mode of the directory: %v, %v", info, err)
	}
}
