package server

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guest/agent/control"
	"banger/internal/guest/agent/disk"
	"banger/internal/guest/agent/identity"
	"banger/internal/guest/wire"
)

// handle answers a request of the host.
func (s *server) handle(_ context.Context, r wire.Request) (any, error) {
	switch r.Method {
	case wire.MethodPing:
		return nil, nil
	case wire.MethodSync:
		unix.Sync()
		return nil, nil
	case wire.MethodClock:
		p, err := control.Params[wire.ClockParams](r)
		if err != nil {
			return nil, err
		}
		return nil, identity.Clock{Time: time.Unix(0, p.UnixNano)}.Set()
	case wire.MethodInfo:
		s.askInit()
		return s.info()
	case wire.MethodStats:
		return stats(s.config.WorkMount)
	case wire.MethodGrow:
		p := wire.GrowParams{}
		if len(r.Params) > 0 {
			var err error
			if p, err = control.Params[wire.GrowParams](r); err != nil {
				return nil, err
			}
		}
		return nil, disk.GrowAll(p.Disks)
	case wire.MethodConfigure:
		p, err := control.Params[wire.ConfigureParams](r)
		if err != nil {
			return nil, err
		}
		return nil, s.configure(p)
	case wire.MethodPorts:
		return s.ports.Look()
	case wire.MethodStop:
		p, err := control.Params[wire.StopParams](r)
		if err != nil {
			return nil, err
		}
		return nil, s.stopper.Stop(p)
	}
	return nil, fmt.Errorf("unknown method %q", r.Method)
}

func (s *server) info() (wire.Info, error) {
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return wire.Info{}, err
	}
	state, _ := s.init.State()
	return wire.Info{BootID: bootID(), Uptime: up.Nano() / 1e6, Init: state}, nil
}
