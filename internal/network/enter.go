package network

import (
	"errors"
	"fmt"
	"os"
)

// Namespace is a user namespace and the network namespace that it owns, held open:
// they exist at least until Close.
type Namespace struct{ User, Net *os.File }

// Enter returns the arguments of nsenter that run a command inside. The command keeps
// its pid, its parent and its descriptors, and is root there. It inherits nothing of
// the namespace's files: nsenter opens them through this process, which must live and
// keep them until then.
func (n *Namespace) Enter(command ...string) []string {
	path := func(file *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), file.Fd()) }
	// Without --preserve-credentials nsenter calls setgroups, which such a namespace forbids.
	return append([]string{"--user=" + path(n.User), "--net=" + path(n.Net), "--preserve-credentials", "--"}, command...)
}

// Close closes the files. The namespace lives on in the processes inside.
func (n *Namespace) Close() error { return errors.Join(n.User.Close(), n.Net.Close()) }
