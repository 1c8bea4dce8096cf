package server

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"banger/internal/guest/agent/imageinit"
	"banger/internal/guest/agent/layout"
	"banger/internal/guest/agent/log"
	"banger/internal/guest/agent/process"
	"banger/internal/guest/agent/socket"
)

// Start starts the server's parent, in a control group and a session of its own. It
// uses nothing of the root that the last stage must unmount.
func Start(init imageinit.Kind) error {
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
	cmd := exec.Command(layout.AgentFile)
	cmd.Args = []string{layout.NameServer}
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + layout.DefaultPath, "HOME=/root"}
	cmd.ExtraFiles = []*os.File{notify, bye}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(group.Fd())}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start server: %w", err)
	}
	if init == imageinit.Foreign {
		process.Spare("parent", cmd.Process.Pid)
	}
	return cmd.Process.Release()
}

// quickDeath is how long a server must have lived to be started again at once.
const quickDeath = 2 * time.Second

// RunParent starts the server, and starts it again when it dies. It ends when the
// server ends by itself, which it does after a bye.
func RunParent() int {
	process.Protect()
	log.Open()
	if err := process.RaiseFileLimit(); err != nil {
		log.Errorf("raise the limit of open files: %v", err)
	}
	notify, bye := os.NewFile(socket.FDNotify, layout.NotifySocket), os.NewFile(socket.FDBye, layout.ByeSocket)
	for {
		begun := time.Now()
		cmd := exec.Command("/proc/self/exe")
		cmd.Args = []string{layout.NameServer, layout.ArgServe}
		cmd.ExtraFiles = []*os.File{notify, bye}
		err := cmd.Run()
		if err == nil {
			return 0
		}
		log.Errorf("the server ended: %v; start it again", err)
		if lived := time.Since(begun); lived < quickDeath {
			<-time.After(quickDeath - lived)
		}
	}
}
