package link

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/hashicorp/yamux"
)

// message returns the head of a session's message with a body of this length.
func message(length int) []byte {
	return binary.BigEndian.AppendUint32(make([]byte, 8), uint32(length))
}

// A message takes as few writes as the driver allows, and arrives whole.
func TestFewWrites(t *testing.T) {
	for _, c := range []struct{ length, writes int }{
		{1, 1}, {usualPayload, 1}, {2*usualPayload - 12, 1}, {2*usualPayload - 11, 2}, {5 * usualPayload, 3}, {1 << 20, 33},
	} {
		var writes int
		var wire []byte
		f := framer{write: func(frames []byte) error {
			if writes++; len(frames) > maxWrite {
				t.Errorf("a write of %d bytes", len(frames))
			}
			wire = append(wire, frames...)
			return nil
		}}
		head, body, update := message(c.length), randomBytes(c.length), []byte{0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 9, 9}
		for _, b := range [][]byte{update, head, body} {
			if n, err := f.Write(b); n != len(b) || err != nil {
				t.Fatalf("%d of %d bytes, %v", n, len(b), err)
			}
		}
		if writes != 1+c.writes {
			t.Errorf("%d bytes took %d writes, want %d", c.length, writes-1, c.writes)
		}
		var got []byte
		for _, tok := range scan(t, bytes.NewReader(wire)) {
			got = append(got, tok.payload...)
		}
		if want := bytes.Join([][]byte{update, head, body}, nil); !bytes.Equal(got, want) {
			t.Errorf("%d bytes arrived, want %d", len(got), len(want))
		}
	}
}

// A body that looks like the head of another message is a body, and a session's own
// messages are taken apart as they are meant.
func TestBodiesThatLookLikeHeads(t *testing.T) {
	var wire bytes.Buffer
	f := framer{write: func(frames []byte) error { wire.Write(frames); return nil }}
	for range 2 {
		f.Write(message(12))
		f.Write(message(12))
	}
	if tokens := scan(t, &wire); len(tokens) != 2 || len(tokens[0].payload) != 24 {
		t.Errorf("%d frames", len(tokens))
	}
	heads := make(chan bool, 100)
	ours, theirs := net.Pipe()
	session, err := yamux.Client(&spy{ours, heads}, settings())
	if err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, theirs)
	stream, err := session.Open()
	if err != nil {
		t.Fatal(err)
	}
	stream.Write([]byte("word"))
	session.Close()
	theirs.Close()
	if got := []bool{<-heads, <-heads, <-heads}; got[0] || !got[1] || got[2] {
		t.Errorf("of the stream's beginning, a head and its body, these are taken for heads: %v", got)
	}
}

// spy tells what the framer takes each write for.
type spy struct {
	net.Conn
	heads chan bool
}

func (s *spy) Write(b []byte) (int, error) {
	s.heads <- headOnly(b)
	return s.Conn.Write(b)
}

func TestFeed(t *testing.T) {
	f := newFeed()
	payload := randomBytes(10000)
	var put sync.WaitGroup
	put.Go(func() {
		for range 10 {
			if !f.put(payload) {
				t.Error("a payload that is read was refused")
			}
		}
	})
	got := make([]byte, 10*len(payload))
	for done := 0; done < len(got); {
		n, err := f.Read(got[done:min(done+777, len(got))])
		if err != nil {
			t.Fatal(err)
		}
		done += n
	}
	put.Wait()
	if !bytes.Equal(got, bytes.Repeat(payload, 10)) {
		t.Error("other bytes came out")
	}
	taken := make(chan bool)
	go func() { taken <- f.put(payload) }()
	f.Read(make([]byte, 1))
	f.close(errStale)
	if <-taken {
		t.Error("a payload that nobody reads was taken")
	}
	if _, err := f.Read(make([]byte, 1)); err != errStale {
		t.Errorf("got %v", err)
	}
	if f.put(payload) {
		t.Error("a closed feed takes more")
	}
}
