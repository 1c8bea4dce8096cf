package wire

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// odd is a terminal unlike a new one in every kind of mode.
func odd() unix.Termios {
	t := unix.Termios{Iflag: unix.IUTF8 | unix.IXANY, Oflag: unix.OPOST | unix.ONLCR, Lflag: unix.ISIG | unix.ECHOCTL,
		Cflag: unix.B57600 | unix.CS7 | unix.PARENB | unix.CREAD}
	t.Cc[unix.VERASE], t.Cc[unix.VINTR], t.Cc[unix.VSUSP] = 8, 3, 0
	return t
}

func TestTerminalModes(t *testing.T) {
	from := odd()
	to := unix.Termios{Iflag: unix.IXON | unix.BRKINT, Oflag: unix.OCRNL, Lflag: unix.ICANON | unix.ECHO, Cflag: unix.B38400 | unix.CS8 | unix.CREAD}
	to.Cc[unix.VSUSP], to.Cc[unix.VMIN] = 26, 1
	SetTerminalModes(&to, TerminalModes(&from))
	want := from
	want.Iflag |= unix.BRKINT // has no number
	want.Cc[unix.VMIN] = 1    // nor has this
	if to != want {
		t.Errorf("got  %+v\nwant %+v", to, want)
	}
}

// TestTerminalModesOfOthers: what OpenSSH sends arrives; what is cut off or unknown does
// no harm.
func TestTerminalModesOfOthers(t *testing.T) {
	for name, c := range map[string]struct {
		modes string
		want  func(*unix.Termios)
	}{
		"erase is ^H":            {"\x03\x00\x00\x00\x08\x00", func(t *unix.Termios) { t.Cc[unix.VERASE] = 8 }},
		"no interrupt key":       {"\x01\x00\x00\x00\xff\x00", func(t *unix.Termios) { t.Cc[unix.VINTR] = 0 }},
		"a number without a use": {"\x62\x00\x00\x00\x01\x26\x00\x00\x00\x01", func(t *unix.Termios) { t.Iflag |= unix.IXON }},
		"no value":               {"\xa0\x26\x00\x00\x00\x01", func(*unix.Termios) {}},
		"cut off":                {"\x26\x00\x00\x00", func(*unix.Termios) {}},
		"after the end":          {"\x00\x26\x00\x00\x00\x01", func(*unix.Termios) {}},
		"an impossible speed":    {"\x81\xff\xff\xff\xff\x00", func(*unix.Termios) {}},
	} {
		got, want := odd(), odd()
		SetTerminalModes(&got, c.modes)
		c.want(&want)
		if got != want {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}

func FuzzTerminalModes(f *testing.F) {
	some := odd()
	f.Add(TerminalModes(&some))
	f.Add("")
	f.Add(strings.Repeat("\x03\x00\x00\x00\x08", 1000))
	f.Fuzz(func(t *testing.T, modes string) {
		var one, two unix.Termios
		SetTerminalModes(&one, modes)
		SetTerminalModes(&two, TerminalModes(&one))
		SetTerminalModes(&two, TerminalModes(&one))
		if one.Lflag != two.Lflag || one.Iflag != two.Iflag || one.Oflag != two.Oflag || one.Cc != two.Cc {
			t.Errorf("%+v came back as %+v", one, two)
		}
	})
}
