package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"banger/internal/guest/wire"
)

// silence is how long a guest may send nothing while the host logs in. A busy guest may
// take much longer in all: it says that it lets others in first.
const silence = 60 * time.Second

// errSilent means that a guest has sent nothing for too long.
var errSilent = fmt.Errorf("the guest has been silent for %v", silence)

// patient is a connection that fails if the guest is silent for too long, until the login
// is over.
type patient struct {
	net.Conn
	waiting func(before int) // may be nil

	mu   sync.Mutex
	done bool
	line []byte // the begin of a line before the server's version
	ssh  bool   // the version has come
}

func (p *patient) Read(b []byte) (int, error) {
	p.await()
	n, err := p.Conn.Read(b)
	p.listen(b[:n])
	return n, err
}

func (p *patient) await() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.done {
		p.SetReadDeadline(time.Now().Add(silence))
	}
}

// over ends the limit.
func (p *patient) over() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done = true
	p.SetReadDeadline(time.Time{})
}

// maxWaits is more than a line takes that begins with wire.LoginWaits.
const maxWaits = 64

// listen looks for lines before the server's version. Package ssh ignores them.
func (p *patient) listen(b []byte) {
	for ; len(b) > 0 && !p.ssh; b = b[1:] {
		if b[0] != '\n' {
			if len(p.line) < maxWaits {
				p.line = append(p.line, b[0])
			}
			continue
		}
		p.ssh = bytes.HasPrefix(p.line, []byte("SSH-"))
		count, waits := bytes.CutPrefix(bytes.TrimSpace(p.line), []byte(wire.LoginWaits))
		if n, err := strconv.Atoi(string(count)); waits && err == nil && n >= 0 && p.waiting != nil {
			p.waiting(n)
		}
		p.line = p.line[:0]
	}
}

// why returns why a login failed.
func (p *patient) why(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errSilent
	}
	return err
}
