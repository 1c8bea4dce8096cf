package daemon

import (
	"fmt"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/config"
)

// maxLog is how large a log may be that a starting daemon goes on with.
const maxLog = 10 * banger.MiB

// openLog opens the daemon's log, JSON lines, after putting a large one aside.
func openLog(dirs config.Dirs, level slog.Level) (*slog.Logger, *os.File, error) {
	if info, err := os.Stat(dirs.Log()); err == nil && banger.Size(info.Size()) > maxLog {
		if err := os.Rename(dirs.Log(), dirs.OldLog()); err != nil {
			return nil, nil, fmt.Errorf("put the old log aside: %w", err)
		}
	}
	file, err := os.OpenFile(dirs.Log(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("open log: %w", err)
	}
	return slog.New(slog.NewJSONHandler(file, &slog.HandlerOptions{Level: level})), file, nil
}

// detach leaves the directory the daemon was started in and sends what the
// runtime itself says, a panic, to the log: nobody reads stderr.
func detach(log *os.File) error {
	if err := os.Chdir("/"); err != nil {
		return err
	}
	return unix.Dup3(int(log.Fd()), int(os.Stderr.Fd()), 0)
}
