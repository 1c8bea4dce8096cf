package script

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"banger/internal/hostcmd"
)

// BenchmarkReaders compares `vm create` on the driver without VMs, alone and with
// 200 readers of the events, one of which does not read. They take turns.
func BenchmarkReaders(b *testing.B) {
	if _, err := (hostcmd.Host{}).Look("mke2fs"); err != nil {
		b.Skip("mke2fs is missing: apt-get install e2fsprogs")
	}
	h := newHome(b)
	create := func() time.Duration {
		began := time.Now()
		h.run("banger vm create --name otter")
		took := time.Since(began)
		h.run("banger vm delete --yes --force otter")
		return took
	}
	create() // what only the first one has to do
	socket := strings.TrimSpace(h.run("banger daemon socket"))
	const readers, pairs = 200, 25
	var alone, beside, ratios []float64
	for range pairs {
		before := create()
		leave := readEvents(b, socket, readers)
		after := create()
		leave()
		alone, beside = append(alone, before.Seconds()*1000), append(beside, after.Seconds()*1000)
		ratios = append(ratios, after.Seconds()/before.Seconds())
	}
	median := func(values []float64) float64 { return slices.Sorted(slices.Values(values))[len(values)/2] }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(alone), "ms-alone")
	b.ReportMetric(median(beside), "ms-beside-200")
	b.ReportMetric(median(ratios), "ratio")
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
