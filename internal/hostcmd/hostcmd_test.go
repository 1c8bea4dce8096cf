package hostcmd

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"banger"
)

func TestRunReturnsOutputAndShowsFailures(t *testing.T) {
	ctx := context.Background()
	out, err := Host{}.Run(ctx, Cmd{Argv: []string{"sh", "-c", "cat; echo later"}, Stdin: strings.NewReader("first\n")})
	if err != nil || string(out) != "first\nlater\n" {
		t.Fatalf("got %q, %v", out, err)
	}
	_, err = Host{}.Run(ctx, Cmd{Argv: []string{"sh", "-c", "echo no space >&2; exit 3"}})
	var failed *Error
	if !errors.As(err, &failed) || failed.Status != 3 {
		t.Fatalf("got %#v", err)
	}
	if got, want := err.Error(), "run sh -c 'echo no space >&2; exit 3': exit status 3: no space"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCancelEndsTheWholeGroup(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := Host{}.Run(ctx, Cmd{Argv: []string{"sh", "-c", "sleep 60 & wait"}})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("the child of the shell kept it for %v", took)
	}
}

func TestLookNamesWhatIsMissing(t *testing.T) {
	_, err := Host{}.Look("no-such-tool")
	if banger.KindOf(err) != banger.Unready || !strings.Contains(err.Error(), "no-such-tool") {
		t.Errorf("got %v", err)
	}
}
