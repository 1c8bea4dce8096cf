// Package transfer copies files and trees between a host and a guest, as a stream that
// either end can write: modes, times, links, holes and all names. It does not know how
// the stream is carried, and it believes nothing that it reads: what arrives is created
// below the destination, one name at a time, without following a link.
package transfer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"syscall"
)

// Request is what a host asks of the Serve in a guest: one line of JSON, before the
// stream. Paths are base64 in JSON, whose strings cannot carry every byte.
type Request struct {
	Send        bool   `json:"send,omitempty"` // the guest sends Path; else it receives it
	Path        []byte `json:"path"`           // relative ones, and ~, begin in the user's home
	Name        []byte `json:"name,omitempty"` // see Receiver
	FollowLinks bool   `json:"follow_links,omitempty"`
}

// Code classifies a failure.
type Code uint8

// The codes of failures.
const (
	Unknown     Code = iota
	Missing          // a file or directory does not exist
	Denied           // the user may not
	Full             // no space, or a quota
	Exists           // something of another kind has the name
	NoFile           // a directory, where one file is needed
	NoParent         // the directory for the destination does not exist
	Interrupted      // the user gave up, or the connection ended
	Foreign          // the other end sent what is no such stream
	lastCode    = Foreign
)

// Failure is why a copy failed.
type Failure struct {
	Code     Code
	Path     string // what it is about, as its end of the copy names it; may be empty
	Why      string
	AtSource bool // it happened at the end that sends
}

func (f *Failure) Error() string {
	if f.Path == "" {
		return f.Why
	}
	return f.Path + ": " + f.Why
}

// codes tells what an error of the system means.
var codes = []struct {
	err  error
	code Code
	why  string // in place of the system's words
}{
	{fs.ErrNotExist, Missing, ""}, {fs.ErrPermission, Denied, ""}, {syscall.EROFS, Denied, ""},
	{syscall.ENOSPC, Full, ""}, {syscall.EDQUOT, Full, ""}, {syscall.EFBIG, Full, ""},
	{syscall.ENOTDIR, Exists, notDirectory}, {syscall.EISDIR, Exists, isDirectory}, {fs.ErrExist, Exists, "exists"},
}

// The Why of a failure that is Exists or NoFile continues its path as a sentence.
const (
	notDirectory = "is not a directory"
	isDirectory  = "is a directory"
)

// fail describes an error about path.
func fail(path string, err error) *Failure {
	if f := (*Failure)(nil); errors.As(err, &f) {
		return f
	}
	f := &Failure{Path: path, Why: err.Error()}
	if no := syscall.Errno(0); errors.As(err, &no) {
		f.Why = no.Error()
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			f.Code = c.code
			if c.why != "" {
				f.Why = c.why
			}
			break
		}
	}
	return f
}

// broken describes a stream that ended, or that no sender would write.
func broken(err error) *Failure {
	if f := (*Failure)(nil); errors.As(err, &f) {
		return f
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &Failure{Code: Interrupted, Why: "the stream ended early"}
	}
	return &Failure{Code: Interrupted, Why: err.Error()}
}

func foreign(format string, args ...any) *Failure {
	return &Failure{Code: Foreign, Why: "the sender broke the protocol: " + fmt.Sprintf(format, args...)}
}

// Name returns the name that a copy of path gets in a directory. It is empty if the
// content of path goes there instead: for a path that ends in . or .., for the root
// and for a home.
func Name(path string) string {
	path = strings.TrimRight(path, "/")
	name := path[strings.LastIndexByte(path, '/')+1:]
	if name == "." || name == ".." || path == "~" {
		return ""
	}
	return name
}

// absolute returns where path is for a user with this home. It keeps the path's end,
// which says how it is meant.
func absolute(home, path string) string {
	if path == "~" || strings.HasPrefix(path, "~/") {
		path = strings.TrimLeft(path[1:], "/")
	}
	if strings.HasPrefix(path, "/") {
		return path
	}
	return strings.TrimRight(home, "/") + "/" + path
}
