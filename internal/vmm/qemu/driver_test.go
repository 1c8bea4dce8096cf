package qemu

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"banger"
	"banger/internal/config"
	"banger/internal/hostcmd"
	"banger/internal/vmm"
)

// only runs one program in QEMU's place.
type only struct {
	hostcmd.Host
	path string
}

func (o only) Look(string) (string, error) {
	if o.path == "" {
		return "", errors.New("not found")
	}
	return o.path, nil
}

// script is a QEMU that knows the machine, and else does what body says.
func script(t *testing.T, body string) only {
	return machines(t, "echo 'microvm              microvm (i386)'", body)
}

// machines is a QEMU that answers the question for its machines by help.
func machines(t *testing.T, help, body string) only {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qemu")
	text := "#!/bin/sh\ncase \"$*\" in\n*-version) echo QEMU emulator version 9.9.9 '(Test)';;\n'-machine help') " + help + ";;\n*) :; " + body + "\n;;\nesac\n"
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return only{path: path}
}

// asPlainUser returns the driver of a daemon that is not root.
func asPlainUser(run only) *Driver {
	driver := New(run)
	driver.host.Root = false
	return driver
}

func TestProbe(t *testing.T) {
	for name, run := range map[string]only{"missing": {}, "no microvm": machines(t, "echo 'pc  Standard PC'", ""), "broken": machines(t, "exit 1", "")} {
		_, err := New(run).Probe(t.Context())
		if banger.KindOf(err) != banger.Unready || banger.FixOf(err) != installFix {
			t.Errorf("%s: %v, fix %q", name, err, banger.FixOf(err))
		}
	}
	run := script(t, "")
	driver := New(run)
	if c, err := driver.Probe(t.Context()); err != nil || c.Version != "9.9.9" {
		t.Errorf("got %+v, %v", c, err)
	}
	if err := os.WriteFile(run.path, []byte("#!/bin/sh\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := driver.Probe(t.Context()); err == nil {
		t.Error("another QEMU in its place was not asked")
	}
}

func plainSpec(t *testing.T) vmm.Spec {
	t.Helper()
	dir := t.TempDir()
	lock, err := vmm.Lock(config.VMDir(dir).Lock())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lock.Close() })
	return vmm.Spec{
		Name: "otter,2", Dir: dir, Lock: lock, Kernel: "vm,linux", Initrd: "initrd.img", VCPUs: 1, Memory: banger.GiB,
		Disks:   []vmm.Disk{{Role: vmm.Base, File: "base.ext4", ReadOnly: true}, {Role: vmm.Work, File: "work.ext4"}},
		Console: config.ConsoleName, Log: config.VMMLogName(Name),
	}
}

