package banger_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// compared is a copy of scripts/compare in a checkout with nothing built, and the
// environment of a host with no rival.
func compared(t *testing.T) (root string, env []string) {
	t.Helper()
	root = t.TempDir()
	if err := os.CopyFS(filepath.Join(root, "scripts/compare"), os.DirFS("scripts/compare")); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(root, "bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields("sh awk basename cat cut date dirname getconf grep id kill ls mkdir mktemp rm sed seq sleep sort tail uname wc") {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	return root, []string{"PATH=" + bin, "TMPDIR=" + t.TempDir()}
}

func compare(t *testing.T, root string, env []string, args ...string) (out string, err error) {
	t.Helper()
	cmd := exec.Command("sh", append([]string{filepath.Join(root, "scripts/compare/compare.sh")}, args...)...)
	cmd.Env = env
	text, err := cmd.CombinedOutput()
	return string(text), err
}

func TestCompareScriptsParse(t *testing.T) {
	for path := range files(t, ".sh") {
		if strings.HasPrefix(path, "scripts/compare/") {
			if out, err := exec.Command("sh", "-n", path).CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s", path, err, out)
			}
		}
	}
}

// TestCompareNamesWhatIsMissing: on a host without rivals, each is named with the reason
// and how to get it.
func TestCompareNamesWhatIsMissing(t *testing.T) {
	root, env := compared(t)
	out, err := compare(t, root, env)
	if err == nil || !strings.Contains(out, "nothing could run") {
		t.Errorf("%v", err)
	}
	rivals, err := filepath.Glob("scripts/compare/rivals/*.sh")
	if err != nil || len(rivals) < 6 {
		t.Fatalf("%v, %v", rivals, err)
	}
	for _, path := range rivals {
		name := strings.TrimSuffix(filepath.Base(path), ".sh")
		if !regexp.MustCompile(`(?m)^` + name + ` is missing: .+; .+$`).MatchString(out) {
			t.Errorf("%s is not named with a reason and a fix", name)
		}
	}
	if left, _ := os.ReadDir(strings.TrimPrefix(env[1], "TMPDIR=")); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	if t.Failed() {
		t.Log(out)
	}
}

// TestCompareTakesTurns: rivals run forwards and backwards, medians and ranges are
// printed, what fails is named with its last words, and everything is closed.
func TestCompareTakesTurns(t *testing.T) {
	root, env := compared(t)
	rivals := filepath.Join(root, "scripts/compare/rivals")
	closed := filepath.Join(root, "closed")
	for name, text := range map[string]string{
		"a": `missing() { :; }
			round() { case $1 in r1) n=4 ;; r2) n=2 ;; *) n=9 ;; esac; echo "first $n.000 second 0.5 cpu 1.0"; }`,
		"b": `missing() { :; }
			create() { sleep 60 & echo $! >"$HOME_OF/$1"; }
			run() { :; }
			pid() { cat "$HOME_OF/$1"; }
			remove() { kill "$(pid "$1")"; }`,
		"c": `missing() { :; }
			round() { echo no such image >&2; return 1; }`,
	} {
		text += "\nclose() { echo " + name + " >>" + closed + "; }\n"
		if err := os.WriteFile(filepath.Join(rivals, name+".sh"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := compare(t, root, env, "--rounds", "2", "a", "b", "c")
	if err != nil {
		t.Error(err)
	}
	for _, want := range []string{
		`(?s)round 1, a: .*round 1, b: first 0\..*round 2, b: .*round 2, a: `,
		`(?m)^a +3\.00 \(2\.00-4\.00\) +0\.50 \(0\.50-0\.50\) +1\.00 \(1\.00-1\.00\) +2$`,
		`(?m)^b .* 2$`,
		`(?m)^c failed:\n  no such image$`,
		`(?m)^Linux .* load [0-9. ]+ after$`,
	} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("no %s", want)
		}
	}
	if names, _ := os.ReadFile(closed); strings.Count(string(names), "\n") != 3 {
		t.Errorf("closed %q", names)
	}
	if t.Failed() {
		t.Log(out)
	}
}

func TestCompareRefusesWrongArguments(t *testing.T) {
	root, env := compared(t)
	for _, args := range [][]string{{"--rounds", "0"}, {"--rounds", "many"}, {"no-such-rival"}} {
		if out, err := compare(t, root, env, args...); err == nil || err.(*exec.ExitError).ExitCode() != 2 {
			t.Errorf("%q: %v: %s", args, err, out)
		}
	}
}
