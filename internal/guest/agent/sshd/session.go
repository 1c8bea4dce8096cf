package sshd

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"

	"banger/internal/guest/agent/layout"
	"banger/internal/guest/agent/log"
	"banger/internal/guest/wire"
)

// session is one session channel, which runs at most one program.
type session struct {
	server  *Server
	conn    *connection
	channel ssh.Channel
	user    account
	env     variables
	envSize int
	tty     *ttyRequest
	parts   []byte // of the ExecRequest that comes
	begun   bool
	direct  bool // an ExecRequest: it ends with its program
	program *program
}

type ttyRequest struct {
	Term                      string
	Cols, Rows, Width, Height uint32
	Modes                     string
}

// maxEnv bounds the environment a client sets: execve(2) takes no more.
const maxEnv = 6 << 20

// serve takes requests until the client closes the channel or is gone. A program
// that still runs then is hung up.
func (s *session) serve(requests <-chan *ssh.Request) {
	for r := range requests {
		act, err := s.take(r)
		if err != nil {
			log.Infof("ssh: %s: %v", r.Type, err)
		}
		if r.WantReply {
			r.Reply(err == nil, nil)
		}
		// Only after the reply: when the program ends, so does the channel.
		if act != nil {
			act()
		}
	}
	if s.program != nil {
		s.program.hangUp()
	}
}

var (
	errBegun   = errors.New("the session already has a program")
	errHasTTY  = errors.New("the session already has a terminal")
	errUnknown = errors.New("unknown request")
)

// take decides on a request. It returns what to do after the reply.
func (s *session) take(r *ssh.Request) (act func(), err error) {
	switch r.Type {
	case "shell", "exec", "subsystem", wire.ExecRequest:
		if s.begun {
			return nil, errBegun
		}
		command, err := s.command(r)
		s.begun, s.parts = err == nil, nil
		return command, err
	case wire.ExecPartRequest:
		return nil, s.addPart(r.Payload)
	case "env":
		return nil, s.setEnv(r.Payload)
	case "pty-req":
		return nil, s.askTTY(r.Payload)
	case "window-change":
		return nil, s.resize(r.Payload)
	case "signal":
		return nil, s.signal(r.Payload)
	case "auth-agent-req@openssh.com":
		return nil, s.conn.openAgent()
	case "break": // it has no effect on a pseudo-terminal, with sshd neither
		if s.tty != nil {
			return nil, nil
		}
	}
	return nil, errUnknown
}

func (s *session) addPart(payload []byte) error {
	if s.begun {
		return errBegun
	}
	if len(s.parts)+len(payload) > wire.MaxExec {
		return fmt.Errorf("more than %d bytes", wire.MaxExec)
	}
	s.parts = append(s.parts, payload...)
	return nil
}

func (s *session) askTTY(payload []byte) error {
	if s.tty != nil || s.begun {
		return errHasTTY
	}
	tty := &ttyRequest{}
	if err := ssh.Unmarshal(payload, tty); err != nil {
		return err
	}
	if strings.ContainsAny(tty.Term, "\x00\n") {
		return fmt.Errorf("terminal %q", tty.Term)
	}
	s.tty = tty
	return nil
}

func (s *session) setEnv(payload []byte) error {
	var v struct{ Name, Value string }
	if err := ssh.Unmarshal(payload, &v); err != nil {
		return err
	}
	s.envSize += len(v.Name) + len(v.Value) + 2
	if v.Name == "" || strings.ContainsAny(v.Name, "=\x00") || strings.Contains(v.Value, "\x00") || s.envSize > maxEnv {
		return fmt.Errorf("environment variable %q", v.Name)
	}
	if isLocale(v.Name) && !hasLocale(s.server.locales, v.Value) {
		return fmt.Errorf("the image has no locale %q", v.Value)
	}
	if s.env == nil {
		s.env = variables{}
	}
	s.env[v.Name] = v.Value
	return nil
}

func (s *session) resize(payload []byte) error {
	var size struct{ Cols, Rows, Width, Height uint32 }
	if err := ssh.Unmarshal(payload, &size); err != nil {
		return err
	}
	if s.tty == nil {
		return errors.New("no terminal")
	}
	s.tty.Cols, s.tty.Rows, s.tty.Width, s.tty.Height = size.Cols, size.Rows, size.Width, size.Height
	if s.program == nil {
		return nil
	}
	return s.program.resize(s.tty)
}

