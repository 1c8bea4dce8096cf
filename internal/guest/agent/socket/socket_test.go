package socket

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestNotifyHearsOnlyProcessOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, _ := conn.SyscallConn()
	raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
	stranger, err := net.Dial("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	if _, err := stranger.Write([]byte("STATUS=Activating special unit poweroff.target...")); err != nil {
		t.Fatal(err)
	}
	data, control := make([]byte, 256), make([]byte, 256)
	_, n, _, _, err := conn.ReadMsgUnix(data, control)
	if err != nil {
		t.Fatal(err)
	}
	if n == 0 || fromFirst(control[:n]) {
		t.Errorf("process %d was taken for process 1", os.Getpid())
	}
	cred := unix.UnixCredentials(&unix.Ucred{Pid: 1})
	if !fromFirst(cred) {
		t.Error("process 1 was not recognized")
	}
	if fromFirst(nil) || fromFirst([]byte{1, 2, 3}) {
		t.Error("a message without credentials was accepted")
	}
}
