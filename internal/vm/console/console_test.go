package console

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLastWords(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.log")
	text := "banger-bye other reboot\r\nbanger-bye mine dance\n[    0.5] banger-bye mine poweroff\r\n" +
		"[    1.2] Kernel panic - not syncing: No working init found.\x1b[2J\r\nbanger-failed mine {\"step\":\"find disks\",\"why\":\"no\",\"fix\":\"f\"}\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	words := Read(path, "mine")
	if words.Bye != "poweroff" || words.Failed == nil || words.Failed.Step != "find disks" || words.Panic != "kernel panic: No working init found.[2J" {
		t.Errorf("%+v", words)
	}
	if words := Read(path, "nobody"); words.Bye != "" || words.Failed != nil {
		t.Errorf("another boot's words: %+v", words)
	}
}

func TestFollow(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "vm", "console.log")
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	logs := NewLogs()
	f, err := logs.Follow(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	read := func(want string) {
		t.Helper()
		buf := make([]byte, len(want))
		if _, err := io.ReadFull(f, buf); err != nil || string(buf) != want {
			t.Fatalf("got %q, %v; want %q", buf, err, want)
		}
	}
	if err := os.WriteFile(path, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	read("one")
	if err := errors.Join(os.Rename(path, path+".1"), os.WriteFile(path, []byte("two"), 0o600)); err != nil {
		t.Fatal(err)
	}
	read("two")
	if err := os.Rename(filepath.Dir(path), filepath.Join(dir, "gone")); err != nil {
		t.Fatal(err)
	}
	if n, err := f.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("got %d, %v", n, err)
	}
}

// lines returns about 200 KiB that are unique to a round.
func lines(round int) []byte {
	var text bytes.Buffer
	for n := range 200 {
		fmt.Fprintf(&text, "round %d line %04d %s\n", round, n, strings.Repeat("x", 1000))
	}
	return text.Bytes()
}

// add appends the lines of a round to a console, as a VMM does.
func add(t *testing.T, path string, round int) {
	t.Helper()
	console, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = console.Write(lines(round))
	if err := errors.Join(err, console.Close()); err != nil {
		t.Fatal(err)
	}
}

// expect fails the test unless the log continues with the lines of a round.
func expect(t *testing.T, log io.Reader, round int) {
	t.Helper()
	want := lines(round)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(log, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("round %d: got other lines, from %q: %v", round, got[:20], err)
	}
}

// TestAFollowerOfAQuietConsoleLosesNothing checks that a follower that keeps up
// does not notice cuts, on file systems that can remove blocks and on others.
func TestAFollowerOfAQuietConsoleLosesNothing(t *testing.T) {
	for name, cut := range map[string]func(*os.File, int64) (int64, error){
		"collapse": cutFront,
		"move": func(file *os.File, kept int64) (int64, error) {
			info, err := file.Stat()
			if err != nil {
				return 0, err
			}
			return moveFront(file, info.Size()-kept)
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "console.log")
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			logs := NewLogs()
			if err := logs.Bound(path, nil); err != nil {
				t.Fatal(err)
			}
			defer logs.Forget(filepath.Dir(path))
			f, err := logs.Follow(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			for round := range 5 {
				add(t, path, round)
				expect(t, f, round)
				log := logs.logs[path]
				log.mu.Lock()
				file, err := os.OpenFile(path, os.O_RDWR, 0)
				if err != nil {
					t.Fatal(err)
				}
				n, err := cut(file, 50<<10)
				log.cut += n
				log.mu.Unlock()
				info, statErr := file.Stat()
				if err := errors.Join(err, statErr, file.Close()); err != nil || n == 0 || info.Size() > 60<<10 {
					t.Fatalf("cut %d, %v left: %v", n, info.Size(), err)
				}
			}
		})
	}
}

// TestLogsEndTheirWatch checks that Run ends with its context, even if nothing is
// written.
func TestLogsEndTheirWatch(t *testing.T) {
	logs, path := NewLogs(), filepath.Join(t.TempDir(), "console.log")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), logs.Bound(path, nil)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() {
		logs.Run(ctx, func(err error) { over <- err })
		over <- nil
	}()
	cancel()
	if err := <-over; err != nil || len(logs.Paths()) > 0 {
		t.Errorf("%v, %q", err, logs.Paths())
	}
}

// TestTheEndIsReadWhileTheFrontIsCut checks that Tail returns the end of a log
// while it is cut.
func TestTheEndIsReadWhileTheFrontIsCut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.log")
	text := append(make([]byte, 256<<10), "the end"...)
	for round := range 50 {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		cut := make(chan error, 1)
		go func() {
			var err error
			if round%2 == 0 {
				_, err = cutFront(file, 80<<10)
			} else {
				_, err = moveFront(file, 128<<10)
			}
			cut <- err
		}()
		end, err := Tail(path, wordsTail)
		if err := errors.Join(err, <-cut, file.Close()); err != nil || len(end) != wordsTail || string(end[len(end)-7:]) != "the end" {
			t.Fatalf("round %d: %d bytes, %v", round, len(end), err)
		}
	}
}
