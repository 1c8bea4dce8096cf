package namespace

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/network"
)

// Role is the first argument that makes bangerd the child of a Run.
const Role = "apply"

// Request is what the child does, in this order. All of it is optional.
type Request struct {
	Apply    *network.Wanted  `json:"apply,omitempty"`    // make the kernel's network equal to it
	Counters network.Instance `json:"counters,omitempty"` // read the counters of this instance
	Uplink   network.Instance `json:"uplink,omitempty"`   // open the uplink of this instance and hand it out

	try  bool // make a TAP, which ends with the child
	hold bool // hand out the namespace
}

// order is a Request on its way to the child.
type order struct {
	Request
	Try  bool `json:"try,omitempty"`
	Hold bool `json:"hold,omitempty"`
}

// Result is what the child has found out and handed out.
type Result struct {
	Applied  json.RawMessage // what Work.Apply returned
	Counters json.RawMessage // what Work.Counters returned
	Uplink   *os.File        // the caller closes it

	namespace *network.Namespace
}

// Work is what the child can do. What Apply and Counters return crosses as JSON.
type Work struct {
	// Lock is held while Apply and Uplink run, and until what they hand out has arrived.
	Lock func(context.Context) (unlock func(), err error)

	Apply    func(context.Context, network.Wanted) (any, error)
	Counters func(network.Instance) (any, error)
	Uplink   func(network.Instance) (*os.File, error)
}

// answer is the line that the child prints. A banger.Error crosses whole.
type answer struct {
	Applied  json.RawMessage `json:"applied,omitempty"`
	Counters json.RawMessage `json:"counters,omitempty"`

	Kind  banger.Kind   `json:"kind,omitempty"`
	What  string        `json:"what,omitempty"`
	Why   string        `json:"why,omitempty"` // empty: it worked
	Fix   string        `json:"fix,omitempty"`
	Errno syscall.Errno `json:"errno,omitempty"`
}

// What the child hands out, as the one byte that its message has.
const (
	handsNamespace = 'n' // the user and the network namespace
	handsUplink    = 'u' // the uplink's TAP
)

// handFD is the child's end of the socket for what it hands out.
const handFD = 3

// maxRequest bounds a request. A full subnet is an eighth of it.
const maxRequest = 8 << 20

// RunRole does not return in a process that is the child of a Run. Call it first of all:
// a test whose binary calls it can use this package, too.
func RunRole(work Work) {
	if !isRole() {
		return
	}
	told, err := work.serve(os.Stdin)
	if err != nil {
		told = answerOf(err)
	}
	if json.NewEncoder(os.Stdout).Encode(told) != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

// isRole reports whether this process is the child of a Run.
func isRole() bool { return len(os.Args) == 2 && os.Args[1] == Role }

func answerOf(err error) answer {
	told := answer{Kind: banger.KindOf(err), Why: err.Error(), Fix: banger.FixOf(err)}
	errors.As(err, &told.Errno)
	if e := (*banger.Error)(nil); errors.As(err, &e) && e.Why != nil && error(e) == err {
		told.What, told.Why = e.What, e.Why.Error()
	}
	return told
}

// parseAnswer returns what the child says, or its error.
func parseAnswer(line []byte) (got Result, err error) {
	var a answer
	if err := json.Unmarshal(line, &a); err != nil {
		return got, fmt.Errorf("read the answer of bangerd's role: %w", err)
	}
	return Result{Applied: a.Applied, Counters: a.Counters}, a.err()
}

func (a answer) err() error {
	if a.Why == "" {
		return nil
	}
	var why error = errors.New(a.Why)
	if a.Errno != 0 {
		why = &childError{a.Why, a.Errno}
	}
	if a.Kind == banger.Unknown && a.What == "" && a.Fix == "" {
		return why
	}
	return &banger.Error{Kind: a.Kind, What: a.What, Why: why, Fix: a.Fix}
}

// childError is an error of a system call in the child.
type childError struct {
	text  string
	errno syscall.Errno
}

func (e *childError) Error() string { return e.text }
func (e *childError) Unwrap() error { return e.errno }

func (w Work) serve(in io.Reader) (told answer, err error) {
	var request order
	data, err := io.ReadAll(io.LimitReader(in, maxRequest))
	if err == nil {
		err = json.Unmarshal(data, &request)
	}
	if err != nil {
		return told, fmt.Errorf("read the request: %w", err)
	}
	if request.Apply != nil || request.Uplink != "" {
		unlock, err := w.Lock(context.Background())
		if err != nil {
			return told, err
		}
		defer unlock()
		if orphaned() {
			return told, errOrphaned
		}
	}
	if request.Apply != nil {
		told.Applied, err = encode(w.Apply(context.Background(), *request.Apply))
	}
	if err == nil && request.Counters != "" {
		told.Counters, err = encode(w.Counters(request.Counters))
	}
	if err == nil && request.Try {
		err = tryTAP()
	}
	if err == nil && request.Uplink != "" {
		err = w.handUplink(request.Uplink)
	}
	if err == nil && request.Hold {
		err = handOwn()
	}
	return told, err
}

var errOrphaned = errors.New("the daemon has ended")

// orphaned reports whether the daemon has ended, which closes its end of the socket. The
// next one may want something else, and waits for the lock: a child that has the lock
// and was no orphan then comes before all of the next daemon's, and others do nothing.
func orphaned() bool {
	poll := []unix.PollFd{{Fd: handFD}} // the kernel tells of the other end's without being asked
	n, err := unix.Poll(poll, 0)
	return err == nil && n > 0 && poll[0].Revents&unix.POLLHUP != 0
}

func encode(found any, err error) (json.RawMessage, error) {
	if err != nil {
		return nil, err
	}
	return json.Marshal(found)
}

func (w Work) handUplink(i network.Instance) error {
	uplink, err := w.Uplink(i)
	if err != nil {
		return err
	}
	defer uplink.Close()
	return hand(handsUplink, uplink)
}

// handOwn hands out the namespace of this process.
func handOwn() error {
	own, err := open("self")
	if err != nil {
		return err
	}
	return hand(handsNamespace, own.User, own.Net)
}

// hand sends files to the parent.
func hand(what byte, files ...*os.File) error {
	var fds []int
	for _, file := range files {
		fds = append(fds, int(file.Fd()))
	}
	if err := unix.Sendmsg(handFD, []byte{what}, unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("hand out a descriptor: %w", os.NewSyscallError("sendmsg", err))
	}
	return nil
}

// tryTAP makes a TAP that goes when this process does.
func tryTAP() error {
	tun, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer tun.Close()
	request, err := unix.NewIfreq("bgtry%d")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(int(tun.Fd()), unix.TUNSETIFF, request); err != nil {
		return fmt.Errorf("make a TAP: %w", os.NewSyscallError("ioctl", err))
	}
	return nil
}
