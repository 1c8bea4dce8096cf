package linux

import (
	"bytes"
	"debug/elf"
	"os"
	"strings"
	"testing"
)

// TestReadProgram agrees with package debug/elf about the programs of this host.
func TestReadProgram(t *testing.T) {
	found := 0
	for _, path := range []string{"/bin/sh", "/bin/ls", "/usr/bin/env", "/proc/self/exe"} {
		file, err := elf.Open(path)
		if err != nil {
			continue
		}
		defer file.Close()
		found++
		want := Program{Machine: uint16(file.Machine)}
		for _, p := range file.Progs {
			if p.Type == elf.PT_INTERP {
				text := make([]byte, p.Filesz)
				p.ReadAt(text, 0)
				want.Interpreter = string(bytes.TrimRight(text, "\x00"))
			}
		}
		head := make([]byte, ProgramHead)
		in, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		n, _ := in.Read(head)
		if got := ReadProgram(head[:n]); got != want {
			t.Errorf("%s: got %+v, want %+v", path, got, want)
		}
	}
	if found == 0 {
		t.Error("this host has no programs")
	}
	for text, want := range map[string]string{"#!/bin/sh\necho": "/bin/sh", "#! /usr/bin/env python3": "/usr/bin/env", "#!\n": "", "": "", "text": "", "#!" + strings.Repeat("x", 300): ""} {
		if got := ReadProgram([]byte(text)); got != (Program{Interpreter: want}) {
			t.Errorf("%q: got %+v", text, got)
		}
	}
}

// FuzzReadProgram reads what may be a program.
func FuzzReadProgram(f *testing.F) {
	f.Add([]byte("\x7fELF\x02\x01"))
	f.Add([]byte("#! /bin/sh"))
	f.Add(append([]byte("\x7fELF\x02\x01"), bytes.Repeat([]byte{0xff}, 200)...))
	if program, err := os.ReadFile("/bin/sh"); err == nil {
		f.Add(program[:min(len(program), ProgramHead)])
	}
	f.Fuzz(func(t *testing.T, head []byte) {
		if got := ReadProgram(head).Interpreter; !bytes.Contains(head, []byte(got)) || len(got) > maxInterpreter+1 {
			t.Errorf("%q is not in the program", got)
		}
	})
}
