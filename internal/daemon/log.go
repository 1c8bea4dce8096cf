package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/config"
	"banger/internal/detach"
)

// maxLog is the size at which the log becomes the old log.
const maxLog = 10 * banger.MiB

// logFile is the daemon's log, a file of JSON lines. It is bounded: when it is large it
// becomes the old log, also while the daemon runs.
type logFile struct {
	path, old string
	most      int64

	mu     sync.Mutex
	file   *os.File
	size   int64
	stderr bool // the process's own stderr goes there too
}

// openLog opens the daemon's log.
func openLog(dirs config.Dirs, level slog.Level) (*slog.Logger, *logFile, error) {
	l := &logFile{path: dirs.Log(), old: dirs.OldLog(), most: int64(maxLog)}
	if err := l.open(); err != nil {
		return nil, nil, fmt.Errorf("open log: %w", err)
	}
	return slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: level})), l, nil
}

// open continues with the file at path. If it cannot, it keeps the file that is open.
func (l *logFile) open() error {
	file, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err == nil {
		err = file.Chmod(0o600)
	}
	if err == nil && l.stderr {
		err = unix.Dup3(int(file.Fd()), int(os.Stderr.Fd()), 0)
	}
	if err != nil {
		return errors.Join(err, file.Close())
	}
	if l.file != nil {
		l.file.Close()
	}
	l.file, l.size = file, info.Size()
	return nil
}

// Write appends one line. If only a part fits on the disk, it removes that part.
func (l *logFile) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size > 0 && l.size+int64(len(line)) > l.most {
		l.putAside()
	}
	n, err := l.file.Write(line)
	l.size += int64(n)
	if err != nil && n > 0 && l.file.Truncate(l.size-int64(n)) == nil {
		l.size -= int64(n)
	}
	return n, err
}

// putAside renames the log and starts a new one. If that fails, as on a full disk, it
// empties the log: a bound is more important than old lines.
func (l *logFile) putAside() {
	err := os.Rename(l.path, l.old)
	if err == nil || errors.Is(err, os.ErrNotExist) {
		if l.open() == nil {
			return
		}
		os.Rename(l.old, l.path)
	}
	if l.file.Truncate(0) == nil {
		l.size = 0
	}
}

func (l *logFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file.Close()
}

// tellProblems logs what the daemon has inherited from the shell and could not reset.
func (d *daemon) tellProblems() {
	err := detach.Limits() // in the foreground, Exec has not done it
	problems, failed := detach.Problems(os.Getpid())
	if err := errors.Join(err, failed); err != nil {
		d.log.Warn("resource limits", "err", err)
	}
	for _, problem := range problems {
		d.log.Warn(problem.What, "fix", problem.Fix)
	}
}

// leaveGroup has the daemon moved out of the control group of the shell that started it,
// which may have limits and an end. It returns a function that ends and awaits that.
func (d *daemon) leaveGroup(ctx context.Context) (end func()) {
	if d.env.Isolate == nil || d.ready == nil { // in the foreground, the group is part of what was wanted
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := d.env.Isolate(ctx, "daemon", os.Getpid()); err != nil && ctx.Err() == nil {
			d.log.Info("the daemon stays in its shell's control group", "err", err)
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// leaveShell changes to the root directory, and redirects stderr to the log: nobody else
// would read a panic.
func leaveShell(log *logFile) error {
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("detach: %w", err)
	}
	log.mu.Lock()
	defer log.mu.Unlock()
	log.stderr = true
	return os.NewSyscallError("detach: dup3", unix.Dup3(int(log.file.Fd()), int(os.Stderr.Fd()), 0))
}
