package imageinit

import (
	"context"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"banger/internal/guest/agent/log"
	"banger/internal/guest/agent/process"
)

const (
	askTime   = 20 * time.Second // bounds how long a program of the image may take to answer
	maxAnswer = 1 << 20          // bounds what is read of its answer
)

// shutsDown reports whether systemd has a shutdown to do, or logind is about to ask
// for one: it first waits for the programs that asked to be waited for.
func shutsDown() bool {
	waits, _ := os.ReadDir("/run/systemd/inhibit")
	return says("stopping", "systemctl", "is-system-running") ||
		len(waits) > 0 && says("yes", "loginctl", "show-session", "--property=PreparingForShutdown", "--value")
}

func says(answer, program string, args ...string) bool {
	return strings.TrimSpace(string(output(program, args...))) == answer
}

// output runs a program of the image and returns what it printed.
func output(program string, args ...string) []byte {
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = "/"
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = process.Start(cmd)
	}
	if err != nil {
		log.Errorf("run %s: %v", program, err)
		return nil
	}
	text, _ := io.ReadAll(io.LimitReader(out, maxAnswer))
	cancel()
	cmd.Wait()
	return text
}
