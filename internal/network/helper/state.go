package helper

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"banger"
	"banger/internal/config"
	"banger/internal/network"
	"banger/internal/network/dns"
)

// State is all that the helper knows. The daemon replaces its file whenever it changes.
type State struct {
	Instance network.Instance `json:"instance"`
	Mode     network.Mode     `json:"mode"`
	Subnet   netip.Prefix     `json:"subnet"`
	Names    []Name           `json:"names"`

	// Needed are the processes that need the helper: the daemon and every VMM with a
	// network card. When all of them have ended, the helper ends.
	Needed []int `json:"needed"`
}

// Name is a VM that can be found by its name.
type Name struct {
	ID     banger.VMID `json:"id"`
	Name   string      `json:"name"`
	Addr   netip.Addr  `json:"addr"`
	Egress bool        `json:"egress,omitempty"`
}

// Bounds of a state.
const (
	mostState  = 4 << 20
	mostNeeded = network.LastSlot + 1
)

func (s State) check() error {
	if !s.Subnet.IsValid() || !s.Subnet.Addr().Is4() || s.Subnet.Bits() != network.PrefixBits || s.Subnet != s.Subnet.Masked() {
		return fmt.Errorf("the subnet %v is not one of %d bits", s.Subnet, network.PrefixBits)
	}
	if s.Mode != network.Bridge && s.Mode != network.Usernet {
		return fmt.Errorf("the mode %q has no helper", s.Mode)
	}
	if len(s.Names) > network.LastSlot || len(s.Needed) > mostNeeded {
		return fmt.Errorf("%d names and %d processes are too many", len(s.Names), len(s.Needed))
	}
	for _, n := range s.Names {
		if err := banger.CheckName(n.Name); err != nil {
			return err
		}
		if !s.Subnet.Contains(n.Addr) {
			return fmt.Errorf("the address %v of %q is not in %v", n.Addr, n.Name, s.Subnet)
		}
	}
	for _, pid := range s.Needed {
		if pid <= 0 {
			return fmt.Errorf("%d is not a process", pid)
		}
	}
	return nil
}

// table returns what the resolver answers from.
func (s State) table() *dns.Table {
	names := make([]dns.Name, len(s.Names))
	for i, n := range s.Names {
		names[i] = dns.Name{Name: n.Name, Addr: n.Addr, Egress: n.Egress}
	}
	return dns.NewTable(s.Subnet, names)
}

// statePart is the pattern of the names of a state that is being written.
const statePart = "." + config.NetStateName + ".*"

// WriteState replaces what the helper in dir knows, wholly or not at all. The helper
// follows at once. The next daemon writes it again, so it need not survive a power cut.
func WriteState(dir config.NetDir, s State) (err error) {
	if err := s.check(); err != nil {
		return fmt.Errorf("write the network's state: %w", err)
	}
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	file, err := os.CreateTemp(string(dir), statePart)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(file.Name())
		}
	}()
	_, err = file.Write(data)
	if err == nil {
		err = file.Chmod(0o640) // the group is the helper's account, if it has one of its own
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), dir.State())
}

// Sweep removes what a daemon has left in dir that was killed while it wrote the state.
// No other daemon may be writing.
func Sweep(dir config.NetDir) error {
	parts, err := filepath.Glob(filepath.Join(string(dir), statePart))
	for _, part := range parts {
		err = errors.Join(err, os.Remove(part))
	}
	return err
}

// Forget removes the state: no helper runs.
func Forget(dir config.NetDir) error {
	if err := os.Remove(dir.State()); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Told returns what the helper in dir was told last.
func Told(dir config.NetDir) (State, error) { return stateIn(dir.State()) }

// readState reads the state in this process's directory.
func readState() (State, error) { return stateIn(config.NetStateName) }

func stateIn(path string) (State, error) {
	file, err := os.Open(path)
	if err != nil {
		return State{}, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, mostState))
	if err != nil {
		return State{}, err
	}
	return parseState(data)
}

// parseState returns the state that data is.
func parseState(data []byte) (s State, err error) {
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(&s); err != nil {
		return State{}, fmt.Errorf("read %s: %w", filepath.Base(config.NetStateName), err)
	}
	return s, s.check()
}
