// Package link carries many streams over one serial port of a VM. Either end may be
// replaced at any moment: the daemon and the agent can restart. It owns the frames on
// the port, their resynchronisation, the session above them and the CONNECT line that
// begins each stream. It does not know what the streams carry, nor how the host
// reaches the port.
//
// A virtio-serial port is one endless byte pipe each way. Bytes that an earlier host
// or agent wrote stay queued, a frame may be cut at any byte, and the guest often does
// not see that the host hung up. So nothing is inferred from a hang-up. A host that
// connects sends a mark with a random nonce, repeated until it is longer than the
// longest frame: a torn frame cannot swallow all of it. At each new nonce the guest
// begins a new session and first sends the nonce back; the host drops everything
// before that. A guest that starts, or that has lost its place, sends a mark of its
// own, which ends the host's session.
package link
