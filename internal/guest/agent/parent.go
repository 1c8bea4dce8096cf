package agent

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func (b *boot) raiseLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(uint16(net.FlagUp))
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

// startServer starts the server's parent in a control group, a session and
// with a root of its own choosing: nothing of it hangs on the root that the
// last stage must unmount.
func (b *boot) startServer() error {
	notify, err := listenNotify()
	if err != nil {
		return err
	}
	defer notify.Close()
	bye, err := listenBye()
	if err != nil {
		return err
	}
	defer bye.Close()
	group, err := os.Open(cgroupServer)
	if err != nil {
		return err
	}
	defer group.Close()
	cmd := exec.Command(agentFile)
	cmd.Args = []string{nameServer}
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + defaultPath, "HOME=/root"}
	cmd.ExtraFiles = []*os.File{notify, bye}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(group.Fd())}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start server: %w", err)
	}
	if b.kind == initOther {
		omitFromKill("parent", cmd.Process.Pid)
	}
	return cmd.Process.Release()
}

// omitDir is where sysvinit's scripts look for processes to spare.
const omitDir = "/run/sendsigs.omit.d"

func omitFromKill(name string, pid int) {
	os.WriteFile(omitDir+"/banger-"+name, fmt.Appendln(nil, pid), 0o644)
}

// oomNever keeps the kernel from choosing a process when memory runs out.
const oomNever = "-1000"

func setOOMScore(score string) { os.WriteFile("/proc/self/oom_score_adj", []byte(score), 0) }

// shrugOff makes signals meant for ordinary processes do nothing. They are
// caught, not ignored: programs started here would inherit the latter.
func shrugOff() {
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, unix.SIGTERM, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGPIPE)
	go func() {
		for range caught {
		}
	}()
}

// Limits of open files: of what programs begin with and may raise, as after a
// login by sshd. The kernel's own are too low for a server of many streams.
const (
	filesSoft = 1024
	filesHard = 512 << 10
)

// raiseFiles sets these limits for all that is started from here. A server in Go
// raises its own to the hard one, and gives what it starts the soft one again.
func raiseFiles() error {
	most, _ := os.ReadFile("/proc/sys/fs/nr_open")
	limit := filesWithin(string(most))
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
}

// filesWithin is the limits where the kernel allows no more than most.
func filesWithin(most string) unix.Rlimit {
	limit := unix.Rlimit{Cur: filesSoft, Max: filesHard}
	if n, err := strconv.ParseUint(strings.TrimSpace(most), 10, 64); err == nil {
		limit.Cur, limit.Max = min(limit.Cur, n), min(limit.Max, n)
	}
	return limit
}

// quickDeath is how long a server must have lived to be started again at once.
const quickDeath = 2 * time.Second

// runParent starts the server, and again when it dies. A server that ended by
// itself has said bye.
func runParent() int {
	shrugOff()
	setOOMScore(oomNever)
	openLog()
	if err := raiseFiles(); err != nil {
		logf(prioError, "raise the limit of open files: %v", err)
	}
	notify, bye := os.NewFile(fdNotify, notifySocket), os.NewFile(fdBye, byeSocket)
	for {
		begun := time.Now()
		cmd := exec.Command("/proc/self/exe")
		cmd.Args = []string{nameServer, argServe}
		cmd.ExtraFiles = []*os.File{notify, bye}
		err := cmd.Run()
		if err == nil {
			return 0
		}
		logf(prioError, "server ended: %v; start it again", err)
		if lived := time.Since(begun); lived < quickDeath {
			<-time.After(quickDeath - lived)
		}
	}
}
