package guest

import (
	"bytes"
	"io"
	"net"
	"testing"
)

func TestQueueWaitsForNobody(t *testing.T) {
	near, far := net.Pipe()
	q := newQueued(near)
	part := bytes.Repeat([]byte{1}, queueRoom)
	q.Write(part)
	q.mu.Lock()
	for len(q.waiting) > 0 { // until it is on its way
		q.changed.Wait()
	}
	q.mu.Unlock()
	for range 3 {
		if _, err := q.Write(part); err != nil { // nobody reads
			t.Fatal(err)
		}
	}
	room := make(chan bool)
	go func() {
		q.awaitRoom()
		close(room)
	}()
	select {
	case <-room:
		t.Error("there was room")
	default:
	}
	if n, err := io.ReadFull(far, make([]byte, 4*len(part))); err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	<-room
	q.Close()
	if _, err := q.Write(part); err == nil {
		t.Error("written after Close")
	}
	if n, err := far.Read(part); err != io.EOF {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// A guest that wants more and more answers, and reads none, loses the connection.
func TestQueueIsBounded(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	q, part := newQueued(near), make([]byte, maxQueue/4)
	var err error
	for range 9 { // up to maxQueue are on their way, and as much waits
		if _, err = q.Write(part); err != nil {
			break
		}
	}
	if err == nil {
		t.Fatal("the queue has no bound")
	}
	q.awaitRoom()
}
