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
}

func (r *report) line(format string, args ...any) { fmt.Fprintf(r.out, format+"\n", args...) }

func (r *report) begin(part, why string) {
	r.part, r.began = part, time.Now()
	r.line("%s: %s", part, why)
}

func (r *report) step(name string) {
	r.endStep()
	if r.terminal {
		fmt.Fprintf(r.out, "  %s ...", name)
		r.stepped = time.Now()
		return
	}
	r.line("  %s", name)
}

func (r *report) endStep() {
	if !r.stepped.IsZero() {
		r.line(" %s", seconds(time.Since(r.stepped)))
		r.stepped = time.Time{}
	}
}

func (r *report) end(summary string, err error) {
	r.endStep()
	if err == nil {
		r.line("%s: done in %s: %s", r.part, seconds(time.Since(r.began)), summary)
	}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
