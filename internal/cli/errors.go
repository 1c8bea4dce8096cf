package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"banger"
)

// exitCodes is the one table from what an error is to how banger exits.
var exitCodes = map[banger.Kind]int{
	banger.Unknown:  1,
	banger.TimedOut: 1,
	banger.Invalid:  2,
	banger.NotFound: 3,
	banger.Conflict: 4,
	banger.Unready:  5,
	banger.Canceled: exitInterrupted,
}

const (
	exitInterrupted = 130
	// exitOwnFailure is banger's own failure where the exit status is otherwise
	// that of a program in a VM, so that the two are never confused.
	exitOwnFailure = 125
	// ownFailure marks the commands of which that is true.
	ownFailure = "own-failure"
)

// exitStatus is the status of a program in a VM: passed on, not reported.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// reported is an error that was shown already: only its exit code is left.
func reported(code int) error { return exitStatus(code) }

func exitCode(err error) int { return exitCodes[banger.KindOf(err)] }

// usageError is what went wrong before the command began.
func usageError(cmd *cobra.Command, err error) error {
	if banger.KindOf(err) == banger.Invalid {
		return err
	}
	fix := banger.FixOf(err)
	if fix == "" {
		fix = cmd.CommandPath() + " --help"
	}
	return &banger.Error{Kind: banger.Invalid, Why: err, Fix: fix}
}

// errorJSON is an error as --json prints it.
type errorJSON struct {
	Kind banger.Kind `json:"kind"`           // see [kind](#kind-of-an-error)
	What string      `json:"what,omitempty"` // what was attempted
	Why  string      `json:"why,omitempty"`  // the cause
	Fix  string      `json:"fix,omitempty"`  // one command or one sentence
	Op   string      `json:"op,omitempty"`   // the operation's ID in the daemon's log
}

func describe(err error) errorJSON {
	d := errorJSON{Kind: banger.KindOf(err), Why: clean(err.Error()), Fix: clean(banger.FixOf(err)), Op: clean(banger.OpOf(err))}
	if e, ok := err.(*banger.Error); ok && e.What != "" {
		d.What, d.Why = clean(e.What), ""
		if e.Why != nil {
			d.Why = clean(e.Why.Error())
		}
	}
	return d
}

// report shows err: as text on stderr, or as JSON on stdout.
func (a *app) report(err error) {
	if a.json {
		a.printJSON(map[string]errorJSON{"error": describe(err)})
		return
	}
	text := clean(err.Error())
	if banger.KindOf(err) == banger.Canceled {
		text = strings.ReplaceAll(text, context.Canceled.Error(), "interrupted")
	}
	fmt.Fprintf(a.std.Err, "banger: %s\n", text)
	if fix := banger.FixOf(err); fix != "" {
		fmt.Fprintf(a.std.Err, "fix: %s\n", clean(fix))
	}
	if op := banger.OpOf(err); op != "" && unexplained[banger.KindOf(err)] {
		if dirs, err := a.dirs(); err == nil {
			fmt.Fprintf(a.std.Err, "log: grep %s %s\n", clean(op), dirs.Log())
		}
	}
}

// unexplained are the errors of operations of which the daemon's log has more to
// say than what was to be changed about the request.
var unexplained = map[banger.Kind]bool{banger.Unknown: true, banger.TimedOut: true, banger.Unready: true}

func (a *app) printJSON(v any) error {
	encoder := json.NewEncoder(a.std.Out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// clean makes text from a guest or a tool harmless to a terminal.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return '?'
		}
		return r
	}, text)
}
