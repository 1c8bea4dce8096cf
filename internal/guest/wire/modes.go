package wire

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// The encoded terminal modes of RFC 4254, section 8: pairs of a number and a value.
const (
	modesEnd   = 0
	modeISpeed = 128
	modeOSpeed = 129
	modesLast  = 159 // what follows this number is not known to have a value
	modeUnset  = 255 // the value of a control character that no key has
)

// characters are the places of the control characters by their numbers.
var characters = map[byte]int{
	1: unix.VINTR, 2: unix.VQUIT, 3: unix.VERASE, 4: unix.VKILL, 5: unix.VEOF, 6: unix.VEOL, 7: unix.VEOL2,
	8: unix.VSTART, 9: unix.VSTOP, 10: unix.VSUSP, 12: unix.VREPRINT, 13: unix.VWERASE, 14: unix.VLNEXT,
	16: unix.VSWTC, 18: unix.VDISCARD,
}

var inputModes = map[byte]uint32{
	30: unix.IGNPAR, 31: unix.PARMRK, 32: unix.INPCK, 33: unix.ISTRIP, 34: unix.INLCR, 35: unix.IGNCR, 36: unix.ICRNL,
	37: unix.IUCLC, 38: unix.IXON, 39: unix.IXANY, 40: unix.IXOFF, 41: unix.IMAXBEL, 42: unix.IUTF8,
}

var localModes = map[byte]uint32{
	50: unix.ISIG, 51: unix.ICANON, 52: unix.XCASE, 53: unix.ECHO, 54: unix.ECHOE, 55: unix.ECHOK, 56: unix.ECHONL,
	57: unix.NOFLSH, 58: unix.TOSTOP, 59: unix.IEXTEN, 60: unix.ECHOCTL, 61: unix.ECHOKE, 62: unix.PENDIN,
}

var outputModes = map[byte]uint32{
	70: unix.OPOST, 71: unix.OLCUC, 72: unix.ONLCR, 73: unix.OCRNL, 74: unix.ONOCR, 75: unix.ONLRET,
}

// controlModes are masks: a character size other than 7 or 8 bits has no number.
var controlModes = map[byte]uint32{90: unix.CS7, 91: unix.CS8, 92: unix.PARENB, 93: unix.PARODD}

// speeds are those that a terminal can have, by their bits.
var speeds = map[uint32]uint32{
	unix.B50: 50, unix.B110: 110, unix.B300: 300, unix.B1200: 1200, unix.B2400: 2400, unix.B4800: 4800, unix.B9600: 9600,
	unix.B19200: 19200, unix.B38400: 38400, unix.B57600: 57600, unix.B115200: 115200, unix.B230400: 230400, unix.B921600: 921600,
}

// TerminalModes returns the modes of a terminal as the pty-req of SSH has them.
func TerminalModes(t *unix.Termios) string {
	var modes []byte
	add := func(number byte, value uint32) {
		modes = binary.BigEndian.AppendUint32(append(modes, number), value)
	}
	speed := speeds[t.Cflag&unix.CBAUD]
	add(modeISpeed, speed)
	add(modeOSpeed, speed)
	for number := byte(1); number < modeISpeed; number++ {
		if at, ok := characters[number]; ok {
			value := uint32(t.Cc[at])
			if value == 0 { // the kernel's sign for no key
				value = modeUnset
			}
			add(number, value)
			continue
		}
		flags, mask := flagsOf(t, number)
		switch {
		case mask == 0:
		case *flags&mask == mask:
			add(number, 1)
		default:
			add(number, 0)
		}
	}
	return string(append(modes, modesEnd))
}

// flagsOf returns the word of flags that a number is about, and the flag in it.
func flagsOf(t *unix.Termios, number byte) (flags *uint32, mask uint32) {
	for _, of := range []struct {
		flags *uint32
		masks map[byte]uint32
	}{{&t.Iflag, inputModes}, {&t.Lflag, localModes}, {&t.Oflag, outputModes}, {&t.Cflag, controlModes}} {
		if mask, ok := of.masks[number]; ok {
			return of.flags, mask
		}
	}
	return nil, 0
}

// SetTerminalModes changes t as encoded modes ask. It passes over what it does not know.
func SetTerminalModes(t *unix.Termios, modes string) {
	for len(modes) >= 5 && modes[0] != modesEnd && modes[0] <= modesLast {
		setMode(t, modes[0], binary.BigEndian.Uint32([]byte(modes[1:5])))
		modes = modes[5:]
	}
}

func setMode(t *unix.Termios, number byte, value uint32) {
	if at, ok := characters[number]; ok {
		if value == modeUnset {
			value = 0
		}
		t.Cc[at] = byte(value)
		return
	}
	if number == modeOSpeed { // the kernel has one for both ways
		for bits, speed := range speeds {
			if speed == value {
				t.Cflag = t.Cflag&^unix.CBAUD | bits
			}
		}
		return
	}
	switch flags, mask := flagsOf(t, number); {
	case mask == 0:
	case number == 90 || number == 91: // sizes are one field, and only one is asked for
		if value != 0 {
			*flags = *flags&^unix.CSIZE | mask
		}
	case value != 0:
		*flags |= mask
	default:
		*flags &^= mask
	}
}
