package instance

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkAttach measures what the network adds to a create by a plain user: cold is the
// first VM, which needs a namespace and the helper, warm is one more.
func BenchmarkAttach(b *testing.B) {
	n := open(b)
	attach := func(i int) (wall, cpu float64) {
		begun, before := time.Now(), cpuTime(b)
		if _, _, _, err := n.Attach(b.Context(), "", guestOf(n, i)); err != nil {
			b.Fatal(err)
		}
		return float64(time.Since(begun).Microseconds()) / 1000, cpuTime(b) - before
	}
	var cold, coldCPU, warm, warmCPU float64
	for b.Loop() {
		wall, cpu := attach(0)
		cold, coldCPU = cold+wall, coldCPU+cpu
		const more = 5
		for i := range more {
			wall, cpu := attach(i + 1)
			warm, warmCPU = warm+wall/more, warmCPU+cpu/more
		}
		for i := range more + 1 {
			if _, err := n.Detach(b.Context(), guestOf(n, i).ID); err != nil {
				b.Fatal(err)
			}
		}
	}
	for name, sum := range map[string]float64{"cold-ms": cold, "cold-cpu-ms": coldCPU, "warm-ms": warm, "warm-cpu-ms": warmCPU} {
		b.ReportMetric(sum/float64(b.N), name)
	}
	b.ReportMetric(0, "ns/op")
}

// cpuTime returns what this process and those that it has waited for have taken, in ms.
func cpuTime(b *testing.B) (sum float64) {
	b.Helper()
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var used unix.Rusage
		if err := unix.Getrusage(who, &used); err != nil {
			b.Fatal(err)
		}
		sum += float64(used.Utime.Nano()+used.Stime.Nano()) / 1e6
	}
	return sum
}
