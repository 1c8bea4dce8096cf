package link

import "sync"

// feed hands payloads from the goroutine that reads the port to the session's. Other than
// io.Pipe, it changes between the two once for each payload, not for each of the small
// reads that take it.
type feed struct {
	mu      sync.Mutex
	changed sync.Cond
	rest    []byte // of the payload
	err     error  // nothing more is handed over
}

func newFeed() *feed {
	f := &feed{}
	f.changed.L = &f.mu
	return f
}

// put waits until the payload has been read. It reports false if it will not be.
func (f *feed) put(payload []byte) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rest = payload
	f.changed.Broadcast()
	for f.err == nil && len(f.rest) > 0 {
		f.changed.Wait()
	}
	f.rest = nil // the payload is the caller's again
	return f.err == nil
}

// Read implements io.Reader.
func (f *feed) Read(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.err == nil && len(f.rest) == 0 {
		f.changed.Wait()
	}
	if f.err != nil {
		return 0, f.err
	}
	n := copy(b, f.rest)
	if f.rest = f.rest[n:]; len(f.rest) == 0 {
		f.changed.Broadcast()
	}
	return n, nil
}

func (f *feed) close(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
	f.changed.Broadcast()
}
