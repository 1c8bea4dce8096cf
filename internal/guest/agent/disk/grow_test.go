package disk

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestAwaitSizes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	disks := map[string]string{"work": path}
	for _, c := range []struct {
		sizes map[string]int64
		want  string
	}{
		{nil, ""},
		{map[string]int64{"work": 4096}, ""},
		{map[string]int64{"work": 4097}, "has 4096 bytes, not 4097"},
		{map[string]int64{"other": 1}, `no disk labelled "other"`},
	} {
		err := awaitSizes(disks, c.sizes, 10*time.Millisecond)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: got %v", c.sizes, err)
		}
	}
}
