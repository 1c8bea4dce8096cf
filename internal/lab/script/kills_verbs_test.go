package script

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/api"
	"banger/internal/network/helper"
	"banger/internal/network/namespace"
	"banger/internal/vmm/process"
)

// verb is a command that can be disturbed.
type verb struct {
	banger.Verb
	target string // the VM; empty: all
	do     func(context.Context, *api.Client) error
	args   []string // of the command that does the same

	// wrong says what is not as it should be after it has succeeded. vm is the zero VM
	// if there is none.
	wrong func(vm banger.VM) string
}

func (v verb) String() string { return strings.TrimSpace(string(v.Verb) + " " + v.target) }

func (k *kills) create(name string, nat *bool) verb {
	want := nat == nil || *nat
	return verb{banger.Create, name, func(ctx context.Context, c *api.Client) error {
		_, err := c.CreateVM(ctx, banger.CreateVM{Name: name, NAT: nat}, nil)
		return err
	}, []string{"vm", "create", "--name", name, fmt.Sprintf("--nat=%v", want)}, func(vm banger.VM) string {
		if vm.Name != "" && vm.Network.NAT != want {
			return fmt.Sprintf("NAT is %v", vm.Network.NAT)
		}
		return k.runs(vm)
	}}
}

func (k *kills) remove(name string) verb {
	return verb{banger.Delete, name, func(ctx context.Context, c *api.Client) error {
		return c.DeleteVM(ctx, name, banger.DeleteVM{Force: true}, nil)
	}, []string{"vm", "delete", "--yes", "--force", name}, func(vm banger.VM) string { return vm.Name }}
}

func (k *kills) start(name string) verb {
	return verb{banger.Start, name, func(ctx context.Context, c *api.Client) error {
		_, err := c.StartVM(ctx, name, banger.StartVM{}, nil)
		return err
	}, []string{"vm", "start", name}, k.runs}
}

func (k *kills) restart(name string) verb {
	return verb{banger.Restart, name, func(ctx context.Context, c *api.Client) error {
		_, err := c.RestartVM(ctx, name, banger.StopVM{}, nil)
		return err
	}, []string{"vm", "restart", name}, k.runs}
}

func (k *kills) stop(name string) verb {
	return verb{banger.Stop, name, func(ctx context.Context, c *api.Client) error {
		_, err := c.StopVM(ctx, name, banger.StopVM{}, nil)
		return err
	}, []string{"vm", "stop", name}, func(vm banger.VM) string {
		if vm.State != banger.Stopped {
			return string(vm.State)
		}
		return ""
	}}
}

// runs says what is wrong with a VM that was started, unless its VMM was killed.
func (k *kills) runs(vm banger.VM) string {
	if vm.State != banger.Running && (vm.Name == "" || vm.Name != k.fallen) {
		return fmt.Sprintf("%q is %s", vm.Name, vm.State)
	}
	return ""
}

// set changes whether a VM has NAT.
func (k *kills) set(name string) verb {
	nat := !k.vms[name].Network.NAT
	return verb{banger.Set, name, func(ctx context.Context, c *api.Client) error {
		_, err := c.SetVM(ctx, name, banger.SetVM{NAT: &nat}, nil)
		return err
	}, []string{"vm", "set", fmt.Sprintf("--nat=%v", nat), name}, func(vm banger.VM) string {
		if vm.Network.NAT != nat {
			return fmt.Sprintf("NAT is %v", vm.Network.NAT)
		}
		return ""
	}}
}

func (k *kills) renumber() verb {
	return verb{banger.Renumber, "", func(ctx context.Context, c *api.Client) error {
		_, err := c.RenumberNetwork(ctx, banger.RenumberNetwork{}, nil)
		return err
	}, []string{"network", "renumber"}, nil}
}

// command starts the verb's command, which a client of its own gives.
func (v verb) command(ctx context.Context, opts api.ConnectOptions) (*exec.Cmd, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(filepath.Dir(opts.Program), "banger"), v.args...)
	cmd.Env = opts.Env
	return cmd, cmd.Start()
}