func (s *session) signal(payload []byte) error {
	var v struct{ Name string }
	if err := ssh.Unmarshal(payload, &v); err != nil {
		return err
	}
	sig, ok := signalOf(v.Name)
	if !ok || s.program == nil {
		return fmt.Errorf("signal %q", v.Name)
	}
	s.program.signal(sig)
	return nil
}

// subsystem returns what serves a subsystem, or nil.
func (s *session) subsystem(name string) *exec.Cmd {
	cmd := &exec.Cmd{Path: "/proc/self/exe", Env: s.environment(s.user).list(), Dir: s.user.directory()}
	switch name {
	case wire.TransferSubsystem:
		cmd.Args = []string{layout.NameTransfer}
	case wire.ExportSubsystem:
		cmd.Args = []string{layout.NameExport}
	case "sftp":
		cmd.Args = []string{layout.NameSFTP}
		if path := findSFTP(s.server.sftp); path != "" {
			cmd.Path, cmd.Args = path, []string{path}
		}
	default:
		return nil
	}
	return cmd
}

// command returns what runs the program that a request asks for.
func (s *session) command(r *ssh.Request) (func(), error) {
	var v struct{ Text string }
	if r.Type == "exec" || r.Type == "subsystem" {
		if err := ssh.Unmarshal(r.Payload, &v); err != nil {
			return nil, err
		}
	}
	switch r.Type {
	case "shell":
		return func() { s.logIn(s.user.shellCommand("")) }, nil
	case "exec":
		return func() { s.logIn(s.user.shellCommand(v.Text), v.Text) }, nil
	case "subsystem":
		cmd := s.subsystem(v.Text)
		if cmd == nil {
			return nil, fmt.Errorf("subsystem %q", v.Text)
		}
		s.tty = nil
		return func() {
			if s.admitted() {
				s.run(s.user, cmd)
			}
		}, nil
	}
	return s.execCommand(append(s.parts, r.Payload...))
}

// execCommand returns what runs the program of an ExecRequest.
func (s *session) execCommand(payload []byte) (func(), error) {
	var e wire.Exec
	if err := json.Unmarshal(payload, &e); err != nil {
		return nil, err
	}
	if len(e.Argv) == 0 {
		return nil, errors.New("no program")
	}
	return func() {
		user, cmd, err := s.prepareExec(e)
		if err != nil {
			s.refuse(err)
			return
		}
		s.direct = true
		s.run(user, cmd)
	}, nil
}

func (s *session) prepareExec(e wire.Exec) (account, *exec.Cmd, error) {
	user := s.user
	if e.User != "" {
		var err error
		if user, err = lookupAccount(s.server.etc, e.User); err != nil {
			return user, nil, err
		}
	}
	cmd := &exec.Cmd{Dir: user.directory()}
	for _, arg := range e.Argv {
		cmd.Args = append(cmd.Args, string(arg))
	}
	least := mayUse
	if s.tty != nil {
		least = waits
	}
	s.server.managers.provide(user, needOf(least, cmd.Args...))
	cmd.Env = s.environment(user).list()
	for _, v := range e.Env {
		cmd.Env = append(cmd.Env, string(v))
	}
	if len(e.Workdir) > 0 {
		cmd.Dir = filepath.Join(cmd.Dir, string(e.Workdir))
		if filepath.IsAbs(string(e.Workdir)) {
			cmd.Dir = string(e.Workdir)
		}
		if err := user.enter(cmd.Dir); err != nil {
			return user, nil, fmt.Errorf("%s: %v", cmd.Dir, err)
		}
	}
	path, err := findProgram(cmd.Args[0], cmd.Dir, cmd.Env)
	cmd.Path = path
	return user, cmd, err
}

// notInPATH is the error for a program that does not exist.
type notInPATH string

func (n notInPATH) Error() string { return "the VM has no program " + string(n) + " in its PATH" }

func (notInPATH) Is(target error) bool { return target == fs.ErrNotExist }

// findProgram returns the file that a shell in dir with this environment would run.
func findProgram(name, dir string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = dir + "/" + name
		}
		return name, nil
	}
	path := ""
	for _, v := range env {
		if value, ok := strings.CutPrefix(v, "PATH="); ok {
			path = value
		}
	}
	err := error(notInPATH(name))
	for _, at := range filepath.SplitList(path) {
		if !filepath.IsAbs(at) {
			at = dir + "/" + at
		}
		file := at + "/" + name
		info, statErr := os.Stat(file)
		if statErr != nil || !info.Mode().IsRegular() {
			continue
		}
		if info.Mode()&0o111 != 0 {
			return file, nil
		}
		err = &fs.PathError{Op: "exec", Path: file, Err: syscall.EACCES}
	}
	return "", err
}
