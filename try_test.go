package banger_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// stubs stand in for what scripts/try.sh calls: a host on which packages can be
// missing, and a banger whose one VM is a directory.
var stubs = map[string]string{
	"bin/make": `echo "made $2" >>"$LOG"; mkdir -p runtime
[ "$2" != runtime-bundle ] || { [ ! -e unreachable ] && touch runtime/firecracker; }`,
	"bin/go":   `echo "${GO_IS:-go1.26.8}"`,
	"bin/sudo": `exec "$@"`,
	"bin/apt-get": `echo "apt-get $*" >>"$LOG"
case $1 in install) rm -f lacks ;; esac`,
	"banger": `[ "$1" != -v ] || shift
case "$*" in
"doctor --preflight") [ ! -e lacks ] || { echo "missing QEMU"; exit 5; } ;;
"doctor --preflight --packages") [ ! -e lacks ] || { cat lacks; exit 5; } ;;
"doctor") [ ! -e kvm ] || [ -e runtime/firecracker ] || { echo "warn: Firecracker"; echo "  make runtime-bundle, or else"; exit 5; }
	echo "Ready, with 1 warning: VMs will be slow" ;;
"vm list") [ ! -e vm ] || echo "first-otter $(cat vm/state)" ;;
"vm create --name first-otter") echo created >>"$LOG"; mkdir vm; echo running >vm/state; echo 1 >vm/boot ;;
"vm start first-otter") echo started >>"$LOG"; echo running >vm/state ;;
"vm restart --wait boot first-otter") echo $(($(cat vm/boot) + 1)) >vm/boot ;;
*"cat /proc/sys/kernel/random/boot_id") cat vm/boot ;;
*"sh -c "*) for last; do :; done; echo "$last" >vm/proof; cp vm/proof vm/etc ;;
*"cat /root/proof /etc/banger-proof") cat vm/proof vm/etc ;;
*"cat /root/proof") cat vm/proof ;;
*"cat /etc/banger-proof") [ -z "${FORGETFUL:-}" ] && cat vm/etc ;;
*"uname -a") echo "Linux first-otter" ;;
*"cat /etc/os-release") echo "ID=debian" ;;
*) echo "stub: $*" >&2; exit 99 ;;
esac`,
}

// model is a tree with the real script and the stubs.
type model struct {
	t   *testing.T
	dir string
}

func newModel(t *testing.T) model {
	t.Helper()
	m := model{t, t.TempDir()}
	script, err := os.ReadFile("scripts/try.sh")
	if err != nil {
		t.Fatal(err)
	}
	m.write("scripts/try.sh", string(script))
	for name, text := range stubs {
		m.write(name, "#!/bin/sh\n"+text+"\n")
	}
	return m
}

func (m model) write(name, text string) {
	m.t.Helper()
	path := filepath.Join(m.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		m.t.Fatal(err)
	}
}

// try runs the script without a terminal and returns what it printed, its exit
// code, and what it made the stubs do.
func (m model) try(env ...string) (out string, code int, did string) {
	m.t.Helper()
	log := filepath.Join(m.dir, "log")
	os.Remove(log)
	cmd := exec.Command("sh", "scripts/try.sh")
	cmd.Dir = m.dir
	cmd.Env = append([]string{"ANYWAY=1", "LOG=" + log, "PATH=" + filepath.Join(m.dir, "bin") + ":/usr/bin:/bin"}, env...)
	text, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		m.t.Fatal(err)
	}
	done, _ := os.ReadFile(log)
	return string(text), cmd.ProcessState.ExitCode(), string(done)
}

func TestTryEndsInARunningMachineAgainAndAgain(t *testing.T) {
	m := newModel(t)
	out, code, did := m.try()
	if code != 0 || did != "made build\nmade runtime\ncreated\n" {
		t.Fatalf("exit code %d, did %q\n%s", code, did, out)
	}
	for _, want := range []string{"$ banger vm create --name first-otter", "Linux first-otter", "ID=debian", "written by make try at", "boot id before 1\n", "boot id after  2\n", "vm ssh first-otter", "This first run took "} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
	at := 0
	for _, step := range []string{"make try: 5 steps, about ", "\n[1/5] ", "\n[2/5] ", "\n[3/5] ", "\n[4/5] ", "\n[5/5] ", "\nReady, with 1 warning: VMs will be slow\n"} {
		next := strings.Index(out[at:], step)
		if next < 0 || strings.Count(out, "Ready") != 1 {
			t.Fatalf("%q does not come next, or there is more than one verdict, in\n%s", step, out)
		}
		at += next
	}
	out, code, did = m.try()
	if code != 0 || strings.Contains(did, "created") || !strings.Contains(out, "is already running") || !strings.Contains(out, "; the first one took ") {
		t.Errorf("again: exit code %d, did %q\n%s", code, did, out)
	}
	m.write("vm/state", "stopped\n")
	if out, code, did = m.try(); code != 0 || !strings.Contains(did, "started") {
		t.Errorf("stopped: exit code %d, did %q\n%s", code, did, out)
	}
}

// Where KVM is usable the tour is on Firecracker, if it can be had.
func TestTryGetsFirecracker(t *testing.T) {
	m := newModel(t)
	m.write("kvm", "")
	if out, code, did := m.try(); code != 0 || did != "made build\nmade runtime\nmade runtime-bundle\ncreated\n" {
		t.Errorf("exit code %d, did %q\n%s", code, did, out)
	}
	if out, code, did := m.try(); code != 0 || strings.Contains(did, "bundle") {
		t.Errorf("again: exit code %d, did %q\n%s", code, did, out)
	}
	m = newModel(t)
	m.write("kvm", "")
	m.write("unreachable", "")
	if out, code, did := m.try(); code != 0 || !strings.HasSuffix(did, "created\n") || !strings.Contains(out, "Continuing without Firecracker") {
		t.Errorf("exit code %d, did %q\n%s", code, did, out)
	}
}

func TestTryInstallsOnlyWhenTold(t *testing.T) {
	m := newModel(t)
	m.write("lacks", "qemu-system-x86\n")
	out, code, did := m.try("CI=false")
	if code != 5 || strings.Contains(did, "apt-get") || !strings.Contains(out, "apt-get install -y --no-install-recommends qemu-system-x86") {
		t.Errorf("exit code %d, did %q\n%s", code, did, out)
	}
	out, code, did = m.try("YES=1")
	if code != 0 || !strings.Contains(did, "apt-get install -y --no-install-recommends qemu-system-x86\n") {
		t.Errorf("exit code %d, did %q\n%s", code, did, out)
	}
}

func TestTryNoticesWhatDidNotSurvive(t *testing.T) {
	out, code, _ := newModel(t).try("FORGETFUL=1")
	if code == 0 {
		t.Errorf("exit code 0\n%s", out)
	}
}

// A Go that cannot read go.mod would only say so in its own words, and once
// the build has begun.
func TestTryRefusesAGoThatIsTooOld(t *testing.T) {
	for version, want := range map[string]int{"go1.19.8": 5, "go1.20": 5, "go1.9": 5, "go1.21.0": 0, "go1.100": 0, "devel": 0} {
		out, code, did := newModel(t).try("GO_IS=" + version)
		if code != want || (want != 0) != (did == "") || (want != 0) != strings.Contains(out, "fix: install Go") {
			t.Errorf("%s: exit code %d, did %q\n%s", version, code, did, out)
		}
	}
}
