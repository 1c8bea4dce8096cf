package script

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"banger"
	"banger/internal/api"
	"banger/internal/vmm"
)

// unspoiled matches the files in /proc of a process that has inherited nothing from a
// hostile shell.
var unspoiled = []struct{ file, pattern string }{
	{"limits", `Max file size +unlimited `},
	{"limits", `Max cpu time +unlimited `},
	{"limits", `Max core file size +0 `},
	{"limits", `Max stack size +8388608 `},
	{"limits", `Max open files +\d{4,} `},
	{"status", `(?m)^CapInh:\t0{16}$`},
	{"status", `(?m)^CapAmb:\t0{16}$`},
	{"status", `(?m)^Cpus_allowed_list:\t` + allowedCPUs() + `$`},
	{"timerslack_ns", `^50000\n$`},
	{"status", `(?m)^Umask:\t0077$`},
	{"status", `(?m)^SigIgn:\t0{9}[01]0{6}$`}, // the fake VMM ignores SIGXFSZ itself
	{"stat", `\) \S( \S+){15} 0 `},            // niceness
	{"stat", `\) \S( \S+){3} 0 `},             // no terminal
	{"stat", `\) \S( \S+){37} 0 `},            // usual scheduling
	{"oom_score_adj", `^0\n$`},
}

// allowedCPUs returns the CPUs on which this process may run.
func allowedCPUs() string {
	status, _ := os.ReadFile("/proc/self/status")
	_, rest, _ := strings.Cut(string(status), "\nCpus_allowed_list:\t")
	cpus, _, _ := strings.Cut(rest, "\n")
	return cpus
}

// free checks the daemon and the VMM of each VM: free VM...
func free(ts *testscript.TestScript, neg bool, vms []string) {
	if neg {
		ts.Fatalf("usage: free VM...")
	}
	record, err := api.ReadRecord(dirsOf(ts).DaemonLock())
	ts.Check(err)
	pids := map[string]int{"the daemon": record.PID}
	locks, err := os.ReadDir(dirsOf(ts).VMs())
	ts.Check(err)
	for _, entry := range locks {
		pid, err := vmm.Holder(dirsOf(ts).VM(banger.VMID(entry.Name())).Lock())
		ts.Check(err)
		pids["the VMM "+entry.Name()] = pid
	}
	if len(pids) < 2 {
		ts.Fatalf("no VM runs")
	}
	for who, pid := range pids {
		if !anyThread(ts, pid, "\nSigBlk:\t0000000000000000\n") { // Go blocks signals in one of its own
			ts.Fatalf("%s blocks signals", who)
		}
		for _, want := range unspoiled {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, want.file))
			ts.Check(err)
			if os.Geteuid() != 0 && strings.Contains(want.pattern, "{15}") {
				continue // a plain user cannot lower a niceness
			}
			if !regexp.MustCompile(want.pattern).Match(text) {
				ts.Logf("%s: no %s in\n%s", who, want.pattern, text)
				ts.Fatalf("%s has it from the shell", who)
			}
		}
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		ts.Check(err)
		if entries := strings.Split(string(env), "\x00"); slices.ContainsFunc(entries, func(e string) bool {
			return strings.HasPrefix(e, "SECRET=") || strings.HasPrefix(e, "LANG=") || strings.HasPrefix(e, "TMPDIR=")
		}) {
			ts.Fatalf("%s has the environment %q", who, entries)
		}
		dir, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
		ts.Check(err)
		if dir == ts.Getenv("WORK") {
			ts.Fatalf("%s keeps the shell's directory", who)
		}
	}
}

// anyThread reports whether the status of a thread of the process has the text.
func anyThread(ts *testscript.TestScript, pid int, text string) bool {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	ts.Check(err)
	return slices.ContainsFunc(threads, func(path string) bool {
		status, err := os.ReadFile(path)
		return err == nil && strings.Contains(string(status), text)
	})
}
