package api

import (
	"errors"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// giveStream passes the stream's descriptor to a client that asks for it.
func giveStream(client net.Conn, r io.ByteReader, stream *net.UnixConn) {
	if _, err := r.ReadByte(); err != nil {
		return
	}
	raw, err := stream.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		client.(*net.UnixConn).WriteMsgUnix([]byte{0}, unix.UnixRights(int(fd)), nil)
	})
}

var errNoStream = errors.New("the daemon did not send the stream")

// takeStream asks for the stream that the daemon has promised, and returns it.
func takeStream(conn net.Conn) (net.Conn, error) {
	daemon := conn.(*net.UnixConn)
	if _, err := daemon.Write([]byte{0}); err != nil {
		return nil, err
	}
	word, rights := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	n, got, _, _, err := daemon.ReadMsgUnix(word, rights)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:got])
	if err != nil || n != 1 || len(messages) != 1 {
		return nil, errors.Join(errNoStream, err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.Join(errNoStream, err)
	}
	file := os.NewFile(uintptr(fds[0]), "stream") // Go has it closed on exec
	defer file.Close()
	return net.FileConn(file)
}
