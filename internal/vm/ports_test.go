package vm

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"banger"
	"banger/internal/guest/wire"
)

// free returns a port of localhost that nobody has.
func free(t *testing.T) uint16 {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// listens reports whether something on localhost accepts connections.
func listens(port uint16) bool {
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err == nil {
		conn.Close()
	}
	return !errors.Is(err, syscall.ECONNREFUSED)
}

func (w *world) ports(name string) banger.VMPorts {
	w.t.Helper()
	p, err := w.VMPorts(w.t.Context(), name)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *world) wantPorts(name string, port uint16, up bool) {
	w.t.Helper()
	if p := w.ports(name); (len(p.Ports) == 1 && len(p.Ports[0].Addresses) > 0) != up {
		w.t.Errorf("%+v", p)
	}
	if listens(port) != up {
		w.t.Errorf("port %d listens: %v", port, !up)
	}
}

// A published port is there whenever the VM runs, under each daemon.
func TestPublish(t *testing.T) {
	w, port := newWorld(t), free(t)
	w.create("otter")
	vm := w.set("otter", banger.SetVM{Ports: &[]banger.Publish{{Host: port, Port: 80}}})
	if len(vm.Ports) != 1 || vm.Ports[0].Host != port {
		t.Errorf("%+v", vm)
	}
	w.wantPorts("otter", port, true)
	_, err := w.CreateVM(t.Context(), banger.CreateVM{Name: "wombat", Ports: []banger.Publish{{Host: port, Port: 80}}}, nil)
	if banger.KindOf(err) != banger.Conflict || banger.FixOf(err) == "" {
		t.Errorf("a port that another VM has: %v; fix: %s", err, banger.FixOf(err))
	}
	w.again()
	w.wantPorts("otter", port, true)
	if _, err := w.StopVM(t.Context(), "otter", banger.StopVM{}, nil); err != nil {
		t.Fatal(err)
	}
	w.wantPorts("otter", port, false)
	if _, err := w.StartVM(t.Context(), "otter", banger.StartVM{}, nil); err != nil {
		t.Fatal(err)
	}
	w.wantPorts("otter", port, true)
	w.set("otter", banger.SetVM{Ports: &[]banger.Publish{}})
	w.wantPorts("otter", port, false)
}

// loginFile is what a fake guest leaves in its directory when somebody logs in.
const loginFile = "logged-in"

func noteLogin(wire.Config, net.Conn) { _ = os.WriteFile(loginFile, nil, 0o600) }

// A program that begins to listen once the VM has booted is expected to be connected to.
func TestExpect(t *testing.T) {
	w := newWorld(t)
	vm := w.create("otter")
	w.until("the boot", func() bool { return w.show1("otter").State == banger.Running })
	login := func() bool {
		_, err := os.Stat(filepath.Join(string(w.Dirs.VM(vm.ID)), loginFile))
		return err == nil
	}
	tell := func(ports string) { w.tell("otter", `{"kind":"ports","ports":{"listeners":[`+ports+`]}}`) }
	tell(`{"addr":"127.0.0.1","port":5355}`) // the first report is not about a program that begins to
	tell("")
	w.until("the report", func() bool { return len(w.ports("otter").Ports) == 0 })
	if login() {
		t.Error("somebody has logged in without a reason")
	}
	tell(`{"addr":"127.0.0.1","port":5356}`)
	w.until("a login", login)
}
