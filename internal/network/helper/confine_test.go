//go:build !cgo

package helper

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestConfine needs a build as it ships: one with C cannot confine all its threads.
func TestConfine(t *testing.T) {
	home, dir := filepath.Join(t.TempDir(), "key"), t.TempDir()
	if err := errors.Join(os.WriteFile(home, nil, 0o600), os.WriteFile(filepath.Join(dir, "state"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), confinedEnv+"="+home)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() == 3 {
		t.Skipf("%s; fix: use a kernel with Landlock 6", out)
	}
	if err != nil || len(out) > 0 {
		t.Errorf("a confined process could (%v):\n%s", err, out)
	}
}
