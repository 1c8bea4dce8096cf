package script

import (
	"os"
	"strings"
	"testing"

	"banger/internal/hostcmd"
)

// TestReadmeRuns types the commands of the README's "Daily use", in order, in a
// home where nothing was done before. The lines that need a real guest or a
// particular shell are left out.
func TestReadmeRuns(t *testing.T) {
	for _, tool := range []string{"mke2fs", "ssh"} {
		if _, err := (hostcmd.Host{}).Look(tool); err != nil {
			t.Skipf("%s is missing: apt-get install e2fsprogs openssh-client", tool)
		}
	}
	text, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, daily, _ := strings.Cut(string(text), "\n## Daily use\n")
	daily, _, _ = strings.Cut(daily, "\n## ")
	h, typed := newHome(t), 0
	for line := range strings.Lines(daily) {
		command, ok := strings.CutPrefix(line, "    ")
		command, _, _ = strings.Cut(command, " #")
		command = strings.TrimSpace(command)
		first, _, _ := strings.Cut(command, " ")
		if !ok || first == "rsync" || first == "ssh" || first == "source" {
			continue
		}
		typed++
		out, code := h.typed(t, command)
		if code != 0 && !(code == 130 && endless.MatchString(command)) {
			t.Errorf("%s: exit code %d:\n%s", command, code, out)
		}
	}
	if typed < 15 {
		t.Errorf("only %d commands were found", typed)
	}
}
