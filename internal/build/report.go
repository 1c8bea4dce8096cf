package build

import (
	"fmt"
	"io"
	"time"
)

// report prints the progress of a build. On a terminal it adds the time to a step's
// line when the step ends; elsewhere it prints the line when the step begins.
type report struct {
	out      io.Writer
	terminal bool
	part     string
	began    time.Time // the part
	stepped  time.Time // the step; zero when none is open
	name     string    // of the step
	percent  int       // of the step, as it was shown last
}

func (r *report) line(format string, args ...any) { fmt.Fprintf(r.out, format+"\n", args...) }

func (r *report) begin(part, why string) {
	r.part, r.began = part, time.Now()
	r.line("%s: %s", part, why)
}

func (r *report) step(name string) {
	r.endStep()
	r.name, r.percent = name, 0
	if r.terminal {
		fmt.Fprintf(r.out, "  %s ...", name)
		r.stepped = time.Now()
		return
	}
	r.line("  %s", name)
}

// part of a step that is shown in a log.
const quarter = 25

// done shows how much of a long step is done.
func (r *report) done(percent int) {
	switch {
	case percent <= r.percent:
		return
	case r.terminal:
		fmt.Fprintf(r.out, "\r  %s ... %d %%", r.name, percent)
	case percent/quarter > r.percent/quarter:
		r.line("  %s: %d %%", r.name, percent/quarter*quarter)
	}
	r.percent = percent
}

func (r *report) endStep() {
	if r.stepped.IsZero() {
		return
	}
	if r.percent > 0 {
		fmt.Fprintf(r.out, "\r\x1b[K  %s ...", r.name)
	}
	r.line(" %s", seconds(time.Since(r.stepped)))
	r.stepped = time.Time{}
}

func (r *report) end(summary string, err error) {
	r.endStep()
	if err == nil {
		r.line("%s: done in %s: %s", r.part, seconds(time.Since(r.began)), summary)
	}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
