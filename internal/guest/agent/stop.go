package agent

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guest/wire"
)

// ending is the stop under way, if any. A new one takes its place.
type ending struct {
	mu     sync.Mutex
	cancel context.CancelFunc
}

func (e *ending) begin() context.Context {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.cancel != nil {
		e.cancel()
	}
	ctx, cancel := context.WithCancel(context.Background())
	e.cancel = cancel
	return ctx
}

// verbs is how each verb is asked of systemd, of our own process 1 (which
// hears what busybox's init hears) and of the kernel.
var verbs = map[wire.Verb]struct {
	systemd, own unix.Signal
	reboot       int
}{
	wire.Poweroff: {sigRTMin + 4, unix.SIGUSR2, unix.LINUX_REBOOT_CMD_POWER_OFF},
	wire.Reboot:   {sigRTMin + 5, unix.SIGTERM, unix.LINUX_REBOOT_CMD_RESTART},
	wire.Halt:     {sigRTMin + 3, unix.SIGUSR1, unix.LINUX_REBOOT_CMD_POWER_OFF}, // a halted VM would stay for ever
}

// sigRTMin is SIGRTMIN as C libraries have it: they keep two to themselves.
const sigRTMin = unix.Signal(34)

// askAgain is how often an init that has not answered is asked.
const askAgain = 3 * time.Second

// stop begins an orderly end and returns at once.
func (s *server) stop(p wire.StopParams) error {
	if _, ok := verbs[p.Verb]; !ok {
		return fmt.Errorf("unknown verb %q", p.Verb)
	}
	ctx := s.ending.begin()
	logf(prioInfo, "host asks for %s within %d ms", p.Verb, p.GraceMS)
	go func() {
		grace := time.After(time.Duration(p.GraceMS) * time.Millisecond)
		crashed := make(chan struct{})
		go s.ask(ctx, p.Verb, crashed)
		select {
		case <-ctx.Done():
		case <-crashed:
			s.force(p.Verb, "the init has crashed")
		case <-grace:
			s.force(p.Verb, "the init has not ended the machine in time")
		}
	}()
	return nil
}

// ask asks the init to end the machine, in its own way. It closes crashed when
// there is nobody to ask.
func (s *server) ask(ctx context.Context, verb wire.Verb, crashed chan<- struct{}) {
	unix.Sync()
	switch s.init.kind() {
	case initNone:
		unix.Kill(1, verbs[verb].own)
	case initSystemd:
		sig := verbs[verb].systemd
		hears := func() bool { return firstBlocks(sig) }
		signal := func() (deaf bool) {
			unix.Kill(1, sig)
			return closedAll("/proc/1/fd")
		}
		if !askSystemd(ctx, s.init, hears, signal) {
			close(crashed)
		}
	default:
		s.askForeign(ctx, verb)
	}
}

// askSystemd signals until systemd says that it ends the machine: a signal that
// comes before it listens is lost without a trace. It goes on watching then: what
// has ended may have been a soft reboot's user space alone. It returns false when
// systemd has crashed. hears is asked when systemd itself has not said so.
func askSystemd(ctx context.Context, init *initWatch, hears func() bool, signal func() (deaf bool)) bool {
	tick := time.NewTicker(askAgain)
	defer tick.Stop()
	for deaf := 0; deaf < 2; {
		state, changed := init.state()
		switch {
		case state == wire.InitStopping || state == wire.InitShutdown:
		case state == wire.InitHears || state == wire.InitUp || state == wire.InitEmergency || hears():
			deaf++
			if !signal() {
				deaf = 0
			}
		}
		select {
		case <-ctx.Done():
			return true
		case <-changed:
		case <-tick.C:
		}
	}
	return false
}

// closedAll says whether a process has nothing open but what it was started
// with: a systemd that has crashed closes all, and sleeps for ever.
func closedAll(fds string) bool {
	open, err := os.ReadDir(fds)
	if err != nil {
		return false
	}
	for _, fd := range open {
		if n, err := strconv.Atoi(fd.Name()); err != nil || n > 2 {
			return false
		}
	}
	return true
}

// firstBlocks says whether process 1 blocks a signal, which systemd does with
// those it reads from a descriptor. It is the sign for a systemd that is too
// old to notify.
func firstBlocks(sig unix.Signal) bool {
	f, err := os.Open("/proc/1/status")
	if err != nil {
		return false
	}
	defer f.Close()
	return blocks(bufio.NewScanner(f), sig)
}

func blocks(status *bufio.Scanner, sig unix.Signal) bool {
	for status.Scan() {
		if mask, ok := strings.CutPrefix(status.Text(), "SigBlk:"); ok {
			set, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
			return err == nil && set&(1<<(uint(sig)-1)) != 0
		}
	}
	return false
}

// askForeign runs the image's own command.
func (s *server) askForeign(ctx context.Context, verb wire.Verb) {
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", string(verb))
	cmd.Env = []string{"PATH=" + defaultPath, "HOME=/root"}
	cmd.Dir = "/"
	if err := startInGuest(cmd); err != nil {
		logf(prioError, "run the image's %s: %v", verb, err)
		return
	}
	if err := cmd.Wait(); err != nil {
		logf(prioError, "the image's %s: %v", verb, err)
	}
}
