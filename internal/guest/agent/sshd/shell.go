package sshd

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/crypto/ssh"
)

// shellCommand returns what runs a command in the user's shell, or a login shell if
// there is none.
func (a account) shellCommand(command string) *exec.Cmd {
	shell := filepath.Base(a.shell)
	cmd := &exec.Cmd{Path: a.shell, Args: []string{"-" + shell}, Dir: a.directory()}
	if command != "" {
		cmd.Args = []string{shell, "-c", command}
	}
	return cmd
}

// logIn runs a shell or a command as sshd does.
func (s *session) logIn(cmd *exec.Cmd, command ...string) {
	if !s.admitted() {
		return
	}
	s.server.managers.provide(s.user, needOf(waits, command...))
	cmd.Env = s.environment(s.user).list()
	if err := s.user.enter(s.user.home); err != nil {
		fmt.Fprintf(s.channel.Stderr(), "Could not chdir to home directory %s: %v\r\n", s.user.home, err)
	}
	if s.tty != nil && len(command) == 0 {
		s.channel.Write(messageOfTheDay(s.user, s.server.motd))
	}
	s.run(s.user, afterRC(s.user, s.server.etc, cmd))
}

// barredStatus is sshd's exit status of a session that nologin bars.
const barredStatus = 254

// admitted reports whether the user may log in. Others than root may not while there is
// an /etc/nologin, whose text they get. The one that systemd makes in /run while it boots
// is not asked: a login does not wait for services.
func (s *session) admitted() bool {
	file := s.server.etc + "/nologin"
	if _, err := os.Lstat(file); err != nil || s.user.uid == 0 {
		return true
	}
	s.channel.Stderr().Write(bytes.ReplaceAll(readBounded(file), []byte("\n"), []byte("\r\n")))
	s.end(barredStatus)
	return false
}

// end ends a session that has no program.
func (s *session) end(status int) {
	s.channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(status)}))
	s.channel.Close()
}

// afterRC returns a command that runs ~/.ssh/rc, or else /etc/ssh/sshrc, before cmd.
func afterRC(user account, etc string, cmd *exec.Cmd) *exec.Cmd {
	for _, rc := range []string{filepath.Join(user.home, ".ssh", "rc"), etc + "/ssh/sshrc"} {
		if info, err := os.Stat(rc); err != nil || !info.Mode().IsRegular() {
			continue
		}
		args := cmd.Args[1:]
		if len(args) == 0 { // a shell cannot say that another is a login shell but by -l
			args = []string{"-l"}
		}
		first := *cmd
		first.Path = "/bin/sh"
		first.Args = append([]string{"sh", "-c", `/bin/sh "$0" </dev/null; exec "$@"`, rc, cmd.Path}, args...)
		return &first
	}
	return cmd
}

// environment returns the environment of a session: what the client has sent, and what
// has precedence over that.
func (s *session) environment(user account) variables {
	v := variables{"LANG": defaultLocale}
	maps.Copy(v, s.env)
	for name := range v {
		if ofSession[name] {
			delete(v, name)
		}
	}
	v.login(user, s.server.etc)
	maps.Copy(v, s.server.managers.environment(user))
	maps.Copy(v, s.server.route.variables())
	if s.tty != nil && s.tty.Term != "" {
		dirs := append([]string{filepath.Join(user.home, ".terminfo")}, s.server.terminfo...)
		v["TERM"] = knownTerminal(s.tty.Term, dirs)
	}
	if s.conn != nil {
		if path := s.conn.agentPath(); path != "" {
			v["SSH_AUTH_SOCK"] = path
		}
	}
	return v
}

// ofSession are variables that tell of a session where the client is.
var ofSession = map[string]bool{"SSH_TTY": true, "SSH_AUTH_SOCK": true, "XDG_RUNTIME_DIR": true, "DBUS_SESSION_BUS_ADDRESS": true,
	"XDG_SESSION_ID": true, "XDG_SESSION_TYPE": true, "XDG_SESSION_CLASS": true, "XDG_SEAT": true, "XDG_VTNR": true}
