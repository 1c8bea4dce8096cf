package sshd

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// asUser calls do with the rights of a user and a umask that keeps others out. do must
// not continue in another goroutine. Only a thread that ends afterwards gets the rights,
// and only its effective ones change: with its real ones, the user could kill the agent.
func asUser(user account, do func() error) error {
	if user.credential() == nil {
		return do()
	}
	done := make(chan error)
	go onThread(user, do, done)
	return <-done
}

func onThread(user account, do func() error, done chan<- error) {
	runtime.LockOSThread() // for ever: the thread ends with the goroutine
	if unix.Gettid() == unix.Getpid() {
		// The process's first thread never ends. While it is locked here, another goroutine
		// gets another thread.
		other := make(chan error)
		go onThread(user, do, other)
		done <- <-other
		runtime.UnlockOSThread()
		return
	}
	if err := become(user); err != nil {
		done <- fmt.Errorf("take the rights of %s: %w", user.name, err)
		return
	}
	done <- do()
}

// become gives this thread alone a user's rights.
func become(user account) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // the umask is shared otherwise
		return err
	}
	unix.Umask(0o177)
	groups := unsafe.Pointer(unsafe.SliceData(user.groups))
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(user.groups)), uintptr(groups), 0); errno != 0 {
		return errno
	}
	const keep = ^uintptr(0)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, keep, uintptr(user.gid), keep); errno != 0 {
		return errno
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, uintptr(user.uid), keep); errno != 0 {
		return errno
	}
	return nil
}
