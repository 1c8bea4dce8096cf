package log

import (
	"bytes"
	"encoding/hex"
	"os"

	"golang.org/x/sys/unix"
)

// Records opens the kernel's log for reading, at its start. Each read returns one
// record; it fails with EPIPE when records were overwritten before they were read.
func Records() (*os.File, error) {
	fd, err := openRecords()
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/dev/kmsg", Err: err}
	}
	return os.NewFile(uintptr(fd), "/dev/kmsg"), nil
}

func openRecords() (int, error) {
	return unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
}

// Kernel returns the text of the records that the kernel's log holds now.
func Kernel() []byte {
	fd, err := openRecords()
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	var text []byte
	record := make([]byte, 8<<10)
	for {
		n, err := unix.Read(fd, record)
		if err == unix.EPIPE || err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return text
		}
		_, line, _ := bytes.Cut(record[:n], []byte(";"))
		text = append(text, unescape(line)...)
	}
}

// unescape undoes the escapes of a record: the kernel writes a backslash, and each
// byte that is not printable ASCII, as \xNN.
func unescape(line []byte) []byte {
	var out []byte
	for len(line) > 0 {
		if len(line) >= 4 && line[0] == '\\' && line[1] == 'x' {
			if b, err := hex.DecodeString(string(line[2:4])); err == nil {
				out, line = append(out, b...), line[4:]
				continue
			}
		}
		out, line = append(out, line[0]), line[1:]
	}
	return out
}
