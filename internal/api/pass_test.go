package api

import (
	"bufio"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// socketPair returns a stream that is a socket, as some VMMs have it.
func socketPair(t *testing.T) (ours, theirs net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "pair")
		defer file.Close()
		if ends[i], err = net.FileConn(file); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { ends[1].Close() })
	return ends[0], ends[1]
}

// TestStreamsOutliveTheDaemon: the client gets the descriptor of a stream that is a socket.
func TestStreamsOutliveTheDaemon(t *testing.T) {
	ours, theirs := socketPair(t)
	io.WriteString(theirs, "early ")
	c, s := serve(t, &fake{guest: func() (net.Conn, error) { return ours, nil }})
	conn, err := c.DialVM(t.Context(), "otter", 22)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := s.Shutdown(); err != nil {
		t.Fatal(err)
	}
	io.WriteString(theirs, "and late")
	text := make([]byte, len("early and late"))
	if _, err := io.ReadFull(conn, text); err != nil || string(text) != "early and late" {
		t.Errorf("the client got %q, %v", text, err)
	}
	io.WriteString(conn, "back")
	if _, err := io.ReadFull(theirs, text[:4]); err != nil || string(text[:4]) != "back" {
		t.Errorf("the guest got %q, %v", text[:4], err)
	}
	conn.Close()
	if _, err := theirs.Read(text); err != io.EOF { // no other process has it open
		t.Errorf("after the client's end: %v", err)
	}
}

// TestClientsThatTakeNoStream: such clients get the bytes, as from a VMM without sockets.
func TestClientsThatTakeNoStream(t *testing.T) {
	ours, theirs := socketPair(t)
	c, _ := serve(t, &fake{guest: func() (net.Conn, error) { return ours, nil }})
	conn, err := net.Dial("unix", c.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "POST /vms/otter/dial?port=22 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: banger-stream\r\n\r\n")
	in := bufio.NewReader(conn)
	for line := ""; line != "\r\n"; {
		if line, err = in.ReadString('\n'); err != nil || strings.HasPrefix(line, passHeader) {
			t.Fatalf("%q, %v", line, err)
		}
	}
	go io.WriteString(theirs, "hello")
	text := make([]byte, 5)
	if _, err := io.ReadFull(in, text); err != nil || string(text) != "hello" {
		t.Errorf("got %q, %v", text, err)
	}
}

// TestAStreamThatIsNotTaken: it ends with the client that asked for it.
func TestAStreamThatIsNotTaken(t *testing.T) {
	ours, theirs := socketPair(t)
	c, _ := serve(t, &fake{guest: func() (net.Conn, error) { return ours, nil }})
	conn, err := net.Dial("unix", c.socket)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, "POST /vms/otter/dial?port=22 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: banger-stream\r\n"+passHeader+": 1\r\n\r\n")
	if _, err := conn.Read(make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if _, err := theirs.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the guest's end: %v", err)
	}
}
