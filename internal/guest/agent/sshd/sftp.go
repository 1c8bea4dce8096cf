package sshd

import (
	"io"
	"os"

	"github.com/pkg/sftp"
)

// sftpServers are where images have OpenSSH's server of files: those of Debian, Fedora,
// Arch and Alpine, and OpenSSH as it comes. It has what clients of OpenSSH ask for beyond
// the protocol, such as another user's home.
var sftpServers = []string{"/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server", "/usr/libexec/sftp-server"}

// findSFTP returns the first of these programs that can start, or "".
func findSFTP(paths []string) string {
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			continue
		}
		needs := interpreter(path)
		if _, err := os.Stat(needs); needs == "" || err == nil {
			return path
		}
	}
	return ""
}

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
