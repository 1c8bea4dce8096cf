package detach

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// stageEnv says which of the processes of TestExec the test binary is.
const stageEnv = "BANGER_TEST_STAGE"

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(stageEnv) {
	case "":
		os.Exit(m.Run())
	case "hostile":
		runtime.LockOSThread()
		err = errors.Join(spoil(), os.Setenv(stageEnv, "detach"), syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), "LD_LIBRARY_PATH=/nowhere")))
	case "detach":
		os.Setenv(stageEnv, "tell")
		err = Exec(os.Args, Environ(os.Environ()))
	case "tell":
		err = tell()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// spoil has this thread and process inherit all that a shell can hand on.
func spoil() error {
	for resource, soft := range map[int]uint64{unix.RLIMIT_FSIZE: 4096, unix.RLIMIT_NOFILE: 64, unix.RLIMIT_CPU: 1000,
		unix.RLIMIT_DATA: 1 << 40, unix.RLIMIT_CORE: 1 << 20, unix.RLIMIT_STACK: 1 << 20, unix.RLIMIT_MEMLOCK: 1 << 12} {
		var limit syscall.Rlimit
		if err := syscall.Getrlimit(resource, &limit); err != nil {
			return err
		}
		limit.Cur = min(soft, limit.Max)
		if mayRaiseLimits() && slices.Contains([]int{unix.RLIMIT_NOFILE, unix.RLIMIT_MEMLOCK, unix.RLIMIT_FSIZE}, resource) {
			limit.Max = limit.Cur // as ulimit does
		}
		if err := syscall.Setrlimit(resource, &limit); err != nil {
			return err
		}
	}
	unix.Umask(0)
	const idle = 3 << 13
	unix.RawSyscall(unix.SYS_IOPRIO_SET, 1, 0, idle)
	var one unix.CPUSet
	one.Set(0)
	const fixedAddresses = 0x0040000
	unix.RawSyscall(unix.SYS_PERSONALITY, fixedAddresses, 0, 0)
	ignore := [4]uint64{1}
	for _, signal := range []unix.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGUSR1, unix.SIGXFSZ, unix.SIGCHLD} {
		unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(signal), uintptr(unsafe.Pointer(&ignore)), 0, 8, 0, 0)
	}
	unix.KeyctlJoinSessionKeyring("of-a-shell")
	blocked := unix.Sigset_t{Val: [16]uint64{1<<(unix.SIGTERM-1) | 1<<(unix.SIGUSR2-1)}}
	return errors.Join(
		unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_BATCH, Nice: 7}, 0),
		unix.SchedSetaffinity(0, &one),
		os.WriteFile("/proc/self/oom_score_adj", []byte("500"), 0),
		unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0),
		unix.Prctl(unix.PR_SET_TIMERSLACK, 1_000_000_000, 0, 0, 0),
		slowdown(),
		inherit(unix.CAP_NET_RAW),
		unix.PthreadSigmask(unix.SIG_SETMASK, &blocked, nil))
}

// slowdown switches off a kind of speculation, if this CPU and kernel allow that.
func slowdown() error {
	err := unix.Prctl(unix.PR_SET_SPECULATION_CTRL, unix.PR_SPEC_STORE_BYPASS, unix.PR_SPEC_DISABLE, 0, 0)
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}

// mayRaiseLimits reports whether this process may raise a hard limit: the root of a
// container may not.
func mayRaiseLimits() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	return unix.Capget(&header, &sets[0]) == nil && sets[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}

// inherit hands on a capability if this process has it.
func inherit(capability uintptr) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil || sets[0].Permitted&(1<<capability) == 0 {
		return err
	}
	sets[0].Inheritable |= 1 << capability
	return errors.Join(unix.Capset(&header, &sets[0]), unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, capability, 0, 0),
		unix.Prctl(unix.PR_SET_SECUREBITS, 1<<5, 0, 0, 0)) // SECBIT_NO_CAP_AMBIENT_RAISE
}

// tell prints what a child of this process has inherited, by file of /proc.
func tell() error {
	told := map[string]string{}
	for _, name := range []string{"limits", "status", "stat", "environ", "oom_score_adj", "personality", "timerslack_ns"} {
		text, err := exec.Command("cat", "/proc/self/"+name).Output()
		if err != nil {
			return err
		}
		told[name] = string(text)
	}
	ionice, _, errno := unix.RawSyscall(unix.SYS_IOPRIO_GET, 1, 0, 0)
	if errno != 0 {
		return errno
	}
	told["ionice"] = strconv.Itoa(int(ionice >> 13))
	told["keyring"], _ = unix.KeyctlString(unix.KEYCTL_DESCRIBE, unix.KEY_SPEC_SESSION_KEYRING) // a container may have none
	return json.NewEncoder(os.Stdout).Encode(told)
}

