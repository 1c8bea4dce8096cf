package firecracker

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/vmm"
)

// A disk error is in Firecracker's log and nowhere else; a daemon that adopts the VMM
// finds it there.
func TestDiskErrors(t *testing.T) {
	spec := newSpec(t)
	driver := install(t, orders{})
	m, err := driver.Launch(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	spec.Lock.Close()
	says := func(lines string) {
		t.Helper()
		log, err := os.OpenFile(filepath.Join(spec.Dir, spec.Log), os.O_WRONLY|os.O_APPEND, 0)
		if err == nil {
			_, err = log.WriteString(lines)
		}
		if err != nil {
			t.Fatal(err)
		}
		log.Close()
	}
	says("2026-11-24T14:27:26.332219536 [x:fc_vmm] Failed to execute Out virtio block request: FileEngine(Sync(Transfer(InvalidGuestAddress(GuestAddress(1)))))\n" +
		"2026-11-24T14:27:26.332219536 [x:fc_vmm] Failed to execute GetDeviceID virtio block request: GetId(code: 28)\n")
	errs, changed := m.DiskErrors()
	if len(errs) > 0 {
		t.Errorf("what the guest did wrong: %v", errs)
	}
	says(`2026-11-24T14:27:26.332219536 [x:fc_vmm] Failed to execute Out virtio block request: ` +
		`FileEngine(Sync(Transfer(IOError(Os { code: 28, kind: StorageFull, message: "No space left on device" }))))` + "\n")
	select {
	case <-changed:
	case <-time.After(10 * time.Second):
		t.Fatal("nothing was reported")
	}
	want := vmm.DiskError{Errno: unix.ENOSPC}
	if errs, _ := m.DiskErrors(); len(errs) != 1 || errs[0] != want {
		t.Errorf("got %v", errs)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	adopted, err := driver.Adopt(t.Context(), spec.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer adopted.Close()
	defer adopted.Kill()
	if errs, changed := adopted.DiskErrors(); len(errs) == 0 {
		<-changed
	}
	if errs, _ := adopted.DiskErrors(); len(errs) != 1 || errs[0] != want {
		t.Errorf("adopted with %v", errs)
	}
}
