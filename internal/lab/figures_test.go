//go:build vm

package lab

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
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
	load, _ := os.ReadFile("/proc/loadavg")
	fmt.Fprintf(out, "\n%d CPUs; load at the end, of 1, 5 and 15 minutes: %s\n", runtime.NumCPU(), strings.Join(strings.Fields(string(load) + " ? ? ?")[:3], " "))
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "FIGURE\tUNIT\tGOAL\tMEDIAN\tRANGE\tN")
	for _, line := range f {
		fmt.Fprintf(w, "%s\t%s\t%s\t%.2f\t%.2f–%.2f\t%d\n", line.name, line.unit, line.goal,
			median(line.values), slices.Min(line.values), slices.Max(line.values), len(line.values))
	}
	w.Flush()
}

// median returns the middle value, or the mean of the two in the middle.
func median(values []float64) float64 {
	sorted, half := slices.Sorted(slices.Values(values)), len(values)/2
	if len(values)%2 == 1 {
		return sorted[half]
	}
	return (sorted[half-1] + sorted[half]) / 2
}

func TestFigures(t *testing.T) {
	var f figures
	for _, value := range []float64{4, 1, 3, 2} {
		f.add("exec", "s", "1.20", value)
	}
	f.add("list", "ms", "", 7)
	var out strings.Builder
	f.print(&out)
	for _, want := range []string{"exec    s     1.20  2.50    1.00–4.00  4\n", "list    ms          7.00    7.00–7.00  1\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
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
