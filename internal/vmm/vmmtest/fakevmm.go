package vmmtest

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"banger"
	"banger/internal/guest/wire"
	"banger/internal/vmm"
)

// ordersEnv makes a binary a fake VMM; its value is the JSON of orders.
const ordersEnv = "BANGER_FAKE_VMM"

// The fake VMM's own ports, which no guest has. portMonitor sends lines: the disk
// errors whenever they change, and the reason at the end. portMemory reads a size,
// or 0 for none, and answers with the memory. portDisks reads disk errors, and
// answers once they are in effect.
const (
	portMonitor = 0
	portMemory  = 1 << 16
	portDisks   = 1<<16 + 1
)

// saysDisks begins a line of portMonitor about disk errors.
const saysDisks = "disks "

type orders struct {
	Kernel, Initrd, Console string
	Disks                   []vmm.Disk
	Memory                  banger.Size
	Faults                  Faults
	Life                    time.Duration // which ends a VMM whose test died
	NIC                     *vmm.NIC
	Inside                  bool
}

// Main is for a TestMain that does nothing else.
func Main(m *testing.M) {
	RunVMM()
	os.Exit(m.Run())
}

// Port is one that a guest serves beyond its own.
type Port struct {
	Number int
	Serve  func(wire.Config, net.Conn)
}

// RunVMM does not return in a process that is a fake VMM, or that makes a namespace for a
// test. Call it first of all.
func RunVMM(more ...Port) {
	runTap()
	env, is := os.LookupEnv(ordersEnv)
	if !is {
		return
	}
	var o orders
	err := json.Unmarshal([]byte(env), &o)
	if err == nil {
		err = new(fakeVMM).run(o, more)
	}
	fmt.Fprintln(os.Stderr, "fake VMM:", err)
	os.Exit(1)
}

// fakeVMM is the child process. Its descriptors are the standard ones, the
// socket, and the lock, which it only holds.
type fakeVMM struct {
	guest *Guest

	disks  vmm.Disks
	booted chan struct{} // closed by a SIGUSR1

	mu       sync.Mutex
	monitors []net.Conn
	memory   vmm.Memory
}

func (v *fakeVMM) run(o orders, more []Port) error {
	time.AfterFunc(o.Life, func() { os.Exit(1) })
	if o.Faults.has(FailsLaunch) {
		return fmt.Errorf("told to fail")
	}
	if _, err := os.Stat(o.Kernel); err != nil {
		return err
	}
	config, err := ReadConfig(o.Initrd)
	if err != nil {
		return err
	}
	console, err := os.OpenFile(o.Console, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	v.memory.Launched, v.memory.Told = o.Memory, true
	v.guest = &Guest{Config: config, Console: console, More: more, Faults: o.Faults, End: v.end,
		Disk:  func() (Disk, error) { return v.openDisk(o.Disks[1]) },
		Sizes: func() []int64 { return sizes(o.Disks) }}
	if o.NIC != nil {
		if err := v.openCard(o); err != nil {
			return err
		}
	}
	fmt.Fprintf(console, "fake guest %s is up\n", config.Name)
	signal.Ignore(syscall.SIGXFSZ) // a write beyond a limit is an error, as in a real VMM
	go v.sendDisks()
	v.booted = make(chan struct{})
	boots := make(chan os.Signal, 1)
	signal.Notify(boots, syscall.SIGUSR1)
	go func() {
		<-boots
		close(v.booted)
	}()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	go func() {
		<-signals
		v.exit(vmm.ReasonSignal)
	}()
	socket, err := net.FileListener(os.NewFile(3, fakeSocket))
	if err != nil {
		return err
	}
	for {
		conn, err := socket.Accept()
		if err != nil {
			return err
		}
		go v.serve(conn)
	}
}

// openCard opens the TAP for as long as the VMM lives. Where there is no namespace, it
// need not exist: a test of the lifecycle may have no network.
func (v *fakeVMM) openCard(o orders) error {
	if _, err := net.InterfaceByName(o.NIC.Tap); err != nil && !o.Inside {
		return nil
	} else if err != nil {
		return fmt.Errorf("open the TAP %s: %w", o.NIC.Tap, syscall.EPERM) // as without a capability to make one
	}
	card, err := OpenTap(o.NIC.Tap, o.NIC.MAC)
	if err != nil {
		return err
	}
	card.MTU = o.NIC.MTU
	card.Frames = Kept{card.Frames}
	v.guest.Card = func() (Card, error) { return card, nil }
	return nil
}

func (v *fakeVMM) serve(conn net.Conn) {
	var port int
	line, err := readLine(conn)
	if err == nil {
		_, err = fmt.Sscanf(line, "CONNECT %d", &port)
	}
	if err != nil {
		conn.Close()
		return
	}
	faults := v.guest.Faults
	switch {
	case port == portMonitor:
		v.mu.Lock()
		defer v.mu.Unlock()
		v.monitors = append(v.monitors, conn)
		errs, _ := v.disks.DiskErrors()
		fmt.Fprintf(conn, "OK %d\n%s", port, disksLine(errs))
		return
	case port == portMemory:
		fmt.Fprintf(conn, "OK %d\n", port)
		v.tellMemory(conn)
		return
	case port == portDisks:
		v.setDisks(conn)
		return
	case faults.has(NeverReady):
		return // the connection stays open, unanswered
	case faults.has(DiesBooting):
		fmt.Fprintln(os.Stderr, "fake VMM: told to die while the guest boots")
		os.Exit(1)
	case faults.has(HasNoTimer):
		fmt.Fprintf(v.guest.Console, "%s%s {\"step\":%q,\"why\":\"the host was busy\",\"fix\":\"mend it\"}\n",
			wire.ConsoleFailed, v.guest.Config.Nonce, wire.StepTimer)
		os.Exit(1)
	case !slices.Contains(v.guest.Ports(), port):
		fmt.Fprintf(conn, "ERR nothing serves port %d\n", port)
		conn.Close()
		return
	}
	if faults.has(SlowBoot) {
		<-v.booted
	}
	if faults.has(AnswersLate) && port != wire.PortControl {
		<-time.After(time.Second / 3)
	}
	v.awaitRunning() // a paused guest does not answer
	fmt.Fprintf(conn, "OK %d\n", port)
	v.guest.Serve(pausing{conn, v}, port)
}

func (v *fakeVMM) tellMemory(conn net.Conn) {
	defer conn.Close()
	var size banger.Size
	if line, err := readLine(conn); err != nil || json.Unmarshal([]byte(line), (*int64)(&size)) != nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if size > 0 {
		v.memory.Balloon = v.memory.Launched - size
	}
	json.NewEncoder(conn).Encode(v.memory)
}

func (v *fakeVMM) end(verb wire.Verb) {
	if verb == wire.Poweroff || verb == wire.Halt {
		v.exit(vmm.ReasonPoweroff)
	}
	v.exit(vmm.ReasonReset)
}

func (v *fakeVMM) exit(reason vmm.Reason) {
	v.mu.Lock() // until the end: the first reason counts
	fmt.Fprintln(os.Stderr, fakeEnded+string(reason))
	for _, monitor := range v.monitors {
		fmt.Fprintln(monitor, reason)
	}
	os.Exit(0)
}

func sizes(disks []vmm.Disk) []int64 {
	var all []int64
	for _, disk := range disks {
		info, err := os.Stat(disk.File)
		if err != nil {
			return nil
		}
		all = append(all, info.Size())
	}
	return all
}
