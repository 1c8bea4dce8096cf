package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"banger/internal/guest/wire"
)

// FuzzControl is a host that says anything: nothing is done for it before its
// hello, each request has one reply, and the connection comes to an end.
func FuzzControl(f *testing.F) {
	hello := `{"hello":{"version":1}}` + "\n"
	f.Add([]byte(hello + `{"request":{"id":1,"method":"info"}}` + "\n" + `{"request":{"id":2,"method":"stop","params":{"verb":"halt","grace_ms":1}}}` + "\n"))
	f.Add([]byte(`{"request":{"id":1,"method":"ping"}}` + "\n"))
	f.Add([]byte(hello + hello + "{}\nnull\n" + `{"request":{"id":18446744073709551615}}` + "\n"))
	f.Add([]byte(hello + `{"request":{"id":1,"method":"clock","params":"now"}}` + "\n{"))
	f.Add([]byte(hello + strings.Repeat(`{"request":{"method":"ping"}}`+"\n", 40)))
	f.Add(append([]byte(hello), bytes.Repeat([]byte("x"), wire.MaxLine+1)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		var asked atomic.Int64
		c := newControl(
			func() wire.Hello { return wire.Hello{Version: wire.Version} },
			func(_ context.Context, r wire.Request) (any, error) {
				asked.Add(1)
				switch r.Method { // as the server reads them
				case wire.MethodStop:
					return params[wire.StopParams](r)
				case wire.MethodClock:
					return params[wire.ClockParams](r)
				}
				return nil, errors.New("unknown method")
			})
		host, guest := net.Pipe()
		host.SetDeadline(time.Now().Add(10 * time.Second))
		served, heard := make(chan struct{}), make(chan struct{})
		go func() { defer close(served); c.serve(guest, nil) }()
		go func() { defer close(heard); io.Copy(io.Discard, host) }()
		host.Write(b)
		host.Close()
		select {
		case <-served:
		case <-time.After(10 * time.Second):
			t.Fatal("the connection does not end")
		}
		<-heard
		first, err := wire.ReadMessage(bufio.NewReaderSize(bytes.NewReader(b), wire.MaxLine))
		if n := asked.Load(); n > 0 && (err != nil || first.Hello == nil || n > int64(bytes.Count(b, []byte("\n")))) {
			t.Errorf("%d requests were taken from %q", n, b)
		}
	})
}

// FuzzReadConfig: what is kept for the server and the last stage is what was read.
func FuzzReadConfig(f *testing.F) {
	f.Add([]byte(`{"version":1,"name":"otter","machine_id":"0123456789abcdef0123456789abcdef","nonce":"n","token":"t",` +
		`"authorized_keys":["ssh-ed25519 AAAA"],"host_key":"PEM","direct":["/var/lib/docker"],"work_mount":"/root","unix_nano":1}`))
	f.Add([]byte(`{"unknown":null,"direct":[]}`))
	f.Add([]byte("{\"name\":\"\xff\"}"))
	f.Add([]byte(`{"version":1e3}`))
	f.Add([]byte("null"))
	f.Add([]byte(""))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(dir, "config.json")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := readConfig(path)
		if err != nil {
			return
		}
		if err := writeJSON(path, c); err != nil {
			t.Fatal(err)
		}
		if again, err := readConfig(path); err != nil || !reflect.DeepEqual(again, c) {
			t.Errorf("kept %+v, %v; read %+v", again, err, c)
		}
		hosts := hostsFor([]byte("127.0.1.1\told\n"), c.Name)
		if strings.Contains(string(hosts), "\told\n") {
			t.Errorf("the old name is still in %q", hosts)
		}
		for _, dir := range append(c.Direct, c.WorkMount) {
			if name := escapePath(dir); name == "" || strings.ContainsAny(name, "/\x00\n") {
				t.Errorf("%q becomes the file name %q", dir, name)
			}
		}
	})
}

