package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"banger"
)

func TestLogsStream(t *testing.T) {
	r, w := io.Pipe()
	f := &fake{log: r}
	c, _ := serve(t, f)
	log, err := c.VMLogs(t.Context(), "otter", banger.VMLogs{Kind: banger.VMMLog, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	buffer := make([]byte, 100)
	for _, line := range []string{"one\n", "two\n"} { // each arrives before the next is written
		io.WriteString(w, line)
		if n, err := io.ReadFull(log, buffer[:len(line)]); err != nil || string(buffer[:n]) != line {
			t.Errorf("got %q, %v", buffer[:n], err)
		}
	}
	w.Close()
	if rest, err := io.ReadAll(log); err != nil || len(rest) != 0 {
		t.Errorf("got %q, %v", rest, err)
	}
	if want := []any{"logs", "otter", banger.VMLogs{Kind: banger.VMMLog, Follow: true}}; !reflect.DeepEqual(f.asked, want) {
		t.Errorf("asked %v", f.asked)
	}
}

func TestBrokenLogIsNoEnd(t *testing.T) {
	r, w := io.Pipe()
	c, _ := serve(t, &fake{log: r})
	log, err := c.VMLogs(t.Context(), "otter", banger.VMLogs{})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	w.CloseWithError(errors.New("disk on fire"))
	if _, err := io.ReadAll(log); err == nil || banger.FixOf(err) != "run the command again" {
		t.Errorf("got %v", err)
	}
}

// followed is a log that ends without an error when it is closed, as followed logs do.
type followed struct {
	*io.PipeReader
	w *io.PipeWriter
}

func (f followed) Close() error { return f.w.Close() }

// TestStoppedDaemonIsNoEndOfALog: a client gets an error when the daemon stops. One
// that does not read does not delay the stop.
func TestStoppedDaemonIsNoEndOfALog(t *testing.T) {
	for _, full := range []bool{false, true} {
		r, w := io.Pipe()
		f := &fake{log: followed{r, w}}
		if full {
			f.log = stuffed{f.log}
		}
		c, s := serve(t, f)
		log, err := c.VMLogs(t.Context(), "otter", banger.VMLogs{Follow: true})
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		if err := s.Shutdown(); err != nil {
			t.Errorf("a client that does not read: %v", err)
		}
		if _, err := io.Copy(io.Discard, log); err == nil || !strings.Contains(err.Error(), `read the log of VM "otter": the connection to the daemon broke`) {
			t.Errorf("got %v", err)
		}
	}
}

// stuffed is a log with more bytes than any socket buffers.
type stuffed struct{ io.ReadCloser }

func (stuffed) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(make([]byte, 64<<20))
	return int64(n), err
}

func TestFollowingEndsWithItsClient(t *testing.T) {
	r, w := io.Pipe()
	c, _ := serve(t, &fake{log: r})
	ctx, cancel := context.WithCancel(t.Context())
	log, err := c.VMLogs(ctx, "otter", banger.VMLogs{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cancel()
	for { // until the server has closed its end
		if _, err := io.WriteString(w, "more\n"); err != nil {
			return
		}
	}
}

func TestDialLosesNoEarlyByte(t *testing.T) {
	for range 50 {
		f := &fake{guest: func() (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() { // sends a line at once, then echoes
				io.WriteString(theirs, "SSH-2.0-banger\r\n")
				io.Copy(theirs, theirs)
				theirs.Close()
			}()
			return ours, nil
		}}
		c, _ := serve(t, f)
		conn, err := c.DialVM(t.Context(), "otter", 22)
		if err != nil {
			t.Fatal(err)
		}
		hello := make([]byte, 16)
		if _, err := io.ReadFull(conn, hello); err != nil || string(hello) != "SSH-2.0-banger\r\n" {
			t.Fatalf("got %q, %v", hello, err)
		}
		sent := bytes.Repeat([]byte("0123456789abcdef"), 4096)
		go conn.Write(sent)
		echo := make([]byte, len(sent))
		if _, err := io.ReadFull(conn, echo); err != nil || !bytes.Equal(echo, sent) {
			t.Fatalf("%d bytes differ, %v", len(sent), err)
		}
		conn.Close()
	}
}

// TestDialTakesBytesSentWithTheRequest: bytes that follow the request in the same
// packet go to the guest.
func TestDialTakesBytesSentWithTheRequest(t *testing.T) {
	got := make(chan string, 1)
	c, _ := serve(t, &fake{guest: func() (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() {
			all, _ := io.ReadAll(theirs)
			got <- string(all)
		}()
		return ours, nil
	}})
	conn, err := net.Dial("unix", c.socket)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, "POST /vms/otter/dial?port=22 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: banger-stream\r\n\r\nearly")
	if _, err := conn.Read(make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if early := <-got; early != "early" {
		t.Errorf("the guest got %q", early)
	}
}

func TestDialErrors(t *testing.T) {
	f := &fake{err: &banger.Error{Kind: banger.Conflict, What: "dial", Why: errors.New("it is stopped"), Fix: "start it"}}
	c, _ := serve(t, f)
	if _, err := c.DialVM(t.Context(), "otter", 22); banger.KindOf(err) != banger.Conflict || banger.FixOf(err) != "start it" {
		t.Errorf("got %v", err)
	}
	for _, port := range []int{0, -1, 65536} {
		if _, err := c.DialVM(t.Context(), "otter", port); banger.KindOf(err) != banger.Invalid {
			t.Errorf("port %d: got %v", port, err)
		}
	}
}

func TestShutdownEndsStreams(t *testing.T) {
	ours, theirs := net.Pipe()
	c, s := serve(t, &fake{guest: func() (net.Conn, error) { return ours, nil }})
	conn, err := c.DialVM(t.Context(), "otter", 22)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := s.Shutdown(); err != nil {
		t.Error(err)
	}
	if _, err := theirs.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the guest's end: %v", err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the client's end is open")
	}
}

func TestDialNobody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if _, err := Dial(t.Context(), path); banger.KindOf(err) != banger.NotFound {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Dial(t.Context(), path); banger.KindOf(err) != banger.NotFound {
		t.Errorf("got %v", err)
	}
}
