package server

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"banger/internal/guest/agent/imageinit"
	"banger/internal/guest/agent/layout"
	"banger/internal/guest/agent/log"
	"banger/internal/guest/agent/process"
	"banger/internal/guest/agent/socket"
)

// Start starts the server, in a control group and a session of its own. It uses nothing
// of the root that the last stage must unmount. It returns once the host has answered the
// server's hello, or after `within`: the image's init would slow the server down, and
// with it the user's first session.
func Start(within time.Duration) error {
	notify, err := socket.ListenNotify()
	if err != nil {
		return err
	}
	defer notify.Close()
	bye, err := socket.ListenBye()
	if err != nil {
		return err
	}
	defer bye.Close()
	group, err := os.Open(layout.CgroupServer)
	if err != nil {
		return err
	}
	defer group.Close()
	greeted, greet, err := os.Pipe()
	if err != nil {
		return err
	}
	defer greeted.Close()
	cmd := serverCommand(layout.AgentFile, layout.ArgFirst, notify, bye, greet)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + layout.DefaultPath, "HOME=/root"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(group.Fd())}
	err = process.WithFileLimit(cmd.Start)
	greet.Close()
	if err != nil {
		return fmt.Errorf("start server: %w", err)
	}
	process.AwaitReadable(int(greeted.Fd()), time.Now().Add(within))
	return cmd.Process.Release()
}

func serverCommand(program, arg string, files ...*os.File) *exec.Cmd {
	cmd := exec.Command(program)
	cmd.Args = []string{layout.NameServer, arg}
	cmd.ExtraFiles = files
	return cmd
}

// The third descriptor of a first server and of a keeper.
const (
	fdGreet = socket.FDBye + 1 // written to by nobody: its end is the sign
	fdAlive = socket.FDBye + 1
)

// quickDeath is how long a server must have lived to be started again at once.
const quickDeath = 2 * time.Second

// keep starts a process that starts the server again when it dies. The first server
// does so once the host knows of the guest: before, it would cost time that the user's
// first session needs.
func (s *server) keep(files ...*os.File) error {
	s.keeping.Lock()
	defer s.keeping.Unlock()
	if s.ending {
		return nil
	}
	watched, alive, err := os.Pipe()
	if err != nil {
		return err
	}
	defer watched.Close()
	cmd := serverCommand("/proc/self/exe", layout.ArgKeep, append(files, watched)...)
	if err := cmd.Start(); err != nil {
		return errors.Join(err, alive.Close())
	}
	go cmd.Wait()
	if s.init.Kind() == imageinit.Foreign {
		process.Spare("keeper", cmd.Process.Pid)
	}
	s.alive = alive
	return nil
}

// letGo tells the keeper, or one that is about to start, that the server ends by itself.
func (s *server) letGo() {
	s.keeping.Lock()
	defer s.keeping.Unlock()
	s.ending = true
	if s.alive != nil {
		s.alive.Write([]byte{0})
	}
}

// greetTime is after how long a server has a keeper that no host has greeted.
const greetTime = 10 * time.Second

// whenGreeted returns what a first server calls when a host has answered its hello: the
// image's init may start, and the server gets its keeper.
func (s *server) whenGreeted(greet *os.File, files ...*os.File) func() {
	once := sync.OnceFunc(func() {
		greet.Close()
		go func() { // the host's next message does not wait for that
			if err := s.keep(files...); err != nil {
				log.Errorf("start the server's keeper: %v", err)
			}
		}()
	})
	time.AfterFunc(greetTime, once)
	return once
}

// RunKeeper waits for the death of the first server, and then starts another one each
// time one dies. It ends when a server ends by itself, which it does after a bye.
func RunKeeper() int {
	process.Protect()
	log.Open()
	notify, bye := socket.Inherited(socket.FDNotify, layout.NotifySocket), socket.Inherited(socket.FDBye, layout.ByeSocket)
	begun := time.Now()
	if n, _ := socket.Inherited(fdAlive, "first server").Read(make([]byte, 1)); n == 1 {
		return 0
	}
	for err := errors.New("it died"); err != nil; {
		log.Errorf("the server ended: %v; start it again", err)
		if lived := time.Since(begun); lived < quickDeath {
			<-time.After(quickDeath - lived)
		}
		begun = time.Now()
		err = serverCommand("/proc/self/exe", layout.ArgServe, notify, bye).Run()
	}
	return 0
}
