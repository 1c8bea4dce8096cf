package vm

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"banger"
	"banger/internal/guest"
	"banger/internal/guest/wire"
	"banger/internal/network"
	"banger/internal/network/forward"
	"banger/internal/operation"
	"banger/internal/store"
)

// newForwards returns the forwards of this daemon's VMs.
func (v *VMs) newForwards() *forward.Forwards {
	return forward.New(forward.Config{Log: v.Log, Instance: network.InstanceOf(v.Dirs.State), Dial: v.dialPort, Changed: func(id banger.VMID) {
		if o := v.owner(id); o != nil {
			o.mu.Lock()
			o.tell()
			o.mu.Unlock()
		}
	}})
}

// owner returns the owner of a VM, and nil if there is no such VM.
func (v *VMs) owner(id banger.VMID) *owner {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.owners[id]
}

// dialPort connects to what listens in a VM.
func (v *VMs) dialPort(ctx context.Context, id banger.VMID, to netip.AddrPort) (forward.Stream, error) {
	o := v.owner(id)
	if o == nil {
		return nil, fmt.Errorf("there is no VM %s", id)
	}
	r := o.running()
	if r == nil {
		return nil, banger.Refuse(banger.Reach, o.name(), banger.Stopped)
	}
	s, err := r.dialer.DialTCP(ctx, to)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func newDialer(r *run) *guest.Dialer {
	return guest.NewDialer(func(ctx context.Context) (net.Conn, error) { return r.machine.Dial(ctx, wire.PortSSH) }, r.o.show, []byte(r.boot.Key))
}

// forward makes the VM's forwards follow its run and its record. The caller holds mu.
func (o *owner) forward() {
	if o.run == nil || o.run.gone {
		o.v.forwards.Remove(o.id)
		return
	}
	w := forward.Wanted{Name: o.row.Name, Slot: o.row.Slot, Published: publishes(o.row), Auto: o.v.Config.Forward != "off"}
	if told := o.run.hello.Ports; told != nil {
		for _, l := range told.Listeners {
			w.Listening = append(w.Listening, forward.Port{At: l.Dial(), Program: l.Program})
		}
	}
	o.v.forwards.Set(o.id, w)
}

// prepareTime bounds how long a guest may take for what only makes it faster later.
const prepareTime = 30 * time.Second

// expect prepares connections to a guest that has booted if a program begins to listen: the
// first one is soon to come, and would take several times as long as the next. The services
// of the boot are not worth it. The caller holds the owner's mu, and r.hello still has what
// listened before.
func (r *run) expect(now *wire.Ports) {
	if now == nil || r.hello.Ports == nil || r.o.state != banger.Running || r.o.v.Config.Forward == "off" {
		return
	}
	begins := func(l wire.Listener) bool { return !slices.Contains(r.hello.Ports.Listeners, l) }
	if !slices.ContainsFunc(now.Listeners, begins) || !r.expects.CompareAndSwap(false, true) {
		return
	}
	go r.o.v.task(func(ctx context.Context) {
		defer r.expects.Store(false)
		ctx, cancel := context.WithTimeout(ctx, prepareTime)
		defer cancel()
		if err := r.dialer.Prepare(ctx); err != nil && ctx.Err() == nil {
			r.o.log().Debug("prepare connections to the guest", "err", err)
		}
	})
}

// notePorts adds a note for each published port that the VM did not get.
func (s *starting) notePorts() {
	for _, p := range s.v.forwards.List(s.id) {
		if p.Published && p.Why != "" {
			s.Note("launch", withFix(fmt.Sprintf("port %d: %s", p.Port, p.Why), p.Fix))
		}
	}
}

// publishes returns the ports of a record.
func publishes(row store.VM) (ports []banger.Publish) {
	for text := range strings.FieldsSeq(row.Published) {
		if p, err := banger.ParsePublish(text); err == nil {
			ports = append(ports, p)
		}
	}
	return ports
}

// publishText is what a record holds of ports.
func publishText(ports []banger.Publish) string {
	texts := make([]string, len(ports))
	for i, p := range ports {
		texts[i] = p.String()
	}
	return strings.Join(texts, " ")
}

// VMPorts implements banger.VMService.
func (v *VMs) VMPorts(_ context.Context, ref string) (banger.VMPorts, error) {
	o, err := v.find(ref)
	if err != nil {
		return banger.VMPorts{}, operation.Name(err, "vm", "look at", ref)
	}
	vm := o.show()
	v.forwards.Retry()
	p := banger.VMPorts{ID: vm.ID, Name: vm.Name, State: vm.State, Ports: v.forwards.List(o.id)}
	if p.Ports == nil {
		p.Ports = []banger.Forward{}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	switch r := o.run; {
	case r == nil:
	case !r.answered:
		p.Why = "the guest does not answer yet"
	case r.hello.Ports == nil:
		p.Why = "the guest's agent cannot tell what listens until the VM is restarted"
	case r.hello.Ports.Unwatched != "":
		p.Why = "the guest cannot tell when a program begins to listen: " + r.hello.Ports.Unwatched
	case r.hello.Ports.More:
		p.Why = fmt.Sprintf("more than %d sockets listen", wire.MaxListeners)
	}
	return p, nil
}
