package guest

import (
	"context"
	"errors"
	"slices"

	"banger/internal/guest/wire"
)

// ErrNextStart means that the guest's agent is older than what was asked of it. The
// change takes effect when the VM starts again, with an agent of today.
var ErrNextStart = errors.New("the VM's agent is older; this takes effect at the next start")

// Configure changes what a running guest was told at boot, and waits until it has done
// so. What is zero stays as it is. It may be called again. It returns ErrNextStart if
// the agent cannot do it.
func (c *Control) Configure(ctx context.Context, p wire.ConfigureParams) error {
	if err := p.Check(); err != nil {
		return err
	}
	if !c.has(wire.FeatureConfigure) {
		return ErrNextStart
	}
	return c.Call(ctx, wire.MethodConfigure, p, nil)
}

// Ports asks the guest for the TCP ports that listen now. The result is bounded and
// printable. It returns ErrNextStart if the agent cannot tell.
func (c *Control) Ports(ctx context.Context) (wire.Ports, error) {
	if !c.has(wire.FeaturePorts) {
		return wire.Ports{}, ErrNextStart
	}
	var p wire.Ports
	if err := c.Call(ctx, wire.MethodPorts, nil, &p); err != nil {
		return wire.Ports{}, err
	}
	return *ReadPorts(&p), nil
}

func (c *Control) has(feature string) bool { return slices.Contains(c.Hello().Features, feature) }

// ReadPorts returns what of a guest's report can be shown and used.
func ReadPorts(told *wire.Ports) *wire.Ports {
	if told == nil {
		return nil
	}
	p := wire.Ports{More: told.More, Unwatched: Printable(told.Unwatched)}
	for _, l := range told.Listeners {
		if len(p.Listeners) == wire.MaxListeners {
			p.More = true
			break
		}
		if l.Port == 0 || !l.Addr.IsValid() || l.Addr.Zone() != "" || l.Addr.Is4In6() || l.Addr.IsMulticast() {
			continue
		}
		l.Dual = l.Dual && l.Addr.Is6() && l.Addr.IsUnspecified()
		l.Program = Printable(l.Program[:min(len(l.Program), wire.MaxProgram)])
		p.Listeners = append(p.Listeners, l)
	}
	return &p
}
