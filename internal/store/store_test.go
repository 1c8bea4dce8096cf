package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"banger"
	"banger/internal/durable/durabletest"
	"banger/internal/network"
)

func TestDatabaseKeepsItsName(t *testing.T) {
	dir := t.TempDir()
	disk := durabletest.New(t, dir)
	openAt(t, filepath.Join(dir, "banger.db"))
	if names := disk.Names(dir); !slices.Contains(names, "banger.db") {
		t.Errorf("a power cut leaves %v", names)
	}
}

func openTemp(t *testing.T) *Store {
	t.Helper()
	return openAt(t, filepath.Join(t.TempDir(), "a ?#%.db"))
}

func openAt(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// openStocked has the image that samples are made from.
func openStocked(t *testing.T) *Store {
	t.Helper()
	s := openTemp(t)
	stock(t, s)
	return s
}

func stock(t *testing.T, s *Store) {
	t.Helper()
	if err := s.PutImage(t.Context(), banger.Image{Name: "docker", ID: "sha256:aa"}); err != nil {
		t.Fatal(err)
	}
}

// insert is InsertVM without the slot that it chooses.
func insert(ctx context.Context, s *Store, v VM) error {
	_, err := s.InsertVM(ctx, v)
	return err
}

// sample has the slot that InsertVM chooses where it is free.
func sample(id, name string) VM {
	sum := fnv.New32a()
	sum.Write([]byte(id))
	return VM{
		Slot: network.FirstSlot + int(sum.Sum32()%(network.LastSlot-network.FirstSlot+1)), NAT: true, Published: "8080:80",
		ID: banger.VMID(id), Name: name, Image: "docker", ImageID: "sha256:aa", Kernel: "6.12", KernelID: "sha256:bb",
		VCPUs: 2, Memory: banger.GiB, Overlay: 8 * banger.GiB, Disk: 16 * banger.GiB, Driver: "qemu", Network: "auto",
		MachineID: "0123456789abcdef0123456789abcdef", CreatedAt: time.Date(2026, 11, 24, 10, 0, 0, 7, time.UTC),
		Phase: Creating, Wanted: banger.WantRunning,
	}
}

func TestVMRoundTrip(t *testing.T) {
	s, ctx := openStocked(t), t.Context()
	want := sample("0123456789ab", "calm-otter")
	want.Lease = "a lease"
	if err := insert(ctx, s, want); err != nil {
		t.Fatal(err)
	}
	ended := time.Date(2026, 11, 25, 1, 2, 3, 4, time.UTC)
	for _, err := range []error{
		s.SetPhase(ctx, want.ID, Ready),
		s.SetWanted(ctx, want.ID, banger.WantStopped),
		s.SetEnding(ctx, want.ID, banger.EndedCrashed, "panic: oops", ended),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	want.Phase, want.Wanted, want.Ending, want.EndingBy, want.EndedAt = Ready, banger.WantStopped, banger.EndedCrashed, "panic: oops", ended
	got, err := s.vm(ctx, want.ID)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
	}
	if err := s.DeleteVM(ctx, want.ID); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{s.DeleteVM(ctx, want.ID), s.SetPhase(ctx, want.ID, Ready), second(s.vm(ctx, want.ID))} {
		if banger.KindOf(err) != banger.NotFound {
			t.Errorf("of a VM that is gone: %v", err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestInsertRefusesTakenNames(t *testing.T) {
	s, ctx := openStocked(t), t.Context()
	first := sample("0123456789ab", "otter")
	if err := insert(ctx, s, first); err != nil {
		t.Fatal(err)
	}
	for phase, fix := range map[Phase]string{
		Ready: "choose another --name", Creating: "choose another --name", Deleting: "banger vm delete otter finishes it",
	} {
		if err := s.SetPhase(ctx, first.ID, phase); err != nil {
			t.Fatal(err)
		}
		err := insert(ctx, s, sample("ba9876543210", "otter"))
		if banger.KindOf(err) != banger.Conflict || banger.FixOf(err) != fix {
			t.Errorf("%s: got %v, fix %q", phase, err, banger.FixOf(err))
		}
		if open := s.writer.Stats().InUse; open != 0 {
			t.Fatalf("%d transactions are left open", open)
		}
	}
	if err := insert(ctx, s, sample("0123456789ab", "mole")); banger.KindOf(err) != banger.Conflict {
		t.Errorf("taken ID: got %v", err)
	}
	if all, err := s.VMs(ctx); err != nil || len(all) != 1 {
		t.Errorf("got %v, %v", all, err)
	}
}

func TestOneNameOneWinner(t *testing.T) {
	s, ctx := openStocked(t), t.Context()
	errs := make([]error, 16)
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() { errs[i] = insert(ctx, s, sample(fmt.Sprintf("%012x", i), "otter")) })
	}
	all.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else if banger.KindOf(err) != banger.Conflict {
			t.Errorf("got %v", err)
		}
	}
	if won != 1 {
		t.Errorf("%d inserts won", won)
	}
}

func TestVMsAreListedByName(t *testing.T) {
	s, ctx := openStocked(t), t.Context()
	for i, name := range []string{"c", "a", "b"} {
		if err := insert(ctx, s, sample(fmt.Sprintf("%012x", i), name)); err != nil {
			t.Fatal(err)
		}
	}
	all, err := s.VMs(ctx)
	if err != nil || len(all) != 3 || all[0].Name+all[1].Name+all[2].Name != "abc" {
		t.Errorf("got %v, %v", all, err)
	}
}

func TestImageNamesMoveAndDigestsStay(t *testing.T) {
	s, ctx := openTemp(t), t.Context()
	made := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)
	old := banger.Image{Name: "docker", ID: "sha256:01", Size: banger.GiB, Origin: "debian", CreatedAt: made}
	renewed := banger.Image{Name: "docker", ID: "sha256:02", Size: 2 * banger.GiB, Origin: "debian", CreatedAt: made}
	for _, image := range []banger.Image{old, renewed, renewed} {
		if err := s.PutImage(ctx, image); err != nil {
			t.Fatal(err)
		}
	}
	for ref, want := range map[string]banger.Image{"docker": renewed, "sha256:01": old, "sha256:02": renewed} {
		if got, err := s.Image(ctx, ref); err != nil || got != want {
			t.Errorf("%s: got %+v, %v", ref, got, err)
		}
	}
	if all, err := s.Images(ctx); err != nil || len(all) != 1 || all[0] != renewed {
		t.Errorf("got %v, %v", all, err)
	}
	if _, err := s.Image(ctx, "other"); banger.KindOf(err) != banger.NotFound || banger.FixOf(err) != "banger image list" {
		t.Errorf("got %v, fix %q", err, banger.FixOf(err))
	}
}

func TestKernels(t *testing.T) {
	s, ctx := openTemp(t), t.Context()
	want := banger.Kernel{Name: "6.12.1", ID: "sha256:03", Size: 5, Origin: "o", CreatedAt: time.Unix(9, 0).UTC()}
	if err := s.PutKernel(ctx, want); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Kernel(ctx, "6.12.1"); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	if all, err := s.Kernels(ctx); err != nil || len(all) != 1 {
		t.Errorf("got %v, %v", all, err)
	}
	if _, err := s.Kernel(ctx, "sha256:ff"); banger.KindOf(err) != banger.NotFound {
		t.Errorf("got %v", err)
	}
}

func TestFilesArePrivateFromBirth(t *testing.T) {
	path := filepath.Join(t.TempDir(), "banger.db")
	s := openAt(t, path)
	stock(t, s)
	if err := insert(t.Context(), s, sample("0123456789ab", "otter")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{path, path + "-wal", path + "-shm"} {
		info, err := os.Stat(name)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

func TestEveryConnectionHasThePragmas(t *testing.T) {
	s, ctx := openTemp(t), t.Context()
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "busy_timeout": "10000"} {
		var got string
		if err := s.writer.QueryRowContext(ctx, "PRAGMA "+pragma).Scan(&got); err != nil || got != want {
			t.Errorf("writer: %s is %s, %v", pragma, got, err)
		}
	}
	for range 4 {
		conn, err := s.readers.Conn(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		var got int
		if err := conn.QueryRowContext(ctx, "PRAGMA query_only").Scan(&got); err != nil || got != 1 {
			t.Errorf("reader: query_only is %d, %v", got, err)
		}
		if _, err := conn.ExecContext(ctx, "DELETE FROM vms"); err == nil {
			t.Error("a reader wrote")
		}
	}
}

func TestCancelledWriteLeavesNothing(t *testing.T) {
	s := openTemp(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := insert(ctx, s, sample("0123456789ab", "otter")); err == nil {
		t.Error("want an error")
	}
	if all, err := s.VMs(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("got %v, %v", all, err)
	}
}

func TestFullDisk(t *testing.T) {
	s, ctx := openStocked(t), t.Context()
	vm := sample("aaa111", "otter")
	if err := insert(ctx, s, vm); err != nil {
		t.Fatal(err)
	}
	if _, err := s.writer.ExecContext(ctx, "PRAGMA max_page_count = 1"); err != nil { // no more than there are
		t.Fatal(err)
	}
	err := s.SetEnding(ctx, vm.ID, banger.EndedCrashed, strings.Repeat("a long story ", 10000), time.Now())
	if !errors.Is(err, ErrFull) || banger.KindOf(err) != banger.Unready || !strings.HasPrefix(banger.FixOf(err), "free space on /") {
		t.Errorf("got %v, fix %q", err, banger.FixOf(err))
	}
}

// vm returns the VM with that ID; NotFound otherwise.
func (s *Store) vm(ctx context.Context, id banger.VMID) (VM, error) {
	all, err := s.VMs(ctx)
	for _, vm := range all {
		if vm.ID == id {
			return vm, err
		}
	}
	return VM{}, errors.Join(err, absent(sql.ErrNoRows))
}
