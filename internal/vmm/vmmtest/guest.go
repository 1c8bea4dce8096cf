package vmmtest

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"banger/internal/guest/wire"
)

// Ports of the guest, besides the control port.
const (
	PortEcho  = 7   // sends back what it gets
	PortFull  = 19  // sends without end
	PortCard  = 995 // asks by the network card who has the host's address, and sends what it found out
	PortTell  = 996 // reads a line, the JSON of an event, sends that to the host and answers "told"
	PortData  = 997 // reads a line, has it on the writable disk in place of the last one, and sends that
	PortSizes = 998 // sends the sizes of the disks in bytes, a JSON array
	PortAct   = 999 // reads a line, a Verb or Panic, and does it unasked
)

// Panic is what PortAct understands besides the verbs: an end without a bye.
const Panic = "panic"

// Measured is what a guest with a kernel of its own says on its console once that is
// found to have a timer.
const Measured = "init: the timer is measured"

// Guest is an agent reduced to what a driver's contract needs.
type Guest struct {
	Config  wire.Config
	Sizes   func() []int64
	Disk    func() (Disk, error) // opens the writable disk
	Card    func() (Card, error) // opens the network card; nil: there is none
	End     func(verb wire.Verb) // ends the machine, Panic included; does not return
	Console io.Writer
	Faults  Faults
	More    []Port // beyond its own

	once   sync.Once
	bootID string

	mu    sync.Mutex
	init  wire.Init // as it was told last; empty: as the faults have it
	why   string    // with it
	hosts map[*json.Encoder]bool
}

// Disk is an open disk of a guest.
type Disk interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Sync() error
}

// Ports are the ports that Serve serves.
func (g *Guest) Ports() []int {
	ports := []int{wire.PortControl, PortEcho, PortFull, PortCard, PortTell, PortData, PortSizes, PortAct}
	for _, port := range g.More {
		ports = append(ports, port.Number)
	}
	return ports
}

// Serve serves one stream to a port.
func (g *Guest) Serve(stream net.Conn, port int) {
	defer stream.Close()
	switch port {
	case PortEcho:
		io.Copy(stream, stream)
	case PortFull:
		for block := make([]byte, 32<<10); ; {
			if _, err := stream.Write(block); err != nil {
				return
			}
		}
	case PortData:
		line, _ := bufio.NewReader(stream).ReadString('\n')
		last, err := g.swap(strings.TrimSpace(line))
		if err != nil {
			last = "error: " + err.Error()
		}
		fmt.Fprintln(stream, last)
	case PortTell:
		var event wire.Event
		if line, _ := bufio.NewReader(stream).ReadBytes('\n'); json.Unmarshal(line, &event) == nil {
			g.tell(event)
			fmt.Fprintln(stream, "told")
		}
	case PortCard:
		json.NewEncoder(stream).Encode(g.ask())
	case PortSizes:
		json.NewEncoder(stream).Encode(g.Sizes())
	case PortAct:
		line, _ := bufio.NewReader(stream).ReadString('\n')
		g.act(wire.Verb(strings.TrimSpace(line)), nil)
	case wire.PortControl:
		g.control(stream)
	}
	for _, more := range g.More {
		if more.Number == port {
			more.Serve(g.Config, stream)
		}
	}
}

// Where on the disk the line is that PortData writes, and how much it takes there.
const (
	dataAt = 4096
	dataIs = 512
)

// swap writes a line to the disk, unless it is empty, and returns what was there.
func (g *Guest) swap(line string) (string, error) {
	disk, err := g.Disk()
	if err != nil {
		return "", err
	}
	defer disk.Close()
	block := make([]byte, dataIs)
	if _, err := disk.ReadAt(block, dataAt); err != nil {
		return "", err
	}
	last := string(bytes.TrimRight(block, "\x00"))
	if line == "" {
		return last, nil
	}
	clear(block)
	copy(block, line)
	if _, err := disk.WriteAt(block, dataAt); err != nil {
		return "", err
	}
	return last, disk.Sync()
}

// act brings the machine down as a real guest would.
func (g *Guest) act(verb wire.Verb, control *json.Encoder) {
	if verb != Panic {
		fmt.Fprintf(g.Console, "%s%s %s\n", wire.ConsoleBye, g.Config.Nonce, verb)
		if control != nil {
			control.Encode(wire.Message{Event: &wire.Event{Kind: wire.EventBye, Verb: verb, Nonce: g.Config.Nonce}})
		}
	}
	g.End(verb)
}

