//go:build vm

package lab

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
)

// figure is a line of the table that the benchmarks print at the end.
type figure struct {
	name, unit, goal string
	values           []float64
}

// figures are in the order in which they were first measured.
type figures []*figure

// measured is what this run of the benchmarks has measured.
var measured figures

func (f *figures) add(name, unit, goal string, value float64) {
	for _, line := range *f {
		if line.name == name {
			line.values = append(line.values, value)
			return
		}
	}
	*f = append(*f, &figure{name, unit, goal, []float64{value}})
}

func (f *figures) millis(name, goal string, took time.Duration) {
	f.add(name, "ms", goal, float64(took.Microseconds())/1000)
}

// print writes the table. A missed goal is not a failure: hosts differ.
func (f figures) print(out io.Writer) {
	if len(f) == 0 {
		return
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nFIGURE\tUNIT\tGOAL\tMIN\tMEDIAN\tMAX\tN")
	for _, line := range f {
		sorted := slices.Sorted(slices.Values(line.values))
		fmt.Fprintf(w, "%s\t%s\t%s\t%.2f\t%.2f\t%.2f\t%d\n", line.name, line.unit, line.goal,
			sorted[0], sorted[len(sorted)/2], sorted[len(sorted)-1], len(sorted))
	}
	w.Flush()
}

// once skips further runs: one run measures many times.
func once(b *testing.B) {
	b.Helper()
	if b.N > 1 {
		b.Skip("use -benchtime 1x")
	}
}

// must runs a banger command that must succeed, and returns how long the process took.
func (h *home) must(b *testing.B, args ...string) time.Duration {
	b.Helper()
	begun := time.Now()
	r := h.run(context.Background(), nil, args...)
	took := time.Since(begun)
	if r.code != 0 {
		b.Fatalf("banger %s: exit %d\n%s", strings.Join(args, " "), r.code, r.stderr)
	}
	return took
}
