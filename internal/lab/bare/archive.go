package main

import (
	"bytes"
	"fmt"
)

// archive returns an initramfs with a console and the first process.
func archive(init []byte) []byte {
	var out bytes.Buffer
	entry(&out, "dev", 0o040755, 0, 0, nil)
	entry(&out, "dev/console", 0o020600, 5, 1, nil)
	entry(&out, "init", 0o100755, 0, 0, init)
	entry(&out, "TRAILER!!!", 0, 0, 0, nil)
	return out.Bytes()
}

// entry writes a file in cpio's format newc, which the kernel reads.
func entry(out *bytes.Buffer, name string, mode, major, minor uint32, data []byte) {
	out.WriteString("070701")
	for _, field := range []uint32{0, mode, 0, 0, 1, 0, uint32(len(data)), 0, 0, major, minor, uint32(len(name) + 1), 0} {
		fmt.Fprintf(out, "%08x", field)
	}
	out.WriteString(name + "\x00")
	align(out)
	out.Write(data)
	align(out)
}

func align(out *bytes.Buffer) { out.Write(make([]byte, -out.Len()&3)) }
