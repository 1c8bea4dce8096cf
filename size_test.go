package banger_test

import (
	"math"
	"strconv"
	"strings"
	"testing"

	"banger"
)

func TestParseSize(t *testing.T) {
	for _, c := range []struct {
		text string
		bare banger.Size
		want banger.Size
	}{
		{"16G", banger.MiB, 16 * banger.GiB},
		{"16GiB", banger.MiB, 16 * banger.GiB},
		{"16gb", banger.MiB, 16 * banger.GiB},
		{" 512 m ", banger.GiB, 512 * banger.MiB},
		{"2048", banger.MiB, 2 * banger.GiB},
		{"1.5T", banger.MiB, 1536 * banger.GiB},
		{"1.5", banger.GiB, 1536 * banger.MiB},
		{"1.4G", banger.MiB, 1434 * banger.MiB},
		{"1.4", banger.GiB, 1434 * banger.MiB},
		{"1.4T", banger.MiB, 1468006 * banger.MiB},
		{"1.4M", banger.GiB, 1434 * banger.KiB},
		{"0.3K", banger.GiB, 307},
		{"1", 1, 1},
		{"9223372036854775807", 1, math.MaxInt64},
		{"8388607T", 1, 8388607 * banger.TiB},
	} {
		if got, err := banger.ParseSize(c.text, c.bare); err != nil || got != c.want {
			t.Errorf("%q: %d, %v; want %d", c.text, got, err, c.want)
		}
	}
	for _, text := range []string{
		"", " ", "G", "0", "0G", "-1G", "+1G", "1e3", "0x10", "1_000", "1,5G", "1.5.5G", ".", "1 2G", "1GG", "1P", "16 Go", "512B",
		"NaN", "Inf", "0.0001K", "0.0001G", "8388608T", "9223372036854775808", "99999999999999999999999G", "1.0e400T",
	} {
		got, err := banger.ParseSize(text, banger.MiB)
		if banger.KindOf(err) != banger.Invalid || banger.FixOf(err) == "" || got != 0 {
			t.Errorf("%q: %d, %v; want an Invalid error with a fix", text, got, err)
		}
	}
}

func TestSizeString(t *testing.T) {
	for size, want := range map[banger.Size]string{
		0: "0B", 1023: "1023B", banger.KiB: "1K", 1536: "1.5K", banger.MiB - 1: "1024.0K",
		16 * banger.GiB: "16G", 1536 * banger.GiB: "1.5T", math.MaxInt64: "8388608.0T",
	} {
		if got := size.String(); got != want {
			t.Errorf("%d: %q, want %q", int64(size), got, want)
		}
	}
}

func FuzzParseSize(f *testing.F) {
	for _, text := range []string{"16G", "1.5T", "512 MiB", "0", "-1K", "9223372036854775807", "8388608T", "0.0009765625K", "4611686018427387904.5", "1e9"} {
		f.Add(text, uint8(1))
		f.Add(text, uint8(0))
	}
	bares := []banger.Size{1, banger.KiB, banger.MiB, banger.GiB, banger.TiB}
	f.Fuzz(func(t *testing.T, text string, unit uint8) {
		bare := bares[int(unit)%len(bares)]
		size, err := banger.ParseSize(text, bare)
		if err != nil {
			if size != 0 || banger.KindOf(err) != banger.Invalid || banger.FixOf(err) == "" {
				t.Fatalf("%q: %d, %v", text, size, err)
			}
			return
		}
		if size <= 0 {
			t.Fatalf("%q gives %d", text, size)
		}
		same := func(text string, bare banger.Size) {
			if again, err := banger.ParseSize(text, bare); err != nil || again != size {
				t.Errorf("%q: %d, %v; want %d", text, again, err, size)
			}
		}
		same(strconv.FormatInt(int64(size), 10), 1)
		same(strings.ToLower(text), bare)
		if size >= banger.KiB && !strings.Contains(size.String(), ".") {
			same(size.String(), bare)
		}
	})
}
