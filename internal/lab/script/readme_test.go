package script

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"banger/internal/hostcmd"
)

// elsewhere lists the commands of the README that another test runs, by how they begin.
var elsewhere = []struct{ begins, test string }{
	{"git clone ", "needs a published repository"},
	{"make try", "TestTryEndsInARunningMachineAgainAndAgain"},
	{"make test", "is this test's own caller"},
	{"make rootfs", "TestBuild"},
	{"make install", "TestInstallSaysWhatIsLeftToDo"},
	{"rsync ", "TestDefaultImage"},
	{"source <(banger completion ", "TestCompletion"},
}

// first lists what a command needs that the README leaves to the reader.
var first = []struct {
	begins *regexp.Regexp
	run    string
}{
	{regexp.MustCompile(`^docker export `), `printf '#!/bin/sh\n[ "$1 $2" = "export box" ] && cat rootfs.tar\n' >bin/docker && chmod 755 bin/docker`},
	{regexp.MustCompile(`^banger image commit `), "banger vm create --name calm-otter"},
	{regexp.MustCompile(`^banger image delete `), "banger vm delete --all --force --yes"}, // "once no VM uses it"
}

// readmeCommands returns the commands of the README, in order.
func readmeCommands(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var commands []string
	section := ""
	for line := range strings.Lines(string(text)) {
		if title, ok := strings.CutPrefix(line, "## "); ok {
			section = strings.TrimSpace(title)
		}
		command, ok := strings.CutPrefix(line, "    ")
		if !ok || section == "How it works" { // a drawing
			continue
		}
		command, _, _ = strings.Cut(command, " #")
		commands = append(commands, strings.TrimSpace(command))
	}
	return commands
}

// TestReadmeRuns types the commands of the README, in order, in a home where nothing was
// done before. Only those that it names are left to other tests.
func TestReadmeRuns(t *testing.T) {
	for _, tool := range []string{"mke2fs", "ssh"} {
		if _, err := (hostcmd.Host{}).Look(tool); err != nil {
			t.Skipf("%s is missing: apt-get install e2fsprogs openssh-client", tool)
		}
	}
	h, typed := newHome(t), 0
	h.makeArchives()
	h.mirror()
	if err := os.Mkdir(filepath.Join(h.dir, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	h.env = append(h.env, "PATH="+h.dir+"/bin:"+os.Getenv("PATH"))
	left := map[string]bool{}
next:
	for _, command := range readmeCommands(t) {
		for _, e := range elsewhere {
			if strings.HasPrefix(command, e.begins) {
				left[e.begins] = true
				continue next
			}
		}
		for _, f := range first {
			if f.begins.MatchString(command) {
				h.run(f.run)
			}
		}
		typed++
		out, code := h.typed(t, command)
		if code != 0 && !(code == 130 && endless.MatchString(command)) {
			t.Errorf("%s: exit code %d:\n%s", command, code, out)
		}
	}
	if typed < 30 || len(left) != len(elsewhere) {
		t.Errorf("%d commands were typed; of %d others only %v are in the README", typed, len(elsewhere), left)
	}
}
