package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guest/link"
	"banger/internal/guest/wire"
	"banger/internal/version"
)

// server is the agent that the host talks to.
type server struct {
	config  wire.Config
	init    *initWatch
	disks   *diskWatch
	control *control
	ssh     *sshServer
	ending  ending
	asked   bool          // the sessions know of the end; only hear uses it
	ended   chan struct{} // closed after bye
}

// sessionTime bounds how long sessions may take to end when they are asked last.
const sessionTime = 2 * time.Second

// byeTime bounds how long the last stage waits until the host has heard bye.
const byeTime = 2 * time.Second

// runServer serves until the machine says bye; then it ends with status 0.
func runServer() int {
	shrugOff()
	setOOMScore(oomNever)
	openLog()
	s, err := newServer()
	if err != nil {
		logf(prioError, "start server: %v", err)
		return 1
	}
	failed := make(chan error, 6)
	go func() { failed <- readNotify(os.NewFile(fdNotify, notifySocket), s.hear) }()
	go func() { failed <- acceptBye(os.NewFile(fdBye, byeSocket), s.bye) }()
	go func() { failed <- s.followDisks() }()
	go func() { failed <- servePort(wire.SerialControl, s.serveStream, wire.PortControl) }()
	go func() { failed <- servePort(wire.SerialStreams, s.serveStream, wire.PortSSH) }()
	go func() { failed <- serveVsock(s.serveStream, wire.PortControl, wire.PortSSH) }()
	for {
		select {
		case <-s.ended:
			return 0
		case err := <-failed:
			if !errors.Is(err, fs.ErrNotExist) {
				logf(prioError, "server: %v", err)
				return 1
			}
			logf(prioInfo, "server: %v", err)
		}
	}
}

func newServer() (*server, error) {
	config, err := readConfig(serverConfig())
	if err != nil {
		return nil, err
	}
	s := &server{config: config, ended: make(chan struct{})}
	if s.init, err = openInitWatch(progressFile); err != nil {
		return nil, err
	}
	if s.ssh, err = newSSHServer(config, startInGuest); err != nil {
		return nil, err
	}
	s.control = newControl(s.hello, s.handle)
	found, _, _ := scanDisks()
	s.disks = newDiskWatch(found, s.tellDisks)
	if s.init.kind() == initOther {
		omitFromKill("server", os.Getpid())
	}
	return s, nil
}

// followDisks tells the host of disk errors, for ever.
func (s *server) followDisks() error {
	s.tellDisks(s.disks.errors())
	log, err := openKernelLog()
	if err != nil {
		return err
	}
	defer log.Close()
	return s.disks.follow(log)
}

func (s *server) tellDisks(disks []wire.DiskErrors) {
	if len(disks) == 0 {
		return
	}
	sayDiskErrors(s.config.Nonce, disks)
	s.control.broadcast(wire.Event{Kind: wire.EventDisks, Disks: disks})
}

// serverConfig is the configuration's place: the last stage has moved it for a
// server that starts that late.
func serverConfig() string {
	if _, err := os.Stat(configFile); err != nil {
		return lastConfig
	}
	return configFile
}

// servePort serves one serial port, for ever. A machine may have none.
func servePort(name string, serve link.Handler, ports ...int) error {
	port, err := link.OpenPort(name)
	if err != nil {
		return err
	}
	defer port.Close()
	return link.Serve(port, serve, ports...)
}

// serveStream serves one stream, whatever carried it here.
func (s *server) serveStream(stream net.Conn, port int) {
	switch port {
	case wire.PortControl:
		s.control.serve(stream, nil)
	case wire.PortSSH:
		s.ssh.serve(stream)
	default:
		stream.Close()
	}
}

func (s *server) hello() wire.Hello {
	h := helloOf(s.config)
	h.Init, _ = s.init.state()
	h.InitWhy = s.init.reason()
	h.Disks = s.disks.errors()
	return h
}

