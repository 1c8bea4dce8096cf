package script

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"

	"banger/internal/hostcmd"
)

// TestCompletion types into bash and zsh, in a home whose shell has the README's line and
// nothing else.
func TestCompletion(t *testing.T) {
	h := newHome(t)
	h.run("banger vm create --name otter --no-start && banger vm create --name vole --no-start && touch banger-notes")
	const compinit = "autoload -Uz compinit && compinit -u\n"
	for _, c := range []struct {
		name, shell, file, rc string
		args                  []string
	}{
		{"bash without its package", "bash", "bashrc", "source <(banger completion bash)\n", []string{"--noprofile", "--rcfile", "bashrc", "-i"}},
		{"zsh without compinit", "zsh", ".zshrc", "source <(banger completion zsh)\n", []string{"-d", "-i"}},
		{"zsh before compinit", "zsh", ".zshrc", "source <(banger completion zsh)\n" + compinit, []string{"-d", "-i"}},
		{"zsh after compinit", "zsh", ".zshrc", compinit + "source <(banger completion zsh)\n", []string{"-d", "-i"}},
		{"zsh from a directory of functions", "zsh", ".zshrc", "banger completion zsh >_banger\nfpath+=($PWD)\n" + compinit, []string{"-d", "-i"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := (hostcmd.Host{}).Look(c.shell); err != nil {
				t.Skipf("%s is missing: apt-get install %s", c.shell, c.shell)
			}
			rc := "PS1='> '\n" + c.rc
			if c.shell == "bash" {
				rc += "unset -f _init_completion _get_comp_words_by_ref 2>/dev/null\nbind 'set show-all-if-ambiguous on'; bind 'set bell-style none'; bind 'set enable-bracketed-paste off'\n"
			}
			if err := os.WriteFile(filepath.Join(h.dir, c.file), []byte(rc), 0o600); err != nil {
				t.Fatal(err)
			}
			s := h.open(t, c.shell, c.args...)
			s.expect("> ")
			s.types("banger vm star\t", "banger vm start ")
			s.types("ott\t", "otter ")
			s.types("v\t", "vole ")
			s.types("--wait=b\t", "--wait=boot")
			s.types("\x15banger vm sto\t", "banger vm stop ")
			if c.shell == "bash" { // zsh draws only what changes
				s.types("\x15banger vm list >banger-n\t", ">banger-notes ")
				s.types("\x15banger vm st\t", "start ")
				s.expect("Start") // with what it does
			}
			s.ends()
		})
	}
}

// shell is an interactive shell on a terminal.
type shell struct {
	t        *testing.T
	cmd      *exec.Cmd
	terminal *os.File
	seen     strings.Builder // since the last expect
	all      strings.Builder
}

func (h *home) open(t *testing.T, program string, args ...string) *shell {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env, cmd.Dir = append(h.env, "ZDOTDIR="+h.dir, "TERM=xterm", "INPUTRC=/dev/null"), h.dir
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Cols: 120, Rows: 40})
	if err != nil {
		t.Fatal(err)
	}
	s := &shell{t: t, cmd: cmd, terminal: terminal}
	t.Cleanup(func() {
		terminal.Close()
		cmd.Process.Kill()
		cmd.Wait()
	})
	return s
}

// patience is how long a shell may live.
const patience = time.Minute

func (s *shell) expect(want string) {
	s.t.Helper()
	buf := make([]byte, 4096)
	for {
		shown := colour.ReplaceAllString(s.seen.String(), "")
		if _, rest, found := strings.Cut(shown, want); found {
			s.seen.Reset()
			s.seen.WriteString(rest)
			return
		}
		n, err := s.terminal.Read(buf)
		s.seen.Write(buf[:n])
		s.all.Write(buf[:n])
		if err != nil {
			s.t.Fatalf("%v before %q in %q", err, want, shown)
		}
	}
}

// colour matches what a terminal does not show.
var colour = regexp.MustCompile(`\x1b\[[0-9;?]*[A-Za-z]`)

// types types keys and waits for what the line then shows.
func (s *shell) types(keys, want string) {
	s.t.Helper()
	s.seen.Reset()
	if _, err := io.WriteString(s.terminal, keys); err != nil {
		s.t.Fatal(err)
	}
	s.expect(want)
}

// ends ends the shell, which must not have printed an error.
func (s *shell) ends() {
	s.t.Helper()
	io.WriteString(s.terminal, "\x15exit\r")
	io.Copy(&s.all, s.terminal) // until EIO
	s.cmd.Wait()
	for _, bad := range []string{"not found", "rror", "insecure"} {
		if strings.Contains(s.all.String(), bad) {
			s.t.Errorf("it printed %q:\n%s", bad, s.all.String())
		}
	}
}
