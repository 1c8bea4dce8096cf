package cli

import (
	"fmt"
	"sync/atomic"
	"time"

	"banger"
)

// meter counts the bytes of a copy.
type meter struct {
	begun time.Time
	moved atomic.Int64
	total atomic.Int64 // 0: not known
}

func newMeter() *meter { return &meter{begun: time.Now()} }

func (m *meter) add(bytes int) { m.moved.Add(int64(bytes)) }

func (m *meter) expect(bytes int64) { m.total.Store(bytes) }

// shortCopy is how long a copy is not worth a word.
const shortCopy = time.Second

func (m *meter) long() bool { return time.Since(m.begun) >= shortCopy }

// line says how far the copy is. It is empty at first.
func (m *meter) line() string {
	if !m.long() {
		return ""
	}
	of := ""
	if total := m.total.Load(); total >= m.moved.Load() && total > 0 {
		of = " of " + megabytes(total)
	}
	return fmt.Sprintf("copied %s%s, %s/s", megabytes(m.moved.Load()), of, m.rate())
}

func (m *meter) summary() string {
	return fmt.Sprintf("copied %s in %s, %s/s", megabytes(m.moved.Load()), seconds(time.Since(m.begun)), m.rate())
}

func (m *meter) rate() string {
	return megabytes(int64(float64(m.moved.Load()) / time.Since(m.begun).Seconds()))
}

func megabytes(bytes int64) string {
	return fmt.Sprintf("%.1fM", float64(bytes)/float64(banger.MiB))
}
