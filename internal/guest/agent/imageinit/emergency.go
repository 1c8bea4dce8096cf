package imageinit

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"banger/internal/guest/agent/layout"
	"banger/internal/guest/agent/log"
	"banger/internal/guest/agent/process"
)

// inEmergency reports whether systemd runs the shell of its emergency or rescue
// mode: it makes the service's control group before it reports READY=1. This also
// works with a systemd that does not announce the targets it reaches.
func inEmergency() bool {
	for _, service := range []string{"emergency.service", "rescue.service"} {
		if _, err := os.Stat(layout.CgroupRoot + "/system.slice/" + service); err == nil {
			return true
		}
	}
	return false
}

// failedUnit returns which unit's failure led to the emergency mode, or an empty
// string. Where the journal does not run yet, systemd logs to the kernel's log.
func failedUnit() string {
	return cmp.Or(readFailure(journal()), readFailure(log.Kernel()))
}

// journalTime bounds how long the image's journalctl may take.
const journalTime = 20 * time.Second

// maxJournal bounds what is read of the journal.
const maxJournal = 1 << 20

// journal returns systemd's messages of this boot, as the image's journalctl shows them.
func journal() []byte {
	ctx, cancel := context.WithTimeout(context.Background(), journalTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "journalctl", "--boot", "--quiet", "--no-pager", "--output=cat", "_PID=1")
	cmd.Dir = "/"
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = process.Start(cmd)
	}
	if err != nil {
		log.Errorf("ask the journal which unit failed: %v", err)
		return nil
	}
	text, _ := io.ReadAll(io.LimitReader(out, maxJournal))
	cancel()
	cmd.Wait()
	return text
}

// failedJob is how systemd logs that a unit could not be started. The units that
// need it come first, with the result "dependency".
var failedJob = regexp.MustCompile(`^(?:systemd\[1\]: )?(\S{1,200}): Job \S+/start failed with result '([a-z-]{1,20})'\.$`)

// readFailure returns the failure that kept a target from being reached, or else
// the last one: other failures may have come before.
func readFailure(messages []byte) string {
	why, target := "", false
	for line := range bytes.Lines(messages) {
		job := failedJob.FindSubmatch(bytes.TrimSpace(line))
		if job == nil {
			continue
		}
		switch unit, result := string(job[1]), string(job[2]); result {
		case "dependency":
			target = target || strings.HasSuffix(unit, ".target")
			continue
		case "timeout":
			why = unit + " timed out"
		default:
			why = unit + " failed"
		}
		if target {
			break
		}
	}
	return why
}
