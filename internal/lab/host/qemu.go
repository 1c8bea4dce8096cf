package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strings"
	"sync"

	"banger"
	"banger/internal/hostcmd"
)

// memory is the host's memory, which its VMs share.
const memory = 6 * banger.GiB

// What the host prints on its console once it is ready, or has failed.
const (
	isReady  = "banger-lab: ready"
	notReady = "banger-lab: the host is not ready"
)

// args returns QEMU's arguments. They disable cmpxchg16b, which leaves wrong flags on a
// QEMU before 8.0 (ADR 16). There is one CPU: with two, QEMU's threads race with the
// changes that the kernel makes to its own code when KVM starts a VM.
func args(d disks, initrd string, port int, khz string) []string {
	all := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", "microvm,acpi=on,pic=on,pit=on,rtc=on,isa-serial=on",
		"-accel", "tcg,thread=multi,tb-size=1024", "-cpu", "max,cx16=off", "-smp", "1", "-m", fmt.Sprint(int64(memory / banger.MiB)),
		"-serial", "stdio",
		"-kernel", d.kernel.Vmlinux(), "-initrd", initrd, "-append", cmdline(khz),
		"-netdev", fmt.Sprintf("user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:%d-:22", port), "-device", "virtio-net-device,netdev=net",
		"-device", "virtio-rng-device",
	}
	for _, disk := range []struct{ name, path, options string }{
		{"image", d.image, "readonly=on"}, {"data", d.data, "snapshot=on"},
		{"modules", d.kernel.Modules(), "readonly=on"}, {"programs", d.programs, "readonly=on"},
	} {
		path := strings.ReplaceAll(disk.path, ",", ",,")
		all = append(all, "-drive", fmt.Sprintf("id=%s,if=none,format=raw,cache=unsafe,%s,file=%s", disk.name, disk.options, path),
			"-device", fmt.Sprintf("virtio-blk-device,drive=%[1]s,serial=%[1]s", disk.name))
	}
	return all
}

// cmdline returns the host kernel's command line. mitigations=off only makes the
// emulation faster. Without the frequency, the kernel can hang while it measures it on a
// busy machine, and later it can take the TSC for unstable, count ticks instead, and lose
// half of the time.
func cmdline(khz string) string {
	line := "console=ttyS0 loglevel=4 systemd.show_status=yes systemd.wants=lab.service panic=-1 reboot=t net.ifnames=0 mitigations=off random.trust_cpu=on cryptomgr.notests"
	if khz != "" {
		line += " tsc_early_khz=" + khz + " tsc=reliable"
	}
	return line
}

var frequency = regexp.MustCompile(`(?m)^cpu MHz\s*: (\d+)\.(\d{3})$`)

// khz returns this machine's CPU frequency, or "" if /proc/cpuinfo has none.
func khz(cpuinfo []byte) string {
	found := frequency.FindSubmatch(cpuinfo)
	if found == nil {
		return ""
	}
	return string(found[1]) + string(found[2])
}

// freePort returns a port that is free at the moment.
func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}

// boot starts QEMU and returns once the host is ready. QEMU ends with ctx, and ended
// receives its error then.
func (l *Lab) boot(ctx context.Context, argv []string) (ended <-chan error, err error) {
	console, err := os.Create(l.Console())
	if err != nil {
		return nil, err
	}
	watch := &watcher{to: console, good: isReady, bad: notReady, seen: make(chan bool, 1)}
	done := make(chan error, 1)
	go func() {
		defer console.Close()
		_, err := l.Runner.Run(ctx, hostcmd.Cmd{Argv: argv, Stdout: watch, Env: append(os.Environ(), "TMPDIR="+l.dir)})
		done <- err
	}()
	select {
	case ok := <-watch.seen:
		return done, l.setUp(ok)
	case err := <-done:
		done <- nil // for Close
		select {
		case ok := <-watch.seen: // just before the end
			return done, l.setUp(ok)
		default:
		}
		if ctx.Err() != nil {
			return done, ctx.Err()
		}
		return done, errors.Join(fmt.Errorf("boot the lab host: it ended before it was ready; its console is %s", l.Console()), err)
	}
}

func (l *Lab) setUp(ok bool) error {
	if !ok {
		return fmt.Errorf("boot the lab host: its set-up failed; its console is %s", l.Console())
	}
	return nil
}

// watcher copies the host's output and reports when it contains one of two words.
type watcher struct {
	to        io.Writer
	good, bad string
	last      []byte
	once      sync.Once
	seen      chan bool
}

func (w *watcher) Write(p []byte) (int, error) {
	w.last = append(w.last, p...)
	for _, word := range []string{w.good, w.bad} {
		if bytes.Contains(w.last, []byte(word)) {
			w.once.Do(func() { w.seen <- word == w.good })
		}
	}
	w.last = w.last[max(0, len(w.last)-max(len(w.good), len(w.bad))):]
	return w.to.Write(p)
}
