// Package api is the wire between a client and the daemon: HTTP/1.1 and JSON
// over a unix socket, the server and the client of banger's services side by
// side, and how a client finds the daemon or starts it. It holds no state of
// VMs and decides nothing about them.
//
// A verb has one word everywhere: `banger vm stop`, POST /vms/{ref}/stop,
// StopVM. Long operations answer with newline-delimited JSON, any number of
// {"event":...} and then one {"result":...} or {"error":...}. They are cancelled
// when their client goes away, or closes its half of the connection: then it
// still gets the answer, once everything is undone. `dial` upgrades the connection to a raw stream.
package api