// inherited returns what a process tells that the stage leads to.
func inherited(t *testing.T, stage string) map[string]string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), stageEnv+"="+stage, "LANG=xx", "SECRET=of-a-shell")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var told map[string]string
	if err := json.Unmarshal(out, &told); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return told
}

func field(t *testing.T, text, pattern string) string {
	t.Helper()
	found := regexp.MustCompile("(?m)" + pattern).FindStringSubmatch(text)
	if found == nil {
		t.Fatalf("no %s in:\n%s", pattern, text)
	}
	return found[1]
}

// A child of a process that has called Exec inherits nothing of the shell.
func TestExec(t *testing.T) {
	usual, got := inherited(t, "tell"), inherited(t, "hostile")
	for _, name := range []string{"Max cpu time", "Max file size", "Max data size", "Max open files", "Max locked memory", "Max address space", "Max processes"} {
		soft, hard := field(t, got["limits"], name+` +(\S+)`), field(t, got["limits"], name+` +\S+ +(\S+)`)
		if soft != hard {
			t.Errorf("%s: %s, and the hard limit is %s", name, soft, hard)
		}
	}
	stat := strings.Fields(got["stat"])
	for _, test := range []struct{ name, got, want string }{
		{"stack", field(t, got["limits"], `Max stack size +(\d+)`), strconv.Itoa(stackSize)},
		{"core", field(t, got["limits"], `Max core file size +(\d+)`), "0"},
		{"umask", field(t, got["status"], `^Umask:\t(\d+)`), "0077"},
		{"blocked signals", field(t, got["status"], `^SigBlk:\t(\S+)`), "0000000000000000"},
		{"ignored signals", field(t, got["status"], `^SigIgn:\t(\S+)`), "0000000000000000"},
		{"CPUs", field(t, got["status"], `^Cpus_allowed_list:\t(\S+)`), field(t, usual["status"], `^Cpus_allowed_list:\t(\S+)`)},
		{"huge pages", field(t, got["status"], `^THP_enabled:\t(\d)`), "1"},
		{"speculation", field(t, got["status"], `^Speculation_Store_Bypass:\t(.*)$`), field(t, usual["status"], `^Speculation_Store_Bypass:\t(.*)$`)},
		{"policy", stat[40], "0"},
		{"I/O class", got["ionice"], "0"},
		{"out of memory", got["oom_score_adj"], "0\n"},
		{"personality", got["personality"], "00000000\n"},
		{"timer slack", got["timerslack_ns"], "50000\n"},
		{"inheritable capabilities", field(t, got["status"], `^CapInh:\t(\S+)`), "0000000000000000"},
		{"ambient capabilities", field(t, got["status"], `^CapAmb:\t(\S+)`), "0000000000000000"},
		{"capabilities", field(t, got["status"], `^CapEff:\t(\S+)`), field(t, usual["status"], `^CapEff:\t(\S+)`)},
	} {
		if test.got != test.want {
			t.Errorf("%s: %q, want %q", test.name, test.got, test.want)
		}
	}
	if strings.HasSuffix(got["keyring"], ";of-a-shell") {
		t.Errorf("it has the keyring %s", got["keyring"])
	}
	if files, _ := strconv.Atoi(field(t, got["limits"], `Max open files +(\d+)`)); mayRaiseLimits() && files < mostFiles {
		t.Errorf("VMs may open %d files", files)
	}
	if nice := stat[18]; nice != "0" && os.Geteuid() == 0 { // a plain user may not
		t.Errorf("niceness %s", nice)
	}
	for entry := range strings.SplitSeq(got["environ"], "\x00") {
		for _, stranger := range []string{"LANG=", "SECRET=", "LD_LIBRARY_PATH="} {
			if strings.HasPrefix(entry, stranger) {
				t.Errorf("it got %s", entry)
			}
		}
	}
}

