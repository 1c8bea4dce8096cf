package sshd

import (
	"io"
	"os"

	"github.com/pkg/sftp"
)

// RunSFTP serves files on stdin and stdout, as the user that runs it. It must start in
// the user's home: given a directory, the SFTP library would make the targets of
// links absolute.
func RunSFTP() int {
	server, err := sftp.NewServer(stdio{})
	if err != nil {
		return 1
	}
	if err := server.Serve(); err != nil && err != io.EOF {
		return 1
	}
	return 0
}

type stdio struct{}

func (stdio) Read(b []byte) (int, error)  { return os.Stdin.Read(b) }
func (stdio) Write(b []byte) (int, error) { return os.Stdout.Write(b) }
func (stdio) Close() error                { return os.Stdin.Close() }
