//go:build vm

package lab

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/internal/network"
	"banger/internal/network/helper"
	"banger/internal/network/namespace"
	"banger/internal/vmm/process"
)

// TestNetworkKilled kills daemon, helper, apply and VMMs of real guests at random moments
// of verbs. Afterwards each guest reaches the outside and the other one by name, at the
// address that it had. BANGER_TEST_ROUNDS says how often, for each mode.
func TestNetworkKilled(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(*testing.T) *bridged{"bridge": bridge, "usernet": usernet} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			newKills(t, open(t)).run()
		})
	}
}

// kills is a host whose VMs' network is killed.
type kills struct {
	*testing.T
	*bridged
	random *rand.Rand
	vms    []banger.VM
}

func newKills(t *testing.T, b *bridged) *kills {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("BANGER_TEST_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("BANGER_TEST_SEED=%d", seed)
	k := &kills{T: t, bridged: b, random: rand.New(rand.NewPCG(seed, 0))}
	b.outside.do(t, func() error {
		l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", outsideAddr, outsidePort))
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				io.WriteString(c, "outside\n")
				c.Close()
			}
		}()
		return nil
	})
	return k
}

func (k *kills) run() {
	tiny := k.tiny(k.T)
	before := k.state(k.T)
	for _, name := range []string{"otter", "wombat"} {
		k.vms = append(k.vms, k.create(k.T, "--name", name, "--image", tiny))
	}
	k.works("nothing")
	kinds := []string{"daemon", "helper", "apply", "VMM"}
	for i := range rounds(k.T, 1) {
		k.works(k.round(kinds[i%len(kinds)], tiny))
	}
	k.banger(k.T, "vm", "delete", "--yes", "--force", "--all")
	k.unchanged(k.T, before)
	if pid := k.helper(); pid != 0 {
		k.Errorf("the helper %d runs for nobody", pid)
	}
}

// round kills a process of a kind amid a verb, and returns what happened.
func (k *kills) round(kind, tiny string) string {
	k.Helper()
	verbs := [][]string{{"network", "renumber"}, {"vm", "set", "--no-nat", "wombat"}, {"vm", "restart", "wombat"}, {"vm", "stop", "wombat"},
		{"vm", "create", "--name", "extra", "--image", tiny}}
	args := verbs[k.random.IntN(len(verbs))]
	if args[1] == "create" {
		k.bridged.run(k.Context(), nil, "vm", "delete", "--yes", "--force", "extra")
	}
	daemon := k.daemonPID(k.Context())
	if daemon <= 1 { // 0 would be this process, too
		k.Fatal("no daemon runs")
	}
	cmd := k.command(k.Context(), args...)
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		k.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	moment := time.Duration(k.random.Int64N(int64(2 * time.Second * patience(k.T))))
	time.Sleep(moment) // the moment is the point of the test
	victim := k.victim(kind, daemon)
	for over := false; victim == 0 && !over; victim = k.victim(kind, daemon) {
		select {
		case <-ended:
			over = true
		case <-time.After(time.Millisecond): // nobody tells of a child of the daemon's
		}
	}
	if victim > 1 {
		kill(k.T, victim)
	} else {
		kind = "nothing"
	}
	<-ended
	about := fmt.Sprintf("banger %s, %s killed after %v", strings.Join(args, " "), kind, moment.Round(time.Millisecond))
	k.Logf("%s: exit %d %s", about, cmd.ProcessState.ExitCode(), said.String())
	if (kind == "helper" || kind == "apply") && cmd.ProcessState.ExitCode() != 0 { // they can be replaced, so nobody notices
		k.Errorf("%s: exit %d", about, cmd.ProcessState.ExitCode())
	}
	return about
}

// victim returns a process of a kind, or 0 if there is none now.
func (k *kills) victim(kind string, daemon int) int {
	switch kind {
	case "daemon":
		return daemon
	case "helper":
		return k.helper()
	case "VMM":
		p, err := process.OpenHolder(k.dirs.VM(k.vms[k.random.IntN(len(k.vms))].ID).Lock())
		if err != nil || p.PID() == daemon {
			return 0
		}
		defer p.Close()
		return p.PID()
	}
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", daemon))
	for _, list := range lists {
		children, _ := os.ReadFile(list)
		for _, pid := range strings.Fields(string(children)) {
			if line, _ := os.ReadFile("/proc/" + pid + "/cmdline"); bytes.HasSuffix(line, []byte("\x00"+namespace.Role+"\x00")) {
				child, _ := strconv.Atoi(pid)
				return child
			}
		}
	}
	return 0
}

func (k *kills) helper() int {
	p, err := helper.Find(k.dirs.Net())
	if err != nil {
		return 0
	}
	defer p.Close()
	return p.PID()
}

func kill(t *testing.T, pid int) {
	t.Helper()
	p, err := process.OpenProcess(pid)
	if err != nil {
		return // it has ended
	}
	if err := p.End(); err != nil {
		t.Error(err)
	}
}

// works checks that both guests have what they had, once what was ended runs again.
func (k *kills) works(after string) {
	k.Helper()
	var now [2]banger.VM
	for i, vm := range k.vms {
		k.banger(k.T, "vm", "start", vm.Name)
		k.banger(k.T, "vm", "wait", "--for", "agent", "--timeout", bootTime.String(), vm.Name) // its daemon may have been killed amid its boot
		k.banger(k.T, "vm", "set", "--nat", vm.Name)
		now[i] = k.show(k.T, vm.Name)
		if was, is := place(vm), place(now[i]); was != is || len(now[i].Problems) > 0 {
			k.Errorf("after %s: %s had %s, has %s; %+v", after, vm.Name, was, is, now[i].Problems)
		}
	}
	until(k.T, time.Minute, "the helper", func() bool { return k.helper() != 0 })
	for i, vm := range now {
		other := now[1-i]
		got := k.sh(k.T, vm.Name, fmt.Sprintf(`nc -w 20 %s %d </dev/null; ping -q -c 1 -W 20 %s >/dev/null && %s`, outsideAddr, outsidePort, other.Network.Address, lookUp(other.Name)))
		if want := "outside\n" + strings.ReplaceAll(other.Network.Address.String(), ".", " "); strings.Join(strings.Fields(got), " ") != strings.ReplaceAll(want, "\n", " ") {
			k.Errorf("after %s: %s says %q, want the outside and %v", after, vm.Name, got, other.Network.Address)
		}
	}
	if k.Failed() {
		k.FailNow()
	}
}

// lookUp returns a command for the tiny guest, which has no resolver, that prints a VM's
// address: it is the end of what the resolver in /etc/resolv.conf answers by TCP.
func lookUp(name string) string {
	query := []byte{0, 0, 0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0} // the length, and a header with one question
	for _, label := range []string{name, "vm"} {
		query = append(append(query, byte(len(label))), label...)
	}
	query = append(query, 0, 0, 1, 0, 1)
	query[1] = byte(len(query) - 2)
	text := ""
	for _, b := range query {
		text += fmt.Sprintf("\\%03o", b)
	}
	return fmt.Sprintf(`printf '%s' | nc -w 3 $(awk '/^nameserver/ { print $2; exit }' /etc/resolv.conf) 53 | tail -c 4 | od -An -tu1`, text)
}

// place is what a VM has for life: the end of its address, and its MAC.
func place(vm banger.VM) string {
	a := vm.Network.Address.As4()
	return fmt.Sprintf("%d.%d %s", a[2]%(1<<(24-network.PrefixBits)), a[3], vm.Network.MAC)
}
