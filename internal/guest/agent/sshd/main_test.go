package sshd

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"banger/internal/guest/agent/layout"
)

// roleVariable names what the test's own program does instead of testing.
const roleVariable = "BANGER_SSHD_TEST_ROLE"

// roles are programs that tests need in a guest or beside ssh.
var roles = map[string]func(args []string) error{
	"connect": connectStdio,
	"pixels":  printPixels,
	"echo":    serveEcho,
	"sshd":    runSSHD,
}

// TestMain lets the test's own program be the servers of files that it starts.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case layout.NameTransfer:
		os.Exit(RunTransfer())
	case layout.NameSFTP:
		os.Exit(RunSFTP())
	}
	if role := roles[os.Getenv(roleVariable)]; role != nil {
		if err := role(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// connectStdio is a ProxyCommand: it connects stdin and stdout to a socket.
func connectStdio(args []string) error {
	conn, err := net.Dial("unix", args[0])
	if err != nil {
		return err
	}
	go func() {
		io.Copy(conn, os.Stdin)
		conn.Close()
	}()
	io.Copy(os.Stdout, conn)
	return nil
}

// printPixels prints its terminal's size in pixels.
func printPixels([]string) error {
	size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
	if err == nil {
		fmt.Println(size.Xpixel, size.Ypixel)
	}
	return err
}

// serveEcho writes its process ID and port into a file and returns what it is sent, until
// it is killed.
func serveEcho(args []string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	text := fmt.Sprintln(os.Getpid(), l.Addr().(*net.TCPAddr).Port)
	if err := os.WriteFile(args[0], []byte(text), 0o600); err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			io.Copy(conn, conn)
			conn.Close()
		}()
	}
}

func newSigner(t *testing.T) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
