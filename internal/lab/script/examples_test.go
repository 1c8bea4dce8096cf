package script

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/creack/pty"

	"banger/internal/config"
	"banger/internal/hostcmd"
)

// before is what has to be done so that an example can do its part, beyond two
// running VMs, calm-otter and spare: by how the example begins. New ones of the
// last kind need nothing here.
var before = []struct {
	begins *regexp.Regexp
	run    string
}{
	{regexp.MustCompile(`^banger vm (create|run) .*--name calm-otter`), "banger vm delete --yes --force calm-otter"},
	{regexp.MustCompile(`^banger vm (create|run) .*--name spare`), "banger vm delete --yes --force spare"},
	{regexp.MustCompile(`^banger vm wait --for stopped`), "banger vm stop --all"},
	{regexp.MustCompile(`^banger vm delete [^-]`), "banger vm stop --all"},
	{regexp.MustCompile(`^banger vm ssh-config`), "mkdir -p ~/.ssh"},
	{regexp.MustCompile(`^banger (image delete|vm create --image) `), "banger image import box rootfs.tar; banger image import debian rootfs.tar.xz"},
}

// piped are the examples of commands that read what another program writes.
var piped = regexp.MustCompile(` -$`)

// driven are the examples that name a driver: the daemon here has only the one
// without VMs, and whether the others run is the host's to decide.
var driven = regexp.MustCompile(` --driver (qemu|firecracker)\b`)

// endless are the examples that go on until they are interrupted.
var endless = regexp.MustCompile(`^banger (vm logs .*-f|.*--watch|.*--follow|tui)`)

// TestEveryExampleRuns types what --help shows, of every command, into a
// terminal, and answers what it is asked. What ends by itself has to end with 0.
func TestEveryExampleRuns(t *testing.T) {
	for _, tool := range []string{"mke2fs", "ssh", "xz"} {
		if _, err := (hostcmd.Host{}).Look(tool); err != nil {
			t.Skipf("%s is missing: apt-get install e2fsprogs openssh-client xz-utils", tool)
		}
	}
	h := newHome(t)
	h.makeArchives()
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
			case code == 5 && strings.HasPrefix(line, "banger doctor"): // it says what this host lacks
			default:
				t.Errorf("exit code %d:\n%s", code, out)
			}
		})
	}
}

// home is a user's: a bundle, and a daemon that ends with the test.
type home struct {
	t   *testing.T
	dir string
	env []string
}

func newHome(t *testing.T) *home {
	t.Helper()
	h := &home{t: t, dir: t.TempDir(), env: os.Environ()}
	set := homeEnv(h.dir)
	for key, value := range set {
		h.env = append(h.env, key+"="+value)
	}
	dirs, err := config.DirsFrom(func(key string) string { return set[key] })
	if err == nil {
		err = fillHome(h.dir, "6.12.117+deb13-cloud-amd64") // as the examples have it
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

// run runs a line of shell and returns what it prints.
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

// examples are those of a command and of all below it, as --help shows them.
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

// makeArchives makes the files that examples mention: a root file system of a
// program and a list of users, and the same packed.
func (h *home) makeArchives() {
	h.t.Helper()
	h.run(`mkdir -p tree/bin tree/etc && printf '#!/bin/sh\n' >tree/bin/sh && chmod 755 tree/bin/sh &&
		echo root:x:0:0::/root:/bin/sh >tree/etc/passwd && tar -C tree -cf rootfs.tar . && xz -k rootfs.tar`)
}

// prepare leaves two VMs that run, and what the example needs else.
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
	h.run("banger image delete box debian >/dev/null 2>&1; true")
	for _, b := range before {
		if b.begins.MatchString(line) {
			h.run(b.run)
		}
	}
}

// typed runs a line of shell on a terminal, says yes to what it is asked, and
// interrupts what is endless as soon as it has printed something.
func (h *home) typed(t *testing.T, line string) (string, int) {
	t.Helper()
	shell := line
	if piped.MatchString(line) {
		shell = "cat rootfs.tar | " + line
	}
	if endless.MatchString(line) {
		shell = "exec " + line // so that the exit code is its own, not that of a shell that was interrupted too
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
		if err != nil { // EIO: nobody has the terminal open any more
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