func FuzzReadSuperblock(f *testing.F) {
	f.Add(newSuperblock(nil))
	f.Add(newSuperblock(func(sb []byte) { sb[0x60] = 0x80; sb[0x150] = 0xff }))
	f.Add(newSuperblock(func(sb []byte) { sb[0x18] = 7 }))
	f.Add(newSuperblock(func(sb []byte) { copy(sb[0x78:], "0123456789abcdef0123") }))
	f.Add(make([]byte, 2047))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := readSuperblock(bytes.NewReader(b))
		if err != nil {
			if s != (superblock{}) {
				t.Errorf("%+v beside %v", s, err)
			}
			return
		}
		if len(s.label) > 16 || strings.Contains(s.label, "\x00") {
			t.Errorf("label %q", s.label)
		}
		if s.blockSize < 1024 || s.blockSize > 64<<10 || s.blockSize&(s.blockSize-1) != 0 {
			t.Errorf("block size %d", s.blockSize)
		}
	})
}

// FuzzLookupAccount: whatever is in the image's files, a user that is found has
// all that a login needs, and root is always found as uid 0 or not at all.
func FuzzLookupAccount(f *testing.F) {
	passwd := "root:x:0:0:root:/root:/bin/bash\nann:x:1000:1000:Ann:/home/ann:/bin/zsh\nbare:x:1:2:::\n"
	group := "root:x:0:\nsudo:x:27:bob,ann\nann:x:1000:ann\n"
	for _, who := range []string{"root", "ann", "1000", "bare", "", "0", "4294967295", "4294967296", "-1", "ann:x"} {
		f.Add([]byte(passwd), []byte(group), who)
	}
	f.Add([]byte("ann:x:4294967296:0::/:/bin/sh\n:x:0:0:::\n::::::\nann\n"), []byte(":::ann\n\x00:\n"), "ann")
	f.Add([]byte(""), []byte(""), "root")
	etc := f.TempDir()
	f.Fuzz(func(t *testing.T, passwd, group []byte, who string) {
		for name, text := range map[string][]byte{"passwd": passwd, "group": group} {
			if err := os.WriteFile(filepath.Join(etc, name), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		a, err := lookupAccount(etc, who)
		if err != nil {
			return
		}
		if a.name == "" || a.home == "" || a.shell == "" || strings.ContainsAny(a.name+a.home+a.shell, "\n:") {
			t.Errorf("%q is %+v", who, a)
		}
		if len(a.groups) == 0 || a.groups[0] != a.gid || len(a.groups) > maxGroups {
			t.Errorf("%q has gid %d and groups %v", who, a.gid, a.groups)
		}
		for _, v := range a.environment() {
			if strings.HasPrefix(v, "HOME=") && v != "HOME="+a.home {
				t.Errorf("%q has %q", who, v)
			}
		}
	})
}

// FuzzSessionRequest takes anything in the place of a request on a session, and
// for exec@banger sees that the arguments arrive byte for byte.
func FuzzSessionRequest(f *testing.F) {
	whole, _ := json.Marshal(wire.Exec{Argv: [][]byte{[]byte("printf"), []byte("\xff\x00 %s"), nil}, User: "ann", Workdir: []byte("sub/.."), Env: [][]byte{[]byte("A=b\nc")}})
	f.Add(wire.ExecRequest, whole)
	f.Add(wire.ExecRequest, []byte(`{"argv":["L2Jpbi9zaA=="],"user":"12345678901"}`))
	f.Add(wire.ExecRequest, []byte(`{"argv":[]}`))
	f.Add(wire.ExecRequest, []byte(`{"argv":["not base64"]}`))
	f.Add(wire.ExecRequest, []byte(`{"argv":[""],"workdir":"Li4vLi4="}`))
	f.Add("exec", ssh.Marshal(struct{ Text string }{"true"}))
	f.Add("subsystem", ssh.Marshal(struct{ Text string }{"sftp"}))
	f.Add("env", ssh.Marshal(struct{ Name, Value string }{"LANG", "C"}))
	f.Add("env", ssh.Marshal(struct{ Name, Value string }{"A=B", "\x00"}))
	f.Add("pty-req", ssh.Marshal(ttyRequest{Term: "xterm", Cols: 80, Rows: 1 << 31}))
	f.Add("window-change", ssh.Marshal(struct{ Cols, Rows, Width, Height uint32 }{1, 2, 3, 4}))
	f.Add("signal", ssh.Marshal(struct{ Name string }{"KILL"}))
	f.Add("shell", []byte("rest"))
	f.Add("x11-req", []byte{0xff, 0xff, 0xff, 0xff})
	etc := f.TempDir()
	if err := os.WriteFile(filepath.Join(etc, "passwd"), []byte("ann:x:1000:1000::/tmp:/bin/sh\n"), 0o600); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, kind string, payload []byte) {
		if kind == "auth-agent-req@openssh.com" {
			return // has no payload, and makes a socket
		}
		s := &session{server: &sshServer{etc: etc}, user: account{name: "root", home: "/", shell: "/bin/sh"}}
		act, err := s.take(&ssh.Request{Type: kind, Payload: payload})
		if act != nil && err != nil || (act != nil) != s.begun {
			t.Fatalf("%q: act %v, begun %v, %v", kind, act != nil, s.begun, err)
		}
		for _, v := range s.env {
			if name, _, ok := strings.Cut(v, "="); !ok || name == "" {
				t.Errorf("environment has %q", v)
			}
		}
		if kind != wire.ExecRequest || err != nil {
			return
		}
		checkProgram(t, s, payload)
	})
}

