package process

import (
	"os/exec"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestWaitGone(t *testing.T) {
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	pid := cmd.Process.Pid
	if !slices.Contains(others(), pid) {
		t.Errorf("process %d is not among those to end", pid)
	}
	WaitGone([]int{pid}, time.Millisecond)
	if err := unix.Kill(pid, 0); err != nil {
		t.Errorf("the process is gone: %v", err)
	}
	in.Close()
	begun := time.Now()
	WaitGone([]int{pid}, time.Minute)
	if time.Since(begun) > 30*time.Second {
		t.Error("the end was not seen")
	}
}

func TestOthersSparesTheAgent(t *testing.T) {
	cmd := exec.Command("cat")
	cmd.Args = []string{"@cat"}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(others(), cmd.Process.Pid) {
		t.Error("a process whose name begins with @ is among those to end")
	}
	in.Close()
	cmd.Wait()
}
