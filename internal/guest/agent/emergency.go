package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// inEmergency reports whether systemd runs the shell of its emergency or rescue
// mode: it makes the service's control group before it reports READY=1. This also
// works with a systemd that does not announce the targets it reaches.
func inEmergency() bool {
	for _, service := range []string{"emergency.service", "rescue.service"} {
		if _, err := os.Stat(cgroupRoot + "/system.slice/" + service); err == nil {
			return true
		}
	}
	return false
}

// journalTime bounds how long the image's journalctl may take.
const journalTime = 20 * time.Second

// maxJournal bounds what is read of the journal.
const maxJournal = 256 << 10

// failedUnit asks the journal which unit's failure led to the emergency mode. It
// returns an empty string if the journal does not tell.
func failedUnit() string {
	ctx, cancel := context.WithTimeout(context.Background(), journalTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "journalctl", "--boot", "--quiet", "--no-pager", "--output=json",
		"--output-fields=UNIT,MESSAGE,JOB_RESULT", "_PID=1", "JOB_TYPE=start",
		"JOB_RESULT=failed", "JOB_RESULT=timeout", "JOB_RESULT=dependency")
	cmd.Dir = "/"
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = startInGuest(cmd)
	}
	if err != nil {
		logf(prioError, "ask the journal which unit failed: %v", err)
		return ""
	}
	why := readFailure(io.LimitReader(out, maxJournal))
	cancel()
	cmd.Wait()
	return why
}

// maxWhy bounds the reason in bytes.
const maxWhy = 300

// readFailure returns the failure behind the first target that could not be
// reached, or else the last failure. Failures that nothing depends on may come before.
func readFailure(journal io.Reader) string {
	var record, last struct {
		Unit    string `json:"UNIT"`
		Message string `json:"MESSAGE"`
		Result  string `json:"JOB_RESULT"`
	}
	for in := json.NewDecoder(journal); in.Decode(&record) == nil; {
		if record.Result != "dependency" {
			last = record
		} else if strings.HasSuffix(record.Unit, ".target") && last.Unit != "" {
			break
		}
	}
	if last.Unit == "" {
		return ""
	}
	why := fmt.Sprintf("%s: %s", last.Unit, strings.TrimRight(last.Message, "."))
	return strings.ToValidUTF8(why[:min(len(why), maxWhy)], "")
}