func checkProgram(t *testing.T, s *session, payload []byte) {
	var e wire.Exec
	if err := json.Unmarshal(payload, &e); err != nil || len(e.Argv) == 0 {
		t.Fatalf("%q was taken: %v", payload, err)
	}
	_, cmd, err := s.program(e)
	if err != nil {
		return
	}
	if len(cmd.Args) != len(e.Argv) || !filepath.IsAbs(cmd.Path) || !filepath.IsAbs(cmd.Dir) {
		t.Fatalf("%q in %q with %d arguments of %d", cmd.Path, cmd.Dir, len(cmd.Args), len(e.Argv))
	}
	for i, arg := range e.Argv {
		if cmd.Args[i] != string(arg) {
			t.Errorf("argument %d is %q, was sent as %q", i, cmd.Args[i], arg)
		}
	}
}

// FuzzNotify is an init that says anything: its state is always one that the
// host knows, and an end is left only by a new start.
func FuzzNotify(f *testing.F) {
	for _, text := range []string{
		"READY=1\nSTATUS=Startup finished.\n", "X_SYSTEMD_SIGNALS_LEVEL=2", "X_SYSTEMD_UNIT_ACTIVE=multi-user.target\n",
		"STATUS=Activating special unit poweroff.target...\n", "X_SYSTEMD_UNIT_ACTIVE=shutdown.target\nREADY=1", "X_SYSTEMD_UNIT_ACTIVE=emergency.target\nREADY=1", "=\n\n==", "STATUS=Activating special unit ",
	} {
		f.Add(text, "READY=1")
	}
	known := []wire.Init{wire.InitStarting, wire.InitHears, wire.InitUp, wire.InitEmergency, wire.InitStopping, wire.InitShutdown}
	f.Fuzz(func(t *testing.T, first, second string) {
		now := wire.InitStarting
		for line := range strings.Lines(first + "\n" + second) {
			before := now
			now = nextInit(now, strings.TrimRight(line, "\n"), func() bool { return strings.Contains(first, "emergency") })
			if !slices.Contains(known, now) {
				t.Fatalf("%q leads from %s to %q", line, before, now)
			}
			ending := before == wire.InitStopping || before == wire.InitShutdown
			if ending && now == wire.InitUp || before == wire.InitShutdown && now == wire.InitStopping {
				t.Errorf("%q leads back from %s to %s", line, before, now)
			}
		}
	})
}

// FuzzParseMounts: what the last stage stands on is never in the list.
func FuzzParseMounts(f *testing.F) {
	f.Add("22 1 0:20 / / rw - tmpfs tmpfs rw\n30 22 254:0 / /old\\040root rw shared:1 - ext4 /dev/vda ro\n31 22 0:30 / /oldroot rw - overlay overlay rw\n")
	f.Add("30 22 254:0 /proc /proc/x rw - ext4 /dev/vda ro\n30 22 0:5 / /dev/pts rw - devpts\n")
	f.Add(" - \n1 2 3 4 5 -\n1 2 3 4 5 - \n")
	f.Fuzz(func(t *testing.T, table string) {
		list := parseMounts(strings.NewReader(table))
		if len(list) > strings.Count(table, "\n")+1 {
			t.Errorf("%d mounts", len(list))
		}
		for _, m := range list {
			if standsOn(m) || m.fs == "" {
				t.Errorf("%+v", m)
			}
		}
	})
}
