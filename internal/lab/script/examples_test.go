package script

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/creack/pty"

	"banger/internal/config"
	"banger/internal/hostcmd"
	"banger/internal/oci/ocitest"
)

// before lists what an example needs, besides the two running VMs calm-otter and
// spare, by the beginning of the example.
var before = []struct {
	begins *regexp.Regexp
	run    string
}{
	{regexp.MustCompile(`^banger vm (create|run) .*--name calm-otter`), "banger vm delete --yes --force calm-otter"},
	{regexp.MustCompile(`^banger vm (create|run) .*--name spare`), "banger vm delete --yes --force spare"},
	{regexp.MustCompile(`^banger vm wait --for stopped`), "banger vm stop --all"},
	{regexp.MustCompile(`^banger vm (delete [^-]|fsck )`), "banger vm stop --all"},
	{regexp.MustCompile(`^banger vm cp `), "mkdir -p site && touch site/index.html notes.txt && banger vm cp notes.txt calm-otter:.bashrc && banger vm cp site calm-otter:"},
	{regexp.MustCompile(`^banger vm open `), "banger vm set --port 127.77.0.2:38520:3000 calm-otter"},
	{regexp.MustCompile(`^banger image build `), "echo jq >packages.apt; echo 'say hello' >setup.sh; echo hidden >token.txt; banger image build tools --packages jq"},
	{regexp.MustCompile(`^banger (image delete|vm create --image) `), "banger image import box rootfs.tar; banger image import debian rootfs.tar.xz"},
}

// piped matches the examples that read standard input.
var piped = regexp.MustCompile(` -$`)

// driven matches the examples that name a driver. The daemon of these tests has only the
// driver without VMs; whether the others work depends on the host.
var driven = regexp.MustCompile(` --driver (qemu|firecracker)\b`)

// endless matches the examples that run until they are interrupted.
var endless = regexp.MustCompile(`^banger (events|vm logs .*-f|.*--watch|.*--follow|tui)`)

// TestEveryExampleRuns types the examples of every --help into a terminal and answers
// all questions with yes. All but the endless ones must exit with 0.
func TestEveryExampleRuns(t *testing.T) {
	for _, tool := range []string{"mke2fs", "ssh", "xz"} {
		if _, err := (hostcmd.Host{}).Look(tool); err != nil {
			t.Skipf("%s is missing: apt-get install e2fsprogs openssh-client xz-utils", tool)
		}
	}
	h := newHome(t)
	h.makeArchives()
	h.mirror()
	lines := h.examples("banger")
	if len(lines) < 40 {
		t.Fatalf("only %d examples were found: %q", len(lines), lines)
	}
	for _, line := range lines {
		t.Run(line, func(t *testing.T) {
			h.prepare(line)
			out, code := h.typed(t, line)
			switch {
			case code == 0:
			case code == 130 && endless.MatchString(line):
			case (code == 2 || code == 5) && driven.MatchString(line):
			case code == 5 && (strings.HasPrefix(line, "banger doctor") || strings.HasPrefix(line, "banger network")): // this host may lack something
			default:
				t.Errorf("exit code %d:\n%s", code, out)
			}
		})
	}
}

// home is the home of a user, with a bundle. Its daemon ends with the test.
type home struct {
	t   testing.TB
	dir string
	env []string
}

func newHome(t testing.TB) *home {
	t.Helper()
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP) // under nohup, programs started here would ignore it
	h := &home{t: t, dir: t.TempDir(), env: os.Environ()}
	set := homeEnv(h.dir)
	for key, value := range set {
		h.env = append(h.env, key+"="+value)
	}
	h.env = append(h.env, "BROWSER=", "DISPLAY=", "WAYLAND_DISPLAY=") // no example opens a window
	dirs, err := config.DirsFrom(func(key string) string { return set[key] })
	if err == nil {
		err = fillHome(h.dir, "6.12.117+deb13-cloud-amd64") // the release in the examples
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := endAll(dirs); err != nil {
			t.Error(err)
		}
	})
	return h
}

// run runs a line of shell and returns its output.
func (h *home) run(line string) string {
	h.t.Helper()
	cmd := exec.CommandContext(h.t.Context(), "sh", "-c", line)
	cmd.Env, cmd.Dir = h.env, h.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		h.t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

// examples returns the examples of a command and of all commands below it.
func (h *home) examples(command string) []string {
	h.t.Helper()
	var found []string
	section := ""
	for line := range strings.Lines(h.run(command + " --help")) {
		switch {
		case !strings.HasPrefix(line, " "):
			section = strings.TrimSpace(line)
		case section == "Examples:":
			found = append(found, strings.TrimSpace(line))
		case section == "Available Commands:":
			if name := strings.Fields(line)[0]; name != "help" && name != "completion" {
				found = append(found, h.examples(command+" "+name)...)
			}
		}
	}
	if len(found) == 0 {
		h.t.Errorf("%s shows no examples", command)
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// makeArchives creates the files in the examples: a root file system with one program
// and a list of users, plain and compressed.
func (h *home) makeArchives() {
	h.t.Helper()
	h.run(`mkdir -p tree/bin tree/etc && printf '#!/bin/sh\n' >tree/bin/sh && chmod 755 tree/bin/sh &&
		echo root:x:0:0::/root:/bin/sh >tree/etc/passwd && tar -C tree -cf rootfs.tar . && xz -k rootfs.tar`)
	layer, err := os.ReadFile(filepath.Join(h.dir, "rootfs.tar"))
	if err == nil {
		err = os.CopyFS(filepath.Join(h.dir, "oci-layout"), os.DirFS(ocitest.Write(h.t, ocitest.Layout(ocitest.New(ocitest.Host, nil, layer)))))
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// prepare creates the two running VMs, and what else the example needs.
func (h *home) prepare(line string) {
	h.t.Helper()
	there := strings.Fields(h.run("banger vm list -q"))
	for _, name := range there {
		if name != "calm-otter" && name != "spare" {
			h.run("banger vm delete --yes --force " + name)
		}
	}
	for _, name := range []string{"calm-otter", "spare"} {
		if !slices.Contains(there, name) {
			h.run("banger vm create --name " + name)
		}
	}
	h.run("banger vm start --all")
	h.run("banger image delete box debian app >/dev/null 2>&1; true")
	for _, b := range before {
		if b.begins.MatchString(line) {
			h.run(b.run)
		}
	}
}

// typed runs a line of shell on a terminal, answers questions with yes, and interrupts an
// endless command after its first output.
func (h *home) typed(t *testing.T, line string) (string, int) {
	t.Helper()
	shell := line
	if piped.MatchString(line) {
		shell = "cat rootfs.tar | " + line
	}
	if endless.MatchString(line) {
		shell = "exec " + line // or the exit code would be that of the shell, which is interrupted too
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", shell)
	cmd.Env, cmd.Dir = h.env, h.dir
	terminal, err := pty.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	var out bytes.Buffer
	answered := false
	for buf := make([]byte, 4096); ; {
		n, err := terminal.Read(buf)
		out.Write(buf[:n])
		switch {
		case answered:
		case bytes.Contains(out.Bytes(), []byte("[y/N]")):
			answered = true
			io.WriteString(terminal, "y\n")
		case endless.MatchString(line) && n > 0:
			answered = true
			io.WriteString(terminal, "\x03")
		}
		if err != nil { // EIO: the terminal is closed
			break
		}
	}
	err = cmd.Wait()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return out.String(), exit.ExitCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), 0
}
