package process

import (
	"cmp"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/internal/detach"
	"banger/internal/linux"
	"banger/internal/vmm"
)

// Command is a VMM to start.
type Command struct {
	Program string // a path
	Name    string // what lists of processes call it; empty: Program. Inside ignores it
	Args    []string
	Env     []string   // its whole environment: it has nothing of ours
	Output  *os.File   // its standard output and errors
	Inherit []*os.File // its descriptors from 3 on, and it gets no others
	Account Account    // who it runs as

	Inside *vmm.Namespace // where it runs, as its root without capabilities; nil: where this process does
}

// Start starts a VMM in the directory, in a session of its own. The caller must end the
// process.
func (d *Dir) Start(c Command) (*Process, error) {
	// A VMM inherits no descriptor that this process inherited.
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
		// By descriptor: the account may have no access to the path's other directories.
		Dir: d.Path("."), Env: append([]string{}, c.Env...), Files: append([]*os.File{null, c.Output, c.Output}, c.Inherit...),
		Sys: &syscall.SysProcAttr{Setsid: true, Credential: c.Account.credential()},
	}
	argv := append([]string{cmp.Or(c.Name, c.Program)}, c.Args...)
	path := c.Program
	if c.Inside != nil {
		if argv, err = c.inside(); err != nil {
			return nil, err
		}
		path = argv[0]
	}
	if c.Account.Is() && !reachable(c.Program) { // a script could not be started like this
		program, err := openBeyond(c.Program, attr.Files)
		if err != nil {
			return nil, err
		}
		defer program.Close()
		path = linux.Through(program)
	}
	child, err := os.StartProcess(path, argv, attr)
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

// openBeyond opens a program under a number that a child does not use while it gets the
// files: those that are in the way of others are first moved to the next free numbers,
// also to that of a file which it is not told of.
func openBeyond(path string, files []*os.File) (*os.File, error) {
	program, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer program.Close()
	last := 2*len(files) + 2
	for _, file := range files {
		last = max(last, int(file.Fd())+len(files)+2)
	}
	fd, err := unix.FcntlInt(program.Fd(), unix.F_DUPFD_CLOEXEC, last)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// reachable reports whether every user may enter all directories of a path.
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

// OpenFiles is how many files a VMM may need: each stream is one, and Firecracker spins
// when it may not open another.
const OpenFiles = 4096

// FewFiles returns a note and a fix for a host that allows a VMM fewer files. Both are
// empty if there are enough.
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
		return OpenFiles // setting it will fail, too
	}
	return limit.Max
}

// End kills the process, waits for its end and closes it.
func (p *Process) End() error {
	defer p.Close()
	if err := p.Kill(); err != nil {
		return err
	}
	<-p.Done()
	return nil
}
