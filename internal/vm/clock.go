package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guest"
	"banger/internal/guest/wire"
)

const (
	// clockInterval bounds how far a guest's clock drifts away unnoticed.
	clockInterval = time.Hour
	// promptly is how soon a guest must have heard the time for it to be right.
	promptly = time.Second
)

// hostClock reports when the host's clock was set, also by a resume of the host.
type hostClock struct{ timer *os.File }

func openHostClock() (hostClock, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return hostClock{}, fmt.Errorf("make a timer: %w", err)
	}
	return hostClock{os.NewFile(uintptr(fd), "timer")}, nil
}

// wait returns when the clock was set or the interval is over. After Close, it
// returns an error.
func (c hostClock) wait(interval time.Duration) error {
	at := unix.ItimerSpec{Value: unix.NsecToTimespec(time.Now().Add(interval).UnixNano())}
	raw, err := c.timer.SyscallConn()
	if err != nil {
		return err
	}
	var armed error
	err = raw.Control(func(fd uintptr) {
		armed = unix.TimerfdSettime(int(fd), unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &at, nil)
	})
	if err = errors.Join(err, armed); err == nil {
		_, err = c.timer.Read(make([]byte, 8))
	}
	if errors.Is(err, unix.ECANCELED) {
		return nil
	}
	return err
}

// Close ends the wait.
func (c hostClock) Close() error { return c.timer.Close() }

// watchClock tells every guest the time when the host's clock was set.
func (v *VMs) watchClock(ctx context.Context) {
	clock, err := openHostClock()
	if err != nil {
		v.Log.Error("watch the host's clock", "err", err)
		return
	}
	defer clock.Close()
	stop := context.AfterFunc(ctx, func() { clock.Close() })
	defer stop()
	for err == nil {
		if err = clock.wait(clockInterval); err == nil {
			v.tellTime()
		}
	}
	if ctx.Err() == nil {
		v.Log.Error("watch the host's clock", "err", err)
	}
}

// tellTime tells every guest the time.
func (v *VMs) tellTime() {
	for _, o := range v.all() {
		if r := o.running(); r != nil {
			r.askTime()
		}
	}
}

// askTime asks for the guest to be told the time: once more if that is going on.
func (r *run) askTime() {
	select {
	case r.timeAsked <- struct{}{}:
	default:
	}
}

// keepTime tells the guest the time whenever askTime asks for it.
func (r *run) keepTime(ctx context.Context) {
	for {
		select {
		case <-r.timeAsked:
		case <-ctx.Done():
			return
		}
		control, err := r.connected(ctx)
		if err != nil {
			return
		}
		// Where the connection ends, the next one asks anew.
		_ = setTime(ctx, control)
	}
}

// setTime sets the guest's clock to the host's, again if the guest was paused
// meanwhile and took a stale time.
func setTime(ctx context.Context, control *guest.Control) error {
	for {
		begun := time.Now().Round(0) // by the clock on the wall: the host may sleep meanwhile
		err := control.Call(ctx, wire.MethodClock, wire.ClockParams{UnixNano: begun.UnixNano()}, nil)
		if err != nil || time.Now().Round(0).Sub(begun).Abs() < promptly {
			return err
		}
	}
}