func TestEnviron(t *testing.T) {
	got := Environ([]string{"HOME=/h", "LD_PRELOAD=x", "PATH=/bin", "BANGER_DRIVER=qemu", "TMPDIR=/gone", "HOMEX=1", "LC_ALL=de_DE"})
	const system = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	if want := []string{"HOME=/h", "BANGER_DRIVER=qemu", system}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for shell, want := range map[string]string{
		"":       system, // as after env -i
		"PATH=":  system,
		"PATH=.": system,
		"PATH=/opt/conda/bin:bin::/usr/bin:/nix/bin": system + ":/opt/conda/bin:/nix/bin",
	} {
		if got := Environ([]string{shell}); !slices.Equal(got, []string{want}) {
			t.Errorf("with %q: got %q", shell, got)
		}
	}
}

// A control group may limit a daemon; a slice is nobody's own.
func TestGroupLimits(t *testing.T) {
	root := t.TempDir()
	for file, limit := range map[string]string{
		"user.slice/pids.max": "100\n", "user.slice/app.scope/memory.max": "1073741824\n", "user.slice/app.scope/cpu.max": "max 100000\n",
		"user.slice/app.scope/inner/pids.max": "20\n", "user.slice/app.scope/inner/cpuset.cpus": "\n",
	} {
		err := errors.Join(os.MkdirAll(root+"/"+filepath.Dir(file), 0o700), os.WriteFile(root+"/"+file, []byte(limit), 0o600))
		if err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, problem := range groupLimits(root, "12:pids:/elsewhere\n0::/user.slice/app.scope/inner\n") {
		got = append(got, problem.What)
	}
	want := []string{"the control group /user.slice/app.scope/inner limits the daemon: pids.max is 20",
		"the control group /user.slice/app.scope limits the daemon: memory.max is 1073741824"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A daemon in a sandbox is told from one that this shell would start.
func TestConfinement(t *testing.T) {
	if _, err := exec.LookPath("unshare"); err != nil {
		t.Skip("unshare is missing: apt-get install util-linux")
	}
	proc := started(t, "unshare", "--user", "--map-root-user", "--mount", "--uts", "--time", "--cgroup", "setpriv", "--no-new-privs", "cat")
	problems, err := Problems(proc)
	var got []string
	for _, problem := range problems {
		got = append(got, problem.What)
	}
	for _, want := range []string{"no_new_privs", "its ns/mnt is", "its ns/user is", "its ns/uts is", "its ns/time is", "its ns/cgroup is"} {
		if err != nil || !strings.Contains(strings.Join(got, "\n"), want) {
			t.Errorf("no %q in %q, %v", want, got, err)
		}
	}
	own, err := Problems(os.Getpid())
	for _, problem := range own {
		if strings.Contains(problem.What, "another place") || err != nil {
			t.Errorf("of this process itself: %s, %v", problem.What, err)
		}
	}
}

// What a shell sets of banger's reaches every VM: it is told in any other shell.
func TestSettings(t *testing.T) {
	var got []string
	for _, problem := range settings([]string{"BANGER_NETWORK=none", "BANGER_DRIVER=qemu", "HOME=/h", "BANGER_LOG_LEVEL="}, []string{"BANGER_DRIVER=auto", "BANGER_LOG_LEVEL=", "TERM=x", ""}) {
		got = append(got, problem.What)
	}
	want := []string{"the daemon has BANGER_NETWORK=none from the shell that started it", "the daemon has BANGER_DRIVER=qemu from the shell that started it", "the daemon was started without BANGER_DRIVER=auto"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// started runs a command that copies its input, and returns its pid once it does.
func started(t *testing.T, argv ...string) (pid int) {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	fmt.Fprintln(in, "it runs when this comes back")
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

// own returns this process's niceness.
func own() int {
	nice, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		return 0
	}
	return 20 - nice // the system call counts from 40 down
}

// What a plain user cannot reset is reported.
func TestProblems(t *testing.T) {
	const script = "ulimit -f 1000; ulimit -t 5000; ulimit -d 10000000; ulimit -n 100; echo 700 >/proc/$$/oom_score_adj; exec nice -n 5 chrt --batch 0 cat"
	problems, err := Problems(started(t, "sh", "-c", script))
	var got []string
	for _, problem := range problems {
		if problem.Fix == "" {
			t.Errorf("%s: no fix", problem.What)
		}
		got = append(got, problem.What)
	}
	for _, want := range []string{fmt.Sprintf("niceness %d", min(19, own()+5)), "scheduling policy 3", "oom_score_adj is 700", "512000 bytes", "10240000000 bytes of memory", "5000 seconds", "more than 100 files"} {
		if err != nil || !strings.Contains(strings.Join(got, "\n"), want) {
			t.Errorf("no %q in %q, %v", want, got, err)
		}
	}
	if len(got) != 7 {
		t.Errorf("got %q", got)
	}
}
