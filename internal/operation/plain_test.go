package operation

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"banger"
)

// TestPlain: a user reads what was written for users, and the whole of an error of
// which nothing was.
func TestPlain(t *testing.T) {
	user := &banger.Error{Kind: banger.Conflict, Why: errors.New("a VM named x already exists"), Fix: "choose another --name"}
	path := fmt.Errorf("reserve the name: %w", fmt.Errorf("store: %w", user))
	for want, err := range map[string]error{
		"a VM named x already exists": path,
		"boot: EOF":                   fmt.Errorf("boot: %w", io.EOF),
		"reserve the name: store: a VM named x already exists; and then: undo lock: EOF": &joined{path, fmt.Errorf("undo lock: %w", io.EOF)},
	} {
		if got := Plain(err); got.Error() != want || banger.FixOf(got) != banger.FixOf(err) || banger.KindOf(got) != banger.KindOf(err) {
			t.Errorf("got %q (%s), want %q", got, banger.FixOf(got), want)
		}
	}
}
