package build

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"strings"
	"sync"

	"banger"
	"banger/internal/guest"
	"banger/internal/operation"
)

// maxLog bounds the log of a build.
const maxLog = 64 * banger.MiB

// maxLine is how long a line may be that a client gets.
const maxLine = 1000

// output takes what the programs of a build print: all of it goes to the log, and lines to
// the client.
type output struct {
	op   *operation.Operation
	path string

	mu   sync.Mutex
	file *os.File
	left int64
	step string
	out  stream
	errs stream
}

// stream is stdout or stderr of a program.
type stream struct {
	to   *output
	line []byte
	last string // the last line that says something
}

// openLog begins the log of a build, in place of the last one.
func openLog(op *operation.Operation, path string) (*output, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	o := &output{op: op, path: path, file: file, left: int64(maxLog)}
	o.out.to, o.errs.to = o, o
	return o, nil
}

// begin begins the output of a step.
func (o *output) begin(step string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.step = step
	o.out.last, o.errs.last = "", ""
	o.write([]byte("== " + step + "\n"))
}

// Write takes output. It does not fail: a disk that is full must not keep a program from
// its end.
func (s *stream) Write(p []byte) (int, error) {
	s.to.mu.Lock()
	defer s.to.mu.Unlock()
	s.to.write(p)
	for rest := p; len(rest) > 0; {
		end := bytes.IndexAny(rest, "\r\n")
		part := rest
		if end >= 0 {
			part = rest[:end]
		}
		s.line = append(s.line, part[:min(len(part), maxLine-len(s.line))]...)
		if end < 0 {
			break
		}
		s.flush()
		rest = rest[end+1:]
	}
	return len(p), nil
}

func (o *output) write(p []byte) {
	if o.left <= 0 {
		return
	}
	if o.left -= int64(len(p)); o.left <= 0 {
		p = fmt.Appendf(nil, "\nThe log ends here: it has %v.\n", maxLog)
	}
	o.file.Write(p)
}

// flush passes on the line that has come. The caller holds mu.
func (s *stream) flush() {
	text := strings.TrimRight(guest.Printable(string(s.line)), " ")
	s.line = s.line[:0]
	if text != "" {
		s.last = text
		s.to.op.Output(s.to.step, text)
	}
}

// failed returns the error of a program that has ended with a status, with the last that
// it said of an error.
func (o *output) failed(what string, status int) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.flush()
	why := fmt.Errorf("%s ended with exit status %d", what, status)
	if last := cmp.Or(o.errs.last, o.out.last); last != "" {
		why = fmt.Errorf("%w: %s", why, last)
	}
	return &banger.Error{Why: why, Fix: "read its output: " + o.path}
}

// over passes on what a program that has ended printed last.
func (o *output) over() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.flush()
}

// flush passes on lines that have no end. The caller holds mu.
func (o *output) flush() {
	o.out.flush()
	o.errs.flush()
}

// end writes how the build ended, and closes the log.
func (o *output) end(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.left = max(o.left, 1<<12)
	if err != nil {
		o.write([]byte("== failed: " + err.Error() + "\n"))
	} else {
		o.write([]byte("== done\n"))
	}
	o.file.Close()
}
