package shutdown

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guest/agent/disk"
	"banger/internal/guest/agent/imageinit"
	"banger/internal/guest/agent/layout"
	"banger/internal/guest/agent/log"
	"banger/internal/guest/agent/process"
	"banger/internal/guest/wire"
)

// Reaper is process 1 of an image without an init: it reaps orphans and ends the
// machine when it is asked to. The server is another process, so this takes away no
// exit status that the server waits for.
func Reaper() int {
	caught := make(chan os.Signal, 64)
	signal.Notify(caught, unix.SIGCHLD, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGINT, unix.SIGHUP, imageinit.SignalAwake)
	tell := serverTeller()
	reap()
	for sig := range caught {
		if sig == unix.SIGCHLD {
			reap()
			continue
		}
		if sig == imageinit.SignalAwake {
			tell(imageinit.Awake)
			continue
		}
		for verb, v := range verbs {
			if sig == v.own {
				tell(fmt.Sprintf("STATUS=Activating special unit %s.target...", verb)) // as systemd does
				err := becomeLastStage(verb, caught)
				log.Errorf("become last stage: %v; end the machine without it", err)
				endInPlace(verb)
			}
		}
	}
	return 1
}

// serverTeller returns a function that notifies the server, as systemd would.
func serverTeller() func(string) {
	conn, err := net.Dial("unixgram", layout.NotifySocket)
	if err != nil {
		log.Errorf("connect to the server: %v", err)
		return func(string) {}
	}
	return func(text string) { io.WriteString(conn, text) }
}

// endInPlace ends the machine if process 1 could not become the last stage.
func endInPlace(verb wire.Verb) {
	config, err := layout.ReadConfig(layout.CurrentConfig())
	if err != nil {
		log.Errorf("last stage: %v", err)
	}
	remountReadOnly()
	disk.PrintErrors(config.Nonce, disk.NewWatch(disk.Devices(), nil).Errors())
	sayBye(verb)
	printBye(config.Nonce, verb, "")
	EndMachine(verb, config.ResetToOff)
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

// termTime is how long programs may take to end after TERM. An init would know that
// of each of its services.
const termTime = 3 * time.Second

// becomeLastStage ends all processes, makes layout.LastRoot the root and executes the
// last stage there, as systemd-shutdown does. It returns only if that fails.
func becomeLastStage(verb wire.Verb, caught <-chan os.Signal) error {
	go func() {
		for sig := range caught {
			if sig == unix.SIGCHLD {
				reap()
			}
		}
	}()
	process.AskSessions() // their shells ignore TERM
	process.EndAll(unix.SIGTERM, termTime)
	process.EndAll(unix.SIGKILL, process.KillTime)
	unix.Sync()
	// Container engines make the root shared. Nothing can be moved below a shared root.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount(layout.LastRoot, layout.LastRoot, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", layout.LastRoot, err)
	}
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		if err := unix.Mount(dir, layout.LastRoot+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", dir, err)
		}
	}
	if err := unix.Chdir(layout.LastRoot); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "oldroot"); err != nil {
		return fmt.Errorf("pivot root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	return unix.Exec("/"+layout.NameShutdown, []string{"/" + layout.NameShutdown, string(verb)}, nil)
}
