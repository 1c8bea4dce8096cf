package link

import "encoding/binary"

const (
	// maxWrite is the most that the guest's driver takes in one call.
	maxWrite = 32 << 10
	// usualPayload makes full use of such a call. The other end may be older, and takes
	// maxPayload.
	usualPayload = maxWrite/2 - headerLen
)

// framer writes what a session writes as frames. A call and the interrupt it causes cost
// an emulated guest as much as many kilobytes, so as much as possible goes into each.
// Only one goroutine may use it.
type framer struct {
	write func(frames []byte) error
	head  []byte // of a message whose body comes next
	buf   []byte
}

// Write writes b, or keeps it if it is the head of a message: a session writes head and
// body one after the other.
func (f *framer) Write(b []byte) (int, error) {
	if len(f.head) == 0 && headOnly(b) {
		f.head = append(f.head, b...)
		return len(b), nil
	}
	head, rest := f.head, b
	f.head = f.head[:0]
	for len(head)+len(rest) > 0 {
		f.buf = f.buf[:0]
		for len(head)+len(rest) > 0 && len(f.buf) < maxWrite {
			n := min(len(rest), usualPayload-len(head))
			f.buf = appendFrame(f.buf, head, rest[:n])
			head, rest = nil, rest[n:]
		}
		if err := f.write(f.buf); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

// headOnly reports whether b is the head of a message that has a body, as the protocol of
// yamux has it: version, type, flags, stream, and the body's length.
func headOnly(b []byte) bool {
	const size, version, data = 12, 0, 0
	return len(b) == size && b[0] == version && b[1] == data && binary.BigEndian.Uint32(b[8:]) > 0
}
