// Package shutdown ends the machine: it asks the image's init to stop, ends in its
// place if it does not, and is the last stage, which leaves the disks clean. It does
// not decide when a machine ends.
package shutdown

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

	"banger/internal/guest/agent/imageinit"
	"banger/internal/guest/agent/layout"
	"banger/internal/guest/agent/log"
	"banger/internal/guest/agent/process"
	"banger/internal/guest/wire"
)

// Stopper stops a running guest for its host.
type Stopper struct {
	Config wire.Config
	Init   *imageinit.Watch
	Disks  func() []wire.DiskErrors // those with errors
	Bye    func(wire.Event)         // sends the last event

	mu     sync.Mutex
	cancel context.CancelFunc // ends the stop under way
	asked  bool               // the sessions have been asked to end; only InitEntered uses it
}

// begin returns the context of a new stop, which replaces the one under way.
func (s *Stopper) begin() context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancel != nil {
		s.cancel()
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	return ctx
}

// askAgain is how often an init that has not answered is asked.
const askAgain = 3 * time.Second

// Stop begins an orderly end and returns at once.
func (s *Stopper) Stop(p wire.StopParams) error {
	if _, ok := verbs[p.Verb]; !ok {
		return fmt.Errorf("unknown verb %q", p.Verb)
	}
	ctx := s.begin()
	log.Infof("host asks for %s within %d ms", p.Verb, p.GraceMS)
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

// ask asks the init to end the machine, in the init's own way. It closes crashed if
// the init has crashed.
func (s *Stopper) ask(ctx context.Context, verb wire.Verb, crashed chan<- struct{}) {
	unix.Sync()
	switch s.Init.Kind() {
	case imageinit.None:
		unix.Kill(1, verbs[verb].own)
	case imageinit.Systemd:
		sig := verbs[verb].systemd
		hears := func() bool { return initBlocks(sig) }
		signal := func() (deaf bool) {
			unix.Kill(1, sig)
			return closedAll("/proc/1/fd")
		}
		if !askSystemd(ctx, s.Init, hears, signal) {
			close(crashed)
		}
	default:
		askForeign(ctx, verb)
	}
}

// askSystemd signals systemd until it reports that it ends the machine: a signal
// that comes before systemd listens is lost. It then keeps watching, because what
// ends may only be user space, for a soft reboot. It returns false if systemd has
// crashed. hears is for a systemd that does not report when it listens.
func askSystemd(ctx context.Context, init *imageinit.Watch, hears func() bool, signal func() (deaf bool)) bool {
	tick := time.NewTicker(askAgain)
	defer tick.Stop()
	for deaf := 0; deaf < 2; {
		state, changed := init.State()
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

// closedAll reports whether a process has only stdin, stdout and stderr open. A
// systemd that has crashed closes everything else, and sleeps for ever.
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

// initBlocks reports whether process 1 blocks a signal. systemd blocks the signals
// that it reads from a descriptor, so this shows that an old systemd listens.
func initBlocks(sig unix.Signal) bool {
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
func askForeign(ctx context.Context, verb wire.Verb) {
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", string(verb))
	cmd.Env = []string{"PATH=" + layout.DefaultPath, "HOME=/root"}
	cmd.Dir = "/"
	if err := process.Start(cmd); err != nil {
		log.Errorf("run the image's %s: %v", verb, err)
		return
	}
	if err := cmd.Wait(); err != nil {
		log.Errorf("the image's %s: %v", verb, err)
	}
}

// sessionTime bounds how long sessions may take to end if they are asked late.
const sessionTime = 2 * time.Second

// InitEntered ends the sessions when the init ends the machine. If a program in the
// guest has asked for the end, the init only shows it with its last units.
func (s *Stopper) InitEntered(state wire.Init) {
	switch state {
	case wire.InitStopping:
		process.AskSessions()
		s.asked = true
	case wire.InitShutdown:
		if s.asked {
			process.KillSessions()
			return
		}
		go func() {
			process.WaitGone(process.AskSessions(), sessionTime)
			process.KillSessions()
		}()
	default:
		s.asked = false
	}
}
