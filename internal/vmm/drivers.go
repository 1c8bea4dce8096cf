package vmm

import (
	"context"
	"errors"
	"strings"

	"banger"
)

// Auto stands for the first driver that works on this host.
const Auto = "auto"

// Drivers are the ways to run VMs, the preferred one first.
type Drivers []Driver

// Names returns the list that a user can choose from.
func (d Drivers) Names() string {
	names := []string{Auto}
	for _, driver := range d {
		names = append(names, driver.Name())
	}
	return strings.Join(names, ", ")
}

// Named returns the driver of a name.
func (d Drivers) Named(name string) (Driver, error) {
	for _, driver := range d {
		if driver.Name() == name {
			return driver, nil
		}
	}
	return nil, banger.Invalidf("--driver with one of "+d.Names(), "there is no driver %q", name)
}

// Choose returns the driver with this name, or for Auto the first that works here, and
// its capabilities. If none works, it returns the last driver, and its error.
func (d Drivers) Choose(ctx context.Context, name string) (Driver, Capabilities, error) {
	if name != Auto {
		driver, err := d.Named(name)
		if err != nil {
			return nil, Capabilities{}, err
		}
		capabilities, err := driver.Probe(ctx)
		if err != nil {
			err = &banger.Error{What: "use the driver " + name, Why: err}
		}
		return driver, capabilities, err
	}
	err := errors.New("there is no driver")
	var last Driver
	for _, driver := range d {
		var capabilities Capabilities
		if capabilities, err = driver.Probe(ctx); err == nil {
			return driver, capabilities, nil
		}
		if last = driver; ctx.Err() != nil {
			break
		}
	}
	return last, Capabilities{}, err
}
