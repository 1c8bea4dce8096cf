package stack

import (
	"net/netip"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// readSizes are the pieces that a frame is read into. A frame keeps only the pieces
// that it needs, and of the last only a copy if that is smaller by half: what guests send
// may stay for long, and what it takes is then less than twice what it brings.
var readSizes = []int{2 << 10, 16 << 10, 64 << 10}

// frame is where the next frame is read to.
type frame struct {
	vnet   []byte
	pieces []*buffer.View
	iovecs []unix.Iovec
}

func newFrame(vnet int) *frame {
	f := &frame{vnet: make([]byte, vnet), pieces: make([]*buffer.View, len(readSizes))}
	if vnet > 0 {
		f.iovecs = append(f.iovecs, unix.Iovec{Base: &f.vnet[0], Len: uint64(vnet)})
	}
	f.iovecs = append(f.iovecs, make([]unix.Iovec, len(readSizes))...)
	return f
}

func (f *frame) read(fd int) (int, error) {
	at := f.iovecs[len(f.iovecs)-len(f.pieces):]
	for i, size := range readSizes {
		if f.pieces[i] == nil {
			f.pieces[i] = buffer.NewViewSize(size)
			at[i] = unix.Iovec{Base: f.pieces[i].BasePtr(), Len: uint64(size)}
		}
	}
	return readv(fd, f.iovecs)
}

// take returns the frame that has been read, without the header in front of it, and how
// much memory it takes.
func (f *frame) take(n int) (b buffer.Buffer, held int) {
	n -= len(f.vnet)
	for i := 0; n > 0 && i < len(f.pieces); i++ {
		v := f.pieces[i]
		if n <= readSizes[i]/2 {
			v = buffer.NewViewWithData(v.AsSlice()[:n]) // the original is read into again
			b.Append(v)
			return b, held + v.Capacity()
		}
		f.pieces[i] = nil
		v.CapLength(min(n, v.Size()))
		n -= v.Size()
		b.Append(v)
		held += v.Capacity()
	}
	return b, held
}

func (f *frame) release() {
	for _, v := range f.pieces {
		if v != nil {
			v.Release()
		}
	}
}

// weighed is the memory from which a frame counts. Smaller ones are mostly
// acknowledgements, which are gone at once; TCP counts what it keeps of others.
const weighed = 512

// weigh returns the packet that a frame is. It counts as memory of its sender's until it is
// released. If that guest has too much already, weigh returns nil.
func (l *link) weigh(b buffer.Buffer, held int) *stack.PacketBuffer {
	raw, ok := b.PullUp(header.EthernetMinimumSize, header.IPv4MinimumSize)
	if !ok || held < weighed {
		return stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: b})
	}
	guest := netip.AddrFrom4(header.IPv4(raw.AsSlice()).SourceAddress().As4())
	if !l.held.take(guest, held) {
		b.Release()
		return nil
	}
	return stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: b, OnRelease: func() { l.held.give(guest, held) }})
}
