package process

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"

	"banger/internal/vmm"
)

func start(t *testing.T, script string, inherited ...*os.File) *Process {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	cmd.ExtraFiles = inherited
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := OpenProcess(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		p.Close()
	})
	return p
}

func TestProcessExit(t *testing.T) {
	for script, want := range map[string]vmm.Exit{
		"exit 0":        {Reason: vmm.ReasonUnknown},
		"exit 3":        {Reason: vmm.ReasonFailed, Detail: "exit status 3"},
		"kill -TERM $$": {Reason: vmm.ReasonSignal, Detail: "SIGTERM"},
	} {
		p := start(t, script)
		<-p.Done()
		if got := p.Exit(); got != want {
			t.Errorf("%s: got %+v, want %+v", script, got, want)
		}
		if err := syscall.Kill(p.PID(), 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("%s: a zombie is left: %v", script, err)
		}
	}
	p := start(t, "exec sleep 60")
	for range 2 {
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
	}
	<-p.Done()
	if got := p.Exit(); got.Reason != vmm.ReasonKilled {
		t.Errorf("got %+v", got)
	}
	if err := p.Kill(); err != nil {
		t.Errorf("after the end: %v", err)
	}
}

// Who is killed while the host ends processes for lack of memory may have been one
// of them, and who ended otherwise was not.
func TestProcessEndsForLackOfMemory(t *testing.T) {
	defer func(was string) { kernelCounts = was }(kernelCounts)
	kernelCounts = filepath.Join(t.TempDir(), "vmstat")
	count := func(n int) {
		if err := os.WriteFile(kernelCounts, fmt.Appendf(nil, "nr_free_pages 7\noom_kill %d\nunevictable 1\n", n), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	count(2)
	const starved = "the host ran out of memory meanwhile and killed processes"
	for script, want := range map[string][2]string{
		"kill -KILL $$": {"SIGKILL", "SIGKILL; " + starved},
		"kill -TERM $$": {"SIGTERM", "SIGTERM"},
		"exit 3":        {"exit status 3", "exit status 3"},
	} {
		for more, detail := range want {
			wait, goOn, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			p := start(t, "read line <&3; "+script, wait)
			count(2 + more)
			goOn.Close()
			<-p.Done()
			if got := p.Exit(); got.Detail != detail {
				t.Errorf("%s, %d more ended: got %+v, want %s", script, more, got, detail)
			}
			wait.Close()
			count(2)
		}
	}
	if got := (&Process{short: true}).Exit(); got.Reason != vmm.ReasonUnknown || got.Detail != starved {
		t.Errorf("of another's child: %+v", got)
	}
}

func TestProcessCloseLetsGo(t *testing.T) {
	p := start(t, "exec sleep 60")
	other, err := OpenProcess(p.PID())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done():
		t.Error("Close looks like an end")
	case <-other.Done():
		t.Error("Close ended the process")
	case <-time.After(20 * time.Millisecond):
	}
	other.Kill()
	<-other.Done()
}

func TestOpenHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	if _, err := OpenHolder(path); !errors.Is(err, vmm.ErrGone) {
		t.Errorf("no file: %v", err)
	}
	lock, err := vmm.Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	child := start(t, "exec sleep 60", lock)
	lock.Close()
	holder, err := OpenHolder(path)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	if holder.PID() != child.PID() {
		t.Errorf("got %d, want %d", holder.PID(), child.PID())
	}
	if _, err := vmm.Lock(path); !errors.Is(err, vmm.ErrLocked) {
		t.Errorf("the child's lock was taken: %v", err)
	}
	holder.Kill()
	<-holder.Done()
	<-child.Done()
	if locked, err := vmm.Locked(path); err != nil || locked {
		t.Errorf("after the end: locked %v, %v", locked, err)
	}
}

// Who has a lock's file open and not the lock is not taken for the VMM, whether there
// is one or not.
func TestBystander(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	lock, err := vmm.Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	before := start(t, "exec sleep 60", opened)
	child := start(t, "exec sleep 60", lock)
	after := start(t, "exec sleep 60", opened)
	lock.Close()
	opened.Close()
	if pid, err := vmm.Holder(path); err != nil || pid != child.PID() {
		t.Errorf("got %d, %v, want %d; bystanders are %d and %d", pid, err, child.PID(), before.PID(), after.PID())
	}
	child.Kill()
	<-child.Done()
	if _, err := OpenHolder(path); !errors.Is(err, vmm.ErrGone) {
		t.Errorf("got %v", err)
	}
}

func TestDirSockets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a directory whose name alone is longer than the hundred and eight bytes that the address of a socket may have")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	dir, err := OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	for range 2 { // the second replaces what the first left
		socket, err := dir.Listen("api.sock")
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(filepath.Join(path, "api.sock")); err != nil || info.Mode() != os.ModeSocket|0o600 {
			t.Errorf("%v, %v", info, err)
		}
		conn, err := dir.Dial(t.Context(), "api.sock") // nobody accepts yet
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		socket.Close()
	}
	if _, err := dir.Dial(t.Context(), "api.sock"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("nobody listens: %v", err)
	}
	if err := dir.Remove("api.sock", "never.sock"); err != nil {
		t.Error(err)
	}
}

// A process whose first thread has ended shows no files, and still holds the
// lock: this one's own descriptor plays that part, for it is not looked at.
func TestOpenHolderWaitsForTheLastThread(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	lock, err := vmm.Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := lock.Stat()
	if err != nil {
		t.Fatal(err)
	}
	waits := regexp.MustCompile(fmt.Sprintf(`-> OFDLCK .*:%d `, info.Sys().(*syscall.Stat_t).Ino))
	told := make(chan error, 1)
	go func() { _, err := OpenHolder(path); told <- err }()
	for waiting := false; !waiting; time.Sleep(time.Millisecond) {
		select {
		case err := <-told:
			t.Fatalf("while the lock is held: %v", err)
		default:
		}
		locks, err := os.ReadFile("/proc/locks")
		if err != nil {
			t.Fatal(err)
		}
		waiting = waits.Match(locks)
	}
	lock.Close()
	if err := <-told; !errors.Is(err, vmm.ErrGone) {
		t.Errorf("got %v", err)
	}
	again, err := vmm.Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	stays, err := vmm.Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	defer stays.Close()
	if err := awaitFree(path, time.Millisecond); err == nil {
		t.Error("a lock that is held was told free")
	}
}

// TestCloseWaitsForTheEnding: what tells of the end may use what is closed next.
func TestCloseWaitsForTheEnding(t *testing.T) {
	process := start(t, "true")
	begun, goOn, told := make(chan struct{}), make(chan struct{}), false
	life := NewLife(process, func() vmm.Exit {
		close(begun)
		<-goOn
		told = true
		return vmm.Exit{}
	})
	<-begun
	close(goOn)
	if err := life.Close(); err != nil {
		t.Error(err)
	}
	if !told { // the race detector sees it, too
		t.Error("closed before the ending was told")
	}
}
