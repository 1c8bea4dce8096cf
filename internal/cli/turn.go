package cli

import "fmt"

// turn tells a person that a busy VM lets others log in first. Without a person, nothing
// is mixed into the program's output.
type turn struct {
	app   *app
	shown bool
}

func (a *app) newTurn() *turn { return &turn{app: a} }

func (t *turn) waiting(before int) {
	if !t.app.std.ErrTTY {
		return
	}
	t.over()
	t.shown = true
	fmt.Fprintf(t.app.std.Err, "waiting: the VM is busy, %d before this one", before)
}

// over removes the line.
func (t *turn) over() {
	if t.shown {
		fmt.Fprint(t.app.std.Err, "\r\x1b[K")
	}
	t.shown = false
}