// What a QEMU that cannot start says is the error, and nothing of it is left.
func TestLaunchFailure(t *testing.T) {
	spec := plainSpec(t)
	if err := os.WriteFile(filepath.Join(spec.Dir, spec.Log), []byte("words of an earlier start\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run := script(t, "echo '2026-11-24T11:00:00.123456Z qemu-system-x86_64: -m 1024M: no memory' >&2; exit 3")
	_, err := asPlainUser(run).Launch(t.Context(), spec)
	if got, want := errorText(err), "launch QEMU: it exited at once: exit status 3: -m 1024M: no memory"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if banger.KindOf(err) != banger.Unready || !strings.HasSuffix(banger.FixOf(err), "/qemu.log") {
		t.Errorf("kind %s, fix %q", banger.KindOf(err), banger.FixOf(err))
	}
	assertLeft(t, spec)
}

func TestLaunchFailureWithoutWords(t *testing.T) {
	spec := plainSpec(t)
	_, err := asPlainUser(script(t, "kill -9 $$")).Launch(t.Context(), spec)
	if got, want := errorText(err), "launch QEMU: it exited at once: SIGKILL"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	assertLeft(t, spec)
}

// A QEMU that never answers is ended with the context, and reaped.
func TestLaunchCanceled(t *testing.T) {
	spec := plainSpec(t)
	fifo := filepath.Join(spec.Dir, "pid")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	pid := make(chan string, 1)
	go func() {
		said, _ := os.ReadFile(fifo) // once the script runs
		pid <- strings.TrimSpace(string(said))
		cancel()
	}()
	_, err := asPlainUser(script(t, "echo $$ >pid; exec sleep 60")).Launch(ctx, spec)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	assertLeft(t, spec)
	proc := "/proc/" + <-pid
	if _, err := os.Stat(proc); proc == "/proc/" || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("process %s is left: %v", proc, err)
	}
}

func errorText(err error) string {
	if err == nil {
		return "no error"
	}
	return err.Error()
}

func assertLeft(t *testing.T, spec vmm.Spec) {
	t.Helper()
	spec.Lock.Close()
	if locked, err := vmm.Locked(config.VMDir(spec.Dir).Lock()); err != nil || locked {
		t.Errorf("locked %v, %v", locked, err)
	}
	for _, name := range []string{monitorSocket, controlSocket, streamsSocket} {
		if _, err := os.Lstat(filepath.Join(spec.Dir, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", name, err)
		}
	}
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range fds {
		if open, err := os.Readlink(fd); err == nil && strings.HasPrefix(open, spec.Dir) {
			t.Errorf("%s is still open", open)
		}
	}
	for _, name := range []string{spec.Log, spec.Console} {
		if info, err := os.Stat(filepath.Join(spec.Dir, name)); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

func TestArgs(t *testing.T) {
	spec := plainSpec(t)
	emulated, kvm := accelerator{}, accelerator{kvm: true}
	old, oldSandboxed, newer := program{version: "7.2.22"}, program{version: "7.2.22", sandbox: true}, program{version: "8.0.2", sandbox: true}
	line := func(a accelerator, vcpus int, p program) string {
		spec.VCPUs = vcpus
		return " " + strings.Join(args(spec, a, 2_000_000, p), " ") + " "
	}
	for _, test := range []struct {
		line          string
		has, hasNever []string
	}{
		{line(emulated, 1, oldSandboxed),
			[]string{" -accel tcg,tb-size=256 -cpu max,svm=off ", " -sandbox on,", " tsc_early_khz=2000000 tsc=reliable clearcpuid=141 ", " -kernel vm,,linux ", " -name banger:otter,,2 ", " -m 1024M ", ",deflate-on-oom=on,free-page-reporting=on ", "file=base.ext4,format=raw,cache=writeback,aio=threads,readonly=on ", "file=work.ext4,format=raw,cache=writeback,aio=threads,discard=unmap,werror=stop "},
			[]string{"thread=", "mitigations", spec.Dir}},
		{line(emulated, 1, newer), []string{" tsc=reliable "}, []string{"clearcpuid"}},
		{line(emulated, 1, program{version: "unknown"}), []string{" clearcpuid=141 "}, nil},
		{line(emulated, 2, old), []string{" -accel tcg,tb-size=256,thread=single "}, []string{"-sandbox"}},
		{line(kvm, 2, oldSandboxed), []string{" -accel kvm -cpu host "}, []string{"tsc", "tcg", "clearcpuid"}},
	} {
		for _, has := range test.has {
			if !strings.Contains(test.line, has) {
				t.Errorf("%s lacks %q", test.line, has)
			}
		}
		for _, never := range test.hasNever {
			if strings.Contains(test.line, never) {
				t.Errorf("%s has %q", test.line, never)
			}
		}
	}
	if without := line(kvm, 1, newer); strings.Contains(without, "net") {
		t.Errorf("a card in %s", without)
	}
	spec.NIC = &vmm.NIC{Tap: "bg0123456789ab", MAC: net.HardwareAddr{2, 0x23, 0x45, 0x67, 0x89, 0xab}, MTU: 1400}
	const card = " -netdev tap,id=net,ifname=bg0123456789ab,script=no,downscript=no,vhost=off -device virtio-net-device,netdev=net,mac=02:23:45:67:89:ab,host_mtu=1400 "
	if with := line(kvm, 1, newer); !strings.Contains(with, card) {
		t.Errorf("%s lacks %q", with, card)
	}
	spec.NIC.MTU = 0
	if with := line(kvm, 1, newer); strings.Contains(with, "host_mtu") {
		t.Errorf("an MTU in %s", with)
	}
	all := args(spec, kvm, 0, oldSandboxed)
	if base, work := slices.Index(all, "virtio-blk-device,drive=base"), slices.Index(all, "virtio-blk-device,drive=work"); base < 0 || work < base {
		t.Errorf("disks out of order: %v", all)
	}
}
