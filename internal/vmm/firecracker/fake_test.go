package firecracker

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"banger"
	"banger/internal/config"
	"banger/internal/guest/wire"
	"banger/internal/vmm"
	"banger/internal/vmm/vmmtest"
)

// ordersEnv makes the test binary a Firecracker; its value is the JSON of orders.
const ordersEnv = "BANGER_TEST_FIRECRACKER_ORDERS"

// orders are what a fake Firecracker is to do wrong.
type orders struct {
	Version  string
	Refuse   string // a call
	Message  string // how it is refused
	Ends     string // at once, with these words
	Hangs    bool   // and never serves its API
	Silent   bool   // takes connections and answers none
	DiesAt   string // a call
	NoGuest  bool   // nothing in the VM ever serves
	OddHands string // instead of OK
}

// ordersFile holds the orders in the VM's directory for a binary whose name makes
// it a Firecracker.
const ordersFile = "orders.json"

func TestMain(m *testing.M) {
	vmmtest.RunVMM()
	text, named := []byte(os.Getenv(ordersEnv)), filepath.Base(os.Args[0]) == binary
	if named && slices.Equal(os.Args[1:], []string{"--version"}) {
		fmt.Println("Firecracker v1.12.1")
		os.Exit(0)
	}
	if named {
		text, _ = os.ReadFile(ordersFile)
	}
	if named || len(text) > 0 {
		var f fake
		err := json.Unmarshal(text, &f.orders)
		if err == nil {
			err = f.run(os.Args[1:])
		}
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// fake is a Firecracker without VMs: a child process that takes the same command
// line and calls, in the same order only, and that refuses fields which the
// description of the API does not have.
type fake struct {
	orders  orders
	facts   releaseFacts
	release release
	log     *os.File

	mu      sync.Mutex
	done    []string
	started bool
	boot    bootSource
	vsock   string
	drives  []driveUpdate
	sizes   []int64
	machine machineConfig
	balloon reportingBalloon
	card    func() (vmmtest.Card, error) // nil: none
}

func (f *fake) run(args []string) error {
	time.AfterFunc(10*time.Minute, func() { os.Exit(1) })
	if f.orders.Ends != "" {
		return errors.New(f.orders.Ends)
	}
	if f.orders.Hangs {
		select {}
	}
	flags := flag.NewFlagSet("firecracker", flag.ContinueOnError)
	socket := flags.String("api-sock", "/run/firecracker.socket", "")
	flags.String("id", "anonymous-instance", "")
	logPath, level, module := flags.String("log-path", "", ""), flags.String("level", "", ""), flags.String("module", "", "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var err error
	if f.log, err = os.OpenFile(*logPath, os.O_WRONLY, 0); err != nil {
		return err
	}
	if *level != "Info" || *module != "vmm" {
		return errors.New("such a log does not tell of the end")
	}
	var facts apiFacts
	if err := json.Unmarshal(apiJSON, &facts); err != nil {
		return err
	}
	if _, f.release, err = parseVersion("Firecracker v" + f.orders.Version); err != nil {
		return err
	}
	f.facts = facts.Releases[0]
	if f.release.atLeast(limitsSerial) {
		f.facts = facts.Releases[1]
	}
	listener, err := net.Listen("unix", *socket)
	if err != nil {
		return err
	}
	if f.orders.Silent {
		select {}
	}
	return http.Serve(listener, f)
}

// ServeHTTP serves the API.
func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	path := r.URL.Path
	if strings.HasPrefix(path, "/drives/") {
		path = "/drives/{drive_id}"
	} else if path == "/network-interfaces/eth0" {
		path = "/network-interfaces/{iface_id}"
	}
	what := r.Method + " " + path
	body, _ := io.ReadAll(r.Body)
	answer, err := f.answer(what, strings.TrimPrefix(r.URL.Path, "/drives/"), body)
	switch {
	case what == f.orders.DiesAt:
		fmt.Fprintln(f.log, "2026-11-24T14:27:26.332219536 [x:main] told to die")
		os.Exit(148)
	case what == f.orders.Refuse:
		err = errors.New(f.orders.Message)
	}
	switch {
	case err != nil:
		w.WriteHeader(http.StatusBadRequest)
		json.NewEncoder(w).Encode(map[string]string{"fault_message": err.Error()})
	case answer != nil:
		json.NewEncoder(w).Encode(answer)
	default:
		w.WriteHeader(http.StatusNoContent)
		f.done = append(f.done, what)
	}
}

func (f *fake) answer(what, name string, body []byte) (any, error) {
	operation, known := f.facts.Operations[what]
	if !known {
		return nil, fmt.Errorf("Invalid request method and/or path: %s.", what)
	}
	if operation.Body != nil {
		var sent map[string]any
		if err := json.Unmarshal(body, &sent); err != nil {
			return nil, err
		}
		if err := checkBody(sent, operation.Body, ""); err != nil {
			return nil, err
		}
	}
	if after := strings.HasPrefix(what, "PATCH "); operation.Body != nil && after != f.started {
		return nil, errors.New("The requested operation is not supported in this state of the microVM.")
	}
	switch what {
	case "GET /":
		state := stateNotStarted
		if f.started {
			state = "Running"
		}
		return instance{state}, nil
	case "GET /vm/config":
		return vmConfig{f.drives, f.machine, f.balloon.balloon}, nil
	case "GET /balloon/statistics":
		if f.balloon.Interval == 0 || !f.release.atLeast(tellsOfBalloon) {
			return nil, errors.New("statistics were not enabled")
		}
		return balloonStats{f.balloon.AmountMiB}, nil
	case "PUT /machine-config":
		return nil, json.Unmarshal(body, &f.machine)
	case "PUT /balloon", "PATCH /balloon":
		return nil, json.Unmarshal(body, &f.balloon)
	}
	if what == putInterface.String() {
		return nil, f.openCard(body)
	}
	return nil, f.put(what, name, body)
}

// openCard opens the TAP, and fails in Firecracker's words.
func (f *fake) openCard(body []byte) error {
	var sent sizedInterface
	if err := json.Unmarshal(body, &sent); err != nil {
		return err
	}
	mac, err := net.ParseMAC(sent.MAC)
	if err != nil || sent.ID != "eth0" {
		return fmt.Errorf("interface %q: %v", sent.ID, err)
	}
	card, err := vmmtest.OpenTap(sent.Tap, mac)
	if errors.Is(err, syscall.EBUSY) {
		return fmt.Errorf("Could not create the network device: Open tap device failed: Error while creating ifreq structure: Resource busy (os error 16). "+
			"Invalid TUN/TAP Backend provided by %s. Check our documentation on setting up the network devices.", sent.Tap)
	}
	if err != nil {
		return fmt.Errorf("Could not create the network device: Open tap device failed: Error while creating ifreq structure: Operation not permitted (os error 1). "+
			"Invalid TUN/TAP Backend provided by %s. Check our documentation on setting up the network devices.", sent.Tap)
	}
	card.Frames = vmmtest.Kept{Frames: card.Frames}
	f.card = func() (vmmtest.Card, error) { return card, nil }
	return nil
}

func (f *fake) put(what, name string, body []byte) error {
	var sent struct {
		bootSource
		vsock
		driveUpdate
	}
	if err := json.Unmarshal(body, &sent); err != nil {
		return err
	}
	for _, file := range []string{sent.Kernel, sent.Initrd, sent.File} {
		if _, err := os.Stat(file); file != "" && (err != nil || filepath.IsAbs(file)) {
			return fmt.Errorf("%s: No such file or directory (os error 2)", file)
		}
	}
	switch what {
	case "PUT /boot-source":
		f.boot = sent.bootSource
	case "PUT /vsock":
		f.vsock = sent.Socket
		listener, err := net.Listen("unix", f.vsock)
		if err != nil {
			return err
		}
		go f.connect(listener)
	case "PUT /drives/{drive_id}", "PATCH /drives/{drive_id}":
		info, err := os.Stat(sent.File)
		if err != nil || sent.driveUpdate.ID != name {
			return fmt.Errorf("drive %s: %w", name, err)
		}
		if at := slices.IndexFunc(f.drives, func(d driveUpdate) bool { return d.ID == name }); at >= 0 {
			f.sizes[at] = info.Size()
			return nil
		}
		f.drives, f.sizes = append(f.drives, sent.driveUpdate), append(f.sizes, info.Size())
	case "PUT /actions":
		return f.start()
	}
	return nil
}

// checkBody looks at fields and types as the API's description has them.
func checkBody(sent map[string]any, facts map[string]fieldFacts, prefix string) error {
	for name, value := range sent {
		fact, known := facts[prefix+name]
		if !known {
			return fmt.Errorf("unknown field `%s%s`", prefix, name)
		}
		kind := "other"
		switch value := value.(type) {
		case string:
			kind = "string"
		case bool:
			kind = "boolean"
		case float64:
			kind = "integer"
		case map[string]any:
			kind = "object"
			if err := checkBody(value, facts, prefix+name+"."); err != nil {
				return err
			}
		}
		if kind != fact.Type || len(fact.Enum) > 0 && !slices.Contains(fact.Enum, value) {
			return fmt.Errorf("invalid type of `%s%s`", prefix, name)
		}
	}
	for name, fact := range facts {
		field, below := strings.CutPrefix(name, prefix)
		if _, has := sent[field]; below && fact.Required && !strings.Contains(field, ".") && !has {
			return fmt.Errorf("missing field `%s`", name)
		}
	}
	return nil
}

// start boots: the guest is vmmtest's, in this very process.
func (f *fake) start() error {
	want := []string{"PUT /machine-config", "PUT /boot-source", "PUT /drives/{drive_id}", "PUT /vsock", "PUT /entropy", "PUT /balloon"}
	if f.card != nil {
		want = slices.Insert(want, 3, putInterface.String())
	}
	if f.release.atLeast(limitsSerial) {
		want = append(want, "PUT /serial")
	}
	if got := slices.Compact(slices.Clone(f.done)); !slices.Equal(got, want) {
		return fmt.Errorf("configured by %v", got)
	}
	if !strings.Contains(f.boot.Args, "console=ttyS0") {
		return errors.New("a guest without a console")
	}
	if f.balloon.FreePages != f.release.atLeast(reportsFreePages) {
		return errors.New("free pages stay with the guest")
	}
	f.started = true
	if f.orders.NoGuest {
		return nil
	}
	_, err := vmmtest.ReadConfig(f.boot.Initrd)
	if err != nil {
		return err
	}
	go func() {
		if conn, err := net.Dial("unix", fmt.Sprintf("%s_%d", f.vsock, wire.PortKnock)); err == nil {
			conn.Close()
		}
	}()
	return nil
}

// connect serves the host's side of the vsock.
func (f *fake) connect(listener net.Listener) {
	var guest *vmmtest.Guest
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		f.mu.Lock()
		if guest == nil && f.started && !f.orders.NoGuest {
			config, _ := vmmtest.ReadConfig(f.boot.Initrd)
			guest = &vmmtest.Guest{Config: config, Console: os.Stdout, End: f.end, Card: f.card,
				Disk: func() (vmmtest.Disk, error) {
					f.mu.Lock()
					defer f.mu.Unlock()
					return os.OpenFile(f.drives[1].File, os.O_RDWR, 0)
				},
				Sizes: func() []int64 { f.mu.Lock(); defer f.mu.Unlock(); return slices.Clone(f.sizes) }}
		}
		f.mu.Unlock()
		go f.serve(conn, guest)
	}
}

func (f *fake) serve(conn net.Conn, guest *vmmtest.Guest) {
	in := bufio.NewReader(conn)
	line, err := in.ReadString('\n')
	var port int
	if _, scanned := fmt.Sscanf(line, "CONNECT %d\n", &port); err != nil || scanned != nil {
		conn.Close()
		return
	}
	if f.orders.OddHands != "" {
		fmt.Fprintln(conn, f.orders.OddHands)
		return
	}
	if guest == nil || !slices.Contains(guest.Ports(), port) {
		if !f.orders.NoGuest {
			conn.Close()
		} // else it waits for a driver in the guest
		return
	}
	fmt.Fprintf(conn, "OK %d\n", 1<<30+port)
	guest.Serve(conn, port)
}

func (f *fake) end(wire.Verb) {
	fmt.Fprintln(f.log, "2026-11-24T14:27:26.332219536 [x:fc_vcpu 0] Vmm is stopping.")
	os.Exit(0)
}

// install writes a program that is a fake Firecracker, and returns a driver that
// finds it. The fake of the contract's tests does nothing wrong.
func install(t *testing.T, o orders) *Driver {
	t.Helper()
	if o.Version == "" {
		o.Version = "1.12.1"
	}
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return scripted(t, fmt.Sprintf("case $1 in --version) echo 'Firecracker v%s'; exit;; esac\n%s='%s' GORACE=atexit_sleep_ms=0 exec '%s' \"$@\"",
		o.Version, ordersEnv, strings.ReplaceAll(string(text), "'", `\u0027`), self))
}

// newSpec prepares a VM with two disks.
func newSpec(t *testing.T) vmm.Spec {
	t.Helper()
	dir := config.VMDir(filepath.Join(t.TempDir(), "a directory whose name alone is longer than the hundred and eight bytes that the address of a socket may have"))
	if err := os.Mkdir(string(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(wire.Config{Name: "otter", Nonce: "nonce of " + t.Name(), Token: "token of " + t.Name()})
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string]string{dir.Kernel(): "", dir.Base(): "", dir.Overlay(): strings.Repeat("\x00", 64<<10), dir.Initrd(): newc(wire.ConfigPath, string(data))} {
		mode := os.FileMode(0o600)
		if path == dir.Kernel() || path == dir.Base() {
			mode = 0o644 // shared with other VMs
		}
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	lock, err := vmm.Lock(dir.Lock())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lock.Close() })
	return vmm.Spec{
		ID: "0123456789ab", Name: "otter", Dir: string(dir), Lock: lock,
		Kernel: config.KernelName, Initrd: config.InitrdName, VCPUs: 1, Memory: 64 * banger.MiB,
		Disks:   []vmm.Disk{{Role: vmm.Base, File: config.BaseName, ReadOnly: true}, {Role: vmm.Overlay, File: config.OverlayName}},
		Console: config.ConsoleName, Log: config.VMMLogName(Name),
	}
}

// newc is an archive with one file.
func newc(name, data string) string {
	pad := func(s string) string { return s + strings.Repeat("\x00", -len(s)&3) }
	var b string
	for _, file := range [][2]string{{name, data}, {"TRAILER!!!", ""}} {
		b += pad(fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
			1, 0o100600, 0, 0, 1, 0, len(file[1]), 0, 0, 0, 0, len(file[0])+1, 0, file[0])) + pad(file[1])
	}
	return b
}
