package vm

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/vm/console"
)

// flood appends numbered lines to a console, as a VMM does, and returns how many.
func flood(t *testing.T, path string, from int, size banger.Size) int {
	t.Helper()
	log, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	for written := 0; written < int(size); from++ {
		n, err := fmt.Fprintf(log, "line %08d %s\n", from, strings.Repeat("x", 1000))
		if err != nil {
			t.Fatal(err)
		}
		written += n
	}
	return from
}

// numbers returns the numbers of a log's lines, up to last. A line whose front was
// cut off has no number.
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

// TestAFloodedConsoleStaysBounded checks that a flooded console stays small and
// keeps its end, and that the last words are found. A follower gets the lines
// that were not cut before it read them, once and in order. Where the file
// system can remove blocks, a cut loses no line of the end.
func TestAFloodedConsoleStaysBounded(t *testing.T) {
	t.Setenv("TMPDIR", onDisk) // tmpfs cannot
	w := newWorld(t)
	vm := w.create("otter")
	follower, err := w.VMLogs(t.Context(), "otter", banger.VMLogs{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer follower.Close()
	const much = 3 * console.MaxSize
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
		return err == nil && banger.Size(info.Size()) <= console.MaxSize
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

// collapses reports whether the file system of temporary files can remove blocks
// at the front of a file.
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

// gapless fails the test unless a cut log holds the last lines without a gap.
func (w *world) gapless(vm banger.VM, lines int) {
	w.t.Helper()
	log, err := w.VMLogs(w.t.Context(), vm.Name, banger.VMLogs{})
	if err != nil {
		w.t.Fatal(err)
	}
	defer log.Close()
	all := numbers(w.t, log, lines-1)
	if len(all) < int(console.KeptSize/1015)-1 || all[0] != lines-len(all) {
		w.t.Errorf("%d lines are left of %d, the first are %v", len(all), lines, all[:min(3, len(all))])
	}
}

// TestAConsoleThatGrewAloneIsCutAtOnce checks that a daemon cuts, and then keeps
// bounded, a console that grew while no daemon ran.
func TestAConsoleThatGrewAloneIsCutAtOnce(t *testing.T) {
	w := newWorld(t)
	vm := w.create("otter")
	w.logs.Forget(string(w.Dirs.VM(vm.ID))) // as when no daemon lives
	lines := flood(t, vm.Console, 0, 2*console.MaxSize)
	w.again()
	info, err := os.Stat(vm.Console)
	if err != nil || banger.Size(info.Size()) > console.MaxSize {
		t.Errorf("%v, %v", info.Size(), err)
	}
	w.gapless(vm, lines)
	if len(w.logs.Paths()) != 2 {
		t.Errorf("%d logs are bounded, want console and VMM log", len(w.logs.Paths()))
	}
	if err := w.DeleteVM(t.Context(), "otter", banger.DeleteVM{Force: true}, nil); err != nil {
		t.Fatal(err)
	}
	if len(w.logs.Paths()) != 0 {
		t.Error("the logs of a deleted VM are not let go")
	}
}

// TestLogsFollowAcrossARestart checks that a follower gets all of each boot, the
// last words included, then the next boot, until the VM is deleted.
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
