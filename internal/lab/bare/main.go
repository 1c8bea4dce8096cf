// Command bare measures a VM that has nothing of banger: QEMU or Firecracker on a kernel,
// and an initramfs with one program that answers on the serial port. It owns its own
// command lines, and imports nothing of this module, so that what banger is compared with
// shares no mistake and no cost with it.
//
// It prints the seconds from the VMM's start to the end of the first program in the
// guest, those of a second program, and the VMM's CPU seconds:
//
//	first 2.345 second 0.061 cpu 2.310
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// guest is what the VM consists of.
type guest struct {
	vmm, program, kernel, init string
	cpus, memory               int // MiB
}

// result is what was measured.
type result struct{ first, second, cpu time.Duration }

func (r result) String() string {
	return fmt.Sprintf("first %.3f second %.3f cpu %.3f", r.first.Seconds(), r.second.Seconds(), r.cpu.Seconds())
}

func main() {
	var g guest
	var limit time.Duration
	flag.StringVar(&g.vmm, "vmm", "qemu", "`name` of the VMM: qemu or firecracker")
	flag.StringVar(&g.program, "program", "", "the VMM's `file`, if it is not in PATH")
	flag.StringVar(&g.kernel, "kernel", "runtime/kernel/vmlinux", "`file` of the kernel")
	flag.StringVar(&g.init, "init", "", "`file` of the guest's program, built from internal/lab/bare/init")
	flag.IntVar(&g.cpus, "cpus", 1, "`number` of CPUs")
	flag.IntVar(&g.memory, "memory", 1024, "memory in `MiB`")
	flag.DurationVar(&limit, "timeout", 10*time.Minute, "the longest `time` that it may take")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	r, err := g.measure(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bare:", err)
		os.Exit(1)
	}
	fmt.Println(r)
}

// measure runs the VM in a directory that is gone afterwards.
func (g guest) measure(ctx context.Context) (r result, err error) {
	dir, err := os.MkdirTemp("", "bare-")
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	initramfs := filepath.Join(dir, "initramfs")
	program, err := os.ReadFile(g.init)
	if err != nil {
		return r, err
	}
	if err := os.WriteFile(initramfs, archive(program), 0o600); err != nil {
		return r, err
	}
	argv, err := g.argv(dir, initramfs)
	if err != nil {
		return r, err
	}
	return run(ctx, argv)
}

// argv returns the VMM's command line.
func (g guest) argv(dir, initramfs string) ([]string, error) {
	switch g.vmm {
	case "qemu":
		cpuinfo, err := os.ReadFile("/proc/cpuinfo")
		return g.qemu(initramfs, kvm(string(cpuinfo)), khz(string(cpuinfo))), err
	case "firecracker":
		file := filepath.Join(dir, "vm.json")
		return []string{or(g.program, "firecracker"), "--no-api", "--config-file", file}, os.WriteFile(file, g.firecracker(initramfs), 0o600)
	}
	return nil, fmt.Errorf("there is no VMM %q; use qemu or firecracker", g.vmm)
}

const cmdline = "console=ttyS0 quiet panic=-1 cryptomgr.notests"

func (g guest) qemu(initramfs string, kvm bool, khz string) []string {
	accel, line := []string{"-accel", "kvm", "-cpu", "host"}, cmdline+" reboot=t"
	if !kvm {
		// Without cmpxchg16b, after which a QEMU before 8.0 has wrong flags.
		accel = []string{"-accel", "tcg", "-cpu", "max,cx16=off"}
		if khz != "" { // else a kernel on a busy host can hang while it measures that
			line += " tsc_early_khz=" + khz + " tsc=reliable"
		}
	}
	return append([]string{or(g.program, "qemu-system-x86_64"), "-M", "microvm", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-smp", fmt.Sprint(g.cpus), "-m", fmt.Sprintf("%dM", g.memory), "-kernel", g.kernel, "-initrd", initramfs, "-append", line, "-serial", "stdio"}, accel...)
}

func (g guest) firecracker(initramfs string) []byte {
	type object map[string]any
	text, _ := json.Marshal(object{
		"boot-source":    object{"kernel_image_path": g.kernel, "initrd_path": initramfs, "boot_args": cmdline + " reboot=k pci=off i8042.noaux i8042.nomux i8042.dumbkbd"},
		"machine-config": object{"vcpu_count": g.cpus, "mem_size_mib": g.memory},
		"drives":         []object{},
	})
	return text
}

// run starts the VMM, waits for the guest, has it run its program twice, and kills the VMM.
func run(ctx context.Context, argv []string) (r result, err error) {
	ctx, kill := context.WithCancel(ctx)
	defer kill()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	in, err := cmd.StdinPipe()
	if err != nil {
		return r, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return r, err
	}
	cmd.Stderr = cmd.Stdout
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		return r, err
	}
	console := console{bufio.NewReader(out), in, nil}
	err = console.await("bare: ready")
	if err == nil {
		err = console.run()
		r.first = time.Since(begun)
	}
	if err == nil {
		asked := time.Now()
		err = console.run()
		r.second = time.Since(asked)
	}
	if err != nil && context.Cause(ctx) != nil {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	kill()
	cmd.Wait()
	r.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return r, err
}

// console is the guest's serial port.
type console struct {
	from *bufio.Reader
	to   io.Writer
	last []string // lines before an error
}

// run has the guest run its program.
func (c *console) run() error {
	if _, err := io.WriteString(c.to, "run\n"); err != nil {
		return err
	}
	return c.await("bare: done")
}

// await reads up to a line that ends with the word: the echo of ours may be before it.
func (c *console) await(word string) error {
	for {
		line, err := c.from.ReadString('\n')
		line = strings.TrimRight(line, "\r\n")
		if strings.HasSuffix(line, word) {
			return nil
		}
		c.last = append(c.last[max(0, len(c.last)-20):], line)
		if err != nil {
			return fmt.Errorf("the VMM ended before %q; it said:\n%s", word, strings.Join(c.last, "\n"))
		}
	}
}

// kvm reports whether the CPU has KVM's extensions, and this user may use it. The device
// can be there without them.
func kvm(cpuinfo string) bool {
	flags := strings.Fields(field(cpuinfo, "flags"))
	if !slices.Contains(flags, "vmx") && !slices.Contains(flags, "svm") {
		return false
	}
	file, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	file.Close()
	return true
}

// khz returns this machine's CPU frequency, or "".
func khz(cpuinfo string) string {
	whole, part, found := strings.Cut(field(cpuinfo, "cpu MHz"), ".")
	if !found {
		return ""
	}
	return whole + (part + "000")[:3]
}

// field returns a field of the first CPU.
func field(cpuinfo, name string) string {
	for line := range strings.Lines(cpuinfo) {
		if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func or(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}
