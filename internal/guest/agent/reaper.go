package agent

import (
	"fmt"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guest/wire"
)

// runReaper is process 1 of an image without an init: it reaps orphans and ends
// the machine when asked. The server is a process of its own, so that reaping
// takes nobody's exit status away.
func runReaper() int {
	caught := make(chan os.Signal, 64)
	signal.Notify(caught, unix.SIGCHLD, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGINT, unix.SIGHUP)
	reap()
	for sig := range caught {
		if sig == unix.SIGCHLD {
			reap()
			continue
		}
		for verb, v := range verbs {
			if sig == v.own {
				err := becomeLastStage(verb, caught)
				logf(prioError, "become last stage: %v; end the machine without", err)
				endInPlace(verb)
			}
		}
	}
	return 1
}

// endInPlace ends a machine that could not become the last stage: the kernel
// makes the disks read-only, which leaves them clean.
func endInPlace(verb wire.Verb) {
	config, err := readConfig(serverConfig())
	if err != nil {
		logf(prioError, "last stage: %v", err)
	}
	remountReadOnly()
	disks, _, _ := scanDisks()
	sayDiskErrors(config.Nonce, newDiskWatch(disks, nil).errors())
	sayBye(verb)
	sayOnConsole(wire.ConsoleBye + config.Nonce + " " + string(verb))
	endMachine(verb, config.ResetToOff)
}

func reap() {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
	}
}

// termTime is how long programs have after TERM when there is no init whose
// units could say.
const termTime = 3 * time.Second

// becomeLastStage ends all processes, makes lastRoot the root and executes the
// last stage there, as systemd-shutdown does. It returns only an error.
func becomeLastStage(verb wire.Verb, caught <-chan os.Signal) error {
	go func() {
		for sig := range caught {
			if sig == unix.SIGCHLD {
				reap()
			}
		}
	}()
	askSessions() // their shells do not hear TERM
	endProcesses(unix.SIGTERM, termTime)
	endProcesses(unix.SIGKILL, killTime)
	unix.Sync()
	// Below a shared root, which container engines ask for, nothing can be moved.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount(lastRoot, lastRoot, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", lastRoot, err)
	}
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		if err := unix.Mount(dir, lastRoot+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", dir, err)
		}
	}
	if err := unix.Chdir(lastRoot); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "oldroot"); err != nil {
		return fmt.Errorf("pivot root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	return unix.Exec("/"+nameShutdown, []string{"/" + nameShutdown, string(verb)}, nil)
}
