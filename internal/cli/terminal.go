package cli

import (
	"io"
	"unicode"
	"unicode/utf8"
)

// terminalWriter writes a guest's text to a terminal without control sequences other
// than line ends, tabs and colours.
type terminalWriter struct {
	to       io.Writer
	part     []byte // of a rune that is not complete yet
	out      []byte
	state    escape
	colour   []byte // the sequence read so far, if it may be a colour
	returned bool   // after \r: what follows decides what it means
	coloured bool   // colours were written
	plain    bool   // it is no terminal: write no colours either
}

// escape is the position in an escape sequence.
type escape int

const (
	noEscape    escape = iota
	afterEscape        // ESC
	inNonCSI           // ESC and intermediate bytes
	inCSI              // ESC [
	inText             // ESC ] and the like: until BEL, ESC \ or the line's end
)

// maxColour is the maximum length of a sequence that sets colours.
const maxColour = 64

func (t *terminalWriter) Write(p []byte) (int, error) {
	t.out = t.out[:0]
	data := append(t.part, p...)
	for utf8.FullRune(data) {
		r, size := utf8.DecodeRune(data)
		t.take(r)
		data = data[size:]
	}
	t.part = append([]byte(nil), data...)
	if _, err := t.to.Write(t.out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close resets the colours of the terminal. It does not close the terminal.
func (t *terminalWriter) Close() error {
	if !t.coloured {
		return nil
	}
	_, err := io.WriteString(t.to, "\x1b[0m")
	return err
}

// take reads one rune. A rune that cannot continue a sequence ends it, so that an
// unfinished sequence hides nothing of the text after it.
func (t *terminalWriter) take(r rune) {
	switch {
	case r == 0x1b:
		t.state = afterEscape
	case t.state == noEscape:
		t.text(r)
	case t.state == afterEscape:
		t.begin(r)
	case t.state == inText && r == '\a':
		t.state = noEscape
	case t.state == inText && r != '\n':
	case t.state == inCSI && r >= 0x20 && r < 0x40:
		if len(t.colour) < maxColour {
			t.colour = append(t.colour, byte(r))
		}
	case t.state == inCSI && r >= 0x40 && r < 0x7f:
		t.state = noEscape
		t.control(byte(r))
	case t.state == inNonCSI && r >= 0x20 && r < 0x30:
	case t.state == inNonCSI && r >= 0x30 && r < 0x7f:
		t.state = noEscape
	default:
		t.state = noEscape
		t.text(r)
	}
}

// begin reads the rune after ESC.
func (t *terminalWriter) begin(r rune) {
	switch {
	case r == '[':
		t.state, t.colour = inCSI, append(t.colour[:0], "\x1b["...)
	case r == ']', r == 'P', r == 'X', r == '^', r == '_':
		t.state = inText
	case r >= 0x20 && r < 0x30:
		t.state = inNonCSI
	case r >= 0x30 && r < 0x7f:
		t.state = noEscape
	default:
		t.state = noEscape
		t.text(r)
	}
}

// control ends a control sequence, and writes it if it sets a colour.
func (t *terminalWriter) control(final byte) {
	if final != 'm' || t.plain || len(t.colour) == maxColour {
		return
	}
	for _, c := range t.colour[2:] {
		if (c < '0' || c > '9') && c != ';' && c != ':' {
			return // private: such sequences change how keys are reported, for example
		}
	}
	t.out = append(append(t.out, t.colour...), final)
	t.coloured = true
}

// text writes a rune that is not in a sequence. Text after \r gets its own line
// instead of overwriting the text before.
func (t *terminalWriter) text(r rune) {
	if r == '\r' {
		t.returned = true
		return
	}
	if unicode.IsControl(r) && r != '\n' && r != '\t' {
		return
	}
	if t.returned && r != '\n' {
		t.out = append(t.out, '\n')
	}
	t.returned = false
	t.out = utf8.AppendRune(t.out, r)
}
