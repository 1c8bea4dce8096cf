package process

import (
	"os"
	"syscall"
	"testing"
)

// Of a socket that is there nobody needs to be told: a host that has no watch left,
// here no descriptor for one, still reaches it.
func TestAwaitWithoutAWatch(t *testing.T) {
	dir, err := OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	socket, err := dir.Listen("api.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	reach := func() {
		t.Helper()
		conn, err := dir.Await(t.Context(), "api.sock")
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	reach() // what the runtime opens for itself is open from here on
	next, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	only := limit
	only.Cur = uint64(next.Fd()) + 1
	next.Close()
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &only); err != nil {
		t.Fatal(err)
	}
	defer syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	reach()
}
