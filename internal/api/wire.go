package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"banger"
	"banger/internal/version"
)

// Protocol is the version of the protocol. Clients and daemons of different versions
// cannot work together. New routes or fields do not change it. `GET /daemon` and
// `POST /daemon/stop` are the same in every version.
const Protocol = "1"

const (
	protocolHeader = "Banger-Protocol"
	versionHeader  = "Banger-Version"
	streamProtocol = "banger-stream" // what `dial` upgrades to
	eventStream    = "application/x-ndjson"
	maxBody        = 1 << 20
)

// restart is the fix if the client and the daemon speak different protocols.
const restart = "banger daemon stop, then run the command again: VMs keep running"

// wireError is a banger.Error on the wire.
type wireError struct {
	Kind banger.Kind `json:"kind"`
	What string      `json:"what,omitempty"`
	Why  string      `json:"why,omitempty"`
	Fix  string      `json:"fix,omitempty"`
	Op   string      `json:"op,omitempty"`
}

// line is one line of an operation's answer, and the body of an answer that is an
// error.
type line struct {
	Event  *banger.Step    `json:"event,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
	Error  *wireError      `json:"error,omitempty"`
}

// statuses maps each kind of error to an HTTP status.
var statuses = map[banger.Kind]int{
	banger.Unknown:  http.StatusInternalServerError,
	banger.Invalid:  http.StatusBadRequest,
	banger.NotFound: http.StatusNotFound,
	banger.Conflict: http.StatusConflict,
	banger.Unready:  http.StatusServiceUnavailable,
	banger.Canceled: 499, // nginx's "client closed request"; there is no official status
	banger.TimedOut: http.StatusGatewayTimeout,
}

// toWire returns an error for the wire. An unexplained one gets as its fix where to
// find the daemon's log.
func toWire(err error) *wireError {
	w := takeApart(err)
	if w.Kind == banger.Unknown && w.Fix == "" && w.Op == "" {
		w.Fix = "banger daemon status, to find the daemon's log, which may say more"
	}
	return w
}

// takeApart returns an error in parts, from which err makes one with the same text,
// kind and fix.
func takeApart(err error) *wireError {
	w := &wireError{Kind: banger.KindOf(err), Why: err.Error(), Fix: banger.FixOf(err), Op: banger.OpOf(err)}
	if e, ok := err.(*banger.Error); ok && e.What != "" {
		w.What, w.Why = e.What, ""
		if e.Why != nil {
			w.Why = e.Why.Error()
		}
	}
	return w
}

func (w *wireError) err() error {
	e := &banger.Error{Kind: w.Kind, What: w.What, Fix: w.Fix, Op: w.Op}
	if w.Why != "" || w.What == "" {
		e.Why = errors.New(w.Why)
	}
	return e
}

// mark sets the headers with the protocol and the version of this program.
func mark(h http.Header) {
	h.Set(protocolHeader, Protocol)
	h.Set(versionHeader, version.Version)
}

// eternal reports whether a route is the same in every protocol.
func eternal(path string) bool { return path == "/daemon" || path == "/daemon/stop" }

// fits returns an error if the client and the daemon speak different protocols.
func fits(client, clientVersion, daemon, daemonVersion string) error {
	if client == daemon {
		return nil
	}
	return &banger.Error{
		Kind: banger.Conflict, What: "talk to the daemon",
		Why: fmt.Errorf("banger %s speaks protocol %s and the daemon, bangerd %s, speaks %s", clientVersion, client, daemonVersion, daemon),
		Fix: restart,
	}
}
