package socket

import (
	"net"

	"banger/internal/guest/agent/log"
	"banger/internal/guest/link"
	"banger/internal/guest/vsock"
	"banger/internal/guest/wire"
)

// ServePort serves the ports on one serial port, until it fails. A machine may not
// have that serial port.
func ServePort(name string, serve link.Handler, ports ...int) error {
	port, err := link.OpenPort(name)
	if err != nil {
		return err
	}
	defer port.Close()
	return link.Serve(port, serve, ports...)
}

// ServeVsock serves the ports on the vsock, until one fails, and tells the host
// that it does. A machine may not have a vsock.
func ServeVsock(serve link.Handler, ports ...int) error {
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
		log.Infof("no host hears that we serve: %v", err)
	}
	return <-failed
}

func acceptAll(listener net.Listener, serve func(net.Conn)) error {
	for {
		conn, err := Accept(listener)
		if err != nil {
			return err
		}
		go serve(conn)
	}
}
