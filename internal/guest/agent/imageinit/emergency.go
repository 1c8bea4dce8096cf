package imageinit

import (
	"cmp"
	"os"
	"strings"

	"banger/internal/guest/agent/layout"
	"banger/internal/guest/agent/log"
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
// string. Until the journal runs, systemd logs to the kernel's log.
func failedUnit() string {
	early, known := readFailure(log.Kernel())
	if known {
		return early
	}
	late, _ := readFailure(journal())
	return cmp.Or(late, early)
}

// journal returns systemd's messages of this boot, as the image's journalctl shows them.
func journal() []byte {
	output("journalctl", "--sync") // what systemd has logged may still be on its way
	return output("journalctl", "--boot", "--quiet", "--no-pager", "--output=cat", "_PID=1")
}

// readFailure returns the failure that kept a target from being reached, or else the
// last one, and reports which of the two: other failures may have come before. Of a
// unit that could not be started systemd logs "UNIT: Job UNIT/start failed with result
// 'RESULT'.". The units that need it come first, with the result "dependency".
func readFailure(messages []byte) (why string, target bool) {
	for line := range strings.Lines(string(messages)) {
		unit, job, found := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "systemd[1]: "), ": Job ")
		_, result, failed := strings.Cut(job, "/start failed with result '")
		if !found || !failed || len(unit) > maxUnit {
			continue
		}
		if result == "dependency'." {
			target = target || strings.HasSuffix(unit, ".target") && unit != "swap.target" // a boot continues without swap
			continue
		}
		why = unit + " failed"
		if result == "timeout'." {
			why = unit + " timed out"
		}
		if target {
			break
		}
	}
	return strings.ToValidUTF8(why, ""), target && why != ""
}

// maxUnit is how long systemd lets a unit's name be.
const maxUnit = 255
