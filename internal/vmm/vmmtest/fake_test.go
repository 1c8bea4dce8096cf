package vmmtest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger"
	"banger/internal/guest/wire"
	"banger/internal/vmm"
)

// daemonEnv makes the test binary launch the VM in the directory it names and
// wait to be killed.
const daemonEnv = "BANGER_TEST_DAEMON"

func TestMain(m *testing.M) {
	RunVMM()
	if dir := os.Getenv(daemonEnv); dir != "" {
		lock, err := vmm.Lock(filepath.Join(dir, LockName))
		if err == nil {
			var machine vmm.Machine
			machine, err = NewFake(nil).Launch(context.Background(), specIn(dir, lock))
			if err == nil {
				fmt.Println(machine.PID())
				select {}
			}
		}
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestContract(t *testing.T) {
	Run(t, func(t *testing.T) (vmm.Driver, func(*testing.T) vmm.Spec) { return NewFake(t), newSpec })
}

func specIn(dir string, lock *os.File) vmm.Spec {
	return vmm.Spec{
		ID: "0123456789ab", Name: "otter", Dir: dir, Lock: lock, Kernel: "vmlinux", Initrd: "initrd.img",
		Disks:   []vmm.Disk{{Role: vmm.Base, File: "base.ext4", ReadOnly: true}, {Role: vmm.Overlay, File: "overlay.ext4"}},
		Console: "console.log", Log: "fake.log",
	}
}

func newSpec(t *testing.T) vmm.Spec {
	t.Helper()
	dir := t.TempDir()
	config := func(nonce string) []byte {
		data, err := json.Marshal(wire.Config{Name: "otter", Nonce: nonce, Token: "token of " + nonce})
		if err != nil {
			t.Fatal(err)
		}
		return newc(wire.ConfigPath, string(data))
	}
	for name, data := range map[string][]byte{
		"vmlinux": nil, "base.ext4": nil, "overlay.ext4": make([]byte, 64<<10),
		"initrd.img": append(append(newc("init", "#!"), config("old")...), config("new")...),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	lock, err := vmm.Lock(filepath.Join(dir, LockName))
	if err != nil {
		t.Fatal(err)
	}
	return specIn(dir, lock)
}

// newc is an archive with one file.
func newc(name, data string) []byte {
	var b []byte
	for _, file := range [][2]string{{name, data}, {"TRAILER!!!", ""}} {
		head := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", 1, 0o100600, 0, 0, 1, 0, len(file[1]), 0, 0, 0, 0, len(file[0])+1, 0)
		b = append(append(b, head...), file[0]+"\x00"...)
		b = append(b, make([]byte, align(len(b))-len(b))...)
		b = append(b, file[1]...)
		b = append(b, make([]byte, align(len(b))-len(b))...)
	}
	return b
}

func TestReadConfigRefusesGarbage(t *testing.T) {
	whole := newc(wire.ConfigPath, `{"name":"otter"}`)
	for name, data := range map[string][]byte{
		"empty": nil, "text": []byte("hello"), "no config": newc("init", "x"), "cut": whole[:130],
		"sizes": []byte(strings.Repeat("070701", 1) + strings.Repeat("F", 104)),
	} {
		path := filepath.Join(t.TempDir(), "initrd.img")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if config, err := ReadConfig(path); err == nil {
			t.Errorf("%s: got %+v", name, config)
		}
	}
}

func TestFaults(t *testing.T) {
	f := &fixture{NewFake(t), newSpec, vmm.Capabilities{BootTimeout: 20 * time.Second}}
	fake := f.driver.(*Fake)

	fake.SetFaults(FailsProbe)
	if _, err := fake.Probe(t.Context()); banger.KindOf(err) != banger.Unready {
		t.Errorf("%s: %v", FailsProbe, err)
	}

	fake.SetFaults(FailsLaunch)
	spec := newSpec(t)
	if _, err := fake.Launch(f.context(t), spec); err == nil || !strings.Contains(err.Error(), "told to fail") {
		t.Errorf("%s: %v", FailsLaunch, err)
	}
	assertNothing(t, spec)

	fake.SetFaults(NeverReady)
	m, _ := f.launch(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := m.Dial(ctx, wire.PortControl); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%s: %v", NeverReady, err)
	}

	fake.SetFaults(DiesBooting)
	m, _ = f.launch(t)
	if _, err := m.Dial(f.context(t), wire.PortControl); err == nil {
		t.Errorf("%s: the guest answered", DiesBooting)
	}
	f.ended(t, m, vmm.ReasonFailed)
	if detail := m.Exit().Detail; !strings.Contains(detail, "told to die") {
		t.Errorf("%s: %q", DiesBooting, detail)
	}

	fake.SetFaults(PanicsAtStop)
	m, spec = f.launch(t)
	f.control(t, m, spec).ask(t, wire.MethodStop, wire.StopParams{Verb: wire.Poweroff})
	f.ended(t, m, vmm.ReasonReset)
	if console, _ := os.ReadFile(filepath.Join(spec.Dir, spec.Console)); strings.Contains(string(console), wire.ConsoleBye) {
		t.Errorf("%s: a bye on the console", PanicsAtStop)
	}
	if got := fake.Ending(spec.Dir); got.Reason != vmm.ReasonReset {
		t.Errorf("%s: unwatched, it ended by %+v", PanicsAtStop, got)
	}

	fake.SetFaults(IgnoresStop)
	m, spec = f.launch(t)
	c := f.control(t, m, spec)
	c.ask(t, wire.MethodStop, wire.StopParams{Verb: wire.Poweroff})
	c.ask(t, wire.MethodPing, nil)
}

func TestAdoptAfterTheDaemonWasKilled(t *testing.T) {
	spec := newSpec(t)
	spec.Lock.Close()
	daemon := exec.Command(os.Args[0])
	daemon.Env = append(os.Environ(), daemonEnv+"="+spec.Dir)
	out, err := daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	daemon.Process.Signal(syscall.SIGKILL)
	daemon.Wait()
	var pid int
	if _, scanned := fmt.Sscan(line, &pid); err != nil || scanned != nil {
		t.Fatalf("the daemon said %q, %v", line, err)
	}
	f := &fixture{NewFake(t), newSpec, vmm.Capabilities{BootTimeout: 20 * time.Second}}
	m, err := f.driver.Adopt(t.Context(), spec.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	defer m.Kill()
	if m.PID() != pid {
		t.Errorf("adopted process %d, launched %d", m.PID(), pid)
	}
	f.control(t, m, spec).ask(t, wire.MethodStop, wire.StopParams{Verb: wire.Poweroff})
	f.ended(t, m, vmm.ReasonPoweroff)
}
