// Package link carries many streams over one serial port of a VM and survives
// that either end is replaced at any moment: the daemon by a restart, the agent
// by its own. It owns the frames on the port, their resynchronisation, the
// session above them and the CONNECT line each stream begins with. It does not
// know what the streams carry, nor how the host reaches the port.
//
// A virtio-serial port is one endless byte pipe each way. Bytes that an earlier
// host or agent wrote stay queued, a frame may be cut at any byte, and the
// guest often does not see that the host hung up. So nothing is inferred from
// a hang-up: a host that connects sends a mark with a random nonce, repeated
// until it is longer than the longest frame, so that a torn frame cannot
// swallow all of it. The guest begins a new session at each new nonce and says
// the nonce back before anything else; the host drops all that comes before
// that. A guest that starts, or that lost its place, says so by a mark of its
// own, which ends the host's session.
package link
