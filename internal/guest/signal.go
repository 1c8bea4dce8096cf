package guest

import (
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"

	"banger/internal/guest/wire"
)

// signalNames are the names of RFC 4254, section 6.10.
var signalNames = map[syscall.Signal]string{
	syscall.SIGINT: "INT", syscall.SIGTERM: "TERM", syscall.SIGHUP: "HUP", syscall.SIGQUIT: "QUIT",
	syscall.SIGUSR1: "USR1", syscall.SIGUSR2: "USR2", syscall.SIGKILL: "KILL", syscall.SIGABRT: "ABRT",
	syscall.SIGALRM: "ALRM", syscall.SIGPIPE: "PIPE", syscall.SIGSEGV: "SEGV", syscall.SIGFPE: "FPE", syscall.SIGILL: "ILL",
}

func signalName(signal syscall.Signal) string {
	if name, ok := signalNames[signal]; ok {
		return name
	}
	return strconv.Itoa(int(signal)) + wire.SignalSuffix
}

// signalOf returns the signal with a name, or 0.
func signalOf(name string) syscall.Signal {
	for signal, known := range signalNames {
		if known == name {
			return signal
		}
	}
	number, _ := strings.CutSuffix(name, wire.SignalSuffix)
	if n, err := strconv.ParseUint(number, 10, 7); err == nil {
		return syscall.Signal(n)
	}
	return 0
}

// exitOf returns the exit status in a request that tells of a program's end.
func exitOf(request *ssh.Request) (int, bool) {
	switch request.Type {
	case "exit-status":
		var exit struct{ Status uint32 }
		if ssh.Unmarshal(request.Payload, &exit) == nil {
			return int(exit.Status), true
		}
	case "exit-signal":
		var exit struct {
			Signal   string
			Core     bool
			Message  string
			Language string
		}
		if ssh.Unmarshal(request.Payload, &exit) != nil {
			return 0, false
		}
		return 128 + int(signalOf(exit.Signal)), true
	}
	return 0, false
}
