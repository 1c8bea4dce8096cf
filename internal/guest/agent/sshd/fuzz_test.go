package sshd

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"banger/internal/guest/wire"
)

// FuzzLookupAccount: whatever is in the image's files, a user that is found has
// everything that a login needs.
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
		env := variables{"HOME": "/elsewhere"}
		env.login(a, etc)
		if env["HOME"] != a.home || env["PATH"] == "" {
			t.Errorf("%q has %v", who, env)
		}
	})
}

// FuzzSessionRequest sends anything as a request on a session. The arguments of an
// exec@banger arrive byte for byte.
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
		s := &session{server: &Server{etc: etc}, user: account{name: "root", home: "/", shell: "/bin/sh"}}
		act, err := s.take(&ssh.Request{Type: kind, Payload: payload})
		if act != nil && err != nil || (act != nil) != s.begun {
			t.Fatalf("%q: act %v, begun %v, %v", kind, act != nil, s.begun, err)
		}
		for name, value := range s.env {
			if name == "" || strings.ContainsAny(name, "=\x00") || strings.Contains(value, "\x00") {
				t.Errorf("environment has %q=%q", name, value)
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
	_, cmd, err := s.prepareExec(e)
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
