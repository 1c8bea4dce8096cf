package guest

import (
	"regexp"
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

// bootID is what the kernel has in /proc/sys/kernel/random/boot_id.
var bootID = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
