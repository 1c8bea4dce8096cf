package vm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"banger"
)

// flood appends numbered lines to a console, as a VMM does, and returns how many.
func flood(t *testing.T, path string, from int, size banger.Size) int {
	t.Helper()
	console, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer console.Close()
	for written := 0; written < int(size); from++ {
		n, err := fmt.Fprintf(console, "line %08d %s\n", from, strings.Repeat("x", 1000))
		if err != nil {
			t.Fatal(err)
		}
		written += n
	}
	return from
}

// numbers reads the numbers of the lines of a log until last; a line whose front
// was cut off has none.
func numbers(t *testing.T, log io.Reader, last int) []int {
	t.Helper()
	var all []int
	for in := bufio.NewReader(log); ; {
		line, err := in.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		if i := strings.Index(line, "line "); i >= 0 {
			fmt.Sscanf(line[i:], "line %d", &n)
			all = append(all, n)
		}
		if n == last {
			return all
		}
	}
}

// TestAFloodedConsoleStaysBounded: whatever a guest writes, its console is
// bounded and has the end; who follows it gets every line that was not cut
// before it was read, once and in order; and the last words are heard. Where
// the file system can cut a front by itself, nothing is lost by that.
func TestAFloodedConsoleStaysBounded(t *testing.T) {
	t.Setenv("TMPDIR", onDisk) // tmpfs cannot
	w := newWorld(t)
	vm := w.create("otter")
	follower, err := w.VMLogs(t.Context(), "otter", banger.VMLogs{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer follower.Close()
	const much = 3 * mostLog
	read := make(chan []int)
	lines := int(much/1015) + 1
	go func() { read <- numbers(t, follower, lines-1) }()
	if got := flood(t, vm.Console, 0, much); got != lines {
		t.Fatalf("wrote %d lines, want %d", got, lines)
	}
	all := <-read
	for i := 1; i < len(all); i++ {
		if all[i] <= all[i-1] {
			t.Fatalf("line %d came after line %d", all[i], all[i-1])
		}
	}
	if all[len(all)-1] != lines-1 {
		t.Errorf("the last line is %d", all[len(all)-1])
	}
	w.until("the console is small", func() bool {
		info, err := os.Stat(vm.Console)
		return err == nil && banger.Size(info.Size()) <= mostLog
	})
	if collapses(t) {
		w.gapless(vm, lines)
	} else {
		t.Logf("%s cannot cut the front of a file: gaps are not looked for", t.TempDir())
	}
	w.act("otter", "poweroff")
	w.until("it has ended", func() bool { return w.show1("otter").State == banger.Stopped })
	if ending := w.show1("otter").Ending; ending != banger.EndedPoweroff {
		t.Errorf("ended %q", ending)
	}
}

// collapses says whether the file system of temporary files can cut the front of one.
func collapses(t *testing.T) bool {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	return unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_COLLAPSE_RANGE, 0, 512<<10) == nil
}

// gapless: what is left of a cut log is its end, without a gap.
func (w *world) gapless(vm banger.VM, lines int) {
	w.t.Helper()
	log, err := w.VMLogs(w.t.Context(), vm.Name, banger.VMLogs{})
	if err != nil {
		w.t.Fatal(err)
	}
	defer log.Close()
	all := numbers(w.t, log, lines-1)
	if len(all) < int(keptLog/1015)-1 || all[0] != lines-len(all) {
		w.t.Errorf("%d lines are left of %d, the first are %v", len(all), lines, all[:min(3, len(all))])
	}
}

// TestAFollowerOfAQuietConsoleLosesNothing: as long as it keeps up, a cut is
// nothing that it could notice, on file systems of both kinds.
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
			logs, err := watchLogs()
			if err == nil {
				err = logs.bound(path, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
			defer logs.watch.Close()
			f, err := follow(t.Context(), logs, path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			for from, round := 0, 0; round < 5; round++ {
				to := flood(t, path, from, 200*banger.KiB)
				if got := numbers(t, f, to-1); len(got) != to-from || got[0] != from {
					t.Fatalf("round %d: %d lines from %d, want %d from %d", round, len(got), got[0], to-from, from)
				}
				from = to
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

// TestAConsoleThatGrewAloneIsCutAtOnce: by the next daemon, which then tends it.
func TestAConsoleThatGrewAloneIsCutAtOnce(t *testing.T) {
	w := newWorld(t)
	vm := w.create("otter")
	w.logs.forget(w.Dirs.VM(vm.ID)) // as when no daemon lives
	lines := flood(t, vm.Console, 0, 2*mostLog)
	w.again()
	info, err := os.Stat(vm.Console)
	if err != nil || banger.Size(info.Size()) > mostLog {
		t.Errorf("%v, %v", info.Size(), err)
	}
	w.gapless(vm, lines)
	if len(w.logs.logs) != 2 {
		t.Errorf("%d logs are bounded, want console and VMM log", len(w.logs.logs))
	}
	if err := w.DeleteVM(t.Context(), "otter", banger.DeleteVM{Force: true}, nil); err != nil {
		t.Fatal(err)
	}
	if len(w.logs.logs) != 0 {
		t.Error("the logs of a deleted VM are not let go")
	}
}

// TestLogsEndTheirWatch: with the daemon, also when nothing is written.
func TestLogsEndTheirWatch(t *testing.T) {
	logs, err := watchLogs()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() {
		logs.tend(ctx, func(err error) { over <- err })
		over <- nil
	}()
	cancel()
	if err := <-over; err != nil {
		t.Error(err)
	}
}

// TestTheEndIsReadWhileTheFrontIsCut: a guest's last words are heard then, too.
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
		end, err := tailOf(path, consoleTail)
		if err := errors.Join(err, <-cut, file.Close()); err != nil || len(end) != consoleTail || string(end[len(end)-7:]) != "the end" {
			t.Fatalf("round %d: %d bytes, %v", round, len(end), err)
		}
	}
}

// TestLogsFollowAcrossARestart: all of the boot before it, its last words too, and
// then the next one, until the VM is deleted.
func TestLogsFollowAcrossARestart(t *testing.T) {
	w := newWorld(t)
	w.create("otter")
	log, err := w.VMLogs(t.Context(), "otter", banger.VMLogs{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	in := bufio.NewScanner(log)
	next := func(prefix string) {
		t.Helper()
		if !in.Scan() || !strings.HasPrefix(in.Text(), prefix) {
			t.Fatalf("%q, %v, want %q", in.Text(), in.Err(), prefix)
		}
	}
	const up, bye = "fake guest otter is up", "banger-bye "
	next(up)
	for range 3 {
		if _, err := w.RestartVM(t.Context(), "otter", banger.StopVM{}, nil); err != nil {
			t.Fatal(err)
		}
		next(bye)
		next(up)
	}
	if err := w.DeleteVM(t.Context(), "otter", banger.DeleteVM{Force: true}, nil); err != nil {
		t.Fatal(err)
	}
	if in.Scan() || in.Err() != nil {
		t.Errorf("%q, %v", in.Text(), in.Err())
	}
}
