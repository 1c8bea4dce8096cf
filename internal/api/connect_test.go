package api

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"testing"

	"banger"
	"banger/internal/config"
)

// TestConnectTellsThatItWaits: for a daemon that accepts and does not answer.
func TestConnectTellsThatItWaits(t *testing.T) {
	home := t.TempDir()
	dirs, err := config.DirsFrom(func(key string) string {
		return map[string]string{"HOME": home, "XDG_RUNTIME_DIR": home}[key]
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(dirs.DaemonLock()), 0o700); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(home, "s")
	record, _ := json.Marshal(Record{PID: 7, Socket: socket})
	if err := os.WriteFile(dirs.DaemonLock(), record, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	told := 0
	c, err := Connect(ctx, dirs, ConnectOptions{NoStart: true, patience: 1, Waiting: func(pid int) {
		told = pid
		cancel()
	}})
	if c != nil || banger.KindOf(err) != banger.Canceled || told != 7 {
		t.Errorf("told of %d: %v, %v", told, c, err)
	}
}
