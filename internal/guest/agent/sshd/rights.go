package sshd

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
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
	go onOtherThread(func() {
		if err := become(user); err != nil {
			done <- fmt.Errorf("take the rights of %s: %w", user.name, err)
			return
		}
		done <- do()
	})
	return <-done
}

// onOtherThread calls do on a thread that ends afterwards. The caller is a goroutine that
// ends, too.
func onOtherThread(do func()) {
	runtime.LockOSThread() // for ever: the thread ends with the goroutine
	if unix.Gettid() != unix.Getpid() {
		do()
		return
	}
	// The process's first thread never ends. While it is locked here, another goroutine
	// gets another thread.
	other := make(chan struct{})
	go func() {
		defer close(other)
		onOtherThread(do)
	}()
	<-other
	runtime.UnlockOSThread()
}

// loginID is where the kernel has whose login a thread is of. getlogin(3) and logname(1)
// read it, and audit does.
const loginID = "/proc/thread-self/loginuid"

// asLogin calls start, which starts a program, on a thread of a user's login: programs
// inherit whose it is and its umask, and only a thread can set its own. A kernel without
// audit knows of no login.
func asLogin(uid uint32, etc string, start func() error) error {
	done := make(chan error)
	go onOtherThread(func() {
		if mask, given := umaskOf(etc); given && unix.Unshare(unix.CLONE_FS) == nil {
			unix.Umask(mask)
		}
		os.WriteFile(loginID, []byte(strconv.FormatUint(uint64(uid), 10)), 0)
		done <- start()
	})
	return <-done
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
