//go:build vm

package firecracker

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger"
	"banger/internal/hostcmd"
	"banger/internal/vmm"
	"banger/internal/vmm/process"
	"banger/internal/vmm/vmmtest"
)

// realFirecracker names the Firecracker that these tests try the calls on. They
// need no KVM: its refusal comes with the last call.
const realFirecracker = "BANGER_TEST_FIRECRACKER"

func real(t *testing.T) *Driver {
	t.Helper()
	path := os.Getenv(realFirecracker)
	if path == "" {
		t.Skipf("no Firecracker to try; fix: %s=/path/of/firecracker go test -tags vm ./internal/vmm/firecracker", realFirecracker)
	}
	host := goodHost(t)
	host.Root, host.Self = process.ThisHost().Root, process.ThisHost().Self
	return &Driver{run: hostcmd.Host{}, places: Places{Configured: path}, host: host}
}

// A real Firecracker takes every call up to the start of the VM, which fails for
// the want of a kernel or of KVM.
func TestRealConfiguration(t *testing.T) {
	driver, spec := real(t), newSpec(t)
	for _, disk := range spec.Disks {
		if err := os.Truncate(filepath.Join(spec.Dir, disk.File), 1<<20); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(spec.Dir, spec.Kernel), []byte(strings.Repeat("no kernel ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := driver.Launch(t.Context(), spec)
	if refused := (*fault)(nil); !errors.As(err, &refused) || refused.call != putAction {
		t.Errorf("got %v", err)
	}
	t.Logf("%v (fix: %s)", err, banger.FixOf(err))
	if !driver.host.Root {
		assertLeft(t, spec)
	}
}

// forkReal starts a real Firecracker and leaves it unconfigured.
func forkReal(t *testing.T, driver *Driver, spec vmm.Spec) (*client, *process.Process, *process.Dir) {
	t.Helper()
	program, err := driver.inspect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir, err := process.OpenDir(spec.Dir)
	if err != nil {
		t.Fatal(err)
	}
	account, err := driver.host.Assign(dir, spec.ID)
	if err != nil {
		t.Fatal(err)
	}
	proc, err := fork(dir, program, spec, account)
	if err != nil {
		t.Fatal(err)
	}
	spec.Lock.Close()
	t.Cleanup(func() { proc.End(); dir.Close() })
	if err := reach(t.Context(), proc, dir); err != nil {
		t.Fatal(err)
	}
	return newClient(func(ctx context.Context) (net.Conn, error) { return dialVMM(ctx, dir, apiSocket, proc) }), proc, dir
}

// A real Firecracker tells of a field that it does not know, and answers what is
// asked in the form that is read.
func TestRealAnswers(t *testing.T) {
	spec := newSpec(t)
	api, proc, _ := forkReal(t, real(t), spec)
	defer api.close()
	var found instance
	if err := api.do(t.Context(), describe, nil, &found); err != nil || found.State != stateNotStarted {
		t.Errorf("%+v, %v", found, err)
	}
	for _, use := range used {
		if use.body == nil || use.call == putSerial {
			continue
		}
		data, err := json.Marshal(use.body)
		if err != nil {
			t.Fatal(err)
		}
		var body map[string]any
		if err := json.Unmarshal(data, &body); err != nil {
			t.Fatal(err)
		}
		for name, value := range use.values {
			body[name] = value
		}
		body["bogus"] = true
		err = api.do(t.Context(), use.call.named("work"), body, nil)
		if err == nil || !strings.Contains(err.Error(), "unknown field `bogus`") {
			t.Errorf("%s: %v", use.call, err)
		}
	}
	if err := api.do(t.Context(), putDrive.named("work"), drive{ID: "work", File: spec.Disks[1].File, CacheType: writeback}, nil); err != nil {
		t.Error(err)
	}
	var c vmConfig
	if err := api.do(t.Context(), describeConfig, nil, &c); err != nil || len(c.Drives) != 1 || c.Drives[0] != (driveUpdate{"work", spec.Disks[1].File}) {
		t.Errorf("%+v, %v", c, err)
	}
	proc.End()
}

// A real one takes a card, and refuses a TAP that is missing or that another has in words
// that become a fix.
func TestRealCard(t *testing.T) {
	driver, spec := real(t), newSpec(t)
	vmmtest.Beside(t, &spec)
	put := func(spec vmm.Spec) error {
		api, _, _ := forkReal(t, driver, spec)
		defer api.close()
		program, err := driver.inspect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return api.do(t.Context(), putInterface.named(interfaceID), cardOf(program.release, *spec.NIC), nil)
	}
	if err := put(spec); err != nil {
		t.Fatal(err)
	}
	for tap, want := range map[string]string{spec.NIC.Tap: "another process has the TAP", "bgmissing": "there is no TAP bgmissing"} {
		other := newSpec(t)
		other.NIC = &vmm.NIC{Tap: tap, MAC: spec.NIC.MAC}
		err := put(other)
		if err == nil {
			t.Fatalf("it took %s", tap)
		}
		if got := process.ExplainTap(err.Error(), other); got == nil || !strings.Contains(got.Error(), want) {
			t.Errorf("%s: %v became %v, want %q", tap, err, got, want)
		}
	}
}

// A real one that was never configured is ended when it is adopted.
func TestRealAdoptUnconfigured(t *testing.T) {
	driver, spec := real(t), newSpec(t)
	_, proc, _ := forkReal(t, driver, spec)
	if _, err := driver.Adopt(t.Context(), spec.Dir); !errors.Is(err, vmm.ErrGone) {
		t.Errorf("got %v", err)
	}
	<-proc.Done()
}

// A real one opens its log without O_APPEND, and appends to it all the same.
func TestRealLogIsAppendedTo(t *testing.T) {
	spec := newSpec(t)
	_, proc, dir := forkReal(t, real(t), spec)
	appendToLog(proc, dir, spec.Log)
	assertAppends(t, proc, filepath.Join(spec.Dir, spec.Log))
}
