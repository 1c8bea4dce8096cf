package guest

import (
	"regexp"
	"slices"
	"strings"
	"unicode"

	"banger/internal/guest/wire"
)

// Printable makes one bounded line of a guest's words: they may end up on a
// terminal, which they must not drive, or between lines of banger's own.
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

// PrintableFailure is a failure in such words.
func PrintableFailure(f wire.Failure) wire.Failure {
	return wire.Failure{Step: Printable(f.Step), Why: Printable(f.Why), Fix: Printable(f.Fix)}
}

// ReadDisks returns what a guest's report of disk errors can be believed to say:
// at most one entry for each of a VM's writable disks, with a printable reason.
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

// bootID is what the kernel has in /proc/sys/kernel/random/boot_id.
var bootID = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
