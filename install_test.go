package banger_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// newInstall makes a tree with the real scripts/install.sh, programs that stand in for
// those of a build, and a home.
func newInstall(t *testing.T) model {
	t.Helper()
	m := model{t, t.TempDir()}
	script, err := os.ReadFile("scripts/install.sh")
	if err != nil {
		t.Fatal(err)
	}
	m.write("scripts/install.sh", string(script))
	m.write("banger", `#!/bin/sh
case "$*" in
"completion bash") echo "for bash" ;;
"completion zsh") echo "for zsh" ;;
"daemon status") [ "${DAEMON:-}" ] || exit 3; echo "pid      7"; echo "runtime  $DAEMON" ;;
*) exit 99 ;;
esac
`)
	m.write("bangerd", "the daemon")
	m.write("banger-agent", "the agent")
	m.write("home/.bashrc", "# empty\n")
	return m
}

func (m model) install(env ...string) (string, error) {
	m.t.Helper()
	cmd := exec.Command("sh", "scripts/install.sh", filepath.Join(m.dir, "home/.local"))
	cmd.Dir = m.dir
	cmd.Env = append([]string{"HOME=" + m.dir + "/home", "PATH=/usr/bin:/bin", "SHELL=/bin/bash"}, env...)
	out, err := cmd.CombinedOutput()
	return strings.ReplaceAll(string(out), m.dir+"/home", "~"), err
}

func TestInstallSaysWhatIsLeftToDo(t *testing.T) {
	m := newInstall(t)
	if out, err := m.install(); err == nil || out != "there is no ./runtime to install; fix: make runtime\n" {
		t.Errorf("without a runtime: %v\n%s", err, out)
	}
	m.write("runtime/bundle.json", "{}")
	path := "PATH=" + m.dir + "/home/.local/bin:/usr/bin:/bin"
	const next = "\nNext:\n"
	for _, c := range []struct {
		name, want string
		without    string
		env        []string
	}{
		{"a PATH without it", next + "  ~/.local/bin is not in your PATH:\n      echo 'export PATH=\"~/.local/bin:$PATH\"' >>~/.profile, then log in again\n", "the daemon", nil},
		{"a daemon", "  the daemon still runs as before, and makes new VMs from /checkout/runtime; stop it, running VMs are not affected:\n      ~/.local/bin/banger daemon stop\n",
			"not in your PATH", []string{path, "DAEMON=/checkout/runtime"}},
		{"nothing", "\nReady: banger vm create\n", "Next", []string{path, "SHELL=/bin/sh"}},
		{"zsh", "      echo 'source <(banger completion zsh)' >>~/.zshrc\n", "bash", []string{path, "SHELL=/usr/bin/zsh"}},
	} {
		out, err := m.install(c.env...)
		if err != nil || !strings.Contains(out, c.want) || strings.Contains(out, c.without) || strings.Count(out, next) > 1 {
			t.Errorf("%s: %v\n%s\nwant\n%s", c.name, err, out, c.want)
		}
	}
	for file, want := range map[string]string{
		"bin/bangerd": "the daemon", "lib/banger/agent": "the agent", "lib/banger/bundle.json": "{}",
		"share/bash-completion/completions/banger": "for bash\n", "share/zsh/site-functions/_banger": "for zsh\n",
	} {
		if got, err := os.ReadFile(filepath.Join(m.dir, "home/.local", file)); err != nil || string(got) != want {
			t.Errorf("%s has %q, %v", file, got, err)
		}
	}
}
