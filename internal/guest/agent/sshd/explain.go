package sshd

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/internal/linux"
)

// explain returns why a program did not start, where the kernel's word for it is a riddle.
func explain(err error, cmd *exec.Cmd) error {
	switch {
	case errors.Is(err, syscall.E2BIG):
		return fmt.Errorf("%w: %s", syscall.E2BIG, tooBig(cmd.Args, cmd.Env))
	case errors.Is(err, syscall.ENOEXEC):
		return fmt.Errorf("%s: not a program for this machine, or a script without #! in its first line", cmd.Path)
	case errors.Is(err, fs.ErrNotExist):
		return missing(cmd.Path, err)
	}
	return err
}

// maxString is the most that execve(2) takes in one string, with its final zero.
const maxString = 32 * 4096

// tooBig names the limit that a command line and an environment exceed.
func tooBig(args, env []string) string {
	all := 0
	for i, text := range slices.Concat(args, env) {
		if len(text) >= maxString {
			what := fmt.Sprintf("argument %d", i)
			if i >= len(args) {
				name, _, _ := strings.Cut(text, "=")
				what = fmt.Sprintf("the variable %.50q", name)
			}
			return fmt.Sprintf("%s has %d bytes, and Linux takes at most %d in one", what, len(text), maxString-1)
		}
		all += len(text) + 1 + 8 // and a pointer to it
	}
	limit := uint64(6 << 20)
	var stack unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_STACK, &stack) == nil {
		limit = min(limit, stack.Cur/4)
	}
	return fmt.Sprintf("arguments and environment take %d bytes, and Linux takes at most %d, a quarter of the stack's limit", all, limit)
}

// noShell is what an image lacks that has none.
const noShell = "; `banger vm exec` runs programs without a shell"

// missing explains that there is no file, or not what the file needs to start.
func missing(path string, err error) error {
	if _, failed := os.Stat(path); failed != nil {
		if slices.Contains([]string{"sh", "bash", "ash", "dash", "zsh", "fish"}, filepath.Base(path)) {
			return &absent{fmt.Sprintf("the VM's image has no shell at %s%s", path, noShell)}
		}
		return err
	}
	needs := interpreter(path)
	if _, failed := os.Stat(needs); needs == "" || failed == nil {
		return err
	}
	return &absent{fmt.Sprintf("%s needs %s to start, which the VM does not have", path, needs)}
}

// absent is an error about a file that does not exist.
type absent struct{ text string }

func (a *absent) Error() string        { return a.text }
func (a *absent) Is(target error) bool { return target == fs.ErrNotExist }

// interpreter returns the program that the kernel starts for a file, if there is one.
func interpreter(path string) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close()
	head := make([]byte, linux.ProgramHead)
	n, _ := io.ReadFull(file, head)
	return linux.ReadProgram(head[:n]).Interpreter
}
