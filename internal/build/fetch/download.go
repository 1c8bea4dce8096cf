package fetch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"banger"
)

// attempts is how many connections a download uses. After a broken one it continues.
const attempts = 8

// download appends to part until the file is complete. After a broken connection it
// opens another one, as long as each brings something.
func (c Cache) download(ctx context.Context, f File, part *os.File) error {
	for range attempts {
		before, err := part.Seek(0, io.SeekEnd)
		if err != nil {
			return err
		}
		err = c.attempt(ctx, f, part, before)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("download %s: %w", f.URL, ctx.Err())
		}
		after, sizeErr := part.Seek(0, io.SeekEnd)
		if unreachable := (*UnreachableError)(nil); sizeErr != nil || !errors.As(err, &unreachable) || after == before {
			return errors.Join(err, sizeErr)
		}
	}
	return &UnreachableError{f.URL, fmt.Errorf("the connection broke %d times", attempts)}
}

// attempt makes one request, for the content from offset at on.
func (c Cache) attempt(ctx context.Context, f File, part *os.File, at int64) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(c.idle(), func() { cancel(fmt.Errorf("the server sent nothing for %v", c.idle())) })
	defer silent.Stop()
	fail := func(err error) error {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return &UnreachableError{f.URL, err}
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, f.URL, nil)
	if err != nil {
		return err
	}
	request.Header.Set("Accept-Encoding", "identity")
	if at > 0 {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-", at))
	}
	response, err := cmp.Or(c.Client, http.DefaultClient).Do(request)
	if err != nil {
		return fail(err)
	}
	defer response.Body.Close()
	at, whole, err := begin(response, at)
	if err != nil {
		return fail(err)
	}
	if whole {
		return nil
	}
	if err := part.Truncate(at); err != nil {
		return err
	}
	out := &sink{file: part, at: at, max: int64(f.Max), of: total(response, at), tell: c.Tell, heard: func() { silent.Reset(c.idle()) }}
	if _, err := io.Copy(out, response.Body); err != nil {
		if out.err != nil {
			return out.err
		}
		return fail(err)
	}
	return nil
}

// begin returns the offset in the file at which the answer's content begins. whole
// means that the part is complete already.
func begin(response *http.Response, asked int64) (at int64, whole bool, err error) {
	switch response.StatusCode {
	case http.StatusOK: // the server does not support ranges
		return 0, false, nil
	case http.StatusPartialContent:
		if want := fmt.Sprintf("bytes %d-", asked); !strings.HasPrefix(response.Header.Get("Content-Range"), want) {
			return 0, false, fmt.Errorf("the server sent the range %q, not the one from byte %d", response.Header.Get("Content-Range"), asked)
		}
		return asked, false, nil
	case http.StatusRequestedRangeNotSatisfiable:
		return 0, true, nil
	}
	return 0, false, fmt.Errorf("the server answered %s", response.Status)
}

// total returns the length of the whole file, or -1 if the server does not tell.
func total(response *http.Response, at int64) int64 {
	if response.ContentLength >= 0 {
		return at + response.ContentLength
	}
	_, of, _ := strings.Cut(response.Header.Get("Content-Range"), "/")
	if n, err := strconv.ParseInt(of, 10, 64); err == nil {
		return n
	}
	return -1
}

// sink writes what arrives into the file, up to a limit.
type sink struct {
	file        *os.File
	at, max, of int64
	tell        func(done, of int64)
	heard       func()
	err         error // of writing, not of the connection
}

func (s *sink) Write(p []byte) (int, error) {
	s.heard()
	if s.at+int64(len(p)) > s.max {
		s.err = fmt.Errorf("it is larger than %s", banger.Size(s.max))
		return 0, s.err
	}
	n, err := s.file.WriteAt(p, s.at)
	s.at += int64(n)
	if err != nil {
		s.err = err
	} else if s.tell != nil {
		s.tell(s.at, s.of)
	}
	return n, err
}
