package apply

import (
	"testing"
	"time"

	"banger/internal/network"
)

// BenchmarkApply measures the changes that a user waits for.
func BenchmarkApply(b *testing.B) {
	if !inside(b) {
		return
	}
	one, two := plan(network.Bridge, 1), plan(network.Bridge, 2)
	off := plan(network.Bridge, 1)
	off.Guests[0].Egress = false
	many := plan(network.Bridge, 100)
	for _, bench := range []struct {
		name string
		a, b network.Wanted
	}{
		{"first-and-last-guest", one, none(one)},
		{"unchanged", one, one},
		{"egress", off, one},
		{"another-guest", two, one},
		{"unchanged-with-100", many, many},
	} {
		b.Run(bench.name, func(b *testing.B) {
			mustApply(b, bench.b)
			var there, back float64
			for range b.N {
				there += milliseconds(b, bench.a)
				back += milliseconds(b, bench.b)
			}
			b.ReportMetric(there/float64(b.N), "ms/there")
			b.ReportMetric(back/float64(b.N), "ms/back")
		})
	}
}

func milliseconds(b *testing.B, w network.Wanted) float64 {
	at := time.Now()
	mustApply(b, w)
	return float64(time.Since(at).Microseconds()) / 1000
}
