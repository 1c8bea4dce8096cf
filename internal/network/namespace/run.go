package namespace

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/internal/hostcmd"
	"banger/internal/network"
)

// Run runs the role where the network is: inside ns, or where this process is if that is
// nil. The child may be killed at any moment, and ends with ctx.
func Run(ctx context.Context, ns *network.Namespace, request Request) (Result, error) {
	return again(ctx, func() (Result, error) { return run(ctx, ns, false, request) })
}

// again runs the child, and once more if somebody kills it: a VM would have no network
// until its next start, or its links would stay. All that a child does can be repeated.
func again(ctx context.Context, run func() (Result, error)) (Result, error) {
	got, err := run()
	if failed := (*hostcmd.Error)(nil); errors.As(err, &failed) && failed.Killed() && ctx.Err() == nil {
		return run()
	}
	return got, err
}

// Make makes a namespace, and has the role do a request in it. The caller closes both;
// without a process inside the namespace ends then, with all that is in it.
func Make(ctx context.Context, request Request) (*network.Namespace, Result, error) {
	request.hold = true
	got, err := again(ctx, func() (Result, error) { return run(ctx, nil, true, request) })
	if refused := (*hostcmd.Error)(nil); errors.As(err, &refused) {
		err = diagnose(err) // else it is the request's error
	}
	return got.namespace, got, err
}

func (r Result) close() {
	if r.namespace != nil {
		r.namespace.Close()
	}
	if r.Uplink != nil {
		r.Uplink.Close()
	}
}

// maxAnswer bounds what the child prints.
const maxAnswer = 1 << 20

// run runs the child, in a namespace of its own if fresh is set.
func run(ctx context.Context, ns *network.Namespace, fresh bool, request Request) (got Result, err error) {
	if isRole() {
		return got, errors.New("a child of bangerd's cannot start another: its program does not call RunRole")
	}
	data, err := json.Marshal(order{request, request.try, request.hold})
	if err != nil {
		return got, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return got, os.NewSyscallError("socketpair", err)
	}
	defer unix.Close(pair[0])
	theirs := os.NewFile(uintptr(pair[1]), "hand")
	out := &limited{left: maxAnswer}
	err = runChild(ctx, ns, hostcmd.Cmd{Stdin: bytes.NewReader(data), Stdout: out, Inherit: []*os.File{theirs}, Namespace: fresh})
	theirs.Close()
	if out.left < 0 {
		err = errTooMuch // whatever else that has caused
	}
	if err != nil {
		return got, err
	}
	if got, err = parseAnswer(out.kept.Bytes()); err == nil {
		err = receive(pair[0], &got)
	}
	if err == nil && ((got.Uplink != nil) != (request.Uplink != "") || (got.namespace != nil) != request.hold) {
		err = errors.New("bangerd's role has not handed out what it was asked for")
	}
	if err != nil {
		got.close()
		return Result{}, err
	}
	return got, nil
}

