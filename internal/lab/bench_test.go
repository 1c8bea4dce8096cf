//go:build vm

package lab

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger"
)

// pairs is how often banger and the bare VMM run in turn, in the order ABBA.
const pairs = 4

// BenchmarkCreateExec measures what a person waits for, with the default image and with
// the tiny one: the first exec in a new VM, its boot, and the first exec after a start.
// The ratios are to a VMM with the same kernel and settings and nothing of banger, not
// even its agent; the steps in banger's log show where its time goes.
func BenchmarkCreateExec(b *testing.B) {
	once(b)
	programs := barePrograms(b)
	b.Run("default", func(b *testing.B) { waiting{shared, "default", nil}.compare(b, programs) })
	b.Run("tiny", func(b *testing.B) { waiting{shared, "tiny", []string{"--image", shared.tiny(b)}}.compare(b, programs) })
}

// waiting measures VMs of one image.
type waiting struct {
	*home
	image string
	args  []string
}

// compare measures VMs with banger and bare ones in turn.
func (w waiting) compare(b *testing.B, programs string) {
	once(b)
	vm := w.files(b) // and what only a first VM has to do
	for i := range pairs {
		var ours, bare bareSeconds
		turns := []func(){
			func() { ours = w.measure(b, fmt.Sprintf("bench-%s-%d", w.image, i)) },
			func() { bare = w.bare(b, programs, vm) },
		}
		turns[i%2]()
		turns[1-i%2]()
		w.add("the same, bare VMM", "s", "", bare.first)
		w.add("  the bare VMM's CPU time", "s", "", bare.cpu)
		w.add("  their ratio", "", "", ours.first/bare.first)
		w.add("  ratio of their CPU times", "", "", ours.cpu/bare.cpu)
		b.Logf("%s image, pair %d: banger %.2f s, CPU %.2f s; bare VMM %.2f s, CPU %.2f s", w.image, i+1, ours.first, ours.cpu, bare.first, bare.cpu)
	}
	b.ReportMetric(0, "ns/op")
}

func (w waiting) add(name, unit, goal string, value float64) {
	indent := len(name) - len(strings.TrimLeft(name, " "))
	measured.add(name[:indent]+w.image+": "+name[indent:], unit, goal, value)
}

func (w waiting) millis(name string, took time.Duration) {
	w.add(name, "ms", "", float64(took.Microseconds())/1000)
}

func (w waiting) create(b *testing.B, name string) time.Duration {
	b.Helper()
	return w.must(b, append([]string{"vm", "create", "--name", name}, w.args...)...)
}

// files measures the files of a new VM. The VM is deleted when it returns.
func (w waiting) files(b *testing.B) banger.VM {
	b.Helper()
	name := "bench-" + w.image
	w.create(b, name)
	w.must(b, "vm", "exec", name, "--", "true")
	w.must(b, "vm", "exec", name, "--", "sync")
	vm := w.show(b, name)
	w.add("files of a VM after its first exec", "MiB", "10", float64(ownBlocks(b, vm.Dir))/float64(banger.MiB))
	w.must(b, "vm", "delete", "--yes", "--force", name)
	return vm
}

// measure measures the life of one VM, and returns its first part, which is compared with
// the bare VMM.
func (w waiting) measure(b *testing.B, name string) bareSeconds {
	b.Helper()
	begun := time.Now()
	create := w.create(b, name)
	first := w.must(b, "vm", "exec", name, "--", "true")
	s := bareSeconds{first: time.Since(begun).Seconds()}
	s.cpu = w.cpu(b, name)
	second := w.must(b, "vm", "exec", name, "--", "true")
	s.second = second.Seconds()
	w.must(b, "vm", "wait", "--for", "boot", "--timeout", bootTime.String(), name)
	w.add("create to the end of the first exec", "s", "", s.first)
	w.add("  the VMM's CPU time", "s", "", s.cpu)
	w.add("create to the boot's end", "s", "", time.Since(begun).Seconds())
	w.add("  the VMM's CPU time by then", "s", "", w.cpu(b, name))
	var warm []float64
	for range 3 {
		warm = append(warm, w.must(b, "vm", "exec", name, "--", "true").Seconds())
	}
	w.add("first exec beside a warm one", "times", "1.20", first.Seconds()/median(warm))
	w.add("second exec beside a warm one", "times", "1.20", s.second/median(warm))
	w.add("  warm exec", "ms", "", 1000*median(warm))
	for _, step := range w.steps(b, name, "create") {
		if step.Msg == "step" {
			w.millis("  create: "+step.Step, step.Took)
		}
	}
	w.millis("  create, whole process", create)
	w.millis("  first exec, whole process", first)

	w.must(b, "vm", "stop", "--grace", bootTime.String(), name)
	begun = time.Now()
	w.must(b, "vm", "start", name)
	w.must(b, "vm", "exec", name, "--", "true")
	w.add("start to the end of the first exec", "s", "", time.Since(begun).Seconds())
	w.add("  the VMM's CPU time, after a start", "s", "", w.cpu(b, name))
	w.must(b, "vm", "delete", "--yes", "--force", name)
	return s
}

// cpu returns the CPU seconds of a VM's VMM, with all its threads.
func (h *home) cpu(b *testing.B, name string) float64 {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", h.show(b, name).PID))
	if err != nil {
		b.Fatal(err)
	}
	_, after, _ := bytes.Cut(stat, []byte(") ")) // the name of the program may hold spaces
	fields := strings.Fields(string(after))
	var ticks int
	for _, field := range fields[11:13] { // utime and stime, in hundredths of a second on every Linux
		n, err := strconv.Atoi(field)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return float64(ticks) / 100
}

// ownBlocks returns what a VM's directory takes on the host, without the image and the
// kernel, which VMs share.
func ownBlocks(b *testing.B, dir string) banger.Size {
	b.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		b.Fatal(err)
	}
	var sum banger.Size
	for _, file := range files {
		var stat syscall.Stat_t
		if err := syscall.Lstat(filepath.Join(dir, file.Name()), &stat); err != nil {
			b.Fatal(err)
		}
		if stat.Nlink == 1 {
			sum += banger.Size(stat.Blocks) * 512
		}
	}
	return sum
}

// logged is a line in the daemon's log about a step.
type logged struct {
	Msg, Verb, VM, Step string
	Time                time.Time
	Took                time.Duration
}

// steps returns how long each step of a VM's operation took, from the daemon's log.
func (h *home) steps(b *testing.B, name, verb string) []logged {
	b.Helper()
	file, err := os.Open(h.dirs.Log())
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	var steps []logged
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var s logged
		if json.Unmarshal(lines.Bytes(), &s) == nil && s.VM == name && (s.Msg == "step" && s.Verb == verb || s.Msg == "VM ended") {
			steps = append(steps, s)
		}
	}
	return steps
}
