package qemu

import (
	"math"
	"time"
)

// An emulated guest reads the host's own time stamp counter and tells the time
// by it. It cannot measure its rate, and /proc/cpuinfo tells that of the moment.

const (
	// measureTime is enough for the rate to be right to some parts in a million.
	measureTime = 20 * time.Millisecond
	// defaultKHz is used if the measured rate is implausible.
	defaultKHz = 2_000_000
)

// measureKHz measures the rate of this host's time stamp counter.
func measureKHz() int {
	first := readTick()
	<-time.After(measureTime)
	last := readTick()
	khz := math.Round(float64(last.count-first.count) / last.at.Sub(first.at).Seconds() / 1000)
	if khz < 100_000 || khz > 20_000_000 {
		return defaultKHz
	}
	return int(khz)
}

type tick struct {
	count uint64
	at    time.Time
}

// readTick reads counter and clock at one moment: of several tries the one that
// was interrupted least.
func readTick() tick {
	var best tick
	least := uint64(math.MaxUint64)
	for range 16 {
		before := rdtsc()
		now := time.Now()
		if took := rdtsc() - before; took < least {
			least, best = took, tick{before + took/2, now}
		}
	}
	return best
}
