package firecracker

import (
	"io"
	"testing"
	"time"

	"banger/internal/vmm/process"
)

// A guest that does nothing but knock does not keep the host busy.
func TestKnocksAreHeardOneByOne(t *testing.T) {
	dir, err := process.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	k, err := listenForKnocks(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer k.close()
	began := time.Now()
	const knocks = 4
	for range knocks {
		conn, err := dir.Dial(t.Context(), knockSocket)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, conn) // until it is heard
		conn.Close()
	}
	if took := time.Since(began); took < (knocks-1)*knockPause {
		t.Errorf("%d knocks were heard in %v", knocks, took)
	}
	if heard, _ := k.state(); !heard {
		t.Error("none was heard")
	}
}
