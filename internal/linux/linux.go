// Package linux wraps the kernel's interfaces that several packages use: watches on
// files, locks, peers of unix sockets, short paths of open directories, and ends of
// blocking calls. It does not know what any of them is used for.
package linux

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// past is a deadline that has passed: it ends calls that block, and makes those that
// follow fail.
var past = time.Unix(1, 0)

// Interrupt ends the calls that block on conn, now and from now on.
func Interrupt(conn interface{ SetDeadline(time.Time) error }) { conn.SetDeadline(past) }

// InterruptRead does so with reads.
func InterruptRead(file interface{ SetReadDeadline(time.Time) error }) { file.SetReadDeadline(past) }

// InterruptWrite does so with writes.
func InterruptWrite(file interface{ SetWriteDeadline(time.Time) error }) { file.SetWriteDeadline(past) }

// InterruptAfter interrupts conn when ctx ends. stop prevents that, and reports
// whether it did: if not, an error of conn is the end of ctx.
func InterruptAfter(ctx context.Context, conn interface{ SetDeadline(time.Time) error }) (stop func() bool) {
	return context.AfterFunc(ctx, func() { Interrupt(conn) })
}

// Peer returns the process and the user at the other end of a unix socket, as they
// were when it connected.
func Peer(conn net.Conn) (*unix.Ucred, error) {
	unixConn, ok := conn.(syscall.Conn)
	if !ok {
		return nil, errors.New("ask who connects: not a socket")
	}
	raw, err := unixConn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var peer *unix.Ucred
	failed := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(failed, err); err != nil {
		return nil, fmt.Errorf("ask who connects: %w", err)
	}
	return peer, nil
}

// Through returns a short path of an open file or, with names, of a file below an open
// directory. It is for this process only, while the file is open: the address of a
// socket holds 107 bytes, and a path that others may change is looked up once.
func Through(file *os.File, names ...string) string {
	return filepath.Join(append([]string{"/proc/self/fd", strconv.Itoa(int(file.Fd()))}, names...)...)
}
