//go:build vm

package lab

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// BenchmarkReaders compares `vm create` alone and with 200 readers of the events, one
// of which does not read. They take turns.
func BenchmarkReaders(b *testing.B) {
	once(b)
	h := newHome(b.TempDir(), shared.bin)
	create := func() time.Duration {
		took := h.must(b, "vm", "create", "--name", "otter")
		h.must(b, "vm", "delete", "--yes", "--force", "otter")
		return took
	}
	create() // what only the first one has to do
	pid := h.daemonPID(context.Background())
	defer func() {
		h.must(b, "daemon", "stop")
		if err := gone(pid, time.Minute); err != nil {
			b.Error(err)
		}
	}()
	socket := strings.TrimSpace(h.run(context.Background(), nil, "daemon", "socket").stdout)
	for range pairs {
		alone := create()
		leave := readEvents(b, socket, 200)
		beside := create()
		leave()
		measured.millis("create, from the command to its end", "", alone)
		measured.millis("  the same with 200 readers of the events", "", beside)
		measured.add("  ratio", "", "", beside.Seconds()/alone.Seconds())
	}
	b.ReportMetric(0, "ns/op")
}

// readEvents connects readers, all of which have the snapshot when it returns.
// The first never reads again.
func readEvents(b *testing.B, socket string, readers int) (leave func()) {
	b.Helper()
	conns := make([]net.Conn, readers)
	for i := range conns {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			b.Fatal(err)
		}
		conns[i] = conn
		fmt.Fprint(conn, "GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
		lines := bufio.NewReader(conn)
		for line := ""; !strings.Contains(line, `"kind":"ready"`); {
			if line, err = lines.ReadString('\n'); err != nil {
				b.Fatal(err)
			}
		}
		if i > 0 {
			go io.Copy(io.Discard, conn)
		}
	}
	return func() {
		for _, conn := range conns {
			conn.Close()
		}
	}
}
