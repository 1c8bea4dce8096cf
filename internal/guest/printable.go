package guest

import (
	"regexp"
	"slices"
	"strings"
	"unicode"

	"banger/internal/guest/wire"
)

// Printable turns a guest's words into one bounded line. They may be printed on a
// terminal, which they must not control, or between banger's own lines.
func Printable(s string) string {
	const limit = 300
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsPrint(r):
			return r
		case unicode.IsSpace(r):
			return ' '
		}
		return -1
	}, s)
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "..."
	}
	return s
}

// PrintableFailure returns a failure with printable fields.
func PrintableFailure(f wire.Failure) wire.Failure {
	return wire.Failure{Step: Printable(f.Step), Why: Printable(f.Why), Fix: Printable(f.Fix)}
}

// ReadDisks returns the valid part of a guest's report of disk errors: at most one
// entry for each of a VM's writable disks, with a printable reason.
func ReadDisks(told []wire.DiskErrors) []wire.DiskErrors {
	var disks []wire.DiskErrors
	for _, label := range []string{wire.LabelOverlay, wire.LabelWork} {
		i := slices.IndexFunc(told, func(d wire.DiskErrors) bool { return d.Label == label && d.Errors > 0 })
		if i >= 0 {
			disks = append(disks, wire.DiskErrors{Label: label, Errors: told[i].Errors, Why: Printable(told[i].Why)})
		}
	}
	return disks
}

// bootID matches what the kernel has in /proc/sys/kernel/random/boot_id.
var bootID = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