// choose draws a verb that can succeed now.
func (k *kills) choose() verb {
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(k.vms)), func(name string) bool { return name == "extra" })
	name := names[k.random.IntN(len(names))]
	all := []func() verb{k.renumber, func() verb { return k.set(name) }, func() verb { return k.restart(name) }}
	if k.vms[name].State == banger.Stopped {
		start := func() verb { return k.start(name) }
		all = append(all, start, start) // else ever fewer would run
	} else {
		all = append(all, func() verb { return k.stop(name) })
	}
	if _, there := k.vms["extra"]; there {
		all = append(all, func() verb { return k.remove("extra") })
	} else {
		all = append(all, func() verb { return k.create("extra", nil) })
	}
	return all[k.random.IntN(len(all))]()
}

// killAt kills a process of a kind at a moment, or as soon as there is one after it. It
// returns what it has killed, and whose it was.
func (k *kills) killAt(kind string, moment time.Duration, ended <-chan struct{}) (what, whose string) {
	select {
	case <-time.After(moment): // the moment is what is drawn, nothing is waited for
	case <-ended:
	}
	for {
		pid, whose := k.victim(kind)
		if pid > 1 {
			if kind == "apply" {
				<-time.After(time.Duration(k.random.Int64N(int64(20 * time.Millisecond))))
			}
			k.kill(pid)
			k.killed[kind]++
			return kind, whose
		}
		select {
		case <-ended:
			return "no " + kind, ""
		case <-time.After(time.Millisecond): // nobody tells of a child of the daemon's
		}
	}
}

// victim returns a process of a kind, and the VM whose VMM it is; 0: there is none now.
func (k *kills) victim(kind string) (pid int, whose string) {
	switch kind {
	case "client":
		return k.clientPID, ""
	case "daemon":
		return k.daemon, ""
	case "helper":
		if pid := holder(k.dirs.Net().Lock()); pid != k.daemon { // which locks it for the helper
			return pid, ""
		}
		return 0, ""
	case "apply":
		for _, child := range children(k.daemon) {
			if line := commandLine(child); bytes.HasSuffix(line, []byte("\x00"+namespace.Role+"\x00")) {
				return child, ""
			}
		}
		return 0, ""
	}
	locks, _ := filepath.Glob(k.dirs.VM("*").Lock())
	k.random.Shuffle(len(locks), func(i, j int) { locks[i], locks[j] = locks[j], locks[i] })
	for _, lock := range locks {
		if pid := holder(lock); pid > 1 && pid != k.daemon {
			return pid, k.nameOf(filepath.Base(filepath.Dir(lock)))
		}
	}
	return 0, ""
}

func (k *kills) nameOf(id string) string {
	for name, vm := range k.vms {
		if string(vm.ID) == id {
			return name
		}
	}
	return "extra" // one that has not been shown yet
}

// holder returns the process that has a lock, or 0.
func holder(lock string) int {
	p, err := process.OpenHolder(lock)
	if err != nil {
		return 0
	}
	defer p.Close()
	return p.PID()
}

// helperPID returns the helper, or 0.
func (k *kills) helperPID() int {
	p, err := helper.Find(k.dirs.Net())
	if err != nil {
		return 0
	}
	defer p.Close()
	return p.PID()
}

// starting returns the daemon that a client is about to start.
func (k *kills) starting(ended <-chan struct{}) int {
	for {
		for _, pid := range children(os.Getpid()) {
			if line := commandLine(pid); bytes.Contains(line, []byte("bangerd\x00--")) && pid != k.daemon {
				return pid
			}
		}
		select {
		case <-ended:
			return 0
		case <-time.After(time.Millisecond): // nobody tells of a child
		}
	}
}

// kill kills a process, and waits for its end.
func (k *kills) kill(pid int) {
	k.Helper()
	if pid <= 1 {
		return
	}
	p, err := process.OpenProcess(pid) // which waits for a child, too
	if err != nil {
		return // it has ended
	}
	if err := p.End(); err != nil {
		k.Error(err)
	}
}

// children returns the children of a process that have not ended.
func children(pid int) (pids []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		text, _ := os.ReadFile(task)
		for _, field := range strings.Fields(string(text)) {
			child, _ := strconv.Atoi(field)
			pids = append(pids, child)
		}
	}
	return slices.DeleteFunc(pids, func(pid int) bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || bytes.Contains(stat, []byte(") Z ")) || bytes.Contains(stat, []byte(") X "))
	})
}

func commandLine(pid int) []byte {
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return line
}

// reap takes what has ended from the list of processes.
func reap() {
	for {
		if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != nil || pid == 0 {
			return
		}
	}
}
