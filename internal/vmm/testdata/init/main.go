// Command init is the whole guest of the drivers' tests: the first process of
// an initrd without disks to mount, serving the contract's guest.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guest/link"
	"banger/internal/guest/timer"
	"banger/internal/guest/vsock"
	"banger/internal/guest/wire"
	"banger/internal/vmm/vmmtest"
)

func main() {
	if err := run(); err != nil {
		fmt.Println("init:", err)
		time.Sleep(time.Hour)
	}
}

// resetToOff is as the configuration has it.
var resetToOff bool

func run() error {
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		os.MkdirAll(m[1], 0o755)
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	if err := timer.Check(); err != nil {
		fmt.Println("init:", err)
		unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}
	fmt.Println(vmmtest.Measured)
	if err := loadModules(); err != nil {
		return err
	}
	console, err := os.OpenFile("/dev/console", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	var config wire.Config
	data, err := os.ReadFile("/" + wire.ConfigPath)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, &config); err != nil {
		return err
	}
	resetToOff = config.ResetToOff
	guest := &vmmtest.Guest{Config: config, Sizes: sizes, Disk: disk, Card: card, End: end, Console: console}
	failed := make(chan error)
	if err := serveSerial(guest, failed); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := serveVsock(guest, failed); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	up, _ := os.ReadFile("/proc/uptime")
	fmt.Printf("init: serving at uptime %s", up)
	return <-failed
}

func serveSerial(guest *vmmtest.Guest, failed chan<- error) error {
	for _, port := range []struct {
		name  string
		ports []int
	}{{wire.SerialControl, []int{wire.PortControl}}, {wire.SerialStreams, guest.Ports()}} {
		p, err := link.OpenPort(port.name)
		if err != nil {
			return err
		}
		go func() {
			failed <- link.Serve(p, func(stream net.Conn, port int) { guest.Serve(stream, port) }, port.ports...)
		}()
	}
	return nil
}

func serveVsock(guest *vmmtest.Guest, failed chan<- error) error {
	for _, port := range guest.Ports() {
		listener, err := vsock.Listen(uint32(port))
		if err != nil {
			return err
		}
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					failed <- err
					return
				}
				go guest.Serve(conn, port)
			}
		}()
	}
	return vsock.Knock(wire.PortKnock)
}

func loadModules() error {
	order, err := os.ReadFile("/" + wire.ModulesPath)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(order)) {
		name := wire.ParseBootModule(line).Path
		file, err := os.Open("/" + name)
		if err != nil {
			return err
		}
		if err := unix.FinitModule(int(file.Fd()), "", 0); err != nil && err != unix.EEXIST {
			return fmt.Errorf("load %s: %w", name, err)
		}
		file.Close()
	}
	return nil
}

func disk() (vmmtest.Disk, error) { return os.OpenFile("/dev/vdb", os.O_RDWR, 0) }

// card opens the network card, and takes it up.
func card() (vmmtest.Card, error) {
	links, err := net.Interfaces()
	if err != nil {
		return vmmtest.Card{}, err
	}
	at := slices.IndexFunc(links, func(l net.Interface) bool { return len(l.HardwareAddr) == 6 })
	if at < 0 {
		return vmmtest.Card{}, errors.New("no network card")
	}
	link := links[at]
	const all = 0x0300 // ETH_P_ALL, in the network's byte order
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK, all)
	if err != nil {
		return vmmtest.Card{}, fmt.Errorf("open a packet socket: %w", err)
	}
	request, err := unix.NewIfreq(link.Name)
	if err == nil {
		request.SetUint16(unix.IFF_UP)
		err = unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, request)
	}
	if err == nil {
		err = unix.Bind(socket, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index})
	}
	if err != nil {
		unix.Close(socket)
		return vmmtest.Card{}, fmt.Errorf("take up %s: %w", link.Name, err)
	}
	return vmmtest.Card{MAC: link.HardwareAddr, MTU: link.MTU, Frames: os.NewFile(uintptr(socket), link.Name)}, nil
}

func sizes() []int64 {
	files, _ := filepath.Glob("/sys/block/vd?/size")
	var all []int64
	for _, file := range files {
		text, _ := os.ReadFile(file)
		sectors, _ := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		all = append(all, sectors*512)
	}
	return all
}

func end(verb wire.Verb) {
	time.Sleep(30 * time.Millisecond) // the bye leaves through a device
	switch verb {
	case vmmtest.Panic:
		os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
	case wire.Poweroff:
		if !resetToOff {
			unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
		}
		unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	default:
		unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}
	select {}
}
