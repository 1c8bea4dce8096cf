package namespace

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/network"
)

// The stand-in for the real work marks a namespace by its loopback link, which is down in
// a new one: applying takes it up. Some instances fail.
func TestMain(m *testing.M) {
	RunRole(Work{Uplink: uplink, Lock: lock,
		Apply: func(_ context.Context, w network.Wanted) (any, error) {
			return map[string]network.Instance{"of": w.Instance}, apply(w)
		},
		Counters: func(i network.Instance) (any, error) { return []network.Instance{i, i}, nil }})
	if limit := os.Getenv(limitEnv); limit != "" {
		tryLimited(limit)
	}
	if os.Getenv(parentEnv) != "" {
		applies()
	}
	os.Exit(m.Run())
}

const (
	failing  = network.Instance("00000001")
	hanging  = network.Instance("00000002")
	flooding = network.Instance("00000003")
	dying    = network.Instance("00000004")
	greedy   = network.Instance("00000005")
	fragile  = network.Instance("00000006") // dies the first time in a directory
)

// Files in the directory of a process whose child has to wait.
const (
	lockFile = "lock"
	asksFile = "asks" // a pipe, which the child holds from when it asks for the lock
	didFile  = "did"  // what apply has done
)

// lock is nobody's, except in a directory with a file for it.
func lock(context.Context) (func(), error) {
	file, err := os.Open(lockFile)
	if errors.Is(err, fs.ErrNotExist) {
		return func() {}, nil
	}
	if err != nil {
		return nil, err
	}
	asks, err := os.OpenFile(asksFile, os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	if _, err := asks.WriteString("asks\n"); err != nil {
		return nil, err
	}
	return func() { file.Close(); asks.Close() }, unix.Flock(int(file.Fd()), unix.LOCK_EX)
}

// parentEnv makes the test binary a process that applies, which may be killed.
const parentEnv = "BANGER_TEST_PARENT"

func applies() {
	if _, err := Run(context.Background(), nil, Request{Apply: wanted("aaaaaaaa")}); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

func apply(w network.Wanted) error {
	switch w.Instance {
	case failing:
		return &banger.Error{Kind: banger.Conflict, What: "make the bridge", Why: os.NewSyscallError("netlink", syscall.EBUSY), Fix: "banger doctor"}
	case hanging:
		time.Sleep(time.Hour)
	case flooding:
		for {
			if _, err := os.Stdout.Write(make([]byte, 4096)); err != nil {
				return err
			}
		}
	case dying:
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case fragile:
		if os.Mkdir(didFile, 0o700) == nil {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
	case greedy:
		null, err := os.Open(os.DevNull)
		return errors.Join(err, hand(handsUplink, null, null, null))
	}
	if _, err := os.Stat(lockFile); err == nil {
		return os.WriteFile(didFile, nil, 0o600)
	}
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	return unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, lo)
}

// uplink hands out a file that says whether the loopback link is up where it was asked.
func uplink(i network.Instance) (*os.File, error) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		return nil, err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(write, "%s %v %d", i, lo.Flags&net.FlagUp != 0, os.Getuid())
	return read, write.Close()
}

// needed skips a test where a plain user has no namespaces.
func needed(t *testing.T) {
	t.Helper()
	ns, _, err := Make(t.Context(), Request{})
	if err != nil {
		t.Skipf("no user namespaces here: %v; fix: %s", err, banger.FixOf(err))
	}
	ns.Close()
}

func wanted(i network.Instance) *network.Wanted {
	return &network.Wanted{Instance: i, Mode: network.Usernet, Subnet: netip.MustParsePrefix("10.201.0.0/20")}
}

func create(t *testing.T, request Request) *network.Namespace {
	t.Helper()
	ns, got, err := Make(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	if got.Uplink != nil {
		got.Uplink.Close()
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

func ask(t *testing.T, ns *network.Namespace, i network.Instance) string {
	t.Helper()
	got, err := Run(t.Context(), ns, Request{Uplink: i, Counters: i})
	if err != nil {
		t.Fatal(err)
	}
	defer got.Uplink.Close()
	if want := fmt.Sprintf(`["%s","%[1]s"]`, i); string(got.Counters) != want || got.Applied != nil {
		t.Errorf("counters %s, applied %s", got.Counters, got.Applied)
	}
	said, err := io.ReadAll(got.Uplink)
	if err != nil {
		t.Fatal(err)
	}
	return string(said)
}

func TestMakeAndEnter(t *testing.T) {
	needed(t)
	before := descriptors(t)
	up, down := create(t, Request{Apply: wanted("aaaaaaaa"), Uplink: "aaaaaaaa"}), create(t, Request{})
	if got := ask(t, up, "bbbbbbbb"); got != "bbbbbbbb true 0" {
		t.Errorf("applied at first, entered: %q", got)
	}
	if got := ask(t, down, "bbbbbbbb"); got != "bbbbbbbb false 0" {
		t.Errorf("never applied: %q", got)
	}
	if got, err := Run(t.Context(), down, Request{Apply: wanted("aaaaaaaa")}); err != nil || string(got.Applied) != `{"of":"aaaaaaaa"}` {
		t.Fatalf("%s, %v", got.Applied, err)
	}
	if got := ask(t, down, "cccccccc"); got != "cccccccc true 0" {
		t.Errorf("applied later: %q", got)
	}
	if got, want := ask(t, nil, "dddddddd"), fmt.Sprintf("dddddddd true %d", os.Getuid()); got != want {
		t.Errorf("in no namespace: %q, want %q", got, want)
	}
	up.Close()
	down.Close()
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors are open, before %d", after, before)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(open)
}

// What goes wrong in the child is told as it was there, and leaves no descriptor.
func TestErrorsOfTheChild(t *testing.T) {
	needed(t)
	before := descriptors(t)
	_, _, err := Make(t.Context(), Request{Apply: wanted(failing)})
	if e := (*banger.Error)(nil); !errors.As(err, &e) || e.Kind != banger.Conflict || e.Fix != "banger doctor" ||
		err.Error() != "make the bridge: netlink: device or resource busy" || !errors.Is(err, syscall.EBUSY) {
		t.Errorf("got %#v", err)
	}
	for i, want := range map[network.Instance]string{dying: "signal: killed", flooding: "prints too much", greedy: "handed out 3 descriptors"} {
		if _, err := Run(t.Context(), nil, Request{Apply: wanted(i)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", i, err, want)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := Run(ctx, nil, Request{Apply: wanted(hanging)}); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 4*time.Second {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors are open, before %d", after, before)
	}
}

// A child that somebody kills is started again, once.
func TestKilledChildIsRepeated(t *testing.T) {
	needed(t)
	t.Chdir(t.TempDir())
	ns := create(t, Request{})
	got, err := Run(t.Context(), ns, Request{Apply: wanted(fragile), Uplink: "bbbbbbbb"})
	if err != nil {
		t.Fatal(err)
	}
	got.Uplink.Close()
	if err := os.Remove(didFile); err != nil {
		t.Error(err)
	}
	another, _, err := Make(t.Context(), Request{Apply: wanted(fragile)})
	if err != nil {
		t.Fatal(err)
	}
	another.Close()
}

// A child whose parent was killed while it waited for its turn changes nothing: the next
// daemon's child may have had its turn already.
func TestOrphanDoesNothing(t *testing.T) {
	for name, kill := range map[string]bool{"orphan": true, "child": false} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			held, err := os.Create(lockFile)
			if err == nil {
				err = errors.Join(unix.Flock(int(held.Fd()), unix.LOCK_EX), unix.Mkfifo(asksFile, 0o600))
			}
			if err != nil {
				t.Fatal(err)
			}
			parent := exec.Command("/proc/self/exe")
			parent.Env = append(os.Environ(), parentEnv+"=1")
			if err := parent.Start(); err != nil {
				t.Fatal(err)
			}
			asks, err := os.Open(asksFile)
			if err != nil {
				t.Fatal(err)
			}
			defer asks.Close()
			if _, err := io.ReadFull(asks, make([]byte, len("asks\n"))); err != nil {
				t.Fatal(err)
			}
			if kill {
				parent.Process.Kill()
				parent.Wait()
			}
			held.Close()
			if _, err := io.ReadAll(asks); err != nil { // to the child's end
				t.Fatal(err)
			}
			if !kill {
				if err := parent.Wait(); err != nil {
					t.Error(err)
				}
			}
			if _, err := os.Stat(didFile); errors.Is(err, fs.ErrNotExist) != kill {
				t.Errorf("what it did: %v", err)
			}
		})
	}
}

// inside starts a command in a namespace, as a VMM is.
func inside(t *testing.T, ns *network.Namespace, command ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("nsenter", ns.Enter(command...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// A namespace lives as long as a process inside, and is found again through it.
func TestOf(t *testing.T) {
	needed(t)
	ns := create(t, Request{Apply: wanted("aaaaaaaa")})
	vmm := inside(t, ns, "sh", "-c", "echo runs; exec sleep 60")
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", vmm.Process.Pid))
	if err != nil || len(links) < 3 {
		t.Errorf("its descriptors: %v, %v", links, err)
	}
	for _, link := range links {
		if open, err := os.Readlink(link); err != nil || strings.Contains(open, ":[") && !strings.HasPrefix(open, "pipe") {
			t.Errorf("it has %s open, %v", open, err)
		}
	}
	ns.Close()
	found, err := Of(vmm.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer found.Close()
	if got := ask(t, found, "bbbbbbbb"); got != "bbbbbbbb true 0" {
		t.Errorf("found again: %q", got)
	}
	for name, pid := range map[string]int{"this process": os.Getpid(), "a namespace below": inside(t, found, "unshare", "--user", "--net", "sh", "-c", "echo runs; exec sleep 60").Process.Pid,
		"a network below": inside(t, found, "unshare", "--net", "sh", "-c", "echo runs; exec sleep 60").Process.Pid} {
		got, err := Of(pid)
		if name == "a network below" { // which the same user namespace owns
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			got.Close()
		} else if !errors.Is(err, ErrForeign) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	vmm.Process.Kill()
	vmm.Wait()
	if _, err := Of(vmm.Process.Pid); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after its end: %v", err)
	}
}

// Killing whoever makes a namespace, at any moment, leaves none.
func TestKilled(t *testing.T) {
	needed(t)
	for delay := range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(delay)*time.Millisecond)
		ns, _, err := Make(ctx, Request{Apply: wanted("aaaaaaaa")})
		cancel()
		if err == nil {
			ns.Close()
		} else if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after %d ms: %v", delay, err)
		}
	}
	children, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range children {
		if pids, _ := os.ReadFile(file); len(pids) > 0 {
			t.Errorf("processes %s are left", pids)
		}
	}
}

func TestCheck(t *testing.T) {
	if err := CheckDevice(false); err != nil {
		t.Skipf("%v; fix: %s", err, banger.FixOf(err))
	}
	needed(t)
	start := time.Now()
	if err := Check(t.Context()); err != nil {
		t.Errorf("%v (fix: %s)", err, banger.FixOf(err))
	}
	t.Logf("checked in %v", time.Since(start))
}

func TestExplain(t *testing.T) {
	open := map[string]string{userLimit: "96365", netLimit: "96365"}
	with := func(name, value string) map[string]string {
		return map[string]string{userLimit: open[userLimit], netLimit: open[netLimit], name: value}
	}
	for _, test := range []struct {
		name     string
		err      error
		switches map[string]string
		why, fix string
	}{
		{"no user namespaces", syscall.ENOSPC, with(userLimit, "0"), "max_user_namespaces is 0", "user.max_user_namespaces=15000"},
		{"no network namespaces", syscall.ENOSPC, with(netLimit, "0"), "max_net_namespaces is 0", "user.max_net_namespaces=15000"},
		{"too many", syscall.ENOSPC, open, "as many namespaces as the host allows (user.max_user_namespaces is 96365", "end programs"},
		{"Debian's switch", syscall.EPERM, with(userClone, "0"), "only root", "kernel.unprivileged_userns_clone=1"},
		{"container", syscall.EPERM, open, "in most containers", "seccomp=unconfined"},
		{"container beside switches that allow it", syscall.EPERM, with(userClone, "1"), "in most containers", "seccomp=unconfined"},
		{"AppArmor at exec", syscall.EACCES, with(appArmor, "1"), "AppArmor", `profile banger.usr.bin.bangerd "/usr/bin/bangerd" flags=(unconfined) { userns, }`},
		{"AppArmor inside", syscall.EPERM, with(appArmor, "1"), "AppArmor", "sudo apparmor_parser -r /etc/apparmor.d/banger.usr.bin.bangerd"},
		{"AppArmor that is not why", syscall.EACCES, with(appArmor, "0"), "most containers", "seccomp=unconfined"},
		{"no such kernel", syscall.EINVAL, open, "no user namespaces", "CONFIG_USER_NS"},
		{"something else", io.ErrUnexpectedEOF, open, "unexpected EOF", ""},
		{"explained already", unready(syscall.EPERM, "do that"), open, "operation not permitted", "do that"},
	} {
		err := host{test.switches, "/usr/bin/bangerd"}.explain(&fs.PathError{Op: "fork/exec", Path: "/proc/self/exe", Err: test.err})
		if test.name == "explained already" {
			err = host{test.switches, ""}.explain(test.err)
		}
		if !strings.Contains(err.Error(), test.why) || !strings.Contains(banger.FixOf(err), test.fix) || test.fix != "" && banger.KindOf(err) != banger.Unready {
			t.Errorf("%s: %v (fix: %s)", test.name, err, banger.FixOf(err))
		}
	}
	for errno, want := range map[syscall.Errno]string{syscall.EACCES: "chmod 666 /dev/net/tun", syscall.EPERM: "--device", syscall.ENOENT: "modprobe tun", syscall.ENODEV: "modprobe tun"} {
		if err := explainDevice(&fs.PathError{Op: "open", Path: device, Err: errno}); !strings.Contains(banger.FixOf(err), want) {
			t.Errorf("%v: %v (fix: %s)", errno, err, banger.FixOf(err))
		}
	}
}

// The words of nsenter have the error of the system call.
func TestErrorOfNsenter(t *testing.T) {
	for said, want := range map[string]error{"nsenter: reassociate to namespace 'ns/user' failed: Operation not permitted": syscall.EPERM,
		"nsenter: cannot open /proc/7/fd/3: Permission denied": syscall.EACCES} {
		if err := errorOfNsenter(said); !errors.Is(err, want) || err.Error() != said {
			t.Errorf("got %v", err)
		}
	}
}

// limitEnv makes the test binary set a switch to 0 in its namespace, and then try there.
const limitEnv = "BANGER_TEST_LIMIT"

func tryLimited(limit string) {
	err := os.WriteFile(limit, []byte("0"), 0)
	if err == nil {
		_, _, err = Make(context.Background(), Request{})
	}
	fmt.Printf("%v; fix: %s\n", err, banger.FixOf(err))
	os.Exit(0)
}

// A limit that forbids namespaces is found out by trying.
func TestLimits(t *testing.T) {
	needed(t)
	for limit, want := range map[string]string{userLimit: "no user namespaces (user.max_user_namespaces is 0)", netLimit: "no network namespaces (user.max_net_namespaces is 0)"} {
		ns := create(t, Request{}) // its limits are its own
		cmd := exec.Command("nsenter", ns.Enter(os.Args[0])...)
		cmd.Env = append(os.Environ(), limitEnv+"="+limit)
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), want) || !strings.Contains(string(out), "sudo sysctl -p") {
			t.Errorf("%s: %s, %v", limit, out, err)
		}
	}
}

// FuzzAnswer: whatever a child prints is an error or none.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"kind":"conflict","what":"a","why":"x","fix":"f","errno":16}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := parseAnswer(data); err != nil && err.Error() == "" {
			t.Error("an error without words")
		}
	})
}
