package vm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger"
	"banger/internal/config"
	"banger/internal/disk"
	"banger/internal/hostcmd"
	"banger/internal/vmm"
	"banger/internal/vmm/vmmtest"
)

// debugfs changes a disk.
func debugfs(t *testing.T, path, request string) {
	t.Helper()
	if _, err := exec.LookPath("debugfs"); err != nil {
		t.Skip("debugfs is missing: apt-get install e2fsprogs")
	}
	if out, err := exec.Command("debugfs", "-w", "-R", request, path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// rootIsAFile is damage that e2fsck does not repair without asking.
const rootIsAFile = "set_inode_field <2> mode 0100644"

// TestErrorsThatNoDiskRecords: what a guest or its VMM says of a disk's errors counts, also
// if the disk could not be written, and with another daemon.
func TestErrorsThatNoDiskRecords(t *testing.T) {
	say := map[string]func(t *testing.T, w *world, vm banger.VM){
		"the guest": func(t *testing.T, w *world, _ banger.VM) {
			w.tell("otter", `{"kind":"disks","disks":[{"label":"banger-ovl","errors":1}]}`)
		},
		"the VMM": func(t *testing.T, w *world, vm banger.VM) {
			if err := vmmtest.FailDisks(t.Context(), vm.Dir, vmm.DiskError{Role: vmm.Work, Errno: syscall.EIO}); err != nil {
				t.Fatal(err)
			}
		},
	}
	for who, says := range say {
		t.Run(who, func(t *testing.T) {
			w := newWorld(t)
			vm := w.create("otter")
			says(t, w, vm)
			w.until("the problem", func() bool { return len(w.show1("otter").Problems) == 1 })
			w.again()
			w.until("its adoption", func() bool { return w.show1("otter").State == banger.Running })
			stopped, err := w.StopVM(t.Context(), "otter", banger.StopVM{}, nil)
			if err != nil || stopped.Ending != banger.EndedUnclean || !strings.Contains(stopped.EndingBy, "had errors") {
				t.Errorf("%v, ended by %q %q", err, stopped.Ending, stopped.EndingBy)
			}
			for _, want := range []string{"the overlay disk had errors, or the other one; it is checkedthe work disk had errors, or the other one; it is checked", ""} {
				note := ""
				if _, err := w.StartVM(t.Context(), "otter", banger.StartVM{}, func(s banger.Step) { note += s.Note }); err != nil || note != want {
					t.Errorf("%v, note %q, want %q", err, note, want)
				}
				if stopped, err := w.StopVM(t.Context(), "otter", banger.StopVM{}, nil); err != nil || stopped.Ending != banger.EndedPoweroff {
					t.Errorf("%v, ended by %q %q", err, stopped.Ending, stopped.EndingBy)
				}
			}
		})
	}
}

// TestFsck: a disk that takes a decision keeps its VM from starting, until fsck has
// repaired it; the disk as it was is kept.
func TestFsck(t *testing.T) {
	w := newWorld(t)
	w.stopped("otter")
	vm := w.show1("otter")
	work := w.Dirs.VM(vm.ID).Work()
	if found, err := w.FsckVM(t.Context(), "otter", banger.FsckVM{}, nil); err != nil || len(found.Disks) != 2 || found.Disks[0].Result != banger.FsckClean || found.Disks[1].Result != banger.FsckClean {
		t.Errorf("healthy disks: %+v, %v", found, err)
	}
	debugfs(t, work, "set_super_value error_count 2")
	if found, err := w.FsckVM(t.Context(), "otter", banger.FsckVM{}, nil); err != nil || found.Disks[1].Result != banger.FsckRepaired || found.Disks[1].Copy != "" {
		t.Errorf("recorded errors: %+v, %v", found, err)
	}
	debugfs(t, work, "set_super_value error_count 2")
	debugfs(t, work, rootIsAFile)
	for range 2 { // the first attempt clears the recorded errors
		_, err := w.StartVM(t.Context(), "otter", banger.StartVM{}, nil)
		if banger.KindOf(err) != banger.Conflict || !strings.Contains(err.Error(), "the work disk is damaged") || banger.FixOf(err) != "banger vm fsck otter" {
			t.Errorf("a damaged disk: %v, fix %q", err, banger.FixOf(err))
		}
	}
	if _, err := w.FsckVM(t.Context(), "otter", banger.FsckVM{}, nil); err != nil {
		t.Fatal(err)
	}
	found, err := w.FsckVM(t.Context(), "otter", banger.FsckVM{Yes: true}, nil)
	if err != nil || found.Disks[1].Result != banger.FsckRepaired || found.Disks[1].Copy != work+".before-fsck" {
		t.Fatalf("the repair: %+v, %v", found, err)
	}
	if got, err := disk.Check(t.Context(), w.Run, found.Disks[1].Copy); got != banger.FsckDamaged {
		t.Errorf("the copy is not the disk as it was: %s, %v", got, err)
	}
	if _, err := w.StartVM(t.Context(), "otter", banger.StartVM{}, nil); err != nil {
		t.Error(err)
	}
	if _, err := w.FsckVM(t.Context(), "otter", banger.FsckVM{}, nil); banger.KindOf(err) != banger.Conflict || banger.FixOf(err) != "banger vm stop otter" {
		t.Errorf("of a VM that runs: %v, fix %q", err, banger.FixOf(err))
	}
}

// TestFsckOfWhatIsLost: there are disks that no check brings back.
func TestFsckOfWhatIsLost(t *testing.T) {
	w := newWorld(t)
	w.stopped("otter")
	vm := w.show1("otter")
	work := w.Dirs.VM(vm.ID).Work()
	if err := os.Truncate(work, 0); err != nil {
		t.Fatal(err)
	}
	found, err := w.FsckVM(t.Context(), "otter", banger.FsckVM{}, nil)
	if err != nil || found.Disks[1].Result != banger.FsckDamaged || !strings.Contains(found.Disks[1].Why, "does not contain an ext4") {
		t.Errorf("the check: %+v, %v", found, err)
	}
	if _, err = w.FsckVM(t.Context(), "otter", banger.FsckVM{Yes: true}, nil); banger.KindOf(err) != banger.Conflict || !strings.Contains(banger.FixOf(err), "backup") {
		t.Errorf("the repair: %v, fix %q", err, banger.FixOf(err))
	}
	if err := os.Remove(work); err != nil {
		t.Fatal(err)
	}
	if _, err = w.FsckVM(t.Context(), "otter", banger.FsckVM{}, nil); err == nil {
		t.Error("a disk that is missing passes")
	}
	if n, err := disk.Errors(w.Dirs.VM(vm.ID).Overlay()); n != 0 || err != nil {
		t.Errorf("the other disk: %d, %v", n, err)
	}
}

// slowCheck has e2fsck wait for the end of a pipe first.
type slowCheck struct {
	hostcmd.Runner
	dir string
}

func (s slowCheck) Look(name string) (string, error) {
	if name == "e2fsck" {
		return s.dir + "/e2fsck", nil
	}
	return s.Runner.Look(name)
}

// newSlowCheck returns a runner. Opening the pipe of a disk for writing waits for its check,
// and closing it lets the check go on.
func newSlowCheck(t *testing.T) slowCheck {
	t.Helper()
	run := slowCheck{hostcmd.Host{}, t.TempDir()}
	e2fsck, err := hostcmd.Host{}.Look("e2fsck")
	script := fmt.Sprintf("#!/bin/sh\nread line <%s/${3##*/}\nexec %s \"$@\"\n", run.dir, e2fsck)
	for _, disk := range []string{config.OverlayName, config.WorkName} {
		err = errors.Join(err, syscall.Mkfifo(run.dir+"/"+disk, 0o600))
	}
	if err := errors.Join(err, os.WriteFile(run.dir+"/e2fsck", []byte(script), 0o700)); err != nil {
		t.Fatal(err)
	}
	return run
}

// await waits for the check of a disk, and returns what lets it go on.
func (s slowCheck) await(t *testing.T, disk string) *os.File {
	t.Helper()
	pipe, err := os.OpenFile(s.dir+"/"+disk, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return pipe
}

// TestCheckOutlivesItsDaemon: what checks a disk has the VM's lock. When its daemon has been
// killed, nobody mounts the disk before the check has ended.
func TestCheckOutlivesItsDaemon(t *testing.T) {
	w := newWorld(t)
	w.stopped("otter")
	dir := w.Dirs.VM(w.show1("otter").ID)
	lock, work := dir.Lock(), dir.Work()
	debugfs(t, work, "set_super_value error_count 2")
	run := newSlowCheck(t)
	w.Run = run
	for _, c := range []struct {
		verb   string
		checks []string
		do     func() error
	}{
		{"start", []string{config.WorkName}, func() error { _, err := w.StartVM(t.Context(), "otter", banger.StartVM{}, nil); return err }},
		{"stop", nil, func() error { _, err := w.StopVM(t.Context(), "otter", banger.StopVM{}, nil); return err }},
		{"fsck", []string{config.OverlayName, config.WorkName}, func() error { _, err := w.FsckVM(t.Context(), "otter", banger.FsckVM{}, nil); return err }},
	} {
		done := make(chan error, 1)
		go func() { done <- c.do() }()
		for _, disk := range c.checks {
			proceed := run.await(t, disk)
			if pid, err := vmm.Holder(lock); err != nil {
				t.Errorf("%s: e2fsck does not have the lock: %d, %v", c.verb, pid, err)
			}
			proceed.Close()
		}
		if err := <-done; err != nil {
			t.Errorf("%s: %v", c.verb, err)
		}
	}
	held, err := vmm.Lock(lock)
	if err != nil {
		t.Fatal(err)
	}
	orphan := exec.Command(run.dir+"/e2fsck", "-f", "-p", work)
	orphan.ExtraFiles = []*os.File{held}
	if err := errors.Join(orphan.Start(), held.Close()); err != nil {
		t.Fatal(err)
	}
	release := run.await(t, config.WorkName)
	w.again()
	if vm := w.show1("otter"); vm.State != banger.Stopped {
		t.Errorf("it is %s", vm.State)
	}
	if _, err := w.KillVM(t.Context(), "otter", banger.KillVM{Signal: "KILL"}, nil); banger.KindOf(err) != banger.Conflict {
		t.Errorf("kill: %v", err)
	}
	started := make(chan error, 1)
	go func() { _, err := w.StartVM(t.Context(), "otter", banger.StartVM{}, nil); started <- err }()
	select {
	case err := <-started:
		t.Fatalf("it started while its disk was checked: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	release.Close()
	if err := <-started; err != nil {
		t.Error(err)
	}
	if err := orphan.Wait(); err != nil {
		t.Error(err)
	}
}
