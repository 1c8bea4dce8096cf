package sshd

import (
	"fmt"
	"strings"
	"testing"

	"banger/internal/guest/wire"
)

// TestExecOfAnySize: everything that execve takes, and for the rest an error that names
// the limit.
func TestExecOfAnySize(t *testing.T) {
	g := newSSHGuest(t)
	long := strings.Repeat("y", 130_000)
	most := strings.Repeat("z", maxString-1)
	var many []string
	for i := range 20_000 {
		many = append(many, fmt.Sprint(i))
	}
	var large []string
	for range 12 {
		large = append(large, long)
	}
	count := []string{"sh", "-c", `echo $#`, "-"}
	for _, c := range []struct {
		name string
		exec wire.Exec
		want string
	}{
		{"two long arguments", wire.Exec{Argv: bytesOf(append(count, long, long)...)}, "2\n"},
		{"the longest argument", wire.Exec{Argv: bytesOf(append(count, most)...)}, "1\n"},
		{"many arguments", wire.Exec{Argv: bytesOf(append(count, many...)...)}, "20000\n"},
		{"1.5 MB of arguments", wire.Exec{Argv: bytesOf(append(count, large...)...)}, "12\n"},
		{"a long variable", wire.Exec{Argv: bytesOf("sh", "-c", "echo ${#LONG}"), Env: bytesOf("LONG=" + long)}, "130000\n"},
		{"an empty argument", wire.Exec{Argv: bytesOf(append(count, "")...)}, "1\n"},
	} {
		if r := g.execDirect(t, c.exec); r.status != 0 || r.stdout != c.want {
			t.Errorf("%s: status %d, stdout %.50q, stderr %.200q", c.name, r.status, r.stdout, r.stderr)
		}
	}
	huge := append(large, large...)
	for _, c := range []struct {
		name string
		exec wire.Exec
		says string
	}{
		{"too long an argument", wire.Exec{Argv: bytesOf(append(count, most+"z")...)}, "argument 4 has 131072 bytes, and Linux takes at most 131071 in one"},
		{"too long a variable", wire.Exec{Argv: bytesOf("true"), Env: bytesOf("LONG=" + most)}, `the variable "LONG" has 131076 bytes`},
		{"too much in all", wire.Exec{Argv: bytesOf(append(count, huge...)...)}, "a quarter of the stack's limit"},
	} {
		if r := g.execDirect(t, c.exec); r.status != wire.ExitCannotRun || !strings.Contains(r.stderr, "argument list too long: ") || !strings.Contains(r.stderr, c.says) {
			t.Errorf("%s: status %d, stderr %.200q", c.name, r.status, r.stderr)
		}
	}
}

// TestExecPartsAreBounded: a client cannot fill the guest's memory.
func TestExecPartsAreBounded(t *testing.T) {
	s := &session{}
	part := make([]byte, wire.MaxExecPart)
	for range wire.MaxExec / wire.MaxExecPart {
		if err := s.addPart(part); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.addPart(part[:1]); err == nil {
		t.Error("there is no limit")
	}
	if err := (&session{begun: true}).addPart(nil); err == nil {
		t.Error("parts of a second program are kept")
	}
}
