package vmmtest

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"banger/internal/vmm/process"

	"golang.org/x/sys/unix"
)

// Plain makes this thread open files as a plain user until undo is called: root may open
// everything. It opens the directories of the host's files to all users.
func Plain(t *testing.T, host process.Host) (undo func()) {
	t.Helper()
	if os.Getuid() != 0 {
		return func() {}
	}
	for _, path := range []string{host.KVM, host.CPUInfo} {
		for _, dir := range []string{filepath.Dir(filepath.Dir(path)), filepath.Dir(path)} {
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Chmod(host.CPUInfo, 0o644); err != nil {
		t.Fatal(err)
	}
	const nobody = 65534
	runtime.LockOSThread()
	before, err := unix.SetfsuidRetUid(nobody)
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		unix.SetfsuidRetUid(before)
		runtime.UnlockOSThread()
	}
}
