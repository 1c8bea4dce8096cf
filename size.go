package banger

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Size is a number of bytes.
type Size int64

// Binary units. banger knows no decimal ones: 1G is GiB everywhere.
const (
	KiB Size = 1 << (10 * (iota + 1))
	MiB
	GiB
	TiB
)

var units = []struct {
	suffix string
	size   Size
}{{"T", TiB}, {"G", GiB}, {"M", MiB}, {"K", KiB}}

// ParseSize reads "16G", "16GiB", "512m" or a bare number, which counts in bare.
// A fraction that is not a whole number of bytes, such as "1.4G", is rounded: to
// MiB when it counts in T or G, to KiB when it counts in M. Negative, zero and
// overflowing sizes are Invalid errors.
func ParseSize(s string, bare Size) (Size, error) {
	fail := func() (Size, error) {
		return 0, Invalidf("write a size such as 512M, 16G or 1.5T", "%q is not a size", s)
	}
	text := strings.ToUpper(strings.TrimSpace(s))
	unit := bare
	for _, u := range units {
		for _, suffix := range []string{u.suffix + "IB", u.suffix + "B", u.suffix} {
			if rest, ok := strings.CutSuffix(text, suffix); ok {
				text, unit = strings.TrimSpace(rest), u.size
				return scaled(text, unit, fail)
			}
		}
	}
	return scaled(text, unit, fail)
}

func scaled(text string, unit Size, fail func() (Size, error)) (Size, error) {
	if text == "" || strings.Trim(text, "0123456789.") != "" {
		return fail()
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		if n <= 0 || n > math.MaxInt64/int64(unit) {
			return fail()
		}
		return Size(n) * unit, nil
	}
	f, err := strconv.ParseFloat(text, 64)
	bytes := f * float64(unit)
	if bytes != math.Trunc(bytes) {
		step := float64(max(min(unit/KiB, MiB), 1))
		bytes = math.Round(bytes/step) * step
	}
	if err != nil || bytes <= 0 || bytes >= 1<<62 {
		return fail()
	}
	return Size(bytes), nil
}

// String prints the size in its largest whole unit, or with one decimal.
func (s Size) String() string {
	for _, u := range units {
		if s >= u.size {
			if s%u.size == 0 {
				return fmt.Sprintf("%d%s", s/u.size, u.suffix)
			}
			return fmt.Sprintf("%.1f%s", float64(s)/float64(u.size), u.suffix)
		}
	}
	return fmt.Sprintf("%dB", int64(s))
}