// runChild runs this program as the child. By a descriptor: what is at the program's path
// may be another version by now, and inside the namespace nobody may open this process's
// /proc/<pid>/exe.
func runChild(ctx context.Context, ns *network.Namespace, cmd hostcmd.Cmd) error {
	self, err := os.OpenFile("/proc/self/exe", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer self.Close()
	cmd.Inherit = append(cmd.Inherit, self)
	cmd.Argv = []string{fmt.Sprintf("/proc/self/fd/%d", 2+len(cmd.Inherit)), Role}
	cmd.Env = []string{"GORACE=atexit_sleep_ms=0"} // the race detector would delay its end
	if ns != nil {
		nsenter, err := hostcmd.Host{}.Look("nsenter")
		if err != nil {
			return missing("nsenter")
		}
		cmd.Argv = append([]string{nsenter}, ns.Enter(cmd.Argv...)...)
	}
	_, err = hostcmd.Host{}.Run(ctx, cmd)
	if failed := (*hostcmd.Error)(nil); errors.As(err, &failed) && strings.HasPrefix(failed.Stderr, "nsenter: ") {
		return errorOfNsenter(strings.TrimSpace(failed.Stderr))
	}
	return err
}

// errorOfNsenter returns the error that nsenter has printed.
func errorOfNsenter(said string) error {
	for _, errno := range []syscall.Errno{syscall.EPERM, syscall.EACCES, syscall.EINVAL} {
		if strings.HasSuffix(strings.ToLower(said), errno.Error()) {
			return &childError{said, errno}
		}
	}
	return errors.New(said)
}

// receive takes what the child, which has ended, has handed out.
func receive(socket int, got *Result) error {
	for {
		what, rights := [1]byte{}, make([]byte, unix.CmsgSpace(8*4))
		n, m, flags, _, err := unix.Recvmsg(socket, what[:], rights, unix.MSG_CMSG_CLOEXEC)
		if err != nil {
			return os.NewSyscallError("recvmsg", err)
		}
		if n == 0 {
			return nil // the end
		}
		files, err := filesOf(rights[:m])
		switch {
		case err != nil || flags&(unix.MSG_CTRUNC|unix.MSG_TRUNC) != 0:
			err = errors.Join(errors.New("a message of bangerd's role is malformed"), err)
		case what[0] == handsNamespace && len(files) == 2 && got.namespace == nil:
			got.namespace = &network.Namespace{User: files[0], Net: files[1]}
			continue
		case what[0] == handsUplink && len(files) == 1 && got.Uplink == nil:
			got.Uplink = files[0]
			continue
		default:
			err = fmt.Errorf("bangerd's role has handed out %d descriptors as %q", len(files), what[0])
		}
		for _, file := range files {
			file.Close()
		}
		return err
	}
}

func filesOf(rights []byte) (files []*os.File, err error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	for _, message := range messages {
		fds, err := unix.ParseUnixRights(&message)
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "handed"))
		}
	}
	return files, nil
}

var errTooMuch = errors.New("bangerd's role prints too much")

// limited keeps what is written to it, and fails when that is too much.
type limited struct {
	kept bytes.Buffer
	left int
}

func (l *limited) Write(data []byte) (int, error) {
	if l.left -= len(data); l.left < 0 {
		return 0, errTooMuch
	}
	return l.kept.Write(data)
}

// ErrForeign means that a process is not in a namespace of this user's daemon.
var ErrForeign = errors.New("the process is not in a network namespace of banger's")

// Of returns the namespace that a VMM runs in, or ErrForeign. The caller knows that the
// pid is the VMM's, before and after.
func Of(pid int) (*network.Namespace, error) {
	ns, err := open(fmt.Sprint(pid))
	if errors.Is(err, syscall.ESRCH) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("open the namespace of process %d: %w", pid, err)
	}
	if err := check(ns); err != nil {
		ns.Close()
		return nil, fmt.Errorf("open the namespace of process %d: %w", pid, err)
	}
	return ns, nil
}

func open(process string) (*network.Namespace, error) {
	user, err := os.Open("/proc/" + process + "/ns/user")
	if err != nil {
		return nil, err
	}
	net, err := os.Open("/proc/" + process + "/ns/net")
	if err != nil {
		user.Close()
		return nil, err
	}
	return &network.Namespace{User: user, Net: net}, nil
}

// check returns ErrForeign unless the user namespace is directly below this process's,
// and owns the network namespace: a VMM may have made a namespace of its own.
func check(ns *network.Namespace) error {
	own, err := os.Stat("/proc/self/ns/user")
	if err != nil {
		return err
	}
	user, err := ns.User.Stat()
	if err != nil {
		return err
	}
	return errors.Join(owned(ns.User, unix.NS_GET_PARENT, own), owned(ns.Net, unix.NS_GET_USERNS, user))
}

// owned returns ErrForeign unless call returns a namespace's owner that is want.
func owned(file *os.File, call uint, want fs.FileInfo) error {
	fd, err := unix.IoctlRetInt(int(file.Fd()), call)
	if errors.Is(err, unix.EPERM) { // it is not below this process's
		return ErrForeign
	}
	if err != nil {
		return os.NewSyscallError("ioctl", err)
	}
	owner := os.NewFile(uintptr(fd), "namespace")
	defer owner.Close()
	got, err := owner.Stat()
	if err == nil && !os.SameFile(got, want) {
		err = ErrForeign
	}
	return err
}
