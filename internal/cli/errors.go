package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"banger"
)

// exitCodes is the exit code of every kind of error, in all programs.
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
	// exitOwnFailure is the exit code of banger's own errors in commands that pass
	// on the exit status of a program in a VM, so that the two are never confused.
	exitOwnFailure = 125
	// ownFailure annotates these commands.
	ownFailure = "own-failure"
)

// exitStatus is an exit code without an error to report: that of a program in a
// VM, or of an error that was reported already.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// ExitCode returns the code with which a program exits because of err.
func ExitCode(err error) int { return exitCodes[banger.KindOf(err)] }

// usageError turns an error of parsing the arguments into one with a fix.
func usageError(cmd *cobra.Command, err error) error {
	if value := (*pflag.InvalidValueError)(nil); errors.As(err, &value) {
		return flagError(cmd, value)
	}
	if banger.KindOf(err) == banger.Invalid {
		return err
	}
	return banger.Invalidf(cmd.CommandPath()+" --help", "%w", err)
}

// flagError returns what is wrong with a flag's value, without the words of Go's
// parsers.
func flagError(cmd *cobra.Command, err *pflag.InvalidValueError) error {
	flag, value, cause, fix := err.GetFlag(), err.GetValue(), errors.Unwrap(err), banger.FixOf(err)
	if fix == "" {
		cause = fmt.Errorf("%q is not a %s", value, flag.Value.Type())
		fix = cmd.CommandPath() + " --help"
		if _, err := strconv.ParseFloat(value, 64); err == nil && flag.Value.Type() == "duration" {
			return banger.Invalidf("--"+flag.Name+" "+value+"s", "--%s %q has no unit", flag.Name, value)
		}
		if flag.Value.Type() == "duration" {
			fix = "write a duration with its unit, such as 5s, 2m or 1h"
		}
	}
	return banger.Invalidf(fix, "--%s %w", flag.Name, cause)
}

// errorJSON is the form in which --json prints an error.
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

// report prints err as text to stderr, or as JSON to stdout.
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

// unexplained are the kinds of errors about which the daemon's log says more.
var unexplained = map[banger.Kind]bool{banger.Unknown: true, banger.TimedOut: true, banger.Unready: true}

func (a *app) printJSON(v any) error {
	encoder := json.NewEncoder(a.std.Out)
	encoder.SetEscapeHTML(false)
	if !a.lines {
		encoder.SetIndent("", "  ")
	}
	return encoder.Encode(v)
}

// clean replaces control characters in text from a guest or a tool.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return '?'
		}
		return r
	}, text)
}
