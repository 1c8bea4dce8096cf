package control

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"banger/internal/guest/wire"
)

// FuzzControl is a host that sends anything: its requests are not handled before its
// hello, and the connection ends.
func FuzzControl(f *testing.F) {
	hello := `{"hello":{"version":1}}` + "\n"
	f.Add([]byte(hello + `{"request":{"id":1,"method":"info"}}` + "\n" + `{"request":{"id":2,"method":"stop","params":{"verb":"halt","grace_ms":1}}}` + "\n"))
	f.Add([]byte(`{"request":{"id":1,"method":"ping"}}` + "\n"))
	f.Add([]byte(hello + hello + "{}\nnull\n" + `{"request":{"id":18446744073709551615}}` + "\n"))
	f.Add([]byte(hello + `{"request":{"id":1,"method":"clock","params":"now"}}` + "\n{"))
	f.Add([]byte(hello + strings.Repeat(`{"request":{"method":"ping"}}`+"\n", 40)))
	f.Add(append([]byte(hello), bytes.Repeat([]byte("x"), wire.MaxLine+1)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		var asked atomic.Int64
		c := New(
			func() wire.Hello { return wire.Hello{Version: wire.Version} },
			func(_ context.Context, r wire.Request) (any, error) {
				asked.Add(1)
				switch r.Method { // as the server reads them
				case wire.MethodStop:
					return Params[wire.StopParams](r)
				case wire.MethodClock:
					return Params[wire.ClockParams](r)
				}
				return nil, errors.New("unknown method")
			})
		host, guest := net.Pipe()
		host.SetDeadline(time.Now().Add(10 * time.Second))
		served, heard := make(chan struct{}), make(chan struct{})
		go func() { defer close(served); c.Serve(guest, nil) }()
		go func() { defer close(heard); io.Copy(io.Discard, host) }()
		host.Write(b)
		host.Close()
		select {
		case <-served:
		case <-time.After(10 * time.Second):
			t.Fatal("the connection does not end")
		}
		<-heard
		first, err := wire.ReadMessage(bufio.NewReaderSize(bytes.NewReader(b), wire.MaxLine))
		if n := asked.Load(); n > 0 && (err != nil || first.Hello == nil || n > int64(bytes.Count(b, []byte("\n")))) {
			t.Errorf("%d requests were taken from %q", n, b)
		}
	})
}
