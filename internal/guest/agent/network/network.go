// Package network gives the guest's network card its address, its route and its
// resolver, and tells the image's own network services, so that none of them undoes it.
// It does not choose the values; the host does. It touches no other link.
package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"banger/internal/guest/agent/inroot"
	"banger/internal/guest/agent/layout"
	"banger/internal/guest/agent/log"
	"banger/internal/guest/wire"
)

// Guest is the guest whose network is set up.
type Guest struct {
	Root    string                 // where its files are
	Changed func(path string) bool // whether a file is the VM's own, and not as in the image
}

// cardTime bounds how long the card may take to appear after its driver was loaded.
const cardTime = 2 * time.Second

// Apply makes the running guest's network equal to want. It changes nothing that is
// already right, so it may be called again, also with other values: what an earlier
// call set and want no longer has, it removes. What a person added stays.
func (g Guest) Apply(want wire.Network) error {
	r := g.read()
	err := want.Check()
	if err == nil {
		stale := slices.DeleteFunc(r.Ours, func(n wire.Network) bool { return n == want })
		r.Ours = last(append(slices.Clone(stale), want), maxOurs)
		// Before the first change: whatever happens then, the next call knows of it.
		if err = g.remember(r); err == nil {
			err = g.apply(want, stale)
		}
	}
	r.Why = ""
	if err != nil {
		r.Why = err.Error()
	} else {
		r.Ours = []wire.Network{want}
	}
	return errors.Join(err, g.remember(r))
}

func (g Guest) apply(want wire.Network, stale []wire.Network) error {
	card, err := waitForCard(want.MAC, cardTime)
	if err != nil {
		// The files are right all the same, for a card that comes later.
		return errors.Join(err, g.writeServices(want, "eth0"), g.writeResolver(want))
	}
	return errors.Join(card.set(want, stale), g.writeServices(want, card.name), g.writeResolver(want))
}

// record is what the package remembers until the guest's end, on /run.
type record struct {
	Ours []wire.Network `json:"ours,omitempty"` // networks of which something may be set; the last one is wanted
	Why  string         `json:"why,omitempty"`  // the last call failed
}

// maxOurs bounds how many networks are remembered, if setting each of them fails.
const maxOurs = 16

func last(networks []wire.Network, n int) []wire.Network {
	return networks[max(0, len(networks)-n):]
}

func (g Guest) read() (r record) {
	raw, err := inroot.Read(g.Root, layout.NetworkFile)
	if err == nil && len(raw) > 0 {
		err = json.Unmarshal(raw, &r)
	}
	if err != nil {
		log.Errorf("read what the network was: %v", err)
		return record{}
	}
	return r
}

func (g Guest) remember(r record) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := inroot.Write(g.Root, layout.NetworkFile, raw, 0o600); err != nil {
		return fmt.Errorf("remember the network: %w", err)
	}
	return nil
}

// Why returns why the last Apply of this boot failed, or "".
func (g Guest) Why() string { return g.read().Why }
