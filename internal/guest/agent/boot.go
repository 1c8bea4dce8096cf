package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guest/timer"
	"banger/internal/guest/wire"
)

// boot is what the steps hand on to each other.
type boot struct {
	config  wire.Config
	release string            // of the kernel
	disks   map[string]string // device by label
	program string            // the image's init; empty: it has none
	kind    initKind
}

// step is one step of the boot. fix is what a user can do when it fails.
type step struct {
	name string
	run  func(*boot) error
	fix  string
}

const (
	fixBundle = "make runtime, then create the VM again: its kernel set and its agent do not fit each other"
	fixLog    = "read the VM's console log for the kernel's reason"
	fixImage  = "use an image with an ordinary root file system: banger image list"
	fixDisk   = "check the VM's disk on the host with e2fsck, or delete the VM"
)

// newRoot is where the root file system comes together.
const newRoot = "/newroot"

// bootSteps is the boot, in order.
var bootSteps = []step{
	{"mount kernel file systems", (*boot).mountKernel, fixBundle},
	{"read configuration", (*boot).readConfiguration, "start the VM again"},
	{wire.StepTimer, (*boot).checkTimer, "start the VM again when the host is less busy"},
	{"set clock", (*boot).setClock, fixLog},
	{"load modules", (*boot).loadModules, fixBundle},
	{"find disks", (*boot).findDisks, "see that the VM's disks are in its directory, or delete the VM"},
	{"mount base", (*boot).mountBase, "make the image again: the VM's base is damaged"},
	{"mount overlay disk", (*boot).mountOverlayDisk, fixDisk},
	{"mount root", (*boot).mountRoot, fixLog},
	{"mount modules disk", (*boot).mountModules, fixBundle},
	{"mount direct directories", (*boot).mountDirect, fixDisk},
	{"mount work disk", (*boot).mountWork, fixDisk},
	{"mount run", (*boot).mountRun, fixImage},
	{"keep agent", (*boot).keepAgent, "create the VM with more memory (--memory)"},
	{"find init", (*boot).findInit, fixImage},
	{"mount temporary directory", (*boot).mountTemporary, fixImage},
	{"write identity", (*boot).writeIdentity, fixDisk},
	{"write host key", (*boot).writeHostKey, fixDisk},
	{"prepare init", (*boot).prepareInit, fixLog},
	{"register modprobe", (*boot).registerModprobe, fixLog},
	{"mount terminals and control groups", (*boot).mountRest, fixBundle},
	{"become root", (*boot).becomeRoot, fixLog},
	{"raise loopback", (*boot).raiseLoopback, fixLog},
	{"start server", (*boot).startServer, fixLog},
}

// runBoot is the life of the first process: it returns only when it could not
// end the machine.
func runBoot() int {
	b := &boot{}
	if failure := b.runSteps(bootSteps); failure != nil {
		b.fail(*failure)
		return 1
	}
	logf(prioInfo, "hand over to %s init %s", b.kind, b.program)
	if b.program != "" {
		err := handOver(b.program)
		b.fail(wire.Failure{Step: "start init", Why: fmt.Sprintf("exec %s: %v", b.program, err), Fix: fixImage})
		return 1
	}
	return runReaper()
}

// slowStep is what a step must take to be named in the log.
const slowStep = 10 * time.Millisecond

func (b *boot) runSteps(steps []step) *wire.Failure {
	begun := time.Now()
	var slow strings.Builder
	for _, s := range steps {
		before := time.Now()
		if err := s.try(b); err != nil {
			return &wire.Failure{Step: s.name, Why: err.Error(), Fix: s.fix}
		}
		if took := time.Since(before); took >= slowStep {
			fmt.Fprintf(&slow, ", %s %d", s.name, took.Milliseconds())
		}
	}
	// One line: the kernel drops what comes too fast.
	logf(prioInfo, "root is up; ms: all %d%s", time.Since(begun).Milliseconds(), slow.String())
	return nil
}

// try turns a panic into an error: one of process 1 would be the kernel's.
func (s step) try(b *boot) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return s.run(b)
}

// handOver becomes the image's init; it returns only an error.
func handOver(program string) error {
	env := []string{
		"PATH=" + defaultPath,
		"HOME=/",
		"TERM=linux",
		"NOTIFY_SOCKET=" + notifySocket,
	}
	return unix.Exec(program, []string{program}, env)
}

func (b *boot) readConfiguration() error {
	path := "/" + wire.ConfigPath
	c, err := readConfig(path)
	if err != nil {
		return err
	}
	b.config = c
	if c.Version != wire.Version {
		return fmt.Errorf("configuration has version %d, this agent knows %d", c.Version, wire.Version)
	}
	if c.Nonce == "" || c.Token == "" {
		return errors.New("configuration has no nonce or no token")
	}
	return os.Remove(path)
}

// checkTimer fails if the kernel could not measure its timer: the guest would
// wait for ever at its first wait. The host then starts the VM again.
func (*boot) checkTimer() error {
	if err := timer.Check(); errors.Is(err, timer.ErrUnmeasured) {
		return err
	} else if err != nil {
		logf(prioError, "check timer: %v", err) // a kernel without the list has its timer
	}
	return nil
}

// clockBehind and clockAhead are how far the guest's clock may be from the
// moment the host wrote the configuration. It cannot be earlier; it is later
// by the time the boot took.
const (
	clockBehind = time.Second
	clockAhead  = time.Hour
)

func (b *boot) setClock() error {
	if b.config.UnixNano == 0 {
		return nil
	}
	off := time.Since(time.Unix(0, b.config.UnixNano))
	if off > -clockBehind && off < clockAhead {
		return nil
	}
	return setClock(b.config.UnixNano)
}

func setClock(nano int64) error {
	t := unix.NsecToTimespec(nano)
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &t); err != nil {
		return fmt.Errorf("set clock: %w", err)
	}
	return nil
}

// clockOff is how far the clock may be from what the host tells, which is some
// moments old when it arrives.
const clockOff = time.Second

// followClock sets the clock when it is wrong.
func followClock(nano int64) error {
	if time.Since(time.Unix(0, nano)).Abs() < clockOff {
		return nil
	}
	return setClock(nano)
}

// failedTime bounds how long a failed boot waits for the host to hear of it.
const failedTime = 20 * time.Second

// fail tells the console and the host what failed, then ends the machine.
func (b *boot) fail(f wire.Failure) {
	logf(prioError, "%s: %s", f.Step, f.Why)
	text, _ := json.Marshal(f)
	nonce := b.config.Nonce
	if nonce == "" {
		nonce = "-"
	}
	sayOnConsole(wire.ConsoleFailed + nonce + " " + string(text))
	if f.Step != wire.StepTimer {
		serveFailure(b.config, f, failedTime)
	}
	unix.Sync()
	endMachine(wire.Poweroff, b.config.ResetToOff)
}
