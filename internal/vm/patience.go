package vm

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// mostPatience is how many times its limit a wait on a busy host is extended at most.
const mostPatience = 4

// withPatience returns a context that ends with the cause late after a limit. The time that
// starved returns does not count: a guest that gets no CPU is slow, not silent.
func withPatience(ctx context.Context, limit time.Duration, starved func() time.Duration, late error) (context.Context, context.CancelFunc) {
	ctx, end := context.WithCancelCause(ctx)
	begun := time.Now()
	go func() {
		for left := limit; left > 0; left = limit + min(starved(), mostPatience*limit) - time.Since(begun) {
			select {
			case <-time.After(left):
			case <-ctx.Done():
				return
			}
		}
		end(late)
	}()
	return ctx, func() { end(nil) }
}

// starvedFor returns how long a process has waited for a CPU since its start: the longest
// such time of its threads, of which one runs the guest. It is 0 if the kernel does not tell.
func starvedFor(pid int) (longest time.Duration) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if fields := strings.Fields(string(text)); err == nil && len(fields) > 1 { // running, waiting, turns
			waited, _ := strconv.ParseInt(fields[1], 10, 64)
			longest = max(longest, time.Duration(waited))
		}
	}
	return longest
}
