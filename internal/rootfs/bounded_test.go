package rootfs

import (
	"io"
	"strings"
	"testing"

	"banger"
)

// TestStreamsAreBounded: what archives unpack to is bounded in all, also behind their ends.
func TestStreamsAreBounded(t *testing.T) {
	left := int64(10)
	for n, want := range []bool{true, true, false} {
		read, err := io.Copy(io.Discard, &bounded{r: strings.NewReader("12345"), left: &left})
		if (err == nil) != want || !want && banger.KindOf(err) != banger.Invalid {
			t.Errorf("%d: read %d, %v", n, read, err)
		}
	}
}
