package link

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"hash/crc32"
	"io"
)

// kind is what a token on the wire is.
type kind byte

const (
	data  kind = 'D' // a frame: header, payload
	syn   kind = 'S' // a mark of the host: a new connection
	ack   kind = 'A' // a mark of the guest: the connection with this nonce begins here
	reset kind = 'R' // a mark of the guest: no session, connect again
	noise kind = 0   // anything else: bytes of a torn frame or mark
)

const (
	maxPayload = 16 << 10
	headerLen  = 10 // magic, 'D', length, CRC of the payload, check of the header
	nonceLen   = 16
	markLen    = 3 + len(markMagic) + nonceLen

	magic0    = 0xf5 // in no UTF-8 text
	magic1    = 0x9b
	markMagic = "bngrlnk1"
)

// runMarks is how often a mark is repeated. The rest of a torn frame swallows less than
// one frame and the mark at its end; at least one more stays whole.
const runMarks = (headerLen+maxPayload)/markLen + 3

type nonce [nonceLen]byte

func newNonce() nonce {
	var n nonce
	rand.Read(n[:]) // never fails
	return n
}

func mark(k kind, n nonce) []byte {
	b := make([]byte, 0, markLen)
	b = append(b, magic0, magic1, byte(k))
	b = append(b, markMagic...)
	return append(b, n[:]...)
}

// run returns a mark repeated until it is longer than one frame.
func run(k kind, n nonce) []byte { return bytes.Repeat(mark(k, n), runMarks) }

// appendFrame appends a payload, in one part or more and at most maxPayload bytes, as a
// frame.
func appendFrame(b []byte, payload ...[]byte) []byte {
	start := len(b)
	b = append(b, magic0, magic1, byte(data), 0, 0, 0, 0, 0, 0, 0)
	for _, part := range payload {
		b = append(b, part...)
	}
	head, body := b[start:start+headerLen], b[start+headerLen:]
	binary.BigEndian.PutUint16(head[3:], uint16(len(body)))
	binary.BigEndian.PutUint32(head[5:], crc32.ChecksumIEEE(body))
	head[headerLen-1] = check(head[:headerLen-1])
	return b
}

// check returns the header's check byte. It depends on each byte's place, so a header
// with a byte lost or doubled does not pass.
func check(header []byte) byte {
	sum := byte(0x5a)
	for _, b := range header {
		sum = sum<<1 | sum>>7
		sum ^= b
	}
	return sum
}

// token is one frame, mark or run of noise. payload is valid until the next read.
type token struct {
	kind    kind
	nonce   nonce
	payload []byte
}

// scanner cuts a byte stream into tokens. It trusts a length only if the header's check
// byte is right, and a payload only if its CRC is.
type scanner struct {
	r    *bufio.Reader
	last int // bytes of the returned token, dropped at the next read
}

func newScanner(r io.Reader) *scanner { return &scanner{r: bufio.NewReader(r)} }

// next returns the next token. Noise comes in runs of any length.
func (s *scanner) next() (token, error) {
	s.r.Discard(s.last) // cannot fail: it was peeked
	s.last = 0
	b, err := s.r.Peek(1)
	if err != nil {
		return token{}, err
	}
	if b[0] != magic0 {
		return s.skip()
	}
	if b, err = s.r.Peek(3); err != nil {
		return token{}, err
	}
	if b[1] != magic1 {
		return s.skip()
	}
	switch k := kind(b[2]); k {
	case data:
		return s.frame()
	case syn, ack, reset:
		return s.mark(k)
	}
	return s.skip()
}

// skip drops at least one byte, up to where a token may begin.
func (s *scanner) skip() (token, error) {
	b, _ := s.r.Peek(s.r.Buffered())
	n := bytes.IndexByte(b[1:], magic0) + 1
	if n == 0 {
		n = len(b)
	}
	s.last = n
	return token{kind: noise}, nil
}

func (s *scanner) mark(k kind) (token, error) {
	b, err := s.r.Peek(markLen)
	if err != nil {
		return token{}, err
	}
	if string(b[3:markLen-nonceLen]) != markMagic {
		return s.skip()
	}
	s.last = markLen
	return token{kind: k, nonce: nonce(b[markLen-nonceLen:])}, nil
}

func (s *scanner) frame() (token, error) {
	head, err := s.r.Peek(headerLen)
	if err != nil {
		return token{}, err
	}
	size := int(binary.BigEndian.Uint16(head[3:]))
	if check(head[:headerLen-1]) != head[headerLen-1] || size > maxPayload {
		return s.skip()
	}
	b, err := s.r.Peek(headerLen + size)
	if err == bufio.ErrBufferFull { // only bulk data needs so large a buffer
		s.r = bufio.NewReaderSize(s.r, 2*(headerLen+maxPayload))
		b, err = s.r.Peek(headerLen + size)
	}
	if err != nil {
		return token{}, err
	}
	s.last = len(b)
	payload := b[headerLen:]
	if crc32.ChecksumIEEE(payload) != binary.BigEndian.Uint32(b[5:]) {
		return token{kind: noise}, nil // a torn frame, filled up with what came after it
	}
	return token{kind: data, payload: payload}, nil
}
