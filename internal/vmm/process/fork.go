package process

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/internal/detach"
	"banger/internal/linux"
)

// Command is a VMM to start.
type Command struct {
	Program string // a path
	Args    []string
	Env     []string   // its whole environment: it has nothing of ours
	Output  *os.File   // its standard output and errors
	Inherit []*os.File // its descriptors from 3 on, and it gets no others
	Account Account    // whom it runs as
}

// Start starts a VMM in the directory, in a session of its own. The process is
// watched from the first moment; whoever starts it ends it.
func (d *Dir) Start(c Command) (*Process, error) {
	// What we were given open by whoever started us stays with us.
	unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC)
	if err := detach.Limits(); err != nil {
		return nil, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	attr := &os.ProcAttr{
		// By descriptor: what leads to the directory need not be open to the account.
		Dir: d.Path("."), Env: append([]string{}, c.Env...), Files: append([]*os.File{null, c.Output, c.Output}, c.Inherit...),
		Sys: &syscall.SysProcAttr{Setsid: true, Credential: c.Account.credential()},
	}
	path := c.Program
	if c.Account.Is() && !reachable(c.Program) { // a script could not be started like this
		program, err := os.Open(c.Program)
		if err != nil {
			return nil, err
		}
		defer program.Close()
		path = linux.Through(program)
	}
	child, err := os.StartProcess(path, append([]string{c.Program}, c.Args...), attr)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Program, err)
	}
	defer child.Release() // the Process waits for it
	proc, err := OpenProcess(child.Pid)
	if err != nil {
		child.Kill()
		child.Wait()
		return nil, err
	}
	return proc, nil
}

// reachable says whether anybody may go to where a program is.
func reachable(path string) bool {
	path, err := filepath.EvalSymlinks(path)
	for err == nil && path != "/" {
		var info os.FileInfo
		path = filepath.Dir(path)
		if info, err = os.Stat(path); err == nil && info.Mode().Perm()&0o001 == 0 {
			return false
		}
	}
	return err == nil
}

// OpenFiles is what a VMM may have open, where the host allows it: a stream is a
// file, and Firecracker spins when it may not open one.
const OpenFiles = 4096

// FewFiles is what the user should know of a host that allows a VMM fewer, and what
// helps; both are empty where it does not.
func (h Host) FewFiles() (note, fix string) {
	if h.Files >= OpenFiles {
		return "", ""
	}
	return fmt.Sprintf("a process may open %d files on this host, and each connection to a VM takes one of its VMM's", h.Files),
		fmt.Sprintf("echo \"* hard nofile %d\" | sudo tee /etc/security/limits.d/banger.conf, log in again, and banger daemon stop", OpenFiles)
}

func mostFiles() uint64 {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return OpenFiles // whoever sets it will tell
	}
	return limit.Max
}

// End ends a process, waits for it and lets go of it.
func (p *Process) End() error {
	defer p.Close()
	if err := p.Kill(); err != nil {
		return err
	}
	<-p.Done()
	return nil
}
