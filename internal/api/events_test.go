package api

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/internal/event"
)

// watch requests the events without a Client, and reads the snapshot.
func watch(t *testing.T, socket string) *bufio.Scanner {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	io.WriteString(conn, "GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReaderSize(conn, 16), nil)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if strings.Contains(lines.Text(), `"kind":"ready"`) {
			return lines
		}
	}
	t.Fatal(lines.Err())
	return nil
}

// TestAReaderThatDoesNotReadDelaysNobody: the others get every event, and the server
// shuts down at once. A reader that is late gets an EventDropped.
func TestAReaderThatDoesNotReadDelaysNobody(t *testing.T) {
	f := &fake{hub: event.NewHub()}
	c, s := serve(t, f)
	const others, batch, batches = 3, event.Kept / 2, 3
	stuck, late := watch(t, c.socket), watch(t, c.socket)
	got := make(chan error)
	for range others {
		go func() {
			n := uint64(0)
			for e, err := range c.Events(t.Context()) {
				switch {
				case e.Kind == banger.EventReady:
				case n == batch*batches: // the end of the stream
					got <- err
					return
				case err != nil || e.Seq != n+1:
					t.Errorf("event %d after %d: %v", e.Seq, n, err)
					got <- err
					return
				default:
					n = e.Seq
				}
				if n%batch == 0 {
					got <- nil
				}
			}
		}()
	}
	for range batches + 1 {
		for range others { // each has received all events so far
			<-got
		}
		if f.hub.Seq() == batch*batches {
			break
		}
		for range batch {
			f.hub.Publish(banger.Event{Kind: banger.EventVM, VM: &banger.VM{Name: "otter"}})
		}
	}
	last := banger.Event{}
	for late.Scan() {
		if err := json.Unmarshal(late.Bytes(), &last); err != nil {
			t.Fatal(err)
		}
	}
	if last.Kind != banger.EventDropped || last.Seq != batch*batches {
		t.Errorf("a late reader's last event is %+v: %v", last, late.Err())
	}
	began := time.Now()
	if err := s.Shutdown(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > unwindTime/6 {
		t.Errorf("the server ended after %v", took)
	}
	for range others {
		if err := <-got; err == nil || err.Error() != "read the events: the daemon has ended" {
			t.Errorf("the end of the daemon: %v", err)
		}
	}
	n := 0
	for stuck.Scan() {
		n++
	}
	if n == 0 || n >= batch*batches {
		t.Errorf("a reader that did not read got %d events", n)
	}
}

// TestEventsThatCannotBeRead: an error of the snapshot reaches the client.
func TestEventsThatCannotBeRead(t *testing.T) {
	f := &fake{hub: event.NewHub()}
	want := &banger.Error{Kind: banger.Unready, What: "list", Why: io.EOF, Fix: "mend it"}
	f.hub.Add(func(context.Context) ([]banger.Event, error) { return nil, want })
	c, _ := serve(t, f)
	for _, err := range c.Events(t.Context()) {
		if banger.KindOf(err) != banger.Unready || banger.FixOf(err) != "mend it" {
			t.Error(err)
		}
	}
}
