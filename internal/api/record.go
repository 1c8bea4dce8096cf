package api

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
)

// Record is what a daemon writes into its lock file: its process and where it
// listens. It is stale once the lock is free.
type Record struct {
	PID    int    `json:"pid"`
	Socket string `json:"socket"` // empty: the daemon is stopping
}

// ReadRecord reads the record in the lock file at path.
func ReadRecord(path string) (Record, error) {
	file, err := os.Open(path)
	if err != nil {
		return Record{}, err
	}
	defer file.Close()
	var r Record
	if err := json.NewDecoder(io.LimitReader(file, 64<<10)).Decode(&r); err != nil {
		return Record{}, fmt.Errorf("read %s: %w", path, err)
	}
	return r, nil
}
