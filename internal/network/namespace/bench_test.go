package namespace

import (
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// What the role costs in a namespace of its own, in one that exists, and in none, beside a
// process that does nothing; and what Check costs.
func Benchmark(b *testing.B) {
	ns, _, err := Make(b.Context(), Request{})
	if err != nil {
		b.Skip(err)
	}
	defer ns.Close()
	for name, run := range map[string]func() error{
		"make": func() error {
			made, _, err := Make(b.Context(), Request{Apply: wanted("aaaaaaaa")})
			if err == nil {
				made.Close()
			}
			return err
		},
		"enter":   func() error { _, err := Run(b.Context(), ns, Request{Apply: wanted("aaaaaaaa")}); return err },
		"here":    func() error { _, err := Run(b.Context(), nil, Request{}); return err },
		"check":   func() error { return Check(b.Context()) },
		"nothing": func() error { return exec.Command("/bin/true").Run() },
		"vmm": func() error {
			return exec.Command("nsenter", ns.Enter("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--", "/bin/true")...).Run()
		},
	} {
		b.Run(name, func(b *testing.B) {
			before := cpu(b)
			for b.Loop() {
				if err := run(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(cpu(b)-before)/1e6/float64(b.N), "cpu-ms/op")
		})
	}
}

// cpu returns the CPU time of this process and its children in nanoseconds. Other than the
// time that passes, it hardly depends on what else the host does.
func cpu(b *testing.B) (sum int64) {
	b.Helper()
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var used unix.Rusage
		if err := unix.Getrusage(who, &used); err != nil {
			b.Fatal(err)
		}
		sum += used.Utime.Nano() + used.Stime.Nano()
	}
	return sum
}
