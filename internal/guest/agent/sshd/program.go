package sshd

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guest/wire"
)

// program is a session's program, in a session and process group of its own.
type program struct {
	cmd    *exec.Cmd
	start  func() error
	tty    *os.File   // the master of its terminal, if it has one
	ours   []*os.File // everything the server holds of it
	outs   []*output  // those of them that it writes to
	copies sync.WaitGroup

	mu    sync.Mutex
	ended bool
	done  chan struct{} // closed when ended
}

// run starts a program and returns. attend follows it in the background.
func (s *session) run(user account, cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: user.credential()}
	p := &program{cmd: cmd, done: make(chan struct{})}
	p.start = func() error {
		return asLogin(user.uid, s.server.etc, func() error { return s.server.start(cmd) })
	}
	begin := s.startPiped
	if s.tty != nil {
		begin = s.startOnTTY
	}
	if err := begin(p, user); err != nil {
		p.close()
		s.refuse(explain(err, cmd))
		return
	}
	s.program = p
	go s.attend(p)
}

// refuse ends a session whose program could not be started, as a shell would.
func (s *session) refuse(err error) {
	fmt.Fprintf(s.channel.Stderr(), "banger: %v\r\n", err)
	status := wire.ExitCannotRun
	if errors.Is(err, fs.ErrNotExist) {
		status = wire.ExitNotFound
	}
	s.end(status)
}

func (s *session) startPiped(p *program, user account) error {
	var theirs, ours [3]*os.File
	for i := range theirs {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		theirs[i], ours[i] = w, r
		if i == 0 {
			theirs[i], ours[i] = r, w
		}
		defer theirs[i].Close()
		p.ours = append(p.ours, ours[i])
		if user.credential() != nil { // else it could not open /dev/stdout
			if err := theirs[i].Chown(int(user.uid), int(user.gid)); err != nil {
				return err
			}
		}
	}
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = theirs[0], theirs[1], theirs[2]
	if err := p.start(); err != nil {
		return err
	}
	go func() {
		if _, err := io.Copy(ours[0], s.channel); errors.Is(err, unix.EPIPE) && s.conn.isOpenSSH() {
			s.channel.SendRequest("eow@openssh.com", false, nil) // it need not send more
		}
		ours[0].Close()
	}()
	p.copyOut(&output{s.channel, ours[1], copyLate})
	p.copyOut(&output{s.channel.Stderr(), ours[2], copyLate})
	return nil
}

// copyOut copies output until its end. When the client of a running program is gone the
// pipe is closed, which the program notices.
func (p *program) copyOut(o *output) {
	p.outs = append(p.outs, o)
	p.copies.Go(func() {
		o.copy()
		if p.running() {
			o.from.Close()
		} else {
			go o.drop()
		}
	})
}

func (s *session) startOnTTY(p *program, user account) error {
	master, slave, err := openTTY()
	if err != nil {
		return err
	}
	defer slave.Close()
	p.tty, p.ours = master, []*os.File{master}
	if user.credential() != nil {
		group := groupNamed(s.server.etc+"/group", "tty", user.gid)
		if err := errors.Join(slave.Chown(int(user.uid), int(group)), slave.Chmod(0o620)); err != nil {
			return err
		}
	}
	if err := errors.Join(setTTYModes(master, s.tty.Modes), p.resize(s.tty)); err != nil {
		return err
	}
	p.cmd.Env = append(p.cmd.Env, "SSH_TTY="+slave.Name())
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = slave, slave, slave
	p.cmd.SysProcAttr.Setctty = true
	if err := p.start(); err != nil {
		return err
	}
	go io.Copy(master, s.channel)
	p.copyOut(&output{s.channel, master, drainTTY})
	return nil
}

func (p *program) resize(size *ttyRequest) error {
	if p.tty == nil {
		return nil
	}
	return setTTYSize(p.tty, size)
}

// attend waits for the program's end, tells the client, and ends the session after the
// output: at once on a terminal, soon for an ExecRequest, and otherwise when nothing has
// the output open.
func (s *session) attend(p *program) {
	p.cmd.Wait()
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	close(p.done)
	kind, payload := exitMessage(p.cmd.ProcessState.Sys().(syscall.WaitStatus))
	s.channel.SendRequest(kind, false, payload)
	if p.tty != nil || s.direct {
		for _, out := range p.outs {
			out.stop()
		}
	}
	p.copies.Wait()
	if p.tty == nil {
		p.ours[0].Close() // what is left in the background may not read it
	}
	s.channel.Close()
}

func (p *program) running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.ended
}

// signal signals the program's process group, or the one in the foreground of its
// terminal. It reports whether the program runs: when it has ended, it does nothing.
func (p *program) signal(sig unix.Signal) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return false
	}
	group := p.cmd.Process.Pid
	if p.tty != nil {
		if front := foreground(p.tty); front > 1 {
			group = front
		}
	}
	unix.Kill(-group, sig)
	return true
}

// hangUpTime is how long a program may take to end when its client is gone.
const hangUpTime = 3 * time.Second

// hangUp tells the program that its client is gone. If it has no terminal and
// continues, it is asked to end: nobody else could do that. What a program that has ended
// left in the background keeps running.
func (p *program) hangUp() {
	if !p.signal(unix.SIGHUP) {
		return
	}
	p.signal(unix.SIGCONT)
	p.close()
	if p.tty != nil {
		return
	}
	select {
	case <-p.done:
	case <-time.After(hangUpTime):
		p.signal(unix.SIGTERM)
	}
}

func (p *program) close() {
	for _, f := range p.ours {
		f.Close()
	}
}
