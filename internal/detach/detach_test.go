package detach

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
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
	blocked := unix.Sigset_t{Val: [16]uint64{1<<(unix.SIGTERM-1) | 1<<(unix.SIGUSR2-1)}}
	return errors.Join(
		unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_BATCH, Nice: 7}, 0),
		unix.SchedSetaffinity(0, &one),
		os.WriteFile("/proc/self/oom_score_adj", []byte("500"), 0),
		unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0),
		unix.Prctl(unix.PR_SET_TIMERSLACK, 1_000_000_000, 0, 0, 0),
		unix.PthreadSigmask(unix.SIG_SETMASK, &blocked, nil))
}

// tell prints what a child of this process has inherited, by file of /proc.
func tell() error {
	told := map[string]string{}
	for _, name := range []string{"limits", "status", "stat", "environ", "oom_score_adj", "personality"} {
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
		{"policy", stat[40], "0"},
		{"I/O class", got["ionice"], "0"},
		{"out of memory", got["oom_score_adj"], "0\n"},
		{"personality", got["personality"], "00000000\n"},
	} {
		if test.got != test.want {
			t.Errorf("%s: %q, want %q", test.name, test.got, test.want)
		}
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
	if want := []string{"HOME=/h", "PATH=/bin", "BANGER_DRIVER=qemu"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// What a plain user cannot reset is reported.
func TestProblems(t *testing.T) {
	const script = "ulimit -f 1000; ulimit -t 5000; ulimit -d 10000000; echo 700 >/proc/$$/oom_score_adj; exec nice -n 5 chrt --batch 0 cat"
	cmd := exec.Command("sh", "-c", script)
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	fmt.Fprintln(in, "cat runs when this comes back")
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	problems, err := Problems(cmd.Process.Pid)
	var got []string
	for _, problem := range problems {
		if problem.Fix == "" {
			t.Errorf("%s: no fix", problem.What)
		}
		got = append(got, problem.What)
	}
	for _, want := range []string{"niceness 5", "scheduling policy 3", "oom_score_adj is 700", "512000 bytes", "10240000000 bytes of memory", "5000 seconds"} {
		if err != nil || !strings.Contains(strings.Join(got, "\n"), want) {
			t.Errorf("no %q in %q, %v", want, got, err)
		}
	}
	if len(got) != 6 {
		t.Errorf("got %q", got)
	}
}