func helloOf(c wire.Config) wire.Hello {
	var name unix.Utsname
	unix.Uname(&name)
	return wire.Hello{
		Version:  wire.Version,
		Features: []string{wire.FeatureStats, wire.FeatureDisks},
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

func (s *server) handle(_ context.Context, r wire.Request) (any, error) {
	switch r.Method {
	case wire.MethodPing:
		return nil, nil
	case wire.MethodSync:
		unix.Sync()
		return nil, nil
	case wire.MethodClock:
		p, err := params[wire.ClockParams](r)
		if err != nil {
			return nil, err
		}
		return nil, followClock(p.UnixNano)
	case wire.MethodInfo:
		return s.info()
	case wire.MethodStats:
		return stats(s.config)
	case wire.MethodGrow:
		p := wire.GrowParams{}
		if len(r.Params) > 0 {
			var err error
			if p, err = params[wire.GrowParams](r); err != nil {
				return nil, err
			}
		}
		return nil, growAll(p.Disks, resizeTime)
	case wire.MethodStop:
		p, err := params[wire.StopParams](r)
		if err != nil {
			return nil, err
		}
		return nil, s.stop(p)
	}
	return nil, fmt.Errorf("unknown method %q", r.Method)
}

func (s *server) info() (wire.Info, error) {
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return wire.Info{}, err
	}
	state, _ := s.init.state()
	return wire.Info{BootID: bootID(), Uptime: up.Nano() / 1e6, Init: state}, nil
}

// hear acts on a notification of the init.
func (s *server) hear(datagram string) {
	entered, again := s.init.hear(datagram)
	for _, state := range entered {
		s.control.broadcast(wire.Event{Kind: wire.EventInit, Init: state, Why: s.init.reason()})
		s.endSessions(state)
	}
	if again {
		if err := remountAfterSoftReboot(s.config); err != nil {
			logf(prioError, "mount again after soft reboot: %v", err)
		}
	}
}

// endSessions ends the sessions with the machine. A machine that is told to end
// by a program in it gives no sign before the very last units.
func (s *server) endSessions(state wire.Init) {
	switch state {
	case wire.InitStopping:
		askSessions()
		s.asked = true
	case wire.InitShutdown:
		if s.asked {
			killSessions()
			return
		}
		go func() {
			waitGone(askSessions(), sessionTime)
			killSessions()
		}()
	default:
		s.asked = false
	}
}

// bye passes the last stage's word on to the host and ends the server. It does
// not return: the last stage goes on when the process is gone, and with it all
// that it had open.
func (s *server) bye(verb string) {
	s.control.bye(wire.Event{Kind: wire.EventBye, Verb: wire.Verb(verb), Nonce: s.config.Nonce, Disks: s.disks.errors()}, byeTime)
	close(s.ended)
	select {}
}

// serveFailure tells the host of a failed boot, and returns when it has heard
// or the time is over.
func serveFailure(c wire.Config, f wire.Failure, within time.Duration) {
	heard := make(chan struct{}, 1)
	k := newControl(func() wire.Hello {
		h := helloOf(c)
		h.Failed = &f
		return h
	}, func(_ context.Context, r wire.Request) (any, error) {
		return nil, fmt.Errorf("the boot failed at %q", f.Step)
	})
	serve := func(stream net.Conn, _ int) {
		k.serve(stream, func() {
			select {
			case heard <- struct{}{}:
			default:
			}
		})
	}
	lost := make(chan error)
	carriers := []func() error{
		func() error { return servePort(wire.SerialControl, serve, wire.PortControl) },
		func() error { return serveVsock(serve, wire.PortControl) },
	}
	for _, carry := range carriers {
		go func() { lost <- carry() }()
	}
	over := time.After(within)
	for range carriers {
		select {
		case err := <-lost:
			logf(prioInfo, "tell the host: %v", err)
		case <-heard:
			return
		case <-over:
			return
		}
	}
}
