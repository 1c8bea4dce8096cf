package server

import (
	"fmt"
	"os/exec"
	"time"

	"banger/internal/guest/agent/identity"
	"banger/internal/guest/agent/imageinit"
	"banger/internal/guest/agent/layout"
	"banger/internal/guest/agent/network"
	"banger/internal/guest/agent/process"
	"banger/internal/guest/wire"
)

// guestNetwork is the running guest's: whoever changed a file in it did so in this VM.
var guestNetwork = network.Guest{Root: "/", Changed: func(string) bool { return true }}

// configure changes what the guest was told at boot. What it changes is the same the
// next time the server starts, and the host tells it again at the next boot.
func (s *server) configure(p wire.ConfigureParams) error {
	if err := p.Check(); err != nil {
		return err
	}
	s.configuring.Lock()
	defer s.configuring.Unlock()
	next := p.Apply(s.now)
	id := identity.Of(next)
	id.Clock = identity.Clock{} // the one that is in the configuration is of the boot
	if p.UnixNano != 0 {
		id.Clock.Time = time.Unix(0, p.UnixNano)
	}
	if err := identity.Apply("/", id); err != nil {
		return err
	}
	if p.Network != nil {
		if err := guestNetwork.Apply(*p.Network); err != nil {
			return err
		}
		s.tellServices()
	}
	if err := layout.WriteJSON(layout.CurrentConfig(), next); err != nil {
		return fmt.Errorf("keep the configuration: %w", err)
	}
	s.now = next
	return nil
}

// networkUnits read the files that package network writes, when they are told to.
var networkUnits = []string{"systemd-networkd.service", "systemd-resolved.service", "NetworkManager.service"}

// tellServices has the network services that run read their files again. It does not
// wait for them: the kernel has the new values already.
func (s *server) tellServices() {
	if s.init.Kind() != imageinit.Systemd {
		return
	}
	cmd := exec.Command("systemctl", append([]string{"--no-block", "try-reload-or-restart"}, networkUnits...)...)
	cmd.Env = []string{"PATH=" + layout.DefaultPath}
	if err := process.Start(cmd); err == nil {
		go cmd.Wait()
	}
}
