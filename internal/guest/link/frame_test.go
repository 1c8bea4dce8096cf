package link

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"testing/iotest"
)

// scan returns the tokens in b without the noise, and how they are framed.
func scan(t testing.TB, r io.Reader) []token {
	t.Helper()
	var tokens []token
	for s := newScanner(r); ; {
		tok, err := s.next()
		if err != nil {
			if err != io.EOF {
				t.Fatalf("scan: %v", err)
			}
			return tokens
		}
		if len(tok.payload) > maxPayload {
			t.Fatalf("payload of %d bytes", len(tok.payload))
		}
		if tok.kind != noise {
			tok.payload = bytes.Clone(tok.payload)
			tokens = append(tokens, tok)
		}
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

func TestFramesAndMarksByteByByte(t *testing.T) {
	n := newNonce()
	payload := randomBytes(maxPayload)
	wire := appendFrame(appendFrame(nil, nil), payload)
	wire = append(wire, mark(ack, n)...)
	wire = appendFrame(wire, []byte("x"))
	got := scan(t, iotest.OneByteReader(bytes.NewReader(wire)))
	if len(got) != 4 || len(got[0].payload) != 0 || !bytes.Equal(got[1].payload, payload) || got[2].kind != ack || got[2].nonce != n || string(got[3].payload) != "x" {
		t.Errorf("got %d tokens", len(got))
	}
}

// Wherever a frame is torn, the marks after it are read, no wrong payload is delivered,
// and the frames after the marks are complete.
func TestTornFrameNeverSwallowsAllMarks(t *testing.T) {
	frame := appendFrame(nil, randomBytes(maxPayload))
	cuts := []int{0, 1, 2, 3, 4, 5, headerLen - 1, headerLen, headerLen + 1, len(frame) - 1, len(frame)}
	for range 200 {
		cuts = append(cuts, rand.IntN(len(frame)))
	}
	for _, cut := range cuts {
		n := newNonce()
		wire := append(append(bytes.Clone(frame[:cut]), run(syn, n)...), appendFrame(nil, []byte("after"))...)
		seen, delivered := 0, 0
		for _, tok := range scan(t, bytes.NewReader(wire)) {
			switch {
			case tok.kind == syn && tok.nonce == n:
				seen++
			case tok.kind == data && seen > 0:
				delivered++
				if string(tok.payload) != "after" {
					t.Fatalf("cut at %d: a frame of %d bytes after the marks", cut, len(tok.payload))
				}
			case tok.kind == data && cut < len(frame):
				t.Fatalf("cut at %d: a torn frame was delivered", cut)
			}
		}
		if seen == 0 || delivered != 1 {
			t.Fatalf("cut at %d: %d marks, %d frames", cut, seen, delivered)
		}
	}
}

func TestTornMark(t *testing.T) {
	n := newNonce()
	old := mark(syn, newNonce())
	for cut := range old {
		tokens := scan(t, bytes.NewReader(append(bytes.Clone(old[:cut]), run(syn, n)...)))
		if last := tokens[len(tokens)-1]; last.kind != syn || last.nonce != n {
			t.Errorf("cut at %d: the last mark has another nonce", cut)
		}
	}
}

func TestScannerReportsErrors(t *testing.T) {
	broken := errors.New("broken")
	s := newScanner(io.MultiReader(bytes.NewReader(mark(syn, nonce{1})[:20]), iotest.ErrReader(broken)))
	if _, err := s.next(); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

func FuzzScanner(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{magic0, magic1, byte(data), 0xff, 0xff})
	f.Add(appendFrame(nil, []byte("hello")))
	f.Add(append(appendFrame(nil, []byte("torn"))[:12], mark(syn, nonce{3})...))
	f.Add(append([]byte{magic0, magic0, magic1}, mark(reset, nonce{4})...))
	f.Add(append(mark(ack, nonce{5})[:15], appendFrame(nil, make([]byte, 300))...))
	f.Fuzz(func(t *testing.T, b []byte) {
		scan(t, bytes.NewReader(b))
		// Whatever came before: behind a run of marks the frames are whole.
		wire := append(append(bytes.Clone(b), run(syn, nonce{6})...), appendFrame(nil, []byte("after"))...)
		tokens := scan(t, bytes.NewReader(wire))
		if len(tokens) < 2 || tokens[len(tokens)-2].kind != syn || string(tokens[len(tokens)-1].payload) != "after" {
			t.Errorf("%d tokens, the last frame is lost", len(tokens))
		}
	})
}

// FuzzConnectLine reads the line that begins a stream: it gives a port in range or an
// error, and takes no byte after the line.
func FuzzConnectLine(f *testing.F) {
	f.Add([]byte("CONNECT 22\nSSH-2.0"))
	f.Add([]byte("CONNECT 0\n"))
	f.Add([]byte("CONNECT +22\n"))
	f.Add([]byte("CONNECT 65536\n"))
	f.Add([]byte("OK 22\n"))
	f.Add(bytes.Repeat([]byte("9"), 2*maxLine))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		port, err := readConnect(reading{r: r})
		if taken := len(b) - r.Len(); taken > maxLine {
			t.Errorf("%d bytes were taken", taken)
		}
		if err != nil {
			return
		}
		line, rest, _ := bytes.Cut(b, []byte("\n"))
		if port < 1 || port > 65535 || !bytes.HasPrefix(line, []byte("CONNECT ")) || r.Len() != len(rest) {
			t.Errorf("port %d of %q, %d bytes are left", port, line, r.Len())
		}
	})
}

// reading is a connection for readConnect.
type reading struct {
	net.Conn
	r io.Reader
}

func (c reading) Read(b []byte) (int, error) { return c.r.Read(b) }
