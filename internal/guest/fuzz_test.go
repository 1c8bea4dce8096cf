package guest

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode"

	"banger/internal/guest/wire"
)

func FuzzReadMessage(f *testing.F) {
	f.Add([]byte(goodHello + "\n"))
	f.Add([]byte(`{"reply":{"id":1,"result":{"boot_id":"b"}}}` + "\n" + `{"event":{"kind":"bye","verb":"poweroff","nonce":"boot-1"}}` + "\n"))
	f.Add([]byte("{}\n\nnull\n[]\n"))
	f.Add([]byte(`{"reply":{"id":-1}}` + "\n"))
	f.Add([]byte("\xff\xfe\x00\n"))
	f.Add([]byte(strings.Repeat("[", 20000) + "\n"))
	f.Add(append(bytes.Repeat([]byte(" "), wire.MaxLine), '\n'))
	f.Add(append(bytes.Repeat([]byte(" "), wire.MaxLine-len(goodHello)-1), goodHello+"\n"...))
	f.Fuzz(func(t *testing.T, b []byte) {
		// In whatever pieces it comes, into whatever buffer, it is read alike and line by line.
		whole := bufio.NewReaderSize(bytes.NewReader(b), wire.MaxLine)
		pieces := bufio.NewReaderSize(iotest.HalfReader(bytes.NewReader(b)), 16)
		for line := range bytes.Lines(b) {
			first, err1 := wire.ReadMessage(whole)
			second, err2 := wire.ReadMessage(pieces)
			if (err1 == nil) != (err2 == nil) || (first.Hello == nil) != (second.Hello == nil) {
				t.Fatalf("%v in one piece, %v in several", err1, err2)
			}
			if err1 == nil && (len(line) > wire.MaxLine || line[len(line)-1] != '\n') {
				t.Fatalf("a message of %d bytes, ended %v", len(line), line[len(line)-1] == '\n')
			}
			if err1 != nil {
				return // the connection ends here
			}
		}
		if _, err := wire.ReadMessage(whole); err != io.EOF {
			t.Errorf("behind the last line: %v", err)
		}
	})
}

// FuzzControl is a guest that sends anything: it is believed only with this boot's
// token and nonce, and its connection ends.
func FuzzControl(f *testing.F) {
	f.Add([]byte(goodHello + "\n"))
	f.Add([]byte(goodHello + "\n" + `{"event":{"kind":"init","init":"up"}}` + "\n" + `{"reply":{"id":7,"error":"no"}}` + "\n" + goodHello + "\n"))
	f.Add([]byte(goodHello + "\n{\n"))
	f.Add([]byte(strings.Replace(goodHello, "secret", "guess", 1) + "\n"))
	f.Add([]byte(`{"hello":{"token":"secret","nonce":"boot-1","failed":{"step":"find disks"}}}` + "\n"))
	f.Add([]byte(`{"event":{"kind":"bye"}}` + "\n"))
	f.Add([]byte(strings.Replace(goodHello, aBoot, rude, 1) + "\n"))
	f.Add([]byte(`{"hello":{"token":"secret","nonce":"boot-1","failed":{"step":"` + rude + `","why":"` + rude + `","fix":"` + rude + `"}}}` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		host, guest := net.Pipe()
		go func() {
			go io.Copy(io.Discard, guest)
			guest.Write(b)
			guest.Close()
		}()
		events := 0
		c, err := OpenControl(t.Context(), host, identity, "test", func(wire.Event) { events++ })
		if err != nil {
			guest.Close()
			if _, err := host.Write([]byte("x")); err == nil {
				t.Error("the connection was left open")
			}
			var boot *BootError
			if errors.As(err, &boot) && (!harmless(boot.Step) || !harmless(boot.Why) || !harmless(boot.Fix)) {
				t.Errorf("for a person: %q", boot)
			}
			return
		}
		defer c.Close()
		if h := c.Hello(); h.Token != identity.Token || h.Nonce != identity.Nonce || h.Failed != nil || !harmless(h.BootID) {
			t.Errorf("believed %+v", h)
		}
		select {
		case <-c.Done():
		case <-time.After(10 * time.Second):
			t.Fatal("the connection does not end")
		}
		if events > bytes.Count(b, []byte("\n")) {
			t.Errorf("%d events in %d lines", events, bytes.Count(b, []byte("\n")))
		}
		if err := c.Call(t.Context(), wire.MethodPing, nil, nil); err == nil {
			t.Error("a call succeeded after the end")
		}
	})
}

func harmless(s string) bool {
	return len(s) <= 400 && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}
