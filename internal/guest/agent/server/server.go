// Package server is the agent that the host talks to: it answers requests, reports
// what happens in the guest, and hands SSH connections to sshd. It does not boot the
// guest or end it.
package server

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"sync"
	"time"

	"banger/internal/guest/agent/control"
	"banger/internal/guest/agent/disk"
	"banger/internal/guest/agent/imageinit"
	"banger/internal/guest/agent/layout"
	"banger/internal/guest/agent/log"
	"banger/internal/guest/agent/mount"
	"banger/internal/guest/agent/ports"
	"banger/internal/guest/agent/process"
	"banger/internal/guest/agent/shutdown"
	"banger/internal/guest/agent/socket"
	"banger/internal/guest/agent/sshd"
	"banger/internal/guest/wire"
)

// server is the state of the running server.
type server struct {
	config  wire.Config // as the server found it at its start
	init    *imageinit.Watch
	disks   *disk.Watch
	ports   *ports.Watch
	control *control.Server
	ssh     *sshd.Server
	stopper *shutdown.Stopper
	ended   chan struct{} // closed after bye
	greeted func()        // called when a host has answered the hello

	keeping sync.Mutex
	alive   *os.File // the keeper's sign of life; nil: there is none, or an older server's
	ending  bool     // the server ends by itself

	configuring sync.Mutex
	now         wire.Config // as the host has changed it
}

// byeTime bounds how long the end waits until the host has read the bye.
const byeTime = 2 * time.Second

// Run serves until the machine says bye, and then returns status 0. The first server of
// a boot has one more descriptor, by which the boot hears that the host has greeted it.
func Run(first bool) int {
	process.Protect()
	log.Open()
	notify, bye := socket.Inherited(socket.FDNotify, layout.NotifySocket), socket.Inherited(socket.FDBye, layout.ByeSocket)
	s, err := newServer()
	if err != nil {
		log.Errorf("start server: %v", err)
		return 1
	}
	if first {
		s.greeted = s.whenGreeted(socket.Inherited(fdGreet, "boot"), notify, bye)
	}
	go s.followDisks()
	go s.followPorts()
	failed := make(chan error, 5)
	go func() { failed <- socket.ReadNotify(notify, s.hear) }()
	go func() { failed <- socket.AcceptBye(bye, s.bye) }()
	go func() { failed <- socket.ServePort(wire.SerialControl, s.serveStream, wire.PortControl) }()
	go func() { failed <- socket.ServePort(wire.SerialStreams, s.serveStream, wire.PortSSH) }()
	go func() { failed <- socket.ServeVsock(s.serveStream, wire.PortControl, wire.PortSSH) }()
	for {
		select {
		case <-s.ended:
			s.letGo()
			return 0
		case err := <-failed:
			if !errors.Is(err, fs.ErrNotExist) {
				log.Errorf("server: %v", err)
				return 1
			}
			log.Infof("server: %v", err)
		}
	}
}

func newServer() (*server, error) {
	config, err := layout.ReadConfig(layout.CurrentConfig())
	if err != nil {
		return nil, err
	}
	s := &server{config: config, now: config, ended: make(chan struct{}), greeted: func() {}}
	if s.init, err = imageinit.OpenWatch(layout.InitFile); err != nil {
		return nil, err
	}
	if s.ssh, err = sshd.New(config, process.Start, s.booted); err != nil {
		return nil, err
	}
	s.disks = disk.NewWatch(disk.Devices(), s.tellDisks)
	s.ports = ports.NewWatch(s.tellPorts)
	s.control = control.New(s.hello, s.handle)
	s.stopper = &shutdown.Stopper{Config: config, Init: s.init, Disks: s.disks.Errors,
		Bye: func(e wire.Event) { s.control.Bye(e, byeTime) }}
	if s.init.Kind() == imageinit.Foreign {
		process.Spare("server", os.Getpid())
	}
	return s, nil
}

// booted reports whether the init has started everything.
func (s *server) booted() bool {
	state, _ := s.init.State()
	return state == wire.InitUp
}

// followDisks tells the host of disk errors: those that are recorded, and later ones.
func (s *server) followDisks() {
	if disks := s.disks.Errors(); disks != nil {
		s.tellDisks(disks)
	}
	log.Errorf("watch the disks for errors: %v", s.disks.Follow())
}

func (s *server) tellDisks(disks []wire.DiskErrors) {
	disk.PrintErrors(s.config.Nonce, disks)
	s.control.Broadcast(wire.Event{Kind: wire.EventDisks, Disks: disks})
}

// followPorts tells the host of the ports that listen.
func (s *server) followPorts() {
	log.Errorf("watch the ports that listen: %v", s.ports.Follow())
}

func (s *server) tellPorts(now wire.Ports) {
	s.control.Broadcast(wire.Event{Kind: wire.EventPorts, Ports: &now})
}

// serveStream serves one stream, whatever carried it here.
func (s *server) serveStream(stream net.Conn, port int) {
	switch port {
	case wire.PortControl:
		s.control.Serve(stream, s.greeted)
	case wire.PortSSH:
		s.ssh.Serve(stream)
	default:
		stream.Close()
	}
}

// hear acts on a notification of the init.
func (s *server) hear(datagram string) {
	entered, again := s.init.Hear(datagram)
	if imageinit.MayEnd(datagram) {
		go s.askInit() // it is not kept waiting: it may have more to tell before it answers
	}
	for _, state := range entered {
		s.control.Broadcast(wire.Event{Kind: wire.EventInit, Init: state, Why: s.init.Reason()})
		s.stopper.InitEntered(state)
	}
	if again {
		if err := mount.AfterSoftReboot(s.config); err != nil {
			log.Errorf("mount again after a soft reboot: %v", err)
		}
	}
}

// askInit finds out whether the init ends the machine, and tells the host if so.
func (s *server) askInit() {
	if s.init.Ask() {
		s.control.Broadcast(wire.Event{Kind: wire.EventInit, Init: wire.InitStopping})
	}
}

// bye passes the last stage's bye on to the host and ends the server. It does not
// return: the last stage continues when the process is gone, and so is everything
// that it had open.
func (s *server) bye(verb string) {
	s.control.Bye(wire.Event{Kind: wire.EventBye, Verb: wire.Verb(verb), Nonce: s.config.Nonce, Disks: s.disks.Errors()}, byeTime)
	close(s.ended)
	select {}
}
