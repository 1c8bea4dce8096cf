package process

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
)

// systemd answers on a socket as a manager does: once, with or without an error.
// It returns what it was asked, as it was asked.
func systemd(t *testing.T, refusal string) (socket string, asked chan *dbus.Message) {
	t.Helper()
	socket, asked = filepath.Join(t.TempDir(), "private"), make(chan *dbus.Message, 1)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		in := bufio.NewReader(conn)
		for {
			line, err := in.ReadString('\n')
			word := strings.Trim(line, "\x00\r\n")
			if err != nil || word == "BEGIN" {
				break
			}
			answer := "ERROR\r\n"
			switch {
			case strings.HasPrefix(word, "AUTH EXTERNAL"):
				answer = "OK 0123456789abcdef0123456789abcdef\r\n"
			case word == "AUTH":
				answer = "REJECTED EXTERNAL\r\n"
			case word == "NEGOTIATE_UNIX_FD":
				answer = "AGREE_UNIX_FD\r\n"
			}
			fmt.Fprint(conn, answer)
		}
		message, err := dbus.DecodeMessage(in)
		if err != nil {
			t.Error(err)
			return
		}
		asked <- message // before the answer
		reply := &dbus.Message{Type: dbus.TypeMethodReply, Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldReplySerial: dbus.MakeVariant(message.Serial()),
		}}
		if refusal != "" {
			reply.Type = dbus.TypeError
			reply.Headers[dbus.FieldErrorName] = dbus.MakeVariant("org.freedesktop.DBus.Error.Failed")
			reply.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.ParseSignatureMust("s"))
			reply.Body = []any{refusal}
		}
		if err := reply.EncodeTo(conn, binary.LittleEndian); err != nil {
			t.Error(err)
		}
		in.ReadByte() // until the other end has read it
	}()
	return socket, asked
}

func TestIsolate(t *testing.T) {
	const pid, session, manager = 4711, "/user.slice/user-1000.slice/session-2.scope", "/user.slice/user-1000.slice/user@1000.service/app.slice/term.scope"
	for _, c := range []struct {
		name, group     string
		lingers, always bool
		refusal         string
		asks            bool
	}{
		{name: "in a session that ends", group: session},
		{name: "in a session, of a user who lingers", group: session, lingers: true, asks: true},
		{name: "in what ends with the last log-in anyway", group: manager, asks: true},
		{name: "root's", group: "/user.slice/user-0.slice/session-1.scope", always: true, asks: true},
		{name: "in its own already", group: "/user.slice/banger-0123456789ab-4711.scope", always: true},
		{name: "refused", group: session, lingers: true, refusal: "no", asks: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			socket, asked := systemd(t, c.refusal)
			h := Host{Proc: dir, Systemd: Systemd{Socket: socket, Linger: filepath.Join(dir, "linger"), Unit: "user@1000.service"}}
			if c.always {
				h.Systemd.Linger = ""
			}
			if c.lingers {
				write(t, h.Systemd.Linger, "")
			}
			if err := os.Mkdir(filepath.Join(dir, fmt.Sprint(pid)), 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, fmt.Sprint(pid), "cgroup"), "0::"+c.group+"\n")
			err := h.Isolate(t.Context(), "0123456789ab", pid)
			if (err != nil) != (c.refusal != "") || err != nil && !strings.Contains(err.Error(), c.refusal) {
				t.Errorf("got %v", err)
			}
			if !c.asks {
				if len(asked) != 0 {
					t.Errorf("it asked %v", <-asked)
				}
				return
			}
			if len(asked) == 0 {
				t.Fatal("it did not ask")
			}
			message := <-asked
			member, signature := message.Headers[dbus.FieldMember].Value(), message.Headers[dbus.FieldSignature].String()
			if member != "StartTransientUnit" || !strings.Contains(signature, "ssa(sv)a(sa(sv))") {
				t.Errorf("it called %v, %s", member, signature)
			}
			if got := fmt.Sprint(message.Body[:2]); got != "[banger-0123456789ab-4711.scope fail]" {
				t.Errorf("it asked for %s", got)
			}
			if got := fmt.Sprint(message.Body[2]); !strings.Contains(got, fmt.Sprint(pid)) {
				t.Errorf("with %s", got)
			}
		})
	}
	if err := (Host{Systemd: Systemd{Socket: "/nonexistent/private"}}).Isolate(t.Context(), "0123456789ab", pid); err != nil {
		t.Errorf("where there is no systemd: %v", err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
