package process

import (
	"errors"
	"fmt"
	"strings"

	"banger"
	"banger/internal/hostcmd"
	"banger/internal/vmm"
)

// The commands of util-linux that start a VMM in a namespace, each in place of the last:
// the first enters it, the second gives up the capabilities that a root has there.
const (
	nsenter = "nsenter"
	setpriv = "setpriv"
)

// ErrAccountInside means that a daemon of root's wants a VMM in a namespace: that has no
// user but root.
var ErrAccountInside = errors.New("a VMM with an account of its own cannot enter a namespace")

// inside returns the command line that starts the VMM in its namespace. The process keeps
// its pid, its descriptors and its session, and cannot get any capability again.
func (c Command) inside() ([]string, error) {
	if c.Account.Is() {
		return nil, ErrAccountInside
	}
	var paths [2]string
	for i, tool := range []string{nsenter, setpriv} {
		path, err := hostcmd.Host{}.Look(tool)
		if err != nil {
			return nil, &banger.Error{Kind: banger.Unready, Why: fmt.Errorf("the command %s is not installed", tool), Fix: "sudo apt install util-linux"}
		}
		paths[i] = path
	}
	drop := []string{paths[1], "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--", c.Program}
	return append([]string{paths[0]}, c.Inside.Enter(append(drop, c.Args...)...)...), nil
}

// EntryError returns the error of the commands that start a VMM in a namespace, if one of
// them failed in the VMM's place: they write it to the VMM's output. from is how long that
// was before.
func EntryError(exit vmm.Exit, output string, from int64) error {
	if exit.Reason != vmm.ReasonFailed {
		return nil
	}
	for _, line := range LastLines(output, from) {
		if strings.HasPrefix(line, nsenter+": ") || strings.HasPrefix(line, setpriv+": ") {
			return &banger.Error{Kind: banger.Unready, What: "enter the network of the VM", Why: errors.New(line), Fix: "banger doctor"}
		}
	}
	return nil
}

// Owner returns the user that may open the TAP of the VM in dir, as the namespace of the
// network numbers it: the VMM's account or, inside a plain user's namespace, its root.
func (h Host) Owner(path string, id banger.VMID) (int, error) {
	dir, err := OpenDir(path)
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	account, err := h.Assign(dir, id)
	if errors.Is(err, ErrNoAccounts) { // then its VMM is root
		return 0, nil
	}
	return int(account.id), err
}
