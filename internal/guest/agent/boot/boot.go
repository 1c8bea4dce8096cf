// Package boot is the first process of a guest: it mounts the root file system from
// the VM's disks, gives the guest its identity, starts the server and hands over to
// the image's init. What it needs for a step is in a package of its own.
package boot

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guest/agent/identity"
	"banger/internal/guest/agent/imageinit"
	"banger/internal/guest/agent/layout"
	"banger/internal/guest/agent/log"
	"banger/internal/guest/agent/modprobe"
	"banger/internal/guest/agent/server"
	"banger/internal/guest/agent/shutdown"
	"banger/internal/guest/timer"
	"banger/internal/guest/wire"
)

// boot is what the steps pass on to each other.
type boot struct {
	config  wire.Config
	release string            // of the kernel
	disks   map[string]string // device by label
	program string            // the image's init; empty: it has none
	kind    imageinit.Kind
}

// step is one step of the boot. fix is what a user can do when it fails.
type step struct {
	name string
	run  func(*boot) error
	fix  string
}

const (
	fixBundle = "make runtime, then create the VM again: its kernel set and its agent do not match"
	fixLog    = "read the VM's console log for the kernel's reason"
	fixImage  = "use an image with an ordinary root file system: banger image list"
	fixDisk   = "check the VM's disk on the host with e2fsck, or delete the VM"
)

// bootSteps is the boot, in order.
var bootSteps = []step{
	{"mount kernel file systems", (*boot).mountKernel, fixBundle},
	{"raise limits", (*boot).raiseLimits, fixBundle},
	{"read configuration", (*boot).readConfiguration, "start the VM again"},
	{wire.StepTimer, (*boot).checkTimer, "start the VM again when the host is less busy"},
	{"set clock", func(b *boot) error { return identity.Of(b.config).Clock.Set() }, fixLog},
	{"load modules", func(*boot) error { return modprobe.LoadBootModules() }, fixBundle},
	{"find disks", (*boot).findDisks, "put the VM's disks back into its directory, or delete the VM"},
	{"mount base", (*boot).mountBase, "import the image again: the VM's base is damaged"},
	{"mount overlay disk", (*boot).mountOverlayDisk, fixDisk},
	{"mount root", (*boot).mountRoot, fixLog},
	{"mount modules disk", (*boot).mountModules, fixBundle},
	{"mount direct directories", (*boot).mountDirect, fixDisk},
	{"mount work disk", (*boot).mountWork, fixDisk},
	{"mount run", (*boot).mountRun, fixImage},
	{"keep agent", (*boot).keepAgent, "create the VM with more memory (--memory)"},
	{"find init", (*boot).findInit, fixImage},
	{"mount temporary directory", (*boot).mountTemporary, fixImage},
	{"apply identity", (*boot).applyIdentity, fixDisk},
	{"set up network", (*boot).setUpNetwork, fixLog},
	{"prepare init", (*boot).prepareInit, fixLog},
	{"register modprobe", func(*boot) error { return modprobe.Register(layout.NewRoot) }, fixLog},
	{"mount terminals and control groups", (*boot).mountRest, fixBundle},
	{"become root", (*boot).becomeRoot, fixLog},
	{"start server", func(b *boot) error { return server.Start(holdInit) }, fixLog},
}

// Run is the first process. It returns only if it cannot end the machine.
func Run() int {
	b := &boot{}
	if failure := b.runSteps(bootSteps); failure != nil {
		b.fail(*failure)
		return 1
	}
	log.Infof("hand over to %s init %s", b.kind, b.program)
	if b.program != "" {
		err := handOver(b.program)
		b.fail(wire.Failure{Step: "start init", Why: fmt.Sprintf("exec %s: %v", b.program, err), Fix: fixImage})
		return 1
	}
	return shutdown.Reaper()
}

// holdInit is how long the image's init waits for the host to greet the server.
const holdInit = 500 * time.Millisecond

// slowStep is how long a step must take to be named in the log.
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
	// One line: the kernel drops messages that come too fast.
	log.Infof("root is up; ms: all %d%s", time.Since(begun).Milliseconds(), slow.String())
	return nil
}

// try turns a panic into an error: a panic of process 1 would be the kernel's.
func (s step) try(b *boot) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return s.run(b)
}

// handOver becomes the image's init. It returns only if that fails.
func handOver(program string) error {
	env := []string{
		"PATH=" + layout.DefaultPath,
		"HOME=/",
		"TERM=linux",
		"NOTIFY_SOCKET=" + layout.NotifySocket,
	}
	return unix.Exec(program, []string{program}, env)
}

func (b *boot) readConfiguration() error {
	path := "/" + wire.ConfigPath
	c, err := layout.ReadConfig(path)
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
		log.Errorf("check timer: %v", err) // a kernel that does not list its timers has one
	}
	return nil
}

// failedTime bounds how long a failed boot waits until the host knows.
const failedTime = 20 * time.Second

// fail tells the console and the host what failed, then ends the machine.
func (b *boot) fail(f wire.Failure) {
	log.Errorf("%s: %s", f.Step, f.Why)
	text, _ := json.Marshal(f)
	nonce := b.config.Nonce
	if nonce == "" {
		nonce = "-"
	}
	log.Console(wire.ConsoleFailed + nonce + " " + string(text))
	if f.Step != wire.StepTimer {
		server.ServeFailure(b.config, f, failedTime)
	}
	unix.Sync()
	shutdown.EndMachine(wire.Poweroff, b.config.ResetToOff)
}
