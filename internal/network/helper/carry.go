package helper

import (
	"context"
	"errors"
	"log/slog"
	"os"

	"banger/internal/network/dns"
	"banger/internal/network/stack"
)

// carry starts the stack of usernet on the uplink. It returns the sockets on the stack's
// gateway, to which the namespace sends what guests ask theirs, and what stops the stack.
// Should the stack fail later, it says why on failed.
func carry(ctx context.Context, uplink *os.File, state State, failed chan<- error, log *slog.Logger) (_ dns.Socket, stop func(), err error) {
	if uplink == nil {
		return dns.Socket{}, nil, errors.New("no uplink")
	}
	s, err := stack.New(uplink, stack.Options{Guests: state.Subnet, Log: log})
	if err != nil {
		return dns.Socket{}, nil, err
	}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	socket := dns.Socket{Askers: dns.Guests}
	if socket.Packets, err = s.ListenPacket(port); err != nil {
		return dns.Socket{}, nil, err
	}
	if socket.Streams, err = s.Listen(port); err != nil {
		return dns.Socket{}, nil, err
	}
	go func() {
		if err := s.Run(ctx); err != nil {
			failed <- err
		}
	}()
	return socket, s.Close, nil
}
