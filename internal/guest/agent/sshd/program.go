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

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"banger/internal/guest/wire"
	"banger/internal/linux"
)

// signals are the names of RFC 4254, section 6.10.
var signals = map[string]unix.Signal{
	"ABRT": unix.SIGABRT, "ALRM": unix.SIGALRM, "FPE": unix.SIGFPE, "HUP": unix.SIGHUP, "ILL": unix.SIGILL,
	"INT": unix.SIGINT, "KILL": unix.SIGKILL, "PIPE": unix.SIGPIPE, "QUIT": unix.SIGQUIT, "SEGV": unix.SIGSEGV,
	"TERM": unix.SIGTERM, "USR1": unix.SIGUSR1, "USR2": unix.SIGUSR2,
}

// program is a session's program, in a session and process group of its own.
type program struct {
	cmd    *exec.Cmd
	tty    *os.File   // the master of its terminal, if it has one
	ours   []*os.File // everything the server holds of it
	copies sync.WaitGroup

	mu    sync.Mutex
	ended bool
	done  chan struct{} // closed when ended
}

// run starts a program and returns. attend follows it in the background.
func (s *session) run(user account, cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: user.credential()}
	p := &program{cmd: cmd, done: make(chan struct{})}
	begin := s.startPiped
	if s.tty != nil {
		begin = s.startOnTTY
	}
	if err := begin(p, user); err != nil {
		p.close()
		s.refuse(err)
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
	if err := s.server.start(p.cmd); err != nil {
		return err
	}
	go func() {
		if _, err := io.Copy(ours[0], s.channel); errors.Is(err, unix.EPIPE) && s.conn.isOpenSSH() {
			s.channel.SendRequest("eow@openssh.com", false, nil) // it need not send more
		}
		ours[0].Close()
	}()
	p.copyOut(s.channel, ours[1])
	p.copyOut(s.channel.Stderr(), ours[2])
	return nil
}

// copyOut copies output until its end. When the client is gone the pipe is closed,
// which the program notices.
func (p *program) copyOut(to io.Writer, from *os.File) {
	p.copies.Go(func() {
		io.Copy(to, from)
		from.Close()
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
	if err := s.server.start(p.cmd); err != nil {
		return err
	}
	go io.Copy(master, s.channel)
	p.copies.Go(func() {
		if _, err := io.Copy(s.channel, master); errors.Is(err, os.ErrDeadlineExceeded) {
			drainTTY(s.channel, master)
		}
		master.Close()
	})
	return nil
}

func (p *program) resize(size *ttyRequest) error {
	if p.tty == nil {
		return nil
	}
	return setTTYSize(p.tty, size)
}

// attend waits for the program's end and for all of its output, and then tells the
// client. On a terminal it waits only for what was written until the end.
func (s *session) attend(p *program) {
	p.cmd.Wait()
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	close(p.done)
	if p.tty != nil {
		// A program in the background may keep the terminal open for ever.
		linux.InterruptRead(p.tty)
	}
	p.copies.Wait()
	p.close()
	kind, payload := exitMessage(p.cmd.ProcessState.Sys().(syscall.WaitStatus))
	s.channel.SendRequest(kind, false, payload)
	s.channel.Close()
}

func exitMessage(status syscall.WaitStatus) (kind string, payload []byte) {
	if !status.Signaled() {
		return "exit-status", ssh.Marshal(struct{ Status uint32 }{uint32(status.ExitStatus())})
	}
	name := fmt.Sprintf("%d@banger", int(status.Signal()))
	for known, sig := range signals {
		if sig == status.Signal() {
			name = known
		}
	}
	return "exit-signal", ssh.Marshal(struct {
		Signal   string
		Core     bool
		Message  string
		Language string
	}{name, status.CoreDump(), status.Signal().String(), ""})
}

// signal signals the program's process group, or the one in the foreground of its
// terminal.
func (p *program) signal(sig unix.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return
	}
	group := p.cmd.Process.Pid
	if p.tty != nil {
		if front := foreground(p.tty); front > 1 {
			group = front
		}
	}
	unix.Kill(-group, sig)
}

// hangUpTime is how long a program may take to end when its client is gone.
const hangUpTime = 3 * time.Second

// hangUp tells the program that its client is gone. If it has no terminal and
// continues, it is asked to end: nobody else could do that.
func (p *program) hangUp() {
	p.signal(unix.SIGHUP)
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
