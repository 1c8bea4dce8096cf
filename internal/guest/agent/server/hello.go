package server

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guest/agent/control"
	"banger/internal/guest/agent/log"
	"banger/internal/guest/agent/socket"
	"banger/internal/guest/wire"
	"banger/internal/version"
)

func (s *server) hello() wire.Hello {
	h := helloOf(s.config)
	h.Init, _ = s.init.State()
	h.InitWhy = s.init.Reason()
	h.Disks = s.disks.Errors()
	h.Ports = s.ports.Known()
	if s.config.Network != nil {
		h.NetworkWhy = guestNetwork.Why()
	}
	return h
}

func helloOf(c wire.Config) wire.Hello {
	var name unix.Utsname
	unix.Uname(&name)
	return wire.Hello{
		Version:  wire.Version,
		Features: []string{wire.FeatureStats, wire.FeatureDisks, wire.FeatureConfigure, wire.FeaturePorts},
		Program:  "banger-agent " + version.Version,
		Token:    c.Token,
		Nonce:    c.Nonce,
		BootID:   bootID(),
		Kernel:   unix.ByteSliceToString(name.Release[:]),
	}
}

func bootID() string {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id))
}

// ServeFailure tells the host of a failed boot. It returns when the host knows, or
// the time is over.
func ServeFailure(c wire.Config, f wire.Failure, within time.Duration) {
	heard := make(chan struct{}, 1)
	k := control.New(func() wire.Hello {
		h := helloOf(c)
		h.Failed = &f
		return h
	}, func(_ context.Context, r wire.Request) (any, error) {
		return nil, fmt.Errorf("the boot failed at %q", f.Step)
	})
	serve := func(stream net.Conn, _ int) {
		k.Serve(stream, func() {
			select {
			case heard <- struct{}{}:
			default:
			}
		})
	}
	lost := make(chan error)
	carriers := []func() error{
		func() error { return socket.ServePort(wire.SerialControl, serve, wire.PortControl) },
		func() error { return socket.ServeVsock(serve, wire.PortControl) },
	}
	for _, carry := range carriers {
		go func() { lost <- carry() }()
	}
	over := time.After(within)
	for range carriers {
		select {
		case err := <-lost:
			log.Infof("tell the host: %v", err)
		case <-heard:
			return
		case <-over:
			return
		}
	}
}
