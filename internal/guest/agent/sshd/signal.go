package sshd

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"banger/internal/guest/wire"
)

// signals are the names of RFC 4254, section 6.10.
var signals = map[string]unix.Signal{
	"ABRT": unix.SIGABRT, "ALRM": unix.SIGALRM, "FPE": unix.SIGFPE, "HUP": unix.SIGHUP, "ILL": unix.SIGILL,
	"INT": unix.SIGINT, "KILL": unix.SIGKILL, "PIPE": unix.SIGPIPE, "QUIT": unix.SIGQUIT, "SEGV": unix.SIGSEGV,
	"TERM": unix.SIGTERM, "USR1": unix.SIGUSR1, "USR2": unix.SIGUSR2,
}

// lastSignal is the highest number of a signal.
const lastSignal = 64

// signalOf returns the signal of a name: one of RFC 4254, or a number with a suffix.
func signalOf(name string) (unix.Signal, bool) {
	if sig, ok := signals[name]; ok {
		return sig, true
	}
	number, ours := strings.CutSuffix(name, wire.SignalSuffix)
	n, err := strconv.Atoi(number)
	return unix.Signal(n), ours && err == nil && 0 < n && n <= lastSignal
}

func signalName(sig unix.Signal) string {
	for name, known := range signals {
		if known == sig {
			return name
		}
	}
	return strconv.Itoa(int(sig)) + wire.SignalSuffix
}

// exitMessage returns the request that tells the client how a program has ended.
func exitMessage(status syscall.WaitStatus) (kind string, payload []byte) {
	if !status.Signaled() {
		return "exit-status", ssh.Marshal(struct{ Status uint32 }{uint32(status.ExitStatus())})
	}
	return "exit-signal", ssh.Marshal(struct {
		Signal   string
		Core     bool
		Message  string
		Language string
	}{signalName(status.Signal()), status.CoreDump(), fmt.Sprint(status.Signal()), ""})
}
