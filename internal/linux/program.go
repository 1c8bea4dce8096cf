package linux

import (
	"bytes"
	"encoding/binary"
)

// Program is what the kernel needs to start a file. The zero value is a file that says
// nothing of that.
type Program struct {
	Machine     uint16 // in ELF's numbers, such as debug/elf.EM_X86_64; 0: it is a script, or no program
	Interpreter string // the program of a script's first line, or the dynamic loader
}

const (
	// ProgramHead is how many bytes from a file's begin ReadProgram needs.
	ProgramHead = 4096
	// maxInterpreter is the longest path of an interpreter that the kernel takes.
	maxInterpreter = 255
)

// ReadProgram looks at the first bytes of a file. (Package debug/elf would read sections,
// and is large.) Compilers put the loader's name there.
func ReadProgram(head []byte) Program {
	if script, is := bytes.CutPrefix(head, []byte("#!")); is {
		line, _, _ := bytes.Cut(script, []byte("\n"))
		if words := bytes.Fields(line); len(words) > 0 && len(words[0]) <= maxInterpreter {
			return Program{Interpreter: string(words[0])}
		}
		return Program{}
	}
	const header = 64
	if len(head) < header || string(head[:6]) != "\x7fELF\x02\x01" { // 64 bits, little-endian
		return Program{}
	}
	return Program{Machine: binary.LittleEndian.Uint16(head[18:]), Interpreter: loader(head)}
}

func loader(head []byte) string {
	const entry, interp = 56, 3
	at, entries := binary.LittleEndian.Uint64(head[32:]), int(binary.LittleEndian.Uint16(head[56:]))
	for range entries {
		if at > uint64(len(head)-entry) {
			return ""
		}
		e := head[at:]
		at += entry
		if binary.LittleEndian.Uint32(e) != interp {
			continue
		}
		from, size := binary.LittleEndian.Uint64(e[8:]), binary.LittleEndian.Uint64(e[32:])
		if from > uint64(len(head)) || size > min(maxInterpreter+1, uint64(len(head))-from) {
			return ""
		}
		return string(bytes.TrimRight(head[from:from+size], "\x00"))
	}
	return ""
}
