package daemon

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"banger/internal/config"
)

func newLog(t *testing.T, most int64) (*slog.Logger, *logFile) {
	t.Helper()
	log, file, err := openLog(config.Dirs{State: t.TempDir()}, slog.LevelInfo)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	file.most = most
	return log, file
}

// lines are those of a log file, each of which is whole.
func lines(t *testing.T, path string) []map[string]any {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []map[string]any
	for line := range strings.Lines(string(text)) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil || !strings.HasSuffix(line, "\n") {
			t.Fatalf("%s: %q: %v", path, line, err)
		}
		all = append(all, fields)
	}
	return all
}

// TestLogIsBoundedWhileItRuns: however many write at once, the log is put aside
// when it is large, every line in it is whole, and nobody else may read it.
func TestLogIsBoundedWhileItRuns(t *testing.T) {
	const most, writers, each = 16 << 10, 8, 200
	log, file := newLog(t, most)
	var all sync.WaitGroup
	for writer := range writers {
		all.Go(func() {
			for i := range each {
				log.Info("line", "writer", writer, "i", i, "pad", strings.Repeat("x", 50))
			}
		})
	}
	all.Wait()
	log.Info("end")
	seen := map[string]bool{}
	for _, path := range []string{file.old, file.path} {
		info, err := os.Stat(path)
		if err != nil || info.Size() > most || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
		for _, line := range lines(t, path) {
			id := fmt.Sprint(line["writer"], line["i"])
			if seen[id] {
				t.Errorf("%s is there twice", id)
			}
			seen[id] = true
		}
	}
	if now := lines(t, file.path); now[len(now)-1]["msg"] != "end" {
		t.Errorf("the log ends with %v", now[len(now)-1])
	}
	if len(seen) < most/200 {
		t.Errorf("only %d lines are left", len(seen))
	}
}

// TestLogGoesOnWithTheFileThatIsThere: of the last daemon, also one that is too large.
func TestLogGoesOnWithTheFileThatIsThere(t *testing.T) {
	log, file := newLog(t, 200)
	log.Info("first")
	first, err := os.ReadFile(file.path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file.path, append(first, []byte(strings.Repeat("x", 300))...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file.path, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := file.open(); err != nil {
		t.Fatal(err)
	}
	log.Info("second")
	if now := lines(t, file.path); len(now) != 1 || now[0]["msg"] != "second" {
		t.Errorf("got %v", now)
	}
	if info, err := os.Stat(file.old); err != nil || info.Size() != int64(len(first))+300 || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

// TestLogOnAFullDisk: a line that does not fit is lost, the next one is whole.
func TestLogOnAFullDisk(t *testing.T) {
	log, file := newLog(t, 1<<20)
	log.Info("first")
	signal.Ignore(unix.SIGXFSZ)
	defer signal.Reset(unix.SIGXFSZ)
	var unlimited unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &unlimited); err != nil {
		t.Fatal(err)
	}
	full := unix.Rlimit{Cur: uint64(file.size) + 20, Max: unlimited.Max}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &full); err != nil {
		t.Fatal(err)
	}
	log.Info("lost")
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unlimited); err != nil {
		t.Fatal(err)
	}
	log.Info("second")
	all := lines(t, file.path)
	if len(all) != 2 || all[0]["msg"] != "first" || all[1]["msg"] != "second" {
		t.Errorf("got %v", all)
	}
}

// TestLogThatCannotBePutAsideIsEmptied: it is bounded whatever happens.
func TestLogThatCannotBePutAsideIsEmptied(t *testing.T) {
	log, file := newLog(t, 300)
	if err := os.MkdirAll(file.old+"/in the way", 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		log.Info("line", "i", i)
	}
	info, err := os.Stat(file.path)
	if err != nil || info.Size() > 300 {
		t.Errorf("%v, %v", info, err)
	}
	all := lines(t, file.path)
	if last := all[len(all)-1]["i"]; last != 19.0 {
		t.Errorf("the last line is %v", last)
	}
}