// ID is the boot's id.
func (g *Guest) ID() string {
	g.once.Do(func() {
		var b [16]byte
		rand.Read(b[:])
		g.bootID = fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
	})
	return g.bootID
}

// tell sends an event to every host that is connected. An event of the init is
// also the init's state from then on.
func (g *Guest) tell(event wire.Event) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if event.Kind == wire.EventInit {
		g.init, g.why = event.Init, event.Why
	}
	for host := range g.hosts {
		host.Encode(wire.Message{Event: &event})
	}
}

// enter greets a host, which hears of every event from then on.
func (g *Guest) enter(out *json.Encoder, features []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.init == "" {
		g.init = wire.InitUp
		if g.Faults.has(SlowInit) {
			g.init = wire.InitStarting
		}
	}
	if g.hosts == nil {
		g.hosts = map[*json.Encoder]bool{}
	}
	g.hosts[out] = true
	why := ""
	if g.Faults.has(NoNetwork) {
		why = "there is no card"
	}
	out.Encode(wire.Message{Hello: &wire.Hello{Features: features, Version: wire.Version, Program: "vmmtest", Token: g.Config.Token, Nonce: g.Config.Nonce,
		BootID: g.ID(), Kernel: "none", Init: g.init, InitWhy: g.why, NetworkWhy: why}})
}

func (g *Guest) leave(out *json.Encoder) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.hosts, out)
}

func (g *Guest) control(stream net.Conn) {
	out := json.NewEncoder(stream)
	features := []string{wire.FeatureStats, wire.FeatureConfigure}
	if g.Faults.has(KnowsNoStats) {
		features = nil
	}
	g.enter(out, features)
	defer g.leave(out)
	in := bufio.NewScanner(stream)
	in.Buffer(nil, wire.MaxLine)
	for in.Scan() {
		var m wire.Message
		if json.Unmarshal(in.Bytes(), &m) != nil {
			return
		}
		if m.Request != nil {
			g.answer(m.Request, out)
		}
	}
}

func (g *Guest) answer(request *wire.Request, out *json.Encoder) {
	reply := &wire.Reply{ID: request.ID}
	if request.Method == wire.MethodPing && g.Faults.has(IgnoresPing) {
		return
	}
	switch request.Method {
	case wire.MethodPing, wire.MethodSync, wire.MethodClock:
	case wire.MethodGrow:
		if g.Faults.has(RefusesGrow) {
			reply.Error = "told not to grow"
			break
		}
		fmt.Fprintf(g.Console, "grown %s\n", request.Params)
	case wire.MethodConfigure:
		fmt.Fprintf(g.Console, "configured %s\n", request.Params)
	case wire.MethodInfo:
		if g.Faults.has(EndsInSecret) {
			g.tell(wire.Event{Kind: wire.EventInit, Init: wire.InitStopping})
			time.AfterFunc(50*time.Millisecond, func() { g.act(wire.Poweroff, nil) })
		}
		reply.Result, _ = json.Marshal(wire.Info{BootID: g.ID(), Init: wire.InitUp})
	case wire.MethodStats:
		reply.Result, _ = json.Marshal(wire.Stats{UptimeMS: 5000, Load: [3]float64{1, 0.5, 0.25}, CPUs: 2, CPUBusyMS: 1000, CPUTotalMS: 10_000, MemoryTotal: 2 << 20, MemoryAvailable: 1 << 20,
			FileSystems: []wire.FileSystem{{Path: "/", Size: 8192, Used: 4096}, {Path: "/root\x1b[2J", Size: 4096, Used: 512}}})
	case wire.MethodStop:
		g.stop(request, out)
		return
	default:
		reply.Error = "unknown method " + request.Method
	}
	out.Encode(wire.Message{Reply: reply})
}

func (g *Guest) stop(request *wire.Request, out *json.Encoder) {
	var params wire.StopParams
	if err := json.Unmarshal(request.Params, &params); err != nil {
		out.Encode(wire.Message{Reply: &wire.Reply{ID: request.ID, Error: err.Error()}})
		return
	}
	out.Encode(wire.Message{Reply: &wire.Reply{ID: request.ID}})
	switch {
	case g.Faults.has(IgnoresStop):
		return
	case g.Faults.has(PanicsAtStop):
		params.Verb = Panic
	}
	out.Encode(wire.Message{Event: &wire.Event{Kind: wire.EventInit, Init: wire.InitStopping}})
	g.act(params.Verb, out)
}
