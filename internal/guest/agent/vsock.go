package agent

import (
	"net"

	"banger/internal/guest/link"
	"banger/internal/guest/vsock"
	"banger/internal/guest/wire"
)

// serveVsock serves ports on the vsock, for ever, and tells the host that it
// does. A machine may have none.
func serveVsock(serve link.Handler, ports ...int) error {
	failed := make(chan error, len(ports))
	for _, port := range ports {
		listener, err := vsock.Listen(uint32(port))
		if err != nil {
			return err
		}
		defer listener.Close()
		go func() { failed <- acceptAll(listener, func(conn net.Conn) { serve(conn, port) }) }()
	}
	if err := vsock.Knock(wire.PortKnock); err != nil {
		logf(prioInfo, "no host hears that we serve: %v", err)
	}
	return <-failed
}

func acceptAll(listener net.Listener, serve func(net.Conn)) error {
	for {
		conn, err := accept(listener)
		if err != nil {
			return err
		}
		go serve(conn)
	}
}
