package helper

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"testing"
	"time"
)

// soakEnv is how long the soak takes.
const soakEnv = "BANGER_TEST_SOAK"

const (
	soakDownload    = 32 << 20 // of each round
	soakUpload      = 8 << 20
	soakDatagrams   = 100
	soakConnections = 10_000 // in all rounds together
	soakRound       = time.Second
	mostGrowth      = 4 // MiB
)

// sample is what a round has left.
type sample struct {
	at                                float64 // seconds
	megabytes, datagrams, connections int     // until now
	memory                            float64 // MiB
}

// TestSoak has a guest download, upload, ask by UDP and connect for a long time. All must
// come through whole, and the helper's memory must level off: in the last third of the time
// its median is not above that of the first third, of which the first tenth is left out.
func TestSoak(t *testing.T) {
	length, err := time.ParseDuration(os.Getenv(soakEnv))
	if err != nil {
		t.Skipf("%s is %q; fix: make soak", soakEnv, os.Getenv(soakEnv))
	}
	if !inLab(t) {
		return
	}
	s := &soak{lab: newLab(t), t: t}
	s.listen()
	begun := time.Now()
	next := time.NewTicker(soakRound)
	defer next.Stop()
	var all []sample
	for time.Since(begun) < length {
		due := soakConnections * min(1, (time.Since(begun)+soakRound).Seconds()/length.Seconds())
		s.round(int(due) - s.connections)
		s.at, s.memory = time.Since(begun).Seconds(), s.lab.memory(t, "VmRSS")
		all = append(all, s.sample)
		<-next.C
	}
	s.round(soakConnections - s.connections) // a few, if the last rounds took longer
	printSamples(all, s.lab.memory(t, "VmHWM"))
	first, last := median(all[len(all)/10:max(len(all)/10+1, len(all)/3)]), median(all[len(all)*2/3:])
	fmt.Printf("median of the first third %.1f MiB, of the last %.1f MiB\n", first, last)
	if last > first+mostGrowth {
		t.Errorf("the helper's memory grows: from %.1f to %.1f MiB", first, last)
	}
}

func median(part []sample) float64 {
	var all []float64
	for _, s := range part {
		all = append(all, s.memory)
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// printSamples prints a line for each twelfth of the time.
func printSamples(all []sample, peak float64) {
	fmt.Printf("%8s %12s %12s %12s %12s\n", "SECONDS", "MiB MOVED", "DATAGRAMS", "CONNECTIONS", "MEDIAN MiB")
	const lines = 12
	for i := range lines {
		if part := all[len(all)*i/lines : len(all)*(i+1)/lines]; len(part) > 0 {
			last := part[len(part)-1]
			fmt.Printf("%8.0f %12d %12d %12d %12.1f\n", last.at, last.megabytes, last.datagrams, last.connections, median(part))
		}
	}
	fmt.Printf("peak %.1f MiB\n", peak)
}

// soak is a guest and what it does.
type soak struct {
	sample
	lab                                 *lab
	t                                   *testing.T
	source, sink, echo, greeter, sinkOK string
	data                                []byte
}

func (s *soak) listen() {
	s.data = bytes.Repeat([]byte("0123456789abcdef"), soakDownload/16)
	s.source = s.lab.serve(s.t, func(c net.Conn) { c.Write(s.data) })
	s.sink = s.lab.serve(s.t, func(c net.Conn) {
		n, err := io.Copy(io.Discard, c)
		fmt.Fprint(c, n, err)
	})
	s.greeter = s.lab.serve(s.t, func(c net.Conn) { io.WriteString(c, "hello") })
	s.sinkOK = fmt.Sprint(int64(soakUpload), error(nil))
	var conn net.PacketConn
	must(s.t, s.lab.server.Do(func() (err error) {
		conn, err = net.ListenPacket("udp4", labServer+":0")
		return err
	}))
	s.t.Cleanup(func() { conn.Close() })
	s.echo = conn.LocalAddr().String()
	go func() {
		b := make([]byte, 65536)
		for {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			conn.WriteTo(b[:n], from)
		}
	}()
}

// round does everything once, and as many short connections.
func (s *soak) round(connections int) {
	s.transfer()
	s.ask()
	for range max(connections, 0) {
		if got := s.fetch(s.greeter, nil); string(got) != "hello" {
			s.t.Fatalf("a short connection got %q", got)
		}
		s.connections++
	}
}

func (s *soak) transfer() {
	if got := s.fetch(s.source, nil); !bytes.Equal(got, s.data) {
		s.t.Fatalf("downloaded %d bytes of %d, or others", len(got), len(s.data))
	}
	if got := s.fetch(s.sink, s.data[:soakUpload]); string(got) != s.sinkOK {
		s.t.Fatalf("uploaded %s, want %s", got, s.sinkOK)
	}
	s.megabytes += (soakDownload + soakUpload) >> 20
}

// fetch sends data on a new connection, and returns the answer.
func (s *soak) fetch(addr string, data []byte) []byte {
	s.t.Helper()
	conn, err := s.lab.dial(labGuests[0], "tcp4", addr)
	must(s.t, err)
	defer conn.Close()
	must(s.t, conn.SetDeadline(time.Now().Add(time.Minute)))
	if len(data) > 0 {
		_, err := conn.Write(data)
		must(s.t, err)
		must(s.t, conn.(*net.TCPConn).CloseWrite())
	}
	got, err := io.ReadAll(conn)
	must(s.t, err)
	return got
}

// ask sends datagrams on a new flow, of which each must come back.
func (s *soak) ask() {
	conn, err := s.lab.dial(labGuests[0], "udp4", s.echo)
	must(s.t, err)
	defer conn.Close()
	must(s.t, conn.SetDeadline(time.Now().Add(time.Minute)))
	got := make([]byte, 2000)
	for i := range soakDatagrams {
		sent := s.data[i:][:1200]
		_, err := conn.Write(sent)
		must(s.t, err)
		n, err := conn.Read(got)
		must(s.t, err)
		if !bytes.Equal(got[:n], sent) {
			s.t.Fatalf("datagram %d came back with %d bytes, or others", i, n)
		}
		s.datagrams++
	}
}
