package sshd

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"banger/internal/guest/agent/layout"
	"banger/internal/guest/agent/log"
)

// managers starts systemd's managers of users, which PAM would have logind start. Each
// makes its user's runtime directory and serves `systemctl --user`.
type managers struct {
	start     func(*exec.Cmd) error
	booted    func() bool // reports whether the services of the boot are up
	dir       string      // has a directory for each user
	systemctl string      // the program

	mu  sync.Mutex
	ask map[uint32]*asked
}

// asked is a request for a manager.
type asked struct {
	over   chan struct{} // closed when it is answered
	failed bool
}

func newManagers(start func(*exec.Cmd) error, booted func() bool) *managers {
	return &managers{start: start, booted: booted, dir: "/run/user", systemctl: "systemctl", ask: map[uint32]*asked{}}
}

// need is how much a session needs its user's manager.
type need int

const (
	mayUse need = iota // it is started, for the next session
	waits              // the session waits for it if the guest has booted, as one of sshd does
	asks               // the session waits for it
)

// loginPatience bounds how long a login waits for its user's manager.
const loginPatience = 10 * time.Second

// names are the words by which a program asks for the manager.
var names = []string{"--user", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"}

// needOf returns what a program's arguments need, at least least.
func needOf(least need, argv ...string) need {
	for _, arg := range argv {
		for _, name := range names {
			if strings.Contains(arg, name) {
				return asks
			}
		}
	}
	return least
}

// provide starts the user's manager if need be.
func (m *managers) provide(user account, n need) {
	if m == nil || m.runs(user) || n != asks && !m.booted() {
		return
	}
	over := m.request(user, n)
	var late <-chan time.Time
	switch n {
	case mayUse:
		return
	case waits:
		late = time.After(loginPatience)
	}
	select {
	case <-over:
	case <-late:
		log.Infof("ssh: user manager of %s: not up after %v", user.name, loginPatience)
	}
}

// runs reports whether the user's manager listens.
func (m *managers) runs(user account) bool {
	_, err := os.Stat(m.of(user) + "/systemd/private")
	return err == nil
}

// of returns the user's runtime directory.
func (m *managers) of(user account) string {
	return m.dir + "/" + strconv.FormatUint(uint64(user.uid), 10)
}

// request asks systemd for a manager. What failed is asked for again only by a program
// that needs it: an image may have all but D-Bus or logind, which a manager needs.
func (m *managers) request(user account, n need) <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	last := m.ask[user.uid]
	if last != nil && !isOver(last) {
		return last.over
	}
	if last != nil && last.failed && n != asks {
		return last.over
	}
	a := &asked{over: make(chan struct{})}
	m.ask[user.uid] = a
	go func() {
		defer close(a.over)
		if err := m.call(user); err != nil {
			a.failed = true
			log.Infof("ssh: user manager of %s: %v", user.name, err)
		}
	}()
	return a.over
}

func isOver(a *asked) bool {
	select {
	case <-a.over:
		return true
	default:
		return false
	}
}

// call starts a manager and returns when it is up.
func (m *managers) call(user account) error {
	env := []string{"PATH=" + layout.DefaultPath, "LANG=" + defaultLocale}
	path, err := findProgram(m.systemctl, "/", env)
	if err != nil {
		return err
	}
	var said bytes.Buffer
	cmd := &exec.Cmd{Path: path, Args: []string{"systemctl", "start", "user@" + strconv.FormatUint(uint64(user.uid), 10) + ".service"},
		Env: env, Dir: "/", Stderr: &said}
	if err := m.start(cmd); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(said.String()))
	}
	return nil
}

// environment returns the variables by which programs find the manager. Without its
// directory there are none.
func (m *managers) environment(user account) variables {
	if m == nil {
		return nil
	}
	dir := m.of(user)
	info, err := os.Stat(dir)
	if err != nil || !info.IsDir() {
		return nil
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); !ok || owner.Uid != user.uid {
		return nil
	}
	v := variables{"XDG_RUNTIME_DIR": dir}
	if _, err := os.Stat(dir + "/bus"); err == nil {
		v["DBUS_SESSION_BUS_ADDRESS"] = "unix:path=" + dir + "/bus"
	}
	return v
}
