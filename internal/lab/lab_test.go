//go:build vm

package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger"
	"banger/internal/config"
	"banger/internal/vmm"
)

// shared is the home of the tests that do not disturb the daemon or other tests' VMs, so
// that the bundle is installed once. The others have a home of their own.
var shared *home

func TestMain(m *testing.M) {
	os.Exit(func() int {
		root, err := checkout()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		dir, err := os.MkdirTemp("", "banger-lab-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		shared = newHome(dir, root)
		code := m.Run()
		if err := shared.tearDown(); err != nil {
			fmt.Fprintln(os.Stderr, "left behind:", err)
			code = 1
		}
		measured.print(os.Stdout)
		return code
	}())
}

// checkout returns the repository's root, or an error that names what is missing there.
func checkout() (string, error) {
	root, err := filepath.Abs("../..")
	if err != nil {
		return "", err
	}
	for _, need := range []struct{ path, how string }{
		{"banger", "make build"}, {"bangerd", "make build"}, {"banger-agent", "make build"}, {"runtime/bundle.json", "make runtime"},
	} {
		if _, err := os.Stat(filepath.Join(root, need.path)); err != nil {
			return "", fmt.Errorf("%s is missing in %s: run %s", need.path, root, need.how)
		}
	}
	return root, nil
}

// home is the environment of one user, who has their own directories and so their own
// daemon.
type home struct {
	dir  string
	bin  string // where the programs are
	env  []string
	dirs config.Dirs
	as   *syscall.Credential // nil: the user of this process
	in   []string            // the command that runs everything, for a home in a namespace
}

// wantedDriver names the driver to use; without it banger chooses.
const wantedDriver = "BANGER_TEST_DRIVER"

func newHome(dir, bin string) *home {
	vars := map[string]string{"HOME": dir, "XDG_CONFIG_HOME": dir + "/config", "XDG_STATE_HOME": dir + "/state",
		"XDG_CACHE_HOME": dir + "/cache", "XDG_RUNTIME_DIR": dir + "/run"}
	h := &home{dir: dir, bin: bin}
	for _, kv := range os.Environ() {
		key, _, _ := strings.Cut(kv, "=")
		if _, ours := vars[key]; !ours && !strings.HasPrefix(key, "BANGER_") {
			h.env = append(h.env, kv)
		}
	}
	for key, value := range vars {
		h.env = append(h.env, key+"="+value)
	}
	h.env = append(h.env, "BANGER_NETWORK=none") // the tests of the network set it
	if driver := os.Getenv(wantedDriver); driver != "" {
		h.env = append(h.env, "BANGER_DRIVER="+driver)
	}
	os.Mkdir(dir+"/run", 0o700)
	h.dirs, _ = config.DirsFrom(func(key string) string { return vars[key] })
	return h
}

// own returns a home for a test that disturbs its daemon or its files.
func own(t *testing.T) *home {
	t.Helper()
	h := newHome(t.TempDir(), shared.bin)
	h.tearDownAfter(t)
	for _, places := range [][2]string{{shared.dirs.Kernels(), h.dirs.Kernels()}, {shared.dirs.Images(), h.dirs.Images()}} {
		if err := link(places[0], places[1]); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// link gives a home what another one has installed from the bundle: copying and checking
// it again takes long on an emulated CPU.
func link(from, to string) error {
	whole, err := filepath.Glob(from + "/[0-9a-f]*/*")
	if err != nil {
		return err
	}
	for _, file := range whole {
		dir := filepath.Join(to, filepath.Base(filepath.Dir(file)))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if err := os.Link(file, filepath.Join(dir, filepath.Base(file))); err != nil && !errors.Is(err, fs.ErrNotExist) { // just deleted
			return err
		}
	}
	return nil
}

// tearDownAfter tears a home down after the VMs' own cleanups.
func (h *home) tearDownAfter(t *testing.T) {
	t.Cleanup(func() {
		if t.Failed() {
			logTail(t, h.dirs.Log())
		}
		if err := h.tearDown(); err != nil {
			t.Error("left behind:", err)
		}
	})
}

// logTail logs the end of a file.
func logTail(t *testing.T, path string) {
	text, err := os.ReadFile(path)
	if err != nil {
		return
	}
	t.Logf("%s:\n%s", path, text[max(0, len(text)-4000):])
}

// tearDown deletes every VM, stops the daemon, and returns an error if anything is left.
func (h *home) tearDown() error {
	ctx := context.Background()
	for _, vm := range h.list(ctx) {
		if r := h.run(ctx, nil, "vm", "delete", "--yes", "--force", vm.Name); r.code != 0 {
			return fmt.Errorf("delete %s: %s", vm.Name, r.stderr)
		}
	}
	left, _ := os.ReadDir(h.dirs.VMs())
	if len(left) > 0 {
		return fmt.Errorf("%v in %s", left, h.dirs.VMs())
	}
	pid := h.daemonPID(ctx)
	h.run(ctx, nil, "daemon", "stop")
	if pid > 0 {
		if err := gone(pid, time.Minute); err != nil {
			return fmt.Errorf("the daemon: %w", err)
		}
	}
	return os.RemoveAll(h.dir)
}

type result struct {
	stdout, stderr string
	code           int
}

func (h *home) command(ctx context.Context, args ...string) *exec.Cmd {
	argv := append(append(slices.Clone(h.in), filepath.Join(h.bin, "banger")), args...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = h.env
	if h.as != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: h.as}
	}
	return cmd
}

func (h *home) run(ctx context.Context, stdin []byte, args ...string) result {
	var out, said bytes.Buffer
	cmd := h.command(ctx, args...)
	cmd.Stdout, cmd.Stderr = &out, &said
	if stdin != nil {
		cmd.Stdin = bytes.NewReader(stdin)
	}
	err := cmd.Run()
	var exit *exec.ExitError
	code := 0
	switch {
	case errors.As(err, &exit):
		code = exit.ExitCode()
	case err != nil:
		code = -1
		said.WriteString(err.Error())
	}
	return result{out.String(), said.String(), code}
}

// banger runs a banger command that must succeed, and returns its output.
func (h *home) banger(t *testing.T, args ...string) string {
	t.Helper()
	begun := time.Now()
	r := h.run(t.Context(), nil, args...)
	t.Logf("%5.1fs banger %s", time.Since(begun).Seconds(), strings.Join(args, " "))
	if r.code != 0 {
		t.Fatalf("banger %s: exit %d\n%s%s", strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// sh runs a shell command in a VM and returns what it printed.
func (h *home) sh(t *testing.T, name, script string) string {
	t.Helper()
	return strings.TrimSuffix(h.banger(t, "vm", "exec", name, "--", "sh", "-c", script), "\n")
}

func (h *home) create(t *testing.T, args ...string) banger.VM {
	t.Helper()
	out := h.banger(t, append([]string{"vm", "create", "--json"}, args...)...)
	var vm banger.VM
	if err := json.Unmarshal([]byte(out), &vm); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, path := range []string{config.VMDir(vm.Dir).OldConsole(), vm.Console, vm.VMMLog} {
				logTail(t, path)
			}
		}
		h.run(context.Background(), nil, "vm", "delete", "--yes", "--force", string(vm.ID))
		if _, err := os.Stat(vm.Dir); err == nil {
			t.Errorf("%s is left behind", vm.Dir)
		}
	})
	return vm
}

func (h *home) show(t testing.TB, name string) banger.VM {
	t.Helper()
	r := h.run(context.Background(), nil, "vm", "show", "--json", name)
	var vm banger.VM
	if err := json.Unmarshal([]byte(r.stdout), &vm); err != nil {
		t.Fatalf("show %s: %v in %s%s", name, err, r.stdout, r.stderr)
	}
	return vm
}

// vmm returns the process ID of a running VM's VMM. A test must not signal 0, which
// would be itself and its process group.
func (h *home) vmm(t *testing.T, name string) int {
	t.Helper()
	pid := h.show(t, name).PID
	if pid <= 1 {
		t.Fatalf("%s has no VMM", name)
	}
	return pid
}

func (h *home) list(ctx context.Context) []banger.VM {
	var vms []banger.VM
	json.Unmarshal([]byte(h.run(ctx, nil, "vm", "list", "--json").stdout), &vms)
	return vms
}

func (h *home) daemonPID(ctx context.Context) int {
	var status banger.Daemon
	json.Unmarshal([]byte(h.run(ctx, nil, "daemon", "status", "--json").stdout), &status)
	return status.PID
}

// killDaemon kills the daemon, as a crash would.
func (h *home) killDaemon(t *testing.T) {
	t.Helper()
	pid := h.daemonPID(t.Context())
	if pid == 0 {
		t.Fatal("no daemon runs")
	}
	if err := errors.Join(syscall.Kill(pid, syscall.SIGKILL), gone(pid, time.Minute)); err != nil {
		t.Fatal(err)
	}
}

// gone waits until a process that is not our child has ended.
func gone(pid int, limit time.Duration) error {
	end := time.Now().Add(limit)
	for syscall.Kill(pid, 0) == nil {
		if state, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); bytes.Contains(state, []byte(") Z ")) {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("process %d is still there", pid)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil
}

// until polls until a condition is true. Only tests poll; the programs wait for events.
func until(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	limit *= patience(t)
	for end := time.Now().Add(limit); !ok(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s did not come true within %v", what, limit)
		}
	}
}

// patience is how many times longer things may take than on an idle machine:
// BANGER_TEST_PATIENCE, or 1.
func patience(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("BANGER_TEST_PATIENCE")
	if text == "" {
		return 1
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(n)
}

// bootTime bounds how long an init may take to start or stop everything, on a busy
// machine, too.
const bootTime = 10 * time.Minute

// booted waits until the VM's init has started everything, and checks that no unit has
// failed.
func (h *home) booted(t *testing.T, name string) {
	t.Helper()
	h.banger(t, "vm", "wait", "--for", "boot", "--timeout", bootTime.String(), name)
	if failed := h.sh(t, name, "systemctl --failed --no-legend --plain"); failed != "" {
		t.Errorf("failed units: %s", failed)
	}
}

// inGuest waits until a shell condition is true in the guest.
func (h *home) inGuest(t *testing.T, name, condition string) {
	t.Helper()
	h.banger(t, "vm", "exec", name, "--", "timeout", "600", "sh", "-c", "until "+condition+"; do sleep 1; done")
}

// ended waits until a VM has stopped by itself.
func (h *home) ended(t *testing.T, name string) banger.VM {
	t.Helper()
	h.banger(t, "vm", "wait", "--for", "stopped", "--timeout", bootTime.String(), name)
	return h.show(t, name)
}

// stopped stops a VM, checks that its guest shut down in time, and checks its disks.
func (h *home) stopped(t *testing.T, vm banger.VM) {
	t.Helper()
	h.banger(t, "vm", "stop", "--grace", bootTime.String(), vm.Name)
	ended(t, h.show(t, vm.Name), banger.EndedPoweroff, "")
	cleanVM(t, vm)
}

// ended checks how a VM has ended.
func ended(t *testing.T, vm banger.VM, want banger.Ending, detail string) {
	t.Helper()
	if vm.State != banger.Stopped || vm.Ending != want || !strings.Contains(vm.EndingBy, detail) || detail == "" && vm.EndingBy != "" {
		t.Errorf("it is %s, ended %s (%s), want %s (%s)", vm.State, vm.Ending, vm.EndingBy, want, detail)
		logTail(t, vm.Console) // the VM may boot twice more before the test ends
	}
}

func (h *home) bootID(t *testing.T, name string) string {
	t.Helper()
	return h.sh(t, name, "cat /proc/sys/kernel/random/boot_id")
}

// clean checks that a disk was unmounted: it has no journal to replay and no errors.
func clean(t *testing.T, disk string) {
	t.Helper()
	out, err := exec.Command("/usr/sbin/dumpe2fs", "-h", disk).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "Filesystem state:         clean") || strings.Contains(string(out), "needs_recovery") {
		t.Errorf("%s is not clean: %v\n%s", disk, err, out)
	}
	if out, err := exec.Command("/usr/sbin/e2fsck", "-fn", disk).CombinedOutput(); err != nil {
		t.Errorf("e2fsck %s: %v\n%s", disk, err, out)
	}
}

func cleanVM(t *testing.T, vm banger.VM) {
	t.Helper()
	dir := config.VMDir(vm.Dir)
	if locked, err := vmm.Locked(dir.Lock()); err != nil || locked {
		t.Fatalf("the VM is locked: %v, %v", locked, err)
	}
	clean(t, dir.Overlay())
	clean(t, dir.Work())
}
