package sshd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// openSSHSource names a directory with the source package of OpenSSH, whose scripts for
// regressions TestOpenSSHRegressions runs.
const openSSHSource = "BANGER_TEST_OPENSSH"

// regressions are the scripts about what a server does for a client that has logged in.
// docs/sessions.md has the others.
var regressions = strings.Fields("connect connect-uri exit-status exit-status-signal transfer " +
	"stderr-data stderr-after-eof broken-pipe yes-head agent-restrict agent-subprocess dynamic-forward forwarding")

// TestOpenSSHRegressions runs OpenSSH's own tests of its server against this one.
func TestOpenSSHRegressions(t *testing.T) {
	source := os.Getenv(openSSHSource)
	if source == "" {
		t.Skipf("set %s to a directory with OpenSSH's source package", openSSHSource)
	}
	dir := t.TempDir()
	sshd, objects := filepath.Join(dir, "sshd"), filepath.Join(dir, "objects")
	err := errors.Join(os.Mkdir(objects, 0o700), os.WriteFile(sshd, []byte("#!/bin/sh\n"+roleVariable+"=sshd exec "+self(t)+" \"$@\"\n"), 0o700))
	err = errors.Join(err, os.WriteFile(filepath.Join(objects, "mkdtemp"), []byte("#!/bin/sh\nexec mktemp -d /tmp/$1\n"), 0o700))
	if netcat, lacking := exec.LookPath("nc"); lacking == nil { // the source has its own
		err = errors.Join(err, os.Symlink(netcat, filepath.Join(objects, "netcat")))
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range regressions {
		script := filepath.Join(source, "regress", name+".sh")
		if _, err := os.Stat(script); err != nil {
			continue // of another version
		}
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "sh", filepath.Join(source, "regress", "test-exec.sh"), objects, script)
			cmd.Dir = objects
			cmd.Env = append(os.Environ(), "TEST_SHELL=/bin/sh", "TEST_SSH_SSHD="+sshd, "BUILDDIR="+source, "TEST_SSH_PORT=4242", "SUDO=")
			out, err := cmd.CombinedOutput()
			if err != nil || strings.Contains(string(out), "SKIPPED") {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

// runSSHD is as much of sshd's command line as the scripts use: on stdin and stdout with
// -i, else on the port of the configuration, in the background.
func runSSHD(args []string) error {
	config, onStdio, check := map[string][]string{}, false, false
	for i := 0; i < len(args); i++ {
		switch arg := args[i]; {
		case arg == "-f" && i+1 < len(args):
			i++
			eachLine(args[i], func(line string) {
				if words := strings.Fields(line); len(words) > 1 {
					key := strings.ToLower(words[0])
					config[key] = append(config[key], words[1])
				}
			})
		case arg == "-o" && i+1 < len(args):
			i++
		case arg == "-i":
			onStdio = true
		case arg == "-t", arg == "-T":
			check = true
		}
	}
	if check {
		return nil
	}
	server, err := serverOf(config)
	if err != nil {
		return err
	}
	if onStdio {
		server.Serve(stdioConn{os.Stdin})
		return nil
	}
	if os.Getenv(daemonVariable) == "" {
		return inBackground(args)
	}
	return serveTCP(server, config)
}

// daemonVariable tells a process that it is the one in the background.
const daemonVariable = "BANGER_SSHD_TEST_DAEMON"

func inBackground(args []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), daemonVariable+"=yes")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd.Start()
}

func serverOf(config map[string][]string) (*Server, error) {
	s := &Server{etc: "/etc", sockets: os.TempDir(), start: (*exec.Cmd).Start}
	for _, file := range config["hostkey"] {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if key, err := ssh.ParsePrivateKey(text); err == nil && (s.host == nil || key.PublicKey().Type() == ssh.KeyAlgoED25519) {
			s.host = key
		}
	}
	if s.host == nil || config["authorizedkeysfile"] == nil {
		return nil, errors.New("no host key or authorized keys")
	}
	me, err := user.Current()
	if err != nil {
		return nil, err
	}
	s.keys = func() []byte {
		text, _ := os.ReadFile(strings.ReplaceAll(config["authorizedkeysfile"][0], "%u", me.Username))
		return text
	}
	return s, nil
}

func serveTCP(server *Server, config map[string][]string) error {
	l, err := net.Listen("tcp", "127.0.0.1:"+config["port"][0])
	if err != nil {
		return err
	}
	pidFile := config["pidfile"][0]
	if err := os.WriteFile(pidFile, fmt.Appendln(nil, os.Getpid()), 0o600); err != nil {
		return err
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	go func() {
		<-ended
		os.Remove(pidFile)
		os.Exit(0)
	}()
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go server.Serve(conn)
	}
}

// stdioConn is a connection on stdin and stdout.
type stdioConn struct{ *os.File }

func (stdioConn) Write(b []byte) (int, error)      { return os.Stdout.Write(b) }
func (stdioConn) Close() error                     { return errors.Join(os.Stdin.Close(), os.Stdout.Close()) }
func (stdioConn) LocalAddr() net.Addr              { return &net.UnixAddr{} }
func (stdioConn) RemoteAddr() net.Addr             { return &net.UnixAddr{} }
func (stdioConn) SetDeadline(time.Time) error      { return nil }
func (stdioConn) SetReadDeadline(time.Time) error  { return nil }
func (stdioConn) SetWriteDeadline(time.Time) error { return nil }
