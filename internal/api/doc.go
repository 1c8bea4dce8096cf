// Package api connects a client and the daemon: HTTP/1.1 and JSON over a unix
// socket. It owns the server and the client of banger's services, and how a client
// finds or starts the daemon. It keeps no state of VMs and decides nothing about
// them.
//
// A verb has the same name everywhere: `banger vm stop`, POST /vms/{ref}/stop,
// StopVM. An operation answers with newline-delimited JSON: any number of
// {"event":...}, and then one {"result":...} or {"error":...}. It is cancelled when
// its client disconnects or closes its half of the connection. In the second case
// the client still gets the answer, once everything is undone. `dial` upgrades the
// connection to a raw stream.
package api
